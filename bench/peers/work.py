"""The work that every peer does: how much of it, by hand, and how to tell that it was done right.

Standard library only: each peer imports this into its own virtual environment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from threading import Lock
from typing import Literal, get_args

WorkName = Literal["loop", "loop_with_chain", "chain", "fan_out", "at_once", "rate"]
WORKS: tuple[WorkName, ...] = get_args(WorkName)
Run = Callable[[], object] | Callable[[], Awaitable[object]]

BUNCHED = 3  # a machine that stalls between a grant and its start bunches this many at most


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything; the times are in seconds, the rate in starts per second."""

    loop: int = 1_000
    loop_with_chain: int = 100
    chain_in_loop: int = 20
    chain: int = 1_000
    fan_out: int = 1_000
    at_once: int = 1_000
    limit: int = 100
    nap: float = 0.01
    rate: int = 50
    per_second: int = 100


FULL = Size()
QUICK = Size(
    loop=5,
    loop_with_chain=3,
    chain_in_loop=4,
    chain=20,
    fan_out=20,
    at_once=20,
    limit=5,
    nap=0.001,
    rate=5,
    per_second=500,
)


@dataclass(frozen=True, slots=True)
class Work:
    """`count` units of one work, by hand, and the value that comes of it."""

    name: WorkName
    title: str
    unit: str
    count: int
    by_hand: Run
    expected: object


class Meter:
    """What the tasks of one run saw: how many ran at a time, and when each started."""

    def __init__(self) -> None:
        self._lock = Lock()  # some peers run their tasks in threads
        self.clear()

    def clear(self) -> None:
        self.running = self.peak = 0
        self.starts: list[float] = []

    def enter(self) -> None:
        with self._lock:
            self.running += 1
            self.peak = max(self.peak, self.running)

    def leave(self) -> None:
        with self._lock:
            self.running -= 1


METER = Meter()


def count_down(n: int) -> int:
    return n - 1


def inc(x: int) -> int:
    return x + 1


def add_up(total: int, value: int) -> int:
    return total + value


def total(values: list[int]) -> int:
    return sum(values)


async def nap(x: int, seconds: float) -> int:
    METER.enter()
    await asyncio.sleep(seconds)
    METER.leave()
    return x


def nap_in_thread(x: int, seconds: float) -> int:
    """`nap` for peers whose tasks wait in threads."""
    METER.enter()
    time.sleep(seconds)
    METER.leave()
    return x


async def start(x: int) -> int:
    METER.starts.append(time.perf_counter())
    return x


def works(size: Size) -> dict[WorkName, Work]:
    """Every work of this size, as one would write it without any library."""

    def loop() -> int:
        n = size.loop
        while n:
            n = count_down(n)
        return n

    def loop_with_chain() -> int:
        n, amount = size.loop_with_chain, 0
        while n:
            value = 0
            for _ in range(size.chain_in_loop):
                value = inc(value)
            amount = add_up(amount, value)
            n = count_down(n)
        return amount

    def chain() -> int:
        value = 0
        for _ in range(size.chain):
            value = inc(value)
        return value

    def fan_out() -> int:
        return total([inc(x) for x in range(size.fan_out)])

    async def at_once() -> int:
        gate = asyncio.Semaphore(size.limit)

        async def admitted(x: int) -> int:
            async with gate:
                return await nap(x, size.nap)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(admitted(x)) for x in range(size.at_once)]
        return total([task.result() for task in tasks])

    async def rate() -> int:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(start(0))]
            for x in range(1, size.rate):
                await asyncio.sleep(1 / size.per_second)
                tasks.append(group.create_task(start(x)))
        return total([task.result() for task in tasks])

    chained = size.loop_with_chain * size.chain_in_loop
    in_loop = f"Loop, {size.chain_in_loop} calls in each iteration"
    limited = f"{size.at_once:,} tasks, at most {size.limit} at a time"
    paced = f"{size.rate:,} tasks at {size.per_second} per second"
    every = (
        Work("loop", "Loop of one step", "iteration", size.loop, loop, 0),
        Work(
            "loop_with_chain", in_loop, "iteration", size.loop_with_chain, loop_with_chain, chained
        ),
        Work("chain", f"Chain of {size.chain:,} calls", "call", size.chain, chain, size.chain),
        Work(
            "fan_out",
            f"Fan-out of {size.fan_out:,} into one",
            "call",
            size.fan_out,
            fan_out,
            size.fan_out * (size.fan_out + 1) // 2,
        ),
        Work("at_once", limited, "run", 1, at_once, sum(range(size.at_once))),
        Work("rate", paced, "run", 1, rate, sum(range(size.rate))),
    )
    return {work.name: work for work in every}


def check(work: Work, size: Size, value: object) -> None:
    """Raise `AssertionError` if the value is wrong, or if a limit was not kept; clear the meter."""
    peak, starts = METER.peak, METER.starts
    METER.clear()
    if value != work.expected:
        raise AssertionError(f"{work.name}: the value is {value!r:.80}, not {work.expected!r}")
    if work.name == "at_once" and not 1 <= peak <= size.limit:
        raise AssertionError(f"at_once: {peak} ran at a time, not {size.limit}")
    if work.name == "rate":
        check_rate(starts, size)


def check_rate(starts: list[float], size: Size) -> None:
    """Raise `AssertionError` if a window of w seconds holds over rate * w + 1 + BUNCHED starts."""
    if len(starts) != size.rate:
        raise AssertionError(f"rate: {len(starts)} started, not {size.rate}")
    latest = float("-inf")  # how late a start was, counted from the first at full rate
    for number, at in enumerate(sorted(starts)):
        late = at - number / size.per_second
        if late < latest - BUNCHED / size.per_second:
            raise AssertionError(f"rate: start {number} came {latest - late:.4f} s early")
        latest = max(latest, late)
