"""What is for sale, the shipped models and the operator's own, as an operator wants to see it."""

from collections.abc import Iterable, Iterator
from datetime import date
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from tollbridge.config import Settings
from tollbridge.core import catalog, money, pricing
from tollbridge.core.catalog import ModelRow, PriceRow, RouteRow
from tollbridge.core.listing import when_text
from tollbridge.errors import NotFound
from tollbridge.values import DAY_MS, FOR_EVER, Price, When

SHIPPED = Path(__file__).parent.parent / "data" / "catalog.json"
# A price read longer ago than this may have changed.
FRESH_DAYS = 180

_EPOCH = date(1970, 1, 1)
_METERS = ("input", "output", "cache_read", "cache_write", "cache_write_1h")
_OWN_METERS = {"audio_input": "input", "audio_output": "output", "image_output": "output"}


class _Shipped(msgspec.Struct, forbid_unknown_fields=True):
    models: tuple[ModelRow, ...]


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """A price, and the times at which another one applies, in order of precedence."""

    price: Price
    periods: tuple[tuple[When, Price], ...] = ()

    def at(self, moment: int) -> Price:
        return next((price for when, price in self.periods if pricing.covers(when, moment)), self.price)


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """A route. `open`: its provider is configured. `sold`: what customers pay before markup; None: no price."""

    provider: str
    model: str
    open: bool
    sold: Terms | None
    cost: Terms | None
    source: str
    doubt: str


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A model. `listed`: customers can call it. `own`: the row is the operator's."""

    row: ModelRow
    ways: tuple[Way, ...]
    listed: bool
    own: bool


class Kind(StrEnum):
    """What is wrong. The first two lose money or a sale."""

    LOSS = "loss"
    MISSING = "missing"
    CONFLICT = "conflict"
    DOUBT = "doubt"
    STALE = "stale"


class Complaint(msgspec.Struct, frozen=True, kw_only=True):
    kind: Kind
    text: str

    @property
    def serious(self) -> bool:
        return self.kind in (Kind.LOSS, Kind.MISSING)


def shipped_models() -> tuple[ModelRow, ...]:
    return msgspec.json.decode(SHIPPED.read_bytes(), type=_Shipped).models


def rows(settings: Settings) -> list[ModelRow]:
    """What is for sale if somebody serves it: the shipped models that the operator chose, and the operator's own."""
    chosen = settings.catalog.models
    shipped = (row for row in shipped_models() if any(fnmatchcase(row.id, pattern) for pattern in chosen))
    return catalog.overlay(shipped, settings.models)


def unmatched(settings: Settings) -> Iterator[str]:
    """What the configuration calls by a name that no model has."""
    shipped, ours = {row.id for row in shipped_models()}, rows(settings)
    names = {name for row in ours for name in (row.id, *row.aliases)}
    patterns = [("catalog.models", pattern, shipped) for pattern in settings.catalog.models]
    for name, plan in settings.plans.items():
        patterns += [(f"plans.{name}.models", pattern, names) for pattern in plan.models]
    for where, pattern, among in patterns:
        if not any(fnmatchcase(name, pattern) for name in among):
            meant = catalog.nearest(pattern, among)
            yield f"{where}: no model is called {pattern!r}{f': did you mean {meant}?' if meant else ''}"


def offers(settings: Settings) -> list[Offer]:
    """All models, callable or not. Without any provider, the demo provider serves all of them."""
    own = {row.id for row in settings.models}
    return [_offer(row, settings, own=row.id in own) for row in rows(settings)]


def offer(settings: Settings, model: str) -> Offer:
    """One of `offers`, by its id or an alias; prefers the one that is called by that name. Raises `NotFound`."""
    found = offers(settings)
    for among in ([each for each in found if each.listed], found):
        for each in among:
            if each.row.id == model:
                return each
        for each in reversed(among):
            if model in each.row.aliases:
                return each
    meant = catalog.nearest(model, (each.row.id for each in found))
    hint = f"did you mean {meant}?" if meant else "tollbridge catalog list --all names them"
    raise NotFound(f"there is no model {model[:100]!r}: {hint}", param="model")


def complaints(settings: Settings, today: date, fresh_days: int = FRESH_DAYS) -> Iterator[Complaint]:
    """What an operator should look into."""
    found = offers(settings)
    if not any(each.listed for each in found):
        yield Complaint(kind=Kind.MISSING, text="no model can be called: no configured provider serves any")
    for text in unmatched(settings):
        yield Complaint(kind=Kind.MISSING, text=text)
    shipped = {row.id: row for row in shipped_models()} if settings.models else {}
    ids = {each.row.id for each in found if each.listed}
    for row in settings.models:
        for alias in ids.intersection(row.aliases):
            yield Complaint(kind=Kind.CONFLICT, text=f"{row.id}: its alias {alias} is the id of another model")
    for each in found:
        for way in each.ways:
            if way.open:
                yield from _of_way(each.row.id, way, _markups(settings, each.row), today)
        if not each.listed:
            continue
        if each.own and each.row.id in shipped:
            yield from _conflicts(each, _offer(shipped[each.row.id], settings, own=False))
        age = (today - date.fromisoformat(each.row.checked)).days if each.row.checked else 0
        if age > fresh_days:
            yield Complaint(
                kind=Kind.STALE, text=f"{each.row.id}: its price was read {age} days ago ({each.row.source})"
            )


def _markups(settings: Settings, row: ModelRow) -> list[tuple[int, str]]:
    """The factors on the prices of a model, in millionths: the usual one, and that of the plan that pays least."""
    usual = settings.billing.markup_ppm
    names = (row.id, *row.aliases)
    least = min(
        (
            (plan.markup_ppm, f" on the plan {plan.name}")
            for plan in settings.plans.values()
            if plan.markup_ppm is not None
            and any(fnmatchcase(name, pattern) for name in names for pattern in plan.models)
        ),
        default=(usual, ""),
    )
    return [(usual, ""), *([least] if least[0] < usual else [])]


def _of_way(model: str, way: Way, markups: list[tuple[int, str]], today: date) -> Iterator[Complaint]:
    name = f"{model} at {way.provider}"
    if way.sold is None or way.cost is None:
        yield Complaint(kind=Kind.MISSING, text=f"{name}: no price, so that it is not served there")
        return
    if way.doubt:
        yield Complaint(kind=Kind.DOUBT, text=f"{name}: {way.source or 'one list'} is believed, but {way.doubt}")
    if way.cost is way.sold:
        return
    whens = [when for when, _ in (*way.sold.periods, *way.cost.periods)]
    reported = set()
    # A loss at all times is not reported for a period, and a loss on every plan is not reported for one plan.
    moments = sorted(_moments(whens, today), key=lambda moment: bool(_said(whens, moment)))
    for markup_ppm, who in markups:
        for moment in moments:
            for meter in _below(way.sold.at(moment), way.cost.at(moment), markup_ppm):
                if meter not in reported:
                    reported.add(meter)
                    at = _said(whens, moment)
                    yield Complaint(kind=Kind.LOSS, text=f"{name}: the price of {meter} is below its cost{at}{who}")


def _conflicts(own: Offer, shipped: Offer) -> Iterator[Complaint]:
    """Where the operator's row states another cost at a provider than the shipped row does."""
    known = {(way.provider, way.model): way for way in shipped.ways}
    for way in own.ways:
        theirs = known.get((way.provider, way.model))
        if not way.open or theirs is None or way.cost is None or theirs.cost is None or way.cost == theirs.cost:
            continue
        ours, listed = way.cost.price, theirs.cost.price
        differing = [meter for meter in _METERS if getattr(ours, meter) != getattr(listed, meter)]
        said = ", ".join(
            f"{meter} {money.format_price(getattr(ours, meter))} and {money.format_price(getattr(listed, meter))}"
            for meter in differing
        )
        yield Complaint(
            kind=Kind.CONFLICT,
            text=f"{own.row.id} at {way.provider}: your cost and the shipped one differ: "
            f"{said or 'in tiers, periods or seldom used meters'} ({shipped.row.source})",
        )


def _moments(whens: Iterable[When], today: date) -> list[int]:
    """A moment in every combination of periods from today on: each combination begins or ends at one of these."""
    now = (today - _EPOCH).days * DAY_MS
    days = {now, *(edge for when in whens for edge in (when.since, when.until) if now < edge < FOR_EVER)}
    times = {0, *(edge % DAY_MS for when in whens for edge in (when.start, when.end))}
    return sorted(day + number * DAY_MS + time for day in days for number in range(7) for time in times)


def _said(whens: Iterable[When], moment: int) -> str:
    covering = [when_text(when) for when in whens if pricing.covers(when, moment)]
    return f" ({'; '.join(dict.fromkeys(covering))})" if covering else ""


def _below(price: Price, cost: Price, markup_ppm: int) -> Iterator[str]:
    """The meters, over all tiers, that cost more than they bring in."""
    for above in sorted({0, *(tier.above + 1 for tier in (*price.tiers, *cost.tiers))}):
        sold, bought = money.tier(price, above), money.tier(cost, above)
        apart = [meter for meter in _OWN_METERS if _has(sold, meter) or _has(bought, meter)]
        for meter in (*_METERS, *apart, "searches"):
            if _of(sold, meter) * markup_ppm < _of(bought, meter) * money.PPM:
                yield meter if not above else f"{meter} above {above - 1:,} tokens"


def _has(price: Price, meter: str) -> bool:
    return getattr(price, meter) is not None


def _of(price: Price, meter: str) -> int:
    of: int = getattr(price, meter if _has(price, meter) else _OWN_METERS[meter])
    return of


def _offer(row: ModelRow, settings: Settings, *, own: bool) -> Offer:
    ways = tuple(_way(row, route, settings) for route in row.routes)
    listed = not settings.providers or any(way.open and way.sold is not None for way in ways)
    return Offer(row=row, ways=ways, listed=listed, own=own)


def _way(row: ModelRow, route: RouteRow, settings: Settings) -> Way:
    sold = _terms(route.price or row.price)
    own_cost = route.cost or row.cost
    return Way(
        provider=route.provider,
        model=route.model,
        open=route.provider in settings.providers,
        sold=sold,
        cost=sold if own_cost is None else _terms(own_cost),
        source=route.source or row.source,
        doubt=route.doubt,
    )


def _terms(row: PriceRow | None) -> Terms | None:
    if row is None:
        return None
    return Terms(price=catalog.price(row), periods=tuple(catalog.periods(row)))
