"""How many keys an account may have."""

from pathlib import Path

import pytest
from tests.services.conftest import MASTER, World
from tests.services.test_accounts import make
from tests.services.test_rotation import desk_of, settings

from tollbridge.errors import InvalidRequest
from tollbridge.services import account_keys
from tollbridge.services.deeds import Actor
from tollbridge.services.keys import MadeKey
from tollbridge.store.db import Database
from tollbridge.store.keys import NO_RULES

ME = Actor("ada@example.com", "127.0.0.1")


def test_keys_that_no_longer_work_count_for_nothing_and_rotated_ones_that_live_on_do(
    sqlite_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_keys, "MOST_KEYS", 2)

    async def use(database: Database) -> None:
        desk = desk_of(database, settings(tmp_path), MASTER)
        account = await make(database)

        async def create() -> MadeKey:
            return await account_keys.create(desk, account.id, "", NO_RULES, ME)

        async def rotate(key: MadeKey, overlap: str) -> MadeKey:
            return await account_keys.rotate(desk, account.id, key.public_id, overlap, ME)

        first, _ = await create(), await create()
        with pytest.raises(InvalidRequest, match="at most 2 keys"):
            await create()
        with pytest.raises(InvalidRequest, match="at most 2 keys"):
            await rotate(first, "")
        # For an hour there is one more.
        second = await rotate(first, "1h")
        with pytest.raises(InvalidRequest, match="at most 2 keys"):
            await create()
        await database.execute("UPDATE api_key SET expires_at = 1 WHERE public_id = $1", first.public_id)
        with pytest.raises(InvalidRequest, match="at most 2 keys"):
            await create()
        await account_keys.revoke(desk, account.id, second.public_id, ME)
        third = await create()
        await rotate(third, "none")

    sqlite_world.run(use)
