"""A hot loop demands what its iterations share when a cold one does (sections 3 and 5)."""

import anyio
import pytest

import cascade as cs
from cascade.core.services import FusedTier

ROUNDS = 4


def loop_of(kind, log):
    """A loop whose iterations share an async task, which they demand in the way of `kind`."""

    @cs.task(pure=True)
    async def shared(x):
        log.append(("shared", x))
        await anyio.sleep(0.001)
        return x

    @cs.task
    def note(*given):
        log.append(("note", *given))
        return True

    @cs.task
    def pick(n):
        log.append(("pick", n))
        return n

    @cs.task
    def guarded(first, second):
        log.append(("guarded", first, second))
        return True

    @cs.task
    def step(n, *needed):
        log.append(("step", n))
        return needed if n == ROUNDS else cs.Jump("again", {"n": n + 1})

    def both():
        return guarded(note("below"), shared(1))

    if kind == "after":
        node = step(1, note("own"), shared(1)).after(note("before"))
    elif kind == "condition":
        node = step(1, note("own"), both().run_if(note("condition"), default=None))
    elif kind == "another's argument":
        own = note("own")
        node = step(1, guarded(own, shared(1)).run_if(note("condition")), own, note("last"))
    elif kind == "constant condition":
        node = step(1, both().run_if(cs.Param("on", default=True)), note("own"))
    elif kind == "constant route":
        selector = cs.Param("way", default="a")
        routes = {"a": both(), "b": guarded(note("other"), shared(2))}
        node = step(1, note("own"), cs.Router(selector=selector, routes=routes))
    elif kind == "route":
        routes = {1: both(), 2: guarded(note("other"), shared(2))}
        node = step(1, cs.Router(selector=pick(2), routes=routes), note("own"))
    elif kind == "two conditions":
        node = step(1, both().run_if(note("one")).run_if(note("two")), note("own"))
    else:
        node = step(1, both().run_if(note("off")), note(shared(3)))
    return cs.bind(node, cs.select_jump({"again": node}))


KINDS = [
    "after",
    "condition",
    "another's argument",
    "constant condition",
    "constant route",
    "route",
    "two conditions",
    "at once and guarded",
]


@pytest.mark.parametrize("hot_after", [0, 5, 12, 30])
@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("listening", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_hot_loop_starts_tasks_in_the_order_of_a_cold_one(
    inside, kind, listening, beside, hot_after
):
    """Ready async tasks start before inline ones, whatever the heat of the loop around them."""

    def started(use_vm, hot_after):
        log = []
        engine = cs.Engine()
        engine.services.fused_tier = FusedTier(hot_after)
        if listening:
            engine.bus.subscribe(cs.TaskExecutionStarted, lambda event: log.append(event.task_id))

        @cs.task
        def other(n):
            log.append(("other", n))

        target = loop_of(kind, log)
        if beside:
            target = [other(1), target, other(2)]
        inside(lambda: engine.run(target, use_vm=use_vm))
        return log

    cold = started(False, 0)
    assert started(True, 10**9) == cold
    assert started(True, hot_after) == cold
