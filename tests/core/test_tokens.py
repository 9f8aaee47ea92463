from pathlib import Path

import pytest

from tollbridge.core import tokens

SAMPLES = Path(__file__).parent / "samples"

# Counted with OpenAI's cl100k_base encoding.
REAL = {"chinese.txt": 66, "code.py.txt": 162, "data.json": 129, "english.txt": 139, "german.txt": 67, "notes.md": 108}


@pytest.mark.parametrize("name", REAL)
def test_local_count_of_each_kind_of_text_is_near_the_real_one(name: str) -> None:
    counted = tokens.count((SAMPLES / name).read_bytes())
    assert REAL[name] * 0.75 <= counted <= REAL[name] * 1.2


def test_local_count_of_a_mixed_corpus_is_within_five_percent() -> None:
    counted = sum(tokens.count((SAMPLES / name).read_bytes()) for name in REAL)
    assert sum(REAL.values()) * 0.95 <= counted <= sum(REAL.values()) * 1.05


def test_count_adds_up_however_the_text_is_cut() -> None:
    text = "Grüße, 123 {world}!\n".encode() * 30
    classes = tokens.TextClasses()
    for start in range(0, len(text), 7):
        classes.add(text[start : start + 7])
    assert classes.tokens == tokens.count(text)


def test_hold_of_a_prompt_is_above_its_count() -> None:
    assert tokens.with_margin(1000) == 1300
    for most in (*range(400), 128_000, 1_048_576):
        estimate = tokens.without_margin(most)
        assert tokens.with_margin(estimate) <= most < tokens.with_margin(estimate + 1)
    assert tokens.count_prompt(b"", messages=2) == 2 * tokens.PER_MESSAGE + tokens.PER_REQUEST


@pytest.mark.parametrize(("said", "real"), [("hi", 8), ("Hello, how are you doing today?", 15)])
def test_what_is_read_of_a_message_is_its_text_and_the_template(said: str, real: int) -> None:
    """`real`: what OpenAI reports for it."""
    text = b'[{"role":"user","content":"%b"}]' % said.encode()
    assert abs(tokens.count_read(text, messages=1) - real) <= 1
    assert tokens.count_read(text, messages=1) < tokens.count_prompt(text, messages=1)
    assert tokens.count_read(b"", messages=5) == 1
