"""The front page, and what crawlers read first."""

from starlette.responses import Response

from tollbridge.web import docs, markdown, models, snippets
from tollbridge.web.page import ANYONE, Page
from tollbridge.web.visit import Visit

STRIP = 8
_XML = "application/xml"
# Whatever belongs to somebody is not for search engines.
_PRIVATE = ("/dashboard", "/admin", "/auth/", "/playground", "/v1/", "/api/")
_PUBLIC = ("/", "/models", "/pricing", "/docs", "/status", "/terms", "/privacy", "/refunds", "/contact")


async def home(visit: Visit) -> Response:
    shared = visit.shared
    catalog = shared.catalog()
    example = models.first_chat(catalog, shared.settings.brand.example_model)
    strip = list(catalog.models.values())[:STRIP]
    return visit.render(
        "public/home.html",
        rows=[models.row(model) for model in strip],
        count=len(catalog.models),
        makers=len({model.owned_by for model in catalog.models.values()}),
        base_url=f"{shared.desk.url}/v1",
        code=markdown.tabs("first-call", snippets.first_call(f"{shared.desk.url}/v1", example)),
        gift=shared.settings.billing.signup_grant,
    )


async def robots(visit: Visit) -> Response:
    lines = [
        "User-agent: *",
        *(f"Disallow: {path}" for path in _PRIVATE),
        f"Sitemap: {visit.shared.desk.url}/sitemap.xml",
    ]
    return Response("\n".join(lines) + "\n", media_type="text/plain")


async def sitemap(visit: Visit) -> Response:
    url = visit.shared.desk.url
    paths = [*_PUBLIC, *(guide.path for guide in docs.GUIDES if guide.path not in _PUBLIC)]
    paths += [models.row(model).path for model in visit.shared.catalog().models.values()]
    entries = "".join(f"<url><loc>{url}{path.replace('&', '&amp;')}</loc></url>" for path in paths)
    return Response(
        f'<?xml version="1.0" encoding="UTF-8"?>'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{entries}</urlset>',
        media_type=_XML,
    )


PAGES = (
    Page("GET", "/", ANYONE, home),
    Page("GET", "/robots.txt", ANYONE, robots),
    Page("GET", "/sitemap.xml", ANYONE, sitemap),
)
