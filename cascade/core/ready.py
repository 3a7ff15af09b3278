"""Plan order among everything that is ready, over all the evaluations of a run.

A place (an evaluation, or the items of a map) ranks its own calls by an int, and stands itself at
one rank of the place around it. Ranks of one place are compared as ints in a heap of its own;
places are compared where their paths part, so that nesting costs only when it competes.
"""

from __future__ import annotations

from heapq import heappop, heappush, heapreplace
from typing import Any

from cascade.core.calls import Place


class _Head:
    """The first of one place's ready calls, comparable with the first of another's."""

    __slots__ = ("place", "rank")

    def __init__(self, place: Place, rank: int) -> None:
        self.place = place
        self.rank = rank

    def __lt__(self, other: _Head) -> bool:
        if self.place is other.place:
            return self.rank < other.rank
        return self.place.precedes(self.rank, other.place, other.rank)


class ReadyQueue:
    """Calls that are ready; `pop` gives the first in plan order."""

    __slots__ = ("_heads", "_heaps", "_size")

    def __init__(self) -> None:
        self._heads: list[_Head] = []
        self._heaps: dict[Place, list[tuple[int, Any]]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, place: Place, rank: int, call: Any) -> None:
        """Add a call that stands at `rank` of `place`; no other of that rank may be in here."""
        heap = self._heaps.get(place)
        if heap is None:
            heap = self._heaps[place] = []
        heappush(heap, (rank, call))
        if heap[0][0] == rank:
            heappush(self._heads, _Head(place, rank))
        self._size += 1

    def first(self) -> Any:
        """The first call in plan order."""
        return self._first_heap()[0][1]

    def _first_heap(self) -> list[tuple[int, Any]]:
        """The heap of the place whose head is the first of all."""
        heads = self._heads
        while True:
            head = heads[0]
            heap = self._heaps.get(head.place)
            if heap is not None and heap[0][0] == head.rank:
                return heap
            heappop(heads)  # its place has an earlier head by now

    def pop(self) -> Any:
        """Take out the first call in plan order."""
        heap = self._first_heap()
        heads = self._heads
        head = heads[0]
        _, call = heappop(heap)
        if heap:
            heapreplace(heads, _Head(head.place, heap[0][0]))
        else:
            heappop(heads)
            del self._heaps[head.place]
        self._size -= 1
        if not self._size:
            heads.clear()
        return call
