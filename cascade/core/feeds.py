"""Where the items of a map take their elements from: what is there, or what is read as they begin.

Whoever feeds a map gives one row after the other, the elements of one item each. A map takes a row
when it may have one more item, and so nothing is read further ahead than items begin.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from heapq import heappop, heappush
from time import perf_counter
from typing import Any, Final, Protocol

from anyio import CancelScope, Event, current_time
from anyio.lowlevel import checkpoint

from cascade.core.pace import end_of_slice
from cascade.workflow.source import Source
from cascade.workflow.task import check_lengths

Row = tuple[Any, ...]
_END: Final = object()


class Feed(Protocol):
    """Gives rows in the order in which items may begin, each with the position of its item."""

    @property
    def length(self) -> int | None:
        """How many items there are, if that is known."""
        ...

    @property
    def is_whole(self) -> bool:
        """Whether all rows were taken."""
        ...

    def take(self) -> tuple[int, Row] | None:
        """The next row; None if there is none now."""
        ...


class WholeFeed:
    """Rows that are all there."""

    __slots__ = ("_rows", "_taken", "length")

    def __init__(self, items: Mapping[str, list[Any]]) -> None:
        self.length: int | None = min(map(len, items.values()))
        self._rows = enumerate(zip(*items.values(), strict=True))
        self._taken = 0

    @property
    def is_whole(self) -> bool:
        return self._taken == self.length

    def take(self) -> tuple[int, Row] | None:
        self._taken += 1
        return next(self._rows)


class FlowFeed:
    """Rows that are there as soon as all their elements are, whichever comes first."""

    __slots__ = ("_is_final", "_is_stopped", "_ready", "_rows", "_taken", "_width", "length")

    def __init__(self, length: int, width: int) -> None:
        self.length: int | None = length
        self._width = width
        self._rows: dict[int, dict[int, Any]] = {}
        self._ready: list[int] = []  # a heap
        self._taken = 0
        self._is_stopped = False
        self._is_final = False

    @property
    def is_whole(self) -> bool:
        """Not before all that the map needs has settled."""
        return self._is_final and (self._is_stopped or self._taken == self.length)

    def take(self) -> tuple[int, tuple[Any, ...]] | None:
        """The first row that is there."""
        if self._is_stopped or not self._ready:
            return None
        self._taken += 1
        position = heappop(self._ready)
        row = self._rows.pop(position)
        return position, tuple([row[column] for column in range(self._width)])

    def came(self, column: int, position: int, value: Any) -> None:
        """An element has settled."""
        if not self._is_stopped:
            row = self._rows.setdefault(position, {})
            row[column] = value
            if len(row) == self._width:
                heappush(self._ready, position)

    def stop(self) -> None:
        """No further item begins."""
        self._is_stopped = True
        self._rows.clear()

    def end(self) -> None:
        """All that the map needs has settled."""
        self._is_final = True


class _Reader:
    """Reads iterables row by row; all of them have to end together."""

    __slots__ = ("_count", "_iterators", "_lengths", "_task_name", "is_whole")

    length: int | None = None

    def __init__(self, task_name: str, items: Mapping[str, Any]) -> None:
        self._task_name = task_name
        self._iterators: dict[str, Any] = {
            name: each.begin() if isinstance(each, Source) else iter(each)
            for name, each in items.items()
        }
        self._lengths = {n: len(each) for n, each in items.items() if not isinstance(each, Source)}
        self._count = 0
        self.is_whole = False

    @property
    def _position(self) -> int:
        return self._count - 1

    def _checked(self, row: list[Any]) -> Row | None:
        """The row, or None if that was the end."""
        if all(element is not _END for element in row):
            self._count += 1
            return tuple(row)
        names = zip(self._iterators, row, strict=True)
        read = {n: self._count if element is _END else self._known(n) for n, element in names}
        check_lengths(self._task_name, read)
        self.is_whole = True
        return None

    def _known(self, name: str) -> object:
        return self._lengths.get(name, f"more than {self._count}")


class LazyFeed(_Reader):
    """Rows that are read from iterables when they are taken."""

    __slots__ = ()

    def take(self) -> tuple[int, Row] | None:
        row = self._checked([next(each, _END) for each in self._iterators.values()])
        return None if row is None else (self._position, row)


class AsyncFeed(_Reader):
    """Rows that a task reads, one whenever the map may have one more item."""

    __slots__ = ("_row", "_wake")

    def __init__(self, task_name: str, items: Mapping[str, Any]) -> None:
        super().__init__(task_name, items)
        self._row: Row | None = None
        self._wake: Event | None = None

    def take(self) -> tuple[int, Row] | None:
        row, self._row = self._row, None
        if self._wake is not None:
            self._wake.set()
        return None if row is None else (self._position, row)

    async def read(self, has_room: Callable[[], bool], go_on: Callable[[], None]) -> None:
        """Read everything, as there is room, and have the map go on with each row and at the end.

        What it reads from is closed in the end, in this same task.
        """
        slice_end = end_of_slice()
        try:
            while not self.is_whole:
                while self._row is not None or not has_room():
                    self._wake = Event()
                    await self._wake.wait()
                    slice_end = end_of_slice()
                self._wake = None
                if perf_counter() >= slice_end:
                    await checkpoint()
                    slice_end = end_of_slice()
                self._row = self._checked([await _next(i) for i in self._iterators.values()])
                go_on()
        finally:
            self._wake = None

    async def close(self, seconds: float) -> None:
        """Close the async generators; `TimeoutError` if one takes longer than so many seconds."""
        for name, iterator in self._iterators.items():
            aclose = getattr(iterator, "aclose", None)
            if aclose is None or not isinstance(iterator, AsyncIterator):
                continue
            with CancelScope(shield=True, deadline=current_time() + seconds) as scope:
                await aclose()
            if scope.cancelled_caught:
                raise TimeoutError(
                    f"closing what {self._task_name}.map({name}=cs.lazily(...)) reads did not "
                    f"finish within {seconds:g} s and was cancelled"
                )


async def _next(iterator: Iterator[Any] | AsyncIterator[Any]) -> Any:
    if isinstance(iterator, AsyncIterator):
        return await anext(iterator, _END)
    return next(iterator, _END)


def feed_of(task_name: str, items: Mapping[str, Any]) -> WholeFeed | LazyFeed | AsyncFeed:
    """What feeds a map of the task: by parameter, lists and what is read lazily."""
    sources = [each for each in items.values() if isinstance(each, Source)]
    if not sources:
        check_lengths(task_name, {name: len(values) for name, values in items.items()})
        return WholeFeed(items)
    if all(source.is_sync for source in sources):
        return LazyFeed(task_name, items)
    return AsyncFeed(task_name, items)
