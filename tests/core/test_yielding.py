"""Fairness of the loop: runs of tasks that do not suspend yield (section 8, last law)."""

import time

import anyio
import pytest

import cascade as cs


@pytest.fixture
def inside(backend):
    """Real time: what is bounded is how long others on the loop wait."""

    def inside(function, *args):
        return anyio.run(function, *args, backend=backend)

    return inside


def spin(seconds=0.001):
    """Hold the thread for a while."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def programs(executed):
    """Targets that execute `limit` tasks, none of which suspends, each calling `executed()`."""

    @cs.task
    def node(x=0):
        executed()
        return x

    @cs.task
    async def coroutine(x=0):
        executed()
        return x

    @cs.task
    def step(n, limit):
        executed()
        return cs.Jump("again", n + 1) if n < limit else n

    @cs.task
    async def async_step(n, limit):
        executed()
        return cs.Jump("again", n + 1) if n < limit else n

    @cs.task
    def call(n, limit):
        executed()
        return cs.TailCall((n + 1,)) if n < limit else n

    @cs.task
    def unfold(n, limit):
        executed()
        return unfold(n + 1, limit) if n < limit else n

    @cs.task
    def retried(limit):
        executed()
        attempts.append(1)
        if len(attempts) < limit:
            raise ValueError

    attempts = []

    def loop(task):
        def looped(limit):
            first = task(1, limit)
            return cs.bind(first, cs.select_jump({"again": first}))

        return looped

    def chain(limit, task):
        target = task()
        for _ in range(limit - 1):
            target = task(target)
        return target

    return {
        "list": lambda limit: [node() for _ in range(limit)],
        "async list": lambda limit: [coroutine() for _ in range(limit)],
        "chain": lambda limit: chain(limit, node),
        "async chain": lambda limit: chain(limit, coroutine),
        "map": lambda limit: node.map(x=list(range(limit))),
        "conditions": lambda limit: [node().run_if(node(1)) for _ in range(limit // 2)],
        "loop": loop(step),
        "async loop": loop(async_step),
        "retries": lambda limit: retried(limit).with_retry(10**9),
        "tail calls": lambda limit: call(1, limit),
        "returned expressions": lambda limit: unfold(1, limit),
    }


ENDLESS = ["loop", "async loop", "retries", "tail calls", "returned expressions"]
ALL = sorted(programs(None))


@pytest.mark.parametrize("name", ALL)
def test_tasks_that_do_not_suspend_yield(inside, use_vm, name):
    """Others on the loop wait no longer than about 5 ms plus one task, once plus 64 tasks."""
    gaps = [0]

    def executed():
        gaps[-1] += 1
        spin()

    async def watches():
        while True:
            gaps.append(0)
            await anyio.lowlevel.checkpoint()

    async def program():
        async with anyio.create_task_group() as group:
            group.start_soon(watches)
            await cs.run_async(programs(executed)[name](150), use_vm=use_vm)
            group.cancel_scope.cancel()

    inside(program)
    assert sum(gaps) == 150
    longest = sorted(gaps)
    assert longest[-1] <= 5 + 1 + 64 + 10
    assert longest[-2] <= 5 + 1 + 10


@pytest.mark.parametrize("name", ENDLESS)
def test_cancellation_is_seen_by_tasks_that_do_not_suspend(inside, use_vm, name):
    """An endless loop of inline tasks ends when its scope is cancelled."""
    counts = []

    async def program():
        target = programs(lambda: counts.append(1))[name](float("inf"))
        with anyio.move_on_after(0.05) as scope:
            await cs.run_async(target, use_vm=use_vm)
        return scope.cancelled_caught

    assert inside(program)
    assert counts


@pytest.mark.parametrize("name", ENDLESS)
def test_a_failing_sibling_ends_tasks_that_do_not_suspend(inside, use_vm, name):
    """An endless loop of inline tasks does not outlive the first failure of its run."""

    @cs.task
    async def fails():
        await anyio.sleep(0.02)
        raise ValueError("first")

    async def program():
        target = programs(lambda: None)[name](float("inf"))
        await cs.run_async([target, fails()], use_vm=use_vm)

    with pytest.raises(ValueError, match="first"):
        inside(program)


@pytest.mark.parametrize("ends_with", ["value", "skip"])
def test_a_run_may_end_in_a_postponed_slice(run, ends_with):
    """A long stretch without calls is done in slices, and the run ends in whichever it ends."""

    @cs.task
    async def start():
        await anyio.sleep(1)
        return ends_with == "value"

    link = cs.task(lambda value: value, name="link")
    target = start() if ends_with == "value" else link(1).run_if(start())
    for _ in range(10_000):
        target = [target] if ends_with == "value" else link(target)
    if ends_with == "value":
        assert len(run(target)) == 1
    else:
        with pytest.raises(cs.DependencyMissingError):
            run(target)
