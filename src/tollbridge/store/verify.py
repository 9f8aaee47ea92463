"""The proof of the books: everything kept for speed is computed again from the rows that never change.

    report = await verify(database)
    report.ok or print(*report.problems, sep="\\n")

It reads one moment of the database from end to end, a page at a time, so that ten million requests take time but not
memory: it keeps one entry per account, per key with a limit, and per account and month of included tokens.
"""

import hashlib
import re
import sqlite3
from collections.abc import Iterator

import msgspec

from tollbridge.core import money
from tollbridge.core.ledger import Book, EndRow, Kind, epoch_of, hold_id, usage_entries
from tollbridge.core.words import plural
from tollbridge.errors import Unavailable
from tollbridge.store import activity, retention, rollups, seal, usage_days, verify_payments
from tollbridge.store.db import Database, Row, Transaction
from tollbridge.store.ledger.rows import end_row
from tollbridge.store.prices import Terms
from tollbridge.store.rows import further, pages
from tollbridge.store.seal import ALL_IDS, HOLD_TAIL, HOLD_WIDTH, Digest, Seal
from tollbridge.values import Outcome

# Problems beyond these are counted, not named.
MOST_NAMED = 1_000
_PAGE = 2_000
# Who a late charge is of where the spend of a key carries it (`core.ledger`, Rule 6).
_OF_KEY = re.compile(r"key/([0-9]{1,18})")

_PRICES = "SELECT id, digest, terms, created_at FROM price_version ORDER BY id"
_BALANCES = "SELECT account_id, paid, promo, held FROM balance WHERE account_id > $1 ORDER BY account_id LIMIT $2"
_SINCE = "SELECT key_id, since FROM key_spend WHERE since IS NOT NULL"
_ALLOWANCES = (
    "SELECT account_id, period, used, held FROM allowance WHERE (account_id, period) > ($1, $2) "
    "ORDER BY account_id, period LIMIT $3"
)
_SPENDS = "SELECT key_id, spent, held FROM key_spend WHERE key_id > $1 ORDER BY key_id LIMIT $2"
# What is said of the first column of a row whose second is empty. Holds are looked up one by one, as in `processes`;
# the bounds of other joins are on both sides, as in `seal`.
_ORPHANS = {
    "usage row of hold {} has no hold": """
        SELECT hold_id, (SELECT hold.id FROM hold WHERE hold.id = usage.hold_id) FROM usage
        WHERE hold_id > $1 ORDER BY hold_id LIMIT $2
    """,
    "extension of hold {} has no hold": """
        SELECT DISTINCT hold_id, (SELECT hold.id FROM hold WHERE hold.id = hold_step.hold_id) FROM hold_step
        WHERE hold_id > $1 ORDER BY hold_id LIMIT $2
    """,
    "checkpoint of hold {} has no open hold": """
        SELECT checkpoint.hold_id, CASE WHEN usage.hold_id IS NULL THEN hold.id END FROM checkpoint
        LEFT JOIN hold ON hold.id = checkpoint.hold_id LEFT JOIN usage ON usage.hold_id = checkpoint.hold_id
        WHERE checkpoint.hold_id > $1 ORDER BY checkpoint.hold_id LIMIT $2
    """,
    "entries of transaction {} have no transaction": """
        SELECT journal_id, MAX(journal.id) FROM entry LEFT JOIN journal ON journal.id = journal_id AND journal.id > $1
        WHERE journal_id > $1 GROUP BY journal_id ORDER BY journal_id LIMIT $2
    """,
    "account {} has no balance": """
        SELECT account.id, balance.account_id FROM account
        LEFT JOIN balance ON balance.account_id = account.id AND balance.account_id > $1
        WHERE account.id > $1 ORDER BY account.id LIMIT $2
    """,
}


# No row is given another id: the proof, the seals and the sums begin behind 0.
_OUTSIDE = {
    "account": "SELECT COUNT(*) FROM account WHERE id <= $1 OR id >= $2",
    "api_key": "SELECT COUNT(*) FROM api_key WHERE id <= $1 OR id >= $2",
    "price_version": "SELECT COUNT(*) FROM price_version WHERE id <= $1 OR id >= $2",
    "hold": "SELECT COUNT(*) FROM hold WHERE id <= $1 OR id >= $2",
    "hold_step": "SELECT COUNT(*) FROM hold_step WHERE hold_id <= $1 OR hold_id >= $2",
    "usage": "SELECT COUNT(*) FROM usage WHERE hold_id <= $1 OR hold_id >= $2",
    "journal": "SELECT COUNT(*) FROM journal WHERE id <= $1 OR id >= $2",
    "entry": "SELECT COUNT(*) FROM entry WHERE journal_id <= $1 OR journal_id >= $2",
    "activity": "SELECT COUNT(*) FROM activity WHERE id <= $1 OR id >= $2",
    "payment": "SELECT COUNT(*) FROM payment WHERE id <= $1 OR id >= $2",
    "reversal": "SELECT COUNT(*) FROM reversal WHERE id <= $1 OR id >= $2",
    "voucher": "SELECT COUNT(*) FROM voucher WHERE id <= $1 OR id >= $2",
    "invoice": "SELECT COUNT(*) FROM invoice WHERE number <= $1 OR number >= $2",
    "balance": "SELECT COUNT(*) FROM balance WHERE account_id <= $1 OR account_id >= $2",
    "allowance": "SELECT COUNT(*) FROM allowance WHERE account_id <= $1 OR account_id >= $2",
    "key_spend": "SELECT COUNT(*) FROM key_spend WHERE key_id <= $1 OR key_id >= $2",
}


class Report(msgspec.Struct, kw_only=True):
    """What `verify` found. `problems` names broken invariants with their ids, the first `MOST_NAMED` of them; `found`
    counts them all.
    """

    problems: list[str] = []
    found: int = 0
    accounts: int = 0
    holds: int = 0
    open_holds: int = 0
    transactions: int = 0
    deeds: int = 0
    seals: int = 0
    # Nano-USD by ledger account; credits are positive, and all of them together are zero.
    trial_balance: dict[Book, int] = {}

    @property
    def ok(self) -> bool:
        return self.found == 0

    def add(self, problem: str) -> None:
        self.found += 1
        if self.found <= MOST_NAMED:
            self.problems.append(problem)


class Effect(msgspec.Struct):
    """What the rows say that a customer's balance is."""

    paid: int = 0
    promo: int = 0
    held: int = 0


class Spend(msgspec.Struct):
    """What the rows say that a key with a limit has spent."""

    spent: int = 0
    held: int = 0


class Quota(msgspec.Struct):
    """What the rows say that an account has had of the tokens that its plan includes in a month."""

    used: int = 0
    held: int = 0


async def verify(database: Database) -> Report:
    """Check every invariant of the books. `Unavailable` when the database cannot be read."""
    async with database.snapshot() as view:
        return await verify_view(view, database.dialect)


async def verify_view(view: Transaction, dialect: str) -> Report:
    """As `verify`, of what a transaction sees."""
    report = Report()
    if dialect == "sqlite":
        await _check_file(view, report)
    try:
        await _Audit(view, report).run()
    except sqlite3.OperationalError as error:
        report.add(f"the schema is damaged: {error}")
    except Unavailable as error:
        if report.ok:
            raise
        # What was found before the reading failed tells more than that it failed.
        report.add(f"the rest could not be read: {error}")
    return report


async def verify_activity(database: Database) -> Report:
    """Check that what people did stands as it was noted: `deeds` and `seals` of the report, and what is wrong."""
    report = Report()
    async with database.snapshot() as view:
        await _Audit(view, report).check_activity()
    return report


async def _check_file(view: Transaction, report: Report) -> None:
    for (line,) in await view.fetch("PRAGMA integrity_check(100)"):
        if line != "ok":
            report.add(f"the file is damaged: {line}")
    for table, row, parent, _ in await view.fetch("PRAGMA foreign_key_check"):
        report.add(f"row {row} of {table} refers to a row of {parent} that is not there")


class _Audit:
    def __init__(self, view: Transaction, report: Report) -> None:
        self._view = view
        self._report = report
        self._effects: dict[int, Effect] = {}
        self._spends: dict[int, Spend] = {}
        # From when on the spend of keys is counted whose limits begin anew.
        self._since: dict[int, int] = {}
        self._quotas: dict[tuple[int, int], Quota] = {}
        self._trial = dict.fromkeys(Book, 0)
        self._prices: dict[int, Terms | None] = {0: None}
        self._swept: dict[int, bool] = {}
        self._chains: dict[str, _Chain] = {}
        self._dropped = retention.Dropped()

    async def run(self) -> None:
        self._since = dict(await self._view.fetch(_SINCE))
        processes = await self._view.fetch("SELECT epoch, swept_at FROM process")
        self._swept = {epoch: swept_at is not None for epoch, swept_at in processes}
        self._dropped = await retention.read(self._view, self._report.add)
        seals = await seal.read(self._view)
        for chain, of_it in seals.items():
            self._chains[chain] = _Chain(chain, of_it, self._report, self._dropped)
        for chain, until in self._dropped.positions.items():
            if chain not in seals or seals[chain][-1].last < until:
                self._report.add(f"rows of {chain} up to {until} were dropped, but no seal covers them")
        await self._read_prices()
        self._carry()
        for table in _OUTSIDE:
            await self._check_ids(table)
        await self._check_holds()
        await self._check_journal()
        await self._check_activity()
        await self._check_papers()
        for checked in self._chains.values():
            checked.finish()
        for problem, sql in _ORPHANS.items():
            async for id_, found in pages(self._view, sql, _PAGE):
                if found is None:
                    self._report.add(problem.format(id_))
        await self._check_balances()
        await self._check_spends()
        await self._check_allowances()
        await verify_payments.check(self._view, self._report.add)
        await rollups.check(self._view, self._report.add, self._dropped.until)
        await usage_days.check(self._view, self._report.add, self._dropped.until)
        await retention.check_sums(self._view, self._dropped, self._report.add)
        self._report.trial_balance = self._trial
        if sum(self._trial.values()):
            self._report.add(f"the trial balance is {sum(self._trial.values())} nano-USD, not zero")

    async def _read_prices(self) -> None:
        chain = self._chains.get(seal.PRICE)
        for id_, digest, terms, at in await self._view.fetch(_PRICES):
            if chain is not None:
                chain.add((id_, terms, at), [])
            try:
                self._prices[id_] = msgspec.json.decode(terms, type=Terms)
            except msgspec.MsgspecError:
                self._report.add(f"price version {id_} cannot be read")
            if hashlib.sha256(terms.encode()).digest() != bytes(digest):
                self._report.add(f"price version {id_} was changed: it does not match its digest")

    async def _check_ids(self, table: str) -> None:
        [(count,)] = await self._view.fetch(_OUTSIDE[table], *ALL_IDS)
        if count:
            self._report.add(f"{count} rows of {table} have an id below 1 or too large, which no row is ever given")

    def _carry(self) -> None:
        """What requests that were dropped come to."""
        for (kind, id_, part), amount in self._dropped.carried.items():
            if kind == retention.SPENT and part == self._since.get(id_, 0):
                self._spend(id_).spent += amount
            elif kind == retention.TOKENS:
                self._quota(id_, part).used += amount
            elif kind == "promo":
                self._effect(id_).promo -= amount
                self._effect(id_).paid += amount
            elif kind == "charge":
                self._effect(id_).paid -= amount
        charge, promo, loss, cost = (
            sum(amount for (kind, *_), amount in self._dropped.carried.items() if kind == name)
            for name in ("charge", "promo", "loss", "cost")
        )
        for entry in usage_entries(charge, promo, loss, cost):
            self._trial[entry.book] += entry.amount

    # --- what happened ---

    async def _check_holds(self) -> None:
        chain, epoch = None, -1
        async for row, steps in seal.holds(self._view, *ALL_IDS):
            if epoch_of(row[0]) != epoch:
                epoch = epoch_of(row[0])
                chain = self._chains.get(f"{seal.USAGE}{epoch}")
                if epoch not in self._swept:
                    self._report.add(f"hold {row[0]} belongs to no process")
            if row[0] <= self._dropped.positions.get(f"{seal.USAGE}{epoch}", 0):
                self._report.add(f"hold {row[0]} is there, but was noted as dropped")
            if chain is not None:
                chain.add(row, steps)
            self._report.holds += 1
            self._check_hold(row, sum(step[2] for step in steps))

    def _check_hold(self, row: Row, extended: int) -> None:
        id_, account_id, key_id, first, limited, _ = row[:HOLD_WIDTH]
        tokens, period = row[-HOLD_TAIL:]
        if tokens is not None:
            # Its extensions are tokens too.
            tokens, extended = tokens + extended, 0
        if row[HOLD_WIDTH] is None:
            self._report.open_holds += 1
            if self._swept.get(epoch_of(id_)):
                self._report.add(f"hold {id_} is open, but its process is dead and was swept")
            self._effect(account_id).held += first + extended
            if limited:
                self._spend(key_id).held += first + extended
            if tokens is not None:
                self._quota(account_id, period).held += tokens
            return
        try:
            end = end_row(row[HOLD_WIDTH:-HOLD_TAIL])
        except (ValueError, TypeError, msgspec.MsgspecError):
            self._report.add(f"usage row of hold {id_} cannot be read")
            return
        if (end.account_id, end.key_id, end.limited) != (account_id, key_id, bool(limited)):
            self._report.add(f"usage row of hold {id_} names another account or key than the hold")
        if end.held != first + extended:
            self._report.add(f"usage row of hold {id_} gave back {end.held}, but {first + extended} was held")
        if (end.allowance is None) != (tokens is None):
            self._report.add(f"usage row of hold {id_} and the hold differ in what pays: included tokens or money")
        elif end.allowance is not None:
            self._quota(account_id, period).used += end.allowance
        for problem in self._wrong_amounts(end):
            self._report.add(f"usage row of hold {id_} {problem}")
        effect = self._effect(end.account_id)
        effect.promo -= end.promo
        effect.paid -= end.charge - end.promo
        if end.limited:
            self._spend_at(end.key_id, end.ended_at).spent += end.charge
        for entry in usage_entries(end.charge, end.promo, end.loss, end.record.cost):
            self._trial[entry.book] += entry.amount

    def _wrong_amounts(self, end: EndRow) -> Iterator[str]:
        record = end.record
        if not 0 <= end.promo <= end.charge or end.loss < 0 or record.cost < 0:
            yield (
                f"has impossible amounts: charge {end.charge}, promo {end.promo}, loss {end.loss}, cost {record.cost}"
            )
        if record.price_version not in self._prices:
            yield f"refers to price version {record.price_version}, which does not exist"
            return
        terms = self._prices[record.price_version]
        due = end.charge + end.loss
        if end.allowance is not None and (due or not 0 <= end.allowance <= record.tokens):
            yield f"charges {due} and {end.allowance} included tokens, but used {record.tokens} tokens"
        if terms is None:
            if due or record.cost:
                yield f"charges {due} and costs {record.cost} without a price"
            return
        try:
            full = money.charge(record, terms.price, terms.multiplier_ppm)
        except ValueError:
            yield "has impossible meters"
            return
        # Whoever is not charged in full is charged nothing; what could not be charged is the loss.
        if end.allowance is None and due != full and (due or record.outcome is Outcome.COMPLETED):
            yield f"charges {end.charge} and loses {end.loss}, but what was used is worth {full}"

    async def _check_journal(self) -> None:
        chain = self._chains.get(seal.JOURNAL)
        async for row, entries in seal.transactions(self._view, *ALL_IDS):
            if chain is not None:
                chain.add(row, entries)
            self._report.transactions += 1
            self._check_transaction(row, entries)

    async def check_activity(self) -> None:
        """Only what people did, and its seals."""
        sealed = await seal.read(self._view)
        if seal.ACTIVITY in sealed:
            self._chains[seal.ACTIVITY] = _Chain(seal.ACTIVITY, sealed[seal.ACTIVITY], self._report, self._dropped)
        await self._check_ids("activity")
        await self._check_activity()
        for checked in self._chains.values():
            checked.finish()

    async def _check_activity(self) -> None:
        chain = self._chains.get(seal.ACTIVITY)
        async for row in activity.sealed_rows(self._view, *ALL_IDS):
            if chain is not None:
                chain.add(row[: activity.SEALED_WIDTH], [])
            self._report.deeds += 1
            if wrong := activity.complaint(row):
                self._report.add(f"activity {row[0]} ({row[3]}) {wrong}")

    async def _check_papers(self) -> None:
        """What invoices say; that they are of payments is for `verify_payments`."""
        chain = self._chains.get(seal.INVOICE)
        if chain is not None:
            async for row, parts in seal.papers(self._view, *ALL_IDS):
                chain.add(row, parts)

    def _check_transaction(self, row: Row, entries: list[Row]) -> None:
        id_, key, kind, account_id, _, actor, at = row
        if kind not in set(Kind):
            self._report.add(f"transaction {id_} ({key}) is of the unknown kind {kind!r}")
        if not entries or sum(amount for *_, amount in entries):
            self._report.add(f"the entries of transaction {id_} ({key}) do not sum to zero")
        if [line for _, line, _, _ in entries] != list(range(len(entries))):
            self._report.add(f"transaction {id_} ({key}) lacks an entry")
        effect = self._effect(account_id)
        late_of = _OF_KEY.fullmatch(actor) if kind == Kind.LATE else None
        spend = self._spend_at(int(late_of[1]), at) if late_of else Spend()
        for _, _, book, amount in entries:
            if book not in self._trial:
                self._report.add(f"transaction {id_} ({key}) has an entry in the unknown account {book!r}")
                continue
            self._trial[Book(book)] += amount
            if book == Book.CUSTOMER_PAID:
                effect.paid += amount
                spend.spent -= amount
            elif book == Book.CUSTOMER_PROMO:
                effect.promo += amount
                spend.spent -= amount

    # --- what is kept of it ---

    async def _check_balances(self) -> None:
        async for account_id, *kept in pages(self._view, _BALANCES, _PAGE):
            self._report.accounts += 1
            effect = self._effects.pop(account_id, None) or Effect()
            for name, value in zip(("paid", "promo", "held"), kept, strict=True):
                if value != getattr(effect, name):
                    self._report.add(
                        f"account {account_id}: {name} is {value}, but the rows say {getattr(effect, name)}"
                    )
        for account_id in self._effects:
            self._report.add(f"account {account_id} has transactions, but no balance")

    async def _check_spends(self) -> None:
        async for key_id, *kept in pages(self._view, _SPENDS, _PAGE):
            spend = self._spends.pop(key_id, None) or Spend()
            for name, value in zip(("spent", "held"), kept, strict=True):
                if value != getattr(spend, name):
                    self._report.add(f"key {key_id}: {name} is {value}, but the rows say {getattr(spend, name)}")
        for key_id, spend in self._spends.items():
            if spend.spent or spend.held:
                self._report.add(f"key {key_id} has spent under a limit, but has no row in key_spend")

    async def _check_allowances(self) -> None:
        after = (0, 0)
        while rows := await self._view.fetch(_ALLOWANCES, *after, _PAGE):
            after = further((rows[-1][0], rows[-1][1]), after)
            for account_id, period, *kept in rows:
                quota = self._quotas.pop((account_id, period), None) or Quota()
                for name, value in zip(("used", "held"), kept, strict=True):
                    if value != getattr(quota, name):
                        self._report.add(
                            f"account {account_id}: {name} of the included tokens of {period} is {value}, but the rows "
                            f"say {getattr(quota, name)}"
                        )
        for account_id, period in self._quotas:
            self._report.add(f"account {account_id} has used included tokens of {period}, but has no row in allowance")

    def _quota(self, account_id: int, period: int) -> Quota:
        return self._quotas.setdefault((account_id, period), Quota())

    def _effect(self, account_id: int) -> Effect:
        return self._effects.setdefault(account_id, Effect())

    def _spend(self, key_id: int) -> Spend:
        return self._spends.setdefault(key_id, Spend())

    def _spend_at(self, key_id: int, at: int) -> Spend:
        """Where a charge of this time counts: nowhere, if the key's limit began anew since."""
        return self._spend(key_id) if at >= self._since.get(key_id, 0) else Spend()


class _Chain:
    """The seals of one chain, compared with the rows as they come by."""

    def __init__(self, chain: str, seals: list[Seal], report: Report, dropped: retention.Dropped) -> None:
        self._chain = chain
        self._seals = iter(seals)
        self._dropped_until = dropped.positions.get(chain, 0)
        self._dropped = iter(dropped.counts.get(chain, ()))
        self._report = report
        self._before = b""
        self._next = _first_of(chain)
        self._seal: Seal | None = None
        self._digest = Digest(chain, 0, b"")
        self._advance()

    def add(self, row: Row, parts: list[Row]) -> None:
        while self._seal is not None and row[0] > self._seal.last:
            self._close(self._seal)
        if self._seal is not None and row[0] >= self._seal.first:
            self._digest.add(row, parts)

    def finish(self) -> None:
        while self._seal is not None:
            self._close(self._seal)

    def _close(self, sealed: Seal) -> None:
        self._report.seals += 1
        name = f"the seal over {sealed.first} to {sealed.last} of {self._chain}"
        if sealed.first != self._next:
            self._report.add(f"{name} does not follow on the one before it: a seal is missing")
        if sealed.first <= self._dropped_until:
            self._close_dropped(name, sealed)
        else:
            if self._digest.count != sealed.count:
                self._report.add(
                    f"{name} counted {plural(sealed.count, 'row')}, but now there are {self._digest.count}"
                )
            if self._digest.close(sealed.last, sealed.at) != sealed.digest:
                self._report.add(f"{name} is broken: a row under it was changed, or the seal itself")
        self._before, self._next = sealed.digest, sealed.last + 1
        self._advance()

    def _close_dropped(self, name: str, sealed: Seal) -> None:
        """Of a range that is being dropped nothing is left to prove; of one that is gone, how many rows it had."""
        if sealed.last > self._dropped_until:
            return
        count = 0
        for last, more in self._dropped:
            count += more
            if last >= sealed.last:
                break
        if count != sealed.count:
            self._report.add(f"{name} counted {plural(sealed.count, 'row')}, but {count} were dropped")

    def _advance(self) -> None:
        self._seal = next(self._seals, None)
        if self._seal is not None:
            self._digest = Digest(self._chain, self._seal.first, self._before)


def _first_of(chain: str) -> int:
    """The first id that a chain's first seal covers; of a chain that there cannot be, none."""
    if chain in (seal.JOURNAL, seal.ACTIVITY, seal.INVOICE, seal.PRICE):
        return 1
    epoch = chain.removeprefix(seal.USAGE)
    return hold_id(int(epoch), 0) + 1 if epoch.isdecimal() and epoch != chain else -1
