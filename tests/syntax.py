"""The product's sources as syntax trees, for tests that enforce a rule about how it is written."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ROOT / "src" / "tollbridge"


class Import(NamedTuple):
    """`name`: the full dotted name of what is imported, including a member (`tollbridge.core.money.charge`)."""

    line: int
    name: str


@dataclass(frozen=True)
class Source:
    path: Path  # relative to src/tollbridge
    text: str
    tree: ast.Module

    @property
    def unit(self) -> str:
        """The package or top module that it belongs to: `core`, `store`, `errors` …"""
        return self.path.parts[0].removesuffix(".py")

    def at(self, line: int, complaint: str) -> str:
        return f"src/tollbridge/{self.path}:{line}: {complaint}"

    def imports(self) -> Iterator[Import]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (Import(node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                start = self._package(node.level) if node.level else ""
                module = ".".join(part for part in (start, node.module) if part)
                yield from (Import(node.lineno, f"{module}.{alias.name}") for alias in node.names)

    def _package(self, level: int) -> str:
        parts = ("tollbridge", *self.path.parts)
        return ".".join(parts[: len(parts) - level])


def parse(path: str, text: str) -> Source:
    """A source that need not exist: `path` says where in the product it would be."""
    return Source(Path(path), text, ast.parse(text))


@cache
def product() -> tuple[Source, ...]:
    """Every Python file of the product."""
    files = sorted(PRODUCT.rglob("*.py"))
    assert files, f"no sources under {PRODUCT}"
    return tuple(parse(str(file.relative_to(PRODUCT)), file.read_text()) for file in files)


def last_name(node: ast.AST) -> str:
    """`c` of `a.b.c`, `c` or `a.b.c()`; empty if there is none."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=function):
            return last_name(function)
    return ""
