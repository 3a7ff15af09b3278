"""Section 10: a run inside a task of the same engine, and what the tasks around it hold."""

from __future__ import annotations

from functools import partial
from io import StringIO

import anyio
import pytest
from rich.console import Console

import cascade as cs


@cs.task
async def inner(n=0):
    await anyio.sleep(1)
    return n


@cs.task
def inner_sync(n=0):
    return n


def outer_of(engine, use_vm, kind, make):
    """A task named `outer` that runs `make()` inside itself, in one of the ways there are."""

    async def nested(seconds=0):
        await anyio.sleep(seconds)
        return await engine.run(make(), use_vm=use_vm)

    async def in_a_group(seconds=0):
        await anyio.sleep(seconds)
        async with anyio.create_task_group() as group:
            group.start_soon(partial(engine.run, make(), use_vm=use_vm))

    def in_a_thread(seconds=0):
        return anyio.from_thread.run(nested, seconds)

    if kind == "thread":
        return cs.task(in_a_thread, name="outer", mode="thread")
    if kind == "awaitable":
        return cs.task(lambda seconds=0: nested(seconds), name="outer")
    return cs.task(in_a_group if kind == "group" else nested, name="outer")


def leaves(error):
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    return error


@pytest.mark.parametrize("kind", ["async", "thread", "awaitable", "group"])
@pytest.mark.parametrize("what", ["capacity", "slots"])
@pytest.mark.parametrize("task", [inner, inner_sync], ids=["async", "sync"])
def test_what_only_the_task_around_holds_is_an_error(inside, use_vm, kind, what, task):
    """It names who waits and who holds, and everything is given back."""

    async def program():
        engine = cs.Engine(system_resources={"gpu": 2})

        def needing(lazy, amount):
            return lazy.with_constraints(gpu=amount) if what == "capacity" else lazy

        if what == "slots":
            engine.constraints.limit_concurrency("global", 1)
        outer = outer_of(engine, use_vm, kind, lambda: needing(task(), 2))
        with pytest.raises((cs.DeadlockError, BaseExceptionGroup)) as caught:
            with anyio.fail_after(100):
                await engine.run(needing(outer(), 1), use_vm=use_vm)
        error = leaves(caught.value)
        assert isinstance(error, cs.DeadlockError)
        assert isinstance(error, RuntimeError)
        assert error.task_name == task.name
        assert error.holders == ("outer",)
        assert "'outer'" in str(error)
        assert repr(task.name) in str(error)
        statistics = engine.constraints.statistics()
        assert statistics.parked == 0
        assert statistics.free["gpu"] == 2
        assert await engine.run(needing(task(7), 2), use_vm=use_vm) == 7

    inside(program)


def test_what_others_hold_is_waited_for(inside, use_vm):
    """Only what can never come is an error: here it comes when a task beside has ended."""

    async def program():
        engine = cs.Engine(system_resources={"gpu": 2})
        outer = outer_of(engine, use_vm, "async", lambda: inner(3).with_constraints(gpu=1))
        target = [outer().with_constraints(gpu=1), inner().with_constraints(gpu=1)]
        return await engine.run(target, use_vm=use_vm), anyio.current_time()

    assert inside(program) == ([3, 0], 2)


@pytest.mark.parametrize("what", ["slots", "crossed"])
def test_runs_that_wait_for_each_others_tasks(inside, use_vm, what):
    """Each alone could be freed by the other: the last one that closes the circle is told."""

    async def program():
        engine = cs.Engine(system_resources={"a": 1, "b": 1, "slot": 2})
        first, second = ({"a": 1}, {"b": 1}) if what == "crossed" else ({"slot": 1}, {"slot": 1})
        wants_b = outer_of(engine, use_vm, "async", lambda: inner().with_constraints(**second))
        wants_a = outer_of(engine, use_vm, "async", lambda: inner().with_constraints(**first))
        told = []

        @cs.task(name="outer")
        async def last(seconds):
            try:
                return await wants_a.func(seconds)
            except cs.DeadlockError as error:
                told.append(set(error.holders))

        target = [
            wants_b(1).with_constraints(**first),
            last(2).with_constraints(**second),
        ]
        with anyio.fail_after(100):
            assert await engine.run(target, use_vm=use_vm) == [0, None]
        return told

    assert inside(program) == [{"outer"}]


def test_who_waits_behind_one_that_can_never_start(inside, use_vm):
    """Nobody overtakes, so a small one behind a large one is as stuck as that."""

    async def program():
        engine = cs.Engine(system_resources={"gpu": 3})
        outer = outer_of(engine, use_vm, "async", lambda: inner().with_constraints(gpu=1))

        async def large():
            await anyio.sleep(1)
            await engine.run(inner().with_constraints(gpu=3), use_vm=use_vm)

        async with anyio.create_task_group() as group:
            group.start_soon(large)
            with anyio.fail_after(100), pytest.raises(cs.DeadlockError):
                await engine.run(outer(2).with_constraints(gpu=2), use_vm=use_vm)

    inside(program)


def test_a_limit_that_ends_is_waited_for(inside, use_vm):
    """A limit with a ttl ends by itself."""

    async def program():
        engine = cs.Engine()
        engine.constraints.limit_concurrency("global", 1, ttl=60)
        outer = outer_of(engine, use_vm, "async", lambda: inner(3))
        return await engine.run(outer(), use_vm=use_vm), anyio.current_time()

    assert inside(program) == (3, 61)


def test_an_engine_of_its_own_shares_nothing(inside, use_vm):
    """Another engine in between changes nothing for the runs of the first."""

    async def program():
        engine, other = cs.Engine(system_resources={"gpu": 1}), cs.Engine()
        back = outer_of(engine, use_vm, "async", lambda: inner().with_constraints(gpu=1))
        there = outer_of(other, use_vm, "async", back)
        with anyio.fail_after(100), pytest.raises(cs.DeadlockError):
            await engine.run(there().with_constraints(gpu=1), use_vm=use_vm)
        separate = outer_of(other, use_vm, "async", lambda: inner(5).with_constraints(gpu=1))
        return await engine.run(separate().with_constraints(gpu=1), use_vm=use_vm)

    assert inside(program) == 5


def test_a_run_inside_sets_up_its_own_resources_and_fails_into_the_task(inside, use_vm):
    """Of the scope "run" too: a run inside is a run of its own, with its own id in events."""
    happened = []

    @cs.resource
    def database():
        happened.append("open")
        yield len(happened)
        happened.append("close")

    @cs.task
    async def query(n, database=cs.inject("database")):
        happened.append(n)
        if n == 2:
            raise OSError(database)
        return database

    async def program():
        engine = cs.Engine()
        engine.register(database)

        @cs.task
        async def outer(database=cs.inject("database")):
            found = await engine.run(query(1), use_vm=use_vm)
            with pytest.raises(OSError, match="5") as caught:
                await engine.run(query(2), use_vm=use_vm)
            happened.append("caught")
            assert f"of run {started[2].run_id}" in caught.value.__notes__[0]
            return database, found

        started, ended = [], []
        engine.bus.subscribe(cs.RunStarted, started.append)
        engine.bus.subscribe(cs.RunFinished, ended.append)
        value = await engine.run(outer(), use_vm=use_vm)
        names = {event.run_id: event.target for event in started}
        return value, list(names.values()), [(names[e.run_id], e.status) for e in ended]

    value, begun, ended = inside(program)
    assert value == (1, 2)
    assert begun == ["outer", "query", "query"]
    assert ended == [("query", "Succeeded"), ("query", "Failed"), ("outer", "Succeeded")]
    inner_runs = ["open", 1, "close", "open", 2, "caught"]
    assert happened == ["open", *inner_runs, "close"]


def test_progress_shows_a_run_inside_beside_the_one_around_it(inside, use_vm):
    """Each has a line of its own for as long as it goes on, and one about how it ended."""
    text = StringIO()

    async def program():
        engine = cs.Engine()

        @cs.task
        async def outer():
            await anyio.sleep(2)
            await engine.run(inner(1), use_vm=use_vm)
            await anyio.sleep(2)

        async with cs.Progress(engine, console=Console(file=text, width=100), interval=0.5):
            await engine.run(outer(), use_vm=use_vm)

    inside(program)
    told = [line.partition(":")[0] for line in text.getvalue().splitlines()]
    at = told.index("inner running 0.5 s")
    assert "outer running 2.5 s" in (told[at - 1], told[at + 1])
    assert "inner Succeeded after 1.0 s" in told
    assert told[-1] == "outer Succeeded after 5.0 s"
