"""The public picture of a target: nodes in plan order, and edges that say who needs what for what.

`build_graph` reads a target and draws it; solvers get the same drawing. Containers and Routers
are no nodes: the edges go through them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cascade.expressions import Expression, Lazy, check_target
from cascade.structure import ROUTER, TASK, Ref, Slot, Structure, read
from cascade.task import Task

EdgeKind = Literal["condition", "default", "sequence", "data", "amount", "selector", "route"]


@dataclass(frozen=True, slots=True)
class Node:
    """A task call or a map of the graph. `id` is `name#k`, k the position in plan order."""

    id: str
    name: str
    kind: Literal["task", "map"]
    task: Task[..., Any]


@dataclass(frozen=True, slots=True)
class Edge:
    """`target` needs `source`; `kind` says for what, `argument` names the parameter or amount.

    `kind` is "data", "condition", "default", "sequence" (through `after`), "amount", "selector"
    or "route".
    """

    source: Node
    target: Node
    kind: EdgeKind
    argument: str | None = None


@dataclass(frozen=True, slots=True)
class Graph:
    """The nodes in plan order, and what each of them needs. Jump routes are no part of it."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


@dataclass(frozen=True, slots=True)
class BuiltGraph:
    """A target read: graph (structure), literals (data), and the node of each expression."""

    graph: Graph
    data: tuple[Any, ...]
    nodes: Mapping[Expression[Any], Node]


def build_graph(target: Any) -> BuiltGraph:
    """Read `target`: its nodes in plan order and what each needs, its literals, its expressions.

    Raises `CycleError` naming the path if expressions depend on each other in a circle.

    >>> import cascade as cs
    >>> @cs.task
    ... def add(x, y):
    ...     return x + y
    >>> built = cs.build_graph(add(add(1, 2), 3))
    >>> [node.id for node in built.graph.nodes], built.data
    (['add#0', 'add#1'], (1, 2, 3))
    """
    check_target(target)
    reading = read(target)
    structure = Structure(reading.key)
    slots = (structure.slots[i] for i in structure.order_from(structure.root).needed)
    drawn = {slot.index: make_node(slot, k) for k, slot in enumerate(s for s in slots if s.is_node)}
    nodes: dict[Expression[Any], Node] = {}
    for expression in reading.expressions:
        node = isinstance(expression, Lazy) and drawn.get(reading.slot_of(expression))
        if node:
            nodes[expression] = node
    return BuiltGraph(draw(structure, drawn), reading.data, nodes)


def make_node(slot: Slot, position: int) -> Node:
    """The public node of a slot that is the `position`-th node in plan order."""
    kind: Literal["task", "map"] = "task" if slot.kind is TASK else "map"
    return Node(f"{slot.name}#{position}", slot.name, kind, slot.task)


def draw(structure: Structure, nodes: Mapping[int, Node]) -> Graph:
    """The graph of these nodes, given by slot in plan order."""
    edges = [
        Edge(nodes[source], target, kind, argument)
        for index, target in nodes.items()
        for need, argument, ref in needs(structure.slots[index])
        for source, kind in _sources(structure, need, ref)
    ]
    return Graph(tuple(nodes.values()), tuple(edges))


def needs(slot: Slot) -> Iterator[tuple[EdgeKind, str | None, Ref]]:
    """What a node refers to, literals included, in plan order: (kind, argument, reference)."""
    for ref in slot.conditions:
        yield "condition", None, ref
    if slot.default is not None:
        yield "default", None, slot.default
    for ref in slot.after:
        yield "sequence", None, ref
    names = slot.task.parameters.positional
    for position, ref in enumerate(slot.args):
        yield "data", names[position] if position < len(names) else None, ref
    for name, ref in slot.kwargs:
        yield "data", name, ref
    for name, kind, ref in slot.amounts:
        if kind is None:
            yield "amount", name, ref


def _sources(structure: Structure, kind: EdgeKind, ref: Ref) -> Iterator[tuple[int, EdgeKind]]:
    """The nodes behind a reference, seen through containers and routers."""
    seen: set[int] = set()
    todo: list[tuple[int, EdgeKind]] = [(ref, kind)]
    while todo:
        index, kind = todo.pop()
        if index < 0 or index in seen:
            continue
        seen.add(index)
        slot = structure.slots[index]
        if slot.is_node:
            yield index, kind
        elif slot.kind is ROUTER:
            todo.extend((part, "route") for part in reversed(slot.parts) if part != slot.selector)
            if slot.selector is not None:
                todo.append((slot.selector, "selector"))
        else:
            todo.extend((part, kind) for part in reversed(slot.parts))
