import asyncio
import contextlib
import gc
import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.site import INPUT_NANO, Site, always, chat, completion, run, says
from tests.payments.fake_stripe import SECRET_KEY, SIGNING_SECRET

from tollbridge import jobs
from tollbridge.errors import Unavailable
from tollbridge.store import prices, processes, schema
from tollbridge.store.db import open_database
from tollbridge.web import render


def test_configuration_is_read_again_while_requests_run() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def answer(request: Any, peer: Any) -> None:
        asked.set()
        await go_on.wait()
        await says(completion(usage=(10, 0)))(request, peer)

    async def test() -> None:
        async with Site(always(answer)) as site:
            running = asyncio.create_task(site.post("/v1/chat/completions", chat()))
            await asked.wait()
            text = site.file.read_text()
            site.file.write_text(text.replace('input = "1", output = "2"', 'input = "3", output = "2"'))
            await site.gateway.reload()
            go_on.set()
            assert (await running).status == 200
            assert (await site.post("/v1/chat/completions", chat())).status == 200
            rows = await site.settled(2)
            assert [row["charge"] for row in rows] == [10 * INPUT_NANO, 30 * INPUT_NANO]

    run(test())


def test_connections_to_a_provider_that_changed_go_after_the_last_request_on_them() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def answer(request: Any, peer: Any) -> None:
        asked.set()
        await go_on.wait()
        await says(completion(), headers={"connection": "close"})(request, peer)

    async def test() -> None:
        async with Site(always(answer)) as site:
            running, text = asyncio.create_task(site.post("/v1/chat/completions", chat())), site.file.read_text()
            await asked.wait()
            for number in range(5):
                changed = text.replace("[providers.up]", f"[providers.up]\nmax_connections = {number + 1}")
                site.file.write_text(changed)
                await site.gateway.reload()
            await until(lambda: len(site.gateway._pools) == 2)
            go_on.set()
            assert (await running).status == 200
            await until(lambda: len(site.gateway._pools) == 1)
            assert (await site.post("/v1/chat/completions", chat())).status == 200

    async def until(so: Callable[[], bool]) -> None:
        while not so():
            gc.collect()
            await asyncio.sleep(0.01)

    run(test())


def test_pages_are_those_of_the_version_that_was_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another one may be installed in its place before somebody asks for a page."""
    monkeypatch.setattr(jobs, "PREPARE_S", 0.01)

    async def test() -> None:
        async with Site(always(says(completion()))) as site:
            for _ in range(1_000):
                if site.gateway._web is not None:
                    break
                await asyncio.sleep(0.01)
            monkeypatch.setattr(render, "FOLDER", tmp_path)
            monkeypatch.setattr(importlib, "import_module", lambda _: 1 / 0)
            assert (await site.get("/pricing", {"accept": "text/html"})).status == 200

    run(test())


def test_mistake_in_the_configuration_leaves_the_old_one_running(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with Site(always(says(completion()))) as site:
            site.file.write_text(site.file.read_text() + "\n[billing]\ncost_cap_us = 3\n")
            with caplog.at_level(logging.ERROR):
                await site.gateway.reload()
            assert "cost_cap_us" in caplog.text
            assert (await site.post("/v1/chat/completions", chat())).status == 200

    run(test())


def test_what_was_needed_for_payments_is_closed_once_the_configuration_was_read_twice_more() -> None:
    async def test() -> None:
        config = f'[stripe]\nsecret_key = "{SECRET_KEY}"\nwebhook_secret = "{SIGNING_SECRET}"\n'
        async with Site(always(says(completion())), config=config) as site:
            tills = site.gateway._tills
            first = tills[0]
            assert first.stripe is not None
            client = first.stripe._api._opened()
            await site.gateway.reload()
            assert (len(tills), client.is_closed) == (2, False)
            for _ in range(3):
                await site.gateway.reload()
            assert (len(tills), client.is_closed) == (2, True)
            assert site.gateway._payments() is tills[-1]

    run(test())


def test_only_what_has_changed_is_said_to_take_a_restart(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with Site(always(says(completion()))) as site:
            await site.gateway.reload()
            assert "restart to apply it" not in caplog.text
            # Settings without a table stand above all tables.
            own = site.file.read_text() + '\n[mail]\nfrom = "a@example.com"\n[usage]\nretention_days = 400\n'
            above = 'redis_url = "redis://127.0.0.1:1/0"\npublic_url = "https://elsewhere.example.com"\n'
            site.file.write_text(above + own)
            await site.gateway.reload()
            said = [each.getMessage() for each in caplog.records if "restart to apply it" in each.getMessage()]
            assert [each.split()[0] for each in said] == ["public_url", "redis_url", "mail", "usage"]
            # None of them has changed by half: the pages are still found where they were.
            assert (await site.get("/pricing")).status == 200

    run(test())


def test_a_public_gateway_that_loses_its_providers_goes_on_with_them(caplog: pytest.LogCaptureFixture) -> None:
    """Its customers would be charged for what the demo provider makes up."""

    async def test() -> None:
        async with Site(always(says(completion())), config='public_url = "https://api.example.com"\n') as site:
            text = site.file.read_text()
            site.file.write_text(text[: text.index("[providers.up]")])
            await site.gateway.reload()
            assert "no provider is configured (is its key missing?)" in caplog.text
            site.file.write_text(text + '[catalog]\nmodels = ["gpt-44"]\n')
            await site.gateway.reload()
            assert "catalog.models: no model is called 'gpt-44'" in caplog.text
            assert (await site.post("/v1/chat/completions", chat())).status == 200

    run(test())


def test_a_change_that_comes_while_the_file_is_read_is_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with Site(always(says(completion(usage=(10, 0))))) as site:
            text = site.file.read_text()
            register, waiting, go_on = prices.register, asyncio.Event(), asyncio.Event()

            async def slowly(*arguments: Any) -> Any:
                waiting.set()
                await go_on.wait()
                return await register(*arguments)

            monkeypatch.setattr(prices, "register", slowly)
            site.file.write_text(text.replace('input = "1", output = "2"', 'input = "3", output = "2"'))
            first = site.gateway.reload()
            await waiting.wait()
            site.file.write_text(text.replace('input = "1", output = "2"', 'input = "5", output = "2"'))
            second = site.gateway.reload()
            go_on.set()
            await asyncio.gather(first, second)
            assert (await site.post("/v1/chat/completions", chat())).status == 200
            assert [row["charge"] for row in await site.settled(1)] == [50 * INPUT_NANO]

    run(test())


def test_all_that_follows_changes_ends_before_the_database_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second change must not forget the task that looks into the first, or it may be collected as garbage."""
    steps: list[str] = []

    async def hangs(*_: object) -> bool:
        steps.append("begun")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            steps.append("ended")
            raise
        return False

    async def test() -> None:
        async with Site(always(says(completion()))) as site:
            close = site.gateway._database.close

            async def noted() -> None:
                steps.append("closed")
                await close()

            monkeypatch.setattr(site.gateway._database, "close", noted)
            monkeypatch.setattr("tollbridge.app.secrets.is_behind", hangs)
            for _ in range(3):
                site.gateway._forget()
                await asyncio.sleep(0.01)
            gc.collect()
        assert steps == ["begun"] * 3 + ["ended"] * 3 + ["closed"]

    run(test())


def test_a_reload_ends_before_the_ledger_does(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    register = prices.register

    async def test() -> None:
        async with Site(always(says(completion()))) as site:
            assert site.gateway.ledger is not None
            stop, stopping = site.gateway.ledger.stop, asyncio.Event()

            async def noted() -> None:
                stopping.set()
                steps.append("stopped")
                await stop()

            async def slowly(*arguments: Any) -> Any:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), 1)
                steps.append("read")
                return await register(*arguments)

            monkeypatch.setattr(site.gateway.ledger, "stop", noted)
            monkeypatch.setattr(prices, "register", slowly)
            reloading = site.gateway.reload()
        await reloading
        assert steps[-2:] == ["read", "stopped"]

    run(test())


def test_a_provider_that_was_out_of_credit_is_asked_again_after_a_reload() -> None:
    broke = True

    async def answer(request: Any, peer: Any) -> None:
        await (says({"error": {"message": "pay"}}, 402) if broke else says(completion()))(request, peer)

    async def test() -> None:
        nonlocal broke
        async with Site(always(answer)) as site:
            assert [(await site.post("/v1/chat/completions", chat())).status for _ in range(2)] == [502, 503]
            broke = False
            assert (await site.post("/v1/chat/completions", chat())).status == 503
            await site.gateway.reload()
            assert (await site.post("/v1/chat/completions", chat())).status == 200

    run(test())


def test_a_process_that_limits_by_itself_beside_others_says_so(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def another() -> None:
        await schema.migrate(postgres_url)
        database = open_database(postgres_url)
        await database.start()
        await processes.begin(database)
        await database.execute("UPDATE process SET host = 'elsewhere 1 2'")
        await database.close()

    async def test() -> None:
        await another()
        async with Site(always(says(completion())), database_url=postgres_url):
            assert "redis_url is not set, and 1 more serve from this database" in caplog.text

    run(test())


def test_new_models_and_plans_are_served_after_a_reload() -> None:
    more = '\n[[models]]\nid = "new"\nprice = { input = "1", output = "1" }\n'
    more += 'routes = [{ provider = "up", model = "x" }]\n'

    async def test() -> None:
        async with Site(always(says(completion()))) as site:
            assert (await site.post("/v1/chat/completions", {**chat(), "model": "new"})).status == 404
            site.file.write_text(site.file.read_text() + more + "[plans.default]\nrpm = 1\nstrict = true\n")
            await site.gateway.reload()
            assert (await site.post("/v1/chat/completions", {**chat(), "model": "new"})).status == 200
            limited = await site.post("/v1/chat/completions", chat())
            assert limited.status == 429
            assert limited.json["error"]["type"] == "requests"
            assert int(limited.headers["retry-after"]) > 50
            assert limited.headers["x-ratelimit-remaining-requests"] == "0"

    run(test())


def test_a_gateway_that_stops_while_its_database_is_away_logs_its_last_answers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Away:
        async def now(self) -> int:
            raise Unavailable("The database cannot be reached.")

    async def test() -> None:
        async with Site(always(says(completion(usage=(10, 5))))) as site:
            answer = await site.post("/v1/chat/completions", chat())
            monkeypatch.setattr(site.gateway._process, "_database", Away())
        assert answer.headers["x-request-id"] in b"".join(site.log).decode()
        assert "was not told that this process has ended: The database cannot be reached." in caplog.text
        assert not [each for each in caplog.records if each.levelno >= logging.ERROR]

    run(test())
