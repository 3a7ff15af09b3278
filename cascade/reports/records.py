"""What a run published, kept: a recorder for a bus, events as plain data, and as a trace."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from types import TracebackType
from typing import Any, Final

from cascade.events import Event, MessageBus, check_bus
from cascade.plain import plain, plain_mapping, text_of, type_name

LIMIT: Final = 100_000


class Recording:
    """The events of a bus from now on: the last `limit`; `dropped` counts the ones before.

    As a context manager it stops at the end, as `stop()` does. Iterating gives the events in order.
    """

    def __init__(self, bus: MessageBus, limit: int = LIMIT) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ValueError(f"limit={limit!r} must be a whole number of events above 0")
        check_bus(bus)
        self.limit = limit
        self.dropped = 0
        self._events: deque[Event] = deque(maxlen=limit)
        self.stop = bus.subscribe(Event, self._keep)

    def _keep(self, event: Event) -> None:
        if len(self._events) == self.limit:
            self.dropped += 1
        self._events.append(event)

    def __iter__(self) -> Iterator[Event]:
        return iter(tuple(self._events))

    def __len__(self) -> int:
        return len(self._events)

    def __repr__(self) -> str:
        return f"<Recording of {len(self)} events, {self.dropped} dropped>"

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def record(bus: MessageBus, *, limit: int = LIMIT) -> Recording:
    """Keep the events of `bus` from now on, the last `limit` of them.

    Raises `ValueError` for a `limit` that is not a whole number above 0, `TypeError` for no bus.

    >>> import cascade as cs
    >>> bus = cs.MessageBus()
    >>> with cs.record(bus) as recording:
    ...     bus.publish(cs.RunStarted("run", 0.0, "target", {}))
    >>> recording, [type(event).__name__ for event in recording]
    (<Recording of 1 events, 0 dropped>, ['RunStarted'])
    """
    return Recording(bus, limit)


def event_to_json(event: Event) -> dict[str, Any]:
    """An event as data that `json.dumps` takes: its class as `event`, and its fields.

    An error is its type and its message; other values are plain data, or named by their type.

    >>> import cascade as cs
    >>> cs.event_to_json(cs.TaskSkipped("run", 0.5, "a#0", "a", "CacheHit"))["event"]
    'TaskSkipped'
    """
    data: dict[str, Any] = {"event": type(event).__name__}
    for each in fields(event):
        data[each.name] = _field(getattr(event, each.name))
    return data


def _field(value: Any) -> Any:
    if isinstance(value, BaseException):
        return {"type": type_name(type(value)), "message": text_of(value)}
    if isinstance(value, Mapping):
        return plain_mapping(value)
    return plain(value)


def chrome_trace(events: Iterable[Event]) -> dict[str, Any]:
    """The events in the Chrome trace event format, which Perfetto and chrome://tracing open.

    Each run is a process. A lane (a thread there) holds one execution at a time: its attempts,
    and what it waited for at the gate and between attempts. What waits for its inputs is no slice.
    """
    from cascade.reports.trace import trace_of

    return trace_of(events)
