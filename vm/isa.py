"""The instruction set: this table, from which all else that concerns instructions is derived.

The machine. An evaluation has registers R, the literals K of its data, and the sites T of its
structure: T[t] is what stands at slot t (a task call with its policies, a map, a Router, ...).
A register is absent, or holds a value or the Skipped that stands for one.

Code is a list of instructions in plan order, each in one **region** (`@n`). Region 0 is open from
the start; what only a condition, a choice, a default or an iteration demands is in a region of its
own. An instruction **fires** once its region is open and all registers it reads are written: each
counts what is missing, and each value knows its readers, so nothing is looked for. Opening an open
region does nothing. What never fires is what was never demanded.

The value of a site is written once, by whichever of its instructions comes to it: its call, its
default, or the branch that skips it. An instruction may write the register that one of its
arguments was read from, if nobody else reads that.

Notation: `R[dst] :=` writes a register, perhaps later; `skip` writes Skipped; `V(x)` is R[x] or,
for a negative x, the literal K[~x].

To add an instruction: add a class here, its first docstring line being its effect; give it a
handler in frame.py (the import fails without); let the compiler emit it; add what must hold of
its operands to verify.py; `python -m pytest tests/vm/test_isa.py --bless` writes docs/isa.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import get_annotations
from typing import Any, ClassVar, Final

Reg = int
Ref = int
Const = int
Site = int
Region = int

NOWHERE: Final = -1  # instead of a region: nothing is opened
TABLE: Final[dict[str, type[Instruction]]] = {}


class Operand:
    """One field of an instruction: what it holds, and the register or region numbers in it."""

    __slots__ = ("kind", "name")

    def __init__(self, name: str, kind: str) -> None:
        if kind not in KINDS:
            raise TypeError(f"operand {name!r} has the kind {kind!r}; known: {', '.join(KINDS)}")
        self.name = name
        self.kind = kind

    def refs(self, value: Any) -> tuple[Ref, ...]:
        """The references that the field reads, literals included."""
        return KINDS[self.kind].refs(value)

    def regions(self, value: Any) -> tuple[Region, ...]:
        """The regions that the field may open."""
        return KINDS[self.kind].regions(value)

    def renumbered(self, value: Any, number: Callable[[Region], Region]) -> Any:
        """The field with its regions numbered anew."""
        return KINDS[self.kind].renumbered(value, number)

    def text(self, value: Any) -> str:
        """The field as the listing shows it."""
        return KINDS[self.kind].text(value)


def _none(_: Any) -> tuple[int, ...]:
    return ()


def _unchanged(value: Any, _: Callable[[Region], Region]) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class Kind:
    """How operands of one kind are read, shown, and numbered anew."""

    text: Callable[[Any], str]
    refs: Callable[[Any], tuple[Ref, ...]] = _none
    regions: Callable[[Any], tuple[Region, ...]] = _none
    renumbered: Callable[[Any, Callable[[Region], Region]], Any] = _unchanged


def ref_text(ref: Ref | None) -> str:
    """`r3`, `k0`, or `_` for an argument that the iteration gives."""
    if ref is None:
        return "_"
    return f"r{ref}" if ref >= 0 else f"k{~ref}"


def _region_text(region: Region) -> str:
    return "-" if region == NOWHERE else f"@{region}"


def _many(refs: tuple[Ref | None, ...]) -> str:
    return f"({', '.join(map(ref_text, refs))})"


def _given(refs: tuple[Ref | None, ...]) -> tuple[Ref, ...]:
    return tuple([ref for ref in refs if ref is not None])


KINDS: Final[dict[str, Kind]] = {
    "Reg": Kind(lambda reg: f"r{reg}"),
    "Site": Kind(lambda site: f"t{site}"),
    "Const": Kind(lambda const: f"k{const}"),
    "Ref": Kind(ref_text, lambda ref: (ref,)),
    "Region": Kind(
        _region_text,
        regions=lambda region: () if region == NOWHERE else (region,),
        renumbered=lambda region, number: number(region),
    ),
    "tuple[Ref | None, ...]": Kind(_many, _given),
    "tuple[tuple[str, Ref | None], ...]": Kind(
        lambda named: f"({', '.join(f'{name}={ref_text(ref)}' for name, ref in named)})",
        lambda named: _given(tuple([ref for _, ref in named])),
    ),
    "tuple[tuple[Ref, Region], ...]": Kind(
        lambda routes: f"({', '.join(_region_text(region) for _, region in routes)})",
        regions=lambda routes: tuple([region for _, region in routes]),
        renumbered=lambda routes, number: tuple([(ref, number(region)) for ref, region in routes]),
    ),
}


class Instruction:
    """One step of an evaluation, standing in the region `at`."""

    __slots__ = ()
    mnemonic: ClassVar[str]
    operands: ClassVar[tuple[Operand, ...]] = ()
    site_kinds: ClassVar[tuple[str, ...]] = ()  # what may stand at its site
    is_abstract: ClassVar[bool] = True

    at: Region

    def __init_subclass__(cls, *, sites: tuple[str, ...] = (), is_abstract: bool = False) -> None:
        super().__init_subclass__()
        # A dataclass with slots is made twice, the second time without these keywords.
        if "mnemonic" not in cls.__dict__:
            cls.mnemonic = cls.__name__.lower()
            cls.is_abstract = is_abstract
            cls.site_kinds = sites or cls.site_kinds
            own = get_annotations(cls)
            names = {operand.name for operand in cls.operands} | {"at"}
            added = [Operand(name, kind) for name, kind in own.items() if name not in names]
            cls.operands = (*cls.operands, *added)
        if not cls.is_abstract:
            TABLE[cls.mnemonic] = cls

    def refs(self) -> Iterator[Ref]:
        """What it reads: registers, and literals as negative numbers."""
        for operand in self.operands:
            yield from operand.refs(getattr(self, operand.name))

    def reads(self) -> tuple[Reg, ...]:
        """The registers that it reads, each once."""
        return tuple(dict.fromkeys(ref for ref in self.refs() if ref >= 0))

    def opens(self) -> Iterator[Region]:
        """The regions that it may open."""
        for operand in self.operands:
            yield from operand.regions(getattr(self, operand.name))


@dataclass(frozen=True, slots=True)
class Producer(Instruction, is_abstract=True):
    """An instruction that may give the value of its site."""

    at: Region
    dst: Reg
    site: Site

    @property
    def source(self) -> int:
        """Whose value it gives: a site of this evaluation, or ~site of the one around."""
        return self.site


# Tasks. What they do beyond the plain call (cache, gate, attempts) is in the policies of the site.


@dataclass(frozen=True, slots=True)
class Invocation(Producer, is_abstract=True, sites=("task",)):
    """A call of a task: `after` and `amounts` are registers that it needs beside its arguments."""

    args: tuple[Ref | None, ...]
    kwargs: tuple[tuple[str, Ref | None], ...]
    after: tuple[Ref | None, ...]
    amounts: tuple[tuple[str, Ref | None], ...]


@dataclass(frozen=True, slots=True)
class Call(Invocation):
    """R[dst] := T[site](V(args)..., V(kwargs)...), on the loop's own thread, in plan order"""


@dataclass(frozen=True, slots=True)
class Await(Invocation):
    """R[dst] := await T[site](V(args)..., V(kwargs)...)"""


@dataclass(frozen=True, slots=True)
class Thread(Invocation):
    """R[dst] := T[site](V(args)..., V(kwargs)...) in a worker thread"""


@dataclass(frozen=True, slots=True)
class Process(Invocation):
    """R[dst] := T[site](V(args)..., V(kwargs)...) in a worker process"""


@dataclass(frozen=True, slots=True)
class Map(Producer, sites=("map",)):
    """R[dst] := the list of T[site] for the items of V(kwargs), all at the same time"""

    kwargs: tuple[tuple[str, Ref | None], ...]
    after: tuple[Ref | None, ...]
    amounts: tuple[tuple[str, Ref | None], ...]


@dataclass(frozen=True, slots=True)
class Loop(Producer, sites=("task",)):
    """R[dst] := what the loop at T[site] ends with; each iteration is an evaluation of its own"""


# Guards: what is demanded only if ...


@dataclass(frozen=True, slots=True)
class Branch(Producer, sites=("task", "map")):
    """if V(condition): open `then`; else open `otherwise`, or skip R[dst] where there is none"""

    condition: Ref
    then: Region
    otherwise: Region


@dataclass(frozen=True, slots=True)
class Follow(Producer, sites=("task", "map")):
    """open `then` once the predecessors R[after] are there; skip R[dst] if one was skipped"""

    after: tuple[Ref | None, ...]
    then: Region


@dataclass(frozen=True, slots=True)
class Default(Producer, sites=("task", "map")):
    """R[dst] := V(value), in place of T[site], whose condition does not hold"""

    value: Ref


@dataclass(frozen=True, slots=True)
class Choose(Producer, sites=("router",)):
    """open the route of T[site] that V(selector) names; skip R[dst] if the selector is skipped"""

    selector: Ref
    routes: tuple[tuple[Ref, Region], ...]


@dataclass(frozen=True, slots=True)
class Take(Producer, sites=("router",)):
    """R[dst] := V(value), the value of the chosen route"""

    value: Ref


@dataclass(frozen=True, slots=True)
class Open(Instruction):
    """open `region`, which something here and something elsewhere needs"""

    at: Region
    region: Region


# Values that are no calls


@dataclass(frozen=True, slots=True)
class List(Producer, sites=("list",)):
    """R[dst] := a list of V(members)"""

    members: tuple[Ref | None, ...]


@dataclass(frozen=True, slots=True)
class Tuple(Producer, sites=("tuple",)):
    """R[dst] := a tuple of V(members), of the type given"""

    members: tuple[Ref | None, ...]


@dataclass(frozen=True, slots=True)
class Dict(Producer, sites=("dict",)):
    """R[dst] := a dict of V(members), under the keys given"""

    members: tuple[Ref | None, ...]


@dataclass(frozen=True, slots=True)
class Param(Producer, sites=("param",)):
    """R[dst] := the value of the Param or Env that K[declared] is"""

    declared: Const


@dataclass(frozen=True, slots=True)
class Inject(Producer, sites=("resource",)):
    """R[dst] := the resource T[site], set up if it is not there; of scope "task": a placeholder"""


# Iterations


@dataclass(frozen=True, slots=True)
class Outer(Producer):
    """R[dst] := the value of T[site] in the evaluation around the loop, demanded there"""

    @property
    def source(self) -> int:
        """The value is not that of the site in this evaluation."""
        return ~self.site


@dataclass(frozen=True, slots=True)
class Shared(Producer, sites=("task", "map")):
    """R[dst] := the value of the loop-invariant T[site], demanded in the outermost evaluation; \
    opens `otherwise` if it injects a resource that does not last for the run
    """

    otherwise: Region


@dataclass(frozen=True, slots=True)
class Return(Instruction):
    """the evaluation ends with V(value)"""

    at: Region
    value: Ref
