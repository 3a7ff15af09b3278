"""Many wait, few are woken: no herd at a slot, no convoy behind one who waits (section 10)."""

import anyio
import pytest

import cascade as cs

MANY = 10_000


@pytest.fixture
def watched(inside, use_vm):
    """Runs a target on a new engine; its value, statistics, and how many were told as blocked."""

    def watched(make_target, **options):
        async def program():
            bus = cs.MessageBus()
            blocked = []
            bus.subscribe(cs.TaskBlocked, blocked.append)
            engine = cs.Engine(bus=bus, **options)
            value = await engine.run(make_target(engine), use_vm=use_vm)
            return value, engine.constraints.statistics(), len(blocked)

        return inside(program)

    return watched


def limit(scope, count):
    return cs.GlobalConstraint("limit", scope, "concurrency", {"limit": count})


@pytest.mark.parametrize("by", ["capacity", "limit"])
def test_10_000_waiters_on_one_slot_are_woken_once_each(watched, by):
    """Each end wakes the one that goes next, and nobody else: as many wakeups as had to wait."""
    woken = []
    order = []

    def make_target(engine):
        @cs.task
        async def work(x):
            if x % 100 == 0:
                woken.append((engine.constraints.statistics().wakeups, x))
            order.append(x)
            await (anyio.lowlevel.checkpoint() if x else anyio.sleep(1))

        return [work(x).with_constraints(gpu=1) for x in range(MANY)]

    if by == "capacity":
        _, statistics, blocked = watched(make_target, system_resources={"gpu": 1})
    else:
        _, statistics, blocked = watched(make_target, constraints=[limit("task:work", 1)])
    assert order == list(range(MANY))
    assert all(wakeups == x for wakeups, x in woken)
    assert (statistics.grants, statistics.wakeups, statistics.timers) == (MANY, MANY - 1, 0)
    assert blocked == MANY - 1
    assert statistics.parked == 0


def test_10_000_inline_tasks_on_one_slot_are_woken_once_each(watched):
    """Sync tasks that are parked go on where they are, one by one."""
    order = []

    def make_target(engine):
        @cs.task
        async def holds():
            await anyio.sleep(1)

        work = cs.task(order.append, name="work")
        return [
            holds().with_constraints(gpu=1),
            *(work(x).with_constraints(gpu=1) for x in range(MANY)),
        ]

    _, statistics, blocked = watched(make_target, system_resources={"gpu": 1})
    assert order == list(range(MANY))
    assert (statistics.grants, statistics.wakeups, blocked) == (MANY + 1, MANY, MANY)


def test_10_000_waiters_for_a_rate_set_one_timer_per_grant_at_most(watched):
    """A token wakes one of them, and the timer sleeps until the next token."""
    starts = []

    def make_target(engine):
        @cs.task
        async def work(x):
            starts.append(anyio.current_time())

        return work.map(x=range(MANY))

    rate = cs.GlobalConstraint("rate", "task:work", "rate_limit", {"rate": 1024, "burst": 8})
    _, statistics, blocked = watched(make_target, constraints=[rate])
    assert starts == [max(0, x - 7) / 1024 for x in range(MANY)]
    assert (statistics.grants, statistics.wakeups, blocked) == (MANY, MANY - 8, MANY - 8)
    assert statistics.timers <= statistics.grants


def test_the_end_of_a_pause_wakes_no_more_than_may_start(watched):
    """Of thousands that were paused, those go on whom everything else admits."""
    running = []
    woken = []

    def make_target(engine):
        @cs.task
        async def work(x):
            running.append(x)
            statistics = engine.constraints.statistics()
            woken.append(statistics.wakeups - (len(woken)))
            await anyio.sleep(1)
            running.remove(x)

        @cs.task
        async def resumes():
            await anyio.sleep(1)
            before = engine.constraints.statistics().wakeups
            engine.constraints.resume("task:work")
            return engine.constraints.statistics().wakeups - before

        engine.constraints.pause("task:work")
        return [resumes(), work.map(x=range(MANY // 10)).with_constraints(gpu=1)]

    value, statistics, _ = watched(make_target, system_resources={"gpu": 10})
    assert value[0] == 10
    assert statistics.wakeups == MANY // 10
    assert max(woken) <= 10


def test_raising_a_limit_wakes_as_many_as_it_is_raised_by(watched):
    """Each step of one wakes one of the thousands."""

    def make_target(engine):
        @cs.task
        async def work(x):
            await anyio.sleep(100)

        @cs.task
        async def raises():
            woken = []
            for count in (2, 3, 5, 105, 50, 106):
                before = engine.constraints.statistics().wakeups
                engine.constraints.limit_concurrency("task:work", count, id="limit")
                woken.append(engine.constraints.statistics().wakeups - before)
                await anyio.sleep(1)
            return woken

        return [raises().after(later()), work.map(x=range(MANY // 10))]

    value, statistics, _ = watched(make_target, constraints=[limit("task:work", 1)])
    assert value[0] == [1, 1, 2, 100, 0, 1]
    assert statistics.wakeups == MANY // 10 - 1


@cs.task
async def later(seconds=0.5):
    await anyio.sleep(seconds)


# No convoy

DENIERS = {
    "pause": cs.GlobalConstraint("denied", "task:denied", "pause", ttl=100),
    "rate": cs.GlobalConstraint("denied", "task:denied", "rate_limit", {"rate": 0.01}),
}


@pytest.fixture
def log():
    return []


@pytest.fixture
def denied(log):
    @cs.task
    async def denied(x=None):
        log.append(("denied", anyio.current_time()))
        await anyio.sleep(1)

    return denied


@pytest.fixture
def other(log):
    @cs.task
    async def other(x=None):
        log.append(("other", anyio.current_time()))
        await anyio.sleep(1)

    return other


@pytest.mark.parametrize("things", ["limit", "capacity", "both"])
@pytest.mark.parametrize("kind", DENIERS)
def test_one_that_is_denied_holds_up_nobody_under_a_global_limit(
    run, log, denied, other, kind, things
):
    """Tasks that a pause or a rate denies take no slot and no place in the queue for one."""
    options = {"constraints": [DENIERS[kind]]}
    if things != "capacity":
        options["constraints"].append(limit("global", 2))
    if things != "limit":
        options["system_resources"] = {"gpu": 2}
    target = [node().with_constraints(gpu=1) for _ in range(4) for node in (denied, other)]
    run(target, **options)
    others = [time for name, time in log if name == "other"]
    waits = [time for name, time in log if name == "denied"]
    if kind == "pause":
        assert others == [0, 0, 1, 1]
        assert waits == [100, 100, 101, 101]
    else:
        # The first of them has its token at once, and a slot for the first second.
        assert waits == [0, 100, 200, 300]
        assert others == [0, 1, 1, 2]


@pytest.mark.parametrize("kind", DENIERS)
def test_thousands_that_are_denied_hold_up_nobody(watched, log, denied, other, kind):
    """However many are parked before it, one whom nothing denies starts at once."""

    def make_target(engine):
        @cs.task
        async def ends():
            await anyio.sleep(50)
            assert engine.constraints.statistics().parked >= MANY // 10 - 1
            engine.constraints.remove("denied")

        others = [other().after(later(x)) for x in range(10)]
        return [ends(), denied.map(x=range(MANY // 10)), others]

    _, statistics, _ = watched(make_target, constraints=[DENIERS[kind], limit("global", MANY)])
    assert [time for name, time in log if name == "other"] == list(range(10))
    assert statistics.wakeups >= MANY // 10 - 1


def test_one_denied_is_not_overtaken_by_later_ones_of_the_same_rate(run, log):
    """Among those that one rate denies, the first to come is the first to go."""

    @cs.task
    async def denied(x):
        log.append((x, anyio.current_time()))

    rate = cs.GlobalConstraint("rate", "task:denied", "rate_limit", {"rate": 1})
    late = [denied(x).after(later(x - 4.5)) for x in range(5, 8)]
    run([[denied(x) for x in range(5)], late], constraints=[rate])
    assert log == [(x, x) for x in range(8)]


def test_one_short_of_a_slot_holds_up_only_those_that_want_it(run, log, other):
    """A queue for one limit is no queue for what that limit does not concern."""

    @cs.task
    async def scarce():
        log.append(("scarce", anyio.current_time()))
        await anyio.sleep(10)

    target = [scarce(), scarce(), [other() for _ in range(4)]]
    run(target, constraints=[limit("task:scarce", 1)])
    assert log == [("scarce", 0), *[("other", 0)] * 4, ("scarce", 10)]


@pytest.mark.parametrize("kind", DENIERS)
def test_a_denied_task_keeps_its_place_for_when_it_is_no_longer_denied(run, log, kind):
    """It was there first: once it is admissible, later ones wait for it."""

    @cs.task
    async def denied():
        log.append(("denied", anyio.current_time()))
        await anyio.sleep(1)

    @cs.task
    async def other():
        log.append(("other", anyio.current_time()))
        await anyio.sleep(30)

    constraint = {
        "pause": cs.GlobalConstraint("denied", "task:denied", "pause", ttl=20),
        "rate": cs.GlobalConstraint("denied", "task:denied", "rate_limit", {"rate": 0.05}),
    }[kind]
    # When the slot is free again the second `other` waits too, who came later.
    target = [denied(), denied(), other(), other()]
    run(
        [node.with_constraints(gpu=1) for node in target],
        constraints=[constraint],
        system_resources={"gpu": 1},
    )
    expected = {
        "pause": [("other", 0), ("denied", 30), ("denied", 31), ("other", 32)],
        "rate": [("denied", 0), ("other", 1), ("denied", 31), ("other", 32)],
    }
    assert log == expected[kind]
