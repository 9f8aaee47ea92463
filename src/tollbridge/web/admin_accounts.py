"""Accounts as operators see and change them."""

from collections.abc import Collection
from urllib.parse import urlencode

import msgspec
from starlette.responses import Response

from tollbridge.core.plans import Agreed
from tollbridge.core.words import read_whole
from tollbridge.errors import ApiError, Faults, InvalidRequest, KeyReused
from tollbridge.services import account_keys, credit, oversight, plans
from tollbridge.services.sessions import new_token
from tollbridge.store import account_keys as key_rows
from tollbridge.store import accounts, activity, lookups, members, payments
from tollbridge.store.accounts import Account
from tollbridge.store.db import Transaction
from tollbridge.store.rows import ABOVE_ALL
from tollbridge.web.admin import ADMIN, SENT_BEFORE
from tollbridge.web.forms import Form
from tollbridge.web.page import OPERATOR, Page
from tollbridge.web.visit import Visit

ACCOUNTS = f"{ADMIN}/accounts"
SHOWN = 50
RECENT = 15
SAVED = {
    "plan": "The plan is changed. It applies from the next call.",
    "frozen": "The account is frozen: its next call is refused.",
    "unfrozen": "The account can call again.",
    "granted": "The credit is granted.",
    "repeated": "The form was sent twice; the credit was granted once.",
    "revoked": "The key is revoked.",
}
_LIMITS = ("rpm", "tpm", "concurrency")


async def search(visit: Visit) -> Response:
    asked = visit.query("q").strip()[:100]
    frozen = visit.query("frozen") == "1"
    before = visit.before()
    found = await accounts.search(visit.shared.database, asked, before, SHOWN, frozen=frozen)
    if not found and asked != asked.lower():
        # Ids are searched as written; addresses are in lower case.
        found = await accounts.search(visit.shared.database, asked.lower(), before, SHOWN, frozen=frozen)
    more = len(found) == SHOWN
    if before == ABOVE_ALL and (number := read_whole(asked)) is not None:
        # The number by which the request log identifies an account.
        logged = await accounts.by_id(visit.shared.database, number)
        if logged is not None and ((logged.frozen and not logged.closed) or not frozen):
            found = [logged, *(each for each in found if each.id != number)]
    fields = {"q": asked, "frozen": "1" if frozen else ""}
    return visit.render(
        "admin/accounts.html",
        asked=asked,
        frozen=frozen,
        kept=urlencode({name: value for name, value in fields.items() if value}),
        accounts=found,
        more=more,
        first=before == ABOVE_ALL,
    )


async def show(visit: Visit, refused: ApiError | None = None, section: str = "") -> Response:
    """One account. `refused`: what was wrong in one of its forms."""
    database, settings = visit.shared.database, visit.shared.settings
    account = await oversight.find(database, visit.path("account"))
    agreed = await accounts.agreed_with(database, account.id)
    was = _stored(account, agreed)
    if agreed is not None and agreed.until <= visit.now:
        agreed = None
    limits = {name: str(getattr(agreed, name) or "") for name in _LIMITS} if agreed is not None else {}
    offered = [(name, plan.title or name) for name, plan in settings.plans.items()]
    if account.plan not in settings.plans:
        # Otherwise the form would show another plan as the account's, and the next change would make it so.
        offered.insert(0, (account.plan, f"{account.plan}: no longer configured, so default applies"))
    forms = {"plan": Form({"plan": account.plan, **limits}), "frozen": Form(), "grant": Form()}
    if refused is not None:
        forms[section] = (await visit.form()).refused(refused, "plan", *_LIMITS, "reason", "amount")
    return visit.render(
        "admin/account.html",
        status=refused.status if refused is not None else 200,
        shown=account,
        forms=forms,
        saved=SAVED.get(visit.query("saved"), ""),
        once=new_token(),
        was=was,
        plans=offered,
        agreed=agreed.describe() if agreed is not None else "",
        members=await members.of_account(database, account.id),
        keys=list(reversed(await key_rows.of_account(database, account.id))),
        sums=await lookups.uses_of_keys(database, account.id),
        payments=await payments.of_account(database, account.id, ABOVE_ALL, RECENT),
        deeds=await activity.page(database, account.id, ABOVE_ALL, RECENT),
    )


async def change_plan(visit: Visit) -> Response:
    """Limits that are filled in apply to this account, whatever its plan says; for empty ones, the plan's apply."""
    form = await visit.form()
    database = visit.shared.database
    account = await oversight.find(database, visit.path("account"))

    async def check(_: Transaction, stored: Account, had: Agreed | None) -> None:
        if (stored.plan, had) == (form["plan"], agreed):
            return  # the same form, sent twice
        if had != before or form["was"] not in {"", _stored(stored, had)}:
            said = f"{stored.plan}, agreed: {had.describe()}" if had is not None else stored.plan
            raise InvalidRequest(
                f"Somebody has changed this in the meantime: it is now {said}. Save again to replace that."
            )

    try:
        own = _own_limits(form, visit.shared.settings.plans)
        before = await accounts.agreed_with(database, account.id)
        agreed = _with(before, own, visit.now)
        await plans.change_plan(
            database,
            account,
            form["plan"],
            visit.shared.settings.plans,
            actor=visit.actor.name,
            address=visit.actor.address,
            agreed=agreed,
            check=check,
        )
    except InvalidRequest as error:
        return await show(visit, error, "plan")
    return _back(visit, "plan")


def _own_limits(form: Form, known: Collection[str]) -> dict[str, int]:
    """The limits that are filled in. InvalidRequest names all that is wrong with the plan's form."""
    with Faults() as faults:
        given = {name: faults.of(None, form.whole_if_any, name) for name in _LIMITS}
        own = {name: value for name, value in given.items() if value is not None}
        faults.of(None, plans.check_change, form["plan"], known, Agreed(**own))
    return own


def _stored(account: Account, agreed: Agreed | None) -> str:
    """What the plan's form was built from, to be compared with the present when the form comes back."""
    return msgspec.json.encode((account.plan, agreed)).decode()


def _with(before: Agreed | None, own: dict[str, int], now: int) -> Agreed | None:
    """What was agreed and is not over, with these limits replacing its own; None if nothing is left of it."""
    known = before if before is not None and before.until > now else Agreed()
    agreed = Agreed(
        **own,
        included_tokens=known.included_tokens,
        cost_cap=known.cost_cap,
        since=known.since,
        until=known.until,
    )
    return None if agreed == Agreed(since=known.since, until=known.until) else agreed


async def freeze(visit: Visit) -> Response:
    return await _set_frozen(visit, True)


async def unfreeze(visit: Visit) -> Response:
    return await _set_frozen(visit, False)


async def _set_frozen(visit: Visit, frozen: bool) -> Response:
    form = await visit.form()
    account = await oversight.find(visit.shared.database, visit.path("account"))
    try:
        await oversight.set_frozen(visit.shared.database, account, frozen, form["reason"], visit.actor)
    except InvalidRequest as error:
        return await show(visit, error, "frozen")
    return _back(visit, "frozen" if frozen else "unfrozen")


async def grant(visit: Visit) -> Response:
    form = await visit.form()
    account = await oversight.find(visit.shared.database, visit.path("account"))
    try:
        with Faults() as faults:
            amount = faults.of(0, form.usd, "amount")
            faults.of(None, credit.check_amount, account, amount)
            reason = faults.of("", oversight.check_reason, form["reason"])
        given = await oversight.grant(
            visit.shared.database, account, amount, reason, actor=visit.actor, once=f"page/{form['once']}"
        )
    except KeyReused:
        return await show(visit, KeyReused(SENT_BEFORE), "grant")
    except InvalidRequest as error:
        return await show(visit, error, "grant")
    return _back(visit, "repeated" if given.repeated else "granted")


async def revoke_key(visit: Visit) -> Response:
    account = await oversight.find(visit.shared.database, visit.path("account"))
    await account_keys.revoke(visit.shared.desk, account.id, visit.path("key"), visit.actor)
    return _back(visit, "revoked")


def _back(visit: Visit, saved: str) -> Response:
    return visit.redirect(f"{ACCOUNTS}/{visit.path('account')}?saved={saved}")


PAGES = (
    Page("GET", ACCOUNTS, OPERATOR, search),
    Page("GET", f"{ACCOUNTS}/{{account}}", OPERATOR, show),
    Page("POST", f"{ACCOUNTS}/{{account}}/plan", OPERATOR, change_plan),
    Page("POST", f"{ACCOUNTS}/{{account}}/freeze", OPERATOR, freeze),
    Page("POST", f"{ACCOUNTS}/{{account}}/unfreeze", OPERATOR, unfreeze),
    Page("POST", f"{ACCOUNTS}/{{account}}/grant", OPERATOR, grant, fresh=True),
    Page("POST", f"{ACCOUNTS}/{{account}}/keys/{{key}}/revoke", OPERATOR, revoke_key),
)
