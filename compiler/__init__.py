"""The compiler: from an expression to a Blueprint of the virtual machine."""

from cascade.compiler.builder import BlueprintBuilder, disassemble

__all__ = ["BlueprintBuilder", "disassemble"]
