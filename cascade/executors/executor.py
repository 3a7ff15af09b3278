"""Carrying out the plain call of a task, by its mode: on the loop, in a thread, in a process."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from functools import partial
from inspect import CO_ITERABLE_COROUTINE
from types import GeneratorType
from typing import Any, Protocol

from anyio import get_cancelled_exc_class, to_thread

from cascade.executors.byvalue import dumps, is_reachable
from cascade.executors.mainmodule import NOT_IN_A_FILE
from cascade.executors.processes import ask_worker
from cascade.graph.nodes import Node
from cascade.workflow.expressions import Expression
from cascade.workflow.task import Task


class Executor(Protocol):
    """Anything that carries out calls. One that is given carries out every call of a run."""

    async def execute(self, node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The value of `node.task.func(*args, **kwargs)`; what it raises is the task's failure."""
        ...


class LocalExecutor:
    """Calls on the event loop, in a worker thread or in a worker process, as the task's mode says.

    At most as many threads and processes are at work as anyio's default limiters allow.
    """

    async def execute(self, node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The value of the call; an awaitable that a sync function returns is awaited."""
        return await call(node.task, args, kwargs)


async def call(task: Task[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Carry out one call of `task` as its mode says."""
    if task.is_async:
        return await task.func(*args, **kwargs)
    if task.mode == "thread":
        value = await _in_thread(task, args, kwargs)
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


async def _in_thread(task: Task[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    cancelled = get_cancelled_exc_class()
    outcome = await to_thread.run_sync(_boxed, cancelled, task, args, kwargs)
    value, error = outcome
    if error is None:
        return value
    try:
        raise error
    finally:
        del error, outcome  # its traceback refers to this frame


def _boxed(
    cancelled: type[BaseException],
    task: Task[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> tuple[Any, BaseException | None]:
    """The value of a call on this thread, or what it raised, in a box.

    trio takes a coroutine that a thread returns for a mistake, and writes to what a thread raises,
    which its class may refuse.
    """
    try:
        return called(task, args, kwargs), None
    except cancelled:  # of `anyio.from_thread.check_cancelled()`
        raise
    except BaseException as error:
        return None, error


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
    answer = await ask_worker(request, task.name)
    # A worker knows the program's own module as __mp_main__, and its classes come back so named.
    sys.modules.setdefault("__mp_main__", sys.modules["__main__"])
    is_value, content = pickle.loads(answer)
    if is_value:
        return content
    error, cause = content
    raise error from cause


def _pickled(task: Task[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
    function: Any = task.func
    leading: tuple[Any, ...] = ()
    named: Mapping[str, Any] = {}
    if isinstance(function, partial):
        function, leading, named = function.func, function.args, function.keywords
    if not is_reachable(getattr(function, "__module__", None) or ""):
        raise TypeError(
            f"the process task {task.name!r} cannot be sent to a worker process: {NOT_IN_A_FILE}"
        )
    request = (task.name, _by_name(function), (*leading, *args), {**named, **kwargs})
    try:
        return dumps(request, to_worker=True)
    except Exception as error:
        raise TypeError(_unpicklable(task, args, kwargs, error)) from error


def _by_name(function: Any) -> Any:
    """What stands under the name of the function, if that is a Task of it."""
    found: Any = sys.modules.get(getattr(function, "__module__", None) or "")
    for name in getattr(function, "__qualname__", "").split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, Task) and found.func is function else function


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
