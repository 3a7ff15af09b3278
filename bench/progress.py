"""Showing progress slows a hot loop by at most 5 percent.

The same loop is run with and without in turns; the display writes to a string.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from io import StringIO
from statistics import median
from time import process_time
from typing import Any

import anyio
from rich.console import Console

import cascade as cs
from harness import MIN_ROUNDS, Backend
from law_loop import count_down, looped


async def seconds(target: Any, shown: bool) -> float:
    """The processor time of one run, on an engine that knows it."""
    engine = cs.Engine()
    console = Console(file=StringIO(), force_terminal=True, width=100)
    await engine.run(looped(count_down(100)), use_vm=True)
    began = process_time()
    if shown:
        async with cs.Progress(engine, console=console):
            await engine.run(target, use_vm=True)
    else:
        await engine.run(target, use_vm=True)
    return process_time() - began


def lines(backend: Backend, quick: bool) -> Iterator[str]:
    """One line for what the display costs."""
    count = 2_000 if quick else 2_000_000
    target = looped(count_down(count))
    ratios = []
    for _ in range(1 if quick else MIN_ROUNDS):
        plain, shown = [
            anyio.run(partial(seconds, target, show), backend=backend) for show in (False, True)
        ]
        ratios.append(shown / plain)
    more = (median(ratios) - 1) * 100
    yield f"progress shown during {count:,} iterations, {backend}, vm: {more:+.1f} percent of time"
