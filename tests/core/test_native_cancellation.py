"""asyncio's own `Task.cancel()`, of a run at any moment and of tasks within one (section 11)."""

import asyncio
import os
import random

import anyio
import pytest

import cascade as cs
from cascade.core.services import FusedTier
from cascade.testing import virtual_time

SEEDS = int(os.environ.get("CASCADE_CANCELLATIONS", "300"))  # of each strategy


@cs.task
async def nap(x=0, seconds=1):
    await asyncio.sleep(seconds)
    return x


@cs.task
async def flaky(state):
    await asyncio.sleep(0.5)
    state.append(1)
    if len(state) < 3:
        raise ValueError
    return "done"


@cs.task
async def groups(x):
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(nap.func(x, 0.3))
            group.create_task(fails.func())
    except* ValueError:
        await asyncio.sleep(0.2)
    return x


@cs.task
async def fails():
    await asyncio.sleep(0.2)
    raise ValueError


@cs.task
async def step(n):
    await asyncio.sleep(0.05)
    return cs.Jump("again", n + 1) if n < 30 else n


@cs.task
def inline(x):
    return x


@cs.task
async def use(*things):
    await asyncio.sleep(0.7)
    return things


def loop():
    node = step(0)
    return cs.bind(node, cs.select_jump({"again": node}))


db, step_db, task_db = cs.inject("db"), cs.inject("step_db"), cs.inject("task_db")

PROGRAMS = [
    lambda: nap(nap(nap(1))),
    lambda: [nap(inline(nap(1)), 2), inline(nap(3))],
    lambda: [nap(x).with_constraints(gpu=1 + x % 2) for x in range(4)],
    lambda: flaky([]).with_retry(3, delay=0.5).with_constraints(gpu=2),
    lambda: nap(1, 9).with_timeout(1).with_retry(2),
    lambda: [nap(1).with_cache(cs.InMemoryCache()), *[nap(2).with_cache(CACHE) for _ in range(2)]],
    loop,
    lambda: [loop(), loop(), groups(1)],
    lambda: groups.map(x=[1, 2, nap(3)]).with_constraints(gpu=2),
    lambda: use(db),
    lambda: use(db, step_db, task_db),
    lambda: [use(task_db).with_retry(2).with_timeout(5), use(1, step_db), loop()],
    lambda: [use(task_db), use(task_db), groups(2)],
]
CACHE = cs.InMemoryCache(max_entries=1)


def resources(living):
    """A resource of each scope that counts itself among the living, and takes time to go."""

    def provider(scope):
        async def generator():
            await asyncio.sleep(0.1)
            living.append(scope)
            try:
                yield scope
            finally:
                await asyncio.sleep(0.4)
                living.remove(scope)

        return generator

    names = {"run": "db", "step": "step_db", "task": "task_db"}
    return [cs.resource(provider(s), name=name, scope=s) for s, name in names.items()]


async def cancelled_at_random(engine, target, use_vm, draw):
    """Run `target`, cancel its task once to three times at random moments; how it ended."""

    async def runs():
        try:
            await engine.run(target, use_vm=use_vm)
        except cs.TaskTimeoutError:
            return "Failed"
        return "Succeeded"

    task = asyncio.ensure_future(runs())
    for _ in range(draw.randint(1, 3)):
        delay = draw.choice([0, 0.05 * draw.randrange(60), draw.random() * 3])
        if delay:
            await asyncio.sleep(delay)
        for _ in range(draw.randrange(12)):
            await asyncio.sleep(0)
        task.cancel()
    done, _ = await asyncio.wait({task}, timeout=50)
    assert done, "it hangs"
    return "Cancelled" if task.cancelled() else task.result()


def test_a_run_cancelled_at_random_moments_leaves_nothing_behind(use_vm):
    """None hangs; no task, slot or resource is left; the run is cancelled, or was done before."""

    async def program():
        ends, living = [], []
        engine = cs.Engine(system_resources={"gpu": 2})
        engine.services.fused_tier = FusedTier(0)
        engine.bus.subscribe(cs.RunFinished, lambda event: ends.append(event.status))
        for definition in resources(living):
            engine.register(definition)
        everybody = asyncio.all_tasks()
        counts = dict.fromkeys(["Cancelled", "Succeeded", "Failed"], 0)
        for seed in range(SEEDS):
            draw = random.Random(seed)
            CACHE.clear()
            program = draw.choice(PROGRAMS)
            del ends[:]
            status = await cancelled_at_random(engine, program(), use_vm, draw)
            # A request that comes when the run has its value, and before its task is over, counts
            # for the task alone.
            assert ends in ([], [status]) or status == "Cancelled", seed
            counts[status] += 1
            assert asyncio.all_tasks() == everybody, seed
            assert living == [], seed
            found = engine.constraints.statistics()
            assert (found.parked, found.free["gpu"]) == (0, 2), seed
        return counts

    counts = anyio.run(program, backend_options=virtual_time("asyncio"))
    print(counts)
    assert counts["Cancelled"] > SEEDS / 3


# Tasks of a run


@pytest.mark.parametrize("when", ["in use", "in set-up", "in tear-down"])
@pytest.mark.parametrize("scope", ["run", "step"])
def test_the_host_of_a_resource_is_cancelled(use_vm, scope, when):
    """The run fails; tasks that use the resource end before it goes."""
    log, hosts = [], []

    @cs.resource(scope=scope)
    async def thing():
        hosts.append(asyncio.current_task())
        if when == "in set-up":
            await asyncio.sleep(1)
        try:
            yield "thing"
        finally:
            await asyncio.sleep(1)
            log.append("gone")

    @cs.task
    async def uses(thing):
        try:
            await asyncio.sleep(0.1 if when == "in tear-down" else 5)
        finally:
            log.append("used")
        return thing

    async def program():
        engine = cs.Engine()
        engine.register(thing)
        finished = []
        engine.bus.subscribe(cs.RunFinished, lambda event: finished.append(event.status))
        task = asyncio.ensure_future(engine.run(uses(cs.inject("thing")), use_vm=use_vm))
        await asyncio.sleep(0.5)
        hosts[0].cancel()
        done, _ = await asyncio.wait({task}, timeout=20)
        assert done
        assert finished == ["Failed"]
        if when == "in tear-down":
            with pytest.raises(BaseExceptionGroup, match="tear-down") as raised:
                await task
            assert isinstance(raised.value.exceptions[0], asyncio.CancelledError)
        else:
            with pytest.raises(asyncio.CancelledError):
                await task
        assert len(asyncio.all_tasks()) == 1
        assert log == {"in use": ["used", "gone"], "in tear-down": ["used"]}.get(when, [])

    anyio.run(program, backend_options=virtual_time("asyncio"))


@pytest.mark.parametrize("scope", ["run", "step", "task"])
def test_a_resource_may_hold_a_task_group_of_asyncio(use_vm, scope):
    """If a task in its background fails, the run fails with that, after those who used it."""
    log = []

    @cs.resource(scope=scope)
    async def thing():
        async with asyncio.TaskGroup() as group:
            group.create_task(fails.func())
            yield group

    @cs.task
    async def uses(_thing):
        try:
            await asyncio.sleep(5)
        finally:
            log.append("used")

    async def program():
        run = cs.run_async(uses(cs.inject("thing")), use_vm=use_vm, resources=[thing])
        with pytest.raises(ExceptionGroup) as raised:
            await asyncio.wait_for(run, 20)
        assert isinstance(raised.value.exceptions[0], ValueError)

    anyio.run(program, backend_options=virtual_time("asyncio"))
    assert log == ["used"]


@pytest.mark.parametrize("victim", ["async", "inline", "of a flight", "pausing"])
def test_a_task_of_a_run_is_cancelled(use_vm, victim):
    """By whoever holds it: its run ends in that CancelledError, neither in a value nor never."""
    held = []

    @cs.task
    async def waits():
        held.append(asyncio.current_task())
        await asyncio.sleep(5)

    @cs.task
    def inline():
        held.append(asyncio.current_task())

    @cs.task
    async def pausing():  # held is whoever sleeps for it
        raise ValueError

    @cs.task
    async def kills():
        await asyncio.sleep(0.5)
        tasks = held or [task for task in asyncio.all_tasks() if task not in everybody]
        for task in tasks:
            if task is not asyncio.current_task():
                task.cancel()
        await asyncio.sleep(3)

    targets = {
        "async": waits,
        "inline": inline,
        "of a flight": lambda: waits().with_cache(CACHE),
        "pausing": lambda: pausing().with_retry(5, delay=1),
    }
    everybody = set()

    async def program():
        engine = cs.Engine(system_resources={"gpu": 1})
        finished = []
        engine.bus.subscribe(cs.RunFinished, lambda event: finished.append(event.status))
        holder = asyncio.ensure_future(engine.run(nap(1, 30).with_constraints(gpu=1)))
        await asyncio.sleep(0.1)
        everybody.update(asyncio.all_tasks())
        target = [targets[victim](), kills()]
        task = asyncio.ensure_future(engine.run(target, use_vm=use_vm))
        everybody.add(task)
        done, _ = await asyncio.wait({task}, timeout=20)
        assert done
        with pytest.raises(asyncio.CancelledError):
            await task
        assert finished == ["Failed"]
        assert await holder == 1
        assert engine.constraints.statistics().free["gpu"] == 1

    anyio.run(program, backend_options=virtual_time("asyncio"))


def test_an_event_loop_that_ends_ends_its_runs(use_vm):
    """`asyncio.run` cancels every task that is left, those of a run all at once."""
    log, living = [], []

    async def program():
        engine = cs.Engine()
        for definition in resources(living):
            engine.register(definition)
        engine.bus.subscribe(cs.RunFinished, lambda event: log.append(event.status))
        targets = [use(db, step_db), use(db, task_db), nap(1, 50)]
        log.append(asyncio.ensure_future(engine.run(targets, use_vm=use_vm)))
        await asyncio.sleep(0.4)
        assert "run" in living

    asyncio.run(program())
    assert log[1:] == ["Cancelled"]
    assert log[0].cancelled()
    assert living == []


# Scopes of our own, where a call has left requests behind


@cs.task
async def late():
    """It catches the failure of a group, and then takes too long."""
    await groups.func(1)
    await asyncio.sleep(60)


@pytest.mark.parametrize("beside", [False, True])
def test_a_timeout_strikes_after_a_group_has_failed(use_vm, beside):
    """The time of the attempt is up, whatever it has caught before."""

    async def program():
        target = late().with_timeout(5)
        with pytest.raises(cs.TaskTimeoutError):
            await cs.run_async([target, nap(1)] if beside else target, use_vm=use_vm)

    anyio.run(program, backend_options=virtual_time("asyncio"))


@pytest.mark.parametrize("scope", ["run", "step", "task"])
def test_a_tear_down_takes_too_long_after_a_group_has_failed(use_vm, scope):
    """Its deadline holds, and is told as one."""

    @cs.resource(scope=scope)
    async def thing():
        yield "thing"
        await late.func()

    async def program():
        engine = cs.Engine(teardown_timeout=5)
        engine.register(thing)
        with pytest.raises(BaseExceptionGroup) as raised:
            await engine.run(use(cs.inject("thing")), use_vm=use_vm)
        assert [type(error) for error in raised.value.exceptions] == [TimeoutError]

    anyio.run(program, backend_options=virtual_time("asyncio"))


def test_a_set_up_is_given_up_after_a_group_has_failed(use_vm):
    """The failure that ended the run stays the only one."""

    @cs.resource
    async def thing():
        await late.func()
        yield "thing"

    @cs.task
    async def fails_later():
        await asyncio.sleep(5)
        raise LookupError("alone")

    async def program():
        target = [use(cs.inject("thing")), fails_later()]
        with pytest.raises(LookupError, match="alone") as raised:
            await cs.run_async(target, use_vm=use_vm, resources=[thing])
        assert not any("meanwhile" in note for note in raised.value.__notes__)

    anyio.run(program, backend_options=virtual_time("asyncio"))


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_a_tear_down_outlasts_native_cancellation(use_vm, how, times):
    """Every tear-down is done, in order, and then the cancellation goes on outwards."""
    log = []

    def provider(name):
        async def generator():
            yield name
            await asyncio.sleep(1)
            log.append(name)

        return cs.resource(generator, name=name)

    async def program():
        task = asyncio.ensure_future(under_a_timeout() if how == "timeout" else runs())
        await asyncio.sleep(0.3)
        for _ in range(times):
            await asyncio.sleep(0.4)
            if how == "cancel":
                task.cancel()
        await asyncio.wait({task}, timeout=20)
        assert log == ["b", "a"]
        if how == "timeout":
            assert task.result() == "TimeoutError"
        else:
            assert task.cancelled()

    async def runs():
        target = nap([cs.inject("a"), cs.inject("b")], 0.5)
        await cs.run_async(target, use_vm=use_vm, resources=[provider("a"), provider("b")])

    async def under_a_timeout():
        try:
            async with asyncio.timeout(0.4 + 0.4 * times):
                await runs()
        except TimeoutError:
            return "TimeoutError"

    anyio.run(program, backend_options=virtual_time("asyncio"))


# trio, and anyio on both


async def nursery_fails():
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 5)
        await anyio.sleep(0.1)
        raise ValueError("boom")


async def scope_is_left_in_time():
    with anyio.move_on_after(0.1):
        await anyio.sleep(5)


async def fails_after():
    with anyio.fail_after(0.1):
        await anyio.sleep(5)


async def scope_cancelled_from_a_child():
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 5)
        await anyio.sleep(0.1)
        group.cancel_scope.cancel()


@pytest.mark.parametrize("place", ["alone", "beside", "map", "retried", "timed", "loop", "set-up"])
@pytest.mark.parametrize("is_caught", [False, True])
@pytest.mark.parametrize(
    "primitive", [nursery_fails, scope_is_left_in_time, fails_after, scope_cancelled_from_a_child]
)
def test_scopes_and_groups_of_anyio_in_a_task(inside, use_vm, primitive, is_caught, place):
    """What comes out of them comes out of the run, on both event loops."""

    async def code(x=0):
        try:
            await primitive()
        except Exception:
            if not is_caught:
                raise
        await anyio.sleep(0.1)
        return cs.Jump("again", x + 1) if place == "loop" and x < 3 else "value"

    @cs.resource
    async def thing():
        await code()
        yield "value"

    @cs.task
    async def uses(thing):
        return thing

    def target():
        body = cs.task(code)
        match place:
            case "beside":
                return [body(), body()]
            case "map":
                return body.map(x=[1, 2])
            case "retried":
                return body().with_retry(2)
            case "timed":
                return body().with_timeout(50)
            case "loop":
                node = body()
                return cs.bind(node, cs.select_jump({"again": node}))
            case "set-up":
                return uses(cs.inject("thing"))
        return body()

    async def program():
        engine = cs.Engine()
        engine.services.fused_tier = FusedTier(0)
        engine.register(thing)
        try:
            expected = (await primitive()) or "value"
        except Exception as error:
            expected = "value" if is_caught else type(error)
        with anyio.fail_after(100):
            try:
                found = await engine.run(target(), use_vm=use_vm)
            except Exception as error:
                found = type(error)
        if place in ("beside", "map") and expected == "value":
            expected = ["value"] * 2
        assert found == expected

    inside(program)
