"""Errors in both directions: ours, as OpenAI's clients read them, and a provider's, as this gateway reads them.

A provider's words reach a caller only if they are about a mistake in the caller's own request (400, 404, 413, 422 …),
and then only what `redact` leaves: no credential, address, host or account of the operator.
"""

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Raw

from tollbridge.errors import ApiError, ProtocolError, UpstreamError
from tollbridge.wire.exchange import Headers
from tollbridge.wire.openai_reply import read_any

# `speakeasy-sdk/typescript 1.3.19 2.914.0 1.0.0 @openrouter/sdk`
_OPENROUTERS_SDK = re.compile(rb"speakeasy-sdk/.*\bopenrouter\b")
# `ai/7.0.173 ai-sdk-openai/4.0.118 runtime/node.js/22`, with a `/` before version 4
_VERCELS_OPENAI = re.compile(rb"(.*\s)?ai-sdk[-/]openai/")

MAX_RETRY_AFTER_S = 60.0
MAX_MESSAGE = 300
# The `code` of a 404 that is about the request: this provider's model cannot do what it asks for.
NONE_CAN = "unsupported_by_provider"


class UpstreamSaid(UpstreamError):
    """The provider answered, and its answer is an error.

    `status`: what it means, as an HTTP status: 401 for a credential that is not accepted (even if the provider said
    400), 402 for an account without credit (even if it said 429). `message`: safe to show. `param`, `code`: short
    identifiers, if given. `retry_after`: seconds, at most 60.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after


class ModelFailed(UpstreamError):
    """The provider is well, but what the model wrote cannot be used, such as a call of a tool that is no JSON."""


class _Details(msgspec.Struct):
    """An error object of any kind: OpenAI-like, Anthropic's, Gemini's, FastAPI's, or a bare string."""

    message: str = ""
    type: str = ""
    code: str = ""
    param: str | None = None
    status: int | None = None
    retry_after: float | None = None


def members(error: ApiError, asked: Headers = ()) -> dict[str, Any]:
    """The top-level members of an error's body. `error` has all four keys, as in OpenAI's schema.

    `asked`: the request's headers, which tell whose client reads it. OpenRouter's SDKs read a `code` only if it is the
    status, and without it none of the error. Ours is then beside it, for whole answers and for events of a stream.
    """
    said: dict[str, Any] = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    if any(name == b"user-agent" and is_openrouters(value) for name, value in asked):
        said |= {"code": error.status, "metadata": {"code": error.code, "error_type": error.code}}
    return {"error": said, "detail": error.message, **{name: Raw(value) for name, value in error.extra.items()}}


def render(error: ApiError, asked: Headers = ()) -> bytes:
    """The body of an error. `asked`: as of `members`."""
    return msgspec.json.encode(members(error, asked))


def repeated(error: ApiError, asked: Headers) -> bytes:
    """The event that follows a chunk of chat with an error, for Vercel's client of OpenAI, and nothing for others: it
    reads an error only in an event without choices, as OpenAI sends it, and would take the answer for a whole one.
    """
    if not any(name == b"user-agent" and _VERCELS_OPENAI.match(value) for name, value in asked):
        return b""
    return b"data: " + msgspec.json.encode(members(error)) + b"\n\n"


def is_openrouters(agent: bytes) -> bool:
    """Whether a `User-Agent` is that of an SDK of OpenRouter's."""
    return _OPENROUTERS_SDK.match(agent) is not None


def classify(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes, now: float) -> UpstreamSaid:
    """What an answer that is not a 200 means. Header names are lower-case; `now` is epoch seconds."""
    details = _details(body)
    given = dict(headers)
    retry_after = _milliseconds(given.get(b"retry-after-ms"))
    if retry_after is None:
        retry_after = _retry_after(given.get(b"retry-after"), now)
    if retry_after is None:
        retry_after = details.retry_after
    return _said(status, details, retry_after)


def words(body: bytes) -> str:
    """The provider's own words in an error, for the operator; "" if there are none."""
    return redact(_details(body).message)


def said_in(error: Any) -> UpstreamSaid:
    """What an error object means that came with a 200, in a stream or instead of an answer."""
    details = _read({"error": error})
    return _said(details.status or _status_of(details), details, details.retry_after)


def said_beside(base_resp: Any) -> UpstreamSaid | None:
    """What MiniMax's `base_resp` means, which comes with every 200; None: all is well."""
    code = base_resp.get("status_code") if isinstance(base_resp, dict) else None
    if not isinstance(code, int) or not code:
        return None
    word = "content_filter" if code in _FILTERED_BY_MINIMAX else ""
    return _said(
        _STATUS_OF_MINIMAX.get(code, 502), _Details(message=_text(base_resp.get("status_msg")), code=word), None
    )


def _details(body: bytes) -> _Details:
    try:
        return _read(read_any(body))
    except ProtocolError:
        return _Details()


def _said(status: int, details: _Details, retry_after: float | None) -> UpstreamSaid:
    status = _meaning(status, details)
    if retry_after is not None:
        retry_after = min(retry_after, MAX_RETRY_AFTER_S)
    if not 400 <= status < 500 or status in _NOT_FOR_CALLERS:
        return UpstreamSaid(status, f"The provider answered with status {status}.", retry_after=retry_after)
    message = redact(details.message) or f"The provider refused the request with status {status}."
    code = "context_length_exceeded" if _is_too_long(details) else _identifier(details.code)
    if status == 404 and _NONE_CAN.match(message):
        message, code = message.partition(" To learn more")[0], NONE_CAN
    return UpstreamSaid(status, message, param=_identifier(details.param), code=code, retry_after=retry_after)


# --- What it means ---

# These concern only the provider and the operator.
_NOT_FOR_CALLERS = frozenset({401, 402, 403, 407, 408, 429})

_OUT_OF_CREDIT = frozenset(
    {
        *("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance"),
        *("billing_error", "credit_balance_too_low", "exceeded_current_quota_error", "1113"),
        *("Arrearage", "AccountOverdue", "AccountOverdueError"),
        *("insufficient_user_quota", "pre_consume_token_quota_failed"),  # another gateway: one-api, new-api
    }
)
_NO_CREDIT_TEXT = re.compile(
    r"credit balance is too low|credits are depleted|insufficient (balance|credit|quota)"
    r"|account balance is insufficient|specified API usage limits|run out of credits"
    r"|(used all available credits|reach(ed|ing) (its|the) monthly spending limit)|(余额|额度)(不足|已用尽)",
    re.IGNORECASE,
)
# An error about a request may repeat what its caller sent, whose words must not shut a provider for everybody: there
# only these beginnings count, and nothing in a complaint about a field, which can begin with the field's name.
_NO_CREDIT_SENTENCE = re.compile(
    r"(sorry, )?(insufficient (account )?(balance|credits?|quota)\b|you have (reached|run out)"
    r"|your ((account|credit) balance is|(prepayment )?credits are|team \S+ has either used)\b"
    r"|account \S+ is suspended, possibly\b|[\[\w*\]-]{0,64}\s?(余额|额度))",
    re.IGNORECASE,
)
_ABOUT_A_FIELD = re.compile(
    r"(extra inputs|not permitted|not allowed|unknown|unrecognized|unexpected|unsupported|invalid|supported values)\b",
    re.IGNORECASE,
)
# No caller chooses the provider's name of a model.
_UNKNOWN_MODEL = frozenset(
    {"model_not_found", "model_decommissioned", "model_not_supported", "invalid_model", "unknown_model", "1211"}
)
_UNKNOWN_MODEL_TEXT = re.compile(
    r"model not exist|the provided model identifier is invalid|\S+ is not a valid model id"
    r"|the model \S+ (does not exist|has been (decommissioned|deprecated|retired))",
    re.IGNORECASE,
)
# OpenRouter, of a model that it knows: nobody there who serves it can do what was asked for.
_NONE_CAN = re.compile(r"No endpoints found that (support|can handle)\b")
_BAD_KEY = re.compile(
    r"\b(incorrect|invalid|no|missing|expired) (x-)?api[ _-]?key|api[ _-]?key (not valid|is invalid|expired|not found)"
    r"|API_KEY_INVALID|invalid_api_key|InvalidApiKey|invalid_authentication|authentication_error|UNAUTHENTICATED",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"context[ _](length|window)|maximum context|(prompt|input) is too long|too[ _]many[ _]((input|prompt)[ _])?tokens"
    r"|exceeds the available context|exceed(s|ed)? (the )?(maximum( number of)?|model'?s?) (input|context|token)",
    re.IGNORECASE,
)
_STATUS_OF_WORD = {
    "rate_limit": 429,
    "resource_exhausted": 429,
    "overloaded": 529,
    "unavailable": 503,
    "timeout": 504,
    "deadline_exceeded": 504,
    "invalid_request": 400,
    "invalid_argument": 400,
    "tool_use_failed": 400,
    "content_filter": 400,
    "authentication": 401,
    "permission": 403,
    "not_found": 404,
    "too_large": 413,
}

# platform.minimax.io/docs/api-reference/errorcode; 2026-11
_FILTERED_BY_MINIMAX = frozenset({1026, 1027})
_STATUS_OF_MINIMAX = {
    1001: 504,
    **dict.fromkeys((1002, 1039, 1041, 2045, 2056), 429),
    **dict.fromkeys((1004, 2049), 401),
    1008: 402,
    **dict.fromkeys((1026, 1027, 1042, 2013), 400),
    2061: 404,  # not in the account's plan
}


def _meaning(status: int, details: _Details) -> int:
    words = {details.code, details.type}
    if status in _MAY_MEAN_NO_CREDIT and (words & _OUT_OF_CREDIT or _says_no_credit(status, details.message)):
        return 402
    if status == 400 and _BAD_KEY.search(f"{details.code} {details.type} {details.message}"):
        return 401
    if status == 400 and details.type == "FAILED_PRECONDITION":
        return 403  # Gemini: the account's country, or its billing (ai.google.dev/gemini-api/docs/troubleshooting)
    if status == 400 and (words & _UNKNOWN_MODEL or _UNKNOWN_MODEL_TEXT.match(details.message)):
        return 404
    return 404 if status in _NOT_THERE else status


# 412: Fireworks, of an account that is suspended.
_MAY_MEAN_NO_CREDIT = frozenset({400, 401, 403, 412, 429, 502})
# No such path below the base URL; the model was taken out of service (NVIDIA).
_NOT_THERE = frozenset({405, 410})


def _says_no_credit(status: int, message: str) -> bool:
    if not _NO_CREDIT_TEXT.search(message):
        return False
    if status in (401, 403, 429):
        return True
    return bool(_NO_CREDIT_SENTENCE.match(message)) and not _ABOUT_A_FIELD.search(message)


def _is_too_long(details: _Details) -> bool:
    return _TOO_LONG.search(f"{details.type} {details.code} {details.message}") is not None


def _status_of(details: _Details) -> int:
    words = f"{details.type} {details.code}".lower()
    return next((status for word, status in _STATUS_OF_WORD.items() if word in words), 502)


# --- Reading ---


def _read(document: Any) -> _Details:
    if isinstance(document, list) and document:  # Gemini without alt=sse
        document = document[0]
    if not isinstance(document, dict):
        return _Details(message=document if isinstance(document, str) else "")
    error = document.get("error", document)
    if isinstance(error, str):
        return _Details(message=error, code=_text(document.get("code")))
    if not isinstance(error, dict):
        return _Details()
    code = error.get("code")
    return _Details(
        message=_text(error.get("message") or error.get("msg") or error.get("detail")),
        type=_text(error.get("type") or error.get("status")),
        code=_text(code),
        param=_text(error.get("param")) or None,
        status=code if isinstance(code, int) and 400 <= code < 600 else None,
        retry_after=_retry_delay(error.get("details")),
    )


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str | int) else ""


def _retry_delay(details: Any) -> float | None:
    """Gemini has no Retry-After, but `{"@type": "…RetryInfo", "retryDelay": "34.4s"}` among the details."""
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and isinstance(delay := detail.get("retryDelay"), str):
            return _seconds(delay.removesuffix("s"))
    return None


_NUMBER = re.compile(r"\d{1,30}(\.\d{1,30})?([eE]\+?\d{1,3})?", re.ASCII)
_DATE = re.compile(r"[A-Z][a-z]{2}, (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT", re.ASCII)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _seconds(text: str) -> float | None:
    value = float(text) if _NUMBER.fullmatch(text) else math.inf
    return min(value, MAX_RETRY_AFTER_S) if math.isfinite(value) else None


def _milliseconds(value: bytes | None) -> float | None:
    text = (value or b"").decode("latin-1").strip()
    return float(text) / 1000 if _NUMBER.fullmatch(text) and math.isfinite(float(text)) else None


def _retry_after(value: bytes | None, now: float) -> float | None:
    """Seconds from a Retry-After header: a number, or an HTTP date (RFC 9110, 5.6.7); None if it is neither."""
    text = (value or b"").decode("latin-1").strip()
    date = _DATE.fullmatch(text)
    if date is None:
        return _seconds(text)
    day, month, year, hour, minute, second = date.groups()
    try:
        number = _MONTHS.index(month) + 1
        until = datetime(int(year), number, int(day), int(hour), int(minute), int(second), tzinfo=UTC)
    except ValueError:
        return None
    return min(MAX_RETRY_AFTER_S, max(0.0, until.timestamp() - now))


# --- Redacting ---

_HIDDEN = "[…]"
_SECRETS = re.compile(
    r"""
      \b[a-z][a-z0-9+.-]{1,15}://\S+                                        # addresses
    | [\w.+-]{1,64}@[\w-]{1,63}(\.[\w-]{1,63})+                             # mail addresses
    | \b(bearer|basic)\s+[\w.+/=~-]{8,}                                    # credentials that say so …
    | \b(api[ _-]?key|access[ _-]?token|secret|password|authorization)\b["']?\s*[:=]\s*\S+
    | \b(sk|pk|rk|gsk|xai|hf|nvapi|ghp|whsec|pplx|fw|tgp|r8|key|AQ)[-_.][\w*-]{6,}           # … or look like it
    | \b(AIza|AKIA|ASIA)[\w-]{12,}
    | \b(org|proj|req)[-_][A-Za-z0-9]{6,}
    | \b(organization|project|request|acct|account|user|team|ws|workspace)[-_](?=\w*\d)\w{6,}
    | \b\d{1,3}(\.\d{1,3}){3}(:\d+)?\b                                      # hosts
    | \[?[0-9a-f]{0,4}(:[0-9a-f]{0,4}){3,7}\]?(:\d+)?
    | \blocalhost(:\d+)?\b
    | \b([a-z0-9_-]{1,63}\.){1,9}(com|net|org|io|ai|cn|dev|app|cloud|co|eu|de|us|uk|fr|jp|kr|ru|in|sh|so|xyz|gg|me
        |tech|info|local|localdomain|internal|intranet|lan|svc|corp|home|test|invalid)\b(:\d+)?(/\S*)?
    | \b(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[A-Za-z0-9_-]{24,}                    # whatever is long and random
    """,
    re.IGNORECASE | re.VERBOSE,
)
_IDENTIFIER = re.compile(r"[A-Za-z_][\w.\[\]-]{0,63}", re.ASCII)


def redact(message: str) -> str:
    """A provider's message without anything of the operator's, in one line of at most `MAX_MESSAGE` characters."""
    visible = "".join(char if char.isprintable() else " " for char in message[: MAX_MESSAGE * 4])
    line = _SECRETS.sub(_HIDDEN, " ".join(visible.split()))
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1].rstrip() + "…"


def _identifier(text: str | None) -> str | None:
    return text if text and _IDENTIFIER.fullmatch(text) and redact(text) == text else None
