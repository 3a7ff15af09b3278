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

Starts may have weights, which need not be whole: then times are fractions of units, as long as
their denominators stay small, and are rounded up beyond that.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, inf, nextafter

from cascade.amounts import Exact, whole_or_fraction

_TICKS = 2**64
_LARGEST_PRODUCT = 2.0**900  # of a time in seconds and the ticks of one, as a float
_FINEST = 2**256  # the denominator from which on a time is rounded up


class Bucket:
    """In any window of w seconds starts of a weight of at most `rate * w + burst` in sum.

    `ready_at` is the earliest time (a float, as the clock gives it) at which one more token can be
    reserved: inf while every token that the bucket can hold is reserved and not yet started.
    `ready_for` tells it for other weights.
    """

    __slots__ = ("_full_at", "_interval", "_latest", "_scale", "burst", "pending", "ready_at")

    def __init__(self, rate: Fraction, burst: Exact) -> None:
        self.burst = burst
        self.pending: Exact = 0
        self.ready_at = -inf
        self._full_at: Exact = 0
        # The latest time that was seen: no need to know how long before it a token was ready.
        self._latest = 0
        self._set_rate(rate)
        self._update()

    def _set_rate(self, rate: Fraction) -> None:
        self._scale = rate.numerator
        self._interval = rate.denominator * _TICKS

    def reserve(self, weight: Exact = 1) -> None:
        """Set so much aside; allowed when `ready_for(weight) <= now`."""
        self.pending += weight
        self._update()

    def take(self, now: float, weight: Exact = 1) -> None:
        """Reserve so much and take it at once; allowed when `ready_for(weight) <= now`."""
        self._spend(now, weight)
        self._update()

    def cancel(self, weight: Exact = 1) -> None:
        """Put back what was reserved."""
        self.pending -= weight
        self._update()

    def start(self, now: float, weight: Exact = 1) -> None:
        """Take what was reserved, now."""
        self.pending -= weight
        if self._spend(now, weight) and self.ready_at != inf:
            # As much less in the bucket, as much less reserved: the next is ready when it was.
            return
        self._update()

    def charge(self, amount: Exact, now: float) -> None:
        """Take so much more than there may be, or give back a negative amount, up to the burst."""
        self._spend(now, amount)
        self._update()

    def level(self, now: float) -> Exact:
        """What may be reserved now; negative after more was charged than there was."""
        taken = Fraction(max(0, self._full_at - self._units(now))) / self._interval
        return whole_or_fraction(Fraction(self.burst - self.pending) - taken)

    def change(self, rate: Fraction, burst: Exact, now: float) -> None:
        """Go on with another rate and burst: what was taken counts, up to the new burst."""
        taken = Fraction(max(0, self._full_at - self._units(now))) / self._interval
        self._set_rate(rate)
        self.burst = burst
        self._latest = self._units(now)
        self._full_at = self._latest + ceil(min(taken, Fraction(burst)) * self._interval)
        self._update()

    def refill(self) -> None:
        """Be full: the clock is another one now."""
        self._full_at = self._latest = 0
        self._update()

    def ready_for(self, weight: Exact) -> float:
        """The earliest time at which so much can be reserved, as `ready_at` is for one token."""
        spare = self.burst - weight - self.pending
        if spare < 0:
            return inf
        units = self._full_at - spare * self._interval
        if units <= self._latest:
            return -inf
        units = ceil(units)
        try:
            ready = units / (_TICKS * self._scale)
        except OverflowError:
            return inf
        # Division rounds to the nearest float, which may be a moment too early.
        return nextafter(ready, inf) if self._units(ready) < units else ready

    def _spend(self, now: float, weight: Exact) -> bool:
        """Take so much; tells whether the bucket was not full before."""
        self._latest = latest = self._units(now)
        was_full = latest > self._full_at
        full_at = max(latest, self._full_at) + weight * self._interval
        self._full_at = full_at if full_at.__class__ is int else _bounded(full_at)
        return not was_full

    def _units(self, now: float) -> int:
        if now < _LARGEST_PRODUCT:
            return ceil(now * _TICKS) * self._scale
        return int(now) * _TICKS * self._scale

    def _update(self) -> None:
        self.ready_at = self.ready_for(1)


def _bounded(time: Exact) -> Exact:
    return ceil(time) if time.denominator > _FINEST else whole_or_fraction(Fraction(time))
