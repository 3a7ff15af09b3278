"""What one run did, and whether another run of the same program did the same (section 16).

An `Observation` is all that must agree: the outcome, per node the sequence of its events with the
arguments of each attempt, and what the engine holds in the end. Free are times, `TaskBlocked`,
which of several failures at one instant is first and what siblings had done by then, and which of
the nodes that share a cached value computes it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cascade.amounts import Rate
from cascade.core.values import Deferred
from cascade.events import (
    Event,
    ResourceAcquired,
    ResourceReleased,
    RunFinished,
    RunStarted,
    TaskEvent,
    TaskExecutionFinished,
    TaskExecutionStarted,
    TaskRecovered,
    TaskRetrying,
    TaskSkipped,
)
from cascade.plain import error_text

if TYPE_CHECKING:
    from cascade.core.calls import Call
    from cascade.engine import Engine

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")
CANCELLED: Final = "cancelled"


def described(value: Any) -> str:
    """The `repr` of a value, without addresses: what two runs that make it anew have in common."""
    try:
        return _ADDRESS.sub("", repr(value))
    except Exception as error:
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"


def described_error(error: BaseException) -> str:
    """Type and message of an exception, of its cause, and of what it groups."""
    texts: list[str] = []
    todo: list[tuple[str, BaseException]] = [("", error)]
    seen: set[int] = set()
    while todo:
        relation, current = todo.pop()
        texts.append(f"{relation}{_ADDRESS.sub('', error_text(current))}")
        if id(current) in seen:
            continue
        seen.add(id(current))
        if current.__cause__ is not None:
            todo.append((" caused by ", current.__cause__))
        if isinstance(current, BaseExceptionGroup):
            todo += [(" with ", each) for each in reversed(current.exceptions)]
    return "".join(texts)


@dataclass
class Observation:
    """What a run did. `outcome` begins with "value", "failed", "cancelled" or "hangs"."""

    where: str
    outcome: str = ""
    ended: float = 0.0
    events: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # of tasks, by task_id
    resources: Counter[str] = field(default_factory=Counter)
    left: dict[str, str] = field(default_factory=dict)  # what the engine holds in the end

    @property
    def kind(self) -> str:
        """The first word of the outcome."""
        return self.outcome.partition(" ")[0].rstrip(":")


class Recorder:
    """Records one run of an engine: `with` it, give it the outcome, then ask what was `settled`."""

    def __init__(self, engine: Engine, where: str) -> None:
        self.seen = Observation(where)
        self._engine = engine
        self._run_id = ""
        self._started_at = 0.0
        self._arguments = ""
        self._exit = ExitStack()

    def __enter__(self) -> Recorder:
        self._engine.services.on_attempt = self._attempt
        self._exit.callback(self._engine.bus.subscribe(Event, self._event))
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.services.on_attempt = None
        self._exit.close()

    def returned(self, value: Any) -> None:
        """The run has a value."""
        self.seen.outcome = f"value {described(value)}"

    def failed(self, error: BaseException) -> None:
        """The run has failed."""
        self.seen.outcome = f"failed {described_error(error)}".replace(self._run_id or "\0", "...")

    def settled(self, capacity: Mapping[str, Any]) -> Observation:
        """The engine is left alone: what it holds now, beside `capacity`, should be nothing."""
        statistics = self._engine.constraints.statistics()
        left = self.seen.left
        if statistics.parked:
            left["parked"] = str(statistics.parked)
        for name, each in statistics.constraints.items():
            if each.running or each.waiting:
                left[f"constraint {name}"] = f"{each.running} running, {each.waiting} waiting"
        for name, free in statistics.free.items():
            total = capacity.get(name, 0)
            if not isinstance(total, Rate) and float(free) != float(total):
                left[f"capacity {name}"] = f"{free} of {total} free"
        for name, open_ones in self.seen.resources.items():
            if name.startswith("open ") and open_ones:
                left[name] = str(open_ones)
        return self.seen

    def _attempt(self, call: Call) -> None:
        shown = [_argument(value) for value in call.args]
        shown += [f"{name}={_argument(value)}" for name, value in call.kwargs.items()]
        self._arguments = ", ".join(shown)

    def _event(self, event: Event) -> None:
        seen = self.seen
        match event:
            case RunStarted():
                self._run_id, self._started_at = event.run_id, event.timestamp
            case RunFinished():
                seen.ended = event.timestamp - self._started_at
                # A cancelled run may have no other outcome.
                seen.outcome = CANCELLED if event.status == "Cancelled" else seen.outcome
            case ResourceAcquired():
                seen.resources[event.resource_name] += 1
                seen.resources[f"open {event.resource_name}"] += 1
            case ResourceReleased():
                seen.resources[f"open {event.resource_name}"] -= 1
            case TaskEvent():
                text = self._text(event)
                if text:
                    seen.names[event.task_id] = event.task_name
                    at = event.timestamp - self._started_at
                    seen.events.setdefault(event.task_id, []).append((at, text))

    def _text(self, event: TaskEvent) -> str:
        match event:
            case TaskExecutionStarted():
                return f"attempt {event.attempt} with ({self._arguments})"
            case TaskExecutionFinished():
                error = event.error
                if event.status == "Cancelled" or error is None:
                    return event.status
                return f"{event.status} {described_error(error)}"
            case TaskRetrying():
                return f"retrying {event.attempt} of {event.max_attempts}"
            case TaskRecovered():
                return f"recovered from {described_error(event.error)}"
            case TaskSkipped():
                return f"skipped {event.reason}"
        return ""  # TaskBlocked and TaskStalled are a matter of time


def _argument(value: Any) -> str:
    return f"<resource {value.names}>" if value.__class__ is Deferred else described(value)


def difference(first: Observation, second: Observation, *, timed: bool = False) -> str | None:
    """The first difference between two runs of one program, as text; None if they agree.

    With `timed`, a failure must come at the same time in both, and what nodes did before it must
    be the same too. That holds in virtual time if nodes wait for nothing but their own inputs.
    """
    for each in (first, second):
        if each.left:
            held = ", ".join(f"{name}: {value}" for name, value in each.left.items())
            return f"{each.where} left something behind: {held}"
    if first.kind != second.kind:
        return _difference("the outcomes differ", first, first.outcome, second, second.outcome)
    failed = first.kind != "value"
    if first.outcome != second.outcome and not (failed and _same_instant(first, second)):
        return _difference("the outcomes differ", first, first.outcome, second, second.outcome)
    if timed and failed and first.ended != second.ended:
        return _difference("they end apart", first, str(first.ended), second, str(second.ended))
    return _events_differ(first, second, failed, timed) or _resources_differ(first, second, failed)


def _same_instant(first: Observation, second: Observation) -> bool:
    """Whether another failure may have come first: one that a task did not bring, or whose task
    had not got so far, or whose task failed too."""
    return _may_be_beaten(first, second) and _may_be_beaten(second, first)


def _may_be_beaten(own: Observation, other: Observation) -> bool:
    error = own.outcome.removeprefix("failed ")
    for task_id, events in own.events.items():
        if events[-1][1] == f"Failed {error}":
            there = other.events.get(task_id, [])
            return len(there) <= len(events)
    return True


def _events_differ(
    first: Observation, second: Observation, failed: bool, timed: bool
) -> str | None:
    cached = _cached_names(first) | _cached_names(second)
    for task_id in first.events | second.events:
        name = first.names.get(task_id) or second.names[task_id]
        if name in cached:
            continue
        one, other = first.events.get(task_id, []), second.events.get(task_id, [])
        texts, others = [text for _, text in one], [text for _, text in other]
        if failed:
            agree = _is_beginning(texts, others) and not (
                timed and _before(one, first.ended) != _before(other, second.ended)
            )
        else:
            agree = texts == others
        if not agree:
            return _difference(
                f"the events of {task_id} differ", first, str(texts), second, str(others)
            )
    if failed:
        return None
    for name in sorted(cached):
        one_bag, other_bag = _bag(first, name), _bag(second, name)
        if one_bag != other_bag:
            return _difference(
                f"the events of the cached task {name!r} differ",
                first,
                str(sorted((one_bag - other_bag).elements())),
                second,
                str(sorted((other_bag - one_bag).elements())),
            )
    return None


def _cached_names(seen: Observation) -> set[str]:
    return {
        seen.names[task_id]
        for task_id, events in seen.events.items()
        if any(text == "skipped CacheHit" for _, text in events)
    }


def _bag(seen: Observation, name: str) -> Counter[str]:
    return Counter(
        text
        for task_id, events in seen.events.items()
        if seen.names[task_id] == name
        for _, text in events
    )


def _is_beginning(one: list[str], other: list[str]) -> bool:
    """Whether both may be the same sequence, cut off where the run ended."""
    one, other = _cut(one), _cut(other)
    length = min(len(one), len(other))
    return one[:length] == other[:length]


def _cut(events: list[str]) -> list[str]:
    return events[:-1] if events and events[-1] == "Cancelled" else events


def _before(events: list[tuple[float, str]], end: float) -> list[str]:
    return [text for at, text in events if at < end]


def _resources_differ(first: Observation, second: Observation, failed: bool) -> str | None:
    if failed or first.resources == second.resources:
        return None
    return _difference(
        "the resources set up differ",
        first,
        str(sorted((first.resources - second.resources).items())),
        second,
        str(sorted((second.resources - first.resources).items())),
    )


def _difference(what: str, first: Observation, one: str, second: Observation, other: str) -> str:
    width = max(len(first.where), len(second.where))
    return f"{what}\n  {first.where:{width}}: {one}\n  {second.where:{width}}: {other}"
