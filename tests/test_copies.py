"""Copies of Tasks, bound Tasks and expressions: what they share, and what is their own."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import cascade as cs

Run = Callable[..., Any]


class Steps:
    def __init__(self, factor: int = 2) -> None:
        self.factor = factor

    @cs.task
    def times(self, x: int) -> int:
        return self.factor * x

    @cs.task
    def other(self, x: int) -> int:
        return x

    def __eq__(self, other: object) -> bool:
        raise AssertionError("nobody asks for it")

    __hash__ = None  # type: ignore[assignment]


@cs.task
def plus(x: int, y: int = 0, *, z: int = 0) -> int:
    return x + y + z


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


COPIES = [copy.copy, copy.deepcopy, pickled]


@pytest.mark.parametrize("make", COPIES)
def test_a_bound_task_is_copied_like_a_bound_method(run: Run, make: Any) -> None:
    """A copy has the same instance, a deep copy or pickle a copy of it; the Task is the same."""
    steps = Steps(3)
    for bound in (make(steps.times), make({"held": [steps.times]})["held"][0]):
        assert bound.task is Steps.times
        assert (bound.instance is steps) == (make is copy.copy)
        assert run(bound(2)) == 6
        assert run(bound.map(x=[1, 2])) == [3, 6]
        assert bound.name == "times"


def test_a_bound_task_equals_one_of_the_same_task_and_instance() -> None:
    """The instance is not asked whether it equals another."""
    one, other = Steps(), Steps()
    assert one.times == one.times
    assert hash(one.times) == hash(one.times)
    assert one.times != one.other
    assert one.times != other.times
    assert one.times != Steps.times
    assert one.times != None  # noqa: E711
    assert len({one.times, one.times, other.times, one.other}) == 3


@pytest.mark.parametrize("make", COPIES)
def test_a_task_is_itself_in_every_copy(make: Any) -> None:
    assert make(plus) is plus
    assert make([Steps.times])[0] is Steps.times


def test_a_task_that_nobody_finds_is_not_pickled() -> None:
    local = cs.task(lambda: 1, name="local")
    assert copy.copy(local) is copy.deepcopy(local) is local
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(local())


POLICIES: dict[str, Callable[[Any], Any]] = {
    "retry": lambda node: node.with_retry(2),
    "cache": lambda node: node.with_cache(cs.InMemoryCache()),
    "constraints": lambda node: node.with_constraints(gpu=1),
    "condition": lambda node: node.run_if(False, default=7),
    "after": lambda node: node.after(plus(1)),
}
NODES: dict[str, Callable[[], Any]] = {
    "call": lambda: plus(plus(1), 2, z=3),
    "map": lambda: plus.map(x=[1, 2], z=plus.map(x=[1, 2])),
    "method": lambda: Steps(3).times(2),
}


def policies_of(node: Any) -> Any:
    return cs.to_json(node)


@pytest.mark.parametrize("node", NODES.values(), ids=NODES)
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_node_has_policies_of_its_own(make: Any, policy: Any, node: Any) -> None:
    """Chain methods of a copy leave the original alone, and the other way round."""
    original = policy(node())
    copied = make(original)
    before = policies_of(original)
    for change in POLICIES.values():
        change(copied)
    copied.as_method()
    assert policies_of(original) == before
    again = make(original)
    original.with_retry(9).run_if(True).after(plus(5))
    assert policies_of(again) == before


@pytest.mark.parametrize("make", COPIES)
def test_copies_of_every_kind_of_expression_work(run: Run, make: Any) -> None:
    """A copy is another expression with the same parts, and has the same value."""

    def value(expression: Any) -> Any:
        return run(expression, resources=[cs.resource(name="r")(_provide)])

    expressions = [
        *(node() for node in NODES.values()),
        plus(1).with_retry(3, delay=1).run_if(plus(1), default=5).after(plus(2)),
        cs.Router(plus(1), {1: plus(5), "b": 2}, default=plus(3)),
        cs.Param("n", 3, type=int, description="how many"),
        cs.Env("CASCADE_TEST_UNSET", "e"),
        cs.inject("r"),
        [plus(1), {"k": (plus(2), 3)}],
        plus(cs.Param("m", 4, type=int), cs.inject("r")),
    ]
    for expression in expressions:
        copied = make(expression)
        assert copied is not expression
        assert type(copied) is type(expression)
        assert value(copied) == value(expression)


def _provide() -> Any:
    yield 5


@pytest.mark.parametrize("make", [copy.deepcopy, pickled])
def test_a_deep_copy_shares_what_was_shared(run: Run, make: Any) -> None:
    """One node in two places is one node of the copy, and a loop leads to itself."""
    shared = plus(1)
    copied = make([shared, plus(shared)])
    assert copied[0] is copied[1].args[0]
    node = countdown(3)
    looped = make(cs.bind(node, cs.select_jump({"again": node, "end": None})))
    assert looped is not node
    assert looped.policies.selector.routes["again"] is looped
    assert run(looped) == "end"


@cs.task
def countdown(n: int) -> Any:
    return cs.Jump("again", n - 1) if n else cs.Jump("end", "end")


def test_a_copy_of_a_router_has_routes_of_its_own(run: Run) -> None:
    original = cs.Router("a", {"a": 1})
    copied = copy.copy(original)
    copied.routes["a"] = 2
    assert (run(original), run(copied)) == (1, 2)


def test_copies_share_their_cache(run: Run) -> None:
    """A cache holds what was computed, whoever asks; it is never copied."""
    cache = cs.InMemoryCache()
    node = plus(1).with_cache(cache)
    for make in (copy.copy, copy.deepcopy):
        assert make(node).policies.cache is cache
    for make in COPIES:
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            make(cache)
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        pickle.dumps(node)
