"""The first page behind the log-in."""

from starlette.responses import Response

from tollbridge.core import roles
from tollbridge.services import reveal
from tollbridge.store import keys, members
from tollbridge.web.page import MEMBER, USER, Page
from tollbridge.web.visit import Visit


async def overview(visit: Visit) -> Response:
    shared, account = visit.shared, visit.account
    assert visit.presence is not None
    shown = []
    if visit.presence.role in roles.DEVELOPERS and visit.request.method == "GET":
        shown = await reveal.keys_to_show(shared.desk, account.id)
    of_account = await keys.of_account(shared.database, account.id)
    live = [key for key in of_account if key.revoked_at is None]
    return visit.render("dashboard/overview.html", shown=shown, keys=live, base_url=f"{shared.desk.url}/v1")


async def no_account(visit: Visit) -> Response:
    """For users whom nobody has in their account (any more)."""
    belongings = await members.of_user(visit.shared.database, visit.user.id)
    return visit.render("dashboard/no_account.html", belongings=belongings)


PAGES = (
    Page("GET", "/dashboard", MEMBER, overview),
    Page("GET", "/dashboard/no-account", USER, no_account),
)
