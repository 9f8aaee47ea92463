"""Usage, requests and keys: in a real browser, and as programs see them."""

import asyncio
import csv
import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.site import Site, always, chat, completion, run, says
from tests.upstream.bad_server import Peer, Request
from tests.web.browser import axe, browser, picture, pictures_wanted, run_long
from tests.web.visitors import Visitor, house, registered, shown

from tollbridge.store.db import Transaction
from tollbridge.store.db import run as in_one

HOUR_MS = 3_600_000
COUNTER = itertools.count(1)


async def varied(request: Request, peer: Peer) -> None:
    """Answers of many sizes."""
    number = next(COUNTER)
    if request.target.endswith(b"/embeddings"):
        data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
        usage = {"prompt_tokens": 300 + number, "total_tokens": 300 + number}
        await says({"object": "list", "model": "e", "data": data, "usage": usage})(request, peer)
        return
    await says(completion("Hello!", (200 + number * 37 % 900, 20 + number * 13 % 300)))(request, peer)


async def key_of(visitor: Visitor) -> str:
    """The key that the first dashboard shows."""
    [key] = re.findall(r'data-copy="(tb_live_\w+)"', (await visitor.get("/dashboard")).text)
    return str(key)


async def new_key(visitor: Visitor, **fields: str) -> str:
    response = await visitor.post("/dashboard/keys", fields)
    assert response.status_code == 200, shown(response)
    [key] = re.findall(r'data-copy="(tb_live_\w+)"', response.text)
    return str(key)


async def call(site: Site, key: str, **fields: Any) -> int:
    return (await site.post("/v1/chat/completions", chat(**fields), {"authorization": f"Bearer {key}"})).status


async def management_key(visitor: Visitor) -> str:
    response = await visitor.post("/dashboard/keys/management", {"label": "ci"})
    [key] = re.findall(r'data-copy="(tb_live_manage_\w+)"', response.text)
    return str(key)


async def spread(site: Site) -> None:
    """All calls so far, over the last week; whatever was summed of them is summed anew."""

    async def use_case(transaction: Transaction) -> None:
        for sums, watermark in (("usage_rollup", "rolled_up"), ("usage_day", "summed_by_day")):
            await transaction.execute(f"DELETE FROM {sums}")
            await transaction.execute("DELETE FROM meta WHERE name = $1", watermark)
        rows = await transaction.fetch("SELECT hold_id, ended_at FROM usage ORDER BY hold_id")
        for number, (hold, at) in enumerate(rows):
            await transaction.execute(
                "UPDATE usage SET ended_at = $2, started_at = $2 - 900, duration_ms = $3 WHERE hold_id = $1",
                *(hold, at - (number * 5 % 160) * HOUR_MS, 400 + number * 71 % 1400),
            )

    await in_one(site.database, use_case)


EMPTY = ("/dashboard", "/dashboard/usage", "/dashboard/requests?status=failed")
FILLED = (
    *("/dashboard", "/dashboard/usage", "/dashboard/usage?range=90d&by=key"),
    *("/dashboard/requests", "/dashboard/keys", "/dashboard/keys/new"),
)


@pytest.mark.parametrize("filled", [True, False], ids=["with usage", "without"])
def test_every_page_can_be_used_by_everybody_and_is_small(axe_core: Path, filled: bool) -> None:
    async def test() -> None:
        async with (
            Site(always(varied), config="[plans.free]\nrpm = 600\ntpm = 200000\n") as site,
            browser() as chromium,
        ):
            ada = await registered(site, "ada@example.com")
            paths = list(FILLED if filled else EMPTY)
            if filled:
                keys = [await key_of(ada), await new_key(ada, label="A label that somebody made rather long indeed")]
                keys.append(
                    await new_key(ada, label="ci", limit_usd="5", limit_reset="monthly", models="m\ne", rpm="60")
                )
                for number in range(60):
                    assert await call(site, keys[number * number % 3]) == 200
                for _ in range(20):
                    body = {"model": "e", "input": "hello"}
                    answer = await site.post("/v1/embeddings", body, {"authorization": f"Bearer {keys[0]}"})
                    assert answer.status == 200
                await spread(site)
                await management_key(ada)
                listed = (await ada.get("/dashboard/requests")).text
                paths.append(re.findall(r'href="(/dashboard/requests/chatcmpl-\w+)"', listed)[0])
                paths.append(
                    re.findall(r'href="(/dashboard/keys/key_\w+)"', (await ada.get("/dashboard/keys")).text)[0]
                )
            context = await chromium.context()
            await ada.log_in_browser(context)
            problems = []
            for path in paths:
                page = await chromium.open(site.url + path, context)
                await page.evaluate("document.querySelectorAll('main details').forEach((each) => each.open = true)")
                problems += [f"{path}: {problem}" for problem in await axe(page)]
                await page.emulate_media(color_scheme="dark", reduced_motion="reduce")
                problems += [f"{path} dark: {problem}" for problem in await axe(page, "color-contrast")]
                await page.evaluate("document.querySelectorAll('main details').forEach((each) => each.open = false)")
                size = await page.evaluate(
                    "() => performance.getEntries().reduce((sum, each) => sum + (each.transferSize || 0), 0)"
                )
                assert size < 150_000, (path, size)
                if "usage" in path and filled:
                    assert await page.locator(".chart canvas").count() == 4
                if pictures_wanted():
                    name = re.sub(r"(chatcmpl-|key_)\w+", r"one", path)
                    await picture(page, re.sub(r"\W+", "-", name).strip("-") + ("" if filled else "-empty"))
                await page.close()
            assert problems == []

    run_long(test())


WRITES = """
const write = CanvasRenderingContext2D.prototype.fillText;
window.written = [];
CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
  window.written.push([text, x - this.measureText(text).width]);
  return write.apply(this, [text, x, y]);
};
"""


@pytest.mark.parametrize("config", ["", "[plans.free]\nincluded_tokens = 30000\n"], ids=["very little", "nothing"])
def test_an_axis_of_money_can_be_read_however_little_was_spent(config: str) -> None:
    async def test() -> None:
        async with Site(always(says(completion(usage=(3, 1)))), config=config) as site, browser() as chromium:
            ada = await registered(site, "ada@example.com")
            assert await call(site, await key_of(ada)) == 200
            await site.settled(1)
            context = await chromium.context()
            await context.add_init_script(WRITES)
            await ada.log_in_browser(context)
            page = await chromium.open(f"{site.url}/dashboard", context)
            marks = [each for each in await page.evaluate("window.written") if each[0].startswith("$")]
            # None is cut off at the left, and no two are the same.
            assert all(left >= 0 for _, left in marks), marks
            assert len({text for text, _ in marks}) == len(marks) >= 2, marks

    run_long(test())


def test_a_limit_that_began_anew_is_whole_wherever_it_is_shown() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            bounds = {"label": "ci", "limit_usd": "0.5"}
            made = (await ada.send_json("POST", "/api/keys", bounds)).json()
            assert await call(site, made["key"]) == 200
            await site.settled(1)
            path = f"/api/keys/{made['id']}"
            assert (await ada.get(path)).json()["spent_usd"] == "0.00002"
            assert "$0.49998 left of $0.50" in shown(await ada.get("/dashboard/keys"))
            # What was spent before there were days counts towards none of them: nothing was spent since this one began.
            assert (await ada.send_json("PATCH", path, {"limit_reset": "daily"})).json()["spent_usd"] == "0"
            assert "$0.50 left of $0.50 daily" in shown(await ada.get("/dashboard/keys"))
            assert "$0.50 of $0.50 daily" in shown(await ada.get(f"/dashboard/keys/{made['id']}"))
            key = {"authorization": f"Bearer {made['key']}"}
            assert (await ada.client.get("/v1/key", headers=key)).json()["data"]["limit_remaining"] == 0.5

    run(test())


def test_a_program_manages_keys() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as program:
            ada = await registered(site, "ada@example.com")
            first = await key_of(ada)
            manager = {"authorization": f"Bearer {await management_key(ada)}", "accept": "application/json"}

            async def send(method: str, path: str, body: Any = None, status: int = 200) -> Any:
                response = await program.client.request(method, path, json=body, headers=manager)
                assert response.status_code == status, response.text
                return response.json()

            body = {"label": "ci", "limit_usd": "0.5", "limit_reset": "monthly", "models": ["m"], "rpm": 100}
            made = await send("POST", "/api/keys", body, 201)
            assert {name: made[name] for name in body} == body
            assert await call(site, made["key"]) == 200
            assert await call(site, made["key"], model="e") != 200
            listed = (await send("GET", "/api/keys"))["data"]
            assert [key["label"] for key in listed] == ["ci", "default"]
            assert made["key"] not in str(listed)
            assert listed[0]["last_used_at"] is not None
            assert listed[1]["last_used_at"] is None

            path = f"/api/keys/{made['id']}"
            changed = await send("PATCH", path, {"models": None, "disabled": True, "addresses": ["10.1.2.3/8"]})
            assert (changed["models"], changed["state"], changed["addresses"]) == (None, "disabled", ["10.0.0.0/8"])
            assert changed["limit_usd"] == "0.5"
            assert await call(site, made["key"]) == 401
            refused = await send("POST", f"{path}/rotate", status=400)
            assert refused["error"]["message"] == "This key is disabled: enable it first, or create a new one."
            changed = await send("PATCH", path, {"disabled": False, "addresses": None, "label": "deploy"})
            assert (changed["state"], changed["label"]) == ("live", "deploy")
            site.gateway._forget()  # its refusal may be remembered for a second
            assert await call(site, made["key"]) == 200

            rotated = await send("POST", f"{path}/rotate", {"overlap": "1h"}, 201)
            assert (rotated["label"], rotated["limit_usd"], rotated["spent_usd"]) == ("deploy", "0.5", "0")
            assert await call(site, made["key"]) == 200
            assert await call(site, rotated["key"]) == 200
            assert (await send("GET", path))["expires_at"] is not None
            assert (await send("DELETE", path))["state"] == "revoked"
            assert await call(site, made["key"]) == 401
            assert await call(site, rotated["key"]) == 200
            again = await send("POST", f"/api/keys/{rotated['id']}/rotate", status=201)
            assert (await send("DELETE", f"/api/keys/{again['id']}"))["state"] == "revoked"

            used = await send("GET", "/api/usage?range=24h")
            assert used["total"]["requests"] == 5
            assert used["total"]["charge_usd"] == "0.0001"
            assert sum(step["requests"] for step in used["steps"]) == 5
            assert sorted(each["requests"] for each in used["keys"]) == [2, 3]
            listed = await send("GET", "/api/requests?limit=3")
            older = await send("GET", f"/api/requests?limit=3&cursor={listed['next_cursor']}")
            assert len({each["id"] for each in listed["data"] + older["data"]}) == 5
            assert older["next_cursor"] is None
            one = await send("GET", f"/api/requests/{older['data'][0]['id']}")
            assert (one["charge_usd"], one["route"], one["tokens"]["input"]) == ("0.00002", "up/upstream-m", 10)

            for wrong in ({"rpm": 0}, {"limit_usd": "x"}, {"limit_reset": "daily"}, {"models": "m"}, {"nonsense": 1}):
                await send("POST", "/api/keys", wrong, 400)
            await send("POST", "/api/keys", {"expires_at": "2020-01-01T00:00:00Z"}, 400)
            # What is for people alone says so.
            refused = await send("GET", "/api/billing/payments", status=401)
            assert refused["detail"] == "This is for people who are logged in: keys do not work here."
            # It calls no model, and no key for models manages.
            assert (await site.post("/v1/chat/completions", chat(), manager)).status == 401
            manager["authorization"] = f"Bearer {first}"
            await send("GET", "/api/keys", status=401)

    run(test())


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_of_changes_to_a_key_that_come_at_once_none_is_lost(database: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("postgres_url") if database == "postgresql" else None
    bodies: tuple[dict[str, object], ...]
    bodies = ({"limit_usd": "5"}, {"rpm": 10}, {"models": ["m"]}, {"label": "x", "concurrency": 3})

    async def test() -> None:
        async with house(database_url=url) as site:
            ada = await registered(site, "ada@example.com")
            for _ in range(5):
                made = (await ada.send_json("POST", "/api/keys", {})).json()
                path = f"/api/keys/{made['id']}"
                await asyncio.gather(*(ada.send_json("PATCH", path, body) for body in bodies))
                key = (await ada.get(path)).json()
                for body in bodies:
                    assert {name: key[name] for name in body} == body
            deeds = await site.database.fetch("SELECT count(*) FROM activity WHERE action = 'key.changed'")
            assert deeds == [(20,)]
            # What changes nothing is nobody's deed.
            assert (await ada.send_json("PATCH", path, {"rpm": 10})).json()["rpm"] == 10
            assert await site.database.fetch("SELECT count(*) FROM activity WHERE action = 'key.changed'") == deeds
            both = [ada.send_json("POST", f"{path}/rotate", {"overlap": "none"}) for _ in range(2)]
            assert sorted(each.status_code for each in await asyncio.gather(*both)) == [201, 400]

    run(test())


def test_a_bound_is_not_taken_away_by_an_empty_list_and_no_key_ends_beyond_all_dates() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            made = (await ada.send_json("POST", "/api/keys", {"models": ["m"], "addresses": ["10.0.0.0/8"]})).json()
            empty: list[dict[str, object]] = [{"models": []}, {"models": [""]}, {"models": ["m", " "]}]
            empty += [{"addresses": []}, {"addresses": [""]}]
            times: list[object] = ["2027-01-31", 1, "9999-12-31T23:59:00-12:00"]
            wrong: list[dict[str, object]] = [*empty, *({"expires_at": at} for at in times)]
            for body in wrong:
                for method, path in (("POST", "/api/keys"), ("PATCH", f"/api/keys/{made['id']}")):
                    response = await ada.send_json(method, path, body)
                    assert (response.status_code, response.json()["error"]["param"]) == (400, *body)
            response = await ada.send_json("POST", "/api/keys", {"expires_at": "2027-01-31"})
            assert "such as 2027-01-31T00:00:00Z" in response.json()["detail"]
            page = await ada.post("/dashboard/keys", {"label": "x", "expires_at": "9999-12-31"})
            assert (page.status_code, "too far in the future" in shown(page)) == (400, True)
            listed = (await ada.get("/api/keys")).json()["data"]
            assert [key["models"] for key in listed] == [["m"], None]

    run(test())


def test_a_revoked_management_key_is_nobodys() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as program:
            ada = await registered(site, "ada@example.com")
            headers = {"authorization": f"Bearer {await management_key(ada)}"}
            assert (await program.client.get("/api/keys", headers=headers)).status_code == 200
            [path] = re.findall(
                r'action="(/dashboard/keys/management/\w+/revoke)"', (await ada.get("/dashboard/keys")).text
            )
            assert (await ada.post(path)).status_code == 303
            assert (await program.client.get("/api/keys", headers=headers)).status_code == 401
            activity = shown(await ada.get("/dashboard/activity"))
            assert "revoked a management key" in activity
            headers = {"authorization": f"Bearer {await management_key(ada)}"}
            assert (await ada.post("/dashboard/settings/close", {"typed": "ada@example.com"})).status_code == 303
            assert (await program.client.get("/api/keys", headers=headers)).status_code == 401

    run(test())


def test_requests_are_found_by_key_model_outcome_and_id() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            first, second = await key_of(ada), await new_key(ada, label="second")
            for key in (first, first, second):
                assert await call(site, key) == 200
            keys = {key["label"]: key["id"] for key in (await ada.get("/api/keys")).json()["data"]}

            async def count(query: str) -> int:
                return len((await ada.get(f"/api/requests?{query}")).json()["data"])

            assert await count("") == 3
            assert await count(f"key={keys['second']}") == 1
            assert await count("model=M&status=ok&range=24h") == 3
            assert await count("model=other") == 0
            assert await count("status=failed") == 0
            today = (await ada.get("/api/requests")).json()["data"][0]["ended_at"]
            day = today[:10]
            assert await count(f"since={day}&until={day}") == 3
            assert await count("since=2100-01-01") == await count("until=2026-01-01") == 0
            assert await count(f"until={today}") == 2  # before the newest
            assert await count(f"since={today}") == 1
            # Its own cursor leads on to the older ones.
            page = (await ada.get(f"/api/requests?until={day}&limit=2")).json()
            assert await count(f"until={day}&limit=2&cursor={page['next_cursor']}") == 1
            for wrong in ("since=yesterday", "since=2026-11-01T08:00", "until=9999-12-31", "until=0001-01-01"):
                refused = await ada.get(f"/api/requests?{wrong}")
                assert refused.status_code == 400
                assert f"{wrong[:5]} is a day (UTC)" in shown(refused)
            listed = (await ada.get(f"/dashboard/requests?until={day}&status=ok")).text
            assert f"/dashboard/requests.csv?until={day}&amp;status=ok" in listed
            assert len((await ada.get("/dashboard/requests.csv?until=2026-01-01")).text.splitlines()) == 1
            assert (await ada.get("/api/requests?cursor=1.x")).status_code == 400
            assert (await ada.get("/api/requests?key=key_x")).status_code == 400
            assert (await ada.get("/dashboard/requests?range=1y")).status_code == 400
            id_ = (await ada.get("/api/requests")).json()["data"][0]["id"]
            found = await ada.get(f"/dashboard/requests?q={id_}")
            assert found.headers["location"] == f"/dashboard/requests/{id_}"
            assert (await ada.get("/dashboard/requests?q=chatcmpl-x")).status_code == 404
            assert "the id of the answer" in shown(await ada.get("/dashboard/requests?q=req_7b7d6170226fc14b00000002"))
            rows = list(csv.DictReader(io.StringIO((await ada.get("/dashboard/requests.csv")).text)))
            assert [row["charge_usd"] for row in rows] == ["0.00002"] * 3
            assert rows[0]["id"] == id_

    run(test())


def test_a_request_has_the_id_that_the_caller_was_told() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            headers = {"authorization": f"Bearer {await key_of(ada)}"}
            message = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
            told = []
            for path, body in (
                ("/v1/chat/completions", chat()),
                ("/v1/responses", {"model": "m", "input": "hi"}),
                ("/v1/messages", message),
            ):
                answer = await site.post(path, body, headers)
                assert answer.status == 200, answer.body
                told.append(answer.json["id"])
            assert [each.rstrip("0123456789abcdef") for each in told] == ["chatcmpl-", "resp_", "msg_"]
            await site.settled(len(told))
            pages = [
                (await ada.get(path)).text for path in ("/dashboard", "/dashboard/requests", "/dashboard/requests.csv")
            ]
            listed = [each["id"] for each in (await ada.get("/api/requests")).json()["data"]]
            assert sorted(listed) == sorted(told)
            for each in told:
                assert all(each in page for page in pages)
                assert each in shown(await ada.get(f"/dashboard/requests/{each}"))
                assert (await ada.get(f"/api/requests/{each}")).json()["id"] == each
                assert (await ada.get(f"/dashboard/requests?q={each}")).headers["location"].endswith(each)
                found = await site.get(f"/v1/generation?id={each}", headers)
                assert found.json["data"]["id"] == each

    run(test())


def test_a_key_is_bound_by_concurrency_and_by_what_a_call_may_cost_and_shows_what_it_spent() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            key = await new_key(ada, label="ci", concurrency="2", cost_cap_usd="0.0000001")
            answer = await site.post("/v1/chat/completions", chat(), {"authorization": f"Bearer {key}"})
            assert answer.status == 400, answer.body
            text = (await ada.get("/dashboard/keys")).text
            assert "2 at once, $0.0000001 a call" in text
            public_id = re.findall(r'href="/dashboard/keys/(key_\w+)">ci', text)[0]
            fields = {"label": "ci", "concurrency": "2", "cost_cap_usd": "x"}
            wrong = await ada.post(f"/dashboard/keys/{public_id}", fields)
            assert "Write an amount in USD" in re.findall(r'id="cost_cap_usd-note"[^<]*<', wrong.text)[0]
            wrong = await ada.post(f"/dashboard/keys/{public_id}", {**fields, "cost_cap_usd": "0"})
            assert "above zero" in re.findall(r'id="cost_cap_usd-note"[^<]*<', wrong.text)[0]
            changed = await ada.post(f"/dashboard/keys/{public_id}", {**fields, "cost_cap_usd": "1"})
            assert changed.status_code == 303
            while await call(site, key) != 200:  # noqa: ASYNC110 - until the change has been noticed
                await asyncio.sleep(0.1)
            await site.settled(1)
            rows = re.findall(r"<tr>.*?</tr>", (await ada.get("/dashboard/keys")).text, re.DOTALL)
            assert any("ci" in row and "$0.00002" in row for row in rows)
            assert "$0.00002 1 request" in shown(await ada.get(f"/dashboard/keys/{public_id}"))

    run(test())


def test_what_is_wrong_with_a_body_names_its_field_and_what_would_be_right() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            for body, param, words in (
                ({"limit_usd": 5}, "limit_usd", 'such as "5.00"'),
                ({"lable": "ci"}, "lable", "The fields are: label, limit_usd,"),
                ({"rpm": "10"}, "rpm", "Expected `int | null`"),
                ({"models": [1]}, "models", "Expected `str`"),
            ):
                error = (await ada.send_json("POST", "/api/keys", body)).json()["error"]
                assert error["param"] == param
                assert words in error["message"]

    run(test())


def test_a_key_says_which_of_its_models_are_not_there() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            await new_key(ada, label="ci", models="m\nnothing-*")
            [path] = re.findall(r'href="(/dashboard/keys/key_\w+)">ci', (await ada.get("/dashboard/keys")).text)
            assert "No model here matches nothing-*." in shown(await ada.get(path))
            await ada.post(path, {"label": "ci", "models": "m"})
            assert "No model here" not in shown(await ada.get(path))

    run(test())


def test_the_key_of_the_playground_is_not_counted_among_ones_own() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            await ada.get("/dashboard")
            token = await ada.token("/playground")
            own = {"x-csrf-token": token, "content-type": "application/json", "sec-fetch-site": "same-origin"}
            assert (
                await ada.client.post("/playground/chat", content=json.dumps(chat()), headers=own)
            ).status_code == 200
            text = shown(await ada.get("/dashboard"))
            assert "“default”. It was shown in full only once" in text
            assert "Playground made by it" in shown(await ada.get("/dashboard/keys"))

    run(test())


def test_what_is_wrong_with_a_key_stands_beside_the_field() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            for field, value, words in (
                ("limit_usd", "many", "Write an amount in USD"),
                ("limit_usd", "0", "above zero"),
                ("limit_reset", "daily", "how much may be spent"),
                ("expires_at", "2020-01-01", "must be in the future"),
                ("expires_at", "soon", "2027-01-31"),
                ("rpm", "-1", "whole number"),
                ("rpm", "1,5", "such as 60 or 200,000"),
                ("models", "a b", "pattern"),
                ("addresses", "10.0.0.300", "is not an address"),
                ("label", "x" * 101, "at most 100 characters"),
            ):
                response = await ada.post("/dashboard/keys", {field: value})
                assert response.status_code == 400
                assert words in shown(response), field
                assert 'class="field-error"' in response.text
            assert len((await ada.get("/api/keys")).json()["data"]) == 1

    run(test())


def test_a_key_can_be_seen_again_where_the_operator_allows_it() -> None:
    async def test() -> None:
        async with house('[keys]\nreveal = "always"\n') as site:
            ada = await registered(site, "ada@example.com")
            key = await new_key(ada, label="again")
            [path] = re.findall(r'href="(/dashboard/keys/key_\w+)">again', (await ada.get("/dashboard/keys")).text)
            for _ in range(2):
                assert key in (await ada.get(path)).text
                assert key in (await ada.get("/dashboard")).text
            # Of several keys it is said which is which.
            text = shown(await ada.get("/dashboard"))
            assert "credit. default tb_live_" in text
            assert f"again {key} Copy" in text

    run(test())


def test_a_request_that_came_to_more_than_its_cap_says_why_its_charge_is_less_than_its_parts() -> None:
    async def test() -> None:
        async with Site(always(says(completion(usage=(10, 4000))))) as site:
            ada = await registered(site, "ada@example.com")
            asked = {"authorization": f"Bearer {await key_of(ada)}", "x-tollbridge-max-cost-usd": "0.001"}
            assert (await site.post("/v1/chat/completions", chat(), asked)).status == 200
            await site.settled(1)
            [id_] = [each["id"] for each in (await ada.get("/api/requests")).json()["data"]]
            text = shown(await ada.get(f"/dashboard/requests/{id_}"))
            assert "Charge $0.001" in text
            assert "It came to more than could be charged" in text

    run(test())


def test_a_request_on_included_tokens_says_what_paid_for_it() -> None:
    async def test() -> None:
        async with house("[plans.free]\nincluded_tokens = 30000\n") as site:
            ada = await registered(site, "ada@example.com")
            assert await call(site, await key_of(ada)) == 200
            await site.settled(1)
            [id_] = [each["id"] for each in (await ada.get("/api/requests")).json()["data"]]
            text = shown(await ada.get(f"/dashboard/requests/{id_}"))
            assert "Charge $0.00 included in the plan" in text
            assert "Included tokens taken 1" in text
            one = (await ada.get(f"/api/requests/{id_}")).json()
            assert (one["charge_usd"], one["included_tokens"] >= 10) == ("0", True)
            assert "Paid with tokens that the plan includes" in text
            assert "once the included ones are used up" in shown(await ada.get("/dashboard/billing/plan"))

    run(test())


def test_how_a_request_ended_is_told_in_openai_s_word() -> None:
    async def test() -> None:
        async with Site(always(says(completion(finish="sensitive")))) as site:
            ada = await registered(site, "ada@example.com")
            assert await call(site, await key_of(ada)) == 200
            [listed] = (await ada.get("/api/requests")).json()["data"]
            one = (await ada.get(f"/api/requests/{listed['id']}")).json()
            assert listed["finish_reason"] == one["finish_reason"] == "content_filter"
            [line] = csv.DictReader(io.StringIO((await ada.get("/dashboard/requests.csv")).text))
            assert line["finish_reason"] == "content_filter"
            assert "content_filter" in (await ada.get(f"/dashboard/requests/{listed['id']}")).text

    run(test())
