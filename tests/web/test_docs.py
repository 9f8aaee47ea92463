"""The guide: every text is whole, every link leads somewhere, and the search finds what is in it."""

import html
import json
import re
from pathlib import Path

import pytest
from tests.gateway.site import Site, always, chat, completion, run, says
from tests.sdk.programs import output
from tests.web.visitors import Visitor, house, registered, shown

from tollbridge.web import docs, openapi
from tollbridge.web.docs import Fill

OWN = Fill(
    name="Ours",
    url="https://api.example.com",
    key_prefix="mb-",
    header="X-MB",
    model="a/chat",
    window="4096",
    embedding="an-embedding",
)
BRAND = '[brand]\nname = "Model Bridge"\nkey_prefix = "mb-"\nheader_prefix = "X-MB"'


def test_each_page_has_its_text_and_each_text_its_page() -> None:
    written = {file.stem for file in docs.FOLDER.glob("*.md")}
    assert written == {guide.name for guide in docs.GUIDES} - {"api"}


@pytest.mark.parametrize("guide", [each for each in docs.GUIDES if each.name != "api"], ids=lambda guide: guide.name)
def test_a_text_is_filled_in_and_has_a_title(guide: docs.Guide) -> None:
    text = docs.rendered(guide.name, OWN)
    assert text.title
    assert not re.search("[«»]", text.html)
    ids = re.findall(r' id="([^"]+)"', text.html)
    assert len(set(ids)) == len(ids)


def test_an_unknown_mark_is_a_mistake() -> None:
    with pytest.raises(AttributeError):
        docs.filled("«nonsense»", OWN)


def test_the_brand_is_the_operators() -> None:
    async def test() -> None:
        async with house(BRAND) as site, Visitor(site) as visitor:
            for path in ("/docs", "/docs/billing", "/docs/authentication", "/docs/tools"):
                text = (await visitor.get(path)).text
                assert "Tollbridge" not in text, path
            quick = shown(await visitor.get("/docs"))
            assert f'"{site.url}/v1"' in quick
            assert "X-MB-Charged-USD" in quick
            assert "mb-" in quick

    run(test())


def test_every_link_of_the_public_pages_leads_somewhere() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            seen, waiting = {"/"}, ["/"]
            anchors: dict[str, set[str]] = {}
            asked: list[tuple[str, str, str]] = []
            while waiting:
                path = waiting.pop()
                response = await visitor.get(path)
                assert response.status_code in {200, 303}, path
                anchors[path] = set(re.findall(r' id="([^"]+)"', response.text))
                for link in re.findall(r'href="([^"]*)"', response.text):
                    target, _, anchor = link.replace("&amp;", "&").partition("#")
                    target = target.removeprefix(site.url) or path
                    assert target.startswith("/"), f"{path} links to {link}"
                    if target.startswith("/static/"):
                        continue
                    if anchor:
                        asked.append((path, target, anchor))
                    if target not in seen:
                        seen.add(target)
                        waiting.append(target)
            assert {"/docs/tools", "/pricing", "/models/m", "/contact", "/auth/login"} <= seen
            missing = [each for each in asked if each[2] not in anchors[each[1]]]
            assert missing == []

    run(test())


@pytest.mark.parametrize(
    ("words", "path", "part"),
    [
        (["idempotency"], "/docs/retries", ""),
        (["claude", "code"], "/docs/tools#claude-code", "Claude Code"),
        (["insufficient_credits"], "/docs/errors#all-of-them", "All of them"),
    ],
)
def test_the_search_finds_parts_of_pages(words: list[str], path: str, part: str) -> None:
    hits = [hit for guide in docs.GUIDES if guide.name != "api" for hit in docs.found(guide.name, OWN, words)]
    assert path in {hit.path for hit in hits} or not part
    if part:
        assert part in {hit.part for hit in hits}
    assert all(words[0] in f"{hit.title} {hit.part} {hit.excerpt}".lower() for hit in hits[:1])


def test_a_search_without_a_hit_says_so_and_shows_words_as_text() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            response = await visitor.get("/docs/search?q=%3Cscript%3Ealert(1)%3C/script%3E")
            assert "Nothing found" in response.text
            assert "<script>alert" not in response.text
            assert "Type what you are looking for" in (await visitor.get("/docs/search")).text
            found = await visitor.get("/docs/search?q=rate+limits")
            assert 'href="/docs/rate-limits' in found.text
            # A heading that has the words comes before a text that has them.
            assert "/docs/rate-limits" in re.findall(r'<li><a href="([^"]+)"', found.text)[0]

    run(test())


def test_a_page_that_is_not_there_is_404_and_the_first_one_has_one_address() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            for name in ("nonsense", "..%2fmarkdown", "%2e%2e", "api.md", "quick-start.md"):
                assert (await visitor.get(f"/docs/{name}")).status_code == 404, name
            assert (await visitor.get("/docs/quick-start")).headers["location"] == "/docs"

    run(test())


def test_the_guide_names_every_error_that_the_contract_names() -> None:
    contract = (Path(__file__).parents[2] / "docs" / "http.md").read_text("utf-8")
    lines = re.findall(r"^\| (\d{3}) \| (`[^|]*) \|", contract.partition("\n## Errors\n")[2], re.MULTILINE)
    named = {(int(status), code) for status, codes in lines for code in re.findall(r"`([a-z_]{5,})`", codes)}
    named -= {(429, kind) for kind in ("requests", "tokens", "concurrency")}
    assert len(named) > 30
    assert named == {(each.status, each.code) for each in openapi.PROBLEMS}


@pytest.mark.parametrize(
    ("reveal", "words"), [("once", "shown once, when it is made"), ("always", "shows your keys at every visit")]
)
def test_the_guide_says_how_often_a_key_is_shown(reveal: str, words: str) -> None:
    async def test() -> None:
        async with house(f'[keys]\nreveal = "{reveal}"') as site, Visitor(site) as visitor:
            for path in ("/docs", "/docs/authentication"):
                assert words in shown(await visitor.get(path))
            assert ("It is shown once" in shown(await visitor.get("/"))) == (reveal == "once")

    run(test())


def test_the_example_of_a_management_key_runs_as_it_stands() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            made = await ada.post("/dashboard/keys/management", {"label": "ci"})
            [key] = set(re.findall(r"tb_live_manage_\w+", made.text))
            text = docs.filled((docs.FOLDER / "account.md").read_text("utf-8"), OWN)
            [body] = re.findall(r'-d \'(\{"label".*\})\'', text)
            headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
            answer = await ada.client.post("/api/keys", content=body, headers=headers)
            assert answer.status_code == 201, answer.text
            for path in ("/api/keys", "/api/usage?range=7d", "/api/requests", "/api/billing"):
                assert (await ada.client.get(path, headers=headers)).status_code == 200, path

    run(test())


def test_the_example_of_looking_up_a_request_runs_as_it_stands() -> None:
    async def test() -> None:
        async with Site(always(says(completion()))) as site:
            answer = await site.post("/v1/chat/completions", chat())
            await site.settled(1)
            page = (await Visitor(site).get("/docs/api")).text
            blocks = (
                html.unescape(re.sub("<[^>]+>", "", each)) for each in re.findall(r"<pre.*?</pre>", page, re.DOTALL)
            )
            [example] = [each for each in blocks if "/v1/generation" in each]
            # In every shell: the address has a question mark.
            assert f'"{site.url}/v1/generation?id=ID_OF_THE_ANSWER"' in example
            call = example.replace("YOUR_API_KEY", site.key).replace("ID_OF_THE_ANSWER", answer.json["id"])
            told = json.loads(await output("sh", "-c", call.replace("curl", "curl -s", 1)))
            assert told["data"]["id"] == answer.json["id"]

    run(test())
