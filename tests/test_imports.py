"""Imports point one way; each foreign package has its place; protocol and rules are pure (docs/design.md)."""

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.syntax import PRODUCT, Source, last_name, parse, product

# From the top to the bottom. A unit may import units of lower rows only: never its neighbours, never upwards.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("app",),
    ("edge", "web", "jobs", "metrics"),
    ("services", "gateway"),
    ("store", "limits", "upstream", "payments", "mail"),
    ("core", "wire"),
    ("values", "errors", "__init__"),
)
# These two stand beside the layers: who may import them, and what they may import.
BESIDE = {
    "config": (
        {"__main__", "cli", "app", "edge", "web", "jobs", "services"},
        {"core", "values", "errors", "__init__"},
    ),
    "telemetry": (
        {"__main__", "cli", "app", "edge", "web", "jobs", "metrics", "services", "gateway"},
        {"values", "errors", "__init__"},
    ),
}
UNITS = {unit for row in LAYERS for unit in row} | BESIDE.keys()
# Foreign package → the units or files that may import it.
FENCES = {
    "sqlalchemy": {"store"},
    "alembic": {"store"},
    "sqlite3": {"store"},
    "asyncpg": {"store"},
    "redis": {"limits"},
    "httptools": {"upstream", "edge"},
    "uvicorn": {"upstream", "edge"},
    "starlette": {"web", "app"},
    "jinja2": {"web", "app"},
    "markdown_it": {"web"},
    "pygments": {"web"},
    "httpx": {"payments", "web/oidc.py"},
    "httpx2": {"payments", "web/issuers.py", "web/oidc.py"},
    "aiosmtplib": {"mail"},
    "argon2": {"services/passwords.py"},
    "webauthn": {"services/passkeys.py"},
    "clickhouse_connect": {"services/export.py"},
    "requests": set[str](),
    "aiohttp": set[str](),
    "click": {"cli"},
}
PURE_UNITS = {"core", "wire", "values", "errors"}
# Time and ids are arguments there. What is not on this list does I/O, reads a clock, or has state.
PURE_LIBRARY = {
    *("abc", "base64", "binascii", "bisect", "codecs", "collections", "dataclasses", "datetime", "decimal", "difflib"),
    *(
        "enum",
        "fnmatch",
        "fractions",
        "functools",
        "hashlib",
        "heapq",
        "hmac",
        "itertools",
        "json",
        "math",
        "operator",
        "re",
        "string",
    ),
    *(
        "ipaddress",
        "struct",
        "types",
        "typing",
        "unicodedata",
        "urllib.parse",
        "zlib",
        "msgspec",
        "tollbridge",
        "__future__",
    ),
    "cryptography",
}
IMPURE_CALLS = {"open", "print", "input", "now", "utcnow", "today", "breakpoint"}


def rank(unit: str) -> int:
    for height, row in enumerate(LAYERS):
        if unit in row:
            return height
    raise AssertionError(f"src/tollbridge/{unit} has no place in LAYERS: give it one, here and in docs/design.md")


def may_import(importer: str, imported: str) -> bool:
    if importer == imported:
        return True
    if imported in BESIDE:
        return importer in BESIDE[imported][0]
    if importer in BESIDE:
        return imported in BESIDE[importer][1]
    return rank(imported) > rank(importer)


def wrong_directions(source: Source) -> Iterator[str]:
    for line, name in source.imports():
        parts = name.split(".")
        if parts[0] != "tollbridge" or len(parts) == 1:
            continue
        imported = parts[1] if parts[1] in UNITS else "__init__"  # a name like `__version__` is no unit
        if not may_import(source.unit, imported):
            yield source.at(line, f"{source.unit} must not import {imported}")


def broken_fences(source: Source) -> Iterator[str]:
    for line, name in source.imports():
        allowed = FENCES.get(name.partition(".")[0])
        if allowed is not None and not allowed & {source.unit, str(source.path)}:
            yield source.at(line, f"{name} is only for {', '.join(sorted(allowed)) or 'nobody'}")


def impurities(source: Source) -> Iterator[str]:
    if source.unit not in PURE_UNITS:
        return
    for line, name in source.imports():
        if name.partition(".")[0] not in PURE_LIBRARY and name.rpartition(".")[0] not in PURE_LIBRARY:
            yield source.at(line, f"pure code must not import {name}")
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and last_name(node.func) in IMPURE_CALLS:
            yield source.at(node.lineno, f"pure code must not call {last_name(node.func)}()")
        elif isinstance(node, ast.AsyncFunctionDef | ast.Await):
            yield source.at(node.lineno, "pure code has nothing to wait for")


def test_imports_point_one_way() -> None:
    assert [complaint for source in product() for complaint in wrong_directions(source)] == []


def test_foreign_packages_stay_behind_their_fences() -> None:
    assert [complaint for source in product() for complaint in broken_fences(source)] == []


def test_wire_and_core_are_pure() -> None:
    assert [complaint for source in product() for complaint in impurities(source)] == []


def test_every_unit_has_its_place() -> None:
    for source in product():
        assert source.unit in BESIDE or rank(source.unit) >= 0


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("core/money.py", "from tollbridge.wire import sse"),
        ("wire/sse.py", "import tollbridge.core.money"),
        ("store/db.py", "from tollbridge.upstream.pool import Pool"),
        ("store/db.py", "from ..gateway import admission"),
        ("gateway/relay.py", "from tollbridge.services import keys"),
        ("gateway/relay.py", "from tollbridge.config import Settings"),
        ("upstream/pool.py", "from tollbridge import telemetry"),
        ("values.py", "from tollbridge.core import money"),
        ("edge/server.py", "def f():\n    from tollbridge.app import build"),
    ],
)
def test_an_import_against_the_arrows_is_found(path: str, text: str) -> None:
    assert list(wrong_directions(parse(path, text)))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("gateway/relay.py", "import sqlite3"),
        ("services/keys.py", "def f():\n    from sqlalchemy import select"),
        ("web/pages.py", "import uvicorn.config"),
        ("upstream/pool.py", "import httpx"),
    ],
)
def test_a_broken_fence_is_found(path: str, text: str) -> None:
    assert list(broken_fences(parse(path, text)))


@pytest.mark.parametrize(
    "text",
    [
        "import time",
        "import os.path",
        "from random import choice",
        "import secrets",
        "import logging",
        "import asyncio",
        "from urllib import request",
        "import pathlib",
        "from datetime import datetime\nx = datetime.now()",
        "def f(name): return open(name)",
        "async def f(): ...",
    ],
)
def test_an_impurity_is_found(text: str) -> None:
    assert list(impurities(parse("core/rules.py", text)))
    assert not list(impurities(parse("gateway/relay.py", text)))


# Heavy, or not to be had while serving: they belong to commands and to a subprocess.
NOT_WHEN_SERVING = {
    *("sqlalchemy", "alembic", "mako", "httpx", "httpx2", "pydantic", "pytest", "pkg_resources"),
    # With the first page, password, mail or passkey.
    *("starlette", "jinja2", "argon2", "aiosmtplib", "webauthn"),
}
SERVING = [name for name in ("app", "cli", "edge/server", "store/db") if (PRODUCT / f"{name}.py").exists()]


@pytest.mark.parametrize("name", SERVING or ["errors"])
def test_serving_imports_nothing_heavy(name: str) -> None:
    module = "tollbridge." + name.replace("/", ".")
    program = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not NOT_WHEN_SERVING & set(done.stdout.split())
