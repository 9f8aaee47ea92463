"""What is for sale: the shipped models and the operator's own, as an operator wants to see them."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import msgspec

from tollbridge.config import Settings
from tollbridge.core import catalog, money
from tollbridge.core.catalog import ModelRow, PriceRow, RouteRow
from tollbridge.errors import NotFound
from tollbridge.values import Price

SHIPPED = Path(__file__).parent.parent / "data" / "catalog.json"
# A price that was read longer ago may have changed.
FRESH_DAYS = 180


class _Shipped(msgspec.Struct, forbid_unknown_fields=True):
    models: tuple[ModelRow, ...]


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """A route. `open`: its provider is configured. `price` is what customers pay, the markup in it."""

    provider: str
    model: str
    open: bool
    price: Price | None
    cost: Price | None


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A model. `listed`: customers can call it."""

    row: ModelRow
    ways: tuple[Way, ...]
    listed: bool


def shipped_models() -> tuple[ModelRow, ...]:
    return msgspec.json.decode(SHIPPED.read_bytes(), type=_Shipped).models


def offers(settings: Settings) -> list[Offer]:
    """All models, the callable ones and the others. Without any provider the demo provider serves all of them."""
    return [
        _offer(row, settings, demo=not settings.providers) for row in catalog.overlay(shipped_models(), settings.models)
    ]


def offer(settings: Settings, model: str) -> Offer:
    """One of `offers`; raises `NotFound`."""
    found = next((each for each in offers(settings) if each.row.id == model), None)
    if found is None:
        raise NotFound(f"there is no model {model[:100]!r}: tollbridge catalog list --all names them", param="model")
    return found


def complaints(settings: Settings, today: date) -> Iterator[tuple[bool, str]]:
    """What an operator should look at: (whether money is lost by it, what it is)."""
    listed = [each for each in offers(settings) if each.listed]
    if not listed:
        yield True, "no model can be called: no configured provider serves any"
    for each in listed:
        for way in each.ways:
            if way.open and way.price is not None and way.cost is not None:
                for meter in _below(way.price, way.cost):
                    yield True, f"{each.row.id} at {way.provider}: the price of {meter} is below its cost"
        if each.row.checked:
            age = (today - date.fromisoformat(each.row.checked)).days
            if age > FRESH_DAYS:
                yield False, f"{each.row.id}: its price was read {age} days ago ({each.row.source})"


def _offer(row: ModelRow, settings: Settings, demo: bool) -> Offer:
    ways = tuple(_way(row, route, settings) for route in row.routes)
    return Offer(row=row, ways=ways, listed=demo or any(way.open and way.price is not None for way in ways))


def _way(row: ModelRow, route: RouteRow, settings: Settings) -> Way:
    price = route.price or row.price
    return Way(
        provider=route.provider,
        model=route.model,
        open=route.provider in settings.providers,
        price=_marked_up(price, settings.billing.markup_ppm),
        cost=_marked_up(route.cost or row.cost or price, money.PPM),
    )


def _marked_up(row: PriceRow | None, ppm: int) -> Price | None:
    """Rounded up to a pico-USD per token, to be looked at: what is charged is rounded once per request."""
    if row is None:
        return None
    price = catalog.price(row)
    return Price(**{meter: -(-getattr(price, meter) * ppm // money.PPM) for meter in Price.__struct_fields__})


def _below(price: Price, cost: Price) -> Iterator[str]:
    return (meter for meter in Price.__struct_fields__ if getattr(price, meter) < getattr(cost, meter))
