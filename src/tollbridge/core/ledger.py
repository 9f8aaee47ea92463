"""What an operation does to the books.

Both databases load the rows that a batch of operations needs, call `decide`, and write what it says in one
transaction. All the rules are here:

Rule 1  Amounts are integers of nano-USD. A customer's balance is `paid` + `promo`; `held` of it is reserved for
        running calls; the rest is *available*. Promo is spent first.
Rule 2  A hold reserves between `least` and `want`, atomically, or is refused and changes nothing.
Rule 3  A hold ends at most once. A second end changes nothing and returns the first result.
Rule 4  No hold, no effect: what an end moves is what the stored hold says.
Rule 5  Usage never makes a balance negative and never takes a key past its limit: what cannot be charged goes to the
        loss account. Only refunds and disputes may overdraw.
Rule 6  A hold that was swept (its process was gone) may still get its true end: the difference is a transaction of its
        own, `late/<hold>`, and only ever a further charge. If it counts against a key's limit, its actor is `key/<id>`.
Rule 7  A hold may be on tokens that the account's plan includes this month: then its amount is 0, its end charges 0
        and takes tokens instead, never more than are left. It is all tokens or all money.
Rule 8  Everything but usage is a journal transaction whose entries sum to zero and whose idempotency key is unique.
"""

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from tollbridge.core.periods import Reset, began
from tollbridge.values import Meters, Outcome

MAX_AMOUNT = 1 << 62
COUNTER_BITS = 40
# The most by which a clock that was set back moves the end of a call.
_SET_BACK_MS = 3_600_000


class Book(StrEnum):
    """The ledger accounts. Credits are positive: what we owe a customer, earn, or owe a provider."""

    CUSTOMER_PAID = "customer_paid"
    CUSTOMER_PROMO = "customer_promo"
    CLEARING = "processor_clearing"
    FEES = "fees"
    REVENUE = "revenue"
    SUBSCRIPTIONS = "subscription_revenue"
    PROMO_EXPENSE = "promo_expense"
    PROVIDER_PAYABLE = "provider_payable"
    PROVIDER_COST = "provider_cost"
    TAX = "tax"
    LOSS = "loss"


class Kind(StrEnum):
    """What a journal transaction is."""

    TOP_UP = "top_up"
    GRANT = "grant"
    REFUND = "refund"
    DISPUTE = "dispute"
    LATE = "late"
    FEE = "fee"
    SUBSCRIPTION = "subscription"
    WRITE_OFF = "write_off"


OVERDRAWING = frozenset({Kind.REFUND, Kind.DISPUTE})


class Refusal(StrEnum):
    """Why an operation was refused. As HTTP: the first three 402, two 429, then 401 and 403; the rest are ours, 503."""

    INSUFFICIENT = "insufficient_credits"
    IN_FLIGHT = "in_flight_budget_exhausted"
    KEY_LIMIT = "key_limit_exceeded"
    QUOTA = "insufficient_quota"
    TOKENS_HELD = "tokens_held"
    KEY_GONE = "invalid_api_key"
    FROZEN = "account_frozen"
    FENCED = "fenced"
    NO_HOLD = "no_hold"


# --- operations ---------------------------------------------------------------------------------------------------


class Claim(msgspec.Struct, frozen=True, gc=False):
    """For `keep_ms`, no second hold is given under the same `name`, unless the first came to nothing.

    `request` tells whether it is the same request. Both are SHA-256.
    """

    name: bytes
    request: bytes
    keep_ms: int


class Hold(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Reserve at least `least` and at most `want`. `id` is new: the process's epoch and a counter (`hold_id`).

    `period` (YYYYMM): try first to hold `least_tokens` to `tokens` of that month's `included` tokens; 0: money only.
    """

    id: int
    account_id: int
    key_id: int
    want: int
    least: int
    ttl_ms: int = 1_000_000
    period: int = 0
    included: int = 0
    tokens: int = 0
    least_tokens: int = 0
    claim: Claim | None = None


class Extend(msgspec.Struct, frozen=True, kw_only=True):
    """Reserve more for a running hold, money or tokens as it is on. `step` numbers a hold's extensions from 1."""

    hold: int
    account_id: int
    key_id: int
    step: int
    want: int
    least: int


class Record(Meters, frozen=True, gc=False):
    """What is kept of one request: the usage row without its amounts. Never a prompt or an answer."""

    started_at: int
    duration_ms: int
    price_version: int
    outcome: Outcome
    status: int = 200
    first_byte_ms: int | None = None
    cost: int = 0
    streamed: bool = False
    estimated: bool = False
    suspect: bool = False
    # A customer's own credential paid the provider; the charge is the fee.
    byok: bool = False
    # A key of `core.ids.PREFIXES`: sets the prefix of the id that the caller was given.
    endpoint: str = "chat"
    finish: str | None = None
    raw: bytes | None = None
    # JSON list of the failed attempts (`gateway.ticket.Attempt`); None when there were none.
    attempts: bytes | None = None


class End(msgspec.Struct, frozen=True, gc=False):
    """End a hold: `charge` is what the customer should pay, in money or tokens; 0 releases all of the hold.

    `cap`: the most that the customer agreed to pay; never less than what was held.
    """

    hold: int
    account_id: int
    key_id: int
    charge: int
    record: Record
    cap: int = MAX_AMOUNT


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What a running stream would be charged if its process died now."""

    hold: int
    account_id: int
    key_id: int
    charge: int
    record: Record


class Entry(msgspec.Struct, frozen=True):
    book: Book
    amount: int


class Post(msgspec.Struct, frozen=True, kw_only=True):
    """A journal transaction on one customer's account, made by the functions at the end, and by `core.payments`."""

    idempotency_key: str
    kind: Kind
    account_id: int
    entries: tuple[Entry, ...]
    reason: str = ""
    actor: str = ""


Operation = Hold | Extend | End | Checkpoint | Post


# --- verdicts -----------------------------------------------------------------------------------------------------


class Held(msgspec.Struct, frozen=True, gc=False):
    """`amount` is the whole hold so far, extensions included; `available` is what the account has left beside it.

    `tokens`: the included tokens that it is on; 0: it is on money.
    """

    amount: int
    available: int
    tokens: int = 0


class Ended(msgspec.Struct, frozen=True, gc=False):
    """`charged` = `promo` + what came from paid credit; `loss`: what neither it nor included tokens paid for."""

    charged: int
    promo: int
    loss: int
    available: int
    repeated: bool = False


class Posted(msgspec.Struct, frozen=True, kw_only=True):
    available: int
    repeated: bool = False


class Noted(msgspec.Struct, frozen=True):
    """A checkpoint was taken, or was no longer needed."""


class Spooled(msgspec.Struct, frozen=True):
    """The database is away. The end or checkpoint is safe on this machine's disk, to be written when it is back."""


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """`available` and `posted` (available + held) are those of what refused: the account, or the key's limit.

    `balance`: what the account has available, if the key's limit refused.
    """

    why: Refusal
    available: int = 0
    posted: int = 0
    balance: int = 0


class Claimed(msgspec.Struct, frozen=True):
    """Another hold has the claim."""


Verdict = Held | Ended | Posted | Noted | Spooled | Refused | Claimed


# --- rows ---------------------------------------------------------------------------------------------------------


class Balance(msgspec.Struct, gc=False):
    """A row of `balance`."""

    account_id: int
    paid: int
    promo: int
    held: int
    frozen: bool = False

    @property
    def posted(self) -> int:
        return self.paid + self.promo

    @property
    def available(self) -> int:
        return self.paid + self.promo - self.held


class KeyState(msgspec.Struct, gc=False):
    """What a hold must know about a key. `limit` None: no limit, and then no spend is kept.

    `live`: neither revoked nor disabled. `expires_at` may be None if `live` already accounts for it. `reset`: the limit
    is per day, week or month; `spent` is what was charged by ends since `since`.
    """

    key_id: int
    account_id: int
    live: bool
    limit: int | None = None
    spent: int = 0
    held: int = 0
    expires_at: int | None = None
    reset: Reset | None = None
    since: int = 0

    @property
    def left(self) -> int:
        """What may still be held. Only for a key with a limit."""
        assert self.limit is not None
        return self.limit - self.spent - self.held

    def renew(self, now: int) -> None:
        """Start counting anew if a new day, week or month has begun. A clock that goes back changes nothing.

        All that ended before `now` is already booked, so `since` may be `now`, whatever the limit was before. What ends
        by a clock that was set back a little ends at `since`, so that it counts.
        """
        if self.reset is not None and began(self.reset, now) > self.since:
            self.since, self.spent = now, 0


class Allowance(msgspec.Struct, gc=False):
    """A row of `allowance`: the tokens that a plan includes in one month."""

    account_id: int
    period: int
    included: int
    used: int = 0
    held: int = 0

    @property
    def left(self) -> int:
        return self.included - self.used - self.held


class OpenHold(msgspec.Struct, gc=False):
    """A row of `hold` with its extensions. `limited`: it counts against the key's limit too.

    `tokens`: the tokens of the month `period` that it is on; its steps are tokens too; None: it is on money.
    `expires_at`: set for a new hold only; 0: it was read from its row, where nothing needs it.
    """

    id: int
    account_id: int
    key_id: int
    amount: int
    limited: bool
    steps: dict[int, int]
    checkpointed: bool = False
    tokens: int | None = None
    period: int = 0
    expires_at: int = 0


class EndRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `usage`: the end of a hold, its journal and its usage record in one.

    `limited`: the hold counted, and the charge counts, against the key's limit. `allowance`: included tokens taken
    instead of a charge; None: the hold was on money.
    """

    hold: int
    account_id: int
    key_id: int
    ended_at: int
    held: int
    charge: int
    promo: int
    loss: int
    record: Record
    limited: bool = False
    allowance: int | None = None


class Claimant(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `claim`, and how its hold ended. `outcome` None: it is still running."""

    hold: int
    request: bytes
    created_at: int
    outcome: Outcome | None = None
    charge: int = 0
    allowance: int | None = None
    ended_at: int = 0

    def stands(self, now: int, keep_ms: int) -> bool:
        """Whether it still has the claim: not if its process died, nor if it failed and cost nothing."""
        if self.outcome is None:
            return True
        came_to_nothing = self.outcome is not Outcome.COMPLETED and not self.charge and not self.allowance
        return self.outcome is not Outcome.SWEPT and not came_to_nothing and now < self.created_at + keep_ms


class State(msgspec.Struct, kw_only=True):
    """The rows that a batch needs, as stored. `decide` changes them in place, so a state serves one batch.

    `ends`: ends already stored for the batch's holds; `posted`: idempotency keys already used.
    `fenced`: another process has swept this one's holds.
    """

    balances: dict[int, Balance]
    keys: dict[int, KeyState]
    holds: dict[int, OpenHold]
    ends: dict[int, EndRow]
    posted: set[str]
    fenced: bool = False
    # By account and month.
    allowances: dict[tuple[int, int], Allowance] = {}
    # By account and name.
    claims: dict[tuple[int, bytes], Claimant] = {}


class Decision(msgspec.Struct):
    """What to write, in any order, in one transaction; and one verdict per operation, in their order."""

    verdicts: list[Verdict] = []
    holds: list[OpenHold] = []
    steps: list[tuple[int, int, int]] = []  # hold, step, amount
    ends: list[EndRow] = []
    checkpoints: dict[int, Checkpoint] = {}
    posts: list[Post] = []
    balances: dict[int, Balance] = {}
    keys: dict[int, KeyState] = {}
    # Ended holds whose stored checkpoint, if there is one, is deleted.
    forgotten: list[int] = []
    allowances: dict[tuple[int, int], Allowance] = {}
    claims: dict[tuple[int, bytes], Claimant] = {}


# --- the decision -------------------------------------------------------------------------------------------------


def hold_id(epoch: int, counter: int) -> int:
    """64-bit id of a hold, with the process's epoch in the high bits: the holds of a dead process are one range."""
    return (epoch << COUNTER_BITS) | counter


def epoch_of(hold: int) -> int:
    return hold >> COUNTER_BITS


def decide(state: State, operations: Sequence[Operation], now: int) -> Decision:
    """Apply `operations` in order of arrival. `now` is the database's time in milliseconds."""
    decision = Decision()
    decision.verdicts = [_RULES[type(operation)](state, operation, now, decision) for operation in operations]
    return decision


def _hold(state: State, op: Hold, now: int, out: Decision) -> Verdict:
    want, least = op.want, op.least
    if least < 0 or want < least or want >= MAX_AMOUNT:
        _check_amounts(want, least)
    id_, account_id, key = op.id, op.account_id, state.keys.get(op.key_id)
    balance = state.balances.get(account_id)
    if id_ in state.holds and balance is not None:
        known = state.holds[id_]
        return Held(known.amount, balance.available, known.tokens or 0)
    if state.fenced or id_ in state.ends:
        return Refused(why=Refusal.FENCED)
    if key is None or not key.live or (key.expires_at is not None and key.expires_at <= now):
        return Refused(why=Refusal.KEY_GONE)
    if balance is None or key.account_id != account_id:
        return Refused(why=Refusal.KEY_GONE)
    if op.claim is not None:
        first = state.claims.get((account_id, op.claim.name))
        if first is not None and first.stands(now, op.claim.keep_ms):
            return Claimed()
    available = balance.paid + balance.promo - balance.held
    amount, tokens = want, None
    if want <= available and least <= available and key.limit is None and not op.period and not balance.frozen:
        # Nearly every hold: only the balance bounds it, and it covers all that is wanted.
        balance.held += want
        out.balances[account_id] = balance
    else:
        key.renew(now)
        tokens = _take_tokens(state, op, out) if op.period and not balance.frozen else None
        reserved = 0 if tokens is not None else _reserve(balance, key, want, least)
        if isinstance(reserved, Refused):
            return _without_tokens(reserved, op, state) if op.period else reserved
        amount = reserved
        _move_held(balance, None if key.limit is None else key, amount, out)
    hold = OpenHold(id_, account_id, op.key_id, amount, key.limit is not None, {}, expires_at=now + op.ttl_ms)
    if tokens is not None:
        hold.tokens, hold.period = tokens, op.period
    state.holds[id_] = hold
    out.holds.append(hold)
    if op.claim is not None:
        of = (account_id, op.claim.name)
        out.claims[of] = state.claims[of] = Claimant(hold=id_, request=op.claim.request, created_at=now)
    return Held(amount, available - amount, tokens or 0)


def _take_tokens(state: State, op: Hold, out: Decision) -> int | None:
    """Hold what is left of the month's tokens, up to what is wanted; None if that is too little."""
    _check_amounts(op.included, op.tokens, op.least_tokens)
    of = (op.account_id, op.period)
    allowance = state.allowances.get(of)
    if allowance is None:
        allowance = state.allowances[of] = Allowance(op.account_id, op.period, op.included)
    # The plan may have changed since the last call.
    allowance.included = op.included
    if not 0 < op.least_tokens <= allowance.left:
        return None
    tokens = min(op.tokens, allowance.left)
    allowance.held += tokens
    out.allowances[of] = allowance
    return tokens


def _without_tokens(refused: Refused, op: Hold, state: State) -> Refused:
    """The refusal when neither tokens nor money suffice. If what runs now holds the tokens, waiting helps."""
    if refused.why is not Refusal.INSUFFICIENT:
        return refused
    allowance = state.allowances[op.account_id, op.period]
    fits_later = 0 < op.least_tokens <= allowance.included - allowance.used
    why = Refusal.TOKENS_HELD if fits_later else Refusal.QUOTA
    return Refused(why=why, available=refused.available, posted=refused.posted)


def _extend(state: State, op: Extend, now: int, out: Decision) -> Verdict:
    _check_amounts(op.want, op.least)
    hold = _open_hold(state, op.hold, op.account_id)
    if hold is None:
        return Refused(why=Refusal.NO_HOLD)
    balance = state.balances[hold.account_id]
    if op.step in hold.steps:
        return Held(amount=hold.amount, available=balance.available, tokens=hold.tokens or 0)
    if hold.tokens is not None:
        return _extend_tokens(state, op, hold, out)
    key = state.keys.get(hold.key_id)
    limiting = key if hold.limited else None
    if limiting is not None:
        limiting.renew(now)
    amount = _reserve(balance, limiting, op.want, op.least)
    if isinstance(amount, Refused):
        return amount
    hold.steps[op.step] = amount
    hold.amount += amount
    out.steps.append((hold.id, op.step, amount))
    _move_held(balance, limiting, amount, out)
    return Held(amount=hold.amount, available=balance.available)


def _extend_tokens(state: State, op: Extend, hold: OpenHold, out: Decision) -> Verdict:
    assert hold.tokens is not None
    balance, of = state.balances[hold.account_id], (hold.account_id, hold.period)
    allowance = state.allowances[of]
    if op.least > allowance.left:
        return Refused(why=Refusal.QUOTA, available=balance.available, posted=balance.posted)
    more = min(op.want, max(0, allowance.left))
    hold.steps[op.step] = more
    hold.tokens += more
    allowance.held += more
    out.steps.append((hold.id, op.step, more))
    out.allowances[of] = allowance
    return Held(amount=hold.amount, available=balance.available, tokens=hold.tokens)


def _end(state: State, op: End, now: int, out: Decision) -> Verdict:
    due, id_, account_id = op.charge, op.hold, op.account_id
    if due < 0 or due >= MAX_AMOUNT:
        _check_amounts(due)
    if id_ in state.ends:
        return _end_again(state, op, state.ends[id_], now, out)
    hold = state.holds.get(id_)
    if hold is None or hold.account_id != account_id:
        return Refused(why=Refusal.NO_HOLD)
    balance, held, allowance = state.balances[account_id], hold.amount, None
    posted = balance.paid + balance.promo
    if due <= held and due <= posted and not hold.limited and hold.tokens is None:
        # Nearly every end: only hold and balance bound it, and they cover all of it.
        charge = due
        balance.held -= held
        out.balances[account_id] = balance
    else:
        key = state.keys.get(hold.key_id) if hold.limited else None
        if key is not None:
            key.renew(now)
        _move_held(balance, key, -held, out)
        if hold.tokens is not None:
            allowance, due = _use_tokens(state, op, hold, out), 0
        charge = min(due, op.cap, _chargeable(balance, key, held))
        if key is not None and now > key.since - _SET_BACK_MS:
            now = max(now, key.since)
            key.spent += charge
    promo, loss = balance.promo, due - charge
    if promo >= charge:
        promo = charge
    else:
        balance.paid -= charge - promo
    balance.promo -= promo
    row = EndRow(id_, account_id, hold.key_id, now, held, charge, promo, loss, op.record, hold.limited, allowance)
    del state.holds[id_]
    state.ends[id_] = row
    if hold.checkpointed:
        out.checkpoints.pop(id_, None)
        out.forgotten.append(id_)
    out.ends.append(row)
    if allowance is not None:
        loss = op.charge * (op.record.tokens - allowance) // max(1, op.record.tokens)
    return Ended(charge, promo, loss, posted - charge - balance.held)


def _use_tokens(state: State, op: End, hold: OpenHold, out: Decision) -> int:
    """Take what was used of the month's tokens, as far as there are any; what is beyond them is free."""
    assert hold.tokens is not None
    of = (hold.account_id, hold.period)
    allowance = state.allowances[of]
    allowance.held -= hold.tokens
    used = min(op.record.tokens, max(hold.tokens, allowance.left)) if op.charge else 0
    allowance.used += used
    out.allowances[of] = allowance
    return used


def _end_again(state: State, op: End, stored: EndRow, now: int, out: Decision) -> Verdict:
    balance = state.balances[stored.account_id]
    first = Ended(
        charged=stored.charge, promo=stored.promo, loss=stored.loss, available=balance.available, repeated=True
    )
    more = op.charge - stored.charge
    swept = stored.record.outcome is Outcome.SWEPT and op.record.outcome is not Outcome.SWEPT
    if not swept or more <= 0 or op.account_id != stored.account_id or stored.allowance is not None:
        return first
    late = f"late/{op.hold}"
    if late in state.posted:
        return first
    key = state.keys.get(stored.key_id) if stored.limited else None
    if key is not None:
        key.renew(now)
        out.keys[key.key_id] = key
    charge = min(more, max(0, op.cap - stored.charge), _chargeable(balance, key, 0))
    if key is not None and now >= key.since:
        key.spent += charge
    promo = min(charge, balance.promo)
    cost = max(0, op.record.cost - stored.record.cost)
    entries = entries_of(
        (Book.CUSTOMER_PROMO, -promo),
        (Book.PROMO_EXPENSE, promo),
        (Book.CUSTOMER_PAID, promo - charge),
        (Book.REVENUE, charge - promo),
        (Book.REVENUE, more - charge - stored.loss),  # what the sweep could not charge is written off already
        (Book.LOSS, charge + stored.loss - more),
        (Book.PROVIDER_PAYABLE, cost),
        (Book.PROVIDER_COST, -cost),
    )
    of, actor = stored.account_id, "" if key is None else f"key/{key.key_id}"
    post = Post(
        idempotency_key=late, kind=Kind.LATE, account_id=of, entries=entries, reason="ended after sweep", actor=actor
    )
    _apply(balance, post, out)
    state.posted.add(late)
    return Ended(stored.charge + charge, stored.promo + promo, more - charge, balance.available)


def _checkpoint(state: State, op: Checkpoint, _now: int, out: Decision) -> Verdict:
    _check_amounts(op.charge, 0)
    hold = _open_hold(state, op.hold, op.account_id)
    if hold is not None:
        hold.checkpointed = True
        out.checkpoints[op.hold] = op
    return Noted()


def _post(state: State, op: Post, _now: int, out: Decision) -> Verdict:
    if not op.entries or sum(entry.amount for entry in op.entries) != 0:
        raise ValueError(f"the entries of {op.idempotency_key} do not sum to zero")
    for entry in op.entries:
        if abs(entry.amount) >= MAX_AMOUNT:
            raise ValueError(f"an amount of {op.idempotency_key} is out of range")
    balance = state.balances.get(op.account_id)
    if balance is None:
        return Refused(why=Refusal.NO_HOLD)
    if op.idempotency_key in state.posted:
        return Posted(available=balance.available, repeated=True)
    paid, promo = _effect(op.entries)
    if max(abs(balance.paid + paid), abs(balance.promo + promo)) >= MAX_AMOUNT:
        raise ValueError(f"{op.idempotency_key} takes the balance out of range")
    takes_more_than_is_free = paid + promo < 0 and balance.available + paid + promo < 0
    takes_more_than_was_paid = paid < 0 and balance.paid + paid < 0
    overdraws = takes_more_than_is_free or takes_more_than_was_paid
    if balance.promo + promo < 0 or (overdraws and op.kind not in OVERDRAWING):
        return Refused(why=Refusal.INSUFFICIENT, available=balance.available, posted=balance.posted)
    _apply(balance, op, out)
    state.posted.add(op.idempotency_key)
    return Posted(available=balance.available)


_RULES: dict[type[Operation], Callable[[State, Any, int, Decision], Verdict]] = {
    Hold: _hold,
    Extend: _extend,
    End: _end,
    Checkpoint: _checkpoint,
    Post: _post,
}


def _reserve(balance: Balance, key: KeyState | None, want: int, least: int) -> int | Refused:
    """The amount that can be held, or why none can."""
    if balance.frozen:
        return Refused(why=Refusal.FROZEN, available=balance.available, posted=balance.posted)
    if least > balance.available or balance.posted <= 0 < want:
        why = Refusal.IN_FLIGHT if 0 < least <= balance.posted else Refusal.INSUFFICIENT
        return Refused(why=why, available=balance.available, posted=balance.posted)
    amount = min(want, max(0, balance.available))
    if key is not None and key.limit is not None:
        left = key.left
        if least > left:
            rest = key.limit - key.spent
            return Refused(why=Refusal.KEY_LIMIT, available=left, posted=rest, balance=balance.available)
        amount = min(amount, max(0, left))
    return amount


def _chargeable(balance: Balance, key: KeyState | None, held: int) -> int:
    """The most that an end may take, its own hold already released: never a negative balance, never past a limit.

    A refund may have taken the balance below what is held; then the money that is left is the bound.
    """
    others = balance.held
    most = min(max(held, balance.posted - others), max(0, balance.posted))
    if key is not None and key.limit is not None:
        most = min(most, max(held, key.left), max(0, key.limit - key.spent))
    return most


def _move_held(balance: Balance, key: KeyState | None, amount: int, out: Decision) -> None:
    balance.held += amount
    out.balances[balance.account_id] = balance
    if key is not None:
        key.held += amount
        out.keys[key.key_id] = key


def _apply(balance: Balance, post: Post, out: Decision) -> None:
    paid, promo = _effect(post.entries)
    balance.paid += paid
    balance.promo += promo
    out.balances[balance.account_id] = balance
    out.posts.append(post)


def _effect(entries: Iterable[Entry]) -> tuple[int, int]:
    """What entries do to (paid, promo) of the customer."""
    paid = sum(entry.amount for entry in entries if entry.book is Book.CUSTOMER_PAID)
    promo = sum(entry.amount for entry in entries if entry.book is Book.CUSTOMER_PROMO)
    return paid, promo


def _open_hold(state: State, hold: int, account_id: int) -> OpenHold | None:
    found = state.holds.get(hold)
    return found if found is not None and found.account_id == account_id and hold not in state.ends else None


def _check_amounts(*amounts: int) -> None:
    for amount in amounts:
        if not 0 <= amount < MAX_AMOUNT:
            raise ValueError(f"amount {amount} is out of range")


# --- journal transactions -----------------------------------------------------------------------------------------


def entries_of(*lines: tuple[Book, int]) -> tuple[Entry, ...]:
    """Entries of these amounts; of 0, none."""
    return tuple(Entry(book, amount) for book, amount in lines if amount)


def grant(account_id: int, amount: int, *, idempotency_key: str, reason: str, actor: str) -> Post:
    """Promotional credit from the operator."""
    entries = entries_of((Book.PROMO_EXPENSE, -amount), (Book.CUSTOMER_PROMO, amount))
    return _made(Kind.GRANT, account_id, amount, entries, idempotency_key, reason, actor)


def taken_back(account_id: int, amount: int, *, idempotency_key: str) -> Post:
    """Promotional credit of a closed account that nobody can spend any more: a gift that was never made."""
    entries = entries_of((Book.CUSTOMER_PROMO, -amount), (Book.PROMO_EXPENSE, amount))
    return _made(
        Kind.GRANT, account_id, amount, entries, idempotency_key, "taken back: the account was closed", "closing"
    )


def written_off(account_id: int, paid: int, promo: int, *, idempotency_key: str, reason: str, actor: str) -> Post:
    """All that is left of a closed account, by the operator's decision: nothing is owed in either direction after it.

    Paid credit becomes revenue; what is missing of it, because more was paid back than was left, a loss.
    """
    entries = entries_of(
        (Book.CUSTOMER_PROMO, -promo),
        (Book.PROMO_EXPENSE, promo),
        (Book.CUSTOMER_PAID, -paid),
        (Book.REVENUE if paid > 0 else Book.LOSS, paid),
    )
    return _made(Kind.WRITE_OFF, account_id, max(abs(paid), promo), entries, idempotency_key, reason, actor)


def top_up(account_id: int, amount: int, *, idempotency_key: str, reason: str, actor: str) -> Post:
    """Credit that was paid for elsewhere. What a payment here does to the books is in `core.payments`."""
    entries = entries_of((Book.CLEARING, -amount), (Book.CUSTOMER_PAID, amount))
    return _made(Kind.TOP_UP, account_id, amount, entries, idempotency_key, reason, actor)


def _made(kind: Kind, account: int, amount: int, entries: tuple[Entry, ...], key: str, reason: str, actor: str) -> Post:
    if not 0 < amount < MAX_AMOUNT:
        raise ValueError("an amount is above zero and below 2^62 nano-USD")
    return Post(idempotency_key=key, kind=kind, account_id=account, entries=entries, reason=reason, actor=actor)


def usage_entries(charge: int, promo: int, loss: int, cost: int) -> tuple[Entry, ...]:
    """The entries that a row of `usage`, or many together, stand for; they sum to zero like any transaction's."""
    paid = charge - promo
    return entries_of(
        (Book.CUSTOMER_PROMO, -promo),
        (Book.PROMO_EXPENSE, promo),
        (Book.CUSTOMER_PAID, -paid),
        (Book.REVENUE, paid + loss),
        (Book.LOSS, -loss),
        (Book.PROVIDER_PAYABLE, cost),
        (Book.PROVIDER_COST, -cost),
    )
