"""Streams of chat and completions, from an OpenAI-like server to an OpenAI client.

Rule 1  An event passes as it came, except for the id and the model; members that clients need are added if the server
        left them out.
Rule 2  A caller who did not ask for usage gets no event without a choice (the published quickstart reads
        `chunk.choices[0]`): other members of such an event join the next one.
Rule 3  Usage is where the caller expects it. Asked for: on an event of its own at the end, with no choices. Nothing
        said: on the event with the finish reason, which is withheld until the end. Refused: nowhere.
Rule 4  After the end was announced, only usage counts; if output comes all the same, usage after it counts only if
        there was none before. An error never counts as output and is never passed on.
Rule 5  A report cannot have counted output that came after it: it is dropped if it has less than half of what was
        received.
Rule 6  Nearly every event is like the one before except for its text: such events pass without being read whole
        (`openai_plain`).
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from tollbridge.errors import ApiError, ProtocolError, UpstreamError
from tollbridge.values import Usage
from tollbridge.wire import errors, sse
from tollbridge.wire.body import NOTHING, NULL
from tollbridge.wire.event_reader import PIECES, EventStream, Produced
from tollbridge.wire.exchange import Counter, Headers, Names, Receipt
from tollbridge.wire.heedless import openai_events
from tollbridge.wire.openai_answer import Shape
from tollbridge.wire.openai_plain import PROBE, Around, Plain, around_text
from tollbridge.wire.openai_reply import FAILED, Chunk, ChunkChoice, pictures_in, read_chunk, read_fields
from tollbridge.wire.usage import Meter

# The announcement of the end, with any white space around it, is no longer than this. Every chunk is.
_SHORT = 12
_MOST_JOINING = 32
_EMPTY = Raw(b'""')
_ENVELOPE = frozenset({"id", "object", "created", "model", "choices", "usage"})


class CompletionStream(Produced, EventStream):
    """See `exchange.Stream`. `asked`: the caller's `include_usage`. `choices`: how many answers will come."""

    def __init__(self, shape: Shape, names: Names, asked: bool | None, choices: int, output: Counter) -> None:
        super().__init__()
        self.finish: str | None = None
        self.chunks = 0
        self._shape = shape
        self._names = names
        self._created = Raw(b"%d" % names.created)
        self._asked = asked
        self._choices = choices
        self._meter: Meter = Meter()
        self._output = output
        self._pieces: list[str] = []
        self._finished: set[int] = set()
        self._stopped = False
        self._over = False  # output came after the end: what follows may be about another answer
        self._reported_at = 0  # chunks of output when usage was last reported
        self._held: dict[str, Raw] | None = None  # the event that usage will ride on
        self._tail: dict[str, Raw] | None = None  # the server's own event with usage alone
        self._joining: dict[str, Raw] = {}
        self._start = self._start_for_caller = b""  # of the last event that was spliced, up to the later of two names
        self._around: Around | None = None  # of the last event that may have been plain
        self._is_tried = False  # whether it was to be learnt
        self._learnt: Plain | None = None
        self._learnt_created = self._created
        self._plain: Plain | None = None  # what was learnt, while plain events pass without consequences

    @property
    def usage(self) -> Usage | None:
        usage = self._meter.usage
        if usage is not None and self.chunks > self._reported_at and usage.completion * 2 < self.output.tokens:
            return None
        return usage

    @property
    def suspect(self) -> bool:
        return self._meter.suspect

    @property
    def reported(self) -> bytes:
        return self._meter.reported

    @property
    def complete(self) -> bool:
        return self.done or self._stopped or len(self._finished) >= self._choices

    def feed(self, data: bytes) -> bytes:
        plain = self._plain
        if plain is not None and data.startswith(plain.before) and data.endswith(plain.after):
            read = plain.read(data[plain.start : plain.stop])
            if read is not None:
                texts, between = read
                self.chunks += len(texts)
                self._pieces += texts
                if len(self._pieces) >= PIECES:
                    _ = self.output
                return plain.before_for_caller + between + plain.after_for_caller
        out = b"".join(self._read(data))
        self._plain = self._learnt if self._is_unconcerned() else None
        return out

    def end(self, receipt: Receipt | None) -> bytes:
        usage = None if self._asked is False else self._meter.render(receipt)
        fields, self._held = self._held, None
        if usage is not None:
            if self._asked:
                fields = self._tail or self._event([])
            elif fields is None:
                fields = self._event([self._empty(0, self.finish or "stop")])
            fields["usage"] = usage
        if fields is None:
            return sse.DONE
        self._join(fields)
        return _encode(fields) + sse.DONE

    def stop(self, reason: str) -> bytes:
        unfinished = [index for index in range(self._choices) if index not in self._finished]
        self._stopped = True
        self._plain = None
        self.finish = "length"
        fields = self._event([self._empty(index, "length") for index in unfinished or [0]])
        fields["detail"] = Raw(msgspec.json.encode(reason))
        out = self._release()
        if self._asked is None:
            self._held = fields
        else:
            out.append(_encode(fields))
        return b"".join(out)

    def fail(self, error: ApiError, asked: Headers = ()) -> bytes:
        choice = self._empty(0, "error")
        if self._shape.is_chat:
            choice["delta"] = {"content": ""}
        fields: dict[str, Any] = self._event([choice])
        return (
            b"".join(self._release()) + _encode(fields | errors.members(error, asked)) + errors.repeated(error, asked)
        )

    # --- One event ---

    def _events_of(self, answer: Any) -> Iterable[Any]:
        return openai_events(answer)

    def _take(self, name: bytes, data: bytes, out: list[bytes]) -> UpstreamError | None:
        """Read an event and append to `out` what the caller gets now; return what is wrong with it."""
        if len(data) <= _SHORT and (word := data.strip()) in (b"", b"[DONE]"):
            if word:
                self.done, self._head = True, None
            return None
        self._head = None
        try:
            chunk = read_chunk(data)
        except ProtocolError as error:
            return None if self.complete else error
        choices = chunk.choices or []
        if self.done:
            self._over = self._over or bool(choices)
            if self._over and self._meter.usage is not None:
                return None
        has_usage = self._read_usage(chunk, choices)
        if self.done or self._stopped:
            self._reported_at = self.chunks
            return None
        failure = _failure(name, chunk, choices)
        if failure is not None:
            return failure
        if choices:
            self._pass(data, chunk, choices, has_usage, out)
        elif chunk.choices is not UNSET or has_usage:
            self._pass_without_choices(data, chunk, has_usage, out)
        # While it speaks, OpenAI sends chunks that hold nothing.
        elif chunk.object != self._shape.chunk and name in (b"", b"message"):
            return ProtocolError("the upstream sent an event without choices")
        if has_usage:
            self._reported_at = self.chunks
        return None

    def _pass(self, data: bytes, chunk: Chunk, choices: list[ChunkChoice], has_usage: bool, out: list[bytes]) -> None:
        is_last = self._read_choices(choices)
        if self._held is not None:
            out.extend(self._release())
        needs_work = has_usage and (is_last or self._asked is False)
        if not needs_work and not self._joining and not (is_last and self._asked is None):
            event = self._spliced(data, chunk, choices)
            if event is not None:
                out.append(event)
                if not has_usage and not is_last:
                    self._learn(data)
                return
        fields = self._fields(data, chunk, choices)
        self._join(fields)
        if needs_work:
            self._strip_usage(fields)
        if is_last and self._asked is None:
            self._held = fields
        else:
            out.append(_encode(fields))

    def _pass_without_choices(self, data: bytes, chunk: Chunk, has_usage: bool, out: list[bytes]) -> None:
        fields = self._fields(data, chunk, [])
        if not self._asked:
            self._joining.update((name, value) for name, value in fields.items() if name not in _ENVELOPE)
            if len(self._joining) > _MOST_JOINING:
                self._joining.clear()
            return
        fields["choices"] = Raw(b"[]")
        if has_usage:
            self._tail = fields
        else:
            out.append(_encode(fields))

    def _read_usage(self, chunk: Chunk, choices: list[ChunkChoice]) -> bool:
        """Take every report in an event, the one that counts last; return whether there is one."""
        found = False
        if chunk.x_groq is not None and chunk.x_groq.usage != NULL:
            self._meter.read(chunk.x_groq.usage)
            found = True
        for choice in choices:
            if choice.usage != NULL:
                self._meter.read(choice.usage)
                found = True
        if chunk.usage != NULL:
            self._meter.read(chunk.usage)
            found = True
        return found

    def _read_choices(self, choices: list[ChunkChoice]) -> bool:
        """Count the text of an event; return whether a choice finishes in it."""
        is_last = False
        for position, choice in enumerate(choices):
            if choice.finish_reason:
                is_last = True
                self.finish = choice.finish_reason
                self._finished.add(position if choice.index is UNSET else choice.index)
        texts, pictures, sound = _texts(choices), _pictures(choices), _sound(choices)
        if texts or pictures or sound:
            self.chunks += 1
            self._output.pictures += pictures
            self._output.sound += sound
            self._pieces += texts
            if len(self._pieces) >= PIECES:
                _ = self.output
        return is_last

    def _learn(self, data: bytes) -> None:
        """Learn what surrounds the text of an event that passed as it came and brought only text."""
        around = around_text(data)
        if around is None or around != self._around:
            self._around, self._is_tried = around, False
        elif not self._is_tried:
            self._is_tried = True
            probe = around.probe()
            chunk = read_chunk(probe)
            choices = chunk.choices or []
            event = self._spliced(probe, chunk, choices)
            if event is not None and _texts(choices) == [PROBE] and not _pictures(choices):
                self._learnt = around.learn(event)
                self._learnt_created = chunk.created

    def _is_unconcerned(self) -> bool:
        """Whether a plain event that comes next passes as it is, and changes nothing but what was produced."""
        if self._learnt is None or self._held is not None or self._joining or not self._decoder.is_between_events:
            return False
        if self.done or self._stopped or self.failed is not None:
            return False
        return self._created == self._learnt_created

    # --- Bytes ---

    def _spliced(self, data: bytes, chunk: Chunk, choices: list[ChunkChoice]) -> bytes | None:
        """The event with our names in it; None if that takes more than replacing two strings.

        A value that occurs only once in the event is where it was read, so nothing else can be changed by mistake.
        Nearly all events of a stream begin with the same bytes, names included: their replacement is remembered.
        """
        if not self._is_whole(chunk, choices):
            return None
        if self._start and data.startswith(self._start):
            return sse.encode(self._start_for_caller + data[len(self._start) :])
        if chunk.id is NOTHING or chunk.model is NOTHING or data.count(chunk.id) != 1 or data.count(chunk.model) != 1:
            return None
        # One byte more than the later name: a number could go on after it.
        end = 1 + max(data.index(chunk.id) + len(bytes(chunk.id)), data.index(chunk.model) + len(bytes(chunk.model)))
        start = data[:end]
        around_model = start.replace(chunk.id, msgspec.json.encode(self._names.id)).split(chunk.model)
        if len(around_model) != 2:
            return None
        self._start, self._start_for_caller = start, msgspec.json.encode(self._names.model).join(around_model)
        self._created = chunk.created
        return sse.encode(self._start_for_caller + data[end:])

    def _is_whole(self, chunk: Chunk, choices: list[ChunkChoice]) -> bool:
        """Whether nothing that clients need is missing."""
        if chunk.object is NOTHING or chunk.created is NOTHING:
            return False
        for choice in choices:
            if choice.index is UNSET or (choice.delta is None if self._shape.is_chat else choice.text is None):
                return False
        return True

    def _fields(self, data: bytes, chunk: Chunk, choices: list[ChunkChoice]) -> dict[str, Raw]:
        """The event's members, with our names and all that clients need."""
        fields = read_fields(data)
        if fields.get("object", _EMPTY) == _EMPTY:
            fields["object"] = self._shape.chunk
        self._created = fields.setdefault("created", self._created)
        self._names.put_on(fields)
        if not self._is_whole(chunk, choices) and choices:
            whole = []
            for position, raw in enumerate(msgspec.json.decode(fields["choices"], type=list[Raw])):
                choice = read_fields(raw)
                choice.setdefault("index", Raw(str(position).encode()))
                for name, value in self._shape.empty.items():
                    if choice.get(name, NULL) == NULL:
                        choice[name] = value
                whole.append(choice)
            fields["choices"] = Raw(msgspec.json.encode(whole))
        return fields

    def _strip_usage(self, fields: dict[str, Raw]) -> None:
        """Remove reports from where they do not belong. For callers who asked, null says that usage is yet to come."""
        if self._asked:
            fields["usage"] = NULL
            return
        for name in ("usage", "x_groq"):
            fields.pop(name, None)
        choices = [read_fields(raw) for raw in msgspec.json.decode(fields["choices"], type=list[Raw])]
        for choice in choices:
            choice.pop("usage", None)
        fields["choices"] = Raw(msgspec.json.encode(choices))

    def _join(self, fields: dict[str, Raw]) -> None:
        for name, value in self._joining.items():
            fields.setdefault(name, value)
        self._joining.clear()

    def _event(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """An event of our own."""
        return {
            "id": self._names.id,
            "object": self._shape.chunk,
            "created": self._created,
            "model": self._names.model,
            "choices": Raw(msgspec.json.encode(choices)),
        }

    def _empty(self, index: int, finish: str) -> dict[str, Any]:
        return {"index": index, **self._shape.empty, "finish_reason": finish}

    def _release(self) -> list[bytes]:
        """The event that was withheld, without usage, which another event will carry."""
        held, self._held = self._held, None
        return [] if held is None else [_encode(held)]


def _encode(fields: dict[str, Any]) -> bytes:
    return sse.encode(msgspec.json.encode(fields))


def _pictures(choices: list[ChunkChoice]) -> int:
    deltas = [choice.delta for choice in choices]
    return sum(pictures_in(each.images) for each in deltas if each is not None and each.images is not UNSET)


def _sound(choices: list[ChunkChoice]) -> int:
    spoken = [choice.delta.audio for choice in choices if choice.delta is not None and choice.delta.audio is not None]
    return sum(len(each.data) for each in spoken if each.data)


def _texts(choices: list[ChunkChoice]) -> list[str]:
    """All that was produced, tool calls included."""
    texts: list[str] = []
    for choice in choices:
        delta = choice.delta
        if delta is None:
            texts += filter(None, (choice.text,))
            continue  # a `text` beside a delta repeats its content (Together)
        if delta.content:
            texts.append(delta.content)
        if delta.reasoning_content or delta.reasoning:
            texts.append(delta.reasoning_content or delta.reasoning or "")
        if delta.refusal:
            texts.append(delta.refusal)
        for call in delta.tool_calls or ():
            if call.function is not None:
                texts.extend(filter(None, (call.function.name, call.function.arguments)))
            if call.custom is not None:
                texts.extend(filter(None, (call.custom.name, call.custom.input)))
        if delta.function_call is not None:
            texts.extend(filter(None, (delta.function_call.name, delta.function_call.arguments)))
        if delta.audio is not None and delta.audio.transcript:
            texts.append(delta.audio.transcript)
    return texts


def _failure(name: bytes, chunk: Chunk, choices: list[ChunkChoice]) -> UpstreamError | None:
    """What the provider says went wrong."""
    error = chunk.error
    for choice in choices:
        error = error or choice.error
        if choice.finish_reason in FAILED:
            return errors.said_in(error)
    if error or name == b"error":
        return errors.said_in(error)
    return errors.said_beside(chunk.base_resp)
