"""What must hold of a Blueprint before it runs. Each rule has a test of its own."""

from __future__ import annotations

from cascade.vm.blueprint import Blueprint, Routine


def verify(blueprint: Blueprint) -> None:
    """Raise `VerifyError`, with the listing and the row, unless all rules hold."""
    for routine in blueprint.routines:
        verify_routine(blueprint, routine)


def verify_routine(blueprint: Blueprint, routine: Routine) -> None:
    """The rules for one routine."""
