"""The run and step resources that are set up: on first demand, once; torn down in reverse order.

Each lives in a host task of its own, which sets it up, waits shielded until it is to close, and
tears it down: whatever the generator keeps open across its `yield` is entered and left there.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from anyio import CancelScope, Event

from cascade.cancellation import is_cancellation
from cascade.resources import ResourceDefinition

Opener = Callable[[ResourceDefinition, dict[str, Any]], AbstractAsyncContextManager[Any]]
Spawn = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


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
        self,
        opener: Opener,
        arguments: dict[str, Any],
        acquired: Callable[[Lease], None],
        failed: Callable[[ResourceDefinition, BaseException], None],
    ) -> None:
        """The whole life of the resource; a failing set-up is given to `failed`."""
        try:
            with self.scope:
                async with opener(self.definition, arguments) as self.value:
                    self.is_ready = True
                    acquired(self)
                    self.ready.set()
                    # Shielded from the run, and not from scopes that the resource holds open: if
                    # a task in its background dies, the wait ends and so does the run.
                    self.scope.shield = True
                    await self.closing.wait()
                    if self.failure is not None:
                        raise self.failure
        except BaseException as error:
            if is_cancellation(error):
                raise
            if error is not self.failure:
                failed(self.definition, error)
        finally:
            self.closed.set()

    async def close(self, failure: BaseException | None) -> None:
        """Tear down, or give up a set-up that is still going on. Bounded by its own deadline."""
        if self.is_ready:
            self.failure = failure
            self.closing.set()
        else:
            self.scope.cancel()
        with CancelScope(shield=True):
            await self.closed.wait()


class Holdings:
    """The resources of one scope: of a run, or (within it) of one evaluation."""

    __slots__ = ("_acquired", "_around", "_failed", "_leases", "_opener", "_scope", "_spawn")

    def __init__(
        self,
        scope: str,
        around: Holdings | None,
        opener: Opener,
        spawn: Spawn,
        failed: Callable[[ResourceDefinition, BaseException], None],
    ) -> None:
        self._scope = scope
        self._around = around
        self._opener = opener
        self._spawn = spawn
        self._failed = failed
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

    async def close(self, failure: BaseException | None) -> None:
        """Tear everything down, the last set up first."""
        for lease in self._leases.values():
            if not lease.is_ready:
                await lease.close(failure)
        while self._acquired:
            await self._acquired.pop().close(failure)
        self._leases.clear()

    def _home(self, definition: ResourceDefinition) -> Holdings:
        if definition.scope == self._scope or self._around is None:
            return self
        return self._around

    def _lease(self, definition: ResourceDefinition, values: dict[str, Any]) -> Lease:
        lease = self._leases.get(definition.name)
        if lease is None:
            lease = self._leases[definition.name] = Lease(definition)
            arguments = {p: values[name] for p, name in definition.dependencies.items()}
            self._spawn(
                partial(lease.host, self._opener, arguments, self._acquired.append, self._failed)
            )
        return lease
