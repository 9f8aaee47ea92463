"""What a caller asks for, in one form for every endpoint, and how a body is read into it.

Rule 1  Fields that the published contracts name are checked by type and range; a refusal says the field's name and what
        would be right. Everything else passes as it came.
Rule 2  `null` means: not given.
Rule 3  Fields that would let a caller choose where the request goes, whose credential pays or what it costs belong to
        the operator. Callers may choose among what the operator has configured (`wire.preferences`).
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw

from tollbridge.errors import InvalidRequest
from tollbridge.values import Preferences, Upstream
from tollbridge.wire import prompt
from tollbridge.wire.body import NULL, read_object, too_deep
from tollbridge.wire.conversation import Conversation
from tollbridge.wire.prompt import Prompt

T = TypeVar("T")

MAX_INPUTS = 2048

# Types of the fields that endpoints share.
ModelName = Annotated[str, Meta(min_length=1, max_length=256)]
TokenLimit = Annotated[int, Meta(ge=1, lt=2**31)]
Choices = Annotated[int, Meta(ge=1, le=8)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Stop = str | Annotated[list[str], Meta(max_length=4)]


class _Tool(msgspec.Struct, gc=False):
    type: Any = None


_decode_tools = msgspec.json.Decoder(list[_Tool]).decode
# Kinds of tools that callers run themselves. A kind that is missing is for the provider to complain of.
CALLERS_TOOLS = (None, "function", "custom")
# OpenRouter's own tools, and those of them that are free or metered.
_OPENROUTERS = "openrouter:"
_METERED = ("openrouter:web_search", "openrouter:datetime")


class StreamOptions(msgspec.Struct, gc=False):
    include_usage: bool | None = None


# What a field must be, by path. Endpoints add their own.
RULES: dict[str, str] = {
    "model": "must be the name of a model: a string of 1 to 256 characters without control characters",
    "stream": "must be true or false",
    "stream_options": 'must be an object, like {"include_usage": true}',
    "stream_options.include_usage": "must be true or false",
    "temperature": "must be a number from 0 to 2",
    "top_p": "must be a number from 0 to 1",
    "presence_penalty": "must be a number from -2 to 2",
    "frequency_penalty": "must be a number from -2 to 2",
    "stop": "must be a string or an array of at most 4 strings",
    "stop[]": "must be a string",
    "max_tokens": "must be a whole number of at least 1 and below 2147483648",
    "max_completion_tokens": "must be a whole number of at least 1 and below 2147483648",
    "n": "must be a whole number from 1 to 8",
}

# Known parameters of LiteLLM-like servers (CVE-2024-6587; fault J3) and of OpenRouter.
_OPERATORS = frozenset(
    {
        *("api_base", "api_key", "api_type", "api_version", "base_model", "base_url", "client", "client_id"),
        *("client_secret", "content_policy_fallbacks", "context_window_fallbacks"),
        *("context_window_fallback_dict", "custom_llm_provider", "default_headers", "default_query"),
        *("deployment_id", "endpoint_url", "extra_body", "extra_headers", "extra_query", "fallbacks"),
        *("headers", "http_client", "input_cost_per_second", "input_cost_per_token", "max_retries"),
        *("configurable_clientside_auth_params", "default_fallbacks", "proxy_server_request", "use_litellm_proxy"),
        *("model_list", "num_retries", "organization", "output_cost_per_second"),
        *("output_cost_per_token", "plugins", "preset", "proxies", "proxy", "region_name", "route"),
        *("rpm", "ssl_verify", "tenant_id", "tpm", "user_config"),
    }
)
_OPERATORS_PREFIXES = (
    *("aws_", "azure_", "bedrock_", "gcs_", "litellm_", "mock_", "oci_", "s3_", "sagemaker_", "vertex_", "watsonx_"),
)

# Most requests have no other fields, and need no closer look.
_USUAL = frozenset(
    {
        *("dimensions", "encoding_format", "frequency_penalty", "input", "logprobs", "max_completion_tokens"),
        *("max_tokens", "messages", "model", "n", "parallel_tool_calls", "presence_penalty", "prompt"),
        *("reasoning_effort", "response_format", "seed", "stop", "stream", "stream_options", "temperature"),
        *("tool_choice", "tools", "top_logprobs", "top_p", "user"),
    }
)

_WHERE = re.compile(r" - at `\$\.?(.*)`$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(.*?)`")
_INDEX = re.compile(r"\[\d+\]")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request that may be sent on.

    `endpoint`: chat, completions, embeddings, responses or messages. `max_tokens`: the caller's limit per choice, the
    smaller one if two names give it. `choices`: the most answers that may be written. `inputs`: the number of messages,
    items, prompts or texts. `include_usage`: None when the caller did not say. `fields`: every top-level member of
    `body`, for a repeated name the last one. `input_tokens`: tokens given as ids. `has_parts`: some message is more
    than a text. `preferences`: the caller's preferences about routes (`wire.preferences`); None: it gave none.
    """

    endpoint: str
    model: str
    stream: bool
    max_tokens: int | None
    choices: int
    include_usage: bool | None
    encoding_format: str | None = None
    inputs: int
    input_tokens: int = 0
    has_parts: bool = False
    fields: dict[str, Raw]
    body: bytes
    preferences: Preferences | None = None

    @property
    def require_parameters(self) -> bool | None:
        """True: only routes that take every field. False: what a target cannot express may be left out. None: the
        caller said neither, and the operator decides.
        """
        return None if self.preferences is None else self.preferences.require_parameters

    def lets_omit(self, upstream: Upstream) -> bool:
        """Whether what `upstream` cannot express may be left out."""
        required = self.require_parameters
        return upstream.leaves_out if required is None else not required

    def offers_providers_tools(self) -> bool:
        """Whether some tool is of a kind that the provider may run itself: neither a function nor a custom tool."""
        offered = bytes(self.fields.get("tools", NULL))
        if not offered.startswith(b"["):
            return False
        try:
            return any(tool.type not in CALLERS_TOOLS for tool in _decode_tools(offered))
        except msgspec.MsgspecError:
            return False  # of an endpoint that has no tools, where anything may be sent by this name

    def conversation(self) -> Conversation:
        """The request in the neutral form, for a provider of another dialect. Raises `UnsupportedField`."""
        raise TypeError(f"{self.endpoint} is no conversation")

    def prompt(self) -> Prompt:
        """What its tokens are estimated from. Computed on each call."""
        return prompt.of_inputs(self.fields, ("prompt", "suffix", "input"), self.input_tokens)


def read_fields(body: bytes) -> dict[str, Raw]:
    """The members of a body; raises `InvalidRequest`, also for fields that only the operator may set."""
    fields = read_object(body)
    if not _USUAL.issuperset(fields):
        for name in fields:
            if name in _OPERATORS or name.startswith(_OPERATORS_PREFIXES):
                raise InvalidRequest(f"'{name[:64]}' is set by the operator; leave it out.", param=name[:64])
    return fields


def read_typed(body: bytes, decoder: "msgspec.json.Decoder[T]", rules: Mapping[str, str]) -> T:
    """`body` as the decoder's type; raises an `InvalidRequest` that names the field."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explain(str(error), rules) from None
    except RecursionError:
        raise too_deep() from None


def check_tools(offered: bytes) -> None:
    """Refuse OpenRouter's tools that call models and services of the caller's choice, which nobody meters."""
    if b"openrouter" not in offered and b"\\u" not in offered:
        return
    try:
        tools = _decode_tools(offered)
    except msgspec.MsgspecError:
        return  # the provider says what is wrong with it
    for index, tool in enumerate(tools):
        kind = tool.type
        if isinstance(kind, str) and kind.startswith(_OPENROUTERS) and kind not in _METERED:
            what = "It costs what no price here covers; leave it out."
            raise InvalidRequest(f"'tools[{index}]' cannot be used. {what}", param=f"tools[{index}]")


def check_model(name: str) -> None:
    """A model's name goes into headers, logs and pages: it may hold nothing invisible. Raises `InvalidRequest`."""
    if not name.isprintable() or name.isspace():
        raise wrong("model", RULES)


def wrong(param: str, rules: Mapping[str, str], what: str = "Invalid value for") -> InvalidRequest:
    general = _INDEX.sub("[]", param)
    while general not in rules and general:
        general = general[: max(general.rfind("."), general.rfind("["), 0)]
    return InvalidRequest(f"{what} '{param}': it {rules.get(general, 'is not valid')}.", param=param)


def _explain(reason: str, rules: Mapping[str, str]) -> InvalidRequest:
    where = _WHERE.search(reason)
    param = where[1] if where else ""
    missing = _MISSING.search(reason)
    if missing:
        return wrong(f"{param}.{missing[1]}" if param else missing[1], rules, "Missing")
    return wrong(param, rules)
