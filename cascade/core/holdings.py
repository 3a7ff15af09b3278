"""The run and step resources that are set up: on first demand, once; torn down in reverse order.

Each lives in a host task of its own, which sets it up, waits shielded until it is to close, and
tears it down: whatever the generator keeps open across its `yield` is entered and left there.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial, wraps
from types import TracebackType
from typing import Any, ParamSpec, Protocol, TypeVar, cast

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
from cascade.workflow.resources import ResourceDefinition

P = ParamSpec("P")
T = TypeVar("T")


class Keeper(Protocol):
    """The run whose resources they are."""

    def open_resource(
        self, definition: ResourceDefinition, arguments: dict[str, Any]
    ) -> AbstractAsyncContextManager[Any]: ...
    def spawn_host(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None: ...
    def set_up_failed(self, definition: ResourceDefinition, error: BaseException) -> None: ...
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
        self, keeper: Keeper, arguments: dict[str, Any], acquired: Callable[[Lease], None]
    ) -> None:
        """The whole life of the resource; the keeper is told what goes wrong in it."""
        try:
            with self.scope:
                async with keeper.open_resource(self.definition, arguments) as self.value:
                    self.is_ready = True
                    acquired(self)
                    self.ready.set()
                    # Shielded from the run, and not from scopes that the resource holds open: if
                    # a task in its background dies, the wait ends and so does the run.
                    self.scope.shield = True
                    await self._lend(keeper)
        except BaseException as error:
            if error is not self.failure:  # which the run ends with already
                if is_cancellation(error):
                    raise
                if not has_ended(self.scope):
                    keeper.set_up_failed(self.definition, error)
        finally:
            self.value = self.failure = None  # the failure's traceback refers to this frame
            self.closed.set()

    async def _lend(self, keeper: Keeper) -> None:
        """Wait until nobody needs it any more, and raise what this ended with."""
        try:
            await self.closing.wait()
        except get_cancelled_exc_class() as error:
            if is_being_cancelled():
                raise
            # `cancel()` of this very task: by a TaskGroup that the resource holds open, for one.
            keeper.stop()
            await outlast(self.closing)
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

    __slots__ = ("_acquired", "_around", "_keeper", "_leases", "_scope")

    def __init__(self, scope: str, around: Holdings | None, keeper: Keeper) -> None:
        self._scope = scope
        self._around = around
        self._keeper = keeper
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
            host = partial(lease.host, self._keeper, arguments, self._acquired.append)
            self._keeper.spawn_host(host)
        return lease


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
