"""What is installed is what was chosen: few packages, pinned by hash, nothing that runs by being installed."""

import json
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from tests.syntax import PRODUCT, ROOT

from tools import locks, sbom

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Each is a decision: what it is for, and why it is worth having.
RUNTIME = {
    "aiosmtplib": "mail",
    "alembic": "migrations of the schema",
    "argon2-cffi": "hashes of passwords",
    "asyncpg": "PostgreSQL",
    "click": "the command line",
    "cryptography": "encryption at rest",
    "httptools": "parses HTTP/1.1 on both sides",
    "jinja2": "templates of pages",
    "httpx2": "calls payment processors and log-in providers, imported with the first call",
    "markdown-it-py": "the guide and the operator's texts",
    "msgspec": "JSON and frozen values",
    "pygments": "colours of code in the guide",
    "redis": "limits of several processes",
    "segno": "the QR code of a second factor, imported with the first one",
    "sqlalchemy": "the schema and what is not hot",
    "starlette": "requests and answers of pages",
    "uvicorn": "the HTTP server",
    "uvloop": "the event loop",
    "webauthn": "passkeys, imported with the first one",
}
# Below these a known hole is open.
LEAST = {
    "starlette": "1.0.1",  # CVE-2026-48710: the path of a request taken from its Host header
    "h11": "0.16",  # CVE-2025-43859: chunked bodies that two parsers read differently
}
LOCKS = ("run", "dev", "real")
# Files by which a package runs code at every start of the interpreter.
KNOWN_PTH = {
    "tollbridge.pth": "the path to this checkout (tools/link_project.py)",
    "distutils-precedence.pth": "setuptools, which Python 3.11 puts into a new environment",
}


def direct(requirements: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(Requirement(text).name): Requirement(text) for text in requirements}


def pinned(lock: str) -> dict[str, list[locks.Locked]]:
    found: dict[str, list[locks.Locked]] = {}
    for locked in locks.read(lock):
        found.setdefault(canonicalize_name(locked.name), []).append(locked)
    return found


def test_the_runtime_dependencies_are_the_chosen_ones() -> None:
    assert set(direct(PYPROJECT["project"]["dependencies"])) == set(RUNTIME)
    assert len(RUNTIME) <= 25


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_every_package_by_hash_and_names_no_place(lock: str) -> None:
    assert len(locks.read(lock)) >= len(RUNTIME)
    text = (ROOT / "requirements" / f"{lock}.lock").read_text()
    assert not re.search(r"://|@ |index-url|find-links|trusted-host|--no-binary", text)


@pytest.mark.parametrize(
    ("lock", "requirements"),
    [
        ("run", PYPROJECT["project"]["dependencies"]),
        ("dev", PYPROJECT["dependency-groups"]["dev"]),
        ("real", PYPROJECT["dependency-groups"]["real"]),
    ],
)
def test_a_lock_holds_what_pyproject_asks_for(lock: str, requirements: list[str]) -> None:
    found = pinned(lock)
    for name, requirement in direct(requirements).items():
        assert name in found, f"{name} is not in {lock}.lock: run `make lock`"
        assert all(requirement.specifier.contains(locked.version) for locked in found[name])


def test_a_larger_lock_repeats_the_smaller_one() -> None:
    run, dev, real = (set(locks.read(lock)) for lock in LOCKS)
    assert {locked[:3] for locked in run} <= {locked[:3] for locked in dev}
    assert {locked[:3] for locked in dev} <= {locked[:3] for locked in real}


def is_for_here(locked: locks.Locked) -> bool:
    """Whether this machine needs it; another one's licences and files are not at hand."""
    return not locked.marker or Marker(locked.marker).evaluate()


@pytest.mark.parametrize("lock", LOCKS)
def test_no_version_with_a_known_hole_is_locked(lock: str) -> None:
    found = pinned(lock)
    too_old = [
        f"{name} {locked.version} < {least}"
        for name, least in LEAST.items()
        for locked in found.get(name, [])
        if Version(locked.version) < Version(least)
    ]
    assert too_old == []


def test_what_is_installed_is_what_is_locked() -> None:
    installed: dict[str, str] = {canonicalize_name(found.name): found.version for found in distributions()}
    for name, versions in pinned("run").items():
        wanted = {locked.version for locked in versions if is_for_here(locked)}
        assert not wanted or installed.get(name) in wanted, f"{name}: run `make install`"


def test_no_installed_package_runs_code_at_every_start() -> None:
    """The stolen releases of LiteLLM carried a .pth file: it runs without being imported."""
    site = Path(sysconfig.get_path("purelib"))
    assert {file.name for file in site.glob("*.pth")} <= KNOWN_PTH.keys()
    assert (site / "tollbridge.pth").read_text().strip() == str(ROOT / "src")
    recorded = [str(file) for found in distributions() for file in found.files or [] if file.suffix == ".pth"]
    assert set(recorded) <= KNOWN_PTH.keys()
    assert not {"sitecustomize.py", "usercustomize.py"} & {file.name for file in site.glob("*.py")}


def test_the_wheel_holds_the_sources_and_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
        extra = {name.partition(".dist-info/")[2] for name in wheel.namelist()} - {""}
    sources = {
        str(file.relative_to(PRODUCT.parent))
        for file in PRODUCT.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert packed == sources
    assert extra == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}


def test_the_bill_of_materials_names_every_locked_package_with_a_licence() -> None:
    bill = json.loads(json.dumps(sbom.bill()))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    parts = {part["name"]: part for part in bill["components"]}
    assert set(parts) == {locked.name for locked in locks.read("run")}
    here = {locked.name for locked in locks.read("run") if is_for_here(locked)}
    assert [name for name, part in parts.items() if not part["hashes"]] == []
    assert [name for name in here if not parts[name]["licenses"]] == []
