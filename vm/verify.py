"""What must hold of a Blueprint before it runs, so that the machine need not look.

The rules, in the order in which they are checked of each row:

- registers, literals, sites and regions exist, and a site is what the instruction works on;
- the instruction is the one for the mode of its task, and has the operands of its site;
- a register is read below a row that writes it, and a value is written to one register only;
- a register is taken over only by the row that alone reads what it holds;
- what belongs to an iteration stands in the routine of an iteration;
- `return` is the last row and the only one;

and of the routine: each region is opened by some row, by the start or by an iteration within.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from cascade.errors import VerifyError
from cascade.graph.structure import MAP, ROUTER, TASK, Slot
from cascade.vm import isa
from cascade.vm.blueprint import Blueprint, Routine
from cascade.vm.disassemble import routine_listing
from cascade.workflow.task import VARARGS

_BY_MODE: Final = {"inline": isa.Call, "thread": isa.Thread, "process": isa.Process}
_LONGEST: Final = 40  # rows of a listing shown around the one that breaks a rule


def verify(blueprint: Blueprint) -> None:
    """Raise `VerifyError`, with the listing and the row, unless all rules hold."""
    if not blueprint.routines or blueprint.routines[0].is_body:
        raise VerifyError("the first routine of a Blueprint is that of its target, no iteration")
    keys = [routine.key for routine in blueprint.routines]
    if len(set(keys)) != len(keys):
        raise VerifyError("two routines of the Blueprint are for the same evaluation")
    if blueprint.routines[0].root != blueprint.structure.root:
        raise VerifyError("the first routine of a Blueprint computes the target of its structure")
    for routine in blueprint.routines:
        verify_routine(blueprint, routine)


def verify_routine(blueprint: Blueprint, routine: Routine) -> None:
    """Check the rules of one routine."""
    check = _Check(blueprint, routine)
    for pc, row in enumerate(routine.code):
        for problem in check.row(pc, row):
            raise VerifyError(_message(blueprint, routine, pc, problem))
    for problem in check.whole():
        raise VerifyError(_message(blueprint, routine, None, problem))


def _message(blueprint: Blueprint, routine: Routine, pc: int | None, problem: str) -> str:
    head, *rows = routine_listing(blueprint, routine, marked=pc).splitlines()
    middle = pc or 0
    shown = rows[max(0, middle - _LONGEST // 2) : middle + _LONGEST // 2]
    where = "the routine" if pc is None else f"row {pc}"
    return "\n".join([f"{where} breaks a rule: {problem}", head, *shown])


class _Check:
    """What the rows so far have written and opened.

    Rules are checked one after the other, each where those before hold: nobody asks for more once
    one is broken.
    """

    def __init__(self, blueprint: Blueprint, routine: Routine) -> None:
        self._slots = blueprint.structure.slots
        self._literals = blueprint.literals
        self._routine = routine
        self._exports = frozenset(routine.exports)
        self._held: dict[int, int] = {}  # by register: whose value it holds
        self._registers: dict[int, int] = {}  # by value: its register
        self._readers: dict[int, list[int]] = {}  # by value: the rows that read it
        self._last_write: dict[int, int] = {}  # by value: the last row that may write it
        self._opened = {0}
        self._used: set[int] = set()

    def row(self, pc: int, row: isa.Instruction) -> Iterator[str]:
        """The rules that the row breaks."""
        if isa.TABLE.get(row.mnemonic) is not type(row):
            yield f"{row!r} is no instruction of the machine"
        yield from self._numbers(row)
        yield from self._reads(pc, row)
        if isinstance(row, isa.Producer):
            yield from self._site(row)
            yield from self._write(pc, row)
        elif isinstance(row, isa.Return) and pc != len(self._routine.code) - 1:
            yield "return must be the last row"

    def whole(self) -> Iterator[str]:
        """The rules that the routine breaks as a whole."""
        code = self._routine.code
        if not code or not isinstance(code[-1], isa.Return) or code[-1].at != 0:
            yield "the last row must be a return in region 0"
        exported = self._exported_regions()
        for region in range(self._routine.regions):
            if region not in self._opened and region not in exported:
                yield f"nothing opens region @{region}"
            if region and region not in self._used:
                yield f"nothing stands in region @{region}"
        for site in self._routine.exports:
            if site not in self._registers:
                yield f"iterations may demand t{site}, but no row gives its value"

        yield from self._taken_over()

    def _taken_over(self) -> Iterator[str]:
        held: dict[int, int] = {}
        for source, pc in sorted(self._last_write.items(), key=lambda item: item[1]):
            register = self._registers[source]
            before = held.get(register)
            if before is not None and self._readers.get(before) != [pc]:
                yield f"row {pc} takes over r{register}, whose value others read too"
            if before is not None and self._exports.intersection((before, source)):
                yield f"row {pc} takes over r{register}, which iterations may demand"
            held[register] = source

    def _exported_regions(self) -> set[int]:
        regions = self._routine.regions_of_sites()
        return {regions[site] for site in self._routine.exports if site in regions}

    def _numbers(self, row: isa.Instruction) -> Iterator[str]:
        for ref in row.refs():
            if ref >= self._routine.registers:
                yield f"r{ref} does not exist: the routine has {self._routine.registers} registers"
            if ref < 0 and ~ref >= self._literals:
                yield f"k{~ref} does not exist: the data holds {self._literals} literals"
        for region in (row.at, *row.opens()):
            if not 0 <= region < self._routine.regions:
                yield f"region @{region} does not exist: the routine has {self._routine.regions}"
        self._used.add(row.at)
        for region in row.opens():
            if region == 0:
                yield "region @0 is open from the start; no row opens it"
            if region == row.at:
                yield f"the row stands in region @{region}, which it opens itself"
            self._opened.add(region)

    def _reads(self, pc: int, row: isa.Instruction) -> Iterator[str]:
        for register in row.reads():
            if register in self._held:
                self._readers.setdefault(self._held[register], []).append(pc)
            else:
                yield f"r{register} is read, but no row above writes it"

    def _site(self, row: isa.Producer) -> Iterator[str]:
        if not 0 <= row.site < len(self._slots):
            yield f"t{row.site} does not exist: the structure has {len(self._slots)} sites"
        slot = self._slots[row.site]
        if row.site_kinds and slot.kind not in row.site_kinds:
            kinds = " or ".join(row.site_kinds)
            yield f"{row.mnemonic} works on a {kinds}, but t{row.site} is a {slot.kind}"
        if isinstance(row, isa.Outer | isa.Shared | isa.Follow) and not self._routine.is_body:
            yield f"{row.mnemonic} belongs to an iteration, but this is the routine of a target"
        yield from _operands(self._routine, slot, row)

    def _write(self, pc: int, row: isa.Producer) -> Iterator[str]:
        if not 0 <= row.dst < self._routine.registers:
            yield f"r{row.dst} does not exist: the routine has {self._routine.registers} registers"
        if self._registers.setdefault(row.source, row.dst) != row.dst:
            yield f"the value of t{row.site} is written to r{self._registers[row.source]} and here"
        self._held[row.dst] = row.source
        self._last_write[row.source] = pc


def _operands(routine: Routine, slot: Slot, row: isa.Producer) -> Iterator[str]:
    """Whether the operands are those that the site has."""
    if isinstance(row, isa.Invocation):
        kind = isa.Await if slot.task.is_async else _BY_MODE[slot.task.mode]
        if type(row) is not kind:
            yield f"task {slot.name!r} is carried out by {kind.mnemonic}, not by {row.mnemonic}"
    if slot.kind == TASK and isinstance(row, isa.Invocation):
        yield from _same("args", row.args, slot.args)
    if slot.kind in (TASK, MAP) and isinstance(row, isa.Invocation | isa.Map):
        yield from _same_names(row.kwargs, slot)
        yield from _given(routine, slot, row)
    if isinstance(row, isa.List | isa.Tuple | isa.Dict):
        yield from _same("members", row.members, slot.members)
    if slot.kind == ROUTER and isinstance(row, isa.Choose):
        routes = {*slot.routes.values(), *(() if slot.default is None else (slot.default,))}
        if {ref for ref, _ in row.routes} != routes:
            yield f"the routes of t{slot.index} are not the ones that are chosen from"
    if isinstance(row, isa.Param) and row.declared != ~slot.data:
        yield f"t{slot.index} is declared by k{~slot.data}, not by k{row.declared}"


def _same(what: str, given: tuple[int | None, ...], wanted: tuple[int, ...]) -> Iterator[str]:
    if len(given) != len(wanted):
        yield f"the site has {len(wanted)} {what}, the row {len(given)}"
    for ref, other in zip(given, wanted, strict=False):
        if ref is not None and (ref < 0 or other < 0) and ref != other:
            yield f"{isa.ref_text(ref)} stands where the site has {isa.ref_text(other)}"


def _same_names(given: tuple[tuple[str, int | None], ...], slot: Slot) -> Iterator[str]:
    names = [name for name, _ in given]
    if names != [name for name, _ in slot.kwargs]:
        yield f"the names of t{slot.index} are not {', '.join(names) or 'none'}"
    yield from _same(
        "keyword arguments", tuple(r for _, r in given), tuple(r for _, r in slot.kwargs)
    )


def _given(routine: Routine, slot: Slot, row: isa.Invocation | isa.Map) -> Iterator[str]:
    """Only the root of an iteration has arguments that the iteration brings."""
    names = slot.task.parameters.positional
    left_out: set[Any] = {name for name, ref in row.kwargs if ref is None}
    if isinstance(row, isa.Invocation):
        left_out |= {
            names[position] if position < len(names) else VARARGS
            for position, ref in enumerate(row.args)
            if ref is None
        }
    allowed = routine.given if slot.index == routine.root else frozenset()
    if not left_out <= allowed:
        missing = ", ".join(sorted(map(str, left_out - allowed)))
        yield f"nobody gives the argument {missing} of t{slot.index}"
