"""One run: the driver that starts what is ready, and the task groups in which all of it lives.

    caller                      waits, passing cancellation on; drives the run until it has groups
      hosts                     the host tasks of run and step resources, each shielded while lent
        work                    tasks for calls that may suspend; cancelled as one on failure
          driver                starts ready calls in plan order, carries out inline ones itself

What a strategy adds is which calls are ready: it hands them over with `make_ready`, and hears of
their outcome by `call.place.completed`. While everything is inline no task group is opened at all.
The driver of a run with groups is a task of the run's own, so that asyncio's `Task.cancel()`, which
no shield stops, meets the caller alone: its wait for the group outlasts any number of them. So the
caller awaits no more than one call itself, of which holds what plain Python makes of `await f()`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from heapq import heappop, heappush
from itertools import count
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import uuid4

import anyio
from anyio import CancelScope, Event, current_time, sleep_forever
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from cascade.core.activity import Activity
from cascade.core.calls import Call, Place, Scope, add_causes, is_gone
from cascade.core.cancellation import (
    Caller,
    has_ended,
    is_being_cancelled,
    is_cancellation,
    leave_requests_behind,
    requests,
)
from cascade.core.failures import Failing
from cascade.core.holdings import Resources
from cascade.core.pace import BATCH, SLICE, end_of_slice
from cascade.core.processor import AGAIN, Processor
from cascade.core.ready import ReadyQueue
from cascade.core.registry import ResourceRegistry
from cascade.errors import add_note
from cascade.events import RunFinished, RunStarted
from cascade.plain import error_text
from cascade.workflow.inputs import Inputs

if TYPE_CHECKING:
    from cascade.core.outlet import Outlet
    from cascade.core.services import Services
    from cascade.limits.gate import Session

logger = logging.getLogger("cascade")

_NO_RESULT: Final = object()  # of a run that has not finished


class Stretch(Protocol):
    """A stretch of work that carries itself out when its turn comes in plan order.

    One `is_async` awaits; a `is_mixed` one also has inline tasks, for which plan order counts, so
    that it goes only while nothing else is going on, and is otherwise left to the interpreter.
    """

    @property
    def place(self) -> Place: ...
    @property
    def rank(self) -> int: ...
    @property
    def is_async(self) -> bool: ...
    @property
    def is_mixed(self) -> bool: ...
    def carry_out(self) -> None: ...
    async def carry_out_async(self) -> None: ...
    def interpret(self) -> None: ...


class Run(Failing):
    """What all evaluations of one run share: driver, failure, inputs, resources, steps allowed."""

    def __init__(
        self,
        services: Services,
        params: Mapping[str, Any] | None,
        max_steps: int | None,
        resources: ResourceRegistry | None = None,
        outlet: Outlet | None = None,
    ) -> None:
        self.id = uuid4().hex
        self.services = services
        self.bus = services.bus
        self.inputs = Inputs(params)
        self.resources = Resources(self, services, resources or services.resources)
        self.max_steps = max_steps
        self.outlet: Outlet | None = outlet
        if outlet is not None:
            outlet.run = self
        self.session: Session
        super().__init__()
        self.result: Any = _NO_RESULT
        on_run = services.on_run
        self.activity = None if on_run is None else Activity(self.id, on_run)
        self.processor: Processor = Processor(self)
        self._inline = ReadyQueue()
        self._starting = ReadyQueue()
        self._work: TaskGroup | None = None
        self._wake: Event | None = None
        self._postponed: deque[Callable[[], None]] = deque()
        self._paused: list[tuple[float, int, Call]] = []  # a heap: when each goes on
        self._pauses = count()
        self._alarm: CancelScope | None = None  # of the one task that sleeps for all of them
        self._spawned: list[tuple[Callable[[], Coroutine[Any, Any, None]], Scope | None]] = []
        self.slice_end = end_of_slice()
        self._batch = BATCH
        self._tasks = 0  # of the work group, and whatever the driver awaits itself
        self._starts_in_order = anyio.get_cancelled_exc_class() is asyncio.CancelledError
        self._is_cancelled = False  # the task that drives it in a group, by a scope around the run
        self._interruption: BaseException | None = None
        self._ended_by: BaseException | None = None  # the KeyboardInterrupt of a subscriber
        self._caller: Caller | None = None  # of asyncio

    async def execute(self, name: str, params: Mapping[str, Any], begin: Callable[[], None]) -> Any:
        """Carry out what `begin` makes ready, until `finish` or `fail` is called; the result."""
        self.session = self.services.gate.enter_run(self.spawn)
        task = asyncio.current_task() if self._starts_in_order else None
        self._caller = None if task is None else Caller(task)
        started = current_time()
        self.bus.enter_run(self.id, self._end_by_subscriber)
        if self.bus.listens(RunStarted):
            self.bus.publish(RunStarted(self.id, started, name, params))
        if self.activity is not None:
            self.activity.begin(name, started)
        try:
            await self._drive(begin)
        finally:
            self.services.gate.leave_run(self.session)
            self._tell_finished(started)
            self.bus.leave_run(self.id)
            result, failure = self.result, self._outcome()
            ended_by = self._ended_by
            self._let_go()
            try:
                if ended_by is not None:
                    raise ended_by
            finally:
                del ended_by  # its traceback refers to this frame
        if failure is None:
            return result
        try:
            raise failure
        finally:
            del failure  # its traceback refers to this frame

    def _outcome(self) -> BaseException | None:
        """What the run fails with, if it does."""
        if not self.resources.failures:
            return self.failure
        failures = [e for e in (self.failure, *self.resources.failures) if e is not None]
        interrupts = [error for error in failures if isinstance(error, KeyboardInterrupt)]
        if interrupts:  # never in a group
            for error in failures:
                if error is not interrupts[0]:
                    add_note(interrupts[0], f"the run had failed: {error_text(error)}")
            return interrupts[0]
        return BaseExceptionGroup(f"the tear-down of run {self.id} failed", failures)

    def _let_go(self) -> None:
        """The run is over: nothing here refers to its values, or back to what refers to it.

        Its values and failures go with their last user then, without the cyclic collector.
        """
        self.result = self.failure = self._interruption = self._ended_by = None
        self._later_failures = []
        self.inputs = Inputs(None)
        self._inline = ReadyQueue()
        self._starting = ReadyQueue()
        self._postponed.clear()
        self._spawned = []
        self._paused.clear()
        self._work = self._alarm = None
        self.processor.let_go()
        self.resources.let_go()
        del self.session, self.processor, self.resources

    # What strategies say

    def make_ready(self, call: Call) -> None:
        """`call` may start as soon as it is first in plan order."""
        if is_gone(call.place):  # a value that it waited for came after its scope had ended
            return
        if call.turn is not None or self.processor.is_direct(call):
            self._inline.push(call.place, call.rank, call)
        else:
            self._starting.push(call.place, call.rank, call)
        self._wake_up()

    def enqueue(self, loop: Stretch) -> None:
        """The loop may go on as soon as it is first in plan order."""
        if is_gone(loop.place):
            return
        queue = self._starting if loop.is_async else self._inline
        queue.push(loop.place, loop.rank, loop)
        self._wake_up()

    @property
    def has_ready(self) -> bool:
        """Whether anything else may go on now."""
        return bool(self._inline or self._starting or self._spawned or self._postponed)

    async def give_way(self) -> None:
        """Let others on the event loop run, once a slice of time is over."""
        if perf_counter() >= self.slice_end:
            await checkpoint()
            self.slice_end = end_of_slice()

    def finish(self, result: Any) -> None:
        """The target has its value: the run is over."""
        self.result = result
        self.is_over = True
        self._wake_up()

    def _end_by_subscriber(self, error: BaseException) -> None:
        """A subscriber raised what is for the whole program: the run is torn down, and ends so."""
        self._ended_by = error
        self.fail(error, f"by a subscriber to events of run {self.id}")

    def is_cancelled_by(self, error: BaseException) -> bool:
        """Whether `error`, out of a call, is the cancellation of the run, and no failure of it."""
        if is_cancellation(error):
            return True
        return self._caller is not None and self._caller.is_cancelled_by(error)

    async def leave_requests_behind(self, error: BaseException | None = None) -> None:
        """A call is over, and somebody has asked to cancel the asyncio task that it was made in."""
        caller = self._caller
        await leave_requests_behind(error, is_own=caller is not None and not caller.is_here())

    def stop(self) -> None:
        """Nothing starts any more, and what runs is cancelled."""
        self.is_over = True
        # Before the cancellation, which takes its time: other runs need not wait for it.
        self.services.gate.end_run(self.session)
        if self._work is not None:
            self._work.cancel_scope.cancel()
        self._wake_up()

    def call_failed(self, call: Call, error: BaseException) -> None:
        """A call failed for good, which ends the scope that it stands in."""
        failing = call.place.scope or self
        if failing.has_enough_notes:  # else thousands of siblings would each look for their path
            return
        path = " -> ".join(call.place.path(call.index))
        add_causes(call.place, call.index, error)
        failing.fail(
            error,
            f"in task {call.slot.name!r} ({call.task_id}), attempt {call.attempt}, "
            f"of run {self.id}; its path to the target: {path}",
        )

    def postpone(self, function: Callable[[], None]) -> None:
        """Call `function` after a checkpoint, before anything else is started."""
        self._postponed.append(function)
        self._wake_up()

    def make_ready_after(self, seconds: float, call: Call) -> None:
        """`call` may start after a pause, in which it costs no task: one sleeps for all of them."""
        if not seconds:
            self.make_ready(call)
            return
        due = current_time() + seconds
        heappush(self._paused, (due, next(self._pauses), call))
        if self._alarm is None:
            self._alarm = CancelScope(deadline=due)
            self.spawn(self._sleep)
        elif due < self._alarm.deadline:
            self._alarm.deadline = due

    async def _sleep(self) -> None:
        """Make ready whatever has paused long enough, until nothing pauses."""
        while self._alarm is not None:
            with self._alarm:  # a deadline can be moved when something is due sooner
                await sleep_forever()
            now = current_time()
            while self._paused and self._paused[0][0] <= now:
                self.make_ready(heappop(self._paused)[2])
            self._alarm = CancelScope(deadline=self._paused[0][0]) if self._paused else None

    def spawn(
        self, function: Callable[[], Coroutine[Any, Any, None]], scope: Scope | None = None
    ) -> None:
        """Run `function` in a task of its own; what it raises fails the run, or the `scope`."""
        self._spawned.append((function, scope))
        self._wake_up()

    def start_spawned_of(self, scope: Scope) -> None:
        """What was spawned for a scope that ends has to begin, to give up what it has."""
        own = [each for each in self._spawned if each[1] is scope]
        self._spawned = [each for each in self._spawned if each[1] is not scope]
        self._start(own, scope.tasks)

    def spawn_call(
        self, call: Call, function: Callable[..., Coroutine[Any, Any, None]], *args: Any
    ) -> None:
        """Go on with `call` in a task of its own."""
        self.spawn(lambda: self._guard_call(call, function, *args), call.place.scope)

    # The driver

    async def _drive(self, begin: Callable[[], None]) -> None:
        try:
            await self._begin(begin)
            if not self.is_over or self._spawned:
                async with anyio.create_task_group() as hosts:
                    self.resources.hosts = hosts
                    hosts.start_soon(self._carry_out_in_group)
                if self._is_cancelled:  # the driver has kept it to itself; here it is raised
                    await checkpoint_if_cancelled()
        except BaseException as error:
            own = None if self.is_cancelled_by(error) else _unwrapped(error)
            if own is not None and not isinstance(own, anyio.get_cancelled_exc_class()):
                self._fail_by(own)
                return
            self._interruption = error  # failures are kept, so this is the run being cancelled
            for failed in (self.failure, *self.resources.failures):
                if failed is not None:
                    add_note(error, f"the run had failed: {error_text(failed)}")
            raise
        if self.result is _NO_RESULT and self.failure is None and not self.resources.failures:
            # Neither a value nor a failure nor a cancellation from outside: it came from inside.
            cancelled = asyncio.CancelledError("somebody cancelled a task of the run")
            self.fail(cancelled, f"in run {self.id}")

    def _fail_by(self, error: BaseException) -> None:
        """What nobody in the run could handle came out of its groups: no failure goes before it."""
        earlier, self.failure = self.failure, None
        self.fail(error, f"in run {self.id}")
        if earlier is not None and earlier is not error:
            add_note(error, f"the run had failed: {error_text(earlier)}")

    async def _begin(self, begin: Callable[[], None]) -> None:
        try:
            begin()
            # In the caller's own task: `Task.cancel()` of asyncio must meet one call at most.
            await self._carry_out_alone(most=inf if self._caller is None else 1)
        except BaseException as error:
            if self.is_cancelled_by(error):
                raise
            self.fail(error, f"in run {self.id}")

    async def _carry_out_alone(self, most: float = inf) -> None:
        """As long as there is one thing to do at a time, and at most so many calls to await."""
        while not self.is_over and not self._spawned:
            if self._postponed:
                await self._catch_up()
            elif self._starting:
                if not most or not self._stands_alone():
                    return
                most -= 1
                await self._await_alone()
            elif self._inline:
                await self._carry_out_inline()
            else:
                return

    async def _carry_out_in_group(self) -> None:
        """The run from where it needs a task of its own, and its tear-down."""
        interruption: BaseException | None = None
        try:
            await self._carry_out_alone()
            if not self.is_over or self._spawned:
                await self._work_in_group()
        except BaseException as error:
            if is_cancellation(error):
                interruption = error
            elif self._work is None or not has_ended(self._work.cancel_scope):
                self.fail(error, f"in run {self.id}")
        interruption = await self.resources.close(self.failure or interruption) or interruption
        try:
            if interruption is not None:
                self._is_cancelled = is_cancellation(interruption)
                if not self._is_cancelled:  # else by a scope that is around the caller too
                    raise interruption
        finally:
            del interruption  # its traceback refers to this frame

    async def _work_in_group(self) -> None:
        async with anyio.create_task_group() as self._work:
            try:
                while not self.is_over:
                    await self._carry_on(self._work)
            except BaseException as error:
                if is_cancellation(error):
                    raise
                # A call that the driver made has cancelled the driver's task, or interrupted it;
                # it must not come out in the groups of the run.
                self.fail(error, f"in run {self.id}")
            finally:
                # What is left: siblings of a failure, and what was spawned meanwhile, which has to
                # begin before it is cancelled so that it can give up what it holds.
                self.is_over = True
                self.services.gate.end_run(self.session)
                self._start_spawned(self._work)
                self._work.cancel_scope.cancel()

    async def _catch_up(self) -> None:
        """What a strategy does between calls is done in slices, like inline calls."""
        while self._postponed and not self.is_over:
            await checkpoint()  # first: it was postponed because a slice was over
            self.slice_end = end_of_slice()
            self._postponed.popleft()()

    async def _carry_on(self, work: TaskGroup) -> None:
        """Start all that is ready to be started, else carry out inline calls, else wait."""
        await self._catch_up()
        if self.is_over:
            return
        self._start_spawned(work)
        if self._starting:
            if self._stands_alone():
                await self._await_alone()
            else:
                await self._start_all(work)
        elif self._inline:
            await self._carry_out_inline()
        else:
            self._wake = Event()
            await self._wake.wait()
            await checkpoint_if_cancelled()  # a wait that is over is not cancelled any more
            self._wake = None

    async def _carry_out_inline(self) -> None:
        """Carry out inline calls while nothing else is to be started."""
        queue = self._inline
        run_inline = self.processor.run_inline
        # What may suspend goes first whenever there is any: it waits while inline calls go on.
        while queue and not self._starting and not self._spawned and not self.is_over:
            call = queue.pop()
            if is_gone(call.place):
                continue
            if call.__class__ is Call:
                try:
                    run_inline(call)
                except BaseException as error:
                    self.call_failed(call, error)
            else:
                call.carry_out()
            if self._postponed:
                await self._catch_up()
            if perf_counter() >= self.slice_end:
                await self.give_way()

    def _stands_alone(self) -> bool:
        """Whether one call is all there is, and all that can come while it is awaited."""
        if (
            self._tasks
            or self.session.tickets  # one that is parked may be granted at any time, from outside
            or self._inline
            or self._spawned
            or len(self._starting) > 1
        ):
            return False
        first = self._starting.first()
        return first.__class__ is not Call or self.processor.is_plain(first)

    async def _await_alone(self) -> None:
        """Await what stands alone right here: a task of its own would cost more than the call."""
        self._tasks += 1
        await self._carry_out(self._starting.pop(), is_alone=True)
        if self._caller is None or requests():
            await checkpoint_if_cancelled()  # the call may have suppressed that a scope ends
        if not self.is_over:
            await self.give_way()

    def _start_spawned(self, work: TaskGroup) -> None:
        spawned, self._spawned = self._spawned, []
        self._start(spawned, work)

    def _start(
        self,
        spawned: list[tuple[Callable[[], Coroutine[Any, Any, None]], Scope | None]],
        work: TaskGroup,
    ) -> None:
        for function, scope in spawned:
            self._tasks += 1
            tasks = work if scope is None else scope.tasks
            tasks.start_soon(self._guard_task, function, scope)

    async def _start_all(self, work: TaskGroup) -> None:
        """Start what may suspend, in plan order, and let each get as far as it can at once."""
        queue = self._starting
        if self._starts_in_order:
            while queue and not self.is_over:
                await self._start_batch(work)
            return
        all_started = Event()
        self._start_next(work, all_started)
        await all_started.wait()

    async def _start_batch(self, work: TaskGroup) -> None:
        """Start as many as will hold the loop for one slice, going by those started before."""
        began = perf_counter()
        for _ in range(min(self._batch, len(self._starting))):
            call = self._next_to_start()
            if call is not None:
                tasks_of(call.place, work).start_soon(self._carry_out, call)
        await checkpoint()
        held = max(perf_counter() - began, 1e-6)  # the clock may not have moved
        self._batch = max(1, min(BATCH, int(self._batch * SLICE / held)))

    def _next_to_start(self) -> Any:
        """The first that gets a task of its own, or None if it gets none."""
        call = self._starting.pop()
        if is_gone(call.place):
            return None
        if call.__class__ is not Call and call.is_mixed:
            # Something else goes on: one by one, its inline tasks keep their place among those.
            call.interpret()
            return None
        if call.__class__ is Call and (self.is_over or self.processor.parks(call)):
            return None
        self._tasks += 1
        return call

    def _start_next(self, work: TaskGroup, all_started: Event) -> None:
        while self._starting and not self.is_over:
            call = self._next_to_start()
            if call is not None:
                tasks = tasks_of(call.place, work)
                tasks.start_soon(self._carry_out_after_next, call, work, all_started)
                return
        all_started.set()

    async def _carry_out_after_next(self, call: Any, work: TaskGroup, all_started: Event) -> None:
        """Where the event loop shuffles what it starts, each task starts the one after it."""
        # Before the next one begins, so that they ask the gate in plan order.
        goes_on = call.__class__ is not Call or self.processor.asks_now(call)
        self._start_next(work, all_started)
        if goes_on:
            await self._carry_out(call)
        else:
            self._tasks -= 1

    async def _carry_out(self, call: Any, *, is_alone: bool = False) -> None:
        try:
            if self.is_over or is_gone(call.place):
                return
            if call.__class__ is Call:
                value = await self.processor.process(call)
                if value is not AGAIN:
                    call.place.completed(call, value)
            else:
                await call.carry_out_async()
                if self._caller is not None and requests() and self.failure is None:
                    await self.leave_requests_behind()
        except BaseException as error:
            own = call if call.__class__ is Call else None
            if self._goes_on(error, own, call.place.scope, is_alone=is_alone):
                raise
        finally:
            self._tasks -= 1

    async def _guard_call(
        self, call: Call, function: Callable[..., Coroutine[Any, Any, None]], *args: Any
    ) -> None:
        try:
            await function(*args)
        except BaseException as error:
            if self._goes_on(error, call, call.place.scope, is_alone=False):
                raise

    async def _guard_task(
        self, function: Callable[[], Coroutine[Any, Any, None]], scope: Scope | None
    ) -> None:
        try:
            await function()
        except BaseException as error:
            if self._goes_on(error, None, scope, is_alone=False):
                raise
        finally:
            self._tasks -= 1

    def _goes_on(
        self, error: BaseException, call: Call | None, scope: Scope | None, *, is_alone: bool
    ) -> bool:
        """Whether `error`, with which a task ends, is its cancellation; all else is told here.

        A group whose scope is cancelled needs no telling: anyio would keep what it is told, with
        its traceback, in a reference cycle.
        """
        if self.is_cancelled_by(error):
            return is_alone or not is_cancellation(error)
        failing = scope or self
        if is_being_cancelled() and failing.failure is None:
            # The run is being cancelled from outside, and that is what it ends with.
            logger.error("a task failed while run %s was cancelled", self.id, exc_info=error)
        elif call is None:
            failing.fail(error, f"in run {self.id}")
        else:
            self.call_failed(call, error)
        return False

    def _wake_up(self) -> None:
        if self._wake is not None:
            self._wake.set()

    # The end

    def _tell_finished(self, started: float) -> None:
        if self.activity is None and not self.bus.listens(RunFinished):
            return
        error = self.failure or (self.resources.failures[0] if self.resources.failures else None)
        status = "Succeeded" if error is None else "Failed"
        if self._interruption is not None:
            status, error = "Cancelled", None
        now = current_time()
        if self.activity is not None:
            self.activity.end(status, now)
        self.bus.publish(RunFinished(self.id, now, status, now - started, error))


def tasks_of(place: Place, work: TaskGroup) -> TaskGroup:
    """Where what stands at `place` is started: in the group of its scope, or in that of the run."""
    return work if place.scope is None else place.scope.tasks


def _unwrapped(error: BaseException) -> BaseException:
    """What came out of the task groups of a run.

    An event loop may deliver an interrupt in any task, and the groups wrap it.
    """
    leaves: list[BaseException] = []
    todo = [error]
    while todo:
        current = todo.pop()
        if isinstance(current, BaseExceptionGroup):
            todo.extend(reversed(current.exceptions))
        else:
            leaves.append(current)
    interrupts = [leaf for leaf in leaves if isinstance(leaf, KeyboardInterrupt)]
    # One interrupt ends the program, whatever else went wrong; several others stay together.
    return interrupts[0] if interrupts else leaves[0] if len(leaves) == 1 else error
