"""What the operator owes its customers in writing: their own texts, or a page that says what is missing."""

from functools import lru_cache

from starlette.responses import Response

from tollbridge.web import markdown
from tollbridge.web.markdown import Text
from tollbridge.web.page import ANYONE, Handler, Page
from tollbridge.web.visit import Visit

TITLES = {
    "terms": ("Terms of service", "What you and {brand} agree on."),
    "privacy": ("Privacy policy", "What {brand} does with personal data."),
    "refunds": ("Refund policy", "When {brand} gives money back."),
    "contact": ("Contact", "How to reach {brand}."),
}


def _page(name: str) -> Handler:
    async def show(visit: Visit) -> Response:
        brand = visit.shared.settings.brand.name
        title, lead = TITLES[name]
        source = getattr(visit.shared.settings.pages, name)
        text = None if source is None else _rendered(source)
        return visit.render(
            "public/legal.html",
            name=name,
            text=text,
            heading=text.title if text is not None and text.title else title,
            lead=lead.format(brand=brand),
        )

    return show


@lru_cache(maxsize=16)
def _rendered(source: str) -> Text:
    return markdown.render(source)


PAGES = tuple(Page("GET", f"/{name}", ANYONE, _page(name)) for name in TITLES)
