"""G24: whole gateways on virtual time, by seeds. What ever failed stays in `failed`."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from tests.simulation.failed import FAILED_ONCE
from tests.simulation.plan import LASTS_S, draw
from tests.simulation.shrink import shrink
from tests.simulation.simulation import simulate

from tollbridge.core import ledger
from tollbridge.core.ledger import Decision, Hold, Operation, State
from tollbridge.limits import memory
from tollbridge.store.ledger import postgres_books
from tollbridge.store.ledger.postgres import PostgresLedger

# In groups, so that none comes near a test's time limit on a slow machine.
GROUP, GROUPS = 20, 6
SOAK_GROUP, SOAK_GROUPS = 1_000, 20
# A wrong product is found by one of so many seeds.
MOST_TRIED = 200


@pytest.mark.parametrize("what", FAILED_ONCE)
def test_what_failed_once(what: str) -> None:
    result = simulate(*FAILED_ONCE[what])
    assert result.failure is None, (result.failure, result.trace)


def play(seeds: range) -> None:
    for seed in seeds:
        result = simulate(seed)
        assert result.failure is None, (result.failure, f"python -m tests.simulation --seeds {seed}")


@pytest.mark.parametrize("group", range(GROUPS))
def test_seeds(group: int) -> None:
    play(range(group * GROUP, (group + 1) * GROUP))


@pytest.mark.soak
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("group", range(SOAK_GROUPS))
def test_many_seeds(group: int) -> None:
    play(range(group * SOAK_GROUP, (group + 1) * SOAK_GROUP))


def test_a_seed_says_all_that_happens() -> None:
    """In another process, with another order of sets and other secrets."""
    command = [sys.executable, "-c", "from tests.simulation.simulation import simulate; print(simulate(17))"]
    # What was played before in this process leaves nothing behind.
    simulate(18)
    runs = {
        subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert runs == {f"{simulate(17)}\n"}


# --- a wrong product is found out ---------------------------------------------------------------------------------


def deciding(change: Callable[[State], None]) -> AbstractContextManager[Any]:
    """The ledger decides on a state that is not what is stored."""

    def decide(state: State, operations: list[Operation], now: int) -> Decision:
        change(state)
        return ledger.decide(state, operations, now)

    return patch.object(postgres_books, "decide", decide)


def _put_back_with_new_ids(self: PostgresLedger, *args: Any) -> None:
    _PUT_BACK(self, *args)
    for waiting in self._queue:
        if isinstance(waiting.op, Hold) and waiting.unknown:
            waiting.op = msgspec.structs.replace(waiting.op, id=self.next_id())


_PUT_BACK = PostgresLedger._put_back
_KEEP = PostgresLedger._keep
_MOVE = ledger._move_held
_CORRECT = memory._Log.correct
_UNTIL_DISK = "SET LOCAL synchronous_commit TO off; COMMIT; BEGIN"


def _forget_to_spool(self: PostgresLedger, waiting: Any) -> None:
    for one in waiting:
        one.spooled = True
    self._spooled += len(waiting)
    self._kept(waiting, None)


def _revive(state: State) -> None:
    for key in state.keys.values():
        key.live = True


def _as_it_was(state: State, op: ledger.End, stored: ledger.EndRow, out: Decision) -> ledger.Verdict:
    return ledger.Ended(charged=stored.charge, promo=stored.promo, loss=stored.loss, available=0, repeated=True)


WRONG: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "the fence is not looked at": lambda: deciding(lambda state: setattr(state, "fenced", False)),
    "a hold is given back twice": lambda: patch.object(
        ledger, "_move_held", lambda balance, key, amount, out: _MOVE(balance, key, min(amount, 2 * amount), out)
    ),
    "a hold is not limited by the balance": lambda: patch.object(
        ledger, "_reserve", lambda balance, key, want, least: want
    ),
    "a charge is not limited by the balance": lambda: patch.object(
        ledger, "_chargeable", lambda balance, key, held: 1 << 60
    ),
    "an unknown COMMIT is tried again with new ids": lambda: patch.object(
        PostgresLedger, "_put_back", _put_back_with_new_ids
    ),
    "an end counts as safe before it is on a disk": lambda: patch.object(PostgresLedger, "_keep", _forget_to_spool),
    "a verdict is given before the log is flushed": lambda: patch.object(postgres_books, "_COMMIT", _UNTIL_DISK),
    "a claim is not looked at": lambda: deciding(lambda state: state.claims.clear()),
    "a revoked key is not looked at": lambda: deciding(_revive),
    "a limiter gives back too much": lambda: patch.object(
        memory._Log, "correct", lambda self, entry, difference, now: _CORRECT(self, entry, 3 * difference, now)
    ),
    "what ends after it was swept is not charged": lambda: patch.object(ledger, "_end_again", _as_it_was),
}


# Few seeds see anything of it: where to begin.
RARE = {"an unknown COMMIT is tried again with new ids": 120}
# Only seen when a node is away for so long that the others end what it left: few seeds have that.
OF_ABSENCE = {"the fence is not looked at", "what ends after it was swept is not charged"}


def found_by(name: str) -> tuple[int, str] | None:
    seeds = (
        seed for seed in itertools.count(RARE.get(name, 0)) if name not in OF_ABSENCE or draw(seed)[-1].at > 2 * LASTS_S
    )
    with WRONG[name]():
        for seed in itertools.islice(seeds, MOST_TRIED):
            result = simulate(seed)
            if result.failure is not None:
                return seed, result.failure
    return None


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_product_is_found_out(wrong: str) -> None:
    assert found_by(wrong) is not None


def test_a_failing_plan_is_made_smaller() -> None:
    wrong = WRONG["a hold is given back twice"]
    with wrong():
        events = shrink(draw(1), lambda fewer: simulate(1, fewer).failure is not None)
    assert len(events) == 1
