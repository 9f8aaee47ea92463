"""An account with a member in each role, somebody else's account, and an operator; each logged in.

async with town() as people:
    response = await people["viewer"].get("/dashboard")
"""

import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
from tests.gateway.site import Site, chat
from tests.web.visitors import PASSWORD, Visitor, house, registered

from tollbridge.core import totp
from tollbridge.core.roles import Role
from tollbridge.services import accounts, operators
from tollbridge.store import account_keys, management_keys, members, sessions, users
from tollbridge.store.db import Transaction, run
from tollbridge.store.users import NewUser

OTHER = "other@elsewhere.example"


class Objects(msgspec.Struct, frozen=True):
    """Public ids of what belongs to `other`'s account, and a text that occurs in everything of theirs."""

    account: str
    session: str
    member: str
    invitation: str
    passkey: str
    voucher: str
    key: str
    manager: str
    request: str
    payment: str
    invoice: str
    marker: str


class Town(msgspec.Struct, frozen=True):
    site: Site
    people: dict[str, Visitor]
    theirs: Objects

    def __getitem__(self, name: str) -> Visitor:
        return self.people[name]


@asynccontextmanager
async def town(config: str = "", **options: Any) -> AsyncIterator[Town]:
    async with house(config, **options) as site:
        people = {"anonymous": Visitor(site)}
        people["owner"] = await registered(site, "owner@example.com")
        await _hire(site, people)
        people["operator"] = await operator(site)
        people["other"] = other = await registered(site, OTHER)
        await other.post("/dashboard/members", {"email": "guest@elsewhere.example", "role": "viewer"})
        await _use_key(site, other)
        await _buy(other)
        yield Town(site, people, await _objects(site))


async def _hire(site: Site, people: dict[str, Visitor]) -> None:
    """Add a member in every other role. One password hash serves them all."""
    database = site.database
    owner = await users.by_email(database, "owner@example.com")
    assert owner is not None
    [home] = await members.of_user(database, owner.id)
    now = await database.now()
    for role in (Role.ADMIN, Role.DEVELOPER, Role.BILLING, Role.VIEWER):
        row = NewUser(
            public_id=accounts.new_id("user"),
            email=f"{role}@example.com",
            password=owner.password,
            verified_at=now,
            consented_at=now,
        )

        async def use_case(transaction: Transaction, row: NewUser = row, role: Role = role) -> None:
            user = await users.create(transaction, row, now)
            await members.add(transaction, home.account_id, user.id, role, now)

        await run(database, use_case)
        people[role] = Visitor(site)
        assert (await people[role].log_in(row.email)).status_code == 303


async def operator(site: Site, email: str = "boss@example.com") -> Visitor:
    """An operator with an account and a second factor, logged in with both."""
    visitor = await registered(site, email)
    token = await operators.link(site.database, email, create=True)
    assert (await visitor.post("/auth/reset", {"token": token, "password": PASSWORD})).status_code == 303
    assert (await visitor.log_in(email)).status_code == 303
    secret = secret_of(await visitor.get("/dashboard/settings/two-factor"))
    now = await site.database.now()
    code = totp.code(secret, now // 1000 // totp.STEP_S)
    response = await visitor.post("/dashboard/settings/two-factor", {"code": code})
    assert response.status_code == 200, response.text
    return visitor


def secret_of(response: httpx.Response) -> bytes:
    """The secret that the page for setting up a second factor shows."""
    text = re.findall(r'data-copy="([A-Z2-7]{32})"', response.text)[0]
    return base64.b32decode(text)


async def _use_key(site: Site, other: Visitor) -> None:
    """A call with the other account's key, whose label tells whose it is; and a key that manages it."""
    [key] = re.findall(r'data-copy="(tb_live_\w+)"', (await other.get("/dashboard")).text)
    answer = await site.post("/v1/chat/completions", chat(), {"authorization": f"Bearer {key}"})
    assert answer.status == 200
    await site.database.execute("UPDATE api_key SET label = $1 WHERE hint LIKE $2", OTHER, f"%{key[-4:]}")
    assert (await other.post("/dashboard/keys/management", {"label": OTHER})).status_code == 200


async def _buy(other: Visitor) -> None:
    """A payment and its invoice, and a pending order."""
    for once in ("paid", "open"):
        fields = {"pack": "10000000000", "method": "demo", "once": once}
        response = await other.post("/dashboard/billing/checkout", fields)
        assert response.status_code == 303, response.text
        payment = response.headers["location"].partition("payment=")[2]
        if once == "paid":
            assert (await other.post(f"/dashboard/billing/payments/{payment}/demo")).status_code == 303
    assert (await other.post("/dashboard/billing/details", {"name": OTHER})).status_code == 303


async def _objects(site: Site) -> Objects:
    database = site.database
    user = await users.by_email(database, OTHER)
    assert user is not None
    [home] = await members.of_user(database, user.id)
    [session, *_] = await sessions.of_user(database, user.id)
    rows = await database.fetch(
        "INSERT INTO passkey (user_id, credential, public_key, counter, label, created_at) "
        "VALUES ($1, $2, $2, 0, $3, 0) RETURNING id",
        *(user.id, b"x", OTHER),
    )
    passkey = rows[0][0]
    [invitation] = await members.invitations(database, home.account_id)
    [key] = await account_keys.of_account(database, home.account_id)
    [manager] = await management_keys.of_account(database, home.account_id)
    [(hold,)] = await database.fetch("SELECT hold_id FROM usage WHERE account_id = $1", home.account_id)
    [(order,)] = await database.fetch("SELECT public_id FROM payment WHERE status = 'pending'")
    desk = site.gateway._desk
    assert desk is not None
    return Objects(
        account=home.public_id,
        session=session.public_id,
        member=user.public_id,
        invitation=invitation.public_id,
        passkey=str(passkey),
        voucher="1",
        key=key.public_id,
        manager=manager.public_id,
        request=desk.master.ids().encode("chat", hold),
        payment=order,
        invoice="INV-000001",
        marker=OTHER,
    )
