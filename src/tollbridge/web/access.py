"""Who may see a page: the one place that decides it."""

from tollbridge.errors import Forbidden, InvalidApiKey, TollbridgeError
from tollbridge.services.sessions import Presence
from tollbridge.web.page import Page, Who

FACTORS_OF_OPERATORS = 2


class Elsewhere(TollbridgeError):
    """The visitor has to go to `path` first, and returns from there."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


def allows(who: Who, presence: Presence | None) -> bool:
    """Whether somebody may see it; operators need their second factor."""
    if presence is None:
        return not who.user
    if who.operator and not (presence.user.operator and presence.session.factors >= FACTORS_OF_OPERATORS):
        return False
    return not who.roles or presence.role in who.roles


def require(page: Page, presence: Presence | None, now: int) -> None:
    """Raises `Forbidden`, or `Elsewhere` for those who must first log in, set up a second factor or give a password.

    Programs are not redirected: under `/api/`, a stranger is refused with `InvalidApiKey`.
    """
    who = page.who
    if who.user and presence is None and page.path.startswith("/api/"):
        if not page.manage:
            raise InvalidApiKey("This is for people who are logged in: keys do not work here.")
        raise InvalidApiKey("Log in, or send a management key of the account as `Authorization: Bearer …`.")
    if who.user and presence is None:
        raise Elsewhere("/auth/login")
    if presence is not None and who.operator and presence.user.operator and presence.user.totp_since is None:
        raise Elsewhere("/dashboard/settings/two-factor")
    if presence is not None and who.roles and presence.account is None:
        raise Elsewhere("/dashboard/no-account")
    if not allows(who, presence):
        if who.operator:
            raise Forbidden("Only operators of this gateway may open this.", code="role")
        raise Forbidden("Your role in this account does not allow that. An owner or admin can change it.", code="role")
    if page.fresh and presence is not None and not presence.fresh(now):
        raise Elsewhere("/auth/confirm")
