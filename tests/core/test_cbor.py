"""The examples of RFC 8949, appendix A, that authenticators may write, and that everything else is refused."""

import time
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollbridge.core.cbor import DEEPEST, read

PLAIN = st.recursive(
    st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=300) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(-9, 9) | st.text(max_size=9), inner),
    max_leaves=DEEPEST,
)


@given(PLAIN)
def test_what_is_read_is_what_was_written_and_is_as_long_when_it_is_written_again(value: Any) -> None:
    data = cbor2.dumps(value)
    found = read(data + b"\xff")
    assert found == (value, len(data))
    assert len(cbor2.dumps(found[0])) == len(data)


@given(st.binary(max_size=60))
def test_whatever_is_read_a_general_decoder_reads_alike(data: bytes) -> None:
    try:
        value, end = read(data)
    except ValueError:
        return
    assert cbor2.loads(data[:end]) == value
    assert len(cbor2.dumps(value)) == end


@pytest.mark.parametrize(
    "data",
    [
        "",
        "18",  # cut off
        "1817",  # 23 in two bytes
        "190018",
        "1a0000ffff",
        "1b00000000ffffffff",
        "5802ff",
        "780100",
        "62ff",
        "9b0fffffffffffffff",
        "9f01ff",  # no length
        "5f4101ff",
        "bf6161f5ff",
        "c11a514b67b0",  # tags
        "c249010000000000000000",
        "c48221196ab3",
        "c5822003",
        "d8236161",
        "d81c81d81d00",
        "f7",  # undefined
        "f0",
        "f8ff",
        "f93e00",  # floats
        "fa47c35000",
        "fb3ff199999999999a",
        "a201000100",  # a key twice
        "a1f500",
        "a1810100",
        "a1414100",
        "81" * (DEEPEST + 1) + "00",
        "81" * 10_000,
    ],
)
def test_what_authenticators_do_not_write_is_refused(data: str) -> None:
    with pytest.raises(ValueError):
        read(bytes.fromhex(data))


def test_what_takes_a_general_decoder_minutes_is_refused_at_once() -> None:
    pattern = ("(?i)" + "[\u00e0-\U0010ffff]" * 20_000).encode()
    data = b"\xa1\x61x\xd8\x23\x7a" + len(pattern).to_bytes(4) + pattern
    began = time.process_time()
    with pytest.raises(ValueError, match="tag"):
        read(data)
    assert time.process_time() - began < 0.1
