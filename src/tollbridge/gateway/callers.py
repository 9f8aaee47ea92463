"""Who is calling: the key of a request, looked up once and then remembered for a while.

The cache only saves work. A key that was revoked or has expired stops at its next paid call, because the hold checks
it. Any other change takes effect when `forget` is called (the cache epoch moved); what time alone changes, such as the
end of agreed terms, within `TTL_S`.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Protocol

import msgspec

from tollbridge.core import keys
from tollbridge.core.plans import DEFAULT_PLAN, Agreed, Plan, in_effect, matches
from tollbridge.errors import ConfigError, InvalidApiKey, InvalidRequest
from tollbridge.gateway.own import OwnCredential
from tollbridge.limits.base import Rule, Scope
from tollbridge.values import Model

TTL_S = 30.0
MOST_REMEMBERED = 20_000
# Padded with spaces, one good key has any number of forms, each as long as a head may be.
LONGEST_REMEMBERED = 256


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Whose request it is: a key of an account, with the account's plan and the scopes that limit it.

    `enforced`: the scopes that refuse, while the others are only tried out; None: all of them refuse. `own`: the
    account's own credentials at providers. `models`, `networks`: what the key may call and from where; None: any.
    `cost_cap`: what plan and key allow one request to cost, nano-USD; None: they set no cap.
    """

    key_id: int
    account_id: int
    plan: Plan
    scopes: tuple[Scope, ...]
    enforced: tuple[Scope, ...] | None = None
    own: tuple[OwnCredential, ...] = ()
    models: tuple[str, ...] | None = None
    networks: tuple[IPv4Network | IPv6Network, ...] | None = None
    cost_cap: int | None = None

    def may_call(self, model: Model) -> bool:
        return self.plan.allows(model) and (self.models is None or matches(self.models, model))

    def may_come_from(self, address: str) -> bool:
        if self.networks is None:
            return True
        try:
            at = ip_address(address)
        except ValueError:
            return False
        if isinstance(at, IPv6Address) and at.ipv4_mapped is not None:
            at = at.ipv4_mapped
        return any(at in network for network in self.networks)


class Limits(Protocol):
    """The limits of a plan or a key, per minute and at one time; None: no limit."""

    @property
    def rpm(self) -> int | None: ...

    @property
    def tpm(self) -> int | None: ...

    @property
    def concurrency(self) -> int | None: ...


class KnownKey(Limits, Protocol):
    """What the database knows about a key."""

    @property
    def key_id(self) -> int: ...

    @property
    def account_id(self) -> int: ...

    @property
    def plan(self) -> str: ...

    @property
    def live(self) -> bool:
        """Neither revoked nor expired."""

    @property
    def has_own(self) -> bool:
        """Whether its account has credentials of its own at providers."""

    @property
    def agreed(self) -> Agreed | None:
        """What was agreed with its account on top of the plan."""

    @property
    def models(self) -> tuple[str, ...] | None: ...

    @property
    def networks(self) -> tuple[IPv4Network | IPv6Network, ...] | None: ...

    @property
    def cost_cap(self) -> int | None: ...


class Callers:
    def __init__(
        self,
        *,
        find: Callable[[str], Awaitable[KnownKey | None]],
        own: Callable[[int], Awaitable[Sequence[OwnCredential]]],
        well_formed: Callable[[str], bool],
        plans: Mapping[str, Plan],
    ) -> None:
        self._find = find
        self._own = own
        self._well_formed = well_formed
        self._plans = plans
        # By all that was presented, so that no two keys can ever share an entry.
        self._known: dict[tuple[bytes | None, bytes | None], tuple[float, Caller | None]] = {}

    def known(self, authorization: bytes | None, api_key: bytes | None, now: float) -> Caller | None:
        """What `of` would return, if nothing has to be looked up, else None. `now`: of `time.monotonic`."""
        known = self._known.get((authorization, api_key))
        return known[1] if known is not None and known[0] > now else None

    async def of(self, authorization: bytes | None, api_key: bytes | None) -> Caller:
        """The caller of a request with this `Authorization` header, or this `x-api-key`; raises `InvalidApiKey`."""
        presented = (authorization, api_key)
        now = time.monotonic()
        known = self._known.get(presented)
        if known is None or known[0] <= now:
            remembered = self._known
            known = (now + TTL_S, await self._look_up(_credential(authorization, api_key)))
            if len(remembered) >= MOST_REMEMBERED:
                remembered.clear()
            # Into the dict from before the look-up: if `forget` came meanwhile, nobody reads that one any more.
            if len(authorization or b"") + len(api_key or b"") <= LONGEST_REMEMBERED:
                remembered[presented] = known
        caller = known[1]
        if caller is None:
            raise InvalidApiKey("Incorrect API key provided: it is unknown, revoked or expired.")
        return caller

    def forget(self) -> None:
        """Drop the cache: something about keys, accounts or plans has changed."""
        self._known = {}

    async def _look_up(self, key: str) -> Caller | None:
        if not self._well_formed(key):
            if keys.MANAGES in key:
                raise InvalidApiKey(
                    "This is a management key, which works only under /api/. Call models with an API key."
                )
            raise InvalidApiKey(
                "Incorrect API key provided: this is not a key of this service. Check that it is whole, "
                "with nothing around it: no quotes, no brackets, no second `Bearer`."
            )
        row = await self._find(key)
        if row is None or not row.live:
            return None
        plan = self._plan(row)
        of_account = _scope(f"account/{row.account_id}", plan, plan.strict)
        of_key = _scope(f"key/{row.key_id}", row, plan.strict)
        own = tuple(await self._own(row.account_id)) if row.has_own else ()
        caps = [cap for cap in (plan.cost_cap, row.cost_cap) if cap is not None]
        return Caller(
            key_id=row.key_id,
            account_id=row.account_id,
            plan=plan,
            scopes=(*of_account, *of_key),
            enforced=of_key if plan.shadow and of_account else None,
            own=own,
            models=row.models,
            networks=row.networks,
            cost_cap=min(caps, default=None),
        )

    def _plan(self, row: KnownKey) -> Plan:
        fallback = self._plans.get(DEFAULT_PLAN)
        plan = self._plans.get(row.plan) or fallback
        if plan is None or fallback is None:
            raise ConfigError(f"plan {row.plan} is not configured, nor is the plan {DEFAULT_PLAN}")
        return in_effect(plan, fallback, row.agreed, time.time_ns() // 1_000_000)


def _scope(name: str, limits: Limits, strict: bool) -> tuple[Scope, ...]:
    if limits.rpm is None and limits.tpm is None and limits.concurrency is None:
        return ()
    rule = Rule(requests=limits.rpm, tokens=limits.tpm, concurrency=limits.concurrency, strict=strict)
    return (Scope(name, rule),)


def _credential(authorization: bytes | None, api_key: bytes | None) -> str:
    """The one key of a request. Two different ones are refused: we never guess which of them counts.

    Raises `InvalidApiKey`, `InvalidRequest`.
    """
    bearer = None
    if authorization is not None:
        scheme, _, value = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            raise InvalidApiKey("Incorrect API key provided: send it as `Authorization: Bearer YOUR_API_KEY`.")
        bearer = value.strip()
    if bearer and api_key and bearer != api_key:
        raise InvalidRequest(
            "Two different API keys were sent, in Authorization and in x-api-key. Send one.",
            code="ambiguous_credentials",
        )
    key = bearer or api_key
    if not key:
        raise InvalidApiKey(
            "Incorrect API key provided: it is missing. Send it as `Authorization: Bearer YOUR_API_KEY`."
        )
    return key.decode("latin-1")
