"""A wakeup takes as long with 10,000 parked as with 1,000; who need not wait pays little.

The wakeup is counted from the last line of the task that gives the slot back to the first line of
the one that has it next, p50 and p99 of a run; the yardstick is the same with `anyio.Lock`. A task
that is admitted at once stands under limits and rates that are never reached; the yardstick is a
list comprehension.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import quantiles
from time import perf_counter

import anyio
from anyio.lowlevel import checkpoint

import cascade as cs
from harness import Case
from steps import inc

PATTERNS = ("inc", "*", "i*", "in*", "?nc")  # every one of them matches the task


def cases(quick: bool) -> Iterator[Case]:
    many = 20 if quick else 10_000
    for parked, percent in ((many // 10, 50), (many, 50), (many, 99)):
        yield wakeup(f"release to resume, {parked:,} parked, p{percent}", parked, percent)
    count = 20 if quick else 1_000
    for constraints in (0, 1, 10):
        yield admitted_at_once(
            f"{count:,} tasks under {constraints} constraints", count, constraints
        )
    yield admitted_at_once(f"{count:,} tasks with an amount", count, 0, gpu=1)
    yield admitted_at_once(f"{count:,} tasks with an amount under 10", count, 10, gpu=0.5)


def wakeup(law: str, parked: int, percent: int) -> Case:
    gaps: list[float] = []
    released_at = 0.0

    async def pass_on(x: int) -> int:
        nonlocal released_at
        # The first one holds the slot until all others are parked.
        if x:
            gaps.append(perf_counter() - released_at)
            await checkpoint()
        else:
            await anyio.sleep(parked * 5e-5)
        released_at = perf_counter()
        return x

    task = cs.task(pass_on)

    def build() -> list[cs.LazyResult[int]]:
        return [task(x).with_constraints(slot=1) for x in range(parked + 1)]

    async def by_hand() -> list[int]:
        lock = anyio.Lock()
        results = [0] * (parked + 1)

        async def run(x: int) -> None:
            async with lock:
                results[x] = await pass_on(x)

        async with anyio.create_task_group() as group:
            for x in range(parked + 1):
                group.start_soon(run, x)
        return results

    def percentile() -> float:
        value = quantiles(gaps, n=100)[percent - 1]
        gaps.clear()
        return value

    return Case(
        law,
        "wakeup",
        1,
        build,
        by_hand,
        list(range(parked + 1)),
        engine=lambda: cs.Engine(system_resources={"slot": 1}),
        seconds=percentile,
    )


def admitted_at_once(law: str, count: int, constraints: int, **amounts: float) -> Case:
    def engine() -> cs.Engine:
        engine = cs.Engine(system_resources={"gpu": 1})
        for k in range(constraints):
            scope = f"task:{PATTERNS[k // 2]}"
            if k % 2:
                engine.constraints.limit_rate(scope, 10**9, burst=10**6)
            else:
                engine.constraints.limit_concurrency(scope, 100)
        return engine

    def build() -> list[cs.LazyResult[int]]:
        nodes = [inc(x) for x in range(count)]
        return [node.with_constraints(**amounts) for node in nodes] if amounts else nodes

    async def by_hand() -> list[int]:
        return [inc.func(x) for x in range(count)]

    expected = list(range(1, count + 1))
    return Case(law, "task", count, build, by_hand, expected, engine=engine)
