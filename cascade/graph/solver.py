"""Putting a graph in stages: which nodes could run together, each stage after the ones before."""

from __future__ import annotations

from graphlib import CycleError as _GraphlibCycleError
from graphlib import TopologicalSorter
from typing import Protocol

from cascade.errors import CycleError
from cascade.graph.nodes import Graph, Node
from cascade.graph.slices import STEPS, Work, pieces, whole

ExecutionPlan = list[list[Node]]


class Solver(Protocol):
    """Anything that puts a graph in stages. The graph strategy asks it once per structure."""

    def resolve(self, graph: Graph) -> ExecutionPlan:
        """A list of stages; every node in exactly one, after everything it needs."""
        ...


class NativeSolver:
    """Stages by need: a node stands in the first stage in which all it needs is done."""

    def resolve(self, graph: Graph) -> ExecutionPlan:
        """The stages of `graph`, in plan order within each. Raises `CycleError` with its path."""
        return whole(self.resolving(graph))

    def resolving(self, graph: Graph) -> Work[ExecutionPlan]:
        """The same, in slices."""
        position = {node.id: index for index, node in enumerate(graph.nodes)}
        readers: dict[int, list[int]] = {}
        missing = [0] * len(graph.nodes)
        for piece in pieces(graph.edges):
            for edge in piece:
                target = position[edge.target.id]
                readers.setdefault(position[edge.source.id], []).append(target)
                missing[target] += 1
            yield
        stage = [index for index, needs in enumerate(missing) if not needs]
        plan: ExecutionPlan = []
        planned = steps = 0
        while stage:
            plan.append([graph.nodes[index] for index in stage])
            planned += len(stage)
            ready: list[int] = []
            for index in stage:
                steps += 1
                if not steps % STEPS:
                    yield
                for reader in readers.get(index, ()):
                    missing[reader] -= 1
                    if not missing[reader]:
                        ready.append(reader)
            stage = sorted(ready)
        if planned < len(graph.nodes):
            raise _cycle(graph)
        return plan


def _cycle(graph: Graph) -> CycleError:
    by_id = {node.id: node for node in graph.nodes}
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for edge in graph.edges:
        sorter.add(edge.target.id, edge.source.id)
    try:
        sorter.prepare()
    except _GraphlibCycleError as error:
        return CycleError([by_id[node_id].name for node_id in reversed(error.args[1])])
    raise AssertionError("what has no stage is on a cycle, or needs one that is")


def resolved(solver: Solver, graph: Graph) -> Work[None]:
    """Have `graph` put in stages; a solver of the user's does it in one call, and is checked."""
    if type(solver) is NativeSolver and "resolve" not in vars(solver):
        yield from solver.resolving(graph)
    else:
        yield from checked(graph, solver.resolve(graph))


def check_plan(graph: Graph, plan: ExecutionPlan) -> None:
    """Raise `ValueError` naming the node unless `plan` is a plan of `graph`."""
    whole(checked(graph, plan))


def checked(graph: Graph, plan: ExecutionPlan) -> Work[None]:
    """The same, in slices."""
    stage_of: dict[str, int] = {}
    planned = 0
    for number, stage in enumerate(plan):
        for piece in pieces(stage):
            stage_of.update((node.id, number) for node in piece)
        planned += len(stage)
        if number % STEPS == STEPS - 1 or len(stage) > STEPS:
            yield
    missing = [node.id for node in graph.nodes if node.id not in stage_of]
    if missing:
        raise ValueError(f"the solver's plan leaves out {missing[0]!r}; every node needs a stage")
    if planned != len(graph.nodes):
        raise ValueError(
            f"the solver's plan has {planned} places for {len(graph.nodes)} nodes; "
            "each node of the graph stands in it once, and no other"
        )
    for edges in pieces(graph.edges):
        for edge in edges:
            if stage_of[edge.source.id] >= stage_of[edge.target.id]:
                raise ValueError(
                    f"the solver's plan has {edge.target.id!r} no later than {edge.source.id!r}, "
                    "which it needs"
                )
        yield
