"""Visitors of the pages: a whole gateway (`tests.gateway.site`), and people with cookies who fill in its forms.

async with house() as site:
    ada = await registered(site, "ada@example.com")
    reply = await ada.post("/dashboard/settings/password", {"password": "…"})
"""

import asyncio
import html
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import httpx
from tests.gateway.site import Site, always, completion, says

from tollbridge.services import credentials
from tollbridge.store import users

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext

PASSWORD = "correct horse battery staple"
# What a password is changed to.
NEW = "another fine password"
SETTINGS = "/dashboard/settings"
HTML = {"accept": "text/html,application/xhtml+xml"}


def house(config: str = "", **options: Any) -> Site:
    """A gateway whose upstream answers everything with the same completion."""
    return Site(always(says(completion())), config=config, **options)


class Visitor:
    """Somebody with a browser, as far as HTTP is concerned: cookies are kept, redirects are not followed.

    A form is posted with the token of the page that it is on, as `Sec-Fetch-Site: same-origin`.
    """

    def __init__(self, site: Site, **headers: str) -> None:
        self.site = site
        self.url = f"http://127.0.0.1:{site.port}"
        self.client = httpx.AsyncClient(base_url=self.url, headers={**HTML, **headers}, timeout=30, trust_env=False)
        site._stack.push_async_callback(self.client.aclose)
        self._token = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    async def log_in_browser(self, context: "BrowserContext") -> None:
        """Log a real browser in as this visitor."""
        await context.add_cookies([{"name": "sid", "value": self.client.cookies["sid"], "url": self.url}])

    async def get(self, path: str, **headers: str) -> httpx.Response:
        response = await self.client.get(path, headers=headers)
        self._learn(response)
        return response

    async def post(self, path: str, fields: Mapping[str, str] | None = None, **headers: str) -> httpx.Response:
        """Send a form. A visitor without a token first opens a page to get one."""
        if not self._token:
            await self.get("/auth/confirm")
        if not self._token:
            await self.get("/auth/login")
        response = await self.raw_post(path, {"csrf": self._token, **(fields or {})}, **headers)
        self._learn(response)
        return response

    async def send_json(self, method: str, path: str, fields: Mapping[str, object]) -> httpx.Response:
        """Send JSON as a script of our own pages does."""
        if not self._token:
            await self.get("/auth/confirm")
        headers = {"sec-fetch-site": "same-origin", "x-csrf-token": self._token, "accept": "application/json"}
        return await self.client.request(method, path, json=dict(fields), headers=headers)

    async def raw_post(self, path: str, fields: Mapping[str, str], **headers: str) -> httpx.Response:
        """Post exactly this."""
        return await self.client.post(path, data=dict(fields), headers={"sec-fetch-site": "same-origin", **headers})

    async def token(self, path: str = "/auth/login") -> str:
        """The token that a page of ours gives this visitor."""
        await self.get(path)
        return self._token

    async def log_in(self, email: str, password: str = PASSWORD) -> httpx.Response:
        self._token = ""
        response = await self.post("/auth/login", {"email": email, "password": password})
        self._token = ""
        return response

    def _learn(self, response: httpx.Response) -> None:
        found = re.search(r'name="csrf" value="([0-9a-f]+)"', response.text) or re.search(
            r"X-CSRF-Token\": \"([0-9a-f]+)", response.text
        )
        if found:
            self._token = found[1]
        elif any(name.endswith("sid") for name in response.cookies):
            self._token = ""


async def registered(site: Site, email: str, password: str = PASSWORD) -> Visitor:
    """A visitor with an account of their own, logged in, and verified if a link must be followed."""
    visitor = Visitor(site)
    fields = {"email": email, "password": password, "consent": "1"}
    response = await visitor.post("/auth/register", fields)
    if response.status_code == 200:
        link = await link_to(site, email)
        await visitor.get(link)
        response = await visitor.post("/auth/verify", {"token": link.partition("token=")[2], "password": password})
    assert response.status_code == 303, response.text
    return visitor


async def letters(site: Site) -> list[tuple[str, str, str]]:
    """(recipient, subject, text) of the mails in the outbox, newest first."""
    from tollbridge.store import mail

    desk = site.gateway._desk
    assert desk is not None
    return [(each.recipient, each.subject, desk.post.text(each)) for each in await mail.latest(site.database, 100)]


async def link_to(site: Site, email: str) -> str:
    """The path of the link in the newest mail to an address."""
    for _ in range(3_000):
        for recipient, _subject, text in await letters(site):
            if recipient == email:
                return str(re.findall(r"https?://[^/\s]+(/\S+)", text)[0])
        await asyncio.sleep(0.01)
    raise AssertionError(f"there is no mail to {email}")


def shown(response: httpx.Response) -> str:
    """The text of a page as people read it."""
    text = re.sub(r"<(script|style|svg)\b.*?</\1>", " ", response.text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


async def token_to(site: Site, email: str) -> str:
    return (await link_to(site, email)).partition("token=")[2]


async def reset_token(site: Site, email: str) -> str:
    """What the link holds that somebody gets who has forgotten their password."""
    desk = site.gateway._desk
    assert desk is not None
    user = await users.by_email(site.database, email)
    assert user is not None
    return await credentials.reset_token(desk, user, credentials.RESET_MS)


async def add_passkey(site: Site, email: str) -> None:
    await site.database.execute(
        "INSERT INTO passkey (user_id, credential, public_key, counter, label, created_at) "
        "SELECT id, $2, $2, 0, '', created_at FROM \"user\" WHERE email = $1",
        *(email, b"credential"),
    )


async def hired(site: Site, owner: Visitor, email: str, role: str) -> tuple[Visitor, str]:
    """A member of the owner's account, and their id."""
    member = await registered(site, email)
    await owner.post("/dashboard/members", {"email": email, "role": role})
    await member.post("/auth/invitation", {"token": await token_to(site, email)})
    rows = re.findall(r"<tr>.*?</tr>", (await owner.get("/dashboard/members")).text, re.DOTALL)
    return member, next(re.findall(r"/members/(user_\w+)/remove", row)[0] for row in rows if email in row)
