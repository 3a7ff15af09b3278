"""Reading the items of a map as they settle costs little more than the map."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Any

import cascade as cs
from harness import Case

AIM = 5.0  # microseconds an item, beside the same map run as a whole


@cs.task
def same(x: int) -> int:
    return x


@cs.task
async def same_async(x: int) -> int:
    return x


class Streamed:
    """A stream of a map beside a run of it, in one engine."""

    def __init__(self, task: Any, count: int) -> None:
        self.engine = cs.Engine()
        self.mapped = task.map(x=list(range(count)))
        self.took = 0.0

    async def stream(self) -> int:
        found = 0
        began = perf_counter()
        async with self.engine.stream(self.mapped, use_vm=True) as results:
            async for _ in results:
                found += 1
        self.took = perf_counter() - began
        return found

    async def run(self) -> int:
        began = perf_counter()
        found = len(await self.engine.run(self.mapped, use_vm=True))
        self.took = perf_counter() - began
        return found


def case(name: str, task: Any, count: int) -> Case:
    streamed = Streamed(task, count)

    @cs.task
    async def ours() -> int:
        return await streamed.stream()

    return Case(
        f"stream: {name} items",
        "item",
        count,
        ours,
        streamed.run,
        count,
        micros=AIM,
        seconds=lambda: streamed.took,
    )


def cases(quick: bool) -> Iterator[Case]:
    count = 50 if quick else 2_000
    yield case("inline", same, count)
    yield case("async", same_async, count)
