"""What ends with its first failure: a run, or a scope of one."""

from __future__ import annotations

from typing import Final

from cascade.errors import add_note
from cascade.plain import error_text

MOST_NOTES: Final = 20  # on a failure, about those that came after it


class Failing:
    """The first failure ends it, and surfaces as itself; those after it are named in its notes."""

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self.is_over = False
        self._later_failures: list[BaseException] = []  # in the notes, so many at most

    def stop(self) -> None:
        """Nothing starts any more, and what runs is cancelled."""
        raise NotImplementedError

    def fail(self, error: BaseException, note: str) -> None:
        """The first failure ends it; what comes after is named in the notes of the first."""
        if self.failure is None:
            add_note(error, note)
            self.failure = error
            self.stop()
        elif error is not self.failure and not self._is_noted(error):
            self._later_failures.append(error)
            add_note(error, note)
            add_note(self.failure, f"meanwhile {error_text(error)} ({note})")

    @property
    def has_enough_notes(self) -> bool:
        """Whether nothing is made any more of those that come after the first."""
        return len(self._later_failures) >= MOST_NOTES

    def _is_noted(self, later: BaseException) -> bool:
        """Whether a failure after the first is in the notes already, or they are full."""
        return self.has_enough_notes or any(later is error for error in self._later_failures)
