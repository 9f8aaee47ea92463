"""J7: what customers, providers and operators have written is text on every page that shows it.

200 texts that would run are stored in each place, and a real browser opens the pages. Each text ends in a mark of its
place, so that the test fails too where a page shows none of it.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from playwright.async_api import Dialog, Page
from tests.gateway.site import Site, always, by_kind, chat, chunk, completion, http, streams, usage_chunk
from tests.upstream.bad_server import Peer, Request
from tests.web.browser import Chromium, browser, run_long
from tests.web.payloads import ALL
from tests.web.town import operator
from tests.web.visitors import Visitor

from tollbridge.store.db import Transaction
from tollbridge.store.db import run as in_one

PAGE = 50
# What a page holds that none of ours does, after everything that waits for a mouse or a focus had its chance.
LOOK = r"""() => {
  const bad = [];
  document.querySelectorAll("details").forEach((each) => { each.open = true; });
  for (const each of document.querySelectorAll("body *")) {
    for (const kind of ["mouseover", "focus", "toggle", "error", "load"]) each.dispatchEvent(new Event(kind));
    for (const {name, value} of each.attributes) {
      const runs = /^on/i.test(name) || name === "srcdoc" || name === "style" && !each.closest(".uplot");
      const leads = /^(href|src|action|formaction|xlink:href|data|to|from)$/i.test(name);
      if (runs || leads && /^\s*(javascript|vbscript|data:text)/i.test(value)) bad.push(each.outerHTML.slice(0, 200));
    }
  }
  const never = "body script, body style, iframe, object, embed, base, math, svg animate, main link, body meta";
  document.querySelectorAll(never).forEach((each) => bad.push(each.outerHTML.slice(0, 200)));
  return [bad, document.body.textContent];
}"""


def marked(place: str) -> list[str]:
    return [f"{text} ~{place}{index}~" for index, text in enumerate(ALL)]


def one_text(place: str) -> str:
    return "\n".join(marked(place))


def models() -> str:
    """A model for each text: its maker (which can be short only), what it is best for, another name of it."""
    rows = []
    for index, text in enumerate(marked("model")):
        told, maker = json.dumps(text, ensure_ascii=False), json.dumps(ALL[index][:60], ensure_ascii=False)
        rows.append(
            f'\n[[models]]\nid = "strange-{index}"\nbest_for = {told}\nowned_by = {maker}\naliases = [{told}]\n'
            'price = { input = "1", output = "2" }\nroutes = [{ provider = "up", model = "x" }]\n'
        )
    return "".join(rows)


def config(folder: Path) -> str:
    """A whole operator's: four texts of 50 each, a brand, a plan, a catalog."""
    pages = []
    texts = marked("legal")
    for number, name in enumerate(("terms", "privacy", "refunds", "contact")):
        written = texts[number::4]
        (folder / f"{name}.md").write_text(
            f"# {written[0]}\n\n## {written[1]}\n\n| a | b |\n|---|---|\n| {written[2].replace('|', '')} | x |\n\n"
            + "\n\n".join(written),
            "utf-8",
        )
        pages.append(f'{name} = "{folder}/{name}.md"\n')
    brand = json.dumps(ALL[2] + "<b>")
    plan = json.dumps(ALL[1])
    return (
        f"[pages]\n{''.join(pages)}\n[brand]\nname = {brand}\n"
        f'[billing]\nsignup_plan = "default"\n[plans.default]\ntitle = {plan}\n'
        f"description = {plan}\n{models()}"
    )


async def refuses(request: Request, peer: Peer) -> None:
    """A provider whose every answer is an attack: the words of a stream, and those of an error."""
    asked = json.loads(request.body)
    if "refuse" in asked["messages"][-1]["content"]:
        await peer.send(http(400, {"error": {"message": one_text("refusal"), "type": ALL[0], "code": ALL[1]}}))
        return
    words = [chunk(f"{text}\n") for text in marked("answer")]
    stream = [*words, chunk(finish="stop"), usage_chunk(10, 5), b"data: [DONE]\n\n"]
    whole = http(200, completion(one_text("answer")))

    async def at_once(request: Request, peer: Peer) -> None:
        await peer.send(whole)

    await by_kind(at_once, streams(stream))(request, peer)


async def called(site: Site, boss: Visitor) -> None:
    """200 requests of the boss's account, each of another model by its name in the books."""
    [key] = re.findall(r'data-copy="(tb_live_\w+)"', (await boss.get("/dashboard")).text)
    headers = {"authorization": f"Bearer {key}"}
    for _ in range(0, len(ALL), 8):
        replies = await asyncio.gather(*(site.post("/v1/chat/completions", chat(), headers) for _ in range(8)))
        assert {reply.status for reply in replies} == {200}
    await site.settled(len(ALL))
    holds = [hold for (hold,) in await site.database.fetch("SELECT hold_id FROM usage ORDER BY hold_id")]
    [(terms,)] = await site.database.fetch(
        "SELECT terms FROM price_version WHERE id = (SELECT price_version FROM usage LIMIT 1)"
    )
    for index, text in enumerate(marked("called")):
        named = json.dumps({**json.loads(terms), "model": text, "provider": text, "upstream_model": text})
        await site.database.execute(
            "INSERT INTO price_version (id, digest, terms, created_at) VALUES ($1, $2, $3, 0)",
            *(1_000 + index, hashlib.sha256(named.encode()).digest(), named),
        )
        await site.database.execute(
            "UPDATE usage SET price_version = $1, finish = $2 WHERE hold_id = $3", 1_000 + index, text, holds[index]
        )
    tries = [{"route": text, "failed": text, "status": 500, "ms": 1} for text in marked("tried")]
    await site.database.execute(
        "UPDATE usage SET attempts = $1 WHERE hold_id = $2", json.dumps(tries).encode(), holds[-1]
    )


async def written(database: Transaction, now: int, user: int, account: int) -> None:
    """What people, browsers and mail servers have left in the database."""
    execute = database.execute

    async def each(place: str, statement: str, values: Callable[[int, str], tuple[Any, ...]]) -> None:
        for index, text in enumerate(marked(place)):
            await execute(statement, *values(index, text))

    await each(
        "key",
        "INSERT INTO api_key (public_id, account_id, digest, pepper_id, hint, label, created_at, models) "
        "VALUES ($1, $2, $3, 0, 'tb_live_x', $4, $5, $6)",
        lambda index, text: (f"key_x{index}", account, index.to_bytes(32), text, now, json.dumps([text])),
    )
    await each(
        "manager",
        "INSERT INTO management_key (public_id, account_id, digest, hint, label, created_at) "
        "VALUES ($1, $2, $3, 'x', $4, $5)",
        lambda index, text: (f"mk_x{index}", account, index.to_bytes(32), text, now),
    )
    await each(
        "session",
        "INSERT INTO session (public_id, digest, user_id, created_at, seen_at, proved_at, factors, address, agent) "
        "VALUES ($1, $2, $3, $4, $4, $4, 1, $5, $5)",
        lambda index, text: (f"ses_x{index}", index.to_bytes(32), user, now, text),
    )
    await each(
        "passkey",
        "INSERT INTO passkey (user_id, credential, public_key, counter, label, created_at) "
        "VALUES ($1, $2, $2, 0, $3, 0)",
        lambda index, text: (user, index.to_bytes(8), text),
    )
    await each(
        "deed",
        "INSERT INTO activity (account_id, at, actor, action, detail, address) VALUES ($1, $2, $3, $3, $3, $3)",
        lambda _, text: (account, now, text),
    )
    await each(
        "mail",
        "INSERT INTO outbox (recipient, subject, created_at, next_at, tries, error) VALUES ($1, $1, $2, $3, 9, $1)",
        lambda _, text: (text, now, now + 10**12),
    )
    await each(
        "voucher",
        "INSERT INTO voucher (digest, hint, kind, amount, note, actor, created_at) "
        "VALUES ($1, $2, 'promo', 1, $2, $2, $3)",
        lambda index, text: (index.to_bytes(32), text, now),
    )
    await each(
        "invited",
        "INSERT INTO invitation (public_id, account_id, email, role, digest, created_at, expires_at) "
        "VALUES ($1, $2, $3, 'viewer', $4, $5, $6)",
        lambda index, text: (f"inv_x{index}", account, text, index.to_bytes(32), now, now + 10**9),
    )
    await each(
        "member",
        'INSERT INTO "user" (public_id, email, operator, created_at, totp_step) VALUES ($1, $2, 0, $3, 0)',
        lambda index, text: (f"usr_x{index}", text, now),
    )
    await execute(
        "INSERT INTO membership (account_id, user_id, role, created_at) "
        "SELECT $1, id, 'viewer', 0 FROM \"user\" WHERE public_id LIKE 'usr_x%'",
        account,
    )
    await each(
        "account",
        "INSERT INTO account (public_id, email, plan, created_at) VALUES ($1, $2, 'default', $3)",
        lambda index, text: (f"acc_x{index}", text, now),
    )
    await execute(
        "INSERT INTO balance (account_id, paid, promo, held, frozen) "
        "SELECT id, 0, 0, 0, 0 FROM account WHERE public_id LIKE 'acc_x%'"
    )
    await execute(
        "INSERT INTO membership (account_id, user_id, role, created_at) "
        "SELECT id, $1, 'viewer', 0 FROM account WHERE public_id LIKE 'acc_x%'",
        user,
    )
    await execute("UPDATE journal SET reason = $1 WHERE account_id = $2", one_text("reason"), account)


class Walk:
    """Opens pages in one browser and notes what they show."""

    def __init__(self, url: str, chromium: Chromium, page: Page) -> None:
        self.url = url
        self.seen: dict[str, str] = {}
        self._chromium = chromium
        self._page = page
        page.on("dialog", self._ran)

    async def open(self, path: str, first: Callable[[Page], Awaitable[None]] | None = None) -> str:
        """What the page's HTML is after all that a visitor does by accident."""
        page = self._page
        await page.goto(self.url + path)
        if first is not None:
            await first(page)
        bad, text = await page.evaluate(LOOK)
        assert bad == [], (path, bad)
        # A script that was started just now has its say before the page is left.
        await page.evaluate("new Promise((resolve) => setTimeout(resolve, 20))")
        self.seen[path] = " ".join(text.split())
        return await page.content()

    async def open_all(self, path: str) -> None:
        """A list with all its pages."""
        following: str | None = path
        while following is not None:
            older = re.search(r'href="([^"]+)">Older', await self.open(following))
            following = None if older is None else older[1].replace("&amp;", "&")

    async def _ran(self, dialog: Dialog) -> None:
        self._chromium.complaints.append(f"{self._page.url}: a script ran: {dialog.message}")
        await dialog.dismiss()

    def missing(self, places: Iterable[str]) -> list[str]:
        """Texts that were stored and stand on no page."""
        everything = "\n".join(self.seen.values())
        return [text for place in places for text in marked(place) if " ".join(text.split()) not in everything]


async def ask(page: Page) -> None:
    """Two questions in the playground: one is answered, one refused."""
    await page.fill("#pg-text", "Hello")
    await page.keyboard.press("Enter")
    await page.wait_for_selector(".pg-note")
    await page.fill("#pg-text", "refuse")
    await page.press("#pg-text", "Enter")
    await page.wait_for_selector(".pg-error")


PAGES = (
    *(
        "/dashboard",
        "/dashboard/usage?by=model",
        "/dashboard/usage?by=key",
        "/dashboard/keys",
        "/dashboard/keys/key_x7",
    ),
    *("/dashboard/settings", "/dashboard/members", "/dashboard/accounts", "/dashboard/billing/plan"),
    *("/dashboard/billing", "/dashboard/billing/statement", "/admin/vouchers", "/admin/outbox", "/admin/catalog"),
    *("/terms", "/privacy", "/refunds", "/contact", "/", "/pricing", "/status", "/docs", "/models/strange-8"),
    '/models?q=">' + ALL[1].replace(" ", "+"),
    "/docs/search?q=" + ALL[0],
    "/auth/login?next=" + ALL[5],
)
LISTS = ("/dashboard/requests", "/dashboard/activity", "/admin/activity", "/admin/accounts", "/admin/ledger")
STORED = (
    *("key", "manager", "session", "passkey", "deed", "invited", "member", "account", "called", "tried"),
    *("model", "answer"),
)


def test_what_is_stored_is_shown_as_text_everywhere(tmp_path: Path) -> None:
    async def test() -> None:
        script = always(refuses)
        async with Site(script, config=config(tmp_path)) as site, browser() as chromium:
            boss = await operator(site)
            [(user, account)] = await site.database.fetch("SELECT user_id, account_id FROM session WHERE factors = 2")
            await called(site, boss)
            now = await site.database.now()
            await in_one(site.database, lambda transaction: written(transaction, now, user, account))
            context = await chromium.context()
            await boss.log_in_browser(context)
            walk = Walk(site.url, chromium, await chromium.open(f"{site.url}/docs", context))
            for path in PAGES:
                await walk.open(path)
            for path in LISTS:
                await walk.open_all(path)
            for number in range(1, 2 + len(ALL) // PAGE):
                await walk.open(f"/models?page={number}")
            listed = (await boss.get("/dashboard/requests")).text
            requests = re.findall(r"/dashboard/requests/chatcmpl-\w+", listed)
            [(public_account,)] = await site.database.fetch("SELECT public_id FROM account WHERE id = $1", account)
            await walk.open(requests[0])
            await walk.open(f"/admin/accounts/{public_account}")
            await walk.open("/playground?model=m", ask)
            assert walk.missing(STORED) == []
            # Of what a provider says of an error the gateway passes on the beginning.
            assert marked("refusal")[0] in walk.seen["/playground?model=m"]

    run_long(test())
