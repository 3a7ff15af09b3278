"""What would run, as text: the nodes and Routers of a target in plan order, and what each is under.

kind#0          inline
parse#1         thread; takes gpu=1; at most 3 attempts
Router(kind#0)  'json': parse#1, 'txt': 'nothing to parse'
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from cascade.amounts import Rate
from cascade.graph.plan import Plan
from cascade.graph.reading import read
from cascade.graph.structure import MAP, PARAM, RESOURCE, ROUTER, Ref, Slot, Structure
from cascade.limits.constraints import GlobalConstraint, parse_scope
from cascade.workflow.retry import Catch, names_of

_MOST_MEMBERS: Final = 8  # of a container, and of routes, in one line
_LONGEST: Final = 40  # characters of a literal


def outline(
    target: Any,
    constraints: Iterable[GlobalConstraint] = (),
    capacity: Mapping[str, float | Rate] | None = None,
) -> str:
    """A line for each node that may run, in plan order; those that only jumps lead to come last.

    `constraints` and `capacity` (`system_resources`) are those of the run, as far as it is known.
    Raises `CycleError` if expressions depend on each other in a circle.
    """
    reading = read(target)
    structure = Structure(reading.key)
    drawn = _Outline(structure, reading.data, constraints, capacity or {})
    order = structure.order_from(structure.root)
    rows = list(drawn.rows(order.needed))
    jumped = list(drawn.rows(order.routed))
    width = max((len(label) for label, _ in (*rows, *jumped)), default=0)
    lines = [f"{label:<{width}}  {clauses}" for label, clauses in rows]
    if jumped:
        lines.append("by jumps and in groups only:")
        lines += [f"{label:<{width}}  {clauses}" for label, clauses in jumped]
    return "\n".join(lines) or "no task runs"


class _Outline:
    def __init__(
        self,
        structure: Structure,
        data: tuple[Any, ...],
        constraints: Iterable[GlobalConstraint],
        capacity: Mapping[str, float | Rate],
    ) -> None:
        self._capacity = capacity
        self._structure = structure
        self._slots = structure.slots
        self._selectors = structure.selectors
        self._data = data
        self._constraints = [(each, parse_scope(each.scope)) for each in constraints]
        self._nodes = Plan(structure, structure.root).all_nodes()

    def rows(self, order: Iterable[int]) -> Iterator[tuple[str, str]]:
        for index in order:
            slot = self._slots[index]
            if slot.is_node:
                yield self._nodes[index].id, "; ".join(self._clauses(slot))
            elif slot.kind is ROUTER:
                yield self._label(slot), self._routes(slot)

    def _clauses(self, slot: Slot) -> Iterator[str]:
        mode: str = "async" if slot.task.is_async else slot.task.mode
        if slot.inner is not None:
            lists = (self._slots[root] for root in self._structure.inner_roots(slot))
            evaluated = ", ".join(self._named(each.members[0]) for each in lists)
            mode = f"{slot.task.kind} of {evaluated or 'literals'}"
        yield f"map, {mode}" if slot.kind is MAP else mode
        yield from (f"if {self._named(ref)}" for ref in slot.conditions)
        if slot.default is not None:
            yield f"else {self._named(slot.default)}"
        yield from (f"after {self._named(ref)}" for ref in slot.after)
        yield from self._arguments(slot)
        yield from self._amounts(slot)
        if slot.concurrency is not None:
            yield f"at most {slot.concurrency} items at a time"
        if slot.retry is not None:
            yield f"at most {slot.retry.max_attempts} attempts"
        if slot.timeout is not None:
            yield f"timeout {slot.timeout:g} s"
        if slot.cache is not None:
            yield f"cache {type(slot.cache).__name__}"
        yield from self._answers(slot)
        yield from self._limits(slot)
        if slot.bound is not None:
            yield f"loop: {self._jumps(self._selectors[slot.bound])}"

    def _arguments(self, slot: Slot) -> Iterator[str]:
        """The arguments that are computed."""
        names = slot.task.parameters.positional
        for position, ref in enumerate(slot.args):
            if ref >= 0:
                name = names[position] if position < len(names) else f"argument {position}"
                yield f"{name}={self._named(ref)}"
        yield from (f"{name}={self._named(ref)}" for name, ref in slot.kwargs if ref >= 0)

    def _amounts(self, slot: Slot) -> Iterator[str]:
        amounts = []
        for name, kind, amount in slot.amounts:
            of = f" of {self._capacity[name]}" if name in self._capacity else ""
            amounts.append(f"{name}={self._named(amount) if kind is None else amount}{of}")
        if amounts:
            yield f"takes {', '.join(amounts)}"

    def _answers(self, slot: Slot) -> Iterator[str]:
        """What stands for a failure, and for which."""
        if slot.fallback_on is not None:
            ref = slot.fallback if slot.handler is None else slot.handler
            assert ref is not None, "a fallback is a value, or the call of a handler"
            by = "" if slot.handler is None else "handled by "
            yield f"if it fails{_on(slot.fallback_on)}: {by}{self._named(ref)}"
        if slot.settled_on is not None:
            yield f"settled{_on(slot.settled_on)}"

    def _limits(self, slot: Slot) -> Iterator[str]:
        for constraint, matches in self._constraints:
            if matches(slot.name):
                params = ", ".join(f"{name} {value}" for name, value in constraint.params.items())
                yield f"{constraint.scope}: {params}"

    def _routes(self, router: Slot) -> str:
        routes = [f"{key!r}: {self._named(ref)}" for key, ref in router.routes.items()]
        if router.default is not None:
            routes.append(f"else {self._named(router.default)}")
        return _listed(routes)

    def _jumps(self, routes: dict[Any, Ref | None]) -> str:
        return _listed(
            f"{key!r} to {'the end' if ref is None else self._named(ref)}"
            for key, ref in routes.items()
        )

    def _named(self, ref: Ref) -> str:
        """A reference in words: a node by its id, a container by the nodes in it."""
        if ref < 0:
            return _brief(self._data[~ref])
        slot = self._slots[ref]
        if slot.is_node:
            return self._nodes[ref].id
        if slot.kind is PARAM:
            return repr(self._data[~slot.data])
        if slot.kind is RESOURCE:
            return f"<inject {slot.name}>"
        if slot.kind is ROUTER:
            return self._label(slot)
        return f"{slot.name}({_listed(self._inside(slot))})"

    def _label(self, router: Slot) -> str:
        ref = router.selector
        assert ref is not None, "a Router has a selector"
        is_router = ref >= 0 and self._slots[ref].kind is ROUTER
        return f"Router({'Router(...)' if is_router else self._named(ref)})"

    def _inside(self, container: Slot) -> Iterator[str]:
        """What is computed for a container, through the containers in it."""
        todo = list(reversed(container.parts))
        while todo:
            slot = self._slots[todo.pop()]
            if slot.is_node or slot.kind in (PARAM, RESOURCE, ROUTER):
                yield self._named(slot.index)
            else:
                todo.extend(reversed(slot.parts))


def _on(catch: Catch) -> str:
    """Which failures, unless it is all of them."""
    return "" if catch.on is Exception else f" on {', '.join(names_of(catch.on))}"


def _listed(texts: Iterable[str]) -> str:
    found = list(texts)
    if len(found) > _MOST_MEMBERS:
        found[_MOST_MEMBERS:] = [f"... {len(found) - _MOST_MEMBERS} more"]
    return ", ".join(found)


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
