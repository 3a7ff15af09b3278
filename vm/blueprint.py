"""Blueprints: what the compiler makes of a structure and the machine executes.

A Blueprint holds no data: the literals come with each execution, so that one Blueprint serves
every expression of its structure. It holds no addresses and no ids either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cascade.graph.plan import Plan
from cascade.graph.structure import Ref, Structure
from cascade.plain import plain
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

    def to_json(self) -> dict[str, Any]:
        """Routines, instructions and the layout of the data, as what `json.dumps` takes.

        The same program gives the same data. docs/reference/json.md says what stands where.
        """
        return {
            "format": "cascade.blueprint",
            "version": 1,
            "literals": self.literals,
            "sites": _sites(self.structure),
            "routines": [_routine(routine, self.structure) for routine in self.routines],
        }

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


def _sites(structure: Structure) -> list[dict[str, Any]]:
    """What stands at each site; nodes under the ids of `build_graph`."""
    from cascade.graph.nodes import task_to_json

    nodes = Plan(structure, structure.root).all_nodes()
    told = []
    for slot in structure.slots:
        site: dict[str, Any] = {"kind": slot.kind, "name": slot.name}
        if slot.is_node:
            site |= {"id": nodes[slot.index].id, "task": task_to_json(slot.task)}
        elif slot.routes:
            site["keys"] = [plain(key) for key in slot.routes]
        told.append(site)
    return told


def _routine(routine: Routine, structure: Structure) -> dict[str, Any]:
    return {
        "root": routine.root,
        "name": structure.slots[routine.root].name if routine.root >= 0 else "literal",
        "is_body": routine.is_body,
        "given": sorted(map(str, routine.given)),
        "registers": routine.registers,
        "regions": routine.regions,
        "exports": list(routine.exports),
        "code": [_instruction(instruction) for instruction in routine.code],
    }


def _instruction(instruction: Instruction) -> dict[str, Any]:
    told: dict[str, Any] = {"op": instruction.mnemonic, "at": instruction.at}
    for operand in instruction.operands:
        told[operand.name] = _operand(getattr(instruction, operand.name))
    return told


def _operand(value: Any) -> Any:
    """Numbers and names as they are, tuples as lists; operands nest two deep at most."""
    return [_operand(each) for each in value] if isinstance(value, tuple) else value
