"""`BlueprintBuilder`, from expressions to Blueprints, and `disassemble`, which shows them."""

from __future__ import annotations

from typing import Any

from cascade.compiler.reach import Reach
from cascade.compiler.routine import NOTHING_GIVEN, RoutineCompiler, routes_of
from cascade.graph.reading import read
from cascade.graph.slices import Work, whole
from cascade.graph.structure import Ref, Structure
from cascade.vm.blueprint import Blueprint, Given, Routine
from cascade.vm.disassemble import listing
from cascade.vm.fused import fused_listing
from cascade.workflow.expressions import check_target


class BlueprintBuilder:
    """Compiles targets: structures to code, in time and memory linear in the number of nodes.

    That holds for all routines of a structure together, also if they are asked for one by one.
    """

    def build(self, target: Any) -> tuple[Blueprint, tuple[Any, ...]]:
        """The Blueprint of `target` and its data.

        It holds the routines that can be known without running it: of the target, and of every
        route of its loops. Raises `CycleError` for expressions that depend on each other.

        >>> import cascade as cs
        >>> @cs.task
        ... def add(x, y):
        ...     return x + y
        >>> blueprint, data = cs.BlueprintBuilder().build(add(add(1, 2), 3))
        >>> blueprint, data
        (<Blueprint of 1 routines, 3 instructions>, (1, 2, 3))
        """
        check_target(target)
        reading = read(target)
        structure = Structure(reading.key)
        routines = [self.routine(structure, structure.root, False)]
        if structure.root >= 0:
            routes = routes_of(structure, structure.root)
            routines += [self.routine(structure, root, True) for root in routes]
        return Blueprint(structure, tuple(routines)), reading.data

    def routine(
        self,
        structure: Structure,
        root: Ref,
        is_body: bool,
        given: Given = NOTHING_GIVEN,
    ) -> Routine:
        """The code of one kind of evaluation of a part of `structure`."""
        return whole(self.compiling(structure, root, is_body, given))

    def compiling(
        self, structure: Structure, root: Ref, is_body: bool, given: Given
    ) -> Work[Routine]:
        """The same, in slices."""
        reach = yield from Reach.found(structure)
        return (yield from RoutineCompiler(reach, root, is_body, given).compiling())


def disassemble(target: Any, *, fused: bool = False) -> str:
    """The listing of the Blueprint of `target`: the same text for the same program.

    With `fused`, the Python code that stands for each routine once it is hot, or why there is none.

    >>> import cascade as cs
    >>> @cs.task
    ... def add(x, y):
    ...     return x + y
    >>> print(cs.disassemble(add(add(1, 2), 3)))
    add: 1 register
       0  @0  call    r0, t0, (k0, k1)              ; add#0  1, 2
       1  @0  call    r0, t1, (r0, k2)              ; add#1  3
       2  @0  return  r0
    """
    blueprint, data = BlueprintBuilder().build(target)
    return fused_listing(blueprint) if fused else listing(blueprint, data)
