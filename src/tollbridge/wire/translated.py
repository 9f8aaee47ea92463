"""Answers that come in one dialect and go out in another."""

from collections.abc import Iterable

import msgspec

from tollbridge.errors import ApiError, UpstreamError
from tollbridge.values import Usage
from tollbridge.wire.conversation import (
    Choice,
    Drawn,
    Event,
    Finish,
    Image,
    Refusal,
    RefusalDelta,
    Reply,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    ToolStart,
)
from tollbridge.wire.dialect import Client, Reader, Tail, Writer
from tollbridge.wire.event_reader import PIECES, Produced
from tollbridge.wire.exchange import Counter, Headers, Names, Receipt
from tollbridge.wire.request import Request


def with_one_call(reply: Reply) -> Reply:
    """`reply` with only the first call of each choice, for a caller who wants one at a time: not all providers obey."""
    return msgspec.structs.replace(reply, choices=tuple(map(_with_one_call, reply.choices)))


def _with_one_call(choice: Choice) -> Choice:
    first = next((part for part in choice.parts if isinstance(part, ToolCall)), None)
    parts = tuple(part for part in choice.parts if part is first or not isinstance(part, ToolCall))
    return msgspec.structs.replace(choice, parts=parts)


class TranslatedAnswer:
    """See `exchange.Answer`."""

    def __init__(self, client: Client, request: Request, names: Names, reply: Reply) -> None:
        self._client = client
        self._request = request
        self._names = names
        self._reply = reply

    @property
    def usage(self) -> Usage | None:
        return self._reply.usage

    @property
    def suspect(self) -> bool:
        return self._reply.suspect

    @property
    def reported(self) -> bytes:
        return self._reply.reported

    @property
    def finish(self) -> str | None:
        """None if the provider gave no reason, whatever the caller is told."""
        choice = self._reply.choices[0] if self._reply.choices else None
        return choice.reason if choice is not None and choice.native else None

    def text(self) -> bytes:
        found: list[str] = []
        for choice in self._reply.choices:
            for part in choice.parts:
                if isinstance(part, Text | Thinking | Refusal):
                    found.append(part.text)
                elif isinstance(part, ToolCall):
                    found += (part.name, part.arguments)
        return "\n".join(found).encode("utf-8", "surrogatepass")

    def pictures(self) -> int:
        return sum(isinstance(part, Image) for choice in self._reply.choices for part in choice.parts)

    def render(self, receipt: Receipt | None) -> bytes:
        return self._client.render(self._request, self._names, self._reply, receipt)


class TranslatedStream(Produced):
    """See `exchange.Stream`. The finish is withheld until the end, to go out with the usage."""

    def __init__(
        self, reader: Reader, writer: Writer, choices: int, output: Counter, *, one_call: bool = False
    ) -> None:
        """`choices`: how many answers will come. `one_call`: as `with_one_call`."""
        self.chunks = 0
        self.finish: str | None = None
        self._reader = reader
        self._writer = writer
        self._output = output
        self._pieces: list[str] = []
        self._finishes: dict[int, Finish] = {}
        self._choices = choices
        self._detail = ""
        self._one_call = one_call
        self._calls: dict[int, int] = {}  # the first of each choice

    @property
    def usage(self) -> Usage | None:
        return self._reader.usage

    @property
    def suspect(self) -> bool:
        return self._reader.suspect

    @property
    def reported(self) -> bytes:
        return self._reader.reported

    @property
    def told_first(self) -> Usage | None:
        return self._reader.told_first

    @property
    def failed(self) -> UpstreamError | None:
        return self._reader.failed

    @property
    def done(self) -> bool:
        return self._reader.done

    @property
    def complete(self) -> bool:
        return self._reader.done or bool(self._detail) or len(self._finishes) >= self._choices

    def feed(self, data: bytes) -> bytes:
        return self._write(self._reader.feed(data))

    def eof(self) -> bytes:
        return self._write(self._reader.eof())

    def end(self, receipt: Receipt | None) -> bytes:
        usage = self.usage if receipt is None or receipt.usage is None else receipt.usage
        finishes = tuple(self._finishes.values()) or (Finish("stop"),)
        return self._writer.end(Tail(finishes=finishes, usage=usage, receipt=receipt, detail=self._detail))

    def stop(self, reason: str) -> bytes:
        self.finish = "length"
        self._detail = reason
        for choice in range(self._choices):
            self._finishes.setdefault(choice, Finish("length", choice=choice))
        return b""

    def fail(self, error: ApiError, asked: Headers = ()) -> bytes:
        return self._writer.fail(error, asked)

    def _write(self, events: list[Event]) -> bytes:
        if not events or self._detail:
            return b""
        shown = []
        for event in self._first_calls(events) if self._one_call else events:
            if type(event) is Finish:
                self._finishes[event.choice] = event
                if event.choice == 0:
                    self.finish = event.reason
            else:
                shown.append(event)
                self._count(event)
        return self._writer.write(shown) if shown else b""

    def _first_calls(self, events: Iterable[Event]) -> Iterable[Event]:
        for event in events:
            if not isinstance(event, ToolStart | ToolDelta) or (
                self._calls.setdefault(event.choice, event.index) == event.index
            ):
                yield event

    def _count(self, event: Event) -> None:
        match event:
            case TextDelta() | ThinkingDelta() | RefusalDelta():
                piece = event.text
            case ToolDelta():
                piece = event.arguments
            case ToolStart():
                piece = event.name
            case Drawn():
                self.chunks += 1
                self._output.pictures += 1
                return
            case _:
                return
        if piece:
            self.chunks += 1
            self._pieces.append(piece)
            if len(self._pieces) >= PIECES:
                _ = self.output
