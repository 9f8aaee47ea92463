"""A5–A9: any interleaving of what can happen to the books, against a model that is written another way.

The model knows nothing of `decide`: it keeps one list of what happened and computes everything from it each time.
"""

import copy
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test
from tests.core.posts import refund

from tollbridge.core.ledger import (
    MAX_AMOUNT,
    Balance,
    Book,
    Checkpoint,
    Claim,
    Claimant,
    Claimed,
    Decision,
    End,
    Ended,
    EndRow,
    Entry,
    Extend,
    Held,
    Hold,
    KeyState,
    Kind,
    Noted,
    OpenHold,
    Operation,
    Post,
    Posted,
    Record,
    Refusal,
    Refused,
    State,
    Verdict,
    decide,
    epoch_of,
    grant,
    hold_id,
    top_up,
    usage_entries,
)
from tollbridge.core.periods import Reset
from tollbridge.values import Outcome

ACCOUNTS = (1, 2)
# Key → account, limit.
KEYS = {10: (1, None), 11: (1, 300), 20: (2, None), 21: (2, 40)}
amounts = st.integers(0, 120)


def record(outcome: Outcome = Outcome.COMPLETED, cost: int = 0) -> Record:
    return Record(started_at=0, duration_ms=0, price_version=0, outcome=outcome, cost=cost)


class Store:
    """What a database does: keep the rows of decisions, and give out copies of them."""

    def __init__(self) -> None:
        self.state = State(
            balances={account: Balance(account, 0, 0, 0) for account in ACCOUNTS},
            keys={key: KeyState(key, account, live=True, limit=limit) for key, (account, limit) in KEYS.items()},
            holds={},
            ends={},
            posted=set(),
        )
        self.usage: dict[int, EndRow] = {}
        self.journal: dict[str, Post] = {}
        self.hold_rows: dict[int, int] = {}
        self.checkpoints: dict[int, Checkpoint] = {}

    def apply(self, operations: list[Operation], now: int) -> list[Verdict]:
        """One batch. Only what the decision says reaches the rows."""
        stored = self.state
        state = State(
            balances={id_: copy.copy(balance) for id_, balance in stored.balances.items()},
            keys={id_: copy.copy(key) for id_, key in stored.keys.items()},
            holds={id_: copy.deepcopy(hold) for id_, hold in stored.holds.items()},
            ends=dict(stored.ends),
            posted=set(stored.posted),
            allowances={of: copy.copy(allowance) for of, allowance in stored.allowances.items()},
        )
        decision = decide(state, operations, now)
        self.write(decision)
        # An engine loads what is stored: so does the next batch here.
        state.balances = {**stored.balances, **decision.balances}
        state.keys = {**stored.keys, **decision.keys}
        state.allowances = {**stored.allowances, **decision.allowances}
        self.state = state
        return decision.verdicts

    def write(self, decision: Decision) -> None:
        for hold in decision.holds:
            assert hold.id not in self.hold_rows, "a hold was written twice"
            self.hold_rows[hold.id] = (hold.amount if hold.tokens is None else hold.tokens) - sum(hold.steps.values())
        for hold_id_, step, amount in decision.steps:
            assert amount >= 0
            assert step > 0
            assert hold_id_ in self.hold_rows
        for end in decision.ends:
            assert end.hold not in self.usage, "a hold ended twice"
            self.usage[end.hold] = end
        for post in decision.posts:
            assert post.idempotency_key not in self.journal, "a transaction happened twice"
            self.journal[post.idempotency_key] = post
        self.checkpoints.update(decision.checkpoints)
        for hold_id_ in decision.forgotten:
            self.checkpoints.pop(hold_id_, None)


class Books(RuleBasedStateMachine):
    """Batches of one operation or of many; the same operations again, late, for the wrong account, out of order."""

    holds: Bundle[Hold] = Bundle("holds")
    done: Bundle[Operation] = Bundle("done")
    # On tokens where there were enough of them, else on money.
    calls: Bundle[Hold] = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.now = 1_000
        self.counter = 0
        self.steps: dict[int, int] = {}
        # The model: amounts by hold, in the order in which they were granted.
        self.held: dict[int, int] = {}
        self.open: set[int] = set()
        self.of: dict[int, Hold] = {}
        self.first: dict[int, Ended] = {}
        self.overdrawn: set[int] = set()
        self.tokens: dict[int, int] = {}
        self.most_included: dict[tuple[int, int], int] = {}
        for account in ACCOUNTS:
            self.top_up(account, 300)
            self.grant(account, 50)

    # --- what the model says ---

    def balance(self, account: int) -> tuple[int, int, int]:
        """(paid, promo, held) from everything that ever happened."""
        paid = promo = 0
        posts = [post for post in self.store.journal.values() if post.account_id == account]
        ends = [end for end in self.store.usage.values() if end.account_id == account]
        for entries in [*(post.entries for post in posts), *map(entries_of_end, ends)]:
            paid += sum(entry.amount for entry in entries if entry.book is Book.CUSTOMER_PAID)
            promo += sum(entry.amount for entry in entries if entry.book is Book.CUSTOMER_PROMO)
        return paid, promo, sum(self.held[hold] for hold in self.open if self.of[hold].account_id == account)

    def available(self, account: int) -> int:
        paid, promo, held = self.balance(account)
        return paid + promo - held

    def left(self, key: int) -> int | None:
        limit = KEYS[key][1]
        if limit is None:
            return None
        return limit - self.spent(key) - sum(self.held[hold] for hold in self.open if self.of[hold].key_id == key)

    def spent(self, key: int) -> int:
        """What all requests of a key were charged, in time and late."""
        mine = [end for end in self.store.usage.values() if end.key_id == key]
        late = [self.store.journal[f"late/{end.hold}"] for end in mine if f"late/{end.hold}" in self.store.journal]
        entries = [entry for post in late for entry in post.entries]
        more = sum(entry.amount for entry in entries if entry.book in (Book.CUSTOMER_PAID, Book.CUSTOMER_PROMO))
        return sum(end.charge for end in mine) - more

    def one(self, op: Operation) -> Verdict:
        (verdict,) = self.store.apply([op], self.now)
        return verdict

    # --- what can happen ---

    @rule(target=holds, key=st.sampled_from(sorted(KEYS)), want=amounts, least=amounts)
    def hold(self, key: int, want: int, least: int) -> Any:
        want, least = max(want, least), min(want, least)
        account = KEYS[key][0]
        self.counter += 1
        op = Hold(id=hold_id(1, self.counter), account_id=account, key_id=key, want=want, least=least)
        available, left = self.available(account), self.left(key)
        verdict = self.one(op)
        if isinstance(verdict, Held):
            expected = min(want, max(0, available), *([] if left is None else [max(0, left)]))
            assert least <= verdict.amount == expected
            self.held[op.id] = verdict.amount
            self.open.add(op.id)
            self.of[op.id] = op
            assert verdict.available == self.available(account)
            return op
        assert isinstance(verdict, Refused)
        posted = sum(self.balance(account)[:2])
        if verdict.why is Refusal.KEY_LIMIT:
            assert left is not None
            assert least > left
        else:
            assert least > available or posted <= 0
            assert verdict.why is (Refusal.IN_FLIGHT if 0 < least <= posted else Refusal.INSUFFICIENT)
        return multiple()

    @rule(target=done, hold=holds, want=amounts, least=amounts, again=st.booleans())
    def extend(self, hold: Hold, want: int, least: int, again: bool) -> Any:
        want, least = max(want, least), min(want, least)
        step = self.steps.get(hold.id, 0) + (not again or not self.steps.get(hold.id))
        op = Extend(hold=hold.id, account_id=hold.account_id, key_id=hold.key_id, step=step, want=want, least=least)
        available, left, before = self.available(hold.account_id), self.left(hold.key_id), self.held[hold.id]
        verdict = self.one(op)
        if hold.id not in self.open:
            assert verdict == Refused(why=Refusal.NO_HOLD)
        elif step == self.steps.get(hold.id):
            assert verdict == Held(amount=before, available=available)
        elif isinstance(verdict, Held):
            more = verdict.amount - before
            assert least <= more <= min(want, max(0, available), *([] if left is None else [max(0, left)]))
            self.held[hold.id] = verdict.amount
            self.steps[hold.id] = step
        else:
            assert least > available or (left is not None and least > left) or available <= 0
            return multiple()
        return op

    @rule(target=done, hold=holds, charge=st.integers(0, 400), cost=st.integers(0, 50))
    def end(self, hold: Hold, charge: int, cost: int) -> Any:
        """Settle (a charge) or release (0): the first time it counts."""
        op = End(hold=hold.id, account_id=hold.account_id, key_id=hold.key_id, charge=charge, record=record(cost=cost))
        stored = self.store.usage.get(hold.id)
        paid, promo, held = self.balance(hold.account_id)
        own, left = self.held[hold.id], self.left(hold.key_id)
        verdict = self.one(op)
        assert isinstance(verdict, Ended)
        if stored is None:
            self.open.remove(hold.id)
            self.first[hold.id] = verdict
            assert verdict.charged + verdict.loss == charge
            assert not verdict.repeated
            assert verdict.promo == min(verdict.charged, promo)
            # Rule 5: of a balance that a refund has overdrawn, what there is.
            assert verdict.charged <= max(0, paid + promo)
            if paid >= 0 and paid + promo >= held:
                # A7: its own hold and what is available; of a limited key no more than is left.
                most = own + max(0, paid + promo - held)
                if left is not None:
                    most = min(most, own + max(0, left))
                assert verdict.charged == min(charge, most)
        elif verdict.repeated:
            assert (verdict.charged, verdict.promo, verdict.loss) == (stored.charge, stored.promo, stored.loss)
            assert self.balance(hold.account_id) == (paid, promo, held)
        else:
            # A6: swept before it ended; only ever more.
            assert stored.record.outcome is Outcome.SWEPT
            more = verdict.charged - stored.charge
            assert more + verdict.loss == charge - stored.charge > 0
            bounds = [paid + promo - held] if left is None else [paid + promo - held, left]
            assert more == max(0, min(charge - stored.charge, *bounds))
            late = self.store.journal[f"late/{hold.id}"]
            assert late.actor == ("" if left is None else f"key/{hold.key_id}")
            # With what its sweep charged and wrote off, it is all of its price, once.
            assert stored.charge + stored.loss - owed(late) == charge
        assert verdict.available == self.available(hold.account_id)
        return op

    def quota(self, account: int, period: int) -> tuple[int, int]:
        """(used, held) of the tokens of a month from everything that ever happened."""
        of = {id_ for id_, hold in self.of.items() if (hold.account_id, hold.period) == (account, period)}
        used = sum(self.store.usage[id_].allowance or 0 for id_ in of & self.store.usage.keys())
        return used, sum(self.tokens.get(id_, 0) for id_ in of & self.open)

    @rule(
        target=calls,
        key=st.sampled_from(sorted(KEYS)),
        period=st.sampled_from([202612, 202701]),
        included=st.integers(0, 300),
        tokens=st.tuples(amounts, amounts),
        money=amounts,
    )
    def hold_tokens(self, key: int, period: int, included: int, tokens: tuple[int, int], money: int) -> Any:
        """Tokens that the plan includes go before money."""
        account = KEYS[key][0]
        self.counter += 1
        op = Hold(
            id=hold_id(1, self.counter),
            account_id=account,
            key_id=key,
            want=money,
            least=money,
            period=period,
            included=included,
            tokens=max(tokens),
            least_tokens=min(tokens),
        )
        used, held = self.quota(account, period)
        enough = 0 < min(tokens) <= included - used - held
        available, left = self.available(account), self.left(key)
        verdict = self.one(op)
        if isinstance(verdict, Held):
            assert verdict.tokens == (min(max(tokens), included - used - held) if enough else 0)
            assert verdict.amount == 0 or not enough
            self.held[op.id], self.of[op.id] = verdict.amount, op
            self.open.add(op.id)
            if enough:
                self.tokens[op.id] = verdict.tokens
                of = (account, period)
                self.most_included[of] = max(included, self.most_included.get(of, 0))
            return op
        assert isinstance(verdict, Refused)
        assert not enough
        if verdict.why is Refusal.KEY_LIMIT:
            assert left is not None
            assert money > left
        elif verdict.why is Refusal.QUOTA:
            assert money > available or available <= 0
            assert not 0 < min(tokens) <= included - used
        elif verdict.why is Refusal.TOKENS_HELD:
            assert 0 < min(tokens) <= included - used
        else:
            assert verdict.why is Refusal.IN_FLIGHT
            assert 0 < money <= sum(self.balance(account)[:2])
        return multiple()

    @rule(target=done, hold=calls, want=amounts, least=amounts)
    def extend_call(self, hold: Hold, want: int, least: int) -> Any:
        want, least = max(want, least), min(want, least)
        step = self.steps.get(hold.id, 0) + 1
        op = Extend(hold=hold.id, account_id=hold.account_id, key_id=hold.key_id, step=step, want=want, least=least)
        used, held = self.quota(hold.account_id, hold.period)
        kept = self.store.state.allowances.get((hold.account_id, hold.period))
        verdict = self.one(op)
        if hold.id not in self.open:
            assert verdict == Refused(why=Refusal.NO_HOLD)
            return op
        if hold.id in self.tokens:
            assert kept is not None
            left = kept.included - used - held
            assert isinstance(verdict, Held) == (least <= left)
            if isinstance(verdict, Held):
                assert verdict.tokens == self.tokens[hold.id] + min(want, max(0, left))
                self.tokens[hold.id] = verdict.tokens
        if not isinstance(verdict, Held):
            return multiple()
        self.held[hold.id] = verdict.amount
        self.steps[hold.id] = step
        return op

    @rule(target=done, hold=calls, used=st.integers(0, 200), charged=st.booleans(), swept=st.booleans())
    def end_call(self, hold: Hold, used: int, charged: bool, swept: bool) -> Any:
        row = record(Outcome.SWEPT if swept else Outcome.COMPLETED)
        op = End(
            hold=hold.id,
            account_id=hold.account_id,
            key_id=hold.key_id,
            charge=used if charged else 0,
            record=msgspec.structs.replace(row, input=used // 2, output=used - used // 2),
        )
        before, quota = self.balance(hold.account_id), self.quota(hold.account_id, hold.period)
        was_open, own = hold.id in self.open, self.tokens.get(hold.id)
        kept = self.store.state.allowances.get((hold.account_id, hold.period))
        verdict = self.one(op)
        assert isinstance(verdict, Ended)
        self.open.discard(hold.id)
        if own is None:
            return op
        assert (verdict.charged, verdict.promo) == (0, 0)
        lost = used - (self.store.usage[hold.id].allowance or 0) if charged and was_open else 0
        assert verdict.loss == lost
        assert self.balance(hold.account_id) == before
        assert verdict.repeated != was_open
        if was_open:
            assert kept is not None
            there = max(own, kept.included - quota[0] - (quota[1] - own))
            assert self.store.usage[hold.id].allowance == (min(used, there) if charged else 0)
        else:
            assert self.quota(hold.account_id, hold.period) == quota
        return op

    @rule(hold=holds, charge=st.integers(0, 200))
    def checkpoint(self, hold: Hold, charge: int) -> None:
        op = Checkpoint(hold=hold.id, account_id=hold.account_id, key_id=hold.key_id, charge=charge, record=record())
        before = self.balance(hold.account_id)
        assert self.one(op) == Noted()
        assert self.balance(hold.account_id) == before
        assert (hold.id in self.store.checkpoints) == (hold.id in self.open)

    @rule(target=done, hold=holds)
    def sweep(self, hold: Hold) -> Any:
        """Its process has gone: at the last checkpoint, else for nothing."""
        noted = self.store.checkpoints.get(hold.id)
        op = End(
            hold=hold.id,
            account_id=hold.account_id,
            key_id=hold.key_id,
            charge=noted.charge if noted else 0,
            record=record(Outcome.SWEPT),
        )
        was_open = hold.id in self.open
        verdict = self.one(op)
        assert isinstance(verdict, Ended)
        assert verdict.repeated != was_open
        if was_open:
            self.open.remove(hold.id)
            self.first[hold.id] = verdict
        return op

    @rule(target=done, account=st.sampled_from(ACCOUNTS), amount=st.integers(1, 500))
    def top_up(self, account: int, amount: int) -> Any:
        op = top_up(account, amount, idempotency_key=self.key(), reason="", actor="")
        return self.post(op, amount, 0)

    @rule(target=done, account=st.sampled_from(ACCOUNTS), amount=st.integers(1, 200))
    def grant(self, account: int, amount: int) -> Any:
        return self.post(grant(account, amount, idempotency_key=self.key(), reason="", actor=""), 0, amount)

    @rule(target=done, account=st.sampled_from(ACCOUNTS), amount=st.integers(1, 150))
    def refund(self, account: int, amount: int) -> Any:
        op = refund(account, amount, idempotency_key=self.key(), reason="", actor="")
        self.post(op, -amount, 0)
        self.overdrawn.add(account)
        return op

    @rule(account=st.sampled_from(ACCOUNTS), paid=st.integers(-200, 200), promo=st.integers(-200, 200))
    def adjust(self, account: int, paid: int, promo: int) -> None:
        lines = ((Book.CUSTOMER_PAID, paid), (Book.CUSTOMER_PROMO, promo), (Book.LOSS, -paid - promo))
        entries = tuple(Entry(book, amount) for book, amount in lines)
        op = Post(idempotency_key=self.key(), kind=Kind.GRANT, account_id=account, entries=entries)
        before = self.balance(account)
        verdict = self.one(op)
        after = (before[0] + paid, before[1] + promo, before[2])
        if isinstance(verdict, Posted):
            assert self.balance(account) == after
            assert sum(after[:2]) - after[2] >= 0 or paid + promo >= 0
            assert after[0] >= 0 or paid >= 0
        else:
            assert self.balance(account) == before
            assert min(after[0], after[1], after[0] + after[1] - after[2]) < 0

    @rule(op=done)
    def again(self, op: Operation) -> None:
        """Anything sent twice: nothing moves."""
        before = [self.balance(account) for account in ACCOUNTS]
        late = set(self.store.journal)
        self.one(op)
        if set(self.store.journal) == late:
            assert [self.balance(account) for account in ACCOUNTS] == before

    @rule(hold=holds, charge=amounts)
    def end_for_another(self, hold: Hold, charge: int) -> None:
        other = 3 - hold.account_id
        op = End(hold=hold.id, account_id=other, key_id=20, charge=charge, record=record())
        before = [self.balance(account) for account in ACCOUNTS]
        self.one(op)
        assert [self.balance(account) for account in ACCOUNTS] == before

    @rule(ops=st.lists(st.tuples(st.sampled_from(sorted(KEYS)), amounts), min_size=2, max_size=6))
    def batch(self, ops: list[tuple[int, int]]) -> None:
        """Many in one transaction are as many one after the other."""
        holds = []
        for key, want in ops:
            self.counter += 1
            holds.append(Hold(id=hold_id(1, self.counter), account_id=KEYS[key][0], key_id=key, want=want, least=want))
        alone = copy.deepcopy(self.store)
        one_by_one = [alone.apply([op], self.now)[0] for op in holds]
        assert self.store.apply(list(holds), self.now) == one_by_one
        ends: list[Operation] = []
        for op, verdict in zip(holds, one_by_one, strict=True):
            if isinstance(verdict, Held):
                self.held[op.id], self.of[op.id] = verdict.amount, op
                ends += [
                    End(hold=op.id, account_id=op.account_id, key_id=op.key_id, charge=op.want, record=record())
                ] * 2
        for verdict in self.store.apply(ends, self.now)[1::2]:
            assert isinstance(verdict, Ended)
            assert verdict.repeated

    def post(self, op: Post, paid: int, promo: int) -> Post:
        before = self.balance(op.account_id)
        assert isinstance(self.one(op), Posted)
        assert self.balance(op.account_id) == (before[0] + paid, before[1] + promo, before[2])
        return op

    def key(self) -> str:
        self.counter += 1
        return f"key-{self.counter}"

    # --- what is always true ---

    @invariant()
    def the_rows_are_what_happened(self) -> None:
        for account in ACCOUNTS:
            row = self.store.state.balances[account]
            assert (row.paid, row.promo, row.held) == self.balance(account)
            assert row.promo >= 0
            assert row.held >= 0
            if row.available >= 0 and row.paid >= 0:
                self.overdrawn.discard(account)
            if account not in self.overdrawn:
                assert row.available >= 0
                assert row.paid >= 0
        for key, (_, limit) in KEYS.items():
            spend = self.store.state.keys[key]
            mine = [hold for hold in self.open if self.of[hold].key_id == key]
            if limit is not None:
                assert spend.held == sum(self.held[hold] for hold in mine)
                assert spend.spent == self.spent(key)
                assert spend.spent <= limit

    @invariant()
    def tokens_are_what_happened_and_never_more_than_were_included(self) -> None:
        for (account, period), row in self.store.state.allowances.items():
            assert (row.used, row.held) == self.quota(account, period)
            assert row.used + row.held <= self.most_included.get((account, period), 0)
        for end in self.store.usage.values():
            assert (end.allowance is None) == (end.hold not in self.tokens)
            assert end.allowance is None or end.charge == end.loss == 0

    @invariant()
    def every_hold_is_open_or_ended_once(self) -> None:
        assert set(self.store.state.holds) == self.open
        assert set(self.store.usage) | self.open == set(self.store.hold_rows)
        assert not set(self.store.usage) & self.open
        for hold, end in self.store.usage.items():
            assert end.held == self.held[hold]

    @invariant()
    def everything_sums_to_zero(self) -> None:
        transactions = [post.entries for post in self.store.journal.values()]
        transactions += [entries_of_end(end) for end in self.store.usage.values()]
        for entries in transactions:
            assert sum(entry.amount for entry in entries) == 0


@pytest.mark.parametrize(
    "examples", [pytest.param(150, id="short"), pytest.param(10_000, id="long", marks=pytest.mark.soak)]
)
def test_any_interleaving_keeps_the_books(examples: int) -> None:
    run_state_machine_as_test(
        Books, settings=settings(max_examples=examples, stateful_step_count=50, deadline=None, print_blob=True)
    )


# --- single rules -------------------------------------------------------------------------------------------------


def state(paid: int = 0, promo: int = 0, **key: Any) -> State:
    return State(
        balances={1: Balance(1, paid, promo, 0)},
        keys={10: KeyState(10, 1, **{"live": True, **key})},
        holds={},
        ends={},
        posted=set(),
    )


def test_an_id_names_the_process_and_counts() -> None:
    assert epoch_of(hold_id(7, 12345)) == 7
    assert hold_id(7, 1) < hold_id(7, 2) < hold_id(8, 0) < 1 << 63


def test_a_key_that_has_expired_gets_nothing() -> None:
    op = Hold(id=1, account_id=1, key_id=10, want=1, least=1)
    for now, allowed in ((99, True), (100, False), (101, False)):
        (verdict,) = decide(state(paid=10, expires_at=100), [op], now).verdicts
        assert isinstance(verdict, Held) == allowed


def test_a_hold_expires_after_its_time_to_live() -> None:
    op = Hold(id=1, account_id=1, key_id=10, want=1, least=1, ttl_ms=500)
    (hold,) = decide(state(paid=10), [op], 1_000).holds
    assert hold.expires_at == 1_500


@pytest.mark.parametrize("amount", [-1, MAX_AMOUNT, 1 << 63, 1 << 200])
def test_an_amount_out_of_range_is_refused_everywhere(amount: int) -> None:
    """A9: nothing wraps, because nothing of that size comes in."""
    running = OpenHold(1, 1, 10, 5, limited=False, steps={})
    operations: list[Callable[[], Operation]] = [
        lambda: Hold(id=2, account_id=1, key_id=10, want=amount, least=0),
        lambda: Hold(id=2, account_id=1, key_id=10, want=0, least=amount),
        lambda: Extend(hold=1, account_id=1, key_id=10, step=1, want=amount, least=0),
        lambda: End(hold=1, account_id=1, key_id=10, charge=amount, record=record()),
        lambda: Checkpoint(hold=1, account_id=1, key_id=10, charge=amount, record=record()),
        lambda: top_up(1, amount, idempotency_key="k", reason="", actor=""),
        lambda: grant(1, amount, idempotency_key="k", reason="", actor=""),
    ]
    for make in operations:
        rows = state(paid=100)
        rows.holds[1] = copy.deepcopy(running)
        rows.balances[1].held = 5
        with pytest.raises(ValueError):
            decide(rows, [make()], 0)


def test_a_sum_out_of_range_is_refused() -> None:
    rows = state(paid=MAX_AMOUNT - 10)
    with pytest.raises(ValueError):
        decide(rows, [top_up(1, 11, idempotency_key="k", reason="", actor="")], 0)
    assert rows.balances[1].paid == MAX_AMOUNT - 10


@pytest.mark.parametrize("entries", [(), (Entry(Book.LOSS, 1),), (Entry(Book.LOSS, 1), Entry(Book.FEES, -2))])
def test_a_transaction_that_does_not_sum_to_zero_is_a_mistake(entries: tuple[Entry, ...]) -> None:
    with pytest.raises(ValueError):
        decide(state(), [Post(idempotency_key="k", kind=Kind.GRANT, account_id=1, entries=entries)], 0)


def entries_of_end(end: EndRow) -> tuple[Entry, ...]:
    return usage_entries(end.charge, end.promo, end.loss, end.record.cost)


def applied(rows: State, *operations: Operation) -> list[Verdict]:
    return decide(rows, operations, 0).verdicts


def test_who_would_have_enough_if_nothing_ran_is_told_so() -> None:
    hold = Hold(id=1, account_id=1, key_id=10, want=60, least=60)
    again = Hold(id=2, account_id=1, key_id=10, want=60, least=60)
    more = Hold(id=3, account_id=1, key_id=10, want=101, least=101)
    verdicts = applied(state(paid=100), hold, again, more)
    assert verdicts[1] == Refused(why=Refusal.IN_FLIGHT, available=40, posted=100)
    assert verdicts[2] == Refused(why=Refusal.INSUFFICIENT, available=40, posted=100)


@pytest.mark.parametrize("due", [90, 500])
def test_what_is_held_for_others_is_not_charged_nor_taken_back(due: int) -> None:
    rows = state(paid=100)
    first, second = (Hold(id=id_, account_id=1, key_id=10, want=40, least=40) for id_ in (1, 2))
    end = End(hold=1, account_id=1, key_id=10, charge=due, record=record())
    taken = (Entry(Book.CUSTOMER_PAID, -61), Entry(Book.CLEARING, 61))
    back = Post(idempotency_key="k", kind=Kind.GRANT, account_id=1, entries=taken)
    verdicts = applied(rows, first, second, back, end)
    assert verdicts[2] == Refused(why=Refusal.INSUFFICIENT, available=20, posted=100)
    assert verdicts[3] == Ended(charged=60, promo=0, loss=due - 60, available=0)


def test_what_a_limited_key_holds_for_other_calls_is_not_charged_to_this_one() -> None:
    first, second = (Hold(id=id_, account_id=1, key_id=10, want=40, least=40) for id_ in (1, 2))
    end = End(hold=1, account_id=1, key_id=10, charge=500, record=record())
    verdicts = applied(state(paid=1000, limit=100), first, second, end)
    assert verdicts[2] == Ended(charged=60, promo=0, loss=440, available=900)


def test_an_end_within_its_hold_is_spent_of_the_limit_of_its_key() -> None:
    hold = Hold(id=1, account_id=1, key_id=10, want=40, least=40)
    end = End(hold=1, account_id=1, key_id=10, charge=30, record=record())
    rows = state(paid=1000, limit=100)
    assert decide(rows, [hold, end], 0).keys == {10: KeyState(10, 1, live=True, limit=100, spent=30, held=0)}


def test_who_would_have_enough_tokens_if_nothing_ran_is_told_so() -> None:
    def hold(id_: int, tokens: int) -> Hold:
        op = Hold(id=id_, account_id=1, key_id=10, want=60, least=60, period=202701, included=9)
        return msgspec.structs.replace(op, tokens=tokens, least_tokens=tokens)

    verdicts = applied(state(paid=10), hold(1, 5), hold(2, 9), hold(3, 10))
    assert verdicts[1:] == [
        Refused(why=Refusal.TOKENS_HELD, available=10, posted=10),
        Refused(why=Refusal.QUOTA, available=10, posted=10),
    ]


def test_a_frozen_account_gets_neither_money_nor_tokens() -> None:
    rows = state(paid=100)
    rows.balances[1].frozen = True
    money = Hold(id=1, account_id=1, key_id=10, want=10, least=10)
    tokens = msgspec.structs.replace(money, id=2, period=202701, included=9, tokens=5, least_tokens=5)
    decision = decide(rows, [money, tokens], 0)
    assert decision.verdicts == [Refused(why=Refusal.FROZEN, available=100, posted=100)] * 2
    assert not decision.holds


def test_a_hold_that_is_sent_again_is_the_first_one() -> None:
    money = Hold(id=1, account_id=1, key_id=10, want=10, least=10)
    tokens = msgspec.structs.replace(money, id=2, period=202701, included=9, tokens=5, least_tokens=5)
    decision = decide(state(paid=100), [money, tokens, money, tokens], 0)
    assert decision.verdicts == [Held(10, 90), Held(0, 90, 5)] * 2
    assert [hold.id for hold in decision.holds] == [1, 2]


def test_the_tokens_of_a_call_are_all_that_it_read_and_wrote() -> None:
    read = ("input", "cache_read", "cache_write", "cache_write_1h", "audio_input")
    written = ("output", "audio_output", "image_output")
    free = {"reasoning": 10**9, "searches": 10**9}
    meters = {name: 10**place for place, name in enumerate((*read, *written))}
    assert msgspec.structs.replace(record(), **meters, **free).tokens == 11_111_111


FAILED, SWEPT = Outcome.NO_OUTPUT, Outcome.SWEPT


@pytest.mark.parametrize(
    ("ended", "now", "stands"),
    [
        ({}, 10**9, True),  # it is still running
        ({"outcome": Outcome.COMPLETED}, 149, True),
        ({"outcome": Outcome.COMPLETED}, 150, False),
        ({"outcome": FAILED}, 149, False),
        ({"outcome": FAILED, "charge": 1}, 149, True),
        ({"outcome": FAILED, "allowance": 1}, 149, True),
        ({"outcome": FAILED, "charge": 1}, 150, False),
        ({"outcome": SWEPT, "charge": 1}, 149, False),
    ],
)
def test_a_claim_is_kept_for_its_time_unless_its_call_came_to_nothing(
    ended: dict[str, Any], now: int, stands: bool
) -> None:
    claim = Claim(name=b"n", request=b"r", keep_ms=50)
    rows = state(paid=100)
    rows.claims = {(1, b"n"): Claimant(hold=1, request=b"r", created_at=100, **ended)}
    decision = decide(rows, [Hold(id=2, account_id=1, key_id=10, want=10, least=10, claim=claim)], now)
    assert decision.verdicts == [Claimed() if stands else Held(10, 90)]
    assert [claimant.hold for claimant in decision.claims.values()] == ([] if stands else [2])


def test_an_end_that_costs_nothing_gives_its_tokens_back() -> None:
    hold = Hold(id=1, account_id=1, key_id=10, want=1, least=1, period=202701, included=9, tokens=5, least_tokens=5)
    end = End(hold=1, account_id=1, key_id=10, charge=0, record=record())
    (left,) = decide(state(paid=10), [hold, end], 0).allowances.values()
    assert (left.used, left.held) == (0, 0)


@given(
    credit=st.tuples(amounts, amounts),
    steps=st.lists(st.tuples(st.sampled_from(["hold", "end", "refund"]), st.integers(1, 4), amounts, amounts)),
)
def test_a_limit_that_is_never_reached_changes_nothing(credit: tuple[int, int], steps: list[Any]) -> None:
    """Nearly every hold and end is bounded by the balance alone: that is decided straight away, as the rules say."""
    operations: list[Operation] = []
    for number, (what, id_, first, second) in enumerate(steps):
        if what == "hold":
            operations.append(Hold(id=id_, account_id=1, key_id=10, want=first, least=second))
        elif what == "end":
            operations.append(End(hold=id_, account_id=1, key_id=10, charge=first, record=record()))
        else:
            operations.append(refund(1, first + 1, idempotency_key=f"{number}", reason="", actor=""))
    free, limited = state(*credit), state(*credit, limit=1 << 100)
    decision, ruled = decide(free, operations, 5), decide(limited, operations, 5)
    assert decision.verdicts == ruled.verdicts
    assert free.balances == limited.balances
    assert decision.balances == ruled.balances
    assert [msgspec.structs.replace(end, limited=True) for end in decision.ends] == ruled.ends
    assert [msgspec.structs.replace(hold, limited=True) for hold in decision.holds] == ruled.holds
    assert not decision.keys


def owed(post: Post) -> int:
    """What a transaction gave to its customer and the loss account; below zero: took."""
    books = (Book.CUSTOMER_PAID, Book.CUSTOMER_PROMO, Book.LOSS)
    return sum(entry.amount for entry in post.entries if entry.book in books)


@pytest.mark.parametrize(("credit", "charged", "loss"), [(0, 50, 40), (15, 65, 25), (100, 90, 0)])
def test_what_a_sweep_wrote_off_is_not_written_off_or_earned_again(credit: int, charged: int, loss: int) -> None:
    rows = state(paid=50)
    swept, true = (
        End(hold=1, account_id=1, key_id=10, charge=charge, record=record(outcome))
        for charge, outcome in ((70, Outcome.SWEPT), (90, Outcome.COMPLETED))
    )
    first = decide(rows, [Hold(id=1, account_id=1, key_id=10, want=50, least=50), swept], 0)
    assert first.verdicts[1] == Ended(charged=50, promo=0, loss=20, available=0)
    rows.balances[1].paid += credit
    decision = decide(rows, [true], 0)
    assert decision.verdicts == [Ended(charged=charged, promo=0, loss=loss, available=credit - charged + 50)]
    (late,) = decision.posts
    assert sum(entry.amount for entry in late.entries) == 0
    earned = sum(entry.amount for entry in late.entries if entry.book is Book.REVENUE)
    assert 70 + earned == 70 - owed(late) == 90


def test_a_late_end_is_charged_once() -> None:
    rows = state(paid=100)
    swept = End(hold=1, account_id=1, key_id=10, charge=5, record=record(Outcome.SWEPT))
    true = End(hold=1, account_id=1, key_id=10, charge=30, record=record(cost=9))
    truer = End(hold=1, account_id=1, key_id=10, charge=60, record=record())
    verdicts = applied(rows, Hold(id=1, account_id=1, key_id=10, want=50, least=50), swept, true, true, truer)
    assert verdicts[2] == Ended(charged=30, promo=0, loss=0, available=70)
    assert verdicts[3] == verdicts[4] == Ended(charged=5, promo=0, loss=0, available=70, repeated=True)
    assert rows.balances[1].posted == 70


@pytest.mark.parametrize(("known", "true", "more"), [(4, 9, 5), (9, 9, 0), (9, 4, 0)])
def test_a_late_end_owes_its_provider_what_the_sweep_did_not_know_of(known: int, true: int, more: int) -> None:
    swept = End(hold=1, account_id=1, key_id=10, charge=5, record=record(Outcome.SWEPT, cost=known))
    end = End(hold=1, account_id=1, key_id=10, charge=30, record=record(cost=true))
    (late,) = decide(state(paid=100), [Hold(id=1, account_id=1, key_id=10, want=50, least=50), swept, end], 0).posts
    owed_to_provider = {entry.book: entry.amount for entry in late.entries if entry.book.startswith("provider")}
    assert owed_to_provider == ({Book.PROVIDER_PAYABLE: more, Book.PROVIDER_COST: -more} if more else {})


def late_end(rows: State, charge: int, now: int, *, before: int = 0) -> Decision:
    """A call that was swept at `before` for 5 at the time 0, while another holds 20, ends truly."""
    first, second = (Hold(id=id_, account_id=1, key_id=10, want=20, least=20) for id_ in (1, 2))
    swept = End(hold=1, account_id=1, key_id=10, charge=5, record=record(Outcome.SWEPT))
    decide(rows, [first, second, swept], before)
    return decide(rows, [End(hold=1, account_id=1, key_id=10, charge=charge, record=record())], now)


@pytest.mark.parametrize(("charge", "charged"), [(30, 30), (80, 80), (81, 80), (500, 80)])
def test_a_late_end_is_spent_of_the_limit_of_its_key_and_no_more_than_it_has_left(charge: int, charged: int) -> None:
    decision = late_end(state(paid=1000, limit=100), charge, 7)
    assert decision.verdicts == [Ended(charged=charged, promo=0, loss=charge - charged, available=980 - charged)]
    assert decision.keys == {10: KeyState(10, 1, live=True, limit=100, spent=charged, held=20)}
    assert [(post.idempotency_key, post.actor) for post in decision.posts] == [("late/1", "key/10")]


def test_a_late_end_counts_towards_the_day_in_which_it_comes() -> None:
    day = 86_400_000
    decision = late_end(state(paid=1000, limit=50, reset=Reset.DAILY), 60, 3 * day + 7, before=day)
    assert decision.verdicts == [Ended(charged=35, promo=0, loss=25, available=945)]
    (key,) = decision.keys.values()
    assert (key.spent, key.held, key.since) == (30, 20, 3 * day + 7)


def test_a_late_end_by_a_clock_from_before_the_limit_began_anew_is_bounded_and_not_counted() -> None:
    hours = 2 * 3_600_000
    decision = late_end(state(paid=1000, limit=50, since=hours), 60, 99)
    assert decision.verdicts == [Ended(charged=35, promo=0, loss=25, available=945)]
    assert (decision.keys[10].spent, decision.keys[10].since) == (0, hours)


def test_a_late_end_of_a_key_whose_limit_was_lifted_is_counted_and_not_bounded() -> None:
    rows = state(paid=1000, limit=50)
    first = Hold(id=1, account_id=1, key_id=10, want=20, least=20)
    decide(rows, [first, End(hold=1, account_id=1, key_id=10, charge=5, record=record(Outcome.SWEPT))], 0)
    rows.keys[10].limit = None
    decision = decide(rows, [End(hold=1, account_id=1, key_id=10, charge=60, record=record())], 0)
    assert decision.verdicts == [Ended(charged=60, promo=0, loss=0, available=940)]
    assert decision.keys[10].spent == 60


def test_a_late_end_of_a_key_that_got_its_limit_while_it_ran_is_none_of_that() -> None:
    rows = state(paid=1000)
    first = Hold(id=1, account_id=1, key_id=10, want=20, least=20)
    decide(rows, [first, End(hold=1, account_id=1, key_id=10, charge=5, record=record(Outcome.SWEPT))], 0)
    rows.keys[10].limit = 50
    decision = decide(rows, [End(hold=1, account_id=1, key_id=10, charge=60, record=record())], 0)
    assert decision.verdicts == [Ended(charged=60, promo=0, loss=0, available=940)]
    assert (decision.keys, decision.posts[0].actor) == ({}, "")


def test_no_end_takes_more_than_its_cap_whether_it_comes_in_time_or_late() -> None:
    rows = state(paid=100)
    hold = Hold(id=1, account_id=1, key_id=10, want=20, least=20)
    end = End(hold=1, account_id=1, key_id=10, charge=70, record=record(), cap=30)
    assert applied(rows, hold, end)[1] == Ended(charged=30, promo=0, loss=40, available=70)
    hold = msgspec.structs.replace(hold, id=2)
    swept = End(hold=2, account_id=1, key_id=10, charge=5, record=record(Outcome.SWEPT))
    late = msgspec.structs.replace(end, hold=2)
    assert applied(rows, hold, swept, late)[2] == Ended(charged=30, promo=0, loss=40, available=40)
    swept, late = (msgspec.structs.replace(end, hold=3) for end in (swept, late))
    # It had been swept at more than they had agreed to: nothing is given back.
    hold, swept = msgspec.structs.replace(hold, id=3), msgspec.structs.replace(swept, charge=40)
    assert applied(rows, hold, swept, late)[2] == Ended(charged=40, promo=0, loss=30, available=0)


def test_promotional_credit_is_never_revenue_and_a_loss_is() -> None:
    entries = {(entry.book, entry.amount) for entry in usage_entries(charge=7, promo=4, loss=2, cost=5)}
    assert entries == {
        (Book.CUSTOMER_PROMO, -4),
        (Book.PROMO_EXPENSE, 4),
        (Book.CUSTOMER_PAID, -3),
        (Book.REVENUE, 5),
        (Book.LOSS, -2),
        (Book.PROVIDER_PAYABLE, 5),
        (Book.PROVIDER_COST, -5),
    }
