"""The table "What is charged", a test a row; and the two numbers of a hold."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollbridge.core import pricing
from tollbridge.core.pricing import Cause, Demand, Ending, bill
from tollbridge.values import Outcome, Price, Route, Upstream, Usage

HERE = Upstream(
    name="here", provider="here", dialect="openai_chat", base_url="http://h/v1", auth="bearer", credential=""
)
PRICE = Price(input=500_000, output=1_500_000, cache_read=50_000, cache_write=500_000, cache_write_1h=500_000)
ROUTE = Route(model="m", upstream=HERE, upstream_model="m", price=PRICE, cost=PRICE)

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


@pytest.mark.parametrize("cause", [Cause.MONEY_RAN_OUT, Cause.CUT])
def test_answer_that_we_ended_is_charged_what_was_produced(cause: Cause) -> None:
    result = bill(ending(cause, reported=None), charge_partial=False)
    assert result.charged
    assert result.usage == COUNTED


def test_bound_of_an_explicit_limit_covers_all_choices() -> None:
    bound = pricing.bound(
        Demand(prompt=100, output_limit=1000, choices=3), ROUTE, model_limit=4096, default_hold=16_384, strict=False
    )
    assert bound.want == (130 * 500_000 + 3000 * 1_500_000) // 1000
    assert bound.least == (130 * 500_000 + 768 * 1_500_000) // 1000


def test_bound_without_a_limit_holds_the_default_and_strictly_the_whole() -> None:
    demand = Demand(prompt=0, output_limit=None)
    loose = pricing.bound(demand, ROUTE, model_limit=100_000, default_hold=16_384, strict=False)
    strict = pricing.bound(demand, ROUTE, model_limit=100_000, default_hold=16_384, strict=True)
    assert loose.want == 16_384 * 1_500
    assert strict.want == 100_000 * 1_500


def test_bound_of_an_embedding_is_its_prompt() -> None:
    bound = pricing.bound(
        Demand(prompt=1000, output_limit=None, produces=False), ROUTE, model_limit=1, default_hold=16_384, strict=False
    )
    assert bound.want == bound.least == 1300 * 500


@given(
    amount=st.integers(0, 10**12),
    prompt=st.integers(0, 10**6),
    choices=st.integers(1, 8),
    multiplier=st.integers(1, 3_000_000),
)
def test_affordable_output_never_costs_more_than_the_amount(
    amount: int, prompt: int, choices: int, multiplier: int
) -> None:
    route = msgspec.structs.replace(ROUTE, multiplier_ppm=multiplier)
    output = pricing.affordable_output(route, amount, prompt, choices)
    if output:
        assert pricing.charge(Usage(input=prompt, output=output * choices), route) <= amount
    more = Usage(input=prompt, output=(output + 1) * choices)
    assert pricing.charge(more, route) >= min(amount, pricing.charge(more, route))
