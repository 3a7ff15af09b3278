"""The items of a map, executed at a pace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from sys import maxsize
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from cascade.core.calls import Call, Failed, Holder, Place, is_control, is_gone
from cascade.core.feeds import AsyncFeed, Feed, FlowFeed
from cascade.core.outlet import Item
from cascade.core.pace import end_of_slice
from cascade.core.recovery import recover, wrapped
from cascade.core.strategy import EvaluationPlace, Strategy
from cascade.core.trampoline import Trampoline
from cascade.core.values import (
    BY_DATA,
    Skipped,
    argument_place,
    arguments_anew,
    arguments_by_name,
    deferred_names,
)
from cascade.graph.structure import Slot

if TYPE_CHECKING:
    from cascade.graph.nodes import Node


_NOT_YET: Final = object()  # instead of the value of an item


class MapItems(Place):
    """The items of one map, by position: each is a call, or what its trampoline makes of it."""

    __slots__ = (
        "_amounts",
        "_calls",
        "_constants",
        "_evaluation",
        "_feed",
        "_followers",
        "_given",
        "_is_postponed",
        "_most",
        "_resources",
        "_results",
        "_running",
        "_skipped",
        "_slot",
        "_strategy",
        "_trampolines",
        "length",
    )

    local_id_names_owner = True

    def __init__(
        self, strategy: Strategy, evaluation: EvaluationPlace, slot: Slot, rank: int
    ) -> None:
        super().__init__(evaluation, slot.index, rank)
        self._strategy = strategy
        self._evaluation = evaluation
        self._slot = slot
        self._feed: Feed | None = None  # before the map begins, and once it is over
        self._calls: dict[int, Call] | None = None  # of items that may be withdrawn
        self._constants: Mapping[str, Any] = {}
        self._amounts: Mapping[str, Any] = {}
        self._resources: tuple[str, ...] = ()
        self.length: int | None = None  # how many items there are, if that is known
        self._followers: tuple[Callable[[int, Any], None], ...] = ()
        self._results: list[Any] = []
        self._running = 0  # items that exist
        self._most = maxsize if slot.concurrency is None else slot.concurrency
        self._is_postponed = False
        self._skipped: Skipped | None = None  # by the fallback of an item
        self.outlet = strategy.run.outlet if evaluation.is_streamed(slot) else None
        self._trampolines: dict[int, Trampoline] = {}
        self._given: dict[int, frozenset[Any]] = {}  # what TailCalls of an item gave it, by name

    @property
    def holdings(self) -> Holder:
        """Items belong to the evaluation of their map."""
        return self._evaluation.holdings

    def take_from(self, feed: Feed) -> None:
        """The feed gives the elements of the items."""
        self._feed = feed
        self.length = feed.length
        if feed.length is not None:
            self._results = [_NOT_YET] * feed.length
        if isinstance(feed, FlowFeed):
            self._calls = {}

    def follow(self, then: Callable[[int, Any], None]) -> None:
        """Have `then` called with the position and value of each item, or the Skipped it is."""
        for position, value in enumerate(self._results):
            if value is not _NOT_YET:
                then(position, value)
        self._followers = (*self._followers, then)

    def withdraw(self) -> None:
        """An element is skipped: no further item starts, of those that exist either."""
        going = [] if self._calls is None else list(self._calls.items())
        withdraws = self._strategy.run.processor.withdraws
        gone = {c for i, c in going if i not in self._trampolines and withdraws(c)}
        if self.outlet is not None:
            self.outlet.forget(gone.__contains__)
        for call in gone:
            assert self._calls is not None
            del self._calls[call.index]
            self._running -= 1

    def complete(self, skipped: Skipped | None) -> None:
        """All that the map needs has settled; if it is skipped, no further item begins."""
        self._skipped = skipped or self._skipped
        self.go_on()

    def start(self, constants: Mapping[str, Any], amounts: Mapping[str, Any]) -> None:
        """Begin with what the feed gives; `constants` and `amounts` are those of every item."""
        run, feed = self._strategy.run, self._feed
        assert feed is not None
        self._constants = constants
        self._amounts = amounts
        self._resources = deferred_names(constants.values())
        self._strategy.hold(self)
        if feed.length is not None and run.activity is not None:
            run.activity.mapped(self._slot.name, feed.length)
        if isinstance(feed, AsyncFeed):
            run.spawn(partial(self._read, feed), self.scope)
        else:
            self.go_on()

    async def _read(self, feed: AsyncFeed) -> None:
        try:
            await feed.read(lambda: self._running < self._most, self._read_one)
        except Exception as error:
            self._evaluation.failed_at(self._slot, error)
        finally:
            await feed.close(self._strategy.run.services.teardown_timeout)

    def _read_one(self) -> None:
        self.go_on()
        self._strategy.propagate()

    def go_on(self) -> None:
        """Begin as many items as there are and may be; the map ends when all have their values.

        When the slice of time is over, the rest follows later.
        """
        feed = self._feed
        if feed is None or is_gone(self):
            return
        slice_end = end_of_slice()
        while self._running < self._most and not feed.is_whole and not self._is_postponed:
            taken = self._take(feed)
            if taken is None:
                break
            if feed.length is None:
                self._grow()
            self._begin(*taken)
            if perf_counter() >= slice_end:
                self._is_postponed = True
                self._strategy.run.postpone(self._go_on_later)
        if not self._running and feed.is_whole:
            self._end()

    def _take(self, feed: Feed) -> tuple[int, tuple[Any, ...]] | None:
        try:
            return feed.take()
        except Exception as error:  # of what the user gave to be read
            self._evaluation.failed_at(self._slot, error)
            return None

    def _go_on_later(self) -> None:
        self._is_postponed = False
        self.go_on()
        self._strategy.propagate()

    def _grow(self) -> None:
        """There is one more item than was known."""
        self._results.append(_NOT_YET)
        if self._strategy.run.activity is not None:
            self._strategy.run.activity.mapped(self._slot.name, 1)

    def _begin(self, position: int, elements: tuple[Any, ...]) -> None:
        self._running += 1
        named = {**self._constants, **dict(zip(self._slot.iterables, elements, strict=True))}
        self._execute(position, named, self._amounts, self._resources)

    def again(self, call: Call, overrides: Mapping[Any, Any]) -> None:
        """Execute an item anew with other arguments."""
        named = arguments_anew(call, overrides)
        self._given[call.index] = self._given.get(call.index, frozenset()).union(overrides)
        self._execute(call.index, named, call.amounts, deferred_names(named.values()))

    def _execute(
        self,
        position: int,
        named: Mapping[Any, Any],
        amounts: Mapping[str, Any],
        resources: tuple[str, ...],
    ) -> None:
        args, kwargs = arguments_by_name(self._slot.task, named)
        call = Call(self, position, position, self._slot, args, kwargs, amounts)
        call.resources = resources
        if self._calls is not None:
            self._calls[position] = call
        self._strategy.run.make_ready(call)

    def completed(self, call: Call, value: Any) -> None:
        """An item came to `value`, or to control."""
        if value.__class__ is Failed:
            then = partial(self._recovered, call.index)
            owner = self, call.index, call.rank
            recover(self._evaluation, self._slot, value, owner, then)
        elif is_control(value):
            trampoline = self._trampolines.get(call.index)
            if trampoline is None:
                trampoline = Trampoline(self._strategy, self, call.index, call.rank)
                self._trampolines[call.index] = trampoline
            trampoline.go_on(call, value, None)
        else:
            self.settle_from(call.index, value)
        self._strategy.propagate()

    def settle_from(self, index: int, value: Any, *, is_own: bool = False) -> None:
        """The item at `index` has its value."""
        self._item_done(index, value if is_own else wrapped(self._slot, value))

    def _recovered(self, index: int, value: Any) -> None:
        """The item at `index` failed, and has `value` instead."""
        if isinstance(value, Skipped):
            self._skipped = value.because(BY_DATA, "fallback")
        self._item_done(index, value)

    def answers(self, index: int, error: Exception) -> bool:
        """Whether the item has a value instead of what its tail calls did not come to."""
        run, slot = self._strategy.run, self._slot
        failed = run.processor.answer(slot, self.task_id(index), error)
        if failed is not None:
            then = partial(self._recovered, index)
            recover(self._evaluation, slot, failed, (self, index, index), then)
        return failed is not None

    def _item_done(self, index: int, value: Any) -> None:
        self._trampolines.pop(index, None)
        self._given.pop(index, None)
        if self._calls is not None:
            del self._calls[index]
        self._results[index] = value
        self._running -= 1
        for then in self._followers:
            then(index, value)
        if self.outlet is not None and not isinstance(value, Skipped):
            self.outlet.put(Item(self.task_id(index), index, value))
        if self._strategy.run.activity is not None:
            self._strategy.run.activity.item_done(self._slot.name)
        self.go_on()

    def _end(self) -> None:
        self._strategy.drop(self)
        results = self._results
        if not self._slot.is_followed:  # else a map may ask for them that does not know it yet
            self._results = []
        self._feed = None
        self._evaluation.settle_map(self._slot, self._skipped or results)

    def release(self) -> None:
        """Let go of all values, and of all that refers back: the run is over."""
        self._results = []
        self._feed = None
        self._followers = ()
        self._calls = None
        self._constants = self._amounts = {}
        self._trampolines.clear()
        if self.outlet is not None:
            self.outlet.forget(lambda call: call.place is self)

    def local_id(self, index: int) -> str:
        """The id of the item's node: the map's id, the position, and its place in the item."""
        owner = self._evaluation.local_id(self._slot.index)
        return f"{owner}[{index}]/{self._slot.name}#0"

    def execution_of(self, index: int) -> tuple[int, ...]:
        """The execution of an item that made tail calls."""
        trampoline = self._trampolines.get(index)
        return () if trampoline is None else trampoline.execution

    def node(self, index: int) -> Node:
        """The public node of the map."""
        return self._evaluation.node(self._slot.index)

    def injected(self, index: int) -> frozenset[int | str]:
        """The arguments that are injected resources: positions and keywords."""
        injected = self._evaluation.injected(self._slot.index)
        given = self._given.get(index, ())
        return injected.difference(argument_place(self._slot.task, name) for name in given)

    def local_path(self, index: int) -> list[str]:
        """The item's id, and then the path of its map."""
        return [self.local_id(index), *self._evaluation.local_path(self._slot.index)]
