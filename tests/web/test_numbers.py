"""Every number on a page, in a header, in the API and in the statement is the ledger's, to the last digit."""

import csv
import io
import json
import random
import re
from typing import Any

from tests.gateway.site import Site, always, by_kind, chat, completion, http, run, stream, streams
from tests.upstream.bad_server import Peer, Request
from tests.web.test_billing import BILLING, amounts, ordered
from tests.web.visitors import Visitor, registered

from tollbridge.core.money import format_usd, parse_usd
from tollbridge.services import vouchers

CALLS = 40
CHANCE = 20261122


def nano(text: str) -> int:
    return -parse_usd(text[1:]) if text.startswith("-") else parse_usd(text)


def exact(body: bytes) -> Any:
    """JSON with its numbers as they are written."""
    return json.loads(body, parse_float=str, parse_int=str)


def test_every_number_is_the_ledgers_after_a_random_day() -> None:
    async def test() -> None:
        chance = random.Random(CHANCE)

        async def whole(request: Request, peer: Peer) -> None:
            used = (chance.randint(1, 9_999), chance.randint(1, 999))
            await peer.send(http(200, completion(usage=used)))

        script = always(by_kind(whole, streams(stream(usage=(1_237, 41)))))
        async with Site(script, config='[billing]\nmarkup_percent = "7.3"\n') as site:
            ada = await registered(site, "ada@example.com")
            key = re.findall(r"tb_live_\w+", (await ada.get("/dashboard")).text)[0]
            headers = {"authorization": f"Bearer {key}"}
            payment = (await ordered(ada, method="demo")).partition("payment=")[2]
            assert (await ada.post(f"{BILLING}/payments/{payment}/demo")).status_code == 303
            [made] = await vouchers.create(site.database, 1_234_567_891, actor="test")
            assert (await ada.post(f"{BILLING}/voucher", {"code": made.code})).status_code == 303
            charged, last = 0, ""
            for _ in range(CALLS):
                answer = await site.post("/v1/chat/completions", chat(stream=chance.random() < 0.3), headers)
                assert answer.status == 200
                if "text/event-stream" in answer.headers["content-type"]:
                    usage = next(each["usage"] for each in map(exact_event, answer.events) if each.get("usage"))
                    charged, last = charged + parse_usd(usage["cost"]), usage["balance"]
                else:
                    charged += parse_usd(answer.headers["x-tollbridge-charged-usd"])
                    last = answer.headers["x-tollbridge-balance-usd"]
            await site.settled(CALLS)
            assert await compare(site, ada, headers, charged) == last

    run(test())


def exact_event(text: str) -> Any:
    return {} if text == "[DONE]" else exact(text.encode())


async def compare(site: Site, ada: Visitor, headers: dict[str, str], charged: int) -> str:
    """What each way to ask says, beside the rows that never change; the balance."""
    database = site.database
    [(id_,)] = await database.fetch("SELECT id FROM account WHERE email = 'ada@example.com'")
    [(spent,)] = await database.fetch("SELECT CAST(SUM(charge) AS BIGINT) FROM usage WHERE account_id = $1", id_)
    [(came,)] = await database.fetch(
        "SELECT CAST(SUM(amount) AS BIGINT) FROM journal JOIN entry ON journal_id = journal.id "
        "WHERE account_id = $1 AND book IN ('customer_paid', 'customer_promo')",
        id_,
    )
    [(paid, promo)] = await database.fetch("SELECT paid, promo FROM balance WHERE account_id = $1", id_)
    assert (charged, paid + promo) == (spent, came - spent)
    left, gone = format_usd(came - spent), format_usd(spent)

    assert amounts((await ada.get(BILLING)).text)[:4] == [left, format_usd(paid), format_usd(promo), "0"]
    api = (await ada.get("/api/billing")).json()
    assert [api[f"{name}_usd"] for name in ("balance", "paid", "promo")] == [left, format_usd(paid), format_usd(promo)]
    assert (await ada.get("/api/usage")).json()["total"]["charge_usd"] == gone

    statement = (await ada.get("/api/billing/statement")).json()
    assert (statement["opening_usd"], statement["closing_usd"]) == ("0", left)
    assert {each["kind"]: each["amount_usd"] for each in statement["movements"]} == {
        "grant": format_usd(500_000_000 + 1_234_567_891), "top_up": "10", "usage": f"-{gone}"
    }  # fmt: skip
    assert sum(nano(each["charged_usd"]) for each in statement["models"]) == spent
    assert sum(nano(each["amount_usd"]) for each in statement["lines"]) == came - spent
    assert statement["lines"][-1]["balance_usd"] == left
    rows = list(csv.DictReader(io.StringIO((await ada.get(f"{BILLING}/statement.csv")).text)))
    assert [row["amount_usd"] for row in rows[1:-1]] == [each["amount_usd"] for each in statement["lines"]]
    assert (rows[0]["balance_usd"], rows[-1]["balance_usd"]) == ("0", left)
    shown = amounts((await ada.get(f"{BILLING}/statement")).text)
    movements = [each["amount_usd"] for each in statement["movements"]]
    assert shown[: len(movements) + 2] == ["0", *movements, left]
    for line in statement["lines"]:
        assert line["amount_usd"] in shown
        assert line["balance_usd"] in shown
    sums = exact((await site.get("/v1/credits", headers)).body)["data"]
    assert (sums["total_credits"], sums["total_usage"]) == (format_usd(came), gone)
    assert exact((await site.get("/v1/key", headers)).body)["data"]["usage"] == gone
    return left
