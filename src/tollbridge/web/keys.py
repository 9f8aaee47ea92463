"""API keys: the list, one key; creating, changing, rotating and ending them; and keys for programs that do the same."""

from collections.abc import Collection, Iterable

import msgspec
from starlette.responses import Response

from tollbridge.core import money
from tollbridge.core.periods import day_text
from tollbridge.core.plans import matches
from tollbridge.errors import ApiError, Faults, InvalidRequest
from tollbridge.services import account_keys, key_rules, management_keys, playground, reveal
from tollbridge.services.account_keys import OVERLAPS
from tollbridge.services.key_rules import RESETS
from tollbridge.store import account_keys as key_rows
from tollbridge.store import lookups, rollups
from tollbridge.store import management_keys as management_rows
from tollbridge.store.account_keys import AccountKey
from tollbridge.store.keys import Rules
from tollbridge.values import DAY_MS, Model
from tollbridge.web.forms import Form
from tollbridge.web.page import DEVELOPER, Page
from tollbridge.web.visit import Visit

PATH = "/dashboard/keys"
FIELDS = (
    *("label", "limit_usd", "limit_reset", "expires_at", "models", "addresses"),
    *("rpm", "tpm", "concurrency", "cost_cap_usd"),
)
RESET_NAMES = [("", "For good"), *((each, each.capitalize()) for each in RESETS)]
OVERLAP_NAMES = [
    ("", "Works until you revoke it"),
    ("24h", "Works for 24 more hours"),
    ("1h", "Works for one more hour"),
    ("none", "Stops working at once"),
]
SAVED = {
    "changed": "The key is changed. This applies from its next call.",
    "disabled": "The key is disabled: its calls are refused.",
    "enabled": "The key is enabled.",
    "revoked": "The key is revoked for good.",
}


async def list_keys(visit: Visit) -> Response:
    return await _list(visit, Form())


async def _list(visit: Visit, form: Form, status: int = 200) -> Response:
    database, account = visit.shared.database, visit.account
    keys = await key_rows.of_account(database, account.id)
    own = playground.own_keys(visit.shared.desk, account, {key.public_id for key in keys})
    return visit.render(
        "keys/list.html",
        status=status,
        form=form,
        keys=[key for key in keys if key.state(visit.now) != "revoked"],
        gone=[key for key in keys if key.state(visit.now) == "revoked"],
        own=own,
        sums=await lookups.uses_of_keys(database, account.id),
        uses=await rollups.last_uses(database, account.id),
        managers=await management_rows.of_account(database, account.id),
        saved=SAVED.get(visit.query("saved"), ""),
    )


async def new(visit: Visit) -> Response:
    return visit.render("keys/new.html", form=Form(), resets=RESET_NAMES)


async def create(visit: Visit) -> Response:
    form = await visit.form()
    try:
        label, rules = wanted(form, visit.now)
        made = await account_keys.create(visit.shared.desk, visit.account.id, label, rules, visit.actor)
    except InvalidRequest as error:
        form = form.refused(error, *FIELDS)
        return visit.render("keys/new.html", status=error.status, form=form, resets=RESET_NAMES)
    return visit.render("keys/made.html", made=made, rotated=None, overlap="")


async def one(visit: Visit) -> Response:
    key = await account_keys.find(visit.shared.desk, visit.account.id, visit.path("key"))
    return await _one(visit, key, form_of(key))


async def _one(visit: Visit, key: AccountKey, form: Form, status: int = 200) -> Response:
    shared, text = visit.shared, ""
    if shared.settings.keys.reveal == "always":
        shown = await reveal.keys_to_show(shared.desk, visit.account.id)
        text = next((each.text for each in shown if each.public_id == key.public_id), "")
    return visit.render(
        "keys/key.html",
        status=status,
        key=key,
        text=text,
        state=key.state(visit.now),
        sums=(await lookups.uses_of_keys(shared.database, visit.account.id)).get(key.id),
        form=form,
        resets=RESET_NAMES,
        overlaps=OVERLAP_NAMES,
        used_at=(await rollups.last_uses(shared.database, visit.account.id)).get(key.id),
        unmatched=unmatched(key.models or (), list(shared.catalog().models.values())),
        saved=SAVED.get(visit.query("saved"), ""),
    )


def unmatched(patterns: Iterable[str], models: Collection[Model]) -> list[str]:
    """The patterns that match no model here: mistyped, or for models that are gone."""
    return [pattern for pattern in patterns if not any(matches((pattern,), model) for model in models)]


async def change(visit: Visit) -> Response:
    form, account = await visit.form(), visit.account
    key = await account_keys.find(visit.shared.desk, account.id, visit.path("key"))
    try:
        wish = wanted(form, visit.now, key)
        await account_keys.change(visit.shared.desk, account.id, key.public_id, lambda _: wish, visit.actor)
    except InvalidRequest as error:
        return await _one(visit, key, form.refused(error, *FIELDS), error.status)
    return visit.redirect(f"{PATH}/{key.public_id}?saved=changed")


async def rotate(visit: Visit) -> Response:
    form, account, desk = await visit.form(), visit.account, visit.shared.desk
    key = await account_keys.find(desk, account.id, visit.path("key"))
    try:
        made = await account_keys.rotate(desk, account.id, key.public_id, form["overlap"], visit.actor)
    except InvalidRequest as error:
        return await _one(visit, key, form_of(key).refused(error), error.status)
    assert form["overlap"] in OVERLAPS
    return visit.render("keys/made.html", made=made, rotated=key, overlap=form["overlap"])


async def disable(visit: Visit) -> Response:
    return await _switch(visit, disabled=True)


async def enable(visit: Visit) -> Response:
    return await _switch(visit, disabled=False)


async def _switch(visit: Visit, *, disabled: bool) -> Response:
    name = visit.path("key")
    await account_keys.set_disabled(visit.shared.desk, visit.account.id, name, disabled, visit.actor)
    return visit.redirect(f"{PATH}/{name}?saved={'disabled' if disabled else 'enabled'}")


async def revoke(visit: Visit) -> Response:
    await account_keys.revoke(visit.shared.desk, visit.account.id, visit.path("key"), visit.actor)
    return visit.redirect(f"{PATH}?saved=revoked")


async def create_manager(visit: Visit) -> Response:
    form = await visit.form()
    try:
        made = await management_keys.create(visit.shared.desk, visit.account.id, form["label"], visit.actor)
    except ApiError as error:
        return await _list(visit, form.refused(error, "label"), error.status)
    return visit.render("keys/made_manager.html", made=made, url=f"{visit.shared.desk.url}/api/keys")


async def revoke_manager(visit: Visit) -> Response:
    await management_keys.revoke(visit.shared.desk, visit.account.id, visit.path("manager"), visit.actor)
    return visit.redirect(f"{PATH}?saved=revoked")


# --- what is filled in ----------------------------------------------------------------------------------------------


def wanted(form: Form, now: int, key: AccountKey | None = None) -> tuple[str, Rules]:
    """The label and the rules that are wanted, of `key` if there is one. InvalidRequest names all wrong fields."""
    with Faults() as faults:
        day = faults.of(None, form.day_if_any, "expires_at")
        rules = Rules(
            limit=faults.of(None, form.usd_if_any, "limit_usd"),
            reset=form["limit_reset"] or None,
            models=_lines(form["models"]),
            addresses=_lines(form["addresses"]),
            rpm=faults.of(None, form.whole_if_any, "rpm"),
            tpm=faults.of(None, form.whole_if_any, "tpm"),
            concurrency=faults.of(None, form.whole_if_any, "concurrency"),
            cost_cap=faults.of(None, form.usd_if_any, "cost_cap_usd"),
            expires_at=None if day is None else day + DAY_MS,
        )
        if key is not None and form["expires_at"] == form_of(key)["expires_at"]:
            # Shown as a day, kept to the millisecond; a key that has expired may keep it.
            rules, now = msgspec.structs.replace(rules, expires_at=key.expires_at), 0
        label, rules = faults.of((form["label"], rules), key_rules.check, form["label"], rules, now)
    return label, rules


def _lines(text: str) -> tuple[str, ...] | None:
    return tuple(line for line in text.replace(",", "\n").splitlines() if line.strip()) or None


def form_of(key: AccountKey) -> Form:
    """The form, filled in for an existing key."""
    return Form(
        {
            "label": key.label,
            "limit_usd": "" if key.limit is None else money.format_usd(key.limit),
            "limit_reset": key.reset or "",
            "models": "\n".join(key.models or ()),
            "addresses": "\n".join(key.addresses or ()),
            "rpm": "" if key.rpm is None else str(key.rpm),
            "tpm": "" if key.tpm is None else str(key.tpm),
            "concurrency": "" if key.concurrency is None else str(key.concurrency),
            "cost_cap_usd": "" if key.cost_cap is None else money.format_usd(key.cost_cap),
            "expires_at": "" if key.expires_at is None else day_text(key.expires_at - 1),
        }
    )


PAGES = (
    Page("GET", PATH, DEVELOPER, list_keys),
    Page("POST", PATH, DEVELOPER, create),
    Page("GET", f"{PATH}/new", DEVELOPER, new),
    Page("POST", f"{PATH}/management", DEVELOPER, create_manager),
    Page("POST", f"{PATH}/management/{{manager}}/revoke", DEVELOPER, revoke_manager),
    Page("GET", f"{PATH}/{{key}}", DEVELOPER, one),
    Page("POST", f"{PATH}/{{key}}", DEVELOPER, change),
    Page("POST", f"{PATH}/{{key}}/rotate", DEVELOPER, rotate),
    Page("POST", f"{PATH}/{{key}}/disable", DEVELOPER, disable),
    Page("POST", f"{PATH}/{{key}}/enable", DEVELOPER, enable),
    Page("POST", f"{PATH}/{{key}}/revoke", DEVELOPER, revoke),
)
