"""Section 13: a Blueprint that breaks a rule is not run, and the error shows the row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import cascade as cs
from cascade.vm import Blueprint, Routine, isa, verify


@cs.task
def add(x: Any, y: Any = 1) -> Any:
    return x + y


@cs.task
async def later(x: Any) -> Any:
    return x


@cs.task
def step(n: Any) -> Any:
    return cs.Jump("done", n)


def target() -> Any:
    """Rows: 0 add, 1 branch, 2 add, 3 add, 4 choose, 5 take, 6 take, 7 later, 8 list, 9 return."""
    first = add(1)
    guarded = add(add(first)).run_if(first)
    return [guarded, cs.Router(first, {1: first, 2: 5}), later(cs.Param("n", default=1))]


def built(make: Callable[[], Any] = target) -> Blueprint:
    return cs.BlueprintBuilder().build(make())[0]


def row_of(routine: Routine, kind: type[isa.Instruction]) -> int:
    return next(pc for pc, row in enumerate(routine.code) if isinstance(row, kind))


def changed(kind: type[isa.Instruction], **operands: Any) -> Blueprint:
    """The Blueprint with operands of the first row of a kind replaced."""
    blueprint = built()
    routine = blueprint.routines[0]
    code = list(routine.code)
    pc = row_of(routine, kind)
    code[pc] = replace(code[pc], **operands)  # type: ignore[type-var]
    return Blueprint(blueprint.structure, (replace(routine, code=tuple(code)),))


def with_routine(**fields: Any) -> Blueprint:
    blueprint = built()
    return Blueprint(blueprint.structure, (replace(blueprint.routines[0], **fields),))


def test_what_the_compiler_makes_is_right() -> None:
    """A Blueprint as the compiler makes it breaks no rule."""
    verify(built())


@pytest.mark.parametrize(
    ("kind", "operands", "said"),
    [
        (isa.Call, {"args": (99, ~0)}, "r99 does not exist"),
        (isa.Call, {"dst": 99}, "r99 does not exist"),
        (isa.Call, {"dst": -1}, "r-1 does not exist"),
        (isa.Call, {"args": (~99, ~1)}, "k99 does not exist"),
        (isa.Call, {"site": 99}, "t99 does not exist"),
        (isa.Call, {"at": 99}, "region @99 does not exist"),
        (isa.Branch, {"then": 99}, "region @99 does not exist"),
        (isa.Branch, {"then": 0}, "open from the start"),
        (isa.Take, {"at": 0}, "nothing stands in region"),
        (isa.Call, {"args": (0, ~1)}, "no row above writes it"),
        (isa.Return, {"value": 98}, "r98 does not exist"),
        (isa.Return, {"at": 1}, "must be a return in region 0"),
        (isa.List, {"site": 0}, "works on a list, but t0 is a task"),
        (isa.Call, {"args": (~0,)}, "the site has 2 args, the row 1"),
        (isa.Call, {"args": (~1, ~0)}, "stands where the site has"),
        (isa.Call, {"args": (None, ~1)}, "nobody gives the argument x"),
        (isa.Call, {"kwargs": (("z", ~0),)}, "the names of"),
        (isa.List, {"members": ()}, "the site has 3 members"),
        (isa.Choose, {"routes": ()}, "are not the ones that are chosen from"),
        (isa.Param, {"declared": 0}, "is declared by k"),
    ],
)
def test_a_rule_for_a_row(kind: type[isa.Instruction], operands: dict[str, Any], said: str) -> None:
    """Each rule refuses the row that breaks it."""
    with pytest.raises(cs.VerifyError, match=said):
        verify(changed(kind, **operands))


def test_a_region_does_not_open_itself() -> None:
    """A row inside of a region cannot be the one that opens it."""
    blueprint = built()
    routine = blueprint.routines[0]
    take = routine.code[row_of(routine, isa.Take)]
    code = (*routine.code[:-1], isa.Open(take.at, take.at), routine.code[-1])
    with pytest.raises(cs.VerifyError, match="which it opens itself"):
        verify(with_routine(code=code))


def test_a_task_is_carried_out_as_its_mode_says() -> None:
    """A task of one mode cannot be executed by another mode's instruction."""
    blueprint = built()
    routine = blueprint.routines[0]
    pc = row_of(routine, isa.Await)
    row = routine.code[pc]
    assert isinstance(row, isa.Await)
    other = isa.Call(row.at, row.dst, row.site, row.args, row.kwargs, row.after, row.amounts)
    with pytest.raises(cs.VerifyError, match="carried out by await, not by call"):
        verify(with_routine(code=(*routine.code[:pc], other, *routine.code[pc + 1 :])))


def test_a_region_that_nothing_opens_is_refused() -> None:
    """Every region has a row that opens it."""
    routine = built().routines[0]
    with pytest.raises(cs.VerifyError, match="nothing opens region"):
        verify(with_routine(regions=routine.regions + 1))


@pytest.mark.parametrize("code", [(), built().routines[0].code[:-1]])
def test_the_last_row_is_a_return(code: tuple[isa.Instruction, ...]) -> None:
    """A routine cannot run past its end."""
    with pytest.raises(cs.VerifyError, match="must be a return"):
        verify(with_routine(code=code))


def test_return_is_the_last_row() -> None:
    """A return cannot stand before other rows."""
    code = built().routines[0].code
    with pytest.raises(cs.VerifyError, match="return must be the last row"):
        verify(with_routine(code=(*code, code[-1])))


def test_an_export_has_a_row() -> None:
    """What a routine exports is a value that one of its rows gives."""
    with pytest.raises(cs.VerifyError, match="no row gives its value"):
        verify(with_routine(exports=(99,)))


def shared() -> Any:
    base = add(1)
    return [add(base), add(base)]


def test_a_register_is_not_taken_from_another_reader() -> None:
    """A value that two rows read may not be overwritten by one of them."""
    blueprint = built(shared)
    routine = blueprint.routines[0]
    first, second, third, whole, end = routine.code
    assert isinstance(first, isa.Call)
    assert isinstance(second, isa.Call)
    assert isinstance(third, isa.Call)
    assert isinstance(whole, isa.List)
    taken = replace(second, dst=first.dst)
    code = (first, third, taken, replace(whole, members=(first.dst, third.dst)), end)
    with pytest.raises(cs.VerifyError, match="takes over"):
        verify(Blueprint(blueprint.structure, (replace(routine, code=code),)))


def test_a_register_that_iterations_may_ask_for_is_not_taken() -> None:
    """They would find the value of another."""
    blueprint = built(lambda: add(add(1)))
    routine = blueprint.routines[0]
    assert [row.dst for row in routine.code if isinstance(row, isa.Call)] == [0, 0]
    exporting = replace(routine, exports=(0,))
    with pytest.raises(cs.VerifyError, match="takes over r0, which iterations may demand"):
        verify(Blueprint(blueprint.structure, (exporting,)))


def test_a_broken_blueprint_has_a_listing_too() -> None:
    """What is wrong is shown as far as it can be."""
    assert "literal: 6 registers\n" in str(with_routine(root=99, registers=6))

    def nested() -> Any:
        inner = step(add(5))
        cs.bind(inner, cs.select_jump({"again": inner, "done": None}))
        outer = step(inner)
        return [cs.bind(outer, cs.select_jump({"again": outer, "done": None})), later(1)]

    blueprint = built(nested)
    body = next(routine for routine in blueprint.routines if routine.is_body)
    elsewhere = next(slot.index for slot in blueprint.structure.slots if slot.name == "later")
    code = (isa.Await(0, 0, elsewhere, (~0,), (), (), ()), *body.code)
    assert "; later\n" in str(Blueprint(blueprint.structure, (replace(body, code=code),)))


def test_a_value_has_one_register() -> None:
    """No two rows write one value to different registers."""
    blueprint = built(lambda: add(1).run_if(False, default=2))
    routine = blueprint.routines[0]
    code = list(routine.code)
    pc = row_of(routine, isa.Default)
    code[pc] = replace(code[pc], dst=1)  # type: ignore[type-var]
    broken = replace(routine, code=tuple(code), registers=2)
    with pytest.raises(cs.VerifyError, match="is written to r0 and here"):
        verify(Blueprint(blueprint.structure, (broken,)))


def test_what_belongs_to_an_iteration_stands_in_one() -> None:
    """Instructions of loop bodies cannot stand in the routine of the target."""
    blueprint = built(lambda: add(1))
    routine = blueprint.routines[0]
    code = (isa.Outer(0, 0, 0), *routine.code)
    with pytest.raises(cs.VerifyError, match="belongs to an iteration"):
        verify(Blueprint(blueprint.structure, (replace(routine, code=code),)))


def test_what_is_no_instruction_is_refused() -> None:
    """A row of a class outside the instruction table is refused."""

    class Odd(isa.Instruction, is_abstract=True):
        __slots__ = ("at",)

        def __init__(self) -> None:
            self.at = 0

    with pytest.raises(cs.VerifyError, match="is no instruction"):
        verify(with_routine(code=(Odd(), *built().routines[0].code)))


def test_the_first_routine_is_that_of_the_target() -> None:
    """A Blueprint begins with the routine of its whole target, and has it once."""
    blueprint = built()
    with pytest.raises(cs.VerifyError, match="first routine"):
        verify(Blueprint(blueprint.structure, ()))
    with pytest.raises(cs.VerifyError, match="first routine"):
        verify(with_routine(is_body=True))
    with pytest.raises(cs.VerifyError, match="first routine"):
        verify(with_routine(root=0))
    with pytest.raises(cs.VerifyError, match="same evaluation"):
        verify(Blueprint(blueprint.structure, (blueprint.routines[0],) * 2))


def test_the_error_shows_the_listing_with_the_row() -> None:
    """The row is marked in the listing."""
    with pytest.raises(cs.VerifyError, match=r"(?m)^> +\d+ +@0") as caught:
        verify(changed(isa.Call, dst=99))
    assert "return" in str(caught.value)


def test_a_broken_blueprint_is_not_run(inside: Callable[..., Any]) -> None:
    """`VirtualMachine.execute` verifies before anything runs."""
    ran = []
    touch = cs.task(lambda: ran.append(1), name="touch")
    blueprint, data = cs.BlueprintBuilder().build(touch())
    routine = replace(blueprint.routines[0], registers=0)

    async def main() -> None:
        await cs.VirtualMachine().execute(Blueprint(blueprint.structure, (routine,)), data)

    with pytest.raises(cs.VerifyError):
        inside(main)
    assert not ran
