"""LangGraph: graphs compiled once, without a checkpointer; `invoke` and `ainvoke`."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypedDict

import work
from langchain_core.rate_limiters import InMemoryRateLimiter
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from rounds import Peer, Way, main
from work import Size

# Each iteration of a loop counts as a step, and so does each node of a chain.
UNBOUNDED = {"recursion_limit": 1_000_000}


class Counting(TypedDict):
    n: int


class Adding(TypedDict):
    n: int
    value: int
    amount: int


class Fan(TypedDict):
    parts: Annotated[list[int], operator.add]
    total: int


def loop(size: Size) -> Sequence[Way]:
    def count_down(state: Counting) -> dict[str, int]:
        return {"n": work.count_down(state["n"])}

    def route(state: Counting) -> str:
        return "count_down" if state["n"] else END

    builder = StateGraph(Counting)
    builder.add_node("count_down", count_down)
    builder.add_edge(START, "count_down")
    builder.add_conditional_edges("count_down", route, ["count_down", END])
    graph = builder.compile()
    step = task(work.count_down)

    @entrypoint()
    def function(n: int) -> int:
        while n:
            n = step(n).result()
        return n

    return [
        Way("a `StateGraph` with a conditional edge", invoke(graph, {"n": size.loop}, "n")),
        Way("`@entrypoint` with a `while` around a `@task`", invoke(function, size.loop)),
    ]


def loop_with_chain(size: Size) -> Sequence[Way]:
    def inc(state: Adding) -> dict[str, int]:
        return {"value": work.inc(state["value"])}

    def add_up(state: Adding) -> dict[str, int]:
        amount = work.add_up(state["amount"], state["value"])
        return {"n": work.count_down(state["n"]), "value": 0, "amount": amount}

    names = [f"inc{x}" for x in range(size.chain_in_loop)]
    builder = StateGraph(Adding).add_sequence([*((name, inc) for name in names), ("end", add_up)])
    builder.add_edge(START, names[0])
    builder.add_conditional_edges(
        "end", lambda state: names[0] if state["n"] else END, [names[0], END]
    )
    begin = {"n": size.loop_with_chain, "value": 0, "amount": 0}
    how = "a `StateGraph` with a node for each call and a conditional edge"
    return [Way(how, invoke(builder.compile(), begin, "amount"))]


def chain(size: Size) -> Sequence[Way]:
    def inc(state: Adding) -> dict[str, int]:
        return {"value": work.inc(state["value"])}

    builder = StateGraph(Adding).add_sequence([(f"inc{x}", inc) for x in range(size.chain)])
    builder.add_edge(START, "inc0")
    graph = builder.compile()
    step = task(work.inc)

    @entrypoint()
    def function(value: int) -> int:
        for _ in range(size.chain):
            value = step(value).result()
        return value

    return [
        Way("a `StateGraph` with a node for each call", invoke(graph, {"value": 0}, "value")),
        Way("`@entrypoint` with a `@task` for each call", invoke(function, 0)),
    ]


def fan_out(size: Size) -> Sequence[Way]:
    def inc(state: dict[str, int]) -> dict[str, list[int]]:
        return {"parts": [work.inc(state["x"])]}

    async def inc_async(state: dict[str, int]) -> dict[str, list[int]]:
        return inc(state)

    step = task(work.inc)

    @entrypoint()
    def function(count: int) -> int:
        futures = [step(x) for x in range(count)]
        return work.total([future.result() for future in futures])

    graph = mapped(inc, size.fan_out)
    async_graph = mapped(inc_async, size.fan_out)
    return [
        Way("`Send` to sync nodes, `invoke`", invoke(graph, {"parts": []}, "total")),
        Way("`Send` to async nodes, `ainvoke`", ainvoke(async_graph, {"parts": []}, "total")),
        Way("`@entrypoint` with a `@task` for each call", invoke(function, size.fan_out)),
    ]


def at_once(size: Size) -> Sequence[Way]:
    async def nap(state: dict[str, int]) -> dict[str, list[int]]:
        return {"parts": [await work.nap(state["x"], size.nap)]}

    step = task(work.nap)

    @entrypoint()
    async def function(count: int) -> int:
        return work.total(await asyncio.gather(*(step(x, size.nap) for x in range(count))))

    graph = mapped(nap, size.at_once)
    limit = size.limit
    return [
        Way("`Send` and `max_concurrency`", ainvoke(graph, {"parts": []}, "total", limit)),
        Way("`@task`s and `max_concurrency`", ainvoke(function, size.at_once, limit=limit)),
    ]


def rate(size: Size) -> Sequence[Way]:
    def new_limiter() -> InMemoryRateLimiter:
        return InMemoryRateLimiter(
            requests_per_second=size.per_second, check_every_n_seconds=0.001, max_bucket_size=1
        )

    limiter = new_limiter()

    async def start(state: dict[str, int]) -> dict[str, list[int]]:
        await limiter.aacquire()
        return {"parts": [await work.start(state["x"])]}

    run = ainvoke(mapped(start, size.rate), {"parts": []}, "total")
    how = "`Send`, and `InMemoryRateLimiter` of langchain-core, which polls, awaited in the node"
    return [Way(how, run, by_user=True)]


def mapped(node: Callable[[Any], Any], count: int) -> Any:
    """A graph that sends a part to `node` for each of `count` items, and totals what comes."""

    def total(state: Fan) -> dict[str, int]:
        return {"total": work.total(state["parts"])}

    builder = StateGraph(Fan)
    builder.add_node("part", node)
    builder.add_node("total", total)
    builder.add_conditional_edges(
        START, lambda _: [Send("part", {"x": x}) for x in range(count)], ["part"]
    )
    builder.add_edge("part", "total")
    builder.add_edge("total", END)
    return builder.compile()


def invoke(graph: Any, begin: Any, key: str | None = None) -> Callable[[], object]:
    def run() -> object:
        value = graph.invoke(begin, UNBOUNDED)
        return value if key is None else value[key]

    return run


def ainvoke(
    graph: Any, begin: Any, key: str | None = None, limit: int | None = None
) -> Callable[[], Any]:
    config = UNBOUNDED if limit is None else UNBOUNDED | {"max_concurrency": limit}

    async def run() -> object:
        value = await graph.ainvoke(begin, config)
        return value if key is None else value[key]

    return run


PEER = Peer(
    "langgraph",
    {
        "loop": loop,
        "loop_with_chain": loop_with_chain,
        "chain": chain,
        "fan_out": fan_out,
        "at_once": at_once,
        "rate": rate,
    },
    ["langgraph", "langchain-core"],
)

if __name__ == "__main__":
    main(PEER)
