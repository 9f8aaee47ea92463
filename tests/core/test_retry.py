import random

import pytest

from tollbridge.core.retry import Breaker, Budget, Kind, Step, decide


@pytest.mark.parametrize("kind", list(Kind))
def test_what_the_provider_rejects_is_never_tried_again(kind: Kind) -> None:
    step = decide(kind, retries=0, more_routes=True, more_models=False)
    assert step is (Step.GIVE_UP if kind is Kind.REJECTED else Step.NEXT_ROUTE)


@pytest.mark.parametrize("kind", [Kind.LIMITED, Kind.CREDENTIAL, Kind.OUT_OF_CREDIT, Kind.TIMED_OUT])
def test_a_lone_route_is_not_asked_again_when_that_cannot_help(kind: Kind) -> None:
    assert decide(kind, retries=0, more_routes=False, more_models=False) is Step.GIVE_UP


@pytest.mark.parametrize("kind", [Kind.UNREACHED, Kind.LOST, Kind.SERVER_ERROR])
def test_a_lone_route_that_stumbled_is_asked_again_twice(kind: Kind) -> None:
    assert decide(kind, retries=1, more_routes=False, more_models=False) is Step.SAME_ROUTE
    assert decide(kind, retries=2, more_routes=False, more_models=False) is Step.GIVE_UP


@pytest.mark.parametrize("kind", [Kind.BUSY, Kind.UNSUPPORTED])
def test_what_was_not_sent_moves_on_however_often_others_failed(kind: Kind) -> None:
    assert decide(kind, retries=2, more_routes=True, more_models=False) is Step.NEXT_ROUTE
    assert decide(kind, retries=0, more_routes=False, more_models=False) is Step.GIVE_UP


def test_budget_allows_three_retries_or_a_fifth_of_the_traffic() -> None:
    quiet = Budget()
    assert [quiet.take(1.0) for _ in range(4)] == [True, True, True, False]
    busy = Budget()
    for _ in range(1000):
        busy.request(1.0)
    assert sum(busy.take(2.0) for _ in range(500)) == 200


def test_budget_starts_anew_each_minute_and_remembers_the_traffic_before() -> None:
    budget = Budget()
    for _ in range(1000):
        budget.request(0.0)
    while budget.take(1.0):
        pass
    assert sum(budget.take(61.0) for _ in range(500)) == 200
    assert sum(budget.take(181.0) for _ in range(500)) == 3


def test_breaker_opens_after_five_failures_in_a_row_and_lets_one_probe_through() -> None:
    breaker = Breaker()
    for _ in range(4):
        breaker.failed(0.0)
    assert breaker.usable(0.0)
    breaker.failed(0.0)
    assert not breaker.usable(9.9)
    assert breaker.usable(10.0)
    breaker.begin(10.0)
    assert not breaker.usable(10.1)
    breaker.succeeded(10.2)
    assert breaker.usable(10.2)


def test_upstream_that_fails_thrice_is_shaky_for_a_minute() -> None:
    breaker = Breaker()
    for _ in range(3):
        assert not breaker.shaky(0.0)
        breaker.failed(0.0)
    assert breaker.shaky(59.9)
    assert not breaker.shaky(60.0)
    breaker.failed(61.0)
    assert breaker.shaky(120.0)


def test_rare_failures_do_not_make_an_upstream_shaky() -> None:
    breaker = Breaker()
    for call in range(1000):
        (breaker.succeeded if call % 50 else breaker.failed)(call * 0.02)
    assert not breaker.shaky(20.0)


def test_probe_that_fails_opens_the_breaker_again() -> None:
    breaker = Breaker()
    for _ in range(5):
        breaker.failed(0.0)
    breaker.begin(10.0)
    breaker.failed(10.5)
    assert not breaker.usable(20.4)
    assert breaker.usable(20.5)


def test_calls_that_fail_late_do_not_keep_a_breaker_open() -> None:
    """A provider hung for a moment; what was asked of it then times out one after the other, long after it is well."""
    breaker = Breaker()
    for _ in range(5):
        breaker.failed(100.0)
    for late in range(1, 10):
        breaker.failed(100.0 + late)
    assert not breaker.usable(109.9)
    assert breaker.usable(110.0)
    breaker.begin(110.0)
    breaker.succeeded(110.1)
    assert breaker.usable(110.2)


def test_probe_that_was_abandoned_lets_another_try() -> None:
    breaker = Breaker()
    for _ in range(5):
        breaker.failed(0.0)
    breaker.begin(10.0)
    breaker.abandoned()
    assert breaker.usable(10.1)


def test_breaker_opens_when_half_of_twenty_calls_fail() -> None:
    breaker = Breaker()
    for call in range(19):
        (breaker.succeeded if call % 2 else breaker.failed)(call * 0.1)
        assert breaker.usable(2.0)
    breaker.failed(1.9)
    assert not breaker.usable(2.0)


def test_cool_down_is_bounded_whatever_the_provider_says() -> None:
    breaker = Breaker()
    breaker.cool(0.0, 1e9)
    assert not breaker.usable(59.9)
    assert breaker.usable(60.0)


def test_cool_down_is_no_failure() -> None:
    breaker = Breaker()
    for _ in range(100):
        breaker.cool(0.0, 1.0)
    assert breaker.usable(1.0)
    assert breaker.opens_in(0.25) == 0.75


@pytest.mark.parametrize("seed", range(200))
def test_flapping_upstream_is_called_little_while_down_and_again_soon_after(seed: int) -> None:
    """E21, simulated: down for a while, then up; clock and order of events are chance."""
    chance = random.Random(seed)
    breaker, now, calls_down, recovered = Breaker(), 0.0, 0, None
    down_until = chance.uniform(20, 60)
    while now < down_until + 40:
        now += chance.uniform(0.01, 0.5)
        if not breaker.usable(now):
            continue
        breaker.begin(now)
        if now < down_until:
            calls_down += 1
            breaker.failed(now)
        else:
            breaker.succeeded(now)
            recovered = recovered or now
    assert calls_down <= 5 + down_until / 10 + 1
    assert recovered is not None
    assert recovered - down_until <= 11


def test_what_one_model_rejects_another_may_take() -> None:
    assert decide(Kind.REJECTED, retries=0, more_routes=True, more_models=True) is Step.NEXT_MODEL
    assert decide(Kind.SERVER_ERROR, retries=2, more_routes=True, more_models=True) is Step.NEXT_MODEL
    assert decide(Kind.SERVER_ERROR, retries=0, more_routes=True, more_models=True) is Step.NEXT_ROUTE


def test_a_route_that_cannot_do_it_is_passed_over_however_many_there_are() -> None:
    assert decide(Kind.UNSUPPORTED, retries=9, more_routes=True, more_models=False) is Step.NEXT_ROUTE
    assert decide(Kind.UNSUPPORTED, retries=0, more_routes=False, more_models=False) is Step.GIVE_UP


def test_upstream_without_credit_stays_closed_for_five_minutes_and_is_probed_once() -> None:
    breaker = Breaker()
    breaker.exhausted(0.0)
    assert not breaker.usable(299.0)
    assert breaker.usable(300.0)
    breaker.begin(300.0)
    assert not breaker.usable(300.1)
    breaker.exhausted(300.2)
    assert not breaker.usable(599.0)
    breaker.begin(601.0)
    breaker.succeeded(601.1)
    assert breaker.usable(601.2)


def test_a_late_failure_does_not_shorten_how_long_a_breaker_is_open() -> None:
    breaker = Breaker()
    breaker.exhausted(0.0)
    breaker.failed(1.0)
    assert not breaker.usable(100.0)


def test_calls_that_hung_before_a_breaker_opened_do_not_open_it_again() -> None:
    breaker = Breaker()
    for _ in range(5):
        breaker.failed(100.0)
    for late in range(20):
        breaker.failed(110.0 + late / 10, 90.0)  # what hung times out while the probe is awaited …
    assert breaker.usable(112.0)
    breaker.begin(112.0)
    breaker.succeeded(112.1)
    for late in range(30):
        breaker.failed(200.0 + late / 10, 99.0)  # … and long after the provider is well
    assert breaker.usable(204.0)
    assert not breaker.shaky(204.0)


def test_calls_that_hung_before_the_last_success_are_no_failures_in_a_row() -> None:
    breaker = Breaker()
    for _ in range(10):
        breaker.failed(120.0, began=0.0, well_at=119.0)
    assert breaker.usable(120.0)
    for _ in range(5):
        breaker.failed(130.0, began=119.5, well_at=119.0)
    assert not breaker.usable(130.0)


def test_a_provider_that_lets_half_of_its_calls_hang_is_left_alone_for_all_that() -> None:
    breaker = Breaker()
    for call in range(10):
        breaker.failed(120.0 + call, began=float(call), well_at=120.0 + call)
        breaker.succeeded(120.5 + call)
    breaker.failed(130.0, began=10.0, well_at=129.5)
    assert not breaker.usable(130.0)
