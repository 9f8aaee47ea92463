"""Time-based one-time passwords: RFC 6238 with SHA-1, 30 seconds and six digits, as authenticators support them."""

import base64
import hmac
from urllib.parse import quote, urlencode

STEP_S = 30
SECRET_BYTES = 20
_DIGITS = 6
# Clocks differ: the steps before and after are accepted too.
_DRIFT = 1


def code(secret: bytes, step: int) -> str:
    """The six digits of a time step (RFC 4226, section 5.3)."""
    digest = hmac.digest(secret, step.to_bytes(8), "sha1")
    offset = digest[-1] & 0x0F
    number = int.from_bytes(digest[offset : offset + 4]) & 0x7FFF_FFFF
    return f"{number % 10**_DIGITS:0{_DIGITS}d}"


def matching_step(secret: bytes, text: str, now_ms: int, last_step: int) -> int | None:
    """The time step whose code `text` is; None: it is wrong. Only after `last_step`, so that a code works once."""
    given = "".join(text.split())
    current = now_ms // 1000 // STEP_S
    found = None
    for step in range(current - _DRIFT, current + _DRIFT + 1):
        if hmac.compare_digest(code(secret, step).encode(), given.encode()) and step > last_step:
            found = step
    return found


def base32(secret: bytes) -> str:
    """As people type it, without the padding."""
    return base64.b32encode(secret).decode().rstrip("=")


def uri(secret: bytes, issuer: str, email: str) -> str:
    """The `otpauth://` link that authenticators read."""
    label = f"{quote(issuer, safe='')}:{quote(email, safe='@')}"
    return f"otpauth://totp/{label}?{urlencode({'secret': base32(secret), 'issuer': issuer})}"
