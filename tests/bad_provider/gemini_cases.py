"""Cases of providers that speak Gemini's generateContent, for gateways that translate to OpenAI's chat."""

import json
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

DIALECT = "gemini"
ERROR = {"error": {"code": 503, "message": f"The model is overloaded: {SECRET}", "status": "UNAVAILABLE"}}
USAGE = {"promptTokenCount": 60, "candidatesTokenCount": WORDS, "totalTokenCount": 60 + WORDS}
WHOLE = [answered(TRUE)]


def reply(text: str | None = None, usage: Any = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """A whole answer, or one event of a stream."""
    candidate: dict[str, Any] = {"index": 0}
    if text is not None:
        candidate["content"] = {"role": "model", "parts": [{"text": text}]}
    if finish is not None:
        candidate["finishReason"] = finish
    fields: dict[str, Any] = {"candidates": [candidate], "modelVersion": "upstream", "responseId": "r1"}
    if usage is not None:
        fields["usageMetadata"] = usage
    return {**fields, **more}


def said(*values: Any) -> bytes:
    """An event as Gemini frames it."""
    return event(reply(*values), line_end=b"\r\n")


def growing(last: Any = None, text: str = ANSWER) -> list[bytes]:
    """A whole stream with usage on every event, as the service sends it."""
    parts = words(text)
    counts = [{**USAGE, "candidatesTokenCount": 5 * n + 1, "totalTokenCount": 61 + 5 * n} for n in range(len(parts))]
    begun = [said(part, usage) for part, usage in zip(parts[:-1], counts, strict=False)]
    return [*begun, said(parts[-1], USAGE if last is None else last, "STOP")]


def bare(last: Any = None) -> list[bytes]:
    """A whole stream with usage only on its last event, or nowhere."""
    parts = words()
    return [*map(said, parts[:-1]), said(parts[-1], last, "STOP")]


def cases() -> list[Case]:
    return [case for group in (_usage, _streamed_usage, _said, _framed, _cut) for case in group()]


def _case(name: str, steps: Sequence[Step], right: Sequence[Outcome], why: str) -> Case:
    return Case(f"gemini/{name}", DIALECT, False, tuple(steps), tuple(right), why)


def _stream(name: str, steps: Sequence[Step], right: Sequence[Outcome], why: str) -> Case:
    return Case(f"gemini/{name}-stream", DIALECT, True, tuple(steps), tuple(right), why)


def _both(name: str, usage: Any, right: Sequence[Bill], why: str) -> Iterator[Case]:
    outcomes = [answered(bill) for bill in right]
    yield _case(name, [http(reply(ANSWER, usage, "STOP"))], outcomes, why)
    yield _stream(name, events(bare(usage)), outcomes, why)


def _usage() -> Iterator[Case]:
    def changed(**members: Any) -> dict[str, Any]:
        return {**USAGE, **members}

    yield from _both("control", USAGE, [TRUE], "nothing is wrong: what is reported is billed")
    yield from _both(
        "thoughts",
        changed(thoughtsTokenCount=20, totalTokenCount=80 + WORDS),
        [exactly(60, WORDS + 20)],
        "candidates leave out thoughts: both are output",
    )
    yield from _both(
        "thoughts-within",
        changed(thoughtsTokenCount=20),
        [TRUE],
        "where the total is prompt and candidates alone, candidates include thoughts (seen on Vertex)",
    )
    yield from _both(
        "thoughts-only",
        {"promptTokenCount": 60, "thoughtsTokenCount": WORDS, "totalTokenCount": 60 + WORDS},
        [TRUE],
        "candidates may be left out: thoughts are output all the same",
    )
    yield from _both(
        "cached",
        changed(cachedContentTokenCount=20),
        [exactly(60, WORDS, 20)],
        "cached tokens are part of the prompt, at their own price",
    )
    yield from _both(
        "cached-more-than-prompt",
        changed(cachedContentTokenCount=5000),
        [Bill(Span(60, 60), Span(WORDS, WORDS), Span(0, 60)), COUNTED],
        "a part is never larger than its whole, and no meter becomes negative",
    )
    yield from _both(
        "read-by-tools",
        changed(toolUsePromptTokenCount=30, totalTokenCount=90 + WORDS),
        [exactly(90, WORDS)],
        "what Gemini's own tools read is input too",
    )
    yield from _both(
        "candidates-left-out",
        {"promptTokenCount": 60, "totalTokenCount": 60 + WORDS},
        [TRUE, COUNTED],
        "the output is the total without the prompt",
    )
    yield from _both(
        "total-disagrees", changed(totalTokenCount=100_000), [TRUE], "parts are billed, never a total that says more"
    )
    unbelievable = "a count that cannot be true says nothing: what was sent and received is counted instead"
    for name, value in (("negative", -5), ("huge", 10**12), ("text", "many"), ("bool", True), ("fraction", 5.5)):
        yield from _both(f"output-{name}", changed(candidatesTokenCount=value), [COUNTED], unbelievable)
        yield from _both(f"prompt-{name}", changed(promptTokenCount=value), [COUNTED], unbelievable)
    for name, usage in (("missing", None), ("empty", {}), ("an-array", []), ("a-string", "60/41")):
        yield from _both(f"usage-{name}", usage, [COUNTED], "no usage: what was sent and received is counted")
    yield from _both(
        "usage-zero",
        {"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0},
        [exactly(0, 0)],
        "zero is a count: the provider says that it bills nothing",
    )


def _streamed_usage() -> Iterator[Case]:
    yield _stream("cumulative", events(growing()), WHOLE, "each report counts from the start: the last one is the bill")
    first = {"promptTokenCount": 60, "totalTokenCount": 60}
    texts = words()
    yield _stream(
        "usage-in-first-event-only",
        events([said(texts[0], first), *bare()[1:]]),
        [answered(Bill(COUNTED_PROMPT, COUNTED_OUTPUT))],
        "what was reported before the output cannot have counted it",
    )
    yield _stream(
        "candidates-absent-until-last",
        events([*(said(text, first) for text in texts[:-1]), said(texts[-1], USAGE, "STOP")]),
        WHOLE,
        "what is absent before the end is a placeholder",
    )
    yield _stream(
        "usage-behind-the-finish",
        events([*bare(), event({"usageMetadata": USAGE}, line_end=b"\r\n")]),
        [*WHOLE, answered(COUNTED)],
        "late, and still the bill",
    )
    yield _stream(
        "good-then-absurd",
        events([*growing(), event({"usageMetadata": {**USAGE, "candidatesTokenCount": -1}}, line_end=b"\r\n")]),
        WHOLE,
        "the last report that can be believed counts",
    )
    yield _stream(
        "usage-missing-on-last",
        events([*(said(text, USAGE) for text in texts[:-1]), said(texts[-1], None, "STOP")]),
        WHOLE,
        "the last report that there is holds nearly all output",
    )


def _said() -> Iterator[Case]:
    why = "an error is no answer, whatever its status: it is free, and its text is not output"
    yield _case("error-with-200", [http(ERROR)], [failed()], why)
    yield _stream("error-with-200", [http(ERROR)], [failed()], why)
    yield _stream("error-first", events([event(ERROR)]), [failed()], why)
    begun, text = growing()[:3], "".join(words()[:3])
    yield _stream("error-midway", events([*begun, event(ERROR)]), broken(text), "the part before it may be kept")
    quota = {"error": {"code": 429, "message": f"Quota of {SECRET}", "status": "RESOURCE_EXHAUSTED"}}
    yield _case("status-429", [http(quota, 429)], [failed()], "an error is an error, without secrets")
    yield _stream("status-429-in-an-array", [http([quota], 429)], [failed()], "some errors come in arrays")
    yield _case("status-503", [http(ERROR, 503)], [failed()], "an error is an error, without secrets")
    key = {"error": {"code": 400, "message": f"API key not valid: {SECRET}", "status": "INVALID_ARGUMENT"}}
    own = "a 400 that is about the operator's key is not the customer's mistake"
    yield _case("status-400-of-the-key", [http(key, 400)], [failed(Span(500, 599))], own)
    blocked = {
        "promptFeedback": {"blockReason": "SAFETY"},
        "usageMetadata": {"promptTokenCount": 60, "totalTokenCount": 60},
    }
    filtered = [answered(exactly(60, 0), ""), failed()]
    no_output = "the prompt was read and refused: it is billed as reported, or refused and free"
    yield _case("prompt-blocked", [http(blocked)], filtered, no_output)
    yield _stream("prompt-blocked", events([event(blocked)]), filtered, no_output)
    senseless = "an answer that makes no sense is an error, and free"
    yield _case("senseless-page", [http(b"<html>Busy</html>")], [failed()], senseless)
    yield _case("senseless-dialect", [http(completion())], [failed()], senseless)
    yield _case("senseless-candidates", [http({"candidates": "none"})], [failed()], senseless)
    yield _case("senseless-nothing", [http({})], [failed()], senseless)
    yield _stream("senseless-nothing", events([]), [failed()], senseless)
    yield _stream("senseless-event", events([*begun, event(b"<html>")]), broken(text), senseless)
    array = [json.loads(part.removeprefix(b"data: ")) for part in growing()]
    yield _stream(
        "array-instead-of-events",
        [http(array)],
        [*WHOLE, failed()],
        "events were asked for: the answer as a stream, or an error that is free",
    )


def _framed() -> Iterator[Case]:
    why = "the standard of server-sent events allows it"
    greeting = b"".join(growing(text=GREETING))
    yield _stream("split-at-every-byte", byte_by_byte(greeting), [answered(TRUE, GREETING)], "a cut may fall anywhere")
    plain = b"".join(growing())
    thought = reply()
    thought["candidates"][0]["content"] = {"role": "model", "parts": [{"text": "Hm.", "thought": True}]}
    signed = reply()
    signed["candidates"][0]["content"] = {"role": "model", "parts": [{"text": "", "thoughtSignature": "abc"}]}
    empty = {"candidates": [], "usageMetadata": {"promptTokenCount": 60, "totalTokenCount": 60}}
    forms = {
        "lf": plain.replace(b"\r\n", b"\n"),
        "one-write": plain,
        "indented": b"".join(_indented(part) for part in growing()),
        "done": plain + b"data: [DONE]\r\n\r\n",
        "comments": b": hello\r\n\r\n" + plain,
        "thought-first": event(thought) + plain,
        "signature": event(signed) + plain,
        "no-candidates-first": event(empty) + plain,
        "no-content-first": said() + plain,
    }
    for name, data in forms.items():
        yield _stream(name, [EVENTS_HEAD + framed(data) + LAST_CHUNK], WHOLE, why)
    parts = reply(None, USAGE, "STOP")
    parts["candidates"][0]["content"] = {"role": "model", "parts": [{"text": ANSWER[:50]}, {"text": ANSWER[50:]}]}
    yield _case("two-parts", [http(parts)], WHOLE, "an answer may have several parts")


def _indented(part: bytes) -> bytes:
    """JSON over many lines, each of them a data line."""
    text = json.dumps(json.loads(part.removeprefix(b"data: ")), indent=2).encode()
    return b"".join(b"data: %b\r\n" % line for line in text.split(b"\n")) + b"\r\n"


def _cut() -> Iterator[Case]:
    begun, text = growing()[:3], "".join(words()[:3])
    why = "an answer that broke off is said to be broken: never an end as if it were whole"
    for end in (End.CLOSE, End.RESET):
        how = end.value.lower()
        yield _stream(f"{how}-midway", [*events(begun, ends=False), end], broken(text), why)
        half = framed(growing()[3][:40])
        yield _stream(f"{how}-within-an-event", [*events(begun, ends=False), half, Pause(0.02), end], broken(text), why)
        yield _stream(f"{how}-at-the-end", [*events(growing(), ends=False), end], WHOLE, "the answer is whole")
    yield _stream("ends-midway", events(begun), broken(text), "properly closed, and still not finished")
