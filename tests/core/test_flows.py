"""Section 6: no barrier. An item of a map starts as soon as its own elements have settled."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import cascade as cs
from cascade.testing import assert_strategies_agree


@cs.task
async def nap(x: float) -> float:
    await anyio.sleep(x)
    return x


@cs.task
def same(x: Any) -> Any:
    return x


@pytest.fixture
def log() -> list[Any]:
    return []


@pytest.fixture
def stage(log):
    """A map's task that logs its name, when it started, and its argument, and takes `takes`."""

    def stage(name: str, takes: float = 1.0) -> Any:
        async def run(x: Any) -> Any:
            log.append((name, anyio.current_time(), x))
            await anyio.sleep(takes)
            return x

        return cs.task(run, name=name)

    return stage


def starts(log: list[Any], name: str) -> list[float]:
    begin = log[0][1]
    return [at - begin for who, at, _ in log if who == name]


def test_maps_over_maps_flow_item_by_item(run, stage, log):
    """Each stage begins with an item when the one before is done with it."""
    fetch, parse, save = stage("fetch", 0), stage("parse", 2), stage("save", 1)

    @cs.task
    async def slow(x: float) -> float:
        await anyio.sleep(x)
        return await fetch.func(x)

    assert run(save.map(x=parse.map(x=slow.map(x=[1, 5, 3])))) == [1, 5, 3]
    assert starts(log, "parse") == [0, 2, 4]
    assert starts(log, "save") == [2, 4, 6]


def test_two_stages_take_the_time_of_one_and_the_tail_of_the_other(run):
    """Thirty times ten items a second, twice, take 31 seconds and not 60."""

    @cs.task
    async def first(x: int) -> int:
        await anyio.sleep(1)
        return x

    @cs.task
    async def second(x: int) -> float:
        await anyio.sleep(1)
        return anyio.current_time()

    inner = first.map(x=range(300)).with_concurrency(10)
    times = run(second.map(x=inner).with_concurrency(10))
    assert max(times) - min(times) == 29
    by_capacity = first.map(x=range(300)).with_constraints(a=1)
    target = second.map(x=by_capacity).with_constraints(b=1)
    times = run(target, system_resources={"a": 10, "b": 10})
    assert max(times) - min(times) == 29


def test_a_list_of_expressions_flows(run, stage, log):
    """Tuples, literals among them and several arguments too: an item needs its own elements."""
    item = stage("item")
    assert run(item.map(x=[nap(3), 0, nap(1)])) == [3, 0, 1]
    assert starts(log, "item") == [0, 1, 3]
    log.clear()

    @cs.task
    async def both(x: Any, y: Any, z: Any = 0) -> Any:
        log.append(("both", anyio.current_time(), x))
        return x, y, z

    target = both.map(x=(nap(3), nap(1)), y=nap.map(x=[2, 2]), z=[7, 8])
    assert run([nap(0), target])[1] == [(3, 2, 7), (1, 2, 8)]
    assert [x for _, _, x in log] == [1, 3]


def test_what_all_items_need_comes_first(run, stage, log):
    """Unmapped arguments, amounts, predecessors, conditions, and iterables known only later."""

    @cs.task
    async def item(x: Any, y: Any = 0, z: Any = 0) -> Any:
        log.append(("item", anyio.current_time(), x))
        return x, y, z

    def begun(target: Any, **options: Any) -> list[float]:
        log.clear()
        zero = stage("zero", 0)(0)
        run([zero, target], **options)
        return starts(log, "item")

    elements = [nap(1), nap(6)]
    assert begun(item.map(x=elements)) == [1, 6]
    assert begun(item.map(x=elements, y=cs.unmapped(nap(4)))) == [4, 6]
    assert begun(item.map(x=elements).after(nap(4))) == [4, 6]
    assert begun(item.map(x=elements).run_if(nap(4))) == [5, 10]
    amount = item.map(x=elements).with_constraints(gpu=nap(4))
    assert begun(amount, system_resources={"gpu": 9}) == [4, 6]
    later = cs.task(lambda n: iter([n, n]), name="later")(nap(4))
    assert begun(item.map(x=elements, y=later)) == [4, 6]


def test_who_else_reads_the_inner_list_gets_it_too(run, stage, log):
    """Once it is whole; the inner map runs once."""
    inner = stage("inner").map(x=[1, 2])
    outer = stage("outer").map(x=inner)
    total = cs.task(lambda values: sum(values), name="total")
    assert run([total(inner), outer, inner, outer]) == [3, [1, 2], [1, 2], [1, 2]]
    assert len(log) == 4


def test_a_map_that_is_demanded_late_takes_what_is_there(run, stage, log):
    """The items of the inner map that have their values, and then the others."""
    inner = nap.map(x=[1, 2, 9])
    late = stage("late").map(x=inner).run_if(nap(4))
    assert run([stage("zero", 0)(0), inner, late]) == [0, [1, 2, 9], [1, 2, 9]]
    assert starts(log, "late") == [4, 4, 9]
    log.clear()
    settled = stage("late").map(x=inner).run_if(nap(20))
    assert run([stage("zero", 0)(0), inner, settled])[2] == [1, 2, 9]
    assert starts(log, "late") == [20] * 3


def test_fallbacks_and_outcomes_flow_item_by_item(run, stage, log):
    """Those of the inner map are elements of the outer one."""

    @cs.task
    async def fragile(x: int) -> int:
        await anyio.sleep(x)
        if x == 2:
            raise LookupError(x)
        return x

    outer = stage("outer")
    assert run(outer.map(x=fragile.map(x=[1, 2, 3]).with_fallback(nap(5)))) == [1, 5, 3]
    assert starts(log, "outer") == [0, 2, 6]
    one, two, three = run(outer.map(x=fragile.map(x=[1, 2, 3]).settled()))
    assert (one.value, str(two.error), three.value) == (1, "2", 3)


def test_a_skipped_element_skips_the_map_once_what_started_has_settled(run, stage, log):
    """Items that had not started never do, wherever they wait."""
    bus, skipped, finished = cs.MessageBus(), [], []
    bus.subscribe(cs.TaskSkipped, lambda e: skipped.append((e.task_name, e.reason, e.timestamp)))
    bus.subscribe(cs.TaskExecutionFinished, lambda e: finished.append(e.status))
    no = same(False)
    mapped = stage("item", 10).map(x=[nap(1), nap(1), nap(1), same(0).run_if(nap(4)), same(1)])
    gone = stage("item", 10).map(x=[nap(1), nap(2), same(0).run_if(no.after(nap(4))), nap(9)])
    gated = gone.with_constraints(gpu=1)
    target = [mapped, gated.run_if(True), stage("after", 0)(0).after(gated)]
    with pytest.raises(cs.DependencyMissingError):
        run(target, bus=bus, system_resources={"gpu": 1})
    begun = [x for name, _, x in log if name == "item"]
    assert sorted(begun) == [0, 1, 1, 1, 1, 1]
    assert "Cancelled" not in finished
    of_map = next(each for each in skipped if each[:2] == ("item", "UpstreamSkipped_Data"))
    of_element = next(each for each in skipped if each[:2] == ("same", "ConditionFalse"))
    assert of_map[2] - of_element[2] == 7


def test_a_skip_that_is_known_at_once_starts_nothing(run, log):
    """Literal elements beside it do not start either."""
    note = cs.task(lambda x: log.append(x), name="note")
    for elements in ([1, same(2).run_if(False)], [same(2).run_if(False), 1]):
        with pytest.raises(cs.DependencyMissingError, match="same#0"):
            run(note.map(x=elements))
    with pytest.raises(cs.DependencyMissingError):
        run(same.map(x=note.map(x=[1]).run_if(False)))
    assert log == []


def test_the_first_failing_element_ends_the_run(run):
    """As ever; items that run are cancelled."""

    @cs.task
    async def fails(x: float) -> float:
        await anyio.sleep(x)
        raise LookupError(x)

    with pytest.raises(LookupError, match="2"):
        run(nap.map(x=[nap(1), fails(2), nap(3)]))


def test_different_lengths_are_found_before_any_item(run, log):
    """In the run, with each length, where they are known only there."""
    note = cs.task(lambda x, y: log.append(x), name="note")
    target = note.map(x=nap.map(x=[1, 2, 3]), y=[same(1), same(2)])
    with pytest.raises(ValueError, match="x: 3, y: 2"):
        run(target)
    with pytest.raises(ValueError, match="x: 1, y: 2"):
        run(note.map(x=[nap(1)], y=nap.map(x=same([1, 2]))))
    assert log == []


def test_no_items_are_an_empty_list(run):
    """Over an empty map, and over a map with a default."""
    assert run(same.map(x=nap.map(x=[]))) == []
    assert run(same.map(x=nap.map(x=same([])))) == []
    assert run(same.map(x=nap.map(x=[1]).run_if(False, default=[5, 6]))) == [5, 6]


def test_what_is_read_lazily_has_no_number_of_items(run, stage, log):
    """A map over a map over such a source waits for its list."""
    inner = nap.map(x=cs.lazily([1, 2])).with_concurrency(2)
    assert run([stage("zero", 0)(0), stage("item").map(x=inner)]) == [0, [1, 2]]
    assert starts(log, "item") == [2, 2]


def test_maps_flow_in_loops_groups_and_returned_expressions(run):
    """Wherever an evaluation demands them; pure inner maps of a loop are shared."""

    @cs.task(pure=True)
    async def shared(x: int) -> int:
        await anyio.sleep(x)
        return x

    @cs.task
    def total(values: list[int], left: int) -> Any:
        return cs.Jump("again", {"left": left - 1}) if left else sum(values)

    for inner in (nap.map(x=[1, 2]), shared.map(x=[1, 2])):
        node = total(same.map(x=inner), 30)
        assert run(cs.bind(node, cs.select_jump({"again": node}))) == 3
        assert run(cs.group(same.map(x=inner)).with_retry(2)) == [1, 2]
    returning = cs.task(lambda: same.map(x=nap.map(x=[3, 4])), name="returning")
    assert run(returning()) == [3, 4]


def test_resources_of_items_that_flow(run, log):
    """Step resources are demanded when the map is; task-scoped ones cannot be elements."""

    @cs.resource(scope="step")
    async def slow() -> Any:
        await anyio.sleep(3)
        yield "slow"

    @cs.resource(scope="task")
    def own() -> Any:
        yield "own"

    @cs.task
    def item(x: Any, r: Any = cs.inject("slow"), own: Any = cs.inject("own")) -> Any:
        return x, r, own

    given = [slow, own]
    assert run(item.map(x=[nap(1), 5]), resources=given) == [(1, "slow", "own"), (5, "slow", "own")]
    with pytest.raises(ValueError, match="holds the resource 'own' of the scope 'task'"):
        run(same.map(x=[nap(1), cs.inject("own")]), resources=given)


def test_streams_of_both_stages(inside, use_vm):
    """Items of the inner and of the outer map come as they settle."""

    async def main() -> Any:
        inner = nap.map(x=[1, 2])
        outer = same.map(x=inner)
        stream = cs.Engine().stream(outer, items=[inner, outer], use_vm=use_vm)
        async with stream as results:
            return [(item.task_id, item.value) async for item in results]

    found = inside(main)
    assert found[:2] == [("nap#0[0]/nap#0", 1), ("same#1[0]/same#0", 1)]
    assert [value for _, value in found] == [1, 1, 2, 2]


def test_both_strategies_agree_on_flows():
    """Values, events and order are the same."""

    def make() -> Any:
        inner = nap.map(x=[3, 1, 2]).with_concurrency(2)
        return [same.map(x=inner), same.map(x=[nap(1), 2, same(3)]), inner]

    assert_strategies_agree(make)
