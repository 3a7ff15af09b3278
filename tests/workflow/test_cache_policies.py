"""The cache policies in the box (section 7)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.workflow.cache import CachePolicy, FileExistenceCache, Hit, InMemoryCache

Inside = Callable[..., Any]


def test_a_hit_is_a_value_that_cannot_change() -> None:
    """Two hits of equal values are equal; None is a value like any other."""
    assert Hit(None) == Hit(None)
    assert Hit(1) != Hit(2)
    with pytest.raises(AttributeError):
        Hit(1).value = 2  # type: ignore[misc]


def test_the_policies_are_policies(tmp_path: Path) -> None:
    """The policies in the box satisfy the protocol at run time; other objects do not."""
    policies: list[CachePolicy] = [InMemoryCache(), FileExistenceCache(tmp_path)]
    assert all(isinstance(policy, CachePolicy) for policy in policies)
    assert not isinstance({}, CachePolicy)


def test_memory_gives_back_the_same_object(inside: Inside) -> None:
    """What was put comes back as it is, None too; what was not is a miss."""
    value = object()

    async def main() -> None:
        cache = InMemoryCache()
        assert await cache.get(b"a") is None
        await cache.put(b"a", value)
        await cache.put(b"b", None)
        hit = await cache.get(b"a")
        assert hit is not None
        assert hit.value is value
        assert await cache.get(b"b") == Hit(None)
        assert len(cache) == 2
        cache.clear()
        assert await cache.get(b"a") is None

    inside(main)


def test_memory_forgets_what_was_unused_for_longest(inside: Inside) -> None:
    """A get is a use, and so is a put of a key that is there."""

    async def main() -> list[bytes]:
        cache = InMemoryCache(max_entries=3)
        for key in (b"a", b"b", b"c"):
            await cache.put(key, key)
        await cache.get(b"a")
        await cache.put(b"b", b"again")
        await cache.put(b"d", b"d")
        await cache.put(b"e", b"e")
        return [key for key in (b"a", b"b", b"c", b"d", b"e") if await cache.get(key)]

    assert inside(main) == [b"b", b"d", b"e"]


@given(st.integers(1, 4), st.lists(st.tuples(st.booleans(), st.sampled_from("abcdef"))))
def test_memory_is_a_bounded_dict(
    inside: Inside, max_entries: int, steps: list[tuple[bool, str]]
) -> None:
    """The keys used last are there, `max_entries` of them, with the value put last."""

    async def main() -> None:
        cache = InMemoryCache(max_entries)
        used: list[str] = []
        values: dict[str, int] = {}
        for number, (is_put, key) in enumerate(steps):
            if is_put:
                await cache.put(key.encode(), number)
                values[key] = number
            hit = await cache.get(key.encode())
            assert hit == (Hit(values[key]) if is_put or key in used else None)
            if hit is not None:
                used = [*(other for other in used if other != key), key][-max_entries:]
            assert len(cache) == len(used)

    inside(main)


@pytest.mark.parametrize("max_entries", [0, -1, 1.5, True, None, "3"])
def test_memory_must_have_room(max_entries: Any) -> None:
    """The size of a memory cache is a whole number above 0."""
    with pytest.raises(ValueError, match="must be a whole number above 0"):
        InMemoryCache(max_entries)


@pytest.mark.parametrize("as_given", [Path, str])
def test_a_file_is_a_hit_while_it_exists(
    inside: Inside, tmp_path: Path, as_given: Callable[[Path], Any]
) -> None:
    """The value is the path as it was given; a put changes nothing."""
    path = tmp_path / "out.csv"
    given_path = as_given(path)

    async def main() -> None:
        cache = FileExistenceCache(given_path)
        assert await cache.get(b"a") is None
        await cache.put(b"a", "text")
        assert not path.exists()
        path.touch()
        hit = await cache.get(b"b")
        assert hit is not None
        assert hit.value is given_path
        path.unlink()
        assert await cache.get(b"a") is None

    inside(main)


def test_a_directory_is_a_hit_and_a_relative_path_is_of_the_moment(
    inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any existing path is a hit, looked up from the current directory."""
    cache = FileExistenceCache("made")

    async def main() -> list[bool]:
        found = []
        for place in (tmp_path, tmp_path / "made", tmp_path):
            os.chdir(place)
            found.append(await cache.get(b"a") is not None)
        return found

    (tmp_path / "made").mkdir()
    monkeypatch.chdir(tmp_path)
    assert inside(main) == [True, False, True]


@pytest.mark.parametrize("path", [None, 3, b"out.csv"])
def test_what_is_no_path_is_an_error(path: Any) -> None:
    """A path is a text or a path object."""
    with pytest.raises(TypeError):
        FileExistenceCache(path)
