"""API keys on both databases: found by their digest alone, and ended at the next call."""

import asyncio

import pytest
from tests.services.conftest import MASTER, World, spend
from tests.services.test_accounts import make

from tollbridge.core.keys import well_formed
from tollbridge.core.ledger import Ended, Refusal, Refused
from tollbridge.errors import ConfigError, InvalidRequest, NotFound
from tollbridge.services import keys
from tollbridge.services.keys import MadeKey
from tollbridge.services.secrets import Secrets
from tollbridge.store import account_keys as rows
from tollbridge.store import meta
from tollbridge.store.accounts import Account
from tollbridge.store.db import Database
from tollbridge.store.keys import Rules, find_key

PREFIX = "tb_live_"


async def a_key(database: Database, account: Account, **given: object) -> MadeKey:
    return await keys.create(database, MASTER, account, PREFIX, actor="test", **given)  # type: ignore[arg-type]


def test_a_key_is_found_by_its_digest_and_shown_only_once(world: World) -> None:
    async def use(database: Database) -> None:
        account = await make(database)
        made = await a_key(database, account, label="laptop")
        assert well_formed(PREFIX, made.text)
        found = await find_key(database, MASTER.digest(made.text))
        assert found is not None
        assert (found.account_id, found.plan, found.live) == (account.id, "default", True)
        (listed,) = await rows.of_account(database, account.id)
        assert (listed.public_id, listed.label, listed.limit, listed.spent) == (made.public_id, "laptop", None, None)
        assert listed.hint == f"{PREFIX}…{made.text[-4:]}"
        assert made.text not in repr((made, found, listed))

    world.run(use)


def test_nothing_in_the_database_gives_a_key_away(sqlite_world: World) -> None:
    """J10, B20: neither the key nor what a guess could be checked by without the master secret."""

    async def use(database: Database) -> str:
        made = await a_key(database, await make(database))
        await database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return made.text

    text = sqlite_world.run(use)
    stored = b"".join(path.read_bytes() for path in sqlite_world.directory.iterdir())
    chance = text.removeprefix(PREFIX)[:-6]
    assert not [start for start in range(len(chance) - 8) if chance[start : start + 8].encode() in stored]
    import hashlib

    assert hashlib.sha256(text.encode()).digest() not in stored


def test_keys_that_share_their_beginning_are_strangers(world: World) -> None:
    """B3: what a key is known by is the whole digest of all of it."""

    async def use(database: Database) -> None:
        made = await a_key(database, await make(database))
        for at in range(len(made.text)):
            other = made.text[:at] + ("a" if made.text[at] != "a" else "b") + made.text[at + 1 :]
            assert await find_key(database, MASTER.digest(other)) is None
        for text in ("", made.text[:-1], made.text + " ", made.text.upper()):
            assert await find_key(database, MASTER.digest(text)) is None
        assert await find_key(database, MASTER.digest(made.text)[:31]) is None
        assert await find_key(database, b"") is None

    world.run(use)


def test_ten_thousand_digests_of_similar_keys_differ() -> None:
    """B3, without a database."""
    stem = PREFIX + "0" * 30
    assert len({MASTER.digest(f"{stem}{number:08d}") for number in range(10_000)}) == 10_000


def test_a_revoked_key_stops_at_its_next_call(world: World) -> None:
    """B4: whoever caches it learns of it by the epoch, and the ledger asks for itself."""

    async def use(database: Database) -> None:
        account = await make(database, credit=1_000)
        made = await a_key(database, account)
        digest = MASTER.digest(made.text)
        known = await find_key(database, digest)
        assert known is not None
        async with world.serving(database) as ledger:
            assert isinstance(await spend(ledger, account.id, known.key_id, 10), Ended)
            epoch = await meta.value(database, meta.CACHE_EPOCH)
            await keys.revoke(database, None, made.public_id, actor="test")
            assert await meta.value(database, meta.CACHE_EPOCH) != epoch
            refused = await spend(ledger, account.id, known.key_id, 10)
            assert isinstance(refused, Refused)
            assert refused.why is Refusal.KEY_GONE
        gone = await find_key(database, digest)
        assert gone is not None
        assert not gone.live
        (listed,) = await rows.of_account(database, account.id)
        await keys.revoke(database, None, made.public_id, actor="test")
        assert (await rows.of_account(database, account.id)) == [listed]
        noted = await database.fetch("SELECT detail FROM activity WHERE action = 'key.revoked'")
        assert noted == [(made.public_id,)]

    world.run(use)


def test_an_expired_key_is_not_live(world: World) -> None:
    async def use(database: Database) -> None:
        account = await make(database, credit=1_000)
        expires_at = await database.now() + 1_500
        made = await a_key(database, account, rules=Rules(expires_at=expires_at))
        digest = MASTER.digest(made.text)
        known = await find_key(database, digest)
        assert known is not None
        assert known.live
        while await database.now() < expires_at:  # noqa: ASYNC110 - a clock
            await asyncio.sleep(0.02)
        async with world.serving(database) as ledger:
            assert isinstance(await spend(ledger, account.id, known.key_id, 10), Refused)
        late = await find_key(database, digest)
        assert late is not None
        assert not late.live

    world.run(use)


def test_a_limit_is_all_that_a_key_may_spend(world: World) -> None:
    async def use(database: Database) -> None:
        account = await make(database, credit=1_000)
        made = await a_key(database, account, rules=Rules(limit=25))
        known = await find_key(database, MASTER.digest(made.text))
        assert known is not None
        async with world.serving(database) as ledger:
            assert isinstance(await spend(ledger, account.id, known.key_id, 20), Ended)
            refused = await spend(ledger, account.id, known.key_id, 20)
            assert isinstance(refused, Refused)
            assert refused.why is Refusal.KEY_LIMIT
        (listed,) = await rows.of_account(database, account.id)
        assert (listed.limit, listed.spent, listed.held) == (25, 20, 0)

    world.run(use)


def test_nobody_reaches_the_key_of_another_account(world: World) -> None:
    """C1, C8."""

    async def use(database: Database) -> None:
        ada, bob = await make(database), await make(database, "bob@example.com")
        made = await a_key(database, ada)
        with pytest.raises(NotFound):
            await keys.revoke(database, bob.id, made.public_id, actor="test")
        assert await rows.of_account(database, bob.id) == []
        (still,) = await rows.of_account(database, ada.id)
        assert still.revoked_at is None
        await keys.revoke(database, ada.id, made.public_id, actor="test")

    world.run(use)


def test_an_unknown_key_is_not_found(world: World) -> None:
    with pytest.raises(NotFound, match="there is no key 'key_nowhere'"):
        world.run(lambda database: keys.revoke(database, None, "key_nowhere", actor="test"))


def test_who_names_a_key_by_itself_is_told_to_give_its_id_and_is_not_shown_the_key(world: World) -> None:
    async def use(database: Database) -> None:
        made = await a_key(database, await make(database))
        with pytest.raises(NotFound, match="give its id, key_…, not the key itself") as refused:
            await keys.revoke(database, None, made.text, actor="test")
        assert made.text not in str(refused.value)

    world.run(use)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"rules": Rules(limit=0)}, "above zero"),
        ({"rules": Rules(limit=-5)}, "above zero"),
        ({"rules": Rules(limit=1 << 62)}, "above zero"),
        ({"rules": Rules(expires_at=1)}, "in the future"),
        ({"label": "a\nb"}, "in one line"),
        ({"label": "x" * 101}, "at most 100"),
    ],
)
def test_a_key_that_cannot_be_is_not_made(sqlite_world: World, given: dict[str, object], says: str) -> None:
    async def use(database: Database) -> None:
        account = await make(database)
        with pytest.raises(InvalidRequest, match=says):
            await a_key(database, account, **given)
        assert await rows.of_account(database, account.id) == []

    sqlite_world.run(use)


def test_keys_are_not_made_with_another_master_secret(world: World) -> None:
    async def use(database: Database) -> None:
        account = await make(database)
        await a_key(database, account)
        with pytest.raises(ConfigError, match="not the master secret"):
            await keys.create(database, Secrets("another" * 10), account, PREFIX, actor="test")

    world.run(use)


SQL = [
    "' OR '1'='1",
    "'; DROP TABLE api_key; --",
    "\\'; SELECT pg_sleep(9); --",
    "x' UNION SELECT id, public_id, account_id, digest FROM api_key --",
    "%_%",
    "\x00",
    "$1",
    "' || (SELECT digest FROM api_key LIMIT 1) || '",
]


@pytest.mark.parametrize("text", SQL)
def test_sql_in_an_id_or_address_is_text(world: World, text: str) -> None:
    """B1: statements have arguments, not holes."""

    async def use(database: Database) -> None:
        account = await make(database)
        made = await a_key(database, account, label=text if text.isprintable() else "")
        with pytest.raises((NotFound, InvalidRequest)):
            await keys.revoke(database, None, text, actor="test")
        assert await find_key(database, MASTER.digest(text)) is None
        (listed,) = await rows.of_account(database, account.id)
        assert (listed.public_id, listed.revoked_at) == (made.public_id, None)

    world.run(use)
