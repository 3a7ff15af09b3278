"""Pictures of runs with rich: a table that changes in place on a terminal, else plain lines.

Runs that have ended are printed once and for all; what is going on follows below. Needs rich,
and is imported by `cascade.live.progress` only when something is to be shown.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import IO, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cascade.live.readings import LoopReading, RunReading, TaskReading

REDRAW_EVERY: Final = 0.25  # seconds, on a terminal
PRINT_EVERY: Final = 10.0  # seconds, elsewhere

LOW: Final = 20  # lines of a terminal that has room for the essential only
WIDEST: Final = 110  # columns of the table on a wide terminal
MOST_ENDED: Final = 5  # runs that ended between two samples and are printed one by one
MOST_NAMED: Final = 8  # tasks named in one plain line
MOST_REASONS: Final = 5  # below the table, each in a line
OPTIONAL: Final = {
    "waiting": "yellow",
    "retried": "yellow",
    "recovered": "yellow",
    "failed": "red",
    "cached": "cyan",
}
COUNTED: Final = ("retried", "recovered", "failed", "cached")
STYLES: Final = {None: "cyan", "Succeeded": "green", "Failed": "red", "Cancelled": "yellow"}


def display_on(console: Console | None) -> TerminalDisplay | LineDisplay:
    """What suits the console: by default standard error, so that output can be redirected."""
    if console is None:
        console = Console(stderr=True)
    if not isinstance(console, Console):
        raise TypeError(f"console={console!r} must be a rich.console.Console")
    if console.is_terminal and not console.is_dumb_terminal:
        return TerminalDisplay(console)
    return LineDisplay(console)


class TerminalDisplay:
    """A table that is drawn anew in place. It has no thread: it draws when it is asked to."""

    every = REDRAW_EVERY

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            # What tasks print appears above the table, unless it goes elsewhere.
            redirect_stdout=_is_terminal(sys.stdout),
            redirect_stderr=_is_terminal(sys.stderr),
        )

    def start(self) -> None:
        """Take the terminal."""
        self._live.start()

    def stop(self) -> None:
        """Leave the terminal as it was."""
        self._live.stop()

    def show(
        self, ended: Sequence[RunReading], going_on: Sequence[RunReading], is_due: bool
    ) -> None:
        """Print what runs came to; draw below it what goes on, if it is time or that changed."""
        if not ended and not is_due:
            return
        # First, since what is printed above is followed by the picture drawn last.
        self._live.update(picture(going_on, self._console) if going_on else Text(), refresh=True)
        if ended:
            self._console.print(picture(ended[:MOST_ENDED], self._console))
        if len(ended) > MOST_ENDED:
            self._console.print(Text(_more_ended(ended[MOST_ENDED:])))


class LineDisplay:
    """Plain lines, for files and other places where nothing can be drawn over."""

    every = PRINT_EVERY

    def __init__(self, console: Console) -> None:
        self._console = console

    def start(self) -> None:
        """There is nothing to take."""

    def stop(self) -> None:
        """There is nothing to leave."""

    def show(
        self, ended: Sequence[RunReading], going_on: Sequence[RunReading], is_due: bool
    ) -> None:
        """Print what runs came to, and what goes on if it is time for that."""
        for run in ended[:MOST_ENDED]:
            self._print(line(run))
        if len(ended) > MOST_ENDED:
            self._print(_more_ended(ended[MOST_ENDED:]))
        if not is_due:
            return
        for run in going_on[:MOST_NAMED]:
            self._print(line(run))
        if len(going_on) > MOST_NAMED:
            self._print(f"{len(going_on) - MOST_NAMED:,} more runs")

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


def _is_terminal(file: IO[str] | None) -> bool:
    return file is not None and file.isatty()


def _more_ended(runs: Sequence[RunReading]) -> str:
    statuses = Counter(run.status for run in runs)
    counts = ", ".join(f"{count:,} {status}" for status, count in statuses.items())
    return f"{len(runs):,} more runs ended: {counts}"


# Lines


def line(run: RunReading) -> str:
    """A run in one line: what goes on, or all of it if it has ended or nothing is seen to."""
    loops = {loop.name: loop for loop in run.loops}
    tasks = {task.name: task for task in run.tasks}
    names = [*{**tasks, **loops}]
    if run.status is None:
        busy = [name for name in names if name in loops or tasks[name].is_active]
        names = busy or names
    parts = [_part(tasks.get(name), loops.get(name)) for name in names[:MOST_NAMED]]
    if len(names) > MOST_NAMED:
        parts.append(f"{len(names) - MOST_NAMED:,} more")
    return ": ".join([f"{run.target} {_status_text(run)}", *filter(None, ["; ".join(parts)])])


def _status_text(run: RunReading) -> str:
    if run.status is None:
        return f"running {duration_text(run.elapsed)}"
    return f"{run.status} after {duration_text(run.elapsed)}"


def _part(task: TaskReading | None, loop: LoopReading | None) -> str:
    if task is None:
        assert loop is not None
        return f"{loop.name} {_iterations_text(loop)}, {rate_text(loop.rate)}"
    parts = [f"{_done_text(task)} done"]
    if loop is not None:
        parts = [_iterations_text(loop)]
    if task.running:
        parts.append(f"{task.running:,} running")
    parts += [f"{count:,} waiting for {reason}" for reason, count in task.waits.items()]
    counts = ((what, getattr(task, what)) for what in COUNTED)
    parts += [f"{count:,} {what}" for what, count in counts if count]
    parts += filter(None, [_rate_of(task, loop)])
    if task.left is not None:
        parts.append(f"{duration_text(task.left)} left")
    return f"{task.name} {', '.join(parts)}"


def _rate_of(task: TaskReading, loop: LoopReading | None) -> str:
    """That of the calls, or of the iterations, where not all of them are counted as calls."""
    if loop is not None and task.done < loop.iterations:
        return rate_text(loop.rate)
    return rate_text(task.rate) if task.is_repeated else ""


def _iterations_text(loop: LoopReading) -> str:
    return f"{loop.iterations:,} iteration{'s' if loop.iterations != 1 else ''}"


def _done_text(task: TaskReading) -> str:
    return f"{task.items_done:,}/{task.items:,}" if task.items else f"{task.done:,}"


# Tables


def picture(runs: Sequence[RunReading], console: Console) -> RenderableType:
    """Runs as one table, each with its tasks and loops, and below it what tasks wait for."""
    most_reasons = MOST_REASONS if console.height >= LOW else 2
    rows = max(3, console.height - 3 - most_reasons)  # what fits into the terminal
    tasks = [task for run in runs for task in run.tasks]
    shown = [name for name in OPTIONAL if any(getattr(task, name) for task in tasks)]
    table = Table(
        box=None,
        padding=(0, 2, 0, 0),
        width=min(console.width, WIDEST),
        header_style="dim",
        show_edge=False,
    )
    table.add_column("", no_wrap=True, overflow="ellipsis", max_width=28)
    table.add_column("", ratio=1, min_width=6, no_wrap=True, overflow="ellipsis")
    for name in ("done", "running", *shown, "rate", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        if rows <= 0:
            break
        rows -= _add_run(table, run, shown, rows)
    reasons = [*_reasons(runs)]
    if len(reasons) > most_reasons:
        hidden = len(reasons) - most_reasons + 1
        reasons[most_reasons - 1 :] = [Text(f"  {hidden:,} more reasons", style="dim")]
    return Group(table, *reasons)


def _add_run(table: Table, run: RunReading, shown: Sequence[str], rows: int) -> int:
    """Add a run to the table in at most so many rows; how many it took."""
    style = STYLES[run.status]
    table.add_row(Text(run.target, style=f"bold {style}"), Text(_status_text(run), style=style))
    loops = {loop.name: loop for loop in run.loops}
    names = {**dict.fromkeys(task.name for task in run.tasks), **loops}
    tasks = {task.name: task for task in run.tasks}
    visible = list(names)
    if len(visible) > rows - 1:
        busy = [name for name in names if name in loops or tasks[name].is_active]
        visible = (busy or visible)[: max(1, rows - 2)]
    for name in visible:
        _add_row(table, tasks.get(name), loops.get(name), shown)
    hidden = len(names) - len(visible)
    if hidden:
        table.add_row(Text(f"  {hidden:,} more", style="dim"))
    return 1 + len(visible) + bool(hidden)


def _add_row(
    table: Table, task: TaskReading | None, loop: LoopReading | None, shown: Sequence[str]
) -> None:
    """Add the tasks of one name, with what is looped under it."""
    bar: RenderableType = ""
    if task is not None and task.items:
        bar = ProgressBar(total=task.items, completed=task.items_done)
    elif loop is not None:
        bar = Text(_iterations_text(loop), style="magenta")
    if task is None:
        assert loop is not None
        cells = ["", "", *[""] * len(shown), rate_text(loop.rate)]
        table.add_row(Text(f"  {loop.name}"), bar, *cells)
        return
    table.add_row(
        Text(f"  {task.name}"),
        bar,
        _done_text(task),
        _number(task.running, "cyan"),
        *[_number(getattr(task, name), OPTIONAL[name]) for name in shown],
        _rate_of(task, loop),
        duration_text(task.left) if task.left is not None else "",
    )


def _reasons(runs: Iterable[RunReading]) -> Iterable[Text]:
    for run in runs:
        for task in run.tasks:
            for reason, count in task.waits.items():
                text = Text(f"  {task.name}: {count:,} waiting for {reason}", style="dim")
                text.no_wrap, text.overflow = True, "ellipsis"
                yield text


def _number(count: int, style: str) -> Text:
    return Text(f"{count:,}", style=style) if count else Text("")


def rate_text(rate: float) -> str:
    """A rate per second, or per minute or hour where it is slow."""
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        if rate * seconds >= 1 or unit == "h":
            break
    number = rate * seconds
    return f"{number:,.0f}/{unit}" if number >= 100 else f"{number:.1f}/{unit}"


def duration_text(seconds: float) -> str:
    """Seconds as 4.2 s, 1:05 or 1:01:05."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
