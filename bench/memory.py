"""A loop of ten million iterations leaves memory as it was; 100,000 waiters take 100 MB at most.

So does a map over a million items, a hundred at a time, but for its results. A first part warms
everything up; what is shown is the growth of resident pages and objects from there to the end.
Waiters are items of a map that a pause holds up.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio

import cascade as cs
from harness import Backend

PAGE = 4096


@cs.task
def step(n: int, marks: list[tuple[float, int]], at: frozenset[int]) -> Any:
    if n in at:
        gc.collect()
        marks.append((resident(), len(gc.get_objects())))
    return cs.Jump("exit") if n == 0 else cs.Jump("again", n - 1)


@cs.task
def look(n: int, marks: list[tuple[float, int]], at: frozenset[int]) -> None:
    if n in at:
        gc.collect()
        marks.append((resident(), len(gc.get_objects())))


@cs.task
async def held_up(n: int) -> int:
    return n


def resident() -> float:
    """The megabytes of this process that are in memory (Linux; elsewhere 0)."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * PAGE / 1e6 if statm.exists() else 0.0


def lines(backend: Backend, quick: bool) -> Iterator[str]:
    """One line for the growth over a loop, one over a map, and one for what waiters take."""
    yield loop_line(backend, quick)
    yield map_line(backend, quick)
    yield waiting_line(backend, quick)


def loop_line(backend: Backend, quick: bool) -> str:
    """The growth over the last nine tenths of a loop."""
    count = 2_000 if quick else 10_000_000
    marks: list[tuple[float, int]] = []
    node = step(count, marks, frozenset({count - count // 10, 0}))
    loop = cs.bind(node, cs.select_jump({"again": node, "exit": None}))
    cs.run(loop, use_vm=True, backend=backend)
    (before, objects), (after, left) = marks
    return (
        f"memory over {count:,} iterations, {backend}, vm: "
        f"{after - before:+.2f} MB resident, {left - objects:+d} objects"
    )


def map_line(backend: Backend, quick: bool) -> str:
    """The growth over the last nine tenths of a map, beside that of a list of its results."""
    count = 2_000 if quick else 1_000_000
    marks: list[tuple[float, int]] = []
    at = frozenset({count // 10, count - 1})
    mapped = look.map(
        n=cs.lazily(n for n in range(count)), marks=cs.unmapped(marks), at=cs.unmapped(at)
    )
    cs.run(mapped.with_concurrency(100), use_vm=True, backend=backend)
    (before, objects), (after, left) = marks
    return (
        f"memory over {count:,} items of a generator, 100 at a time, {backend}, vm: "
        f"{after - before:+.2f} MB resident ({count * 0.9 * 8 / 1e6:.2f} of it results), "
        f"{left - objects:+d} objects"
    )


def waiting_line(backend: Backend, quick: bool) -> str:
    """How much more there is while so many items wait than before their run."""
    count = 200 if quick else 100_000

    async def main() -> float:
        engine = cs.Engine()
        engine.constraints.pause("task:held_up")
        gc.collect()
        before = resident()
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: engine.run(held_up.map(n=range(count)), use_vm=True))
            while engine.constraints.statistics().parked < count:
                await anyio.sleep(0.01)
            taken = resident() - before
            group.cancel_scope.cancel()
        return taken

    taken = anyio.run(main, backend=backend)
    return f"memory of {count:,} waiters, {backend}, vm: {taken:+.2f} MB resident; aim 100 MB"
