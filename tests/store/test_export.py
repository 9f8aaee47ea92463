"""What leaves the database for another place: each column is the request's, and each window has what ended in it."""

from typing import Any

from msgspec.structs import replace
from tests.store.books import Books, Engine, with_books
from tests.store.test_rollups import MIDNIGHT, spend_at

from tollbridge.store import export
from tollbridge.values import MINUTE_MS, Outcome


def test_each_column_is_that_of_the_request(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**6, promo=20)
        await books.key(ada.account_id)
        tokens: dict[str, Any] = {"input": 1, "cache_read": 2, "cache_write": 4, "cache_write_1h": 8, "output": 16}
        tokens |= {"audio_input": 32, "audio_output": 64, "image_output": 128}
        hold = await books.held(ada, 1_000)
        end = books.end_op(hold, ada, 255, Outcome.SWEPT)
        record = replace(end.record, **tokens, reasoning=5, searches=3, first_byte_ms=70, duration_ms=90, started_at=7)
        record = replace(record, finish="stop", status=207, streamed=True, byok=True, cost=100)
        await books.ledger.submit(replace(end, record=record))
        later = books.end_op(hold, ada, 300)
        await books.ledger.submit(replace(later, record=replace(later.record, cost=110)))
        await books.database.execute("UPDATE usage SET ended_at = $1", MIDNIGHT)
        await books.database.execute("UPDATE journal SET created_at = $1 WHERE kind = 'late'", MIDNIGHT + 5)
        line, late = await export.ended(books.database, MIDNIGHT, MIDNIGHT + 6, {})
        ids = "SELECT account.public_id, api_key.public_id FROM account JOIN api_key ON api_key.account_id = account.id"
        [(account, key)] = await books.database.fetch(f"{ids} WHERE api_key.id = $1", ada.key_id)
        assert line == export.Line(
            hold=hold,
            ended_at=MIDNIGHT,
            started_at=7,
            account=account,
            key=key,
            model="m",
            provider="p",
            upstream_model="u",
            outcome="swept",
            status=207,
            streamed=True,
            estimated=False,
            byok=True,
            finish="stop",
            duration_ms=90,
            first_byte_ms=70,
            charge=255,
            promo=20,
            loss=0,
            cost=100,
            **{**tokens, "reasoning": 5, "searches": 3},
        )
        none = dict.fromkeys((*tokens, "reasoning", "searches"), 0)
        more = {"late": True, "ended_at": MIDNIGHT + 5, "charge": 45, "promo": 0, "cost": 10}
        assert late == replace(line, **more, **none)

    with_books(ledger_engine, scenario)


def test_what_ended_at_the_edge_of_two_windows_is_in_one(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        ada, other = await books.customer(paid=10**9), await books.customer(paid=10**9)
        times = [MIDNIGHT + off for off in (-1, 0, 1, MINUTE_MS - 1, MINUTE_MS)]
        for at in times:
            await spend_at(books, ada, at, 16)
            await spend_at(books, other, at, 32)
        # Only one of them had a request so early, and only the other one so late.
        early, late_one = MIDNIGHT - 9, MIDNIGHT + MINUTE_MS + 9
        await spend_at(books, ada, early, 48)
        await spend_at(books, other, late_one, 64)
        hold = await books.held(ada, 1_000)
        for outcome, charge in ((Outcome.SWEPT, 100), (Outcome.COMPLETED, 400)):
            await books.ledger.submit(books.end_op(hold, ada, charge, outcome))
        await books.database.execute("UPDATE usage SET ended_at = 5 WHERE hold_id = $1", hold)
        for late_at in (MIDNIGHT - 1, MIDNIGHT, MIDNIGHT + MINUTE_MS):
            await books.database.execute("UPDATE journal SET created_at = $1 WHERE kind = 'late'", late_at)
            seen = []
            for since in (MIDNIGHT - MINUTE_MS, MIDNIGHT, MIDNIGHT + MINUTE_MS):
                lines = await export.ended(books.database, since, since + MINUTE_MS, {})
                assert all(since <= line.ended_at < since + MINUTE_MS for line in lines)
                on_time = [line.ended_at for line in lines if not line.late]
                assert on_time == sorted(on_time)
                seen += [(line.ended_at, line.charge) for line in lines]
            expected = [(at, charge) for at in times for charge in (16, 32)]
            assert sorted(seen) == sorted([*expected, (early, 48), (late_one, 64), (late_at, 300)])
        assert await export.first(books.database, early) == early
        assert await export.first(books.database, MIDNIGHT) == MIDNIGHT
        assert await export.first(books.database, MIDNIGHT + 2) == MIDNIGHT + MINUTE_MS - 1
        assert await export.first(books.database, MIDNIGHT + MINUTE_MS + 1) == late_one
        assert await export.first(books.database, late_one + 1) is None

    with_books(ledger_engine, scenario)
