"""The tasks of the benches: they do next to nothing, so that the engine is what counts."""

from __future__ import annotations

from anyio.lowlevel import checkpoint

import cascade as cs


@cs.task
def inc(x: int) -> int:
    return x + 1


@cs.task
async def inc_async(x: int) -> int:
    """An async function that never suspends."""
    return x + 1


@cs.task
async def inc_suspending(x: int) -> int:
    """An async function that gives way to others once."""
    await checkpoint()
    return x + 1


def chain(task: cs.Task[[int], int], length: int, start: object = 0) -> cs.LazyResult[int]:
    """`length` calls of the task, each on the value of the one before."""
    value = task(start)
    for _ in range(length - 1):
        value = task(value)
    return value
