"""The quick key of a target, made in one light walk: it tells whether the structure is known.

Most targets are calls of calls: no policies, no pure tasks to be merged, plain lists around. For
these a walk that only notes tasks, arities and sharing tells structures apart as well as `read`
does, at a fraction of its cost. The quick key of a target that was read before leads to its
structure, and a permutation takes the literals from the order of the key to that of the structure.
Any other target has no quick key and is read.

A quick key is in pre-order: for a call its Task and the number of arguments, for a list or tuple
its type and length, for what was met before its number, and None for a literal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, Final

from cascade.graph.containers import CONTAINERS
from cascade.graph.reading import Reading, kinds
from cascade.graph.slices import MANY, STEPS, Work, gathered, whole
from cascade.graph.structure import PLAIN, Structure
from cascade.workflow.expressions import Expression, LazyResult

QuickKey = tuple[Any, ...]


def quick_key(target: Any) -> tuple[QuickKey, list[Any]] | None:
    """The key of a target and its literals, in the order of the key; None if it has none."""
    return whole(quick_key_in_slices(target))


def quick_key_in_slices(target: Any) -> Work[tuple[QuickKey, list[Any]] | None]:
    """The same, in slices."""
    key: list[Any] = []
    data: list[Any] = []
    seen: dict[int, int] = {}
    stack = [target]
    steps = 0
    while stack:
        steps += 1
        if not steps % STEPS:
            yield
        current = stack.pop()
        kind = type(current)
        if kind is LazyResult:
            number = seen.get(id(current))
            if number is not None:
                key.append(number)
                continue
            seen[id(current)] = len(seen)
            task = current.task
            if current.policies is not None or current.kwargs or task.pure:
                return None
            args = current.args
            key += (task, len(args))
        elif kind in PLAIN:
            key.append(None)
            data.append(current)
            continue
        elif issubclass(kind, CONTAINERS):
            held = yield from _held(current)
            if held is None:
                return None
            if held:
                number = seen.get(id(current))
                if number is not None:
                    key.append(number)
                    continue
                seen[id(current)] = len(seen)
                args = tuple(current)
                key += (kind, len(args))
            else:
                key.append(None)
                data.append(current)
                continue
        elif issubclass(kind, Expression):
            return None
        else:
            key.append(None)
            data.append(current)
            continue
        if len(args) == 1:
            stack.append(args[0])
        else:
            stack += args[::-1]
    return tuple(key), data


_IN_CONTAINERS: Final[frozenset[type[Any]]] = PLAIN | {LazyResult}


def _held(container: Any) -> Work[bool | None]:
    """Whether calls are among the members of a container; None if it has none."""
    kind = type(container)
    if kind not in CONTAINERS:
        return None
    members = container.values() if kind is dict else container
    if len(members) <= MANY:
        held = set(map(type, members))
    else:
        held = yield from kinds(members, _IN_CONTAINERS)
    if held <= PLAIN:
        return False
    return True if kind is not dict and held <= _IN_CONTAINERS else None


def is_literal(value: Any) -> bool:
    """Whether a value is data for certain: no expression, and no container that may hold one."""
    kind = type(value)
    if kind is list or kind is tuple:
        return PLAIN.issuperset(map(type, value))
    if kind is dict:
        return PLAIN.issuperset(map(type, value.values()))
    return not issubclass(kind, (*CONTAINERS, Expression))


def reordering(
    target: Any, reading: Reading, structure: Structure
) -> Work[Callable[[list[Any]], Any]]:
    """Takes the literals of a quick key of `target` to the order of its data."""
    refs = yield from gathered(_refs(target, reading, structure))
    refs = [ref for ref in refs if ref < 0]
    if refs == list(range(-1, -len(refs) - 1, -1)):
        return tuple
    places = [0] * structure.literals
    for number, ref in enumerate(refs):
        places[~ref] = number
    return itemgetter(*places)  # of one literal there is but one order


def _refs(target: Any, reading: Reading, structure: Structure) -> Iterator[int]:
    """The references of all that the quick key notes, in its order."""
    seen: set[int] = set()
    stack: list[tuple[Any, int]] = [(target, structure.root)]
    while stack:
        current, ref = stack.pop()
        yield ref
        if ref < 0:
            continue
        if id(current) in seen:
            continue
        seen.add(id(current))
        slot = structure.slots[reading.slot_of(current)]
        is_call = type(current) is LazyResult
        refs = slot.args if is_call else slot.members
        parts = current.args if is_call else current
        stack.extend(zip(reversed(parts), reversed(refs), strict=True))
