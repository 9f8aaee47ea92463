import pytest

from tollbridge.wire.anthropic_models import abilities


@pytest.mark.parametrize(
    ("model", "samples", "adapts", "budgets", "off", "forces", "instructs", "schemas", "most"),
    [
        ("claude-3-5-sonnet-20241022", True, False, True, "disabled", True, False, False, None),
        ("claude-3-7-sonnet-latest", True, False, True, "disabled", True, False, False, None),
        ("claude-opus-4-20250514", True, False, True, "disabled", True, False, False, None),
        ("claude-opus-4-1-20250805", True, False, True, "disabled", True, False, False, None),
        ("claude-haiku-4-5-20251001", True, False, True, "disabled", True, False, True, None),
        ("claude-opus-4-5", True, False, True, "disabled", True, False, True, "high"),
        ("anthropic.claude-opus-4-6-v1", True, True, True, "disabled", True, False, True, "max"),
        ("claude-sonnet-4-6", True, True, True, "disabled", True, False, True, "max"),
        ("claude-opus-4-7", False, True, False, "disabled", True, False, True, "max"),
        ("anthropic/claude-opus-4.8", False, True, False, "disabled", True, True, True, "max"),
        ("claude-sonnet-5", False, True, False, "disabled", True, True, True, "max"),
        ("claude-opus-5", False, True, False, "disabled", True, True, True, "max"),
        ("claude-haiku-5-5", False, True, False, "disabled", False, True, True, "max"),
        ("claude-sonnet-5-5", False, True, False, "between_tools", False, True, True, "max"),
        ("us.anthropic.claude-opus-5-5", False, True, False, "", False, True, True, "max"),
        ("claude-fable-5", False, True, False, "", True, True, True, "max"),
        ("claude-fable-5-1", False, True, False, "", False, True, True, "max"),
        ("claude-mythos-preview", False, True, False, "", True, False, True, "max"),
        ("claude-opus-6", False, True, False, "", False, True, True, "max"),
        ("claude-next", False, True, False, "", False, True, True, "max"),
        ("deepseek-chat", True, False, True, "disabled", True, False, True, None),
    ],
)
def test_a_model_s_name_says_what_it_takes(
    model: str,
    samples: bool,
    adapts: bool,
    budgets: bool,
    off: str,
    forces: bool,
    instructs: bool,
    schemas: bool,
    most: str | None,
) -> None:
    able = abilities(model)
    assert (able.samples, able.adapts, able.budgets, able.off) == (samples, adapts, budgets, off)
    assert (able.forces, able.instructs, able.schemas) == (forces, instructs, schemas)
    assert (able.efforts[-1] if able.efforts else None) == most


def test_temperature_beside_top_p_was_for_older_models() -> None:
    assert abilities("claude-opus-4-20250514").samples_both
    assert not abilities("claude-opus-4-1").samples_both


def test_models_before_4_6_go_on_with_their_own_words() -> None:
    assert abilities("claude-sonnet-4-5").continues
    assert abilities("deepseek-chat").continues
    assert not abilities("claude-sonnet-4-6").continues
    assert not abilities("claude-next").continues
