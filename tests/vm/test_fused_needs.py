"""What an iteration of fused code needs: invariants, containers, guards (sections 3 to 5)."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import cascade as cs
from cascade.core.services import FusedTier
from fusing import MyDict, MyList, MyTuple, Pair, agree, loop_of


def test_what_iterations_share_is_never_written_over(backend):
    """A Param, Env, resource, invariant or predecessor is the same in every iteration."""

    @cs.resource(name="db")
    def db():
        yield "the database"

    def prepare(world):
        world.engine.register(db)

    def make(world):
        @cs.task(pure=True)
        def pure(x):
            world.log.append(("pure", x))
            return x

        @cs.task
        def ident(x):
            world.log.append(x)
            return x

        @cs.task
        def step(n, *shared):
            world.log.append(shared)
            return cs.TailCall((n + 1,)) if n < 5 else shared

        @cs.task
        def jump(n, *shared):
            world.log.append(shared)
            return cs.Jump("again", n + 1) if n < 5 else shared

        before = ident("before")
        param, env = cs.Param("p", "given"), cs.Env("NO_SUCH_THING", "env")
        shared = [param, env, cs.inject("db"), pure(pure(1))]
        wrapped = [ident(each) for each in shared]
        nested = [shared, tuple(wrapped)]
        return [step(0, *shared), loop_of(jump(0, *shared, *wrapped, nested).after(before))]

    agree(make, backend, prepare=prepare, is_ordered=False)  # resources are set up meanwhile


def test_an_invariant_under_a_condition_is_evaluated_once(backend):
    """An invariant that only some iterations need is left to the interpreter the first time."""

    def make(world):
        @cs.task(pure=True)
        def pure(x):
            world.log.append(("pure", x))
            return x

        @cs.task
        def tick():
            world.log.append("tick")
            return world.log.count("tick") % 4

        @cs.task
        def use(x):
            world.log.append(x)
            return x

        @cs.task
        def step(m, n):
            return cs.Jump("again", {"n": n + 1}) if n < 9 else m

        return loop_of(step(use(pure(1)).run_if(tick(), default=pure(5)), 0))

    agree(make, backend, may_skip=True)


def test_containers_of_every_kind_are_made_anew(backend):
    """Lists, tuples, named tuples, dicts and classes of their own, nested."""

    def make(world):
        @cs.task
        def tick():
            world.log.append("tick")
            return len(world.log)

        @cs.task
        def show(x):
            world.log.append((type(x).__name__, x, getattr(x, "more", None)))
            return x

        @cs.task
        def step(m, n):
            return cs.Jump("again", {"n": n + 1}) if n < 5 else m

        mine, mydict = MyList([1, tick()]), MyDict(a=tick(), b=3)
        mine.more, mydict.more = 5, 6  # type: ignore[attr-defined]
        containers = [
            [tick(), 1, [tick(), (tick(),)]],
            (tick(),),
            {"a": tick(), 3: [tick()]},
            Pair(tick(), 2),
            mine,
            mydict,
            MyTuple((tick(), 2)),
            [MyList([tick()])],
        ]
        return loop_of(step([show(each) for each in containers], 0))

    agree(make, backend)


@pytest.mark.parametrize("default", [False, True])
@pytest.mark.parametrize("place", ["argument", "body"])
def test_conditions_in_a_loop(backend, default, place):
    """A falsy condition gives the default, skips, or ends the loop."""

    def make(world):
        @cs.task
        def tick():
            world.log.append("tick")
            return world.log.count("tick") % 7

        @cs.task
        def use(x):
            world.log.append(x)
            return x

        @cs.task
        def step(m, n):
            world.log.append((m, n))
            return cs.Jump("again", {"n": n + 1}) if n < 9 else m

        options = {"default": use("default")} if default else {}
        if place == "body":
            return [loop_of(step(use(1), 0).run_if(tick()).run_if(tick(), **options))]
        return [loop_of(step(use(use(1).run_if(tick(), **options)), 0))]

    agree(make, backend, may_skip=True)


@pytest.mark.parametrize("default", [False, True])
@pytest.mark.parametrize("last", [3, [1]], ids=["unknown", "unhashable"])
def test_routers_in_a_loop(backend, default, last):
    """Each iteration chooses anew; an unknown key is a RouteNotFoundError or the default."""

    def make(world):
        @cs.task
        def tick(x):
            world.log.append("tick")
            count = world.log.count("tick")
            return count % 3 if count < 8 else last

        @cs.task
        def use(x):
            world.log.append(x)
            return x

        @cs.task
        def step(m, n):
            return cs.Jump("again", {"n": n + 1}) if n < 9 else m

        options = {"default": use("default")} if default else {}
        router = cs.Router(tick(use(0)), routes={0: use(use(1)), 1: 5, 2: use(1)}, **options)
        return loop_of(step(use(router), 0))

    agree(make, backend, may_skip=True)


def test_a_condition_that_cannot_be_told(backend):
    """What raises where the engine asks for a truth value fails the run."""

    class Neither:
        def __bool__(self):
            raise ValueError("neither")

    def make(world):
        @cs.task
        def tick():
            world.log.append("tick")
            return world.log.count("tick") < 5 or Neither()

        @cs.task
        def step(m, n):
            return cs.Jump("again", {"n": n + 1})

        return loop_of(step(1, 0).run_if(tick(), default=3))

    agree(make, backend, may_skip=True)


def test_predecessors_within_an_iteration(backend):
    """What an argument comes after runs in each iteration, what the loop comes after once."""

    def make(world):
        @cs.task
        def note(x):
            world.log.append(x)
            return x

        @cs.task
        def step(m, n):
            return cs.Jump("again", {"n": n + 1}) if n < 5 else m

        return loop_of(step(note(1).after(note(2)), 0).after(note("once")))

    agree(make, backend)


@pytest.mark.parametrize("are_routes", [False, True])
def test_what_several_guards_need(backend, are_routes):
    """A node that more than one guarded node needs is demanded by the first that does."""

    def make(world):
        @cs.task
        def note(x):
            world.log.append(x)
            return x

        @cs.task
        def tick(by):
            world.log.append("tick")
            return world.log.count("tick") % by

        @cs.task
        def step(m, n):
            return cs.Jump("again", {"n": n + 1}) if n < 9 else m

        shared = note("shared")
        if are_routes:
            router = cs.Router(tick(3), routes={0: note(shared), 1: note([shared]), 2: 2})
            return loop_of(step(router, 0))
        first = note(shared).run_if(tick(2), default=1)
        second = note([shared]).run_if(tick(3), default=2)
        return loop_of(step([first, second], 0))

    agree(make, backend, is_fused=are_routes, may_skip=True)


def test_a_keyword_whose_own_value_is_an_expression(backend):
    """What an iteration brings for it is brought by name; a positional TailCall leaves it."""

    def make(world):
        @cs.task
        def own(x):
            world.log.append(("own", x))
            return x

        @cs.task
        def step(n, *, key):
            world.log.append((n, key))
            if n > 12:
                return key
            if n % 3 == 1:
                return cs.TailCall((n + 1,))
            return cs.TailCall(kwargs={"n": n + 1, "key": n})

        return [step(0, key=own(5)), loop_of(step(0, key=own(6)))]

    agree(make, backend)


def test_a_call_without_arguments_that_returns_itself(backend):
    """An expression without arguments is matched by its task."""

    def make(world):
        @cs.task
        def f():
            world.log.append(1)
            return f() if len(world.log) < 9 else "end"

        return f()

    agree(make, backend)


def test_loops_that_share_one_code_at_the_same_time(backend):
    """Loops of one structure that run at once in one run are left one by one."""

    def make(world):
        @cs.task
        async def step(n, most):
            await anyio.sleep(0.5)
            if n == 4 and most == 6:
                world.engine.constraints.limit_concurrency("task:nobody", 1)
            if n == 6 and most == 9:
                world.engine.constraints.limit_concurrency("task:step", 2)
            return cs.Jump("again", n + 1) if n < most else n

        @cs.task
        def item(x):
            return loop_of(step(0, x))

        return item.map(x=[3, 6, 9, 12])

    assert agree(make, backend).value == [3, 6, 9, 12]


def test_a_loop_with_awaits_lets_others_go_first(backend):
    """A loop of inline and async calls lets whom it resumed go on in plan order."""

    def make(world):
        @cs.task
        async def co(n):
            world.log.append("co")
            return n

        @cs.task
        def waits(x):
            world.log.append(("waits", x))
            return x

        @cs.task
        def step(m, n):
            world.log.append(("step", n))
            if n == 3:
                world.engine.constraints.resume("task:waits")
            return cs.Jump("again", {"n": n + 1}) if n < 6 else m

        world.engine.constraints.pause("task:waits")
        return [waits(1), loop_of(step(co(1), 0))]

    agree(make, backend)


def test_an_invariant_that_a_later_run_has_not_got_yet(backend):
    """A second run finds the code, and has the interpreter get what is not there yet."""
    calls: list[Any] = []

    @cs.task(pure=True)
    def pure(x):
        calls.append(("pure", x))
        return x

    @cs.task
    def ping(n):
        calls.append(n)
        return cs.Jump("b", {"n": n + 1})

    @cs.task
    def pong(x, n):
        calls.append(n)
        return cs.Jump("a", n + 1) if n < 9 else n

    async def main():
        engine = cs.Engine()
        engine.services.fused_tier = FusedTier(0)
        for _ in range(3):
            calls.clear()
            one, two = ping(0), pong(pure(pure(5)), 0)
            cs.bind(one, cs.select_jump({"b": two}))
            cs.bind(two, cs.select_jump({"a": one}))
            assert await engine.run(one, use_vm=True) == 9
            assert calls == [0, ("pure", 5), ("pure", 5), *range(1, 10)]

    anyio.run(main, backend=backend)
