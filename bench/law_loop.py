"""A hot loop on the virtual machine costs little more than the same loop written by hand.

The yardstick of a jump loop is `while True: r = step(n); if r.target_key == "exit": break; n =
r.data`, with the same Jump objects; the calls of a chain are made in a `for` loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cascade as cs
from harness import Case, Work
from steps import chain, inc

CHAIN = 20


@cs.task
def count_down(n: int) -> cs.Jump:
    return cs.Jump("exit", n) if n == 0 else cs.Jump("again", n - 1)


@cs.task
async def count_down_async(n: int) -> cs.Jump:
    return cs.Jump("exit", n) if n == 0 else cs.Jump("again", n - 1)


@cs.task
def count_down_named(n: int) -> cs.Jump:
    return cs.Jump("exit", n) if n == 0 else cs.Jump("again", {"n": n - 1})


@cs.task
def add_up(n: int, total: int, value: int) -> cs.Jump:
    if n == 0:
        return cs.Jump("exit", total)
    return cs.Jump("again", {"n": n - 1, "total": total + value})


@cs.task
def call_again(n: int) -> Any:
    return n if n == 0 else cs.TailCall((n - 1,))


def cases(quick: bool) -> Iterator[Case]:
    count = 20 if quick else 50_000
    yield one_task("jump loop", count_down, by_hand(count), count, at_most=1.3)
    yield one_task("jump loop by name", count_down_named, by_hand_named(count), count)
    yield with_chain(max(20, count * 2 // 5))
    yield one_task("async jump loop", count_down_async, by_hand_async(count), count, at_most=1.3)
    yield tail_calls(count)


def looped(node: cs.LazyResult[Any]) -> cs.LazyResult[Any]:
    return cs.bind(node, cs.select_jump({"again": node, "exit": None}))


def one_task(
    law: str,
    task: cs.Task[[int], Any],
    hand: Work,
    count: int,
    at_most: float | None = None,
    micros: float | None = None,
    engine: Callable[[], cs.Engine] = cs.Engine,
) -> Case:
    return Case(
        f"{law}, {count:,} times",
        "iteration",
        count,
        lambda: looped(task(count - 1)),
        hand,
        0,
        at_most=at_most,
        micros=micros,
        engine=engine,
    )


def by_hand(count: int) -> Work:
    step = count_down.func

    async def loop() -> object:
        n = count - 1
        while True:
            jump = step(n)
            if jump.target_key == "exit":
                return jump.data
            n = jump.data

    return loop


def by_hand_named(count: int) -> Work:
    step = count_down_named.func

    async def loop() -> object:
        n = count - 1
        while True:
            jump = step(n)
            if jump.target_key == "exit":
                return jump.data
            n = jump.data["n"]

    return loop


def by_hand_async(count: int) -> Work:
    step = count_down_async.func

    async def loop() -> object:
        n = count - 1
        while True:
            jump = await step(n)
            if jump.target_key == "exit":
                return jump.data
            n = jump.data

    return loop


def with_chain(count: int) -> Case:
    first, step = inc.func, add_up.func

    async def loop() -> object:
        n, total = count - 1, 0
        while True:
            value = 0
            for _ in range(CHAIN):
                value = first(value)
            jump = step(n, total, value)
            if jump.target_key == "exit":
                return jump.data
            n, total = jump.data["n"], jump.data["total"]

    return Case(
        f"jump loop with a {CHAIN}-task chain, {count:,} times",
        "iteration",
        count,
        lambda: looped(add_up(count - 1, 0, chain(inc, CHAIN))),
        loop,
        CHAIN * (count - 1),
        at_most=1.1,
    )


def tail_calls(count: int) -> Case:
    step = call_again.func

    async def loop() -> object:
        n = count - 1
        while True:
            result = step(n)
            if type(result) is not cs.TailCall:
                return result
            (n,) = result.args

    law = f"tail call, {count:,} times"
    build = lambda: call_again(count - 1)  # noqa: E731
    return Case(law, "iteration", count, build, loop, 0, at_most=1.3)
