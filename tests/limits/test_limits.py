"""Capacity: who may start, what goes back and when, and what is told of it (section 10)."""

import contextlib
import math
import threading
import time
from dataclasses import FrozenInstanceError
from decimal import Decimal
from fractions import Fraction
from functools import partial

import anyio
import pytest

import cascade as cs


class Log:
    """When each attempt started, and how many ran at the same time."""

    def __init__(self):
        self.starts = []
        self.running = 0
        self.most = 0

    @contextlib.contextmanager
    def attempt(self, x):
        self.starts.append((x, anyio.current_time()))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            yield
        finally:
            self.running -= 1

    @property
    def times(self):
        return [time for _, time in self.starts]

    @property
    def in_order(self):
        """The starts by time; those at one time by name, since they may be in any order."""
        return sorted(self.starts, key=lambda start: (start[1], start[0]))

    @property
    def order(self):
        return [x for x, _ in self.starts]


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def hold(log):
    """A task that runs for `seconds`, recorded in the log."""

    @cs.task
    async def hold(x=None, seconds=1):
        with log.attempt(x):
            await anyio.sleep(seconds)
        return x

    return hold


@cs.task
async def later(seconds=0.5):
    await anyio.sleep(seconds)


def limit(scope, count):
    return cs.GlobalConstraint(f"limit of {scope}", scope, "concurrency", {"limit": count})


def assert_nothing_held(engine, **capacity):
    statistics = engine.constraints.statistics()
    assert dict(statistics.free) == capacity
    assert statistics.parked == 0
    assert all(each.running == each.waiting == 0 for each in statistics.constraints.values())


# Capacity


def test_as_many_run_as_the_capacity_holds(run, hold, log):
    """Never more than fit, never fewer while somebody waits, and first come, first served."""
    target = [hold(x).with_constraints(gpu=1) for x in range(10)]
    assert run(target, system_resources={"gpu": 3}) == list(range(10))
    assert log.most == 3
    assert log.in_order == [(x, x // 3) for x in range(10)]


@pytest.mark.parametrize("mode", ["inline", "thread"])
def test_sync_tasks_hold_capacity_too(run, log, mode):
    """A sync task is parked like any other, and holds its amounts while its function runs."""
    lock = threading.Lock()

    @cs.task(mode=mode)
    def work(x):
        assert lock.acquire(blocking=False)
        try:
            log.starts.append((x, None))
        finally:
            lock.release()
        return x

    target = [
        later().with_constraints(gpu=1),
        [work(x).with_constraints(gpu=1) for x in range(5)],
    ]
    assert run(target, system_resources={"gpu": 1}) == [None, list(range(5))]
    assert log.order == list(range(5))


def test_a_sync_function_holds_its_amounts_until_its_awaitable_is_done(run, log):
    """What a sync function gives to be awaited belongs to the same attempt."""

    async def inner(x):
        with log.attempt(x):
            await anyio.sleep(1)
        return x

    @cs.task
    def gives(x):
        return inner(x)

    target = [gives(x).with_constraints(gpu=1) for x in range(3)]
    assert run(target, system_resources={"gpu": 1}) == [0, 1, 2]
    assert log.starts == [(0, 0), (1, 1), (2, 2)]


def test_all_at_once_or_nothing_is_taken(inside, use_vm, hold):
    """One that waits for one thing holds nothing of the others meanwhile."""

    async def program():
        engine = cs.Engine(system_resources={"gpu": 2, "memory_gb": 16})
        free = []

        async def look():
            await anyio.sleep(0.5)
            free.append(dict(engine.constraints.statistics().free))
            await anyio.sleep(1)
            free.append(dict(engine.constraints.statistics().free))

        target = [
            hold("one").with_constraints(gpu=1),
            hold("both").with_constraints(gpu=2, memory_gb=8),
        ]
        async with anyio.create_task_group() as group:
            group.start_soon(look)
            await engine.run(target, use_vm=use_vm)
        return free

    assert inside(program) == [{"gpu": 1, "memory_gb": 16}, {"gpu": 0, "memory_gb": 8}]


def test_one_that_wants_much_is_not_starved(run, hold, log):
    """No later one overtakes it, though it would fit."""
    target = [
        hold("small", 2).with_constraints(gpu=1),
        hold("large").with_constraints(gpu=2),
        hold("fits").with_constraints(gpu=1),
        hold("newcomer").with_constraints(gpu=1).after(later()),
    ]
    run(target, system_resources={"gpu": 2})
    assert log.in_order == [("small", 0), ("large", 2), ("fits", 3), ("newcomer", 3)]


def test_one_that_wants_other_things_is_not_held_up(run, hold, log):
    """Only those that want one of the same things queue for each other."""
    target = [
        hold("a", 3).with_constraints(gpu=1),
        hold("waits").with_constraints(gpu=1, disk=1),
        hold("behind").with_constraints(disk=1),
        hold("other").with_constraints(net=1),
        hold("nothing"),
    ]
    run(target, system_resources={"gpu": 1, "disk": 2, "net": 1})
    assert log.in_order == [("a", 0), ("nothing", 0), ("other", 0), ("behind", 3), ("waits", 3)]


def test_with_constraints_merges_by_name(run, hold, log):
    """The amounts of every call count; of one name, the last."""
    target = [
        hold(x).with_constraints(gpu=9, disk=1).with_constraints(gpu=1, net=2) for x in range(2)
    ]
    run(target, system_resources={"gpu": 2, "disk": 2, "net": 3})
    assert log.times == [0, 1]


@pytest.mark.parametrize(
    ("capacity", "amounts", "at_once"),
    [
        (1.0, [0.1] * 11, 10),
        (1, [0.1] * 11, 10),
        (0.3, [0.1, 0.2, 0.1], 2),
        (0.3, [0.1, 0.1, 0.1, 0.1], 3),
        (1.1, [Decimal("0.1"), 1.0, 0.1], 2),
        (1, [Fraction(1, 3)] * 4, 3),
        (1e-7, [1e-8] * 11, 10),
    ],
)
def test_a_float_counts_as_the_decimal_it_prints_as(run, hold, log, capacity, amounts, at_once):
    """Ten times 0.1 fit into 1.0, and an eleventh does not."""
    run(
        [hold(x).with_constraints(memory_gb=a) for x, a in enumerate(amounts)],
        system_resources={"memory_gb": capacity},
    )
    assert log.times == [0] * at_once + [1] * (len(amounts) - at_once)


def test_amounts_come_back_exactly(inside, use_vm):
    """After a thousand loans of 0.1, 0.7 and 1/3 all of the capacity is there again."""

    @cs.task
    def work(x):
        return x

    async def program():
        engine = cs.Engine(system_resources={"memory_gb": 1.0})
        amounts = [0.1, 0.7, Fraction(1, 3)]
        target = [work(x).with_constraints(memory_gb=amounts[x % 3]) for x in range(1000)]
        await engine.run(target, use_vm=use_vm)
        assert_nothing_held(engine, memory_gb=1)
        return engine.constraints.statistics().grants

    assert inside(program) == 1000


# Amounts


def test_an_amount_may_be_any_expression(run, hold, log):
    """An amount is computed before the node asks, and then counts like a number."""

    @cs.task
    async def size(n):
        await anyio.sleep(n)
        return n

    target = [
        hold("task", 5).with_constraints(gpu=size(2)),
        hold("param").with_constraints(gpu=cs.Param("wanted", type=int)),
        hold("chosen").with_constraints(
            gpu=cs.Router(size(1), routes={1: size(3), 2: size(9)}),
        ),
        hold("default").with_constraints(gpu=size(9).run_if(False, default=4)),
    ]
    run(target, params={"wanted": "1"}, system_resources={"gpu": 4})
    assert log.starts == [("param", 0), ("default", 1), ("task", 2), ("chosen", 7)]


def test_the_amount_of_a_loop_is_computed_in_each_iteration(inside, use_vm):
    """Each iteration asks for what its own evaluation of the amount gives."""

    async def program():
        engine = cs.Engine(system_resources={"gpu": 4})
        amounts, free = iter([1, 2, 3]), []

        @cs.task
        def next_amount():
            return next(amounts)

        @cs.task
        def step(n):
            free.append(engine.constraints.statistics().free["gpu"])
            return cs.Jump("again", {"n": n + 1}) if n < 2 else n

        node = step(0).with_constraints(gpu=next_amount())
        await engine.run(cs.bind(node, cs.select_jump({"again": node})), use_vm=use_vm)
        return free

    assert inside(program) == [3, 2, 1]


@pytest.mark.parametrize("kind", ["async", "inline"])
@pytest.mark.parametrize("amount", [0, -1, math.nan, math.inf, "1", None, True, [1]])
def test_a_malformed_amount_fails_the_run(run, kind, amount):
    """A computed amount that is no number above 0 is a ValueError that names task and amount."""

    @cs.task
    def wanted():
        return amount

    def work():
        raise AssertionError("started")

    async def work_async():
        raise AssertionError("started")

    node = cs.task(work if kind == "inline" else work_async, name="work")()
    with pytest.raises(ValueError, match=r"'work'.*gpu") as caught:
        run(node.with_constraints(gpu=wanted()), system_resources={"gpu": 1})
    assert repr(amount) in str(caught.value)


@pytest.mark.parametrize("amount", [0, -0.5, math.nan, math.inf, "1", None, True])
def test_a_malformed_literal_amount_is_refused_when_given(hold, amount):
    """What is no number above 0, nor an expression, never gets into an expression."""
    with pytest.raises(ValueError, match="gpu"):
        hold().with_constraints(gpu=amount)


def test_more_than_the_capacity_names_both(run, log, hold):
    """It is an error when the node would start, and not a hang."""
    target = [hold("first"), hold("much").with_constraints(gpu=3).after(later())]
    with pytest.raises(ValueError, match=r"'hold'.*\b3\b.*'gpu'.*\b2\b"):
        run(target, system_resources={"gpu": 2})
    assert log.starts == [("first", 0)]


def test_more_than_a_fraction_of_capacity_names_it_as_given(run, hold):
    """Exact arithmetic does not show in the message."""
    with pytest.raises(ValueError, match=r"0\.4 of 'gpu'.*capacity of 0\.3"):
        run(hold().with_constraints(gpu=0.4), system_resources={"gpu": 0.3})


@pytest.mark.parametrize("capacity", [0, 0.0])
def test_no_capacity_at_all_admits_nobody(run, hold, capacity):
    """A capacity of 0 is a capacity: any amount is more."""
    with pytest.raises(ValueError, match="'gpu'"):
        run(hold().with_constraints(gpu=1), system_resources={"gpu": capacity})


def test_what_never_starts_may_want_too_much(run, hold):
    """A skipped or pruned node asks for nothing."""
    target = [
        hold().with_constraints(gpu=3).run_if(False, default="skipped"),
        cs.Router("a", routes={"a": "chosen", "b": hold().with_constraints(gpu=3)}),
    ]
    assert run(target, system_resources={"gpu": 2}) == ["skipped", "chosen"]


@pytest.mark.parametrize(
    "kind",
    [
        "async",
        "inline",
    ],
)
def test_an_amount_refused_is_told_like_any_failure(run, kind):
    """The notes name the task, its path, the attempt and the run."""

    async def work_async():
        pass

    def work():
        pass

    node = cs.task(work if kind == "inline" else work_async, name="work")()
    with pytest.raises(ValueError, match="'gpu'") as caught:
        run(node.with_constraints(gpu=3), system_resources={"gpu": 2})
    (note,) = caught.value.__notes__
    assert "'work' (work#0), attempt 1, of run" in note


@pytest.mark.parametrize(
    "kind",
    [
        "inline",
        "async",
    ],
)
def test_an_amount_refused_is_not_retried(run, kind):
    """`max_attempts` counts executions, and there was none."""
    events = []
    bus = cs.MessageBus()
    bus.subscribe(cs.TaskRetrying, events.append)

    async def work_async():
        pass

    def work():
        pass

    node = cs.task(work if kind == "inline" else work_async, name="work")()
    node.with_constraints(gpu=3).with_retry(3, delay=1)
    with pytest.raises(ValueError, match="'gpu'"):
        run(node, system_resources={"gpu": 2}, bus=bus)
    assert events == []


def test_names_without_capacity_are_not_limited(inside, use_vm, hold, log):
    """They do not wait, they are no grants, and nothing is told of them."""

    async def program():
        events = []
        bus = cs.MessageBus()
        bus.subscribe(cs.TaskBlocked, events.append)
        engine = cs.Engine(bus=bus, system_resources={"gpu": 9})
        await engine.run([hold(x).with_constraints(tpu=10**9) for x in range(9)], use_vm=use_vm)
        return events, engine.constraints.statistics().grants

    assert inside(program) == ([], 0)
    assert log.times == [0] * 9


def test_a_malformed_capacity_is_refused_before_anything_runs(run, hold, log):
    """Capacity is a finite number not below 0, under a name."""
    for capacity in (-1, math.nan, math.inf, "2", None, True):
        with pytest.raises(ValueError, match="gpu"):
            run(hold(), system_resources={"gpu": capacity})
    assert log.starts == []


# Attempts


def test_a_retry_gives_its_capacity_back_while_it_waits(run, log, hold):
    """Others run between two attempts, and the next attempt passes the gate anew."""

    @cs.task
    async def fails_twice(x):
        with log.attempt(x):
            await anyio.sleep(1)
        if log.order.count(x) < 3:
            raise OSError
        return x

    target = [
        fails_twice("retried").with_retry(3, delay=2).with_constraints(gpu=1),
        hold("other", 3).with_constraints(gpu=1),
    ]
    assert run(target, system_resources={"gpu": 1}) == ["retried", "other"]
    assert log.starts == [("retried", 0), ("other", 1), ("retried", 4), ("retried", 7)]
    assert log.most == 1


@pytest.mark.parametrize("kind", ["inline", "async"])
def test_a_retry_arrives_anew(run, log, kind):
    """An attempt after a failure queues behind those that came before it."""

    def attempt(x):
        log.starts.append((x, anyio.current_time()))
        if log.order.count(x) < 2:
            raise OSError
        return x

    async def attempt_async(x):
        return attempt(x)

    work = cs.task(attempt if kind == "inline" else attempt_async)
    parked = [work(x).with_retry(2).with_constraints(gpu=1) for x in range(3)]
    run([later(1).with_constraints(gpu=1), parked], system_resources={"gpu": 1})
    assert log.order == [0, 1, 2, 0, 1, 2]


def test_the_time_at_the_gate_does_not_count_for_the_timeout(run, hold, log):
    """A timeout bounds the call, not the wait for its start."""
    target = [
        hold("first", 4).with_constraints(gpu=1),
        hold("patient").with_timeout(2).with_constraints(gpu=1),
    ]
    assert run(target, system_resources={"gpu": 1}) == ["first", "patient"]
    assert log.starts == [("first", 0), ("patient", 4)]


def test_a_timeout_gives_the_capacity_to_the_next(run, hold, log):
    """An attempt that times out is over: the next one starts there and then."""
    tries = []

    @cs.task
    async def slow_once():
        tries.append(anyio.current_time())
        await anyio.sleep(9 if len(tries) == 1 else 1)
        return "done"

    target = [
        slow_once().with_timeout(2).with_retry(2, on=TimeoutError).with_constraints(gpu=1),
        hold("next", 3).with_timeout(3.5).with_constraints(gpu=1),
    ]
    assert run(target, system_resources={"gpu": 1}) == ["done", "next"]
    assert log.starts == [("next", 2)]
    assert tries == [0, 5]


def test_what_an_attempt_leads_to_is_outside_its_capacity(run, hold, log):
    """An expression returned by a task that holds all of it can have it all."""

    @cs.task
    async def delegates():
        await anyio.sleep(1)
        return hold("returned").with_constraints(gpu=2)

    assert run(delegates().with_constraints(gpu=2), system_resources={"gpu": 2}) == "returned"
    assert log.starts == [("returned", 1)]


def test_a_cached_value_takes_nothing(inside, use_vm, hold):
    """A hit asks for no capacity and is no grant."""

    async def program():
        cache = cs.InMemoryCache()
        engine = cs.Engine(system_resources={"gpu": 1})
        target = [hold(1).with_cache(cache).with_constraints(gpu=1) for _ in range(5)]
        await engine.run(target, use_vm=use_vm)
        await engine.run(target, use_vm=use_vm)
        return engine.constraints.statistics().grants, anyio.current_time()

    assert inside(program) == (1, 1)


def test_a_task_resource_is_set_up_under_the_capacity(run):
    """Resources of the scope "task" are set up after the gate and gone before it opens again."""
    log = []

    @cs.resource(scope="task")
    async def connection():
        log.append(("open", anyio.current_time()))
        await anyio.sleep(1)
        yield "connection"
        await anyio.sleep(1)
        log.append(("closed", anyio.current_time()))

    @cs.task
    async def use(x, connection=cs.inject("connection")):
        await anyio.sleep(1)

    target = [use(x).with_constraints(gpu=1) for x in range(2)]
    run(target, system_resources={"gpu": 1}, resources=[connection])
    assert log == [("open", 0), ("closed", 3), ("open", 3), ("closed", 6)]


# Maps and loops


def test_the_items_of_a_map_hold_capacity_and_the_map_none(inside, use_vm, hold, log):
    """Each item asks for itself once its own element is there; while none runs, nothing is held."""

    async def program():
        engine = cs.Engine(system_resources={"gpu": 2})
        mapped = hold.map(x=[hold("element", 5), 1, 2, 3, 4]).with_constraints(gpu=1)
        async with anyio.create_task_group() as group:
            group.start_soon(partial(engine.run, mapped, use_vm=use_vm))
            await anyio.sleep(3)
            free = engine.constraints.statistics().free["gpu"]
        assert_nothing_held(engine, gpu=2)
        return free, engine.constraints.statistics().grants

    assert inside(program) == (2, 5)
    assert log.times == [0, 0, 0, 1, 1, 5]
    assert log.most == 3  # two items, and the element, which takes nothing


def test_a_map_over_a_map_of_one_capacity_does_not_block_itself(run, hold):
    """Maps hold nothing, so an inner one can use all that its outer one needs."""
    inner = hold.map(x=[1, 2, 3]).with_constraints(gpu=1)
    outer = hold.map(x=inner, seconds=[1, 1, 1]).with_constraints(gpu=1)
    assert run(outer, system_resources={"gpu": 1}) == [1, 2, 3]


def test_the_amount_of_a_map_is_that_of_each_item(run, hold, log):
    """It is computed once, and every item takes it."""
    computed = []

    @cs.task
    def amount():
        computed.append(1)
        return 2

    run(hold.map(x=range(4)).with_constraints(gpu=amount()), system_resources={"gpu": 5})
    assert log.times == [0, 0, 1, 1]
    assert computed == [1]


@pytest.mark.parametrize("kind", ["inline", "async"])
def test_nested_loops_share_one_slot(inside, use_vm, log, kind):
    """Each iteration takes the slot and gives it back: an inner loop never waits for its outer."""

    def count(name, n, until, needed=None):
        log.starts.append((name, None))
        return cs.Jump("again", {"n": n + 1}) if n + 1 < until else n + 1

    async def count_async(name, n, until, needed=None):
        await anyio.lowlevel.checkpoint()
        return count(name, n, until, needed)

    step = cs.task(count if kind == "inline" else count_async, name="step")

    def loop(*args):
        node = step(*args).with_constraints(gpu=1)
        return cs.bind(node, cs.select_jump({"again": node}))

    async def program():
        engine = cs.Engine(system_resources={"gpu": 1}, constraints=[limit("task:step", 1)])
        target = loop("outer", 0, 3, loop("middle", 0, 2, loop("inner", 0, 2)))
        with anyio.fail_after(60):
            assert await engine.run([target, loop("beside", 0, 5)], use_vm=use_vm) == [3, 5]
        assert_nothing_held(engine, gpu=1)
        return engine.constraints.statistics().grants

    assert inside(program) == 3 + 3 * 2 + 3 * 2 * 2 + 5
    assert [log.order.count(x) for x in ("outer", "middle", "inner", "beside")] == [3, 6, 12, 5]


def test_an_iteration_arrives_anew(run, log):
    """Two loops on one slot take turns."""

    @cs.task
    async def step(name, n):
        with log.attempt(name):
            await anyio.sleep(1)
        return cs.Jump("again", {"n": n + 1}) if n < 2 else n

    def loop(name):
        node = step(name, 0).with_constraints(gpu=1)
        return cs.bind(node, cs.select_jump({"again": node}))

    run([loop("a"), loop("b")], system_resources={"gpu": 1})
    assert log.starts == [(name, time) for time, name in enumerate("ababab")]


# Several runs, and runs that end early


def test_concurrent_runs_of_an_engine_share_its_capacity(inside, use_vm, hold, log):
    """The runs together never hold more than there is, and queue in one order of arrival."""

    async def program():
        engine = cs.Engine(
            system_resources={"gpu": 2}, constraints=[limit("task:hold", 3), limit("global", 9)]
        )

        async def one(name, delay):
            await anyio.sleep(delay)
            target = [hold((name, x)).with_constraints(gpu=1) for x in range(3)]
            await engine.run(target, use_vm=use_vm)

        async with anyio.create_task_group() as group:
            for number, name in enumerate("abc"):
                group.start_soon(one, name, number / 10)
        assert_nothing_held(engine, gpu=2)

    inside(program)
    arrivals = [(name, x) for name in "abc" for x in range(3)]
    assert log.in_order == [(arrival, place // 2) for place, arrival in enumerate(arrivals)]


def everything(hold, log):
    """A target in which every kind of wait and of start happens on `gpu` and by `limited`."""

    @cs.task(name="limited")
    def inline(x):
        return x

    @cs.task
    async def fails_once(tries):
        tries.append(1)
        await anyio.sleep(0.5)
        if len(tries) < 2:
            raise OSError

    @cs.task(name="limited")
    async def step(n):
        await anyio.sleep(0.25)
        return cs.Jump("again", {"n": n + 1}) if n < 2 else n

    node = step(0).with_constraints(gpu=1)
    return [
        hold.map(x=range(4), seconds=[1] * 4).with_constraints(gpu=0.5),
        [inline(x).with_constraints(gpu=1) for x in range(3)],
        fails_once([]).with_retry(2, delay=0.5).with_constraints(gpu=2),
        cs.bind(node, cs.select_jump({"again": node})),
        hold("whole").with_constraints(gpu=2),
    ]


@pytest.mark.parametrize("time", [0, 0.25, 0.5, 1, 1.5, 2, 3, 4])
def test_a_run_cancelled_at_any_time_returns_everything(inside, use_vm, hold, log, time):
    """Capacity, slots and places in the queue: nothing is held by a run that was cancelled."""

    async def program():
        constraints = [
            limit("task:limited", 1),
            limit("global", 3),
            cs.GlobalConstraint("rate", "task:limited", "rate_limit", {"rate": 4, "burst": 2}),
        ]
        engine = cs.Engine(system_resources={"gpu": 2}, constraints=constraints)
        for ticks in range(12):
            async with anyio.create_task_group() as group:
                group.start_soon(partial(engine.run, everything(hold, log), use_vm=use_vm))
                group.start_soon(partial(engine.run, everything(hold, log), use_vm=use_vm))
                await anyio.sleep(time)
                for _ in range(ticks):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
            assert_nothing_held(engine, gpu=2)
            with anyio.fail_after(60):
                await engine.run(everything(hold, log), use_vm=use_vm)
            assert_nothing_held(engine, gpu=2)

    inside(program)


def test_a_failed_run_returns_everything_to_the_others(inside, use_vm, hold, log):
    """What its tasks held, and their places in the queue, go to another run at once."""

    @cs.task
    async def fails():
        await anyio.sleep(2)
        raise ConnectionError

    async def program():
        engine = cs.Engine(system_resources={"gpu": 2})

        async def failing():
            target = [hold(x, 9).with_constraints(gpu=1) for x in ("a", "b", "c")]
            with pytest.raises(ConnectionError):
                await engine.run([target, fails()], use_vm=use_vm)

        async with anyio.create_task_group() as group:
            group.start_soon(failing)
            await anyio.sleep(1)
            await engine.run([hold(x).with_constraints(gpu=1) for x in ("d", "e")], use_vm=use_vm)
        assert_nothing_held(engine, gpu=2)

    inside(program)
    assert log.in_order == [("a", 0), ("b", 0), ("d", 2), ("e", 2)]


def test_what_a_failure_frees_starts_nobody_of_the_same_run(inside, use_vm, hold, log):
    """No attempt starts after the failure of its run, though the failed one gave way for it."""

    @cs.task
    async def fails():
        await anyio.sleep(1)
        raise ConnectionError

    async def program():
        engine = cs.Engine(system_resources={"gpu": 1})
        parked = hold("parked").with_constraints(gpu=1).after(later())
        with pytest.raises(ConnectionError):
            await engine.run([fails().with_constraints(gpu=1), parked], use_vm=use_vm)
        assert_nothing_held(engine, gpu=1)

    inside(program)
    assert log.starts == []


@pytest.mark.parametrize("how", ["failure", "cancellation"])
def test_a_run_that_ends_before_an_awaitable_is_awaited_returns_its_capacity(inside, use_vm, how):
    """A sync function has given an awaitable, and in the same instant the run is over."""

    async def program():
        engine = cs.Engine(system_resources={"gpu": 1})
        given = anyio.Event()

        @cs.task
        async def ends():
            await given.wait()
            if how == "cancellation":
                scope.cancel()
            else:
                raise OSError

        @cs.task
        def holds_the_loop_and_gives():
            end = time.monotonic() + 0.01
            while time.monotonic() < end:
                pass
            given.set()
            return anyio.sleep(1)

        target = [ends(), holds_the_loop_and_gives().with_constraints(gpu=1)]
        with anyio.CancelScope() as scope, contextlib.suppress(OSError):
            await engine.run(target, use_vm=use_vm)
        assert_nothing_held(engine, gpu=1)

    inside(program)


# What is told


@pytest.fixture
def blocked(run):
    """Runs a target; gives the task id and reason of each TaskBlocked."""

    def blocked(target, **options):
        events = []
        bus = cs.MessageBus()
        bus.subscribe(cs.TaskBlocked, events.append)
        run(target, bus=bus, **options)
        return [(event.task_id, event.reason) for event in events]

    return blocked


@pytest.mark.parametrize(
    ("constraint", "named", "count"),
    [
        (None, "gpu", 2),
        (cs.GlobalConstraint("few", "global", "concurrency", {"limit": 1}), "few", 2),
        (cs.GlobalConstraint("slow", "task:hold", "rate_limit", {"rate": 1}), "slow", 1),
        (cs.GlobalConstraint("later", "task:hold", "pause", {}, ttl=3), "later", 2),
    ],
    ids=["capacity", "concurrency", "rate", "pause"],
)
@pytest.mark.parametrize("kind", ["inline", "async"])
def test_the_reason_names_what_blocked(blocked, constraint, named, count, kind):
    """The name of the capacity, or the id of the constraint."""

    def hold():
        pass

    async def hold_async():
        await anyio.sleep(1)

    node = cs.task(hold if kind == "inline" else hold_async, name="hold")
    nodes = [later().with_constraints(gpu=2), *(node().with_constraints(gpu=1) for _ in range(2))]
    if constraint is None:
        reasons = blocked(nodes, system_resources={"gpu": 2})
    else:
        reasons = blocked(nodes, constraints=[constraint])
    assert len(reasons) == count
    assert all(named in reason for _, reason in reasons)


def test_blocked_is_told_once_per_parking(blocked, hold):
    """Neither what else it comes to wait for nor a change of constraints is told again."""
    constraints = [
        cs.GlobalConstraint("pause", "task:hold", "pause", {}, ttl=2),
        cs.GlobalConstraint("rate", "task:hold", "rate_limit", {"rate": 1}),
        limit("task:hold", 1),
    ]
    target = [hold(x, 3).with_constraints(gpu=1) for x in range(3)]
    reasons = blocked(target, constraints=constraints, system_resources={"gpu": 1})
    assert [task_id for task_id, _ in reasons] == ["hold#0", "hold#1", "hold#2"]
    assert all("pause" in reason for _, reason in reasons)


def test_each_attempt_that_is_parked_is_told(blocked):
    """A retry, like an iteration, is parked anew."""
    tries = []

    @cs.task
    async def fails_twice():
        tries.append(1)
        if len(tries) < 3:
            raise OSError

    @cs.task
    async def step(n):
        return cs.Jump("again", {"n": n + 1}) if n < 2 else n

    looped = step(0)
    cs.bind(looped, cs.select_jump({"again": looped}))
    rate = cs.GlobalConstraint("rate", "task:[fs]*", "rate_limit", {"rate": 1})
    reasons = blocked([fails_twice().with_retry(3), looped.after(later(99))], constraints=[rate])
    names = [task_id for task_id, _ in reasons]
    assert len(names) == 4
    assert len(set(names)) == 2


def test_what_starts_at_once_is_not_told_as_blocked(blocked, hold):
    """TaskBlocked is for the parked."""
    target = [hold(x).with_constraints(gpu=1) for x in range(3)]
    limits = [limit("global", 3), limit("task:hold", 5)]
    assert blocked(target, system_resources={"gpu": 3}, constraints=limits) == []


def test_statistics_count_grants_and_wakeups(inside, use_vm, hold):
    """Grants are starts that were asked for; wakeups are those of them that had been parked."""

    async def program():
        engine = cs.Engine(system_resources={"gpu": 2}, constraints=[limit("task:other", 1)])
        seen = []

        @cs.task
        async def other():
            await anyio.sleep(1)

        @cs.task
        def unlimited():
            pass

        async def look():
            for _ in range(4):
                await anyio.sleep(0.75)
                one = engine.constraints.statistics()
                of_limit = one.constraints["limit of task:other"]
                seen.append((one.parked, one.grants, one.wakeups, of_limit.running))

        target = [
            [hold(x).with_constraints(gpu=1) for x in range(5)],
            [other(), other()],
            unlimited(),
        ]
        async with anyio.create_task_group() as group:
            group.start_soon(look)
            await engine.run(target, use_vm=use_vm)
        assert_nothing_held(engine, gpu=2)
        last = engine.constraints.statistics()
        assert (last.grants, last.wakeups, last.timers) == (7, 4, 0)
        assert last.constraints["limit of task:other"].longest_wait == 1
        with pytest.raises(FrozenInstanceError):
            last.parked = 1
        return seen

    assert inside(program) == [(4, 3, 0, 1), (1, 6, 3, 1), (0, 7, 4, 0), (0, 7, 4, 0)]


def test_each_release_wakes_only_those_it_admits(inside, use_vm, log):
    """Seen from the tasks: between the end of one and the start of the next there is one wakeup."""

    async def program():
        engine = cs.Engine(system_resources={"gpu": 1})
        wakeups = []

        @cs.task
        async def step():
            wakeups.append(engine.constraints.statistics().wakeups)
            await anyio.sleep(1)

        await engine.run([step().with_constraints(gpu=1) for _ in range(20)], use_vm=use_vm)
        return wakeups

    assert inside(program) == list(range(20))


# Limits by name


def test_scopes_match_the_names_of_tasks(run):
    """Patterns are those of `fnmatchcase`; every limit that matches has to admit."""
    running, most = {}, {}

    def named(name):
        @cs.task(name=name)
        async def node():
            running[name] = running.get(name, 0) + 1
            most[name] = max(most.get(name, 0), running[name])
            await anyio.sleep(1)
            running[name] -= 1

        return node

    names = ["load_a", "load_b", "Load_a", "store", "load"]
    constraints = [limit("task:load_[a]", 3), limit("task:load_*", 5), limit("task:stor?", 2)]
    run([[named(name)() for _ in range(9)] for name in names], constraints=constraints)
    assert most == {"load_a": 3, "load_b": 5, "Load_a": 9, "store": 2, "load": 9}


def test_tasks_of_one_name_share_a_limit(run, log):
    """A limit goes by the name, whichever functions have it."""

    def make():
        @cs.task(name="same")
        async def node():
            with log.attempt(None):
                await anyio.sleep(1)

        return node

    run([make()() for _ in range(4)], constraints=[limit("task:same", 2)])
    assert log.times == [0, 0, 1, 1]


@pytest.mark.parametrize("kind", ["inline", "async", "thread"])
def test_a_global_limit_counts_every_kind_of_task(inside, use_vm, kind):
    """At no time does anybody see more running than the limit allows."""
    functions = {"inline": "inline", "thread": "thread"}

    async def program():
        engine = cs.Engine(constraints=[limit("global", 1)])
        seen = []

        def look():
            statistics = engine.constraints.statistics()
            seen.append(statistics.constraints["limit of global"].running)

        def work():
            if kind == "thread":
                anyio.from_thread.run_sync(look)
            else:
                look()

        async def work_async():
            look()
            await anyio.sleep(1)

        node = cs.task(work_async) if kind == "async" else cs.task(work, mode=functions[kind])
        await engine.run([node() for _ in range(5)], use_vm=use_vm)
        return seen

    assert inside(program) == [1] * 5


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_a_failed_run_waits_for_is_free_for_others_at_once(inside, use_vm, kind):
    """A run that has failed gives up its place at the gate, however long its tear-down takes."""

    @cs.resource
    async def slow():
        yield 1
        await anyio.sleep(20)

    @cs.task
    async def fails(_db=cs.inject("slow")):
        await anyio.sleep(1)
        raise KeyError("first")

    async def waits():
        return None

    parked = cs.task(waits if kind == "async" else lambda: None, name="parked")

    @cs.task
    async def holds(seconds):
        await anyio.sleep(seconds)
        return anyio.current_time()

    async def main():
        engine = cs.Engine(system_resources={"gpu": 1})
        engine.register(slow)
        ends = []

        async def failing():
            with pytest.raises(KeyError):
                await engine.run([fails(), parked().with_constraints(gpu=1)], use_vm=use_vm)

        async def holding(delay, seconds):
            await anyio.sleep(delay)
            target = holds(seconds).with_constraints(gpu=1)
            ends.append(await engine.run(target, use_vm=use_vm))

        async with anyio.create_task_group() as group:
            group.start_soon(holding, 0, 6)
            group.start_soon(failing)
            group.start_soon(holding, 2, 1)
        return ends

    assert inside(main) == [6, 7]
