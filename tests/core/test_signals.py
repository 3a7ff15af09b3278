"""Ctrl-C and SIGTERM to programs in `cs.run` or `cs.run_async`, as processes of their own."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

import cascade as cs

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")

PROGRAM = """
import os
import signal
import sys
import threading
import time
from functools import partial
import anyio
import cascade as cs
from cascade.core.cancellation import outlast

def say(word):
    print(word, flush=True)

@cs.resource
async def database():
    try:
        yield 1
    finally:
        await anyio.sleep(0)
        print("closed")  # in a pipe: it is seen only if it is flushed

@cs.resource
async def stubborn():
    try:
        yield 1
    finally:
        say("closing")
        await anyio.sleep_forever()

@cs.resource
async def broken():
    try:
        yield 1
    finally:
        raise OSError("broken")

def slow_in(scope, waits):
    @cs.resource(name=scope, scope=scope)
    async def slow():
        try:
            yield 1
        finally:
            await waits()
            say("closed")

    return slow

def line_in_thread(word):
    anyio.from_thread.run_sync(int)  # whoever awaits this thread waits from now on
    say(word)
    sys.stdin.readline()

async def line_of_stdin(word="closing"):
    await anyio.to_thread.run_sync(line_in_thread, word)

async def endless():
    say("closing")
    await anyio.sleep_forever()

async def in_own_loop(target, waits, **options):
    engine = cs.Engine(**options)
    for scope in ("run", "step", "task"):
        engine.register(slow_in(scope, waits))
    say(await engine.run(target, use_vm=use_vm))

def attempt_in_own_loop(*arguments, **options):
    try:
        anyio.run(partial(in_own_loop, *arguments, **options), backend=backend)
    except BaseException as error:
        say(repr(error))

@cs.task
async def returns(_):
    return 5

@cs.task
async def fails(_):
    raise ValueError

@cs.task
async def needs(_):
    say("ready")
    while True:  # Python sees a signal that comes just before the loop waits when it wakes up
        await anyio.sleep(0.1)

async def outlasting():
    event = anyio.Event()

    async def goes_on():
        await line_of_stdin("ready")
        event.set()

    async with anyio.create_task_group() as group:
        group.start_soon(goes_on)
        say(repr(await outlast(event)))

@cs.task
async def waiting(n, _=cs.inject("database")):
    if n == 1:
        say("ready")
    await anyio.sleep_forever()

@cs.task
async def in_vain(_=cs.inject("stubborn")):
    say("ready")
    await anyio.sleep_forever()

@cs.task
async def breaking(_=cs.inject("broken")):
    say("ready")
    await anyio.sleep_forever()

@cs.task
def spin(n, _=cs.inject("database")):
    if n == 1000:
        say("ready")
    return cs.Jump("again", n + 1)

def spinning():
    node = spin(0)
    return cs.bind(node, cs.select_jump({"again": node}))

@cs.task
def blocking():
    say("ready")
    threading.Event().wait()

@cs.task(mode="process")
def quick():
    return 1

@cs.task(mode="process")
def nap():
    time.sleep(600)

@cs.task
def forked():
    here, there = os.pipe()
    child = os.fork()
    if not child:
        os.write(there, b"1")
        time.sleep(600)
        os._exit(0)
    os.read(here, 1)  # Python drops signals that come in the middle of a fork
    os.kill(child, signal.SIGTERM)
    say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

@cs.task
async def own_handler():
    seen = []
    signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
    os.kill(os.getpid(), signal.SIGTERM)
    await anyio.sleep(0)
    return len(seen)

def run(target, **options):
    options |= {"resources": [database, stubborn, broken]}
    return cs.run(target, backend=backend, use_vm=use_vm, **options)

def attempt(target):
    try:
        run(target)
    except BaseException as error:
        say(repr(error))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

if __name__ == "__main__":
    backend, use_vm, kind = sys.argv[1], sys.argv[2] == "vm", sys.argv[3]
    match kind:
        case "two":
            attempt([waiting(0), waiting(1)])
        case "spinning":
            attempt(spinning())
        case "process":
            warm = quick()
            attempt([nap().after(warm), waiting(1).after(warm)])
        case "stubborn":
            attempt(in_vain())
        case "broken":
            attempt(breaking())
        case "blocking":
            attempt(blocking())
        case "forked":
            attempt(forked())
        case "own":
            say(run(own_handler()))
        case "before":
            signal.signal(signal.SIGTERM, lambda *_: say("mine"))
            run(waiting(1))
        case "tear-down":
            task, scope = {"returns": returns, "fails": fails}[sys.argv[4]], sys.argv[5]
            attempt_in_own_loop(task(cs.inject(scope)), line_of_stdin)
        case "endless":
            target = needs(cs.inject(sys.argv[4]))
            attempt_in_own_loop(target, endless, teardown_timeout=1)
        case "outlast":
            try:
                anyio.run(outlasting, backend=backend)
            except BaseException as error:
                say(repr(error))
        case "in a thread":
            thread = threading.Thread(target=lambda: say(run(cs.Param("x", 5))))
            thread.start()
            thread.join()
        case "async":
            async def main():
                await cs.run_async([waiting(0), waiting(1)], use_vm=use_vm, resources=[database])
            try:
                anyio.run(main, backend=backend)
            except BaseException as error:
                say(repr(error))
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
def started(tmp_path, backend, use_vm):
    (tmp_path / "program.py").write_text(PROGRAM)

    @contextmanager
    def started(*kind):
        process = subprocess.Popen(
            [sys.executable, "-P", "program.py", backend, "vm" if use_vm else "graph", *kind],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A job in the background of a shell ignores the signal, and so would its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            with process:
                yield process
        finally:
            process.kill()

    return started


def wait_for(process, word):
    for line in process.stdout:
        if line == f"{word}\n":
            return
    pytest.fail(f"it ended before it said {word!r}: {process.stderr.read()}")


def is_group_empty(process):
    """Whether all processes of the program are gone; those of a dead parent take a moment."""
    give_up = time.monotonic() + 5
    while time.monotonic() < give_up:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("kind", ["two", "spinning", "process"])
def test_ctrl_c_is_a_keyboardinterrupt_after_the_tear_down(started, kind):
    """Whatever runs, the caller gets KeyboardInterrupt itself; resources and workers are gone."""
    with started(kind) as process:
        wait_for(process, "ready")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=150)
    assert (out, err, process.returncode) == ("closed\nKeyboardInterrupt()\n", "", 0)
    assert is_group_empty(process)


@pytest.mark.parametrize("kind", ["two", "spinning", "process"])
def test_sigterm_tears_down_and_ends_the_process(started, kind):
    """The parent sees that the signal ended the process, which has left nothing behind."""
    with started(kind) as process:
        wait_for(process, "ready")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=150)
    assert (out, err, process.returncode) == ("closed\n", "", -signal.SIGTERM)
    assert is_group_empty(process)


@pytest.mark.parametrize(
    ("kind", "said"), [("stubborn", "closing"), ("blocking", None)], ids=["tear-down", "blocked"]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_second_signal_kills(started, kind, said, number):
    """A tear-down that hangs, or a task that holds the loop, is not waited for any longer."""
    with started(kind) as process:
        wait_for(process, "ready")
        process.send_signal(signal.SIGTERM)
        if said is not None:
            wait_for(process, said)
        else:  # nothing tells that the first was handled; signals that wait are handled in order
            while is_pending(process, signal.SIGTERM):
                time.sleep(0.01)
        process.send_signal(number)
        out, _ = process.communicate(timeout=150)
    code = 130 if number == signal.SIGINT else -number
    assert (out, process.returncode) == ("", code)


def is_pending(process, number):
    """Whether the signal was not delivered yet."""
    with open(f"/proc/{process.pid}/status") as status:
        pending = next(line for line in status if line.startswith("ShdPnd:"))
    return int(pending.split()[1], 16) >> (number - 1) & 1


def test_a_tear_down_that_fails_is_logged_and_the_interrupt_stays(started):
    """Never a group; and the failure is not lost."""
    with started("broken") as process:
        wait_for(process, "ready")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=150)
    assert (out, process.returncode) == ("KeyboardInterrupt()\n", 0)
    assert "OSError: broken" in err


def test_a_fork_of_a_run_ends_by_sigterm(started):
    """A child that a task forks has no run to tear down: the signal does what it always does."""
    with started("forked") as process:
        out, _ = process.communicate(timeout=150)
    assert out == f"{-signal.SIGTERM}\n"


def test_a_handler_set_while_a_run_goes_on_stays(started):
    """It is called instead, and is still there after the run."""
    with started("own") as process:
        out, _ = process.communicate(timeout=150)
    assert (out, process.returncode) == ("1\n", 0)


def test_a_handler_set_before_stays(started):
    """A program that handles SIGTERM itself goes on doing so."""
    with started("before") as process:
        wait_for(process, "ready")
        process.send_signal(signal.SIGTERM)
        wait_for(process, "mine")
        assert process.poll() is None
        process.kill()


def test_a_run_in_another_thread_handles_no_signals(started):
    """Handlers can be set in the main thread alone; elsewhere a run goes as ever."""
    with started("in a thread") as process:
        out, _ = process.communicate(timeout=150)
    assert (out, process.returncode) == ("5\n", 0)


def test_ctrl_c_in_the_event_loop_of_the_user(started):
    """`run_async` leaves signals to the loop, and what the loop makes of Ctrl-C is in no group."""
    with started("async") as process:
        wait_for(process, "ready")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=150)
    assert (out, err, process.returncode) == ("closed\nKeyboardInterrupt()\n", "", 0)


SCOPES = pytest.mark.parametrize("scope", ["run", "step", "task"])


@SCOPES
@pytest.mark.parametrize("end", ["returns", "fails"])
def test_ctrl_c_in_a_tear_down_in_the_event_loop_of_the_user(started, end, scope):
    """The tear-down goes on to its end, and then the interrupt comes out, not what came before."""
    with started("tear-down", end, scope) as process:
        wait_for(process, "closing")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate("go on\n", timeout=150)
    assert (out, process.returncode) == ("closed\nKeyboardInterrupt()\n", 0)


@SCOPES
def test_ctrl_c_twice_in_the_event_loop_of_the_user(started, scope):
    """A tear-down that hangs is given up, at its deadline at the latest; still no group."""
    with started("endless", scope) as process:
        wait_for(process, "ready")
        process.send_signal(signal.SIGINT)
        wait_for(process, "closing")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=150)
    assert (out, process.returncode) == ("KeyboardInterrupt()\n", 0)


def test_a_wait_that_outlasts_an_interrupt_tells_of_it(started, backend):
    """trio raises it in the main task, whatever that waits for; asyncio cancels the task."""
    with started("outlast") as process:
        wait_for(process, "ready")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate("go on\n", timeout=150)
    told = {"trio": "KeyboardInterrupt()\n", "asyncio": "CancelledError()\n"}[backend]
    assert out.startswith(told)


def test_handlers_are_put_back(run):
    """After a run signals are handled as before it."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    @cs.task
    def handlers():
        return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    assert run(handlers()) != before
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
