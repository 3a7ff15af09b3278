"""Section 17: fallbacks, handlers and outcomes, wherever a node's last attempt can fail."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import cascade as cs
from cascade.testing import assert_strategies_agree


class Broken(Exception):
    """What the tasks below fail with."""


@cs.task
def inline(x: Any = 0) -> Any:
    raise Broken(x)


@cs.task
async def async_(x: Any = 0) -> Any:
    await anyio.sleep(1)
    raise Broken(x)


@cs.task(mode="thread")
def thread(x: Any = 0) -> Any:
    raise Broken(x)


@cs.task
def awaitable(x: Any = 0) -> Any:
    return async_.func(x)


@cs.task
def odd_fails(x: int) -> int:
    if x % 2:
        raise Broken(x)
    return x


@cs.task
async def odd_fails_async(x: int) -> int:
    await anyio.sleep(1)
    return odd_fails.func(x)


@cs.task
def handled(error: Exception) -> str:
    return f"handled {error}"


@cs.task
def collect(*values: Any) -> list[Any]:
    return list(values)


FAILING = [inline, async_, thread, awaitable]
NAMES = ["inline", "async", "thread", "awaitable"]


def counting(value: Any) -> tuple[Any, list[int]]:
    """A task that gives `value`, and how often it was called."""
    calls: list[int] = []

    @cs.task
    def counted() -> Any:
        calls.append(1)
        return value

    return counted, calls


@pytest.mark.parametrize("task", FAILING, ids=NAMES)
def test_a_failing_node_has_its_fallback(run, task):
    """A literal, an expression or what a handler makes of the exception stands for the value."""
    backup, calls = counting("backup")
    expression = backup()
    targets = [
        task(1).with_fallback(None),
        task(2).with_fallback(expression),
        task(3).with_fallback(expression),
        task(4).with_fallback(handled),
        task(5).with_fallback([expression, 6]),
    ]
    assert run(targets) == [None, "backup", "backup", "handled 4", ["backup", 6]]
    assert calls == [1]


@pytest.mark.parametrize("task", FAILING, ids=NAMES)
def test_a_settled_node_has_an_outcome(run, task):
    """The exception itself, not a copy, and a value that a call gave."""
    failed, given = run([task("x").settled(), collect(1).settled()])
    assert (failed.ok, failed.value, given) == (False, None, cs.Outcome([1]))
    with pytest.raises(Broken, match="x") as raised:
        failed.unwrap()
    assert raised.value is failed.error
    assert given.unwrap() == [1]


def test_a_fallback_comes_before_the_outcome(run):
    """With both, the outcome is that of the fallback, which is a value like any other."""
    both = [
        inline().with_fallback(7).settled(),
        inline().settled().with_fallback(handled),
        inline().with_fallback(7, on=LookupError).settled(),
    ]
    first, second, third = run(both)
    assert (first, second) == (cs.Outcome(7), cs.Outcome("handled 0"))
    assert isinstance(third.error, Broken)


@pytest.mark.parametrize("policy", ["fallback", "settled"])
@pytest.mark.parametrize("on", [LookupError, (LookupError, OSError), lambda error: False])
def test_what_on_does_not_match_fails_the_run(run, policy, on):
    """Neither policy answers another failure than those it names."""
    node = inline()
    node = node.with_fallback(1, on=on) if policy == "fallback" else node.settled(on=on)
    with pytest.raises(Broken):
        run(node)


def test_an_on_that_fails_fails_the_run(run):
    """What the function raises surfaces, as from `with_retry`."""

    def raises(error: BaseException) -> bool:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(inline().with_fallback(1, on=raises))


@pytest.mark.parametrize("task", [odd_fails, odd_fails_async], ids=["inline", "async"])
def test_items_of_a_map_fail_one_by_one(run, task):
    """Each item has its own fallback or outcome; an expression is computed once for all."""
    backup, calls = counting("b")
    over = [1, 2, 3]
    assert run(task.map(x=over).with_fallback(0)) == [0, 2, 0]
    assert run(task.map(x=over).with_fallback(backup())) == ["b", 2, "b"]
    assert calls == [1]
    assert run(task.map(x=over).with_fallback(handled)) == ["handled 1", 2, "handled 3"]
    first, second, third = run(task.map(x=over).settled())
    assert (str(first.error), second, str(third.error)) == ("1", cs.Outcome(2), "3")


def test_a_skipped_fallback_skips_the_node(run):
    """As a skipped argument does, for a node and for a map."""
    backup, calls = counting("b")
    for target in (
        inline().with_fallback(backup().run_if(False)),
        odd_fails.map(x=[1, 2]).with_fallback(backup().run_if(False)),
    ):
        with pytest.raises(cs.DependencyMissingError) as raised:
            run(collect(target))
        assert raised.value.reason == "ConditionFalse"
    assert calls == []


def test_a_fallback_is_demanded_only_after_a_failure(run):
    """A node that succeeds leaves its fallback alone, whatever it is."""
    backup, calls = counting("b")
    values = run([collect(1).with_fallback(backup()), collect(2).with_fallback(handled)])
    assert (values, calls) == ([[1], [2]], [])


def test_the_last_attempt_counts(run):
    """Retries come first; a timeout is a failure; a cache never keeps a fallback."""
    attempts = []

    @cs.task
    async def flaky(x: int) -> int:
        attempts.append(x)
        await anyio.sleep(10 * len(attempts))
        raise Broken(x)

    cache = cs.InMemoryCache()
    node = flaky(1).with_retry(3, delay=1).with_timeout(15).with_cache(cache)
    outcome = run(node.copy().settled())
    assert (len(attempts), type(outcome.error)) == (3, cs.TaskTimeoutError)
    assert run(node.copy().with_fallback(5)) == 5
    assert len(attempts) == 6


def test_capacity_is_back_before_the_fallback_runs(run):
    """A fallback may need what its node held."""
    backup, calls = counting("b")
    target = async_().with_constraints(gpu=1).with_fallback(backup().with_constraints(gpu=1))
    assert run(target, system_resources={"gpu": 1}) == "b"
    assert calls == [1]


def test_a_loop_ends_with_what_answers_its_own_call(run):
    """A failing iteration ends the loop; an exit through a Jump is wrapped once."""

    @cs.task
    def step(n: int, fails: bool) -> Any:
        if n < 3:
            return cs.Jump("again", {"n": n + 1})
        if fails:
            raise Broken(n)
        return cs.Jump("out", n)

    def loop(fails: bool) -> Any:
        node = step(0, fails)
        return cs.bind(node, cs.select_jump({"again": node, "out": None}))

    backup, calls = counting("b")
    shared = backup()
    assert run([loop(True).with_fallback(shared), shared]) == ["b", "b"]
    assert calls == [1]
    assert run(loop(True).with_fallback(handled)) == "handled 3"
    assert run(loop(False).with_fallback(handled)) == 3
    assert run(loop(False).settled()) == cs.Outcome(3)
    assert str(run(loop(True).settled()).error) == "3"


def test_failures_of_other_routes_are_not_answered(run):
    """They are calls of other nodes, whose own policies count."""

    @cs.task
    def start() -> Any:
        return cs.Jump("work", 1)

    def loop(route: Any) -> Any:
        return cs.bind(start(), cs.select_jump({"work": route}))

    with pytest.raises(Broken):
        run(loop(inline()).settled())
    assert run(loop(inline().with_fallback(8)).settled()) == cs.Outcome(8)


def test_control_passes_through_and_its_value_is_wrapped_once(run):
    """A TailCall and a returned expression go on; what they come to is the outcome."""

    @cs.task
    def countdown(n: int) -> Any:
        return cs.TailCall((n - 1,)) if n else "done"

    @cs.task
    def gives(expression: Any) -> Any:
        return expression()

    assert run(countdown(3).settled()) == cs.Outcome("done")
    assert run(gives(lambda: collect(1)).settled()) == cs.Outcome([1])
    assert run(gives(lambda: inline().with_fallback(2)).settled()) == cs.Outcome(2)
    with pytest.raises(Broken):
        run(gives(lambda: inline()).settled())


def test_reaching_max_steps_is_a_failure_of_the_loop(run):
    """A loop that does not end may have a fallback for that."""

    @cs.task
    def forever(n: int = 0) -> Any:
        return cs.TailCall((n + 1,))

    outcome = run(forever().settled(), max_steps=50)
    assert isinstance(outcome.error, cs.StepLimitError)
    assert run(forever().with_fallback(3), max_steps=50) == 3
    with pytest.raises(cs.StepLimitError):
        run(forever().with_fallback(3, on=Broken), max_steps=50)


def test_what_is_wrong_with_the_program_ends_the_run(run):
    """Errors of Cascade's own are no failures to be answered, or retried, but for those named."""

    @cs.task
    def jumps() -> Any:
        return cs.Jump("nowhere")

    attempts = []

    @cs.task
    def nested() -> Any:
        attempts.append(1)
        raise cs.RouteNotFoundError("k", ("a",))

    for target, error in [
        (jumps().with_fallback(1).settled(), cs.JumpNotBoundError),
        (nested().with_retry(3).with_fallback(1).settled(), cs.RouteNotFoundError),
    ]:
        with pytest.raises(error):
            run(target)
    assert attempts == [1]


def test_a_fallback_that_fails_fails_the_run_caused_by_the_first(run):
    """Whether it is an expression, something that it needs, or a handler."""

    @cs.task
    def worse(x: Any = None) -> Any:
        raise LookupError("worse")

    for fallback in (worse(), collect(worse()), worse):
        with pytest.raises(LookupError, match="worse") as raised:
            run(inline("first").with_fallback(fallback).settled())
        assert str(raised.value.__cause__) == "first"


def test_cancellation_is_never_answered(inside, use_vm):
    """A cancelled run ends, whatever its nodes could have instead."""
    backup, calls = counting("b")

    async def main() -> Any:
        engine = cs.Engine()
        with anyio.move_on_after(0.5) as scope:
            await engine.run(
                async_().with_fallback(backup(), on=BaseException).settled(on=BaseException),
                use_vm=use_vm,
            )
        return scope.cancelled_caught

    assert inside(main)
    assert calls == []


def test_a_failure_elsewhere_ends_the_run_before_a_fallback(run):
    """Once the run has failed, nothing is recovered from any more."""
    backup, calls = counting("b")

    @cs.task
    async def slow() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(2)
        raise Broken("slow")

    @cs.task
    async def first() -> None:
        await anyio.sleep(1)
        raise LookupError("first")

    with pytest.raises(LookupError, match="first"):
        run([slow().with_fallback(backup()), first()])
    assert calls == []


def test_a_handler_is_a_node_of_its_own(run):
    """It injects, retries by TailCall, returns expressions; its id tells whose failure it had."""
    seen: list[str] = []
    bus = cs.MessageBus()
    bus.subscribe(cs.TaskExecutionStarted, lambda event: seen.append(event.task_id))

    @cs.resource(name="log")
    def log() -> Any:
        yield "log"

    @cs.task
    def handler(error: Exception, left: int = 1, log: Any = cs.inject("log")) -> Any:
        if left:
            return cs.TailCall(kwargs={"left": left - 1})
        return collect(str(error), log)

    target = collect(
        inline(1).with_fallback(handler), odd_fails.map(x=[2, 3]).with_fallback(handler)
    )
    value = run(target, resources=[log], bus=bus)
    assert value == [["1", "log"], [2, ["3", "log"]]]
    graph = cs.build_graph(target).graph
    names = [node.id for node in graph.nodes]
    assert names == ["handler#0", "inline#1", "handler#2", "odd_fails#3", "collect#4"]
    assert {edge.kind for edge in graph.edges if edge.source.name == "handler"} == {"fallback"}
    assert "odd_fails#3[1]/handler#2" in seen


def test_recovery_is_published_after_the_failure(run):
    """Finished tells of the failure as ever; then comes TaskRecovered with the same error."""
    seen: list[Any] = []
    bus = cs.MessageBus()
    bus.subscribe(cs.TaskExecutionFinished, lambda e: seen.append((e.task_id, e.status, e.error)))
    bus.subscribe(cs.TaskRecovered, lambda e: seen.append((e.task_id, "Recovered", e.error)))
    run([async_(1).with_fallback(0), odd_fails.map(x=[5]).settled()], bus=bus)
    assert sorted((task_id, status, str(error)) for task_id, status, error in seen) == [
        ("async_#0", "Failed", "1"),
        ("async_#0", "Recovered", "1"),
        ("odd_fails#1[0]/odd_fails#0", "Failed", "5"),
        ("odd_fails#1[0]/odd_fails#0", "Recovered", "5"),
    ]


def test_bad_input_is_refused_where_it_is_given():
    """An `on` that is none, a handler that takes no exception, another policy for one node."""

    @cs.task
    def two(a: int, b: int) -> int:
        return a + b

    with pytest.raises(TypeError, match=r"on=3 must be an exception class"):
        inline().with_fallback(1, on=3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"on=3 must be an exception class"):
        inline().settled(on=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"called with the exception alone.*'b'"):
        inline().with_fallback(two)
    node = inline().with_fallback(1).settled()
    assert node.with_fallback(1).settled() is node
    with pytest.raises(ValueError, match=r"copy\(\)\.with_fallback"):
        node.with_fallback(2)
    with pytest.raises(ValueError, match=r"copy\(\)\.settled"):
        node.settled(on=LookupError)


def test_a_fallback_that_needs_its_own_node_is_a_cycle():
    """It is found when the target is read, and the path is named."""
    node = inline()
    node.with_fallback(collect(node))
    with pytest.raises(cs.CycleError, match="inline -> collect -> inline"):
        cs.build_graph(node)


def test_every_iteration_of_a_loop_may_recover(run):
    """What an iteration recovers from is its own affair, hot or cold."""

    @cs.task
    def step(n: int, _: Any) -> Any:
        return cs.Jump("again", {"n": n + 1}) if n < 2000 else n

    node = step(0, inline().with_fallback(handled))
    assert run(cs.bind(node, cs.select_jump({"again": node}))) == 2000


def test_the_strategies_agree_on_all_of_it():
    """One target with everything, under both strategies on both event loops."""

    def target() -> Any:
        return collect(
            inline(1).with_fallback(handled),
            async_(2).with_retry(2).settled(),
            odd_fails_async.map(x=[1, 2]).with_fallback(handled).settled(),
            thread(3).with_fallback(collect(4)),
        )

    assert_strategies_agree(target)
