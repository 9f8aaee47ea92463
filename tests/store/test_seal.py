"""What is sealed, and what is not yet."""

import asyncio
from typing import Any

import msgspec
from msgspec.structs import replace
from tests.store.books import TERMS, Books, Engine, assert_verified, serving, with_books

from tollbridge.core.ledger import hold_id
from tollbridge.store import prices
from tollbridge.store.seal import PRICE, Digest, read, seal
from tollbridge.store.verify import verify


def test_only_what_ended_long_ago_is_sealed(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1000)
        await books.end(await books.held(customer, 10), customer, 1)
        assert await seal(books.database) == 0
        assert await seal(books.database, settled_ms=-1) == 3
        chains = await read(books.database)
        assert {chain: [each.count for each in seals] for chain, seals in chains.items()} == {
            "journal": [1],
            "price": [1],
            f"usage/{books.process.epoch}": [1],
        }

    with_books(ledger_engine, scenario)


def test_what_a_price_was_for_is_sealed(ledger_engine: Engine) -> None:
    """Not only its amounts, by which charges are proven: whom they are attributed to as well."""

    async def scenario(books: Books) -> None:
        async def write(version: int, terms: prices.Terms) -> None:
            text = msgspec.json.encode(terms, order="deterministic").decode()
            await books.database.execute(
                "UPDATE price_version SET terms = $2, digest = $3 WHERE id = $1", version, text, prices.digest(text)
            )

        first = books.price_version
        await prices.register(books.database, [replace(TERMS, model="another")])
        await seal(books.database, settled_ms=-10_000)
        [sealed] = (await read(books.database))[PRICE]
        assert (sealed.first, sealed.count) == (1, 2)
        # Later ones get a seal of their own.
        await prices.register(books.database, [replace(TERMS, model="later")])
        await seal(books.database, settled_ms=-10_000)
        assert [each.count for each in (await read(books.database))[PRICE]] == [2, 1]
        await assert_verified(books.database)
        for other in (replace(TERMS, provider="other"), replace(TERMS, model="other")):
            await write(first, other)
            [problem] = (await verify(books.database)).problems
            assert problem.startswith("the seal over 1 to 2 of price is broken")
        await write(first, TERMS)

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
