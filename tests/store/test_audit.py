import asyncio
import sqlite3
from pathlib import Path

import pytest

from tollbridge.store import schema
from tollbridge.store.audit import AuditFailed, audit


def test_books_that_are_right_have_nothing_said_of_them(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'books.db'}"
    asyncio.run(schema.migrate(url))
    assert asyncio.run(audit(url)) == []


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'books.db'}"
    asyncio.run(schema.migrate(url))
    database = sqlite3.connect(tmp_path / "books.db")
    database.execute("INSERT INTO account VALUES (7, 'acct_x', 'a@example.com', 'default', 0, NULL)")
    database.execute("INSERT INTO balance (account_id, paid, promo, held, frozen) VALUES (7, 5, 0, 0, 0)")
    database.commit()
    database.close()
    [problem] = asyncio.run(audit(url))
    assert "7" in problem


def test_books_that_cannot_be_read_are_not_called_right(tmp_path: Path) -> None:
    with pytest.raises(AuditFailed, match="could not be read"):
        asyncio.run(audit(f"sqlite:///{tmp_path / 'none' / 'books.db'}"))
