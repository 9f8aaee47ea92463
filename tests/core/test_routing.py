from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tollbridge.core.routing import order
from tollbridge.values import Price, Route, Upstream

PRICE = Price(input=1, output=1, cache_read=1, cache_write=1, cache_write_1h=1)


def route(name: str, *, tier: int = 0, weight: int = 1) -> Route:
    upstream = Upstream(name=name, provider=name, dialect="openai_chat", base_url="", auth="none", credential="")
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


@given(st.lists(st.integers(0, 9), max_size=6), st.floats(0, 1, exclude_max=True))
def test_every_usable_route_stands_in_the_order_once(weights: list[int], chance: float) -> None:
    routes = [msgspec.structs.replace(route(str(i)), weight=weight) for i, weight in enumerate(weights)]
    assert sorted(names(order(routes, lambda _: 0, chance))) == sorted(names(routes))
