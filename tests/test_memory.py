"""Section 11: when a run is over nothing of Cascade refers to its values any more, at once."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

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
    gc.collect()
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
        except ValueError as error:
            if "as the test wants it" not in str(error):
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
    assert made >= 3
    assert alive == 0
