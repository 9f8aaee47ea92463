"""Every number on a page, in a header, in the API and in the statement is the ledger's, to the last digit."""

import contextlib
import csv
import io
import json
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from tests.gateway.site import Reply, Site, always, by_kind, chat, completion, http, run, stream, streams
from tests.upstream.bad_server import Peer, Request
from tests.web.test_billing import BILLING, amounts, ordered
from tests.web.town import operator
from tests.web.visitors import Visitor, registered

from tollbridge.core.ledger import End, Held, Hold, Record
from tollbridge.core.money import format_usd, parse_usd
from tollbridge.services import vouchers
from tollbridge.values import Outcome

CALLS = 40
CHANCE = 20261122
# A token at a dollar a million, and the markup.
SWEPT = 1_073
CONFIG = """
[billing]
markup_percent = "7.3"
[plans.free]
rpm = 6000
tpm = 10000000
included_tokens = 30000
[plans.gold]
price_usd = "20"
included_credit_usd = "3.21"
[[models]]
id = "gift"
price = { input = "0", output = "0" }
cost = { input = "0.3", output = "0.9" }
routes = [{ provider = "up", model = "upstream-gift" }]
"""


def nano(text: str) -> int:
    return -parse_usd(text[1:]) if text.startswith("-") else parse_usd(text)


def exact(body: bytes) -> Any:
    """JSON with its numbers as they are written."""
    return json.loads(body, parse_float=str, parse_int=str)


def dollars(text: str) -> set[int]:
    """The amounts on a page that are written with a sign, in nano-USD."""
    return {parse_usd(each.replace(",", "")) for each in re.findall(r"\$([\d,]+\.\d+)", text)}


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    if request.param == "sqlite":
        yield None
        return
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(request.getfixturevalue("postgres_server").database())


def test_every_number_is_the_ledgers_after_a_random_day(database_url: str | None) -> None:
    async def test() -> None:
        chance = random.Random(CHANCE)

        async def whole(request: Request, peer: Peer) -> None:
            used = (chance.randint(1, 9_999), chance.randint(1, 999))
            await peer.send(http(200, completion(usage=used)))

        script = always(by_kind(whole, streams(stream(usage=(1_237, 41)))))
        async with Site(script, config=CONFIG, database_url=database_url) as site:
            boss, ada = await operator(site), await registered(site, "ada@example.com")
            key = re.findall(r"tb_live_\w+", (await ada.get("/dashboard")).text)[0]
            headers = {"authorization": f"Bearer {key}"}
            said: dict[str, tuple[int, str]] = {}
            await spend(site, headers, chance, said)  # what the plan includes goes first
            payment = await pay(ada, boss)
            for _ in range(3):
                await spend(site, headers, chance, said)
            [(account, key_id)] = await site.database.fetch(
                "SELECT account.id, api_key.id FROM account JOIN api_key ON account_id = account.id "
                "WHERE email = 'ada@example.com'"
            )
            await site.settled(CALLS)
            await swept_and_late(site, account, key_id)
            fields = {"payment": payment, "amount": "1.23", "reason": "half of it"}
            assert (await boss.post("/admin/payments/refund", fields)).status_code == 303
            await compare(site, ada, headers, said)
            await compare_operator(site, boss)

    run(test())


async def swept_and_late(site: Site, account: int, key: int) -> None:
    """A request that was swept after one token, and whose true end of three came after that."""
    ledger = site.gateway.ledger
    assert ledger is not None
    [(price,)] = await site.database.fetch("SELECT MIN(price_version) FROM usage WHERE charge > 0")
    op = Hold(id=ledger.next_id(), account_id=account, key_id=key, want=9_000, least=9_000)
    assert isinstance(await ledger.submit(op), Held)
    for tokens, outcome in ((1, Outcome.SWEPT), (3, Outcome.COMPLETED)):
        record = Record(
            started_at=0, duration_ms=1, price_version=price, input=tokens, outcome=outcome, cost=tokens * 1_000
        )
        await ledger.submit(End(hold=op.id, account_id=account, key_id=key, charge=tokens * SWEPT, record=record))


async def pay(ada: Visitor, boss: Visitor) -> str:
    """Credit, a gift, and a month of a plan; the payment of the first."""
    payment = (await ordered(ada, method="demo")).partition("payment=")[2]
    assert (await ada.post(f"{BILLING}/payments/{payment}/demo")).status_code == 303
    [made] = await vouchers.create(boss.site.database, 1_234_567_891, actor="test")
    assert (await ada.post(f"{BILLING}/voucher", {"code": made.code})).status_code == 303
    assert (await ada.post(f"{BILLING}/plan/subscribe", {"plan": "gold"})).status_code == 303
    assert (await ada.post(f"{BILLING}/plan/demo")).status_code == 303
    return payment


async def spend(site: Site, headers: dict[str, str], chance: random.Random, said: dict[str, tuple[int, str]]) -> None:
    """Ten calls: what each said that it cost, and that is left."""
    for _ in range(CALLS // 4):
        model = chance.choice(["m", "m", "m", "gift"])
        body = chat(stream=chance.random() < 0.3) | {"model": model}
        answer = await site.post("/v1/chat/completions", body, headers)
        assert answer.status == 200, answer.body
        id_, cost, balance = told(answer)
        said[id_] = (parse_usd(cost), balance)
        found = exact((await site.get(f"/v1/generation?id={id_}", headers)).body)["data"]
        assert (found["total_cost"], found["usage"], found["charge"]) == (cost,) * 3


def told(answer: Reply) -> tuple[str, str, str]:
    """A call's id, its charge and the balance after it, wherever the answer says so."""
    if "text/event-stream" in answer.headers["content-type"]:
        chunks = [exact(each.encode()) for each in answer.events if each != "[DONE]"]
        usage = next(each["usage"] for each in chunks if each.get("usage"))
        return chunks[0]["id"], usage["cost"], usage["balance"]
    body = exact(answer.body)
    charged, left = (answer.headers[f"x-tollbridge-{name}-usd"] for name in ("charged", "balance"))
    assert (body["usage"]["cost"], body["usage"]["balance"]) == (charged, left)
    assert body["usage"]["cost_details"]["upstream_inference_cost"] == answer.headers["x-tollbridge-upstream-cost-usd"]
    return body["id"], charged, left


async def compare(site: Site, ada: Visitor, headers: dict[str, str], said: dict[str, tuple[int, str]]) -> None:
    """What each way to ask a customer has says, beside the rows that never change."""
    database = site.database
    [(id_,)] = await database.fetch("SELECT id FROM account WHERE email = 'ada@example.com'")
    [(charged,)] = await database.fetch("SELECT CAST(SUM(charge) AS BIGINT) FROM usage WHERE account_id = $1", id_)
    kinds: dict[str, int] = dict(
        await database.fetch(
            "SELECT kind, CAST(SUM(amount) AS BIGINT) FROM journal JOIN entry ON journal_id = journal.id "
            "WHERE account_id = $1 AND book IN ('customer_paid', 'customer_promo') GROUP BY kind",
            id_,
        )
    )
    [(paid, promo)] = await database.fetch("SELECT paid, promo FROM balance WHERE account_id = $1", id_)
    afterwards = -kinds["late"]
    spent = charged + afterwards
    came = sum(kinds.values()) + afterwards
    assert sum(cost for cost, _ in said.values()) == charged - SWEPT
    assert paid + promo == came - spent
    assert (kinds["top_up"], kinds["refund"]) == (10 * 10**9, -1_230_000_000)
    left, gone = format_usd(came - spent), format_usd(spent)

    assert amounts((await ada.get(BILLING)).text)[:4] == [left, format_usd(paid), format_usd(promo), "0"]
    assert came - spent in dollars((await ada.get("/dashboard")).text)
    assert spent in dollars((await ada.get("/dashboard/usage")).text)
    api = (await ada.get("/api/billing")).json()
    assert [api[f"{name}_usd"] for name in ("balance", "paid", "promo")] == [left, format_usd(paid), format_usd(promo)]
    assert (await ada.get("/api/usage")).json()["total"]["charge_usd"] == gone
    requests = list(csv.DictReader(io.StringIO((await ada.get("/dashboard/requests.csv")).text)))
    by_id = {row["id"]: parse_usd(row["charge_usd"]) for row in requests}
    assert {name: by_id[name] for name in said} == {name: cost for name, (cost, _) in said.items()}
    # What was charged for a request after its sweep is part of what it cost.
    assert sum(by_id.values()) == spent
    [swept] = [row["id"] for row in requests if row["outcome"] == "swept"]
    assert by_id[swept] == SWEPT + afterwards
    assert exact((await site.get(f"/v1/generation?id={swept}", headers)).body)["data"]["charge"] == format_usd(
        by_id[swept]
    )
    one = (await ada.get(f"/api/requests/{swept}")).json()
    assert (one["charge_usd"], one["cost_usd"]) == (format_usd(by_id[swept]), "0.000003")
    page = (await ada.get(f"/dashboard/requests/{swept}")).text
    assert by_id[swept] in dollars(page)
    assert f"${format_usd(afterwards)} of it was charged later" in page

    statement = (await ada.get("/api/billing/statement")).json()
    assert (statement["opening_usd"], statement["closing_usd"]) == ("0", left)
    moved = {each["kind"]: each["amount_usd"] for each in statement["movements"]}
    assert moved == {
        "grant": format_usd(kinds["grant"]), "top_up": "10", "refund": "-1.23", "usage": f"-{gone}"
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
    papers = (await ada.get("/api/billing/invoices")).json()["data"]
    assert sorted(each["net_usd"] for each in papers) == ["-1.23", "10", "20"]
    for each in papers:
        assert each["total_usd"] in amounts((await ada.get(f"{BILLING}/invoices/{each['number']}")).text)


async def compare_operator(site: Site, boss: Visitor) -> None:
    """What operators see, beside the same rows."""
    database = site.database
    [(charged, lost, cost)] = await database.fetch(
        "SELECT CAST(SUM(charge) AS BIGINT), CAST(SUM(loss) AS BIGINT), CAST(SUM(cost) AS BIGINT) FROM usage"
    )
    books: dict[str, int] = dict(
        await database.fetch(
            "SELECT book, CAST(SUM(amount) AS BIGINT) FROM entry JOIN journal ON journal.id = journal_id GROUP BY book"
        )
    )
    late_by: dict[str, int] = dict(
        await database.fetch(
            "SELECT book, CAST(SUM(amount) AS BIGINT) FROM entry JOIN journal ON journal.id = journal_id "
            "WHERE kind = 'late' GROUP BY book"
        )
    )
    [(paid, promo)] = await database.fetch("SELECT CAST(SUM(paid) AS BIGINT), CAST(SUM(promo) AS BIGINT) FROM balance")
    further = -late_by.get("customer_paid", 0) - late_by.get("customer_promo", 0)
    for by in ("day", "model", "provider", "account"):
        rows = list(csv.DictReader(io.StringIO((await boss.get(f"/admin/margins.csv?by={by}")).text)))
        sums = {name: sum(nano(row[f"{name}_usd"]) for row in rows) for name in ("charged", "lost", "cost")}
        assert (sums["charged"], sums["lost"]) == (charged + further, lost + -late_by.get("loss", 0)), by
        assert sums["cost"] == cost - late_by.get("provider_cost", 0), by
        assert format_usd(charged + further) in amounts((await boss.get(f"/admin?by={by}")).text)
    page = (await boss.get("/admin/ledger")).text
    shown = dict(zip(re.findall(r'<code class="muted">(\w+)</code>', page), chunks(amounts(page), 3), strict=False))
    assert shown["customer_paid"] == ["0", format_usd(paid), format_usd(paid)]
    assert shown["customer_promo"] == ["0", format_usd(promo), format_usd(promo)]
    assert shown["subscription_revenue"][1:] == ["20", "20"]
    assert nano(shown["processor_clearing"][2]) == books["processor_clearing"] == -28_770_000_000
    assert sum(nano(line[2]) for line in shown.values()) == 0
    journal = list(csv.DictReader(io.StringIO((await boss.get("/admin/ledger/journal.csv")).text)))
    for book, amount in books.items():
        assert sum(nano(row["amount_usd"]) for row in journal if row["book"] == book) == amount or book in USAGE


# What requests themselves move; the journal tells of them too.
USAGE = {"customer_paid", "customer_promo", "revenue", "promo_expense", "provider_cost", "provider_payable", "loss"}


def chunks(found: list[str], size: int) -> list[list[str]]:
    return [found[place : place + size] for place in range(0, len(found), size)]
