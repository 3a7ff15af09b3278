"""The other commands of `cascade`, and what `cascade run` writes, as processes."""

import json
import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

FLOW = """
import os
import time
import cascade as cs

@cs.task
def add(x, y=1):
    print("ran")
    return x + y

@cs.task
async def fetch(page):
    return page

@cs.task
def fail(x):
    raise ValueError(x)

@cs.task
def step(n):
    return cs.Jump("again" if n < 3 else "done", n + 1)

@cs.task
def nap():
    time.sleep(1)

@cs.task(mode="process")
def pid():
    return os.getpid() * 0

@cs.task
def strategy():
    import sys
    frame = sys._getframe()
    while frame:
        if frame.f_code.co_filename.endswith("machine.py"):
            return "vm"
        frame = frame.f_back
    return "graph"

@cs.resource
def database():
    yield 1

@cs.task
def look_up(table=cs.inject("database")):
    return table

pages = fetch.map(page=["a", "b"])
wide = [add(1), add(2).with_constraints(gpu=2)]
tired = nap()
both = [look_up(), pid()]

def counted():
    node = step(cs.Param("start", default=0, type=int))
    return add(cs.bind(node, cs.select_jump({"again": node, "done": None})))

def failing():
    return add(fail(3))

def refused():
    return add(cs.inject("nowhere"))

def differing():
    return strategy()

def circle():
    one, other = add(1), add(2)
    one.after(other)
    other.after(one)
    return one
"""


@pytest.fixture
def flow(tmp_path):
    (tmp_path / "flow.py").write_text(FLOW)


def printed(done):
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


def test_plan_tells_what_would_run_and_runs_nothing(cascade, flow):
    """Nodes in plan order, with loops and limits; no task is called."""
    told = printed(cascade("plan", "flow.py:counted", "--rate", "task:st*=5/s"))
    assert told == (
        "step#0  inline; n=<Param start>; task:st*: rate 5/s, burst 1; "
        "loop: 'again' to step#0, 'done' to the end\n"
        "add#1   inline; x=step#0\n"
    )
    assert "takes gpu=2 of 3;" in printed(
        cascade("plan", "flow.py:wide", "--limit", "gpu=3", "--concurrency", "global=1")
    )


def test_graph_draws_in_each_format(cascade, flow, tmp_path):
    """Mermaid by default, dot, SVG that parses; to a file if asked."""
    assert printed(cascade("graph", "flow.py:counted")).startswith("flowchart TD\n")
    assert printed(cascade("graph", "flow.py:counted", "--format", "dot")).startswith("digraph {")
    assert printed(cascade("graph", "flow.py:counted", "--format", "svg", "-o", "g.svg")) == ""
    assert ElementTree.parse(tmp_path / "g.svg").getroot().tag.endswith("svg")


def test_graph_takes_the_format_from_the_name_of_the_file(cascade, flow, tmp_path):
    """Of .svg, .dot and .gv; --format wins, and what it cannot draw is wrong usage."""
    written = {
        "g.svg": "<svg",
        "g.gv": "digraph {",
        "g.dot": "digraph {",
        "g.mmd": "flowchart TD",
    }
    for name, start in written.items():
        assert printed(cascade("graph", "flow.py:counted", "-o", name)) == ""
        assert (tmp_path / name).read_text().startswith(start)
    printed(cascade("graph", "flow.py:counted", "-o", "g.svg", "--format", "dot"))
    assert (tmp_path / "g.svg").read_text().startswith("digraph {")
    done = cascade("graph", "flow.py:counted", "-o", "g.png")
    assert (done.stdout, done.returncode) == ("", 2)
    assert "cannot draw .png (for 'g.png'); write -o FILE.svg" in done.stderr


def test_graph_says_what_it_cannot_do(cascade, flow):
    """A circle has no picture (1); a file that cannot be written is wrong usage (2)."""
    done = cascade("graph", "flow.py:circle")
    assert (done.stdout, done.returncode) == ("", 1)
    done = cascade("graph", "flow.py:wide", "-o", "no/such/place.svg")
    assert (done.returncode, done.stderr) == (
        2,
        "Error: cannot write 'no/such/place.svg': No such file or directory\n",
    )


def test_dis_lists_the_instructions(cascade, flow):
    """The listing of cs.disassemble."""
    told = printed(cascade("dis", "flow.py:pages"))
    assert told.startswith("fetch: 1 register\n")
    assert "return" in told


def test_check_ends_with_1_for_an_error_only(cascade, flow):
    """Hints and warnings are told, and do not fail."""
    assert printed(cascade("check", "flow.py:counted")) == "nothing found\n"
    assert printed(cascade("check", "flow.py:tired")).startswith("hint: nap#0: it calls time.sleep")
    assert printed(cascade("check", "flow.py:wide", "--limit", "gpu=2")) == "nothing found\n"
    assert printed(cascade("check", "flow.py:both")) == "nothing found\n"
    told = printed(cascade("check", "flow.py:wide", "--rate", "task:ad=1/s"))
    assert told.startswith("hint: the target: no task of it is in the scope 'task:ad'; did you")
    done = cascade("check", "flow.py:wide", "--limit", "gpu=1")
    assert done.stdout == "error: add#1: it takes gpu=2, more than there is (1)\n"
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("counted", 0, "graph and vm agree on asyncio and trio: Succeeded"),
        ("both", 0, "graph and vm agree on asyncio and trio: Succeeded"),
        ("failing", 0, "graph and vm agree on asyncio and trio: Failed with ValueError: 3"),
        ("refused", 0, "each refuses the target before anything runs"),
    ],
)
def test_agree_runs_both_strategies_on_both_loops(cascade, flow, name, code, said):
    """It says that they agree, and on what."""
    done = cascade("agree", f"flow.py:{name}")
    assert (done.returncode, done.stderr) == (code, "")
    assert said in done.stdout.splitlines()[-1]


def test_agree_fails_where_they_differ(cascade, flow):
    """The difference is told, exit code 1."""
    done = cascade("agree", "flow.py:differing")
    assert (done.stdout, done.returncode) == ("", 1)
    assert "graph" in done.stderr
    assert "vm" in done.stderr


def test_agree_with_a_task_that_exits_ends_with_1(command, tmp_path):
    """A task that exits fails the run, here as in `cascade run`."""
    (tmp_path / "leaving.py").write_text(
        "import cascade as cs\n\n@cs.task\ndef leave():\n    raise SystemExit(3)\n"
    )
    code, out, err = command("agree", "leaving.py:leave")
    assert (code, out) == (1, "")
    assert "SystemExit: 3" in err


def test_agree_takes_parameters(cascade, flow):
    """The same for each run: four runs of the last task."""
    told = printed(cascade("agree", "flow.py:counted", "-p", "start=2"))
    assert told.count("ran\n") == 4


def test_doctor_tries_everything():
    """Versions, extras, both loops with threads and processes, the cost of a checkpoint."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "cascade", "doctor"],
        capture_output=True,
        text=True,
        check=False,
    )
    told = dict(re.split(r" {2,}", line, maxsplit=1) for line in printed(done).splitlines())
    for name in ("Python", "cascade-vm", "anyio", "trio", "click", "rich", "opentelemetry-api"):
        assert re.match(r"\d+\.\d+", told[name]), name
    for backend in ("asyncio", "trio"):
        assert told[f"{backend}: runs"] == "works, graph and vm"
        assert told[f"{backend}: worker thread"] == "works"
        assert told[f"{backend}: worker process"] == "works"
        assert re.fullmatch(r"[\d.]+ us \(mean of \d+\)", told[f"{backend}: one checkpoint"])


def test_doctor_tells_what_is_missing_and_what_is_broken():
    """A missing extra is no fault; an event loop that does not start is, exit code 1."""
    program = (
        "import sys, importlib.metadata as m, anyio\n"
        "found, run = m.version, anyio.run\n"
        "def version(name):\n"
        "    if name == 'rich': raise m.PackageNotFoundError(name)\n"
        "    return found(name)\n"
        "m.version = version\n"
        "def broken(*args, backend, **options):\n"
        "    if backend == 'trio': raise OSError('no loop today')\n"
        "    return run(*args, backend=backend, **options)\n"
        "anyio.run = broken\n"
        "from cascade.command.cli import main\n"
        "raise SystemExit(main(['doctor']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "missing: pip install 'cascade-vm[progress]'" in done.stdout
    assert "broken: OSError: no loop today" in done.stdout


# What a run leaves in files


@pytest.fixture
def strategy(backend, use_vm):
    return ["--backend", backend, *["--vm"] * use_vm]


def test_events_are_written_a_line_each(command, flow, tmp_path, strategy):
    """From RunStarted to RunFinished, also of a run that fails."""
    assert command("run", "flow.py:failing", "--events", "events.jsonl", *strategy)[0] == 1
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == [
        "RunStarted",
        "TaskExecutionStarted",
        "TaskExecutionFinished",
        "RunFinished",
    ]
    assert events[-1]["error"]["type"] == "ValueError"


def test_a_trace_is_written_at_the_end(command, flow, tmp_path, strategy):
    """In the Chrome trace event format."""
    assert command("run", "flow.py:pages", "--trace", "trace.json", *strategy)[0] == 0
    trace = json.loads((tmp_path / "trace.json").read_text())
    slices = [each["name"] for each in trace["traceEvents"] if each["ph"] == "X"]
    assert slices.count("fetch") == 3  # the run, which is named after its target, and two items


def test_a_report_is_written_at_the_end(command, flow, tmp_path, strategy):
    """A page about the run, with the target; also of a run that fails."""
    assert command("run", "flow.py:failing", "--report", "run.html", *strategy)[0] == 1
    page = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "fail#0" in page
    assert "ValueError" in page


def test_lone_surrogates_are_written_as_escapes(command, tmp_path, strategy):
    """UTF-8 cannot hold what an error may say: JSON and the page tell of it all the same."""
    (tmp_path / "odd.py").write_text(
        "import cascade as cs\n\n@cs.task\ndef odd():\n    raise ValueError('lone \\udc80')\n"
    )
    files = ["--events", "events.jsonl", "--trace", "trace.json", "--report", "run.html"]
    code, _, err = command("run", "odd.py:odd", *files, *strategy)
    assert (code, "subscriber" in err) == (1, False)
    told = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert told[-1]["error"]["message"] == "lone \udc80"
    assert "lone \\udc80" in (tmp_path / "trace.json").read_text()
    assert "lone \ufffd" in (tmp_path / "run.html").read_text(encoding="utf-8")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full device")
@pytest.mark.parametrize("option", ["--events", "--trace", "--report"])
def test_a_file_that_fails_later_does_not_take_the_value_along(command, flow, option):
    """The value is printed before the files are finished; then the failure is told."""
    code, out, err = command("run", "flow.py:counted", option, "/dev/full")
    assert (code, out != "") == (1, True)
    assert "No space left on device" in err


@pytest.mark.parametrize("option", ["--events", "--trace", "--report"])
def test_a_file_that_cannot_be_written_is_wrong_usage(command, flow, option):
    """It is told before anything runs."""
    told = "Error: cannot write 'no/such/place': No such file or directory\n"
    assert command("run", "flow.py:counted", option, "no/such/place") == (2, "", told)


def test_progress_is_shown_if_asked_for(command, flow, strategy):
    """On standard error; without a terminal it is silent unless asked for."""
    for quiet in (["--quiet"], []):
        assert command("run", "flow.py:pages", *quiet, *strategy) == (0, '["a", "b"]\n', "")
    code, out, err = command("run", "flow.py:pages", "--progress", *strategy)
    assert (code, out) == (0, '["a", "b"]\n')
    assert "fetch Succeeded" in err


def test_progress_without_rich_is_told(tmp_path, flow):
    """What to install, exit code 2."""
    program = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'rich' else find(name, *more)\n"
        "from cascade.command.cli import main\n"
        "raise SystemExit(main(['run', 'flow.py:pages', '--progress']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("", 2)
    assert "pip install 'cascade-vm[progress]'" in done.stderr
