"""From a call to its cache key: every argument counts, under a place of its own (section 7)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cascade as cs

Run = Callable[..., Any]


class Recording:
    """A policy that remembers the keys it was asked for."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.values: dict[bytes, Any] = {}

    async def get(self, key: bytes) -> cs.Hit[Any] | None:
        self.keys.append(key)
        return cs.Hit(self.values[key]) if key in self.values else None

    async def put(self, key: bytes, value: Any) -> None:
        self.values[key] = value


@cs.resource
def rate() -> Iterator[int]:
    yield 10


@cs.resource(name="each", scope="task")
def for_each() -> Iterator[object]:
    yield object()


@cs.resource
def rows() -> Iterator[list[int]]:
    yield [1, 2, 3]


@cs.task
def call(a: Any, /, b: Any = 0, *rest: Any, k: Any = 1, **named: Any) -> Any:
    return repr((a, b, rest, k, sorted(named.items())))


@cs.task
def price(item: Any, rate: Any = cs.inject("rate")) -> Any:
    return item * rate


numbers = st.sampled_from([0, 1, 1.0, True, "0", None])
names = st.sampled_from(["a", "*0", "*1", "**a", "=*0", "=**a", "rest", "named", "x", ""])
calls = st.builds(
    lambda args, k, named: (tuple(args), {**k, **named}),
    st.lists(numbers, min_size=1, max_size=4),
    st.dictionaries(st.just("k"), numbers),
    st.dictionaries(names, numbers, max_size=3),
)


def normalized(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call as what the function gets, with the type of each argument."""
    whole = call(*args, **kwargs)
    positional = tuple((type(value), value) for value in whole.args)
    return positional, frozenset((n, type(v), v) for n, v in whole.kwargs.items())


@given(calls, calls)
def test_keys_of_calls_are_equal_exactly_if_the_arguments_are(one: Any, other: Any) -> None:
    """Positional-only names, *args and **kwargs share no key, whatever the keywords are called."""
    cache = Recording()
    cs.run([call(*one[0], **one[1]).with_cache(cache), call(*other[0], **other[1])])
    cs.run(call(*other[0], **other[1]).with_cache(cache))
    assert (cache.keys[0] == cache.keys[1]) == (normalized(*one) == normalized(*other))


CALLS = {
    "nothing more": lambda: call(1),
    "a keyword with the positional-only name": lambda: call(1, a=2),
    "the other way round": lambda: call(2, a=1),
    "an extra positional": lambda: call(1, 0, 5),
    "a keyword named like its place": lambda: call(1, **{"*0": 5}),
    "a keyword with a star more": lambda: call(1, **{"**0": 5}),
    "one resource more": lambda: call(1, 0, cs.inject("rate")),
    "two more": lambda: call(1, 0, cs.inject("rate"), cs.inject("rate")),
    "a resource as a keyword": lambda: call(1, a=cs.inject("rate")),
    "a resource as another keyword": lambda: call(1, x=cs.inject("rate")),
    "a keyword named like that": lambda: call(1, **{"=**x": None}),
    "a keyword of a call whose positional one is injected": lambda: call(cs.inject("rate"), a=1),
    "another": lambda: call(cs.inject("rate"), a=2),
    "none": lambda: call(cs.inject("rate")),
}


def test_different_calls_have_different_keys(run: Run) -> None:
    """No two different calls of a task share a cache key."""
    cache = Recording()
    for make in CALLS.values():
        run(make().with_cache(cache), resources=[rate])
    assert len(set(cache.keys)) == len(CALLS)


def test_the_value_of_a_resource_is_no_part_of_a_key(run: Run) -> None:
    """By default, as an argument, in *args and **kwargs, in a map; nor is an attempt's."""
    cache = Recording()
    for _ in range(2):
        targets = [
            price(2).with_cache(cache),
            price(3, cs.inject("each")).run_if(False, default=0).with_cache(cache),
            call(4, 0, cs.inject("each"), x=cs.inject("each")).with_cache(cache),
            price.map(item=[5, 6]).with_cache(cache),
        ]
        run(targets, resources=[rate, for_each])
    assert len(cache.keys) == 8
    assert len(set(cache.keys)) == 4


def test_the_elements_of_a_resource_are_arguments(run: Run) -> None:
    """A map over a resource has its items as arguments, and not the resource."""
    cache = Recording()
    double = cs.task(lambda x: 2 * x, name="double")
    for _ in range(2):
        assert run(double.map(x=cs.inject("rows")).with_cache(cache), resources=[rows]) == [2, 4, 6]
    assert len(set(cache.keys)) == 3
    mapped = price.map(item=[1, 2], rate=cs.inject("rows")).with_cache(cache)
    with pytest.raises(ValueError, match="equal length"):
        run(mapped, resources=[rows])


def test_an_injected_argument_that_a_jump_gives_counts(run: Run) -> None:
    """Given by name, and as the first parameter."""
    first = cs.task(lambda rate=cs.inject("rate"): 100 * rate, name="first")

    def jump(data: Any, route: Any) -> Any:
        node = cs.task(lambda: cs.Jump("price", data), name="jump")()
        return run(cs.bind(node, cs.select_jump({"price": route})), resources=[rate])

    cache = cs.InMemoryCache()
    for factor in (2, 3, None, 2, None):
        data = {} if factor is None else {"rate": factor}
        assert jump(data, price(100).with_cache(cache)) == 100 * (factor or 10)
        assert jump(factor, first().with_cache(cache)) == 100 * (factor or 10)


@pytest.mark.parametrize("by_name", [False, True])
def test_an_injected_argument_that_a_tail_call_gives_counts(run: Run, by_name: bool) -> None:
    """Of a node and of an item of a map, which keeps what earlier ones gave it."""

    @cs.task
    def chain(n: int, left: int = 2, rate: Any = cs.inject("rate")) -> Any:
        if left == 2:
            given = {"left": 1, "rate": rate + n}
            return cs.TailCall(kwargs=given) if by_name else cs.TailCall((n, 1, rate + n))
        return cs.TailCall(kwargs={"left": 0, "rate": rate}) if left else n * rate

    cache = Recording()
    assert run(chain(1).with_cache(cache), resources=[rate]) == 11
    assert run(chain.map(n=[1, 2, 1]).with_cache(cache), resources=[rate]) == [11, 24, 11]
    with_rate = [key for key, value in cache.values.items() if value in (11, 24)]
    assert len(with_rate) == 2
    assert run(chain(2).with_cache(cache), resources=[rate]) == 24


def test_an_extra_argument_that_a_tail_call_gives_counts(run: Run) -> None:
    """In place of a resource among *args."""

    @cs.task
    def total(first: int, *rest: Any) -> Any:
        if first:
            return cs.TailCall((0, rest[0] * first))
        return rest[0]

    cache = cs.InMemoryCache()
    for factor in (2, 3, 2):
        node = total(factor, cs.inject("rate")).with_cache(cache)
        assert run(node, resources=[rate]) == 10 * factor


# Policies that break their protocol


class Policy:
    def __init__(self, get: Any = None, put: Any = None) -> None:
        self.given, self.taken = get, put

    def __repr__(self) -> str:
        return "<my policy>"

    def get(self, key: bytes) -> Any:
        return self.given()

    def put(self, key: bytes, value: Any) -> Any:
        return self.taken()

    # By their own code they are not async, but they are declared to give an awaitable.
    get.__annotations__["return"] = put.__annotations__["return"] = "Awaitable[Any]"


async def none() -> None:
    return None


async def bare() -> Any:
    return 5


@cs.task
def one() -> int:
    return 1


@pytest.mark.parametrize("value", [5, False, [], (), cs.Hit])
def test_a_get_that_gives_no_hit_fails_the_task(run: Run, value: Any) -> None:
    """A `get` that returns neither None nor a Hit is an error that says what to return."""

    async def get() -> Any:
        return value

    with pytest.raises(TypeError) as caught:
        run(one().with_cache(Policy(get, none)))
    for part in ("<my policy>", "'one'", repr(value), "cs.Hit(value)", "None"):
        assert part in str(caught.value)


@pytest.mark.parametrize("value", [None, cs.Hit(1)])
def test_a_get_that_cannot_be_awaited_fails_the_task(run: Run, value: Any) -> None:
    """A `get` that is not async is an error that says to make it so."""
    with pytest.raises(TypeError, match=r"get of the cache <my policy> gave .*async def get"):
        run(one().with_cache(Policy(lambda: value, none)))


def test_a_put_that_cannot_be_awaited_is_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """A broken `put` is logged and does not cost the value."""
    with caplog.at_level(logging.ERROR, logger="cascade"):
        assert run(one().with_cache(Policy(none, lambda: None))) == 1
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "put of the cache <my policy> gave None" in str(record.exc_info[1])


def test_a_policy_may_hand_on_what_another_gives(run: Run) -> None:
    """A method that is no async function may return an awaitable."""
    inner = cs.InMemoryCache()
    outer = Policy(lambda: inner.get(b"k"), lambda: inner.put(b"k", 2))
    assert [run(one().with_cache(outer)) for _ in range(2)] == [1, 2]


def test_methods_that_are_not_async_are_refused_when_given() -> None:
    """A policy with a sync or generator method is refused by `with_cache`."""

    class SyncGet(Recording):
        def get(self, key: bytes) -> Any:  # type: ignore[override]
            return None

    class SyncPut(Recording):
        def put(self, key: bytes, value: Any) -> None:  # type: ignore[override]
            return None

    class Generates(Recording):
        async def get(self, key: bytes) -> Any:  # type: ignore[override]
            yield None

    for policy, told in (
        (SyncGet(), "async def get(self, key)"),
        (SyncPut(), "async def put(self, key, value)"),
        (Generates(), "async def get(self, key)"),
    ):
        with pytest.raises(TypeError) as caught:
            one().with_cache(policy)  # type: ignore[arg-type]
        assert told in str(caught.value)
