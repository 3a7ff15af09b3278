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


def by_method(expression: Any) -> Any:
    return expression.copy()


COPIES = [copy.copy, copy.deepcopy, pickled]
OWN_COPIES = [by_method, copy.copy, copy.deepcopy]  # of nodes with caches too


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
    """Copying or pickling a module's task gives the same object."""
    assert make(plus) is plus
    assert make([Steps.times])[0] is Steps.times


def test_a_task_that_nobody_finds_is_not_pickled() -> None:
    """A local task copies to itself, but cannot be pickled: no import leads to it."""
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
@pytest.mark.parametrize("make", OWN_COPIES)
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
    original.with_constraints(cpu=9).run_if(True).after(plus(5))
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


def test_the_copy_of_a_loop_that_leads_to_itself_leads_to_the_copy(run: Run) -> None:
    """All iterations of the copy have its policies; its other routes are those of the original."""
    starts: list[int] = []

    @cs.task
    def unsure(n: int, failures: list[int]) -> Any:
        starts.append(n)
        if failures:
            raise ValueError(failures.pop())
        return cs.Jump("again", {"n": n - 1, "failures": [1]}) if n else cs.Jump("end", "end")

    original = unsure(2, [])
    other = plus(1)
    cs.bind(original, cs.select_jump({"again": original, "other": other, "end": None}))
    copied = original.copy().with_retry(2)
    assert run(copied) == "end"
    assert starts == [2, 1, 1, 0, 0]
    assert copied.policies is not None
    assert copied.policies.selector is not None
    assert copied.policies.selector.routes == {"again": copied, "other": other, "end": None}
    assert original.policies is not None
    assert original.policies.selector is not None
    assert original.policies.selector.routes["again"] is original


def test_a_copy_without_a_loop_shares_the_selector() -> None:
    """A loop that leads elsewhere leads there from the copy too."""
    other = countdown(1)
    node = cs.bind(countdown(1), cs.select_jump({"again": other, "end": None}))
    assert node.policies is not None
    copied = node.copy()
    assert copied.policies is not None
    assert copied.policies.selector is node.policies.selector


def test_a_copied_node_runs_by_itself(run: Run) -> None:
    """A copy is a node of its own, as if its task had been called again with the same arguments."""
    calls: list[int] = []

    @cs.task
    def count(x: int) -> int:
        calls.append(x)
        return len(calls)

    shared = count(1)
    assert run([shared, shared.copy(), shared]) == [1, 2, 1]


@pytest.mark.parametrize("make", [by_method, copy.copy])
def test_a_copy_of_a_router_has_routes_of_its_own(run: Run, make: Any) -> None:
    """Routes set in the copy leave the original alone."""
    original = cs.Router("a", {"a": 1})
    copied = make(original)
    copied.routes["a"] = 2
    assert (run(original), run(copied)) == (1, 2)


@cs.task
async def wait(x: int = 0) -> int:
    return x


def first(error: Any) -> bool:
    return True


class Same(cs.InMemoryCache):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same)

    __hash__ = None  # type: ignore[assignment]


class Odd(cs.InMemoryCache):
    """Its comparison has no truth."""

    def __eq__(self, other: object) -> Any:
        raise ValueError("compare elementwise")

    __hash__ = None  # type: ignore[assignment]


KEPT = cs.InMemoryCache()
# What is given, what is the same given again, what is another, and what the message shows of both.
ONCE: dict[str, tuple[Any, Any, Any, str]] = {
    "retry": (
        lambda node: node.with_retry(2, delay=1, on=(OSError, ValueError)),
        lambda node: node.with_retry(2, delay=1.0, on=(OSError, ValueError)),
        lambda node: node.with_retry(3),
        r"retry RetryPolicy\(max_attempts=2.*max_attempts=3.*\.copy\(\)\.with_retry",
    ),
    "retry on": (
        lambda node: node.with_retry(2, on=first),
        lambda node: node.with_retry(max_attempts=2, on=first),
        lambda node: node.with_retry(2, on=lambda error: True),
        r"retry .*\.copy\(\)\.with_retry",
    ),
    "timeout": (
        lambda node: node.with_timeout(5),
        lambda node: node.with_timeout(5.0),
        lambda node: node.with_timeout(3),
        r"timeout 5\.0 already, and is given 3\.0; .*\.copy\(\)\.with_timeout",
    ),
    "cache": (
        lambda node: node.with_cache(KEPT),
        lambda node: node.with_cache(KEPT),
        lambda node: node.with_cache(cs.InMemoryCache(7)),
        r"cache <InMemoryCache 0 of 1024> already.*<InMemoryCache 0 of 7>.*\.with_cache",
    ),
    "equal cache": (
        lambda node: node.with_cache(Same()),
        lambda node: node.with_cache(Same()),
        lambda node: node.with_cache(Odd()),
        r"cache ",
    ),
    "cache that cannot be compared": (
        lambda node: node.with_cache(Odd()),
        lambda node: node,
        lambda node: node.with_cache(Odd()),
        r"cache ",
    ),
}
LAZY: dict[str, Callable[[], Any]] = {
    "call": wait,
    "map": lambda: wait.map(x=[1, 2]),
}


@pytest.mark.parametrize("node", LAZY.values(), ids=LAZY)
@pytest.mark.parametrize(("give", "again", "another", "shown"), ONCE.values(), ids=ONCE)
def test_a_policy_is_given_once(node: Any, give: Any, again: Any, another: Any, shown: str) -> None:
    """Another value is an error that shows both and changes nothing; an equal one is nothing."""
    given = give(node())
    before = policies_of(given)
    assert again(given) is given
    assert policies_of(given) == before
    with pytest.raises(ValueError, match=shown):
        another(given)
    assert policies_of(given) == before


@pytest.mark.parametrize("make", OWN_COPIES)
@pytest.mark.parametrize("node", LAZY.values(), ids=LAZY)
@pytest.mark.parametrize(("give", "again", "another", "shown"), ONCE.values(), ids=ONCE)
def test_a_copy_may_have_another_policy(
    make: Any, node: Any, give: Any, again: Any, another: Any, shown: str
) -> None:
    """What it was copied with was not given to itself; what it is given then, is given once."""
    original = give(node())
    copied = another(make(original))
    with pytest.raises(ValueError, match=r"already"):
        give(copied)
    again(original)


def test_the_policies_of_a_copy_count(run: Run) -> None:
    """The copy has the policies of the original until it is given others."""
    attempts: list[str] = []

    @cs.task
    def fail(name: str) -> None:
        attempts.append(name)
        raise ValueError(name)

    original = fail("x").with_retry(5)
    for node, count in ((original.copy(), 5), (original.copy().with_retry(2), 2), (original, 5)):
        attempts.clear()
        with pytest.raises(ValueError, match="x"):
            run(node)
        assert len(attempts) == count


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
