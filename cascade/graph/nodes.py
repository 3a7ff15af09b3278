"""The public picture of a target: nodes in plan order, and edges that say who needs what for what.

`build_graph` reads a target and draws it; solvers get the same drawing. Containers and Routers
are no nodes: the edges go through them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cascade.graph.reading import read
from cascade.graph.slices import Work, gathered, whole
from cascade.graph.structure import MAP, ROUTER, Ref, Slot, Structure
from cascade.plain import plain
from cascade.workflow.expressions import Expression, Lazy, check_target
from cascade.workflow.task import Task

EdgeKind = Literal[
    "condition",
    "default",
    "sequence",
    "data",
    "amount",
    "selector",
    "route",
    "jump",
    "fallback",
    "group",
]


NodeKind = Literal["task", "map", "group", "first"]


@dataclass(frozen=True, slots=True)
class Node:
    """A task call, a map, a group or a `first` of the graph.

    `id` is `name#k`, k the position in plan order.
    """

    id: str
    name: str
    kind: NodeKind
    task: Task[..., Any]


@dataclass(frozen=True, slots=True)
class Edge:
    """`target` needs `source`; `kind` says for what, `argument` names the parameter or amount.

    `kind` is "data", "condition", "default", "sequence" (through `after`), "amount", "fallback",
    "selector" or "route"; or "jump", from a loop to a route of it, or "group", from a group, or a
    `first`, to what it evaluates.
    """

    source: Node
    target: Node
    kind: EdgeKind
    argument: str | None = None


@dataclass(frozen=True, slots=True)
class Graph:
    """The nodes in plan order, and what each of them needs.

    `jumps` lead from each loop to its routes, in the order of its selector, and from each group to
    what it evaluates. They are no edges, for these are evaluations of their own, and what only they
    lead to is not among the nodes.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    jumps: tuple[Edge, ...] = ()


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
    order = structure.order_from(structure.root)
    found = (structure.slots[index] for index in (*order.needed, *order.routed))
    made = enumerate(slot for slot in found if slot.is_node)
    every = {slot.index: make_node(slot, position) for position, slot in made}
    drawn = {index: every[index] for index in order.needed if index in every}
    nodes: dict[Expression[Any], Node] = {}
    for expression in reading.expressions:
        node = isinstance(expression, Lazy) and drawn.get(reading.slot_of(expression))
        if node:
            nodes[expression] = node
    return BuiltGraph(whole(drawing(structure, drawn, every)), reading.data, nodes)


def node_kind(slot: Slot) -> NodeKind:
    """What a node is a call of."""
    return "map" if slot.kind is MAP else slot.task.kind


def make_node(slot: Slot, position: int) -> Node:
    """The public node of a slot that is the `position`-th node in plan order."""
    kind = node_kind(slot)
    return Node(f"{slot.name}#{position}", slot.name, kind, slot.task)


def drawing(
    structure: Structure, nodes: Mapping[int, Node], every: Mapping[int, Node]
) -> Work[Graph]:
    """The graph of `nodes`, given by slot in plan order; `every` has those of jump routes too."""
    edges = yield from gathered(_edges(structure, nodes))
    jumps = (yield from gathered(_jumps(structure, every))) if structure.selectors else ()
    return Graph(tuple(nodes.values()), tuple(edges), tuple(jumps))


def _edges(structure: Structure, nodes: Mapping[int, Node]) -> Iterator[Edge]:
    for index, target in nodes.items():
        for need, argument, ref in needs(structure.slots[index]):
            for source, kind in _sources(structure, need, ref):
                yield Edge(nodes[source], target, kind, argument)


def _jumps(structure: Structure, nodes: Mapping[int, Node]) -> Iterator[Edge]:
    for index, loop in nodes.items():
        slot = structure.slots[index]
        if slot.inner is not None:
            for root in structure.inner_roots(slot):
                sources = dict(_sources(structure, "group", root))
                yield from (Edge(loop, nodes[target], "group") for target in sources)
        bound = slot.bound
        if bound is None:
            continue
        found: dict[int, None] = {}
        for route in structure.selectors[bound].values():
            if route is not None:
                found.update(dict.fromkeys(_chosen(structure, route)))
        for target in found:
            yield Edge(loop, nodes[target], "jump")


def _chosen(structure: Structure, route: Ref) -> Iterator[int]:
    """The nodes that an iteration may execute: the route, or what a Router there may choose."""
    seen: set[int] = set()
    todo = [route]
    while todo:
        index = todo.pop()
        if index < 0 or index in seen:
            continue
        seen.add(index)
        slot = structure.slots[index]
        if slot.is_node:
            yield index
        elif slot.kind is ROUTER:
            choices = (*slot.routes.values(), slot.default)
            todo.extend(ref for ref in reversed(choices) if ref is not None)


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
    for ref in slot.fallbacks():
        yield "fallback", None, ref


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


def task_to_json(task: Task[..., Any]) -> dict[str, Any]:
    """A Task by module and qualified name, and how it is called."""
    described: dict[str, Any] = {
        "module": getattr(task, "__module__", None),
        "qualname": getattr(task, "__qualname__", None),
        "name": task.name,
        "mode": task.mode,
        "is_async": task.is_async,
        "pure": task.pure,
    }
    if task.version is not None:
        described["version"] = plain(task.version)
    return described
