"""Constraints and subscribers that change while fused code runs (sections 10, 14)."""

from __future__ import annotations

from itertools import pairwise
from time import perf_counter
from typing import Any

import anyio
import pytest

import cascade as cs
from cascade.core.services import FusedTier
from cascade.testing import virtual_time
from fusing import agree, loop_of, ran

# Constraints and subscribers that change


CHANGES = {
    "pause": lambda constraints, scope: constraints.pause(scope, ttl=2),
    "limit": lambda constraints, scope: constraints.limit_concurrency(scope, 1),
    "rate": lambda constraints, scope: constraints.limit_rate(scope, 1, burst=1),
}
SCOPES = ["global", "task:inner", "task:step", "task:nobody"]


@pytest.mark.parametrize("kind", ["sync", "async", "mixed"])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_constraint_that_a_task_of_the_loop_adds_and_removes(backend, change, scope, kind):
    """It holds for the very next call, and fused code goes on while and after it does."""

    def make(world):
        constraints = world.engine.constraints
        made: list[str] = []

        def inner(x):
            world.log.append(("inner", x, anyio.current_time()))
            count = len(world.log)
            if count in (5, 21):
                made.append(CHANGES[change](constraints, scope))
            if count in (15, 31):
                constraints.remove(made[-1])
            return x

        async def later(x):
            await anyio.sleep(0.5)
            return inner(x)

        def step(m, n):
            world.log.append(("step", n, anyio.current_time()))
            if n == 20:
                CHANGES[change](constraints, scope)
            if n == 24:
                CHANGES["limit"](constraints, scope)
            return cs.Jump("again", {"n": n + 1}) if n < 28 else m

        async def later_step(m, n):
            return step(m, n)

        first = cs.task(inner if kind == "sync" else later, name="inner")
        second = cs.task(later_step if kind == "async" else step, name="step")
        return loop_of(second(first(1), 0))

    found = agree(make, backend)
    assert found.exits


def test_a_constraint_that_lets_others_go_on(backend):
    """Whom a task of the loop resumes has its turn in plan order, before the next iteration."""

    def make(world):
        @cs.task
        def waits(x):
            world.log.append(("waits", x))
            return x

        @cs.task
        def inner(x):
            world.log.append("inner")
            return x

        @cs.task
        def step(m, n):
            world.log.append(("step", n))
            if n == 3:
                world.engine.constraints.resume("task:waits")
            return cs.Jump("again", {"n": n + 1}) if n < 6 else m

        world.engine.constraints.pause("task:waits")
        return [waits(1), waits(2), loop_of(step(inner(1), 0)), waits(3)]

    agree(make, backend)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    "event", [cs.TaskExecutionStarted, cs.TaskExecutionFinished, cs.TaskEvent, cs.TaskSkipped]
)
def test_a_task_of_the_loop_subscribes_and_unsubscribes(backend, event, kind):
    """A subscriber hears of the very next call, and of none after it has gone."""

    def make(world):
        ends: list[Any] = []

        def heard(event):
            world.log.append((type(event).__name__, event.task_id))

        def toggle(n):
            if ends:
                ends.pop()()
            elif n < 20:
                ends.append(world.engine.bus.subscribe(event, heard))

        def inner(x, n=[0]):  # noqa: B006
            n[0] += 1
            world.log.append("inner")
            if n[0] % 4 == 0:
                toggle(n[0])
            return x

        def step(m, n):
            world.log.append(n)
            if n % 3 == 0:
                toggle(n)
            return cs.Jump("again", {"n": n + 1}) if n < 24 else m

        async def later(m, n):
            await anyio.lowlevel.checkpoint()
            return step(m, n)

        counted: list[int] = [0]
        looped = cs.task(step if kind == "sync" else later, name="step")
        return loop_of(looped(cs.task(lambda x: inner(x, counted), name="inner")(1), 0))

    agree(make, backend)


def test_another_run_changes_the_constraints(backend, use_vm):
    """Concurrent runs of an engine share its constraints, whoever changes them."""
    starts: dict[str, list[float]] = {"one": [], "two": []}

    @cs.task
    async def step(n, name):
        starts[name].append(anyio.current_time())
        await anyio.sleep(0.25)
        return cs.Jump("again", n + 1) if n < 40 else n

    async def main():
        engine = cs.Engine()
        engine.services.fused_tier = FusedTier(0)

        async def run(name):
            assert await engine.run(loop_of(step(0, name)), use_vm=use_vm) == 40

        async with anyio.create_task_group() as group:
            group.start_soon(run, "one")
            group.start_soon(run, "two")
            await anyio.sleep(3.1)
            engine.constraints.pause("task:step", ttl=5)
            await anyio.sleep(6)
            engine.constraints.limit_concurrency("task:step", 1)
            await anyio.sleep(3)
            engine.constraints.update(cs.GlobalConstraint("x", "task:other", "pause", {}))
        return engine

    engine = anyio.run(main, backend=backend, backend_options=virtual_time(backend))
    assert bool(engine.statistics().fused_entries) == use_vm
    both = sorted(starts["one"] + starts["two"])
    assert len(both) == 82
    assert not [time for time in both if 3.1 < time < 8.1]
    limited = [time for time in both if time > 9.5]
    gaps = [b - a for a, b in pairwise(limited)]
    assert min(gaps) >= 0.25
    found = engine.constraints.statistics()
    assert not found.parked
    assert all(not each.running for each in found.constraints.values())


def test_whose_time_has_come_goes_before_the_next_call(backend, use_vm):
    """A rate's waiter that is due when the loop asks the gate is not put off by fused code."""
    order: list[Any] = []

    @cs.task
    def waits(x):
        order.append("waits")
        return x

    @cs.task
    def limited(x):
        order.append("limited")
        end = perf_counter() + 0.012
        while perf_counter() < end:
            pass
        return x

    @cs.task
    def free(x):
        order.append("free")
        return x

    @cs.task
    def step(m, n):
        return cs.Jump("again", {"n": n + 1}) if n < 12 else m

    async def main():
        engine = cs.Engine()
        engine.services.fused_tier = FusedTier(0)
        engine.constraints.limit_concurrency("task:limited", 1)
        engine.constraints.limit_rate("task:waits", 50, burst=1)
        target = [waits(1), waits(2), loop_of(step(free(free(limited(1))), 0))]
        await engine.run(target, use_vm=use_vm)

    anyio.run(main, backend=backend)
    at = order.index("waits", 1)
    assert order[0] == "waits"
    assert at < 12  # the third time that the loop asks, 20 ms have passed
    assert order.count("waits") == 2


@pytest.mark.parametrize("change", ["limit", "subscribe", "fail"])
def test_a_change_while_a_loop_gives_way(backend, change):
    """An async loop that never suspends sees what others change between its slices."""
    heard: list[Any] = []
    seen = [False]

    @cs.task
    async def step(n):
        if n > 500_000:
            raise AssertionError("nobody was heard")
        return n if seen[0] and len(heard) != 1 else cs.Jump("again", n + 1)

    @cs.task
    async def sibling():
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        if change == "fail":
            raise ValueError("ends it")
        if change == "subscribe":
            engine.bus.subscribe(cs.TaskExecutionStarted, heard.append)
        else:
            engine.constraints.limit_concurrency("task:step", 1)
        seen[0] = True

    engine = cs.Engine()
    engine.services.fused_tier = FusedTier(0)

    async def main():
        await engine.run([loop_of(step(0)), sibling()], use_vm=True)

    if change == "fail":
        with pytest.raises(ValueError, match="ends it"):
            anyio.run(main, backend=backend)
    else:
        anyio.run(main, backend=backend)
        assert engine.statistics().fused_exits >= 1
    assert engine.statistics().fused_entries


# Events


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_each_attempt_that_starts_is_told_to_finish_once(backend, kind):
    """Under observation each Started has one Finished, later, with a duration of 0 or more."""
    events: list[Any] = []

    def make(world):
        world.engine.bus.subscribe(cs.TaskExecutionStarted, events.append)
        world.engine.bus.subscribe(cs.TaskExecutionFinished, events.append)

        def inner(x):
            events.append("called")
            if events.count("called") % 5 == 0:
                raise ValueError
            if events.count("called") % 7 == 0 and kind == "sync":
                return later(x)
            return x

        async def later(x):
            await anyio.sleep(1)
            return x

        async def inner_async(x):
            await anyio.sleep(0.5)
            return inner(x)

        @cs.task
        def step(m, n):
            return cs.Jump("again", {"n": n + 1}) if n < 20 else m

        @cs.task
        async def step_async(m, n):
            return cs.Jump("again", {"n": n + 1}) if n < 20 else m

        argument = cs.task(inner if kind == "sync" else inner_async, name="inner")(1)
        body = (step if kind == "sync" else step_async)(argument.with_retry(3), 0)
        return loop_of(body)

    assert ran(make, backend, True).entries
    told = [event for event in events if event != "called"]
    open_since: dict[str, Any] = {}
    for event in told:
        if isinstance(event, cs.TaskExecutionStarted):
            assert event.task_id not in open_since
            open_since[event.task_id] = event
        else:
            began = open_since.pop(event.task_id)
            assert event.duration == event.timestamp - began.timestamp >= 0
    assert open_since == {}


def test_a_stall_in_fused_code_is_told(backend):
    """An inline task that holds the loop is reported from fused code too."""
    stalls: list[Any] = []

    def make(world):
        world.engine.bus.subscribe(cs.TaskStalled, stalls.append)

        @cs.task
        def step(n):
            if n == 3:
                end = perf_counter() + 0.11
                while perf_counter() < end:
                    pass
            return cs.Jump("again", n + 1) if n < 5 else n

        return loop_of(step(0))

    assert ran(make, backend, True).entries
    assert [stall.task_id for stall in stalls] == ["step#0/step#0"]
