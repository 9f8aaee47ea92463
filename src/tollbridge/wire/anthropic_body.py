"""The body of POST /v1/messages: the fields of Anthropic's contract, by type and range.

Kinds of blocks, tools and thinking are strings: a kind that is unknown here passes to Anthropic as it came.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw

from tollbridge.wire.body import NOTHING, NULL
from tollbridge.wire.conversation import Cache
from tollbridge.wire.openai_chat import MAX_MESSAGES, MAX_TOOLS
from tollbridge.wire.request import RULES, ModelName, TokenLimit, TopP

MAX_STOPS = 1_024


class Mark(msgspec.Struct, gc=False):
    """`cache_control`."""

    type: str
    ttl: str | None = None

    @property
    def cache(self) -> Cache:
        return "1h" if self.ttl == "1h" else "5m"


class Block(msgspec.Struct, gc=False):
    """A content block. Members that mean different things in different blocks are read once the type is known."""

    type: str
    text: str | None = None
    source: Raw = NOTHING
    content: Raw = NOTHING
    title: str | None = None
    context: str | None = None
    citations: Raw = NULL
    id: str | None = None
    name: str | None = None
    input: Raw = NOTHING
    tool_use_id: str | None = None
    is_error: bool | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    cache_control: Mark | None = None

    @property
    def cache(self) -> Cache | None:
        return None if self.cache_control is None else self.cache_control.cache


class Source(msgspec.Struct, gc=False):
    type: str
    media_type: str = ""
    data: str = ""
    url: str = ""
    content: Raw = NOTHING


class CitationParam(msgspec.Struct, gc=False):
    url: str | None = None
    source: str | None = None
    title: str | None = None
    cited_text: str | None = None


class CitationsConfig(msgspec.Struct, gc=False):
    enabled: bool | None = None


class Message(msgspec.Struct, gc=False):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class ToolParam(msgspec.Struct, gc=False):
    type: str | None = None
    name: str | None = None
    description: str | None = None
    input_schema: Raw = NOTHING
    strict: bool | None = None
    input_examples: Raw = NULL
    cache_control: Mark | None = None

    @property
    def is_function(self) -> bool:
        return self.type in (None, "custom")


class Choice(msgspec.Struct, gc=False):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingParam(msgspec.Struct, gc=False):
    type: str
    budget_tokens: Annotated[int, Meta(ge=1, lt=2**31)] | None = None
    display: str | None = None


class FormatParam(msgspec.Struct, gc=False):
    type: str
    schema: Raw = NOTHING


class OutputConfig(msgspec.Struct, gc=False):
    effort: str | None = None
    format: FormatParam | None = None


class Metadata(msgspec.Struct, gc=False):
    user_id: str | None = None


class Counted(msgspec.Struct, kw_only=True, gc=False):
    """What both endpoints take. `output_format` is the older name of `output_config.format`."""

    model: ModelName
    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
    system: str | list[Block] | None = None
    tools: Annotated[list[ToolParam], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Choice | None = None
    thinking: ThinkingParam | None = None
    output_config: OutputConfig | None = None
    output_format: FormatParam | None = None
    cache_control: Mark | None = None


class Body(Counted, kw_only=True, gc=False):
    max_tokens: TokenLimit
    stream: bool | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: TopP | None = None
    top_k: Annotated[int, Meta(ge=0, lt=2**31)] | None = None
    stop_sequences: Annotated[list[str], Meta(max_length=MAX_STOPS)] | None = None
    metadata: Metadata | None = None


BODY_RULES = RULES | {
    "messages": f"must be an array of 1 to {MAX_MESSAGES:,} messages with role and content",
    "messages[]": 'must be an object, like {"role": "user", "content": "Hello!"}',
    "messages[].role": "must be user, assistant or system",
    "messages[].content": "must be a string or an array of content blocks",
    "messages[].content[]": 'must be an object with a type, like {"type": "text", "text": "Hello!"}',
    "messages[].content[].source": 'must be an object, like {"type": "url", "url": "https://…"}, or base64 or text',
    "messages[].content[].content": "must be a string or an array of content blocks",
    "messages[].content[].input": "must be an object",
    "messages[].content[].is_error": "must be true or false",
    "messages[].content[].cache_control": 'must be an object, like {"type": "ephemeral"}',
    "messages[].content[].text": "must be a string",
    "messages[].content[].type": "must be a string",
    "messages[].content[].id": "must be a string",
    "messages[].content[].name": "must be a string",
    "messages[].content[].tool_use_id": "must be a string, the id of the tool_use that it answers",
    "messages[].content[].thinking": "must be a string",
    "messages[].content[].signature": "must be a string",
    "messages[].content[].data": "must be a string",
    "messages[].content[].title": "must be a string",
    "messages[].content[].context": "must be a string",
    "system": "must be a string or an array of text blocks",
    "system[]": 'must be an object, like {"type": "text", "text": "Be brief."}',
    "tools": f"must be an array of at most {MAX_TOOLS} tools",
    "tools[]": "must be an object with name and input_schema",
    "tools[].name": "must be a string",
    "tools[].input_schema": 'must be a JSON schema, like {"type": "object", "properties": {…}}',
    "tool_choice": 'must be an object of type auto, any, tool (with a name) or none, like {"type": "auto"}',
    "thinking": 'must be an object, like {"type": "adaptive"} or {"type": "enabled", "budget_tokens": 2048}',
    "output_config": "must be an object of effort and format",
    "output_config.effort": "must be a string, such as low, medium or high",
    "output_config.format": 'must be an object, like {"type": "json_schema", "schema": {…}}',
    "output_format": 'must be an object, like {"type": "json_schema", "schema": {…}}',
    "cache_control": 'must be an object, like {"type": "ephemeral"}',
    "temperature": "must be a number from 0 to 1",
    "top_k": "must be a whole number of at least 0 and below 2147483648",
    "stop_sequences": f"must be an array of at most {MAX_STOPS:,} strings",
    "metadata": 'must be an object, like {"user_id": "…"}',
    "metadata.user_id": "must be a string",
}
