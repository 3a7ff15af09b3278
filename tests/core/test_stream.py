"""Section 17: items of maps read as they settle, while the run goes on in the reader's block."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import cascade as cs


@cs.task
def double(x: int) -> int:
    return 2 * x


@cs.task
async def nap(x: float) -> float:
    await anyio.sleep(x)
    return x


@cs.task
async def fails_at(x: int) -> int:
    await anyio.sleep(x)
    if x == 3:
        raise LookupError(x)
    return x


@cs.task
def total(values: list[int]) -> int:
    return sum(values)


@pytest.fixture
def streamed(inside: Callable[..., Any], use_vm: bool) -> Callable[..., Any]:
    """Runs `body(results)` within `engine.stream(target, ...)`, and returns what it gives."""

    def streamed(target: Any, body: Callable[[Any], Any], **options: Any) -> Any:
        engine = options.pop("engine", None) or cs.Engine()

        async def main() -> Any:
            async with engine.stream(target, use_vm=use_vm, **options) as results:
                return await body(results)

        return inside(main)

    return streamed


async def values(results: Any) -> list[Any]:
    return [item.value async for item in results]


def test_items_come_as_they_settle(streamed):
    """Each with its place in the map and the id that its events have; then the iteration ends."""
    bus, ids = cs.MessageBus(), []
    bus.subscribe(cs.TaskExecutionFinished, lambda event: ids.append(event.task_id))

    async def body(results: Any) -> Any:
        begin = anyio.current_time()
        found = [(item, anyio.current_time() - begin) async for item in results]
        return found, await results.value()

    found, value = streamed(nap.map(x=[3, 1, 2]), body, engine=cs.Engine(bus=bus))
    assert value == [3, 1, 2]
    assert [(item.index, item.value, at) for item, at in found] == [(1, 1, 1), (2, 2, 2), (0, 3, 3)]
    assert [item.task_id for item, _ in found] == ids
    assert ids[0] == "nap#0[1]/nap#0"


@pytest.mark.parametrize("count", [0, 1, 250])
@pytest.mark.parametrize("buffer", [1, 7, 100])
@pytest.mark.parametrize("task", [double, nap], ids=["inline", "async"])
def test_every_item_comes_once(streamed, task, count, buffer):
    """Whatever the buffer holds."""
    found = streamed(task.map(x=range(count)), values, buffer=buffer)
    assert sorted(found) == [2 * n if task is double else n for n in range(count)]


def test_maps_within_the_target_are_streamed_if_asked_for(streamed):
    """One or several, wherever they stand; by default only the target itself."""
    inner, other = double.map(x=[1, 2]), nap.map(x=[3])
    target = [total(inner), {"k": other}]

    async def body(results: Any) -> Any:
        found = [(item.task_id, item.index, item.value) async for item in results]
        return sorted(found), await results.value()

    value = [6, {"k": [3]}]
    both = [
        ("double#0[0]/double#0", 0, 2),
        ("double#0[1]/double#0", 1, 4),
        ("nap#2[0]/nap#0", 0, 3),
    ]
    assert streamed(target, body, items=[inner, other]) == (both, value)
    assert streamed(target, body, items=(other,)) == (both[2:], value)
    assert streamed(target, body) == ([], value)
    assert streamed(7, body) == ([], 7)


def test_a_map_in_a_loop_gives_its_items_in_each_iteration(streamed):
    """As they settle there; a map of what a task returns is not of the target."""
    mapped = double.map(x=[1, 2])

    @cs.task
    def step(values: list[int], left: int) -> Any:
        return cs.Jump("again", {"left": left - 1}) if left else double.map(x=[7])

    node = cs.bind(step(mapped, 2), cs.select_jump({"again": None}))
    cs.bind(node, cs.select_jump({"again": node}))

    async def body(results: Any) -> Any:
        return [item.value async for item in results], await results.value()

    assert streamed(node, body, items=[mapped]) == ([2, 4] * 3, [14])


def test_a_map_in_a_group_gives_its_items_in_each_attempt(streamed):
    """What an attempt held back when it ended does not hold back the next one."""
    mapped = double.map(x=range(4))
    target = cs.group(total(mapped)).with_timeout(3).with_retry(2)

    async def body(results: Any) -> Any:
        await anyio.sleep(4)
        return await values(results), await results.value()

    assert streamed(target, body, items=[mapped], buffer=1) == ([0, 0, 2, 4, 6], 12)


def test_fallbacks_and_outcomes_are_values(streamed):
    """Whatever stands in the list is streamed."""
    assert streamed(fails_at.map(x=[3, 1]).with_fallback(-1), values) == [1, -1]
    good, bad = streamed(fails_at.map(x=[3, 1]).settled(), values)
    assert (good, str(bad.error)) == (cs.Outcome(1), "3")


@pytest.mark.parametrize("task", [double, nap], ids=["inline", "async"])
def test_a_full_buffer_holds_items_back(streamed, task):
    """No more items start than are read, but for those that run; a `TaskBlocked` says so."""
    bus, started, blocked = cs.MessageBus(), [], []
    bus.subscribe(cs.TaskExecutionStarted, started.append)
    bus.subscribe(cs.TaskBlocked, blocked.append)

    async def body(results: Any) -> None:
        seen = []
        await anyio.sleep(100)
        seen.append(len(started))
        for _ in range(4):
            await anext(results)
            await anyio.sleep(100)
            seen.append(len(started))
        rest = [item async for item in results]
        return seen, len(rest)

    mapped = task.map(x=[1] * 10).with_concurrency(2)
    seen, rest = streamed(mapped, body, buffer=3, engine=cs.Engine(bus=bus))
    assert rest == 6
    assert all(3 + read <= count <= 4 + read for read, count in enumerate(seen))
    assert blocked
    assert blocked[0].reason == "the full buffer of the stream (3 items not read)"


def test_calls_that_wait_for_room_are_held_in_order(streamed):
    """Without a bound on the map too: inline items start one after the other, as there is room."""
    log: list[int] = []

    @cs.task
    def note(x: int) -> int:
        log.append(x)
        return x

    async def body(results: Any) -> Any:
        await anyio.sleep(1)
        assert log == [0, 1]
        return await values(results)

    assert streamed(note.map(x=range(300)), body, buffer=2) == list(range(300))
    assert log == list(range(300))


def test_a_small_buffer_costs_a_fast_reader_no_concurrency(streamed):
    """Items that run at the same time go on doing so, however few are buffered."""

    async def body(results: Any) -> float:
        begin = anyio.current_time()
        async for _ in results:
            pass
        return anyio.current_time() - begin

    assert streamed(nap.map(x=[1] * 50).with_concurrency(10), body, buffer=1) == 5


def test_the_value_is_there_without_reading(streamed):
    """While it is awaited nothing is held back; what was not read can be read afterwards."""

    async def body(results: Any) -> Any:
        return await results.value(), await values(results), await results.value()

    value, found, again = streamed(double.map(x=range(50)), body, buffer=1)
    assert value == again == found == [2 * n for n in range(50)]


def test_awaiting_the_value_in_vain_holds_items_back_again(streamed):
    """A deadline around it ends that."""
    started: list[int] = []

    @cs.task
    async def item(x: int) -> int:
        started.append(x)
        await anyio.sleep(1)
        return x

    async def body(results: Any) -> Any:
        with anyio.move_on_after(4.5):
            await results.value()
        await anyio.sleep(10)
        return len(started), len(await values(results))

    assert streamed(item.map(x=range(20)).with_concurrency(1), body, buffer=2) == (5, 20)


def test_several_tasks_may_read(streamed):
    """Each item goes to one of them."""

    async def body(results: Any) -> list[Any]:
        found: list[Any] = []

        async def read() -> None:
            async for item in results:
                found.append(item.value)
                await anyio.sleep(0.5)

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(read)
        return sorted(found)

    assert streamed(double.map(x=range(20)), body, buffer=2) == [2 * n for n in range(20)]


def test_leaving_early_cancels_and_awaits_the_run(streamed):
    """Its resources are torn down before the block is over."""
    log: list[str] = []
    bus = cs.MessageBus()
    bus.subscribe(cs.RunFinished, lambda event: log.append(event.status))

    @cs.resource
    async def connection() -> Any:
        try:
            yield 1
        finally:
            await anyio.sleep(2)
            log.append("closed")

    @cs.task
    async def item(x: int, by: int = cs.inject("connection")) -> int:
        try:
            await anyio.sleep(x)
        except anyio.get_cancelled_exc_class():
            log.append(f"cancelled {x}")
            raise
        return x

    async def body(results: Any) -> Any:
        async for first in results:
            return first.value

    engine = cs.Engine(bus=bus, resources=[connection])
    assert streamed(item.map(x=[1, 50, 60]), body, engine=engine) == 1
    assert sorted(log[:2]) == ["cancelled 50", "cancelled 60"]
    assert log[2:] == ["closed", "Cancelled"]


def test_leaving_without_reading_cancels_the_run(streamed):
    """A block may do nothing at all."""

    async def body(results: Any) -> float:
        return anyio.current_time()

    assert streamed(nap.map(x=[100]), body) == 0


def test_a_failure_comes_after_the_items_before_it(streamed):
    """It is raised by the iteration, the same object each time, and never in a group."""

    async def body(results: Any) -> Any:
        found = [(await anext(results)).value for _ in range(2)]
        with pytest.raises(LookupError, match="3") as raised:
            await values(results)
        with pytest.raises(LookupError) as again:
            await anext(results)
        with pytest.raises(LookupError) as of_value:
            await results.value()
        assert raised.value is again.value is of_value.value
        return found

    assert streamed(fails_at.map(x=[1, 2, 3, 4]), body) == [1, 2]


@pytest.mark.parametrize("way", ["iteration", "value", "neither"])
def test_a_failure_is_raised_out_of_the_block(streamed, way):
    """By whatever meets it, or at the end of a block that met neither."""

    async def body(results: Any) -> Any:
        if way == "iteration":
            return await values(results)
        if way == "value":
            return await results.value()
        return await anyio.sleep(10)

    with pytest.raises(LookupError, match="3") as raised:
        streamed(fails_at.map(x=[1, 3]), body)
    assert "in task 'fails_at' (fails_at#0[1]/fails_at#0)" in raised.value.__notes__[0]


def test_a_failure_that_is_torn_down_when_the_block_ends_is_raised(streamed):
    """The run is over by then, and is awaited, not cancelled."""

    @cs.resource
    async def slow() -> Any:
        try:
            yield 1
        finally:
            await anyio.sleep(20)

    @cs.task
    async def item(x: int, by: int = cs.inject("slow")) -> None:
        raise LookupError(x)

    with pytest.raises(LookupError, match="7"):
        streamed(item.map(x=[7]), lambda _: anyio.sleep(5), resources=[slow])


def test_a_failure_of_the_block_is_raised_as_itself(streamed):
    """With a note if the run had failed, too."""
    error = KeyError("mine")

    async def body(results: Any) -> None:
        await anyio.sleep(10)
        raise error

    with pytest.raises(KeyError) as raised:
        streamed(nap.map(x=[100]), body)
    assert raised.value is error
    assert not hasattr(error, "__notes__")
    with pytest.raises(KeyError) as raised:
        streamed(fails_at.map(x=[3]), body)
    assert raised.value is error
    assert error.__notes__ == ["the run had failed: LookupError: 3"]


def test_control_flow_leaves_the_block(inside, use_vm):
    """`break` and `return` out of a loop over the items are no failures."""

    async def main() -> Any:
        async with cs.Engine().stream(nap.map(x=[1, 2, 300]), use_vm=use_vm) as results:
            async for item in results:
                if item.value == 2:
                    break
        return anyio.current_time()

    assert inside(main) == 2


def test_what_is_wrong_with_the_run_is_raised_as_a_failure(streamed):
    """A missing parameter, for one."""
    with pytest.raises(cs.MissingParameterError):
        streamed(double.map(x=cs.Param("xs", type=list)), values)
    found = streamed(double.map(x=cs.Param("xs", type=list)), values, params={"xs": [1]})
    assert found == [2]


def test_a_skipped_map_gives_no_items(streamed):
    """And the value is what it is for a run."""
    mapped = double.map(x=[1]).run_if(False)
    target = total(mapped).run_if(False, default=5)
    assert streamed(target, values, items=()) == []
    assert streamed([target, double(1).after(nap(1))], values) == []
    with pytest.raises(cs.DependencyMissingError):
        streamed(mapped, values)


def test_reading_after_the_block_says_that_it_is_over(inside, use_vm):
    """What was left early has no more items; what was done keeps its value."""

    async def main() -> None:
        engine = cs.Engine()
        async with engine.stream(nap.map(x=[1, 50]), use_vm=use_vm) as left:
            assert (await anext(left)).value == 1
        with pytest.raises(RuntimeError, match="was left before its run was over"):
            await anext(left)
        with pytest.raises(RuntimeError, match="was left before its run was over"):
            await left.value()
        async with engine.stream(nap.map(x=[1]), use_vm=use_vm) as done:
            await done.value()
        assert await done.value() == [1]
        assert await values(done) == [1]

    inside(main)


@pytest.mark.parametrize("at", [0.0, 0.5, 1.5, 2.5, 3.5])
@pytest.mark.parametrize("where", ["iteration", "value", "body", "full"])
def test_cancelled_at_any_await_it_leaves_nothing_behind(inside, use_vm, at, where):
    """A scope around the block ends the block and the run, which gives back all that it held."""
    statuses: list[str] = []
    bus = cs.MessageBus()
    bus.subscribe(cs.RunFinished, lambda event: statuses.append(event.status))
    engine = cs.Engine(bus=bus, system_resources={"gpu": 1})

    async def main() -> Any:
        mapped = nap.map(x=[1] * 20).with_constraints(gpu=1)
        with anyio.move_on_after(at) as scope:
            async with engine.stream(mapped, use_vm=use_vm, buffer=1) as results:
                if where == "iteration":
                    await values(results)
                elif where == "value":
                    await results.value()
                elif where == "full":
                    await anyio.sleep(100)
                else:
                    await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert statuses in (["Cancelled"], [])
        return await engine.run(mapped)

    assert inside(main) == [1] * 20


@pytest.mark.parametrize("steps", range(12))
def test_native_cancellation_at_any_step(steps, use_vm):
    """asyncio's own `Task.cancel()` ends the block and the run, after any number of turns."""

    async def main() -> None:
        engine = cs.Engine(system_resources={"gpu": 1})

        async def read() -> None:
            mapped = nap.map(x=[0] * 5).with_constraints(gpu=1)
            async with engine.stream(mapped, use_vm=use_vm, buffer=1) as results:
                async for _ in results:
                    await anyio.sleep(0)
                await asyncio.sleep(10)

        task = asyncio.ensure_future(read())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == 1
        assert await engine.run(double(1).with_constraints(gpu=1), use_vm=use_vm) == 2

    asyncio.run(main())


def test_an_interrupt_ends_the_block(streamed):
    """KeyboardInterrupt out of the run surfaces as itself, whatever the block waits for."""

    @cs.task
    async def interrupted(x: int) -> None:
        await anyio.sleep(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        streamed(interrupted.map(x=[1]), lambda _: anyio.sleep_forever())


def test_streams_run_at_the_same_time(inside, use_vm):
    """They share what the runs of an engine share."""

    async def main() -> Any:
        engine = cs.Engine(system_resources={"gpu": 2})
        found: list[Any] = []

        async def read(count: int) -> None:
            mapped = nap.map(x=[1] * count).with_constraints(gpu=1)
            async with engine.stream(mapped, use_vm=use_vm) as results:
                found.extend(await values(results))

        async with anyio.create_task_group() as group:
            group.start_soon(read, 4)
            group.start_soon(read, 6)
        return len(found), anyio.current_time()

    assert inside(main) == (10, 5)


def test_over_a_lazy_source_it_is_a_pipeline(streamed):
    """A slow reader slows down the reading of the source."""
    read: list[int] = []

    def rows() -> Any:
        for n in range(40):
            read.append(n)
            yield n

    async def body(results: Any) -> int:
        ahead = 0
        async for item in results:
            ahead = max(ahead, len(read) - item.index)
            await anyio.sleep(1)
        return ahead

    mapped = double.map(x=cs.lazily(rows())).with_concurrency(2)
    assert streamed(mapped, body, buffer=3) <= 7


def test_the_live_counters_know_who_is_held_back(streamed):
    """Parked for the reader, and not any more in the end."""
    engine, runs = cs.Engine(), []
    engine.on_run = runs.append

    async def body(results: Any) -> Any:
        await anyio.sleep(1)
        parked = dict(runs[0].tasks["double"].parked)
        return parked, await results.value()

    parked, _ = streamed(double.map(x=range(5)), body, engine=engine, buffer=2)
    assert parked == {"the full buffer of the stream (2 items not read)": 3}
    assert runs[0].tasks["double"].parked == {}


def test_a_map_that_is_not_of_the_target_is_a_value_error(streamed):
    """Before anything runs, and so is what is no map."""
    mapped = double.map(x=[1])
    for wrong in (nap.map(x=[1]), double(1), mapped.copy(), 5):
        with pytest.raises(ValueError, match="which is no map of the target"):
            streamed(mapped, values, items=[wrong])


@pytest.mark.parametrize("buffer", [0, -1, 1.5, True, None])
def test_a_buffer_is_a_whole_number_above_0(buffer):
    """Anything else is a `ValueError` at the call."""
    with pytest.raises(ValueError, match=r"buffer=.* must be a whole number above 0"):
        cs.Engine().stream(double.map(x=[1]), buffer=buffer)


def test_items_are_given_as_a_list():
    """A map alone is a `TypeError` that says so, and so is what is none."""
    mapped = double.map(x=[1])
    with pytest.raises(TypeError, match=r"write items=\[\.\.\.\]"):
        cs.Engine().stream(mapped, items=mapped)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"items=5 must be a list of maps"):
        cs.Engine().stream(mapped, items=5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="is a task, not a call of one"):
        cs.Engine().stream(double)
