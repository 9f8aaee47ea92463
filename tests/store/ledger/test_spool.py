"""The spool: what it says is safe is there, whatever happens to the process or to the file."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tollbridge.core.ledger import Checkpoint, End, Record
from tollbridge.store.ledger.spool import Kept, Spool, leftovers
from tollbridge.values import Outcome

ROOT = Path(__file__).resolve().parents[3]
EPOCH, STARTED_AT = 3, 1_700_000_000_000


def end(hold: int) -> End:
    record = Record(
        started_at=1, duration_ms=2, price_version=7, output=5, cost=11, outcome=Outcome.COMPLETED, raw=b"{}\x00"
    )
    return End(hold=hold, account_id=1, key_id=2, charge=1 << 61, record=record)


def checkpoint(hold: int) -> Checkpoint:
    return Checkpoint(hold=hold, account_id=1, key_id=2, charge=9, record=end(hold).record)


async def kept(spool: Spool, *operations: Kept) -> OSError | None:
    """What is told when they are safe, or not."""
    told: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()
    spool.append(operations, told.set_result)
    return await told


def with_spool(directory: Path, scenario: Callable[[Spool], Awaitable[None]]) -> None:
    async def main() -> None:
        spool = Spool(directory, EPOCH, STARTED_AT)
        try:
            await scenario(spool)
        finally:
            spool.close()

    asyncio.run(main())


def found(directory: Path) -> list[Kept]:
    """What dead processes left in `directory`, which stays there."""
    operations = []
    for leftover in leftovers(directory):
        operations += leftover.operations
        leftover.release()
    return operations


def test_what_was_kept_comes_back_as_it_was(tmp_path: Path) -> None:
    operations: list[Kept] = [end(1), checkpoint(2), end(3)]

    async def scenario(spool: Spool) -> None:
        assert await kept(spool, *operations[:2]) is None
        assert await kept(spool, operations[2]) is None

    with_spool(tmp_path, scenario)
    (leftover,) = leftovers(tmp_path)
    assert (leftover.epoch, leftover.started_at) == (EPOCH, STARTED_AT)
    assert leftover.operations == operations
    assert not leftover.damaged
    leftover.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_living_process_keeps_its_file_to_itself(tmp_path: Path) -> None:
    async def scenario(spool: Spool) -> None:
        await kept(spool, end(1))
        assert found(tmp_path) == []

    with_spool(tmp_path, scenario)
    first, again = leftovers(tmp_path), leftovers(tmp_path)
    leftover = next(first)
    assert list(again) == []  # one of them has it
    leftover.release()
    assert found(tmp_path) == [end(1)]


def test_nothing_is_left_when_all_of_it_reached_the_database(tmp_path: Path) -> None:
    async def scenario(spool: Spool) -> None:
        await kept(spool, end(1))
        spool.clear()

    with_spool(tmp_path, scenario)
    assert list(tmp_path.iterdir()) == []


def test_what_comes_after_clearing_stays(tmp_path: Path) -> None:
    async def scenario(spool: Spool) -> None:
        told: list[OSError | None] = []
        for number in range(50):  # in one group or in several: the order decides
            spool.append([end(number)], told.append)
            if number == 30:
                spool.clear()
        await kept(spool, end(99))
        assert told == [None] * 50

    with_spool(tmp_path, scenario)
    assert found(tmp_path) == [end(number) for number in (*range(31, 50), 99)]


def test_a_file_cut_anywhere_gives_back_each_whole_record(tmp_path: Path) -> None:
    operations: list[Kept] = [end(1), checkpoint(2), end(3)]
    sizes = [0]

    async def scenario(spool: Spool) -> None:
        for operation in operations:
            await kept(spool, operation)
            sizes.append(spool.path.stat().st_size)

    with_spool(tmp_path, scenario)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        for torn in (whole[:length], whole[:length] + bytes(min(32, len(whole) - length))):
            path.write_bytes(torn)
            (leftover,) = leftovers(tmp_path)
            # A record may end with zeros of its own.
            assert leftover.operations == operations[: sum(torn[:size] == whole[:size] for size in sizes[1:])]
            assert not leftover.damaged
            leftover.release()


def test_a_damaged_record_is_skipped_and_its_file_is_never_removed(tmp_path: Path) -> None:
    async def scenario(spool: Spool) -> None:
        await kept(spool, end(1), end(2), end(3))

    with_spool(tmp_path, scenario)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    (leftover,) = leftovers(tmp_path)
    assert leftover.operations == [end(1), end(3)]
    assert leftover.damaged
    leftover.remove()
    assert [each.suffix for each in tmp_path.iterdir()] == [".damaged"]


def test_a_full_disk_is_told_and_leaves_no_torn_record(tmp_path: Path) -> None:
    async def scenario(spool: Spool) -> None:
        await kept(spool, end(1))
        size = spool.path.stat().st_size
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
        try:
            assert isinstance(await kept(spool, end(2)), OSError)
            assert spool.path.stat().st_size == size
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert await kept(spool, end(3)) is None

    with_spool(tmp_path, scenario)
    assert found(tmp_path) == [end(1), end(3)]


def test_nothing_counts_as_safe_after_an_fsync_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    async def scenario(spool: Spool) -> None:
        assert await kept(spool, end(1)) is None
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            assert isinstance(await kept(spool, end(2)), OSError)
        assert isinstance(await kept(spool, end(3)), OSError)  # the kernel may have dropped the pages

    with_spool(tmp_path, scenario)
    assert end(1) in found(tmp_path)


CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.store.ledger.test_spool import Spool, end, kept

async def main():
    spool = Spool(Path(sys.argv[1]), 9, 8)
    for number in range(20):
        await kept(spool, end(number))
    spool.append([end(100)] * 1000, print)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_what_was_told_to_be_safe_survives_a_kill(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == -signal.SIGKILL
    survived = found(tmp_path)
    assert survived[:20] == [end(number) for number in range(20)]
    assert set(survived[20:]) <= {end(100)}


def test_what_is_not_a_spool_is_left_alone(tmp_path: Path) -> None:
    for name in ("notes.spool", "1-2.spool.bak", "3-4.damaged"):
        (tmp_path / name).write_bytes(b"x")
    assert found(tmp_path) == []
