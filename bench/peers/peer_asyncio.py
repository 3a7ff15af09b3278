"""The standard library: `graphlib.TopologicalSorter` for the order, asyncio for the waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

import work
from rounds import NotOffered, Peer, Way, main
from work import Size


@dataclass(frozen=True, slots=True)
class Node:
    """A call: of `func`, with the values of the nodes named by `needs`, then `data`."""

    func: Callable[..., Any]
    needs: tuple[str, ...] = ()
    data: tuple[Any, ...] = ()


Graph = Mapping[str, Node]


def chain(size: Size) -> Sequence[Way]:
    nodes = {"0": Node(work.inc, data=(0,))}
    for x in range(1, size.chain):
        nodes[str(x)] = Node(work.inc, (str(x - 1),))
    how = "the calls in `static_order`, sorted once"
    return [Way(how, in_static_order(nodes, str(size.chain - 1)))]


def fan_out(size: Size) -> Sequence[Way]:
    nodes = {str(x): Node(work.inc, data=(x,)) for x in range(size.fan_out)}
    nodes["total"] = Node(add_all, tuple(nodes))
    return [Way("the calls in `static_order`, sorted once", in_static_order(nodes, "total"))]


def at_once(size: Size) -> Sequence[Way]:
    async def add_naps(*values: int) -> int:
        return add_all(*values)

    nodes = {str(x): Node(work.nap, data=(x, size.nap)) for x in range(size.at_once)}
    nodes["total"] = Node(add_naps, tuple(nodes))

    async def run() -> object:
        return (await as_they_get_ready(nodes, size.limit))["total"]

    how = "`get_ready` and `done` around a `TaskGroup`, and a semaphore"
    return [Way(how, run, by_user=True)]


def add_all(*values: int) -> int:
    return work.total(list(values))


def sorter(nodes: Graph) -> TopologicalSorter[str]:
    return TopologicalSorter({name: node.needs for name, node in nodes.items()})


def in_static_order(nodes: Graph, target: str) -> Callable[[], object]:
    order = [(name, nodes[name]) for name in sorter(nodes).static_order()]

    def run() -> object:
        values: dict[str, Any] = {}
        for name, node in order:
            values[name] = node.func(*[values[need] for need in node.needs], *node.data)
        return values[target]

    return run


async def as_they_get_ready(nodes: Graph, limit: int) -> dict[str, Any]:
    """The values of all nodes; each runs when what it needs is there, at most `limit` at a time."""
    gate = asyncio.Semaphore(limit)
    values: dict[str, Any] = {}
    finished: asyncio.Queue[str] = asyncio.Queue()
    order = sorter(nodes)
    order.prepare()

    async def carry_out(name: str) -> None:
        node = nodes[name]
        async with gate:
            values[name] = await node.func(*[values[need] for need in node.needs], *node.data)
        finished.put_nowait(name)

    async with asyncio.TaskGroup() as group:
        while order.is_active():
            for name in order.get_ready():
                group.create_task(carry_out(name))
            order.done(await finished.get())
    return values


NO_CYCLES = NotOffered("`while`, as by hand")

PEER = Peer(
    "asyncio and graphlib",
    {
        "loop": NO_CYCLES,
        "loop_with_chain": NO_CYCLES,
        "chain": chain,
        "fan_out": fan_out,
        "at_once": at_once,
        "rate": NotOffered("`asyncio.sleep` between the starts, as by hand"),
    },
)

if __name__ == "__main__":
    main(PEER)
