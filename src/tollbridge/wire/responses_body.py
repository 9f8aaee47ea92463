"""The body of POST /v1/responses: its shape, and the rules for its fields.

From https://platform.openai.com/docs/api-reference/responses/create and the types of OpenAI's Python SDK.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw

from tollbridge.wire.body import NULL
from tollbridge.wire.openai_parts import CacheMark, Grammar, JsonSchema
from tollbridge.wire.request import RULES, ModelName, Temperature, TokenLimit, TopP

MAX_ITEMS = 8_192
MAX_TOOLS = 256


class Sound(msgspec.Struct, gc=False):
    data: str
    format: str


class Part(msgspec.Struct, gc=False):
    """Content of a message, of reasoning, or of what a tool answered."""

    type: str | None = None
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None
    file_id: str | None = None
    file_data: str | None = None
    file_url: str | None = None
    filename: str | None = None
    input_audio: Sound | None = None
    prompt_cache_breakpoint: CacheMark | None = None


class Item(msgspec.Struct, gc=False):
    """An item of the input, whatever its type. Members that only some types have are checked where they are read."""

    type: str | None = None
    role: Literal["user", "system", "developer", "assistant"] | None = None
    content: str | list[Part] | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: Raw = NULL
    input: Raw = NULL
    output: Raw = NULL
    action: Raw = NULL
    execution: str | None = None
    tools: "list[Tool] | None" = None
    summary: list[Part] | None = None
    encrypted_content: str | None = None
    result: str | None = None


class Tool(msgspec.Struct, gc=False):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: Raw = NULL
    strict: bool | None = None
    format: Grammar | None = None
    tools: "list[Tool] | None" = None
    execution: str | None = None
    external_web_access: bool | None = None


class ToolChoice(msgspec.Struct, gc=False):
    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: "list[ToolChoice] | None" = None


class Reasoning(msgspec.Struct, gc=False):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    mode: str | None = None
    context: str | None = None


class Text(msgspec.Struct, gc=False):
    format: JsonSchema | None = None
    verbosity: str | None = None


class Body(msgspec.Struct, gc=False):
    model: ModelName
    input: str | Annotated[list[Item], Meta(min_length=1, max_length=MAX_ITEMS)]
    instructions: str | None = None
    stream: bool | None = None
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: Text | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: TokenLimit | None = None
    max_tool_calls: int | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    include: list[str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None


BODY_RULES = RULES | {
    "input": f"must be a string, or an array of 1 to {MAX_ITEMS:,} items",
    "input[]": 'must be an object, like {"role": "user", "content": "Hello!"}',
    "input[].role": "must be user, system, developer or assistant",
    "input[].content": "must be a string or an array of content parts",
    "input[].content[]": 'must be an object, like {"type": "input_text", "text": "Hello!"}',
    "input[].content[].text": "must be a string",
    "input[].content[].refusal": "must be a string",
    "input[].content[].image_url": "must be a URL or a data URL: a string",
    "input[].content[].file_data": "must be a data URL or base64, if there is no file_url: a string",
    "input[].content[].file_id": "must be left out: no files are kept here, so send image_url, file_url or file_data",
    "input[].content[].input_audio": 'must be an object, like {"data": "…", "format": "wav"}',
    "input[].call_id": "must be the id of the call: a string",
    "input[].name": "must be the name of a tool: a string",
    "input[].arguments": "must be a string of JSON",
    "input[].input": "must be a string",
    "input[].output": "must be a string or an array of content parts",
    "input[].tools": "must be an array of tools with a type",
    "input[].result": "must be the base64 of a picture, or null",
    "input[].summary": "must be an array of parts of type summary_text",
    "input[].encrypted_content": "must be a string",
    "instructions": "must be a string",
    "tools": f"must be an array of at most {MAX_TOOLS} tools",
    "tools[]": "must be an object with a type",
    "tools[].name": "must be a string",
    "tools[].parameters": "must be a JSON schema",
    "tools[].tools": "must be an array of tools with a type and a name",
    "tool_choice": 'must be "none", "auto", "required" or an object, like {"type": "function", "name": …}',
    "tool_choice.name": "must be the name of a tool",
    "parallel_tool_calls": "must be true or false",
    "text": 'must be an object, like {"format": {"type": "text"}}',
    "text.format": 'must be an object of type "text", "json_object" or "json_schema"',
    "text.format.name": "must be a string",
    "text.format.schema": "must be a JSON schema",
    "text.verbosity": 'must be "low", "medium" or "high"',
    "reasoning": 'must be an object, like {"effort": "low"}',
    "max_output_tokens": "must be a whole number of at least 1 and below 2147483648",
    "top_logprobs": "must be a whole number from 0 to 20",
    "include": "must be an array of strings",
    "truncation": 'must be "auto" or "disabled"',
    "metadata": "must be an object of strings",
    "previous_response_id": "must be null: nothing is kept here, so send the whole conversation as input",
    "background": "must be false: an answer is given at once",
    "store": "must be true or false",
    "user": "must be a string",
}
# A tool's answer may have the same parts.
BODY_RULES |= {
    name.replace(".content[]", ".output[]"): rule for name, rule in BODY_RULES.items() if ".content[]" in name
}
