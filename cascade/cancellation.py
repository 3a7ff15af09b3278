"""Telling the event loop's cancellation of a task from an exception like any other."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any
from weakref import WeakKeyDictionary

from anyio import current_effective_deadline, get_cancelled_exc_class

# By asyncio task: how often it had been cancelled when the run in it began.
_before: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()


def is_cancellation(error: BaseException) -> bool:
    """Whether `error` is the current task being cancelled, which has to go on.

    A task may also raise the event loop's cancellation class by itself (it awaited a future that
    somebody cancelled): that is a failure, or it would be lost.
    """
    return isinstance(error, get_cancelled_exc_class()) and is_being_cancelled()


def is_being_cancelled() -> bool:
    """Whether the current task is being cancelled, whatever it raises meanwhile."""
    return current_effective_deadline() == -inf or _is_cancelled_by_asyncio()


def _is_cancelled_by_asyncio() -> bool:
    """Whether somebody called `cancel()` on the asyncio task itself, without a cancel scope."""
    if get_cancelled_exc_class() is not asyncio.CancelledError:
        return False
    task = asyncio.current_task()
    return task is not None and task.cancelling() > _before.get(task, 0)


class AsyncioTask:
    """The asyncio task that drives a run, as the one whose `cancel()` cancels the run.

    A run may begin in a task that was cancelled before, to clean up: that is no cancellation of
    the run, so that requests are counted from its beginning.
    """

    __slots__ = ("_requests", "_task", "_until")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self._requests = task.cancelling()
        self._until = _before.get(task, 0)
        if self._requests != self._until:
            _before[task] = self._requests

    def leave(self) -> None:
        """The run is over; the task may go on with one around it."""
        if self._requests != self._until:
            _before[self._task] = self._until

    def is_cancelled(self) -> bool:
        """Whether this is the task, and cancelled since the run began: maybe suppressed since."""
        return self._task.cancelling() > self._requests and asyncio.current_task() is self._task
