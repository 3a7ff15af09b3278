"""From the slots of a structure to the instructions of one routine.

0. **What it holds**: what is demanded from its root down to the loops in it, and what the
   iterations of these demand of it. Their own inputs are held by routines of their own.
1. **Regions**, from consumers to what they need: what is demanded in one region stands in it; what
   several regions demand, or an iteration from outside, gets a region that each of them opens.
   What region 0 demands stands in region 0, whoever else demands it.
2. **Rows** in plan order. A branch stands right after its condition, above all that it guards.
3. **Registers**: a value takes the register of an argument that nobody else reads.

Each pass looks at every slot that is held once; nothing recurses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

from cascade.compiler.reach import Reach
from cascade.graph.slices import STEPS, Work, pieces
from cascade.graph.structure import (
    DICT,
    LIST,
    MAP,
    PARAM,
    RESOURCE,
    ROUTER,
    TUPLE,
    Ref,
    Slot,
    Structure,
)
from cascade.vm import isa
from cascade.vm.blueprint import Given, Routine
from cascade.workflow.task import VARARGS

NOTHING_GIVEN: Final[Given] = frozenset()
_CONTAINERS: Final = {LIST: isa.List, TUPLE: isa.Tuple, DICT: isa.Dict}
_MODES: Final = {"inline": isa.Call, "thread": isa.Thread, "process": isa.Process}


@dataclass(slots=True)
class _Place:
    """Where a slot stands: its region, and the regions that it opens itself."""

    slot: Slot
    region: int  # where it is demanded
    own: int  # where its code stands: elsewhere if it turns out not to be shared
    follow: int = isa.NOWHERE  # after the predecessors of an iteration
    then: list[int] = field(default_factory=list)  # after each of its conditions
    otherwise: int = isa.NOWHERE  # for its default
    routes: dict[Ref, int] = field(default_factory=dict)


class RoutineCompiler:
    """Compiles the evaluation of one root of a structure."""

    def __init__(self, reach: Reach, root: Ref, is_body: bool, given: Given) -> None:
        self._reach = reach
        self._slots = reach.structure.slots
        self._root = root
        self._is_body = is_body
        self._given = given
        self._exports: set[int] = set()  # what iterations of loops in it demand of it
        self._heard: set[int] = set()  # what maps hear of as it settles, item by item
        self._order: list[int] = []
        self._rank: dict[int, int] = {}
        self._places: dict[int, _Place] = {}
        self._openers: dict[int, dict[int, None]] = {}
        self._opens: list[tuple[int, int]] = []  # (in which region, which region)
        self._consumers: dict[int, int] = {}  # how often a value is read
        self._regions = 1
        self._rows: list[tuple[int, int, isa.Instruction]] = []
        self._registers: dict[int, int] = {}
        self._count = 0

    def compiling(self) -> Work[Routine]:
        """The routine, in slices."""
        if self._root < 0:
            return self._routine((isa.Return(0, self._root),), 1, ())
        held = yield from self._hold()
        self._order = yield from self._reach.ordered(self._root, sorted(held))
        self._rank = {index: rank for rank, index in enumerate(self._order)}
        yield
        yield from self._find_regions()
        yield from self._allocate()
        for piece in pieces(self._order):
            for index in piece:
                self._emit(self._places[index])
            yield
        yield from self._emit_opens()
        code = yield from self._code()
        code.append(isa.Return(0, self._registers[self._root]))
        renumbered = yield from _renumbered(code)
        return self._routine(*renumbered, tuple(sorted(self._exports)))

    def _routine(
        self, code: tuple[isa.Instruction, ...], regions: int, exports: tuple[int, ...]
    ) -> Routine:
        return Routine(self._root, self._is_body, self._given, self._count, regions, exports, code)

    # What it holds

    def _hold(self) -> Work[set[int]]:
        """The slots that may be demanded here; loops are entered by evaluations of their own."""
        if not self._is_body:
            self._exports.update(self._reach.pure)
        held: set[int] = set()
        followed: set[int] = set()
        todo = [self._root, *self._exports]
        steps = 0
        while todo:
            steps += 1
            if not steps % STEPS:
                yield
            index = todo.pop()
            if index in held:
                continue
            held.add(index)
            slot = self._slots[index]
            if self._is_loop(slot):
                predecessors = self._reach.predecessors(index, followed)
                self._exports.update(predecessors)
                todo += predecessors
            else:
                todo += self._parts(slot)
                self._heard.update(slot.heard(self._slots))
                if slot.recovers:
                    on_failure = self._on_failure(slot)
                    self._exports.update(on_failure)
                    todo += on_failure
        return held

    def _parts(self, slot: Slot) -> tuple[int, ...]:
        """What the code of a slot other than a loop may demand."""
        if self._is_shared(slot) and slot.index in self._reach.lasting:
            return ()
        if slot.index != self._root or not slot.is_node:
            late = slot.fallbacks()
            return tuple([part for part in slot.parts if part not in late]) if late else slot.parts
        default = () if slot.default is None else (slot.default,)
        after = () if self._is_body else slot.after
        arguments = self._open_arguments(slot)
        refs = (*slot.conditions, *default, *after, *arguments, *slot.amount_slots)
        return tuple([ref for ref in refs if ref >= 0])

    def _on_failure(self, slot: Slot) -> tuple[int, ...]:
        """What a failure of the slot may demand here, and no instruction does."""
        if self._is_shared(slot) and slot.index in self._reach.lasting:
            return ()
        if slot.handler is not None:
            return self._slots[slot.handler].argument_slots
        is_here = slot.fallback is not None and slot.fallback >= 0 and not self._is_root_body(slot)
        return (slot.fallback,) if is_here else ()  # type: ignore[return-value]

    # Regions

    def _find_regions(self) -> Work[None]:
        self._openers[self._root] = {0: None}
        for piece in pieces(self._order[::-1]):
            for index in piece:
                self._places[index] = self._place(self._slots[index], self._region_of(index))
            yield

    def _region_of(self, index: int) -> int:
        """Where a slot is demanded: what several regions demand has one that each may open."""
        openers = self._openers.pop(index, {})
        if 0 in openers:
            return 0
        if len(openers) == 1 and index not in self._exports:
            (region,) = openers
            return region
        region = self._new_region()
        self._opens += [(opener, region) for opener in openers]
        return region

    def _new_region(self) -> int:
        self._regions += 1
        return self._regions - 1

    def _demand(self, ref: Ref, region: int) -> None:
        if ref >= 0:
            self._openers.setdefault(ref, {})[region] = None
            self._consumers[ref] = self._consumers.get(ref, 0) + 1

    def _place(self, slot: Slot, region: int) -> _Place:
        place = _Place(slot, region, region)
        if self._is_shared(slot):
            if slot.index in self._reach.lasting:
                place.own = isa.NOWHERE
                return place
            place.own = region = self._new_region()
        if slot.kind is ROUTER:
            self._place_router(slot, place)
        elif not slot.is_node:
            for ref in slot.members:
                self._demand(ref, region)
        elif not self._is_loop(slot):
            self._place_node(slot, place, region)
        return place

    def _place_node(self, slot: Slot, place: _Place, region: int) -> None:
        if self._is_root_body(slot) and slot.after:
            place.follow = region = self._new_region()
        for condition in slot.conditions:
            self._demand(condition, region)
            region = self._new_region()
            place.then.append(region)
        if slot.conditions and slot.default is not None:
            place.otherwise = self._new_region()
            self._demand(slot.default, place.otherwise)
        if not self._is_root_body(slot):
            for index in slot.after:
                self._demand(index, region)
        for index in self._open_arguments(slot):
            self._demand(index, region)
        for index in slot.amount_slots:
            self._demand(index, region)

    def _place_router(self, slot: Slot, place: _Place) -> None:
        assert slot.selector is not None
        self._demand(slot.selector, place.region)
        for ref in (*slot.routes.values(), slot.default):
            if ref is not None and ref not in place.routes:
                place.routes[ref] = self._new_region()
                self._demand(ref, place.routes[ref])

    def _is_shared(self, slot: Slot) -> bool:
        return self._is_body and slot.index in self._reach.pure and slot.index != self._root

    def _is_root_body(self, slot: Slot) -> bool:
        return self._is_body and slot.index == self._root

    def _is_loop(self, slot: Slot) -> bool:
        return slot.bound is not None and not self._is_root_body(slot)

    def _open_arguments(self, slot: Slot) -> list[int]:
        refs = [*self._args(slot), *(ref for _, ref in self._kwargs(slot))]
        return list(dict.fromkeys(ref for ref in refs if ref is not None and ref >= 0))

    def _args(self, slot: Slot) -> tuple[Ref | None, ...]:
        if slot.index != self._root or not self._given:
            return slot.args
        names = slot.task.parameters.positional
        return tuple(
            [
                None
                if (names[position] if position < len(names) else VARARGS) in self._given
                else ref
                for position, ref in enumerate(slot.args)
            ]
        )

    def _kwargs(self, slot: Slot) -> tuple[tuple[str, Ref | None], ...]:
        if slot.index != self._root or not self._given:
            return slot.kwargs
        return tuple([(name, None if name in self._given else ref) for name, ref in slot.kwargs])

    # Registers

    def _allocate(self) -> Work[None]:
        for piece in pieces(self._order):
            for index in piece:
                place = self._places[index]
                if self._is_root_body(place.slot):
                    for outer in dict.fromkeys(place.slot.after):
                        self._registers[~outer] = self._new_register()
                taken = None if self._is_shared(place.slot) else self._taken_over(place.slot)
                self._registers[index] = self._new_register() if taken is None else taken
            yield

    def _new_register(self) -> int:
        self._count += 1
        return self._count - 1

    def _taken_over(self, slot: Slot) -> int | None:
        """The register of an argument that only this slot reads.

        None for what guards may write before the argument is there, and for what iterations and
        maps may ask for: they take a register that holds something for one that holds the value.
        """
        if slot.index in self._exports or slot.index in self._heard:
            return None
        is_guarded = slot.conditions or (slot.after and self._is_root_body(slot))
        if is_guarded or self._is_loop(slot) or slot.kind is ROUTER:
            return None
        for index in (*self._open_arguments(slot), *slot.members):
            if (
                index >= 0
                and self._consumers[index] == 1
                and index not in self._exports
                and index not in self._heard
                and index != self._root
                and not self._is_shared(self._slots[index])
            ):
                return self._registers[index]
        return None

    # Rows

    def _row(self, rank: int, order: int, instruction: isa.Instruction) -> None:
        self._rows.append((rank, order, instruction))

    def _ref(self, ref: Ref | None) -> Ref | None:
        return ref if ref is None or ref < 0 else self._registers[ref]

    def _operand(self, ref: Ref) -> Ref:
        return ref if ref < 0 else self._registers[ref]

    def _refs(self, refs: tuple[Ref | None, ...]) -> tuple[Ref | None, ...]:
        return tuple([self._ref(ref) for ref in refs])

    def _emit(self, place: _Place) -> None:
        slot, region = place.slot, place.region
        dst, rank = self._registers[slot.index], self._rank[slot.index]
        if self._is_shared(slot):
            if place.own == isa.NOWHERE:
                self._row(rank, 0, isa.Shared(region, dst, slot.index, isa.NOWHERE))
                return
            self._row(self._top(place), -2, isa.Shared(region, dst, slot.index, place.own))
            region = place.own
        if slot.is_node and not self._is_loop(slot):
            self._emit_node(place, region, dst, rank)
        elif slot.kind is ROUTER:
            self._emit_router(place, dst)
        elif slot.is_node:
            self._row(rank, 0, isa.Loop(region, dst, slot.index))
        elif slot.kind is PARAM:
            self._row(rank, 0, isa.Param(region, dst, slot.index, ~slot.data))
        elif slot.kind is RESOURCE:
            self._row(rank, 0, isa.Inject(region, dst, slot.index))
        else:
            members = self._refs(slot.members)
            self._row(rank, 0, _CONTAINERS[slot.kind](region, dst, slot.index, members))

    def _emit_node(self, place: _Place, region: int, dst: int, rank: int) -> None:
        slot = place.slot
        if place.follow != isa.NOWHERE:
            region = self._emit_predecessors(place, dst)
        above, order = self._top(place), -1
        for condition, then in zip(slot.conditions, place.then, strict=True):
            if condition >= 0:
                above, order = max(self._rank[condition], above if order > 0 else 0), 1
            branch = isa.Branch(
                region, dst, slot.index, self._operand(condition), then, place.otherwise
            )
            self._row(above, order, branch)
            region = then
        if slot.conditions and slot.default is not None:
            if slot.default >= 0 and self._rank[slot.default] >= above:
                above, order = self._rank[slot.default], 1
            default = isa.Default(place.otherwise, dst, slot.index, self._operand(slot.default))
            self._row(above, order, default)
        self._row(rank, 0, self._invocation(slot, region, dst))

    def _emit_predecessors(self, place: _Place, dst: int) -> int:
        """The predecessors of an iteration belong to the evaluation around, and come first."""
        slot = place.slot
        after = tuple([self._registers[~index] for index in slot.after])
        for index in dict.fromkeys(slot.after):
            self._row(-1, 0, isa.Outer(place.region, self._registers[~index], index))
        self._row(-1, 0, isa.Follow(place.region, dst, slot.index, after, place.follow))
        return place.follow

    def _invocation(self, slot: Slot, region: int, dst: int) -> isa.Instruction:
        own = () if self._is_root_body(slot) else slot.after
        after = tuple([self._registers[index] for index in own])
        amounts = tuple(
            [(name, self._registers[ref]) for name, kind, ref in slot.amounts if kind is None]
        )
        kwargs = tuple([(name, self._ref(ref)) for name, ref in self._kwargs(slot)])
        if slot.kind is MAP:
            return isa.Map(region, dst, slot.index, kwargs, after, amounts)
        kind = isa.Await if slot.task.is_async else _MODES[slot.task.mode]
        args = self._refs(self._args(slot))
        return kind(region, dst, slot.index, args, kwargs, after, amounts)

    def _emit_router(self, place: _Place, dst: int) -> None:
        slot = place.slot
        assert slot.selector is not None
        if slot.selector >= 0:
            above, order = self._rank[slot.selector], 1
        else:
            ranks = [self._first_rank(r, self._rank[slot.index]) for r in place.routes.values()]
            above, order = min(ranks), -1
        selector = self._operand(slot.selector)
        routes = tuple(place.routes.items())
        self._row(above, order, isa.Choose(place.region, dst, slot.index, selector, routes))
        for ref, region in place.routes.items():
            take = isa.Take(region, dst, slot.index, self._operand(ref))
            if ref >= 0:
                self._row(max(self._rank[ref], above), 2, take)
            else:
                self._row(above, max(order, 1), take)

    def _first_rank(self, region: int, at_most: int) -> int:
        """Where the first slot of a region stands, but not below `at_most`."""
        if not hasattr(self, "_firsts"):
            self._firsts: dict[int, int] = {}
            for index in self._order:
                self._firsts.setdefault(self._places[index].region, self._rank[index])
        return min(self._firsts.get(region, at_most), at_most)

    def _top(self, place: _Place) -> int:
        """Above which rank the first row of a node with guards stands."""
        rank = self._rank[place.slot.index]
        conditions = [self._rank[ref] for ref in place.slot.conditions if ref >= 0]
        guarded = [self._first_rank(region, rank) for region in (place.own, *place.then)]
        return min([*conditions, *guarded]) if place.then or place.own != place.region else rank

    def _emit_opens(self) -> Work[None]:
        """An `open` stands right below what opens the region that it is in."""
        if not self._opens:
            return
        opened: dict[int, tuple[int, int]] = {}
        for piece in pieces(self._rows):
            for rank, order, row in piece:
                for region in row.opens():
                    opened[region] = min(opened.get(region, (rank, order)), (rank, order))
            yield
        for opens in pieces(self._opens):  # from consumers to what they need
            for inside, region in opens:
                at = opened.get(inside, (self._first_rank(inside, len(self._order)), -1))
                opened[region] = min(opened.get(region, at), at)
                self._row(*at, isa.Open(inside, region))
            yield

    def _code(self) -> Work[list[isa.Instruction]]:
        """The rows by rank, and those of one rank by order."""
        by_rank: dict[int, list[tuple[int, int, isa.Instruction]]] = {}
        for piece in pieces(self._rows):
            for row in piece:
                by_rank.setdefault(row[0], []).append(row)
            yield
        code: list[isa.Instruction] = []
        for ranks in pieces(sorted(by_rank)):
            for rank in ranks:
                rows = by_rank[rank]
                if len(rows) > 1:
                    rows.sort(key=itemgetter(1))
                code += [row[2] for row in rows]
            yield
        return code


def _renumbered(code: list[isa.Instruction]) -> Work[tuple[tuple[isa.Instruction, ...], int]]:
    """The code with its regions numbered as they come up in it, and how many there are."""
    numbers = {0: 0, isa.NOWHERE: isa.NOWHERE}

    def number(region: int) -> int:
        return numbers.setdefault(region, len(numbers) - 1)

    renumbered: list[isa.Instruction] = []
    for piece in pieces(code):
        renumbered += [_with_regions(instruction, number) for instruction in piece]
        yield
    return tuple(renumbered), len(numbers) - 1


def _with_regions(instruction: isa.Instruction, number: Callable[[int], int]) -> isa.Instruction:
    same = {operand.name: getattr(instruction, operand.name) for operand in instruction.operands}
    changed = {
        operand.name: operand.renumbered(same[operand.name], number)
        for operand in instruction.operands
    }
    at = number(instruction.at)
    if at == instruction.at and changed == same:
        return instruction
    return type(instruction)(**{**changed, "at": at})


def routes_of(structure: Structure, root: Ref) -> Iterator[int]:
    """The roots of the evaluations that loops and groups within that of `root` may begin."""
    order = structure.order_from(root)
    slots = structure.slots
    todo = [i for i in (*order.needed, *order.routed) if slots[i].evaluations()]
    roots = {index for index in todo if slots[index].bound is not None}
    followed: set[int] = set()
    for index in todo:  # grows
        for number in slots[index].evaluations():
            if number not in followed:
                followed.add(number)
                refs = structure.selectors[number].values()
                routes = [ref for ref in refs if ref is not None and ref >= 0]
                roots.update(routes)
                todo += routes
    yield from dict.fromkeys(index for index in todo if index in roots)
