"""The plans of structures that were run before."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Final
from weakref import ref

from cascade.graph.nodes import drawing
from cascade.graph.plan import Plan
from cascade.graph.quick_key import quick_key_in_slices, reordering
from cascade.graph.reading import Reading, reading
from cascade.graph.slices import (
    STEPS,
    Shared,
    Work,
    alike,
    digest,
    gathered,
    together,
    whole,
)
from cascade.graph.solver import Solver, resolved
from cascade.graph.structure import Ref, Structure

Reorder = Callable[[list[Any]], tuple[Any, ...]]


class _Kept(ref[Structure]):
    """The place of a structure in a cache, which does not keep it alive."""

    __slots__ = ("digest", "quick_keys", "weight")

    digest: int
    quick_keys: list[int]  # the digests of those that lead to it
    weight: int


MOST_SLOTS: Final = 200_000
MOST_QUICK_KEYS: Final = 4  # of one structure: they differ in what may be shared


class PlanCache:
    """The structures used last, each with its plans. Holds no data.

    There are at most `size` structures, and `slots` slots in all, in which the rows of their code
    for the virtual machine count too. A structure that has more slots is not kept; for its rows
    alone the one used last does not go.

    Theory of operation: the cache refers to a structure weakly. Strongly does its newest Task,
    the one made last, and so a structure goes (with the next garbage collection) when nobody else
    uses that Task any more. Tasks that are made for each request are newer than those of the
    program, which they are mixed with.
    """

    def __init__(self, size: int, solver: Solver, slots: int = MOST_SLOTS) -> None:
        for option, given in (("plan_cache_size", size), ("plan_cache_slots", slots)):
            if not isinstance(given, int) or isinstance(given, bool) or given < 1:
                raise ValueError(f"{option}={given!r} must be a whole number above 0")
        self._size = size
        self._most_slots = slots
        self._solver = solver
        self._known: dict[int, list[_Kept]] = {}  # by digest of the key
        self._by_quick_key: dict[int, list[_Kept]] = {}  # by digest of a quick key
        self._recent: OrderedDict[_Kept, None] = OrderedDict()  # the one used last comes last
        self._making: dict[_Key, Shared[Structure]] = {}
        self._without_task: dict[Structure, None] = {}
        self._gone: deque[_Kept] = deque()  # told by the garbage collector, at any moment
        self._slots = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0

    def __len__(self) -> int:
        self._clear_away()
        return len(self._recent)

    def __del__(self) -> None:
        """The engine is gone: so are its structures, and what refers to them in a circle."""
        for kept in getattr(self, "_recent", ()):
            structure = kept()
            if structure is not None:
                self._let_go(structure)
                structure.plans.clear()
                structure.programs.clear()

    def load(self, target: Any) -> tuple[Structure, tuple[Any, ...]]:
        """The structure of `target`, and its data."""
        return whole(self.loading(target))

    def loading(self, target: Any) -> Work[tuple[Structure, tuple[Any, ...]]]:
        """The same, in slices. What two need at the same time is made once."""
        found = yield from quick_key_in_slices(target)
        if found is None:
            read = yield from reading(target)
            structure = yield from self._structure(read)
            return structure, read.data
        key, literals = found
        number = hash(key) if len(key) <= STEPS else (yield from digest(key))
        for kept in tuple(self._by_quick_key.get(number, ())):
            known = kept()
            if known is None:
                continue
            for other, own_key, reorder in known.quick_keys:
                if other == number and (yield from alike(key, own_key)):
                    self._hit(known)
                    return known, reorder(literals)
        read = yield from reading(target)
        structure = yield from self._structure(read)
        kept = structure.kept
        if kept is not None and len(structure.quick_keys) < MOST_QUICK_KEYS:
            reorder = yield from reordering(target, read, structure)
            structure.quick_keys += ((number, key, reorder),)
            if kept in self._recent:
                kept.quick_keys.append(number)
                self._by_quick_key.setdefault(number, []).append(kept)
        return structure, read.data

    def _hit(self, structure: Structure) -> None:
        self.hits += 1
        if structure.kept in self._recent:
            self._recent.move_to_end(structure.kept)

    def _structure(self, read: Reading) -> Work[Structure]:
        self._clear_away()
        number = yield from digest(read.key[2])
        for kept in tuple(self._known.get(number, ())):
            known = kept()
            if known is not None and (yield from _same(known.key, read.key)):
                self._hit(known)
                return known
        key = _Key(number, read.key)
        if key in self._making:
            self.hits += 1
        return (yield from together(self._making, key, lambda: self._make(number, read.key)))

    def _make(self, number: int, key: tuple[Any, ...]) -> Work[Structure]:
        self.misses += 1
        structure = yield from Structure.derived(key)
        self._keep(structure, number)
        return structure

    def _keep(self, structure: Structure, number: int) -> None:
        if len(structure.slots) > self._most_slots:
            self.evictions += 1
            return
        kept = structure.kept = _Kept(structure, self._gone.append)
        kept.digest = number
        kept.quick_keys = []
        kept.weight = len(structure.slots)
        owned = self._without_task
        if structure.newest_task is not None:
            owned = structure.newest_task.structures
        owned[structure] = None
        self._recent[kept] = None
        self._known.setdefault(number, []).append(kept)
        self._slots += kept.weight
        self._make_room()

    def grew(self, structure: Structure, slots: int) -> None:
        """There is so much more of a structure than there was."""
        kept = structure.kept
        if kept is not None and kept in self._recent:
            kept.weight += slots
            self._slots += slots
            self._make_room()

    def _make_room(self) -> None:
        while len(self._recent) > self._size or (
            self._slots > self._most_slots and len(self._recent) > 1
        ):
            oldest = next(iter(self._recent))
            structure = oldest()
            if structure is not None:
                self._let_go(structure)
            self._forget(oldest)
            self.evictions += 1

    def _let_go(self, structure: Structure) -> None:
        self._without_task.pop(structure, None)
        if structure.newest_task is not None:
            structure.newest_task.structures.pop(structure, None)

    def _clear_away(self) -> None:
        """Forget the structures that nobody keeps alive any more."""
        while self._gone:
            kept = self._gone.popleft()
            if kept in self._recent:
                self._forget(kept)
                self.evictions += 1

    def _forget(self, kept: _Kept) -> None:
        del self._recent[kept]
        self._slots -= kept.weight
        _remove(self._known, kept.digest, kept)
        for number in kept.quick_keys:
            _remove(self._by_quick_key, number, kept)

    def plan(self, structure: Structure, root: Ref) -> Plan:
        """The plan from `root`. The solver is asked once for a structure, for its own root."""
        plan: Plan | None = structure.plans.get(root)
        return whole(self.planning(structure, root)) if plan is None else plan

    def planning(self, structure: Structure, root: Ref) -> Work[Plan]:
        """The same, in slices."""
        plan: Plan | None = structure.plans.get(root)
        if plan is not None:
            return plan
        made: Plan = yield from together(
            structure.making, ("plan", root), lambda: self._plan(structure, root)
        )
        return made

    def _plan(self, structure: Structure, root: Ref) -> Work[Plan]:
        plan = yield from Plan.made(structure, root)
        if root == structure.root:
            order = yield from structure.find_order(root)
            drawn = yield from gathered(plan.drawn(order.needed))
            routed = yield from gathered(plan.drawn(order.routed))
            nodes = dict(drawn)
            graph = yield from drawing(structure, nodes, nodes | dict(routed))
            yield from resolved(self._solver, graph)
        structure.plans[root] = plan
        return plan


class _Key:
    """The key of a structure that is being made."""

    __slots__ = ("_key", "_number")

    def __init__(self, number: int, key: tuple[Any, ...]) -> None:
        self._number = number
        self._key = key

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._key == other._key


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> Work[bool]:
    """Whether two keys of structures are equal."""
    root, main, entries, selectors = one
    if (root, main, selectors) != (other[0], other[1], other[3]):
        return False
    return (yield from alike(entries, other[2]))


def _remove(table: dict[int, list[_Kept]], number: int, kept: _Kept) -> None:
    left = [other for other in table.get(number, ()) if other is not kept]
    if left:
        table[number] = left
    else:
        table.pop(number, None)
