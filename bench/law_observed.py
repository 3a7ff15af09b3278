"""A loop that is listened to, limited or retried costs at most 4 us an iteration more.

On the virtual machine, each alone; the yardstick is the loop written by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cascade as cs
from harness import Case
from law_loop import by_hand, by_hand_async, count_down, count_down_async, one_task

MORE = 4.0  # microseconds


def nothing(_: object) -> None:
    pass


def listened() -> cs.Engine:
    engine = cs.Engine()
    engine.bus.subscribe(cs.TaskExecutionStarted, nothing)
    engine.bus.subscribe(cs.TaskExecutionFinished, nothing)
    return engine


def limited() -> cs.Engine:
    engine = cs.Engine()
    engine.constraints.limit_concurrency("task:count_down*", 2)
    return engine


def rated() -> cs.Engine:
    engine = cs.Engine()
    engine.constraints.limit_rate("task:count_down*", 1e9, burst=1_000_000)
    return engine


OBSERVED: dict[str, Callable[[], cs.Engine]] = {
    "with subscribers": listened,
    "with a limit": limited,
    "with a rate": rated,
}


def cases(quick: bool) -> Iterator[Case]:
    count = 20 if quick else 10_000
    for name, engine in OBSERVED.items():
        law = f"jump loop {name}"
        yield one_task(law, count_down, by_hand(count), count, micros=MORE, engine=engine)
        law = f"async jump loop {name}"
        hand = by_hand_async(count)
        yield one_task(law, count_down_async, hand, count, micros=MORE, engine=engine)
    yield retried(count)


def retried(count: int) -> Case:
    def build() -> cs.LazyResult[Any]:
        node = count_down(count - 1).with_retry(3)
        return cs.bind(node, cs.select_jump({"again": node, "exit": None}))

    law = f"jump loop with a retry policy, {count:,} times"
    return Case(law, "iteration", count, build, by_hand(count), 0, micros=MORE)
