"""The payment processor's webhook: raw ASGI, because the rules of pages (session, CSRF, host) do not apply to it."""

from collections.abc import Awaitable, Callable
from typing import Any

from tollbridge.payments.webhook import MOST_BODY

PATH = "/webhooks/stripe"
_HEADER = b"stripe-signature"

# (value of Stripe-Signature, raw body) → HTTP status
Receive = Callable[[str, bytes], Awaitable[int]]


class Webhooks:
    """Answers `PATH`. 404: no processor is configured; 400: the event is not from it; 503: send it again."""

    def __init__(self, take: Receive) -> None:
        self._take = take

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] != "POST":
            await _answer(send, 405, [(b"allow", b"POST")])
            return
        body = await _body(receive)
        if body is None:
            await _answer(send, 413)
            return
        found = [value for name, value in scope["headers"] if name == _HEADER]
        # Two headers count as none: somebody on the way could have added one.
        signature = found[0].decode("latin-1") if len(found) == 1 else ""
        await _answer(send, await self._take(signature, body))


async def _body(receive: Any) -> bytes | None:
    """The whole body; None: it is larger than any event, or the sender has gone."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        size += len(message.get("body", b""))
        if size > MOST_BODY:
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _answer(send: Any, status: int, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    body = b'{"received":true}' if status == 200 else b"{}"
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *(headers or ())]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
