"""POST /v1/messages and /v1/messages/count_tokens, as a caller sends them."""

import re
from collections.abc import Iterator

import msgspec
from msgspec import Raw

from tollbridge.errors import InvalidRequest, ThreadUnsupported
from tollbridge.wire import anthropic_conversation
from tollbridge.wire.anthropic_body import BODY_RULES, Block, Body, Counted
from tollbridge.wire.anthropic_request import ORIGIN, call_id
from tollbridge.wire.body import NOTHING, NULL, check_nesting
from tollbridge.wire.conversation import Conversation
from tollbridge.wire.pictures import pixels
from tollbridge.wire.prompt import TOKENS_ELSEWHERE, Prompt, unescaped
from tollbridge.wire.request import Request, check_model, read_fields, read_typed, wrong

# A page of a PDF takes 3 to 5 KB and costs 1,500 to 3,000 tokens as text, and as many again as a picture.
_PDF_BYTES_PER_TOKEN = 4

# Members that multiply Anthropic's price, which catalog prices cannot follow, each with the value that does not.
_PRICED = {"inference_geo": Raw(b'"global"'), "speed": Raw(b'"standard"')}

_BODY = msgspec.json.Decoder(Body)
_COUNTED = msgspec.json.Decoder(Counted)
_NEEDED = {
    "text": ("text",),
    "image": ("source",),
    "document": ("source",),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id",),
    "thinking": ("thinking",),
    "redacted_thinking": ("data",),
}


# What `anthropic-beta` may ask for, without its date: changes of form, and tools that the caller runs. Anything that
# costs more than its tokens, or reaches what the operator keeps at Anthropic (files, skills, sandboxes), is left out.
_BETAS = frozenset(
    {
        *("adaptive-thinking", "advanced-tool-use", "claude-code", "compact", "computer-use", "context-1m"),
        *("context-management", "effort", "extended-cache-ttl", "fine-grained-tool-streaming", "interleaved-thinking"),
        *("mid-conversation-output-config", "mid-conversation-system", "mid-conversation-system-clear-at"),
        *("mid-conversation-tool-changes", "model-context-window-exceeded", "output-128k", "pdfs", "per-turn-control"),
        *("prompt-caching", "prompt-caching-scope", "redact-thinking", "structured-outputs", "task-budgets"),
        *("thinking-binding-controls", "thinking-display-updates", "thinking-token-count", "token-counting"),
        *("token-efficient-tools", "tool-examples", "tool-search-tool"),
    }
)
_BETA = re.compile(r"([a-z0-9-]{1,48}?)-?(20\d\d-?\d\d-?\d\d)", re.ASCII)


class MessagesRequest(Request, frozen=True, kw_only=True):
    """See `request.Request`. `betas`: beta features that the caller asks for and may have; `refused_betas`: the others.

    `has_foreign`: another provider's model has answered in the conversation, and Claude would refuse what it left.
    """

    betas: tuple[str, ...] = ()
    refused_betas: tuple[str, ...] = ()
    has_foreign: bool = False

    def conversation(self) -> Conversation:
        typed = read_typed(self.body, _BODY, BODY_RULES)
        return anthropic_conversation.read(typed, self.fields, lenient=self.require_parameters is False)

    def prompt(self) -> Prompt:
        pictures: tuple[int, ...] = ()
        texts, tokens, unmeasured = [], 0, False
        for name in ("system", "messages", "tools", "output_config", "output_format"):
            raw = self.fields.get(name, NULL)
            if raw != NULL:
                text = bytes(raw)
                if name == "messages" and self.has_parts:
                    text, pictures, tokens, unmeasured = _without_media(text)
                texts.append(unescaped(text))
        return Prompt(b"\n".join(texts), self.inputs, pictures, tokens, unmeasured)


def parse(body: bytes) -> MessagesRequest:
    """A request for a message. Raises `InvalidRequest` and nothing else, whatever `body` is."""
    fields = read_fields(body)
    if fields.get("thread", NULL) != NULL:
        raise ThreadUnsupported(
            "'thread' is refused, because nothing is kept between requests: send the whole conversation without it."
            ' Anthropic\'s SDKs do so by themselves with unsupported_request_behavior="continue_unthreaded".',
            param="thread",
        )
    typed = read_typed(body, _BODY, BODY_RULES)
    return _request(fields, body, typed, typed.max_tokens, stream=bool(typed.stream))


def with_betas(request: Request, header: bytes) -> Request:
    """`request` with what its `anthropic-beta` header asks for."""
    if not isinstance(request, MessagesRequest):
        return request
    names = [name for part in header.decode("latin-1").split(",")[:32] if (name := part.strip())]
    allowed = tuple(name for name in names if (known := _BETA.fullmatch(name)) and known[1] in _BETAS)
    refused = tuple(name for name in names if name not in allowed)
    return msgspec.structs.replace(request, betas=allowed, refused_betas=refused)


def parse_count(body: bytes) -> MessagesRequest:
    """A request to count what a model would read; raises `InvalidRequest`. Only its `prompt` is useful."""
    fields = read_fields(body)
    return _request(fields, body, read_typed(body, _COUNTED, BODY_RULES), None, stream=False)


def _request(
    fields: dict[str, Raw], body: bytes, typed: Counted, max_tokens: int | None, *, stream: bool
) -> MessagesRequest:
    check_model(typed.model)
    for name, free in _PRICED.items():
        if fields.get(name, NULL) not in (NULL, free):
            raise InvalidRequest(f"'{name}' changes the price and is set by the operator; leave it out.", param=name)
    siblings = len(typed.messages) - 1
    has_parts = has_foreign = False
    for index, message in enumerate(typed.messages):
        if isinstance(message.content, str):
            continue
        has_parts = True
        siblings += max(0, len(message.content) - 1)
        for position, block in enumerate(message.content):
            for name in _NEEDED.get(block.type, ()):
                if getattr(block, name) in (None, NOTHING):
                    raise wrong(f"messages[{index}].content[{position}].{name}", BODY_RULES, "Missing")
            if block.type == "tool_use" and not bytes(block.input).startswith(b"{"):
                raise wrong(f"messages[{index}].content[{position}].input", BODY_RULES)
            has_foreign = has_foreign or _is_foreign(block)
    check_nesting(body, siblings)
    for index, tool in enumerate(typed.tools or ()):
        if tool.is_function and (tool.name is None or not bytes(tool.input_schema).startswith(b"{")):
            raise wrong(f"tools[{index}].{'name' if tool.name is None else 'input_schema'}", BODY_RULES)
    if typed.tool_choice is not None and typed.tool_choice.type == "tool" and not typed.tool_choice.name:
        raise wrong("tool_choice.name", BODY_RULES, "Missing")
    return MessagesRequest(
        endpoint="messages",
        model=typed.model,
        stream=stream,
        max_tokens=max_tokens,
        choices=1,
        include_usage=True,
        inputs=len(typed.messages),
        has_parts=has_parts,
        has_foreign=has_foreign,
        fields=fields,
        body=body,
    )


def _is_foreign(block: Block) -> bool:
    if block.type == "tool_result":
        return call_id(block.tool_use_id or "") != block.tool_use_id
    return anthropic_conversation.origin_of(block) not in (None, ORIGIN)


# --- What is no text ---


class _Medium(msgspec.Struct, gc=False):
    type: str = ""
    source: Raw = NOTHING
    content: Raw = NOTHING


class _MediaMessage(msgspec.Struct, gc=False):
    content: str | list[_Medium]


class _Inline(msgspec.Struct, gc=False):
    type: str = ""
    data: Raw = NOTHING


_decode_media = msgspec.json.Decoder(list[_MediaMessage]).decode
_decode_results = msgspec.json.Decoder(list[_Medium]).decode
_decode_inline = msgspec.json.Decoder(_Inline).decode


def _without_media(messages: bytes) -> tuple[bytes, tuple[int, ...], int, bool]:
    """`messages` without inline pictures and files; the pixels of each picture; tokens for files; are there any?"""
    pictures: tuple[int, ...] = ()
    tokens, position, pieces, files = 0, 0, [], False
    for block in _media(messages):
        try:
            source = _decode_inline(block.source)
        except msgspec.DecodeError:
            continue
        data = bytes(source.data) if source.type == "base64" else b""
        files = files or (block.type != "image" and source.type in ("base64", "url", "file"))
        if block.type == "image":
            pictures += (pixels(data),)
        elif source.type in ("url", "file"):
            tokens += TOKENS_ELSEWHERE
        else:
            tokens += len(data) // _PDF_BYTES_PER_TOKEN
        if data.startswith(b'"'):
            # The first match after the last one may be a copy of it in a text, which is as long and does as well.
            start = messages.index(data, position)
            pieces.append(messages[position:start])
            position = start + len(data)
    pieces.append(messages[position:])
    return b"".join(pieces), pictures, tokens, files


def _media(messages: bytes) -> Iterator[_Medium]:
    """Each picture and document in order, including those in results of tools."""
    for message in _decode_media(messages):
        for block in () if isinstance(message.content, str) else message.content:
            if block.type in ("image", "document"):
                yield block
            elif block.type == "tool_result" and bytes(block.content).startswith(b"["):
                try:
                    inner = _decode_results(block.content)
                except msgspec.DecodeError:
                    continue
                yield from (each for each in inner if each.type in ("image", "document"))
