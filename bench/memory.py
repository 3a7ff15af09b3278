"""A loop of ten million iterations leaves memory as it was: resident pages and objects.

So does a map over a million items, a hundred at a time, but for its results. A first part warms
everything up; what is shown is the growth from there to the end.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def resident() -> float:
    """The megabytes of this process that are in memory (Linux; elsewhere 0)."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * PAGE / 1e6 if statm.exists() else 0.0


def lines(backend: Backend, quick: bool) -> Iterator[str]:
    """One line for the growth of each measure."""
    yield loop_line(backend, quick)
    yield map_line(backend, quick)


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
