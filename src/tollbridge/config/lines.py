"""On which line each value of a TOML document is, and why a text is not TOML.

The standard library's parser keeps no positions. `line_numbers` reads only text that is known to be valid, so it need
only understand what separates values.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator

# Keys of tables and indexes of arrays, from the document's root.
Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'|[A-Za-z0-9_-]+')
_STRING = re.compile(
    r'''
    """ (?: [^\\] | \\. )*? """ (?!")
    | " (?: [^"\\\n] | \\. )* "
    | \'\'\' .*? \'\'\' (?!\')
    | ' [^'\n]* '
    ''',
    re.DOTALL | re.VERBOSE,
)
_SCALAR = re.compile(r"[^,\]}#\n]+")
# The wording of the standard library's parser.
_TABLE_TWICE = re.compile(r"Cannot declare \((.*?),?\) twice")


def not_toml(said: str) -> str:
    """Why a file is not TOML, in words for whoever wrote it; `said`: the parser's message."""
    if table := _TABLE_TWICE.fullmatch(said):
        name = ".".join(part.strip(" '\"") for part in table[1].split(","))
        return f"{name} is there twice: put all of its settings under one [{name}]"
    if said == "Cannot overwrite a value":
        return "this name has a value already: write it once"
    return f"this is not TOML: {said}"


def line_numbers(text: str) -> dict[Path, int]:
    """The line (from 1) of every key and array item of a valid TOML document, tables included."""
    return _Scanner(text).lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self._newlines = [match.start() for match in re.finditer("\n", text)]
        self._items: dict[Path, int] = {}  # how many items an array of tables has so far
        self._document()

    def _document(self) -> None:
        table: Path = ()
        while self._skip():
            if self.text[self.at] != "[":
                self._pair(table)
                continue
            many = self.text.startswith("[[", self.at)
            self.at += 2 if many else 1
            start = self.at
            table = self._opened(list(self._dotted_key()), many)
            for depth in range(1, len(table) + 1):
                self._note(table[:depth], start)
            self.at = self.text.index("]]" if many else "]", self.at) + (2 if many else 1)

    def _opened(self, keys: list[str], many: bool) -> Path:
        """The path that a header opens: the name of an array of tables means its last item."""
        path: Path = ()
        for depth, key in enumerate(keys, 1):
            path = (*path, key)
            if many and depth == len(keys):
                self._items[path] = self._items.get(path, 0) + 1
            if path in self._items:
                path = (*path, self._items[path] - 1)
        return path

    def _pair(self, table: Path) -> None:
        start = self.at
        path = table
        for key in self._dotted_key():
            path = (*path, key)
            self._note(path, start)
        self.at = self.text.index("=", self.at) + 1
        self._value(path)

    def _dotted_key(self) -> Iterator[str]:
        while True:
            self._skip()
            match = _KEY.match(self.text, self.at)
            assert match, "a key"
            self.at = match.end()
            key = match.group()
            yield key[1:-1] if key[0] in "\"'" else key
            self._skip()
            if not self.text.startswith(".", self.at):
                return
            self.at += 1

    def _value(self, path: Path) -> None:
        self._skip()
        opening = self.text[self.at]
        if opening == "[":
            self._many("]", path)
        elif opening == "{":
            self._many("}", path)
        else:
            match = (_STRING if opening in "\"'" else _SCALAR).match(self.text, self.at)
            assert match, "a value"
            self.at = match.end()

    def _many(self, closing: str, path: Path) -> None:
        """An array, or an inline table."""
        self.at += 1
        index = 0
        while self._skip() and self.text[self.at] != closing:
            if self.text[self.at] == ",":
                self.at += 1
            elif closing == "}":
                self._pair(path)
            else:
                item = (*path, index)
                self._note(item, self.at)
                self._value(item)
                index += 1
        self.at += 1

    def _skip(self) -> bool:
        """Skip white space and comments; False at the end of the text."""
        match = _BLANK.match(self.text, self.at)
        assert match, "nothing is blank too"
        self.at = match.end()
        return self.at < len(self.text)

    def _note(self, path: Path, start: int) -> None:
        self.lines.setdefault(path, bisect_right(self._newlines, start - 1) + 1)
