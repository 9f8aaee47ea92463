"""An event loop without a clock and without sockets: time passes when nobody has anything to do.

    with virtual(seed) as loop:
        loop.run_until_complete(scenario())

Rule 1  Everything that the product asks of time or chance (`time`, `random`) is answered from here, so that a seed
        determines everything that happens. Callbacks keep the order that asyncio promises; what is random is how long
        things take.
Rule 2  Whatever runs on a machine carries it in `MACHINE`. A crashed machine runs nothing more: what it had scheduled,
        and what others schedule for it, is dropped without a `finally`, as by a power cut.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterator
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")

START_S = 1_000.0
# A minute after the start, a day, a month and the year 2030 begin, so that a simulation sees periodic limits renewed.
EPOCH_S = 1_893_456_000.0 - START_S - 60.0
# No thread answers at once.
THREAD_S = 0.002


class Machine:
    """Where processes run. `offset_s`: how far its wall clock is off."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.offset_s = 0.0


class Life:
    """One process, from its start to its end, on a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.pid = 0
        self.dead = False
        self.tasks: list[asyncio.Task[Any]] = []
        # Files of earlier processes that it has locked.
        self.leftovers: list[Any] = []


LIFE: ContextVar[Life | None] = ContextVar("LIFE", default=None)


class Stuck(AssertionError):
    """Something waits for what will never come."""


class VirtualLoop(asyncio.BaseEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self._now = START_S
        self._selector = self
        self._processes: list[Life] = []
        self.set_task_factory(_task)

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[object]:
        """`BaseEventLoop` waits in this: nothing ever comes from outside, so time may pass at once."""
        if timeout is None:
            raise Stuck("everybody waits, and nothing is scheduled")
        self._now += max(0.0, timeout)
        return []

    def _process_events(self, event_list: list[object]) -> None:
        return

    def _write_to_self(self) -> None:
        return

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        life = LIFE.get() if context is None else context.get(LIFE)
        if life is None or not life.dead:
            self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = super().call_at(when, callback, *args, context=context)
        life = LIFE.get() if context is None else context.get(LIFE)
        if life is not None and life.dead:
            timer.cancel()
        return timer

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> "asyncio.Future[T]":  # type: ignore[override]
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except BaseException as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_later(THREAD_S, work)
        return future

    def crash(self, life: Life) -> None:
        """Nothing of it runs any more from this moment on."""
        life.dead = True
        for handle in (*self._ready, *self._scheduled):  # type: ignore[attr-defined]
            if handle._context.get(LIFE) is life:
                handle.cancel()

    def begin(self, machine: Machine, work: Callable[[Life], Any]) -> "tuple[Life, asyncio.Task[Any]]":
        """Start a new process on `machine` that runs `work`."""
        life = Life(machine)
        self._processes.append(life)
        context = copy_context()
        context.run(LIFE.set, life)
        return life, self.create_task(work(life), context=context)

    def bury(self) -> None:
        """Close whatever crashed processes were in the middle of, with no effect from anything they still do."""
        for life in self._processes:
            life.dead = True
            for task in life.tasks:
                if not task.done():
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    # Whatever it still tries to do: it is over.
                    with contextlib.suppress(BaseException):
                        task.get_coro().close()


def _task(
    loop: asyncio.AbstractEventLoop, coro: Any, context: Context | None = None, **options: Any
) -> "asyncio.Task[Any]":
    task = asyncio.Task(coro, loop=loop, context=context, **options)
    life = LIFE.get() if context is None else context.get(LIFE)
    if life is not None:
        life.tasks.append(task)
    return task


@contextlib.contextmanager
def virtual(seed: int) -> Iterator[VirtualLoop]:
    """A loop whose time everybody uses, with each machine's own error on the wall clock."""
    loop = VirtualLoop()

    def wall() -> float:
        life = LIFE.get()
        return EPOCH_S + loop._now + (0.0 if life is None else life.machine.offset_s)

    before = {name: getattr(time, name) for name in ("monotonic", "time", "time_ns", "perf_counter_ns")}
    state = random.getstate()
    random.seed(seed)
    time.monotonic = loop.time
    time.time = wall
    time.time_ns = lambda: int(wall() * 1_000) * 1_000_000
    time.perf_counter_ns = lambda: int(loop._now * 1e9)
    asyncio.set_event_loop(loop)
    try:
        yield loop
    finally:
        loop.bury()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        with contextlib.suppress(BaseException):
            loop.run_until_complete(asyncio.sleep(0))
        asyncio.set_event_loop(None)
        loop.close()
        for name, function in before.items():
            setattr(time, name, function)
        random.setstate(state)
