"""Leaving: taking a copy of one's data, and having it forgotten."""

from collections.abc import AsyncIterator

import msgspec
from msgspec import Raw

from tollbridge.core.money import format_usd
from tollbridge.core.payments import Payment
from tollbridge.core.roles import ADMINS, PAYERS, Role
from tollbridge.errors import Forbidden, InvalidRequest
from tollbridge.services import accounts, credit, top_ups
from tollbridge.services.balance_changes import balance_changes
from tollbridge.services.desk import Desk
from tollbridge.services.payments import Payments
from tollbridge.services.sessions import Presence
from tollbridge.store import (
    account_keys,
    activity,
    byok,
    identities,
    invoices,
    leaving,
    management_keys,
    members,
    passkeys,
    payments,
    sessions,
    subscriptions,
    users,
)
from tollbridge.store.accounts import Account
from tollbridge.store.activity import NewDeed
from tollbridge.store.db import Database, Transaction, run
from tollbridge.store.invoices import Invoice
from tollbridge.store.rows import ABOVE_ALL
from tollbridge.store.users import User

_PAGE = 500


async def export(desk: Desk, presence: Presence) -> AsyncIterator[bytes]:
    """What is kept about a user and the account that they look at, one JSON object a line, `kind` first.

    Payments and invoices are for those who may pay; members, keys, activity and the statement for owners and admins.
    Prompts and answers are not kept.
    """
    database, account = desk.database, presence.account
    async for line in _of_user(database, presence.user):
        yield line
    if account is None:
        return
    amounts = {name: format_usd(getattr(account, name)) for name in ("paid", "promo", "held")}
    yield _line("account", {"id": account.public_id, "email": account.email, "plan": account.plan, **amounts})
    if presence.role in PAYERS:
        async for line in _of_payments(database, account.id):
            yield line
    if presence.role in ADMINS:
        async for line in _of_account(database, account.id):
            yield line


async def _of_user(database: Database, user: User) -> AsyncIterator[bytes]:
    yield _line("user", {"id": user.public_id, "email": user.email, "created_at": user.created_at})
    for session in await sessions.of_user(database, user.id):
        yield _line("session", {"seen_at": session.seen_at, "address": session.address, "agent": session.agent})
    for passkey in await passkeys.of_user(database, user.id):
        yield _line("passkey", {"label": passkey.label, "created_at": passkey.created_at, "used_at": passkey.used_at})
    for issuer, created_at in await identities.of_user(database, user.id):
        yield _line("log_in_by", {"issuer": issuer, "created_at": created_at})
    for belonging in await members.of_user(database, user.id):
        yield _line("membership", {"account": belonging.public_id, "role": belonging.role})


async def _of_payments(database: Database, account_id: int) -> AsyncIterator[bytes]:
    buyer = await invoices.buyer(database, account_id)
    if buyer is not None:
        yield _line("buyer", msgspec.to_builtins(buyer))
    before = ABOVE_ALL
    while orders := await payments.of_account(database, account_id, before, _PAGE):
        for order in orders:
            facts = _picked(order, "status", "method", "currency", "created_at", "paid_at")
            yield _line("payment", {"id": order.public_id, **facts, **_amounts(order)})
        before = orders[-1].id
    before = ABOVE_ALL
    while papers := await invoices.of_account(database, account_id, before, _PAGE):
        for paper in papers:
            facts = {"paper": paper.kind, **_picked(paper, "number", "payment", "currency", "issued_at")}
            yield _line("invoice", {**facts, **_amounts(paper), "buyer": Raw(paper.buyer.encode())})
        before = papers[-1].number


async def _of_account(database: Database, account_id: int) -> AsyncIterator[bytes]:
    for member in await members.of_account(database, account_id):
        yield _line("member", _picked(member, "email", "role", "since"))
    for key in reversed(await account_keys.of_account(database, account_id)):
        yield _line("key", {"id": key.public_id, **_picked(key, "hint", "label", "created_at")})
    for manager in await management_keys.of_account(database, account_id):
        facts = _picked(manager, "hint", "label", "created_at", "used_at")
        yield _line("management_key", {"id": manager.public_id, **facts})
    for own in await byok.of_account(database, account_id):
        yield _line("provider_key", {"id": own.public_id, **_picked(own, "provider", "hint", "label", "created_at")})
    before = ABOVE_ALL
    while deeds := await activity.page(database, account_id, before, _PAGE):
        for deed in deeds:
            yield _line("activity", msgspec.to_builtins(deed))
        before = deeds[-1].id
    async for line in balance_changes(database, account_id):
        amounts = {"amount_usd": format_usd(line.amount), "balance_usd": format_usd(line.balance)}
        yield _line("statement", {"at": line.at, "what": line.what, **amounts})


def _picked(row: msgspec.Struct, *names: str) -> dict[str, object]:
    return {name: getattr(row, name) for name in names}


def _amounts(row: Payment | Invoice) -> dict[str, object]:
    return {"amount_usd": format_usd(row.amount), "tax_usd": format_usd(row.tax)}


def check(presence: Presence, typed: str) -> Account:
    """The account to be closed. `typed` must be its address, as a safeguard. Forbidden: they do not own it.

    InvalidRequest: it is another address.
    """
    account = presence.account
    assert account is not None
    if presence.role is not Role.OWNER:
        raise Forbidden("Only an owner can close an account.", code="role")
    if typed.strip().lower() != account.email:
        raise InvalidRequest("Type the account's e-mail address exactly as shown.", param="typed")
    return account


async def close(desk: Desk, presence: Presence, typed: str) -> None:
    """Close the account that the user looks at, and forget the user if it was their only one; operators are kept.

    `typed`: see `check`. Withdraw unpaid orders before calling this. InvalidRequest: a plan runs and is not cancelled.
    """
    account = check(presence, typed)
    if await _pays_for_a_plan(desk.database, account):
        raise InvalidRequest("Cancel your plan first: you pay for it by the month.", param="typed")
    await _close(desk.database, account, presence.user, leaving.pseudonym(account))


async def close_for(ways: Payments, named: str, *, forfeit: bool, actor: str) -> tuple[Account, Account]:
    """As `close`, by the operator, for who cannot or does not: the account before and after. Unpaid orders are
    withdrawn.

    The user who has its address is forgotten if it was their only account. `named`: see `accounts.named`; `forfeit`:
    also if paid credit is left; `actor`: see `accounts.set_frozen`. NotFound. InvalidRequest: a plan runs, or paid
    credit is left. ProcessorUnavailable: an order may still be paid.
    """
    account = await accounts.named(ways.database, named)
    if account.closed:
        raise InvalidRequest(f"{account.public_id} is closed already", param="account")
    if await _pays_for_a_plan(ways.database, account):
        raise InvalidRequest("it pays for a plan by the month: end that first, under Operator → Subscribers")
    if account.paid > 0 and not forfeit:
        raise InvalidRequest(
            f"{format_usd(account.paid)} USD of paid credit is left: refund it first (tollbridge payment refund), "
            "or add --forfeit"
        )
    await ways.subscriptions.withdraw(account)
    await ways.withdraw(account)
    await top_ups.forget_card(ways, account)
    await _close(ways.database, account, await users.by_email(ways.database, account.email), actor)
    return account, await accounts.named(ways.database, account.public_id)


async def _pays_for_a_plan(database: Database, account: Account) -> bool:
    subscription = await subscriptions.open_of(database, account.id)
    return subscription is not None and subscription.runs and not subscription.ending


async def _close(database: Database, account: Account, user: User | None, actor: str) -> None:
    """Close it, take its gifts back, and forget `user` if they belong to no other; operators are kept."""
    now = await database.now()

    async def use_case(transaction: Transaction) -> None:
        await leaving.close_account(transaction, account.id, leaving.pseudonym(account), now)
        await credit.take_back(database, transaction, account.id, now)
        await activity.add(transaction, NewDeed(account_id=account.id, actor=actor, action="account.closed"), now)
        if user is not None and not user.operator and not await members.of_user(transaction, user.id):
            await _forget(transaction, user)

    await run(database, use_case)


async def forget(desk: Desk, user: User) -> None:
    """Forget a user who belongs to no account. InvalidRequest: they belong to one, or are an operator."""

    async def use_case(transaction: Transaction) -> None:
        if user.operator or await members.of_user(transaction, user.id):
            raise InvalidRequest("Leave or close all accounts first. Operators are not deleted.")
        await _forget(transaction, user)

    await run(desk.database, use_case)


async def _forget(transaction: Transaction, user: User) -> None:
    await activity.rename(transaction, user.email)
    await leaving.forget_letters(transaction, user.email)
    await users.delete(transaction, user.id)


def _line(kind: str, fields: dict[str, object]) -> bytes:
    return msgspec.json.encode({"kind": kind, **fields}) + b"\n"
