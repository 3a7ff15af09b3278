"""`engine.stream`: a run in a task group of its caller's block, which reads what settles."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any, Generic, TypeVar, cast

from anyio import CancelScope, create_task_group

from cascade.core.cancellation import is_cancellation
from cascade.core.holdings import context_manager
from cascade.core.outlet import Item, Outlet
from cascade.core.pace import in_slices
from cascade.errors import add_note
from cascade.graph.reading import reading
from cascade.graph.slices import Work
from cascade.plain import brief, error_text
from cascade.workflow.expressions import MappedLazyResult

T = TypeVar("T")
V = TypeVar("V")


class Stream(Generic[T, V]):
    """What `engine.stream` gives its block: the items of maps as they settle, and the value.

    Iterated over, it gives a `cs.Item` for each item. Several tasks may iterate: each item goes to
    one of them. A failure of the run is raised by the iteration after the items that settled before
    it, and by `value()`.
    """

    __slots__ = ("_outlet",)

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet

    def __aiter__(self) -> Stream[T, V]:
        return self

    async def __anext__(self) -> Item[T]:
        item = await self._outlet.take()
        if item is None:
            raise StopAsyncIteration
        return item

    async def value(self) -> V:
        """The value of the target, once the run is over; it raises what the run failed with.

        While it is awaited, no item is held back. Items that were not read can be read afterwards.
        """
        return cast("V", await self._outlet.result())


@context_manager
async def streaming(
    run: Callable[[Outlet], Awaitable[Any]],
    target: Any,
    maps: tuple[MappedLazyResult[Any], ...],
    size: int,
) -> AsyncGenerator[Stream[Any, Any]]:
    """A run in a task group of the block, which is cancelled and awaited when the block is left."""
    outlet = Outlet(await in_slices(slots_of(maps, target)), size)
    raised: BaseException | None = None
    try:
        async with create_task_group() as group:
            group.start_soon(_carry_out, run, outlet, group.cancel_scope)
            try:
                yield Stream(outlet)
            except BaseException as error:
                if is_cancellation(error):
                    raise
                raised = error  # out of the group it would come in a group
            if outlet.run is None or not outlet.run.is_over:
                group.cancel_scope.cancel()
    finally:
        failure = None if outlet.is_met else outlet.failure
        try:
            if raised is not None:
                if failure is not None and failure is not raised:
                    add_note(raised, f"the run had failed: {error_text(failure)}")
                raise raised
            if failure is not None:
                raise failure
        finally:
            del failure, raised  # their tracebacks refer to this frame


async def _carry_out(
    run: Callable[[Outlet], Awaitable[Any]], outlet: Outlet, scope: CancelScope
) -> None:
    try:
        outlet.value = await run(outlet)
    except BaseException as error:
        if is_cancellation(error):
            outlet.is_left = True
            raise
        outlet.failure = error
        if isinstance(error, KeyboardInterrupt | SystemExit):
            scope.cancel()  # the block ends now, whatever it is waiting for
    finally:
        outlet.end()


def check_items(items: object) -> tuple[MappedLazyResult[Any], ...]:
    """The maps whose items are to be given; `TypeError` for what is no list, or no map."""
    if isinstance(items, MappedLazyResult):
        raise TypeError(f"items={items!r} must be a list; write items=[...]")
    if not isinstance(items, Iterable) or isinstance(items, str):
        raise TypeError(
            f"items={brief(items)} must be a list of maps, task.map(...), of the target"
        )
    return tuple(items)


def slots_of(maps: tuple[MappedLazyResult[Any], ...], target: Any) -> Work[frozenset[int]]:
    """The slots of maps of a target; `ValueError` for one that is none."""
    if not maps:
        return frozenset()
    read = yield from reading(target)
    found: set[int] = set()
    for each in maps:
        slot = read.find(each) if isinstance(each, MappedLazyResult) else None
        if slot is None:
            raise ValueError(
                f"items holds {brief(each)}, which is no map of the target; give maps, "
                "task.map(...), that are the target or stand within it"
            )
        found.add(slot)
    return frozenset(found)
