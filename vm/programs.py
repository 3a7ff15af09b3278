"""The programs of one run: where routines are found, compiled, verified, linked, and fused.

A structure keeps its programs, so that a run finds what another has linked. What a run adds is its
own: guards that hear of its constraints and subscribers, whether its code may run at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from cascade.events import TaskSkipped
from cascade.graph.slices import Work, together, whole
from cascade.graph.structure import Ref, Slot, Structure
from cascade.vm.blueprint import Blueprint, Given, Key, Routine
from cascade.vm.frame import Program
from cascade.vm.fusable import NotFusable
from cascade.vm.fused import FusedRoutine, Linked, fuse
from cascade.vm.verify import verify_routine
from cascade.vm.watch import MOST_KEPT, Watch, guards
from cascade.workflow.task import VARARGS

if TYPE_CHECKING:
    from cascade.core.run import Run

NOTHING_GIVEN: Final[Given] = frozenset()
MOST_VARIANTS: Final = 256  # of the routines of one structure: by the arguments that are given


class Programs:
    """The code that one run executes; that of a `blueprint` is not compiled anew."""

    verifies: ClassVar[bool] = False  # what the engine compiles for itself: tests do

    def __init__(self, run: Run, blueprint: Blueprint | None = None) -> None:
        self._run = run
        self._routines: dict[Key, Routine] = {}
        self._structure: Structure | None = None
        self._expressions: dict[Slot, Given] = {}
        self._linked: dict[Program, Linked] = {}
        self._watch: Watch | None = None
        if blueprint is not None:
            self._structure = blueprint.structure
            self._routines = {routine.key: routine for routine in blueprint.routines}

    def close(self) -> None:
        """The run is over."""
        if self._watch is not None:
            self._watch.close()
        self._linked.clear()

    # By which arguments of its root are given, an evaluation has code of its own.

    def found(
        self, structure: Structure, root: Ref, is_body: bool, overrides: Mapping[Any, Any]
    ) -> Program | None:
        """The code for an evaluation that starts at `root` with these arguments, if there is."""
        program: Program | None = structure.programs.get(
            self._key(structure, root, is_body, overrides)
        )
        return program

    def program(
        self, structure: Structure, root: Ref, is_body: bool, overrides: Mapping[Any, Any]
    ) -> Program:
        """The code for such an evaluation, compiled at once if there is none."""
        key = self._key(structure, root, is_body, overrides)
        program: Program | None = structure.programs.get(key)
        return whole(self._making(structure, key)) if program is None else program

    def preparing(
        self, structure: Structure, root: Ref, is_body: bool, overrides: Mapping[Any, Any]
    ) -> Work[None]:
        """Compile the code for such an evaluation, in slices."""
        yield from self._making(structure, self._key(structure, root, is_body, overrides))

    def _key(
        self, structure: Structure, root: Ref, is_body: bool, overrides: Mapping[Any, Any]
    ) -> Key:
        given = NOTHING_GIVEN
        if overrides:
            slot = structure.slots[root]
            names = self._expressions.get(slot)
            if names is None:
                if len(self._expressions) >= MOST_KEPT:
                    self._expressions.clear()
                names = self._expressions[slot] = _names_of_expressions(slot)
            given = names.intersection(overrides) if names else names
        return root, is_body, given

    def _making(self, structure: Structure, key: Key) -> Work[Program]:
        program: Program | None = structure.programs.get(key)
        if program is not None:
            return program
        made: Program = yield from together(
            structure.making, key, lambda: self._make(structure, key)
        )
        return made

    def _make(self, structure: Structure, key: Key) -> Work[Program]:
        if structure is self._structure and key in self._routines:
            routine = self._routines[key]
        else:
            routine = yield from self._run.services.compiling(structure, *key)
            if self.verifies:
                verify_routine(Blueprint(structure, (routine,)), routine)
        program = yield from Program.linked(structure, routine)
        plans, programs = self._run.services.plans, structure.programs
        if len(programs) >= MOST_VARIANTS + 3 * len(structure.slots):
            plans.grew(structure, -sum(other.size for other in programs.values()))
            programs.clear()
        programs[key] = program
        plans.grew(structure, program.size)
        return program

    # The fused tier

    @property
    def watch(self) -> Watch:
        """What this run has to hear of while it runs such code, made when there is some."""
        if self._watch is None:
            self._watch = Watch(self._run)
        return self._watch

    def is_fused(self, program: Program, overrides: Mapping[Any, Any]) -> bool:
        """Whether an iteration is carried out by fused code, which is made when it is hot."""
        services = self._run.services
        fused = program.fused
        if fused is None:
            program.heat += len(program.steps)
            if program.heat >= services.fused_tier.hot_after and services.executor is None:
                fused = program.fused = _fused_or_reason(program)
        return isinstance(fused, FusedRoutine) and fused.accepts(overrides) and self.may_fuse(fused)

    def may_fuse(self, fused: FusedRoutine) -> bool:
        """Whether fused code may run, with its calls wrapped if they have to be."""
        return not fused.features.may_skip or not self._run.bus.listens(TaskSkipped)

    def may_run(self, task_names: tuple[str, ...]) -> bool:
        """Whether tasks of these names may be called without asking anybody."""
        return self._run.services.executor is None and self.watch.allows(task_names)

    def linked(self, program: Program) -> Linked:
        """The fused code of a program, with guards of this run."""
        linked = self._linked.get(program)
        if linked is None:
            assert isinstance(program.fused, FusedRoutine)
            if len(self._linked) >= MOST_KEPT:
                self._linked.clear()
            linked = self._linked[program] = guards(self.watch, program.fused)
        return linked


def _names_of_expressions(slot: Slot) -> Given:
    """The parameters of a task whose arguments are expressions."""
    names = slot.task.parameters.positional
    found: list[Any] = [
        names[position] if position < len(names) else VARARGS
        for position, ref in enumerate(slot.args)
        if ref >= 0
    ]
    found += [name for name, ref in slot.kwargs if ref >= 0]
    return frozenset(found)


def _fused_or_reason(program: Program) -> FusedRoutine | str:
    try:
        return fuse(program.plan.structure, program.routine)
    except NotFusable as reason:
        return str(reason)
