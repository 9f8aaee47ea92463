"""What a refusal says, to a person and to a program: amounts, codes and when to come again."""

import pytest

from tollbridge.core.ledger import Refusal, Refused
from tollbridge.errors import ApiError, CostCapExceeded
from tollbridge.gateway.refusals import cooling_down, limited, none_usable, ran_out, refused, too_dear
from tollbridge.limits.base import Exceeded, Kind, Room

NEEDS = 1_000_000
SOON = {"retry-after": "2"}


def said(error: ApiError) -> tuple[int, str, str, dict[str, str]]:
    return error.status, error.type, error.code, error.headers


@pytest.mark.parametrize("available", [250_000_000, -5])
@pytest.mark.parametrize(
    ("why", "expected", "tells_what_is_left"),
    [
        (Refusal.INSUFFICIENT, (402, "insufficient_quota", "insufficient_credits", {}), True),
        (Refusal.IN_FLIGHT, (402, "insufficient_quota", "in_flight_budget_exhausted", SOON), False),
        (Refusal.QUOTA, (429, "insufficient_quota", "insufficient_quota", {"x-should-retry": "false"}), True),
    ],
)
def test_who_has_too_little_is_told_what_is_needed_and_what_is_left(
    why: Refusal, expected: tuple[int, str, str, dict[str, str]], tells_what_is_left: bool, available: int
) -> None:
    error = refused(Refused(why=why, available=available, posted=7, balance=8), NEEDS)
    left = "0.25" if available > 0 else "0"
    assert said(error) == expected
    assert error.extra == {"balance_usd": left.encode()}
    assert "needs at least 0.001 USD" in error.message
    assert (f" {left} USD are left" in error.message) == tells_what_is_left


@pytest.mark.parametrize(("available", "balance"), [(250_000_000, 3_000_000_000), (-5, -5)])
def test_a_key_at_its_limit_is_told_of_the_limit_and_of_the_accounts_balance(available: int, balance: int) -> None:
    error = refused(Refused(why=Refusal.KEY_LIMIT, available=available, balance=balance), NEEDS)
    assert said(error) == (402, "insufficient_quota", "key_limit_exceeded", {})
    assert error.extra == {"balance_usd": b"3" if balance > 0 else b"0"}
    assert "needs at least 0.001 USD" in error.message
    assert f" {'0.25' if available > 0 else '0'} USD of the limit are left" in error.message


@pytest.mark.parametrize(
    ("why", "expected"),
    [
        (Refusal.TOKENS_HELD, (429, "tokens", "rate_limit_exceeded", SOON)),
        (Refusal.FROZEN, (403, "permission_error", "account_frozen", {})),
        (Refusal.KEY_GONE, (401, "invalid_request_error", "invalid_api_key", {})),
        (Refusal.FENCED, (503, "server_error", "ledger_unavailable", SOON)),
        (Refusal.NO_HOLD, (503, "server_error", "ledger_unavailable", SOON)),
    ],
)
def test_no_other_refusal_says_anything_of_money(why: Refusal, expected: tuple[int, str, str, dict[str, str]]) -> None:
    error = refused(Refused(why=why, available=250_000_000, balance=250_000_000), NEEDS)
    assert said(error) == expected
    assert error.extra == {}
    assert "USD" not in error.message


@pytest.mark.parametrize(
    ("opens_in", "wait", "in_words", "waits"),
    [(0.0, 1, "1 s", True), (58.9, 59, "59 s", True), (59.9, 60, "60 s", True), (60.0, 61, "2 minutes", False)],
)
def test_who_would_wait_too_long_for_a_provider_is_told_not_to(
    opens_in: float, wait: int, in_words: str, waits: bool
) -> None:
    error = none_usable("m", opens_in, 529)
    stop = {} if waits else {"x-should-retry": "false"}
    assert said(error) == (529, "server_error", "no_available_provider", {"retry-after": str(wait), **stop})
    assert error.message.startswith("No provider of m ")
    assert error.message.endswith(f"try again in {in_words}.")


def test_an_answer_ends_for_a_reason_that_is_told() -> None:
    assert "key" in ran_out(Refusal.KEY_LIMIT)
    assert "included tokens" in ran_out(Refusal.QUOTA)
    assert "frozen" in ran_out(Refusal.FROZEN)
    assert ran_out(None) == ran_out(Refusal.INSUFFICIENT) == "the credit for this request ran out"


@pytest.mark.parametrize("produces", [True, False])
def test_a_request_above_its_cap_is_told_both_amounts_and_what_to_change(produces: bool) -> None:
    error = too_dear(20_000_000, 1_000_000, produces=produces)
    assert isinstance(error, CostCapExceeded)
    assert "up to 0.02 USD, more than its cap of 0.001 USD" in error.message
    assert error.param == ("max_tokens" if produces else None)


def test_who_cools_down_is_told_a_whole_number_of_seconds_that_is_enough() -> None:
    error = cooling_down("Too many", 1.2)
    assert said(error) == (429, "requests", "abuse_cooldown", {"retry-after": "2"})
    assert error.message == "Too many; try again in 2 s."


@pytest.mark.parametrize(
    ("kind", "what"),
    [("requests", "requests per minute"), ("tokens", "tokens per minute"), ("concurrency", "calls at one time")],
)
def test_a_limit_says_which_it_is_and_how_long_to_wait(kind: Kind, what: str) -> None:
    error = limited(Exceeded(kind, 1_000, 1.2344, False, Room(5, 0, 12.5), Room(1_000, 3, 60.0), degraded=True))
    assert said(error) == (
        429,
        kind,
        "rate_limit_exceeded",
        {
            "x-ratelimit-limit-requests": "5",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "12.500s",
            "x-ratelimit-limit-tokens": "1000",
            "x-ratelimit-remaining-tokens": "3",
            "x-ratelimit-reset-tokens": "60.000s",
            "retry-after": "2",
            "retry-after-ms": "1235",
            "x-ratelimit-mode": "degraded",
        },
    )
    assert error.message == f"Rate limit reached: 1,000 {what}. Try again in 1.23 s."


def test_the_wait_for_a_limit_is_never_less_than_a_whole_second() -> None:
    error = limited(Exceeded("concurrency", 3, 0.0, hopeless=False, requests_room=None, tokens_room=None))
    assert error.headers == {"retry-after": "1", "retry-after-ms": "0"}


def test_who_can_never_fit_is_told_not_to_come_again() -> None:
    error = limited(Exceeded("tokens", 1_000, 5.0, True, None, Room(1_000, 9, 1.0)))
    assert (error.type, error.headers["x-should-retry"]) == ("tokens", "false")
    assert not {"retry-after", "retry-after-ms", "x-ratelimit-limit-requests"} & error.headers.keys()
    assert "1,000 tokens per minute" in error.message
