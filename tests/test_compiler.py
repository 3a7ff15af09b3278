"""Section 13: what a Blueprint is, and how the virtual machine executes one."""

from __future__ import annotations

import operator
import pickle
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import cascade as cs
from cascade.vm import isa

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
    blueprint, data = cs.BlueprintBuilder().build(plus(1))
    with pytest.raises(ValueError, match="2 literals, but data holds 1"):
        execute(inside, blueprint, data[:1])


def test_params_are_given_to_the_machine(inside: Callable[..., Any]) -> None:
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


def test_a_pure_node_of_a_loop_is_demanded_outside() -> None:
    """Loop-invariant code motion: the iteration reads what the evaluation around it computes."""
    square = cs.task(lambda x: x * x, name="square", pure=True)
    node = count(0, square(2))
    cs.bind(node, cs.select_jump({"again": node, "done": None}))
    main, iteration = cs.BlueprintBuilder().build(node)[0].routines
    assert [row.mnemonic for row in main.code] == ["call", "loop", "return"]
    assert [row.mnemonic for row in iteration.code] == ["shared", "call", "return"]
    assert isinstance(iteration.code[0], isa.Shared)


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


def test_the_vm_records_nothing(inside: Callable[..., Any]) -> None:
    """A `state_backend` is of the graph strategy."""

    async def main() -> None:
        await cs.Engine(state_backend=cs.InMemoryStateBackend()).run(plus(1), use_vm=True)

    with pytest.raises(ValueError, match="state_backend"):
        inside(main)
