"""Public ids of requests: what a stranger sees of a hold's id.

Hold ids are consecutive, so they would tell how many requests there are. The public id is that number and as many zero
bits, encrypted as one block of AES-128: a permutation that only the key's owner can compute, in either direction. It
needs no column and no index, and a made-up id is recognised by its missing zeros (2⁻⁶⁴ of them pass).
"""

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

KEY_BYTES = 16
# Clients tell the kind of an answer by these.
PREFIXES = {
    "chat": "chatcmpl-",
    "completions": "cmpl-",
    "embeddings": "embd-",
    "messages": "msg_",
    "responses": "resp_",
}

_KNOWN_PREFIXES = frozenset(PREFIXES.values())
_ZEROS = bytes(8)
_DIGITS = 32


class Ids:
    """Not thread-safe: the cipher's context is reused. `before`: what made earlier ids, if anything, to decode them."""

    def __init__(self, key: bytes, before: "Ids | None" = None) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key of {KEY_BYTES} bytes")
        cipher = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305 (one block, a permutation is what is wanted)
        self._encrypt = cipher.encryptor().update
        self._decrypt = cipher.decryptor().update
        self._before = before

    def encode(self, endpoint: str, hold: int) -> str:
        """`chatcmpl-` or the endpoint's own prefix, and 32 hexadecimal digits."""
        return PREFIXES[endpoint] + self._encrypt(hold.to_bytes(8) + _ZEROS).hex()

    def decode(self, text: str) -> int | None:
        """The hold that `text` names, with whichever of our prefixes; None: it is not an id of ours."""
        if text[:-_DIGITS] not in _KNOWN_PREFIXES:
            return None
        try:
            block = bytes.fromhex(text[-_DIGITS:])
        except ValueError:
            return None
        # `fromhex` accepts blanks between digits, which make the block too short.
        plain = self._decrypt(block) if len(block) == KEY_BYTES else b""
        if plain[8:] == _ZEROS:
            return int.from_bytes(plain[:8])
        return None if self._before is None else self._before.decode(text)
