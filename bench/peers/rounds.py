"""Measure the works of one peer beside the same work by hand, in one process; print JSON lines.

A round times the peer between two measurements of the hand-written work, whose mean counts, so
that a slow moment of the machine hits both. A record has the medians over the rounds, and the
median of the rounds' ratios. Where a peer documents several ways to do a work, each is tried and
the fastest is measured. Every value is checked; a wrong one is no result.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from inspect import iscoroutinefunction
from statistics import median
from time import perf_counter
from typing import Any

from work import FULL, QUICK, Run, Size, Work, WorkName, check, works

MIN_ROUNDS = 7
WORK_SECONDS = 1.0  # further rounds are made until these have passed
ROUND_SECONDS = 0.02  # shorter work is repeated within a round


@dataclass(frozen=True, slots=True)
class Way:
    """One way to do a work in a peer; `by_user` if what limits it is the user's own code."""

    how: str
    run: Run
    by_user: bool = False


@dataclass(frozen=True, slots=True)
class NotOffered:
    """A peer has no notion of a work; `instead` is what its users do."""

    instead: str


Offer = Callable[[Size], Sequence[Way]] | NotOffered


@dataclass(frozen=True, slots=True)
class Peer:
    """A row of the table: how each work is done, and the packages whose versions count."""

    name: str
    offers: Mapping[WorkName, Offer]
    packages: Sequence[str] = ()


def main(*peers: Peer) -> None:
    """The program of a peer's file: `[--quick]`."""
    parser = argparse.ArgumentParser(description="Print the measurements of a peer as JSON lines.")
    parser.add_argument("--quick", action="store_true", help="one small round of everything")
    quick = parser.parse_args().quick
    for peer in peers:
        for record in measure(peer, quick=quick):
            print(json.dumps(record), flush=True)


def measure(peer: Peer, *, quick: bool) -> Iterator[dict[str, Any]]:
    """One record for each work; `AssertionError` for a wrong value."""
    size = QUICK if quick else FULL
    about = {
        "peer": peer.name,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in peer.packages},
    }
    with asyncio.Runner() as runner:
        clock = Clock(runner, size)
        for work in works(size).values():
            offer = peer.offers[work.name]
            if isinstance(offer, NotOffered):
                yield about | {"work": work.name, "instead": offer.instead}
            else:
                yield about | measure_ways(work, offer(size), clock, quick=quick)


def measure_ways(work: Work, ways: Sequence[Way], clock: Clock, *, quick: bool) -> dict[str, Any]:
    """The record of the fastest way; the first run of each, which warms it, does not count."""
    gc.collect()
    seconds = {way.how: clock.warm(work, way.run) for way in ways}
    way = min(ways, key=lambda way: seconds[way.how])
    by_hand_seconds = clock.warm(work, work.by_hand)
    repeats = 1 if quick else repeats_of(seconds[way.how])
    by_hand_repeats = 1 if quick else repeats_of(by_hand_seconds)
    rounds: list[tuple[float, float]] = []
    deadline = perf_counter() + WORK_SECONDS
    before = clock.seconds(work, work.by_hand, by_hand_repeats)
    while not rounds or (not quick and wants_more(len(rounds), deadline)):
        ours = clock.seconds(work, way.run, repeats)
        after = clock.seconds(work, work.by_hand, by_hand_repeats)
        rounds.append((ours, (before + after) / 2))
        before = after
    return {
        "work": work.name,
        "unit": work.unit,
        "seconds": median(ours for ours, _ in rounds) / work.count,
        "by_hand": median(hand for _, hand in rounds) / work.count,
        "ratio": median(ours / hand for ours, hand in rounds),
        "rounds": len(rounds),
        "how": way.how,
        "by_user": way.by_user,
    }


def wants_more(rounds: int, deadline: float) -> bool:
    return rounds < MIN_ROUNDS or perf_counter() < deadline


def repeats_of(seconds: float) -> int:
    return max(1, int(ROUND_SECONDS / seconds))


@dataclass(frozen=True, slots=True)
class Clock:
    """Times runs, async ones within the one event loop of `runner`."""

    runner: asyncio.Runner
    size: Size

    def warm(self, work: Work, run: Run) -> float:
        """The seconds of the second run."""
        self.seconds(work, run, 1)
        return self.seconds(work, run, 1)

    def seconds(self, work: Work, run: Run, repeats: int) -> float:
        """The seconds that one run takes, checks left out."""
        if iscoroutinefunction(run):
            return self.runner.run(self._async_seconds(work, run, repeats))
        took = 0.0
        for _ in range(repeats):
            started = perf_counter()
            value = run()
            took += perf_counter() - started
            check(work, self.size, value)
        return took / repeats

    async def _async_seconds(self, work: Work, run: Callable[[], Any], repeats: int) -> float:
        took = 0.0
        for _ in range(repeats):
            started = perf_counter()
            value = await run()
            took += perf_counter() - started
            check(work, self.size, value)
        return took / repeats
