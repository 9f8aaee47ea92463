"""Who calls, by what they present: what is no key costs next to nothing."""

import asyncio
import random
import time
from collections.abc import Mapping
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tollbridge.core import keys
from tollbridge.core.plans import Plan
from tollbridge.errors import ConfigError, InvalidApiKey
from tollbridge.gateway.callers import LONGEST_REMEMBERED, TTL_S, Caller, Callers
from tollbridge.gateway.own import OwnCredential

PREFIX = "tb_live_"
FLOOD = 100_000
MOST_CPU_S = 0.000_2


def callers_without_a_database() -> Callers:
    async def nobody(_: object) -> None:
        raise AssertionError("the database was asked")

    return Callers(
        find=nobody,
        own=nobody,  # type: ignore[arg-type]
        well_formed=lambda text: keys.well_formed(PREFIX, text),
        plans={},
    )


def test_a_flood_of_made_up_keys_never_reaches_the_database() -> None:
    """B2."""
    callers = callers_without_a_database()
    chance = random.Random(20261122)
    texts = [PREFIX + "".join(chance.choices(keys.ALPHABET, k=38)) for _ in range(FLOOD)]

    async def flood() -> float:
        started = time.thread_time()
        for number, text in enumerate(texts):
            presented = (f"Bearer {text}".encode(), None) if number % 2 else (None, text.encode())
            try:
                await callers.of(*presented)
            except InvalidApiKey:
                continue
            pytest.fail("a made-up key was taken")
        return time.thread_time() - started

    assert asyncio.run(flood()) / FLOOD < MOST_CPU_S


def test_what_was_read_before_a_change_is_not_remembered_after_it() -> None:
    plan = Plan(name="default")
    asked: list[asyncio.Future[str]] = []

    async def find(_: object) -> Any:
        asked.append(asyncio.get_running_loop().create_future())
        name = await asked[-1]
        nothing = dict.fromkeys(("agreed", "models", "networks", "rpm", "tpm", "concurrency", "cost_cap"))
        return SimpleNamespace(key_id=1, account_id=1, plan=name, live=True, has_own=False, **nothing)

    async def scenario() -> None:
        callers = Callers(
            find=find,
            own=find,
            well_formed=lambda _: True,
            plans={"default": plan, "pro": Plan(name="pro")},
        )
        early = asyncio.create_task(callers.of(b"Bearer k", None))
        await asyncio.sleep(0)
        callers.forget()  # the plan became another one, behind what `find` has read
        asked[0].set_result("default")
        assert (await early).plan is plan
        late = asyncio.create_task(callers.of(b"Bearer k", None))
        await asyncio.sleep(0)
        asked[1].set_result("pro")
        assert (await late).plan.name == "pro"
        assert (await callers.of(b"Bearer k", None)).plan.name == "pro"
        assert len(asked) == 2

    asyncio.run(scenario())


def test_a_management_key_is_told_where_it_works() -> None:
    callers = callers_without_a_database()
    key = keys.make(PREFIX + keys.MANAGES, bytes(keys.RANDOM_BYTES))
    with pytest.raises(InvalidApiKey, match="management key"):
        asyncio.run(callers.of(f"Bearer {key}".encode(), None))


NO_RULES = dict.fromkeys(("agreed", "models", "networks", "rpm", "tpm", "concurrency", "cost_cap"))
PLANS = {"default": Plan(name="default"), "pro": Plan(name="pro")}


def callers_of(
    plan: str = "pro", plans: Mapping[str, Plan] = PLANS, cost_cap: int | None = None
) -> tuple[Callers, list[str]]:
    """Callers whose every key is known, and the keys that were looked up."""
    asked: list[str] = []

    async def find(key: str) -> Any:
        asked.append(key)
        rules = {**NO_RULES, "cost_cap": cost_cap}
        return SimpleNamespace(key_id=1, account_id=1, plan=plan, live=key != "dead", has_own=False, **rules)

    async def own(_: int) -> list[OwnCredential]:
        return []

    return Callers(find=find, own=own, well_formed=lambda _: True, plans=plans), asked


def test_a_key_is_remembered_for_a_while_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        callers, asked = callers_of()
        before = time.monotonic()
        caller = await callers.of(b"Bearer k", None)
        assert await callers.of(b"Bearer k", None) is caller
        assert callers.known(b"Bearer k", None, before) is caller
        assert callers.known(None, b"k", before) is callers.known(b"Bearer x", None, before) is None
        assert callers.known(b"Bearer k", None, time.monotonic() + TTL_S) is None
        assert asked == ["k"]
        monkeypatch.setattr("tollbridge.gateway.callers.TTL_S", 0.0)
        callers.forget()
        for _ in range(2):
            await callers.of(b"Bearer k", None)
        assert asked == ["k"] * 3

    asyncio.run(scenario())


def test_a_dead_key_is_remembered_as_such() -> None:
    async def scenario() -> None:
        callers, asked = callers_of()
        for _ in range(2):
            with pytest.raises(InvalidApiKey, match="unknown, revoked or expired"):
                await callers.of(b"Bearer dead", None)
        assert asked == ["dead"]

    asyncio.run(scenario())


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollbridge.gateway.callers.MOST_REMEMBERED", 3)

    async def scenario() -> None:
        callers, asked = callers_of()
        for number in range(8):
            await callers.of(b"Bearer %d" % number, None)
            assert len(callers._known) <= 3
        # One key has any number of forms.
        padded = b"Bearer ".ljust(LONGEST_REMEMBERED - 2) + b"k"
        for _ in range(2):
            await callers.of(padded, b"k")
        assert asked[8:] == ["k"]
        for _ in range(2):
            await callers.of(padded.replace(b"k", b" k"), b"k")
        assert asked[8:] == ["k"] * 3

    asyncio.run(scenario())


def test_an_account_on_a_plan_that_is_no_more_is_on_the_default_one() -> None:
    assert asyncio.run(callers_of("gone")[0].of(b"Bearer k", None)).plan.name == "default"
    for plans in ({}, {"pro": PLANS["pro"]}):
        with pytest.raises(ConfigError, match="default"):
            asyncio.run(callers_of("pro", plans)[0].of(b"Bearer k", None))


def test_another_scheme_is_refused_even_beside_a_good_key() -> None:
    callers, asked = callers_of()
    with pytest.raises(InvalidApiKey, match="send it as `Authorization: Bearer"):
        asyncio.run(callers.of(b"Basic azp4", b"k"))
    assert asked == []


@pytest.mark.parametrize(
    ("address", "may"),
    [
        *(("192.0.2.7", True), ("192.0.3.7", False), ("::ffff:192.0.2.7", True), ("::ffff:192.0.3.7", False)),
        *(("2001:db8::5", True), ("2001:db9::5", False), ("", False), ("unknown", False)),
    ],
)
def test_a_key_with_networks_is_used_from_these_alone(address: str, may: bool) -> None:
    networks = (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"))
    caller = Caller(key_id=1, account_id=1, plan=PLANS["pro"], scopes=(), networks=networks)
    assert caller.may_come_from(address) is may
    assert msgspec.structs.replace(caller, networks=None).may_come_from(address)


@pytest.mark.parametrize(("of_plan", "of_key"), [(5, 7), (7, 5), (None, 5), (5, None)])
def test_the_smaller_cap_of_plan_and_key_counts(of_plan: int | None, of_key: int | None) -> None:
    callers, _ = callers_of(plans={"default": Plan(name="default", cost_cap=of_plan)}, cost_cap=of_key)
    assert asyncio.run(callers.of(b"Bearer k", None)).cost_cap == 5
