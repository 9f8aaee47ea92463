"""What a key may be told to allow: stored in one form, and refused for all that is wrong at once."""

import pytest

from tollbridge.core.ledger import MAX_AMOUNT
from tollbridge.errors import InvalidRequest
from tollbridge.services import key_rules
from tollbridge.store.keys import NO_RULES, Rules
from tollbridge.values import LATEST_MS

NOW = 1_000


def test_rules_are_stored_in_one_form() -> None:
    rules = Rules(models=(" openai/* ", "openai/*"), addresses=("203.0.113.7", " 203.0.113.9/24", "203.0.113.0/24"))
    label, stored = key_rules.check(" laptop ", rules, NOW)
    assert label == "laptop"
    assert stored.models == ("openai/*",)
    assert stored.addresses == ("203.0.113.7/32", "203.0.113.0/24")
    assert key_rules.check("laptop", stored, NOW) == ("laptop", stored)
    assert key_rules.check("", NO_RULES, NOW) == ("", NO_RULES)


@pytest.mark.parametrize(
    "rules",
    [
        Rules(limit=1, reset="monthly", cost_cap=1, rpm=1, tpm=1, concurrency=1, expires_at=NOW + 1),
        Rules(limit=MAX_AMOUNT - 1, cost_cap=MAX_AMOUNT - 1, rpm=1_000_000_000, expires_at=LATEST_MS - 1),
        Rules(models=("m" * 200, *map(str, range(99)))),
    ],
)
def test_what_is_just_within_bounds_is_stored(rules: Rules) -> None:
    label = "a" * 100
    assert key_rules.check(label, rules, NOW) == (label, rules)


def test_all_that_cannot_be_is_named_at_once() -> None:
    wrong = Rules(
        limit=0, reset="hourly", rpm=0, cost_cap=MAX_AMOUNT, expires_at=NOW, models=("a b",), addresses=("x",)
    )
    with pytest.raises(InvalidRequest) as raised:
        key_rules.check("a\nb", wrong, NOW)
    named = [each.param for each in (raised.value, *raised.value.others)]
    assert named == ["label", "limit_usd", "limit_reset", "cost_cap_usd", "rpm", "expires_at", "models", "addresses"]


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        # A blank pattern must not leave a key that is allowed everything.
        (Rules(models=("",)), "'' is neither a model's name"),
        (Rules(models=(" ",)), "'' is neither a model's name"),
        (Rules(models=("m",) * 2 + tuple(map(str, range(100)))), "at most 100 models"),
        (Rules(models=("m" * 201,)), "neither a model's name"),
        (Rules(models=("m\u200b",)), "neither a model's name"),
        (Rules(addresses=("",)), "'' is not an address"),
        (Rules(addresses=tuple(f"203.0.113.{each}" for each in range(101))), "at most 100 addresses"),
        (Rules(reset="daily"), "needs an amount"),
        (Rules(tpm=1_000_000_001), "Tokens per minute must be a whole number from 1 to 1,000,000,000"),
        (Rules(expires_at=LATEST_MS), "too far in the future"),
        (Rules(limit=MAX_AMOUNT), "A spend limit must be an amount above zero"),
        (Rules(cost_cap=0), "The maximum cost of a call must be an amount above zero"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(rules: Rules, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        key_rules.check("", rules, NOW)


LEAST = Rules(limit=1, cost_cap=1, rpm=1, tpm=1, concurrency=1, expires_at=NOW + 1)
MOST = Rules(
    limit=MAX_AMOUNT - 1,
    cost_cap=MAX_AMOUNT - 1,
    rpm=1_000_000_000,
    tpm=1_000_000_000,
    concurrency=1_000_000_000,
    expires_at=LATEST_MS - 1,
    models=tuple(f"{each:m>200}" for each in range(100)),
    addresses=tuple(f"203.0.113.{each}/32" for each in range(100)),
)


@pytest.mark.parametrize("rules", [LEAST, MOST, *(Rules(limit=1, reset=each) for each in key_rules.RESETS)])
def test_the_least_and_the_most_of_each_rule_are_kept(rules: Rules) -> None:
    assert key_rules.check("l" * 100, rules, NOW) == ("l" * 100, rules)


def test_a_label_is_not_longer_than_that() -> None:
    with pytest.raises(InvalidRequest, match="at most 100 characters"):
        key_rules.check_label("l" * 101)
