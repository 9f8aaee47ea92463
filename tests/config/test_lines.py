"""Every key of a document is found at its line."""

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollbridge.config.kinds import toml
from tollbridge.config.lines import Path, line_numbers

DOCUMENT = '''\
# a comment = "no key"
public_url = "https://example.com"  # [not.a.table]
text = """
fake = 1
[fake]
"quotes" \\""" still inside"""
raw = \'\'\'
also = "inside"\'\'\'

[brand]
name = "a # b"
"quoted key" = 'x = "y"'

[ billing . deep ]
a.b = 1
a.c = [ 1, 2,
  [3, # ]
   4], { x = 5, y = [ "]" ] },
]

[[models]]
id = "one"
routes = [
  { provider = "a", model = "b" },
  # between
  { provider = "c", model = "d" },
]
[models.price]
input = "1"

[[models]]
id = "two"
[[models.routes]]
provider = "e"
[[models.routes]]
provider = "f"
[models.routes.price]
input = "2"
'''


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every path that a parsed document has."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, each in inner:
        yield (*path, step)
        yield from paths(each, (*path, step))


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("public_url",), 2),
        (("text",), 3),
        (("raw",), 7),
        (("brand",), 10),
        (("brand", "name"), 11),
        (("brand", "quoted key"), 12),
        (("billing", "deep", "a", "b"), 15),
        (("billing", "deep", "a", "c", 2), 17),
        (("billing", "deep", "a", "c", 2, 1), 18),
        (("billing", "deep", "a", "c", 3, "y"), 18),
        (("models", 0), 21),
        (("models", 0, "id"), 22),
        (("models", 0, "routes", 0, "provider"), 24),
        (("models", 0, "routes", 1), 26),
        (("models", 0, "routes", 1, "model"), 26),
        (("models", 0, "price", "input"), 29),
        (("models", 1, "id"), 32),
        (("models", 1, "routes", 0, "provider"), 34),
        (("models", 1, "routes", 1, "provider"), 36),
        (("models", 1, "routes", 1, "price", "input"), 38),
    ],
)
def test_a_value_is_found_at_its_line(path: Path, line: int) -> None:
    assert line_numbers(DOCUMENT)[path] == line


def test_exactly_the_keys_of_the_document_are_found() -> None:
    assert set(line_numbers(DOCUMENT)) == set(paths(tomllib.loads(DOCUMENT)))


def test_windows_line_ends_count_once() -> None:
    assert line_numbers('a = 1\r\n\r\n[b]\r\nc = "x"\r\n')[("b", "c")] == 4


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
values = st.recursive(
    st.one_of(texts, st.integers(-9, 9), st.booleans()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)


@given(st.dictionaries(texts, values, max_size=5), st.text(" \t", max_size=3))
def test_any_document_is_read_whole(document: dict[str, Any], blank: str) -> None:
    text = "".join(f"{blank}{toml({key: value})[2:-2]}{blank}# [x]\n\n" for key, value in document.items())
    assert tomllib.loads(text) == document
    lines = line_numbers(text)
    top = {line for path, line in lines.items() if len(path) == 1}
    assert top == {1 + 2 * index for index in range(len(document))}
    plain = {path for path in paths(document) if not any("\\" in toml(step) for step in path)}
    assert plain <= set(lines)
