"""POST /v1/completions, as a caller sends it."""

import msgspec
from msgspec import Raw

from tollbridge.wire import inputs
from tollbridge.wire.body import NULL, check_nesting
from tollbridge.wire.request import (
    RULES,
    Choices,
    ModelName,
    Penalty,
    Request,
    Stop,
    StreamOptions,
    Temperature,
    TokenLimit,
    TopP,
    check_model,
    read_fields,
    read_typed,
    wrong,
)


class Body(msgspec.Struct, gc=False):
    model: ModelName
    prompt: Raw = NULL
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    max_tokens: TokenLimit | None = None
    n: Choices | None = None
    best_of: Choices | None = None
    stop: Stop | None = None


_DECODER = msgspec.json.Decoder(Body)
BODY_RULES = RULES | {"prompt": inputs.rule(empty=True), "best_of": RULES["n"]}


def parse(body: bytes) -> Request:
    """A request for completions. Raises `InvalidRequest` and nothing else, whatever `body` is.

    For each prompt, `n` answers are given and, if that is more, `best_of` written; `choices` counts those written.
    """
    fields = read_fields(body)
    typed = read_typed(body, _DECODER, BODY_RULES)
    if typed.prompt == NULL:
        raise wrong("prompt", BODY_RULES, "Missing")
    prompts, tokens = inputs.read("prompt", typed.prompt, empty=True)
    check_nesting(body, prompts - 1 if tokens else 0)
    check_model(typed.model)
    options = typed.stream_options
    return Request(
        endpoint="completions",
        model=typed.model,
        stream=bool(typed.stream),
        max_tokens=typed.max_tokens,
        choices=prompts * max(typed.n or 1, typed.best_of or 1),
        include_usage=None if options is None else options.include_usage,
        inputs=prompts,
        input_tokens=tokens,
        fields=fields,
        body=body,
    )
