"""Telling the event loop's cancellation of a task from an exception like any other."""

from __future__ import annotations

import asyncio
from math import inf

from anyio import current_effective_deadline, get_cancelled_exc_class


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
    return task is not None and task.cancelling() > 0
