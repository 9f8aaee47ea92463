"""ID tokens: what is believed, and everything that is not."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from tollbridge.core import jwt
from tollbridge.core.jwt import Expected, UnknownKey, WrongToken, verify

NOW = 1_800_000_000
EXPECTED = Expected(issuer="https://issuer.example", audience="us", nonce="n-1", now=NOW)
CLAIMS = {"iss": "https://issuer.example", "aud": "us", "nonce": "n-1", "sub": "ada", "iat": NOW, "exp": NOW + 60}
RSA = rsa.generate_private_key(65537, 2048)
SHORT = rsa.generate_private_key(65537, 1024)
P256 = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def number(value: int, size: int = 0) -> str:
    return text(value.to_bytes(size or (value.bit_length() + 7) // 8))


def rsa_key(private: rsa.RSAPrivateKey, kid: str) -> dict[str, Any]:
    numbers = private.public_key().public_numbers()
    return {"kty": "RSA", "kid": kid, "use": "sig", "n": number(numbers.n), "e": number(numbers.e)}


def keys() -> list[dict[str, Any]]:
    point = P256.public_key().public_numbers()
    return [
        rsa_key(RSA, "rsa"),
        rsa_key(SHORT, "short"),
        {"kty": "EC", "crv": "P-256", "kid": "ec", "x": number(point.x, 32), "y": number(point.y, 32)},
        {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": text(ED.public_key().public_bytes_raw())},
    ]


def sign(alg: str, data: bytes) -> bytes:
    match alg:
        case "RS256":
            return RSA.sign(data, padding.PKCS1v15(), SHA256())
        case "PS256":
            return RSA.sign(data, padding.PSS(padding.MGF1(SHA256()), padding.PSS.DIGEST_LENGTH), SHA256())
        case "ES256":
            r, s = decode_dss_signature(P256.sign(data, ec.ECDSA(SHA256())))
            return r.to_bytes(32) + s.to_bytes(32)
        case "EdDSA":
            return ED.sign(data)
    raise AssertionError(alg)


def token(alg: str = "RS256", kid: str | None = "rsa", head: Any = None, **claims: Any) -> str:
    head = {"alg": alg, "kid": kid, **(head or {})}
    body = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    signed = f"{text(json.dumps(head).encode())}.{text(json.dumps(body).encode())}"
    return f"{signed}.{text(sign(alg, signed.encode()))}"


@pytest.mark.parametrize(("alg", "kid"), [("RS256", "rsa"), ("PS256", "rsa"), ("ES256", "ec"), ("EdDSA", "ed")])
def test_each_kind_of_signature_is_checked(alg: str, kid: str) -> None:
    whole = token(alg, kid)
    assert verify(whole, keys(), EXPECTED)["sub"] == "ada"
    head, body, signature = whole.split(".")
    other = text(json.dumps({**CLAIMS, "sub": "eve"}).encode())
    for changed in (f"{head}.{other}.{signature}", f"{head}.{body}.{text(bytes(64))}", f"{head}.{body}."):
        with pytest.raises(UnknownKey):
            verify(changed, keys(), EXPECTED)
    with pytest.raises(UnknownKey):
        verify(token(alg, "nobody"), keys(), EXPECTED)
    with pytest.raises(UnknownKey):
        verify(whole, [], EXPECTED)


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"aud": "them"}, "another client id"),
        ({"aud": None}, "another client id"),
        ({"aud": ["us", "them"]}, "another client id"),
        ({"exp": NOW - jwt.LEEWAY_S}, "has expired"),
        ({"exp": None}, "has expired"),
        ({"exp": True}, "has expired"),
        ({"exp": "2999"}, "has expired"),
        ({"iat": NOW + 120}, "future"),
        ({"nonce": "n-2"}, "another log-in"),
        ({"nonce": None}, "another log-in"),
        ({"sub": ""}, "who logged in"),
        ({"sub": 7}, "who logged in"),
    ],
)
def test_a_token_that_says_something_else_is_refused(claims: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongToken, match=words):
        verify(token(**claims), keys(), EXPECTED)


def test_several_audiences_need_one_who_asked() -> None:
    assert verify(token(aud=["us", "them"], azp="us"), keys(), EXPECTED)["sub"] == "ada"


def unsigned(alg: Any) -> str:
    return f"{text(json.dumps({'alg': alg}).encode())}.{text(json.dumps(CLAIMS).encode())}."


NESTED = b'{"a":' + b"[" * 9_000 + b"]" * 9_000 + b"}"


@pytest.mark.parametrize(
    "bad",
    [
        *("", "a.b", "a.b.c.d", "....", "é.é.é", "e30.e30.e30", "W10.W10.W10", "x" * 40_000),
        *map(unsigned, ("none", "None", "HS256", "RS512", "", 7, None)),
        token(head={"crit": ["exp"]}),
        token(kid="short"),
        token("ES256", "rsa"),
        token("RS256", "ec"),
        f"{text(NESTED)}.e30.e30",
        f"{unsigned('RS256').partition('.')[0]}.{text(NESTED)}.e30",
    ],
)
def test_anything_else_is_refused(bad: str) -> None:
    with pytest.raises(WrongToken):
        verify(bad, keys(), EXPECTED)


def test_what_is_no_key_is_passed_over() -> None:
    odd: list[Any] = ["rsa", 5, None, ["rsa"], {"kid": ["rsa"]}, {**keys()[0], "use": ["sig"]}, {"kid": "rsa", "n": 5}]
    assert verify(token(), [*odd, *keys()], EXPECTED)["sub"] == "ada"
    with pytest.raises(UnknownKey):
        verify(token(), odd, EXPECTED)


@pytest.mark.parametrize("subject", ["", "\0", "a\0b", "a\nb", "x" * 256])
def test_a_subject_is_a_short_text_in_one_line(subject: str) -> None:
    with pytest.raises(WrongToken, match="does not say who"):
        verify(token(sub=subject), keys(), EXPECTED)
