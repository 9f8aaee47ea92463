"""What a caller and a model say to each other, in nobody's dialect: the values in which translators meet.

A caller's dialect (`*_client`) reads a body into a `Conversation` and writes a `Reply` or `Event`s for its clients; a
provider's dialect (`*_provider`) writes a `Conversation` and reads a `Reply` or `Event`s. So each dialect is written
once for each side, and none knows another.

Rule 1  What both sides can express survives. What only one dialect has (`Opaque`, `extras`, another provider's
        signature) goes back to that dialect alone.
Rule 2  What a target cannot do is reported to its `Fit`: an error that names the caller's field, or a note if the
        caller allowed it to be left out. Only hints are left out without the caller's leave (`Fit.hint`).
Rule 3  JSON stays text: arguments of tools, schemas and unknown members pass byte for byte, except for words of a
        schema that the target would refuse or ignore, but knows in its own terms.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec
from msgspec import Raw

from tollbridge.errors import UnsupportedField
from tollbridge.values import Usage

# A prompt-cache marker: how long everything up to here may be kept.
Cache: TypeAlias = Literal["5m", "1h"]
Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]
# `stop_sequence`: the sequence is given beside it. `filtered`: the provider withheld the answer. `refused`: the model
# did. `paused`: the provider wants to be called again with what it said (Anthropic's server tools).
Reason: TypeAlias = Literal["stop", "stop_sequence", "length", "tool_calls", "filtered", "refused", "paused"]


class Citation(msgspec.Struct, frozen=True, kw_only=True):
    """Where a piece of text comes from. `start`, `end`: the characters of the text that it supports, if known."""

    url: str
    title: str = ""
    quote: str = ""
    start: int | None = None
    end: int | None = None


class Text(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    cache: Cache | None = None
    citations: tuple[Citation, ...] = ()


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """A picture: at `url`, or `data` (base64) of `media_type`. `detail`: OpenAI's low, high or auto."""

    url: str = ""
    data: str = ""
    media_type: str = ""
    detail: str | None = None
    cache: Cache | None = None


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A file: at `url`, as `data` (base64) of `media_type`, or as plain `text`."""

    url: str = ""
    data: str = ""
    text: str = ""
    media_type: str = ""
    title: str = ""
    cache: Cache | None = None


class Audio(msgspec.Struct, frozen=True, kw_only=True):
    """`data`: base64. `format`: wav, mp3 …"""

    data: str
    format: str


class Thinking(msgspec.Struct, frozen=True, kw_only=True):
    """What a model thought. `signature` proves it to the dialect `origin`, which wants it back unchanged.

    `redacted`: encrypted by the provider; then `text` is empty.
    """

    text: str = ""
    signature: str = ""
    redacted: str = ""
    origin: str = ""


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """`arguments`: JSON as the model wrote it, not necessarily valid. `signature`: as in `Thinking` (Gemini)."""

    id: str
    name: str
    arguments: str
    signature: str = ""
    origin: str = ""
    cache: Cache | None = None


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    text: str


class Opaque(msgspec.Struct, frozen=True, kw_only=True):
    """A part that only the dialect `origin` knows. `param`: the caller's path to it."""

    origin: str
    json: Raw
    param: str


class ToolResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool answered to the call `id`. `name`: the tool's, if the caller or the call above says it."""

    id: str
    name: str = ""
    parts: tuple[Text | Image | Document | Opaque, ...] = ()
    is_error: bool = False
    cache: Cache | None = None


Part: TypeAlias = Text | Image | Document | Audio | Thinking | ToolCall | ToolResult | Refusal | Opaque


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One message. Results of tools are in turns of role `tool`, one after another, and nowhere else."""

    role: Role
    parts: tuple[Part, ...]
    name: str = ""


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the caller runs. `parameters`: JSON schema, None if the caller gave none."""

    name: str
    description: str = ""
    parameters: Raw | None = None
    strict: bool | None = None
    cache: Cache | None = None


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """`required`: some tool; `one`: the tool `name`."""

    mode: Literal["auto", "none", "required", "one"]
    name: str = ""


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer must be: `json`, any JSON object; `schema`, JSON that follows `schema`."""

    kind: Literal["text", "json", "schema"]
    name: str = ""
    description: str = ""
    schema: Raw | None = None
    strict: bool | None = None


class Reasoning(msgspec.Struct, frozen=True, kw_only=True):
    """How much to think. `effort`: none, minimal, low, medium, high, xhigh …; `budget`: tokens (0: not at all).

    `shown`: whether the caller wants to see it (None: the provider's default). Without any of them: to think at all.
    """

    effort: str | None = None
    budget: int | None = None
    shown: bool | None = None


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a caller asks for. A member that is None or empty was not given.

    `tools` are functions; tools that a provider runs itself are in `extras` or `Opaque`. `parallel_tools`: whether
    several may be called at once; if False, the caller is only told of the first call in an answer. `choices`: how many
    answers. `end_user`: the caller's own name for its user, a hint. `extras`: members that only the caller's dialect
    `origin` knows, by the caller's name. `names`: the caller's names for members of this class, where they differ.
    `hints`: like `extras`, but they do not change what an answer says or does; a target takes those that it knows and
    leaves the others. `lenient`: what a target cannot do may be left out.
    """

    origin: str
    turns: tuple[Turn, ...]
    stream: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tools: bool | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    choices: int = 1
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: Raw | None = None
    format: Format | None = None
    reasoning: Reasoning | None = None
    verbosity: str | None = None
    end_user: str = ""
    extras: Mapping[str, Raw] = {}
    hints: Mapping[str, Raw] = {}
    names: Mapping[str, str] = {}
    lenient: bool = False


# What a user says who only wants the next turn, to a model that answers nobody but a user.
CONTINUE = "Continue."


def instructed_at_the_end(turns: Sequence[Turn]) -> int:
    """The position from which only instructions follow the model's last words; the number of turns if none do.

    They are what the model is to answer.
    """
    end = len(turns)
    while end and turns[end - 1].role in ("system", "developer"):
        end -= 1
    return end if end and turns[end - 1].role == "assistant" else len(turns)


def is_marked(conversation: Conversation) -> bool:
    """Whether something in it is marked for a prompt cache."""
    parts = [part for turn in conversation.turns for part in turn.parts]
    inner = [each for part in parts if isinstance(part, ToolResult) for each in part.parts]
    kinds = Text | Image | Document | ToolCall | ToolResult | Tool
    return any(isinstance(each, kinds) and each.cache is not None for each in (*parts, *inner, *conversation.tools))


def urls(conversation: Conversation, taken: Callable[[Image | Document], bool]) -> list[str]:
    """The URLs in `conversation` that the target does not take, each once."""
    found = [part.url for part in _files(conversation) if part.url and not taken(part)]
    return list(dict.fromkeys(found))


def with_data(conversation: Conversation, data: Mapping[str, tuple[str, str]]) -> Conversation:
    """`conversation` with some URLs replaced by what they point to. `data`: by URL, media type and base64."""

    def filled(part: Part) -> Part:
        if isinstance(part, Image | Document) and part.url in data:
            media_type, text = data[part.url]
            return msgspec.structs.replace(part, url="", data=text, media_type=media_type)
        if isinstance(part, ToolResult):
            return msgspec.structs.replace(part, parts=tuple(map(filled, part.parts)))
        return part

    turns = tuple(msgspec.structs.replace(turn, parts=tuple(map(filled, turn.parts))) for turn in conversation.turns)
    return msgspec.structs.replace(conversation, turns=turns)


def _files(conversation: Conversation) -> Iterator[Image | Document]:
    for turn in conversation.turns:
        for part in turn.parts:
            for inner in part.parts if isinstance(part, ToolResult) else (part,):
                if isinstance(inner, Image | Document):
                    yield inner


class Fit:
    """Collects what the target cannot do of a conversation. `target`: its dialect, in words for the message."""

    def __init__(self, conversation: Conversation, target: str) -> None:
        self.dropped: list[str] = []
        self._names = conversation.names
        self._lenient = conversation.lenient
        self._target = target

    def lacks(self, param: str, why: str = "") -> None:
        """`param` (a member's name here, or the caller's path) cannot be done. Raises unless it may be left out."""
        param = self._names.get(param, param)
        if self._lenient:
            self.dropped.append(param)
            return
        raise UnsupportedField(
            f"'{param}' cannot be sent to {self._target}{': ' + why if why else ''}. Leave it out, or have it left"
            ' out with "provider": {"require_parameters": false}.',
            param=param,
        )

    def hint(self, param: str) -> None:
        """`param` cannot be sent, which does not change what the answer says or does: it is only noted."""
        self.dropped.append(self._names.get(param, param))


# --- An answer that came whole ---


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """`native`: the provider's own word for the reason. `logprobs`: in OpenAI's form."""

    parts: tuple[Part, ...]
    reason: Reason
    stop_sequence: str | None = None
    native: str = ""
    logprobs: Raw | None = None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """`usage`, `suspect`, `reported`: as in `exchange.Answer`."""

    choices: tuple[Choice, ...]
    usage: Usage | None
    suspect: bool = False
    reported: bytes = b""


# --- An answer that comes in pieces ---
#
# Within a choice, pieces of one kind belong together until another kind comes; writers open and close their blocks by
# that. Tool calls are told apart by `index`, from 0.


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    text: str
    choice: int = 0
    logprobs: Raw | None = None


class ThinkingDelta(msgspec.Struct, frozen=True, gc=False):
    text: str
    choice: int = 0


class ThinkingEnd(msgspec.Struct, frozen=True, gc=False):
    """The thought is over: its `signature`, or all of it as `redacted`; as in `Thinking`."""

    signature: str = ""
    redacted: str = ""
    origin: str = ""
    choice: int = 0


class RefusalDelta(msgspec.Struct, frozen=True, gc=False):
    text: str
    choice: int = 0


class TextStart(msgspec.Struct, frozen=True, gc=False):
    """The text that follows is cited apart from the text before."""

    choice: int = 0


class Cited(msgspec.Struct, frozen=True, gc=False):
    """The text since the last `TextStart` is backed by `citation`."""

    citation: Citation
    choice: int = 0


class Drawn(msgspec.Struct, frozen=True, gc=False):
    """A picture of the model's: it comes whole."""

    image: Image
    choice: int = 0


class ToolStart(msgspec.Struct, frozen=True, gc=False):
    index: int
    id: str
    name: str
    choice: int = 0
    signature: str = ""
    origin: str = ""


class ToolDelta(msgspec.Struct, frozen=True, gc=False):
    index: int
    arguments: str
    choice: int = 0


class Finish(msgspec.Struct, frozen=True, gc=False):
    reason: Reason
    stop_sequence: str | None = None
    native: str = ""
    choice: int = 0


Event: TypeAlias = (
    TextDelta | TextStart | ThinkingDelta | ThinkingEnd | RefusalDelta | Cited | Drawn | ToolStart | ToolDelta | Finish
)
