"""A tail call that builds its chain of 11 tasks anew costs at most 5 checkpoints a task.

Each step returns an expression of the same structure with other data. The yardstick makes the
same calls in a loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cascade as cs
from harness import Case
from steps import chain, inc

CHAIN = 10  # and the task at its end, which makes the next one


@cs.task
def go_on(steps: int, value: int) -> Any:
    return value if steps == 0 else go_on(steps - 1, chain(inc, CHAIN, value))


def cases(quick: bool) -> Iterator[Case]:
    calls = 20 if quick else 500

    def build() -> cs.LazyResult[Any]:
        return go_on(calls, 0)

    async def by_hand() -> int:
        value = 0
        for _ in range(calls):
            for _ in range(CHAIN):
                value = inc.func(value)
        return value

    law = f"tail call that rebuilds {CHAIN + 1} tasks, {calls:,} times"
    yield Case(law, "call", calls, build, by_hand, CHAIN * calls)
