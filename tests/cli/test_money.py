"""Payments, vouchers and reports on the command line."""

import asyncio
import csv
import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.cli.conftest import Shell
from tests.payments.conftest import USD, settings

from tollbridge.core.payments import Payment
from tollbridge.services import accounts, vouchers
from tollbridge.services.payments import open_payments
from tollbridge.store.db import open_database


@pytest.fixture
def bought(shell: Shell) -> Payment:
    """Ada has ordered 50 USD by bank transfer."""
    (shell.directory / "tollbridge.toml").write_text('[bank_transfer]\ninstructions = "Example Bank"\n')
    shell.ok("account", "create", "ada@example.com")

    async def main() -> Payment:
        database = open_database(f"sqlite:///{shell.directory}/data/tollbridge.db")
        await database.start()
        account = await accounts.get(database, "ada@example.com")
        till = open_payments(database, settings(bank_transfer__instructions="x"), "http://127.0.0.1")
        checkout = await till.start_checkout(account, 50 * USD, method="bank_transfer")
        await database.close()
        return checkout.payment

    return asyncio.run(main())


def month_of(shell: Shell) -> str:
    """In which money was last moved: another may have begun since."""
    with shell.database() as database:
        [(at,)] = database.execute("SELECT MAX(created_at) FROM journal")
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m")


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_what_a_closed_account_has_left_is_said_and_written_off(shell: Shell, bought: Payment) -> None:
    assert bought.external_id is not None
    shell.ok("payment", "confirm", bought.external_id, "50")
    shell.ok("credit", "grant", "ada@example.com", "2", "--reason", "x")
    account = json.loads(shell.ok("account", "show", "ada@example.com", "--json").out)["id"]
    write_off = ("credit", "write-off", account, "--reason", "not claimed")
    assert "only what a closed account has left" in shell.refused(*write_off)
    assert "50 USD of paid credit is left" in shell.refused("account", "close", account)
    said = shell.ok("account", "close", account, "--forfeit").err
    assert "; 2 USD of promotional credit are lost" in said
    assert (
        f"50 USD of paid credit are still owed: tollbridge payment refund, or tollbridge credit write-off {account}"
        in said
    )
    shell.ok("payment", "refund", bought.public_id, "--amount", "20")
    assert "30 USD are written off: revenue" in shell.ok(*write_off).err
    assert "nothing is owed" in shell.refused(*write_off)
    statement = json.loads(shell.ok("ledger", "statement", account, "--month", month_of(shell), "--json").out)
    sums = {each["kind"]: each["amount_usd"] for each in statement["movements"]}
    assert sums == {"top_up": "50", "refund": "-20", "write_off": "-30", "usage": "0"}
    books = json.loads(shell.ok("ledger", "verify", "--json").out)["trial_balance_usd"]
    kept = {"revenue": "30", "processor_clearing": "-30"}
    assert {name: amount for name, amount in books.items() if amount != "0"} == kept


def test_a_transfer_from_its_arrival_to_its_refund(shell: Shell, bought: Payment) -> None:
    assert bought.external_id is not None
    (listed,) = json.loads(shell.ok("payment", "list", "--json").out)
    assert (listed["status"], listed["amount_usd"], listed["reference"]) == ("pending", "50", bought.external_id)
    assert listed["account"] == "ada@example.com"
    assert "another amount" in shell.refused("payment", "confirm", bought.external_id, "49")
    assert "is paid" in shell.ok("payment", "confirm", bought.external_id, "50").err
    assert "no order has the reference" in shell.refused("payment", "confirm", "TB-NONE", "50")
    assert "5 USD of pay_" in shell.ok("payment", "refund", bought.public_id, "--amount", "5").err
    assert "it has been paid" in shell.refused("payment", "dismiss", bought.public_id)
    assert json.loads(shell.ok("account", "show", "ada@example.com", "--json").out)["paid_usd"] == "45"
    assert shell.ok("payment", "list", "--status", "review").out.count("\n") == 1
    wrong = shell("payment", "list", "--status", "reviwe")
    assert (wrong.code, wrong.out) == (2, "")
    assert "one of pending, processing, review" in wrong.err
    assert json.loads(shell.ok("ledger", "verify", "--json").out)["ok"]


def test_a_refund_with_the_same_text_is_made_once(shell: Shell, bought: Payment) -> None:
    shell.ok("payment", "confirm", str(bought.external_id), "50")
    refund = ("payment", "refund", bought.public_id, "--amount", "5")
    once = (*refund, "--idempotency-key", "ticket 81")
    assert shell.ok(*once).err == shell.ok(*once).err
    assert json.loads(shell.ok("account", "show", "ada@example.com", "--json").out)["paid_usd"] == "45"
    assert "another amount" in shell.refused(*refund[:-1], "6", "--idempotency-key", "ticket 81")
    assert "1 to 500 characters" in shell.refused(*refund, "--idempotency-key", "")
    shell.ok(*refund)
    assert json.loads(shell.ok("account", "show", "ada@example.com", "--json").out)["paid_usd"] == "40"
    assert json.loads(shell.ok("ledger", "verify", "--json").out)["ok"]


def test_an_order_that_was_never_paid_is_dismissed(shell: Shell, bought: Payment) -> None:
    shell.ok("payment", "dismiss", bought.public_id)
    (listed,) = json.loads(shell.ok("payment", "list", "--json").out)
    assert (listed["status"], listed["note"]) == ("failed", "dismissed by the operator")


def test_vouchers_are_made_listed_and_withdrawn(shell: Shell) -> None:
    codes = shell.ok("voucher", "create", "10", "--count", "3", "--note", "fair", "--expires", "2099-01-01").lines
    assert len(set(codes)) == 3
    (made,) = json.loads(shell.ok("voucher", "create", "2.5", "--paid", "--json").out)
    shell.ok("voucher", "withdraw", str(made["id"]))
    (listed, *_) = json.loads(shell.ok("voucher", "list", "--json").out)
    assert made["code"].endswith(listed["code"].removeprefix("…"))
    assert (made["kind"], made["amount_usd"], made["expires_at"]) == ("paid", "2.5", None)
    found = json.loads(shell.ok("voucher", "list", "--json").out)
    assert [each["status"] for each in found] == ["withdrawn", "open", "open", "open"]
    found = found[1:]
    assert not any(code in shell.ok("voucher", "list").out for code in codes)
    shell.ok("voucher", "withdraw", str(found[0]["id"]))
    assert "no open voucher" in shell.refused("voucher", "withdraw", str(found[0]["id"]))
    assert "an id is a number" in shell.refused("voucher", "withdraw", "x")

    async def redeem() -> None:
        database = open_database(f"sqlite:///{shell.directory}/data/tollbridge.db")
        await database.start()
        account = await accounts.create(database, "eve@example.com", plans=("default",), actor="test")
        await vouchers.redeem(database, account, codes[0])
        await database.execute("UPDATE voucher SET expires_at = 1 WHERE id = $1", found[1]["id"])
        await database.close()

    asyncio.run(redeem())
    assert [each["status"] for each in json.loads(shell.ok("voucher", "list", "--json").out)] == [
        *("withdrawn", "withdrawn", "expired", "redeemed"),
    ]


def test_a_month_is_printed_in_three_ways(shell: Shell, bought: Payment) -> None:
    shell.ok("payment", "confirm", str(bought.external_id), "50")
    command = ("ledger", "statement", "ada@example.com", "--month", month_of(shell))
    table = shell.ok(*command).out
    assert "closing USD  50" in table
    data: dict[str, Any] = json.loads(shell.ok(*command, "--json").out)
    assert (data["closing_usd"], data["movements"][0]) == ("50", {"kind": "top_up", "amount_usd": "50"})
    assert [row["balance_usd"] for row in rows(shell.ok(*command, "--csv").out)] == ["0", "50", "50"]
    assert "needs --month" in shell.refused("ledger", "statement", "ada@example.com", "--csv")
    assert "a month is like 2026-11" in shell.refused("ledger", "statement", "ada@example.com", "--month", "May")


def test_the_invoices_of_a_month_as_a_tax_adviser_needs_them(shell: Shell, bought: Payment) -> None:
    with shell.database() as database:
        database.execute(
            "INSERT INTO buyer (account_id, name, address, tax_id) VALUES (1, '=Ada Ltd', '1 Street\nTown', 'DE1')"
        )
    shell.ok("payment", "confirm", str(bought.external_id), "50")
    shell.ok("payment", "refund", bought.public_id, "--amount", "20")
    with shell.database() as database:
        # What is issued in the first moment of a month is of that month.
        database.execute("UPDATE invoice SET issued_at = 1709251200000 WHERE number = 2")
        database.execute("UPDATE invoice SET issued_at = 1709251199999 WHERE number = 1")
    [invoice] = rows(shell.ok("report", "invoices", "--month", "2024-02", "--csv").out)
    assert invoice == {
        "number": "INV-000001",
        "issued_at": "2024-02-29T23:59:59Z",
        "what": "invoice",
        "of_invoice": "",
        "buyer": "'=Ada Ltd",
        "net_usd": "50",
        "tax_usd": "0",
        "total_usd": "50",
        "paid_by": "bank transfer",
        "payment": bought.public_id,
        "item": "Prepaid credit",
        "buyer_email": "ada@example.com",
        "buyer_address": "1 Street\nTown",
        "buyer_tax_id": "DE1",
    }
    [note] = json.loads(shell.ok("report", "invoices", "--month", "2024-03", "--json").out)
    assert (note["what"], note["of_invoice"], note["total_usd"]) == ("credit note", "INV-000001", "-20")
    assert (note["buyer"], note["item"]) == ("=Ada Ltd", "Prepaid credit, refund of invoice INV-000001")
    table = shell.ok("report", "invoices", "--month", "2024-03").out
    assert "INV-000002" in table
    assert "Street" not in table
    assert shell.ok("report", "invoices", "--month", "2024-04", "--csv").out.startswith("number,issued_at,what,")


def test_reports_of_a_month(shell: Shell, bought: Payment) -> None:
    shell.ok("payment", "confirm", str(bought.external_id), "50")
    month = month_of(shell)
    balance = {row["book"]: row for row in rows(shell.ok("report", "trial-balance", "--month", month, "--csv").out)}
    assert balance["customer_paid"]["closing_usd"] == "50"
    assert balance["processor_clearing"]["moved_usd"] == "-50"
    journal = rows(shell.ok("report", "journal", "--month", month).out)
    assert {(row["book"], row["amount_usd"]) for row in journal} == {
        ("processor_clearing", "-50"),
        ("customer_paid", "50"),
    }
    assert "nothing in this month" in shell.ok("report", "margin", "--month", month).err
    assert json.loads(shell.ok("report", "margin", "--month", month, "--by", "day", "--json").out) == []
    assert shell.ok("report", "margin", "--month", month, "--csv").out.startswith("model,requests,tokens_in,")
    (shell.directory / "invoice.csv").write_text("model,amount_usd\nx,1\n")
    assert "no request was ever priced" in shell.refused(
        "report", "drift", "invoice.csv", "--provider", "deepseek", "--month", month
    )
    assert "cannot be read" in shell.refused(
        "report", "drift", "nothing.csv", "--provider", "deepseek", "--month", month
    )
