"""Straight runs: inline calls carried out one after the other, without any scheduling.

The rows with which a routine begins are straight as long as they are calls of plain inline tasks
and what is put together of their values. They stand in plan order, so that going through them from
top to bottom is what the interpreter would do, one ready call at a time; the run ends above the
first value that makes something else ready.

Registers and literals stand in one list of cells, the literals at its end and backwards: `cells[r]`
is register r, and `cells[~k]` literal k, which is how operands are numbered anyway.

The guard is that of fused code: `watch.usual` is the class of the last ordinary value, and is
emptied when constraints or subscribers change. Whatever comes up, the frame goes on from there in
the interpreter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from cascade.core.values import RELEASED, build
from cascade.graph.slices import STEPS, Work, pieces
from cascade.graph.structure import LIST, Slot, Structure
from cascade.vm import isa
from cascade.vm.blueprint import Routine

if TYPE_CHECKING:
    from cascade.graph.plan import Plan

SLOW: Final = 0.001  # seconds: after a batch that took longer, fewer rows come at a time
FEWEST: Final = 2  # calls that are worth it

ONE: Final = 1  # the kinds of steps: a call with one argument,
MANY: Final = 2  # with several,
OTHER: Final = 3  # with none or with keywords;
SETTLED: Final = 4  # any, whose value is an outcome;
BUILT: Final = 5  # a container;
LATE: Final = 6  # what only a failure demands

Step = tuple[int, Callable[..., Any], Any, int]
Cells = list[Any]


class StraightCode:
    """The straight rows of a routine, linked: for each its kind, what to call, operands, target."""

    __slots__ = ("steps", "stop", "task_names")

    def __init__(self, steps: list[Step], stop: int, task_names: tuple[str, ...]) -> None:
        self.steps = steps
        self.stop = stop
        self.task_names = task_names

    @staticmethod
    def of(plan: Plan, routine: Routine) -> Work[StraightCode | None]:
        """The straight rows with which the routine of a target begins; None if that is no use.

        They are found in slices."""
        structure = plan.structure
        if routine.is_body or routine.given:
            return None
        late = _late_regions(routine)
        stop = yield from _stop(structure, routine, late)
        names: dict[str, None] = {}
        steps: list[Step] = []
        calls = 0
        for piece in pieces(routine.code[:stop]):
            for row in piece:
                if row.at in late:
                    steps.append((LATE, _nothing, None, 0))
                    continue
                slot = structure.slots[row.site]  # type: ignore[attr-defined]
                steps.append(_step(slot, row))  # type: ignore[arg-type]
                if isinstance(row, isa.Call):
                    calls += 1
                    names[slot.name] = None
            yield
        if calls < FEWEST:
            return None
        last = yield from _last_reads(plan, routine.code[:stop], late)
        for pc, registers in last.items():
            below = next((n for n in range(pc + 1, len(steps)) if steps[n][0] != LATE), None)
            if below is not None:
                steps[below] = _dropping(steps[below], tuple(registers))
        return StraightCode(steps, stop, tuple(names))


def _late_regions(routine: Routine) -> frozenset[int]:
    """The regions of fallbacks: no row opens them, and neither does what is in them another."""
    opened = {region for row in routine.code for region in row.opens()}
    first = {row.at for row in routine.code if row.at and row.at not in opened}
    inside = {region for row in routine.code if row.at in first for region in row.opens()}
    return frozenset() if inside else frozenset(first)


def _stop(structure: Structure, routine: Routine, late: frozenset[int]) -> Work[int]:
    """Above which row something else gets ready, whose turn it may be."""
    held: dict[int, int] = {}
    stop = len(routine.code) - 1
    for pc, row in enumerate(routine.code):
        if pc % STEPS == STEPS - 1:
            yield
        if row.at in late:
            continue
        if row.at:  # what opens its region may come further down
            stop = min(stop, pc)
        elif not _is_straight(structure, row):
            needs = max((held[register] for register in row.reads()), default=-1)
            stop = min(stop, needs + 1)
        if isinstance(row, isa.Producer):
            held[row.dst] = pc
    return stop


def _is_straight(structure: Structure, row: isa.Instruction) -> bool:
    if isinstance(row, isa.Return):
        return True
    if not isinstance(row, isa.Call | isa.List | isa.Tuple | isa.Dict):
        return False
    slot = structure.slots[row.site]
    return slot.cache is None and not slot.amounts


def _step(slot: Slot, row: isa.Call | isa.List | isa.Tuple | isa.Dict) -> Step:
    if isinstance(row, isa.Call):
        function = slot.task.func
        if slot.settled_on is not None:
            return SETTLED, _called(function, row.args, row.kwargs), None, row.dst
        if len(row.args) == 1 and not row.kwargs:
            return ONE, function, row.args[0], row.dst
        if len(row.args) > 1 and not row.kwargs:
            return MANY, function, itemgetter(*row.args), row.dst
        return OTHER, _called(function, row.args, row.kwargs), None, row.dst
    if slot.kind is LIST and not slot.data and len(row.members) > 1:
        return BUILT, _listed(itemgetter(*row.members)), None, row.dst
    return BUILT, _built(slot, row.members), None, row.dst


def _last_reads(
    plan: Plan, rows: Iterable[isa.Instruction], late: frozenset[int]
) -> Work[dict[int, list[int]]]:
    """By row: the registers that nobody needs once the row is done, and nobody takes over."""
    left = plan.uses()[1].copy()
    held: dict[int, int] = {}
    last: dict[int, list[int]] = {}
    for pc, row in enumerate(rows):
        if pc % STEPS == STEPS - 1:
            yield
        if row.at in late:
            continue
        for register in dict.fromkeys(row.reads()):
            source = held[register]
            if source in left:
                left[source] -= 1
                if not left[source] and register != row.dst:  # type: ignore[attr-defined]
                    last.setdefault(pc, []).append(register)
        held[row.dst] = row.source  # type: ignore[attr-defined]
    return last


def _dropping(step: Step, registers: tuple[int, ...]) -> Step:
    """The step, before which the values of these registers go."""
    kind, function, operands, dst = step

    def drop_and_call(cells: Cells) -> Any:
        for register in registers:
            cells[register] = RELEASED
        if kind == ONE:
            return function(cells[operands])
        if kind == MANY:
            return function(*operands(cells))
        return function(cells)

    return kind if kind in (SETTLED, BUILT) else OTHER, drop_and_call, None, dst


def _nothing(cells: Cells) -> None:
    """What a row does that is not demanded."""


def _called(function: Callable[..., Any], args: Any, kwargs: Any) -> Callable[[Cells], Any]:
    def call(cells: Cells) -> Any:
        named = {name: cells[ref] for name, ref in kwargs}
        return function(*[cells[ref] for ref in args], **named)

    return call


def _listed(members: Callable[[Cells], tuple[Any, ...]]) -> Callable[[Cells], Any]:
    return lambda cells: list(members(cells))


def _built(slot: Slot, members: Any) -> Callable[[Cells], Any]:
    def make(cells: Cells) -> Any:
        shape = cells[slot.data] if slot.data else None
        return build(slot, shape, tuple([cells[ref] for ref in members]))

    return make
