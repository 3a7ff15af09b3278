"""When a failed attempt is followed by another one, and after how long."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from inspect import iscoroutinefunction
from math import isfinite
from types import FunctionType, MethodType
from typing import Any, TypeAlias

from cascade.errors import ends_run
from cascade.plain import function_name, type_name

ExceptionTypes = type[BaseException] | tuple[type[BaseException], ...]
RetryOn: TypeAlias = "ExceptionTypes | Callable[[Any], object]"
Delay: TypeAlias = "float | Callable[[Any, int], float | None]"

_COMPARED = (int, float, type, tuple, FunctionType, MethodType)
_LONGEST = sys.float_info.max


@dataclass(frozen=True, slots=True, eq=False)
class RetryPolicy:
    """What `.with_retry(...)` sets: `max_attempts` executions at most, the first included.

    Delays are in seconds.

    The k-th delay (k from 0) is `delay * backoff**k`, at most `max_delay`, plus up to `jitter`
    of itself at random. A `delay` that is a function `(error, attempt) -> seconds | None` is asked
    instead after each failed attempt (counted from 1); None ends the retries. Only exceptions of
    `on` are retried: of these classes, groups of nothing else, or what a function `(error) -> bool`
    says yes to. Cancellation never is.
    Raises `ValueError` for numbers out of range and for `backoff`, `max_delay` or `jitter` beside
    a function, `TypeError` for an `on` or `delay` that is neither.

    >>> import cascade as cs
    >>> cs.RetryPolicy(delay=1.0, backoff=2.0, max_delay=60.0).pause_after(5000)
    60.0
    """

    max_attempts: int = 3
    delay: Delay = 0.0
    backoff: float = 1.0
    max_delay: float | None = None
    jitter: float = 0.0
    on: RetryOn = Exception

    def __post_init__(self) -> None:
        if not isinstance(self.max_attempts, int) or isinstance(self.max_attempts, bool):
            raise ValueError(f"max_attempts must be a whole number, not {self.max_attempts!r}")
        if self.max_attempts < 1:
            raise ValueError(
                f"max_attempts={self.max_attempts!r} counts executions, the first included; "
                "it must be at least 1"
            )
        if callable(self.delay):
            self._check_delay_function(self.delay)
        else:
            check_number("delay", self.delay, at_least=0.0)
        check_number("backoff", self.backoff, at_least=0.0)
        check_number("jitter", self.jitter, at_least=0.0)
        if self.max_delay is not None:
            check_number("max_delay", self.max_delay, at_least=0.0)
        check_on(self.on)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RetryPolicy) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        """What makes policies equal: of a callable object nothing is asked but its identity."""
        named = (_compared(self.delay), _compared(self.on))
        return (self.max_attempts, self.backoff, self.max_delay, self.jitter, *named)

    def _check_delay_function(self, delay: object) -> None:
        if not _is_function(delay):
            raise TypeError(
                f"delay={delay!r} must be seconds, or a function (error, attempt) -> seconds | None"
            )
        for name, value, usual in (
            ("backoff", self.backoff, 1.0),
            ("max_delay", self.max_delay, None),
            ("jitter", self.jitter, 0.0),
        ):
            if value != usual:
                raise ValueError(
                    f"{name}={value!r} changes a delay that is a number, and delay={delay!r} is a "
                    "function; let the function give the whole pause"
                )

    def matches(self, error: BaseException) -> bool:
        """Whether `on` says that a failure with `error` may be followed by another attempt."""
        return matches(self.on, error)

    def pause_after(self, attempt: int, error: BaseException | None = None) -> float | None:
        """Seconds between failed attempt number `attempt` (from 1) and the next; None: no next.

        Never above the largest float. `ValueError` for an answer of a delay function that is no
        pause.
        """
        if callable(self.delay):
            answer = self.delay(error, attempt)
            if answer is not None:
                check_number("the answer of the delay function", answer, at_least=0.0)
            return answer
        if self.delay == 0:
            return 0.0
        try:
            pause = float(self.delay) * float(self.backoff) ** (attempt - 1)
        except OverflowError:
            pause = _LONGEST
        if self.max_delay is not None:
            pause = min(pause, self.max_delay)
        if self.jitter:
            pause *= 1.0 + self.jitter * random.random()
        return min(pause, _LONGEST)


@dataclass(frozen=True, slots=True, eq=False)
class Catch:
    """Which failures a fallback, or `.settled()`, answers."""

    on: RetryOn

    def __post_init__(self) -> None:
        check_on(self.on)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Catch) and _compared(self.on) == _compared(other.on)

    def __hash__(self) -> int:
        return hash(_compared(self.on))

    def __repr__(self) -> str:
        return f"(on={', '.join(names_of(self.on))})"

    def matches(self, error: BaseException) -> bool:
        """Whether `on` says that a last failure with `error` is answered."""
        return matches(self.on, error)


def names_of(on: RetryOn) -> list[str]:
    """The classes that an `on` names, or its function."""
    kinds = on if isinstance(on, tuple) else (on,)
    return [type_name(kind) if isinstance(kind, type) else function_name(kind) for kind in kinds]


def check_on(on: object) -> None:
    """Raise `TypeError` for an `on` that is neither exception classes nor a function."""
    kinds = on if isinstance(on, tuple) else (on,)
    are_classes = all(isinstance(k, type) and issubclass(k, BaseException) for k in kinds)
    if not kinds or not (are_classes or _is_function(on)):
        raise TypeError(
            f"on={on!r} must be an exception class, a tuple of them, or a function (error) -> bool"
        )


def matches(on: RetryOn, error: BaseException) -> bool:
    """Whether `error` is of these classes, or the function says yes to it.

    What is wrong with the program itself is nothing that another attempt, or a fallback, mends.
    """
    if ends_run(error):
        return False
    if isinstance(on, type | tuple):
        return is_of(error, on)
    return bool(on(error))


def _compared(given: object) -> object:
    """What makes parts of policies equal: of a callable object its identity alone."""
    return given if isinstance(given, _COMPARED) else id(given)


def is_of(error: BaseException, kinds: ExceptionTypes) -> bool:
    """Whether `error` is of one of these classes, or a group of which every leaf is."""
    left = [error]
    while left:
        each = left.pop()
        if isinstance(each, kinds):
            continue
        if not isinstance(each, BaseExceptionGroup):
            return False
        left.extend(each.exceptions)
    return True


def _is_function(value: object) -> bool:
    """Whether it can be called for an answer here and now."""
    if isinstance(value, type) or not callable(value):
        return False
    call = type(value).__call__
    return not iscoroutinefunction(value) and not iscoroutinefunction(call)


def check_number(name: str, value: object, *, at_least: float) -> None:
    """Raise `ValueError` unless `value` is a finite number of at least `at_least`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not isfinite(value) or value < at_least:  # type: ignore[arg-type, operator]
        raise ValueError(f"{name}={value!r} must be a finite number of at least {at_least:g}")
