"""The virtual machine: evaluations that execute the routines of Blueprints.

`Machine.fired` is the list of instructions about to be executed. Executing one fires others; calls
leave by way of the run, which carries them out in plan order, and come back as values. What needs
no scheduling is carried out without: straight rows at the start of a target, iterations of hot
loops, returned expressions of hot structures. Everything else about a run, evaluations, loops,
calls and resources is shared with the graph strategy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cascade.core.calls import Place, is_gone
from cascade.core.run import Run
from cascade.core.strategy import NO_OVERRIDES, Carrier
from cascade.graph.slices import Work
from cascade.graph.structure import Ref, Structure
from cascade.vm.blueprint import Blueprint
from cascade.vm.frame import Frame, FrameStrategy
from cascade.vm.hot import HotExpression, HotLoop
from cascade.vm.programs import Programs
from cascade.vm.straight_run import StraightRun


class VMExecutionStrategy:
    """Compiles a target to a Blueprint and has the virtual machine execute it."""

    async def execute(self, run: Run, target: Any, params: Mapping[str, Any]) -> Any:
        """The value of `target`, computed within `run`; errors in it come before anything runs."""
        return await Machine(run).execute(target, params)


class Machine(FrameStrategy):
    """What the evaluations of one run work through: instructions that fire."""

    def __init__(self, run: Run, blueprint: Blueprint | None = None) -> None:
        super().__init__(run)
        self._programs = Programs(run, blueprint)

    def evaluation(
        self,
        structure: Structure,
        root: Ref,
        data: tuple[Any, ...],
        trampoline: Carrier | None = None,
        around: Any = None,
        overrides: Mapping[str, Any] = NO_OVERRIDES,
        place: Place | None = None,
    ) -> Frame:
        """A new evaluation; an iteration if it has one `around`."""
        program = self._programs.program(structure, root, around is not None, overrides)
        return Frame(self, program, data, trampoline, around, overrides, place)

    def is_prepared(
        self, structure: Structure, root: Ref, is_body: bool, overrides: Mapping[Any, Any]
    ) -> bool:
        """Whether there is code for such an evaluation."""
        return self._programs.found(structure, root, is_body, overrides) is not None

    def preparing(
        self, structure: Structure, root: Ref, is_body: bool, overrides: Mapping[Any, Any]
    ) -> Work[None]:
        """Compile the code for such an evaluation."""
        return self._programs.preparing(structure, root, is_body, overrides)

    def close(self) -> None:
        """The run is over."""
        self._programs.close()
        self.fired.clear()
        super().close()

    # How evaluations begin

    def begin(self, frame: Frame) -> None:
        """Carry out its straight rows without scheduling if nobody has to be asked."""
        straight = frame.straight
        if straight is not None and self._programs.may_run(straight.task_names):
            self.run.enqueue(StraightRun(self, self._programs.watch, frame, straight))
            return
        fired = self.fired
        for pc in frame.program.first:
            fired.append((frame, pc))
        frame.begin_flows(0)

    def iterate(
        self, trampoline: Carrier, home: Any, root: int, overrides: Mapping[Any, Any]
    ) -> None:
        """Begin the next iteration of a loop: by fused code once it is hot, else interpreted."""
        structure, programs = home.structure, self._programs
        program = programs.found(structure, root, True, overrides)
        if program is None:
            self.prepare_then(
                structure,
                root,
                overrides,
                lambda _: self.iterate(trampoline, home, root, overrides),
            )
            return
        if programs.is_fused(program, overrides):
            loop = HotLoop(self, programs, trampoline, home, program, overrides)
            if loop.has_constants():
                self.run.services.fused_tier.entries += 1
                self.run.enqueue(loop)
                return
        Frame(self, program, home.data, trampoline, home, overrides).begin(trampoline.finish)

    def unfold(
        self,
        trampoline: Carrier,
        structure: Structure,
        data: tuple[Any, ...],
        overrides: Mapping[Any, Any],
    ) -> None:
        """Begin to evaluate a returned expression: by fused code once its structure is hot."""
        programs = self._programs
        program = programs.program(structure, structure.root, False, overrides)
        if structure.root >= 0 and not overrides and programs.is_fused(program, overrides):
            self.run.services.fused_tier.entries += 1
            self.run.enqueue(HotExpression(self, programs, trampoline, program, data))
        else:
            super().unfold(trampoline, structure, data, overrides)

    def step(self) -> bool:
        """Execute one instruction that has fired."""
        if not self.fired:
            return False
        frame, pc = self.fired.pop()
        if is_gone(frame):
            return True
        handler, instruction, reads = frame.program.steps[pc]
        try:
            handler(frame, instruction, reads)
        except Exception as error:
            frame.failed(instruction, error)
        return True
