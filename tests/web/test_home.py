"""The front page, and what search engines read."""

import re
from xml.etree import ElementTree

from tests.gateway.site import run
from tests.web.catalogs import PRICED
from tests.web.visitors import Visitor, house, registered, shown

from tollbridge.web import home
from tollbridge.web.pages import PAGES


def test_the_first_call_stands_on_the_front_page_as_it_works() -> None:
    async def test() -> None:
        async with house('public_url = "https://api.example.com"\n[brand]\nname = "Model Bridge"') as site:
            visitor = Visitor(site, host="api.example.com")
            text = shown(await visitor.get("/"))
            assert '"https://api.example.com/v1"' in text
            assert '"m"' in text
            assert "Model Bridge speaks OpenAI's protocol" in text
            assert "$0.50 of free credit to start with" in text

    run(test())


def test_who_is_logged_in_is_led_to_the_dashboard() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            assert "Open the dashboard" in shown(await ada.get("/"))
            assert "Get your API key" in shown(await Visitor(site).get("/"))

    run(test())


def test_each_public_page_has_a_title_and_a_description() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            titles = set()
            for path in (*home._PUBLIC, "/models/m", "/docs/tools", "/docs/api"):
                text = (await visitor.get(path)).text
                [title] = re.findall(r"<title>(.*?)</title>", text)
                [description] = re.findall(r'<meta name="description" content="(.*?)">', text)
                assert len(description) > 20, path
                assert f'<link rel="canonical" href="{site.url}{path}">' in text
                titles.add(title)
            assert len(titles) == len(home._PUBLIC) + 3

    run(test())


def test_robots_find_the_map_and_the_map_what_is_public() -> None:
    async def test() -> None:
        async with house(PRICED) as site, Visitor(site) as visitor:
            robots = (await visitor.get("/robots.txt")).text
            assert f"Sitemap: {site.url}/sitemap.xml" in robots
            hidden = re.findall(r"Disallow: (\S+)", robots)
            tree = ElementTree.fromstring((await visitor.get("/sitemap.xml")).text)
            listed = [each.text or "" for each in tree.iter("{http://www.sitemaps.org/schemas/sitemap/0.9}loc")]
            assert f"{site.url}/models/maker/tiered" in listed
            assert f"{site.url}/docs/tools" in listed
            assert len(set(listed)) == len(listed)
            for url in listed:
                path = url.removeprefix(site.url)
                assert not any(path.startswith(prefix) for prefix in hidden)
                assert (await visitor.get(path)).status_code == 200
            # Whatever needs a log-in is hidden from robots.
            for page in PAGES:
                if page.who.user:
                    assert any(page.path.startswith(prefix) for prefix in hidden), page.path

    run(test())
