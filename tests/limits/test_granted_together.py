"""Section 10: a task starts when every matching constraint admits it, however it was woken."""

from __future__ import annotations

import anyio
import pytest

import cascade as cs

CHANGES = {
    "pause": (lambda c: c.pause("task:work", ttl=10), [5, 15, 15]),
    "lower the limit": (lambda c: c.limit_concurrency("task:work", 1), [5, 6, 7]),
    "a new limit": (lambda c: c.limit_concurrency("global", 1), [5, 5, 6]),
    "a new rate": (lambda c: c.limit_rate("task:work", "1/m"), [5, 5, 65]),
    "charge": (lambda c: c.charge("tokens", 3), [5, 25, 35]),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("kind", ["async", "sync", "cached"])
def test_the_first_of_several_granted_together_keeps_the_others_from_starting(
    inside, use_vm, name, kind
):
    """The others are looked at again before they start, and lose neither place nor what is free.

    A new limit counts what it admitted itself, and a new rate starts full.
    """
    change, times = CHANGES[name]

    async def program():
        engine = cs.Engine(system_resources={"tokens": cs.Rate("6/m", burst=3)})
        constraints = engine.constraints
        starts = []

        def begin():
            starts.append(anyio.current_time())
            if len(starts) == 1:
                change(constraints)

        async def take_a_second(n):
            begin()
            await anyio.sleep(1)

        def take_no_time(n):
            begin()

        work = cs.task(take_a_second if kind == "async" else take_no_time, name="work")
        constraints.limit_concurrency("task:work", 3)
        constraints.pause("task:work", ttl=5)
        target = work.map(n=range(3)).with_constraints(tokens=1)
        if kind == "cached":
            target.with_cache(cs.InMemoryCache())
        await engine.run(target, use_vm=use_vm)
        statistics = constraints.statistics()
        assert (statistics.parked, statistics.grants, statistics.wakeups) == (0, 3, 3)
        assert all(each.running == 0 for each in statistics.constraints.values())
        return starts

    takes_no_time = kind != "async" and "limit" in name
    assert inside(program) == ([5, 5, 5] if takes_no_time else times)
