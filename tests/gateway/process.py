"""`tollbridge serve` in a process of its own: configuring, starting, asking and ending it."""

import asyncio
import json
import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.gateway.site import EMAIL, Call, Reply, _request, chat

CONFIG = """
data_dir = "{folder}/data"
port = 0
allow_plain_http = true
{top}
[providers.up]
base_url = "{url}/v1"
cancel_stops_billing = true

[[models]]
id = "m"
context_window = 100000
output_limit = 4096
price = {{ input = "1", output = "2" }}
routes = [{{ provider = "up", model = "m" }}]
{more}
"""
# What a gateway prints when it serves; the group is its port.
SERVES = re.compile(r" models? on http://127\.0\.0\.1:(\d+)")
# On a machine that is busy with much else.
PATIENCE_S = 90.0


def configure(folder: Path, upstream: str, top: str = "", more: str = "") -> Path:
    """A configuration file. `top` and `more`: settings before and after the tables."""
    file = folder / "tollbridge.toml"
    file.write_text(CONFIG.format(folder=folder, url=upstream, top=top, more=more))
    return file


def command_line(config: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "tollbridge", *words, "--config", str(config)]


async def until(condition: Callable[[], Any], seconds: float = PATIENCE_S) -> float:
    """The seconds until the condition came true; it may be asynchronous."""
    clock = asyncio.get_running_loop().time
    began = clock()
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return clock() - began
        assert clock() - began < seconds, f"it did not come true within {seconds:g} s"
        await asyncio.sleep(0.02)


class Instance:
    """One gateway, configured in `folder`, which outlives it. `key`: the one that its requests use."""

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.config = folder / "tollbridge.toml"
        self.key = ""
        self.out = ""
        self._env = {**os.environ, **(env or {})}

    async def command(self, *words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *command_line(self.config, *words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._env,
        )
        said, complained = await process.communicate()
        assert process.returncode == 0, complained.decode()
        return said.decode().strip()

    async def make_key(self, credit_usd: str) -> None:
        """Create an account, and its key."""
        await self.command("account", "create", EMAIL, "--credit", credit_usd)
        self.key = await self.command("key", "create", "--account", EMAIL)

    async def start(self) -> None:
        await self._start(command_line(self.config, "serve"))

    async def _start(self, command: Sequence[str], passed: Sequence[int] = ()) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=log, env=self._env, pass_fds=passed
            )
        assert self.process.stdout is not None
        while True:
            line = (await self.process.stdout.readline()).decode()
            assert line, f"the server did not start: {self.log}"
            self.out += line
            if found := SERVES.search(line):
                self.port = int(found[1])
                return

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    async def connect(self) -> Call:
        return Call(*await asyncio.open_connection("127.0.0.1", self.port))

    def request(self, path: str = "/v1/chat/completions", *, keep: bool = False, **fields: Any) -> bytes:
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        if keep:
            headers["connection"] = "keep-alive"
        return _request("POST", path, json.dumps(chat(**fields)).encode(), headers)

    async def open(self, path: str = "/v1/chat/completions", **fields: Any) -> Call:
        """A request on a connection of its own."""
        call = await self.connect()
        call.writer.write(self.request(path, **fields))
        return call

    async def post(self, **fields: Any) -> Reply:
        call = await self.open(**fields)
        try:
            return await call.rest()
        finally:
            call.close()

    async def get(self, path: str) -> Reply:
        call = await self.connect()
        headers = {"authorization": f"Bearer {self.key}"}
        call.writer.write(_request("GET", path, b"", headers))
        try:
            return await call.rest()
        finally:
            call.close()
