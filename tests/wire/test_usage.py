import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollbridge.values import Usage
from tollbridge.wire import usage as usage_module
from tollbridge.wire.exchange import Receipt
from tollbridge.wire.usage import MOST, InputMeter, Meter, render

RECEIPT = Receipt(
    charge=b"0.000000001", cost=b"0.000000009", balance=b"12.5", read_cost=b"0.000000002", written_cost=b"0.000000007"
)


def metered(report: Any, *, produces: bool = True) -> Meter:
    meter = (Meter if produces else InputMeter)()
    meter.read(msgspec.Raw(json.dumps(report, separators=(",", ":")).encode()))
    return meter


def shown(meter: Meter, receipt: Receipt | None = RECEIPT) -> Any:
    raw = meter.render(receipt)
    assert raw is not None
    return json.loads(bytes(raw))


def plain(prompt: Any, completion: Any, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, **more}


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (plain(9, 7, total_tokens=16), Usage(input=9, output=7)),
        (plain(9, 7), Usage(input=9, output=7)),
        (plain(9, None, total_tokens=16), Usage(input=9, output=7)),
        ({"prompt_tokens": 9, "total_tokens": 9}, Usage(input=9, output=0)),
        (plain(9, 7, prompt_tokens_details={"cached_tokens": 4}), Usage(input=5, cache_read=4, output=7)),
        (plain(9, 7, prompt_cache_hit_tokens=4, prompt_cache_miss_tokens=5), Usage(input=5, cache_read=4, output=7)),
        (plain(9, 7, cached_tokens=4), Usage(input=5, cache_read=4, output=7)),
        (plain(9, 7, cached_tokens=4, prompt_tokens_details=None), Usage(input=5, cache_read=4, output=7)),
        (
            plain(9, 7, prompt_cache_hit_tokens=4, prompt_tokens_details={"cached_tokens": 4}),
            Usage(input=5, cache_read=4, output=7),
        ),
        (
            plain(9, 7, prompt_tokens_details={"cached_tokens": 4, "cache_write_tokens": 3}),
            Usage(input=2, cache_read=4, cache_write=3, output=7),
        ),
        (
            plain(9, 7, prompt_tokens_details={"cached_tokens": 0, "cache_creation_input_tokens": 9}),
            Usage(input=0, cache_write=9, output=7),
        ),
        (
            plain(2168, 100, prompt_tokens_details={"cached_tokens": 2161, "cache_write_tokens": 2161}),
            Usage(input=7, cache_write=2161, output=100),
        ),
        (
            plain(9000, 100, prompt_tokens_details={"cached_tokens": 2161, "cache_write_tokens": 2161}),
            Usage(input=6839, cache_write=2161, output=100),
        ),
        (
            plain(2168, 100, prompt_tokens_details={"cached_tokens": 2161, "cache_write_tokens": 61}),
            Usage(input=7, cache_read=2100, cache_write=61, output=100),
        ),
        (plain(9, 7, completion_tokens_details={"reasoning_tokens": 5}), Usage(input=9, output=7, reasoning=5)),
        (
            plain(9, 7, completion_tokens_details={"reasoning_tokens": 5}, total_tokens=16),
            Usage(input=9, output=7, reasoning=5),
        ),
        # xAI: 32 + 9 + 94 = 135
        (
            plain(32, 9, completion_tokens_details={"reasoning_tokens": 94}, total_tokens=135),
            Usage(input=32, output=103, reasoning=94),
        ),
        (
            plain(16, 4, server_tool_use_details={"web_search_requests": 3}, total_tokens=20),
            Usage(input=16, output=4, searches=3),
        ),
        (plain(16, 4, server_tool_use_details={"tool_calls_executed": 1}), Usage(input=16, output=4)),
        (plain(64, 6, num_cached_tokens=32, total_tokens=70), Usage(input=32, cache_read=32, output=6)),
        (plain(9.0, 7.0, total_tokens=16.0), Usage(input=9, output=7)),
        (plain(MOST, 0), Usage(input=MOST)),
        (plain(9, 7, prompt_tokens_details="many", x={"y": [1]}), Usage(input=9, output=7)),
    ],
)
def test_meters_are_disjoint_by_openai_s_convention(report: Any, expected: Usage) -> None:
    meter = metered(report)
    assert meter.usage is not None
    assert msgspec.structs.replace(meter.usage, raw=b"") == expected
    assert meter.usage.prompt == int(report["prompt_tokens"])
    assert json.loads(meter.usage.raw) == report
    assert not meter.suspect


@pytest.mark.parametrize(
    ("where", "name"),
    [
        *(("prompt_tokens_details", f"{name}_tokens") for name in ("cached", "cache_write", "audio")),
        ("prompt_tokens_details", "cache_creation_input_tokens"),
        *(("completion_tokens_details", f"{name}_tokens") for name in ("reasoning", "audio", "image")),
    ],
)
def test_parts_are_metered_whether_or_not_the_report_says_a_total(where: str, name: str) -> None:
    report = plain(9, 7, **{where: {name: 4}})
    without, with_total = (metered(each).usage for each in (report, {**report, "total_tokens": 16}))
    assert without is not None
    assert with_total is not None
    assert msgspec.structs.replace(with_total, raw=without.raw) == without
    assert msgspec.structs.replace(without, raw=b"") != Usage(input=9, output=7)


def test_explicit_zero_is_a_count() -> None:
    meter = metered(plain(0, 0, total_tokens=0))
    assert meter.usage is not None
    assert (meter.usage.prompt, meter.usage.output, meter.usage.estimated) == (0, 0, False)


@pytest.mark.parametrize(
    "report",
    [
        None,
        {},
        {"prompt_tokens": None},
        plain(None, 7),
        plain(9, None),
        {"total_tokens": 5},
        {"cost": 1},
        plain(9, None, total_tokens=8),
    ],
)
def test_what_says_no_counts_is_no_usage(report: Any) -> None:
    meter = metered(report)
    assert meter.usage is None
    assert not meter.suspect


BAD = [-1, -0.5, 1.5, "9", "", True, False, MOST + 1, 1e12, 10**30, [], {}, [9], {"a": 1}]


@pytest.mark.parametrize("bad", BAD, ids=repr)
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens", "total_tokens"])
def test_a_count_that_is_none_makes_the_report_unbelievable(name: str, bad: Any) -> None:
    meter = metered({"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16, name: bad})
    assert meter.usage is None
    assert meter.suspect
    assert json.loads(meter.reported)[name] == bad


@pytest.mark.parametrize("raw", [b"7", b'"many"', b"[]", b"true", b'{"prompt_tokens": 1e999, "completion_tokens": 1}'])
def test_what_is_no_report_is_unbelievable(raw: bytes) -> None:
    meter = Meter()
    meter.read(msgspec.Raw(raw))
    assert meter.usage is None
    assert meter.suspect


@pytest.mark.parametrize("bad", BAD, ids=repr)
@pytest.mark.parametrize(
    "where",
    [
        *("prompt_tokens_details.cached_tokens", "completion_tokens_details.reasoning_tokens"),
        *("cached_tokens", "num_cached_tokens", "server_tool_use_details.web_search_requests"),
    ],
)
def test_a_part_that_is_no_count_is_left_out_and_marked(where: str, bad: Any) -> None:
    outer, _, inner = where.partition(".")
    usage = metered(plain(9, 7, **{outer: {inner: bad} if inner else bad})).usage
    assert usage is not None
    assert usage.suspect
    assert (usage.input, usage.output, usage.cache_read, usage.reasoning) == (9, 7, 0, 0)


@pytest.mark.parametrize(
    ("more", "read", "written", "reasoning"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 10}}, 9, 0, 0),
        ({"prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 6}}, 5, 4, 0),
        ({"completion_tokens_details": {"reasoning_tokens": 8}}, 0, 0, 7),
    ],
)
def test_a_part_larger_than_its_whole_is_cut_and_marked(
    more: dict[str, Any], read: int, written: int, reasoning: int
) -> None:
    usage = metered(plain(9, 7, **more)).usage
    assert usage is not None
    assert usage.suspect
    assert (usage.prompt, usage.output) == (9, 7)
    assert (usage.cache_read, usage.cache_write, usage.reasoning) == (read, written, reasoning)


def test_a_total_that_nothing_explains_is_marked_and_not_charged() -> None:
    usage = metered(plain(6, 9, total_tokens=58)).usage
    assert usage is not None
    assert usage.suspect
    assert (usage.prompt, usage.output) == (6, 9)


def test_the_last_report_that_can_be_believed_counts() -> None:
    meter = Meter()
    for report in (plain(9, 1), plain(9, 5), plain(9, -1), None, {}, plain("x", 5)):
        meter.read(msgspec.Raw(json.dumps(report).encode()))
    assert meter.usage is not None
    assert meter.usage.output == 5
    assert not meter.suspect
    assert json.loads(meter.reported) == plain(9, 5)


def test_raw_usage_is_kept_up_to_a_kilobyte() -> None:
    assert len(metered(plain(9, 7, x="x" * 900)).reported) > 900
    meter = metered(plain(9, 7, x="x" * 1100))
    assert meter.usage is not None
    assert meter.usage.raw == meter.reported == b""
    assert shown(meter)["x"] == "x" * 1100


def test_embeddings_produce_nothing() -> None:
    for report in ({"prompt_tokens": 9, "total_tokens": 9}, {"total_tokens": 9}, plain(9, 5, total_tokens=14)):
        meter = metered(report, produces=False)
        assert meter.usage is not None
        assert (meter.usage.input, meter.usage.output) == (9, 0)
        assert shown(meter)["total_tokens"] == 9
    told = shown(metered({"total_tokens": 9}, produces=False))
    assert told["prompt_tokens"] == told["total_tokens"] == 9
    assert "completion_tokens" not in told
    assert metered({}, produces=False).usage is None


# --- Shown ---


@pytest.mark.parametrize(
    "report",
    [
        plain(9, 7),
        plain(9, 7, total_tokens=16),
        plain(9, None, total_tokens=16),
        {"prompt_tokens": 9, "total_tokens": 16},
        plain(9, 7, total_tokens=1),
        plain(9, 7, total_tokens=161),
        plain(9, 7, x={"total_tokens": 16}),
        plain(9.0, 7.0, total_tokens=16.0),
        {"total_tokens": 16, "completion_tokens": 7, "prompt_tokens": 9},
    ],
)
def test_all_three_counts_are_always_shown(report: Any) -> None:
    usage = shown(metered(report))
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (9, 7, 16)
    assert usage["balance"] == 12.5


def costs(cost: float, read: float, written: float) -> dict[str, float]:
    return {
        "upstream_inference_cost": cost,
        "upstream_inference_prompt_cost": read,
        "upstream_inference_completions_cost": written,
    }


def test_money_is_printed_as_it_was_given() -> None:
    meter = metered(plain(9, 7))
    assert meter.render(RECEIPT) == msgspec.Raw(
        b'{"prompt_tokens":9,"completion_tokens":7,"total_tokens":16,'
        b'"cost":0.000000001,"cost_details":{"upstream_inference_cost":0.000000009,'
        b'"upstream_inference_prompt_cost":0.000000002,"upstream_inference_completions_cost":0.000000007},"balance":12.5}'
    )


def test_balance_is_left_out_when_it_is_not_known() -> None:
    assert "balance" not in shown(metered(plain(9, 7)), Receipt(charge=b"1", cost=b"1"))


def test_members_of_the_provider_stay_but_for_its_money() -> None:
    report = plain(9, 7, total_tokens=99, queue_time=0.25, cost=5, cost_details={"x": 1}, is_byok=True, balance=7)
    assert shown(metered(report), None) == plain(9, 7, total_tokens=16, queue_time=0.25)
    assert shown(metered(report))["cost"] == 1e-9


def test_cache_and_reasoning_are_said_in_openai_s_words_too() -> None:
    usage = shown(metered(plain(9, 7, cached_tokens=4)))
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4}
    assert usage["cached_tokens"] == 4
    usage = shown(metered(plain(9, 7, prompt_cache_hit_tokens=4, prompt_tokens_details={"audio_tokens": 1})))
    assert usage["prompt_tokens_details"] == {"audio_tokens": 1, "cached_tokens": 4}
    usage = shown(metered(plain(32, 9, completion_tokens_details={"reasoning_tokens": 94}, total_tokens=135)))
    assert (usage["completion_tokens"], usage["total_tokens"]) == (103, 135)


def test_what_was_counted_here_replaces_what_cannot_be_believed() -> None:
    meter = metered(plain(-5, 7, junk=1))
    counted = Usage(input=3, output=2, estimated=True, suspect=True)
    assert shown(meter, Receipt(charge=b"0", cost=b"0", usage=counted)) == {
        **plain(3, 2, total_tokens=5),
        "cost": 0,
        "cost_details": costs(0, 0, 0),
    }


def test_what_was_counted_here_replaces_what_is_not_charged() -> None:
    counted = Usage(input=3, cache_write=1, cache_write_1h=2, output=2, estimated=True)
    usage = shown(metered(plain(0, 7, total_tokens=7)), Receipt(charge=b"0", cost=b"0", usage=counted))
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (6, 2, 8)
    assert usage["prompt_tokens_details"] == {"cache_write_tokens": 3}


def test_nothing_known_is_nothing_shown() -> None:
    assert metered(None).render(None) is None


counts = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=3), st.integers(0, 1000))
details = st.dictionaries(
    st.sampled_from(["cached_tokens", "cache_write_tokens", "reasoning_tokens", "cache_creation_input_tokens", "x"]),
    counts,
)
reports = st.dictionaries(
    st.sampled_from(
        [
            *("prompt_tokens", "completion_tokens", "total_tokens", "prompt_cache_hit_tokens", "cached_tokens", "cost"),
            *("prompt_tokens_details", "completion_tokens_details"),
        ]
    ),
    counts | details,
)


@given(reports, st.booleans())
def test_whatever_is_reported_meters_are_counts_that_add_up(report: dict[str, Any], produces: bool) -> None:
    try:
        raw = json.dumps(report, allow_nan=False).encode()
    except ValueError:
        return
    meter = (Meter if produces else InputMeter)()
    meter.read(msgspec.Raw(raw))
    usage = meter.usage
    if usage is not None:
        parts = [usage.input, usage.cache_read, usage.cache_write, usage.output, usage.reasoning]
        assert all(type(part) is int and 0 <= part <= 2 * MOST for part in parts)
        assert usage.reasoning <= usage.output
        prompt = report.get("prompt_tokens")
        assert usage.prompt == (report["total_tokens"] if prompt is None else prompt)
    rendered = meter.render(RECEIPT)
    assert rendered is not None
    json.loads(bytes(rendered))


few = st.sampled_from([0, 0, 0, None, 1, 2, "x"])
parts = st.dictionaries(
    st.sampled_from(
        [
            *("cached_tokens", "cache_write_tokens", "cache_creation_input_tokens", "audio_tokens"),
            *("reasoning_tokens", "image_tokens", "accepted_prediction_tokens"),
        ]
    ),
    few,
    max_size=3,
)


@given(
    counts=st.fixed_dictionaries(dict.fromkeys(("prompt_tokens", "completion_tokens"), st.integers(0, 5))),
    more=st.dictionaries(
        st.sampled_from(
            [
                *("prompt_cache_hit_tokens", "cached_tokens", "x", "cost_in_ticks"),
                *("cost", "cost_details", "is_byok", "balance"),
            ]
        ),
        few,
        max_size=2,
    ),
    details=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("prompt_tokens_details", "completion_tokens_details"), parts | st.none())
    ),
    beyond=st.sampled_from([0, 0, 0, 1, -1]),
    produces=st.booleans(),
)
def test_a_report_without_parts_is_read_and_shown_as_any_other(
    counts: dict[str, int], more: dict[str, Any], details: dict[str, Any], beyond: int, produces: bool
) -> None:
    written = counts["completion_tokens"] if produces else 0
    report = {**counts, "total_tokens": max(0, counts["prompt_tokens"] + written + beyond), **more, **details}
    meter = metered(report, produces=produces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usage_module, "_has_no_parts", lambda report: False)
        thorough = metered(report, produces=produces)
    assert meter.usage == thorough.usage
    for receipt in (RECEIPT, msgspec.structs.replace(RECEIPT, balance=None, byok=True), None):
        assert shown(meter, receipt) == shown(thorough, receipt)


def test_the_provider_s_money_goes_however_its_name_is_written() -> None:
    meter = Meter()
    meter.read(msgspec.Raw(rb'{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"\u0063ost":null}'))
    raw = meter.render(RECEIPT)
    assert raw is not None
    assert bytes(raw).count(b"ost") == len(
        [b"cost", b"cost_details", b"inference_cost", b"prompt_cost", b"completions_cost"]
    )


def test_sound_and_drawn_pictures_are_metered_apart_and_written_back() -> None:
    report = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 20, "audio_tokens": 30},
        "completion_tokens_details": {"reasoning_tokens": 5, "audio_tokens": 10, "image_tokens": 15},
    }
    meter = Meter()
    meter.read(msgspec.Raw(json.dumps(report).encode()))
    usage = meter.usage
    assert usage is not None
    assert (usage.input, usage.cache_read, usage.audio_input, usage.prompt) == (50, 20, 30, 100)
    assert (usage.output, usage.reasoning, usage.audio_output, usage.image_output) == (25, 5, 10, 15)
    assert not usage.suspect
    shown = json.loads(bytes(meter.render(None) or b""))
    assert shown == report
    assert json.loads(bytes(render(usage, None) or b"")) == report


def test_sound_that_only_the_total_counts_is_metered_and_said_to_be_in_the_prompt() -> None:
    # Mistral: 9 + 375 of sound + 201 = 585
    meter = metered(plain(9, 201, prompt_tokens_details={"audio_tokens": 375}, total_tokens=585))
    usage = meter.usage
    assert usage is not None
    assert (usage.input, usage.audio_input, usage.output, usage.suspect) == (9, 375, 201, False)
    shown = json.loads(bytes(meter.render(None) or b""))
    assert shown == plain(384, 201, prompt_tokens_details={"audio_tokens": 375}, total_tokens=585)


def test_more_sound_than_there_was_of_anything_is_suspect() -> None:
    meter = Meter()
    meter.read(msgspec.Raw(b'{"prompt_tokens":1,"completion_tokens":2,"completion_tokens_details":{"audio_tokens":3}}'))
    assert meter.usage is not None
    assert (meter.usage.suspect, meter.usage.completion) == (True, 2)


def test_drawn_pictures_thoughts_and_sound_are_parts_of_one_output() -> None:
    parts = {"reasoning_tokens": 3, "audio_tokens": 3, "image_tokens": 3}
    for output, suspect in ((9, False), (8, True)):
        usage = metered(plain(1, output, completion_tokens_details=parts)).usage
        assert usage is not None
        assert usage.suspect is suspect


def test_an_answer_of_another_dialect_says_its_money_too() -> None:
    usage = Usage(input=3, output=4, estimated=True)
    receipt = Receipt(b"0.5", b"0.25", b"1.75", usage, read_cost=b"0.05", written_cost=b"0.2")
    assert json.loads(bytes(render(Usage(input=1), receipt) or b"")) == {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "cost": 0.5,
        "cost_details": costs(0.25, 0.05, 0.2),
        "balance": 1.75,
    }
    assert render(None, None) is None
