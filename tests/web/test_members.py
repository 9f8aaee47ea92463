"""Who belongs to an account: invited, hired, removed, and who may do that."""

import asyncio
import html
import re

import pytest
from tests.gateway.site import run
from tests.web.visitors import SETTINGS, hired, house, letters, registered, shown, token_to

from tollbridge.services.throttle import MAILS_BY_USER


def test_who_is_invited_joins_with_their_role_and_can_be_removed() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            bob = await registered(site, "bob@example.com")
            assert "This gateway does not send mail" in shown(await ada.get("/dashboard/members"))
            await ada.post("/dashboard/members", {"email": "bob@example.com", "role": "billing"})
            token = await token_to(site, "bob@example.com")
            wrong = await registered(site, "eve@example.com")
            assert (await wrong.post("/auth/invitation", {"token": token})).status_code == 400
            # Logging out as somebody else leads back to the invitation.
            page = await wrong.get(f"/auth/invitation?token={token}")
            [log_out] = re.findall(r'action="(/auth/logout[^"]*)"', page.text)
            assert (await wrong.post(html.unescape(log_out))).headers["location"] == f"/auth/invitation?token={token}"
            assert "Log in to join" in shown(await wrong.get(f"/auth/invitation?token={token}"))
            assert "billing" in shown(await bob.get(f"/auth/invitation?token={token}"))
            assert (await bob.post("/auth/invitation", {"token": token})).status_code == 303
            assert "ada@example.com" in shown(await bob.get("/dashboard"))
            assert (await bob.get("/dashboard/members")).status_code == 403
            page = await ada.get("/dashboard/members")
            # The only owner stays one, and is not asked.
            [member] = re.findall(r"/members/(user_\w+)/role", page.text)
            await ada.post(f"/dashboard/members/{member}/role", {"role": "admin"})
            assert (await bob.get("/dashboard/members")).status_code == 200
            takeover = await bob.post("/dashboard/members", {"email": "x@example.com", "role": "owner"})
            assert takeover.status_code == 403
            own = await bob.post(f"/dashboard/members/{member}/role", {"role": "owner"})
            assert own.status_code == 403
            await ada.post(f"/dashboard/members/{member}/remove")
            assert (await bob.get("/dashboard")).headers["location"].startswith("/dashboard/no-account")
            assert "bob@example.com" in shown(await bob.get("/dashboard/accounts"))
            words = shown(await ada.get("/dashboard/activity"))
            assert all(word in words for word in ("opened the account", "invited", "joined", "changed a role"))

    run(test())


@pytest.mark.parametrize("way", ["remove", "leave", "admin", "viewer"])
def test_an_invitation_is_good_as_long_as_whoever_sent_it_may_give_its_role(way: str) -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            eve, member = await hired(site, ada, "eve@example.com", "owner")
            friend = await registered(site, "friend@example.com")
            for email, role in (("friend@example.com", "owner"), ("other@example.com", "viewer")):
                await eve.post("/dashboard/members", {"email": email, "role": role})
            token, viewers = await token_to(site, "friend@example.com"), await token_to(site, "other@example.com")
            await ada.post("/dashboard/members", {"email": "own@example.com", "role": "viewer"})
            page = shown(await ada.get("/dashboard/members"))
            assert "friend@example.com as owner, by eve@example.com, until" in page
            if way == "remove":
                await ada.post(f"/dashboard/members/{member}/remove")
            elif way == "leave":
                assert (await eve.post("/dashboard/leave")).status_code == 303
            else:
                await ada.post(f"/dashboard/members/{member}/role", {"role": way})
            refused = await friend.post("/auth/invitation", {"token": token})
            assert refused.status_code == 400
            assert "no longer valid" in shown(refused)
            page = shown(await ada.get("/dashboard/members"))
            assert "friend@example.com" not in page
            assert ("other@example.com" in page) is (way == "admin")
            assert (await friend.get(f"/auth/invitation?token={viewers}")).status_code == (
                200 if way == "admin" else 400
            )
            assert "own@example.com as viewer, by ada@example.com" in page
            noted = shown(await ada.get("/dashboard/activity"))
            assert "withdrew an invitation friend@example.com as owner" in noted

    run(test())


def test_who_is_removed_at_that_moment_invites_nobody(postgres_url: str) -> None:
    async def test() -> None:
        async with house(database_url=postgres_url) as site:
            ada = await registered(site, "ada@example.com")
            eve, _ = await hired(site, ada, "eve@example.com", "admin")
            await eve.token("/dashboard/members")
            async with site.database.transaction() as transaction:
                await transaction.execute("DELETE FROM membership WHERE role = 'admin'")
                late = asyncio.create_task(
                    eve.post("/dashboard/members", {"email": "friend@example.com", "role": "admin"})
                )
                await asyncio.sleep(1)
                assert not late.done()
            assert (await late).status_code == 403
            assert await site.database.fetch("SELECT * FROM invitation") == []

    run(test())


def test_what_happens_to_members_is_noted_with_whom_and_when_it_happened() -> None:
    async def test() -> None:
        async with house() as site:
            ada, bob = await registered(site, "ada@example.com"), await registered(site, "bob@example.com")
            started = await site.database.now()

            async def post(path: str, fields: dict[str, str], status: int = 303) -> None:
                # The page was opened hours ago.
                await site.database.execute("UPDATE session SET seen_at = seen_at - 7200000")
                assert (await ada.post(f"/dashboard/members{path}", fields)).status_code == status

            await post("", {"email": "bob@example.com", "role": "billing"})
            await bob.post("/auth/invitation", {"token": await token_to(site, "bob@example.com")})
            [member] = set(re.findall(r"/members/(user_\w+)/role", (await ada.get("/dashboard/members")).text))
            await post(f"/{member}/role", {"role": "viewer"})
            await post(f"/{member}/remove", {})
            await post("", {"email": "eve@example.com", "role": "viewer"})
            [invitation] = re.findall(r"/invitations/(inv_\w+)", (await ada.get("/dashboard/members")).text)
            await post(f"/invitations/{invitation}", {})
            await post(f"/invitations/{invitation}", {}, 404)
            noted = await site.database.fetch(
                "SELECT action, detail, at FROM activity WHERE action LIKE 'member.%' ORDER BY id"
            )
            assert [each[:2] for each in noted] == [
                ("member.invited", "bob@example.com as billing"),
                ("member.joined", "as billing"),
                ("member.role", "bob@example.com: billing → viewer"),
                ("member.removed", "bob@example.com"),
                ("member.invited", "eve@example.com as viewer"),
                ("member.uninvited", "eve@example.com"),
            ]
            assert all(at >= started for *_, at in noted)

    run(test())


def test_a_user_has_mails_sent_to_so_many_addresses_a_day() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            await site.database.execute("DELETE FROM throttle")
            for number in range(MAILS_BY_USER.count):
                address = {"email": f"mate{number}@example.com"}
                place, fields = ("/dashboard/members", {"role": "viewer"}) if number % 2 else (f"{SETTINGS}/email", {})
                assert (await ada.post(place, address | fields)).status_code == 303
            sent = len(await letters(site))
            for place, fields in (("/dashboard/members", {"role": "viewer"}), (f"{SETTINGS}/email", {})):
                answer = await ada.post(place, {"email": "one-more@example.com"} | fields)
                assert answer.status_code == 429
                assert "many mails sent to others today. Please try again in 24 hours" in shown(answer)
            assert len(await letters(site)) == sent
            # Nobody else can send fewer for it, not even to the same address.
            bob = await registered(site, "bob@example.com")
            fields = {"email": "one-more@example.com", "role": "viewer"}
            assert (await bob.post("/dashboard/members", fields)).status_code == 303

    run(test())


def test_an_account_keeps_an_owner() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            page = await ada.get("/dashboard/members")
            assert "/role" not in page.text
            assert "An account needs an owner" in shown(page)
            [(member,)] = await site.database.fetch('SELECT public_id FROM "user"')
            assert (await ada.post(f"/dashboard/members/{member}/role", {"role": "viewer"})).status_code == 400
            assert (await ada.post(f"/dashboard/members/{member}/remove")).status_code == 400
            assert (await ada.post("/dashboard/leave")).status_code == 400

    run(test())


@pytest.mark.parametrize("deed", ["role", "remove"])
def test_of_two_owners_who_depose_each_other_one_stays(deed: str, postgres_url: str) -> None:
    async def test() -> None:
        async with house(database_url=postgres_url) as site:
            for number in range(5):
                emails = [f"{name}{number}@example.com" for name in ("ada", "bob")]
                ada, bob = [await registered(site, email) for email in emails]
                await ada.post("/dashboard/members", {"email": emails[1], "role": "owner"})
                await bob.post("/auth/invitation", {"token": await token_to(site, emails[1])})
                rows = await site.database.fetch('SELECT email, public_id FROM "user"')
                names = {str(email): str(public_id) for email, public_id in rows}
                await asyncio.gather(
                    ada.post(f"/dashboard/members/{names[emails[1]]}/{deed}", {"role": "viewer"}),
                    bob.post(f"/dashboard/members/{names[emails[0]]}/{deed}", {"role": "viewer"}),
                )
                owners = await site.database.fetch(
                    "SELECT 1 FROM membership JOIN account ON account.id = account_id WHERE email = $1 AND role = $2",
                    *(emails[0], "owner"),
                )
                assert len(owners) == 1

    run(test())
