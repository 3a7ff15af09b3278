"""Hot loops: iterations carried out by fused code instead of evaluations of their own.

A loop of which enough was interpreted (`FusedTier.hot_after`) takes its place in plan order as one
`HotLoop`. When its turn comes it runs fused code until the slice of time is over, or until the code
leaves; then a frame is restored, and the interpreter goes on with it at that instruction. The next
iteration comes back here.

`Watch` tells whether fused code may call its tasks without asking anybody. Otherwise its calls are
`wrapped`. When that may have changed, `Watch` empties the guards of the code that runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakMethod

from cascade.core.cancellation import is_cancellation
from cascade.core.strategy import NO_OVERRIDES, Carrier
from cascade.core.values import Deferred, Skipped
from cascade.vm import isa
from cascade.vm.frame import Frame, FrameStrategy, Program
from cascade.vm.fused import FusedRoutine, Linked
from cascade.vm.pauses import Pauses
from cascade.vm.programs import Programs
from cascade.vm.source import ABSENT
from cascade.vm.watch import guards
from cascade.vm.wrapped import Leave, WrappedCall

if TYPE_CHECKING:
    from cascade.core.calls import Call

_NO_CONSTANTS: Final = (Skipped, Deferred)  # of which an iteration makes something else


class HotCode:
    """What fused code carries out from its next iteration on, in a place of plan order."""

    __slots__ = (
        "_machine",
        "_pauses",
        "_program",
        "_programs",
        "_trampoline",
        "_watch",
        "_wrapped",
        "_wrapping",
        "place",
        "rank",
    )

    def __init__(
        self,
        machine: FrameStrategy,
        programs: Programs,
        trampoline: Carrier,
        program: Program,
    ) -> None:
        self._machine = machine
        self._programs = programs
        self._watch = programs.watch
        self._trampoline = trampoline
        self._program = program
        self._pauses: Pauses | None = None  # of its code, if that awaits
        self._wrapped: dict[int, WrappedCall] = {}  # by row, while its calls have to be
        self._wrapping: tuple[int, Program, Linked] | None = None  # the last, and for what it holds
        self.place, _, self.rank = trampoline.anchor()

    @property
    def is_async(self) -> bool:
        """Whether its code awaits."""
        return self._fused.features.is_async

    @property
    def is_mixed(self) -> bool:
        """Whether it calls inline tasks between its awaits, for which plan order counts."""
        return self._fused.features.is_mixed

    @property
    def _fused(self) -> FusedRoutine:
        fused = self._program.fused
        assert isinstance(fused, FusedRoutine)
        return fused

    # What kinds of it differ in

    def _given(self) -> list[Any] | None:
        """What the next iteration is given; None if the interpreter has to do it."""
        raise NotImplementedError

    def _counts_steps(self) -> bool:
        """Whether its iterations are counted as those of a loop, not of a chain of tail calls."""
        raise NotImplementedError

    def _paused(self, left: dict[str, Any]) -> None:
        """The code has paused with this as the next iteration's."""
        raise NotImplementedError

    def _follows(self, pc: int, left: dict[str, Any]) -> bool:
        """Whether what row `pc` came to leads to an iteration that is fused too: the next."""
        return False

    def _frame(self, left: dict[str, Any] | None) -> Frame:
        """The iteration that was left, or else the next one, as an evaluation."""
        raise NotImplementedError

    # Running

    def carry_out(self) -> None:
        """Run until the slice of time is over, or the code leaves."""
        while (entry := self._entry()) is not None:
            linked, values = entry
            watch = self._watch
            watch.enter(linked)  # a change within its calls empties its guards
            try:
                pc, left = linked.run(*values)
            except Leave as error:
                self._leave(*self._left_before(error))
                return
            except BaseException as error:
                self._failed(error)
                return
            finally:
                watch.leave(linked)
            if not self._goes_on(pc, left, linked):
                return
            # Through the queue, where whatever has got ready meanwhile may stand further ahead.
            if self._is_anothers_turn(linked) or perf_counter() >= self._machine.run.slice_end:
                self._machine.run.enqueue(self)
                return
        self.interpret()

    async def carry_out_async(self) -> None:
        """The same for code that awaits; it gives way to others by itself."""
        while (entry := self._entry()) is not None:
            linked, values = entry
            watch = self._watch
            pauses = self._pauses = Pauses(linked.run(*values), self._machine.run.processor.clock)
            watch.enter(linked, pauses)
            try:
                pc, left = await pauses
            except Leave as error:
                self._leave(*self._left_before(error))
                return
            except BaseException as error:
                if is_cancellation(error):  # no frame: nothing goes on, but steps are counted
                    _, left = self._fused.raised_at(error)
                    self._count(left["done"] + left["i"])
                    raise
                self._failed(error)
                return
            finally:
                watch.leave(linked, pauses)
            if not self._goes_on(pc, left, linked):
                return
            await self._machine.run.give_way()
        self.interpret()

    def _is_anothers_turn(self, linked: Linked) -> bool:
        """Whether something has changed that has let others go on, maybe before the next call."""
        return linked.version != self._watch.version and self._machine.run.has_ready

    def interpret(self) -> None:
        """Have the next iteration evaluated by the interpreter."""
        self._frame(None).begin(self._trampoline.finish)
        self._machine.propagate()

    def _entry(self) -> tuple[Linked, tuple[Any, ...]] | None:
        """The linked code and what it is given; None if the interpreter has to do the next one."""
        run, fused = self._machine.run, self._fused
        most = self._trampoline.steps_left(self._counts_steps())
        if run.is_over or most < 1 or not self._programs.may_fuse(fused):
            return None
        given = self._given()
        if given is None:
            return None
        turns, limit = fused.turns(fused.batch, 0, most)
        if fused.features.is_async and run.activity is not None:
            limit = 0  # each batch is counted: it may take any time
        linked = self._linked()
        if fused.is_slow:  # empty guards ask after each call, which then looks at the clock
            linked.forget()
        return linked, (turns, limit, run.slice_end, most, *given)

    def _linked(self) -> Linked:
        watch = self._watch
        if watch.allows(self._fused.features.task_names):
            self._wrapped = {}
            return self._programs.linked(self._program)
        # Wrapped calls know whether constraints match them, and by which ids they are published:
        # they hold until something changes, or the chain goes on with another program.
        if self._wrapping is None or self._wrapping[:2] != (watch.version, self._program):
            self._wrapping = watch.version, self._program, self._wrap()
        return self._wrapping[2]

    def _wrap(self) -> Linked:
        frame, run = self._frame(None), self._machine.run
        frame.release()  # it never begins: it is where the calls stand
        slots = frame.structure.slots
        self._wrapped = {
            pc: WrappedCall(run, frame, slots[row.site])
            for pc, row in enumerate(self._program.routine.code)
            if isinstance(row, isa.Invocation)
        }
        functions = {pc: call.function() for pc, call in self._wrapped.items()}
        linked = guards(self._watch, self._fused, functions)
        for call in self._wrapped.values():  # weakly: the code holds the calls
            call.others_are_ready = WeakMethod(linked.disarm)
        return linked

    def _left_before(self, error: Leave) -> tuple[int, dict[str, Any]]:
        """The row whose call has to wait."""
        pc, left = self._fused.raised_at(error)
        self._count(left["done"] + left["i"])
        return ~pc, left  # the call was not made: it is the interpreter's to ask for again

    # Leaving

    def _goes_on(self, pc: int | None, left: dict[str, Any], linked: Linked) -> bool:
        """Whether fused code has another iteration; else the interpreter has taken over."""
        if pc is None:
            self._count(left["done"])
            self._paused(left)
            return True
        self._count(left["done"] + left["i"])
        self._fused.tell_left(left["i"] + 1, perf_counter() - left["last"])
        # A change within the call may have brought somebody who has to hear how it ended: then the
        # interpreter ends it, which publishes and gives back.
        if self._was_heard(pc, linked) and self._follows(pc, left):
            return True
        self._leave(pc, left)
        return False

    def _was_heard(self, pc: int, linked: Linked) -> bool:
        """Whether all who have to hear how the call of row `pc` ended have heard it."""
        call = self._wrapped.get(pc)
        return linked.version == self._watch.version if call is None else call.has_finished

    def _count(self, iterations: int) -> None:
        """So many iterations are over."""
        self._trampoline.count(self._counts_steps(), iterations)
        activity = self._machine.run.activity
        if activity is not None and not self._wrapped:  # else they are counted one by one
            for name, calls in self._fused.features.sure_calls:
                activity.called(name, calls * iterations)

    def _leave(self, pc: int, left: dict[str, Any]) -> None:
        """Go on in the interpreter: after the call of row `pc`, or before row `~pc`."""
        frame, row = self._restored(pc if pc >= 0 else ~pc, left, pc >= 0)
        if pc < 0:
            pass  # it has fired, if it can
        elif isinstance(row, isa.Branch):
            frame.do_false(row)
        else:
            assert isinstance(row, isa.Invocation)
            wrapped = self._wrapped.get(pc)
            frame.came_back(
                self._begun(frame, row, wrapped),
                left[f"r{row.dst}"],
                has_finished=wrapped is not None and wrapped.has_finished,
            )
        self._machine.propagate()

    def _failed(self, error: BaseException) -> None:
        """Something in the code raised `error`: a call, or what the engine does for a row."""
        run = self._machine.run
        pc, left = self._fused.raised_at(error)
        if pc < 0:  # between two rows: an interrupt
            run.fail(error, f"in run {run.id}")
            return
        self._count(left["done"] + left["i"])
        frame, row = self._restored(pc, left, True)
        if isinstance(row, isa.Invocation):
            frame.raised(self._begun(frame, row, self._wrapped.get(pc)), error)
        else:
            frame.failed(row, error)
        self._machine.propagate()

    def _begun(self, frame: Frame, row: isa.Invocation, wrapped: WrappedCall | None) -> Call:
        """The call that the code has begun, as one of the interpreter's."""
        if wrapped is not None:
            return wrapped.handed_to(frame.call(row))
        return frame.begun(row, None if self._pauses is None else self._pauses.since)

    def _restored(
        self, pc: int, left: dict[str, Any], is_begun: bool
    ) -> tuple[Frame, isa.Instruction]:
        frame = self._frame(left)
        frame.restore(self._trampoline.finish, pc, left, is_begun)
        self._machine.run.services.fused_tier.exits += 1
        activity = self._machine.run.activity
        if activity is not None and not self._wrapped:
            for row in frame.done_above(pc):
                if isinstance(row, isa.Invocation):
                    activity.called(frame.structure.slots[row.site].name, 1)
        return frame, self._program.routine.code[pc]


class HotLoop(HotCode):
    """The iterations of a loop that stands in `home`, or of a chain of tail calls there."""

    __slots__ = ("_home", "_overrides")

    def __init__(
        self,
        machine: FrameStrategy,
        programs: Programs,
        trampoline: Carrier,
        home: Frame,
        program: Program,
        overrides: Mapping[Any, Any],
    ) -> None:
        super().__init__(machine, programs, trampoline, program)
        self._home = home
        self._overrides = overrides

    def _frame(self, left: dict[str, Any] | None) -> Frame:
        overrides = self._overrides if left is None else self._fused.brought(left)
        home = self._home
        return Frame(self._machine, self._program, home.data, self._trampoline, home, overrides)

    def _given(self) -> list[Any] | None:
        fused, data = self._fused, self._home.data
        constants = self._constants()
        if constants is None:
            return None
        own = {name: data[~ref] for name, ref in fused.features.own_literals}
        brought = [self._overrides.get(name, own.get(name)) for name in fused.features.variables]
        return [*[data[index] for index in fused.features.literals], *constants, *brought]

    def has_constants(self) -> bool:
        """Whether what the interpreter would demand at once is there already."""
        return self._constants() is not None

    def _constants(self) -> list[Any] | None:
        found = [self._constant(row) for row in self._fused.features.constants]
        is_complete = True
        for row, value in zip(self._fused.features.constants, found, strict=True):
            if value.__class__ in _NO_CONSTANTS or (value is ABSENT and row.at == 0):
                return None
            is_complete = is_complete and value is not ABSENT
        # Guards that hang on constants alone demand others at once, before any call is made. Only
        # the interpreter knows which; once it has begun an iteration, all of those are demanded.
        return found if is_complete or self._home.has_begun(self._program) else None

    def _constant(self, row: isa.Instruction) -> Any:
        """The value of a row that is the same in each iteration, if it is there."""
        run, home = self._machine.run, self._home
        match row:
            case isa.Shared():
                return home.shared_value(row.site)
            case isa.Outer():
                place = (self._program.routine.root, row.site)
                if place in self._trampoline.preceded:
                    return self._trampoline.preceded[place]
                return home.settled(row.site)
            case isa.Param():
                return run.inputs.value(home.data[row.declared])
            case isa.Inject():
                name = home.structure.slots[row.site].name
                # Others are set up anew for each step or call: never there beforehand.
                definition = run.resources.providers.find(name, "the target")
                lease = run.resources.of_run.ready(name) if definition.scope == "run" else None
                return ABSENT if lease is None else lease.value
        raise AssertionError(row)

    def _count(self, iterations: int) -> None:
        super()._count(iterations)
        activity = self._machine.run.activity
        if activity is not None:
            activity.iterated(self._trampoline.name, iterations)

    def _counts_steps(self) -> bool:
        return self._home.structure.slots[self._program.routine.root].bound is not None

    def _paused(self, left: dict[str, Any]) -> None:
        self._overrides = self._fused.brought(left)

    def _follows(self, pc: int, left: dict[str, Any]) -> bool:
        if pc != self._fused.features.body:
            return False
        structure = self._home.structure
        slot = structure.slots[self._program.routine.root]
        found = self._trampoline.next_iteration(structure, slot, left[self._fused.features.result])
        # This step and the next: the interpreter raises where the limit is met.
        if found is None or self._trampoline.steps_left(self._counts_steps()) < 2:
            return False
        root, overrides = found
        program = self._programs.found(structure, root, True, overrides)
        if program is None:
            return False
        fused = program.fused
        if (
            not isinstance(fused, FusedRoutine)
            # Another kind would have to stand in another queue, which only `enqueue` decides.
            or (fused.features.is_async, fused.features.is_mixed) != (self.is_async, self.is_mixed)
            or not fused.accepts(overrides)
        ):
            return False
        self._count(1)
        self._program, self._overrides = program, overrides
        self._trampoline.begun.add(root)
        return True


class HotExpression(HotCode):
    """Returned expressions of one structure, one after the other, each with its own data."""

    __slots__ = ("_data",)

    def __init__(
        self,
        machine: FrameStrategy,
        programs: Programs,
        trampoline: Carrier,
        program: Program,
        data: tuple[Any, ...],
    ) -> None:
        super().__init__(machine, programs, trampoline, program)
        self._data = data

    def _frame(self, left: dict[str, Any] | None) -> Frame:
        if left is not None:
            self._data = self._fused.data(left)
        trampoline = self._trampoline
        frame = Frame(self._machine, self._program, self._data, trampoline, None, NO_OVERRIDES)
        trampoline.returned = frame
        return frame

    def _given(self) -> list[Any] | None:
        return list(self._data)

    def _counts_steps(self) -> bool:
        return False

    def _count(self, iterations: int) -> None:
        super()._count(iterations)
        self._machine.run.services.plans.hits += iterations  # each match stood for one load

    def _paused(self, left: dict[str, Any]) -> None:
        self._data = self._fused.data(left)
