"""A public id leads back to its hold, tells nothing else, and cannot be made up."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollbridge.core.ids import KEY_BYTES, PREFIXES, Ids
from tollbridge.core.ledger import hold_id

IDS = Ids(bytes(range(KEY_BYTES)))


@given(st.integers(0, (1 << 64) - 1), st.sampled_from(sorted(PREFIXES)))
def test_an_id_leads_back_to_its_hold(hold: int, endpoint: str) -> None:
    assert IDS.decode(IDS.encode(endpoint, hold)) == hold


def test_neighbours_look_unrelated() -> None:
    ids = [IDS.encode("chat", hold_id(3, counter)) for counter in range(1000)]
    assert len({each[:17] for each in ids}) > 990
    assert all(len(each) == len("chatcmpl-") + 32 for each in ids)


def test_another_key_makes_other_ids() -> None:
    other = Ids(bytes(KEY_BYTES))
    assert other.encode("chat", 7) != IDS.encode("chat", 7)
    assert other.decode(IDS.encode("chat", 7)) is None


@given(st.text(max_size=60))
def test_any_text_can_be_asked(text: str) -> None:
    assert IDS.decode(text) is None
    assert IDS.decode(f"chatcmpl-{text}") is None


def test_made_up_ids_lead_nowhere() -> None:
    chance = random.Random(20260103)
    made_up = (f"chatcmpl-{chance.randbytes(16).hex()}" for _ in range(20_000))
    assert [each for each in made_up if IDS.decode(each) is not None] == []


@pytest.mark.parametrize("change", [lambda text: text[:-1], lambda text: text + "0", lambda text: "x" + text])
def test_an_id_is_exact(change: object) -> None:
    assert callable(change)
    assert IDS.decode(change(IDS.encode("chat", 7))) is None


def test_blanks_between_digits_make_no_id() -> None:
    text = IDS.encode("chat", 7)
    assert IDS.decode(text[:-2] + "  ") is None
    assert IDS.decode("chatcmpl-" + " ".join("00" for _ in range(11))) is None


def test_a_key_has_its_length() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Ids(bytes(32))
