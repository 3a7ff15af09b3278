"""Telling the event loop's cancellation from an exception like any other.

A cancel scope tells by itself whether it is being cancelled. asyncio's own `Task.cancel()` does
not: `cancelling()` counts requests, and stays raised where something inside a task swallowed one
(`asyncio.TaskGroup` of CPython 3.11 and 3.12 does, and libraries that never `uncancel()`). So a
raised count alone says nothing about a call: what comes out of the call does, as in plain Python.

- The task in which a run is awaited belongs to somebody else, who may cancel it. A CancelledError
  that comes out of it cancels the run, if the count has risen since the run began (`Caller`).
- All other tasks of a run are its own, and it cancels them by scopes alone. Whoever awaits the run
  waits in a task group, which makes a cancellation of a scope of any native one. A CancelledError
  without such a scope is a failure of that task.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any

from anyio import CancelScope, Event, current_effective_deadline, get_cancelled_exc_class
from anyio.lowlevel import checkpoint

from cascade.workflow.retry import is_of


def is_cancellation(error: BaseException) -> bool:
    """Whether `error` is a scope around the current task being cancelled, which has to go on.

    Out of a nursery of trio's own it comes as a group of nothing else. A task may also raise the
    event loop's cancellation class by itself (it awaited a future that somebody cancelled): that is
    a failure, or it would be lost.
    """
    kind = get_cancelled_exc_class()
    if not isinstance(error, kind | BaseExceptionGroup):
        return False
    return is_being_cancelled() and is_of(error, kind)


def is_being_cancelled() -> bool:
    """Whether a scope around the current task is cancelled, whatever the task raises meanwhile."""
    return current_effective_deadline() == -inf


def has_ended(scope: CancelScope) -> bool:
    """Whether the cancellation that came out of `scope`, which is left, is that of its own.

    anyio lets it out where the count of requests was raised inside of the scope.
    """
    return scope.cancel_called and not is_being_cancelled()


async def outlast(event: Event) -> BaseException | None:
    """Wait for `event` whatever cancels this task; what did so meanwhile is to be raised later.

    A shielded scope stops the cancellation of scopes, not `Task.cancel()`, nor an interrupt that
    the event loop delivers here, which no cancellation after it replaces.
    """
    interruption: BaseException | None = None
    with CancelScope(shield=True):
        while not event.is_set():
            try:
                await event.wait()
            except (get_cancelled_exc_class(), KeyboardInterrupt) as error:
                if not isinstance(interruption, KeyboardInterrupt):
                    interruption = error
    return interruption


def requests() -> int:
    """How often somebody has asked to cancel the current asyncio task, and not taken it back."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def has_requests() -> bool:
    """Whether somebody has asked to cancel this very task, by asyncio's own means."""
    return get_cancelled_exc_class() is asyncio.CancelledError and requests() > 0


def is_requested(error: BaseException) -> bool:
    """Whether `error` is somebody's `cancel()` of this very task."""
    return isinstance(error, asyncio.CancelledError) and has_requests()


class Caller:
    """The asyncio task that awaits a run, and drives it itself until task groups are needed.

    A run may begin in a task that was cancelled before, to clean up: requests are counted anew.
    """

    __slots__ = ("_requests", "_task")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self._requests = task.cancelling()

    def is_here(self) -> bool:
        """Whether this is the task."""
        return asyncio.current_task() is self._task

    def is_cancelled_by(self, error: BaseException) -> bool:
        """Whether `error`, out of the call that this task awaits, is somebody cancelling it."""
        return (
            isinstance(error, asyncio.CancelledError)
            and self._task.cancelling() > self._requests
            and self.is_here()
        )


async def leave_requests_behind(error: BaseException | None = None, *, is_own: bool = True) -> None:
    """A call is over: what it has swallowed is past, and what is still to come comes now.

    It is raised, unless the call failed with an `error` of its own. A task `is_own` if nobody
    outside the run counts the requests to cancel it, or waits to see them come.
    """
    if is_being_cancelled() or isinstance(error, asyncio.CancelledError):
        return  # it is under way
    if error is not None and not is_own:
        return
    try:
        await checkpoint()
    except asyncio.CancelledError:
        if error is None or is_being_cancelled():
            raise
    task = asyncio.current_task()
    if is_own and task is not None:
        while task.uncancel():
            pass
