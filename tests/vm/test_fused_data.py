"""What iterations of fused code bring to the next: data of Jumps, keys, tail calls (section 8)."""

from __future__ import annotations

from typing import Any

import pytest

import cascade as cs
from fusing import MyDict, agree, loop_of

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
