"""A user's own settings: password, e-mail address, second factor, sessions, and leaving."""

from functools import partial

from starlette.responses import Response, StreamingResponse

from tollbridge.errors import ApiError, InvalidRequest, RateLimited
from tollbridge.services import credentials, identities, leave, passkeys, register, sessions, top_ups, two_factor
from tollbridge.store import identities as identity_rows
from tollbridge.store import members, users
from tollbridge.store import passkeys as passkey_rows
from tollbridge.store import sessions as session_rows
from tollbridge.web.forms import Form
from tollbridge.web.page import ANYONE, OWNER, USER, Page
from tollbridge.web.visit import Visit

SETTINGS = "/dashboard/settings"
# The status of the page behind a used link; then where to get a new one.
GONE = 410
RESET_AGAIN = ("/auth/forgot", "Ask for a new link")
EMAIL_AGAIN = (SETTINGS, "Back to the settings")
SAVED = {
    "password": "Your password is changed, and all other sessions are logged out.",
    "email": "A link is on its way to the new address. Follow it to confirm the change.",
    "two-factor-off": "Your second factor is off.",
    "passkey": "Your passkey is ready to use.",
    "passkey-removed": "The passkey is removed.",
    "identity-removed": "The service is removed. It is back if somebody logs in there with your address.",
    "session": "The session is logged out.",
    "sessions": "All other sessions are logged out.",
}


async def settings(visit: Visit, refused: ApiError | None = None, section: str = "") -> Response:
    """`refused`: what was wrong in one of its sections."""
    shared, user = visit.shared, visit.user
    forms = {name: Form() for name in ("password", "email", "close")}
    if refused is not None:
        forms[section] = (await visit.form()).refused(refused, "password", "email", "typed")
    return visit.render(
        "account/settings.html",
        status=refused.status if refused is not None else 200,
        forms=forms,
        saved=SAVED.get(visit.query("saved"), ""),
        sessions=await session_rows.of_user(shared.database, user.id),
        is_half=sessions.is_half,
        passkeys=await passkey_rows.of_user(shared.database, user.id),
        place=passkeys.place(shared.desk)[0],
        identities=await identity_rows.of_user(shared.database, user.id),
        label=partial(identities.label, shared.settings),
        codes_left=await users.count_recovery_codes(shared.database, user.id),
        sends=shared.desk.post.sends,
    )


async def change_password(visit: Visit) -> Response:
    form = await visit.form()
    try:
        token = await credentials.change_password(visit.shared.desk, visit.somebody, form["password"], visit.client)
    except InvalidRequest as error:
        return await settings(visit, error, "password")
    visit.log_in(token)
    return visit.redirect(f"{SETTINGS}?saved=password")


async def change_email(visit: Visit) -> Response:
    form = await visit.form()
    try:
        await credentials.change_email(visit.shared.desk, visit.somebody, form["email"])
    except (InvalidRequest, RateLimited) as error:
        return await settings(visit, error, "email")
    return visit.redirect(f"{SETTINGS}?saved=email")


async def email_link(visit: Visit) -> Response:
    token = visit.query("token")
    if not await credentials.address_of(visit.shared.desk, token, credentials.EMAIL):
        return visit.render("login/spent.html", status=GONE, again=EMAIL_AGAIN)
    return visit.render("login/email.html", form=Form(), token=token)


async def confirm_email(visit: Visit) -> Response:
    form = await visit.form()
    try:
        await credentials.confirm_email(visit.shared.desk, form["token"], visit.client)
    except InvalidRequest as error:
        if not await credentials.address_of(visit.shared.desk, form["token"], credentials.EMAIL):
            return visit.render("login/spent.html", status=error.status, again=EMAIL_AGAIN)
        return visit.render("login/email.html", status=error.status, form=form.refused(error), token=form["token"])
    return visit.redirect(f"{SETTINGS}?saved=" if visit.presence else "/auth/login?notice=email")


# --- a forgotten password -----------------------------------------------------------------------------------------


async def forgot_form(visit: Visit) -> Response:
    return visit.render("login/forgot.html", form=Form(), asked=False, sends=visit.shared.desk.post.sends)


async def forgot(visit: Visit) -> Response:
    form = await visit.form()
    # Done after the answer, which therefore takes the same time for everybody.
    visit.later(credentials.forgot(visit.shared.desk, form["email"], visit.client))
    return visit.render("login/forgot.html", form=form, asked=True, sends=visit.shared.desk.post.sends)


async def reset_form(visit: Visit) -> Response:
    token = visit.query("token")
    address = await credentials.address_of(visit.shared.desk, token, credentials.RESET)
    if address is None:
        return visit.render("login/spent.html", status=GONE, again=RESET_AGAIN)
    return visit.render("login/reset.html", form=Form(), token=token, address=address)


async def reset(visit: Visit) -> Response:
    form = await visit.form()
    try:
        device = await credentials.reset(visit.shared.desk, form["token"], form["password"], visit.client)
    except InvalidRequest as error:
        if error.param == "token":
            return visit.render("login/spent.html", status=error.status, again=RESET_AGAIN)
        form = form.refused(error, "password")
        address = await credentials.address_of(visit.shared.desk, form["token"], credentials.RESET)
        return visit.render("login/reset.html", status=error.status, form=form, token=form["token"], address=address)
    visit.log_out()
    visit.remember(device)
    return visit.redirect("/auth/login?notice=password")


# --- the second factor --------------------------------------------------------------------------------------------


async def two_factor_form(visit: Visit) -> Response:
    return await _two_factor(visit, Form())


async def _two_factor(visit: Visit, form: Form, status: int = 200) -> Response:
    proposal = await two_factor.propose(visit.shared.desk, visit.somebody)
    return visit.render("account/two_factor.html", status=status, form=form, proposal=proposal)


async def begin_two_factor(visit: Visit) -> Response:
    form = await visit.form()
    try:
        token, codes = await two_factor.begin(visit.shared.desk, visit.somebody, form["code"], visit.client)
    except InvalidRequest as error:
        return await _two_factor(visit, form.refused(error, "code"), error.status)
    visit.log_in(token)
    return visit.render("account/recovery_codes.html", codes=codes)


async def end_two_factor(visit: Visit) -> Response:
    visit.log_in(await two_factor.end(visit.shared.desk, visit.somebody, visit.client))
    return visit.redirect(f"{SETTINGS}?saved=two-factor-off")


# --- other services -----------------------------------------------------------------------------------------------


async def remove_identity(visit: Visit) -> Response:
    form = await visit.form()
    assert visit.presence is not None
    await identities.remove(visit.shared.desk, visit.presence, form["issuer"], visit.client)
    return visit.redirect(f"{SETTINGS}?saved=identity-removed")


# --- sessions and accounts ----------------------------------------------------------------------------------------


async def end_session(visit: Visit) -> Response:
    await sessions.end(visit.shared.database, visit.user, visit.path("session"))
    return visit.redirect(f"{SETTINGS}?saved=session")


async def end_other_sessions(visit: Visit) -> Response:
    await sessions.end_others(visit.shared.database, visit.somebody)
    return visit.redirect(f"{SETTINGS}?saved=sessions")


async def accounts(visit: Visit) -> Response:
    belongings = await members.of_user(visit.shared.database, visit.user.id)
    if not belongings:
        return visit.redirect("/dashboard/no-account")
    return visit.render("account/accounts.html", belongings=belongings)


async def open_account(visit: Visit) -> Response:
    await sessions.look_at(visit.shared.database, visit.somebody, visit.path("account"))
    return visit.redirect("/dashboard")


async def open_own(visit: Visit) -> Response:
    """For who was removed from the only account that they had."""
    await register.open_own(visit.shared.desk, visit.somebody, visit.client)
    return visit.redirect("/dashboard")


# --- the way out --------------------------------------------------------------------------------------------------


async def export(visit: Visit) -> Response:
    headers = {"content-disposition": 'attachment; filename="export.ndjson"'}
    lines = leave.export(visit.shared.desk, visit.somebody)
    return StreamingResponse(lines, media_type="application/x-ndjson", headers=headers)


async def close(visit: Visit) -> Response:
    form = await visit.form()
    try:
        account = leave.check(visit.somebody, form["typed"])
        # With an order's page still open, somebody could pay for a plan that nobody can cancel, or credit for nobody.
        await visit.shared.payments().subscriptions.withdraw(account)
        await visit.shared.payments().withdraw(account)
        await top_ups.forget_card(visit.shared.payments(), account)
        await leave.close(visit.shared.desk, visit.somebody, form["typed"])
    except InvalidRequest as error:
        return await settings(visit, error, "close")
    visit.log_out()
    return visit.redirect("/auth/login?notice=deleted")


async def forget(visit: Visit) -> Response:
    await leave.forget(visit.shared.desk, visit.user)
    visit.log_out()
    return visit.redirect("/auth/login?notice=forgotten")


PAGES = (
    Page("GET", SETTINGS, USER, settings),
    Page("POST", f"{SETTINGS}/password", USER, change_password, fresh=True),
    Page("POST", f"{SETTINGS}/email", USER, change_email, fresh=True),
    Page("GET", f"{SETTINGS}/two-factor", USER, two_factor_form, fresh=True),
    Page("POST", f"{SETTINGS}/two-factor", USER, begin_two_factor, fresh=True),
    Page("POST", f"{SETTINGS}/two-factor/off", USER, end_two_factor, fresh=True),
    Page("POST", f"{SETTINGS}/identities/remove", USER, remove_identity, fresh=True),
    Page("POST", f"{SETTINGS}/sessions/others", USER, end_other_sessions),
    Page("POST", f"{SETTINGS}/sessions/{{session}}", USER, end_session),
    Page("GET", f"{SETTINGS}/export", USER, export, fresh=True),
    Page("POST", f"{SETTINGS}/close", OWNER, close, fresh=True),
    Page("POST", f"{SETTINGS}/forget", USER, forget, fresh=True),
    Page("GET", "/dashboard/accounts", USER, accounts),
    Page("POST", "/dashboard/accounts", USER, open_own),
    Page("POST", "/dashboard/accounts/{account}", USER, open_account),
    Page("GET", "/auth/forgot", ANYONE, forgot_form),
    Page("POST", "/auth/forgot", ANYONE, forgot),
    Page("GET", "/auth/reset", ANYONE, reset_form),
    Page("POST", "/auth/reset", ANYONE, reset),
    Page("GET", "/auth/email", ANYONE, email_link),
    Page("POST", "/auth/email", ANYONE, confirm_email),
)
