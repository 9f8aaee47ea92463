"""What people did stays as it was noted."""

from functools import partial

import pytest
from tests.store.books import Books, Engine, with_books

from tollbridge.store import accounts, activity, leaving
from tollbridge.store.db import Transaction, run
from tollbridge.store.seal import seal
from tollbridge.store.verify import verify, verify_activity

GONE = "has lost its proof, and nobody was forgotten there"


async def _add(deed: activity.NewDeed, transaction: Transaction) -> None:
    await activity.add(transaction, deed, 1_700_000_000_000)


async def noted(books: Books, count: int = 3, account_id: int = 1) -> None:
    for number in range(count):
        deed = activity.NewDeed(
            account_id=account_id,
            actor="ada@example.com",
            action="key.created",
            detail=f"key {number}",
            address="192.0.2.1",
        )
        await run(books.database, partial(_add, deed))


@pytest.mark.parametrize(
    "changed",
    [
        "UPDATE activity SET actor = 'bob@example.com' WHERE id = 2",
        "UPDATE activity SET detail = 'key 9' WHERE id = 2",
        "UPDATE activity SET address = '192.0.2.9' WHERE id = 2",
        "UPDATE activity SET action = 'key.revoked' WHERE id = 2",
        "UPDATE activity SET at = at + 1 WHERE id = 2",
        "UPDATE activity SET account_id = 2 WHERE id = 2",
        "UPDATE activity SET proof = salt WHERE id = 2",
        "DELETE FROM activity WHERE id = 2",
    ],
)
def test_a_row_that_was_changed_or_removed_by_hand_is_found(ledger_engine: Engine, changed: str) -> None:
    async def scenario(books: Books) -> None:
        await noted(books)
        assert await seal(books.database, settled_ms=-1) >= 1
        before = await verify_activity(books.database)
        assert (before.ok, before.deeds, before.seals) == (True, 3, 1)
        await books.database.execute(changed)
        assert not (await verify_activity(books.database)).ok
        assert not (await verify(books.database)).ok
        # Not for those who set everything right after this test.
        await books.database.execute("DELETE FROM seal WHERE chain = 'activity'")
        await books.database.execute("DELETE FROM activity")

    with_books(ledger_engine, scenario)


def test_a_row_before_the_first_one_is_found(sqlite_engine: Engine) -> None:
    """No seal covers it."""

    async def scenario(books: Books) -> None:
        await noted(books)
        await books.database.execute("UPDATE activity SET id = 0 WHERE id = 3")
        report = await verify_activity(books.database)
        assert report.problems == ["1 rows of activity have an id below 1 or too large, which no row is ever given"]
        assert (report.deeds, report.seals) == (2, 0)
        await books.database.execute("DELETE FROM activity")

    with_books(sqlite_engine, scenario)


def test_what_is_not_sealed_yet_is_held_to_its_proof(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        await noted(books)
        await books.database.execute("UPDATE activity SET detail = 'key 9' WHERE id = 3")
        assert (await verify_activity(books.database)).problems == [
            "activity 3 (key.created) says something else than was noted"
        ]
        await books.database.execute("DELETE FROM activity")

    with_books(ledger_engine, scenario)


def test_who_is_forgotten_leaves_the_seals_whole(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer()
        await noted(books, 4, customer.account_id)
        await seal(books.database, settled_ms=-1)
        await run(books.database, lambda transaction: activity.rename(transaction, "ada@example.com"))
        assert (await verify_activity(books.database)).ok
        account = await accounts.known(books.database, customer.account_id)
        pseudonym = leaving.pseudonym(account)
        await run(books.database, lambda transaction: leaving.close_account(transaction, account.id, pseudonym, 1))
        report = await verify(books.database)
        assert (report.problems, report.deeds) == ([], 4)
        rows = await books.database.fetch("SELECT DISTINCT actor, detail, address, salt FROM activity")
        assert rows == [(pseudonym, "", "", None)]
        # In a closed account too, nothing is said that is not proved.
        await books.database.execute("UPDATE activity SET detail = 'key 9' WHERE id = 2")
        assert (await verify_activity(books.database)).problems == [f"activity 2 (key.created) {GONE}"]
        await books.database.execute("DELETE FROM seal WHERE chain = 'activity'")
        await books.database.execute("DELETE FROM activity")

    with_books(ledger_engine, scenario)


@pytest.mark.parametrize("account_id", [1, activity.GATEWAY])
@pytest.mark.parametrize(
    "more",
    [
        "",
        ", actor = 'bob@example.com'",
        ", detail = '', address = ''",
        ", detail = '', address = '', actor = 'acct_1@closed.invalid'",
        ", actor = 'somebody who left'",
    ],
)
def test_what_only_looks_forgotten_is_found(ledger_engine: Engine, more: str, account_id: int) -> None:
    async def scenario(books: Books) -> None:
        await books.customer()
        await noted(books, 3, account_id)
        await books.database.execute(f"UPDATE activity SET salt = NULL{more} WHERE id = 2")
        assert (await verify_activity(books.database)).problems == [f"activity 2 (key.created) {GONE}"]
        assert not (await verify(books.database)).ok
        await books.database.execute("DELETE FROM activity")

    with_books(ledger_engine, scenario)
