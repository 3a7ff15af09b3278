"""Section 13: what a Blueprint is, and how the virtual machine executes one."""

from __future__ import annotations

import operator
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

import cascade as cs
from cascade.graph.reading import read
from cascade.graph.structure import Structure
from cascade.vm import isa, programs
from cascade.vm.verify import verify_routine

add = cs.task(operator.add, name="add")


@cs.task
def plus(x: Any, y: Any = 1) -> Any:
    return x + y


@cs.task
def count(n: Any, x: Any = 0) -> Any:
    return cs.Jump("again", n + 1) if n < 5 else cs.Jump("done", (n, x))


def loop(start: Any = 0) -> Any:
    node = count(start, plus(1))
    return cs.bind(node, cs.select_jump({"again": node, "done": None}))


def execute(inside: Callable[..., Any], blueprint: cs.Blueprint, data: Any, **options: Any) -> Any:
    async def main() -> Any:
        return await cs.VirtualMachine().execute(blueprint, data, **options)

    return inside(main)


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda: 7, 7),
        (lambda: plus(plus(1), 2), 4),
        (lambda: [plus(1), {"k": plus(2)}], [2, {"k": 3}]),
        (loop, (5, 2)),
        (lambda: loop(plus(1)), (5, 2)),
        (lambda: cs.Router(plus(0), {1: plus(5), 2: 0}), 6),
    ],
)
def test_a_blueprint_is_executed_with_its_data(
    inside: Callable[..., Any], make: Callable[[], Any], value: Any
) -> None:
    """`build` gives what `execute` takes."""
    assert execute(inside, *cs.BlueprintBuilder().build(make())) == value


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: plus(plus(1), plus(plus(2), plus(3))), "plus"),  # more nodes than literals
        (lambda: [plus(1), {"k": plus(plus(2))}], "list"),
        (lambda: cs.Param("n", default=3, type=int), "Param"),
        (lambda: 7, "int"),
    ],
)
def test_a_blueprint_knows_what_its_target_is_called(
    inside: Callable[..., Any], make: Callable[[], Any], name: str
) -> None:
    """RunStarted names the target's task, or the type of a target that is none."""
    started: list[str] = []
    engine = cs.Engine()
    engine.bus.subscribe(cs.RunStarted, lambda event: started.append(event.target))
    blueprint, data = cs.BlueprintBuilder().build(make())

    async def main() -> None:
        await cs.VirtualMachine(engine).execute(blueprint, data)
        await engine.run(make(), use_vm=True)

    inside(main)
    assert started == [name, name]


def test_one_blueprint_serves_all_data_of_its_structure(inside: Callable[..., Any]) -> None:
    """Literals are no part of a Blueprint."""
    blueprint, data = cs.BlueprintBuilder().build(plus(plus(1), 2))
    other, more = cs.BlueprintBuilder().build(plus(plus(10), 20))
    assert blueprint == other
    assert hash(blueprint) == hash(other)
    assert execute(inside, blueprint, more) == 31
    assert execute(inside, blueprint, data) == 4
    assert blueprint != cs.BlueprintBuilder().build(plus(1))[0]
    assert blueprint != "a Blueprint"


def test_other_than_its_literals_are_refused(inside: Callable[..., Any]) -> None:
    """A Blueprint runs with as many literals as it was built with, else an error gives both
    counts."""
    blueprint, data = cs.BlueprintBuilder().build(plus(1))
    with pytest.raises(ValueError, match="2 literals, but data holds 1"):
        execute(inside, blueprint, data[:1])


def test_params_are_given_to_the_machine(inside: Callable[..., Any]) -> None:
    """A Blueprint gets its params when it is executed; without them the usual error is raised."""
    blueprint, data = cs.BlueprintBuilder().build(plus(cs.Param("n", type=int)))
    assert execute(inside, blueprint, data, params={"n": "4"}) == 5
    with pytest.raises(cs.MissingParameterError):
        execute(inside, blueprint, data)


@pytest.mark.parametrize("make", [lambda: plus(plus(1)), loop, lambda: plus(1).with_retry(3)])
def test_a_blueprint_can_be_pickled_as_its_tasks_can(
    inside: Callable[..., Any], make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes back is equal, and runs."""
    monkeypatch.setitem(__import__("sys").modules, __name__, _this_module())
    blueprint, data = cs.BlueprintBuilder().build(make())
    again = pickle.loads(pickle.dumps(blueprint))
    assert again == blueprint
    assert str(again) == str(blueprint)
    assert execute(inside, again, data) == execute(inside, blueprint, data)


def _this_module() -> Any:
    import types

    module = types.ModuleType(__name__)
    module.__dict__.update(globals())
    return module


def test_a_listing_is_free_of_addresses() -> None:
    """Literals that have no text of their own are named by type."""
    text = cs.disassemble([plus(object()), plus(print, lambda: 1)])
    assert "0x" not in text
    assert "<object>" in text
    assert text == cs.disassemble([plus(object()), plus(print, lambda: 1)])


def registers(target: Any) -> int:
    return cs.BlueprintBuilder().build(target)[0].routines[0].registers


def test_registers_are_used_again() -> None:
    """A chain needs one register, a tree one for each value that is alive."""
    chain = plus(0)
    for _ in range(1000):
        chain = plus(chain)
    assert registers(chain) == 1
    assert registers(plus(plus(1), plus(2))) == 2


def test_an_iteration_waits_for_the_invariant_not_for_its_argument(
    run: Callable[..., Any],
) -> None:
    """What iterations demand of the evaluation around has a register that held nothing before."""

    @cs.task(pure=True)
    async def slow(x: Any) -> Any:
        await anyio.sleep(1)
        return [x]

    @cs.task
    def jump() -> Any:
        return cs.Jump("on")

    @cs.task
    def same(x: Any) -> Any:
        return x

    shared = slow(plus(cs.Param("n", default=3)))
    looped = cs.bind(jump(), cs.select_jump({"on": same(slow(cs.Param("n", default=3)))}))
    pure = slow(cs.Param("n", default=3))
    other = cs.bind(jump(), cs.select_jump({"on": same(pure)}))
    assert run([shared, looped, pure, other]) == [[4], [3], [3], [3]]


def test_code_is_linear_in_the_number_of_nodes() -> None:
    """One row for each call and one return, however the nodes are shared."""
    layer = [plus(0), plus(1)]
    for _ in range(500):
        layer = [plus(*layer), plus(*layer)]
    code = cs.BlueprintBuilder().build(layer)[0].routines[0].code
    assert len(code) == 2 * 501 + 2


class CountedSlots(tuple[Any, ...]):
    """Slots that count how often one is looked at."""

    looks = 0

    def __getitem__(self, index: Any) -> Any:
        CountedSlots.looks += 1
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[Any]:
        CountedSlots.looks += len(self)
        return super().__iter__()


def again(node: Any, *others: Any) -> Any:
    """The node as a loop with a selector of its own."""
    routes = {"again": node, "done": None, **{f"to {n}": o for n, o in enumerate(others)}}
    return cs.bind(node, cs.select_jump(routes))


def nested_loops(n: int) -> Any:
    node: Any = 0
    for _ in range(n):
        node = again(count(0, node))
    return node


def chained_loops(n: int) -> Any:
    node: Any = 0
    for _ in range(n):
        node = again(count(node))
    return node


def listed_loops(n: int) -> Any:
    """What each loop needs comes up before the loop, so that no loop has a block of its own."""
    loops: list[Any] = [0]
    for _ in range(n):
        loops.append(again(count(0, loops[-1])))
    return loops


def loops_with_predecessors(n: int) -> Any:
    node: Any = 0
    for _ in range(n):
        node = again(count(0, node).after(plus(0)), count(1).after(plus(1)))
    return node


def loops_with_invariants(n: int) -> Any:
    square = cs.task(lambda x: x * x, name="square", pure=True)
    node: Any = 0
    for k in range(n):
        node = again(count(square(k), node))
    return node


def loops_with_resources(n: int) -> Any:
    node: Any = 0
    for k in range(n):
        node = again(count(cs.inject(f"resource {k}"), node))
    return node


def loops_of_one_selector(n: int) -> Any:
    nodes: list[Any] = []
    for _ in range(n):
        nodes.append(count(0, nodes[-1] if nodes else 0))
    selector = cs.select_jump(dict(enumerate(nodes)))
    return [cs.bind(node, selector) for node in nodes][-1]


def loops_that_go_on_to_the_next(n: int) -> Any:
    nodes = [count(0, k) for k in range(n)]
    pairs = zip(nodes, [*nodes[1:], None], strict=True)
    return [cs.bind(node, cs.select_jump({"next": following})) for node, following in pairs]


def work_of_compiling(target: Any) -> tuple[int, int]:
    """Slots looked at, and rows made, if all routines of `target` are asked for one by one."""
    structure = Structure(read(target).key)
    structure.slots = CountedSlots(structure.slots)
    engine = cs.Engine()
    CountedSlots.looks = 0
    bodies = [slot.index for slot in list(structure.slots) if slot.bound is not None]
    routines = [engine.services.compile(structure, structure.root, False, frozenset())]
    routines += [engine.services.compile(structure, index, True, frozenset()) for index in bodies]
    for routine in routines:
        verify_routine(cs.Blueprint(structure, (routine,)), routine)
    return CountedSlots.looks, sum(len(routine.code) for routine in routines)


@pytest.mark.parametrize(
    "make",
    [
        nested_loops,
        chained_loops,
        listed_loops,
        loops_with_predecessors,
        loops_with_invariants,
        loops_with_resources,
        loops_of_one_selector,
        loops_that_go_on_to_the_next,
    ],
)
def test_compiling_loops_in_loops_is_linear(make: Callable[[int], Any]) -> None:
    """The routine of an iteration costs what it holds, not what could be reached from it."""
    looks, rows = work_of_compiling(make(50))
    more_looks, more_rows = work_of_compiling(make(200))
    assert more_rows <= 4 * rows
    assert more_looks <= 4 * looks + 100
    assert looks <= 50 * 100


def test_listing_loops_in_loops_is_linear() -> None:
    """So is naming the nodes of each routine."""

    def looks(n: int) -> int:
        blueprint, _ = cs.BlueprintBuilder().build(nested_loops(n))
        blueprint.structure.slots = CountedSlots(blueprint.structure.slots)
        CountedSlots.looks = 0
        assert str(blueprint).count("iteration of count") == n
        return CountedSlots.looks

    assert looks(200) <= 4 * looks(50) + 100


def test_an_iteration_may_be_that_in_which_its_loop_stands(run: Callable[..., Any]) -> None:
    """The predecessors of a route are those of the evaluation around, an iteration of it too."""
    before = cs.task(lambda: None, name="before")
    up = cs.task(lambda: cs.Jump("up", {"x": 5}), name="up")
    inner = up()
    outer = plus(inner).after(before())
    cs.bind(inner, cs.select_jump({"up": outer}))
    assert run(cs.bind(outer, cs.select_jump({"again": outer}))) == 7


@pytest.mark.parametrize("first", ["shared", "loop"])
def test_code_stands_in_plan_order_of_its_root(first: str) -> None:
    """A loop in an argument may lead to what comes later, which then comes before."""
    shared = plus(0)
    inner = again(count(0, plus(shared, 9)))
    body = count(inner, plus(shared, 2)) if first == "loop" else count(plus(shared, 2), inner)
    # Met before, from elsewhere, so that the body's slots do not stand together.
    target = [inner, plus(shared, 3), again(body)]
    blueprint, _ = cs.BlueprintBuilder().build(target)
    routine = next(r for r in blueprint.routines if r.is_body and len(r.code) > 4)
    sites = [row.site for row in routine.code if isinstance(row, isa.Producer)]
    order = list(blueprint.structure.order_from(routine.root).needed)
    assert sites == sorted(sites, key=order.index)
    assert len(sites) == 4


def test_a_pure_node_of_a_loop_is_demanded_outside() -> None:
    """Loop-invariant code motion: the iteration reads what the evaluation around it computes."""
    square = cs.task(lambda x: x * x, name="square", pure=True)
    node = count(0, square(2))
    cs.bind(node, cs.select_jump({"again": node, "done": None}))
    main, iteration = cs.BlueprintBuilder().build(node)[0].routines
    assert [row.mnemonic for row in main.code] == ["call", "loop", "return"]
    assert [row.mnemonic for row in iteration.code] == ["shared", "call", "return"]
    assert isinstance(iteration.code[0], isa.Shared)


def test_the_condition_of_an_invariant_is_no_matter_of_the_iteration(
    run: Callable[..., Any],
) -> None:
    """An iteration holds nothing of what a pure node needs, guards included."""
    square = cs.task(lambda x: x * x, name="square", pure=True)
    guarded = square(3).run_if(cs.Param("go", default=1), default=square(2))
    assert run(again(count(5, guarded))) == (5, 9)
    node = again(count(5, square(3).run_if(cs.Param("go", default=1))))
    _, iteration = cs.BlueprintBuilder().build(node)[0].routines
    assert [row.mnemonic for row in iteration.code] == ["shared", "call", "return"]


def test_a_structure_is_compiled_once(inside: Callable[..., Any]) -> None:
    """Iterations, and later runs of the engine, take what is there."""

    async def main() -> cs.engine.EngineStatistics:
        engine = cs.Engine()
        for start in range(3):
            await engine.run(loop(start), use_vm=True)
        return engine.statistics()

    statistics = inside(main)
    assert statistics.compiled == 1
    assert statistics.plan_hits == 2
    assert (statistics.fused_entries, statistics.fused_exits) == (0, 0)


def test_routines_for_tail_calls_are_made_when_needed(inside: Callable[..., Any]) -> None:
    """A Blueprint need not hold the iterations that only a tail call leads to."""

    @cs.task
    def down(n: Any) -> Any:
        return cs.TailCall((n - 1,)) if n else "down"

    blueprint, data = cs.BlueprintBuilder().build(down(plus(3)))
    assert len(blueprint.routines) == 1
    assert execute(inside, blueprint, data) == "down"


def test_the_routines_of_a_structure_are_bounded(inside: Callable[..., Any]) -> None:
    """Tail calls may give any choice of the arguments, each of which has code of its own."""
    names = [f"p{k}" for k in range(9)]
    calls = iter(range(1, 400))

    def down(p0=0, p1=0, p2=0, p3=0, p4=0, p5=0, p6=0, p7=0, p8=0):  # type: ignore[no-untyped-def]
        call = next(calls, None)
        if call is None:
            return "down"
        return cs.TailCall(kwargs={name: 1 for k, name in enumerate(names) if call >> k & 1})

    async def main() -> int:
        engine = cs.Engine()
        target = cs.task(down)(*[plus(k) for k in range(9)])
        structure, _ = engine.services.plans.load(target)
        assert await engine.run(target, use_vm=True) == "down"
        return len(structure.programs)

    assert 0 < inside(main) <= programs.MOST_VARIANTS + 3 * 10


def test_the_representation_of_a_blueprint_counts() -> None:
    """It does not list."""
    assert repr(cs.BlueprintBuilder().build(loop())[0]) == (
        "<Blueprint of 2 routines, 5 instructions>"
    )


def test_the_vm_records_nothing(inside: Callable[..., Any]) -> None:
    """A `state_backend` is of the graph strategy."""

    async def main() -> None:
        await cs.Engine(state_backend=cs.InMemoryStateBackend()).run(plus(1), use_vm=True)

    with pytest.raises(ValueError, match="state_backend"):
        inside(main)
