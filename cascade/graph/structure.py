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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set, ValuesView
from dataclasses import dataclass
from itertools import accumulate, islice
from struct import pack
from sys import intern
from typing import Any, Final

from cascade.errors import CycleError
from cascade.graph.containers import CONTAINERS, keys_of, members_of, remembered, size_of
from cascade.graph.slices import MANY, STEPS, Shared, Work, pieces, whole
from cascade.workflow.expressions import (
    NOTHING,
    Expression,
    JumpSelector,
    Lazy,
    LazyResult,
    MappedLazyResult,
    Policies,
    Router,
)
from cascade.workflow.inputs import Env, Param
from cascade.workflow.resources import Injected
from cascade.workflow.retry import RetryPolicy
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
_LITERAL = -1  # in the walk's index: a container that holds no expression
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


class _Identity:
    """An object as part of a key: equal to itself only."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


_NO_POLICIES: Final = NodePolicies(None, None, None, (), (), None, (), None, False)


class Slot:
    """One value of an evaluation and how it comes about, decoded from an entry of the key."""

    __slots__ = (
        "after",
        "amount_slots",
        "amounts",
        "args",
        "argument_slots",
        "bound",
        "cache",
        "conditions",
        "data",
        "default",
        "index",
        "is_method",
        "is_node",
        "iterables",
        "kind",
        "kwargs",
        "members",
        "name",
        "parts",
        "retry",
        "route_numbers",
        "routes",
        "selector",
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
        self.is_node = self.kind is TASK or self.kind is MAP
        _DECODE[self.kind](self, entry)
        self._derive()

    def _derive(self) -> None:
        refs = self.args or self.members
        if self.kwargs:
            refs = (*refs, *[ref for _, ref in self.kwargs])
        self.argument_slots = _slots_among(refs)
        self.amount_slots = tuple([ref for _, kind, ref in self.amounts if kind is None])
        self.parts = self._parts()

    def refs(self) -> Iterator[Ref]:
        """All that it refers to, literals included."""
        yield from self.args
        yield from (ref for _, ref in self.kwargs)
        yield from self.members
        yield from self.routes.values()
        yield from self.conditions
        yield from (ref for ref in (self.selector, self.default) if ref is not None)
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
        if not others and not self.amount_slots:
            return self.argument_slots
        return _slots_among((*others, *self.argument_slots, *self.amount_slots))

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

    def _decode_map(self, entry: tuple[Any, ...]) -> None:
        kind, task, iterables, inputs, policies = entry
        self._decode_node((kind, task, (), inputs, policies))
        self.iterables = tuple([name for name, _ in inputs if name in iterables])

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
        "reach",
        "resources",
        "root",
        "selectors",
        "sketches",
        "slots",
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
        newest = -1
        for piece in pieces(entries):
            for entry in piece:
                slot = Slot(len(slots), entry)
                slots.append(slot)
                lowest = min(lowest, *slot.refs())
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
        self.sketches: tuple[Any, ...] = ()  # that are known to lead to it
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
        """A loop waits for the predecessors of its routes, and so they cannot need the loop."""
        if not any(slot.after for slot in self.slots):
            return
        waits = {
            slot.index: self._predecessors_of_routes(slot)
            for slot in self.slots
            if slot.bound is not None
        }
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
            bound = self.slots[index].bound
            if bound is None or bound in seen:
                continue
            seen.add(bound)
            for route in self.selectors[bound].values():
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


class Reading:
    """A target as read: the key of its structure, its data, and the slot of each expression."""

    __slots__ = ("_index", "data", "expressions", "key")

    def __init__(
        self,
        key: tuple[Any, ...],
        data: tuple[Any, ...],
        index: dict[int, int],
        expressions: list[Any],
    ) -> None:
        self.key = key
        self.data = data
        self._index = index
        self.expressions = expressions

    def slot_of(self, expression: Any) -> int:
        """The slot that holds the value of an expression of this reading."""
        return self._index[id(expression)]


def read(target: Any) -> Reading:
    """Split `target` into structure and data. Raises `CycleError` naming the path of a cycle."""
    return whole(reading(target))


def reading(target: Any) -> Work[Reading]:
    """The same, in slices. What changes in `target` meanwhile is read before or after, or both."""
    walk = _Walk()
    root = yield from walk.visit(target)
    main = len(walk.entries)
    selectors = []
    for selector in walk.selectors:  # grows while routes are visited
        routes: list[Ref | None] = []
        for route in tuple(selector.routes.values()):
            routes.append(None if route is None else (yield from walk.visit(route)))
        selectors.append((_typed(selector.routes), tuple(routes)))
    key = (root, main, tuple(walk.entries), tuple(selectors))
    return Reading(key, tuple(walk.data), walk.index, walk.visited)


class _Walk:
    """The state of one walk. `index` gives the slot of everything that was visited, by id."""

    def __init__(self) -> None:
        self.entries: list[tuple[Any, ...]] = []
        self.data: list[Any] = []
        self.index: dict[int, int] = {}
        self.visited: list[Any] = []  # keeps alive what `index` knows by id
        self.selectors: list[JumpSelector] = []
        self._selector_numbers: dict[int, int] = {}
        self._merged: dict[Any, int] = {}
        self._open: dict[int, Any] = {}  # the path from the target to what is being visited
        self._self_containing: set[int] = set()

    def visit(self, target: Any) -> Work[Ref]:
        """The reference of `target`, after everything it needs was visited."""
        stack = [target] if _has_parts(target) else []
        index = self.index
        steps = 0
        while stack:
            steps += 1
            if not steps % STEPS:
                yield
            expression = stack[-1]
            identity = id(expression)
            if identity in index:
                stack.pop()
                continue
            parts = _parts(expression)
            if len(parts) > STEPS:
                yield from self._visit_large(expression, parts, stack)
                continue
            if identity not in self._open:
                self._open[identity] = expression
                holding = [part for part in parts if _has_parts(part)]
                unseen = [part for part in reversed(holding) if id(part) not in index]
                if unseen:
                    stack.extend(part for part in unseen if not self._closes_cycle(part))
                    continue
            self._emit(expression)
            del self._open[identity]
            stack.pop()
        return self._ref(target)

    def _visit_large(self, expression: Any, parts: Collection[Any], stack: list[Any]) -> Work[None]:
        """One turn of `visit` at an expression, or container, of which a step can be too much."""
        identity = id(expression)
        is_container = issubclass(type(expression), CONTAINERS)
        if identity not in self._open:
            if is_container and (yield from kinds(parts, PLAIN)) <= PLAIN:
                self._found_literal(expression)
                stack.pop()
                return
            self._open[identity] = expression
            unseen: list[Any] = []
            for piece in pieces(tuple(parts)):
                holding = [part for part in piece if _has_parts(part)]
                holding = [part for part in holding if id(part) not in self.index]
                unseen += [part for part in holding if not self._closes_cycle(part)]
                yield
            if unseen:
                stack += reversed(unseen)
                return
        mark = len(self.data)
        members = tuple(parts if is_container else expression.args)
        if is_container and not (yield from self._holds_slots(members)):
            self._found_literal(expression)
        else:
            refs: list[Ref] = []
            for piece in pieces(members):
                refs += [self._ref(member) for member in piece]
                yield
            self._emit(expression, mark, refs)
        del self._open[identity]
        stack.pop()

    def _found_literal(self, container: Any) -> None:
        self.visited.append(container)
        self.index[id(container)] = _LITERAL

    def _holds_slots(self, members: tuple[Any, ...]) -> Work[bool]:
        for piece in pieces(members):
            if any(self.index.get(id(member), _LITERAL) >= 0 for member in piece):
                return True
            yield
        return False

    def _closes_cycle(self, part: Any) -> bool:
        """Whether `part` is on the path already. A list that contains itself may be data."""
        if id(part) not in self._open:
            return False
        path = list(self._open.values())
        path = path[next(i for i, member in enumerate(path) if member is part) :]
        if all(issubclass(type(member), CONTAINERS) for member in path):
            self._self_containing.add(id(part))
            return True
        raise CycleError([_label(member) for member in (*path, part) if _is_named(member)])

    def _emit(
        self, expression: Any, mark: int | None = None, refs: list[Ref] | None = None
    ) -> None:
        """Add the entry of an expression; `refs` are those of its arguments or members, if known.

        What it adds to the data begins at `mark`.
        """
        kind = type(expression)
        self.visited.append(expression)
        if kind is LazyResult:
            self._emit_task(expression, mark, refs)
        elif issubclass(kind, CONTAINERS):
            self._emit_container(expression, refs)
        elif kind is MappedLazyResult:
            self._emit_map(expression)
        elif kind is Router:
            self._emit_router(expression)
        elif kind is Injected:
            self._add(expression, (RESOURCE, expression.name))
        elif kind is Param or kind is Env:
            self._add(expression, (PARAM, self._literal(expression)))
        else:
            raise TypeError(f"{expression!r} is no expression that Cascade knows")

    def _add(self, expression: Any, entry: tuple[Any, ...]) -> None:
        self.index[id(expression)] = len(self.entries)
        self.entries.append(entry)

    def _emit_task(
        self, expression: LazyResult[Any], mark: int | None, refs: list[Ref] | None
    ) -> None:
        task = expression.task
        mark = len(self.data) if mark is None else mark
        policies = expression.policies and self._policies(expression.policies)
        args = tuple([self._ref(each) for each in expression.args] if refs is None else refs)
        kwargs = expression.kwargs and self._refs_by_name(expression.kwargs)
        entry = (TASK, task, args, kwargs or (), policies)
        if task.pure:
            self._add_pure(expression, entry, mark)
        else:
            self._add(expression, entry)

    def _emit_map(self, expression: MappedLazyResult[Any]) -> None:
        mark = len(self.data)
        policies = expression.policies and self._policies(expression.policies)
        inputs = self._refs_by_name(dict(_in_signature_order(expression)))
        entry = (MAP, expression.task, tuple(sorted(expression.kwargs)), inputs, policies)
        if expression.task.pure:
            self._add_pure(expression, entry, mark)
        else:
            self._add(expression, entry)

    def _emit_router(self, router: Router[Any]) -> None:
        selector = self._ref(router.selector)
        refs = tuple(self._ref(route) for route in router.routes.values())
        default = None if router.default is NOTHING else self._ref(router.default)
        self._add(router, (ROUTER, selector, _typed(router.routes), refs, default))

    def _emit_container(self, container: Any, refs: list[Ref] | None) -> None:
        if refs is None:
            index, members = self.index, members_of(container)
            if not any(index.get(id(member), _LITERAL) >= 0 for member in members):
                self.index[id(container)] = _LITERAL
                return
            refs = [self._ref(member) for member in members_of(container)]
        if id(container) in self._self_containing:
            raise CycleError([type(container).__name__, type(container).__name__], "containers")
        type_ = type(container)
        kind = next(k for k, t in _KINDS if issubclass(type_, t))
        if kind is DICT:
            self._refuse_expression_keys(container)
        if type_ is dict:
            shape = self._literal(tuple(container))
        else:
            # An own subclass may carry more than its members; it is read now, and built later.
            is_plain = type_ is list or type_ is tuple
            shape = 0 if is_plain else self._literal(remembered(container))
        self._add(container, (kind, type_, shape, tuple(refs)))

    def _refuse_expression_keys(self, container: dict[Any, Any]) -> None:
        for key in keys_of(container):
            if _is_expression(key):
                raise TypeError(f"{key!r} cannot be the key of a dict; only values are computed")

    def _policies(self, policies: Policies) -> NodePolicies | None:
        conditions = tuple(self._ref(condition) for condition in policies.conditions)
        default = None if policies.default is NOTHING else self._ref(policies.default)
        after = tuple(self._ref(predecessor) for predecessor in policies.after)
        amounts = tuple(
            (name, None, self._ref(amount))
            if _is_expression(amount)
            else (name, type(amount), amount)
            for name, amount in policies.amounts.items()
        )
        cache = None if policies.cache is None else _Identity(policies.cache)
        selector = None if policies.selector is None else self._selector(policies.selector)
        described = NodePolicies(
            policies.retry,
            policies.timeout,
            cache,
            amounts,
            conditions,
            default,
            after,
            selector,
            policies.is_method,
        )
        return None if described == _NO_POLICIES else described

    def _selector(self, selector: JumpSelector) -> int:
        number = self._selector_numbers.setdefault(id(selector), len(self.selectors))
        if number == len(self.selectors):
            self.selectors.append(selector)
        return number

    def _ref(self, value: Any) -> Ref:
        slot = self.index.get(id(value), _LITERAL)
        if slot >= 0:
            return slot
        return self._literal(value)

    def _literal(self, value: Any) -> Ref:
        self.data.append(value)
        return -len(self.data)

    def _refs_by_name(self, values: Mapping[str, Any]) -> tuple[tuple[str, Ref], ...]:
        return tuple([(name, self._ref(value)) for name, value in values.items()])

    def _add_pure(self, expression: Any, entry: tuple[Any, ...], mark: int) -> None:
        """Merge with an equal pure node met before: data is compared, not its place."""
        identity = self._value_key(entry)
        slot = self._merged.setdefault(identity, len(self.entries))
        if slot == len(self.entries):
            self._add(expression, entry)
        else:
            self.index[id(expression)] = slot
            del self.data[mark:]

    def _value_key(self, entry: tuple[Any, ...]) -> Any:
        kind, task, args, kwargs, policies = entry
        kwargs = sorted(kwargs)  # a **parameter takes them up in any order
        return (
            kind,
            task,
            args if kind is MAP else tuple([self._ref_key(ref) for ref in args]),
            tuple([(name, self._ref_key(ref)) for name, ref in kwargs]),
            policies
            and (
                policies.retry,
                policies.timeout,
                policies.cache,
                frozenset(
                    (n, k, self._ref_key(v) if k is None else v) for n, k, v in policies.amounts
                ),
                tuple(self._ref_key(ref) for ref in policies.conditions),
                None if policies.default is None else self._ref_key(policies.default),
                policies.after,
                policies.selector,
                policies.is_method,
            ),
        )

    def _ref_key(self, ref: Ref) -> Any:
        return ref if ref >= 0 else _literal_key(self.data[~ref])


def _literal_key(value: Any) -> Any:
    """Equal exactly for literals that count as equal arguments: typed, floats by their bits."""
    kind = type(value)
    if kind is float:
        return (kind, pack("d", value))
    if kind in (int, str, bytes, bool, type(None)):
        return (kind, value)
    if kind is not tuple:
        return (object, id(value))
    flat: list[Any] = []
    todo = [value]
    while todo:  # tuples nest to any depth: lengths make the flat form unambiguous
        item = todo.pop()
        if type(item) is tuple:
            flat.append((tuple, len(item)))
            todo.extend(item)
        else:
            flat.append(_literal_key(item))
    return tuple(flat)


_KINDS = ((LIST, list), (TUPLE, tuple), (DICT, dict))


def _has_parts(value: Any) -> bool:
    """Whether `value` is an expression, or a container that may hold one."""
    kind = type(value)
    if kind is LazyResult:
        return True
    if kind in PLAIN:
        return False
    if issubclass(kind, CONTAINERS):
        if size_of(value) > STEPS:
            return True  # which takes a walk to know
        return not PLAIN.issuperset(map(type, members_of(value)))
    return issubclass(kind, Expression)


def _is_expression(value: Any) -> bool:
    """By its type: an object may claim another `__class__`."""
    return issubclass(type(value), Expression)


def kinds(members: Collection[Any], expected: Set[type[Any]]) -> Work[set[type[Any]]]:
    """The classes of the members; if one is not `expected`, maybe not of all."""
    if len(members) <= MANY:
        return set(map(type, members))
    iterator = iter(members)
    found: set[type[Any]] = set()
    try:
        while piece := set(map(type, islice(iterator, MANY))):
            found |= piece
            if not found <= expected:
                return found
            yield
    except RuntimeError as error:
        raise RuntimeError(
            "a dict of the target was changed while it was read; change it before the run, "
            "or once the first task has started"
        ) from error
    return found


def _parts(expression: Any) -> Collection[Any]:
    """What the value of `expression` may need, in plan order."""
    kind = type(expression)
    if issubclass(kind, Lazy):
        node: Lazy[Any] = expression
        policies = node.policies
        if policies is None and not node.kwargs:
            return node.args
        return _node_parts(expression, policies)
    if issubclass(kind, CONTAINERS):
        if kind is list or kind is tuple:
            members: Collection[Any] = expression
            return members
        found = members_of(expression)  # of an own class maybe an iterator
        return found if isinstance(found, ValuesView) else tuple(found)
    if issubclass(kind, Router):
        return (expression.selector, *expression.routes.values(), expression.default)
    return ()


def _node_parts(expression: Lazy[Any], policies: Policies | None) -> list[Any]:
    parts: list[Any] = []
    if policies is not None:
        parts += policies.conditions
        parts.append(policies.default)
        parts += policies.after
    parts += expression.args
    if isinstance(expression, MappedLazyResult):
        parts += [value for _, value in _in_signature_order(expression)]
    else:
        parts += expression.kwargs.values()
    if policies is not None:
        parts += policies.amounts.values()
    return parts


def _in_signature_order(mapped: MappedLazyResult[Any]) -> list[tuple[str, Any]]:
    given = {**mapped.constants, **mapped.kwargs}
    names = [name for name in mapped.task.signature.parameters if name in given]
    names += [name for name in given if name not in names]  # taken up by a **parameter
    return [(name, given[name]) for name in names]


def _typed(routes: Iterable[Any]) -> tuple[tuple[Any, Any], ...]:
    return tuple((_literal_key(key), key) for key in routes)


def _is_named(member: Any) -> bool:
    return _is_expression(member)


def _label(member: Any) -> str:
    return str(member.task.name) if isinstance(member, Lazy) else repr(member)
