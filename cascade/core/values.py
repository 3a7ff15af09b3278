"""What a slot can hold besides a value, and how arguments and containers are put together.

Both strategies share it: it knows slots, and nothing of who computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from cascade.graph.containers import rebuilt
from cascade.graph.structure import DICT, LIST, MAP, RESOURCE, Ref, Slot
from cascade.workflow.task import VARARGS, Task

if TYPE_CHECKING:
    from cascade.core.calls import Call

CONDITION_FALSE: Final = "ConditionFalse"
BY_CONDITION: Final = "UpstreamSkipped_Condition"
BY_SEQUENCE: Final = "UpstreamSkipped_Sequence"
BY_DATA: Final = "UpstreamSkipped_Data"
BY_ROUTE: Final = "UpstreamSkipped_Route"
PRUNED: Final = "Pruned"

RELEASED: Final = object()  # instead of a value that nobody needs any more


class Skipped:
    """Instead of a value: why the slot was skipped, and which node was skipped first."""

    __slots__ = ("argument", "origin", "origin_reason", "reason")

    def __init__(self, reason: str, origin: str, origin_reason: str, argument: str) -> None:
        self.reason = reason
        self.origin = origin
        self.origin_reason = origin_reason
        self.argument = argument

    def because(self, reason: str, argument: str) -> Skipped:
        """What a slot has that needs this one."""
        return Skipped(reason, self.origin, self.origin_reason, argument)


class Deferred:
    """A value that holds resources of the scope "task", filled in anew for each attempt."""

    __slots__ = ("members", "names", "shape", "slot")

    def __init__(self, slot: Slot, members: tuple[Any, ...] = (), shape: Any = None) -> None:
        self.slot = slot
        self.members = members
        self.shape = shape
        self.names: tuple[str, ...] = (slot.name,)
        if slot.kind is not RESOURCE:
            self.names = deferred_names(members)

    def refused(self, where: str) -> ValueError:
        """The error for a place that no attempt fills in."""
        return ValueError(
            f"{where} holds the resource {self.names[0]!r} of the scope 'task', which lives for "
            "one attempt of a task; inject it as an argument, or give it the scope 'step' or 'run'"
        )


def deferred_names(values: Iterable[Any]) -> tuple[str, ...]:
    """The resources that the deferred among `values` hold, each once."""
    held = (value.names for value in values if value.__class__ is Deferred)
    return tuple(dict.fromkeys(name for names in held for name in names))


def filled(value: Any, resources: Mapping[str, Any]) -> Any:
    """`value` with its deferred parts filled in, from the innermost outwards."""
    done: dict[int, Any] = {}
    stack = [value] if value.__class__ is Deferred else []
    while stack:
        current = stack[-1]
        members = current.members
        inner = [m for m in members if m.__class__ is Deferred and id(m) not in done]
        if inner:
            stack.extend(inner)
            continue
        stack.pop()
        if current.slot.kind is RESOURCE:
            done[id(current)] = resources[current.slot.name]
        else:
            whole = tuple([done[id(m)] if m.__class__ is Deferred else m for m in members])
            done[id(current)] = build(current.slot, current.shape, whole)
    return done.get(id(value), value)


def build(slot: Slot, shape: Any, members: tuple[Any, ...]) -> Any:
    """A container of the slot's kind and type with these members.

    `shape` is what the data holds for it: the keys of a dict, or the container that was given.
    """
    if slot.kind is LIST:
        return list(members) if shape is None else rebuilt(shape, members)
    if slot.kind is DICT:
        if type(shape) is tuple:
            return dict(zip(shape, members, strict=True))
        return rebuilt(shape, members)
    return members if shape is None else rebuilt(shape, members)


def argument_name(slot: Slot, index: int) -> str:
    """The parameter (or what else) for which `slot` needs the slot `index`."""
    names = slot.task.parameters.positional if slot.is_node else []
    for position, ref in enumerate(slot.args):
        if ref == index:
            return names[position] if position < len(names) else f"*{position - len(names)}"
    return next((name for name, ref in slot.kwargs if ref == index), "member")


def open_slots(slot: Slot, overrides: Mapping[Any, Any]) -> tuple[int, ...]:
    """The slots of those arguments that are not overridden."""
    if not overrides or not slot.argument_slots:
        return slot.argument_slots
    refs = (ref for _, ref in own_arguments(slot, overrides))
    return tuple(dict.fromkeys(ref for ref in refs if ref >= 0))


def own_arguments(slot: Slot, overrides: Mapping[Any, Any]) -> Iterator[tuple[int | str, Ref]]:
    """Those of the slot's arguments that are not overridden, by position or keyword.

    An item of a map has its inputs as arguments, but the elements of its iterables are no inputs.
    """
    names = slot.task.parameters.positional
    for position, ref in enumerate(slot.args):
        if (names[position] if position < len(names) else VARARGS) not in overrides:
            yield position, ref
    if slot.kind is MAP:
        for name, ref in slot.kwargs:
            if name not in slot.iterables:
                yield argument_place(slot.task, name), ref
        return
    for name, ref in slot.kwargs:
        if name not in overrides or name in names:
            yield name, ref


def argument_place(task: Task[..., Any], name: str) -> int | str:
    """Where a call has the argument that a map gives by name: its position, or its keyword."""
    names = task.parameters.positional
    return names.index(name) if name in names else name


def overridden(
    slot: Slot, overrides: Mapping[Any, Any], value: Callable[[Ref], Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The slot's arguments, those in `overrides` replaced; `value` gives the others'."""
    names = slot.task.parameters.positional
    count = len(names)
    args = [
        overrides[name] if name in overrides else value(ref)
        for name, ref in zip(names, slot.args, strict=False)
    ]
    if len(slot.args) == count and not slot.kwargs and overrides.keys() <= set(names):
        return tuple(args), {}
    args += overrides[VARARGS] if VARARGS in overrides else [value(r) for r in slot.args[count:]]
    # A keyword that a **parameter took up may have the name of a positional-only parameter.
    kwargs = {n: value(ref) for n, ref in slot.kwargs if n not in overrides or n in names}
    kwargs.update({n: v for n, v in overrides.items() if n not in names and n is not VARARGS})
    return tuple(args), kwargs


def arguments_anew(call: Call, overrides: Mapping[Any, Any]) -> dict[Any, Any]:
    """The arguments of a call by parameter name, those in `overrides` replaced."""
    names = call.slot.task.parameters.positional
    named: dict[Any, Any] = {**dict(zip(names, call.args, strict=False)), **call.kwargs}
    rest = call.args[len(names) :]
    return {**named, **({VARARGS: rest} if rest else {}), **overrides}


def arguments_by_name(
    task: Task[..., Any], named: Mapping[Any, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments from values by parameter name."""
    names = task.parameters.positional
    args = [named[name] for name in names if name in named]
    args += named.get(VARARGS, ())
    kwargs = {n: v for n, v in named.items() if n not in names and n is not VARARGS}
    return tuple(args), kwargs
