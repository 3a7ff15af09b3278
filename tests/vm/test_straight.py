"""Straight runs of inline calls do what the interpreter does, call by call (sections 3, 11, 16)."""

from __future__ import annotations

import time
from typing import Any

import anyio
import pytest

import cascade as cs
from cascade.vm import straight_run
from fusing import agree


@pytest.fixture
def runs(monkeypatch):
    """The straight runs that were begun."""
    begun: list[Any] = []
    carry_out = straight_run.StraightRun.carry_out

    def counted(self):
        begun.append(self)
        carry_out(self)

    monkeypatch.setattr(straight_run.StraightRun, "carry_out", counted)
    return begun


def check(make, backend, runs, **options):
    found = agree(make, backend, is_fused=False, **options)
    assert runs
    return found


def tasks(world):
    """Tasks that note what they do."""

    @cs.task
    def note(*args, **kwargs):
        world.log.append((args, kwargs))
        return len(args) + len(kwargs)

    @cs.task
    async def co(x):
        world.log.append(("begins", x))
        await anyio.sleep(1)
        world.log.append(("ends", x))
        return x

    return note, co


def test_calls_of_every_form(backend, runs):
    """One, many, no and keyword arguments; containers of every kind."""

    def make(world):
        note, _ = tasks(world)
        one = note(note(note(1)))
        lists = [one, note()], [one], (one, 2), {"a": one, 3: [one, one]}
        return note(*lists, note(one, 2), k=note(k=one))

    check(make, backend, runs)


@pytest.mark.parametrize("value", ["jump", "tail", "expression", "router", "map"])
@pytest.mark.parametrize("at", ["target", "argument"])
def test_control_in_a_straight_run(backend, runs, value, at):
    """A task among them may end with control, and the others go on."""

    def make(world):
        note, _ = tasks(world)

        @cs.task
        def control(n):
            world.log.append(("control", n))
            if n > 3:
                return n
            controls = {
                "jump": lambda: cs.Jump("nowhere"),
                "tail": lambda: cs.TailCall((n + 1,)),
                "expression": lambda: note(note(n), note(n)),
                "router": lambda: cs.Router("a", routes={"a": note(note(5))}),
                "map": lambda: control.map(n=[7, 8]),
            }
            return controls[value]()

        node = control(note(note(1)))
        return node if at == "target" else note(note(node), note(note(2)))

    agree(make, backend, is_fused=value in ("tail", "expression"))
    assert runs


@pytest.mark.parametrize("retry", [None, 0.0, 1.0])
@pytest.mark.parametrize("error", [ValueError("no"), StopIteration(), KeyboardInterrupt()])
def test_a_straight_call_that_raises(backend, runs, error, retry):
    """It fails or is retried by itself, with the same arguments."""

    def make(world):
        note, _ = tasks(world)

        @cs.task
        def fails(x):
            world.log.append(("fails", x))
            if world.log.count(("fails", x)) < 3:
                raise error
            return x

        node = fails(note(note(1)))
        if retry is not None:
            node.with_retry(3, delay=retry, on=BaseException)
        return note(note(node, note(2)))

    check(make, backend, runs)


@pytest.mark.parametrize("fails", [False, True])
def test_a_straight_call_that_gives_an_awaitable(backend, runs, fails):
    """Its awaitable is awaited, while what else is ready goes on."""

    def make(world):
        note, _ = tasks(world)

        async def later(x):
            await anyio.sleep(1)
            world.log.append(("later", x))
            if fails and world.log.count(("later", x)) < 2:
                raise ValueError(x)
            return x

        @cs.task
        def gives(x):
            world.log.append(("gives", x))
            return later(x)

        return note(note(1), gives(note(2)).with_retry(2), note(note(3)))

    check(make, backend, runs)


@pytest.mark.parametrize("scope", ["task:note", "task:nobody", "global"])
@pytest.mark.parametrize("change", ["pause", "limit", "rate", "subscribe", "unsubscribe"])
def test_a_change_in_a_straight_run(backend, runs, change, scope):
    """A call that changes constraints or subscribers is the last that asks nobody."""

    def make(world):
        note, _ = tasks(world)
        constraints, bus = world.engine.constraints, world.engine.bus

        def heard(event):
            world.log.append((event.task_id, event.attempt))

        unsubscribe = bus.subscribe(cs.TaskExecutionStarted, heard)
        if change != "unsubscribe":
            unsubscribe()

        @cs.task
        def changes(x):
            match change:
                case "pause":
                    constraints.pause(scope, ttl=3)
                case "limit":
                    constraints.limit_concurrency(scope, 1)
                case "rate":
                    constraints.limit_rate(scope, 1, burst=1)
                case "subscribe":
                    bus.subscribe(cs.TaskExecutionStarted, heard)
                case "unsubscribe":
                    unsubscribe()
            return x

        @cs.task
        def timed(x):
            world.log.append(anyio.current_time())
            return x

        return timed(note(note(timed(changes(note(note(1)))))))

    agree(make, backend, is_fused=False)
    assert runs or change == "unsubscribe"


def test_straight_rows_end_where_something_else_is_ready(backend, runs):
    """Async tasks, conditions, loops and maps begin when what they need is there."""

    def make(world):
        note, co = tasks(world)

        @cs.task
        def step(n):
            world.log.append(("step", n))
            return cs.Jump("again", n + 1) if n < 3 else n

        one = note(note(1))
        loop = step(note(note(2)))
        cs.bind(loop, cs.select_jump({"again": loop}))
        return [
            note(note(one), co(one)),
            note(note(3)).run_if(note(one)),
            note(loop),
            note(note(4)).after(co(2)),
            co.map(x=[note(note(5)), 2]),
        ]

    agree(make, backend, is_ordered=False)


def test_what_may_suspend_starts_before_a_straight_run(backend, use_vm):
    """A ready async task starts first, however far down it stands."""
    order = []

    @cs.task
    def note(x):
        order.append(x)
        return x

    @cs.task
    async def co(x):
        order.append("async")
        return x

    async def main():
        await cs.run_async([note(note(note(1))).run_if(note(note(2))), co(3)], use_vm=use_vm)

    anyio.run(main, backend=backend)
    assert order == ["async", 2, 2, 1, 1, 1]


def test_a_straight_run_ends_above_what_suspends(backend, runs):
    """The calls above an async task are straight, and what needs it comes after it."""

    def make(world):
        note, co = tasks(world)
        return note(note(co(note(note(note(1))))))

    check(make, backend, runs)


def test_guards_may_come_below_what_they_guard(backend, runs):
    """A route that stands above the Router that chooses it is not straight."""

    def make(world):
        @cs.task
        def same(x=0):
            world.log.append(x)
            return x

        one = same(same(same(same())))
        inner = cs.Router(one, routes={0: 5})
        return cs.Router(same(one), routes={0: inner})

    check(make, backend, runs)


def test_a_container_that_cannot_be_made_fails_the_run(backend, runs):
    """What a list's own class raises is the failure of the run."""

    class Uncopied(list):
        def __setitem__(self, key, value):
            raise ValueError("one of a kind")

    def make(world):
        note, _ = tasks(world)
        return note(note(note(1)), Uncopied([note(2)]))

    check(make, backend, runs)


def test_a_registered_target_with_other_arguments(backend, runs):
    """The arguments of a TailCall are those of the target that it names."""

    def prepare(world):
        note, _ = tasks(world)
        world.engine.register_target("there", note("own", note(note(1))))

    def make(world):
        @cs.task
        def leaves(x):
            return cs.TailCall(("given",), {"k": 5}, target="there")

        return leaves(1)

    check(make, backend, [1], prepare=prepare)
    assert runs == []


@pytest.mark.parametrize("count", [1, 64, 65, 500])
def test_a_long_straight_run(backend, runs, count):
    """Any number of calls, in plan order."""

    def make(world):
        note, _ = tasks(world)
        target = note(0)
        for _ in range(count):
            target = note(target, note())
        return target

    check(make, backend, runs)


def test_a_slow_straight_run_yields(use_vm, backend):
    """Others on the loop get to run between slow calls, and see a change of constraints."""
    order = []

    @cs.task
    def slow(x):
        time.sleep(0.002)
        order.append("slow")
        return x

    async def main():
        engine = cs.Engine()
        target = 0
        for _ in range(120):
            target = slow(target)

        async def others():
            while order.count("slow") < 80:
                await anyio.lowlevel.checkpoint()
            order.append("other")
            engine.constraints.pause("task:slow")
            await anyio.sleep(0.05)
            order.append("resumed")
            engine.constraints.resume("task:slow")

        async with anyio.create_task_group() as group:
            group.start_soon(others)
            return await engine.run(target, use_vm=use_vm)

    assert anyio.run(main, backend=backend) == 0
    assert order.count("slow") == 120
    at = order.index("other")
    assert order[at + 1] == "resumed"
    assert 80 <= at <= 84


def test_counters_show_the_calls_of_straight_runs(backend, use_vm):
    """Whoever shows a run counts the same calls under both strategies."""
    shown = []

    @cs.task
    def note(x, y=0):
        return x

    @cs.task
    def fails(x):
        raise ValueError(x)

    @cs.task
    def tail(x):
        return cs.TailCall((x + 1,)) if x < 3 else x

    async def main():
        engine = cs.Engine()
        engine.on_run = shown.append
        await engine.run(note(note(note(1)), tail(note(1))), use_vm=use_vm)
        with pytest.raises(ValueError, match="1"):
            await engine.run(note(note(note(1)), fails(note(1))), use_vm=use_vm)

    anyio.run(main, backend=backend)
    counted = [
        {name: (t.started, t.succeeded, t.failed) for name, t in each.tasks.items()}
        for each in shown
    ]
    assert counted == [
        {"note": (4, 4, 0), "tail": (3, 3, 0)},
        {"note": (3, 3, 0), "fails": (1, 0, 1)},
    ]


@pytest.mark.parametrize("fails", [(), (0,), (1,), (3,), (0, 1, 2, 3)])
@pytest.mark.parametrize("policy", ["literal", "expression", "handler", "settled", "both"])
def test_failures_that_are_answered(backend, runs, fails, policy):
    """What a failure demands stands among the rows, and is left alone where there is none."""

    def make(world):
        note, _ = tasks(world)

        @cs.task
        def inc(x, place):
            world.log.append(("inc", x, place))
            if place in fails:
                raise ValueError(place)
            return (x, place)

        def answered(node, number):
            if policy == "literal":
                return node.with_fallback(number)
            if policy == "expression":
                return node.with_fallback([note(number), number])
            if policy == "handler":
                return node.with_fallback(note)
            if policy == "settled":
                return node.settled()
            return node.with_fallback(note(number), on=LookupError).settled()

        value = note(0)
        for number in range(4):
            value = note(answered(inc(value, number), number), value)
        return value

    check(make, backend, runs)
