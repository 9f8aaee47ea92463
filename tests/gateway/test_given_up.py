"""A process that can take no paid call any more: another has to take its place, unless it has the only books."""

import asyncio
import signal
from pathlib import Path

from tests.gateway.process import PATIENCE_S, Instance, configure, until
from tests.gateway.site import always, completion, says
from tests.upstream.bad_server import BadServer

from tollbridge.store.db import open_database


def test_a_process_that_was_taken_for_dead_ends_so_that_its_supervisor_starts_another(
    tmp_path: Path, postgres_url: str
) -> None:
    async def test() -> None:
        async with BadServer(always(says(completion()))) as upstream:
            configure(tmp_path, f"http://127.0.0.1:{upstream.port}", top='database_url = "env:TARGET"')
            instance = Instance(tmp_path, {"TARGET": postgres_url})
            await instance.start()
            await instance.make_key("1")
            assert (await instance.post()).status == 200
            database = open_database(postgres_url)
            await database.start()
            await database.execute("UPDATE process SET fenced_at = heartbeat_at WHERE stopped_at IS NULL")
            await database.close()
            # As `Restart=on-failure` and its like want it.
            assert await asyncio.wait_for(instance.process.wait(), PATIENCE_S) == 1
            assert "it must be started again" in instance.log
            await instance.start()
            assert (await instance.post()).status == 200
            instance.process.terminate()
            assert await asyncio.wait_for(instance.process.wait(), PATIENCE_S) == 0

    asyncio.run(test())


def test_a_process_that_lost_its_file_says_so_and_goes_on_living(tmp_path: Path) -> None:
    async def test() -> None:
        async with BadServer(always(says(completion()))) as upstream:
            configure(tmp_path, f"http://127.0.0.1:{upstream.port}")
            instance = Instance(tmp_path)
            await instance.start()
            await instance.make_key("1")
            assert (await instance.post()).status == 200
            (tmp_path / "data" / "tollbridge.db").unlink()
            await until(lambda: "was removed or replaced" in instance.log)
            refused = await instance.post()
            assert (refused.status, refused.json["error"]["code"]) == (503, "ledger_unavailable")
            assert (await instance.get("/ready")).status == 503
            told = (await instance.get("/metrics")).body.decode()
            assert "\ntollbridge_ledger_failed 1\n" in told
            assert instance.process.returncode is None
            instance.process.send_signal(signal.SIGKILL)
            await instance.process.wait()

    asyncio.run(test())
