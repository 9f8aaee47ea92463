"""A customer's own credential pays the provider: called first, charged a fee, and its faults are nobody else's."""

import json
from typing import Any

import pytest
from tests.gateway.site import (
    INPUT_NANO,
    OUTPUT_NANO,
    Json,
    Reply,
    Site,
    always,
    by_kind,
    chat,
    completion,
    run,
    says,
    stream,
    streams,
)
from tests.upstream.bad_server import Peer, Request

from tollbridge.errors import InvalidRequest
from tollbridge.services import accounts, byok

PRICE = 10 * INPUT_NANO + 5 * OUTPUT_NANO
FEE = PRICE // 20
OURS, THEIRS = "Bearer upstream-secret", "Bearer sk-theirs-0123456789abcdef"
CHAT = "/v1/chat/completions"
MORE = """
[[models]]
id = "elsewhere"
output_limit = 4096
price = { input = "1", output = "2" }
routes = [{ provider = "second", model = "x" }, { provider = "up", model = "x" }]
"""


class Provider:
    """Answers by whose credential it is shown, and remembers all of them. `refuses`: a status for the customer's."""

    def __init__(self, refuses: int = 0) -> None:
        self.refuses = refuses
        self.seen: list[str] = []

    async def __call__(self, peer: Peer) -> None:
        await always(self._answer)(peer)

    async def _answer(self, request: Request, peer: Peer) -> None:
        shown = request.headers.get(b"authorization", b"").decode()
        self.seen.append(shown)
        if shown == THEIRS and self.refuses:
            await says({"error": {"message": f"no: {shown}"}}, self.refuses)(request, peer)
        else:
            await by_kind(says(completion()), streams(stream()))(request, peer)


async def bring(site: Site, **options: Any) -> str:
    """The account brings a credential along; its id."""
    credential = THEIRS.removeprefix("Bearer ")
    kept = await byok.add(
        site.database,
        site._master,
        site.account,
        actor="test",
        **{"provider": "up", "credential": credential, "providers": byok.providers(site.settings), **options},
    )
    site.gateway._forget()
    return kept.public_id


def used(reply: Reply) -> Json:
    answers = [each for each in (reply.chunks if reply.body.startswith(b"data") else [reply.json]) if each.get("usage")]
    return dict(answers[-1]["usage"])


@pytest.mark.parametrize("streamed", [False, True])
def test_it_is_called_first_and_charged_a_fee(streamed: bool) -> None:
    provider = Provider()

    async def test() -> None:
        async with Site(provider) as site:
            await bring(site)
            reply = await site.post(CHAT, chat(stream=streamed, max_tokens=1000))
            assert reply.status == 200
            usage = used(reply)
            assert usage["is_byok"] is True
            assert usage["cost"] == FEE / 1e9
            assert usage["cost_details"]["upstream_inference_cost"] == 0
            [row] = await site.settled(1)
            assert (row["charge"], row["cost"]) == (FEE, 0)
            assert row["held"] < 1000 * OUTPUT_NANO // 10
            found = (await site.get(f"/v1/generation?id={reply.headers['x-tollbridge-generation-id']}")).json["data"]
            assert (found["is_byok"], found["charge"], found["cost"]) == (True, FEE / 1e9, 0)
            assert (found["model"], found["provider_name"]) == ("m", "up")
            key = (await site.get("/v1/key")).json["data"]
            assert key["byok_usage"] == key["byok_usage_daily"] == key["usage"] == FEE / 1e9
            assert provider.seen == [THEIRS]

    run(test())


def test_another_account_calls_with_ours_and_nothing_is_said_of_it() -> None:
    provider = Provider()

    async def test() -> None:
        async with Site(provider) as site:
            await bring(site)
            await site.post(CHAT, chat())
            site.account = await accounts.create(
                site.database, "other@example.com", plans=site.settings.plans, credit=10**9, actor="test"
            )
            reply = await site.post(CHAT, chat(), {"authorization": f"Bearer {await site.make_key()}"})
            assert "is_byok" not in reply.json["usage"]
            assert provider.seen == [THEIRS, OURS]

    run(test())


@pytest.mark.parametrize("status", [401, 402, 403, 429, 500])
@pytest.mark.parametrize("streamed", [False, True])
def test_what_is_wrong_with_it_falls_back_to_ours_at_the_full_price(status: int, streamed: bool) -> None:
    provider = Provider(refuses=status)

    async def test() -> None:
        async with Site(provider) as site:
            await bring(site)
            for _ in range(8):
                reply = await site.post(CHAT, chat(stream=streamed))
                assert reply.status == 200
                assert b"sk-theirs" not in reply.body
            rows = await site.settled(8)
            assert {(row["charge"], row["cost"]) for row in rows} == {(PRICE, PRICE)}
            assert provider.seen.count(OURS) == 8
            # Others go first after it was refused; a breaker of its own opens after failures.
            assert provider.seen.count(THEIRS) <= 5
            assert site.gateway._health.rank(site.gateway._line.catalog.models["m"].routes[0]) == 0  # type: ignore[union-attr]
            attempts = json.loads(rows[0]["attempts"])
            assert [(each["route"], each["status"]) for each in attempts] == [("up/upstream-m", status)]

    run(test())


@pytest.mark.parametrize(("status", "says_why"), [(401, "was refused"), (403, "was refused"), (402, "out of credit")])
def test_an_only_credential_fails_clearly_and_ours_is_never_used(status: int, says_why: str) -> None:
    provider = Provider(refuses=status)

    async def test() -> None:
        async with Site(provider, others={"second": Provider()}) as site:
            await bring(site, exclusive=True)
            for _ in range(8):
                reply = await site.post(CHAT, chat())
                assert (reply.status, reply.json["error"]["code"]) == (403, "own_credential_refused")
                assert says_why in reply.json["error"]["message"]
                assert "sk-theirs" not in reply.json["error"]["message"]
            assert set(provider.seen) == {THEIRS}
            assert site.others["second"].accepted == 0
            assert [row["charge"] for row in await site.settled(8)] == [0] * 8
            provider.refuses = 0
            assert (await site.post(CHAT, chat())).status == 200

    run(test())


def test_it_goes_before_a_provider_that_stands_before_its_own() -> None:
    provider, second = Provider(), Provider()

    async def test() -> None:
        async with Site(provider, others={"second": second}, config=MORE) as site:
            assert (await site.post(CHAT, {**chat(), "model": "elsewhere"})).headers[
                "x-tollbridge-provider"
            ] == "second"
            await bring(site)
            reply = await site.post(CHAT, {**chat(), "model": "elsewhere"})
            assert (reply.headers["x-tollbridge-provider"], reply.json["usage"]["is_byok"]) == ("up", True)
            wished = {**chat(), "model": "elsewhere", "provider": {"only": ["second"]}}
            reply = await site.post(CHAT, wished)
            assert (reply.headers["x-tollbridge-provider"], "is_byok" in reply.json["usage"]) == ("second", False)
            await site.settled(3)

    run(test())


def test_it_ends_when_it_is_removed_and_the_next_one_takes_over() -> None:
    provider = Provider()

    async def test() -> None:
        async with Site(provider) as site:
            first = await bring(site)
            await bring(site, credential="sk-second-0123456789abcdef")
            await site.post(CHAT, chat())
            await byok.remove(site.database, site.account.id, first, actor="test")
            site.gateway._forget()
            await site.post(CHAT, chat())
            assert provider.seen == [THEIRS, "Bearer sk-second-0123456789abcdef"]

    run(test())


def test_the_fee_is_the_operators_and_may_be_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLBRIDGE_BILLING__BYOK_FEE_PERCENT", "0")
    monkeypatch.setenv("TOLLBRIDGE_BILLING__MARKUP_PERCENT", "50")

    async def test() -> None:
        async with Site(Provider(), credit_usd="0") as site:
            await bring(site)
            assert (await site.post(CHAT, chat())).status == 200
            [row] = await site.settled(1)
            assert (row["held"], row["charge"], row["cost"]) == (0, 0, 0)

    run(test())


def test_the_fee_is_a_share_of_what_the_customer_would_have_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLBRIDGE_BILLING__BYOK_FEE_PERCENT", "10")
    monkeypatch.setenv("TOLLBRIDGE_BILLING__MARKUP_PERCENT", "50")

    async def test() -> None:
        async with Site(Provider()) as site:
            await bring(site)
            estimate = (await site.post("/v1/estimate", chat(max_tokens=100))).json
            assert [each["is_byok"] for each in estimate["routes"]] == [True, False]
            assert (await site.post(CHAT, chat())).status == 200
            [row] = await site.settled(1)
            assert row["charge"] == PRICE * 15 // 100

    run(test())


def test_nothing_of_the_operators_account_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"X-{word}" for word in ("Auth", "Api-Key", "Token", "Secret", "Cookie", "Account")]
    names += ["OpenAI-Organization", "OpenAI-Project"]
    listed = ", ".join(f'"{name}" = "ours"' for name in names)
    monkeypatch.setenv("TOLLBRIDGE_PROVIDERS__UP__HEADERS", f'{{ {listed}, "X-Plain" = "1" }}')
    seen: list[dict[bytes, bytes]] = []

    async def answer(request: Request, peer: Peer) -> None:
        seen.append(request.headers)
        await says(completion())(request, peer)

    async def test() -> None:
        async with Site(always(answer)) as site:
            await site.post(CHAT, chat())
            await bring(site)
            await site.post(CHAT, chat())
            ours, theirs = seen
            of_ours = {name.lower().encode() for name in names}
            assert {name for name, value in ours.items() if value == b"ours"} == of_ours
            assert of_ours.isdisjoint(theirs)
            assert ours[b"x-plain"] == theirs[b"x-plain"] == b"1"

    run(test())


def test_a_provider_that_is_shown_no_key_takes_none_of_a_customers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its calls would go on the operator's bill, for the fee alone."""
    monkeypatch.setenv("TOLLBRIDGE_PROVIDERS__UP__AUTH", "none")

    async def test() -> None:
        async with Site(always(says(completion()))) as site:
            with pytest.raises(InvalidRequest, match="takes a key"):
                await bring(site)
            await bring(site, providers=["up"])  # kept before the configuration changed
            assert "is_byok" not in (await site.post(CHAT, chat())).json["usage"]
            assert [row["charge"] for row in await site.settled(1)] == [PRICE]

    run(test())


def test_it_is_shown_nowhere() -> None:
    async def test() -> None:
        async with Site(Provider(refuses=401)) as site:
            await bring(site)
            answers = [
                await site.post(CHAT, chat()),
                await site.post(CHAT, chat(stream=True)),
                await site.get("/v1/key"),
                await site.post("/v1/estimate", chat()),
            ]
            await site.settled(2)
            site.gateway._log.flush()
            rows = repr(
                [await site.database.fetch(f"SELECT * FROM {name}") for name in ("byok", "usage", "price_version")]
            )
            for text in (*(reply.body.decode() for reply in answers), b"".join(site.log).decode(), rows):
                assert "sk-theirs" not in text

    run(test())
