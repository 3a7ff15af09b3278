"""An iteration of a one-task jump loop costs at most 5 checkpoints; of a chain, as much a node.

The yardstick is `while True: r = step(n); if r.target_key == "exit": break; n = r.data`, with the
same Jump objects.
"""

from __future__ import annotations

from collections.abc import Iterator

import cascade as cs
from harness import Case
from steps import chain, inc

CHAIN = 20


@cs.task
def count_down(n: int) -> cs.Jump:
    return cs.Jump("exit", n) if n == 0 else cs.Jump("again", {"n": n - 1})


@cs.task
def add_up(n: int, total: int, value: int) -> cs.Jump:
    if n == 0:
        return cs.Jump("exit", total)
    return cs.Jump("again", {"n": n - 1, "total": total + value})


def cases(quick: bool) -> Iterator[Case]:
    iterations = 20 if quick else 1_000
    yield one_task(iterations)
    yield with_chain(iterations)


def one_task(iterations: int) -> Case:
    def build() -> cs.LazyResult[object]:
        step = count_down(iterations - 1)
        return cs.bind(step, cs.select_jump({"again": step, "exit": None}))

    async def by_hand() -> object:
        n = iterations - 1
        while True:
            jump = count_down.func(n)
            if jump.target_key == "exit":
                return jump.data
            n = jump.data["n"]

    return Case(f"jump loop, {iterations:,} times", "iteration", iterations, build, by_hand, 0)


def with_chain(iterations: int) -> Case:
    def build() -> cs.LazyResult[object]:
        step = add_up(iterations - 1, 0, chain(inc, CHAIN))
        return cs.bind(step, cs.select_jump({"again": step, "exit": None}))

    async def by_hand() -> object:
        n, total = iterations - 1, 0
        while True:
            value = 0
            for _ in range(CHAIN):
                value = inc.func(value)
            jump = add_up.func(n, total, value)
            if jump.target_key == "exit":
                return jump.data
            n, total = jump.data["n"], jump.data["total"]

    expected = CHAIN * (iterations - 1)
    law = f"jump loop with a {CHAIN}-task chain, {iterations:,} times"
    return Case(law, "iteration", iterations, build, by_hand, expected)
