"""Real processes that serve from one database, each with a row and a ledger of its own; a script begins in all at once.

with Crew(engine, 4) as crew:
    results = crew.run(script, argument)      # what `await script(books, argument)` returned in each of them
"""

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import uvloop
from tests.store.books import Books, Engine, assert_verified, serving

from tollbridge.core.ledger import End, Ended
from tollbridge.store.verify import Report

_SPAWN = multiprocessing.get_context("spawn")

Script = Callable[..., Awaitable[Any]]


class Crew:
    def __init__(self, engine: Engine, size: int) -> None:
        self._members: list[tuple[BaseProcess, Connection]] = []
        for _ in range(size):
            ours, theirs = _SPAWN.Pipe()
            member = _SPAWN.Process(target=_serve, args=(engine, theirs), daemon=True)
            member.start()
            theirs.close()
            self._members.append((member, ours))
        for number in range(size):
            self._result(number)

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for member, pipe in self._members:
            if member.is_alive():
                pipe.send(None)
        for member, pipe in self._members:
            member.join(20)
            hangs = member.exitcode is None
            member.kill()
            member.join()
            pipe.close()
            member.close()
            assert not hangs, "a member hangs"

    def run(self, script: Script, *args: Any) -> list[Any]:
        """Run in each living member at the same moment; their results."""
        living = [number for number, (member, _) in enumerate(self._members) if member.is_alive()]
        at = time.monotonic() + 0.01
        for number in living:
            self._members[number][1].send((script, args, at))
        return [self._result(number) for number in living]

    def run_on(self, number: int, script: Script, *args: Any) -> Any:
        self._members[number][1].send((script, args, 0.0))
        return self._result(number)

    def kill(self, number: int) -> None:
        """SIGKILL; the others go on."""
        member, _ = self._members[number]
        assert member.pid is not None
        os.kill(member.pid, signal.SIGKILL)
        member.join(20)

    def _result(self, number: int) -> Any:
        result = self._members[number][1].recv()
        if isinstance(result, BaseException):
            raise result
        return result


def _serve(engine: Engine, pipe: Connection) -> None:
    uvloop.run(_member(engine, pipe))


async def _member(engine: Engine, pipe: Connection) -> None:
    loop = asyncio.get_running_loop()
    async with serving(engine) as books:
        pipe.send(None)
        while (task := await loop.run_in_executor(None, pipe.recv)) is not None:
            script, args, at = task
            await asyncio.sleep(at - time.monotonic())
            try:
                result = await script(books, *args)
            except Exception as error:
                result = error
            pipe.send(result)


async def query(engine: Engine, sql: str, *args: Any) -> list[tuple[Any, ...]]:
    """The rows of one statement, asked from outside."""
    database = engine.database()
    await database.start()
    try:
        return await database.fetch(sql, *args)
    finally:
        await database.close()


async def proved(engine: Engine) -> Report:
    """Prove the books, from outside."""
    database = engine.database()
    await database.start()
    try:
        return await assert_verified(database)
    finally:
        await database.close()


async def end_all(books: Books, ends: list[End]) -> list[Ended]:
    verdicts = await asyncio.gather(*map(books.ledger.submit, ends))
    assert all(isinstance(verdict, Ended) for verdict in verdicts), verdicts
    return [verdict for verdict in verdicts if isinstance(verdict, Ended)]
