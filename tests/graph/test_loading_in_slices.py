"""Sections 8 and 12: reading, planning and compiling let others run; what is kept is bounded."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import cascade as cs
from cascade.core import pace, strategy
from cascade.core import run as run_module
from cascade.graph.reading import read, reading
from cascade.graph.slices import whole
from cascade.graph.solver import NativeSolver
from cascade.graph.structure import Structure
from cascade.vm import programs

NODES = 6_000


@cs.task
def ident(x: Any) -> Any:
    return x


@cs.task
def total(*xs: Any) -> int:
    return len(xs)


def chain(length: int) -> Any:
    node = ident(1)
    for _ in range(length - 1):
        node = ident(node)
    return node


def looped() -> Any:
    calls = iter(range(3))

    @cs.task
    def step(x: Any) -> Any:
        return cs.Jump("again") if next(calls, None) is not None else x

    route = step(chain(NODES))
    routes = cs.select_jump({"again": route})
    cs.bind(route, routes)
    return cs.bind(step(0), routes)


def returned() -> Any:
    return cs.task(lambda: chain(NODES), name="returns")()


TARGETS = {
    "run": lambda: chain(NODES),
    "wide": lambda: total(*[ident(n) for n in range(NODES)]),
    "members": lambda: [ident(n) for n in range(NODES)],
    "keys": lambda: {n: ident(n) for n in range(NODES)},
    "returned": returned,
    "registered": lambda: cs.task(lambda: cs.TailCall(target="big"), name="goes")(),
    "map of returned": lambda: cs.task(lambda x: chain(NODES), name="each").map(x=[1, 2]),
    "literal": lambda: ident(list(range(300_000))),
    "literal dict": lambda: ident(dict.fromkeys(range(300_000))),
    "nested literal": lambda: ident([[n] for n in range(NODES)]),
}


@pytest.mark.parametrize("name", TARGETS)
def test_others_run_while_a_target_is_loaded(name, inside, use_vm, monkeypatch):
    """Others on the loop get their turn often, however large a target is (section 8).

    The clock of the engine goes on by a millisecond whenever it is looked at, so that a slice is a
    few looks; each is a few hundred steps away from the last.
    """
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.001
        return now

    for module in (pace, run_module, strategy):
        monkeypatch.setattr(module, "perf_counter", clock)
    longest = 0.0
    turns = 0

    async def main() -> Any:
        nonlocal longest, turns
        engine = cs.Engine()
        engine.register_target("big", chain(NODES))
        over = False

        async def beat() -> None:
            nonlocal longest, turns
            last = now
            while not over:
                longest, last = max(longest, now - last), now
                turns += 1
                await checkpoint()

        async with anyio.create_task_group() as group:
            group.start_soon(beat)
            await checkpoint()
            await engine.run(TARGETS[name](), use_vm=use_vm)
            over = True

    inside(main)
    assert turns >= 6
    assert longest < 0.02


@pytest.mark.parametrize("name", ["run", "literal", "members"])
def test_a_step_of_reading_is_small(name):
    """Between two yields some hundred nodes, or some thousand members of a literal, are read."""
    target = TARGETS[name]()
    work = reading(target)
    yields = sum(1 for _ in work)
    assert yields >= (300_000 // 4096 if name == "literal" else NODES // 256)


def test_a_loop_loads_its_routes_in_slices(inside, use_vm):
    """What the first iteration of a route needs is made in slices, too, and gives the same."""
    assert inside(lambda: cs.Engine().run(looped(), use_vm=use_vm)) == 1


@pytest.mark.parametrize("name", ["run", "returned"])
def test_loading_is_cancelled_between_two_slices(name, inside, use_vm, monkeypatch):
    """A run that is cancelled while it loads ends at the next checkpoint (section 8)."""
    monkeypatch.setattr(pace, "SLICE", 0.0)
    solved = 0

    class Counting(NativeSolver):
        def resolve(self, graph: cs.Graph) -> cs.ExecutionPlan:
            nonlocal solved
            solved += len(graph.nodes) > 1
            return super().resolve(graph)

    async def main() -> Any:
        engine = cs.Engine(solver=Counting())
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:

                async def cancel() -> None:
                    for _ in range(4):
                        await checkpoint()
                    scope.cancel()

                group.start_soon(cancel)
                await engine.run(TARGETS[name](), use_vm=use_vm)
        assert scope.cancelled_caught
        assert solved == 0
        assert await engine.run(chain(3), use_vm=use_vm) == 1

    inside(main)


def test_what_two_runs_load_at_once_is_made_once(inside, use_vm, monkeypatch):
    """`solver.resolve` and the compiler run once per structure, in concurrent runs (section 12)."""
    monkeypatch.setattr(pace, "SLICE", 0.0)
    asked = 0

    class Counting:
        def resolve(self, graph: cs.Graph) -> cs.ExecutionPlan:
            nonlocal asked
            asked += 1
            return NativeSolver().resolve(graph)

    async def main() -> Any:
        engine = cs.Engine(solver=Counting())
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(lambda: engine.run(chain(2_000), use_vm=use_vm))
            with anyio.move_on_after(0):  # the first to come gives up, and another carries it on
                await engine.run(chain(2_000), use_vm=use_vm)
        return engine.statistics()

    statistics = inside(main)
    assert statistics.plan_misses == statistics.plans == 1
    assert (asked, statistics.compiled) == ((0, 1) if use_vm else (1, 0))


def test_a_solver_that_fails_is_asked_again(inside):
    """A structure whose plan was refused has none: the next run asks the solver anew."""
    asked = 0

    class Refusing:
        def resolve(self, graph: cs.Graph) -> cs.ExecutionPlan:
            nonlocal asked
            asked += 1
            return []

    async def main() -> None:
        engine = cs.Engine(solver=Refusing())
        for _ in range(2):
            with pytest.raises(ValueError, match="leaves out"):
                await engine.run(chain(2))

    inside(main)
    assert asked == 2


def test_a_literal_that_shrinks_while_it_is_read():
    """A dict that is changed while it is read in slices is refused."""
    data = dict.fromkeys(range(20_000))
    work = reading(ident(data))
    next(work)
    del data[5]
    with pytest.raises(RuntimeError, match="was changed while it was read"):
        whole(work)


def test_large_and_small_containers_are_read_alike():
    """The slots of a large container, and what it holds, are those of a small one."""
    shared = [1, 2]
    for size in (3, 1_000):
        members = [*range(size), ident(shared), [ident(5)], shared, {"k": shared}]
        read_here = read([members, ident(*members[-2:-1])])
        assert Structure(read_here.key).literals == len(read_here.data)
        assert cs.run(members) == [*range(size), shared, [5], shared, {"k": shared}]
        assert cs.run(members)[-2] is shared
        assert cs.run({"all": members, "n": total(*members)})["n"] == size + 4


# What is kept


def test_the_cache_is_bounded_in_slots(inside, use_vm):
    """`plan_cache_slots` bounds all structures together; one that has more is not kept."""

    async def main() -> None:
        engine = cs.Engine(plan_cache_slots=100)
        kept = []
        for length in range(10, 40):
            await engine.run(chain(length), use_vm=use_vm)
            kept.append(weakref.ref(engine.services.plans.load(chain(length))[0]))
        await engine.run(chain(101), use_vm=use_vm)
        gc.collect()
        alive = [structure() for structure in kept]
        assert 0 < sum(len(each.slots) for each in alive if each is not None) <= 100
        statistics = engine.statistics()
        assert statistics.plans == sum(each is not None for each in alive)
        assert statistics.plan_misses == statistics.plans + statistics.plan_evictions

    inside(main)


@pytest.mark.parametrize("given", [0, -1, True, 1.5, "many"])
def test_plan_cache_slots_is_a_whole_number_above_0(given):
    """What is no bound is refused."""
    with pytest.raises(ValueError, match="plan_cache_slots"):
        cs.Engine(plan_cache_slots=given)


def test_tasks_made_for_a_request_go_with_it(inside, use_vm):
    """A structure goes when nobody else holds its newest Task; others stay (section 12)."""

    async def main() -> None:
        engine = cs.Engine()
        await engine.run(chain(3), use_vm=use_vm)
        gone = []
        for n in range(5):
            made = cs.task(lambda x, n=n: x + n, name=f"made{n}")
            assert await engine.run(made(ident(made(1))), use_vm=use_vm) == 1 + 2 * n
            assert await engine.run(made(ident(made(2))), use_vm=use_vm) == 2 + 2 * n
            gone.append(weakref.ref(made))
            del made
        gc.collect()
        assert [task() for task in gone] == [None] * 5
        statistics = engine.statistics()
        assert (statistics.plans, statistics.plan_evictions) == (1, 5)
        assert await engine.run(chain(3), use_vm=use_vm) == 1
        assert engine.statistics().plan_hits == 6

    inside(main)


def test_an_engine_takes_its_structures_along(inside, use_vm):
    """Tasks of the program keep nothing of an engine that is used no more."""

    async def main() -> Any:
        engine = cs.Engine()
        await engine.run(chain(4), use_vm=use_vm)
        return weakref.ref(engine.services.plans.load(chain(4))[0])

    structure = inside(main)
    gc.collect()
    assert structure() is None
    assert not any(each.kept is not None and each.kept() is None for each in ident.structures)


def test_strategies_leave_each_others_work_alone(inside):
    """Many routines of a structure cost the graph strategy nothing: the solver is asked once."""
    asked = 0

    class Counting:
        def resolve(self, graph: cs.Graph) -> cs.ExecutionPlan:
            nonlocal asked
            asked += 1
            return NativeSolver().resolve(graph)

    names = [f"p{k}" for k in range(9)]
    calls: Any = iter(())

    def down(p0=0, p1=0, p2=0, p3=0, p4=0, p5=0, p6=0, p7=0, p8=0):  # type: ignore[no-untyped-def]
        call = next(calls, None)
        if call is None:
            return "down"
        return cs.TailCall(kwargs={name: 1 for k, name in enumerate(names) if call >> k & 1})

    many = cs.task(down)

    async def main() -> None:
        nonlocal calls
        engine = cs.Engine(solver=Counting())
        target = many(*[ident(k) for k in range(9)])
        for use_vm, count in ((False, 1), (True, 400), (False, 1)):
            calls = iter(range(1, count))
            assert await engine.run(target, use_vm=use_vm) == "down"
        structure, _ = engine.services.plans.load(target)
        assert len(structure.programs) <= programs.MOST_VARIANTS + 3 * len(structure.slots)

    inside(main)
    assert asked == 1


# The graph


def test_jumps_lead_from_loops_to_their_routes():
    """`graph.jumps` are edges of kind "jump"; solvers need not order them (section 15)."""

    @cs.task
    def a(x: Any = 0) -> Any:
        return x

    first, second = a(), a()
    chosen = cs.Router(selector=ident("k"), routes={"k": second, "m": 5}, default=first)
    routes = {"again": first, "router": chosen, "exit": None, "twice": first}
    cs.bind(first, cs.select_jump(routes))
    cs.bind(second, cs.select_jump({"map": a.map(x=[1]), "exit": None}))
    graph = cs.build_graph([first]).graph
    assert [node.id for node in graph.nodes] == ["a#0"]
    assert graph.edges == ()
    assert [(e.source.id, e.target.id, e.kind, e.argument) for e in graph.jumps] == [
        ("a#0", "a#0", "jump", None),
        ("a#0", "a#2", "jump", None),
        ("a#2", "a#3", "jump", None),
    ]
    assert cs.build_graph(ident(1)).graph.jumps == ()
