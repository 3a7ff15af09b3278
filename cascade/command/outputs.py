"""What a run leaves behind in files: its events as they happen, a trace and a report at the end."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cascade.events import Event, MessageBus
from cascade.reports.records import Recording, chrome_trace, event_to_json, record
from cascade.reports.report import report as write_report

logger = logging.getLogger("cascade")


@contextmanager
def written(
    bus: MessageBus,
    target: Any,
    *,
    events: str | None = None,
    trace: str | None = None,
    report: str | None = None,
) -> Iterator[None]:
    """While it lasts, what `bus` publishes is written to these files; also if the body fails.

    `events` gets a line of JSON for each event as soon as it is there, `trace` the Chrome trace
    format and `report` a page about the run of `target` at the end. Files are opened, and emptied,
    at the start. Raises `OSError` for one that cannot be.
    """
    with ExitStack() as stack:
        if events is not None:
            stack.enter_context(_lines(bus, events))
        if trace is not None:
            stack.enter_context(_at_the_end(bus, trace, _write_trace))
        if report is not None:
            stack.enter_context(_at_the_end(bus, report, partial(write_report, target=target)))
        yield


@contextmanager
def _lines(bus: MessageBus, path: str) -> Iterator[None]:
    # Line by line, so that a process that is killed has written what happened before.
    # A lone surrogate, which UTF-8 cannot hold, is written as JSON escapes it.
    with open(path, "w", encoding="utf-8", errors="backslashreplace", buffering=1) as file:

        def write(event: Event) -> None:
            file.write(json.dumps(event_to_json(event), ensure_ascii=False) + "\n")

        unsubscribe = bus.subscribe(Event, write)
        try:
            yield
        finally:
            unsubscribe()


@contextmanager
def _at_the_end(
    bus: MessageBus, path: str, write: Callable[[Recording, Path], object]
) -> Iterator[None]:
    file = Path(path)
    file.write_bytes(b"")
    with record(bus) as recording:
        try:
            yield
        finally:
            if recording.dropped:
                kept, all_of_them = len(recording), len(recording) + recording.dropped
                logger.warning("%s holds the last %d of %d events", path, kept, all_of_them)
            write(recording, file)


def _write_trace(recording: Recording, file: Path) -> None:
    text = json.dumps(chrome_trace(recording), ensure_ascii=False)
    file.write_text(text, encoding="utf-8", errors="backslashreplace")
