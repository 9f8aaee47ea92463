"""Frozen values shared by `wire`, `core` and everything above them.

Units: tokens are plain counts; prices are integer pico-USD per token (= micro-USD per million tokens); amounts of
money are integer nano-USD. Times are integer milliseconds since the Unix epoch unless a name says otherwise.
"""

from enum import IntEnum

import msgspec


class Usage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Metered counts of one answer, in disjoint meters: no token stands in two of them.

    `reasoning` is the part of `output` that was spent on reasoning and is never billed on its own. `raw` is the
    provider's own usage object as received (JSON, at most 1 KiB; empty when there was none). `estimated`: counted
    here, because the provider reported nothing; `suspect`: it reported something that cannot be true, so that it was
    counted here.
    """

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0
    raw: bytes = b""
    estimated: bool = False
    suspect: bool = False

    @property
    def prompt(self) -> int:
        """All tokens that were read: OpenAI's `prompt_tokens`."""
        return self.input + self.cache_read + self.cache_write + self.cache_write_1h


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """Pico-USD per token of each meter. A meter without a price of its own costs what input costs."""

    input: int
    output: int
    cache_read: int
    cache_write: int
    cache_write_1h: int


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """A provider plus the operator's credential: somewhere that can be called."""

    name: str
    provider: str
    dialect: str
    base_url: str
    auth: str
    credential: str
    headers: tuple[tuple[str, str], ...] = ()
    # "Does cancelling stop this provider's bill?": decides what a caller who leaves is charged.
    cancel_stops_billing: bool = False
    # Fields that this provider calls otherwise (`max_tokens` → `max_completion_tokens`), and fields that it refuses.
    renames: tuple[tuple[str, str], ...] = ()
    drops: tuple[str, ...] = ()
    stream_usage: bool = True
    connect_timeout: float = 5.0
    first_byte_timeout: float = 120.0
    gap_timeout: float = 60.0
    total_timeout: float = 900.0
    max_connections: int = 256

    def __repr__(self) -> str:
        return f"Upstream({self.name})"


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One way to serve a model. `cost` is what the provider bills; the customer pays `price` × `multiplier_ppm` / 10⁶.

    `version` is the id of the row in table `price_version` that holds exactly these terms.
    """

    model: str
    upstream: Upstream
    upstream_model: str
    price: Price
    cost: Price
    multiplier_ppm: int = 1_000_000
    order: int = 0
    weight: int = 1
    version: int = 0


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A public name that a customer asks for."""

    id: str
    type: str
    context_window: int
    output_limit: int
    routes: tuple[Route, ...]
    best_for: str = ""
    owned_by: str = "tollbridge"
    created: int = 0


class Outcome(IntEnum):
    """How a request ended, as stored in `usage.outcome`. Numbers never change their meaning."""

    COMPLETED = 1
    CLIENT_LEFT = 2
    UPSTREAM_DIED = 3
    NO_OUTPUT = 4
    FAILED = 5  # no route answered; nothing was produced
    OUR_FAULT = 6
    SWEPT = 7  # the process died or was cut off; ended by the sweeper at its last checkpoint
