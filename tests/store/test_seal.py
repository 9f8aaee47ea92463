"""What is sealed, and what is not yet."""

import asyncio
from typing import Any

from tests.store.books import Books, Engine, assert_verified, serving, with_books

from tollbridge.core.ledger import hold_id
from tollbridge.store.seal import Digest, read, seal


def test_only_what_ended_long_ago_is_sealed(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1000)
        await books.end(await books.held(customer, 10), customer, 1)
        assert await seal(books.database) == 0
        assert await seal(books.database, settled_ms=-1) == 2
        chains = await read(books.database)
        assert {chain: [each.count for each in seals] for chain, seals in chains.items()} == {
            "journal": [1],
            f"usage/{books.process.epoch}": [1],
        }

    with_books(ledger_engine, scenario)


def test_a_range_ends_before_the_first_open_hold(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1000)
        holds = [await books.held(customer, 10) for _ in range(5)]
        for number in (0, 1, 3, 4):
            await books.end(holds[number], customer, 1)
        await seal(books.database, settled_ms=-1)
        chain = f"usage/{books.process.epoch}"
        (first,) = (await read(books.database))[chain]
        assert (first.first, first.last, first.count) == (hold_id(books.process.epoch, 0) + 1, holds[1], 2)
        await books.end(holds[2], customer, 1)
        await seal(books.database, settled_ms=-1)
        assert await seal(books.database, settled_ms=-1) == 0
        _, second = (await read(books.database))[chain]
        assert (second.first, second.last, second.count) == (holds[1] + 1, holds[4], 3)

    with_books(ledger_engine, scenario)


def test_sealing_from_two_places_at_once_seals_once(ledger_engine: Engine) -> None:
    async def main() -> None:
        async with serving(ledger_engine) as books:
            beside = ledger_engine.database()
            await beside.start()
            customer = await books.customer(paid=1000)
            for _ in range(5):
                for _ in range(3):
                    await books.end(await books.held(customer, 10), customer, 1)
                databases = (books.database, beside) * 3
                counts = await asyncio.gather(*(seal(database, settled_ms=-1) for database in databases))
                assert sum(counts) >= 1
                await assert_verified(books.database)
            await beside.close()

    asyncio.run(main())


def test_columns_that_came_later_leave_the_seals_before_them_as_they_were() -> None:
    """Both widths: a hold with its end as the first version of the schema had it, and an open hold."""

    def sealed(row: tuple[Any, ...]) -> bytes:
        digest = Digest("usage/1", 1, b"")
        digest.add(row, [])
        return digest.close(1, 0)

    first = (*range(30), None)
    assert sealed(first) == sealed((*first, None)) == sealed((*first, None, None))
    assert len({sealed(first), sealed((*first, "x")), sealed((*first, None, "x")), sealed(first[:30])}) == 4
