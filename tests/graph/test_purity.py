"""Section 5: which nodes are one node, and what the iterations of a loop share."""

import struct
from enum import IntEnum
from typing import NamedTuple

import pytest

import cascade as cs


class Pair(NamedTuple):
    x: object
    y: object


class Colour(IntEnum):
    RED = 1


class Text(str):
    pass


def bits(pattern):
    return struct.unpack("<d", struct.pack("<Q", pattern))[0]


@pytest.fixture
def log():
    return []


@pytest.fixture
def pure(log):
    """A pure task that logs its argument."""

    @cs.task(pure=True)
    def pure(x=None, y=2):
        log.append(x)
        return 10

    return pure


@pytest.fixture
def impure(log):
    """An impure task that logs its argument and gives it back."""

    @cs.task
    def impure(x=None):
        log.append(x)
        return x

    return impure


def test_impure_nodes_are_never_merged(run, impure, log):
    """Two calls of an impure Task are two nodes."""
    assert run([impure(1), impure(1)]) == [1, 1]
    assert log == [1, 1]


EQUAL = [
    lambda: 1,
    lambda: int("9" * 40),
    lambda: "".join(["a", "b" * 1000]),
    lambda: bytes([1, 2, 3] * 100),
    lambda: True,
    lambda: None,
    lambda: float("1.5"),
    lambda: float("nan"),
    lambda: float("-0.0"),
    lambda: (),
    lambda: (1, "".join(["a", "b"]), None),
    lambda: ((int("9" * 40), b"x"), float("nan")),
]


@pytest.mark.parametrize("make", EQUAL)
def test_pure_nodes_with_equal_arguments_are_one(run, pure, log, make):
    """Pure nodes of one Task merge on arguments of the same type and value."""
    assert run([pure(make()), [pure(make())], pure(x=make())]) == [10, [10], 10]
    assert len(log) == 1


DIFFERENT = [
    lambda: (1, 2),
    lambda: (1, 1.0),
    lambda: (1, True),
    lambda: (1.0, True),
    lambda: (0, False),
    lambda: (0, None),
    lambda: (0.0, -0.0),
    lambda: (bits(0x7FF8000000000000), bits(0x7FF8000000000001)),
    lambda: ("a", b"a"),
    lambda: ("1", 1),
    lambda: ((1,), (1.0,)),
    lambda: ((1,), (True,)),
    lambda: (((0.0,),), ((-0.0,),)),
    lambda: ((1, 2), [1, 2]),
    lambda: ((1, 2), Pair(1, 2)),
    lambda: ((1, (2,)), ((1, 2),)),
    lambda: ((1,), 1),
    lambda: ("ab", ("a", "b")),
    lambda: (1, Colour.RED),
    lambda: ("a", Text("a")),
    lambda: ([1], [1]),
    lambda: ({}, {}),
    lambda: (([1],), ([1],)),
    lambda: (frozenset([1]), frozenset([1, 1])),
    lambda: (object(), object()),
]


@pytest.mark.parametrize("make", DIFFERENT)
def test_pure_nodes_with_other_arguments_are_several(run, pure, log, make):
    """Arguments of another type, other bits or another object make another node."""
    one, other = make()
    run([pure(one), pure(other)])
    assert len(log) == 2


@pytest.mark.parametrize("make", [list, dict, object, lambda: frozenset([1]), lambda: Text("a")])
def test_the_same_object_is_equal(run, pure, log, make):
    """Any argument equals itself, whatever its type."""
    argument = make()
    run([pure(argument), pure(argument), pure(x=argument)])
    assert len(log) == 1


def test_an_argument_left_out_equals_its_default(run, pure, log):
    """An argument left out equals its default given, by position or by name."""
    run([pure(1), pure(1, 2), pure(y=2, x=1), pure(x=1), pure(1, y=2)])
    assert log == [1]


def test_an_argument_that_is_the_same_node_is_equal(run, pure, impure, log):
    """Pure nodes merge on the same node, and so on pure nodes that merge."""
    shared = impure("shared")
    run([pure(shared), pure(shared), pure(pure("p")), pure(pure("p"))])
    assert log == ["shared", "shared", "p", 10]


def test_other_impure_arguments_are_other_nodes(run, pure, impure, log):
    """Pure nodes on two impure nodes are two."""
    run([pure(impure("i")), pure(impure("i"))])
    assert log == ["i"] * 4


def test_two_functions_of_one_name_are_two_tasks(run, log):
    """Merging goes by Task, not by name, module or code."""

    def make(value):
        @cs.task(pure=True)
        def same():
            log.append(value)
            return value

        return same

    assert run([make(1)(), make(2)()]) == [1, 2]
    assert log == [1, 2]


def test_two_tasks_of_one_function_are_two_tasks(run, log):
    """Each `cs.task(...)` is a Task of its own."""

    def body():
        log.append(1)

    run([cs.task(body, pure=True)(), cs.task(body, pure=True)()])
    assert log == [1, 1]


POLICIES = [
    lambda lazy: lazy.with_retry(2),
    lambda lazy: lazy.with_retry(2, delay=1.0),
    lambda lazy: lazy.with_retry(2, on=ValueError),
    lambda lazy: lazy.with_constraints(gpu=1),
    lambda lazy: lazy.with_constraints(gpu=2),
    lambda lazy: lazy.with_constraints(cpu=1),
    lambda lazy: lazy.run_if(True),
    lambda lazy: lazy.run_if(1),
    lambda lazy: lazy.run_if(True, default=None),
    lambda lazy: lazy.run_if(True, default=0),
    lambda lazy: lazy.run_if(True).run_if(True),
    lambda lazy: lazy.after(SHARED),
    lambda lazy: lazy.after(OTHER),
    lambda lazy: lazy.run_if(SHARED),
    lambda lazy: lazy.run_if(OTHER),
]
SHARED, OTHER = (cs.task(lambda: True, name="one")() for _ in range(2))


@pytest.mark.parametrize("index", range(len(POLICIES)))
def test_pure_nodes_merge_under_equal_policies_only(run, pure, log, index):
    """Pure nodes of equal policies, conditions and predecessors merge, others do not."""
    one = POLICIES[index]
    run([one(pure(1)), one(pure(1))])
    assert log == [1]
    log.clear()
    run([pure(2), *(other(pure(2)) for other in POLICIES)])
    assert len(log) == len(POLICIES) + 1


def test_equal_calls_under_different_conditions_are_two_nodes(run, pure, log):
    """A skipped node does not take an equal one with another condition with it."""
    assert run([pure(1).run_if(False, default="no"), pure(1), pure(1).run_if(True)]) == [
        "no",
        10,
        10,
    ]
    assert log == [1, 1]


def test_maps_of_a_pure_task_merge(run, pure, log):
    """Maps of a pure Task over equal items are one node."""
    assert run([pure.map(x=(1, 2)), pure.map(x=tuple(range(1, 3)))]) == [[10, 10], [10, 10]]
    assert sorted(log) == [1, 2]
    run([pure.map(x=(1, 2)), pure.map(x=(1, True))])
    assert len(log) == 6


def test_a_map_is_no_call(run, pure, log):
    """A map over a tuple and a call with that tuple are two nodes."""
    items = (1, 2)
    assert run([pure.map(x=items), pure(items)]) == [[10, 10], 10]


def test_merging_is_part_of_the_structure(pure, impure):
    """Merged nodes are one node of the graph."""

    def count(*targets):
        return len(cs.build_graph(list(targets)).graph.nodes)

    assert count(pure(1), pure(1), pure(1, 2)) == 1
    assert count(pure(1), pure(1.0), pure(2)) == 3
    assert count(impure(1), impure(1)) == 2


def test_evaluations_do_not_remember(run, pure, log):
    """Pure nodes merge within one evaluation: another run computes them again."""
    run(pure(1))
    run(pure(1))
    assert log == [1, 1]


# Loops share what is pure with all it needs


@pytest.fixture
def loop():
    """`loop(n, *inputs)`: a loop of `n` iterations that needs `inputs` in each."""

    def make(count, *inputs):
        @cs.task
        def step(n, *given):
            return cs.Jump("again" if n < count else "exit", {"n": n + 1})

        node = step(1, *inputs)
        return cs.bind(node, cs.select_jump({"again": node, "exit": None}))

    return make


@cs.resource
def run_wide():
    yield 5


@cs.resource(scope="step")
def step_wide():
    yield 5


@cs.resource(scope="task")
def task_wide():
    yield 5


INVARIANT = [
    lambda pure, impure: pure(1),
    lambda pure, impure: pure(),
    lambda pure, impure: pure([object()]),
    lambda pure, impure: [pure(1), {"k": pure(1)}],
    lambda pure, impure: pure(cs.Param("p", default="x")),
    lambda pure, impure: pure(cs.Env("CASCADE_TEST_UNSET", default="x")),
    lambda pure, impure: pure(cs.inject("run_wide")),
    lambda pure, impure: pure(1).run_if(cs.Param("p", default="x")),
    lambda pure, impure: pure(1).with_constraints(gpu=1),
    lambda pure, impure: pure.map(x=[1]),
]


@pytest.mark.parametrize("make", INVARIANT)
def test_what_is_pure_with_all_it_needs_runs_once_in_a_loop(run, loop, pure, impure, log, make):
    """The iterations of a loop share nodes that are pure with all they need."""
    run(loop(5, make(pure, impure)), resources=[run_wide])
    assert len(log) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda pure, impure: pure(1).run_if(pure(2)),
        lambda pure, impure: pure(1).after(pure(2)),
        lambda pure, impure: pure(1).run_if(False, default=pure(2)).run_if(pure(3, 3)),
        lambda pure, impure: pure(pure(1)),
    ],
)
def test_pure_conditions_defaults_and_predecessors_are_shared_too(
    run, loop, pure, impure, log, make
):
    """All that a shared node needs is shared: each runs at most once."""
    run(loop(5, make(pure, impure)))
    assert len(log) == len(set(log)) > 0


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda pure, impure: impure(1), 5),
        (lambda pure, impure: pure(impure(1)), 10),
        (lambda pure, impure: pure([impure(1)]), 10),
        (lambda pure, impure: pure(pure(impure(1))), 15),
        (lambda pure, impure: pure(1).run_if(impure(1)), 10),
        (lambda pure, impure: pure(1).after(impure(1)), 10),
        (lambda pure, impure: pure(1).with_constraints(gpu=impure(1)), 10),
        (lambda pure, impure: pure(cs.inject("step_wide")), 5),
        (lambda pure, impure: pure(cs.inject("task_wide")), 5),
        (lambda pure, impure: pure(impure.map(x=[1])), 10),
        (lambda pure, impure: impure(pure(1)), 6),
    ],
)
def test_what_needs_something_impure_runs_in_each_iteration(
    run, loop, pure, impure, log, make, count
):
    """A node that is impure, or needs an impure one, belongs to its iteration."""
    run(loop(5, make(pure, impure)), resources=[step_wide, task_wide])
    assert len(log) == count


def test_the_looped_node_is_never_shared(run, log):
    """The looped node runs in each iteration, pure or not."""

    @cs.task(pure=True)
    def step(x):
        log.append(x)
        return cs.Jump("again" if len(log) < 4 else "exit", None)

    node = step(1)
    run(cs.bind(node, cs.select_jump({"again": node, "exit": None})))
    assert log == [1] * 4


def test_nodes_in_jump_routes_are_shared(run, pure, log):
    """What only a jump route needs is shared by all the iterations that take it."""
    left = iter(range(6))

    @cs.task
    def step(x=None):
        return cs.Jump("go" if next(left) < 5 else "exit")

    node, route = step(), step(pure("route"))
    selector = cs.select_jump({"go": route, "exit": None})
    cs.bind(node, selector)
    cs.bind(route, selector)
    run(node)
    assert log == ["route"]


def test_shared_nodes_run_on_first_demand(run, pure, impure, log):
    """A shared node is evaluated on first demand: an untaken route evaluates nothing."""

    @cs.task
    def step(n, x=None):
        log.append(("step", n))
        return cs.Jump("go" if n < 3 else "exit", {"n": n + 1})

    node, route = step(1), step(0, pure("late"))
    selector = cs.select_jump({"go": route, "exit": None, "never": step(0, pure("never"))})
    cs.bind(node, selector)
    cs.bind(route, selector)
    run(node)
    assert log == [("step", 1), "late", ("step", 2), ("step", 3)]


def test_shared_nodes_belong_to_the_outermost_evaluation(run, loop, pure, impure, log):
    """In nested loops a shared node runs once for all of them."""
    run(loop(4, loop(3, pure("inner"), impure("each"))))
    assert log.count("inner") == 1
    assert log.count("each") == 12


def test_a_node_around_a_loop_is_the_loops_too(run, loop, pure, log):
    """A pure node that is also reached outside the loop runs once for both."""
    shared = pure(1)
    run([shared, loop(3, shared, pure(1)), pure(1)])
    assert log == [1]


def test_iterations_share_no_impure_node(run, loop, impure, log):
    """An impure node runs once in each iteration, and once more in the evaluation around them."""
    shared = impure("i")
    run([shared, loop(3, shared, [shared])])
    assert log == ["i"] * 4


@pytest.mark.parametrize("default_first", [True, False])
def test_a_node_with_a_default_is_not_one_without(run, pure, impure, default_first):
    """Calls that differ in having a default are two nodes, whatever the default."""
    bus, reasons = cs.MessageBus(), []
    bus.subscribe(cs.TaskSkipped, lambda event: reasons.append(event.reason))
    zero = impure(0)
    nodes = [pure(1).run_if(zero, default=zero), pure(1).run_if(zero)]
    with pytest.raises(cs.DependencyMissingError):
        run(nodes if default_first else nodes[::-1], bus=bus)
    assert reasons == ["ConditionFalse", "ConditionFalse"]
