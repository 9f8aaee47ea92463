"""Which route first. Pure: health, speed and chance are arguments.

A caller's own credential goes before ours, by its routes' `order`, unless the caller asks for another order. A caller's
`Preferences` only ever remove or reorder routes: they reach nothing that is not configured.
"""

from collections.abc import Callable, Sequence

from tollbridge.values import Preferences, Route

# OpenRouter's suffixes to the name of a model, and how they sort its routes.
SUFFIXES = {":floor": "price", ":nitro": "throughput"}


def split_suffix(name: str) -> tuple[str, str | None]:
    """The model's name without its suffix, and how the suffix sorts its routes; None: there is no suffix."""
    base, colon, end = name.rpartition(":")
    sort = SUFFIXES.get(colon + end)
    return (name, None) if sort is None or not base else (base, sort)


def order(routes: Sequence[Route], rank: Callable[[Route], int | None], chance: float) -> list[Route]:
    """The usable routes in the order to try them.

    `rank`: None for a route that cannot be called now. Lower ranks go first, then by `order`, and among equals by
    weighted chance. `chance` is a random number in [0, 1). Routes of weight 0 come after their equals.
    """
    tiers: dict[tuple[int, int], list[Route]] = {}
    for route in routes:
        ranked = rank(route)
        if ranked is not None:
            tiers.setdefault((ranked, route.order), []).append(route)
    if len(tiers) == 1:
        (tier,) = tiers.values()
        return _shuffled(tier, chance)
    return [route for _, tier in sorted(tiers.items()) for route in _shuffled(tier, chance)]


def allowed(routes: Sequence[Route], wishes: Preferences) -> list[Route]:
    """The routes that the caller's preferences allow."""
    return [route for route in routes if _allows(route, wishes)]


def prefer(routes: Sequence[Route], wishes: Preferences, measure: Callable[[Route], float] | None) -> list[Route]:
    """`routes`, given in the order to try them, in the order that the caller prefers.

    `measure`: sort by this, least first; None: do not sort. Providers that the caller named in an order go before all
    others. Without fall-backs and such names, only the first route is left.
    """
    chosen = list(routes)
    if measure is not None:
        chosen.sort(key=measure)
    if wishes.order:
        places = {name: place for place, name in enumerate(wishes.order)}
        last = len(places)
        place = {id(route): min(places.get(name, last) for name in names(route)) for route in chosen}
        chosen.sort(key=lambda route: place[id(route)])
    elif not wishes.allow_fallbacks:
        del chosen[1:]
    return chosen


def names(route: Route) -> tuple[str, str]:
    """The names by which callers may refer to the route's provider, in lower case."""
    return route.upstream.name.lower(), route.upstream.provider.lower()


def _allows(route: Route, wishes: Preferences) -> bool:
    called = names(route)
    if wishes.only is not None and wishes.only.isdisjoint(called):
        return False
    if wishes.order and not wishes.allow_fallbacks and not set(wishes.order).intersection(called):
        return False
    return wishes.ignore.isdisjoint(called) and not (
        _is_above(route.price.input, route, wishes.max_prompt)
        or _is_above(route.price.output, route, wishes.max_completion)
    )


def _is_above(price: int, route: Route, most: int | None) -> bool:
    """Whether the caller would pay more per token than `most`."""
    return most is not None and price * route.multiplier_ppm > most * 1_000_000


def _shuffled(tier: list[Route], chance: float) -> list[Route]:
    left = list(tier)
    chosen: list[Route] = []
    while len(left) > 1:
        total = sum(route.weight for route in left)
        if total == 0:
            break
        mark = chance * total
        for route in left:
            if mark < route.weight:
                break
            mark -= route.weight
        # The rest of the chance, within the chosen share, is as good as a new random number.
        chance = mark / route.weight if route.weight else chance
        chosen.append(route)
        left.remove(route)
    return chosen + left
