from tollbridge.core.plans import Plan


def test_plan_allows_what_its_patterns_name() -> None:
    plan = Plan(name="free", models=("deepseek-*", "gpt-4o"))
    assert plan.allows("deepseek-chat")
    assert plan.allows("gpt-4o")
    assert not plan.allows("gpt-4o-mini")
    assert Plan(name="all").allows("anything/at-all")
