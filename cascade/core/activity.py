"""What one run is doing, as plain counters: kept where calls start and end, read by a display.

A run keeps them if somebody hears of it through `Engine.on_run` when it is made; otherwise
`Run.activity` is None, and all it costs is to ask that. Counters are sampled, not told of: whoever
shows them subscribes to no event of tasks, and so leaves every fast path as it is.

Tasks of one name are counted together, whichever node, map item or iteration they belong to.
"""

from __future__ import annotations

from collections.abc import Callable


class TaskActivity:
    """The counters of all calls of the tasks of one name."""

    __slots__ = (
        "cached",
        "cancelled",
        "failed",
        "items",
        "items_done",
        "parked",
        "recovered",
        "restarted",
        "retried",
        "started",
        "succeeded",
    )

    def __init__(self) -> None:
        self.started = 0  # attempts
        self.succeeded = 0
        self.failed = 0
        self.cancelled = 0
        self.recovered = 0  # calls that failed for good, which a policy answers
        self.retried = 0  # failed attempts after which another is to follow
        self.restarted = 0  # those others, once they start or are parked
        self.cached = 0  # cache hits
        self.parked: dict[str, int] = {}  # how many wait at the gate now, by what blocked them
        self.items = 0  # of maps, known when a map starts
        self.items_done = 0


class Activity:
    """The counters of one run, from when it begins until it has a status.

    >>> activity = Activity("run", print)
    >>> activity.started("fetch", 1)
    >>> activity.ended("fetch", "Succeeded")
    >>> activity.tasks["fetch"].succeeded
    1
    """

    __slots__ = (
        "_on_begin",
        "began_at",
        "ended_at",
        "iterations",
        "run_id",
        "status",
        "target",
        "tasks",
    )

    def __init__(self, run_id: str, on_begin: Callable[[Activity], object]) -> None:
        self.run_id = run_id
        self.target = ""
        self.status: str | None = None  # "Succeeded", "Failed" or "Cancelled" at the end
        self.began_at = 0.0  # `anyio.current_time()`
        self.ended_at = 0.0
        self.tasks: dict[str, TaskActivity] = {}
        self.iterations: dict[str, int] = {}  # of loops, by the name of what is looped
        self._on_begin = on_begin

    # The run

    def begin(self, target: str, now: float) -> None:
        """The run of `target` begins."""
        self.target = target
        self.began_at = now
        self._on_begin(self)

    def end(self, status: str, now: float) -> None:
        """The run is over."""
        self.status = status
        self.ended_at = now

    # Calls

    def started(self, name: str, attempt: int) -> None:
        """An attempt starts; attempts count from 1."""
        task = self._task(name)
        task.started += 1
        if attempt > 1:
            task.restarted += 1

    def ended(self, name: str, status: str) -> None:
        """An attempt is over."""
        task = self._task(name)
        if status == "Succeeded":
            task.succeeded += 1
        elif status == "Failed":
            task.failed += 1
        else:
            task.cancelled += 1

    def called(self, name: str, count: int) -> None:
        """So many calls were made and have succeeded."""
        task = self._task(name)
        task.started += count
        task.succeeded += count

    def retried(self, name: str) -> None:
        """A failed attempt is going to be followed by another."""
        self._task(name).retried += 1

    def recovered(self, name: str) -> None:
        """A call has failed for good, and a policy of its node answers that."""
        self._task(name).recovered += 1

    def cached(self, name: str) -> None:
        """A call found its value in the cache."""
        self._task(name).cached += 1

    def parked(self, name: str, reason: str, attempt: int) -> None:
        """An attempt waits for capacity or a constraint."""
        task = self._task(name)
        task.parked[reason] = task.parked.get(reason, 0) + 1
        if attempt > 1:
            task.restarted += 1

    def resumed(self, name: str, reason: str, attempt: int) -> None:
        """An attempt that was parked for `reason` is about to start."""
        task = self._task(name)
        task.parked[reason] -= 1
        if not task.parked[reason]:
            del task.parked[reason]
        if attempt > 1:
            task.restarted -= 1

    # Maps and loops

    def mapped(self, name: str, items: int) -> None:
        """A map over so many items starts."""
        self._task(name).items += items

    def item_done(self, name: str) -> None:
        """An item of a map has its value."""
        self._task(name).items_done += 1

    def iterated(self, name: str, count: int = 1) -> None:
        """A loop went through `count` more iterations."""
        self.iterations[name] = self.iterations.get(name, 0) + count

    def _task(self, name: str) -> TaskActivity:
        task = self.tasks.get(name)
        if task is None:
            task = self.tasks[name] = TaskActivity()
        return task
