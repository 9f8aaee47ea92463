"""Anthropic's Messages on both sides: bytes pass, except for the model's name, the id, and money.

Rule 1  In a request, only the model, the limit and what this provider refuses change. Unknown members pass. Claude
        would refuse another model's thoughts in the conversation and its call ids: such thoughts are left out, and the
        ids rewritten. A web search that the model has no price for would be sold for nothing, and an advisor (another
        model, which Anthropic asks along the way and bills) at this one's price. The usage says no hours of a sandbox.
        Such tools are refused or left out.
Rule 2  An event passes as it came. `message_start` gets our names; `message_delta` and `message_stop` are withheld
        until the end, when the usage that is charged is known.
Rule 3  Nearly every event is like the one before except for its text. When an event has passed unchanged, it is read
        again with another text in it (the probe); if that is read as expected, what comes before the text is learnt.
        From then on, the decoder that reads whole events only has to prove that the text in its place is one string.
Rule 4  After `message_stop` nothing counts. An error never counts as output and is never passed on.
"""

import re
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw

from tollbridge.errors import ApiError, ProtocolError, UnsupportedField, UpstreamError
from tollbridge.values import Route
from tollbridge.wire import quirks
from tollbridge.wire.anthropic_body import Block, ThinkingParam
from tollbridge.wire.anthropic_client import MESSAGE_STOP, block_stop, error_event, event_of, message_delta
from tollbridge.wire.anthropic_conversation import origin_of
from tollbridge.wire.anthropic_messages import MessagesRequest
from tollbridge.wire.anthropic_models import is_claude
from tollbridge.wire.anthropic_provider import TARGET, failure, read_answer
from tollbridge.wire.anthropic_reply import REASONS, Delta, Event, read_event
from tollbridge.wire.anthropic_request import ORIGIN, budget_within, call_id
from tollbridge.wire.anthropic_usage import Meter
from tollbridge.wire.body import NOTHING
from tollbridge.wire.event_reader import PIECES, EventStream, Metered, Produced
from tollbridge.wire.exchange import Answer, Counter, Headers, Names, Outgoing, Receipt, Stream
from tollbridge.wire.heedless import anthropic_events
from tollbridge.wire.openai_plain import PROBE
from tollbridge.wire.openai_reply import read_fields
from tollbridge.wire.request import Request
from tollbridge.wire.sse import LF

_DELTA = b"event: content_block_delta\ndata: "
# A member that may be the text, up to its value. In JSON, a quote after a letter ends a string, and a colon after that
# makes the string a name, so this matches nothing within a string.
_TEXT = re.compile(rb'"(?:text|thinking|partial_json)": ?"')
# An event longer than this is read whole.
_LONG = 64 * 1024

_THOUGHT = b"thinking"
# Kinds of tools whose calls cost what the model's price may not say, by how they begin.
_SANDBOX = "code_execution_"
_NEVER_PRICED = {
    "advisor_": "another model that Anthropic bills, for which {} has no price",
    _SANDBOX: "a sandbox that Anthropic bills by the hour unless web_fetch_20260209 or later is offered beside it",
}
_UNPRICED = _NEVER_PRICED | {"web_search": "a search on the web, for which {} has no price"}
# Beside one of these from 20260209 on, code runs for nothing (platform.claude.com/docs, about-claude/pricing).
_FREES_SANDBOX = re.compile(r"web_(?:search|fetch)_(20\d{6})")
_ESCAPED = rb"\u00"


class _Named(msgspec.Struct, gc=False):
    """A tool, or the choice of one."""

    type: str | None = None
    name: str | None = None


_decode_text = msgspec.json.Decoder(str).decode
_decode_messages = msgspec.json.Decoder(list[dict[str, Raw]]).decode
_decode_blocks = msgspec.json.Decoder(list[Raw]).decode
_decode_named = msgspec.json.Decoder(_Named).decode
_decode_block = msgspec.json.Decoder(Block).decode


class AnthropicPassing:
    """See `exchange.Exchange`."""

    def __init__(self, request: Request, route: Route, names: Names, max_tokens: int | None) -> None:
        self._request = request
        self._route = route
        self._names = names
        self._max_tokens = max_tokens

    def request(self) -> Outgoing:
        request, route = self._request, self._route
        fields = dict(request.fields)
        if route.upstream_model != request.model:
            fields["model"] = Raw(msgspec.json.encode(route.upstream_model))
        dropped = self._without_unpriced(fields)
        if self._max_tokens is not None and (request.max_tokens is None or self._max_tokens < request.max_tokens):
            fields["max_tokens"] = Raw(b"%d" % self._max_tokens)
            dropped += _think_within(self._max_tokens, fields)
        if isinstance(request, MessagesRequest) and request.has_foreign:
            fields["messages"] = _for_this_model(fields["messages"], is_for_claude=is_claude(route.upstream_model))
        quirks.change(fields, route.upstream)
        target = quirks.target_for(route, "messages", TARGET, stream=request.stream)
        headers: tuple[tuple[bytes, bytes], ...] = ()
        if isinstance(request, MessagesRequest):
            dropped += tuple(f"anthropic-beta: {name}" for name in request.refused_betas)
            if request.betas:
                headers = ((b"anthropic-beta", ",".join(request.betas).encode()),)
        return Outgoing(target, msgspec.json.encode(fields), dropped, headers)

    def _without_unpriced(self, fields: dict[str, Raw]) -> tuple[str, ...]:
        """Leave out Anthropic's own tools whose calls have no price, unless nothing has one or the customer's own
        credential pays. Returns what was left out; raises `UnsupportedField` where the caller wants all of it.
        """
        route, offered = self._route, bytes(fields.get("tools", b""))
        price = route.price
        if route.upstream.owner or not any(price.at_most):
            return ()
        unpriced = _UNPRICED if not price.searches else _NEVER_PRICED
        if all(b'"' + kind.encode() not in offered for kind in unpriced) and _ESCAPED not in offered:
            return ()
        tools = [(f"tools[{index}]", raw, _decode_named(raw)) for index, raw in enumerate(_decode_blocks(offered))]
        refused = {where: tool for where, _, tool in tools if (tool.type or "").startswith(tuple(unpriced))}
        if any(where not in refused and _frees_sandbox(tool.type or "") for where, _, tool in tools):
            refused = {where: tool for where, tool in refused.items() if not (tool.type or "").startswith(_SANDBOX)}
        if not refused:
            return ()
        if not self._request.lets_omit(route.upstream):
            where, tool = next(iter(refused.items()))
            why = next(why for kind, why in unpriced.items() if (tool.type or "").startswith(kind))
            raise UnsupportedField(
                f"'{where}' is {why.format(route.model)}. Leave it out, or let it be"
                ' left out with "provider": {"require_parameters": false}.',
                param=where,
            )
        left = [raw for where, raw, _ in tools if where not in refused]
        choice = _decode_named(fields["tool_choice"]) if "tool_choice" in fields else _Named()
        if left:
            fields["tools"] = Raw(msgspec.json.encode(left))
        else:
            del fields["tools"]
        if not left or choice.name in {tool.name for tool in refused.values()} - {None}:
            fields.pop("tool_choice", None)
        return tuple(refused)

    def response(self, body: bytes) -> Answer:
        return PassedAnswer(self._names, body)

    def stream(self, output: Counter) -> Stream:
        return PassedStream(self._names, output)


def _frees_sandbox(kind: str) -> bool:
    found = _FREES_SANDBOX.fullmatch(kind)
    return found is not None and found[1] >= "20260209"


def _think_within(limit: int, fields: dict[str, Raw]) -> tuple[str, ...]:
    """Lower the thinking budget below the limit that money sets: the request would be refused otherwise. Returns what
    had to be left out.
    """
    try:
        thinking = msgspec.json.decode(fields["thinking"], type=ThinkingParam)
    except (KeyError, msgspec.ValidationError):
        return ()
    if thinking.type != "enabled" or thinking.budget_tokens is None or thinking.budget_tokens < limit:
        return ()
    budget = budget_within(thinking.budget_tokens, limit)
    if not budget:
        del fields["thinking"]
        return ("thinking",)
    members = msgspec.json.decode(fields["thinking"], type=dict[str, Raw]) | {"budget_tokens": Raw(b"%d" % budget)}
    fields["thinking"] = Raw(msgspec.json.encode(members))
    return ()


def _for_this_model(messages: Raw, *, is_for_claude: bool) -> Raw:
    """`messages` without thoughts whose proof is another dialect's, and without messages that consist of nothing else.

    `is_for_claude`: thoughts without a proof count as another model's too, and call ids are rewritten in the characters
    that Claude takes.
    """
    left = []
    for message in _decode_messages(messages):
        content = bytes(message["content"])
        if content.startswith(b"["):
            blocks = _decode_blocks(content)
            own = [block for block in blocks if not _is_foreign(block, is_for_claude)]
            if is_for_claude:
                own = [_with_id(block) for block in own]
            if blocks and not own:
                continue
            message["content"] = Raw(msgspec.json.encode(own))
        left.append(message)
    return Raw(msgspec.json.encode(left))


def _is_foreign(raw: Raw, is_for_claude: bool) -> bool:
    if _THOUGHT not in bytes(raw):
        return False
    origin = origin_of(_decode_block(raw))
    return origin not in (None, ORIGIN) and (is_for_claude or origin != "")


def _with_id(raw: Raw) -> Raw:
    block = _decode_block(raw)
    name = {"tool_use": "id", "tool_result": "tool_use_id"}.get(block.type, "")
    given = getattr(block, name) if name else None
    if given is None or call_id(given) == given:
        return raw
    members = msgspec.json.decode(raw, type=dict[str, Raw]) | {name: Raw(msgspec.json.encode(call_id(given)))}
    return Raw(msgspec.json.encode(members))


class PassedAnswer(Metered):
    """See `exchange.Answer`."""

    def __init__(self, names: Names, body: bytes) -> None:
        self._message, self._body = read_answer(body)
        self._names = names
        self._meter: Meter = Meter()
        self._meter.read(self._message.usage)
        self.finish: str | None = REASONS.get(self._message.stop_reason or "", "stop")

    def text(self) -> bytes:
        found: list[str] = []
        for block in self._message.content or ():
            found += filter(None, (block.text, block.thinking, block.name))
            if block.input is not NOTHING:
                found.append(bytes(block.input).decode())
        return "\n".join(found).encode("utf-8", "surrogatepass")

    def render(self, receipt: Receipt | None) -> bytes:
        fields: dict[str, Any] = read_fields(self._body)
        fields["id"] = self._names.id
        fields["model"] = self._names.model
        if receipt is not None or self.usage is not None:
            fields["usage"] = self._meter.render(receipt)
        return msgspec.json.encode(fields)


def before_text(data: bytes) -> bytes:
    """What comes before the text in `data`, a plain event of a block; b"" if that cannot be told."""
    found = _TEXT.search(data) if data.startswith(_DELTA) else None
    if found is None or text_after(data, found.end()) is None:
        return b""
    before = data[: found.end()]
    event = read_event(b'%b%b"}}' % (before[len(_DELTA) :], PROBE.encode()))
    is_plain = event.type == "content_block_delta" and event.delta is not None and _piece(event.delta) == PROBE
    return before if is_plain else b""


def text_after(data: bytes, start: int) -> str | None:
    """The text that begins at `start`, if nothing but the end of the one event follows it in `data`; else None."""
    end = data.rfind(b'"')
    # Anthropic puts spaces between the last braces, to hide the length of the text.
    if not data.endswith(b"}\n\n") or data[end:].replace(b" ", b"") != b'"}}\n\n':
        return None
    text = data[start:end]
    if not text or len(data) > _LONG or LF in text:
        return None
    try:
        return _decode_text(b'"%b"' % text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _piece(delta: Delta) -> str | None:
    return delta.text or delta.partial_json or delta.thinking


class PassedStream(Produced, EventStream):
    """See `exchange.Stream`."""

    def __init__(self, names: Names, output: Counter) -> None:
        super().__init__()
        self.finish: str | None = None
        self.chunks = 0
        self._names = names
        self._meter: Meter = Meter()
        self._output = output
        self._pieces: list[str] = []
        self._open: set[int] = set()  # blocks that have not stopped
        self._held: dict[str, Any] | None = None  # the message_delta that usage will ride on
        self._detail = ""
        self._learnt = b""
        self._before = b""  # what was learnt, while plain events pass without consequences

    @property
    def complete(self) -> bool:
        return self.done or self.finish is not None

    def feed(self, data: bytes) -> bytes:
        before = self._before
        if before and data.startswith(before):
            text = text_after(data, len(before))
            if text is not None:
                self._add(text)
                return data
        out = super().feed(data)
        if out == data:
            self._learnt = before_text(data) or self._learnt
        is_concerned = self.done or self._detail or self.failed is not None or not self._decoder.is_between_events
        self._before = b"" if is_concerned else self._learnt
        return out

    def end(self, receipt: Receipt | None) -> bytes:
        fields, self._held = self._held, None
        if fields is None:
            reason = "max_tokens" if self._detail else "end_turn"
            usage = self._meter.render(receipt)
            return message_delta({"stop_reason": reason, "stop_sequence": None}, usage, self._detail) + MESSAGE_STOP
        if receipt is not None or self.usage is not None:
            fields["usage"] = self._meter.render(receipt)
        return event_of(b"message_delta", msgspec.json.encode(fields)) + MESSAGE_STOP

    def stop(self, reason: str) -> bytes:
        self.finish = "length"
        self._detail = reason
        self._before = b""
        self._held = None
        unfinished, self._open = sorted(self._open), set()
        return b"".join(map(block_stop, unfinished))

    def fail(self, error: ApiError, asked: Headers = ()) -> bytes:
        return error_event(error)

    def _events_of(self, answer: Any) -> Iterable[Any]:
        return anthropic_events(answer)

    def _take(self, name: bytes, data: bytes, out: list[bytes]) -> UpstreamError | None:
        """Read an event and append to `out` what the caller gets now; return what is wrong with it."""
        if not data or data.isspace() or self.done:
            return None
        self._head = None
        try:
            event = read_event(data)
        except ProtocolError as error:
            return error
        kind = event.type
        if kind == "message_delta":
            return self._hold(event, data, out)
        if kind == "message_stop":
            self.done = True
            return None
        if kind == "message_start":
            return self._start(event, data, out)
        if kind == "content_block_delta":
            self._count(event)
        elif kind == "content_block_start":
            self._open.add(event.index)
            self._count(event)
        elif kind == "content_block_stop":
            self._open.discard(event.index)
        elif (failed := failure(name, event)) is not None:
            return failed
        if not self._detail and kind.isidentifier():
            out.append(event_of(kind.encode(), data))
        return None

    def _start(self, event: Event, data: bytes, out: list[bytes]) -> UpstreamError | None:
        if event.message is None or self._detail:
            return None
        self._meter.start(event.message.usage)
        try:
            fields: dict[str, Any] = read_fields(data)
            message: dict[str, Any] = read_fields(bytes(fields["message"]))
        except ProtocolError as error:
            return error
        message["id"] = self._names.id
        message["model"] = self._names.model
        fields["message"] = message
        out.append(event_of(b"message_start", msgspec.json.encode(fields)))
        return None

    def _hold(self, event: Event, data: bytes, out: list[bytes]) -> UpstreamError | None:
        self._meter.read(event.usage)
        if event.delta is not None and event.delta.stop_reason and not self._detail:
            self.finish = REASONS.get(event.delta.stop_reason, "stop")
        if self._detail:
            return None
        if self._held is not None:
            out.append(event_of(b"message_delta", msgspec.json.encode(self._held)))
        try:
            self._held = dict(read_fields(data))
        except ProtocolError as error:
            return error
        return None

    def _count(self, event: Event) -> None:
        """Count the text of an event."""
        delta, block = event.delta, event.content_block
        if delta is not None:
            piece = _piece(delta)
            if piece:
                self._add(piece)
        elif block is not None:
            pieces = tuple(filter(None, (block.text, block.thinking, block.name)))
            if pieces:
                self._add(*pieces)

    def _add(self, *pieces: str) -> None:
        self.chunks += 1
        self._pieces += pieces
        if len(self._pieces) >= PIECES:
            _ = self.output
