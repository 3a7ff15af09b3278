"""Virtual time: tests of workflows that sleep for hours take no time and see exact times.

Theory of operation. When every task of an event loop waits, nothing can happen before the next
timer, unless something outside the loop reports back: a worker thread, a worker process, a socket.
So the loop asks once whether anything is ready, and if not, its clock jumps to the next timer.

A thread or process at work is outside, and its work takes no virtual time. While one is at work,
an idle loop waits for it, in real time, as long as the next timer is away; only then does the
clock jump. So a result that is there in time never meets a timeout, a thread that takes too long
does, and a thread that waits for a timer of the loop is not waited for in vain.

trio's `MockClock` jumps while threads and processes are at work (python-trio/trio#456): a thread
that sleeps 0.1 s meets a timeout of 300 s, and anyio's worker processes, which have 20 s to start,
never start. `_WaitForWork` gives it the rule above. On asyncio, `_VirtualTimeLoop` is the rule.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

import trio
from anyio import NoEventLoopError, to_process, to_thread
from trio.testing import MockClock

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


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
    >>> async def nap() -> float:
    ...     await anyio.sleep(3600)
    ...     return anyio.current_time()
    >>> anyio.run(nap, backend="trio", backend_options=virtual_time("trio"))
    3600.0
    """
    if backend == "asyncio":
        return {"loop_factory": _VirtualTimeLoop}
    if backend == "trio":
        clock = MockClock(autojump_threshold=0)
        return {"clock": clock, "instruments": [_WaitForWork(clock)]}
    raise ValueError(f"backend={backend!r} has no virtual time; it must be 'asyncio' or 'trio'")


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
        self._now = 0.0
        self._calls = 0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self._now

    def at_work(self) -> bool:
        return self._calls > 0 or _at_work()

    def jump(self) -> None:
        """Move the clock to the next timer, the one that an idle `select` was to wait for."""
        # Not now + timeout: the sum of floats can miss the timer by a little, and asyncio asks
        # for no more than a day at a time.
        self._now = self._scheduled[0].when()
        # Timers earlier than now + resolution run. With one ulp that is exactly those that are
        # due; the nanosecond of the real clock is none at all once now is large (a hang).
        self._clock_resolution = math.ulp(self._now)

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


class _WaitForWork(trio.abc.Instrument):
    """Keeps a MockClock from jumping for as long as work that is going on may really take."""

    def __init__(self, clock: MockClock) -> None:
        self._clock = clock

    def before_io_wait(self, timeout: float) -> None:
        threshold = 0.0
        if _at_work():
            threshold = max(0.0, trio.lowlevel.current_statistics().seconds_to_next_deadline)
        if threshold != self._clock.autojump_threshold:
            self._clock.autojump_threshold = threshold
            # This wait was computed with the old threshold: end it at once.
            trio.lowlevel.current_trio_token().run_sync_soon(_nothing)


def _nothing() -> None:
    pass
