"""Section 10, what a user says: amounts, rates, scopes, definitions and `engine.constraints`."""

from __future__ import annotations

import math
import os
import pickle
from dataclasses import FrozenInstanceError
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.limits.constraints import GlobalConstraint, exact, parse_rate, parse_scope
from cascade.limits.gate import Gate

LONG = bool(os.environ.get("CASCADE_LONG"))


# Amounts


def test_a_float_counts_as_the_decimal_it_prints_as() -> None:
    """Amounts are exact: 0.1 means one tenth, not the binary number next to it."""
    assert exact(0.1) == Fraction(1, 10)
    assert exact(1e-7) == Fraction(1, 10**7)
    assert exact(Decimal("0.10")) == Fraction(1, 10)
    assert exact(Fraction(1, 3)) == Fraction(1, 3)
    assert type(exact(2.0)) is int


@pytest.mark.parametrize("amount", [0.1, Decimal("0.1"), Fraction(1, 10)])
def test_ten_tenths_fit_into_one(amount: Any) -> None:
    """A capacity of 1.0 admits ten tasks of 0.1 and makes the eleventh wait."""
    gate = Gate({"memory_gb": 1.0})
    tickets = [gate._state.ask("t", {"memory_gb": amount}, 0.0) for _ in range(11)]
    assert [ticket.parked for ticket in tickets] == [False] * 10 + [True]


@given(st.lists(st.decimals(0, 1, places=3).filter(bool), max_size=30))
def test_what_is_taken_and_given_back_leaves_no_trace(amounts: list[Decimal]) -> None:
    """Whatever amounts were taken, giving them back restores the capacity exactly."""
    gate = Gate({"memory_gb": 40})
    state = gate._state
    tickets = [state.ask("t", {"memory_gb": float(amount)}, 0.0) for amount in amounts]
    assert state.capacities["memory_gb"].free == 40 - Fraction(sum(amounts))
    for ticket in tickets:
        state.give_back(ticket, 0.0)
    assert state.capacities["memory_gb"].free == 40


def test_no_drift_after_a_million_acquisitions_of_a_tenth() -> None:
    """Taking and giving back never adds up to a rounding error."""
    state = Gate({"memory_gb": 1.0})._state
    held = [state.ask("t", {"memory_gb": 0.1}, 0.0) for _ in range(9)]
    for _ in range(1_000_000 if LONG else 100_000):
        ticket = state.ask("t", {"memory_gb": 0.1}, 0.0)
        assert not ticket.parked
        state.give_back(ticket, 0.0)
    for ticket in held:
        state.give_back(ticket, 0.0)
    assert state.capacities["memory_gb"].free == 1


@pytest.mark.parametrize(
    "amount",
    [0, -1, 0.0, True, math.nan, math.inf, "1", None, 1j, Decimal("nan"), Decimal("1e999999999")],
)
def test_a_malformed_amount_names_task_and_amount(amount: Any) -> None:
    """An amount that is no finite number above 0 is an error, limited or not, and takes nothing."""
    state = Gate({"gpu": 2})._state
    for resource in ("gpu", "unlimited"):
        with pytest.raises(ValueError, match=rf"'train' wants {resource}=") as caught:
            state.ask("train", {resource: amount}, 0.0)
        assert repr(amount) in str(caught.value)
    assert state.capacities["gpu"].free == 2


def test_more_than_the_capacity_is_an_error_that_names_both() -> None:
    """A task that could never start is refused at once, and takes nothing."""
    state = Gate({"gpu": 2, "memory_gb": 0.5})._state
    with pytest.raises(
        ValueError, match=r"'train' asks for 3 of 'gpu', more than its capacity of 2"
    ):
        state.ask("train", {"memory_gb": 0.5, "gpu": 3}, 0.0)
    with pytest.raises(ValueError, match=r"asks for 0.75 of 'memory_gb'.* of 0.5"):
        state.ask("train", {"memory_gb": 0.75}, 0.0)
    assert state.capacities["memory_gb"].free == Fraction(1, 2)


def test_names_without_capacity_are_not_limited() -> None:
    """Any amount is free of a resource that the engine gives no capacity."""
    gate = Gate({"gpu": 1})
    tickets = [gate._state.ask("t", {"licence": 10}, 0.0) for _ in range(5)]
    assert not any(ticket.parked for ticket in tickets)
    assert gate.constraints.statistics().grants == 0


@pytest.mark.parametrize("value", [-1, True, math.nan, math.inf, "2", None])
def test_a_malformed_capacity_is_an_error(value: Any) -> None:
    """A capacity is a finite number, 0 or more."""
    with pytest.raises(ValueError, match="system_resources gives 'gpu'"):
        Gate({"gpu": value})


# Rates and scopes


@pytest.mark.parametrize(
    ("rate", "per_second"),
    [
        ("10/s", 10),
        ("30/m", Fraction(1, 2)),
        ("5/h", Fraction(1, 720)),
        ("0.1/s", Fraction(1, 10)),
        (0.1, Fraction(1, 10)),
        (7, 7),
        (Fraction(1, 3), Fraction(1, 3)),
        (Decimal("2.5"), Fraction(5, 2)),
    ],
)
def test_rates(rate: Any, per_second: Fraction) -> None:
    """A rate in each of its forms is an exact number of starts per second."""
    assert parse_rate(rate) == per_second


MALFORMED_RATES: list[Any] = [0, -1, math.nan, math.inf, True, None, []]
MALFORMED_RATES += [
    "0/s",
    "-3/m",
    "10",
    "10/d",
    "10/S",
    "/s",
    "ten/s",
    "1/2/s",
    "nan/s",
    "inf/h",
    "",
]


@pytest.mark.parametrize("rate", MALFORMED_RATES)
def test_malformed_rates(rate: Any) -> None:
    """What is no rate, or none above 0, is an error."""
    with pytest.raises(ValueError, match="rate"):
        parse_rate(rate)


def test_a_pattern_matches_as_fnmatchcase_does() -> None:
    """A scope matches whole task names, with wildcards, and minds case."""
    assert parse_scope("global")("anything")
    assert parse_scope("task:fetch")("fetch")
    assert not parse_scope("task:fetch")("fetch_all")
    assert parse_scope("task:fetch_*")("fetch_all")
    assert not parse_scope("task:fetch_*")("Fetch_all")
    assert parse_scope("task:[ab]?")("a1")
    assert parse_scope("task:a:b")("a:b")


# The manager


def test_ids_and_what_is_active() -> None:
    """Each constraint has an id, is listed until it is removed, and can be removed once."""
    manager = Gate().constraints
    pause = manager.pause("global")
    limit = manager.limit_concurrency("task:a*", 3)
    rate = manager.limit_rate("global", "10/s", ttl=60)
    assert manager.active() == (
        GlobalConstraint(pause, "global", "pause", {}),
        GlobalConstraint(limit, "task:a*", "concurrency", {"limit": 3}),
        GlobalConstraint(rate, "global", "rate_limit", {"rate": "10/s", "burst": 1}, 60),
    )
    assert manager.resume("global") is True
    assert manager.resume("global") is False
    assert manager.remove(limit) is True
    assert manager.remove(limit) is False
    assert [each.id for each in manager.active()] == [rate]


def test_the_last_write_wins_per_id() -> None:
    """A constraint replaces the one with its id, whatever its kind, and keeps its place in the
    list."""
    manager = Gate().constraints
    manager.limit_concurrency("global", 3)
    manager.limit_concurrency("global", 5)
    assert manager.update(GlobalConstraint("mine", "global", "concurrency", {"limit": 4})) == "mine"
    assert [(each.id, each.params) for each in manager.active()] == [
        ("concurrency:global", {"limit": 5}),
        ("mine", {"limit": 4}),
    ]
    manager.update(GlobalConstraint("mine", "task:a", "pause"))
    assert manager.active()[1:] == (GlobalConstraint("mine", "task:a", "pause"),)


def test_constraints_of_one_scope_are_named_apart_by_id() -> None:
    """`id=` of each method names a constraint that holds beside those of its scope and type."""
    manager = Gate().constraints
    assert manager.limit_rate("task:a", "10/s", id="burst") == "burst"
    assert manager.limit_rate("task:a", "1000/h", 100, id="hour") == "hour"
    assert manager.limit_concurrency("task:a", 3, id="three") == "three"
    assert manager.pause("task:a", id="mine") == "mine"
    assert manager.pause("task:a", ttl=5) == "pause:task:a"
    names = ["burst", "hour", "three", "mine", "pause:task:a"]
    assert [each.id for each in manager.active()] == names
    assert manager.remove("mine")
    assert not manager.remove("mine")
    manager.pause("task:a", id="mine")
    assert manager.resume("task:a")
    assert not manager.resume("task:a")
    assert [each.id for each in manager.active()] == names[:3]
    for bad in ("", 3):
        with pytest.raises(ValueError, match="the id"):
            manager.pause("task:a", id=bad)  # type: ignore[arg-type]
    assert [each.id for each in manager.active()] == names[:3]


def test_a_resume_ends_the_pause_of_exactly_its_scope_whatever_its_id() -> None:
    """`resume` finds a pause by its scope alone, and a scope that includes it does not count."""
    manager = Gate().constraints
    manager.update(GlobalConstraint("holiday", "task:*", "pause"))
    assert manager.resume("global") is False
    assert manager.resume("task:*") is True
    assert manager.active() == ()


MALFORMED: list[Any] = [
    GlobalConstraint("", "global", "pause"),
    GlobalConstraint(3, "global", "pause"),  # type: ignore[arg-type]
    GlobalConstraint("x", "everything", "pause"),
    GlobalConstraint("x", "task:", "pause"),
    GlobalConstraint("x", "tasks:a", "pause"),
    GlobalConstraint("x", None, "pause"),  # type: ignore[arg-type]
    GlobalConstraint("x", "global", "stop"),
    GlobalConstraint("x", "global", []),  # type: ignore[arg-type]
    GlobalConstraint("x", "global", "pause", {"limit": 1}),
    GlobalConstraint("x", "global", "pause", None),  # type: ignore[arg-type]
    GlobalConstraint("x", "global", "concurrency"),
    GlobalConstraint("x", "global", "concurrency", {"limit": 0}),
    GlobalConstraint("x", "global", "concurrency", {"limit": True}),
    GlobalConstraint("x", "global", "concurrency", {"limit": 1.5}),
    GlobalConstraint("x", "global", "concurrency", {"limit": "2"}),
    GlobalConstraint("x", "global", "rate_limit", {"rate": 0}),
    GlobalConstraint("x", "global", "rate_limit", {"rate": "3/y"}),
    GlobalConstraint("x", "global", "rate_limit", {"burst": 1}),
    GlobalConstraint("x", "global", "rate_limit", {"rate": 1, "burst": 0}),
    GlobalConstraint("x", "global", "rate_limit", {"rate": 1, "burst": 1.5}),
    GlobalConstraint("x", "global", "pause", {}, 0),
    GlobalConstraint("x", "global", "pause", {}, -1),
    GlobalConstraint("x", "global", "pause", {}, math.nan),
    GlobalConstraint("x", "global", "pause", {}, math.inf),
    GlobalConstraint("x", "global", "pause", {}, True),
    GlobalConstraint("x", "global", "pause", {}, "5"),  # type: ignore[arg-type]
    "pause",
]


@pytest.mark.parametrize("malformed", MALFORMED)
def test_what_is_malformed_changes_nothing(malformed: Any) -> None:
    """A malformed constraint is an error and leaves the active ones as they were."""
    manager = Gate().constraints
    manager.limit_concurrency("global", 1)
    manager.limit_rate("global", 1)
    before = manager.active()
    with pytest.raises(ValueError):  # noqa: PT011 - the message differs, the type is the law
        manager.update(malformed)
    assert manager.active() == before


def test_resume_refuses_an_unknown_scope() -> None:
    """A scope that could never match is an error rather than a resume of nothing."""
    with pytest.raises(ValueError, match="unknown scope 'all'"):
        Gate().constraints.resume("all")


def test_a_constraint_is_frozen_and_can_be_pickled() -> None:
    """A constraint cannot be changed, and survives pickling."""
    given = GlobalConstraint("x", "global", "concurrency", {"limit": 2})
    with pytest.raises(FrozenInstanceError):
        given.id = "y"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(given)) == given


def test_params_given_and_shown_are_copies() -> None:
    """Changing a dict that was given to the manager, or that it shows, changes no constraint."""
    manager = Gate().constraints
    params = {"limit": 2}
    manager.update(GlobalConstraint("x", "global", "concurrency", params))
    params["limit"] = 0
    shown = manager.active()[0].params
    assert shown == {"limit": 2}
    shown["limit"] = 7  # type: ignore[index]
    assert manager.active()[0].params == {"limit": 2}


def test_statistics_are_frozen() -> None:
    """Statistics are a reading that nobody can change."""
    statistics = Gate({"gpu": 2}).constraints.statistics()
    assert statistics.free == {"gpu": 2}
    with pytest.raises(FrozenInstanceError):
        statistics.parked = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        statistics.constraints["x"] = None  # type: ignore[index]
