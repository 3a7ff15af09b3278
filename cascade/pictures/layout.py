"""Where the boxes of a picture stand: in layers from top to bottom, as Sugiyama's method has it.

1. Layers: longest path, so that every line goes down. Lines that go *back* take no part, and find
   their way up between the boxes last.
2. Points: a line over several layers gets a point in each layer between. Lines of one look that
   begin at the same box share their points. There are at most `MOST_POINTS`; the longest lines
   go without, straight.
3. Order within the layers: sweeps by barycenter; the order with the fewest crossings is kept.
4. Places: sweeps in which each layer comes as close as its order and the sizes allow to where its
   neighbours would have it (least squares, by pooling adjacent violators).

Everything is a loop over lists; the time is close to linear in boxes, lines and points.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

MOST_POINTS: Final = 20_000
GAP: Final = 28.0  # between neighbours in a layer
LEVEL: Final = 56.0  # between layers
MARGIN: Final = 16.0
DETOUR: Final = 22.0  # of a loop to itself
_CLEAR: Final = 9.0  # what a back line keeps away from anything else
_SWEEPS: Final = 12
_POINT_WEIGHT: Final = 4.0  # long lines shall be straight

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Box:
    """The size of something to place; `beside` is kept free on its right.

    Links come and go along the middle part `ports` (0 to 1) of its upper and lower sides.
    """

    width: float
    height: float
    beside: float = 0.0
    ports: float = 0.5


@dataclass(frozen=True, slots=True)
class Link:
    """A line between two boxes, by number. Links of one `look` share their way."""

    source: int
    target: int
    look: str = ""
    is_back: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """The middle of each box, and the points of each link from end to end."""

    width: float
    height: float
    middles: tuple[Point, ...]
    ways: tuple[tuple[Point, ...], ...]


def lay_out(boxes: Sequence[Box], links: Sequence[Link]) -> Layout:
    """Place the boxes so that links go down, with few crossings, and back links up.

    Links that are not back links make no circle, and a back link closes one.
    """
    return _Layouter(boxes, links).lay_out()


class _Layouter:
    """The boxes, numbered from 0, and after them the points of long links."""

    def __init__(self, boxes: Sequence[Box], links: Sequence[Link]) -> None:
        self._boxes = boxes
        self._links = links
        self._margin = MARGIN + (DETOUR if any(link.is_back for link in links) else 0.0)
        self._layer = _layers(len(boxes), self._forward())
        self._points: list[list[int]] = [[] for _ in links]
        self._segments: list[tuple[int, int]] = []
        self._insert_points()
        count = len(self._layer)
        self._above: list[list[int]] = [[] for _ in range(count)]
        self._below: list[list[int]] = [[] for _ in range(count)]
        for upper, lower in self._segments:
            self._above[lower].append(upper)
            self._below[upper].append(lower)

    def _forward(self) -> list[tuple[int, int]]:
        return [(link.source, link.target) for link in self._links if not link.is_back]

    def _insert_points(self) -> None:
        spans = sorted(
            (self._layer[link.target] - self._layer[link.source], number)
            for number, link in enumerate(self._links)
            if not link.is_back
        )
        shared: dict[tuple[int, str, int], int] = {}
        segments: dict[tuple[int, int], None] = {}
        left = MOST_POINTS
        for span, number in spans:
            link = self._links[number]
            if span - 1 > left:
                break
            last = link.source
            for level in range(self._layer[link.source] + 1, self._layer[link.target]):
                key = (link.source, link.look, level)
                point = shared.get(key)
                if point is None:
                    point = shared[key] = len(self._layer)
                    self._layer.append(level)
                    left -= 1
                self._points[number].append(point)
                segments[last, point] = None
                last = point
            segments[last, link.target] = None
        self._segments = list(segments)

    def lay_out(self) -> Layout:
        rows = self._order()
        x = self._places(rows)
        left = min((x[n] - self._half(n) for n in range(len(x))), default=0.0)
        x = [place - left + MARGIN for place in x]
        tops, bottoms = self._levels(rows)
        ways = _Ways(self._boxes, self._links, self._layer, x, tops, bottoms)
        drawn = [
            () if link.is_back else ways.down(number, self._points[number])
            for number, link in enumerate(self._links)
        ]
        back = [number for number, link in enumerate(self._links) if link.is_back]
        for number in sorted(back, key=ways.span):
            drawn[number] = ways.back(number)
        return Layout(
            ways.right + MARGIN,
            (bottoms[-1] if rows else 0.0) + self._margin,
            tuple(ways.middle(n) for n in range(len(self._boxes))),
            tuple(drawn),
        )

    # Order

    def _order(self) -> list[list[int]]:
        rows: list[list[int]] = [[] for _ in range(max(self._layer, default=-1) + 1)]
        for number in self._first_order():
            rows[self._layer[number]].append(number)
        best = [list(row) for row in rows]
        fewest = self._crossings(rows)
        place = [0.0] * len(self._layer)
        for sweep in range(_SWEEPS):
            if fewest == 0:
                break
            neighbours = self._below if sweep % 2 else self._above
            for row in reversed(rows) if sweep % 2 else rows:
                for position, number in enumerate(row):
                    place[number] = float(position)
                row.sort(key=_barycenter(neighbours, place))
                for position, number in enumerate(row):
                    place[number] = float(position)
            crossings = self._crossings(rows)
            if crossings < fewest:
                fewest, best = crossings, [list(row) for row in rows]
        return best

    def _first_order(self) -> list[int]:
        """Depth first, from what nothing needs up to its inputs: what belongs together is near."""
        found: dict[int, None] = {}
        roots = [n for n in range(len(self._layer)) if not self._below[n]]
        stack = list(reversed(roots))
        while stack:
            number = stack.pop()
            if number not in found:
                found[number] = None
                stack.extend(reversed(self._above[number]))
        return list(found)

    def _crossings(self, rows: list[list[int]]) -> int:
        total = 0
        place = {number: position for row in rows for position, number in enumerate(row)}
        for row in rows:
            total += _inversions(
                [low for n in row for low in sorted(map(place.__getitem__, self._below[n]))]
            )
        return total

    # Places

    def _half(self, number: int) -> float:
        return self._boxes[number].width / 2 if number < len(self._boxes) else 0.0

    def _beside(self, number: int) -> float:
        return self._boxes[number].beside if number < len(self._boxes) else 0.0

    def _apart(self, left: int, right: int) -> float:
        return self._half(left) + self._beside(left) + GAP + self._half(right)

    def _places(self, rows: list[list[int]]) -> list[float]:
        x = [0.0] * len(self._layer)
        for row in rows:
            for left, right in itertools.pairwise(row):
                x[right] = x[left] + self._apart(left, right)
            middle = (x[row[0]] + x[row[-1]]) / 2
            for number in row:
                x[number] -= middle
        for sweep in range(_SWEEPS):
            neighbours = self._below if sweep % 2 else self._above
            for row in reversed(rows) if sweep % 2 else rows:
                self._settle(row, x, neighbours.__getitem__)
        return x

    def _settle(
        self, row: list[int], x: list[float], neighbours: Callable[[int], list[int]]
    ) -> None:
        """Move the members of a layer to where their neighbours are, keeping order and distance."""
        shift = 0.0
        shifts: list[float] = []
        wanted: list[tuple[float, float]] = []
        for position, number in enumerate(row):
            if position:
                shift += self._apart(row[position - 1], number)
            near = neighbours(number)
            place = sum(x[n] for n in near) / len(near) if near else x[number]
            weight = 0.1 if not near else 1.0 if number < len(self._boxes) else _POINT_WEIGHT
            shifts.append(shift)
            wanted.append((place - shift, weight))
        for number, place, moved in zip(row, _non_decreasing(wanted), shifts, strict=True):
            x[number] = place + moved

    def _levels(self, rows: list[list[int]]) -> tuple[list[float], list[float]]:
        """Where each layer begins and ends."""
        tops: list[float] = []
        bottoms: list[float] = []
        top = self._margin
        for row in rows:
            tallest = max((self._boxes[n].height for n in row if n < len(self._boxes)), default=0.0)
            tops.append(top)
            bottoms.append(top + tallest)
            top += tallest + LEVEL
        return tops, bottoms


class _Ways:
    """The lines, once everything has its place. `right` is how far all of it reaches."""

    def __init__(
        self,
        boxes: Sequence[Box],
        links: Sequence[Link],
        layer: list[int],
        x: list[float],
        tops: list[float],
        bottoms: list[float],
    ) -> None:
        self._boxes = boxes
        self._links = links
        self._layer = layer
        self._x = x
        self._tops = tops
        self._bottoms = bottoms
        self._backs = 0
        self.right = 0.0
        self._taken: list[list[tuple[float, float]]] = [[] for _ in tops]  # from, to
        for number, level in enumerate(layer):
            half = boxes[number].width / 2 if number < len(boxes) else 0.0
            beside = boxes[number].beside if number < len(boxes) else 0.0
            self._take(level, x[number] - half, x[number] + half + beside)
        for taken in self._taken:
            taken.sort()
        self._leaves = _spread(boxes, ((li.source, li.look, 0.0) for li in links))
        self._arrives = _spread(boxes, ((li.target, li.look, x[li.source]) for li in links))

    def middle(self, number: int) -> Point:
        level = self._layer[number]
        return (self._x[number], (self._tops[level] + self._bottoms[level]) / 2)

    def span(self, number: int) -> int:
        link = self._links[number]
        return abs(self._layer[link.source] - self._layer[link.target])

    def down(self, number: int, points: list[int]) -> tuple[Point, ...]:
        """From the lower side of the source, straight through the layers, to the target's upper."""
        link = self._links[number]
        x, y = self.middle(link.source)
        x += self._leaves[link.source, link.look, 0.0]
        way = [(x, y + self._boxes[link.source].height / 2)]
        way.append((x, self._bottoms[self._layer[link.source]]))
        for point in points:
            level = self._layer[point]
            way += [(self._x[point], self._tops[level]), (self._x[point], self._bottoms[level])]
        x, y = self.middle(link.target)
        x += self._arrives[link.target, link.look, self._x[link.source]]
        way.append((x, self._tops[self._layer[link.target]]))
        way.append((x, y - self._boxes[link.target].height / 2))
        return tuple(dict.fromkeys(way))

    def back(self, number: int) -> tuple[Point, ...]:
        """Out below the source, up through the first gap on the right, in above the target.

        It crosses layers where there is nothing else. A loop to itself is a bow at its side.
        """
        link = self._links[number]
        x, y = self.middle(link.source)
        box = self._boxes[link.source]
        if link.source == link.target:
            right, low, high = x + box.width / 2, y + box.height / 4, y - box.height / 4
            self.right = max(self.right, right + DETOUR)
            return ((right, low), (right + DETOUR, low), (right + DETOUR, high), (right, high))
        upper, lower = self._layer[link.target], self._layer[link.source]
        around = self._gap(upper, lower, max(x, self._x[link.target]))
        for level in range(upper, lower + 1):
            self._take(level, around, around)
            self._taken[level].sort()
        lane = 4.0 * (self._backs % 3)
        self._backs += 1
        below, above = self._bottoms[lower] + 10 + lane, self._tops[upper] - 14 - lane
        end_x, end_y = self.middle(link.target)
        target = self._boxes[link.target]
        x, end_x = x + box.width * 0.36, end_x + target.width * 0.36
        way = [(x, y + box.height / 2), (x, below), (around, below), (around, above)]
        return (*way, (end_x, above), (end_x, end_y - target.height / 2))

    def _take(self, level: int, left: float, right: float) -> None:
        self._taken[level].append((left - _CLEAR, right + _CLEAR))
        self.right = max(self.right, right)

    def _gap(self, upper: int, lower: int, x: float) -> float:
        """The first place from `x` on that is free in all these layers."""
        level = upper
        while level <= lower:
            taken = self._taken[level]
            before = bisect_right(taken, (x, inf)) - 1
            if before >= 0 and taken[before][1] > x:
                x = taken[before][1]
                level = upper
            else:
                level += 1
        return x


def _side(box: Box) -> float:
    return box.width * box.ports


def _spread(
    boxes: Sequence[Box], ends: Iterable[tuple[int, str, float]]
) -> dict[tuple[int, str, float], float]:
    """Places along the side of each box for its different ends, from left to right."""
    ends_of: dict[int, dict[tuple[str, float], None]] = {}
    for number, look, x in ends:
        ends_of.setdefault(number, {})[look, x] = None
    return {
        (number, look, x): _side(boxes[number]) * ((place + 0.5) / len(found) - 0.5)
        for number, found in ends_of.items()
        for place, (look, x) in enumerate(sorted(found, key=lambda end: (end[1], end[0])))
    }


def _layers(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """The layer of each box: below all that it needs; what needs nothing stands above its user."""
    below: list[list[int]] = [[] for _ in range(count)]
    missing = [0] * count
    for upper, lower in pairs:
        below[upper].append(lower)
        missing[lower] += 1
    layer = [0] * count
    sources = [number for number in range(count) if not missing[number]]
    order = list(sources)
    for number in order:  # grows while what is needed is placed
        for lower in below[number]:
            layer[lower] = max(layer[lower], layer[number] + 1)
            missing[lower] -= 1
            if not missing[lower]:
                order.append(lower)
    for number in sources:
        if below[number]:
            layer[number] = min(layer[lower] for lower in below[number]) - 1
    return layer


def _barycenter(neighbours: list[list[int]], place: list[float]) -> Callable[[int], float]:
    def key(number: int) -> float:
        near = neighbours[number]
        return sum(place[n] for n in near) / len(near) if near else place[number]

    return key


def _inversions(ends: list[int]) -> int:
    """How many pairs stand in the wrong order: for each end, the larger ones before it."""
    before: list[int] = []
    total = 0
    for end in ends:
        place = bisect_right(before, end)
        total += len(before) - place
        before.insert(place, end)
    return total


def _non_decreasing(wanted: Sequence[tuple[float, float]]) -> list[float]:
    """The non-decreasing values closest to those wanted, each with its weight (least squares)."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in wanted:
        mean, total, length = value, weight, 1
        while pools and pools[-1][0] > mean:
            other, more, longer = pools.pop()
            mean = (mean * total + other * more) / (total + more)
            total += more
            length += longer
        pools.append((mean, total, length))
    return [mean for mean, _, length in pools for _ in range(length)]
