"""What of a routine can be turned into a Python function, and what that function is given.

Not every routine can: `NotFusable` says why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cascade.graph.structure import LIST, TASK, TUPLE, Ref, Slot, Structure
from cascade.vm import isa
from cascade.vm.alone import awaits_stand_alone
from cascade.vm.blueprint import Routine
from cascade.workflow.task import Parameters

MOST_ROWS: Final = 128  # of a routine that is fused: compiling holds the loop
CONSTANT: Final = (isa.Shared, isa.Outer, isa.Param, isa.Inject)
_FUSABLE: Final = (
    *(isa.Call, isa.Await, isa.Branch, isa.Default, isa.Take, isa.Choose, isa.Open, isa.Follow),
    *(isa.List, isa.Tuple, isa.Dict, *CONSTANT, isa.Return),
)


class NotFusable(Exception):
    """The routine has something in it that only the interpreter does."""


@dataclass(frozen=True, slots=True)
class Features:
    """What the fused code of one routine calls, and what it is given.

    `body` is the row of the call that ends an iteration. `own` are the parameters of its task that
    an iteration may bring, with the node's own arguments; `variables` those of them that are
    variables of the code. `constants` are rows whose values are there before the loop goes on,
    `literals` the numbers of the literals that the code reads.
    """

    structure: Structure
    routine: Routine
    body: int
    calls: int
    is_async: bool
    is_mixed: bool  # inline tasks between its awaits
    may_skip: bool
    task_names: tuple[str, ...]
    sure_calls: tuple[tuple[str, int], ...]  # of each iteration: name of the task, how often
    own: dict[str, Ref]
    variables: tuple[str, ...]
    constants: tuple[isa.Producer, ...]
    literals: tuple[int, ...]
    own_literals: tuple[tuple[str, Ref], ...]  # the variables whose own argument is one

    @property
    def slot(self) -> Slot:
        """What the routine computes."""
        return self.structure.slots[self.routine.root]

    @property
    def parameters(self) -> Parameters:
        """The parameters of the task that ends an iteration."""
        return self.slot.task.parameters

    @property
    def result(self) -> str:
        """The local variable that the body writes."""
        body = self.routine.code[self.body]
        assert isinstance(body, isa.Invocation)
        return f"r{body.dst}"


def features(structure: Structure, routine: Routine) -> Features:
    """The features of a routine; raises `NotFusable` with the reason if it cannot be fused."""
    _check(structure, routine)
    if not routine.is_body:
        _check_expression(structure)
    calls = [row for row in routine.code if isinstance(row, isa.Invocation)]
    names = [structure.slots[row.site].name for row in calls]
    sure = [structure.slots[row.site].name for row in calls if row.at == 0]
    is_async = any(isinstance(row, isa.Await) for row in calls)
    own = dict(_named_refs(structure.slots[routine.root]))
    variables = _variables(routine, own)
    return Features(
        structure=structure,
        routine=routine,
        body=len(routine.code) - 2,
        calls=len(calls),
        is_async=is_async,
        is_mixed=is_async and any(isinstance(row, isa.Call) for row in calls),
        may_skip=any(isinstance(row, isa.Branch | isa.Choose) for row in routine.code),
        task_names=tuple(dict.fromkeys(names)),
        sure_calls=tuple(Counter(sure).items()),
        own=own,
        variables=variables,
        constants=tuple([row for row in routine.code if isinstance(row, CONSTANT)]),
        literals=_literals(structure, routine, [own[name] for name in variables]),
        own_literals=tuple([(name, own[name]) for name in variables if own[name] < 0]),
    )


# What can be fused


def _check(structure: Structure, routine: Routine) -> None:
    if routine.root < 0:
        raise NotFusable("it is a literal")
    code = routine.code
    if len(code) > MOST_ROWS:
        raise NotFusable(f"it has {len(code)} rows, more than {MOST_ROWS}")
    body = code[-2] if len(code) > 1 else None
    if not isinstance(body, isa.Call | isa.Await) or body.site != routine.root:
        raise NotFusable("its target is no task that runs on the loop")
    for row in code:
        _check_row(structure, row)
    if structure.slots[routine.root].settled_on is not None:
        raise NotFusable("its target is settled")
    _check_regions(code)
    if not awaits_stand_alone(code):
        raise NotFusable("its async tasks may run at the same time as others")


def _check_row(structure: Structure, row: isa.Instruction) -> None:
    if not isinstance(row, _FUSABLE):
        raise NotFusable(f"{row.mnemonic} is left to the interpreter")
    if not isinstance(row, isa.Invocation):
        return
    slot = structure.slots[row.site]
    if slot.inner is not None:
        raise NotFusable(f"{slot.task.kind} {slot.name!r} is left to the interpreter")
    for what, value in (("cache", slot.cache), ("timeout", slot.timeout)):
        if value is not None:
            raise NotFusable(f"task {slot.name!r} has a {what}")
    if slot.amounts:
        raise NotFusable(f"task {slot.name!r} takes capacity")


def _check_regions(code: tuple[isa.Instruction, ...]) -> None:
    """Read from top to bottom, each region must be opened above all that stands in it."""
    first: dict[int, int] = {}
    for pc, row in enumerate(code):
        first.setdefault(row.at, pc)
    for pc, row in enumerate(code):
        if any(first.get(region, pc) < pc for region in row.opens()):
            raise NotFusable("a value is wanted by guards that come one after the other")


def _check_expression(structure: Structure) -> None:
    """A returned expression is matched node by node."""
    for slot in structure.slots:
        policies = (
            slot.conditions,
            slot.after,
            slot.retry,
            slot.bound,
            slot.recovers,
            slot.inner is not None,
        )
        is_call = slot.kind is TASK and not slot.task.pure and not slot.kwargs
        if any(policies) or slot.is_method or not (is_call or slot.kind in (LIST, TUPLE)):
            raise NotFusable("only an expression of plain calls is matched")
        if not is_call and slot.data:
            raise NotFusable("only plain lists and tuples are matched")


# What it is given


def _named_refs(slot: Slot) -> Iterator[tuple[str, Ref]]:
    names = slot.task.parameters.positional
    yield from zip(names, slot.args, strict=False)
    keywords = slot.task.parameters.names[len(names) :]
    yield from ((name, ref) for name, ref in slot.kwargs if name in keywords)


def _variables(routine: Routine, own: dict[str, Ref]) -> tuple[str, ...]:
    if not routine.is_body:
        return ()
    if not routine.given <= set(own):
        raise NotFusable("its iterations bring arguments that no parameter names")
    return tuple([name for name, ref in own.items() if ref < 0 or name in routine.given])


def _literals(structure: Structure, routine: Routine, own: list[Ref]) -> tuple[int, ...]:
    """Those of a returned expression are all matched; else those that rows or variables read."""
    if not routine.is_body:
        return tuple(range(structure.literals))
    read = [*own, *_read_by_rows(structure, routine)]
    return tuple(sorted({~ref for ref in read if ref < 0}))


def _read_by_rows(structure: Structure, routine: Routine) -> Iterator[Ref]:
    for row in routine.code:
        if isinstance(row, CONSTANT):
            continue
        yield from row.refs()
        if isinstance(row, isa.List | isa.Tuple | isa.Dict) and structure.slots[row.site].data:
            yield structure.slots[row.site].data
