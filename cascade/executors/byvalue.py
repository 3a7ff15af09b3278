"""Pickles for worker processes and back: by reference, and where that leads nowhere, by value.

What is defined in a notebook, a REPL, `python -c` or standard input cannot be imported by a worker.
cloudpickle, if it is installed, sends such functions and classes as their code.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from functools import cache
from io import BytesIO
from operator import attrgetter
from typing import Any

from cascade.executors.mainmodule import main_module
from cascade.workflow.task import Task

PROTOCOL = pickle.HIGHEST_PROTOCOL


def dumps(value: Any, *, to_worker: bool) -> bytes:
    """The pickled value, to be loaded by a worker, or (not `to_worker`) by its program."""
    pickler_class = None if main_module().is_loadable else _pickler_class()
    if pickler_class is None:
        return pickle.dumps(value, PROTOCOL)
    file = BytesIO()
    pickler = pickler_class(file, PROTOCOL)
    pickler.to_worker = to_worker
    pickler.dump(value)
    return file.getvalue()


class Remade:
    """An error to be pickled whose class does not take its own `args`, or refuses its state."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        state = self._error.__getstate__()
        attributes = [part for part in (state if type(state) is tuple else (state,)) if part]
        return _remade, (type(self._error), self._error.args, attributes)


def _remade(
    kind: type[BaseException], args: tuple[Any, ...], attributes: list[dict[str, Any]]
) -> BaseException:
    error = kind.__new__(kind, *args)
    for name, value in (item for part in attributes for item in part.items()):
        object.__setattr__(error, name, value)
    return error


def is_reachable(module: str) -> bool:
    """Whether a worker gets hold of what is defined in the module."""
    return module != "__main__" or main_module().is_loadable or _pickler_class() is not None


@cache
def _pickler_class() -> Any:
    """The pickler of cloudpickle, which knows Tasks, too; None if it is not installed."""
    try:
        cloudpickle: Any = importlib.import_module("cloudpickle")
    except ImportError:
        return None

    class ByValue(cloudpickle.Pickler):  # type: ignore[misc]
        to_worker = True

        def reducer_override(self, value: Any) -> Any:
            if type(value) is not Task or value.__module__ != "__main__":
                return super().reducer_override(value)
            if self.to_worker:
                options = value.name, value.pure, value.mode, value.version
                return _task_of_value, (value.func, value.__qualname__, *options)
            return _task_of_program, (value.__qualname__,)

    return ByValue


def _task_of_value(func: Any, qualname: str, name: str, *options: Any) -> Task[..., Any]:
    pure, mode, version = options
    task = Task[..., Any](func, name=name, pure=pure, mode=mode, version=version)
    task.__qualname__ = qualname
    return task


def _task_of_program(qualname: str) -> Any:
    return attrgetter(qualname)(sys.modules["__main__"])
