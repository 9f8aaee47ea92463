import msgspec

from tollbridge.core.plans import Agreed, Plan, in_effect

PRO = Plan(name="pro", rpm=60, tpm=1000, since=100, until=200)
DEFAULT = Plan(name="default", rpm=1)


def test_plan_allows_what_its_patterns_name() -> None:
    plan = Plan(name="free", models=("deepseek-*", "gpt-4o"))
    assert plan.allows("deepseek-chat")
    assert plan.allows("gpt-4o")
    assert not plan.allows("gpt-4o-mini")
    assert Plan(name="all").allows("anything/at-all")


def test_outside_of_its_dates_a_plan_gives_way_to_the_default() -> None:
    names = [in_effect(PRO, DEFAULT, None, now).name for now in (99, 100, 199, 200)]
    assert names == ["default", "pro", "pro", "default"]


def test_what_was_agreed_counts_while_it_lasts_and_the_rest_stays_the_plans() -> None:
    agreed = Agreed(rpm=500, included_tokens=7, cost_cap=9, since=120, until=150)
    within = in_effect(PRO, DEFAULT, agreed, 120)
    assert within == msgspec.structs.replace(PRO, rpm=500, included_tokens=7, cost_cap=9)
    assert in_effect(PRO, DEFAULT, agreed, 119) is PRO
    assert in_effect(PRO, DEFAULT, agreed, 150) is PRO
