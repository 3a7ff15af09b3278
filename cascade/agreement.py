"""Whether two runs of one program agree: what is compared between the strategies, and what is free.

Compared are the value, or the type, message and cause of the error; the attempts, skips and
retries of each node in order; and the resources. Free are times, blocking, and, once a run
fails or is cancelled, what the other nodes had done until then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cascade.engine import run
from cascade.events import (
    Event,
    MessageBus,
    ResourceAcquired,
    ResourceReleased,
    TaskEvent,
    TaskExecutionFinished,
    TaskExecutionStarted,
    TaskRetrying,
    TaskSkipped,
)
from cascade.executor import LocalExecutor
from cascade.graph import Node

Told = tuple[str, tuple[Any, ...]]


@dataclass(slots=True)
class Observation:
    """What is to be the same under both strategies."""

    value: Any = None
    error: tuple[Any, ...] | None = None
    events: dict[str, list[Told]] = field(default_factory=dict)  # by task id, in order
    resources: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)

    def watch(self, bus: MessageBus) -> None:
        """Take down what the bus tells."""
        for kind in (TaskExecutionStarted, TaskExecutionFinished, TaskRetrying, TaskSkipped):
            bus.subscribe(kind, self._told)
        bus.subscribe(ResourceAcquired, self._resource)
        bus.subscribe(ResourceReleased, self._resource)

    def failed(self, error: BaseException) -> None:
        """Take down how the run failed."""
        self.error = (*_described(error), _described(error.__cause__))

    def _told(self, event: Event) -> None:
        assert isinstance(event, TaskEvent)
        self.events.setdefault(event.task_id, []).append((type(event).__name__, _fields(event)))

    def _resource(self, event: Event) -> None:
        self.resources[f"{type(event).__name__} {event.resource_name}"] += 1  # type: ignore[attr-defined]

    def differences(self, other: Observation) -> list[str]:
        """What is not the same, one line for each."""
        found = []
        if self.error != other.error:
            found.append(f"error: {self.error!r} and {other.error!r}")
        if self.error is not None or other.error is not None:
            return found
        if not _same(self.value, other.value):
            found.append(f"value: {self.value!r} and {other.value!r}")
        for task_id in {**self.events, **other.events}:
            mine, theirs = self.events.get(task_id, []), other.events.get(task_id, [])
            if mine != theirs:
                found.append(f"events of {task_id}: {mine} and {theirs}")
        for what, mine_counted, their_counted in (
            ("resources", self.resources, other.resources),
            ("calls", self.calls, other.calls),
        ):
            if mine_counted != their_counted:
                found.append(
                    f"{what}: {mine_counted - their_counted} and {their_counted - mine_counted}"
                )
        return found


class _RecordingExecutor(LocalExecutor):
    def __init__(self, calls: Counter[str]) -> None:
        self._calls = calls

    async def execute(self, node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        named = {name: _text(value) for name, value in sorted(kwargs.items())}
        self._calls[f"{node.name}{tuple(map(_text, args))}{named}"] += 1
        return await super().execute(node, args, kwargs)


def compare(make_target: Callable[[], Any], options: Mapping[str, Any]) -> list[str]:
    """How the strategies differ on a program, one line for each difference.

    Each runs it twice, with the options of `cs.run`: as it is, and with an executor that takes
    down the arguments of calls.
    """
    found = []
    for record_calls in (False, True):
        graph, vm = (_observed(make_target, options, vm, record_calls) for vm in (False, True))
        found += [f"graph and VM differ in {line}" for line in graph.differences(vm)]
    return found


def _observed(
    make_target: Callable[[], Any], options: Mapping[str, Any], use_vm: bool, record_calls: bool
) -> Observation:
    seen = Observation()
    bus = MessageBus()
    seen.watch(bus)
    given: dict[str, Any] = {
        name: value() if callable(value) else value for name, value in options.items()
    }
    if record_calls:
        given["executor"] = _RecordingExecutor(seen.calls)
    try:
        seen.value = run(make_target(), use_vm=use_vm, bus=bus, **given)
    except Exception as error:
        seen.failed(error)
    return seen


def _fields(event: TaskEvent) -> tuple[Any, ...]:
    free = {"run_id", "timestamp", "task_id", "duration", "delay"}
    names = [name for name in event.__dataclass_fields__ if name not in free]
    values = [getattr(event, name) for name in names]
    return tuple(_described(v) if isinstance(v, BaseException) else v for v in values)


def _described(error: BaseException | None) -> tuple[Any, ...]:
    return () if error is None else (type(error), str(error))


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other) or _text(one) == _text(other)
    except Exception:
        return type(one) is type(other)


def _text(value: Any) -> str:
    """A value as text, free of addresses as far as its `repr` is."""
    kind = type(value)
    return (
        f"<{kind.__name__}>" if getattr(kind, "__repr__", None) is object.__repr__ else repr(value)
    )
