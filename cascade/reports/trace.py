"""Runs in the Chrome trace event format: slices with a process, a thread, and microseconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import Any, Final

from cascade.events import Event
from cascade.reports.history import (
    PARKED,
    RETRYING,
    RUNNING,
    Execution,
    RunRecord,
    Span,
    failure_text,
    runs_of,
)

_TITLES: Final = {PARKED: "waits", RETRYING: "waits to retry"}


def trace_of(events: Iterable[Event]) -> dict[str, Any]:
    """The whole trace; see `cs.chrome_trace`."""
    written: list[dict[str, Any]] = []
    for number, run in enumerate(runs_of(events), 1):
        written += _trace_of_run(run, number)
    return {"displayTimeUnit": "ms", "traceEvents": written}


def _trace_of_run(run: RunRecord, pid: int) -> Iterator[dict[str, Any]]:
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
    for each in run.recoveries:
        about = {"error": failure_text(each.error)}
        yield _mark(each.task_id, "recovered", pid, each.timestamp, about)
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
    if span.is_answered:
        about["is_recovered"] = True
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
        "dur": round(_micros(end) - _micros(start), 3),  # slices of a lane must not overlap
        "args": about,
    }


def _mark(name: str, category: str, pid: int, when: float, about: dict[str, Any]) -> dict[str, Any]:
    place = {"pid": pid, "tid": 0, "s": "p"}
    return {"ph": "i", "name": name, "cat": category, "ts": _micros(when), "args": about, **place}


def _named(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}}


def _micros(seconds: float) -> float:
    return round(seconds * 1e6, 3)
