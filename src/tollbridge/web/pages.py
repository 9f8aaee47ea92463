"""All pages. A path that stands here is served, by whom it says and to whom it says."""

from tollbridge.web import (
    account,
    api,
    dashboard,
    docs,
    home,
    keys,
    legal,
    login,
    members,
    models,
    oidc,
    openapi,
    outbox,
    passkeys,
    pricing,
    requests,
    status,
    usage,
)
from tollbridge.web.page import Page

PAGES: tuple[Page, ...] = (
    *home.PAGES,
    *models.PAGES,
    *pricing.PAGES,
    *status.PAGES,
    *legal.PAGES,
    *docs.PAGES,
    *openapi.PAGES,
    *login.PAGES,
    *oidc.PAGES,
    *passkeys.PAGES,
    *account.PAGES,
    *members.PAGES,
    *outbox.PAGES,
    *dashboard.PAGES,
    *usage.PAGES,
    *requests.PAGES,
    *keys.PAGES,
    *api.PAGES,
)
