"""The comparison with peers runs, checks what it measures, writes its table. No times are asserted.

Only the peers that need nothing installed run here: Cascade itself and the standard library.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PEERS = Path(__file__).parents[2] / "bench" / "peers"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a module of `bench/peers/` as its programs do."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(PEERS)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).parent == PEERS:
            del sys.modules[name]


@pytest.fixture
def compare(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("compare")


@pytest.mark.parametrize(
    ("program", "peers", "not_offered"),
    [
        ("cascade", ["cascade", "cascade, `use_vm=True`"], set()),
        ("asyncio", ["asyncio and graphlib"], {"loop", "loop_with_chain", "rate"}),
    ],
)
def test_every_work_of_a_peer_has_its_record(
    compare: ModuleType, program: str, peers: list[str], not_offered: set[str]
) -> None:
    """A program prints one record for each work; its values and limits were checked on the way."""
    records = list(compare.collect(program, quick=True))
    works = list(compare.works(compare.QUICK))
    assert [(r["peer"], r["work"]) for r in records] == list(itertools.product(peers, works))
    for record in records:
        assert ("instead" in record) == (record["work"] in not_offered)
        if "instead" not in record:
            assert all(
                math.isfinite(record[key]) and record[key] > 0
                for key in ("seconds", "by_hand", "ratio")
            )


def test_a_program_that_fails_is_no_result(
    compare: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The failure of a peer's process is an error, whatever it printed before."""
    (tmp_path / "fails.py").write_text("print('{}', flush=True)\nraise SystemExit(3)\n")
    monkeypatch.setattr(compare, "PROGRAMS", {"fails": compare.Program(tmp_path / "fails.py")})
    with pytest.raises(compare.subprocess.CalledProcessError) as caught:
        list(compare.collect("fails", quick=True))
    assert caught.value.returncode == 3


def test_a_wrong_value_is_no_result(load: Callable[[str], ModuleType]) -> None:
    """A peer whose value is not the one by hand fails instead of having a record."""
    rounds = load("rounds")
    peer = rounds.Peer("wrong", {"loop": lambda size: [rounds.Way("wrong", lambda: 1)]})
    with pytest.raises(AssertionError, match="loop: the value is 1, not 0"):
        next(rounds.measure(peer, quick=True))


def test_more_than_the_limit_at_a_time_is_no_result(load: Callable[[str], ModuleType]) -> None:
    """Right values do not count where more tasks ran at a time than the limit, or none was seen."""
    work = load("work")
    at_once = work.works(work.QUICK)["at_once"]
    with pytest.raises(AssertionError, match="at_once: 0 ran at a time, not 5"):
        work.check(at_once, work.QUICK, at_once.expected)
    for _ in range(work.QUICK.limit + 1):
        work.METER.enter()
    with pytest.raises(AssertionError, match="at_once: 6 ran at a time, not 5"):
        work.check(at_once, work.QUICK, at_once.expected)


@pytest.mark.parametrize(
    ("starts", "error"),
    [
        ([0.0, 0.01, 0.02, 0.03, 0.04], None),
        ([0.0, 0.5, 0.51, 0.52, 0.53], None),
        ([0.0, 0.03, 0.03, 0.03, 0.04], None),  # a stall bunches some
        ([0.0, 0.0, 0.0, 0.0, 0.0], "start 4 came 0.0400 s early"),
        ([0.0, 0.01, 0.02, 0.03], "4 started, not 5"),
    ],
)
def test_starts_that_come_too_early_are_no_result(
    load: Callable[[str], ModuleType], starts: list[float], error: str | None
) -> None:
    """No window may hold more starts than the rate allows, some bunched by the machine aside."""
    work = load("work")
    size = work.Size(rate=5, per_second=100)
    rate = work.works(size)["rate"]
    work.METER.starts = starts
    if error is None:
        work.check(rate, size, rate.expected)
    else:
        with pytest.raises(AssertionError, match=error):
            work.check(rate, size, rate.expected)


def test_the_fastest_way_is_measured_in_paired_rounds(
    load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several ways the fastest counts, in at least 7 rounds, each between two runs by hand."""
    rounds, work = load("rounds"), load("work")
    now = 0.0
    calls: list[str] = []

    def taking(name: str, seconds: float) -> Callable[[], int]:
        def run() -> int:
            nonlocal now
            now += seconds
            calls.append(name)
            return 0

        return run

    monkeypatch.setattr(rounds, "perf_counter", lambda: now)
    ways = [rounds.Way("slow", taking("slow", 5.0)), rounds.Way("fast", taking("fast", 3.0))]
    by_hand = work.Work("loop", "Loop", "iteration", 10, taking("by hand", 2.0), 0)
    with asyncio.Runner() as runner:
        clock = rounds.Clock(runner, work.QUICK)
        record = rounds.measure_ways(by_hand, ways, clock, quick=False)
    assert record["how"] == "fast"
    assert (record["seconds"], record["by_hand"], record["ratio"]) == (0.3, 0.2, 1.5)
    assert record["rounds"] == rounds.MIN_ROUNDS == 7
    assert calls[-15:] == ["by hand", *["fast", "by hand"] * 7]


def record(peer: str, work: str, **fields: Any) -> dict[str, Any]:
    about = {"peer": peer, "python": "3.11.7", "versions": {}, "work": work}
    if "instead" not in fields:
        about |= {"by_hand": 1e-6, "by_user": False}
    return about | fields


def test_the_table(compare: ModuleType) -> None:
    """A row for each peer, a column for each work, and the work by hand above them."""
    titles = {"loop": "Loop", "rate": "Rate"}
    first = [
        record("a", "loop", seconds=12.34e-6, ratio=12.34, how="a jump", versions={"lib": "1.2"}),
        record("a", "rate", seconds=0.5, ratio=1.017, by_hand=0.49, by_user=True, how="a sleep"),
    ]
    second = [
        record("b", "loop", seconds=3e-3, ratio=3000.4, by_hand=3e-6, how="a node"),
        record("b", "rate", instead="a limiter"),
    ]
    assert compare.table(first + second, titles).splitlines() == [
        "|  | version | Loop | Rate |",
        "| --- | --- | --- | --- |",
        "| by hand |  | 1 (2.00 us) | 1 (490 ms) |",
        r"| a | lib 1.2 | **12.3** (12.3 us) | **1.02**\* (500 ms) |",
        "| b | CPython 3.11.7 | **3,000** (3.00 ms) | not offered: a limiter |",
    ]
    assert compare.ways(first + second, titles).splitlines() == [
        "- **a.** Loop: a jump. Rate: a sleep.",
        "- **b.** Loop: a node.",
    ]


def test_the_table_is_written_between_the_markers(compare: ModuleType, tmp_path: Path) -> None:
    """Writing replaces what is between the markers, and nothing else."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{compare.BEGIN}\nold\n{compare.END}\nafter\n", encoding="utf-8")
    for text in ("| first |", "| second |"):
        compare.write(page, text)
        assert page.read_text(encoding="utf-8") == (
            f"before\n{compare.BEGIN}\n\n{text}\n\n{compare.END}\nafter\n"
        )


@pytest.mark.parametrize("markers", [["END"], ["BEGIN"], [], ["END", "BEGIN"]])
def test_a_page_without_a_place_is_left_alone(
    compare: ModuleType, tmp_path: Path, markers: list[str]
) -> None:
    """Without both markers, in order, nothing is written."""
    page = tmp_path / "page.md"
    text = "\n".join(getattr(compare, marker) for marker in markers)
    page.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="no place for the table in"):
        compare.write(page, "| row |")
    assert page.read_text(encoding="utf-8") == text


def test_the_documentation_has_a_place_for_the_table(compare: ModuleType) -> None:
    """`make peers ARGS=--write` finds its markers in docs/performance.md."""
    before, after = compare.around(compare.PAGE)
    assert before.startswith("# Performance")
    assert "## When to take another" in after
