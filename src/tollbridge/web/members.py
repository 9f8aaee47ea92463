"""Members of an account, invitations, and what was done."""

from starlette.responses import Response

from tollbridge.core.roles import Role, may_give
from tollbridge.errors import ApiError, Forbidden, InvalidRequest, RateLimited
from tollbridge.services import members as service
from tollbridge.store import activity, members
from tollbridge.store.rows import ABOVE_ALL
from tollbridge.web.forms import Form
from tollbridge.web.page import ADMIN, ANYONE, MEMBER, USER, Page
from tollbridge.web.visit import Visit

MEMBERS = "/dashboard/members"
ACTIVITY_PAGE = 50
ROLES = {
    Role.OWNER: "Owner: everything, including closing the account",
    Role.ADMIN: "Admin: members, keys and money",
    Role.DEVELOPER: "Developer: keys, usage, playground",
    Role.BILLING: "Billing: usage and money",
    Role.VIEWER: "Viewer: sees usage",
}


async def list_members(visit: Visit) -> Response:
    return await _members(visit, Form({"role": Role.DEVELOPER}))


async def _members(visit: Visit, form: Form, status: int = 200) -> Response:
    shared, role = visit.shared, visit.somebody.role
    assert role is not None
    found = await members.of_account(shared.database, visit.account.id)
    return visit.render(
        "account/members.html",
        status=status,
        form=form,
        members=found,
        owners=sum(each.role is Role.OWNER for each in found),
        invitations=await members.invitations(shared.database, visit.account.id),
        sends=shared.desk.post.sends,
        roles=[(each.value, label) for each, label in ROLES.items() if may_give(role, each)],
    )


async def invite(visit: Visit) -> Response:
    form = await visit.form()
    try:
        await service.invite(visit.shared.desk, visit.somebody, form["email"], form["role"], visit.client)
    except (InvalidRequest, RateLimited) as error:
        return await _members(visit, form.refused(error, "email", "role"), error.status)
    return visit.redirect(MEMBERS)


async def take_back(visit: Visit) -> Response:
    await service.take_back(visit.shared.desk, visit.somebody, visit.path("invitation"), visit.client)
    return visit.redirect(MEMBERS)


async def set_role(visit: Visit) -> Response:
    form = await visit.form()
    try:
        await service.set_role(visit.shared.desk, visit.somebody, visit.path("member"), form["role"], visit.client)
    except (InvalidRequest, Forbidden) as error:
        return await _refused(visit, error)
    return visit.redirect(MEMBERS)


async def remove(visit: Visit) -> Response:
    try:
        await service.remove(visit.shared.desk, visit.somebody, visit.path("member"), visit.client)
    except (InvalidRequest, Forbidden) as error:
        return await _refused(visit, error)
    return visit.redirect(MEMBERS)


async def _refused(visit: Visit, error: ApiError) -> Response:
    return await _members(visit, Form({"role": Role.DEVELOPER}).refused(error), error.status)


async def leave(visit: Visit) -> Response:
    """Leave this account."""
    await service.remove(visit.shared.desk, visit.somebody, visit.user.public_id, visit.client)
    return visit.redirect("/dashboard/accounts")


async def invitation(visit: Visit) -> Response:
    found = await service.find_invitation(visit.shared.desk, visit.query("token"))
    return visit.render("login/invitation.html", form=Form(), token=visit.query("token"), invitation=found)


async def accept(visit: Visit) -> Response:
    form = await visit.form()
    await service.accept(visit.shared.desk, visit.somebody, form["token"])
    return visit.redirect("/dashboard")


async def deeds(visit: Visit) -> Response:
    before = visit.before()
    found = await activity.page(visit.shared.database, visit.account.id, before, ACTIVITY_PAGE)
    return visit.render(
        "account/activity.html", deeds=found, more=len(found) == ACTIVITY_PAGE, first=before == ABOVE_ALL
    )


PAGES = (
    Page("GET", MEMBERS, ADMIN, list_members),
    Page("POST", MEMBERS, ADMIN, invite),
    Page("POST", f"{MEMBERS}/{{member}}/role", ADMIN, set_role),
    Page("POST", f"{MEMBERS}/{{member}}/remove", ADMIN, remove),
    Page("POST", f"{MEMBERS}/invitations/{{invitation}}", ADMIN, take_back),
    Page("POST", "/dashboard/leave", MEMBER, leave),
    Page("GET", "/dashboard/activity", ADMIN, deeds),
    Page("GET", "/auth/invitation", ANYONE, invitation),
    Page("POST", "/auth/invitation", USER, accept),
)
