"""Counts are those of the providers' own examples; see the sources in `core.pictures`."""

import pytest

from tollbridge.core import pictures, tokens

FULL_HD, PHOTO = 1920 * 1080, 4032 * 3024


def held(size: int, model: str) -> int:
    """What is held for one picture in all."""
    return tokens.with_margin(tokens.PER_IMAGE) + pictures.beyond([size], model)


@pytest.mark.parametrize(
    ("model", "size", "counted"),
    [
        ("gpt-4o", PHOTO, 1_105),
        ("gpt-4o-mini", 64 * 64, 2_833 + 5_667),
        ("openai/gpt-4o-mini-2024-07-18", 2048 * 768, 2_833 + 8 * 5_667),
        ("gpt-4.1-nano", PHOTO, 3_779),
        ("gpt-5.4-mini", PHOTO, 2_488),
        ("gpt-5.5-2026-04-23", 6_000 * 6_000, 12_000),
        ("openai/gpt-5.6-sol", 10_000 * 10_000, 313 * 313),
        ("gpt-6-luna", 10_000 * 10_000, 313 * 313),
        ("claude-opus-4-8", FULL_HD, 2_691),
        ("anthropic/claude-sonnet-5", PHOTO, 4_784),
        ("gemini-3-pro-preview", PHOTO, 2_240),
        ("Qwen/Qwen2.5-VL-72B-Instruct", 5_000 * 5_000, 16_384),
    ],
)
def test_a_hold_covers_what_a_picture_counts_as(model: str, size: int, counted: int) -> None:
    assert counted <= held(size, model)
    if not model.startswith("gpt-6"):
        assert counted <= held(0, model) or size > PHOTO


def test_what_a_small_picture_costs_is_not_held_for_more() -> None:
    assert pictures.beyond([64 * 64, 512 * 512], "claude-opus-4-8") == 0
    assert pictures.beyond([FULL_HD], "gpt-5.4-nano") < 1_000
    assert pictures.beyond([PHOTO], "gpt-4o") < 3_000
    assert pictures.beyond([], "gpt-4o-mini") == 0
    assert held(0, "gpt-5.6") == held(0, "qwen3-vl-plus") == held(PHOTO, "claude-opus-5") == 4_800


def test_each_picture_is_held_for() -> None:
    one = held(PHOTO, "gpt-5.6")
    two = pictures.beyond([PHOTO, PHOTO], "gpt-5.6") + tokens.with_margin(2 * tokens.PER_IMAGE)
    assert one == PHOTO // 750
    assert two == 2 * one
    # A small one leaves nothing for a large one.
    mixed = pictures.beyond([64 * 64, PHOTO], "gpt-5.6") + tokens.with_margin(2 * tokens.PER_IMAGE)
    assert mixed == tokens.PER_IMAGE + one
