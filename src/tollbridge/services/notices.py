"""What customers are told about their money: a receipt, a top-up that stopped, a low balance."""

from datetime import UTC, datetime

from tollbridge.core.ledger import MAX_AMOUNT
from tollbridge.core.money import format_usd
from tollbridge.core.payments import Payment
from tollbridge.errors import InvalidRequest
from tollbridge.services.desk import Desk
from tollbridge.services.mail import Mail
from tollbridge.store import members, top_ups
from tollbridge.store.accounts import Account
from tollbridge.store.db import Database, Transaction, run
from tollbridge.store.top_ups import Low

_BATCH = 200
_PAGE = "/dashboard/billing"


def receipt(name: str, url: str, recipient: str, payment: Payment, number: str) -> Mail:
    """Credit was bought."""
    return Mail(
        recipient,
        f"{name}: Receipt {number}",
        f"Hello,\n\nyour payment has arrived: {format_usd(payment.amount)} USD of credit"
        + (f", and {format_usd(payment.tax)} USD of tax" if payment.tax else "")
        + f". Credit never expires. Your invoice {number} is here:\n\n    {url}{_PAGE}/invoices\n\n{name}\n",
    )


def month_paid(name: str, url: str, recipient: str, payment: Payment, number: str) -> Mail:
    """A month of a plan was paid."""
    return Mail(
        recipient,
        f"{name}: Receipt {number}",
        f"Hello,\n\nyour payment of {format_usd(payment.total)} USD for a month of your plan has arrived"
        + (f", {format_usd(payment.tax)} USD of it tax" if payment.tax else "")
        + f". Your invoice {number} is here:\n\n    {url}{_PAGE}/invoices\n\n{name}\n",
    )


def plan_unpaid(name: str, url: str, recipient: str, plan: str, until: int) -> Mail:
    """The next month of a plan could not be paid for. `until` in milliseconds."""
    day = datetime.fromtimestamp(until / 1000, UTC).strftime("%-d %B %Y")
    return Mail(
        recipient,
        f"{name}: {plan} could not be paid",
        f"Hello,\n\nyour card could not be charged for the next month of {plan}. It will be tried again over the next "
        f"days; unless that succeeds, you keep the plan until {day} (UTC). Your credit and your keys stay as they are. "
        f"See your plan here:\n\n    {url}{_PAGE}/plan\n\n{name}\n",
    )


def plan_ended(name: str, url: str, recipient: str, plans: tuple[str, str]) -> Mail:
    """`plans`: the one that has ended, and the one that replaces it."""
    return Mail(
        recipient,
        f"{name}: {plans[0]} has ended",
        f"Hello,\n\nyour plan {plans[0]} has ended, and nothing more is charged for it. You are on {plans[1]} now; "
        f"your credit and your keys stay as they are. All plans are here:\n\n    {url}{_PAGE}/plan\n\n{name}\n",
    )


def stopped(name: str, url: str, recipient: str, why: str) -> Mail:
    """Automatic top-ups have stopped."""
    return Mail(
        recipient,
        f"{name}: Automatic top-ups have stopped",
        f"Hello,\n\nyour card could not be charged three times in a row, so automatic top-ups have stopped. {why} "
        f"You can switch them on again here, with another card if need be:\n\n    {url}{_PAGE}\n\n{name}\n",
    )


def low(name: str, url: str, recipient: str, account: Low) -> Mail:
    """The balance is below a threshold."""
    left = format_usd(max(0, account.available))
    return Mail(
        recipient,
        f"{name}: {left} USD of credit left",
        f"Hello,\n\nyou have {left} USD of credit left. When it is used up, calls that cost something are refused. "
        f"Buy more here, or switch on automatic top-ups:\n\n    {url}{_PAGE}\n\n{name}\n",
    )


async def tell_low_balances(desk: Desk) -> int:
    """Write to accounts that bought credit and have little left, once per threshold; how many. Runs every minute.

    An account that is above all thresholds again will be told again the next time.
    """
    thresholds = desk.settings.billing.low_balance
    now, count = await desk.database.now(), 0
    # Lowest first: an account with almost nothing left is not told of the higher ones too.
    for threshold in thresholds:
        for account in await top_ups.low(desk.database, threshold, _BATCH):
            count += await _tell(desk, account, now)
    for account in await top_ups.low_by_choice(desk.database, _BATCH):
        count += await _tell(desk, account, now)
    highest = thresholds[-1] if thresholds else 0
    await run(desk.database, lambda transaction: top_ups.forget_told(transaction, highest))
    return count


async def _tell(desk: Desk, account: Low, now: int) -> bool:
    to = await members.recipient(desk.database, account.account_id, account.email)
    letter = low(desk.settings.brand.name, desk.url, to, account)

    async def use_case(transaction: Transaction) -> bool:
        new = await top_ups.told(transaction, account.account_id, account.threshold, now)
        if new:
            await desk.post.put(transaction, letter, now)
        return new

    told = await run(desk.database, use_case)
    if told:
        desk.post.hurry(letter)
    return told


async def choose_threshold(database: Database, account: Account, threshold: int | None) -> None:
    """Tell this account when less than `threshold` nano-USD is left; 0: never, None: as the operator says.

    InvalidRequest: negative, or more than an account can hold.
    """
    if threshold is not None and not 0 <= threshold < MAX_AMOUNT:
        raise InvalidRequest("a threshold is 0, for no mail, or an amount in USD", param="threshold")
    await run(database, lambda transaction: top_ups.choose_threshold(transaction, account.id, threshold))


def is_low(account: Account, thresholds: tuple[int, ...]) -> bool:
    """Whether pages should warn: less is left than the account's own threshold, or the operator's highest.

    An account that never bought any is warned when all is gone: the first credit is a gift, and small.
    """
    if account.alert is not None:
        return account.available < account.alert
    return account.available <= 0 or (account.paid > 0 and account.available < max(thresholds, default=0))
