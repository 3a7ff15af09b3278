"""Events as records of the standard `logging`: what happened, one line each, levels by weight.

    DEBUG      attempts that start and finish, tasks that wait or are skipped, resources
    INFO       runs that start and end
    WARNING    attempts that failed and are tried again, failures that a fallback or `.settled()`
               answers, tasks that hold the event loop
    ERROR      runs that failed, with the traceback

A task's last failure that nothing answers is the failure of its run, so it is logged once, as an
error of the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
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
from cascade.plain import error_text

LogMessage = tuple[int, str, tuple[object, ...]]  # the level, and the message with its arguments


def log_events(bus: MessageBus, logger: logging.Logger | None = None) -> Callable[[], None]:
    """Log what `bus` hears under `logger`, "cascade" by default; returns the function that ends it.

    A record carries its event as `event`, and `run_id`, `task_id` and `task_name` where the event
    has them. Only events whose level is enabled for the logger at the time of this call are
    subscribed to. Levels up to WARNING need events of tasks; without them loops run faster.

    >>> import logging, sys
    >>> import cascade as cs
    >>> logger = logging.Logger("doctest")
    >>> logger.addHandler(logging.StreamHandler(sys.stdout))
    >>> bus = cs.MessageBus()
    >>> stop = cs.log_events(bus, logger)
    >>> bus.publish(cs.TaskSkipped("run", 0.0, "f#0", "f", "CacheHit"))
    f#0 is skipped: CacheHit
    >>> stop()
    """
    check_bus(bus)
    log = logging.getLogger("cascade") if logger is None else logger

    def subscribed(kind: type[Event], line: Callable[[Any], LogMessage]) -> Callable[[], None]:
        def handle(event: Event) -> None:
            level, message, args = line(event)
            if log.isEnabledFor(level):
                error = event.error if isinstance(event, RunFinished) else None
                log.log(level, message, *args, exc_info=error, extra=_fields(event))

        return bus.subscribe(kind, handle)

    ends = [
        subscribed(kind, line)
        for kind, (highest, line) in _LINES.items()
        if log.isEnabledFor(highest)
    ]

    def end() -> None:
        for unsubscribe in ends:
            unsubscribe()

    return end


def _fields(event: Event) -> dict[str, object]:
    fields: dict[str, object] = {"event": event, "run_id": event.run_id}
    if isinstance(event, TaskEvent):
        fields |= {"task_id": event.task_id, "task_name": event.task_name}
    return fields


def _run_started(event: RunStarted) -> LogMessage:
    return logging.INFO, "run %s of %s starts", (event.run_id, event.target)


def _run_finished(event: RunFinished) -> LogMessage:
    ended = (event.run_id, event.status.lower(), event.duration)
    if event.error is None:
        return logging.INFO, "run %s %s after %.3f s", ended
    return logging.ERROR, "run %s %s after %.3f s: %s", (*ended, error_text(event.error))


def _attempt_started(event: TaskExecutionStarted) -> LogMessage:
    return logging.DEBUG, "%s starts, attempt %d", (event.task_id, event.attempt)


def _attempt_finished(event: TaskExecutionFinished) -> LogMessage:
    ended = (event.task_id, event.status.lower(), event.duration)
    if event.error is None or event.status == "Cancelled":
        return logging.DEBUG, "%s %s after %.3f s", ended
    return logging.DEBUG, "%s %s after %.3f s: %s", (*ended, error_text(event.error))


def _retrying(event: TaskRetrying) -> LogMessage:
    message = "%s failed in attempt %d of %d and is tried again after %g s: %s"
    tried = (event.task_id, event.attempt, event.max_attempts, event.delay)
    return logging.WARNING, message, (*tried, error_text(event.error))


def _recovered(event: TaskRecovered) -> LogMessage:
    message = "%s failed for good, and the run goes on: %s"
    return logging.WARNING, message, (event.task_id, error_text(event.error))


# Of each event, the highest level that it is logged with, and its line.
_LINES: Final[dict[type[Event], tuple[int, Callable[[Any], LogMessage]]]] = {
    RunStarted: (logging.INFO, _run_started),
    RunFinished: (logging.ERROR, _run_finished),
    TaskExecutionStarted: (logging.DEBUG, _attempt_started),
    TaskExecutionFinished: (logging.DEBUG, _attempt_finished),
    TaskRetrying: (logging.WARNING, _retrying),
    TaskRecovered: (logging.WARNING, _recovered),
    TaskStalled: (logging.WARNING, lambda e: (logging.WARNING, "%s", (e.message,))),
    TaskBlocked: (
        logging.DEBUG,
        lambda e: (logging.DEBUG, "%s waits: %s", (e.task_id, e.reason)),
    ),
    TaskSkipped: (
        logging.DEBUG,
        lambda e: (logging.DEBUG, "%s is skipped: %s", (e.task_id, e.reason)),
    ),
    ResourceAcquired: (
        logging.DEBUG,
        lambda e: (logging.DEBUG, "the resource %r is set up", (e.resource_name,)),
    ),
    ResourceReleased: (
        logging.DEBUG,
        lambda e: (logging.DEBUG, "the resource %r is torn down", (e.resource_name,)),
    ),
}
