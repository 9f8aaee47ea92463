"""The one tree of errors.

TollbridgeError
├── ApiError                    a request cannot be answered; knows its HTTP status, type and code
│   ├── InvalidRequest          400  the caller's mistake; `param` names the field
│   │   ├── CostCapExceeded     400
│   │   ├── ContextTooLong      400
│   │   ├── KeyReused           422  idempotency_key_reused
│   │   ├── ThreadUnsupported   400  what Anthropic's clients read as: send the whole conversation
│   │   └── UnsupportedField    400  another route may be able to do it
│   ├── InvalidApiKey           401
│   ├── PaymentRequired         402  insufficient_credits, in_flight_budget_exhausted, key_limit_exceeded
│   ├── Forbidden               403  account_frozen, model_not_allowed, email_not_verified
│   ├── NotFound                404  model_not_found, unknown path
│   ├── MethodNotAllowed        405
│   ├── RequestTimedOut         408  the caller was too slow to send
│   ├── Conflict                409  idempotency_in_progress, idempotency_answer_not_kept
│   ├── PayloadTooLarge         413
│   ├── UnsupportedMediaType    415
│   ├── RateLimited             429
│   ├── HeadersTooLarge         431
│   ├── InternalError           500
│   ├── UpstreamFailed          502  upstream_unavailable, upstream_invalid_response, upstream_auth
│   ├── Unavailable             503  no_available_provider, ledger_unavailable, overloaded
│   └── UpstreamTimedOut        504
├── UpstreamError               a call to a provider went wrong (never shown as it is: gateway.relay decides)
│   ├── ConnectError            no connection: nothing was sent, so another try is safe
│   ├── PoolBusy                the upstream's connection limit and queue are full, or ours: nothing was sent
│   │   └── RoomElsewhere       … and the call need not wait, because another upstream has room for it
│   ├── UpstreamTimeout         connect, first_byte, gap or total (`kind` says which)
│   ├── ConnectionLost          the peer closed or reset before the answer was whole
│   ├── ProtocolError           what came back makes no sense (framing, caps, encodings, shape)
│   │   └── AnswerTooLarge      more bytes than are read of an answer
│   ├── ModelFailed             it answered, and what the model wrote cannot be used (in wire.errors)
│   └── UpstreamSaid            it answered, and its answer is an error (in wire.errors, which reads it)
├── ClientGone                  the caller hung up: nobody is left to answer
└── ConfigError                 the operator's mistake; the message says where it is and what would be right

A message is safe to show: it holds no secret, and of a provider's text only what wire.errors has redacted.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Otherwise = TypeVar("Otherwise")


class TollbridgeError(Exception):
    """Anything that Tollbridge itself raises."""


class ApiError(TollbridgeError):
    """An answer that is an error: `{"error": {message, type, param, code}, "detail": message}`.

    `headers` are sent as they are; `extra` is merged into the top level of the body, its values being JSON already
    (`{"balance_usd": b"0.25"}`), so that money is still printed from integers.
    """

    status: int = 500
    type: str = "api_error"
    code: str = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, bytes] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if status is not None:
            self.status = status
        if code is not None:
            self.code = code
        self.param = param
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})


class InvalidRequest(ApiError):
    """`others`: what is wrong with more fields of the same form (`Faults`)."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request_error"
    others: "Sequence[InvalidRequest]" = ()


class Faults:
    """Goes on to the next field after a wrong one, so that somebody who fills in a form is told of all at once.

    At its end, a `with` block raises what was found in it: the first, with the `others`.
    """

    def __init__(self) -> None:
        self._found: dict[str | None, InvalidRequest] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None and self._found:
            first, *others = self._found.values()
            first.others = others
            raise first

    def of(self, otherwise: Otherwise, check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Otherwise:
        """What `check` says of these arguments; `otherwise`, to go on with, if it raises `InvalidRequest`."""
        try:
            return check(*args, **kwargs)
        except InvalidRequest as error:
            for each in (error, *error.others):
                # Of one field, the first: what could not be read is not too small besides.
                self._found.setdefault(each.param, each)
            return otherwise

    def add(self, message: str, param: str) -> None:
        self._found.setdefault(param, InvalidRequest(message, param=param))


class CostCapExceeded(InvalidRequest):
    code = "cost_cap_exceeded"


class KeyReused(InvalidRequest):
    status = 422
    code = "idempotency_key_reused"


class ContextTooLong(InvalidRequest):
    code = "context_length_exceeded"


class ThreadUnsupported(InvalidRequest):
    """Anthropic's word, as `details.error_code`: its SDKs and Claude Code then send whole conversations."""

    code = "thread_unsupported_request"


class UnsupportedField(InvalidRequest):
    """A field that this route's provider cannot serve; another route may be able to."""


class InvalidApiKey(ApiError):
    """In OpenAI's own words: clients look for "Incorrect API key provided"."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class PaymentRequired(ApiError):
    status = 402
    type = "insufficient_quota"
    code = "insufficient_credits"


class Forbidden(ApiError):
    status = 403
    type = "permission_error"
    code = "account_frozen"


class NotFound(ApiError):
    status = 404
    type = "invalid_request_error"
    code = "not_found"


class MethodNotAllowed(ApiError):
    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class RequestTimedOut(ApiError):
    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class Conflict(ApiError):
    status = 409
    type = "invalid_request_error"
    code = "idempotency_in_progress"


class PayloadTooLarge(ApiError):
    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class UnsupportedMediaType(ApiError):
    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class RateLimited(ApiError):
    """`type` says what ran out: requests, tokens, concurrency or insufficient_quota."""

    status = 429
    type = "requests"
    code = "rate_limit_exceeded"


class HeadersTooLarge(ApiError):
    status = 431
    type = "invalid_request_error"
    code = "headers_too_large"


class InternalError(ApiError):
    status = 500
    type = "server_error"
    code = "internal_error"


class UpstreamFailed(ApiError):
    status = 502
    type = "upstream_error"
    code = "upstream_unavailable"


class Unavailable(ApiError):
    """`Retry-After` is always set. As a status, it means that nothing was charged."""

    status = 503
    type = "server_error"
    code = "overloaded"

    def __init__(
        self, message: str, *, status: int | None = None, code: str | None = None, retry_after: int = 2
    ) -> None:
        super().__init__(message, status=status, code=code, headers={"retry-after": str(retry_after)})


class UpstreamTimedOut(ApiError):
    status = 504
    type = "upstream_error"
    code = "upstream_timeout"


class UpstreamError(TollbridgeError):
    """A call to a provider went wrong."""


class ConnectError(UpstreamError):
    pass


class PoolBusy(UpstreamError):
    pass


class RoomElsewhere(PoolBusy):
    pass


class UpstreamTimeout(UpstreamError):
    def __init__(self, kind: str, seconds: float) -> None:
        super().__init__(f"upstream {kind} time-out after {seconds:g} s")
        self.kind = kind


class ConnectionLost(UpstreamError):
    pass


class ProtocolError(UpstreamError):
    pass


class AnswerTooLarge(ProtocolError):
    pass


class ClientGone(TollbridgeError):
    pass


class ConfigError(TollbridgeError):
    pass
