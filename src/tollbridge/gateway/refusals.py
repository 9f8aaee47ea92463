"""What a caller is told when its cap, the ledger or the limits refuse a request."""

import math

from tollbridge.core.ledger import Refusal, Refused
from tollbridge.core.money import format_usd
from tollbridge.errors import (
    ApiError,
    CostCapExceeded,
    Forbidden,
    InvalidApiKey,
    PaymentRequired,
    RateLimited,
    Unavailable,
)
from tollbridge.limits.base import Exceeded, Room
from tollbridge.store.ledger import away

# SDKs wait for as long as they are told up to here; beyond it they guess, and ask much sooner.
LONGEST_WAIT_S = 60


def refused(verdict: Refused, least: int) -> ApiError:
    """The error for a hold that was not given."""
    spendable = verdict.balance if verdict.why is Refusal.KEY_LIMIT else verdict.available
    balance = {"balance_usd": format_usd(max(0, spendable)).encode()}
    needed = f"at least {format_usd(least)} USD"
    match verdict.why:
        case Refusal.INSUFFICIENT:
            return PaymentRequired(
                f"Insufficient credits: this request needs {needed}, and {format_usd(max(0, verdict.available))} USD"
                " are left. Add credit, or set a smaller max_tokens.",
                extra=balance,
            )
        case Refusal.IN_FLIGHT:
            return PaymentRequired(
                f"Your running requests hold the rest of your credit: this one needs {needed} and would fit once they"
                " end. Try again in a moment.",
                code=Refusal.IN_FLIGHT.value,
                headers={"retry-after": "2"},
                extra=balance,
            )
        case Refusal.KEY_LIMIT:
            return PaymentRequired(
                f"This API key has reached its spend limit: this request needs {needed}, and"
                f" {format_usd(max(0, verdict.available))} USD of the limit are left.",
                code=Refusal.KEY_LIMIT.value,
                extra=balance,
            )
        case Refusal.QUOTA:
            error = RateLimited(
                "What is left of this month's included tokens does not cover this request, nor does your credit: it"
                f" needs {needed}, and {format_usd(max(0, verdict.available))} USD are left. Add credit, set a smaller"
                " max_tokens, or wait for the next month (UTC).",
                code=Refusal.QUOTA.value,
                headers={"x-should-retry": "false"},
                extra=balance,
            )
            error.type = Refusal.QUOTA.value
            return error
        case Refusal.TOKENS_HELD:
            error = RateLimited(
                "Your running requests hold the rest of this month's included tokens: this one would fit once they end."
                " Try again in a moment, or set a smaller max_tokens.",
                headers={"retry-after": "2"},
            )
            error.type = "tokens"
            return error
        case Refusal.FROZEN:
            return Forbidden("This account is frozen. Please contact support.", code=Refusal.FROZEN.value)
        case Refusal.KEY_GONE:
            return InvalidApiKey("Incorrect API key provided: it was revoked or has expired.")
        case _:
            return away()


def none_usable(model: str, opens_in: float, status: int) -> Unavailable:
    """The error where no provider may be called for `opens_in` seconds more: as long as that really lasts."""
    wait = 1 + int(opens_in)
    when = f"{wait} s" if wait <= LONGEST_WAIT_S else f"{math.ceil(wait / 60)} minutes"
    error = Unavailable(
        f"No provider of {model} can be called right now. Nothing was charged; try again in {when}.",
        status=status,
        code="no_available_provider",
        retry_after=wait,
    )
    if wait > LONGEST_WAIT_S:
        error.headers["x-should-retry"] = "false"
    return error


_RAN_OUT: dict[Refusal | None, str] = {
    Refusal.KEY_LIMIT: "the spend limit of this API key ran out",
    Refusal.QUOTA: "this month's included tokens ran out",
    Refusal.FROZEN: "this account was frozen",
}


def ran_out(why: Refusal | None) -> str:
    """What ended an answer whose hold was not extended."""
    return _RAN_OUT.get(why, "the credit for this request ran out")


def too_dear(want: int, cap: int, *, produces: bool) -> CostCapExceeded:
    """The error for a request that could cost `want`, more than its cap; nano-USD."""
    return CostCapExceeded(
        f"This request could cost up to {format_usd(want)} USD, more than its cap of {format_usd(cap)}"
        " USD. Set a smaller max_tokens or send a shorter prompt.",
        param="max_tokens" if produces else None,
    )


def unmeasured(refusal: ApiError, *, others: bool) -> ApiError:
    """`refusal` of a request for which more is held than estimated, because nobody knows how much there is to read.

    `others`: of this account such requests are running, without which it might have been admitted.
    """
    why = (
        "How much there is to read in a file or a film shows only when a model has read it, so most of what the model"
        " can read must be covered"
    )
    if not others:
        refusal.message = f"{why}. {refusal.message}"
        return refusal
    return PaymentRequired(
        f"{why} while others of your requests with one are running. Try again when they end. ({refusal.message})",
        code=Refusal.IN_FLIGHT.value,
        headers={"retry-after": "2"},
        extra=refusal.extra,
    )


CUT_TOO_OFTEN = (
    "Too many long prompts of this account were cut off before their first token. Read the answers, or send less"
)
ASKED_TOO_OFTEN = "Too many calls of this account were sent although its limits refused them. Obey Retry-After"
WRONG_TOO_OFTEN = "Incorrect API key provided, as in many calls from your address before. Good keys are answered"


def cooling_down(why: str, wait: float) -> RateLimited:
    """`wait` in seconds."""
    seconds = math.ceil(wait)
    message = f"{why}; try again in {seconds} s."
    return RateLimited(message, code="abuse_cooldown", headers={"retry-after": str(seconds)})


def limited(exceeded: Exceeded) -> RateLimited:
    """The error for a limit that was reached, with headers that are true."""
    what = {"requests": "requests per minute", "tokens": "tokens per minute", "concurrency": "calls at one time"}
    rooms: list[bytes] = []
    add_limits(rooms, exceeded.requests_room, exceeded.tokens_room)
    headers = {name: value for name, _, value in (room.decode().partition(": ") for room in rooms)}
    if exceeded.hopeless:
        message = (
            f"Request too large: its input alone is more than your limit of {exceeded.limit:,} tokens per minute."
            " It cannot succeed; send less."
        )
        headers["x-should-retry"] = "false"
    else:
        message = (
            f"Rate limit reached: {exceeded.limit:,} {what[exceeded.type]}. Try again in {exceeded.retry_after:.3g} s."
        )
        headers["retry-after"] = str(max(1, math.ceil(exceeded.retry_after)))
        headers["retry-after-ms"] = str(math.ceil(exceeded.retry_after * 1000))
    if exceeded.degraded:
        headers["x-ratelimit-mode"] = "degraded"
    error = RateLimited(message, headers=headers)
    error.type = exceeded.type
    return error


def add_limits(headers: list[bytes], requests: Room | None, tokens: Room | None) -> None:
    """OpenAI's six headers, of the tightest scope."""
    if requests is not None:
        headers += (
            b"x-ratelimit-limit-requests: %d" % requests.limit,
            b"x-ratelimit-remaining-requests: %d" % requests.remaining,
            b"x-ratelimit-reset-requests: %.3fs" % requests.reset,
        )
    if tokens is not None:
        headers += (
            b"x-ratelimit-limit-tokens: %d" % tokens.limit,
            b"x-ratelimit-remaining-tokens: %d" % tokens.remaining,
            b"x-ratelimit-reset-tokens: %.3fs" % tokens.reset,
        )
