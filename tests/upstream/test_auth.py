"""How credentials are shown, and how a service account's token is kept fresh: a real token endpoint on loopback."""

import asyncio
import base64
import json
import time
from functools import cache
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from tests.upstream.bad_server import LOOPS, BadServer, Peer, always, eventually, response, run
from tests.wire.streams import upstream

from tollbridge.errors import ConfigError, ConnectError, ProtocolError, UpstreamError
from tollbridge.upstream import auth
from tollbridge.upstream.auth import AccessToken, ServiceAccount
from tollbridge.wire.errors import UpstreamSaid

both_loops = pytest.mark.parametrize("loop", LOOPS)
CONTENT = (b"content-type", b"application/json")


@cache
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: Any) -> str:
    encoded: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return encoded.decode()


def account(token_uri: str = "http://127.0.0.1:1/token") -> ServiceAccount:
    return ServiceAccount("bot@example.test", pem(private_key()), "key-1", token_uri)


def granted(token: str, seconds: float = 3600) -> bytes:
    return response(body=json.dumps({"access_token": token, "expires_in": seconds, "token_type": "Bearer"}).encode())


# --- Keys ---


@pytest.mark.parametrize(
    ("scheme", "header"),
    [
        ("bearer", (b"authorization", b"Bearer secret")),
        ("api-key", (b"api-key", b"secret")),
        ("x-api-key", (b"x-api-key", b"secret")),
        ("x-goog-api-key", (b"x-goog-api-key", b"secret")),
    ],
)
def test_a_key_is_shown_as_its_provider_wants_it(scheme: str, header: tuple[bytes, bytes]) -> None:
    shown = auth.headers(upstream(auth=scheme, credential="secret", headers=(("X-Extra", "1"),)))
    assert shown == (CONTENT, header, (b"x-extra", b"1"))
    assert auth.headers(upstream(auth=scheme, credential="")) == (CONTENT,)
    assert auth.access_token(upstream(auth=scheme)) is None


@pytest.mark.parametrize("scheme", ["none", auth.GOOGLE])
def test_other_credentials_stand_in_no_fixed_header(scheme: str) -> None:
    assert auth.headers(upstream(auth=scheme, credential="secret")) == (CONTENT,)


def test_a_scheme_that_nobody_knows_is_the_operator_s_mistake() -> None:
    with pytest.raises(ConfigError, match="telepathy"):
        auth.headers(upstream(auth="telepathy"))


# --- Service accounts ---


def test_a_service_account_s_key_is_read_as_the_console_writes_it() -> None:
    written = {"type": "service_account", "project_id": "p", **msgspec.to_builtins(account())}
    made = auth.access_token(upstream(auth=auth.GOOGLE, credential=json.dumps(written)))
    assert made is not None
    assert made.pool.origin == "127.0.0.1:1"
    assert "PRIVATE" not in repr(account())


@pytest.mark.parametrize(
    "credential",
    [
        "",
        "AIza-a-key",
        "{}",
        json.dumps({"client_email": "a", "private_key": "b"}),
        json.dumps({"client_email": "a", "private_key": pem(ec.generate_private_key(ec.SECP256R1()))}),
    ],
)
def test_anything_else_is_the_operator_s_mistake(credential: str) -> None:
    with pytest.raises(ConfigError, match="service account") as caught:
        auth.access_token(upstream(auth=auth.GOOGLE, credential=credential))
    assert "PRIVATE" not in str(caught.value)


def test_the_assertion_is_signed_for_an_hour() -> None:
    head, claims, signature = (part.encode() for part in auth.assertion(account(), 1_000).split("."))
    padded = [base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)) for part in (head, claims, signature)]
    assert json.loads(padded[0]) == {"alg": "RS256", "typ": "JWT", "kid": "key-1"}
    assert json.loads(padded[1]) == {
        "iss": "bot@example.test",
        "scope": "https://www.googleapis.com/auth/cloud-platform",
        "aud": "http://127.0.0.1:1/token",
        "iat": 1_000,
        "exp": 4_600,
    }
    private_key().public_key().verify(padded[2], head + b"." + claims, padding.PKCS1v15(), hashes.SHA256())


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@both_loops
def test_one_exchange_serves_all_who_wait_and_lasts_until_it_is_renewed_beside_them(loop: str) -> None:
    forms: list[dict[str, list[str]]] = []

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            assert (request.method, request.target) == (b"POST", b"/token")
            assert request.headers[b"content-type"] == b"application/x-www-form-urlencoded"
            forms.append(parse_qs(request.body.decode()))
            await peer.send(granted(f"token-{len(forms)}"))

    async def main() -> None:
        clock = Clock()
        async with BadServer(script) as server:
            token = AccessToken(account(f"{server.url}/token"), clock)
            first = ((b"authorization", b"Bearer token-1"),)
            assert await asyncio.gather(*(token.headers() for _ in range(5))) == [first] * 5
            clock.now += 3_299
            assert await token.headers() == first
            assert len(forms) == 1
            clock.now += 2  # soon over: renewed, while calls go on with the old one
            assert await token.headers() == first
            await eventually(lambda: len(forms) == 2)
            await eventually(lambda: token.pool.idle == 1)
            assert await token.headers() == ((b"authorization", b"Bearer token-2"),)
            assert len(forms) == 2
            await token.pool.close()
        assert forms[0]["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
        assert forms[0]["assertion"][0].count(".") == 2

    run(loop, main())


@both_loops
def test_a_token_ends_when_it_ends_whatever_the_machine_s_time_is_set_to(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def script(peer: Peer) -> None:
        nonlocal asked
        while True:
            await peer.request()
            asked += 1
            await peer.send(granted(f"token-{asked}", 1))

    async def main() -> None:
        now = time.time()
        async with BadServer(script) as server:
            token = AccessToken(account(f"{server.url}/token"))
            await token.headers()
            monkeypatch.setattr(time, "time", lambda: now - 3_600)
            assert await token.headers() == ((b"authorization", b"Bearer token-2"),)
            await token.pool.close()

    run(loop, main())


@both_loops
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (response(400, b'{"error":"invalid_grant","error_description":"Invalid JWT Signature."}'), UpstreamSaid),
        (response(200, b"<html>"), ProtocolError),
        (response(503, b""), UpstreamSaid),
    ],
)
def test_without_a_token_a_call_fails_and_the_next_ones_at_once(
    loop: str, answer: bytes, kind: type[UpstreamError]
) -> None:
    async def main() -> None:
        clock = Clock()
        asked = 0

        async def script(peer: Peer) -> None:
            nonlocal asked
            while True:
                await peer.request()
                asked += 1
                await peer.send(answer if asked <= 2 else granted("late"))

        async with BadServer(script) as server:
            token = AccessToken(account(f"{server.url}/token"), clock)
            for _ in range(3):
                with pytest.raises(kind):
                    await token.headers()
            assert asked == 1
            clock.now += 6
            with pytest.raises(kind):
                await token.headers()
            assert asked == 2
            clock.now += 6
            assert await token.headers() == ((b"authorization", b"Bearer late"),)
            await token.pool.close()

    run(loop, main())


@both_loops
def test_a_renewal_that_fails_leaves_the_old_token_until_it_ends(loop: str) -> None:
    async def main() -> None:
        clock = Clock()
        async with BadServer(always(granted("token", 600))) as server:
            token = AccessToken(account(f"{server.url}/token"), clock)
            first = await token.headers()
        await token.pool.close()
        clock.now += 400
        assert await token.headers() == first
        assert await token.headers() == first
        clock.now += 200
        with pytest.raises(UpstreamError):
            await token.headers()

    run(loop, main())


@both_loops
def test_who_leaves_does_not_spoil_it_for_the_others(loop: str) -> None:
    async def main() -> None:
        release = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await release.wait()
            await peer.send(granted("token"))

        async with BadServer(script) as server:
            token = AccessToken(account(f"{server.url}/token"), Clock())
            impatient, patient = (asyncio.ensure_future(token.headers()) for _ in range(2))
            await eventually(lambda: server.accepted == 1)
            impatient.cancel()
            release.set()
            assert await patient == ((b"authorization", b"Bearer token"),)
            await token.pool.close()

    run(loop, main())


@both_loops
def test_an_endpoint_that_is_not_there_is_no_connection(loop: str) -> None:
    async def main() -> None:
        token = AccessToken(account(), Clock())
        with pytest.raises(ConnectError):
            await token.headers()
        await token.pool.close()

    run(loop, main())
