"""Accounts on both databases."""

import asyncio

import pytest
from tests.effort import growth
from tests.services.conftest import PLANS, World, hold, spend

from tollbridge.core.ledger import Ended, Held, Refusal, Refused
from tollbridge.errors import InvalidRequest, NotFound
from tollbridge.services import accounts
from tollbridge.store import leaving, meta
from tollbridge.store.accounts import Account
from tollbridge.store.db import Database, run


async def make(database: Database, email: str = "ada@example.com", credit: int = 0) -> Account:
    return await accounts.create(database, email, plans=PLANS, credit=credit, actor="test")


def test_a_new_account_has_its_plan_and_credit(world: World) -> None:
    async def use(database: Database) -> tuple[Account, Account]:
        made = await accounts.create(
            database, " Ada@Example.COM ", plan="gold", plans=PLANS, credit=500_000_000, actor="test"
        )
        return made, await accounts.get(database, "ada@example.com")

    made, found = world.run(use)
    assert made == found
    assert (made.email, made.plan, made.promo, made.paid, made.held) == ("ada@example.com", "gold", 500_000_000, 0, 0)
    assert not made.frozen
    assert made.public_id.startswith("acct_")


def test_an_address_has_one_account(world: World) -> None:
    async def use(database: Database) -> int:
        await make(database)
        with pytest.raises(InvalidRequest, match="already has an account"):
            await make(database, "ADA@example.com", credit=7)
        return len([each async for each in accounts.every(database)])

    assert world.run(use) == 1


def test_of_many_at_once_one_makes_the_account(world: World) -> None:
    async def use(database: Database) -> list[object]:
        tries = [make(database, credit=5) for _ in range(8)]
        return list(await asyncio.gather(*tries, return_exceptions=True))

    results = world.run(use)
    assert len([each for each in results if isinstance(each, Account)]) == 1
    assert len([each for each in results if isinstance(each, InvalidRequest)]) == 7


def test_what_is_far_too_long_for_an_address_is_refused_before_it_costs_anything() -> None:
    def refuse(number: int) -> None:
        accents = "".join(accent * number for accent in "\u0315\u0300\u0316\u0327\u0334")
        for typed in (f"a{accents}@example.com", f"ada@example.com{accents}"):
            with pytest.raises(InvalidRequest, match="not an e-mail address"):
                accounts.normalise(typed)

    # To compose, a run of accents is sorted, in a time that grows with the square of its length.
    assert growth(refuse, 250, 8_000) < 100


@pytest.mark.parametrize(
    "email",
    [
        *("", "ada", "@example.com", "ada@", "a b@example.com", "ada@exa mple.com", "ada@@example.com"),
        *("ada\n@example.com", "ada\x00@example.com", "<ada@example.com>", "a" * 65 + "@example.com"),
        *("ada@" + "e" * 190, "ada\u202e@example.com", "ada;@example.com", '"a"@example.com'),
    ],
)
def test_what_is_no_address_is_refused(sqlite_world: World, email: str) -> None:
    with pytest.raises(InvalidRequest, match=r"e-mail address.* such as you@example.com"):
        sqlite_world.run(lambda database: make(database, email))


@pytest.mark.parametrize(
    "domain",
    ["b", "localhost", "-x.com", "x-.com", "x..com", ".com", "x.com.", "a_b.com", "x!.com", "10.0.0.1", "[::1]"],
)
def test_no_mail_goes_to_what_is_no_domain_of_the_internet(domain: str) -> None:
    with pytest.raises(InvalidRequest):
        accounts.mailable(f"a@{domain}")


@pytest.mark.parametrize(
    "domain", ["b.c", "a-b.co.uk", "9.example", "xn--bcher-kva.example", "bücher.example", "उदाहरण.भारत"]
)
def test_mail_goes_to_domains_in_any_language(domain: str) -> None:
    assert accounts.mailable(f" A@{domain} ") == f"a@{domain}"


def test_an_unknown_plan_is_refused(sqlite_world: World) -> None:
    with pytest.raises(InvalidRequest, match="there is no plan 'platinum'"):
        sqlite_world.run(
            lambda database: accounts.create(database, "a@b.c", plan="platinum", plans=PLANS, actor="test")
        )


def test_who_has_no_account_is_not_found(world: World) -> None:
    with pytest.raises(NotFound, match=r"nobody@example.com has no account"):
        world.run(lambda database: accounts.get(database, "Nobody@example.com"))


def test_accounts_are_listed_whole_and_in_order(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "_PAGE", 2)

    async def use(database: Database) -> list[str]:
        for number in range(5):
            await make(database, f"{number}@example.com")
        return [each.email async for each in accounts.every(database)]

    assert world.run(use) == [f"{number}@example.com" for number in range(5)]


def test_a_frozen_account_stops_at_its_next_call_and_ends_what_runs(world: World) -> None:
    async def use(database: Database) -> None:
        account = await make(database, credit=1_000)
        async with world.serving(database) as ledger:
            key_id = await a_key(database, account)
            running = hold(ledger, account.id, key_id, 100)
            assert isinstance(await ledger.submit(running), Held)
            epoch = await meta.value(database, meta.CACHE_EPOCH)
            assert (await accounts.set_frozen(database, account.email, True, actor="test")).frozen
            assert await meta.value(database, meta.CACHE_EPOCH) != epoch
            refused = await spend(ledger, account.id, key_id, 100)
            assert isinstance(refused, Refused)
            assert refused.why is Refusal.FROZEN
            assert (await accounts.get(database, account.email)).held == 100
            assert not (await accounts.set_frozen(database, account.email, False, actor="test")).frozen
            assert isinstance(await spend(ledger, account.id, key_id, 100), Ended)

    world.run(use)


async def a_key(database: Database, account: Account) -> int:
    """The internal id of a new key."""
    from tests.services.conftest import MASTER

    from tollbridge.services import keys
    from tollbridge.store.keys import find_key

    made = await keys.create(database, MASTER, account, "tb_live_", actor="test")
    found = await find_key(database, MASTER.digest(made.text))
    assert found is not None
    return found.key_id


def test_what_several_do_at_once_is_noted_as_it_was_done(world: World) -> None:
    """Each freeze that changed something, and each end of one; the last note is what the account is."""

    async def use(database: Database) -> None:
        account = await accounts.create(database, "ada@example.com", plans=PLANS, actor="test")
        for _ in range(5):
            deeds = (
                accounts.set_frozen(database, account.email, each % 2 == 0, actor=f"op{each}") for each in range(6)
            )
            await asyncio.gather(*deeds)
        rows = await database.fetch("SELECT action FROM activity WHERE action LIKE 'account.%frozen' ORDER BY id")
        noted = [action for (action,) in rows]
        assert noted == [f"account.{'un' if number % 2 else ''}frozen" for number in range(len(noted))]
        assert (await accounts.get(database, account.email)).frozen is (len(noted) % 2 == 1)

    world.run(use)


def test_a_closed_account_is_found_by_what_it_is_called_since(world: World) -> None:
    async def use(database: Database) -> None:
        account = await make(database)
        pseudonym, now = leaving.pseudonym(account), await database.now()
        await run(database, lambda transaction: leaving.close_account(transaction, account.id, pseudonym, now))
        for text in (pseudonym, f" {pseudonym}", account.public_id):
            assert (await accounts.named(database, text)).id == account.id
        with pytest.raises(NotFound, match="has no account"):
            await accounts.named(database, "ada@example.com")
        # Nothing is given to it, nor is it set free, by that name.
        for text in (pseudonym, account.public_id, str(account.id)):
            with pytest.raises(InvalidRequest, match=f"{account.public_id} is closed"):
                await accounts.set_frozen(database, text, False, actor="test")

    world.run(use)
