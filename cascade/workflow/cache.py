"""Results kept between calls: the policies in the box."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, Protocol, TypeVar, runtime_checkable

import anyio

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Hit(Generic[T_co]):
    """What a cache had: a value, which may be None."""

    value: T_co


@runtime_checkable
class CachePolicy(Protocol):
    """Where the values of a task are kept; one policy may serve many tasks.

    A key is a digest of the Task (module, qualified name, `version`) and of its arguments, and
    differs for different calls. An exception of `get` fails the task; one of `put` is logged.
    """

    async def get(self, key: bytes, /) -> Hit[Any] | None:
        """The value kept under `key`, or None if there is none."""
        ...

    async def put(self, key: bytes, value: Any, /) -> None:
        """Keep `value` under `key`, replacing what was there."""
        ...


class InMemoryCache:
    """Keeps the `max_entries` values used last, as the same objects.

    It may be shared by tasks, engines, event loops and threads. Raises `ValueError` for a
    `max_entries` that is not a whole number above 0.
    """

    def __init__(self, max_entries: int = 1024) -> None:
        if isinstance(max_entries, bool) or not isinstance(max_entries, int) or max_entries < 1:
            raise ValueError(f"max_entries={max_entries!r} must be a whole number above 0")
        self.max_entries = max_entries
        self._values: dict[bytes, Any] = {}  # used last, last
        self._lock = threading.Lock()

    async def get(self, key: bytes) -> Hit[Any] | None:
        """The value kept under `key`, which now is the one used last."""
        with self._lock:
            if key not in self._values:
                return None
            value = self._values[key] = self._values.pop(key)
            return Hit(value)

    async def put(self, key: bytes, value: Any) -> None:
        """Keep `value`; the value unused for longest goes when there are too many."""
        with self._lock:
            self._values.pop(key, None)
            self._values[key] = value
            if len(self._values) > self.max_entries:
                del self._values[next(iter(self._values))]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()

    def __len__(self) -> int:
        return len(self._values)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} stays in its process: it cannot be copied or pickled; share the object, "
            "or write a CachePolicy that keeps values in a file"
        )

    def __repr__(self) -> str:
        return f"<InMemoryCache {len(self)} of {self.max_entries}>"


class FileExistenceCache:
    """Skips a task while a file, or directory, exists; the value then is the path as given here.

    The task makes the file; the arguments of the task do not count. A relative path is looked up
    from the current directory of the moment. Raises `TypeError` for what is no path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(os.fspath(path), str):
            raise TypeError(f"path={path!r} must be a str or a Path")
        self.path = path

    async def get(self, key: bytes) -> Hit[str | os.PathLike[str]] | None:
        """The path, if something is there."""
        return Hit(self.path) if await anyio.Path(self.path).exists() else None

    async def put(self, key: bytes, value: Any) -> None:
        """Nothing: the file that the task made is what is kept."""

    def __repr__(self) -> str:
        return f"FileExistenceCache({self.path!r})"
