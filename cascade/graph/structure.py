"""Structure and data: what an expression is made of, read once, in one walk that never recurses.

The walk visits an expression in plan order (post-order: conditions, their default, predecessors,
arguments, amounts, then the node itself) and splits it in two:

- the **key**: one entry for each thing that gets a value of its own (a *slot*), of Tasks, policies
  and references only. Equal keys mean equal structure, whatever the data.
- the **data**: the literals, in the order met.

A reference is an int: `slot` for a value computed in this evaluation, `~index` for a literal of
the data. Routes of jumps come after everything else: they are no dependencies, but evaluations of
their own, which share slots with the expression around them. A `Structure` is decoded from the
key when it is seen for the first time, and cached; from then on only the data is loaded.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from sys import intern
from typing import Any, Final

from cascade.amounts import GroupName
from cascade.errors import CycleError
from cascade.graph.slices import STEPS, Shared, Work, pieces, whole
from cascade.workflow.retry import Catch, RetryPolicy
from cascade.workflow.task import Task

Ref = int

TASK: Final = "task"
MAP: Final = "map"
ROUTER: Final = "router"
LIST: Final = "list"
TUPLE: Final = "tuple"
DICT: Final = "dict"
PARAM: Final = "param"
RESOURCE: Final = "resource"

PLAIN: Final[frozenset[type[Any]]] = frozenset(
    {int, str, float, bool, type(None), bytes, complex, set, frozenset}
)
_NO_ROUTES: Final[dict[Any, Ref]] = {}
_NO_NAMES: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class NodePolicies:
    """The policies of a node, as structure: equal policies make equal keys."""

    retry: RetryPolicy | None
    timeout: float | None
    cache: _Identity | None
    amounts: tuple[tuple[str, type | None, Any], ...]  # (name, type, number) or (name, None, ref)
    conditions: tuple[Ref, ...]
    default: Ref | None
    after: tuple[Ref, ...]
    selector: int | None
    is_method: bool
    fallback: Ref | None
    handler: Ref | None  # the call in whose place the exception is handled
    fallback_on: Catch | None
    settled_on: Catch | None
    concurrency: int | None
    inner: int | None  # the number of what a group evaluates, among the selectors


class _Identity:
    """An object as part of a key: equal to itself only."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class Slot:
    """One value of an evaluation and how it comes about, decoded from an entry of the key."""

    __slots__ = (
        "after",
        "amount_slots",
        "amounts",
        "args",
        "argument_slots",
        "base",
        "bound",
        "cache",
        "concurrency",
        "conditions",
        "data",
        "default",
        "fallback",
        "fallback_on",
        "flowing",
        "gate_name",
        "handler",
        "index",
        "inner",
        "is_followed",
        "is_method",
        "is_node",
        "iterables",
        "kind",
        "kwargs",
        "lazies",
        "members",
        "name",
        "parts",
        "recovers",
        "retry",
        "route_numbers",
        "routes",
        "selector",
        "settled_on",
        "task",
        "timeout",
    )

    def __init__(self, index: int, entry: tuple[Any, ...]) -> None:
        self.index = index
        self.kind: str = intern(entry[0])  # compared by identity, after pickling too
        self.task: Task[..., Any] = entry[1]
        self.name: str = ""
        self.args: tuple[Ref, ...] = ()
        self.kwargs: tuple[tuple[str, Ref], ...] = ()
        self.members: tuple[Ref, ...] = ()
        self.iterables: tuple[str, ...] = ()  # as keywords: in signature order, then as written
        self.lazies: tuple[str, ...] = ()  # those of them that are read while items start
        self.flowing: tuple[tuple[str, int], ...] = ()  # those whose elements settle one by one
        self.base: tuple[int, ...] = ()  # of a map that has such ones: what all items need
        self.is_followed = False  # by the items of another map
        self.data: Ref = 0
        self.routes = _NO_ROUTES
        self.route_numbers = _NO_ROUTES  # a key is looked up once: it may compare oddly
        self.selector: Ref | None = None
        self.bound: int | None = None
        self.is_method = False
        self.retry: RetryPolicy | None = None
        self.timeout: float | None = None
        self.cache: Any = None
        self.amounts: tuple[tuple[str, type | None, Any], ...] = ()
        self.conditions: tuple[Ref, ...] = ()
        self.default: Ref | None = None
        self.after: tuple[Ref, ...] = ()
        self.fallback: Ref | None = None
        self.handler: Ref | None = None
        self.fallback_on: Catch | None = None
        self.settled_on: Catch | None = None
        self.concurrency: int | None = None
        self.inner: int | None = None
        self.is_node = self.kind is TASK or self.kind is MAP
        _DECODE[self.kind](self, entry)
        self._derive()

    def _derive(self) -> None:
        refs = self.args or self.members
        if self.kwargs:
            refs = (*refs, *[ref for _, ref in self.kwargs])
        self.argument_slots = _slots_among(refs)
        self.amount_slots = tuple([ref for _, kind, ref in self.amounts if kind is None])
        self.gate_name = self.name if self.inner is None else GroupName(self.name)
        self.recovers = self.fallback_on is not None or self.settled_on is not None
        self.parts = self._parts()

    def find_flow(self, slots: Sequence[Slot]) -> None:
        """Find out which iterables of a map have a number of elements before they have values."""
        if self.lazies:
            return
        given = [(name, ref) for name, ref in self.kwargs if name in self.iterables and ref >= 0]
        self.flowing = tuple([(name, ref) for name, ref in given if slots[ref].is_flow])
        if self.flowing:
            flowing = dict(self.flowing)
            whole = [ref for name, ref in self.kwargs if name not in flowing]
            self.base = _slots_among((*whole, *self.amount_slots))
        for _, ref in self.flowing:
            slots[ref].is_followed = True

    @property
    def is_flow(self) -> bool:
        """Whether it is a list or tuple of expressions, or a map."""
        is_plain = (self.kind is LIST or self.kind is TUPLE) and not self.data
        return is_plain or (self.kind is MAP and self.bound is None)

    def heard(self, slots: Sequence[Slot]) -> Iterator[int]:
        """What a map with a flow hears of as it settles."""
        if self.flowing:
            yield from self.after
            yield from self.base
            for _, ref in self.flowing:
                yield ref
                yield from (member for member in slots[ref].members if member >= 0)

    def refs(self) -> Iterator[Ref]:
        """All that it refers to, literals included."""
        yield from self.args
        yield from (ref for _, ref in self.kwargs)
        yield from self.members
        yield from self.routes.values()
        yield from self.conditions
        yield from (
            ref for ref in (self.selector, self.default, *self.fallbacks()) if ref is not None
        )
        yield self.data

    def _parts(self) -> tuple[int, ...]:
        """The slots whose values this one may need, in plan order."""
        others = (
            *self.conditions,
            *(() if self.selector is None else (self.selector,)),
            *self.routes.values(),
            *(() if self.default is None else (self.default,)),
            *self.after,
        )
        if not others and not self.amount_slots and not self.recovers:
            return self.argument_slots
        return _slots_among((*others, *self.argument_slots, *self.amount_slots, *self.fallbacks()))

    def evaluations(self) -> tuple[int, ...]:
        """The selectors of what it evaluates apart: the routes of a loop, what is in a group."""
        return tuple([number for number in (self.bound, self.inner) if number is not None])

    def fallbacks(self) -> tuple[Ref, ...]:
        """What a failure may demand: the fallback, or the call of the handler."""
        return tuple([ref for ref in (self.fallback, self.handler) if ref is not None])

    def falls_back(self, error: BaseException) -> bool:
        """Whether the fallback answers it, which comes first."""
        return self.fallback_on is not None and self.fallback_on.matches(error)

    def _decode_node(self, entry: tuple[Any, ...]) -> None:
        _, self.task, self.args, self.kwargs, policies = entry
        self.name = self.task.name
        if policies is not None:
            self.retry = policies.retry
            self.timeout = policies.timeout
            self.cache = policies.cache and policies.cache.value
            self.amounts = policies.amounts
            self.conditions = policies.conditions
            self.default = policies.default
            self.after = policies.after
            self.bound = policies.selector
            self.is_method = policies.is_method
            self.fallback = policies.fallback
            self.handler = policies.handler
            self.fallback_on = policies.fallback_on
            self.settled_on = policies.settled_on
            self.concurrency = policies.concurrency
            self.inner = policies.inner

    def _decode_map(self, entry: tuple[Any, ...]) -> None:
        kind, task, iterables, inputs, policies = entry
        self._decode_node((kind, task, (), inputs, policies))
        is_lazy = dict(iterables)
        self.iterables = tuple([name for name, _ in inputs if name in is_lazy])
        self.lazies = tuple([name for name in self.iterables if is_lazy[name]])

    def _decode_router(self, entry: tuple[Any, ...]) -> None:
        _, self.selector, keys, refs, self.default = entry
        self.name = "Router"
        self.routes = {key: ref for (_, key), ref in zip(keys, refs, strict=True)}
        self.route_numbers = {key: number for number, (_, key) in enumerate(keys)}

    def _decode_container(self, entry: tuple[Any, ...]) -> None:
        _, type_, self.data, self.members = entry
        self.name = type_.__name__

    def _decode_input(self, entry: tuple[Any, ...]) -> None:
        _, self.data = entry
        self.name = "Param"

    def _decode_resource(self, entry: tuple[Any, ...]) -> None:
        _, self.name = entry


_DECODE = {
    TASK: Slot._decode_node,
    MAP: Slot._decode_map,
    ROUTER: Slot._decode_router,
    LIST: Slot._decode_container,
    TUPLE: Slot._decode_container,
    DICT: Slot._decode_container,
    PARAM: Slot._decode_input,
    RESOURCE: Slot._decode_resource,
}


def _slots_among(refs: tuple[Ref, ...]) -> tuple[int, ...]:
    """The slots that are referred to, each once; the same tuple where it can be shared."""
    found = tuple(dict.fromkeys([ref for ref in refs if ref >= 0]))
    return refs if len(found) == len(refs) else found


@dataclass(frozen=True, slots=True)
class Order:
    """Plan order from one root: what its value may need, then what only jump routes lead to."""

    needed: Sequence[int]
    routed: Sequence[int]


class Structure:
    """The slots of a target, its selectors, and what holds for all data of this structure.

    `plans` is what the graph strategy made of it, by root, and `programs` what the virtual machine
    did, by routine; what is being made meanwhile stands in `making`.
    """

    __slots__ = (
        "__weakref__",
        "_blocks",
        "_invariants",
        "_main",
        "_node_counts",
        "_orders",
        "_unreleased",
        "inputs",
        "is_compiled",
        "kept",
        "key",
        "literals",
        "making",
        "newest_task",
        "plans",
        "programs",
        "quick_keys",
        "reach",
        "resources",
        "root",
        "selectors",
        "slots",
        "unbounded",
    )

    def __init__(self, key: tuple[Any, ...]) -> None:
        whole(self._derive(key))

    @classmethod
    def derived(cls, key: tuple[Any, ...]) -> Work[Structure]:
        """The structure of a key, in slices."""
        structure = cls.__new__(cls)
        yield from structure._derive(key)
        return structure

    def _derive(self, key: tuple[Any, ...]) -> Work[None]:
        self.key = key
        self.root: Ref
        self.root, main, entries, selectors = key
        slots: list[Slot] = []
        inputs: list[Ref] = []
        resources: dict[str, None] = {}
        lowest = self.root
        self.newest_task: Task[..., Any] | None = None
        self.unbounded: Slot | None = None  # a map that reads lazily, and has no concurrency
        newest = -1
        for piece in pieces(entries):
            for entry in piece:
                slot = Slot(len(slots), entry)
                slots.append(slot)
                lowest = min(lowest, *slot.refs())
                if slot.kind is MAP:
                    slot.find_flow(slots)
                if slot.lazies and slot.concurrency is None:
                    self.unbounded = slot
                if slot.is_node:
                    if slot.task.serial > newest:
                        self.newest_task, newest = slot.task, slot.task.serial
                elif slot.kind is PARAM:
                    inputs.append(slot.data)
                elif slot.kind is RESOURCE:
                    resources[slot.name] = None
            if len(entries) > STEPS:
                yield
        self.slots = tuple(slots)
        self.selectors: tuple[dict[Any, Ref | None], ...] = tuple(
            {key: ref for (_, key), ref in zip(keys, refs, strict=True)} for keys, refs in selectors
        )
        self.inputs = tuple(inputs)
        self.resources = tuple(resources)
        self.literals = max(0, -lowest)
        yield from self._refuse_circular_loops()
        self.plans: dict[Any, Any] = {}
        self.programs: dict[Any, Any] = {}
        self.making: dict[Any, Shared[Any]] = {}
        self.reach: Any = None  # what the routines of it have in common
        self.quick_keys: tuple[Any, ...] = ()  # that are known to lead to it
        self.kept: Any = None  # its place in a cache
        self.is_compiled = False
        self._orders = {self.root: Order(range(main), range(main, len(self.slots)))}
        self._main = main
        self._blocks: list[range] | None = None
        self._node_counts: Sequence[int] | None = None
        self._invariants: dict[frozenset[str], frozenset[int]] = {}
        self._unreleased: frozenset[int] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Structure, (self.key,)

    def _refuse_circular_loops(self) -> Work[None]:
        """A loop waits for the predecessors of its routes, and so they cannot need the loop.

        Nor can what a group evaluates need the group.
        """
        if not self.selectors:
            return
        waits = {
            slot.index: self._predecessors_of_routes(slot)
            for slot in self.slots
            if slot.bound is not None
        }
        groups = [slot for slot in self.slots if slot.inner is not None]
        waits.update((slot.index, self.inner_roots(slot)) for slot in groups)
        if not any(waits.values()):
            return
        done: set[int] = set()
        path: dict[int, None] = {}
        stack = [(index, False) for index in waits]
        steps = 0
        while stack:
            steps += 1
            if not steps % STEPS:
                yield
            index, left = stack.pop()
            if left:
                del path[index]
                done.add(index)
            elif index in path:
                circle = [*list(path)[list(path).index(index) :], index]
                raise CycleError([self.slots[i].name for i in circle if self.slots[i].is_node])
            elif index not in done:
                path[index] = None
                stack.append((index, True))
                needs = (*self.slots[index].parts, *waits.get(index, ()))
                stack.extend((part, False) for part in needs)

    def inner_roots(self, slot: Slot) -> tuple[int, ...]:
        """The slots that a group evaluates; literals are left out."""
        assert slot.inner is not None
        refs = self.selectors[slot.inner].values()
        return tuple([ref for ref in refs if ref is not None and ref >= 0])

    def _predecessors_of_routes(self, loop: Slot) -> tuple[int, ...]:
        """What has to run, in the evaluation around the loop, before one of its iterations."""
        found = dict.fromkeys(loop.after)
        todo = [loop.bound]
        followed = set(todo)
        for bound in todo:  # grows while routes are followed
            selector = {} if bound is None else self.selectors[bound]
            for route in dict.fromkeys(selector.values()):
                if route is None:
                    continue
                slot = self.slots[route]
                found.update(dict.fromkeys(slot.after))
                if slot.bound not in followed:
                    followed.add(slot.bound)
                    todo.append(slot.bound)
        return tuple(found)

    def who_injects(self, name: str) -> str:
        """For an error: the first task that injects the resource `name`, or the target itself."""
        for slot in self.slots:
            parts = (self.slots[part] for part in slot.parts) if slot.is_node else ()
            if any(part.kind is RESOURCE and part.name == name for part in parts):
                return f"task {slot.name!r}"
        return "the target"

    @property
    def node_counts(self) -> Sequence[int]:
        """How many nodes stand before each slot."""
        if self._node_counts is None:
            nodes = accumulate((slot.is_node for slot in self.slots), initial=0)
            self._node_counts = array("q", nodes)
        return self._node_counts

    def block_of(self, root: Ref) -> range:
        """The slots that `root` needs, if they stand together in its plan order; else none."""
        if root == self.root:
            return range(self._main)
        if self._blocks is None:
            whole(self.find_blocks())
            assert self._blocks is not None
        return self._blocks[root]

    def find_blocks(self) -> Work[None]:
        """A block is whole if all it needs was met for the first time after it was opened."""
        if self._blocks is not None:
            return
        opened_at: dict[int, int] = {}
        routes = (route for selector in self.selectors for route in selector.values())
        roots = [self.root, *(route for route in routes if route is not None)]
        found: dict[int, None] = {}
        for root in roots:
            yield from self._post_order(root, found, opened_at)
        lowest: list[int] = []
        blocks: list[range] = []
        for piece in pieces(self.slots):  # what a slot needs comes before it
            for slot in piece:
                i = slot.index
                lowest.append(min((i, *[lowest[part] for part in slot.parts])))
                blocks.append(range(lowest[i], i + 1) if lowest[i] >= opened_at[i] else range(0))
            yield
        self._blocks = blocks

    def order_from(self, root: Ref) -> Order:
        """Plan order of an evaluation whose target is the slot `root`."""
        order = self._orders.get(root)
        return whole(self.find_order(root)) if order is None else order

    def find_order(self, root: Ref) -> Work[Order]:
        """The same, in slices."""
        order = self._orders.get(root)
        if order is None:
            order = self._orders[root] = yield from self._walk_from(root)
        return order

    def _walk_from(self, root: Ref) -> Work[Order]:
        found: dict[int, None] = {}
        yield from self._post_order(root, found)
        needed = len(found)
        seen: set[int] = set()
        todo = list(found)
        for step, index in enumerate(todo):  # grows while routes are followed
            if step % STEPS == STEPS - 1:
                yield
            for number in self.slots[index].evaluations():
                if number in seen:
                    continue
                seen.add(number)
                for route in self.selectors[number].values():
                    if route is not None:
                        before = len(found)
                        yield from self._post_order(route, found)
                        todo.extend(islice(found, before, None))
        order = list(found)
        return Order(order[:needed], order[needed:])

    def _post_order(
        self, root: Ref, found: dict[int, None], opened_at: dict[int, int] | None = None
    ) -> Work[None]:
        stack = [] if root < 0 else [(root, False)]
        steps = 0
        while stack:
            steps += 1
            if not steps % STEPS:
                yield
            index, expanded = stack.pop()
            if index in found:
                continue
            if opened_at is not None:
                opened_at.setdefault(index, len(found))
            if expanded or not self.slots[index].parts:
                found[index] = None
                continue
            stack.append((index, True))
            stack.extend([(part, False) for part in reversed(self.slots[index].parts)])

    @property
    def unreleased(self) -> frozenset[int]:
        """The slots whose values last as long as their evaluation: iterations may demand them.

        These are what iterations share, as far as something that is not shared needs it, and, where
        there are loops, all predecessors.
        """
        if self._unreleased is None:
            whole(self.find_unreleased())
        assert self._unreleased is not None
        return self._unreleased

    def find_unreleased(self) -> Work[None]:
        """The same, in slices."""
        if self._unreleased is not None:
            return
        pure = yield from self.find_invariants(frozenset())
        lasting = yield from self.find_invariants(frozenset(self.resources))
        routes = (route for selector in self.selectors for route in selector.values())
        repeated = {self.root, *(route for route in routes if route is not None)}
        kept: set[int] = set()
        for piece in pieces(tuple(reversed(self.slots))):  # what a slot needs comes after it
            for slot in piece:
                if self.selectors:
                    kept.update(slot.after)
                    kept.update(slot.fallbacks())
                if slot.index in lasting or not (slot.is_node or slot.index in repeated):
                    continue
                kept.update(part for part in slot.parts if part in pure)
                repeated.update(slot.parts)
            yield
        self._unreleased = frozenset(kept)

    def invariants(self, narrow: frozenset[str]) -> frozenset[int]:
        """The pure nodes that need nothing impure, so that every iteration of a loop shares them.

        `narrow` names the resources that do not last for the whole run. A bound node is never
        shared: its value is what its loop ends with.
        """
        known = self._invariants.get(narrow.intersection(self.resources))
        return whole(self.find_invariants(narrow)) if known is None else known

    def find_invariants(self, narrow: frozenset[str]) -> Work[frozenset[int]]:
        """The same, in slices."""
        narrow = narrow.intersection(self.resources)
        known = self._invariants.get(narrow)
        if known is not None:
            return known
        pure: list[bool] = []
        found: list[int] = []
        for piece in pieces(self.slots):  # what a slot needs comes before it
            for slot in piece:
                own = slot.name not in narrow if slot.kind is RESOURCE else _is_pure(slot)
                pure.append(own and all(pure[part] for part in slot.parts))
                if slot.is_node and pure[-1]:
                    found.append(slot.index)
            yield
        known = self._invariants[narrow] = frozenset(found)
        return known


def _is_pure(slot: Slot) -> bool:
    return not slot.is_node or (slot.task.pure and slot.bound is None)
