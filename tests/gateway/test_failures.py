"""What a failed attempt means to us, and what the caller is told of it."""

from types import SimpleNamespace
from typing import Any

import pytest

from tollbridge.core.retry import Kind
from tollbridge.errors import (
    AnswerTooLarge,
    ConnectError,
    ConnectionLost,
    InvalidRequest,
    PoolBusy,
    ProtocolError,
    UnsupportedField,
    UpstreamError,
    UpstreamTimeout,
)
from tollbridge.gateway.failures import MAX_RETRY_AFTER_S, Failure, failure_of
from tollbridge.upstream.health import DEFAULT_COOL_S
from tollbridge.wire.errors import NONE_CAN, ModelFailed, UpstreamSaid

WORDS = "words of the provider's"


def failure(error: UpstreamError | InvalidRequest, *, owner: int = 0, asked: Any = None) -> Failure:
    """Of an attempt on a route of the model `m`. `owner`: whose credential it was called with; `asked`: what for."""
    route: Any = SimpleNamespace(model="m", upstream=SimpleNamespace(owner=owner, provider="acme"))
    request = {"endpoint": "chat", "inputs": 1, "fields": {}, "choices": 1, **(asked or {})}
    demand = SimpleNamespace(choices=request.pop("choices"))
    ticket: Any = SimpleNamespace(request=SimpleNamespace(**request), demand=demand)
    return failure_of(error, ticket, route)


@pytest.mark.parametrize(
    ("said", "kind", "status", "code", "message"),
    [
        (401, Kind.CREDENTIAL, 502, "upstream_auth", "refused this gateway's credential. Your key is fine."),
        (403, Kind.CREDENTIAL, 502, "upstream_auth", "refused this gateway's credential. Your key is fine."),
        (402, Kind.OUT_OF_CREDIT, 502, "upstream_auth", "refused this gateway's account"),
        (404, Kind.UNKNOWN_MODEL, 404, "model_not_found", "does not know m"),
        (408, Kind.TIMED_OUT, 504, "upstream_timeout", "did not answer in time. You were not charged."),
        (504, Kind.TIMED_OUT, 504, "upstream_timeout", "did not answer in time. You were not charged."),
        (429, Kind.LIMITED, 429, "rate_limit_exceeded", "is limiting requests"),
        (500, Kind.SERVER_ERROR, 502, "upstream_unavailable", "failed. You were not charged."),
        (503, Kind.SERVER_ERROR, 502, "upstream_unavailable", "failed. You were not charged."),
        (599, Kind.SERVER_ERROR, 502, "upstream_unavailable", "failed. You were not charged."),
        (399, Kind.SERVER_ERROR, 502, "upstream_unavailable", "failed. You were not charged."),
    ],
)
def test_a_providers_own_troubles_are_told_in_our_words(
    said: int, kind: Kind, status: int, code: str, message: str
) -> None:
    found = failure(UpstreamSaid(said, WORDS, param="theirs", code="theirs"))
    assert (found.kind, found.status, found.error.status, found.error.code) == (kind, said, status, code)
    assert message in found.error.message
    assert WORDS not in found.error.message
    assert found.error.param == ("model" if said == 404 else None)
    assert found.why == WORDS


@pytest.mark.parametrize("said", [400, 405, 409, 422, 499])
def test_what_a_provider_finds_wrong_with_the_request_is_told_in_its_words(said: int) -> None:
    found = failure(UpstreamSaid(said, WORDS, param="temperature", code="bad"))
    assert (found.kind, found.status, found.error.status) == (Kind.REJECTED, said, 400)
    assert (found.error.message, found.error.param, found.error.code) == (WORDS, "temperature", "bad")


def test_what_is_too_large_for_a_provider_is_told_as_that() -> None:
    found = failure(UpstreamSaid(413, WORDS))
    assert (found.kind, found.status, found.error.status, found.error.message) == (Kind.REJECTED, 413, 413, WORDS)


def test_what_no_provider_of_an_aggregator_can_do_is_no_unknown_model() -> None:
    found = failure(UpstreamSaid(404, WORDS, code=NONE_CAN))
    assert (found.kind, found.status, found.error.status, found.error.message) == (Kind.UNSUPPORTED, 404, 400, WORDS)
    # Our word for it. Whoever else uses it finds fault with the request.
    assert failure(UpstreamSaid(400, WORDS, code=NONE_CAN)).kind is Kind.REJECTED


@pytest.mark.parametrize(
    ("said", "kind", "why"),
    [
        (401, Kind.CREDENTIAL, "was refused"),
        (402, Kind.OUT_OF_CREDIT, "is out of credit"),
        (403, Kind.CREDENTIAL, "was"),
    ],
)
def test_a_customers_own_credential_is_theirs_to_mend(said: int, kind: Kind, why: str) -> None:
    found = failure(UpstreamSaid(said, WORDS), owner=7)
    assert (found.kind, found.status, found.error.status) == (kind, said, 403)
    assert found.error.code == "own_credential_refused"
    assert f"Your own credential at acme {why}" in found.error.message
    assert f"(status {said})" in found.error.message
    # What else goes wrong there has nothing to do with whose credential it is.
    assert failure(UpstreamSaid(404, WORDS), owner=7).error.code == "model_not_found"


@pytest.mark.parametrize(
    ("told", "seconds"),
    [(None, int(DEFAULT_COOL_S)), (0.0, 1), (0.2, 1), (1.0, 1), (7.01, 8), (60.0, 60), (61.0, MAX_RETRY_AFTER_S)],
)
def test_a_limited_provider_says_when_to_come_again(told: float | None, seconds: int) -> None:
    found = failure(UpstreamSaid(429, WORDS, retry_after=told))
    assert found.retry_after == told
    assert found.error.headers == {"retry-after": str(seconds)}
    assert f"Try again in {seconds} s." in found.error.message


@pytest.mark.parametrize(
    ("error", "kind", "status", "code", "message"),
    [
        (UpstreamTimeout("connect", 1), Kind.UNREACHED, 504, "upstream_timeout", "did not answer in time"),
        (UpstreamTimeout("read", 1), Kind.TIMED_OUT, 504, "upstream_timeout", "did not answer in time"),
        (ProtocolError("x"), Kind.INVALID_RESPONSE, 502, "upstream_invalid_response", "makes no sense"),
        (AnswerTooLarge("x"), Kind.INVALID_RESPONSE, 502, "upstream_invalid_response", "makes no sense"),
        (ModelFailed("x"), Kind.MODEL_FAILED, 502, "upstream_invalid_response", "cannot be used"),
        (PoolBusy("x"), Kind.BUSY, 503, "overloaded", "are busy"),
        (ConnectError("x"), Kind.UNREACHED, 502, "upstream_unavailable", "cannot be reached"),
        (ConnectionLost("x"), Kind.LOST, 502, "upstream_unavailable", "broke off before it answered"),
    ],
)
def test_an_answer_that_did_not_come_is_told_by_how_it_was_lost(
    error: UpstreamError, kind: Kind, status: int, code: str, message: str
) -> None:
    found = failure(error)
    assert (found.kind, found.status, found.error.status, found.error.code) == (kind, 0, status, code)
    assert message in found.error.message
    assert found.why == str(error)
    assert found.error.headers.get("retry-after") == ("1" if kind is Kind.BUSY else None)


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({}, Kind.INVALID_RESPONSE),
        ({"inputs": 2}, Kind.INVALID_RESPONSE),
        ({"choices": 2}, Kind.REJECTED),
        ({"fields": {"logprobs": b"true"}}, Kind.REJECTED),
        ({"endpoint": "embeddings"}, Kind.INVALID_RESPONSE),
        ({"endpoint": "embeddings", "choices": 2}, Kind.INVALID_RESPONSE),
        ({"endpoint": "embeddings", "inputs": 2}, Kind.REJECTED),
    ],
)
def test_an_answer_is_too_large_by_the_request_or_by_the_provider(asked: Any, kind: Kind) -> None:
    found = failure(AnswerTooLarge("the answer is too large"), asked=asked)
    assert (found.kind, found.why) == (kind, "the answer is too large")
    if kind is Kind.REJECTED:
        assert (found.error.status, found.error.code) == (400, "answer_too_large")
    assert failure(ConnectionLost("cut off"), asked=asked).kind is Kind.LOST


def test_what_we_refuse_to_send_is_passed_on_as_it_is() -> None:
    wrong, cannot = InvalidRequest("wrong"), UnsupportedField("cannot")
    assert failure(wrong) == Failure(Kind.REJECTED, wrong)
    assert failure(cannot) == Failure(Kind.UNSUPPORTED, cannot)
