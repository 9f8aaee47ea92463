"""Who belongs to an account: inviting, changing roles, leaving.

An invitation is good as long as whoever sent it may give its role: who is removed leaves no way back in behind.
"""

from tollbridge.core.roles import Role, may_give
from tollbridge.errors import Faults, Forbidden, InvalidRequest, NotFound
from tollbridge.services import accounts, letters, sessions, throttle
from tollbridge.services.desk import Desk
from tollbridge.services.sessions import Client, Presence
from tollbridge.store import activity, members
from tollbridge.store import sessions as session_rows
from tollbridge.store.activity import NewDeed
from tollbridge.store.db import Duplicate, Transaction, run
from tollbridge.store.members import Invitation
from tollbridge.values import DAY_MS

INVITATION_MS = 7 * DAY_MS
MOST_INVITATIONS = 50


async def invite(desk: Desk, presence: Presence, email: str, role: str, client: Client) -> None:
    """InvalidRequest: no address, no role, already a member. Forbidden: more than the inviter may give. RateLimited."""
    account, giver = _account(presence)
    with Faults() as faults:
        address = faults.of("", accounts.mailable, email)
        wanted = faults.of(giver, read_role, role)
    _allow(giver, wanted)
    now = await desk.database.now()
    if any(each.email == address for each in await members.of_account(desk.database, account)):
        raise InvalidRequest("They are already a member.", param="email")
    if len(await members.invitations(desk.database, account)) >= MOST_INVITATIONS:
        raise InvalidRequest("Too many invitations are open. Withdraw some first.", param="email")
    await throttle.spend_mail(desk.database, presence.user.public_id, address, now)
    token = sessions.new_token()
    letter = letters.invitation(desk, address, presence.user.email, token)
    row = Invitation(
        public_id=accounts.new_id("inv"),
        account_id=account,
        email=address,
        role=wanted,
        created_at=now,
        expires_at=now + INVITATION_MS,
        invited_by=presence.user.id,
        inviter=presence.user.email,
    )

    async def use_case(transaction: Transaction) -> None:
        if not await members.keep_role(transaction, account, presence.user.id, giver):
            raise Forbidden("Your role in this account has changed in the meantime.", code="role")
        await members.invite(transaction, row, sessions.digest(token))
        await _note(transaction, presence, "member.invited", f"{address} as {wanted}", (client, now))
        await desk.post.put(transaction, letter, now)

    await run(desk.database, use_case)
    desk.post.hurry(letter)


async def find_invitation(desk: Desk, token: str) -> Invitation:
    """Raises `InvalidRequest` if the link is not, or no longer, valid."""
    found = await members.find_invitation(desk.database, sessions.digest(token), await desk.database.now())
    if found is None:
        raise InvalidRequest("This invitation is no longer valid. Ask for a new one.", param="token")
    return found


async def accept(desk: Desk, presence: Presence, token: str) -> None:
    """Make the user a member, and let them look at the account. The link proves the address.

    InvalidRequest: the link is not valid, or was sent to another address than the user's.
    """
    invitation = await find_invitation(desk, token)
    if invitation.email != presence.user.email:
        raise InvalidRequest(f"This invitation is for {invitation.email}: log in with that address.", param="token")
    now = await desk.database.now()

    async def use_case(transaction: Transaction) -> bool:
        if await members.take_back(transaction, invitation.account_id, invitation.public_id) is None:
            return False
        await members.add(transaction, invitation.account_id, presence.user.id, invitation.role, now)
        await session_rows.move(transaction, presence.session.id, invitation.account_id)
        deed = NewDeed(
            account_id=invitation.account_id,
            actor=presence.user.email,
            action="member.joined",
            detail=f"as {invitation.role}",
        )
        await activity.add(transaction, deed, now)
        return True

    try:
        joined = await run(desk.database, use_case)
    except Duplicate:
        raise InvalidRequest("You are already a member.", param="token") from None
    if not joined:
        raise InvalidRequest("This invitation is no longer valid. Ask for a new one.", param="token")


async def take_back(desk: Desk, presence: Presence, invitation: str, client: Client) -> None:
    """Raises `NotFound`."""
    account, _ = _account(presence)
    now = await desk.database.now()

    async def use_case(transaction: Transaction) -> None:
        invited = await members.take_back(transaction, account, invitation)
        if invited is None:
            raise NotFound("There is no such invitation.")
        await _note(transaction, presence, "member.uninvited", invited, (client, now))

    await run(desk.database, use_case)


async def set_role(desk: Desk, presence: Presence, member: str, role: str, client: Client) -> None:
    """NotFound, InvalidRequest (the last owner stays one), Forbidden (nobody gives or takes more than they have)."""
    account, giver = _account(presence)
    wanted, now = read_role(role), await desk.database.now()

    async def use_case(transaction: Transaction) -> None:
        user_id, current, email = await _find(transaction, account, member)
        _allow(giver, current)
        _allow(giver, wanted)
        if current is Role.OWNER and wanted is not Role.OWNER:
            await _keep_an_owner(desk, transaction, account)
        await members.set_role(transaction, account, user_id, wanted)
        await _note(transaction, presence, "member.role", f"{email}: {current} → {wanted}", (client, now))
        await _withdraw(transaction, presence, (user_id, wanted), (client, now))

    await run(desk.database, use_case)


async def remove(desk: Desk, presence: Presence, member: str, client: Client) -> None:
    """Remove a member; their sessions then look at no account. Raises as `set_role`."""
    account, giver = _account(presence)
    now = await desk.database.now()

    async def use_case(transaction: Transaction) -> None:
        user_id, current, email = await _find(transaction, account, member)
        if user_id != presence.user.id:
            _allow(giver, current)
        if current is Role.OWNER:
            await _keep_an_owner(desk, transaction, account)
        await members.remove(transaction, account, user_id)
        await _note(transaction, presence, "member.removed", email, (client, now))
        await _withdraw(transaction, presence, (user_id, None), (client, now))

    await run(desk.database, use_case)


def read_role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError:
        raise InvalidRequest(f"A role must be one of {', '.join(Role)}.", param="role") from None


def _account(presence: Presence) -> tuple[int, Role]:
    assert presence.account is not None
    assert presence.role is not None
    return presence.account.id, presence.role


def _allow(giver: Role, role: Role) -> None:
    if not may_give(giver, role):
        raise Forbidden("Only an owner can do that.", code="role")


async def _find(transaction: Transaction, account: int, member: str) -> tuple[int, Role, str]:
    found = await members.find(transaction, account, member)
    if found is None:
        raise NotFound("There is no such member.")
    return found


async def _withdraw(
    transaction: Transaction, presence: Presence, inviter: tuple[int, Role | None], at: tuple[Client, int]
) -> None:
    """The invitations that a user sent and may no longer send. `inviter`: their id and their role now, if any."""
    account, _ = _account(presence)
    user_id, role = inviter
    for each in await members.invitations(transaction, account):
        if each.invited_by == user_id and (role is None or not may_give(role, each.role)):
            await members.take_back(transaction, account, each.public_id)
            await _note(transaction, presence, "member.uninvited", f"{each.email} as {each.role}", at)


async def _keep_an_owner(desk: Desk, transaction: Transaction, account: int) -> None:
    # If two owners leave at once, one check follows the other.
    if await members.lock_owners(desk.database, transaction, account) <= 1:
        raise InvalidRequest("An account needs an owner: make somebody else one first.")


async def _note(transaction: Transaction, presence: Presence, action: str, detail: str, at: tuple[Client, int]) -> None:
    """`at`: from where, and when (milliseconds)."""
    account, _ = _account(presence)
    client, now = at
    deed = NewDeed(account_id=account, actor=presence.user.email, action=action, detail=detail, address=client.address)
    await activity.add(transaction, deed, now)
