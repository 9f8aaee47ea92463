"""The master secret is rotated under a gateway that serves: nobody's key, credential or request id is lost."""

import asyncio
import json
from collections.abc import Callable

import pytest
from tests.gateway.site import Site, always, by_kind, chat, completion, run, says, stream, streams
from tests.gateway.test_byok import OURS, THEIRS, Provider, bring
from tests.web.visitors import house, registered

from tollbridge.errors import ConfigError
from tollbridge.services import rotation, secrets
from tollbridge.services.secrets import Secrets
from tollbridge.store import meta
from tollbridge.store import rotation as rows

CHAT = "/v1/chat/completions"
OK = always(by_kind(says(completion()), streams(stream())))
UNKNOWN = "tb_live_" + "0" * 38


async def until(site: Site, condition: Callable[[Secrets], bool]) -> Secrets:
    """The secret that the gateway holds, once it is as it should be."""
    for _ in range(3_000):
        desk = site.gateway._desk
        assert desk is not None
        if condition(desk.master):
            return desk.master
        await asyncio.sleep(0.01)
    raise AssertionError("the gateway did not take the other secret up")


async def noticed(site: Site) -> None:
    """Until the gateway has heard of all that has changed so far."""
    jobs = site.gateway._jobs
    assert jobs is not None
    while jobs._cache_epoch != await meta.value(site.database, meta.CACHE_EPOCH):  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)


async def called(site: Site, key: str) -> tuple[int, str]:
    """The status and the id of a call that is paid by `key`."""
    reply = await site.post(CHAT, chat(), {"authorization": f"Bearer {key}"})
    return reply.status, json.loads(reply.body).get("id", "")


async def rotate_under(site: Site, provider: Provider, *, reload: bool) -> None:
    idle, late = await site.make_key(), await site.make_key()
    await bring(site, exclusive=True)
    status, request = await called(site, site.key)
    assert (status, provider.seen) == (200, [THEIRS])
    await site.settled(1)

    await rotation.rotate(site.database, site.settings)
    if reload:
        await site.gateway.reload()
        await until(site, lambda master: master.other is not None)
    assert (await called(site, site.key))[0] == 200
    old = site._master.fingerprint()
    await noticed(site)
    await rotation.rotate(site.database, site.settings)
    # It hears of it by itself.
    await until(site, lambda master: master.fingerprint() != old and master.generation == 2)

    site.gateway._forget()
    for key in (site.key, idle):
        assert (await called(site, key))[0] == 200
    assert set(provider.seen) == {THEIRS}
    assert OURS not in provider.seen
    assert (await called(site, UNKNOWN))[0] == 401
    found = await site.get(f"/v1/generation?id={request}")
    assert (found.status, found.json["data"]["total_cost"] > 0) == (200, True)
    fresh = secrets.load(site.settings)
    await secrets.belongs_to(site.database, fresh)
    site._master = fresh

    waiting = r"^1 API key was not used since"
    with pytest.raises(ConfigError, match=waiting):
        await rotation.finish(site.database, site.settings)
    await rotation.finish(site.database, site.settings, force=True)
    await site.gateway.reload()
    await until(site, lambda master: master.other is None)
    assert [(await called(site, key))[0] for key in (site.key, idle, late)] == [200, 200, 401]
    assert (await called(site, await site.make_key()))[0] == 200
    assert set(provider.seen) == {THEIRS}


@pytest.mark.parametrize("reload", [True, False], ids=["told", "untold"])
def test_it_goes_on_while_the_secret_is_rotated(reload: bool) -> None:
    async def test() -> None:
        provider = Provider()
        async with Site(provider) as site:
            await rotate_under(site, provider, reload=reload)

    run(test())


def test_it_goes_on_while_the_secret_is_rotated_on_postgresql(postgres_url: str) -> None:
    async def test() -> None:
        provider = Provider()
        async with Site(provider, database_url=postgres_url) as site:
            await rotate_under(site, provider, reload=True)

    run(test())


def test_a_key_is_served_although_it_cannot_be_made_known_by_the_new_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with Site(OK) as site:
            for _ in range(2):
                await rotation.rotate(site.database, site.settings)
            await until(site, lambda master: master.generation == 2)

            async def fails(*_: object) -> None:
                raise ConfigError("the disk is full")

            monkeypatch.setattr(rows, "renew_digest", fails)
            assert (await called(site, site.key))[0] == 200

    run(test())


def test_a_form_that_was_open_can_be_sent_and_nobody_is_logged_out() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            token = await ada.token("/dashboard/keys/new")
            for _ in range(2):
                await rotation.rotate(site.database, site.settings)
            await until(site, lambda master: master.generation == 2)
            made = await ada.raw_post("/dashboard/keys", {"csrf": token, "label": "ci"})
            assert made.status_code in {200, 303}
            assert await ada.token("/dashboard/keys/new") != token
            wrong = await ada.raw_post("/dashboard/keys", {"csrf": "0" * 64, "label": "ci"})
            assert wrong.status_code == 403
            await rotation.finish(site.database, site.settings, force=True)
            await site.gateway.reload()
            assert (await ada.raw_post("/dashboard/keys", {"csrf": token, "label": "ci"})).status_code == 403
            assert (await ada.get("/dashboard")).status_code == 200

    run(test())
