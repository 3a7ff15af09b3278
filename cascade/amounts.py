"""Amounts of things, and how fast they refill, as exact numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from functools import lru_cache
from numbers import Rational, Real

from cascade.plain import brief

# int where the value is whole, because int arithmetic is several times faster.
Exact = int | Fraction

_UNITS: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600}
# A number beyond these powers of ten would cost seconds and megabytes to hold exactly.
_MAX_EXPONENT = 400


@dataclass(frozen=True, slots=True)
class Rate:
    """Capacity that refills with time: given in `system_resources` in place of a number.

    It holds at most `burst`, starts full, and gains `rate` a second, or as a text such as "10/s",
    "90000/m" or "5/h" says. A start with `.with_constraints(tokens=n)` takes n, which do not come
    back when it ends: in any window of w seconds at most `rate * w + burst` are taken. `ValueError`
    unless both are numbers above 0.

    >>> import cascade as cs
    >>> cs.Rate("90000/m", burst=10_000).per_second
    Fraction(1500, 1)
    """

    rate: float | Decimal | Fraction | str
    burst: float | Decimal | Fraction = 1

    def __post_init__(self) -> None:
        parse_rate(self.rate)
        if _exact_or_zero(self.burst) <= 0:
            raise ValueError(f"the burst {self.burst!r} is not a finite number above 0")

    @property
    def per_second(self) -> Fraction:
        """What it gains in a second, exactly."""
        return parse_rate(self.rate)

    @property
    def most(self) -> Exact:
        """What it holds when it is full, exactly."""
        return exact(self.burst)

    def __str__(self) -> str:
        rate = self.rate if isinstance(self.rate, str) else f"{self.rate}/s"
        return f"{rate}, burst {self.burst}"


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
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError("not a number")
    if isinstance(value, Rational):
        return whole_or_fraction(Fraction(int(value.numerator), int(value.denominator)))
    return _of_decimal(_printed(value))


def _printed(value: Real) -> str:
    """A number of another library, such as a float of 32 bits, as the decimal it prints as."""
    try:
        return str(Decimal(str(value)))
    except InvalidOperation:
        return float.__repr__(float(value))


def _exact_or_zero(value: object) -> Exact:
    try:
        return exact(value)
    except (TypeError, ValueError):
        return 0


@lru_cache(maxsize=1024)
def _of_decimal(text: str) -> Exact:
    number = Decimal(text)
    if not number.is_finite() or (number and abs(number.adjusted()) > _MAX_EXPONENT):
        raise ValueError("out of range")
    return whole_or_fraction(Fraction(number))


def whole_or_fraction(value: Fraction) -> Exact:
    """The same number, as an int if it is whole."""
    return value.numerator if value.denominator == 1 else value


def checked_amount(task_name: str, resource: str, value: object) -> Exact:
    """The exact amount above 0 that a task asks for; `ValueError` names task and amount."""
    amount = _exact_or_zero(value)
    if amount > 0:
        return amount
    raise ValueError(
        f"task {task_name!r} wants {resource}={brief(value)}; an amount is a finite number above "
        "0, or an expression that gives one"
    )


def checked_capacity(resources: Mapping[str, object] | None) -> dict[str, Exact | Rate]:
    """The exact capacities of `system_resources`, each a finite number not below 0, or a `Rate`."""
    if resources is not None and not isinstance(resources, Mapping):
        raise TypeError(f"system_resources={resources!r} must be a dict of amounts by name")
    capacities: dict[str, Exact | Rate] = {}
    for name, value in (resources or {}).items():
        capacity: Exact | Rate
        try:
            capacity = value if isinstance(value, Rate) else exact(value)
        except (TypeError, ValueError):
            capacity = -1
        if not isinstance(name, str) or (not isinstance(capacity, Rate) and capacity < 0):
            raise ValueError(
                f"system_resources gives {name!r} the capacity {value!r}; "
                "write a name and a finite number not below 0, or a cs.Rate"
            )
        capacities[name] = capacity
    return capacities


def most_of(capacity: Exact | Rate) -> Exact:
    """The largest amount that a task can ever get of it."""
    return capacity.most if isinstance(capacity, Rate) else capacity


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
    value = _exact_or_zero(number)
    if value <= 0:
        raise ValueError(
            f"the rate {rate!r} is not a finite number above 0; "
            'write starts per second, or "10/s", "30/m", "5/h"'
        )
    return Fraction(value) / seconds


class GroupName(str):
    """The name under which a group asks: no constraint of the scope "global" matches it.

    Whatever runs in the group is counted by itself. As a key it is no task's name.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GroupName) and super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return ~super().__hash__()
