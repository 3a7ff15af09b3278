"""Values and keys of users are asked for no more than a dict asks (sections 4, 5, 8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import cascade as cs

Run = Callable[..., Any]


class Missing:
    """As pandas.NA, an array or a column: comparing it gives what has no truth value."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def __eq__(self, other: object) -> Any:
        return self

    def __ne__(self, other: object) -> Any:
        return self

    def __hash__(self) -> int:
        return self.number

    def __bool__(self) -> bool:
        raise TypeError("it has no truth value")

    def __len__(self) -> int:
        raise TypeError("it has no length")


NA, OTHER = Missing(1), Missing(2)
HOT = 300  # iterations, by which a loop is fused


@cs.task
def same(x: Any) -> Any:
    return x


@cs.task(pure=True)
def pure(x: Any = NA) -> Any:
    return x


def test_a_router_looks_its_key_up_as_a_dict_does(run: Run) -> None:
    """By hash, then identity: other keys are not asked for equality."""
    seen: list[cs.TaskSkipped] = []
    bus = cs.MessageBus()
    bus.subscribe(cs.TaskSkipped, seen.append)
    routes = {NA: "missing", OTHER: same("other"), "b": same("b")}
    assert run(cs.Router(same(NA), routes), bus=bus) == "missing"
    assert [event.task_id for event in seen] == ["same#1", "same#2"]
    assert run(cs.Router(NA, routes)) == "missing"
    assert run(cs.Router(OTHER, routes)) == "other"


def test_a_chosen_route_of_two_keys_is_also_that_of_the_other_key(run: Run) -> None:
    """What of it was never demanded is reachable from an unchosen route, and so pruned."""
    seen: list[Any] = []
    bus = cs.MessageBus()
    bus.subscribe(cs.TaskSkipped, lambda event: seen.append((event.task_name, event.reason)))
    needed = cs.task(lambda: 1, name="needed")()
    route = same(needed).run_if(False, default=5)
    assert run(cs.Router("a", {"a": route, "b": route}), bus=bus) == 5
    assert seen == [("same", "ConditionFalse"), ("needed", "Pruned")]


def test_a_jump_looks_its_key_up_as_a_dict_does(run: Run) -> None:
    """In cold loops and in hot ones."""

    @cs.task
    def step(n: int) -> Any:
        return cs.Jump(NA, n - 1) if n else cs.Jump(OTHER, "done")

    for iterations in (2, HOT):
        node = step(iterations)
        assert run(cs.bind(node, cs.select_jump({NA: node, OTHER: None, "x": None}))) == "done"


@pytest.mark.parametrize("iterations", [0, HOT])
@pytest.mark.parametrize("failure", [TypeError, ValueError, KeyError])
def test_what_a_comparison_of_keys_raises_is_what_surfaces(
    run: Run, iterations: int, failure: type[Exception]
) -> None:
    """It is not taken for an unknown key."""

    class Odd:
        def __hash__(self) -> int:
            return hash("again")

        def __eq__(self, other: object) -> bool:
            raise failure("do not compare me")

    @cs.task
    def step(n: int) -> Any:
        return cs.Jump("again", n - 1) if n else cs.Jump(Odd(), "done")

    node = step(iterations)
    with pytest.raises(failure, match="do not compare me") as caught:
        run(cs.bind(node, cs.select_jump({"again": node, "end": None})))
    assert type(caught.value) is failure
    with pytest.raises(failure, match="do not compare me"):
        run(cs.Router(same(Odd()), {"again": 1}, default=2))


@pytest.mark.parametrize("key", [[], {}, set(), [1], bytearray()])
def test_what_cannot_be_a_key_is_an_unknown_one_of_a_jump(run: Run, key: Any) -> None:
    """A Jump with an unhashable key fails as one with an unknown key does."""
    node = same(cs.Jump(key))
    with pytest.raises(cs.JumpKeyError):
        run(cs.bind(node, cs.select_jump({"again": node, "end": None})))


def test_values_are_passed_on_without_being_asked_anything(run: Run) -> None:
    """As literals and values, in containers, maps, loops, routes, defaults, overrides."""

    @cs.task
    def step(n: int, data: Any = NA) -> Any:
        if n:
            return cs.Jump("again", {"n": n - 1, "data": OTHER})
        return cs.Jump("end", data)

    assert run(same(NA)) is NA
    assert run([same(NA), (NA, same(1)), {"k": NA, "l": same(NA)}])[2]["l"] is NA
    assert [x.number for x in run(same.map(x=[NA, OTHER]))] == [1, 2]
    assert all(x is NA for x in run(same.map(x=same([NA] * 3))))
    assert run(same(1).run_if(False, default=NA)) is NA
    assert run(cs.Router("a", {"a": NA})) is NA
    first, second = run([pure(NA), pure(NA)])
    assert first is second is NA
    assert run([pure(NA), pure(OTHER), pure()])[1] is OTHER
    for iterations in (2, HOT):
        node = step(iterations)
        bound = cs.bind(node, cs.select_jump({"again": node, "end": None}))
        assert run(bound) is OTHER
    assert run(same(cs.inject("r")), resources=[cs.resource(name="r")(_provide)]) is NA
    assert run(cs.Param("p", NA, type=Missing), params={"p": OTHER}) is OTHER


def _provide() -> Any:
    yield NA


def test_a_condition_without_truth_fails_the_run(run: Run) -> None:
    """An exception in a condition is the run's, as it is."""
    with pytest.raises(TypeError, match="it has no truth value"):
        run(same(1).run_if(same(NA)))


def test_data_of_a_jump_is_a_dict_by_its_length(run: Run) -> None:
    """The truth of a user's own kind of dict is not asked."""

    class Data(dict[str, Any]):
        def __bool__(self) -> bool:
            raise TypeError("it has no truth value")

    @cs.task
    def step(n: Any) -> Any:
        return cs.Jump("again", Data(n=n - 1)) if n else cs.Jump("leave", Data())

    @cs.task
    def leave(x: int = 7) -> Any:
        return x

    for iterations in (2, HOT):
        node = step(iterations)
        assert run(cs.bind(node, cs.select_jump({"again": node, "leave": leave()}))) == 7


@pytest.mark.parametrize("spec", [list, tuple, dict, str, int, cs.LazyResult, cs.Router, cs.Param])
def test_a_stand_in_is_data_whatever_class_it_claims(run: Run, spec: Any) -> None:
    """The type of an object says what it is, not its `__class__`, as proxies and mocks have it."""

    class StandIn:
        @property
        def __class__(self) -> Any:
            return spec

    one = StandIn()
    assert run(same(one)) is one
    assert run([same(one), one])[1] is one
    assert run(same.map(x=[one]))[0] is one
    assert run(same(1).run_if(False, default=one)) is one
    assert run([same(1), {"k": (one,)}])[1]["k"][0] is one
