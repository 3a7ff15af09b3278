"""One execution of a task with all its policies, in the order of the contract: the cache, then for
each attempt the gate, its resources, the call under its timeout, its capacity back; then the cache.

Both strategies make `Call`s and hand them to the processor of the run. Two paths carry out the
same steps: an inline sync call without detours is done by the run's driver on the spot
(`run_inline`), everything else in a task of its own (`process`). A call that has to leave the
first path (it was denied, it retries after a delay, it gave an awaitable) goes on from there.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError, get_running_loop
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol

from anyio import CancelScope, Event, current_time, get_cancelled_exc_class
from anyio.lowlevel import checkpoint, current_token

from cascade.core.calls import NOWHERE, Call, Failed, Flight, is_control, is_gone
from cascade.core.cancellation import has_ended, is_being_cancelled, requests
from cascade.errors import DeadlockError, TaskTimeoutError
from cascade.events import (
    TaskBlocked,
    TaskEvent,
    TaskExecutionFinished,
    TaskExecutionStarted,
    TaskRecovered,
    TaskRetrying,
    TaskSkipped,
    TaskStalled,
)
from cascade.executors.executor import call as call_locally
from cascade.executors.executor import called, is_awaitable
from cascade.limits.admission import FREE
from cascade.limits.nesting import AROUND
from cascade.workflow.cache import Hit
from cascade.workflow.cache_key import cache_key

if TYPE_CHECKING:
    from cascade.core.activity import Activity
    from cascade.core.holdings import Resources
    from cascade.core.outlet import Outlet
    from cascade.core.services import Services
    from cascade.graph.structure import Slot
    from cascade.limits.admission import Ticket
    from cascade.limits.gate import Session

logger = logging.getLogger("cascade")

STALL: Final = 0.1  # seconds that an inline task may hold the loop before it is reported
AGAIN: Final = object()  # instead of a value: the call waits, without a task, and is made ready
_FOLDER: Final = str(Path(__file__).parent.parent)
_ABANDONED: Final = object()  # the outcome of a call whose task was cancelled before its turn


class Runner(Protocol):
    """What a processor asks of the run whose calls it executes."""

    @property
    def id(self) -> str: ...
    @property
    def services(self) -> Services: ...
    @property
    def activity(self) -> Activity | None: ...
    @property
    def resources(self) -> Resources: ...
    @property
    def session(self) -> Session: ...
    @property
    def is_over(self) -> bool: ...
    def make_ready(self, call: Call) -> None: ...
    def make_ready_after(self, seconds: float, call: Call) -> None: ...
    def spawn_call(
        self, call: Call, function: Callable[..., Coroutine[Any, Any, None]], *args: Any
    ) -> None: ...
    def call_failed(self, call: Call, error: BaseException) -> None: ...
    def is_cancelled_by(self, error: BaseException) -> bool: ...
    async def leave_requests_behind(self, error: BaseException | None = None) -> None: ...


class Processor:
    """Executes the calls of one run."""

    def __init__(self, run: Runner) -> None:
        self._run = run
        self._bus = run.services.bus
        self._activity = run.activity
        self._gate = run.services.gate
        self._executor = run.services.executor
        self._has_requests = get_cancelled_exc_class() is CancelledError  # that of asyncio
        self._flights: dict[tuple[int, bytes], Flight] = {}
        self._asking: set[Call] = set()  # in tasks that have not begun
        # anyio.current_time() of this loop, by the shortest way
        self.clock: Callable[[], float] = (
            get_running_loop().time
            if self._has_requests
            else current_token().backend_class.current_time
        )

    def is_direct(self, call: Call) -> bool:
        """Whether the driver may carry it out on the spot: an inline sync call, no detours."""
        task = call.slot.task
        return (
            not task.is_async
            and task.mode == "inline"
            and call.slot.cache is None
            and not call.resources
            and self._executor is None
        )

    def is_plain(self, call: Call) -> bool:
        """Whether it is one attempt that waits for nobody in this run: no gate, no other calls."""
        slot = call.slot
        return (
            slot.cache is None
            and slot.inner is None
            and slot.retry is None
            and not slot.recovers
            and slot.task.mode == "inline"  # asyncio's own cancellation would not wait for others
            and not call.resources
            and not self._is_gated(call)
        )

    # The direct path

    def run_inline(self, call: Call) -> None:
        """Carry out a call whose turn it is in plan order."""
        if call.turn is not None:
            self._take_turn(call, call.turn)
            return
        try:
            if call.ticket is None and not self._admit(call):
                return
        except (ValueError, DeadlockError) as error:
            self._run.call_failed(call, error)
            return
        if call.ticket is not None and not self._start(call):
            return
        try:
            value = self.call_inline(call)
        except BaseException as error:
            self.attempt_failed(call, error)
        else:
            self.came_back(call, value)

    def came_back(self, call: Call, value: Any) -> None:
        """The function of an attempt has returned `value`."""
        if is_awaitable(value) and not call.slot.task.is_async:
            self._run.spawn_call(call, self._await_value, call, value)
            return
        self.finished(call, "Succeeded", None)
        self.give_back(call)
        call.place.completed(call, value)

    def call_inline(self, call: Call) -> Any:
        """The plain call itself, announced, and reported if it holds the loop for too long."""
        if not self._bus.hears_tasks and self._activity is None:
            call.started = self.clock()
            return called(call.slot.task, call.args, call.kwargs)
        self.started(call)
        watched = self._bus.listens(TaskStalled)
        before = perf_counter() if watched else 0.0
        try:
            return called(call.slot.task, call.args, call.kwargs)
        finally:
            if watched and perf_counter() - before > STALL:
                self._publish(TaskStalled, call, perf_counter() - before)

    def attempt_failed(self, call: Call, error: BaseException) -> None:
        """The function of an attempt has raised `error`: another attempt follows, or none."""
        self.finished(call, "Failed", error)
        self.give_back(call)
        try:
            pause = self._pause_before_retry(call, error)
            failed = self._answer(call, error) if pause is None else None
        except BaseException as failure:  # of a function that the user gave
            self._run.call_failed(call, failure)
            return
        if failed is not None:
            call.place.completed(call, failed)
        elif pause is None:
            self._run.call_failed(call, error)
        elif pause == 0:
            self._run.make_ready(call)
        else:
            self._run.make_ready_after(pause, call)

    async def _await_value(self, call: Call, awaitable: Any) -> None:
        """The sync function gave an awaitable: its value counts, as the same attempt."""
        self.surround(call)
        try:
            value = await awaitable
            if self._has_requests and requests():
                await self._run.leave_requests_behind()
        except BaseException as error:
            self.failed(call, error)
            self.give_back(call)
            pause = self._pause_before_retry(call, error)
            failed = self._answer(call, error) if pause is None else None
            if failed is not None:
                call.place.completed(call, failed)
            elif pause is None:
                raise
            else:
                self._run.make_ready_after(pause, call)
            return
        self.finished(call, "Succeeded", None)
        self.give_back(call)
        call.place.completed(call, value)

    # The path with detours

    def parks(self, call: Call) -> bool:
        """Whether the gate denies a call that has no task yet: it waits without one.

        A call that it would admit asks once its task begins, since those before it may change
        that. Until it has asked, those after it may not: they get tasks too, and ask in order.
        """
        has_asked = call.ticket is not None or self._asks_later(call)
        if has_asked or not self._is_gated(call):
            return False
        try:
            is_denied = not self._asking and self._gate.denies(call.slot.gate_name, call.amounts)
        except ValueError:
            is_denied = False  # it fails when it asks
        if is_denied:
            return not self.is_admitted(call)
        self._asking.add(call)
        return False

    def asks_now(self, call: Call) -> bool:
        """Whether a call goes on, now that its task begins."""
        return call not in self._asking or self.is_admitted(call)

    def _asks_later(self, call: Call) -> bool:
        """Whether the cache, or the call's turn, comes first."""
        if call.slot.cache is not None and (call.flight is None or call.flight.has_landed):
            return True
        return self._asks_in_turn(call)

    def is_admitted(self, call: Call) -> bool:
        """Whether the gate admits the call, if it is to ask now; else it waits without a task."""
        self._asking.discard(call)
        if is_gone(call.place):
            return False
        if call.ticket is not None or self._asks_later(call):
            return True
        try:
            return self._admit(call)
        except (ValueError, DeadlockError) as error:
            self._run.call_failed(call, error)
            return False

    async def process(self, call: Call) -> Any:
        """The value, or control, that the call comes to, or AGAIN if it goes on in another task."""
        if call.slot.cache is not None:
            return await self._process_cached(call)
        if call.slot.retry is None and not call.slot.recovers:
            return await self._attempt(call)
        return await self._process_attempts(call)

    async def _process_attempts(self, call: Call) -> Any:
        while True:
            try:
                return await self._attempt(call)
            except BaseException as error:
                pause = self._pause_before_retry(call, error)
                if pause is None:
                    failed = self._answer(call, error)
                    if failed is None:
                        raise
                    try:
                        return failed
                    finally:
                        del failed  # which the traceback of its error would refer to
            if pause > 0 or self._is_gated(call):
                self._run.make_ready_after(pause, call)
                return AGAIN
            await checkpoint()

    async def _attempt(self, call: Call) -> Any:
        if self._is_over(call) or not self.is_admitted(call):
            return AGAIN
        in_turn = self._asks_in_turn(call)  # then it starts in its turn, too
        if call.ticket is not None and not in_turn and not self._start(call):
            return AGAIN  # the constraints have changed between the grant and the start
        value: Any = None
        try:
            self.surround(call)
            if not call.resources:
                value = await self._announced(call, call.args, call.kwargs)
                return value
            async with AsyncExitStack() as stack:
                args, kwargs = await self._run.resources.for_attempt(call, stack)
                return await self._announced(call, args, kwargs)
        finally:
            if value is not AGAIN:
                self.give_back(call)

    def _asks_in_turn(self, call: Call) -> bool:
        """Whether it is an inline sync call that passes the gate when its turn comes, and no
        sooner: what others do before may keep it from starting."""
        task = call.slot.task
        inline = not task.is_async and task.mode == "inline" and self._executor is None
        return inline and not call.resources

    async def _announced(self, call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """One call under its timeout, between its Started and its Finished."""
        direct = self._executor is None and call.slot.task.mode == "inline"
        if direct and not call.slot.task.is_async:
            return await self._in_turn(call, args, kwargs)
        self.started(call)
        try:
            value = await self._bounded(call, args, kwargs)
            if self._has_requests and requests():
                await self._run.leave_requests_behind()
        except BaseException as error:
            self.failed(call, error)
            if self._has_requests and requests():
                await self._run.leave_requests_behind(error)
            raise
        self.finished(call, "Succeeded", None)
        return value

    async def _bounded(self, call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        seconds = call.slot.timeout
        if seconds is None:
            if call.slot.task.is_async and self._executor is None and call.slot.inner is None:
                return await call.slot.task.func(*args, **kwargs)
            return await self._invoke(call, args, kwargs)
        deadline = current_time() + seconds
        scope = CancelScope(deadline=deadline)
        try:
            with scope:
                value = await self._invoke(call, args, kwargs)
                if not _came_back_late(call, deadline):
                    return value
        except get_cancelled_exc_class():
            if not has_ended(scope):
                raise
        except Exception as error:
            if not _came_back_late(call, deadline):
                raise
            raise TaskTimeoutError(call.slot.name, seconds) from error
        raise TaskTimeoutError(call.slot.name, seconds)

    async def _invoke(self, call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if call.slot.inner is not None:
            return await call.place.attempt(call)
        if self._executor is None:
            return await call_locally(call.slot.task, args, kwargs)
        return await self._executor.execute(call.place.node(call.index), args, kwargs)

    async def _in_turn(self, call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """An inline sync call on this path still waits for its turn in plan order."""
        unresolved = call.args, call.kwargs
        call.args, call.kwargs = args, kwargs
        turn = call.turn = Event()
        self._run.make_ready(call)
        try:
            await turn.wait()
        except BaseException:
            self._abandon_turn(call)
            raise
        if call.turn is not turn:
            return AGAIN
        call.turn = None
        call.args, call.kwargs = unresolved
        value, error = call.outcome
        call.outcome = None
        try:
            if error is not None:
                raise error
            if is_awaitable(value):
                self.surround(call)
                value = await value
                if self._has_requests and requests():
                    await self._run.leave_requests_behind()
        except BaseException as failure:
            self.failed(call, failure)
            raise
        self.finished(call, "Succeeded", None)
        return value

    def _abandon_turn(self, call: Call) -> None:
        """Cancelled after the call was carried out, and before anybody could use its outcome."""
        if call.outcome is None:
            call.outcome = _ABANDONED
            return
        value, error = call.outcome
        if is_awaitable(value):
            if hasattr(value, "close"):
                value.close()
            self.finished(call, "Cancelled", None)
        else:
            self.finished(call, "Succeeded" if error is None else "Failed", error)

    def _take_turn(self, call: Call, turn: Event) -> None:
        if call.outcome is _ABANDONED:
            return
        if not self._may_take_turn(call):
            call.turn = None  # it waits at the gate without a task
            turn.set()
            return
        try:
            call.outcome = self.call_inline(call), None
        except BaseException as error:
            call.outcome = None, error
        turn.set()

    def _may_take_turn(self, call: Call) -> bool:
        """Whether the gate lets it start; otherwise it is made ready again when it may."""
        if call.resources:  # which were set up after the gate
            return True
        try:
            if call.ticket is None and not self._admit(call):
                return False
        except (ValueError, DeadlockError) as error:
            self._run.call_failed(call, error)
            return False
        return call.ticket is None or self._start(call)

    # Steps of both paths

    def _is_over(self, call: Call) -> bool:
        """Whether nothing starts any more where the call stands."""
        return self._run.is_over or is_gone(call.place)

    def _pause_before_retry(self, call: Call, error: BaseException) -> float | None:
        """Seconds until the next attempt, which is announced; None if there is none."""
        retry = call.slot.retry
        if (
            retry is None
            or call.attempt >= retry.max_attempts
            or self._is_over(call)
            or is_being_cancelled()
            or self._run.is_cancelled_by(error)
            or not retry.matches(error)
        ):
            return None
        pause = retry.pause_after(call.attempt, error)
        if pause is None:
            return None
        if self._bus.listens(TaskRetrying):
            self._publish(TaskRetrying, call, call.attempt, retry.max_attempts, pause, error)
        if self._activity is not None:
            self._activity.retried(call.slot.name)
        call.attempt += 1
        return pause

    def _answer(self, call: Call, error: BaseException) -> Failed | None:
        """What its node goes on with after the last attempt of a call, if a policy answers it."""
        slot = call.slot
        if not slot.recovers or is_being_cancelled() or self._run.is_cancelled_by(error):
            return None
        if self._is_over(call):
            return None
        failed = self.answer(slot, call.task_id, error)
        if failed is not None and self._activity is not None:
            self._activity.recovered(slot.name)
        return failed

    def answer(self, slot: Slot, task_id: str, error: BaseException) -> Failed | None:
        """What a node, or an item of it, goes on with after a failure; it is published then."""
        if not slot.recovers or self._run.is_over or not isinstance(error, Exception):
            return None
        BaseException.with_traceback(error, _of_the_user(error.__traceback__))
        falls_back = slot.falls_back(error)
        if not falls_back and (slot.settled_on is None or not slot.settled_on.matches(error)):
            return None
        if self._bus.listens(TaskRecovered):
            now = self.clock()
            self._bus.publish(TaskRecovered(self._run.id, now, task_id, slot.name, error))
        return Failed(error, falls_back)

    def started(self, call: Call) -> None:
        """The attempt starts: told."""
        bus, run = self._bus, self._run
        if self._activity is not None:
            self._activity.started(call.slot.name, call.attempt)
        now = call.started = self.clock()  # also for who subscribes before the attempt is over
        if not bus.hears_tasks:
            return
        if run.services.on_attempt is not None:
            run.services.on_attempt(call)
        handlers = bus.handlers(TaskExecutionStarted)
        if handlers:
            name = call.slot.name
            event = TaskExecutionStarted(run.id, now, call.task_id, name, call.attempt)
            bus.deliver(event, handlers)

    def started_unseen(self, call: Call, since: float | None) -> None:
        """The attempt was begun by code that reads no clock: it counts from `since`, or now."""
        call.started = self.clock() if since is None else since

    def failed(self, call: Call, error: BaseException) -> None:
        """The attempt has failed, or was cancelled: told."""
        self.finished(call, "Cancelled" if self._run.is_cancelled_by(error) else "Failed", error)

    def finished(self, call: Call, status: str, error: BaseException | None) -> None:
        """The attempt is over: told. What it holds is given back by the caller, later maybe."""
        if self._activity is not None:
            self._activity.ended(call.slot.name, status)
        bus = self._bus
        handlers = bus.handlers(TaskExecutionFinished) if bus.hears_tasks else None
        if handlers:
            now = self.clock()
            event = TaskExecutionFinished(
                self._run.id,
                now,
                call.task_id,
                call.slot.name,
                status,
                now - call.started,
                error,
            )
            bus.deliver(event, handlers)

    def _publish(self, kind: type[TaskEvent], call: Call, *fields: Any) -> None:
        run = self._run
        self._bus.publish(kind(run.id, self.clock(), call.task_id, call.slot.name, *fields))

    # The gate

    def _is_gated(self, call: Call) -> bool:
        """Whether the call has to ask before it starts."""
        return bool(call.amounts) or self._gate.limits(call.slot.gate_name)

    def _session(self, call: Call) -> Session:
        """Who asks at the gate: the scope that the call stands in, or the run."""
        scope = call.place.scope
        return self._run.session if scope is None else scope.session

    def admit_now(self, call: Call) -> bool:
        """Whether the call is admitted at once, and so starts; nothing is asked for otherwise."""
        ticket = self._gate.start_now(self._session(call), call.slot.gate_name, call.amounts)
        if ticket is None:
            return False
        if ticket is not FREE:
            call.ticket = ticket
        return True

    def _admit(self, call: Call) -> bool:
        """Whether the call may start now; otherwise it is parked, and made ready when it may."""
        if call.place.outlet is not None and self._is_held_back(call, call.place.outlet):
            return False
        if not self._is_gated(call):
            return True
        resume = partial(self._run.make_ready, call)
        # Not whether it is parked still: who hears that it is may have freed it already.
        return self._ask(call, resume).reason is None

    def _is_held_back(self, call: Call, outlet: Outlet) -> bool:
        """Whether the call waits until its caller has read items that settled before."""
        if not outlet.holds(call):
            return False
        reason = outlet.reason

        def resume() -> None:
            if self._activity is not None:
                self._activity.resumed(call.slot.name, reason, call.attempt)
            self._run.make_ready(call)

        outlet.hold(call, resume)
        if self._bus.listens(TaskBlocked):
            self._publish(TaskBlocked, call, reason)
        if self._activity is not None:
            self._activity.parked(call.slot.name, reason, call.attempt)
        return True

    def _ask(self, call: Call, resume: Callable[[], object]) -> Ticket:
        ticket = self._gate.ask(self._session(call), call.slot.gate_name, call.amounts, resume)
        if ticket is not FREE:
            call.ticket = ticket
        if ticket.parked and self._bus.listens(TaskBlocked):
            self._publish(TaskBlocked, call, ticket.reason)
        if self._activity is not None and ticket.reason is not None:
            self._activity.parked(call.slot.name, ticket.reason, call.attempt)
        return ticket

    def _start(self, call: Call) -> bool:
        """The attempt starts now, with what it was granted; False if it waits at the gate again."""
        ticket = call.ticket
        assert ticket is not None
        if not self._gate.start(ticket):
            return False
        if self._activity is not None and ticket.reason is not None:
            self._activity.resumed(call.slot.name, ticket.reason, call.attempt)
        return True

    def surround(self, call: Call) -> None:
        """Runs that the call starts from here on are inside it, as far as it holds something.

        To be called in the task in which the call goes on.
        """
        if call.ticket is not None:
            AROUND.set((*self._session(call).around, call.ticket))

    def withdraws(self, call: Call) -> bool:
        """Whether the call, which has not begun, is withdrawn: whoever has it does not start it."""
        if call.has_begun:
            return False
        ticket = call.ticket
        if ticket is not None and ticket.reason is not None and self._activity is not None:
            self._activity.resumed(call.slot.name, ticket.reason, call.attempt)
        self.give_back(call)
        call.place = NOWHERE
        return True

    def give_back(self, call: Call) -> None:
        """The attempt is over, or it was cancelled before it started."""
        if call.ticket is not None:
            self._gate.let_go(self._session(call), call.ticket)
            call.ticket = None

    # The cache

    async def _process_cached(self, call: Call) -> Any:
        """A hit, or the value computed once however many ask for it at the same time."""
        flight = call.flight
        if flight is not None and flight.has_landed:
            call.flight = None
            if flight.has_value:
                self._cache_hit(call)
                return flight.value
            flight = None
        if flight is None:
            cache = call.slot.cache
            key = cache_key(call.slot.task, self._named_arguments(call))
            known = self._flights.get((id(cache), key))
            if known is not None:
                call.flight = known
                known.waiting.append(call)
                return AGAIN
            flight = call.flight = self._flights[id(cache), key] = Flight(key)
        value: Any = None
        try:
            value = await self._fly(call, flight, call.slot.cache)
            return value
        finally:
            if value is not AGAIN:
                call.flight = None
                del self._flights[id(call.slot.cache), flight.key]
                self._land(flight)

    def _land(self, flight: Flight) -> None:
        """Those who wait for the flight go on."""
        flight.has_landed = True
        waiting, flight.waiting = flight.waiting, []
        for call in waiting:
            self._run.make_ready(call)

    async def _fly(self, call: Call, flight: Flight, cache: Any) -> Any:
        if not flight.is_missed:
            hit = await _awaitable(cache, "get", cache.get(flight.key))
            if hit is not None and not isinstance(hit, Hit):
                raise TypeError(
                    f"{cache!r}, the cache of task {call.slot.name!r}, gave {hit!r}; "
                    "its get gives cs.Hit(value), or None if it has none"
                )
            if hit is not None:
                flight.bring(hit.value)
                self._cache_hit(call)
                return hit.value
            flight.is_missed = True
        value = await self._process_attempts(call)
        if value is not AGAIN and not is_control(value):
            flight.bring(value)
            await self._put(call, cache, flight.key, value)
        return value

    def let_go(self) -> None:
        """The run is over: those who wait for flights, which they refer to, do not go on."""
        for flight in self._flights.values():
            flight.waiting.clear()
        self._flights.clear()

    async def _put(self, call: Call, cache: Any, key: bytes, value: Any) -> None:
        try:
            await _awaitable(cache, "put", cache.put(key, value))
        except Exception:
            logger.exception("the cache of task %r could not put its value", call.slot.name)

    def _cache_hit(self, call: Call) -> None:
        if self._activity is not None:
            self._activity.cached(call.slot.name)
        if self._bus.listens(TaskSkipped):
            self._publish(TaskSkipped, call, "CacheHit")

    def _named_arguments(self, call: Call) -> list[tuple[str, Any]]:
        """The arguments, each under a name of its own; the value of a resource is no part of a key.

        Stars tell what *args and **kwargs take up from parameters.
        """
        injected = call.place.injected(call.index)
        parameters = call.slot.task.parameters
        names = parameters.positional
        only = parameters.names[len(names) :]
        own: list[tuple[str, int | str, Any]] = [
            (names[i] if i < len(names) else f"*{i - len(names)}", i, value)
            for i, value in enumerate(call.args)
        ]
        own += [(n if n in only else f"**{n}", n, value) for n, value in call.kwargs.items()]
        named = [(name, value) for name, place, value in own if place not in injected]
        # That there is one more argument counts, whatever resource it is.
        extra = [name for name, place, _ in own if place in injected and name[0] == "*"]
        return [*named, *((f"={name}", None) for name in extra)]


def _of_the_user(traceback: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames of Cascade that it begins with.

    These refer to the call, and to where it stands: an error that is data would keep them all.
    """
    while traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(_FOLDER):
        traceback = traceback.tb_next
    return traceback


def _awaitable(cache: Any, method: str, given: Any) -> Any:
    """What a method of a cache policy gave; `TypeError` if it cannot be awaited."""
    if not is_awaitable(given):
        raise TypeError(
            f"{method} of the cache {cache!r} gave {given!r}; make it async def {method}(...)"
        )
    return given


def _came_back_late(call: Call, deadline: float) -> bool:
    """A thread is not interrupted by its timeout: its time is up when it comes back."""
    return call.slot.task.mode == "thread" and current_time() >= deadline
