"""What the runs of one engine share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

TailCalls = Literal["follow", "forbid"]


@dataclass(slots=True)
class FusedTier:
    """How the virtual machine used its fused tier, and when it does.

    A loop is fused once `hot_after` instructions of it were interpreted. `leaves`, for tests, is
    asked after each call whether to go on in the interpreter there.
    """

    hot_after: int = 100
    leaves: Callable[[], bool] | None = None
    entries: int = 0
    exits: int = 0
