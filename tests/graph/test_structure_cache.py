"""Section 12: what is planned and compiled once, and what a cache keeps."""

import gc
import random
import weakref

import pytest

import cascade as cs
from cascade.graph.nodes import build_graph
from cascade.graph.plan import Plan
from cascade.graph.reading import read
from cascade.graph.structure import Structure


class CountingSolver(cs.NativeSolver):
    """The native solver, counting how often it is asked."""

    def __init__(self):
        super().__init__()
        self.resolved = 0

    def resolve(self, graph):
        self.resolved += 1
        return super().resolve(graph)


@pytest.fixture
def planned(inside, use_vm):
    """How many structures were planned (and, by the VM, compiled) for each of `targets` in turn.

    All run in one engine; a target is made just before it runs.
    """

    def planned(*makers, **options):
        solver = CountingSolver()

        async def main():
            engine, counts = cs.Engine(solver=solver, **options), []
            for make in makers:
                await engine.run(make(), use_vm=use_vm)
                counts.append(engine.statistics().compiled if use_vm else solver.resolved)
            return [after - before for before, after in zip([0, *counts], counts, strict=False)]

        return inside(main)

    return planned


@cs.task
def f(*values, **named):
    return values


@cs.task
def g(*values, **named):
    return values


@cs.task
def pair(x, y):
    return x, y


class Account:
    def __init__(self, balance):
        self.balance = balance

    @cs.task
    def plus(self, amount):
        return self.balance + amount


SAME = [
    (lambda: f(1), lambda: f(2)),
    (lambda: f(1), lambda: f("text")),
    (lambda: f([1]), lambda: f({"k": (1, 2, 3)})),
    (lambda: f(g(1), 2), lambda: f(g(None), [])),
    (lambda: [f(1), g(2)], lambda: [f(3), g(4)]),
    (lambda: {"k": f(1)}, lambda: {"k": f(2)}),
    (lambda: f(1).with_retry(2), lambda: f(2).with_retry(2)),
    (lambda: f(1).run_if(True), lambda: f(2).run_if(1)),
    (lambda: f(1).run_if(False, default=1), lambda: f(2).run_if(False, default=2)),
    (lambda: f(1).after(g(1)), lambda: f(2).after(g(2))),
    (lambda: f(1, a=2), lambda: f(3, a=4)),
    (lambda: Account(1).plus(1), lambda: Account(2).plus(2)),
    (lambda: pair.map(x=[1], y=[2]), lambda: pair.map(x=[1, 2], y=(3, 4))),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_equal_structures_share_a_plan(planned, one, other):
    """Structures that differ in their data only are planned and compiled once."""
    assert planned(one, other, one)[1:] == [0, 0]


@cs.task(pure=True)
def pure(x):
    return x


def alike():
    """Another Task of the name of `f`."""

    @cs.task(name="f")
    def other(*values, **named):
        return "another"

    return other


def shared(count):
    node = g(1)
    return [node] * count + [g(1) for _ in range(3 - count)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: f(1), lambda: g(1)),
        (lambda: f(1), lambda: alike()(1)),
        (lambda: f(1), lambda: f(g(1))),
        (lambda: f(1), lambda: [f(1)]),
        (lambda: [f(1)], lambda: (f(1),)),
        (lambda: f(1), lambda: f(1, 2)),
        (lambda: f(a=1), lambda: f(b=1)),
        (lambda: shared(3), lambda: shared(2)),
        (lambda: f(1), lambda: f(1).with_retry(2)),
        (lambda: f(1).with_retry(2), lambda: f(1).with_retry(3)),
        (lambda: f(1), lambda: f(1).run_if(True)),
        (lambda: f(1).after(g(1)), lambda: f(1).run_if(g(1))),
        (lambda: [pure(1), pure(1)], lambda: [pure(1), pure(2)]),
    ],
)
def test_other_structures_have_plans_of_their_own(inside, use_vm, one, other):
    """Another Task, shape, sharing or policy is another structure, with its own value."""

    async def main():
        engine = cs.Engine()
        first, second = one(), other()
        values = [await engine.run(target, use_vm=use_vm) for target in (first, second, first)]
        statistics = engine.statistics()
        fresh = [await cs.Engine().run(target, use_vm=use_vm) for target in (first, second, first)]
        return values, fresh, statistics

    values, fresh, statistics = inside(main)
    assert values == fresh
    assert statistics.plan_misses == statistics.plans >= 2
    assert statistics.plan_hits >= 1


def loop_of(count):
    """A loop that runs `count` times, and needs a node in each."""
    return looped(step(count, f(count)))


def looped(node):
    return cs.bind(node, cs.select_jump({"again": node, "exit": None}))


@cs.task
def step(left, _):
    return cs.Jump("again", {"left": left - 1}) if left > 1 else cs.Jump("exit", "done")


@cs.task
def returning(left, _):
    """Returns its own chain, built anew."""
    return returning(left - 1, f(g(left), [left])) if left > 1 else "done"


@cs.task
def calling(left, _):
    """Calls itself with other arguments."""
    return cs.TailCall(kwargs={"left": left - 1}) if left > 1 else "done"


def unrolled(count):
    """A loop whose routes are built anew for each run, over two Tasks."""
    one, other = step(count, f(1)), step(count, g(f(1)))
    cs.bind(one, cs.select_jump({"again": other, "exit": None}))
    cs.bind(other, cs.select_jump({"again": one, "exit": None}))
    return [one, {"k": other}]


REPEATING = {
    "loop": loop_of,
    "two routes": unrolled,
    "returned expressions": lambda count: returning(count, f(g(0), [0])),
    "tail calls": lambda count: calling(count, f(g(0))),
    "map": lambda count: pair.map(x=range(count), y=range(count)),
    "map of returned expressions": lambda count: returning.map(left=[2] * count, _=range(count)),
    "loop in a map": lambda count: outer.map(count=[3] * count),
}


@cs.task
def outer(count):
    return loop_of(count)


@pytest.mark.parametrize("kind", REPEATING)
def test_repetition_plans_nothing_anew(planned, kind):
    """Iterations, tail calls and map items are planned once, however many there are."""
    make = REPEATING[kind]
    (few,) = planned(lambda: make(3))
    (many,) = planned(lambda: make(200))
    assert few == many > 0


@pytest.mark.parametrize("kind", REPEATING)
def test_a_later_run_plans_nothing_anew(planned, kind):
    """A later run of an equal structure with other data plans nothing."""
    make = REPEATING[kind]
    assert planned(lambda: make(3), lambda: make(5), lambda: make(4))[1:] == [0, 0]


def test_a_returned_expression_shares_the_plan_of_a_target(planned):
    """Runs of targets and returned expressions share plans of equal structures."""
    back = cs.task(lambda: f(g(1)), name="back")
    assert planned(lambda: f(g(2)), back, back) == [1, 1, 0]


def test_an_engine_counts_hits_and_misses(inside, use_vm):
    """`engine.statistics()` counts what was found, what was not, and what is kept."""

    async def main():
        engine = cs.Engine()
        seen = []
        for target in (f(1), f(2), g(f(3)), f(4)):
            await engine.run(target, use_vm=use_vm)
            statistics = engine.statistics()
            seen.append((statistics.plan_misses, statistics.plan_hits, statistics.plans))
        return seen, statistics

    seen, statistics = inside(main)
    assert seen == [(1, 0, 1), (1, 1, 1), (2, 1, 2), (2, 2, 2)]
    assert statistics.plan_evictions == 0
    with pytest.raises(AttributeError):
        statistics.plans = 0


def test_the_cache_is_bounded(inside, use_vm):
    """At most `plan_cache_size` plans are kept: the one used longest ago goes first."""

    async def main():
        engine = cs.Engine(plan_cache_size=2)
        run = engine.run

        async def misses(target):
            before = engine.statistics().plan_misses
            await run(target, use_vm=use_vm)
            assert engine.statistics().plans <= 2
            return engine.statistics().plan_misses - before

        for target in (f(1), g(1), f(1)):
            await misses(target)
        assert await misses(f(f(1))) == 1
        assert await misses(f(1)) == 0
        assert await misses(g(1)) == 1
        assert engine.statistics().plan_evictions == 2

    inside(main)


def test_a_task_that_is_gone_is_not_mistaken_for_another(inside, use_vm):
    """Tasks go by identity: one made where another was freed has its own plan and value."""

    async def main():
        engine = cs.Engine(plan_cache_size=4)
        for number in range(50):
            assert await engine.run(cs.task(lambda n=number: n)(), use_vm=use_vm) == number
            gc.collect(0)

    inside(main)


def test_keys_of_a_cached_router_are_its_own(inside, use_vm):
    """Keys that are equal in a dict are still told apart: an error lists a Router's own."""

    async def main():
        engine = cs.Engine()
        for key in (1, True, 1.0):
            with pytest.raises(cs.RouteNotFoundError, match=rf"\b{key}\b"):
                await engine.run(cs.Router(g(), {key: "x"}), use_vm=use_vm)

    inside(main)


class Data:
    """Something that can be referred to weakly."""


@pytest.mark.parametrize(
    "make",
    [
        lambda data: f(data),
        lambda data: f([data], k={"k": data}),
        lambda data: [f(1), data],
        lambda data: f(1).run_if(data),
        lambda data: f(1).run_if(False, default=data),
        lambda data: cs.Router(g(1), {(1,): data}),
        lambda data: pure.map(x=[data]),
        lambda data: pure(data),
        lambda data: [pure(data), pure(data)],
        lambda data: looped(step(1, data)),
        lambda data: returning(3, data),
        lambda data: calling(3, data),
    ],
)
def test_the_cache_keeps_no_data_alive(inside, use_vm, make):
    """An engine that goes on living keeps no argument of a run that ended."""

    async def main():
        engine = cs.Engine()
        data = Data()
        reference = weakref.ref(data)
        node = make(data)
        await engine.run(node, use_vm=use_vm)
        del node, data
        gc.collect()
        assert engine.statistics().plans > 0
        return reference()

    assert inside(main) is None


def test_a_graph_is_structure_and_data():
    """`build_graph` gives the structure, the literals, and the node of each expression."""
    marker = object()
    inner = g(marker)
    target = f(inner, 12345)
    built = cs.build_graph(target)
    assert isinstance(built.data, tuple)
    assert any(item is marker for item in built.data)
    assert 12345 in [item for item in built.data if isinstance(item, int)]
    nodes = list(built.graph.nodes)
    assert [built.nodes[inner], built.nodes[target]] == nodes
    assert [(node.name, node.kind, node.task) for node in nodes] == [
        ("g", "task", g),
        ("f", "task", f),
    ]
    (edge,) = built.graph.edges
    assert (edge.source, edge.target) in [
        (nodes[0], nodes[1]),
        (nodes[0].id, nodes[1].id),
    ]


def test_merged_expressions_have_one_node():
    """Expressions that are one node are one in `BuiltGraph.nodes` too."""
    one, other = pure(1), pure(1)
    built = cs.build_graph([one, other])
    assert built.nodes[one] is built.nodes[other]
    assert len(built.graph.nodes) == 1


def test_data_may_differ_in_anything(planned):
    """A value of another type, size or truth is other data, not another structure."""
    values = [1, True, None, "", b"x", [], {"k": [1]}, (1, 2), object(), float("nan")]
    assert planned(*[lambda value=value: f(value) for value in values])[1:] == [0] * 9


@pytest.mark.parametrize("seed", range(40))
def test_an_iteration_has_the_plan_order_of_its_route(seed):
    """Ranks and ids within an iteration are those of `build_graph` of its route."""
    dice = random.Random(seed)
    tasks = [cs.task(lambda *args: args, name=f"t{k}") for k in range(4)]
    nodes = [dice.choice(tasks)()]
    for _ in range(12):
        chosen = dice.sample(nodes, min(len(nodes), dice.randrange(4)))
        nodes.append(dice.choice(tasks)([*chosen[:1]], *chosen[1:]))
    routes = {k: dice.choice(nodes) for k in range(4)}
    target = cs.bind(dice.choice(tasks)(*dice.sample(nodes, 3)), cs.select_jump(routes))
    reading = read([dice.choice(nodes), target])
    structure = Structure(reading.key)
    for route in routes.values():
        plan = Plan(structure, reading.slot_of(route))
        needed = structure.order_from(plan.root).needed
        assert sorted(needed, key=plan.rank) == list(needed)
        ids = [node.id for node in build_graph(route).graph.nodes]
        assert [node.id for _, node in plan.drawn(needed)] == ids


@pytest.mark.parametrize("kind", ["loops", "tail calls"])
def test_a_solver_is_asked_once_whatever_loops_there_are(inside, kind):
    """A structure is planned once, with all the loops and tail calls in it."""
    asked = []

    class Solver:
        def resolve(self, graph):
            asked.append(len(graph.nodes))
            return cs.NativeSolver().resolve(graph)

    @cs.task
    def leave(x):
        return cs.Jump("out", x)

    @cs.task
    def call(x, done=False):
        return x if done else cs.TailCall(kwargs={"done": True})

    def link(node):
        if kind == "tail calls":
            return call(node)
        return cs.bind(leave(node), cs.select_jump({"out": None}))

    target = 0
    for _ in range(10):
        target = link(target)

    async def program():
        return await cs.Engine(solver=Solver()).run(target)

    assert inside(program) == 0
    assert len(asked) == 1
