"""Cancellation at every point: a run leaves nothing behind (section 11)."""

import asyncio
import logging
import threading
from contextlib import suppress

import anyio
import pytest
import trio

import cascade as cs
from cascade.core.services import FusedTier
from cascade.testing import virtual_time

TICKS = 24


@cs.task
async def nap(x=0, seconds=1):
    await anyio.sleep(seconds)
    return x


@cs.task
async def fail_twice(state):
    await anyio.sleep(1)
    state.append(1)
    if len(state) < 3:
        raise ValueError
    return "done"


@cs.task
async def step(n):
    await anyio.lowlevel.checkpoint()
    return cs.Jump("again", n + 1) if n < 3 else n


@cs.task
async def tail(n):
    await anyio.lowlevel.checkpoint()
    return cs.TailCall((n - 1,)) if n else "end"


@cs.task
async def unfold(n):
    await anyio.lowlevel.checkpoint()
    return unfold(n - 1) if n else "end"


@cs.task
async def use(db, other):
    await anyio.sleep(1)
    return db, other


def loop():
    node = step(0)
    return cs.bind(node, cs.select_jump({"again": node}))


def injected():
    return use(cs.inject("db"), cs.inject("step_db")), use(1, cs.inject("task_db"))


PROGRAMS = {
    "chain": lambda: nap(nap(nap(1))),
    "tree": lambda: [nap([nap(1), nap(2)]), nap(3, 2)],
    "capacity": lambda: [nap(x).with_constraints(gpu=1 + x % 2) for x in range(4)],
    "limit": lambda: [nap(x) for x in range(3)] + [loop()],
    "retry": lambda: fail_twice([]).with_retry(3, delay=1).with_constraints(gpu=2),
    "timeout": lambda: nap(1, 9).with_timeout(1).with_retry(2, on=ValueError),
    "single flight": lambda: [nap(1).with_cache(cs.InMemoryCache()) for _ in range(3)],
    "loops": lambda: [loop(), tail(3), unfold(3)],
    "map": lambda: nap.map(x=[1, 2, nap(3)]).with_constraints(gpu=2),
    "resources": lambda: list(injected()),
    "parts": lambda: cs.Router(nap("a"), routes={"a": nap(1).run_if(nap(True)).after(nap())}),
}


def resources(living):
    """A resource of each scope that counts itself among the living."""

    def provider(scope):
        async def generator():
            await anyio.lowlevel.checkpoint()
            living.append(scope)
            try:
                yield scope
            finally:
                await anyio.sleep(0.5)
                living.remove(scope)

        return generator

    names = {"run": "db", "step": "step_db", "task": "task_db"}
    return [cs.resource(provider(s), name=name, scope=s) for s, name in names.items()]


async def cancel_at(engine, target, use_vm, time, ticks):
    """Run `target`, cancel it `ticks` turns of the loop after `time`; how it ended."""
    status = "Cancelled"

    async def runs():
        nonlocal status
        try:
            await engine.run(target, use_vm=use_vm)
            status = "Succeeded"
        except cs.TaskTimeoutError:
            status = "Failed"

    async with anyio.create_task_group() as group:
        group.start_soon(runs)
        if time:
            await anyio.sleep(time)
        for _ in range(ticks):
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    return status


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_run_cancelled_anywhere_leaves_nothing_behind(inside, use_vm, name):
    """However far a run got: no task, resource or capacity is left, and it is told as Cancelled."""

    async def program():
        started, finished, attempts, living = [], [], [], []
        bus = cs.MessageBus()
        bus.subscribe(cs.RunStarted, started.append)
        bus.subscribe(cs.RunFinished, lambda event: finished.append(event.status))
        bus.subscribe(cs.TaskExecutionStarted, lambda event: attempts.append(1))
        bus.subscribe(cs.TaskExecutionFinished, lambda event: attempts.append(-1))
        limits = [cs.GlobalConstraint("two", "task:nap", "concurrency", {"limit": 2})]
        constraints = limits if name == "limit" else []
        engine = cs.Engine(bus=bus, system_resources={"gpu": 2}, constraints=constraints)
        for definition in resources(living):
            engine.register(definition)
        everybody = {task.id for task in anyio.get_running_tasks()}
        outcomes = set()
        for time in (0, 0.5, 1, 1.5, 2, 3):
            for ticks in range(TICKS):
                del started[:], finished[:], attempts[:]
                status = await cancel_at(engine, PROGRAMS[name](), use_vm, time, ticks)
                outcomes.add(status)
                assert finished == [status] * len(started), (time, ticks)
                assert {task.id for task in anyio.get_running_tasks()} == everybody
                assert living == []
                assert sum(attempts) == 0
                assert engine.constraints.statistics().parked == 0
                if ticks % 10 == 0:
                    whole = nap("whole", 0.1).with_constraints(gpu=2)
                    with anyio.fail_after(1):
                        assert await engine.run([whole], use_vm=use_vm) == ["whole"]
        return outcomes

    assert "Cancelled" in inside(program)


def test_the_other_runs_of_an_engine_go_on(inside, use_vm):
    """Cancelling one run cancels no other, and what it held goes to those who wait."""

    async def program():
        engine = cs.Engine(system_resources={"gpu": 1})
        values = []

        async def other():
            values.append(await engine.run(nap("other").with_constraints(gpu=1), use_vm=use_vm))

        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                group.start_soon(other)
                await anyio.lowlevel.checkpoint()
                scope.deadline = anyio.current_time() + 1.5
                await engine.run([nap(1, 9).with_constraints(gpu=1), nap(2, 9)], use_vm=use_vm)
            group.start_soon(other)
        return scope.cancelled_caught, values

    assert inside(program) == (True, ["other", "other"])


@pytest.mark.parametrize("asyncio_only", ["wait_for", "cancel"])
def test_a_run_is_cancelled_by_asyncio_itself(asyncio_only, use_vm):
    """Native cancellation of asyncio ends a run like any other."""
    log = []

    @cs.task
    async def waits():
        try:
            await anyio.sleep_forever()
        finally:
            log.append("ended")

    async def program():
        if asyncio_only == "wait_for":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(cs.run_async([waits(), waits()], use_vm=use_vm), 0.05)
            return
        task = asyncio.create_task(cs.run_async([waits(), waits()], use_vm=use_vm))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(program())
    assert log == ["ended", "ended"]


def test_a_run_cancelled_before_it_starts_runs_nothing(inside, use_vm):
    """In a scope already cancelled no task runs."""
    log = []

    @cs.task
    async def node():
        log.append(1)
        await anyio.lowlevel.checkpoint()
        log.append(2)

    async def program():
        with anyio.CancelScope() as scope:
            scope.cancel()
            await cs.run_async([node(), node()], use_vm=use_vm)
        return scope.cancelled_caught

    assert inside(program)
    assert 2 not in log


# asyncio's own cancellation


async def cancel_natively(engine, target, use_vm, time, ticks):
    """Run `target` in an asyncio task, `cancel()` that then and there; how it ended."""

    async def runs():
        try:
            await engine.run(target, use_vm=use_vm)
        except cs.TaskTimeoutError:
            return "Failed"
        return "Succeeded"

    task = asyncio.ensure_future(runs())
    if time:
        await asyncio.sleep(time)
    for _ in range(ticks):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    return "Cancelled" if task.cancelled() else task.result()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_run_cancelled_natively_anywhere_leaves_nothing_behind(use_vm, name):
    """`task.cancel()` at any point of a run: nothing is left, and it is told as Cancelled."""

    async def program():
        started, finished, attempts, living = [], [], [], []
        bus = cs.MessageBus()
        bus.subscribe(cs.RunStarted, started.append)
        bus.subscribe(cs.RunFinished, lambda event: finished.append(event.status))
        bus.subscribe(cs.TaskExecutionStarted, lambda event: attempts.append(1))
        bus.subscribe(cs.TaskExecutionFinished, lambda event: attempts.append(-1))
        limits = [cs.GlobalConstraint("two", "task:nap", "concurrency", {"limit": 2})]
        constraints = limits if name == "limit" else []
        engine = cs.Engine(bus=bus, system_resources={"gpu": 2}, constraints=constraints)
        engine.services.fused_tier = FusedTier(0)
        for definition in resources(living):
            engine.register(definition)
        everybody = {task.id for task in anyio.get_running_tasks()}
        outcomes = set()
        for time in (0, 0.5, 1, 1.5, 2, 3):
            for ticks in range(TICKS):
                del started[:], finished[:], attempts[:]
                status = await cancel_natively(engine, PROGRAMS[name](), use_vm, time, ticks)
                outcomes.add(status)
                assert finished == [status] * len(started), (time, ticks)
                assert {task.id for task in anyio.get_running_tasks()} == everybody
                assert living == []
                assert sum(attempts) == 0
                found = engine.constraints.statistics()
                assert found.parked == 0
                assert found.free["gpu"] == 2
        return outcomes

    assert "Cancelled" in anyio.run(program, backend_options=virtual_time("asyncio"))


@pytest.mark.parametrize("how", ["cancel", "timeout", "wait_for"])
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("what", ["awaits", "suppresses", "raises", "loops"])
def test_every_way_of_asyncio_cancels_a_run(use_vm, how, alone, what, caplog):
    """Whatever its tasks make of the CancelledError: the run is cancelled, once.

    Unless it is but one call, which ends as plain Python has it: in what comes out of it.
    """
    caplog.set_level(logging.CRITICAL, "cascade")
    finished = []

    @cs.task
    async def node():
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            if what == "suppresses":
                return "suppressed"
            if what == "raises":
                raise ValueError("instead") from None
            raise

    @cs.task
    async def step(n):
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)
        return cs.Jump("again", n + 1)

    async def program():
        bus = cs.MessageBus()
        bus.subscribe(cs.RunFinished, lambda event: finished.append(event.status))
        target = node()
        if what == "loops":
            target = step(0)
            cs.bind(target, cs.select_jump({"again": target}))
        run = cs.run_async(target if alone else [target, node()], use_vm=use_vm, bus=bus)
        if alone and what in ("suppresses", "raises"):
            task = asyncio.create_task(run)
            await asyncio.sleep(1)
            task.cancel()
            if what == "suppresses":
                assert await task == "suppressed"
            else:
                with pytest.raises(ValueError, match="instead"):
                    await task
        elif how == "wait_for":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(run, 1)
        elif how == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await run
            assert asyncio.current_task().cancelling() == 0
        else:
            task = asyncio.create_task(run)
            await asyncio.sleep(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    anyio.run(program, backend_options=virtual_time("asyncio"))
    as_plain = {"suppresses": "Succeeded", "raises": "Failed"} if alone else {}
    assert finished == [as_plain.get(what, "Cancelled")]


@pytest.mark.parametrize("name", ["fails", "fails beside", "retries", "succeeds", "nested"])
def test_a_run_in_a_task_that_was_cancelled_before(use_vm, name):
    """A run that cleans up after a cancellation is itself not cancelled: it runs and fails."""

    @cs.task
    async def fails():
        await asyncio.sleep(0)
        raise ValueError("while cleaning up")

    @cs.task
    async def flaky(attempts):
        await asyncio.sleep(0)
        attempts.append(1)
        if len(attempts) < 3:
            raise ValueError
        return len(attempts)

    @cs.task
    async def nested():
        with pytest.raises(ValueError, match="cleaning"):
            await cs.run_async(fails(), use_vm=use_vm)
        await asyncio.sleep(0)
        raise ValueError("cleaning, outside")

    targets = {
        "fails": fails,
        "fails beside": lambda: [fails(), fails()],
        "retries": lambda: flaky([]).with_retry(3),
        "succeeds": lambda: flaky([1, 1]),
        "nested": nested,
    }
    outcomes = []

    async def cleans_up():
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            try:
                outcomes.append(await cs.run_async(targets[name](), use_vm=use_vm))
            except ValueError as error:
                outcomes.append(str(error))
            raise

    async def program():
        task = asyncio.create_task(cleans_up())
        await asyncio.sleep(1)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        assert done
        assert task.cancelled()

    anyio.run(program, backend_options=virtual_time("asyncio"))
    expected = {"retries": 3, "succeeds": 3, "nested": "cleaning, outside"}
    assert outcomes == [expected.get(name, "while cleaning up")]


def test_a_run_cancelled_again_while_it_cleans_up(use_vm):
    """A cancellation that comes during such a run cancels it."""
    log = []

    @cs.task
    async def sleeps():
        log.append("begins")
        await asyncio.sleep(10)

    async def cleans_up():
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await cs.run_async(sleeps(), use_vm=use_vm)
            log.append("never")

    async def program():
        task = asyncio.create_task(cleans_up())
        for _ in range(2):
            await asyncio.sleep(1)
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    anyio.run(program, backend_options=virtual_time("asyncio"))
    assert log == ["begins"]


@pytest.mark.parametrize("count", [1, 2])
def test_a_native_cancellation_waits_for_threads(use_vm, count):
    """A thread cannot be interrupted: the run ends when its function has returned."""
    goes_on = threading.Event()
    log = []

    @cs.task(mode="thread")
    def works():
        goes_on.wait(10)
        log.append("returned")

    async def program():
        targets = [works() for _ in range(count)]
        task = asyncio.create_task(cs.run_async(targets, use_vm=use_vm))
        await asyncio.sleep(0.05)
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
        goes_on.set()
        await asyncio.wait([task])
        assert task.cancelled()
        assert log == ["returned"] * count

    asyncio.run(program())


@cs.task
async def stubborn():
    try:
        await anyio.sleep(10)
    except BaseException:  # against the rules of both loops, and yet it happens
        return "too late"


@pytest.mark.parametrize(
    "make_target",
    [
        lambda: stubborn(),
        lambda: nap(stubborn(), 0),
        lambda: [stubborn(), stubborn()],
        lambda: stubborn().with_timeout(50),
    ],
    ids=["alone", "then another", "two", "timed"],
)
def test_a_task_that_suppresses_the_cancellation_does_not_stop_it(inside, use_vm, make_target):
    """The run is cancelled all the same, whether or not its driver awaits the task itself."""

    async def main():
        ends = []
        engine = cs.Engine()
        engine.bus.subscribe(cs.RunFinished, ends.append)
        for _ in range(20):  # it must not depend on when a slice of time is over
            with anyio.move_on_after(1) as scope:
                await engine.run(make_target(), use_vm=use_vm)
            assert (ends.pop().status, scope.cancelled_caught) == ("Cancelled", True)

    inside(main)


async def in_a_nursery():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 5)


async def in_the_body_of_a_nursery():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 5)
        await trio.sleep(5)


async def in_nurseries_within_each_other():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_a_nursery)
        await in_the_body_of_a_nursery()


NURSERIES = [in_a_nursery, in_the_body_of_a_nursery, in_nurseries_within_each_other]


@pytest.mark.parametrize("how", ["alone", "retried", "timed", "mapped", "in a loop"])
@pytest.mark.parametrize("nursery", NURSERIES)
@pytest.mark.parametrize("by", ["a failure", "the caller"])
def test_a_cancelled_nursery_of_trio_is_cancelled(use_vm, by, nursery, how):
    """The group of nothing but cancellations that comes out of trio's own nursery is no failure."""
    asked, statuses = [], []

    @cs.task
    async def waits(x=0):
        await nursery()
        return cs.Jump("again", x)

    @cs.task
    async def fails():
        await anyio.sleep(1)
        raise ValueError("the first")

    def target():
        node = waits.map(x=[1, 2]) if how == "mapped" else waits()
        if how == "retried":
            node.with_retry(3, on=lambda error: asked.append(error) or True)
        if how == "timed":
            node.with_timeout(100)
        if how == "in a loop":
            cs.bind(node, cs.select_jump({"again": node}))
        return [node, fails()] if by == "a failure" else node

    async def main():
        engine = cs.Engine()
        engine.bus.subscribe(cs.TaskExecutionFinished, lambda event: statuses.append(event))
        with anyio.move_on_after(2) as scope:
            await engine.run(target(), use_vm=use_vm)
        assert scope.cancelled_caught

    if by == "a failure":
        with pytest.raises(ValueError, match="the first") as caught:
            anyio.run(main, backend="trio", backend_options=virtual_time("trio"))
        assert not any("meanwhile" in note for note in caught.value.__notes__)
    else:
        anyio.run(main, backend="trio", backend_options=virtual_time("trio"))
    assert not asked
    assert {e.status for e in statuses if e.task_name == "waits"} == {"Cancelled"}
