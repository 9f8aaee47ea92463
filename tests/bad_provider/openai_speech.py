"""What is sent by providers that speak OpenAI's chat completions, or claim to."""

from collections.abc import Sequence
from typing import Any

from tests.bad_provider.case import (
    ANSWER,
    SECRET,
    WORDS,
    Case,
    Outcome,
    Step,
    exactly,
)
from tests.bad_provider.raw import dump, event

DIALECT = "openai"
DONE = b"data: [DONE]\n\n"
# What an honest provider would report of ANSWER.
TRUE = exactly(60, WORDS)
USAGE = {"prompt_tokens": 60, "completion_tokens": WORDS, "total_tokens": 60 + WORDS}
GREETING = "Grüße, 世界! 🌉 ñ"
ERROR = {"message": f"The key {SECRET} of https://internal.example is out of luck", "type": "server_error"}


class _Missing:
    """No such member."""


MISSING = _Missing()


def completion(text: str | None = ANSWER, usage: Any = MISSING, finish: str | None = "stop", **more: Any) -> bytes:
    message = {"role": "assistant", "content": text}
    fields: dict[str, Any] = {
        "id": "up-1",
        "object": "chat.completion",
        "created": 1,
        "model": "upstream",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        **more,
    }
    return _with_usage(fields, usage)


def chunk(text: str | None = None, finish: str | None = None, usage: Any = MISSING, **more: Any) -> bytes:
    """The data of one event."""
    delta = {} if text is None else {"content": text}
    fields: dict[str, Any] = {
        "id": "up-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "upstream",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **more,
    }
    return _with_usage(fields, usage)


def tail(usage: Any) -> bytes:
    return chunk(choices=[], usage=usage)


def _with_usage(fields: dict[str, Any], usage: Any) -> bytes:
    if usage is MISSING:
        return dump(fields)
    # Written by hand, since a usage may be something that JSON writers refuse to write.
    return dump(fields)[:-1] + b',"usage":' + dump(usage) + b"}"


def words(text: str = ANSWER, pieces: int = 6) -> list[str]:
    """`text` in pieces, as it streams."""
    size = -(-len(text) // pieces)
    return [text[start : start + size] for start in range(0, len(text), size)]


def streamed(usage: Any = MISSING, text: str = ANSWER) -> list[bytes]:
    """The events of a whole stream, usage where OpenAI puts it."""
    last = [] if usage is MISSING else [event(tail(usage))]
    return [*(event(chunk(word)) for word in words(text)), event(chunk(finish="stop")), *last, DONE]


def used(prompt: int, output: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


def whole_case(name: str, steps: Sequence[Step], right: Sequence[Outcome], why: str, **more: Any) -> Case:
    return Case(f"openai/{name}", DIALECT, False, tuple(steps), tuple(right), why, **more)


def stream_case(name: str, steps: Sequence[Step], right: Sequence[Outcome], why: str, **more: Any) -> Case:
    return Case(f"openai/{name}-stream", DIALECT, True, tuple(steps), tuple(right), why, **more)
