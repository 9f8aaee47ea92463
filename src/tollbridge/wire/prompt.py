"""What a request gives a model to read, for an estimate of its tokens.

Rule 1  Nothing can hide: text is the client's JSON as it came, so an unknown field counts too. Plain inputs
        have no fields: they are counted as the texts they are.
Rule 2  Only what a model does not read as text is left out: pictures (measured), sound and film (bounded), and only in
        the protocol's own places for them. The same base64 in a text is text.
Rule 3  What the provider gets from elsewhere, by a URL or from its own store, is not fetched to be counted: it counts
        as `TOKENS_ELSEWHERE`, a picture as one of unknown size.
Rule 4  What a film or a file has to read, its size does not tell, wherever it is: a few kilobytes can be a thousand
        pages. Such a prompt is `unmeasured`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

import msgspec
from msgspec import Raw

from tollbridge.wire.body import NOTHING, NULL
from tollbridge.wire.pictures import pixels

# Sound costs 10 to 32 tokens a second, and a second seldom takes less than a kilobyte of base64.
MEDIA_BYTES_PER_TOKEN = 16
# About ten pages, or a minute or two of film.
TOKENS_ELSEWHERE = 20_000
# What providers put into the prompt of a chat besides its messages.
_BESIDE_MESSAGES = frozenset({"tools", "functions", "response_format"})
_ABSENT = NOTHING, NULL
_BACKSLASH = ord("\\")
# What a medium is searched by, and how often: what repeats itself would take for ever.
_BEGIN = 256
_TRIES = 8
# What is inline is a data URL or base64, neither of which begins like this. Many ignore white space before a URL; its
# escapes stand with their backslash, or without.
_ELSEWHERE = re.compile(rb'"[ \\nrt]*+(?:https?:|gs:|s3:|file_id")', re.IGNORECASE)


class Prompt(msgspec.Struct, frozen=True, gc=False):
    """`text` (UTF-8; in a chat with its JSON) is to be estimated; `tokens` more are known: token ids, and a bound for
    sound and film. `messages` is 0 if no chat template is put around the text. `pictures`: the pixels of each, 0 if
    they cannot be told. `unmeasured`: it has films or files, or sound elsewhere, and may be far longer than estimated.
    """

    text: bytes
    messages: int = 0
    pictures: tuple[int, ...] = ()
    tokens: int = 0
    unmeasured: bool = False


class _Source(msgspec.Struct, gc=False):
    url: Raw = NOTHING
    data: Raw = NOTHING


class _Part(msgspec.Struct, gc=False):
    image_url: Raw = NOTHING
    input_audio: Raw = NOTHING
    video_url: Raw = NOTHING
    # In the words of OpenAI, Mistral, Zhipu, vLLM and Qwen.
    file: Raw = NOTHING
    file_url: Raw = NOTHING
    document_url: Raw = NOTHING
    audio_url: Raw = NOTHING
    video: Raw = NOTHING


class _Message(msgspec.Struct, gc=False):
    role: str = ""
    content: str | list[_Part] | None = None
    images: Raw = NOTHING


_decode_messages = msgspec.json.Decoder(list[_Message]).decode
_decode_parts = msgspec.json.Decoder(list[_Part]).decode
_decode_texts = msgspec.json.Decoder(str | list[str]).decode
_decode_source = msgspec.json.Decoder(_Source).decode


def of_chat(fields: Mapping[str, Raw], messages: int, has_parts: bool) -> Prompt:
    """The prompt of a chat: its messages, and the tools and formats that providers put into the prompt.

    `has_parts`: some message's content is an array of parts, or a model's message has `images`.
    """
    pictures: tuple[int, ...] = ()
    tokens, unmeasured = 0, False
    text = bytes(fields["messages"])
    if has_parts:
        read = _decode_messages(text)
        elsewhere = _elsewhere(text, read)
        unmeasured = elsewhere > 0 or any(any(each not in _ABSENT for each in _files_of(part)) for part in _parts(read))
        text, pictures, tokens = without_media(text, _media(read))
        tokens += TOKENS_ELSEWHERE * elsewhere
    text = unescaped(text)
    if not _BESIDE_MESSAGES.isdisjoint(fields):
        beside = [bytes(raw) for name, raw in fields.items() if name in _BESIDE_MESSAGES and raw != NULL]
        text = b"\n".join([text, *map(unescaped, beside)])
    return Prompt(text, messages, pictures, tokens, unmeasured)


def of_inputs(fields: Mapping[str, Raw], names: tuple[str, ...], tokens: int) -> Prompt:
    """The prompt of plain inputs. `tokens`: how many are given as token ids; if any are, they are all of it."""
    if tokens:
        return Prompt(text=b"", tokens=tokens)
    return Prompt(text=b"\n".join(_texts(fields[name]) for name in names if name in fields))


def _texts(raw: Raw) -> bytes:
    """A text, or several after each other, without the JSON around them."""
    try:
        read = _decode_texts(raw)
    except msgspec.DecodeError:
        return unescaped(bytes(raw))
    return (read if isinstance(read, str) else "\n".join(read)).encode("utf-8", "surrogatepass")


def unescaped(text: bytes) -> bytes:
    """`text` without escapes, which would spoil the estimate. It may no longer be JSON."""
    if _BACKSLASH not in text:
        return text
    if b"\\u" in text:
        try:
            text = msgspec.json.encode(msgspec.json.decode(text))
        except msgspec.MsgspecError:
            return text  # valid JSON with a number too large for a float
    return text.translate(None, b"\\")


def without_media(text: bytes, media: Iterable[tuple[bytes, bool]]) -> tuple[bytes, tuple[int, ...], int]:
    """`text` without inline pictures, sound and film; the pixels of each picture; tokens for sound and film.

    `media`, in order: the JSON string of each (empty if it is not inline), and whether it is a picture.
    """
    pictures: tuple[int, ...] = ()
    tokens, position, pieces = 0, 0, []
    for data, is_image in media:
        if is_image:
            pictures += (pixels(data),)
        size = len(data)
        if size and not is_image:
            tokens += size // MEDIA_BYTES_PER_TOKEN + 1
        if size:
            # The first match after the last one may be a copy of it in a text, which is as long and does as well.
            start = _find(text, data, position)
            if start < 0:  # members in an order of their own: it is counted as text too
                continue
            pieces.append(text[position:start])
            position = start + size
    pieces.append(text[position:])
    return b"".join(pieces), pictures, tokens


def _find(text: bytes, data: bytes, position: int) -> int:
    """As `text.find(data, position)`, which takes ten times as long for megabytes."""
    begin = data[:_BEGIN]
    for _ in range(_TRIES):
        start = text.find(begin, position)
        if start < 0 or text.startswith(data, start):
            return start
        position = start + 1
    return text.find(data, position)  # whose time is bounded, even if all of `text` begins like `data`


def _media(messages: Iterable[_Message]) -> Iterator[tuple[bytes, bool]]:
    """Each medium in a chat's messages, as `without_media` takes them."""
    for message in messages:
        for part in message.content if isinstance(message.content, list) else ():
            if part.image_url != NOTHING:
                yield _inline(part.image_url), True
            elif part.input_audio != NOTHING:
                yield _source(part.input_audio), False
            elif part.video_url != NOTHING:
                url = _source(part.video_url)
                yield url if url.startswith(b'"data:') else b"", False
        if message.role == "assistant" and message.images != NOTHING:
            for part in _drawn(message.images):
                yield _inline(part.image_url), True


def _elsewhere(text: bytes, messages: Iterable[_Message]) -> int:
    """How many files, sounds and films of a chat the provider gets from elsewhere. `text`: the messages' JSON."""
    if _ELSEWHERE.search(text) is None and b"\\u00" not in text:
        return 0
    return sum(
        any(map(is_elsewhere, (part.input_audio, part.audio_url, *_files_of(part)))) for part in _parts(messages)
    )


def _parts(messages: Iterable[_Message]) -> Iterator[_Part]:
    for message in messages:
        if isinstance(message.content, list):
            yield from message.content


def _files_of(part: _Part) -> tuple[Raw, ...]:
    return part.file, part.file_url, part.document_url, part.video, part.video_url


def is_elsewhere(raw: Raw) -> bool:
    """Whether a part's member names what it means by a URL, or by an id of the provider's, anywhere within."""
    text = bytes(raw)
    return text.startswith((b"{", b"[", b'"')) and _ELSEWHERE.search(unescaped(text)) is not None


def _drawn(images: Raw) -> list[_Part]:
    """The pictures that a model drew, where OpenRouter and we put them; none if it is anything else."""
    try:
        return [part for part in _decode_parts(images) if part.image_url != NOTHING]
    except msgspec.ValidationError:
        return []


def _inline(image_url: Raw) -> bytes:
    url = _source(image_url)
    return url if url.startswith((b'"data:image/', rb'"data:image\/')) else b""


def _source(raw: Raw) -> bytes:
    """The JSON string in a part's member: {"url": …}, {"data": …} or the string itself; empty when there is none."""
    text = bytes(raw)
    if text.startswith(b"{"):
        source = _decode_source(text)
        text = bytes(source.url if source.url != NOTHING else source.data)
    return text if text.startswith(b'"') else b""
