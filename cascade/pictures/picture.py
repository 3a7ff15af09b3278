"""`cs.visualize`: a target as a picture, for Mermaid, for Graphviz, or drawn as SVG."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cascade.pictures.drawing import Drawing


def visualize(target: Any) -> Picture:
    """A picture of `target`: what it computes, what needs what, and what decides.

    Raises `ValueError` for more than 2,000 nodes, routers and inputs or 6,000 lines, and
    `CycleError` for expressions that depend on each other in a circle.

    >>> import cascade as cs
    >>> @cs.task
    ... def add(x, y):
    ...     return x + y
    >>> print(cs.visualize(add(add(1, 2), 3)))
    flowchart TD
      n0["add#0"]
      n1["add#1"]
      n0 --> n1
      class n1 target
      classDef target stroke-width:3px
    """
    from cascade.pictures.description import to_json

    return Picture(to_json(target))


class Picture:
    """A picture of a described target. `str` gives Mermaid; a notebook shows the SVG.

    `description` is what `cs.to_json` gives, which may come from a file. Raises `ValueError` for
    what is no such description, or of a version that this one cannot read.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        from cascade.pictures.description import check_format
        from cascade.pictures.drawing import draw

        check_format(description)
        self._drawing: Drawing = draw(description)

    def __str__(self) -> str:
        return self.mermaid()

    def __repr__(self) -> str:
        shapes, lines = len(self._drawing.shapes), len(self._drawing.lines)
        return f"<Picture of {shapes} shapes, {lines} lines>"

    def _repr_svg_(self) -> str:
        return self.svg()

    def mermaid(self) -> str:
        """A flowchart for Mermaid, which GitHub and many wikis draw in a block of Markdown."""
        return "\n".join(_mermaid(self._drawing))

    def dot(self) -> str:
        """A graph for Graphviz: `dot -Tpdf`, for instance, makes a page of it."""
        return "\n".join(_dot(self._drawing))

    def svg(self) -> str:
        """An SVG element with its own styles, legible on light and dark ground."""
        return self._svg

    @cached_property
    def _svg(self) -> str:
        from cascade.pictures.svg import draw_svg

        return draw_svg(self._drawing, {}, {})


_MERMAID_SHAPES: Final = {
    "task": ("[", "]"),
    "map": ("[[", "]]"),
    "router": ("{", "}"),
    "param": ("([", "])"),
    "env": ("([", "])"),
    "resource": ("[(", ")]"),
}
_MERMAID_ARROWS: Final = {
    "condition": "-.->",
    "default": "-.->",
    "fallback": "-.->",
    "sequence": "-.->",
    "amount": "-.->",
    "jump": "==>",
}


def _mermaid(drawing: Drawing) -> Iterator[str]:
    yield "flowchart TD"
    for number, shape in enumerate(drawing.shapes):
        opened, closed = _MERMAID_SHAPES[shape.kind]
        text = "<br/>".join(map(_mermaid_text, (shape.title, *shape.notes)))
        yield f'  n{number}{opened}"{text}"{closed}'
    for line in drawing.lines:
        label = line.label or ("then" if line.kind == "sequence" else "")
        named = f'|"{_mermaid_text(label)}"|' if label else ""
        yield f"  n{line.source} {_MERMAID_ARROWS.get(line.kind, '-->')}{named} n{line.target}"
    targets = [f"n{number}" for number, shape in enumerate(drawing.shapes) if shape.is_target]
    if targets:
        yield f"  class {','.join(targets)} target"
        yield "  classDef target stroke-width:3px"


def _mermaid_text(text: str) -> str:
    """Text within quotes: letters and a few harmless signs as they are, all else by its number."""
    return "".join(c if c.isalnum() or c in " _.,=()+-*/#" else f"#{ord(c)};" for c in text)


_DOT_SHAPES: Final = {
    "task": "shape=box, style=rounded",
    "map": "shape=box3d",
    "router": "shape=diamond",
    "param": "shape=oval",
    "env": "shape=oval, style=dashed",
    "resource": "shape=cylinder",
}
_DOT_LINES: Final = {
    "condition": "style=dashed",
    "default": "style=dashed",
    "fallback": "style=dashed",
    "sequence": "style=dotted",
    "amount": "style=dotted",
    "jump": "style=bold",
}


def _dot(drawing: Drawing) -> Iterator[str]:
    yield "digraph {"
    yield "  node [fontname=monospace, fontsize=11]"
    yield "  edge [fontname=monospace, fontsize=10]"
    for number, shape in enumerate(drawing.shapes):
        text = r"\n".join(map(_dot_text, (shape.title, *shape.notes)))
        bold = ", penwidth=3" if shape.is_target else ""
        yield f'  n{number} [label="{text}", {_DOT_SHAPES[shape.kind]}{bold}]'
    for line in drawing.lines:
        said = [_DOT_LINES.get(line.kind, ""), "constraint=false" if line.is_back else ""]
        if line.label:
            said.append(f'label="{_dot_text(line.label)}"')
        attributes = ", ".join(filter(None, said))
        yield f"  n{line.source} -> n{line.target}{f' [{attributes}]' if attributes else ''}"
    yield "}"


def _dot_text(text: str) -> str:
    """Text within quotes, in which Graphviz reads escapes and the entities of HTML."""
    return text.replace("&", "&amp;").replace("\\", r"\\").replace('"', r"\"")
