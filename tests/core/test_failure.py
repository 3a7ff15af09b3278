"""Failure: the same object, its notes, and the order of the end (section 11)."""

import time

import anyio
import pytest

import cascade as cs


class Stop(BaseException):
    """An exception of a user's own that is no Exception."""


def notes(error):
    return "\n".join(getattr(error, "__notes__", ()))


@pytest.mark.parametrize("kind", ["sync", "async", "async later"])
@pytest.mark.parametrize(
    "error",
    [ValueError("x"), ExceptionGroup("mine", [KeyError(1)]), Stop("x"), cs.CascadeError("x")],
    ids=["exception", "group", "base exception", "own"],
)
def test_the_first_failure_surfaces_as_itself(run, kind, error):
    """The exception of a task leaves the run as the same object, wrapped in nothing."""

    def sync():
        raise error

    async def asynchronous():
        if kind == "async later":
            await anyio.sleep(1)
        raise error

    @cs.task
    def consumer(x):
        return x

    failing = cs.task(sync if kind == "sync" else asynchronous)
    with pytest.raises(type(error)) as caught:
        run([consumer(1), consumer(failing())])
    assert caught.value is error


def test_notes_name_task_path_attempt_and_run(run):
    """The failure carries who failed, how the target came to it, in which attempt and run."""

    @cs.task
    def fetch():
        raise ValueError("x")

    @cs.task
    def parse(x):
        return x

    @cs.task
    def report(x):
        return x

    runs = []
    bus = cs.MessageBus()
    bus.subscribe(cs.RunStarted, runs.append)
    with pytest.raises(ValueError, match="x") as caught:
        run(report(parse(fetch().with_retry(4))), bus=bus)
    text = notes(caught.value)
    for name in ("report", "parse", "fetch", "4", str(runs[0].run_id)):
        assert name in text


@pytest.mark.parametrize(
    "place",
    ["condition", "default", "selector", "amount", "argument", "predecessor", "iterable", "item"],
)
def test_an_exception_anywhere_fails_the_run(run, place):
    """A failure in a condition, default, selector or amount is like any other."""
    error = ValueError("x")

    @cs.task
    def fails(x=0):
        raise error

    @cs.task
    def node(x=0):
        return x

    targets = {
        "condition": lambda: node().run_if(fails()),
        "default": lambda: node().run_if(False, default=fails()),
        "selector": lambda: cs.Router(selector=fails(), routes={1: 1}),
        "amount": lambda: node().with_constraints(gpu=fails()),
        "argument": lambda: node([fails()]),
        "predecessor": lambda: node().after(fails()),
        "iterable": lambda: node.map(x=fails()),
        "item": lambda: fails.map(x=[1, 2]),
    }
    with pytest.raises(ValueError, match="x") as caught:
        run(targets[place](), system_resources={"gpu": 1})
    assert caught.value is error
    assert "fails" in notes(error)


def test_no_attempt_starts_after_the_first_failure(run):
    """Neither a ready node, nor a parked one, nor a retry starts once the run has failed."""
    log = []

    @cs.task
    async def fails():
        await anyio.sleep(1)
        log.append("fails")
        raise ValueError("first")

    @cs.task
    async def holds():
        log.append("holds")
        await anyio.sleep_forever()

    @cs.task
    async def soon():
        await anyio.sleep(0.5)

    @cs.task
    async def parked():
        log.append("parked")

    @cs.task
    async def flaky():
        log.append("flaky")
        raise KeyError("retried")

    target = [
        fails(),
        holds().with_constraints(gpu=1),
        parked().with_constraints(gpu=1).after(soon()),
        flaky().with_retry(9, delay=5),
        parked().after(fails()),
    ]
    with pytest.raises(ValueError, match="first"):
        run(target, system_resources={"gpu": 1})
    assert sorted(log[:2]) == ["flaky", "holds"]
    assert set(log[2:]) == {"fails"}


def test_a_failing_inline_task_is_the_last_that_runs(run):
    """Ready inline tasks after the failing one in plan order do not run."""
    log = []

    @cs.task
    def node(name):
        log.append(name)
        if name == "b":
            raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        run([node("a"), node("b"), node("c")])
    assert log == ["a", "b"]


def test_siblings_are_awaited_before_resources_go(run):
    """Cancelled siblings finish, shielded clean-up included, while their resources are there."""
    log = []

    @cs.resource
    def db():
        yield "db"

    @cs.resource
    def logs_down():
        try:
            yield
        finally:
            log.append("resource down")

    @cs.task
    async def sibling(resource=cs.inject("logs_down")):
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(2)
                log.append("sibling done")

    @cs.task
    async def fails():
        await anyio.sleep(1)
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        run([sibling(), fails()], resources=[db, logs_down])
    assert log == ["sibling done", "resource down"]


class Untold(Exception):
    def __str__(self):
        raise RuntimeError("no message")


def test_an_error_that_cannot_tell_itself_changes_nothing(run):
    """The first failure surfaces as itself, also when a later one has a `__str__` that raises."""
    first = ValueError("first")

    @cs.task
    async def failing():
        await anyio.sleep(1)
        raise first

    @cs.task
    async def untold():
        try:
            await anyio.sleep(2)
        finally:
            raise Untold

    with pytest.raises(ValueError, match="first") as caught:
        run([failing(), untold()])
    assert caught.value is first
    assert any("meanwhile Untold: <no message" in note for note in first.__notes__)


def test_what_siblings_raise_meanwhile_becomes_notes(run):
    """An exception of a cancelled sibling is published and noted, never raised instead."""
    finished = []
    late = KeyError("late one")

    @cs.task
    async def sibling():
        try:
            await anyio.sleep_forever()
        finally:
            raise late

    @cs.task
    async def fails():
        await anyio.sleep(1)
        raise ValueError("first")

    bus = cs.MessageBus()
    bus.subscribe(cs.TaskExecutionFinished, finished.append)
    with pytest.raises(ValueError, match="first") as caught:
        run([sibling(), fails()], bus=bus)
    assert "late one" in notes(caught.value)
    assert late in [event.error for event in finished if event.task_name == "sibling"]


def raising_resource(name, error):
    def provider():
        try:
            yield name
        finally:
            raise error

    return cs.resource(provider, name=name)


@cs.task
def use(*args):
    return "value"


@cs.task
def use_and_fail(*args):
    raise FIRST


FIRST = ValueError("first")


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_failures_of_tear_down_make_an_exception_group(run, fails, count):
    """The run's own failure comes first in the group, then those of its tear-downs."""
    errors = [OSError(f"tear-down {i}") for i in range(count)]
    resources = [raising_resource(f"r{i}", error) for i, error in enumerate(errors)]
    injected = [cs.inject(f"r{i}") for i in range(count)]
    with pytest.raises(ExceptionGroup) as caught:
        run((use_and_fail if fails else use)(*injected), resources=resources)
    found = list(caught.value.exceptions)
    if fails:
        assert found.pop(0) is FIRST
    assert {id(error) for error in found} == {id(error) for error in errors}


@pytest.mark.parametrize("kind", ["sync", "async", "thread"])
def test_a_stop_iteration_surfaces_as_a_runtime_error(run, kind):
    """A StopIteration from a task is the cause of a RuntimeError."""

    def sync():
        raise StopIteration("mine")

    async def asynchronous():
        raise StopIteration("mine")

    failing = {
        "sync": cs.task(sync),
        "async": cs.task(asynchronous),
        "thread": cs.task(sync, mode="thread"),
    }
    with pytest.raises(RuntimeError) as caught:
        run([failing[kind]()])
    assert isinstance(caught.value.__cause__, StopIteration)


def test_a_failed_run_is_published_with_its_error(run):
    """RunFinished tells the status and the exception itself."""
    error = ValueError("x")

    @cs.task
    def fails():
        raise error

    runs, attempts = [], []
    bus = cs.MessageBus()
    bus.subscribe(cs.RunFinished, runs.append)
    bus.subscribe(cs.TaskExecutionFinished, attempts.append)
    with pytest.raises(ValueError, match="x"):
        run(fails(), bus=bus)
    assert [(event.status, event.error) for event in runs] == [("Failed", error)]
    assert [event.error for event in attempts] == [error]


def test_an_engine_works_after_a_failed_run(inside, use_vm):
    """A failed run gives all its capacity back."""

    @cs.task
    async def holds(fails):
        await anyio.sleep(1)
        if fails:
            raise ValueError("first")
        return "value"

    async def program():
        engine = cs.Engine(system_resources={"gpu": 2})
        target = [holds(fails).with_constraints(gpu=1) for fails in (True, False, False)]
        with pytest.raises(ValueError, match="first"):
            await engine.run(target, use_vm=use_vm)
        assert engine.constraints.statistics().parked == 0
        return await engine.run(holds(False).with_constraints(gpu=2), use_vm=use_vm)

    assert inside(program) == "value"


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (cs.RouteNotFoundError, LookupError),
        (cs.JumpKeyError, LookupError),
        (cs.TargetNotFoundError, LookupError),
        (cs.ResourceNotFoundError, LookupError),
        (cs.MissingParameterError, LookupError),
        (cs.StaticGraphError, TypeError),
        (cs.CacheKeyError, TypeError),
        (cs.CycleError, ValueError),
        (cs.VerifyError, ValueError),
        (cs.DependencyMissingError, RuntimeError),
        (cs.JumpNotBoundError, RuntimeError),
        (cs.StepLimitError, RuntimeError),
        (cs.TaskTimeoutError, TimeoutError),
    ],
)
def test_every_error_is_a_cascade_error_and_a_builtin_one(error, builtin):
    """Errors of Cascade's own are caught by CascadeError and by the builtin they are like."""
    assert issubclass(error, cs.CascadeError)
    assert issubclass(error, builtin)


def test_a_parked_attempt_does_not_start_after_the_failure_that_would_admit_it(run):
    """No attempt starts after the first failure, even if that failure frees what it waits for."""
    started = []

    @cs.task
    async def fails():
        await anyio.sleep(1)
        raise KeyError("first")

    @cs.task
    async def parked():
        started.append("parked")

    later = cs.task(lambda: None, name="later")()
    with pytest.raises(KeyError):
        run(
            [
                fails().with_constraints(gpu=1),
                parked().with_constraints(gpu=1).after(later),
            ],
            system_resources={"gpu": 1},
        )
    assert started == []


@pytest.mark.parametrize("is_async", [False, True])
def test_more_than_the_capacity_fails_at_once_and_names_the_task(run, is_async):
    """What can never start is not retried, and its notes name task, path and attempt."""

    async def later():
        return 1

    task = cs.task(later if is_async else lambda: 1, name="greedy")
    with pytest.raises(ValueError, match="gpu") as caught:
        run(task().with_constraints(gpu=2).with_retry(3, 60), system_resources={"gpu": 1})
    assert "'greedy' (greedy#0), attempt 1" in caught.value.__notes__[0]


def test_an_awaitable_given_as_the_run_ends_gives_its_capacity_back(inside):
    """A sync task's awaitable that never gets to be awaited leaves nothing behind."""

    async def main():
        engine = cs.Engine(system_resources={"gpu": 1})
        event = anyio.Event()

        @cs.task
        async def bad():
            await event.wait()
            raise KeyError("bad")

        @cs.task
        def gives():
            time.sleep(0.01)
            event.set()
            return anyio.sleep(1)

        with pytest.raises(KeyError):
            await engine.run([bad(), gives().with_constraints(gpu=1)])
        free = cs.task(lambda: "free")()
        return await engine.run(free.with_constraints(gpu=1))

    assert inside(main) == "free"


def test_amounts_without_capacity_limit_nobody(run):
    """Names without capacity are not limited, whatever the number of tasks."""

    @cs.task
    async def napping():
        await anyio.sleep(1)
        return 1

    assert run([napping().with_constraints(unknown=3) for _ in range(3)]) == [1, 1, 1]


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    ("returned", "options", "error"),
    [
        (cs.Jump("agian"), {}, cs.JumpKeyError),
        (cs.Jump("again", {"m": 1}), {}, TypeError),
        (cs.Jump("again"), {"max_steps": 1}, cs.StepLimitError),
        (cs.TailCall((1, 2)), {}, TypeError),
        (cs.TailCall(target="nowhere"), {}, cs.TargetNotFoundError),
    ],
    ids=["key", "data", "limit", "arguments", "target"],
)
def test_errors_of_control_name_who_jumped(run, kind, returned, options, error):
    """A Jump or TailCall that leads nowhere is told like a failure of the task that returned it."""

    def sync(n):
        return returned

    async def asynchronous(n):
        return returned

    node = cs.task(sync if kind == "sync" else asynchronous, name="leaps")(0)
    cs.bind(node, cs.select_jump({"again": node}))
    with pytest.raises(error) as caught:
        run(use(node), **options)
    for text in ("leaps", "attempt 1", "of run"):
        assert text in notes(caught.value)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_jump_without_a_selector_names_who_jumped(run, kind):
    """The task that returned a Jump out of place, its path, attempt and run are named."""

    def sync():
        return cs.Jump("again")

    async def asynchronous():
        return cs.Jump("again")

    with pytest.raises(cs.JumpNotBoundError) as caught:
        run(use(cs.task(sync if kind == "sync" else asynchronous, name="leaps")()))
    for text in ("leaps", "attempt 1", "of run"):
        assert text in notes(caught.value)


def test_what_would_start_in_the_same_instant_does_not_start_after_the_failure(run):
    """No attempt starts after the first failure, even if it was ready when that one started."""
    log = []

    @cs.task
    async def fails():
        log.append("fails")
        raise KeyError("first")

    @cs.task
    async def ready(i):
        log.append(i)

    with pytest.raises(KeyError):
        run([ready(0), fails(), ready(1), ready(2)])
    assert log == [0, "fails"]


def test_a_failing_run_holds_up_no_timer_of_another(inside, use_vm):
    """A rate goes on for the other runs of an engine while one that failed is torn down."""
    starts = []

    @cs.resource
    async def slow_to_go():
        try:
            yield 1
        finally:
            await anyio.sleep(20)

    @cs.task
    async def quick(x):
        return x

    @cs.task
    async def limited():
        starts.append(anyio.current_time())

    @cs.task
    async def fails():
        raise KeyError("first")

    async def program():
        engine = cs.Engine()
        engine.register(slow_to_go)
        engine.constraints.limit_rate("task:limited", 1)

        async def failing_run():
            first = quick(cs.inject("slow_to_go"))
            with pytest.raises(KeyError):
                await engine.run(
                    [limited().after(first), limited().after(first), fails().after(first)],
                    use_vm=use_vm,
                )

        async with anyio.create_task_group() as group:
            group.start_soon(failing_run)
            await anyio.sleep(0.5)
            starts.clear()
            await engine.run([limited(), limited()], use_vm=use_vm)

    inside(program)
    assert len(starts) == 2
    assert starts[0] <= 1
    assert starts[1] - starts[0] == pytest.approx(1)
