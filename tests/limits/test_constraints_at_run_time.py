"""Constraints that change while tasks wait: at once, for whom they concern, from anywhere."""

import threading
from functools import partial

import anyio
import pytest

import cascade as cs


def constraint(kind, scope="task:hold", *, id=None, ttl=None, **params):
    return cs.GlobalConstraint(id or f"{kind}:{scope}", scope, kind, params, ttl)


def limit(count, **fields):
    return constraint("concurrency", limit=count, **fields)


def pause(**fields):
    return constraint("pause", **fields)


def rate(per_second, burst=1, **fields):
    return constraint("rate_limit", rate=per_second, burst=burst, **fields)


@pytest.fixture
def starts():
    """The times at which `hold` started."""
    return []


@pytest.fixture
def hold(starts):
    @cs.task
    async def hold(seconds=1):
        starts.append(anyio.current_time())
        await anyio.sleep(seconds)

    return hold


@cs.task
async def later(seconds=0.5):
    await anyio.sleep(seconds)


def woken_by(engine, change):
    """How many parked tasks a change wakes, there and then."""
    before = engine.constraints.statistics().wakeups
    change(engine.constraints)
    return engine.constraints.statistics().wakeups - before


def in_a_task(kind, engine, change, woken):
    """A task that makes the change after half a second, as a part of the target."""

    async def makes_async():
        woken.append(woken_by(engine, change))

    def makes():
        woken.append(woken_by(engine, change))

    def makes_in_thread():
        woken.append(anyio.from_thread.run_sync(woken_by, engine, change))

    task = {
        "async task": cs.task(makes_async),
        "inline task": cs.task(makes),
        "thread task": cs.task(makes_in_thread, mode="thread"),
    }[kind]
    return task().after(later())


async def beside(kind, engine, change, woken):
    """A coroutine of the application that makes the change after half a second."""
    await anyio.sleep(0.5)
    if kind == "coroutine":
        woken.append(woken_by(engine, change))
    else:
        woken.append(
            await anyio.to_thread.run_sync(
                lambda: anyio.from_thread.run_sync(woken_by, engine, change)
            )
        )


def malformed(constraints):
    with pytest.raises(ValueError, match="limit"):
        constraints.limit_concurrency("task:hold", 0)


CHANGES = {
    # name: (in force before, the change, woken by it, starts of five tasks of a second each)
    "resume": (
        [pause()],
        lambda constraints: constraints.resume("task:hold"),
        5,
        [0.5] * 5,
    ),
    "resume another scope": (
        [pause(ttl=2)],
        lambda constraints: constraints.resume("task:*"),
        0,
        [2] * 5,
    ),
    "resume one of two pauses": (
        [pause(ttl=2, scope="task:h*", id="other"), pause()],
        lambda constraints: constraints.resume("task:hold"),
        0,
        [2] * 5,
    ),
    "remove a pause": (
        [pause()],
        lambda constraints: constraints.remove(constraints.active()[0].id),
        5,
        [0.5] * 5,
    ),
    "pause": (
        [limit(1)],
        lambda constraints: constraints.pause("task:hold", ttl=1),
        0,
        [0, 1.5, 2.5, 3.5, 4.5],
    ),
    "shorten a pause": (
        [pause(ttl=1000)],
        lambda constraints: constraints.pause("task:hold", ttl=1),
        0,
        [1.5] * 5,
    ),
    "prolong a pause": (
        [pause(ttl=1)],
        lambda constraints: constraints.pause("task:hold", ttl=1),
        0,
        [1.5] * 5,
    ),
    "raise a limit": (
        [limit(1)],
        lambda constraints: constraints.limit_concurrency("task:hold", 3),
        2,
        [0, 0.5, 0.5, 1, 1.5],
    ),
    "a second limit under another id": (
        [limit(1)],
        lambda constraints: constraints.update(limit(3, id="another")),
        0,
        [0, 1, 2, 3, 4],
    ),
    "lower a limit below the number running": (
        [limit(3)],
        lambda constraints: constraints.limit_concurrency("task:hold", 1),
        0,
        [0, 0, 0, 1, 2],
    ),
    "lower a limit for a while": (
        [limit(2)],
        lambda constraints: constraints.limit_concurrency("task:hold", 1, ttl=1),
        0,
        [0, 0, 1, 1.5, 1.5],
    ),
    "the same limit again": (
        [limit(2)],
        lambda constraints: constraints.limit_concurrency("task:hold", 2),
        0,
        [0, 0, 1, 1, 2],
    ),
    "remove a limit": (
        [limit(1)],
        lambda constraints: constraints.remove(constraints.active()[0].id),
        4,
        [0, 0.5, 0.5, 0.5, 0.5],
    ),
    "add a narrower limit": (
        [limit(3)],
        lambda constraints: constraints.limit_concurrency("task:h*", 1),
        0,
        # It counts only what it admits itself: the three that run are none of its own.
        [0, 0, 0, 1, 2],
    ),
    "remove a rate": (
        [rate(0.1)],
        lambda constraints: constraints.remove(constraints.active()[0].id),
        4,
        [0, 0.5, 0.5, 0.5, 0.5],
    ),
    "let the id go elsewhere": (
        [pause(id="one")],
        lambda constraints: constraints.update(pause(scope="task:other", id="one")),
        5,
        [0.5] * 5,
    ),
    "a limit in place of a pause": (
        [pause(id="one")],
        lambda constraints: constraints.update(limit(2, id="one")),
        2,
        [0.5, 0.5, 1.5, 1.5, 2.5],
    ),
    "a rate in place of a pause": (
        [pause(id="one")],
        lambda constraints: constraints.update(rate(2, burst=2, id="one")),
        2,
        [0.5, 0.5, 1, 1.5, 2],
    ),
    "a pause in place of a limit": (
        [limit(1, id="one")],
        lambda constraints: constraints.update(pause(ttl=1, id="one")),
        0,
        [0, 1.5, 1.5, 1.5, 1.5],
    ),
    "nothing of the kind": (
        [limit(2)],
        lambda constraints: constraints.remove("unknown"),
        0,
        [0, 0, 1, 1, 2],
    ),
    "a change that is malformed": (
        [limit(2)],
        malformed,
        0,
        [0, 0, 1, 1, 2],
    ),
}


@pytest.mark.parametrize(
    "place", ["async task", "inline task", "thread task", "coroutine", "worker thread"]
)
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_takes_effect_at_once(inside, use_vm, hold, starts, name, place):
    """From wherever it is made, it wakes exactly those it frees, and the others wait as it says."""
    before, change, expected, times = CHANGES[name]

    async def program():
        engine = cs.Engine(constraints=before)
        woken = []
        target = [hold() for _ in range(5)]
        async with anyio.create_task_group() as group:
            if "task" in place:
                target.append(in_a_task(place, engine, change, woken))
            else:
                group.start_soon(beside, place, engine, change, woken)
            with anyio.fail_after(2000):
                await engine.run(target, use_vm=use_vm)
        statistics = engine.constraints.statistics()
        assert statistics.parked == 0
        assert all(each.running == 0 for each in statistics.constraints.values())
        assert statistics.wakeups == 5 - times.count(0)
        return woken

    assert inside(program) == [expected]
    assert starts == times


def test_removing_one_of_two_limits_leaves_the_other(inside, use_vm, hold, starts):
    """Those who are freed of one are admitted as far as the other goes."""

    async def program():
        engine = cs.Engine(constraints=[limit(1), limit(2, scope="global", id="other")])
        woken = []

        def change(constraints):
            constraints.remove(constraints.active()[0].id)

        async with anyio.create_task_group() as group:
            group.start_soon(beside, "coroutine", engine, change, woken)
            await engine.run([hold() for _ in range(5)], use_vm=use_vm)
        return woken

    assert inside(program) == [1]
    assert starts == [0, 0.5, 1, 1.5, 2]


# Expiry


@pytest.mark.parametrize(
    ("made", "times"),
    [
        (pause(ttl=2), [2] * 4),
        (limit(1, ttl=1.5), [0, 1, 1.5, 1.5]),
        (rate(0.1, ttl=2), [0, 2, 2, 2]),
    ],
    ids=["pause", "concurrency", "rate"],
)
def test_an_expiry_wakes_whom_it_frees(inside, use_vm, hold, starts, made, times):
    """A ttl ends a constraint by itself, by one timer, at its time exactly."""

    async def program():
        engine = cs.Engine()

        @cs.task
        def make():
            engine.constraints.update(made)

        await engine.run([hold().after(make()) for _ in range(4)], use_vm=use_vm)
        statistics = engine.constraints.statistics()
        assert statistics.wakeups == sum(time > 0 for time in times)
        assert statistics.timers <= 2
        assert engine.constraints.active() == ()
        return anyio.current_time()

    assert inside(program) == times[-1] + 1
    assert starts == times


def test_several_expiries_come_in_their_order(inside, use_vm, starts, hold):
    """Each of many pauses ends at its own time, in whatever order they were made."""

    async def program():
        engine = cs.Engine()
        times = []

        @cs.task
        async def work(k):
            times.append((k, anyio.current_time()))

        for k in (3, 1, 4, 2, 5):
            engine.constraints.pause(f"task:w{k}", ttl=k)

        def named(k):
            return cs.task(work.func, name=f"w{k}")(k)

        await engine.run([named(k) for k in range(1, 6)], use_vm=use_vm)
        return times, engine.constraints.statistics().timers

    times, timers = inside(program)
    assert times == [(k, k) for k in range(1, 6)]
    assert timers == 5


def test_no_timer_is_set_for_a_ttl_that_nobody_waits_for(inside, use_vm, hold, starts):
    """A run ends when its tasks have ended, and leaves no timer behind."""

    async def program():
        engine = cs.Engine()
        engine.constraints.limit_concurrency("task:hold", 5, ttl=1000)
        engine.constraints.pause("task:other", ttl=1000)
        await engine.run([hold() for _ in range(5)], use_vm=use_vm)
        return anyio.current_time(), engine.constraints.statistics().timers

    assert inside(program) == (1, 0)


def test_an_expired_constraint_concerns_nobody_who_comes_later(inside, use_vm, hold, starts):
    """It needs no timer for that: who asks after its end is not held up."""

    async def program():
        engine = cs.Engine()
        engine.constraints.pause("task:hold", ttl=0.5)
        await engine.run(hold().after(later(0.75)), use_vm=use_vm)
        statistics = engine.constraints.statistics()
        return statistics.grants, statistics.wakeups, statistics.timers

    assert inside(program) == (0, 0, 0)
    assert starts == [0.75]


# What a change does not do


def test_a_pause_stops_nothing_that_runs(inside, use_vm, hold, starts):
    """It concerns starts only."""

    async def program():
        engine = cs.Engine()

        @cs.task
        async def pauses():
            await anyio.sleep(0.5)
            engine.constraints.pause("global")

        await engine.run([hold(2), hold(3), pauses()], use_vm=use_vm)
        return anyio.current_time()

    assert inside(program) == 3


@pytest.mark.parametrize("kind", ["inline", "async"])
def test_a_pause_made_by_a_task_concerns_the_next_in_plan_order(inside, use_vm, kind):
    """At once means: already the next start."""

    async def program():
        engine = cs.Engine()
        log = []

        def first():
            engine.constraints.pause("task:second", ttl=3)

        async def first_async():
            first()

        def second():
            log.append(anyio.current_time())

        task = cs.task(first if kind == "inline" else first_async, name="first")
        await engine.run([task(), cs.task(second)()], use_vm=use_vm)
        return log

    assert inside(program) == [3]


def test_a_task_may_pause_its_own_retry(inside, use_vm):
    """An attempt that has been told to come back later sees to it that the next one does."""

    async def program():
        engine = cs.Engine()
        times = []

        @cs.task
        async def asks():
            times.append(anyio.current_time())
            if len(times) < 3:
                engine.constraints.pause("task:asks", ttl=10 * len(times))
                raise ConnectionError
            return "answer"

        value = await engine.run(asks().with_retry(3, delay=1), use_vm=use_vm)
        return value, times

    assert inside(program) == ("answer", [0, 10, 30])


def test_a_loop_may_change_its_own_limits(inside, use_vm):
    """Each iteration starts under what the ones before it have set."""

    async def program():
        engine = cs.Engine()
        times = []

        @cs.task
        def step(n):
            times.append(anyio.current_time())
            if n == 0:
                engine.constraints.limit_rate("task:step", 1)
            if n == 3:
                engine.constraints.pause("task:step", ttl=5)
            if n == 4:
                engine.constraints.remove("rate_limit:task:step")
            return cs.Jump("again", {"n": n + 1}) if n < 6 else n

        node = step(0)
        await engine.run(cs.bind(node, cs.select_jump({"again": node})), use_vm=use_vm)
        return times

    assert inside(program) == [0, 0, 1, 2, 7, 7, 7]


def test_after_a_pause_those_parked_start_in_order_of_arrival(inside, use_vm):
    """A limit that held nobody up during the pause admits them one by one afterwards."""

    async def program():
        engine = cs.Engine(system_resources={"gpu": 1})
        log = []

        @cs.task
        async def work(x):
            log.append((x, anyio.current_time()))
            await anyio.sleep(1)

        @cs.task(name="other")
        async def other(x):
            await work.func(x)

        engine.constraints.pause("task:work")
        target = [work(x).with_constraints(gpu=1) for x in range(3)]
        passing = other("passing").with_constraints(gpu=1).after(later())
        async with anyio.create_task_group() as group:
            group.start_soon(partial(engine.run, [target, passing], use_vm=use_vm))
            await anyio.sleep(4)
            assert engine.constraints.statistics().parked == 3
            assert woken_by(engine, lambda constraints: constraints.resume("task:work")) == 1
        return log

    assert inside(program) == [("passing", 0.5), (0, 4), (1, 5), (2, 6)]


def test_a_limit_counts_on_when_it_is_replaced(inside, use_vm, hold, starts):
    """Lowered and raised again, it never admits more than its limit of the moment."""

    async def program():
        engine = cs.Engine()
        counts = []

        async def changes():
            for count in (4, 1, 2, 5, 1):
                engine.constraints.limit_concurrency("task:hold", count)
                statistics = engine.constraints.statistics()
                counts.append(statistics.constraints["concurrency:task:hold"].running)
                await anyio.sleep(0.25)

        engine.constraints.limit_concurrency("task:hold", 3)
        async with anyio.create_task_group() as group:
            group.start_soon(partial(engine.run, [hold(10) for _ in range(5)], use_vm=use_vm))
            await anyio.sleep(0.25)
            group.start_soon(changes)
        return counts

    assert inside(program) == [4, 4, 4, 5, 5]
    assert starts == [0, 0, 0, 0.25, 1]


def test_a_new_limit_counts_only_what_it_admits(inside, use_vm, hold, starts):
    """Tasks that ran before it came are none of its own."""

    async def program():
        engine = cs.Engine()
        async with anyio.create_task_group() as group:
            group.start_soon(
                partial(engine.run, [hold(2), hold(2), hold(2).after(later(1))], use_vm=use_vm)
            )
            await anyio.sleep(0.5)
            engine.constraints.limit_concurrency("task:hold", 1)

    inside(program)
    assert starts == [0, 0, 1]


def test_a_change_between_runs_concerns_the_next(inside, use_vm, hold, starts):
    """Constraints belong to the engine."""

    async def program():
        engine = cs.Engine()
        await engine.run([hold(), hold()], use_vm=use_vm)
        engine.constraints.limit_concurrency("task:hold", 1)
        await engine.run([hold(), hold()], use_vm=use_vm)
        assert engine.constraints.remove("concurrency:task:hold") is True
        await engine.run([hold(), hold()], use_vm=use_vm)

    inside(program)
    assert starts == [0, 0, 1, 2, 3, 3]


def test_one_run_frees_the_tasks_of_another(inside, use_vm, hold, starts):
    """Runs of one engine stand under the same constraints, whoever changes them."""

    async def program():
        engine = cs.Engine(constraints=[pause()])

        @cs.task
        def resumes():
            return engine.constraints.resume("task:hold")

        async with anyio.create_task_group() as group:
            group.start_soon(partial(engine.run, [hold(), hold()], use_vm=use_vm))
            assert await engine.run(resumes().after(later(3)), use_vm=use_vm) is True

    inside(program)
    assert starts == [3, 3]


# Reports


def test_what_changes_tell(inside, use_vm):
    """Makers give the id; `remove` and `resume` tell whether there was one; `active` lists all."""

    async def program():
        engine = cs.Engine()
        told = []

        @cs.task
        def changes():
            constraints = engine.constraints
            paused = constraints.pause("global", ttl=9)
            limited = constraints.limit_concurrency("task:a", 2)
            rated = constraints.limit_rate("task:b", "30/m", burst=3)
            assert constraints.update(limit(1, id="mine")) == "mine"
            told.append([(each.type, dict(each.params), each.ttl) for each in constraints.active()])
            assert {each.id for each in constraints.active()} == {paused, limited, rated, "mine"}
            told.append([constraints.remove(limited), constraints.remove(limited)])
            told.append([constraints.resume("global"), constraints.resume("global")])
            told.append([constraints.resume("task:b"), constraints.remove(rated)])
            told.append([each.id for each in constraints.active()])

        await engine.run(changes(), use_vm=use_vm)
        return told

    listed, *others = inside(program)
    assert listed == [
        ("pause", {}, 9),
        ("concurrency", {"limit": 2}, None),
        ("rate_limit", {"rate": "30/m", "burst": 3}, None),
        ("concurrency", {"limit": 1}, None),
    ]
    assert others == [[True, False], [True, False], [False, True], ["mine"]]


def test_statistics_tell_who_waits_for_what(inside, use_vm, hold):
    """By constraint: how many it admitted that run, how many wait in its scope, and how long."""

    async def program():
        engine = cs.Engine(constraints=[limit(2)])
        async with anyio.create_task_group() as group:
            group.start_soon(partial(engine.run, [hold(4) for _ in range(5)], use_vm=use_vm))
            await anyio.sleep(3)
            engine.constraints.pause("task:*")
            seen = engine.constraints.statistics()
            await anyio.sleep(2)
            engine.constraints.resume("task:*")
        last = engine.constraints.statistics()
        one, other = seen.constraints["concurrency:task:hold"], seen.constraints["pause:task:*"]
        assert (one.running, one.waiting, one.longest_wait) == (2, 3, 3)
        assert (other.running, other.waiting) == (0, 3)
        assert seen.parked == 3
        of_last = last.constraints["concurrency:task:hold"]
        assert (of_last.running, of_last.waiting, of_last.longest_wait) == (0, 0, 9)
        return last.grants, last.wakeups

    assert inside(program) == (5, 3)


# From elsewhere


def test_from_another_thread_only_through_the_loop(inside, use_vm):
    """The error says what to write, and nothing has changed."""

    async def program():
        engine = cs.Engine()

        @cs.task(mode="thread")
        def from_thread():
            with pytest.raises(RuntimeError, match=r"anyio\.from_thread"):
                engine.constraints.pause("global")
            with pytest.raises(RuntimeError, match=r"anyio\.from_thread"):
                engine.constraints.statistics()
            return threading.current_thread() is not threading.main_thread()

        assert await engine.run(from_thread(), use_vm=use_vm) is True
        return engine.constraints.active()

    assert inside(program) == ()


def test_a_thread_that_pauses_and_resumes(inside, use_vm, hold, starts):
    """A worker thread can hold everything else back while it works."""

    async def program():
        engine = cs.Engine()

        @cs.task(mode="thread")
        def maintenance():
            anyio.from_thread.run_sync(engine.constraints.pause, "task:hold")
            anyio.from_thread.run(anyio.sleep, 0.03)
            return anyio.from_thread.run_sync(engine.constraints.resume, "task:hold")

        waits = [hold(0).after(later(0.02)) for _ in range(2)]
        assert (await engine.run([maintenance(), waits], use_vm=use_vm))[0] is True

    inside(program)
    assert starts == [0.03, 0.03]


@pytest.mark.parametrize(
    "kind",
    ["async", "inline"],
)
def test_a_subscriber_may_free_what_it_hears_of(inside, use_vm, kind):
    """A constraint lifted on TaskBlocked starts the task, once."""

    async def program():
        bus = cs.MessageBus()
        engine = cs.Engine(bus=bus, constraints=[pause(scope="task:work")])
        bus.subscribe(cs.TaskBlocked, lambda event: engine.constraints.resume("task:work"))
        log = []

        def work(x):
            log.append(x)

        async def work_async(x):
            log.append(x)

        task = cs.task(work if kind == "inline" else work_async, name="work")
        await engine.run([task(1), task(2)], use_vm=use_vm)
        return log

    assert inside(program) == [1, 2]


@pytest.mark.parametrize("kind", ["async", "inline"])
def test_a_subscriber_may_stop_what_comes_next(inside, use_vm, kind):
    """A pause made on TaskExecutionFinished concerns every task that has not started."""

    async def program():
        bus = cs.MessageBus()
        engine = cs.Engine(bus=bus, system_resources={"gpu": 1})
        bus.subscribe(
            cs.TaskExecutionFinished, lambda event: engine.constraints.pause("task:work", ttl=2)
        )
        times = []

        def work():
            times.append(anyio.current_time())

        async def work_async():
            await anyio.lowlevel.checkpoint()
            times.append(anyio.current_time())

        task = cs.task(work if kind == "inline" else work_async, name="work")
        target = [task().with_constraints(gpu=1) for _ in range(3)]
        await engine.run(target, use_vm=use_vm)
        return times

    assert inside(program) == [0, 2, 4]
