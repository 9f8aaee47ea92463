"""What the side bar shows: groups of links, to each visitor only what they may open."""

import msgspec

from tollbridge.services.sessions import Presence
from tollbridge.web import access
from tollbridge.web.page import ADMIN, DEVELOPER, MEMBER, OPERATOR, PAYER, USER, Who


class Link(msgspec.Struct, frozen=True):
    """`icon` is a file in templates/icons."""

    path: str
    label: str
    icon: str
    who: Who


MENU: tuple[tuple[str, tuple[Link, ...]], ...] = (
    (
        "",
        (
            Link("/dashboard", "Overview", "layout-dashboard", MEMBER),
            Link("/dashboard/usage", "Usage", "chart-no-axes-column", MEMBER),
            Link("/dashboard/requests", "Requests", "activity", MEMBER),
            Link("/dashboard/keys", "API keys", "key-round", DEVELOPER),
            Link("/playground", "Playground", "flask-conical", DEVELOPER),
            Link("/dashboard/billing", "Billing", "credit-card", PAYER),
            Link("/dashboard/settings", "Profile and security", "shield", USER),
            Link("/dashboard/members", "Members", "users", ADMIN),
            Link("/dashboard/activity", "Activity", "history", ADMIN),
        ),
    ),
    (
        "Operator",
        (
            Link("/admin", "Revenue", "chart-no-axes-column", OPERATOR),
            Link("/admin/accounts", "Accounts", "users", OPERATOR),
            Link("/admin/payments", "Payments", "receipt", OPERATOR),
            Link("/admin/subscribers", "Subscribers", "refresh-cw", OPERATOR),
            Link("/admin/vouchers", "Vouchers", "tag", OPERATOR),
            Link("/admin/catalog", "Catalog", "boxes", OPERATOR),
            Link("/admin/providers", "Providers", "server", OPERATOR),
            Link("/admin/ledger", "Ledger", "book-open", OPERATOR),
            Link("/admin/activity", "All activity", "history", OPERATOR),
            Link("/admin/outbox", "Outbox", "mail", OPERATOR),
        ),
    ),
)


def menu(presence: Presence) -> tuple[tuple[str, tuple[Link, ...]], ...]:
    groups = ((name, tuple(link for link in links if access.allows(link.who, presence))) for name, links in MENU)
    return tuple((name, links) for name, links in groups if links)
