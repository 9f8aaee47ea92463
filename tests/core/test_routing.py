from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tollbridge.core.routing import allowed, order, prefer, split_suffix
from tollbridge.values import Preferences, Price, Route, Upstream

PRICE = Price(input=1, output=1, cache_read=1, cache_write=1, cache_write_1h=1)


def route(name: str, *, tier: int = 0, weight: int = 1, provider: str = "") -> Route:
    upstream = Upstream(
        name=name, provider=provider or name, dialect="openai_chat", base_url="", auth="none", credential=""
    )
    return Route(model="m", upstream=upstream, upstream_model="m", price=PRICE, cost=PRICE, order=tier, weight=weight)


def names(routes: list[Route]) -> str:
    return "".join(each.upstream.name for each in routes)


def test_routes_are_tried_in_their_order() -> None:
    routes = [route("c", tier=2), route("a", tier=0), route("b", tier=1)]
    assert names(order(routes, lambda _: 0, 0.99)) == "abc"


def test_routes_that_cannot_be_called_are_left_out() -> None:
    routes = [route("a"), route("b", tier=1)]
    assert names(order(routes, lambda each: None if each.upstream.name == "a" else 0, 0.0)) == "b"


def test_shaky_routes_come_after_all_others() -> None:
    routes = [route("a"), route("b", tier=1), route("c", tier=2)]
    assert names(order(routes, lambda each: int(each.upstream.name == "a"), 0.0)) == "bca"


def test_equals_share_the_traffic_by_weight() -> None:
    routes = [route("a", weight=3), route("b", weight=1), route("c", weight=0)]
    first = Counter(names(order(routes, lambda _: 0, step / 1000))[0] for step in range(1000))
    assert first == {"a": 750, "b": 250}


def test_equals_share_each_place_whoever_came_before() -> None:
    routes = [route(name) for name in "abc"]
    orders = Counter(names(order(routes, lambda _: 0, (step + 0.5) / 600)) for step in range(600))
    assert len(orders) == 6
    assert set(orders.values()) == {100}


@given(st.lists(st.integers(0, 9), max_size=6), st.floats(0, 1, exclude_max=True))
def test_every_usable_route_stands_in_the_order_once(weights: list[int], chance: float) -> None:
    routes = [msgspec.structs.replace(route(str(i)), weight=weight) for i, weight in enumerate(weights)]
    assert sorted(names(order(routes, lambda _: 0, chance))) == sorted(names(routes))


def test_a_lone_route_is_taken_or_left() -> None:
    assert names(order([route("a")], lambda _: 1, 0.0)) == "a"
    assert order([route("a")], lambda _: None, 0.0) == []


def test_only_what_the_caller_allows_is_left() -> None:
    routes = [route("a", provider="Big"), route("b"), route("c")]
    assert names(allowed(routes, Preferences(only=frozenset({"big", "c"})))) == "ac"
    assert names(allowed(routes, Preferences(ignore=frozenset({"big", "c"})))) == "b"
    assert names(allowed(routes, Preferences(only=frozenset({"a", "b"}), ignore=frozenset({"b"})))) == "a"
    assert allowed(routes, Preferences(only=frozenset({"nobody"}))) == []
    assert allowed(routes, Preferences(only=frozenset())) == []


def test_a_price_is_compared_with_the_markup_in_it() -> None:
    cheap = msgspec.structs.replace(route("a"), price=msgspec.structs.replace(PRICE, input=100, output=200))
    sold = msgspec.structs.replace(cheap, multiplier_ppm=1_200_000)
    assert allowed([cheap, sold], Preferences(max_prompt=100)) == [cheap]
    assert allowed([cheap, sold], Preferences(max_prompt=120, max_completion=240)) == [cheap, sold]
    assert allowed([cheap, sold], Preferences(max_completion=199)) == []


def test_named_providers_come_first_in_the_callers_order() -> None:
    routes = [route("a"), route("b"), route("c"), route("d", provider="a")]
    assert names(prefer(routes, Preferences(order=("c", "a")), None)) == "cadb"
    assert names(prefer(routes, Preferences(order=("nobody",)), None)) == "abcd"


def test_without_fallbacks_only_the_named_are_allowed() -> None:
    routes = [route("a"), route("b"), route("c"), route("d", provider="a")]
    wishes = Preferences(order=("c", "a"), allow_fallbacks=False)
    assert names(prefer(allowed(routes, wishes), wishes, None)) == "cad"
    assert allowed(routes, Preferences(order=("nobody",), allow_fallbacks=False)) == []
    assert names(allowed(routes, Preferences(order=("nobody",)))) == "abcd"


def test_without_fallbacks_the_first_stands_alone() -> None:
    assert names(prefer([route("a"), route("b")], Preferences(allow_fallbacks=False), None)) == "a"


def test_the_rest_is_sorted_and_equals_keep_their_order() -> None:
    routes = [route("a"), route("b"), route("c"), route("d")]
    measures = {"a": 2.0, "b": 1.0, "c": 2.0, "d": 0.5}
    by = lambda each: measures[each.upstream.name]  # noqa: E731
    assert names(prefer(routes, Preferences(), by)) == "dbac"
    assert names(prefer(routes, Preferences(order=("c",)), by)) == "cdba"


def test_a_suffix_is_a_way_to_sort() -> None:
    assert split_suffix("deepseek-chat:floor") == ("deepseek-chat", "price")
    assert split_suffix("a/b:c:nitro") == ("a/b:c", "throughput")
    for plain in ("deepseek-chat", "llama3:8b", ":floor", "m:Floor", "m:"):
        assert split_suffix(plain) == (plain, None)


@given(
    st.lists(st.sampled_from("abcd"), max_size=6),
    st.none() | st.lists(st.sampled_from("abcde"), max_size=3, unique=True),
    st.booleans(),
)
def test_preferences_make_no_routes(given: list[str], wanted: list[str] | None, fallbacks: bool) -> None:
    routes = [route(name) for name in given]
    wishes = Preferences(order=None if wanted is None else tuple(wanted), allow_fallbacks=fallbacks)
    left = prefer(routes, wishes, None)
    assert len(left) <= len(routes)
    assert all(any(each is one for one in routes) for each in left)
    if fallbacks:
        assert Counter(names(left)) == Counter(names(routes))
