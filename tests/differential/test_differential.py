"""Section 16: programs drawn at random do the same under both strategies, on both event loops.

``make differential N=1000000`` runs many more, by their seeds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comparing import cover, divergence, runs
from programs import Program, draw, seeded

SEEDS = 1200
PROCESS_SEEDS = 12


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    """Tear-downs and caches that fail are logged; here they are meant to."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.timeout(300)
def test_seeded_programs_agree() -> None:
    """They have every construct and every instruction; worker processes, which are slow, apart."""
    found = cover(range(SEEDS))
    found.merge(cover(range(PROCESS_SEEDS), "process"))
    assert found.divergences == []
    assert found.missing_constructs == set()
    assert found.missing_instructions == set()
    assert found.discards < found.programs / 20


@st.composite
def programs(pick: st.DrawFn) -> Program:
    return draw(lambda n: pick(st.integers(0, n - 1)))


@pytest.mark.timeout(300)  # an example with processes starts its workers anew
@settings(max_examples=150)
@given(programs())
def test_drawn_programs_agree(program: Program) -> None:
    """Any program that hypothesis draws does the same under every strategy and event loop."""
    found = divergence(program, runs([program])[0])
    assert found is None, f"{found}\n{program}"


def test_a_seed_gives_one_program() -> None:
    """The same seed always gives the same program."""
    assert [seeded(n) for n in range(50)] == [seeded(n) for n in range(50)]
