"""Listings: one row an instruction, with what it means; the same text for the same program."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from cascade.graph.plan import Plan
from cascade.graph.structure import LIST, Slot
from cascade.vm.blueprint import Blueprint, Routine
from cascade.vm.isa import Branch, Choose, Instruction, Invocation, Loop, Map, Outer, Producer

_PLAIN: Final = (int, float, str, bytes, bool, type(None))
_LONGEST: Final = 40  # characters of a literal


def listing(blueprint: Blueprint, data: tuple[Any, ...] | None = None) -> str:
    """All routines of a Blueprint; with `data`, its literals are shown."""
    return "\n\n".join(routine_listing(blueprint, routine, data) for routine in blueprint.routines)


def routine_listing(
    blueprint: Blueprint,
    routine: Routine,
    data: tuple[Any, ...] | None = None,
    marked: int | None = None,
) -> str:
    """One routine; the row `marked` is pointed at."""
    rows = list(_rows(blueprint, routine, data, marked))
    return "\n".join([head(blueprint, routine), *rows])


def head(blueprint: Blueprint, routine: Routine) -> str:
    slots = blueprint.structure.slots
    name = slots[routine.root].name if 0 <= routine.root < len(slots) else "literal"
    if routine.is_body:
        is_list = slots[routine.root].kind == LIST  # which is no route of a loop
        name = f"in a group: {name}" if is_list else f"iteration of {name}"
    given = f", given {', '.join(sorted(map(str, routine.given)))}" if routine.given else ""
    registers = "1 register" if routine.registers == 1 else f"{routine.registers} registers"
    return f"{name}{given}: {registers}"


def _rows(
    blueprint: Blueprint, routine: Routine, data: tuple[Any, ...] | None, marked: int | None
) -> Iterator[str]:
    meaning = _Meaning(blueprint, routine, data)
    for pc, instruction in enumerate(routine.code):
        mark = ">" if pc == marked else " "
        operands = ", ".join(_operands(instruction))
        region = f"@{instruction.at}"
        row = f"{mark}{pc:>3}  {region:<3} {instruction.mnemonic:<8}{operands}"
        yield f"{row:<48}; {meaning.of(instruction)}".rstrip(" ;")


def row_texts(blueprint: Blueprint, routine: Routine) -> list[str]:
    """Each row of a routine in short, as the source of the fused tier cites it."""
    rows = _rows(blueprint, routine, None, None)
    return [" ".join(row.split()) for row in rows]


def _operands(instruction: Instruction) -> Iterator[str]:
    for operand in instruction.operands:
        value = getattr(instruction, operand.name)
        if operand.name in ("after", "amounts", "kwargs") and not value:
            continue
        text = operand.text(value)
        yield f"{operand.name} {text}" if operand.name in ("after", "amounts") else text


class _Meaning:
    """The closing comment of each row."""

    def __init__(
        self, blueprint: Blueprint, routine: Routine, data: tuple[Any, ...] | None
    ) -> None:
        self._slots = blueprint.structure.slots
        self._data = data
        try:
            self._plan: Plan | None = Plan(blueprint.structure, routine.root)
        except IndexError:
            self._plan = None  # a broken Blueprint is listed too

    def of(self, instruction: Instruction) -> str:
        words = f"{self._words(instruction)}{self._if_it_fails(instruction)}"
        literals = [self._literal(ref) for ref in instruction.refs() if ref < 0]
        shown = [literal for literal in literals if literal]
        return f"{words}  {', '.join(shown)}".strip() if shown else words

    def _words(self, instruction: Instruction) -> str:
        if not isinstance(instruction, Producer):
            return ""
        if not 0 <= instruction.site < len(self._slots):
            return "?"
        slot = self._slots[instruction.site]
        name = self._name(slot)
        if isinstance(instruction, Branch):
            return f"if {name}"
        if isinstance(instruction, Choose):
            default = () if slot.default is None else ("default",)
            return f"{name} {', '.join([*map(_plain, slot.routes), *default])}"
        if isinstance(instruction, Map):
            return f"{name} over {', '.join(slot.iterables)}"
        if isinstance(instruction, Outer):
            return f"{slot.name} around the loop"
        return name

    def _if_it_fails(self, instruction: Instruction) -> str:
        """What answers the failure of a call: no row opens the region of its fallback."""
        if not isinstance(instruction, Invocation | Map | Loop):
            return ""
        if not 0 <= instruction.site < len(self._slots):
            return ""
        slot = self._slots[instruction.site]
        words = ""
        for word, ref in (("", slot.fallback), ("handled by ", slot.handler)):
            if ref is not None:
                words += f", on failure {word}{self._fallback(ref)}"
        return f"{words}, settled" if slot.settled_on is not None else words

    def _fallback(self, ref: int) -> str:
        return self._name(self._slots[ref]) if ref >= 0 else self._literal(ref) or "a literal"

    def _name(self, slot: Slot) -> str:
        if self._plan is None or not slot.is_node:
            return slot.name
        try:
            return self._plan.node(slot.index).id
        except KeyError:
            return slot.name  # what another routine should hold

    def _literal(self, ref: int) -> str:
        return "" if self._data is None or ~ref >= len(self._data) else _plain(self._data[~ref])


def _plain(value: Any) -> str:
    """A literal as text, free of addresses."""
    if type(value) not in _PLAIN:
        return f"<{type(value).__name__}>"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
