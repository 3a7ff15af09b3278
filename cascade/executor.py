"""Carrying out the plain call of a task, by its mode: on the loop, in a thread, in a process."""

from __future__ import annotations

import pickle
import sys
import traceback
from collections.abc import Mapping
from inspect import CO_ITERABLE_COROUTINE
from types import GeneratorType
from typing import Any, Protocol

from anyio import to_process, to_thread

from cascade.errors import add_note
from cascade.expressions import Expression
from cascade.graph import Node
from cascade.plain import error_text
from cascade.task import Task


class Executor(Protocol):
    """Anything that carries out calls. One that is given carries out every call of a run."""

    async def execute(self, node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The value of `node.task.func(*args, **kwargs)`; what it raises is the task's failure."""
        ...


class LocalExecutor:
    """Calls on the event loop, in a worker thread or in a worker process, as the task's mode says.

    Threads and processes are anyio's, at most as many at a time as its default limiters allow.
    """

    async def execute(self, node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The value of the call; an awaitable that a sync function returns is awaited."""
        return await call(node.task, args, kwargs)


async def call(task: Task[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Carry out one call of `task` as its mode says."""
    if task.is_async:
        return await task.func(*args, **kwargs)
    if task.mode == "thread":
        # In a list: trio takes a coroutine that a thread returns for a mistake.
        (value,) = await to_thread.run_sync(_called_boxed, task, args, kwargs)
    elif task.mode == "process":
        value = await _in_process(task, args, kwargs)
    else:
        value = called(task, args, kwargs)
    return await value if is_awaitable(value) else value


def is_awaitable(value: Any) -> bool:
    """Whether the value of a sync function is to be awaited (expressions are not)."""
    kind = type(value)
    if kind is GeneratorType:  # one that types.coroutine made
        return bool(value.gi_code.co_flags & CO_ITERABLE_COROUTINE)
    return hasattr(kind, "__await__") and not issubclass(kind, Expression)


def usual_class(value: Any) -> type[Any] | None:
    """The class of a value that is not awaited, unless others of that class may have to be."""
    kind = value.__class__
    return None if kind is GeneratorType else kind


def called(task: Task[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The plain call on this thread; a StopIteration surfaces as what `stopped` makes of it."""
    try:
        return task.func(*args, **kwargs)
    except StopIteration as error:
        raise stopped(task.name) from error


def _called_boxed(task: Task[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return [called(task, args, kwargs)]


def stopped(task_name: str) -> RuntimeError:
    """What a StopIteration surfaces as: it would end the coroutine that carries it."""
    return RuntimeError(f"task {task_name!r} raised StopIteration")


def surfacing(task_name: str, error: BaseException) -> BaseException:
    """What an exception that the function of a task raised surfaces as."""
    if not isinstance(error, StopIteration):
        return error
    surfaced = stopped(task_name)
    surfaced.__cause__ = error
    return surfaced


async def _in_process(
    task: Task[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    request = _pickled(task, args, kwargs)
    # A worker knows the program's own module as __mp_main__, and its classes come back so named.
    sys.modules.setdefault("__mp_main__", sys.modules["__main__"])
    status, answer = await to_process.run_sync(_answer, request, cancellable=True)
    if status == "value":
        return pickle.loads(answer)
    error, cause = pickle.loads(answer)
    raise error from cause


def _pickled(task: Task[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
    # The name may lead to the task, or (cs.task(math.sqrt, ...)) still to the function itself.
    function = task if is_importable(task) else task.func
    try:
        return pickle.dumps((function, args, kwargs), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise TypeError(_unpicklable(task, args, kwargs, error)) from error


def is_importable(task: Task[..., Any]) -> bool:
    """Whether the task's module and qualified name lead to it, so that others can find it."""
    found: Any = sys.modules.get(task.__module__)
    for name in task.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is task


def _unpicklable(
    task: Task[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], error: Exception
) -> str:
    names = task.parameters.positional
    named = {names[i] if i < len(names) else f"*{i}": value for i, value in enumerate(args)}
    for name, value in {**named, **kwargs}.items():
        try:
            pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        except Exception as reason:
            return (
                f"argument {name!r} of the process task {task.name!r} cannot be sent to a worker "
                f"process: a {type(value).__name__} cannot be pickled ({reason}); "
                'pass plain data, or use mode="thread"'
            )
    return (
        f"the process task {task.name!r} cannot be sent to a worker process ({error}); "
        "a worker imports it by module and name: define it at the top level of a module"
    )


def _answer(request: bytes) -> tuple[str, bytes]:
    """In the worker process: the pickled value, or the pickled exception with its traceback."""
    function, args, kwargs = pickle.loads(request)
    task = function if isinstance(function, Task) else Task(function)
    try:
        return "value", _pickled_value(task, called(task, args, kwargs))
    except Exception as error:
        where = "".join(traceback.format_exception(error)).rstrip()
        add_note(error, f"raised in a worker process:\n{where}")
        return "error", _pickled_error(error)


def _pickled_value(task: Task[..., Any], value: Any) -> bytes:
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise TypeError(
            f"the value of the process task {task.name!r}, a {type(value).__name__}, cannot be "
            f"sent back from the worker process: {error}"
        ) from None


def _pickled_error(error: Exception) -> bytes:
    """The error and its cause, or what can be told of an error that cannot be pickled."""
    for pair in ((error, error.__cause__), (error, None)):
        try:
            answer = pickle.dumps(pair, pickle.HIGHEST_PROTOCOL)
            pickle.loads(answer)
        except Exception:
            continue
        return answer
    substitute = RuntimeError(error_text(error))
    for note in getattr(error, "__notes__", ()):
        substitute.add_note(note)
    return pickle.dumps((substitute, None), pickle.HIGHEST_PROTOCOL)
