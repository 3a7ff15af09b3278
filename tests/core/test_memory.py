"""Section 11: when a run is over nothing of Cascade refers to its values any more, at once."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

import cascade as cs


class Big:
    """A value that is worth letting go of."""


class Tracked:
    """Makes values, and knows how many of them are alive."""

    def __init__(self) -> None:
        self.refs: list[weakref.ref[Big]] = []

    def make(self) -> Big:
        made = Big()
        self.refs.append(weakref.ref(made))
        return made

    @property
    def alive(self) -> int:
        return sum(ref() is not None for ref in self.refs)


@pytest.fixture
def tracked() -> Iterator[Tracked]:
    """Values made while the cyclic collector is off."""
    gc.disable()
    yield Tracked()
    gc.enable()


Ending = Callable[[Any], Any]
SHAPES: dict[str, Callable[[Tracked, Ending], Any]] = {}


def shape(function: Callable[[Tracked, Ending], Any]) -> Callable[[Tracked, Ending], Any]:
    """A target whose values end up at `end`, a Task that ends as the test wants it."""
    SHAPES[function.__name__] = function
    return function


def load(tracked: Tracked, name: str = "load") -> cs.Task[..., Any]:
    return cs.task(lambda x=None, y=None: tracked.make(), name=name)


def load_async(tracked: Tracked) -> cs.Task[..., Any]:
    @cs.task
    async def load_async(x: Any = None) -> Any:
        made = tracked.make()
        await anyio.sleep(1)
        return made

    return load_async


@shape
def argument(tracked: Tracked, end: Ending) -> Any:
    return end(load(tracked)())


@shape
def two_arguments(tracked: Tracked, end: Ending) -> Any:
    return end([load(tracked)(), {"other": load_async(tracked)()}])


@shape
def diamond(tracked: Tracked, end: Ending) -> Any:
    one, step = load_async(tracked)(), load(tracked)
    return end((step(one), step(one), one))


@shape
def mapped(tracked: Tracked, end: Ending) -> Any:
    return end(load_async(tracked).map(x=[load(tracked)(), *range(3)]))


@shape
def items(tracked: Tracked, end: Ending) -> Any:
    return end.map(x=[load(tracked)(), load_async(tracked)()])


@shape
def loop(tracked: Tracked, end: Ending) -> Any:
    @cs.task
    def step(n: int, held: Any = None) -> Any:
        return cs.Jump("again", {"n": n - 1, "held": tracked.make()}) if n else held

    node = step(3, load(tracked)())
    return end(cs.bind(node, cs.select_jump({"again": node})))


@shape
def loop_that_ends_it(tracked: Tracked, end: Ending) -> Any:
    @cs.task
    def step(held: Any) -> Any:
        return cs.Jump("end", tracked.make())

    shared = cs.task(lambda: tracked.make(), pure=True, name="shared")
    node = step([load(tracked)(), shared()])
    return cs.bind(node, cs.select_jump({"end": end(shared())}))


@shape
def hot_loop(tracked: Tracked, end: Ending) -> Any:
    @cs.task
    def step(n: int, held: Any) -> Any:
        return cs.Jump("again", {"n": n - 1, "held": tracked.make()}) if n else held

    node = step(300, load(tracked)())
    return end(cs.bind(node, cs.select_jump({"again": node})))


@shape
def tail_calls(tracked: Tracked, end: Ending) -> Any:
    @cs.task
    def step(n: int, held: Any) -> Any:
        return cs.TailCall((n - 1, tracked.make())) if n else end(held)

    return step(200, load(tracked)())


@shape
def returned(tracked: Tracked, end: Ending) -> Any:
    @cs.task
    def step(n: int, held: Any) -> Any:
        return step(n - 1, load(tracked)()) if n else end(held)

    return step(200, load(tracked)())


@shape
def returned_loop(tracked: Tracked, end: Ending) -> Any:
    @cs.task
    def step(n: int, held: Any) -> Any:
        return cs.Jump("again", {"n": n - 1, "held": tracked.make()}) if n else end(held)

    @cs.task
    def begins(held: Any) -> Any:
        node = step(3, load(tracked)())
        return cs.bind(node, cs.select_jump({"again": node}))

    return begins(load(tracked)())


@shape
def items_that_go_on(tracked: Tracked, end: Ending) -> Any:
    @cs.task
    def step(x: Any) -> Any:
        return cs.TailCall(("again",)) if isinstance(x, Big) else end(load(tracked)())

    return step.map(x=[load(tracked)(), load(tracked)()])


@shape
def router(tracked: Tracked, end: Ending) -> Any:
    key = cs.task(lambda held: "a", name="key")(load(tracked)())
    return cs.Router(key, {"a": end(load(tracked)()), "b": load(tracked)()})


@shape
def condition(tracked: Tracked, end: Ending) -> Any:
    skipped = load(tracked)(load(tracked)()).run_if(load(tracked)()).run_if(False, default=1)
    return end([skipped, load(tracked)()]).run_if(load(tracked)()).after(load(tracked)())


@shape
def cached(tracked: Tracked, end: Ending) -> Any:
    class Forgets:
        async def get(self, key: bytes) -> None:
            await anyio.sleep(1)

        async def put(self, key: bytes, value: Any) -> None:
            pass

    make = cs.task(lambda n: tracked.make(), name="make")
    return end([make(1).with_cache(Forgets()), make(1).with_cache(Forgets())])


@shape
def limited(tracked: Tracked, end: Ending) -> Any:
    step = load_async(tracked)
    return end(
        [step(load(tracked)()).with_constraints(gpu=1) for _ in range(3)]
        + [load(tracked)(n).with_constraints(gpu=1) for n in range(3)]
    )


@shape
def resources(tracked: Tracked, end: Ending) -> Any:
    return end(
        [
            load(tracked)(cs.inject(f"{scope}_table"), tracked.make())
            for scope in ("run", "step", "task")
        ]
    )


@shape
def thread(tracked: Tracked, end: Ending) -> Any:
    return end(cs.task(lambda held: tracked.make(), mode="thread", name="thread")(load(tracked)()))


@shape
def waiting(tracked: Tracked, end: Ending) -> Any:
    return [end(load(tracked)()).with_constraints(gpu=1) for _ in range(3)]


@shape
def waiting_items(tracked: Tracked, end: Ending) -> Any:
    held = [load(tracked)() for _ in range(3)]
    return end.map(x=held).with_constraints(gpu=1).with_retry(2, delay=1)


@shape
def pausing(tracked: Tracked, end: Ending) -> Any:
    @cs.task
    async def flaky(x: Any) -> Any:
        raise KeyError(bool(x))

    @cs.task
    def flaky_inline(x: Any) -> Any:
        raise KeyError(bool(x))

    pauses = flaky(load(tracked)()).with_retry(3, delay=10_000)
    pauses_inline = flaky_inline(load(tracked)()).with_retry(3, delay=10_000)
    return [pauses, pauses_inline, end(load(tracked)())]


@shape
def waiting_for_a_flight(tracked: Tracked, end: Ending) -> Any:
    cache = cs.InMemoryCache()

    @cs.task
    async def lasts(n: int) -> Any:
        made = tracked.make()
        await anyio.sleep(5)
        return 1 if made else 2

    flights = [lasts(1).with_cache(cache).after(load(tracked)()) for _ in range(3)]
    return [end(load(tracked)()), *flights]


def returns(tracked: Tracked) -> Ending:
    return cs.task(lambda x=None: 1, name="returns")


def fails(tracked: Tracked) -> Ending:
    @cs.task
    def fails(x: Any = None) -> Any:
        held = tracked.make()
        raise ValueError(f"as the test wants it: {bool(held)}")

    return fails


def fails_async(tracked: Tracked) -> Ending:
    @cs.task
    async def fails_async(x: Any = None) -> Any:
        held = tracked.make()
        await anyio.sleep(1)
        raise ValueError(f"as the test wants it: {bool(held)}")

    return fails_async


def is_cancelled(tracked: Tracked) -> Ending:
    @cs.task
    async def waits(x: Any = None) -> Any:
        held = tracked.make()
        await anyio.sleep_forever()
        return held

    return waits


ENDINGS = [returns, fails, fails_async, is_cancelled]


def engine_for(tracked: Tracked) -> cs.Engine:
    engine = cs.Engine(system_resources={"gpu": 1})
    for scope in ("run", "step", "task"):

        @cs.resource(name=f"{scope}_table", scope=scope)
        async def table() -> Any:
            yield tracked.make()

        engine.register(table)
    return engine


async def execute(engine: cs.Engine, target: Any, use_vm: bool) -> None:
    with anyio.move_on_after(1000):
        try:
            await engine.run(target, use_vm=use_vm)
        except (ValueError, KeyError) as error:
            if isinstance(error, ValueError) and "as the test wants it" not in str(error):
                raise


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", SHAPES)
def test_values_go_when_the_run_is_over(
    inside: Any, use_vm: bool, tracked: Tracked, name: str, ending: Callable[[Tracked], Ending]
) -> None:
    """However a run ends, its values are gone with it, without the cyclic collector."""
    engine = engine_for(tracked)

    async def main() -> tuple[int, int]:
        for _ in range(3):
            await execute(engine, SHAPES[name](tracked, ending(tracked)), use_vm)
        await anyio.lowlevel.checkpoint()  # asyncio holds a cancellation until its next turn
        return tracked.alive, len(tracked.refs)

    alive, made = inside(main)
    if name == "thread":
        until = time.monotonic() + 5
        while tracked.alive and time.monotonic() < until:  # a worker thread drops its last job
            time.sleep(0.01)
        alive = tracked.alive
    assert made >= 3
    assert alive == 0


class Most:
    """Counts the values that are alive at the same time."""

    def __init__(self) -> None:
        self.alive = self.most = 0

    def make(self) -> Big:
        made = Big()
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(made, self._gone)
        return made

    def _gone(self) -> None:
        self.alive -= 1


Step = Callable[..., Any]


def chain(step: Step, size: Step) -> Any:
    value = step()
    for n in range(30):
        value = step(value, n)
    return size(value)


def diamonds(step: Step, size: Step) -> Any:
    value = step()
    for _ in range(30):
        value = step(step(value), step(value))
    return size(value)


def windows(step: Step, size: Step) -> Any:
    before, value = step(), step()
    for _ in range(30):
        before, value = value, step(before, value)
    return size(before, value)


def containers(step: Step, size: Step) -> Any:
    value = step()
    for _ in range(30):
        value = step([value, {"x": (value,)}])
    return size(value)


def readers_that_never_come(step: Step, size: Step) -> Any:
    value = step()
    for _ in range(30):
        chosen = cs.Router(size(value), {1: step(value), 2: step(step(value))})
        skipped = step(value).run_if(size(value)).run_if(0, default=size(value))
        value = step(chosen, skipped)
    return size(value)


def predecessors(step: Step, size: Step) -> Any:
    value = step()
    for _ in range(30):
        value = step().after(value)
    return size(value)


def sizes(step: Step, size: Step) -> Any:
    return [size(step(n)).after(cs.task(int)()) for n in range(30)]


def an_iteration(step: Step, size: Step) -> Any:
    node = cs.task(lambda n, _: cs.Jump("again", n - 1) if n else n)(3, chain(step, size))
    return cs.bind(node, cs.select_jump({"again": node}))


def a_loop_beside(step: Step, size: Step) -> Any:
    node = cs.task(lambda n: cs.Jump("again", n - 1) if n else n)(3)
    return [cs.bind(node, cs.select_jump({"again": node})), chain(step, size)]


@pytest.mark.parametrize("kind", ["inline", "async", "retried"])
@pytest.mark.parametrize(
    "make",
    [
        chain,
        diamonds,
        windows,
        containers,
        readers_that_never_come,
        predecessors,
        sizes,
        an_iteration,
        a_loop_beside,
    ],
)
def test_a_value_goes_when_the_last_that_may_need_it_has_run(
    run: Any, tracked: Tracked, make: Callable[[Step, Step], Any], kind: str
) -> None:
    """An intermediate value is released once all that may need it have run, or cannot any more."""
    values = Most()

    @cs.task
    def inline(*_: Any) -> Any:
        return values.make()

    @cs.task
    async def suspends(*_: Any) -> Any:
        await anyio.sleep(1)
        return values.make()

    size = cs.task(lambda *_: 1, name="size")
    step = suspends if kind == "async" else inline
    if kind == "retried":
        run(make(lambda *args: step(*args).with_retry(2), size))
    else:
        run(make(step, size))
    assert values.most <= (30 if make is sizes and kind == "async" else 4)
    assert values.alive == 0


def test_what_iterations_share_lasts_as_long_as_its_evaluation(run: Any) -> None:
    """A pure node that an impure one needs is evaluated once, though its value was read before."""
    made: list[int] = []

    @cs.task(pure=True)
    def shared() -> int:
        made.append(1)
        return 5

    @cs.task
    def reads(n: int) -> int:
        return n

    @cs.task
    def step(n: int, read: int) -> Any:
        return cs.TailCall((n - 1,)) if n else read

    assert run(step(3, reads(shared()))) == 5
    assert len(made) == 1


# What waits


def tasks_of_the_loop(backend: str) -> int:
    if backend == "trio":
        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


@cs.task
async def item(n: int) -> int:
    await anyio.sleep(10)
    return n


@cs.task
async def fails_first(n: int, failed: set[int]) -> int:
    if n not in failed:
        failed.add(n)
        raise ValueError(n)
    return n


@cs.task
def fails_first_inline(n: int, failed: set[int]) -> int:
    if n not in failed:
        failed.add(n)
        raise ValueError(n)
    return n


N = 1000
WAITERS: dict[str, Callable[[], Any]] = {
    "items": lambda: item.map(n=range(N)).with_constraints(gpu=1),
    "nodes": lambda: [item(n).with_constraints(gpu=1) for n in range(N)],
    "retried": lambda: item.map(n=range(N)).with_constraints(gpu=1).with_retry(2),
    "cached": lambda: item.map(n=range(N)).with_constraints(gpu=1).with_cache(cs.InMemoryCache()),
    "pauses": lambda: fails_first.map(n=range(N), failed=[set()] * N).with_retry(2, delay=10),
    "pauses_inline": lambda: fails_first_inline.map(n=range(N), failed=[set()] * N).with_retry(
        2, delay=10
    ),
    "flights": lambda: list(one_flight(cs.InMemoryCache())),
}


def one_flight(cache: cs.InMemoryCache) -> Iterator[Any]:
    return (item(5).with_cache(cache) for _ in range(N))


@pytest.mark.parametrize("name", WAITERS)
def test_what_waits_costs_no_task_of_the_event_loop(
    inside: Any, backend: str, use_vm: bool, name: str
) -> None:
    """A call that waits for admission, for its next attempt or for another is no task."""
    counts: list[int] = []

    async def main() -> Any:
        engine = cs.Engine(system_resources={"gpu": 1})
        before = tasks_of_the_loop(backend)

        async def look() -> None:
            await anyio.sleep(5)
            counts.append(tasks_of_the_loop(backend) - before)

        async with anyio.create_task_group() as group:
            group.start_soon(look)
            value = await engine.run(WAITERS[name](), use_vm=use_vm)
        assert engine.constraints.statistics().parked == 0
        return value

    value = inside(main)
    assert len(value) == N
    assert counts[0] <= 8


@pytest.mark.parametrize("cached", [False, True])
def test_what_waits_without_a_task_passes_the_gate_in_order(
    inside: Any, use_vm: bool, cached: bool
) -> None:
    """Who asks first starts first, each waiter is blocked once, and each retry asks anew."""
    bus = cs.MessageBus()
    blocked: list[str] = []
    started: list[tuple[str, int]] = []
    bus.subscribe(cs.TaskBlocked, lambda event: blocked.append(event.task_id))
    bus.subscribe(
        cs.TaskExecutionStarted, lambda event: started.append((event.task_id, event.attempt))
    )
    failed: set[int] = set()

    @cs.task
    async def work(n: int) -> int:
        await anyio.sleep(1)
        if n not in failed:
            failed.add(n)
            raise ValueError(n)
        return n

    async def main() -> Any:
        engine = cs.Engine(system_resources={"gpu": 1}, bus=bus)
        node = work.map(n=range(3)).with_constraints(gpu=1).with_retry(2)
        if cached:
            node.with_cache(cs.InMemoryCache())
        return await engine.run(node, use_vm=use_vm)

    assert inside(main) == [0, 1, 2]
    ids = [f"work#0[{n}]/work#0" for n in range(3)]
    assert started == [(id, attempt) for attempt in (1, 2) for id in ids]
    assert blocked[:2] == ids[1:]
    assert len(blocked) == 5


def test_what_calls_change_counts_for_those_that_get_ready_with_them(
    inside: Any, use_vm: bool
) -> None:
    """A call asks when it would start, so that what those before it do may deny it."""
    engine = cs.Engine()
    engine.constraints.limit_concurrency("task:work", 100)
    started: list[tuple[int, float]] = []

    @cs.task
    async def work(n: int) -> None:
        if not started:
            engine.constraints.limit_concurrency("task:work", 2)
        started.append((n, anyio.current_time()))
        await anyio.sleep(1)

    async def main() -> float:
        before = anyio.current_time()
        await engine.run(work.map(n=range(6)), use_vm=use_vm)
        return before

    before = inside(main)
    assert [(n, at - before) for n, at in started] == [(n, n // 2) for n in range(6)]


def test_waiters_without_tasks_make_room_when_their_run_fails(inside: Any, use_vm: bool) -> None:
    """What waited, or was granted and not started, gives its grant to the waiters of other runs."""
    engine = cs.Engine(system_resources={"gpu": 1})

    @cs.task
    async def breaks(n: int) -> int:
        await anyio.sleep(10)
        raise ValueError(n)

    async def main() -> Any:
        values: list[Any] = []

        async def other() -> None:
            await anyio.sleep(1)
            values.append(await engine.run(item(7).with_constraints(gpu=1), use_vm=use_vm))

        async with anyio.create_task_group() as group:
            group.start_soon(other)
            with pytest.raises(ValueError, match="0"):
                await engine.run(breaks.map(n=range(100)).with_constraints(gpu=1), use_vm=use_vm)
        statistics = engine.constraints.statistics()
        return values, statistics.parked, dict(statistics.free)

    assert inside(main) == ([7], 0, {"gpu": 1})
