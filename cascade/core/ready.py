"""Plan order among everything that is ready, over all the evaluations of a run.

A place (an evaluation, or the items of a map) ranks its own calls by an int, and stands itself at
one rank of the place around it. Ranks of one place are compared as ints in a heap of its own;
places are compared where their paths part, so that nesting costs only when it competes.
"""

from __future__ import annotations

from heapq import heappop, heappush, heapreplace
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from cascade.core.holdings import Holdings
    from cascade.core.processor import Call
    from cascade.graph.nodes import Node

LONGEST_PATH: Final = 20  # ids in the note of a failure


class Place:
    """Where calls stand in plan order, itself at `parent_rank` of its parent.

    `parent_index` is what it belongs to there: a slot, or an item.
    """

    __slots__ = ("_jump", "depth", "parent", "parent_index", "parent_rank")

    def __init__(self, parent: Place | None, parent_index: int, parent_rank: int) -> None:
        self.parent = parent
        self.parent_index = parent_index
        self.parent_rank = parent_rank
        self.depth: int = 0
        self._jump: Place | None = None  # the outermost refers to none: it would be a cycle
        if parent is not None:
            # Jumps as in a skew-binary list: any place around is found in O(log depth) steps.
            self.depth = parent.depth + 1
            jump = parent._jump
            further = None if jump is None else jump._jump
            self._jump = parent
            if (
                jump is not None
                and further is not None
                and parent.depth - jump.depth == jump.depth - further.depth
            ):
                self._jump = further

    def _around_at(self, depth: int) -> Place:
        """The place around this one that stands at `depth`."""
        place = self
        while place.depth > depth:
            jump = cast("Place", place._jump)
            place = jump if jump.depth >= depth else cast("Place", place.parent)
        return place

    def precedes(self, rank: int, other: Place, other_rank: int) -> bool:
        """Whether `rank` here comes before `other_rank` of another place of the same run."""
        one, two = self, other
        if one.depth > two.depth:
            one = one._around_at(two.depth + 1)
            one, rank = cast("Place", one.parent), one.parent_rank
        elif two.depth > one.depth:
            two = two._around_at(one.depth + 1)
            two, other_rank = cast("Place", two.parent), two.parent_rank
        if one is two:
            return rank < other_rank
        while one.parent is not two.parent:
            if one._jump is not two._jump:
                one, two = cast("Place", one._jump), cast("Place", two._jump)
            else:
                one, two = cast("Place", one.parent), cast("Place", two.parent)
        return one.parent_rank < two.parent_rank

    def task_id(self, index: int) -> str:
        """The id of what stands at `index` here, prefixed by the ids of what is around it."""
        parts = [self.local_id(index)]
        place = self
        while place.parent is not None:
            if not place.local_id_names_owner:
                parts.append(place.parent.local_id(place.parent_index))
            place = place.parent
        return "/".join(reversed(parts))

    def path(self, index: int) -> list[str]:
        """The ids from what stands at `index` here to the target of the run."""
        path = self.local_path(index)
        place = self
        while place.parent is not None and len(path) < LONGEST_PATH:
            if not place.local_id_names_owner:
                path += place.parent.local_path(place.parent_index)
            place = place.parent
        return path[:LONGEST_PATH]

    # What a strategy's places tell of the calls that stand in them.

    local_id_names_owner = False  # whether local ids include the id that the owner has

    @property
    def holdings(self) -> Holdings:
        """Where their run and step resources are held."""
        raise NotImplementedError

    def local_id(self, index: int) -> str:
        """The id of a call within this place."""
        raise NotImplementedError

    def local_path(self, index: int) -> list[str]:
        """The ids from a call to what this place computes."""
        raise NotImplementedError

    def node(self, index: int) -> Node:
        """The public node of a call."""
        raise NotImplementedError

    def injected(self, index: int) -> frozenset[int | str]:
        """The arguments of a call that are injected resources: positions and keywords."""
        raise NotImplementedError

    def completed(self, call: Call, value: Any) -> None:
        """A call came to a value, or to control."""
        raise NotImplementedError

    def release(self) -> None:
        """Let go of all values, and of all that refers back: the run is over."""
        raise NotImplementedError


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
