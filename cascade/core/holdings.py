"""The run and step resources that are set up: on first demand, once; torn down in reverse order.

Each lives in a host task of its own, which sets it up, waits shielded until it is to close, and
tears it down: whatever the generator keeps open across its `yield` is entered and left there.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial, wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast

from anyio import CancelScope, Event, current_time, get_cancelled_exc_class

from cascade.core.cancellation import (
    has_ended,
    has_requests,
    is_being_cancelled,
    is_cancellation,
    is_requested,
    leave_requests_behind,
    outlast,
)
from cascade.core.registry import EXECUTION, ResourceRegistry, RunProviders
from cascade.core.values import filled
from cascade.events import ResourceAcquired, ResourceReleased
from cascade.workflow.resources import ResourceDefinition

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from cascade.core.calls import Call
    from cascade.core.services import Services

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("cascade")


class _Context(AbstractAsyncContextManager[T]):
    """What `contextlib.asynccontextmanager` makes, for errors that cannot be written to, too."""

    def __init__(self, generator: AsyncGenerator[T]) -> None:
        self._generator = generator

    async def __aenter__(self) -> T:
        return await anext(self._generator)

    async def __aexit__(
        self, _: object, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            if error is None:
                await anext(self._generator)
            else:
                await self._generator.athrow(error)
        except BaseException as raised:
            if error is None and isinstance(raised, StopAsyncIteration):
                return False
            if error is None or not (raised is error or _is_stop(raised, error)):
                raise
            # Not `error.__traceback__ = ...`, which a frozen dataclass refuses.
            BaseException.with_traceback(error, traceback)
        return False


def context_manager(
    function: Callable[P, AsyncGenerator[T]],
) -> Callable[P, AbstractAsyncContextManager[T]]:
    """An async context manager of a generator that yields once and raises on what it is thrown."""

    @wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> AbstractAsyncContextManager[T]:
        return _Context(function(*args, **kwargs))

    return make


@context_manager
async def opened(
    definition: ResourceDefinition,
    arguments: Mapping[str, Any],
    deadline: float,
    failed: Callable[[BaseException, BaseException | None], None],
) -> AsyncGenerator[Any]:
    """Set the resource up, lend its value to the body, tear it down whatever the body does.

    The tear-down is shielded and bounded by `deadline` seconds. An exception of the body is thrown
    in at the `yield` and goes on afterwards; what goes wrong in the tear-down is given to `failed`,
    with that exception.
    """
    failure: BaseException | None = None
    broken: BaseException | None = None
    was_cancelled = was_requested = is_late = False
    scope = CancelScope()
    try:
        with scope:
            generator = definition.func(**arguments)
            value = await _set_up(definition, generator)
            try:
                yield value
            except BaseException as error:  # raised again below, after the tear-down
                failure = error
                was_cancelled, was_requested = is_cancellation(error), is_requested(error)
            scope.shield = True
            scope.deadline = current_time() + deadline
            try:
                await _tear_down(definition, generator, failure)
                if has_requests():
                    await leave_requests_behind()
            except BaseException as error:
                if is_cancellation(error):  # its time is up
                    raise
                broken = error
    except get_cancelled_exc_class():
        if not has_ended(scope):
            raise
        is_late = True
    if is_late or scope.cancelled_caught:
        failed(
            TimeoutError(
                f"the tear-down of the resource {definition.name!r} did not finish within "
                f"{deadline:g} s and was cancelled"
            ),
            failure,
        )
    if failure is not None and was_cancelled and not is_cancellation(failure):
        # A scope that the resource itself holds open ended the body.
        raise broken if broken is not None else _ended_by_itself(definition)
    try:
        if broken is not None and was_requested and not was_cancelled:
            raise broken  # a TaskGroup of asyncio that the resource holds open ends the body so
        if broken is not None:
            failed(broken, failure)
        if failure is not None:
            raise failure
    finally:
        del failure, broken  # their tracebacks refer to this frame


def _ended_by_itself(definition: ResourceDefinition) -> RuntimeError:
    return RuntimeError(f"the resource {definition.name!r} ended by itself while it was in use")


async def _set_up(definition: ResourceDefinition, generator: Any) -> Any:
    is_async = inspect.isasyncgen(generator)
    try:
        return await generator.__anext__() if is_async else next(generator)
    except (StopIteration, StopAsyncIteration) as stop:
        if is_async != isinstance(stop, StopAsyncIteration):
            raise  # Python tells a generator's own StopIteration apart, not one of the other kind
        raise RuntimeError(
            f"the resource {definition.name!r} did not yield; it must yield its value once"
        ) from None


async def _tear_down(
    definition: ResourceDefinition, generator: Any, failure: BaseException | None
) -> None:
    """Resume the generator with what happened, and make sure that it ends."""
    try:
        if inspect.isasyncgen(generator):
            ended = await _ends_async(generator, failure)
        else:
            ended = _ends(generator, failure)
    except BaseException as error:
        if failure is not None and _is_only(error, failure):
            return
        raise
    if not ended:
        raise RuntimeError(
            f"the resource {definition.name!r} yielded twice; it must yield its value once"
        )


def _ends(generator: Any, failure: BaseException | None) -> bool:
    try:
        if failure is None:
            next(generator)
        else:
            generator.throw(failure)
    except StopIteration:
        return True
    generator.close()
    return False


async def _ends_async(generator: Any, failure: BaseException | None) -> bool:
    try:
        if failure is None:
            await generator.__anext__()
        else:
            await generator.athrow(failure)
    except StopAsyncIteration:
        return True
    await generator.aclose()
    return False


def _is_only(error: BaseException, failure: BaseException) -> bool:
    """Whether `error` is just `failure` again, as itself or as all there is in a group."""
    todo = [error]
    while todo:
        current = todo.pop()
        if isinstance(current, BaseExceptionGroup):
            todo.extend(cast("BaseExceptionGroup[BaseException]", current).exceptions)
        elif current is not failure and not _is_stop(current, failure):
            return False
    return True


def _is_stop(error: BaseException, failure: BaseException) -> bool:
    """Whether `error` is what Python makes of a Stop(Async)Iteration thrown into a generator."""
    is_stop = isinstance(failure, StopIteration | StopAsyncIteration)
    return is_stop and isinstance(error, RuntimeError) and error.__cause__ is failure


class Lifetime(Protocol):
    """The run that resources live in, which ends if one of them fails."""

    @property
    def id(self) -> str: ...
    @property
    def is_over(self) -> bool: ...
    def fail(self, error: BaseException, note: str) -> None: ...
    def call_failed(self, call: Call, error: BaseException) -> None: ...
    def stop(self) -> None: ...


class Lease:
    """One resource set up for one run or evaluation."""

    __slots__ = (
        "closed",
        "closing",
        "definition",
        "failure",
        "is_ready",
        "ready",
        "scope",
        "value",
    )

    def __init__(self, definition: ResourceDefinition) -> None:
        self.definition = definition
        self.value: Any = None
        self.is_ready = False
        self.failure: BaseException | None = None
        self.scope = CancelScope()
        self.ready = Event()
        self.closing = Event()
        self.closed = Event()

    async def host(
        self, resources: Resources, arguments: dict[str, Any], acquired: Callable[[Lease], None]
    ) -> None:
        """The whole life of the resource; what goes wrong in it ends the run."""
        try:
            with self.scope:
                async with resources.open(self.definition, arguments) as self.value:
                    self.is_ready = True
                    acquired(self)
                    self.ready.set()
                    # Shielded from the run, and not from scopes that the resource holds open: if
                    # a task in its background dies, the wait ends and so does the run.
                    self.scope.shield = True
                    await self._lend(resources)
        except BaseException as error:
            if error is not self.failure:  # which the run ends with already
                if is_cancellation(error):
                    raise
                if not has_ended(self.scope):
                    resources.set_up_failed(self.definition, error)
        finally:
            self.value = self.failure = None  # the failure's traceback refers to this frame
            self.closed.set()

    async def _lend(self, resources: Resources) -> None:
        """Wait until nobody needs it any more, and raise what this ended with."""
        try:
            await self.closing.wait()
        except get_cancelled_exc_class() as error:
            if is_being_cancelled():
                raise
            # `cancel()` of this very task: by a TaskGroup that the resource holds open, for one.
            resources.run.stop()
            interruption = await outlast(self.closing)
            if isinstance(interruption, KeyboardInterrupt):
                raise interruption from None
            raise (self.failure or error) from None
        if self.failure is not None:
            raise self.failure

    async def close(self, failure: BaseException | None) -> BaseException | None:
        """Tear down, or give up a set-up that is still going on. Bounded by its own deadline.

        The answer is what cancelled this task meanwhile.
        """
        if self.is_ready:
            self.failure = failure
            self.closing.set()
        else:
            self.scope.cancel()
        return await outlast(self.closed)


class Holdings:
    """The resources of one scope: of a run, or (within it) of one evaluation."""

    __slots__ = ("_acquired", "_around", "_leases", "_resources", "_scope")

    def __init__(self, scope: str, around: Holdings | None, resources: Resources) -> None:
        self._scope = scope
        self._around = around
        self._resources = resources
        self._leases: dict[str, Lease] = {}
        self._acquired: list[Lease] = []

    def __bool__(self) -> bool:
        return bool(self._leases)

    def ready(self, name: str) -> Lease | None:
        """The resource, if it is set up here or around here."""
        lease = self._leases.get(name)
        if lease is not None:
            return lease if lease.is_ready else None
        return None if self._around is None else self._around.ready(name)

    async def obtain(self, order: list[ResourceDefinition]) -> Any:
        """The value of the last of `order`, after all of them are set up, in that order."""
        values: dict[str, Any] = {}
        for definition in order:
            lease = self._home(definition)._lease(definition, values)
            await lease.ready.wait()
            values[definition.name] = lease.value
        return values[order[-1].name]

    async def close(self, failure: BaseException | None) -> BaseException | None:
        """Tear everything down, the last set up first; what cancelled this task meanwhile."""
        interruption = None
        for lease in self._leases.values():
            if not lease.is_ready:
                interruption = await lease.close(failure) or interruption
        while self._acquired:
            interruption = await self._acquired.pop().close(failure) or interruption
        self._leases.clear()
        return interruption

    def _home(self, definition: ResourceDefinition) -> Holdings:
        if definition.scope == self._scope or self._around is None:
            return self
        return self._around

    def _lease(self, definition: ResourceDefinition, values: dict[str, Any]) -> Lease:
        lease = self._leases.get(definition.name)
        if lease is None:
            lease = self._leases[definition.name] = Lease(definition)
            arguments = {p: values[name] for p, name in definition.dependencies.items()}
            host = partial(lease.host, self._resources, arguments, self._acquired.append)
            self._resources.start_host(host)
        return lease


class Resources:
    """The resources of one run: who provides them, which are set up, what failed at the end."""

    def __init__(self, run: Lifetime, services: Services, registry: ResourceRegistry) -> None:
        self.run = run
        self.providers = RunProviders(registry)
        self.of_run = Holdings("run", None, self)
        self.failures: list[BaseException] = []  # of tear-downs: each is told, none hides another
        self.hosts: TaskGroup | None = None  # outside of the work group, whose end they outlive
        self._bus = services.bus
        self._deadline = services.teardown_timeout
        self._open: dict[Holdings, None] = {self.of_run: None}  # the innermost last

    def of_step(self) -> Holdings:
        """A place for the step resources of one evaluation, closed with the run at the latest."""
        holdings = Holdings("step", self.of_run, self)
        self._open[holdings] = None
        return holdings

    async def close_step(
        self, holdings: Holdings, failure: BaseException | None = None
    ) -> BaseException | None:
        """Tear down what an evaluation held, now that it is over, or its scope is, by `failure`.

        The answer is what cancelled this task meanwhile.
        """
        interruption = await holdings.close(failure)
        self._open.pop(holdings, None)
        return interruption

    async def close(self, failure: BaseException | None) -> BaseException | None:
        """Tear down all of them, the innermost first, telling them what the run ended with.

        The answer is what cancelled this task meanwhile.
        """
        interruption = None
        for holdings in reversed(tuple(self._open)):
            interruption = await holdings.close(failure) or interruption
        return interruption

    def let_go(self) -> None:
        """The run is over: nothing here refers to its failures, or in a circle."""
        self.failures = []
        self.hosts = None
        self._open.clear()
        del self.of_run

    def start_host(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run the life of a resource in a task of its own."""
        assert self.hosts is not None, "resources are demanded by tasks of the work group"
        self.hosts.start_soon(function)

    async def for_attempt(
        self, call: Call, stack: AsyncExitStack
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """The arguments of an attempt, its task resources set up in `stack`."""
        values: dict[str, Any] = {}
        for name in call.resources:
            needed_by = f"task {call.slot.name!r}"
            for definition in self.providers.set_up_order(name, needed_by):
                if definition.name in values:
                    continue
                if definition.scope != "task":
                    order = self.providers.set_up_order(definition.name, needed_by)
                    holdings = self.of_run if definition.scope == "run" else call.place.holdings
                    values[definition.name] = await holdings.obtain(order)
                    continue
                if definition is EXECUTION:
                    values[definition.name] = call.execution(self.run.id)
                    continue
                arguments = {p: values[n] for p, n in definition.dependencies.items()}
                opener = self.open(definition, arguments, call)
                values[definition.name] = await self._enter(opener, definition, stack)
        args = tuple([filled(value, values) for value in call.args])
        return args, {name: filled(value, values) for name, value in call.kwargs.items()}

    async def _enter(
        self,
        opener: AbstractAsyncContextManager[Any],
        definition: ResourceDefinition,
        stack: AsyncExitStack,
    ) -> Any:
        try:
            return await stack.enter_async_context(opener)
        except BaseException as error:
            if is_cancellation(error):
                raise
            self.set_up_failed(definition, error)
            raise

    @context_manager
    async def open(
        self, definition: ResourceDefinition, arguments: dict[str, Any], call: Call | None = None
    ) -> AsyncGenerator[Any]:
        """A resource set up for the body, its events told, its failing tear-down recorded.

        `call` is the one of whose attempt it is.
        """
        acquired = False

        def failed(error: BaseException, served: BaseException | None) -> None:
            if call is not None and served is not None and not is_being_cancelled():
                self.run.call_failed(call, served)  # it came first, and no retry follows
            self._teardown_failed(error)

        try:
            async with opened(definition, arguments, self._deadline, failed) as value:
                acquired = True
                if self._bus.listens(ResourceAcquired):
                    now = current_time()
                    self._bus.publish(ResourceAcquired(self.run.id, now, definition.name))
                yield value
        finally:
            if acquired and self._bus.listens(ResourceReleased):
                now = current_time()
                self._bus.publish(ResourceReleased(self.run.id, now, definition.name))

    def set_up_failed(self, definition: ResourceDefinition, error: BaseException) -> None:
        """The resource could not be set up, or ended by itself."""
        self.run.fail(error, f"in the resource {definition.name!r}, of run {self.run.id}")

    def _teardown_failed(self, error: BaseException) -> None:
        logger.error("a tear-down failed in run %s", self.run.id, exc_info=error)
        self.failures.append(error)
        if not self.run.is_over:
            self.run.stop()
