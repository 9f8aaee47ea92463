"""Turns tools of Responses that are not functions into functions, and calls of them back.

A custom tool takes any text (Codex patches files with one): see `openai_parts`. A namespace holds functions under a
name of its own (Codex has one for each MCP server): `namespace__name`. `local_shell` runs a command on the caller's
machine: it becomes the function that OpenAI's models know it as. `tool_search`, if the caller runs it, finds tools that
were not offered yet: those in its answer are offered from then on, as are those in an item `additional_tools`.
"""

import hashlib
from typing import Any

import msgspec
from msgspec import Raw

from tollbridge.wire import conversation
from tollbridge.wire.openai_parts import custom_tool, given
from tollbridge.wire.request import wrong
from tollbridge.wire.responses_body import BODY_RULES, Body, Tool

LOCAL_SHELL = "local_shell"
TOOL_SEARCH = "tool_search"
# The longest function name that models of every provider accept.
_MAX_NAME = 64
_SHELL_SCHEMA = Raw(
    b'{"type":"object","properties":{"command":{"type":"array","items":{"type":"string"}},'
    b'"working_directory":{"type":"string"},"timeout_ms":{"type":"integer"}},"required":["command"]}'
)


class Known(msgspec.Struct, frozen=True):
    """A tool in the caller's terms. `kind`: function, custom, local_shell or tool_search."""

    kind: str
    name: str
    namespace: str = ""


class _Exec(msgspec.Struct):
    command: list[str]
    working_directory: str | None = None
    timeout_ms: int | None = None
    env: dict[str, str] = {}


_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_exec = msgspec.json.Decoder(_Exec).decode


class Tools:
    """The tools that a request offers. `functions`: those that can be functions; `others`: the rest, by their path.

    `offered`: as `others`, those that change nothing when left out: the search that Codex offers with every request,
    whether or not the model can use it, and OpenAI's search for tools.
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

    def called(self, name: str, namespace: str) -> str:
        """The function that stands for the tool of an earlier call. OpenAI's search for tools gives one that was in no
        namespace one of its own name.
        """
        function = function_of(name, namespace)
        return name if namespace == name and function not in self._known else function

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
                shell = conversation.Tool(name=LOCAL_SHELL, description=about, parameters=_SHELL_SCHEMA)
                self._put(Known(LOCAL_SHELL, LOCAL_SHELL), shell)
            case "tool_search" if tool.execution == "client":
                about, parameters = tool.description or "", given(tool.parameters)
                search = conversation.Tool(name=TOOL_SEARCH, description=about, parameters=parameters)
                self._put(Known(TOOL_SEARCH, TOOL_SEARCH), search)
            case _:
                # Without OpenAI's search for tools, those that it would find are offered at once.
                is_offered = tool.external_web_access is not None or tool.type == TOOL_SEARCH
                (self.offered if is_offered else self.others)[where] = Raw(msgspec.json.encode(tool.type))

    def _function(self, tool: Tool, name: str, namespace: str) -> None:
        function = function_of(name, namespace)
        about, known = tool.description or "", Known(tool.type, name, namespace)
        if tool.type == "custom":
            self._put(known, custom_tool(function, about, tool.format))
            return
        parameters = given(tool.parameters)
        self._put(
            known,
            conversation.Tool(name=function, description=about, parameters=parameters, strict=tool.strict),
        )

    def _put(self, known: Known, function: conversation.Tool) -> None:
        if function.name not in self._known:
            self._known[function.name] = known
            self.functions.append(function)


def found_tools(tools: list[Tool]) -> str:
    """What a search for tools found, in words for the model."""
    names = []
    for tool in tools:
        inner = [function_of(one.name or "", tool.name or "") for one in tool.tools or ()]
        names += inner or [tool.name or tool.type]
    return "You can call these now: " + ", ".join(names) if names else "Nothing was found."


def shell_action(arguments: str) -> dict[str, Any]:
    """The action of a local shell call. Arguments that make no sense become a command that cannot be run."""
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
    """A tool search's arguments: an object, unlike a function's. If they are not valid JSON, they are the query."""
    try:
        return _decode_members(arguments) if arguments else {}
    except msgspec.DecodeError:
        return {"query": Raw(msgspec.json.encode(arguments))}


def function_of(name: str, namespace: str) -> str:
    """The name of the function that stands for the caller's tool. `namespace`: "" if it is in none."""
    if not namespace:
        return name
    joined = f"{namespace.removesuffix('__')}__{name}"
    if len(joined) <= _MAX_NAME:
        return joined
    digest = hashlib.blake2s(joined.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{joined[: _MAX_NAME - 9]}_{digest}"
