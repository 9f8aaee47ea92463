"""Answers of other dialects, written for clients of OpenAI's Responses: whole, and as its stream of events.

Rule 1  An item opens with its first piece and closes when something of another kind comes. Several calls of tools may
        be open at once, because their pieces may be mixed.
Rule 2  A thought is written as a summary for callers who asked for summaries, and as reasoning text for others.
Rule 3  A custom tool's input is inside JSON: it goes out whole, once the JSON is complete.
Rule 4  A stream ends with `response.completed`, `incomplete` or `failed`, which holds everything that was said.

From https://platform.openai.com/docs/api-reference/responses-streaming
"""

from typing import Any

import msgspec

from tollbridge.errors import ApiError
from tollbridge.wire import responses_object as objects
from tollbridge.wire.conversation import (
    Choice,
    Cited,
    Drawn,
    Event,
    Finish,
    Image,
    Part,
    Refusal,
    RefusalDelta,
    Reply,
    Text,
    TextDelta,
    TextStart,
    Thinking,
    ThinkingDelta,
    ThinkingEnd,
    ToolCall,
    ToolDelta,
    ToolStart,
)
from tollbridge.wire.dialect import Tail
from tollbridge.wire.exchange import Headers, Names, Receipt
from tollbridge.wire.openai_parts import url_citation
from tollbridge.wire.request import Request
from tollbridge.wire.responses_conversation import wants_summary
from tollbridge.wire.responses_object import Ending, Frame
from tollbridge.wire.responses_request import ResponsesRequest
from tollbridge.wire.responses_tools import Known, Tools

_encode = msgspec.json.encode

# Codes that clients act on; any other failure of ours is the server's.
_CODES = frozenset({"context_length_exceeded", "insufficient_quota", "rate_limit_exceeded"})
_IN_PROGRESS = Ending("in_progress")
_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")


def _own(request: Request) -> ResponsesRequest:
    if not isinstance(request, ResponsesRequest):
        raise TypeError(f"{request.endpoint} is not responses")
    return request


class ResponsesClient:
    """See `dialect.Client`."""

    def render(self, request: Request, names: Names, reply: Reply, receipt: Receipt | None) -> bytes:
        own = _own(request)
        frame, tools, as_summary = Frame(own.asked, own.fields, names), Tools(own.asked), wants_summary(own.asked)
        choice = reply.choices[0] if reply.choices else Choice(parts=(), reason="stop")
        output: list[dict[str, Any]] = []
        content: list[dict[str, Any]] = []  # of the message in which parts of text are gathered
        has_refusal = False
        for part in map(_shown, choice.parts):
            match part:
                case Text() | Refusal():
                    if not content:
                        output.append(objects.message(frame.item_id("msg", len(output)), content, "completed"))
                    _put(content, part)
                    has_refusal |= isinstance(part, Refusal)
                    continue
                case Thinking():
                    id_ = frame.item_id("rs", len(output))
                    output.append(objects.reasoning(id_, part, "completed", as_summary=as_summary))
                case Image():
                    output.append(objects.picture(frame.item_id("ig", len(output)), part))
                case ToolCall():
                    if part.signature:
                        id_ = frame.item_id("rs", len(output))
                        output.append(objects.call_signature(id_, part.signature, part.origin, part.id))
                    known = tools.known(part.name)
                    id_ = frame.item_id(objects.PREFIXES[known.kind], len(output))
                    output.append(objects.tool_call(id_, part.id, known, part.arguments, "completed"))
            content = []
        texts = [shown for item in output if item["type"] == "message" for shown in item["content"]]
        if choice.logprobs is not None and texts and texts[0]["type"] == "output_text":
            texts[0]["logprobs"] = objects.logprobs_of(choice.logprobs)
        finish = Finish(choice.reason, choice.stop_sequence, choice.native)
        ending = objects.ending_of(finish, has_refusal=has_refusal)
        if ending.status == "incomplete" and output and output[-1]["type"] != objects.PICTURE:
            output[-1]["status"] = "incomplete"
        return _encode(frame.response(ending, output, objects.ended(ending, reply.usage, receipt)))

    def writer(self, request: Request, names: Names) -> "ResponsesWriter":
        return ResponsesWriter(_own(request), names)


def _shown(part: Part) -> Part:
    """A picture that stands elsewhere is no base64, and goes out as the text of its address."""
    return Text(text=f"![picture]({part.url})") if isinstance(part, Image) and part.url else part


def _put(content: list[dict[str, Any]], part: Text | Refusal) -> None:
    """Texts that follow each other are one part, as they are from OpenAI and in a stream."""
    if isinstance(part, Refusal):
        content.append({"type": "refusal", "refusal": part.text})
        return
    if not content or content[-1]["type"] != "output_text":
        content.append(objects.output_text("", [], []))
    last = content[-1]
    start = len(last["text"])
    last["text"] += part.text
    last["annotations"] += (_annotation(url_citation(found, start, len(last["text"]))) for found in part.citations)


def _annotation(citation: dict[str, Any]) -> dict[str, Any]:
    return {"type": "url_citation", **citation}


class _Open:
    """An item, or a part of one, that is being written."""

    def __init__(self, id_: str, index: int) -> None:
        self.id = id_
        self.index = index  # in the output
        self.pieces: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class _Message(_Open):
    """`kind`: that of the open part, which is the last: output_text, refusal, or none yet."""

    def __init__(self, id_: str, index: int) -> None:
        super().__init__(id_, index)
        self.kind = ""
        self.content: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.logprobs: list[Any] = []
        self.length = 0  # of the open part; `start`: where that begins which is cited next
        self.start = 0


class _Call(_Open):
    def __init__(self, id_: str, index: int, call: str, known: Known) -> None:
        super().__init__(id_, index)
        self.call = call
        self.known = known


class ResponsesWriter:
    """See `dialect.Writer`."""

    def __init__(self, request: ResponsesRequest, names: Names) -> None:
        self._frame = Frame(request.asked, request.fields, names)
        self._tools = Tools(request.asked)
        self._as_summary = wants_summary(request.asked)
        self._number = 0
        self._out: list[bytes] = []
        self._output: list[Any] = []  # items; None while one is open
        self._message: _Message | None = None
        self._thought: _Open | None = None
        self._calls: dict[int, _Call] = {}
        self._has_refusal = False
        self._status = "completed"  # of items that are closed

    def write(self, events: list[Event]) -> bytes:
        self._begin()
        for event in events:
            if event.choice == 0:
                self._event(event)
        return self._taken()

    def end(self, tail: Tail) -> bytes:
        self._begin()
        finish = next((finish for finish in tail.finishes if finish.choice == 0), tail.finishes[0])
        ending = objects.ending_of(finish, has_refusal=self._has_refusal)
        self._status = ending.status
        self._close_all()
        more = objects.ended(ending, tail.usage, tail.receipt)
        if tail.detail:
            more["detail"] = tail.detail
        self._emit(f"response.{ending.status}", {"response": self._frame.response(ending, self._output, more)})
        return self._taken()

    def fail(self, error: ApiError, asked: Headers = ()) -> bytes:
        self._begin()
        self._status = "incomplete"
        self._close_all()
        said = {"code": error.code, "message": error.message, "param": error.param}
        # Documented flat and sent nested by OpenAI. Its SDK for Python raises an error only for what is nested.
        self._emit("error", said | {"error": {"type": error.type, **said}})
        code = error.code if error.code in _CODES else "server_error"
        more = {"error": {"code": code, "message": error.message}}
        self._emit("response.failed", {"response": self._frame.response(Ending("failed"), self._output, more)})
        return self._taken()

    # --- Events ---

    def _taken(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        return out

    def _emit(self, kind: str, members: dict[str, Any]) -> None:
        data = _encode({"type": kind, "sequence_number": self._number, **members})
        self._number += 1
        # JSON of a provider, or repeated from the request, may have line ends between tokens, never within strings.
        self._out.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), data.translate(_LINE_ENDS)))

    def _delta(self, kind: bytes, item: _Open, place: bytes, text: str) -> None:
        """A piece of text, like nearly all events."""
        item.pieces.append(text)
        self._out.append(
            b'event: response.%b.delta\ndata: {"type":"response.%b.delta","sequence_number":%d,"item_id":"%b",'
            b'"output_index":%d,%b"delta":%b}\n\n'
            % (kind, kind, self._number, item.id.encode(), item.index, place, _encode(text))
        )
        self._number += 1

    def _begin(self) -> None:
        if self._number == 0:
            response = self._frame.response(_IN_PROGRESS, [], {})
            self._emit("response.created", {"response": response})
            self._emit("response.in_progress", {"response": response})

    def _event(self, event: Event) -> None:
        match event:
            case TextDelta():
                self._text(event)
            case ToolDelta():
                self._arguments(event)
            case ThinkingDelta():
                self._thinking(event.text)
            case ThinkingEnd():
                self._end_thought(Thinking(signature=event.signature, redacted=event.redacted, origin=event.origin))
            case ToolStart():
                self._start_call(event)
            case RefusalDelta():
                self._has_refusal = True
                message = self._part("refusal")
                self._delta(b"refusal", message, b'"content_index":%d,' % len(message.content), event.text)
            case TextStart():
                if self._message is not None:
                    self._message.start = self._message.length
            case Cited():
                self._cite(event)
            case Drawn():
                self._draw(event.image)
            case _:
                pass

    # --- Items ---

    def _add(self, item: dict[str, Any]) -> None:
        self._output.append(None)
        self._emit("response.output_item.added", {"output_index": len(self._output) - 1, "item": item})

    def _done(self, index: int, item: dict[str, Any]) -> None:
        self._output[index] = item
        self._emit("response.output_item.done", {"output_index": index, "item": item})

    def _close_all(self) -> None:
        self._close_message()
        self._close_thought()
        self._close_calls()
        self._output = [item for item in self._output if item is not None]

    # --- Messages ---

    def _text(self, event: TextDelta) -> None:
        message = self._message
        if message is None or message.kind != "output_text":
            message = self._part("output_text")
        message.length += len(event.text)
        found = objects.logprobs_of(event.logprobs)
        message.logprobs += found
        place = b'"content_index":%d,"logprobs":%b,' % (len(message.content), _encode(found).replace(b"\n", b" "))
        self._delta(b"output_text", message, place, event.text)

    def _part(self, kind: str) -> _Message:
        """The message, with a part of `kind` open in it."""
        self._close_thought()
        self._close_calls()
        message = self._message
        if message is None:
            index = len(self._output)
            message = self._message = _Message(self._frame.item_id("msg", index), index)
            self._add(objects.message(message.id, [], "in_progress"))
        if message.kind != kind:
            self._close_part(message)
            message.kind = kind
            self._emit("response.content_part.added", {**self._place(message), "part": self._content(message)})
        return message

    def _place(self, message: _Open, content: int | None = None) -> dict[str, Any]:
        at = len(message.content) if isinstance(message, _Message) else content
        return {"item_id": message.id, "output_index": message.index, "content_index": at}

    def _content(self, message: _Message) -> dict[str, Any]:
        if message.kind == "refusal":
            return {"type": "refusal", "refusal": message.text}
        return objects.output_text(message.text, message.annotations, message.logprobs)

    def _close_part(self, message: _Message) -> None:
        if not message.kind:
            return
        place, part = self._place(message), self._content(message)
        if message.kind == "refusal":
            self._emit("response.refusal.done", {**place, "refusal": part["refusal"]})
        else:
            self._emit("response.output_text.done", {**place, "text": part["text"], "logprobs": part["logprobs"]})
        self._emit("response.content_part.done", {**place, "part": part})
        message.content.append(part)
        message.kind, message.pieces, message.annotations, message.logprobs = "", [], [], []
        message.length = message.start = 0

    def _close_message(self) -> None:
        message, self._message = self._message, None
        if message is not None:
            self._close_part(message)
            self._done(message.index, objects.message(message.id, message.content, self._status))

    def _cite(self, event: Cited) -> None:
        message = self._part("output_text")
        citation = _annotation(url_citation(event.citation, message.start, message.length))
        message.annotations.append(citation)
        members = {**self._place(message), "annotation_index": len(message.annotations) - 1, "annotation": citation}
        self._emit("response.output_text.annotation.added", members)

    # --- Pictures ---

    def _draw(self, image: Image) -> None:
        shown = _shown(image)
        if isinstance(shown, Text):
            self._text(TextDelta(shown.text))
            return
        self._close_message()
        self._close_thought()
        self._close_calls()
        index = len(self._output)
        id_ = self._frame.item_id("ig", index)
        self._add(objects.picture(id_, None))
        for step in ("in_progress", "generating", "completed"):
            self._emit(f"response.image_generation_call.{step}", {"item_id": id_, "output_index": index})
        self._done(index, objects.picture(id_, image))

    # --- Thoughts ---

    def _thinking(self, text: str) -> None:
        thought = self._thought
        if thought is None:
            thought = self._open_thought()
            place = {"item_id": thought.id, "output_index": thought.index}
            if self._as_summary:
                part = {"type": "summary_text", "text": ""}
                self._emit("response.reasoning_summary_part.added", {**place, "summary_index": 0, "part": part})
            else:
                part = {"type": "reasoning_text", "text": ""}
                self._emit("response.content_part.added", {**place, "content_index": 0, "part": part})
        if self._as_summary:
            self._delta(b"reasoning_summary_text", thought, b'"summary_index":0,', text)
        else:
            self._delta(b"reasoning_text", thought, b'"content_index":0,', text)

    def _open_thought(self) -> _Open:
        self._close_message()
        self._close_calls()
        index = len(self._output)
        self._thought = _Open(self._frame.item_id("rs", index), index)
        self._add(objects.reasoning(self._thought.id, Thinking(), "in_progress", as_summary=self._as_summary))
        return self._thought

    def _end_thought(self, end: Thinking) -> None:
        if end.redacted:
            self._close_thought()
        if self._thought is None and (end.redacted or end.signature):
            self._open_thought()
        self._close_thought(end)

    def _close_thought(self, end: Thinking | None = None) -> None:
        thought, self._thought = self._thought, None
        if thought is None:
            return
        text = thought.text
        place = {"item_id": thought.id, "output_index": thought.index}
        if text and self._as_summary:
            part = {"type": "summary_text", "text": text}
            self._emit("response.reasoning_summary_text.done", {**place, "summary_index": 0, "text": text})
            self._emit("response.reasoning_summary_part.done", {**place, "summary_index": 0, "part": part})
        elif text:
            part = {"type": "reasoning_text", "text": text}
            self._emit("response.reasoning_text.done", {**place, "content_index": 0, "text": text})
            self._emit("response.content_part.done", {**place, "content_index": 0, "part": part})
        whole = Thinking(text=text) if end is None else msgspec.structs.replace(end, text=text)
        self._done(thought.index, objects.reasoning(thought.id, whole, self._status, as_summary=self._as_summary))

    # --- Calls of tools ---

    def _start_call(self, event: ToolStart) -> None:
        self._close_message()
        self._close_thought()
        if event.signature:
            index = len(self._output)
            id_ = self._frame.item_id("rs", index)
            item = objects.call_signature(id_, event.signature, event.origin, event.id)
            self._add(item)
            self._done(index, item)
        known = self._tools.known(event.name)
        index = len(self._output)
        call = _Call(self._frame.item_id(objects.PREFIXES[known.kind], index), index, event.id, known)
        self._calls[event.index] = call
        self._add(objects.tool_call(call.id, call.call, known, "", "in_progress"))

    def _arguments(self, event: ToolDelta) -> None:
        call = self._calls.get(event.index)
        if call is None:
            return
        if call.known.kind == "function":
            self._delta(b"function_call_arguments", call, b"", event.arguments)
        else:
            call.pieces.append(event.arguments)

    def _close_calls(self) -> None:
        if not self._calls:
            return
        calls, self._calls = self._calls, {}
        for call in calls.values():
            place = {"item_id": call.id, "output_index": call.index}
            if not call.pieces and call.known.kind == "function":
                self._delta(b"function_call_arguments", call, b"", "{}")
            item = objects.tool_call(call.id, call.call, call.known, call.text, self._status)
            if call.known.kind == "function":
                done = {**place, "name": call.known.name, "arguments": call.text}
                self._emit("response.function_call_arguments.done", done)
            elif call.known.kind == "custom":
                self._emit("response.custom_tool_call_input.delta", {**place, "delta": item["input"]})
                self._emit("response.custom_tool_call_input.done", {**place, "input": item["input"]})
            self._done(call.index, item)
