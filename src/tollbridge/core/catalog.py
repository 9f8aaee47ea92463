"""Which models there are: shipped rows, overlaid by the operator's, made into `Model`s with routes that can be called.

A model is listed when at least one of its routes names a configured upstream and has a price. Prices in rows are
decimal strings, USD per million tokens.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from tollbridge.core import money
from tollbridge.errors import ConfigError, NotFound
from tollbridge.values import Model, Price, Route, Upstream


class PriceRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """USD per million tokens; a meter left out costs what input costs."""

    input: str
    output: str = "0"
    cache_read: str | None = None
    cache_write: str | None = None
    cache_write_1h: str | None = None


class RouteRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`price` (what the customer pays, before the markup) and `cost` (what the provider bills) default to the model's.

    Routes are tried in the order in which they are written; those that share an `order` share the traffic by `weight`.
    """

    provider: str
    model: str
    price: PriceRow | None = None
    cost: PriceRow | None = None
    order: int | None = None
    weight: int = 1


class ModelRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model of the catalog. `source` and `checked` say where its price stands and when it was read."""

    id: str
    type: str = "chat"
    context_window: int = 8192
    output_limit: int | None = None
    best_for: str = ""
    owned_by: str = ""
    created: int = 0
    price: PriceRow | None = None
    cost: PriceRow | None = None
    routes: tuple[RouteRow, ...] = ()
    source: str = ""
    checked: str = ""


class Catalog(msgspec.Struct, frozen=True):
    """All models that can be called now, by id."""

    models: dict[str, Model]

    def resolve(self, name: str) -> Model:
        """The model that a request names; raises `NotFound` in OpenAI's words."""
        model = self.models.get(name)
        if model is None:
            raise NotFound(
                f"The model `{name}` does not exist or you do not have access to it.",
                code="model_not_found",
                param="model",
            )
        return model

    def routes(self) -> Iterable[Route]:
        for model in self.models.values():
            yield from model.routes


def price(row: PriceRow) -> Price:
    """Integer pico-USD per token from decimal strings; raises `ConfigError`."""
    read = money.parse_price(row.input)

    def or_input(text: str | None) -> int:
        return read if text is None else money.parse_price(text)

    return Price(
        input=read,
        output=money.parse_price(row.output),
        cache_read=or_input(row.cache_read),
        cache_write=or_input(row.cache_write),
        cache_write_1h=or_input(row.cache_write_1h if row.cache_write_1h is not None else row.cache_write),
    )


def overlay(shipped: Iterable[ModelRow], own: Iterable[ModelRow]) -> list[ModelRow]:
    """The operator's row of a model replaces the shipped one of the same id."""
    rows = {row.id: row for row in shipped}
    for row in own:
        rows[row.id] = row
    return list(rows.values())


def serve_all_by(rows: Iterable[ModelRow], upstream: str) -> list[ModelRow]:
    """The same models, each served by `upstream` alone, at its first route's price."""
    served = []
    for row in rows:
        first = row.routes[0] if row.routes else None
        priced = first.price if first is not None and first.price is not None else row.price
        route = RouteRow(provider=upstream, model=row.id, price=priced)
        served.append(msgspec.structs.replace(row, price=priced, cost=None, routes=(route,)))
    return served


def build(rows: Iterable[ModelRow], upstreams: Mapping[str, Upstream], multiplier_ppm: int) -> Catalog:
    """The catalog of all rows that a configured upstream can serve. Price versions are still 0 (`with_versions`)."""
    models: dict[str, Model] = {}
    for row in rows:
        routes = tuple(
            made
            for position, route in enumerate(row.routes)
            if route.provider in upstreams
            and (made := _route(row, route, position, upstreams[route.provider], multiplier_ppm)) is not None
        )
        if routes:
            models[row.id] = Model(
                id=row.id,
                type=row.type,
                context_window=row.context_window,
                output_limit=row.output_limit or row.context_window,
                routes=routes,
                best_for=row.best_for,
                owned_by=row.owned_by or routes[0].upstream.provider,
                created=row.created,
            )
    return Catalog(models)


def _route(row: ModelRow, route: RouteRow, position: int, upstream: Upstream, multiplier_ppm: int) -> Route | None:
    priced = route.price or row.price
    if priced is None:
        return None
    own_cost = route.cost or row.cost
    try:
        sold_at = price(priced)
        return Route(
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
    except ValueError as error:
        raise ConfigError(f"model {row.id}: {error}") from error


def with_versions(catalog: Catalog, versions: Sequence[int]) -> Catalog:
    """The catalog with the id of its price version on each route, `versions` in the order of `catalog.routes()`."""
    ids = iter(versions)
    models = {}
    for model in catalog.models.values():
        routes = tuple(msgspec.structs.replace(route, version=next(ids)) for route in model.routes)
        models[model.id] = msgspec.structs.replace(model, routes=routes)
    return Catalog(models)
