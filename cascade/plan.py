"""Plans: how the slots of a structure are ranked and named when an evaluation starts at one root.

The cache beside it makes everything about a structure once: reading a target again whose
structure is known costs the walk and a dictionary look-up, and no solver is asked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from cascade.graph import Node, draw, draw_nodes
from cascade.inputs import Env, Param
from cascade.solver import Solver, check_plan
from cascade.structure import Ref, Structure, read


class Plan:
    """The evaluation of one root of a structure, whatever the data.

    `rank` orders its slots in plan order; `nodes` gives the public node of a slot, those that only
    jump routes lead to last.
    """

    __slots__ = ("nodes", "rank", "root", "structure")

    def __init__(self, structure: Structure, root: Ref) -> None:
        self.structure = structure
        self.root = root
        order = structure.order_from(root)
        slots = (*order.needed, *order.routed)
        self.rank: Mapping[int, int] = {slot: rank for rank, slot in enumerate(slots)}
        self.nodes: Mapping[int, Node] = draw_nodes(structure, slots)


class PlanCache:
    """The structures seen last, at most `size` of them, each with its plans. Holds no data."""

    def __init__(self, size: int, solver: Solver) -> None:
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"plan_cache_size={size!r} must be a whole number above 0")
        self._size = size
        self._solver = solver
        self._structures: OrderedDict[tuple[Any, ...], Structure] = OrderedDict()
        self.hits = 0
        self.misses = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._structures)

    def load(self, target: Any) -> tuple[Structure, tuple[Any, ...]]:
        """The structure of `target`, and its data."""
        reading = read(target)
        structure = self._structures.get(reading.key)
        if structure is not None:
            self.hits += 1
            self._structures.move_to_end(reading.key)
            return structure, reading.data
        self.misses += 1
        structure = Structure(reading.key)
        self._structures[reading.key] = structure
        if len(self._structures) > self._size:
            self._structures.popitem(last=False)
            self.evictions += 1
        return structure, reading.data

    def plan(self, structure: Structure, root: Ref) -> Plan:
        """The plan from `root`, solved when it is asked for the first time."""
        plan: Plan | None = structure.plans.get(root)
        if plan is None:
            plan = Plan(structure, root)
            needed = structure.order_from(root).needed
            graph = draw(structure, {s: plan.nodes[s] for s in needed if s in plan.nodes})
            check_plan(graph, self._solver.resolve(graph))
            structure.plans[root] = plan
        return plan


def inputs_of(structure: Structure, data: tuple[Any, ...]) -> list[Param[Any] | Env]:
    """What the target declares, jump routes and unchosen parts included."""
    return [data[~ref] for ref in structure.inputs]


def parameters(target: Any) -> list[Param[Any] | Env]:
    """The Params and Envs that `target` declares, each name once, in plan order.

    >>> import cascade as cs
    >>> cs.parameters([cs.Param("n", type=int), cs.Env("HOME")])
    [<Param n>, <Env HOME>]
    """
    reading = read(target)
    declared = inputs_of(Structure(reading.key), reading.data)
    return list({(type(given), given.name): given for given in reversed(declared)}.values())[::-1]
