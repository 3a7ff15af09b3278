"""Cascade: expressions built once, one engine, both strategies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import work
from rounds import Peer, Way, main
from work import Size

import cascade as cs

inc = cs.task(work.inc)
total = cs.task(work.total)
nap = cs.task(work.nap)
start = cs.task(work.start)


@cs.task
def count_down(n: int) -> cs.Jump:
    return cs.Jump("again", n - 1) if n else cs.Jump("done", n)


@cs.task
def add_up(n: int, amount: int, value: int) -> cs.Jump:
    amount = work.add_up(amount, value)
    return cs.Jump("again", {"n": n - 1, "amount": amount}) if n else cs.Jump("done", amount)


def repeated(step: cs.LazyResult[Any]) -> cs.LazyResult[Any]:
    return cs.bind(step, cs.select_jump({"again": step, "done": None}))


def chain_of(length: int) -> cs.LazyResult[int]:
    value = inc(0)
    for _ in range(length - 1):
        value = inc(value)
    return value


def loop(size: Size, use_vm: bool) -> Sequence[Way]:
    step = repeated(count_down(size.loop - 1))
    return [Way("a task that returns a Jump", runner(step, use_vm))]


def loop_with_chain(size: Size, use_vm: bool) -> Sequence[Way]:
    step = repeated(add_up(size.loop_with_chain - 1, 0, chain_of(size.chain_in_loop)))
    return [Way("a chain as an argument of the task that jumps", runner(step, use_vm))]


def chain(size: Size, use_vm: bool) -> Sequence[Way]:
    return [Way("nested calls", runner(chain_of(size.chain), use_vm))]


def fan_out(size: Size, use_vm: bool) -> Sequence[Way]:
    return [
        Way("a list of calls", runner(total([inc(x) for x in range(size.fan_out)]), use_vm)),
        Way("a map", runner(total(inc.map(x=range(size.fan_out))), use_vm)),
    ]


def at_once(size: Size, use_vm: bool) -> Sequence[Way]:
    engine = cs.Engine()
    engine.constraints.limit_concurrency("task:nap", size.limit)
    naps = total(nap.map(x=range(size.at_once), seconds=[size.nap] * size.at_once))
    return [Way("a map under `limit_concurrency`", runner(naps, use_vm, engine))]


def rate(size: Size, use_vm: bool) -> Sequence[Way]:
    engine = cs.Engine()
    engine.constraints.limit_rate("task:start", size.per_second)
    starts = total(start.map(x=range(size.rate)))
    return [Way("a map under `limit_rate`", runner(starts, use_vm, engine))]


def runner(target: Any, use_vm: bool, engine: cs.Engine | None = None) -> Callable[[], Any]:
    engine = engine or cs.Engine()

    async def run() -> object:
        return await engine.run(target, use_vm=use_vm)

    return run


def peer(name: str, use_vm: bool) -> Peer:
    offers = {
        "loop": loop,
        "loop_with_chain": loop_with_chain,
        "chain": chain,
        "fan_out": fan_out,
        "at_once": at_once,
        "rate": rate,
    }
    bound = {name: partial(offer, use_vm=use_vm) for name, offer in offers.items()}
    return Peer(name, bound, ["cascade-vm", "anyio"])


if __name__ == "__main__":
    main(peer("cascade", False), peer("cascade, `use_vm=True`", True))
