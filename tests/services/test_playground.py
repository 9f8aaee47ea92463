"""The playground's key: one for each account, the same each time, and like any other."""

import asyncio

from tests.gateway.site import Site, chat, run
from tests.web.visitors import house

from tollbridge.services import keys, playground
from tollbridge.services.desk import Desk
from tollbridge.store import account_keys as rows
from tollbridge.store.db import Database


def desk(site: Site) -> Desk:
    assert site.gateway._desk is not None
    return site.gateway._desk


async def of_playground(database: Database, account_id: int) -> list[rows.AccountKey]:
    return [key for key in await rows.of_account(database, account_id) if key.label == playground.LABEL]


def test_calls_at_the_same_time_make_one_key() -> None:
    async def test() -> None:
        async with house() as site:
            texts = await asyncio.gather(*(playground.key_of(desk(site), site.account) for _ in range(20)))
            assert len(set(texts)) == 1
            [key] = await of_playground(site.database, site.account.id)
            assert key.hint.endswith(texts[0][-4:])
            reply = await site.post("/v1/chat/completions", chat(), {"authorization": f"Bearer {texts[0]}"})
            assert reply.status == 200

    run(test())


def test_a_revoked_key_stays_revoked_and_another_takes_its_place() -> None:
    async def test() -> None:
        async with house() as site:
            first = await playground.key_of(desk(site), site.account)
            [key] = await of_playground(site.database, site.account.id)
            await keys.revoke(site.database, site.account.id, key.public_id, actor="test")
            second = await playground.key_of(desk(site), site.account)
            assert second != first
            assert await playground.key_of(desk(site), site.account) == second
            refused = await site.post("/v1/chat/completions", chat(), {"authorization": f"Bearer {first}"})
            assert refused.status == 401

    run(test())


def test_nothing_that_is_stored_or_shown_leads_to_the_key() -> None:
    async def test() -> None:
        async with house() as site:
            text = await playground.key_of(desk(site), site.account)
            for table in ("api_key", "key_copy", "activity"):
                found = await site.database.fetch(f"SELECT * FROM {table}")
                assert text not in repr(found)
            assert text.encode() not in b"".join(site.log)

    run(test())
