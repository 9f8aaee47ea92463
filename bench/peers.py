"""The gateways to compare with: installed on demand into `bench/.peers`, never into the project's environment.

Direct requirements are pinned to the version that was tried. A peer that cannot be installed is reported, not hidden.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PEERS = Path(__file__).parent / ".peers"


class NotRunError(Exception):
    """Why a gateway was not measured."""


def python_peer(name: str, requirements: Sequence[str]) -> Path:
    """A virtual environment of its own, of this interpreter; returns its `bin` directory."""
    home = PEERS / name
    recipe = "\n".join([*requirements, sys.base_prefix, sys.version])
    if not _is_installed(home, recipe):
        if uv := shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"):
            _run(name, [uv, "venv", "--quiet", "--python", sys.executable, str(home)])
            _run(name, [uv, "pip", "install", "--quiet", "--python", str(home / "bin" / "python"), *requirements])
        else:
            _run(name, [sys.executable, "-m", "venv", str(home)])
            _run(name, [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", *requirements])
        _mark_installed(home, recipe)
    return home / "bin"


def node_peer(name: str, dependencies: Mapping[str, str], overrides: Mapping[str, str]) -> Path:
    """A directory of its own, without running any install script; returns its `node_modules`. `overrides` also apply to
    indirect dependencies."""
    home = PEERS / name
    manifest = json.dumps({"private": True, "dependencies": dict(dependencies), "overrides": dict(overrides)})
    if not _is_installed(home, manifest):
        npm = require("npm", "Node.js with npm")
        home.mkdir(parents=True)
        (home / "package.json").write_text(manifest)
        _run(name, [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(home)])
        _mark_installed(home, manifest)
    return home / "node_modules"


def require(program: str, package: str) -> str:
    """The path of a program that the machine itself must provide."""
    if path := shutil.which(program):
        return path
    raise NotRunError(f"{program} is not on this machine (install {package})")


def output(*command: str | Path) -> str:
    """What a command prints, on both channels: versions go to either."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


def _is_installed(home: Path, recipe: str) -> bool:
    """Whether `home` was made by this very recipe; what another or a broken one left behind is removed."""
    marker = home / ".recipe"
    if marker.exists() and marker.read_text() == recipe:
        return True
    shutil.rmtree(home, ignore_errors=True)
    PEERS.mkdir(exist_ok=True)
    return False


def _mark_installed(home: Path, recipe: str) -> None:
    (home / ".recipe").write_text(recipe)


def _run(name: str, command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    except subprocess.TimeoutExpired:
        raise NotRunError(f"installing {name} took more than 15 minutes") from None
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise NotRunError(f"{name} could not be installed: {reason[:300]}")
