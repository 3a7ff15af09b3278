"""What the routines of one structure have in common, found out once for all of them.

A routine costs what it holds, not what could be reached from it: below the loops that stand in it
are evaluations with routines of their own. What is asked about that part is answered from here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from cascade.structure import ROUTER, Ref, Slot, Structure


class Reach:
    """Which slots lead where, in a structure."""

    __slots__ = ("_lowest", "_to_predecessors", "lasting", "pure", "structure")

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.pure = structure.invariants(frozenset())
        self.lasting = structure.invariants(frozenset(structure.resources))
        self._lowest: list[int] = []  # by slot: the first of all that it may need
        for slot in structure.slots:  # what a slot needs comes before it
            self._lowest.append(min((slot.index, *[self._lowest[part] for part in slot.parts])))
        self._to_predecessors = self._find_ways_to_predecessors()

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
                    found += self.structure.slots[step].after
        return found

    def ordered(self, root: Ref, held: Sequence[int]) -> list[int]:
        """`held`, sorted, in plan order from `root`; then those that only jump routes lead to.

        Only ways that may lead to what is held are followed.
        """
        block = self.structure.block_of(root)
        if block:  # plan order is the order of the slots there
            start, stop = bisect_left(held, block.start), bisect_left(held, block.stop)
            return [*held[start:stop], *held[:start], *held[stop:]]
        wanted = dict.fromkeys(held)
        found: list[int] = []
        seen: set[int] = set()
        stack = [(root, False)]
        while stack:
            index, is_left = stack.pop()
            if is_left:
                if index in wanted:
                    del wanted[index]
                    found.append(index)
            elif index not in seen and self._may_need(index, held):
                seen.add(index)
                stack.append((index, True))
                stack.extend((part, False) for part in reversed(self.structure.slots[index].parts))
        return [*found, *wanted]

    def _may_need(self, index: int, held: Sequence[int]) -> bool:
        at = bisect_left(held, self._lowest[index])
        return at < len(held) and held[at] <= index

    def _find_ways_to_predecessors(self) -> frozenset[int]:
        """The slots, and `~number` of selectors, from which iterations come to a predecessor."""
        slots = self.structure.slots
        todo = [slot.index for slot in slots if slot.after]
        if not todo:
            return frozenset()
        sources: dict[int, list[int]] = {}
        for step in range(-len(self.structure.selectors), len(slots)):
            for other in self._next(step):
                sources.setdefault(other, []).append(step)
        ways = set(todo)
        while todo:
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
        slot = self.structure.slots[step]
        if slot.bound is not None:
            yield ~slot.bound
        if slot.kind is ROUTER:
            yield from _choices(slot)


def _choices(router: Slot) -> Iterator[int]:
    """The slots that the Router may choose."""
    for ref in (*router.routes.values(), router.default):
        if ref is not None and ref >= 0:
            yield ref
