"""Fused code does what the interpreter and the graph strategy do (sections 8, 11, 13, 14, 16)."""

from __future__ import annotations

import gc
import linecache
import traceback
from itertools import pairwise
from time import perf_counter
from typing import Any, NamedTuple

import anyio
import pytest

import cascade as cs
from cascade.core.services import FusedTier
from cascade.testing import virtual_time
from cascade.testing.agreement import Recorder
from fusing import agree, ran


def loop_of(node: Any, **routes: Any) -> Any:
    """Bind `node` to `again` (itself), `exit` and what is given; return it."""
    return cs.bind(node, cs.select_jump({"again": node, "exit": None, **routes}))


class MyDict(dict):
    pass


class MyList(list):
    pass


class MyTuple(tuple):
    __slots__ = ()


class Pair(NamedTuple):
    first: Any
    second: Any


class Jumper(cs.Jump):
    """A Jump of a class of its own."""


# What iterations bring


FORMS = {
    "value": lambda n: n + 1,
    "dict": lambda n: {"n": n + 1},
    "both": lambda n: {"n": n + 1, "m": [n]},
    "other alone": lambda n: {"n": n + 1} if n % 2 else {"m": n, "n": n + 1},
    "dict in another order": lambda n: {"m": n, "n": n + 1},
    "text, then numbers": lambda n: f"{n + 1}" if n == 3 else n + 1,
    "unknown name": lambda n: {"n": n + 1} if n < 4 else {"nn": n},
    "one too many": lambda n: {"n": n + 1} if n < 4 else {"n": n, "nn": n},
    "as many, of other names": lambda n: {"n": n + 1} if n < 4 else {"n": n, "k": 1},
    "key that is no name": lambda n: {"n": n + 1} if n < 4 else {1: n},
    "dict of its own class": lambda n: MyDict(n=n + 1),
    "list": lambda n: n + 1 if n != 3 else [4],
}


@pytest.mark.parametrize("form", FORMS)
def test_data_in_every_form(backend, form):
    """The data of a Jump go to the parameters that they name, or to the first."""

    def make(world):
        @cs.task
        def step(n, m=7):
            world.log.append((n, m))
            n = int(n[0]) if isinstance(n, list | str) else n
            return cs.Jump("again", FORMS[form](n)) if n < 8 else (n, m)

        return loop_of(step(0))

    agree(make, backend)


@pytest.mark.parametrize("data", [None, {}, MyDict()], ids=["None", "{}", "subclass"])
def test_data_that_bring_nothing(backend, data):
    """None and an empty dict leave the arguments as they are."""

    def make(world):
        @cs.task
        def step(n, m=7):
            world.log.append((n, m))
            if len(world.log) > 9:
                return "end"
            return cs.Jump("again", data if len(world.log) % 2 else 5)

        return loop_of(step(1))

    agree(make, backend)


def test_data_may_be_an_expression(backend):
    """Data are never searched for expressions, nor evaluated."""

    def make(world):
        @cs.task
        def node(x):
            raise AssertionError("is data")

        @cs.task
        def step(n, m=None):
            world.log.append((n, type(m).__name__))
            if n > 6:
                return cs.Jump("exit", type(m))
            return cs.Jump("again", {"n": n + 1, "m": node(1) if n % 2 else [node(n)]})

        return loop_of(step(0))

    agree(make, backend)


def test_an_expression_as_the_first_argument(backend):
    """An expression as data is the first argument as it stands."""

    def make(world):
        @cs.task
        def node():
            raise AssertionError("is data")

        @cs.task
        def step(n):
            world.log.append(type(n).__name__)
            return cs.Jump("again", node()) if len(world.log) < 6 else "end"

        return loop_of(step(0))

    agree(make, backend)


KEYS: dict[str, Any] = {
    "exit": "exit",
    "unknown": "agian",
    "unhashable": ["again"],
    "equal": "".join(("ag", "ain")),
    "other": "other",
    "map": "map",
    "router": "router",
    "none": None,
}


@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize("key", KEYS)
def test_jumps_that_lead_elsewhere(backend, key, with_data):
    """A Jump by another key goes where the selector says, or is the error that it is."""

    def make(world):
        @cs.task
        def double(x):
            world.log.append(("double", x))
            return 2 * x

        @cs.task
        def step(n, m=0):
            world.log.append(n)
            if n == 5 and world.log.count(5) == 1:
                return cs.Jump(KEYS[key], {"x": n} if with_data else None)
            return cs.Jump("again", n + 1) if n < 9 else n

        node = step(0)
        routes = {
            "other": double(4),
            "map": double.map(x=[1, 2]),
            "router": cs.Router("a", routes={"a": double(5)}),
        }
        return loop_of(node, **routes)

    agree(make, backend)


def test_two_keys_may_lead_home(backend):
    """Each key of a route that is the loop's own node goes on with it."""

    def make(world):
        @cs.task
        def step(n):
            world.log.append(n)
            return cs.Jump("ab"[n % 2], n + 1) if n < 9 else n

        node = step(0)
        return cs.bind(node, cs.select_jump({"a": node, "b": node}))

    agree(make, backend)


TAILS = {
    "positional": lambda n: cs.TailCall((n + 1,)),
    "two": lambda n: cs.TailCall((n + 1, n)),
    "keywords": lambda n: cs.TailCall(kwargs={"n": n + 1}),
    "both": lambda n: cs.TailCall((n + 1,), {"m": n}),
    "list of arguments": lambda n: cs.TailCall([n + 1]),
    "now this, now that": lambda n: cs.TailCall((n + 1, n)) if n % 2 else cs.TailCall((n + 1,)),
    "dict of its own class": lambda n: cs.TailCall(kwargs=MyDict(n=n + 1)),
    "too many": lambda n: cs.TailCall((n + 1,) if n < 4 else (1, 2, 3)),
    "twice": lambda n: cs.TailCall((n + 1,), {} if n < 4 else {"n": 1}),
    "unknown": lambda n: cs.TailCall(kwargs={"n": n + 1} if n < 4 else {"k": 1}),
    "unknown beside": lambda n: cs.TailCall(kwargs={"n": n + 1} if n < 4 else {"n": 1, "k": 1}),
    "unknown target": lambda n: cs.TailCall((n + 1,), target=None if n < 4 else "nowhere"),
    "registered target": lambda n: cs.TailCall((n + 1,), target=None if n != 4 else "other"),
    "target without arguments": lambda n: cs.TailCall(target="other"),
}


@pytest.mark.parametrize("bound", [False, True], ids=["chain", "loop"])
@pytest.mark.parametrize("form", TAILS)
def test_tail_calls_in_every_form(backend, form, bound):
    """A TailCall goes on with the arguments it gives, or is the TypeError that it is."""

    def prepare(world):
        @cs.task
        def other(n=20, m=0):
            world.log.append(("other", n, m))
            return cs.TailCall((n + 1,)) if n < 25 else n

        world.engine.register_target("other", other())

    def make(world):
        @cs.task
        def step(n, m=7):
            world.log.append((n, m))
            return TAILS[form](n) if n < 8 else (n, m)

        return loop_of(step(0)) if bound else step(0)

    agree(make, backend, prepare=prepare)


def test_a_tail_call_without_arguments(backend):
    """A TailCall that gives nothing executes the node with its own arguments."""

    def make(world):
        @cs.task
        def step(n):
            world.log.append(n)
            if len(world.log) > 8:
                return "end"
            return cs.TailCall() if len(world.log) % 3 else cs.TailCall((len(world.log),))

        return step("own")

    agree(make, backend)


def test_every_kind_of_parameter(backend):
    """Positional-only, keyword-only, *args and **kwargs keep what the iteration does not bring."""

    def make(world):
        @cs.task
        def one(a, /, b, c=3, *, d, e=5):
            world.log.append((a, b, c, d, e))
            if len(world.log) > 9:
                return (a, b, c, d, e)
            return cs.Jump("again", [{"b": a}, a + 1, {"a": a + 1, "e": a}, {"d": 1}][a % 4])

        @cs.task
        def two(a, *rest, key=1):
            world.log.append((a, rest, key))
            data = {"a": a + 1} if a % 2 else {"a": a + 1, "key": a}
            return cs.Jump("again", data) if a < 7 else rest

        @cs.task
        def three(a, **more):
            world.log.append((a, more))
            return cs.Jump("again", a + 1) if a < 7 else more

        names = {"ﬁ": 1, "__debug__": 2, "class": 3, "a b": 4, "x": 5}
        return [loop_of(one(0, 1, d=4)), loop_of(two(0, 1, 2)), loop_of(three(0, **names))]

    agree(make, backend)


def test_more_arguments_than_parameters_by_a_tail_call(backend):
    """What *args and **kwargs take up is brought by the interpreter."""

    def make(world):
        @cs.task
        def step(a, *rest, **more):
            world.log.append((a, rest, more))
            if a > 9:
                return rest
            if a == 5:
                return cs.TailCall((a + 1, a, a))
            return cs.TailCall((a + 1,), {"k": a} if a == 7 else {})

        return step(0, 1)

    agree(make, backend)


def test_an_object_keeps_its_method_going(backend):
    """A method's loop keeps its `self`; data are the first parameter after it."""

    def make(world):
        class Counter:
            @cs.task
            def step(self, n, m=0):
                world.log.append((self is counter, n, m))
                if n > 6:
                    return n
                return cs.Jump("again", n + 1) if n % 2 else cs.TailCall((n + 1, n))

        counter = Counter()
        return loop_of(counter.step(0))

    agree(make, backend)


# What an iteration needs


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


# What a call may come to


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


# Expressions that tasks return


def test_expressions_of_one_structure_and_of_others(backend):
    """A returned expression is evaluated as it stands, whatever the last one was."""

    def make(world):
        @cs.task
        def add(a, b):
            world.log.append((a, b))
            return 1

        @cs.task
        def mul(a, b):
            world.log.append((a, b))
            return 1

        @cs.task
        def f(n, acc, more=0):
            world.log.append(("f", n, acc, more))
            one = add(n, 1)
            others = {
                3: lambda: f(n + 1, [add(n, 1), add(n, 1)]),
                5: lambda: f(n + 1, (add(n, 1), 5)),
                6: lambda: f(n + 1, [add(n, 1), {"a": add(1, 1)}]),
                7: lambda: f(n + 1, [add(n, 1), cs.Param("x", "d")]),
                8: lambda: f(n + 1, [add(n, 1).with_retry(2), 5]),
                10: lambda: f(n + 1, [mul(n, 1), n]),
                11: lambda: f(n + 1, [one, one]),
                12: lambda: f(n + 1, [[one], n]),
                13: lambda: f(n + 1, add(n, 1)),
                14: lambda: f(n + 1, MyList([add(n, 1), 3])),
                15: lambda: f(n + 1, [add(n, 1)]),
                16: lambda: f(n + 1, [add(n, 1), [1, [2]]]),
                17: lambda: f(n + 1, [add(n, 1), {"k": (1, 2)}]),
                18: lambda: f(n + 1, [add(n, 1), object]),
                20: lambda: f(n + 1, [add(n, 1), n], more=2),
                22: lambda: cs.TailCall((n + 1,)),
                23: lambda: cs.Router("a", routes={"a": f(n + 1, 1), "b": 0}),
                24: lambda: cs.TailCall((n + 1,), {"acc": 3}),
                28: lambda: add.map(a=[1, n], b=[1, 2]),
            }
            return others.get(n, lambda: f(n + 1, [add(n, 1), n]))()

        return f(0, 0)

    agree(make, backend)


def test_what_is_shared_in_an_expression_is_its_structure(backend):
    """Two nodes that become one, and one that becomes two, are seen."""

    def make(world):
        @cs.task
        def add(a, b):
            world.log.append((a, b))
            return a

        @cs.task
        def f(n, acc):
            world.log.append(("f", n, acc))
            if n > 11:
                return acc
            one, two = add(n, 1), add(n, 1)
            box = [one]
            match n:
                case 4:
                    return f(n + 1, [two, one, box, box])
                case 6:
                    return f(n + 1, [one, two, box, [one]])
                case 8:
                    return f(n + 1, [one, two, box, one])
            return f(n + 1, [one, two, box, box])

        return f(0, 0)

    agree(make, backend)


def test_expressions_of_every_kind_of_parameter(backend):
    """Defaults, *args and **kwargs of a returned call."""

    def make(world):
        @cs.task
        def f(a, *rest, b=1):
            world.log.append((a, rest, b))
            return f(a + 1, *rest, a) if a < 4 else f(a + 1, a, b=2) if a < 6 else rest

        @cs.task
        def g(a, b=0, c=1):
            world.log.append((a, b, c))
            return (a, b, c) if a > 7 else g(a + 1, b) if a % 2 else g(a + 1)

        @cs.task
        def h(n, **more):
            world.log.append((n, more))
            return h(n + 1) if n < 4 else h(n + 1, b=2) if n < 8 else more

        return [f(0), g(0), h(0)]

    agree(make, backend)


def test_an_expression_may_be_the_same_object_again(backend):
    """An expression is read anew each time that it is returned."""

    def make(world):
        @cs.task
        def f(state):
            state[0] += 1
            world.log.append(list(state))
            return again if state[0] < 9 else state

        again = f([0])
        return again

    agree(make, backend)


def test_a_loop_that_an_expression_leads_to(backend):
    """Expressions lead to loops, and loops to expressions."""

    def make(world):
        @cs.task
        def g(n):
            world.log.append(("g", n))
            return cs.Jump("again", n + 1) if n < 6 else f(n, 1)

        @cs.task
        def f(n, acc):
            world.log.append(("f", n, acc))
            if n > 12:
                return acc
            return loop_of(g(0)) if n == 4 else f(n + 1, acc)

        return f(0, 0)

    agree(make, backend)


def test_forbidden_expressions_stay_forbidden(backend):
    """With tail_calls="forbid" a returned expression is an error in fused loops too."""

    def make(world):
        @cs.task
        def step(n):
            world.log.append(n)
            return cs.Jump("again", n + 1) if n < 5 else step(1)

        return loop_of(step(0))

    agree(make, backend, engine_options={"tail_calls": "forbid"})


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


# Cancellation and failure


@pytest.mark.parametrize("observed", [False, True])
def test_a_loop_cancelled_at_every_await(backend, observed):
    """A fused loop of async tasks ends wherever it is cancelled, and leaves nothing behind."""

    @cs.task
    async def inner(n):
        await anyio.sleep(0.5)
        return n

    @cs.task
    async def step(n, m):
        await anyio.lowlevel.checkpoint()
        return cs.Jump("again", n + 1)

    async def main():
        for at in range(1, 12):
            for limits in (
                [],
                [cs.GlobalConstraint("l", "task:inner", "concurrency", {"limit": 1})],
            ):
                engine = cs.Engine(constraints=limits)
                engine.services.fused_tier = FusedTier(0)
                finished: list[str] = []
                open_ones: list[int] = []
                bus = engine.bus
                bus.subscribe(cs.RunFinished, lambda e, into=finished: into.append(e.status))
                if observed:
                    bus.subscribe(cs.TaskExecutionStarted, lambda e, o=open_ones: o.append(1))
                    bus.subscribe(cs.TaskExecutionFinished, lambda e, o=open_ones: o.append(-1))
                with anyio.move_on_after(at * 0.25) as scope:
                    await engine.run(loop_of(step(0, inner(1))), use_vm=True)
                assert scope.cancelled_caught
                assert engine.statistics().fused_entries
                assert finished == ["Cancelled"]
                assert sum(open_ones) == 0
                found = engine.constraints.statistics()
                assert not found.parked
                assert all(not each.running for each in found.constraints.values())

    anyio.run(main, backend=backend, backend_options=virtual_time(backend))


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_failing_sibling_ends_a_fused_loop(backend, kind):
    """The first failure of a run ends its fused loops."""

    def make(world):
        @cs.task
        async def fails():
            await anyio.sleep(2.25)
            raise ValueError("first")

        @cs.task
        async def tick(x):
            await anyio.sleep(0.5)
            return x

        def step(m, n):
            world.log.append(n)
            return cs.Jump("again", {"n": n + 1})

        async def async_step(m, n):
            return step(m, n)

        body = cs.task(step if kind == "sync" else async_step, name="step")
        return [loop_of(body(tick(1), 0)), fails()]

    found = agree(make, backend)
    assert found.outcome == ("failed", "ValueError: first")


def test_a_traceback_shows_the_task_and_the_row(backend):
    """The frame of the fused code has a line with the row of the Blueprint, then comes the task."""

    @cs.task
    def inner(n):
        if n:
            raise ValueError("here")
        return n

    @cs.task
    def step(m, n):
        return cs.Jump("again", {"n": n + 1, "flag": 0}) if n < 3 else m

    calls: list[int] = []

    @cs.task
    def counts(x):
        calls.append(1)
        return len(calls) > 3

    async def main():
        engine = cs.Engine()
        engine.services.fused_tier = FusedTier(0)

        @cs.task
        def looped(m, n):
            return cs.Jump("again", {"n": n + 1})

        try:
            await engine.run(loop_of(looped(inner(counts(0)), 0)), use_vm=True)
        except ValueError as error:
            return traceback.format_exception(error), error.__notes__, engine.statistics()
        raise AssertionError("it fails")

    lines, notes, statistics = anyio.run(main, backend=backend)
    text = "".join(lines)
    assert statistics.fused_entries
    assert "<cascade fused looped" in text
    assert "; inner#1" in text
    assert text.index("; inner#1") < text.index('raise ValueError("here")')
    assert "in task 'inner'" in notes[0]


def test_the_text_of_fused_code_goes_with_its_engine(backend):
    """The lines kept for tracebacks are dropped when the engine is."""

    def names():
        return {name for name in linecache.cache if name.startswith("<cascade fused only_here ")}

    @cs.task
    def only_here(n):
        return cs.Jump("again", n + 1) if n < 9 else n

    async def main():
        engine = cs.Engine()
        engine.services.fused_tier = FusedTier(0)
        await engine.run(loop_of(only_here(0)), use_vm=True)
        assert names()

    anyio.run(main, backend=backend)
    gc.collect()
    assert names() == set()


@pytest.mark.parametrize("kind", ["jump", "tail", "expression", "async"])
def test_memory_is_flat(backend, kind):
    """However many iterations, nothing is left of them."""
    counts: list[int] = []
    most = 200_000 if kind != "async" else 50_000

    def look(n):
        if n in (most // 10, most - 1):
            gc.collect()
            counts.append(len(gc.get_objects()))

    @cs.task
    def jump(n, data):
        look(n)
        return cs.Jump("again", {"n": n + 1, "data": [n]}) if n < most else n

    @cs.task
    def tail(n, data):
        look(n)
        return cs.TailCall((n + 1, [n])) if n < most else n

    @cs.task
    def ident(x):
        return x

    @cs.task
    def expression(n, data):
        look(n)
        return expression(ident(n + 1), [n]) if n < most else n

    @cs.task
    async def later(n, data):
        look(n)
        return cs.Jump("again", {"n": n + 1, "data": [n]}) if n < most else n

    target = {
        "jump": lambda: loop_of(jump(0, [])),
        "tail": lambda: tail(0, []),
        "expression": lambda: expression(0, []),
        "async": lambda: loop_of(later(0, [])),
    }[kind]

    async def main():
        engine = cs.Engine()
        assert await engine.run(target(), use_vm=True) == most
        return engine.statistics()

    statistics = anyio.run(main, backend=backend)
    assert 0 < statistics.fused_entries < 100
    assert counts[1] <= counts[0] + 50
    hits = statistics.plan_hits
    assert hits >= most - 5 if kind == "expression" else hits < 10


def test_an_engine_given_an_executor_fuses_nothing(backend):
    """An executor that is given carries out every call."""
    calls: list[Any] = []

    class Executor(cs.LocalExecutor):
        async def execute(self, node, args, kwargs):
            calls.append(args)
            return await super().execute(node, args, kwargs)

    def make(world):
        calls.clear()

        @cs.task
        def step(n):
            return cs.Jump("again", n + 1) if n < 9 else n

        return loop_of(step(0))

    agree(make, backend, is_fused=False, engine_options={"executor": Executor()})
    assert len(calls) == 10


@pytest.mark.parametrize(
    "why",
    ["cache", "timeout", "amounts", "map", "long", "thread", "two awaits", "guards", "varargs"],
)
def test_what_is_left_to_the_interpreter(backend, why):
    """A loop with something in it that fused code does not do is interpreted, and no worse."""

    def make(world):
        @cs.task
        def plain(x):
            world.log.append(x)
            return x

        @cs.task
        async def co(x):
            return x

        @cs.task
        def step(n, *rest):
            world.log.append(n)
            more = (n,) if why == "varargs" else ()
            return cs.TailCall((n + 1, *more)) if n < 9 else (n, rest)

        same = plain(plain(1))
        inner = cs.Router(same, routes={1: 5})
        arguments = {
            "two awaits": lambda: [co(1), co(2)],
            "guards": lambda: cs.Router(plain(same), routes={1: inner}),
            "varargs": lambda: plain(1),
            "cache": lambda: plain(1).with_cache(cs.InMemoryCache()),
            "timeout": lambda: co(1).with_timeout(1),
            "amounts": lambda: plain(1).with_constraints(gpu=1),
            "map": lambda: plain.map(x=[1, 2]),
            "long": lambda: [plain(i) for i in range(130)],
            "thread": lambda: cs.task(lambda x: x, name="threaded", mode="thread")(1),
        }
        return step(0, arguments[why]())

    agree(make, backend, is_fused=False, engine_options={"system_resources": {"gpu": 1}})


# Fairness


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("kind", ["sync", "mixed"])
def test_long_iterations_yield(backend, kind, observed):
    """Others wait no longer than a slice and 64 tasks, once; then a slice and one task."""
    gaps = [0]
    calls = [0]

    def spin(seconds):
        end = perf_counter() + seconds
        while perf_counter() < end:
            pass

    @cs.task
    def part(x):
        calls[0] += 1
        if 300 < calls[0] <= 500:
            gaps[-1] += 1
            spin(0.001)
        return x

    @cs.task
    async def co(x):
        return x

    @cs.task
    def step(parts, n):
        return cs.Jump("again", {"n": n + 1}) if n < 12 else n

    async def main():
        engine = cs.Engine()
        engine.services.fused_tier = FusedTier(0)
        if observed:
            engine.bus.subscribe(cs.TaskExecutionStarted, lambda event: None)

        async def watches():
            while True:
                gaps.append(0)
                await anyio.lowlevel.checkpoint()

        chain: Any = part(0) if kind == "sync" else co(part(0))
        for _ in range(80):
            chain = part(chain)
        async with anyio.create_task_group() as group:
            group.start_soon(watches)
            await engine.run(loop_of(step(chain, 0)), use_vm=True)
            group.cancel_scope.cancel()
        return engine.statistics()

    statistics = anyio.run(main, backend=backend)
    assert statistics.fused_entries > 1
    assert sum(gaps) == 200
    longest = sorted(gaps)
    assert longest[-1] <= 5 + 1 + 64 + 10
    assert longest[-2] <= 5 + 1 + 10


def test_recorder_is_left_as_it_was(backend):
    """Nothing that observes a run stays behind on its engine."""

    def make(world):
        @cs.task
        def step(n):
            return cs.Jump("again", n + 1) if n < 9 else n

        return loop_of(step(0))

    async def main():
        engine = cs.Engine()
        engine.services.fused_tier = FusedTier(0)
        with Recorder(engine, "here"):
            await engine.run(make(None), use_vm=True)
        before = engine.statistics()
        await engine.run(make(None), use_vm=True)
        assert not engine.bus._watchers
        assert not engine.services.gate._state.listeners
        return before.fused_entries, engine.statistics().fused_entries

    assert anyio.run(main, backend=backend) == (1, 2)


def test_fused_code_can_be_read():
    """`disassemble(target, fused=True)` shows the code of each routine, or why it has none."""

    @cs.task
    def step(n):
        return cs.Jump("again", n + 1)

    node = step(0)
    shown = cs.disassemble(cs.bind(node, cs.select_jump({"again": node})), fused=True)
    title, reason, _, iteration, code = shown.split("\n", 4)
    assert title == "# step: 1 register"
    assert reason.startswith("# left to the interpreter: ")
    assert iteration == "# iteration of step: 1 register"
    assert code.startswith("def link(")
    assert "# 0 @0 call r0, t0, (k0) ; step#0" in code
    compile(code, "shown", "exec")
    assert shown == cs.disassemble(node, fused=True)  # the same text each time
    assert cs.disassemble(7, fused=True).endswith("# left to the interpreter: it is a literal")


@pytest.mark.parametrize("hot_after", [0, 10**9])
def test_one_run_may_have_any_number_of_loops(inside, hot_after):
    """What a run keeps of them is bounded, and made again when it is needed."""

    def counter(number):
        @cs.task(name=f"count{number}")
        def count(n):
            return cs.Jump("again", n + 1) if n < 3 else (number, n)

        node = count(0)
        return cs.bind(node, cs.select_jump({"again": node}))

    async def main():
        engine = cs.Engine()
        engine.services.fused_tier = FusedTier(hot_after)
        values = await engine.run([counter(number) for number in range(300)], use_vm=True)
        return values, engine.statistics().fused_entries

    values, entries = inside(main)
    assert values == [(number, 3) for number in range(300)]
    assert entries >= 300 if hot_after == 0 else entries == 0
