"""Worker processes: a small pool for each event loop.

Theory of operation. A worker is a fresh interpreter that executes `worker.serve`. A pair
of connected sockets leads from the loop to the worker, which gets its end as standard input and
moves it away at once: so the worker's standard output and error are those of the program, free for
whatever is printed there. A request goes out as its length and its bytes; so does the answer. The
end of the stream means that the other side is gone, however it ended: the worker then ends by
itself, and the loop waits for nothing but the socket.

A worker does one call at a time and is used again. If the call is given up, its worker is killed,
also while it is still starting. Idle workers end with the event loop.

`multiprocessing` cannot be told to leave its resource tracker out, a process that stays, and
`anyio.to_process` takes the standard streams of its workers for itself.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from logging import Formatter, StreamHandler, getLogger
from multiprocessing.spawn import get_executable
from struct import Struct
from typing import Final

from anyio import (
    BrokenWorkerProcess,
    CancelScope,
    current_time,
    move_on_after,
    to_process,
    wait_readable,
    wait_writable,
)
from anyio.lowlevel import RunVar, checkpoint, checkpoint_if_cancelled

from cascade.executors.mainmodule import MainModule, main_module, refuse_while_loading

LENGTH: Final = Struct("!Q")
IDLE: Final = 300.0  # seconds after which an idle worker is not used again
GRACE: Final = 1.0  # seconds that a worker has to end before it is killed, and to die then
SMALL: Final = 1 << 16  # bytes that are copied rather than sent apart
AT_ONCE: Final = 1 << 20  # bytes transferred before others on the loop have their turn
BOOT: Final = (
    "import sys; sys.path = sys.argv[1:]; from cascade.executors.worker import serve; serve()"
)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a worker takes over from the program, before its first request."""

    main: MainModule
    argv: list[str]
    log_level: int | None  # None: the program does not log to its standard streams
    log_formatter: Formatter | None


async def ask_worker(request: bytes, task_name: str) -> bytearray:
    """The answer of `cascade.executors.worker.answer` to `request`, given in a worker process.

    Waits for one of the tokens of anyio's default process limiter. Raises `BrokenWorkerProcess`
    for a worker that ends without an answer. A caller that is cancelled kills its worker.
    """
    refuse_while_loading()
    await checkpoint_if_cancelled()
    async with to_process.current_default_process_limiter():
        workers = await _workers_of_this_loop()
        worker = workers.take()
        try:
            answer = await worker.ask(request)
        except BaseException as error:
            workers.drop(worker)
            await worker.kill()
            if isinstance(error, OSError):
                raise BrokenWorkerProcess(worker.obituary(task_name)) from None
            raise
        workers.put_back(worker)
        return answer


class Worker:
    """A worker process, as the event loop sees it."""

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair()
        try:
            self.process = _started(theirs)
        except BaseException:
            self.channel.close()
            raise
        finally:
            theirs.close()
        self.channel.setblocking(False)
        self._setup: bytes | None = pickle.dumps(_setup(), pickle.HIGHEST_PROTOCOL)

    async def ask(self, request: bytes) -> bytearray:
        """The answer to the request. Raises `OSError` if the worker is gone."""
        if self._setup is not None:
            await self._send(self._setup)
            self._setup = None
        await self._send(request)
        (length,) = LENGTH.unpack(await self._receive(LENGTH.size))
        return await self._receive(length)

    async def _send(self, message: bytes) -> None:
        header = LENGTH.pack(len(message))
        parts = (header + message,) if len(message) <= SMALL else (header, message)
        for part in parts:
            await self._transfer(memoryview(part), self.channel.send, wait_writable)

    async def _receive(self, size: int) -> bytearray:
        received = bytearray(size)
        await self._transfer(memoryview(received), self.channel.recv_into, wait_readable)
        return received

    async def _transfer(
        self,
        rest: memoryview,
        some: Callable[[memoryview], int],
        ready: Callable[[socket.socket], Awaitable[None]],
    ) -> None:
        at_once = AT_ONCE
        while rest:
            try:
                count = some(rest)
            except BlockingIOError:
                await ready(self.channel)
                at_once = AT_ONCE
                continue
            if not count:
                raise EndOfStream
            rest = rest[count:]
            at_once -= count
            if at_once <= 0:
                await checkpoint()
                at_once = AT_ONCE

    async def kill(self) -> None:
        """Kill the process, and wait until it is dead."""
        self.process.kill()
        try:
            with CancelScope(shield=True), move_on_after(GRACE):
                await self._until_gone()
        finally:
            self.reap()

    async def _until_gone(self) -> None:
        with suppress(OSError):
            while True:
                await wait_readable(self.channel)
                if not self.channel.recv(SMALL):
                    return

    def dismiss(self) -> None:
        """Tell an idle worker that nothing follows, so that it ends."""
        with suppress(OSError):
            self.channel.shutdown(socket.SHUT_WR)

    def await_end(self, seconds: float) -> None:
        """Wait for a worker that was dismissed, at most so long, then kill it."""
        self.channel.settimeout(max(seconds, 0.001))
        try:
            while self.channel.recv(SMALL):
                pass
        except TimeoutError:
            self.process.kill()
        except OSError:  # it is gone
            pass
        self.reap()

    def reap(self) -> None:
        """Take the exit status of a process that is gone; the kernel has only to say so."""
        self.channel.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)

    def forget(self) -> None:
        """In a fork of this process: the worker belongs to the parent."""
        self.channel.close()
        self.process.returncode = 0

    def obituary(self, task_name: str) -> str:
        """How the process ended, and what to do."""
        status = self.process.returncode
        if status is None or status >= 0:
            how = f"ended with exit code {status}"
            remedy = "look for os._exit in what it calls, and for what the worker wrote to stderr"
        else:
            how = f"was killed by {_signal_name(-status)}"
            remedy = _REMEDIES.get(-status, "look for who sent it, and for a crash in C code")
        return f"the worker process of task {task_name!r} {how} before the task was over; {remedy}"


class EndOfStream(OSError):
    """The worker is gone."""


_REMEDIES: Final[dict[int, str]] = {
    int(getattr(signal, "SIGKILL", 9)): (
        "perhaps memory ran out: give each call less data, or let fewer workers run at a time"
    ),
    int(signal.SIGSEGV): "C code that it calls crashed: run the function by itself to find out",
    int(signal.SIGABRT): "C code that it calls gave up: run the function by itself to find out",
}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _started(channel: socket.socket) -> subprocess.Popen[bytes]:
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    path = [entry for entry in sys.path if isinstance(entry, str)]
    executable = os.fsdecode(get_executable())
    with _standard_input(channel) as stdin, _without_interrupts():
        return subprocess.Popen([executable, *flags, "-c", BOOT, *path], stdin=stdin)


@contextmanager
def _standard_input(channel: socket.socket) -> Iterator[int]:
    """The socket as a file descriptor that a child process can have as its standard input."""
    if sys.platform == "win32":
        import msvcrt

        descriptor = msvcrt.open_osfhandle(channel.detach(), 0)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    else:
        yield channel.fileno()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """A process that is started here gets no SIGINT until it allows it, ready for it then."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _setup() -> Setup:
    level, formatter = None, None
    root = getLogger()
    streams = (sys.stderr, sys.stdout, sys.__stderr__, sys.__stdout__)
    for handler in root.handlers:
        if isinstance(handler, StreamHandler) and handler.stream in streams:
            level = root.level
            if type(handler.formatter) is Formatter:
                formatter = handler.formatter
            break
    return Setup(main_module(), list(sys.argv), level, formatter)


def _asyncio_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


@dataclass(eq=False)
class Workers:
    """The workers of one event loop: those that work, and the idle ones, the last used last."""

    all: set[Worker] = field(default_factory=set)
    idle: deque[tuple[Worker, float]] = field(default_factory=deque)
    loop: asyncio.AbstractEventLoop | None = field(default_factory=_asyncio_loop)
    watch: AsyncGenerator[None, None] | None = None

    def take(self) -> Worker:
        """An idle worker that lives, or a new one. Those that were idle for long are killed."""
        while self.idle and current_time() - self.idle[0][1] >= IDLE:
            self._lose(self.idle.popleft()[0])
        while self.idle:
            worker, _ = self.idle.pop()
            if worker.process.poll() is None:
                return worker
            self._lose(worker)
        worker = Worker()
        self.all.add(worker)
        return worker

    def _lose(self, worker: Worker) -> None:
        self.drop(worker)
        worker.process.kill()
        worker.reap()

    def put_back(self, worker: Worker) -> None:
        self.idle.append((worker, current_time()))

    def drop(self, worker: Worker) -> None:
        self.all.discard(worker)

    def end(self) -> None:
        """End the workers of a loop that was closed, which is free to be collected then."""
        _end(self.all)
        self.idle.clear()
        self.loop = self.watch = None

    def forget(self) -> None:
        """In a fork of this process: the workers belong to the parent."""
        for worker in self.all:
            worker.forget()
        self.all.clear()
        self.idle.clear()


def _end(workers: set[Worker]) -> None:
    leaving = list(workers)
    workers.clear()
    for worker in leaving:
        worker.dismiss()
    for worker in leaving:
        worker.await_end(GRACE)


_of_loop: RunVar[Workers] = RunVar("cascade_workers")
_pools: weakref.WeakSet[Workers] = weakref.WeakSet()


async def _workers_of_this_loop() -> Workers:
    found = _of_loop.get(None)
    if found is not None:
        return found
    _end_those_of_closed_loops()
    workers = Workers()
    _of_loop.set(workers)
    _pools.add(workers)
    weakref.finalize(workers, _end, workers.all)  # at exit, for a loop that is never closed
    workers.watch = _end_with_loop(workers.all)
    await anext(workers.watch)
    return workers


async def _end_with_loop(workers: set[Worker]) -> AsyncGenerator[None, None]:
    """Whatever ends an event loop in order closes its asynchronous generators."""
    try:
        yield
    finally:
        _end(workers)


def _end_those_of_closed_loops() -> None:
    """An asyncio loop may be closed without closing its asynchronous generators."""
    for workers in list(_pools):
        if workers.loop is not None and workers.loop.is_closed():
            _pools.discard(workers)
            workers.end()


def _forget_all() -> None:
    for workers in list(_pools):
        workers.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
