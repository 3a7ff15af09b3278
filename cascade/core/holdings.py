"""The run and step resources that are set up: on first demand, once; torn down in reverse order.

Each lives in a host task of its own, which sets it up, waits shielded until it is to close, and
tears it down: whatever the generator keeps open across its `yield` is entered and left there.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Protocol

from anyio import CancelScope, Event, get_cancelled_exc_class

from cascade.core.cancellation import has_ended, is_being_cancelled, is_cancellation, outlast
from cascade.workflow.resources import ResourceDefinition


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
