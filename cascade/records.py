"""What a run told, kept: a recorder for a bus, events as plain data, and as a trace."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from heapq import heappop, heappush
from types import TracebackType
from typing import Any, Final

from cascade.events import Event, MessageBus
from cascade.plain import plain, plain_mapping, text_of, type_name
from cascade.timeline import PARKED, RETRYING, RUNNING, Execution, RunRecord, Span, runs_of

LIMIT: Final = 100_000
_TITLES: Final = {PARKED: "waits", RETRYING: "waits to retry"}


class Recording:
    """The events of a bus from now on: the last `limit`; `dropped` counts the ones before.

    As a context manager it stops at the end, as `stop()` does. Iterating gives the events in order.
    """

    def __init__(self, bus: MessageBus, limit: int = LIMIT) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ValueError(f"limit={limit!r} must be a whole number of events above 0")
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

    Raises `ValueError` for a `limit` that is not a whole number above 0.

    >>> import cascade as cs
    >>> bus = cs.MessageBus()
    >>> with record(bus) as recording:
    ...     bus.publish(cs.RunStarted("run", 0.0, "target", {}))
    >>> recording, [type(event).__name__ for event in recording]
    (<Recording of 1 events, 0 dropped>, ['RunStarted'])
    """
    return Recording(bus, limit)


def event_to_json(event: Event) -> dict[str, Any]:
    """An event as data that `json.dumps` takes: its class as `event`, and its fields.

    An error is its type and its message; other values are plain data, or told by their type.

    >>> import cascade as cs
    >>> event_to_json(cs.TaskSkipped("run", 0.5, "a#0", "a", "CacheHit"))["event"]
    'TaskSkipped'
    """
    told: dict[str, Any] = {"event": type(event).__name__}
    for each in fields(event):
        told[each.name] = _field(getattr(event, each.name))
    return told


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
    written: list[dict[str, Any]] = []
    for number, run in enumerate(runs_of(events), 1):
        written += _trace_of(run, number)
    return {"displayTimeUnit": "ms", "traceEvents": written}


def _trace_of(run: RunRecord, pid: int) -> Iterator[dict[str, Any]]:
    yield _named("process_name", pid, 0, f"{run.target or 'run'} {run.run_id}")
    yield _named("thread_name", pid, 0, "run")
    about = {"status": run.status, **({"error": run.error} if run.error else {})}
    yield _slice(run.target or "run", "run", pid, 0, run.start, run.end, about)
    lanes = 0
    for lane, execution in _in_lanes(run.executions):
        if lane > lanes:
            lanes = lane
            yield _named("thread_name", pid, lane, f"lane {lane}")
        for span in execution.spans:
            yield _slice(
                _title(execution, span),
                span.kind,
                pid,
                lane,
                span.start,
                span.end,
                _about(execution, span),
            )
    for skip in run.skips:
        yield _mark(skip.task_id, "skipped", pid, skip.timestamp, {"reason": skip.reason})
    for stall in run.stalls:
        yield _mark(stall.task_id, "stalled", pid, stall.timestamp, {"message": stall.message})
    for number, held in enumerate(run.resources):
        both = {"cat": "resource", "name": held.name, "id": number, "pid": pid, "tid": 0}
        yield {"ph": "b", "ts": _micros(held.start), **both}
        yield {"ph": "e", "ts": _micros(held.end), **both}


def _in_lanes(executions: Iterable[Execution]) -> Iterator[tuple[int, Execution]]:
    """Each execution with the first lane, from 1, that is free when it begins."""
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    count = 0
    for execution in executions:  # in the order of their beginnings
        while busy and busy[0][0] <= execution.start:
            heappush(free, heappop(busy)[1])
        if free:
            lane = heappop(free)
        else:
            count += 1
            lane = count
        heappush(busy, (execution.end, lane))
        yield lane, execution


def _title(execution: Execution, span: Span) -> str:
    if span.kind == RUNNING:
        return execution.task_name
    return f"{execution.task_name} {_TITLES[span.kind]}"


def _about(execution: Execution, span: Span) -> dict[str, Any]:
    about: dict[str, Any] = {"task_id": execution.task_id, "attempt": span.attempt}
    if span.kind == PARKED:
        about["reason"] = span.about
    elif span.about:
        about["error"] = span.about
    if span.status:
        about["status"] = span.status
    if span.is_open:
        about["is_open"] = True
    return about


def _slice(
    name: str,
    category: str,
    pid: int,
    tid: int,
    start: float,
    end: float,
    about: dict[str, Any],
) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "pid": pid,
        "tid": tid,
        "ts": _micros(start),
        "dur": _micros(end - start),
        "args": about,
    }


def _mark(name: str, category: str, pid: int, when: float, about: dict[str, Any]) -> dict[str, Any]:
    place = {"pid": pid, "tid": 0, "s": "p"}
    return {"ph": "i", "name": name, "cat": category, "ts": _micros(when), "args": about, **place}


def _named(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}}


def _micros(seconds: float) -> float:
    return round(seconds * 1e6, 3)
