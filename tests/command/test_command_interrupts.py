"""SIGINT to `cascade run` as a process, once and twice, wherever the run is (exit code 130)."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")

FLOW = """
import threading
import time
import anyio
import cascade as cs

def say(word):
    print(word, flush=True)

@cs.resource
async def database():
    say("open")
    try:
        yield 1
    finally:
        await anyio.sleep(0)
        say("closed")

@cs.resource
async def stubborn():
    try:
        yield 1
    finally:
        say("closing")
        await anyio.sleep_forever()

@cs.task
async def waiting(_=cs.inject("database")):
    say("ready")
    await anyio.sleep_forever()

@cs.task
async def in_vain(_=cs.inject("stubborn")):
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

@cs.task(mode="thread")
def threaded(_=cs.inject("database")):
    say("ready")
    while True:
        anyio.from_thread.check_cancelled()
        time.sleep(0.001)

@cs.task(mode="process")
def nap():
    time.sleep(600)

@cs.task
async def told(_=cs.inject("database")):
    say("ready")

def processing():
    return [nap(), told()]

@cs.task
async def just_done():
    say("ready")
    try:
        await anyio.sleep_forever()
    finally:
        raise ValueError("while it was cancelled")
"""


@pytest.fixture
def started(tmp_path, backend, use_vm):
    (tmp_path / "flow.py").write_text(FLOW)

    @contextmanager
    def started(name, *more):
        command = [sys.executable, "-P", "-m", "cascade", "run", f"flow.py:{name}", *more]
        options = ["--backend", backend, *["--vm"] * use_vm]
        process = subprocess.Popen(
            [*command, *options],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
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


TOLD = "interrupted: tearing down; interrupt again to kill\n"


@pytest.mark.parametrize("name", ["waiting", "spinning", "threaded", "processing"])
def test_an_interrupt_tears_down(started, name):
    """What runs is cancelled, resources are released, nothing is printed as a value."""
    with started(name) as process:
        wait_for(process, "ready")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=150)
    assert (out, err, process.returncode) == ("closed\n", TOLD, 130)


def test_an_interrupted_run_has_told_its_events(started, tmp_path):
    """The files of a run are written to its end, which is that it was cancelled."""
    with started("waiting", "--events", "events.jsonl", "--trace", "trace.json") as process:
        wait_for(process, "ready")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=150)
    assert process.returncode == 130
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    told = [event["event"] for event in events]
    assert told.count("ResourceReleased") == 1
    assert (told[-1], events[-1]["status"]) == ("RunFinished", "Cancelled")
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


def test_what_fails_while_it_is_cancelled_is_interrupted_all_the_same(started):
    """The exit code of an interrupted run is 130, whatever comes of it."""
    with started("just_done") as process:
        wait_for(process, "ready")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=150)
    assert (out, process.returncode) == ("", 130)
    assert err.startswith(TOLD)


def test_a_second_interrupt_kills_a_tear_down(started):
    """A tear-down that hangs is not waited for again."""
    with started("in_vain") as process:
        wait_for(process, "ready")
        process.send_signal(signal.SIGINT)
        wait_for(process, "closing")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=150)
    assert (err, process.returncode) == (TOLD, 130)


def test_a_second_interrupt_kills_a_task_that_holds_the_loop(started):
    """The first one cannot be seen by the loop; the second one needs no loop."""
    with started("blocking") as process:
        wait_for(process, "ready")
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == TOLD
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=150)
    assert (out, process.returncode) == ("", 130)


def test_an_interrupt_while_the_module_loads_ends_it(tmp_path):
    """There is nothing to tear down yet; the exit code is the same."""
    (tmp_path / "slow.py").write_text(
        "import threading\nprint('ready', flush=True)\nthreading.Event().wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "cascade", "run", "slow.py:x"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        wait_for(process, "ready")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=150)
    assert process.returncode == 130


def test_a_job_that_ignores_interrupts_goes_on(tmp_path, backend):
    """SIGINT ignored from the start, as in the background of a shell, stays ignored."""
    (tmp_path / "deaf.py").write_text(
        "import os, signal\nimport anyio\nimport cascade as cs\n\n@cs.task\n"
        "async def job():\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "    await anyio.sleep(0)\n    return 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-m", "cascade", "run", "deaf.py:job", "--backend", backend],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)
