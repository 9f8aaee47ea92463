"""Providers that do not heed `stream`: whole answers where a stream was asked for, and the other way round.

A whole answer becomes the events that its own dialect would have sent, for the same readers as any stream. A stream
becomes a `Reply`, by the provider's reader.
"""

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import msgspec
from msgspec import Raw

from tollbridge.errors import ConnectionLost, ProtocolError
from tollbridge.wire import sse
from tollbridge.wire.conversation import (
    Choice,
    Citation,
    Cited,
    Drawn,
    Event,
    Finish,
    Part,
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
from tollbridge.wire.dialect import Reader
from tollbridge.wire.event_reader import is_whole, whole_answer

_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")

Json = dict[str, Any]

_decode_lists = msgspec.json.Decoder(dict[str, list[Raw] | None]).decode


def is_stream(body: bytes) -> bool:
    """Whether a whole body is a stream of events: JSON begins with none of these."""
    return body[:1] != b"{" and body[:64].lstrip(b"\xef\xbb\xbf\r\n").startswith(_FIELDS)


# --- Events of a whole answer ---


def openai_events(answer: Any) -> Iterator[Json]:
    """For each choice a chunk with what it says, then one with how it ended; the last has the usage."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices or not all(isinstance(each, dict) for each in choices):
        raise ProtocolError("the upstream's answer has no choices")
    envelope = {name: value for name, value in answer.items() if name not in ("object", "choices", "usage")}
    ends = []
    for position, choice in enumerate(choices):
        index = choice.get("index", position)
        said = {**choice, "index": index, "finish_reason": None}
        end = {"index": index, "finish_reason": choice.get("finish_reason") or "stop"}
        if "message" in choice:
            said["delta"], end["delta"] = _delta(said.pop("message")), {}
        else:
            end["text"] = ""
        ends.append(end)
        yield {**envelope, "choices": [said]}
    for end in ends:
        usage = {"usage": answer.get("usage")} if end is ends[-1] else {}
        yield {**envelope, "choices": [end], **usage}


def _delta(message: Any) -> Any:
    if not isinstance(message, dict):
        raise ProtocolError("the upstream's answer has a choice without an answer")
    delta = {"role": "assistant", **message}
    calls = message.get("tool_calls")
    if isinstance(calls, list) and all(isinstance(call, dict) for call in calls):
        delta["tool_calls"] = [{"index": index, **call} for index, call in enumerate(calls)]
    return delta


def anthropic_events(message: Any) -> Iterator[Json]:
    blocks = message.get("content") if isinstance(message, dict) else None
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise ProtocolError("the upstream's answer has no content")
    ended = {name: message.get(name) for name in ("stop_reason", "stop_sequence", "stop_details")}
    ended["stop_reason"] = ended["stop_reason"] or "end_turn"
    yield {"type": "message_start", "message": {**message, "content": [], "stop_reason": None, "stop_sequence": None}}
    for index, block in enumerate(blocks):
        empty, deltas = _opened(block)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {"type": "message_delta", "delta": ended, "usage": message.get("usage")}
    yield {"type": "message_stop"}


def _opened(block: Json) -> tuple[Json, list[Json]]:
    """How a block begins, and what is added to it then; a block of a kind that is not added to begins whole."""
    kind = block.get("type")
    if kind == "text":
        citations = block.get("citations")
        sources = citations if isinstance(citations, list) else ()
        cited = [{"type": "citations_delta", "citation": each} for each in sources]
        empty = {**block, "text": ""} | ({"citations": []} if cited else {})
        return empty, [{"type": "text_delta", "text": block.get("text")}, *cited]
    if kind == "thinking":
        thought = {"type": "thinking_delta", "thinking": block.get("thinking")}
        proof = {"type": "signature_delta", "signature": block.get("signature")}
        return {**block, "thinking": "", "signature": ""}, [thought, proof]
    if kind in ("tool_use", "server_tool_use"):
        arguments = msgspec.json.encode(block.get("input") or {}).decode()
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": arguments}]
    return block, []


def gemini_events(answer: Any) -> list[Json]:
    """Whole answers have the shape of events, and come in a list if a stream was asked for without `alt=sse`."""
    answers = answer if isinstance(answer, list) else [answer]
    if not any(isinstance(each, dict) and (each.get("candidates") or each.get("promptFeedback")) for each in answers):
        raise ProtocolError("the upstream's answer has no candidates")
    return answers


# --- The whole answer of a stream ---


def joined(reader: Reader, body: bytes) -> Reply:
    """What the stream `body` says. Raises `UpstreamError` if it failed, broke off, or makes no sense."""
    events = reader.feed(body) + reader.eof()
    if reader.failed is not None:
        raise reader.failed
    finished = {event.choice for event in events if isinstance(event, Finish)}
    if not finished and not reader.done:
        raise ConnectionLost("the stream ended in the middle")
    by_choice: dict[int, list[Event]] = {choice: [] for choice in sorted(finished)} or {0: []}
    for event in events:
        by_choice.setdefault(event.choice, []).append(event)
    choices = tuple(map(_choice, by_choice.values()))
    return Reply(choices=choices, usage=reader.usage, suspect=reader.suspect, reported=reader.reported)


def _choice(events: list[Event]) -> Choice:
    parts: list[Part] = []
    calls: dict[int, tuple[ToolStart, list[str]]] = {}
    finish, probabilities, early = Finish("stop"), [], list[Citation]()
    for kind, run in groupby(events, type):
        same: list[Any] = list(run)
        if kind in _TEXTS:
            parts.append(_TEXTS[kind](text="".join(event.text for event in same)))
            if kind is TextDelta:
                while early:
                    _cite(parts, early.pop(0))
            probabilities += [event.logprobs for event in same if kind is TextDelta and event.logprobs is not None]
            continue
        for event in same:
            if kind is ThinkingEnd:
                _prove(parts, event)
            elif kind is Cited:
                if not _cite(parts, event.citation):
                    early.append(event.citation)  # OpenRouter sends them before the text
            elif kind is Drawn:
                parts.append(event.image)
            elif kind is ToolStart:
                calls[event.index] = event, []
            elif kind is ToolDelta:
                calls[event.index][1].append(event.arguments)
            elif kind is Finish:
                finish = event
    for start, arguments in calls.values():
        given = "".join(arguments) or "{}"
        parts.append(
            ToolCall(id=start.id, name=start.name, arguments=given, signature=start.signature, origin=start.origin)
        )
    return Choice(
        parts=tuple(parts),
        reason=finish.reason,
        stop_sequence=finish.stop_sequence,
        native=finish.native,
        logprobs=_joined_logprobs(probabilities),
    )


_TEXTS: dict[type, Any] = {TextDelta: Text, ThinkingDelta: Thinking, RefusalDelta: Refusal}


def _prove(parts: list[Part], end: ThinkingEnd) -> None:
    thought = parts[-1] if parts else None
    if end.redacted or not isinstance(thought, Thinking) or thought.signature or thought.redacted:
        parts.append(Thinking(signature=end.signature, redacted=end.redacted, origin=end.origin))
    else:
        parts[-1] = msgspec.structs.replace(thought, signature=end.signature, origin=end.origin)


def _cite(parts: list[Part], citation: Citation) -> bool:
    """Whether there was a text to put it on."""
    text = parts[-1] if parts else None
    if not isinstance(text, Text):
        return False
    parts[-1] = msgspec.structs.replace(text, citations=(*text.citations, citation))
    return True


def joined_completion(body: bytes) -> bytes:
    """The answer that the stream `body` of a completion of text says, as its provider would have sent it whole.

    Raises as `joined`; what a choice says that went wrong is left in it.
    """
    decoder = sse.Decoder()
    events, last = decoder.feed(body), decoder.end()
    if decoder.broken is not None:
        raise decoder.broken
    if last is not None and is_whole(last[1]):
        events.append(last)
    whole: Json = {}
    choices: dict[int, tuple[list[str], dict[str, list[Any]], Json]] = {}
    done = False
    for _, data in events:
        if (word := data.strip()) in (b"", b"[DONE]"):
            done = done or bool(word)
            continue
        event = whole_answer(data)
        said = event.pop("choices", None) or [] if isinstance(event, dict) else None
        if not isinstance(said, list) or not all(isinstance(each, dict) for each in said):
            raise ProtocolError("the upstream sent an event without choices")
        whole.update((name, value) for name, value in event.items() if value is not None)
        for position, choice in enumerate(said):
            _add_text(choices, choice.get("index", position), choice)
    if not done and not any(choice.get("finish_reason") for _, _, choice in choices.values()):
        raise ConnectionLost("the stream ended in the middle")
    whole["choices"] = [
        {"index": index, "logprobs": logprobs or None, **choice, "text": "".join(texts)}
        for index, (texts, logprobs, choice) in sorted(choices.items())
    ]
    return json.dumps(whole).encode()


def _add_text(choices: dict[int, tuple[list[str], dict[str, list[Any]], Json]], index: Any, choice: Json) -> None:
    if not isinstance(index, int):
        raise ProtocolError("the upstream sent a choice without a number")
    texts, logprobs, known = choices.setdefault(index, ([], {}, {}))
    text, more = choice.pop("text", None), choice.pop("logprobs", None)
    if isinstance(text, str):
        texts.append(text)
    for name, values in more.items() if isinstance(more, dict) else ():
        if isinstance(values, list):
            logprobs.setdefault(name, []).extend(values)
    known.update((name, value) for name, value in choice.items() if value is not None)


def _joined_logprobs(pieces: list[Raw]) -> Raw | None:
    """Pieces in OpenAI's form, as one, without those of another form."""
    whole: dict[str, list[Raw] | None] = {}
    for piece in pieces:
        try:
            lists = _decode_lists(piece)
        except msgspec.MsgspecError:
            continue
        for name, values in lists.items():
            known = whole.setdefault(name, values)
            if known is None:
                whole[name] = values
            elif values is not None and values is not known:
                known += values
    return Raw(msgspec.json.encode(whole)) if whole else None
