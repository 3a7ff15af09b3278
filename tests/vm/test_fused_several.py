"""Several fused loops, beside and within each other, and how many steps they take (section 8)."""

from __future__ import annotations

import anyio
import pytest

import cascade as cs
from fusing import agree, loop_of, ran

# Several loops


def test_two_routes_in_turn(backend):
    """Loops of two nodes go on in fused code, each with its own arguments and selector."""

    def make(world):
        @cs.task
        def ident(x):
            world.log.append(x)
            return x

        @cs.task
        def ping(n, s=1):
            world.log.append(("ping", n, s))
            return cs.Jump("b", n + 1)

        @cs.task
        def pong(n, t):
            world.log.append(("pong", n, t))
            return cs.Jump("a", {"n": n + 1, "s": n}) if n < 30 else cs.Jump("x", n)

        one, two = ping(0), pong(0, ident(5))
        cs.bind(one, cs.select_jump({"b": two}))
        return cs.bind(two, cs.select_jump({"a": one, "x": None}))

    agree(make, backend)


@pytest.mark.parametrize("kinds", ["sync async", "async async", "async sync"])
def test_two_routes_of_other_kinds(backend, kinds):
    """Routes may differ in whether they await."""

    def make(world):
        def made(name, key, kind):
            def sync_step(n):
                world.log.append((name, n))
                return cs.Jump(key, n + 1) if n < 12 else n

            async def async_step(n):
                await anyio.sleep(1)
                return sync_step(n)

            return cs.task(sync_step if kind == "sync" else async_step, name=name)

        first, second = kinds.split()
        one, two = made("one", "b", first)(0), made("two", "a", second)(0)
        cs.bind(one, cs.select_jump({"b": two}))
        return cs.bind(two, cs.select_jump({"a": one}))

    agree(make, backend)


def test_loops_in_loops(backend):
    """A loop that is the argument of another starts anew in each iteration."""

    def make(world):
        @cs.task
        def inner(n):
            world.log.append(("inner", n))
            return cs.Jump("again", n + 1) if n < 4 else n

        @cs.task
        def outer(value, n):
            world.log.append(("outer", value, n))
            return cs.Jump("again", {"n": n + 1}) if n < 4 else value

        return loop_of(outer(loop_of(inner(0)), 0))

    agree(make, backend)


def test_loops_in_maps_and_side_by_side(backend):
    """Items that are tail calls and loops beside each other go in plan order."""

    def make(world):
        @cs.task
        def item(x):
            world.log.append(("item", x))
            return cs.TailCall((x + 3,)) if x < 9 else x

        @cs.task
        def unfolds(x):
            world.log.append(("unfolds", x))
            return unfolds(x + 3) if x < 9 else x

        @cs.task
        def step(n, name):
            world.log.append((name, n))
            return cs.Jump("again", n + 1) if n < 5 else n

        return [
            loop_of(step(0, "a")),
            item.map(x=[0, 1, 2]),
            unfolds.map(x=[0, 1]),
            loop_of(step(0, "b")),
        ]

    agree(make, backend)


def test_async_loops_side_by_side(backend):
    """Concurrent async loops of one structure do as many iterations, each with its own data."""

    def make(world):
        @cs.task
        async def step(n, name):
            await anyio.sleep(0.5 if name == "a" else 1)
            seen[name] = seen.get(name, 0) + n
            return cs.Jump("again", n + 1) if n < 20 else seen[name]

        seen: dict[str, int] = {}
        return [loop_of(step(0, name)) for name in "abc"]

    assert agree(make, backend).value == [210, 210, 210]


def test_calls_between_awaits_keep_their_turn(backend):
    """A loop of inline and async calls goes in plan order, alone and beside others."""

    def make(world):
        @cs.task
        async def co(n):
            world.log.append(("co", n))
            await anyio.sleep(1)
            return n

        @cs.task
        def f(n):
            world.log.append(("f", n))
            return n

        @cs.task
        def step(m, n):
            world.log.append(("step", n))
            return cs.Jump("again", {"n": n + 1}) if n < 5 else m

        alone = loop_of(step(f(co(f(1))), 0))
        beside = loop_of(step(f(co(f(2))), 0))
        return [alone, f(beside), f(co(3)).after(alone)]

    agree(make, backend)


# How many


@pytest.mark.parametrize("most", [1, 2, 5, 64, 100, 149])
@pytest.mark.parametrize("kind", ["jump", "async", "tail", "expression", "two routes", "argument"])
def test_steps_are_counted_exactly(backend, kind, most):
    """Execution `max_steps + 1` is a StepLimitError with its data, and never begins."""

    def make(world):
        @cs.task
        def jump(n):
            world.log.append(n)
            return cs.Jump("again", n + 1)

        @cs.task
        async def later(n):
            world.log.append(n)
            return cs.Jump("again", n + 1)

        @cs.task
        def tail(n):
            world.log.append(n)
            return cs.TailCall((n + 1,))

        @cs.task
        def unfold(n):
            world.log.append(n)
            return unfold(n + 1)

        @cs.task
        def ident(x):
            return x

        @cs.task
        def with_argument(x, n):
            world.log.append(n)
            return cs.Jump("again", {"n": n + 1})

        if kind == "two routes":
            one, two = jump(0), jump(0)
            cs.bind(one, cs.select_jump({"again": two}))
            return cs.bind(two, cs.select_jump({"again": one}))
        loops = {
            "jump": lambda: loop_of(jump(0)),
            "async": lambda: loop_of(later(0)),
            "tail": lambda: tail(0),
            "expression": lambda: unfold(0),
            "argument": lambda: loop_of(with_argument(ident(1), 0)),
        }
        return loops[kind]()

    graph = ran(make, backend, False, max_steps=most)
    for options in ({}, {"leaves": lambda: True}, {"hot_after": 100}):
        fused = ran(make, backend, True, max_steps=most, **options)
        assert fused.log == graph.log == list(range(most)), options
        assert fused.outcome == graph.outcome, options
        assert fused.entries or most == 1 or options == {"hot_after": 100}, options
