"""A row of `usage` says what the end of its hold was, column by column, and reads back as that."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tollbridge.core.ledger import EndRow, Record
from tollbridge.store.ledger.rows import USAGE_COLUMNS, end_row, usage_row
from tollbridge.values import Outcome

COLUMNS = USAGE_COLUMNS.split(", ")
RARE = ("audio_input", "audio_output", "image_output", "searches")
amounts = st.integers(0, 1 << 61)
counts = st.integers(0, 1 << 31)
records = st.builds(
    Record,
    **dict.fromkeys(("started_at", "price_version", "cost"), amounts),
    **dict.fromkeys(("duration_ms", "input", "cache_read", "cache_write", "cache_write_1h"), counts),
    **dict.fromkeys(("output", "reasoning", "status"), counts),
    **dict.fromkeys(RARE, st.just(0) | counts),
    **dict.fromkeys(("streamed", "estimated", "suspect", "byok"), st.booleans()),
    **dict.fromkeys(("raw", "attempts"), st.none() | st.just(b"{}")),
    first_byte_ms=st.none() | counts,
    outcome=st.sampled_from(Outcome),
    endpoint=st.sampled_from(["chat", "completions", "embeddings", "messages", "responses"]),
    finish=st.none() | st.sampled_from(["stop", ""]),
)
ends = st.builds(
    EndRow,
    **dict.fromkeys(("hold", "account_id", "key_id", "ended_at", "held", "charge", "promo", "loss"), amounts),
    record=records,
    limited=st.booleans(),
    allowance=st.none() | counts,
)


@given(ends)
def test_an_end_reads_back_from_its_row(end: EndRow) -> None:
    assert end_row(usage_row(end)) == end


@given(ends)
def test_each_column_has_what_it_is_called(end: EndRow) -> None:
    row = dict(zip(COLUMNS, usage_row(end, "nothing"), strict=True))
    said: dict[str, Any] = {name: getattr(end.record, name) for name in COLUMNS if hasattr(end.record, name)}
    said |= {name: getattr(end, name) for name in COLUMNS if hasattr(end, name)}
    said["hold_id"] = end.hold
    nullable = ("first_byte_ms", "raw", "attempts", "allowance")
    said |= {name: "nothing" for name in nullable if said[name] is None}
    rare = {name: getattr(end.record, name) for name in RARE if getattr(end.record, name)}
    meters = row.pop("meters")
    assert (json.loads(meters) if rare else meters) == (rare or "nothing")
    flags = row.pop("flags")
    assert [bool(flags & bit) for bit in (1, 2, 4, 8, 16)] == [
        *(end.record.streamed, end.record.estimated, end.record.suspect, end.limited, end.record.byok)
    ]
    assert row == said
    # sqlite3 would look for an adapter of a number of another type, and of bytes.
    assert type(row["outcome"]) is int
    assert type(row["raw"]) is not bytes
