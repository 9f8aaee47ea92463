"""Calls to Stripe's HTTP API: the key, the version, retries, paged lists, and what a refusal means.

Rule 1  A call that changes something carries an Idempotency-Key made of our own ids, or sets what may be set twice:
        repeated, it is the same call.
Rule 2  Stripe's texts stay here: what is shown is ours, what is stored is one of their codes.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from tollbridge.core.money import NANO_PER_CENT
from tollbridge.payments.base import ProcessorRefused, ProcessorUnavailable

if TYPE_CHECKING:
    import httpx2

API_VERSION = "2026-10-28.endive"
BASE_URL = "https://api.stripe.com"
TRIES = 3
TIMEOUT_S = 10.0
_PAUSE_S = 0.2
_PAGE = 100
_MOST_PAGES = 200
_CODE = re.compile(r"[a-z_]{1,60}")

T = TypeVar("T")


class Listed(msgspec.Struct, frozen=True):
    """A page of a list, its objects not decoded yet."""

    data: list[msgspec.Raw]
    has_more: bool = False


class _Error(msgspec.Struct, frozen=True):
    code: str | None = None
    decline_code: str | None = None
    type: str | None = None


class _Failure(msgspec.Struct, frozen=True):
    error: _Error


class _Named(msgspec.Struct, frozen=True):
    id: str


class StripeApi:
    """One Stripe account's API. All calls raise ProcessorUnavailable (it is unknown whether it happened) or
    ProcessorRefused (it did not)."""

    def __init__(self, secret_key: str, base_url: str) -> None:
        self._key = secret_key
        self._base_url = base_url
        self._client: httpx2.AsyncClient | None = None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def get(self, path: str, expand: Sequence[str], type_: type[T]) -> T:
        return _read(await self._call("GET", path, {"expand": expand}), type_)

    async def post(self, path: str, params: Mapping[str, Any], once: str | None, type_: type[T]) -> T:
        return _read(await self._call("POST", path, params, once), type_)

    async def delete(self, path: str, type_: type[T]) -> T:
        return _read(await self._call("DELETE", path, {}), type_)

    async def listed(self, path: str, params: Mapping[str, Any], type_: type[T]) -> list[T]:
        """The whole list, newest first."""
        found: list[T] = []
        last: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            page = _read(await self._call("GET", path, {**params, **last, "limit": _PAGE}), Listed)
            found += [_read(bytes(each), type_) for each in page.data]
            if not page.has_more or not page.data:
                return found
            last = {"starting_after": _read(bytes(page.data[-1]), _Named).id}
        raise ProcessorUnavailable

    async def _call(self, method: str, path: str, params: Mapping[str, Any], once: str | None = None) -> bytes:
        """One call, retried while Stripe is unreachable: by Rule 1 a repetition is the same call."""
        import httpx2

        headers = {"idempotency-key": once} if once is not None else {}
        form = dict(_flat(params))
        sent: dict[str, Any] = {"params": form} if method != "POST" else {"data": form}
        for attempt in range(1, TRIES + 1):
            try:
                answer = await self._opened().request(method, path, headers=headers, **sent)
            except httpx2.HTTPError as error:
                if attempt == TRIES:
                    raise ProcessorUnavailable from error
            else:
                if answer.status_code < 300:
                    return answer.content
                if not _may_pass(answer.status_code, answer.headers.get("stripe-should-retry")):
                    raise _refusal(answer.status_code, answer.content)
            if attempt < TRIES:
                await asyncio.sleep(_PAUSE_S * 4 ** (attempt - 1))
        raise ProcessorUnavailable

    def _opened(self) -> "httpx2.AsyncClient":
        # Imported with the first call: 130 ms and 18 MB that a gateway without payments never pays.
        import httpx2

        if self._client is None:
            self._client = httpx2.AsyncClient(
                base_url=self._base_url,
                timeout=TIMEOUT_S,
                trust_env=False,
                headers={"authorization": f"Bearer {self._key}", "stripe-version": API_VERSION},
            )
        return self._client


def cents(amount: int) -> int:
    """Cents from nano-USD. ValueError: it is not a whole number of cents."""
    whole, rest = divmod(amount, NANO_PER_CENT)
    if rest:
        raise ValueError("what is paid is a whole number of cents")
    return whole


def nano(amount: int) -> int:
    return amount * NANO_PER_CENT


def safe(id_: str) -> str:
    """An id that is safe within a path. ProcessorRefused (404): it is not an id of Stripe's."""
    if re.fullmatch(r"[A-Za-z0-9_]{1,255}", id_) is None:
        raise ProcessorRefused("that is no id of Stripe's", "resource_missing", status=404)
    return id_


def _flat(params: Mapping[str, Any], within: str = "") -> Any:
    """Stripe's form encoding: `a[b][0]=c`."""
    for name, value in params.items():
        key = f"{within}[{name}]" if within else name
        if isinstance(value, Mapping):
            yield from _flat(value, key)
        elif isinstance(value, list | tuple):
            yield from _flat({str(index): each for index, each in enumerate(value)}, key)
        elif value is not None:
            yield key, str(value).lower() if isinstance(value, bool) else str(value)


def _read(body: bytes, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ProcessorUnavailable from error


def _may_pass(status: int, advice: str | None) -> bool:
    """Whether the same call may succeed later (https://docs.stripe.com/error-low-level)."""
    if advice in {"true", "false"}:
        return advice == "true"
    return status in {408, 409, 425, 429} or status >= 500


def _refusal(status: int, body: bytes) -> Exception:
    if status >= 500 or status in {401, 403, 429}:
        return ProcessorUnavailable()
    try:
        error = msgspec.json.decode(body, type=_Failure).error
    except (msgspec.MsgspecError, UnicodeError):
        return ProcessorUnavailable()
    code = error.decline_code or error.code or error.type or ""
    declined = status == 402
    message = "The card was declined." if declined else "The payment processor refused this."
    return ProcessorRefused(message, code if _CODE.fullmatch(code) else "", status=status)
