"""Answers for callers who speak Anthropic's Messages: whole, as a stream of events, and as errors.

Rule 1  Blocks come one after another, each closed before the next is opened. Text and thoughts are told apart by kind,
        calls by number. If pieces of several calls come mixed, one call is written and the others wait until its
        arguments are whole, because most clients lose what comes after the end of a block.
Rule 2  Another dialect's proof goes out as a signature or as redacted thinking, which clients keep unread and send back
        (`anthropic_conversation.sealed`).
Rule 3  What was read is estimated in `message_start`, when nobody knows better yet; `message_delta` has the counts that
        are charged, and the money.
"""

from typing import Any

import msgspec
from msgspec import Raw

from tollbridge.errors import ApiError, ThreadUnsupported
from tollbridge.values import Usage
from tollbridge.wire.anthropic_conversation import sealed
from tollbridge.wire.anthropic_reply import arguments
from tollbridge.wire.anthropic_usage import counts
from tollbridge.wire.conversation import (
    Choice,
    Citation,
    Cited,
    Drawn,
    Event,
    Image,
    Part,
    Reason,
    Refusal,
    RefusalDelta,
    Reply,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ThinkingEnd,
    ToolCall,
    ToolDelta,
    ToolStart,
)
from tollbridge.wire.dialect import Tail
from tollbridge.wire.exchange import Headers, Names, Receipt
from tollbridge.wire.prompt import Prompt
from tollbridge.wire.request import Request
from tollbridge.wire.sse import LF
from tollbridge.wire.usage import money

MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

_STOP_REASONS: dict[Reason, str] = {
    "stop": "end_turn",
    "stop_sequence": "stop_sequence",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "paused": "pause_turn",
    "refused": "refusal",
    "filtered": "refusal",
}
# A status that is not listed is read by its first digit: 4xx is the caller's mistake, 5xx ours.
_ERRORS = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
# Members that Anthropic's schema requires in a whole answer's usage.
_UNKNOWN = dict.fromkeys(
    ("cache_creation", "inference_geo", "output_tokens_details", "server_tool_use", "service_tier")
)
_BYTES_PER_TOKEN = 4
_TOKENS_PER_IMAGE = 1_600
_encode = msgspec.json.encode


class AnthropicClient:
    """See `dialect.Client`."""

    def render(self, request: Request, names: Names, reply: Reply, receipt: Receipt | None) -> bytes:
        choice = reply.choices[0] if reply.choices else Choice(parts=(), reason="stop")
        fields: dict[str, Any] = {
            "id": names.id,
            "type": "message",
            "role": "assistant",
            "model": names.model,
            "content": [block for part in choice.parts for block in _blocks(part)],
            "stop_reason": _STOP_REASONS[choice.reason],
            "stop_sequence": choice.stop_sequence,
            "stop_details": None,
            "container": None,
        }
        refusals = [part.text for part in choice.parts if isinstance(part, Refusal)]
        if choice.reason in ("refused", "filtered"):
            fields["stop_details"] = _stop_details("".join(refusals))
        fields["usage"] = _UNKNOWN | _usage(reply.usage, receipt)
        return _encode(fields)

    def writer(self, request: Request, names: Names) -> "AnthropicWriter":
        return AnthropicWriter(request, names)


class AnthropicWriter:
    """See `dialect.Writer`."""

    def __init__(self, request: Request, names: Names) -> None:
        self._request = request
        self._names = names
        self._is_started = False
        self._index = -1  # of the last block
        self._open = ""  # its kind: text, thinking, tool, or "" when it is closed
        self._tools: dict[int, int] = {}  # number of a call → its block
        self._call = -1  # number of the last one
        self._arguments: list[str] = []  # of it, so far
        self._waiting: list[ToolStart | ToolDelta] = []
        self._refusal: list[str] = []

    def write(self, events: list[Event]) -> bytes:
        out: list[bytes] = []
        if not self._is_started:
            out.append(self._start())
        for event in events:
            if event.choice == 0:
                self._write(event, out)
        return b"".join(out)

    def end(self, tail: Tail) -> bytes:
        out: list[bytes] = []
        if not self._is_started:
            out.append(self._start())
        self._write_waiting(out, to_the_end=True)
        self._close(out)
        finish = next((each for each in tail.finishes if each.choice == 0), tail.finishes[0])
        delta: dict[str, Any] = {
            "stop_reason": _STOP_REASONS[finish.reason],
            "stop_sequence": finish.stop_sequence,
        }
        if finish.reason in ("refused", "filtered"):
            delta["stop_details"] = _stop_details("".join(self._refusal))
        out.append(message_delta(delta, _usage(tail.usage, tail.receipt), tail.detail))
        out.append(MESSAGE_STOP)
        return b"".join(out)

    def fail(self, error: ApiError, asked: Headers = ()) -> bytes:
        return error_event(error)

    def _start(self) -> bytes:
        self._is_started = True
        message: dict[str, Any] = {
            "id": self._names.id,
            "type": "message",
            "role": "assistant",
            "model": self._names.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": counts(Usage(input=_estimate(self._request.prompt()))),
        }
        return event_of(b"message_start", _encode({"type": "message_start", "message": message}))

    def _write(self, event: Event, out: list[bytes]) -> None:
        if self._waiting and not isinstance(event, ToolStart | ToolDelta):
            self._write_waiting(out, to_the_end=True)
        if isinstance(event, TextDelta):
            self._text(event.text, out)
        elif isinstance(event, ToolStart | ToolDelta):
            self._tool(event, out)
        elif isinstance(event, ThinkingDelta):
            self._open_thinking(out)
            out.append(_delta(self._index, b'"thinking_delta","thinking":%b' % _encode(event.text)))
        elif isinstance(event, ThinkingEnd):
            self._end_thinking(event, out)
        elif isinstance(event, RefusalDelta):
            self._refusal.append(event.text)
            self._text(event.text, out)
        elif isinstance(event, Drawn):
            self._open_block("image", _encode(_picture(event.image)), out)
            self._close(out)
        elif isinstance(event, Cited):
            if self._open != "text":
                self._open_block("text", b'{"type":"text","text":""}', out)
            out.append(_delta(self._index, b'"citations_delta","citation":%b' % _encode(_citation(event.citation))))

    def _text(self, text: str, out: list[bytes]) -> None:
        if self._open != "text":
            self._open_block("text", b'{"type":"text","text":""}', out)
        out.append(_delta(self._index, b'"text_delta","text":%b' % _encode(text)))

    def _open_thinking(self, out: list[bytes]) -> None:
        if self._open != "thinking":
            self._open_block("thinking", b'{"type":"thinking","thinking":"","signature":""}', out)

    def _end_thinking(self, event: ThinkingEnd, out: list[bytes]) -> None:
        if event.redacted:
            block = {"type": "redacted_thinking", "data": sealed(event.origin, event.redacted)}
            self._open_block("redacted", _encode(block), out)
        elif event.signature:
            self._open_thinking(out)
            signature = _encode(sealed(event.origin, event.signature))
            out.append(_delta(self._index, b'"signature_delta","signature":%b' % signature))
        self._close(out)

    def _tool(self, event: ToolStart | ToolDelta, out: list[bytes]) -> None:
        if isinstance(event, ToolDelta) and event.index == self._call:
            self._add_arguments(event, out)
            if self._waiting:
                self._write_waiting(out)
        elif self._waiting or (self._open == "tool" and isinstance(event, ToolStart) and not self._is_call_whole()):
            self._waiting.append(event)
        elif isinstance(event, ToolStart):
            self._start_tool(event, out)
        elif event.index in self._tools:
            self._add_arguments(event, out)

    def _write_waiting(self, out: list[bytes], *, to_the_end: bool = False) -> None:
        """Write the waiting calls in order, as long as the one before is whole; all of them if nothing follows."""
        while self._waiting and (to_the_end or self._is_call_whole()):
            first, rest = self._waiting[0], self._waiting[1:]
            self._waiting = []
            if isinstance(first, ToolStart):
                self._start_tool(first, out)
                for event in rest:
                    if isinstance(event, ToolDelta) and event.index == first.index:
                        self._add_arguments(event, out)
                    else:
                        self._waiting.append(event)
            else:
                self._waiting = rest
                if first.index in self._tools:
                    self._add_arguments(first, out)

    def _is_call_whole(self) -> bool:
        if not self._arguments or self._arguments[-1].rstrip()[-1:] not in ("}", ""):
            return False
        try:
            msgspec.json.decode("".join(self._arguments))
        except msgspec.DecodeError:
            return False
        return True

    def _add_arguments(self, event: ToolDelta, out: list[bytes]) -> None:
        if event.index == self._call:
            self._arguments.append(event.arguments)
        block = self._tools[event.index]
        out.append(_delta(block, b'"input_json_delta","partial_json":%b' % _encode(event.arguments)))

    def _start_tool(self, event: ToolStart, out: list[bytes]) -> None:
        if event.signature:
            block = {"type": "redacted_thinking", "data": sealed(event.origin, event.signature, of_call=True)}
            self._open_block("redacted", _encode(block), out)
        start = b'{"type":"tool_use","id":%b,"name":%b,"input":{}}' % (_encode(event.id), _encode(event.name))
        self._open_block("tool", start, out)
        self._tools[event.index] = self._index
        self._call, self._arguments = event.index, []

    def _open_block(self, kind: str, start: bytes, out: list[bytes]) -> None:
        self._close(out)
        self._index += 1
        self._open = kind
        data = b'{"type":"content_block_start","index":%d,"content_block":%b}' % (self._index, start)
        out.append(event_of(b"content_block_start", data))

    def _close(self, out: list[bytes]) -> None:
        if self._open:
            self._open = ""
            out.append(block_stop(self._index))


def render_error(error: ApiError, request_id: str) -> bytes:
    """The body of an error as Anthropic's clients read it, with the top-level members that other dialects have too."""
    return _encode(
        {
            "type": "error",
            "error": _error(error),
            "request_id": request_id,
            "detail": error.message,
            **{name: Raw(value) for name, value in error.extra.items()},
        }
    )


def render_count(tokens: int) -> bytes:
    """The answer to count_tokens."""
    return b'{"input_tokens":%d}' % tokens


def error_event(error: ApiError) -> bytes:
    """The event that ends a stream that broke off."""
    return event_of(b"error", _encode({"type": "error", "error": _error(error)}))


def event_of(name: bytes, data: bytes) -> bytes:
    """One event of JSON `data`."""
    if LF in data:
        data = data.replace(b"\n", b" ")  # between tokens: within a string JSON has no line feed
    return b"event: %b\ndata: %b\n\n" % (name, data)


def block_stop(index: int) -> bytes:
    return event_of(b"content_block_stop", b'{"type":"content_block_stop","index":%d}' % index)


def message_delta(delta: dict[str, Any], usage: dict[str, Any], detail: str) -> bytes:
    """The last event but one. `detail`: why the answer was ended early, or ""."""
    fields: dict[str, Any] = {"type": "message_delta", "delta": delta, "usage": usage}
    if detail:
        fields["detail"] = detail
    return event_of(b"message_delta", _encode(fields))


def _error(error: ApiError) -> dict[str, Any]:
    kind = _ERRORS.get(error.status) or ("invalid_request_error" if error.status < 500 else "api_error")
    shown: dict[str, Any] = {"type": kind, "message": error.message}
    if isinstance(error, ThreadUnsupported):
        shown["details"] = {"error_code": error.code}
    return shown


def _delta(index: int, delta: bytes) -> bytes:
    data = b'{"type":"content_block_delta","index":%d,"delta":{"type":%b}}' % (index, delta)
    return b"event: content_block_delta\ndata: %b\n\n" % data


def _blocks(part: Part) -> list[dict[str, Any]]:
    # Anthropic's schema requires `citations`, and clients that read it as a list (Vercel's AI SDK) do not accept null.
    match part:
        case Text():
            return [{"type": "text", "text": part.text, "citations": [_citation(each) for each in part.citations]}]
        case Refusal():
            return [{"type": "text", "text": part.text, "citations": []}]
        case Thinking(redacted=""):
            return [
                {"type": "thinking", "thinking": part.text, "signature": sealed(part.origin, part.signature)},
            ]
        case Thinking():
            return [{"type": "redacted_thinking", "data": sealed(part.origin, part.redacted)}]
        case Image():
            return [_picture(part)]
        case ToolCall():
            call: dict[str, Any] = {"type": "tool_use", "id": part.id, "name": part.name}
            call |= {"input": arguments(part.arguments), "caller": {"type": "direct"}}
            if not part.signature:
                return [call]
            proof = sealed(part.origin, part.signature, of_call=True)
            return [{"type": "redacted_thinking", "data": proof}, call]
        case _:
            return []


def _picture(image: Image) -> dict[str, Any]:
    """A picture that the model drew. Anthropic's models draw none, so that there is no block for it: it goes out in the
    form that pictures are shown to a model in, which clients keep and send back as it is.
    """
    if image.url:
        return {"type": "image", "source": {"type": "url", "url": image.url}}
    return {"type": "image", "source": {"type": "base64", "media_type": image.media_type, "data": image.data}}


def _citation(citation: Citation) -> dict[str, str]:
    """A citation of a web page: the only kind that names its source without referring to a document in the request."""
    return {
        "type": "web_search_result_location",
        "cited_text": citation.quote,
        "encrypted_index": "",
        "title": citation.title,
        "url": citation.url,
    }


def _stop_details(explanation: str) -> dict[str, str | None]:
    return {"type": "refusal", "category": None, "explanation": explanation or None}


def _usage(usage: Usage | None, receipt: Receipt | None) -> dict[str, Any]:
    """The usage object, with zeros for what is not known, because clients need the members."""
    if receipt is not None and receipt.usage is not None:
        usage = receipt.usage
    fields = counts(usage or Usage())
    if receipt is not None:
        fields.update(money(receipt))
    return fields


def _estimate(prompt: Prompt) -> int:
    """A rough number of tokens, which the end of the stream corrects."""
    return len(prompt.text) // _BYTES_PER_TOKEN + len(prompt.pictures) * _TOKENS_PER_IMAGE + prompt.tokens
