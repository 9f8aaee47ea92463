"""A language model of a few kilobytes in llama.cpp's format: real weights (random ones), a real tokenizer, no sense.

What it says does not matter; that a server not written by this project says it, with its own tokens and its own usage,
does. Format: github.com/ggml-org/ggml docs/gguf.md, version 3.
"""

import random
import struct
from pathlib import Path
from typing import Any

WORDS = ["the", "river", "stone", "quiet", "under", "light", "seven", "carry", "north", "paper", "slowly", "glass"]
EMBEDDING, HIDDEN, HEADS, LAYERS, CONTEXT = 32, 64, 4, 2, 2048

_U32, _F32, _STRING, _ARRAY, _I32 = 4, 6, 8, 9, 5
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_ALIGNMENT = 32
_TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"


def write(path: Path) -> None:
    """The same model each time."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *(f"\u2581{w}" for w in WORDS)]
    types = [_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * 256, *[_NORMAL] * len(WORDS)]
    settings: dict[str, tuple[int, Any]] = {
        "general.architecture": (_STRING, "llama"),
        "general.name": (_STRING, "tiny"),
        "llama.context_length": (_U32, CONTEXT),
        "llama.embedding_length": (_U32, EMBEDDING),
        "llama.block_count": (_U32, LAYERS),
        "llama.feed_forward_length": (_U32, HIDDEN),
        "llama.attention.head_count": (_U32, HEADS),
        "llama.attention.layer_norm_rms_epsilon": (_F32, 1e-5),
        "llama.rope.dimension_count": (_U32, EMBEDDING // HEADS),
        "tokenizer.ggml.model": (_STRING, "llama"),
        "tokenizer.ggml.tokens": (_ARRAY, (_STRING, tokens)),
        "tokenizer.ggml.scores": (_ARRAY, (_F32, [0.0] * 3 + [-10.0] * 256 + [-1.0] * len(WORDS))),
        "tokenizer.ggml.token_type": (_ARRAY, (_I32, types)),
        "tokenizer.ggml.bos_token_id": (_U32, 1),
        "tokenizer.ggml.eos_token_id": (_U32, 2),
        "tokenizer.chat_template": (_STRING, _TEMPLATE),
    }
    tensors = _tensors(len(tokens))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(settings))
    head += b"".join(_text(name) + _value(*value) for name, value in settings.items())
    data = b""
    for name, shape, numbers in tensors:
        head += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        data += _padded(struct.pack(f"<{len(numbers)}f", *numbers))
    path.write_bytes(_padded(head) + data)


def _tensors(vocabulary: int) -> list[tuple[str, tuple[int, ...], list[float]]]:
    chance = random.Random(1)

    def weights(*shape: int) -> tuple[tuple[int, ...], list[float]]:
        size = shape[0] * (shape[1] if len(shape) > 1 else 1)
        return shape, [1.0] * size if len(shape) == 1 else [chance.gauss(0, 0.3) for _ in range(size)]

    # Only words are ever likely: bytes and the end token get no weight.
    silent = [0.0] * EMBEDDING * (vocabulary - len(WORDS))
    spoken = [chance.gauss(0, 1) for _ in range(EMBEDDING * len(WORDS))]
    tensors = [
        ("token_embd.weight", *weights(EMBEDDING, vocabulary)),
        ("output_norm.weight", *weights(EMBEDDING)),
        ("output.weight", (EMBEDDING, vocabulary), silent + spoken),
    ]
    for layer in range(LAYERS):
        shapes: dict[str, tuple[int, ...]] = {
            **dict.fromkeys(("attn_norm", "ffn_norm"), (EMBEDDING,)),
            **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (EMBEDDING, EMBEDDING)),
            **dict.fromkeys(("ffn_gate", "ffn_up"), (EMBEDDING, HIDDEN)),
            "ffn_down": (HIDDEN, EMBEDDING),
        }
        tensors += [(f"blk.{layer}.{name}.weight", *weights(*shape)) for name, shape in shapes.items()]
    return tensors


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(kind: int, value: Any) -> bytes:
    return struct.pack("<I", kind) + _bare(kind, value)


def _bare(kind: int, value: Any) -> bytes:
    if kind == _STRING:
        return _text(value)
    if kind == _ARRAY:
        inner, items = value
        return struct.pack("<IQ", inner, len(items)) + b"".join(_bare(inner, item) for item in items)
    return struct.pack({_U32: "<I", _I32: "<i", _F32: "<f"}[kind], value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
