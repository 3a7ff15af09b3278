"""Tail calls: TailCall, registered targets and returned expressions (section 8)."""

import gc
import sys
import weakref

import anyio
import pytest

import cascade as cs


@pytest.fixture
def run_engine(inside, use_vm):
    """Run a target on an engine with targets registered by name."""

    def run_engine(target, targets, engine_options=None, **options):
        async def program():
            engine = cs.Engine(**(engine_options or {}))
            for name, expression in targets.items():
                engine.register_target(name, expression)
            return await engine.run(target, use_vm=use_vm, **options)

        return inside(program)

    return run_engine


def test_a_tail_call_evaluates_the_same_node_anew(run):
    """Positional arguments replace the node's own until an ordinary value comes."""

    @cs.task
    def factorial(n, acc=1):
        return cs.TailCall((n - 1, acc * n)) if n > 1 else acc

    assert run(factorial(10)) == 3628800


def test_async_tasks_make_tail_calls_too(run):
    """A chain of a task that suspends is the same chain."""

    @cs.task
    async def count(n):
        await anyio.sleep(1)
        return cs.TailCall((n - 1,)) if n else "end"

    assert run(count(3)) == "end"


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (cs.TailCall(), (1, 2)),
        (cs.TailCall((5,)), (5, 2)),
        (cs.TailCall((5, 6)), (5, 6)),
        (cs.TailCall(kwargs={"b": 6}), (1, 6)),
        (cs.TailCall((5,), {"b": 6}), (5, 6)),
    ],
)
def test_other_arguments_keep_the_nodes_own(run, call, expected):
    """What a TailCall does not give is as the node has it, not as the call before had it."""
    calls = []

    @cs.task
    def step(a, b):
        calls.append((a, b))
        return [call, cs.TailCall(), "end"][len(calls) - 1]

    assert run(step(1, b=2)) == "end"
    assert calls == [(1, 2), expected, (1, 2)]


def test_a_replaced_argument_is_not_demanded(run):
    """A chain demands the node's own arguments anew, save those that are replaced."""
    reads = []

    @cs.task
    def read(name):
        reads.append(name)
        return 0

    @cs.task
    def step(n, other):
        return cs.TailCall((n + 1,)) if n < 3 else n

    assert run(step(read("n"), read("other"))) == 3
    assert reads.count("n") == 1
    assert reads.count("other") == 4


@pytest.mark.parametrize(
    "call",
    [
        cs.TailCall((1, 2, 3)),
        cs.TailCall(kwargs={"c": 1}),
        cs.TailCall((1,), {"a": 1}),
    ],
    ids=["too many", "unknown name", "twice"],
)
def test_arguments_that_do_not_fit_are_a_type_error(run, call):
    """Wrong names, too many, or one twice."""

    @cs.task
    def step(a, b=0):
        return call

    with pytest.raises(TypeError):
        run(step(0))


def test_a_registered_target_is_called_by_name(run_engine):
    """A TailCall with a target evaluates the expression registered under that name."""

    @cs.task
    def start():
        return cs.TailCall((3,), target="work")

    @cs.task
    def work(n, factor):
        return n * factor

    assert run_engine(start(), {"work": work(0, factor=10)}) == 30


def test_within_a_target_a_tail_call_means_that_target(run_engine):
    """A TailCall without target in a registered target evaluates this one anew."""
    log = []

    @cs.task
    def start():
        log.append("start")
        return cs.TailCall((0,), target="work")

    @cs.task
    def work(n, limit):
        log.append(n)
        return cs.TailCall((n + 1,)) if n < limit else "end"

    assert run_engine(start(), {"work": work(99, 2)}) == "end"
    assert log == ["start", 0, 1, 2]


def test_targets_may_call_each_other(run_engine):
    """Mutual recursion by name ends like any chain."""

    @cs.task
    def even(n):
        return cs.TailCall((n - 1,), target="odd") if n else True

    @cs.task
    def odd(n):
        return cs.TailCall((n - 1,), target="even") if n else False

    assert run_engine(even(1001), {"even": even(0), "odd": odd(0)}) is False


def test_an_unknown_target_lists_the_names(run_engine):
    """TargetNotFoundError says which targets there are."""

    @cs.task
    def start():
        return cs.TailCall(target="wrok")

    with pytest.raises(cs.TargetNotFoundError, match=r"(?s)wrok.*work") as caught:
        run_engine(start(), {"work": start(), "rest": start()})
    assert "rest" in str(caught.value)


def test_a_target_without_an_engine_is_not_found(run):
    """Nothing is registered where nothing was."""

    @cs.task
    def start():
        return cs.TailCall(target="work")

    with pytest.raises(cs.TargetNotFoundError, match="work"):
        run(start())


def test_a_chain_of_tail_calls_keeps_its_routes(run):
    """The same node evaluated anew still has its selector."""

    @cs.task
    def step(n):
        return cs.TailCall((n + 1,)) if n < 3 else cs.Jump("exit", n)

    assert run(cs.bind(step(0), cs.select_jump({"exit": None}))) == 3


def test_predecessors_run_once_before_a_chain(run):
    """A chain of TailCalls is a loop in every other respect: `after` runs once."""
    log = []

    @cs.task
    def prepare():
        log.append("prepare")

    @cs.task
    def step(n):
        log.append(n)
        return cs.TailCall((n + 1,)) if n < 2 else n

    assert run(step(0).after(prepare())) == 2
    assert log == ["prepare", 0, 1, 2]


def test_conditions_are_demanded_in_each_call_of_a_chain(run):
    """A condition that turns false ends the chain with the default."""
    asked = []

    @cs.task
    def holds():
        asked.append(1)
        return len(asked) <= 3

    @cs.task
    def step(n):
        return cs.TailCall((n + 1,))

    assert run(step(0).run_if(holds(), default="stopped")) == "stopped"
    assert len(asked) == 4


@cs.task
def double(x):
    return 2 * x


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda: double(double(1)), 4),
        (lambda: double.map(x=[1, double(1)]), [2, 4]),
        (lambda: cs.Router(selector="a", routes={"a": double(1), "b": 0}), 2),
        (lambda: cs.Router(selector="b", routes={"a": double(1), "b": 0}), 0),
    ],
    ids=["call", "map", "router", "router literal"],
)
@pytest.mark.parametrize("mode", ["inline", "thread", "async"])
def test_a_returned_expression_is_evaluated(run, make, value, mode):
    """The value of an expression that a task returns is the value of its node."""
    if mode == "async":

        @cs.task
        async def gives():
            return make()
    else:

        @cs.task(mode=mode)
        def gives():
            return make()

    @cs.task
    def consumer(x):
        return x

    assert run([consumer(gives())]) == [value]


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: (x,), lambda x: {"a": x}])
def test_a_container_of_expressions_is_a_value(run, wrap):
    """Values are never searched for expressions."""
    lazy = double(1)
    value = wrap(lazy)

    @cs.task
    def gives():
        return value

    @cs.task
    def consumer(x):
        return x is value

    assert run([gives(), consumer(gives())]) == [value, True]


def test_arguments_of_a_tail_call_are_never_searched_for_expressions(run):
    """An expression among the arguments of a TailCall is data."""
    lazy = double(1)

    @cs.task
    def step(x):
        return cs.TailCall((lazy,)) if x == 0 else [x]

    (value,) = run(step(0))
    assert value is lazy


def test_a_returned_expression_shares_nothing(run):
    """It is an evaluation of its own: pure nodes and expressions of other evaluations run again."""
    calls = []

    @cs.task(pure=True)
    def pure(x):
        calls.append(x)
        return x

    node = pure(1)

    @cs.task
    def gives(x):
        return [node, pure(1)][x]

    assert run([node, gives(0), gives(1)]) == [1, 1, 1]
    assert calls == [1, 1, 1]


def test_recursion_of_returned_expressions_has_no_limit(run):
    """A returned expression may need another, to any depth."""

    @cs.task
    def add(a, b):
        return a + b

    @cs.task
    def total(n):
        return add(n, total(n - 1)) if n else 0

    assert run(total(3_000)) == 4_501_500


def test_map_items_may_return_expressions(run):
    """Each item's value is that of the expression it returns."""

    @cs.task
    def gives(x):
        return double(x) if x % 2 else x

    assert run(gives.map(x=[1, 2, 3])) == [2, 2, 6]


def test_map_items_may_make_tail_calls(run):
    """An item evaluated anew keeps its place in the list."""

    @cs.task
    def count(n, steps=0):
        return cs.TailCall((n - 1, steps + 1)) if n else steps

    assert run(count.map(n=[2, 0, 3])) == [2, 0, 3]


def test_a_skipped_returned_expression_is_treated_as_a_run(run):
    """Skipped through `after` gives None; skipped otherwise is a DependencyMissingError."""

    @cs.task
    def gives(sequence):
        return double(2).after(double(1).run_if(False)) if sequence else double(1).run_if(False)

    assert run([gives(True)]) == [None]
    with pytest.raises(cs.DependencyMissingError):
        run([gives(False)])


def test_a_returned_loop_loops(run):
    """A returned expression that is bound jumps by its own routes."""

    @cs.task
    def count(n):
        return cs.Jump("again", n + 1) if n < 5 else n

    @cs.task
    def gives():
        node = count(0)
        return cs.bind(node, cs.select_jump({"again": node}))

    assert run(gives()) == 5


def test_forbidden_returned_expressions_are_a_static_graph_error(run):
    """`tail_calls="forbid"` refuses an expression as a value and names the task."""

    @cs.task
    def gives():
        return double(1)

    with pytest.raises(cs.StaticGraphError, match="gives"):
        run(gives(), tail_calls="forbid")


def test_jumps_and_tail_calls_are_never_forbidden(run):
    """`tail_calls="forbid"` leaves Jump and TailCall alone."""

    @cs.task
    def jumps(n):
        return cs.Jump("again", n + 1) if n < 3 else n

    @cs.task
    def calls(n):
        return cs.TailCall((n + 1,)) if n < 3 else n

    node = jumps(0)
    cs.bind(node, cs.select_jump({"again": node}))
    assert run([node, calls(0)], tail_calls="forbid") == [3, 3]


@cs.task
def by_tail_call(n):
    return cs.TailCall((n + 1,)) if n < 1005 else n


@cs.task
def by_expression(n):
    return by_expression(n + 1) if n < 1005 else n


@pytest.mark.parametrize("task", [by_tail_call, by_expression])
def test_max_steps_bounds_a_chain_of_tail_calls(run, task):
    """Execution n+1 of a chain is a StepLimitError; n of them are not."""
    assert run(task(1001), max_steps=5) == 1005
    with pytest.raises(cs.StepLimitError, match=task.name):
        run(task(1001), max_steps=4)


def depth():
    frame, n = sys._getframe(), 0
    while frame is not None:
        frame, n = frame.f_back, n + 1
    return n


class Datum:
    """Data that can be watched."""

    def __init__(self, n):
        self.n = n


@pytest.mark.parametrize("kind", ["tail call", "target", "expression"])
def test_tail_calls_take_constant_stack_and_memory(run_engine, kind):
    """Nothing of an evaluation is left when the next but one runs."""
    depths, alive = [], []
    living = weakref.WeakSet()

    @cs.task
    def step(datum):
        n = datum.n
        if n in (1_000, 3_000):
            depths.append(depth())
            gc.collect()
            alive.append(len(living))
        if n == 3_000:
            return n
        following = Datum(n + 1)
        living.add(following)
        if kind == "expression":
            return step(following)
        return cs.TailCall((following,), target="step" if kind == "target" else None)

    assert run_engine(step(Datum(0)), {"step": step(None)}) == 3_000
    assert depths[0] == depths[1]
    assert alive[1] <= alive[0] + 3


@cs.task
async def by_async_tail_call(n):
    return cs.TailCall((n + 1,)) if n < 1005 else n


@cs.task
def by_both(n):
    if n == 1005:
        return n
    return by_both(n + 1) if n == 1003 else cs.TailCall((n + 1,))


@pytest.mark.parametrize("task", [by_tail_call, by_async_tail_call, by_expression, by_both])
def test_max_steps_bounds_the_chain_of_a_map_item(run, task):
    """Each item of a map is the first execution of a chain of its own, which is counted."""
    assert run(task.map(n=[1001, 1002, 1001]), max_steps=5) == [1005] * 3
    with pytest.raises(cs.StepLimitError, match=task.name):
        run(task.map(n=[1001]), max_steps=4)


def test_a_tail_call_keeps_keywords_of_any_name(run):
    """Keywords of the node's own stay, even one called like a positional-only parameter."""

    @cs.task
    def step(n, /, **kwargs):
        return cs.TailCall((n + 1,)) if n < 3 else (n, kwargs)

    assert run(step(0, n=99, other=1)) == (3, {"n": 99, "other": 1})


def test_a_tail_call_gives_keywords_of_any_name(run):
    """Variable keywords may have names that are no identifiers."""

    @cs.task
    def step(n, **kwargs):
        return cs.TailCall((n + 1,), {"*": 5}) if n < 3 else (n, kwargs)

    assert run(step(0)) == (3, {"*": 5})


def test_arguments_for_a_registered_target_replace_its_literals(inside, use_vm):
    """They replace arguments that are plain data, however the rest of the target is carried out."""

    @cs.task
    def same(x):
        return x

    @cs.task
    def pair(x, y):
        return x, y

    @cs.task
    def start():
        return cs.TailCall(("given",), target="pair")

    async def main():
        engine = cs.Engine()
        engine.register_target("pair", pair("own", same(same(1))))
        return await engine.run(start(), use_vm=use_vm)

    assert inside(main) == ("given", 1)
