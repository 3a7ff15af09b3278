"""Section 17: groups, firsts, and failures that end the scope they stand in and nothing else."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import anyio
import pytest

import cascade as cs
from cascade.testing import assert_strategies_agree, virtual_time


class Broken(Exception):
    """What the tasks below fail with."""


@cs.task
def inline(x: Any = 0) -> Any:
    return x


@cs.task
def fails(x: Any = 0) -> Any:
    raise Broken(x)


@cs.task
async def fails_after(seconds: float, x: Any = 0) -> Any:
    await anyio.sleep(seconds)
    raise Broken(x)


@cs.task
async def after(seconds: float, x: Any = 0) -> Any:
    await anyio.sleep(seconds)
    return x


@cs.task
def collect(*values: Any) -> list[Any]:
    return list(values)


@cs.task
def step(n: int) -> Any:
    return cs.Jump("again", {"n": n + 1}) if n < 300 else n


def loop() -> Any:
    node = step(0)
    return cs.bind(node, cs.select_jump({"again": node}))


class Log:
    """What happened: starts and ends of attempts, in order."""

    def __init__(self) -> None:
        self.bus = cs.MessageBus()
        self.events: list[tuple[str, str]] = []
        self.bus.subscribe(
            cs.TaskExecutionStarted, lambda e: self.events.append((e.task_id, "Started"))
        )
        self.bus.subscribe(
            cs.TaskExecutionFinished, lambda e: self.events.append((e.task_id, e.status))
        )

    def of(self, status: str) -> list[str]:
        return [task_id for task_id, each in self.events if each == status]


def test_a_group_has_the_value_of_its_expression(run):
    """Whatever that is: a call, a container, a loop, a map, a Router, a Param, a literal."""
    target = {
        "call": cs.group(collect(inline(1), after(1, 2))),
        "container": cs.group([inline(1), {"k": after(1, 2)}]),
        "loop": cs.group(loop()),
        "map": cs.group(inline.map(x=[1, 2])),
        "router": cs.group(cs.Router(inline(1), {1: inline("one")})),
        "param": cs.group(cs.Param("p", 3)),
        "literal": cs.group([1, 2]),
        "group": cs.group(cs.group(inline(7))),
    }
    assert run(target) == {
        "call": [1, 2],
        "container": [1, {"k": 2}],
        "loop": 300,
        "map": [1, 2],
        "router": "one",
        "param": 3,
        "literal": [1, 2],
        "group": 7,
    }


@pytest.mark.parametrize("failing", [fails(1), fails_after(1, 1)], ids=["inline", "async"])
def test_a_failure_ends_the_group_and_nothing_else(run, failing):
    """What runs in it is cancelled and awaited; what runs beside it goes on."""
    log = Log()
    target = [cs.group([failing, after(9, "inside")]).with_fallback("f"), after(5, "beside")]
    assert run(target, bus=log.bus) == ["f", "beside"]
    assert "after#1" in log.of("Succeeded")
    assert set(log.of("Cancelled")) <= {"group#0/after#1"}
    assert "group#0" in log.of("Failed")


def test_an_unanswered_failure_ends_the_run_as_itself(run):
    """The same object, with notes that name the task, its path, and what came meanwhile."""
    with pytest.raises(Broken) as raised:
        run([cs.group(cs.group(fails_after(1, "x"))), after(9)])
    named = [note.partition(", attempt")[0] for note in raised.value.__notes__]
    assert named == [
        "in task 'fails_after' (group#0/group#0/fails_after#0)",
        "in task 'group' (group#0/group#0)",
        "in task 'group' (group#0)",
    ]


def test_chain_methods_apply_to_the_group_as_a_whole(run):
    """A retry evaluates it anew; a timeout bounds all of it; settled takes its failure."""
    attempts: list[int] = []

    @cs.task
    def flaky() -> int:
        attempts.append(1)
        if len(attempts) < 3:
            raise Broken(len(attempts))
        return len(attempts)

    log = Log()
    assert run(cs.group([inline(), flaky()]).with_retry(3), bus=log.bus) == [0, 3]
    assert log.of("Started").count("group#0/inline#0") == 3
    outcome = run(cs.group([after(3), after(99)]).with_timeout(5).settled())
    assert isinstance(outcome.error, cs.TaskTimeoutError)
    skipped = cs.group(fails()).run_if(False, default="d")
    assert run([skipped, cs.group(inline(1)).after(inline())]) == ["d", 1]


def test_a_retry_of_a_group_waits_between_its_attempts(run):
    """And is published like that of any task."""
    seen: list[float] = []

    @cs.task
    async def timed() -> None:
        seen.append(anyio.current_time())
        raise Broken

    with pytest.raises(Broken):
        run(cs.group(timed()).with_retry(3, delay=10))
    assert [second - first for first, second in pairwise(seen)] == [10, 10]


def test_its_step_resources_are_its_own_and_hear_of_its_failure(run):
    """They are set up for each attempt, and torn down before anybody has the outcome."""
    happened: list[str] = []

    @cs.resource(name="own", scope="step")
    def own() -> Any:
        happened.append("up")
        try:
            yield "own"
        except Broken as error:
            happened.append(f"thrown {error}")
            raise
        finally:
            happened.append("down")

    @cs.task
    async def uses(own: Any = cs.inject("own")) -> None:
        await anyio.sleep(1)
        raise Broken("x")

    @cs.task
    def outcome(_: Any) -> None:
        happened.append("outcome")

    target = outcome(cs.group(uses()).with_retry(2).settled())
    run(target, resources=[own])
    assert happened == [*["up", "thrown x", "down"] * 2, "outcome"]


def test_capacity_is_held_while_it_runs_and_back_before_its_outcome(run):
    """A group takes capacity like a call; what waits for its outcome may take it at once."""
    big = cs.group([after(5), inline()]).with_constraints(gpu=1)
    assert run([big, after(1, "small").with_constraints(gpu=1)], system_resources={"gpu": 1})
    failed = cs.group(fails_after(1)).with_constraints(gpu=1).settled()
    assert run(collect(failed).with_constraints(gpu=1), system_resources={"gpu": 1})


def test_what_waits_in_a_failed_group_leaves_the_line(run):
    """Its calls at the gate hold up nobody any more."""
    gpu = {"gpu": 1}
    inside = [fails_after(1), after(0, "never").with_constraints(**gpu)]
    target = [
        after(3, "holder").with_constraints(**gpu),
        cs.group(inside).with_fallback("f"),
        cs.group(after(2, "other")).with_constraints(**gpu),
    ]
    log = Log()
    assert run(target, bus=log.bus, system_resources=gpu) == ["holder", "f", "other"]
    assert "group#1/after#1" not in log.of("Started")


def test_a_call_that_waits_for_what_its_group_holds_is_a_deadlock(run):
    """It is found, and names both; it ends the run, fallback or not."""
    inner = inline().with_constraints(gpu=1)
    with pytest.raises(cs.DeadlockError, match=r"inline.*gpu.*group"):
        run(cs.group(inner).with_constraints(gpu=1).with_fallback(0), system_resources={"gpu": 1})


def test_constraints_match_a_group_by_its_name_only(inside, use_vm):
    """A global limit counts the calls in it, not the group, so that one slot is no deadlock."""

    async def main() -> Any:
        engine = cs.Engine()
        engine.constraints.limit_concurrency("global", 1)
        target = [cs.group([after(1, 1), after(1, 2)]), cs.group(after(1, 3), name="named")]
        first = await engine.run(target, use_vm=use_vm)
        engine.constraints.pause("task:named", ttl=50)
        began = anyio.current_time()
        await engine.run(cs.group(inline(), name="named"), use_vm=use_vm)
        return first, anyio.current_time() - began

    assert inside(main) == ([[1, 2], 3], 50)


def test_a_skipped_expression_is_treated_as_a_run_target(run):
    """None through a predecessor; else DependencyMissingError, which is the group's own failure."""
    sequence = cs.group(inline().after(inline().run_if(False)))
    assert run([sequence]) == [None]
    missing = cs.group(collect(inline().run_if(False)))
    with pytest.raises(cs.DependencyMissingError):
        run(missing)
    assert run(missing.copy().with_fallback("f")) == "f"


def test_what_is_wrong_with_the_program_ends_the_run_from_within_groups(run):
    """An unknown route is no failure that a group answers."""
    routed = cs.group(cs.Router(inline("k"), {"a": 1})).with_retry(3).with_fallback(0).settled()
    with pytest.raises(cs.RouteNotFoundError):
        run(cs.group(routed).settled())


def test_a_group_shares_what_an_iteration_shares(run):
    """Pure nodes belong to the evaluation around; any other node is a node of each."""
    calls: list[str] = []

    @cs.task(pure=True)
    def pure(x: int) -> int:
        calls.append("pure")
        return x

    @cs.task
    def impure(x: int) -> int:
        calls.append("impure")
        return x

    both = [impure(1), pure(2)]
    assert run([*both, cs.group(both)]) == [1, 2, [1, 2]]
    assert sorted(calls) == ["impure", "impure", "pure"]


def test_groups_anywhere_a_call_may_stand(run):
    """Returned by a task, as a route, in an iteration, in a map's task, as a condition."""

    @cs.task
    def returns(x: int) -> Any:
        return cs.group([inline(x), fails(x)]).with_fallback(-x)

    @cs.task
    def jumps(n: int, _: Any) -> Any:
        return cs.Jump("more", {"n": n + 1}) if n < 150 else cs.Jump("group")

    node = jumps(0, cs.group(fails()).with_fallback("in"))
    routed = cs.bind(node, cs.select_jump({"more": node, "group": cs.group(inline("out"))}))
    assert run(returns(1)) == -1
    assert run(returns.map(x=[1, 2, 3])) == [-1, -2, -3]
    assert run(routed) == "out"
    assert run(inline(5).run_if(cs.group(inline(True)))) == 5


def test_data_for_a_group_route_is_an_error(run):
    """A group has no parameters."""

    @cs.task
    def jumps() -> Any:
        return cs.Jump("group", 3)

    with pytest.raises(TypeError):
        run(cs.bind(jumps(), cs.select_jump({"group": cs.group(inline())})))


def test_the_first_value_wins(run):
    """The others are cancelled and awaited, and start no attempt after it."""
    log = Log()
    target = cs.first(fails_after(1), after(3, "b"), cs.sequence([after(2), after(9, "c")]))
    assert run(target, bus=log.bus) == "b"
    assert log.of("Cancelled") == ["first#0[2]/after#1"]
    inline_first = cs.first(inline("a"), inline("b"))
    assert run(inline_first) == "a"
    assert run(cs.first(fails(), 7, after(1))) == 7


def test_scopes_within_an_alternative_that_lost_start_nothing(run):
    """Whatever gets ready in them at the instant at which another alternative wins."""
    log = Log()
    lost = cs.group(inline(after(1, "lost")))
    assert run(cs.first(after(1, "won"), lost), bus=log.bus) == "won"
    assert [task_id for task_id in log.of("Started") if "inline" in task_id] == []


def test_all_failures_of_a_first_come_in_the_order_given(run):
    """An ExceptionGroup, which a retry, a fallback or settled answers like any failure."""
    target = cs.first(fails_after(2, "a"), fails_after(1, "b"), inline().run_if(False))
    with pytest.raises(ExceptionGroup) as raised:
        run(target)
    assert [str(error) for error in raised.value.exceptions] == ["a", "b"]
    assert run(target.copy().with_fallback("f", on=Broken)) == "f"


def test_a_first_of_skipped_expressions_is_skipped(run):
    """As a node whose argument was skipped."""
    target = cs.first(inline().run_if(False), collect(inline().run_if(False)))
    with pytest.raises(cs.DependencyMissingError) as raised:
        run(collect(target))
    assert raised.value.reason == "ConditionFalse"


def test_the_graph_shows_what_groups_evaluate():
    """Nodes of kind group and first, whose edges to what they evaluate are no dependencies."""
    graph = cs.build_graph([cs.group(inline(1), name="g"), cs.first(inline(2), inline(3))]).graph
    assert [(node.id, node.kind) for node in graph.nodes] == [
        ("g#0", "group"),
        ("first#1", "first"),
    ]
    found = [(edge.source.id, edge.target.name, edge.kind) for edge in graph.jumps]
    assert found == [("g#0", "inline", "group"), *[("first#1", "inline", "group")] * 2]


def test_groups_are_drawn_described_and_listed():
    """Their kind, what they evaluate, and the code of that."""
    target = [cs.group(collect(inline(1)), name="g"), cs.first(inline(2), 3)]
    described = cs.to_json(target)
    kinds = {node["id"]: node["kind"] for node in described["nodes"]}
    assert (kinds["g#0"], kinds["first#1"]) == ("group", "first")
    edges = [edge for edge in described["edges"] if edge["kind"] == "group"]
    assert [(edge["target"], edge["key"]) for edge in edges] == [("g#0", 0), ("first#1", 0)]
    assert described["selectors"] == []
    picture = str(cs.visualize(target))
    assert "a workflow as one node" in picture
    assert "the first value of several" in picture
    assert "collect#1" in cs.disassemble(target)


def test_bad_input_is_refused_where_it_is_given():
    """A first of nothing, a Task that was not called, a cache without a key, a cycle."""
    with pytest.raises(ValueError, match="at least one"):
        cs.first()
    with pytest.raises(TypeError, match=r"cs\.first\(\*expressions\)"):
        cs.first([inline(), inline()])
    with pytest.raises(TypeError, match=r"write task\(\.\.\.\)"):
        cs.group(inline)
    with pytest.raises(TypeError, match="no arguments"):
        cs.group(inline()).with_cache(cs.InMemoryCache())
    inner = inline()
    grouped = cs.group(inner)
    inner.after(grouped)
    with pytest.raises(cs.CycleError):
        cs.build_graph(grouped)


@pytest.mark.parametrize("delay", [0.5 * n for n in range(14)])
def test_a_run_with_scopes_within_scopes_can_be_cancelled_at_any_time(inside, use_vm, delay):
    """Nothing is left behind: no capacity, no resource, and cancellation is what comes out."""
    open_now: list[str] = []

    @cs.resource(name="own", scope="step")
    async def own() -> Any:
        open_now.append("own")
        try:
            await anyio.sleep(0.25)
            yield "own"
            await anyio.sleep(0.25)
        finally:
            open_now.remove("own")

    @cs.task
    async def uses(x: Any, own: Any = cs.inject("own")) -> Any:
        await anyio.sleep(1)
        raise Broken(x)

    def target() -> Any:
        innermost = cs.group([uses(1), after(9)]).with_retry(2, delay=1).with_fallback(after(1, 5))
        racing = cs.first(innermost, cs.group([after(4), uses(2)]))
        return cs.group([racing, after(6)]).with_constraints(gpu=1).with_timeout(50)

    async def main() -> Any:
        engine = cs.Engine(system_resources={"gpu": 1}, resources=[own])
        with anyio.move_on_after(delay):
            await engine.run(target(), use_vm=use_vm)
        statistics = engine.constraints.statistics()
        assert (float(statistics.free["gpu"]), statistics.parked, open_now) == (1.0, 0, [])

    inside(main)


def test_the_strategies_agree_on_scopes():
    """One target with groups and firsts of all kinds, under both strategies on both loops."""

    def target() -> Any:
        return collect(
            cs.group([fails_after(1), after(9)]).with_retry(2).with_fallback("f"),
            cs.first(fails_after(1, "a"), after(3, "b")),
            cs.group(loop()).settled(),
            cs.group(fails_after(2, "s")).settled(),
        )

    assert_strategies_agree(target)


@pytest.mark.parametrize("backend", ["asyncio"])
def test_an_alternative_that_is_cancelled_natively_fails_the_first(backend, use_vm):
    """As awaiting it fails in plain Python; it is no failure that a group answers."""

    @cs.task
    async def cancelled() -> None:
        task = asyncio.create_task(asyncio.sleep(10))
        await asyncio.sleep(0)
        task.cancel()
        await task

    for target in (cs.first(cancelled(), after(5)), cs.group(cancelled())):
        with pytest.raises(asyncio.CancelledError):
            cs.run(
                target.with_fallback(0),
                use_vm=use_vm,
                backend=backend,
                backend_options=virtual_time(backend),
            )


def test_an_interrupt_in_an_alternative_is_never_within_a_group(backend, use_vm):
    """KeyboardInterrupt reaches the caller of the run as itself."""

    @cs.task
    async def interrupted() -> None:
        raise KeyboardInterrupt

    for target in (cs.first(interrupted(), after(5)), cs.group(interrupted())):
        with pytest.raises(KeyboardInterrupt):
            cs.run(target, use_vm=use_vm, backend=backend, backend_options=virtual_time(backend))
