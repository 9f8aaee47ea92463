"""What OpenAI-like providers report as usage: missing, impossible, repeated, or in odd places."""

from collections.abc import Iterator, Sequence
from typing import Any

from tests.bad_provider.case import (
    COUNTED,
    COUNTED_OUTPUT,
    FREE,
    WORDS,
    Bill,
    Case,
    Span,
    answered,
    broken,
    exactly,
    failed,
)
from tests.bad_provider.openai_speech import (
    DONE,
    MISSING,
    TRUE,
    USAGE,
    chunk,
    completion,
    stream_case,
    streamed,
    tail,
    whole_case,
    words,
)
from tests.bad_provider.raw import event, events, http


def cases() -> list[Case]:
    return [*_controls(), *_usage(), *_placed(), *_cached()]


def _both(name: str, usage: Any, right: Sequence[Bill], why: str) -> Iterator[Case]:
    """One usage object, in a whole answer and at the end of a stream."""
    outcomes = [answered(bill) for bill in right]
    yield whole_case(name, [http(completion(usage=usage))], outcomes, why)
    yield stream_case(name, events(streamed(usage)), outcomes, why)


def _controls() -> Iterator[Case]:
    yield from _both("control", USAGE, [TRUE], "nothing is wrong: what is reported is billed")


def _reported(**changed: Any) -> dict[str, Any]:
    return {name: value for name, value in {**USAGE, **changed}.items() if value is not MISSING}


def _usage() -> Iterator[Case]:
    unbelievable = "a count that cannot be true says nothing: what was sent and received is counted instead"
    for name, value in (
        *(("negative", -5), ("huge", 10**12), ("beyond-the-limit", 5_000_000), ("beyond-int64", 10**30)),
        *(("bool", True), ("fraction", 5.5), ("array", [5]), ("object", {"count": 5}), ("text", "many")),
    ):
        yield from _both(
            f"output-{name}", _reported(completion_tokens=value, total_tokens=MISSING), [COUNTED], why=unbelievable
        )
        yield from _both(
            f"prompt-{name}", _reported(prompt_tokens=value, total_tokens=MISSING), [COUNTED], why=unbelievable
        )
    none = "no usage: what was sent and received is counted; an answer is never free because nobody counted"
    nothing: tuple[tuple[str, Any], ...] = (
        *(("missing", MISSING), ("null", None), ("empty", {}), ("an-array", []), ("a-string", "60/38")),
        *(("a-number", 98), ("total-only", {"total_tokens": 98}), ("false", False)),
        ("names-of-somebody-else", {"in": 60, "out": WORDS}),
    )
    for name, usage in nothing:
        yield from _both(f"usage-{name}", usage, [COUNTED], none)
    yield from _both(
        "usage-zero",
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        [FREE],
        "zero is a count: the provider says that it bills nothing",
    )
    yield from _both(
        "usage-in-strings",
        {"prompt_tokens": "60", "completion_tokens": str(WORDS), "total_tokens": str(60 + WORDS)},
        [COUNTED, TRUE],
        "numbers in quotes: read or counted, but billed",
    )
    yield from _both(
        "usage-in-floats",
        {"prompt_tokens": 60.0, "completion_tokens": float(WORDS), "total_tokens": 60.0 + WORDS},
        [TRUE, COUNTED],
        "a float that is a whole number is one",
    )
    yield from _both(
        "output-missing-with-total",
        _reported(completion_tokens=MISSING),
        [TRUE, COUNTED],
        "the output is the total without the prompt",
    )
    yield from _both("output-null", _reported(completion_tokens=None, total_tokens=None), [COUNTED], none)
    yield from _both(
        "total-disagrees", _reported(total_tokens=100_000), [TRUE], "parts are billed, never a total that says more"
    )
    yield from _both("total-too-small", _reported(total_tokens=1), [TRUE], "parts are billed, whatever the total says")
    yield from _both(
        "total-negative",
        _reported(total_tokens=-1),
        [COUNTED, TRUE],
        "a report with a lie in it is not believed, or its other parts are",
    )
    why = "not JSON, or no number: it says nothing; a whole answer may be refused for it, and is free then"
    for constant in (b"NaN", b"Infinity", b"1e999"):
        name = f"output-{constant.decode().lower()}"
        text = b'{"prompt_tokens":60,"completion_tokens":%b,"total_tokens":98}' % constant
        whole = [failed(Span(500, 599)), answered(COUNTED)]
        is_json = constant == b"1e999"
        yield whole_case(name, [http(completion(usage=text))], whole[::-1] if is_json else whole, why)
        yield stream_case(name, events(streamed(text)), [answered(COUNTED), *broken()], why)


def _placed() -> Iterator[Case]:
    """Usage in different places of a stream."""
    texts = words()
    whole = [answered(TRUE)]

    def told(output: int, **more: Any) -> dict[str, Any]:
        return {"prompt_tokens": 60, "completion_tokens": output, "total_tokens": 60 + output, **more}

    def growing(last: Any) -> list[bytes]:
        counts = [told((number + 1) * WORDS // len(texts)) for number in range(len(texts))]
        said = [event(chunk(text, usage=usage)) for text, usage in zip(texts, counts, strict=True)]
        return [*said, event(chunk(finish="stop", usage=last)), DONE]

    yield stream_case(
        "usage-cumulative",
        events(growing(USAGE)),
        whole,
        "each report counts from the start: the last one is the bill, not the sum",
    )
    yield stream_case(
        "usage-cumulative-without-last",
        events(growing(MISSING)),
        whole,
        "the last report that there is holds all output",
    )
    yield stream_case(
        "usage-on-every-chunk",
        events([*(event(chunk(text, usage=USAGE)) for text in texts), event(chunk(finish="stop", usage=USAGE)), DONE]),
        whole,
        "the same report on every chunk is one report",
    )
    yield stream_case(
        "usage-zero-until-last",
        events(
            [*(event(chunk(text, usage=told(0))) for text in texts), event(chunk(finish="stop", usage=USAGE)), DONE]
        ),
        whole,
        "zeros that come before the end are placeholders",
    )
    yield stream_case(
        "usage-in-first-chunk-only",
        events([event(chunk("", usage=told(0))), *streamed()]),
        [answered(Bill(Span(35, 160), COUNTED_OUTPUT))],
        "what was reported before the output cannot have counted it",
    )
    yield stream_case(
        "usage-in-first-chunk-only-with-one",
        events([event(chunk(texts[0], usage=told(1))), *(event(chunk(text)) for text in texts[1:]), *streamed()[-2:]]),
        [answered(Bill(Span(35, 160), COUNTED_OUTPUT))],
        "the same, of a provider that counts its first token",
    )
    yield stream_case(
        "usage-on-finish",
        events([*(event(chunk(text, usage=None)) for text in texts), event(chunk(finish="stop", usage=USAGE)), DONE]),
        whole,
        "DeepSeek's place: on the last choice, null before",
    )
    yield stream_case(
        "usage-before-finish",
        events([*streamed()[:-2], event(tail(USAGE)), *streamed()[-2:]]),
        whole,
        "usage may come before the finish",
    )
    yield stream_case(
        "usage-after-done",
        events([*streamed(), event(tail(USAGE))]),
        [*whole, answered(COUNTED)],
        "late, and still the bill",
    )
    yield stream_case(
        "usage-twice", events([*streamed(USAGE)[:-1], event(tail(USAGE)), DONE]), whole, "one answer is billed once"
    )
    yield stream_case(
        "usage-good-then-absurd",
        events([*streamed(USAGE)[:-1], event(tail(told(-1))), event(tail(told(10**12))), DONE]),
        whole,
        "the last report that can be believed counts",
    )
    yield stream_case(
        "usage-absurd-then-good",
        events([event(tail(told(-7))), *streamed(USAGE)]),
        whole,
        "a bad report does not spoil a good one",
    )
    yield stream_case(
        "usage-in-the-choice",
        events(
            [
                *streamed()[:-2],
                event(chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop", "usage": USAGE}])),
                DONE,
            ]
        ),
        whole,
        "Moonshot's place: inside the choice",
    )
    yield stream_case(
        "usage-in-x-groq",
        events([*streamed()[:-2], event(chunk(finish="stop", x_groq={"usage": USAGE})), DONE]),
        whole,
        "Groq's place",
    )
    yield stream_case(
        "usage-with-null-choices",
        events([*streamed()[:-1], event(chunk(choices=None, usage=USAGE)), DONE]),
        whole,
        "choices may be null there",
    )


def _cached() -> Iterator[Case]:
    def parts(**members: Any) -> dict[str, Any]:
        return {**USAGE, **members}

    yield from _both(
        "cached",
        parts(prompt_tokens_details={"cached_tokens": 20}),
        [exactly(60, WORDS, 20)],
        "cached tokens are part of the prompt, at their own price",
    )
    yield from _both(
        "cached-all",
        parts(prompt_tokens_details={"cached_tokens": 60}),
        [exactly(60, WORDS, 60)],
        "all of it may be cached",
    )
    some = Bill(Span(60, 60), Span(WORDS, WORDS), Span(0, 60))
    yield from _both(
        "cached-more-than-prompt",
        parts(prompt_tokens_details={"cached_tokens": 5000}),
        [some, COUNTED],
        "a part is never larger than its whole, and no meter becomes negative",
    )
    for name, value in (("negative", -20), ("string", "20"), ("bool", True), ("float", 2.5), ("array", [1])):
        yield from _both(
            f"cached-{name}",
            parts(prompt_tokens_details={"cached_tokens": value}),
            [some, COUNTED],
            "a part that is no count is left out; the rest stands",
        )
    for name, details in (("null", None), ("an-array", []), ("a-string", "none")):
        yield from _both(
            f"details-{name}",
            parts(prompt_tokens_details=details, completion_tokens_details=details),
            [TRUE],
            "no details, no harm",
        )
    yield from _both(
        "cached-in-deepseeks-words",
        parts(prompt_cache_hit_tokens=20, prompt_cache_miss_tokens=40),
        [exactly(60, WORDS, 20)],
        "DeepSeek says it in words of its own",
    )
    yield from _both("cached-in-moonshots-words", parts(cached_tokens=20), [exactly(60, WORDS, 20)], "so does Moonshot")
    yield from _both(
        "reasoning",
        parts(completion_tokens_details={"reasoning_tokens": 20}),
        [TRUE],
        "reasoning is part of the output: it is not added to it",
    )
    yield from _both(
        "reasoning-more-than-output",
        parts(completion_tokens_details={"reasoning_tokens": 5000}),
        [TRUE, COUNTED],
        "a part is never larger than its whole",
    )
    yield from _both(
        "reasoning-apart",
        parts(completion_tokens_details={"reasoning_tokens": 20}, total_tokens=60 + WORDS + 20),
        [exactly(60, WORDS + 20)],
        "xAI leaves reasoning out of the output and counts it in the total: it is output all the same",
    )
