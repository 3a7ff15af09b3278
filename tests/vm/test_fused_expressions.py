"""Expressions that tasks in fused code return (section 8)."""

from __future__ import annotations

import cascade as cs
from fusing import MyList, agree, loop_of


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
