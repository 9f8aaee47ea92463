"""The playground calls models as every other client does: the same charge, the same refusals."""

import asyncio
import json
import re
from typing import Any

from tests.gateway.site import Site, always, by_kind, completion, run, says, stream, streams
from tests.upstream.bad_server import Peer, Request
from tests.web.browser import browser
from tests.web.town import town
from tests.web.visitors import Visitor, house, registered

from tollbridge.services import accounts

ASKED = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def talking(config: str = "", pause: float = 0.0, words: tuple[str, ...] = ("Hel", "lo", "!")) -> Site:
    """A gateway whose upstream streams when it is asked to."""
    answer = by_kind(says(completion()), streams(stream(words), pause))

    async def noted(request: Request, peer: Peer) -> None:
        site.requests.append(request)
        await answer(request, peer)

    site = Site(always(noted), config=config)
    return site


async def ask(visitor: Visitor, body: dict[str, Any], **headers: str) -> Any:
    token = await visitor.token("/playground")
    own = {"x-csrf-token": token, "content-type": "application/json", "sec-fetch-site": "same-origin", **headers}
    return await visitor.client.post("/playground/chat", content=json.dumps(body), headers=own)


def test_a_call_costs_what_it_costs_with_a_key() -> None:
    async def test() -> None:
        async with talking() as site:
            ada = await registered(site, "ada@example.com")
            response = await ask(ada, ASKED)
            assert response.status_code == 200
            assert response.json()["choices"][0]["message"]["content"] == "Hello!"
            assert (await site.post("/v1/chat/completions", ASKED)).status == 200
            mine, theirs = await site.settled(2)
            assert mine["charge"] == theirs["charge"] == 10 * 1_000 + 5 * 2_000
            assert mine["account_id"] != theirs["account_id"]
            assert response.headers["x-tollbridge-charged-usd"] == "0.00002"
            assert "access-control-allow-origin" not in response.headers

    run(test())


def test_a_stream_is_passed_with_its_cost() -> None:
    async def test() -> None:
        async with talking() as site:
            ada = await registered(site, "ada@example.com")
            body = {**ASKED, "stream": True, "stream_options": {"include_usage": True}}
            response = await ask(ada, body, origin=site.url)
            events = [each[6:] for each in response.text.split("\n\n") if each.startswith("data: ")]
            assert events[-1] == "[DONE]"
            usage = json.loads(events[-2])["usage"]
            assert (usage["cost"], usage["completion_tokens"]) == (0.00002, 5)

    run(test())


def test_who_leaves_ends_the_call() -> None:
    async def test() -> None:
        async with talking(pause=0.05, words=("a",) * 200) as site:
            ada = await registered(site, "ada@example.com")
            token = await ada.token("/playground")
            headers = {"x-csrf-token": token, "content-type": "application/json", "sec-fetch-site": "same-origin"}
            body = json.dumps({**ASKED, "stream": True})
            async with ada.client.stream("POST", "/playground/chat", content=body, headers=headers) as response:
                async for _ in response.aiter_bytes():
                    break
            [row] = await site.settled(1)
            assert row["output"] < 100

    run(test())


def test_the_edge_refuses_here_as_everywhere() -> None:
    async def test() -> None:
        async with talking() as site:
            ada = await registered(site, "ada@example.com")
            for body, status, code in (
                ({**ASKED, "model": "none"}, 404, "model_not_found"),
                ({**ASKED, "temperature": 3}, 400, "invalid_request_error"),
                ({**ASKED, "api_base": "http://127.0.0.1"}, 400, "invalid_request_error"),
            ):
                response = await ask(ada, body)
                assert (response.status_code, response.json()["error"]["code"]) == (status, code)
            assert (await ask(ada, ASKED, **{"content-type": "text/plain"})).status_code == 415
            await accounts.set_frozen(site.database, "ada@example.com", True, actor="test")
            assert (await ask(ada, ASKED)).json()["error"]["code"] == "account_frozen"
            # A key that the browser brings is not looked at, nor a price.
            assert (await ask(ada, ASKED, authorization=f"Bearer {site.key}")).status_code == 403

    run(test())


def test_only_whose_role_may_use_keys_may_spend_here() -> None:
    async def test() -> None:
        async with town() as people:
            for who, status in {
                "owner": 200,
                "developer": 200,
                "viewer": 403,
                "billing": 403,
                "anonymous": 303,
            }.items():
                response = await ask(people[who], ASKED)
                assert response.status_code == status, who
            token = await people["owner"].token("/playground")
            for headers in ({}, {"x-csrf-token": "0" * 64}, {"x-csrf-token": token, "sec-fetch-site": "cross-site"}):
                response = await people["owner"].client.post("/playground/chat", json=ASKED, headers=headers)
                assert response.status_code == 403

    run(test())


def test_only_models_that_the_plan_has_and_that_talk_are_offered() -> None:
    async def test() -> None:
        config = """
[plans.free]
models = ["m", "e"]
[[models]]
id = "other"
price = { input = "1", output = "2" }
routes = [{ provider = "up", model = "x" }]
"""
        async with house(config) as site:
            ada = await registered(site, "ada@example.com")
            text = (await ada.get("/playground?model=%22%3E%3Cb%3E")).text
            assert '<option value="m">' in text
            assert 'value="other"' not in text
            assert 'value="e"' not in text
            assert 'data-first="m"' in text

    run(test())


def test_it_begins_with_the_model_that_answered_the_account_last() -> None:
    async def test() -> None:
        config = """
[[models]]
id = "second"
price = { input = "1", output = "2" }
routes = [{ provider = "up", model = "x" }]
"""
        vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
        async with Site(always(says(completion(data=[vector]))), config=config) as site:
            ada, eve = await registered(site, "ada@example.com"), await registered(site, "eve@example.com")

            async def first(path: str = "/playground") -> str:
                return (await ada.get(path)).text.partition('data-first="')[2].partition('"')[0]

            assert await first() == "m"
            assert (await ask(ada, {**ASKED, "model": "second"})).status_code == 200
            assert (await ask(eve, ASKED)).status_code == 200
            await site.settled(2)
            assert await first() == "second"
            assert await first("/playground?model=m") == "m"
            # An embedding model cannot be talked to, and a request that got no answer says nothing for its model.
            key = re.findall(r"tb_live_\w+", (await ada.get("/dashboard")).text)[0]
            mine = {"authorization": f"Bearer {key}"}
            assert (await site.post("/v1/embeddings", {"model": "e", "input": "hi"}, mine)).status == 200
            assert (await ask(ada, ASKED)).status_code == 200
            await site.settled(4)
            assert await first() == "m"
            await site.database.execute("UPDATE usage SET outcome = 4 WHERE hold_id = (SELECT MAX(hold_id) FROM usage)")
            assert await first() == "second"
            await site.database.execute("UPDATE usage SET outcome = 1")

    run(test())


async def entered(site: Site, chromium: Any, email: str = "ada@example.com") -> Any:
    ada = await registered(site, email)
    context = await chromium.context()
    await ada.log_in_browser(context)
    return context


def test_two_models_are_asked_at_once_by_keyboard_alone() -> None:
    async def test() -> None:
        script = "<img src=x onerror=alert(1)>"
        more = (
            '[[models]]\nid = "n"\nprice = { input = "1", output = "2" }\nroutes = [{ provider = "up", model = "n" }]'
        )
        async with talking(more, words=(script, " **and** ", "more")) as site, browser() as chromium:
            page = await chromium.open(site.url + "/playground?model=m", await entered(site, chromium))
            page.on("dialog", lambda dialog: chromium.complaints.append("a script ran"))
            assert await page.evaluate("document.activeElement.id") == "pg-text"
            await page.focus("#pg-add")
            await page.keyboard.press("Enter")
            await page.keyboard.type("n")
            await page.focus("#pg-text")
            await page.keyboard.type("What is <b>this</b>?")
            await page.keyboard.press("Enter")
            await page.wait_for_selector(".pg-note >> nth=1")
            answers = await page.locator('.pg-turn[data-role="assistant"] .pg-words').all_inner_texts()
            assert answers == [script + " **and** more"] * 2
            assert await page.locator(".pg-turn img, .pg-turn b").count() == 0
            note = await page.locator(".pg-note").first.inner_text()
            assert note.startswith("10 + 5 tokens · $0.00002 · ")
            first, second = await site.settled(2)
            assert first["charge"] == second["charge"] == 20_000
            assert (await page.inner_text("#pg-balance")).strip() == "$0.49996"
            await page.click("#pg-code")
            code = await page.inner_text("#shown-0")
            assert f'base_url="{site.url}/v1"' in code
            assert '"content": "What is <b>this</b>?"' in code
            assert script not in code
            compile(code, "shown", "exec")
            await page.keyboard.press("Escape")
            # The second question goes with what was said before.
            await page.fill("#pg-text", "And?")
            await page.keyboard.press("Enter")
            await page.wait_for_selector(".pg-note >> nth=3")
            asked = [json.loads(each.body)["messages"] for each in site.requests]
            assert [each["role"] for each in asked[-1]] == ["user", "assistant", "user"]

    run(test())


def test_an_answer_can_be_stopped_and_a_refusal_is_told() -> None:
    async def test() -> None:
        async with talking(pause=0.05, words=("word ",) * 300) as site, browser() as chromium:
            page = await chromium.open(site.url + "/playground", await entered(site, chromium))
            await page.fill("#pg-text", "Talk")
            await page.keyboard.press("Enter")
            await page.wait_for_selector("#pg-stop:visible")
            await page.wait_for_selector(".pg-turn[data-state=writing]")
            await page.keyboard.press("Escape")
            await page.wait_for_selector(".pg-note:has-text('stopped')")
            assert await page.is_hidden("#pg-stop")
            [row] = await site.settled(1)
            assert row["output"] < 200
            await page.fill(".pg-model", "no-such-model")
            await page.fill("#pg-text", "Again")
            await page.press("#pg-text", "Enter")
            await page.wait_for_selector(".pg-error")
            assert "does not exist" in await page.inner_text(".pg-error")
            await page.click("#pg-clear")
            assert await page.locator(".pg-turn").count() == 0

    run(test())


def test_a_network_that_breaks_is_told_and_the_question_can_be_asked_again() -> None:
    async def test() -> None:
        async with talking() as site, browser() as chromium:
            context = await entered(site, chromium)
            page = await chromium.open(site.url + "/playground", context)
            await context.set_offline(True)
            await page.fill("#pg-text", "Hello")
            await page.keyboard.press("Enter")
            await page.wait_for_selector(".pg-error")
            await context.set_offline(False)
            chromium.complaints.clear()  # the browser names the failed request
            await page.fill("#pg-text", "Hello")
            await page.press("#pg-text", "Enter")
            await page.wait_for_selector(".pg-note")
            await asyncio.sleep(0)
            [row] = await site.settled(1)
            assert row["status"] == 200

    run(test())
