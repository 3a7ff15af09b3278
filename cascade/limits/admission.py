"""Who may start: the state of capacity and constraints, without IO and without a clock.

Words. A **thing** is what is held while a task runs: a named capacity, or the slots of a
concurrency limit. A request claims an amount of each of its things, all at once or nothing. A
**denier** is a pause or a rate: it holds nothing back, it says no for the moment. A **refill** is a
capacity that comes back with time: a rate whose starts have weights.

The law (a plain list in order of arrival would do it, slowly): *grant the earliest request that is
admissible, until none is.* A request is admissible when no pause matches it, each rate that
matches it has a token, each of its refills has enough and denies no earlier request that the pauses
and rates admit, each of its things has enough free, and no earlier request that only things keep
waiting claims one of the same things. So a request denied by a pause or a rate stands in nobody's
way and in no row, one denied by a refill, if it is the first of its kind (of one task, with
amounts of the same names), only in the way of those who want the same refill, and
among the others nobody overtakes. Taking the last token closes the rate for those behind, who then
no longer stand in anybody's way either: hence "until".

Requests of one task with amounts of the same names always want the same, so they form a **queue**,
first in, first out, and only its head matters. Queues with the same deniers form a **family**,
which is open or closed as a whole; a queue that wants refills is a family of its own, since its
head's weight decides. A thing keeps a **row** per family: its queues, ordered by their heads'
arrival; its **front** is the earliest among the open families. Closing or opening a family is thus
one flag, however many wait.

A queue is either a **candidate**, to be looked at as soon as its family is open, or stuck at a
thing, either short of it or behind its front. What changes a thing (something given back, a queue
that moved) makes candidates of the first queues of its families; closing a family does so for the
things at which it kept others waiting. So work is done per change, not per waiter: a grant costs
the same with ten waiting as with ten thousand. Only a change of the constraints themselves looks
at all queues again (not at all waiters), and at what was granted and has not started: a grant holds
until a constraint changes, and one that the new constraints do not admit becomes a waiter again, at
the place of its arrival.

Prior art: anyio's CapacityLimiter (who releases hands over, a cancelled grantee passes on), the
watched literals of SAT solvers (look again only where the one reason for being stuck has gone).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Any, TypeAlias

from cascade.amounts import Exact, Rate, checked_amount, checked_capacity, exact, parse_rate
from cascade.errors import did_you_mean
from cascade.limits.bucket import Bucket
from cascade.limits.constraints import ConstraintStatistics, GlobalConstraint, parse_scope

# Task names are code, so a program has few; patterns are matched once for each.
_MAX_NAMES = 4096

PARKED, GRANTED, STARTED, DONE, UNLIMITED = range(5)

Claims: TypeAlias = "tuple[tuple[Thing, Exact], ...]"
Needs: TypeAlias = "tuple[tuple[Capacity, Exact], ...]"
Weights: TypeAlias = "tuple[tuple[Refill, Exact], ...]"
QueueKey: TypeAlias = "tuple[str, tuple[Capacity, ...], tuple[Refill, ...]]"
FamilyKey: TypeAlias = "tuple[tuple[Rule, ...], QueueKey | None]"


class Thing:
    """What tasks hold while they run: `free` of it is left, negative when lowered meanwhile."""

    __slots__ = ("ends", "free", "label", "rows", "total")

    def __init__(self, label: str, total: Exact) -> None:
        self.label = label
        self.total = total
        self.free = total
        self.ends = False  # by itself, at a time
        self.rows: dict[Family, list[tuple[int, Queue]]] = {}

    def front(self) -> Queue | None:
        """The queue whose head came first among those that only things keep waiting."""
        first: tuple[int, Queue] | None = None
        for family, row in self.rows.items():
            if family.open and (first is None or row[0][0] < first[0]):
                first = row[0]
        return first[1] if first else None


class Capacity(Thing):
    """A named resource of the engine."""

    __slots__ = ("name", "rank")

    def __init__(self, name: str, rank: int, total: Exact) -> None:
        super().__init__(f"capacity {name!r}", total)
        self.name = name
        self.rank = rank

    def free_at(self, _now: float) -> Exact:
        """What is left of it."""
        return self.free


class Refill:
    """A named resource of the engine that comes back with time, and the queues that want it.

    `shut`: it denies somebody whom only refills deny, so that nobody who comes later gets any.
    """

    __slots__ = ("bucket", "label", "name", "queues", "rank", "shut", "total")

    def __init__(self, name: str, rank: int, rate: Rate) -> None:
        self.label = f"capacity {name!r}"
        self.name = name
        self.rank = rank
        self.total = rate.most
        self.bucket = Bucket(rate.per_second, rate.most)
        self.queues: list[tuple[int, Queue]] = []
        self.shut = False

    def free_at(self, now: float) -> Exact:
        """What is left of it."""
        return self.bucket.level(now)


class Rule:
    """A constraint in force, with what it has admitted; this class itself is a pause."""

    __slots__ = (
        "definition",
        "expires_at",
        "label",
        "left",
        "longest",
        "matches",
        "queues",
        "running",
    )

    def __init__(self, definition: GlobalConstraint) -> None:
        self.running = 0
        self.longest = 0.0
        self.queues = 0
        self.define(definition)

    def define(self, definition: GlobalConstraint) -> None:
        self.definition = definition
        self.matches: Callable[[str], object] = parse_scope(definition.scope)
        # The id that a method makes says the type and the scope once more.
        kind, scope = definition.type, definition.scope
        named = "" if definition.id == f"{kind}:{scope}" else f" {definition.id!r}"
        self.label = f"{kind}{named} on {scope!r}"
        self.expires_at = inf
        self.left: float | None = None


class Limit(Rule):
    """A concurrency limit: its slots are a thing."""

    __slots__ = ("slots",)

    def __init__(self, definition: GlobalConstraint) -> None:
        super().__init__(definition)
        self.slots = Thing(self.label, definition.params["limit"])
        self.slots.ends = definition.ttl is not None

    def replace(self, definition: GlobalConstraint) -> None:
        self.slots.free += definition.params["limit"] - self.slots.total
        self.slots.total = definition.params["limit"]
        self.define(definition)
        self.slots.label = self.label
        self.slots.ends = definition.ttl is not None


class RateLimit(Rule):
    """A rate limit, and the families that need its tokens."""

    __slots__ = ("bucket", "families")

    def __init__(self, definition: GlobalConstraint) -> None:
        super().__init__(definition)
        params = definition.params
        self.bucket = Bucket(parse_rate(params["rate"]), params["burst"])
        self.families: dict[Family, None] = {}

    def replace(self, definition: GlobalConstraint, now: float) -> None:
        params = definition.params
        self.bucket.change(parse_rate(params["rate"]), params["burst"], now)
        self.define(definition)


class Wants:
    """What the constraints ask of the tasks of one name."""

    __slots__ = ("claims", "deniers", "mortal", "pause", "rates", "rules")

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.rules = rules
        self.rates = tuple(rule for rule in rules if isinstance(rule, RateLimit))
        pauses = tuple(rule for rule in rules if rule.definition.type == "pause")
        self.pause = pauses[0] if pauses else None
        self.deniers = (*pauses, *self.rates)
        limits = (rule for rule in rules if isinstance(rule, Limit))
        self.claims: Claims = tuple((rule.slots, 1) for rule in limits)
        self.mortal = tuple(rule for rule in rules if rule.definition.ttl is not None)


_NOTHING = Wants(())
_NO_NEEDS: tuple[Needs, Weights] = ((), ())


class Family:
    """The queues with the same deniers: open when none of these denies."""

    __slots__ = (
        "admitted_at",
        "blocked_at",
        "candidates",
        "deniers",
        "key",
        "number",
        "open",
        "opens_at",
        "queues",
        "ready_at",
    )

    def __init__(self, key: FamilyKey, refills: tuple[Refill, ...], number: int) -> None:
        self.key = key
        self.deniers = key[0]
        # When the pauses and rates admit it, and when each refill does.
        self.admitted_at = inf
        self.ready_at = dict.fromkeys(refills, inf)
        self.number = number
        self.open = False
        self.opens_at = inf
        self.queues = 0
        self.candidates: list[tuple[int, Queue]] = []
        # Things at which queues of other families wait behind queues of this one.
        self.blocked_at: set[Thing] = set()


class Queue:
    """Parked requests that want the same, in order of arrival."""

    __slots__ = ("candidate", "family", "key", "seq", "things", "waiters", "wants")

    def __init__(self, key: QueueKey) -> None:
        self.key = key
        self.waiters: OrderedDict[Ticket, None] = OrderedDict()
        self.seq = 0
        self.candidate = False
        self.wants: Wants
        self.family: Family
        self.things: tuple[Thing, ...]

    @property
    def head(self) -> Ticket:
        """The first of them."""
        return next(iter(self.waiters))


class Ticket:
    """One request: parked, granted, started, done; or unlimited, when there is nothing to ask.

    `reason` names what blocked a request that was parked, else it is None. `owner` and `resume`
    are the caller's, who sets them on a parked one.
    """

    __slots__ = (
        "amounts",
        "claims",
        "name",
        "owner",
        "queue",
        "reason",
        "resume",
        "seq",
        "since",
        "state",
        "wants",
        "weights",
        "woken",
    )

    # Set when it is granted.
    claims: Claims
    wants: Wants
    # Set when it is parked, the last two by the caller.
    queue: Queue
    seq: int
    since: float
    owner: Any
    resume: Callable[[], object]

    def __init__(self, name: str, amounts: Needs, weights: Weights, state: int) -> None:
        self.name = name
        self.amounts = amounts
        self.weights = weights
        self.woken = False
        self.state = state
        self.reason: str | None = None

    @property
    def parked(self) -> bool:
        """Whether it still waits for its grant."""
        return self.state == PARKED

    @property
    def is_running(self) -> bool:
        """Whether its task has started and has not ended."""
        return self.state == STARTED

    def __repr__(self) -> str:
        state = ("parked", "granted", "started", "done", "unlimited")[self.state]
        return f"<Ticket {self.name!r} {state}>"


# The ticket of every request that nothing limits.
FREE = Ticket("", (), (), UNLIMITED)


class Admission:
    """All state of one engine's capacity and constraints; `now` is an argument.

    Each method brings the state to rest. Requests that were parked and have been granted on the
    way are appended to `granted`, in the order of the grants; the caller takes them from there.
    Those of them that a change has parked again, before their start, are appended to `revoked`.
    """

    def __init__(self, capacity: Mapping[str, object] | None = None) -> None:
        totals = checked_capacity(capacity)
        self.capacities: dict[str, Capacity | Refill] = {
            name: Refill(name, rank, total)
            if isinstance(total, Rate)
            else Capacity(name, rank, total)
            for rank, (name, total) in enumerate(totals.items())
        }
        self._refills = [each for each in self.capacities.values() if isinstance(each, Refill)]
        self.granted: list[Ticket] = []
        self.revoked: list[Ticket] = []
        # Those that were parked, were granted, and have not started.
        self._unstarted: dict[Ticket, None] = {}
        self.grants = 0
        self.parked = 0
        # Whether decisions depend on the time at all.
        self.timed = bool(self._refills)
        # Called whenever the constraints have changed, before anything is granted.
        self.listeners: dict[object, Callable[[], object]] = {}
        self._rules: dict[str, Rule] = {}
        self._mortal: tuple[Rule, ...] = ()
        self._wants: dict[str, Wants | None] = {}
        self._queues: dict[QueueKey, Queue] = {}
        self._families: dict[FamilyKey, Family] = {}
        # Closed families without a pause, by the time at which they open.
        self._openings: list[tuple[float, int, Family]] = []
        self._agenda: list[tuple[int, Family]] = []
        self._numbers = count(1)

    # Requests

    def wants(self, name: str) -> Wants | None:
        """What the constraints ask of tasks of this name; None: nothing matches it."""
        try:
            return self._wants[name]
        except KeyError:
            pass
        rules = tuple(rule for rule in self._rules.values() if rule.matches(name))
        if len(self._wants) >= _MAX_NAMES:
            self._wants.clear()
        wants = self._wants[name] = Wants(rules) if rules else None
        return wants

    def ask(self, name: str, amounts: Mapping[str, object] | None, now: float) -> Ticket:
        """A ticket that is granted, or parked, or (nothing limits it) unlimited.

        What is due by `now` must have been done, by `advance`, so that no newcomer overtakes.
        `ValueError` for amounts that are malformed or more than the capacity.
        """
        needs, weights = self._needs(name, amounts) if amounts else _NO_NEEDS
        wants = self.wants(name) or _NOTHING
        if wants is _NOTHING and not needs and not weights:
            return FREE
        ticket = Ticket(name, needs, weights, GRANTED)
        ticket.reason = self._blocker(wants, wants.claims + needs, weights, now)
        if ticket.reason is None:
            self._take(ticket, wants, now)
        else:
            self._park(ticket, now)
        if self._agenda:
            self._pump(now)
        return ticket

    def denies(self, name: str, amounts: Mapping[str, object] | None, now: float) -> bool:
        """Whether `ask` would park the request."""
        needs, weights = self._needs(name, amounts) if amounts else _NO_NEEDS
        wants = self.wants(name) or _NOTHING
        return self._blocker(wants, wants.claims + needs, weights, now) is not None

    def start_now(
        self, name: str, amounts: Mapping[str, object] | None, now: float
    ) -> Ticket | None:
        """As `ask` and `start` at once; a request that would be parked is not made."""
        needs, weights = self._needs(name, amounts) if amounts else _NO_NEEDS
        wants = self.wants(name) or _NOTHING
        if wants is _NOTHING and not needs and not weights:
            return FREE
        if self._blocker(wants, wants.claims + needs, weights, now) is not None:
            return None
        ticket = Ticket(name, needs, weights, STARTED)
        self._hold(ticket, wants)
        for rate in wants.rates:
            rate.bucket.take(now)
        for refill, weight in weights:
            refill.bucket.take(now, weight)
        self._refresh_all(ticket, now)
        if self._agenda:
            self._pump(now)
        return ticket

    def start(self, ticket: Ticket, now: float) -> bool:
        """The task of a granted ticket starts now: the tokens reserved for it are taken.

        False if it may not: a change has parked it again.
        """
        if ticket.state != GRANTED:
            return ticket.state != PARKED
        ticket.state = STARTED
        self._unstarted.pop(ticket, None)
        for rate in ticket.wants.rates:
            rate.bucket.start(now)
        for refill, weight in ticket.weights:
            refill.bucket.start(now, weight)
        self._refresh_all(ticket, now)
        if self.timed:
            self.advance(now)
        return True

    def give_back(self, ticket: Ticket, now: float) -> None:
        """The attempt has ended: what it held is free for others."""
        if ticket.state == GRANTED:
            self.start(ticket, now)
        if ticket.state == STARTED:
            self._release(ticket)
            if self.parked:
                self.advance(now)

    def withdraw(self, ticket: Ticket, now: float) -> None:
        """The request is given up before its start: its place, or its grant, goes to others."""
        if ticket.state == PARKED:
            ticket.state = DONE
            self._leave(ticket, now)
        elif ticket.state == GRANTED:
            self._unstarted.pop(ticket, None)
            self._cancel_tokens(ticket)
            self._refresh_all(ticket, now)
            self._release(ticket)
        self.advance(now)

    def charge(self, name: str, amount: object, now: float) -> None:
        """Take so much more of a refill, or give back a negative amount; `ValueError`."""
        refill = self.capacities.get(name)
        if refill is None:
            near = did_you_mean(name, [each.name for each in self._refills])
            raise ValueError(f"there is no capacity {name!r} to charge{near}")
        if not isinstance(refill, Refill):
            raise ValueError(
                f"the capacity {name!r} is given back when a task ends and cannot be charged; "
                f"write system_resources={{{name!r}: cs.Rate(...)}} for one that refills with time"
            )
        try:
            charged = exact(amount)
        except (TypeError, ValueError):
            raise ValueError(
                f"{amount!r} of {name!r} cannot be charged; an amount is a finite number"
            ) from None
        self._expire(now)
        refill.bucket.charge(charged, now)
        if any(refill is each for ticket in self._unstarted for each, _ in ticket.weights):
            self._rewire(now)
        elif refill.queues:
            self._survey(refill, now)
        self.advance(now)

    def _needs(self, name: str, amounts: Mapping[str, object]) -> tuple[Needs, Weights]:
        needs: list[tuple[Capacity, Exact]] = []
        weights: list[tuple[Refill, Exact]] = []
        for resource, value in amounts.items():
            amount = checked_amount(name, resource, value)
            capacity = self.capacities.get(resource)
            if capacity is None:
                continue
            if amount > capacity.total:
                what = "burst" if isinstance(capacity, Refill) else "capacity"
                raise ValueError(
                    f"task {name!r} asks for {value} of {resource!r}, more than its {what} of "
                    f"{_shown(capacity.total)}; ask for less or raise system_resources"
                )
            if isinstance(capacity, Refill):
                weights.append((capacity, amount))
            else:
                needs.append((capacity, amount))
        # One order for all, so that equal names make one queue.
        needs.sort(key=_rank)
        weights.sort(key=_rank)
        return tuple(needs), tuple(weights)

    def _blocker(self, wants: Wants, claims: Claims, weights: Weights, now: float) -> str | None:
        """What a newcomer has to wait for, by name."""
        if wants.pause is not None:
            return wants.pause.label
        for rate in wants.rates:
            if rate.bucket.ready_at > now:
                return rate.label
        for refill, weight in weights:
            if refill.shut or refill.bucket.ready_for(weight) > now:
                return refill.label
        for thing, need in claims:
            if thing.free < need or (thing.rows and thing.front() is not None):
                return thing.label
        return None

    def _take(self, ticket: Ticket, wants: Wants, now: float) -> None:
        ticket.state = GRANTED
        self._hold(ticket, wants)
        self._reserve_tokens(ticket)
        self._refresh_all(ticket, now)

    def _reserve_tokens(self, ticket: Ticket) -> None:
        for rate in ticket.wants.rates:
            rate.bucket.reserve()
        for refill, weight in ticket.weights:
            refill.bucket.reserve(weight)

    def _cancel_tokens(self, ticket: Ticket) -> None:
        for rate in ticket.wants.rates:
            rate.bucket.cancel()
        for refill, weight in ticket.weights:
            refill.bucket.cancel(weight)

    def _hold(self, ticket: Ticket, wants: Wants) -> None:
        """Take for the ticket what it gives back in the end."""
        ticket.wants = wants
        ticket.claims = claims = wants.claims + ticket.amounts
        self.grants += 1
        for thing, need in claims:
            thing.free -= need
        for rule in wants.rules:
            rule.running += 1

    def _release(self, ticket: Ticket) -> None:
        ticket.state = DONE
        for thing, need in ticket.claims:
            thing.free += need
            if thing.rows:
                self._touch(thing)
        for rule in ticket.wants.rules:
            rule.running -= 1

    # Queues

    def _park(self, ticket: Ticket, now: float) -> None:
        ticket.state = PARKED
        ticket.seq = next(self._numbers)
        ticket.since = now
        self.parked += 1
        key = _queue_key(ticket)
        queue = self._queues.get(key)
        if queue is not None:
            queue.waiters[ticket] = None
        else:
            queue = self._queues[key] = Queue(key)
            queue.seq = ticket.seq
            queue.waiters[ticket] = None
            self._place(queue, now)
        ticket.queue = queue

    def _place(self, queue: Queue, now: float) -> None:
        """Put a queue into its family and into the rows of its things."""
        name, capacities, refills = queue.key
        queue.wants = wants = self.wants(name) or _NOTHING
        queue.things = (*(thing for thing, _ in wants.claims), *capacities)
        key = (wants.deniers, queue.key if refills else None)
        family = self._families.get(key)
        if family is None:
            queue.family = family = Family(key, refills, next(self._numbers))
            self._families[key] = family
            for rate in wants.rates:
                rate.families[family] = None
            for refill in refills:
                insort(refill.queues, (queue.seq, queue))
            self._reopen(family, now)
        queue.family = family
        family.queues += 1
        for rule in wants.mortal:
            rule.queues += 1
        for thing in queue.things:
            insort(thing.rows.setdefault(family, []), (queue.seq, queue))
        queue.candidate = False
        self._nominate(queue)

    def _leave(self, ticket: Ticket, now: float) -> None:
        """Take a request out of its queue; a new head, or none, changes the queue's place."""
        queue = ticket.queue
        self.parked -= 1
        del queue.waiters[ticket]
        if ticket.seq != queue.seq:
            return
        family = queue.family
        if queue.candidate:
            _discard(family.candidates, queue)
            queue.candidate = False
        for thing in queue.things:
            row = thing.rows[family]
            _discard(row, queue)
            if not row:
                del thing.rows[family]
        for refill in family.ready_at:
            _discard(refill.queues, queue)
        if queue.waiters:
            queue.seq = queue.head.seq
            for thing in queue.things:
                insort(thing.rows.setdefault(family, []), (queue.seq, queue))
            for refill in family.ready_at:
                insort(refill.queues, (queue.seq, queue))
            self._nominate(queue)
        else:
            self._drop(queue)
        for refill in family.ready_at:
            self._survey(refill, now)
        for thing in queue.things:
            if thing.rows:
                self._touch(thing)

    def _drop(self, queue: Queue) -> None:
        del self._queues[queue.key]
        for rule in queue.wants.mortal:
            rule.queues -= 1
        family = queue.family
        family.queues -= 1
        if not family.queues:
            del self._families[family.key]
            self._forget_opening(family)
            for rate in queue.wants.rates:
                del rate.families[family]

    def _nominate(self, queue: Queue) -> None:
        """Make a queue a candidate: it is looked at when its family is open."""
        if queue.candidate:
            return
        queue.candidate = True
        entry = (queue.seq, queue)
        candidates = queue.family.candidates
        insort(candidates, entry)
        if candidates[0] is entry:
            self._offer(queue.family)

    def _offer(self, family: Family) -> None:
        """Have the first candidate of a family, if it is open, looked at in its turn."""
        if family.open and family.candidates:
            heappush(self._agenda, (family.candidates[0][0], family))

    def _touch(self, thing: Thing) -> None:
        """Something about a thing has changed for those first in its rows."""
        for row in thing.rows.values():
            self._nominate(row[0][1])

    def _pump(self, now: float) -> None:
        """Grant the earliest admissible request, until none is."""
        agenda = self._agenda
        while agenda:
            seq, family = heappop(agenda)
            candidates = family.candidates
            if not family.open or not candidates or candidates[0][0] != seq:
                continue
            _, queue = candidates.pop(0)
            queue.candidate = False
            self._offer(family)
            if not self._is_stuck(queue):
                self._grant(queue, now)

    def _is_stuck(self, queue: Queue) -> bool:
        """Whether a thing keeps the queue waiting. Somebody will touch that thing in time."""
        for thing, need in queue.wants.claims + queue.head.amounts:
            front = thing.front()
            if front is not queue:
                assert front is not None
                front.family.blocked_at.add(thing)
                return True
            if thing.free < need:
                return True
        return False

    def _grant(self, queue: Queue, now: float) -> None:
        ticket = queue.head
        waited = now - ticket.since
        for rule in queue.wants.rules:
            if rule.longest < waited:
                rule.longest = waited
        self._leave(ticket, now)
        self._take(ticket, queue.wants, now)
        self.granted.append(ticket)
        self._unstarted[ticket] = None

    # Grants that have not started

    def _look_again(self, now: float) -> None:
        """The constraints have changed: park again what they do not let start.

        To be called while no queue has a place.
        """
        unstarted = list(self._unstarted)
        untaken = set(self.granted)
        for ticket in unstarted:
            self._cancel_tokens(ticket)
            self._release(ticket)
            self.grants -= 1
        denied = []
        for ticket in unstarted:
            wants = self.wants(ticket.name) or _NOTHING
            if self._admits(ticket, wants, now):
                ticket.state = GRANTED
                self._hold(ticket, wants)
                self._reserve_tokens(ticket)
            else:
                denied.append(ticket)
        for ticket in reversed(denied):
            self._park_again(ticket)
        self.granted = [ticket for ticket in self.granted if ticket.state == GRANTED]
        self.revoked += [ticket for ticket in denied if ticket not in untaken]

    def _admits(self, ticket: Ticket, wants: Wants, now: float) -> bool:
        """Whether there is what a ticket had been granted, under constraints that are others."""
        return (
            wants.pause is None
            and all(rate.bucket.ready_at <= now for rate in wants.rates)
            and all(refill.bucket.ready_for(weight) <= now for refill, weight in ticket.weights)
            and all(thing.free >= need for thing, need in wants.claims + ticket.amounts)
        )

    def _park_again(self, ticket: Ticket) -> None:
        """Back to the place of its arrival, which is before all that wait in its queue."""
        del self._unstarted[ticket]
        ticket.state = PARKED
        self.parked += 1
        key = _queue_key(ticket)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = Queue(key)
            queue.wants = _NOTHING
            queue.things = ()
        queue.waiters[ticket] = None
        queue.waiters.move_to_end(ticket, last=False)
        queue.seq = ticket.seq
        ticket.queue = queue

    # Time

    def _refresh_all(self, ticket: Ticket, now: float) -> None:
        """The tokens that a ticket wants have changed."""
        for rate in ticket.wants.rates:
            for family in rate.families:
                self._reopen(family, now)
        for refill, _ in ticket.weights:
            if refill.queues:
                self._survey(refill, now)

    def _reopen(self, family: Family, now: float) -> None:
        """Find out anew when a family is open; tell whom its opening or closing concerns."""
        family.admitted_at = -inf
        for denier in family.deniers:
            ready_at = denier.bucket.ready_at if isinstance(denier, RateLimit) else inf
            family.admitted_at = max(family.admitted_at, ready_at)
        if not family.ready_at:
            self._turn(family, now)
        for refill in family.ready_at:
            self._survey(refill, now)

    def _survey(self, refill: Refill, now: float) -> None:
        """Find out anew whom a refill denies: who is short of it, and all who came later."""
        refill.shut = False
        for _, queue in refill.queues:
            family = queue.family
            ready_at = inf
            if not refill.shut:
                weight = next(need for each, need in queue.head.weights if each is refill)
                ready_at = refill.bucket.ready_for(weight)
            family.ready_at[refill] = ready_at
            if ready_at > now and family.admitted_at <= now:
                refill.shut = True
        for _, queue in refill.queues:
            self._turn(queue.family, now)

    def _turn(self, family: Family, now: float) -> None:
        """Open or close a family, and see to it that it is looked at again in time."""
        opens_at = family.admitted_at
        if opens_at <= now:  # from when on each refill that denies it denies others too
            opens_at = min((at for at in family.ready_at.values() if at > now), default=opens_at)
        was_open = family.open
        self._forget_opening(family)
        family.opens_at = opens_at
        family.open = opens_at <= now
        if family.open:
            if not was_open:
                self._offer(family)
            return
        if not family.deniers or family.deniers[0].definition.type != "pause":
            insort(self._openings, (opens_at, family.number, family))
        if was_open:
            for thing in family.blocked_at:
                self._touch(thing)
            family.blocked_at.clear()

    def _forget_opening(self, family: Family) -> None:
        entry = (family.opens_at, family.number, family)
        index = bisect_left(self._openings, entry)
        if index < len(self._openings) and self._openings[index] == entry:
            del self._openings[index]

    def advance(self, now: float) -> None:
        """Do what is due, then grant what can be granted."""
        self._expire(now)
        while self._openings and self._openings[0][0] <= now:
            self._reopen(self._openings[0][2], now)
        if self._agenda:
            self._pump(now)

    def _expire(self, now: float) -> None:
        if self._mortal and self._mortal[0].expires_at <= now:
            for rule in self._mortal:
                if rule.expires_at <= now:
                    del self._rules[rule.definition.id]
            self._rewire(now)

    def _sort_mortal(self) -> None:
        mortal = (rule for rule in self._rules.values() if rule.definition.ttl is not None)
        self._mortal = tuple(sorted(mortal, key=lambda rule: rule.expires_at))

    def deadline(self) -> float | None:
        """When time will next matter to somebody parked; None: it does not.

        inf: it will, once a task that was granted a token has started.
        """
        deadline = self._openings[0][0] if self._openings else None
        for rule in self._mortal:
            if rule.queues:
                return rule.expires_at if deadline is None else min(deadline, rule.expires_at)
        return deadline

    def begin(self, now: float) -> None:
        """A run starts: a ttl given outside an event loop counts from here."""
        for rule in self._mortal:
            if rule.left is not None:
                rule.expires_at = now + rule.left
                rule.left = None
        self._sort_mortal()

    def change_clock(self, old: float, new: float) -> None:
        """Another event loop's clock shows `new` where the last one showed `old`."""
        for rule in self._rules.values():
            if rule.left is None:
                rule.expires_at += new - old
            if isinstance(rule, RateLimit):
                rule.bucket.refill()
        for refill in self._refills:
            refill.bucket.refill()

    # Changes

    def set(self, definition: GlobalConstraint, now: float | None, before: float = 0.0) -> None:
        """Put a checked constraint in force. `now` is None outside an event loop.

        `before` is the last known time, for what a replaced rate has already given out.
        """
        moment = before if now is None else now
        self._expire(moment)
        self._put(definition, moment)
        rule = self._rules[definition.id]
        if definition.ttl is not None:
            if now is None:
                rule.left = float(definition.ttl)
            else:
                rule.expires_at = now + float(definition.ttl)
        self._rewire(moment)
        self.advance(moment)

    def _put(self, definition: GlobalConstraint, now: float) -> None:
        rule = self._rules.get(definition.id)
        if rule is None or rule.definition.type != definition.type:
            kinds = {"concurrency": Limit, "rate_limit": RateLimit}
            self._rules[definition.id] = kinds.get(definition.type, Rule)(definition)
        elif isinstance(rule, Limit):
            rule.replace(definition)
        elif isinstance(rule, RateLimit):
            rule.replace(definition, now)
        else:
            rule.define(definition)

    def remove(self, id: str, now: float) -> bool:
        """Take the constraint of this id out of force; tells whether there was one."""
        self._expire(now)
        if self._rules.pop(id, None) is None:
            return False
        self._rewire(now)
        self.advance(now)
        return True

    def remove_pause(self, scope: str, now: float) -> bool:
        """Take all pauses of exactly this scope out of force; tells whether there was one."""
        self._expire(now)
        definitions = [rule.definition for rule in self._rules.values()]
        ids = [each.id for each in definitions if (each.type, each.scope) == ("pause", scope)]
        if not ids:
            return False
        for id in ids:
            del self._rules[id]
        self._rewire(now)
        self.advance(now)
        return True

    def _rewire(self, now: float) -> None:
        """The constraints have changed: find out anew what every queue wants."""
        rules = self._rules.values()
        self._sort_mortal()
        self.timed = (
            bool(self._mortal)
            or bool(self._refills)
            or any(isinstance(rule, RateLimit) for rule in rules)
        )
        self._wants.clear()
        for listener in list(self.listeners.values()):
            listener()
        for queue in self._queues.values():
            for thing in queue.things:
                thing.rows.clear()
            for rate in queue.wants.rates:
                rate.families.clear()
        for refill in self._refills:
            refill.queues.clear()
            refill.shut = False
        for rule in rules:
            rule.queues = 0
        self._families.clear()
        self._openings.clear()
        self._agenda.clear()
        if self._unstarted:
            self._look_again(now)
        for queue in self._queues.values():
            self._place(queue, now)

    # Reports

    def active(self) -> tuple[GlobalConstraint, ...]:
        """The constraints in force, each with params of its own."""
        definitions = (rule.definition for rule in self._rules.values())
        return tuple(replace(each, params=dict(each.params)) for each in definitions)

    def constraint_statistics(self, now: float) -> dict[str, ConstraintStatistics]:
        """By the id of each constraint."""
        waiting = dict.fromkeys(self._rules.values(), 0)
        longest = {rule: rule.longest for rule in waiting}
        for queue in self._queues.values():
            waited = now - queue.head.since
            for rule in queue.wants.rules:
                waiting[rule] += len(queue.waiters)
                longest[rule] = max(longest[rule], waited)
        return {
            rule.definition.id: ConstraintStatistics(rule.running, waiting[rule], longest[rule])
            for rule in waiting
        }

    def free(self, now: float) -> dict[str, Exact]:
        """What is left of each capacity, by name."""
        return {name: each.free_at(now) for name, each in self.capacities.items()}

    def waiting(self) -> list[Ticket]:
        """The parked requests."""
        return [ticket for queue in self._queues.values() for ticket in queue.waiters]


def _queue_key(ticket: Ticket) -> QueueKey:
    capacities = tuple([capacity for capacity, _ in ticket.amounts])
    return ticket.name, capacities, tuple([refill for refill, _ in ticket.weights])


def _rank(need: tuple[Capacity | Refill, Exact]) -> int:
    return need[0].rank


def _shown(value: Exact) -> str:
    return str(value if isinstance(value, int) else float(value))


def _discard(row: list[tuple[int, Queue]], queue: Queue) -> None:
    """Take a queue out of an ordered row, in which its sequence number tells its place."""
    del row[bisect_left(row, (queue.seq, queue))]
