"""What `Ledger` promises, on each engine. Every scenario ends with a proof of the books (`with_books`)."""

import asyncio
import time

import pytest
from msgspec.structs import replace
from tests.core.posts import refund
from tests.store.books import Books, Customer, Engine, assert_verified, serving, with_books

from tollbridge.core.ledger import (
    MAX_AMOUNT,
    Book,
    Checkpoint,
    Claim,
    Claimed,
    Ended,
    Entry,
    Held,
    Kind,
    Noted,
    Operation,
    Post,
    Posted,
    Refusal,
    Refused,
    Verdict,
    epoch_of,
    grant,
    top_up,
)
from tollbridge.errors import Unavailable
from tollbridge.store import account_keys, lookups
from tollbridge.store.processes import begin, sweep
from tollbridge.values import Outcome

FOREVER = 1 << 62


def test_a_hold_reserves_and_its_end_charges(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1000)
        hold, verdict = await books.hold(customer, 400)
        assert verdict == Held(amount=400, available=600)
        assert await books.balance(customer) == (1000, 0, 400)
        assert await books.end(hold, customer, 150) == Ended(charged=150, promo=0, loss=0, available=850)
        assert await books.balance(customer) == (850, 0, 0)

    with_books(ledger_engine, scenario)


def test_a_hold_gets_what_is_there_when_that_is_enough(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=100)
        hold, verdict = await books.hold(customer, 400, least=50)
        assert verdict == Held(amount=100, available=0)
        await books.end(hold, customer, 0)
        assert await books.balance(customer) == (100, 0, 0)

    with_books(ledger_engine, scenario)


def test_a_hold_is_refused_for_what_is_wrong(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        database = books.database
        now = await database.now()
        customer = await books.customer(paid=100)
        other = await books.customer(paid=100)

        async def refusal(customer: Customer, want: int = 10) -> Refused:
            _, verdict = await books.hold(customer, want)
            assert isinstance(verdict, Refused), verdict
            return verdict

        assert await refusal(customer, 101) == Refused(why=Refusal.INSUFFICIENT, available=100, posted=100)
        running = await books.held(customer, 60)
        assert await refusal(customer, 50) == Refused(why=Refusal.IN_FLIGHT, available=40, posted=100)
        await books.end(running, customer, 0)
        assert (await refusal(Customer(customer.account_id, 999_999))).why is Refusal.KEY_GONE
        assert (await refusal(Customer(999_999, customer.key_id))).why is Refusal.KEY_GONE
        assert (await refusal(Customer(customer.account_id, other.key_id))).why is Refusal.KEY_GONE
        expired = await books.key(customer.account_id, expires_at=now - 1)
        assert (await refusal(expired)).why is Refusal.KEY_GONE
        later = await books.key(customer.account_id, expires_at=now + 60_000)
        await books.end(await books.held(later, 10), later, 0)
        empty = await books.customer()
        assert (await refusal(empty, 1)).why is Refusal.INSUFFICIENT
        await database.execute("UPDATE balance SET frozen = $2 WHERE account_id = $1", other.account_id, True)
        assert (await refusal(other)).why is Refusal.FROZEN
        assert await books.balance(customer) == (100, 0, 0)
        assert await books.count("hold") == 2

    with_books(ledger_engine, scenario)


def test_a_key_expires_while_it_is_remembered(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        expires_at = await books.database.now() + 1_500
        customer = await books.customer(paid=100, expires_at=expires_at)
        await books.end(await books.held(customer, 10), customer, 0)
        while await books.database.now() < expires_at:  # noqa: ASYNC110 - a clock
            await asyncio.sleep(0.02)
        _, verdict = await books.hold(customer, 10)
        assert isinstance(verdict, Refused)
        assert verdict.why is Refusal.KEY_GONE

    with_books(ledger_engine, scenario)


def test_a_revoked_key_and_a_frozen_account_stop_at_the_next_hold(ledger_engine: Engine) -> None:
    """The change comes from another connection, as from the command line; nothing that is remembered hides it."""

    async def scenario(books: Books) -> None:
        beside = ledger_engine.database()
        await beside.start()
        customer, other = await books.customer(paid=100), await books.customer(paid=100)
        for each in (customer, other):
            await books.end(await books.held(each, 10), each, 1)
        await beside.execute("UPDATE api_key SET revoked_at = 1 WHERE id = $1", customer.key_id)
        await beside.execute("UPDATE balance SET frozen = $2 WHERE account_id = $1", other.account_id, True)
        for each, why in ((customer, Refusal.KEY_GONE), (other, Refusal.FROZEN)):
            _, verdict = await books.hold(each, 10)
            assert isinstance(verdict, Refused)
            assert verdict.why is why
        await beside.close()

    with_books(ledger_engine, scenario)


def test_a_running_call_extends_its_hold(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=100)
        hold = await books.held(customer, 40)
        assert await books.ledger.submit(books.extend_op(hold, customer, 1, 30)) == Held(amount=70, available=30)
        assert await books.ledger.submit(books.extend_op(hold, customer, 1, 30)) == Held(amount=70, available=30)
        assert await books.ledger.submit(books.extend_op(hold, customer, 2, 50, least=10)) == Held(
            amount=100, available=0
        )
        refused = await books.ledger.submit(books.extend_op(hold, customer, 3, 50, least=10))
        assert refused == Refused(why=Refusal.IN_FLIGHT, available=0, posted=100)
        assert await books.end(hold, customer, 95) == Ended(charged=95, promo=0, loss=0, available=5)
        gone = await books.ledger.submit(books.extend_op(hold, customer, 4, 1))
        assert isinstance(gone, Refused)
        assert gone.why is Refusal.NO_HOLD
        rows = await books.database.fetch("SELECT held FROM usage WHERE hold_id = $1", hold)
        assert rows == [(100,)]

    with_books(ledger_engine, scenario)


def test_a_hold_its_extension_and_its_end_may_come_in_one_batch(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1000)
        op = books.hold_op(customer, 40)
        ops: list[Operation] = [
            op,
            books.extend_op(op.id, customer, 1, 30),
            books.extend_op(op.id, customer, 2, 30),
            books.end_op(op.id, customer, 80),
            books.end_op(op.id, customer, 99),
        ]
        verdicts = await asyncio.gather(*map(books.ledger.submit, ops))
        assert [getattr(verdict, "amount", None) for verdict in verdicts[:3]] == [40, 70, 100]
        assert verdicts[3] == Ended(charged=80, promo=0, loss=0, available=920)
        assert verdicts[4] == Ended(charged=80, promo=0, loss=0, available=920, repeated=True)

    with_books(ledger_engine, scenario)


def test_a_second_end_returns_the_first_result_even_to_another_process(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=100, promo=20)
        hold = await books.held(customer, 50)
        first = await books.end(hold, customer, 40)
        assert first == Ended(charged=40, promo=20, loss=0, available=80)
        again = Ended(charged=40, promo=20, loss=0, available=80, repeated=True)
        assert await books.end(hold, customer, 999) == again
        after = ledger_engine.ledger((await begin(books.database)).epoch)
        await after.start()
        assert await after.submit(books.end_op(hold, customer, 7)) == again
        await after.stop()
        assert await books.balance(customer) == (80, 0, 0)
        assert await books.count("usage") == 1

    with_books(ledger_engine, scenario)


def test_no_hold_no_effect(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer, other = await books.customer(paid=100), await books.customer(paid=100)
        nothing = Refused(why=Refusal.NO_HOLD)
        assert await books.ledger.submit(books.end_op(books.ledger.next_id(), customer, 50)) == nothing
        hold = await books.held(customer, 50)
        assert await books.ledger.submit(books.end_op(hold, other, 50)) == nothing
        assert await books.ledger.submit(books.extend_op(hold, other, 1, 5)) == nothing
        assert await books.balance(customer) == (100, 0, 50)
        assert await books.balance(other) == (100, 0, 0)
        await books.end(hold, customer, 0)

    with_books(ledger_engine, scenario)


def test_what_cannot_be_charged_is_a_loss_and_never_a_negative_balance(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=70, promo=30)
        running, other = await books.held(customer, 20), await books.held(customer, 50)
        # Its own hold, and what is available beside the other's.
        assert await books.end(running, customer, 500) == Ended(charged=50, promo=30, loss=450, available=0)
        assert await books.end(other, customer, 50) == Ended(charged=50, promo=0, loss=0, available=0)
        assert await books.balance(customer) == (0, 0, 0)

    with_books(ledger_engine, scenario)


def test_a_limited_key_spends_no_more_than_its_limit(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1000, limit=100)
        hold = await books.held(customer, 60)
        _, verdict = await books.hold(customer, 50)
        assert verdict == Refused(why=Refusal.KEY_LIMIT, available=40, posted=100, balance=940)
        small, verdict = await books.hold(customer, 50, least=10)
        assert verdict == Held(amount=40, available=900)
        assert (await books.end(hold, customer, 90)).charged == 60
        assert (await books.end(small, customer, 40)).charged == 40
        _, verdict = await books.hold(customer, 1)
        assert verdict == Refused(why=Refusal.KEY_LIMIT, available=0, posted=0, balance=900)
        rows = await books.database.fetch("SELECT spent, held FROM key_spend WHERE key_id = $1", customer.key_id)
        assert rows == [(100, 0)]
        free = await books.key(customer.account_id)
        await books.end(await books.held(free, 500), free, 500)

    with_books(ledger_engine, scenario)


def test_a_limit_that_begins_anew_each_day_counts_what_ended_since(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1000, limit=100)
        await books.database.execute("UPDATE api_key SET limit_reset = 'daily' WHERE id = $1", customer.key_id)
        running = await books.held(customer, 10)
        await books.end(await books.held(customer, 80), customer, 80)
        _, verdict = await books.hold(customer, 20)
        assert verdict == Refused(why=Refusal.KEY_LIMIT, available=10, posted=20, balance=910)
        # A day goes by: the call that runs holds its part of the new day's limit, and is charged to it.
        await books.database.execute("UPDATE usage SET ended_at = ended_at - 86400000")
        await books.database.execute("UPDATE key_spend SET since = since - 86400000")
        await assert_verified(books.database)
        _, verdict = await books.hold(customer, 91)
        assert verdict == Refused(why=Refusal.KEY_LIMIT, available=90, posted=100, balance=910)
        await books.end(await books.held(customer, 90), customer, 50)
        await books.end(running, customer, 10)
        rows = await books.database.fetch("SELECT spent, held FROM key_spend WHERE key_id = $1", customer.key_id)
        assert rows == [(60, 0)]

    with_books(ledger_engine, scenario)


def test_what_ends_by_a_clock_that_was_set_back_a_little_counts_towards_the_limit(ledger_engine: Engine) -> None:
    """Set back by a minute just after midnight, or by a year: then it keeps its own date, and limits nothing."""

    async def scenario(books: Books) -> None:
        for back, counted in ((60_000, 80), (365 * 86_400_000, 0)):
            customer = await books.customer(paid=1000, limit=100)
            await books.database.execute("UPDATE api_key SET limit_reset = 'daily' WHERE id = $1", customer.key_id)
            running = await books.held(customer, 80)
            began = await books.database.fetch("SELECT since FROM key_spend WHERE key_id = $1", customer.key_id)
            since = began[0][0] + back
            await books.database.execute("UPDATE key_spend SET since = $1 WHERE key_id = $2", since, customer.key_id)
            await books.end(running, customer, 80)
            rows = await books.database.fetch("SELECT spent FROM key_spend WHERE key_id = $1", customer.key_id)
            assert rows == [(counted,)]
            rows = await books.database.fetch("SELECT ended_at FROM usage WHERE key_id = $1", customer.key_id)
            assert (rows[0][0] == since) == bool(counted)
            await assert_verified(books.database)

    with_books(ledger_engine, scenario)


def test_tokens_that_are_included_go_before_money(ledger_engine: Engine) -> None:
    """And come back, are extended, swept at a checkpoint, used up, and are there again in the next month."""

    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=40)

        async def hold(tokens: int, least: int, period: int = 202612) -> tuple[int, Verdict]:
            op = replace(books.hold_op(customer, 30), period=period, included=100, tokens=tokens, least_tokens=least)
            return op.id, await books.ledger.submit(op)

        async def allowance() -> tuple[int, int]:
            rows = await books.database.fetch("SELECT used, held FROM allowance WHERE period = 202612")
            return rows[0][0], rows[0][1]

        first, verdict = await hold(60, 20)
        assert verdict == Held(amount=0, available=40, tokens=60)
        second, verdict = await hold(60, 20)
        assert verdict == Held(amount=0, available=40, tokens=40)
        assert await allowance() == (0, 100)
        third, verdict = await hold(60, 20)
        assert verdict == Held(amount=30, available=10)
        _, verdict = await hold(60, 20)
        assert verdict == Refused(why=Refusal.IN_FLIGHT, available=10, posted=40)
        await books.end(third, customer, 30)
        ended = await books.end(second, customer, 15)
        assert ended == Ended(charged=0, promo=0, loss=0, available=10)
        assert await allowance() == (15, 60)
        verdict = await books.ledger.submit(books.extend_op(first, customer, 1, 20, 5))
        assert verdict == Held(amount=0, available=10, tokens=80)
        verdict = await books.ledger.submit(books.extend_op(first, customer, 2, 20, 6))
        assert verdict == Refused(why=Refusal.QUOTA, available=10, posted=10)
        await assert_verified(books.database)
        op = books.end_op(first, customer, 70)
        await books.ledger.submit(
            Checkpoint(hold=first, account_id=customer.account_id, key_id=customer.key_id, charge=70, record=op.record)
        )
        await sweep(books.database, books.ledger, books.process.epoch, FOREVER)
        assert await allowance() == (85, 0)
        assert (await books.end(first, customer, 90)).repeated
        last, verdict = await hold(60, 10)
        assert verdict == Held(amount=0, available=10, tokens=15)
        await books.end(last, customer, 500)
        assert await allowance() == (100, 0)
        _, verdict = await hold(60, 10)
        assert verdict == Refused(why=Refusal.QUOTA, available=10, posted=10)
        _, verdict = await hold(60, 10, 202701)
        assert verdict == Held(amount=0, available=10, tokens=60)
        assert await books.balance(customer) == (10, 0, 0)

    with_books(ledger_engine, scenario)


def test_fifty_at_once_with_included_tokens_for_ten(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer()
        ops = [
            replace(books.hold_op(customer, 1), period=202612, included=105, tokens=10, least_tokens=10)
            for _ in range(50)
        ]
        verdicts = await asyncio.gather(*map(books.ledger.submit, ops))
        held = [op.id for op, verdict in zip(ops, verdicts, strict=True) if isinstance(verdict, Held)]
        assert len(held) == 10
        await asyncio.gather(*(books.end(hold, customer, 10) for hold in held))
        assert await books.database.fetch("SELECT used, held FROM allowance") == [(100, 0)]

    with_books(ledger_engine, scenario)


def test_a_claim_is_of_one_hold_until_that_comes_to_nothing(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1000)
        name, digest = b"n" * 32, b"d" * 32

        async def claim(digest: bytes = digest, keep_ms: int = 60_000) -> tuple[int, Verdict]:
            op = replace(books.hold_op(customer, 100), claim=Claim(name, digest, keep_ms))
            return op.id, await books.ledger.submit(op)

        twenty = await asyncio.gather(*(claim() for _ in range(20)))
        [(first, _)] = [each for each in twenty if isinstance(each[1], Held)]
        assert [verdict for _, verdict in twenty].count(Claimed()) == 19
        assert (await claim(b"o" * 32))[1] == Claimed()
        # It fails, and the next one may try; that one's process dies, and the next one may.
        failed = books.end_op(first, customer, 0, Outcome.OUR_FAULT)
        await books.ledger.submit(failed)
        second, verdict = await claim()
        assert isinstance(verdict, Held)
        await sweep(books.database, books.ledger, books.process.epoch, FOREVER)
        third, verdict = await claim()
        assert isinstance(verdict, Held)
        assert (await claim())[1] == Claimed()
        await books.end(third, customer, 100)
        assert (await claim())[1] == Claimed()
        assert isinstance((await claim(keep_ms=0))[1], Held)
        assert second != third

    with_books(ledger_engine, scenario)


def test_a_disabled_key_gets_nothing_until_it_is_enabled(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1000)
        await books.held(customer, 1)
        await books.database.execute("UPDATE api_key SET disabled_at = 1 WHERE id = $1", customer.key_id)
        assert (await books.hold(customer, 1))[1] == Refused(why=Refusal.KEY_GONE)
        await books.database.execute("UPDATE api_key SET disabled_at = NULL WHERE id = $1", customer.key_id)
        await books.held(customer, 1)

    with_books(ledger_engine, scenario)


def test_a_limit_that_is_lifted_or_set_while_a_call_runs(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        limited = await books.customer(paid=1000, limit=100)
        free = await books.key(limited.account_id)
        holds = [await books.held(limited, 60), await books.held(free, 60)]
        change = "UPDATE api_key SET limit_nano = $2 WHERE id = $1"
        await books.database.execute(change, limited.key_id, None)
        await books.database.execute(change, free.key_id, 50)
        assert (await books.end(holds[0], limited, 60)).charged == 60
        assert (await books.end(holds[1], free, 60)).charged == 60
        _, verdict = await books.hold(free, 51)
        assert verdict == Refused(why=Refusal.KEY_LIMIT, available=50, posted=50, balance=880)
        await books.end(await books.held(limited, 500), limited, 1)

    with_books(ledger_engine, scenario)


def test_a_swept_hold_is_charged_its_last_checkpoint_and_its_late_end_the_rest(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1000)
        noted, bare = await books.held(customer, 100), await books.held(customer, 100)
        for charge in (20, 30):
            checkpoint = Checkpoint(
                hold=noted,
                account_id=customer.account_id,
                key_id=customer.key_id,
                charge=charge,
                record=books.record(charge, Outcome.OUR_FAULT),
            )
            assert await books.ledger.submit(checkpoint) == Noted()
        assert await sweep(books.database, books.ledger, books.process.epoch, FOREVER) == 2
        assert await sweep(books.database, books.ledger, books.process.epoch, FOREVER) == 0
        assert await books.balance(customer) == (970, 0, 0)
        assert await books.count("checkpoint") == 0
        await assert_verified(books.database)
        assert await books.end(noted, customer, 50) == Ended(charged=50, promo=0, loss=0, available=950)
        assert (await books.end(noted, customer, 80)).repeated
        assert await books.end(bare, customer, 2000) == Ended(charged=950, promo=0, loss=1050, available=0)
        assert (await books.end(bare, customer, 0)).repeated
        assert await books.balance(customer) == (0, 0, 0)
        rows = await books.database.fetch("SELECT idempotency_key FROM journal WHERE kind = 'late' ORDER BY id")
        assert rows == [(f"late/{noted}",), (f"late/{bare}",)]

    with_books(ledger_engine, scenario)


def test_a_late_end_is_spent_of_the_limit_of_its_key_and_no_more_than_is_left(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1000, limit=100)
        first, second = await books.held(customer, 30), await books.held(customer, 30)
        assert await sweep(books.database, books.ledger, books.process.epoch, FOREVER) == 2
        running = await books.held(customer, 20)
        assert await books.end(first, customer, 50) == Ended(charged=50, promo=0, loss=0, available=930)
        # Somebody else writes: what is remembered of the key is read again.
        await books.database.execute("UPDATE api_key SET limit_nano = 90 WHERE id = $1", customer.key_id)
        await assert_verified(books.database)
        assert await books.end(second, customer, 50) == Ended(charged=20, promo=0, loss=30, available=910)
        assert (await books.end(second, customer, 80)).repeated
        _, verdict = await books.hold(customer, 1)
        assert verdict == Refused(why=Refusal.KEY_LIMIT, available=0, posted=20, balance=910)
        rows = await books.database.fetch("SELECT spent, held FROM key_spend WHERE key_id = $1", customer.key_id)
        assert rows == [(70, 20)]
        # What is told of the key agrees: nothing is counted twice.
        now = await books.database.now()
        assert (await account_keys.by_id(books.database, customer.key_id)).left(now) == 0
        assert (await lookups.spending(books.database, customer.account_id, customer.key_id, (0, 0, 0))).total == 70
        assert (await books.end(running, customer, 20)).charged == 20

    with_books(ledger_engine, scenario)


def test_a_late_end_is_spent_of_a_limit_whose_spend_was_not_kept_yet(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1000, limit=100)
        hold = await books.held(customer, 30)
        await sweep(books.database, books.ledger, books.process.epoch, FOREVER)
        await books.database.execute("DELETE FROM key_spend WHERE key_id = $1", customer.key_id)
        assert (await books.end(hold, customer, 50)).charged == 50
        assert await books.database.fetch("SELECT spent, held FROM key_spend") == [(50, 0)]

    with_books(ledger_engine, scenario)


def test_a_late_end_that_is_not_more_changes_nothing(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=100)
        hold = await books.held(customer, 10)
        await sweep(books.database, books.ledger, books.process.epoch, FOREVER)
        assert await books.end(hold, customer, 0) == Ended(charged=0, promo=0, loss=0, available=100, repeated=True)
        assert await books.count("journal") == 1

    with_books(ledger_engine, scenario)


def test_a_checkpoint_goes_with_its_hold(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=100)
        hold = await books.held(customer, 10)
        ids = {"hold": hold, "account_id": customer.account_id, "key_id": customer.key_id}
        await books.ledger.submit(Checkpoint(**ids, charge=5, record=books.record(5)))
        assert await books.count("checkpoint") == 1
        await books.end(hold, customer, 9)
        assert await books.ledger.submit(Checkpoint(**ids, charge=6, record=books.record(6))) == Noted()
        assert await books.count("checkpoint") == 0

    with_books(ledger_engine, scenario)


def test_a_transaction_happens_once_per_idempotency_key(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer()
        posts = [
            grant(customer.account_id, 50, idempotency_key="same", reason="r", actor="a"),
            *[top_up(customer.account_id, 100, idempotency_key="same too", reason="", actor="")] * 5,
            grant(customer.account_id, 50, idempotency_key="same", reason="r", actor="a"),
        ]
        verdicts = await asyncio.gather(*map(books.ledger.submit, posts))
        assert [verdict.repeated for verdict in verdicts if isinstance(verdict, Posted)] == [False] * 2 + [True] * 5
        assert (await books.ledger.submit(posts[0])) == Posted(available=150, repeated=True)
        assert await books.balance(customer) == (100, 50, 0)

    with_books(ledger_engine, scenario)


def test_only_refunds_and_disputes_overdraw(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=100, promo=10)
        await books.end(await books.held(customer, 90), customer, 90)
        assert await books.balance(customer) == (20, 0, 0)
        verdict = await books.ledger.submit(refund(customer.account_id, 100, idempotency_key="re", reason="", actor=""))
        assert verdict == Posted(available=-80)
        _, refused = await books.hold(customer, 1)
        assert refused == Refused(why=Refusal.INSUFFICIENT, available=-80, posted=-80)
        entries = (Entry(Book.CUSTOMER_PROMO, -1), Entry(Book.PROMO_EXPENSE, 1))
        back = Post(idempotency_key="back", kind=Kind.GRANT, account_id=customer.account_id, entries=entries)
        refused = await books.ledger.submit(back)
        assert isinstance(refused, Refused)
        assert await books.balance(customer) == (-80, 0, 0)

    with_books(ledger_engine, scenario)


def test_a_refund_under_a_running_call_leaves_what_is_there_to_charge(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=100)
        hold = await books.held(customer, 80)
        await books.ledger.submit(refund(customer.account_id, 70, idempotency_key="re", reason="", actor=""))
        assert await books.balance(customer) == (30, 0, 80)
        assert await books.end(hold, customer, 80) == Ended(charged=30, promo=0, loss=50, available=0)

    with_books(ledger_engine, scenario)


@pytest.mark.parametrize("rounds", [pytest.param(2, id="short"), pytest.param(40, id="long", marks=pytest.mark.soak)])
def test_fifty_at_once_with_money_for_ten(ledger_engine: Engine, rounds: int) -> None:
    """A1: exactly ten run; nothing is overspent."""

    async def scenario(books: Books) -> None:
        for _ in range(rounds):
            customer = await books.customer(paid=100)

            async def call(customer: Customer) -> bool:
                hold, verdict = await books.hold(customer, 10)
                if isinstance(verdict, Held):
                    await asyncio.sleep(0.02)
                    assert (await books.end(hold, customer, 10)).loss == 0
                else:
                    assert isinstance(verdict, Refused)
                    assert verdict.why in {Refusal.IN_FLIGHT, Refusal.INSUFFICIENT}
                return isinstance(verdict, Held)

            admitted = await asyncio.gather(*(call(customer) for _ in range(50)))
            assert sum(admitted) == 10
            assert await books.balance(customer) == (0, 0, 0)

    with_books(ledger_engine, scenario)


def test_fifty_at_once_on_a_key_with_a_limit_for_ten(ledger_engine: Engine) -> None:
    """A2, A4: its very first calls come at once, from a rich account."""

    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=10**12, limit=100)
        ops = [books.hold_op(customer, 10) for _ in range(50)]
        verdicts = await asyncio.gather(*map(books.ledger.submit, ops))
        refused = [verdict for verdict in verdicts if isinstance(verdict, Refused)]
        assert {verdict.why for verdict in refused} == {Refusal.KEY_LIMIT}
        assert len(refused) == 40
        for op, verdict in zip(ops, verdicts, strict=True):
            if isinstance(verdict, Held):
                await books.end(op.id, customer, 10)

    with_books(ledger_engine, scenario)


def test_the_rich_hold_like_everybody(ledger_engine: Engine) -> None:
    """A3: no balance is so large that its calls run without a hold."""

    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=MAX_AMOUNT // 4)
        holds = [await books.held(customer, 1) for _ in range(20)]
        assert await books.count("hold") == 20
        assert (await books.balance(customer))[2] == 20
        for hold in holds:
            await books.end(hold, customer, 1)

    with_books(ledger_engine, scenario)


def test_whoever_no_longer_waits_holds_nothing(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=100)
        futures = [books.ledger.submit(books.hold_op(customer, 1)) for _ in range(20)]
        # One that is alone is held at once: nobody can stop waiting for it.
        held = 20 - sum(future.cancel() for future in futures[::2])
        assert 10 <= held < 20
        await asyncio.gather(*futures, return_exceptions=True)
        late = books.ledger.submit(books.hold_op(customer, 1))
        await asyncio.sleep(0)
        late.cancel()
        deadline = time.monotonic() + 30
        while (await books.balance(customer))[2] != held:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        await sweep(books.database, books.ledger, books.process.epoch, FOREVER)

    with_books(ledger_engine, scenario)


def test_one_bad_operation_fails_nobody_else(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1000)
        running = await books.held(customer, 100)
        good = [books.hold_op(customer, 1) for _ in range(10)]
        one_sided = (Entry(Book.CUSTOMER_PROMO, 5),)
        bad: list[Operation] = [
            books.hold_op(customer, MAX_AMOUNT, 1),
            books.end_op(running, customer, -5),
            Post(idempotency_key="x", kind=Kind.GRANT, account_id=customer.account_id, entries=one_sided),
        ]
        ops: list[Operation] = [op for pair in zip(good, bad * 4, strict=False) for op in pair]
        answers = await asyncio.gather(*map(books.ledger.submit, ops), return_exceptions=True)
        for op, answer in zip(ops, answers, strict=True):
            assert isinstance(answer, Held if op in good else ValueError), answer
        assert not books.ledger.failed
        for op in good:
            await books.end(op.id, customer, 1)
        await books.end(running, customer, 100)

    with_books(ledger_engine, scenario)


def test_a_fenced_process_is_given_no_more(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=100)
        hold = await books.held(customer, 10)
        await books.database.execute("UPDATE process SET fenced_at = 1 WHERE epoch = $1", books.process.epoch)
        _, verdict = await books.hold(customer, 10)
        assert isinstance(verdict, Refused)
        assert verdict.why is Refusal.FENCED
        assert (await books.end(hold, customer, 10)).charged == 10

    with_books(ledger_engine, scenario)


def test_a_hold_is_refused_while_too_many_wait_but_an_end_is_taken(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=10**6)
        running = [await books.held(customer, 1) for _ in range(3)]
        futures = []

        def flood() -> None:
            for _ in range(20_000):
                futures.append(books.ledger.submit(books.hold_op(customer, 1)))

        with pytest.raises(Unavailable) as refused:
            flood()
        assert refused.value.code == "overloaded"
        assert int(refused.value.headers["retry-after"]) > 0
        ends = [books.ledger.submit(books.end_op(hold, customer, 1)) for hold in running]
        assert all(isinstance(verdict, Ended) for verdict in await asyncio.gather(*ends))
        assert all(isinstance(verdict, Held) for verdict in await asyncio.gather(*futures))
        assert books.ledger.depth() == 0
        await sweep(books.database, books.ledger, books.process.epoch, FOREVER)

    with_books(ledger_engine, scenario)


def test_stopping_writes_what_waits(ledger_engine: Engine) -> None:
    async def main() -> None:
        async with serving(ledger_engine) as books:
            customer = await books.customer(paid=1000)
            holds = [await books.held(customer, 1) for _ in range(50)]
            ends = [books.ledger.submit(books.end_op(hold, customer, 1)) for hold in holds]
            await books.ledger.stop()
            assert [type(await end) for end in ends] == [Ended] * 50
            with pytest.raises(Unavailable):
                books.ledger.submit(books.hold_op(customer, 1))
            assert isinstance(books.ledger.submit(books.end_op(holds[0], customer, 1)).exception(), Unavailable)
            await assert_verified(books.database)

    asyncio.run(main())


def test_a_process_that_died_has_its_holds_ended_before_the_next_one_serves(ledger_engine: Engine) -> None:
    """G5: what a process left that stopped without a word is given back."""

    async def main() -> None:
        dead = Books(ledger_engine)
        await dead.start()
        customer = await dead.customer(paid=1000)
        for _ in range(300):
            dead.ledger.submit(dead.hold_op(customer, 1))
        await dead.stop()
        async with serving(ledger_engine) as books:
            assert books.process.epoch > dead.process.epoch
            assert epoch_of(books.ledger.next_id()) == books.process.epoch
            assert await books.balance(customer) == (1000, 0, 0)
            report = await assert_verified(books.database)
            assert report.holds == 300
            assert report.open_holds == 0

    asyncio.run(main())


@pytest.mark.parametrize("seconds", [pytest.param(3, id="short"), pytest.param(60, id="long", marks=pytest.mark.soak)])
def test_one_account_with_five_hundred_calls_a_second(ledger_engine: Engine, seconds: int) -> None:
    """A20: no deadlock, and the ledger adds little to each."""

    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=10**12)
        waits: list[list[float]] = [[] for _ in range(seconds)]
        lateness: list[list[float]] = [[] for _ in range(seconds)]

        async def call(second: int) -> None:
            started = time.perf_counter()
            hold = await books.held(customer, 100)
            held = time.perf_counter()
            await books.end(hold, customer, 60)
            waits[second] += (held - started, time.perf_counter() - held)

        calls = []
        started = time.perf_counter()
        for number in range(seconds * 500):
            calls.append(asyncio.ensure_future(call(number // 500)))
            due = started + number / 500
            await asyncio.sleep(max(0, due - time.perf_counter()))
            lateness[number // 500].append(time.perf_counter() - due)
        await asyncio.gather(*calls)
        slowest, late = ([sorted(each)[int(len(each) * 0.99)] for each in times] for times in (waits, lateness))
        # The machine that runs the tests has others to serve: the target is for seconds in which timers were on time.
        # In the others a call waits as long as a timer for each of its turns: to the ledger, to the disk and back.
        added = sorted(wait - 3 * delay for wait, delay in zip(slowest, late, strict=True))
        quiet = sorted(wait for wait, delay in zip(slowest, late, strict=True) if delay < 0.003)
        print("p99, ms:", *(f"{each * 1000:.1f}" for each in sorted(slowest)), f"({len(quiet)} quiet seconds)")
        assert added[seconds // 2] < (0.1 if seconds > 10 else 0.25)
        if len(quiet) > 10:
            assert quiet[len(quiet) // 2] < 0.01
        assert (await books.balance(customer))[0] == 10**12 - seconds * 500 * 60

    with_books(ledger_engine, scenario)


def test_the_same_hold_again_is_the_same_hold(ledger_engine: Engine) -> None:
    """As after a COMMIT whose answer was lost."""

    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=100)
        op = books.hold_op(customer, 30)
        first = await books.ledger.submit(op)
        assert await books.ledger.submit(op) == first
        assert await books.balance(customer) == (100, 0, 30)
        await books.end(op.id, customer, 10)
        ended = await books.ledger.submit(op)
        assert isinstance(ended, Refused)
        assert await books.balance(customer) == (90, 0, 0)

    with_books(ledger_engine, scenario)
