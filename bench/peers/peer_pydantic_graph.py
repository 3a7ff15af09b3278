"""pydantic-graph: graphs built once by `GraphBuilder`, without instrumentation; steps are async."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import work
from pydantic_graph import (
    BaseNode,
    End,
    Graph,
    GraphBuilder,
    GraphRunContext,
    StepContext,
    reduce_list_append,
)
from rounds import NotOffered, Peer, Way, main
from work import Size


@dataclass
class CountDown(BaseNode[None, None, int]):
    n: int

    async def run(self, ctx: GraphRunContext[None, None]) -> CountDown | End[int]:
        n = work.count_down(self.n)
        return CountDown(n) if n else End(n)


@dataclass
class Adding:
    """The state of the loop with a chain."""

    n: int
    amount: int = 0


def builder() -> GraphBuilder[Any, Any, Any, Any]:
    return GraphBuilder(auto_instrument=False)


def loop(size: Size) -> Sequence[Way]:
    return [
        Way("a step and a decision that goes back to it", runner(loop_of_steps(), size.loop)),
        Way("a `BaseNode` that returns itself", runner(loop_of_nodes(size), None)),
    ]


def loop_of_steps() -> Graph[Any, Any, Any, Any]:
    g = builder()

    @g.step
    async def count_down(ctx: StepContext[None, None, int]) -> int:
        return work.count_down(ctx.inputs)

    decision = (
        g.decision()
        .branch(g.match(int, matches=lambda n: n == 0).to(g.end_node))
        .branch(g.match(int).to(count_down))
    )
    g.add(
        g.edge_from(g.start_node).to(count_down),
        g.edge_from(count_down).to(decision),
    )
    return g.build()


def loop_of_nodes(size: Size) -> Graph[Any, Any, Any, Any]:
    g = builder()

    @g.step
    async def begin(ctx: StepContext[None, None, None]) -> CountDown:
        return CountDown(size.loop)

    g.add(g.node(CountDown), g.edge_from(g.start_node).to(begin), g.edge_from(begin).to(CountDown))
    return g.build()


def loop_with_chain(size: Size) -> Sequence[Way]:
    g = builder()

    async def inc(ctx: StepContext[Adding, None, int]) -> int:
        return work.inc(ctx.inputs)

    @g.step
    async def add_up(ctx: StepContext[Adding, None, int]) -> int:
        ctx.state.amount = work.add_up(ctx.state.amount, ctx.inputs)
        ctx.state.n = work.count_down(ctx.state.n)
        return 0 if ctx.state.n else ctx.state.amount

    steps = [g.step(inc, node_id=f"inc{x}") for x in range(size.chain_in_loop)]
    decision = (
        g.decision()
        .branch(g.match(int, matches=lambda value: value == 0).to(steps[0]))
        .branch(g.match(int).to(g.end_node))
    )
    for before, after in zip([g.start_node, *steps], [*steps, add_up], strict=True):
        g.add(g.edge_from(before).to(after))
    g.add(g.edge_from(add_up).to(decision))
    run = runner(g.build(), 0, lambda: Adding(size.loop_with_chain))
    return [Way("a step for each call, and a decision that goes back to the first", run)]


def chain(size: Size) -> Sequence[Way]:
    g = builder()

    async def inc(ctx: StepContext[None, None, int]) -> int:
        return work.inc(ctx.inputs)

    steps = [g.step(inc, node_id=f"inc{x}") for x in range(size.chain)]
    for before, after in zip([g.start_node, *steps], [*steps, g.end_node], strict=True):
        g.add(g.edge_from(before).to(after))
    return [Way("a step for each call", runner(g.build(), 0))]


def fan_out(size: Size) -> Sequence[Way]:
    async def inc(ctx: StepContext[None, None, int]) -> int:
        return work.inc(ctx.inputs)

    return [Way("a mapped edge and a join", mapped(inc, size.fan_out))]


def at_once(size: Size) -> Sequence[Way]:
    async def nap(ctx: StepContext[None, asyncio.Semaphore, int]) -> int:
        async with ctx.deps:
            return await work.nap(ctx.inputs, size.nap)

    run = mapped(nap, size.at_once, lambda: asyncio.Semaphore(size.limit))
    return [Way("a mapped edge, and a semaphore, passed as `deps`, in the step", run, by_user=True)]


def mapped(call: Any, count: int, deps: Callable[[], object] = lambda: None) -> Callable[[], Any]:
    g = builder()
    step = g.step(call, node_id="part")
    parts = g.join(reduce_list_append, initial_factory=list)

    @g.step
    async def total(ctx: StepContext[None, Any, list[int]]) -> int:
        return work.total(ctx.inputs)

    g.add(
        g.edge_from(g.start_node).map().to(step),
        g.edge_from(step).to(parts),
        g.edge_from(parts).to(total),
        g.edge_from(total).to(g.end_node),
    )
    return runner(g.build(), range(count), deps=deps)


def runner(
    graph: Graph[Any, Any, Any, Any],
    inputs: object,
    state: Callable[[], object] = lambda: None,
    deps: Callable[[], object] = lambda: None,
) -> Callable[[], Any]:
    async def run() -> object:
        return await graph.run(inputs=inputs, state=state(), deps=deps(), infer_name=False)

    return run


PEER = Peer(
    "pydantic-graph",
    {
        "loop": loop,
        "loop_with_chain": loop_with_chain,
        "chain": chain,
        "fan_out": fan_out,
        "at_once": at_once,
        "rate": NotOffered("a limiter, passed as `deps`"),
    },
    ["pydantic-graph"],
)

if __name__ == "__main__":
    main(PEER)
