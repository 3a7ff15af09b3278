"""A task may use asyncio's own primitives, and ends as in plain Python (section 11)."""

import asyncio
from contextlib import suppress

import anyio
import pytest

import cascade as cs
from cascade.core.services import FusedTier
from cascade.testing import virtual_time


async def boom():
    await asyncio.sleep(0)
    raise ValueError("boom")


async def task_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(boom())


async def task_group_in_its_body():
    async with asyncio.TaskGroup() as group:
        group.create_task(boom())
        await asyncio.sleep(5)


async def timeout():
    async with asyncio.timeout(0.01):
        await asyncio.sleep(5)


async def wait_for():
    await asyncio.wait_for(asyncio.sleep(5), 0.01)


async def shield():
    await asyncio.shield(asyncio.ensure_future(boom()))


async def shield_of_a_cancelled_future():
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.cancel)
    await asyncio.shield(future)


async def gather():
    other = asyncio.create_task(asyncio.sleep(5))
    try:
        await asyncio.gather(boom(), other)
    finally:
        other.cancel()


async def to_thread():
    await asyncio.to_thread(int, "boom")


async def cancels_itself():
    asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
    await asyncio.sleep(5)


async def cancels_itself_in_the_end():
    asyncio.current_task().cancel()


async def cancels_a_child():
    child = asyncio.create_task(asyncio.sleep(5))
    asyncio.get_running_loop().call_soon(child.cancel)
    await child


async def timeout_that_leaves_its_request():
    """As libraries did it before there was `uncancel()`."""
    task = asyncio.current_task()
    handle = asyncio.get_running_loop().call_later(0.01, task.cancel)
    try:
        await asyncio.sleep(5)
    except asyncio.CancelledError:
        raise TimeoutError from None
    finally:
        handle.cancel()


async def fails(primitive):
    await primitive()
    return "value"


async def is_caught(primitive):
    with suppress(BaseException):
        await primitive()
    await asyncio.sleep(0.01)
    return "caught"


async def is_suppressed(primitive):
    with suppress(BaseException):
        await primitive()
    raise LookupError("after all")


PRIMITIVES = [
    task_group,
    task_group_in_its_body,
    timeout,
    wait_for,
    shield,
    shield_of_a_cancelled_future,
    gather,
    to_thread,
    cancels_itself,
    cancels_itself_in_the_end,
    cancels_a_child,
    timeout_that_leaves_its_request,
]
ENDS = [fails, is_caught, is_suppressed]


def leaves(error):
    """The types and texts of what was raised, whatever groups they are in."""
    if isinstance(error, BaseExceptionGroup):
        return sorted(leaf for each in error.exceptions for leaf in leaves(each))
    return [(type(error).__name__, str(error))]


async def outcome(coroutine):
    """What awaiting the coroutine in a task of its own comes to; at most 100 s later."""
    task = asyncio.ensure_future(coroutine)
    done, _ = await asyncio.wait({task}, timeout=100)
    assert done, "it hangs"
    try:
        return task.result()
    except BaseException as error:
        return leaves(error)


class Place:
    """A run in which the code of a user stands somewhere."""

    def __init__(self, code):
        self.code = code
        self.calls = 0
        self.resources = []

    def body(self):
        async def user():
            self.calls += 1
            return await self.code()

        return cs.task(user)

    def provided(self, scope, *, in_set_up):
        async def thing():
            if in_set_up:
                await self.code()
            yield "thing"
            if not in_set_up:
                await self.code()

        @cs.task
        async def uses(thing):
            await asyncio.sleep(0)
            return thing

        self.resources.append(cs.resource(thing, scope=scope))
        return uses(cs.inject("thing"))


@cs.task
async def nap(x=0, seconds=0.005):
    await asyncio.sleep(seconds)
    return x


def alone(place):
    return place.body()()


def after_another(place):
    return place.body()().after(nap())


def beside(place):
    return [place.body()(), nap(seconds=60)]


def mapped(place):
    async def item(x):
        return await place.code()

    return cs.task(item).map(x=[1, 2])


def retried(place):
    return place.body()().with_retry(2)


def timed(place):
    return place.body()().with_timeout(50)


def cached(place):
    task = place.body()
    cache = cs.InMemoryCache()
    return [task().with_cache(cache), task().with_cache(cache)]


def from_a_sync_task(place):
    return cs.task(lambda: place.code())()


def in_a_loop(place):
    async def step(n):
        value = await place.code()
        return cs.Jump("again", n + 1) if n < 300 and value != "value" else value

    node = cs.task(step)(0)
    return cs.bind(node, cs.select_jump({"again": node}))


def in_set_up(place):
    return place.provided("run", in_set_up=True)


def in_set_up_of_an_attempt(place):
    return place.provided("task", in_set_up=True)


def in_tear_down(place):
    return place.provided("run", in_set_up=False)


def in_tear_down_of_a_step(place):
    return place.provided("step", in_set_up=False)


def in_tear_down_of_an_attempt(place):
    return place.provided("task", in_set_up=False)


PLACES = [
    alone,
    after_another,
    beside,
    mapped,
    retried,
    timed,
    cached,
    from_a_sync_task,
    in_a_loop,
    in_set_up,
    in_set_up_of_an_attempt,
    in_tear_down,
    in_tear_down_of_a_step,
    in_tear_down_of_an_attempt,
]
SHAPES = {beside: lambda value: [value, 0], mapped: lambda v: [v, v], cached: lambda v: [v, v]}


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_a_task_ends_as_in_plain_python(use_vm, primitive, end, where):
    """Value, failure or CancelledError: what comes out of the task's code comes out of the run."""

    async def program():
        expected = await outcome(end(primitive))
        place = Place(lambda: end(primitive))
        target = where(place)
        engine = cs.Engine()
        engine.services.fused_tier = FusedTier(0)
        for definition in place.resources:
            engine.register(definition)
        finished = []
        engine.bus.subscribe(cs.RunFinished, finished.append)
        everybody = asyncio.all_tasks()
        found = await outcome(engine.run(target, use_vm=use_vm))
        await asyncio.sleep(0.01)
        assert asyncio.all_tasks() == everybody
        if isinstance(expected, str):
            value = "thing" if place.resources else expected
            assert found == SHAPES.get(where, lambda value: value)(value)
            assert finished[-1].status == "Succeeded"
        else:
            assert found == expected
            assert finished[-1].status in ("Failed", "Cancelled")
        again = where is retried and isinstance(found, list) and found[0][0] != "CancelledError"
        if where is retried:
            assert place.calls == 1 + again
        # Nothing is left behind in the engine, nor in the task that awaited the run.
        assert await outcome(engine.run([nap(1), nap(2)], use_vm=use_vm)) == [1, 2]

    anyio.run(program, backend_options=virtual_time("asyncio"))
