"""Every page, for people who do not see it, or use no mouse, no script, or colours of their own."""

import re
from functools import partial
from html.parser import HTMLParser

from tests.gateway.site import run
from tests.web.browser import PHONE, browser, run_long
from tests.web.rows import ROWS
from tests.web.test_access import name
from tests.web.town import Objects, Town, town
from tests.web.visitors import house, registered

from tollbridge.web.page import Page
from tollbridge.web.pages import PAGES

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
REFERENCES = ("for", "aria-labelledby", "aria-describedby", "aria-controls")
NAMES = ("aria-label", "aria-labelledby")
UNLABELLED = {"hidden", "submit", "button"}


class Outline(HTMLParser):
    """What a page offers to those who do not see it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.title = ""
        self.lang: str | None = None
        self.mains = 0
        self.levels: list[int] = []
        self.ids: list[str] = []
        self.problems: list[str] = []
        self._open: list[str] = []
        self._referred: list[tuple[str, str]] = []
        self._fields: list[tuple[str, dict[str, str]]] = []
        self.feed(text)
        self.close()
        self._conclude()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        have = {key: value or "" for key, value in attrs}
        if len(have) < len(attrs):
            self.problems.append(f"<{tag}> has an attribute twice: {attrs}")
        if tag == "html":
            self.lang = have.get("lang")
        self.mains += tag == "main"
        if "id" in have:
            self.ids.append(have["id"])
        self._referred += [(each, id_) for each in REFERENCES for id_ in have.get(each, "").split()]
        if re.fullmatch("h[1-6]", tag) and "main" in self._open:
            self.levels.append(int(tag[1]))
        if tag == "th" and "scope" not in have:
            self.problems.append("a heading of a table does not say of what (scope)")
        if (tag == "table" or (have.get("tabindex") == "0" and "role" not in have)) and not have.keys() & set(NAMES):
            self.problems.append(f"<{tag}> {attrs} has no name")
        if tag in {"select", "textarea"} or (tag == "input" and have.get("type") not in UNLABELLED):
            self._fields.append((tag, have | {"within": "label" if "label" in self._open else ""}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while tag in self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["title"] and "svg" not in self._open:
            self.title += data

    def _conclude(self) -> None:
        twice = sorted({each for each in self.ids if self.ids.count(each) > 1})
        self.problems += [f"two have the id {each}" for each in twice]
        lost = [each for each in self._referred if each[1] not in self.ids]
        self.problems += [f"{attribute} names {id_}, which is not there" for attribute, id_ in lost]
        labelled = {id_ for each, id_ in self._referred if each == "for"}
        for tag, have in self._fields:
            if not (have["within"] or have.keys() & set(NAMES) or have.get("id") in labelled or "hidden" in have):
                self.problems.append(f"<{tag}> {have} has no label")
        if self.levels[:1] != [1] or self.levels.count(1) != 1:
            self.problems.append(f"headings begin with {self.levels[:3]}")
        if any(after > before + 1 for before, after in zip(self.levels, self.levels[1:], strict=False)):
            self.problems.append(f"headings skip a level: {self.levels}")
        if self.lang != "en" or self.mains != 1 or "content" not in self.ids:
            self.problems.append("it lacks its language, or the one main part that “Skip to content” leads to")


def readers(page: Page) -> tuple[str, ...]:
    """Of those who may open it: somebody with much in it, and somebody with nothing."""
    may = ROWS[name(page)].may.split()
    return tuple(who for who in ("other", "owner", "operator", "anonymous") if who in may) or ("other",)


def object_(theirs: Objects, match: re.Match[str]) -> str:
    return str(getattr(theirs, match[1], {"model": "m", "text": "tools"}.get(match[1], "nothing")))


async def look(people: Town, who: str, path: str) -> tuple[str, list[str]]:
    """The page's title, "" if it says what went wrong, and its problems."""
    response = await people[who].get(path)
    if not response.headers.get("content-type", "").startswith("text/html"):
        return "", []
    seen = Outline(response.text)
    return seen.title if response.status_code == 200 else "", [
        f"{who} {path} ({response.status_code}): {problem}" for problem in seen.problems
    ]


def test_every_page_can_be_read_by_its_outline() -> None:
    async def test() -> None:
        async with town() as people:
            problems: list[str] = []
            titles: dict[str, set[str]] = {}
            for page in PAGES:
                if page.method != "GET" or page.path.startswith("/auth/with/"):
                    continue
                for who in readers(page):
                    path = re.sub(r"\{(\w+)(?::path)?\}", partial(object_, people.theirs), page.path)
                    title, found = await look(people, who, path)
                    problems += found
                    if title:
                        titles.setdefault(title, set()).add(page.path.removesuffix(".html"))
            assert problems == []
            assert len(titles) > 40
            assert {title: paths for title, paths in titles.items() if len(paths) > 1} == {}

    run_long(test())


WRONG = (
    ("/auth/login", {"email": "nobody@example.com", "password": "wrong"}),
    ("/auth/register", {"email": "no address", "password": "short"}),
    ("/dashboard/keys", {"limit_usd": "much", "rpm": "x", "models": "a b c ???", "addresses": "here"}),
    ("/dashboard/members", {"email": "nobody", "role": "owner of all"}),
    ("/dashboard/settings/password", {"password": "short"}),
    ("/dashboard/settings/email", {"email": "nobody"}),
    ("/dashboard/settings/two-factor", {"code": "1"}),
    ("/dashboard/billing/checkout", {"pack": "other", "amount": "much", "method": "demo", "once": "x"}),
    ("/dashboard/billing/voucher", {"code": "none"}),
    ("/dashboard/billing/alert", {"alert": "little"}),
    ("/dashboard/billing/details", {"name": "x" * 300, "address": "x" * 900}),
    ("/admin/vouchers", {"amount": "much", "count": "some", "kind": "x"}),
    ("/admin/payments/confirm", {"reference": "none", "amount": "x"}),
    ("/admin/payments/refund", {"payment": "none", "amount": "x"}),
    ("/admin/drift", {"month": "May", "file": "x", "provider": "x"}),
)


def test_a_refused_form_says_so_in_its_title_and_has_the_focus_where_it_is_wrong() -> None:
    async def test() -> None:
        async with town() as people:
            problems = []
            for path, fields in WRONG:
                who = "anonymous" if path.startswith("/auth/") else "operator"
                response = await people[who].post(path, fields)
                seen = Outline(response.text)
                problems += [f"{path}: {problem}" for problem in seen.problems]
                wrong = re.findall(r"<[^>]*\sautofocus[\s>]", response.text)
                if response.status_code < 400 or not seen.title.startswith("Error: ") or not wrong:
                    problems.append(f"{path}: {response.status_code} {seen.title} {wrong}")
                elif 'aria-invalid="true"' not in wrong[0] and 'role="alert"' not in wrong[0]:
                    problems.append(f"{path}: {wrong[0]} has the focus")
            assert problems == []

    run_long(test())


FOCUS = "document.activeElement.id || document.activeElement.getAttribute('role') || document.activeElement.innerText"


def test_the_menu_of_a_phone_works_by_keyboard() -> None:
    async def test() -> None:
        async with house() as site, browser() as chromium:
            context = await chromium.context(viewport=PHONE)
            await (await registered(site, "ada@example.com")).log_in_browser(context)
            page = await chromium.open(site.url + "/dashboard", context)
            button = page.get_by_role("button", name="Show or hide the menu")
            # Their words are not in sight on a phone, but still their names.
            for role, words in (("link", "Docs"), ("button", "Log out")):
                assert await page.get_by_role(role, name=words).count() == 1  # type: ignore[arg-type]
            assert await button.get_attribute("aria-expanded") == "false"
            await button.press("Enter")
            assert await button.get_attribute("aria-expanded") == "true"
            assert await page.evaluate(FOCUS) == "Overview"
            await page.keyboard.press("Escape")
            assert await button.get_attribute("aria-expanded") == "false"
            assert await page.evaluate("document.activeElement.matches('[data-toggle-sidebar]')")
            await page.keyboard.press("Enter")
            await page.focus("#model")
            assert await button.get_attribute("aria-expanded") == "false"

    run(test())


def test_what_was_done_is_said() -> None:
    async def test() -> None:
        async with house() as site, browser() as chromium:
            context = await chromium.context(permissions=["clipboard-read", "clipboard-write"])
            ada = await registered(site, "ada@example.com")
            await ada.log_in_browser(context)
            page = await chromium.open(site.url + "/dashboard/keys/new", context)
            await page.fill("#limit_usd", "much")
            await page.fill("#label", "ci")
            await page.click("text=Create key")
            await page.wait_for_selector("[aria-invalid]")
            assert (await page.title()).startswith("Error: New API key")
            assert await page.evaluate(FOCUS) == "limit_usd"
            await page.fill("#limit_usd", "5")
            await page.click("text=Create key")
            await page.get_by_role("button", name="Copy the API key").press("Enter")
            await page.wait_for_selector("#said:has-text('Copied')", state="attached")
            await page.click("text=Done")
            await page.click("button:has-text('Save')")
            await page.wait_for_selector("text=The key is changed.")
            assert await page.evaluate(FOCUS) == "status"

    run(test())


# What happens every 30 seconds, now.
RENEW = """() => {
    const routes = document.getElementById("routes");
    const said = ["select", "target", "swap"].map(each => [each, routes.getAttribute(`hx-${each}`)]);
    return htmx.ajax("GET", "/status", {source: routes, ...Object.fromEntries(said)}).then(() => null);
}"""


def test_what_is_renewed_by_itself_keeps_the_focus() -> None:
    async def test() -> None:
        async with house() as site, browser() as chromium:
            page = await chromium.open(site.url + "/status")
            await page.focus("#routes [tabindex='0']")
            await page.locator("#routes .verdict p").evaluate("each => each.textContent = 'long ago'")
            await page.evaluate(RENEW)
            await page.wait_for_selector("#routes .verdict p:has-text('UTC')")
            assert await page.evaluate("document.activeElement.closest('#routes') !== null")

    run(test())


def test_without_scripts_nothing_is_out_of_reach() -> None:
    async def test() -> None:
        async with house() as site, browser() as chromium:
            context = await chromium.context(java_script_enabled=False, viewport=PHONE)
            await (await registered(site, "ada@example.com")).log_in_browser(context)
            page = await chromium.open(site.url + "/dashboard", context)
            assert await page.locator("[role=tabpanel]").nth(1).is_visible()
            for needs_one in ("data-copy", "data-copy-from", "data-theme-toggle", "data-toggle-sidebar"):
                assert not await page.is_visible(f"[{needs_one}]"), needs_one
            await page.click("nav >> text=Usage")
            assert page.url.endswith("/dashboard/usage")
            await page.goto(site.url + "/playground")
            assert await page.is_visible("noscript .alert")
            assert not await page.is_visible("#pg-go")

    run(test())


def test_with_the_systems_own_colours_it_is_seen_what_is_chosen() -> None:
    async def test() -> None:
        async with house('[bank_transfer]\ninstructions = "To us"\n') as site, browser() as chromium:
            context = await chromium.context(forced_colors="active")
            await (await registered(site, "ada@example.com")).log_in_browser(context)
            page = await chromium.open(site.url + "/dashboard/billing", context)
            for each in ("pack", "method"):
                # What lies in the place of the choice, not what has the focus.
                choice = page.locator("label", has=page.locator(f"input[name={each}]"))
                seen = []
                for chosen in (0, 1):
                    await choice.nth(chosen).locator("input").check(force=True)
                    await page.evaluate("document.activeElement.blur()")
                    await page.mouse.move(0, 0)
                    seen.append(await choice.nth(0).screenshot())
                assert seen[0] != seen[1], each
            line = "each => getComputedStyle(each).textDecorationLine"
            tabs = page.get_by_label("Billing", exact=True).get_by_role("link")
            assert [await tabs.nth(each).evaluate(line) for each in (0, 1)] == ["underline", "none"]

    run(test())
