"""One batch of operations, as one transaction over one PostgreSQL connection.

    books = await Books.open(connection, epoch)
    decision = await books.apply(operations, open_holds)     # BEGIN, lock, decide, write
    await books.commit()                                     # or rollback(); the next transaction has begun

Round trips are what a batch pays for, so there are few: one statement that locks and reads, one that writes, and a
COMMIT with the next BEGIN behind it. More are needed only for what is rare: extensions, checkpoints, journal
transactions, claims, included tokens, other processes' holds, and the first hold of a key with a limit.

Rule 1  Everybody takes locks in one order: the process row, balances by account, spends by key. A process that fences
        another waits for its batch, and the fenced one's next batch sees the fence.
Rule 2  A statement sees what was committed when it began, not when it got its locks. So whatever the previous owner of
        a lock may have changed (ends, journal keys) is read afterwards, by a statement of its own.
Rule 3  If `ON CONFLICT DO NOTHING` swallowed a row, the decision was based on something untrue: `Swallowed`, and
        nothing of the batch may stay. Only accepted rows move balances.
        An account's allowances have no lock of their own: whoever touches them has locked its balance.
Rule 4  What the writer remembers of its own open holds is believed, because Rule 3 detects where it is wrong.
Rule 5  Locks are not kept while a disk works: the batch is committed without waiting for the disk, and an empty
        transaction behind it waits for both (`_COMMIT`). The log is flushed in order, so anything built on this batch
        is durable only if the batch is; and nobody is told anything before that wait is over.

In the two statements of every batch, arrays of numbers travel as text (`_numbers`): the driver checks whether each
element of an array is itself an array, which costs ten times as much as writing it (measured: 5 of 27 µs per request).
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import msgspec

from tollbridge.core.ledger import (
    Allowance,
    Balance,
    Checkpoint,
    Decision,
    End,
    Extend,
    Hold,
    KeyState,
    OpenHold,
    Operation,
    Post,
    State,
    decide,
)
from tollbridge.core.periods import Reset
from tollbridge.errors import TollbridgeError
from tollbridge.store.ledger.rows import (
    CLAIM,
    USAGE_COLUMNS,
    claimant,
    encode_record,
    end_row,
    first_of,
    opened,
    usage_row,
)

_LOCK = """
WITH own AS MATERIALIZED (
    SELECT fenced_at FROM process WHERE epoch = $1 FOR SHARE
), money AS MATERIALIZED (
    SELECT account_id, paid, promo, held, frozen FROM balance
    WHERE account_id = ANY($2::text::bigint[]) ORDER BY account_id FOR UPDATE
), spend AS MATERIALIZED (
    SELECT key_id, spent, held, since FROM key_spend
    WHERE key_id = ANY($3::text::bigint[]) ORDER BY key_id FOR UPDATE
)
SELECT 0 AS kind, (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS id,
    NULL::bigint AS a, NULL::bigint AS b, NULL::bigint AS c, fenced_at IS NOT NULL AS flag, NULL::text AS reset FROM own
UNION ALL SELECT 1, account_id, paid, promo, held, frozen, NULL FROM money
UNION ALL SELECT 2, key_id, spent, held, since, NULL, NULL FROM spend
UNION ALL SELECT 3, id, account_id, limit_nano, expires_at, revoked_at IS NULL AND disabled_at IS NULL, limit_reset
    FROM api_key WHERE id = ANY($3::text::bigint[])
"""

# The first hold of a key with a limit: two processes may come at once, and a row that is not there cannot be locked.
_ADD_SPENDS = """
INSERT INTO key_spend (key_id, spent, held) SELECT key_id, 0, 0 FROM unnest($1::bigint[]) AS new(key_id)
ON CONFLICT DO NOTHING
"""

# Accounts of which somebody else has locked the balance, or the spend of a key.
_LOCKED_BY_OTHERS = """
WITH money AS MATERIALIZED (
    SELECT account_id FROM balance WHERE account_id = ANY($1::text::bigint[]) FOR UPDATE SKIP LOCKED
), spend AS MATERIALIZED (
    SELECT key_id FROM key_spend WHERE key_id = ANY($2::text::bigint[]) FOR UPDATE SKIP LOCKED
)
SELECT account_id FROM balance
    WHERE account_id = ANY($1::text::bigint[]) AND account_id NOT IN (SELECT account_id FROM money)
UNION SELECT account_id FROM key_spend JOIN api_key ON api_key.id = key_id
    WHERE key_id = ANY($2::text::bigint[]) AND key_id NOT IN (SELECT key_id FROM spend)
"""

_RECALL_HOLDS = """
SELECT hold.id, account_id, key_id, amount, limited, tokens, period,
    (SELECT array_agg(step ORDER BY step) FROM hold_step WHERE hold_id = hold.id),
    (SELECT array_agg(hold_step.amount ORDER BY step) FROM hold_step WHERE hold_id = hold.id),
    EXISTS (SELECT FROM checkpoint WHERE hold_id = hold.id)
FROM hold
WHERE hold.id = ANY($1::bigint[]) AND NOT EXISTS (SELECT FROM usage WHERE hold_id = hold.id)
"""
_RECALL_ENDS = f"SELECT {USAGE_COLUMNS} FROM usage WHERE hold_id = ANY($1::bigint[])"  # noqa: S608
_RECALL_ALLOWANCES = """
SELECT account_id, period, included, used, held FROM allowance
WHERE (account_id, period) IN (SELECT * FROM unnest($1::bigint[], $2::bigint[]))
"""
_RECALL_CLAIM = f"{CLAIM} WHERE claim.account_id = $1 AND name = $2"
_RECALL_POSTS = "SELECT idempotency_key FROM journal WHERE idempotency_key = ANY($1::text[])"

_SMALL = frozenset({"outcome", "status", "flags"})
# The columns of `usage` that are no numbers. One that is follows them.
_OTHERS = {"finish": "text", "raw": "bytea", "attempts": "bytea", "meters": "text"}
_AFTER_OTHERS = 1
_USAGE_ARRAYS = ", ".join(
    f"${place}::{_OTHERS.get(column) or ('text::smallint' if column in _SMALL else 'text::bigint')}[]"
    for place, column in enumerate(USAGE_COLUMNS.split(", "), 17)
)

_WRITE = f"""
WITH held AS (
    INSERT INTO hold (id, account_id, key_id, amount, limited, expires_at, tokens, period)
    SELECT * FROM unnest($1::text::bigint[], $2::text::bigint[], $3::text::bigint[], $4::text::bigint[],
        $5::text::boolean[], $6::text::bigint[], $7::text::bigint[], $8::text::bigint[])
    ON CONFLICT DO NOTHING RETURNING 1
), moved AS (
    UPDATE balance SET paid = new.paid, promo = new.promo, held = new.held
    FROM unnest($9::text::bigint[], $10::text::bigint[], $11::text::bigint[], $12::text::bigint[])
        AS new(account_id, paid, promo, held)
    WHERE balance.account_id = new.account_id RETURNING 1
), spent AS (
    UPDATE key_spend SET spent = new.spent, held = new.held, since = new.since
    FROM unnest($13::text::bigint[], $14::text::bigint[], $15::text::bigint[], $16::text::bigint[])
        AS new(key_id, spent, held, since)
    WHERE key_spend.key_id = new.key_id RETURNING 1
), ended AS (
    INSERT INTO usage ({USAGE_COLUMNS})
    SELECT * FROM unnest({_USAGE_ARRAYS})
    ON CONFLICT DO NOTHING RETURNING 1
)
SELECT (SELECT count(*) FROM held), (SELECT count(*) FROM moved), (SELECT count(*) FROM spent),
    (SELECT count(*) FROM ended)
"""  # noqa: S608

# An extension or a checkpoint of a hold that somebody else has ended collides with nothing by itself.
_WRITE_RARE = """
WITH step AS (
    INSERT INTO hold_step (hold_id, step, amount)
    SELECT * FROM unnest($1::bigint[], $2::integer[], $3::bigint[]) AS new(hold_id, step, amount)
    WHERE NOT EXISTS (SELECT FROM usage WHERE usage.hold_id = new.hold_id)
    ON CONFLICT DO NOTHING RETURNING 1
), noted AS (
    INSERT INTO checkpoint (hold_id, charge, record)
    SELECT * FROM unnest($4::bigint[], $5::bigint[], $6::bytea[]) AS new(hold_id, charge, record)
    WHERE NOT EXISTS (SELECT FROM usage WHERE usage.hold_id = new.hold_id)
    ON CONFLICT (hold_id) DO UPDATE SET charge = excluded.charge, record = excluded.record RETURNING 1
), forgotten AS (
    DELETE FROM checkpoint WHERE hold_id = ANY($7::bigint[])
), posted AS (
    INSERT INTO journal (idempotency_key, kind, account_id, reason, actor, created_at)
    SELECT * FROM unnest($8::text[], $9::text[], $10::bigint[], $11::text[], $12::text[], $13::bigint[])
    ON CONFLICT DO NOTHING RETURNING id, idempotency_key
), entered AS (
    INSERT INTO entry (journal_id, line, book, amount)
    SELECT posted.id, new.line, new.book, new.amount
    FROM unnest($14::text[], $15::smallint[], $16::text[], $17::bigint[]) AS new(idempotency_key, line, book, amount)
    JOIN posted USING (idempotency_key)
), allowed AS (
    INSERT INTO allowance (account_id, period, included, used, held)
    SELECT * FROM unnest($18::bigint[], $19::bigint[], $20::bigint[], $21::bigint[], $22::bigint[])
    ON CONFLICT (account_id, period)
    DO UPDATE SET included = excluded.included, used = excluded.used, held = excluded.held
), claimed AS (
    INSERT INTO claim (account_id, name, digest, hold_id, created_at)
    SELECT * FROM unnest($23::bigint[], $24::bytea[], $25::bytea[], $26::bigint[], $27::bigint[])
    ON CONFLICT (account_id, name)
    DO UPDATE SET digest = excluded.digest, hold_id = excluded.hold_id, created_at = excluded.created_at
)
SELECT (SELECT count(*) FROM step), (SELECT count(*) FROM noted), (SELECT count(*) FROM posted)
"""

# One round trip. `SET` is also what fails in a transaction that has failed, of which a COMMIT would report success. The
# message is the least that makes a transaction wait for the log, and for a synchronous standby.
_COMMIT = """
SET LOCAL synchronous_commit TO off; COMMIT;
BEGIN; SELECT pg_logical_emit_message(true, 'tollbridge', ''); COMMIT;
BEGIN"""

_NO_ENDS: list[tuple[Any, ...]] = [()] * len(USAGE_COLUMNS.split(", "))
_ENCODE = msgspec.json.Encoder().encode


class Swallowed(TollbridgeError):
    """A row of the decision was there already: roll back, and decide again on what is stored."""


class Books:
    """The statements of a batch, prepared on one connection that nobody else uses."""

    def __init__(self, connection: Any, epoch: int) -> None:
        self.connection = connection
        # When the statement that runs now was sent (time.monotonic); None between statements.
        self.sent_at: float | None = None
        # Whether the outcome of the transaction is in the server's hands alone: its COMMIT has been sent.
        self.committing = False
        self._epoch = epoch
        # Whether a transaction runs. One that has only begun holds nothing.
        self.begun = False
        self._lock: Any = None
        self._write: Any = None
        self._write_rare: Any = None

    @classmethod
    async def open(cls, connection: Any, epoch: int) -> Self:
        books = cls(connection, epoch)
        books._lock = await connection.prepare(_LOCK)
        books._write = await connection.prepare(_WRITE)
        books._write_rare = await connection.prepare(_WRITE_RARE)
        return books

    @property
    def closed(self) -> bool:
        return bool(self.connection.is_closed())

    async def apply(
        self, operations: Sequence[Operation], remembered: Mapping[int, OpenHold] | None
    ) -> tuple[Decision, dict[int, OpenHold]]:
        """Everything but the COMMIT: the decision, and the batch's holds as they are once it is committed.

        `remembered` None: nothing is believed, and a hold of the batch may have been made already.
        Raises `Swallowed`, ValueError for an amount out of range, or what the driver raises; then `rollback()`.
        """
        need = _Need(operations, remembered)
        await self._begin()
        state, now, spendless = await self._locked(need)
        if spendless:
            await self._run(self.connection.execute, _ADD_SPENDS, spendless)
            state, now, _ = await self._locked(need)
        state.holds = need.holds
        if state.fenced:
            need = _Need(operations, None)
            state.holds = {}
        if need.recall or need.posts:
            await self._recall(need, state)
        periods = need.periods | {(hold.account_id, hold.period) for hold in state.holds.values() if hold.period}
        if periods:
            accounts, months = zip(*periods, strict=True)
            for row in await self._run(self.connection.fetch, _RECALL_ALLOWANCES, accounts, months):
                state.allowances[row[0], row[1]] = Allowance(*row)
        for of in need.claims:
            row = await self._run(self.connection.fetchrow, _RECALL_CLAIM, *of)
            if row is not None:
                state.claims[of] = claimant(row)
        decision = decide(state, operations, now)
        await self._store(decision, now)
        return decision, state.holds

    async def commit(self) -> None:
        """Return when it is durable, and the next transaction has begun."""
        self.committing = True
        await self._run(self.connection.execute, _COMMIT)
        self.committing = False

    async def rollback(self) -> None:
        self.committing = False
        if self.begun:
            self.begun = False
            await self._run(self.connection.execute, "ROLLBACK")

    async def locked_by_others(self, operations: Sequence[Operation]) -> set[int]:
        """The accounts for which these operations would have to wait now. In a transaction of its own."""
        accounts = {op.account_id for op in operations}
        keys = {op.key_id for op in operations if not isinstance(op, Post)}
        await self._begin()
        rows = await self._run(self.connection.fetch, _LOCKED_BY_OTHERS, _numbers(accounts), _numbers(keys))
        await self.rollback()
        return {row[0] for row in rows}

    async def _begin(self) -> None:
        if not self.begun:
            await self._run(self.connection.execute, "BEGIN")
            self.begun = True

    async def _locked(self, need: "_Need") -> tuple[State, int, list[int]]:
        return _state(await self._run(self._lock.fetch, self._epoch, _numbers(need.accounts), _numbers(need.keys)))

    async def _recall(self, need: "_Need", state: State) -> None:
        if need.recall:
            for row in await self._run(self.connection.fetch, _RECALL_HOLDS, need.recall):
                *hold, steps, amounts, checkpointed = row
                stored = dict(zip(steps or (), amounts or (), strict=True))
                state.holds[row[0]] = opened(hold, stored, checkpointed)
            for row in await self._run(self.connection.fetch, _RECALL_ENDS, need.recall):
                end = end_row(tuple(row))
                state.ends[end.hold] = end
        keys = [*need.posts, *(f"late/{hold}" for hold in state.ends)]
        if keys:
            state.posted = {row[0] for row in await self._run(self.connection.fetch, _RECALL_POSTS, keys)}

    async def _store(self, decision: Decision, now: int) -> None:
        # Rare rows first: their guards must not see the ends of this very batch.
        if _is_rare(decision):
            expected = (len(decision.steps), len(decision.checkpoints), len(decision.posts))
            stored = await self._run(self._write_rare.fetchrow, *_rare_columns(decision, now))
            if tuple(stored) != expected:
                raise Swallowed
        if decision.holds or decision.ends or decision.balances:
            expected_hot = (len(decision.holds), len(decision.balances), len(decision.keys), len(decision.ends))
            stored = await self._run(self._write.fetchrow, *_columns(decision))
            if tuple(stored) != expected_hot:
                raise Swallowed

    async def _run(self, statement: Any, *args: Any) -> Any:
        self.sent_at = time.monotonic()
        try:
            return await statement(*args)
        finally:
            self.sent_at = None


def _is_rare(decision: Decision) -> bool:
    more = decision.steps or decision.checkpoints or decision.forgotten or decision.posts
    return bool(more or decision.allowances or decision.claims)


class _Need:
    """Which rows a batch needs. `holds` are known without asking; those of `recall` must be read."""

    def __init__(self, operations: Sequence[Operation], remembered: Mapping[int, OpenHold] | None) -> None:
        self.accounts: set[int] = set()
        self.keys: set[int] = set()
        self.holds: dict[int, OpenHold] = {}
        self.recall: list[int] = []
        self.posts: list[str] = []
        self.periods: set[tuple[int, int]] = set()
        self.claims: set[tuple[int, bytes]] = set()
        made: set[int] = set()
        for op in operations:
            self.accounts.add(op.account_id)
            if isinstance(op, Hold):
                self.keys.add(op.key_id)
                made.add(op.id)
                if op.claim is not None:
                    self.claims.add((op.account_id, op.claim.name))
                if op.period:
                    self.periods.add((op.account_id, op.period))
                if remembered is None:
                    self.recall.append(op.id)
            elif isinstance(op, Post):
                self.posts.append(op.idempotency_key)
            elif op.hold not in made:
                self._running(op, remembered.get(op.hold) if remembered is not None else None)

    def _running(self, op: End | Extend | Checkpoint, known: OpenHold | None) -> None:
        if known is None:
            self.keys.add(op.key_id)
            self.recall.append(op.hold)
            return
        if known.limited:
            self.keys.add(op.key_id)
        if isinstance(op, Extend) and op.hold not in self.holds:
            # It will be changed, and the transaction may yet fail.
            known = msgspec.structs.replace(known, steps=dict(known.steps))
        self.holds.setdefault(op.hold, known)


def _state(rows: Iterable[Any]) -> tuple[State, int, list[int]]:
    """What `_LOCK` returned, the database's time, and the keys that have a limit but no spend yet."""
    balances: dict[int, Balance] = {}
    keys: dict[int, KeyState] = {}
    spends: dict[int, tuple[int, int, int | None]] = {}
    now, fenced = 0, True
    for kind, id_, a, b, c, flag, reset in rows:
        if kind == 1:
            balances[id_] = Balance(id_, a, b, c, flag)
        elif kind == 3:
            keys[id_] = KeyState(id_, a, flag, b, 0, 0, c, reset and Reset(reset))
        elif kind == 0:
            now, fenced = id_, flag
        else:
            spends[id_] = a, b, c
    for key_id, (spent, held, since) in spends.items():
        key = keys[key_id]
        key.spent, key.held, key.since = spent, held, since or 0
    spendless = sorted(key_id for key_id, key in keys.items() if key.limit is not None and key_id not in spends)
    return State(balances=balances, keys=keys, holds={}, ends={}, posted=set(), fenced=fenced), now, spendless


def _columns(decision: Decision) -> list[Any]:
    """The arguments of `_WRITE`."""
    holds = decision.holds
    firsts = [first_of(hold) for hold in holds]
    balances = decision.balances.values()
    keys = decision.keys.values()
    ended = list(zip(*map(usage_row, decision.ends), strict=True)) or _NO_ENDS
    numbers: list[Iterable[int | None]] = [
        [hold.id for hold in holds],
        [hold.account_id for hold in holds],
        [hold.key_id for hold in holds],
        [amount for amount, _, _ in firsts],
        [hold.limited for hold in holds],
        [hold.expires_at for hold in holds],
        [tokens for _, tokens, _ in firsts],
        [period for _, _, period in firsts],
        decision.balances,
        [balance.paid for balance in balances],
        [balance.promo for balance in balances],
        [balance.held for balance in balances],
        decision.keys,
        [key.spent for key in keys],
        [key.held for key in keys],
        [key.since or None for key in keys],
        *ended[: -len(_OTHERS) - _AFTER_OTHERS],
    ]
    others, after = ended[-len(_OTHERS) - _AFTER_OTHERS : -_AFTER_OTHERS], ended[-_AFTER_OTHERS:]
    return [*map(_numbers, numbers), *others, *map(_numbers, after)]


def _numbers(values: Iterable[int | None]) -> str:
    """As the text of an array of PostgreSQL, which is that of JSON but for its brackets."""
    return "{" + _ENCODE(list(values))[1:-1].decode() + "}"


def _rare_columns(decision: Decision, now: int) -> list[Sequence[Any]]:
    """The arguments of `_WRITE_RARE`."""
    checkpoints = decision.checkpoints.values()
    posts = decision.posts
    entries = [(post.idempotency_key, line, entry) for post in posts for line, entry in enumerate(post.entries)]
    return [
        [hold for hold, _, _ in decision.steps],
        [step for _, step, _ in decision.steps],
        [amount for _, _, amount in decision.steps],
        list(decision.checkpoints),
        [checkpoint.charge for checkpoint in checkpoints],
        [encode_record(checkpoint.record) for checkpoint in checkpoints],
        decision.forgotten,
        [post.idempotency_key for post in posts],
        [post.kind.value for post in posts],
        [post.account_id for post in posts],
        [post.reason for post in posts],
        [post.actor for post in posts],
        [now] * len(posts),
        [key for key, _, _ in entries],
        [line for _, line, _ in entries],
        [entry.book.value for _, _, entry in entries],
        [entry.amount for _, _, entry in entries],
        *([getattr(each, name) for each in decision.allowances.values()] for name in Allowance.__struct_fields__),
        [account_id for account_id, _ in decision.claims],
        [name for _, name in decision.claims],
        *([getattr(each, name) for each in decision.claims.values()] for name in ("request", "hold", "created_at")),
    ]
