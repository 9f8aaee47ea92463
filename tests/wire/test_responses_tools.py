"""What models say to tools that are no functions, in those tools' own words."""

import json
from typing import Any

import pytest

from tollbridge.wire.responses_body import Tool
from tollbridge.wire.responses_tools import found_tools, search_arguments, shell_action


@pytest.mark.parametrize(
    ("arguments", "action"),
    [
        ('{"command":["ls"]}', {"command": ["ls"], "env": {}}),
        (
            '{"command":["ls"],"env":{"A":"b"},"working_directory":"/x","timeout_ms":5}',
            {"command": ["ls"], "env": {"A": "b"}, "working_directory": "/x", "timeout_ms": 5},
        ),
        ('{"command":"ls"}', {"command": ['{"command":"ls"}'], "env": {}}),
        ("ls -l", {"command": ["ls -l"], "env": {}}),
    ],
)
def test_a_call_of_the_shell_is_a_command_whatever_the_model_wrote(arguments: str, action: dict[str, Any]) -> None:
    assert shell_action(arguments) == {"type": "exec", **action}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [("", {}), ('{"query":"a","n":1.50}', {"query": "a", "n": 1.5}), ("files", {"query": "files"})],
)
def test_a_search_for_tools_has_an_object_whatever_the_model_wrote(arguments: str, expected: dict[str, Any]) -> None:
    assert {name: json.loads(bytes(raw)) for name, raw in search_arguments(arguments).items()} == expected


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ([], "Nothing was found."),
        (
            [
                Tool(type="function", name="f"),
                Tool(type="namespace", name="ns", tools=[Tool(type="function", name="a")]),
                Tool(type="namespace", tools=[Tool(type="function", name="b")]),
                Tool(type="web_search"),
            ],
            "You can call these now: f, ns__a, b, web_search",
        ),
    ],
)
def test_what_a_search_found_is_said_by_name(tools: list[Tool], said: str) -> None:
    assert found_tools(tools) == said
