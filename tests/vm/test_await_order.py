"""Hot loops with awaits and guards start their tasks in plan order (section 3), as cold ones do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

import cascade as cs
from cascade.core.services import FusedTier

ROUNDS = 6

Shape = Callable[[Any, Any], Any]


def looped(shape: Shape, log: list[Any]) -> Any:
    """A loop over `shape(note, later)`, whose tasks note in which order they start.

    What they give changes from one iteration to the next as their last argument says.
    """
    counts: dict[str, int] = {}

    def told(name: str, given: tuple[Any, ...]) -> Any:
        log.append(name)
        counts[name] = counts.get(name, -1) + 1
        value = given[counts[name] % len(given)]
        if isinstance(value, Exception):
            raise value
        return value

    @cs.task
    def note(name: str, *needed: Any, gives: tuple[Any, ...] = (1,)) -> Any:
        return told(name, gives)

    @cs.task
    async def later(name: str, *needed: Any, gives: tuple[Any, ...] = (1,)) -> Any:
        value = told(name, gives)
        await anyio.sleep(0.001)
        return value

    @cs.task
    def step(n: int, *needed: Any) -> Any:
        log.append(n)
        return needed if n == ROUNDS else cs.Jump("again", {"n": n + 1})

    node = step(1, *shape(note, later))
    return cs.bind(node, cs.select_jump({"again": node}))


def router_in_a_condition(note: Any, later: Any) -> Any:
    """The call of a route that was not chosen is none that the awaited task needs."""
    own = note("own")
    other = note("other", own)
    way = cs.Router(note("way", own, gives=(0, 1)), {0: other, 1: note("route")}, default=1)
    return later("later").run_if(way, default=0), other


def literal_route(note: Any, later: Any) -> Any:
    """A route without calls lets the task start at once."""
    own = note("own")
    other = note("other", own)
    way = cs.Router(note("way", own, gives=(0, 1, 2)), {0: other, 1: 1}, default=2)
    return later("later").run_if(way, default=0), other


def default_of_a_condition(note: Any, later: Any) -> Any:
    """What a node with a default needs hangs on whether its conditions hold."""
    other = note("other")
    given = note("given", other).run_if(note("if", gives=(0, 1)), default=3)
    return later("later", given), other


def container_below_a_call(note: Any, later: Any) -> Any:
    """A container that is a condition is there as soon as its members are."""
    own = note("own")
    return own, note("unrelated"), later("later").run_if([own])


def nested_routers(note: Any, later: Any) -> Any:
    """A route of a route."""
    a, b = note("a"), note("b")
    inner = cs.Router(note("inner", gives=(0, 1)), {0: a, 1: 1})
    outer = cs.Router(note("outer", gives=(0, 0, 1)), {0: inner, 1: b})
    return later("later").run_if(outer, default=0), a, b


def awaits_in_two_routes(note: Any, later: Any) -> Any:
    """Of two routes one is taken: their awaits never go on at the same time."""
    own = note("own", gives=(0, 1))
    return (cs.Router(own, {0: later("zero"), 1: later("one", note("before one"))}),)


def two_conditions_and_a_default(note: Any, later: Any) -> Any:
    """Whichever condition is the falsy one, the default comes after those that were asked."""
    given = (
        note("given")
        .run_if(note("one", gives=(0, 1, 1)))
        .run_if(note("two", gives=(0, 1)), default=5)
    )
    return (later("later", given),)


def fallback_of_its_own_calls(note: Any, later: Any) -> Any:
    """What only a failure demands is opened by no row."""
    own = note("own", gives=(1, ValueError("own")))
    instead = note("instead", note("for the fallback"))
    return (later("later", own.with_fallback(instead)), note("unrelated"))


def await_that_has_a_fallback(note: Any, later: Any) -> Any:
    """The fallback of an await, and what that awaits, start after it has failed."""
    own = later("own", gives=(1, ValueError("own")))
    return (note("after", own.with_fallback(later("instead", note("for the fallback")))),)


def handler_that_injects(note: Any, later: Any) -> Any:
    """A handler's resource is demanded only by a failure."""

    @cs.task
    def handle(error: Exception, held: Any = cs.inject("held")) -> Any:
        return note.func("handle", held)

    own = note("own", gives=(1, ValueError("own")))
    return (later("later", own.with_fallback(handle)),)


SHAPES = [
    router_in_a_condition,
    literal_route,
    default_of_a_condition,
    container_below_a_call,
    nested_routers,
    awaits_in_two_routes,
    two_conditions_and_a_default,
    fallback_of_its_own_calls,
    await_that_has_a_fallback,
    handler_that_injects,
]


@cs.resource(scope="step")
def held() -> Any:
    yield "held"


def started(inside: Any, shape: Shape, use_vm: bool, hot_after: int) -> tuple[list[Any], int]:
    log: list[Any] = []
    engine = cs.Engine()
    engine.register(held)
    engine.services.fused_tier = FusedTier(hot_after)
    value = inside(lambda: engine.run(looped(shape, log), use_vm=use_vm))
    return [*log, value], engine.statistics().fused_entries


@pytest.mark.parametrize("hot_after", [0, 12, 30])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_a_hot_loop_with_awaits_starts_tasks_in_plan_order(
    inside: Any, shape: Shape, hot_after: int
) -> None:
    """Whatever routes and conditions choose, as under the graph strategy."""
    expected, _ = started(inside, shape, use_vm=False, hot_after=0)
    assert started(inside, shape, use_vm=True, hot_after=10**9)[0] == expected
    assert started(inside, shape, use_vm=True, hot_after=hot_after)[0] == expected


@pytest.mark.parametrize("shape", [awaits_in_two_routes, two_conditions_and_a_default])
def test_awaits_that_stand_alone_on_every_way_are_fused(inside: Any, shape: Shape) -> None:
    """A call of a way that is not taken is no reason to leave a loop to the interpreter."""
    assert started(inside, shape, use_vm=True, hot_after=0)[1]
