"""Injected resources: scopes, set-up and tear-down (section 9)."""

import asyncio
import contextlib
import traceback

import anyio
import pytest

import cascade as cs


def logged(name, log, scope="run", needs=None, kind="sync"):
    """A resource that logs its set-ups and tear-downs, and may need another."""
    if needs is not None:

        def provider(other=cs.inject(needs)):
            log.append(f"{name} up")
            try:
                yield f"{name} on {other}"
            finally:
                log.append(f"{name} down")

    elif kind == "sync":

        def provider():
            log.append(f"{name} up")
            try:
                yield name
            finally:
                log.append(f"{name} down")

    else:

        async def provider():
            await anyio.sleep(1)
            log.append(f"{name} up")
            try:
                yield name
            finally:
                await anyio.sleep(1)
                log.append(f"{name} down")

    return cs.resource(provider, name=name, scope=scope)


@cs.task
def echo(*args):
    return args


@cs.task
def use(db=cs.inject("db")):
    return db


@cs.task
def use_item(x, db=cs.inject("db")):
    return (x, db)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    ("target", "value"),
    [
        (use(), "db"),
        (echo(cs.inject("db")), ("db",)),
        (echo({"a": [cs.inject("db")]}), ({"a": ["db"]},)),
        ([cs.inject("db")], ["db"]),
        ([use(), use(), cs.inject("db")], ["db", "db", "db"]),
        (use_item.map(x=[1, 2]), [(1, "db"), (2, "db")]),
    ],
    ids=["default", "argument", "nested", "target", "concurrent", "map"],
)
def test_a_resource_is_injected_and_torn_down(run, kind, target, value):
    """What the generator yields stands for `cs.inject(name)`, and the generator is finished."""
    log = []
    assert run(target, resources=[logged("db", log, kind=kind)]) == value
    assert log == ["db up", "db down"]


def test_the_name_of_a_resource_is_that_of_its_function(run):
    """`@cs.resource`, bare, takes the function's name."""

    @cs.resource
    def db():
        yield "value"

    assert run(use(), resources=[db]) == "value"


def test_a_resource_must_be_a_generator_function():
    """Any other function is a TypeError."""

    def plain():
        return 1

    async def coroutine():
        return 1

    for function in (plain, coroutine):
        with pytest.raises(TypeError):
            cs.resource(function)
        with pytest.raises(TypeError):
            cs.resource(name="x", scope="task")(function)


def test_a_resource_never_demanded_is_never_set_up(run):
    """Neither registration nor an unchosen part of the target sets a resource up."""
    log = []
    target = [cs.Router("a", routes={"a": 1, "b": use()}), echo().run_if(False, default=2)]
    assert run(target, resources=[logged("db", log), logged("other", log)]) == [1, 2]
    assert log == []


def test_an_argument_given_replaces_the_injected_default(run):
    """A resource that is a default is not set up where the argument is given."""
    log = []
    assert run(use("mine"), resources=[logged("db", log)]) == "mine"
    assert log == []


def test_resources_are_torn_down_in_reverse_order(run):
    """Last set up, first torn down; a provider outlives what it serves."""
    log = []
    resources = [
        logged("c", log, needs="b"),
        logged("a", log),
        logged("b", log, needs="a"),
    ]
    assert run(echo(cs.inject("c")), resources=resources) == ("c on b on a",)
    assert log == ["a up", "b up", "c up", "c down", "b down", "a down"]


@cs.task
def step(n, db=cs.inject("db"), again=None):
    return cs.Jump("again", n + 1) if n < 3 else n


def looped(node):
    return cs.bind(node, cs.select_jump({"again": node}))


@pytest.mark.parametrize(("scope", "set_ups"), [("run", 1), ("step", 3), ("task", 6)])
def test_a_scope_says_how_often_a_resource_is_set_up(run, scope, set_ups):
    """Once a run, once an innermost evaluation, or once an attempt."""
    log = []
    run(looped(step(1, again=use())), resources=[logged("db", log, scope)])
    assert log.count("db up") == log.count("db down") == set_ups


@pytest.mark.parametrize(("scope", "set_ups"), [("run", 1), ("step", 1), ("task", 3)])
def test_map_items_belong_to_the_evaluation_of_their_map(run, scope, set_ups):
    """All items share a resource of scope step; each has its own of scope task."""
    log = []
    run(use_item.map(x=[1, 2, 3]), resources=[logged("db", log, scope)])
    assert log.count("db up") == log.count("db down") == set_ups


@pytest.mark.parametrize(("scope", "set_ups"), [("run", 1), ("step", 1), ("task", 3)])
def test_only_a_task_resource_is_set_up_for_each_attempt(run, scope, set_ups):
    """A retried node has a new resource of scope task, and the same of the others."""
    log = []
    failures = []

    @cs.task
    def flaky(db=cs.inject("db")):
        log.append("call")
        if len(failures) < 2:
            failures.append(1)
            raise ValueError

    run(flaky().with_retry(3), resources=[logged("db", log, scope)])
    assert log.count("db up") == log.count("db down") == set_ups
    if scope == "task":
        assert log == ["db up", "call", "db down"] * 3


def test_a_step_resource_ends_with_its_iteration(run):
    """A resource of scope step is torn down before the next iteration sets it up."""
    log = []
    run(looped(step(1)), resources=[logged("db", log, "step")])
    assert log == ["db up", "db down"] * 3


def test_a_run_resource_serves_every_evaluation_of_the_run(run):
    """Iterations, items and returned expressions see the resource of the run."""
    log = []

    @cs.task
    def gives():
        return use()

    assert run([use(), looped(step(1)), gives()], resources=[logged("db", log)]) == ["db", 3, "db"]
    assert log == ["db up", "db down"]


def test_a_task_resource_is_set_up_after_the_gate(run):
    """An attempt that waits for capacity has not set up its resources."""
    log = []

    @cs.task
    async def work(x, db=cs.inject("db")):
        await anyio.sleep(1)
        log.append("call")

    target = [work(x).with_constraints(gpu=1) for x in (1, 2)]
    run(target, resources=[logged("db", log, "task")], system_resources={"gpu": 1})
    second = [i for i, entry in enumerate(log) if entry == "db up"][1]
    assert "call" in log[:second]


@pytest.mark.parametrize("scope", ["run", "step", "task"])
def test_a_failing_set_up_fails_the_run_and_is_not_retried(run, scope):
    """The exception of a set-up surfaces as itself, whatever the node's retry."""
    errors = []

    @cs.resource(scope=scope)
    def db():
        errors.append(OSError("no connection"))
        raise errors[-1]
        yield

    with pytest.raises(OSError, match="no connection") as caught:
        run(use().with_retry(3), resources=[db])
    assert len(errors) == 1
    assert caught.value is errors[0]


def test_a_failing_set_up_gives_its_capacity_back(inside, use_vm):
    """The gate is passed before a resource of scope task: its failure frees what was taken."""

    @cs.resource(scope="task")
    def db():
        raise OSError("no connection")
        yield

    async def program():
        engine = cs.Engine(system_resources={"gpu": 1})
        engine.register(db)
        with pytest.raises(OSError, match="no connection"):
            await engine.run(use().with_constraints(gpu=1), use_vm=use_vm)
        return await engine.run(use("mine").with_constraints(gpu=1), use_vm=use_vm)

    assert inside(program) == "mine"


@pytest.mark.parametrize("scope", ["run", "step", "task"])
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("suppress", [True, False])
def test_a_failure_is_thrown_in_at_the_yield(run, scope, kind, suppress):
    """The generator sees the failure of what it served and cannot suppress it."""
    seen = []
    error = ValueError("mine")

    def sync():
        try:
            yield "db"
        except ValueError as failure:
            seen.append(failure)
            if not suppress:
                raise

    async def asynchronous():
        try:
            yield "db"
        except ValueError as failure:
            seen.append(failure)
            if not suppress:
                raise

    @cs.task
    def fails(db=cs.inject("db")):
        raise error

    provider = sync if kind == "sync" else asynchronous
    with pytest.raises(ValueError, match="mine") as caught:
        run(fails(), resources=[cs.resource(provider, name="db", scope=scope)])
    assert caught.value is error
    assert seen == [error]


def test_a_task_resource_sees_the_failure_of_its_attempt(run):
    """The attempt that fails is what a resource of scope task served, though another succeeds."""
    seen = []

    @cs.resource(scope="task")
    def db():
        try:
            yield "db"
        except BaseException as failure:
            seen.append(str(failure))
            raise
        else:
            seen.append("fine")

    failures = []

    @cs.task
    def flaky(db=cs.inject("db")):
        if not failures:
            failures.append(1)
            raise ValueError("first")
        return "value"

    assert run(flaky().with_retry(2), resources=[db]) == "value"
    assert seen == ["first", "fine"]


def test_cancellation_is_thrown_in_and_tear_down_is_shielded(inside, use_vm):
    """A cancelled run lets its resources be torn down, with awaiting, and then is cancelled."""
    log = []

    @cs.resource
    async def db():
        try:
            yield "db"
        except BaseException:
            log.append("thrown in")
            raise
        finally:
            await anyio.sleep(1)
            log.append("down")

    @cs.task
    async def waits(db=cs.inject("db")):
        await anyio.sleep_forever()

    async def program():
        with anyio.move_on_after(5) as scope:
            engine = cs.Engine(teardown_timeout=10)
            engine.register(db)
            await engine.run(waits(), use_vm=use_vm)
        return scope.cancelled_caught

    assert inside(program)
    assert log == ["thrown in", "down"]


def test_tear_down_has_a_deadline(inside, use_vm):
    """A tear-down that hangs ends after `teardown_timeout`, and the others follow."""
    log = []

    @cs.resource
    async def hangs(other=cs.inject("other")):
        yield "db"
        await anyio.sleep_forever()

    async def program():
        engine = cs.Engine(teardown_timeout=3)
        engine.register(hangs)
        engine.register(logged("other", log))
        begin = anyio.current_time()
        with contextlib.suppress(Exception):
            await engine.run(echo(cs.inject("hangs")), use_vm=use_vm)
        return anyio.current_time() - begin

    assert inside(program) == pytest.approx(3)
    assert log == ["other up", "other down"]


WIDER = {("step", "run"), ("task", "run"), ("task", "step")}


@pytest.mark.parametrize("outer", ["run", "step", "task"])
@pytest.mark.parametrize("inner", ["run", "step", "task"])
def test_a_provider_may_inject_its_own_or_a_wider_scope(run, outer, inner):
    """A provider that needs a resource of a narrower scope is a ValueError before anything runs."""
    log = []
    resources = [logged("db", log, outer, needs="other"), logged("other", log, inner)]

    @cs.task
    def first():
        log.append("ran")

    target = [first(), use()]
    if outer == inner or (outer, inner) in WIDER:
        assert run(target, resources=resources) == [None, "db on other"]
    else:
        with pytest.raises(ValueError, match="other"):
            run(target, resources=resources)
        assert log == []


@pytest.mark.parametrize("where", ["default", "argument", "map", "provider"])
def test_an_unknown_name_is_found_before_anything_runs(run, where):
    """A name that nobody registered is a ResourceNotFoundError and nothing has run."""
    log = []

    @cs.task
    def first():
        log.append("ran")

    @cs.task
    def item(x, db=cs.inject("missing")):
        return x

    @cs.resource
    def db(other=cs.inject("missing")):
        yield other

    targets = {
        "default": item(1),
        "argument": echo([cs.inject("missing")]),
        "map": item.map(x=[1]),
        "provider": use(),
    }
    with pytest.raises(cs.ResourceNotFoundError, match="missing"):
        run([first(), targets[where]], resources=[db] if where == "provider" else [])
    assert log == []


def test_a_cycle_of_providers_is_a_cycle_error(run):
    """Providers that need each other cannot be set up."""
    log = []
    resources = [logged("db", log, needs="other"), logged("other", log, needs="db")]
    with pytest.raises(cs.CycleError, match="db"):
        run(use(), resources=resources)
    assert log == []


def test_an_override_replaces_a_resource_within_its_block(inside, use_vm):
    """A value or another definition stands for the resource, which is not set up, until the end."""
    log = []

    async def program():
        engine = cs.Engine()
        engine.register(logged("db", log))
        values = []
        with engine.override_resource("db", "value"):
            values.append(await engine.run(use(), use_vm=use_vm))
        with engine.override_resource("db", logged("instead", log)):
            values.append(await engine.run(use(), use_vm=use_vm))
        values.append(await engine.run(use(), use_vm=use_vm))
        return values

    assert inside(program) == ["value", "instead", "db"]
    assert log == ["instead up", "instead down", "db up", "db down"]


def test_each_run_of_an_engine_has_its_own_resources(inside, use_vm):
    """Concurrent runs set up and tear down a resource each."""
    log = []

    @cs.task
    async def work(db=cs.inject("db")):
        await anyio.sleep(1)

    async def program():
        engine = cs.Engine()
        engine.register(logged("db", log))
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(lambda: engine.run(work(), use_vm=use_vm))

    inside(program)
    assert sorted(log) == ["db down", "db down", "db up", "db up"]


def test_set_up_and_tear_down_are_published(run):
    """ResourceAcquired and ResourceReleased name the resource."""
    events = []
    bus = cs.MessageBus()
    for kind in (cs.ResourceAcquired, cs.ResourceReleased):
        bus.subscribe(kind, lambda event: events.append((type(event), event.resource_name)))
    run(use(), bus=bus, resources=[logged("db", [])])
    assert events == [(cs.ResourceAcquired, "db"), (cs.ResourceReleased, "db")]


class Stop(BaseException):
    """An exception of a user's own that is no Exception."""


@pytest.mark.parametrize("scope", ["run", "step", "task"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_set_up_may_fail_with_any_base_exception(run, scope, kind):
    """A BaseException of a set-up surfaces as itself too, and is not retried."""
    errors = []

    def fails():
        errors.append(Stop("no"))
        raise errors[-1]

    def sync():
        yield fails()

    async def asynchronous():
        yield fails()

    db = cs.resource(sync if kind == "sync" else asynchronous, name="db", scope=scope)
    bus, finished = cs.MessageBus(), []
    bus.subscribe(cs.RunFinished, lambda event: finished.append((event.status, event.error)))
    with pytest.raises(Stop) as caught:
        run(use().with_retry(3, on=BaseException), resources=[db], bus=bus)
    assert errors == [caught.value]
    assert "'db'" in "".join(caught.value.__notes__)
    assert finished == [("Failed", caught.value)]


@pytest.mark.parametrize("scope", ["run", "step", "task"])
def test_a_tear_down_may_fail_with_any_base_exception(run, scope):
    """A BaseException of a tear-down is in a group of its own making, and no retry follows."""
    error = Stop("no")
    calls = []

    @cs.resource(scope=scope)
    def db():
        yield 1
        raise error

    @cs.task
    def work(db=cs.inject("db")):
        calls.append(db)

    with pytest.raises(BaseExceptionGroup) as caught:
        run(work().with_retry(3, on=BaseException), resources=[db])
    assert caught.value.exceptions == (error,)
    assert calls == [1]


@pytest.mark.parametrize("cascade_backend", ["asyncio"])
@pytest.mark.parametrize("scope", ["run", "step", "task"])
@pytest.mark.parametrize("place", ["set-up", "tear-down"])
def test_a_cancelled_error_that_nobody_asked_for_is_a_failure(run, scope, place):
    """A provider that awaits a cancelled future fails the run, though nobody cancelled the run."""

    async def awaits_a_cancelled_future():
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    @cs.resource(scope=scope)
    async def db():
        if place == "set-up":
            await awaits_a_cancelled_future()
        yield 1
        await awaits_a_cancelled_future()

    with pytest.raises(BaseException) as caught:  # noqa: PT011 (whatever its shape)
        run(use(), resources=[db])
    error = caught.value
    if place == "tear-down":
        (error,) = error.exceptions
    assert type(error) is asyncio.CancelledError


@pytest.mark.parametrize("scope", ["run", "step", "task"])
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("error", [StopIteration, StopAsyncIteration])
def test_a_failure_that_generators_replace_is_no_failure_of_theirs(run, scope, kind, error):
    """What a task raises surfaces without the generators it is thrown into, StopIteration too."""
    failure = error("mine")

    def sync():
        yield "db"

    async def asynchronous():
        yield "db"

    @cs.task
    async def fails(db=cs.inject("db")):
        raise failure

    db = cs.resource(sync if kind == "sync" else asynchronous, name="db", scope=scope)
    with pytest.raises((StopAsyncIteration, RuntimeError)) as caught:
        run([fails()], resources=[db])
    if error is StopIteration:
        assert caught.value.__cause__ is failure
    else:
        assert caught.value is failure


@pytest.mark.parametrize("scope", ["run", "step", "task"])
def test_a_resource_that_dies_in_the_background_fails_the_run_at_once(inside, use_vm, scope):
    """What a resource leaves running ends the run when it fails, and not only at the tear-down."""

    async def dies():
        await anyio.sleep(1)
        raise OSError("connection lost")

    @cs.resource(scope=scope)
    async def db():
        async with anyio.create_task_group() as group:
            group.start_soon(dies)
            yield 1

    @cs.task
    async def waits(db=cs.inject("db")):
        await anyio.sleep(100)

    async def program():
        engine = cs.Engine()
        engine.register(db)
        with pytest.raises(Exception) as caught:  # noqa: PT011 (whatever its shape)
            await engine.run(waits(), use_vm=use_vm)
        return caught.value, anyio.current_time()

    error, time = inside(program)
    assert time == pytest.approx(1)
    assert "connection lost" in "".join(traceback.format_exception(error))


def test_overrides_that_overlap_end_one_by_one(inside, use_vm):
    """The last override that is still within its block counts, however the blocks overlap."""
    seen = []

    async def program():
        engine = cs.Engine()
        engine.register(logged("db", []))

        async def override(value, start, end):
            await anyio.sleep(start)
            with engine.override_resource("db", value):
                await anyio.sleep(end - start)

        async with anyio.create_task_group() as group:
            group.start_soon(override, "A", 1, 3)
            group.start_soon(override, "B", 2, 4)
            for time in (0.5, 1.5, 2.5, 3.5, 4.5):
                await anyio.sleep(time - anyio.current_time())
                seen.append(await engine.run(use(), use_vm=use_vm))

    inside(program)
    assert seen == ["db", "A", "B", "B", "db"]


def test_an_amount_may_not_be_a_resource_of_an_attempt(run):
    """An amount is known before the gate, and what is set up after it cannot tell it."""

    @cs.resource(scope="task")
    def slots():
        yield 1

    with pytest.raises(ValueError, match="slots"):
        run(
            use(1).with_constraints(gpu=cs.inject("slots")),
            resources=[slots],
            system_resources={"gpu": 1},
        )


def test_a_failing_tear_down_of_a_cancelled_run_is_logged_as_such(inside, use_vm, caplog):
    """Cancellation goes on through a failing tear-down, which is logged and noted."""

    @cs.resource
    def db():
        try:
            yield 1
        finally:
            raise ValueError("teardown")

    @cs.task
    async def waits(_db=cs.inject("db")):
        await anyio.sleep(60)

    async def main():
        engine = cs.Engine()
        engine.register(db)
        with anyio.move_on_after(1) as scope:
            await engine.run(waits(), use_vm=use_vm)
        return scope.cancelled_caught

    assert inside(main)
    assert any("tear-down" in record.message for record in caplog.records)
    assert not any("set-up" in note for record in caplog.records for note in _notes_of(record))


def _notes_of(record):
    return getattr(record.exc_info[1], "__notes__", ()) if record.exc_info else ()


@pytest.mark.parametrize("scope", ["run", "step", "task"])
def test_a_resource_that_ends_by_itself_fails_the_run(run, scope):
    """A resource whose own scope ends its `yield` is a failure that names it."""

    @cs.resource(scope=scope)
    async def brief():
        with anyio.move_on_after(2):
            yield 1

    @cs.task
    async def waits(_brief=cs.inject("brief")):
        await anyio.sleep(60)

    with pytest.raises(RuntimeError, match="'brief' ended by itself"):
        run(waits(), resources=[brief])


def test_the_first_failing_tear_down_ends_the_run(run):
    """A loop whose step resource fails in its tear-down does not go on to the next iteration."""
    executions = []

    @cs.resource(scope="step")
    def breaks():
        yield 1
        raise ValueError("teardown")

    @cs.task
    def step(_breaks=cs.inject("breaks")):
        executions.append(1)
        return cs.Jump("again")

    node = step()
    with pytest.raises(ExceptionGroup) as caught:
        run(cs.bind(node, cs.select_jump({"again": node})), resources=[breaks])
    assert [str(error) for error in caught.value.exceptions] == ["teardown"]
    assert len(executions) == 1


def test_a_resource_of_an_attempt_is_no_condition(run):
    """It is there during the attempt only, which comes after the conditions."""

    @cs.resource(scope="task")
    def connection():
        yield True

    @cs.task
    def work():
        raise AssertionError("does not run")

    with pytest.raises(ValueError, match="a condition of task 'work'"):
        run(work().run_if(cs.inject("connection")), resources=[connection])


@pytest.mark.parametrize("error", [StopIteration, StopAsyncIteration])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_stop_that_a_set_up_raises_is_no_missing_yield(run, error, is_async):
    """A Stop(Async)Iteration of the provider's own is told, as itself or as the cause."""

    def give():
        raise error("of its own")
        yield

    async def give_async():
        raise error("of its own")
        yield

    provider = cs.resource(give_async if is_async else give, name="given")
    with pytest.raises((RuntimeError, StopAsyncIteration)) as caught:
        run(cs.task(lambda given: given, name="use")(cs.inject("given")), resources=[provider])
    assert "of its own" in f"{caught.value} {caught.value.__cause__}"


def test_resources_are_given_wherever_runs_are_started(inside, use_vm):
    """`Engine(resources=...)` is for all its runs, `engine.run(resources=...)` for one of them.

    Those of a run come before the engine's of the same name, and after an override.
    """

    def providing(name, value):
        @cs.resource(name=name)
        def provide(inner=cs.inject("name")):
            yield f"{value} of {inner}"

        return provide

    @cs.resource(name="name")
    def name():
        yield "engine"

    @cs.resource(name="name")
    def own_name():
        yield "run"

    @cs.task
    def use(db=cs.inject("db")):
        return db

    async def main():
        engine = cs.Engine(resources=[name, providing("db", "a db")])
        own = [own_name]
        found = [await engine.run(use(), use_vm=use_vm)]
        found.append(await engine.run(use(), use_vm=use_vm, resources=own))
        found.append(
            await engine.run(use(), use_vm=use_vm, resources=[providing("db", "mine"), *own])
        )
        with engine.override_resource("name", "override"):
            found.append(await engine.run(use(), use_vm=use_vm, resources=own))
        found.append(await engine.run(use(), use_vm=use_vm))
        mine = providing("mine", "mine")
        with pytest.raises(cs.ResourceNotFoundError, match=r"known: 'db', 'mine', 'name'"):
            await engine.run(gone(), use_vm=use_vm, resources=[mine, name])
        return found

    @cs.task
    def gone(what=cs.inject("gone")):
        return what

    told = [
        "a db of engine",
        "a db of run",
        "mine of run",
        "a db of override",
        "a db of engine",
    ]
    assert inside(main) == told


@pytest.mark.parametrize(("scope", "set_ups"), [("run", 1), ("step", 3), ("task", 6)])
def test_a_resource_of_one_run_has_its_scope(inside, use_vm, scope, set_ups):
    """Resources that only the run knows are set up as often as the engine's are."""
    log = []

    async def main():
        engine = cs.Engine()
        resources = [logged("db", log, scope)]
        return await engine.run(looped(step(1, again=use())), use_vm=use_vm, resources=resources)

    inside(main)
    assert log.count("db up") == log.count("db down") == set_ups


def test_resources_are_a_list_of_definitions(inside, use_vm):
    """A single definition, or what is none, is a `TypeError` wherever it is given."""

    @cs.resource
    def single():
        yield 1

    async def main(wrong):
        with pytest.raises(TypeError, match=r"resources=\[\.\.\.\]|is no resource"):
            cs.Engine(resources=wrong)
        with pytest.raises(TypeError, match=r"resources=\[\.\.\.\]|is no resource"):
            await cs.Engine().run(1, use_vm=use_vm, resources=wrong)

    inside(main, single)
    inside(main, [single, 5])
