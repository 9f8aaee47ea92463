"""Which models there are: shipped rows, overlaid by the operator's, made into `Model`s with callable routes.

A model is listed when at least one of its routes names a configured upstream and has a price. Prices in rows are
decimal strings: USD per million tokens, and per thousand searches, as providers print them.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from difflib import get_close_matches

import msgspec

from tollbridge.core import money
from tollbridge.errors import ConfigError, NotFound
from tollbridge.values import DAY_MS, FOR_EVER, Model, Price, Route, Tier, Upstream, Variant, When

TYPES = ("chat", "reasoning", "coding", "embedding")
MODALITIES = ("text", "image", "audio", "video", "file")
CAPABILITIES = (
    "tools",
    "tool_choice",
    "parallel_tools",
    "structured_output",
    "reasoning",
    "vision",
    "documents",
    "prompt_caching",
    "web_search",
    "computer_use",
)

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|24:00)")
_SEARCHES = 1_000
_LONGEST_TYPO = 64


class RateRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """USD per million tokens; `searches` USD per thousand calls.

    If left out, a kind of input costs what `input` costs, a kind of output what `output` costs, and a search nothing.
    """

    input: str
    output: str = "0"
    cache_read: str | None = None
    cache_write: str | None = None
    cache_write_1h: str | None = None
    audio_input: str | None = None
    audio_output: str | None = None
    image_output: str | None = None
    searches: str | None = None


class TierRow(RateRow, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a whole request costs that reads more than `above` tokens. `searches` left out: the price without tiers."""

    above: int


class PeriodRow(RateRow, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What applies instead from one date to before another, or at hours on days of the week; all in UTC.

    `since`, `until`: dates such as `2027-01-31`. `days`: `mon-fri`, `sun`. `hours`: `01:00-04:00`, or across midnight
    `16:30-00:30`. Empty: no bound. A period has tiers of its own.
    """

    since: str = ""
    until: str = ""
    days: str = ""
    hours: str = ""
    tiers: tuple[TierRow, ...] = ()


class PriceRow(RateRow, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A price with all that changes it. Of several periods that cover a moment, the last one applies."""

    tiers: tuple[TierRow, ...] = ()
    periods: tuple[PeriodRow, ...] = ()


class RouteRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`price` (what the customer pays, before the markup) and `cost` (what the provider bills) default to the model's.

    Routes are tried in the order in which they are written; those that share an `order` share the traffic by `weight`.
    `source` says where the route's own price is published; `doubt`, what another source says about it.
    """

    provider: str
    model: str
    price: PriceRow | None = None
    cost: PriceRow | None = None
    order: int | None = None
    weight: int = 1
    source: str = ""
    doubt: str = ""


class ModelRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A model of the catalog. `source` and `checked` say where its price is published and when that was read."""

    id: str
    type: str = "chat"
    context_window: int = 8192
    output_limit: int | None = None
    best_for: str = ""
    owned_by: str = ""
    created: int = 0
    aliases: tuple[str, ...] = ()
    input_modalities: tuple[str, ...] = ("text",)
    output_modalities: tuple[str, ...] = ("text",)
    capabilities: tuple[str, ...] = ()
    price: PriceRow | None = None
    cost: PriceRow | None = None
    routes: tuple[RouteRow, ...] = ()
    source: str = ""
    checked: str = ""


class Catalog(msgspec.Struct, frozen=True):
    """All models that can be called now: `models` by id, `aliases` by their other names, none of which is an id."""

    models: dict[str, Model]
    aliases: dict[str, Model] = {}

    def resolve(self, name: str) -> Model:
        """The model that a request names. Raises `NotFound`, in OpenAI's words."""
        model = self.models.get(name) or self.aliases.get(name)
        if model is None:
            meant = nearest(name, self.models)
            raise NotFound(
                f"The model `{name}` does not exist or you do not have access to it."
                + (f" Did you mean `{meant}`?" if meant else " GET /v1/models lists those that you can call."),
                code="model_not_found",
                param="model",
            )
        return model

    def routes(self) -> Iterator[Route]:
        """Every route, each followed by its variants."""
        for model in self.models.values():
            for route in model.routes:
                yield route
                for variant in route.variants:
                    yield variant.route


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Which of the `known` model ids was probably meant by `name`. Takes a millisecond for hundreds of ids."""
    whole = {id_.lower(): id_ for id_ in known}
    # What is `model` here is `maker/model` elsewhere, and the other way round.
    ids = {id_.rpartition("/")[2]: own for id_, own in whole.items()} | whole
    wanted = name.lower()[:_LONGEST_TYPO]
    for each in (wanted, wanted.rpartition("/")[2]):
        if close := get_close_matches(each, ids, n=1, cutoff=0.8):
            return ids[close[0]]
    return None


# --- prices -------------------------------------------------------------------------------------------------------


def price(row: PriceRow | PeriodRow) -> Price:
    """Integer pico-USD per token or search from decimal strings, with the tiers; raises ValueError."""
    own = _rates(row)
    if not row.tiers:
        return own
    tiers = sorted(row.tiers, key=lambda tier: tier.above)
    if tiers[0].above < 1 or len({tier.above for tier in tiers}) < len(tiers):
        raise ValueError("each tier is above another number of tokens, at least 1")
    return msgspec.structs.replace(
        own, tiers=tuple(Tier(above=tier.above, price=_of_tier(tier, own)) for tier in tiers)
    )


def _of_tier(row: TierRow, own: Price) -> Price:
    rates = _rates(row)
    return rates if row.searches is not None else msgspec.structs.replace(rates, searches=own.searches)


def _rates(row: RateRow) -> Price:
    read = money.parse_price(row.input)

    def or_input(text: str | None) -> int:
        return read if text is None else money.parse_price(text)

    def maybe(text: str | None) -> int | None:
        return None if text is None else money.parse_price(text)

    return Price(
        input=read,
        output=money.parse_price(row.output),
        cache_read=or_input(row.cache_read),
        cache_write=or_input(row.cache_write),
        cache_write_1h=or_input(row.cache_write_1h if row.cache_write_1h is not None else row.cache_write),
        audio_input=maybe(row.audio_input),
        audio_output=maybe(row.audio_output),
        image_output=maybe(row.image_output),
        searches=_SEARCHES * (maybe(row.searches) or 0),
    )


def periods(row: PriceRow) -> list[tuple[When, Price]]:
    """The periods in which other prices apply, in the order in which to look for one; raises ValueError."""
    return [(when(period), price(period)) for period in reversed(row.periods)]


def when(row: PeriodRow) -> When:
    """The moments that a period covers; raises ValueError."""
    start, end = _hours(row.hours)
    since, until = _date(row.since, 0), _date(row.until, FOR_EVER)
    if since >= until:
        raise ValueError(f"the period ends before it begins: since {row.since}, until {row.until}")
    return When(since=since, until=until, days=_days(row.days), start=start, end=end)


def _date(text: str, default: int) -> int:
    if not text:
        return default
    try:
        return (date.fromisoformat(text) - date(1970, 1, 1)).days * DAY_MS
    except ValueError:
        raise ValueError(f'a date is written "2027-01-31", not {text[:40]!r}') from None


def _days(text: str) -> int:
    if not text:
        return 127
    first, dash, last = text.partition("-")
    if first not in _DAYS or (last if dash else first) not in _DAYS:
        raise ValueError(f'days are written "mon-fri" or "sun", not {text[:40]!r}')
    bits, day, end = 0, _DAYS.index(first), _DAYS.index(last or first)
    while True:
        bits |= 1 << day
        if day == end:
            return bits
        day = (day + 1) % 7


def _hours(text: str) -> tuple[int, int]:
    if not text:
        return 0, DAY_MS
    match = _HOURS.fullmatch(text)
    if match is None or match[0][:5] == match[0][6:]:
        raise ValueError(f'hours are written "01:00-04:00", not {text[:40]!r}')
    hours = [int(part or 0) for part in match.groups()]
    end = DAY_MS if match[3] is None else (hours[2] * 60 + hours[3]) * 60_000
    return (hours[0] * 60 + hours[1]) * 60_000, end


# --- the catalog --------------------------------------------------------------------------------------------------


def overlay(shipped: Iterable[ModelRow], own: Iterable[ModelRow]) -> list[ModelRow]:
    """The operator's row of a model replaces the shipped one of the same id."""
    rows = {row.id: row for row in shipped}
    for row in own:
        rows[row.id] = row
    return list(rows.values())


def serve_all_by(rows: Iterable[ModelRow], upstream: str) -> list[ModelRow]:
    """The same models, each served only by `upstream`, at its first route's price."""
    served = []
    for row in rows:
        first = row.routes[0] if row.routes else None
        priced = first.price if first is not None and first.price is not None else row.price
        route = RouteRow(provider=upstream, model=row.id, price=priced)
        served.append(msgspec.structs.replace(row, price=priced, cost=None, routes=(route,)))
    return served


def build(rows: Iterable[ModelRow], upstreams: Mapping[str, Upstream], multiplier_ppm: int) -> Catalog:
    """The catalog of all rows that a configured upstream can serve. Price versions are still 0 (`with_versions`).

    A later row takes an alias away from an earlier one, and the operator's rows come last. ConfigError: a bad price.
    """
    models: dict[str, Model] = {}
    for row in rows:
        routes = tuple(
            made
            for position, route in enumerate(row.routes)
            if route.provider in upstreams
            and (made := _route(row, route, position, upstreams[route.provider], multiplier_ppm)) is not None
        )
        if routes:
            models[row.id] = _model(row, routes)
    return _with_aliases(models)


def _with_aliases(models: dict[str, Model]) -> Catalog:
    """Let models keep only the aliases that resolve to them: an id, or the same alias of a later model, wins."""
    owners = {alias: model.id for model in models.values() for alias in model.aliases if alias not in models}
    for model in list(models.values()):
        found = tuple(alias for alias in model.aliases if owners.get(alias) == model.id)
        if found != model.aliases:
            models[model.id] = msgspec.structs.replace(model, aliases=found)
    return Catalog(models, {alias: models[owner] for alias, owner in owners.items()})


def _model(row: ModelRow, routes: tuple[Route, ...]) -> Model:
    return Model(
        id=row.id,
        type=row.type,
        context_window=row.context_window,
        output_limit=row.output_limit or row.context_window,
        routes=routes,
        best_for=row.best_for,
        owned_by=row.owned_by or routes[0].upstream.provider,
        created=row.created,
        aliases=row.aliases,
        input_modalities=row.input_modalities,
        output_modalities=row.output_modalities,
        capabilities=row.capabilities,
    )


def _route(row: ModelRow, route: RouteRow, position: int, upstream: Upstream, multiplier_ppm: int) -> Route | None:
    priced = route.price or row.price
    if priced is None:
        return None
    own_cost = route.cost or row.cost
    try:
        sold_at = price(priced)
        made = Route(
            model=row.id,
            upstream=upstream,
            upstream_model=route.model,
            price=sold_at,
            cost=sold_at if own_cost is None else price(own_cost),
            multiplier_ppm=multiplier_ppm,
            order=position if route.order is None else route.order,
            weight=route.weight,
            output_limit=row.output_limit or row.context_window,
        )
        return msgspec.structs.replace(made, variants=tuple(_variants(made, priced, own_cost)))
    except ValueError as error:
        raise ConfigError(f"model {row.id}: {error}") from error


def _variants(route: Route, priced: PriceRow, own_cost: PriceRow | None) -> Iterator[Variant]:
    """The route at times when its price or its cost differs, in the order in which to look for one."""
    if own_cost is None:
        for time, sold_at in periods(priced):
            yield Variant(when=(time,), route=msgspec.structs.replace(route, price=sold_at, cost=sold_at))
        return
    always = When()
    for sold_when, sold_at in [*periods(priced), (always, route.price)]:
        for cost_when, cost in [*periods(own_cost), (always, route.cost)]:
            if sold_at is not route.price or cost is not route.cost:
                changed = msgspec.structs.replace(route, price=sold_at, cost=cost)
                yield Variant(when=(sold_when, cost_when), route=changed)


def with_versions(catalog: Catalog, versions: Sequence[int]) -> Catalog:
    """The catalog with a price version's id on each route. `versions`: in the order of `catalog.routes()`."""
    ids = iter(versions)
    models = {}
    for model in catalog.models.values():
        routes = []
        for route in model.routes:
            version = next(ids)
            variants = tuple(
                msgspec.structs.replace(each, route=msgspec.structs.replace(each.route, version=next(ids)))
                for each in route.variants
            )
            routes.append(msgspec.structs.replace(route, version=version, variants=variants))
        models[model.id] = msgspec.structs.replace(model, routes=tuple(routes))
    return _with_aliases(models)
