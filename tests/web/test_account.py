"""What users change of their own: their password, their address."""

from tests.gateway.site import run
from tests.web.visitors import (
    NEW,
    PASSWORD,
    SETTINGS,
    Visitor,
    house,
    letters,
    registered,
    reset_token,
    shown,
    token_to,
)


def test_a_new_password_ends_the_other_sessions_and_is_told() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            async with Visitor(site) as elsewhere:
                await elsewhere.log_in("ada@example.com")
                before = ada.client.cookies["sid"]
                assert (await ada.post(f"{SETTINGS}/password", {"password": NEW})).status_code == 303
                assert ada.client.cookies["sid"] != before
                assert (await ada.get("/dashboard")).status_code == 200
                assert (await elsewhere.get("/dashboard")).status_code == 303
            assert "password was changed" in (await letters(site))[0][1]

    run(test())


def test_a_new_address_is_theirs_once_its_link_is_followed() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            await registered(site, "eve@example.com")
            taken = await ada.post(f"{SETTINGS}/email", {"email": "eve@example.com"})
            free = await ada.post(f"{SETTINGS}/email", {"email": "new@example.com"})
            assert taken.headers["location"] == free.headers["location"]
            assert "tried to register" in (await letters(site))[1][2]
            token = await token_to(site, "new@example.com")
            assert "ada@example.com" in shown(await ada.get(SETTINGS))
            assert (await ada.post("/auth/email", {"token": token})).status_code == 303
            assert "new@example.com" in shown(await ada.get(SETTINGS))
            assert (await ada.post("/auth/email", {"token": token})).status_code == 400
            # No link for a new password would come to the old address: it is not told to ask for one.
            told = (await letters(site))[0]
            assert told[:2] == ("ada@example.com", "Tollbridge: Your e-mail address was changed")
            assert "/contact" in told[2]
            assert "/auth/forgot" not in told[2]
            async with Visitor(site) as visitor:
                assert (await visitor.log_in("ada@example.com")).status_code == 400
                assert (await visitor.log_in("new@example.com")).status_code == 303

    run(test())


def test_a_new_password_or_address_voids_the_links_of_before() -> None:
    """Such as one to a mailbox of who was in the session."""

    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            ada = await registered(site, "ada@example.com")

            async def moving_to(address: str) -> str:
                await ada.post(f"{SETTINGS}/email", {"email": address})
                return await token_to(site, address)

            async def refused(path: str, token: str) -> bool:
                answer = await visitor.post(path, {"token": token, "password": "yet another password"})
                return answer.status_code == 400 and "no longer works" in shown(answer)

            first = await moving_to("eve@example.com")
            assert (await ada.post(f"{SETTINGS}/password", {"password": NEW})).status_code == 303
            assert await refused("/auth/email", first)
            second = await moving_to("eve2@example.com")
            reset = await reset_token(site, "ada@example.com")
            assert (await visitor.post("/auth/reset", {"token": reset, "password": PASSWORD})).status_code == 303
            assert await refused("/auth/email", second)
            await ada.log_in("ada@example.com")
            third = await moving_to("ada@example.org")
            reset = await reset_token(site, "ada@example.com")
            assert (await visitor.post("/auth/email", {"token": third})).status_code == 303
            assert await refused("/auth/reset", reset)

    run(test())
