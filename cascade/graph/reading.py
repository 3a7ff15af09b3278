"""Read an expression into what can be shared, its structure, and its data."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set, ValuesView
from itertools import islice
from struct import pack
from typing import Any, Final

from cascade.errors import CycleError
from cascade.graph.containers import CONTAINERS, keys_of, members_of, remembered, size_of
from cascade.graph.slices import MANY, STEPS, Work, pieces, whole
from cascade.graph.structure import (
    DICT,
    LIST,
    MAP,
    PARAM,
    PLAIN,
    RESOURCE,
    ROUTER,
    TASK,
    TUPLE,
    NodePolicies,
    Ref,
    _Identity,
)
from cascade.workflow.expressions import (
    NOTHING,
    Expression,
    Fallback,
    Inner,
    JumpSelector,
    Lazily,
    Lazy,
    LazyResult,
    MappedLazyResult,
    Policies,
    Router,
    Unmapped,
)
from cascade.workflow.inputs import Env, Param
from cascade.workflow.resources import Injected
from cascade.workflow.source import Source

_LITERAL = -1  # in the walk's index: a container that holds no expression
_NO_POLICIES: Final = NodePolicies(
    None, None, None, (), (), None, (), None, False, None, None, None, None, None, None
)


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

    def find(self, expression: Any) -> int | None:
        """The same, or None if the target does not hold it."""
        return self._index.get(id(expression))


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
        self.selectors: list[JumpSelector | Inner] = []
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
        elif kind is Unmapped:
            raise TypeError(
                f"{expression!r} stands where it is not an argument of a map; cs.unmapped is for "
                "task.map(parameter=cs.unmapped(value)), write the value itself here"
            )
        elif kind is Lazily:
            raise TypeError(
                f"{expression!r} stands where it is not an argument of a map; cs.lazily is for "
                "task.map(parameter=cs.lazily(iterable)), write the iterable itself here"
            )
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
        iterables = tuple(sorted((n, type(v) is Source) for n, v in expression.kwargs.items()))
        entry = (MAP, expression.task, iterables, inputs, policies)
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
        fallback, handler = self._fallback(policies.fallback)
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
            fallback,
            handler,
            None if policies.fallback is None else policies.fallback.on,
            policies.settled,
            policies.concurrency,
            None if policies.inner is None else self._selector(policies.inner),
        )
        return None if described == _NO_POLICIES else described

    def _fallback(self, given: Fallback | None) -> tuple[Ref | None, Ref | None]:
        """The references of a fallback and of a handler, of which a node has one."""
        if given is None:
            return None, None
        if given.handler is not None:
            return None, self._ref(given.handler)
        return self._ref(given.value), None

    def _selector(self, selector: JumpSelector | Inner) -> int:
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
                None if policies.fallback is None else self._ref_key(policies.fallback),
                policies.handler,
                policies.fallback_on,
                policies.settled_on,
                policies.concurrency,
                policies.inner,
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
        parts += policies.fallback.parts if policies.fallback is not None else ()
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
