import json
from typing import Any

import pytest
from msgspec import Raw
from tests.wire.streams import RECEIPT

from tollbridge.values import Usage
from tollbridge.wire.anthropic_usage import Meter, counts
from tollbridge.wire.exchange import Receipt
from tollbridge.wire.usage import MOST


def raw(value: Any) -> Raw:
    return Raw(json.dumps(value).encode())


def read(*reports: Any) -> Meter:
    """The first of several reports is a `message_start`'s."""
    meter = Meter()
    for position, report in enumerate(reports):
        (meter.start if position == 0 and len(reports) > 1 else meter.read)(raw(report))
    return meter


def meters(usage: Usage | None) -> tuple[int, ...]:
    assert usage is not None
    return usage.input, usage.cache_read, usage.cache_write, usage.cache_write_1h, usage.output, usage.reasoning


FULL = {
    "input_tokens": 25,
    "cache_creation_input_tokens": 10,
    "cache_read_input_tokens": 7,
    "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 6},
    "output_tokens": 100,
    "output_tokens_details": {"thinking_tokens": 60},
    "server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 1},
    "service_tier": "standard",
    "inference_geo": "global",
}


def test_input_is_without_what_came_from_a_cache_and_output_with_thinking() -> None:
    usage = read(FULL).usage
    assert meters(usage) == (25, 7, 4, 6, 100, 60)
    assert usage is not None
    assert usage.searches == 3
    assert usage.prompt == 42
    assert not usage.suspect
    assert json.loads(usage.raw) == FULL


def test_a_stream_s_first_report_alone_is_no_usage() -> None:
    meter = Meter()
    meter.start(raw(FULL))
    assert meter.usage is None
    assert not meter.suspect
    assert meters(meter.told_first) == (25, 7, 4, 6, 0, 0)


@pytest.mark.parametrize(
    "report",
    [
        None,
        {},
        {"input_tokens": 0, "output_tokens": 1},
        {"input_tokens": -1},
        {"input_tokens": "many"},
        {"input_tokens": True},
    ],
)
def test_a_first_report_that_says_nothing_of_what_was_read_is_none(report: Any) -> None:
    meter = Meter()
    meter.start(raw(report))
    assert meter.told_first is None


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        ({"output_tokens": 89}, (25, 7, 4, 6, 89, 60)),
        ({"output_tokens": 0}, (25, 7, 4, 6, 0, 0)),
        # Recorded: the counts of what was read are repeated.
        ({"input_tokens": 25, "cache_creation_input_tokens": 10, "output_tokens": 89}, (25, 7, 4, 6, 89, 60)),
        # Server tools read more on the way; what the first report had of each cache still stands.
        ({"input_tokens": 90, "cache_read_input_tokens": 17, "output_tokens": 89}, (90, 17, 4, 6, 89, 60)),
        ({"input_tokens": 25, "cache_creation_input_tokens": 15, "output_tokens": 9}, (25, 7, 9, 6, 9, 9)),
        # Servers of others that know nothing of it at the end.
        ({"input_tokens": 0, "output_tokens": 89}, (25, 7, 4, 6, 89, 60)),
        ({"input_tokens": None, "cache_read_input_tokens": 0, "output_tokens": 89}, (25, 7, 4, 6, 89, 60)),
    ],
)
def test_a_message_delta_is_cumulative(delta: dict[str, Any], expected: tuple[int, ...]) -> None:
    assert meters(read(FULL, delta).usage) == expected


def test_servers_that_only_know_at_the_end_are_read() -> None:
    assert meters(read({"input_tokens": 0, "output_tokens": 0}, {"input_tokens": 12, "output_tokens": 3}).usage) == (
        *(12, 0, 0, 0, 3, 0),
    )
    assert meters(read({}, {"input_tokens": 12, "output_tokens": 3}).usage) == (12, 0, 0, 0, 3, 0)


@pytest.mark.parametrize("report", [{}, None, {"input_tokens": 5}, {"output_tokens": 5}, {"output_tokens": None}])
def test_a_report_without_both_counts_is_none(report: Any) -> None:
    meter = read(report)
    assert meter.usage is None
    assert not meter.suspect


@pytest.mark.parametrize("name", ["input_tokens", "output_tokens"])
@pytest.mark.parametrize("value", [-1, MOST + 1, 1.5, "7", True, [], {}, 10**30, 1e308])
def test_what_cannot_be_a_count_is_not_believed(name: str, value: Any) -> None:
    meter = read(FULL | {name: value})
    assert meter.usage is None
    assert meter.suspect
    assert json.loads(meter.reported)[name] == value


@pytest.mark.parametrize("text", [b"7", b'"7"', b"[]", b"NaN", b"{", b'{"input_tokens":NaN,"output_tokens":1}'])
def test_what_is_no_report_is_not_believed(text: bytes) -> None:
    meter = Meter()
    meter.read(Raw(text))
    assert meter.usage is None
    assert meter.suspect


def test_a_later_report_that_is_wrong_leaves_the_one_before() -> None:
    meter = read(FULL, {"output_tokens": 5}, {"output_tokens": -5})
    assert meters(meter.usage)[4] == 5
    assert not meter.suspect


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"cache_read_input_tokens": -7}, (25, 0, 4, 6, 100, 60)),
        ({"cache_creation_input_tokens": "10"}, (25, 7, 4, 6, 100, 60)),
        ({"cache_creation": {"ephemeral_1h_input_tokens": -6}}, (25, 7, 10, 0, 100, 60)),
        ({"cache_creation": {"ephemeral_1h_input_tokens": 60}}, (25, 7, 0, 10, 100, 60)),
        ({"output_tokens_details": {"thinking_tokens": 101}}, (25, 7, 4, 6, 100, 100)),
        ({"output_tokens_details": []}, (25, 7, 4, 6, 100, 0)),
        ({"server_tool_use": 3}, (25, 7, 4, 6, 100, 60)),
        ({"iterations": [{"input_tokens": -1}]}, (25, 7, 4, 6, 100, 60)),
    ],
)
def test_a_part_that_cannot_be_true_makes_it_suspect(part: dict[str, Any], expected: tuple[int, ...]) -> None:
    usage = read(FULL | part).usage
    assert meters(usage) == expected
    assert usage is not None
    assert usage.suspect


def test_a_whole_number_that_is_written_as_a_float_is_one() -> None:
    usage = read({"input_tokens": 5.0, "output_tokens": 2.0}).usage
    assert meters(usage) == (5, 0, 0, 0, 2, 0)
    assert usage is not None
    assert not usage.suspect


# Shapes after recordings of a compaction and of a fallback: the sum exceeds the numbers beside it.
COMPACTED = {
    "input_tokens": 181,
    "output_tokens": 8,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "iterations": [
        {"type": "compaction", "input_tokens": 55_196, "output_tokens": 83, "cache_read_input_tokens": 0},
        {"type": "message", "input_tokens": 181, "output_tokens": 8, "cache_creation_input_tokens": 0},
    ],
}


def test_iterations_are_the_real_bill() -> None:
    assert meters(read(COMPACTED).usage) == (55_377, 0, 0, 0, 91, 0)
    parts = [
        {"type": "message", "input_tokens": 400, "output_tokens": 8},
        {
            "type": "fallback_message",
            "input_tokens": 300,
            "output_tokens": 4,
            "cache_creation_input_tokens": 120,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 120},
        },
    ]
    fallback = {"input_tokens": 300, "cache_creation_input_tokens": 112, "output_tokens": 4, "iterations": parts}
    assert meters(read(fallback).usage) == (700, 0, 0, 120, 12, 0)
    part = {"input_tokens": 1, "output_tokens": 4, "cache_read_input_tokens": 2, "cache_creation_input_tokens": 3}
    assert meters(read(part | {"iterations": [part, part]}).usage) == (2, 4, 6, 0, 8, 0)


def test_iterations_in_a_message_delta_count() -> None:
    meter = read({"input_tokens": 181, "output_tokens": 1}, COMPACTED)
    assert meters(meter.usage) == (55_377, 0, 0, 0, 91, 0)


@pytest.mark.parametrize(
    "iterations",
    [
        [{"input_tokens": 181, "output_tokens": 1}],
        [{"input_tokens": 1, "output_tokens": 8}],
        [{}],
        [{"input_tokens": MOST, "output_tokens": 8}] * 2,
    ],
)
def test_iterations_that_cannot_be_the_bill_make_it_suspect(iterations: list[Any]) -> None:
    usage = read(COMPACTED | {"iterations": iterations}).usage
    assert meters(usage) == (181, 0, 0, 0, 8, 0)
    assert usage is not None
    assert usage.suspect


def test_the_caller_sees_the_provider_s_counts_and_our_money() -> None:
    shown = read(FULL | {"cost": 99, "balance": 1}).render(RECEIPT)
    details = {
        "upstream_inference_cost": Raw(b"0.0001"),
        "upstream_inference_prompt_cost": Raw(b"0.00006"),
        "upstream_inference_completions_cost": Raw(b"0.00004"),
    }
    money = {"cost": Raw(b"0.000123"), "cost_details": details}
    assert shown == {name: raw_compact(value) for name, value in FULL.items()} | money | {"balance": Raw(b"9.999877")}


def raw_compact(value: Any) -> Raw:
    return Raw(json.dumps(value).encode())


def test_what_was_counted_here_replaces_the_provider_s_counts() -> None:
    counted = Usage(input=3, output=4, estimated=True)
    shown = read(FULL).render(Receipt(charge=b"1", cost=b"1", usage=counted))
    assert {name: shown[name] for name in ("input_tokens", "output_tokens", "cache_read_input_tokens")} == {
        "input_tokens": 3,
        "output_tokens": 4,
        "cache_read_input_tokens": 0,
    }
    assert "cache_creation" not in shown


def test_no_meter_is_lost_on_the_way_to_a_client_of_this_dialect() -> None:
    usage = Usage(input=5, cache_read=4, cache_write=3, cache_write_1h=2, output=9, reasoning=6, searches=1)
    assert meters(read(counts(usage)).usage) == meters(usage)
    sound = Usage(input=5, audio_input=2, output=3, audio_output=4, image_output=1)
    assert (counts(sound)["input_tokens"], counts(sound)["output_tokens"]) == (7, 8)
