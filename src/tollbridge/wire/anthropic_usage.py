"""Usage as Anthropic reports it.

Rule 1  One gate: a count is a whole number from 0 to `MOST`. If `input_tokens` or `output_tokens` is anything else
        (negative, NaN, a string, absurdly large), the report is not believed at all; without either there is no report.
        Any other part that is not a count is 0, and the usage is marked suspect.
Rule 2  `input_tokens` EXCLUDES what was read from a cache and written to one; `output_tokens` INCLUDES thinking.
Rule 3  In a stream, `message_start` says what was read, and `message_delta` what was written, cumulatively: later
        counts replace earlier ones. Only a `message_delta` makes a usage, because the first report says next to nothing
        about the output; if no other comes, it tells what was read, and the output is counted here. A `message_delta`
        that repeats no count of what was read, or has 0 for all of them, leaves those of `message_start`.
Rule 4  `iterations`, if there are any, are the real bill: the other numbers do not include what a compaction or a
        declined attempt used. They are added up, unless that gives less than the other numbers (suspect).

From the types of Anthropic's SDK (`Usage`, `MessageDeltaUsage`, `BetaIterationsUsage`).
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

from tollbridge.values import Usage
from tollbridge.wire.body import NULL
from tollbridge.wire.exchange import Receipt
from tollbridge.wire.usage import MAX_RAW, MONEY, MOST, Unbelievable, count, money

_Count = Annotated[int, Meta(ge=0, le=MOST)]


class _Creation(msgspec.Struct, gc=False):
    ephemeral_5m_input_tokens: _Count | None = None
    ephemeral_1h_input_tokens: _Count | None = None


class _Counts(msgspec.Struct, gc=False):
    """The counts of an answer, or of one iteration."""

    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None
    cache_read_input_tokens: _Count | None = None
    cache_creation: _Creation | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    thinking_tokens: _Count | None = None


class _ServerTools(msgspec.Struct, gc=False):
    web_search_requests: _Count | None = None


class _Report(_Counts, gc=False):
    output_tokens_details: _OutputDetails | None = None
    server_tool_use: _ServerTools | None = None
    iterations: list[_Counts] | None = None


_decode_report = msgspec.json.Decoder(_Report).decode
_decode_fields = msgspec.json.Decoder(dict[str, Raw] | None).decode
_PARTS = {
    "cache_creation_input_tokens": int,
    "cache_read_input_tokens": int,
    "cache_creation": _Creation,
    "output_tokens_details": _OutputDetails,
    "server_tool_use": _ServerTools,
    "iterations": list[_Counts],
}
_READ = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_NONE = (NULL, Raw(b"0"))


class Meter:
    """What one answer's provider reported, however often."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.reported = b""
        self.told_first: Usage | None = None
        self._members: dict[str, Raw] = {}
        self._has_unbelievable = False

    @property
    def suspect(self) -> bool:
        """Something was reported, and none of it can be believed."""
        return self._has_unbelievable and self.usage is None

    def start(self, raw: Raw) -> None:
        """Take the report of a `message_start`, which may be any JSON value."""
        self._members = _fields(raw) or {}
        try:
            report, _ = _report(msgspec.json.encode(self._members), self._members)
        except Unbelievable:
            return
        read, _ = _meters(report, b"")
        self.told_first = msgspec.structs.replace(read, output=0) if read.prompt else None

    def read(self, raw: Raw) -> None:
        """Take a report of the whole, or of all so far; it may be any JSON value."""
        given = _fields(raw)
        if given is None:
            self._has_unbelievable |= raw != NULL
            return
        if all(given.get(name, NULL) in _NONE for name in _READ):
            given = {name: value for name, value in given.items() if name not in _READ or name not in self._members}
        members = self._members | {name: value for name, value in given.items() if value != NULL}
        text = msgspec.json.encode(members)
        short = text if len(text) <= MAX_RAW else b""
        try:
            usage = _usage(text, members, short)
        except Unbelievable:
            self._has_unbelievable = True
            if self.usage is None:
                self.reported = short
            return
        self._members = members
        if usage is not None:
            self.usage = usage
            self.reported = short

    def render(self, receipt: Receipt | None) -> dict[str, Any]:
        """The members of the usage object for the caller: the provider's own without its money, and ours.

        What was counted here replaces its counts.
        """
        counted = None if receipt is None else receipt.usage
        fields: dict[str, Any] = {}
        if counted is None and self.usage is not None:
            fields.update((name, value) for name, value in self._members.items() if name not in MONEY)
        else:
            fields.update(counts(counted or Usage()))
        if receipt is not None:
            fields.update(money(receipt))
        return fields


def counts(usage: Usage) -> dict[str, Any]:
    """The counts of `usage` in Anthropic's words."""
    written = usage.cache_write + usage.cache_write_1h
    fields: dict[str, Any] = {
        "input_tokens": usage.input + usage.audio_input,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.completion,
    }
    if written:
        fields["cache_creation"] = {
            "ephemeral_5m_input_tokens": usage.cache_write,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        }
    if usage.reasoning:
        fields["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    if usage.searches:
        fields["server_tool_use"] = {"web_search_requests": usage.searches, "web_fetch_requests": 0}
    return fields


def _fields(raw: Raw) -> dict[str, Raw] | None:
    try:
        fields: dict[str, Raw] | None = _decode_fields(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
    return fields


def _usage(text: bytes, members: dict[str, Raw], raw: bytes) -> Usage | None:
    report, is_suspect = _report(text, members)
    if report.input_tokens is None or report.output_tokens is None:
        return None
    total, is_odd = _meters(report, raw)
    is_suspect |= is_odd
    if report.iterations:
        bill = Usage(raw=raw)
        for iteration in report.iterations:
            part, is_odd = _meters(iteration, raw)
            is_suspect |= is_odd
            bill = _sum(bill, part)
        if bill.prompt < total.prompt or bill.output < total.output or max(bill.prompt, bill.output) > MOST:
            is_suspect = True
        else:
            total = bill
    thought = (report.output_tokens_details and report.output_tokens_details.thinking_tokens) or 0
    searches = (report.server_tool_use and report.server_tool_use.web_search_requests) or 0
    return msgspec.structs.replace(
        total,
        reasoning=min(thought, total.output),
        searches=searches,
        suspect=is_suspect or thought > total.output,
    )


def _report(text: bytes, members: dict[str, Raw]) -> tuple[_Report, bool]:
    """The report in `text`, whose members are `members`, and whether a part of it had to be left out."""
    try:
        return _decode_report(text), False
    except (msgspec.DecodeError, RecursionError):
        return _leniently(members)


def _meters(given: _Counts, raw: bytes) -> tuple[Usage, bool]:
    """Disjoint meters, and whether the parts of what was written to a cache exceed the whole."""
    parts = given.cache_creation or _Creation()
    short, long = parts.ephemeral_5m_input_tokens or 0, parts.ephemeral_1h_input_tokens or 0
    written = given.cache_creation_input_tokens
    if written is None:
        written = short + long
    is_odd = short + long > written
    long = min(long, written)
    usage = Usage(
        input=given.input_tokens or 0,
        cache_read=given.cache_read_input_tokens or 0,
        cache_write=written - long,
        cache_write_1h=long,
        output=given.output_tokens or 0,
        raw=raw,
    )
    return usage, is_odd


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        input=one.input + other.input,
        cache_read=one.cache_read + other.cache_read,
        cache_write=one.cache_write + other.cache_write,
        cache_write_1h=one.cache_write_1h + other.cache_write_1h,
        output=one.output + other.output,
        raw=one.raw,
    )


def _leniently(members: dict[str, Raw]) -> tuple[_Report, bool]:
    """A report in which not everything is a count, and whether a part of it had to be left out."""
    report = _Report(
        input_tokens=_count(members.get("input_tokens", NULL)),
        output_tokens=_count(members.get("output_tokens", NULL)),
    )
    is_suspect = False
    for name, kind in _PARTS.items():
        raw = members.get(name, NULL)
        if raw == NULL:
            continue
        try:
            setattr(report, name, _count(raw) if kind is int else msgspec.json.decode(raw, type=kind))
        except (Unbelievable, msgspec.DecodeError, RecursionError):
            is_suspect = True
    return report, is_suspect


def _count(raw: Raw) -> int | None:
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        raise Unbelievable from None
    return count(value)
