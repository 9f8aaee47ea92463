"""Install npm packages whose content is known: exact versions, checked against their sha512, no scripts run.

    python tools/npm_install.py DIRECTORY

`DIRECTORY/package.json` names what is wanted under "dependencies" and lists, under "integrity", every package to
install as `"name@version": "sha512-…"` (the value of `npm view NAME@VERSION dist.integrity`). npm's own lock files
are not used because they hold download addresses. Packages land in `DIRECTORY/node_modules`; a second run does nothing.
"""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path


class InstallError(Exception):
    """What is wanted is not available, or not what it should be."""


def install(directory: Path) -> Path:
    """Make `node_modules` hold exactly what `package.json` lists, and return its path."""
    manifest = directory / "package.json"
    wanted = _wanted(manifest)
    target = directory / "node_modules"
    stamp = target / ".installed"
    if stamp.exists() and stamp.read_bytes() == manifest.read_bytes():
        return target
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise InstallError(f"{program} is needed and not installed (Debian: apt-get install nodejs npm)")
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory() as downloads:
        for package, integrity in wanted.items():
            _unpack(_download(package, integrity, Path(downloads)), target / _name(package))
    stamp.write_bytes(manifest.read_bytes())
    return target


def _wanted(manifest: Path) -> dict[str, str]:
    content = json.loads(manifest.read_text())
    integrity: dict[str, str] = content["integrity"]
    for name, version in content["dependencies"].items():
        if f"{name}@{version}" not in integrity:
            raise InstallError(f"{manifest}: no integrity for {name}@{version} (an exact version is needed)")
    return integrity


def _name(package: str) -> str:
    return package.rpartition("@")[0]


def _download(package: str, integrity: str, directory: Path) -> Path:
    done = subprocess.run(
        ["npm", "pack", "--json", "--ignore-scripts", "--pack-destination", str(directory), package],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise InstallError(f"npm pack {package} failed:\n{done.stderr.strip()}")
    archives = sorted(directory.glob("*.tgz"))
    if len(archives) != 1:
        raise InstallError(f"npm pack {package} left {len(archives)} archives")
    algorithm, _, expected = integrity.partition("-")
    found = base64.b64encode(hashlib.new(algorithm, archives[0].read_bytes()).digest()).decode()
    if algorithm != "sha512" or found != expected:
        raise InstallError(f"{package} is not what was locked: {algorithm}-{found} instead of {integrity}")
    return archives[0]


def _unpack(archive: Path, target: Path) -> None:
    """The one top directory of an npm archive (its name varies) becomes `target`."""
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(archive) as content:
        # Absent before 3.11.4; the archive's digest has been checked either way.
        if hasattr(tarfile, "data_filter"):
            content.extractall(scratch, filter="data")
        else:
            content.extractall(scratch)
        (top,) = Path(scratch).iterdir()
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(top, target)
    archive.unlink()


if __name__ == "__main__":
    try:
        print(install(Path(sys.argv[1])))
    except InstallError as error:
        sys.exit(f"npm_install: {error}")
