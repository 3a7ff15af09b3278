"""Attempts of one node: retry, backoff, timeout, and the order of its steps (section 7)."""

from itertools import pairwise

import anyio
import pytest

import cascade as cs


def failing(times, error=ValueError):
    """A task that raises `times` errors, then gives "done"; and the log of the times it ran at."""
    starts = []

    @cs.task
    async def flaky():
        starts.append(anyio.current_time())
        if len(starts) <= times:
            raise error(len(starts))
        return "done"

    return flaky, starts


@pytest.mark.parametrize(("failures", "allowed"), [(0, 1), (1, 2), (2, 3), (2, 9)])
def test_an_attempt_that_fails_is_followed_by_the_next(run, failures, allowed):
    """A node is executed until an attempt succeeds, which gives its value."""
    flaky, starts = failing(failures)
    assert run(flaky().with_retry(allowed)) == "done"
    assert len(starts) == failures + 1


@pytest.mark.parametrize("allowed", [1, 2, 5])
def test_max_attempts_counts_the_first_execution(run, allowed):
    """`max_attempts` executions are made at most, and the failure of the last one surfaces."""
    errors = []

    @cs.task
    def fails():
        errors.append(ValueError(len(errors)))
        raise errors[-1]

    with pytest.raises(ValueError, match=str(allowed - 1)) as caught:
        run(fails().with_retry(allowed))
    assert len(errors) == allowed
    assert caught.value is errors[-1]


@pytest.mark.parametrize(
    ("on", "error", "executions"),
    [
        (Exception, KeyError, 3),
        (LookupError, KeyError, 3),
        (KeyError, LookupError, 1),
        (KeyError, ValueError, 1),
        ((KeyError, OSError), OSError, 3),
    ],
)
def test_only_exceptions_of_on_are_retried(run, on, error, executions):
    """An exception that is none of `on` is the last one."""
    flaky, starts = failing(99, error)
    with pytest.raises(error):
        run(flaky().with_retry(3, on=on))
    assert len(starts) == executions


@pytest.mark.parametrize(
    ("policy", "gaps"),
    [
        ({}, [0, 0, 0]),
        ({"delay": 1.5}, [1.5, 1.5, 1.5]),
        ({"delay": 1.0, "backoff": 2.0}, [1, 2, 4]),
        ({"delay": 1.0, "backoff": 3.0, "max_delay": 5.0}, [1, 3, 5]),
        ({"delay": 4.0, "max_delay": 2.0}, [2, 2, 2]),
        ({"backoff": 2.0}, [0, 0, 0]),
    ],
)
def test_delays_grow_by_backoff_up_to_max_delay(run, policy, gaps):
    """Retry k waits `delay * backoff**k` seconds, at most `max_delay`."""
    flaky, starts = failing(3)
    run(flaky().with_retry(4, **policy))
    waited = [later - earlier for earlier, later in pairwise(starts)]
    assert waited == pytest.approx(gaps)


@pytest.mark.parametrize(
    ("policy", "low", "high"),
    [({"delay": 4.0}, 4.0, 6.0), ({"delay": 4.0, "max_delay": 2.0}, 2.0, 3.0)],
)
def test_jitter_adds_up_to_its_share_of_the_delay(run, policy, low, high):
    """A delay with `jitter` is at least itself and at most itself and that share of itself."""
    flaky, starts = failing(20)
    run(flaky().with_retry(21, jitter=0.5, **policy))
    waited = [later - earlier for earlier, later in pairwise(starts)]
    assert all(low - 1e-6 <= gap <= high + 1e-6 for gap in waited)
    assert len({round(gap, 9) for gap in waited}) > 1


@pytest.mark.parametrize(
    "policy",
    [
        {"max_attempts": 0},
        {"max_attempts": -1},
        {"delay": -1.0},
        {"delay": float("nan")},
        {"max_delay": -1.0},
        {"jitter": -0.1},
    ],
)
def test_retry_values_are_checked_when_given(policy):
    """A retry that cannot be is a ValueError at the call of `with_retry`."""
    flaky, _ = failing(0)
    with pytest.raises(ValueError, match=next(iter(policy))):
        flaky().with_retry(**policy)


def test_each_attempt_passes_the_gate_anew(run):
    """While a node waits for its next attempt it holds no capacity."""
    log = []

    @cs.task
    async def fails_once():
        log.append(("first", anyio.current_time() - begin[0]))
        if len(log) == 1:
            raise ValueError

    @cs.task
    async def later():
        await anyio.sleep(1)

    @cs.task
    async def other():
        log.append(("other", anyio.current_time() - begin[0]))
        await anyio.sleep(20)

    begin = []
    bus = cs.MessageBus()
    bus.subscribe(cs.RunStarted, lambda event: begin.append(event.timestamp))
    target = [
        fails_once().with_retry(2, delay=10).with_constraints(gpu=1),
        other().with_constraints(gpu=1).after(later()),
    ]
    run(target, system_resources={"gpu": 1}, bus=bus)
    assert [name for name, _ in log] == ["first", "other", "first"]
    assert [time for _, time in log] == pytest.approx([0, 1, 21])


def test_cancellation_is_never_retried(run):
    """A cancelled attempt is the last one, whatever `on` says."""
    starts = []

    @cs.task
    async def waits():
        starts.append(1)
        await anyio.sleep_forever()

    @cs.task
    async def fails():
        await anyio.sleep(1)
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        run([waits().with_retry(5, on=BaseException), fails()])
    assert len(starts) == 1


def test_a_timeout_is_a_task_timeout_error(run):
    """An attempt that takes longer than its timeout is cancelled: TaskTimeoutError."""
    cancelled = []

    @cs.task
    async def slow():
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.append(anyio.current_time())

    with pytest.raises(cs.TaskTimeoutError, match="slow"):
        run(slow().with_timeout(2))
    assert issubclass(cs.TaskTimeoutError, TimeoutError)
    assert len(cancelled) == 1


def test_a_timeout_bounds_each_attempt(run):
    """Every attempt has its whole timeout for itself, and timing out is retried."""
    starts = []

    @cs.task
    async def slow():
        starts.append(anyio.current_time())
        await anyio.sleep([9, 9, 1.5][len(starts) - 1])
        return "in time"

    assert run(slow().with_timeout(2).with_retry(3, delay=1, on=TimeoutError)) == "in time"
    assert [start - starts[0] for start in starts] == pytest.approx([0, 3, 6])


def test_time_spent_waiting_for_the_gate_is_not_under_the_timeout(run):
    """A timeout counts from the start of the call, not of the wait for capacity."""

    @cs.task
    async def holds():
        await anyio.sleep(10)

    @cs.task
    async def quick():
        await anyio.sleep(1)
        return "done"

    @cs.task
    async def later():
        await anyio.sleep(1)

    first = holds().with_constraints(gpu=1)
    second = quick().with_constraints(gpu=1).with_timeout(2).after(later())
    assert run([first, second], system_resources={"gpu": 1}) == [None, "done"]


def test_a_tasks_own_timeout_error_surfaces_as_itself(run):
    """A TimeoutError that the task raises is not replaced by a TaskTimeoutError."""
    error = TimeoutError("mine")

    @cs.task
    async def fails():
        raise error

    with pytest.raises(TimeoutError) as caught:
        run(fails().with_timeout(2))
    assert caught.value is error


def test_a_timeout_of_an_inline_sync_task_is_refused(run):
    """A sync function on the loop cannot be interrupted: ValueError that names mode="thread"."""

    @cs.task
    def inline():
        return 1

    with pytest.raises(ValueError, match='mode="thread"'):
        inline().with_timeout(1)


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_timeout_values_are_checked_when_given(seconds):
    """A timeout that cannot be is a ValueError at the call of `with_timeout`."""
    flaky, _ = failing(0)
    with pytest.raises(ValueError, match=str(seconds)):
        flaky().with_timeout(seconds)


class LoggedCache:
    """A cache that never hits and logs its calls."""

    def __init__(self, log):
        self.log = log

    async def get(self, key):
        self.log.append("get")

    async def put(self, key, value):
        self.log.append("put")


def test_the_steps_of_a_node_come_in_one_order(run):
    """Conditions, inputs, cache, then for each attempt resources, start, call, finish; then put."""
    log = []

    @cs.task
    def condition():
        log.append("condition")
        return True

    @cs.task
    def argument():
        log.append("argument")

    @cs.resource(scope="task")
    def connection():
        log.append("set-up")
        yield "connection"

    @cs.task
    def node(argument, connection=cs.inject("connection")):
        log.append("call")
        if log.count("call") < 2:
            raise ValueError

    bus = cs.MessageBus()
    names = {cs.TaskExecutionStarted: "started", cs.TaskExecutionFinished: "finished"}
    for kind, name in names.items():
        bus.subscribe(kind, lambda e, name=name: e.task_name == "node" and log.append(name))
    target = node(argument()).run_if(condition()).with_retry(2).with_cache(LoggedCache(log))
    run(target, bus=bus, resources=[connection])
    attempt = ["set-up", "started", "call", "finished"]
    assert log == ["condition", "argument", "get", *attempt, *attempt, "put"]


def test_capacity_is_back_before_the_cache_is_written(run):
    """A node's capacity is free while its value is put in the cache."""
    ran = []

    class Waits(LoggedCache):
        async def put(self, key, value):
            await other_ran.wait()

    @cs.task
    async def make_event():
        nonlocal other_ran
        other_ran = anyio.Event()

    @cs.task
    async def node():
        await anyio.sleep(2)
        ran.append("node")

    @cs.task
    async def later():
        await anyio.sleep(1)

    @cs.task
    async def other():
        ran.append("other")
        other_ran.set()

    other_ran = None
    target = [
        node().with_cache(Waits([])).with_constraints(gpu=1).after(make_event()),
        other().with_constraints(gpu=1).after(later()),
    ]
    run(target, system_resources={"gpu": 1})
    assert ran == ["node", "other"]


def returned(value):
    """Three ways to say: not a value but what to compute next."""

    @cs.task
    async def follows():
        await anyio.sleep(5)
        return value() if callable(value) else value

    return follows


def start(kind, follows, node_of):
    """A node that goes on to `follows` by a jump, a tail call or a returned expression."""
    calls = []

    @cs.task
    async def node(again=True):
        calls.append(again)
        if kind == "jump":
            return cs.Jump("next")
        if kind == "expression":
            return follows()
        if again:
            return cs.TailCall((False,))
        await anyio.sleep(0.5)
        return "value"

    target = node_of(node())
    if kind == "jump":
        cs.bind(target, cs.select_jump({"next": follows()}))
    return target, calls


@pytest.mark.parametrize("kind", ["jump", "expression"])
def test_what_follows_is_outside_the_timeout(run, kind):
    """A Jump or a returned expression ends the attempt, and with it the timeout."""
    target, _ = start(kind, returned("value"), lambda node: node.with_timeout(1))
    assert run(target) == "value"


@pytest.mark.parametrize("kind", ["jump", "expression"])
def test_what_follows_is_outside_the_retry(run, kind):
    """A failure after a Jump or in a returned expression is not retried by the node before."""

    def fail():
        raise KeyError("later")

    target, calls = start(kind, returned(fail), lambda node: node.with_retry(3))
    with pytest.raises(KeyError):
        run(target)
    assert len(calls) == 1


@pytest.mark.parametrize("kind", ["jump", "expression", "tail call"])
def test_what_follows_finds_the_capacity_given_back(run, kind):
    """A Jump, a TailCall or a returned expression gives the capacity of the attempt back."""

    @cs.task
    async def follows():
        return "value"

    target, _ = start(
        kind,
        lambda: follows().with_constraints(gpu=1),
        lambda node: node.with_constraints(gpu=1),
    )
    assert run(target, system_resources={"gpu": 1}) == "value"


@pytest.mark.parametrize("kind", ["jump", "expression"])
def test_only_ordinary_values_are_put_in_a_cache(run, kind):
    """A Jump or a returned expression is looked up but never put."""
    log = []
    target, calls = start(kind, returned("value"), lambda n: n.with_cache(LoggedCache(log)))
    assert run(target) == "value"
    assert log == ["get"]
    assert len(calls) == 1


def test_what_fails_because_it_is_cancelled_is_not_retried(inside, use_vm):
    """An attempt that turns its cancellation into a failure announces no retry."""
    bus, seen = cs.MessageBus(), []
    bus.subscribe(cs.TaskRetrying, seen.append)

    @cs.task
    async def stubborn():
        try:
            await anyio.sleep(60)
        finally:
            raise ValueError("the clean-up failed")

    async def main():
        with anyio.move_on_after(1):
            await cs.run_async(stubborn().with_retry(3), bus=bus, use_vm=use_vm)

    inside(main)
    assert seen == []
