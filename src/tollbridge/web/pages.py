"""All pages. A path that stands here is served, by whom it says and to whom it says."""

from tollbridge.web import account, dashboard, login, members, oidc, outbox, passkeys
from tollbridge.web.page import Page

PAGES: tuple[Page, ...] = (
    *login.PAGES,
    *oidc.PAGES,
    *passkeys.PAGES,
    *account.PAGES,
    *members.PAGES,
    *outbox.PAGES,
    *dashboard.PAGES,
)
