"""Sections 2 and 6: maps of which few items exist at a time, over what is read while they start."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest

import cascade as cs
from cascade.testing import assert_strategies_agree


@cs.task
def double(x: int) -> int:
    return 2 * x


@cs.task
async def nap(x: float) -> float:
    await anyio.sleep(x)
    return x


@cs.task
def add(x: int, y: int = 0) -> int:
    return x + y


class Watched:
    """A source of numbers that counts how far it was read."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.read = 0

    def __iter__(self) -> Iterator[int]:
        for n in range(self.count):
            self.read += 1
            yield n

    async def later(self) -> AsyncIterator[int]:
        for n in self:
            await anyio.sleep(0.125)
            yield n


async def counted(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


def most_at_once(times: list[tuple[float, float]]) -> int:
    return max(sum(a <= start < b for a, b in times) for start, _ in times)


@pytest.mark.parametrize("n", [1, 3, 10])
def test_at_most_n_items_exist_at_a_time(run, n):
    """Each begins when another has its value, and in order; the results are those of any map."""
    times: list[tuple[float, float]] = []

    @cs.task
    async def work(x: int) -> int:
        begin = anyio.current_time()
        await anyio.sleep(1 + x % 3)
        times.append((begin, anyio.current_time()))
        return x

    assert run(work.map(x=range(10)).with_concurrency(n)) == list(range(10))
    assert most_at_once(times) == n


def test_items_begin_in_order(run):
    """The next item is the next of the iterables, for inline tasks too."""
    log: list[int] = []

    @cs.task
    def note(x: int) -> int:
        log.append(x)
        return x

    assert run([note.map(x=range(20)).with_concurrency(3), add(1)])[0] == list(range(20))
    assert log == list(range(20))


def test_an_item_exists_until_it_has_its_value(run):
    """Waiting for capacity, retries with their pauses, fallbacks and what it returns are of it."""
    begun: list[tuple[float, int]] = []

    @cs.task
    async def late(x: int) -> int:
        await anyio.sleep(1)
        return x

    @cs.task
    def item(x: int) -> Any:
        begun.append((anyio.current_time(), x))
        if x % 2:
            return late(x)
        raise ValueError(x)

    mapped = item.map(x=range(4)).with_retry(2, delay=3).with_fallback(late(-1)).with_concurrency(1)
    assert run(mapped) == [-1, 1, -1, 3]
    start = begun[0][0]
    assert [(at - start, x) for at, x in begun] == [(0, 0), (3, 0), (4, 1), (5, 2), (8, 2), (8, 3)]


def test_items_beyond_them_do_not_wait_at_the_gate(run):
    """What does not exist is parked nowhere."""
    bus, blocked = cs.MessageBus(), []
    bus.subscribe(cs.TaskBlocked, blocked.append)
    mapped = nap.map(x=[1] * 8).with_concurrency(2).with_constraints(gpu=1)
    assert run(mapped, system_resources={"gpu": 1}, bus=bus) == [1] * 8
    assert len(blocked) == 7
    blocked.clear()
    assert run(mapped.copy().with_concurrency(1), system_resources={"gpu": 1}, bus=bus) == [1] * 8
    assert blocked == []


SOURCES = {
    "a generator": lambda n: (i for i in range(n)),
    "an iterator": lambda n: iter(range(n)),
    "a list": lambda n: list(range(n)),
    "an object": lambda n: Watched(n),
    "an async generator": lambda n: counted(n),
    "a slow async generator": lambda n: Watched(n).later(),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("task", [double, nap], ids=["inline", "async"])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_map_reads_what_it_is_given_lazily(run, source, task, count):
    """A sync or async iterable or iterator gives the same as a list would."""
    expected = run(task.map(x=range(count)))
    mapped = task.map(x=cs.lazily(source(count))).with_concurrency(3)
    assert run([mapped, {"k": double(1)}]) == [expected, {"k": 2}]


@pytest.mark.parametrize("is_async", [False, True])
def test_nothing_is_read_further_ahead_than_items_start(run, is_async):
    """What is read is what was started, and at most n of it are not done."""
    source = Watched(50)
    ahead: list[int] = []

    @cs.task
    async def item(x: int) -> None:
        ahead.append(source.read - x)
        await anyio.sleep(1)

    given: Any = source.later() if is_async else source
    assert run(item.map(x=cs.lazily(given)).with_concurrency(4)) == [None] * 50
    assert max(ahead) <= 4


@pytest.mark.parametrize("is_async", [False, True])
def test_a_map_over_a_lazy_source_keeps_nothing_but_results(run, is_async):
    """An element goes once its item is done."""

    class Page:
        pass

    alive: weakref.WeakSet[Page] = weakref.WeakSet()
    most = 0

    def pages() -> Iterator[Page]:
        for _ in range(200):
            page = Page()
            alive.add(page)
            yield page
            del page

    async def pages_later() -> AsyncIterator[Page]:
        for page in pages():
            yield page
            del page

    @cs.task
    def look(page: Page) -> int:
        nonlocal most
        most = max(most, len(alive))
        return 1

    given: Any = pages_later() if is_async else pages()
    assert sum(run(look.map(page=cs.lazily(given)).with_concurrency(5))) == 200
    gc.collect()
    assert most <= 12
    assert len(alive) == 0


def test_several_arguments_are_read_together(run):
    """Lazy ones of both kinds, lists and what is unmapped, item by item."""

    @cs.task
    def put(a: int, b: int, c: int, d: int) -> tuple[int, ...]:
        return a, b, c, d

    mapped = put.map(
        a=cs.lazily(counted(3)), b=cs.lazily(iter("xyz")), c=[7, 8, 9], d=cs.unmapped("d")
    ).with_concurrency(2)
    assert run(mapped) == [(0, "x", 7, "d"), (1, "y", 8, "d"), (2, "z", 9, "d")]
    over_value = add.map(x=cs.lazily(range(2)), y=double.map(x=[1, 2])).with_concurrency(1)
    assert run(over_value) == [2, 5]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (lambda: {"x": cs.lazily(range(3)), "y": [1, 2]}, "x: more than 2, y: 2"),
        (lambda: {"x": cs.lazily(range(2)), "y": [1, 2, 3]}, "x: 2, y: 3"),
        (lambda: {"x": cs.lazily(range(2)), "y": cs.lazily(range(9))}, "x: 2, y: more than 2"),
        (lambda: {"x": cs.lazily(counted(2)), "y": cs.lazily(range(9))}, "x: 2, y: more than 2"),
        (lambda: {"x": cs.lazily(counted(4)), "y": []}, "x: more than 0, y: 0"),
    ],
)
def test_different_lengths_are_found_at_the_end(run, given, told):
    """It is a `ValueError` with each length, or what is known of it."""
    with pytest.raises(ValueError, match=rf"iterables of equal length, but got {told}\n"):
        run(add.map(**given()).with_concurrency(2))


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("after", [0, 5])
def test_what_reading_raises_is_the_failure_of_the_map(run, is_async, after):
    """The same object, with a note that names the map; what runs is cancelled."""
    error = LookupError("row 5")

    def rows() -> Iterator[int]:
        yield from range(after)
        raise error

    async def rows_later() -> AsyncIterator[int]:
        for row in rows():
            yield row

    given: Any = rows_later() if is_async else rows()
    with pytest.raises(LookupError) as caught:
        run([nap.map(x=cs.lazily(given)).with_concurrency(3), nap(100)])
    assert caught.value is error
    assert "in map 'nap' (nap#0)" in error.__notes__[0]


def closing(log: list[str], takes: float = 0) -> Any:
    async def rows() -> AsyncIterator[int]:
        try:
            for n in range(100):
                yield n
        finally:
            await anyio.sleep(takes)
            log.append("closed")

    return rows()


@pytest.mark.parametrize("cause", ["failure", "cancellation", "end"])
def test_an_async_generator_is_closed_when_the_run_ends(inside, use_vm, cause):
    """Shielded, in the task that read it, so that its own clean-up may wait."""
    log: list[str] = []

    @cs.task
    async def item(x: int) -> int:
        await anyio.sleep(1)
        if x == 5 and cause == "failure":
            raise LookupError(x)
        return x

    async def main() -> Any:
        target = item.map(x=cs.lazily(closing(log, 2))).with_concurrency(3)
        with anyio.move_on_after(50.5 if cause != "cancellation" else 4.5):
            return await cs.Engine().run(target, use_vm=use_vm)

    if cause == "failure":
        with pytest.raises(LookupError):
            inside(main)
    else:
        assert inside(main) == (None if cause == "cancellation" else list(range(100)))
    assert log == ["closed"]


def test_closing_takes_no_longer_than_the_engine_allows(inside, use_vm):
    """A clean-up that hangs is cancelled after `teardown_timeout`, and that is a note."""
    log: list[str] = []

    @cs.task
    async def item(x: int) -> None:
        await anyio.sleep(1)
        raise LookupError(x)

    async def main() -> float:
        begin = anyio.current_time()
        engine = cs.Engine(teardown_timeout=5)
        target = item.map(x=cs.lazily(closing(log, 1000))).with_concurrency(1)
        with pytest.raises(LookupError) as caught:
            await engine.run(target, use_vm=use_vm)
        assert any("did not finish within 5 s" in note for note in caught.value.__notes__)
        return anyio.current_time() - begin

    assert inside(main) == 6
    assert log == []


def test_a_scope_may_be_open_across_the_yields_of_an_async_generator(run):
    """It is entered and left in one task, in which all is read and closed."""

    async def rows() -> AsyncIterator[int]:
        with anyio.fail_after(1000):
            for n in range(5):
                await anyio.sleep(1)
                yield n

    assert run(nap.map(x=cs.lazily(rows())).with_concurrency(2)) == [0, 1, 2, 3, 4]


def test_an_iterator_is_read_by_one_map_of_one_run(run):
    """A second one would find it empty: a `ValueError` says so; other iterables are read anew."""
    given = cs.lazily(iter([1, 2]))
    mapped = double.map(x=given).with_concurrency(1)
    assert run(mapped) == [2, 4]
    for target in (mapped, double.map(x=given).with_concurrency(1)):
        with pytest.raises(
            ValueError, match="iterator, which was read before and can be read once"
        ):
            run(target)
    again = double.map(x=cs.lazily([1, 2])).with_concurrency(1)
    assert run(again) == run(again) == [2, 4]


def test_a_map_in_a_loop_reads_anew_in_each_iteration(run):
    """An iteration is an evaluation of its own."""
    source = Watched(3)

    @cs.task
    def total(values: list[int], left: int) -> Any:
        return cs.Jump("again", {"left": left - 1}) if left else sum(values)

    node = total(double.map(x=cs.lazily(source)).with_concurrency(2), 3)
    assert run(cs.bind(node, cs.select_jump({"again": node}))) == 6
    assert source.read == 12


def test_a_lazy_source_is_data(run):
    """Structures are shared, whatever is read; equal pure maps of one source are one."""
    engine = cs.Engine()
    calls: list[int] = []

    @cs.task(pure=True)
    def pure(x: int) -> int:
        calls.append(x)
        return x

    source = cs.lazily([1, 2])
    one, two = (pure.map(x=source).with_concurrency(1) for _ in range(2))
    assert run([one, two]) == [[1, 2], [1, 2]]
    assert calls == [1, 2]
    assert run([one, pure.map(x=source).with_concurrency(2)]) == [[1, 2], [1, 2]]
    assert len(calls) == 6

    async def main() -> None:
        for n in range(3):
            await engine.run(double.map(x=cs.lazily(range(n))).with_concurrency(2))

    anyio.run(main)
    assert engine.statistics().plan_misses == 1


def test_both_strategies_agree():
    """Values, events and order are the same."""
    assert_strategies_agree(
        lambda: [
            nap.map(x=cs.lazily(Watched(5).later())).with_concurrency(2),
            double.map(x=cs.lazily(i for i in range(9))).with_concurrency(4),
        ]
    )


@pytest.mark.parametrize("is_returned", [False, True])
def test_a_lazy_map_needs_a_bound(run, is_returned):
    """Without `.with_concurrency(n)` it is a `ValueError` before anything runs."""
    calls: list[int] = []

    @cs.task
    def note(x: int) -> None:
        calls.append(x)

    mapped = note.map(x=cs.lazily([1]))
    returning = cs.task(lambda: mapped)
    with pytest.raises(ValueError, match=r"note\.map\(x=cs\.lazily.*write \.with_concurrency\(n\)"):
        run(returning() if is_returned else [note(0), mapped])
    assert calls == []


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "3", None])
def test_a_bound_is_a_whole_number_above_0(wrong):
    """Anything else is a `ValueError` at once."""
    with pytest.raises(ValueError, match=r"with_concurrency\(.*must be a whole number above 0"):
        double.map(x=[1]).with_concurrency(wrong)


def test_a_bound_is_given_once():
    """Another one is a `ValueError` that advises a copy; the same one again is nothing."""
    mapped = double.map(x=[1]).with_concurrency(2)
    assert mapped.with_concurrency(2) is mapped
    with pytest.raises(ValueError, match=r"concurrency 2 already.*copy\(\)\.with_concurrency"):
        mapped.with_concurrency(3)
    mapped.copy().with_concurrency(3)


def test_a_call_has_no_items_to_bound():
    """On what is no map it says what to write."""
    with pytest.raises(AttributeError, match=r"bounds the items of a map: double\.map\(\.\.\.\)"):
        double(1).with_concurrency(2)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: cs.lazily("ab"), "would read single characters"),
        (lambda: cs.lazily(b"ab"), "would read single characters"),
        (lambda: cs.lazily(5), r"cs\.lazily\(5\) cannot be iterated"),
        (lambda: cs.lazily(double), "nothing to read before the run"),
        (lambda: cs.lazily(double(1)), "map over the expression itself"),
        (lambda: cs.run(double(cs.lazily([1]))), "is not an argument of a map"),
        (lambda: cs.run([cs.lazily([1])]), "is not an argument of a map"),
        (lambda: cs.run(double.map(x=[cs.lazily([1])])), "is not an argument of a map"),
        (lambda: cs.run(cs.lazily([1])), "is not an argument of a map"),
    ],
)
def test_misuse_is_a_type_error(make, told):
    """It is raised at the call, or before anything runs."""
    with pytest.raises(TypeError, match=told):
        make()


def test_graphs_descriptions_and_pictures_show_the_bound():
    """A lazy source is data, and the bound is among the policies."""
    mapped = double.map(x=cs.lazily(range(3))).with_concurrency(2)
    (node,) = cs.to_json(mapped)["nodes"]
    assert node["policies"] == {"concurrency": 2}
    assert node["iterables"] == ["x"]
    assert "map over x" in str(cs.visualize(mapped))
    assert "double" in cs.disassemble(mapped)
    assert cs.build_graph(mapped).data[0].iterable == range(3)
