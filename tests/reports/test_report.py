"""`cs.report`: one page about a run. A browser, where there is one, says what it makes of it."""

import contextlib
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import anyio
import pytest

import cascade as cs
from cascade.pictures.markup import MOST_ROWS, seconds
from cascade.reports.chart import MOST_SPANS
from cascade.reports.page import MOST_LINES, MOST_RUNS
from cascade.testing import virtual_time

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
NASTY = "<script>alert('x')</script>&\"\x01"

needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on PATH; on Debian: apt-get install chromium"
)


@cs.task
async def fetch(page):
    await anyio.sleep(page % 3 + 1)
    return page


@cs.task
async def total(xs):
    await anyio.sleep(1)
    return sum(xs)


@cs.task
def never(x):
    return x


@cs.task
def broken(x):
    raise ValueError(NASTY)


class Page(HTMLParser):
    """What tests ask of a page: its elements in order, its text, and that it is well nested."""

    VOID = frozenset({"meta", "input", "hr", "path", "rect", "polygon"})

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.text = ""
        self.open = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data

    def with_class(self, name):
        return [(t, a) for t, a in self.elements if name in (a.get("class") or "").split()]


@pytest.fixture
def reported(run, tmp_path):
    """Run a target, whatever becomes of it, and give the page about it."""

    def reported(target, *, shown=True, **options):
        bus = cs.MessageBus()
        with cs.record(bus) as recording, contextlib.suppress(ValueError):
            run(target, bus=bus, **options)
        path = cs.report(recording, tmp_path / "run.html", target=target if shown else None)
        return Page(path.read_text(encoding="utf-8"))

    return reported


def outcomes(page):
    """By node: what class its shape has for its outcome."""
    return {
        attrs["data-id"]: attrs["class"].split()[-1]
        for tag, attrs in page.with_class("cs-shape")
        if attrs["class"].split()[1] in ("cs-task", "cs-map")
    }


def test_the_graph_is_coloured_by_outcome(reported):
    """Each node of the graph shows whether it ran, failed, was skipped or never began."""
    ran, skipped = total(fetch.map(page=[1])), never(1).run_if(False, default=2)
    page = reported(cs.Router(0, {0: broken([ran, skipped]), 1: never(3)}))
    assert outcomes(page) == {
        "fetch#0": "ok",
        "total#1": "ok",
        "never#2": "skipped",
        "broken#3": "failed",
        "never#4": "idle",
    }


def test_the_graph_tells_loops(reported):
    """A node of a jump route is coloured by what its iterations did, where ids tell them apart."""

    @cs.task
    async def count(n):
        return cs.Jump("again", n - 1) if n else cs.Jump("out", n)

    def loop(task):
        first, again = count(3), task(0)
        for node in (first, again):
            cs.bind(node, cs.select_jump({"again": again, "out": None}))
        return first

    other = cs.task(count.func, name="other")
    assert outcomes(reported(loop(other))) == {"count#0": "ok", "other#1": "ok"}
    assert outcomes(reported(loop(count))) == {"count#0": "ok", "count#1": "maybe"}


def test_a_cancelled_task_is_shown_as_such(reported):
    """A task that was cancelled differs in the graph from one that never began."""
    page = reported([broken(fetch(0)), total(fetch.map(page=[2]))])
    assert outcomes(page)["fetch#2"] == "cancelled"
    assert outcomes(page)["total#3"] == "idle"


def test_a_failure_is_told_in_words_too(reported):
    """The outcome of a node stands in text, not in colour alone."""
    page = reported(broken(1))
    assert outcomes(page) == {"broken#0": "failed"}
    assert "broken#0failed" in page.text


def test_a_failure_that_is_answered_is_no_end_of_the_run(reported):
    """It is counted and told, as a failed attempt that was recovered from, in words too."""
    page = reported([broken(1).with_retry(2).with_fallback(2), never(3)])
    assert outcomes(page) == {"broken#0": "recovered", "never#1": "ok"}
    assert "broken#0at most 2 attempts" in page.text
    assert "runs, attempt 1, failed: " in page.text
    assert "runs, attempt 2, failed and recovered from: " in page.text
    assert page.with_class("Succeeded")
    assert not page.with_class("error")
    assert "1recovered" in page.text
    assert "Recovered fromtaskfailurebroken#0" in page.text


def test_the_timeline_shows_who_ran_and_who_waited(reported):
    """A row for each id, with a bar for each span, and the same in words."""
    page = reported(
        total(fetch.map(page=[1, 2]).with_constraints(gpu=1)), system_resources={"gpu": 1}
    )
    rows = [attrs["data-name"] for tag, attrs in page.elements if attrs.get("class") == "row"]
    # That one is parked may be published before the one that goes first has started.
    assert sorted(rows) == ["fetch#0[0]/fetch#0", "fetch#0[1]/fetch#0", "total#1"]
    bars = [
        (attrs["class"], attrs["style"])
        for tag, attrs in page.elements
        if tag == "i" and "title" in attrs
    ]
    assert sorted(bars[:3]) == [
        ("ok", "left:0.000%;width:33.333%"),
        ("ok", "left:33.333%;width:50.000%"),
        ("parked", "left:0.000%;width:33.333%"),
    ]
    assert bars[3:] == [
        ("inputs", "left:0.000%;width:83.333%"),
        ("ok", "left:83.333%;width:16.667%"),
    ]
    assert "at 0 s parked, attempt 1: capacity 'gpu', for 2 s" in page.text
    assert "at 0 s waits for inputs, for 5 s" in page.text


def test_the_tables_tell_where_the_time_went(reported):
    """The tables give, by node and by reason, how long tasks ran and waited, and for whom."""
    page = reported(
        total(fetch.map(page=[1, 2]).with_constraints(gpu=1)), system_resources={"gpu": 1}
    )
    assert "fetch#0[*]/fetch#022----2 s-5 s" in page.text
    assert "total#111---5 s--1 sfetch#0" in page.text
    assert "sum33---5 s2 s-6 s" in page.text
    assert "capacity 'gpu'12 s2 sfetch#0[1]/fetch#0" in page.text


def test_the_listing_is_that_of_disassemble(reported):
    """The report shows the listing of its target."""
    target = total(fetch.map(page=[1, 2]))
    assert cs.disassemble(target) in reported(target).text


def test_without_a_target_there_is_no_graph_and_no_listing(reported):
    """A report of events alone still has its chart and its tables."""
    page = reported(total([1]), shown=False)
    assert page.with_class("cs-picture") == []
    assert "Listing" not in page.text
    assert "total#0" in page.text


def test_another_target_is_noticed(run, tmp_path):
    """A report says how many executions belong to no node of the given target."""
    bus = cs.MessageBus()
    with cs.record(bus) as recording:
        run(total([1]), bus=bus)
    path = cs.report(recording, tmp_path / "run.html", target=never(1))
    assert "1 executions are of no node of this graph" in path.read_text(encoding="utf-8")


def test_everything_of_the_user_is_escaped(reported):
    """Names, messages, keys and reasons are text, whatever signs they hold."""
    named = cs.task(broken.func, name=NASTY.replace("\x01", ""))
    page = reported(cs.Router(0, {0: named(cs.Param(NASTY, 1)), NASTY: never(2)}))
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert "<script>alert('x')</script>&\"\ufffd" in page.text


def test_nothing_is_asked_of_the_network(reported):
    """No address but the name of SVG; the policy of the page forbids the rest."""
    page = reported(total([1]))
    (policy,) = [a["content"] for tag, a in page.elements if "http-equiv" in a]
    assert policy.startswith("default-src 'none';")
    for _, attrs in page.elements:
        assert not {"src", "href", "data", "action"} & set(attrs)
        assert not any("://" in (value or "") for name, value in attrs.items() if name != "xmlns")


def test_the_keyboard_reaches_everything(reported):
    """Rows open by key, tables sort by buttons, what scrolls can be focused and has a name."""
    page = reported(total(fetch.map(page=[1, 2])))
    assert sum(tag == "details" for tag, _ in page.elements) == 3
    assert sum(tag == "summary" for tag, _ in page.elements) == 3
    heads = [tag for tag, _ in page.elements if tag in ("th", "button")]
    assert heads.count("button") == 11
    scrolls = page.with_class("scroll")
    assert all("tabindex" in attrs and "aria-label" in attrs for _, attrs in scrolls)
    assert [a["lang"] for tag, a in page.elements if tag == "html"] == ["en"]


# What is too much for a page


def test_many_items_share_a_row_and_the_page_says_so(reported):
    """With too many rows the items of a map become one row, and the page says so."""
    page = reported(total(fetch.map(page=range(MOST_ROWS + 1))))
    rows = [attrs["data-name"] for tag, attrs in page.elements if attrs.get("class") == "row"]
    assert rows == ["fetch#0[*]/fetch#0", "total#1"]
    assert f"There are {MOST_ROWS + 2} ids. The items of a map share a row." in page.text
    assert f"at most {MOST_ROWS + 1} run and 0 wait at a time" in page.text


def test_many_nodes_of_a_name_share_a_row(reported):
    """With still too many rows the tasks of one name become one row, and the page says so."""
    page = reported([fetch(n) for n in range(MOST_ROWS + 1)])
    rows = [attrs["data-name"] for tag, attrs in page.elements if attrs.get("class") == "row"]
    assert rows == ["fetch"]
    assert f"{MOST_ROWS + 1} ids. The tasks of a name share a row." in page.text
    assert f"1 others{1}" in page.text


def test_many_names_are_cut_off_and_the_page_says_so(reported):
    """With too many names the first rows are shown, and the page says how many there are."""
    page = reported([cs.task(fetch.func, name=f"f{n}")(n) for n in range(MOST_ROWS + 5)])
    rows = [attrs["data-name"] for tag, attrs in page.elements if attrs.get("class") == "row"]
    assert len(rows) == MOST_ROWS
    assert f"The first {MOST_ROWS} of {MOST_ROWS + 5} rows are shown." in page.text


def test_many_iterations_are_shown_by_their_number(reported):
    """A page stays small: bars are merged where there are more than a page holds."""

    @cs.task
    async def count(n):
        return cs.Jump("again", n - 1) if n else cs.Jump("out", n)

    node = count(MOST_SPANS)
    cs.bind(node, cs.select_jump({"again": node, "out": None}))
    page = reported(node)
    assert "have more than 30 bars (1 here)" in page.text
    assert "at most 1 run and 0 wait" in page.text
    assert f"and {MOST_SPANS + 1 - 60:,} more" in page.text


def test_a_graph_that_is_too_large_is_left_out_and_the_page_says_so(run, tmp_path):
    """A target too large to draw or to list costs that part only."""
    bus = cs.MessageBus()
    with cs.record(bus) as recording:
        run(total([1]), bus=bus)
    target = [never(n) for n in range(max(2001, MOST_LINES + 1))]
    page = Page(cs.report(recording, tmp_path / "run.html", target=target).read_text())
    assert "The graph is left out: the target has" in page.text
    assert f"The first {MOST_LINES:,} of" in page.text


def test_dropped_events_and_runs_are_told(run, tmp_path):
    """The page says how many events and runs it does not show."""
    bus = cs.MessageBus()
    with cs.record(bus, limit=4 * (MOST_RUNS + 1)) as recording:
        for _ in range(MOST_RUNS + 2):
            run(total([1]), bus=bus)
    page = Page(cs.report(recording, tmp_path / "run.html").read_text())
    assert "dropped 4 before them" in page.text
    assert f"events of {MOST_RUNS + 1} runs. The last {MOST_RUNS} are shown." in page.text
    assert len(page.with_class("run")) == MOST_RUNS


def test_no_events_make_a_page_too(tmp_path):
    """A report of nothing is a page that says so."""
    page = Page(cs.report([], tmp_path / "run.html").read_text())
    assert "There are no events." in page.text


@pytest.mark.parametrize("time", [0.0, 1e-9, 3e-6, 0.0999, 0.99999, 59.99, 1e7])
def test_durations_are_short_and_have_a_unit(time):
    """A duration is a number with a fitting unit, correct to about half a percent."""
    number, unit = seconds(time).split(" ")
    factor = {"s": 1, "ms": 1e-3, "µs": 1e-6}[unit]
    assert float(number.replace(",", "")) * factor == pytest.approx(time, rel=0.006, abs=1e-7)


# In a browser


def dump(page: Path) -> str:
    """The document as the browser has it after the scripts of the page ran."""
    profile = page.parent / "profile"
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={profile}", "--dump-dom", page.as_uri()),
    ]
    done = subprocess.run([str(CHROMIUM), *options], capture_output=True, timeout=150, check=True)
    return done.stdout.decode()


PROBE = """
<script>
"use strict";
const told = {};
const button = document.querySelector("table.sortable th:first-child button");
const first = () => Array.from(document.querySelectorAll("table.sortable tbody tr"),
                               (row) => row.cells[0].textContent).join(" ");
told.before = first();
button.click();
told.falling = first();
button.click();
told.rising = first();
const search = document.querySelector("input[type=search]");
search.value = "TOTAL";
search.dispatchEvent(new Event("input"));
told.rows = Array.from(document.querySelectorAll(".row:not([hidden])"),
                       (row) => row.dataset.name).join(" ");
const bar = document.querySelector(".track i.ok").getBoundingClientRect();
const track = document.querySelector(".row:not([hidden]) .track").getBoundingClientRect();
const zoom = document.querySelector("input[type=range]");
zoom.value = 2;
zoom.dispatchEvent(new Event("input"));
const wider = document.querySelector(".row:not([hidden]) .track").getBoundingClientRect();
told.zoomed = wider.width > 1.5 * track.width;
const failed = document.querySelector(".cs-shape.ok .cs-body");
told.colour = getComputedStyle(failed).stroke;
const summary = document.querySelector(".row:not([hidden]) summary");
summary.focus();
told.focused = document.activeElement === summary;
summary.click();
told.opened = document.querySelector(".row[open] .history").getBoundingClientRect().height > 10;
document.body.dataset.told = JSON.stringify(told);
</script>
"""


@needs_browser
@pytest.mark.timeout(150)
def test_the_page_works_in_a_browser(tmp_path):
    """Tables sort, the search filters, the timeline zooms, rows open, shapes have their colours."""
    bus = cs.MessageBus()
    target = total(fetch.map(page=[1, 2]))
    with cs.record(bus) as recording:
        cs.run(target, bus=bus, backend_options=virtual_time("asyncio"))
    path = cs.report(recording, tmp_path / "run.html", target=target)
    text = path.read_text(encoding="utf-8").replace("</body>", f"{PROBE}</body>")
    path.write_text(text, encoding="utf-8")
    told = re.search(r'data-told="([^"]*)"', dump(path))
    assert told is not None, "the probe did not come to its end"
    values = told[1].replace("&quot;", '"')
    assert '"before":"fetch#0[*]/fetch#0 total#1"' in values
    assert '"falling":"total#1 fetch#0[*]/fetch#0"' in values
    assert '"rising":"fetch#0[*]/fetch#0 total#1"' in values
    assert '"rows":"total#1"' in values
    assert '"zoomed":true' in values
    assert '"colour":"rgb(' in values
    assert '"focused":true' in values
    assert '"opened":true' in values
