"""What OpenAI-like providers do besides answering: disguised errors, odd framing, cut streams, odd shapes."""

import gzip
import json
from collections.abc import Iterator

from tests.bad_provider.case import (
    ANSWER,
    COUNTED,
    COUNTED_OUTPUT,
    COUNTED_PROMPT,
    FREE,
    SECRET,
    Bill,
    Case,
    End,
    Forever,
    Kind,
    Outcome,
    Pause,
    Span,
    answered,
    broken,
    exactly,
    failed,
)
from tests.bad_provider.openai_speech import (
    DONE,
    ERROR,
    GREETING,
    TRUE,
    USAGE,
    chunk,
    completion,
    stream_case,
    streamed,
    tail,
    used,
    whole_case,
    words,
)
from tests.bad_provider.raw import EVENTS_HEAD, LAST_CHUNK, byte_by_byte, event, events, framed, head, http


def cases() -> list[Case]:
    groups = (_said, _statuses, _senseless, _framed, _cut, _shaped, _carried)
    return [case for group in groups for case in group()]


def _said() -> Iterator[Case]:
    """Errors that come with a 200."""
    why = "an error is no answer, whatever its status: it is free, and its text is not output"
    for name, body in (
        ("object", {"error": ERROR}),
        ("string", {"error": f"no luck with {SECRET}"}),
        ("with-choices", {"error": ERROR, "choices": [], "usage": USAGE}),
        ("of-a-framework", {"detail": f"no luck with {SECRET}"}),
        ("finish", json.loads(completion(text="", finish="error"))),
        (
            "in-the-choice",
            {
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": ""},
                        "finish_reason": "error",
                        "error": ERROR,
                    }
                ]
            },
        ),
    ):
        yield whole_case(f"error-with-200-{name}", [http(body)], [failed()], why)
    for name, body in (("object", {"error": ERROR}), ("string", {"error": f"no luck with {SECRET}"})):
        yield stream_case(f"error-with-200-{name}", [http(body)], [failed()], why)
    yield whole_case(
        "error-null", [http(completion(usage=USAGE, error=None))], [answered(TRUE)], "an error that is null is none"
    )
    said = event({"error": ERROR})
    yield stream_case("error-first", events([said]), [failed()], why)
    yield stream_case("error-first-then-done", events([said, DONE]), [failed()], why)
    yield stream_case(
        "error-first-named", events([event({"message": f"no luck with {SECRET}"}, "error")]), [failed()], why
    )
    begun = streamed()[:3]
    text = "".join(words()[:3])
    yield stream_case(
        "error-midway", events([*begun, said]), broken(text), "the part before it may be kept; the error is shown"
    )
    yield stream_case(
        "error-midway-then-done",
        events([*begun, said, DONE]),
        broken(text),
        "an end behind an error does not make it whole",
    )
    yield stream_case(
        "error-midway-in-the-choice",
        events([*begun, event(chunk(finish="error", error=ERROR)), DONE]),
        broken(text),
        "OpenRouter's form: a normal chunk with an error beside its choice",
    )
    yield stream_case(
        "error-midway-with-usage",
        events([*begun, event(chunk(choices=[], error=ERROR, usage=USAGE)), DONE]),
        (*broken(text), Outcome(Kind.BROKEN, TRUE, text)),
        "reported or not, it is not whole",
    )


def _statuses() -> Iterator[Case]:
    own = "the customer's key and credit are fine: what is between the provider and the operator is no 401, 402 or 403"
    theirs = (
        "an error of the provider is an error here, in one shape, without the provider's secrets; nothing is billed"
    )
    for status in (400, 404, 413, 422, 429, 500, 502, 503, 529):
        for make in (whole_case, stream_case):
            yield make(f"status-{status}", [http({"error": ERROR}, status)], [failed()], theirs)
    for status in (401, 402, 403):
        for make in (whole_case, stream_case):
            yield make(f"status-{status}", [http({"error": ERROR}, status)], [failed(Span(500, 599))], own)
    page = b"<html><h1>Bad gateway</h1>" + SECRET.encode() + b"</html>"
    yield whole_case("status-page", [http(page, 502, {"Content-Type": "text/html"})], [failed()], theirs)
    yield whole_case("status-empty", [http(b"", 500)], [failed()], theirs)
    redirect = http(b"", 302, {"Location": "/trap"})
    yield whole_case(
        "redirect",
        [redirect],
        [failed()],
        "a redirect is not followed: it would carry the operator's key to wherever it points",
    )
    yield whole_case("status-204", [head({}, 204)], [failed()], "no content is no answer")


def _senseless() -> Iterator[Case]:
    why = "an answer that makes no sense is an error, and free"
    for name, body in (
        *(("page", b"<html>Busy</html>"), ("nothing", b""), ("array", b"[]"), ("null", b"null"), ("number", b"7")),
        *(("half-json", completion()[:-40]), ("not-utf8", completion("caf\xe9").replace("é".encode(), b"\xe9"))),
        *(("choices-null", completion(choices=None)), ("choices-empty", completion(choices=[]))),
        *(("choices-of-text", completion(choices="none")), ("no-choices", b'{"object":"chat.completion"}')),
        *(
            ("message-null", completion(choices=[{"index": 0, "message": None}])),
            ("deep", b'{"choices":' + b"[" * 50_000),
        ),
    ):
        yield whole_case(f"senseless-{name}", [http(body)], [failed()], why)
    yield stream_case(
        "senseless-page", [http(b"<html>Busy</html>", 200, {"Content-Type": "text/html"})], [failed()], why
    )
    yield stream_case("senseless-nothing", events([]), [failed()], why)
    yield stream_case("senseless-event", events([*streamed()[:2], event(b"<html>")]), broken("".join(words()[:2])), why)
    yield stream_case(
        "whole-instead-of",
        [http(completion(usage=USAGE))],
        [answered(TRUE), failed()],
        "a stream was asked for: the answer as a stream, or an error that is free",
    )
    yield whole_case(
        "stream-instead-of-whole",
        events(streamed(USAGE)),
        [answered(TRUE), failed()],
        "a whole answer was asked for: the stream put together, or an error that is free",
    )
    for kind in ("text/html", "text/plain", "application/octet-stream"):
        yield whole_case(
            f"type-{kind.replace('/', '-')}",
            [http(completion(usage=USAGE), 200, {"Content-Type": kind})],
            [answered(TRUE)],
            "what it says counts, not what it is called",
        )
    named = EVENTS_HEAD.replace(b"text/event-stream", b"text/plain")
    yield stream_case(
        "type-text-plain",
        [named, *map(framed, streamed(USAGE)), LAST_CHUNK],
        [answered(TRUE)],
        "what it says counts, not what it is called",
    )


def _framed() -> Iterator[Case]:
    """Streams that are valid server-sent events, but unusual."""
    whole = [answered(TRUE)]
    plain = b"".join(streamed(USAGE))
    why = "https://html.spec.whatwg.org/multipage/server-sent-events.html allows it"
    greeting = b"".join(streamed(USAGE, GREETING))
    yield stream_case(
        "split-at-every-byte",
        byte_by_byte(greeting),
        [answered(TRUE, GREETING)],
        "a cut may fall anywhere, within a character too",
    )
    crlf = greeting.replace(b"\n", b"\r\n")
    yield stream_case(
        "split-at-every-byte-crlf", byte_by_byte(crlf), [answered(TRUE, GREETING)], "between CR and LF too"
    )
    padded = b"".join(b": keep-alive %d\n\n%b" % (number, part) for number, part in enumerate(streamed(USAGE)))
    forms = {
        "crlf": plain.replace(b"\n", b"\r\n"),
        "cr": plain.replace(b"\n", b"\r"),
        "mixed-ends": plain.replace(b"\n\n", b"\r\n\n", 2).replace(b"\n\n", b"\r\r", 2),
        "no-space": plain.replace(b"data: ", b"data:"),
        "byte-order-mark": b"\xef\xbb\xbf" + plain,
        "comments": padded,
        "comment-within": plain.replace(b"data: ", b": note\ndata: "),
        "other-fields": plain.replace(b"data: ", b"id: 7\nretry: 100\nevent: message\nsomething: else\ndata: "),
        "multi-line-data": plain.replace(b'"choices"', b'\ndata: "choices"'),
        "spaces-around": plain.replace(b"data: ", b"data:   ").replace(b"\n\n", b"   \n\n"),
        "empty-events": plain.replace(b"\n\n", b"\n\ndata: \n\n\n\n"),
        "spaced-json": b"".join(_spaced(part) for part in streamed(USAGE)),
        "one-write": plain,
    }
    for name, data in forms.items():
        yield stream_case(name, [EVENTS_HEAD + framed(data) + LAST_CHUNK], whole, why)
    long = "word " * 100_000
    yield stream_case(
        "huge-line",
        events([event(chunk(long)), *streamed(USAGE)[-3:]]),
        [answered(TRUE, long)],
        "half a megabyte is a long line, and a good one",
    )
    yield stream_case(
        "endless-line",
        [EVENTS_HEAD, *map(framed, streamed()[:2]), *([framed(b"data: ")] + [framed(b"x" * 262_144)] * 40)],
        broken("".join(words()[:2])),
        "10 MiB without the end of a line: given up, not kept in memory",
    )
    yield stream_case(
        "nul",
        events([event(chunk("a\x00b")), *streamed(USAGE)[-3:]]),
        [answered(TRUE, "a\x00b")],
        "an escaped NUL is a character",
    )
    half = event(chunk("HALF")).replace(b"HALF", b"\\ud83d")
    yield stream_case(
        "half-a-surrogate",
        events([half, *streamed(USAGE)]),
        [
            answered(TRUE, "\ud83d" + ANSWER),
            answered(TRUE, "\ufffd" + ANSWER),
            answered(TRUE, "?" + ANSWER),
            answered(TRUE),
        ],
        "a character cut in two is no reason to fail",
    )


def _spaced(part: bytes) -> bytes:
    """JSON as Python's writer makes it by default."""
    data = part.removeprefix(b"data: ").strip()
    return (
        part if data == b"[DONE]" else b"data: " + json.dumps(json.loads(data), ensure_ascii=False).encode() + b"\n\n"
    )


def _cut() -> Iterator[Case]:
    begun, text = streamed()[:3], "".join(words()[:3])
    why = "an answer that broke off is said to be broken: never an end as if it were whole"
    for end in (End.CLOSE, End.RESET):
        how = end.value.lower()
        yield stream_case(f"{how}-midway", [*events(begun, ends=False), end], broken(text), why)
        half = [*events(begun, ends=False), framed(streamed()[3][:30]), Pause(0.02), end]
        yield stream_case(f"{how}-within-an-event", half, broken(text), why)
        yield stream_case(
            f"{how}-before-output", [EVENTS_HEAD, Pause(0.02), end], [failed()], "nothing came: an error, and free"
        )
        yield stream_case(f"{how}-before-the-head", [Pause(0.01), end], [failed()], "nothing came: an error, and free")
        yield whole_case(f"{how}-before-the-head", [Pause(0.01), end], [failed()], "nothing came: an error, and free")
        whole = http(completion(usage=USAGE))
        yield whole_case(f"{how}-within-a-body", [whole[:-30], Pause(0.02), end], [failed()], why)
    cut_character = event(chunk("世界")).partition("界".encode())[0] + "界".encode()[:2]
    yield stream_case(
        "fin-within-a-character",
        [*events(begun, ends=False), framed(cut_character), Pause(0.02), End.CLOSE],
        broken(text),
        why,
    )
    yield stream_case("ends-midway", events(begun), broken(text), "properly closed, and still not finished")
    finished = [answered(COUNTED)]
    yield stream_case("no-done", events(streamed()[:-1]), finished, "finished: the mark of the end is only a mark")
    yield stream_case("no-done-with-usage", events(streamed(USAGE)[:-1]), [answered(TRUE)], "finished, and reported")
    yield stream_case("no-finish", events([*streamed()[:-2], DONE]), finished, "it says that it is over: it is")
    yield stream_case(
        "no-finish-with-usage",
        events([*streamed()[:-2], event(tail(USAGE)), DONE]),
        [answered(TRUE)],
        "it says that it is over: it is",
    )
    yield stream_case(
        "no-last-chunk",
        [*events(streamed(USAGE), ends=False), End.CLOSE],
        [answered(TRUE)],
        "the answer is whole, whatever HTTP says",
    )
    yield stream_case(
        "reset-after-done",
        [*events(streamed(USAGE), ends=False), Pause(0.02), End.RESET],
        [answered(TRUE)],
        "the answer is whole",
    )
    unclosed = streamed(USAGE)
    yield stream_case(
        "no-empty-line-at-the-end", events([*unclosed[:-1], b"data: [DONE]"]), [answered(TRUE)], "all has been said"
    )
    yield stream_case(
        "endless",
        [EVENTS_HEAD, Forever(framed(event(chunk("word "))))],
        [Outcome(Kind.CUT, Bill(Span(0, COUNTED_PROMPT.most), Span(0, 4000)))],
        "told to write 200 tokens, it never stops: it is stopped, and billed for no more than a few times that",
    )


def _shaped() -> Iterator[Case]:
    """Answers whose members are missing, null, or more than expected."""
    whole = [answered(TRUE)]
    why = "many servers do; official clients must not fail on it"
    odd = {
        "null-delta": [event(chunk(choices=[{"index": 0, "delta": None, "finish_reason": None}]))],
        "null-content": [
            event(chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}]))
        ],
        "empty-delta": [event(chunk(choices=[{"index": 0, "delta": {}, "finish_reason": None}]))] * 3,
        "no-delta": [event(chunk(choices=[{"index": 0, "finish_reason": None}]))],
        "empty-choices-first": [event(chunk(choices=[], prompt_filter_results=[{"prompt_index": 0}]))],
        "null-tool-calls": [
            event(chunk(choices=[{"index": 0, "delta": {"content": "", "tool_calls": None, "refusal": None}}]))
        ],
        "role-again": [
            event(chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]))
        ]
        * 2,
        "unknown-members": [event(chunk("", service_tier="x", p="aaaaaaa", system_fingerprint=None, odd={"": [1]}))],
    }
    for name, first in odd.items():
        yield stream_case(name, events([*first, *streamed(USAGE)]), whole, why)
    bare = [event({"choices": [{"delta": {"content": word}}]}) for word in words()]
    last = [event({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": USAGE}), DONE]
    yield stream_case("bare", events([*bare, *last]), whole, "no id, object, index or model: " + why)
    yield stream_case(
        "finish-twice", events([*streamed()[:-1], event(chunk(finish="stop")), event(tail(USAGE)), DONE]), whole, why
    )
    yield stream_case("done-twice", events([*streamed(USAGE), DONE]), whole, "the client gets one end")
    yield stream_case(
        "output-after-done",
        events([*streamed(USAGE), *streamed(used(60, 5000), " and more")]),
        [answered(TRUE), answered(exactly(60, 5000))],
        "over is over: nothing behind the end is shown",
    )
    yield whole_case("bare", [http({"choices": [{"message": {"content": ANSWER}}], "usage": USAGE})], whole, why)
    yield whole_case("finish-null", [http(completion(usage=USAGE, finish=None))], whole, why)
    yield stream_case(
        "no-output-with-usage",
        events([event(chunk(finish="stop")), event(tail(used(60, 0))), DONE]),
        [answered(exactly(60, 0), "")],
        "it read the prompt and had nothing to say: the prompt is billed",
    )
    yield whole_case(
        "no-output-no-finish",
        [http(completion("", used(60, 0), None))],
        [answered(FREE, "")],
        "no output and no finish is a failure in disguise",
    )
    yield stream_case(
        "reasoning-uncounted",
        events([event(chunk(choices=[{"index": 0, "delta": {"reasoning_content": ANSWER}}])), *streamed()]),
        [answered(Bill(COUNTED_PROMPT, Span(COUNTED_OUTPUT.least * 2, COUNTED_OUTPUT.most * 2)))],
        "where nobody counts, reasoning that was received is counted too",
    )


def _carried() -> Iterator[Case]:
    """Faulty HTTP."""
    body = completion(usage=USAGE)
    whole = [answered(TRUE)]
    yield whole_case(
        "length-too-long",
        [http(body, 200, {"Content-Length": str(len(body) + 50)}), End.CLOSE],
        [failed(), *whole],
        "half an answer is none, even if it looks whole",
    )
    yield whole_case(
        "length-too-short",
        [http(body, 200, {"Content-Length": str(len(body) - 50)}), End.CLOSE],
        [failed()],
        "what was cut off is not there",
    )
    yield whole_case(
        "no-length",
        [head({"Content-Type": "application/json"}) + body, End.CLOSE],
        whole,
        "the end of the connection is the end of the answer",
    )
    yield whole_case(
        "http-1-0",
        [b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + body, End.CLOSE],
        whole,
        "old, and right",
    )
    yield whole_case(
        "early-hints",
        [b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + http(body)],
        whole,
        "what comes before the answer is not the answer",
    )
    yield whole_case(
        "chunk-extensions",
        [
            EVENTS_HEAD.replace(b"text/event-stream", b"application/json"),
            b"%x;a=b\r\n%b\r\n" % (len(body), body),
            LAST_CHUNK,
        ],
        whole,
        "RFC 9112 allows it",
    )
    yield whole_case(
        "two-answers",
        [http(body) + http(completion("somebody else's answer", used(1, 1)))],
        [*whole, failed()],
        "what was sent too much is nobody's answer",
        again=True,
    )
    squeezed = gzip.compress(body)
    yield whole_case(
        "gzip",
        [http(squeezed, 200, {"Content-Encoding": "gzip"})],
        [failed(), *whole],
        "plain text was asked for: an error that is free, or the answer unpacked",
    )
    bomb = gzip.compress(bytes(64 << 20), 1)
    yield whole_case(
        "gzip-bomb",
        [http(bomb, 200, {"Content-Encoding": "gzip"})],
        [failed()],
        "64 MiB in a few hundred KiB: not unpacked whole",
    )
    loud = {"Set-Cookie": "session=1", "Server": SECRET, "X-Account": SECRET, "Connection": "keep-alive, X-Account"}
    yield whole_case("headers", [http(body, 200, loud)], whole, "headers of the provider are for the operator")
