"""docs/http.md names every error code that the program can answer with."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "tollbridge"
CONTRACT = (ROOT / "docs" / "http.md").read_text("utf-8")


def codes() -> set[str]:
    found = set()
    for node in ast.walk(ast.parse((SOURCE / "errors.py").read_text("utf-8"))):
        if isinstance(node, ast.AnnAssign | ast.Assign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(target, ast.Name) and target.id == "code" and isinstance(node.value, ast.Constant):
                found.add(str(node.value.value))
    for package in ("gateway", "edge", "core"):
        for path in (SOURCE / package).rglob("*.py"):
            found.update(re.findall(r'code="([a-z_]+)"', path.read_text("utf-8")))
    # Noted in the log only.
    return found - {"client_gone"}


def test_every_error_code_is_documented() -> None:
    assert len(codes()) > 15
    assert not {code for code in codes() if f"`{code}`" not in CONTRACT}
