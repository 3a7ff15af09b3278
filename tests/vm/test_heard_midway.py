"""Attempts of hot loops that somebody comes to hear of in their middle (section 14)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

import cascade as cs
from cascade.core.services import FusedTier

LATER = 100  # seconds: loops go on until then

Inside = Callable[..., Any]


def looped(node: Any) -> Any:
    return cs.bind(node, cs.select_jump({"again": node, "exit": None}))


def heard(inside: Inside, use_vm: bool, make: Callable[[cs.Engine, Any], Any]) -> list[Any]:
    """The (task, status, duration) told to who subscribes after 12 seconds, or when told to."""
    told: list[cs.TaskExecutionFinished] = []
    engine = cs.Engine()
    engine.services.fused_tier = FusedTier(0)

    def listen() -> None:
        engine.bus.subscribe(cs.TaskExecutionFinished, told.append)

    async def main() -> None:
        async with anyio.create_task_group() as group:

            async def run() -> None:
                await engine.run(looped(make(engine, listen)), use_vm=use_vm)

            group.start_soon(run)
            await anyio.sleep(12)
            if not told:
                listen()

    inside(main)
    assert bool(engine.statistics().fused_entries) == use_vm
    return [(event.task_name, event.status, event.duration) for event in told]


def next_of(n: int) -> cs.Jump:
    return cs.Jump("exit" if anyio.current_time() > LATER else "again", n + 1)


def test_an_await_that_goes_on_lasts_from_its_start(inside: Inside, use_vm: bool) -> None:
    """Also one that pauses several times; those after it are told in full."""

    @cs.task
    async def step(n: int) -> Any:
        await anyio.sleep(10)
        await anyio.sleep(15)
        return next_of(n)

    told = heard(inside, use_vm, lambda *_: step(0))
    assert told == [("step", "Succeeded", 25)] * 5


@pytest.mark.parametrize("at", [1, 2])
def test_each_of_several_awaits_has_a_start_of_its_own(
    inside: Inside, use_vm: bool, at: int
) -> None:
    """The one that goes on is told, not the one before."""
    first, second = {1: (20, 3), 2: (10, 50)}[at]

    @cs.task
    async def before(n: int) -> int:
        await anyio.sleep(first)
        return n

    @cs.task
    async def step(n: int, m: int) -> Any:
        await anyio.sleep(second)
        return next_of(n)

    told = heard(inside, use_vm, lambda *_: step(0, before(1)))
    both = [("before", "Succeeded", first), ("step", "Succeeded", second)]
    assert told[: 3 - at] == both[at - 1 :]


def test_an_await_that_fails_lasts_from_its_start(inside: Inside, use_vm: bool) -> None:
    """And so do the attempts after it."""

    @cs.task
    async def step(n: int) -> Any:
        await anyio.sleep(25)
        if anyio.current_time() < 60:
            raise OSError("not yet")
        return next_of(LATER)

    told = heard(inside, use_vm, lambda *_: step(0).with_retry(9))
    assert told[:3] == [("step", status, 25) for status in ("Failed", "Failed", "Succeeded")]


@pytest.mark.parametrize("pauses", [(3, 4), (0, 4), (3, 0)])
def test_an_await_may_bring_its_own_subscriber(
    inside: Inside, use_vm: bool, pauses: tuple[int, int]
) -> None:
    """Whether it has paused before, or pauses after."""

    @cs.task
    async def before(n: int) -> int:
        await anyio.sleep(2)
        return n

    def made(_: cs.Engine, listen: Callable[[], None]) -> Any:
        @cs.task
        async def step(n: int, m: int) -> Any:
            if pauses[0]:
                await anyio.sleep(pauses[0])
            if n == 0:
                listen()
            if pauses[1]:
                await anyio.sleep(pauses[1])
            return next_of(n)

        return step(0, before(1))

    assert heard(inside, use_vm, made)[0] == ("step", "Succeeded", sum(pauses))


def test_what_never_paused_has_no_part_in_what_did(inside: Inside, use_vm: bool) -> None:
    """A task that holds the loop, after an await of the same iteration, takes no time."""

    @cs.task
    async def before(n: int) -> int:
        await anyio.sleep(7)
        return n

    def made(_: cs.Engine, listen: Callable[[], None]) -> Any:
        @cs.task
        def step(n: int, m: int) -> Any:
            if n == 0:
                listen()
            return next_of(n)

        return step(0, before(1))

    assert heard(inside, use_vm, made)[:2] == [("step", "Succeeded", 0), ("before", "Succeeded", 7)]


def test_a_value_to_be_awaited_lasts_from_where_it_was_given(inside: Inside, use_vm: bool) -> None:
    """Not from the await before it."""

    @cs.task
    async def before(n: int) -> int:
        await anyio.sleep(7)
        return n

    @cs.task
    def step(n: int, m: int) -> Any:
        async def later() -> Any:
            await anyio.sleep(20)
            return next_of(n)

        return later()

    told = heard(inside, use_vm, lambda *_: step(0, before(1)))
    assert told[:2] == [("step", "Succeeded", 20), ("before", "Succeeded", 7)]


def test_loops_side_by_side_are_told_apart(inside: Inside, use_vm: bool) -> None:
    """Each attempt that goes on has its own start, though loops share their code."""

    @cs.task
    async def step(seconds: int) -> Any:
        await anyio.sleep(seconds)
        return cs.Jump("exit", seconds)

    @cs.task
    async def gather(n: int, values: list[int]) -> Any:
        return next_of(n + sum(values))

    told = heard(inside, use_vm, lambda *_: gather(0, [looped(step(n)) for n in (15, 20, 25)]))
    assert told[:3] == [("step", "Succeeded", n) for n in (15, 20, 25)]
