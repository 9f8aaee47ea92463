"""What is always true of the books, checked after every COMMIT, and what is true in the end.

None of this uses the code that it checks: sums are SQL over the rows that never change.
"""

import asyncio
import sqlite3
from collections import defaultdict

from tollbridge.core.ledger import COUNTER_BITS, End, Ended, Held, Hold, Operation, Post, Posted, Spooled, Verdict
from tollbridge.store.processes import TTL_MS
from tollbridge.values import Outcome

_HELD = """
SELECT hold.account_id, SUM(hold.amount + COALESCE((SELECT SUM(amount) FROM hold_step WHERE hold_id = hold.id), 0))
FROM hold LEFT JOIN usage ON usage.hold_id = hold.id
WHERE usage.hold_id IS NULL AND hold.tokens IS NULL GROUP BY 1
"""
_CHARGED = "SELECT account_id, SUM(charge - promo), SUM(promo) FROM usage GROUP BY 1"
_POSTED = """
SELECT account_id, SUM(CASE WHEN book = 'customer_paid' THEN amount ELSE 0 END),
    SUM(CASE WHEN book = 'customer_promo' THEN amount ELSE 0 END), SUM(amount) FROM journal
JOIN entry ON journal_id = journal.id GROUP BY 1
"""
_SPENT = """
SELECT key_spend.key_id, spent, held, limit_nano FROM key_spend JOIN api_key ON api_key.id = key_spend.key_id
"""
_TOO_MUCH = """
SELECT usage.hold_id FROM usage JOIN hold ON hold.id = usage.hold_id
WHERE usage.charge < 0 OR usage.promo < 0 OR usage.promo > usage.charge OR usage.loss < 0
"""
_BY_FENCED = f"""
SELECT hold.id, epoch FROM process
JOIN hold ON hold.id > epoch << {COUNTER_BITS} AND hold.id < (epoch + 1) << {COUNTER_BITS}
WHERE fenced_at IS NOT NULL AND expires_at - {TTL_MS} > fenced_at
"""
_BY_REVOKED = "SELECT id, key_id, expires_at FROM hold WHERE id > ? AND key_id = ?"


class Broken(AssertionError):
    """Something that must always be true is not."""


class Books:
    """Checks what is committed. `overdrawn`: accounts whose balance may be below zero, after a refund or dispute."""

    def __init__(self) -> None:
        self.overdrawn: set[int] = set()
        # Key: the database's time (ms) when its revocation was committed.
        self.revoked: dict[int, int] = {}
        self.looks = 0

    def check(self, reader: sqlite3.Connection) -> None:
        self.looks += 1
        ask = reader.execute
        held = dict(ask(_HELD).fetchall())
        charged = {row[0]: row[1:] for row in ask(_CHARGED)}
        posted = {row[0]: row[1:] for row in ask(_POSTED)}
        for account, paid, promo, reserved in ask("SELECT account_id, paid, promo, held FROM balance"):
            of_paid, of_promo, rest = posted.get(account, (0, 0, 0))
            used_paid, used_promo = charged.get(account, (0, 0))
            _require(rest == 0, f"the entries of account {account} sum to {rest}")
            _require(paid == of_paid - used_paid, f"account {account}: paid {paid}, rows say {of_paid - used_paid}")
            _require(promo == of_promo - used_promo, f"account {account}: promo {promo}, not {of_promo - used_promo}")
            _require(reserved == held.get(account, 0), f"account {account}: held {reserved}, not {held.get(account)}")
            _require(promo >= 0 and reserved >= 0, f"account {account}: promo {promo}, held {reserved}")
            free = paid + promo - reserved
            _require(free >= 0 or account in self.overdrawn, f"account {account} is overspent by {-free}")
        for key, spent, reserved, limit in ask(_SPENT):
            _require(spent >= 0 and reserved >= 0, f"key {key}: spent {spent}, held {reserved}")
            _require(limit is None or spent + reserved <= limit, f"key {key}: {spent} + {reserved} of {limit}")
        for account, used, reserved, included in ask("SELECT account_id, used, held, included FROM allowance"):
            _require(min(used, reserved) >= 0, f"allowance of {account}: used {used}, held {reserved}")
            _require(used + reserved <= included, f"allowance of {account}: {used} + {reserved} of {included}")
        wrong = ask(_TOO_MUCH).fetchall()
        _require(not wrong, f"impossible charges of holds {wrong}")
        wrong = ask(_BY_FENCED).fetchall()
        _require(not wrong, f"holds were made by processes after they had been fenced (hold, epoch): {wrong}")
        for key, at in self.revoked.items():
            for hold, _, expires_at in ask(_BY_REVOKED, (0, key)):
                _require(expires_at - TTL_MS <= at, f"hold {hold} was made with key {key} after it was revoked")


class Witness:
    """What processes were told is durable. It must still be there in the end, whatever happened since."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}
        self.ended: dict[int, list[tuple[End, Verdict]]] = defaultdict(list)
        self.posted: set[str] = set()
        # Everything requested, acknowledged or not: a process may have died before it heard.
        self.asked: dict[int, list[End]] = defaultdict(list)

    def see(self, op: Operation, future: "asyncio.Future[Verdict]") -> None:
        if isinstance(op, End):
            self.asked[op.hold].append(op)
        future.add_done_callback(lambda done: self._told(op, done))

    def _told(self, op: Operation, done: "asyncio.Future[Verdict]") -> None:
        if done.cancelled() or done.exception() is not None:
            return
        verdict = done.result()
        if isinstance(op, Hold) and isinstance(verdict, Held):
            self.held[op.id] = verdict.amount
        elif isinstance(op, End) and isinstance(verdict, Ended | Spooled):
            self.ended[op.hold].append((op, verdict))
        elif isinstance(op, Post) and isinstance(verdict, Posted):
            self.posted.add(op.idempotency_key)

    def check(self, reader: sqlite3.Connection) -> None:
        """All of it is in the books, once."""
        holds = {row[0] for row in reader.execute("SELECT id FROM hold")}
        ends = {
            row[0]: row[1:]
            for row in reader.execute("SELECT hold_id, charge, loss, outcome, allowance FROM usage").fetchall()
        }
        late = _late(reader)
        posted = {row[0] for row in reader.execute("SELECT idempotency_key FROM journal")}
        _require(holds == ends.keys(), f"holds without an end: {holds - ends.keys()}")
        _require(self.posted <= posted, f"acknowledged and not in the journal: {self.posted - posted}")
        lost = self.held.keys() - holds
        _require(not lost, f"holds that were granted and are not stored: {lost}")
        # A hold whose fate its process never learned is given back by an end, which finds nothing if it was not stored.
        real = {hold for hold, told in self.ended.items() if hold in self.held or any(op.charge for op, _ in told)}
        lost = real - ends.keys()
        _require(not lost, f"ends that were acknowledged and are not stored: {lost}")
        for hold, asked in self.asked.items():
            if hold not in ends or ends[hold][3] is not None:
                continue
            charge, loss, outcome, _ = ends[hold]
            due = charge + loss + late.get(hold, 0)
            if outcome == Outcome.SWEPT:
                # Anything learned only later is charged on top, once.
                real = {max(charge + loss, op.charge) for op in asked if op.record.outcome is not Outcome.SWEPT}
                known = {op.charge for op, _ in self.ended[hold] if op.record.outcome is not Outcome.SWEPT}
                _require(due in real | {charge + loss}, f"hold {hold} was charged {due}, ended as {real}")
                _require(not known or due >= min(known), f"hold {hold} was charged {due}, known: {known}")
            else:
                _require(hold not in late, f"hold {hold} was not swept, and was charged more later")
                real = {op.charge for op in asked}
                _require(due in real, f"hold {hold} was charged {due}, ended as {real}")
            for op, verdict in self.ended[hold]:
                if isinstance(verdict, Ended):
                    final = charge + late.get(hold, 0)
                    _require(verdict.charged <= final, f"hold {hold}: told {verdict.charged}, charged {final}: {op}")


def _late(reader: sqlite3.Connection) -> dict[int, int]:
    """What was charged or written off later, by hold."""
    rows = reader.execute(
        "SELECT idempotency_key, -SUM(CASE WHEN book LIKE 'customer%' OR book = 'loss' THEN amount ELSE 0 END) "
        "FROM journal JOIN entry ON journal_id = journal.id WHERE kind = 'late' GROUP BY 1"
    )
    return {int(key.removeprefix("late/")): amount for key, amount in rows}


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Broken(otherwise)
