"""The smallest program found that still diverges, by the choices that drew it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from programs import Program, draw


def choices_of(seed: int, flavour: str | None) -> list[int]:
    """What was chosen when the program of a seed was drawn."""
    source = random.Random(seed).random
    made: list[int] = []

    def choose(n: int) -> int:
        made.append(int(source() * n))
        return made[-1]

    draw(choose, flavour)
    return made


def replayed(choices: list[int], flavour: str | None) -> Program:
    """The program of these choices; those that lack are 0."""
    rest = iter(choices)
    return draw(lambda n: min(next(rest, 0), n - 1), flavour)


def shrunk(
    seed: int,
    flavour: str | None,
    diverges: Callable[[Program], bool],
    seconds: float = 10.0,
) -> Program:
    """A smaller program that diverges like that of the seed."""
    deadline = time.monotonic() + seconds
    best = choices_of(seed, flavour)
    improved = True
    while improved and time.monotonic() < deadline:
        improved = False
        for candidate in smaller(best):
            if time.monotonic() >= deadline:
                break
            if diverges(replayed(candidate, flavour)):
                best, improved = candidate, True
                break
    return replayed(best, flavour)


def smaller(choices: list[int]) -> list[list[int]]:
    """Candidates, the boldest first: spans left out, then numbers made smaller."""
    found = []
    length = len(choices) // 2
    while length:
        starts = range(0, len(choices) - length + 1, max(1, length // 2))
        found += [choices[:at] + choices[at + length :] for at in starts]
        length //= 2
    for at, number in enumerate(choices):
        for less in {0, number // 2, number - 1}:
            if 0 <= less < number:
                found.append([*choices[:at], less, *choices[at + 1 :]])
    return found
