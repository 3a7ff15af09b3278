"""Which node of a target the id of an event means.

An id names the evaluations around a node, from the target inwards (`loop#3/step#0`), and within
each the node by its place in plan order. So an id is read from the left: each part is looked up
among the nodes of the evaluations that the parts before may mean.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cascade.graph.plan import Plan
from cascade.graph.structure import Ref, Structure

_PART_END: Final = re.compile(r"#\d+(?=[/\[]|$)")
_ITEM: Final = re.compile(r"(?<=\d)\[\d+\]")


@dataclass(frozen=True, slots=True)
class Meaning:
    """The innermost node of the target that an id is certain to be of, as of `build_graph`.

    `is_exact` unless the id is of something that this leads to: the items of a map, a returned
    expression, a target that was registered. `others` are the nodes that it may be as well: routes
    of one loop may give different nodes the same id. `node` is None for an id of another target.
    """

    node: str | None
    is_exact: bool
    others: tuple[str, ...] = ()


class Attribution:
    """The nodes of a target of this structure, found by the ids of its events."""

    def __init__(self, structure: Structure) -> None:
        self._structure = structure
        self._ids: dict[Ref, dict[str, int]] = {}
        self._roots: dict[int, tuple[Ref, ...]] = {}
        self._names = {slot: id for id, slot in self._ids_from(self._structure.root).items()}

    def meaning_of(self, task_id: str) -> Meaning:
        """The node that an event with this id is about."""
        roots: tuple[Ref, ...] = (self._structure.root,)
        found: int | None = None
        rest = task_id
        while rest:
            slots, rest = self._first_part(roots, rest)
            if len(slots) != 1:
                others = tuple(sorted(self._names[slot] for slot in slots if slot != found))
                return Meaning(self._name(found), False, others)
            found = slot = min(slots)
            if not rest:
                return Meaning(self._names[slot], True)
            if rest[0] == "[" or self._structure.slots[slot].bound is None:
                break
            roots = self._roots_of(slot)
            rest = rest[1:]
        return Meaning(self._name(found), False)

    def _name(self, slot: int | None) -> str | None:
        return None if slot is None else self._names[slot]

    def _first_part(self, roots: tuple[Ref, ...], path: str) -> tuple[set[int], str]:
        """The slots that the first part of `path` may mean in these evaluations, and the rest.

        Names may hold any character, so each end of a part is tried.
        """
        for end in _PART_END.finditer(path):
            id = path[: end.end()]
            slots = {ids[id] for root in roots if id in (ids := self._ids_from(root))}
            if slots:
                return slots, path[end.end() :]
        return set(), ""

    def _ids_from(self, root: Ref) -> dict[str, int]:
        ids = self._ids.get(root)
        if ids is None:
            nodes = Plan(self._structure, root).all_nodes()
            ids = self._ids[root] = {node.id: slot for slot, node in nodes.items()}
        return ids

    def _roots_of(self, loop: int) -> tuple[Ref, ...]:
        """The targets of the evaluations that a loop may make: itself, its routes, and theirs."""
        known = self._roots.get(loop)
        if known is None:
            found: dict[int, None] = {loop: None}
            todo = [loop]
            for slot in todo:  # grows while routes are followed
                bound = self._structure.slots[slot].bound
                routes = {} if bound is None else self._structure.selectors[bound]
                fresh = [r for r in routes.values() if r is not None and r not in found]
                found.update(dict.fromkeys(fresh))
                todo += fresh
            known = self._roots[loop] = tuple(found)
        return known


def general_id(task_id: str) -> str:
    """The id with `[*]` for the positions of map items: what they have in common.

    >>> general_id("fetch#0[7]/fetch#0")
    'fetch#0[*]/fetch#0'
    """
    return _ITEM.sub("[*]", task_id)
