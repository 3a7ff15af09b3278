"""What a run tells: frozen event records, and the bus that hands them to subscribers.

Nobody listening costs nothing: whoever publishes asks `bus.listens(kind)` first, which is one
dictionary look-up.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from cascade.plain import brief

logger = logging.getLogger("cascade")


@dataclass(frozen=True, slots=True)
class Event:
    """Anything published: in which run, and when (`anyio.current_time()`, seconds)."""

    run_id: str
    timestamp: float


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """A run begins; `target` is the name of its target's task, `params` what was given."""

    target: str
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    """A run is over; `status` is "Succeeded", "Failed" or "Cancelled".

    `duration` is in seconds; `error` is what the run failed with, or None.
    """

    status: str
    duration: float
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class ResourceAcquired(Event):
    """The resource `resource_name` was set up; what injects it may start."""

    resource_name: str


@dataclass(frozen=True, slots=True)
class ResourceReleased(Event):
    """The resource `resource_name` was torn down, whether or not that failed."""

    resource_name: str


@dataclass(frozen=True, slots=True)
class TaskEvent(Event):
    """Something that happens to one node; the base of all task events.

    `task_id` is `name#k`, k its position in plan order, after the ids of the map items, loops and
    tail calls around it: `pages#2[7]/fetch#0`. It is the same in each iteration and under both
    strategies.
    """

    task_id: str
    task_name: str


@dataclass(frozen=True, slots=True)
class TaskBlocked(TaskEvent):
    """The attempt waits; `reason` names the constraint or capacity that denied it.

    Published once each time an attempt is parked.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class TaskExecutionStarted(TaskEvent):
    """An attempt starts; attempts count from 1."""

    attempt: int


@dataclass(frozen=True, slots=True)
class TaskExecutionFinished(TaskEvent):
    """An attempt is over; `status` is "Succeeded", "Failed" or "Cancelled".

    `duration` is in seconds; `error` is the exception it ended with, or None.
    """

    status: str
    duration: float
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class TaskRetrying(TaskEvent):
    """Attempt number `attempt` failed with `error`; the next one follows after `delay` seconds."""

    attempt: int
    max_attempts: int
    delay: float
    error: BaseException


@dataclass(frozen=True, slots=True)
class TaskRecovered(TaskEvent):
    """The last attempt failed with `error`, and the node, or item, has a value all the same.

    That of its fallback, which may be still to come, or a `cs.Outcome`.
    """

    error: Exception


@dataclass(frozen=True, slots=True)
class TaskSkipped(TaskEvent):
    """The task does not run; `reason` says why.

    "ConditionFalse": a `run_if` does not hold. "UpstreamSkipped_Condition", "_Sequence", "_Data"
    or "_Route": it needs a node that was skipped. "Pruned": only an unchosen route of a Router
    leads to it. "CacheHit": the cache had its value.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class TaskStalled(TaskEvent):
    """An inline sync task held the event loop for `duration` seconds of real time, above 0.1."""

    duration: float

    @property
    def message(self) -> str:
        """What happened and what to do about it."""
        return (
            f"task {self.task_name!r} held the event loop for {self.duration:.3f} s; "
            'make it @cs.task(mode="thread") or "process" so that others can run'
        )


def _write_slots(kind: type[Event]) -> None:
    """Have events of this class made in half the time: `object.__setattr__` looks each slot up."""
    names = [field.name for field in fields(kind)]
    scope = {f"set_{name}": getattr(kind, name).__set__ for name in names}
    lines = [f"    set_{name}(self, {name})" for name in names]
    exec("\n".join([f"def __init__(self, {', '.join(names)}):", *lines]), scope)
    init: Any = scope["__init__"]
    init.__annotations__ = kind.__init__.__annotations__
    init.__qualname__ = f"{kind.__qualname__}.__init__"
    kind.__init__ = init  # type: ignore[method-assign]


for _kind in (TaskExecutionStarted, TaskExecutionFinished):  # in each iteration of a loop
    _write_slots(_kind)

EventT = TypeVar("EventT", bound=Event)
Handler = Callable[[Any], object]


class MessageBus:
    """Hands each event to the subscribers of its class and of its base classes, in order.

    A subscriber that raises is logged under `cascade` and counted in `failures`; it never stops
    a run. KeyboardInterrupt and SystemExit, which are for the whole program, end the run that the
    event is about, as its failure. Handlers are plain functions, called on the event loop's thread.

    >>> import cascade as cs
    >>> bus = cs.MessageBus()
    >>> unsubscribe = bus.subscribe(cs.TaskSkipped, lambda event: print(event.reason))
    >>> bus.publish(cs.TaskSkipped("run", 0.0, "f#0", "f", "Pruned"))
    Pruned
    >>> unsubscribe()
    """

    def __init__(self) -> None:
        self._subscriptions: list[tuple[type[Event], Handler]] = []
        self._by_class: dict[type[Event], tuple[Handler, ...]] = {}
        self._watchers: list[Callable[[], None]] = []
        self._runs: dict[str, Callable[[BaseException], None]] = {}
        self.failures = 0
        self.hears_tasks = False  # whether any event of a task would be received by anybody

    def subscribe(
        self, event_type: type[EventT], handler: Callable[[EventT], object]
    ) -> Callable[[], None]:
        """Call `handler(event)` for every event of `event_type`; returns the unsubscriber.

        Raises `TypeError` for a class that is no event, and for an async handler.
        """
        if not (isinstance(event_type, type) and issubclass(event_type, Event)):
            raise TypeError(f"{event_type!r} is no event class; subscribe to cs.Event for all")
        if not callable(handler) or inspect.iscoroutinefunction(handler):
            raise TypeError(f"the handler {handler!r} must be a plain function of one event")
        subscription = (event_type, handler)
        self._subscriptions.append(subscription)
        self._changed()

        def unsubscribe() -> None:
            kept = [entry for entry in self._subscriptions if entry is not subscription]
            if len(kept) != len(self._subscriptions):
                self._subscriptions = kept
                self._changed()

        return unsubscribe

    def listens(self, event_type: type[Event]) -> bool:
        """Whether anybody would receive an event of exactly this class."""
        return bool(self.handlers(event_type))

    def publish(self, event: Event) -> None:
        """Hand `event` to everybody who subscribed to its class or to a base of it."""
        self.deliver(event, self.handlers(type(event)))

    def deliver(self, event: Event, handlers: tuple[Handler, ...]) -> None:
        """Hand `event` to the handlers of its class."""
        for handler in handlers:
            try:
                handler(event)
            except BaseException as error:
                self.failures += 1
                logger.exception("subscriber %s failed on %s", brief(handler), brief(event))
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    self._runs.get(event.run_id, _raised)(error)

    def enter_run(self, run_id: str, end: Callable[[BaseException], None]) -> None:
        """A run begins that `end` ends: no subscriber may break off what the run is about to do."""
        self._runs[run_id] = end

    def leave_run(self, run_id: str) -> None:
        """The run has published its last event."""
        self._runs.pop(run_id, None)

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed()` whenever the subscriptions change; returns the function that stops it.

        Fast paths that hold because nobody listens are left this way, without asking each time.
        """
        self._watchers.append(changed)

        def unwatch() -> None:
            if changed in self._watchers:
                self._watchers.remove(changed)

        return unwatch

    def handlers(self, event_type: type[Event]) -> tuple[Handler, ...]:
        """Who would receive an event of exactly this class."""
        handlers = self._by_class.get(event_type)
        if handlers is None:
            handlers = tuple(h for kind, h in self._subscriptions if issubclass(event_type, kind))
            self._by_class[event_type] = handlers
        return handlers

    def _changed(self) -> None:
        self._by_class = {}
        self.hears_tasks = any(
            issubclass(kind, TaskEvent) or issubclass(TaskEvent, kind)
            for kind, _ in self._subscriptions
        )
        for changed in tuple(self._watchers):
            changed()


def _raised(error: BaseException) -> None:
    raise error


def check_bus(bus: object) -> None:
    """Raise `TypeError` for what cannot be subscribed to, such as the engine that has the bus."""
    if not callable(getattr(bus, "subscribe", None)):
        raise TypeError(f"{bus!r} is no MessageBus; that of an engine is engine.bus")
