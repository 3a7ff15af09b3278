"""What the routines of one structure have in common, found out once for all of them.

A routine costs what it holds, not what could be reached from it: below the loops that stand in it
are evaluations with routines of their own. What is asked about that part is answered from here.
"""

from __future__ import annotations

import weakref
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from cascade.graph.slices import STEPS, Work, pieces, together
from cascade.graph.structure import ROUTER, Ref, Slot, Structure


class Reach:
    """Which slots lead where, in a structure."""

    __slots__ = ("_lowest", "_slots", "_structure", "_to_predecessors", "lasting", "pure")

    def __init__(self, structure: Structure) -> None:
        self._structure = weakref.ref(structure)  # which holds what was found out about it
        self._slots = structure.slots
        self.pure: frozenset[int] = frozenset()
        self.lasting: frozenset[int] = frozenset()
        self._lowest: list[int] = []  # by slot: the first of all that it may need
        self._to_predecessors: frozenset[int] = frozenset()

    @staticmethod
    def found(structure: Structure) -> Work[Reach]:
        """What holds for the structure, in slices; found out once for each."""
        if structure.reach is None:
            structure.reach = yield from together(
                structure.making, "reach", lambda: Reach(structure)._find()
            )
        reach: Reach = structure.reach
        return reach

    @property
    def structure(self) -> Structure:
        """The structure, which lasts as long as it is compiled."""
        structure = self._structure()
        assert structure is not None
        return structure

    def _find(self) -> Work[Reach]:
        structure = self.structure
        self.pure = yield from structure.find_invariants(frozenset())
        self.lasting = yield from structure.find_invariants(frozenset(structure.resources))
        for piece in pieces(structure.slots):  # what a slot needs comes before it
            for slot in piece:
                lowest = [self._lowest[part] for part in slot.parts]
                self._lowest.append(min((slot.index, *lowest)))
            yield
        self._to_predecessors = yield from self._find_ways_to_predecessors()
        return self

    def predecessors(self, loop: int, followed: set[int]) -> list[int]:
        """What iterations of the loop may demand of the evaluation in which the loop stands.

        `followed` says which steps of loops were followed already for that evaluation.
        """
        found: list[int] = []
        todo = [loop]
        while todo:
            step = todo.pop()
            if step in self._to_predecessors and step not in followed:
                followed.add(step)
                todo.extend(self._next(step))
                if step >= 0:
                    found += _around_iterations(self._slots[step])
        return found

    def ordered(self, root: Ref, held: Sequence[int]) -> Work[list[int]]:
        """`held`, sorted, in plan order from `root`; then those that only jump routes lead to.

        Only ways that may lead to what is held are followed.
        """
        if root != self.structure.root:
            yield from self.structure.find_blocks()
        block = self.structure.block_of(root)
        if block:  # plan order is the order of the slots there
            start, stop = bisect_left(held, block.start), bisect_left(held, block.stop)
            return [*held[start:stop], *held[:start], *held[stop:]]
        wanted = dict.fromkeys(held)
        found: list[int] = []
        seen: set[int] = set()
        stack = [(root, False)]
        steps = 0
        while stack:
            steps += 1
            if not steps % STEPS:
                yield
            index, is_left = stack.pop()
            if is_left:
                if index in wanted:
                    del wanted[index]
                    found.append(index)
            elif index not in seen and self._may_need(index, held):
                seen.add(index)
                stack.append((index, True))
                stack.extend((part, False) for part in reversed(self._slots[index].parts))
        return [*found, *wanted]

    def _may_need(self, index: int, held: Sequence[int]) -> bool:
        at = bisect_left(held, self._lowest[index])
        return at < len(held) and held[at] <= index

    def _find_ways_to_predecessors(self) -> Work[frozenset[int]]:
        """The slots, and `~number` of selectors, from which iterations come to a predecessor."""
        slots = self._slots
        todo = [slot.index for slot in slots if _around_iterations(slot)]
        if not todo:
            return frozenset()
        sources: dict[int, list[int]] = {}
        for step in range(-len(self.structure.selectors), len(slots)):
            if not step % STEPS:
                yield
            for other in self._next(step):
                sources.setdefault(other, []).append(step)
        ways = set(todo)
        steps = 0
        while todo:
            steps += 1
            if not steps % STEPS:
                yield
            for source in sources.get(todo.pop(), ()):
                if source not in ways:
                    ways.add(source)
                    todo.append(source)
        return frozenset(ways)

    def _next(self, step: int) -> Iterator[int]:
        """Where the iterations go on: from a slot, or from the selector `~step`."""
        if step < 0:
            routes = self.structure.selectors[~step].values()
            yield from (route for route in routes if route is not None)
            return
        slot = self._slots[step]
        if slot.bound is not None:
            yield ~slot.bound
        if slot.kind is ROUTER:
            yield from _choices(slot)


def _around_iterations(slot: Slot) -> tuple[int, ...]:
    """What stands in the evaluation around a loop, whichever iteration executes the slot."""
    if slot.fallback is None or slot.fallback < 0:
        return slot.after
    return (*slot.after, slot.fallback)


def _choices(router: Slot) -> Iterator[int]:
    """The slots that the Router may choose."""
    for ref in (*router.routes.values(), router.default):
        if ref is not None and ref >= 0:
            yield ref
