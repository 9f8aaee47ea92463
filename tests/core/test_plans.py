import msgspec
import pytest

from tollbridge.core.plans import Agreed, Plan, in_effect
from tollbridge.values import DAY_MS, Model

PRO = Plan(name="pro", rpm=60, tpm=1000, since=100, until=200)
DEFAULT = Plan(name="default", rpm=1)


def model(id_: str, *aliases: str) -> Model:
    return Model(id=id_, type="chat", context_window=1, output_limit=1, routes=(), aliases=aliases)


def test_plan_allows_what_its_patterns_name() -> None:
    plan = Plan(name="free", models=("deepseek-*", "gpt-4o"))
    assert plan.allows(model("deepseek-chat"))
    assert plan.allows(model("gpt-4o"))
    assert not plan.allows(model("gpt-4o-mini"))
    assert Plan(name="all").allows(model("anything/at-all"))


def test_a_pattern_names_a_model_by_any_name_that_it_answers_to() -> None:
    plan = Plan(name="free", models=("openai/*",))
    assert plan.allows(model("gpt-4o", "openai/gpt-4o"))
    assert not plan.allows(model("gpt-4o", "openrouter/gpt-4o"))


def test_outside_of_its_dates_a_plan_gives_way_to_the_default() -> None:
    names = [in_effect(PRO, DEFAULT, None, now).name for now in (99, 100, 199, 200)]
    assert names == ["default", "pro", "pro", "default"]


def test_what_was_agreed_counts_while_it_lasts_and_the_rest_stays_the_plans() -> None:
    agreed = Agreed(rpm=500, included_tokens=7, cost_cap=9, since=120, until=150)
    within = in_effect(PRO, DEFAULT, agreed, 120)
    assert within == msgspec.structs.replace(PRO, rpm=500, included_tokens=7, cost_cap=9)
    assert in_effect(PRO, DEFAULT, agreed, 119) is PRO
    assert in_effect(PRO, DEFAULT, agreed, 150) is PRO


@pytest.mark.parametrize("name", ["rpm", "tpm", "concurrency", "included_tokens", "cost_cap"])
def test_each_value_that_was_agreed_changes_itself_and_nothing_else(name: str) -> None:
    plan = Plan(name="team", rpm=1, tpm=2, concurrency=3, included_tokens=4, cost_cap=5)
    for value in (0, 9):
        agreed = msgspec.convert({name: value}, Agreed)
        assert in_effect(plan, DEFAULT, agreed, 0) == msgspec.structs.replace(plan, **{name: value})


def test_what_was_agreed_is_told_in_words() -> None:
    assert Agreed(rpm=1500).describe() == "1,500 requests a minute"
    noon = DAY_MS + DAY_MS // 2
    all_of_it = Agreed(rpm=1, tpm=2, concurrency=3, included_tokens=0, cost_cap=2_500_000_000, since=DAY_MS, until=noon)
    assert all_of_it.describe() == (
        "1 request a minute, 2 tokens a minute, 3 calls at once, 0 tokens included a month, "
        "at most 2.5 USD a request, from 1970-01-02, until 1970-01-02T12:00Z"
    )
