"""What a call may cost before it runs, and what it is charged when it has ended.

`bound` gives a hold its two numbers; `bill` is the table "What is charged" of docs/billing.md, one branch per row.
Amounts are nano-USD, tokens are counts.
"""

import re
from collections.abc import Sequence
from enum import Enum

import msgspec

from tollbridge.core import money, pictures, tokens
from tollbridge.values import DAY_MS, Outcome, Price, Route, Usage, When

# The least output that a call is run for: below this, a refusal serves the caller better than a stub of an answer.
LEAST_OUTPUT_TOKENS = 256

# A caller who leaves before the first token pays for the prompt, unless the provider had been silent for longer.
SILENCE_IS_UPSTREAMS_FAULT_MS = 30_000

# How a request asks for its prompt to be cached for an hour, with and without escapes.
_HOUR = tuple(one + hour + b'"' for one in (b"1", rb"\u0031") for hour in (b"h", rb"\u0068"))
# How tools offer a provider's own search to the model, and how many searches a hold then covers. A function of the
# caller's own with such a name is not one.
_SEARCH = re.compile(rb'"type"\s*:\s*"(?:openrouter:)?web_search|"google_?[sS]earch"')
SEARCHES_HELD = 10
# 1 January 1970 was a Thursday; weeks begin on Monday, day 0.
_FIRST_DAY = 3


def at(route: Route, moment: int) -> Route:
    """`route` on the terms that apply to a request arriving at `moment` (milliseconds since the epoch)."""
    for variant in route.variants:
        if all(covers(when, moment) for when in variant.when):
            return variant.route
    return route


def all_at(routes: Sequence[Route], moment: int) -> Sequence[Route]:
    """`routes` on the terms that apply at `moment` (milliseconds since the epoch)."""
    for route in routes:
        if route.variants:
            return [at(each, moment) for each in routes]
    return routes


def covers(when: When, moment: int) -> bool:
    """Whether `moment` (milliseconds since the epoch) falls within `when`."""
    if not when.since <= moment < when.until:
        return False
    day, time = divmod(moment, DAY_MS)
    if not when.days >> (day + _FIRST_DAY) % 7 & 1:
        return False
    if when.start < when.end:
        return when.start <= time < when.end
    return time >= when.start or time < when.end


class Bound(msgspec.Struct, frozen=True, gc=False):
    """`want` is what should be held, `least` what must be, `whole` what the request may cost in all.

    `limit`: the output limit per choice that `whole` assumes. `prompt_price`: what the prompt, the searches and what is
    predicted may cost in all; `output_price`: what each token written may cost; both in pico-USD, before the
    multiplier, at the dearest.
    """

    want: int
    least: int
    whole: int
    prompt: int
    limit: int
    prompt_price: int
    output_price: int


class Demand(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a request asks for, as far as money goes. `prompt`: estimated tokens, without the hold's margin. `read`:
    those of them that are charged if the provider does not report what it read (`tokens.count_read`). `pictures`: the
    pixels of each, 0 if unknown; `prompt` counts each as `tokens.PER_IMAGE`. `unmeasured`: `prompt` may be far too low.

    `output_limit`: the caller's, per choice; `choices`: how many answers. `produces`: False for embeddings. What may
    make it dearer: `audio`, it may hold sound; `body`, the request as it came, searched for one-hour caching (None: it
    may be asked for); `tools`, JSON without escaped letters. `predicted`: tokens of a text that providers charge as
    written, where the model writes something else.
    """

    prompt: int
    read: int = 0
    pictures: tuple[int, ...] = ()
    unmeasured: bool = False
    output_limit: int | None
    choices: int = 1
    produces: bool = True
    audio: bool = True
    body: bytes | None = None
    tools: bytes = b""
    predicted: int = 0


def bound(demand: Demand, route: Route, default_hold: int, strict: bool) -> Bound:
    """The bound of `demand` on one route, at the dearest meters that it may use and the dearest tier that it may reach.

    `default_hold`: the output tokens held when the caller set no limit (if `strict`, all that the model may write).
    """
    prompt = tokens.with_margin(demand.prompt)
    if demand.pictures:
        prompt += pictures.beyond(demand.pictures, route.upstream_model)
    price, multiplier = route.price, route.multiplier_ppm
    read, written = _dearest(price, prompt, demand) if price.can_be_dearer else price.at_most
    pico = prompt * read
    if price.searches and _may_search(demand):
        pico += SEARCHES_HELD * price.searches
    if demand.predicted:
        pico += tokens.with_margin(demand.predicted) * written
    asked, choices = demand.output_limit, demand.choices
    limit = route.output_limit if demand.produces else 0
    if asked is not None and asked < limit:
        limit = asked
    held = limit * choices
    whole = want = least = money.round_up(pico + held * written, multiplier)
    if asked is None and not strict and held > default_hold:
        held = default_hold
        want = least = money.round_up(pico + held * written, multiplier)
    if held > LEAST_OUTPUT_TOKENS * choices:
        least = money.round_up(pico + LEAST_OUTPUT_TOKENS * choices * written, multiplier)
    return Bound(want, least, whole, prompt, limit, pico, written)


class TokenBound(msgspec.Struct, frozen=True, gc=False):
    """The same two numbers for a hold on tokens; 0: no tokens are asked for."""

    want: int = 0
    least: int = 0


def token_bound(demand: Demand, route: Route, bound: Bound, *, cap: int, default_hold: int) -> TokenBound:
    """How many included tokens should and must be held for a request with this `bound`, which may cost `cap`.

    0 for a call that costs nothing, for one that the customer's own credential pays for, and for one that may search
    where that has a price: searches are no tokens.
    """
    if bound.whole == 0 or route.upstream.owner or (route.price.searches and _may_search(demand)):
        return TokenBound()
    output = bound.limit
    if demand.output_limit is None and bound.want < bound.whole:
        output = -(-default_hold // demand.choices)
    if bound.whole > cap:
        output = min(output, affordable_output(route, cap, bound, demand.choices))
    output *= demand.choices
    return TokenBound(bound.prompt + output, bound.prompt + min(output, LEAST_OUTPUT_TOKENS * demand.choices))


def affordable_output(route: Route, amount: int, bound: Bound, choices: int) -> int:
    """Output tokens per choice that `amount` pays for on top of the prompt of `bound`; 0 if it pays for none."""
    price = bound.output_price * route.multiplier_ppm
    if price == 0:
        return 1 << 31
    left = amount - money.round_up(bound.prompt_price, route.multiplier_ppm)
    return max(0, left * 1_000 * 1_000_000 // (price * choices))


def _may_search(demand: Demand) -> bool:
    return bool(demand.tools) and _SEARCH.search(demand.tools) is not None


def further_output(route: Route, prompt: int, output: int) -> int:
    """What `output` more tokens may cost in an answer to a prompt of about `prompt` tokens."""
    price = route.price.at_most[1]
    for tier in route.price.tiers:
        if tokens.with_margin(prompt) > tier.above:
            price = max(price, tier.price.at_most[1])
    return money.round_up(output * price, route.multiplier_ppm)


def charge(usage: Usage, route: Route) -> int:
    """What the customer pays for `usage`."""
    return money.charge(usage, route.price, route.multiplier_ppm)


def cost(usage: Usage, route: Route) -> int:
    """What the provider bills for `usage`."""
    return money.charge(usage, route.cost)


def charge_and_cost(usage: Usage, route: Route) -> tuple[int, int, int]:
    """Both, and how much of the cost is for what was read, rounded up; computed once for most routes, which are sold at
    cost.
    """
    read, written = money.parts(usage, route.price)
    charged = costs = money.round_up(read + written, route.multiplier_ppm)
    if not route.is_sold_at_cost:
        read, written = money.parts(usage, route.cost)
        costs = money.round_up(read + written)
    return charged, costs, -(-read // 1_000)


def _dearest(price: Price, prompt: int, demand: Demand) -> tuple[int, int]:
    """The most that a token read and a token written may cost, for a prompt of `prompt` tokens; pico-USD."""
    read, written = price.at_most
    if price.audio_input is not None and price.audio_input > read and demand.audio:
        read = price.audio_input
    if price.cache_write_1h > read and (demand.body is None or any(each in demand.body for each in _HOUR)):
        read = price.cache_write_1h
    for tier in price.tiers:
        if prompt > tier.above:
            tier_read, tier_written = _dearest(tier.price, prompt, demand)
            read, written = max(read, tier_read), max(written, tier_written)
    return read, written


class Cause(Enum):
    """Why a call came to its end."""

    FINISHED = "finished"
    CLIENT_LEFT = "client_left"
    UPSTREAM_FAILED = "upstream_failed"
    MONEY_RAN_OUT = "money_ran_out"
    CUT = "cut"  # ended by us at a limit of size or time
    OUR_FAULT = "our_fault"


# Every call needs these: CPython is slow to look up a member of an enumeration.
FINISHED, COMPLETED = Cause.FINISHED, Outcome.COMPLETED


class Ending(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is known when a call ends.

    `reported`: the provider's usage, already through its gate (None: none was reported, or none that can be believed);
    `counted`: the local count of prompt and output. `produced`: the provider sent output. `delivered`: some of it was
    written to the caller. `silent_ms`: how long the provider had been silent when the call ended.
    """

    cause: Cause
    reported: Usage | None
    counted: Usage
    produced: bool
    delivered: bool = True
    silent_ms: int = 0
    finish: str | None = None


class Bill(msgspec.Struct, frozen=True, gc=False):
    """`usage` is what is priced. `charged` False: the customer pays nothing for it. `outcome` goes on the record."""

    usage: Usage
    charged: bool
    outcome: Outcome
    # Not charged although the provider may bill it: counts against the account's daily allowance of free losses.
    free_loss: bool = False


def bill(ending: Ending, charge_partial: bool, silence_ms: int = SILENCE_IS_UPSTREAMS_FAULT_MS) -> Bill:
    """What is charged.

    `charge_partial`: the operator charges for output that came before an upstream died. `silence_ms`: a caller who
    leaves before the first token owes nothing if the provider had been silent for longer than this.
    """
    usage = ending.reported or ending.counted
    if ending.cause is FINISHED and ending.produced:  # nearly every call
        return Bill(usage, True, COMPLETED)
    if ending.cause is Cause.OUR_FAULT:
        return Bill(usage=usage, charged=ending.delivered and ending.produced, outcome=Outcome.OUR_FAULT)
    if ending.cause is Cause.CLIENT_LEFT:
        return _bill_client_left(ending, usage, silence_ms)
    if ending.cause is Cause.UPSTREAM_FAILED:
        if not ending.produced:
            return Bill(usage=usage, charged=False, outcome=Outcome.NO_OUTPUT)
        return Bill(usage=usage, charged=charge_partial, outcome=Outcome.UPSTREAM_DIED, free_loss=not charge_partial)
    if not ending.produced and ending.reported is None:
        return Bill(usage=ending.counted, charged=False, outcome=Outcome.NO_OUTPUT)
    if not ending.produced and ending.finish in (None, "error"):
        return Bill(usage=usage, charged=False, outcome=Outcome.NO_OUTPUT)
    return Bill(usage=usage, charged=True, outcome=Outcome.COMPLETED)


def _bill_client_left(ending: Ending, usage: Usage, silence_ms: int) -> Bill:
    if not ending.produced and ending.reported is None and ending.silent_ms > silence_ms:
        return Bill(usage=usage, charged=False, outcome=Outcome.NO_OUTPUT)
    return Bill(usage=usage, charged=True, outcome=Outcome.CLIENT_LEFT)
