"""Plans: how the slots of a structure are ranked and named when an evaluation starts at one root.

The cache beside it makes everything about a structure once: reading a target again whose
structure is known costs the walk and a dictionary look-up, and no solver is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from cascade.graph.nodes import Node, make_node
from cascade.graph.reading import read
from cascade.graph.slices import (
    STEPS,
    Work,
    pieces,
    whole,
)
from cascade.graph.structure import Ref, Structure
from cascade.workflow.inputs import Env, Param


class Plan:
    """The evaluation of one root of a structure, whatever the data: ranks and nodes of its slots.

    Mostly what a root needs stands in one block of the structure, in plan order already; then
    ranks and positions follow from those of the structure, however many roots it has.
    """

    __slots__ = ("_block", "_nodes", "_order", "_uses", "root", "structure")

    def __init__(self, structure: Structure, root: Ref) -> None:
        self.structure = structure
        self.root = root
        self._block = structure.block_of(root)
        self._nodes: dict[int, Node] = {}
        self._order: dict[int, tuple[int, int]] | None = None
        self._uses: tuple[dict[int, tuple[int, ...]], dict[int, int]] | None = None

    def uses(self) -> tuple[dict[int, tuple[int, ...]], dict[int, int]]:
        """By slot: what it may need that can be released, and how many such slots may need it.

        Loops count for nothing: what they need is demanded by evaluations of their own.
        """
        if self._uses is None:
            whole(self._find_uses())
        assert self._uses is not None
        return self._uses

    def _find_uses(self) -> Work[None]:
        slots, kept = self.structure.slots, self.structure.unreleased
        needs: dict[int, tuple[int, ...]] = {}
        readers: dict[int, int] = {}
        todo = [] if self.root < 0 else [self.root]
        for index in todo:  # grows
            if len(needs) % STEPS == STEPS - 1:
                yield
            slot = slots[index]
            if slot.bound is not None and index != self.root:
                continue
            needs[index] = tuple([part for part in slot.parts if part not in kept])
            for part in slot.parts:
                if part not in readers:
                    todo.append(part)
                readers[part] = readers.get(part, 0) + 1
        self._uses = needs, {part: n for part, n in readers.items() if part not in kept}

    @staticmethod
    def made(structure: Structure, root: Ref) -> Work[Plan]:
        """The same, in slices: all that it may be asked for has been found out then."""
        if root != structure.root:
            yield from structure.find_blocks()
        plan = Plan(structure, root)
        if not plan._block and root >= 0:
            yield from structure.find_order(root)
            yield from plan._find_places()
        yield from structure.find_unreleased()
        yield from plan._find_uses()
        return plan

    def rank(self, slot: int) -> int:
        """Where a slot stands in plan order, those that only jump routes lead to last."""
        if slot in self._block:
            return slot
        return len(self.structure.slots) + self._places()[slot][0]

    def node(self, slot: int) -> Node:
        """The public node of a slot."""
        node = self._nodes.get(slot)
        if node is None:
            node = self._nodes[slot] = make_node(self.structure.slots[slot], self._position(slot))
        return node

    def all_nodes(self) -> dict[int, Node]:
        """The nodes that the root may need, in plan order, then those that only jumps lead to."""
        order = self.structure.order_from(self.root)
        return {**dict(self.drawn(order.needed)), **dict(self.drawn(order.routed))}

    def drawn(self, slots: Iterable[int]) -> Iterator[tuple[int, Node]]:
        """The nodes among slots."""
        for index in slots:
            slot = self.structure.slots[index]
            if slot.is_node:
                yield index, self._nodes.get(index) or make_node(slot, self._position(index))

    def _position(self, slot: int) -> int:
        if slot in self._block:
            counts = self.structure.node_counts
            return counts[slot] - counts[self._block.start]
        return self._places()[slot][1]

    def _places(self) -> dict[int, tuple[int, int]]:
        """By slot: its place among all slots, and among nodes, in the whole order of the root."""
        return whole(self._find_places()) if self._order is None else self._order

    def _find_places(self) -> Work[dict[int, tuple[int, int]]]:
        order = self.structure.order_from(self.root)
        places: dict[int, tuple[int, int]] = {}
        nodes = 0
        for slots in (order.needed, order.routed):
            for piece in pieces(slots):
                for slot in piece:
                    places[slot] = len(places), nodes
                    nodes += self.structure.slots[slot].is_node
                yield
        self._order = places
        return places


def inputs_of(structure: Structure, data: tuple[Any, ...]) -> list[Param[Any] | Env]:
    """What the target declares, jump routes and unchosen parts included."""
    return [data[~ref] for ref in structure.inputs]


def parameters(target: Any) -> list[Param[Any] | Env]:
    """The Params and Envs that `target` declares, each name once, in plan order.

    Those of jump routes and of parts that may not run are among them.

    >>> import cascade as cs
    >>> cs.parameters([cs.Param("n", type=int), cs.Env("HOME")])
    [<Param n>, <Env HOME>]
    """
    reading = read(target)
    declared = inputs_of(Structure(reading.key), reading.data)
    return list({(type(given), given.name): given for given in reversed(declared)}.values())[::-1]
