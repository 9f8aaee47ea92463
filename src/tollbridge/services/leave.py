"""Leaving: taking a copy of one's data, and having it forgotten."""

from collections.abc import AsyncIterator

import msgspec

from tollbridge.core.money import format_usd
from tollbridge.core.roles import Role
from tollbridge.errors import Forbidden, InvalidRequest
from tollbridge.services.desk import Desk
from tollbridge.services.sessions import Presence
from tollbridge.services.statement import statement
from tollbridge.store import activity, keys, leaving, members, sessions, subscriptions, users
from tollbridge.store.accounts import Account
from tollbridge.store.activity import NewDeed
from tollbridge.store.db import Transaction, run

_ALL = (1 << 62) - 1
_PAGE = 500


async def export(desk: Desk, presence: Presence) -> AsyncIterator[bytes]:
    """What is kept about a user and the account that they look at, one JSON object a line, `kind` first.

    Members, keys, activity and the statement are for owners and admins only. Prompts and answers are not kept.
    """
    database, user, account = desk.database, presence.user, presence.account
    yield _line("user", {"id": user.public_id, "email": user.email, "created_at": user.created_at})
    for session in await sessions.of_user(database, user.id):
        yield _line("session", {"seen_at": session.seen_at, "address": session.address, "agent": session.agent})
    for belonging in await members.of_user(database, user.id):
        yield _line("membership", {"account": belonging.public_id, "role": belonging.role})
    if account is None:
        return
    amounts = {name: format_usd(getattr(account, name)) for name in ("paid", "promo", "held")}
    yield _line("account", {"id": account.public_id, "email": account.email, "plan": account.plan, **amounts})
    if presence.role not in {Role.OWNER, Role.ADMIN}:
        return
    for member in await members.of_account(database, account.id):
        yield _line("member", {"email": member.email, "role": member.role, "since": member.since})
    for key in await keys.of_account(database, account.id):
        yield _line("key", {"id": key.public_id, "hint": key.hint, "label": key.label, "created_at": key.created_at})
    before = _ALL
    while deeds := await activity.page(database, account.id, before, _PAGE):
        for deed in deeds:
            yield _line("activity", msgspec.to_builtins(deed))
        before = deeds[-1].id
    async for line in statement(database, account.id):
        amounts = {"amount_usd": format_usd(line.amount), "balance_usd": format_usd(line.balance)}
        yield _line("statement", {"at": line.at, "what": line.what, **amounts})


def check(presence: Presence, typed: str) -> Account:
    """The account to be closed. `typed` must be its address, as a safeguard. Forbidden: they do not own it.

    InvalidRequest: it is another address.
    """
    account = presence.account
    assert account is not None
    if presence.role is not Role.OWNER:
        raise Forbidden("Only an owner can close an account.", code="role")
    if typed.strip().lower() != account.email:
        raise InvalidRequest("Type the account's e-mail address as it stands above.", param="typed")
    return account


async def close(desk: Desk, presence: Presence, typed: str) -> None:
    """Close the account that the user looks at, and forget the user if it was their only one; operators are kept.

    `typed`: see `check`. Withdraw unpaid orders before calling this. InvalidRequest: a plan runs and is not cancelled.
    """
    account, user = check(presence, typed), presence.user
    subscription = await subscriptions.open_of(desk.database, account.id)
    if subscription is not None and subscription.runs and not subscription.ending:
        raise InvalidRequest("Cancel your plan first: it is paid for by the month.", param="typed")
    now = await desk.database.now()
    pseudonym = leaving.pseudonym(account)

    async def use_case(transaction: Transaction) -> None:
        await leaving.close_account(transaction, account.id, pseudonym, now)
        await activity.add(transaction, NewDeed(account_id=account.id, actor=pseudonym, action="account.closed"), now)
        if not await members.of_user(transaction, user.id) and not user.operator:
            await activity.rename(transaction, user.email, "somebody who left")
            await leaving.forget_letters(transaction, user.email)
            await users.delete(transaction, user.id)

    await run(desk.database, use_case)


def _line(kind: str, fields: dict[str, object]) -> bytes:
    return msgspec.json.encode({"kind": kind, **fields}) + b"\n"
