"""When a failed attempt is followed by another one, and after how long."""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import isfinite

ExceptionTypes = type[BaseException] | tuple[type[BaseException], ...]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What `.with_retry(...)` sets: `max_attempts` executions at most, the first included.

    Delays are in seconds.

    The k-th delay (k from 0) is `delay * backoff**k`, at most `max_delay`, plus up to `jitter`
    of itself at random. Only exceptions of `on` are retried; cancellation never is.
    Raises `ValueError` for numbers out of range and `TypeError` for an `on` that is no exception.
    """

    max_attempts: int = 3
    delay: float = 0.0
    backoff: float = 1.0
    max_delay: float | None = None
    jitter: float = 0.0
    on: ExceptionTypes = Exception

    def __post_init__(self) -> None:
        if not isinstance(self.max_attempts, int) or isinstance(self.max_attempts, bool):
            raise ValueError(f"max_attempts must be a whole number, not {self.max_attempts!r}")
        if self.max_attempts < 1:
            raise ValueError(
                f"max_attempts={self.max_attempts!r} counts executions, the first included; "
                "it must be at least 1"
            )
        check_number("delay", self.delay, at_least=0.0)
        check_number("backoff", self.backoff, at_least=0.0)
        check_number("jitter", self.jitter, at_least=0.0)
        if self.max_delay is not None:
            check_number("max_delay", self.max_delay, at_least=0.0)
        kinds = self.on if isinstance(self.on, tuple) else (self.on,)
        if not kinds or not all(
            isinstance(k, type) and issubclass(k, BaseException) for k in kinds
        ):
            raise TypeError(f"on={self.on!r} must be an exception class or a tuple of them")

    def pause_after(self, attempt: int) -> float:
        """Seconds between failed attempt number `attempt` (from 1) and the next one."""
        try:
            pause = self.delay * self.backoff ** (attempt - 1)
        except OverflowError:
            pause = float("inf")
        if self.max_delay is not None:
            pause = min(pause, self.max_delay)
        return pause * (1.0 + self.jitter * random.random()) if self.jitter else pause


def check_number(name: str, value: object, *, at_least: float) -> None:
    """Raise `ValueError` unless `value` is a finite number of at least `at_least`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not isfinite(value) or value < at_least:  # type: ignore[arg-type, operator]
        raise ValueError(f"{name}={value!r} must be a finite number of at least {at_least:g}")
