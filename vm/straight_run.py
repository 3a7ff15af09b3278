"""A row of instructions that needs nobody, carried out at once."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

from cascade.core.calls import is_control, is_ordinary
from cascade.core.pace import BATCH
from cascade.executors.executor import usual_class
from cascade.vm import isa
from cascade.vm.straight import BUILT, LATE, MANY, ONE, OTHER, SETTLED, SLOW, Cells, StraightCode
from cascade.workflow.outcome import succeeded

if TYPE_CHECKING:
    from cascade.vm.frame import Frame, FrameStrategy
    from cascade.vm.watch import Watch


class StraightRun:
    """The straight rows of one frame being carried out, when its turn in plan order comes."""

    __slots__ = (
        "_batch",
        "_cells",
        "_code",
        "_frame",
        "_machine",
        "_next",
        "_version",
        "_watch",
        "place",
    )

    is_async = False
    is_mixed = False

    def __init__(
        self, machine: FrameStrategy, watch: Watch, frame: Frame, code: StraightCode
    ) -> None:
        self.place = frame
        self._machine = machine
        self._watch = watch
        self._frame = frame
        self._code = code
        self._cells: Cells = [*frame.registers, *reversed(frame.data)]
        self._next = 0
        self._batch = BATCH
        self._version = watch.version

    @property
    def rank(self) -> int:
        """That of the row to come: rows above it are done."""
        row = self._frame.program.routine.code[self._next]
        return self._frame.rank(row.site)  # type: ignore[attr-defined]

    async def carry_out_async(self) -> None:
        raise AssertionError("straight rows are inline calls")

    def interpret(self) -> None:
        """Go on in the interpreter before the next row."""
        self._hand_over(self._next, is_begun=False)
        self._machine.propagate()

    def carry_out(self) -> None:
        """Go through the rows until the slice of time is over, or something comes up."""
        machine, watch, stop = self._machine, self._watch, self._code.stop
        if self._version != watch.version and not watch.allows(self._code.task_names):
            self.interpret()
            return
        self._version = watch.version
        last = perf_counter()
        while self._next < stop:
            if not self._carry_out_some(min(stop, self._next + self._batch)):
                return
            now = perf_counter()
            self._pace(now - last)
            last = now
            if now >= machine.run.slice_end and self._next < stop:
                machine.run.enqueue(self)
                return
        self._end()

    def _pace(self, took: float) -> None:
        self._batch = 1 if took > SLOW else min(BATCH, 2 * self._batch)

    def _carry_out_some(self, stop: int) -> bool:
        """Go through the rows up to `stop`; False if the frame had to go on elsewhere."""
        cells, watch = self._cells, self._watch
        pc = self._next - 1
        try:
            for kind, function, operands, dst in self._code.steps[self._next : stop]:
                pc += 1
                if kind == ONE:
                    value = function(cells[operands])
                elif kind == MANY:
                    value = function(*operands(cells))
                elif kind == OTHER:
                    value = function(cells)
                elif kind == SETTLED:
                    value = function(cells)
                    if value.__class__ is not watch.usual and not self._goes_on(pc, value):
                        return False
                    value = succeeded(value)
                elif kind == BUILT:
                    cells[dst] = function(cells)
                    continue
                else:
                    continue
                if value.__class__ is not watch.usual and not self._goes_on(pc, value):
                    return False
                cells[dst] = value
        except BaseException as error:
            self._hand_over(pc, is_begun=True)
            self._tell(pc)
            self._raised(self._frame.program.routine.code[pc], error)
            return False
        self._tell(stop)
        self._next = stop
        return True

    def _raised(self, row: isa.Instruction, error: BaseException) -> None:
        frame = self._frame
        if isinstance(row, isa.Invocation):
            frame.raised(frame.begun(row), error)
        else:
            frame.failed(row, error)
        self._machine.propagate()

    def _tell(self, stop: int) -> None:
        """Count the calls from the next row up to `stop` for whoever shows what the run does."""
        activity = self._machine.run.activity
        if activity is None:
            return
        rows = self._frame.program.routine.code[self._next : stop]
        for row, step in zip(rows, self._code.steps[self._next : stop], strict=True):
            if isinstance(row, isa.Call) and step[0] != LATE:
                name = self._frame.structure.slots[row.site].name
                activity.started(name, 1)
                activity.ended(name, "Succeeded")

    def _goes_on(self, pc: int, value: Any) -> bool:
        """The value of row `pc` is of another class than the last, or something has changed."""
        watch, frame = self._watch, self._frame
        if self._version == watch.version and is_ordinary(value):
            watch.usual = usual_class(value)
            return True
        self._tell(pc)
        code = frame.program.routine.code
        if is_control(value) and pc == len(code) - 2:
            self._hand_over_registers()  # nothing else of the frame is needed any more
        else:
            self._hand_over(pc, is_begun=True)
        frame.came_back(frame.begun(code[pc]), value)  # type: ignore[arg-type]
        self._machine.propagate()
        return False

    def _end(self) -> None:
        """All straight rows are done."""
        frame, code = self._frame, self._frame.program.routine.code
        if self._code.stop == len(code) - 1:
            frame.end(self._cells[code[-1].value])  # type: ignore[attr-defined]
        else:
            self._hand_over(self._code.stop, is_begun=False)
        self._machine.propagate()

    def _hand_over(self, pc: int, *, is_begun: bool) -> None:
        self._hand_over_registers()
        self._frame.resume(pc, is_begun)

    def _hand_over_registers(self) -> None:
        registers = self._frame.registers
        registers[:] = self._cells[: len(registers)]
