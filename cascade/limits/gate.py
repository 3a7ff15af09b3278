"""The gate: the only place that waits for capacity and constraints.

Theory of operation
-------------------
`Admission` decides, without IO; the gate gives it the time, calls whom it granted, and keeps one
timer. Asking is a plain call: a ticket comes back granted, or parked together with a `resume` that
will be called, once, by whoever frees what it waits for: a task that gives back, a limit that is
raised, a pause that ends, the timer. That caller has already handed the grant over when it calls
`resume`, so nobody who is woken has to look again, and nobody is woken in vain. State is at rest
and the timer is set before the first `resume` is called; a `resume` may therefore use the gate,
withdraw a grant whose `resume` is still to come (which is then not called), and must not raise.

    ticket = gate.ask(session, name, amounts, resume)
    (parked: publish ticket.reason, wait for resume)
    gate.start(ticket)          the moment the task starts: here its tokens are taken
    (False: the constraints changed after the grant, and it is parked again: wait for resume)
    gate.let_go(session, ticket)    after the attempt, or when there will be none

Tokens are taken at the start, not at the grant, so that a rate holds for the starts themselves,
however late the loop gets to run a task that it has woken.

The timer sleeps until the earliest deadline that matters to somebody parked (a token, a ttl), and
there is none while there is no such deadline. A task needs a task group to live in: each run enters
with `spawn`, which starts a task in its group, and the timer lives in a run that has something
parked itself, since such a run cannot end under it. When that run has nothing parked any more, the
timer leaves it, so that its group can close, and goes on in another run that has; likewise when
that run is cancelled. Deadlines move by setting the deadline of the sleeper's cancel scope.

An engine outlives event loops, so nothing here refers to one: a loop is told from the next by a
token of our own that is kept in a `RunVar` of the loop. What is left of a ttl is carried over to
the next loop's clock; buckets start full there.

Prior art: the hand-over of anyio's CapacityLimiter, trio's ParkingLot.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from math import inf
from threading import get_ident
from types import MappingProxyType
from typing import Any

import anyio
from anyio.lowlevel import RunVar, current_token

from cascade.limits.admission import FREE, GRANTED, Admission, Ticket
from cascade.limits.constraints import ConstraintManager, GlobalConstraint, Statistics
from cascade.limits.nesting import AROUND, Around, deadlock

Spawn = Callable[[Callable[[], Coroutine[Any, Any, None]]], object]

_loop_mark: RunVar[object] = RunVar("cascade_gate_loop")


class Session:
    """One run's presence at the gate: its `spawn`, and what it has asked for and not given back."""

    __slots__ = ("around", "ended", "parked", "spawn", "tickets")

    def __init__(self, spawn: Spawn, around: Around) -> None:
        self.spawn = spawn
        self.around = around  # what tasks hold inside which the run was started
        self.tickets: dict[Ticket, None] = {}
        self.parked = 0  # so many of them
        # Its task group is cancelled or closed: no timer can live there.
        self.ended = False


class _Sleeper:
    """The one timer: where it lives, and, while it sleeps, its scope and deadline."""

    __slots__ = ("deadline", "scope", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.deadline: float | None = None
        self.scope: anyio.CancelScope | None = None


class Gate:
    """Admits the tasks of all runs of one engine under its capacity and its constraints."""

    def __init__(self, capacity: Mapping[str, object] | None = None) -> None:
        self.constraints = ConstraintManager(self)
        self._state = Admission(capacity)
        self._wakeups = 0
        self._timers = 0
        self._sessions: set[Session] = set()
        # Those with parked requests; the timer lives in one of them.
        self._waiting: OrderedDict[Session, None] = OrderedDict()
        self._sleeper: _Sleeper | None = None
        self._mark: object = None
        self._clock: Callable[[], float] = anyio.current_time
        self._seen = 0.0
        self._thread = 0

    # Runs

    def enter_run(self, spawn: Spawn) -> Session:
        """A run begins on this event loop; `spawn(async_fn)` starts a task in its group.

        `RuntimeError` while runs of another event loop are in progress.
        """
        if self._sessions and _mark_of_this_loop() is not self._mark:
            raise RuntimeError(
                "this engine has a run in progress in another event loop; "
                "wait for it to end, or make one engine for each event loop"
            )
        self._adopt_loop()
        self._thread = get_ident()
        self._state.begin(self._seen)
        around = tuple([ticket for ticket in AROUND.get() if ticket.is_running])
        session = Session(spawn, around)
        self._sessions.add(session)
        return session

    def leave_run(self, session: Session) -> None:
        """The run is over, and so are all its tickets. To be called on its loop."""
        if session not in self._sessions:
            return
        now = self._seen = self._clock()
        self._sessions.discard(session)
        self._end(session)
        for ticket in session.tickets:
            # The one before it may have passed its place on to it.
            if ticket.parked:
                session.parked -= 1
            if ticket.is_running:
                self._state.give_back(ticket, now)
            else:
                self._state.withdraw(ticket, now)
                ticket.resume = _nothing  # as in `let_go`
        session.tickets.clear()
        self._evict_timer(session)
        self._settle()

    # Requests

    def limits(self, name: str) -> bool:
        """Whether a request of this task name without amounts needs to ask at all.

        The answer holds until the next call of the listeners of `on_change`.
        """
        return self._state.wants(name) is not None

    def on_change(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Have `listener()` called whenever the constraints change; returns what ends that.

        It is called at once, before the change has freed or stopped anybody, and must not use the
        gate: it is there to empty the cells in which answers of `limits` are kept.
        """
        key = object()
        listeners = self._state.listeners
        listeners[key] = listener

        def forget() -> None:
            listeners.pop(key, None)

        return forget

    def ask(
        self,
        session: Session,
        name: str,
        amounts: Mapping[str, object] | None,
        resume: Callable[[], object],
    ) -> Ticket:
        """A ticket, granted at once or parked until `resume()` is called.

        It is called once, and once more after each `start` that says False.

        A parked one names in `ticket.reason` what blocked it. `ValueError` for amounts that are
        malformed or more than the capacity, `DeadlockError` for what only the tasks around the run
        hold; nothing is taken then.
        """
        state = self._state
        if not amounts and state.wants(name) is None:
            return FREE
        now = 0.0
        if state.timed:
            # Those who are due come first, and whatever they do when resumed, before this request.
            now = self._clock()
            state.advance(now)
            if state.granted:
                self._settle()
        ticket = state.ask(name, amounts, now)
        if ticket.reason is not None:
            ticket.since = self._clock()
            ticket.owner = session
            ticket.resume = resume
            session.parked += 1
            if not session.ended:
                self._waiting[session] = None
            self._settle()
            if session.around and ticket.parked:
                self._refuse_deadlock(ticket)
        elif state.parked or state.granted:
            self._settle()
        if ticket is not FREE:
            session.tickets[ticket] = None
        return ticket

    def _refuse_deadlock(self, ticket: Ticket) -> None:
        arounds = [session.around for session in self._sessions if session.parked]
        error = deadlock(self._state, ticket, arounds)
        if error is not None:
            self.withdraw(ticket)
            raise error

    def denies(self, name: str, amounts: Mapping[str, object] | None) -> bool:
        """Whether `ask` would park the request, as things are. `ValueError` as for `ask`."""
        state = self._state
        now = 0.0
        if state.timed:
            now = self._clock()
            state.advance(now)
            if state.granted:
                self._settle()
        return state.denies(name, amounts, now)

    def start_now(
        self, session: Session, name: str, amounts: Mapping[str, object] | None
    ) -> Ticket | None:
        """A ticket that has started, if the request is admitted at once, else None.

        Nothing is parked. `ValueError` as for `ask`.
        """
        state = self._state
        now = 0.0
        if state.timed:
            now = self._clock()
            state.advance(now)
            if state.granted:
                self._settle()
        ticket = state.start_now(name, amounts, now)
        if ticket is not None and ticket is not FREE:
            session.tickets[ticket] = None
        if state.parked or state.granted:
            self._settle()
        return ticket

    def start(self, ticket: Ticket) -> bool:
        """The task of a granted ticket starts now; without this its tokens stay reserved.

        False if it may not any more: it is parked again, and will be resumed again. To be called as
        soon as the task goes on after its grant. What takes long before the call itself, such as
        setting up resources, comes after it, lest others wait for it in vain.
        """
        state = self._state
        if ticket.state == GRANTED:
            state.start(ticket, self._now())
            if state.parked or state.granted:
                self._settle()
        if not ticket.parked:
            return True
        ticket.woken = False
        return False

    def let_go(self, session: Session, ticket: Ticket) -> None:
        """The attempt is over, or will not start; to say so once more does nothing."""
        if ticket not in session.tickets:
            return
        del session.tickets[ticket]
        if ticket.is_running:
            self.give_back(ticket)
        else:
            self.withdraw(ticket)
            ticket.resume = _nothing  # which refers to the call, and that to the ticket

    def give_back(self, ticket: Ticket) -> None:
        """The attempt is over, however it ended; what it held goes to those it admits."""
        state = self._state
        if ticket is not FREE:
            # Nobody waits: what is due by now is done when somebody asks.
            now = self._clock() if state.parked or ticket.state == GRANTED else 0.0
            state.give_back(ticket, now)
            if state.parked or state.granted:
                self._settle()

    def withdraw(self, ticket: Ticket) -> None:
        """The request is given up, parked or granted but not started; its grant goes on."""
        if ticket is FREE:
            return
        if ticket.parked:
            self._unpark(ticket)
        self._state.withdraw(ticket, self._now())
        self._settle()

    def _now(self) -> float:
        """The time, if anything depends on it."""
        return self._clock() if self._state.timed or self._state.parked else 0.0

    def _unpark(self, ticket: Ticket) -> None:
        session: Session = ticket.owner
        session.parked -= 1
        if not session.parked:
            self._waiting.pop(session, None)

    def _settle(self) -> None:
        """Set the timer, then resume those whom the last change of state has granted."""
        if self._state.revoked:
            self._take_back()
        granted = self._state.granted
        if granted:
            self._state.granted = []
            for ticket in granted:
                self._unpark(ticket)
        self._set_timer()
        for ticket in granted:
            # One that was resumed before it may have withdrawn it.
            if ticket.state == GRANTED:
                self._wakeups += 1
                if not ticket.woken:  # else it is on its way since an earlier grant
                    ticket.woken = True
                    ticket.resume()

    def _take_back(self) -> None:
        """Who was resumed and may not start any more waits again: its wakeup does not count."""
        revoked, self._state.revoked = self._state.revoked, []
        for ticket in revoked:
            session: Session = ticket.owner
            session.parked += 1
            if not session.ended:
                self._waiting[session] = None
            if ticket.woken:
                self._wakeups -= 1

    # The timer

    def _set_timer(self) -> None:
        deadline = self._state.deadline() if self._waiting else None
        sleeper = self._sleeper
        if sleeper is None:
            if deadline is not None and deadline != inf:
                session = next(iter(self._waiting))
                sleeper = self._sleeper = _Sleeper(session)
                session.spawn(lambda: self._sleep(sleeper))
        elif sleeper.scope is not None:
            if deadline is None or not sleeper.session.parked:
                sleeper.scope.cancel()
            elif deadline != sleeper.deadline:
                self._note_deadline(sleeper, deadline)
                sleeper.scope.deadline = deadline

    def _note_deadline(self, sleeper: _Sleeper, deadline: float) -> None:
        if deadline != sleeper.deadline and deadline != inf:
            self._timers += 1
        sleeper.deadline = deadline

    async def _sleep(self, sleeper: _Sleeper) -> None:
        try:
            while sleeper is self._sleeper and sleeper.session.parked:
                deadline = self._state.deadline()
                if deadline is None:
                    break
                self._note_deadline(sleeper, deadline)
                with anyio.CancelScope(deadline=deadline) as sleeper.scope:
                    await anyio.sleep_forever()
                sleeper.scope = None
                self._state.advance(self._clock())
                self._settle()
        except anyio.get_cancelled_exc_class():
            self._end(sleeper.session)
            raise
        finally:
            if sleeper is self._sleeper:
                self._sleeper = None
                self._set_timer()

    def end_run(self, session: Session) -> None:
        """The run starts nothing any more: what it waits for makes room for other runs now.

        No timer may live in it from now on.
        """
        if session in self._sessions and not session.ended:
            self._end(session)
            self._evict_timer(session)
            self._settle()
        for ticket in [ticket for ticket in session.tickets if not ticket.is_running]:
            self.let_go(session, ticket)

    def _evict_timer(self, session: Session) -> None:
        if self._sleeper is not None and self._sleeper.session is session:
            # It may never have come to run, and so cannot be relied on to hand over.
            if self._sleeper.scope is not None:
                self._sleeper.scope.cancel()
            self._sleeper = None

    def _end(self, session: Session) -> None:
        session.ended = True
        self._waiting.pop(session, None)

    # Changes and reports, for the constraint manager

    def set_constraint(self, constraint: GlobalConstraint) -> None:
        now = self._time_or_none()
        self._state.set(constraint, now, before=self._seen)
        self._settle()

    def remove_constraint(self, id: str) -> bool:
        removed = self._state.remove(id, self._last_time())
        self._settle()
        return removed

    def remove_pause(self, scope: str) -> bool:
        removed = self._state.remove_pause(scope, self._last_time())
        self._settle()
        return removed

    def charge(self, name: str, amount: object) -> None:
        self._state.charge(name, amount, self._last_time())
        self._settle()

    def active_constraints(self) -> tuple[GlobalConstraint, ...]:
        self._state.advance(self._last_time())
        self._settle()
        return self._state.active()

    def statistics(self) -> Statistics:
        now = self._last_time()
        self._state.advance(now)
        self._settle()
        state = self._state
        return Statistics(
            parked=state.parked,
            grants=state.grants,
            wakeups=self._wakeups,
            timers=self._timers,
            constraints=MappingProxyType(state.constraint_statistics(now)),
            free=MappingProxyType(state.free(now)),
        )

    def _last_time(self) -> float:
        now = self._time_or_none()
        return self._seen if now is None else now

    def _time_or_none(self) -> float | None:
        """The time on this event loop, None outside one."""
        if self._sessions:
            if get_ident() != self._thread:
                raise RuntimeError(
                    "the constraints of an engine with runs in progress were used from another "
                    "thread; write anyio.from_thread.run_sync(engine.constraints.pause, scope)"
                )
        else:
            try:
                self._adopt_loop()
            except anyio.NoEventLoopError:
                return None
        self._seen = self._clock()
        return self._seen

    # Event loops

    def _adopt_loop(self) -> None:
        """Count time by the clock of this event loop. `NoEventLoopError` outside one."""
        mark = _mark_of_this_loop()
        self._clock = current_token().backend_class.current_time
        now = self._clock()
        if mark is not self._mark:
            self._state.change_clock(self._seen, now)
            self._mark = mark
        self._seen = now


def _mark_of_this_loop() -> object:
    mark = _loop_mark.get(None)
    if mark is None:
        mark = object()
        _loop_mark.set(mark)
    return mark


def _nothing() -> None:
    """What is resumed when nobody waits any more."""
