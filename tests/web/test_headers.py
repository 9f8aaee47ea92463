"""J6: whatever stands in a name, a path or a form, no answer has a header of the visitor's making."""

import random
from urllib.parse import quote

import pytest
from tests.gateway.site import run
from tests.web.visitors import PASSWORD, Visitor, house, registered

CONTROLS = ("\r\n", "\n", "\r", "\0", "\x1b", "\x85", "\u2028", "\u560d\u560a", "%0d%0a", "\\r\\n")
INJECTED = ("x-evil: 1", "set-cookie: evil=1", "location: http://evil.example/", "\r\n<script>")


@pytest.mark.parametrize("trials", [200, pytest.param(2_000, marks=pytest.mark.soak)])
def test_no_text_of_a_visitor_becomes_a_header(trials: int) -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as stranger:
            ada = await registered(site, "ada@example.com")
            chance = random.Random(trials)
            strange, own = await stranger.token(), await ada.token("/dashboard/keys")

            def text() -> str:
                parts = [chance.choice(CONTROLS) + chance.choice(INJECTED) for _ in range(chance.randint(1, 3))]
                return chance.choice(("", "/", "m", "ada")) + "".join(parts)

            for number in range(trials):
                given = text()
                match number % 8:
                    case 0:
                        response = await stranger.client.get(f"/models/{quote(given, safe='')}")
                    case 1:
                        response = await stranger.client.get("/dashboard", params={"x": given})
                    case 2:
                        fields = {"csrf": own, "password": PASSWORD}
                        at = f"/auth/confirm?next={quote(given)}"
                        response = await ada.raw_post(at, {**fields, "password": "wrong"})
                    case 3:
                        response = await ada.client.get(f"/auth/login?next={quote('/' + given)}")
                    case 4:
                        fields = {
                            "csrf": strange,
                            "email": f"{given}@example.com",
                            "password": PASSWORD,
                            "consent": "1",
                        }
                        response = await stranger.raw_post("/auth/register", fields)
                    case 5:
                        response = await ada.raw_post("/dashboard/keys", {"csrf": own, "label": given})
                    case 6:
                        fields = {"csrf": own, "email": f"a@{given}.example", "role": "viewer"}
                        response = await ada.raw_post("/dashboard/members", fields)
                    case _:
                        response = await ada.client.get(f"/dashboard/requests/{quote(given, safe='')}")
                assert response.status_code < 500, given
                assert "x-evil" not in response.headers, given
                assert "evil" not in response.headers.get("set-cookie", ""), given
                location = response.headers.get("location", "/")
                assert location.startswith("/"), given
                assert not location.startswith("//"), given

    run(test())


@pytest.mark.parametrize("path", ["/\u6c49", "/caf\u00e9?q=\u6c49"])
def test_a_script_is_sent_on_to_any_path_as_a_browser_is(path: str) -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            plain = await ada.client.get("/auth/login", params={"next": path})
            scripted = await ada.client.get("/auth/login", params={"next": path}, headers={"hx-request": "true"})
            assert (plain.status_code, scripted.status_code) == (303, 204)
            assert scripted.headers["hx-redirect"] == plain.headers["location"] == quote(path, safe="/?=")

    run(test())
