"""The page that `cs.report` writes: graph, timeline, tables, listing.

Everything on it is bounded: a page of a million elements would open in no browser. What exceeds a
bound is put together or left out, and a notice on the page says what and how much.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib.resources import files
from itertools import accumulate
from math import floor, log10
from typing import Any, Final

from cascade.attribution import Attribution, general_id
from cascade.blame import Account, accounts_of, total_of, waits_of
from cascade.compiler import disassemble
from cascade.description import to_json
from cascade.drawing import Drawing, Shape, draw
from cascade.events import Event, TaskSkipped
from cascade.records import Recording
from cascade.svg import draw_svg, escaped
from cascade.timeline import PARKED, RETRYING, RUNNING, Execution, RunRecord, Span, runs_of

MOST_RUNS: Final = 10
MOST_ROWS: Final = 200
MOST_SPANS: Final = 6000  # bars of all rows
MOST_TOLD: Final = 60  # spans in words, of a row
MOST_LINES: Final = 4000  # of the listing
_BUCKETS: Final = 240

_OUTCOMES: Final = {
    "Failed": "failed",
    "Cancelled": "cancelled",
    "Running": "open",
    "Waiting": "open",
    "Succeeded": "ok",
    "Skipped": "skipped",
}
_WORDS: Final = {PARKED: "parked", RETRYING: "waits to retry", RUNNING: "runs"}


def page(events: Iterable[Event], target: Any) -> str:
    """The whole page. `target` is None where it is not known."""
    runs = runs_of(events)
    subject = _Subject(target) if target is not None else None
    parts = list(_body(runs, subject, events.dropped if isinstance(events, Recording) else 0))
    title = f"{runs[-1].target or 'run'}: {runs[-1].status}" if runs else "no runs"
    template = files("cascade").joinpath("report.html").read_text(encoding="utf-8")
    head, _, rest = template.partition("{{title}}")
    middle, _, tail = rest.partition("{{body}}")
    return "".join([head, escaped(title), middle, *parts, tail])


class _Subject:
    """The target of the runs: its picture if it is not too large, and its listing."""

    def __init__(self, target: Any) -> None:
        self.attribution = Attribution(target)
        self.listing = disassemble(target).splitlines()
        self.drawing: Drawing | None = None
        self.refusal = ""
        try:
            self.drawing = draw(to_json(target))
        except ValueError as error:
            self.refusal = str(error)


def _body(runs: list[RunRecord], subject: _Subject | None, dropped: int) -> Iterator[str]:
    if not runs:
        yield "<h1>No runs</h1><p>There are no events.</p>"
    if dropped:
        yield _notice(
            f"The recording kept the last events and dropped {dropped:,} before them. "
            "What happened earlier is missing from this page."
        )
    if len(runs) > MOST_RUNS:
        yield _notice(f"The events tell of {len(runs):,} runs. The last {MOST_RUNS} are shown.")
    for number, run in enumerate(runs[-MOST_RUNS:]):
        if number:
            yield "<hr>"
        yield "<section class=run>"
        yield from _head(run)
        if subject is not None:
            yield from _graph(run, subject)
        yield from _timeline(run)
        yield from _blame(run, subject)
        yield from _waits(run)
        yield from _skips(run)
        yield "</section>"
    if subject is not None:
        yield from _listing(subject.listing)


def _notice(text: str) -> str:
    return f"<p class=notice>{escaped(text)}</p>"


def _head(run: RunRecord) -> Iterator[str]:
    status = f'<span class="badge {run.status}">{run.status}</span>'
    yield f"<h1>{escaped(run.target or 'run')} {status}</h1>"
    yield f"<p class='soft id'>run {escaped(run.run_id)}</p>"
    attempts = sum(execution.attempts for execution in run.executions)
    counts = {
        "duration": seconds(run.end - run.start),
        "executions": f"{len(run.executions):,}",
        "attempts": f"{attempts:,}",
        "failed attempts": f"{sum(_failures(each) for each in run.executions):,}",
        "skipped": f"{len(run.skips):,}",
    }
    if run.stalls:
        counts["stalls of the loop"] = f"{len(run.stalls):,}"
    cards = "".join(f"<li><b>{value}</b><span>{name}</span></li>" for name, value in counts.items())
    yield f"<ul class=cards>{cards}</ul>"
    if run.error:
        yield f"<div class=error>{escaped(run.error)}</div>"


def _failures(execution: Execution) -> int:
    return sum(span.status == "Failed" for span in execution.spans)


# The graph


def _graph(run: RunRecord, subject: _Subject) -> Iterator[str]:
    yield "<h2>Graph</h2>"
    if subject.drawing is None:
        yield _notice(f"The graph is left out: {subject.refusal}.")
        return
    outcomes = {shape.id: _Outcome() for shape in subject.drawing.shapes}
    unknown = 0
    for execution in run.executions:
        meaning = subject.attribution.meaning_of(execution.task_id)
        if meaning.node is None:
            unknown += 1
        else:
            outcomes[meaning.node].executions.append(execution)
        for other in meaning.others:
            outcomes[other].may_have_run = True
    for skip in run.skips:
        meaning = subject.attribution.meaning_of(skip.task_id)
        if meaning.node is not None and (meaning.is_exact or skip.reason == "CacheHit"):
            outcomes[meaning.node].skips.append(skip)
    nodes = {s.id: outcomes[s.id] for s in subject.drawing.shapes if s.kind in ("task", "map")}
    if unknown:
        yield _notice(
            f"{unknown:,} executions are of no node of this graph: is the target another one?"
        )
    yield _legend(
        {
            "ok": "succeeded",
            "failed": "failed",
            "cancelled": "cancelled",
            "open": "not over",
            "skipped": "skipped",
            "maybe": "may have run",
            "idle": "never ran",
        }
    )
    shapes = tuple(_worded(shape, outcomes[shape.id].css) for shape in subject.drawing.shapes)
    svg = draw_svg(
        Drawing(shapes, subject.drawing.lines),
        {id: outcome.css for id, outcome in nodes.items()},
        {id: outcome.text for id, outcome in nodes.items()},
    )
    yield f'<div class="scroll graph" tabindex=0 aria-label="graph by outcome">{svg}</div>'


def _worded(shape: Shape, css: str) -> Shape:
    """What went wrong is said in words too: not everybody tells red from green."""
    return replace(shape, notes=[*shape.notes, css]) if css in ("failed", "cancelled") else shape


@dataclass(slots=True)
class _Outcome:
    """What happened to a node, or to what it led to."""

    executions: list[Execution] = field(default_factory=list)
    skips: list[TaskSkipped] = field(default_factory=list)
    may_have_run: bool = False  # events have an id that it shares with another node of a loop

    @property
    def status(self) -> str:
        """The worst thing that happened."""
        found = {execution.status for execution in self.executions}
        if any(skip.reason == "CacheHit" for skip in self.skips):
            found.add("Succeeded")
        elif self.skips:
            found.add("Skipped")
        return next((status for status in _OUTCOMES if status in found), "")

    @property
    def css(self) -> str:
        return _OUTCOMES.get(self.status, "maybe" if self.may_have_run else "idle")

    @property
    def text(self) -> str:
        if not self.executions:
            reasons = ", ".join(dict.fromkeys(skip.reason for skip in self.skips))
            if not reasons and self.may_have_run:
                return "may have run: another node of its loop has the same id in events"
            return f"skipped: {reasons}" if reasons else "never ran"
        total = Account("")
        for execution in self.executions:
            total.add(execution)
        times = (("parked", total.parked), ("retry delays", total.retrying))
        waits = "".join(f", {name} {seconds(time)}" for name, time in times if time)
        return (
            f"{self.status}: {len(self.executions)} executions, {total.attempts} attempts, "
            f"running {seconds(total.running)}{waits}"
        )


def _legend(entries: dict[str, str]) -> str:
    items = "".join(
        f'<li><i class="{css}" style="{_swatch(css)}"></i>{text}</li>'
        for css, text in entries.items()
    )
    return f"<ul class=legend>{items}</ul>"


def _swatch(css: str) -> str:
    return "" if css in ("skipped", "idle", "maybe", "inputs", "parked", "retrying") else "border:0"


# The timeline


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
    told: list[Execution | TaskSkipped] = [*run.executions, *run.skips]
    for level in ("", "items of a map", "tasks of a name"):
        found: dict[str, _Row] = {}
        for event in told:
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


def _timeline(run: RunRecord) -> Iterator[str]:
    yield "<h2>Timeline</h2>"
    rows, level = _rows(run)
    if not rows:
        yield "<p>No task events were recorded.</p>"
        return
    count = len({e.task_id for e in run.executions} | {skip.task_id for skip in run.skips})
    if level:
        yield _notice(f"There are {count:,} ids. The {level} share a row.")
    if len(rows) > MOST_ROWS:
        yield _notice(f"The first {MOST_ROWS} of {len(rows):,} rows are shown.")
        rows = rows[:MOST_ROWS]
    most = MOST_SPANS if sum(row.size for row in rows) <= MOST_SPANS else 30
    merged = sum(row.is_merged(most) for row in rows)
    if merged:
        yield _notice(
            f"Rows that stand for several ids or have more than {most} bars ({merged} here) show "
            "how many waited, above, and how many ran, below, at each time."
        )
    yield _legend(
        {
            "inputs": "waits for inputs",
            "parked": "parked at the gate",
            "retrying": "waits to retry",
            "ok": "succeeds",
            "failed": "fails",
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
            f'<span style="left:{100 * k * self.step / self.duration:.3f}%">'
            f"{seconds(k * self.step)}</span>"
            for k in range(count + 1)
        )


def _row(row: _Row, scale: _Scale, is_merged: bool) -> str:
    bars = _density(row, scale) if is_merged else "".join(_bars(row, scale))
    told = "".join(f"<li>{escaped(line)}</li>" for line in _told(row, scale))
    name = escaped(row.name)
    return (
        f'<details class=row data-name="{name}"><summary><div class="name id" title="{name}">'
        f'{name}</div><div class=track style="background-size:{scale.grid} 100%">{bars}</div>'
        f"</summary><ul class=told>{told}</ul></details>\n"
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
    return span.kind if span.kind != RUNNING else _OUTCOMES[span.status or "Running"]


def _phrase(span: Span) -> str:
    words = f"{_WORDS[span.kind]}, attempt {span.attempt}"
    if span.kind == RUNNING:
        words += f", {(span.status or 'not over').lower()}"
    return f"{words}: {span.about}" if span.about else words


def _told(row: _Row, scale: _Scale) -> Iterator[str]:
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


# Tables


def _blame(run: RunRecord, subject: _Subject | None) -> Iterator[str]:
    accounts = accounts_of(run)
    if not accounts:
        return
    yield "<h2>Where the time went</h2>"
    yield (
        "<p class=soft>Sums over the executions of each task. What runs at the same time adds up. "
        "Waiting for inputs counts from the start of the run or, in a loop, from the execution "
        "before.</p>"
    )
    last = _last_inputs(run, subject) if subject is not None else {}
    total = total_of(accounts, "sum")
    if len(accounts) > MOST_ROWS:
        rest = accounts[MOST_ROWS:]
        accounts = [*accounts[:MOST_ROWS], total_of(rest, f"{len(rest):,} others")]
    heads = ["task", "executions", "attempts", "failed", "skipped", "for inputs"]
    heads += ["parked", "retry delays", "running"]
    if subject is not None:
        heads.append("last input")
    head = "".join(
        f"<th scope=col{' aria-sort=descending' if text == 'running' else ''}>"
        f"<button>{text}</button></th>"
        for text in heads
    )
    yield '<div class="scroll table" tabindex=0 aria-label="times by task"><table class=sortable>'
    yield f"<thead><tr>{head}</tr></thead><tbody>"
    for account in sorted(accounts, key=lambda account: -account.running):
        yield _account(account, last.get(account.name, "") if subject is not None else None)
    yield f"</tbody><tfoot>{_account(total, '' if subject is not None else None)}</tfoot>"
    yield "</table></div>"


def _account(account: Account, last_input: str | None) -> str:
    name = escaped(account.name)
    cells = [f'<td class=id title="{name}">{name}</td>', _count(len(account.executions))]
    cells += [_count(account.attempts), _count(account.failures, "bad"), _count(account.skips)]
    times = (account.inputs, account.parked, account.retrying, account.running)
    cells += [f"<td data-sort={time!r}>{seconds(time) if time else '-'}</td>" for time in times]
    if last_input is not None:
        cells.append(f"<td class=id>{escaped(last_input)}</td>")
    return f'<tr data-name="{name}">{"".join(cells)}</tr>\n'


def _count(number: int, css: str = "") -> str:
    classes = f" class={css}" if css and number else ""
    return f"<td{classes} data-sort={number}>{f'{number:,}' if number else '-'}</td>"


def _last_inputs(run: RunRecord, subject: _Subject) -> dict[str, str]:
    """By general id: of what its node needs, the one that ended last before it could start."""
    if subject.drawing is None:
        return {}
    shapes = subject.drawing.shapes
    needs: dict[str, list[str]] = {}
    for line in subject.drawing.lines:
        if line.kind != "jump":
            needs.setdefault(shapes[line.target].id, []).append(shapes[line.source].id)
    nodes: dict[str, str] = {}
    starts: dict[str, float] = {}
    ends: dict[str, float] = {}
    for execution in run.executions:
        node = subject.attribution.meaning_of(execution.task_id).node
        if node is not None:
            nodes[general_id(execution.task_id)] = node
            starts[node] = min(starts.get(node, execution.start), execution.start)
            ends[node] = max(ends.get(node, execution.end), execution.end)
    last: dict[str, str] = {}
    for name, node in nodes.items():
        before = [
            each
            for each in _through_routers(node, needs)
            if each in ends and ends[each] <= starts[node]
        ]
        if before:
            last[name] = max(before, key=ends.__getitem__)
    return last


def _through_routers(node: str, needs: dict[str, list[str]]) -> Iterator[str]:
    """What a node needs; of a Router, what that needs."""
    seen = {node}
    todo = list(needs.get(node, ()))
    while todo:
        each = todo.pop()
        if each in seen:
            continue
        seen.add(each)
        yield each
        if each.startswith("router:"):
            todo += needs.get(each, ())


def _waits(run: RunRecord) -> Iterator[str]:
    waits = waits_of(run)
    if not waits:
        return
    yield "<h2>What was waited for</h2>"
    if len(waits) > MOST_ROWS:
        yield _notice(f"The longest {MOST_ROWS} of {len(waits):,} are shown.")
    yield '<div class="scroll table" tabindex=0 aria-label="waits by reason"><table>'
    yield "<thead><tr><th scope=col class=wide>reason</th><th scope=col>waits</th>"
    yield "<th scope=col>in all</th><th scope=col>longest</th>"
    yield "<th scope=col class=wide>longest for</th></tr></thead><tbody>"
    for wait in waits[:MOST_ROWS]:
        yield (
            f"<tr><td class=wide>{escaped(wait.reason)}</td><td>{wait.count:,}</td>"
            f"<td>{seconds(wait.total)}</td><td>{seconds(wait.longest)}</td>"
            f'<td class="wide id">{escaped(wait.who)}</td></tr>\n'
        )
    yield "</tbody></table></div>"


def _skips(run: RunRecord) -> Iterator[str]:
    if not run.skips:
        return
    yield "<h2>Skipped</h2>"
    if len(run.skips) > MOST_ROWS:
        yield _notice(f"The first {MOST_ROWS} of {len(run.skips):,} are shown.")
    yield '<div class="scroll table" tabindex=0 aria-label="skipped tasks"><table>'
    yield "<thead><tr><th scope=col>task</th><th scope=col class=wide>reason</th></tr></thead>"
    yield "<tbody>"
    for skip in run.skips[:MOST_ROWS]:
        yield f"<tr><td class=id>{escaped(skip.task_id)}</td>"
        yield f"<td class=wide>{escaped(skip.reason)}</td></tr>\n"
    yield "</tbody></table></div>"


def _listing(lines: list[str]) -> Iterator[str]:
    yield "<h2>Listing</h2>"
    if len(lines) > MOST_LINES:
        yield _notice(f"The first {MOST_LINES:,} of {len(lines):,} lines are shown.")
    yield f"<pre tabindex=0>{escaped(chr(10).join(lines[:MOST_LINES]))}</pre>"


def seconds(time: float) -> str:
    """A duration with its unit, to three digits.

    >>> [seconds(time) for time in (0, 0.00004, 0.0123, 1.234, 75.0, 4000)]
    ['0 s', '40 µs', '12.3 ms', '1.23 s', '75 s', '4,000 s']
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(time) >= size or unit == "µs":
            return "0 s" if abs(time) < 5e-8 else f"{_digits(time / size)} {unit}"
    raise AssertionError("unreachable")


def _digits(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
