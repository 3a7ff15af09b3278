"""Putting a graph in stages: which nodes could run together, each stage after the ones before."""

from __future__ import annotations

from graphlib import CycleError as _GraphlibCycleError
from graphlib import TopologicalSorter
from typing import Protocol

from cascade.errors import CycleError
from cascade.graph import Graph, Node

ExecutionPlan = list[list[Node]]


class Solver(Protocol):
    """Anything that puts a graph in stages. The graph strategy asks it once per structure."""

    def resolve(self, graph: Graph) -> ExecutionPlan:
        """A list of stages; every node in exactly one, after everything it needs."""
        ...


class NativeSolver:
    """Stages by `graphlib`: a node stands in the first stage in which all it needs is done."""

    def resolve(self, graph: Graph) -> ExecutionPlan:
        """The stages of `graph`, in plan order within each. Raises `CycleError` with its path."""
        by_id = {node.id: node for node in graph.nodes}
        sorter: TopologicalSorter[str] = TopologicalSorter(dict.fromkeys(by_id, ()))
        for edge in graph.edges:
            sorter.add(edge.target.id, edge.source.id)
        try:
            sorter.prepare()
        except _GraphlibCycleError as error:
            raise CycleError([by_id[node_id].name for node_id in reversed(error.args[1])]) from None
        position = {node_id: index for index, node_id in enumerate(by_id)}
        plan: ExecutionPlan = []
        while sorter.is_active():
            stage = sorted(sorter.get_ready(), key=position.__getitem__)
            plan.append([by_id[node_id] for node_id in stage])
            sorter.done(*stage)
        return plan


def check_plan(graph: Graph, plan: ExecutionPlan) -> None:
    """Raise `ValueError` naming the node unless `plan` is a plan of `graph`."""
    stage_of = {node.id: number for number, stage in enumerate(plan) for node in stage}
    planned = sum(len(stage) for stage in plan)
    missing = [node.id for node in graph.nodes if node.id not in stage_of]
    if missing:
        raise ValueError(f"the solver's plan leaves out {missing[0]!r}; every node needs a stage")
    if planned != len(graph.nodes):
        raise ValueError(
            f"the solver's plan has {planned} places for {len(graph.nodes)} nodes; "
            "each node of the graph stands in it once, and no other"
        )
    for edge in graph.edges:
        if stage_of[edge.source.id] >= stage_of[edge.target.id]:
            raise ValueError(
                f"the solver's plan has {edge.target.id!r} no later than {edge.source.id!r}, "
                "which it needs"
            )
