"""What Model Database promises its customers, one test for each promise."""

import json
import re
from typing import Any

import openai
import pytest
from tests.gateway.site import Call, Reply, nano, run, says
from tests.presets.shop import TEXT, VECTOR, Customer, Shop, hello, is_error
from tests.sdk.programs import output
from tests.sdk.test_openai_node import HERE as NODE
from tests.web.visitors import registered, shown

from tollbridge.services.catalog import rows
from tollbridge.store import tables

MODEL = "anthropic/claude-opus-4-8"
# Its price: 5 USD and 25 USD per million tokens; USED is 9 and 7.
CHARGE = 9 * 5_000 + 7 * 25_000
MONEY = ("X-MDB-Upstream-Cost-USD", "X-MDB-Charged-USD", "X-MDB-Balance-USD")
CREDIT = 10**9


async def chat(shop: Shop, headers: dict[str, str] | None = None, **fields: Any) -> Reply:
    return await shop.post("/v1/chat/completions", hello(MODEL, **fields), headers)


# --- the way in ---------------------------------------------------------------------------------------------------


def test_the_python_example_works_with_a_new_base_url() -> None:
    async def test() -> None:
        async with Shop("model-database") as shop:

            def use(client: openai.OpenAI) -> Any:
                return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hello!"}])

            resp = await shop.sdk(Customer(shop.key), use)
            assert resp.choices[0].message.content == TEXT

    run(test())


def test_the_node_example_works_with_a_new_base_url(node_modules: Any) -> None:
    async def test() -> None:
        async with Shop("model-database") as shop:
            said = await output(
                "node",
                str(NODE / "published.mjs"),
                BASE_URL=f"http://127.0.0.1:{shop.port}/v1",
                API_KEY=shop.key,
                MODEL=MODEL,
                EMBEDDING_MODEL="text-embedding-3-small",
            )
            told = json.loads(said)
            assert (told["whole"], told["streamed"], told["embedding"]) == (TEXT, "Silent code", VECTOR)

    run(test())


def test_the_curl_example_works_with_a_new_base_url() -> None:
    async def test() -> None:
        async with Shop("model-database") as shop:
            said = await output(
                *("curl", "-s", f"http://127.0.0.1:{shop.port}/v1/chat/completions"),
                *("-H", f"Authorization: Bearer {shop.key}", "-H", "Content-Type: application/json"),
                *("-d", json.dumps(hello(MODEL))),
            )
            assert json.loads(said)["choices"][0]["message"]["content"] == TEXT

    run(test())


def test_a_stranger_s_first_call_works_before_any_payment() -> None:
    async def test() -> None:
        async with Shop("model-database") as shop:
            customer = await shop.customer("ada@example.com")
            reply = await chat(shop, customer.bearer)
            assert reply.status == 200
            assert nano(reply.headers["x-mdb-balance-usd"]) == CREDIT // 2 - CHARGE

    run(test())


# --- keys ---------------------------------------------------------------------------------------------------------


def test_a_key_begins_with_its_prefix_and_is_shown_once() -> None:
    async def test() -> None:
        async with Shop("model-database") as shop:
            visitor = await registered(shop, "ada@example.com")
            [key] = shop.keys_on((await visitor.get("/dashboard")).text)
            assert key.startswith("mdb_live_")
            again = (await visitor.get("/dashboard")).text
            assert key not in again
            # What is left is enough to recognise it by.
            assert f"mdb_live_…{key[-4:]}" in again

    run(test())


def test_401_for_a_key_that_is_missing_empty_or_invalid() -> None:
    async def test() -> None:
        async with Shop("model-database") as shop:
            for authorization in ("", "Bearer", "Bearer ", "Bearer mdb_live_...", "Basic eDp5", "mdb_live_"):
                headers = {"authorization": authorization}
                replies = [await chat(shop, headers)]
                replies += [await shop.get(path, headers) for path in ("/v1/models", "/v1/credits", "/v1/nothing")]
                assert [(reply.status, is_error(reply.json)) for reply in replies] == [(401, True)] * 4
            assert len(shop.requests) == 0

    run(test())


def test_keys_are_made_labelled_rotated_and_revoked_on_the_dashboard() -> None:
    async def test() -> None:
        async with Shop("model-database") as shop:
            visitor = await registered(shop, "ada@example.com")
            [first] = shop.keys_on((await visitor.get("/dashboard")).text)
            made = await visitor.post("/dashboard/keys", {"label": "production"})
            [second] = shop.keys_on(made.text)
            # A key that was made is shown once, as the first one was.
            listed = await visitor.get("/dashboard/keys")
            assert shop.keys_on(listed.text) == []
            assert "production" in shown(listed)
            ids = re.findall(r"/dashboard/keys/(key_\w+)", (await visitor.get("/dashboard/keys")).text)
            rotated = [await visitor.post(f"/dashboard/keys/{each}/rotate", {"overlap": ""}) for each in set(ids)]
            newer = [key for page in rotated for key in shop.keys_on(page.text)]
            assert len({first, second, *newer}) == 4
            # Existing keys go on working until they are revoked.
            assert [await works(shop, key) for key in (first, second, *newer)] == [True] * 4
            for each in set(ids):
                assert (await visitor.post(f"/dashboard/keys/{each}/revoke")).status_code == 303
            assert [await works(shop, key) for key in (first, second, *newer)] == [False, False, True, True]

    run(test())


async def works(shop: Shop, key: str) -> bool:
    reply = await chat(shop, Customer(key).bearer)
    assert reply.status in (200, 401)
    return reply.status == 200


# --- endpoints ----------------------------------------------------------------------------------------------------


def test_an_answer_has_the_documented_form() -> None:
    async def test() -> None:
        async with Shop("model-database") as shop:
            answer = (await chat(shop)).json
            assert answer["id"].startswith("chatcmpl-")
            assert (answer["object"], answer["model"]) == ("chat.completion", MODEL)
            [choice] = answer["choices"]
            assert choice["index"] == 0
            assert choice["message"].items() >= {"role": "assistant", "content": TEXT}.items()
            assert choice["finish_reason"] == "stop"
            assert answer["usage"].items() >= {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16}.items()

    run(test())


def test_other_parameters_are_passed_on_to_the_model() -> None:
    fields: Any = {"temperature": 0.3, "max_tokens": 50, "top_p": 0.5, "stop": ["."], "presence_penalty": 1, "seed": 7}

    async def test() -> None:
        async with Shop("model-database") as shop:
            assert (await chat(shop, **fields)).status == 200
            asked = shop.asked()
            assert {name: asked[name] for name in fields} == fields

    run(test())


def test_what_a_provider_of_the_same_dialect_does_not_take_is_named_too() -> None:
    async def test() -> None:
        async with Shop("model-database") as shop:
            asked = hello("gpt-4o", web_search_options={}, service_tier=None, seed=7)
            reply = await shop.post("/v1/chat/completions", asked)
            assert reply.status == 200
            assert shop.asked().keys() == {"model", "messages", "seed"}
            assert reply.headers["x-mdb-dropped-fields"] == "web_search_options"
            assert "x-mdb-dropped-fields" not in (await shop.post("/v1/chat/completions", hello("gpt-4o"))).headers

    run(test())


def test_a_stream_is_lines_of_data_and_ends_with_done() -> None:
    async def test() -> None:
        async with Shop("model-database") as shop:
            said = await output(
                *("curl", "-sN", f"http://127.0.0.1:{shop.port}/v1/chat/completions"),
                *("-H", f"Authorization: Bearer {shop.key}", "-H", "Content-Type: application/json"),
                *("-d", json.dumps(hello(MODEL, stream=True))),
            )
            lines = [line for line in said.splitlines() if line]
            assert all(line.startswith("data: ") for line in lines)
            assert lines[-1] == "data: [DONE]"
            chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
            assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "Silent code"

    run(test())


def test_the_list_of_models_is_openai_s_and_hundreds_long() -> None:
    async def test() -> None:
        async with Shop("model-database") as shop:
            listed = (await shop.get("/v1/models")).json
            assert listed["object"] == "list"
            assert len(listed["data"]) >= 200
            assert all(each["object"] == "model" and each["owned_by"] for each in listed["data"])
            assert MODEL in {each["id"] for each in listed["data"]}
            assert len(rows(shop.settings)) >= 300

    run(test())


def test_an_id_with_a_slash_can_be_asked_for_either_way() -> None:
    async def test() -> None:
        async with Shop("model-database") as shop:
            for path in (MODEL, MODEL.replace("/", "%2F"), MODEL.replace("/", "%2f")):
                reply = await shop.get(f"/v1/models/{path}")
                assert (reply.status, reply.json["id"]) == (200, MODEL)

            def use(client: openai.OpenAI) -> Any:
                return client.models.retrieve(MODEL)

            assert (await shop.sdk(Customer(shop.key), use)).id == MODEL

    run(test())


def test_anybody_may_ask_for_the_health() -> None:
    async def test() -> None:
        async with Shop("model-database") as shop:
            assert (await shop.get("/v1/health", {"authorization": ""})).status == 200

    run(test())


# --- money --------------------------------------------------------------------------------------------------------


async def head_of(call: Call) -> str:
    return (await call.reader.readuntil(b"\r\n\r\n")).decode()


def test_an_answer_s_headers_tell_cost_charge_and_balance() -> None:
    async def test() -> None:
        async with Shop("model-database") as shop:
            call = await shop.open("/v1/chat/completions", hello(MODEL))
            head = await head_of(call)
            call.close()
            # The very names, capitals included.
            cost, charged, balance = (nano(re.findall(rf"^{name}: (\S+)\r$", head, re.M)[0]) for name in MONEY)
            assert (cost, charged, balance) == (CHARGE, CHARGE, CREDIT - CHARGE)
            assert await shop.balance() == balance

    run(test())


def test_embeddings_have_the_three_headers_too() -> None:
    async def test() -> None:
        async with Shop("model-database") as shop:
            reply = await shop.post("/v1/embeddings", {"model": "text-embedding-3-small", "input": "food"})
            assert reply.status == 200
            assert {name.lower() for name in MONEY} <= reply.headers.keys()
            assert nano(reply.headers["x-mdb-balance-usd"]) == await shop.balance()

    run(test())


def test_a_stream_has_them_with_what_is_reserved_and_ends_with_what_it_was() -> None:
    async def test() -> None:
        async with Shop("model-database") as shop:
            reply = await chat(shop, stream=True, max_tokens=100)
            reserved = nano(reply.headers["x-mdb-charged-usd"])
            assert reserved >= CHARGE
            assert nano(reply.headers["x-mdb-balance-usd"]) == CREDIT - reserved
            usage = next(chunk["usage"] for chunk in reply.chunks if chunk.get("usage"))
            assert round(usage["cost"] * 1e9) == CHARGE
            assert round(usage["balance"] * 1e9) == await shop.balance() == CREDIT - CHARGE

    run(test())


def test_what_is_not_billed_tells_nothing_of_money() -> None:
    async def test() -> None:
        async with Shop("model-database") as shop:
            unknown = await shop.post("/v1/chat/completions", hello("none/such"))
            for reply in (await shop.get("/v1/models"), await shop.get("/v1/health"), unknown):
                assert {name.lower() for name in MONEY}.isdisjoint(reply.headers)

    run(test())


def test_402_says_what_is_left() -> None:
    async def test() -> None:
        async with Shop("model-database", credit_usd="0.00001") as shop:
            reply = await chat(shop, max_tokens=1000)
            assert reply.status == 402
            assert is_error(reply.json)
            assert reply.json["balance_usd"] == 0.00001
            assert reply.json["error"]["code"] == "insufficient_credits"
            assert len(shop.requests) == 0
            # Topping up is all it takes.
            await shop.grant("1")
            assert (await chat(shop, max_tokens=1000)).status == 200

    run(test())


def test_a_call_that_could_cost_too_much_is_rejected_before_it_costs_anything() -> None:
    async def test() -> None:
        async with Shop("model-database", credit_usd="1000") as shop:
            # 2 × 128,000 tokens at 25 USD per million are 6.40 USD; the cap is 5.
            reply = await chat(shop, max_tokens=128_000, n=2)
            assert (reply.status, reply.json["error"]["code"]) == (400, "cost_cap_exceeded")
            assert is_error(reply.json)
            assert len(shop.requests) == 0
            assert await shop.balance() == 1000 * CREDIT
            assert (await chat(shop, max_tokens=100_000, n=1)).status == 200

    run(test())


def test_credit_comes_in_three_packs_from_the_dashboard() -> None:
    async def test() -> None:
        async with Shop("model-database") as shop:
            visitor = await registered(shop, "ada@example.com")
            page = await visitor.get("/dashboard/billing")
            packs = re.findall(r'name="pack" value="([0-9]+)"', page.text)
            assert [int(pack) // CREDIT for pack in packs] == [10, 50, 200]
            for number, pack in enumerate(packs):
                order = {"pack": pack, "method": "demo", "once": str(number)}
                ordered = await visitor.post("/dashboard/billing/checkout", order)
                payment = ordered.headers["location"].rpartition("=")[2]
                assert (await visitor.post(f"/dashboard/billing/payments/{payment}/demo")).status_code == 303
            # What there was at first is still there.
            assert "$260.50 available" in shown(await visitor.get("/dashboard/billing"))

    run(test())


def test_credit_never_expires() -> None:
    """A balance knows no time at all: nothing could make it end."""
    assert {column.name for column in tables.balance.columns} == {"account_id", "paid", "promo", "held", "frozen"}


def test_top_ups_add_to_what_is_there_at_any_time() -> None:
    async def test() -> None:
        async with Shop("model-database") as shop:
            await chat(shop)
            await shop.grant("10")
            await shop.grant("10")
            assert await shop.balance() == 21 * CREDIT - CHARGE

    run(test())


# --- errors -------------------------------------------------------------------------------------------------------


def test_400_for_broken_json_and_for_a_field_that_is_missing() -> None:
    mistakes = (
        (b"{", None),
        (b"", None),
        (b'{"model": "x", "messages": [}', None),
        (b'{"messages": [{"role": "user", "content": "Hello!"}]}', "model"),
        (b'{"model": "anthropic/claude-opus-4-8"}', "messages"),
    )

    async def test() -> None:
        async with Shop("model-database") as shop:
            for body, param in mistakes:
                reply = await shop.post("/v1/chat/completions", body)
                assert (reply.status, is_error(reply.json)) == (400, True)
                assert reply.json["error"]["param"] == param

    run(test())


@pytest.mark.parametrize("status", [500, 503])
def test_5xx_of_a_provider_is_a_5xx_that_costs_nothing_and_may_be_tried_again(status: int) -> None:
    broken = says({"error": {"message": "overloaded"}}, status)

    async def test() -> None:
        async with Shop("model-database", broken) as shop:
            reply = await chat(shop)
            assert 500 <= reply.status <= 599
            assert is_error(reply.json)
            [row] = await shop.settled(1)
            assert (row["charge"], await shop.balance()) == (0, CREDIT)

    run(test())
