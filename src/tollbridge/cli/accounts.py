"""`tollbridge account`, `key` and `credit`."""

import sys
from typing import TYPE_CHECKING, Any

import click

from tollbridge.cli.shell import (
    DATE,
    USD,
    Whole,
    actor,
    as_json,
    at_till,
    configured,
    print_fields,
    print_json,
    print_table,
    say,
    time,
    to_account,
    with_database,
)

if TYPE_CHECKING:
    from tollbridge.config import Settings
    from tollbridge.store.account_keys import AccountKey
    from tollbridge.store.accounts import Account
    from tollbridge.store.db import Database

_reason = click.option("--reason", help="Why; the account's members can read it.")
_KEY_COLUMNS = ("id", "key", "status", "limit_usd", "spent_usd", "expires_at", "number", "label")


@click.group()
def account() -> None:
    """Manage the accounts of customers.

    \b
    Example:
      tollbridge account create ada@example.com --credit 5.00
      tollbridge account show ada@example.com
    """


@account.command("create")
@click.argument("email")
@click.option("--plan", default="default", show_default=True, help="The plan, as named in the configuration.")
@click.option("--credit", type=USD, metavar="USD", help="Promotional credit to start with.")
@as_json
@configured
def account_create(settings: "Settings", email: str, plan: str, credit: int | None, as_json: bool) -> None:
    """Create an account for an e-mail address.

    \b
    Example:
      tollbridge account create ada@example.com --credit 5.00
    """
    from tollbridge.services import accounts

    async def make(database: "Database") -> "Account":
        return await accounts.create(
            database, email, plan=plan, plans=settings.plans, credit=credit or 0, actor=actor()
        )

    _print_account(with_database(settings, make, new=True), as_json)


@account.command("list")
@as_json
@configured
def account_list(settings: "Settings", as_json: bool) -> None:
    """List all accounts and what they have left.

    \b
    Example:
      tollbridge account list
    """
    from tollbridge.services import accounts

    async def read(database: "Database") -> list[dict[str, Any]]:
        return [_account_fields(each) async for each in accounts.every(database)]

    found = with_database(settings, read)
    if as_json:
        print_json(found)
        return
    columns = ("email", "plan", "status", "available_usd", "id")
    print_table(
        ("email", "plan", "status", "available USD", "id"), [[each[name] for name in columns] for each in found]
    )


@account.command("show")
@click.argument("account")
@as_json
@configured
def account_show(settings: "Settings", account: str, as_json: bool) -> None:
    """Show an account, its balance and its keys.

    ACCOUNT is an e-mail address, an id (acct_…), or the number that the log shows.

    \b
    Example:
      tollbridge account show ada@example.com
      tollbridge account show 17
    """
    from tollbridge.services import accounts
    from tollbridge.store.accounts import agreed_with

    async def read(database: "Database") -> tuple[dict[str, Any], list[dict[str, Any]]]:
        found, now = await accounts.named(database, account), await database.now()
        agreed = await agreed_with(database, found.id)
        its_keys = await _keys_of(database, found.id, now)
        return {**_account_fields(found), "agreed": agreed and agreed.describe()}, its_keys

    found, its_keys = with_database(settings, read)
    if as_json:
        print_json({**found, "keys": its_keys})
        return
    print_fields(found)
    click.echo()
    _print_keys(its_keys)


@account.command("freeze")
@click.argument("account")
@_reason
@configured
def account_freeze(settings: "Settings", account: str, reason: str | None) -> None:
    """Refuse an account's calls from the next one on.

    ACCOUNT is an e-mail address, an id (acct_…), or the number that the log shows.

    \b
    Example:
      tollbridge account freeze ada@example.com
    """
    found = _set_frozen(settings, account, True, reason)
    say(f"{found.email} is frozen: its calls are refused from the next one on")


@account.command("unfreeze")
@click.argument("account")
@_reason
@configured
def account_unfreeze(settings: "Settings", account: str, reason: str | None) -> None:
    """Accept an account's calls again.

    ACCOUNT is an e-mail address, an id (acct_…), or the number that the log shows.

    \b
    Example:
      tollbridge account unfreeze ada@example.com
    """
    found = _set_frozen(settings, account, False, reason)
    say(f"{found.email} is active")


def _set_frozen(settings: "Settings", account: str, frozen: bool, reason: str | None) -> "Account":
    from tollbridge.services import accounts
    from tollbridge.services.oversight import check_reason

    why = "" if reason is None else check_reason(reason)
    return with_database(
        settings, lambda database: accounts.set_frozen(database, account, frozen, actor=actor(), reason=why)
    )


@account.command("drop-factor")
@click.argument("email")
@configured
def account_drop_factor(settings: "Settings", email: str) -> None:
    """Turn off the second factor of a user who has lost it.

    They log in by their password alone from then on: make sure that they are who they say they are. An operator has to
    set up another one.

    \b
    Example:
      tollbridge account drop-factor ada@example.com
    """
    from tollbridge.services import two_factor

    with_database(settings, lambda database: two_factor.drop(database, email, actor=actor()))
    say(f"{email} has no second factor any more")


@account.command("address")
@click.argument("old")
@click.argument("new")
@configured
def account_address(settings: "Settings", old: str, new: str) -> None:
    """Give who cannot log in any more another e-mail address.

    A link goes to NEW. Who follows it within 24 hours chooses a password and logs in with NEW from then on; every other
    way in ends, except the second factor, and OLD is told by mail. Until then nothing changes. Make sure that they are
    who they say they are. An account with whose address nobody logs in has NEW at once.

    \b
    Example:
      tollbridge account address ada@old.example ada@example.com
    """
    from tollbridge.services import credentials, mail, operators, secrets
    from tollbridge.services.desk import Desk
    from tollbridge.services.passwords import Passwords

    sends = settings.mail.host is not None

    async def offer(database: "Database") -> str | None:
        master = await secrets.load_for(database, settings)
        post = mail.Post(database, master, mail.carrier(settings))
        desk = Desk(database, master, Passwords(), post, operators.address(settings), lambda: settings)
        return await credentials.move(desk, old, new, actor=actor())

    token = with_database(settings, offer)
    if token is None:
        say(f"{old} is {new} now: nobody logs in with it")
    elif sends:
        say(f"a link goes to {new}; it works once, for 24 hours, and nothing changes before that")
    else:
        say("mail cannot be sent (mail.host is not set): hand over the link; it works once, for 24 hours")
        click.echo(f"{operators.address(settings)}/auth/reset?token={token}")


@account.command("close")
@click.argument("account")
@click.option("--forfeit", is_flag=True, help="Also if it has paid credit left, which nobody can spend then.")
@click.option("--yes", is_flag=True, help="Do not ask first. Scripts, which have no terminal, are never asked.")
@configured
def account_close(settings: "Settings", account: str, forfeit: bool, yes: bool) -> None:
    """Close an account for good, and forget whose it was.

    As its owner can in their settings: its keys stop, the saved card goes, members lose their access, and the user who
    has its address is deleted if it was their only account. The books and invoices stay. Promotional credit is lost;
    paid credit is still owed until it is refunded or written off. ACCOUNT is an e-mail address, an id (acct_…), or the
    number that the log shows.

    \b
    Example:
      tollbridge account close ada@example.com
    """
    from tollbridge.core.money import format_usd
    from tollbridge.services import leave

    if not yes and sys.stdin.isatty():
        click.confirm(f"Close the account {account} for good?", abort=True, err=True)
    was, left = at_till(settings, lambda till: leave.close_for(till, account, forfeit=forfeit, actor=actor()))
    lost = f"; {format_usd(was.promo)} USD of promotional credit are lost" if was.promo else ""
    say(f"{was.email} is closed, and is {was.public_id} in the books{lost}")
    way_out = f"tollbridge credit write-off {was.public_id} --reason …"
    if left.paid > 0:
        say(f"{format_usd(left.paid)} USD of paid credit are still owed: tollbridge payment refund, or {way_out}")
    elif left.paid < 0:
        say(f"it is overdrawn by {format_usd(-left.paid)} USD: wait for the money, or {way_out}")


@account.command("plan")
@click.argument("account")
@click.argument("plan")
@click.option("--rpm", type=Whole(1), help="Agreed with this account: requests per minute.")
@click.option("--tpm", type=Whole(1), help="Agreed: tokens per minute.")
@click.option("--concurrency", type=Whole(1), help="Agreed: calls at once.")
@click.option("--included-tokens", type=Whole(0), help="Agreed: free tokens per month.")
@click.option("--cost-cap", type=USD, metavar="USD", help="Agreed: the most one request may cost.")
@click.option("--from", "since", type=DATE, metavar="DATE", help="When the agreed limits begin.  [default: now]")
@click.option("--until", type=DATE, metavar="DATE", help="When the agreed limits end.  [default: never]")
@as_json
@configured
def account_plan(
    settings: "Settings", account: str, plan: str, since: int | None, until: int | None, as_json: bool, **agreed: Any
) -> None:
    """Put an account on a plan, optionally with limits of its own.

    The limits given replace all that were agreed before. ACCOUNT is an e-mail address, an id (acct_…), or the number
    that the log shows.

    \b
    Example:
      tollbridge account plan ada@example.com custom --rpm 500 --tpm 2000000
    """
    from tollbridge.core.plans import Agreed
    from tollbridge.services import accounts
    from tollbridge.services.plans import change_plan
    from tollbridge.values import FOR_EVER

    own = {name: value for name, value in agreed.items() if value is not None}
    if not own and (since, until) != (None, None):
        raise click.UsageError("--from and --until are the dates of agreed limits: give a limit too, such as --rpm")

    terms = Agreed(**own, since=since or 0, until=until or FOR_EVER) if own else None

    async def change(database: "Database") -> "Account":
        found = await accounts.in_use(database, account)
        return await change_plan(database, found, plan, settings.plans, actor=actor(), agreed=terms)

    _print_account(with_database(settings, change), as_json)
    if terms is not None:
        say(f"agreed: {terms.describe()}")


@click.group()
def key() -> None:
    """Manage API keys.

    \b
    Example:
      tollbridge key create --account ada@example.com --label laptop
      tollbridge key list --account ada@example.com
    """


@key.command("create")
@to_account
@click.option("--label", default="", help="What it is for.")
@click.option("--limit", type=USD, metavar="USD", help="The most it may spend, in all or in each period of --reset.")
@click.option("--reset", type=click.Choice(["daily", "weekly", "monthly"]), help="How often the limit starts over.")
@click.option(
    "--expires", type=DATE, metavar="DATE", help="When it expires: 2027-01-31 means the start of that day, UTC."
)
@click.option("--model", "models", multiple=True, metavar="PATTERN", help="A model that it may call; repeat for more.")
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="NETWORK",
    help="An address that it may be used from; repeat for more.",
)
@click.option("--rpm", type=Whole(1), help="Requests per minute, for this key alone.")
@click.option("--tpm", type=Whole(1), help="Tokens per minute.")
@click.option("--concurrency", type=Whole(1), help="Calls at once.")
@click.option("--cost-cap", type=USD, metavar="USD", help="The most one request may cost.")
@as_json
@configured
def key_create(
    settings: "Settings", account: str, label: str, limit: int | None, expires: int | None, as_json: bool, **rules: Any
) -> None:
    """Create an API key. It is printed alone (or with its id, as JSON), and never again.

    \b
    Example:
      KEY=$(tollbridge key create --account ada@example.com --label laptop --limit 10 --reset monthly)
    """
    from tollbridge.services import accounts, keys, secrets
    from tollbridge.store.keys import Rules

    again = settings.keys.reveal == "always"
    obeyed = Rules(limit=limit, expires_at=expires, **{name: value or None for name, value in rules.items()})

    async def make(database: "Database") -> tuple["Account", keys.MadeKey]:
        owner = await accounts.in_use(database, account)
        master, prefix = await secrets.load_for(database, settings), settings.brand.key_prefix
        made = await keys.create(
            *(database, master, owner, prefix),
            label=label,
            rules=obeyed,
            actor=actor(),
            shown_again=again,
        )
        return owner, made

    owner, made = with_database(settings, make)
    for pattern in rules["models"]:
        if not _in_catalog(settings, pattern):
            say(f"warning: no model is called {pattern!r}: tollbridge catalog list --all names them")
    if as_json:
        print_json({"id": made.public_id, "key": made.text, "account": owner.email, "label": label})
        return
    shown = "the dashboard shows the key too" if again else "keep the key safe, it is shown only now"
    say(f"{made.public_id} for {owner.email}; {shown}:")
    click.echo(made.text)


@key.command("list")
@to_account
@as_json
@configured
def key_list(settings: "Settings", account: str, as_json: bool) -> None:
    """List an account's keys, the id first on each line.

    \b
    Example:
      tollbridge key list --account ada@example.com
    """
    from tollbridge.services import accounts

    async def read(database: "Database") -> list[dict[str, Any]]:
        found, now = await accounts.named(database, account), await database.now()
        return await _keys_of(database, found.id, now)

    found = with_database(settings, read)
    if as_json:
        print_json(found)
    else:
        _print_keys(found)


@key.command("revoke")
@click.argument("id_", metavar="ID")
@configured
def key_revoke(settings: "Settings", id_: str) -> None:
    """Revoke a key for good, from its next call on.

    \b
    Example:
      tollbridge key revoke key_7Hq0sZkT2mWb9XcLpR4vNe
    """
    from tollbridge.services import keys

    with_database(settings, lambda database: keys.revoke(database, None, id_, actor=actor()))
    say(f"{id_} is revoked")


@click.group()
def credit() -> None:
    """Grant credit, and write off what closed accounts have left.

    \b
    Example:
      tollbridge credit grant ada@example.com 5.00 --reason "welcome"
    """


@credit.command("grant")
@click.argument("account")
@click.argument("amount", type=USD, metavar="USD")
@click.option("--reason", required=True, help="Why; shown on the account's statement.")
@click.option("--idempotency-key", metavar="TEXT", help="Repeating a grant with the same text changes nothing.")
@as_json
@configured
def credit_grant(
    settings: "Settings", account: str, amount: int, reason: str, idempotency_key: str | None, as_json: bool
) -> None:
    """Give an account promotional credit.

    ACCOUNT is an e-mail address, an id (acct_…), or the number that the log shows.

    \b
    Example:
      tollbridge credit grant ada@example.com 5.00 --reason "welcome"
    """
    import secrets

    from tollbridge.services import accounts
    from tollbridge.services.credit import grant

    once = idempotency_key if idempotency_key is not None else secrets.token_hex(16)

    async def give(database: "Database") -> "Account":
        owner = await accounts.named(database, account)
        posted = await grant(database, owner, amount, reason=reason, actor=actor(), idempotency_key=once)
        if posted.repeated:
            say("this grant was already made: nothing has changed")
        return await accounts.named(database, owner.public_id)

    _print_account(with_database(settings, give), as_json)


@credit.command("write-off")
@click.argument("account")
@click.option("--reason", required=True, help="Why; it stays in the journal.")
@configured
def credit_write_off(settings: "Settings", account: str, reason: str) -> None:
    """End what is owed between you and a closed account.

    Paid credit that it has left becomes revenue, and can no longer be refunded: the law may make you wait for that.
    What it is overdrawn by, after a refund or a dispute, becomes a loss. ACCOUNT is an id (acct_…), or the number that
    the log shows.

    \b
    Example:
      tollbridge credit write-off acct_7Hq0sZkT2mWb9XcLpR4vNe --reason "not claimed for three years"
    """
    from tollbridge.core.money import format_usd
    from tollbridge.services import accounts
    from tollbridge.services.credit import write_off

    async def end(database: "Database") -> int:
        return await write_off(database, await accounts.named(database, account), reason=reason, actor=actor())

    paid = with_database(settings, end)
    say(f"{format_usd(abs(paid))} USD are written off: {'revenue' if paid > 0 else 'a loss'}")


def _in_catalog(settings: "Settings", pattern: str) -> bool:
    """Whether a key with this pattern can call anything, if its provider is configured."""
    from tollbridge.core.plans import matches
    from tollbridge.services.catalog import rows

    return any(matches((pattern,), row) for row in rows(settings))


def _account_fields(account: "Account") -> dict[str, Any]:
    from tollbridge.core.money import format_usd

    return {
        "email": account.email,
        "id": account.public_id,
        "number": account.id,
        "plan": account.plan,
        "status": "closed" if account.closed else "frozen" if account.frozen else "active",
        "available_usd": format_usd(account.available),
        "paid_usd": format_usd(account.paid),
        "promo_usd": format_usd(account.promo),
        "held_usd": format_usd(account.held),
        "created_at": time(account.created_at),
    }


async def _keys_of(database: "Database", account_id: int, now: int) -> list[dict[str, Any]]:
    from tollbridge.store import account_keys, lookups

    sums = await lookups.uses_of_keys(database, account_id)
    charges = {number: each.charge for number, each in sums.items()}
    its = await account_keys.of_account(database, account_id)
    return [_key_fields(each, charges.get(each.id, 0), now) for each in reversed(its)]


def _key_fields(key: "AccountKey", charge: int, now: int) -> dict[str, Any]:
    """`charge`: all that it ever spent, which is what is shown of a key without a limit."""
    from tollbridge.core.money import format_usd

    state = key.state(now)
    return {
        "id": key.public_id,
        "number": key.id,
        "key": key.hint,
        "label": key.label,
        "status": "active" if state == "live" else state,
        "limit_usd": None if key.limit is None else format_usd(key.limit),
        "spent_usd": format_usd(charge if key.limit is None else key.spent_by(now)),
        "limit_reset": key.reset,
        "models": key.models,
        "addresses": key.addresses,
        "rpm": key.rpm,
        "tpm": key.tpm,
        "concurrency": key.concurrency,
        "cost_cap_usd": None if key.cost_cap is None else format_usd(key.cost_cap),
        "created_at": time(key.created_at),
        "expires_at": None if key.expires_at is None else time(key.expires_at),
    }


def _print_account(account: "Account", json: bool) -> None:
    fields = _account_fields(account)
    if json:
        print_json(fields)
    else:
        print_fields(fields)


def _print_keys(keys: list[dict[str, Any]]) -> None:
    print_table(
        ("id", "key", "status", "limit USD", "spent USD", "expires", "no.", "label"),
        [[each[name] for name in _KEY_COLUMNS] for each in keys],
    )


COMMANDS = (account, key, credit)
