"""Worker processes as programs meet them: started in every way, printing, dying, given up."""

import asyncio
import importlib
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from functools import partial
from pathlib import Path

import anyio
import pytest

import cascade as cs

linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")

TASKS = """
import ctypes, functools, logging, os, signal, subprocess, sys, time, warnings
import cascade as cs

def scaled(factor, x):
    return factor * x

double = cs.task(functools.partial(scaled, 2), mode="process")

@cs.task
def plain(x, y=0):
    return x + y

@cs.task(mode="process")
def where():
    return os.getpid()

@cs.task(mode="process")
def nap(seconds):
    time.sleep(seconds)
    return os.getpid()

@cs.task(mode="process")
def says_and_naps():
    print("begun")
    time.sleep(600)

@cs.task(mode="process")
def says_and_spins():
    print("begun")
    while True:
        pass

@cs.task(mode="process")
def same(x):
    return x

@cs.task(mode="process")
def signalled(number):
    os.kill(os.getpid(), number)
    return "goes on"

@cs.task(mode="process")
def exits(status):
    sys.exit(status)

@cs.task(mode="process")
def reads():
    return sys.stdin.read(), os.read(0, 10), os.environ.get("MARK"), sys.argv[1:]

@cs.task(mode="process")
def within():
    return cs.run([same(1), same.map(x=[2, 3])])

@cs.task(mode="process")
def forks():
    if (child := os.fork()) == 0:
        os._exit(0)
    return os.waitpid(child, 0)[1]

@cs.task(mode="process")
def prints():
    print("by print")
    print("by print to stderr", file=sys.stderr)
    os.write(1, b"by os.write\\n")
    subprocess.run([sys.executable, "-c", "print('by a child')"])
    os.system("echo by a shell")
    ctypes.CDLL(None).puts(b"by C")
    warnings.warn("by warnings")
    logging.warning("by logging")
    logging.info("by logging, in detail")

@cs.task(mode="process")
def prints_and_dies():
    print("before it was killed")
    os.kill(os.getpid(), 9)
"""

BOTH = """
def everywhere(make):
    for backend, use_vm in [("asyncio", True), ("trio", False)]:
        print(cs.run(make(), backend=backend, use_vm=use_vm))
"""


# What is tested here lies below both strategies: each event loop is tried under one of them.


@pytest.fixture(params=[("asyncio", "graph"), ("trio", "vm")], ids="-".join)
def pair(request):
    """An event loop, and the strategy that it is tried under."""
    return request.param


@pytest.fixture
def backend(pair):
    """The event loop of the moment."""
    return pair[0]


@pytest.fixture
def use_vm(pair):
    """The strategy of the moment."""
    return pair[1] == "vm"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "worker_tasks.py").write_text(TASKS)
    (tmp_path / "everywhere.py").write_text("import cascade as cs\n" + BOTH)
    return tmp_path


@pytest.fixture
def tasks(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module("worker_tasks")
    del sys.modules["worker_tasks"]


@pytest.fixture
def python(folder):
    """Run Python in the folder. Its output ends when nobody has it open: no process is left."""

    def python(*arguments, text=None):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=folder,
            input=text,
            stdin=None if text is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=150,
            env={**os.environ, "PYTHONPATH": str(folder), "MARK": "set"},
        )

    return python


@pytest.fixture
def run(backend, use_vm):
    """Real time, for real processes."""
    return partial(cs.run, backend=backend, use_vm=use_vm)


@pytest.fixture
def inside(backend):
    def inside(function, *args):
        return anyio.run(function, *args, backend=backend)

    return inside


def children():
    """The ids of this process's children, zombies included."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


def gone(pid):
    return not Path(f"/proc/{pid}").exists()


OWN = """
import cascade as cs
class Pair:
    def __init__(self, x): self.x = x
class Mine(Exception): pass
@cs.task(mode="process")
def work(pair):
    print("working", flush=True)
    return Pair(pair.x + 1)
@cs.task(mode="process")
def fails():
    raise Mine("mine")
def own():
    assert isinstance(cs.run(work(Pair(1))), Pair)
    try:
        cs.run(fails())
    except Mine as error:
        return work(Pair(1))
"""

GUARDED = """
from everywhere import everywhere
if __name__ == "__main__":
    everywhere(own)
"""


def test_a_script_defines_tasks_and_their_data(python, folder):
    """A worker loads the script that was started: its functions, classes and exceptions."""
    (folder / "script.py").write_text(OWN + GUARDED)
    done = python("script.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("working") == 4
    assert done.stdout.count("__main__.Pair object") == 2


def packed(folder):
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text("")
    (folder / "package" / "helper.py").write_text("ONE = 1\n")
    source = "from .helper import ONE\n" + OWN + GUARDED
    (folder / "package" / "__main__.py").write_text(source)
    (folder / "package" / "module.py").write_text(source)
    (folder / "program").mkdir()
    (folder / "program" / "__main__.py").write_text(OWN + GUARDED)
    with zipfile.ZipFile(folder / "program.zip", "w") as archive:
        archive.writestr("__main__.py", OWN + GUARDED)


@pytest.mark.parametrize(
    "arguments",
    [["-m", "package"], ["-m", "package.module"], ["program"], ["program.zip"]],
    ids=" ".join,
)
def test_a_package_a_folder_and_an_archive_are_programs_too(python, folder, arguments):
    """A worker finds the main module as Python did: relative imports work in it."""
    packed(folder)
    done = python(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("__main__.Pair object") == 2


ELSEWHERE = """
import worker_tasks, everywhere
print("started once", flush=True)
everywhere.everywhere(lambda: worker_tasks.double(21))
"""


@pytest.mark.parametrize("way", ["script", "-c", "stdin"])
def test_tasks_of_a_module_need_no_guard(python, folder, way):
    """The main module is not executed again for tasks that are defined elsewhere."""
    (folder / "script.py").write_text(ELSEWHERE)
    ways = {"script": (["script.py"], None), "-c": (["-c", ELSEWHERE], None)}
    arguments, text = ways.get(way, (["-"], ELSEWHERE))
    done = python(*arguments, text=text)
    assert (done.stdout, done.stderr) == ("started once\n" + 2 * "42\n", "")


UNGUARDED = """
from everywhere import everywhere
print("started", flush=True)
everywhere(own)
"""


def test_a_missing_guard_is_an_error_that_shows_the_guard(python, folder):
    """The program is executed once more, by its one worker, and fails with the remedy."""
    (folder / "script.py").write_text(OWN + UNGUARDED)
    done = python("script.py")
    assert done.returncode == 1
    assert done.stdout.count("started") == 2
    last = done.stderr.strip().splitlines()[-1]
    assert 'if __name__ == "__main__":' in done.stderr
    assert "RuntimeError: a worker process could not load" in done.stderr, last


def test_a_main_module_that_ends_the_worker_is_an_error(python, folder):
    """sys.exit without the guard is told like any other failure to load the main module."""
    (folder / "script.py").write_text(
        OWN + "import sys\n"
        "if __name__ != '__main__': sys.exit(3)\n"
        "from everywhere import everywhere\n"
        "everywhere(own)\n"
    )
    done = python("script.py")
    assert "could not load" in done.stderr
    assert "SystemExit: 3" in done.stderr


NOTEBOOK = OWN + "from everywhere import everywhere\neverywhere(own)\n"


@pytest.mark.parametrize("way", ["-c", "stdin", "repl"])
def test_what_no_file_defines_is_sent_by_value(python, way):
    """With cloudpickle, tasks of a REPL and the like work, as do their classes and exceptions."""
    pytest.importorskip("cloudpickle")
    done = python(*shell(way), text=None if way == "-c" else typed(way, NOTEBOOK))
    assert done.stdout.count("__main__.Pair object") == 2, done.stderr


@pytest.mark.parametrize("way", ["-c", "stdin", "repl"])
def test_what_no_file_defines_is_refused_without_cloudpickle(python, way):
    """The error says to use a module, or what to install."""
    program = "import sys\nsys.modules['cloudpickle'] = None\n" + OWN + "cs.run(work(1))\n"
    done = python(*shell(way, program), text=None if way == "-c" else typed(way, program))
    assert "the process task 'work' cannot be sent to a worker process" in done.stderr
    assert "move it into a module" in done.stderr
    assert "cascade-vm[notebook]" in done.stderr


def shell(way, program=NOTEBOOK):
    return {"-c": ["-c", program], "stdin": ["-"], "repl": ["-i", "-q"]}[way]


def typed(way, program):
    """A REPL ends a block at an empty line."""
    return f"exec({program!r})\n" if way == "repl" else program


def test_data_of_a_main_module_without_a_file_is_refused(python):
    """An argument, too, may be of a class that no worker can load."""
    program = (
        "import sys\nsys.modules['cloudpickle'] = None\n"
        "import worker_tasks, cascade as cs\n"
        "class Here: pass\n"
        "cs.run(worker_tasks.same(Here()))\n"
    )
    done = python("-c", program)
    assert "move it into a module" in done.stderr


def test_a_partial_of_a_function_runs_in_a_process(run, tasks):
    """functools.partial of a top-level function is sent as the function and its arguments."""
    assert run(tasks.double(21)) == 42
    with_keyword = cs.task(partial(tasks.plain.func, y=2), mode="process")
    assert run(with_keyword(1)) == 3


def test_one_function_in_two_modes(run, tasks):
    """A Task made of another one's function is found under the other one's name."""
    assert run(cs.task(tasks.plain.func, mode="process")(1, 2)) == 3


PRINTED = ["by print", "by os.write", "by a child", "by a shell", "by C"]
TOLD = ["by print to stderr", "UserWarning: by warnings", "WARNING:root:by logging"]


def test_what_a_worker_writes_is_seen(python):
    """Print, C code, children, warnings and logging have the streams of the program."""
    done = python("-c", "import worker_tasks, everywhere as e; e.everywhere(worker_tasks.prints)")
    assert done.returncode == 0, done.stderr
    assert [done.stdout.count(text + "\n") for text in PRINTED] == [2] * len(PRINTED)
    for text in TOLD:
        assert done.stderr.count(text.removeprefix("WARNING:root:")) >= 2
    assert "in detail" not in done.stderr


def test_a_worker_logs_as_the_program_does(python):
    """The level and the format of a program that logs to its standard error hold in workers."""
    done = python(
        "-c",
        "import logging, worker_tasks, cascade as cs\n"
        "logging.basicConfig(level=logging.INFO, format='%(levelname)s! %(message)s')\n"
        "cs.run(worker_tasks.prints())\n",
    )
    assert "INFO! by logging, in detail\n" in done.stderr
    assert "WARNING! by logging\n" in done.stderr


def test_lines_printed_before_a_kill_are_seen(python):
    """A worker writes line by line, to a pipe too, so that its end loses no line."""
    done = python(
        "-c", "import worker_tasks, cascade as cs; cs.run(worker_tasks.prints_and_dies())"
    )
    assert "BrokenWorkerProcess" in done.stderr
    assert done.stdout == "before it was killed\n"


def test_a_worker_has_the_environment_and_no_input(python, folder):
    """Standard input is empty; environment variables and sys.argv are those of the program."""
    (folder / "script.py").write_text(
        "import worker_tasks, cascade as cs\nprint(cs.run(worker_tasks.reads()))\n"
    )
    done = python("script.py", "an", "argument", text="input of the program")
    assert done.stdout == "('', b'', 'set', ['an', 'argument'])\n"


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGKILL, "was killed by SIGKILL before the task was over; perhaps memory ran out"),
        (signal.SIGTERM, "was killed by SIGTERM"),
        (signal.SIGSEGV, "was killed by SIGSEGV before the task was over; C code"),
    ],
)
def test_a_killed_worker_is_named_with_its_signal(run, tasks, number, told):
    """Whatever kills the worker in the middle of a call fails the attempt, with what to do."""
    with pytest.raises(anyio.BrokenWorkerProcess, match=f"of task 'signalled' {told}"):
        run(tasks.signalled(number))


def test_a_worker_that_exits_is_named_with_its_status(run):
    """So does os._exit."""
    with pytest.raises(anyio.BrokenWorkerProcess, match="'quits' ended with exit code 3") as caught:
        run(cs.task(os._exit, name="quits", mode="process")(3))
    assert caught.value.__cause__ is None


def test_a_broken_worker_is_retried_like_a_failure(run):
    """The next attempt has a worker of its own."""
    with pytest.raises(anyio.BrokenWorkerProcess) as caught:
        run(cs.task(os._exit, mode="process")(3).with_retry(2))
    assert any("attempt 2" in note for note in caught.value.__notes__)


def test_sys_exit_in_a_process_is_the_exception(run, tasks):
    """sys.exit raises SystemExit, in a worker as in a thread."""
    with pytest.raises(SystemExit, match="3"):
        run(tasks.exits(3))


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_worker_lets_interrupts_pass(run, tasks):
    """Ctrl-C goes to the whole group of processes; the program decides what it ends."""
    assert run(tasks.signalled(signal.SIGINT)) == "goes on"


@linux
def test_workers_are_used_again_and_end_with_the_loop(inside, use_vm, tasks):
    """One call after the other is one process; when the event loop is over, it is gone."""

    async def program():
        return [await cs.run_async(tasks.where(), use_vm=use_vm) for _ in range(3)]

    before = children()
    pids = inside(program)
    assert len(set(pids)) == 1
    assert gone(pids[0])
    assert children() <= before


@linux
def test_an_idle_worker_that_died_is_replaced(inside, use_vm, tasks):
    """Nothing was lost with it: the next call has a new one."""

    async def program():
        first = await cs.run_async(tasks.where(), use_vm=use_vm)
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        return first, await cs.run_async(tasks.where(), use_vm=use_vm)

    first, second = inside(program)
    assert first != second


def test_the_default_process_limiter_bounds_the_workers(inside, use_vm, tasks):
    """With one token, all items of a map have one process."""

    async def program():
        anyio.to_process.current_default_process_limiter().total_tokens = 1
        return await cs.run_async(tasks.nap.map(seconds=[0] * 5), use_vm=use_vm)

    assert len(set(inside(program))) == 1


@pytest.mark.parametrize("size", [1, 70_000, 30_000_000])
def test_payloads_of_any_size(run, tasks, size):
    """A message that fills the socket many times over comes through, both ways."""
    data = os.urandom(size)
    assert run([tasks.same(data), tasks.same(data)]) == [data, data]


@linux
def test_a_worker_that_is_starting_is_killed(inside, use_vm, tasks):
    """A run cancelled at any moment of the start leaves no process, not even for a while."""
    before = children()

    async def program():
        for after in [0, 0.001, 0.01, 0.05, 0.2, 0.4]:
            with anyio.move_on_after(after):
                await cs.run_async([tasks.nap(600), tasks.nap(600)], use_vm=use_vm)
            assert children() <= before

    inside(program)


@linux
def test_fifty_runs_cancelled_at_random_leave_no_process(inside, use_vm, tasks):
    """Idle ones of the loop aside, all are gone when the run is over; those with the loop."""
    chance = random.Random(f"{use_vm}")
    before = children()

    async def program():
        for _ in range(50):
            with anyio.move_on_after(chance.choice([0, 0.2]) * chance.random()):
                await cs.run_async(tasks.nap.map(seconds=[0.001, 600, 600]), use_vm=use_vm)
            assert len(children() - before) <= os.cpu_count()

    inside(program)
    assert children() <= before


@linux
@pytest.mark.parametrize("times", [1, 2])
def test_native_cancellation_of_asyncio_kills_the_worker(use_vm, tasks, times):
    """`Task.cancel()`, once and twice in a row, leaves no process behind."""
    before = children()

    async def program():
        for after in (0.0, 0.01, 0.1, 1.0):
            run = asyncio.create_task(cs.run_async(tasks.nap(600), use_vm=use_vm))
            await asyncio.sleep(after)
            for _ in range(times):
                run.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await run
            assert children() <= before

    asyncio.run(program())


@linux
@pytest.mark.parametrize("name", ["says_and_naps", "says_and_spins"])
def test_a_worker_ends_when_its_program_is_killed(folder, backend, name):
    """kill -9 of the program, while its worker sleeps or computes, ends the worker, too."""
    program = (
        f"import worker_tasks, cascade; cascade.run(worker_tasks.{name}(), backend={backend!r})"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=folder, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"begun\n"
        process.kill()
        assert process.stdout.read() == b""  # it ends when the worker has closed it, too


@linux
def test_loops_that_are_closed_without_ceremony_leave_no_process(use_vm, tasks):
    """Before an event loop starts workers, it ends those of loops that were closed."""
    before = children()

    async def program():
        await cs.run_async(tasks.same("value"), use_vm=use_vm)
        return children() - before

    for _ in range(3):
        loop = asyncio.new_event_loop()
        assert len(loop.run_until_complete(program())) == 1
        loop.close()
    anyio.run(program)
    assert children() <= before


def test_workers_end_with_the_program_at_the_latest(python):
    """So do those of a loop that is never closed."""
    done = python(
        "-c",
        "import asyncio, worker_tasks, cascade as cs\n"
        "loop = asyncio.new_event_loop()\n"
        "print(loop.run_until_complete(cs.run_async(worker_tasks.same('value'))))\n"
        "loop.close()\n",
    )
    assert (done.stdout, done.stderr) == ("value\n", "")


@linux
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_of_the_program_leaves_the_workers_alone(inside, use_vm, tasks):
    """A child made by os.fork has no part in the workers, and may end as it likes."""

    async def program():
        first = await cs.run_async(tasks.where(), use_vm=use_vm)
        if (child := os.fork()) == 0:
            os._exit(0 if not children() else 1)
        assert os.waitpid(child, 0)[1] == 0
        return first, await cs.run_async(tasks.where(), use_vm=use_vm)

    first, second = inside(program)
    assert first == second


def test_a_worker_may_fork_and_start_workers(run, tasks):
    """A process task may run targets with process tasks, and fork."""
    assert run([tasks.within(), tasks.forks()]) == [[1, [2, 3]], 0]


def test_a_loop_goes_on_while_a_worker_starts(inside, use_vm, tasks):
    """Starting a worker and waiting for it are no work of the event loop's."""

    async def program():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await anyio.sleep(0.005)
                ticks += 1

        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            began = time.perf_counter()
            await cs.run_async(tasks.where(), use_vm=use_vm)
            took = time.perf_counter() - began
            group.cancel_scope.cancel()
        return ticks, took

    ticks, took = inside(program)
    assert ticks > took / 0.1
