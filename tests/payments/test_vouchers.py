"""Vouchers: worth credit once, to one account, until they expire."""

import asyncio
import re

import pytest
from tests.services.conftest import World
from tests.services.test_accounts import make

from tollbridge.core.ledger import MAX_AMOUNT
from tollbridge.errors import Conflict, InvalidRequest
from tollbridge.services import accounts, vouchers
from tollbridge.store.db import Database
from tollbridge.values import LATEST_MS

USD = 1_000_000_000


def test_a_code_is_credited_however_it_is_typed(world: World) -> None:
    async def use(database: Database) -> None:
        account = await make(database)
        promo, _ = await vouchers.create(database, 5 * USD, count=2, actor="test")
        (paid,) = await vouchers.create(database, 7 * USD, kind="paid", actor="test")
        await vouchers.redeem(database, account, f" {promo.code.lower().replace('-', ' ')} ")
        await vouchers.redeem(database, account, paid.code)
        after = await accounts.get(database, account.email)
        assert (after.promo, after.paid) == (5 * USD, 7 * USD)
        listed = await vouchers.listed(database)
        assert [each.redeemed_at is not None for each in listed] == [True, False, True]
        assert all(promo.code not in str(row) for row in await database.fetch("SELECT * FROM voucher"))

    world.run(use)


def test_a_code_spells_no_word_and_has_no_sign_that_looks_like_another(sqlite_world: World) -> None:
    async def use(database: Database) -> None:
        made = await vouchers.create(database, 5 * USD, count=200, actor="test")
        assert all(re.fullmatch(r"([^AEIOU01L\W]{4}-){4}[^AEIOU01L\W]{4}", each.code) for each in made)
        assert len(set("".join(each.code for each in made))) == 29, "28 signs and the dash"

    sqlite_world.run(use)


@pytest.mark.parametrize("codes", [100, pytest.param(2_000, marks=[pytest.mark.soak, pytest.mark.timeout(1_800)])])
def test_of_many_at_once_one_gets_it(world: World, codes: int) -> None:
    """A14: each code is wanted by two people on two connections."""

    async def use(database: Database) -> None:
        people = [await make(database, f"{name}@example.com") for name in "ab"]
        async with world.opened() as other:
            for _ in range(codes):
                (made,) = await vouchers.create(database, 5 * USD, actor="test")
                tries = [vouchers.redeem(each, who, made.code) for each in (database, other) for who in people]
                ended = await asyncio.gather(*tries, return_exceptions=True)
                assert len([each for each in ended if isinstance(each, InvalidRequest)]) == 3
        credited = [(await accounts.get(database, each.email)).promo for each in people]
        assert sum(credited) == codes * 5 * USD

    world.run(use)


@pytest.mark.parametrize("why", ["unknown", "used", "expired", "withdrawn", "empty"])
def test_a_code_that_is_worth_nothing_says_so_in_the_same_words(sqlite_world: World, why: str) -> None:
    async def use(database: Database) -> None:
        account = await make(database)
        later = await database.now() + 60_000
        (made,) = await vouchers.create(database, 5 * USD, expires_at=later, actor="test")
        if why == "used":
            await vouchers.redeem(database, account, made.code)
        if why == "expired":
            await database.execute("UPDATE voucher SET expires_at = 1")
        if why == "withdrawn":
            await vouchers.withdraw(database, made.id, actor="test")
        code = {"unknown": "AAAA-BBBB-CCCC-DDDD-EEEE", "empty": ""}.get(why, made.code)
        with pytest.raises(InvalidRequest, match="not valid, has expired, or has already been used") as refused:
            await vouchers.redeem(database, account, code)
        assert refused.value.param == "code"
        assert (await accounts.get(database, account.email)).promo == (5 * USD if why == "used" else 0)

    sqlite_world.run(use)


def test_vouchers_of_one_seed_are_made_once(world: World) -> None:
    async def use(database: Database) -> None:
        seed = "s" * 43
        made = await vouchers.create(database, USD, count=3, actor="test", once=seed)
        assert len({each.code for each in made}) == 3
        for count in (1, 3, 5):
            with pytest.raises(Conflict, match="sent twice"):
                await vouchers.create(database, 2 * USD, count=count, actor="test", once=seed)
        # A seed that could be guessed is none.
        weak = [await vouchers.create(database, USD, actor="test", once="1") for _ in range(2)]
        assert weak[0][0].code != weak[1][0].code
        assert len(await vouchers.listed(database)) == 5

    world.run(use)


def test_what_was_redeemed_is_not_withdrawn(sqlite_world: World) -> None:
    async def use(database: Database) -> None:
        account = await make(database)
        (made,) = await vouchers.create(database, 5 * USD, actor="test")
        await vouchers.redeem(database, account, made.code)
        with pytest.raises(InvalidRequest, match="no open voucher"):
            await vouchers.withdraw(database, made.id, actor="test")

    sqlite_world.run(use)


@pytest.mark.parametrize(
    "wrong",
    [{"amount": 0}, {"amount": -1}, {"kind": "gold"}, {"count": 0}, {"count": 1001}, {"expires_at": 1}, {"note": "\n"}],
)
def test_a_voucher_that_cannot_be_is_not_made(sqlite_world: World, wrong: dict[str, object]) -> None:
    async def use(database: Database) -> None:
        with pytest.raises(InvalidRequest):
            await vouchers.create(database, **{"amount": USD, "actor": "test", **wrong})  # type: ignore[arg-type]

    sqlite_world.run(use)


def test_all_that_is_wrong_with_vouchers_is_named_beside_its_field() -> None:
    now = 1_000
    right = {"amount": 1, "kind": "paid", "count": 1_000, "expires_at": now + 1, "note": "x" * 200}
    for change in ({}, {"amount": MAX_AMOUNT - 1, "expires_at": None}, {"expires_at": LATEST_MS - 1}):
        vouchers.check(**right | change, now=now)  # type: ignore[arg-type]
    wrong = {"amount": MAX_AMOUNT, "kind": "gold", "count": 1_001, "expires_at": now, "note": "x" * 201}
    with pytest.raises(InvalidRequest) as all_of_it:
        vouchers.check(**wrong, now=now)  # type: ignore[arg-type]
    named = [fault.param for fault in (all_of_it.value, *all_of_it.value.others)]
    assert named == ["amount", "kind", "count", "note", "expires_at"]
    with pytest.raises(InvalidRequest, match="too far in the future"):
        vouchers.check(**right | {"expires_at": LATEST_MS}, now=now)  # type: ignore[arg-type]


def test_what_is_done_to_vouchers_is_noted_with_who_did_it_and_from_where(sqlite_world: World) -> None:
    async def use(database: Database) -> None:
        made = await vouchers.create(
            database, USD, kind="paid", count=2, note="fair", actor="boss", address="192.0.2.1"
        )
        await vouchers.withdraw(database, made[1].id, actor="boss", address="192.0.2.2")
        with pytest.raises(InvalidRequest):
            await vouchers.withdraw(database, made[1].id, actor="boss")
        noted = await database.fetch("SELECT account_id, actor, action, detail, address FROM activity ORDER BY id")
        assert noted == [
            (0, "boss", "vouchers.created", f"2 of 1 USD, paid, from {made[0].id} on", "192.0.2.1"),
            (0, "boss", "voucher.withdrawn", str(made[1].id), "192.0.2.2"),
        ]
        account = await make(database)
        redeemed = await vouchers.redeem(database, account, made[0].code)
        assert (redeemed.hint, redeemed.note) == (f"…{made[0].code[-4:]}", "fair")
        booked = "SELECT kind, idempotency_key, reason, actor FROM journal WHERE account_id = $1"
        assert await database.fetch(booked, account.id) == [
            ("top_up", f"voucher/{redeemed.id}", f"voucher {redeemed.hint}", f"account/{account.public_id}")
        ]

    sqlite_world.run(use)
