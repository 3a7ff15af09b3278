"""One program under {graph, vm} x {asyncio, trio}, in virtual time, and what it did."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import anyio
import building
from programs import Program

import cascade as cs
from cascade.agreement import Observation, Recorder, described, described_error, difference
from cascade.testing import virtual_time
from cascade.vm import machine
from cascade.vm.isa import TABLE

WAYS = [("asyncio", False), ("asyncio", True), ("trio", False), ("trio", True)]
FOREVER = 100_000.0  # virtual seconds after which a run hangs
LAST_CHANGE = 50.0  # when all constraints are lifted

os.environ["CASCADE_DIFFERENTIAL"] = "7"

executed: Counter[str] = Counter()  # instructions, by mnemonic


def count_instructions() -> None:
    """Count every instruction that fires from now on in `executed`."""
    for kind, handler in list(machine.HANDLERS.items()):
        machine.HANDLERS[kind] = counting(kind.mnemonic, handler)


def counting(mnemonic: str, handler: Any) -> Any:
    def counted(frame: Any, row: Any, reads: Any) -> None:
        executed[mnemonic] += 1
        handler(frame, row, reads)

    return counted


@dataclass
class Done:
    """What a run of a program did; of a silent one, to which nobody listened, there are no events."""

    seen: Observation
    journal: list[str]


async def carry_out(program: Program, use_vm: bool, where: str, silent: bool) -> Done:
    """One run in the event loop around."""
    state = building.use(program)
    capacity = dict(program.capacity)
    bus = cs.MessageBus()
    engine = cs.Engine(
        bus=bus,
        system_resources=capacity,
        tail_calls="forbid" if program.forbids else "follow",
    )
    recorder = Recorder(engine, bus, where)
    async with anyio.create_task_group() as changers:
        try:
            for definition in building.PROVIDED:
                engine.register(definition)
            if program.features & {"tail target", "tail overrides"}:
                engine.register_target("registered", building.build(program.subs[-1]))
            target = building.build(program)
        except Exception as error:  # found when it is built: the same for all
            recorder.failed(error)
            return Done(recorder.seen, [])
        if program.changes:
            for change in program.changes:
                if not change[0]:
                    apply(engine, change)
            changers.start_soon(change_constraints, engine, program)
        if silent:
            await outcome_of(engine, target, program, use_vm, recorder)
        else:
            with recorder:
                await outcome_of(engine, target, program, use_vm, recorder)
        changers.cancel_scope.cancel()
    return Done(recorder.settled(capacity), state.journal)


async def outcome_of(
    engine: cs.Engine, target: Any, program: Program, use_vm: bool, recorder: Recorder
) -> None:
    seen = recorder.seen
    limit = FOREVER if program.cancel_at is None else program.cancel_at
    with anyio.move_on_after(limit) as scope:
        try:
            recorder.returned(
                await engine.run(
                    target,
                    params=dict(program.given),
                    use_vm=use_vm,
                    max_steps=program.max_steps,
                )
            )
        except Exception as error:
            recorder.failed(error)
    if scope.cancelled_caught:
        seen.outcome = "hangs" if program.cancel_at is None else "cancelled"


def apply(engine: cs.Engine, change: tuple[Any, ...]) -> None:
    _, method, *arguments = change
    getattr(engine.constraints, method)(*arguments)


async def change_constraints(engine: cs.Engine, program: Program) -> None:
    start = anyio.current_time()
    for change in program.changes:
        if change[0]:
            await anyio.sleep_until(start + change[0])
            apply(engine, change)
    await anyio.sleep_until(start + LAST_CHANGE)
    for constraint in engine.constraints.active():
        engine.constraints.remove(constraint.id)


def runs(programs: Sequence[Program], *, silently: bool = True) -> list[list[Done]]:
    """For each program, what it did in each way; the last one is silent."""
    found: list[list[Done]] = [[] for _ in programs]
    ways = [(*way, False) for way in WAYS]
    if silently:
        ways.append(("asyncio", True, True))
    for backend, use_vm, silent in ways:
        where = f"{'vm' if use_vm else 'graph'} on {backend}{', silently' if silent else ''}"

        async def batch(
            use_vm: bool = use_vm, where: str = where, silent: bool = silent
        ) -> None:
            for program, done in zip(programs, found, strict=True):
                # On a whole second, so that all times of a run are exact.
                await anyio.sleep_until(anyio.current_time() // 1 + 1)
                done.append(await carry_out(program, use_vm, where, silent))

        anyio.run(batch, backend=backend, backend_options=virtual_time(backend))
    return found


def divergence(program: Program, done: Sequence[Done]) -> str | None:
    """The first difference between the runs of one program."""
    first = done[0]
    if first.seen.kind == "hangs":
        return f"{first.seen.where} hangs"
    for other in done[1:]:
        found = differ(program, first, other)
        if found is not None:
            return found
    return None


def differ(program: Program, first: Done, other: Done) -> str | None:
    silent = other.seen.where.endswith("silently")
    if silent:
        return differ_silently(program, first, other)
    found = difference(first.seen, other.seen, timed=program.is_timed)
    if found is None and program.is_ordered and first.seen.kind == "value":
        found = journals(first, other, first.journal, other.journal)
    return found


def differ_silently(program: Program, first: Done, other: Done) -> str | None:
    if other.seen.left:
        return f"{other.seen.where} left something behind: {other.seen.left}"
    if first.seen.kind != other.seen.kind:
        return journals(first, other, [first.seen.outcome], [other.seen.outcome])
    if first.seen.kind != "value":
        return None
    if first.seen.outcome != other.seen.outcome:
        return journals(first, other, [first.seen.outcome], [other.seen.outcome])
    if program.is_ordered:
        return journals(first, other, first.journal, other.journal)
    return journals(first, other, sorted(first.journal), sorted(other.journal))


def journals(first: Done, other: Done, one: list[str], two: list[str]) -> str | None:
    if one == two:
        return None
    at = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), -1)
    return (
        f"what was done differs, at {at} of {len(one)} and {len(two)}\n"
        f"  {first.seen.where}: {one[at : at + 3]}\n  {other.seen.where}: {two[at : at + 3]}"
    )


@dataclass
class Coverage:
    """What many programs had in them."""

    constructs: Counter[str] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    tolerated: int = 0  # different failures at one instant

    def add(self, program: Program, done: Sequence[Done]) -> None:
        self.constructs.update(program.features)
        self.pairs.update(combinations(sorted(program.features), 2))
        outcome = done[0].seen.outcome
        kind = outcome.split(":")[0] if outcome.startswith("failed") else outcome.split(" ")[0]
        self.outcomes[kind] += 1
        self.tolerated += len({each.seen.outcome for each in done[:4]}) > 1

    def missing_instructions(self) -> set[str]:
        return set(TABLE) - set(executed)


__all__ = ["Coverage", "described", "described_error", "divergence", "runs"]
