"""Which route first. Pure: health, speed and chance are arguments.

A caller's own credential goes before ours. What a caller wants of routes (`Preferences`) only ever takes some away or
puts them in another order: nothing that is not configured can be reached by it.
"""

from collections.abc import Callable, Sequence

from tollbridge.values import Preferences, Route

# OpenRouter's ways to write a wish into the name of a model.
SUFFIXES = {":floor": "price", ":nitro": "throughput"}


def split_suffix(name: str) -> tuple[str, str | None]:
    """The name of the model, and how its routes are to be sorted."""
    base, colon, end = name.rpartition(":")
    sort = SUFFIXES.get(colon + end)
    return (name, None) if sort is None or not base else (base, sort)


def order(routes: Sequence[Route], rank: Callable[[Route], int | None], chance: float) -> list[Route]:
    """The usable routes in the order to try them.

    `rank`: None for a route that cannot be called now; the lower ones first, then by `order`, and among equals by
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
    """Those that the caller lets be called."""
    return [route for route in routes if _allows(route, wishes)]


def prefer(routes: Sequence[Route], wishes: Preferences, measure: Callable[[Route], float] | None) -> list[Route]:
    """`routes`, which stand in the order to try them, in the caller's order.

    `measure`: what is sorted by, the least first; None: nothing is. Providers that were named in an order go before
    all others. Without fall-backs only those are left, or where none was named the first.
    """
    chosen = list(routes)
    if measure is not None:
        chosen.sort(key=measure)
    if wishes.order:
        places = {name: place for place, name in enumerate(wishes.order)}
        last = len(places)
        place = {id(route): min(places.get(name, last) for name in names(route)) for route in chosen}
        chosen.sort(key=lambda route: place[id(route)])
        if not wishes.allow_fallbacks:
            chosen = [route for route in chosen if place[id(route)] < last]
    elif not wishes.allow_fallbacks:
        del chosen[1:]
    return chosen


def names(route: Route) -> tuple[str, str]:
    """What callers may call the route's provider, in lower case."""
    return route.upstream.name.lower(), route.upstream.provider.lower()


def _allows(route: Route, wishes: Preferences) -> bool:
    called = names(route)
    if wishes.only is not None and wishes.only.isdisjoint(called):
        return False
    return wishes.ignore.isdisjoint(called) and not (
        _is_above(route.price.input, route, wishes.max_prompt)
        or _is_above(route.price.output, route, wishes.max_completion)
    )


def _is_above(price: int, route: Route, most: int | None) -> bool:
    """Whether what the caller pays per token is more than it wants to."""
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
        # What is left of the chance within the chosen share is as good as a new one.
        chance = mark / route.weight if route.weight else chance
        chosen.append(route)
        left.remove(route)
    return chosen + left
