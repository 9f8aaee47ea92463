"""Tools of Responses that are no functions, as functions, and their calls back again.

A custom tool takes any text (Codex patches files with one): a function of one member, `input`. A namespace holds
functions under a name of its own (Codex has one for each MCP server): `namespace__name`. `local_shell` runs a command
on the caller's machine: a function as OpenAI's models were told of it. `tool_search`, where the caller runs it, finds
tools that were not offered yet: those in what it answered are offered from then on.
"""

import hashlib
from typing import Any, Literal

import msgspec
from msgspec import Raw

from tollbridge.wire import conversation
from tollbridge.wire.openai_parts import given
from tollbridge.wire.request import wrong
from tollbridge.wire.responses_body import BODY_RULES, Body, Tool

Kind = Literal["function", "custom", "local_shell", "tool_search"]

LOCAL_SHELL = "local_shell"
TOOL_SEARCH = "tool_search"
# What models of every provider take as the name of a function.
_MAX_NAME = 64
_INPUT_SCHEMA = Raw(
    b'{"type":"object","properties":{"input":{"type":"string"}},"required":["input"],"additionalProperties":false}'
)
_SHELL_SCHEMA = Raw(
    b'{"type":"object","properties":{"command":{"type":"array","items":{"type":"string"}},'
    b'"working_directory":{"type":"string"},"timeout_ms":{"type":"integer"}},"required":["command"]}'
)


class Known(msgspec.Struct, frozen=True):
    """A tool as the caller knows it."""

    kind: Kind
    name: str
    namespace: str = ""


class _Input(msgspec.Struct):
    input: str


class _Exec(msgspec.Struct):
    command: list[str]
    working_directory: str | None = None
    timeout_ms: int | None = None
    env: dict[str, str] = {}


_decode_input = msgspec.json.Decoder(_Input).decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_exec = msgspec.json.Decoder(_Exec).decode


class Tools:
    """What a request offers. `functions`: all of it that can be a function; `others`: by where the caller wrote it.

    `offered`: of `others`, what Codex offers with every request whether or not the model can use it.
    """

    def __init__(self, body: Body) -> None:
        self.functions: list[conversation.Tool] = []
        self.others: dict[str, Raw] = {}
        self.offered: dict[str, Raw] = {}
        self._known: dict[str, Known] = {}
        for index, tool in enumerate(body.tools or ()):
            self._add(f"tools[{index}]", tool, "")
        for index, item in enumerate(body.input if isinstance(body.input, list) else ()):
            for at, tool in enumerate(item.tools or ()):
                self._add(f"input[{index}].tools[{at}]", tool, "")

    def known(self, function: str) -> Known:
        """The tool that a call of `function` means."""
        return self._known.get(function) or Known("function", function)

    def function_of(self, name: str, namespace: str = "") -> str:
        """The function's name for a tool of the caller's."""
        return _joined(namespace, name) if namespace else name

    def _add(self, where: str, tool: Tool, namespace: str) -> None:
        match tool.type:
            case "function" | "custom":
                if not tool.name:
                    raise wrong(f"{where}.name", BODY_RULES, "Missing")
                self._function(tool, tool.name, namespace)
            case "namespace" if not namespace:
                for index, inner in enumerate(tool.tools or ()):
                    self._add(f"{where}.tools[{index}]", inner, tool.name or "")
            case "local_shell":
                about = "Runs a command on the user's machine and returns what it printed."
                self._put(LOCAL_SHELL, Known("local_shell", LOCAL_SHELL), about, _SHELL_SCHEMA)
            case "tool_search" if tool.execution == "client":
                known = Known("tool_search", TOOL_SEARCH)
                self._put(TOOL_SEARCH, known, tool.description or "", given(tool.parameters))
            case _:
                is_offered = tool.external_web_access is not None
                (self.offered if is_offered else self.others)[where] = Raw(msgspec.json.encode(tool.type))

    def _function(self, tool: Tool, name: str, namespace: str) -> None:
        about, parameters = tool.description or "", given(tool.parameters)
        kind: Kind = "function"
        if tool.type == "custom":
            kind, parameters = "custom", _INPUT_SCHEMA
            if tool.format is not None and tool.format.definition:
                about += f"\n\n`input` must follow this {tool.format.syntax or ''} grammar:\n{tool.format.definition}"
        self._put(self.function_of(name, namespace), Known(kind, name, namespace), about, parameters, tool.strict)

    def _put(self, function: str, known: Known, about: str, parameters: Raw | None, strict: bool | None = None) -> None:
        if function in self._known:
            return
        self._known[function] = known
        self.functions.append(conversation.Tool(name=function, description=about, parameters=parameters, strict=strict))


def found_tools(tools: list[Tool]) -> str:
    """What a search for tools found, as a model reads it."""
    names = []
    for tool in tools:
        inner = [_joined(tool.name or "", one.name or "") for one in tool.tools or ()]
        names += inner or [tool.name or tool.type]
    return "You can call these now: " + ", ".join(names) if names else "Nothing was found."


def custom_arguments(text: str) -> str:
    return msgspec.json.encode({"input": text}).decode()


def custom_input(arguments: str) -> str:
    """The input of a custom tool in what a model wrote: where that is no good JSON, all of it."""
    try:
        return _decode_input(arguments).input
    except msgspec.DecodeError:
        return arguments


def shell_action(arguments: str) -> dict[str, Any]:
    """The action of a call of the local shell; a command that makes no sense is one that cannot be run."""
    try:
        wanted = _decode_exec(arguments)
    except msgspec.DecodeError:
        wanted = _Exec(command=[arguments])
    action: dict[str, Any] = {"type": "exec", "command": wanted.command, "env": wanted.env}
    if wanted.working_directory is not None:
        action["working_directory"] = wanted.working_directory
    if wanted.timeout_ms is not None:
        action["timeout_ms"] = wanted.timeout_ms
    return action


def search_arguments(arguments: str) -> dict[str, Raw]:
    """The arguments of a search for tools: an object, unlike a function's; of no good JSON, a query."""
    try:
        return _decode_members(arguments) if arguments else {}
    except msgspec.DecodeError:
        return {"query": Raw(msgspec.json.encode(arguments))}


def _joined(namespace: str, name: str) -> str:
    joined = f"{namespace.removesuffix('__')}__{name}"
    if len(joined) <= _MAX_NAME:
        return joined
    digest = hashlib.blake2s(joined.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{joined[: _MAX_NAME - 9]}_{digest}"
