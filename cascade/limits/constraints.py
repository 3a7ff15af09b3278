"""Constraints as a user states them: definitions, their validation, and `engine.constraints`.

Nothing here waits or reads a clock. `cascade.limits.admission` keeps the state that decides who may
start, `cascade.limits.gate` is the one place that waits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import translate
from fractions import Fraction
from operator import index
from typing import Any, Literal, Protocol

from cascade.amounts import Exact, GroupName, exact, parse_rate

ConstraintType = Literal["pause", "concurrency", "rate_limit"]

_PARAMS: Mapping[str, Mapping[str, object]] = {
    "pause": {},
    "concurrency": {"limit": None},
    "rate_limit": {"rate": None, "burst": 1},
}


@dataclass(frozen=True, slots=True)
class GlobalConstraint:
    """One constraint on the tasks of an engine, replaced by the next of its id.

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
    `timers`: deadlines set. `constraints` is by id, `free` is by the name of the capacity; of one
    that refills it is what may be taken now, negative after more was charged than there was.
    """

    parked: int
    grants: int
    wakeups: int
    timers: int
    constraints: Mapping[str, ConstraintStatistics]
    free: Mapping[str, Exact]


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


def _everything(name: str) -> bool:
    return not isinstance(name, GroupName)


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
        filled["limit"] = _count("limit", filled["limit"])
    elif kind == "rate_limit":
        parse_rate(filled["rate"])
        filled["burst"] = _count("burst", filled["burst"])
    _check_ttl(ttl)
    return GlobalConstraint(identity, scope, kind, filled, ttl)


def _count(name: str, value: object) -> int:
    try:
        number = 0 if isinstance(value, bool) else index(value)  # type: ignore[arg-type]
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"the {name} {value!r} is not a whole number from 1 up")
    return number


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
    def charge(self, name: str, amount: object) -> None: ...
    def active_constraints(self) -> tuple[GlobalConstraint, ...]: ...
    def statistics(self) -> Statistics: ...


class ConstraintManager:
    """Changes at run time: each takes effect at once and wakes exactly the tasks it frees.

    Call it from anywhere on the event loop of the runs; from another thread through
    `anyio.from_thread.run_sync`. Scopes are `"global"` and `"task:<pattern>"`. The last write for
    an `id` wins; without one, a scope and type have one id, and several with ids of their own hold
    together. A limit counts the tasks it admitted and keeps its count when it is replaced; nothing
    running is stopped. A `ttl` (seconds) given outside an event loop counts from the start of the
    next run. What is malformed is a `ValueError` and changes nothing.
    """

    __slots__ = ("_host",)

    def __init__(self, host: ConstraintHost) -> None:
        self._host = host

    def pause(self, scope: str, ttl: float | None = None, *, id: str | None = None) -> str:
        """Start no more tasks of the scope until `resume`, or for `ttl` seconds; returns the id."""
        return self._set(scope, "pause", {}, ttl, id)

    def resume(self, scope: str) -> bool:
        """End all pauses that were given for exactly this scope; tells whether there was one."""
        parse_scope(scope)
        return self._host.remove_pause(scope)

    def limit_concurrency(
        self, scope: str, limit: int, ttl: float | None = None, *, id: str | None = None
    ) -> str:
        """At most `limit` tasks of the scope at a time; returns the constraint's id."""
        return self._set(scope, "concurrency", {"limit": limit}, ttl, id)

    def limit_rate(
        self,
        scope: str,
        rate: float | Decimal | Fraction | str,
        burst: int = 1,
        ttl: float | None = None,
        *,
        id: str | None = None,
    ) -> str:
        """At most `rate * w + burst` starts in any window of w seconds; returns the id.

        `rate` is a number per second or a text such as "10/s", "30/m" or "5/h". Several windows on
        one scope, 10 a second and 1000 an hour, say, need an `id` each.
        """
        return self._set(scope, "rate_limit", {"rate": rate, "burst": burst}, ttl, id)

    def charge(self, name: str, amount: float | Decimal | Fraction) -> None:
        """Take `amount` more of a capacity that refills (a `Rate`), or give back a negative one.

        For what a start turned out to cost beside what it took. More than there is may be taken:
        the next start waits until that has been refilled too. What is given back fills it up to
        its burst. `ValueError` for a name whose capacity is no `Rate`, and for what is no number.
        """
        self._host.charge(name, amount)

    def update(self, constraint: GlobalConstraint) -> str:
        """Put a constraint in force; it replaces the one of its id."""
        ready = checked(constraint)
        self._host.set_constraint(ready)
        return ready.id

    def remove(self, id: str) -> bool:
        """Take a constraint out of force; tells whether there was one of this id."""
        return self._host.remove_constraint(id)

    def active(self) -> tuple[GlobalConstraint, ...]:
        """The constraints in force, in the order in which their ids came."""
        return self._host.active_constraints()

    def statistics(self) -> Statistics:
        """How many are parked, were granted and woken, and what each constraint holds.

        A frozen record with `parked` (now), `grants` (starts admitted by at least one constraint
        or amount), `wakeups` (parked ones resumed) and `timers` (deadlines set), since the engine
        was made; `constraints`, a `ConstraintStatistics` by constraint id; and `free`, what is
        left of each capacity by name.
        """
        return self._host.statistics()

    def _set(
        self, scope: str, kind: ConstraintType, params: dict[str, Any], ttl: Any, id: str | None
    ) -> str:
        name = f"{kind}:{scope}" if id is None else id
        return self.update(GlobalConstraint(name, scope, kind, params, ttl))
