"""What Anthropic's models take, by their names: what is right for one of them is a 400 for the next.

From platform.claude.com/docs (build-with-claude: adaptive-thinking, effort, structured-outputs, mid-conversation-
system-messages; models: migration guides of Opus 5, Opus 5.5, Sonnet 5.5 and Haiku 5.5), 2026-11. `binds`: what Fable
5.1, Opus 5.5 and Sonnet 5.5 answer, "The block is bound to a different conversation", and the remedy that it names.
"""

import re

import msgspec

_EFFORTS = ("low", "medium", "high", "xhigh", "max")

_NAME = re.compile(r"(opus|sonnet|haiku|fable|mythos)-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
_OLD_NAME = re.compile(r"claude-(\d)(?:[-.](\d))?(?!\d)")
_NEWEST = (99, 0)


class Abilities(msgspec.Struct, frozen=True, kw_only=True):
    """`samples`: takes temperature, top_p and top_k; `samples_both`: takes temperature and top_p together. `efforts`:
    levels of `output_config.effort`. `adapts`, `budgets`: takes thinking of type adaptive, of type enabled. `off`: the
    type that turns thinking off, "" if none does. `forces`: can be made to call a tool. `instructs`: takes system turns
    among the others. `schemas`: takes output_config.format and strict tools.
    `binds`: refuses a thought when the instructions, the tools or a message before it have changed since.
    `continues`: goes on with its own words at the end of a conversation, which must end with a user's otherwise.
    `is_claude`: it is one of Anthropic's own.
    """

    samples: bool
    samples_both: bool
    efforts: tuple[str, ...]
    adapts: bool
    budgets: bool
    off: str
    forces: bool
    instructs: bool
    schemas: bool
    binds: bool
    continues: bool
    is_claude: bool = True


# Others' servers that speak this dialect: what they have in common is its oldest form.
_OTHERS = Abilities(
    samples=True,
    samples_both=True,
    efforts=(),
    adapts=False,
    budgets=True,
    off="disabled",
    forces=True,
    instructs=False,
    schemas=True,
    binds=False,
    continues=True,
    is_claude=False,
)


def abilities(model: str) -> Abilities:
    """The abilities of the model that a provider calls `model`. One newer than this list is taken for the newest."""
    name = model.lower()
    found = _NAME.search(name)
    line = found[1] if found else ""
    if found:
        version = (int(found[2]), int(found[3] or 0))
    elif "mythos-preview" in name:
        line, version = "mythos", (4, 7)
    elif old := _OLD_NAME.search(name):
        version = (int(old[1]), int(old[2] or 0))
    elif "claude" in name:
        version = _NEWEST
    else:
        return _OTHERS
    return Abilities(
        samples=version < (4, 7),
        samples_both=version < (4, 1),
        efforts=_efforts(line, version),
        adapts=version >= (4, 6),
        budgets=version < (4, 7),
        off=_off(line, version),
        forces=version < (5, 1),
        instructs=version >= (4, 8),
        schemas=version >= (4, 5),
        binds=(version >= (5, 1) if line == "fable" else version >= (5, 5) and line in ("opus", "sonnet")),
        continues=version < (4, 6),
    )


def is_claude(model: str) -> bool:
    """Whether it is one of Anthropic's own models, not another's behind a server that speaks this dialect."""
    return abilities(model).is_claude


def _efforts(line: str, version: tuple[int, int]) -> tuple[str, ...]:
    if version >= (4, 7):
        return _EFFORTS
    if version == (4, 6):
        return ("low", "medium", "high", "max")
    return ("low", "medium", "high") if line == "opus" and version == (4, 5) else ()


def _off(line: str, version: tuple[int, int]) -> str:
    if line in ("fable", "mythos") or (version >= (5, 5) and line in ("opus", "")):
        return ""
    return "between_tools" if line == "sonnet" and version >= (5, 5) else "disabled"
