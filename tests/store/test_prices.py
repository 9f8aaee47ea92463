"""Price versions."""

import asyncio

import msgspec
from msgspec.structs import replace
from tests.store.books import TERMS, Books, Customer, Engine, with_books

from tollbridge.store import prices
from tollbridge.values import Outcome, Price, Tier


async def read(books: Books) -> dict[int, prices.Terms]:
    rows = await books.database.fetch("SELECT id, terms FROM price_version")
    return {id_: msgspec.json.decode(text, type=prices.Terms) for id_, text in rows}


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
        assert await read(books) == {
            first[0]: TERMS,
            first[1]: other,
            again[0][0]: dearer,
        }

    with_books(ledger_engine, scenario)


def test_plain_terms_are_written_as_the_first_version_wrote_them() -> None:
    """Else every price would get a second version, and the old text another meaning."""
    plain = (
        '{"model":"m","provider":"p","upstream_model":"u",'
        '"price":{"input":1000,"output":1000,"cache_read":1000,"cache_write":1000,"cache_write_1h":1000},'
        '"cost":{"input":1000,"output":1000,"cache_read":1000,"cache_write":1000,"cache_write_1h":1000},'
        '"multiplier_ppm":1000000}'
    )
    assert msgspec.json.encode(TERMS, order="deterministic").decode() == plain
    assert msgspec.json.decode(plain, type=prices.Terms) == TERMS


def test_terms_with_tiers_and_all_meters_are_read_as_they_were_written(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        tier = Tier(above=200_000, price=replace(TERMS.price, output=7))
        rich = replace(TERMS.price, audio_input=0, audio_output=5, image_output=6, searches=7, tiers=(tier,))
        terms = replace(TERMS, price=rich)
        (version,) = await prices.register(books.database, [terms])
        assert (await read(books))[version] == terms

    with_books(ledger_engine, scenario)


def test_no_terms_no_versions(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        assert await prices.register(books.database, []) == []

    with_books(ledger_engine, scenario)


def test_the_models_that_answered_an_account_last_come_newest_first(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        [other] = await prices.register(books.database, [replace(TERMS, model="other")])
        ada, eve = await books.customer(paid=10**9), await books.customer(paid=10**9)

        async def call(customer: Customer, version: int, outcome: Outcome = Outcome.COMPLETED) -> None:
            end = books.end_op(await books.held(customer, 10_000), customer, 10)
            record = replace(end.record, price_version=version, outcome=outcome)
            await books.ledger.submit(replace(end, record=record))

        assert await prices.latest_models(books.database, ada.account_id) == []
        await call(ada, books.price_version)
        await call(ada, other)
        await call(ada, books.price_version, Outcome.CLIENT_LEFT)
        await call(ada, other, Outcome.NO_OUTPUT)
        await call(eve, other)
        for moment in ("ended_at", "5000"):  # at the same moment, too
            await books.database.execute(f"UPDATE usage SET ended_at = {moment}")
            assert await prices.latest_models(books.database, ada.account_id) == [TERMS.model, "other", TERMS.model]

    with_books(ledger_engine, scenario)
