"""What a settled node comes to: its value, or the exception it failed with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar, cast

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T_co]):
    """The value of a node that was given `.settled()`: how its call ended, as data.

    `error` is the exception of its last attempt, or None; `value` what it gave, or None if it
    failed. `ok` tells which.

    >>> import cascade as cs
    >>> cs.Outcome(value=3).unwrap()
    3
    >>> cs.Outcome(error=ValueError("no")).ok
    False
    """

    value: T_co | None = None
    error: Exception | None = None

    @property
    def ok(self) -> bool:
        """Whether the call gave a value."""
        return self.error is None

    def unwrap(self) -> T_co:
        """The value. Raises the error, as itself, if the call failed."""
        if self.error is not None:
            raise self.error
        return cast("T_co", self.value)


def succeeded(value: T) -> Outcome[T]:
    """The outcome of a call that gave `value`, made in half the time of `Outcome(value)`."""
    made: Outcome[T] = _new(Outcome)
    _set_value(made, value)
    _set_error(made, None)
    return made


# The slots themselves: `__init__` of a frozen class looks each of them up by name.
_new = Outcome.__new__
_set_value = Outcome.__dict__["value"].__set__
_set_error = Outcome.__dict__["error"].__set__
