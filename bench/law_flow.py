"""Maps over maps flow: two stages take the time of one, and the tail of the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio

import cascade as cs
from harness import Case

AT_A_TIME = 10  # in each stage
MOST = 1.3  # times as long as one stage and the tail of the other take by hand


@cs.task
async def fetch(x: int, seconds: float) -> int:
    await anyio.sleep(seconds)
    return x


@cs.task
async def parse(x: int, seconds: float) -> int:
    await anyio.sleep(seconds)
    return x


class Pipeline:
    """Two stages as maps, and by hand: as many workers a stage, with a queue between them."""

    def __init__(self, count: int, seconds: float) -> None:
        self.count = count
        self.seconds = seconds

    def build(self) -> Any:
        takes = cs.unmapped(self.seconds)
        fetched = fetch.map(x=list(range(self.count)), seconds=takes).with_concurrency(AT_A_TIME)
        return parse.map(x=fetched, seconds=takes).with_concurrency(AT_A_TIME)

    async def by_hand(self) -> list[int]:
        send, receive = anyio.create_memory_object_stream[int](self.count)
        todo, done = iter(range(self.count)), list[int]()

        async def first() -> None:
            for x in todo:
                send.send_nowait(await fetch.func(x, self.seconds))

        async def second() -> None:
            async for x in receive:
                done.append(await parse.func(x, self.seconds))

        async with anyio.create_task_group() as parsers:
            for _ in range(AT_A_TIME):
                parsers.start_soon(second)
            async with anyio.create_task_group() as fetchers:
                for _ in range(AT_A_TIME):
                    fetchers.start_soon(first)
            send.close()
        receive.close()
        return sorted(done)


def cases(quick: bool) -> Iterator[Case]:
    pipeline = Pipeline(30 if quick else 300, 0.001 if quick else 0.02)
    yield Case(
        f"flow: two stages, {AT_A_TIME} at a time each",
        "item",
        pipeline.count,
        pipeline.build,
        pipeline.by_hand,
        list(range(pipeline.count)),
        at_most=MOST,
    )
