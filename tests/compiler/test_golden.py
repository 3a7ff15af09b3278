"""Listings: each program in tests/compiler/golden carries its listing as its trailing comment.

`pytest tests/compiler/test_golden.py --bless` writes the listings anew (refused where CI is set).
"""

from __future__ import annotations

import os
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cascade as cs

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.py"))
MARK = "\n\n# Listing\n"


def commented(listing: str) -> str:
    return "".join(f"# {line}".rstrip() + "\n" for line in listing.splitlines())


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_listing_is_the_one_that_stands_below_the_program(
    path: Path, pytestconfig: pytest.Config
) -> None:
    """The same program compiles to the same text every time."""
    program = runpy.run_path(str(path))
    listing = commented(cs.disassemble(program["target"]()))
    assert listing == commented(cs.disassemble(program["target"]()))
    source, _, expected = path.read_text(encoding="utf-8").partition(MARK)
    if pytestconfig.getoption("--bless"):
        assert not os.environ.get("CI"), "--bless is for people"
        path.write_text(source.rstrip("\n") + "\n" + MARK + listing, encoding="utf-8")
    else:
        assert listing == expected


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_program_does_what_it_says(path: Path, run: Callable[..., Any]) -> None:
    """Both strategies give the value that the program states."""
    program = runpy.run_path(str(path))
    assert run(program["target"](), **program.get("options", {})) == program["value"]


def test_there_are_enough_of_them() -> None:
    """At least 25 listings are kept."""
    assert len(GOLDEN) >= 25
