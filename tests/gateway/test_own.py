"""The routes that a customer's own credentials pay for: their order, their terms, and whose they replace."""

import asyncio
from collections.abc import Sequence

import msgspec
import pytest
from tests.gateway.test_settlement import HERE, ROUTE

from tollbridge.gateway.own import NOTHING, OwnCredential, OwnRoutes
from tollbridge.values import Route, Variant


def route(provider: str, order: int, version: int) -> Route:
    upstream = msgspec.structs.replace(HERE, name=provider, provider=provider, credential="ours", owner=0)
    variants = (Variant(when=(), route=ROUTE),)
    made = msgspec.structs.replace(
        ROUTE, upstream=upstream, order=order, version=version, multiplier_ppm=1_100_001, variants=variants
    )
    assert not made.is_sold_at_cost
    return made


ROUTES = [route("a", 1, 11), route("a", 2, 12), route("b", 0, 13)]


class Versions:
    """The price versions, and for how many terms one was asked for."""

    def __init__(self) -> None:
        self.asked: list[Route] = []

    async def __call__(self, routes: Sequence[Route]) -> Sequence[int]:
        self.asked += routes
        return [each.version + 100 for each in routes]


def credential(number: int, provider: str, *, only: bool = False) -> OwnCredential:
    return OwnCredential(number, provider, f"sk-{number}", only)


def made_of(own: Sequence[OwnCredential], versions: Versions) -> list[Route]:
    return list(asyncio.run(OwnRoutes(50_000, versions).of(own, ROUTES)))


def test_each_credentials_routes_go_before_the_next_ones_and_all_before_ours_in_their_order() -> None:
    made = made_of([credential(1, "a"), credential(2, "b"), credential(3, "a")], Versions())
    paid = sorted(made[:-3], key=lambda each: each.order)
    assert [(each.upstream.owner, each.upstream.credential, each.version) for each in paid] == [
        *((1, "sk-1", 111), (1, "sk-1", 112), (2, "sk-2", 113), (3, "sk-3", 111), (3, "sk-3", 112)),
    ]
    assert len({each.order for each in paid}) == len(paid)
    assert max(each.order for each in paid) < 0
    assert made[-3:] == ROUTES


def test_such_a_route_is_on_terms_of_its_own_which_are_registered_once() -> None:
    versions = Versions()
    made = made_of([credential(1, "a"), credential(2, "a")], versions)
    for each in made[:-3]:
        # A twentieth, rounded up; it has no other terms at other times.
        assert (each.cost, each.multiplier_ppm, each.variants) == (NOTHING, 55_001, ())
    assert [each.version for each in versions.asked] == [11, 12]
    assert {each.multiplier_ppm for each in versions.asked} == {55_001}


@pytest.mark.parametrize("only", [1, 2, 3])
def test_beside_one_credential_that_is_the_only_one_for_its_models_none_of_ours_is_used(only: int) -> None:
    own = [credential(number, provider, only=number == only) for number, provider in ((1, "a"), (2, "b"), (3, "a"))]
    assert {each.upstream.owner for each in made_of(own, Versions())} == {1, 2, 3}


def test_a_credential_for_none_of_a_models_providers_changes_nothing() -> None:
    assert made_of([credential(1, "c", only=True)], Versions()) == ROUTES
