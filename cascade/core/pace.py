"""How long anything of a run may hold the event loop, in one place for all that can.

A slice is what passes between two checkpoints. The clock is looked at between two batches only,
since a look costs as much as a quick step; where steps are found to be slow, batches get smaller.
"""

from __future__ import annotations

from time import perf_counter
from typing import Final, TypeVar

from anyio.lowlevel import checkpoint

from cascade.graph.slices import Work

T = TypeVar("T")

SLICE: Final = 0.004  # seconds: others wait 5 ms at most
BATCH: Final = 64  # steps, calls or starts between two looks at the clock, while they are quick


def end_of_slice() -> float:
    """When a slice that begins now is over, by `perf_counter`."""
    return perf_counter() + SLICE


async def in_slices(work: Work[T]) -> T:
    """Do the work before a run begins, letting others on the event loop run now and then."""
    slice_end = end_of_slice()
    try:
        while True:
            next(work)
            if perf_counter() >= slice_end:
                await checkpoint()
                slice_end = end_of_slice()
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        work.close()
