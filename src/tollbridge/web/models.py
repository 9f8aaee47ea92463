"""Models as customers choose them: a list with filters, and a page for each."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from starlette.responses import Response

from tollbridge.core import money
from tollbridge.core.catalog import TYPES, Catalog
from tollbridge.core.listing import periods_of, price_fields
from tollbridge.core.plans import DEFAULT_PLAN, Plan, in_effect
from tollbridge.errors import NotFound
from tollbridge.upstream.health import Health
from tollbridge.values import Model, Route
from tollbridge.web import markdown, snippets
from tollbridge.web.page import ANYONE, Page
from tollbridge.web.visit import Visit

A_PAGE = 50
_DAY = re.compile(r"\b(?:mon|tue|wed|thu|fri|sat|sun)\b")
PRICES = ("0.1", "0.5", "1", "3", "10")
WINDOWS = (32_000, 128_000, 200_000, 1_000_000)
SORTS: dict[str, Callable[[Model], Any]] = {
    "name": lambda model: model.id.lower(),
    "context": lambda model: -model.context_window,
    "input": lambda model: _pico(model, "input"),
    "output": lambda model: _pico(model, "output"),
}
METERS = {
    "input": "Input",
    "cache_read": "Input from the cache",
    "cache_write": "Written to the cache",
    "cache_write_1h": "Written to the cache for one hour",
    "audio_input": "Audio input",
    "output": "Output",
    "audio_output": "Audio output",
    "image_output": "Image output",
    "searches_per_thousand": "Web searches, per thousand",
}


class Row(msgspec.Struct, frozen=True):
    """A model as the table shows it. Prices are what a customer pays, USD per million tokens."""

    id: str
    type: str
    maker: str
    context: str
    best_for: str
    input: str
    output: str
    varies: bool

    @property
    def path(self) -> str:
        return f"/models/{quote(self.id, safe='/@:')}"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the list was asked for; "" is all."""

    q: str = ""
    type: str = ""
    provider: str = ""
    price: str = ""
    context: str = ""
    sort: str = ""
    page: str = ""

    def admits(self, model: Model) -> bool:
        words = self.q.lower().split()
        if words:
            text = " ".join((model.id, model.owned_by, model.type, model.best_for, *model.aliases)).lower()
            if not all(word in text for word in words):
                return False
        if self.price in PRICES and _pico(model, "input") > money.parse_price(self.price):
            return False
        if self.context.isdecimal() and model.context_window < int(self.context[:12]):
            return False
        return self.type in ("", model.type) and self.provider in ("", model.owned_by)

    def link(self, **changes: str) -> str:
        """The same list with these changes, on its first page."""
        fields = {**msgspec.structs.asdict(self), "page": "", **changes}
        query = urlencode({name: value for name, value in fields.items() if value})
        return f"/models?{query}" if query else "/models"


class Rate(msgspec.Struct, frozen=True):
    """The price of one meter: the base price, then each column that differs (tiers and periods)."""

    name: str
    shown: tuple[str, ...]


class Way(msgspec.Struct, frozen=True):
    """A route as its customers see it. `state`: up, shaky or down. Speeds are None if not measured."""

    provider: str
    state: str
    input: str
    output: str
    first_byte_ms: int | None
    tokens_per_s: int | None


def for_visitor(visit: Visit) -> tuple[Catalog, Plan | None]:
    """What is for sale at the visitor's prices; and the plan that makes those differ from everybody's."""
    catalog, presence = visit.shared.catalog(), visit.presence
    if presence is None or presence.account is None:
        return catalog, None
    plans = visit.shared.settings.plans
    fallback = plans[DEFAULT_PLAN]
    plan = in_effect(plans.get(presence.account.plan) or fallback, fallback, None, visit.now)
    if plan.markup_ppm is None or plan.markup_ppm == visit.shared.settings.billing.markup_ppm:
        return catalog, None
    own = {id_: _at(model, plan.markup_ppm) for id_, model in catalog.models.items()}
    return msgspec.structs.replace(catalog, models=own), plan


def _at(model: Model, multiplier_ppm: int) -> Model:
    routes = tuple(msgspec.structs.replace(route, multiplier_ppm=multiplier_ppm) for route in model.routes)
    return msgspec.structs.replace(model, routes=routes)


def row(model: Model) -> Row:
    first = model.routes[0]
    fields = price_fields(first.price, first.multiplier_ppm)
    return Row(
        id=model.id,
        type=model.type,
        maker=model.owned_by,
        context=size(model.context_window),
        best_for=model.best_for,
        input=money.dollars(fields["input"]),
        output="" if model.type == "embedding" else money.dollars(fields["output"]),
        varies=any(each.price != first.price or each.price.tiers or each.variants for each in model.routes),
    )


def size(tokens: int) -> str:
    """`128K`, `1M`: as model makers write it."""
    for unit, name in ((1_000_000, "M"), (1_000, "K")):
        if tokens >= unit:
            binary = unit == 1_000 and tokens % 1024 == 0 and tokens % 1000 != 0
            return f"{tokens // 1024}K" if binary else f"{round(tokens / unit, 1):g}{name}"
    return str(tokens)


def chosen(catalog: Catalog, wanted: Wanted) -> list[Model]:
    """The models asked for, in the order asked for."""
    found = [model for model in catalog.models.values() if wanted.admits(model)]
    name = wanted.sort.removeprefix("-")
    if name in SORTS:
        found.sort(key=SORTS[name], reverse=wanted.sort.startswith("-"))
    return found


def first_chat(catalog: Catalog, example: str) -> Model | None:
    """The model of examples: the operator's choice, if it is for sale."""
    models = catalog.models.values()
    return catalog.models.get(example) or next(
        (model for model in models if model.type != "embedding"), next(iter(models), None)
    )


async def index(visit: Visit) -> Response:
    wanted = Wanted(**{name: visit.query(name)[:200] for name in Wanted.__struct_fields__})
    catalog, plan = for_visitor(visit)
    found = chosen(catalog, wanted)
    pages = max(1, -(-len(found) // A_PAGE))
    page = min(int(wanted.page[:6]), pages) if wanted.page.isdecimal() and wanted.page.isascii() else 1
    page = max(page, 1)
    makers = sorted({model.owned_by for model in catalog.models.values()})
    return visit.render(
        "public/models.html",
        plan=plan,
        wanted=wanted,
        rows=[row(model) for model in found[(page - 1) * A_PAGE : page * A_PAGE]],
        count=len(found),
        total=len(catalog.models),
        page=page,
        pages=pages,
        makers=makers,
        types=[type_ for type_ in TYPES if any(model.type == type_ for model in catalog.models.values())],
        prices=PRICES,
        windows=[(str(window), size(window)) for window in WINDOWS],
    )


async def detail(visit: Visit) -> Response:
    shared, name = visit.shared, visit.path("model")
    catalog, plan = for_visitor(visit)
    try:
        model = catalog.resolve(name)
    except NotFound:
        raise NotFound("There is no model of this name here. The list of models has all of them.") from None
    if model.id != name:
        return visit.redirect(row(model).path)
    return visit.render(
        "public/model.html",
        plan=plan,
        model=model,
        row=row(model),
        output_limit=size(model.output_limit),
        columns=columns(model.routes[0]),
        rates=rates(model.routes[0]),
        ways=[way(route, shared.health) for route in model.routes],
        code=markdown.tabs("first-call", snippets.first_call(f"{shared.desk.url}/v1", model)),
    )


def columns(route: Route) -> list[str]:
    """The heading of each column of prices."""
    tiers = [f"Over {size(tier.above)} tokens" for tier in route.price.tiers]
    whens = [period["when"] for period in periods_of(route)]
    return ["USD per 1M tokens", *tiers, *map(_heading, whens)]


def _heading(when: str) -> str:
    """`Mon-Fri, 06:00-10:00 UTC`."""
    text = _DAY.sub(lambda day: day[0].capitalize(), when)
    return text[:1].upper() + text[1:]


def rates(route: Route) -> list[Rate]:
    first = price_fields(route.price, route.multiplier_ppm)
    others = [*first.get("tiers", ()), *periods_of(route)]
    shown = []
    for meter, name in METERS.items():
        if meter not in first or (meter.startswith("cache_write") and first[meter] == first["input"]):
            continue
        prices = [first[meter], *(other.get(meter, first[meter]) for other in others)]
        if any(price != "0" for price in prices):
            shown.append(Rate(name, tuple(map(money.dollars, prices))))
    return shown


def way(route: Route, health: Health) -> Way:
    fields = price_fields(route.price, route.multiplier_ppm)
    latency, throughput = health.latency(route), health.throughput(route)
    return Way(
        provider=route.upstream.provider,
        state=state(route, health),
        input=money.dollars(fields["input"]),
        output=money.dollars(fields["output"]),
        first_byte_ms=None if latency < 0 else round(latency),
        tokens_per_s=None if throughput == float("inf") else round(throughput),
    )


def state(route: Route, health: Health) -> str:
    return {None: "down", 0: "up", 1: "shaky"}[health.rank(route)]


def _pico(model: Model, meter: str) -> int:
    """Pico-USD per token that a customer pays, before rounding."""
    route = model.routes[0]
    price: int = getattr(route.price, meter)
    return price * route.multiplier_ppm // money.PPM


PAGES = (
    Page("GET", "/models", ANYONE, index),
    Page("GET", "/models/{model:path}", ANYONE, detail),
)
