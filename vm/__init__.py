"""The virtual machine: instructions, Blueprints, their verification and execution."""

from cascade.vm.blueprint import Blueprint, Routine
from cascade.vm.disassemble import listing
from cascade.vm.machine import VirtualMachine, VMExecutionStrategy
from cascade.vm.verify import verify

__all__ = [
    "Blueprint",
    "Routine",
    "VMExecutionStrategy",
    "VirtualMachine",
    "listing",
    "verify",
]
