"""Tracebacks for people: the frames of their own code, those of the machinery folded."""

from __future__ import annotations

import os
import sys
from itertools import groupby
from traceback import FrameSummary, StackSummary, TracebackException
from typing import Any, Final

# Whose frames are folded: everything in the folders of these packages, as far as they are loaded.
_FOLDED: Final = (
    "cascade",
    "cascade.vm",
    "cascade.compiler",
    "anyio",
    "asyncio",
    "trio",
    "outcome",
    "click",
    "importlib",
    "concurrent.futures",
)


def folded_traceback(error: BaseException) -> str:
    """The traceback of `error`, its causes, notes and what it groups.

    Frames of Cascade, of an event loop, and of what else stands between a task and its caller are
    one line wherever they follow each other.
    """
    formatted = TracebackException.from_exception(error)
    folders = _folders()
    todo = [formatted]
    while todo:
        current = todo.pop()
        current.stack = _folded(current.stack, folders)
        parts = (current.__cause__, current.__context__, *(current.exceptions or ()))
        todo.extend(part for part in parts if part is not None)
    return "".join(formatted.format())


class _Fold(FrameSummary):
    """Stands for some frames that follow each other, and whose they are."""

    __slots__ = ("text",)

    def __init__(self, owners: list[str], place: int) -> None:
        # Places differ: of equal lines that follow each other only a few are shown.
        super().__init__("<folded>", place, "", lookup_line=False, line="")
        frames = "1 frame" if len(owners) == 1 else f"{len(owners)} frames"
        self.text = f"  ... {frames} of {', '.join(dict.fromkeys(owners))}\n"


class _Stack(StackSummary):
    def format_frame_summary(self, frame_summary: FrameSummary, **options: Any) -> str:
        if isinstance(frame_summary, _Fold):
            return frame_summary.text
        return super().format_frame_summary(frame_summary, **options)


def _folded(stack: StackSummary, folders: dict[str, str]) -> StackSummary:
    shown = _Stack()
    owned = [(frame, _owner(frame.filename, folders)) for frame in stack]
    for is_folded, frames in groupby(owned, lambda each: each[1] is not None):
        if is_folded:
            shown.append(_Fold([owner for _, owner in frames if owner], len(shown)))
        else:
            shown.extend(frame for frame, _ in frames)
    return shown


def _owner(filename: str, folders: dict[str, str]) -> str | None:
    if filename.startswith("<cascade"):
        return "cascade"
    if filename.startswith("<frozen importlib"):
        return "importlib"
    folder = os.path.dirname(filename)
    while folder not in folders:
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent
    return folders[folder]


def _folders() -> dict[str, str]:
    """By folder: the first word of the name of the package in it."""
    found: dict[str, str] = {}
    for name in _FOLDED:
        module = sys.modules.get(name)
        for folder in getattr(module, "__path__", ()):
            found[folder] = name.partition(".")[0]
    return found
