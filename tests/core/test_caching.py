"""Caches of values: keys, hits, single flight (section 7)."""

import enum
import logging
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import anyio
import pytest

import cascade as cs


class RecordingCache:
    """A cache policy of a user's own that remembers every call."""

    def __init__(self):
        self.gets = []
        self.puts = []
        self.values = {}

    async def get(self, key):
        self.gets.append(key)
        return cs.Hit(self.values[key]) if key in self.values else None

    async def put(self, key, value):
        self.puts.append((key, value))
        self.values[key] = value


@cs.task
def identity(x):
    return x


class Color(enum.Enum):
    RED = 1


class Shade(enum.Enum):
    RED = 1


class Number(enum.IntEnum):
    ONE = 1


@dataclass
class Point:
    x: object
    y: object = 0


@dataclass
class Pixel:
    x: object
    y: object = 0


def counted():
    """A task that counts its executions."""
    calls = []

    @cs.task
    def square(x):
        calls.append(x)
        return x * x

    return square, calls


def test_a_hit_gives_the_value_without_an_execution(run):
    """What was put under a key is the value of the next node with that key."""
    square, calls = counted()
    cache, skipped = RecordingCache(), []
    bus = cs.MessageBus()
    bus.subscribe(cs.TaskSkipped, skipped.append)
    assert run(square(3).with_cache(cache), bus=bus) == 9
    assert skipped == []
    assert run(square(3).with_cache(cache), bus=bus) == 9
    assert calls == [3]
    assert [event.reason for event in skipped] == ["CacheHit"]
    assert len(cache.puts) == 1


def test_keys_are_bytes(run):
    """`get` and `put` are called with one key, which is bytes."""
    cache = RecordingCache()
    run(identity(3).with_cache(cache))
    (key,) = cache.gets
    assert isinstance(key, bytes)
    assert cache.puts == [(key, 3)]


@pytest.mark.parametrize("value", [None, False, 0, "", [], cs.Hit(None)], ids=repr)
def test_any_value_can_be_cached(run, value):
    """A cached None, or any other falsy value, is a hit."""
    calls = []

    @cs.task
    def gives():
        calls.append(1)
        return value

    cache = cs.InMemoryCache()
    assert run(gives().with_cache(cache)) == value
    assert run(gives().with_cache(cache)) == value
    assert len(calls) == 1


def test_a_hit_takes_no_capacity_and_no_token(run):
    """A hit passes no gate: neither a pause nor a lack of capacity holds it up."""
    square, calls = counted()
    cache = cs.InMemoryCache()
    run(square(3).with_cache(cache))
    pause = cs.GlobalConstraint("p", "global", "pause", {})
    target = square(3).with_cache(cache).with_constraints(gpu=5)
    assert run(target, constraints=[pause], system_resources={"gpu": 1}) == 9
    assert calls == [3]


def keys_of(run, *values):
    cache = RecordingCache()
    for value in values:
        run(identity(value).with_cache(cache))
    return cache.gets


NOON = datetime(2024, 1, 1, 12)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0, False),
        (0, None),
        (1, "1"),
        ("1", b"1"),
        (2**80, 2.0**80),
        ("", None),
        ([1], (1,)),
        ([], ()),
        ([1], [[1]]),
        (["ab", "c"], ["a", "bc"]),
        ([["a"], "b"], [["a", "b"]]),
        (["a, b"], ["a", "b"]),
        ({1: 2}, [1, 2]),
        ({"a": 1}, {"a": 1.0}),
        ({1}, [1]),
        (set(), {}),
        (Color.RED, Shade.RED),
        (Color.RED, 1),
        (Number.ONE, 1),
        (Path("a"), "a"),
        (NOON, NOON.replace(tzinfo=timezone.utc)),  # noqa: UP017
        (NOON, NOON.isoformat()),
        (Point(1), Pixel(1)),
        (Point(1), Point(2)),
        (Point(1, 2), (1, 2)),
        (Point(1, 2), {"x": 1, "y": 2}),
    ],
)
def test_keys_of_different_values_differ(run, one, other):
    """The encoding of arguments is typed and length-prefixed: different data, different key."""
    first, second = keys_of(run, one, other)
    assert first != second


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (10**30, 10**30),
        (1.5, 1.5),
        (float("nan"), float("nan")),
        ({0, 8}, {8, 0}),
        ({"a", "b", "c"}, {"c", "b", "a"}),
        ({1, "1", None}, {None, "1", 1}),
        ([{"a": (1, b"x")}], [{"a": (1, b"x")}]),
        (Point(1, [2]), Point(1, [2])),
        (Path("a/b"), Path("a") / "b"),
        (Color.RED, Color.RED),
        (NOON, datetime(2024, 1, 1, 12)),
    ],
)
def test_keys_of_equal_values_are_equal(run, one, other):
    """Equal data give one key, whichever object carries it."""
    first, second = keys_of(run, one, other)
    assert first == second


def test_the_key_does_not_tell_how_an_argument_was_passed(run):
    """By position, by name, or computed: the resolved argument counts."""
    cache = RecordingCache()
    for target in (identity(3), identity(x=3), identity(identity(3))):
        run(target.with_cache(cache))
    assert len(set(cache.gets)) == 1


@pytest.mark.parametrize(
    "value",
    [object(), [object()], {"a": {1: [lambda: 0]}}, 1j, bytearray(b"x"), Point, Point([Point])],
)
def test_anything_else_is_a_cache_key_error(run, value):
    """Arguments with no stable encoding, at any depth, fail the node: CacheKeyError."""
    with pytest.raises(cs.CacheKeyError):
        run(identity(value).with_cache(cs.InMemoryCache()))


def test_a_resource_is_not_part_of_the_key(run):
    """An injected resource of any type leaves the key alone."""

    @cs.resource
    def connection():
        yield object()

    calls = []

    @cs.task
    def query(x, db=cs.inject("connection")):
        calls.append(x)
        return x

    cache = RecordingCache()
    for x in (1, 1, 2):
        run(query(x).with_cache(cache), resources=[connection])
    assert calls == [1, 2]


def test_the_version_is_part_of_the_key(run):
    """Another `version` of a Task has other keys."""

    def f(x):
        return x

    cache = RecordingCache()
    for version in ("1", "2"):
        run(cs.task(f, version=version)(1).with_cache(cache))
    assert len(set(cache.gets)) == 2


def test_local_functions_of_one_name_have_keys_of_their_own(run):
    """A Task that its name does not lead to is told from others by its identity."""

    def adder(n):
        @cs.task
        def add(x):
            return x + n

        return add

    cache = cs.InMemoryCache()
    assert [run(adder(n)(1).with_cache(cache)) for n in (1, 2)] == [2, 3]


KEYED = """
import cascade as cs, enum, pathlib, datetime, dataclasses

class Color(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Point:
    x: int

class Show:
    async def get(self, key):
        print(key.hex())
    async def put(self, key, value):
        pass

@cs.task(version="3")
def f(x):
    return 1

data = [{"a", "b", "c"}, {"k": (1, 2.5, b"x")}, Color.RED, Point(1), pathlib.PurePath("p"),
        datetime.datetime(2024, 1, 1)]
data[4] = pathlib.Path("p")
"""


def test_keys_are_the_same_in_every_process(tmp_path):
    """The key of a Task that its name leads to depends on no process, hash seed or address."""
    (tmp_path / "keyed_workflow.py").write_text(KEYED)
    program = "from keyed_workflow import *; cs.run(f(data).with_cache(Show()))"
    keys = set()
    for seed in ("1", "2"):
        env = {"PYTHONPATH": ":".join([str(tmp_path), *sys.path]), "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
        )
        keys.add(done.stdout.strip())
    assert len(keys) == 1
    assert keys != {""}


def test_a_failing_put_is_logged_and_fails_nothing(run, caplog):
    """The value counts even if it cannot be put."""

    class Broken(RecordingCache):
        async def put(self, key, value):
            raise OSError("disk full")

    finished = []
    bus = cs.MessageBus()
    bus.subscribe(cs.RunFinished, finished.append)
    with caplog.at_level(logging.WARNING):
        assert run(identity(3).with_cache(Broken()), bus=bus) == 3
    assert "disk full" in caplog.text
    assert [event.status for event in finished] == ["Succeeded"]


def test_concurrent_misses_of_one_key_compute_once(run):
    """Within a run the second node that misses a key waits for the value of the first."""
    calls = []

    @cs.task
    async def slow(x):
        calls.append(x)
        await anyio.sleep(1)
        return x * 10

    cache = cs.InMemoryCache()
    target = [slow(x).with_cache(cache) for x in (1, 1, 2, 1)]
    assert run(target) == [10, 10, 20, 10]
    assert sorted(calls) == [1, 2]


def test_concurrent_misses_of_map_items_compute_once(run):
    """Items of a map with one key compute once."""
    calls = []

    @cs.task
    async def slow(x):
        calls.append(x)
        await anyio.sleep(1)
        return x * 10

    target = slow.map(x=[1, 2, 1, 2]).with_cache(cs.InMemoryCache())
    assert run(target) == [10, 20, 10, 20]
    assert sorted(calls) == [1, 2]


def test_a_waiter_computes_if_nothing_was_put(run):
    """A computer that gives no ordinary value leaves the key to the next waiter."""
    calls = []

    @cs.task
    def value():
        return "value"

    @cs.task
    async def moves_on():
        calls.append(1)
        await anyio.sleep(1)
        return value()

    cache = cs.InMemoryCache()
    assert run([moves_on().with_cache(cache) for _ in range(3)]) == ["value"] * 3
    assert len(calls) == 3


def test_a_failed_attempt_is_not_cached(run):
    """Only the value of the attempt that succeeds is put."""
    calls = []

    @cs.task
    def flaky():
        calls.append(1)
        if len(calls) < 3:
            raise ValueError
        return "done"

    cache = RecordingCache()
    assert run(flaky().with_retry(3).with_cache(cache)) == "done"
    assert len(cache.gets) == 1
    assert [value for _, value in cache.puts] == ["done"]


def test_an_in_memory_cache_is_bounded(inside):
    """An InMemoryCache never holds more than `max_entries` values."""

    async def program():
        cache = cs.InMemoryCache(max_entries=2)
        for i in range(10):
            await cache.put(b"%d" % i, i)
        return [await cache.get(b"%d" % i) for i in range(10)]

    hits = [hit.value for hit in inside(program) if hit is not None]
    assert len(hits) == 2
    assert 9 in hits


def test_a_file_skips_the_task_while_it_exists(run, tmp_path):
    """With a FileExistenceCache the file stands for the work done; the path is the value."""
    path = tmp_path / "out.txt"
    calls = []

    @cs.task
    def write():
        calls.append(1)
        path.write_text("data")
        return "written"

    target = write().with_cache(cs.FileExistenceCache(path))
    assert run(target) == "written"
    assert Path(run(target)) == path
    path.unlink()
    assert run(target) == "written"
    assert len(calls) == 2


def test_misses_of_a_slow_cache_compute_once(run):
    """A node whose miss comes when another has computed that key meanwhile takes its value."""
    calls = []

    class SlowCache(RecordingCache):
        async def get(self, key):
            found = await super().get(key)
            await anyio.sleep(1)
            return found

    @cs.task
    async def slow(x):
        calls.append(x)
        await anyio.sleep(0.5)
        return x * 10

    @cs.task
    async def wait(delay):
        await anyio.sleep(delay)

    cache = SlowCache()
    nodes = [slow(1).with_cache(cache).after(wait(delay)) for delay in (0, 0.9, 1.4)]
    assert run(nodes) == [10, 10, 10]
    assert calls == [1]
