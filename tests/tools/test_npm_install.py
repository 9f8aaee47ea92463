"""Packages of npm are what was locked, or they are not installed."""

import base64
import hashlib
import json
import os
import tarfile
from pathlib import Path

import pytest
from tools.npm_install import InstallError, install

# Stands for npm: `npm pack … --pack-destination DIRECTORY PACKAGE` leaves the archive there.
NPM = """\
#!/bin/sh
while [ "$1" != --pack-destination ]; do shift; done
cp "$ARCHIVE" "$2/package.tgz"
"""


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive as npm makes them, and an npm that delivers it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "npm").write_text(NPM)
    (programs / "node").write_text("#!/bin/sh\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    content = tmp_path / "index.js"
    content.write_text("export default 1\n")
    made = tmp_path / "made.tgz"
    with tarfile.open(made, "w:gz") as archive:
        archive.add(content, "package/index.js")
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("ARCHIVE", str(made))
    return made


def project(directory: Path, integrity: dict[str, str]) -> Path:
    directory.mkdir()
    manifest = {"dependencies": {"@scope/thing": "1.2.3"}, "integrity": integrity}
    (directory / "package.json").write_text(json.dumps(manifest))
    return directory


def digest(archive: Path) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()


def test_a_locked_package_is_installed_once(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = project(tmp_path / "sdk", {"@scope/thing@1.2.3": digest(archive)})
    assert (install(here) / "@scope" / "thing" / "index.js").read_text() == "export default 1\n"
    monkeypatch.setenv("PATH", "/nowhere")
    assert install(here) == here / "node_modules"


def test_a_package_that_is_not_what_was_locked_is_refused(archive: Path, tmp_path: Path) -> None:
    expected = digest(archive)
    archive.write_bytes(archive.read_bytes() + b"\0")
    here = project(tmp_path / "sdk", {"@scope/thing@1.2.3": expected})
    with pytest.raises(InstallError, match="not what was locked"):
        install(here)
    assert not (here / "node_modules" / "@scope").exists()


def test_a_dependency_without_a_digest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match=r"no integrity for @scope/thing@1\.2\.3"):
        install(project(tmp_path / "sdk", {}))


def test_a_machine_without_node_is_told_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InstallError, match="node is needed"):
        install(project(tmp_path / "sdk", {"@scope/thing@1.2.3": "sha512-AA=="}))
