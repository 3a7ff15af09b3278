"""What constraints an engine starts with, and what becomes of them from one loop to the next."""

import math
import threading

import anyio
import pytest

import cascade as cs


def pause(scope="task:work", *, id="the pause", ttl=None):
    return cs.GlobalConstraint(id, scope, "pause", {}, ttl)


def limit(count, scope="task:work", *, id=None, ttl=None):
    params = {"limit": count}
    return cs.GlobalConstraint(id or f"concurrency:{scope}", scope, "concurrency", params, ttl)


def rate(per_second, scope="task:work", *, id=None, burst=1, ttl=None):
    params = {"rate": per_second, "burst": burst}
    return cs.GlobalConstraint(id or f"rate_limit:{scope}", scope, "rate_limit", params, ttl)


@pytest.fixture
def starts():
    """How long after the beginning of the run each `work` started."""
    return []


@pytest.fixture
def work(starts):
    @cs.task
    async def work(seconds=1):
        starts.append(anyio.current_time())
        await anyio.sleep(seconds)

    return work


# Given with a run


@pytest.mark.parametrize("given", [list, tuple, iter], ids=["list", "tuple", "iterator"])
def test_constraints_are_in_force_from_the_start(run, work, starts, given):
    """`cs.run(..., constraints=...)` takes any iterable of them; the first task is concerned."""
    constraints = given([pause(ttl=2), limit(2), rate(4)])
    run([work() for _ in range(4)], constraints=constraints)
    assert starts == [2, 2.25, 3, 3.25]


def test_constraints_of_run_async_and_of_an_engine(inside, use_vm, work, starts):
    """They are given to each in the same way."""

    async def program():
        await cs.run_async([work(), work()], use_vm=use_vm, constraints=[limit(1)])
        await cs.Engine(constraints=[limit(1)]).run([work(), work()], use_vm=use_vm)

    inside(program)
    assert starts == [0, 1, 2, 3]


def test_the_last_of_an_id_counts(run, work, starts):
    """Also within the list that is given; those of other ids are beside it."""
    constraints = [limit(1), limit(9, "global", id="global"), limit(9, id="beside"), limit(3)]
    run([work() for _ in range(5)], constraints=constraints)
    assert starts == [0, 0, 0, 1, 1]


def test_constraints_concern_every_node_of_a_run(run):
    """Arguments, conditions, predecessors, amounts, items, iterations: all are tasks."""
    times = []

    @cs.task
    async def work(value=None, needed=None):
        times.append(anyio.current_time())
        return value

    @cs.task
    async def step(n):
        return cs.Jump("again", {"n": n + 1}) if n < 1 else n

    node = step(0)
    looped = cs.bind(node, cs.select_jump({"again": node}))
    target = [
        work("value", [work(), {"key": work()}])
        .run_if(work(True))
        .after(work())
        .with_constraints(gpu=work(1)),
        work.map(value=[1, work(2)]),
        cs.Router(work("a"), routes={"a": work("chosen")}),
        looped,
    ]
    limits = [rate(1, "global")]
    assert run(target, constraints=limits, system_resources={"gpu": 1})[2] == "chosen"
    assert times[0] == 0
    assert len(set(times)) == len(times) == 11


MALFORMED = {
    "no constraint": "task:work",
    "unknown scope": pause("work"),
    "empty pattern": pause("task:"),
    "scope that is no text": pause(None),
    "unknown type": cs.GlobalConstraint("a", "global", "break", {}),
    "no type": cs.GlobalConstraint("a", "global", None, {}),
    "id that is no text": pause(id=3),
    "limit of 0": limit(0),
    "limit of a half": limit(0.5),
    "limit that is no number": limit("2"),
    "limit of True": limit(True),
    "no limit": cs.GlobalConstraint("a", "global", "concurrency", {}),
    "unknown param": cs.GlobalConstraint("a", "global", "concurrency", {"limit": 1, "most": 2}),
    "param of a pause": cs.GlobalConstraint("a", "global", "pause", {"limit": 1}),
    "params that are no mapping": cs.GlobalConstraint("a", "global", "pause", [1]),
    "rate of 0": rate(0),
    "rate below 0": rate(-1),
    "rate of nan": rate(math.nan),
    "rate of inf": rate(math.inf),
    "unknown unit": rate("10/d"),
    "no unit": rate("10"),
    "no number": rate("/s"),
    "rate of 0 a minute": rate("0/m"),
    "burst of 0": rate(1, burst=0),
    "burst of a half": rate(1, burst=1.5),
    "no rate": cs.GlobalConstraint("a", "global", "rate_limit", {"burst": 2}),
    "ttl of 0": pause(ttl=0),
    "ttl below 0": pause(ttl=-1),
    "ttl of nan": pause(ttl=math.nan),
    "ttl that is no number": pause(ttl="1"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_constraint_is_refused_before_anything_runs(run, work, starts, name):
    """It is a ValueError of the run that was given it."""
    with pytest.raises(ValueError, match=r"\w"):
        run(work(), constraints=[limit(1), MALFORMED[name]])
    assert starts == []


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_change_changes_nothing(inside, use_vm, work, starts, name):
    """Given to a running engine, it is refused, and those parked wait on as before."""

    async def program():
        engine = cs.Engine(constraints=[limit(1)])

        @cs.task
        def changes():
            before = engine.constraints.active(), engine.constraints.statistics()
            with pytest.raises(ValueError, match=r"\w"):
                engine.constraints.update(MALFORMED[name])
            assert before == (engine.constraints.active(), engine.constraints.statistics())

        target = [[work() for _ in range(3)], changes().after(cs.task(anyio.sleep)(0.5))]
        await engine.run(target, use_vm=use_vm)

    inside(program)
    assert starts == [0, 1, 2]


def test_what_is_given_is_copied(run, work, starts):
    """Changing the params afterwards changes nothing."""
    params = {"limit": 2}
    constraint = cs.GlobalConstraint("a", "task:work", "concurrency", params)
    engine = cs.Engine(constraints=[constraint])
    params["limit"] = 1
    engine.constraints.active()[0].params["limit"] = 1
    assert engine.constraints.active()[0].params["limit"] == 2


# From one event loop to another


@pytest.fixture
def run_on(inside, use_vm):
    """Runs a target on an engine in a new event loop, whose clock starts anew."""

    def run_on(engine, target, idle=0):
        async def program():
            await anyio.sleep(idle)
            return await engine.run(target, use_vm=use_vm)

        return inside(program)

    return run_on


def test_a_ttl_given_outside_a_loop_counts_from_the_next_run(run_on, work, starts):
    """Not from when it was given, nor from the start of the loop."""
    engine = cs.Engine()
    engine.constraints.pause("task:work", ttl=3)
    assert [each.ttl for each in engine.constraints.active()] == [3]
    run_on(engine, [work(), work()], idle=5)
    assert starts == [8, 8]
    assert engine.constraints.active() == ()


def test_a_ttl_of_a_constraint_given_to_the_engine_counts_from_its_first_run(run_on, work, starts):
    """What is in the list is given where the engine is made."""
    engine = cs.Engine(constraints=[limit(1, ttl=2.5)])
    run_on(engine, [work() for _ in range(5)], idle=1)
    assert starts == [1, 2, 3, 3.5, 3.5]


def test_a_ttl_given_in_a_loop_without_runs_counts_at_once(inside, use_vm, work, starts):
    """Inside a loop there is a clock."""

    async def program():
        engine = cs.Engine()
        engine.constraints.pause("task:work", ttl=3)
        await anyio.sleep(2)
        await engine.run(work(), use_vm=use_vm)

    inside(program)
    assert starts == [3]


def test_another_loop_keeps_what_was_left_of_a_ttl(run_on, work, starts):
    """The clocks of two loops have nothing in common; between them no time passes."""
    engine = cs.Engine(constraints=[pause("task:other", id="other", ttl=10)])
    other = cs.task(work.func, name="other")
    run_on(engine, work(4), idle=100)
    run_on(engine, work(4), idle=7)
    run_on(engine, other(), idle=1)
    assert starts == [100, 7, 1 + 2]


def test_another_loop_starts_with_full_buckets(run_on, work, starts):
    """What was taken in one loop does not count in the next."""
    engine = cs.Engine(constraints=[rate("1/h", burst=2)])
    for _ in range(3):
        run_on(engine, [work(), work()])
    assert starts == [0] * 6


def test_another_loop_keeps_limits_and_statistics(run_on, work, starts):
    """Constraints without a ttl stay, and counts go on."""
    engine = cs.Engine(constraints=[limit(1)], system_resources={"gpu": 1})
    for _ in range(3):
        run_on(engine, [work().with_constraints(gpu=1) for _ in range(2)])
    statistics = engine.constraints.statistics()
    assert starts == [0, 1] * 3
    assert (statistics.grants, statistics.wakeups, statistics.parked) == (6, 3, 0)


def test_an_engine_used_on_both_kinds_of_loop(use_vm, work, starts):
    """Nothing of an engine belongs to asyncio or to trio."""
    from cascade.testing import virtual_time

    engine = cs.Engine(constraints=[limit(2), rate(2)], system_resources={"gpu": 1})

    async def program():
        target = [work().with_constraints(gpu=1) for _ in range(3)]
        await engine.run(target, use_vm=use_vm)

    for backend in ("asyncio", "trio", "asyncio", "trio"):
        anyio.run(program, backend=backend, backend_options=virtual_time(backend))
    assert starts == [0, 1, 2] * 4


def test_constraints_may_be_changed_between_loops(run_on, work, starts):
    """Without a loop there is nobody to wake; the change is there for the next run."""
    engine = cs.Engine(constraints=[limit(1)])
    run_on(engine, [work(), work()])
    engine.constraints.limit_concurrency("task:work", 2)
    run_on(engine, [work(), work()])
    engine.constraints.pause("task:work", ttl=2)
    assert engine.constraints.resume("task:work") is True
    run_on(engine, [work(), work()])
    assert starts == [0, 1, 0, 0, 0, 0]
    assert engine.constraints.statistics().parked == 0


def test_an_engine_goes_on_after_a_run_that_failed(run_on, work, starts):
    """What a failed run had parked is gone in the next loop."""

    @cs.task
    async def fails():
        await anyio.sleep(0.5)
        raise ConnectionError

    engine = cs.Engine(constraints=[limit(1)], system_resources={"gpu": 1})
    with pytest.raises(ConnectionError):
        run_on(engine, [[work().with_constraints(gpu=1) for _ in range(3)], fails()])
    run_on(engine, [work().with_constraints(gpu=1) for _ in range(2)])
    assert starts == [0, 0, 1]


def test_one_engine_in_two_loops_at_once_is_an_error(backend, use_vm):
    """The second loop is told so before anything of it runs, and the first goes on."""
    engine = cs.Engine(system_resources={"gpu": 1})
    inside_first, second_is_over = threading.Event(), threading.Event()
    log = []

    @cs.task(mode="thread")
    def waits():
        inside_first.set()
        assert second_is_over.wait(30)
        return "first"

    @cs.task
    def work():
        log.append("second")

    async def first():
        return await engine.run([waits().with_constraints(gpu=1), waits()], use_vm=use_vm)

    async def second():
        await engine.run(work(), use_vm=use_vm)

    def in_another_thread():
        assert inside_first.wait(30)
        try:
            anyio.run(second, backend=backend)
        except RuntimeError as error:
            log.append(str(error))
        finally:
            second_is_over.set()

    thread = threading.Thread(target=in_another_thread)
    thread.start()
    try:
        assert anyio.run(first, backend=backend) == ["first", "first"]
    finally:
        thread.join(30)
    (message,) = log
    assert "another event loop" in message
    anyio.run(second, backend=backend)
    assert log[1:] == ["second"]
