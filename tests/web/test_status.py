"""Whether models can be called, and nothing that is the operator's alone."""

from tests.gateway.site import always, completion, run, says
from tests.web.visitors import PASSWORD, Visitor, house, registered, shown

from tollbridge.core.retry import Kind
from tollbridge.errors import Unavailable
from tollbridge.web.status import snapshot


def test_a_provider_that_is_out_makes_its_models_unreachable() -> None:
    async def test() -> None:
        async with house(others={"spare": always(says(completion()))}) as site, Visitor(site) as visitor:
            catalog, health = site.gateway._catalog(), site.gateway._health
            first, spare = catalog.models["m"].routes
            assert snapshot(catalog, health).state == "up"
            assert "All models can be called" in shown(await visitor.get("/status"))
            health.failed(first, Kind.OUT_OF_CREDIT)
            seen = snapshot(catalog, health)
            assert (seen.state, seen.unreachable) == ("down", ("e",))
            assert [(each.name, each.state, each.routes) for each in seen.providers] == [
                ("up", "down", 2),
                ("spare", "up", 1),
            ]
            text = shown(await visitor.get("/status"))
            assert "1 of 2 models cannot be called" in text
            health.failed(spare, Kind.OUT_OF_CREDIT)
            assert snapshot(catalog, health).unreachable == ("m", "e")

    run(test())


def test_speeds_are_those_that_were_measured() -> None:
    async def test() -> None:
        async with house() as site:
            catalog, health = site.gateway._catalog(), site.gateway._health
            [route] = catalog.models["m"].routes
            [before] = snapshot(catalog, health).providers
            assert (before.first_byte_ms, before.tokens_per_s) == (None, None)
            health.measured(route, first_byte_ms=200, tokens=50, ms=1000)
            [after] = snapshot(catalog, health).providers
            assert (after.first_byte_ms, after.tokens_per_s) == (200, 50)

    run(test())


def test_nothing_of_the_operators_is_told() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            for path in ("/status", "/models/m", "/models", "/", "/openapi.json", "/docs/api"):
                text = (await visitor.get(path)).text
                for secret in ("upstream-secret", site.upstream.url, "upstream-m", str(site.settings.data_dir)):
                    assert secret not in text, (path, secret)

    run(test())


def test_without_a_model_the_pages_say_so() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            site.gateway._catalog().models.clear()
            for path, words in {
                "/status": "No provider yet",
                "/models": "No provider is configured yet",
                "/": "One API key.",
                "/pricing": "Pricing",
                "/docs": "Quick start",
            }.items():
                response = await visitor.get(path)
                assert response.status_code == 200
                assert words in shown(response), path

    run(test())


def test_public_pages_stay_while_the_database_is_away_and_the_status_says_so() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            ada = await registered(site, "ada@example.com")

            async def now() -> int:
                raise Unavailable("The database cannot be reached.", code="ledger_unavailable")

            database = site.gateway._database
            database.now, there = now, database.now  # type: ignore[method-assign]
            for path in ("/", "/models", "/models/m", "/pricing", "/docs", "/docs/api", "/openapi.json", "/auth/login"):
                assert (await visitor.get(path)).status_code == 200, path
            assert (await visitor.get("/no-such-page")).status_code == 404
            page = await visitor.get("/status")
            assert (page.status_code, 'data-state="down"' in page.text) == (200, True)
            assert "No model can be called: the database of this server does not answer" in shown(page)
            assert "1970" not in shown(page)
            for path, who in {"/dashboard": visitor, "/admin": visitor, "/api/keys": visitor, "/": ada}.items():
                assert (await who.get(path)).status_code == 503, path
            form = {"email": "ada@example.com", "password": PASSWORD}
            assert (await visitor.post("/auth/login", form)).status_code == 503
            database.now = there  # type: ignore[method-assign]
            assert "All models can be called" in shown(await visitor.get("/status"))
            assert (await ada.get("/dashboard")).status_code == 200

    run(test())
