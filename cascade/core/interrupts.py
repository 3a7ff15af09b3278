"""Signals that end a run, the same under both event loops: Ctrl-C (SIGINT) and SIGTERM.

The first one cancels what runs, so that everything is torn down; the second one kills the process.
A signal handler of our own does both: Python calls it between two steps of its code, so also while
a task holds the event loop, when a handler of the loop would wait for the loop. asyncio and trio
leave SIGINT alone as soon as a handler is set; trio's own would raise in whatever task runs.

A handler that somebody else has set stays theirs, and so does a signal that is ignored. Handlers
can be set from the main thread alone: elsewhere the run goes on without.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import FrameType
from typing import Any, Final, NoReturn, TypeVar

import anyio

T = TypeVar("T")

INTERRUPTED: Final = 130  # the exit code: 128 and the number of the signal, as shells have it


class Terminated(BaseException):
    """SIGTERM has ended what ran; what is left to do is `terminate()`."""


def terminate() -> NoReturn:
    """End the process as SIGTERM does by default, with that as its exit status."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # it may be closed, or be None
            stream.flush()
    _die_of(signal.SIGTERM)


def run_interruptible(
    main: Callable[[], Awaitable[T]],
    backend: str,
    backend_options: Mapping[str, Any] | None = None,
    *,
    announces: bool = False,
) -> T:
    """`anyio.run(main)`, ended by the first signal, after the tear-down.

    That is in KeyboardInterrupt, or in `Terminated`: whatever `main` makes of being cancelled, even
    a value that was there in time, is dropped then, and a failure is the cause. The second signal
    ends the process at once. `announces` tells the user so on stderr, after the first.
    """
    signals = _Signals(announces)
    options = dict(backend_options or {})
    with suppress(ValueError):  # not the main thread, or not of the main interpreter
        signals.catch()
    if not signals.before:
        return anyio.run(main, backend=backend, backend_options=options)
    failure: BaseException | None = None
    try:
        return anyio.run(signals.cancellable, main, backend=backend, backend_options=options)
    except _Ended:
        raise
    except BaseException as error:
        failure = error
        raise
    finally:
        signals.restore()
        if signals.first is not None:
            raise signals.first from failure


_USUAL: Final[dict[int, Any]] = {  # as Python has them, so that nobody else sees to the signal
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


class _Signals:
    def __init__(self, announces: bool) -> None:
        self.before: dict[int, Any] = {}  # the handlers that were replaced
        self.first: BaseException | None = None  # what the first signal ends the run in
        self._announces = announces
        self._cancel: Callable[[], object] | None = None
        self._process = os.getpid()

    def catch(self) -> None:
        """Handle the signals that would end the process; `ValueError` where nobody may."""
        if threading.current_thread() is not threading.main_thread():
            raise ValueError("signals are handled in the main thread")
        for number, usual in _USUAL.items():
            if signal.getsignal(number) == usual:
                signal.signal(number, self._handle)
                self.before[number] = usual

    def restore(self) -> None:
        """Put back what was there, unless somebody has set another handler meanwhile."""
        for number, before in self.before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, before)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a fork, which has no run
            signal.signal(number, self.before[number])
            os.kill(os.getpid(), number)
            return
        if self.first is not None:
            self._kill(number)
        self.first = KeyboardInterrupt() if number == signal.SIGINT else Terminated()
        if self._announces:
            # Not print: the handler may have come in the middle of one. It must not raise, either.
            word = "interrupted" if number == signal.SIGINT else "terminated"
            with suppress(OSError):
                os.write(2, f"{word}: tearing down; interrupt again to kill\n".encode())
        if self._cancel is not None:
            self._cancel()

    def _kill(self, number: int) -> None:
        if number != signal.SIGINT:
            _die_of(number)
        if hasattr(sys, "ps1"):  # somebody types here, and may have more to lose than this run
            raise KeyboardInterrupt
        os._exit(INTERRUPTED)

    async def cancellable(self, main: Callable[[], Awaitable[T]]) -> T:
        with anyio.CancelScope() as scope:
            self._cancel = _from_handler(scope.cancel)
            try:
                if self.first is not None:  # it came before there was anything to cancel
                    scope.cancel()
                return await main()
            finally:
                self._cancel = None  # soon there is no loop any more that could be asked
        raise _Ended


class _Ended(Exception):
    """The run was cancelled by a signal."""


def _die_of(number: int) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # it is blocked, or this is process 1 of a container, which it spares


def _from_handler(function: Callable[[], object]) -> Callable[[], object]:
    """What calls `function` in the event loop of the moment, and may be called by a handler."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio

        token = trio.lowlevel.current_trio_token()
        return lambda: token.run_sync_soon(function)
    return lambda: loop.call_soon_threadsafe(function)
