"""Price versions."""

import asyncio

from msgspec.structs import replace
from tests.store.books import TERMS, Books, Engine, with_books

from tollbridge.store import prices
from tollbridge.values import Price


def test_the_same_terms_are_the_same_version(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        other = replace(TERMS, multiplier_ppm=1_100_000)
        dearer = replace(TERMS, price=Price(input=1, output=2, cache_read=3, cache_write=4, cache_write_1h=5))
        first = await prices.register(books.database, [TERMS, other, TERMS])
        assert first[0] == first[2] == books.price_version != first[1]
        again = await asyncio.gather(
            *(prices.register(books.database, [dearer, other]) for _ in range(5)),
        )
        assert len({tuple(versions) for versions in again}) == 1
        assert again[0][1] == first[1]
        assert await prices.read(books.database) == {
            first[0]: TERMS,
            first[1]: other,
            again[0][0]: dearer,
        }

    with_books(ledger_engine, scenario)


def test_no_terms_no_versions(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        assert await prices.register(books.database, []) == []

    with_books(ledger_engine, scenario)
