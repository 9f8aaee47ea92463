"""`Idempotency-Key`: the same request sent again gets the same answer, and costs nothing.

Rule 1  Which request has a key is decided in the transaction that holds the money (`core.ledger.Claim`). What is read
        here before that only saves work.
Rule 2  A request with a key runs to its end even if its caller leaves: they will ask again for what they pay for.
Rule 3  An answer is kept sealed, for a limited time. If it was too large or was lost, the request is not run again: the
        caller is told the id of the request that was charged.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable

import msgspec

from tollbridge.core.ledger import Claim
from tollbridge.errors import Conflict, InvalidRequest, KeyReused, Unavailable
from tollbridge.gateway.recent import Recent
from tollbridge.store import answers
from tollbridge.store.db import Database

_log = logging.getLogger("tollbridge")

HEADER = b"idempotency-key"
LONGEST = 255
# Between the charge and the answer being kept.
_SOON_MS = 10_000

# Between looks at a claim that is being closed: a second in all.
PAUSES_S = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.365)


class KeptAnswer(msgspec.Struct, frozen=True, array_like=True):
    """An answer as it was sent. `streamed`: its body was sent piece by piece."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    streamed: bool


class Replays:
    """`recent`: the requests that have ended here. `seal` and `unseal` take what it is for and the bytes. `public_id`
    names a request by its hold.
    """

    def __init__(
        self,
        database: Database,
        recent: Recent,
        *,
        seal: Callable[[str, bytes], bytes],
        unseal: Callable[[str, bytes], bytes],
        public_id: Callable[[int], str],
        keep_ms: int,
        max_answer: int,
    ) -> None:
        self._database = database
        self._recent = recent
        self._seal = seal
        self._unseal = unseal
        self._public_id = public_id
        self._keep_ms = keep_ms
        self.max_answer = max_answer

    def claim(self, path: str, key: bytes, body: bytes) -> Claim:
        """What a request with this key claims; raises `InvalidRequest` for a key that is none."""
        if not 0 < len(key) <= LONGEST or not all(32 < char < 127 for char in key):
            raise InvalidRequest(
                f"An Idempotency-Key must have 1 to {LONGEST} visible ASCII characters; a UUID is a good choice.",
                param="Idempotency-Key",
            )
        digest = hashlib.sha256(b"%b\n%b" % (path.encode(), body)).digest()
        return Claim(hashlib.sha256(key).digest(), digest, self._keep_ms)

    async def find(self, account_id: int, claim: Claim) -> KeptAnswer | None:
        """The answer to the request that has the claim; None: nobody has. Raises `KeyReused` or `Conflict`.

        Waits for a claim that is being closed, but not for long: whoever has seen the end may ask again at once.
        """
        for pause in PAUSES_S:
            first = await answers.claimed(self._database, account_id, claim.name)
            now = await self._database.now()
            if first is None or not first.stands(now, claim.keep_ms):
                return None
            if first.request != claim.request:
                raise KeyReused("This Idempotency-Key was used for another request. Send a new key with a new request.")
            sealed = None if first.outcome is None else await answers.find(self._database, first.hold)
            if sealed is not None:
                return msgspec.msgpack.decode(self._unseal(f"answer/{first.hold}", sealed), type=KeptAnswer)
            if first.outcome is None and self._recent.find(first.hold) is None:
                break
            if first.outcome is not None and now >= first.ended_at + _SOON_MS:
                raise self._not_kept(first.hold)
            await asyncio.sleep(pause)
        raise in_progress()

    def _not_kept(self, hold: int) -> Conflict:
        id_ = self._public_id(hold)
        return Conflict(
            f"This request was answered and charged before, as {id_}, and its answer was not kept. Send a new"
            " Idempotency-Key to have it answered, and charged, again.",
            code="idempotency_answer_not_kept",
            headers={"x-should-retry": "false"},
        )

    async def keep(self, hold: int, answer: KeptAnswer) -> None:
        """Keep what has been sent. When the database is away it is lost: then Rule 3 says what a repetition gets."""
        sealed = self._seal(f"answer/{hold}", msgspec.msgpack.encode(answer))
        try:
            await answers.keep(self._database, hold, sealed)
        except Unavailable as error:
            _log.warning(
                "the answer %s was sent, but cannot be repeated for its Idempotency-Key: %s",
                self._public_id(hold),
                error,
            )


def in_progress() -> Conflict:
    return Conflict(
        "A request with this Idempotency-Key is still running. Ask again once it has ended to get its answer.",
        headers={"retry-after": "1"},
    )
