"""Work in slices: generators that yield every few hundred steps, so that others can go on.

Whoever drives such work looks at the clock when it yields, and lets others on the event loop run
when a slice of time is over; `whole` does it in one go. Two who need the same thing at the same
time carry on with the same work (`together`): it is done once, and it goes on if one of them is
cancelled.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

Work = Generator[None, None, T]

STEPS: Final = 256  # between two yields: well below a millisecond of work
MANY: Final = 4096  # members of a container that are looked at in one step


def whole(work: Work[T]) -> T:
    """Do all of the work now."""
    try:
        while True:
            next(work)
    except StopIteration as end:
        result: T = end.value
        return result


def pieces(members: Sequence[T], size: int = STEPS) -> Iterator[Sequence[T]]:
    """The members, so many at a time."""
    if len(members) <= size:
        yield members
        return
    for start in range(0, len(members), size):
        yield members[start : start + size]


def gathered(members: Iterable[T]) -> Work[list[T]]:
    """A list of what an iterator makes one by one."""
    iterator = iter(members)
    found: list[T] = []
    while piece := list(islice(iterator, STEPS)):
        found += piece
        if len(piece) == STEPS:
            yield
    return found


def alike(one: Sequence[Any], other: Sequence[Any]) -> Work[bool]:
    """Whether two tuples are equal."""
    if len(one) != len(other):
        return False
    for mine, theirs in zip(pieces(one, MANY), pieces(other, MANY), strict=True):
        if mine != theirs:
            return False
        if len(one) > MANY:
            yield
    return True


def digest(members: Sequence[Any]) -> Work[int]:
    """The hash of a tuple."""
    if len(members) <= MANY:
        return hash(members)
    found = len(members)
    for piece in pieces(members, MANY):
        found = hash((found, piece))
        yield
    return found


class Shared(Generic[T]):
    """Work that is going on, and how many need it."""

    __slots__ = ("failed", "is_over", "result", "users", "work")

    def __init__(self, work: Work[T]) -> None:
        self.work = work
        self.users = 0
        self.is_over = False
        self.failed = False
        self.result: T

    def step(self) -> None:
        """Go on with it; what it raises is for who was going on with it, others begin anew."""
        try:
            next(self.work)
        except StopIteration as end:
            self.is_over = True
            self.result = end.value
        except BaseException:
            self.is_over = self.failed = True
            raise


def together(making: dict[K, Shared[T]], key: K, begin: Callable[[], Work[T]]) -> Work[T]:
    """Do the work that `making` knows as `key`, with all others who need it at this time."""
    while True:
        shared = making.get(key)
        if shared is None:
            shared = making[key] = Shared(begin())
        shared.users += 1
        try:
            while not shared.is_over:
                shared.step()
                if not shared.is_over:
                    yield
        finally:
            shared.users -= 1
            if (shared.is_over or not shared.users) and making.get(key) is shared:
                del making[key]
        if not shared.failed:
            return shared.result
