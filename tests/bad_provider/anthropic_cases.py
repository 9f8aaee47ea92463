"""Cases of providers that speak Anthropic's Messages, for gateways that translate to OpenAI's chat."""

from collections.abc import Iterator, Sequence
from typing import Any

from tests.bad_provider.case import (
    ANSWER,
    COUNTED,
    COUNTED_OUTPUT,
    COUNTED_PROMPT,
    SECRET,
    WORDS,
    Bill,
    Case,
    End,
    Outcome,
    Pause,
    Span,
    Step,
    answered,
    broken,
    exactly,
    failed,
)
from tests.bad_provider.openai_speech import GREETING, TRUE, completion, words
from tests.bad_provider.raw import EVENTS_HEAD, LAST_CHUNK, byte_by_byte, event, events, framed, http

DIALECT = "anthropic"
ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": f"Overloaded: {SECRET}"}}
# What a message_start reports: what was read, and hardly anything of what will be written.
START = {"input_tokens": 60, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1}
WHOLE = [answered(TRUE)]


def message(usage: Any, text: str = ANSWER, **more: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "upstream",
        "content": [{"type": "text", "text": text}] if text else [],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": usage,
        **more,
    }


def said(kind: str, **members: Any) -> bytes:
    return event({"type": kind, **members}, kind)


def start(usage: Any = START) -> bytes:
    return said("message_start", message=message(usage, "", stop_reason=None))


def block(text: str = ANSWER, index: int = 0) -> list[bytes]:
    """A block of text, in six pieces."""
    deltas = [
        said("content_block_delta", index=index, delta={"type": "text_delta", "text": word}) for word in words(text)
    ]
    opened = said("content_block_start", index=index, content_block={"type": "text", "text": ""})
    return [opened, *deltas, said("content_block_stop", index=index)]


def finish(usage: Any, stop_reason: str | None = "end_turn") -> bytes:
    members = {} if usage is None else {"usage": usage}
    return said("message_delta", delta={"stop_reason": stop_reason, "stop_sequence": None}, **members)


STOP = said("message_stop")


def streamed(usage: Any = START, last: Any = None, text: str = ANSWER) -> list[bytes]:
    """A whole stream: `usage` at its start, `last` at its end."""
    return [start(usage), *block(text), finish({"output_tokens": WORDS} if last is None else last), STOP]


def cases() -> list[Case]:
    return [case for group in (_usage, _streamed_usage, _said, _framed, _cut) for case in group()]


def _case(name: str, steps: Sequence[Step], right: Sequence[Outcome], why: str) -> Case:
    return Case(f"anthropic/{name}", DIALECT, False, tuple(steps), tuple(right), why)


def _stream(name: str, steps: Sequence[Step], right: Sequence[Outcome], why: str) -> Case:
    return Case(f"anthropic/{name}-stream", DIALECT, True, tuple(steps), tuple(right), why)


def _both(name: str, counts: dict[str, Any], right: Sequence[Bill], why: str) -> Iterator[Case]:
    """Counts in a whole answer; in a stream, the input at its start and the output at its end."""
    outcomes = [answered(bill) for bill in right]
    yield _case(name, [http(message(counts))], outcomes, why)
    written = {part: value for part, value in counts.items() if part.startswith(("output", "iterations"))}
    read = {**{part: value for part, value in counts.items() if part not in written}, "output_tokens": 1}
    yield _stream(name, events(streamed(read, written)), outcomes, why)


def _usage() -> Iterator[Case]:
    true = {"input_tokens": 60, "output_tokens": WORDS}
    yield from _both("control", true, [TRUE], "nothing is wrong: what is reported is billed")
    yield from _both(
        "cache-read",
        {**true, "input_tokens": 40, "cache_read_input_tokens": 20},
        [exactly(60, WORDS, 20)],
        "input_tokens leaves out what was read from the cache: the prompt is both",
    )
    yield from _both(
        "cache-written",
        {**true, "input_tokens": 40, "cache_creation_input_tokens": 20},
        [TRUE],
        "input_tokens leaves out what was written to the cache: the prompt is both",
    )
    details = {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 15}
    yield from _both(
        "cache-written-in-parts",
        {**true, "input_tokens": 40, "cache_creation_input_tokens": 20, "cache_creation": details},
        [TRUE],
        "the parts are not added to the whole",
    )
    yield from _both(
        "thinking",
        {**true, "output_tokens_details": {"thinking_tokens": 20}},
        [TRUE],
        "thinking is part of the output: it is not added to it",
    )
    rounds = [{"type": "compaction", "input_tokens": 500, "output_tokens": 100}, {"type": "message", **true}]
    yield from _both(
        "iterations",
        {**true, "iterations": rounds},
        [exactly(560, WORDS + 100)],
        "the iterations are the real bill: a compaction stands in no other number",
    )
    unbelievable = "a count that cannot be true says nothing: what was sent and received is counted instead"
    for name, value in (("negative", -5), ("huge", 10**12), ("text", "many"), ("bool", True), ("fraction", 5.5)):
        yield from _both(f"output-{name}", {**true, "output_tokens": value}, [COUNTED], unbelievable)
        yield _case(
            f"input-{name}", [http(message({**true, "input_tokens": value}))], [answered(COUNTED)], unbelievable
        )
    for name, usage in (("null", None), ("empty", {}), ("an-array", []), ("a-string", "60/41")):
        why = "no usage: what was sent and received is counted"
        yield _case(f"usage-{name}", [http(message(usage))], [answered(COUNTED)], why)
    for name, value in (("negative", -20), ("string", "20"), ("huge", 10**12)):
        yield _case(
            f"cache-read-{name}",
            [http(message({**true, "cache_read_input_tokens": value}))],
            [answered(TRUE), answered(COUNTED)],
            "a part that is no count is left out, or nothing of it is believed",
        )
    yield _case(
        "usage-zero",
        [http(message({"input_tokens": 0, "output_tokens": 0}))],
        [answered(exactly(0, 0))],
        "zero is a count: the provider says that it bills nothing",
    )


def _streamed_usage() -> Iterator[Case]:
    true = {"output_tokens": WORDS}
    yield _stream(
        "cumulative",
        events([start(), *block(), finish({"output_tokens": 9}, None), finish(true), STOP]),
        WHOLE,
        "message_delta counts from the start: the last one is the bill, not the sum",
    )
    yield _stream(
        "counts-repeated",
        events(streamed(last={**START, **true})),
        WHOLE,
        "message_delta may repeat what message_start said: it is not added",
    )
    yield _stream(
        "counts-corrected",
        events(streamed({**START, "input_tokens": 3}, {"input_tokens": 60, **true})),
        WHOLE,
        "what message_delta says of the prompt is newer",
    )
    yield _stream(
        "counts-zero-at-the-end",
        events(streamed(last={"input_tokens": 0, "cache_read_input_tokens": 0, **true})),
        WHOLE,
        "zeros at the end for what was read take nothing back",
    )
    counted = [answered(Bill(COUNTED_PROMPT, COUNTED_OUTPUT))]
    at_the_start = "what message_start says of the output is a placeholder: it is counted instead"
    yield _stream("message-delta-missing", events([start(), *block(), STOP]), counted, at_the_start)
    yield _stream("message-delta-without-usage", events([start(), *block(), finish(None), STOP]), counted, at_the_start)
    yield _stream("message-start-without-usage", events(streamed(None)), [*counted, *WHOLE], "half a report is none")
    yield _stream("message-start-missing", events(streamed()[1:]), [*counted, *broken()], "half a report is none")
    yield _stream(
        "output-zero",
        events([start(), finish({"output_tokens": 0}, "refusal"), STOP]),
        [answered(exactly(60, 0), "")],
        "a refusal has no output: the prompt is billed",
    )
    yield _stream(
        "good-then-absurd",
        events([start(), *block(), finish(true), finish({"output_tokens": -1}), STOP]),
        WHOLE,
        "the last report that can be believed counts",
    )
    yield _stream("message-stop-missing", events(streamed()[:-1]), WHOLE, "it said why it stopped and what it used")


def _said() -> Iterator[Case]:
    why = "an error is no answer, whatever its status: it is free, and its text is not output"
    yield _case("error-with-200", [http(ERROR)], [failed()], why)
    yield _stream("error-with-200", [http(ERROR)], [failed()], why)
    yield _stream("error-first", events([event(ERROR, "error")]), [failed()], why)
    yield _stream("error-after-the-start", events([start(), event(ERROR, "error")]), [failed()], why)
    begun, text = [start(), *block()[:4]], "".join(words()[:3])
    yield _stream("error-midway", events([*begun, event(ERROR, "error")]), broken(text), "the part may be kept")
    yield _stream("error-unnamed", events([*begun, event(ERROR)]), broken(text), "its type says what it is")
    for status in (400, 413, 429, 500, 529):
        yield _case(f"status-{status}", [http(ERROR, status)], [failed()], "an error is an error, without secrets")
    for status in (401, 402, 403):
        own = "the customer's key and credit are fine: what is between provider and operator is no 401, 402 or 403"
        yield _case(f"status-{status}", [http(ERROR, status)], [failed(Span(500, 599))], own)
    senseless = "an answer that makes no sense is an error, and free"
    yield _case("senseless-page", [http(b"<html>Busy</html>")], [failed()], senseless)
    yield _case("senseless-dialect", [http(completion())], [failed()], senseless)
    yield _case("senseless-content", [http(message({}, content="none"))], [failed()], senseless)
    yield _stream("senseless-nothing", events([]), [failed()], senseless)
    yield _stream("senseless-event", events([*begun, event(b"<html>", "content_block_delta")]), broken(text), senseless)


def _framed() -> Iterator[Case]:
    why = "the standard of server-sent events, or the dialect's documentation, allows it"
    greeting = b"".join(streamed(text=GREETING))
    yield _stream("split-at-every-byte", byte_by_byte(greeting), [answered(TRUE, GREETING)], "a cut may fall anywhere")
    plain = b"".join(streamed())
    ping, later = said("ping"), event({"type": "later_invention", "x": 1}, "later_invention")
    thought = [
        said("content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""}),
        said("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "Hm."}),
        said("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "abc"}),
        said("content_block_stop", index=0),
    ]
    nothing = said("content_block_delta", index=0, delta={"type": "text_delta", "text": ""})
    forms = {
        "crlf": plain.replace(b"\n", b"\r\n"),
        "padded": plain.replace(b"}\n\n", b"}          \n\n"),
        "unnamed": b"".join(part.partition(b"\n")[2] for part in streamed()),
        "pings": ping.join([b"", *streamed(), b""]),
        "later-inventions": later.join([b"", *streamed()]),
        "thinking-first": b"".join([start(), *thought, *block(index=1), finish({"output_tokens": WORDS}), STOP]),
        "two-blocks": b"".join([start(), *block(ANSWER[:50]), *block(ANSWER[50:], 1), *streamed()[-2:]]),
        "empty-delta": b"".join([*streamed()[:2], nothing, *streamed()[2:]]),
        "stop-twice": plain + STOP,
    }
    for name, data in forms.items():
        yield _stream(name, [EVENTS_HEAD + framed(data) + LAST_CHUNK], WHOLE, why)


def _cut() -> Iterator[Case]:
    begun, text = [start(), *block()[:4]], "".join(words()[:3])
    why = "an answer that broke off is said to be broken: never an end as if it were whole"
    for end in (End.CLOSE, End.RESET):
        how = end.value.lower()
        yield _stream(f"{how}-midway", [*events(begun, ends=False), end], broken(text), why)
        half = framed(block()[5][:40])
        yield _stream(f"{how}-within-an-event", [*events(begun, ends=False), half, Pause(0.02), end], broken(text), why)
        yield _stream(f"{how}-after-the-start", [*events([start()], ends=False), end], [failed()], "nothing came")
        yield _stream(f"{how}-at-the-end", [*events(streamed(), ends=False), end], WHOLE, "the answer is whole")
    yield _stream("ends-midway", events(begun), broken(text), "properly closed, and still not finished")
    yield _stream("ends-before-the-finish", events([start(), *block()]), broken(), "it never said that it was over")
