"""Dask: `dask.delayed` graphs built once, on the synchronous or the threaded scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import dask
import work
from rounds import NotOffered, Peer, Way, main
from work import Size

inc = dask.delayed(work.inc, pure=False)
total = dask.delayed(work.total, pure=False)
nap = dask.delayed(work.nap_in_thread, pure=False)


def chain(size: Size) -> Sequence[Way]:
    value = inc(0)
    for _ in range(size.chain - 1):
        value = inc(value)
    return on_each_scheduler("nested calls", value)


def fan_out(size: Size) -> Sequence[Way]:
    return on_each_scheduler("a list of calls", total([inc(x) for x in range(size.fan_out)]))


def at_once(size: Size) -> Sequence[Way]:
    naps = total([nap(x, size.nap) for x in range(size.at_once)])
    how = "a list of calls on the threaded scheduler, `num_workers` the limit"
    return [Way(how, partial(naps.compute, scheduler="threads", num_workers=size.limit))]


def on_each_scheduler(how: str, value: Any) -> Sequence[Way]:
    (optimized,) = dask.optimize(value)
    ways = []
    for scheduler in ("synchronous", "threads"):
        way = f"{how}, `{scheduler}` scheduler"
        ways.append(Way(way, partial(value.compute, scheduler=scheduler)))
        before = partial(optimized.compute, scheduler=scheduler, optimize_graph=False)
        ways.append(Way(f"{way}, `dask.optimize` called once before", before))
    return ways


NO_CYCLES = NotOffered("`while` around `compute`")

PEER = Peer(
    "dask.delayed",
    {
        "loop": NO_CYCLES,
        "loop_with_chain": NO_CYCLES,
        "chain": chain,
        "fan_out": fan_out,
        "at_once": at_once,
        "rate": NotOffered("a limiter in the function"),
    },
    ["dask"],
)

if __name__ == "__main__":
    main(PEER)
