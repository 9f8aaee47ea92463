"""What a failed attempt means: to us, for the next step, and to the caller, in words that are theirs to read.

What a provider says about its own troubles, or about ours with it, is for the operator.
"""

import math

import msgspec

from tollbridge.core.retry import Kind
from tollbridge.errors import (
    AnswerTooLarge,
    ApiError,
    ConnectError,
    Forbidden,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    PoolBusy,
    ProtocolError,
    RateLimited,
    Unavailable,
    UnsupportedField,
    UpstreamError,
    UpstreamFailed,
    UpstreamTimedOut,
    UpstreamTimeout,
)
from tollbridge.gateway.ticket import Ticket
from tollbridge.upstream.health import DEFAULT_COOL_S
from tollbridge.values import Route
from tollbridge.wire.errors import NONE_CAN, ModelFailed, UpstreamSaid

MAX_RETRY_AFTER_S = 60


class Failure(msgspec.Struct, frozen=True):
    """`error`: what the caller is told if this is the end. `status`: the provider's; 0: it did not answer."""

    kind: Kind
    error: ApiError
    status: int = 0
    retry_after: float | None = None
    # What the log says of it: no words of the provider's.
    why: str = ""


def failure_of(error: UpstreamError | InvalidRequest, ticket: Ticket, route: Route) -> Failure:
    """What `error`, which ended an attempt of `ticket` on `route`, means."""
    if isinstance(error, InvalidRequest):
        return Failure(Kind.UNSUPPORTED if isinstance(error, UnsupportedField) else Kind.REJECTED, error)
    if isinstance(error, UpstreamSaid):
        failure = _said(error, route)
    elif isinstance(error, AnswerTooLarge) and _asked_for_much(ticket):
        failure = _too_much()
    else:
        failure = _lost(error, route)
    return msgspec.structs.replace(failure, why=str(error))


def _asked_for_much(ticket: Ticket) -> bool:
    request = ticket.request
    several = request.inputs > 1 if request.endpoint == "embeddings" else ticket.demand.choices > 1
    return several or "logprobs" in request.fields


def _too_much() -> Failure:
    """An answer is too large because that much was asked for: no provider is to blame, and another one would bill for
    the same.
    """
    return Failure(
        Kind.REJECTED,
        InvalidRequest(
            "The answer is larger than this gateway reads. Ask for less: fewer inputs, or embeddings as base64; fewer"
            " choices, a smaller max_tokens, or no logprobs. You were not charged.",
            code="answer_too_large",
        ),
    )


def _lost(error: UpstreamError, route: Route) -> Failure:
    """There was no answer, or none that can be used."""
    if isinstance(error, UpstreamTimeout):
        kind = Kind.UNREACHED if error.kind == "connect" else Kind.TIMED_OUT
        return Failure(
            kind, UpstreamTimedOut(f"The provider of {route.model} did not answer in time. You were not charged.")
        )
    if isinstance(error, ProtocolError):
        return Failure(
            Kind.INVALID_RESPONSE,
            UpstreamFailed(
                f"The provider of {route.model} sent an answer that makes no sense. You were not charged.",
                code="upstream_invalid_response",
            ),
        )
    if isinstance(error, ModelFailed):
        return Failure(
            Kind.MODEL_FAILED,
            UpstreamFailed(
                f"The answer of {route.model} cannot be used: it calls a tool in a way that cannot be read. You were"
                " not charged. Try again.",
                code="upstream_invalid_response",
            ),
        )
    if isinstance(error, PoolBusy):
        return Failure(
            Kind.BUSY,
            Unavailable(
                f"All connections to the provider of {route.model} are busy. Try again in a moment.", retry_after=1
            ),
        )
    if isinstance(error, ConnectError):
        kind, what = Kind.UNREACHED, "cannot be reached"
    else:
        kind, what = Kind.LOST, "broke off before it answered"
    return Failure(kind, UpstreamFailed(f"The provider of {route.model} {what}. You were not charged."))


def _said(said: UpstreamSaid, route: Route) -> Failure:
    """What an error status of a provider means: to us, and to the caller."""
    status = said.status
    if status in (401, 402, 403) and route.upstream.owner:
        kind = Kind.OUT_OF_CREDIT if status == 402 else Kind.CREDENTIAL
        return Failure(kind, _own_refused(status, route), status)
    if status in (401, 403):
        error: ApiError = UpstreamFailed(
            f"The provider of {route.model} refused this gateway's credential. Your key is fine.", code="upstream_auth"
        )
        return Failure(Kind.CREDENTIAL, error, status)
    if status == 402:
        error = UpstreamFailed(f"The provider of {route.model} refused this gateway's account.", code="upstream_auth")
        return Failure(Kind.OUT_OF_CREDIT, error, status)
    if status == 429:
        cool = DEFAULT_COOL_S if said.retry_after is None else said.retry_after
        seconds = min(MAX_RETRY_AFTER_S, max(1, math.ceil(cool)))
        limited = RateLimited(
            f"The provider of {route.model} is limiting requests. Try again in {seconds} s.",
            headers={"retry-after": str(seconds)},
        )
        return Failure(Kind.LIMITED, limited, status, said.retry_after)
    if status == 404 and said.code == NONE_CAN:
        return Failure(Kind.UNSUPPORTED, InvalidRequest(said.message), status)
    if status == 404:
        error = NotFound(f"The provider does not know {route.model}.", code="model_not_found", param="model")
        return Failure(Kind.UNKNOWN_MODEL, error, status)
    if status == 413:
        return Failure(Kind.REJECTED, PayloadTooLarge(said.message), status)
    if 400 <= status < 500 and status != 408:
        return Failure(Kind.REJECTED, InvalidRequest(said.message, param=said.param, code=said.code), status)
    if status in (408, 504):
        return Failure(
            Kind.TIMED_OUT,
            UpstreamTimedOut(f"The provider of {route.model} did not answer in time. You were not charged."),
            status,
        )
    return Failure(
        Kind.SERVER_ERROR, UpstreamFailed(f"The provider of {route.model} failed. You were not charged."), status
    )


def _own_refused(status: int, route: Route) -> ApiError:
    why = "is out of credit there" if status == 402 else "was refused"
    return Forbidden(
        f"Your own credential at {route.upstream.provider} {why} (status {status}). Fix or remove it; your key here is"
        " fine, and nothing was charged.",
        code="own_credential_refused",
    )
