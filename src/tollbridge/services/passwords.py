"""Passwords: argon2id in one thread that yields to everything else: logging in must not slow down calls.

One thread makes about 40 hashes a second. Two low-priority threads would keep each other off the processor, even while
one of them holds the interpreter's lock, and calls wait for that (measured: 4 ms each time, the scheduler's tick).
"""

import asyncio
import os
import sys
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tollbridge.errors import InvalidRequest, Unavailable

if TYPE_CHECKING:
    from argon2 import PasswordHasher

T = TypeVar("T")

LEAST, MOST = 12, 128
# Composing makes a text four times shorter at most: what is longer than this stays above `MOST`.
_MOST_TYPED = 4 * MOST
# From OWASP's password storage cheat sheet: 19 MiB, two passes, one lane.
MEMORY_KIB, PASSES, LANES = 19_456, 2, 1
MOST_WAITING = 32
# How many of those places one network address may hold: whoever logs in all the time keeps nobody else out.
MOST_OF_ONE = 8
# Of the thread, where a thread can have its own (Linux).
NICENESS = 15
# The most used passwords that are long enough to be accepted otherwise, one a line.
COMMON = Path(__file__).parent.parent / "data" / "common_passwords.txt"


class Passwords:
    """Makes and checks hashes in PHC form (`$argon2id$…`)."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "passwords", initializer=_stand_back)
        self._is_ready = False
        self._entered = Counter[str]()
        self._waiting = 0

    def get_ready(self) -> None:
        """Load what hashing needs, in the thread, because somebody is about to type a password."""
        if not self._is_ready:
            self._is_ready = True
            self._thread.submit(self._verify, None, "")

    @contextmanager
    def turn(self, who: str) -> Iterator[None]:
        """Wrap everything that a stranger can set off: one too many is turned away before it has cost anything else.

        `who`: as whom a network address counts; "": as many. Unavailable: too many are waiting, or too many of theirs.
        """
        if self._entered.total() >= MOST_WAITING or (who and self._entered[who] >= MOST_OF_ONE):
            raise _full()
        self._entered[who] += 1
        try:
            yield
        finally:
            self._entered[who] -= 1
            if not self._entered[who]:
                del self._entered[who]

    async def hash(self, password: str) -> str:
        """Unavailable: too many are waiting."""
        return await self._run(self._hasher.hash, _normal(password))

    async def matches(self, hashed: str | None, password: str) -> bool:
        """Whether it is the password. For None it never is, but checking takes just as long."""
        return await self._run(self._verify, hashed, _normal(password))

    def is_old(self, hashed: str) -> bool:
        """Whether the hash was made with other parameters than are used now."""
        return self._hasher.check_needs_rehash(hashed)

    @cached_property
    def _hasher(self) -> "PasswordHasher":
        from argon2 import PasswordHasher

        return PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES, hash_len=32, salt_len=16)

    @cached_property
    def _nobodys(self) -> str:
        return self._hasher.hash(os.urandom(16).hex())

    def _verify(self, hashed: str | None, password: str) -> bool:
        from argon2.exceptions import InvalidHashError, VerificationError

        try:
            return self._hasher.verify(hashed or self._nobodys, password) and hashed is not None
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[..., T], *args: object) -> T:
        if self._waiting >= MOST_WAITING:
            raise _full()
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *args))
        finally:
            self._waiting -= 1


def _full() -> Unavailable:
    return Unavailable("Too many people are logging in right now. Please try again in a moment.")


def _stand_back() -> None:
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def check(password: str, *known: str) -> str:
    """The password, normalised, if acceptable; `known`: what a guesser tries first, the address and the service's name.

    InvalidRequest says what would be acceptable.
    """
    normal = _normal(password)
    if len(normal) < LEAST:
        raise InvalidRequest(f"Use at least {LEAST} characters: a few words are easy to remember.", param="password")
    if len(normal) > MOST:
        raise InvalidRequest(f"Use at most {MOST} characters.", param="password")
    folded = normal.casefold()
    bare = folded.strip("0123456789!?.*_-# ")
    words = {word for text in known for word in (text.casefold(), text.casefold().partition("@")[0]) if word}
    if len(set(folded)) < 5 or bare in words or folded in words or folded in _common():
        raise InvalidRequest("This password is among the first that attackers try. Use another one.", param="password")
    return normal


def _common() -> frozenset[str]:
    return frozenset(COMMON.read_text("utf-8").split())


def _normal(password: str) -> str:
    # Sorting a run of accents takes the square of its length, on the event loop.
    return unicodedata.normalize("NFC", password[: _MOST_TYPED + 1])
