"""Quick keys: known structures are known by a light key, and nothing else is (section 12)."""

from __future__ import annotations

import gc
import random
import weakref
from typing import Any, NamedTuple

import anyio
import pytest

import cascade as cs
from cascade.graph.plan_cache import PlanCache
from cascade.graph.quick_key import is_literal, quick_key
from cascade.graph.reading import read
from cascade.graph.solver import NativeSolver


@cs.task
def one(x):
    return x


@cs.task
def two(x, y=0):
    return x


@cs.task
def any_number(*args):
    return args


@cs.task
def named(x=0, *, key=0, **more):
    return x


@cs.task(pure=True)
def pure(x):
    return x


class Pair(NamedTuple):
    first: Any
    second: Any


class Words(list):
    pass


class Thing:
    @cs.task
    def method(self, x=0):
        return x


class Drawn:
    """A target drawn by a seed; its literals by another, so that structures come again."""

    def __init__(self, shape: int, data: int) -> None:
        self.choose = random.Random(shape)
        self.values = random.Random(data)
        self.nodes: list[Any] = []
        self.boxes: list[Any] = []
        self.thing = Thing()

    def literal(self) -> Any:
        return self.values.choice(
            [0, 1, "a", None, 2.5, (1, 2), [1, 2], {"a": 1}, (), object, b"", {1}, self]
        )

    def target(self, depth: int = 0) -> Any:
        kind = self.choose.randrange(100)
        if depth > 4 or kind < 25:
            return self.literal()
        if kind < 35 and self.nodes:
            return self.choose.choice(self.nodes)
        if kind < 40 and self.boxes:
            return self.choose.choice(self.boxes)
        if kind < 55:
            parts = [self.target(depth + 1) for _ in range(self.choose.randrange(4))]
            box = self.choose.choice([list, tuple, list, tuple, Words])(parts)
            if kind == 54:
                box = self.choose.choice([dict(enumerate(parts)), Pair(1, box)])
            self.boxes.append(box)
            return box
        node = self.node(depth)
        self.nodes.append(node)
        return node

    def node(self, depth: int) -> Any:
        def part() -> Any:
            return self.target(depth + 1)

        made = self.choose.choice(
            [
                *[lambda: one(part()), lambda: two(part()), lambda: two(part(), part())] * 4,
                *[lambda: any_number(*[part() for _ in range(self.choose.randrange(4))])] * 3,
                lambda: named(part()),
                lambda: named(part(), key=part()),
                lambda: named(part(), other=part()),
                lambda: pure(part()),
                lambda: one(part()).with_retry(2),
                lambda: one(part()).run_if(part()),
                lambda: self.thing.method(part()),
                lambda: Thing.method(self.thing, part()),
                lambda: one.map(x=[part(), 2]),
                lambda: cs.Param("p", 1),
                lambda: cs.inject("db"),
                lambda: cs.Router(1, routes={1: part()}),
            ]
        )
        return made()


@pytest.mark.parametrize("chunk", range(8))
def test_a_target_is_loaded_as_it_is_read(chunk):
    """However a target was loaded before, its structure and data are those of reading it."""
    cache = PlanCache(1024, NativeSolver())
    quick = 0
    for shape in range(chunk * 150, chunk * 150 + 150):
        for data in range(3):
            target = Drawn(shape, data).target()
            reading = read(target)
            known = cache.hits
            structure, loaded = cache.load(target)
            assert structure.key == reading.key
            assert len(loaded) == len(reading.data)
            assert all(a is b or a == b for a, b in zip(loaded, reading.data, strict=True))
            quick += quick_key(target) is not None and cache.hits > known
            again, loaded = cache.load(target)
            assert again is structure
            assert all(a is b or a == b for a, b in zip(loaded, reading.data, strict=True))
    assert quick > 100


def test_literals_are_the_same_objects():
    """Data are passed on as they stand, in the order of the structure."""
    cache = PlanCache(8, NativeSolver())
    for _ in range(3):
        first, second, third = [1], {2: 3}, object()
        target = two([one(first), second], (third, one(second)))
        _, data = cache.load(target)
        assert {id(each) for each in data} == {id(first), id(second), id(third)}
        assert [id(each) for each in data] == [id(each) for each in read(target).data]


DIFFERENT = {
    "shared": lambda: two(node := one(1), node),
    "not shared": lambda: two(one(1), one(1)),
    "one in a list": lambda: two([one(1)], one(1)),
    "two in a list": lambda: two([one(1), one(1)], 1),
    "tuple": lambda: two((one(1),), one(1)),
    "box shared": lambda: two(box := [one(1)], box),
    "box not shared": lambda: two([one(1)], [one(1)]),
    "other task": lambda: two(any_number(1), one(1)),
    "policies": lambda: two(one(1).with_retry(2), one(1)),
    "pure": lambda: two(pure(1), one(1)),
    "method": lambda: two(Thing().method(1), one(1)),
    "function of the class": lambda: two(Thing.method(Thing(), 1), one(1)),
    "keywords": lambda: two(named(1, key=2), one(1)),
    "class of its own": lambda: two(Words([one(1)]), one(1)),
    "dict": lambda: two({"a": one(1)}, one(1)),
    "param": lambda: two(cs.Param("p", 1), one(1)),
    "no argument": lambda: two(any_number(), one(1)),
    "literal for a call": lambda: two(1, one(1)),
    "empty list": lambda: two([], [one(1)]),
}


def test_different_structures_are_told_apart():
    """Sharing, containers, tasks and policies are structure; each is known when it comes again."""
    cache = PlanCache(64, NativeSolver())
    for _ in range(2):
        for name, make in DIFFERENT.items():
            target = make()
            structure, data = cache.load(target)
            assert structure.key == read(target).key, name
            assert len(data) == len(read(target).data), name
    assert cache.misses == len({read(make()).key for make in DIFFERENT.values()})
    assert cache.hits == 2 * len(DIFFERENT) - cache.misses


def test_quick_keys_are_bounded_and_go_with_their_structures():
    """An evicted structure is read anew, whatever its quick key says."""
    cache = PlanCache(2, NativeSolver())

    def chain(length):
        target = one(1)
        for _ in range(length):
            target = one(target)
        return target

    for length in (1, 2, 3, 1, 2, 3):
        structure, _ = cache.load(chain(length))
        assert structure.key == read(chain(length)).key
    assert (cache.hits, cache.misses, len(cache)) == (0, 6, 2)
    assert len(cache._by_quick_key) <= 2
    cache.load(chain(3))
    cache.load(chain(2))
    assert cache.hits == 2


def test_a_quick_key_keeps_no_data_alive():
    """The cache holds structures, not what they were loaded with."""

    class Datum:
        pass

    cache = PlanCache(8, NativeSolver())
    datum = Datum()
    gone = weakref.ref(datum)
    cache.load(two(one(datum), [one(1), datum][:1]))
    del datum
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        (1, True),
        ("a", True),
        ([1, 2], True),
        ((), True),
        ({"a": 1}, True),
        (Thing(), True),
        ([Thing()], False),
        ([[1]], False),
        (Words([1]), False),
        (Pair(1, 2), False),
        ({"a": [1]}, False),
    ],
)
def test_what_is_a_literal_for_certain(value, literal):
    """Values that cannot hold an expression are data without being searched."""
    assert is_literal(value) is literal


def test_expressions_are_no_literals():
    """No expression is taken for data."""
    expressions = [one(1), one.map(x=[1]), cs.Param("p"), cs.Env("E"), cs.inject("db")]
    expressions.append(cs.Router(1, routes={1: 2}))
    for each in expressions:
        assert not is_literal(each)
        assert not is_literal([each])
        assert not is_literal({"k": each})


def test_deep_and_wide_targets(use_vm):
    """A target of 100,000 nodes has a quick key too, and a second run of it reads nothing."""

    async def main():
        engine = cs.Engine()
        for _ in range(2):
            target: Any = 0
            for _ in range(50_000):
                target = one(target)
            target = any_number(target, [one(n) for n in range(50_000)])
            value = await engine.run(target, use_vm=use_vm)
            assert value == (0, list(range(50_000)))
        return engine.statistics()

    statistics = anyio.run(main)
    assert (statistics.plan_misses, statistics.plan_hits) == (1, 1)
