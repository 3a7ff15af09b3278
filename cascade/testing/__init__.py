"""Virtual time: tests of workflows that sleep for hours take no time and see exact times.

Theory of operation. When every task of an event loop waits, nothing can happen before the next
timer, unless something outside the loop reports back: a worker thread, a worker process, a socket.
So the loop asks once whether anything is ready, and if not, its clock jumps to the next timer.

A thread or process at work is outside, and its work takes no virtual time. While one is at work,
an idle loop waits for it, in real time, as long as the next timer is away; only then does the
clock jump. So a result that is there in time never meets a timeout, a thread that takes too long
does, and a thread that waits for a timer of the loop is not waited for in vain.

Prior art is trio's `MockClock(autojump_threshold=0)`. It jumps while threads and processes are at
work (python-trio/trio#456): a thread that sleeps 0.1 s meets a timeout of 300 s, and anyio's worker
processes, which have 20 s to start, never start. And it jumps by a difference, so that from 0.3 it
arrives a little after 0.9. Hence a clock of our own for trio too.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

import anyio
import trio
from anyio import NoEventLoopError, to_process, to_thread

from cascade.engine import Engine
from cascade.events import MessageBus
from cascade.testing.agreement import Observation, Recorder, difference

__all__ = ["assert_strategies_agree", "virtual_time"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

DAY = 24 * 3600.0  # event loops wait no longer than that at a time


def virtual_time(backend: str) -> dict[str, Any]:
    """The `backend_options` that give one run on `backend`, "asyncio" or "trio", a virtual clock.

    The clock, `anyio.current_time()`, starts at 0.0. It stands still while tasks run, and when
    all of them wait it jumps to exactly the next deadline. Work in `anyio.to_thread`,
    `anyio.to_process` and an asyncio executor takes no virtual time, but while it goes on, a
    timer takes as long as it says: use short ones there. Only the work that holds a token of
    anyio's default limiters is seen, as that of Cascade's tasks does. Other I/O is not waited for
    when a timer is pending: a socket of this machine is ready at once, for the world or a
    subprocess use real time. Make new options for each run. Raises `ValueError` for an unknown
    backend.

    >>> import anyio
    >>> from cascade.testing import virtual_time
    >>> async def nap() -> float:
    ...     await anyio.sleep(3600)
    ...     return anyio.current_time()
    >>> anyio.run(nap, backend="trio", backend_options=virtual_time("trio"))
    3600.0
    """
    if backend == "asyncio":
        return {"loop_factory": _VirtualTimeLoop}
    if backend == "trio":
        clock = _JumpingClock()
        return {"clock": clock, "instruments": [clock]}
    raise ValueError(f"backend={backend!r} has no virtual time; it must be 'asyncio' or 'trio'")


def assert_strategies_agree(make_target: Callable[[], Any], **run_options: Any) -> None:
    """Both strategies do the same on both event loops, or an `AssertionError` shows where not.

    `make_target` makes the target anew for each of the four runs, in virtual time: chain methods
    change expressions, and a task should find the world as it was. `run_options` are those of
    `cs.run`, save the strategy and the event loop; one that must be made anew for each run is
    given as a function without parameters. Values and arguments are compared by their `repr`,
    without addresses.

    >>> import cascade as cs
    >>> from cascade.testing import assert_strategies_agree
    >>> @cs.task
    ... def add(x, y):
    ...     return x + y
    >>> assert_strategies_agree(lambda: add(1, add(2, 3)))
    """
    first: Observation | None = None
    for backend in ("asyncio", "trio"):
        for use_vm in (False, True):
            options: dict[str, Any] = {
                name: value() if callable(value) else value for name, value in run_options.items()
            }
            of_run = {name: options.pop(name, None) for name in ("params", "max_steps")}
            resources = options.pop("resources", ())
            options.setdefault("bus", MessageBus())
            engine = Engine(**options)
            for definition in resources:
                engine.register(definition)
            where = f"{'vm' if use_vm else 'graph'} on {backend}"
            capacity = options.get("system_resources") or {}
            of_run["use_vm"] = use_vm
            seen = anyio.run(
                partial(_observe, engine, where, make_target, of_run, capacity),
                backend=backend,
                backend_options=virtual_time(backend),
            )
            if first is None:
                first = seen
            found = difference(first, seen)
            if found is not None:
                raise AssertionError(found)


async def _observe(
    engine: Engine,
    where: str,
    make_target: Callable[[], Any],
    options: Mapping[str, Any],
    capacity: Mapping[str, Any],
) -> Observation:
    target = make_target()
    with Recorder(engine, where) as recorder:
        try:
            recorder.returned(await engine.run(target, **options))
        except Exception as error:
            recorder.failed(error)
    return recorder.settled(capacity)


def _at_work() -> bool:
    """Whether a worker thread or process of anyio's is doing something for this event loop."""
    try:
        threads = to_thread.current_default_thread_limiter()
        processes = to_process.current_default_process_limiter()
    except NoEventLoopError:  # a loop that was not started by anyio: its tasks are not known here
        return False
    return bool(threads.borrowed_tokens or processes.borrowed_tokens)


class _VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A selector event loop whose clock jumps instead of waiting."""

    _scheduled: list[asyncio.TimerHandle]  # asyncio's heap of timers, the earliest first

    def __init__(self) -> None:
        super().__init__(_JumpingSelector(self))
        self._calls = 0
        self._set_time(0.0)

    def time(self) -> float:
        return self._now

    def at_work(self) -> bool:
        return self._calls > 0 or _at_work()

    def jump(self) -> None:
        """Move the clock to the next timer, the one that an idle `select` was to wait for."""
        # Not now + timeout: the sum of floats can miss the timer by a little, and asyncio asks
        # for no more than a day at a time.
        self._set_time(self._scheduled[0].when())

    def _set_time(self, now: float) -> None:
        self._now = now
        # Timers earlier than now + resolution run. With one ulp that is exactly those that are
        # due; the nanosecond of the real clock is none at all once now is large (a hang).
        self._clock_resolution = math.ulp(now)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._calls += 1
        future.add_done_callback(self._call_done)
        return future

    def _call_done(self, _: asyncio.Future[Any]) -> None:
        self._calls -= 1

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        # Without the timeout: the clock would jump past it while the threads are being joined.
        await super().shutdown_default_executor()


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: _VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not timeout or timeout < 0:  # nothing to wait for, or no timer to jump to
            return super().select(timeout)
        ready = super().select(timeout if self._loop.at_work() else 0)
        if not ready:
            self._loop.jump()
        return ready


class _JumpingClock(trio.abc.Clock, trio.abc.Instrument):
    """A clock of trio's that jumps when the loop would wait; as an instrument, it sees it wait."""

    def __init__(self) -> None:
        self._now = 0.0
        self._deadline = math.inf
        self._wait = 0.0
        self._working = False
        self._waiting = False

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        # Asked when no task can run, right before the wait.
        self._deadline = deadline
        self._working = _at_work()
        if deadline <= self._now:
            self._wait = 0.0
        else:
            self._wait = min(deadline - self._now, DAY) if self._working else DAY
        return self._wait

    def before_io_wait(self, timeout: float) -> None:
        # A shorter timeout than ours is that of `wait_all_tasks_blocked`, which comes first.
        self._waiting = 0 < timeout == self._wait and self._deadline < math.inf
        if self._waiting and not self._working:
            # Nothing to wait for: this ends the wait at once, with what is ready.
            trio.lowlevel.current_trio_token().run_sync_soon(_nothing)

    def after_io_wait(self, timeout: float) -> None:
        if not self._waiting:
            return
        own = 0 if self._working else 1  # the call above, and the task of trio's that makes it
        statistics = trio.lowlevel.current_statistics()
        if statistics.tasks_runnable <= own and statistics.run_sync_soon_queue_size <= own:
            self._now = self._deadline


def _nothing() -> None:
    pass
