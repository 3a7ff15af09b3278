"""A fan-out costs at most 5 checkpoints a node; of tasks that suspend, 1.5 times a task group.

The yardstick is a list comprehension for sync tasks, and one task group with as many tasks for
async ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import anyio

import cascade as cs
from harness import Case
from steps import inc, inc_async, inc_suspending


def cases(quick: bool) -> Iterator[Case]:
    width = 20 if quick else 1_000
    yield sync_fan_out(f"fan-out of {width:,} sync tasks", width)
    yield sync_fan_out(f"fan-out of {width:,} sync tasks, built and cold", width, cold=True)
    yield async_fan_out(f"fan-out of {width:,} async tasks", inc_async, width)
    yield async_fan_out(f"fan-out of {width:,} async tasks that suspend", inc_suspending, width)
    yield mapped(f"map over {width:,} items", width)
    yield into_one(20 if quick else 10_000)
    yield async_into_one(20 if quick else 10_000)


def sync_fan_out(law: str, width: int, *, cold: bool = False) -> Case:
    async def by_hand() -> list[int]:
        return [inc.func(x) for x in range(width)]

    def build() -> list[cs.LazyResult[int]]:
        return [inc(x) for x in range(width)]

    expected = list(range(1, width + 1))
    return Case(law, "node", width, build, by_hand, expected, "cold" if cold else "warm")


def async_fan_out(law: str, task: cs.Task[[int], int], width: int) -> Case:
    async def by_hand() -> list[int]:
        results = [0] * width

        async def put(x: int) -> None:
            results[x] = await task.func(x)

        async with anyio.create_task_group() as group:
            for x in range(width):
                group.start_soon(put, x)
        return results

    def build() -> list[cs.LazyResult[int]]:
        return [task(x) for x in range(width)]

    return Case(law, "node", width, build, by_hand, list(range(1, width + 1)))


@cs.task
def total(values: list[int]) -> int:
    return sum(values)


def into_one(width: int) -> Case:
    """Built anew each time; the engine knows the structure."""
    step, last = inc.func, total.func

    async def by_hand() -> int:
        return last([step(x) for x in range(width)])

    def build() -> cs.LazyResult[int]:
        return total([inc(x) for x in range(width)])

    law = f"fan-out of {width:,} sync tasks into one, built"
    expected = width * (width + 1) // 2
    return Case(law, "node", width, build, by_hand, expected, "built", at_most=50)


def async_into_one(width: int) -> Case:
    """Tasks that suspend once, beside one task group with as many."""
    step, last = inc_suspending.func, total.func

    async def by_hand() -> int:
        results = [0] * width

        async def put(x: int) -> None:
            results[x] = await step(x)

        async with anyio.create_task_group() as group:
            for x in range(width):
                group.start_soon(put, x)
        return last(results)

    def build() -> cs.LazyResult[int]:
        return total([inc_suspending(x) for x in range(width)])

    law = f"fan-out of {width:,} async tasks into one, built"
    expected = width * (width + 1) // 2
    return Case(law, "node", width, build, by_hand, expected, "built", at_most=1.2)


def mapped(law: str, width: int) -> Case:
    async def by_hand() -> list[int]:
        return [inc.func(x) for x in range(width)]

    def build() -> cs.MappedLazyResult[int]:
        return inc.map(x=range(width))

    return Case(law, "item", width, build, by_hand, list(range(1, width + 1)))
