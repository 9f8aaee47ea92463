"""Which route first. Pure: health and chance are arguments."""

from collections.abc import Callable, Sequence

from tollbridge.values import Route


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
