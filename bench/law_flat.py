"""The cost of a node is the same in a graph of 100 nodes and in one of 100,000.

Chains and fan-outs of sync tasks, whose structure is known.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness import Case
from law_chain import sync_chain
from law_fan_out import sync_fan_out


def cases(quick: bool) -> Iterator[Case]:
    sizes = (10, 100) if quick else (100, 1_000, 10_000, 100_000)
    for size in sizes:
        yield sync_chain(f"flat: chain of {size:,}", size)
    for size in sizes:
        yield sync_fan_out(f"flat: fan-out of {size:,}", size)
