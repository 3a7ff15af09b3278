"""The page about the instruction set, made from the table."""

from __future__ import annotations

from textwrap import dedent

from cascade.vm import isa


def document() -> str:
    """docs/isa.md: the machine model, then each instruction with its operands and its effect."""
    head = dedent(isa.__doc__ or "").strip().partition("\n\n")[2]
    model = "\n\n".join(p for p in head.split("\n\n") if not p.startswith("To add"))
    rows = "\n".join(_row(kind) for kind in isa.TABLE.values())
    return (
        "# The instruction set\n\n"
        "This page is made from `vm/isa.py` by `python -m pytest tests/vm/test_isa.py --bless`.\n\n"
        f"{model}\n\n"
        "| instruction | operands | effect |\n| --- | --- | --- |\n"
        f"{rows}\n"
    )


def _row(kind: type[isa.Instruction]) -> str:
    operands = ", ".join(operand.name for operand in kind.operands)
    effect = " ".join((kind.__doc__ or "").replace("\\", "").split())
    return f"| `{kind.mnemonic}` | {operands} | {effect} |"
