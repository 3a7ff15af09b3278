"""What each task did and waited for, reconstructed from events.

A run is a list of *executions*, each of one node: from when it was ready (it was parked, or its
first attempt started) to the end of its last attempt. An execution consists of *spans*: parked at
the gate, waiting for a retry, running. Before it, the task waited for its inputs: since the run
began or, in a loop, since its execution before.

Events may be missing at the front: an attempt that is known only by its end began its duration
earlier. What is not over when the events end lasts until then; if the run is not over, it is open.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cascade.events import (
    Event,
    ResourceAcquired,
    ResourceReleased,
    RunFinished,
    RunStarted,
    TaskBlocked,
    TaskEvent,
    TaskExecutionFinished,
    TaskExecutionStarted,
    TaskRecovered,
    TaskRetrying,
    TaskSkipped,
    TaskStalled,
)
from cascade.plain import text_of, type_name

PARKED: Final = "parked"
RETRYING: Final = "retrying"
RUNNING: Final = "running"


@dataclass(slots=True)
class Span:
    """Part of an execution. `about` says what blocked it, or how an attempt failed.

    `is_answered`: the attempt failed, and its node has a value all the same.
    """

    kind: str
    start: float
    end: float
    attempt: int
    about: str = ""
    status: str = ""  # of an attempt: "Succeeded", "Failed", "Cancelled"
    is_open: bool = False
    is_answered: bool = False

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.end - self.start


@dataclass(slots=True)
class Execution:
    """One execution of one node; `waited_since` is when its waiting for inputs began."""

    task_id: str
    task_name: str
    waited_since: float
    spans: list[Span] = field(default_factory=list)

    @property
    def start(self) -> float:
        return self.spans[0].start

    @property
    def end(self) -> float:
        return self.spans[-1].end

    @property
    def status(self) -> str:
        """How it ended, or "Running" or "Waiting" where the events end before it.

        It is "Cancelled" if the run ended while it waited at the gate or for a retry, "Recovered"
        if it failed and a fallback or `.settled()` answers that.
        """
        last = self.spans[-1]
        if last.is_answered:
            return "Recovered"
        if last.is_open:
            return "Running" if last.kind == RUNNING else "Waiting"
        return last.status or "Cancelled"

    @property
    def attempts(self) -> int:
        return sum(span.kind == RUNNING for span in self.spans)

    def total(self, kind: str) -> float:
        """The seconds spent in spans of a kind."""
        return sum(span.duration for span in self.spans if span.kind == kind)


@dataclass(slots=True)
class Held:
    """A resource that was set up, until it was torn down."""

    name: str
    start: float
    end: float


@dataclass(slots=True)
class RunRecord:
    """One run: what was executed, in the order of beginning, and what else happened in it."""

    run_id: str
    start: float
    end: float
    target: str = ""
    status: str = "Running"
    error: str = ""
    executions: list[Execution] = field(default_factory=list)
    skips: list[TaskSkipped] = field(default_factory=list)
    stalls: list[TaskStalled] = field(default_factory=list)
    recoveries: list[TaskRecovered] = field(default_factory=list)
    resources: list[Held] = field(default_factory=list)


def runs_of(events: Iterable[Event]) -> list[RunRecord]:
    """The runs that these events are about, in the order of their first events."""
    readers: dict[str, _Reader] = {}
    for event in events:
        reader = readers.get(event.run_id)
        if reader is None:
            reader = readers[event.run_id] = _Reader(event)
        reader.read(event)
    return [reader.finish() for reader in readers.values()]


def failure_text(error: BaseException | None) -> str:
    """The type and the message of an error, as a report shows them; nothing for none."""
    return "" if error is None else f"{type_name(type(error))}: {text_of(error)}".removesuffix(": ")


class _Reader:
    """The events of one run, read one by one."""

    def __init__(self, first: Event) -> None:
        self._run = RunRecord(first.run_id, first.timestamp, first.timestamp)
        self._last: dict[str, Execution] = {}  # of each node
        self._held: dict[str, list[Held]] = {}

    def read(self, event: Event) -> None:
        run = self._run
        run.end = max(run.end, event.timestamp)
        match event:
            case RunStarted():
                run.target = event.target
            case RunFinished():
                run.status = event.status
                run.error = failure_text(event.error)
                run.start = min(run.start, event.timestamp - event.duration)
            case ResourceAcquired():
                held = Held(event.resource_name, event.timestamp, event.timestamp)
                run.resources.append(held)
                self._held.setdefault(event.resource_name, []).append(held)
            case ResourceReleased():
                held_before = self._held.get(event.resource_name)
                if held_before:
                    held_before.pop().end = event.timestamp
            case TaskSkipped():
                run.skips.append(event)
            case TaskStalled():
                run.stalls.append(event)
            case TaskRecovered():
                run.recoveries.append(event)
                self._answer(event)
            case TaskBlocked():
                self._begin(event, PARKED, self._attempt_of(event), event.reason)
            case TaskExecutionStarted():
                self._begin(event, RUNNING, event.attempt)
            case TaskExecutionFinished():
                self._finish_attempt(event)
            case TaskRetrying():
                about = f"after {failure_text(event.error)}"
                self._begin(event, RETRYING, event.attempt + 1, about)

    def finish(self) -> RunRecord:
        for execution in self._last.values():
            span = execution.spans[-1]
            if not span.status:
                span.end, span.is_open = self._run.end, self._run.status == "Running"
        for held in (each for stack in self._held.values() for each in stack):
            held.end = self._run.end
        self._run.executions.sort(key=lambda execution: execution.start)
        return self._run

    def _attempt_of(self, event: TaskBlocked) -> int:
        """Which attempt is parked: the one announced, or that of a new execution."""
        last = self._last.get(event.task_id)
        return 1 if last is None or last.spans[-1].status else last.spans[-1].attempt

    def _begin(self, event: TaskEvent, kind: str, attempt: int, about: str = "") -> Span:
        """A span begins now, and the one before it ends."""
        now = event.timestamp
        before = self._last.get(event.task_id)
        if before is None:
            execution = self._new(event, min(self._run.start, now))
        elif before.spans[-1].status and attempt <= before.spans[-1].attempt:
            execution = self._new(event, before.end)  # a loop came to the node again
        else:
            execution = before
            if not before.spans[-1].status:
                before.spans[-1].end = now
        span = Span(kind, now, now, attempt, about)
        execution.spans.append(span)
        return span

    def _new(self, event: TaskEvent, waited_since: float) -> Execution:
        execution = Execution(event.task_id, event.task_name, waited_since)
        self._last[event.task_id] = execution
        self._run.executions.append(execution)
        return execution

    def _answer(self, event: TaskRecovered) -> None:
        """The attempt that failed is answered; of a loop that did not end there is none."""
        last = self._last.get(event.task_id)
        if last is not None and last.spans[-1].status == "Failed":
            last.spans[-1].is_answered = True

    def _finish_attempt(self, event: TaskExecutionFinished) -> None:
        last = self._last.get(event.task_id)
        span = last.spans[-1] if last else None
        if span is None or span.kind != RUNNING or span.status:  # its beginning was not recorded
            span = self._begin(event, RUNNING, span.attempt if span and not span.status else 1)
            span.start = event.timestamp - event.duration
        span.end = event.timestamp
        span.status = event.status
        if event.status != "Cancelled":  # the message of the event loop's own says nothing
            span.about = failure_text(event.error)
