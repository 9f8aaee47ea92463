"""The four forms of a plain input: a string, an array of strings, an array of token ids, an array of such arrays."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

from tollbridge.errors import InvalidRequest
from tollbridge.wire.body import too_deep
from tollbridge.wire.request import MAX_INPUTS

_Text = Annotated[str, Meta(min_length=1)]
_Tokens = Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=1)]
_Several = Meta(min_length=1, max_length=MAX_INPUTS)

_decode_text = msgspec.json.Decoder(str).decode
_decode_tokens = msgspec.json.Decoder(_Tokens).decode
_ARRAYS: dict[str, msgspec.json.Decoder[list[Any]]] = {
    '"': msgspec.json.Decoder(Annotated[list[str], _Several]),
    "[": msgspec.json.Decoder(Annotated[list[_Tokens], _Several]),
}
_NONE_EMPTY: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(Annotated[list[_Text], _Several])


def rule(*, empty: bool) -> str:
    text = "a string" if empty else "a non-empty string"
    return (
        f"must be {text}, an array of 1 to {MAX_INPUTS:,} of them, an array of token ids (whole numbers from 0), or an"
        f" array of 1 to {MAX_INPUTS:,} such arrays"
    )


def read(param: str, raw: Raw, *, empty: bool) -> tuple[int, int]:
    """How many inputs `raw` holds, and how many token ids; raises an `InvalidRequest` that names `param`.

    `empty`: whether a text may be empty.
    """
    text = bytes(raw)
    try:
        if text.startswith(b'"'):
            if not _decode_text(text) and not empty:
                raise InvalidRequest(f"Invalid value for '{param}': it {rule(empty=empty)}.", param=param)
            return 1, 0
        first = text[1:].lstrip()[:1].decode("ascii", "replace") if text.startswith(b"[") else ""
        if first == '"':
            return len((_ARRAYS[first] if empty else _NONE_EMPTY).decode(text)), 0
        if first == "[":
            arrays = _ARRAYS[first].decode(text)
            return len(arrays), sum(map(len, arrays))
        return 1, len(_decode_tokens(text))
    except msgspec.ValidationError:
        raise InvalidRequest(f"Invalid value for '{param}': it {rule(empty=empty)}.", param=param) from None
    except RecursionError:
        raise too_deep() from None
