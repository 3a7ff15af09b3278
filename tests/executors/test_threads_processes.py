"""Tasks in worker threads and processes, real ones (sections 2, 7, 11)."""

import contextvars
import importlib
import math
import os
import sys
import threading
import time
from pathlib import Path

import anyio
import pytest

import cascade as cs

linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@pytest.fixture
def run(backend, use_vm):
    """Real time: a virtual clock would jump while a thread or a process is at work."""

    def run(target, **options):
        return cs.run(target, use_vm=use_vm, backend=backend, **options)

    return run


@pytest.fixture
def inside(backend):
    def inside(function, *args):
        return anyio.run(function, *args, backend=backend)

    return inside


@pytest.fixture
def workflow(tmp_path, monkeypatch):
    """A module with process tasks that worker processes can import."""
    (tmp_path / "process_workflow.py").write_text(
        "import time\n"
        "import cascade as cs\n"
        "@cs.task(mode='process')\n"
        "def double(x):\n"
        "    return 2 * x\n"
        "@cs.task(mode='process')\n"
        "def fail(message):\n"
        "    raise KeyError(message)\n"
        "@cs.task(mode='process')\n"
        "def nap(seconds):\n"
        "    time.sleep(seconds)\n"
        "@cs.task(mode='process')\n"
        "def later(x):\n"
        "    return double(x)\n"
        "@cs.task(mode='process')\n"
        "def leap(key):\n"
        "    return cs.Jump(key)\n"
        "@cs.task(mode='process')\n"
        "def countdown(n):\n"
        "    return cs.TailCall((n - 1,)) if n else 'end'\n"
        "@cs.task(mode='process')\n"
        "def stop(message):\n"
        "    raise StopIteration(message)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("process_workflow")
    del sys.modules["process_workflow"]


def children():
    """The ids of this process's living children."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == os.getpid() and state != "Z":
            found.add(int(stat.parent.name))
    return found


@pytest.fixture
def strangers():
    """Children there already: workers of earlier tests, killed and on their way out."""
    return children()


def test_a_mode_says_where_a_sync_function_runs(run):
    """Inline is the loop's own thread, `thread` another thread of this process."""

    def where():
        return threading.get_ident()

    here, there = run([cs.task(where)(), cs.task(where, mode="thread")()])
    assert here == threading.get_ident()
    assert there != here


def test_a_process_task_runs_in_another_process(run):
    """`process` is another process."""
    there = run(cs.task(os.getpid, mode="process")())
    assert there != os.getpid()


def test_a_decorated_module_function_runs_in_a_process(run, workflow):
    """A process task is found in its worker under its name, although the Task stands there."""
    assert run(workflow.double(21)) == 42
    assert run(workflow.double.map(x=[1, 2, 3])) == [2, 4, 6]


@pytest.mark.parametrize("mode", ["thread", "process"])
@pytest.mark.parametrize("kind", ["async", "generator", "async generator"])
def test_other_functions_have_no_other_mode(mode, kind):
    """An async function with another mode than inline is a TypeError, as is any generator."""

    async def coroutine():
        pass

    def generator():
        yield

    async def async_generator():
        yield

    kinds = {"async": coroutine, "generator": generator, "async generator": async_generator}
    with pytest.raises(TypeError):
        cs.task(kinds[kind], mode=mode)


def test_threads_run_at_the_same_time(run):
    """Independent thread tasks run side by side."""
    barrier = threading.Barrier(3)

    @cs.task(mode="thread")
    def meet(x):
        barrier.wait(timeout=20)
        return x

    assert run([meet(1), meet(2), meet(3)]) == [1, 2, 3]


def test_the_loop_goes_on_while_a_thread_works(run):
    """A thread task does not hold up the loop's own tasks."""
    ready = threading.Event()

    @cs.task(mode="thread")
    def waits():
        return ready.wait(timeout=20)

    @cs.task
    async def sets():
        ready.set()

    assert run([waits(), sets()]) == [True, None]


def test_an_awaitable_returned_by_a_thread_is_awaited(run):
    """The value of an awaitable that a sync function returns counts, from a thread too."""

    async def later():
        await anyio.sleep(0)
        return "value"

    @cs.task(mode="thread")
    def gives():
        return later()

    assert run(gives()) == "value"


VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


def test_thread_tasks_see_the_context_of_the_caller(inside, use_vm):
    """A context variable set by the caller of the run is seen in a worker thread."""

    @cs.task(mode="thread")
    def reads():
        return VARIABLE.get()

    async def program():
        VARIABLE.set("set")
        return await cs.run_async([reads(), reads()], use_vm=use_vm)

    assert inside(program) == ["set", "set"]


def test_a_failure_in_a_thread_is_the_same_object(run):
    """The exception of a thread task surfaces as itself."""
    error = ValueError("in a thread")

    @cs.task(mode="thread")
    def fails():
        raise error

    with pytest.raises(ValueError, match="in a thread") as caught:
        run(fails())
    assert caught.value is error


def test_a_failure_in_a_process_keeps_type_and_message(run, workflow):
    """The exception of a process task surfaces with its type and arguments."""
    with pytest.raises(KeyError, match="there"):
        run(workflow.fail("there"))


@pytest.mark.parametrize("argument", [threading.Lock(), lambda: 0], ids=["lock", "lambda"])
def test_unpicklable_arguments_fail_the_run(run, argument):
    """What cannot be sent to a process is an error, not a hang; the next run works."""
    factorial = cs.task(math.factorial, mode="process")
    with pytest.raises(Exception, match=r"pickle|Pickl"):
        run(factorial(argument))
    assert run(factorial(5)) == 120


def test_an_unpicklable_result_fails_the_run(run):
    """What cannot be sent back from a process is an error, not a hang."""
    with pytest.raises(TypeError, match="pickle"):
        run(cs.task(threading.Lock, name="lock", mode="process")())


def test_a_process_that_dies_fails_the_run(run):
    """A worker that ends under its task is an error, not a hang; the next run works."""
    with pytest.raises(anyio.BrokenWorkerProcess):
        run(cs.task(os._exit, mode="process")(1))
    assert run(cs.task(math.factorial, mode="process")(5)) == 120


@linux
def test_a_timeout_kills_the_process(run, workflow, strangers):
    """A process task past its timeout is killed and the run ends."""
    with pytest.raises(cs.TaskTimeoutError):
        run(workflow.nap(600).with_timeout(0.5))
    assert children() <= strangers


@linux
def test_a_failing_sibling_kills_the_process(run, workflow, strangers):
    """A run that fails leaves no process behind."""

    @cs.task
    async def fails():
        await anyio.sleep(0.5)
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        run([workflow.nap(600), fails()])
    assert children() <= strangers


@linux
def test_a_run_leaves_no_process_behind(run, strangers):
    """Nor does a run that succeeds."""
    assert run(cs.task(math.factorial, mode="process")(5)) == 120
    assert children() <= strangers


def test_a_thread_times_out_when_its_function_returns(run):
    """A thread cannot be interrupted: TaskTimeoutError once its function is over, value dropped."""
    ended = []

    @cs.task(mode="thread")
    def slow():
        time.sleep(0.3)
        ended.append(1)
        return "dropped"

    with pytest.raises(cs.TaskTimeoutError):
        run(slow().with_timeout(0.05))
    assert ended == [1]


def test_a_thread_keeps_its_capacity_until_it_returns(run):
    """After a timeout the next attempt starts when the function of the last one is over."""
    log = []

    @cs.task(mode="thread")
    def slow():
        log.append("start")
        if log.count("start") == 1:
            time.sleep(0.3)
        log.append("end")
        return "value"

    @cs.task(mode="thread")
    def other():
        log.append("other")

    target = [
        slow().with_timeout(0.1).with_retry(2, on=TimeoutError).with_constraints(gpu=1),
        other().with_constraints(gpu=1),
    ]
    assert run(target, system_resources={"gpu": 1}) == ["value", None]
    first = log.index("start")
    assert log[first : first + 2] == ["start", "end"]


def test_check_cancelled_helps_a_thread_to_end(run):
    """A thread that calls `anyio.from_thread.check_cancelled()` ends at its timeout."""

    @cs.task(mode="thread")
    def polls():
        while True:
            anyio.from_thread.check_cancelled()
            time.sleep(0.01)

    with pytest.raises(cs.TaskTimeoutError):
        run(polls().with_timeout(0.1))


def test_a_failed_run_awaits_its_threads(run):
    """A run that fails ends when the functions in its threads are over."""
    started, ended = threading.Event(), []

    @cs.task(mode="thread")
    def slow():
        started.set()
        time.sleep(0.3)
        ended.append(1)

    @cs.task(mode="thread")
    def fails():
        started.wait(timeout=20)
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        run([slow(), fails()])
    assert ended == [1]


def test_a_cancelled_run_awaits_its_threads(inside, use_vm):
    """A run that is cancelled ends when the functions in its threads are over."""
    ended = []

    @cs.task(mode="thread")
    def slow():
        time.sleep(0.3)
        ended.append(1)

    async def program():
        with anyio.move_on_after(0.1) as scope:
            await cs.run_async([slow(), slow()], use_vm=use_vm)
        return scope.cancelled_caught, len(ended)

    assert inside(program) == (True, 2)


@linux
def test_a_cancelled_run_kills_its_processes(inside, use_vm, workflow, strangers):
    """A run that is cancelled does not wait for its process tasks."""

    async def program():
        with anyio.move_on_after(0.5) as scope:
            await cs.run_async([workflow.nap(600), workflow.nap(600)], use_vm=use_vm)
        return scope.cancelled_caught

    assert inside(program)
    assert children() <= strangers


def test_a_thread_may_change_the_constraints_through_the_loop(inside, use_vm):
    """From a worker thread constraints are changed through `anyio.from_thread`."""

    async def program():
        engine = cs.Engine()
        engine.constraints.pause("task:waits")

        @cs.task(mode="thread")
        def resumes():
            return anyio.from_thread.run_sync(engine.constraints.resume, "task:waits")

        @cs.task
        def waits():
            return "ran"

        return await engine.run([waits(), resumes()], use_vm=use_vm)

    assert inside(program) == ["ran", True]


def test_a_process_may_return_an_expression(run, workflow):
    """A tail call to an expression may come from another process, like any value."""
    assert run(workflow.later(3)) == 6


def test_a_process_may_return_a_jump_or_a_tail_call(run, workflow):
    """Control crosses the border of a process."""
    node = workflow.leap("again")
    cs.bind(node, cs.select_jump({"again": workflow.double(4)}))
    assert run([node, workflow.countdown(2)]) == [8, "end"]


def test_a_stop_iteration_in_a_process_is_the_cause_of_a_runtime_error(run, workflow):
    """A StopIteration surfaces as a RuntimeError caused by it, from a process too."""
    with pytest.raises(RuntimeError) as caught:
        run(workflow.stop("mine"))
    assert isinstance(caught.value.__cause__, StopIteration)
    assert caught.value.__cause__.args == ("mine",)


UNUSUAL = """
import dataclasses
import cascade as cs

@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    n: int

@dataclasses.dataclass(frozen=True, slots=True)
class Slotted(Exception):
    n: int

class Sealed(Exception):
    def __setattr__(self, name, value):
        raise AttributeError(name)

class NeedsArguments(Exception):
    def __init__(self, n, m):
        super().__init__()
        self.n = n

class TakesNoNote(Exception):
    n = 7
    def add_note(self, note):
        raise TypeError

MADE = {
    "frozen": lambda: Frozen(7),
    "slotted": lambda: Slotted(7),
    "sealed": lambda: Sealed(7),
    "needs arguments": lambda: NeedsArguments(7, 8),
    "takes no note": lambda: TakesNoNote("n"),
}

@cs.task(mode="process")
def fails(name):
    raise MADE[name]() from LookupError("the cause")
"""


@pytest.fixture
def unusual(tmp_path, monkeypatch):
    """A module whose process task raises what refuses this or that."""
    (tmp_path / "unusual_failures.py").write_text(UNUSUAL)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("unusual_failures")
    del sys.modules["unusual_failures"]


@pytest.mark.parametrize(
    "name", ["frozen", "slotted", "sealed", "needs arguments", "takes no note"]
)
def test_an_unusual_error_of_a_process_keeps_its_class_and_what_it_holds(run, unusual, name):
    """Whatever its class refuses: its arguments, its attributes, its cause."""
    expected = unusual.MADE[name]()
    with pytest.raises(type(expected)) as caught:
        run(unusual.fails(name))
    error = caught.value
    assert error.args == expected.args
    assert getattr(error, "n", None) == getattr(expected, "n", None)
    assert repr(error.__cause__) == "LookupError('the cause')"
