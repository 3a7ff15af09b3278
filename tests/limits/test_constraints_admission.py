"""Section 10, the laws of who may start and when, on the state without IO."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.limits.admission import Admission, Ticket
from cascade.limits.bucket import Bucket
from cascade.limits.constraints import GlobalConstraint, checked

LONG = bool(os.environ.get("CASCADE_LONG"))


class Office:
    """An Admission with a clock in hand; a step returns the names it has granted."""

    def __init__(self, **capacity: Any) -> None:
        self.state = Admission(capacity)
        self.now = 0.0

    def ask(self, name: str, **amounts: Any) -> Ticket:
        self.state.advance(self.now)
        return self.state.ask(name, amounts, self.now)

    def granted(self) -> list[str]:
        names = [ticket.name for ticket in self.state.granted]
        self.state.granted.clear()
        return names

    def give_back(self, ticket: Ticket) -> list[str]:
        self.state.give_back(ticket, self.now)
        return self.granted()

    def withdraw(self, ticket: Ticket) -> list[str]:
        self.state.withdraw(ticket, self.now)
        return self.granted()

    def start(self, ticket: Ticket) -> list[str]:
        self.state.start(ticket, self.now)
        return self.granted()

    def set(
        self, kind: str, scope: str = "global", ttl: float | None = None, **params: Any
    ) -> list[str]:
        definition = checked(GlobalConstraint(f"{kind}:{scope}", scope, kind, params, ttl))
        self.state.set(definition, self.now)
        return self.granted()

    def remove(self, id: str) -> list[str]:
        assert self.state.remove(id, self.now)
        return self.granted()

    def at(self, now: float) -> list[str]:
        self.now = now
        self.state.advance(now)
        return self.granted()


# All at once, or nothing


def test_nothing_is_taken_when_one_thing_denies() -> None:
    """A task takes all that it needs at once, or nothing."""
    office = Office(gpu=2, mem=4)
    first = office.ask("a", gpu=2)
    assert office.ask("b", gpu=1, mem=4).parked
    assert office.state.capacities["mem"].free == 4
    assert office.give_back(first) == ["b"]


def test_a_token_is_not_taken_while_a_slot_is_missing() -> None:
    """A task that waits for a slot leaves the tokens of a rate to others."""
    office = Office()
    office.set("rate_limit", rate=1, burst=2)
    office.set("concurrency", "task:a", limit=1)
    first = office.ask("a")
    assert office.ask("a").parked
    assert not office.ask("b").parked, "the waiting task holds no token"
    assert office.ask("b").parked
    assert office.give_back(first) == []


# Who goes first


def test_first_in_first_out_for_each_thing() -> None:
    """Among tasks that wait for the same resource the first come is the first served."""
    office = Office(gpu=2)
    holder = office.ask("h", gpu=2)
    for name in ("a", "b", "c", "d"):
        office.ask(name, gpu=1)
    assert office.give_back(holder) == ["a", "b"]


def test_a_newcomer_does_not_overtake_one_that_is_short() -> None:
    """A small request waits behind a large one of the same resource, though it would fit."""
    office = Office(gpu=4)
    holder = office.ask("h", gpu=3)
    assert office.ask("large", gpu=4).parked
    assert office.ask("small", gpu=1).parked, "one is free, but the large one came first"
    assert office.give_back(holder) == ["large"]


def test_a_waiter_holds_its_place_for_every_thing_it_wants() -> None:
    """A waiter keeps later ones from all that it wants, not only from what it lacks."""
    office = Office(gpu=1, mem=4)
    holder = office.ask("h", gpu=1)
    office.ask("both", gpu=1, mem=1)
    assert office.ask("mem_only", mem=1).parked, "it wants one of the same things"
    assert office.give_back(holder) == ["both", "mem_only"]


def test_others_are_not_held_up() -> None:
    """A task that wants nothing a waiter wants starts at once."""
    office = Office(gpu=1, mem=4)
    office.ask("h", gpu=1)
    assert office.ask("a", gpu=1).parked
    assert not office.ask("b", mem=4).parked


def test_a_withdrawn_waiter_frees_those_behind_it() -> None:
    """Those who waited only behind a waiter are granted when it gives up."""
    office = Office(gpu=4)
    office.ask("h", gpu=3)
    large = office.ask("large", gpu=2)
    office.ask("small", gpu=1)
    assert office.withdraw(large) == ["small"]


def test_a_grant_withdrawn_before_the_start_goes_on() -> None:
    """Slots and tokens of a grant that is given up pass to the next waiter."""
    office = Office(gpu=1)
    office.set("rate_limit", rate="1/h")
    first = office.ask("a", gpu=1)
    office.ask("b", gpu=1)
    assert office.withdraw(first) == ["b"], "the token goes on, too"


def test_patterns_and_several_constraints_at_once() -> None:
    """A task needs a slot of every limit that matches it, and waits in line at each."""
    office = Office()
    office.set("concurrency", "task:fetch_*", limit=1)
    office.set("concurrency", "task:*_image", limit=1)
    office.set("concurrency", limit=3)
    both = office.ask("fetch_image")
    assert office.ask("fetch_text").parked
    assert office.ask("scale_image").parked
    assert office.ask("other").parked, "they wait for the same global slots, and came first"
    assert office.give_back(both) == ["fetch_text", "scale_image", "other"]


# No convoy


@pytest.mark.parametrize("denier", ["pause", "rate"])
def test_one_denied_by_a_pause_or_a_rate_holds_up_nobody_else(denier: str) -> None:
    """A task that waits for time or a resume holds no place for resources and slots."""
    office = Office(gpu=1)
    office.set("concurrency", limit=1)
    if denier == "pause":
        office.set("pause", "task:slow")
    else:
        office.set("rate_limit", "task:slow", rate="1/h")
        office.give_back(office.ask("slow", gpu=1))
    assert office.ask("slow", gpu=1).parked
    other = office.ask("other", gpu=1)
    assert not other.parked
    assert office.ask("third", gpu=1).parked
    assert office.give_back(other) == ["third"]


def test_one_denied_by_a_rate_comes_before_later_ones_of_the_same_rate() -> None:
    """A token that is due belongs to the first who waits, even before the timer fires."""
    office = Office()
    office.set("rate_limit", rate=1)
    office.start(office.ask("a"))
    office.ask("b")
    office.ask("c")
    office.now = 1.0
    assert office.ask("newcomer").parked, "the token of 1.0 is for b, though no timer has fired"
    assert office.granted() == ["b"]


def test_one_that_was_paused_takes_the_place_of_its_arrival() -> None:
    """After its pause a task stands where it would have stood without."""
    office = Office(gpu=1)
    holder = office.ask("h", gpu=1)
    office.set("pause", "task:early")
    office.ask("early", gpu=1)
    office.ask("late", gpu=1)
    assert office.remove("pause:task:early") == []
    assert office.give_back(holder) == ["early"]


def test_a_token_is_not_kept_for_one_that_waits_for_a_slot() -> None:
    """A token goes to whom nothing else denies, not to one who lacks a slot."""
    office = Office()
    office.set("rate_limit", rate=1)
    office.set("concurrency", "task:slow", limit=1)
    slow = office.ask("slow")
    office.start(slow)
    assert office.ask("slow").parked
    assert office.at(1.0) == []
    assert not office.ask("quick").parked


def test_one_that_loses_its_token_to_another_lets_go_of_its_places() -> None:
    """A waiter that a rate now denies frees those who stood behind it."""
    office = Office(gpu=1, mem=1)
    office.set("rate_limit", "task:t*", rate="1/h")
    holder = office.ask("h", gpu=1)
    assert office.ask("t1", gpu=1, mem=1).parked, "short of gpu only"
    assert office.ask("m", mem=1).parked, "behind t1"
    assert not office.ask("t2").parked, "the token was free"
    assert office.granted() == ["m"], "t1 is denied by the rate now and holds up nobody"
    assert office.give_back(holder) == []


# Changes


def test_raising_a_limit_frees_exactly_as_many() -> None:
    """Raising a limit by two starts the first two waiters and no more."""
    office = Office()
    office.set("concurrency", limit=1)
    office.ask("h")
    for name in ("a", "b", "c"):
        office.ask(name)
    assert office.set("concurrency", limit=3) == ["a", "b"]


def test_a_limit_lowered_below_the_number_running_stops_nothing_and_admits_nobody() -> None:
    """A lowered limit admits the next only once fewer run than it allows."""
    office = Office()
    office.set("concurrency", limit=3)
    running = [office.ask("r") for _ in range(3)]
    office.set("concurrency", limit=1)
    office.ask("a")
    assert office.give_back(running[0]) == []
    assert office.give_back(running[1]) == []
    assert office.give_back(running[2]) == ["a"]


def test_a_new_limit_counts_only_what_it_admitted() -> None:
    """Tasks that were running before a limit came take none of its slots."""
    office = Office()
    office.ask("before")
    office.set("concurrency", limit=1)
    first = office.ask("a")
    assert not first.parked
    assert office.ask("b").parked
    assert office.give_back(first) == ["b"]


def test_a_limit_replaced_keeps_its_count_for_another_scope_too() -> None:
    """A limit that gets another scope still counts the tasks that it admitted before."""
    office = Office()
    office.set("concurrency", limit=1)
    office.ask("a")
    new = GlobalConstraint("concurrency:global", "task:*", "concurrency", {"limit": 1})
    office.state.set(new, office.now)
    assert office.ask("b").parked
    statistics = office.state.constraint_statistics(office.now)
    assert list(statistics) == ["concurrency:global"]
    assert statistics["concurrency:global"].running == 1
    assert statistics["concurrency:global"].waiting == 1


def test_limits_of_one_scope_with_ids_of_their_own_hold_together() -> None:
    """Two limits of one scope both have to admit, and each counts for itself."""
    office = Office()
    office.set("concurrency", limit=2)
    office.ask("a")
    office.state.set(GlobalConstraint("new", "global", "concurrency", {"limit": 1}), office.now)
    assert not office.ask("b").parked, "the new limit counts from 0"
    assert office.ask("c").parked
    assert office.state.remove("concurrency:global", office.now)
    assert office.state.granted == [], "the new limit is full"


def test_a_rate_replaced_keeps_its_count() -> None:
    """A rate that is replaced gives no token twice: what had come in stays, the rest comes at
    the new rate."""
    office = Office()
    office.set("rate_limit", rate=1)
    office.start(office.ask("a"))
    office.ask("b")
    assert office.set("rate_limit", rate=1) == []
    office.now = 0.5
    assert office.set("rate_limit", rate=2) == []
    assert office.at(0.75) == ["b"], "half a token was there, the other half came at 2/s"


def test_a_lowered_burst_still_lets_the_next_start_after_one_interval() -> None:
    """Lowering the burst of an empty bucket makes nobody wait longer than one interval."""
    office = Office()
    office.set("rate_limit", rate=1, burst=10)
    for _ in range(10):
        office.start(office.ask("a"))
    office.set("rate_limit", rate=1, burst=1)
    office.ask("b")
    assert office.at(0.99) == []
    assert office.at(1.0) == ["b"]


def test_removing_and_expiring_free_those_they_held() -> None:
    """A constraint that is removed, or whose ttl ends, grants those whom it alone denied."""
    office = Office()
    office.set("concurrency", limit=1)
    office.set("pause", "task:p", ttl=5)
    office.ask("h")
    office.ask("a")
    office.ask("p")
    assert office.state.deadline() == 5.0
    assert office.remove("concurrency:global") == ["a"]
    assert office.at(4.9) == []
    assert office.at(5.0) == ["p"]
    assert office.state.active() == ()


def test_a_constraint_that_comes_while_others_wait_concerns_them_too() -> None:
    """A new constraint also denies those who were waiting when it came."""
    office = Office(gpu=1)
    holder = office.ask("h", gpu=1)
    office.ask("a", gpu=1)
    office.ask("b", gpu=1)
    office.set("pause", "task:a")
    assert office.give_back(holder) == ["b"]


# Rates

RATES = [Fraction(1, 3600), Fraction(1), Fraction(3), Fraction(10), Fraction(10_000)]


class Windows:
    """Checks both bounds for every window that begins and ends at a start, exactly.

    With x(k) = rate * t(k) - k, the bounds on starts i..j say that x(j) - x(i) is at least
    1 - burst, and (while somebody waits) at most 0.
    """

    def __init__(self, rate: Fraction, burst: int) -> None:
        self.scale = 2**64 * rate.denominator
        self.rate = rate
        self.burst = burst
        self.count = 0
        self.highest = self.lowest = 0
        self.late = 0

    def add(self, now: float) -> None:
        x = int(now * 2**64) * self.rate.numerator - self.count * self.scale
        self.count += 1
        if self.count == 1:
            self.highest = self.lowest = x
        assert self.count == 1 or x - self.highest >= (1 - self.burst) * self.scale
        self.late = max(self.late, x - self.lowest)
        self.highest = max(self.highest, x)
        self.lowest = min(self.lowest, x)


@pytest.mark.parametrize("rate", RATES)
def test_a_million_starts_keep_both_bounds(rate: Fraction) -> None:
    """The upper bound exactly; the lower but for the rounding of the clock's floats."""
    starts = 1_000_000 if LONG else 1_000_000 // len(RATES)
    bucket, windows, now = Bucket(rate, 1), Windows(rate, 1), 1.0
    for _ in range(starts):
        if bucket.ready_at > now:
            now = bucket.ready_at
        bucket.reserve()
        bucket.start(now)
        windows.add(now)
    # Each start is at the first float that is not too early.
    assert Fraction(windows.late, windows.scale) <= rate * starts * Fraction(
        sys.float_info.epsilon
    ) * Fraction(now)


@given(
    st.sampled_from([Fraction(1, 7), *RATES]),
    st.integers(1, 5),
    st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1), st.booleans()), max_size=60),
)
def test_the_upper_bound_holds_for_late_starts_and_withdrawn_grants(
    rate: Fraction, burst: int, steps: list[tuple[float, float, bool]]
) -> None:
    """In any window at most `rate * window + burst` tasks start, however late they start."""
    bucket, now, starts = Bucket(rate, burst), 1.0, []
    for gap, late, withdrawn in steps:
        now = max(now + gap / float(rate), bucket.ready_at)
        bucket.reserve()
        if withdrawn:
            bucket.cancel()
            continue
        now += late / float(rate)
        bucket.start(now)
        starts.append(Fraction(now))
    for i, first in enumerate(starts):
        for j in range(i, len(starts)):
            assert j - i + 1 <= rate * (starts[j] - first) + burst


def test_a_burst_is_there_at_first_and_after_idling() -> None:
    """A bucket is full at the beginning and after a long pause, and then fills at its rate."""
    office = Office()
    office.set("rate_limit", rate=2, burst=3)
    for moment in (0.0, 100.0):
        office.at(moment)
        tickets = [office.ask("a") for _ in range(4)]
        assert [ticket.parked for ticket in tickets] == [False, False, False, True]
        for ticket in tickets[:3]:
            office.start(ticket)
        assert office.at(moment + 0.5) == ["a"]
        office.start(tickets[3])


def test_two_rates_make_one_deadline() -> None:
    """The deadline is the first moment at which any waiter can start."""
    office = Office()
    office.set("rate_limit", rate=1)
    office.set("rate_limit", "task:a", rate=0.5)
    office.start(office.ask("a"))
    office.ask("a")
    assert office.state.deadline() == 2.0
    office.ask("b")
    assert office.state.deadline() == 1.0


def test_there_is_no_deadline_for_a_token_behind_a_pause() -> None:
    """Time alone cannot start a paused task, so its rate sets no deadline."""
    office = Office()
    office.set("rate_limit", rate=1)
    office.set("pause")
    office.ask("a")
    assert office.state.deadline() is None


# Cost: function calls are counted, not time


def calls_of(function: Callable[[], object]) -> int:
    count = 0

    def profile(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


def through_one_slot(waiters: int, name: Callable[[int], str]) -> int:
    office = Office(gpu=1)
    holder = office.ask("h", gpu=1)
    for k in range(waiters):
        office.ask(name(k), gpu=1)

    def drain() -> None:
        ticket = holder
        for _ in range(waiters):
            office.state.give_back(ticket, 0.0)
            (ticket,) = office.state.granted
            office.state.granted.clear()

    return calls_of(drain)


@pytest.mark.parametrize("kind", ["one task", "a task each"])
def test_the_cost_per_waiter_is_flat_from_100_to_10_000(kind: str) -> None:
    """Serving a waiter takes the same number of steps however many wait."""
    name = (lambda _: "t") if kind == "one task" else (lambda k: f"t{k}")
    few, many = through_one_slot(100, name) / 100, through_one_slot(10_000, name) / 10_000
    assert many <= few * 1.05


def test_a_token_costs_the_same_however_many_tasks_wait_for_it() -> None:
    """A thousand tasks, each with a limit of its own, all under one rate."""

    def cost(tasks: int) -> float:
        office = Office()
        office.set("rate_limit", rate=1)
        for k in range(tasks):
            office.state.set(
                GlobalConstraint(f"l{k}", f"task:t{k}", "concurrency", {"limit": 1}), 0.0
            )
        office.start(office.ask("h"))
        for k in range(tasks):
            office.ask(f"t{k}")

        def drain() -> None:
            for moment in range(1, tasks + 1):
                office.state.advance(float(moment))
                (ticket,) = office.state.granted
                office.state.granted.clear()
                office.state.start(ticket, float(moment))

        return calls_of(drain) / tasks

    assert cost(500) <= cost(50) * 1.05


def test_nothing_is_left_behind_by_those_that_give_up() -> None:
    """Waiters that give up leave nothing in the queues, however many there were."""
    office = Office(gpu=1)
    office.set("rate_limit", "task:r*", rate="1/h")
    office.start(office.ask("r", gpu=1))
    office.ask("front", gpu=1)
    chance = random.Random(1)
    waiting: list[Ticket] = []
    for k in range(5000):
        waiting.append(office.ask(chance.choice(["a", "b", f"r{k}"]), gpu=1))
        if len(waiting) > 20:
            office.withdraw(waiting.pop(chance.randrange(len(waiting))))
    for ticket in waiting:
        office.withdraw(ticket)
    state = office.state
    assert state.parked == 1
    assert len(state._queues) == len(state._families) == 1
    assert not state._openings
    assert not state._agenda
    (row,) = state.capacities["gpu"].rows.values()
    assert len(row) == 1
    assert len(state._wants) <= 4096
