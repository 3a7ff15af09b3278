"""What a call in fused code may come to: values, awaitables, failures (sections 2, 11)."""

from __future__ import annotations

import anyio
import pytest

import cascade as cs
from fusing import agree, loop_of


def test_values_of_other_classes_go_on(backend):
    """A call may give a value of another class each time."""
    values = [1, "a", None, [1], 2.5, (1,), {}, 3, 4, object, b"", True]

    def make(world):
        @cs.task
        def any_value(n):
            return values[len(world.log) % len(values)]

        @cs.task
        def step(value, n):
            world.log.append((value, n))
            return cs.Jump("again", {"n": n + 1}) if n < 30 else value

        return loop_of(step(any_value(0), 0))

    agree(make, backend)


@pytest.mark.parametrize("at", ["body", "argument"])
@pytest.mark.parametrize("fails", [False, True])
def test_awaitables_are_awaited(backend, at, fails):
    """An awaitable of a sync task is awaited; the next attempt has the same arguments."""

    def make(world):
        async def later(x):
            await anyio.sleep(1)
            world.log.append(("later", x))
            if fails and world.log.count(("later", x)) % 2:
                raise ValueError(x)
            return x

        @cs.task
        def sometimes(x):
            world.log.append(("called", x))
            return later(x) if world.log.count(("called", x)) % 3 == 0 else x

        @cs.task
        def ident(x):
            return x

        @cs.task
        def step(m, n):
            world.log.append((m, n))
            if n > 5:
                return later(m)
            return cs.Jump("again", {"n": n + 1})

        argument = ident(ident(4))
        if at == "argument":
            argument = sometimes(argument).with_retry(3, delay=1)
        return loop_of(step(argument, 0).with_retry(2))

    agree(make, backend)


ERRORS = [
    ValueError("bad"),
    StopIteration(3),
    KeyboardInterrupt(),
    ExceptionGroup("g", [OSError()]),
]


@pytest.mark.parametrize("retry", [None, 0.0, 1.0], ids=["", "retry", "later"])
@pytest.mark.parametrize("at", ["body", "argument"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_calls_that_raise(backend, error, at, retry):
    """What a call raises is the failure of its attempt, told once, and retried as it says."""

    def make(world):
        def may_raise(where, x):
            world.log.append((where, x))
            if where == at and world.log.count((where, x)) % 4 == 3:
                raise error
            return x

        @cs.task
        def argument(x):
            return may_raise("argument", x)

        @cs.task
        def step(m, n):
            may_raise("body", m)
            return cs.Jump("again", {"n": n + 1}) if n < 9 else m

        inner = argument(argument(1))
        body = step(inner, 0)
        if retry is not None:
            for node in (inner, body):
                node.with_retry(3, delay=retry, on=BaseException)
        return loop_of(body)

    agree(make, backend)


def test_a_key_whose_comparison_raises_fails_the_run_once(backend):
    """What raises between the call and the next is no attempt of the task, and not retried."""

    class Odd(str):
        def __hash__(self):
            return hash(str(self))

        def __eq__(self, other):
            raise ValueError("odd")

    def make(world):
        @cs.task
        def step(n):
            world.log.append(n)
            return cs.Jump("again" if n < 4 else Odd("again"), n + 1)

        return loop_of(step(0).with_retry(3))

    agree(make, backend)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("fails", [(), (0,), (2,), (0, 2)])
def test_settled_calls_of_a_loop(backend, kind, fails):
    """Each iteration has their outcomes, of a default too; whoever leaves wraps a value once."""

    def make(world):
        def part(place, before):
            world.log.append((place, str(before)))
            if place in fails:
                raise ValueError(place)
            return place

        async def part_async(place, before):
            await anyio.lowlevel.checkpoint()
            return part(place, before)

        @cs.task
        def step(n, outcome):
            return cs.Jump("again", n + 1) if n < 40 else cs.Jump("exit", outcome)

        task = cs.task(part if kind == "sync" else part_async, name="part")
        first = task(0, None).settled()
        second = task(1, first).run_if(False, default=3).settled()
        return loop_of(step(0, task(2, second).settled(on=ValueError)))

    agree(make, backend, may_skip=True)


def test_many_settled_calls_are_left_after_any_of_them(backend):
    """One iteration may be longer than a batch, and is left between two of its calls."""

    def make(world):
        @cs.task
        def part(x):
            return x

        @cs.task
        def step(n, outcomes):
            world.log.append(sum(outcome.unwrap() for outcome in outcomes))
            return cs.Jump("again", n + 1) if n < 20 else cs.Jump("exit", n)

        return loop_of(step(0, [part(x).settled() for x in range(100)]))

    agree(make, backend)


def test_a_loop_that_is_settled_is_left_to_the_interpreter():
    """Control passes through it, and only what the loop comes to is wrapped."""

    @cs.task
    def step(n):
        return cs.Jump("again", n + 1) if n < 5 else cs.Jump("exit", n)

    target = loop_of(step(0).settled())
    assert "its target is settled" in cs.disassemble(target, fused=True)
    assert cs.run(target, use_vm=True) == cs.Outcome(5)
