"""Choosing a model: the list, its filters and order, and what a page says of a model."""

import re

import pytest
from tests.gateway.site import run
from tests.web.catalogs import MANY, PRICED, strange
from tests.web.payloads import PAYLOADS
from tests.web.visitors import Visitor, house, registered, shown

from tollbridge.core.retry import Kind
from tollbridge.web import models
from tollbridge.web.models import Wanted


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (512, "512"),
        (8192, "8K"),
        (65536, "64K"),
        (64000, "64K"),
        (131072, "128K"),
        (200_000, "200K"),
        (1_000_000, "1M"),
    ],
)
def test_a_size_is_written_as_makers_do(tokens: int, text: str) -> None:
    assert models.size(tokens) == text


def test_a_link_keeps_what_is_wanted_and_begins_at_the_first_page() -> None:
    wanted = Wanted(q="a b", sort="input", page="3")
    assert wanted.link(sort="-input") == "/models?q=a+b&sort=-input"
    assert wanted.link(page="4") == "/models?q=a+b&sort=input&page=4"
    assert Wanted().link() == "/models"


def ids(text: str) -> list[str]:
    return re.findall(r'<td class="model-id"><a href="[^"]*">([^<]*)</a>', text)


def test_filters_and_order() -> None:
    async def test() -> None:
        async with house(PRICED) as site, Visitor(site) as visitor:

            async def listed(query: str) -> list[str]:
                response = await visitor.get(f"/models{query}")
                assert response.status_code == 200
                return ids(response.text)

            assert await listed("") == ["m", "e", "maker/tiered"]
            assert await listed("?q=long+DOCUMENTS") == ["maker/tiered"]
            assert await listed("?q=tiered+up") == []
            assert await listed("?type=embedding") == ["e"]
            assert await listed("?provider=maker") == ["maker/tiered"]
            assert await listed("?price=1") == ["m", "e"]
            assert await listed("?context=200000") == ["maker/tiered"]
            assert await listed("?sort=context") == ["maker/tiered", "m", "e"]
            assert await listed("?sort=-name") == ["maker/tiered", "m", "e"]
            assert await listed("?sort=input") == ["m", "e", "maker/tiered"]
            for nonsense in ("?page=0", "?page=99", "?page=-1", "?page=x", "?page=²", "?sort=__class__", "?price=NaN"):
                assert await listed(nonsense) == ["m", "e", "maker/tiered"], nonsense
            for none in ("?type=x", "?context=999999999999999", "?q=%F0%9F%90%8C"):
                assert await listed(none) == []
            assert "No model matches" in (await visitor.get("/models?q=zzz")).text

    run(test())


def test_hundreds_of_models_come_by_pages_that_are_small() -> None:
    async def test() -> None:
        async with house(MANY) as site, Visitor(site) as visitor:
            total, seen = len(site.gateway._catalog().models), []
            assert total > 100
            for page in range(1, -(-total // models.A_PAGE) + 1):
                response = await visitor.get(f"/models?page={page}")
                assert len(response.content) < 40_000
                seen += ids(response.text)
            assert len(seen) == len(set(seen)) == total
            assert f"{total} models" in shown(response)

    run(test())


def test_a_page_says_all_that_a_model_costs() -> None:
    async def test() -> None:
        async with house(PRICED + '\n[billing]\nmarkup_percent = "10"') as site, Visitor(site) as visitor:
            response = await visitor.get("/models/maker/tiered")
            text = shown(response)
            assert "Over 200K tokens" in text
            assert "Sat-Sun" in text
            assert "Input $2.20 $4.40 $1.10" in text
            assert "Output $8.80 $17.60 $4.40" in text
            assert "Web searches, per thousand $11.00" in text
            assert '"maker/tiered"' in text
            assert "Also answers to tiered" in text
            # As everywhere in the API an id may have its slash encoded; an alias leads to the id.
            assert (await visitor.get("/models/maker%2Ftiered")).status_code == 200
            assert (await visitor.get("/models/tiered")).headers["location"] == "/models/maker/tiered"
            embedding = shown(await visitor.get("/models/e"))
            assert "embeddings" in embedding
            assert "Try it" not in embedding

    run(test())


def test_a_price_that_another_route_does_not_have_is_marked() -> None:
    config = """
[[models]]
id = "two"
price = { input = "1", output = "4" }
routes = [{ provider = "up", model = "a", price = { input = "0.5", output = "1" } }, { provider = "up", model = "b" }]
"""

    async def test() -> None:
        async with house(config) as site, Visitor(site) as visitor:
            for path in ("/models", "/pricing"):
                text = shown(await visitor.get(path))
                assert re.search(r"two Chat .{0,40}\$0\.50 ?\+ \$1\.00", text), text
                assert "on other routes" in text
            text = shown(await visitor.get("/models/two"))
            assert "at the price of the route that answered" in text
            assert "$1.00 $4.00" in text

    run(test())


def test_a_model_that_is_not_there_is_404() -> None:
    """J6: nor does its name get into a header."""

    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            for name in (
                "nope",
                "m/x",
                "%0d%0aset-cookie:%20a=b",
                "a%00b",
                "..%2f..%2fetc%2fpasswd",
                "m%0d%0a",
                "x" * 5000,
            ):
                response = await visitor.get(f"/models/{name}")
                assert response.status_code in {400, 404}, name
                assert "set-cookie" not in response.headers or "a=b" not in response.headers["set-cookie"]

    run(test())


def test_routes_are_shown_as_they_are_now() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            [route] = site.gateway._catalog().models["m"].routes
            assert "Operational" in shown(await visitor.get("/models/m"))
            site.gateway._health.measured(route, first_byte_ms=1234, tokens=100, ms=1000)
            assert "1,234 ms 100 tokens/s" in shown(await visitor.get("/models/m"))
            site.gateway._health.failed(route, Kind.OUT_OF_CREDIT)
            text = shown(await visitor.get("/models/m"))
            assert "Not reachable" in text
            assert site.upstream.url not in text

    run(test())


def test_texts_of_models_are_shown_as_text() -> None:
    """J7."""

    async def test() -> None:
        async with house(strange()) as site, Visitor(site) as visitor:
            paths = [
                "/models",
                "/",
                "/pricing",
                "/sitemap.xml",
                *(f"/models/strange-{index}" for index in range(len(PAYLOADS))),
            ]
            for path in paths:
                text = (await visitor.get(path)).text
                main = text[text.find("<main") : text.find("</main>")]
                for begun in ("<script", "<img", "<iframe", "<style", "<base", "<math", "<meta", "onerror=alert(1)>"):
                    assert begun not in main, (path, begun)
            assert "&lt;script&gt;alert(1)&lt;/script&gt;" in (await visitor.get("/models/strange-0")).text
            query = "/models?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&provider=%22%3E%3Cb%3E&sort=%22%3E%3Cb%3E"
            text = (await visitor.get(query)).text
            assert "<script>alert" not in text
            assert "><b>" not in text

    run(test())


def test_prices_are_those_of_the_visitors_plan() -> None:
    config = """
[billing]
signup_plan = "gold"
markup_percent = "10"
[plans.gold]
title = "Gold"
markup_percent = "50"
"""

    async def test() -> None:
        async with house(config) as site, Visitor(site) as visitor:
            ada = await registered(site, "ada@example.com")
            for path in ("/models", "/models/m", "/pricing"):
                theirs, own = shown(await visitor.get(path)), shown(await ada.get(path))
                assert "$1.10" in theirs, path
                assert "your plan" not in theirs
                assert "$1.50" in own
                assert "$1.10" not in own
                assert "on your plan, Gold" in own

    run(test())
