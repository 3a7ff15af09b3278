"""Section 17: what a task may know of its execution, and the idempotency key of that."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

import cascade as cs

Run = Callable[..., Any]


@cs.task
def inline(x: Any = 0, execution: Any = cs.inject("execution")) -> Any:
    return execution


@cs.task
async def on_the_loop(x: Any = 0, execution: Any = cs.inject("execution")) -> Any:
    await anyio.sleep(1)
    return execution


@cs.task(mode="thread")
def in_a_thread(x: Any = 0, execution: Any = cs.inject("execution")) -> Any:
    return execution


# Of a class that a worker can import, and that keeps what it is given.
in_a_process = cs.task(SimpleNamespace, mode="process", name="in_a_process")


@cs.task
def nothing(x: Any = 0) -> Any:
    return x


def executions(values: Any) -> list[Any]:
    return [getattr(value, "execution", value) for value in values]


MODES = [inline, on_the_loop, in_a_thread, in_a_process]


@pytest.mark.parametrize("task", MODES, ids=lambda task: task.name)
def test_a_task_knows_its_execution_in_every_mode(run: Run, task: Any) -> None:
    """The ids are those of the events; two nodes and two runs have keys of their own."""
    bus, started = cs.MessageBus(), []
    bus.subscribe(cs.TaskExecutionStarted, started.append)
    given = {"execution": cs.inject("execution")}
    found = executions(run([task(**given), task(x=nothing(), **given)], bus=bus))
    (again,) = executions([run(task(**given))])
    assert [type(each) for each in found] == [cs.Execution] * 2
    told = {(e.run_id, e.task_id, e.task_name, e.attempt) for e in started}
    for each in found:
        assert (each.run_id, each.task_id, each.task_name, each.attempt) in told
        assert each.max_attempts == 1
        assert int(each.key, 16) >= 0
        assert len(each.key) == 32
    assert len({*(each.key for each in found), again.key}) == 3


@pytest.mark.parametrize("task", MODES, ids=lambda task: task.name)
def test_each_item_of_a_map_has_its_key(run: Run, task: Any) -> None:
    """Items are executions each, whatever they are given."""
    mapped = task.map(x=range(4), execution=cs.unmapped(cs.inject("execution")))
    found = executions([*run(mapped), *run(mapped)])
    assert len({each.key for each in found}) == 8
    assert [each.task_id.partition("[")[2][0] for each in found] == list("01230123")


@pytest.mark.parametrize("failures", [0, 1, 3])
@pytest.mark.parametrize("delay", [0, 1])
def test_attempts_of_one_execution_share_the_key(run: Run, failures: int, delay: int) -> None:
    """Only the attempt counts up: a service that saw the key need not do it again."""
    for is_async in (False, True):
        seen: list[Any] = []

        def unsure(execution: Any = cs.inject("execution"), seen: Any = seen) -> Any:
            seen.append(execution)
            if len(seen) <= failures:
                raise ValueError(len(seen))
            return execution

        async def unsure_later(execution: Any = cs.inject("execution"), act: Any = unsure) -> Any:
            await anyio.sleep(1)
            return act(execution)

        task = cs.task(unsure_later if is_async else unsure)
        run(task().with_retry(4, delay=delay))
        assert [each.attempt for each in seen] == list(range(1, failures + 2))
        assert {each.max_attempts for each in seen} == {4}
        assert len({each.key for each in seen}) == 1


def test_items_that_are_retried_keep_their_keys(run: Run) -> None:
    """A retry is of one item: two attempts of each, one key of each."""
    seen: list[Any] = []

    @cs.task
    def unsure(x: int, execution: Any = cs.inject("execution")) -> None:
        seen.append(execution)
        if execution.attempt == 1:
            raise ValueError(x)

    run(unsure.map(x=[1, 2, 3]).with_retry(2))
    assert len(seen) == 6
    assert len({each.key for each in seen}) == 3


def looped(task: Any, *args: Any) -> Any:
    node = task(*args)
    return cs.bind(node, cs.select_jump({"again": node, "end": None}))


@pytest.mark.parametrize("count", [1, 5, 400])
@pytest.mark.parametrize("form", ["jump", "tail call", "within", "inner loop", "item"])
def test_each_iteration_has_its_key(run: Run, form: str, count: int) -> None:
    """The ids of iterations are one, and their keys are many, in loops that got hot too."""
    seen: list[Any] = []

    @cs.task
    def step(n: int, execution: Any = cs.inject("execution")) -> Any:
        seen.append(execution)
        return cs.Jump("again", n - 1) if n > 1 else cs.Jump("end", n)

    @cs.task
    def tail(n: int, execution: Any = cs.inject("execution")) -> Any:
        seen.append(execution)
        return cs.TailCall((n - 1,)) if n > 1 else n

    @cs.task
    def note(x: Any, execution: Any = cs.inject("execution")) -> Any:
        seen.append(execution)
        return x

    @cs.task
    def around(n: int, x: Any = None) -> Any:
        return cs.Jump("again", {"n": n - 1}) if n > 1 else cs.Jump("end", n)

    match form:
        case "jump":
            run(looped(step, count))
        case "tail call":
            run(tail(count))
        case "within":
            run(looped(around, count, note(nothing(5))))
        case "inner loop":
            run(looped(around, count, looped(step, 2)))
        case "item":
            run(tail.map(n=[count, count]))
    times = 2 if form in ("inner loop", "item") else 1
    assert len(seen) == count * times
    assert len({each.key for each in seen}) == count * times
    assert len({each.task_id for each in seen}) <= 2


def test_returned_expressions_have_keys_of_their_own(run: Run) -> None:
    """Each evaluation in a chain is another one, though its nodes have the same ids."""
    seen: list[Any] = []

    @cs.task
    def follow(n: int, execution: Any = cs.inject("execution")) -> Any:
        seen.append(execution)
        return follow(n - 1) if n else n

    run(follow(4))
    run(follow.map(n=[2, 2]))
    assert len({each.key for each in seen}) == len(seen) == 11


def test_providers_of_an_attempt_may_inject_it(run: Run) -> None:
    """A resource of the scope "task" sees the execution that it serves; a wider one cannot."""

    @cs.resource(scope="task")
    def client(execution: Any = cs.inject("execution")) -> Any:
        yield execution

    @cs.task
    def use(client: Any = cs.inject("client"), execution: Any = cs.inject("execution")) -> Any:
        return client is execution

    assert run(use(), resources=[client])

    @cs.resource(name="wide")
    def wide(execution: Any = cs.inject("execution")) -> Any:
        yield execution

    with pytest.raises(ValueError, match=r"'wide' .* injects 'execution' of the narrower scope"):
        run(nothing(cs.inject("wide")), resources=[wide])


def test_it_is_no_resource_that_is_set_up(run: Run) -> None:
    """Nobody hears that it was acquired; it may stand in containers; a cache leaves it out."""
    bus, heard = cs.MessageBus(), []
    bus.subscribe(cs.ResourceAcquired, heard.append)
    assert run(nothing([cs.inject("execution")]), bus=bus)[0].task_name == "nothing"
    cache = cs.InMemoryCache()
    keys = {run(inline(1).with_cache(cache), bus=bus).key for _ in range(3)}
    assert len(keys) == len(cache) == 1
    assert heard == []


def test_its_name_is_taken(inside: Any, use_vm: bool) -> None:
    """A resource of that name is an error when it is registered; tests may override it."""

    @cs.resource(name="execution")
    def own() -> Any:
        yield 1

    for register in (lambda: cs.Engine(resources=[own]), lambda: cs.Engine().register(own)):
        with pytest.raises(ValueError, match=r"built in, a cs\.Execution; give it another name"):
            register()

    fixed = cs.Execution("run", "inline#0", "inline", 1, 1, "k")

    async def main() -> None:
        engine = cs.Engine()
        with pytest.raises(ValueError, match="built in"):
            await engine.run(inline(), use_vm=use_vm, resources=[own])
        with engine.override_resource("execution", fixed):
            assert await engine.run(inline(), use_vm=use_vm) is fixed

    inside(main)


def test_an_execution_is_plain_data() -> None:
    """It is frozen, compared by value, and goes through pickle under its public name."""
    one = cs.Execution("r", "t#0", "t", 1, 3, "k")
    assert pickle.loads(pickle.dumps(one)) == one
    assert cs.Execution.__module__ == "cascade"
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.attempt = 2  # type: ignore[misc]
