"""The benches run, and what they measure computes the right values. No times are asserted."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`bench/run.py`, imported as the program imports its own modules."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(BENCH)
    yield importlib.import_module("run")
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).parent == BENCH:
            del sys.modules[name]


def test_every_case_has_its_row(bench: ModuleType, backend: str, use_vm: bool) -> None:
    """Quick mode does one round of every case, and checks its value."""
    setting = bench.Setting(backend, use_vm, quick=True)
    rows = list(bench.rows(setting))
    assert [row.law for row in rows] == [case.law for case in bench.cases(quick=True)]
    assert len({row.law for row in rows}) == len(rows) >= 20
    for row in rows:
        assert (row.backend, row.strategy) == (backend, "vm" if use_vm else "graph")
        assert all(math.isfinite(value) and value > 0 for value in (row.ours, row.ratio))
        assert len(bench.line(row)) == len(bench.heading())


def test_a_wrong_value_is_no_result(bench: ModuleType) -> None:
    """A case whose value is not the expected one fails instead of having a row."""

    async def by_hand() -> int:
        return 1

    case = bench.Case("wrong", "run", 1, lambda: 2, by_hand, 1)
    with pytest.raises(AssertionError, match="wrong: the value is 2, not 1"):
        list(bench.measure([case], bench.Setting("asyncio", quick=True)))


def test_only_some_laws(bench: ModuleType) -> None:
    """Words choose the laws that have one of them in their name."""
    laws = [case.law for case in bench.cases(True, ["jump loop, ", "tail call,"])]
    assert len(laws) == 3
    assert all("jump loop" in law or "tail" in law for law in laws)


def test_what_progress_costs_is_told(bench: ModuleType, backend: str) -> None:
    """What the display of progress costs is one line."""
    (line,) = bench.progress.lines(backend, quick=True)
    assert line.startswith(f"progress shown during 2,000 iterations, {backend}, vm: ")


def test_memory_is_told(bench: ModuleType, backend: str) -> None:
    """The growth of memory is one line for a loop and one for a map; what waiters take another."""
    loop, of_map, waiters = bench.memory.lines(backend, quick=True)
    assert loop.startswith(f"memory over 2,000 iterations, {backend}, vm: ")
    assert "objects" in loop
    assert "items of a generator" in of_map
    assert waiters.startswith(f"memory of 200 waiters, {backend}, vm: ")
