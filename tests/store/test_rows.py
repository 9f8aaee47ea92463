"""Rows a page at a time: in an order that only goes on, or not at all."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from tollbridge.errors import Unavailable
from tollbridge.store import activity, seal
from tollbridge.store.db import Row, Transaction
from tollbridge.store.rows import further, pages


class Circling:
    """What a damaged index answers: behind each row the same rows again."""

    async def fetch(self, sql: str, *args: Any) -> list[Row]:
        return [(1, 0), (2, 0)]


WALKS: dict[str, Callable[[Transaction], AsyncIterator[Any]]] = {
    "pages": lambda view: pages(view, "", 2),
    "holds": lambda view: seal.holds(view, 0, 9),
    "transactions": lambda view: seal.transactions(view, 0, 9),
    "activity": lambda view: activity.sealed_rows(view, 0, 9),
}


@pytest.mark.parametrize("walk", WALKS)
def test_a_damaged_index_does_not_make_a_reader_go_round_for_ever(walk: str) -> None:
    seen = []

    async def read() -> None:
        async for row in WALKS[walk](cast(Transaction, Circling())):
            seen.append(row)

    with pytest.raises(Unavailable, match="index finds 2 behind 2"):
        asyncio.run(asyncio.wait_for(read(), 5))
    assert len(seen) == 2


def test_keys_of_two_columns_go_on_too() -> None:
    assert further((1, 5), (1, 4)) == (1, 5)
    with pytest.raises(Unavailable):
        further((1, 4), (1, 4))
