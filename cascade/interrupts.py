"""Interrupts from the terminal, the same under both event loops.

The first one cancels what runs, so that everything is torn down; the second one kills the process.
A signal handler of our own does both: it is called between two steps of Python code, so also while
a task holds the event loop, when a handler of the loop would wait for the loop. asyncio and trio
leave SIGINT alone as soon as a handler is set.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import FrameType
from typing import Final, TypeVar

import anyio

T = TypeVar("T")

INTERRUPTED: Final = 130  # the exit code: 128 and the number of the signal, as shells have it


def run_interruptible(main: Callable[[], Awaitable[T]], backend: str) -> T:
    """`anyio.run(main)`, ended by the first interrupt, after the tear-down, in KeyboardInterrupt.

    Whatever `main` makes of being cancelled, even a value that was there in time, is dropped then.
    The second interrupt ends the process at once. Call it from the main thread.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:  # as for a job in the background of a shell
        return anyio.run(main, backend=backend)
    interrupts = _Interrupts()
    signal.signal(signal.SIGINT, interrupts.handle)
    try:
        return anyio.run(interrupts.cancellable, main, backend=backend)
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
        if interrupts.count:
            raise KeyboardInterrupt from None


class _Interrupts:
    def __init__(self) -> None:
        self.count = 0
        self._cancel: Callable[[], object] | None = None

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 1:
            os._exit(INTERRUPTED)
        # Not print: the handler may have come in the middle of one. It must not raise, wherever.
        with suppress(OSError):
            os.write(2, b"interrupted: tearing down; interrupt again to kill\n")
        if self._cancel is not None:
            self._cancel()

    async def cancellable(self, main: Callable[[], Awaitable[T]]) -> T:
        with anyio.CancelScope() as scope:
            self._cancel = _from_handler(scope.cancel)
            try:
                if self.count:  # it came before there was anything to cancel
                    scope.cancel()
                return await main()
            finally:
                self._cancel = None  # soon there is no loop any more that could be asked
        raise _Ended


class _Ended(Exception):
    """The run was cancelled by an interrupt."""


def _from_handler(function: Callable[[], object]) -> Callable[[], object]:
    """What calls `function` in the event loop of the moment, and may be called by a handler."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio

        token = trio.lowlevel.current_trio_token()
        return lambda: token.run_sync_soon(function)
    return lambda: loop.call_soon_threadsafe(function)
