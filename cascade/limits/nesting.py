"""Runs inside tasks: which tasks are around a run, and when it waits for what only they hold.

A task that holds something at the gate says so in the context (`AROUND`), from which it reaches
whatever the task starts: a run of the same engine, through threads and task groups too. Such a run
cannot end before what it waits for is free, and the tasks around it cannot end before it does.

A waiting request is **hopeless** if it needs more of a thing than there is beside what is held by
tasks around hopeless requests, or if it waits behind a hopeless one for the same thing. That is
the greatest set for which this holds: begin with all waiting requests of nested runs and take out
those that may still be admitted, until no more go. Nobody in it can be the first to start, so it is
certain, as long as the tasks around await the runs and nobody changes the limits. A limit with a
ttl ends by itself, so it makes nothing hopeless.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

from cascade.amounts import Exact
from cascade.errors import DeadlockError

if TYPE_CHECKING:
    from cascade.limits.admission import Admission, Thing, Ticket

Around = tuple["Ticket", ...]

AROUND: ContextVar[Around] = ContextVar("cascade_around", default=())


def deadlock(state: Admission, ticket: Ticket, sessions: Iterable[Around]) -> DeadlockError | None:
    """Why a request that has just been parked can never start; None if it may.

    `sessions` has, for each run with parked requests, what is around it.
    """
    held = held_by(around for around in sessions if around)
    if not any(_is_short(each, held) for each in _ahead(ticket)):
        return None
    hopeless = _hopeless(state)
    if ticket not in hopeless:
        return None
    held = held_by(each.owner.around for each in hopeless)
    short = next(each for each in _ahead(ticket) if _is_short(each, held))
    thing = next(thing for thing, need in _claims(short) if _lacks(thing, need, held))
    # Outermost first, as the context has them; those around other runs come after.
    holders = dict.fromkeys(
        holder
        for around in (ticket.owner.around, *(each.owner.around for each in hopeless))
        for holder in around
        if holder.is_running and any(each is thing for each, _ in holder.claims)
    )
    return DeadlockError(ticket.name, thing.label, [holder.name for holder in holders])


def held_by(arounds: Iterable[Around]) -> dict[Thing, Exact]:
    """What running tasks hold of each thing, each of them counted once."""
    held: dict[Thing, Exact] = {}
    for ticket in {ticket: None for around in arounds for ticket in around}:
        if ticket.is_running:
            for thing, need in ticket.claims:
                held[thing] = held.get(thing, 0) + need
    return held


def _hopeless(state: Admission) -> set[Ticket]:
    waiting = sorted(state.waiting(), key=lambda ticket: ticket.seq)
    hopeless = {ticket for ticket in waiting if ticket.owner.around}
    while hopeless:
        held = held_by(ticket.owner.around for ticket in hopeless)
        blocked: set[Thing] = set()
        still = set()
        for ticket in waiting:
            things = [thing for thing, _ in _claims(ticket)]
            if _is_short(ticket, held) or not blocked.isdisjoint(things):
                still.add(ticket)
                if ticket.queue.family.open:
                    blocked.update(things)
        if hopeless <= still:
            break
        hopeless &= still
    return hopeless


def _ahead(ticket: Ticket) -> Iterator[Ticket]:
    """The request, and those that are first in the queue for what it wants."""
    yield ticket
    yield ticket.queue.head
    for thing, _ in _claims(ticket):
        front = thing.front()
        if front is not None:
            yield front.head


def _claims(ticket: Ticket) -> tuple[tuple[Thing, Exact], ...]:
    return ticket.queue.wants.claims + ticket.amounts


def _is_short(ticket: Ticket, held: dict[Thing, Exact]) -> bool:
    return any(_lacks(thing, need, held) for thing, need in _claims(ticket))


def _lacks(thing: Thing, need: Exact, held: dict[Thing, Exact]) -> bool:
    return thing in held and not thing.ends and need > thing.total - held[thing]
