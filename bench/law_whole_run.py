"""A whole run of one task costs no more than starting a few tasks by hand.

With an engine at hand inside a loop, where the yardstick is the plain call; and from outside,
`cs.run` beside `anyio.run`, where the loop's own start is most of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from harness import Case
from steps import inc, inc_suspending


def cases(quick: bool) -> Iterator[Case]:
    async def call() -> int:
        return inc.func(1)  # type: ignore[no-any-return]

    async def call_async() -> int:
        return await inc_suspending.func(1)  # type: ignore[no-any-return]

    one, one_async = partial(inc, 1), partial(inc_suspending, 1)
    yield Case("engine.run of one task", "run", 1, one, call, 2)
    yield Case("engine.run of one task, built and cold", "run", 1, one, call, 2, "cold")
    yield Case("engine.run of one task that suspends", "run", 1, one_async, call_async, 2)
    yield Case("cs.run of one task", "run", 1, one, call, 2, "own loop")
