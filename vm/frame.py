"""A routine linked for execution, and its evaluations on registers and counters.

Linking. A routine is linked once into a `Program`: for each instruction its handler and the
registers it reads, for each value the instructions that read it, and templates of registers and
counters. An evaluation copies the templates; nothing else is made for it.

Execution. Executing an instruction opens regions and writes registers, each of which counts down
what instructions still miss; whichever comes to zero is fired in turn. Who takes them from the list
of those that have fired, and what a frame begins with, is the strategy's business: a frame knows
`FrameStrategy` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from cascade.core.calls import is_gone
from cascade.core.evaluation import PlannedEvaluation
from cascade.core.strategy import Carrier, Strategy
from cascade.core.values import (
    BY_CONDITION,
    BY_DATA,
    BY_ROUTE,
    CONDITION_FALSE,
    RELEASED,
    Deferred,
    Skipped,
    overridden,
)
from cascade.executors.executor import surfacing
from cascade.graph.plan import Plan
from cascade.graph.slices import Work, pieces
from cascade.graph.structure import Ref, Slot, Structure
from cascade.vm import isa
from cascade.vm.blueprint import Routine
from cascade.vm.fused import FusedRoutine
from cascade.vm.source import ABSENT, overwrites
from cascade.vm.straight import StraightCode

if TYPE_CHECKING:
    from cascade.core.calls import Call, Place
    from cascade.core.run import Run

Handler = Callable[["Frame", Any, tuple[int, ...]], None]


class Program:
    """A routine linked for execution."""

    __slots__ = (
        "_sources",
        "counters",
        "dst",
        "first",
        "flows",
        "fused",
        "heat",
        "opened",
        "overwritten",
        "plan",
        "readers",
        "regions",
        "registers",
        "routine",
        "starts",
        "steps",
        "straight",
    )

    def __init__(self, structure: Structure, routine: Routine, plan: Plan) -> None:
        self.heat = 0  # rows that iterations of it have cost, until it is fused
        self.fused: FusedRoutine | str | None = None  # or why there is none
        self.routine = routine
        self.plan = plan
        self.steps: list[tuple[Handler, isa.Instruction, tuple[int, ...]]] = []
        self.registers = [ABSENT] * routine.registers
        self.opened = bytearray(routine.regions)
        self.opened[0] = 1
        self.regions: dict[int, int] = {}  # opened when the value of a site is demanded
        self.counters: list[int] = []
        self.dst: dict[int, int] = {}
        self.readers: dict[int, tuple[int, ...]] = {}
        self.overwritten: set[int] = set()  # whose register their one reader takes over
        self._sources: list[list[int]] | None = None
        self.starts: list[list[int]] = [[] for _ in range(routine.regions)]
        self.flows: dict[int, list[tuple[int, isa.Map]]] = {}  # by region: maps, and where
        self.first: list[int] = []
        self.straight: StraightCode | None = None

    @staticmethod
    def linked(structure: Structure, routine: Routine) -> Work[Program]:
        """The program of a routine, in slices."""
        plan = yield from Plan.made(structure, routine.root)
        program = Program(structure, routine, plan)
        yield from program._link(routine.code, structure.slots)
        program.first = [pc for pc in reversed(program.starts[0]) if not program.counters[pc]]
        program.straight = yield from StraightCode.of(plan, routine)
        return program

    def _link(self, code: tuple[isa.Instruction, ...], slots: Sequence[Slot]) -> Work[None]:
        held: dict[int, int] = {}  # by register: whose value it holds here
        readers: dict[int, list[int]] = {}
        for piece in pieces(code):
            for row in piece:
                pc = len(self.steps)
                reads = row.reads()
                self.steps.append((HANDLERS[type(row)], row, reads))
                for register in reads:
                    readers[held[register]].append(pc)
                self.counters.append(len(reads) + (row.at != 0))
                self.starts[row.at].append(pc)
                if isinstance(row, isa.Map) and slots[row.site].flowing:
                    self.flows.setdefault(row.at, []).append((pc, row))
                if isinstance(row, isa.Producer):
                    if held.get(row.dst, row.source) != row.source:
                        self.overwritten.add(held[row.dst])
                    held[row.dst] = row.source
                    self.dst[row.source] = row.dst
                    readers.setdefault(row.source, [])
                    if row.source >= 0:
                        self.regions.setdefault(row.source, row.at)
            yield
        for sources in pieces(tuple(readers)):
            self.readers.update([(source, tuple(readers[source])) for source in sources])
            yield

    @property
    def size(self) -> int:
        """Its rows, and the straight ones among them once more."""
        return len(self.steps) + (0 if self.straight is None else len(self.straight.steps))

    @property
    def sources(self) -> list[list[int]]:
        """By row, whose values it reads: found out when a frame is restored for the first time."""
        if self._sources is None:
            held: dict[int, int] = {}
            self._sources = []
            for _, row, reads in self.steps:
                self._sources.append([held[register] for register in reads])
                if isinstance(row, isa.Producer):
                    held[row.dst] = row.source
        return self._sources


class FrameStrategy(Strategy):
    """What frames ask of whoever executes them.

    `fired` are the instructions about to be executed, each with its frame.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.fired: list[tuple[Frame, int]] = []

    def begin(self, frame: Frame) -> None:
        """Have the rows carried out with which the frame begins, in whichever way."""
        raise NotImplementedError


class Frame(PlannedEvaluation):
    """An evaluation on registers and counters."""

    __slots__ = ("_counters", "_machine", "_met", "_opened", "_watchers", "program", "registers")

    def __init__(
        self,
        machine: FrameStrategy,
        program: Program,
        data: tuple[Any, ...],
        trampoline: Carrier | None,
        around: Frame | None,
        overrides: Mapping[str, Any],
        place: Place | None = None,
    ) -> None:
        super().__init__(machine, program.plan, data, trampoline, around, overrides, place)
        self._machine = machine
        self.program = program
        self.registers = program.registers.copy()
        self._counters = program.counters.copy()
        self._opened = program.opened.copy()
        self._watchers: dict[int, list[tuple[Frame | _Again | _Listener, int]]] | None = None
        self._met: set[Program] | None = None  # of the outermost: what was interpreted in it

    def has_begun(self, program: Program) -> bool:
        """Whether the interpreter began an iteration of `program` in this target.

        Who asks has it begin one if not.
        """
        root = self._root
        if root._met is None:
            root._met = set()
        if program in root._met:
            return True
        root._met.add(program)
        return False

    def begin(self, on_end: Callable[[Any], None]) -> None:
        """Demand the target; `on_end` gets its value, or the Skipped it is."""
        self._begin(on_end)
        self._machine.begin(self)

    @property
    def straight(self) -> StraightCode | None:
        """The straight rows that it may begin with: they have the target's own arguments."""
        return None if self._overrides else self.program.straight

    def restore(
        self, on_end: Callable[[Any], None], pc: int, left: Mapping[str, Any], is_begun: bool
    ) -> None:
        """Take over from fused code, which did the rows above `pc` whose regions are open.

        `left` are its local variables; with `is_begun` the row `pc` is going on, else it is next.
        """
        self._begin(on_end)
        opened = self._opened
        for region in range(1, len(opened)):
            opened[region] = left[f"g{region}"]
        for row in self.done_above(pc):
            if isinstance(row, isa.Choose):
                self._choose(self._slots[row.site], self._of(row.selector, left))
            elif _gives_value(row):
                self.registers[row.dst] = left[f"r{row.dst}"]
        row = self.program.routine.code[pc]
        if is_begun and isinstance(row, isa.Invocation) and overwrites(row, self._slots[row.site]):
            self.registers[row.dst] = left[f"o{row.dst}"]
        self.resume(pc, is_begun)

    def resume(self, pc: int, is_begun: bool) -> None:
        """Go on at row `pc`, which is going on already if `is_begun`; all above it is done."""
        program, opened = self.program, self._opened
        written = dict.fromkeys(row.source for row in self.done_above(pc) if _gives_value(row))
        for index, row in enumerate(program.routine.code):
            missing = sum(source not in written for source in program.sources[index])
            self._counters[index] = missing + (not opened[row.at])
            is_done = (index < pc and opened[row.at]) or (index == pc and is_begun)
            if not is_done and not self._counters[index]:
                self._machine.fired.append((self, index))
        for source in written:
            self._let_go_of_needs(source)
        for region in self.program.flows:
            if opened[region]:
                self.begin_flows(region)

    def done_above(self, pc: int) -> Iterator[Any]:
        """The rows above `pc` whose regions are open."""
        return (row for row in self.program.routine.code[:pc] if self._opened[row.at])

    def _of(self, ref: Ref, left: Mapping[str, Any]) -> Any:
        return self.data[~ref] if ref < 0 else left[f"r{ref}"]

    def release(self) -> None:
        """Let go of all values, and of all that refers back: the run is over."""
        super().release()
        self.registers.clear()
        self._watchers = None

    def begin_flows(self, region: int) -> None:
        """What stands in the region is demanded: some maps have items that may begin at once."""
        for index, row in self.program.flows.get(region, ()):
            if self._counters[index]:
                self._begin_flow(self._slots[row.site])

    # Regions and registers

    def open(self, region: int) -> None:
        """What stands in the region is demanded from now on."""
        if self._opened[region]:
            return
        self._opened[region] = 1
        self._count_down(self.program.starts[region])
        if self.program.flows:
            self.begin_flows(region)

    def write(self, source: int, value: Any) -> None:
        """The value of a site (`~site`: around) has come."""
        program = self.program
        self.registers[program.dst[source]] = value
        self._count_down(program.readers[source])
        if source in self._needs:
            self._let_go_of_needs(source)
        if self._watchers is not None:
            for listener, alias in self._watchers.pop(source, ()):
                listener.hear(alias, value)

    def hear(self, alias: int, value: Any) -> None:
        """The value of a site of an evaluation around this one has come."""
        if not is_gone(self):
            self.write(alias, value)

    def _count_down(self, readers: Sequence[int]) -> None:
        counters, fired = self._counters, self._machine.fired
        for pc in readers:
            counters[pc] -= 1
            if not counters[pc]:
                fired.append((self, pc))

    def alias(self, source: int, home: Frame, site: int) -> None:
        """Have the value of `site`, which belongs to an evaluation around this one."""
        program = home.program
        value = home.registers[program.dst[site]]
        if value is not ABSENT:
            self.write(source, value)
            return
        if home._watchers is None:
            home._watchers = {}
        home._watchers.setdefault(site, []).append((self, source))
        home.open(program.regions[site])

    def settled(self, site: int) -> Any:
        """The value of a site, or ABSENT."""
        register = self.program.dst.get(site)
        return ABSENT if register is None else self.registers[register]

    def shared_value(self, site: int) -> Any:
        """The value of a loop-invariant site, or ABSENT if it is not there or not shared."""
        root = self._root
        return root.settled(site) if site in root._invariants() else ABSENT

    # What the shared part asks

    def on_settled(self, index: int, then: Callable[[Any], None]) -> None:
        value = self.settled(index)
        if value is not ABSENT:
            then(value)
            return
        if self._watchers is None:
            self._watchers = {}
        self._watchers.setdefault(index, []).append((_Listener(then), index))
        self.open(self.program.regions[index])

    def _value(self, ref: Ref) -> Any:
        return self.data[~ref] if ref < 0 else self.registers[self.program.dst[ref]]

    def _peek(self, index: int) -> Any:
        register = self.program.dst.get(index)
        return None if register is None else self.registers[register]

    def _settle(self, index: int, value: Any) -> None:
        self.write(index, value)

    def _conclude(self, slot: Slot, value: Any) -> None:
        self.write(slot.index, value)

    def _record_skip(self, slot: Slot, skipped: Skipped) -> None:
        self.write(slot.index, skipped)

    def _is_settled(self, index: int) -> bool:
        return self.settled(index) is not ABSENT

    def _was_demanded(self, index: int) -> bool:
        region = self.program.regions.get(index)
        return region is not None and bool(self._opened[region])

    def _drop(self, index: int) -> bool:
        if index in self.program.overwritten:
            return self._was_demanded(index)
        register = self.program.dst.get(index)
        if register is None or self.registers[register] is ABSENT:
            return False
        self.registers[register] = RELEASED
        return True

    def end(self, value: Any) -> None:
        """The target has its value: all of its code is done."""
        self._end(value)

    def begun(self, row: isa.Invocation, since: float | None = None) -> Call:
        """The call of a row that other code than the interpreter has begun, unseen.

        `since` is when it began, if that is known.
        """
        call, run = self.call(row), self._machine.run
        run.processor.started_unseen(call, since)
        if run.activity is not None:
            run.activity.started(call.slot.name, 1)
        return call

    def came_back(self, call: Call, value: Any, *, has_finished: bool = False) -> None:
        """The function of a begun call gave `value`; `has_finished` if all have heard so."""
        try:
            if has_finished:
                self.completed(call, value)
            else:
                self._machine.run.processor.came_back(call, value)
        except BaseException as error:
            self._machine.run.call_failed(call, error)

    def raised(self, call: Call, error: BaseException) -> None:
        """The function of a begun call has raised `error`."""
        self._machine.run.processor.attempt_failed(call, surfacing(call.slot.name, error))

    def failed(self, row: isa.Instruction, error: BaseException) -> None:
        """What the engine does for a row found that the evaluation cannot go on."""
        # No node is to blame for an interrupt, and none stands at a row that gives no value.
        if isinstance(row, isa.Producer) and isinstance(error, Exception):
            self.failed_at(self._slots[row.site], error)
        else:
            self._machine.run.fail(error, f"in run {self._machine.run.id}")

    # Instructions

    def _operand(self, ref: Ref) -> Any:
        return self.data[~ref] if ref < 0 else self.registers[ref]

    def _is_skipped(self, slot: Slot, reads: tuple[int, ...]) -> bool:
        """Skip the slot if anything it read was skipped."""
        registers = self.registers
        for register in reads:
            if registers[register].__class__ is Skipped:
                skipped = self._skipped_by_inputs(slot)
                assert skipped is not None
                self._skip_node(slot, skipped)
                return True
        return False

    def do_invocation(self, row: isa.Invocation, reads: tuple[int, ...]) -> None:
        if not self._is_skipped(self._slots[row.site], reads):
            self._machine.run.make_ready(self.call(row))

    def call(self, row: isa.Invocation) -> Call:
        """What the row calls, with its arguments, which are there."""
        slot = self._slots[row.site]
        if self._overrides and row.site == self._plan.root:
            args, kwargs = overridden(slot, self._overrides, self._value)
        else:
            registers, data = self.registers, self.data
            args = tuple(
                [data[~ref] if ref < 0 else registers[ref] for ref in row.args]  # type: ignore[operator, index]
            )
            kwargs = {name: self._operand(ref) for name, ref in row.kwargs}  # type: ignore[arg-type]
        return self._call(slot, args, kwargs)

    def do_map(self, row: isa.Map, reads: tuple[int, ...]) -> None:
        slot = self._slots[row.site]
        if not self._is_skipped(slot, reads):
            self._start_map(slot)

    def do_loop(self, row: isa.Loop, _: tuple[int, ...]) -> None:
        self._enter_loop(self._slots[row.site])

    def _enter_after(self, slot: Slot, missing: list[int]) -> None:
        code = self.program.routine.code
        pc = next(
            n for n, row in enumerate(code) if isinstance(row, isa.Loop) and row.site == slot.index
        )
        if self._watchers is None:
            self._watchers = {}
        self._watchers.setdefault(missing[0], []).append((_Again(self, pc), 0))
        for index in missing:
            self.open(self.program.regions[index])

    def do_branch(self, row: isa.Branch, _: tuple[int, ...]) -> None:
        condition = self._operand(row.condition)
        slot = self._slots[row.site]
        if condition.__class__ is Skipped:
            self._skip(slot, condition.because(BY_CONDITION, "condition"))
        elif condition.__class__ is Deferred:
            raise condition.refused(f"a condition of task {slot.name!r}")
        elif condition:
            self.open(row.then)
        else:
            self.do_false(row)

    def do_false(self, row: isa.Branch) -> None:
        """The condition does not hold."""
        if row.otherwise == isa.NOWHERE:
            self._skip_condition_false(self._slots[row.site])
        else:
            self.open(row.otherwise)

    def do_follow(self, row: isa.Follow, _: tuple[int, ...]) -> None:
        slot = self._slots[row.site]
        skipped = self._skipped_predecessor(slot)
        if skipped is None:
            self.open(row.then)
        else:
            self._skip(slot, skipped)

    def do_default(self, row: isa.Default, _: tuple[int, ...]) -> None:
        slot = self._slots[row.site]
        value = self._operand(row.value)
        if value.__class__ is Skipped:
            self._skip(slot, value.because(BY_DATA, "default"))
        else:
            self._publish_skipped(slot, CONDITION_FALSE)
            self.settle_from(row.site, value)

    def do_choose(self, row: isa.Choose, _: tuple[int, ...]) -> None:
        key = self._operand(row.selector)
        if key.__class__ is Skipped:
            self.write(row.site, key.because(BY_DATA, "selector"))
            return
        chosen = self._choose(self._slots[row.site], key)
        for ref, region in row.routes:
            if ref == chosen:
                self.open(region)

    def do_take(self, row: isa.Take, _: tuple[int, ...]) -> None:
        value = self._operand(row.value)
        if value.__class__ is Skipped:
            value = value.because(BY_ROUTE, "route")
        self.write(row.site, value)

    def do_open(self, row: isa.Open, _: tuple[int, ...]) -> None:
        self.open(row.region)

    def do_container(self, row: isa.List | isa.Tuple | isa.Dict, _: tuple[int, ...]) -> None:
        registers, data = self.registers, self.data
        members = tuple(
            [data[~ref] if ref < 0 else registers[ref] for ref in row.members]  # type: ignore[operator, index]
        )
        self.write(row.site, self._contained(self._slots[row.site], members))

    def do_param(self, row: isa.Param, _: tuple[int, ...]) -> None:
        self._demand_input(self._slots[row.site])

    def do_inject(self, row: isa.Inject, _: tuple[int, ...]) -> None:
        self._demand_resource(self._slots[row.site])

    def do_outer(self, row: isa.Outer, _: tuple[int, ...]) -> None:
        if self._has_come(row.site):
            self.write(row.source, self._kept(row.site))
        else:
            self.alias(row.source, self._around, row.site)

    def do_shared(self, row: isa.Shared, _: tuple[int, ...]) -> None:
        if row.site in self._shared:
            self.alias(row.site, self._root, row.site)
        else:
            self.open(row.otherwise)

    def do_return(self, row: isa.Return, _: tuple[int, ...]) -> None:
        self._end(self._operand(row.value))


class _Listener:
    """Whoever waits for the value of a site, and is no instruction."""

    __slots__ = ("_then",)

    def __init__(self, then: Callable[[Any], None]) -> None:
        self._then = then

    def hear(self, _: int, value: Any) -> None:
        """The value has come."""
        self._then(value)


class _Again:
    """Fires a row once more when a value comes that it turned out to wait for."""

    __slots__ = ("_frame", "_pc")

    def __init__(self, frame: Frame, pc: int) -> None:
        self._frame = frame
        self._pc = pc

    def hear(self, _: int, __: Any) -> None:
        """The value has come."""
        self._frame._machine.fired.append((self._frame, self._pc))


def _gives_value(row: isa.Instruction) -> bool:
    """Whether executing the row writes the value of its site, if nothing is skipped."""
    no_values = isa.Branch | isa.Follow | isa.Choose
    return isinstance(row, isa.Producer) and not isinstance(row, no_values)


HANDLERS: Final[Mapping[type[isa.Instruction], Handler]] = {
    isa.Call: Frame.do_invocation,
    isa.Await: Frame.do_invocation,
    isa.Thread: Frame.do_invocation,
    isa.Process: Frame.do_invocation,
    isa.Map: Frame.do_map,
    isa.Loop: Frame.do_loop,
    isa.Branch: Frame.do_branch,
    isa.Follow: Frame.do_follow,
    isa.Default: Frame.do_default,
    isa.Choose: Frame.do_choose,
    isa.Take: Frame.do_take,
    isa.Open: Frame.do_open,
    isa.List: Frame.do_container,
    isa.Tuple: Frame.do_container,
    isa.Dict: Frame.do_container,
    isa.Param: Frame.do_param,
    isa.Inject: Frame.do_inject,
    isa.Outer: Frame.do_outer,
    isa.Shared: Frame.do_shared,
    isa.Return: Frame.do_return,
}
if set(HANDLERS) != set(isa.TABLE.values()):
    missing = {kind.__name__ for kind in set(isa.TABLE.values()).symmetric_difference(HANDLERS)}
    raise ImportError(f"instructions and handlers differ: {', '.join(sorted(missing))}")
