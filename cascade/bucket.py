"""A token bucket without drift: integers inside, floats of seconds outside.

A bucket holds at most `burst` tokens, starts full and gains `rate` tokens a second. The whole
state is one number, the time at which the bucket will be full again; a start moves it one interval
(1 / rate) later. It is kept in units of 1 / (2**64 * numerator of the rate) seconds, in which the
interval is whole, so nothing is ever rounded: a float from 2**-12 up is a whole number of 2**-64,
and a smaller one is rounded up, to the safe side.

A token is taken in two steps. `reserve` sets one aside, when the gate admits a task; `start` takes
it, at the time at which the task really starts, which may be later; `cancel` puts it back. So the
bound holds for the starts themselves, however late a loop runs a task that it has woken, and a
token that was put back leaves no trace.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, inf, nextafter

_TICKS = 2**64


class Bucket:
    """In any window of w seconds at most `rate * w + burst` starts.

    `ready_at` is the earliest time (a float, as the clock gives it) at which one more token can be
    reserved: inf while every token that the bucket can hold is reserved and not yet started.
    """

    __slots__ = ("_full_at", "_interval", "_latest", "_scale", "burst", "pending", "ready_at")

    def __init__(self, rate: Fraction, burst: int) -> None:
        self.burst = burst
        self.pending = 0
        self.ready_at = -inf
        self._full_at = 0
        # The latest time that was seen: no need to know how long before it a token was ready.
        self._latest = 0
        self._set_rate(rate)

    def _set_rate(self, rate: Fraction) -> None:
        self._scale = rate.numerator
        self._interval = rate.denominator * _TICKS

    def reserve(self) -> None:
        """Set one token aside; allowed when `ready_at <= now`."""
        self.pending += 1
        self._update()

    def take(self, now: float) -> None:
        """Reserve a token and take it at once; allowed when `ready_at <= now`."""
        self._latest = latest = self._units(now)
        self._full_at = max(self._full_at, latest) + self._interval
        self._update()

    def cancel(self) -> None:
        """Put a reserved token back."""
        self.pending -= 1
        self._update()

    def start(self, now: float) -> None:
        """Take a reserved token, now."""
        self.pending -= 1
        self._latest = latest = self._units(now)
        if latest > self._full_at:
            self._full_at = latest + self._interval
        else:
            self._full_at += self._interval
            if self.ready_at != inf:
                # One token less in the bucket, one less reserved: the next is ready when it was.
                return
        self._update()

    def change(self, rate: Fraction, burst: int, now: float) -> None:
        """Go on with another rate and burst: what was taken counts, up to the new burst."""
        taken = Fraction(max(0, self._full_at - self._units(now)), self._interval)
        self._set_rate(rate)
        self.burst = burst
        self._latest = self._units(now)
        self._full_at = self._latest + ceil(min(taken, Fraction(burst)) * self._interval)
        self._update()

    def refill(self) -> None:
        """Be full: the clock is another one now."""
        self._full_at = self._latest = 0
        self._update()

    def _units(self, now: float) -> int:
        return ceil(now * _TICKS) * self._scale

    def _update(self) -> None:
        spare = self.burst - 1 - self.pending
        if spare < 0:
            self.ready_at = inf
            return
        units = self._full_at - spare * self._interval
        if units <= self._latest:
            self.ready_at = -inf
            return
        try:
            ready = units / (_TICKS * self._scale)
        except OverflowError:
            self.ready_at = inf
            return
        # Division rounds to the nearest float, which may be a moment too early.
        if self._units(ready) < units:
            ready = nextafter(ready, inf)
        self.ready_at = ready
