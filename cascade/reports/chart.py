"""The timeline of a run, as rows of HTML: who ran when, and who waited for what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from math import floor, log10
from typing import Final

from cascade.events import TaskSkipped
from cascade.pictures.markup import MOST_ROWS, escaped, legend, notice, seconds
from cascade.reports.attribution import general_id
from cascade.reports.history import PARKED, RETRYING, RUNNING, Execution, RunRecord, Span

MOST_SPANS: Final = 6000  # bars of all rows
MOST_TOLD: Final = 60  # spans in words, of a row
_BUCKETS: Final = 240

CLASSES: Final = {  # of what has a status; the worst first
    "Failed": "failed",
    "Cancelled": "cancelled",
    "Running": "open",
    "Waiting": "open",
    "Recovered": "recovered",
    "Succeeded": "ok",
    "Skipped": "skipped",
}
_WORDS: Final = {PARKED: "parked", RETRYING: "waits to retry", RUNNING: "runs"}


@dataclass(slots=True)
class _Row:
    """One row of the timeline: what has one id, or, too many for that, one general id or name."""

    name: str
    executions: list[Execution] = field(default_factory=list)
    skips: list[TaskSkipped] = field(default_factory=list)

    @property
    def start(self) -> float:
        return min(
            [each.start for each in self.executions] + [each.timestamp for each in self.skips]
        )

    @property
    def size(self) -> int:
        return sum(len(execution.spans) for execution in self.executions)

    def is_merged(self, most: int) -> bool:
        """Whether it shows counts instead of bars, which would lie over each other."""
        return self.size > most or len({each.task_id for each in self.executions}) > 1


def _rows(run: RunRecord) -> tuple[list[_Row], str]:
    """The rows in the order of their beginnings, and what each of them stands for."""
    rows: list[_Row] = []
    shown: list[Execution | TaskSkipped] = [*run.executions, *run.skips]
    for level in ("", "items of a map", "tasks of a name"):
        found: dict[str, _Row] = {}
        for event in shown:
            id = event.task_id
            name = event.task_name if "name" in level else general_id(id) if level else id
            row = found.setdefault(name, _Row(name))
            if isinstance(event, Execution):
                row.executions.append(event)
            else:
                row.skips.append(event)
        rows = sorted(found.values(), key=lambda row: row.start)
        if len(rows) <= MOST_ROWS:
            return rows, level
    return rows, level


def timeline(run: RunRecord) -> Iterator[str]:
    """The part of the page with its heading, its notices, its legend and its rows."""
    yield "<h2>Timeline</h2>"
    rows, level = _rows(run)
    if not rows:
        yield "<p>No task events were recorded.</p>"
        return
    count = len({e.task_id for e in run.executions} | {skip.task_id for skip in run.skips})
    if level:
        yield notice(f"There are {count:,} ids. The {level} share a row.")
    if len(rows) > MOST_ROWS:
        yield notice(f"The first {MOST_ROWS} of {len(rows):,} rows are shown.")
        rows = rows[:MOST_ROWS]
    most = MOST_SPANS if sum(row.size for row in rows) <= MOST_SPANS else 30
    merged = sum(row.is_merged(most) for row in rows)
    if merged:
        yield notice(
            f"Rows that stand for several ids or have more than {most} bars ({merged} here) show "
            "how many waited, above, and how many ran, below, at each time."
        )
    yield legend(
        {
            "inputs": "waits for inputs",
            "parked": "parked at the gate",
            "retrying": "waits to retry",
            "ok": "succeeds",
            "failed": "fails",
            "recovered": "fails, and is recovered from",
            "cancelled": "is cancelled",
            "open": "not over",
            "skipped": "skipped",
        }
    )
    yield (
        "<div class=tools><label>Zoom <input type=range min=1 max=20 step=0.5 value=1></label>"
        "<label>Show <input type=search placeholder='part of an id'></label>"
        "<span class=soft>Open a row to read what it did.</span></div>"
    )
    scale = _Scale(run)
    yield '<div class="scroll timeline" tabindex=0 aria-label="timeline"><div class=rows>'
    yield f"<div class=axis><div class=name>task</div><div class=ticks>{scale.ticks()}</div></div>"
    for row in rows:
        yield _row(row, scale, row.is_merged(most))
    yield "</div></div>"


class _Scale:
    """Times of a run as percents of its duration."""

    def __init__(self, run: RunRecord) -> None:
        self.start = run.start
        self.duration = max(run.end - run.start, 1e-6)
        power = 10.0 ** floor(log10(self.duration / 8))
        self.step = next(s * power for s in (1, 2, 5, 10) if s * power * 10 >= self.duration)
        self.grid = f"{100 * self.step / self.duration:.3f}%"

    def at(self, time: float) -> float:
        return min(100.0, max(0.0, 100 * (time - self.start) / self.duration))

    def ticks(self) -> str:
        count = int(self.duration / self.step * 0.95)  # a label further right would be cut off
        return "".join(
            f'<span style="left:{100 * k * self.step / self.duration:.3f}%;width:{self.grid}">'
            f"{seconds(k * self.step, like=self.duration)}</span>"
            for k in range(count + 1)
        )


def _row(row: _Row, scale: _Scale, is_merged: bool) -> str:
    bars = _density(row, scale) if is_merged else "".join(_bars(row, scale))
    history = "".join(f"<li>{escaped(line)}</li>" for line in _history(row, scale))
    name = escaped(row.name)
    return (
        f'<details class=row data-name="{name}"><summary><div class="name id" title="{name}">'
        f'{name}</div><div class=track style="background-size:{scale.grid} 100%">{bars}</div>'
        f"</summary><ul class=history>{history}</ul></details>\n"
    )


def _bars(row: _Row, scale: _Scale) -> Iterator[str]:
    for execution in row.executions:
        if execution.start > execution.waited_since:
            yield _bar("inputs", scale, execution.waited_since, execution.start, "waits for inputs")
        for span in execution.spans:
            yield _bar(_css(span), scale, span.start, span.end, _phrase(span))
    for skip in row.skips:
        place = f"left:{scale.at(skip.timestamp):.3f}%"
        yield f'<i class=mark style="{place}" title="{escaped(f"skipped: {skip.reason}")}"></i>'


def _bar(css: str, scale: _Scale, start: float, end: float, title: str) -> str:
    left = scale.at(start)
    place = f"left:{left:.3f}%;width:{scale.at(end) - left:.3f}%"
    text = escaped(f"{title}, {seconds(end - start)}")
    return f'<i class={css} style="{place}" title="{text}"></i>'


def _css(span: Span) -> str:
    if span.kind != RUNNING:
        return span.kind
    return CLASSES["Recovered" if span.is_answered else span.status or "Running"]


def _phrase(span: Span) -> str:
    words = f"{_WORDS[span.kind]}, attempt {span.attempt}"
    if span.kind == RUNNING:
        words += f", {(span.status or 'not over').lower()}"
    if span.is_answered:
        words += " and recovered from"
    return f"{words}: {span.about}" if span.about else words


def _history(row: _Row, scale: _Scale) -> Iterator[str]:
    """What a row did, in words, up to a bound."""
    lines = 0
    for execution in row.executions:
        who = "" if execution.task_id == row.name else f"{execution.task_id}: "
        waited = execution.start - execution.waited_since
        if lines >= MOST_TOLD:
            break
        if waited > 0:
            since = execution.waited_since - scale.start
            yield f"{who}at {seconds(since)} waits for inputs, for {seconds(waited)}"
        for span in execution.spans:
            lines += 1
            yield (
                f"{who}at {seconds(span.start - scale.start)} {_phrase(span)}, "
                f"for {seconds(span.duration)}"
            )
    for skip in row.skips[:MOST_TOLD]:
        yield f"{skip.task_id} at {seconds(skip.timestamp - scale.start)} skipped: {skip.reason}"
    left = row.size - lines + max(0, len(row.skips) - MOST_TOLD)
    if left > 0:
        yield f"and {left:,} more"


def _density(row: _Row, scale: _Scale) -> str:
    """How many spans there are at each time: those that wait above, those that run below."""
    spans = [span for execution in row.executions for span in execution.spans]
    parked = _levels([span for span in spans if span.kind == PARKED], scale)
    waiting = _levels([span for span in spans if span.kind != RUNNING], scale)
    running = _levels([span for span in spans if span.kind == RUNNING], scale)
    areas = [
        _area("retrying", waiting, max(waiting), 0, 9),
        _area("parked", parked, max(waiting), 0, 9),
        _area("ok", running, max(running), 10, 20),
    ]
    runs = _most_at_a_time([span for span in spans if span.kind == RUNNING])
    waits = _most_at_a_time([span for span in spans if span.kind != RUNNING])
    said = f"at most {runs:,} run and {waits:,} wait at a time"
    return (
        f'<svg viewBox="0 0 {_BUCKETS} 20" preserveAspectRatio="none" role="img" '
        f'aria-label="{said}"><title>{said}</title>{"".join(areas)}</svg>'
    )


def _levels(spans: list[Span], scale: _Scale) -> list[float]:
    """How many of the spans there are in each bucket of time, on average."""
    covered = [0.0] * _BUCKETS  # by spans that begin or end in the bucket
    changes = [0] * (_BUCKETS + 1)  # of the number of spans that cover whole buckets
    for span in spans:
        start, end = (scale.at(time) / 100 * _BUCKETS for time in (span.start, span.end))
        first, last = min(int(start), _BUCKETS - 1), min(int(end), _BUCKETS - 1)
        if first == last:
            covered[first] += end - start
        else:
            covered[first] += first + 1 - start
            covered[last] += end - last
            changes[first + 1] += 1
            changes[last] -= 1
    whole = accumulate(changes[:-1])
    return [part + count for part, count in zip(covered, whole, strict=True)]


def _most_at_a_time(spans: list[Span]) -> int:
    changes = [(span.start, 1) for span in spans] + [(span.end, -1) for span in spans]
    counts = accumulate(change for _, change in sorted(changes))
    return max(0, 1 if spans else 0, *counts)


def _area(color: str, levels: list[float], most: float, top: int, bottom: int) -> str:
    """Steps as high as the levels, the highest reaching from `bottom` to `top`."""
    if not most:
        return ""
    tall = (bottom - top) / most
    steps = "".join(f"V{bottom - level * tall:.2f}h1" for level in levels)
    return f'<path fill="var(--{color})" d="M0,{bottom}{steps}V{bottom}Z"/>'
