"""Vouchers: codes worth credit once. Promotional ones are a gift; paid ones were sold elsewhere."""

import hashlib
import secrets

import msgspec

from tollbridge.core import ledger
from tollbridge.core.ledger import MAX_AMOUNT, Post, Posted
from tollbridge.core.money import format_usd
from tollbridge.errors import Conflict, Faults, InvalidRequest
from tollbridge.store import activity, journal, vouchers
from tollbridge.store.accounts import Account
from tollbridge.store.activity import NewDeed
from tollbridge.store.db import Database, Duplicate, Transaction, run
from tollbridge.store.rows import ABOVE_ALL
from tollbridge.store.vouchers import Voucher
from tollbridge.values import LATEST_MS

PROMO, PAID = "promo", "paid"
# Without characters that are mistaken for others when read aloud or typed, and without vowels: codes are printed and
# given to people, and must not spell a word.
_ALPHABET = "23456789BCDFGHJKMNPQRSTVWXYZ"
_GROUPS, _GROUP = 5, 4
_MOST = 1_000
_MOST_NOTE = 200
# The characters of a token of 256 bits.
_LEAST_SEED = 43


class MadeVoucher(msgspec.Struct, frozen=True):
    """A new code, which is shown only now."""

    code: str
    id: int


async def create(
    database: Database, amount: int, *, kind: str = PROMO, count: int = 1, expires_at: int | None = None,
    note: str = "", actor: str, address: str = "", once: str = "",
) -> list[MadeVoucher]:  # fmt: skip
    """New codes worth `amount` nano-USD each. `expires_at` in milliseconds. InvalidRequest: not acceptable.

    `once`: at least 256 random bits from which the codes are made; a shorter text is ignored. Conflict: these vouchers
    already exist.
    """
    now = await database.now()
    check(amount, kind=kind, count=count, expires_at=expires_at, note=note, now=now)
    seed = once if len(once) >= _LEAST_SEED else secrets.token_urlsafe(32)

    async def use_case(transaction: Transaction) -> list[MadeVoucher]:
        made = []
        for number in range(count):
            code = _code(seed, number)
            row = Voucher(
                id=0, hint=f"…{code[-_GROUP:]}", kind=kind, amount=amount, note=note, actor=actor, created_at=now,
                expires_at=expires_at, withdrawn_at=None, redeemed_at=None, account_id=None,
            )  # fmt: skip
            made.append(MadeVoucher(code, await vouchers.create(transaction, row, _digest(code))))
        detail = f"{count} of {format_usd(amount)} USD, {kind}, from {made[0].id} on"
        await _note(transaction, actor, address, ("vouchers.created", detail), now)
        return made

    try:
        return await run(database, use_case)
    except Duplicate:
        raise Conflict(
            "These vouchers already exist: the form was sent twice. The codes were shown the first time."
        ) from None


def check(amount: int, *, kind: str, count: int, expires_at: int | None, note: str, now: int) -> None:
    """InvalidRequest names all that `create` refuses."""
    with Faults() as faults:
        if not 0 < amount < MAX_AMOUNT:
            faults.add("The amount must be above zero.", "amount")
        if kind not in {PROMO, PAID}:
            faults.add(f"Vouchers are {PROMO} or {PAID}.", "kind")
        if not 0 < count <= _MOST:
            faults.add(f"From 1 to {_MOST} vouchers can be made at once.", "count")
        if len(note) > _MOST_NOTE or not note.isprintable():
            faults.add(f"A note has at most {_MOST_NOTE} printable characters.", "note")
        if expires_at is not None and expires_at <= now:
            faults.add("The vouchers would already have expired.", "expires_at")
        if expires_at is not None and expires_at >= LATEST_MS:
            faults.add("This is too far in the future. Leave it out for vouchers that never expire.", "expires_at")


async def redeem(database: Database, account: Account, code: str) -> Voucher:
    """Credit a voucher, once and for all. InvalidRequest, always in the same words: it is not worth anything."""
    now = await database.now()
    digest = _digest(code)

    async def use_case(transaction: Transaction) -> Voucher | None:
        voucher = await vouchers.redeem(transaction, digest, account.id, now)
        if voucher is not None:
            verdict = await journal.post(database, transaction, _credit(voucher, account), now)
            assert isinstance(verdict, Posted), verdict
        return voucher

    voucher = await run(database, use_case)
    if voucher is None:
        raise InvalidRequest("This code is not valid, has expired, or has already been used.", param="code")
    return voucher


async def withdraw(database: Database, id_: int, *, actor: str, address: str = "") -> None:
    """Make a voucher worthless. InvalidRequest: it was redeemed or withdrawn before, or does not exist."""
    now = await database.now()

    async def use_case(transaction: Transaction) -> bool:
        done = await vouchers.withdraw(transaction, id_, now)
        if done:
            await _note(transaction, actor, address, ("voucher.withdrawn", str(id_)), now)
        return done

    if not await run(database, use_case):
        raise InvalidRequest(f"There is no open voucher {id_}.", param="id")


async def listed(database: Database, count: int = 200) -> list[Voucher]:
    """The latest vouchers, newest first."""
    return await vouchers.page(database, ABOVE_ALL, count)


async def _note(transaction: Transaction, actor: str, address: str, what: tuple[str, str], now: int) -> None:
    """`what`: the action and its detail."""
    action, detail = what
    deed = NewDeed(account_id=activity.GATEWAY, actor=actor, action=action, detail=detail, address=address)
    await activity.add(transaction, deed, now)


def _credit(voucher: Voucher, account: Account) -> Post:
    """A gift, or credit that somebody has paid for elsewhere."""
    make = ledger.grant if voucher.kind == PROMO else ledger.top_up
    return make(
        account.id,
        voucher.amount,
        idempotency_key=f"voucher/{voucher.id}",
        reason=f"voucher {voucher.hint}",
        actor=f"account/{account.public_id}",
    )


def _code(seed: str, number: int) -> str:
    chance = int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest())
    signs = ""
    for _ in range(_GROUPS * _GROUP):
        chance, sign = divmod(chance, len(_ALPHABET))
        signs += _ALPHABET[sign]
    return "-".join(signs[at : at + _GROUP] for at in range(0, len(signs), _GROUP))


def _digest(code: str) -> bytes:
    """The same however it was typed. The codes have 96 random bits: their digest needs no salt."""
    plain = "".join(sign for sign in code[:200].upper() if sign.isalnum())
    return hashlib.sha256(plain.encode()).digest()
