"""No text that was not made here passes for a key, and every key that was does."""

import random
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollbridge.core.keys import ALPHABET, RANDOM_BYTES, base62, hint, make, well_formed

PREFIX = "tb_live_"
KEY = make(PREFIX, bytes(range(RANDOM_BYTES)))


@given(st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES), st.sampled_from(["tb_live_", "mb-", "A_"]))
def test_a_key_has_its_form(chance: bytes, prefix: str) -> None:
    key = make(prefix, chance)
    assert re.fullmatch(re.escape(prefix) + "[0-9A-Za-z]{38}", key)
    assert well_formed(prefix, key)


def test_the_form_never_changes() -> None:
    """A key handed out once stays one."""
    assert make("tb_live_", bytes(RANDOM_BYTES)) == "tb_live_" + "0" * 32 + "0gMchR"
    assert well_formed("mb-", make("mb-", b"\xff" * RANDOM_BYTES))


def test_a_hundred_thousand_made_up_keys_are_refused() -> None:
    """B2. A made-up checksum is right once in 4 × 10⁹."""
    chance = random.Random(20260101)
    accepted = [
        text for _ in range(100_000) if well_formed(PREFIX, text := PREFIX + "".join(chance.choices(ALPHABET, k=38)))
    ]
    assert accepted == []


def test_a_hundred_thousand_mutated_keys_are_refused() -> None:
    """B2: mistyped, cut, swapped, doubled, in the wrong case. A burst of 32 bits or less never escapes a CRC32."""
    chance = random.Random(20260102)
    for _ in range(20_000):
        key = make(PREFIX, chance.randbytes(RANDOM_BYTES))
        at = chance.randrange(len(key))
        other = chance.choice([each for each in string.printable + "é…\x00" if each != key[at]])
        for wrong in (
            key[:at] + other + key[at + 1 :],
            key[:at] + key[at + 1 :],
            key[:at] + other + key[at:],
            key[:at],
            key[at + 1 :],
        ):
            assert not well_formed(PREFIX, wrong), (key, wrong)
        swapped = key[:at] + key[at : at + 2][::-1] + key[at + 2 :]
        assert swapped == key or not well_formed(PREFIX, swapped)


@given(st.text(max_size=60))
def test_any_text_can_be_asked(text: str) -> None:
    assert not well_formed(PREFIX, text)
    assert not well_formed(PREFIX, PREFIX + text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        PREFIX,
        KEY + "\n",
        " " + KEY,
        KEY.swapcase(),
        KEY.replace(KEY[20], "٣"),  # a digit, elsewhere
        "' OR 1=1 --",
        PREFIX + "' UNION SELECT digest FROM api_key --"[:38],
        "sk-" + KEY[len(PREFIX) :],
    ],
)
def test_what_is_no_key_is_none(text: str) -> None:
    assert not well_formed(PREFIX, text)


def test_a_key_of_another_prefix_is_none_here() -> None:
    assert not well_formed("mb-", KEY)
    assert not well_formed(PREFIX, make("tb_test_", bytes(RANDOM_BYTES)))


def test_a_hint_tells_the_prefix_and_four_characters() -> None:
    assert hint(PREFIX, KEY) == f"tb_live_…{KEY[-4:]}"


def test_a_key_takes_all_of_its_chance() -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        make(PREFIX, bytes(24))


@given(st.integers(0, 62**8 - 1))
def test_base62_counts(number: int) -> None:
    value = 0
    for digit in base62(number, 8):
        value = value * 62 + ALPHABET.index(digit)
    assert value == number
