"""The table "What is charged", a test a row; and the two numbers of a hold."""

import math
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollbridge.core import pricing
from tollbridge.core.pricing import Cause, Demand, Ending, bill
from tollbridge.values import DAY_MS, Outcome, Price, Route, Tier, Upstream, Usage, Variant, When

HERE = Upstream(
    name="here", provider="here", dialect="openai_chat", base_url="http://h/v1", auth="bearer", credential=""
)
PRICE = Price(input=500_000, output=1_500_000, cache_read=50_000, cache_write=500_000, cache_write_1h=500_000)
DEARER = Price(input=1_000_000, output=2_250_000, cache_read=100_000, cache_write=1_000_000, cache_write_1h=1_000_000)
LONG = msgspec.structs.replace(PRICE, tiers=(Tier(above=200_000, price=DEARER),))
ROUTE = Route(model="m", upstream=HERE, upstream_model="m", price=PRICE, cost=PRICE, output_limit=4096)

REPORTED = Usage(input=100, output=50, raw=b"{}")
COUNTED = Usage(input=90, output=40, estimated=True)


def ending(cause: Cause, **changes: object) -> Ending:
    base = Ending(cause=cause, reported=REPORTED, counted=COUNTED, produced=True, finish="stop")
    return msgspec.structs.replace(base, **changes)


def test_finished_with_usage_is_charged_what_was_reported() -> None:
    result = bill(ending(Cause.FINISHED), charge_partial=False)
    assert (result.usage, result.charged, result.outcome) == (REPORTED, True, Outcome.COMPLETED)


def test_finished_without_usage_is_charged_the_local_count_and_marked() -> None:
    result = bill(ending(Cause.FINISHED, reported=None), charge_partial=False)
    assert result.usage == COUNTED
    assert result.usage.estimated
    assert result.charged


def test_usage_that_is_explicitly_zero_charges_nothing() -> None:
    result = bill(ending(Cause.FINISHED, reported=Usage(raw=b"{}")), charge_partial=False)
    assert pricing.charge(result.usage, ROUTE) == 0


def test_client_who_left_pays_what_the_provider_reports() -> None:
    result = bill(ending(Cause.CLIENT_LEFT), charge_partial=False)
    assert (result.usage, result.charged, result.outcome) == (REPORTED, True, Outcome.CLIENT_LEFT)


def test_client_who_left_without_usage_pays_what_was_produced() -> None:
    result = bill(ending(Cause.CLIENT_LEFT, reported=None), charge_partial=False)
    assert result.charged
    assert result.usage == COUNTED


def test_client_who_left_before_the_first_token_pays_the_prompt() -> None:
    prompt = Usage(input=90, estimated=True)
    left = ending(Cause.CLIENT_LEFT, reported=None, counted=prompt, produced=False, silent_ms=29_000)
    result = bill(left, charge_partial=False)
    assert result.charged
    assert result.usage == prompt


def test_client_who_left_a_silent_provider_pays_nothing() -> None:
    left = ending(Cause.CLIENT_LEFT, reported=None, produced=False, silent_ms=30_001)
    assert not bill(left, charge_partial=False).charged


def test_client_who_left_in_the_middle_pays_however_silent_the_provider_was() -> None:
    left = ending(Cause.CLIENT_LEFT, reported=None, produced=True, silent_ms=50_000)
    assert bill(left, charge_partial=False).charged


@pytest.mark.parametrize("partial", [False, True])
def test_answer_that_the_provider_broke_off_is_charged_as_the_operator_says(partial: bool) -> None:
    result = bill(ending(Cause.UPSTREAM_FAILED, reported=None), charge_partial=partial)
    assert result.charged is partial
    assert result.free_loss is not partial
    assert result.outcome is Outcome.UPSTREAM_DIED


@pytest.mark.parametrize("partial", [False, True])
def test_failure_before_any_output_is_free(partial: bool) -> None:
    result = bill(ending(Cause.UPSTREAM_FAILED, reported=None, produced=False), charge_partial=partial)
    assert (result.charged, result.outcome) == (False, Outcome.NO_OUTPUT)


@pytest.mark.parametrize("finish", [None, "error"])
def test_no_output_and_no_proper_finish_is_free_even_when_usage_is_reported(finish: str | None) -> None:
    assert not bill(ending(Cause.FINISHED, produced=False, finish=finish), charge_partial=False).charged


def test_empty_answer_that_ended_properly_is_charged_as_reported() -> None:
    assert bill(ending(Cause.FINISHED, produced=False, finish="stop"), charge_partial=False).charged


def test_our_own_fault_is_free_unless_output_was_delivered() -> None:
    assert not bill(ending(Cause.OUR_FAULT, produced=False, delivered=False), charge_partial=True).charged
    assert bill(ending(Cause.OUR_FAULT, reported=None), charge_partial=False).charged


@pytest.mark.parametrize("produced", [False, True])
@pytest.mark.parametrize("delivered", [False, True])
def test_our_own_fault_is_charged_for_output_that_arrived_only(produced: bool, delivered: bool) -> None:
    result = bill(ending(Cause.OUR_FAULT, produced=produced, delivered=delivered), True)
    assert (result.charged, result.outcome) == (produced and delivered, Outcome.OUR_FAULT)


@pytest.mark.parametrize("cause", [Cause.FINISHED, Cause.MONEY_RAN_OUT, Cause.CUT])
def test_no_output_and_nothing_reported_is_free(cause: Cause) -> None:
    result = bill(ending(cause, produced=False, reported=None), True)
    assert (result.charged, result.outcome, result.usage) == (False, Outcome.NO_OUTPUT, COUNTED)


@pytest.mark.parametrize("cause", [Cause.MONEY_RAN_OUT, Cause.CUT])
def test_answer_that_we_ended_is_charged_what_was_produced(cause: Cause) -> None:
    result = bill(ending(cause, reported=None), charge_partial=False)
    assert result.charged
    assert result.usage == COUNTED


def test_bound_of_an_explicit_limit_covers_all_choices() -> None:
    bound = pricing.bound(Demand(prompt=100, output_limit=1000, choices=3), ROUTE, default_hold=16_384, strict=False)
    assert bound.want == (130 * 500_000 + 3000 * 1_500_000) // 1000
    assert bound.least == (130 * 500_000 + 768 * 1_500_000) // 1000


def test_bound_without_a_limit_holds_the_default_and_strictly_the_whole() -> None:
    demand = Demand(prompt=0, output_limit=None)
    route = msgspec.structs.replace(ROUTE, output_limit=100_000)
    loose = pricing.bound(demand, route, default_hold=16_384, strict=False)
    strict = pricing.bound(demand, route, default_hold=16_384, strict=True)
    assert loose.want == 16_384 * 1_500
    assert strict.want == 100_000 * 1_500


def test_bound_of_an_embedding_is_its_prompt() -> None:
    bound = pricing.bound(
        Demand(prompt=1000, output_limit=None, produces=False), ROUTE, default_hold=16_384, strict=False
    )
    assert bound.want == bound.least == 1300 * 500


@given(
    amount=st.integers(0, 10**12),
    prompt=st.integers(0, 10**6),
    choices=st.integers(1, 8),
    multiplier=st.integers(1, 3_000_000),
    price=st.sampled_from([PRICE, LONG]),
)
def test_affordable_output_never_costs_more_than_the_amount(
    amount: int, prompt: int, choices: int, multiplier: int, price: Price
) -> None:
    route = msgspec.structs.replace(ROUTE, price=price, multiplier_ppm=multiplier)
    demand = Demand(prompt=prompt, output_limit=None, choices=choices)
    bound = pricing.bound(demand, route, default_hold=4096, strict=False)
    output = pricing.affordable_output(route, amount, bound, choices)
    if output:
        assert pricing.charge(Usage(input=bound.prompt, output=output * choices), route) <= amount
    longest = Usage(input=bound.prompt, output=(output + 1) * choices)
    assert pricing.charge(longest, route) >= amount


def test_output_that_costs_nothing_is_afforded_in_any_length() -> None:
    route = msgspec.structs.replace(ROUTE, price=msgspec.structs.replace(PRICE, output=0))
    bound = pricing.bound(Demand(prompt=100, output_limit=None), route, default_hold=4096, strict=False)
    assert pricing.affordable_output(route, 0, bound, 1) >= route.output_limit


counts = st.integers(0, 400_000)
rates = st.integers(0, 10**8)
maybe = st.none() | rates
METERS = ("cache_read", "cache_write", "cache_write_1h", "audio_input")
priced = st.builds(
    Price,
    **dict.fromkeys(("input", "output", *METERS[:3]), rates),
    **dict.fromkeys(("audio_input", "audio_output", "image_output"), maybe),
)


@given(price=priced, dearer=priced, above=st.integers(1, 400_000), parts=st.tuples(*[counts] * 5), written=counts)
def test_no_request_within_its_demand_costs_more_than_its_bound(
    price: Price, dearer: Price, above: int, parts: tuple[int, ...], written: int
) -> None:
    tiered = msgspec.structs.replace(price, tiers=(Tier(above=above, price=dearer),))
    route = msgspec.structs.replace(ROUTE, price=tiered, output_limit=written)
    read = msgspec.convert(dict(zip(("input", *METERS), parts, strict=True)), Usage)
    third = written // 3
    usage = msgspec.structs.replace(read, output=written - 2 * third, audio_output=third, image_output=third)
    demand = Demand(prompt=usage.prompt, output_limit=written)
    bound = pricing.bound(demand, route, default_hold=0, strict=True)
    assert pricing.charge(usage, route) <= bound.want
    written_alone = pricing.charge(usage, route) - pricing.charge(read, route)
    assert written_alone <= pricing.further_output(route, usage.prompt, written)


@given(
    price=priced,
    cost=st.none() | priced,
    multiplier=st.sampled_from([1_000_000, 999_999, 1_200_000]),
    read=st.tuples(counts, counts, counts, counts),
    written=st.tuples(counts, counts, counts, counts),
)
def test_charge_and_cost_at_once_are_what_each_is_alone(
    price: Price, cost: Price | None, multiplier: int, read: tuple[int, ...], written: tuple[int, ...]
) -> None:
    route = msgspec.structs.replace(ROUTE, price=price, cost=cost or price, multiplier_ppm=multiplier)
    reads = dict(zip(("input", "cache_read", "cache_write_1h", "audio_input"), read, strict=True))
    only_read = msgspec.structs.replace(Usage(), **reads)
    wrote = dict(zip(("output", "audio_output", "image_output", "searches"), written, strict=True))
    usage = msgspec.structs.replace(only_read, **wrote)
    charge, costs, read_cost = pricing.charge_and_cost(usage, route)
    assert (charge, costs) == (pricing.charge(usage, route), pricing.cost(usage, route))
    assert read_cost == pricing.cost(only_read, route) <= costs


@given(
    price=priced,
    dearer=priced,
    multiplier=st.integers(1, 3_000_000),
    prompt=st.integers(0, 300_000),
    limits=st.tuples(st.none() | st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 9000)),
    choices=st.integers(1, 4),
    flags=st.tuples(*[st.booleans()] * 5),
)
def test_a_bound_is_what_the_demand_costs_at_its_dearest(
    price: Price,
    dearer: Price,
    multiplier: int,
    prompt: int,
    limits: tuple[int | None, int, int],
    choices: int,
    flags: tuple[bool, ...],
) -> None:
    asked, model_limit, default_hold = limits
    audio, hour, produces, strict, is_tiered = flags
    tiers = (Tier(above=150_000, price=dearer),) if is_tiered else ()
    demand = Demand(
        prompt=prompt,
        output_limit=asked,
        choices=choices,
        produces=produces,
        audio=audio,
        body=b'"1h"' if hour else b"",
    )
    sold_at = msgspec.structs.replace(price, tiers=tiers)
    route = msgspec.structs.replace(ROUTE, price=sold_at, multiplier_ppm=multiplier, output_limit=model_limit)
    bound = pricing.bound(demand, route, default_hold=default_hold, strict=strict)

    assert bound.prompt == -(-prompt * 130 // 100)
    reached = [price, dearer] if is_tiered and bound.prompt > 150_000 else [price]
    usual = [each for of in reached for each in (of.input, of.cache_read, of.cache_write)]
    loud = [of.audio_input for of in reached if audio and of.audio_input is not None]
    long = [of.cache_write_1h for of in reached if hour]
    written = max(each or 0 for of in reached for each in (of.output, of.audio_output, of.image_output))

    def costs(output: int) -> int:
        pico = bound.prompt * max(usual + loud + long) + output * written
        return math.ceil(Fraction(pico * multiplier, 10**9))

    limit = 0 if not produces else model_limit if asked is None else min(asked, model_limit)
    held = limit * choices if strict or asked is not None else min(limit * choices, default_hold)
    assert (bound.limit, bound.output_price) == (limit, written)
    assert bound.whole == costs(limit * choices)
    assert bound.want == costs(held)
    assert bound.least == costs(min(held, 256 * choices))


def test_a_prompt_is_held_at_the_price_of_what_the_request_may_use() -> None:
    price = msgspec.structs.replace(PRICE, cache_write_1h=900_000, audio_input=2_000_000)
    route = msgspec.structs.replace(ROUTE, price=price)

    def held(body: bytes | None, *, audio: bool) -> int:
        demand = Demand(prompt=1000, output_limit=None, produces=False, body=body, audio=audio)
        return pricing.bound(demand, route, default_hold=0, strict=False).want

    assert held(b'{"messages":[]}', audio=False) == 1300 * 500
    assert held(b'{"cache_control":{"ttl":"1h"}}', audio=False) == held(None, audio=False) == 1300 * 900
    assert held(rb'{"cache_control":{"ttl":"\u0031\u0068"}}', audio=False) == 1300 * 900
    assert held(b'{"messages":[]}', audio=True) == held(b'{"ttl":"1h"}', audio=True) == 1300 * 2000


@pytest.mark.parametrize(
    ("tools", "searches"),
    [
        (b'[{"type":"web_search_20250305","name":"web_search"}]', 10),
        (b'[{"type": "web_search"}]', 10),
        (b'[{"type" :\n "web_search_20250305"}]', 10),
        (b'[{"type":"openrouter:web_search"}]', 10),
        (b'[{"googleSearch":{}}]', 10),
        (b'[{"type":"function","function":{"name":"web_search"}}]', 0),
        (b"", 0),
    ],
)
def test_what_lets_a_model_search_is_held_for_some_searches(tools: bytes, searches: int) -> None:
    route = msgspec.structs.replace(ROUTE, price=msgspec.structs.replace(PRICE, searches=10**10))
    demand = Demand(prompt=1000, output_limit=10, tools=tools)
    bound = pricing.bound(demand, route, default_hold=0, strict=False)
    assert bound.prompt_price == 1300 * 500_000 + searches * 10**10
    assert bound.least == bound.want == 1300 * 500 + searches * 10**7 + 10 * 1500
    free = pricing.bound(demand, ROUTE, default_hold=0, strict=False)
    assert free.prompt_price == 1300 * 500_000


def test_pictures_are_held_for_as_the_model_counts_them() -> None:
    """One of a camera's, at a model that reads it as it is; `ROUTE` is any other."""
    demand = Demand(prompt=1_700, pictures=(4032 * 3024,), output_limit=10)
    plain = pricing.bound(msgspec.structs.replace(demand, pictures=()), ROUTE, 1000, strict=False)
    shown = pricing.bound(demand, ROUTE, 1000, strict=False)
    large = pricing.bound(demand, msgspec.structs.replace(ROUTE, upstream_model="gpt-5.6-sol"), 1000, strict=False)
    assert (plain.prompt, shown.prompt, large.prompt) == (2_210, 2_210 + 4_800 - 2_080, 2_210 + 16_257 - 2_080)
    assert plain.least < shown.least < large.least
    assert large.prompt_price == large.prompt * ROUTE.price.at_most[0]


def test_a_predicted_text_is_held_as_if_it_were_written_on_top_of_the_answer() -> None:
    plain, predicted = (
        pricing.bound(Demand(prompt=1000, output_limit=10, predicted=count), ROUTE, 1000, strict=False)
        for count in (0, 5000)
    )
    assert plain.want == 1300 * 500 + 10 * 1500
    assert predicted.want == predicted.least == plain.want + 6500 * 1500
    # What the money pays for is still the answer alone.
    assert pricing.affordable_output(ROUTE, predicted.want, predicted, 1) == 10


def tokens_held(
    demand: Demand, route: Route = ROUTE, *, cap: int = 10**12, default_hold: int = 16_384
) -> tuple[int, int]:
    bound = pricing.bound(demand, route, default_hold, strict=False)
    tokens = pricing.token_bound(demand, route, bound, cap=cap, default_hold=default_hold)
    return tokens.want, tokens.least


@pytest.mark.parametrize(
    ("demand", "default_hold", "want", "least"),
    [
        (Demand(prompt=100, output_limit=100), 16_384, 130 + 100, 130 + 100),
        (Demand(prompt=100, output_limit=1000, choices=3), 16_384, 130 + 3000, 130 + 768),
        (Demand(prompt=100, output_limit=1000), 500, 130 + 1000, 130 + 256),
        (Demand(prompt=100, output_limit=None), 16_384, 130 + 4096, 130 + 256),
        (Demand(prompt=100, output_limit=None), 1000, 130 + 1000, 130 + 256),
        # Each of three answers may be 334 tokens long, so that 1,000 are enough.
        (Demand(prompt=100, output_limit=None, choices=3), 1000, 130 + 1002, 130 + 768),
        (Demand(prompt=100, output_limit=None, produces=False), 16_384, 130, 130),
    ],
)
def test_included_tokens_are_held_for_the_prompt_and_what_would_be_held_in_money(
    demand: Demand, default_hold: int, want: int, least: int
) -> None:
    assert tokens_held(demand, default_hold=default_hold) == (want, least)


def test_no_more_included_tokens_are_held_than_the_cost_cap_affords() -> None:
    demand = Demand(prompt=100, output_limit=4000, choices=2)
    whole = 130 * 500 + 8000 * 1500
    assert tokens_held(demand, cap=whole) == (130 + 8000, 130 + 512)
    assert tokens_held(demand, cap=whole - 1) == (130 + 7998, 130 + 512)
    assert tokens_held(demand, cap=130 * 500 + 200 * 1500) == (130 + 200, 130 + 200)
    # What is held by default may be less than the cap affords.
    assert tokens_held(Demand(prompt=100, output_limit=None), cap=1000 * 1500, default_hold=500) == (630, 386)


def test_included_tokens_are_for_calls_that_cost_the_operators_tokens_and_nothing_else() -> None:
    searching = Demand(prompt=100, output_limit=10, tools=b'[{"type":"web_search"}]')
    searched = msgspec.structs.replace(ROUTE, price=msgspec.structs.replace(PRICE, searches=10**10))
    theirs = msgspec.structs.replace(ROUTE, upstream=msgspec.structs.replace(HERE, owner=7))
    nothing = Price(input=0, output=0, cache_read=0, cache_write=0, cache_write_1h=0)
    free = msgspec.structs.replace(ROUTE, price=nothing)
    plain = Demand(prompt=100, output_limit=10)
    assert tokens_held(searching) == tokens_held(plain, searched) == (140, 140)
    assert tokens_held(searching, searched) == tokens_held(plain, theirs) == tokens_held(plain, free) == (0, 0)


def test_a_changed_price_knows_its_own_dearest() -> None:
    assert (PRICE.at_most, PRICE.can_be_dearer) == ((PRICE.input, PRICE.output), False)
    changed = msgspec.structs.replace(PRICE, input=10**9, output=10**8, audio_output=10**10)
    assert (changed.at_most, changed.can_be_dearer) == ((10**9, 10**10), False)
    assert msgspec.structs.replace(PRICE, audio_input=10**9).can_be_dearer
    assert msgspec.structs.replace(PRICE, cache_write_1h=10**9).can_be_dearer
    assert LONG.can_be_dearer
    # What was worked out is no part of the terms.
    assert msgspec.json.encode(changed) == msgspec.json.encode(msgspec.structs.replace(changed))


def test_a_changed_route_knows_whether_it_is_sold_at_cost() -> None:
    at_cost = msgspec.structs.replace(ROUTE, price=PRICE, cost=PRICE, multiplier_ppm=1_000_000)
    assert at_cost.is_sold_at_cost
    assert not msgspec.structs.replace(at_cost, multiplier_ppm=999_999).is_sold_at_cost
    assert not msgspec.structs.replace(at_cost, cost=LONG).is_sold_at_cost


def test_a_long_prompt_is_held_and_charged_by_its_tier_as_a_whole() -> None:
    route = msgspec.structs.replace(ROUTE, price=LONG)
    short, long = Usage(input=150_000, cache_read=50_000, output=10), Usage(input=150_001, cache_read=50_000, output=10)
    assert pricing.charge(short, route) == 150_000 * 500 + 50_000 * 50 + 10 * 1500
    assert pricing.charge(long, route) == 150_001 * 1000 + 50_000 * 100 + 10 * 2250
    demand = Demand(prompt=200_000, output_limit=10)
    assert pricing.bound(demand, route, default_hold=0, strict=True).want == 260_000 * 1000 + 10 * 2250


MONDAY = 1_795_392_000_000  # 2026-11-23 00:00 UTC
HOUR = 3_600_000


def test_a_route_is_taken_on_the_terms_of_the_moment() -> None:
    peak = msgspec.structs.replace(ROUTE, price=LONG, version=2)
    later = msgspec.structs.replace(ROUTE, price=LONG, version=3)
    morning = When(days=0b11111, start=HOUR, end=4 * HOUR)
    route = msgspec.structs.replace(
        ROUTE,
        version=1,
        variants=(Variant(when=(When(since=MONDAY + 70 * DAY_MS),), route=later), Variant(when=(morning,), route=peak)),
    )

    def version(moment: int) -> int:
        return pricing.at(route, moment).version

    assert [version(MONDAY + hour * HOUR) for hour in range(5)] == [1, 2, 2, 2, 1]
    assert [version(MONDAY + day * DAY_MS + HOUR) for day in range(8)] == [2, 2, 2, 2, 2, 1, 1, 2]
    assert version(MONDAY + 70 * DAY_MS - 1) == 1
    assert version(MONDAY + 70 * DAY_MS) == 3


def test_hours_may_go_over_midnight_and_dates_end_before_their_until() -> None:
    night = When(start=16 * HOUR + HOUR // 2, end=HOUR // 2)
    halves = [pricing.covers(night, MONDAY + half * HOUR // 2) for half in range(48)]
    assert halves == [half < 1 or half >= 33 for half in range(48)]
    dated = When(since=MONDAY, until=MONDAY + DAY_MS)
    moments = (MONDAY - 1, MONDAY, MONDAY + DAY_MS - 1, MONDAY + DAY_MS)
    assert [pricing.covers(dated, moment) for moment in moments] == [False, True, True, False]
