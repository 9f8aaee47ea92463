"""A gateway that began on SQLite goes on upon PostgreSQL: keys, money, people and the books, as if nothing had been."""

import asyncio
import json
import shutil
from pathlib import Path

import httpx
from tests.gateway.process import Instance, command_line, configure
from tests.gateway.site import EMAIL, INPUT_NANO, OUTPUT_NANO, always, chat, completion, says
from tests.upstream.bad_server import BadServer
from tests.web.town import town

from tollbridge.store.backup import back_up
from tollbridge.store.db import open_database

PRICE = 10 * INPUT_NANO + 5 * OUTPUT_NANO


async def balances(url: str) -> list[tuple[str, int]]:
    database = open_database(url)
    await database.start()
    try:
        rows = await database.fetch(
            "SELECT email, paid + promo - held FROM balance JOIN account ON id = account_id ORDER BY email"
        )
        return [(email, int(left)) for email, left in rows]
    finally:
        await database.close()


async def ask(instance: Instance) -> int:
    """The status of a call with the old key."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{instance.port}", trust_env=False) as client:
        answer = await client.post(
            "/v1/chat/completions", json=chat(), headers={"authorization": f"Bearer {instance.key}"}
        )
    return answer.status_code


def test_a_gateway_moves_and_nobody_notices(tmp_path: Path, postgres_url: str) -> None:
    async def test() -> None:
        data = tmp_path / "data"
        data.mkdir()
        async with town() as people:
            key, cookies = people.site.key, dict(people["owner"].client.cookies)
            shutil.copy(people.site.settings.data_dir / "secret", data / "secret")
            back_up(people.site.settings.database_url.reveal(), data / "tollbridge.db")
        before = await balances(f"sqlite:///{data}/tollbridge.db")
        async with BadServer(always(says(completion()))) as upstream:
            url = f"http://127.0.0.1:{upstream.port}"
            configure(tmp_path, url)
            instance = Instance(tmp_path, {"TARGET": postgres_url})
            instance.key = key
            await instance.start()
            assert await ask(instance) == 200
            instance.process.terminate()
            await instance.process.wait()
            said = json.loads(await instance.command("move", "env:TARGET", "--json"))
            assert said["rows"]["usage"] == said["holds"] == 2
            assert said["open_holds"] == 0
            assert {"user", "session", "membership", "payment", "invoice", "passkey", "management_key"} <= {
                name for name, count in said["rows"].items() if count
            }
            configure(tmp_path, url, top='database_url = "env:TARGET"')
            instance = Instance(tmp_path, {"TARGET": postgres_url})
            instance.key = key
            await instance.start()
            assert await ask(instance) == 200
            async with httpx.AsyncClient(cookies=cookies, trust_env=False) as owner:
                page = await owner.get(f"http://127.0.0.1:{instance.port}/dashboard")
            assert page.status_code == 200
            assert "owner@example.com" in page.text
            instance.process.terminate()
            await instance.process.wait()
            after = dict(before) | {EMAIL: dict(before)[EMAIL] - 2 * PRICE}
            assert await balances(postgres_url) == sorted(after.items())
            verified = json.loads(await instance.command("ledger", "verify", "--json"))
            assert (verified["ok"], verified["holds"]) == (True, 3)
            # The file of before is not served from.
            configure(tmp_path, url)
            refused = await asyncio.create_subprocess_exec(
                *command_line(instance.config, "serve"), stderr=asyncio.subprocess.PIPE
            )
            _, complaint = await asyncio.wait_for(refused.communicate(), 60)
            assert refused.returncode == 1
            assert b"this database was copied to PostgreSQL: set database_url to that one" in complaint

    asyncio.run(test())
