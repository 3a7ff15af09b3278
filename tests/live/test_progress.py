"""Progress: what is counted, what is shown of it, and that showing it changes nothing."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from rich.console import Console

import cascade as cs
from cascade.core.activity import Activity
from cascade.core.run import Run
from cascade.live.display import duration_text, line, picture, rate_text
from cascade.live.readings import Reader, RecentRate, RunReading, TaskReading
from cascade.testing import virtual_time


@cs.task
async def fetch(page: int, seconds: float = 1.0) -> int:
    await anyio.sleep(seconds)
    return page


@cs.task
def total(pages: list[int]) -> int:
    return sum(pages)


@cs.task
def step(n: int, last: int) -> Any:
    return cs.Jump("again", n + 1) if n < last else n


def loop(last: int) -> cs.LazyResult[int]:
    node = step(1, last)
    return cs.bind(node, cs.select_jump({"again": node}))


def flaky(failures: int, name: str = "flaky") -> cs.Task[[], str]:
    left = [failures]

    @cs.task(name=name)
    async def fails() -> str:
        await anyio.sleep(1)
        if left[0]:
            left[0] -= 1
            raise ConnectionError("reset")
        return "ok"

    return fails


def terminal(width: int = 100, height: int = 30) -> tuple[Console, io.StringIO]:
    """A terminal without colours, and what is written to it."""
    file = io.StringIO()
    console = Console(
        file=file, force_terminal=True, color_system=None, width=width, height=height, _environ={}
    )
    return console, file


def plain() -> tuple[Console, io.StringIO]:
    """A file, and what is written to it."""
    file = io.StringIO()
    return Console(file=file, width=100, _environ={}), file


@pytest.fixture
def shown(inside, use_vm):
    """Runs a target on an engine whose progress is shown on a console; returns its value."""

    def shown(target: Any, console: Console, **options: Any) -> Any:
        interval = options.pop("interval", None)

        async def main() -> Any:
            engine = cs.Engine(**options)
            async with cs.Progress(engine, console=console, interval=interval):
                return await engine.run(target, use_vm=use_vm)

        return inside(main)

    return shown


# What is counted


@pytest.fixture
def counted(inside, use_vm):
    """Runs a target and returns the counters of the run, and how often each event was heard."""

    def counted(target: Any, **options: Any) -> tuple[Activity, Counter[tuple[str, str]]]:
        found: list[Activity] = []
        heard: Counter[tuple[str, str]] = Counter()

        def hear(event: cs.TaskEvent) -> None:
            what = getattr(event, "status", "") or type(event).__name__
            heard[event.task_name, what] += 1

        async def main() -> None:
            engine = cs.Engine(**options)
            engine.bus.subscribe(cs.TaskEvent, hear)
            engine.on_run = found.append
            with suppress(ConnectionError):
                await engine.run(target, use_vm=use_vm)

        inside(main)
        [activity] = found
        return activity, heard

    return counted


@cs.task(mode="thread")
def in_thread() -> int:
    return 1


@cs.task
def awaited() -> Any:
    return anyio.sleep(1)


@cs.task
def follows() -> Any:
    return fetch.map(page=[1, 2])


def unsure(*failures: int) -> cs.LazyResult[str]:
    left = list(failures)

    @cs.task
    def fails() -> str:
        if left:
            raise ConnectionError(left.pop())
        return "ok"

    return fails()


def twice_cached(cache: cs.InMemoryCache) -> cs.LazyResult[int]:
    return cs.sequence([fetch(1).with_cache(cache), fetch(1).with_cache(cache)])


TARGETS = {
    "inline": lambda: total([]),
    "async": lambda: total([fetch(1), fetch(2)]),
    "map": lambda: total(fetch.map(page=range(5))),
    "map of nothing": lambda: fetch.map(page=[]),
    "retries": lambda: [flaky(2)().with_retry(3, delay=0.5), flaky(1)().with_retry(2)],
    "inline retries": lambda: [unsure(1).with_retry(2), unsure(1, 2).with_retry(3, delay=0.5)],
    "failure": lambda: [flaky(9)().with_retry(2), fetch(1, 100)],
    "cache": lambda: twice_cached(cs.InMemoryCache()),
    "inline and cached": lambda: total([]).with_cache(cs.InMemoryCache()),
    "waiting": lambda: fetch.map(page=range(4)).with_constraints(slot=1),
    "thread": lambda: in_thread(),
    "awaitable": lambda: awaited(),
    "returned": lambda: [follows()],
    "loop": lambda: loop(10),
    "recovered": lambda: [flaky(9)().with_retry(2).settled(), flaky(1)().with_fallback(fetch(1))],
}


@pytest.mark.parametrize("name", TARGETS)
def test_counters_say_what_events_say(counted, name):
    """Of each task, starts, ends, retries and cache hits are counted as often as they are told."""
    activity, heard = counted(TARGETS[name](), system_resources={"slot": 1})
    told = {task_name for task_name, _ in heard}
    assert told == {n for n, task in activity.tasks.items() if task.started or task.cached}
    for task_name, task in activity.tasks.items():
        said = {what: count for (n, what), count in heard.items() if n == task_name}
        assert task.started == said.get("TaskExecutionStarted", 0)
        assert task.succeeded == said.get("Succeeded", 0)
        assert task.failed == said.get("Failed", 0)
        assert task.cancelled == said.get("Cancelled", 0)
        assert task.retried == said.get("TaskRetrying", 0)
        assert task.restarted == task.retried
        assert task.cached == said.get("TaskSkipped", 0)
        assert task.recovered == said.get("TaskRecovered", 0)
        assert task.started == task.succeeded + task.failed + task.cancelled
        assert task.parked == {}


def test_whoever_waits_waits_for_one_thing(inside, use_vm):
    """Of a map, every item that is not done runs, waits for its next attempt, or is parked."""
    found: list[Activity] = []
    tasks = []

    @cs.task
    async def fails_once(n: int, failed: set[int]) -> None:
        await anyio.sleep(0.7)
        if n % 2 and n not in failed:
            failed.add(n)
            raise ConnectionError("reset")

    async def main() -> None:
        engine = cs.Engine(system_resources={"slot": 3})
        engine.on_run = found.append
        engine.constraints.limit_rate("task:fails_once", 2)
        target = fails_once.map(n=range(12), failed=[set()] * 12).with_retry(2, delay=1.1)
        async with anyio.create_task_group() as group:
            group.start_soon(
                lambda: engine.run(target.with_constraints(slot=1), use_vm=use_vm),
            )
            await anyio.wait_all_tasks_blocked()
            reader = Reader(found[0])
            while (reading := reader.read(anyio.current_time())).status is None:
                tasks.extend(reading.tasks)
                await anyio.sleep(0.1234)

    inside(main)
    assert len(tasks) > 20
    assert any("the next attempt" in task.waits for task in tasks)
    assert any(len(task.waits) > 1 for task in tasks)
    for task in tasks:
        assert task.items_done + task.running + task.waiting == task.items == 12


def test_the_items_of_maps_are_counted(counted):
    """A map tells how many items it has when it starts, and each item when it has its value."""
    activity, _ = counted([fetch.map(page=range(5)), fetch.map(page=[7])])
    task = activity.tasks["fetch"]
    assert (task.items, task.items_done) == (6, 6)


def test_an_item_is_done_with_what_it_returned(counted):
    """An item whose task returns an expression is done when that has its value."""

    @cs.task
    def start(page: int) -> Any:
        return fetch(page)

    activity, _ = counted(start.map(page=[1, 2]))
    assert (activity.tasks["start"].items, activity.tasks["start"].items_done) == (2, 2)
    assert activity.tasks["fetch"].succeeded == 2


def test_the_iterations_of_loops_are_counted(counted):
    """Each execution in a loop counts, whether by Jump or by TailCall; one alone is no loop."""

    @cs.task
    def countdown(n: int) -> Any:
        return cs.TailCall((n - 1,)) if n else 0

    activity, _ = counted([loop(10), countdown(4), countdown(0), follows()])
    assert activity.iterations == {"step": 10, "countdown": 5}
    activity.iterated("step", 1000)
    assert activity.iterations["step"] == 1010


@cs.task
def again(n: int, value: int) -> Any:
    return cs.Jump("again", {"n": n - 1}) if n else value


@cs.task
def unfold(n: int, value: int) -> Any:
    return unfold(n - 1, total([value])) if n else value


@cs.task
async def drip(n: int) -> Any:
    await anyio.sleep(1)
    return cs.Jump("again", n - 1) if n else "over"


def looped(node: cs.LazyResult[Any]) -> cs.LazyResult[Any]:
    return cs.bind(node, cs.select_jump({"again": node}))


HOT = {
    "a loop with calls in it": lambda: looped(again(600, total([total([1]), 2]))),
    "a loop that awaits": lambda: looped(drip(300)),
    "returned expressions": lambda: unfold(400, 1),
}


@pytest.mark.parametrize("name", HOT)
def test_hot_loops_are_counted_as_others_are(inside, name):
    """Fused code counts what the graph strategy counts, under subscribers too."""

    async def counters(use_vm: bool, heard: bool) -> Activity:
        found: list[Activity] = []
        engine = cs.Engine()
        engine.on_run = found.append
        if heard:
            engine.bus.subscribe(cs.TaskEvent, lambda event: None)
        await engine.run(HOT[name](), use_vm=use_vm)
        assert bool(engine.statistics().fused_entries) == use_vm
        return found[0]

    def told(activity: Activity) -> Any:
        calls = {n: (t.started, t.succeeded) for n, t in activity.tasks.items()}
        return calls, activity.iterations

    reference = told(inside(counters, False, False))
    assert told(inside(counters, True, False)) == reference
    assert told(inside(counters, True, True)) == reference


def test_a_loop_that_awaits_is_counted_while_it_goes_on(inside):
    """Its iterations are there to be shown, and those of a cancelled loop too.

    A batch of fused code, 64 iterations at most while they take no real time, is counted at once.
    """

    async def main() -> list[int]:
        found: list[Activity] = []
        engine = cs.Engine()
        engine.on_run = found.append
        seen = []

        async def looks() -> None:
            for _ in range(3):
                await anyio.sleep(100)
                seen.append(found[0].iterations["drip"])

        with anyio.move_on_after(350):
            async with anyio.create_task_group() as group:
                group.start_soon(looks)
                await engine.run(looped(drip(10**6)), use_vm=True)
        return [*seen, found[0].iterations["drip"]]

    *seen, last = inside(main)
    assert all(
        -1 <= at - count <= 64 + 1 for at, count in zip((100, 200, 300), seen, strict=True)
    ), seen
    assert 350 - 1 <= last <= 350 + 1


def test_a_run_nobody_shows_keeps_no_counters(inside, use_vm):
    """Without somebody who hears of runs there is nothing to count into."""

    async def main():
        assert Run(cs.Engine().services, None, None).activity is None

    inside(main)


@pytest.mark.parametrize("status", ["Succeeded", "Failed", "Cancelled"])
def test_a_run_ends_with_its_status(inside, use_vm, status):
    """The counters of a run have the status and the times of the run in the end."""
    found: list[Activity] = []

    async def main():
        engine = cs.Engine()
        engine.on_run = found.append
        await anyio.sleep(10)
        with anyio.move_on_after(1 if status == "Cancelled" else 100):
            failures = 1 if status == "Failed" else 0
            with suppress(ConnectionError):
                await engine.run([flaky(failures)(), fetch(1, 2)], use_vm=use_vm)

    inside(main)
    [activity] = found
    assert (activity.target, activity.status) == ("list", status)
    assert activity.began_at == 10
    assert activity.ended_at == (12 if status == "Succeeded" else 11)


# Plain lines


def test_plain_lines_come_at_a_modest_interval(shown):
    """Without a terminal: a line every ten seconds of what goes on, and one for the end."""
    console, file = plain()
    target = total(fetch.map(page=range(5), seconds=[4.8] * 5).with_constraints(slot=1))
    assert shown(target, console, system_resources={"slot": 1}) == 10
    assert file.getvalue().splitlines() == [
        "total running 10.0 s: fetch 2/5 done, 1 running, 2 waiting for capacity 'slot', "
        "12.3/min, 14.6 s left",
        "total running 20.0 s: fetch 4/5 done, 1 running, 12.3/min, 4.9 s left",
        "total Succeeded after 24.0 s: fetch 5/5 done, 12.5/min; total 1 done",
    ]


def test_a_line_tells_of_retries_and_failures(shown):
    """Attempts that are awaited, made again, or failed for good are told apart."""
    console, file = plain()
    with pytest.raises(ConnectionError):
        shown(flaky(9)().with_retry(3, delay=2), console, interval=2.2)
    assert file.getvalue().splitlines() == [
        "flaky running 2.2 s: flaky 0 done, 1 waiting for the next attempt, 1 retried",
        "flaky running 4.4 s: flaky 0 done, 1 waiting for the next attempt, 2 retried",
        "flaky running 6.6 s: flaky 0 done, 1 running, 2 retried",
        "flaky Failed after 7.0 s: flaky 0 done, 2 retried, 1 failed",
    ]


def test_a_call_that_is_recovered_from_is_done(shown):
    """It is no failure, of a node and of the items of a map."""

    @cs.task
    async def odd(x: int) -> int:
        await anyio.sleep(1)
        if x % 2:
            raise ConnectionError(x)
        return x

    console, file = plain()
    shown(flaky(9)().with_retry(2).settled(), console)
    shown(odd.map(x=range(4)).with_fallback(-1), console)
    assert file.getvalue().splitlines() == [
        "flaky Succeeded after 2.0 s: flaky 1 done, 1 retried, 1 recovered",
        "odd Succeeded after 1.0 s: odd 4/4 done, 2 recovered, 4.0/s",
    ]


def test_a_loop_tells_its_iterations(shown):
    """A loop is shown with its iterations and their rate."""

    @cs.task
    async def crawl(n: int) -> Any:
        await anyio.sleep(0.45)
        return cs.Jump("again", n + 1) if n < 24 else n

    node = crawl(0)
    console, file = plain()
    shown(cs.bind(node, cs.select_jump({"again": node})), console)
    assert file.getvalue().splitlines() == [
        "crawl running 10.0 s: crawl 23 iterations, 1 running, 2.3/s",
        "crawl Succeeded after 11.2 s: crawl 25 iterations, 2.2/s",
    ]


def test_progress_is_an_option_of_a_run(run, capsys):
    """`cs.run(..., progress=True)` shows the run on standard error, which leaves output alone."""
    assert run(total(fetch.map(page=range(3))), progress=True) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ("total Succeeded after 1.0 s: fetch 3/3 done, 3.0/s; total 1 done\n")


def test_progress_is_an_option_inside_an_event_loop(inside, use_vm, capsys):
    """`await cs.run_async(..., progress=True)` does the same."""

    async def main():
        return await cs.run_async(fetch(7), progress=True, use_vm=use_vm)

    assert inside(main) == 7
    assert capsys.readouterr().err == "fetch Succeeded after 1.0 s: fetch 1 done\n"


def test_a_run_of_an_engine_is_shown_on_request(inside, use_vm, capsys):
    """`engine.run(..., progress=True)` shows that run; a Progress around it shows it by itself."""

    async def main():
        engine = cs.Engine()
        await engine.run(fetch(7), progress=True, use_vm=use_vm)
        assert capsys.readouterr().err == "fetch Succeeded after 1.0 s: fetch 1 done\n"
        await engine.run(fetch(7), use_vm=use_vm)
        assert capsys.readouterr().err == ""
        async with cs.Progress(engine):
            await engine.run(fetch(7), progress=True, use_vm=use_vm)
        assert capsys.readouterr().err.count("Succeeded") == 1

    inside(main)


def test_runs_that_are_refused_are_not_shown(run, capsys):
    """What is refused before anything runs did not begin."""
    with pytest.raises(cs.MissingParameterError):
        run(total(cs.Param("pages", type=list)), progress=True)
    assert capsys.readouterr().err == ""


# A terminal


def test_a_terminal_shows_what_goes_on_and_what_it_came_to(shown):
    """While it runs: how much is done, running and waiting for what; then the whole for good."""
    console, file = terminal()
    pages = fetch.map(page=range(4), seconds=[1.1] * 4)
    target = total(pages.with_constraints(slot=1))
    shown(target, console, system_resources={"slot": 2})
    pictures = file.getvalue()
    assert "running 0.5 s" in pictures
    assert "0/4" in pictures
    assert "fetch: 2 waiting for capacity 'slot'" in pictures
    assert "2/4" in pictures
    assert "1.8 s" in pictures  # what is left
    kept = pictures[pictures.rindex("Succeeded after 2.2 s") :]
    assert "4/4" in kept
    assert "1.8/s" in kept
    assert "running" not in kept


def test_a_terminal_is_left_as_it_was(shown):
    """The cursor is shown again, also after a failure."""
    console, file = terminal()
    with pytest.raises(ConnectionError):
        shown([flaky(1)(), fetch(1, 5)], console)
    hidden, shown_again = file.getvalue().rindex("\x1b[?25l"), file.getvalue().rindex("\x1b[?25h")
    assert shown_again > hidden
    assert "Failed after 1.0 s" in file.getvalue()


def test_runs_at_the_same_time_share_the_picture(inside, use_vm):
    """All runs of the engine are shown together; each stays when it has ended."""
    console, file = terminal()

    async def main():
        engine = cs.Engine()
        async with cs.Progress(engine, console=console), anyio.create_task_group() as group:
            for seconds in (1, 2):
                target = cs.task(anyio.sleep, name=f"sleep{seconds}")(seconds)
                group.start_soon(lambda target=target: engine.run(target, use_vm=use_vm))

    inside(main)
    pictures = file.getvalue().split("\x1b[2K")
    assert any("sleep1" in each and "sleep2" in each for each in pictures)
    assert "Succeeded after 1.0 s" in file.getvalue()
    assert "Succeeded after 2.0 s" in file.getvalue()


def test_many_runs_that_end_at_once_are_summed_up(inside, use_vm):
    """Of many runs that ended between two samples a few are printed, the others counted."""
    console, file = plain()

    async def main():
        engine = cs.Engine()
        async with cs.Progress(engine, console=console):
            for _ in range(12):
                await engine.run(total([1]), use_vm=use_vm)

    inside(main)
    assert file.getvalue().splitlines() == [
        *["total Succeeded after 0.0 s: total 1 done"] * 5,
        "7 more runs ended: 7 Succeeded",
    ]


@pytest.mark.parametrize("height", [10, 24])
def test_a_picture_fits_into_the_terminal(height):
    """However many tasks there are, what goes on comes first and the rest is counted."""
    console, file = terminal(height=height)
    activity = Activity("r", lambda _: None)
    activity.begin("big", 0.0)
    for n in range(200):
        activity.started(f"task{n}", 1)
        if n != 150:
            activity.ended(f"task{n}", "Succeeded")
        activity.parked(f"other{n}", f"reason {n}", 1)
    console.print(picture([Reader(activity).read(1.0)], console))
    rows = file.getvalue().splitlines()
    assert len(rows) < height
    assert any("more reasons" in row for row in rows)
    assert any(row.strip().endswith("more") for row in rows)


def test_a_narrow_terminal_gets_no_wrapped_rows():
    """A table takes one row a task, whatever the width."""
    console, file = terminal(width=60)
    activity = Activity("r", lambda _: None)
    activity.begin("target", 0.0)
    activity.mapped("a_task_with_quite_a_long_name", 1_000_000)
    activity.parked(
        "a_task_with_quite_a_long_name", "rate_limit 'api' on 'task:a_task_with'" * 3, 1
    )
    console.print(picture([Reader(activity).read(1.0)], console))
    rows = file.getvalue().splitlines()
    assert len(rows) == 4
    assert max(map(len, rows)) <= 60


PRINTING = """
import sys, anyio
import cascade as cs
from cascade.testing import virtual_time

@cs.task
async def fetch(page):
    await anyio.sleep(1)
    print("page", page)
    return page

cs.run(fetch.map(page=[1, 2]), progress=True, backend_options=virtual_time("asyncio"))
print("done", sys.stdout.isatty())
"""


def run_in_terminal(program: str, tmp_path: Path, **redirected: Any) -> str:
    """What a program writes to a pseudo-terminal."""
    pty = pytest.importorskip("pty")
    file = tmp_path / "program.py"
    file.write_text(program)
    ours, theirs = pty.openpty()
    streams = {"stdout": theirs, "stderr": theirs, **redirected}
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen([sys.executable, "-P", str(file)], env=environment, **streams)
    os.close(theirs)
    said = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        said += piece
    os.close(ours)
    assert process.wait() == 0
    return said.decode()


def test_what_tasks_print_appears_above_the_picture(tmp_path):
    """On a real terminal, output and progress do not overwrite each other."""
    said = run_in_terminal(PRINTING, tmp_path)
    assert "page 1\r\n" in said
    assert "page 2\r\n" in said
    assert "2/2" in said
    assert said.rstrip().endswith("done True")


def test_redirected_output_stays_free_of_progress(tmp_path):
    """With output in a file, the file has what tasks print and the terminal has the progress."""
    with (tmp_path / "output").open("wb") as output:
        said = run_in_terminal(PRINTING, tmp_path, stdout=output)
    assert (tmp_path / "output").read_text() == "page 1\npage 2\ndone False\n"
    assert "2/2" in said
    assert "page" not in said


def test_the_rate_of_a_loop_is_that_of_its_iterations(inside, use_vm):
    """Also where the virtual machine goes round by itself, and tells of iterations only."""

    @cs.task
    async def poll(n: int) -> Any:
        await anyio.sleep(1)
        return cs.Jump("again", n + 1) if n < 500 else n

    node = poll(1)
    console, said = plain()

    async def main():
        engine = cs.Engine()
        async with cs.Progress(engine, console=console, interval=3600):
            await engine.run(cs.bind(node, cs.select_jump({"again": node})), use_vm=use_vm)

    inside(main)
    assert said.getvalue() == "poll Succeeded after 8:20: poll 500 iterations, 1.0/s\n"


# It changes nothing


def test_it_subscribes_to_nothing(inside, use_vm):
    """While it is shown, nobody listens to tasks: fast paths that depend on it stay."""
    console, _ = terminal()
    heard = []

    @cs.task
    def look() -> None:
        heard.append(engine.bus.hears_tasks or engine.bus.listens(cs.RunStarted))

    engine = cs.Engine()

    async def main():
        async with cs.Progress(engine, console=console):
            await engine.run(look(), use_vm=use_vm)

    inside(main)
    assert heard == [False]


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit("mine"), StopAsyncIteration()])
def test_a_failure_surfaces_as_itself(inside, use_vm, error):
    """What the block raises is raised by it, the same object, in no group."""
    console, _ = terminal()

    @cs.task
    async def fails() -> None:
        await anyio.sleep(1)
        raise error

    async def main():
        engine = cs.Engine()
        async with cs.Progress(engine, console=console):
            await engine.run(fails(), use_vm=use_vm)

    with pytest.raises(type(error)) as caught:
        inside(main)
    assert caught.value is error


@pytest.mark.parametrize("make", [terminal, plain])
def test_a_cancelled_block_ends_at_once_and_says_so(inside, use_vm, make):
    """Cancelled in the middle, it shows that, leaves no task, and can be entered again."""
    console, file = make()

    async def main():
        engine = cs.Engine()
        progress = cs.Progress(engine, console=console)
        for _ in range(2):
            with anyio.move_on_after(1.6) as scope:
                async with progress:
                    await engine.run(fetch(1, 100), use_vm=use_vm)
            assert scope.cancelled_caught
            assert engine.on_run is None
        assert anyio.current_time() == 3.2

    inside(main)
    assert file.getvalue().count("fetch") >= 2
    assert file.getvalue().count("Cancelled after 1.6 s") == 2


def test_asyncio_may_cancel_the_task_that_shows_it(use_vm):
    """A task cancelled by asyncio itself, not by anyio, is cancelled in the end."""
    console, file = plain()

    async def main():
        engine = cs.Engine()

        async def show():
            async with cs.Progress(engine, console=console):
                await engine.run(fetch(1, 100), use_vm=use_vm)

        task = asyncio.create_task(show())
        await asyncio.sleep(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert engine.on_run is None
        assert asyncio.all_tasks() == {asyncio.current_task()}

    anyio.run(main, backend_options=virtual_time("asyncio"))
    assert "Cancelled after 2.0 s" in file.getvalue()


class Terminal(io.StringIO):
    """Says that it is one, and takes so many texts."""

    def __init__(self, takes: int) -> None:
        super().__init__()
        self.takes = takes

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.takes -= 1
        if self.takes < 0:
            raise OSError("no space left")
        return super().write(text)


@pytest.mark.parametrize(
    ("takes", "is_terminal"),
    [(3, True), (0, False), (0, True)],
    ids=["later", "no terminal", "at once"],
)
def test_a_console_that_fails_does_not_end_the_run(
    inside, use_vm, caplog, monkeypatch, takes, is_terminal
):
    """What cannot be shown is logged, once, and the run goes on; output is given back."""
    output = Terminal(1000)
    monkeypatch.setattr(sys, "stdout", output)
    file = Terminal(takes)
    console = Console(file=file, width=80, force_terminal=is_terminal, _environ={})
    replaced = []

    @cs.task
    async def work() -> int:
        await anyio.sleep(2)
        replaced.append(sys.stdout is not output)
        return 7

    async def main():
        engine = cs.Engine()
        async with cs.Progress(engine, console=console, interval=0.25):
            return await engine.run(work(), use_vm=use_vm)

    assert inside(main) == 7
    [record] = caplog.records
    assert record.name == "cascade"
    assert "no space left" in str(record.exc_info)
    assert replaced == [bool(takes)]
    assert sys.stdout is output


def test_one_progress_an_engine(inside):
    """Another one on an engine that is shown already is refused; afterwards it is not."""

    async def main():
        engine = cs.Engine()
        first, second = (cs.Progress(engine, console=plain()[0]) for _ in range(2))
        async with first:
            with pytest.raises(RuntimeError, match="shown already"):
                await second.__aenter__()
        async with second:
            pass

    inside(main)


def test_it_takes_an_engine_and_a_console():
    """Anything else is refused, and shown."""
    with pytest.raises(TypeError, match="is no engine"):
        cs.Progress(total([]))
    with pytest.raises(TypeError, match="console="):
        cs.Progress(cs.Engine(), console=sys.stderr)


@pytest.mark.parametrize("interval", [0, -1, float("nan"), float("inf"), "1"])
def test_an_interval_is_seconds_above_0(interval):
    """Anything else is refused, by name."""
    with pytest.raises(ValueError, match="interval="):
        cs.Progress(cs.Engine(), interval=interval)


def test_without_rich_the_error_says_what_to_install():
    """It is raised before anything runs; `import cascade` needs no rich, nor does it load it."""
    program = """
import sys
import cascade as cs
assert not [name for name in sys.modules if name.split(".")[0] in ("rich", "opentelemetry")]
sys.modules["rich"] = None
@cs.task
def work():
    print("ran")
try:
    cs.run(work(), progress=True)
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True
    )
    assert "pip install 'cascade-vm[progress]'" in done.stdout
    assert "ran" not in done.stdout


# Readings and texts


def test_a_rate_is_that_of_the_last_seconds():
    """Samples that are too old do not count; what has stopped is told by its overall rate."""
    rate = RecentRate(0.0)
    for second in range(1, 101):
        rate.add(float(second), min(second, 60) * 10)
    assert rate.recent == pytest.approx(0.0, abs=0.5)
    assert rate.overall == 10.0
    assert rate.rests(100.0)
    assert not rate.rests(61.0)


def test_there_is_no_rate_without_time():
    """Before any time has passed a rate is 0, not an error."""
    rate = RecentRate(5.0)
    rate.add(5.0, 3)
    assert (rate.recent, rate.overall) == (0.0, 0.0)


def test_a_map_that_is_held_up_has_no_time_left():
    """If nothing was done in the last seconds, nobody knows how long the rest takes."""
    activity = Activity("r", lambda _: None)
    activity.begin("fetch", 0.0)
    activity.mapped("fetch", 10)
    reader = Reader(activity)
    reader.read(0.25)
    activity.item_done("fetch")
    for n in range(2, 100):
        reading = reader.read(n / 4)
    [task] = reading.tasks
    assert (task.rate, task.left) == (0.0, None)
    assert (task.items_done, task.items) == (1, 10)


def test_a_reading_of_many_tasks_is_a_short_line():
    """A line names a few tasks and counts the rest."""
    tasks = tuple(TaskReading(f"t{n}", 1, 0, {}, 0, 0, 0, 0, 0, 0, 0.0, None) for n in range(20))
    text = line(RunReading("list", "Succeeded", 90.0, tasks, ()))
    assert text.startswith("list Succeeded after 1:30: t0 1 done; t1 1 done")
    assert text.endswith("t7 1 done; 12 more")


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0, "0.0/h"), (0.5, "30.0/min"), (0.001, "3.6/h"), (2.25, "2.2/s"), (12345.6, "12,346/s")],
)
def test_rates_are_told_in_a_fitting_unit(rate, text):
    """Per second, minute or hour, so that the number is 1 or more where it can be."""
    assert rate_text(rate) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (4.24, "4.2 s"), (59.97, "1:00"), (65, "1:05"), (3661, "1:01:01")],
)
def test_durations_are_told_like_a_clock(seconds, text):
    """Seconds while they are few, then minutes and hours."""
    assert duration_text(seconds) == text


def test_the_image_of_the_docs_shows_what_progress_shows_today(tmp_path: Path) -> None:
    """`docs/images/progress.svg` is what `tools/progress_image.py` draws, to the byte."""
    root = Path(__file__).resolve().parents[2]
    drawn = tmp_path / "progress.svg"
    tool = root / "tools" / "progress_image.py"
    subprocess.run([sys.executable, "-P", tool, drawn], check=True, timeout=150)
    assert drawn.read_bytes() == (root / "docs" / "images" / "progress.svg").read_bytes()
