"""Events: what is published, in which order and under which ids (section 14)."""

import contextlib
import dataclasses
import logging
import time

import anyio
import pytest

import cascade as cs
from cascade.core.services import FusedTier

TASK_EVENTS = [
    cs.TaskBlocked,
    cs.TaskExecutionStarted,
    cs.TaskExecutionFinished,
    cs.TaskRetrying,
    cs.TaskSkipped,
]
RUN_EVENTS = [cs.RunStarted, cs.RunFinished, cs.ResourceAcquired, cs.ResourceReleased]


@pytest.fixture
def watch(run):
    """Run a target and give the events of it, of the types asked for, in order."""

    def watch(target, *types, **options):
        bus, events = cs.MessageBus(), []
        for kind in types or TASK_EVENTS:
            bus.subscribe(kind, events.append)
        with contextlib.suppress(ValueError, cs.DependencyMissingError):
            run(target, bus=bus, **options)
        return events

    return watch


def brief(event):
    """The type of an event without its prefix, and what is certain of its fields."""
    name = type(event).__name__.removeprefix("Task")
    match event:
        case cs.TaskExecutionStarted():
            return name, event.attempt
        case cs.TaskExecutionFinished():
            return name, None if event.error is None else str(event.error)
        case cs.TaskRetrying():
            return name, event.delay, event.max_attempts, str(event.error)
        case cs.TaskSkipped():
            return name, event.reason
    return (name,)


def node_of(failures=0):
    """A task `node` that fails `failures` times."""
    calls = []

    @cs.task
    async def node(x=0):
        calls.append(x)
        if len(calls) <= failures:
            raise ValueError(f"failure {len(calls)}")
        return x

    return node


@cs.task
async def hold():
    await anyio.sleep(5)


@cs.task
async def other(*args):
    await anyio.lowlevel.checkpoint()
    return args


class Hits:
    """A cache that has everything."""

    async def get(self, key):
        return cs.Hit("cached")

    async def put(self, key, value):
        raise AssertionError


START, FINISH = ("ExecutionStarted", 1), ("ExecutionFinished", None)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: node_of()(), [START, FINISH]),
        (lambda: node_of(1)(), [START, ("ExecutionFinished", "failure 1")]),
        (
            lambda: node_of(2)().with_retry(5, delay=2, backoff=2),
            [
                START,
                ("ExecutionFinished", "failure 1"),
                ("Retrying", 2, 5, "failure 1"),
                ("ExecutionStarted", 2),
                ("ExecutionFinished", "failure 2"),
                ("Retrying", 4, 5, "failure 2"),
                ("ExecutionStarted", 3),
                FINISH,
            ],
        ),
        (
            lambda: node_of(9)().with_retry(2, delay=1),
            [
                START,
                ("ExecutionFinished", "failure 1"),
                ("Retrying", 1, 2, "failure 1"),
                ("ExecutionStarted", 2),
                ("ExecutionFinished", "failure 2"),
            ],
        ),
        (lambda: node_of()().run_if(False), [("Skipped", "ConditionFalse")]),
        (lambda: node_of()().run_if(False, default=1), [("Skipped", "ConditionFalse")]),
        (
            lambda: node_of()(hold().run_if(False)),
            [("Skipped", "UpstreamSkipped_Data")],
        ),
        (lambda: node_of()().with_cache(Hits()), [("Skipped", "CacheHit")]),
        (
            lambda: [
                hold().with_constraints(gpu=1),
                node_of()().with_constraints(gpu=1).after(other()),
            ],
            [("Blocked",), START, FINISH],
        ),
        (lambda: node_of().map(x=[1, 2]).run_if(False), [("Skipped", "ConditionFalse")]),
        (lambda: node_of().map(x=[]), []),
        (lambda: cs.Router("a", routes={"a": 1, "b": node_of()()}), [("Skipped", "Pruned")]),
    ],
    ids=[
        "success",
        "failure",
        "retries",
        "retries in vain",
        "condition",
        "default",
        "upstream",
        "cache hit",
        "parked",
        "skipped map",
        "empty map",
        "pruned",
    ],
)
def test_a_node_publishes_one_sequence(watch, make, expected):
    """Blocked once a parking; Started, Finished per attempt and Retrying between; or Skipped."""
    events = watch(make(), system_resources={"gpu": 1})
    assert [brief(event) for event in events if event.task_name == "node"] == expected


def test_a_parked_attempt_says_what_blocks_it(watch):
    """The reason of TaskBlocked names the capacity or the constraint."""
    by_capacity = [hold().with_constraints(gpu=1), hold().with_constraints(gpu=1)]
    (event,) = watch(by_capacity, cs.TaskBlocked, system_resources={"gpu": 1})
    assert "gpu" in event.reason
    limit = cs.GlobalConstraint("my limit", "task:hold", "concurrency", {"limit": 1})
    (event,) = watch([hold(), hold()], cs.TaskBlocked, constraints=[limit])
    assert event.reason == "concurrency 'my limit' on 'task:hold'"
    unnamed = cs.GlobalConstraint("concurrency:global", "global", "concurrency", {"limit": 1})
    (event,) = watch([hold(), hold()], cs.TaskBlocked, constraints=[unnamed])
    assert event.reason == "concurrency on 'global'"


def test_task_ids_are_names_and_positions_in_plan_order(watch):
    """`name#k`, k being the position among the nodes of the graph."""
    node = node_of()
    target = [other(node(), hold()), node()]
    events = watch(target, cs.TaskExecutionStarted)
    names = [n.name for n in cs.build_graph(target).graph.nodes]
    assert names == ["node", "hold", "other", "node"]
    assert {event.task_id for event in events} == {"node#0", "hold#1", "other#2", "node#3"}
    assert all(event.task_id.partition("#")[0] == event.task_name for event in events)


def test_ids_of_map_items_begin_with_that_of_the_map(watch):
    """An item's id is prefixed by the map's id and the item's index."""
    target = other(node_of().map(x=[1, 2, 3]))
    events = watch(target, cs.TaskExecutionStarted)
    items = [event for event in events if event.task_name == "node"]
    assert len(items) == 3
    prefixes = {event.task_id.rpartition("/")[0] for event in items}
    assert prefixes == {"node#0[0]", "node#0[1]", "node#0[2]"}


@pytest.mark.parametrize("kind", ["jump", "tail call"])
def test_ids_are_the_same_in_each_iteration(watch, kind):
    """What runs in every iteration has one id, which differs from that of other nodes."""

    @cs.task
    def node(n, needed):
        if n == 4:
            return n
        return cs.Jump("again", {"n": n + 1}) if kind == "jump" else cs.TailCall((n + 1,))

    looped = node(1, other())
    cs.bind(looped, cs.select_jump({"again": looped}))
    events = watch([looped, other()], cs.TaskExecutionStarted)
    ids = {}
    for event in events:
        ids.setdefault(event.task_id, []).append(event.task_name)
    assert sorted(ids.values()) == [["node"] * 4, ["other"], ["other"] * 4]


def test_a_run_is_told_from_start_to_finish(watch):
    """RunStarted and RunFinished are the first and the last of a run, with one id and its times."""
    events = watch(
        hold(), cs.RunStarted, cs.RunFinished, cs.TaskExecutionStarted, cs.TaskExecutionFinished
    )
    started, _, last, finished = events
    assert (started.target, dict(started.params)) == ("hold", {})
    assert (finished.status, finished.error) == ("Succeeded", None)
    assert finished.duration == pytest.approx(5)
    assert last.duration == pytest.approx(5)
    assert len({event.run_id for event in events}) == 1
    assert [e.timestamp - started.timestamp for e in events] == pytest.approx([0, 0, 5, 5])


def test_params_are_told(watch):
    """RunStarted carries the params of the run."""
    (event,) = watch(other(cs.Param("p")), cs.RunStarted, params={"p": "v"})
    assert dict(event.params) == {"p": "v"}


def test_cancelled_attempts_are_told_too(watch):
    """Every attempt that started has finished when its run has, whatever ended it."""

    @cs.task
    async def fails():
        await anyio.sleep(1)
        raise ValueError

    events = watch([hold(), fails(), hold()])
    counts = dict.fromkeys(TASK_EVENTS, 0)
    for event in events:
        counts[type(event)] += 1
    assert counts[cs.TaskExecutionStarted] == counts[cs.TaskExecutionFinished] == 3


def test_runs_differ_by_their_id(watch):
    """Each run has an id of its own."""
    ids = {watch(hold(), cs.RunStarted)[0].run_id for _ in range(3)}
    assert len(ids) == 3


def test_events_are_frozen(watch):
    """No field of an event can be changed."""

    @cs.resource
    def db():
        yield 1

    node = node_of(1)
    target = [
        node(cs.inject("db")).with_retry(2).with_constraints(gpu=1),
        hold().with_constraints(gpu=1),
        hold().run_if(False, default=1),
    ]
    events = watch(target, *TASK_EVENTS, *RUN_EVENTS, resources=[db], system_resources={"gpu": 1})
    assert {type(event) for event in events} == {*TASK_EVENTS, *RUN_EVENTS}
    for event in events:
        for field in dataclasses.fields(event):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(event, field.name, None)


def test_a_base_class_receives_its_subclasses(watch):
    """Who subscribes to the base of all events receives all of them."""
    (base,) = (k for k in cs.RunStarted.__mro__[1:] if k is not object)
    everything = watch(node_of(1)().with_retry(2), base)
    some = watch(node_of(1)().with_retry(2), *TASK_EVENTS, *RUN_EVENTS)
    assert [type(event) for event in everything] == [type(event) for event in some]


@dataclasses.dataclass(frozen=True)
class Progress(cs.TaskSkipped):
    """An event of an extension."""

    percent: int = 0


def test_extensions_publish_events_of_their_own():
    """`publish` hands an event to the subscribers of its class and of its bases only."""
    bus, received = cs.MessageBus(), []
    for kind in (cs.TaskSkipped, Progress, cs.TaskRetrying):
        bus.subscribe(kind, lambda event, kind=kind: received.append((kind, event)))
    event = Progress("run", 0.0, "f#0", "f", "reason", percent=5)
    bus.publish(event)
    assert received == [(cs.TaskSkipped, event), (Progress, event)]


def test_unsubscribing_ends_a_subscription(run):
    """The function that `subscribe` returns takes back this subscription only."""
    bus, one, two = cs.MessageBus(), [], []
    unsubscribe = bus.subscribe(cs.TaskExecutionStarted, one.append)
    bus.subscribe(cs.TaskExecutionStarted, two.append)
    run(other(), bus=bus)
    unsubscribe()
    run(other(), bus=bus)
    assert (len(one), len(two)) == (1, 2)


EVERY_EVENT = [*RUN_EVENTS, *TASK_EVENTS, cs.Event]


class Grave(BaseException):
    """No `Exception`."""


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, GeneratorExit, Grave])
@pytest.mark.parametrize("shape", ["one", "several", "loop"])
@pytest.mark.parametrize("kind", EVERY_EVENT, ids=lambda kind: kind.__name__)
def test_whatever_a_subscriber_raises_leaves_the_engine_usable(
    inside, use_vm, caplog, kind, raised, shape
):
    """The run is torn down; what is for the whole program comes out, nothing else ends the run."""
    caplog.set_level(logging.CRITICAL + 1, "cascade")
    living = []

    @cs.resource(scope="step")
    async def thing():
        living.append("thing")
        try:
            yield "thing"
        finally:
            await anyio.sleep(1)
            living.remove("thing")

    @cs.task
    async def uses(thing, _x=None):
        await anyio.sleep(1)
        return thing

    @cs.task
    def flaky(state):
        state.append(1)
        if len(state) < 2:
            raise ValueError
        return len(state)

    @cs.task
    def step(n):
        return cs.Jump("again", n + 1) if n < 300 else n

    def target():
        several = [
            uses(cs.inject("thing"), flaky([]).with_retry(2)).with_constraints(gpu=1),
            uses("other").with_constraints(gpu=1).run_if(True),
            uses("never").run_if(False).after(flaky([1])),
        ]
        node = step(0)
        cs.bind(node, cs.select_jump({"again": node}))
        return {"one": uses("x"), "several": several[:2], "loop": node}[shape]

    async def program():
        engine = cs.Engine(system_resources={"gpu": 1})
        engine.register(thing)
        raising = [True]

        def handler(_event):
            if raising:
                raise raised("from a subscriber")

        unsubscribe = engine.bus.subscribe(kind, handler)
        everybody = {task.id for task in anyio.get_running_tasks()}
        ended_by = None
        try:
            await engine.run(target(), use_vm=use_vm)
        except (KeyboardInterrupt, SystemExit) as error:
            ended_by = type(error)
        is_for_all = raised in (KeyboardInterrupt, SystemExit) and engine.bus.failures
        assert ended_by is (raised if is_for_all else None)
        raising.clear()
        unsubscribe()
        assert living == []
        assert {task.id for task in anyio.get_running_tasks()} == everybody
        assert engine.constraints.statistics().free["gpu"] == 1
        assert engine.constraints.statistics().parked == 0
        with anyio.fail_after(10):
            whole = uses("whole").with_constraints(gpu=1)
            assert await engine.run([whole], use_vm=use_vm) == ["whole"]

    inside(program)


@pytest.mark.parametrize("kind", [*TASK_EVENTS[1:3], *RUN_EVENTS[:2]])
def test_a_subscriber_that_raises_is_logged_and_stops_nothing(run, caplog, kind):
    """The run goes on, and the other subscribers receive the event."""
    bus, received = cs.MessageBus(), []

    def breaks(event):
        raise RuntimeError("broken subscriber")

    bus.subscribe(kind, breaks)
    bus.subscribe(kind, received.append)
    with caplog.at_level(logging.WARNING):
        assert run(other(1), bus=bus) == (1,)
    assert "broken subscriber" in caplog.text
    assert len(received) == 1


@pytest.mark.parametrize("seconds", [0.0, 0.15])
def test_a_task_that_holds_the_loop_is_told(backend, use_vm, caplog, seconds):
    """TaskStalled: an inline sync task took longer than 100 ms of real time."""

    @cs.task
    def node():
        time.sleep(seconds)

    bus, events = cs.MessageBus(), []
    bus.subscribe(cs.TaskStalled, events.append)
    cs.run([node(), node()], use_vm=use_vm, backend=backend, bus=bus)
    if not seconds:
        assert events == []
        return
    assert [event.task_name for event in events] == ["node", "node"]
    assert all(event.duration >= 0.1 for event in events)


def test_a_thread_that_takes_long_is_not_told(backend, use_vm):
    """Only inline sync tasks hold the loop."""

    @cs.task(mode="thread")
    def node():
        time.sleep(0.15)

    bus, events = cs.MessageBus(), []
    bus.subscribe(cs.TaskStalled, events.append)
    cs.run(node(), use_vm=use_vm, backend=backend, bus=bus)
    assert events == []


@pytest.mark.parametrize("hot_after", [0, 10**9])
@pytest.mark.parametrize("kind", ["async", "inline", "awaitable", "retried"])
def test_an_attempt_heard_of_in_its_middle_lasts_from_its_start(inside, use_vm, kind, hot_after):
    """Who subscribes during an attempt hears its true duration, of a later attempt too."""
    events = []
    engine = cs.Engine()
    engine.services.fused_tier = FusedTier(hot_after)

    def listen():
        engine.bus.subscribe(cs.TaskExecutionFinished, events.append)

    async def slow():
        await anyio.sleep(2)
        listen()
        await anyio.sleep(1)

    @cs.task(name="watched")
    async def suspends():
        await slow()

    @cs.task(name="watched")
    def inline():
        listen()

    @cs.task(name="watched")
    def awaitable():
        return slow()

    @cs.task(name="watched")
    async def fails(tried):
        await anyio.sleep(5)
        tried.append(1)
        if len(tried) == 1:
            raise OSError("once")
        await slow()

    node, expected = {
        "async": (suspends(), 3),
        "inline": (inline(), 0),
        "awaitable": (awaitable(), 3),
        "retried": (fails([]).with_retry(2), 8),
    }[kind]

    async def main():
        await anyio.sleep(100)
        await engine.run(node, use_vm=use_vm)

    inside(main)
    assert [event.duration for event in events] == [pytest.approx(expected, abs=1e-6)]
