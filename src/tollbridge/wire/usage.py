"""Usage as OpenAI-like servers report it: numbers that somebody else counted, and that money depends on.

Rule 1  One gate: a count is a whole number from 0 to `MOST`. If prompt, completion or total is anything else (negative,
        NaN, a string, a bool, absurdly large), the report is not believed at all.
Rule 2  Zero is a count. Absent and null are not: without `prompt_tokens` there is no report, nor without
        `completion_tokens`, unless prompt and total give it.
Rule 3  `prompt_tokens` includes what was read from a cache and written to one, and sound; `completion_tokens` includes
        reasoning, sound and drawn pictures. Meters are made disjoint here. A part that is not a count is 0, one that is
        larger than its whole is cut to it, and either marks the usage suspect.
Rule 4  xAI leaves reasoning out of `completion_tokens` and counts it in `total_tokens` (docs.x.ai: "counted separately
        from completion_tokens"). If the total exceeds prompt and completion by exactly the reasoning, that is output.
        Mistral leaves sound out of `prompt_tokens` in the same way, and the total says so too. A total that exceeds
        them by anything else marks the usage suspect.
Rule 5  OpenRouter counts what it has just written to Gemini's cache as read from it too, and charges both (recorded:
        prompt 2168, cached 2161, written 2161). If as much was written as read, or both are more than the prompt, what
        was written is not counted as read as well.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

from tollbridge.values import Usage
from tollbridge.wire.body import NOTHING, NULL
from tollbridge.wire.exchange import Receipt

# Ten times the largest context window there is: no single answer uses more.
MOST = 100_000_000
MAX_RAW = 1024

# The provider's own prices are not for callers; ours take the same names.
MONEY = ("cost", "cost_details", "is_byok", "balance")
_POINT = ord(".")

_Count = Annotated[int, Meta(ge=0, le=MOST)]


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: _Count | None = None
    cache_write_tokens: _Count | None = None  # OpenRouter
    cache_creation_input_tokens: _Count | None = None  # Qwen
    audio_tokens: _Count | None = None


class _CompletionDetails(msgspec.Struct, gc=False):
    reasoning_tokens: _Count | None = None
    audio_tokens: _Count | None = None
    image_tokens: _Count | None = None  # OpenRouter


class _ToolUse(msgspec.Struct, gc=False):
    web_search_requests: _Count | None = None


class _Report(msgspec.Struct, gc=False):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    total_tokens: _Count | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: _Count | None = None  # DeepSeek
    cached_tokens: _Count | None = None  # Moonshot
    num_cached_tokens: _Count | None = None  # Mistral, before it had details
    server_tool_use_details: _ToolUse | None = None  # OpenRouter
    # `MONEY`: read only to know whether there is any.
    cost: Raw = NOTHING
    cost_details: Raw = NOTHING
    is_byok: Raw = NOTHING
    balance: Raw = NOTHING


_decode_report = msgspec.json.Decoder(_Report | None).decode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode


class Unbelievable(Exception):
    """A report that cannot be true."""


class Meter:
    """What one answer's provider reported, however often: the last credible report counts."""

    usage: Usage | None = None
    reported = b""
    told_first: Usage | None = None
    _full = b"{}"
    _says_all = False  # `_full` as received has our counts, and no money
    _has_unbelievable = False
    _produces = True

    @property
    def suspect(self) -> bool:
        """Something was reported, and none of it can be believed."""
        return self._has_unbelievable and self.usage is None

    def read(self, raw: Raw) -> None:
        """Take a report, which may be any JSON value."""
        text = bytes(raw)
        short = text if len(text) <= MAX_RAW else b""
        is_suspect, says_all = False, True
        try:
            report = _decode_report(text)
        except msgspec.ValidationError:
            says_all = False
            try:
                report, is_suspect = _leniently(text)
            except Unbelievable:
                self._has_unbelievable = True
                if self.usage is None:
                    self.reported = short
                return
        if report is None:
            return
        prompt, completion, total = report.prompt_tokens, report.completion_tokens, report.total_tokens
        if not self._produces:
            says_all = says_all and prompt is not None
            prompt, completion = (total if prompt is None else prompt), 0
        elif completion is None and prompt is not None and total is not None and total >= prompt:
            completion, says_all = total - prompt, False
        if prompt is None or completion is None:
            return
        if total == prompt + completion and _has_no_parts(report):  # nearly every report
            has_money = report.cost or report.cost_details or report.is_byok or report.balance
            # `1.0` was read as a whole number, but strict clients would not read it.
            self._says_all = says_all and not has_money and _POINT not in text
            self.usage = Usage(input=prompt, output=completion, raw=short, suspect=is_suspect)
        else:
            beyond = max(0, total - prompt - completion) if self._produces and total is not None else 0
            self._says_all = False
            self.usage = _of_parts(report, prompt, completion, beyond, short, is_suspect)
        self.reported = short
        self._full = text

    def render(self, receipt: Receipt | None) -> Raw | None:
        """The usage object for the caller; None if nothing is known.

        The provider's own members stay as they came, except its counts (replaced by ours, in OpenAI's convention) and
        its money (replaced by ours).
        """
        if self._says_all and receipt is not None and receipt.usage is None and not receipt.byok:
            balance = b"" if receipt.balance is None else b',"balance":' + receipt.balance
            return Raw(
                b'%b,"cost":%b,"cost_details":{"upstream_inference_cost":%b,"upstream_inference_prompt_cost":%b,'
                b'"upstream_inference_completions_cost":%b}%b}'
                % (
                    self._full[:-1],
                    receipt.charge,
                    receipt.cost,
                    receipt.read_cost,
                    receipt.written_cost,
                    balance,
                )
            )
        usage = self.usage if receipt is None or receipt.usage is None else receipt.usage
        if usage is None and receipt is None:
            return None
        fields: dict[str, Any] = {}
        if usage is not None:
            if not usage.estimated:
                fields.update(_decode_fields(self._full))
            _count_into(fields, usage, produces=self._produces)
        for name in MONEY:
            fields.pop(name, None)
        if receipt is not None:
            fields.update(money(receipt))
        return Raw(msgspec.json.encode(fields))


class InputMeter(Meter):
    """For embeddings, which have no output to report. A prompt that is missing is the total."""

    _produces = False


def render(usage: Usage | None, receipt: Receipt | None) -> Raw | None:
    """The usage object of chat for an answer that was read in another dialect; None if nothing is known."""
    if receipt is not None and receipt.usage is not None:
        usage = receipt.usage
    if usage is None and receipt is None:
        return None
    fields: dict[str, Any] = {}
    if usage is not None:
        _count_into(fields, usage, produces=True)
    if receipt is not None:
        fields.update(money(receipt))
    return Raw(msgspec.json.encode(fields))


def money(receipt: Receipt, read: str = "prompt", written: str = "completions") -> dict[str, Any]:
    """What the usage object of every dialect says about money, besides its counts: JSON numbers, USD.

    `read`, `written`: the dialect's words for its two parts.
    """
    fields: dict[str, Any] = {
        "cost": Raw(receipt.charge),
        "cost_details": {
            "upstream_inference_cost": Raw(receipt.cost),
            f"upstream_inference_{read}_cost": Raw(receipt.read_cost),
            f"upstream_inference_{written}_cost": Raw(receipt.written_cost),
        },
    }
    if receipt.balance is not None:
        fields["balance"] = Raw(receipt.balance)
    if receipt.byok:
        fields["is_byok"] = True
    return fields


def _count_into(fields: dict[str, Any], usage: Usage, *, produces: bool) -> None:
    """Write our counts, in OpenAI's words, over those in `fields`."""
    fields["prompt_tokens"] = usage.prompt
    if produces:
        fields["completion_tokens"] = usage.completion
    fields["total_tokens"] = usage.prompt + usage.completion
    written = usage.cache_write + usage.cache_write_1h
    read = {"cached_tokens": usage.cache_read, "cache_write_tokens": written, "audio_tokens": usage.audio_input}
    _add(fields, "prompt_tokens_details", read)
    made = {
        "reasoning_tokens": usage.reasoning,
        "audio_tokens": usage.audio_output,
        "image_tokens": usage.image_output,
    }
    _add(fields, "completion_tokens_details", made)


def _add(fields: dict[str, Any], name: str, counts: dict[str, int]) -> None:
    """Write `counts` into the object `name` of `fields`, over the provider's own, in OpenAI's words."""
    try:
        given = _decode_fields(fields[name])
    except (KeyError, msgspec.ValidationError):
        given = {}
        if fields.get(name, NULL) != NULL:
            del fields[name]  # not an object, which strict clients would not read
    believed = {key: count for key, count in counts.items() if count or given.get(key, NULL) != NULL}
    if believed:
        fields[name] = {**given, **believed}


def _of_parts(report: _Report, prompt: int, completion: int, beyond: int, raw: bytes, is_suspect: bool) -> Usage:
    """The usage of a report whose total exceeds prompt and completion by `beyond`."""
    inner = report.prompt_tokens_details or _PromptDetails()
    read = inner.cached_tokens or _cached(report)
    written = inner.cache_write_tokens or inner.cache_creation_input_tokens or 0
    if 0 < written <= read and (written == read or read + written > prompt):
        read -= written
    heard = inner.audio_tokens or 0
    made = report.completion_tokens_details or _CompletionDetails()
    thought, spoken, drawn = made.reasoning_tokens or 0, made.audio_tokens or 0, made.image_tokens or 0
    is_thought_apart = 0 < beyond == thought
    is_heard_apart = not is_thought_apart and 0 < beyond == heard
    output = completion + thought if is_thought_apart else completion
    prompt = prompt + heard if is_heard_apart else prompt
    # `audio_tokens` counts cached sound too, which is in `cache_read` like cached text: only the rest can be dearer.
    uncached = max(0, prompt - read - written)
    audio_input = min(heard, uncached)
    audio_output = min(spoken, output)
    image_output = min(drawn, output - audio_output)
    plain = output - audio_output - image_output
    return Usage(
        input=uncached - audio_input,
        cache_read=min(read, prompt),
        cache_write=min(written, max(0, prompt - read)),
        output=plain,
        reasoning=min(thought, plain),
        audio_input=audio_input,
        audio_output=audio_output,
        image_output=image_output,
        searches=_searches(report),
        raw=raw,
        suspect=(
            is_suspect
            or max(read + written, heard) > prompt
            or thought + spoken + drawn > output
            or (beyond > 0 and not is_thought_apart and not is_heard_apart)
        ),
    )


def _has_no_parts(report: _Report) -> bool:
    """Whether it is all plain text: neither caches nor reasoning, no sound, no pictures, no searches."""
    read, written = report.prompt_tokens_details, report.completion_tokens_details
    if read is not None and (
        read.cached_tokens or read.cache_write_tokens or read.cache_creation_input_tokens or read.audio_tokens
    ):
        return False
    if written is not None and (written.reasoning_tokens or written.audio_tokens or written.image_tokens):
        return False
    told = report.prompt_cache_hit_tokens or report.cached_tokens or report.num_cached_tokens
    return not told and report.server_tool_use_details is None


def _searches(report: _Report) -> int:
    used = report.server_tool_use_details
    return 0 if used is None else used.web_search_requests or 0


def _cached(report: _Report) -> int:
    """What was read from a cache, where a server says it beside the details."""
    return report.prompt_cache_hit_tokens or report.cached_tokens or report.num_cached_tokens or 0


def _leniently(text: bytes) -> tuple[_Report, bool]:
    """A report in which not everything is a count, and whether a part of it had to be left out."""
    try:
        document = msgspec.json.decode(text)
    except msgspec.MsgspecError:
        raise Unbelievable from None
    if not isinstance(document, dict):
        raise Unbelievable
    report = _Report(
        prompt_tokens=count(document.get("prompt_tokens")),
        completion_tokens=count(document.get("completion_tokens")),
        total_tokens=count(document.get("total_tokens")),
    )
    is_suspect = False
    for part in ("prompt_cache_hit_tokens", "cached_tokens", "num_cached_tokens"):
        is_suspect |= _set(report, part, document)
    read, written = document.get("prompt_tokens_details"), document.get("completion_tokens_details")
    if isinstance(read, dict):
        report.prompt_tokens_details = _PromptDetails()
        for part in _PromptDetails.__struct_fields__:
            is_suspect |= _set(report.prompt_tokens_details, part, read)
    if isinstance(written, dict):
        report.completion_tokens_details = _CompletionDetails()
        for part in _CompletionDetails.__struct_fields__:
            is_suspect |= _set(report.completion_tokens_details, part, written)
    used = document.get("server_tool_use_details")
    if isinstance(used, dict):
        report.server_tool_use_details = _ToolUse()
        is_suspect |= _set(report.server_tool_use_details, "web_search_requests", used)
    return report, is_suspect


def _set(target: msgspec.Struct, name: str, source: dict[str, Any]) -> bool:
    """Set a part from `source`. Returns whether the value there is not a count."""
    try:
        setattr(target, name, count(source.get(name)))
    except Unbelievable:
        return True
    return False


def count(value: Any) -> int | None:
    """The gate. None stays None; a float that is a whole number is one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST):
        return value
    raise Unbelievable
