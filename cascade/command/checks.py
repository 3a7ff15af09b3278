"""Findings about a target before anything runs.

An **error** is certain: a run that gets there fails, or never ends. A **warning** is certain too,
but does no harm by itself: something can never run. A **hint** is what may be meant otherwise.

What cannot be decided is not reported. Whether a task ever returns a certain Jump is a question
about any program; here it is answered only for loops whose tasks all say in their source, by
literal keys, which Jumps they return (`sources`). What a condition or a selector will be is
known only where it is a literal.
"""

from __future__ import annotations

import reprlib
from collections.abc import Coroutine, Generator, Iterable, Iterator, Mapping, ValuesView
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final, Literal

from cascade.amounts import Exact, Rate, checked_capacity, exact, most_of
from cascade.command.sources import Jumps, Waits, jumps_of, waits_of
from cascade.core.registry import ResourceRegistry
from cascade.errors import CascadeError, did_you_mean
from cascade.graph.plan import Plan, inputs_of
from cascade.graph.reading import read
from cascade.graph.structure import ROUTER, TASK, Ref, Slot, Structure
from cascade.limits.constraints import GlobalConstraint, parse_scope
from cascade.workflow.expressions import Expression
from cascade.workflow.inputs import Inputs, Param
from cascade.workflow.resources import ResourceDefinition
from cascade.workflow.retry import RetryOn
from cascade.workflow.task import BoundTask, Task

Severity = Literal["error", "warning", "hint"]

_PLAIN: Final = (bool, int, float, str, bytes, type(None), list, tuple, dict, set, frozenset)


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, and at which node (its id), Router or resource."""

    severity: Severity
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.message}"


def check(
    target: Any,
    *,
    resources: Iterable[ResourceDefinition] = (),
    capacity: Mapping[str, float | Rate] | None = None,
    constraints: Iterable[GlobalConstraint] = (),
) -> list[Finding]:
    """All findings about `target`, errors first, else in plan order.

    `capacity` is the `system_resources` of a run, `constraints` are its limits. Raises
    `ValueError` for a capacity or a scope that no engine would take.

    >>> import cascade as cs
    >>> @cs.task
    ... def add(x, y):
    ...     return x + y
    >>> print(*check(add(1, 2).run_if(0)), sep="\\n")
    error: add#0: it is always skipped (a condition is 0), and so the target has no value
    """
    capacities = checked_capacity(capacity or {})
    try:
        reading = read(target)
        structure = Structure(reading.key)
    except CascadeError as error:  # a cycle
        return [Finding("error", "the target", str(error))]
    checks = _Checks(structure, reading.data)
    found = [
        *checks.inputs(),
        *checks.resources(resources),
        *checks.demands(capacity or {}, capacities),
        *checks.idle_limits(capacity or {}, constraints),
        *checks.skips(),
        *checks.routers(),
        *checks.jumps(),
        *checks.routes(),
        *checks.endless_loops(),
        *checks.answers(),
        *checks.literals(),
        *checks.waits(),
    ]
    order = ("error", "warning", "hint")
    return sorted(found, key=lambda finding: order.index(finding.severity))


def check_limits(
    target: Any, capacity: Mapping[str, float | Rate], constraints: Iterable[GlobalConstraint]
) -> list[Finding]:
    """Limits that limit nothing, as far as the tasks are known before anything runs."""
    try:
        reading = read(target)
        structure = Structure(reading.key)
    except CascadeError:  # a cycle
        return []
    return list(_Checks(structure, reading.data).idle_limits(capacity, constraints))


@dataclass(frozen=True, slots=True)
class _Skip:
    """Skipped whatever happens: the node that is skipped first, and why.

    `by_sequence`: only a predecessor is skipped, and so a target would be None.
    """

    first: str
    why: str
    by_sequence: bool


def _first(skips: Mapping[int, _Skip], refs: Iterable[Ref | None]) -> _Skip | None:
    """Why what needs the values of `refs` is skipped; None if it need not be."""
    found = next((skips[ref] for ref in refs if ref is not None and ref in skips), None)
    return None if found is None else _Skip(found.first, found.why, False)


def _reaching(led_to: Mapping[int, list[int]], goals: Iterable[int]) -> set[int]:
    """All from which one of `goals` can be reached, themselves included."""
    todo = list(goals)
    found = set(todo)
    while todo:
        for before in led_to[todo.pop()]:
            if before not in found:
                found.add(before)
                todo.append(before)
    return found


class _Checks:
    def __init__(self, structure: Structure, data: tuple[Any, ...]) -> None:
        self._structure = structure
        self._data = data
        self._slots = structure.slots
        self._nodes = Plan(structure, structure.root).all_nodes()
        self._known: dict[Task[..., Any], Jumps] = {}

    def _ids(self) -> Iterator[tuple[Slot, str]]:
        return ((self._slots[index], node.id) for index, node in self._nodes.items())

    def inputs(self) -> Iterator[Finding]:
        """One name declared in two ways, and defaults of another type than a value may have.

        A value that is missing is the caller's to give.
        """
        declared = inputs_of(self._structure, self._data)
        with suppress(LookupError):
            try:
                Inputs(None).declare(declared)
            except ValueError as error:
                yield Finding("error", "the target", str(error))
        for param in dict.fromkeys(each for each in declared if isinstance(each, Param)):
            kind = type(param.default)
            if param.type is str and kind in (bool, int, float):
                message = (
                    f"a value given for it is a str, its default is {param.default!r}; "
                    f"write type={kind.__name__}"
                )
                yield Finding("hint", f"Param {param.name!r}", message)

    def resources(self, definitions: Iterable[ResourceDefinition]) -> Iterator[Finding]:
        """Injected resources that nobody provides, or that cannot be set up."""
        registry = ResourceRegistry()
        for definition in definitions:
            registry.register(definition)
        for name in sorted(self._structure.resources):
            try:
                registry.set_up_order(name, self._structure.who_injects(name))
            except (CascadeError, ValueError) as error:
                yield Finding("error", f"resource {name!r}", str(error))

    def demands(
        self, given: Mapping[str, float | Rate], capacity: Mapping[str, Exact | Rate]
    ) -> Iterator[Finding]:
        """Amounts that the capacity can never meet."""
        for slot, where in self._ids():
            for name, kind, amount in slot.amounts:
                if kind is None or name not in capacity:
                    continue
                if exact(amount) > most_of(capacity[name]):
                    message = f"it takes {name}={amount}, more than there is ({given[name]})"
                    yield Finding("error", where, message)

    def idle_limits(
        self, capacity: Mapping[str, float | Rate], constraints: Iterable[GlobalConstraint]
    ) -> Iterator[Finding]:
        """Capacity that no task takes, and scopes that no task is in."""
        taken = {name for slot, _ in self._ids() for name, _, _ in slot.amounts}
        for name in capacity:
            if name not in taken:
                message = f"no task of it takes the capacity {name!r}{did_you_mean(name, taken)}"
                yield Finding("hint", "the target", message)
        names = {slot.name for slot, _ in self._ids()}
        for constraint in constraints:
            matches = parse_scope(constraint.scope)
            if not any(matches(name) for name in names):
                near = did_you_mean(constraint.scope, [f"task:{name}" for name in names])
                message = f"no task of it is in the scope {constraint.scope!r}{near}"
                yield Finding("hint", "the target", message)

    def skips(self) -> Iterator[Finding]:
        """Nodes that are skipped whatever happens."""
        root = self._structure.root
        for slot, where in self._ids():
            shut = self._shut_by(slot)
            if shut is not None and slot.index != root:
                instead = "" if slot.default is None else "; its value is its default"
                yield Finding("warning", where, f"it never runs: a condition is {shut}{instead}")
        skip = self._skips().get(root)
        if skip is not None and not skip.by_sequence:
            message = f"it is always skipped ({skip.why}), and so the target has no value"
            yield Finding("error", skip.first, message)

    def _shut_by(self, slot: Slot) -> str | None:
        """The literal condition that keeps a node from running, in words."""
        for ref in slot.conditions:
            # Another object may need to be asked in the run what its truth is.
            if ref < 0 and isinstance(self._data[~ref], _PLAIN) and not self._data[~ref]:
                return repr(self._data[~ref])
        return None

    def _skips(self) -> dict[int, _Skip]:
        """Why a slot can have no value, by slot, as far as literals show it."""
        skips: dict[int, _Skip] = {}
        for slot in self._slots:  # what a slot needs comes before it
            skip = self._skip(slot, skips)
            if skip is not None:
                skips[slot.index] = skip
        return skips

    def _skip(self, slot: Slot, skips: Mapping[int, _Skip]) -> _Skip | None:
        if slot.kind is ROUTER:
            return _first(skips, (slot.selector, self._chosen(slot)))
        shut = self._shut_by(slot)
        if slot.is_node and slot.default is not None:
            return None if shut is None else _first(skips, (slot.default,))
        if shut is not None:
            node = self._nodes.get(slot.index)
            return _Skip(slot.name if node is None else node.id, f"a condition is {shut}", False)
        condition = _first(skips, slot.conditions)
        predecessor = _first(skips, slot.after)
        if condition is None and predecessor is not None:
            return _Skip(predecessor.first, predecessor.why, True)
        return condition or _first(skips, (*slot.argument_slots, *slot.amount_slots))

    def _chosen(self, router: Slot) -> Ref | None:
        """The route that a literal selector chooses; None if there is none or it is no literal."""
        if router.selector is None or router.selector >= 0:
            return None
        try:
            return router.routes.get(self._data[~router.selector], router.default)
        except TypeError:  # not hashable
            return router.default

    def routers(self) -> Iterator[Finding]:
        """Routes that a literal selector can never choose, and one that is not there."""
        for slot in self._slots:
            if slot.kind is not ROUTER or slot.selector is None or slot.selector >= 0:
                continue
            key = self._data[~slot.selector]
            chosen = self._chosen(slot)
            where = f"Router {reprlib.repr(list(slot.routes))}"
            if chosen is None:
                near = did_you_mean(key, slot.routes)
                yield Finding("error", where, f"its selector is {key!r}, which is no route{near}")
                continue
            others = [repr(other) for other, ref in slot.routes.items() if ref != chosen]
            if others:
                yield Finding(
                    "warning",
                    where,
                    f"its selector is always {key!r}: never chosen: {', '.join(others)}",
                )

    def jumps(self) -> Iterator[Finding]:
        """Jumps to keys that are not there, or where nothing serves them."""
        for slot, where in self._ids():
            routes = self._routes(slot)
            for key in self._jumps(slot).keys:
                if routes is None:
                    message = f"it returns Jump({key!r}), but it is not bound; write cs.bind(...)"
                    yield Finding("error", where, message)
                elif key not in routes:
                    near = did_you_mean(key, routes)
                    yield Finding("error", where, f"it jumps to the unknown key {key!r}{near}")

    def routes(self) -> Iterator[Finding]:
        """Routes that no task jumps to, if the keys of all Jumps served are known."""
        by_selector: dict[int, list[tuple[Slot, str]]] = {}
        for slot, where in self._ids():
            if slot.bound is not None:
                by_selector.setdefault(slot.bound, []).append((slot, where))
        for selector, served in by_selector.items():
            found = [self._jumps(slot) for slot, _ in served]
            if not all(jumps.complete for jumps in found):
                continue
            used = {key for jumps in found for key in jumps.keys}
            for key in self._structure.selectors[selector]:
                if key not in used:
                    message = f"no task of the loop jumps to its route {key!r}"
                    yield Finding("warning", served[0][1], message)

    def endless_loops(self) -> Iterator[Finding]:
        """Loops that no route ends."""
        led_to = self._led_to()
        in_loops = [self._slots[index] for index in led_to]
        ending = _reaching(led_to, (slot.index for slot in in_loops if self._may_end(slot)))
        looping = (slot for slot in in_loops if slot.kind is TASK and self._jumps(slot).only)
        returning = _reaching(led_to, led_to.keys() - {slot.index for slot in looping})
        for slot, where in self._ids():
            if slot.bound is None or slot.index in ending:
                continue
            if slot.index in returning:
                message = "the loop has no None route: a task ends it by returning what is no Jump"
                yield Finding("hint", where, message)
            else:
                message = "no route of the loop is None, and its tasks only jump"
                yield Finding("error", where, f"it ends only by failing: {message}")

    def _led_to(self) -> dict[int, list[int]]:
        """All slots that loops go through, each with those whose Jumps lead to it."""
        found: dict[int, list[int]] = {slot.index: [] for slot in self._slots if self._routes(slot)}
        for index in list(found):
            for route in (self._routes(self._slots[index]) or {}).values():
                if route is not None:
                    found.setdefault(route, []).append(index)
        return found

    def _may_end(self, slot: Slot) -> bool:
        """Whether a slot of a loop may end it by a None route, by being skipped or recovered from,
        or as no task."""
        may_not_call = slot.kind is not TASK or bool(slot.conditions)
        return may_not_call or slot.recovers or None in (self._routes(slot) or {}).values()

    def _routes(self, slot: Slot) -> dict[Any, Ref | None] | None:
        return None if slot.bound is None else self._structure.selectors[slot.bound]

    def _jumps(self, slot: Slot) -> Jumps:
        known = self._known.get(slot.task)
        if known is None:
            known = self._known[slot.task] = jumps_of(slot.task.func)
        return known

    def answers(self) -> Iterator[Finding]:
        """Fallbacks and outcomes that no failure can lead to."""
        for slot, where in self._ids():
            for what, catch in (("fallback", slot.fallback_on), (".settled()", slot.settled_on)):
                kinds = () if catch is None else _classes(catch.on)
                if kinds and not any(map(_is_failure, kinds)):
                    message = f"its {what} answers nothing: what it is for ends the run {catch}"
                    yield Finding("warning", where, message)
            if slot.fallback_on is not None and slot.settled_on is not None:
                earlier, later = _classes(slot.fallback_on.on), _classes(slot.settled_on.on)
                if later and all(issubclass(kind, earlier) for kind in later):
                    message = "its outcome is never a failure: its fallback comes first"
                    yield Finding("warning", where, message)

    def literals(self) -> Iterator[Finding]:
        """Arguments that were meant to be computed, and are passed on as they are."""
        for slot, where in self._ids():
            for name, ref in self._arguments(slot):
                problem = None if ref >= 0 else _uncomputed(self._data[~ref])
                if problem is not None:
                    yield Finding("hint", where, f"its {name} {problem}")

    def _arguments(self, slot: Slot) -> Iterator[tuple[str, Ref]]:
        """Each argument by the name of its parameter."""
        positional = slot.task.parameters.positional
        for position, ref in enumerate(slot.args):
            known = position < len(positional)
            yield (positional[position] if known else f"argument {position + 1}"), ref
        yield from slot.kwargs
        if slot.fallback is not None:
            yield "fallback", slot.fallback

    def waits(self) -> Iterator[Finding]:
        """Tasks that hold the event loop, and tasks that may wait for ever: each once."""
        seen: set[tuple[Task[..., Any], bool]] = set()
        for slot, where in self._ids():
            bounded = slot.timeout is not None
            if (slot.task, bounded) in seen:
                continue
            waits = waits_of(slot.task.func)
            if (slot.task, not bounded) not in seen:
                yield from _calls(slot.task, waits, where)
            seen.add((slot.task, bounded))
            yield from _bounds(slot, waits, where)


def _classes(on: RetryOn) -> tuple[type[BaseException], ...]:
    """The classes that an `on` names; none of a function, of which nothing is known."""
    if isinstance(on, tuple):
        return on
    return (on,) if isinstance(on, type) else ()


def _is_failure(kind: type[BaseException]) -> bool:
    """Whether an exception of a class can be a failure that a policy answers."""
    ends_run = issubclass(kind, CascadeError) and kind.ends_run and kind is not CascadeError
    return not ends_run and (issubclass(kind, Exception) or issubclass(Exception, kind))


def _uncomputed(literal: object) -> str | None:
    """What is wrong with `literal` if an expression was meant, itself or as a member."""
    if isinstance(literal, set | frozenset):
        if any(isinstance(member, Expression) for member in literal):
            return "is a set with an expression in it, which is not computed; write a list"
        return None
    if is_dataclass(literal) and not isinstance(literal, type):
        values = [getattr(literal, each.name, None) for each in fields(literal)]
        if any(isinstance(value, Expression) for value in values):
            return "is a dataclass with an expression in it, which is not computed"
        return None
    if isinstance(literal, Generator):
        return "is a generator, in which expressions are not computed; write a list"
    plain = literal.values() if isinstance(literal, dict) else literal
    for each in plain if isinstance(plain, list | tuple | ValuesView) else (literal,):
        if isinstance(each, Task | BoundTask):
            return f"has {each!r} in it, a task that was not called; write {each.name}(...)"
        if isinstance(each, ResourceDefinition):
            return f"has {each!r} in it, not what it gives; write cs.inject({each.name!r})"
        if isinstance(each, Coroutine):
            name = getattr(each, "__qualname__", type(each).__name__)
            return f"has {name}(...) in it, a coroutine, which nobody awaits"
    return None


def _calls(task: Task[..., Any], waits: Waits, where: str) -> Iterator[Finding]:
    if waits.blocking and task.mode == "inline":
        remedy = "await its async kin" if task.is_async else 'make it @cs.task(mode="thread")'
        yield Finding(
            "hint",
            where,
            f"it calls {', '.join(waits.blocking)} on the event loop, where nothing else runs "
            f"meanwhile; {remedy}",
        )
    if waits.patient:
        yield Finding("hint", where, f"it calls {', '.join(waits.patient)} without a timeout=")


def _bounds(slot: Slot, waits: Waits, where: str) -> Iterator[Finding]:
    if waits.for_ever and slot.timeout is None:
        yield Finding(
            "hint",
            where,
            f"it awaits {', '.join(waits.for_ever)}, which may take for ever; "
            "give it .with_timeout(seconds)",
        )
    if slot.task.mode == "thread" and slot.timeout is not None:
        yield Finding(
            "hint",
            where,
            f"its timeout of {slot.timeout:g} s takes effect when its function returns: "
            "a thread cannot be interrupted",
        )
