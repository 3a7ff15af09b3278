"""Whether the awaits of a routine stand alone: whatever way an iteration takes, no other call of it
could go on meanwhile.

Of two calls that come up in one iteration the lower one has to need the upper one. That hangs on
the way: a value needs the route that was chosen, not what the other routes would have called. So a
row *needs* a call if there is no way in which both come up and the row could come first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cascade.vm import isa

_CHOOSES: Final = (isa.Branch, isa.Follow, isa.Choose)  # they open regions, and give no value

Code = tuple[isa.Instruction, ...]
Choice = tuple[int, int]  # of a row: the region that it opens
Calls = int  # a set of rows: their bits


def awaits_stand_alone(code: Code) -> bool:
    """Whether each await needs all calls above it, and all calls below need it."""
    needs = _Needs(code).by_row
    calls = [pc for pc, row in enumerate(code) if isinstance(row, isa.Invocation)]
    return all(
        needs[lower] >> upper & 1
        for at, lower in enumerate(calls)
        for upper in calls[:at]
        if isinstance(code[upper], isa.Await) or isinstance(code[lower], isa.Await)
    )


class _Needs:
    """By row, the calls that it needs. Each region is opened above all that stands in it."""

    def __init__(self, code: Code) -> None:
        self.by_row: list[Calls] = []
        self._openers: dict[int, list[int]] = {}  # of a region
        self._sources: dict[int, list[int]] = {}  # which rows may give a value
        self._certain = _certain_choices(code)
        self._others = self._excluded(code)
        held: dict[int, int] = {}  # by register
        for pc, row in enumerate(code):
            needed = self._to_open(row.at)
            for register in row.reads():
                needed |= self._to_give(held[register])
            self.by_row.append(needed)
            for region in row.opens():
                self._openers.setdefault(region, []).append(pc)
            if isinstance(row, isa.Producer):
                held[row.dst] = row.source
                if not isinstance(row, _CHOOSES):
                    self._sources.setdefault(row.source, []).append(pc)

    def _excluded(self, code: Code) -> dict[Choice, Calls]:
        """By choice, the calls that come up only if its row chooses otherwise."""
        chosen: dict[int, dict[int, Calls]] = {}
        for pc, row in enumerate(code):
            if isinstance(row, isa.Invocation):
                for opener, region in self._certain[row.at]:
                    by_region = chosen.setdefault(opener, {})
                    by_region[region] = by_region.get(region, 0) | 1 << pc
        return {
            (opener, region): _union(calls for r, calls in by_region.items() if r != region)
            for opener, by_region in chosen.items()
            for region in code[opener].opens()
        }

    def _to_open(self, region: int) -> Calls:
        """What is needed on each of the ways that lead to a region."""
        return _common(
            self.by_row[opener] | self._others.get((opener, region), 0)
            for opener in self._openers.get(region, ())
        )

    def _to_give(self, source: int) -> Calls:
        """What is needed by each row that may give a value."""
        return _common(self.by_row[pc] | 1 << pc for pc in self._sources.get(source, ()))


def _certain_choices(code: Code) -> dict[int, frozenset[Choice]]:
    """By region, the choices that every way to it makes.

    Of a region that no row opens, which holds what only a failure demands, none is known.
    """
    certain: dict[int, frozenset[Choice]] = {0: frozenset()}
    ways: dict[int, list[frozenset[Choice]]] = {}
    for pc, row in enumerate(code):
        if row.at not in certain:
            certain[row.at] = frozenset.intersection(*ways.get(row.at, [frozenset()]))
        for region in row.opens():
            ways.setdefault(region, []).append(certain[row.at] | {(pc, region)})
    return certain


def _common(sets: Iterable[Calls]) -> Calls:
    found: Calls | None = None
    for calls in sets:
        found = calls if found is None else found & calls
    return found or 0


def _union(sets: Iterable[Calls]) -> Calls:
    found: Calls = 0
    for calls in sets:
        found |= calls
    return found
