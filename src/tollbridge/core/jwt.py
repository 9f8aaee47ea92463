"""Verifying signed tokens (RFC 7515, 7519) as log-in providers send them, and nothing more of that standard.

Only signatures by a provider's public keys are accepted: a token can choose neither to have no signature nor to be
checked with a secret. What is not understood is refused.
"""

import base64
import hmac
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

LEEWAY_S = 60
LEAST_RSA_BITS = 2048
_P256_BYTES = 32
_MOST_BYTES = 32 * 1024

Key = dict[str, Any]


class WrongToken(ValueError):
    """Why a token is not believed."""


class UnknownKey(WrongToken):
    """No known key has signed it: the provider may have new ones."""


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What a token must say: who made it, for whom, and which log-in it answers. `now`: epoch seconds."""

    issuer: str
    audience: str
    nonce: str
    now: int


class _Head(msgspec.Struct):
    alg: str
    kid: str | None = None
    crit: list[str] | None = None


def verify(token: str, keys: Sequence[Key], expected: Expected) -> dict[str, Any]:
    """The claims of an ID token (OpenID Connect Core, section 3.1.3.7). Raises `WrongToken`.

    `keys`: the issuer's, as in its JWK set; members that are not keys are skipped.
    """
    head, claims, signed, signature = _parts(token)
    check = _CHECKS.get(head.alg)
    if check is None or head.crit:
        raise WrongToken(f"its algorithm is {head.alg[:20]!r}, not one of {', '.join(_CHECKS)}")
    whole = [key for key in keys if isinstance(key, dict) and key.get("use", "sig") == "sig"]
    usable = [key for key in whole if head.kid is None or key.get("kid") == head.kid]
    if not usable:
        raise UnknownKey("the issuer has no key with its key id")
    if not any(_signed(check, key, signature, signed) for key in usable):
        raise UnknownKey("no key of the issuer made its signature")
    _check_claims(claims, expected)
    return claims


def _parts(token: str) -> tuple[_Head, dict[str, Any], bytes, bytes]:
    texts = token.split(".")
    if len(texts) != 3 or len(token) > _MOST_BYTES:
        raise WrongToken("it is not a signed token")
    try:
        head = msgspec.json.decode(_decoded(texts[0]), type=_Head)
        claims = msgspec.json.decode(_decoded(texts[1]), type=dict[str, Any])
        return head, claims, f"{texts[0]}.{texts[1]}".encode("ascii"), _decoded(texts[2])
    except (ValueError, msgspec.MsgspecError, RecursionError):
        raise WrongToken("it cannot be read") from None


def _check_claims(claims: dict[str, Any], expected: Expected) -> None:
    audiences = claims.get("aud")
    audiences = audiences if isinstance(audiences, list) else [audiences]
    ends: Any = claims.get("exp")
    made: Any = claims.get("iat", 0)
    nonce, subject = claims.get("nonce"), claims.get("sub")
    if claims.get("iss") != expected.issuer:
        raise WrongToken("it was made by another issuer than the configured one")
    if expected.audience not in audiences or (len(audiences) > 1 and claims.get("azp") != expected.audience):
        raise WrongToken("it was made for another client id")
    if not _is_time(ends) or ends + LEEWAY_S <= expected.now:
        raise WrongToken("it has expired")
    if not _is_time(made) or made - LEEWAY_S > expected.now:
        raise WrongToken("it was made in the future: compare the clocks")
    if not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode(), expected.nonce.encode()):
        raise WrongToken("it belongs to another log-in")
    if not isinstance(subject, str) or not 0 < len(subject) <= 255 or not subject.isprintable():
        raise WrongToken("it does not say who logged in")


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# --- signatures ---------------------------------------------------------------------------------------------------


def _signed(check: Callable[[Key, bytes, bytes], None], key: Key, signature: bytes, signed: bytes) -> bool:
    try:
        check(key, signature, signed)
    except (InvalidSignature, KeyError, ValueError, TypeError):
        return False
    return True


def _rsa_key(key: Key) -> rsa.RSAPublicKey:
    if key["kty"] != "RSA":
        raise ValueError("no RSA key")
    numbers = rsa.RSAPublicNumbers(int.from_bytes(_decoded(key["e"])), int.from_bytes(_decoded(key["n"])))
    public = numbers.public_key()
    if public.key_size < LEAST_RSA_BITS:
        raise ValueError("too short a key")
    return public


def _rs256(key: Key, signature: bytes, signed: bytes) -> None:
    _rsa_key(key).verify(signature, signed, padding.PKCS1v15(), SHA256())


def _ps256(key: Key, signature: bytes, signed: bytes) -> None:
    salted = padding.PSS(padding.MGF1(SHA256()), padding.PSS.DIGEST_LENGTH)
    _rsa_key(key).verify(signature, signed, salted, SHA256())


def _es256(key: Key, signature: bytes, signed: bytes) -> None:
    if key["kty"] != "EC" or key["crv"] != "P-256" or len(signature) != 2 * _P256_BYTES:
        raise ValueError("no P-256 key")
    x, y = (int.from_bytes(_decoded(key[name])) for name in ("x", "y"))
    r, s = int.from_bytes(signature[:_P256_BYTES]), int.from_bytes(signature[_P256_BYTES:])
    public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    public.verify(encode_dss_signature(r, s), signed, ec.ECDSA(SHA256()))


def _eddsa(key: Key, signature: bytes, signed: bytes) -> None:
    if key["kty"] != "OKP" or key["crv"] != "Ed25519":
        raise ValueError("no Ed25519 key")
    ed25519.Ed25519PublicKey.from_public_bytes(_decoded(key["x"])).verify(signature, signed)


_CHECKS: dict[str, Callable[[Key, bytes, bytes], None]] = {
    "RS256": _rs256,
    "PS256": _ps256,
    "ES256": _es256,
    "EdDSA": _eddsa,
}


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
