"""Where the graph strategy records what each node came to, for others to read."""

from __future__ import annotations

from typing import Any, Protocol


class StateBackend(Protocol):
    """A record of results and skips by task id. The last word about an id counts.

    The graph strategy awaits each write before anybody gets the value, and clears the record
    between evaluations, when nothing that it holds belongs to an evaluation still going on.
    """

    async def put_result(self, id: str, value: Any) -> None:
        """Record that the node `id` has this value."""
        ...

    async def get_result(self, id: str) -> Any:
        """The value of the node `id`; `KeyError` if it has none."""
        ...

    async def has_result(self, id: str) -> bool:
        """Whether the node `id` has a value."""
        ...

    async def mark_skipped(self, id: str, reason: str) -> None:
        """Record that the node `id` was skipped."""
        ...

    async def get_skip_reason(self, id: str) -> str | None:
        """Why the node `id` was skipped, None if it was not."""
        ...

    async def clear(self) -> None:
        """Forget everything."""
        ...


class InMemoryStateBackend:
    """A record in two dictionaries."""

    def __init__(self) -> None:
        self._results: dict[str, Any] = {}
        self._reasons: dict[str, str] = {}

    async def put_result(self, id: str, value: Any) -> None:
        """Record a value; an earlier skip of the same node is forgotten."""
        self._reasons.pop(id, None)
        self._results[id] = value

    async def get_result(self, id: str) -> Any:
        """The value of the node `id`; `KeyError` if it has none."""
        return self._results[id]

    async def has_result(self, id: str) -> bool:
        """Whether the node `id` has a value."""
        return id in self._results

    async def mark_skipped(self, id: str, reason: str) -> None:
        """Record a skip; an earlier value of the same node is forgotten."""
        self._results.pop(id, None)
        self._reasons[id] = reason

    async def get_skip_reason(self, id: str) -> str | None:
        """Why the node `id` was skipped, None if it was not."""
        return self._reasons.get(id)

    async def clear(self) -> None:
        """Forget everything."""
        self._results.clear()
        self._reasons.clear()
