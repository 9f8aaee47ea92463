"""Each report is as Google's documentation or a recorded answer has it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from tollbridge.values import Usage
from tollbridge.wire.gemini_usage import InputMeter, Meter

Report = dict[str, Any]


def metered(*reports: Any) -> Meter:
    meter = Meter()
    for report in reports:
        meter.read(Raw(json.dumps(report).encode()))
    return meter


def counts(usage: Usage | None) -> dict[str, Any]:
    assert usage is not None
    return {
        name: getattr(usage, name)
        for name in Usage.__struct_fields__
        if name != "raw" and getattr(usage, name) not in (0, False)
    }


def text(count: int, modality: str = "TEXT") -> list[Report]:
    return [{"modality": modality, "tokenCount": count}]


CASES: list[tuple[str, Report, dict[str, Any]]] = [
    (
        "plain",
        {"promptTokenCount": 8, "candidatesTokenCount": 20, "totalTokenCount": 28, "promptTokensDetails": text(8)},
        {"input": 8, "output": 20},
    ),
    (
        "thoughts stand beside candidates",
        {"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 100, "totalTokenCount": 115},
        {"input": 10, "output": 105, "reasoning": 100},
    ),
    (
        "thoughts within candidates, which the total tells",
        {"promptTokenCount": 10, "candidatesTokenCount": 105, "thoughtsTokenCount": 100, "totalTokenCount": 115},
        {"input": 10, "output": 105, "reasoning": 100},
    ),
    (
        "the prompt includes what was cached",
        {
            "promptTokenCount": 4100,
            "cachedContentTokenCount": 4000,
            "candidatesTokenCount": 7,
            "totalTokenCount": 4107,
            "cacheTokensDetails": text(4000),
        },
        {"input": 100, "cache_read": 4000, "output": 7},
    ),
    (
        "what the provider's tools read is input besides",
        {
            "promptTokenCount": 21,
            "toolUsePromptTokenCount": 300,
            "candidatesTokenCount": 9,
            "thoughtsTokenCount": 30,
            "totalTokenCount": 360,
        },
        {"input": 321, "output": 39, "reasoning": 30},
    ),
    (
        "sound that was read, a part of it from a cache",
        {
            "promptTokenCount": 700,
            "cachedContentTokenCount": 300,
            "candidatesTokenCount": 4,
            "totalTokenCount": 704,
            "promptTokensDetails": [*text(100), *text(600, "AUDIO")],
            "cacheTokensDetails": [*text(50), *text(250, "AUDIO")],
        },
        {"input": 50, "cache_read": 300, "audio_input": 350, "output": 4},
    ),
    (
        "pictures that were read are input",
        {
            "promptTokenCount": 263,
            "candidatesTokenCount": 1,
            "totalTokenCount": 264,
            "promptTokensDetails": [*text(5), *text(258, "IMAGE")],
        },
        {"input": 263, "output": 1},
    ),
    (
        "pictures that were drawn are no output",
        {
            "promptTokenCount": 6,
            "candidatesTokenCount": 1300,
            "totalTokenCount": 1306,
            "candidatesTokensDetails": text(1290, "IMAGE"),
        },
        {"input": 6, "output": 10, "image_output": 1290},
    ),
    (
        "speech",
        {
            "promptTokenCount": 6,
            "candidatesTokenCount": 50,
            "totalTokenCount": 56,
            "candidatesTokensDetails": text(50, "AUDIO"),
        },
        {"input": 6, "audio_output": 50},
    ),
    ("nothing was written", {"promptTokenCount": 6, "totalTokenCount": 6}, {"input": 6}),
    (
        "candidates are left out and in the total",
        {"promptTokenCount": 6, "thoughtsTokenCount": 10, "totalTokenCount": 30},
        {"input": 6, "output": 24, "reasoning": 10},
    ),
    ("no total", {"promptTokenCount": 6, "candidatesTokenCount": 2}, {"input": 6, "output": 2}),
    (
        "a total of something else",
        {"promptTokenCount": 6, "candidatesTokenCount": 2, "totalTokenCount": 100},
        {"input": 6, "output": 2, "suspect": True},
    ),
    (
        "more cached than read",
        {"promptTokenCount": 6, "cachedContentTokenCount": 9, "candidatesTokenCount": 2, "totalTokenCount": 8},
        {"cache_read": 6, "output": 2, "suspect": True},
    ),
    (
        "more drawn than written",
        {"promptTokenCount": 6, "candidatesTokenCount": 2, "candidatesTokensDetails": text(9, "IMAGE")},
        {"input": 6, "image_output": 2, "suspect": True},
    ),
    ("zero is a count", {"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0}, {}),
]


@pytest.mark.parametrize(("report", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_report_becomes_disjoint_meters(report: Report, expected: dict[str, Any]) -> None:
    meter = metered(report)
    assert counts(meter.usage) == expected
    assert meter.usage is not None
    assert json.loads(meter.reported) == json.loads(meter.usage.raw) == report
    assert not meter.suspect


def details(**counts: int) -> list[Report]:
    return [{"modality": modality.upper(), "tokenCount": count} for modality, count in counts.items()]


# As the service itself wrote them (recordings in tests of public clients, 2025-2026).
RECORDED: list[tuple[str, Report, dict[str, Any]]] = [
    (
        "gemini-3-flash-preview with a search in files",
        {
            "candidatesTokenCount": 66,
            "promptTokenCount": 95,
            "promptTokensDetails": details(text=95),
            "serviceTier": "standard",
            "thoughtsTokenCount": 132,
            "toolUsePromptTokenCount": 439,
            "toolUsePromptTokensDetails": details(text=439),
            "totalTokenCount": 732,
        },
        {"input": 534, "output": 198, "reasoning": 132},
    ),
    (
        "gemini-2.5-flash on a film that was cached",
        {
            "cacheTokensDetails": details(audio=1881, text=15, video=15483),
            "cachedContentTokenCount": 17379,
            "candidatesTokenCount": 68,
            "promptTokenCount": 17713,
            "promptTokensDetails": details(text=16, video=15780, audio=1917),
            "serviceTier": "standard",
            "thoughtsTokenCount": 821,
            "totalTokenCount": 18602,
        },
        {"input": 298, "cache_read": 17379, "audio_input": 36, "output": 889, "reasoning": 821},
    ),
    (
        "gemini-3-flash-preview on Vertex, hearing",
        {
            "candidatesTokenCount": 34,
            "candidatesTokensDetails": details(text=34),
            "promptTokenCount": 281,
            "promptTokensDetails": details(text=168, audio=113),
            "thoughtsTokenCount": 124,
            "totalTokenCount": 439,
            "trafficType": "ON_DEMAND",
        },
        {"input": 168, "audio_input": 113, "output": 158, "reasoning": 124},
    ),
    (
        "gemini-3-pro-image",
        {
            "candidatesTokenCount": 1216,
            "candidatesTokensDetails": details(image=1120),
            "promptTokenCount": 22,
            "promptTokensDetails": details(text=22),
            "thoughtsTokenCount": 179,
            "totalTokenCount": 1417,
        },
        {"input": 22, "output": 275, "reasoning": 179, "image_output": 1120},
    ),
    (
        "gemini-2.5-pro, cut while it thought",
        {
            "promptTokenCount": 15,
            "promptTokensDetails": details(text=15),
            "serviceTier": "standard",
            "thoughtsTokenCount": 2,
            "totalTokenCount": 17,
        },
        {"input": 15, "output": 2, "reasoning": 2},
    ),
    (
        "a modality without a count",
        {
            "candidatesTokenCount": 162,
            "candidatesTokensDetails": details(text=162),
            "promptTokenCount": 268,
            "promptTokensDetails": [{"modality": "AUDIO"}, *details(text=10, video=258)],
            "totalTokenCount": 430,
        },
        {"input": 268, "output": 162},
    ),
]


@pytest.mark.parametrize(("report", "expected"), [each[1:] for each in RECORDED], ids=[each[0] for each in RECORDED])
def test_recorded_reports_become_exact_meters(report: Report, expected: dict[str, Any]) -> None:
    assert counts(metered(report).usage) == expected


def test_a_recorded_report_of_embeddings_tells_what_was_read() -> None:
    meter = InputMeter()
    meter.read(Raw(json.dumps({"promptTokenCount": 7, "promptTokenDetails": details(text=7)}).encode()))
    assert counts(meter.usage) == {"input": 7}


def test_a_report_that_says_nothing_about_output_does_not_make_it_free() -> None:
    """Nor does it take back what an earlier report said."""
    silent = {"promptTokenCount": 8, "promptTokensDetails": text(8)}
    meter = metered(silent)
    assert (meter.usage, meter.suspect, counts(meter.told_first)) == (None, False, {"input": 8})
    whole = {"promptTokenCount": 8, "candidatesTokenCount": 30, "totalTokenCount": 38}
    assert counts(metered(whole, silent).usage) == {"input": 8, "output": 30}


def test_reports_are_cumulative_and_the_last_one_counts() -> None:
    first = {"promptTokenCount": 8, "totalTokenCount": 8}
    last = {"promptTokenCount": 8, "candidatesTokenCount": 30, "totalTokenCount": 38}
    assert counts(metered(first, first, last).usage) == {"input": 8, "output": 30}


@pytest.mark.parametrize("report", [None, {}, {"totalTokenCount": 5}])
def test_a_report_of_neither_prompt_nor_output_is_none(report: Any) -> None:
    meter = metered(report)
    assert (meter.usage, meter.suspect, meter.reported) == (None, False, b"")


def test_what_was_written_is_believed_without_the_prompt() -> None:
    written = {"candidatesTokenCount": 23, "thoughtsTokenCount": 67}
    assert counts(metered(written).usage) == {"output": 90, "reasoning": 67}
    assert counts(metered({"promptTokenCount": 8}, written).usage) == {"input": 8, "output": 90, "reasoning": 67}
    whole = {"promptTokenCount": 8, "cachedContentTokenCount": 3, "candidatesTokenCount": 1, "totalTokenCount": 9}
    assert counts(metered(whole, written).usage) == {"input": 5, "cache_read": 3, "output": 90, "reasoning": 67}
    embedded = InputMeter()
    embedded.read(Raw(b'{"candidatesTokenCount": 5}'))
    assert embedded.usage is None


BAD = [-1, 1.5, True, "7", [], 10**9, 10**30]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", ["promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "totalTokenCount"])
def test_what_is_no_count_is_not_believed(name: str, bad: Any) -> None:
    good = {"promptTokenCount": 8, "candidatesTokenCount": 3}
    report = good | {name: bad}
    alone = metered(report)
    assert (alone.usage, alone.suspect) == (None, True)
    assert json.loads(alone.reported) == report
    after = metered(good, report)
    assert counts(after.usage) == {"input": 8, "output": 3}
    assert not after.suspect


def test_a_long_report_is_not_kept() -> None:
    meter = metered({"promptTokenCount": 8, "candidatesTokenCount": 3, "x": "y" * 2000})
    assert counts(meter.usage) == {"input": 8, "output": 3}
    assert meter.reported == b""


parts = st.lists(
    st.fixed_dictionaries(
        {"modality": st.sampled_from(["TEXT", "AUDIO", "IMAGE", "VIDEO"]), "tokenCount": st.integers(0, 300)}
    ),
    max_size=4,
)
fields = st.fixed_dictionaries(
    {"promptTokenCount": st.integers(0, 500)},
    optional={
        **dict.fromkeys(
            ("cachedContentTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "toolUsePromptTokenCount"),
            st.integers(0, 500),
        ),
        "totalTokenCount": st.integers(0, 2000),
        **dict.fromkeys(("promptTokensDetails", "cacheTokensDetails", "candidatesTokensDetails"), parts),
    },
)


@given(fields)
def test_no_token_stands_in_two_meters_and_none_is_lost(report: Report) -> None:
    meter = metered(report)
    usage = meter.usage or meter.told_first
    assert usage is not None
    assert all(getattr(usage, name) >= 0 for name in Usage.__struct_fields__ if name != "raw")
    assert usage.prompt == report["promptTokenCount"] + report.get("toolUsePromptTokenCount", 0)
    assert usage.reasoning <= usage.output
    if "candidatesTokenCount" in report:
        written = report["candidatesTokenCount"]
        assert usage.completion in (written, written + report.get("thoughtsTokenCount", 0))


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=4))
def test_any_json_is_read_without_a_complaint(report: Any) -> None:
    Meter().read(Raw(json.dumps({"promptTokenCount": report, "promptTokensDetails": report}).encode()))
    Meter().read(Raw(json.dumps(report).encode()))
