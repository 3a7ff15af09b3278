"""A fallback and `.settled()` cost next to nothing where the calls succeed.

The yardstick is the same work by hand; of settled calls it makes the same Outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cascade as cs
from harness import Case
from law_loop import add_up, looped
from steps import inc

Policy = Callable[[cs.LazyResult[int]], cs.LazyResult[Any]]


@cs.task
def add_outcome(n: int, total: int, outcome: cs.Outcome[int]) -> cs.Jump:
    if n == 0:
        return cs.Jump("exit", total)
    return cs.Jump("again", {"n": n - 1, "total": total + outcome.unwrap()})


def cases(quick: bool) -> Iterator[Case]:
    count = 20 if quick else 50_000
    width = 20 if quick else 1_000
    yield hot("hot loop, a plain call", add_up, plain, int, count)
    yield hot("hot loop, a fallback", add_up, with_fallback, int, count)
    yield hot("hot loop, a settled call", add_outcome, settled, cs.Outcome, count)
    yield fan_out("calls with a fallback", with_fallback, int, width)
    yield fan_out("settled calls", settled, cs.Outcome, width)


def plain(node: cs.LazyResult[int]) -> cs.LazyResult[int]:
    return node


def with_fallback(node: cs.LazyResult[int]) -> cs.LazyResult[int]:
    return node.with_fallback(0)


def settled(node: cs.LazyResult[int]) -> cs.LazyResult[cs.Outcome[int]]:
    return node.settled()


def hot(
    law: str, step: cs.Task[..., Any], policy: Policy, made: Callable[[int], Any], count: int
) -> Case:
    first, last = inc.func, step.func

    async def by_hand() -> object:
        n, total = count - 1, 0
        while True:
            jump = last(n, total, made(first(0)))
            if jump.target_key == "exit":
                return jump.data
            n, total = jump.data["n"], jump.data["total"]

    def build() -> cs.LazyResult[Any]:
        return looped(step(count - 1, 0, policy(inc(0))))

    return Case(f"{law}, {count:,} times", "iteration", count, build, by_hand, count - 1)


def fan_out(law: str, policy: Policy, made: Callable[[int], Any], width: int) -> Case:
    async def by_hand() -> list[Any]:
        return [made(inc.func(x)) for x in range(width)]

    def build() -> list[cs.LazyResult[Any]]:
        return [policy(inc(x)) for x in range(width)]

    expected = [made(x) for x in range(1, width + 1)]
    return Case(f"fan-out of {width:,} {law}", "node", width, build, by_hand, expected)
