"""The virtual machine: instructions, Blueprints, their verification and execution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cascade.vm.blueprint import Blueprint, Routine
from cascade.vm.disassemble import listing
from cascade.vm.machine import VMExecutionStrategy
from cascade.vm.verify import verify

if TYPE_CHECKING:
    from cascade.engine import VirtualMachine

__all__ = [
    "Blueprint",
    "Routine",
    "VMExecutionStrategy",
    "VirtualMachine",
    "listing",
    "verify",
]


def __getattr__(name: str) -> Any:
    """`VirtualMachine`, which stands beside `Engine`, above all that is in here."""
    if name != "VirtualMachine":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cascade.engine import VirtualMachine

    return VirtualMachine
