"""What ModelBridge promises its customers, one test for each promise."""

import asyncio
import contextlib
import json
import re
import socket
from typing import Any

import openai
import pytest
from tests.gateway.site import Reply, completion, run, says
from tests.presets.shop import TEXT, VECTOR, Customer, Shop, hello, is_error
from tests.sdk.programs import output
from tests.sdk.test_openai_node import HERE as NODE
from tests.upstream.bad_server import Peer, Request
from tests.web.visitors import registered, shown

# Type and context window, in tokens, of each model on the list.
CATALOG = {
    "deepseek-chat": ("chat", 64_000),
    "deepseek-reasoner": ("reasoning", 64_000),
    "deepseek-coder": ("coding", 64_000),
    "deepseek-v4-pro": ("chat", 128_000),
    "deepseek-v4-flash": ("chat", 128_000),
    "qwen-max": ("chat", 32_768),
    "qwen-plus": ("chat", 131_000),
    "qwen3-235b-a22b": ("chat", 128_000),
    "glm-4-plus": ("chat", 128_000),
    "glm-4-air": ("chat", 128_000),
    "glm-4-flash": ("chat", 128_000),
    "moonshot-v1-8k": ("chat", 8_192),
    "moonshot-v1-32k": ("chat", 32_768),
    "moonshot-v1-128k": ("chat", 131_072),
    "text-embedding-ada-002": ("embedding", 8_192),
}
# A word of what each is said to be best for.
BEST_FOR = {
    "deepseek-chat": "General purpose",
    "deepseek-reasoner": "reasoning",
    "deepseek-coder": "debugging",
    "deepseek-v4-pro": "Flagship",
    "deepseek-v4-flash": "quick",
    "qwen-max": "Multilingual",
    "qwen-plus": "Cost-effective",
    "qwen3-235b-a22b": "Qwen3",
    "glm-4-plus": "complex tasks",
    "glm-4-air": "Balanced",
    "glm-4-flash": "cost-effective",
    "moonshot-v1-8k": "Quick conversations",
    "moonshot-v1-32k": "Medium",
    "moonshot-v1-128k": "Long documents",
}
AWAY = """
[providers.off]
base_url = "http://127.0.0.1:{port}/v1"
[[models]]
id = "away"
price = {{ input = "1", output = "1" }}
routes = [{{ provider = "off", model = "m" }}]
"""
MESSAGES: Any = [{"role": "user", "content": "Hello!"}]


async def chat(shop: Shop, customer: Customer, **fields: Any) -> Reply:
    return await shop.post("/v1/chat/completions", hello("deepseek-chat", **fields), customer.bearer)


# --- the way in ---------------------------------------------------------------------------------------------------


def test_signing_up_takes_an_address_and_no_card() -> None:
    async def test() -> None:
        async with Shop("modelbridge") as shop:
            page = await shop.visitor().get("/auth/register.html")
            assert page.status_code == 200
            fields = set(re.findall(r'<input[^>]* name="(\w+)"', page.text))
            assert fields <= {"csrf", "email", "password", "consent", "next"}
            assert "ModelBridge" in shown(page)

    run(test())


def test_the_key_stands_on_the_dashboard_at_every_visit() -> None:
    async def test() -> None:
        async with Shop("modelbridge") as shop:
            visitor = await registered(shop, "ada@example.com")
            pages = [(await visitor.get("/dashboard")).text for _ in range(3)]
            [key] = shop.keys_on(pages[0])
            assert key.startswith("mb-")
            assert [shop.keys_on(page) for page in pages] == [[key]] * 3
            # It comes before anything else that the dashboard has to say.
            assert pages[0].index(key) < pages[0].index('class="stats"')

    run(test())


def test_the_first_call_works_right_after_signing_up() -> None:
    async def test() -> None:
        async with Shop("modelbridge") as shop:
            customer = await shop.customer("ada@example.com")

            def use(client: openai.OpenAI) -> Any:
                return client.chat.completions.create(
                    model="deepseek-chat", messages=[{"role": "user", "content": "Hello!"}]
                )

            answer = await shop.sdk(customer, use)
            assert answer.choices[0].message.content == TEXT

    run(test())


def test_the_dashboard_tells_what_was_used_and_what_is_left() -> None:
    async def test() -> None:
        async with Shop("modelbridge") as shop:
            visitor = await registered(shop, "ada@example.com")
            before = await visitor.get("/dashboard")
            [key] = shop.keys_on(before.text)
            reply = await chat(shop, Customer(key))
            after = await visitor.get("/dashboard")
            assert "100,000 of 100,000 tokens left" in shown(before)
            assert reply.status == 200
            assert "99,984 of 100,000 tokens left" in shown(after)
            # The quota goes first, then what there is in money.
            assert reply.headers["x-modelbridge-charged-usd"] == "0"
            assert "$0.50 available" in shown(after)
            assert "19 of 20 requests left" in shown(after)
            assert re.search(r"49,9\d\d of 50,000 tokens left", shown(after))
            assert "1 request" in shown(after)
            assert "16 tokens" in shown(after)

    run(test())


def test_curl_and_node_make_the_same_calls(node_modules: Any) -> None:
    async def test() -> None:
        async with Shop("modelbridge") as shop:
            customer = await shop.customer("ada@example.com")
            base = f"http://127.0.0.1:{shop.port}/v1"
            said = await output(
                *("curl", "-s", f"{base}/chat/completions"),
                *("-H", f"Authorization: Bearer {customer.key}", "-H", "Content-Type: application/json"),
                *("-d", json.dumps(hello("deepseek-chat"))),
            )
            assert json.loads(said)["choices"][0]["message"]["content"] == TEXT
            node = await output(
                "node",
                str(NODE / "published.mjs"),
                BASE_URL=base,
                API_KEY=customer.key,
                MODEL="deepseek-chat",
                EMBEDDING_MODEL="text-embedding-ada-002",
            )
            told = json.loads(node)
            assert (told["whole"], told["streamed"]) == (TEXT, "Silent code")
            assert told["embedding"] == VECTOR
            assert set(told["models"]) == set(CATALOG)
            assert told["refused"] == ["NotFoundError", 404, "model_not_found"]

    run(test())


# --- the endpoints ------------------------------------------------------------------------------------------------


def test_every_call_needs_the_key_as_a_bearer_token() -> None:
    async def test() -> None:
        async with Shop("modelbridge") as shop:
            customer = await shop.on_plan("free")
            good = await shop.get("/v1/models", customer.bearer)
            assert good.status == 200
            for authorization in ("", "Bearer", "Bearer ", customer.key, "Bearer mb-xxxxxxxxxxxxx"):
                for path in ("/v1/models", "/v1/none"):
                    reply = await shop.get(path, {"authorization": authorization})
                    assert (reply.status, is_error(reply.json)) == (401, True), (authorization, path)

            def use(client: openai.OpenAI) -> Any:
                with pytest.raises(openai.AuthenticationError) as caught:
                    client.models.list()
                return caught.value

            error = await shop.sdk(Customer("mb-xxxxxxxxxxxxx"), use)
            assert error.code == "invalid_api_key"

    run(test())


def test_the_catalog_is_the_published_one() -> None:
    async def test() -> None:
        async with Shop("modelbridge") as shop:
            customer = await shop.on_plan("free")
            models = {each["id"]: each for each in (await shop.get("/v1/models", customer.bearer)).json["data"]}
            assert {name: (each["type"], each["context_window"]) for name, each in models.items()} == CATALOG
            for name, words in BEST_FOR.items():
                assert words in models[name]["best_for"], name
                assert 0 < models[name]["max_output_tokens"] <= CATALOG[name][1]
            assert models["text-embedding-ada-002"]["max_output_tokens"] is None

    run(test())


def test_every_model_of_the_catalog_answers_by_its_name() -> None:
    async def test() -> None:
        async with Shop("modelbridge") as shop:
            customer = await shop.on_plan("free")
            for model, (kind, _) in CATALOG.items():
                if kind != "embedding":
                    reply = await shop.post("/v1/chat/completions", hello(model), customer.bearer)
                    assert (reply.status, reply.json["model"]) == (200, model)

    run(test())


def test_every_documented_parameter_reaches_the_model() -> None:
    fields: Any = {
        "temperature": 0.7,
        "max_tokens": 500,
        "top_p": 0.9,
        "stop": ["\n", "END", "###", "4"],
        "presence_penalty": -2,
        "frequency_penalty": 2,
    }
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye"},
    ]

    async def test() -> None:
        async with Shop("modelbridge") as shop:
            customer = await shop.on_plan("free")
            reply = await chat(shop, customer, messages=messages, **fields)
            assert reply.status == 200
            asked = shop.asked()
            assert {name: asked[name] for name in fields} == fields
            assert asked["messages"] == messages
            await chat(shop, customer, stop="END")
            assert shop.asked()["stop"] == "END"

    run(test())


def test_nothing_is_said_for_whoever_left_a_parameter_out() -> None:
    async def test() -> None:
        async with Shop("modelbridge") as shop:
            customer = await shop.on_plan("pro")
            await chat(shop, customer)
            assert shop.asked().keys() <= {"model", "messages"}

    run(test())


def test_an_answer_has_every_documented_field() -> None:
    async def test() -> None:
        async with Shop("modelbridge") as shop:
            customer = await shop.on_plan("free")
            answer = (await chat(shop, customer)).json
            assert answer["id"].startswith("chatcmpl-")
            assert answer["object"] == "chat.completion"
            assert isinstance(answer["created"], int)
            assert answer["model"] == "deepseek-chat"
            [choice] = answer["choices"]
            assert (choice["index"], choice["finish_reason"]) == (0, "stop")
            assert choice["message"]["role"] == "assistant"
            usage = answer["usage"]
            assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (9, 7, 16)

    run(test())


def test_the_python_example_prints_how_many_tokens_it_took() -> None:
    async def test() -> None:
        async with Shop("modelbridge") as shop:
            customer = await shop.on_plan("free")

            def use(client: openai.OpenAI) -> Any:
                return client.chat.completions.create(
                    model="deepseek-chat",
                    messages=[
                        {"role": "system", "content": "You explain things to children."},
                        {"role": "user", "content": "What is a quantum computer? Three sentences."},
                    ],
                    temperature=0.7,
                    max_tokens=500,
                )

            response = await shop.sdk(customer, use)
            assert response.choices[0].message.content == TEXT
            assert response.usage.total_tokens == 16

    run(test())


def test_every_chunk_of_a_stream_has_a_first_choice() -> None:
    async def test() -> None:
        async with Shop("modelbridge") as shop:
            customer = await shop.on_plan("free")

            def use(client: openai.OpenAI) -> str:
                said = ""
                response = client.chat.completions.create(model="deepseek-chat", messages=MESSAGES, stream=True)
                for chunk in response:
                    if chunk.choices[0].delta.content:
                        said += chunk.choices[0].delta.content
                return said

            assert await shop.sdk(customer, use) == "Silent code"

    run(test())


def test_embeddings_are_lists_of_floats_with_their_tokens() -> None:
    async def test() -> None:
        async with Shop("modelbridge") as shop:
            customer = await shop.on_plan("free")

            def use(client: openai.OpenAI) -> Any:
                return client.embeddings.create(model="text-embedding-ada-002", input="The food was delicious")

            response = await shop.sdk(customer, use)
            assert response.data[0].embedding == VECTOR
            assert all(isinstance(each, float) for each in response.data[0].embedding)
            assert response.usage.prompt_tokens == 5

    run(test())


def test_each_text_of_a_batch_of_embeddings_may_be_as_long_as_the_model_reads() -> None:
    async def several(request: Request, peer: Peer) -> None:
        count = len(json.loads(request.body)["input"])
        data = [{"object": "embedding", "index": index, "embedding": VECTOR} for index in range(count)]
        usage = {"prompt_tokens": 27_000, "total_tokens": 27_000}
        await says({"object": "list", "data": data, "model": "theirs", "usage": usage})(request, peer)

    text = "word " * 3_000

    async def test() -> None:
        async with Shop("modelbridge", several) as shop:
            customer = await shop.on_plan("pro")
            asked = {"model": "text-embedding-ada-002", "input": [text] * 9}
            reply = await shop.post("/v1/embeddings", asked, customer.bearer)
            assert (reply.status, len(reply.json["data"])) == (200, 9), reply
            asked["input"] = text * 9
            reply = await shop.post("/v1/embeddings", asked, customer.bearer)
            assert (reply.status, reply.json["error"]["code"]) == (400, "context_length_exceeded")

    run(test())


def test_anybody_may_ask_for_the_health() -> None:
    async def test() -> None:
        async with Shop("modelbridge") as shop:
            reply = await shop.get("/health", {"authorization": ""})
            assert (reply.status, reply.json) == (200, {"status": "ok"})

    run(test())


# --- plans and limits ---------------------------------------------------------------------------------------------


def test_whoever_signs_up_is_on_the_free_plan() -> None:
    async def test() -> None:
        async with Shop("modelbridge") as shop:
            await shop.customer("ada@example.com")
            plans = await shop.database.fetch("SELECT plan FROM account WHERE email = 'ada@example.com'")
            assert plans == [("free",)]

    run(test())


@pytest.mark.parametrize(("plan", "rpm"), [("free", 20), ("pro", 60)])
def test_a_plan_has_exactly_its_requests_a_minute(plan: str, rpm: int) -> None:
    async def test() -> None:
        async with Shop("modelbridge") as shop:
            customer = await shop.on_plan(plan)
            replies = await asyncio.gather(*(chat(shop, customer, max_tokens=8) for _ in range(rpm + 10)))
            statuses = sorted(reply.status for reply in replies)
            assert statuses == [200] * rpm + [429] * 10
            refused = next(reply for reply in replies if reply.status == 429)
            assert is_error(refused.json)
            assert refused.json["error"]["code"] == "rate_limit_exceeded"
            assert refused.json["error"]["type"] == "requests"
            # The window is strict: the first one to leave it leaves it a minute after it came.
            assert 50 <= int(refused.headers["retry-after"]) <= 60
            assert refused.headers["x-ratelimit-limit-requests"] == str(rpm)

    run(test())


@pytest.mark.parametrize(("plan", "tpm"), [("free", 50_000), ("pro", 200_000)])
def test_a_plan_has_exactly_its_tokens_a_minute(plan: str, tpm: int) -> None:
    async def test() -> None:
        async with Shop("modelbridge") as shop:
            customer = await shop.on_plan(plan)
            first = await chat(shop, customer, max_tokens=8)
            assert first.headers["x-ratelimit-limit-tokens"] == str(tpm)
            # What a call reserved and did not use is given back: 16 tokens are gone.
            reply = await chat(shop, customer, max_tokens=tpm)
            assert reply.status == 429
            assert reply.json["error"]["type"] == "tokens"
            assert (await chat(shop, customer, max_tokens=1000)).status == 200

    run(test())


def test_a_quota_that_is_used_up_is_a_limit() -> None:
    small = '[billing]\nsignup_grant_usd = "0"\n[plans.free]\nincluded_tokens = 40\n'

    async def test() -> None:
        async with Shop("modelbridge", config=small) as shop:
            customer = await shop.customer("ada@example.com")
            statuses = [(await chat(shop, customer, max_tokens=8)).status for _ in range(4)]
            assert statuses[0] == 200
            assert statuses[-1] == 429
            refused = await chat(shop, customer, max_tokens=8)
            assert is_error(refused.json)
            assert refused.json["error"]["code"] == "insufficient_quota"

    run(test())


def test_custom_limits_are_what_was_agreed() -> None:
    async def test() -> None:
        async with Shop("modelbridge", config="[plans.custom]\nrpm = 3\nstrict = true\n") as shop:
            customer = await shop.on_plan("custom")
            assert [(await chat(shop, customer)).status for _ in range(4)] == [200, 200, 200, 429]

    run(test())


# --- errors -------------------------------------------------------------------------------------------------------


async def refused(shop: Shop, status: int, path: str = "/v1/chat/completions", model: str = "glm-4-air") -> str:
    """The code of the error that a call ends with; it costs nothing, whole or streamed."""
    for stream in (False, True):
        reply = await shop.post(path, hello(model, stream=stream))
        assert reply.status == status, reply
        assert is_error(reply.json)
        # What a provider says of its own troubles is no customer's business.
        assert b"secret trouble" not in reply.body
    assert await shop.balance() == 10**9
    return str(reply.json["error"]["code"])


def test_404_for_an_endpoint_and_for_a_model_that_are_not_there() -> None:
    async def test() -> None:
        async with Shop("modelbridge") as shop:
            assert await refused(shop, 404, path="/v1/chat/complete") == "not_found"
            assert await refused(shop, 404, model="gpt-4o") == "model_not_found"

    run(test())


@pytest.mark.parametrize("status", [500, 503])
def test_500_when_the_provider_has_an_error_of_its_own(status: int) -> None:
    async def test() -> None:
        async with Shop("modelbridge", says({"error": {"message": "secret trouble"}}, status)) as shop:
            assert await refused(shop, 500) == "upstream_unavailable"

    run(test())


def test_502_when_the_provider_cannot_be_reached() -> None:
    with contextlib.closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = unused.getsockname()[1]

        async def test() -> None:
            async with Shop("modelbridge", config=AWAY.format(port=nowhere)) as shop:
                assert await refused(shop, 502, model="away") == "upstream_unavailable"

        run(test())


def test_502_when_all_providers_are_known_to_be_down() -> None:
    async def test() -> None:
        async with Shop("modelbridge", says({}, 500)) as shop:
            replies = [await shop.post("/v1/chat/completions", hello("glm-4-air")) for _ in range(5)]
            assert replies[0].status == 500
            assert replies[-1].status == 502
            assert replies[-1].json["error"]["code"] == "no_available_provider"
            assert int(replies[-1].headers["retry-after"]) > 0

    run(test())


def test_504_when_the_provider_takes_too_long() -> None:
    async def silence(*_: Any) -> None:
        await asyncio.sleep(30)

    async def test() -> None:
        async with Shop("modelbridge", silence, seconds="200ms") as shop:
            assert await refused(shop, 504) == "upstream_timeout"

    run(test())


def test_429_when_the_provider_limits() -> None:
    async def test() -> None:
        async with Shop("modelbridge", says({"error": {"message": "slow down"}}, 429)) as shop:
            reply = await shop.post("/v1/chat/completions", hello("glm-4-air"))
            assert (reply.status, is_error(reply.json)) == (429, True)
            assert int(reply.headers["retry-after"]) > 0

    run(test())


def test_an_answer_that_makes_no_sense_is_502() -> None:
    async def test() -> None:
        async with Shop("modelbridge", says(completion(choices="none"))) as shop:
            reply = await shop.post("/v1/chat/completions", hello("glm-4-air"))
            assert (reply.status, reply.json["error"]["code"]) == (502, "upstream_invalid_response")

    run(test())
