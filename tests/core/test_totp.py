"""RFC 6238, appendix B (its eight digits end in our six), and each code once."""

import base64

import pytest

from tollbridge.core.totp import STEP_S, base32, code, matching_step, uri

SECRET = b"12345678901234567890"


@pytest.mark.parametrize(
    ("seconds", "digits"),
    [
        (59, "94287082"),
        (1111111109, "07081804"),
        (1111111111, "14050471"),
        (1234567890, "89005924"),
        (2000000000, "69279037"),
        (20000000000, "65353130"),
    ],
)
def test_codes_are_those_of_the_standard(seconds: int, digits: str) -> None:
    assert code(SECRET, seconds // STEP_S) == digits[-6:]


def test_a_code_is_good_for_one_step_before_and_after_and_once() -> None:
    now, step = 1_000_000 * STEP_S * 1000, 1_000_000
    for drift in (-1, 0, 1):
        text = code(SECRET, step + drift)
        assert matching_step(SECRET, f" {text[:3]} {text[3:]} ", now, 0) == step + drift
        assert matching_step(SECRET, text, now, step + drift) is None
    for drift in (-2, 2):
        assert matching_step(SECRET, code(SECRET, step + drift), now, 0) is None
    for text in ("", "12345", "٠١٢٣٤٥", "\x00"):
        assert matching_step(SECRET, text, now, 0) is None


def test_authenticators_read_the_link() -> None:
    link = uri(SECRET, "Model: Bridge", "ada@example.com")
    assert link.startswith("otpauth://totp/Model%3A%20Bridge:ada@example.com?secret=")
    assert base64.b32decode(base32(SECRET)) == SECRET
