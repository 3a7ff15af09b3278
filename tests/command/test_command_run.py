"""`cascade run` as a process: values, parameters, limits, exit codes, tracebacks."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FLOW = """
import anyio
import cascade as cs

@cs.task
async def fetch(page):
    await anyio.sleep(0)
    return {"page": page}

@cs.task
def add(x, y=1):
    return x + y

@cs.task
def fail(x):
    return inner(x)

def inner(x):
    try:
        return {}[x]
    except KeyError as error:
        raise ValueError("no such thing") from error

@cs.task
def leave():
    raise SystemExit(3)

@cs.resource
def database():
    print("open")
    yield {"a": 1}
    print("close")

@cs.task
def look_up(key, table=cs.inject("database")):
    return table[key]

@cs.task
def an_object():
    return object

count = cs.Param("count", default=3, type=int, description="how many to add to")
pages = fetch.map(page=["a", "ä"])

def total():
    return add(count, cs.Param("more", type=float))

def failing():
    return add(fail(add(1)))

def home():
    return add(cs.Env("CASCADE_TEST_HOME"), "/x")

def scarce():
    return add.map(x=[1, 2, 3]).with_constraints(gpu=1)

def nothing():
    return 3

async def later():
    return add(1)

def broken():
    raise RuntimeError("no target today")

def circle():
    one, other = add(1), add(2)
    one.after(other)
    other.after(one)
    return one
"""


@pytest.fixture
def flow(tmp_path):
    (tmp_path / "flow.py").write_text(FLOW, encoding="utf-8")
    return "flow.py"


@pytest.fixture
def strategy(backend, use_vm):
    return ["--backend", backend, *["--vm"] * use_vm]


def one_line(text):
    assert text.count("\n") == 1, text
    return text.rstrip("\n")


def test_the_value_is_printed_as_json(cascade, flow, strategy):
    """What JSON can say is printed so, letters as they are."""
    done = cascade("run", "flow.py:pages", *strategy, env={**os.environ, "PYTHONUTF8": "1"})
    assert (done.stdout, done.returncode) == ('[{"page": "a"}, {"page": "ä"}]\n', 0), done.stderr
    assert json.loads(done.stdout) == [{"page": "a"}, {"page": "ä"}]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        ((1, "a"), '[1, "a"]'),
        ({1, 2}, "{1, 2}"),
        (float("nan"), "nan"),
        ({"when": b"x"}, "{'when': b'x'}"),
        ({(1, 2): 3}, "{(1, 2): 3}"),
        ("\ud800", '"\\ud800"'),  # which no encoding has
        ({"\ud800"}, "{'\\ud800'}"),
    ],
)
def test_what_json_cannot_say_is_printed_by_its_repr(command, tmp_path, value, shown):
    """NaN, bytes, sets and keys that are no text have no JSON."""
    (tmp_path / "giving.py").write_text(
        f"import cascade as cs\nnan = float('nan')\n\n@cs.task\ndef give():\n    return {value!r}\n"
    )
    assert command("run", "giving.py:give") == (0, f"{shown}\n", "")


def test_letters_that_the_terminal_lacks_are_escaped(cascade, flow):
    """The value is JSON still."""
    done = cascade("run", "flow.py:pages", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.stdout == '[{"page": "a"}, {"page": "\\u00e4"}]\n'


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("Untold()", "<Untold that cannot be shown: RuntimeError: no repr>"),
        ("10**10_000", "<int that cannot be shown: ValueError: Exceeds the limit"),
    ],
)
def test_a_value_that_cannot_be_shown_is_named(command, tmp_path, value, shown):
    """A `repr` that raises does not make a failure of a run that succeeded."""
    (tmp_path / "untold.py").write_text(
        "import cascade as cs\n\nclass Untold:\n    def __repr__(self):\n"
        f"        raise RuntimeError('no repr')\n\n@cs.task\ndef give():\n    return {value}\n"
    )
    code, out, err = command("run", "untold.py:give")
    assert (code, err) == (0, "")
    assert one_line(out).startswith(shown)


@pytest.mark.skipif(os.name != "posix", reason="closes a file descriptor")
def test_without_standard_output_it_runs(cascade, flow):
    """Where the standard output is closed, nothing is printed, and nothing fails."""
    done = cascade("run", "flow.py:pages", preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_value_that_nests_too_deep_is_named(command, tmp_path):
    """A list of 100,000 levels is a value like any other, and its text is not asked for."""
    (tmp_path / "deep_value.py").write_text(
        "import cascade as cs\n\n@cs.task\ndef nest():\n    value = []\n"
        "    for _ in range(100_000):\n        value = [value]\n    return value\n"
    )
    shown = "<list that nests too deep to be shown>\n"
    assert command("run", "deep_value.py:nest") == (0, shown, "")


def test_parameters_are_given_by_name_and_converted(command, flow, strategy):
    """`-p name=value`, as often as needed; defaults hold."""
    assert command("run", "flow.py:total", "-p", "more=0.5", *strategy) == (0, "3.5\n", "")
    given = ["-p", "more=1e1", "--param", "count=4"]
    assert command("run", "flow.py:total", *given, *strategy) == (0, "14.0\n", "")


def test_the_resources_of_the_module_are_there(cascade, tmp_path, flow, strategy):
    """What the module defines with @cs.resource is registered, without being named."""
    (tmp_path / "keys.py").write_text("from flow import *\nwanted = look_up('a')\n")
    done = cascade("run", "keys.py:wanted", *strategy)
    assert (done.stdout, done.returncode) == ("open\nclose\n1\n", 0), done.stderr


def test_a_target_is_found_in_a_module_too(cascade, tmp_path, flow):
    """`package.module:NAME` is imported from the working directory."""
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").touch()
    (tmp_path / "pack" / "tasks.py").write_text("from flow import add\n")
    (tmp_path / "pack" / "jobs.py").write_text("from .tasks import add\njob = add(4)\n")
    assert cascade("run", "pack.jobs:job").stdout == "5\n"
    # A file of a package is imported as what it is, so that it can import its neighbours.
    done = cascade("run", "pack/jobs.py:job", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.stdout == "5\n", done.stderr


def test_process_tasks_of_a_file_run_in_workers(cascade, tmp_path, strategy):
    """Workers import the file by its name."""
    (tmp_path / "heavy-job.py").write_text(
        "import os\nimport cascade as cs\n\n@cs.task(mode='process')\ndef pid():\n"
        "    return os.getpid()\n\n@cs.task\ndef differs(other):\n"
        "    return other != os.getpid()\n\ndef job():\n    return differs(pid())\n"
    )
    done = cascade("run", "heavy-job.py:job", *strategy)
    assert (done.stdout, done.returncode) == ("true\n", 0), done.stderr


def test_limits_hold(command, tmp_path, strategy):
    """Capacity, concurrency and rate are those of the run."""
    (tmp_path / "busy.py").write_text(
        "import anyio\nimport cascade as cs\nrunning = [0, 0]\n\n@cs.task\n"
        "async def work(n):\n    running[0] += 1\n    running[1] = max(running)\n"
        "    await anyio.sleep(0.01)\n    running[0] -= 1\n    return running[1]\n\n"
        "work_all = work.map(n=range(6)).with_constraints(gpu=1)\n"
        "work_more = work.map(n=range(6))\n\n"
        "@cs.task\ndef start(n):\n    return anyio.current_time()\n\n"
        "started = start.map(n=range(3))\n"
    )

    def value(name, *limits):
        code, out, err = command("run", f"busy.py:{name}", *limits, *strategy)
        assert (code, err) == (0, "")
        return json.loads(out)

    assert max(value("work_all", "--limit", "gpu=2")) == 2
    assert max(value("work_more", "--concurrency", "task:w*=3")) == 3
    first, second, third = value("started", "--rate", "task:start=20/s")
    assert second - first >= 0.049
    assert third - first >= 0.099


@pytest.mark.parametrize(
    ("limit", "at_once"), [("gpu=4/s", 1), ("gpu=4/s:3", 3), ("gpu=240/m:2", 2)]
)
def test_capacity_that_refills(command, tmp_path, strategy, limit, at_once):
    """`--limit NAME=RATE:BURST`: so many start at once, the others wait until it is there again."""
    (tmp_path / "refilled.py").write_text(
        "import cascade as cs\n\n@cs.task\ndef start(n):\n    return n\n\n"
        "started = start.map(n=range(4)).with_constraints(gpu=1)\n"
    )
    given = ["--limit", limit, "--events", "events.jsonl"]
    done = command("run", "refilled.py:started", *given, *strategy)
    assert done == (0, "[0, 1, 2, 3]\n", "")
    events = (tmp_path / "events.jsonl").read_text()
    assert events.count('"TaskBlocked"') == 4 - at_once


def test_more_than_the_burst_fails_the_run(cascade, flow, strategy):
    """There would never be enough at once."""
    done = cascade("run", "flow.py:scarce", "--limit", "gpu=20/s:0.5", *strategy)
    assert done.returncode == 1
    assert "of 'gpu', more than its burst of 0.5" in done.stderr


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--limit", "gup=2"], "no task of it takes the capacity 'gup'; did you mean 'gpu'?"),
        (["--rate", "task:ad=1/s"], "no task of it is in the scope 'task:ad'; did you mean"),
        (["--concurrency", "task:b*=1"], "no task of it is in the scope 'task:b*'"),
    ],
)
def test_a_limit_that_limits_nothing_is_told(command, flow, option, said):
    """A misspelt limit is a hint on standard error, which --quiet turns off."""
    code, out, err = command("run", "flow.py:scarce", *option)
    assert (code, out) == (0, "[2, 3, 4]\n")
    assert err.startswith(f"hint: the target: {said}")
    assert command("run", "flow.py:scarce", *option, "--quiet") == (0, "[2, 3, 4]\n", "")


def test_an_amount_beyond_the_limit_fails_the_run(cascade, flow, strategy):
    """It is told, and the exit code is 1."""
    done = cascade("run", "flow.py:scarce", "--limit", "gpu=0.5", *strategy)
    assert done.returncode == 1
    assert "'gpu', more than its capacity of 0.5" in done.stderr


# Exit code 1


def test_a_failure_shows_its_own_traceback(cascade, flow, tmp_path, strategy):
    """The frames of the user's code, causes and notes too; those of the machinery in one line."""
    done = cascade("run", "flow.py:failing", *strategy)
    assert (done.stdout, done.returncode) == ("", 1)
    lines = done.stderr.splitlines()
    shown = [line.strip() for line in lines if line.startswith("  File ")]
    assert [line.rpartition(", in ")[2] for line in shown] == ["inner", "fail", "inner"]
    assert all(f'"{tmp_path / flow}"' in line for line in shown)
    folded = [line for line in lines if line.startswith("  ... ")]
    assert len(folded) == 1
    assert re.match(r"  \.\.\. \d+ frames of cascade, click, anyio", folded[0])
    assert "KeyError: 2" in lines
    assert "ValueError: no such thing" in lines
    assert re.search(r"^in task 'fail' \(fail#1\), attempt 1, of run", done.stderr, re.MULTILINE)


def test_a_task_that_exits_fails_the_run(cascade, flow, strategy):
    """SystemExit of a task is a failure like any other, not the exit code of the command."""
    done = cascade("run", "flow.py:leave", *strategy)
    assert done.returncode == 1
    assert "SystemExit: 3" in done.stderr


@pytest.mark.parametrize("name", ["flow.py:broken", "flow.py:circle", "bad.py:x", "bad_module:x"])
def test_code_that_fails_to_load_shows_its_traceback(cascade, flow, tmp_path, name):
    """The module, or the function that makes the target, raises: exit code 1, no usage error."""
    for file in ("bad.py", "bad_module.py"):
        (tmp_path / file).write_text("import not_there_at_all\n")
    done = cascade("run", name)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert re.search("no target today|CycleError|not_there_at_all", done.stderr)


# Exit code 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["flow.py:totl"], "'flow.py' has no 'totl'; did you mean 'total'?"),
        (["folw.py:total"], "there is no file 'folw.py'; did you mean 'flow.py'?"),
        (["no/such/place.py:x"], "there is no file 'no/such/place.py'"),
        (["flow.py"], "'flow.py' names no target; write flow.py:NAME; it has: "),
        (["flo:total"], "there is no module 'flo' (a file is named with its .py)"),
        (["flow.sub:x"], "there is no module 'flow.sub'"),
        ([":x"], "'' is no module"),
        ([".flow:x"], "'.flow' is no module; write FILE.py:NAME or package.module:NAME"),
        (["flow.py:add"], "'add' of 'flow.py' needs arguments (x)"),
        (["flow.py:nothing"], "'nothing' of 'flow.py' gave 3, which is no workflow"),
        (["flow.py:later"], "which is no workflow"),
        (["flow.py:anyio"], "'anyio' of 'flow.py' is <module 'anyio'"),
        (["json.py:x"], "rename the file"),
        (["two.dots.py:x"], "rename the file"),
        (["twice.py:x"], "'twice.py' defines the resource 'a' twice; rename one"),
        (["flow.py:total"], "parameter 'more' has no value; write -p more=..."),
        (["flow.py:home"], "environment variable 'CASCADE_TEST_HOME' is not set"),
        (["flow.py:total", "-p", "mor=1"], "no parameter 'mor'; did you mean 'more'?"),
        (["flow.py:total", "-p", "more=x"], "Param 'more' takes float, not 'x'"),
        (["flow.py:total", "-p", "more"], "the parameter 'more' has no value; write -p NAME="),
        (["flow.py:total", "-p", "more=1", "-p", "more=2"], "'more' is given twice"),
        (["flow.py:pages", "--limit", "gpu=many"], "--limit gpu='many' is no number"),
        (["flow.py:pages", "--limit", "gpu=-1"], "'gpu' the capacity -1"),
        (["flow.py:pages", "--limit", "gpu=9/s:many"], "--limit gpu='many' is no number"),
        (["flow.py:pages", "--limit", "gpu=9/s:0"], "the burst 0 is not a finite number above 0"),
        (["flow.py:pages", "--limit", "gpu=9/x"], "the rate '9/x' has no known unit"),
        (["flow.py:pages", "--limit", "gpu"], "--limit 'gpu' has no value"),
        (["flow.py:pages", "--limit", "gpu=1", "--limit", "gpu=2"], "given twice for 'gpu'"),
        (["flow.py:pages", "--rate", "task:f=1/x"], "the rate '1/x' has no known unit"),
        (["flow.py:pages", "--rate", "tasks:f=1/s"], "unknown scope 'tasks:f'"),
        (["flow.py:pages", "--concurrency", "global=0"], "the limit 0 is not a whole number"),
        (["flow.py:pages", "--backend", "curio"], "'curio' is not one of"),
        (["flow.py:pages", "--concurrency", "2"], "'2' has no value; write --concurrency SCOPE=N"),
        (["flow.py:pages", "--vn"], "No such option '--vn'"),
        (["flow.py:total", "--more", "3"], "A parameter of the target is -p more=VALUE."),
        (["flow.total"], "there is no module 'flow.total'; did you mean flow:total?"),
        ([], "Missing argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line(arguments, said, command, flow, tmp_path, monkeypatch):
    """What is unknown or malformed is told in a line, with the nearest name; exit code 2."""
    for file in ("json.py", "two.dots.py"):
        (tmp_path / file).write_text("x = 1\n")
    (tmp_path / "twice.py").write_text(
        "import cascade as cs\n\n@cs.resource\ndef a():\n    yield 1\n\n"
        "@cs.resource(name='a')\ndef b():\n    yield 2\n\nx = [cs.task(int)(1)]\n"
    )
    monkeypatch.delenv("CASCADE_TEST_HOME", raising=False)
    code, out, err = command("run", *arguments)
    assert (code, out) == (2, "")
    assert said in one_line(err)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", "flow.py:totl"], 2),
        (["run", "flow.py:total", "-p", "more=x"], 2),
        (["rnu"], 2),
        ([], 2),
        (["--version"], 0),
        (["run", "--help"], 0),
    ],
)
def test_exit_codes_of_the_process(cascade, flow, arguments, code):
    """The process exits with the code of what happened: 0, 1 for a failure, 2 for wrong usage."""
    assert cascade(*arguments).returncode == code


def test_without_click_it_says_what_to_install(cascade, tmp_path):
    """The core needs no click; the command line says so in a line, exit code 2."""
    program = (
        "import sys; sys.modules['click'] = None; from cascade.__main__ import main; "
        "raise SystemExit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("", 2)
    assert "pip install 'cascade-vm[cli]'" in one_line(done.stderr)


def test_the_command_is_installed():
    """`cascade` is `python -m cascade`."""
    script = Path(sys.executable).with_name("cascade")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("cascade, version 0.1.0\n", 0)


# Help


@pytest.mark.parametrize("order", [["flow.py:total", "--help"], ["--help", "flow.py:total"]])
def test_help_of_a_target_tells_its_parameters(cascade, flow, order):
    """Name, type, description and default of what the target declares."""
    done = cascade("run", *order)
    assert done.returncode == 0
    assert "--backend [asyncio|trio]" in done.stdout
    assert "count=int   how many to add to  [default: 3]" in done.stdout
    assert "more=float  [required]" in done.stdout


def test_help_tells_environment_variables(cascade, flow):
    """An Env is told with its name and default."""
    shown = cascade("plan", "flow.py:home", "--help").stdout
    assert "Environment variables of home" in shown
    assert "CASCADE_TEST_HOME  [required]" in shown


def test_help_of_no_target_is_plain(cascade):
    """`--help` alone needs no target."""
    shown = cascade("run", "--help").stdout
    assert "Usage: cascade run" in shown
    assert "Parameters of" not in shown
