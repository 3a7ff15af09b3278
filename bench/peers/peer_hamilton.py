"""Hamilton: drivers built once, with the default adapter: a dict of the values asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import work
from hamilton import ad_hoc_utils, driver
from hamilton.execution.executors import MultiThreadingExecutor, SynchronousLocalTaskExecutor
from hamilton.function_modifiers import group, inject, parameterize, source, value
from hamilton.htypes import Collect, Parallelizable
from hamilton.plugins.h_threadpool import FutureAdapter
from rounds import NotOffered, Peer, Way, main
from work import Size


def chain(size: Size) -> Sequence[Way]:
    def inc(before: int) -> int:
        return work.inc(before)

    # The driver recurses over the chain, some frames a node.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 10 * size.chain))
    links = {f"x{x}": {"before": source(f"x{x - 1}")} for x in range(1, size.chain)}
    first = {"x0": {"before": value(0)}}
    built = build(parameterize(**first, **links)(inc)).build()
    how = "a function for each call, by `parameterize`; `sys.setrecursionlimit` raised"
    return [Way(how, execute(built, f"x{size.chain - 1}"))]


def fan_out(size: Size) -> Sequence[Way]:
    def inc(x: int) -> int:
        return work.inc(x)

    return [Way("`parameterize` and `inject`", execute(build(*parts(inc, size.fan_out)).build()))]


def at_once(size: Size) -> Sequence[Way]:
    def nap(x: int) -> int:
        return work.nap_in_thread(x, size.nap)

    def item() -> Parallelizable[int]:
        yield from range(size.at_once)

    def napped(item: int) -> int:
        return work.nap_in_thread(item, size.nap)

    def total(napped: Collect[int]) -> int:
        return work.total(list(napped))

    in_threads = build(*parts(nap, size.at_once)).with_adapters(FutureAdapter(size.limit)).build()
    dynamic = (
        build(item, napped, total)
        .enable_dynamic_execution(allow_experimental_mode=True)
        .with_local_executor(SynchronousLocalTaskExecutor())
        .with_remote_executor(MultiThreadingExecutor(size.limit))
        .build()
    )
    return [
        Way("`parameterize` and `FutureAdapter`: as many threads", execute(in_threads)),
        Way("`Parallelizable` and `MultiThreadingExecutor`: as many threads", execute(dynamic)),
    ]


def parts(function: Callable[[int], int], count: int) -> Sequence[Callable[..., Any]]:
    """The functions of a DAG: `function` for each of `count` items, and their `total`."""

    def total(values: list[int]) -> int:
        return work.total(values)

    names = [f"part{x}" for x in range(count)]
    each = parameterize(**{name: {"x": value(x)} for x, name in enumerate(names)})(function)
    return each, inject(values=group(*(source(name) for name in names)))(total)


def build(*functions: Callable[..., Any]) -> driver.Builder:
    return driver.Builder().with_modules(ad_hoc_utils.create_temporary_module(*functions))


def execute(built: driver.Driver, target: str = "total") -> Callable[[], object]:
    return lambda: built.execute([target])[target]


NO_CYCLES = NotOffered("`while` around `execute`")

PEER = Peer(
    "hamilton",
    {
        "loop": NO_CYCLES,
        "loop_with_chain": NO_CYCLES,
        "chain": chain,
        "fan_out": fan_out,
        "at_once": at_once,
        "rate": NotOffered("a limiter in the function"),
    },
    ["sf-hamilton"],
)

if __name__ == "__main__":
    main(PEER)
