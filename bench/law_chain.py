"""A chain costs at most 5 checkpoints a node, whatever its tasks are.

The yardstick calls, or awaits, one function after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import cascade as cs
from harness import Case
from steps import chain, inc, inc_async, inc_suspending


def cases(quick: bool) -> Iterator[Case]:
    length = 20 if quick else 1_000
    yield sync_chain(f"chain of {length:,} sync tasks", length)
    yield sync_chain(f"chain of {length:,} sync tasks, built and cold", length, cold=True)
    yield async_chain(f"chain of {length:,} async tasks", inc_async, length)
    yield async_chain(f"chain of {length:,} async tasks that suspend", inc_suspending, length)


def sync_chain(law: str, length: int, *, cold: bool = False) -> Case:
    async def by_hand() -> int:
        value = 0
        for _ in range(length):
            value = inc.func(value)
        return value

    build = partial(chain, inc, length)
    return Case(law, "node", length, build, by_hand, length, "cold" if cold else "warm")


def async_chain(law: str, task: cs.Task[[int], int], length: int) -> Case:
    async def by_hand() -> int:
        value = 0
        for _ in range(length):
            value = await task.func(value)
        return value

    return Case(law, "node", length, partial(chain, task, length), by_hand, length)
