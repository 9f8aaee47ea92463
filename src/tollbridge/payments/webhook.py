"""Stripe's webhooks: whether one is genuine, and what it is about.

https://docs.stripe.com/webhooks/signature: the header `Stripe-Signature` is `t=SECONDS,v1=HEX[,v1=HEX…]`; each `v1` is
the HMAC-SHA256 of `SECONDS.BODY` under the endpoint's secret. While a secret is being replaced there are two of them.
Other schemes (`v0`) are for Stripe's own tests and prove nothing.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence

import msgspec

TOLERANCE_S = 300
MOST_BODY = 256 << 10
_MOST_HEADER = 2048
_MOST_SIGNATURES = 8

_TIME = re.compile(r"[0-9]{1,12}")
_SIGNATURE = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"[A-Za-z0-9_]{1,255}")


class Forged(ValueError):
    """As far as can be told, not from Stripe or not meant for us. The message is for our log only."""


class Event(msgspec.Struct, frozen=True):
    """What changed: the event's id and type, the object's id, and the payment that it belongs to if it says so."""

    id: str
    kind: str
    object_id: str
    intent: str | None


class _Object(msgspec.Struct, frozen=True):
    id: str
    payment_intent: object = None


class _Data(msgspec.Struct, frozen=True):
    object: _Object


class _Event(msgspec.Struct, frozen=True):
    id: str
    object: str
    type: str
    livemode: bool
    data: _Data
    # Set on events of other accounts connected to ours (Stripe Connect).
    account: str | None = None


def read(header: str, body: bytes, secrets: Sequence[str], *, live: bool, now: int) -> Event:
    """The event in `body`, or `Forged`. `now` in seconds; `live`: whether our key is a live-mode key.

    The signature is checked before anything but the body's size is looked at.
    """
    if len(body) > MOST_BODY:
        raise Forged("the body is too large")
    check(header, body, secrets, now)
    try:
        event = msgspec.json.decode(body, type=_Event)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Forged("it is no event") from error
    if event.object != "event" or not _ID.fullmatch(event.id) or not _ID.fullmatch(event.data.object.id):
        raise Forged("it is no event")
    if event.livemode is not live:
        raise Forged(f"it is of {'live' if event.livemode else 'test'} mode, our key is not")
    if event.account is not None:
        raise Forged("it is of another account")
    intent = event.data.object.payment_intent
    known = intent if isinstance(intent, str) and _ID.fullmatch(intent) else None
    return Event(event.id, event.type[:100], event.data.object.id, known)


def check(header: str, body: bytes, secrets: Sequence[str], now: int) -> None:
    """Raises `Forged` unless one of `secrets` signed `body` within the tolerance, before or after `now`."""
    stamps, signatures = _parts(header)
    if len(stamps) != 1 or not signatures:
        raise Forged("the signature header is missing or malformed")
    if abs(now - int(stamps[0])) > TOLERANCE_S:
        raise Forged("its time is too far from ours")
    signed = stamps[0].encode() + b"." + body
    genuine = False
    for secret in secrets:
        expected = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
        for signature in signatures:
            genuine |= bool(secret) and hmac.compare_digest(expected, signature)
    if not genuine:
        raise Forged("the signature is wrong")


def _parts(header: str) -> tuple[list[str], list[str]]:
    if len(header) > _MOST_HEADER:
        return [], []
    stamps, signatures = [], []
    for part in header.split(","):
        name, _, value = part.strip().partition("=")
        if name == "t":
            stamps.append(value if _TIME.fullmatch(value) else "")
        elif name == "v1" and _SIGNATURE.fullmatch(value):
            signatures.append(value)
    return [stamp for stamp in stamps if stamp] if all(stamps) else [], signatures[:_MOST_SIGNATURES]
