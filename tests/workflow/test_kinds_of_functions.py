"""What may be a task, and which values are awaited (section 2)."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Generator
from typing import Any

import anyio
import pytest

import cascade as cs

Run = Callable[..., Any]
HOT = 300  # iterations, by which a loop is fused


class Model:
    @cs.task
    @staticmethod
    def score(x: int) -> int:
        return x + 1

    @cs.task(name="named", pure=True)
    @staticmethod
    async def slow(x: int) -> int:
        await anyio.sleep(1)
        return x + 1

    @cs.task(mode="thread")
    @staticmethod
    def threaded(x: int) -> int:
        return x + 1

    @staticmethod
    @cs.task
    def usual(x: int) -> int:
        return x + 1

    @cs.task
    @staticmethod
    def loop(n: int) -> Any:
        return cs.Jump("again", n - 1) if n else cs.Jump("end", "end")


class Special(Model):
    """Inherits all."""


@pytest.mark.parametrize("name", ["score", "slow", "threaded", "usual"])
@pytest.mark.parametrize("owner", [Model, Model(), Special, Special()])
def test_a_task_over_a_staticmethod_takes_no_instance(run: Run, name: str, owner: Any) -> None:
    """Whether it is taken from the class or from an instance; maps too."""
    task = getattr(owner, name)
    assert run(task(1)) == 2
    assert run(task.map(x=[1, 2])) == [2, 3]
    assert task.is_async == (name == "slow")
    if name == "score":
        assert task.func(1) == 2
        assert list(task.signature.parameters) == ["x"]


def test_a_static_task_in_a_hot_loop_and_in_a_cache(run: Run) -> None:
    """A static task called by its class or by an instance is one task, jumped to or cached."""
    node = Model().loop(HOT)
    assert run(cs.bind(node, cs.select_jump({"again": node, "end": None}))) == "end"
    cache = cs.InMemoryCache()
    assert run([Model.score(1).with_cache(cache), Model().score(1).with_cache(cache)]) == [2, 2]
    assert len(cache) == 1


def test_generator_functions_are_refused_under_a_staticmethod() -> None:
    """A staticmethod hides nothing: the rules for functions apply to what it wraps."""

    def generates() -> Generator[int]:
        yield 1

    with pytest.raises(TypeError, match="generator function 'generates' cannot be a task"):
        cs.task(staticmethod(generates))
    with pytest.raises(TypeError, match="runs on the event loop"):
        cs.task(mode="thread")(staticmethod(Model.slow.func))


@pytest.mark.parametrize(
    "wrap",
    [classmethod, property, functools.cached_property, functools.partialmethod],
)
def test_what_cannot_be_called_is_refused_with_the_remedy(wrap: Any) -> None:
    """A descriptor is refused with the order of decorators that works."""
    with pytest.raises(TypeError, match=r"not callable; put @cs\.task below that decorator"):
        cs.task(wrap(lambda self: 1))


# Generator-based coroutines


@types.coroutine
def old_style(value: Any = 6) -> Generator[Any, Any, Any]:
    yield from anyio.sleep(0).__await__()
    return value


def plain_generator() -> Generator[int]:
    yield 1


@cs.task
def calls() -> Any:
    return old_style()


@pytest.mark.parametrize("mode", ["inline", "thread"])
def test_a_generator_based_coroutine_is_awaited(run: Run, mode: Any) -> None:
    """Wherever `inspect.isawaitable` says that a value can be awaited."""
    assert inspect.isawaitable(old_style())
    task = cs.task(lambda: old_style(), name="call", mode=mode)
    assert run(task()) == 6
    assert run([task(), task()]) == [6, 6]
    assert run(task().with_retry(2)) == 6
    assert run(task().with_cache(cs.InMemoryCache())) == 6
    assert run(cs.task(lambda x: old_style(x), mode=mode).map(x=[1, 2])) == [1, 2]


def test_a_function_that_makes_one_is_an_async_function(run: Run) -> None:
    """A generator marked as a coroutine is an async function, with its rules."""
    task = cs.task(old_style)
    assert task.is_async
    assert run(task(5)) == 5
    assert run(cs.task(functools.partial(old_style, 4))()) == 4
    with pytest.raises(TypeError, match="runs on the event loop"):
        cs.task(mode="thread")(old_style)


def test_a_generator_is_a_value(run: Run) -> None:
    """It is passed on as the same object, not awaited and not read."""
    made = plain_generator()
    assert run(cs.task(lambda: made)()) is made


@pytest.mark.parametrize("listens", [False, True])
def test_generators_and_coroutines_are_told_apart_in_hot_code(run: Run, listens: bool) -> None:
    """They are of one class, so that fused code has to look at each."""
    bus = cs.MessageBus()
    if listens:
        bus.subscribe(cs.TaskEvent, lambda event: None)
    seen: list[Any] = []

    @cs.task
    def make(n: int) -> Any:
        return plain_generator() if n % 7 else old_style(n)

    @cs.task
    def step(n: int, made: Any) -> Any:
        seen.append(made)
        return cs.Jump("again", {"n": n - 1}) if n else cs.Jump("end")

    @cs.task
    def route(n: int) -> Any:
        return follow(n, make(n)) if n else "done"

    @cs.task
    def follow(n: int, made: Any) -> Any:
        seen.append(made)
        return route(n - 1)

    assert run(route(HOT), bus=bus) == "done"
    assert len(seen) == HOT
    for number, made in zip(range(HOT, 0, -1), seen, strict=True):
        assert made == number if number % 7 == 0 else isinstance(made, types.GeneratorType)
    calls_of_loop = [make(7 if i % 2 else 6) for i in range(70)]
    straight = run([cs.task(lambda x: x)(call) for call in calls_of_loop], bus=bus)
    assert straight[1::2] == [7] * 35
    assert all(isinstance(made, types.GeneratorType) for made in straight[::2])

    @cs.task
    def turn(n: int) -> Any:
        return old_style(cs.Jump("end", n)) if n == 0 else cs.Jump("again", n - 1)

    node = turn(HOT)
    assert run(cs.bind(node, cs.select_jump({"again": node, "end": None})), bus=bus) == 0


def test_a_map_checks_names_and_iterables_at_the_call() -> None:
    """It says what to write instead of a value that cannot be iterated."""
    one = cs.task(lambda k=1: k, name="one")
    with pytest.raises(TypeError, match=r"one\.map\(k=\.\.\.\) needs an iterable, not int"):
        one.map(k=3)
    with pytest.raises(TypeError, match="names no parameter 'z'"):
        one.map(z=3)
    with pytest.raises(TypeError, match=r"a task, not a call of one; write calls\(\.\.\.\)"):
        one.map(k=calls)
