"""Gemini as a provider, on AI Studio and on Vertex: generateContent and streamGenerateContent.

`gemini_request` writes the request, and `gemini_usage` reads usage. Rules of answers:

Rule 1  Events of a stream have the shape of whole answers; text in them is a piece, everything else is whole. The end
        is not announced: a stream is over when its body is, and complete if a finish reason came.
Rule 2  `STOP` also ends an answer that calls tools, which only the parts tell. A blocked prompt has no candidates and a
        `blockReason`: that is an answer that was filtered. If the model's call of a tool could not be read, the
        model failed; if it called a tool that does not exist and the call is shown, that is for the caller, as with
        other models.
Rule 3  Any part may carry a signature. On a function call it goes with the call; elsewhere it becomes a thought without
        text, after its part.
Rule 4  A call without an id gets one derived from the answer, so it is the same however the bytes are cut.

Shapes: https://ai.google.dev/api/generate-content#GenerateContentResponse, googleapis/python-genai types.py.
"""

import json
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import Raw

from tollbridge.errors import ProtocolError, UpstreamError
from tollbridge.values import Route, Usage
from tollbridge.wire import errors, gemini_request, quirks
from tollbridge.wire.body import NOTHING, NULL
from tollbridge.wire.conversation import (
    Choice,
    Conversation,
    Document,
    Drawn,
    Event,
    Finish,
    Fit,
    Image,
    Part,
    Reason,
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
from tollbridge.wire.errors import ModelFailed
from tollbridge.wire.event_reader import EventReader
from tollbridge.wire.exchange import Outgoing
from tollbridge.wire.gemini_request import ORIGIN, OWN_ID
from tollbridge.wire.gemini_usage import Meter
from tollbridge.wire.heedless import gemini_events
from tollbridge.wire.openai_reply import read_any

# Paths below the base URL, unless the provider's row says otherwise.
PATHS = {
    "chat": "/models/{model}:generateContent",
    "stream": "/models/{model}:streamGenerateContent?alt=sse",
    "embeddings": "/models/{model}:batchEmbedContents",
}

# A reason that is not listed is a stop: OTHER, LANGUAGE, NO_IMAGE, and any future ones.
_REASONS: dict[str, Reason] = {
    "MAX_TOKENS": "length",
    **dict.fromkeys(("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR"), "filtered"),
    **dict.fromkeys(("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"), "filtered"),
}
_FAILED = frozenset(
    {
        *("MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "MISSING_THOUGHT_SIGNATURE", "TOO_MANY_TOOL_CALLS"),
        "UNEXPECTED_TOOL_CALL",
    }
)


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    args: Raw = NOTHING
    id: str | None = None


class _Blob(msgspec.Struct, rename="camel", gc=False):
    mime_type: str | None = None
    data: str | None = None


class _Part(msgspec.Struct, rename="camel", gc=False):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _Function | None = None
    inline_data: _Blob | None = None


class _Content(msgspec.Struct, gc=False):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, rename="camel", gc=False):
    content: _Content | None = None
    finish_reason: str | None = None
    index: int | None = None
    logprobs_result: Raw = NULL


class _Feedback(msgspec.Struct, rename="camel", gc=False):
    block_reason: str | None = None


class _Answer(msgspec.Struct, rename="camel", gc=False):
    """A whole answer, or one event of a stream."""

    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: Raw = NULL
    response_id: str | None = None
    error: Any = None


class _Token(msgspec.Struct, rename="camel", gc=False):
    token: str = ""
    log_probability: float = 0.0


class _Top(msgspec.Struct, gc=False):
    candidates: list[_Token] | None = None


class _Logprobs(msgspec.Struct, rename="camel", gc=False):
    chosen_candidates: list[_Token] | None = None
    top_candidates: list[_Top] | None = None


_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_logprobs = msgspec.json.Decoder(_Logprobs | None).decode


class GeminiProvider:
    """See `dialect.Provider`."""

    def outgoing(self, conversation: Conversation, route: Route, limit: int | None) -> Outgoing:
        fit = Fit(conversation, "Gemini")
        model = route.upstream_model
        fields = gemini_request.fields(conversation, model, limit, fit)
        quirks.change(fields, route.upstream)
        stream = conversation.stream
        target = quirks.target_for(route, "chat", PATHS["stream" if stream else "chat"], stream=stream)
        return Outgoing(target, msgspec.json.encode(fields), tuple(dict.fromkeys(fit.dropped)))

    def takes_url(self, part: Image | Document, route: Route) -> bool:
        return gemini_request.reads_url(part, route.upstream_model)

    def reply(self, body: bytes) -> Reply:
        answer = _read(body)
        meter = Meter()
        if answer.usage_metadata != NULL:
            meter.read(answer.usage_metadata)
        if answer.candidates:
            choices = tuple(_choice(candidate, answer.response_id or "") for candidate in answer.candidates)
        else:
            choices = (Choice(parts=(), reason="filtered", native=_blocked(answer)),)
        return Reply(choices=choices, usage=meter.usage, suspect=meter.suspect, reported=meter.reported)

    def reader(self) -> "GeminiReader":
        return GeminiReader()


class GeminiReader(EventReader[Event]):
    """See `dialect.Reader`."""

    def __init__(self) -> None:
        super().__init__()
        self._meter: Meter = Meter()
        self._calls: dict[int, int] = {}  # by choice
        self._has_finish = False
        self._covered = self._uncovered = 0  # pieces of output that came before the last report, and after it

    @property
    def usage(self) -> Usage | None:
        # A report cannot have counted output that came after it; if that is most of the output, it is no use.
        return self._meter.usage if self._uncovered <= self._covered else None

    def eof(self) -> list[Event]:
        out = super().eof()
        self.done = self._has_finish and self.failed is None
        return out

    def _events_of(self, answer: Any) -> Iterable[Any]:
        return gemini_events(answer)

    def _take(self, name: bytes, data: bytes, out: list[Event]) -> UpstreamError | None:
        self._head = None
        if data.strip() == b"[DONE]":  # not Gemini's own, but some proxies in front of it send it
            return None
        before = len(out)
        try:
            answer = _read(data)
            is_told = answer.usage_metadata != NULL and self._meter.read(answer.usage_metadata)
            for candidate in answer.candidates or ():
                self._candidate(candidate, answer.response_id or "", out)
            self._uncovered += len(out) - before
            if is_told:
                self._covered, self._uncovered = self._covered + self._uncovered, 0
            if not answer.candidates and not self._has_finish and answer.prompt_feedback is not None:
                out.append(Finish("filtered", native=_blocked(answer)))
                self._has_finish = True
        except UpstreamError as error:
            return error
        return None

    def _candidate(self, candidate: _Candidate, response: str, out: list[Event]) -> None:
        choice = candidate.index or 0
        probabilities = _logprobs(candidate.logprobs_result)
        if candidate.content is not None:
            for part in candidate.content.parts or ():
                if part.function_call is not None:
                    self._call(part, part.function_call, choice, response, out)
                    continue
                if part.text:
                    if part.thought:
                        out.append(ThinkingDelta(part.text, choice))
                    else:
                        out.append(TextDelta(part.text, choice, probabilities))
                        probabilities = None
                elif (image := _drawn(part)) is not None:
                    out.append(Drawn(image, choice))
                if part.thought_signature:
                    out.append(ThinkingEnd(part.thought_signature, "", ORIGIN, choice))
        if candidate.finish_reason:
            self._has_finish = True
            reason, stop = _reason(candidate.finish_reason, has_calls=choice in self._calls), None
            out.append(Finish(reason, stop, candidate.finish_reason, choice))

    def _call(self, part: _Part, call: _Function, choice: int, response: str, out: list[Event]) -> None:
        # For the id, each choice's calls are counted separately, so that it is the same as in a whole answer.
        position = self._calls.get(choice, 0)
        self._calls[choice] = position + 1
        arguments = _arguments(call)
        name = call.name or ""
        identity = call.id or _own_id(f"{response}/{choice}/{position}/{name}/{arguments}")
        signature = part.thought_signature or ""
        out.append(ToolStart(position, identity, name, choice, signature, ORIGIN if signature else ""))
        out.append(ToolDelta(position, arguments, choice))


def _choice(candidate: _Candidate, response: str) -> Choice:
    parts: list[Part] = []
    position = 0
    choice = candidate.index or 0
    content = candidate.content
    for part in (content.parts or ()) if content is not None else ():
        signature = part.thought_signature or ""
        if part.function_call is not None:
            call = part.function_call
            name, arguments = call.name or "", _arguments(call)
            identity = call.id or _own_id(f"{response}/{choice}/{position}/{name}/{arguments}")
            origin = ORIGIN if signature else ""
            parts.append(ToolCall(id=identity, name=name, arguments=arguments, signature=signature, origin=origin))
            position += 1
            continue
        if part.text:
            _append(parts, part.text, is_thought=bool(part.thought))
        elif (image := _drawn(part)) is not None:
            parts.append(image)
        if signature:
            _sign(parts, signature)
    native = candidate.finish_reason or ""
    return Choice(
        parts=tuple(parts),
        reason=_reason(native, has_calls=position > 0),
        native=native,
        logprobs=_logprobs(candidate.logprobs_result),
    )


def _drawn(part: _Part) -> Image | None:
    """A picture, but for those that the model drew while it thought."""
    blob = part.inline_data
    if blob is None or not blob.data or part.thought:
        return None
    return Image(data=blob.data, media_type=blob.mime_type or "image/png")


def _append(parts: list[Part], text: str, *, is_thought: bool) -> None:
    """Append `text`, joined to the part before if that is of the same kind, as in a stream."""
    last = parts[-1] if parts else None
    if is_thought:
        if isinstance(last, Thinking) and not last.signature:
            parts[-1] = Thinking(text=last.text + text)
        else:
            parts.append(Thinking(text=text))
    elif isinstance(last, Text):
        parts[-1] = Text(text=last.text + text)
    else:
        parts.append(Text(text=text))


def _sign(parts: list[Part], signature: str) -> None:
    last = parts[-1] if parts else None
    if isinstance(last, Thinking) and not last.signature:
        parts[-1] = Thinking(text=last.text, signature=signature, origin=ORIGIN)
    else:
        parts.append(Thinking(signature=signature, origin=ORIGIN))


def _reason(native: str, *, has_calls: bool) -> Reason:
    """The reason in our terms. Raises `ModelFailed` if the model's call of a tool went wrong."""
    if native in _FAILED and not has_calls:
        raise ModelFailed(f"the model called a tool in a way that cannot be read ({native})")
    reason = _REASONS.get(native, "stop")
    return "tool_calls" if has_calls and reason == "stop" else reason


def _blocked(answer: _Answer) -> str:
    """Why there are no candidates; raises `ProtocolError` if the answer does not say."""
    if answer.prompt_feedback is None:
        raise ProtocolError("the upstream's answer has no candidates")
    return answer.prompt_feedback.block_reason or "BLOCKED_REASON_UNSPECIFIED"


def _arguments(call: _Function) -> str:
    text = bytes(call.args)
    if not text.startswith(b"{"):
        return "{}"
    return (msgspec.json.format(text, indent=-1) if b"\n" in text else text).decode()


def _own_id(seed: str) -> str:
    return OWN_ID + blake2b(seed.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _logprobs(raw: Raw) -> Raw | None:
    """Log-probabilities in OpenAI's form; None if there are none that can be read."""
    if raw == NULL:
        return None
    try:
        read = _decode_logprobs(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
    if read is None or not read.chosen_candidates:
        return None
    tops = read.top_candidates or []
    content = []
    for position, chosen in enumerate(read.chosen_candidates):
        top = tops[position].candidates if position < len(tops) else None
        content.append({**_probability(chosen), "top_logprobs": [_probability(each) for each in top or ()]})
    return Raw(msgspec.json.encode({"content": content, "refusal": None}))


def _probability(token: _Token) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.log_probability, "bytes": list(token.token.encode())}


def _read(data: bytes) -> _Answer:
    """A whole answer or an event; raises `UpstreamSaid` (an error) or `ProtocolError`."""
    try:
        if not data.isascii():
            data.decode()
        answer = _decode_answer(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        answer = _of_another_shape(data)
    if answer.error:
        raise errors.said_in(answer.error)
    return answer


def _of_another_shape(data: bytes) -> _Answer:
    document = read_any(data)
    if isinstance(document, list) and document:  # an error in answer to a call that did not ask for events
        document = document[0]
    if isinstance(document, dict) and document.get("error"):
        return _Answer(error=document["error"])
    try:
        # Lone halves of surrogate pairs, where an answer was cut in the middle of a character, become question marks.
        return _decode_answer(json.dumps(document, ensure_ascii=False).encode(errors="replace"))
    except (msgspec.DecodeError, RecursionError):
        raise ProtocolError("the upstream's answer is none of Gemini's") from None
