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


def test_items_start_when_their_own_elements_are_there(run, work, log):
    """A map demands all its iterables at once, and an item needs no more than its elements."""
    run(work.map(delay=[1, 1], item=[work(2, "element"), work(5, "element")]))
    begin = log[0][0]
    starts = [start - begin for start, _, item in log if item != "element"]
    assert starts == pytest.approx([2, 5])


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


@cs.task
def three(x, y=0, *, z=0, **more):
    return (x, y, z, more) if more else (x, y, z)


class Shop:
    def __init__(self, name):
        self.name = name

    @cs.task
    def price(self, item, currency="EUR"):
        return f"{self.name} {item} {currency}"


@cs.resource
def discount():
    yield 5


UNMAPPED = {
    "a value": (lambda: pair.map(x=[1, 2], y=cs.unmapped(5)), [(1, 5), (2, 5)]),
    "the first": (lambda: pair.map(x=cs.unmapped(5), y=[1, 2]), [(5, 1), (5, 2)]),
    "a list": (lambda: pair.map(x=[1, 2], y=cs.unmapped([7])), [(1, [7]), (2, [7])]),
    "a str": (lambda: pair.map(x=[1, 2], y=cs.unmapped("ab")), [(1, "ab"), (2, "ab")]),
    "None": (lambda: pair.map(x=[1], y=cs.unmapped(None)), [(1, None)]),
    "an expression": (
        lambda: pair.map(x=[1, 2], y=cs.unmapped(items())),
        [(1, [1, 2, 3]), (2, [1, 2, 3])],
    ),
    "a map": (lambda: pair.map(x=[1], y=cs.unmapped(value.map(given=[1, 2]))), [(1, [1, 2])]),
    "within": (lambda: pair.map(x=[1], y=cs.unmapped({"k": [value(1), 2]})), [(1, {"k": [1, 2]})]),
    "a Param": (lambda: pair.map(x=[1], y=cs.unmapped(cs.Param("p", 3, type=int))), [(1, 3)]),
    "a resource": (
        lambda: pair.map(x=[1, 2], y=cs.unmapped(cs.inject("discount"))),
        [(1, 5), (2, 5)],
    ),
    "an iterable expression": (
        lambda: pair.map(x=items(), y=cs.unmapped(1)),
        [(1, 1), (2, 1), (3, 1)],
    ),
    "a keyword": (lambda: three.map(x=[1], z=cs.unmapped(2)), [(1, 0, 2)]),
    "more keywords": (
        lambda: three.map(x=[1], w=cs.unmapped(2), v=[3]),
        [(1, 0, 0, {"w": 2, "v": 3})],
    ),
    "a method": (lambda: Shop("A").price.map(item=["b"], currency=cs.unmapped("USD")), ["A b USD"]),
    "no items": (lambda: pair.map(x=[], y=cs.unmapped(5)), []),
    "a Router": (lambda: pair.map(x=[1], y=cs.unmapped(cs.Router("a", {"a": value(4)}))), [(1, 4)]),
}


@pytest.mark.parametrize(("make", "expected"), UNMAPPED.values(), ids=UNMAPPED)
def test_an_unmapped_argument_is_given_whole_to_every_item(run, make, expected):
    """`cs.unmapped(value)` is the same argument for all items, whatever it is."""
    assert run(make(), resources=[discount]) == expected
    assert run([make(), {"k": make()}], resources=[discount]) == [expected, {"k": expected}]
    assert run(make().copy(), resources=[discount]) == expected


def test_an_unmapped_value_is_the_same_object(run):
    """A literal is data: every item is given the object itself."""
    thing = [object()]
    first, second = run(pair.map(x=[1, 2], y=cs.unmapped(thing)))
    assert first[1] is second[1] is thing


def test_an_unmapped_expression_is_computed_once(run, log):
    """It is a node like any other, demanded when the map is, for all its items."""
    task = attempts(log, 0)
    shared = task("shared")
    assert run([shared, pair.map(x=range(4), y=cs.unmapped(shared))])[1][3] == (3, "shared")
    assert log == ["shared"]


def test_a_skipped_unmapped_argument_skips_the_map(run, log):
    """It is needed as any argument is."""
    task = attempts(log, 0)
    with pytest.raises(cs.DependencyMissingError, match="its y depends on value"):
        run(pair.map(x=[task(1)], y=cs.unmapped(value(2).run_if(False))))


def test_policies_and_loops_over_unmapped_arguments(run, log):
    """Retries, tail calls of an item and iterations around the map give the same value again."""

    @cs.task
    def down(n, log, step):
        log.append((n, step))
        return cs.TailCall((n - 1,)) if n else step

    assert run(down.map(n=[1, 0], log=cs.unmapped(log), step=cs.unmapped(value(3)))) == [3, 3]
    assert sorted(log) == [(0, 3), (0, 3), (1, 3)]

    @cs.task
    def total(values, n):
        return cs.Jump("again", {"n": n - 1}) if n else sum(sum(pair) for pair in values)

    loop = total(pair.map(x=[1, 2], y=cs.unmapped(value(5))), 40)
    assert run(cs.bind(loop, cs.select_jump({"again": loop}))) == 13


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: pair.map(x=cs.unmapped(1)), r"no items; write pair\(x=\.\.\.\)"),
        (lambda: pair.map(x=cs.unmapped([1]), y=cs.unmapped(2)), r"write pair\(x=\.\.\., y="),
        (lambda: Shop("A").price.map(item=cs.unmapped(1)), r"write price\(item=\.\.\.\)"),
        (lambda: pair.map(x=[1], q=cs.unmapped(1)), r"names no parameter 'q'"),
        (lambda: pair.map(y=[1]), r"cs\.unmapped\(value\), for each of 'x'"),
        (lambda: pair.map(x=[1], y=5), r"y=cs\.unmapped"),
        (lambda: pair.map(x="abc"), r"cs\.unmapped"),
        (lambda: pair.map(cs.unmapped(1)), r"by parameter name"),
    ],
)
def test_a_map_says_what_to_write(make, told):
    """Nothing to take item by item, or a value that is no iterable, is a `TypeError`."""
    with pytest.raises(TypeError, match=told):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: pair(cs.unmapped(1)),
        lambda: pair.map(x=[cs.unmapped(1)]),
        lambda: pair.map(x=[1], y=cs.unmapped(cs.unmapped(1))),
        lambda: pair(1).run_if(cs.unmapped(1)),
        lambda: pair(1).after(cs.unmapped(1)),
        lambda: cs.Router("a", {"a": cs.unmapped(1)}),
        lambda: cs.unmapped(1),
        lambda: [cs.unmapped(1)],
    ],
)
def test_unmapped_is_for_arguments_of_maps(run, log, make):
    """Anywhere else it is a `TypeError` before anything runs."""
    task = attempts(log, 0)
    with pytest.raises(TypeError, match=r"<unmapped 1> stands where .* task\.map\("):
        run([task(1), make()])
    assert log == []


def test_what_is_unmapped_is_structure(inside, use_vm):
    """One plan serves all values; whether an argument is taken whole is told apart."""
    engine = cs.Engine()
    lists = [[[1, 2], [3]], [[1], [2]]]
    whole = [pair.map(x=[1, 2], y=cs.unmapped(y)) for y in (*lists, [5])]
    taken = pair.map(x=[1, 2], y=[3, 4])

    async def main():
        for mapped in whole:
            await engine.run(mapped, use_vm=use_vm)
        return await engine.run(taken, use_vm=use_vm)

    assert inside(main) == [(1, 3), (2, 4)]
    assert (engine.statistics().plan_misses, engine.statistics().plan_hits) == (2, 2)


def test_pure_maps_with_equal_unmapped_arguments_are_one_node(run, log):
    """Equal arguments, taken alike, make one node of a pure Task's maps; others are two."""

    @cs.task(pure=True)
    def note(x, y=0):
        log.append(x)
        return (x, y)

    same = [note.map(x=(1,), y=cs.unmapped(5)), note.map(x=(1,), y=cs.unmapped(5))]
    assert run(same) == [[(1, 5)]] * 2
    assert run([note.map(x=(1,)), note.map(x=(1,), y=cs.unmapped(0))]) == [[(1, 0)]] * 2
    assert len(log) == 2
    run([note.map(x=(1,), y=cs.unmapped((5,))), note.map(x=(1,), y=(5,))])
    assert len(log) == 4


def test_unmapped_arguments_in_graphs_descriptions_and_pictures():
    """They are data edges by argument; the iterables of a map are told apart from them."""
    mapped = pair.map(x=value([1]), y=cs.unmapped(value(2)))
    built = cs.build_graph(mapped)
    edges = [(edge.source.id, edge.kind, edge.argument) for edge in built.graph.edges]
    assert edges == [("value#0", "data", "x"), ("value#1", "data", "y")]
    assert built.data == ([1], 2)
    (node,) = [each for each in cs.to_json(mapped)["nodes"] if each["kind"] == "map"]
    assert node["iterables"] == ["x"]
    assert "map over x" in str(cs.visualize(mapped))
    assert "map over x, y" not in str(cs.visualize(mapped))
    assert "pair" in cs.disassemble(mapped)
