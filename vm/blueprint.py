"""Blueprints: what the compiler makes of a structure and the machine executes.

A Blueprint holds no data: the literals come with each execution, so that one Blueprint serves
every expression of its structure. It holds no addresses and no ids either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cascade.structure import Ref, Structure
from cascade.vm.isa import Instruction, Producer, Region, Site

Given = frozenset[Any]  # names of parameters, or VARARGS
Key = tuple[Ref, bool, Given]


@dataclass(frozen=True, slots=True)
class Routine:
    """The code of one kind of evaluation: of a target, or of an iteration (`is_body`) of a loop.

    `given` names those arguments of its root, expressions otherwise, that an iteration brings.
    Iterations within it may demand the sites of `exports`, whether their region is open or not.
    """

    root: Ref
    is_body: bool
    given: Given
    registers: int
    regions: int
    exports: tuple[Site, ...]
    code: tuple[Instruction, ...]

    @property
    def key(self) -> Key:
        """What tells it from the other routines of its structure."""
        return (self.root, self.is_body, self.given)

    def regions_of_sites(self) -> dict[Site, Region]:
        """The region that is opened when the value of a site is demanded."""
        found: dict[Site, Region] = {}
        for instruction in self.code:
            if isinstance(instruction, Producer) and instruction.source >= 0:
                found.setdefault(instruction.source, instruction.at)
        return found


class Blueprint:
    """A compiled structure: its main routine first, then those of the routes of its loops.

    Equal structures have equal Blueprints. `str` gives the listing. It can be pickled if its
    Tasks and policies can. The machine makes further routines when a tail call needs them.
    """

    __slots__ = ("routines", "structure")

    def __init__(self, structure: Structure, routines: tuple[Routine, ...]) -> None:
        self.structure = structure
        self.routines = routines

    @property
    def literals(self) -> int:
        """How many literals its data has."""
        return self.structure.literals

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Blueprint):
            return NotImplemented
        return self.structure.key == other.structure.key and self.routines == other.routines

    def __hash__(self) -> int:
        return hash(self.routines)

    def __str__(self) -> str:
        from cascade.vm.disassemble import listing

        return listing(self)

    def __repr__(self) -> str:
        rows = sum(len(routine.code) for routine in self.routines)
        return f"<Blueprint of {len(self.routines)} routines, {rows} instructions>"
