"""What a worker process does: it answers requests until the program has no more of them, or ends.

A thread of its own reads the channel, so that a worker sees in the middle of a call that the
program is gone.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from queue import SimpleQueue
from threading import Thread
from types import FrameType
from typing import Any, Final, NoReturn

from cascade.errors import add_note
from cascade.executors import mainmodule
from cascade.executors.byvalue import Remade, dumps
from cascade.executors.executor import stopped
from cascade.executors.processes import LENGTH, Setup
from cascade.plain import error_text
from cascade.workflow.task import Task

EXIT_SECONDS: Final = 5.0  # that what is registered to run at exit may take


def serve() -> None:
    """The main function of a worker process, whose standard input is the channel."""
    channel = _channel()
    requests: SimpleQueue[BytesIO | None] = SimpleQueue()
    state = _State()
    try:
        set_up(pickle.load(_received(channel)))
        Thread(target=_read, args=(channel, requests, state), daemon=True).start()
        while (request := requests.get()) is not None:
            state.is_busy = True
            _send(channel, answer(request))
            state.is_busy = False
    except OSError:  # the program is gone
        os._exit(1)
    finally:
        channel.detach()  # the kernel closes it: the program takes that for the end of the process


class _State:
    is_busy = False


def _channel() -> socket.socket:
    """The socket that came as standard input, which is the null device from now on."""
    descriptor = os.dup(0)
    with open(os.devnull, "rb") as null:
        os.dup2(null.fileno(), 0)
    if sys.platform == "win32":
        import msvcrt

        descriptor = msvcrt.get_osfhandle(descriptor)
    channel = socket.socket(fileno=descriptor)
    channel.setblocking(True)
    if hasattr(os, "register_at_fork"):  # a fork that outlives the worker must not keep it open
        os.register_at_fork(after_in_child=channel.close)
    return channel


def set_up(setup: Setup) -> None:
    """Take over what the program hands to its workers."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # The program decides what an interrupt ends. Not SIG_IGN: processes started here would
    # inherit it.
    signal.signal(signal.SIGINT, _pass_over)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    sys.argv = setup.argv
    mainmodule.work_for(setup.main)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # a program without standard streams
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if setup.log_level is not None:
        handler = logging.StreamHandler()
        handler.setFormatter(setup.log_formatter)
        logging.basicConfig(level=setup.log_level, handlers=[handler])


def _pass_over(_number: int, _frame: FrameType | None) -> None:
    """Do nothing."""


def _read(channel: socket.socket, requests: SimpleQueue[BytesIO | None], state: _State) -> NoReturn:
    with suppress(OSError, EOFError):
        while True:
            requests.put(_received(channel))
    if not state.is_busy:
        requests.put(None)
        time.sleep(EXIT_SECONDS)
    os._exit(1)


def _received(channel: socket.socket) -> BytesIO:
    """The next message. Raises `EOFError` if there is none."""
    (length,) = LENGTH.unpack(_bytes(channel, LENGTH.size).getbuffer())
    return _bytes(channel, length)


def _bytes(channel: socket.socket, size: int) -> BytesIO:
    received = BytesIO(bytes(size))
    with received.getbuffer() as rest:
        place = 0
        while place < size:
            count = channel.recv_into(rest[place:])
            if not count:
                raise EOFError
            place += count
    return received


def _send(channel: socket.socket, message: bytes) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # none, broken, or closed by a task
            stream.flush()
    channel.sendall(LENGTH.pack(len(message)))
    channel.sendall(message)


def answer(request: BytesIO) -> bytes:
    """The pickled pair of True and the value, or of False and the exception with its cause."""
    try:
        name, function, args, kwargs = _Unpickler(request).load()
    except BaseException as error:
        return _failed(error, "loaded a task and its arguments")
    try:
        return _pickled_value(name, _called(name, function, args, kwargs))
    except BaseException as error:
        return _failed(error)


def _called(task_name: str, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    try:
        return (function.func if isinstance(function, Task) else function)(*args, **kwargs)
    except StopIteration as error:
        raise stopped(task_name) from error


class _Unpickler(pickle.Unpickler):
    """Loads the main module of the program where it is needed."""

    def find_class(self, module: str, name: str, /) -> Any:
        if module in mainmodule.NAMES:
            mainmodule.load()
        return super().find_class(module, name)


def _pickled_value(task_name: str, value: Any) -> bytes:
    try:
        return dumps((True, value), to_worker=False)
    except Exception as error:
        raise TypeError(
            f"the value of the process task {task_name!r}, a {type(value).__name__}, cannot be "
            f"sent back from the worker process: {error}"
        ) from None


def _failed(error: BaseException, doing: str = "") -> bytes:
    where = "".join(traceback.format_exception(error)).rstrip()
    add_note(error, f"raised in a worker process{' that ' * bool(doing)}{doing}:\n{where}")
    return _pickled_error(error)


def _pickled_error(error: BaseException) -> bytes:
    """The error and its cause, or what can be told of an error that cannot be pickled."""
    cause, remade = error.__cause__, Remade(error)
    for pair in ((error, cause), (remade, cause), (error, None), (remade, None)):
        try:
            message = dumps((False, pair), to_worker=False)
            _Unpickler(BytesIO(message)).load()
        except Exception:
            continue
        return message
    substitute = RuntimeError(error_text(error))
    for note in getattr(error, "__notes__", ()):
        substitute.add_note(note)
    return dumps((False, (substitute, None)), to_worker=False)
