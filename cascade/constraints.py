"""Constraints as a user states them: definitions, their validation, and `engine.constraints`.

Nothing here waits or reads a clock. `cascade.admission` keeps the state that decides who may
start, `cascade.gate` is the one place that waits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from fnmatch import translate
from fractions import Fraction
from functools import lru_cache
from numbers import Rational
from typing import Any, Literal, Protocol

ConstraintType = Literal["pause", "concurrency", "rate_limit"]

# int where the value is whole, because int arithmetic is several times faster.
Exact = int | Fraction

_PARAMS: Mapping[str, Mapping[str, object]] = {
    "pause": {},
    "concurrency": {"limit": None},
    "rate_limit": {"rate": None, "burst": 1},
}
_UNITS: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600}
# A number beyond these powers of ten would cost seconds and megabytes to hold exactly.
_MAX_EXPONENT = 400


@dataclass(frozen=True, slots=True)
class GlobalConstraint:
    """One constraint on the tasks of an engine, replaced by the next of its scope and type.

    `scope` is `"global"` or `"task:<pattern>"`, the pattern as in `fnmatch.fnmatchcase`. `type`
    and `params` are `"pause"` {}, `"concurrency"` {limit} and `"rate_limit"` {rate, burst=1}.
    `ttl` is in seconds. They are checked where the constraint is given to an engine.
    """

    id: str
    scope: str
    type: str
    params: Mapping[str, Any] = field(default_factory=dict)
    ttl: float | None = None


@dataclass(frozen=True, slots=True)
class ConstraintStatistics:
    """What one constraint does now: tasks it admitted and that still run, parked tasks in its
    scope, and the longest that a task in its scope was, or is, parked (seconds)."""

    running: int
    waiting: int
    longest_wait: float


@dataclass(frozen=True, slots=True)
class Statistics:
    """`parked` and `free` are now; the other numbers count since the engine was made.

    `grants`: starts admitted by at least one constraint or amount. `wakeups`: parked ones resumed.
    `timers`: deadlines set. `constraints` is by id, `free` is by the name of the capacity.
    """

    parked: int
    grants: int
    wakeups: int
    timers: int
    constraints: Mapping[str, ConstraintStatistics]
    free: Mapping[str, Exact]


def exact(value: object) -> Exact:
    """The exact value of a finite number; a float counts as the decimal it prints as.

    `TypeError` for what is no number (bool too), `ValueError` for nan, inf and numbers beyond
    10**400.

    >>> sum([exact(0.1)] * 10)
    Fraction(1, 1)
    """
    if type(value) is int:
        return value
    if isinstance(value, float):
        return _of_decimal(float.__repr__(value))
    if isinstance(value, Decimal):
        return _of_decimal(str(value))
    if isinstance(value, bool) or not isinstance(value, Rational):
        raise TypeError("not a number")
    return _whole_or_fraction(Fraction(int(value.numerator), int(value.denominator)))


@lru_cache(maxsize=1024)
def _of_decimal(text: str) -> Exact:
    number = Decimal(text)
    if not number.is_finite() or (number and abs(number.adjusted()) > _MAX_EXPONENT):
        raise ValueError("out of range")
    return _whole_or_fraction(Fraction(number))


def _whole_or_fraction(value: Fraction) -> Exact:
    return value.numerator if value.denominator == 1 else value


def checked_amount(task_name: str, resource: str, value: object) -> Exact:
    """The exact amount above 0 that a task asks for; `ValueError` names task and amount."""
    try:
        amount = exact(value)
    except (TypeError, ValueError):
        amount = 0
    if amount > 0:
        return amount
    raise ValueError(
        f"task {task_name!r} asks for {value!r} of {resource!r}; "
        "an amount is a finite number above 0 (int, float, Decimal or Fraction)"
    )


def checked_capacity(resources: Mapping[str, object] | None) -> dict[str, Exact]:
    """The exact capacities of `system_resources`, each a finite number not below 0."""
    if resources is not None and not isinstance(resources, Mapping):
        raise TypeError(f"system_resources={resources!r} must be a dict of amounts by name")
    capacities: dict[str, Exact] = {}
    for name, value in (resources or {}).items():
        try:
            capacity = exact(value)
        except (TypeError, ValueError):
            capacity = -1
        if not isinstance(name, str) or capacity < 0:
            raise ValueError(
                f"system_resources gives {name!r} the capacity {value!r}; "
                "write a name and a finite number not below 0"
            )
        capacities[name] = capacity
    return capacities


def parse_rate(rate: object) -> Fraction:
    """Starts per second, exactly, from a number or a text such as "10/s", "30/m" or "5/h".

    >>> parse_rate("30/m")
    Fraction(1, 2)
    """
    number, seconds = rate, 1
    if isinstance(rate, str):
        text, _, unit = rate.partition("/")
        if unit.strip() not in _UNITS:
            raise ValueError(f'the rate {rate!r} has no known unit; write "10/s", "30/m" or "5/h"')
        seconds = _UNITS[unit.strip()]
        try:
            number = Decimal(text.strip())
        except InvalidOperation:
            number = None
    try:
        value = exact(number)
    except (TypeError, ValueError):
        value = 0
    if value <= 0:
        raise ValueError(
            f"the rate {rate!r} is not a finite number above 0; "
            'write starts per second, or "10/s", "30/m", "5/h"'
        )
    return Fraction(value) / seconds


def parse_scope(scope: object) -> Callable[[str], object]:
    """What tells whether a task's name is in the scope: truthy if it is."""
    if scope == "global":
        return _everything
    prefix, _, pattern = scope.partition(":") if isinstance(scope, str) else ("", "", "")
    if prefix != "task" or not pattern:
        raise ValueError(
            f'unknown scope {scope!r}; write "global" or "task:<pattern>", such as "task:fetch_*"'
        )
    if not any(special in pattern for special in "*?["):
        return pattern.__eq__
    return re.compile(translate(pattern)).match


def _everything(_name: str) -> bool:
    return True


def checked(constraint: GlobalConstraint) -> GlobalConstraint:
    """The same constraint with its own copy of the params, defaults filled in; or `ValueError`."""
    if not isinstance(constraint, GlobalConstraint):
        raise ValueError(f"not a constraint: {constraint!r}; write cs.GlobalConstraint(...)")
    identity, scope, kind, params, ttl = (
        constraint.id,
        constraint.scope,
        constraint.type,
        constraint.params,
        constraint.ttl,
    )
    if not isinstance(identity, str) or not identity:
        raise ValueError(f"the id {identity!r} of a constraint is not a name; write a text")
    parse_scope(scope)
    known = _PARAMS.get(kind) if isinstance(kind, str) else None
    if known is None:
        raise ValueError(f"unknown type {kind!r} of a constraint; write one of {list(_PARAMS)}")
    if not isinstance(params, Mapping) or not known.keys() >= params.keys():
        raise ValueError(f"a {kind!r} constraint has the params {list(known)}, not {params!r}")
    filled = {name: params.get(name, default) for name, default in known.items()}
    if kind == "concurrency":
        _check_count("limit", filled["limit"])
    elif kind == "rate_limit":
        parse_rate(filled["rate"])
        _check_count("burst", filled["burst"])
    _check_ttl(ttl)
    return GlobalConstraint(identity, scope, kind, filled, ttl)


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"the {name} {value!r} is not a whole number from 1 up")


def _check_ttl(ttl: object) -> None:
    if ttl is None:
        return
    try:
        if float(exact(ttl)) > 0:
            return
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"the ttl {ttl!r} is not a finite number of seconds above 0; None is for ever")


class ConstraintHost(Protocol):
    """What carries out a change: the gate, which also wakes whom the change frees."""

    def set_constraint(self, constraint: GlobalConstraint) -> None: ...
    def remove_constraint(self, id: str) -> bool: ...
    def remove_pause(self, scope: str) -> bool: ...
    def active_constraints(self) -> tuple[GlobalConstraint, ...]: ...
    def statistics(self) -> Statistics: ...


class ConstraintManager:
    """Changes at run time: each takes effect at once and wakes exactly the tasks it frees.

    Call it from anywhere on the event loop of the runs; from another thread through
    `anyio.from_thread.run_sync`. Scopes are `"global"` and `"task:<pattern>"`; the last write
    for a scope and type wins. A limit counts the tasks it admitted and keeps its count when it is
    replaced; nothing running is stopped. A `ttl` (seconds) given outside an event loop counts from
    the start of the next run. What is malformed is a `ValueError` and changes nothing.
    """

    __slots__ = ("_host",)

    def __init__(self, host: ConstraintHost) -> None:
        self._host = host

    def pause(self, scope: str, ttl: float | None = None) -> str:
        """Start no more tasks of the scope until `resume`, or for `ttl` seconds; returns the id."""
        return self._set(scope, "pause", {}, ttl)

    def resume(self, scope: str) -> bool:
        """End the pause that was given for exactly this scope; tells whether there was one."""
        parse_scope(scope)
        return self._host.remove_pause(scope)

    def limit_concurrency(self, scope: str, limit: int, ttl: float | None = None) -> str:
        """At most `limit` tasks of the scope at a time; returns the constraint's id."""
        return self._set(scope, "concurrency", {"limit": limit}, ttl)

    def limit_rate(
        self,
        scope: str,
        rate: float | Decimal | Fraction | str,
        burst: int = 1,
        ttl: float | None = None,
    ) -> str:
        """At most `rate * w + burst` starts in any window of w seconds; returns the id.

        `rate` is a number per second or a text such as "10/s", "30/m" or "5/h".
        """
        return self._set(scope, "rate_limit", {"rate": rate, "burst": burst}, ttl)

    def update(self, constraint: GlobalConstraint) -> str:
        """Put a constraint in force; it replaces those of its id and of its scope and type."""
        ready = checked(constraint)
        self._host.set_constraint(ready)
        return ready.id

    def remove(self, id: str) -> bool:
        """Take a constraint out of force; tells whether there was one of this id."""
        return self._host.remove_constraint(id)

    def active(self) -> tuple[GlobalConstraint, ...]:
        """The constraints in force, in the order in which their scopes and types came."""
        return self._host.active_constraints()

    def statistics(self) -> Statistics:
        """How many are parked, were granted and woken, and what each constraint holds.

        A frozen record with `parked` (now), `grants` (starts admitted by at least one constraint
        or amount), `wakeups` (parked ones resumed) and `timers` (deadlines set), since the engine
        was made; `constraints`, a `ConstraintStatistics` by constraint id; and `free`, what is
        left of each capacity by name.
        """
        return self._host.statistics()

    def _set(self, scope: str, kind: ConstraintType, params: dict[str, Any], ttl: Any) -> str:
        return self.update(GlobalConstraint(f"{kind}:{scope}", scope, kind, params, ttl))
