"""Runs as OpenTelemetry traces: a span for each run, each execution of a task, and each attempt.

    run total
      fetch                     one execution of the node, from its first attempt or its first wait
        fetch attempt 1         from TaskExecutionStarted to TaskExecutionFinished
        fetch attempt 2
      total
        total attempt 1

Theory of operation. Spans are made from events, and an event says by `run_id` and `task_id` what
it is about; the context in which a handler is called says nothing, since events come from the
driver of a run as well as from its tasks. So the open spans of a run are kept by task id, and each
parent is found there: an attempt's is the task, a task's is the nearest id around it that has a
span, else the run, whose own is the span that was current when the run was started.

No event says that a node is done. It is when an attempt succeeds or is cancelled; one that fails is
tried again, is recovered from, or ends the run, so the span of a failed task waits for these.

A task of a loop has one id and a span for each iteration, open one at a time. What is kept of a
span that has ended is its context, for those inside of it, and of the last `MOST_ENDED` only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from time import time_ns
from typing import Any, Final

from cascade.events import (
    Event,
    MessageBus,
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
    check_bus,
)
from cascade.plain import error_text, text_of, type_name

try:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext, Status, StatusCode, Tracer, TracerProvider
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "cascade.telemetry needs OpenTelemetry, which is not installed; "
        "write pip install 'cascade-vm[telemetry]'"
    ) from error

MOST_ENDED: Final = 1024  # spans of one run that have ended and may still become parents


def trace_runs(
    bus: MessageBus, tracer_provider: TracerProvider | None = None
) -> Callable[[], None]:
    """Trace every run that `bus` hears of from now on; returns the function that ends it.

    The provider is the global one by default. Ending it ends the spans that are open. Attributes
    are named `cascade.run.*`, `cascade.task.*` and `cascade.attempt.*`; parameters, arguments and
    values are not recorded. Attempts and tasks that fail, and the run, have the status ERROR, but
    for a task whose failure is answered.
    """
    tracer = trace.get_tracer("cascade", _version(), tracer_provider)
    runs: dict[str, _RunTrace] = {}

    def hear(event: Event) -> None:
        run = runs.get(event.run_id)
        if run is not None:
            run.hear(event)
            if isinstance(event, RunFinished):
                del runs[event.run_id]
        elif isinstance(event, RunStarted):
            runs[event.run_id] = _RunTrace(tracer, event)

    check_bus(bus)
    unsubscribe = bus.subscribe(Event, hear)

    def end() -> None:
        unsubscribe()
        while runs:
            runs.popitem()[1].end()

    return end


def _version() -> str | None:
    with suppress(PackageNotFoundError):
        return version("cascade-vm")
    return None


class _TaskSpan:
    """The open span of one execution of a node, and that of its attempt, if one is going on."""

    __slots__ = ("attempt", "attempts", "failure", "span")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.attempt: Span | None = None
        self.attempts = 0
        # Of its last attempt: the error and when, which is the end unless it is tried again.
        self.failure: tuple[BaseException, int] | None = None

    def end(self, status: str | None) -> None:
        """The node's execution is over, unless it failed before; None: nobody knows how."""
        at = None
        if self.failure is not None:
            error, at = self.failure
            status = "Failed"
            self.span.set_status(_status(error))
        if self.attempt is not None:
            self.attempt.end()
        if status is not None:
            self.span.set_attribute("cascade.task.status", status)
        self.span.set_attribute("cascade.task.attempts", self.attempts)
        self.span.end(at)


class _RunTrace:
    """The spans of one run."""

    def __init__(self, tracer: Tracer, event: RunStarted) -> None:
        self._tracer = tracer
        # The handler is called where the run is started, so the current span is the caller's.
        self._span = tracer.start_span(
            f"run {event.target}",
            attributes={"cascade.run.id": event.run_id, "cascade.run.target": event.target},
        )
        self._context = trace.set_span_in_context(self._span)
        self._open: dict[str, _TaskSpan] = {}
        self._ended: OrderedDict[str, SpanContext] = OrderedDict()
        self._hear: dict[type[Event], Callable[[Any], object]] = {
            RunFinished: self._run_finished,
            ResourceAcquired: self._resource("resource acquired"),
            ResourceReleased: self._resource("resource released"),
            TaskBlocked: self._blocked,
            TaskExecutionStarted: self._attempt_started,
            TaskExecutionFinished: self._attempt_finished,
            TaskRecovered: self._recovered,
            TaskRetrying: self._retrying,
            TaskSkipped: self._skipped,
            TaskStalled: self._stalled,
        }

    def hear(self, event: Event) -> None:
        """Follow up an event of this run; those of other extensions are not Cascade's to trace."""
        follow_up = self._hear.get(type(event))
        if follow_up is not None:
            follow_up(event)

    def end(self, status: str | None = None) -> None:
        """End everything that is open; `status` is that of tasks which came to no end."""
        for task in self._open.values():
            task.end(status)
        self._open.clear()
        self._span.end()

    # The run

    def _run_finished(self, event: RunFinished) -> None:
        self._span.set_attribute("cascade.run.status", event.status)
        if event.error is not None:
            _record_error(self._span, event.error)
        self.end("Cancelled")

    def _resource(self, name: str) -> Callable[[Any], object]:
        return lambda event: self._span.add_event(
            name, {"cascade.resource.name": event.resource_name}
        )

    def _skipped(self, event: TaskSkipped) -> None:
        self._span.add_event(
            "task skipped",
            {
                "cascade.task.id": event.task_id,
                "cascade.task.name": event.task_name,
                "cascade.task.skip_reason": event.reason,
            },
        )

    # Tasks and attempts

    def _task(self, event: TaskEvent) -> _TaskSpan:
        task = self._open.get(event.task_id)
        if task is None:
            span = self._tracer.start_span(
                event.task_name,
                self._around(event.task_id),
                attributes={
                    "cascade.run.id": event.run_id,
                    "cascade.task.id": event.task_id,
                    "cascade.task.name": event.task_name,
                },
            )
            task = self._open[event.task_id] = _TaskSpan(span)
        return task

    def _around(self, task_id: str) -> Context:
        """The parent of a task: the nearest id around it that has a span, else the run."""
        while "/" in task_id:
            task_id = task_id.rpartition("/")[0]
            task = self._open.get(task_id)
            if task is not None:
                return trace.set_span_in_context(task.span)
            ended = self._ended.get(task_id)
            if ended is not None:
                return trace.set_span_in_context(trace.NonRecordingSpan(ended))
        return self._context

    def _end_task(self, task_id: str, task: _TaskSpan, status: str) -> None:
        del self._open[task_id]
        self._ended[task_id] = task.span.get_span_context()
        self._ended.move_to_end(task_id)
        if len(self._ended) > MOST_ENDED:
            self._ended.popitem(last=False)
        task.end(status)

    def _blocked(self, event: TaskBlocked) -> None:
        self._task(event).span.add_event("blocked", {"cascade.task.blocked_reason": event.reason})

    def _attempt_started(self, event: TaskExecutionStarted) -> None:
        task = self._task(event)
        task.attempts = event.attempt
        task.attempt = self._tracer.start_span(
            f"{event.task_name} attempt {event.attempt}",
            trace.set_span_in_context(task.span),
            attributes={
                "cascade.run.id": event.run_id,
                "cascade.task.id": event.task_id,
                "cascade.task.name": event.task_name,
                "cascade.attempt.number": event.attempt,
            },
        )

    def _attempt_finished(self, event: TaskExecutionFinished) -> None:
        task = self._open[event.task_id]
        attempt, task.attempt = task.attempt, None
        assert attempt is not None, "an attempt starts before it finishes"
        attempt.set_attribute("cascade.attempt.status", event.status)
        if event.status != "Failed":
            attempt.end()
            self._end_task(event.task_id, task, event.status)
            return
        assert event.error is not None
        _record_error(attempt, event.error)
        ended = time_ns()
        task.failure = event.error, ended
        attempt.end(ended)

    def _retrying(self, event: TaskRetrying) -> None:
        task = self._task(event)
        task.failure = None
        task.span.add_event(
            "retrying",
            {
                "cascade.attempt.number": event.attempt,
                "cascade.task.max_attempts": event.max_attempts,
                "cascade.retry.delay": event.delay,
            },
        )

    def _recovered(self, event: TaskRecovered) -> None:
        task = self._open.get(event.task_id)
        about = _about(event.error)
        if task is None or task.failure is None:  # of a loop, which is no attempt
            self._span.add_event("recovered", {"cascade.task.id": event.task_id, **about})
            return
        task.span.add_event("recovered", about)
        task.failure = None
        self._end_task(event.task_id, task, "Recovered")

    def _stalled(self, event: TaskStalled) -> None:
        task = self._task(event)
        (task.attempt or task.span).add_event("stalled", {"cascade.stall.duration": event.duration})


def _record_error(span: Span, error: BaseException) -> None:
    try:
        span.record_exception(error)
    except Exception:  # it asks for the message, whose __str__ may raise
        span.add_event("exception", _about(error))
    span.set_status(_status(error))


def _about(error: BaseException) -> dict[str, str]:
    return {"exception.type": type_name(type(error)), "exception.message": text_of(error)}


def _status(error: BaseException) -> Status:
    return Status(StatusCode.ERROR, error_text(error))
