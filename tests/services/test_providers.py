"""Providers are asked as customers' calls would ask them, and what they say is told to the operator."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.site import Answer, always, completion, http, run, says
from tests.upstream.bad_server import BadServer, Peer, Request

from tollbridge.config import Settings, Source, read
from tollbridge.errors import ConfigError, NotFound
from tollbridge.services import providers
from tollbridge.services.providers import AT_ONCE, Answered, check

KEY = "sk-operators-own-0123456789"
MODELS = """
[[models]]
id = "dear"
price = {{ input = "9", output = "9" }}
routes = [{routes}]

[[models]]
id = "free"
price = {{ input = "0", output = "0" }}
routes = [{routes}]

[[models]]
id = "cheap"
aliases = ["small"]
price = {{ input = "1", output = "2" }}
routes = [{routes}]

[[models]]
id = "speaks"
output_modalities = ["text", "audio"]
price = {{ input = "0.1", output = "0.1" }}
routes = [{routes}]

[[models]]
id = "vectors"
type = "embedding"
price = {{ input = "0.01" }}
routes = [{routes}]
"""
VECTORS = {"data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 9, "total_tokens": 9}}


class Kind:
    """A provider that answers what it is asked, and remembers it."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.shown: list[bytes] = []
        self._answer = answer

    async def __call__(self, peer: Peer) -> None:
        await always(self._reply)(peer)

    async def _reply(self, request: Request, peer: Peer) -> None:
        self.asked.append((request.target.decode(), json.loads(request.body)))
        self.shown.append(request.headers.get(b"authorization", b""))
        whole = says(VECTORS) if request.target.endswith(b"/embeddings") else says(completion("Yes"))
        await (self._answer or whole)(request, peer)

    @property
    def models(self) -> list[str]:
        return [body["model"] for _, body in self.asked]


@asynccontextmanager
async def configured(
    scripts: Mapping[str, Callable[[Peer], Coroutine[Any, Any, None]]], folder: Path, more: str = ""
) -> AsyncIterator[Settings]:
    """Settings with a provider for each script, and with `MODELS`, whose names at a provider begin with its own."""
    async with AsyncExitStack() as stack:
        file = folder / "tollbridge.toml"
        lines = ["catalog = { models = [] }"]
        for name, script in scripts.items():
            server = await stack.enter_async_context(BadServer(script))
            lines.append(f'[providers.{name}]\nbase_url = "{server.url}/v1"\napi_key = "env:TEST_KEY"')
        for part in MODELS.format(routes="ROUTES").split("\n\n"):
            id_ = part.partition('id = "')[2].partition('"')[0]
            routes = ", ".join(f'{{ provider = "{name}", model = "{name}-{id_}" }}' for name in scripts)
            lines.append(part.replace("ROUTES", routes))
        file.write_text("\n".join([*lines, more]))
        yield read(Source(path=file), {"TEST_KEY": KEY})


def test_each_is_asked_by_its_cheapest_model_that_costs_something(tmp_path: Path) -> None:
    one, two = Kind(), Kind()

    async def test() -> list[Answered]:
        async with configured({"one": one, "two": two}, tmp_path) as settings:
            return await check(settings)

    first, second = run(test())
    assert (first.provider, first.model, first.upstream_model) == ("one", "cheap", "one-cheap")
    assert (first.ok, first.detail) == (True, "answers")
    assert first.cost == 10 * 1000 + 5 * 2000
    assert second.provider == "two"
    [(target, body)] = one.asked
    assert (target, body["model"], body["max_tokens"]) == ("/v1/chat/completions", "one-cheap", 500)
    assert one.shown == [f"Bearer {KEY}".encode()]
    assert two.models == ["two-cheap"]


def test_those_that_are_named_are_asked_by_the_models_that_are_named_or_by_all(tmp_path: Path) -> None:
    one, two = Kind(), Kind()

    async def test() -> None:
        async with configured({"one": one, "two": two}, tmp_path) as settings:
            named = await check(settings, ["two"], ["vectors", "small", "speaks"])
            assert [(each.model, each.ok) for each in named] == [("cheap", True), ("vectors", True), ("speaks", True)]
            assert (one.asked, sorted(two.models)) == ([], ["two-cheap", "two-speaks", "two-vectors"])
            assert next(body for target, body in two.asked if target == "/v1/embeddings")["input"]
            every = await check(settings, ["one"], every=True)
            assert [each.model for each in every] == ["cheap", "dear", "free", "vectors"]
            assert all(each.ok for each in every)
            assert sorted(one.models) == ["one-cheap", "one-dear", "one-free", "one-vectors"]

    run(test())


def test_one_that_has_only_models_that_speak_is_asked_by_one_of_them(tmp_path: Path) -> None:
    singer = Kind()
    more = """
[providers.sings]
base_url = "{url}/v1"

[[models]]
id = "song"
output_modalities = ["text", "audio"]
price = {{ input = "1", output = "1" }}
routes = [{{ provider = "sings", model = "song" }}]
"""

    async def test() -> None:
        async with (
            BadServer(singer) as server,
            configured({"one": Kind()}, tmp_path, more.format(url=server.url)) as settings,
        ):
            for every in (False, True):
                [only] = await check(settings, ["sings"], every=every)
                assert (only.model, only.ok) == ("song", True)

    run(test())


def test_what_is_not_configured_is_named(tmp_path: Path) -> None:
    async def test() -> None:
        async with configured(
            {"one": Kind()}, tmp_path, '[providers.idle]\nbase_url = "http://127.0.0.1:9"'
        ) as settings:
            with pytest.raises(NotFound, match="no provider 'onne': configured are one, idle"):
                await check(settings, ["onne"])
            with pytest.raises(NotFound, match="no model 'chep': did you mean cheap"):
                await check(settings, [], ["chep"])
            with pytest.raises(NotFound, match="cheap: not served by idle"):
                await check(settings, ["idle"], ["cheap"])
            [idle] = await check(settings, ["idle"])
            assert (idle.ok, idle.detail) == (False, "no model has a route to it: customers never reach it")

    run(test())
    with pytest.raises(ConfigError, match="no provider is configured"):
        asyncio.run(check(read(Source(None), {})))


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (says({"error": {"message": f"Bad key {KEY}"}}, 401), "it refuses the credential (401): Bad key […]"),
        (says(b"<html>", 403), "it refuses the credential (403)"),
        (says({"error": {"code": "insufficient_quota", "message": "Pay."}}, 429), "is out of credit (402): Pay."),
        (says({"error": {"message": "Where?"}}, 404), "it knows no such address or model (404): Where?"),
        (says({"error": {"message": "Later."}}, 429), "it limits this credential now (429): Later."),
        (says({"error": {"message": "max_tokens?"}}, 400), "it refuses the question (400): max_tokens?"),
        (says({"error": {"message": "Oh."}}, 500), "it fails (500): Oh."),
        (says(b"", 302, {"Location": "http://127.0.0.1/"}), "it answers with a redirect (302): is base_url right?"),
        (says(b"<html>"), "not JSON"),
        (says(completion(usage=None)), "answers, but does not report its usage: that will be estimated"),
    ],
)
def test_what_it_says_is_told_to_the_operator_without_secrets(tmp_path: Path, answer: Answer, found: str) -> None:
    async def test() -> Answered:
        async with configured({"one": Kind(answer)}, tmp_path) as settings:
            [only] = await check(settings)
            return only

    only = run(test())
    assert found in only.detail
    assert only.ok == only.detail.startswith("answers")
    assert KEY not in repr(only)
    assert only.cost is None


def test_one_that_is_silent_or_gone_does_not_hold_up_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(60)

    monkeypatch.setattr(providers, "WITHIN_S", 0.3)

    async def test() -> list[Answered]:
        more = """
[providers.gone]
base_url = "http://127.0.0.1:9"

[[models]]
id = "g"
price = { input = "1", output = "1" }
routes = [{ provider = "gone", model = "g" }]
"""
        async with configured({"one": silent, "two": Kind()}, tmp_path, more) as settings:
            return await check(settings)

    slow, well, gone = run(test())
    assert (slow.ok, slow.detail) == (False, "no answer within 0 s")
    assert well.ok
    assert (gone.ok, "connection refused" in gone.detail) == (False, True)


def test_a_provider_is_asked_a_few_questions_at_once(tmp_path: Path) -> None:
    running, most = 0, 0

    async def slow(request: Request, peer: Peer) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        await peer.send(http(200, completion()))

    async def test() -> None:
        more = "".join(
            f'[[models]]\nid = "m{number}"\nprice = {{ input = "1", output = "1" }}\n'
            f'routes = [{{ provider = "one", model = "m{number}" }}]\n'
            for number in range(8)
        )
        async with configured({"one": Kind(slow)}, tmp_path, more) as settings:
            found = await check(settings, [], [f"m{number}" for number in range(8)])
            assert [each.ok for each in found] == [True] * 8

    run(test())
    assert most == AT_ONCE
