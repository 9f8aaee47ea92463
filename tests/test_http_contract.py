"""docs/http.md names every error that the program can answer with, by its code and its status, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tollbridge.errors import ApiError
from tollbridge.web.openapi import PROBLEMS

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "tollbridge"
CONTRACT = (ROOT / "docs" / "http.md").read_text("utf-8")


def documented() -> set[tuple[int, str]]:
    """Status and code of each row of the table."""
    table = CONTRACT.partition("\n## Errors\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d{3}) \| ([^|]+) \|", table, re.MULTILINE)
    return {
        (int(status), code) for status, codes in rows for code in re.findall(r"`([a-z_]+)`", codes.partition("(")[0])
    }


def codes() -> set[str]:
    found = set()
    for node in ast.walk(ast.parse((SOURCE / "errors.py").read_text("utf-8"))):
        if isinstance(node, ast.AnnAssign | ast.Assign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(target, ast.Name) and target.id == "code" and isinstance(node.value, ast.Constant):
                found.add(str(node.value.value))
    for package in ("gateway", "edge", "core", "store", "upstream", "wire"):
        for path in (SOURCE / package).rglob("*.py"):
            found.update(re.findall(r'\bcode="([a-z_]+)"', path.read_text("utf-8")))
    # Refusals of the ledger are named by what they are.
    for node in ast.walk(ast.parse((SOURCE / "core" / "ledger.py").read_text("utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name == "Refusal":
            found.update(str(each.value.value) for each in node.body
                         if isinstance(each, ast.Assign) and isinstance(each.value, ast.Constant))  # fmt: skip
    # Noted in the log only; answered as ledger_unavailable, or as rate_limit_exceeded of type `tokens`.
    return found - {"client_gone", "fenced", "no_hold", "tokens_held"}


def classes(kind: type[ApiError] = ApiError) -> Iterator[type[ApiError]]:
    for each in kind.__subclasses__():
        if each.__module__ == ApiError.__module__:
            yield each
            yield from classes(each)


def test_every_error_code_is_documented_and_no_other() -> None:
    assert len(codes()) > 25
    assert {code for _, code in documented()} == codes()


def test_every_error_is_documented_with_its_status() -> None:
    assert {(each.status, each.code) for each in classes()} <= documented()
    assert {(each.status, each.code) for each in PROBLEMS} <= documented()
