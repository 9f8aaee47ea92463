"""Each invariant of the books: broken in just that way, it is named, and so is only what follows from it."""

import asyncio
import re
import shutil
import sqlite3
from pathlib import Path

import pytest
from tests.store.books import Engine, serving
from tests.store.test_verify import edit, fill, filled, verified

from tollbridge.core.ledger import hold_id
from tollbridge.errors import Unavailable
from tollbridge.store.db import sqlite_path
from tollbridge.store.seal import ALL_IDS
from tollbridge.store.tables import metadata
from tollbridge.store.verify import _OUTSIDE

__all__ = ["filled"]

# Holds are written `#1` here. Of the books that `fill` writes, #1 has an extension and is worth nothing, #2 was charged
# 100 to a key with a limit, #13 and #14 used 10 and 0 included tokens, #15 and #16 were swept and have no price.
FIRST = hold_id(1, 0)
# What happens -> what is said of it.
NAMED = {
    # Rows that belong to nothing.
    "DELETE FROM hold WHERE id = #16": ["usage row of hold #16 has no hold"],
    "INSERT INTO hold_step (hold_id, step, amount) VALUES (#99, 1, 5), (#99, 2, 5)": [
        "extension of hold #99 has no hold"
    ],
    "INSERT INTO checkpoint (hold_id, charge, record) VALUES (#99, 1, x'00')": [
        "checkpoint of hold #99 has no open hold"
    ],
    "INSERT INTO checkpoint (hold_id, charge, record) VALUES (#16, 1, x'00')": [
        "checkpoint of hold #16 has no open hold"
    ],
    "INSERT INTO entry (journal_id, line, book, amount) VALUES (99, 0, 'revenue', 5)": [
        "row 17 of entry refers to a row of journal that is not there",
        "entries of transaction 99 have no transaction",
    ],
    "INSERT INTO account (id, public_id, email, plan, created_at) VALUES (9, 'x', 'x', 'default', 0)": [
        "account 9 has no balance"
    ],
    "INSERT INTO membership (account_id, user_id, role, created_at) VALUES (1, 77, 'owner', 0)": [
        "row 1 of membership refers to a row of user that is not there"
    ],
    f"INSERT INTO hold (id, account_id, key_id, amount, limited, expires_at) VALUES ({hold_id(2, 1)}, 1, 1, 0, 0, 0)": [
        f"hold #{hold_id(2, 1) - FIRST} belongs to no process"
    ],
    # Holds and their ends.
    "DELETE FROM usage WHERE hold_id = #16": [
        "account 2: held is 0, but the rows say 50",
        "key 2: held is 0, but the rows say 50",
    ],
    "DELETE FROM usage WHERE hold_id = #4": [
        "account 2: paid is 996380, but the rows say 996680",
        "account 2: held is 0, but the rows say 600",
        "key 2: spent is 3620, but the rows say 3320",
        "key 2: held is 0, but the rows say 600",
    ],
    "DELETE FROM usage WHERE hold_id = #14": [
        "account 1: held of the included tokens of 202612 is 0, but the rows say 40"
    ],
    **{
        f"UPDATE hold SET {change} WHERE id = #15": ["usage row of hold #15 names another account or key than the hold"]
        for change in ("account_id = 2", "key_id = 2", "limited = 1")
    },
    "UPDATE hold_step SET amount = 99 WHERE hold_id = #1": ["usage row of hold #1 gave back 600, but 599 was held"],
    "UPDATE usage SET held = 49 WHERE hold_id = #15": ["usage row of hold #15 gave back 49, but 50 was held"],
    **{
        change: [f"usage row of hold #{hold} and the hold differ in what pays: included tokens or money"]
        for hold, change in {
            14: "UPDATE usage SET allowance = NULL WHERE hold_id = #14",
            15: "UPDATE usage SET allowance = 0 WHERE hold_id = #15",
        }.items()
    },
    "UPDATE usage SET outcome = 99 WHERE hold_id = #15": ["usage row of hold #15 cannot be read"],
    # What was charged.
    "UPDATE usage SET allowance = 1 WHERE hold_id = #14": [
        "usage row of hold #14 charges 0 and 1 included tokens, but used 0 tokens",
        "account 1: used of the included tokens of 202612 is 10, but the rows say 11",
    ],
    "UPDATE usage SET allowance = -1 WHERE hold_id = #14": [
        "usage row of hold #14 charges 0 and -1 included tokens, but used 0 tokens",
        "account 1: used of the included tokens of 202612 is 10, but the rows say 9",
    ],
    "UPDATE usage SET allowance = 9 WHERE hold_id = #13": [
        "account 1: used of the included tokens of 202612 is 10, but the rows say 9"
    ],
    "UPDATE usage SET loss = 1 WHERE hold_id = #14": [
        "usage row of hold #14 charges 1 and 0 included tokens, but used 0 tokens"
    ],
    "UPDATE usage SET promo = -1 WHERE hold_id = #16": [
        "the file is damaged: CHECK constraint failed in usage",
        "usage row of hold #16 has impossible amounts: charge 0, promo -1, loss 0, cost 0",
        "account 2: paid is 996380, but the rows say 996379",
        "account 2: promo is 0, but the rows say 1",
    ],
    "UPDATE usage SET promo = 101 WHERE hold_id = #2": [
        "the file is damaged: CHECK constraint failed in usage",
        "usage row of hold #2 has impossible amounts: charge 100, promo 101, loss 0, cost 50",
        "account 2: paid is 996380, but the rows say 996481",
        "account 2: promo is 0, but the rows say -101",
    ],
    "UPDATE usage SET promo = 100 WHERE hold_id = #2": [
        "account 2: paid is 996380, but the rows say 996480",
        "account 2: promo is 0, but the rows say -100",
    ],
    "UPDATE usage SET loss = -1 WHERE hold_id = #15": [
        "the file is damaged: CHECK constraint failed in usage",
        "usage row of hold #15 has impossible amounts: charge 0, promo 0, loss -1, cost 0",
        "usage row of hold #15 charges -1 and costs 0 without a price",
    ],
    "UPDATE usage SET cost = -1 WHERE hold_id = #2": [
        "usage row of hold #2 has impossible amounts: charge 100, promo 0, loss 0, cost -1",
    ],
    "UPDATE usage SET cost = 1 WHERE hold_id = #15": ["usage row of hold #15 charges 0 and costs 1 without a price"],
    "UPDATE usage SET loss = 1 WHERE hold_id = #15": ["usage row of hold #15 charges 1 and costs 0 without a price"],
    "UPDATE usage SET price_version = 77 WHERE hold_id = #15": [
        "usage row of hold #15 refers to price version 77, which does not exist"
    ],
    "UPDATE usage SET output = -5 WHERE hold_id = #2": ["usage row of hold #2 has impossible meters"],
    "UPDATE usage SET loss = 1 WHERE hold_id = #1": [
        "usage row of hold #1 charges 0 and loses 1, but what was used is worth 0"
    ],
    # What could not be charged is the loss: the request itself is right.
    "UPDATE usage SET charge = 99, loss = 1 WHERE hold_id = #2": [
        "account 2: paid is 996380, but the rows say 996381",
        "key 2: spent is 3620, but the rows say 3619",
    ],
    "UPDATE usage SET charge = 0 WHERE hold_id = #2": [
        "usage row of hold #2 charges 0 and loses 0, but what was used is worth 100",
        "account 2: paid is 996380, but the rows say 996480",
        "key 2: spent is 3620, but the rows say 3520",
    ],
    # Who got no answer may be charged nothing.
    "UPDATE usage SET charge = 0, outcome = 6 WHERE hold_id = #2": [
        "account 2: paid is 996380, but the rows say 996480",
        "key 2: spent is 3620, but the rows say 3520",
    ],
    # Prices.
    "UPDATE price_version SET terms = terms || ' '": ["price version 1 was changed: it does not match its digest"],
    "UPDATE price_version SET terms = 'x'": [
        "price version 1 cannot be read",
        "price version 1 was changed: it does not match its digest",
        *(f"usage row of hold #{n} refers to price version 1, which does not exist" for n in range(1, 15)),
    ],
    # The journal.
    "UPDATE journal SET kind = 'gift' WHERE id = 5": ["transaction 5 (refund) is of the unknown kind 'gift'"],
    "DELETE FROM entry WHERE journal_id = 5": [
        "the entries of transaction 5 (refund) do not sum to zero",
        "account 1: paid is 997970, but the rows say 997980",
    ],
    "UPDATE entry SET amount = 11 WHERE journal_id = 5 AND line = 1": [
        "the entries of transaction 5 (refund) do not sum to zero",
        "the trial balance is 1 nano-USD, not zero",
    ],
    "UPDATE entry SET line = 2 WHERE journal_id = 5 AND line = 1": ["transaction 5 (refund) lacks an entry"],
    "UPDATE entry SET book = 'nobody' WHERE journal_id = 5 AND line = 1": [
        "transaction 5 (refund) has an entry in the unknown account 'nobody'",
        "the trial balance is -10 nano-USD, not zero",
    ],
    "UPDATE journal SET actor = 'key/1' WHERE id = 6": ["key 1 has spent under a limit, but has no row in key_spend"],
    # What is kept of it.
    **{
        f"UPDATE balance SET {name} = {name} + 1 WHERE account_id = 1": [
            f"account 1: {name} is {right + 1}, but the rows say {right}"
        ]
        for name, right in {"paid": 997970, "promo": 0, "held": 0}.items()
    },
    "DELETE FROM balance WHERE account_id = 1": [
        "account 1 has no balance",
        "account 1 has transactions, but no balance",
    ],
    "UPDATE key_spend SET spent = 0, held = 1": [
        "key 2: spent is 0, but the rows say 3620",
        "key 2: held is 1, but the rows say 0",
    ],
    "DELETE FROM key_spend": ["key 2 has spent under a limit, but has no row in key_spend"],
    "INSERT INTO key_spend (key_id, spent, held) VALUES (1, 3, 0)": ["key 1: spent is 3, but the rows say 0"],
    "UPDATE allowance SET used = 9, held = 1": [
        "account 1: used of the included tokens of 202612 is 9, but the rows say 10",
        "account 1: held of the included tokens of 202612 is 1, but the rows say 0",
    ],
    # Of payments, whose proof is part of this one.
    (
        "INSERT INTO voucher (id, digest, hint, kind, amount, note, actor, created_at, redeemed_at, account_id) "
        "VALUES (1, x'00', '', 'promo', 5, '', '', 0, 1, 1)"
    ): [
        "vouchers that were redeemed: 1, but 0 in the journal",
        "voucher 1: the journal has another account, time, kind or amount for its credit",
    ],
    "UPDATE allowance SET period = 202601": [
        "account 1: used of the included tokens of 202601 is 10, but the rows say 0",
        "account 1 has used included tokens of 202612, but has no row in allowance",
    ],
}


@pytest.fixture(scope="module")
def filled_file(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "tollbridge.db"
    shutil.copy(migrated_file, path)

    async def main() -> None:
        async with serving(Engine(f"sqlite:///{path}", path.parent)) as books:
            await fill(books)
            # Every change would break them too.
            await books.database.execute("DELETE FROM seal")

    asyncio.run(main())
    return path


@pytest.fixture
def unsealed(filled_file: Path, tmp_path: Path) -> Engine:
    path = tmp_path / "tollbridge.db"
    shutil.copy(filled_file, path)
    return Engine(f"sqlite:///{path}", tmp_path)


def problems(engine: Engine) -> list[str]:
    return [re.sub(r"\d{13,}", lambda id_: f"#{int(id_[0]) - FIRST}", each) for each in verified(engine).problems]


def test_of_books_that_are_right_is_said_how_much_was_read(unsealed: Engine) -> None:
    report = verified(unsealed)
    assert report.problems == []
    assert (report.accounts, report.holds, report.open_holds, report.transactions) == (2, 16, 0, 6)


@pytest.mark.parametrize("change", NAMED)
def test_what_is_broken_is_named(unsealed: Engine, change: str) -> None:
    edit(unsealed, re.sub(r"#(\d+)", lambda number: str(FIRST + int(number[1])), change))
    assert problems(unsealed) == NAMED[change]


@pytest.mark.parametrize("at", [ALL_IDS[0], ALL_IDS[1]])
@pytest.mark.parametrize("name", _OUTSIDE)
def test_a_row_with_an_id_that_no_row_is_given_is_named(unsealed: Engine, name: str, at: int) -> None:
    table = metadata.tables[name]
    plain = {"TEXT": "'x'", "BLOB": "x'00'"}
    needed = [column for column in table.columns if not column.nullable]
    values = {column.name: plain.get(str(column.type), "1") for column in needed}
    values[next(iter(table.primary_key.columns)).name] = str(at)
    columns = ", ".join(f'"{column}"' for column in values)
    edit(unsealed, f"INSERT INTO {name} ({columns}) VALUES ({', '.join(values.values())})")
    assert (
        f"1 rows of {name} have an id below 1 or too large, which no row is ever given" in verified(unsealed).problems
    )


def test_a_table_that_is_gone_is_named(unsealed: Engine) -> None:
    connection = sqlite3.connect(sqlite_path(unsealed.url))
    connection.execute("DROP TABLE key_spend")
    connection.close()
    assert problems(unsealed) == ["the schema is damaged: no such table: key_spend"]


def test_where_reading_fails_is_said_what_was_found_until_then(unsealed: Engine) -> None:
    edit(unsealed, "UPDATE journal SET reason = CAST(x'ff' AS TEXT) WHERE id = 5")
    with pytest.raises(Unavailable, match="damaged"):
        verified(unsealed)
    edit(unsealed, f"UPDATE usage SET held = 49 WHERE hold_id = {FIRST + 15}")
    assert problems(unsealed) == [
        "usage row of hold #15 gave back 49, but 50 was held",
        "the rest could not be read: The database file is damaged. Restore a backup.",
    ]


def test_of_rows_that_a_seal_covers_it_is_said_how_many_are_gone(filled: Engine) -> None:
    edit(filled, "DELETE FROM entry WHERE journal_id = 3", "DELETE FROM journal WHERE id = 3")
    sealed = [each for each in verified(filled).problems if each.startswith("the seal over 1 to 6 of journal")]
    assert sealed == [
        "the seal over 1 to 6 of journal counted 6 rows, but now there are 5",
        "the seal over 1 to 6 of journal is broken: a row under it was changed, or the seal itself",
    ]
