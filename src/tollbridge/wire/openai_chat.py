"""POST /v1/chat/completions, as a caller sends it."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from tollbridge.wire import openai_chat_conversation, prompt
from tollbridge.wire.body import check_nesting
from tollbridge.wire.conversation import Conversation
from tollbridge.wire.prompt import Prompt
from tollbridge.wire.request import (
    CALLERS_TOOLS,
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
    check_tools,
    read_fields,
    read_typed,
    wrong,
)

MAX_MESSAGES = 4_096
MAX_TOOLS = 256


class _Part(msgspec.Struct, gc=False):
    type: str | None = None


class _Message(msgspec.Struct, gc=False):
    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | list[_Part] | UnsetType | None = UNSET
    images: Raw | UnsetType = UNSET


class _Tool(msgspec.Struct, gc=False):
    type: Any = None


class Body(msgspec.Struct, gc=False):
    model: ModelName
    messages: Annotated[list[_Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    max_tokens: TokenLimit | None = None
    max_completion_tokens: TokenLimit | None = None
    n: Choices | None = None
    stop: Stop | None = None
    tools: Annotated[list[_Tool], Meta(max_length=MAX_TOOLS)] | None = None


_DECODER = msgspec.json.Decoder(Body)
BODY_RULES = RULES | {
    "messages": f"must be an array of 1 to {MAX_MESSAGES:,} messages with role and content",
    "messages[]": 'must be an object, like {"role": "user", "content": "Hello!"}',
    "messages[].role": "must be developer, system, user, assistant, tool or function",
    "messages[].content": "must be a string, an array of content parts, or null",
    "messages[].content[]": 'must be an object with a type, like {"type": "text", "text": "Hello!"}',
    "messages[].content[].type": "must be a string",
    "tools": f"must be an array of at most {MAX_TOOLS} tools",
    "tools[]": "must be an object with a type",
}


class ChatRequest(Request, frozen=True, kw_only=True):
    """See `request.Request`. `providers_tools`: as `offers_providers_tools` says."""

    providers_tools: bool = False

    def conversation(self) -> Conversation:
        return openai_chat_conversation.conversation_of(self)

    def prompt(self) -> Prompt:
        return prompt.of_chat(self.fields, self.inputs, self.has_parts)


def parse(body: bytes) -> ChatRequest:
    """A chat request. Raises `InvalidRequest` and nothing else, whatever `body` is."""
    fields = read_fields(body)
    typed = read_typed(body, _DECODER, BODY_RULES)
    messages = typed.messages
    check_nesting(body, len(messages) - 1)
    check_model(typed.model)
    providers_tools = False
    if "tools" in fields:
        check_tools(bytes(fields["tools"]))
        for tool in typed.tools or ():
            if tool.type not in CALLERS_TOOLS:
                providers_tools = True
    has_parts = False
    for message in messages:
        if type(message.content) is not str:
            if message.content is UNSET and message.role != "assistant":
                raise wrong(f"messages[{messages.index(message)}].content", BODY_RULES, "Missing")
            has_parts = has_parts or type(message.content) is list
        if message.images is not UNSET:
            has_parts = True
    limit, other = typed.max_tokens, typed.max_completion_tokens
    if limit is None or (other is not None and other < limit):
        limit = other
    options = typed.stream_options
    return ChatRequest(
        endpoint="chat",
        model=typed.model,
        stream=typed.stream is True,
        max_tokens=limit,
        choices=typed.n or 1,
        include_usage=None if options is None else options.include_usage,
        inputs=len(messages),
        has_parts=has_parts,
        providers_tools=providers_tools,
        fields=fields,
        body=body,
    )
