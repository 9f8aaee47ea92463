import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollbridge.core.retry import COUNTS_AGAINST_UPSTREAM, Kind
from tollbridge.upstream.health import OWNERS_REMEMBERED, Health
from tollbridge.values import Price, Route, Upstream

PRICE = Price(input=1, output=1, cache_read=1, cache_write=1, cache_write_1h=1)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def route(name: str = "a", *, owner: int = 0) -> Route:
    upstream = Upstream(
        name=name, provider=name, dialect="openai_chat", base_url="", auth="none", credential="", owner=owner
    )
    return Route(model="m", upstream=upstream, upstream_model="m", price=PRICE, cost=PRICE)


OURS, OWN = route(), route(owner=7)


@pytest.mark.parametrize("kind", list(Kind))
def test_a_customers_credential_opens_no_breaker_of_ours(kind: Kind) -> None:
    health = Health(Clock())
    for _ in range(20):
        health.failed(OWN, kind)
    assert health.rank(OURS) == 0
    assert health.rank(route(owner=8)) == 0


@pytest.mark.parametrize("kind", [Kind.CREDENTIAL, Kind.OUT_OF_CREDIT])
def test_a_customers_credential_that_is_refused_goes_last_for_a_minute(kind: Kind) -> None:
    clock = Clock()
    health = Health(clock)
    health.failed(OWN, kind)
    assert health.rank(OWN) == 1
    clock.now += 61
    assert health.rank(OWN) == 0


def test_our_credential_that_is_refused_goes_last_and_one_without_credit_is_not_called() -> None:
    clock = Clock()
    health = Health(clock)
    health.failed(OURS, Kind.CREDENTIAL)
    health.failed(route("b"), Kind.OUT_OF_CREDIT)
    assert (health.rank(OURS), health.rank(route("b"))) == (1, None)
    clock.now += 299
    assert health.rank(route("b")) is None
    clock.now += 2
    assert health.rank(route("b")) == 0


def test_what_is_left_alone_is_asked_once_the_operator_may_have_mended_it() -> None:
    clock = Clock()
    health = Health(clock)
    health.failed(OURS, Kind.OUT_OF_CREDIT)
    assert health.rank(OURS) is None
    health.reconsider()
    assert health.rank(OURS) == 0
    health.begin(OURS)  # which finds out; others wait for it
    assert health.rank(OURS) is None
    health.failed(OURS, Kind.OUT_OF_CREDIT)
    assert health.usable_in([OURS]) == 300.0
    health.reconsider()
    health.begin(OURS)
    health.succeeded(OURS)
    assert (health.rank(OURS), health.usable_in([OURS])) == (0, 0.0)


def test_the_log_says_once_a_minute_why_an_upstream_cannot_be_called(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    health = Health(clock)

    def said() -> list[str]:
        messages = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return messages

    for _ in range(3):
        health.failed(OURS, Kind.CREDENTIAL, why="status 401")
    assert said() == ["calls of m at the provider a fail: credential (status 401)"]
    clock.now += 59
    health.failed(OURS, Kind.CREDENTIAL, why="status 401")
    assert said() == []
    health.failed(OURS, Kind.OUT_OF_CREDIT, why="status 402")
    assert said() == ["calls of m at the provider a fail: out_of_credit (status 402)"]
    clock.now += 1
    health.failed(OURS, Kind.CREDENTIAL, why="status 401")
    assert len(said()) == 1
    for _ in range(4):
        health.failed(route("b"), Kind.SERVER_ERROR, why="status 500")
    assert said() == []  # it is still called
    health.failed(route("b"), Kind.SERVER_ERROR, why="status 500")
    assert said() == ["calls of m at the provider b fail: server_error (status 500)"]
    health.failed(route("c"), Kind.BUSY, why="the 256 connections to c and their queue are full")
    assert said() == ["calls of m at the provider c fail: busy (the 256 connections to c and their queue are full)"]
    assert health.rank(route("c")) == 0
    for kind in Kind:
        health.failed(OWN, kind)
        if kind not in (Kind.CREDENTIAL, Kind.OUT_OF_CREDIT, Kind.UNKNOWN_MODEL, Kind.BUSY):
            health.failed(route(kind.value), kind)
    assert said() == []


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in COUNTS_AGAINST_UPSTREAM | {Kind.OUT_OF_CREDIT}])
def test_a_probe_that_told_nothing_of_an_upstream_lets_another_one_follow_at_once(kind: Kind) -> None:
    clock = Clock()
    health = Health(clock)
    for _ in range(5):
        health.failed(OURS, Kind.UNREACHED)
    clock.now += 11
    health.begin(OURS)
    assert health.rank(OURS) is None
    health.failed(OURS, kind, retry_after=0)
    assert health.rank(OURS) is not None


def test_a_limit_cools_what_was_limited_for_as_long_as_it_says() -> None:
    clock = Clock()
    health = Health(clock)
    health.failed(OURS, Kind.LIMITED, 7.0)
    assert (health.rank(OURS), health.rank(OWN)) == (None, 0)
    assert health.usable_in([OURS]) == 7.0
    clock.now += 7
    assert health.rank(OURS) == 0


def test_what_times_out_after_a_short_outage_does_not_shut_a_provider_that_is_well() -> None:
    clock = Clock()
    health = Health(clock)
    clock.now += 60
    health.begin(OWN)
    health.succeeded(OWN)  # whoever paid
    clock.now += 60
    for _ in range(6):
        health.failed(OURS, Kind.TIMED_OUT, seconds=120.0)
    assert health.rank(OURS) is not None
    for _ in range(6):
        health.failed(OURS, Kind.TIMED_OUT, seconds=30.0)
    assert health.rank(OURS) is None


def test_breakers_of_customers_are_bounded() -> None:
    health = Health(Clock())
    for owner in range(1, OWNERS_REMEMBERED + 10):
        health.failed(route(owner=owner), Kind.CREDENTIAL)
    assert len(health._own) == len(health._breakers) == OWNERS_REMEMBERED
    assert health.rank(route(owner=OWNERS_REMEMBERED + 9)) == 1


def test_a_route_without_a_measure_is_tried_before_others() -> None:
    health = Health(Clock())
    assert health.latency(OURS) < 0
    assert health.throughput(OURS) == float("inf")


def test_speeds_follow_the_latest_answers() -> None:
    health = Health(Clock())
    health.measured(OURS, first_byte_ms=800, tokens=100, ms=1000)
    assert (health.latency(OURS), health.throughput(OURS)) == (800.0, 100.0)
    health.measured(OURS, first_byte_ms=0, tokens=180, ms=1000)
    assert (health.latency(OURS), health.throughput(OURS)) == (700.0, 110.0)
    for _ in range(100):
        health.measured(OURS, first_byte_ms=50, tokens=50, ms=1000)
    assert health.latency(OURS) == pytest.approx(50, abs=1)
    assert health.throughput(OURS) == pytest.approx(50, abs=1)


def test_speed_is_the_routes_whoever_pays() -> None:
    health = Health(Clock())
    health.measured(OWN, first_byte_ms=300, tokens=100, ms=1000)
    assert health.latency(OURS) == 300.0
    other = msgspec.structs.replace(OURS, upstream_model="larger")
    assert health.latency(other) < 0


def test_an_answer_that_came_all_at_once_was_not_written_in_no_time() -> None:
    for ms in (0, 2):
        health = Health(Clock())
        health.measured(OURS, first_byte_ms=1_000, tokens=100, ms=ms)
        assert 90 < health.throughput(OURS) <= 100


def test_a_few_tokens_and_a_whole_answer_say_nothing_of_what_they_cannot() -> None:
    health = Health(Clock())
    health.measured(OURS, first_byte_ms=None, tokens=3, ms=1)
    assert health.latency(OURS) < 0
    assert health.throughput(OURS) == float("inf")


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "succeeded", "abandoned", *(kind.value for kind in Kind)]),
        st.sampled_from([OURS, OWN, route("b"), route("b", owner=8)]),
        st.sampled_from([0.0, 0.5, 6.0, 20.0, 100.0]),
    ),
    max_size=30,
)


@given(STEPS)
def test_what_was_never_in_trouble_is_as_well_as_what_has_a_breaker(steps: list[tuple[str, Route, float]]) -> None:
    clock = Clock()
    health, guarded = Health(clock), Health(clock)
    for _, each, _ in steps:
        guarded._breaker(each)
    for step, each, seconds in steps:
        for one in (health, guarded):
            if step in ("begin", "succeeded", "abandoned"):
                getattr(one, step)(each)
            else:
                one.failed(each, Kind(step))
        assert health.rank(each) == guarded.rank(each)
        assert health.usable_in([each]) == guarded.usable_in([each])
        assert health.tallies == guarded.tallies
        clock.now += seconds
