"""POST /v1/responses, as a caller sends it.

Nothing is kept between requests: a reference to something that OpenAI would have kept (an earlier response, a
conversation, an item or a prompt by its id) is refused in plain words, and `store` changes nothing.
"""

from collections.abc import Iterator, Mapping

import msgspec
from msgspec import Raw

from tollbridge.errors import InvalidRequest
from tollbridge.wire import prompt, responses_conversation
from tollbridge.wire.body import NOTHING, NULL, check_nesting
from tollbridge.wire.conversation import Conversation
from tollbridge.wire.prompt import Prompt
from tollbridge.wire.request import Request, check_model, read_fields, read_typed, wrong
from tollbridge.wire.responses_body import BODY_RULES, Body

_DECODER = msgspec.json.Decoder(Body)
_KEPT = {
    "conversation": "Nothing is kept here: send the whole conversation as 'input'.",
    "prompt": "No prompts are kept here: send the prompt itself as 'instructions' and 'input'.",
}


class ResponsesRequest(Request, frozen=True, kw_only=True):
    """See `request.Request`. `asked`: the body, typed."""

    asked: Body

    def conversation(self) -> Conversation:
        return responses_conversation.conversation_of(self, self.asked)

    def prompt(self) -> Prompt:
        return _prompt(self.fields, self.inputs)


def parse(body: bytes) -> ResponsesRequest:
    """A request. Raises `InvalidRequest` and nothing else, whatever `body` is."""
    fields = read_fields(body)
    typed = read_typed(body, _DECODER, BODY_RULES)
    items = typed.input if isinstance(typed.input, list) else ()
    check_nesting(body, max(0, len(items) - 1))
    check_model(typed.model)
    if typed.previous_response_id is not None:
        raise wrong("previous_response_id", BODY_RULES)
    if typed.background:
        raise wrong("background", BODY_RULES)
    for name, why in _KEPT.items():
        if fields.get(name, NULL) != NULL:
            raise InvalidRequest(f"'{name}' cannot be used. {why}", param=name)
    for index, item in enumerate(items):
        if item.type == "item_reference" or (item.type is None and item.role is None):
            what = "It refers to an item by its id, and nothing is kept here: send the item itself, as many clients do"
            what += " when they are told `store: false`."
            raise InvalidRequest(f"Invalid value for 'input[{index}]'. {what}", param=f"input[{index}]")
    return ResponsesRequest(
        endpoint="responses",
        model=typed.model,
        stream=bool(typed.stream),
        max_tokens=typed.max_output_tokens,
        choices=1,
        include_usage=None,
        inputs=len(items) or 1,
        fields=fields,
        body=body,
        asked=typed,
    )


class _Sound(msgspec.Struct, gc=False):
    data: Raw = NOTHING


class _Part(msgspec.Struct, gc=False):
    image_url: Raw = NOTHING
    input_audio: _Sound | None = None
    file_url: Raw = NOTHING
    file_id: Raw = NOTHING
    file_data: Raw = NOTHING


class _Item(msgspec.Struct, gc=False):
    content: Raw = NOTHING
    output: Raw = NOTHING
    result: Raw = NOTHING


_decode_items = msgspec.json.Decoder(list[_Item]).decode
_decode_parts = msgspec.json.Decoder(list[_Part]).decode


def _prompt(fields: Mapping[str, Raw], items: int) -> Prompt:
    pictures: tuple[int, ...] = ()
    tokens, unmeasured = 0, False
    texts = []
    for name in ("instructions", "input", "tools", "text"):
        raw = fields.get(name, NULL)
        if raw != NULL:
            text = bytes(raw)
            if name == "input" and text.startswith(b"["):
                text, pictures, tokens = prompt.without_media(text, _media(text))
                files, elsewhere = _files(bytes(raw))
                tokens += prompt.TOKENS_ELSEWHERE * elsewhere
                unmeasured = files > 0
            elif name == "input":
                text = b'[{"role":"user","content":%b}]' % text  # framed as each item is
            texts.append(prompt.unescaped(text))
    return Prompt(b"\n".join(texts), items, pictures, tokens, unmeasured)


def _media(items: bytes) -> Iterator[tuple[bytes, bool]]:
    """Each medium in the input, as `prompt.without_media` takes them."""
    for item in _decode_items(items):
        if bytes(item.result).startswith(b'"'):
            yield bytes(item.result), True
        for part in _parts(item.content) or _parts(item.output):
            if part.image_url not in (NOTHING, NULL):
                url = bytes(part.image_url)
                yield url if url.startswith((b'"data:image/', rb'"data:image\/')) else b"", True
            elif part.input_audio is not None and bytes(part.input_audio.data).startswith(b'"'):
                yield bytes(part.input_audio.data), False


def _files(items: bytes) -> tuple[int, int]:
    """How many files the input has, and how many of them the provider gets from elsewhere."""
    if b'"input_file"' not in items and b"\\u00" not in items:
        return 0, 0
    absent = NOTHING, NULL
    here = elsewhere = 0
    for item in _decode_items(items):
        for part in _parts(item.content) or _parts(item.output):
            if part.file_url not in absent or part.file_id not in absent or prompt.is_elsewhere(part.file_data):
                elsewhere += 1
            elif part.file_data not in absent:
                here += 1
    return here + elsewhere, elsewhere


def _parts(raw: Raw) -> list[_Part]:
    """The parts of the content; none if it is anything else, which is refused later."""
    if not bytes(raw).startswith(b"["):
        return []
    try:
        return _decode_parts(raw)
    except msgspec.ValidationError:
        return []
