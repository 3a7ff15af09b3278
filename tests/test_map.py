"""Section 6: one Task over the items of iterables."""

import anyio
import pytest

import cascade as cs


@cs.task
def pair(x, y=0):
    return (x, y)


@cs.task
def value(given):
    return given


def items():
    return value([1, 2, 3])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: pair.map(x=[1, 2]), [(1, 0), (2, 0)]),
        (lambda: pair.map(x=(1, 2), y=[3, 4]), [(1, 3), (2, 4)]),
        (lambda: pair.map(x=range(3)), [(0, 0), (1, 0), (2, 0)]),
        (lambda: pair.map(x={"a": 1, "b": 2}), [("a", 0), ("b", 0)]),
        (lambda: pair.map(x=(n * n for n in (1, 2))), [(1, 0), (4, 0)]),
        (lambda: pair.map(x=items()), [(1, 0), (2, 0), (3, 0)]),
        (lambda: pair.map(x=items(), y=[4, 5, 6]), [(1, 4), (2, 5), (3, 6)]),
        (lambda: pair.map(x=value(iter([1, 2]))), [(1, 0), (2, 0)]),
        (lambda: pair.map(x=[items(), 4]), [([1, 2, 3], 0), (4, 0)]),
        (lambda: pair.map(x=[[value(1)], {"k": value(2)}]), [([1], 0), ({"k": 2}, 0)]),
        (lambda: pair.map(x=value.map(given=[1, 2])), [(1, 0), (2, 0)]),
        (lambda: pair.map(x=cs.Param("p", default=[1, 2], type=list)), [(1, 0), (2, 0)]),
        (lambda: pair.map(x=[[1], "ab"]), [([1], 0), ("ab", 0)]),
        (lambda: value.map(given=pair.map(x=items(), y=items())), [(1, 1), (2, 2), (3, 3)]),
    ],
)
def test_a_map_gives_the_results_in_order(run, make, expected):
    """Iterables, or expressions giving them, are taken together; the result is a list in order."""
    assert run(make()) == expected
    assert run([make(), {"k": make()}]) == [expected, {"k": expected}]


@pytest.mark.parametrize(
    "make",
    [
        lambda: pair.map(x=[]),
        lambda: pair.map(x=(), y={}),
        lambda: pair.map(x=value([])),
        lambda: pair.map(x=value(iter(()))),
        lambda: pair.map(x=value([]), y=[]),
    ],
)
def test_no_items_give_an_empty_list(run, make):
    """A map over no items has the value `[]`."""
    assert run(make()) == []


def test_an_iterator_is_read_when_map_is_called(run):
    """An iterator is read into a tuple by `.map`: the expression can be run again."""
    iterator = iter([1, 2])
    mapped = pair.map(x=iterator)
    assert list(iterator) == []
    assert run(mapped) == run(mapped) == [(1, 0), (2, 0)]


@pytest.mark.parametrize("wrong", ["ab", b"ab", 5, None, 1.5, object()])
def test_what_is_no_iterable_of_items_is_a_type_error(run, wrong):
    """A str, bytes or non-iterable is a `TypeError`, at the call or when it is known."""
    with pytest.raises(TypeError):
        pair.map(x=wrong)
    with pytest.raises(TypeError):
        run(pair.map(x=value(wrong)))


BOTH = r"(?s)\b37\b.*\b41\b|\b41\b.*\b37\b"


@pytest.mark.parametrize(
    "make",
    [
        lambda: pair.map(x=range(37), y=range(41)),
        lambda: pair.map(x=iter(range(37)), y=[0] * 41),
        lambda: pair.map(x=[value(1)] * 37, y=range(41)),
    ],
)
def test_different_lengths_are_a_value_error_at_the_call(make):
    """Different lengths that literals show are a `ValueError` with each length, at the call."""
    with pytest.raises(ValueError, match=BOTH):
        make()


def test_different_lengths_are_a_value_error_in_the_run(run):
    """Different lengths known only in the run are a `ValueError` with each length."""
    mapped = pair.map(x=value(range(37)), y=range(41))
    with pytest.raises(ValueError, match=BOTH):
        run(mapped)


@pytest.mark.parametrize("wrong", [{"z": [1]}, {"x": [1], "z": [1]}, {"y": [1]}])
def test_a_map_is_checked_against_the_signature(wrong):
    """Iterables for no parameter, or none for a required one, are a `TypeError` at the call."""
    with pytest.raises(TypeError):
        pair.map(**wrong)


@pytest.fixture
def log():
    return []


@pytest.fixture
def work(log):
    """An asynchronous task that logs (start, end, item) and takes `delay`."""

    @cs.task
    async def work(delay, item=None):
        start = anyio.current_time()
        await anyio.sleep(delay)
        log.append((start, anyio.current_time(), item))
        return delay

    return work


def test_items_run_concurrently(run, work, log):
    """Items of a map run at the same time; the order of the results is that of the items."""
    assert run(work.map(delay=[3, 1, 2])) == [3, 1, 2]
    begin = log[0][0]
    assert [start - begin for start, _, _ in log] == pytest.approx([0, 0, 0])
    assert [end - begin for _, end, _ in log] == pytest.approx([1, 2, 3])


def test_items_start_when_all_iterables_are_there(run, work, log):
    """A map demands all its iterables and their elements before its first item starts."""
    run(work.map(delay=[1, 1], item=[work(2, "element"), work(5, "element")]))
    ended = max(end for _, end, item in log if item == "element")
    starts = [start for start, _, item in log if item != "element"]
    assert starts == pytest.approx([ended, ended])


def attempts(log, failures):
    """A task that fails `failures` times for each of its items."""

    @cs.task
    def attempt(x):
        log.append(x)
        if log.count(x) <= failures:
            raise ValueError(x)
        return x

    return attempt


def test_a_retry_applies_to_each_item(run, log):
    """`with_retry` of a map gives each item its own attempts."""
    assert run(attempts(log, 2).map(x=[1, 2, 3]).with_retry(3)) == [1, 2, 3]
    assert sorted(log) == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_timeout_applies_to_each_item(run, work):
    """`with_timeout` of a map bounds each item, not all of them."""
    assert run(work.map(delay=[4] * 3).with_timeout(5)) == [4] * 3
    one_by_one = work.map(delay=[4] * 3).with_timeout(5).with_constraints(gpu=1)
    assert run(one_by_one, system_resources={"gpu": 1}) == [4] * 3
    with pytest.raises(cs.TaskTimeoutError):
        run(work.map(delay=[4, 6]).with_timeout(5))


def test_a_cache_applies_to_each_item(run, log):
    """`with_cache` of a map keeps each item's value."""
    cache, task = cs.InMemoryCache(), attempts(log, 0)
    run(task.map(x=[1, 2]).with_cache(cache))
    assert run(task.map(x=[2, 3]).with_cache(cache)) == [2, 3]
    assert sorted(log) == [1, 2, 3]


def together(log):
    """How many of the logged intervals overlap at most."""
    return max(sum(a <= start < b for a, b, _ in log) for start, _, _ in log)


@pytest.mark.parametrize(("amount", "expected"), [(1, 2), (2, 1)])
def test_amounts_apply_to_each_item(run, work, log, amount, expected):
    """Each item takes the amounts of `with_constraints`; the map itself holds none."""
    run(work.map(delay=[1] * 6).with_constraints(gpu=amount), system_resources={"gpu": 2})
    assert together(log) == expected


@pytest.mark.parametrize(("scope", "limit"), [("task:work", 2), ("task:w*", 1), ("global", 3)])
def test_constraints_match_the_tasks_own_name(run, work, log, scope, limit):
    """A constraint on the task's name holds for the items of its maps."""
    constraint = cs.GlobalConstraint("id", scope, "concurrency", {"limit": limit})
    run(work.map(delay=[1] * 6), constraints=[constraint])
    assert together(log) == limit


def test_a_condition_applies_to_the_map_as_a_whole(run, log):
    """`run_if` skips the map, with one report, or lets all its items run."""
    bus, skipped, evaluated = cs.MessageBus(), [], []
    bus.subscribe(cs.TaskSkipped, skipped.append)
    yes, no = (cs.task(lambda v=v: evaluated.append(v) or v)() for v in (True, False))
    task = attempts(log, 0)
    mapped = task.map(x=[1, 2]).run_if(no, default="default")
    assert run([mapped, task.map(x=[3, 4]).run_if(yes)], bus=bus) == ["default", [3, 4]]
    assert sorted(log) == [3, 4]
    assert sorted(evaluated) == [False, True]
    assert [(event.task_name, event.reason) for event in skipped] == [("attempt", "ConditionFalse")]


def test_predecessors_come_before_the_map_as_a_whole(run, work, log):
    """`after` of a map runs its predecessors once, before the first item starts."""
    run(work.map(delay=[1, 1]).after(work(2, "before")))
    (_, ended, _), *rest = log
    assert len(rest) == 2
    assert all(start >= ended for start, _, _ in rest)


def test_a_map_publishes_the_events_of_its_items_only(run):
    """Each item publishes its own attempt under its own id, the map publishes nothing."""
    bus, events = cs.MessageBus(), []
    bus.subscribe(cs.TaskExecutionStarted, events.append)
    bus.subscribe(cs.TaskExecutionFinished, events.append)
    run(pair.map(x=[1, 2, 3]), bus=bus)
    assert {event.task_name for event in events} == {"pair"}
    assert len(events) == 6
    assert len({event.task_id for event in events}) == 3


def test_the_first_failing_item_fails_the_map(run, log):
    """The failure of an item is the map's, and its other items are cancelled."""
    error = ValueError("item 2")

    @cs.task
    async def item(x):
        await anyio.sleep(x)
        if x == 2:
            raise error
        log.append(x)

    with pytest.raises(ValueError, match="item 2") as caught:
        run(item.map(x=[3, 1, 2, 4]))
    assert caught.value is error
    assert log == [1]


def test_a_skipped_element_skips_the_map(run, log):
    """A map needs its elements as a node needs its arguments: no item runs without one."""
    task = attempts(log, 0)
    with pytest.raises(cs.DependencyMissingError):
        run(task.map(x=[1, value(2).run_if(False)]))
    assert log == []


def test_what_items_inject_is_found(run, log):
    """A resource only the items of a map inject is set up, and torn down after them."""

    @cs.resource
    def connection():
        log.append("open")
        yield 10
        log.append("close")

    @cs.task
    def scaled(x, factor=cs.inject("connection")):
        return x * factor

    assert run(scaled.map(x=[1, 2]), resources=[connection]) == [10, 20]
    assert log == ["open", "close"]


def test_an_unknown_resource_of_an_item_is_found_before_anything_runs(run, log):
    """A resource the items inject that nobody registered fails before anything runs."""

    @cs.task
    def item(x, missing=cs.inject("missing")):
        return x

    before = cs.task(lambda: log.append(1))()
    with pytest.raises(cs.ResourceNotFoundError, match="missing"):
        run([before, item.map(x=[1])])
    assert log == []


def test_the_same_items_run_as_often_as_they_stand_there(run, log):
    """Equal items are items each: an impure Task runs once for every one."""
    assert run(attempts(log, 0).map(x=[1, 1, 1])) == [1, 1, 1]
    assert log == [1, 1, 1]


@pytest.mark.parametrize("mode", ["inline", "thread"])
def test_items_run_in_the_tasks_mode(run, mode):
    """Items of a sync Task run in its mode."""
    doubled = cs.task(lambda x: 2 * x, mode=mode, name="doubled")
    assert run(doubled.map(x=range(20))) == list(range(0, 40, 2))
