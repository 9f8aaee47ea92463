"""A stranger becomes a customer, in a real browser: register, follow the link in the mail, log in, read the key."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import Message
from pathlib import Path
from typing import Any

from aiosmtpd.controller import UnthreadedController
from aiosmtpd.handlers import Message as MessageHandler
from tests.web.browser import axe, browser, picture, pictures_wanted, run_long
from tests.web.test_billing import BILLING, ordered
from tests.web.town import operator
from tests.web.visitors import PASSWORD, house, registered

from tollbridge.web.render import usd


class Mailbox(MessageHandler):
    """A mail server's end: what arrived."""

    def __init__(self) -> None:
        super().__init__()
        self.letters: list[Message] = []

    def handle_message(self, message: Message) -> None:
        self.letters.append(message)


@asynccontextmanager
async def mail_server() -> AsyncIterator[tuple[Mailbox, int]]:
    mailbox = Mailbox()
    controller: Any = UnthreadedController(mailbox, hostname="127.0.0.1", port=0, loop=asyncio.get_running_loop())
    server = await asyncio.get_running_loop().create_server(controller._factory_invoker, "127.0.0.1", 0)
    try:
        yield mailbox, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def test_from_a_stranger_to_the_first_answer_its_bill_and_a_new_key(tmp_path: Path) -> None:
    async def test() -> None:
        async with mail_server() as (mailbox, port):
            config = (
                'public_url = "http://localhost:1"\n[brand]\nexample_model = "m"\n'
                f'[mail]\nhost = "127.0.0.1"\nport = {port}\nsecurity = "none"\nfrom = "no-reply@example.com"\n'
            )
            async with house(config) as site, browser() as chromium:
                at = f"http://127.0.0.1:{site.port}"
                page = await chromium.open(f"{at}/auth/register.html")
                await page.fill("#email", "ada@example.com")
                await page.fill("#password", "short")
                await page.click("text=Create account")
                assert "at least 12 characters" in await page.inner_text("#password-note")
                await page.fill("#password", PASSWORD)
                await page.check("#consent")
                await page.click("text=Create account")
                await page.wait_for_selector("text=Check your e-mail")
                for _ in range(500):
                    if mailbox.letters:
                        break
                    await page.wait_for_timeout(20)
                [letter] = mailbox.letters
                assert letter["To"] == "ada@example.com"
                link = re.findall(r"http://localhost:1(\S+)", letter.get_payload(decode=True).decode())[0]  # type: ignore[union-attr]
                await page.goto(f"{at}{link}")
                await page.fill("#password", PASSWORD)
                await page.click("text=Confirm and log in")
                await page.wait_for_url("**/dashboard")
                key = await page.inner_text(".copyable code")
                snippet = await page.inner_text("[role=tabpanel]:not([hidden]) code")
                assert key in snippet
                await page.reload()
                assert key not in await page.content()
                await page.click("text=Log out")
                await page.wait_for_selector("text=You are logged out")
                await page.fill("#email", "ada@example.com")
                await page.fill("#password", PASSWORD)
                await page.click("button:has-text('Log in')")
                await page.wait_for_url("**/dashboard")
                await page.wait_for_selector("text=No requests yet")

                # What the page shows to be copied runs as it is, with the real SDK.
                program = tmp_path / "snippet.py"
                program.write_text(snippet.replace("http://localhost:1", at))
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, str(program)), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
                )
                said, complaint = await process.communicate()
                assert said.decode().startswith("Hello!"), complaint.decode()
                [row] = await site.settled(1)
                await page.reload()
                charge = usd(row["charge"])
                assert charge in await page.inner_text("section[aria-labelledby=recent-title] tbody tr")
                await page.click("section[aria-labelledby=recent-title] tbody a")
                await page.wait_for_selector("text=What happened")
                assert charge in await page.inner_text("main")
                model = re.findall(r'model="([^"]+)"', snippet)[0]
                assert model in await page.inner_text("main")

                await page.goto(f"{at}/dashboard/keys")
                assert charge in await page.inner_text("tbody tr")
                await page.click("tbody a")
                await page.select_option("#overlap", "none")
                await page.click("button:has-text('Rotate')")
                await page.wait_for_selector("text=no longer works")
                fresh = await page.inner_text(".copyable code")
                assert fresh != key
                for each, status in ((key, 401), (fresh, 200)):
                    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
                    reply = await site.post("/v1/chat/completions", body, {"authorization": f"Bearer {each}"})
                    assert reply.status == status, reply.body

    run_long(test())


STRANGERS = ("/auth/register", "/auth/login", "/auth/forgot", "/auth/reset?token=x", "/auth/verify?token=x", "/nothing")
OURS = (
    *("/dashboard", "/dashboard/settings", "/dashboard/members", "/dashboard/activity", "/dashboard/accounts"),
    *("/auth/confirm", "/dashboard/settings/two-factor", "/admin/outbox"),
)


def test_every_page_can_be_used_by_everybody_and_is_small(axe_core: Path) -> None:
    """No violation for axe-core, light and dark; at most 150 KB on the way; nothing from elsewhere, nothing inline."""

    async def test() -> None:
        async with house() as site, browser() as chromium:
            boss = await operator(site)
            await boss.post("/dashboard/members", {"email": "guest@example.com", "role": "viewer"})
            await registered(site, "ada@example.com")
            context = await chromium.context()
            problems = []
            for paths in (STRANGERS, OURS):
                for path in paths:
                    page = await chromium.open(site.url + path, context)
                    problems += [f"{path}: {problem}" for problem in await axe(page)]
                    await page.emulate_media(color_scheme="dark", reduced_motion="reduce")
                    problems += [f"{path} dark: {problem}" for problem in await axe(page, "color-contrast")]
                    size = await page.evaluate(
                        "() => performance.getEntries().reduce((sum, each) => sum + (each.transferSize || 0), 0)"
                    )
                    assert size < 150_000, (path, size)
                    if pictures_wanted():
                        await picture(page, re.sub(r"\W+", "-", path.partition("?")[0]).strip("-"))
                    await page.close()
                await boss.log_in_browser(context)
            assert problems == []

    run_long(test())


LONG = "maximiliane.of-the-department-with-the-long-name@research.a-company-with-a-long-name.example.com"
# What cannot be read without moving: words and amounts wider than their place, and the end of a table.
HIDDEN = """() => [
    ...document.querySelectorAll("main .card, .page-head > div, .narrow-top, .danger-row > *, .stat, .pack"),
].filter(each => each.scrollWidth > each.clientWidth + 1).map(each => each.innerText.slice(0, 60))
.concat([...document.querySelectorAll("main .table-container")]
    .filter(each => each.scrollWidth > each.clientWidth + 1).map(each => "table: " + each.innerText.slice(0, 60)))
.concat([...document.querySelectorAll("main input:not([type=radio], [type=checkbox], [type=hidden])")]
    .filter(each => each.clientWidth && each.clientWidth < 80).map(each => "input: " + each.id))
.concat(document.documentElement.scrollWidth > innerWidth ? ["the page"] : [])"""


def test_phones_and_tablets_show_a_long_address_and_much_money_whole() -> None:
    async def test() -> None:
        async with house(f'[bank_transfer]\ninstructions = "To us"\n{RICH}') as site, browser() as chromium:
            ada = await registered(site, LONG)
            waiting = await ordered(ada, pack="1234567000000000", method="bank_transfer")
            [(reference,)] = await site.database.fetch("SELECT external_id FROM payment")
            await site.gateway._payments().confirm(reference, 1_234_567 * 10**9, actor="test")
            await ada.post("/dashboard/keys/management", {"label": "ci"})
            await ada.post("/dashboard/keys", {"label": "a label that somebody made rather long indeed"})
            [key] = set(re.findall(r"tb_live_\w+", (await ada.post("/dashboard/keys", {"label": "x" * 60})).text))
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            assert (await site.post("/v1/chat/completions", body, {"authorization": f"Bearer {key}"})).status == 200
            [one] = re.findall(r"/dashboard/keys/key_\w+", (await ada.get("/dashboard/keys")).text)[:1]
            paths = ["/dashboard", "/dashboard/usage", "/dashboard/requests", "/dashboard/keys", one]
            paths += ["/dashboard/members", "/dashboard/settings", "/auth/confirm"]
            paths += [BILLING, f"{BILLING}/invoices", f"{BILLING}/invoices/INV-000001", waiting]
            context = await chromium.context()
            await ada.log_in_browser(context)
            problems = []
            for path in paths:
                page = await chromium.open(site.url + path, context)
                for width in (360, 768):
                    await page.set_viewport_size({"width": width, "height": 800})
                    await page.reload()
                    problems += [(path, width, each) for each in await page.evaluate(HIDDEN)]
                await page.close()
            assert problems == []

    run_long(test())


RICH = """
[billing]
packs_usd = [10, 1234567]
most_top_up_usd = "2000000"
[brand]
name = "The Gateway of a Company with a Rather Long Name"
"""
