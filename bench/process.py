"""A process and everything it starts: pinned to one core, metered through /proc, and ended as a whole."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def _pin(core: int) -> None:
    os.sched_setaffinity(0, {core})


@dataclass(frozen=True)
class Tree:
    """A started process with its descendants. What it prints goes to `log`."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def last_words(self) -> str:
        """The last non-empty line of the log, for an error message."""
        lines = self.log.read_text(errors="replace").strip().splitlines() or ["(no output)"]
        return lines[-1].strip()[:300]

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.process.pid)

    def memory_mb(self) -> float:
        """Memory of the tree in MB (10⁶ bytes): each process's private memory, plus the largest shared memory, once.
        For a single process this is its resident size. (A proportional size would shrink with every unrelated Python.)
        """
        sizes = [_memory_bytes(pid) for pid in _descendants(self.process.pid)]
        return (sum(private for private, _ in sizes) + max(shared for _, shared in sizes)) / 1e6

    def freeze(self) -> None:
        """Stop the whole group until it may `go_on`."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End the whole group: SIGTERM, after 10 s SIGKILL."""
        for sign, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
            try:
                os.killpg(self.process.pid, sign)
            except ProcessLookupError:
                break
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
        self.process.wait(10.0)


def most_memory_mb(pid: int) -> float:
    """The most memory that the process ever had resident, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ProcessLookupError(pid)


def cpu_seconds(root: int) -> float:
    """CPU time of a process and its descendants: living ones by their CPU clock (nanoseconds), ended children as the
    kernel added them to their parent (/proc's cutime and cstime, in ticks)."""
    return sum(_cpu_clock(pid) + _reaped_seconds(pid) for pid in _descendants(root))


def start(
    command: Sequence[str | Path],
    *,
    core: int,
    log: Path,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Tree:
    """Starts `command` on one core, in a process group of its own, with `environment` added to a bare one."""
    keep = ("PATH", "HOME", "LANG", "USER", "VIRTUAL_ENV")
    bare = {name: os.environ[name] for name in keep if name in os.environ}
    with log.open("ab") as out:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**bare, **(environment or {})},
            cwd=directory or log.parent,
            start_new_session=True,
            preexec_fn=partial(_pin, core),
        )
    return Tree(process, log)


def fsync_us(directory: Path, rounds: int = 300) -> float:
    """Median time of one durable 4 KiB append in `directory`, in microseconds: what a commit waits for."""
    path = directory / "fsync"
    times = []
    block = b"\0" * 4096
    with path.open("wb", buffering=0) as file:
        for _ in range(rounds):
            file.write(block)
            begun = time.perf_counter_ns()
            os.fsync(file.fileno())
            times.append(time.perf_counter_ns() - begun)
    path.unlink()
    return sorted(times)[rounds // 2] / 1000


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (state) on; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _descendants(root: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += children.get(pid, [])


def _cpu_clock(pid: int) -> float:
    # The id of a process's CPU clock, as in clock_getcpuclockid(3): finer than the ticks of /proc/PID/stat.
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def _reaped_seconds(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[13]) + int(fields[14])) / TICK if fields else 0.0


def _memory_bytes(pid: int) -> tuple[int, int]:
    """Private and shared resident bytes; all counted as private if the kernel tells no more."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return _field(Path(f"/proc/{pid}/status"), "VmRSS:"), 0
    sizes = {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines)}
    return (
        sizes["Private_Clean"] + sizes["Private_Dirty"],
        sizes["Shared_Clean"] + sizes["Shared_Dirty"],
    )


def _field(status: Path, name: str) -> int:
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
