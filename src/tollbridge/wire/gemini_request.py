"""Writes a conversation as the body of Gemini's generateContent.

Rule 1  All system and developer messages go to `systemInstruction`, in order, including those from the middle: there
        they keep their authority, which they would lose as a user's words. Those after the model's last words are a
        user's all the same: there must be something to answer. Without them, newer models, which do not go on with
        their own words ("Requests ending with a model turn are not supported"), are told to.
Rule 2  Consecutive turns of one side become one, as do the results of parallel calls, which Gemini wants so. A result
        has the name of its call. Results stay text, because numbers in Gemini's own form are floats.
Rule 3  A signature goes back to its place: on its function call, or on a part of its own. Since generation 3, a step
        without one is refused; for a history written by another model, Google documents `SKIP_SIGNATURE`
        (https://ai.google.dev/gemini-api/docs/thought-signatures). Thoughts themselves need not go back.
Rule 4  Gemini fetches https URLs of files whose type is given (since 2.5,
        https://ai.google.dev/gemini-api/docs/file-input-methods). Any other URL is refused here, above all those that
        Google would read as the operator: gs://, and files of the Files API.

Fields: https://ai.google.dev/api/generate-content; thinking: https://ai.google.dev/gemini-api/docs/thinking.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Raw

from tollbridge.wire.body import NULL
from tollbridge.wire.conversation import (
    CONTINUE,
    Audio,
    Conversation,
    Document,
    Fit,
    Format,
    Image,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Turn,
    instructed_at_the_end,
    is_marked,
)
from tollbridge.wire.gemini_schemas import heeded
from tollbridge.wire.schemas import described

ORIGIN = "gemini"
SKIP_SIGNATURE = "skip_thought_signature_validator"
# Gemini's older models give calls no ids; ours begin like this, and are not sent back.
OWN_ID = "call_gemini_"
MAX_STOPS = 5

_Json = dict[str, Any]

_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY", "one": "ANY"}
_SOUNDS = {"wav": "audio/wav", "mp3": "audio/mp3", "flac": "audio/flac", "ogg": "audio/ogg", "aac": "audio/aac"}
_SOUNDS |= {"aiff": "audio/aiff", "opus": "audio/opus", "m4a": "audio/m4a"}
_KINDS = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp", "heic": "image/heic"}
_KINDS |= {"heif": "image/heif", "gif": "image/gif", "pdf": "application/pdf", "txt": "text/plain", "html": "text/html"}
_KINDS |= {"md": "text/markdown", "csv": "text/csv", "json": "application/json", "xml": "text/xml"}
# https://ai.google.dev/gemini-api/docs/function-calling#multimodal
_IN_RESULTS = ("image/png", "image/jpeg", "image/webp", "application/pdf", "text/plain")
_SUFFIX = re.compile(r"https://[^?#]*/[^?#/]*\.([A-Za-z0-9]{2,5})(?:[?#].*)?", re.DOTALL)
_UPLOADS = re.compile(r"https://[^/?#]*generativelanguage\.googleapis\.com\b", re.IGNORECASE)
_GENERATION = re.compile(r"gemini-(\d{1,2})(?:\.(\d{1,2}))?")

# Google's own table for its OpenAI-compatible endpoint.
_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576}
_LEVELS = {"low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "HIGH", "max": "HIGH"}
_MOST_BUDGET = 24576
_MOST_BUDGET_PRO = 32768
_LEAST_BUDGET_PRO = 128
_LEAST_BUDGET_LITE = 512

_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_names = msgspec.json.Decoder(list[str]).decode


class Generation(msgspec.Struct, frozen=True):
    """Which Gemini a model is: (3, 1) for `gemini-3.1-pro`. A name without a number (`gemini-flash-latest`) counts as
    generation 3; a model that is not a Gemini is (0, 0).
    """

    model: str
    number: tuple[int, int]

    @property
    def is_signed(self) -> bool:
        return self.number >= (3, 0)

    @property
    def continues(self) -> bool:
        """Whether it goes on with its own words at the end of a conversation."""
        return self.number <= (3, 1) and not self.model.endswith("-latest")


def generation(model: str) -> Generation:
    name = model.rpartition("/")[2]
    found = _GENERATION.match(name)
    if found is not None:
        return Generation(name, (int(found[1]), int(found[2] or 0)))
    return Generation(name, (3, 0) if name.startswith("gemini") else (0, 0))


def fields(conversation: Conversation, model: str, limit: int | None, fit: Fit) -> _Json:
    """The body's members. `limit`: as in `dialect.Provider.outgoing`. What cannot be done is reported to `fit`.

    Raises `UnsupportedField`.
    """
    version = generation(model)
    if is_marked(conversation):
        fit.hint("cache_control")
    system, contents = _Turns(fit, version).write(conversation.turns)
    members: _Json = {"contents": contents}
    if system:
        members["systemInstruction"] = {"parts": system}
    _put_tools(members, conversation, version, fit)
    config = _config(conversation, version, limit, fit)
    if config:
        members["generationConfig"] = config
    return members


# --- What is said ---


class _Turns:
    def __init__(self, fit: Fit, version: Generation) -> None:
        self._fit = fit
        self._version = version
        self._names: dict[str, str] = {}

    def write(self, turns: tuple[Turn, ...]) -> tuple[list[_Json], list[_Json]]:
        """(parts of the system instruction, contents)"""
        system: list[_Json] = []
        contents: list[_Json] = []
        before = ""
        asked_from = instructed_at_the_end(turns)
        for position, turn in enumerate(turns):
            role = turn.role
            if turn.name:
                self._fit.hint("messages[].name")
            if role in ("system", "developer") and position < asked_from:
                system += self._system(turn)
                continue
            parts = self._model(turn.parts) if role == "assistant" else self._said(turn.parts)
            if not parts and role == "assistant":
                continue
            if role == before:
                contents[-1]["parts"] += parts
            else:
                contents.append({"role": "model" if role == "assistant" else "user", "parts": parts})
            before = role
        if before == "assistant" and not self._version.continues:
            contents.append({"role": "user", "parts": [{"text": CONTINUE}]})
        for content in contents:
            if not content["parts"]:
                content["parts"] = [{"text": ""}]
        if not contents:  # Gemini wants something to answer
            return [], [{"role": "user", "parts": system}]
        return system, contents

    def _system(self, turn: Turn) -> list[_Json]:
        parts = []
        for part in turn.parts:
            if isinstance(part, Text):
                parts.append({"text": part.text})
            else:
                self._fit.lacks("turns", "its system messages are text")
        return [part for part in parts if part["text"]]

    def _said(self, parts: Iterable[Part]) -> list[_Json]:
        """A user's parts, or results of tools."""
        written: list[_Json] = []
        for part in parts:
            if isinstance(part, ToolResult):
                written += self._result(part)
            else:
                written += self._plain(part)
        return written

    def _model(self, parts: tuple[Part, ...]) -> list[_Json]:
        written: list[_Json] = []
        signature = ""  # of a thought: for the call that follows, if that has none of its own
        has_calls = False
        for part in parts:
            if isinstance(part, ToolCall):
                own = part.signature if part.origin == ORIGIN else ""
                written.append(self._call(part, own or signature, is_first=not has_calls))
                has_calls, signature = True, ""
                continue
            if signature:
                written.append({"text": "", "thoughtSignature": signature})
                signature = ""
            if isinstance(part, Thinking):
                signature = part.signature if part.origin == ORIGIN else ""
            else:
                written += self._plain(part)
        if signature:
            written.append({"text": "", "thoughtSignature": signature})
        return written

    def _call(self, call: ToolCall, signature: str, *, is_first: bool) -> _Json:
        self._names[call.id] = call.name
        function: _Json = {"name": call.name, "args": _arguments(call.arguments)}
        if call.id and not call.id.startswith(OWN_ID):
            function["id"] = call.id
        part: _Json = {"functionCall": function}
        if signature:
            part["thoughtSignature"] = signature
        elif is_first and self._version.is_signed:
            part["thoughtSignature"] = SKIP_SIGNATURE
        return part

    def _result(self, result: ToolResult) -> list[_Json]:
        name = result.name or self._names.get(result.id, "")
        if not name:
            self._fit.lacks("turns", "a tool's result answers no call above it")
            return []
        texts, files = [], []
        for part in result.parts:
            if isinstance(part, Text):
                texts.append(part.text)
            else:
                files += self._plain(part)
        response: _Json = {"name": name, "response": {"error" if result.is_error else "output": "\n".join(texts)}}
        if result.id and not result.id.startswith(OWN_ID):
            response["id"] = result.id
        inline = [part for part in files if part.get("inlineData", {}).get("mimeType") in _IN_RESULTS]
        if inline and self._version.is_signed:  # Gemini 3 reads some files within a result, older ones only beside it
            response["parts"] = inline
            files = [part for part in files if part not in inline]
        return [{"functionResponse": response}, *files]

    def _plain(self, part: Part) -> list[_Json]:
        match part:
            case Text() | Refusal():
                return [{"text": part.text}] if part.text else []
            case Image():
                if part.detail not in (None, "auto"):
                    self._fit.hint("messages[].content[].image_url.detail")
                return self._file(part.url, part.data, part.media_type, "image/*")
            case Document():
                if part.text:
                    return [{"text": f"{part.title}\n\n{part.text}" if part.title else part.text}]
                return self._file(part.url, part.data, part.media_type, "")
            case Audio():
                kind = _SOUNDS.get(part.format.lower())
                if kind is not None:
                    return [{"inlineData": {"mimeType": kind, "data": part.data}}]
                self._fit.lacks("turns", f"it does not take audio in the format {part.format[:20]!r}")
            case Opaque():
                self._fit.lacks(part.param)
            case Thinking():
                pass
            case ToolCall() | ToolResult():
                self._fit.lacks("turns", "tool calls belong in an assistant's turn, their results in a tool's")
        return []

    def _file(self, url: str, data: str, kind: str, default: str) -> list[_Json]:
        if data:
            if not kind and not default:
                self._fit.lacks("turns", "a file needs its media type")
                return []
            return [{"inlineData": {"mimeType": kind or "image/png", "data": data}}]
        kind = _kind_of(url, kind)
        if not _is_anyone_s(url) or not kind:
            self._fit.lacks(
                "turns",
                "it takes https URLs that end in the type of the file, like .png or .pdf; send the file as data",
            )
        elif self._version.number < (2, 5):
            self._fit.lacks("turns", "this model takes no URLs; send the file as data")
        else:
            return [{"fileData": {"mimeType": kind, "fileUri": url}}]
        return []


def reads_url(part: Image | Document, model: str) -> bool:
    """Whether Gemini itself fetches what the part's URL points to."""
    is_known = bool(_kind_of(part.url, part.media_type))
    return is_known and _is_anyone_s(part.url) and generation(model).number >= (2, 5)


def _is_anyone_s(url: str) -> bool:
    """Whether Google fetches `url` as anyone could, and not as the operator, from their buckets and uploads."""
    return url.startswith("https://") and _UPLOADS.match(url) is None


def _kind_of(url: str, kind: str) -> str:
    """The media type: `kind` if it was given, else as the URL's ending tells, or ""."""
    suffix = _SUFFIX.fullmatch(url)
    return kind or (_KINDS.get(suffix[1].lower(), "") if suffix else "")


def _arguments(text: str) -> Raw | _Json:
    """A call's arguments as the object that Gemini wants; if a model wrote something else, that goes in as text."""
    try:
        _decode_object(text.encode())
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return {"arguments": text} if text.strip() else {}
    return Raw(text.encode())


# --- Tools ---


def _put_tools(members: _Json, conversation: Conversation, version: Generation, fit: Fit) -> None:
    """Since 2.5, `VALIDATED` is `AUTO` with calls that follow the schema; `ANY` always follows it
    (https://ai.google.dev/gemini-api/docs/function-calling).
    """
    if not conversation.tools:
        return
    declarations = []
    has_strict = False
    for tool in conversation.tools:
        declaration: _Json = {"name": tool.name}
        if tool.description:
            declaration["description"] = tool.description
        if tool.parameters is not None:
            declaration["parametersJsonSchema"] = heeded(tool.parameters)
        declarations.append(declaration)
        has_strict = has_strict or tool.strict is True
    members["tools"] = [{"functionDeclarations": declarations}]
    choice = conversation.tool_choice
    if choice is None and not has_strict:
        return
    mode = _MODES["auto" if choice is None else choice.mode]
    if has_strict and mode == "AUTO":
        if version.number >= (2, 5):
            mode = "VALIDATED"
        else:
            fit.lacks("tools", "this model cannot promise to keep to a schema")
    config: _Json = {"mode": mode}
    if choice is not None and choice.mode == "one":
        config["allowedFunctionNames"] = [choice.name]
    members["toolConfig"] = {"functionCallingConfig": config}


# --- How it is to be answered ---


def _config(conversation: Conversation, version: Generation, limit: int | None, fit: Fit) -> _Json:
    limits = [each for each in (conversation.max_tokens, limit) if each is not None]
    known = {
        "maxOutputTokens": min(limits) if limits else None,
        "temperature": conversation.temperature,
        "topP": conversation.top_p,
        "topK": conversation.top_k,
        "seed": conversation.seed,
        "presencePenalty": conversation.presence_penalty,
        "frequencyPenalty": conversation.frequency_penalty,
        "candidateCount": conversation.choices if conversation.choices > 1 else None,
        "responseLogprobs": conversation.logprobs or None,
        "logprobs": (conversation.top_logprobs or None) if conversation.logprobs else None,
        "thinkingConfig": _thinking(conversation.reasoning, version, fit),
    }
    config: _Json = {name: value for name, value in known.items() if value is not None}
    if conversation.stop:
        if len(conversation.stop) > MAX_STOPS:
            fit.lacks("stop", f"it takes at most {MAX_STOPS}")
        config["stopSequences"] = conversation.stop[:MAX_STOPS]
    if conversation.format is not None:
        _put_format(config, conversation.format, fit)
    if conversation.logit_bias not in (None, NULL, Raw(b"{}")):
        fit.lacks("logit_bias")
    if conversation.verbosity is not None:
        fit.hint("verbosity")
    if conversation.end_user:
        fit.hint("end_user")
    for name in conversation.hints:
        fit.hint(name)
    _put_extras(config, conversation.extras, fit)
    return config


def _put_format(config: _Json, wanted: Format, fit: Fit) -> None:
    if wanted.kind == "text":
        return
    config["responseMimeType"] = "application/json"
    if wanted.schema is not None:
        config["responseJsonSchema"] = heeded(described(wanted.schema, wanted.description, fit))


def _put_extras(config: _Json, extras: Mapping[str, Raw], fit: Fit) -> None:
    for name, value in extras.items():
        if name == "modalities":
            try:
                wanted = {each.lower() for each in _decode_names(value)}
            except msgspec.DecodeError:
                wanted = {name}
            if not wanted <= {"text", "image"}:
                fit.lacks(name, "it answers in text, and some models in pictures")
            elif "image" in wanted:
                config["responseModalities"] = sorted(each.upper() for each in wanted)
        else:
            fit.lacks(name)


def _thinking(reasoning: Reasoning | None, version: Generation, fit: Fit) -> _Json | None:
    if reasoning is None or (reasoning.effort is None and reasoning.budget is None and reasoning.shown is None):
        return None
    effort = reasoning.effort
    if effort is not None and effort != "none" and effort not in _BUDGETS:
        fit.lacks("reasoning", f"it does not know the effort {effort[:20]!r}")
        return None
    if version.number < (2, 5):
        if effort not in (None, "none") or reasoning.budget:
            fit.lacks("reasoning", "this model does not think")
        return None
    config: _Json = {}
    if reasoning.shown is not None:
        config["includeThoughts"] = reasoning.shown
    if effort is not None or reasoning.budget is not None:
        if version.number >= (3, 0):
            config["thinkingLevel"] = _level(effort, reasoning.budget, version, fit)
        else:
            config["thinkingBudget"] = _budget(effort, reasoning.budget, version, fit)
    return config


def _budget(effort: str | None, wanted: int | None, version: Generation, fit: Fit) -> int:
    """Tokens for a model of generation 2.5."""
    is_pro = "pro" in version.model
    budget = wanted if wanted is not None else _BUDGETS.get(effort or "", 0)
    if wanted is None and is_pro and effort in ("xhigh", "max"):
        budget = _MOST_BUDGET_PRO
    least = _LEAST_BUDGET_PRO if is_pro else _LEAST_BUDGET_LITE if "lite" in version.model and budget else 0
    fitting = max(least, min(budget, _MOST_BUDGET_PRO if is_pro else _MOST_BUDGET))
    if fitting != budget:
        fit.hint("reasoning")
    return fitting


def _level(effort: str | None, budget: int | None, version: Generation, fit: Fit) -> str:
    """The nearest level that a model of generation 3 or later has; none of these can be kept from thinking."""
    if effort is None and budget is not None:
        effort = "none" if budget <= 0 else "low" if budget <= 1024 else "medium" if budget <= 8192 else "high"
    if effort == "none":
        fit.hint("reasoning")
    if effort in ("none", "minimal"):
        has_minimal = "lite" in version.model or ("flash" in version.model and version.number <= (3, 6))
        return "MINIMAL" if has_minimal else "LOW"
    if effort == "medium" and version.number == (3, 0) and "pro" in version.model:
        return "HIGH"  # it has LOW and HIGH only
    return _LEVELS[effort or "high"]
