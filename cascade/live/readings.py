"""What a display shows of a run at one moment: its counters, and how fast they grow.

A `Reader` is asked at regular intervals. It keeps the last `SAMPLES` of each count, so that a rate
is that of the last seconds. Of what does not go on any more it is the rate over all the time in
which it did.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cascade.core.activity import Activity, TaskActivity

SAMPLES: Final = 40  # kept of each count: ten seconds at four a second
RESTING: Final = 2.0  # seconds without growth: what is not seen to run is at rest


@dataclass(frozen=True, slots=True)
class TaskReading:
    """The tasks of one name. `waits` says how many wait for what; `left` is in seconds.

    A call that failed and is recovered from is done, and counted as `recovered` too.
    """

    name: str
    done: int
    running: int
    waits: Mapping[str, int]
    retried: int
    failed: int
    recovered: int
    cached: int
    items: int
    items_done: int
    rate: float
    left: float | None

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(self.waits.values())

    @property
    def is_repeated(self) -> bool:
        """Whether there is more than one, so that they have a rate."""
        return self.items > 1 or self.done > 1

    @property
    def is_active(self) -> bool:
        """Whether anything of it runs or waits."""
        return bool(self.running or self.waits or self.items_done < self.items)


@dataclass(frozen=True, slots=True)
class LoopReading:
    """The loops of one name: iterations begun, and how many a second."""

    name: str
    iterations: int
    rate: float


@dataclass(frozen=True, slots=True)
class RunReading:
    """A run; `status` is None until it has ended, `elapsed` is in seconds."""

    target: str
    status: str | None
    elapsed: float
    tasks: tuple[TaskReading, ...]
    loops: tuple[LoopReading, ...]


class RecentRate:
    """How fast a count grows.

    >>> rate = RecentRate(10.0)
    >>> rate.add(12.0, 6)
    >>> rate.recent, rate.overall
    (3.0, 3.0)
    """

    def __init__(self, began_at: float) -> None:
        self._samples = deque([(began_at, 0)], maxlen=SAMPLES)
        self._began_at = began_at
        self._grew_at = began_at

    def add(self, now: float, count: int) -> None:
        """The count is `count` now."""
        if count != self._samples[-1][1]:
            self._grew_at = now
        self._samples.append((now, count))

    @property
    def recent(self) -> float:
        """Per second, over the samples that are kept."""
        (began_at, before), (now, count) = self._samples[0], self._samples[-1]
        return (count - before) / (now - began_at) if now > began_at else 0.0

    def rests(self, now: float) -> bool:
        """Whether it has not grown for a while."""
        return now >= self._grew_at + RESTING

    @property
    def overall(self) -> float:
        """Per second, from the first growth to the last."""
        seconds = self._grew_at - self._began_at
        return self._samples[-1][1] / seconds if seconds > 0 else 0.0


class Reader:
    """Reads the counters of one run, again and again."""

    def __init__(self, activity: Activity) -> None:
        self.activity = activity
        self._read_at = activity.began_at
        self._rates: dict[tuple[str, str], RecentRate] = {}

    def read(self, now: float) -> RunReading:
        """What the run is doing now, or what it came to."""
        activity = self.activity
        if activity.status is not None:
            now = activity.ended_at
        reading = RunReading(
            activity.target,
            activity.status,
            now - activity.began_at,
            tuple([self._task(name, task, now) for name, task in activity.tasks.items()]),
            tuple([self._loop(name, count, now) for name, count in activity.iterations.items()]),
        )
        self._read_at = now
        return reading

    def _task(self, name: str, task: TaskActivity, now: float) -> TaskReading:
        done = task.succeeded + task.cached + task.recovered
        remaining = task.items - task.items_done
        is_over = self.activity.status is not None
        running = 0
        waits: dict[str, int] = {}
        if not is_over:
            running = task.started - task.succeeded - task.failed - task.cancelled
            waits = dict(task.parked)
            if task.retried > task.restarted:
                waits["the next attempt"] = task.retried - task.restarted
        count = task.items_done if task.items else done
        rate = self._rate(("task", name), count, now, bool(running or waits or remaining))
        return TaskReading(
            name,
            done=done,
            running=running,
            waits=waits,
            retried=task.retried,
            failed=task.failed - task.retried - task.recovered,
            recovered=task.recovered,
            cached=task.cached,
            items=task.items,
            items_done=task.items_done,
            rate=rate,
            left=remaining / rate if remaining and rate and not is_over else None,
        )

    def _loop(self, name: str, count: int, now: float) -> LoopReading:
        return LoopReading(name, count, self._rate(("loop", name), count, now, False))

    def _rate(self, what: tuple[str, str], count: int, now: float, goes_on: bool) -> float:
        rate = self._rates.get(what)
        if rate is None:
            rate = self._rates[what] = RecentRate(self._read_at)
        rate.add(now, count)
        is_over = self.activity.status is not None
        return rate.overall if is_over or (rate.rests(now) and not goes_on) else rate.recent
