"""Frozen values shared by `wire`, `core` and everything above them.

Units: tokens and calls are plain counts; prices are integer pico-USD for one of them (pico-USD per token = micro-USD
per million tokens); amounts of money are integer nano-USD. Times are integer milliseconds since the Unix epoch, unless
the name says otherwise.
"""

from enum import IntEnum
from functools import cached_property

import msgspec


class Meters(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Counts of one answer in disjoint meters: no token is in two of them.

    `cache_write` was written to a cache for five minutes (or however long the provider keeps it), `cache_write_1h` for
    an hour. `audio_input`, `audio_output` and `image_output` are tokens that are not in `input` or `output`; pictures
    that were read are in `input`. `searches` counts calls of the provider's own search. `reasoning` is the part of
    `output` that was spent on reasoning; it is never billed on its own.
    """

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0
    audio_input: int = 0
    audio_output: int = 0
    image_output: int = 0
    searches: int = 0

    @property
    def prompt(self) -> int:
        """All tokens that were read: OpenAI's `prompt_tokens`."""
        return self.input + self.cache_read + self.cache_write + self.cache_write_1h + self.audio_input

    @property
    def completion(self) -> int:
        """All tokens that were written: OpenAI's `completion_tokens`."""
        return self.output + self.audio_output + self.image_output

    @property
    def tokens(self) -> int:
        """All tokens."""
        return self.prompt + self.completion


class Usage(Meters, frozen=True, kw_only=True, gc=False):
    """What was used, and how that is known.

    `raw` is the provider's own usage object as received (JSON, at most 1 KiB; empty if there was none). `estimated`:
    counted here, or a part of it, because the provider reported nothing credible; `suspect`: what it reported cannot be
    true.
    """

    raw: bytes = b""
    estimated: bool = False
    suspect: bool = False


class Price(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, dict=True):
    """Pico-USD for one of each meter.

    None: `audio_input` costs what `input` costs, `audio_output` and `image_output` what `output` costs. `searches` is
    for one call; without a price a call is free, because there is no other meter to take its price from. `tiers`, in
    ascending order: a request whose prompt is longer than a tier's `above` is charged by that tier as a whole.
    """

    input: int
    output: int
    cache_read: int
    cache_write: int
    cache_write_1h: int
    audio_input: int | None = None
    audio_output: int | None = None
    image_output: int | None = None
    searches: int = 0
    tiers: "tuple[Tier, ...]" = ()

    @cached_property
    def at_most(self) -> tuple[int, int]:
        """The most that a token read and a token written cost in nearly every request; exceptions: `can_be_dearer`."""
        written = max(self.output, self.audio_output or 0, self.image_output or 0)
        return max(self.input, self.cache_read, self.cache_write), written

    @cached_property
    def can_be_dearer(self) -> bool:
        """Whether some requests pay more than `at_most`: with sound, with caching by the hour, or by a tier."""
        return bool(self.tiers) or max(self.audio_input or 0, self.cache_write_1h) > self.at_most[0]


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """`price` (itself without tiers) is for requests that read more than `above` tokens in all (`Usage.prompt`)."""

    above: int
    price: Price


MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
# The end of what has none.
FOR_EVER = 1 << 62
# The first moment of the year 9999. Times beyond it are refused: later ones would soon be past what a date can express.
LATEST_MS = 253_370_764_800_000


class When(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A stretch of time that may recur, in UTC.

    From `since` to before `until` (milliseconds since the epoch), on the days whose bits are set in `days` (1 is
    Monday, 64 Sunday), from `start` to before `end` (milliseconds of the day; across midnight if `end` is smaller).
    """

    since: int = 0
    until: int = FOR_EVER
    days: int = 127
    start: int = 0
    end: int = DAY_MS


class Upstream(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A provider plus a credential, the operator's or a customer's own: somewhere that can be called."""

    name: str
    provider: str
    dialect: str
    base_url: str
    auth: str
    credential: str
    # Whose credential it is: the row id of a customer's own, or 0 for the operator's.
    owner: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    # "Does cancelling stop this provider's bill?": decides what a caller who leaves is charged.
    cancel_stops_billing: bool = False
    # Fields that this provider names differently (`max_tokens` → `max_completion_tokens`), and fields that it refuses.
    renames: tuple[tuple[str, str], ...] = ()
    drops: tuple[str, ...] = ()
    stream_usage: bool = True
    # Whether parts of a request that it cannot express are left out, not refused, unless the caller says otherwise.
    leaves_out: bool = False
    # Endpoints (chat, stream, embeddings …) whose path below the base URL differs from the dialect's; `{model}` is the
    # upstream's name for the model. And members that are added to every body, with values in JSON.
    paths: tuple[tuple[str, str], ...] = ()
    adds: tuple[tuple[str, str], ...] = ()
    connect_timeout: float = 5.0
    first_byte_timeout: float = 120.0
    gap_timeout: float = 60.0
    total_timeout: float = 900.0
    max_connections: int = 256

    @cached_property
    def changes_bodies(self) -> bool:
        """Whether a body in the provider's dialect may have to be changed for it."""
        return bool(self.renames or self.drops or self.adds)

    def __repr__(self) -> str:
        return f"Upstream({self.name})"


class Route(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One way to serve a model. `cost` is what the provider bills; the customer pays `price` × `multiplier_ppm` / 10⁶.

    `version` is the id of the row in table `price_version` that holds exactly these terms. `output_limit`: the
    model's, the most tokens that it writes. `variants` are the same route on other terms at other times
    (`core.pricing.at`): the first that applies is taken, or this route if none does.
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
    output_limit: int = 4096
    variants: "tuple[Variant, ...]" = ()

    @cached_property
    def is_sold_at_cost(self) -> bool:
        """Whether the customer pays what the provider bills."""
        return self.multiplier_ppm == 1_000_000 and self.cost == self.price


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """`route` (itself without variants) is taken when all of `when` cover the moment at which a request arrives."""

    when: tuple[When, ...]
    route: Route


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A public name that a customer asks for.

    Modalities are `text`, `image`, `audio`, `video` and `file`; `capabilities` are from `core.catalog.CAPABILITIES`.
    """

    id: str
    type: str
    context_window: int
    output_limit: int
    routes: tuple[Route, ...]
    best_for: str = ""
    owned_by: str = "tollbridge"
    created: int = 0
    aliases: tuple[str, ...] = ()
    input_modalities: tuple[str, ...] = ("text",)
    output_modalities: tuple[str, ...] = ("text",)
    capabilities: tuple[str, ...] = ()


class Preferences(msgspec.Struct, frozen=True, kw_only=True):
    """A caller's preferences about routes, in OpenRouter's terms.

    `models`: tried in this order after the requested one. `order`, `only`, `ignore`: names of providers or upstreams in
    lower case; None: not given. `sort`: price, throughput or latency. `max_prompt`, `max_completion`: the highest
    acceptable price, pico-USD per token. `require_parameters`: True, only routes that take every field; False, a field
    that a route cannot express may be dropped. `allow_fallbacks`: whether providers that are not in `order` may be
    tried, or without an `order`, any but the first.
    """

    models: tuple[str, ...] = ()
    order: tuple[str, ...] | None = None
    only: frozenset[str] | None = None
    ignore: frozenset[str] = frozenset()
    sort: str | None = None
    max_prompt: int | None = None
    max_completion: int | None = None
    require_parameters: bool | None = None
    allow_fallbacks: bool = True


class Outcome(IntEnum):
    """How a request ended, as stored in `usage.outcome`. Numbers never change their meaning."""

    COMPLETED = 1
    CLIENT_LEFT = 2
    UPSTREAM_DIED = 3
    NO_OUTPUT = 4
    OUR_FAULT = 6  # 5 was never written
    SWEPT = 7  # the process died or was cut off; ended by the sweeper at its last checkpoint
