"""The page that `cs.report` writes: graph, timeline, tables, listing.

Everything on it is bounded: a page of a million elements would open in no browser. What exceeds a
bound is put together or left out, and a notice on the page says what and how much.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Any, Final

from cascade.compiler import BlueprintBuilder
from cascade.events import Event, TaskSkipped
from cascade.pictures.description import described
from cascade.pictures.drawing import Drawing, Shape, draw
from cascade.pictures.markup import MOST_ROWS, escaped, legend, notice, seconds, table
from cascade.pictures.svg import draw_svg
from cascade.reports.attribution import Attribution, general_id
from cascade.reports.blame import Account, accounts_of, total_of, waits_of
from cascade.reports.chart import CLASSES, timeline
from cascade.reports.history import Execution, RunRecord, failure_text, runs_of
from cascade.reports.records import Recording
from cascade.vm import listing

MOST_RUNS: Final = 10
MOST_LINES: Final = 4000  # of the listing
_TROUBLE: Final = ("failed", "cancelled", "recovered")


def page(events: Iterable[Event], target: Any) -> str:
    """The whole page. `target` is None where it is not known."""
    runs = runs_of(events)
    subject = _Subject(target) if target is not None else None
    parts = list(_body(runs, subject, events.dropped if isinstance(events, Recording) else 0))
    title = f"{runs[-1].target or 'run'}: {runs[-1].status}" if runs else "no runs"
    template = files("cascade.reports").joinpath("report.html").read_text(encoding="utf-8")
    head, _, rest = template.partition("{{title}}")
    middle, _, tail = rest.partition("{{body}}")
    return "".join([head, escaped(title), middle, *parts, tail])


class _Subject:
    """The target of the runs: its picture if it is not too large, and its listing."""

    def __init__(self, target: Any) -> None:
        blueprint, data = BlueprintBuilder().build(target)
        self.attribution = Attribution(blueprint.structure)
        self.listing = listing(blueprint, data).splitlines()
        self.drawing: Drawing | None = None
        self.refusal = ""
        try:
            self.drawing = draw(described(blueprint.structure, data))
        except ValueError as error:
            self.refusal = str(error)


def _body(runs: list[RunRecord], subject: _Subject | None, dropped: int) -> Iterator[str]:
    if not runs:
        yield "<h1>No runs</h1><p>There are no events.</p>"
    if dropped:
        yield notice(
            f"The recording kept the last events and dropped {dropped:,} before them. "
            "What happened earlier is missing from this page."
        )
    if len(runs) > MOST_RUNS:
        yield notice(f"There are events of {len(runs):,} runs. The last {MOST_RUNS} are shown.")
    for number, run in enumerate(runs[-MOST_RUNS:]):
        if number:
            yield "<hr>"
        yield "<section class=run>"
        yield from _head(run)
        if subject is not None:
            yield from _graph(run, subject)
        yield from timeline(run)
        yield from _blame(run, subject)
        yield from _waits(run)
        yield from _recoveries(run)
        yield from _skips(run)
        yield from _stalls(run)
        yield "</section>"
    if subject is not None:
        yield from _listing(subject.listing)


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
    if run.recoveries:
        counts["recovered"] = f"{len(run.recoveries):,}"
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
        yield notice(f"The graph is left out: {subject.refusal}.")
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
        yield notice(
            f"{unknown:,} executions are of no node of this graph: is the target another one?"
        )
    yield legend(
        {
            "ok": "succeeded",
            "failed": "failed",
            "recovered": "failed, and recovered",
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
    """What went wrong is said in words too: not everybody can tell red from green."""
    return replace(shape, notes=[*shape.notes, css]) if css in _TROUBLE else shape


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
        return next((status for status in CLASSES if status in found), "")

    @property
    def css(self) -> str:
        return CLASSES.get(self.status, "maybe" if self.may_have_run else "idle")

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
    heads = ["task", "executions", "attempts", "failed", "recovered", "skipped"]
    heads += ["for inputs", "parked", "retry delays", "running"]
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
    cells += [_count(account.attempts), _count(account.failures, "bad")]
    cells += [_count(account.recoveries), _count(account.skips)]
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
        if line.kind not in ("jump", "fallback"):
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
    rows = [
        (wait.reason, f"{wait.count:,}", seconds(wait.total), seconds(wait.longest), wait.who)
        for wait in waits_of(run)
    ]
    return table("What was waited for", ("reason", "waits", "in all", "longest", "by"), rows)


def _recoveries(run: RunRecord) -> Iterator[str]:
    rows = [(each.task_id, failure_text(each.error)) for each in run.recoveries]
    return table("Recovered from", ("task", "failure"), rows)


def _skips(run: RunRecord) -> Iterator[str]:
    rows = [(skip.task_id, skip.reason) for skip in run.skips]
    return table("Skipped", ("task", "reason"), rows)


def _stalls(run: RunRecord) -> Iterator[str]:
    rows = [(stall.task_id, seconds(stall.duration), stall.message) for stall in run.stalls]
    return table("Stalls of the event loop", ("task", "for", "what to do"), rows)


def _listing(lines: list[str]) -> Iterator[str]:
    yield "<h2>Listing</h2>"
    if len(lines) > MOST_LINES:
        yield notice(f"The first {MOST_LINES:,} of {len(lines):,} lines are shown.")
    yield f"<pre tabindex=0>{escaped(chr(10).join(lines[:MOST_LINES]))}</pre>"
