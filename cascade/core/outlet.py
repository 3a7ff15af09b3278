"""Items of maps as they settle: what a run puts into a buffer, and its caller reads from there.

A full buffer holds items back: a call of an item that asks to start then waits, without a task,
until the reader has made room. As many go on as there is room for; when these have had their turn
and there is room left, since they suspended, the next ones follow. Items that run already settle
all the same. Whoever waits for the value of the run reads nothing meanwhile, so nothing is held
back then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from anyio import Event
from anyio.lowlevel import checkpoint

from cascade.core.pace import BATCH

T = TypeVar("T")


class Running(Protocol):
    """The run that puts items in."""

    is_over: bool

    def postpone(self, function: Callable[[], None]) -> None: ...


@dataclass(frozen=True, slots=True)
class Item(Generic[T]):
    """One item of a map that has its value.

    `task_id` is the id that the events of the item have, `index` its position in the map.
    """

    task_id: str
    index: int
    value: T


class Outlet:
    """Between one run, which puts items in, and its caller, who takes them out."""

    __slots__ = (
        "_changed",
        "_held",
        "_items",
        "_passing",
        "_size",
        "_taken",
        "_waiting",
        "failure",
        "is_left",
        "is_met",
        "is_over",
        "maps",
        "reason",
        "run",
        "value",
    )

    def __init__(self, maps: frozenset[int], size: int) -> None:
        self.maps = maps  # the slots of the target whose items come here
        self.run: Running | None = None
        self.is_over = False
        self.is_left = False  # by the caller, before the run was over
        self.is_met = False  # the failure, by the caller
        self.failure: BaseException | None = None
        self.value: Any = None
        self.reason = f"the full buffer of the stream ({size} items not read)"  # of a held call
        self._size = size
        self._items: deque[Item[Any]] = deque()
        self._taken = 0  # since a checkpoint
        self._waiting = 0  # how many wait for the value
        self._held: deque[tuple[object, Callable[[], None]]] = deque()
        self._passing: set[object] = set()  # let in, and not asking again yet
        self._changed: Event | None = None

    # The run's side

    def put(self, item: Item[Any]) -> None:
        """An item has its value."""
        self._items.append(item)
        self._tell()

    def holds(self, call: object) -> bool:
        """Whether a call that is about to start has to wait until there is room."""
        if call in self._passing:
            self._passing.discard(call)
            self._follow()
            return False
        return not self._waiting and len(self._items) >= self._size

    def hold(self, call: object, resume: Callable[[], None]) -> None:
        """Have the call resumed when there is room."""
        self._held.append((call, resume))

    def forget(self, is_gone: Callable[[Any], bool]) -> None:
        """Some calls do not ask any more: they were withdrawn, or what they stand in is over."""
        self._held = deque((call, resume) for call, resume in self._held if not is_gone(call))
        self._passing = {call for call in self._passing if not is_gone(call)}
        self._follow()

    def _follow(self) -> None:
        """The next calls follow once those that were let in have had their turn."""
        if not self._passing and self._held and self.run is not None:
            self.run.postpone(self._let_in)

    def _let_in(self) -> None:
        """Have as many calls go on as there is room for, those of the last time having asked."""
        if self._passing:
            return
        room = len(self._held) if self._waiting else self._size - len(self._items)
        going = [self._held.popleft() for _ in range(min(room, len(self._held)))]
        self._passing.update(call for call, _ in going)
        for _, resume in going:
            resume()

    def end(self) -> None:
        """The run is over: with a failure, or with a value."""
        self.is_over = True
        self.run = None
        self._held.clear()
        self._passing.clear()
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    # The caller's side

    async def take(self) -> Item[Any] | None:
        """The next item; None if there are no more."""
        while not self._items or self._taken >= BATCH:
            self._taken = 0
            if self._items:
                await checkpoint()
            elif self.is_over:
                self._raise_failure()
                return None
            else:
                await self._change()
        self._taken += 1
        item = self._items.popleft()
        if self._held:
            self._let_in()
        return item

    async def result(self) -> Any:
        """What the run came to."""
        self._waiting += 1
        try:
            self._let_in()
            while not self.is_over:
                await self._change()
            await checkpoint()
        finally:
            self._waiting -= 1
        self._raise_failure()
        return self.value

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = Event()
        await self._changed.wait()

    def _raise_failure(self) -> None:
        if self.is_left:
            raise RuntimeError(
                "the block of the stream was left before its run was over, which was cancelled; "
                "read items and value within `async with engine.stream(...) as results:`"
            )
        if self.failure is not None:
            self.is_met = True
            raise self.failure
