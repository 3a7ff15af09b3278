"""Pieces of XML and HTML: text made safe, durations, notices, legends, tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Final

_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_UNITS: Final = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
MOST_ROWS: Final = 200  # of anything that has rows


def replaced(text: str) -> str:
    """`text` with what XML cannot hold, and UTF-8 partly, replaced by U+FFFD."""
    return _NOT_XML.sub("\ufffd", text)


def escaped(text: str) -> str:
    """`text` for XML and HTML: what markup means is escaped, what XML cannot hold replaced."""
    return escape(replaced(text))


def seconds(time: float, like: float | None = None) -> str:
    """A duration to three digits, with its unit, or with that of another duration.

    >>> [seconds(time) for time in (0, 0.00004, 0.0123, 1.234, 75.0, 4000)]
    ['0 s', '40 µs', '12.3 ms', '1.23 s', '75 s', '4,000 s']
    >>> seconds(0.5, like=3)
    '0.5 s'
    """
    measure = abs(time if like is None else like)
    if measure < 5e-8:
        return "0 s"
    unit, size = next((unit for unit in _UNITS if measure >= unit[1]), _UNITS[-1])
    number = time / size
    return f"{number:,.0f} {unit}" if abs(number) >= 1000 else f"{number:.3g} {unit}"


def notice(text: str) -> str:
    """A line that says what is put together, left out, or not as it seems."""
    return f"<p class=notice>{escaped(text)}</p>"


def legend(entries: dict[str, str]) -> str:
    """What the colours mean: text by class."""
    items = "".join(f"<li><i class={css}></i>{text}</li>" for css, text in entries.items())
    return f"<ul class=legend>{items}</ul>"


def table(title: str, heads: Sequence[str], rows: Sequence[Iterable[str]]) -> Iterator[str]:
    """A table of texts under a heading, if there are rows; too many are cut off with a notice."""
    if not rows:
        return
    yield f"<h2>{title}</h2>"
    if len(rows) > MOST_ROWS:
        yield notice(f"The first {MOST_ROWS} of {len(rows):,} are shown.")
    yield f'<div class="scroll table" tabindex=0 aria-label="{title}">'
    yield "<table class=plain><thead><tr>"
    yield "".join(f"<th scope=col>{head}</th>" for head in heads)
    yield "</tr></thead><tbody>"
    for row in rows[:MOST_ROWS]:
        yield "<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>\n"
    yield "</tbody></table></div>"
