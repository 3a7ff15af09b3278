"""A tail call that builds its chain of 11 tasks anew costs at most 20 times its calls by hand.

Each step returns an expression of the same structure with other data. The yardstick makes the
same 12 calls in a loop. On the graph strategy it costs at most 5 checkpoints a task.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cascade as cs
from harness import Case
from steps import chain, inc

CHAIN = 11  # and the task at its end, which makes the next one


@cs.task
def go_on(steps: int, value: int) -> Any:
    return value if steps == 0 else go_on(steps - 1, chain(inc, CHAIN, value))


def cases(quick: bool) -> Iterator[Case]:
    calls = 20 if quick else 5_000

    def build() -> cs.LazyResult[Any]:
        return go_on(calls, 0)

    first = inc.func

    def last(steps: int, value: int) -> int:
        return value

    async def by_hand() -> int:
        value = 0
        for steps in range(calls):
            for _ in range(CHAIN):
                value = first(value)
            value = last(steps, value)
        return value

    law = f"tail call that rebuilds {CHAIN + 1} tasks, {calls:,} times"
    yield Case(law, "call", calls, build, by_hand, CHAIN * calls, at_most=20)
