"""`cs.report`: what happened in a run, as one page of HTML that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

from cascade.events import Event


def report(events: Iterable[Event], path: str | PathLike[str], *, target: Any = None) -> Path:
    """Write a page about the runs that `events` tell of to `path`; returns the path.

    It shows who ran when, who waited for what and how long, where the time went and, given the
    `target`, its graph by outcome and its listing. `events` is a `cs.record(bus)` or any events.
    It asks for nothing from the network. What is too much for a page is put together, and the page
    says so.
    """
    from cascade.reports.page import page

    file = Path(path)
    file.write_text(page(events, target), encoding="utf-8", errors="xmlcharrefreplace")
    return file
