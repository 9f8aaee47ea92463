"""Counting tokens here, for holds and for answers whose provider reported no usage.

An exact count needs each provider's tokenizer. Weights by class of byte give 0.93 to 1.17 times the real count on
English, code, markdown and JSON, in a few microseconds; four bytes per token does not (0.6 on JSON, 0.4 on base64).
"""

import msgspec

_LETTERS = bytes(range(ord("a"), ord("z") + 1)) + bytes(range(ord("A"), ord("Z") + 1))
_DIGITS = b"0123456789"
_SPACE = b" \t\r\n"
_HIGH = bytes(range(0x80, 0x100))

# Tokens per thousand bytes of each class. A byte of no class counts as punctuation.
_PER_LETTER = 220
_PER_DIGIT = 550
_PER_SPACE = 120
_PER_PUNCTUATION = 700
_PER_HIGH = 360
# How much more a byte weighs than one of the class that `count` removes before it.
_SPACE_OVER_LETTER = _PER_SPACE - _PER_LETTER
_DIGIT_OVER_SPACE = _PER_DIGIT - _PER_SPACE
_PUNCTUATION_OVER_DIGIT = _PER_PUNCTUATION - _PER_DIGIT

# What a chat template adds: around each message (role and separators), and around the whole.
PER_MESSAGE = 4
PER_REQUEST = 3
# The JSON around a message, as `count` sees it. No model reads it; in a hold it stands for what else templates add.
PER_FRAME = 13
# A picture costs between 85 and about 1,600 tokens at most models, and more at some (`core.pictures`). This is charged
# only if the provider never reports what it read.
PER_IMAGE = 1_600

# What Anthropic tells its models about tools if there are any: 290 (Opus 4.8) to 675 tokens (Opus 4.7), more if one
# must be called (platform.claude.com/docs, agents-and-tools/tool-use/overview).
PER_TOOLS = 500

# A picture that a model draws, of about 1,024 by 1,024: 1,290 tokens at Google, 1,056 at OpenAI in medium quality.
# Charged only if the provider does not report what it wrote.
PER_DRAWN = 1_290

# Base64 characters of sound that a model speaks: 24,000 samples of two bytes a second, for 20 tokens (OpenAI's `pcm16`,
# the only one that it streams). Charged only if the provider does not report what it spoke.
SOUND_PER_TOKEN = 3_200

# A hold covers the estimate plus this many percent, so that the real count stays within it.
HOLD_MARGIN_PERCENT = 30


class TextClasses(msgspec.Struct):
    """Bytes of text by class. `add` text piece by piece; `tokens` is the estimate so far, without `pictures` and
    `sound` (base64 characters).
    """

    letters: int = 0
    digits: int = 0
    spaces: int = 0
    punctuation: int = 0
    high: int = 0
    pictures: int = 0
    sound: int = 0

    def add(self, text: bytes) -> None:
        size = len(text)
        rest = text.translate(None, _LETTERS)
        self.letters += size - len(rest)
        size = len(rest)
        if not size:
            return
        rest = rest.translate(None, _SPACE)
        self.spaces += size - len(rest)
        size = len(rest)
        rest = rest.translate(None, _DIGITS)
        self.digits += size - len(rest)
        size = len(rest)
        rest = rest.translate(None, _HIGH)
        self.high += size - len(rest)
        self.punctuation += len(rest)

    @property
    def tokens(self) -> int:
        weighed = (
            self.letters * _PER_LETTER
            + self.digits * _PER_DIGIT
            + self.spaces * _PER_SPACE
            + self.punctuation * _PER_PUNCTUATION
            + self.high * _PER_HIGH
        )
        return (weighed + 999) // 1000


def count(text: bytes) -> int:
    """Estimated tokens of UTF-8 `text`: the same as `TextClasses`, for a text that is whole."""
    # Each is what is left after removing one more class.
    others = text.translate(None, _LETTERS)
    digits_and_marks = others.translate(None, _SPACE)
    marks = digits_and_marks.translate(None, _DIGITS)
    weighed = (
        len(text) * _PER_LETTER
        + len(others) * _SPACE_OVER_LETTER
        + len(digits_and_marks) * _DIGIT_OVER_SPACE
        + len(marks) * _PUNCTUATION_OVER_DIGIT
    )
    if not marks.isascii():
        weighed += (len(marks) - len(marks.translate(None, _HIGH))) * (_PER_HIGH - _PER_PUNCTUATION)
    return (weighed + 999) // 1000


def count_prompt(text: bytes, messages: int = 0) -> int:
    """Estimated tokens of a prompt: its text (as JSON of the messages and tools, too), and what the form adds to it."""
    return count(text) + messages * PER_MESSAGE + PER_REQUEST


def count_read(text: bytes, messages: int = 0) -> int:
    """`count_prompt` without the JSON around messages: about what a provider would report as read."""
    return without_frames(count_prompt(text, messages), messages)


def without_frames(counted: int, messages: int) -> int:
    """`count_read` of a prompt whose `count_prompt` is `counted`."""
    return max(1, counted - messages * PER_FRAME)


def with_margin(tokens: int) -> int:
    """What a hold should cover for an estimate of `tokens`."""
    return tokens + (tokens * HOLD_MARGIN_PERCENT + 99) // 100


def without_margin(tokens: int) -> int:
    """The largest estimate whose hold covers no more than `tokens`."""
    return tokens * 100 // (100 + HOLD_MARGIN_PERCENT)
