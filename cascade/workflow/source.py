"""What `cs.lazily` is given: an iterable that a map reads while its items start."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Generic, TypeVar

from cascade.plain import brief

T = TypeVar("T")


class Source(Generic[T]):
    """What a map reads item by item. It is data: what it gives is never searched for expressions.

    An iterator can be read once; any other iterable is iterated anew for each evaluation.
    """

    __slots__ = ("_is_read", "iterable")

    def __init__(self, iterable: Iterable[T] | AsyncIterable[T]) -> None:
        self.iterable = iterable
        self._is_read = False

    @property
    def is_sync(self) -> bool:
        """Whether reading it needs no waiting."""
        return isinstance(self.iterable, Iterable)

    def begin(self) -> Iterator[T] | AsyncIterator[T]:
        """An iterator over all of it; `ValueError` if it was read before and cannot be again."""
        given = self.iterable
        iterator = iter(given) if isinstance(given, Iterable) else aiter(given)
        if iterator is given and self._is_read:
            raise ValueError(
                f"cs.lazily(...) is given an iterator of the type {type(given).__name__}, which "
                "was read before and can be read once; give an iterable that makes a new "
                "iterator each time, or make the expression anew for each run"
            )
        self._is_read = True
        return iterator

    def __repr__(self) -> str:
        return f"<lazily {brief(self.iterable)}>"
