"""The instruction table, and what is derived from it."""

import os
import runpy
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from cascade.vm import frame, isa
from cascade.vm.document import document
from cascade.vm.frame import HANDLERS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "isa.md"


def test_every_instruction_has_a_handler() -> None:
    """The table and the machine's handlers name the same instructions."""
    assert set(HANDLERS) == set(isa.TABLE.values())


def test_an_instruction_without_a_handler_fails_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever adds an instruction hears of what is missing."""

    class Odd:
        pass

    monkeypatch.setitem(isa.TABLE, "odd", Odd)  # type: ignore[arg-type]
    with pytest.raises(ImportError, match="instructions and handlers differ: Odd"):
        runpy.run_path(str(frame.__file__))


@pytest.mark.parametrize("mnemonic", sorted(isa.TABLE))
def test_an_instruction_says_what_it_does(mnemonic: str) -> None:
    """Its docstring is the documentation, its fields are its operands, and it is frozen."""
    kind = isa.TABLE[mnemonic]
    assert kind.__doc__
    assert not kind.__doc__.startswith(kind.__name__)
    assert is_dataclass(kind)
    assert [operand.name for operand in kind.operands] == [f.name for f in fields(kind)][1:]
    assert kind.mnemonic == mnemonic == kind.__name__.lower()


def test_an_operand_of_an_unknown_kind_is_refused() -> None:
    """The table reads what kinds of operands there are from one place."""
    with pytest.raises(TypeError, match="Colour"):
        isa.Operand("tint", "Colour")


def test_what_an_instruction_reads_and_opens() -> None:
    """Both are derived from its operands; literals are no registers."""
    row = isa.Call(0, 3, 7, (1, ~0, 1, None), (("x", 2),), (4,), (("gpu", 5),))
    assert row.reads() == (1, 2, 4, 5)
    assert list(row.refs()) == [1, ~0, 1, 2, 4, 5]
    assert list(isa.Branch(0, 1, 2, 3, 4, isa.NOWHERE).opens()) == [4]
    assert list(isa.Choose(0, 1, 2, 3, ((~0, 1), (5, 2))).opens()) == [1, 2]


def test_the_page_is_the_one_made_from_the_table(pytestconfig: pytest.Config) -> None:
    """docs/isa.md is generated: --bless writes it anew."""
    if pytestconfig.getoption("--bless"):
        assert not os.environ.get("CI"), "--bless is for people"
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(document(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == document()
