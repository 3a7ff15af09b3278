"""A drawing as SVG text, without any other program.

One set of colours reads on light and on dark ground: filled boxes with dark text, lines of a middle
grey, labels on small plates. Arrow heads are drawn out, since markers are known by ids, and the
pictures of a page share their ids.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final
from unicodedata import east_asian_width

from cascade.pictures.drawing import DASHED, DOTTED, Drawing, Line, Shape
from cascade.pictures.layout import Box, Layout, Link, Point, lay_out
from cascade.pictures.markup import escaped

_LONGEST: Final = 40  # characters of a row
_TITLE: Final = 7.9  # the width of a character, in pixels, of 13 px monospace
_NOTE: Final = 6.7  # of 11 px
_MOVED: Final = {"map": (-4.0, 4.0), "resource": (0.0, 4.0)}  # the text within the box

_STYLE: Final = """
.cs-picture{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}
.cs-picture text{font-size:11px;fill:var(--cs-note,#44505c);text-anchor:middle}
.cs-picture text.cs-title{font-size:13px;fill:var(--cs-text,#16202a)}
.cs-shape .cs-body{fill:var(--cs-task,#eaf1fb);stroke:var(--cs-edge,#5b7ba8);stroke-width:1.3}
.cs-map .cs-body{fill:var(--cs-map,#e6f4f1);stroke:var(--cs-map-edge,#3f8a7d)}
.cs-router .cs-body{fill:var(--cs-router,#fdf3d8);stroke:var(--cs-router-edge,#b08420)}
.cs-param .cs-body,.cs-env .cs-body{fill:var(--cs-input,#f3ecfa)}
.cs-param .cs-body,.cs-env .cs-body{stroke:var(--cs-input-edge,#8763b3)}
.cs-env .cs-body{stroke-dasharray:4 3}
.cs-resource .cs-body{fill:var(--cs-resource,#f4ece6);stroke:var(--cs-resource-edge,#9a6a45)}
.cs-target .cs-body{stroke-width:3}
.cs-line{fill:none;stroke:var(--cs-line,#76828e);stroke-width:1.4}
.cs-head{fill:var(--cs-line,#76828e)}
.cs-dashed .cs-line{stroke-dasharray:6 4}
.cs-dotted .cs-line{stroke-dasharray:1.5 4;stroke-linecap:round}
.cs-jump .cs-line{stroke:var(--cs-jump,#d0662b);stroke-width:1.8}
.cs-jump .cs-head{fill:var(--cs-jump,#d0662b)}
.cs-plate{fill:var(--cs-plate,#f7f8fa);stroke:var(--cs-plate-edge,#c3cad2);stroke-width:.7}
.cs-picture text.cs-label{fill:var(--cs-text,#16202a)}
"""


def draw_svg(drawing: Drawing, classes: Mapping[str, str], tips: Mapping[str, str]) -> str:
    """The drawing as one `<svg>` element. Shapes, by id, get more classes and longer tips."""
    boxes = [_box(shape) for shape in drawing.shapes]
    loops = {line.source: line.label for line in drawing.lines if line.source == line.target}
    for number, label in loops.items():
        boxes[number] = replace(boxes[number], beside=34 + _width(_short(label), _NOTE))
    links = [Link(line.source, line.target, _look(line), line.is_back) for line in drawing.lines]
    layout = lay_out(boxes, links)
    return "".join(_Writer(drawing, boxes, layout, classes, tips).parts())


class _Writer:
    def __init__(
        self,
        drawing: Drawing,
        boxes: list[Box],
        layout: Layout,
        classes: Mapping[str, str],
        tips: Mapping[str, str],
    ) -> None:
        self._drawing = drawing
        self._boxes = boxes
        self._layout = layout
        self._classes = classes
        self._tips = tips

    def parts(self) -> Iterator[str]:
        plates = _Plates()
        labels = [
            (plates.place(_label_places(way, line), _plate(line.label)), line)
            for line, way in self._lines()
            if line.label
        ]
        right = [x + _plate(line.label) / 2 + 8 for (x, _), line in labels]
        width, height = max([self._layout.width, *right]), self._layout.height
        if not self._drawing.shapes:
            width, height = 320.0, 48.0
        nodes = sum(shape.kind in ("task", "map") for shape in self._drawing.shapes)
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="cs-picture" role="img" '
            f'aria-label="graph of {nodes} nodes" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}">\n<style>{_STYLE}</style>\n'
        )
        if not self._drawing.shapes:
            yield '<text x="160" y="28">a literal: nothing to compute</text>\n'
        for line, way in self._lines():
            yield _line(line, way)
        for number, shape in enumerate(self._drawing.shapes):
            yield self._shape(number, shape)
        for place, line in labels:
            yield _label(place, line.label)
        yield "</svg>\n"

    def _lines(self) -> Iterator[tuple[Line, tuple[Point, ...]]]:
        return zip(self._drawing.lines, self._layout.ways, strict=True)

    def _shape(self, number: int, shape: Shape) -> str:
        x, y = self._layout.middles[number]
        rows = _rows(shape)
        dx, dy = _MOVED.get(shape.kind, (0.0, 0.0))
        top = y + dy - 8.0 * (len(rows) - 1)
        text = "".join(
            f'<text class="{"cs-note" if k else "cs-title"}" x="{x + dx:.1f}" '
            f'y="{top + 16 * k + 4:.1f}">{escaped(row)}</text>'
            for k, row in enumerate(rows)
        )
        words = ["cs-shape", f"cs-{shape.kind}", *(["cs-target"] if shape.is_target else [])]
        classes = " ".join([*words, *filter(None, [self._classes.get(shape.id)])])
        tip = "\n".join([shape.title, *shape.notes, *filter(None, [self._tips.get(shape.id)])])
        return (
            f'<g class="{classes}" data-id="{escaped(shape.id)}"><title>{escaped(tip)}</title>'
            f"{_outline(shape.kind, x, y, self._boxes[number])}{text}</g>\n"
        )


# Boxes


def _rows(shape: Shape) -> list[str]:
    return [_short(row) for row in (shape.title, *shape.notes)]


def _short(text: str) -> str:
    """A text that is too long, without its middle: the end distinguishes the ids of a name."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 11]}…{text[-10:]}"


def _width(text: str, one: float) -> float:
    return one * sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def _box(shape: Shape) -> Box:
    title, *notes = _rows(shape)
    width = max([_width(title, _TITLE), *(_width(note, _NOTE) for note in notes)])
    height = 16.0 * (1 + len(notes))
    if shape.kind == "router":  # the text's corners touch the sides of the diamond
        return Box(width * 1.7 + 8, height * 2.5, ports=0.1)
    more = {"resource": 8, "map": 8}.get(shape.kind, 0)  # the lid, the boxes behind
    return Box(max(width + 24, 56.0), height + 14 + more)


def _outline(kind: str, x: float, y: float, box: Box) -> str:
    left, top, width, height = x - box.width / 2, y - box.height / 2, box.width, box.height
    if kind == "router":
        corners = f"{x:.1f},{top:.1f} {left + width:.1f},{y:.1f} {x:.1f},{top + height:.1f}"
        return f'<polygon class="cs-body" points="{corners} {left:.1f},{y:.1f}"/>'
    if kind == "resource":
        bend = f"a{width / 2:.1f},6 0 0 "
        return (
            f'<path class="cs-body" d="M{left:.1f},{top + 6:.1f}{bend}1 {width:.1f},0'
            f"v{height - 12:.1f}{bend}1 {-width:.1f},0zm0,0{bend}0 {width:.1f},0"
            f'"/>'
        )
    round_off = height / 2 if kind in ("param", "env") else 5
    inset = 4 if kind == "map" else 0
    rect = f'width="{width:.1f}" height="{height - 2 * inset:.1f}" rx="{round_off:.1f}"'
    behind = (4, 0, -4) if kind == "map" else (0,)
    return "".join(
        f'<rect class="cs-body" x="{left + by:.1f}" y="{top + inset - by:.1f}" {rect}/>'
        for by in behind
    )


# Lines


def _look(line: Line) -> str:
    if line.kind == "jump":
        return "jump"
    return "dashed" if line.kind in DASHED else "dotted" if line.kind in DOTTED else ""


def _line(line: Line, way: tuple[Point, ...]) -> str:
    path = _back_path(way) if line.is_back else _path(way)
    look = _look(line)
    tip = f"<title>{escaped(line.tip)}</title>" if line.tip else ""
    classes = f' class="cs-{look}"' if look else ""
    head = _head(way[-1], from_right=line.source == line.target)
    return f'<g{classes}>{tip}<path class="cs-line" d="{path}"/>{head}</g>\n'


def _path(way: tuple[Point, ...]) -> str:
    (x, y), *rest = way
    parts = [f"M{x:.1f},{y:.1f}"]
    for next_x, next_y in rest:
        if abs(next_x - x) < 0.05:
            parts.append(f"V{next_y:.1f}")
        else:
            bend = (y + next_y) / 2
            parts.append(f"C{x:.1f},{bend:.1f} {next_x:.1f},{bend:.1f} {next_x:.1f},{next_y:.1f}")
        x, y = next_x, next_y
    return "".join(parts)


def _back_path(way: tuple[Point, ...]) -> str:
    """Along a back way, around its corners."""
    (x, y), *rest = way
    parts = [f"M{x:.1f},{y:.1f}"]
    for (x, y), (next_x, next_y) in itertools.pairwise(rest):
        before_x, before_y = way[len(parts) - 1]
        turn = min(8.0, (abs(x - before_x) + abs(y - before_y)) / 2)
        turn = min(turn, (abs(next_x - x) + abs(next_y - y)) / 2)
        from_x, from_y = _towards(x, y, before_x, before_y, turn)
        to_x, to_y = _towards(x, y, next_x, next_y, turn)
        parts.append(f"L{from_x:.1f},{from_y:.1f}Q{x:.1f},{y:.1f} {to_x:.1f},{to_y:.1f}")
    return "".join([*parts, f"L{way[-1][0]:.1f},{way[-1][1]:.1f}"])


def _towards(x: float, y: float, other_x: float, other_y: float, by: float) -> Point:
    """The point so far from (x, y) on the straight way, level or upright, to the other."""
    return (x + min(max(other_x - x, -by), by), y + min(max(other_y - y, -by), by))


def _head(end: Point, *, from_right: bool) -> str:
    x, y = end
    wings = ((8, -4), (8, 4)) if from_right else ((-4, -8), (4, -8))
    corners = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in ((0, 0), *wings))
    return f'<polygon class="cs-head" points="{corners}"/>'


def _label_places(way: tuple[Point, ...], line: Line) -> Iterator[Point]:
    """Where a label may stand, the best first: routes near their beginning, others near the end.

    The routes of a Router end at one place; what decides about a node comes to that alone.
    """
    if line.is_back:
        (x, y), (right, end_y) = way[1:3]
        if line.source == line.target:
            yield (right + 6 + _width(_short(line.label), _NOTE) / 2, (y + end_y) / 2)
        else:
            yield ((x + right) / 2, y)
        return
    steps = list(itertools.pairwise(way))
    bends = [step for step in steps if step[1][1] - step[0][1] > 20] or steps
    first = line.kind == "route"
    (x, y), (end_x, end_y) = bends[0 if first else -1]
    for t in (0.35, 0.5, 0.24, 0.65, 0.8) if first else (0.62, 0.48, 0.74, 0.34, 0.2):
        across = 3 * t * t - 2 * t**3
        down = 1.5 * t - 1.5 * t * t + t**3
        yield (x + (end_x - x) * across, y + (end_y - y) * down)


class _Plates:
    """The plates of labels placed so far, by their height in rows of 16 pixels."""

    def __init__(self) -> None:
        self._rows: dict[int, list[tuple[float, float, float]]] = {}

    def place(self, places: Iterator[Point], width: float) -> Point:
        """The first of some places where the plate covers no other; the first of all if none."""
        tried = list(places)
        x, y = next((point for point in tried if self._is_free(point, width)), tried[0])
        self._rows.setdefault(int(y // 16), []).append((x - width / 2, x + width / 2, y))
        return x, y

    def _is_free(self, point: Point, width: float) -> bool:
        x, y = point
        left, right, row = x - width / 2, x + width / 2, int(y // 16)
        return not any(
            other_left < right and left < other_right and abs(other_y - y) < 16
            for near in (row - 1, row, row + 1)
            for other_left, other_right, other_y in self._rows.get(near, ())
        )


def _plate(label: str) -> float:
    """The width of the plate of a label."""
    return _width(_short(label), _NOTE) + 8


def _label(place: Point, label: str) -> str:
    x, y = place
    text, width = _short(label), _plate(label)
    return (
        f'<rect class="cs-plate" x="{x - width / 2:.1f}" y="{y - 8:.1f}" width="{width:.1f}" '
        f'height="16" rx="4"/><text class="cs-label" x="{x:.1f}" y="{y + 4:.1f}">'
        f"{escaped(text)}</text>\n"
    )
