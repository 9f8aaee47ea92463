"""Register, log in, prove who one is, log out."""

from starlette.responses import Response

from tollbridge.errors import InvalidRequest, RateLimited
from tollbridge.services import credentials, login, passkeys, register, sessions
from tollbridge.services.register import SignUp
from tollbridge.store import identities
from tollbridge.web.forms import Form
from tollbridge.web.page import ANYONE, USER, Page
from tollbridge.web.visit import Visit

NOTICES = {
    "password": "Your password is changed. Log in with it.",
    "out": "You are logged out.",
    "email": "Your new e-mail address is confirmed.",
    "deleted": "Your account is closed.",
    "forgotten": "What you logged in with is deleted.",
    "unconfirmed": "Your e-mail address is not confirmed yet: follow the link that we have sent to it.",
    "elsewhere": "The other service did not log you in. Try again, or log in another way.",
    "lost": "What you just sent was not done. Send it again afterwards.",
}


# Logging in with an unconfirmed address sends a new link.
VERIFY_AGAIN = ("/auth/login", "Log in")


async def to_register(visit: Visit) -> Response:
    """From where people look for the form."""
    return visit.redirect(_with_query(visit, "/auth/register"))


async def to_login(visit: Visit) -> Response:
    """As `to_register`."""
    return visit.redirect(_with_query(visit, "/auth/login"))


def _with_query(visit: Visit, path: str) -> str:
    """`path` with what was asked of this page: where to go on (`next`), say."""
    query = visit.request.url.query
    return f"{path}?{query}" if query else path


async def register_form(visit: Visit) -> Response:
    if visit.presence is not None:
        return visit.redirect(visit.next_path())
    visit.shared.desk.passwords.get_ready()
    return _register_page(visit, Form({"email": visit.query("email")}))


async def register_now(visit: Visit) -> Response:
    form = await visit.form()
    sign_up = SignUp(email=form["email"], password=form["password"], consent=form.flag("consent"))
    try:
        token = await register.register(visit.shared.desk, sign_up, visit.client)
    except (InvalidRequest, RateLimited) as error:
        return _register_page(visit, form.refused(error, "email", "password", "consent"), error.status)
    if token is None:
        return _look_into_mail(visit, form["email"])
    visit.log_in(token)
    return visit.redirect(visit.next_path())


def _register_page(visit: Visit, form: Form, status: int = 200) -> Response:
    shared = visit.shared
    gift = shared.settings.billing.signup_grant
    return visit.render("login/register.html", status=status, form=form, gift=gift)


def _look_into_mail(visit: Visit, email: str) -> Response:
    visit.keep_next_path()
    return visit.render("login/look_into_mail.html", email=email, sends=visit.shared.desk.post.sends)


async def verify_form(visit: Visit) -> Response:
    token = visit.query("token")
    if not await credentials.address_of(visit.shared.desk, token, register.LINK):
        return visit.render("login/spent.html", status=410, again=VERIFY_AGAIN)
    return visit.render("login/verify.html", form=Form(), token=token)


async def verify(visit: Visit) -> Response:
    form = await visit.form()
    try:
        token = await register.verify(visit.shared.desk, form["token"], form["password"], visit.client)
    except (InvalidRequest, RateLimited) as error:
        if error.param == "token":
            return visit.render("login/spent.html", status=error.status, again=VERIFY_AGAIN)
        form = form.refused(error, "password")
        return visit.render("login/verify.html", status=error.status, form=form, token=form["token"])
    visit.log_in(token)
    return visit.redirect(visit.kept_next_path())


async def login_form(visit: Visit) -> Response:
    if visit.presence is not None:
        return visit.redirect(visit.next_path())
    visit.shared.desk.passwords.get_ready()
    return _login_page(visit, Form())


async def log_in(visit: Visit) -> Response:
    form = await visit.form()
    try:
        entered = await login.log_in(
            visit.shared.desk, form["email"], form["password"], visit.client, visit.cookie("device")
        )
    except (InvalidRequest, RateLimited) as error:
        return _login_page(visit, form.refused(error), error.status, error.headers)
    if not entered.token:
        return _look_into_mail(visit, form["email"])
    visit.log_in(entered.token, entered.device)
    return visit.redirect(_with_query(visit, "/auth/second") if entered.half else visit.next_path())


def _login_page(visit: Visit, form: Form, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    notice = "" if form.problem else NOTICES.get(visit.query("notice"), "")
    place, _ = passkeys.place(visit.shared.desk)
    response = visit.render("login/login.html", status=status, form=form, notice=notice, place=place)
    response.headers.update(headers or {})
    return response


async def second_form(visit: Visit) -> Response:
    if visit.half is None:
        return visit.redirect("/auth/login")
    return visit.render("login/second.html", form=Form())


async def second(visit: Visit) -> Response:
    form = await visit.form()
    if visit.half is None:
        return visit.redirect("/auth/login")
    try:
        entered = await login.prove(visit.shared.desk, visit.half, form["code"], visit.client, visit.cookie("device"))
    except (InvalidRequest, RateLimited) as error:
        return visit.render("login/second.html", status=error.status, form=form.refused(error, "code"))
    visit.log_in(entered.token, entered.device)
    return visit.redirect(visit.next_path())


async def confirm_form(visit: Visit) -> Response:
    return await _confirm_page(visit, Form())


async def confirm(visit: Visit) -> Response:
    """Ask for the password once more, before what cannot be undone."""
    form = await visit.form()
    try:
        token = await login.prove_again(visit.shared.desk, visit.somebody, form["password"], visit.client)
    except (InvalidRequest, RateLimited) as error:
        return await _confirm_page(visit, form.refused(error, "password"), error.status)
    visit.log_in(token)
    return visit.redirect(visit.next_path())


async def _confirm_page(visit: Visit, form: Form, status: int = 200) -> Response:
    notice = NOTICES["lost"] if visit.query("notice") == "lost" else ""
    shared = visit.shared
    issuers = {issuer.rstrip("/") for issuer, _ in await identities.of_user(shared.database, visit.user.id)}
    # Logging in there once more proves it as well: some have no password.
    services = {name: each.label for name, each in shared.settings.login.items() if each.issuer in issuers}
    return visit.render("login/confirm.html", status=status, form=form, notice=notice, services=services)


async def log_out(visit: Visit) -> Response:
    presence = visit.presence or visit.half
    if presence is not None:
        await sessions.end(visit.shared.database, presence.user, presence.session.public_id)
    visit.log_out()
    return visit.redirect(visit.next_path() if visit.query("next") else "/auth/login?notice=out")


PAGES = (
    Page("GET", "/login", ANYONE, to_login),
    Page("GET", "/register", ANYONE, to_register),
    Page("GET", "/signup", ANYONE, to_register),
    Page("GET", "/sign-up", ANYONE, to_register),
    Page("GET", "/auth/register", ANYONE, register_form),
    Page("GET", "/auth/register.html", ANYONE, register_form),
    Page("POST", "/auth/register", ANYONE, register_now),
    Page("POST", "/auth/register.html", ANYONE, register_now),
    Page("GET", "/auth/verify", ANYONE, verify_form),
    Page("POST", "/auth/verify", ANYONE, verify),
    Page("GET", "/auth/login", ANYONE, login_form),
    Page("POST", "/auth/login", ANYONE, log_in),
    Page("GET", "/auth/second", ANYONE, second_form),
    Page("POST", "/auth/second", ANYONE, second),
    Page("GET", "/auth/confirm", USER, confirm_form),
    Page("POST", "/auth/confirm", USER, confirm),
    Page("POST", "/auth/logout", ANYONE, log_out),
)
