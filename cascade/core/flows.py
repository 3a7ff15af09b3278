"""Maps whose items begin as their own elements settle, before all the elements are there.

That is so where the number of items is known by then: over a list or tuple of expressions, and over
another map. The map itself is ready when all that it needs has settled, as any node is; what has
not begun by then begins then, or the map is skipped once what did begin has its value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from cascade.core.feeds import FlowFeed
from cascade.core.values import Deferred, Skipped
from cascade.graph.structure import MAP, Slot

if TYPE_CHECKING:
    from cascade.core.strategy import EvaluationPlace, Items


class Flow:
    """One map of an evaluation, from when it is demanded until all that it needs has settled."""

    __slots__ = (
        "_begun",
        "_columns",
        "_evaluation",
        "_feed",
        "_is_connected",
        "_is_over",
        "_items",
        "_missing",
        "_slot",
        "read",
    )

    def __init__(self, evaluation: EvaluationPlace, slot: Slot) -> None:
        self._evaluation = evaluation
        self._slot = slot
        self.read: dict[str, list[Any]] = {}  # iterables that are no flow, which are read once
        self._begun: dict[str, Items] = {}  # the maps that it is fed by
        self._columns: dict[str, list[Any]] = {}  # the values of those that had ended before
        self._missing = 0
        self._items: Items | None = None
        self._feed: FlowFeed | None = None
        self._is_connected = False
        self._is_over = False

    def begin(self) -> None:
        """Begin once the number of items is known, and what all items need is there."""
        evaluation, slot = self._evaluation, self._slot
        after = () if evaluation.is_body(slot.index) else slot.after
        sources = [(name, ref) for name, ref in slot.flowing if self._is_map(ref)]
        self._missing = 1 + len(sources)
        for name, ref in sources:
            evaluation.when_begun(ref, partial(self._map_begins, name))
            evaluation.on_settled(ref, partial(self._map_settled, name))
        evaluation.when_settled((*after, *slot.base), self._one_less)

    def complete(self, skipped: Skipped | None) -> bool:
        """All that the map needs has settled; False if its items have still to be begun."""
        self._is_over = True
        if self._items is None or self._feed is None:
            return False
        if skipped is not None:
            self._feed.stop()
        self._feed.end()
        self._items.complete(skipped)
        return True

    def _is_map(self, ref: int) -> bool:
        return self._evaluation.structure.slots[ref].kind is MAP

    def _map_begins(self, name: str, items: Items) -> None:
        self._begun[name] = items
        if items.length is not None:
            self._one_less()

    def _map_settled(self, name: str, value: Any) -> None:
        """It has a value without having begun, or had it before this map was demanded."""
        if name not in self._begun and type(value) is list:
            self._columns[name] = value
            self._one_less()

    def _one_less(self) -> None:
        self._missing -= 1
        if not self._missing and not self._is_over:
            try:
                self._start()
            except Exception as error:
                self._evaluation.failed_at(self._slot, error)

    def _start(self) -> None:
        evaluation, slot = self._evaluation, self._slot
        if evaluation.lacks_inputs(slot):
            return
        flowing = dict(slot.flowing)
        for name in slot.iterables:
            if name not in flowing:
                self.read[name] = evaluation.column(slot, name)
        lengths = {self._length(name, flowing.get(name)) for name in slot.iterables}
        if len(lengths) > 1:
            return
        self._feed = FlowFeed(lengths.pop(), len(slot.iterables))
        self._items = evaluation.start_items(slot, self._feed)
        for column, name in enumerate(slot.iterables):
            self._connect(column, name, flowing.get(name))
        self._is_connected = True
        self._items.go_on()

    def _length(self, name: str, ref: int | None) -> int:
        if ref is None:
            return len(self.read[name])
        if name in self._columns:
            return len(self._columns[name])
        if name in self._begun:
            length = self._begun[name].length
            assert length is not None
            return length
        return len(self._evaluation.structure.slots[ref].members)

    def _connect(self, column: int, name: str, ref: int | None) -> None:
        evaluation = self._evaluation
        if ref is None:
            self._bring(column, self.read[name])
        elif name in self._columns:
            self._bring(column, self._columns[name])
        elif name in self._begun:
            self._begun[name].follow(partial(self._came, column))
        elif evaluation.has_settled(ref):
            value = evaluation.value(ref)
            if isinstance(value, Skipped | Deferred):
                self._came(column, 0, value)
            else:
                self._bring(column, value)
        else:
            members = evaluation.structure.slots[ref].members
            for position in reversed(range(len(members))):
                self._hear(members[position], partial(self._came, column, position))

    def _hear(self, ref: int, then: Callable[[Any], None]) -> None:
        if ref < 0:
            then(self._evaluation.value(ref))
        else:
            self._evaluation.on_settled(ref, then)

    def _bring(self, column: int, values: Iterable[Any]) -> None:
        for position, value in enumerate(values):
            self._came(column, position, value)

    def _came(self, column: int, position: int, value: Any) -> None:
        assert self._feed is not None
        assert self._items is not None
        if isinstance(value, Skipped | Deferred):
            self._feed.stop()
            self._items.withdraw()
        else:
            self._feed.came(column, position, value)
            if self._is_connected:
                self._items.go_on()
