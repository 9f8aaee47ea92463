"""Public pages and the playground in a real browser: usable by everybody, small, quick, and by nobody's script."""

import cProfile
import re
from pathlib import Path

from tests.gateway.site import run
from tests.web.browser import PHONE, axe, browser, picture, pictures_wanted, run_long
from tests.web.catalogs import MANY, PRICED
from tests.web.visitors import Visitor, house, registered

# One of each template, where pictures are not wanted.
CHOSEN = (
    *("/", "/models", "/models?q=nothing-is-like-that", "/models/maker/tiered", "/pricing", "/status", "/terms"),
    *("/docs/tools", "/docs/api", "/docs/search?q=stream", "/playground"),
)
LONGEST_ID = "a-maker-with-a-very-long-name/" + "a-model-whose-name-goes-on-" * 3 + "to-128-characters"
LONG = f"""
[[models]]
id = "{LONGEST_ID}"
best_for = "{"Everything that one can think of, in as many words as there is room for, " * 5}"
price = {{ input = "0.000001", output = "123456.123456" }}
routes = [{{ provider = "up", model = "x" }}]
"""
PATHS = (
    *("/", "/models", "/models?q=nothing-is-like-that", "/models/maker/tiered", "/models/e", "/pricing", "/status"),
    *("/terms", "/privacy", "/refunds", "/contact", "/docs", "/docs/tools", "/docs/billing", "/docs/chat-completions"),
    *("/docs/api", "/docs/search?q=stream", "/models/nope", "/playground"),
)
# For a page, and for asking for it. The most that any took when this was written was half as many, some 5 ms.
MOST_CALLS = 40_000


def test_every_page_can_be_used_by_everybody_and_is_small(axe_core: Path) -> None:
    """No violation for axe-core, light and dark; at most 150 KB on the way; never wider than a phone."""

    async def test() -> None:
        async with house(MANY + PRICED + LONG) as site, browser() as chromium:
            ada = await registered(site, "ada@example.com")
            problems = []
            for path in (*(PATHS if pictures_wanted() else CHOSEN), f"/models/{LONGEST_ID}"):
                # Nothing is known beforehand: all that a page needs is counted.
                context = await chromium.context()
                if path == "/playground":
                    await ada.log_in_browser(context)
                page = await chromium.open(site.url + path, context)
                problems += [f"{path}: {problem}" for problem in await axe(page)]
                await page.emulate_media(color_scheme="dark", reduced_motion="reduce")
                problems += [f"{path} dark: {problem}" for problem in await axe(page, "color-contrast")]
                size = await page.evaluate(
                    "() => performance.getEntries().reduce((sum, each) => sum + (each.transferSize || 0), 0)"
                )
                if not 20_000 < size < 150_000:
                    problems.append(f"{path}: {size} bytes")
                if pictures_wanted():
                    await picture(page, "public-" + re.sub(r"\W+", "-", path)[:40].strip("-"))
                await page.set_viewport_size(PHONE)  # type: ignore[arg-type]
                wide = await page.evaluate("document.documentElement.scrollWidth")
                if wide > PHONE["width"]:
                    problems.append(f"{path}: {wide} pixels wide on a phone")
                await context.close()
            assert problems == []

    run_long(test())


def test_the_menu_and_the_prices_are_in_view_on_phones_and_tablets() -> None:
    async def test() -> None:
        async with house(MANY + PRICED + LONG) as site, browser() as chromium:
            page = await chromium.open(site.url + "/models")
            for width in (360, 768, 1024):
                await page.set_viewport_size({"width": width, "height": 800})
                for part in (".topbar nav", "main .scroll"):
                    assert await page.evaluate(IN_VIEW, part), (width, part)

    run(test())


IN_VIEW = "part => { const each = document.querySelector(part); return each.scrollWidth <= each.clientWidth; }"


def test_filters_work_without_a_button_and_without_a_script() -> None:
    async def test() -> None:
        async with house(MANY + PRICED) as site, browser() as chromium:
            page = await chromium.open(site.url + "/models")
            await page.fill("#q", "tiered")
            await page.wait_for_selector(".found:has-text('Show all')")
            assert await page.locator(".model-id").all_inner_texts() == ["maker/tiered"]
            assert page.url.endswith("/models?q=tiered")
            await page.fill("#q", "")
            await page.select_option("#type", "embedding")
            await page.wait_for_selector(".model-id >> nth=2")
            assert set(await page.locator("tbody td:nth-child(2)").all_inner_texts()) == {"Embedding"}
            await page.click("th a:has-text('Input')")
            await page.wait_for_selector("th[aria-sort=ascending]")
            plain = await chromium.context(java_script_enabled=False)
            page = await chromium.open(site.url + "/models", plain)
            await page.fill("#q", "tiered")
            await page.click("noscript button, button:has-text('Filter')")
            assert await page.locator(".model-id").all_inner_texts() == ["maker/tiered"]

    run(test())


def test_code_is_chosen_and_copied_by_keyboard() -> None:
    async def test() -> None:
        async with house() as site, browser() as chromium:
            context = await chromium.context(permissions=["clipboard-read", "clipboard-write"])
            page = await chromium.open(site.url + "/docs", context)
            await page.focus("[role=tab] >> nth=0")
            await page.keyboard.press("ArrowRight")
            assert await page.evaluate("document.activeElement.textContent") == "Node.js"
            assert "new OpenAI" in await page.locator("[role=tabpanel]:visible").first.inner_text()
            await page.keyboard.press("Tab")
            await page.keyboard.press("Enter")
            await page.wait_for_selector("[data-copied]")
            copied = await page.evaluate("navigator.clipboard.readText()")
            assert f'baseURL: "{site.url}/v1"' in copied

    run(test())


def test_pages_are_made_with_little_work() -> None:
    """Calls of functions, which a busy machine does not change: those of gateway and client, in one thread."""

    async def test() -> None:
        async with house(MANY + PRICED) as site, Visitor(site) as visitor:
            paths = [path for path in PATHS if path not in {"/playground", "/models/nope"}]
            work = {}
            for path in paths:
                await visitor.get(path)  # templates are compiled, the guide is rendered
                tries = []
                for _ in range(3):  # something else may have been done meanwhile
                    with cProfile.Profile() as profile:
                        await visitor.get(path)
                    tries.append(sum(each.callcount for each in profile.getstats()))
                work[path] = min(tries)
            print(work)
            assert {path: calls for path, calls in work.items() if calls > MOST_CALLS} == {}

    run(test())
