"""How to learn what a gateway billed. Gateways differ: the runner is told by `--bill`.

usage           nothing but the usage object that the client is shown (always compared)
header:NAME     an amount in USD in a header of the answer
field:NAME      an amount in USD in the usage object (`cost`)
command:LINE    a program that prints what has been spent so far, in USD; it runs before and after each case
"""

import asyncio
import json
import shlex
from typing import NamedTuple

from tests.bad_provider.client import Seen
from tests.bad_provider.judge import Charge, Price

KINDS = ("usage", "header", "field", "command")


class BillError(Exception):
    """What was asked for cannot be read."""


class Source(NamedTuple):
    """`settle`: seconds after an answer until the books are right."""

    kind: str
    name: str
    price: Price
    settle: float = 0.0

    async def before(self) -> float:
        return await self._spent() if self.kind == "command" else 0.0

    async def after(self, seen: Seen, before: float) -> Charge:
        if self.kind == "command":
            await asyncio.sleep(self.settle)
            return Charge(usd=await self._spent() - before, price=self.price)
        text = seen.headers.get(self.name.lower()) if self.kind == "header" else None
        if self.kind == "field":
            text = _field(seen, self.name)
        return Charge(usd=None if text is None else _amount(text), price=self.price)

    async def _spent(self) -> float:
        process = await asyncio.create_subprocess_exec(*shlex.split(self.name), stdout=asyncio.subprocess.PIPE)
        said, _ = await process.communicate()
        if process.returncode:
            raise BillError(f"{self.name} failed with status {process.returncode}")
        return _amount(said.decode())


def source(text: str, price: Price, settle: float) -> Source:
    """Read `--bill`; raises `BillError`."""
    kind, _, name = text.partition(":")
    if kind not in KINDS or (kind != "usage" and not name):
        raise BillError(f"--bill is one of {', '.join(KINDS)}, with a name after a colon: not {text!r}")
    return Source(kind, name, price, settle)


def _amount(text: str) -> float:
    try:
        return float(text.strip().removeprefix("$"))
    except ValueError:
        raise BillError(f"{text.strip()[:60]!r} is no amount") from None


def _field(seen: Seen, name: str) -> str | None:
    """The member of the last usage object in an answer, stream or not."""
    found = None
    for line in seen.body.decode(errors="replace").split("\n"):
        try:
            usage = json.loads(line.removeprefix("data: ")).get("usage")
            found = str(usage[name])
        except (ValueError, AttributeError, TypeError, KeyError):
            continue
    return found
