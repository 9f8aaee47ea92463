"""A real browser: an installed Chromium, driven by Playwright.

    async with browser() as chromium:
        page = await chromium.open(site.url + "/auth/login")
        await page.fill("#email", "ada@example.com")

Each page fails the test that opened it if the browser complains about anything (`Page.complaints`): a script that
throws, a missing file, a request to another site, something forbidden by the Content-Security-Policy.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import uvloop
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, async_playwright

T = TypeVar("T")

PICTURES = Path(__file__).parent / "pictures"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 832}


def executable() -> str:
    """The path of an installed Chromium."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    raise AssertionError("browser tests need Chromium (Debian: apt-get install chromium)")


class Chromium:
    """A browser, and what its pages have complained about."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.complaints: list[str] = []

    async def context(self, **options: Any) -> BrowserContext:
        """One person's browser, with cookies of its own."""
        return await self._browser.new_context(**{"viewport": DESKTOP, **options}, reduced_motion="reduce")

    async def open(self, url: str, context: BrowserContext | None = None) -> Page:
        page = await (context or await self.context()).new_page()
        own = urlsplit(url).netloc

        def on_console(message: ConsoleMessage) -> None:
            if message.type in {"error", "warning"} and "status of 4" not in message.text:
                self.complaints.append(f"{page.url}: {message.text}")

        def on_request(request: Request) -> None:
            parts = urlsplit(request.url)
            if parts.scheme in {"http", "https"} and parts.netloc != own:
                self.complaints.append(f"{page.url} asks {request.url}")

        page.on("console", on_console)
        page.on("pageerror", lambda error: self.complaints.append(f"{page.url}: {error}"))
        page.on("request", on_request)
        await page.goto(url)
        return page


def run_long(test: Coroutine[Any, Any, T]) -> T:
    """Like `tests.gateway.site.run`, for tests that open dozens of pages: on a busy machine they take minutes."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(test, 600))


@asynccontextmanager
async def browser() -> AsyncIterator[Chromium]:
    """Complaints about its pages fail the test at the end."""
    async with async_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        launched = await playwright.chromium.launch(executable_path=executable(), args=arguments)
        chromium = Chromium(launched)
        try:
            yield chromium
        finally:
            # A browser that hangs must not hold up the whole suite.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(launched.close(), 10)
    assert chromium.complaints == []


async def picture(page: Page, name: str) -> None:
    """Write pictures of a page to tests/web/pictures: light, dark, and on a phone."""
    PICTURES.mkdir(exist_ok=True)
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)
        await page.wait_for_timeout(250)
        await page.screenshot(path=PICTURES / f"{name}-{scheme}.png", full_page=True)
    await page.emulate_media(color_scheme="light")
    await page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    # As on a phone, where it is closed at first; then let its movement end.
    await page.evaluate("document.getElementById('sidebar')?.close?.()")
    await page.wait_for_timeout(400)
    await page.screenshot(path=PICTURES / f"{name}-phone.png", full_page=True)
    await page.set_viewport_size(DESKTOP)  # type: ignore[arg-type]
    await page.evaluate("document.getElementById('sidebar')?.open?.()")


# Colours in transition from one theme to the other are not real ones. Endless animations are not waited for.
SETTLED = """() => Promise.allSettled(
    document.getAnimations()
        .filter(each => each.effect.getComputedTiming().endTime !== Infinity)
        .map(each => each.finished)
).then(() => null)"""


async def axe(page: Page, *rules: str) -> list[str]:
    """What axe-core finds wrong with the page for people who cannot see it or use no mouse. `rules`: only these."""
    await page.evaluate(SETTLED)
    # Not as a script of the page: its policy would forbid that.
    await page.evaluate(AXE.read_text())
    found = await page.evaluate(
        "async (rules) => (await axe.run(rules.length ? {runOnly: rules} : {})).violations", rules
    )
    return [
        f"{each['id']}: {node['html'][:160]} {node['failureSummary'][:200]}" for each in found for node in each["nodes"]
    ]


def pictures_wanted() -> bool:
    """Whether `PICTURES=1` asks for pictures, which cost seconds."""
    return bool(os.environ.get("PICTURES"))
