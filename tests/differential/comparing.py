"""One program under {graph, vm} x {asyncio, trio}, in virtual time, and what it did."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import anyio

import building
import cascade as cs
from cascade.core.services import FusedTier
from cascade.testing import virtual_time
from cascade.testing.agreement import Observation, Recorder, difference
from cascade.vm.frame import HANDLERS
from cascade.vm.isa import TABLE
from programs import CONSTRUCTS, Program, excludes, seeded

WAYS = [("asyncio", False), ("asyncio", True), ("trio", False), ("trio", True)]
BATCH = 25  # programs that share an event loop
FOREVER = 100_000.0  # virtual seconds after which a run hangs
LAST_CHANGE = 50.0  # when all constraints are lifted

os.environ["CASCADE_DIFFERENTIAL"] = "7"


@contextmanager
def counted_instructions() -> Iterator[Counter[str]]:
    """How often each instruction fires meanwhile, by mnemonic."""
    executed: Counter[str] = Counter()
    handlers: Any = HANDLERS
    before = dict(handlers)

    def counted(mnemonic: str, handler: Any) -> Any:
        def count(frame: Any, row: Any, reads: Any) -> None:
            executed[mnemonic] += 1
            handler(frame, row, reads)

        return count

    handlers.update({kind: counted(kind.mnemonic, handler) for kind, handler in before.items()})
    try:
        yield executed
    finally:
        handlers.update(before)


@dataclass
class Done:
    """What a run of a program did; a silent one, to which nobody listened, has no events."""

    seen: Observation
    journal: list[str]
    fused: int = 0  # entries of fused code
    is_discarded: bool = False  # it cannot be built, or it takes too long
    heard: dict[str, list[str]] = field(default_factory=dict)  # by subscribers that come and go


SILENT: dict[str, tuple[int, float]] = {
    "interpreted": (10**9, 0.0),
    "fused": (0, 0.0),
    "fused and left at random": (0, 0.3),
}  # ways without subscribers: when loops are fused, and how often a call leaves fused code


def tier(silent: str, seed: int) -> FusedTier:
    """The fused tier of a silent run."""
    hot_after, chance = SILENT[silent]
    source = random.Random(seed)
    return FusedTier(hot_after, (lambda: source.random() < chance) if chance else None)


async def carry_out(program: Program, use_vm: bool, where: str, silent: str) -> Done:
    """One run in the event loop around."""
    state = building.use(program)
    capacity = {
        name: cs.Rate(*amount) if type(amount) is tuple else amount
        for name, amount in program.capacity
    }
    engine = cs.Engine(
        executor=cs.LocalExecutor() if program.executes else None,
        system_resources=capacity,
        tail_calls="forbid" if program.forbids else "follow",
    )
    state.engine = engine
    if silent:
        engine.services.fused_tier = tier(silent, len(where) + len(program.nodes))
    recorder = Recorder(engine, where)
    async with anyio.create_task_group() as changers:
        try:
            for definition in building.PROVIDED:
                engine.register(definition)
            if program.features & {"tail target", "tail overrides"}:
                engine.register_target("registered", building.build(program.subs[-1]))
            target = building.build(program)
        except Exception as error:  # found when it is built: the same for all
            recorder.failed(error)
            return Done(recorder.seen, [], is_discarded=True)
        if program.flavour == "contended":
            for at, change in program.changes:
                if not at:
                    building.apply(engine, change)
            changers.start_soon(change_constraints, engine, program)
        if silent:
            await outcome_of(engine, target, program, use_vm, recorder)
        else:
            with recorder:
                await outcome_of(engine, target, program, use_vm, recorder)
        changers.cancel_scope.cancel()
    seen = recorder.settled(capacity)
    is_discarded = "TooLong" in seen.outcome
    return Done(seen, state.journal, engine.services.fused_tier.entries, is_discarded, state.heard)


async def outcome_of(
    engine: cs.Engine, target: Any, program: Program, use_vm: bool, recorder: Recorder
) -> None:
    """Await the run in a task of its own, in which tasks may leave requests to cancel it behind."""

    async def run() -> None:
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

    limit = FOREVER if program.cancel_at is None else program.cancel_at
    with anyio.move_on_after(limit) as scope:
        async with anyio.create_task_group() as runner:
            runner.start_soon(run)
    if scope.cancelled_caught:
        recorder.seen.outcome = "hangs" if program.cancel_at is None else "cancelled"


async def change_constraints(engine: cs.Engine, program: Program) -> None:
    start = anyio.current_time()
    for at, change in program.changes:
        if at:
            await anyio.sleep_until(start + at)
            building.apply(engine, change)
    await anyio.sleep_until(start + LAST_CHANGE)
    for constraint in engine.constraints.active():
        engine.constraints.remove(constraint.id)


def runs(programs: Sequence[Program], *, silently: bool = True) -> list[list[Done]]:
    """For each program, what it did in each way; the last ones are silent."""
    found: list[list[Done]] = [[] for _ in programs]
    ways = [(*way, "") for way in WAYS]
    if silently:
        backends = ("asyncio", "trio", "asyncio")
        ways += [(backend, True, how) for backend, how in zip(backends, SILENT, strict=True)]
    for backend, use_vm, silent in ways:
        where = f"{'vm' if use_vm else 'graph'} on {backend}"
        if silent:
            where = f"{where}, {silent}, silently"

        async def batch(use_vm: bool = use_vm, where: str = where, silent: str = silent) -> None:
            for program, done in zip(programs, found, strict=True):
                # On a whole second, so that all times of a run are exact.
                await anyio.sleep_until(anyio.current_time() // 1 + 1)
                done.append(await carry_out(program, use_vm, where, silent))

        anyio.run(batch, backend=backend, backend_options=virtual_time(backend))
    return found


def divergence(program: Program, done: Sequence[Done]) -> str | None:
    """The first difference between the runs of one program."""
    first = done[0]
    if all(each.is_discarded for each in done):
        return None
    if first.seen.kind == "hangs":
        return f"{first.seen.where} hangs"
    for other in done[1:]:
        found = differ(program, first, other)
        if found is not None:
            return found
    return None


def differ(program: Program, first: Done, other: Done) -> str | None:
    kinds = {first.seen.kind, other.seen.kind}
    if program.may_end_anyhow and "cancelled" in kinds and "hangs" not in kinds:
        return left_behind(first) or left_behind(other)
    if other.seen.where.endswith("silently"):
        return differ_silently(program, first, other) or heard_otherwise(program, first, other)
    found = difference(first.seen, other.seen, timed=program.is_timed)
    if found is None and program.is_ordered and by_a_task(first) == by_a_task(other):
        found = journals(first, other, first.journal, other.journal)
    return found or heard_otherwise(program, first, other)


def left_behind(done: Done) -> str | None:
    left = done.seen.left
    return f"{done.seen.where} left something behind: {left}" if left else None


def heard_otherwise(program: Program, first: Done, other: Done) -> str | None:
    """What subscribers that tasks bring and take away heard of each node."""
    if not program.is_ordered or first.seen.kind != "value":
        return None
    for task_id in first.heard | other.heard:
        one, two = first.heard.get(task_id, []), other.heard.get(task_id, [])
        if one != two:
            return f"heard of {task_id}: {journals(first, other, one, two)}"
    return None


def by_a_task(done: Done) -> str:
    """The outcome, if it is not one that the engine finds, which may come before ready tasks."""
    failures = {f"failed {events[-1][1][7:]}" for events in done.seen.events.values()}
    outcome = done.seen.outcome
    return outcome if done.seen.kind == "value" or outcome in failures else done.seen.where


def differ_silently(program: Program, first: Done, other: Done) -> str | None:
    if other.seen.left:
        return left_behind(other)
    if first.seen.kind != other.seen.kind:
        return journals(first, other, [first.seen.outcome], [other.seen.outcome])
    is_determined = first.seen.kind == "value" or (
        program.is_ordered and by_a_task(first) == first.seen.outcome
    )
    if not is_determined:
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

    programs: int = 0
    discards: int = 0
    fused: int = 0  # programs with fused code
    constructs: Counter[str] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    instructions: Counter[str] = field(default_factory=Counter)
    tolerated: int = 0  # different failures at one instant
    divergences: list[tuple[int, str]] = field(default_factory=list)  # with their seeds
    put_off: list[int] = field(default_factory=list)  # the seeds of programs not run yet

    def add(self, seed: int, program: Program, done: Sequence[Done]) -> None:
        """Count one program and compare its runs."""
        self.programs += 1
        self.discards += done[0].is_discarded
        self.fused += any(each.fused for each in done)
        self.constructs.update(program.features)
        self.pairs.update(combinations(sorted(program.features), 2))
        outcome = done[0].seen.outcome
        self.outcomes[outcome.split(":" if outcome.startswith("failed") else " ")[0]] += 1
        self.tolerated += len({each.seen.outcome for each in done[:4]}) > 1
        found = divergence(program, done)
        if found is not None:
            self.divergences.append((seed, found))

    def merge(self, other: Coverage) -> None:
        """Add what was counted elsewhere."""
        self.programs += other.programs
        self.discards += other.discards
        self.fused += other.fused
        self.tolerated += other.tolerated
        for name in ("constructs", "pairs", "outcomes", "instructions"):
            getattr(self, name).update(getattr(other, name))
        self.divergences += other.divergences

    @property
    def missing_constructs(self) -> set[str]:
        return set(CONSTRUCTS) - set(self.constructs)

    @property
    def missing_instructions(self) -> set[str]:
        return set(TABLE) - set(self.instructions)

    @property
    def missing_pairs(self) -> set[tuple[str, str]]:
        possible = set(combinations(sorted(CONSTRUCTS), 2))
        return {pair for pair in possible if not excludes(*pair)} - set(self.pairs)


def cover(seeds: Sequence[int], flavour: str | None = None, *, put_off: bool = False) -> Coverage:
    """Run and compare the programs of these seeds.

    Each batch that has processes starts workers anew, so these programs have batches of their own.
    With `put_off` they are left to the caller, who may have enough to fill one.
    """
    coverage = Coverage()
    drawn = [(seed, seeded(seed, flavour)) for seed in seeds]
    with_processes = [each for each in drawn if each[1].has_processes]
    others = [each for each in drawn if not each[1].has_processes]
    if put_off:
        coverage.put_off = [seed for seed, _ in with_processes]
        with_processes = []
    with counted_instructions() as executed:
        for some in (others, with_processes):
            for start in range(0, len(some), BATCH):
                batch = some[start : start + BATCH]
                done = runs([program for _, program in batch])
                for (seed, program), each in zip(batch, done, strict=True):
                    coverage.add(seed, program, each)
    coverage.instructions.update(executed)
    return coverage
