"""Measure a workflow beside the hand-written Python for the same work, in the same run.

A round times ours, then the yardstick, so that a slow moment of the machine hits both; a row is
the median over the rounds, and its ratio the median of the rounds' ratios. Every value is checked
against the expected one: a wrong answer is no result. Times include the garbage collector.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any, Literal, NamedTuple

import anyio
from anyio.lowlevel import checkpoint

import cascade as cs

Backend = Literal["asyncio", "trio"]
Start = Literal["warm", "built", "cold", "own loop"]
Work = Callable[[], Awaitable[object]]

ROUND_SECONDS = 0.02  # shorter work is repeated within a round
CASE_SECONDS = 0.6
MIN_ROUNDS = 7
CHECKPOINTS = 200  # of a round


@dataclass(frozen=True, slots=True)
class Setting:
    """Where to measure; `quick` does one round of everything, to see that it works."""

    backend: Backend
    use_vm: bool = False
    quick: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """`count` units of work: as the expression that `build` gives, and written by hand.

    "warm": built once, its structure known to the engine. "built": built anew in each round, run
    by one engine, which knows the structure. "cold": built anew and run by a new engine, all of it
    timed. "own loop": each round starts an event loop, `cs.run` beside `anyio.run`.

    `at_most` is the ratio that the virtual machine is to reach, `micros` how many microseconds a
    unit may cost more than by hand. `engine` makes the engine. `seconds` reads what counts off the
    run just done, ours or the one by hand, where that is not the time it took.
    """

    law: str
    unit: str
    count: int
    build: Callable[[], Any]
    by_hand: Work
    expected: object
    start: Start = "warm"
    at_most: float | None = None
    micros: float | None = None
    engine: Callable[[], cs.Engine] = cs.Engine
    seconds: Callable[[], float] | None = None

    @property
    def has_aim(self) -> bool:
        """Whether there is something for the virtual machine to reach."""
        return self.at_most is not None or self.micros is not None


class Sample(NamedTuple):
    """The seconds of one round: ours, the yardstick's, and of one loop checkpoint."""

    ours: float
    by_hand: float
    checkpoint: float


@dataclass(frozen=True, slots=True)
class Row:
    """Microseconds per unit, ours and by hand; `checkpoints` is ours in loop checkpoints."""

    law: str
    backend: Backend
    strategy: Literal["graph", "vm"]
    unit: str
    count: int
    ours: float
    by_hand: float
    ratio: float
    checkpoints: float
    rounds: int
    at_most: float | None
    micros: float | None

    @property
    def aim(self) -> str:
        """What the virtual machine is to reach, and whether it did."""
        if self.strategy == "graph" or (self.at_most is None and self.micros is None):
            return ""
        reached = (self.at_most is None or self.ratio <= self.at_most) and (
            self.micros is None or self.ours - self.by_hand <= self.micros
        )
        aim = f"{self.at_most}x" if self.micros is None else f"+{self.micros} us"
        return f"{aim} {'ok' if reached else 'no'}"


def measure(cases: Iterable[Case], setting: Setting) -> Iterator[Row]:
    """One row for each case, as they come; `AssertionError` for a wrong value."""
    for case in cases:
        gc.collect()
        if case.start == "own loop":
            rounds = sample_from_outside(case, setting)
        else:
            rounds = anyio.run(sample_in_one_loop, case, setting, backend=setting.backend)
        per_unit = 1e6 / case.count
        yield Row(
            law=case.law,
            backend=setting.backend,
            strategy="vm" if setting.use_vm else "graph",
            unit=case.unit,
            count=case.count,
            ours=median(r.ours for r in rounds) * per_unit,
            by_hand=median(r.by_hand for r in rounds) * per_unit,
            ratio=median(r.ours / r.by_hand for r in rounds),
            checkpoints=median(r.ours / r.checkpoint for r in rounds) / case.count,
            rounds=len(rounds),
            at_most=case.at_most,
            micros=case.micros,
        )


async def sample_in_one_loop(case: Case, setting: Setting) -> list[Sample]:
    """Rounds within one event loop, by one engine, or by a new one each if the case is cold."""
    engine, target = case.engine(), case.build()

    async def ours() -> None:
        if case.start == "cold":
            value = await case.engine().run(case.build(), use_vm=setting.use_vm)
        else:
            given = case.build() if case.start == "built" else target
            value = await engine.run(given, use_vm=setting.use_vm)
        check(case, value)

    async def by_hand() -> None:
        check(case, await case.by_hand())

    once = setting.quick or case.seconds is not None
    repeats = [1 if once else await repeats_of(work) for work in (ours, by_hand)]
    rounds: list[Sample] = []
    deadline = perf_counter() + CASE_SECONDS
    while wants_more(rounds, deadline, setting):
        rounds.append(
            Sample(
                await timed(ours, repeats[0], case.seconds),
                await timed(by_hand, repeats[1], case.seconds),
                await timed(checkpoint, CHECKPOINTS),
            )
        )
    return rounds


def sample_from_outside(case: Case, setting: Setting) -> list[Sample]:
    """Rounds that start an event loop for each run."""
    target = case.build()
    rounds: list[Sample] = []
    deadline = perf_counter() + CASE_SECONDS
    while wants_more(rounds, deadline, setting):
        started = perf_counter()
        check(case, cs.run(target, use_vm=setting.use_vm, backend=setting.backend))
        between = perf_counter()
        check(case, anyio.run(case.by_hand, backend=setting.backend))
        ended = perf_counter()
        one_checkpoint = checkpoint_seconds(setting.backend)
        rounds.append(Sample(between - started, ended - between, one_checkpoint))
    return rounds


def checkpoint_seconds(backend: Backend) -> float:
    """What `anyio.lowlevel.checkpoint()` costs on this loop: the unit that travels."""
    return anyio.run(timed, checkpoint, CHECKPOINTS, backend=backend)


def wants_more(rounds: list[Sample], deadline: float, setting: Setting) -> bool:
    """Whether the case is worth another round."""
    if setting.quick:
        return not rounds
    return len(rounds) < MIN_ROUNDS or perf_counter() < deadline


async def repeats_of(work: Work) -> int:
    """How often to repeat `work` within a round; its first run, which warms it, is not counted."""
    await work()
    return max(1, int(ROUND_SECONDS / await timed(work, 1)))


async def timed(work: Work, repeats: int, seconds: Callable[[], float] | None = None) -> float:
    """The seconds that one run of `work` takes, or those that `seconds` reads off it."""
    counted = 0.0
    started = perf_counter()
    for _ in range(repeats):
        await work()
        if seconds is not None:
            counted += seconds()
    took = perf_counter() - started if seconds is None else counted
    return took / repeats


def check(case: Case, value: object) -> None:
    """Raise `AssertionError` for a value that is not the expected one."""
    if value != case.expected:
        raise AssertionError(f"{case.law}: the value is {value!r:.80}, not {case.expected!r:.80}")


HEADINGS = ("law", "loop", "strategy", "us per", "unit", "by hand", "ratio", "checkpoints", "aim")


def heading() -> str:
    """The first line of the table."""
    return "{:<44} {:<8} {:<8} {:>9} {:<9} {:>9} {:>7} {:>11}  {:<10}".format(*HEADINGS)


def line(row: Row) -> str:
    """One row of the table."""
    return (
        f"{row.law:<44} {row.backend:<8} {row.strategy:<8} {row.ours:>9.2f} {row.unit:<9} "
        f"{row.by_hand:>9.3f} {row.ratio:>7.2f} {row.checkpoints:>11.2f}  {row.aim:<10}"
    )
