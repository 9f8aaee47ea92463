"""The systemd unit, by systemd's own tools; what it forbids is tried on a gateway that runs without systemd."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.deploy.gates import answers, wait_for
from tests.deploy.programs import DEPLOY, ROOT, output, program
from tests.deploy.test_image import asked
from tests.servers import free_port

pytestmark = pytest.mark.deploy

UNIT = DEPLOY / "systemd" / "tollbridge.service"
# Of 10; 0 is a service that can do nothing at all. What is left is the network, and the machine's own programs.
MOST_EXPOSED = 1.2
# SQLite gives its files to the owner of their folder when it runs as root, as here, and as nobody else.
AS_ROOT = {"fchown"}
# PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN (linux/prctl.h): what MemoryDenyWriteExecute= does.
DENIED = (
    "import ctypes, os, sys; assert ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0; os.execv(sys.argv[1], sys.argv[1:])"
)


def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    text = UNIT.read_text()
    found = re.search(r"^ExecStart=(\S+)", text, re.MULTILINE)
    assert found is not None
    # systemd looks whether the program is there.
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace(found[1], "/bin/true"))
    done = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_it_is_as_little_exposed_as_was_noted() -> None:
    told = output(program("systemd-analyze"), "security", "--offline=yes", "--no-pager", UNIT)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", told)
    assert found is not None
    assert float(found[1]) <= MOST_EXPOSED


def test_a_gateway_asks_nothing_of_the_kernel_that_the_unit_forbids(tmp_path: Path) -> None:
    """With memory that is never both written and run, and under strace: every system call is one that is allowed."""
    port, log, calls = free_port(), tmp_path / "log", tmp_path / "calls"
    serve = [sys.executable, "-m", "tollbridge", "serve", "--port", str(port), "--data-dir", str(tmp_path / "data")]
    strace = [program("strace"), "--follow-forks", "--quiet=all", "--trace=all", "--output", str(calls)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*strace, sys.executable, "-c", DENIED, *serve], stdout=file, stderr=file, cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
    try:
        wait_for(lambda: answers(port), process, log)
        wait_for(lambda: "tb_live_" in log.read_text(), process, log)
        found = re.search(r"tb_live_\w+", log.read_text())
        assert found is not None
        model = json.loads(asked(port, "GET", "/v1/models", found[0])[1])["data"][0]["id"]
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        assert asked(port, "POST", "/v1/chat/completions", found[0], body)[0] == 200
        assert asked(port, "GET", "/auth/login")[0] == 200
        assert asked(port, "GET", "/metrics")[0] == 200
    finally:
        # strace passes it on.
        [served] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        subprocess.run(["kill", "-TERM", served], check=False)
        process.wait(120)
    used = set(re.findall(r"^\d+ +(\w+)\(", calls.read_text(), re.MULTILINE))
    assert len(used) > 30
    assert used - allowed() - AS_ROOT == set()
    assert process.returncode in (0, -signal.SIGTERM)


def allowed() -> set[str]:
    """The system calls of the unit's SystemCallFilter= lines."""
    names: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(), re.MULTILINE):
        chosen = {call for group in line.removeprefix("~").split() for call in calls_of(group)}
        names = names - chosen if line.startswith("~") else names | chosen
    return names


def calls_of(group: str) -> set[str]:
    told = output(program("systemd-analyze"), "syscall-filter", "--no-pager", group)
    words = {line.strip() for line in told.splitlines()[1:] if line.startswith("    ") and "#" not in line}
    return {call for word in words for call in (calls_of(word) if word.startswith("@") else {word})}
