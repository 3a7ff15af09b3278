"""Since when the attempt goes on in which fused code is suspended.

Fused code reads no clock around its awaits, since nobody listens. Who comes to listen in the middle
of one wants its duration all the same, and can come while it is suspended, or from within. So the
clock is read where an await first suspends: one that never does costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any


class Pauses:
    """Stands for a coroutine of fused code: awaiting it is awaiting that."""

    __slots__ = ("_awaited", "_clock", "_coroutine", "_has_changed", "_since")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], clock: Callable[[], float]) -> None:
        self._coroutine = coroutine
        self._clock = clock
        self._awaited: Any = None  # in which it was suspended last
        self._since: float | None = None
        self._has_changed = False

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine = self._coroutine
        step: Callable[[Any], Any] = coroutine.send
        given: Any = None
        try:
            while True:
                try:
                    waits_for = step(given)
                except StopIteration as end:
                    return end.value
                awaited = coroutine.cr_await  # type: ignore[attr-defined]
                if awaited is not self._awaited:
                    self._awaited = awaited
                    self._since = self._clock()
                try:
                    given = yield waits_for
                    step = coroutine.send
                except GeneratorExit:
                    coroutine.close()
                    raise
                except BaseException as error:
                    given = error
                    step = coroutine.throw
        finally:
            del given  # its traceback may refer to this frame

    def changed(self) -> None:
        """The attempt that goes on is the last: what it depends on has changed."""
        self._has_changed = True
        if not _goes_on(self._awaited):
            self._since = None  # that was another attempt

    @property
    def since(self) -> float | None:
        """When the last attempt suspended first; None if it did not, or nothing has changed."""
        return self._since if self._has_changed else None


def _goes_on(awaited: Any) -> bool:
    """Whether a coroutine, maybe one that a generator makes, has not ended."""
    frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
    return frame is not None
