"""Events kept, as plain data, as a timeline, as a trace, and by the nodes that they mean."""

import contextlib
import dataclasses
import itertools
import json
import logging

import anyio
import pytest

import building
import cascade as cs
from cascade.graph.reading import read
from cascade.graph.structure import Structure
from cascade.reports.attribution import Attribution, Meaning, general_id
from cascade.reports.blame import accounts_of, total_of, waits_of
from cascade.reports.history import runs_of
from cascade.testing import virtual_time
from programs import seeded


@pytest.fixture
def recorded(run):
    """Run a target, whatever becomes of it, and give its recording."""

    def recorded(target, **options):
        bus = cs.MessageBus()
        with cs.record(bus) as recording, contextlib.suppress(ValueError):
            run(target, bus=bus, **options)
        return recording

    return recorded


def attributed(target):
    """The nodes of a target, by the ids of its events."""
    return Attribution(Structure(read(target).key))


def failing(times, *, seconds=1.0):
    """A task that takes its time and fails so often before it succeeds."""
    calls = []

    @cs.task
    async def shaky(x=0):
        calls.append(x)
        await anyio.sleep(seconds)
        if len(calls) <= times:
            raise ValueError("not yet")
        return x

    return shaky


@cs.task
async def nap(seconds):
    await anyio.sleep(seconds)
    return seconds


@cs.task
async def join(*xs):
    await anyio.sleep(0.25)
    return xs


def spans(execution):
    return [(s.kind, s.start, s.end, s.attempt, s.status) for s in execution.spans]


# Recording


def test_a_recording_keeps_what_its_bus_tells(recorded):
    """A recording has every event of its bus, in order."""
    recording = recorded(nap(1))
    names = [type(event).__name__ for event in recording]
    assert names == ["RunStarted", "TaskExecutionStarted", "TaskExecutionFinished", "RunFinished"]
    assert len(recording) == 4


def test_a_recording_stops_at_the_end_of_its_block(run):
    """After its block a recording takes no event, and the bus no longer publishes for it."""
    bus = cs.MessageBus()
    with cs.record(bus) as recording:
        pass
    run(nap(1), bus=bus)
    assert list(recording) == []
    assert not bus.hears_tasks


def test_a_recording_is_bounded_and_counts_what_it_dropped(run):
    """The last events are kept: what a run came to tells more than how it began."""
    bus = cs.MessageBus()
    with cs.record(bus, limit=3) as recording:
        run([nap(n) for n in range(5)], bus=bus)
    assert (len(recording), recording.dropped) == (3, 9)
    assert isinstance(list(recording)[-1], cs.RunFinished)
    assert repr(recording) == "<Recording of 3 events, 9 dropped>"


@pytest.mark.parametrize("limit", [0, -1, 2.0, True, None])
def test_a_limit_is_a_whole_number_above_0(limit):
    """Any other limit of a recording is an error that names it."""
    with pytest.raises(ValueError, match="limit="):
        cs.record(cs.MessageBus(), limit=limit)


# Events as data


def test_events_become_what_json_takes(recorded):
    """Every field of every event, errors as type and message."""
    target = failing(2)(cs.Param("n", type=int)).with_retry(2)
    recording = recorded(target, params={"n": 5})
    for event in recording:
        told = cs.event_to_json(event)
        assert json.loads(json.dumps(told, allow_nan=False)) == told
        assert set(told) == {"event", *(each.name for each in dataclasses.fields(event))}
    told = [cs.event_to_json(event) for event in recording]
    assert told[0]["event"] == "RunStarted"
    assert told[0]["params"] == {"n": 5}
    assert told[-1]["error"] == {"type": "ValueError", "message": "not yet"}


def test_an_error_without_a_message_is_told():
    """Not even an error whose `__str__` raises stops a record."""

    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    told = cs.event_to_json(cs.RunFinished("r", 0.0, "Failed", 1.0, Mute()))
    assert told["error"]["message"] == "<no message: __str__ raised RuntimeError>"
    assert told["error"]["type"].endswith("Mute")


# Timelines


def test_an_execution_is_what_it_waited_for_and_its_attempts(recorded):
    """Waiting for inputs, parked, running, waiting to retry: one after the other, without gaps."""
    first = nap(2)
    second = failing(1)(first).with_retry(2, delay=0.5).with_constraints(gpu=1)
    other = nap(3).with_constraints(gpu=1)
    (run,) = runs_of(recorded([second, other], system_resources={"gpu": 1}))
    shaky = next(each for each in run.executions if each.task_name == "shaky")
    assert (shaky.waited_since, shaky.start) == (0.0, 2.0)
    assert spans(shaky) == [
        ("parked", 2.0, 3.0, 1, ""),
        ("running", 3.0, 4.0, 1, "Failed"),
        ("retrying", 4.0, 4.5, 2, ""),
        ("running", 4.5, 5.5, 2, "Succeeded"),
    ]
    assert "gpu" in shaky.spans[0].about
    assert shaky.spans[1].about == "ValueError: not yet"
    assert shaky.status == "Succeeded"
    assert (run.start, run.end, run.status) == (0.0, 5.5, "Succeeded")


def test_each_iteration_is_an_execution(recorded):
    """In a loop, a node waits for its inputs since its execution before."""

    @cs.task
    async def count(n):
        await anyio.sleep(1)
        return cs.Jump("again", n - 1) if n else cs.Jump("out", "done")

    node = count(2)
    cs.bind(node, cs.select_jump({"again": node, "out": None}))
    (run,) = runs_of(recorded(node))
    assert [(e.waited_since, e.start, e.end) for e in run.executions] == [
        (0.0, 0.0, 1.0),
        (1.0, 1.0, 2.0),
        (2.0, 2.0, 3.0),
    ]


def test_what_is_not_over_ends_with_the_events(recorded):
    """A recording cut off before the end shows what was running and what was parked."""
    recording = recorded(
        [nap(5).with_constraints(gpu=1) for _ in range(2)] + [nap(3)], system_resources={"gpu": 1}
    )
    events = [event for event in recording if event.timestamp <= 3.0]
    (run,) = runs_of(events)
    assert run.status == "Running"
    # That one is parked may be published before the one that goes first has started.
    executions = sorted(run.executions, key=lambda e: e.task_id)
    assert [(e.status, e.end, e.spans[-1].is_open) for e in executions] == [
        ("Running", 3.0, True),
        ("Waiting", 3.0, True),
        ("Succeeded", 3.0, False),
    ]


def test_what_waits_when_a_run_ends_is_cancelled(recorded):
    """Parked or between two attempts: it was never let in again, and is not open."""
    target = [nap(9).with_constraints(gpu=1), nap(8).with_constraints(gpu=1)]
    target += [failing(1)(1).with_retry(2, delay=50), failing(1, seconds=3)(2)]
    (run,) = runs_of(recorded(target, system_resources={"gpu": 1}))
    assert run.status == "Failed"
    assert {(e.task_id, e.status, e.spans[-1].kind, e.end) for e in run.executions} == {
        ("nap#0", "Cancelled", "running", 3.0),
        ("nap#1", "Cancelled", "parked", 3.0),
        ("shaky#2", "Cancelled", "retrying", 3.0),
        ("shaky#3", "Failed", "running", 3.0),
    }
    assert not any(span.is_open for each in run.executions for span in each.spans)


def test_the_beginning_may_be_missing(recorded):
    """An attempt that is known only by its end began its duration earlier, and so did the run."""
    events = [e for e in recorded(nap(2)) if not type(e).__name__.endswith("Started")]
    (run,) = runs_of(events)
    (execution,) = run.executions
    assert spans(execution) == [("running", 0.0, 2.0, 1, "Succeeded")]
    assert (run.start, run.end) == (0.0, 2.0)


def test_runs_are_told_apart(run):
    """Events of several runs are sorted by run."""
    bus = cs.MessageBus()
    with cs.record(bus) as recording:
        run(nap(1), bus=bus)
        run([nap(1), nap(2)], bus=bus)
    assert [len(each.executions) for each in runs_of(recording)] == [1, 2]


# Accounts


def test_accounts_are_sums_by_task(recorded):
    """The items of a map are one account; every second of an execution is in one column."""
    target = join(nap.map(seconds=[1, 2, 3]).with_constraints(gpu=1))
    (run,) = runs_of(recorded(target, system_resources={"gpu": 1}))
    accounts = {account.name: account for account in accounts_of(run)}
    naps = accounts["nap#0[*]/nap#0"]
    assert (len(naps.executions), naps.attempts, naps.failures) == (3, 3, 0)
    assert (naps.inputs, naps.parked, naps.retrying, naps.running) == (0.0, 1.0 + 3.0, 0.0, 6.0)
    last = accounts["join#1"]
    assert (last.inputs, last.running) == (6.0, 0.25)
    total = total_of(list(accounts.values()), "sum")
    assert (total.inputs, total.parked, total.running) == (6.0, 4.0, 6.25)


def test_retries_and_skips_are_counted(recorded):
    """Each node's account has its attempts, failures, skips, and the time it ran and paused."""
    target = [failing(2)(1).with_retry(3, delay=2), nap(1).run_if(False, default=0)]
    (run,) = runs_of(recorded(target))
    accounts = {account.name: account for account in accounts_of(run)}
    shaky = accounts["shaky#0"]
    assert (shaky.attempts, shaky.failures, shaky.retrying, shaky.running) == (3, 2, 4.0, 3.0)
    assert (accounts["nap#1"].skips, accounts["nap#1"].attempts) == (1, 0)


def test_what_was_recovered_from_is_no_failure_of_the_execution(recorded):
    """Its attempts failed, as records and traces tell; a loop without an end is told too."""

    @cs.task
    def forever(n=0):
        return cs.TailCall((n + 1,))

    nodes = [failing(2)().with_retry(2).settled(), forever().with_fallback(0)]
    events = recorded(nodes, max_steps=3)
    (run,) = runs_of(events)
    (shaky,) = [each for each in run.executions if each.task_name == "shaky"]
    assert (shaky.status, shaky.attempts) == ("Recovered", 2)
    assert [span.is_answered for span in shaky.spans if span.status] == [False, True]
    assert [each.task_id for each in run.recoveries] == ["forever#1", "shaky#0"]
    account = next(each for each in accounts_of(run) if each.recoveries)
    assert (account.failures, account.recoveries) == (2, 1)
    trace = cs.chrome_trace(events)["traceEvents"]
    assert sum(each.get("args", {}).get("is_recovered", False) for each in trace) == 1
    marks = [each["name"] for each in trace if each.get("cat") == "recovered"]
    assert marks == ["forever#1", "shaky#0"]
    told = [cs.event_to_json(e) for e in events if isinstance(e, cs.TaskRecovered)]
    assert told[1]["error"] == {"type": "ValueError", "message": "not yet"}


def test_waits_are_sums_by_reason(recorded):
    """Waits add up by what was waited for, with the longest and who had it."""
    naps = nap.map(seconds=[1, 2, 4]).with_constraints(gpu=1)
    target = [naps, failing(1)(1).with_retry(2, delay=0.5)]
    waits = waits_of(runs_of(recorded(target, system_resources={"gpu": 1}))[0])
    assert [(w.count, w.total, w.longest, w.who) for w in waits] == [
        (2, 4.0, 3.0, "nap#0[2]/nap#0"),
        (1, 0.5, 0.5, "shaky#1"),
    ]
    assert "gpu" in waits[0].reason
    assert waits[1].reason == "retry delay after ValueError"


# Traces


def test_a_trace_has_a_lane_for_what_runs_at_a_time(recorded):
    """Slices of one lane do not overlap; there are as many as run at once."""
    naps = nap.map(seconds=[1, 2, 3, 4]).with_constraints(gpu=1)
    recording = recorded(
        join(naps, failing(1)(1).with_retry(2, delay=0.5)), system_resources={"gpu": 2}
    )
    trace = cs.chrome_trace(recording)
    json.dumps(trace, allow_nan=False)
    events = trace["traceEvents"]
    slices = [each for each in events if each["ph"] == "X"]
    assert {each["pid"] for each in events} == {1}
    assert [each["name"] for each in slices if each["tid"] == 0] == ["join"]
    lanes = {}
    for each in slices:
        lanes.setdefault(each["tid"], []).append((each["ts"], each["ts"] + each["dur"]))
    for lane in lanes.values():
        lane.sort()
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(lane))
    assert sorted(lanes) == [0, 1, 2, 3, 4, 5]
    named = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert named == {"run", *(f"lane {n}" for n in range(1, 6))}


def test_a_trace_shows_waits_and_retry_delays(recorded):
    """In microseconds, with what was waited for."""
    target = [nap(1).with_constraints(gpu=1), failing(1)(1).with_retry(2, delay=0.5)]
    target[1].with_constraints(gpu=1)
    events = cs.chrome_trace(recorded(target, system_resources={"gpu": 1}))["traceEvents"]
    told = [
        (e["name"], e["ts"], e["dur"], e["args"].get("status"))
        for e in events
        if e["ph"] == "X" and e["name"].startswith("shaky")
    ]
    assert told == [
        ("shaky waits", 0.0, 1e6, None),
        ("shaky", 1e6, 1e6, "Failed"),
        ("shaky waits to retry", 2e6, 5e5, None),
        ("shaky", 2.5e6, 1e6, "Succeeded"),
    ]
    assert any("gpu" in e["args"].get("reason", "") for e in events if e["ph"] == "X")


def test_a_trace_shows_resources_and_skips(recorded):
    """A trace has a span for each resource and an instant for each skip."""

    @cs.resource
    def db():
        yield 1

    @cs.task
    async def use(x, db=cs.inject("db")):
        await anyio.sleep(2)

    target = [use(1), nap(1).run_if(False, default=0)]
    events = cs.chrome_trace(recorded(target, resources=[db]))["traceEvents"]
    resource = [(e["ph"], e["ts"]) for e in events if e.get("cat") == "resource"]
    assert resource == [("b", 0.0), ("e", 2e6)]
    (skip,) = [e for e in events if e["ph"] == "i"]
    assert (skip["name"], skip["args"]) == ("nap#1", {"reason": "ConditionFalse"})


# Which node an id means


def test_ids_lead_to_their_nodes(recorded):
    """Through loops and maps to the node of the graph; what is inside of a node leads to it."""

    @cs.task
    def decide(x):
        return cs.Jump("on", 1) if x == 0 else cs.Jump("out", 2)

    @cs.task
    def returns(x):
        return join(x)

    loop, route = decide(0), decide(join(7))
    cs.bind(loop, cs.select_jump({"on": route, "out": None}))
    cs.bind(route, cs.select_jump({"on": route, "out": None}))
    target = returns(join(loop, nap.map(seconds=[1, 2])))
    attribution = attributed(target)
    found = {
        event.task_id: attribution.meaning_of(event.task_id)
        for event in recorded(target)
        if isinstance(event, cs.TaskExecutionStarted)
    }
    ids = {node.id for node in cs.build_graph(target).graph.nodes}
    assert ids == {"decide#0", "nap#1", "join#2", "returns#3"}
    assert found == {
        "decide#0/decide#0": Meaning("decide#0", True),
        "decide#0/decide#1": Meaning("decide#5", True),
        "nap#1[0]/nap#0": Meaning("nap#1", False),
        "nap#1[1]/nap#0": Meaning("nap#1", False),
        "join#2": Meaning("join#2", True),
        "returns#3": Meaning("returns#3", True),
        "returns#3/join#0": Meaning("returns#3", False),
    }
    assert attribution.meaning_of("nobody#0") == Meaning(None, False)


def test_nodes_of_a_loop_may_share_an_id(recorded):
    """Each iteration counts its own nodes, so that two routes may give two nodes one id."""

    @cs.task
    def count(n):
        return cs.Jump("again", n - 1) if n else cs.Jump("out", n)

    first, again = count(1), count(0)
    for node in (first, again):
        cs.bind(node, cs.select_jump({"again": again, "out": None}))
    attribution = attributed(first)
    found = {
        attribution.meaning_of(event.task_id)
        for event in recorded(first)
        if isinstance(event, cs.TaskExecutionStarted)
    }
    assert found == {Meaning("count#0", False, ("count#1",))}


def test_names_may_look_like_ids(recorded):
    """A name may hold slashes, brackets and numbers."""
    named = cs.task(nap.func, name="a#1/b[2]/c#0")
    target = join(named(1), named.map(seconds=[1]))
    attribution = attributed(target)
    found = {
        attribution.meaning_of(event.task_id)
        for event in recorded(target)
        if isinstance(event, cs.TaskExecutionStarted)
    }
    assert found == {
        Meaning("a#1/b[2]/c#0#0", True),
        Meaning("a#1/b[2]/c#0#1", False),
        Meaning("join#2", True),
    }


def test_general_ids_leave_the_item_out():
    """Items of a map share an id with `*` for the number; brackets in a name stay."""
    assert general_id("a#0[12]/b#1[3]/c#0") == "a#0[*]/b#1[*]/c#0"
    assert general_id("a[1]#0") == "a[1]#0"


@pytest.mark.timeout(120)
def test_every_event_leads_to_a_node_of_its_name(use_vm):
    """Programs drawn at random: an exact node has the name of the event's task."""
    logging.disable(logging.CRITICAL)
    exact = 0

    async def watch(program, target, recording_bus):
        engine = cs.Engine(bus=recording_bus, system_resources=dict(program.capacity))
        for definition in building.PROVIDED:
            engine.register(definition)
        with anyio.move_on_after(1000):
            await engine.run(
                target, params=dict(program.given), use_vm=use_vm, max_steps=program.max_steps or 50
            )

    for seed in range(150):
        program = seeded(seed)
        if program.features & {"tail target", "tail overrides"}:
            continue
        building.use(program)
        bus = cs.MessageBus()
        with cs.record(bus) as recording:
            try:
                target = building.build(program)
                attribution = attributed(target)
                anyio.run(watch, program, target, bus, backend_options=virtual_time("asyncio"))
            except Exception:  # what fails is recorded like the rest
                pass
        if not len(recording):
            continue
        names = {node["id"]: node["name"] for node in cs.to_json(target)["nodes"]}
        for event in recording:
            if isinstance(event, cs.TaskEvent):
                meaning = attribution.meaning_of(event.task_id)
                assert meaning.node is not None, event.task_id
                assert set(meaning.others) <= set(names)
                if meaning.is_exact:
                    exact += 1
                    assert names[meaning.node] == event.task_name
        cs.chrome_trace(recording)
    logging.disable(logging.NOTSET)
    assert exact > 200
