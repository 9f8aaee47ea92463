"""Every dialect of callers to every one of providers: one answer, one charge, the usage that was reported."""

import asyncio
import base64
import json
from collections.abc import Sequence

import pytest
from tests.gateway.site import (
    DONE,
    INPUT_NANO,
    OUTPUT_NANO,
    STREAM_HEAD,
    Answer,
    Json,
    Reply,
    Site,
    always,
    chat,
    chunk,
    completion,
    framed,
    http,
    run,
    says,
)
from tests.upstream.bad_server import Peer, Request

from tollbridge.errors import InvalidRequest
from tollbridge.gateway.relay import MOST_URLS
from tollbridge.upstream.fetch import Fetched, Fetcher

# Each provider below reports 10 tokens of input, of which 4 were cached (a tenth of the price), and 5 of output.
CHARGE = 6 * INPUT_NANO + 4 * INPUT_NANO // 10 + 5 * OUTPUT_NANO
TEXT = "Hello world"


def _sse(name: str, data: Json) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


_USED = {"input_tokens": 6, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 0, "output_tokens": 5}
_MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "x", "stop_sequence": None}
_GEMINI_USED = {
    "promptTokenCount": 10,
    "cachedContentTokenCount": 4,
    "candidatesTokenCount": 3,
    "thoughtsTokenCount": 2,
    "totalTokenCount": 15,
}
_OPENAI_USED = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 4},
}


def _gemini(text: str, finish: str | None = None) -> Json:
    candidate: Json = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "usageMetadata": _GEMINI_USED, "modelVersion": "x"}


WHOLE: dict[str, Json] = {
    "openai_chat": completion(TEXT, usage=_OPENAI_USED),
    "anthropic": {
        **_MESSAGE,
        "content": [{"type": "text", "text": TEXT}],
        "stop_reason": "end_turn",
        "usage": _USED,
    },
    "gemini": _gemini(TEXT, "STOP"),
}
STREAMS: dict[str, Sequence[bytes]] = {
    "openai_chat": [
        chunk("Hello"),
        chunk(" world"),
        chunk(finish="stop"),
        chunk(choices=[], usage=_OPENAI_USED),
        DONE,
    ],
    "anthropic": [
        _sse(
            "message_start",
            {
                "type": "message_start",
                "message": {**_MESSAGE, "content": [], "stop_reason": None, "usage": {**_USED, "output_tokens": 1}},
            },
        ),
        _sse(
            "content_block_start",
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        ),
        *(
            _sse(
                "content_block_delta",
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
            )
            for text in ("Hello", " world")
        ),
        _sse("content_block_stop", {"type": "content_block_stop", "index": 0}),
        _sse(
            "message_delta",
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": 5},
            },
        ),
        _sse("message_stop", {"type": "message_stop"}),
    ],
    "gemini": [
        b"data: " + json.dumps(_gemini("Hello")).encode() + b"\r\n\r\n",
        b"data: " + json.dumps(_gemini(" world", "STOP")).encode() + b"\r\n\r\n",
    ],
}
PATHS = {
    "openai_chat": ("/v1/chat/completions", "/v1/chat/completions"),
    "anthropic": ("/v1/messages", "/v1/messages"),
    "gemini": ("/v1/models/upstream-m:generateContent", "/v1/models/upstream-m:streamGenerateContent?alt=sse"),
}
ASKED: dict[str, Json] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/messages": {"max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]},
    "/v1/responses": {"input": "hi"},
}


def _provider(dialect: str, *, heeds_stream: bool = True) -> Answer:
    async def answer(request: Request, peer: Peer) -> None:
        if not heeds_stream:
            whole = http(200, WHOLE[dialect])
            stream = http(200, b"".join(STREAMS[dialect]), {"Content-Type": "text/event-stream"})
            await peer.send(whole if _streams(request) else stream)
        elif request.target.decode() == PATHS[dialect][1] and _streams(request):
            await peer.send(STREAM_HEAD)
            for each in STREAMS[dialect]:
                await peer.send(framed(each))
                await asyncio.sleep(0)
            await peer.send(b"0\r\n\r\n")
        else:
            assert request.target.decode() == PATHS[dialect][0]
            await peer.send(http(200, WHOLE[dialect]))

    return answer


def _streams(request: Request) -> bool:
    return b"stream" in request.target or bool(json.loads(request.body).get("stream"))


def _said(path: str, reply: Reply, *, streamed: bool) -> tuple[str, Json]:
    """The text of an answer and its usage object."""
    body = reply.body.decode()
    if path == "/v1/chat/completions":
        if streamed:
            return reply.text, reply.chunks[-1]["usage"]
        return reply.json["choices"][0]["message"]["content"], reply.json["usage"]
    events = [json.loads(line[6:]) for line in body.split("\n") if line.startswith("data: {")]
    if path == "/v1/messages":
        if streamed:
            text = "".join(each["delta"].get("text", "") for each in events if each["type"] == "content_block_delta")
            assert events[-1]["type"] == "message_stop"
            return text, next(each["usage"] for each in events if each["type"] == "message_delta")
        return reply.json["content"][0]["text"], reply.json["usage"]
    if streamed:
        text = "".join(each["delta"] for each in events if each["type"] == "response.output_text.delta")
        assert events[-1]["type"] == "response.completed"
        return text, events[-1]["response"]["usage"]
    return reply.json["output"][0]["content"][0]["text"], reply.json["usage"]


@pytest.mark.parametrize("heeds_stream", [True, False], ids=["heeds", "heedless"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", WHOLE)
@pytest.mark.parametrize("path", ASKED)
def test_whoever_asks_and_whoever_answers(path: str, dialect: str, streamed: bool, heeds_stream: bool) -> None:
    """A provider that answers in one piece where a stream was asked for, or the other way round, is understood too."""

    async def test() -> None:
        provider = _provider(dialect, heeds_stream=heeds_stream)
        async with Site(always(provider), dialect=dialect) as site:
            body = {"model": "m", **ASKED[path], "stream": streamed}
            if path == "/v1/chat/completions" and streamed:
                body["stream_options"] = {"include_usage": True}
            reply = await site.post(path, body)
            assert reply.status == 200, reply.body
            text, usage = _said(path, reply, streamed=streamed)
            assert text == TEXT
            [row] = await site.settled(1)
            assert (row["input"], row["cache_read"], row["output"]) == (6, 4, 5)
            assert row["charge"] == CHARGE
            assert usage["cost"] == CHARGE / 1e9
            assert round(usage["balance"] * 1e9) == await site.balance()
            found = await site.get(f"/v1/generation?id={reply.headers['x-tollbridge-generation-id']}")
            assert found.json["data"]["total_cost"] == CHARGE / 1e9

    run(test())


def test_callers_of_messages_read_errors_in_their_own_form() -> None:
    async def test() -> None:
        async with Site(always(says({"error": {"message": "no"}}, 500))) as site:
            for body, status, kind in (
                ({"model": "m", "messages": []}, 400, "invalid_request_error"),
                ({"model": "nobody", **ASKED["/v1/messages"]}, 404, "not_found_error"),
                ({"model": "m", **ASKED["/v1/messages"]}, 502, "api_error"),
            ):
                reply = await site.post("/v1/messages", body)
                assert reply.status == status
                assert reply.json["type"] == "error"
                assert reply.json["error"]["type"] == kind
                assert reply.json["request_id"] == reply.headers["request-id"]
            reply = await site.post("/v1/messages", b"{}", {"authorization": "Bearer tb_live_x"})
            assert (reply.status, reply.json["error"]["type"]) == (401, "authentication_error")

    run(test())


def test_tokens_of_a_message_are_counted_here_and_cost_nothing() -> None:
    async def test() -> None:
        async with Site(always(says({}))) as site:
            body = {"model": "m", "messages": [{"role": "user", "content": "How many tokens are in this sentence?"}]}
            reply = await site.post("/v1/messages/count_tokens", body)
            assert reply.status == 200
            assert 8 <= reply.json["input_tokens"] <= 40
            assert await site.usage() == []
            refused = await site.post("/v1/messages/count_tokens", {"model": "m"})
            assert (refused.status, refused.json["type"]) == (400, "error")

    run(test())


def test_what_a_provider_cannot_do_is_named_or_left_out_as_the_caller_says() -> None:
    async def test() -> None:
        async with Site(always(_provider("anthropic")), dialect="anthropic") as site:
            body = {"model": "m", **ASKED["/v1/chat/completions"], "seed": 7}
            refused = await site.post("/v1/chat/completions", body)
            assert refused.status == 400
            assert refused.json["error"]["param"] == "seed"
            reply = await site.post("/v1/chat/completions", {**body, "provider": {"require_parameters": False}})
            assert reply.status == 200
            assert reply.headers["x-tollbridge-dropped-fields"] == "seed"
            [row] = [row for row in await site.settled(2) if row["charge"]]
            assert row["charge"] == CHARGE

    run(test())


def test_what_a_provider_cannot_do_is_left_out_where_the_operator_says_so_and_the_caller_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOLLBRIDGE_ROUTING__REQUIRE_PARAMETERS", "false")

    async def test() -> None:
        async with Site(always(_provider("anthropic")), dialect="anthropic") as site:
            for path, asked in ASKED.items():
                body = {"model": "m", **asked, "seed": 7}
                reply = await site.post(path, body)
                assert reply.status == 200
                if path != "/v1/messages":  # which is passed on as it is
                    assert reply.headers["x-tollbridge-dropped-fields"] == "seed"
                    refused = await site.post(path, {**body, "provider": {"require_parameters": True}})
                    assert (refused.status, refused.json["error"]["param"]) == (400, "seed")
            await site.settled(5)

    run(test())


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_what_was_tried_before_the_answer_stands_in_its_headers(streamed: bool) -> None:
    async def test() -> None:
        down = always(says({"error": {"message": "down"}}, 503))
        async with Site(down, others={"other": always(_provider("openai_chat"))}) as site:
            body = {"model": "m", **ASKED["/v1/chat/completions"], "stream": streamed}
            reply = await site.post("/v1/chat/completions", body)
            assert (reply.status, reply.headers["x-tollbridge-provider"]) == (200, "other")
            assert reply.headers["x-tollbridge-attempts"].startswith("up/upstream-m 503")
        async with Site(down) as site:
            failed = await site.post("/v1/chat/completions", {"model": "m", **ASKED["/v1/chat/completions"]})
            assert (failed.status, failed.headers["x-tollbridge-attempts"]) == (502, "up/upstream-m 503")
        async with Site(always(_provider("openai_chat"))) as site:
            assert "x-tollbridge-attempts" not in (await site.post("/v1/chat/completions", body)).headers

    run(test())


def test_a_plain_prompt_goes_only_to_who_completes_it() -> None:
    async def test() -> None:
        async with Site(always(_provider("anthropic")), dialect="anthropic") as site:
            refused = await site.post("/v1/completions", {"model": "m", "prompt": "Once upon a time"})
            assert refused.status == 400
            assert refused.json["error"]["param"] == "model"
            assert "/v1/chat/completions" in refused.json["error"]["message"]
            [row] = await site.settled(1)
            assert row["charge"] == 0

    run(test())


@pytest.mark.parametrize(
    ("dialect", "path", "said"),
    [
        ("openai_chat", "/v1/messages", {"max_tokens": 32_000}),
        ("openai_chat", "/v1/responses", {"max_output_tokens": 32_000}),
        ("anthropic", "/v1/chat/completions", {"max_completion_tokens": 32_000}),
        ("gemini", "/v1/messages", {"max_tokens": 32_000}),
    ],
)
def test_nobody_is_refused_for_asking_for_more_than_a_model_of_another_dialect_writes(
    dialect: str, path: str, said: Json
) -> None:
    """Claude Code asks for 32,000 tokens of every model that it does not know."""
    sent: list[Json] = []

    async def answer(request: Request, peer: Peer) -> None:
        sent.append(json.loads(request.body))
        await _provider(dialect)(request, peer)

    async def test() -> None:
        async with Site(always(answer), dialect=dialect) as site:
            assert (await site.post(path, {"model": "m", **ASKED[path], **said})).status == 200
            assert "4096" in str(sent[0])
            assert "32000" not in str(sent[0])
            # Who speaks the provider's dialect is passed on as they are.
            if dialect == "openai_chat":
                await site.post("/v1/chat/completions", chat(max_tokens=32_000))
                assert sent[1]["max_tokens"] == 32_000
            await site.settled(len(sent))

    run(test())


def test_another_route_does_what_the_first_one_cannot() -> None:
    async def test() -> None:
        async def chat_only(request: Request, peer: Peer) -> None:
            await peer.send(http(200, WHOLE["openai_chat"]))

        async with Site(
            always(_provider("anthropic")), dialect="anthropic", others={"other": always(chat_only)}
        ) as site:
            reply = await site.post("/v1/chat/completions", {"model": "m", **ASKED["/v1/chat/completions"], "seed": 7})
            assert reply.status == 200
            assert reply.headers["x-tollbridge-provider"] == "other"

    run(test())


PICTURE = "http://pictures.example/one"
FETCHING = '[fetch]\nallow = true\nhosts = ["pictures.example"]\n'


def _with_picture() -> Json:
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PICTURE}}]
    return {"model": "m", "messages": [{"role": "user", "content": content}]}


def test_an_address_that_the_provider_does_not_take_is_refused_unless_the_operator_lets_it_be_fetched() -> None:
    """J4: passed on where it can be, else an error; nothing is fetched by itself."""

    async def test() -> None:
        async with Site(always(_provider("gemini")), dialect="gemini") as site:
            refused = await site.post("/v1/chat/completions", _with_picture())
            assert refused.status == 400
            assert "data" in refused.json["error"]["message"]
            assert (await site.settled(1))[0]["charge"] == 0

    run(test())


def test_what_an_address_points_to_is_sent_as_data_where_the_operator_allows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[Json] = []

    async def fetch(self: Fetcher, url: str, account: int, param: str | None = None) -> Fetched:
        if url != PICTURE:
            raise InvalidRequest("A URL in the request cannot be fetched.", code="invalid_url", param=param)
        return Fetched("image/png", b"\x89PNG")

    monkeypatch.setattr(Fetcher, "fetch", fetch)  # what it may reach is tested in tests/upstream/test_fetch.py

    async def answer(request: Request, peer: Peer) -> None:
        sent.append(json.loads(request.body))
        await peer.send(http(200, WHOLE["gemini"]))

    async def test() -> None:
        async with Site(always(answer), dialect="gemini", config=FETCHING) as site:
            reply = await site.post("/v1/chat/completions", _with_picture())
            assert reply.status == 200
            parts = sent[0]["contents"][0]["parts"]
            assert parts[1]["inlineData"] == {"mimeType": "image/png", "data": base64.b64encode(b"\x89PNG").decode()}
            [row] = await site.settled(1)
            assert row["charge"] == CHARGE
            body = json.loads(json.dumps(_with_picture()).replace("one", "two"))
            refused = await site.post("/v1/chat/completions", body)
            assert (refused.status, refused.json["error"]["code"]) == (400, "invalid_url")
            assert [each["charge"] for each in await site.settled(2)] == [CHARGE, 0]

    run(test())


def test_what_an_address_points_to_is_fetched_once_however_many_models_are_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetched: list[str] = []
    bodies: list[bytes] = []

    async def fetch(self: Fetcher, url: str, account: int, param: str | None = None) -> Fetched:
        fetched.append(url)
        if url != PICTURE:
            raise InvalidRequest("A URL in the request cannot be fetched.", code="invalid_url", param=param)
        return Fetched("image/png", b"\x89PNG")

    monkeypatch.setattr(Fetcher, "fetch", fetch)

    async def refuse(request: Request, peer: Peer) -> None:
        bodies.append(request.body)
        await peer.send(http(400, {"error": {"message": "no"}}))

    more = "".join(
        f'[[models]]\nid = "m{number}"\nprice = {{ input = "1", output = "2" }}\n'
        f'routes = [{{ provider = "up", model = "m{number}" }}]\n'
        for number in range(3)
    )

    async def test() -> None:
        async with Site(always(refuse), dialect="gemini", config=FETCHING + more) as site:
            others = {"models": ["m0", "m1", "m2"]}
            assert (await site.post("/v1/chat/completions", _with_picture() | others)).status == 400
            assert (len(bodies), fetched) == (4, [PICTURE])
            assert all(base64.b64encode(b"\x89PNG") in body for body in bodies)
            body = json.loads(json.dumps(_with_picture() | others).replace("/one", "/two"))
            refused = await site.post("/v1/chat/completions", body)
            assert (refused.status, refused.json["error"]["code"]) == (400, "invalid_url")
            assert (len(bodies), fetched[1:]) == (4, ["http://pictures.example/two"])

    run(test())


def test_only_so_many_addresses_of_a_request_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    async def fetch(self: Fetcher, url: str, account: int, param: str | None = None) -> Fetched:
        fetched.append(url)
        return Fetched("image/png", b"\x89PNG")

    monkeypatch.setattr(Fetcher, "fetch", fetch)

    def showing(count: int) -> Json:
        urls = [f"{PICTURE}/{number}" for number in range(count)]
        content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        return {"model": "m", "messages": [{"role": "user", "content": content}]}

    async def test() -> None:
        async with Site(always(_provider("gemini")), dialect="gemini", config=FETCHING) as site:
            refused = await site.post("/v1/chat/completions", showing(MOST_URLS + 1))
            assert (refused.status, fetched) == (400, [])
            assert f"At most {MOST_URLS} URLs" in refused.json["error"]["message"]
            assert (await site.post("/v1/chat/completions", showing(MOST_URLS))).status == 200
            assert len(fetched) == MOST_URLS

    run(test())
