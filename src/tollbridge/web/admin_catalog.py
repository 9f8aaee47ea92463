"""What is for sale, at what price, cost and margin; what needs attention; and how providers are doing."""

from collections.abc import Sequence

import msgspec
from starlette.responses import Response

from tollbridge.config import Settings
from tollbridge.core.money import PPM, dollars, format_price
from tollbridge.services import providers as known_providers
from tollbridge.services.catalog import Offer, Way, complaints, offers
from tollbridge.services.providers import Answered
from tollbridge.web import models
from tollbridge.web.admin import ADMIN
from tollbridge.web.forms import Form
from tollbridge.web.page import OPERATOR, Page
from tollbridge.web.status import STATES, snapshot
from tollbridge.web.visit import Visit


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A route: prices and costs in USD per million tokens, margins in percent; "" where there is none."""

    model: str
    provider: str
    upstream: str
    sold_in: str
    sold_out: str
    cost_in: str
    cost_out: str
    margin_in: str
    margin_out: str
    varies: bool
    open: bool
    own: bool


async def catalog(visit: Visit) -> Response:
    settings = visit.shared.settings
    every = visit.query("all") == "1"
    return visit.render(
        "admin/catalog.html",
        lines=lines(settings, every),
        every=every,
        findings=sorted(complaints(settings, visit.today), key=lambda each: not each.serious),
        markup=f"{(settings.billing.markup_ppm - PPM) * 100 / PPM:g}",
    )


def lines(settings: Settings, every: bool) -> list[Line]:
    """Open routes; with `every`, the others too."""
    return [
        _line(offer, way, settings.billing.markup_ppm)
        for offer in offers(settings)
        if offer.listed or every
        for way in offer.ways
        if way.open or every or not settings.providers
    ]


def _line(offer: Offer, way: Way, markup_ppm: int) -> Line:
    sold, cost = way.sold, way.cost
    prices = {name: getattr(sold.price, name) * markup_ppm // PPM if sold else None for name in ("input", "output")}
    costs = {name: getattr(cost.price, name) if cost else None for name in ("input", "output")}
    return Line(
        model=offer.row.id,
        provider=way.provider,
        upstream=way.model,
        sold_in=_price(prices["input"]),
        sold_out=_price(prices["output"]),
        cost_in=_price(costs["input"]),
        cost_out=_price(costs["output"]),
        margin_in=_percent(prices["input"], costs["input"]),
        margin_out=_percent(prices["output"], costs["output"]),
        varies=any(terms is not None and bool(terms.periods or terms.price.tiers) for terms in (sold, cost)),
        open=way.open,
        own=offer.own,
    )


def _price(pico: int | None) -> str:
    return "" if pico is None else dollars(format_price(pico))


def _percent(price: int | None, cost: int | None) -> str:
    """The margin in percent of the price, to a tenth."""
    if price is None or cost is None or not price:
        return ""
    tenths = (price - cost) * 1000 // price
    return f"{'-' if tenths < 0 else ''}{abs(tenths) // 10}.{abs(tenths) % 10}"


async def providers(visit: Visit) -> Response:
    """Routes as this process sees them."""
    return _providers(visit, Form({"provider": ""}))


async def check(visit: Visit) -> Response:
    """What providers answer when they are asked, one or all of them."""
    form = await visit.form()
    named = [form["provider"]] if form["provider"] else []
    return _providers(visit, form, await known_providers.check(visit.shared.settings, named))


def _providers(visit: Visit, form: Form, answers: Sequence[Answered] = ()) -> Response:
    shared = visit.shared
    known, health = shared.catalog(), shared.health
    routes = [(model.id, models.way(route, health)) for model in known.models.values() for route in model.routes]
    routes.sort(key=lambda each: (STATES.index(each[1].state), each[1].provider, each[0]))
    names = sorted(shared.settings.providers)
    return visit.render(
        "admin/providers.html",
        seen=snapshot(known, health),
        routes=routes,
        form=form,
        configured=[("", "All"), *((name, name) for name in names)] if names else [],
        answers=answers,
    )


PAGES = (
    Page("GET", f"{ADMIN}/catalog", OPERATOR, catalog),
    Page("GET", f"{ADMIN}/providers", OPERATOR, providers),
    Page("POST", f"{ADMIN}/providers", OPERATOR, check),
)
