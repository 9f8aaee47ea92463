"""Usage as Gemini reports it: `usageMetadata`, on every event of a stream, cumulative; the last report counts.

Rule 1  `promptTokenCount` includes what was read from a cache (`cachedContentTokenCount`), but not what Gemini's own
        tools read (`toolUsePromptTokenCount`), which is input too. `candidatesTokenCount` does not include thoughts,
        and is absent if nothing was written.
Rule 2  `…TokensDetails` split those counts by kind: sound that was read is `audio_input`, except for its cached part;
        sound and pictures that were written are not in `output`. Pictures that were read are `input`.
Rule 3  The total is prompt, tools, candidates and thoughts. If it is only prompt and candidates although there are
        thoughts, candidates include them (seen on Vertex). Any other total marks the usage suspect; so does a part
        that is larger than its whole, to which it is cut.
Rule 4  The gate of `usage`: a count is a whole number from 0 to `MOST`. If prompt, candidates, thoughts or tools are
        anything else, the report is not believed at all.
Rule 5  A report that names neither candidates nor thoughts nor a total does not say that nothing was written: it only
        tells what was read, and the output is counted here. Embeddings have no output to report.

From https://ai.google.dev/api/generate-content#UsageMetadata and googleapis/python-genai, types.py.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Raw

from tollbridge.values import Usage
from tollbridge.wire.usage import MAX_RAW, MOST

_Count = Annotated[int, Meta(ge=0, le=MOST)]


class _Part(msgspec.Struct, rename="camel", gc=False):
    modality: str | None = None
    token_count: _Count | None = None


class _Report(msgspec.Struct, rename="camel", gc=False):
    prompt_token_count: _Count | None = None
    cached_content_token_count: _Count | None = None
    candidates_token_count: _Count | None = None
    thoughts_token_count: _Count | None = None
    tool_use_prompt_token_count: _Count | None = None
    total_token_count: _Count | None = None
    prompt_tokens_details: list[_Part] | None = None
    cache_tokens_details: list[_Part] | None = None
    candidates_tokens_details: list[_Part] | None = None


_decode = msgspec.json.Decoder(_Report | None).decode


class Meter:
    """What one answer's provider reported: the last credible report counts.

    `usage`, `suspect`, `reported`: as in `exchange.Answer`.
    """

    _produces = True

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.reported = b""
        self.told_first: Usage | None = None
        self._has_unbelievable = False

    @property
    def suspect(self) -> bool:
        """Something was reported, and none of it can be believed."""
        return self._has_unbelievable and self.usage is None

    def read(self, raw: Raw) -> bool:
        """Take a report, which may be any JSON value. Returns whether it tells the usage so far."""
        text = bytes(raw)
        short = text if len(text) <= MAX_RAW else b""
        try:
            report = _decode(text)
        except (msgspec.DecodeError, RecursionError):
            self._has_unbelievable = True
            if self.usage is None:
                self.reported = short
            return False
        if report is None or (report.prompt_token_count is None and not (self._produces and _has_output(report))):
            return False
        usage = _usage(report, short)
        before = self.usage or self.told_first
        if report.prompt_token_count is None and before is not None:
            read = {name: getattr(before, name) for name in ("input", "cache_read", "audio_input")}
            usage = msgspec.structs.replace(usage, **read)
        if self._produces and _has_no_output(report):
            self.told_first = usage
            return False
        self.usage = usage
        self.reported = short
        return True


class InputMeter(Meter):
    """For embeddings."""

    _produces = False


def _has_output(report: _Report) -> bool:
    return report.candidates_token_count is not None or report.thoughts_token_count is not None


def _has_no_output(report: _Report) -> bool:
    return not _has_output(report) and report.total_token_count is None


def _usage(report: _Report, raw: bytes) -> Usage:
    prompt, cached = report.prompt_token_count or 0, report.cached_content_token_count or 0
    by_tools, thought = report.tool_use_prompt_token_count or 0, report.thoughts_token_count or 0
    total, written = report.total_token_count, report.candidates_token_count
    if written is None:
        # Even if the count was merely left out, the total includes it.
        written = 0 if total is None else max(0, total - prompt - by_tools - thought)
    output = written + thought
    is_suspect = total is not None and total != prompt + by_tools + output
    if is_suspect and total == prompt + by_tools + written:
        output, is_suspect = written, thought > written
    heard = 0
    if report.prompt_tokens_details is not None:
        heard = _of(report.prompt_tokens_details, "AUDIO")
        if heard and report.cache_tokens_details is not None:
            heard = max(0, heard - _of(report.cache_tokens_details, "AUDIO"))
    spoken, drawn = 0, 0
    if report.candidates_tokens_details is not None:
        spoken = _of(report.candidates_tokens_details, "AUDIO")
        drawn = _of(report.candidates_tokens_details, "IMAGE")
    is_suspect = is_suspect or cached + heard > prompt or spoken + drawn > output
    cached = min(cached, prompt)
    heard = min(heard, prompt - cached)
    spoken = min(spoken, output)
    drawn = min(drawn, output - spoken)
    output -= spoken + drawn
    return Usage(
        input=prompt - cached - heard + by_tools,
        cache_read=cached,
        output=output,
        reasoning=min(thought, output),
        audio_input=heard,
        audio_output=spoken,
        image_output=drawn,
        raw=raw,
        suspect=is_suspect,
    )


def _of(parts: list[_Part], modality: str) -> int:
    return sum(part.token_count or 0 for part in parts if part.modality == modality)
