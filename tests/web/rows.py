"""Every page with who may open it, written down a second time: a page without a row here fails the test.

`ROWS["POST /dashboard/members/{member}/role"] = Row("owner admin", {"role": "viewer"}, theirs="member")`
"""

import msgspec

EVERY_ROLE = "owner admin developer billing viewer"
USERS = f"{EVERY_ROLE} operator"
DEVELOPERS = "owner admin developer operator"
PAYERS = "owner admin billing operator"
ADMINS = "owner admin operator"
OWNERS = "owner operator"
# Each of these is a visitor of the matrix. The operator owns an account of their own.
EVERYBODY = f"anonymous {USERS}"


class Row(msgspec.Struct, frozen=True):
    """`may`: whom the page lets in. `fields`: a form that would do something, with ids of somebody else's account.

    `theirs`: which object of another account the path can name (a key of `Objects`); then it is 404.
    `leaves`: sending it takes a visitor's session or membership, so that the matrix sends it to nobody who may.
    """

    may: str
    fields: dict[str, str] = {}
    theirs: str = ""
    leaves: bool = False


ROWS: dict[str, Row] = {
    "GET /": Row(EVERYBODY),
    "GET /robots.txt": Row(EVERYBODY),
    "GET /sitemap.xml": Row(EVERYBODY),
    "GET /models": Row(EVERYBODY),
    "GET /models/{model:path}": Row(EVERYBODY),
    "GET /pricing": Row(EVERYBODY),
    "GET /status": Row(EVERYBODY),
    "GET /terms": Row(EVERYBODY),
    "GET /privacy": Row(EVERYBODY),
    "GET /refunds": Row(EVERYBODY),
    "GET /contact": Row(EVERYBODY),
    "GET /docs": Row(EVERYBODY),
    "GET /docs/search": Row(EVERYBODY),
    "GET /docs/api": Row(EVERYBODY),
    "GET /docs/{name}": Row(EVERYBODY),
    "GET /openapi.json": Row(EVERYBODY),
    "GET /playground": Row(DEVELOPERS),
    "POST /playground/chat": Row(DEVELOPERS),
    "GET /auth/register": Row(EVERYBODY),
    "GET /auth/register.html": Row(EVERYBODY),
    "POST /auth/register": Row(EVERYBODY),
    "POST /auth/register.html": Row(EVERYBODY),
    "GET /auth/verify": Row(EVERYBODY),
    "POST /auth/verify": Row(EVERYBODY),
    "GET /auth/login": Row(EVERYBODY),
    "POST /auth/login": Row(EVERYBODY),
    "GET /auth/second": Row(EVERYBODY),
    "POST /auth/second": Row(EVERYBODY),
    "GET /auth/confirm": Row(USERS),
    "POST /auth/confirm": Row(USERS),
    "POST /auth/logout": Row(EVERYBODY, leaves=True),
    "GET /auth/forgot": Row(EVERYBODY),
    "POST /auth/forgot": Row(EVERYBODY),
    "GET /auth/reset": Row(EVERYBODY),
    "POST /auth/reset": Row(EVERYBODY, leaves=True),
    "GET /auth/email": Row(EVERYBODY),
    "POST /auth/email": Row(EVERYBODY),
    "GET /auth/invitation": Row(EVERYBODY),
    "POST /auth/invitation": Row(USERS),
    "GET /auth/with/{provider}": Row(EVERYBODY),
    "GET /auth/with/{provider}/back": Row(EVERYBODY),
    "GET /dashboard": Row(USERS),
    "GET /dashboard/no-account": Row(USERS),
    "GET /dashboard/accounts": Row(USERS),
    "POST /dashboard/accounts/{account}": Row(USERS, theirs="account"),
    "GET /dashboard/settings": Row(USERS),
    "POST /dashboard/settings/password": Row(USERS),
    "POST /dashboard/settings/email": Row(USERS),
    "GET /dashboard/settings/two-factor": Row(USERS),
    "POST /dashboard/settings/two-factor": Row(USERS),
    "POST /dashboard/settings/two-factor/off": Row(USERS),
    "POST /dashboard/settings/sessions/others": Row(USERS),
    "POST /dashboard/settings/sessions/{session}": Row(USERS, theirs="session"),
    "POST /dashboard/settings/passkeys/options": Row(USERS),
    "POST /dashboard/settings/passkeys": Row(USERS),
    "POST /dashboard/settings/passkeys/{passkey}/remove": Row(USERS, theirs="passkey"),
    "POST /auth/passkey/options": Row(EVERYBODY),
    "POST /auth/passkey": Row(EVERYBODY),
    "GET /dashboard/settings/export": Row(USERS),
    "POST /dashboard/settings/close": Row(OWNERS),
    "GET /dashboard/members": Row(ADMINS),
    "POST /dashboard/members": Row(ADMINS),
    "POST /dashboard/members/{member}/role": Row(ADMINS, {"role": "viewer"}, theirs="member"),
    "POST /dashboard/members/{member}/remove": Row(ADMINS, theirs="member"),
    "POST /dashboard/members/invitations/{invitation}": Row(ADMINS, theirs="invitation"),
    "POST /dashboard/leave": Row(USERS, leaves=True),
    "GET /dashboard/activity": Row(ADMINS),
    "GET /dashboard/usage": Row(USERS),
    "GET /dashboard/requests": Row(USERS),
    "GET /dashboard/requests.csv": Row(USERS),
    "GET /dashboard/requests/{request}": Row(USERS, theirs="request"),
    "GET /dashboard/keys": Row(DEVELOPERS),
    "POST /dashboard/keys": Row(DEVELOPERS),
    "GET /dashboard/keys/new": Row(DEVELOPERS),
    "POST /dashboard/keys/management": Row(DEVELOPERS),
    "POST /dashboard/keys/management/{manager}/revoke": Row(DEVELOPERS, theirs="manager"),
    "GET /dashboard/keys/{key}": Row(DEVELOPERS, theirs="key"),
    "POST /dashboard/keys/{key}": Row(DEVELOPERS, {"label": "mine"}, theirs="key"),
    "POST /dashboard/keys/{key}/rotate": Row(DEVELOPERS, {"overlap": "none"}, theirs="key"),
    "POST /dashboard/keys/{key}/disable": Row(DEVELOPERS, theirs="key"),
    "POST /dashboard/keys/{key}/enable": Row(DEVELOPERS, theirs="key"),
    "POST /dashboard/keys/{key}/revoke": Row(DEVELOPERS, theirs="key"),
    "GET /api/usage": Row(USERS),
    "GET /api/requests": Row(USERS),
    "GET /api/requests/{request}": Row(USERS, theirs="request"),
    "GET /api/keys": Row(DEVELOPERS),
    "POST /api/keys": Row(DEVELOPERS),
    "GET /api/keys/{key}": Row(DEVELOPERS, theirs="key"),
    "PATCH /api/keys/{key}": Row(DEVELOPERS, {"label": "mine"}, theirs="key"),
    "DELETE /api/keys/{key}": Row(DEVELOPERS, theirs="key"),
    "POST /api/keys/{key}/rotate": Row(DEVELOPERS, {"overlap": "none"}, theirs="key"),
    "GET /dashboard/billing": Row(PAYERS),
    "POST /dashboard/billing/checkout": Row(PAYERS),
    "GET /dashboard/billing/payments/{payment}": Row(PAYERS, theirs="payment"),
    "POST /dashboard/billing/payments/{payment}/demo": Row(PAYERS, theirs="payment"),
    "POST /dashboard/billing/voucher": Row(PAYERS),
    "POST /dashboard/billing/top-up": Row(PAYERS),
    "POST /dashboard/billing/top-up/off": Row(PAYERS),
    "POST /dashboard/billing/card/forget": Row(PAYERS),
    "POST /dashboard/billing/alert": Row(PAYERS),
    "GET /dashboard/billing/plan": Row(PAYERS),
    "POST /dashboard/billing/plan": Row(PAYERS),
    "GET /dashboard/billing/invoices": Row(PAYERS),
    "GET /dashboard/billing/invoices/{invoice}": Row(PAYERS, theirs="invoice"),
    "POST /dashboard/billing/details": Row(PAYERS),
    "GET /dashboard/billing/statement": Row(PAYERS),
    "GET /dashboard/billing/statement.csv": Row(PAYERS),
    "GET /dashboard/billing/statement.json": Row(PAYERS),
    "GET /api/billing": Row(PAYERS),
    "GET /api/billing/payments": Row(PAYERS),
    "POST /api/billing/payments": Row(PAYERS),
    "GET /api/billing/payments/{payment}": Row(PAYERS, theirs="payment"),
    "GET /api/billing/invoices": Row(PAYERS),
    "GET /api/billing/invoices/{invoice}": Row(PAYERS, theirs="invoice"),
    "GET /api/billing/statement": Row(PAYERS),
    "GET /admin/outbox": Row("operator"),
}
