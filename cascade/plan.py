"""Plans: how the slots of a structure are ranked and named when an evaluation starts at one root.

The cache beside it makes everything about a structure once: reading a target again whose
structure is known costs the walk and a dictionary look-up, and no solver is asked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from cascade.graph import Node, draw, make_node
from cascade.inputs import Env, Param
from cascade.sketch import Sketch, reorder, sketch
from cascade.solver import Solver, check_plan
from cascade.structure import Reading, Ref, Structure, read

Reorder = Callable[[list[Any]], tuple[Any, ...]]


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
            slots, kept = self.structure.slots, self.structure.kept
            needs: dict[int, tuple[int, ...]] = {}
            readers: dict[int, int] = {}
            todo = [] if self.root < 0 else [self.root]
            for index in todo:  # grows
                slot = slots[index]
                if slot.bound is not None and index != self.root:
                    continue
                needs[index] = tuple([part for part in slot.parts if part not in kept])
                for part in slot.parts:
                    if part not in readers:
                        todo.append(part)
                    readers[part] = readers.get(part, 0) + 1
            self._uses = needs, {part: n for part, n in readers.items() if part not in kept}
        return self._uses

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

    def needed_nodes(self) -> dict[int, Node]:
        """The nodes that the root may need, in plan order."""
        return self._drawn(self.structure.order_from(self.root).needed)

    def all_nodes(self) -> dict[int, Node]:
        """The same, and after them the nodes that only jump routes lead to."""
        return self.needed_nodes() | self._drawn(self.structure.order_from(self.root).routed)

    def _drawn(self, slots: Iterable[int]) -> dict[int, Node]:
        return {index: self.node(index) for index in slots if self.structure.slots[index].is_node}

    def _position(self, slot: int) -> int:
        if slot in self._block:
            counts = self.structure.node_counts
            return counts[slot] - counts[self._block.start]
        return self._places()[slot][1]

    def _places(self) -> dict[int, tuple[int, int]]:
        """By slot: its place among all slots, and among nodes, in the whole order of the root."""
        if self._order is None:
            order = self.structure.order_from(self.root)
            self._order = {}
            nodes = 0
            for place, slot in enumerate((*order.needed, *order.routed)):
                self._order[slot] = place, nodes
                nodes += self.structure.slots[slot].is_node
        return self._order


class PlanCache:
    """The structures seen last, at most `size` of them, each with its plans. Holds no data."""

    def __init__(self, size: int, solver: Solver) -> None:
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"plan_cache_size={size!r} must be a whole number above 0")
        self._size = size
        self._solver = solver
        self._structures: dict[tuple[Any, ...], Structure] = {}
        self._recent: OrderedDict[Structure, None] = OrderedDict()  # the one used last comes last
        self._sketches: OrderedDict[Sketch, tuple[Structure, Reorder]] = OrderedDict()
        self.hits = 0
        self.misses = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._structures)

    def load(self, target: Any) -> tuple[Structure, tuple[Any, ...]]:
        """The structure of `target`, and its data."""
        sketched = sketch(target)
        if sketched is None:
            reading = read(target)
            return self._structure(reading), reading.data
        key, literals = sketched
        known = self._sketches.get(key)
        if known is not None and known[0].is_cached:
            self.hits += 1
            self._recent.move_to_end(known[0])
            return known[0], known[1](literals)
        reading = read(target)
        structure = self._structure(reading)
        self._sketches[key] = structure, reorder(target, reading, structure)
        self._sketches.move_to_end(key)
        if len(self._sketches) > self._size:
            self._sketches.popitem(last=False)
        return structure, reading.data

    def _structure(self, reading: Reading) -> Structure:
        structure = self._structures.get(reading.key)
        if structure is not None:
            self.hits += 1
            self._recent.move_to_end(structure)
            return structure
        self.misses += 1
        structure = self._structures[reading.key] = Structure(reading.key)
        structure.is_cached = True
        self._recent[structure] = None
        if len(self._recent) > self._size:
            oldest, _ = self._recent.popitem(last=False)
            oldest.is_cached = False
            del self._structures[oldest.key]
            self.evictions += 1
        return structure

    def plan(self, structure: Structure, root: Ref) -> Plan:
        """The plan from `root`. The solver is asked once for a structure, for its own root."""
        plan: Plan | None = structure.plans.get(root)
        if plan is None:
            plan = structure.plans[root] = Plan(structure, root)
            if root == structure.root:
                graph = draw(structure, plan.needed_nodes())
                check_plan(graph, self._solver.resolve(graph))
        return plan


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
