"""A17: every place that takes an amount from outside, and more than sixty texts and values that are none.

Each is refused with a message about the amount, and nothing is written; one that is good is taken, so that it was the
amount that was refused. On the command line: tests/cli/test_commands.py.
"""

import re
from collections.abc import Awaitable, Callable

import httpx
import msgspec
import pytest
from tests.cli.test_commands import BAD_AMOUNTS
from tests.gateway.site import Site, chat, run
from tests.payments.conftest import USD
from tests.payments.fake_stripe import FakeStripe
from tests.web.test_billing import BILLING, TRANSFER, config
from tests.web.town import operator
from tests.web.visitors import Visitor, house, registered, shown

from tollbridge.errors import InvalidRequest
from tollbridge.web.forms import Form

# What people write in forms, and mean.
READABLE = {" 1": 1, "1 ": 1, "5\n": 5, "\t5": 5, "$5": 5, "1,000": 1000}
ZEROS = {"0", "0.0", "0.000000000"}
EMPTY = {"", " "}
MORE = [
    "$",
    "$ 5",
    "$-5",
    "$$5",
    ",5",
    "5,",
    "1,00",
    "10,00.5",
    "1,0000",
    "0,001",
    "1,000,00",
    "25,50",
    "1e-400",
    "-1e309",
]
TEXTS = [*BAD_AMOUNTS, *MORE]
VALUES = [
    *(b"true", b"false", b"5", b"-5", b"0", b"-0", b"5.0", b"1e309", b"-1e309", b"1e2", b"[]", b'["5"]', b"{}"),
    *(b'{"usd":"5"}', b"NaN", b"Infinity", b"-Infinity", b"0x5", b"05", b"9" * 400, b"5" + b"0" * 400, b"'5'"),
]  # fmt: skip
SAYS = re.compile(
    "such as 25 or|an amount is|amount must|amount above zero|threshold must|daily cap must|can be refunded|"
    "another amount was|"
    "this form could not be read",
    re.IGNORECASE,
)
TABLES = ("journal", "balance", "payment", "reversal", "voucher", "auto_top_up", "balance_alert", "api_key", "account")


def test_there_are_enough() -> None:
    assert len(set(TEXTS)) >= 60
    assert len({*TEXTS} - READABLE.keys()) >= 60


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:20]))
def test_a_form_reads_what_people_mean_and_nothing_else(text: str) -> None:
    form = Form({"amount": text})
    if text in READABLE:
        assert form.usd("amount") == READABLE[text] * USD
    elif text in ZEROS:
        assert form.usd("amount") == 0
    else:
        with pytest.raises(InvalidRequest, match="Write an amount in USD") as caught:
            form.usd("amount")
        assert caught.value.param == "amount"
    if text in READABLE:
        assert form.usd_if_any("amount") == READABLE[text] * USD
    elif text in EMPTY:
        assert form.usd_if_any("amount") is None
    elif text not in ZEROS:
        with pytest.raises(InvalidRequest, match="Write an amount in USD"):
            form.usd_if_any("amount")


async def written(site: Site) -> list[object]:
    return [sorted(map(str, await site.database.fetch(f"SELECT * FROM {table}"))) for table in TABLES]


Send = Callable[[str], Awaitable[httpx.Response]]


class Place(msgspec.Struct, frozen=True):
    """Where an amount is taken; `fine`: texts of the list that mean something there."""

    name: str
    send: Send
    fine: frozenset[str] = frozenset()
    good: str = "12.5"


def form(visitor: Visitor, path: str, field: str, **others: str) -> Send:
    async def send(text: str) -> httpx.Response:
        return await visitor.post(path, {**others, field: text})

    return send


async def refused(site: Site, place: Place, texts: list[str]) -> None:
    before = await written(site)
    for text in texts:
        if text in place.fine:
            continue
        response = await place.send(text)
        assert response.status_code in {400, 422}, (place.name, text, response.status_code)
        assert SAYS.search(shown(response)), (place.name, text, shown(response))
    assert await written(site) == before, place.name
    taken = await place.send(place.good)
    assert taken.status_code in {200, 201, 303}, (place.name, shown(taken))
    assert await written(site) != before, place.name


def test_no_form_takes_what_is_no_amount() -> None:
    async def test() -> None:
        with FakeStripe.beside() as stripe:
            async with house(config(stripe) + TRANSFER) as site:
                boss, ada = await operator(site), await registered(site, "ada@example.com")
                till = site.gateway._payments()
                [(public_id,)] = await site.database.fetch("SELECT public_id FROM account WHERE email LIKE 'ada%'")
                options = {"pack": "50000000000", "method": "stripe", "once": "1", "save_card": "1"}
                begun = await ada.post(f"{BILLING}/checkout", options)
                stripe.pay(begun.headers["location"].rpartition("/")[2])
                [(paid,)] = await site.database.fetch("SELECT public_id FROM payment")
                await ada.get(f"{BILLING}?payment={paid}")
                await ada.post(f"{BILLING}/checkout", {"pack": "10000000000", "method": "bank_transfer", "once": "2"})
                [(reference,)] = await site.database.fetch("SELECT external_id FROM payment WHERE method <> 'stripe'")
                assert till.methods == ("stripe", "bank_transfer")
                top_up = {"threshold": "5", "amount": "20", "daily_cap": "40"}
                readable, empty = frozenset(READABLE), frozenset(EMPTY)
                places = [
                    Place(
                        "credit", form(ada, f"{BILLING}/checkout", "amount", pack="other", method="stripe"), readable
                    ),
                    Place(
                        "threshold",
                        form(ada, f"{BILLING}/top-up", "threshold", **without(top_up, "threshold")),
                        readable,
                    ),
                    Place("amount", form(ada, f"{BILLING}/top-up", "amount", **without(top_up, "amount")), readable),
                    Place(
                        "cap",
                        form(ada, f"{BILLING}/top-up", "daily_cap", **without(top_up, "daily_cap")),
                        readable,
                        "50",
                    ),
                    Place("alert", form(ada, f"{BILLING}/alert", "alert"), readable | empty | ZEROS),
                    Place(
                        "grant",
                        form(boss, f"/admin/accounts/{public_id}/grant", "amount", reason="x", once="1"),
                        readable,
                    ),
                    Place("voucher", form(boss, "/admin/vouchers", "amount", kind="paid", count="1"), readable),
                    Place(
                        "refund",
                        form(boss, "/admin/payments/refund", "amount", payment=paid, reason="x"),
                        readable | empty,
                    ),
                    Place(
                        "transfer", form(boss, "/admin/payments/confirm", "amount", reference=reference), readable, "10"
                    ),
                    Place("limit", form(ada, "/dashboard/keys", "limit_usd", label="x"), readable | empty),
                    Place("cap of a key", form(ada, "/dashboard/keys", "cost_cap_usd", label="x"), readable | empty),
                ]
                for place in places:
                    await refused(site, place, TEXTS)

    run(test())


def without(fields: dict[str, str], name: str) -> dict[str, str]:
    return {each: value for each, value in fields.items() if each != name}


def test_no_program_hands_in_what_is_no_amount() -> None:
    async def test() -> None:
        async with house(TRANSFER) as site:
            ada = await registered(site, "ada@example.com")
            made = await ada.send_json("POST", "/api/keys", {"label": "x"})
            assert made.status_code == 201
            key = f"/api/keys/{made.json()['id']}"
            headers = {"sec-fetch-site": "same-origin", "x-csrf-token": await ada.token("/dashboard")}
            headers |= {"accept": "application/json", "content-type": "application/json"}
            places = (
                ("POST", "/api/keys", b'{"label":"y","limit_usd":%b}'),
                ("POST", "/api/keys", b'{"label":"y","cost_cap_usd":%b}'),
                ("PATCH", key, b'{"limit_usd":%b}'),
                ("PATCH", key, b'{"cost_cap_usd":%b}'),
                ("POST", "/api/billing/payments", b'{"method":"bank_transfer","amount_usd":%b}'),
            )
            for method, path, body in places:
                before = await written(site)
                field = re.findall(rb"(\w+)\":%b", body)[0].decode()
                for value in [*map(msgspec.json.encode, TEXTS), *VALUES]:
                    response = await ada.client.request(method, path, content=body % value, headers=headers)
                    assert response.status_code in {400, 422}, (path, value, response.text)
                    said = response.json()["error"]["message"]
                    assert (
                        field in said
                        or "is not JSON" in said
                        or re.search("an amount (is|must)|amount (must be )?above zero", said)
                    ), said
                assert await written(site) == before, (path, field)
                taken = await ada.client.request(method, path, content=body % b'"12.5"', headers=headers)
                assert taken.status_code in {200, 201}, taken.text
                assert await written(site) != before

    run(test())


def test_no_call_is_made_under_a_cap_that_is_no_amount() -> None:
    async def test() -> None:
        async with house() as site:
            url = f"http://127.0.0.1:{site.port}/v1/chat/completions"
            before = await written(site)
            async with httpx.AsyncClient(trust_env=False, timeout=30) as client:

                async def call(cap: bytes) -> httpx.Response:
                    sent = [(b"authorization", f"Bearer {site.key}".encode()), (b"x-tollbridge-max-cost-usd", cap)]
                    return await client.post(url, json=chat(), headers=sent)

                for text in TEXTS:
                    # Spaces around a header's value are none of it, and line ends end it.
                    if text == text.strip() and "\x00" not in text:
                        response = await call(text.encode())
                        assert response.status_code == 400, (text, response.text)
                        assert response.json()["error"]["code"] == "cost_cap_exceeded" or (
                            "max-cost-usd" in response.json()["error"]["message"].lower()
                        )
                assert (await call(b"\xa05")).status_code == 400
                assert await written(site) == before
                assert (await call(b"1")).status_code == 200

    run(test())
