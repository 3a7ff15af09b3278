"""Rates are exact: the times at which tasks start, in virtual time (section 10)."""

from bisect import bisect_right
from fractions import Fraction
from functools import partial
from itertools import pairwise

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cascade as cs

RATES = {
    # as given: starts per second
    1: Fraction(1),
    2: Fraction(2),
    3: Fraction(3),
    10: Fraction(10),
    1000: Fraction(1000),
    10_000: Fraction(10_000),
    0.1: Fraction(1, 10),
    0.25: Fraction(1, 4),
    1.5: Fraction(3, 2),
    Fraction(1, 3): Fraction(1, 3),
    "10/s": Fraction(10),
    "2.5/s": Fraction(5, 2),
    "30/m": Fraction(1, 2),
    "90/m": Fraction(3, 2),
    "5/h": Fraction(5, 3600),
    "1/h": Fraction(1, 3600),
}


def limit_rate(rate, burst=1, scope="task:work", **fields):
    params = {"rate": rate, "burst": burst}
    return cs.GlobalConstraint(f"rate_limit:{scope}", scope, "rate_limit", params, **fields)


@pytest.fixture
def starts():
    """The times at which `work` started."""
    return []


@pytest.fixture
def work(starts):
    @cs.task
    async def work(x=None, seconds=0):
        starts.append(anyio.current_time())
        if seconds:
            await anyio.sleep(seconds)
        return x

    return work


@pytest.fixture
def work_inline(starts):
    @cs.task(name="work")
    def work(x=None):
        starts.append(anyio.current_time())
        return x

    return work


@cs.task
async def later(seconds):
    await anyio.sleep(seconds)


def assert_exact(starts, expected):
    """None is early by the least bit, and none late by more than floats can tell."""
    assert len(starts) == len(expected)
    for start, time in zip(starts, expected, strict=True):
        assert 0 <= Fraction(start) - time <= Fraction(1e-12) * (1 + time)


def times(rate, burst, count):
    """When `count` tasks that have all been there from the beginning start."""
    return [Fraction(max(0, k - burst + 1)) / rate for k in range(count)]


def assert_upper_bound(starts, rate, burst):
    """A window that begins with one start and ends with another is the worst of its length."""
    for first in range(len(starts)):
        for last in range(first, len(starts)):
            assert last - first + 1 <= rate * (starts[last] - starts[first]) + burst


# Over everything that starts tasks


@pytest.mark.parametrize("burst", [1, 4])
@pytest.mark.parametrize("rate", RATES, ids=str)
def test_tasks_start_at_exact_times(run, work, starts, rate, burst):
    """`burst` at once, then one every 1/rate seconds, below and above one a second."""
    run([work() for _ in range(12)], constraints=[limit_rate(rate, burst)])
    assert_exact(starts, times(RATES[rate], burst, 12))


@pytest.mark.parametrize("rate", [0.25, 3, "5/h", 10_000], ids=str)
def test_inline_tasks_start_at_exact_times(run, work_inline, starts, rate):
    """A rate holds for sync tasks too, which start in plan order."""
    target = [work_inline(x) for x in range(12)]
    assert run(target, constraints=[limit_rate(rate, 2)]) == list(range(12))
    assert_exact(starts, times(RATES[rate], 2, 12))


@pytest.mark.parametrize("kind", ["inline", "async"])
@pytest.mark.parametrize("rate", [0.1, 7, "90/m"], ids=str)
def test_the_items_of_a_map_start_at_exact_times(run, work, work_inline, starts, rate, kind):
    """Each item is a start."""
    exact = RATES.get(rate, Fraction(7))
    task = work if kind == "async" else work_inline
    assert run(task.map(x=range(20)), constraints=[limit_rate(rate, 3)]) == list(range(20))
    assert_exact(starts, times(exact, 3, 20))


@pytest.mark.parametrize("kind", ["jump", "tail call", "expression"])
@pytest.mark.parametrize("rate", [0.5, 8], ids=str)
def test_iterations_start_at_exact_times(run, starts, rate, kind):
    """Each iteration of a loop is a start."""

    @cs.task
    def work(n):
        starts.append(anyio.current_time())
        if n == 9:
            return n
        if kind == "expression":
            return work(n + 1)
        return cs.Jump("again", n + 1) if kind == "jump" else cs.TailCall((n + 1,))

    node = work(0)
    if kind == "jump":
        cs.bind(node, cs.select_jump({"again": node}))
    assert run(node, constraints=[limit_rate(rate, 2)]) == 9
    assert_exact(starts, times(Fraction(rate), 2, 10))


@pytest.mark.parametrize("kind", ["inline", "async"])
def test_each_attempt_is_a_start(run, starts, kind):
    """A retry takes a token of its own, however short its delay."""

    def work():
        starts.append(anyio.current_time())
        if len(starts) < 5:
            raise ConnectionError
        return "done"

    async def work_async():
        return work()

    task = cs.task(work if kind == "inline" else work_async, name="work")
    assert run(task().with_retry(5, delay=0.25), constraints=[limit_rate(1, 2)]) == "done"
    assert starts == [0, 0.25, 1, 2, 3]


def test_threads_start_at_exact_times(run, starts):
    """A rate holds for tasks in worker threads, whose work takes no virtual time."""

    @cs.task(mode="thread")
    def work(x):
        starts.append(anyio.from_thread.run_sync(anyio.current_time))
        return x

    constraint = limit_rate(100)
    assert run([work(x) for x in range(5)], constraints=[constraint]) == list(range(5))
    assert all(Fraction(start) >= k * Fraction(1, 100) for k, start in enumerate(starts))


# Tokens


def test_what_does_not_start_takes_no_token(inside, use_vm, work, starts):
    """Neither a cache hit nor a skipped node is a start."""

    async def program():
        engine = cs.Engine(constraints=[limit_rate(1)])
        cache = cs.InMemoryCache()
        hits = [work(1).with_cache(cache) for _ in range(5)]
        skipped = [work(2).run_if(False, default=0) for _ in range(5)]
        await engine.run([hits, skipped], use_vm=use_vm)
        await engine.run([hits, skipped, work(3)], use_vm=use_vm)

    inside(program)
    assert starts == [0, 1]


def test_a_token_is_not_spent_while_capacity_is_short(run, starts):
    """One that waits for a slot leaves the token to another that has what it needs."""
    log = []

    @cs.task
    async def work(x, seconds=0):
        log.append((x, anyio.current_time()))
        await anyio.sleep(seconds)

    target = [
        work("a", 10).with_constraints(gpu=1),
        work("short").with_constraints(gpu=1),
        work("free"),
        work("also free"),
    ]
    run(target, constraints=[limit_rate(1)], system_resources={"gpu": 1})
    assert log == [("a", 0), ("free", 1), ("also free", 2), ("short", 10)]


def test_a_rate_and_a_limit_both_hold(run, work, starts):
    """A start needs a token and a slot at the same time."""
    slots = cs.GlobalConstraint("slots", "task:work", "concurrency", {"limit": 2})
    run([work(x, 3) for x in range(6)], constraints=[limit_rate(1), slots])
    assert starts == [0, 1, 3, 4, 6, 7]


def test_several_rates_all_hold(run, work, starts):
    """The start that every matching rate admits is the earliest that counts."""
    constraints = [limit_rate(2, 3), limit_rate("0.5/s", 5, scope="global")]
    run([work() for _ in range(8)], constraints=constraints)
    assert starts == [0, 0, 0, 0.5, 1, 2, 4, 6]


def test_rates_of_different_tasks_are_apart(run):
    """Each pattern has its own tokens; a global rate is shared by all tasks."""
    log = []

    def named(name):
        @cs.task(name=name)
        async def node():
            log.append((anyio.current_time(), name))

        return node

    names = ["a", "b", "c"]
    target = [[named(name)() for _ in range(3)] for name in names]
    run(target, constraints=[limit_rate(1, scope="task:a"), limit_rate(2, scope="task:b")])
    assert sorted(log) == [
        *[(0, "a"), (0, "b"), (0, "c"), (0, "c"), (0, "c")],
        *[(0.5, "b"), (1, "a"), (1, "b"), (2, "a")],
    ]
    log.clear()
    run(target, constraints=[limit_rate(1, scope="global")])
    assert sorted(log) == [(time, "abc"[time // 3]) for time in range(9)]


def test_a_bucket_fills_up_to_its_burst_and_no_further(run, starts, work):
    """After idling for however long, as many start at once as `burst` says."""
    target = [
        [work() for _ in range(3)],
        [work().after(later(2.5)) for _ in range(4)],
        [work().after(later(1000)) for _ in range(4)],
    ]
    run(target, constraints=[limit_rate(1, 3)])
    assert starts == [0, 0, 0, 2.5, 2.5, 3, 4, 1000, 1000, 1000, 1001]


@pytest.mark.parametrize("burst", [1, 3])
def test_a_rate_is_shared_by_concurrent_runs(inside, use_vm, work, starts, burst):
    """Runs of one engine take tokens from one bucket, in one order of arrival."""

    async def program():
        engine = cs.Engine(constraints=[limit_rate(4, burst)])
        async with anyio.create_task_group() as group:
            for _ in range(4):
                target = [work() for _ in range(3)]
                group.start_soon(partial(engine.run, target, use_vm=use_vm))

    inside(program)
    assert_exact(starts, times(Fraction(4), burst, 12))


def test_runs_one_after_the_other_share_a_rate(inside, use_vm, work, starts):
    """A new run does not start with a full bucket."""

    async def program():
        engine = cs.Engine(constraints=[limit_rate(1, 2)])
        for _ in range(5):
            await engine.run(work(), use_vm=use_vm)

    inside(program)
    assert starts == [0, 0, 1, 2, 3]


def test_a_cancelled_wait_takes_no_token(inside, use_vm, work, starts):
    """The places of a cancelled run go to those behind it."""

    async def program():
        engine = cs.Engine(constraints=[limit_rate(1)])

        async def gives_up():
            with anyio.move_on_after(1.5):
                await engine.run([work() for _ in range(9)], use_vm=use_vm)

        async with anyio.create_task_group() as group:
            group.start_soon(gives_up)
            await anyio.sleep(0.5)
            await engine.run([work("behind"), work("behind")], use_vm=use_vm)

    inside(program)
    assert starts == [0, 1, 2, 3]


def test_a_failed_run_does_not_keep_the_timer_of_others(inside, use_vm, work, starts):
    """While a failed run tears its resources down, the tokens of others come in time."""

    @cs.resource
    async def db():
        try:
            yield "db"
        finally:
            await anyio.sleep(20)

    @cs.task
    async def uses(db):
        await anyio.lowlevel.checkpoint()

    @cs.task
    async def fails():
        raise ConnectionError

    async def program():
        engine = cs.Engine(constraints=[limit_rate(1)])
        engine.register(db)

        async def failing():
            used = uses(cs.inject("db"))
            target = [work().after(used), work().after(used), fails().after(used)]
            with pytest.raises(ConnectionError):
                await engine.run(target, use_vm=use_vm)

        async with anyio.create_task_group() as group:
            group.start_soon(failing)
            await anyio.sleep(0.5)
            await engine.run([work(), work()], use_vm=use_vm)

    inside(program)
    assert starts == [0, 1, 2]


def test_the_timer_outlives_the_runs_in_which_it_lives(inside, use_vm, work, starts):
    """Runs that begin, end and are cancelled take turns; the tokens of all come in time."""

    async def program():
        engine = cs.Engine(constraints=[limit_rate(1)])

        async def one(begin, seconds, count):
            await anyio.sleep(begin)
            with anyio.move_on_after(seconds):
                await engine.run([work() for _ in range(count)], use_vm=use_vm)

        async with anyio.create_task_group() as group:
            group.start_soon(one, 0, 2.5, 9)  # cancelled after three
            group.start_soon(one, 0.25, 0.5, 9)  # cancelled before its first
            group.start_soon(one, 0.5, 99, 3)
            group.start_soon(one, 2.75, 2.5, 9)  # cancelled in vain: it is behind those three
            group.start_soon(one, 3, 99, 2)

    inside(program)
    assert starts == [0, 1, 2, 3, 4, 5, 6, 7]


# Changes


def test_a_rate_that_is_changed_goes_on_from_what_it_has_given(inside, use_vm, work, starts):
    """A bucket changed is not full: what was taken counts on, at the new rate."""

    async def program():
        engine = cs.Engine(constraints=[limit_rate(0.25, 2)])

        async def changes():
            await anyio.sleep(2)  # half a token has come
            engine.constraints.limit_rate("task:work", 2, burst=2)
            await anyio.sleep(2)
            engine.constraints.limit_rate("task:work", 1, burst=2)

        async with anyio.create_task_group() as group:
            group.start_soon(changes)
            await engine.run([work() for _ in range(10)], use_vm=use_vm)

    inside(program)
    assert starts == [0, 0, 2.25, 2.75, 3.25, 3.75, 4.5, 5.5, 6.5, 7.5]


def test_a_higher_rate_moves_the_timer_forward(inside, use_vm, work, starts):
    """Who waits for a token of a slow rate does not sleep through the change to a fast one."""

    async def program():
        engine = cs.Engine(constraints=[limit_rate("1/h")])
        async with anyio.create_task_group() as group:
            group.start_soon(partial(engine.run, [work() for _ in range(3)], use_vm=use_vm))
            await anyio.sleep(900)  # a quarter of a token has come
            engine.constraints.limit_rate("task:work", "1/m")
        return engine.constraints.statistics().wakeups

    assert inside(program) == 2
    assert_exact(starts, [0, 945, 1005])


def test_a_lower_rate_moves_the_timer_back(inside, use_vm, work, starts):
    """Nobody is woken at the time that no longer holds."""

    async def program():
        engine = cs.Engine(constraints=[limit_rate(1)])
        async with anyio.create_task_group() as group:
            group.start_soon(partial(engine.run, [work() for _ in range(3)], use_vm=use_vm))
            await anyio.sleep(0.5)  # half a token has come
            engine.constraints.limit_rate("task:work", 0.125)
            await anyio.sleep(1)
            assert engine.constraints.statistics().wakeups == 0

    inside(program)
    assert starts == [0, 4.5, 12.5]


@pytest.mark.parametrize("burst", [1, 3])
def test_a_change_to_the_same_rate_changes_nothing(inside, use_vm, work, starts, burst):
    """However often it is repeated, no start comes early or late."""

    async def program():
        engine = cs.Engine(constraints=[limit_rate(2, burst)])
        async with anyio.create_task_group() as group:
            group.start_soon(partial(engine.run, [work() for _ in range(12)], use_vm=use_vm))
            for _ in range(30):
                await anyio.sleep(0.0625)
                engine.constraints.update(limit_rate(2, burst))

    inside(program)
    assert_exact(starts, times(Fraction(2), burst, 12))


def test_a_pause_saves_up_no_more_than_the_burst(inside, use_vm, work, starts):
    """Those who were paused start at the rate when the pause ends."""

    async def program():
        engine = cs.Engine(constraints=[limit_rate(1, 2)])
        engine.constraints.pause("global", ttl=100)
        await engine.run([work() for _ in range(5)], use_vm=use_vm)

    inside(program)
    assert starts == [100, 100, 101, 102, 103]


# Bounds


@given(data=st.data())
def test_both_bounds_hold_for_any_arrivals(backend, use_vm, run, data):
    """Never more than rate*w + burst in any window; while somebody waits, at least rate*w - 1."""
    rate = data.draw(st.fractions(Fraction(1, 50), 50, max_denominator=50))
    burst = data.draw(st.integers(1, 4))
    arrivals = data.draw(
        st.lists(st.integers(0, 40).map(lambda n: n / 16), min_size=1, max_size=15)
    )
    starts = []

    @cs.task
    async def work():
        starts.append(Fraction(anyio.current_time()))

    run([work().after(later(time)) for time in arrivals], constraints=[limit_rate(rate, burst)])
    assert_upper_bound(starts, rate, burst)
    # Somebody waits between two starts if fewer have started than have come.
    arrivals.sort()
    for k, (earlier, start) in enumerate(pairwise(starts), start=1):
        if bisect_right(arrivals, float(earlier)) > k:
            assert rate * (start - earlier) - 1 <= Fraction(1, 10**9)
    assert starts[0] == arrivals[0]


@pytest.mark.parametrize("rate", ["10/h", 10_000], ids=str)
def test_a_thousand_items_start_without_drift(inside, use_vm, starts, work, rate):
    """The last of many starts as exactly as the first, and each grant sets one timer at most."""

    async def program():
        engine = cs.Engine(constraints=[limit_rate(rate)])
        await engine.run(work.map(x=range(1000)), use_vm=use_vm)
        return engine.constraints.statistics()

    statistics = inside(program)
    assert_exact(starts, times(Fraction(10, 3600) if rate == "10/h" else Fraction(rate), 1, 1000))
    assert statistics.grants == 1000
    assert statistics.wakeups == 999
    assert statistics.timers <= 1000


def test_the_timer_does_not_move_to_a_run_that_is_over(inside, use_vm):
    """A rate goes on for other runs while a failed one is still being torn down."""

    @cs.resource
    async def slow():
        yield 1
        await anyio.sleep(20)

    @cs.task
    def limited():
        return anyio.current_time()

    @cs.task
    async def fails(_slow=cs.inject("slow")):
        await anyio.sleep(1.6)
        raise KeyError("first")

    async def main():
        engine = cs.Engine()
        engine.register(slow)
        engine.constraints.limit_rate("task:limited", 1)
        starts = []

        async def failing():
            with pytest.raises(KeyError):
                await engine.run([fails(), *(limited() for _ in range(5))], use_vm=use_vm)

        async def going_on(delay, count):
            await anyio.sleep(delay)
            starts.append(await engine.run([limited() for _ in range(count)], use_vm=use_vm))

        async with anyio.create_task_group() as group:
            group.start_soon(going_on, 0, 3)
            group.start_soon(failing)
            group.start_soon(going_on, 8, 2)
        return starts

    first, second = inside(main)
    assert max(first) < 8
    assert second == [8, 9]
