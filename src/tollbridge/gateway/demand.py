"""What a request asks for, as far as money goes, and whether a model is for this caller and can read it at all."""

import re

from tollbridge.core import pricing, tokens
from tollbridge.errors import ContextTooLong, Forbidden, InvalidRequest
from tollbridge.gateway.callers import Caller
from tollbridge.values import Model
from tollbridge.wire.request import Request

# A prompt estimated at more than this many windows is certainly too long: the estimate is never that wrong.
_CERTAIN_WINDOWS = 2
# The field in which each endpoint takes its prompt.
_TEXT = {
    "chat": "messages",
    "messages": "messages",
    "responses": "input",
    "completions": "prompt",
    "embeddings": "input",
}
# Endpoints whose input may be a list of independent texts.
_OF_SEVERAL = frozenset({"completions", "embeddings"})
_ESCAPE = re.compile(rb"\\u00([2-7][0-9a-fA-F])")


def demand_of(request: Request) -> pricing.Demand:
    """The demand of `request`: an estimate of its prompt, and the limits that the caller set."""
    prompt = request.prompt()
    counted = prompt.tokens + tokens.count_prompt(prompt.text, prompt.messages)
    if prompt.pictures:
        counted += len(prompt.pictures) * tokens.PER_IMAGE
    return pricing.Demand(
        prompt=counted,
        read=tokens.without_frames(counted, prompt.messages),
        output_limit=request.max_tokens,
        choices=request.choices,
        produces=request.endpoint != "embeddings",
        pictures=prompt.pictures,
        unmeasured=prompt.unmeasured,
        audio=prompt.tokens > 0,
        body=request.body,
        tools=_without_escapes(bytes(request.fields["tools"])) if "tools" in request.fields else b"",
        predicted=tokens.count(bytes(request.fields["prediction"])) if "prediction" in request.fields else 0,
    )


def _without_escapes(json: bytes) -> bytes:
    """`json` with letters as they are: what is looked for must not hide behind escapes. It may no longer be JSON."""
    return _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), json) if b"\\u00" in json else json


def check_length(model: Model, demand: pricing.Demand, request: Request) -> None:
    """Raise `ContextTooLong` if the prompt is certainly longer than the model's context window."""
    window = model.context_window * _CERTAIN_WINDOWS
    if demand.prompt > window and demand.prompt > window * _read_apart(request):
        raise ContextTooLong(
            f"The prompt is about {demand.prompt:,} tokens; {model.id} reads at most {model.context_window:,}.",
            param=_TEXT.get(request.endpoint),
        )


def _read_apart(request: Request) -> int:
    """How many texts the model reads separately, each with a whole window to itself."""
    return request.inputs if request.endpoint in _OF_SEVERAL else 1


def check_model(caller: Caller, model: Model, request: Request) -> None:
    """Raise `Forbidden` if the caller may not call it, and `InvalidRequest` if it is not of the endpoint's kind."""
    if not caller.may_call(model):
        whose = "This API key" if caller.plan.allows(model) else f"Your plan ({caller.plan.name})"
        raise Forbidden(f"{whose} does not include {model.id}.", code="model_not_allowed", param="model")
    embeds = request.endpoint == "embeddings"
    if embeds != (model.type == "embedding"):
        right = "/v1/embeddings" if model.type == "embedding" else "/v1/chat/completions"
        raise InvalidRequest(f"{model.id} is a model of type {model.type}: use {right} for it.", param="model")
