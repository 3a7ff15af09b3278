"""Programs that are interpreted, fused, left at every call, and observed: they have to agree."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import anyio

import cascade as cs
from cascade.core.services import FusedTier
from cascade.engine import EngineStatistics
from cascade.testing import virtual_time
from cascade.testing.agreement import Observation, Recorder, described_error, difference


@dataclass
class Ran:
    """One run: what it came to, what its tasks noted, and how often fused code was entered."""

    outcome: tuple[str, Any]
    log: list[Any]
    statistics: EngineStatistics
    seen: Observation | None = None

    @property
    def value(self) -> Any:
        kind, value = self.outcome
        assert kind == "value", self.outcome
        return value

    @property
    def entries(self) -> int:
        return self.statistics.fused_entries

    @property
    def exits(self) -> int:
        return self.statistics.fused_exits


@dataclass
class World:
    """What a program under test may use: its engine, and the log of what its tasks did."""

    engine: cs.Engine
    log: list[Any] = field(default_factory=list)


Make = Callable[[World], Any]


def loop_of(node: Any, **routes: Any) -> Any:
    """Bind `node` to `again` (itself), `exit` and what is given; return it."""
    return cs.bind(node, cs.select_jump({"again": node, "exit": None, **routes}))


class MyDict(dict):
    pass


class MyList(list):
    pass


class MyTuple(tuple):
    __slots__ = ()


class Pair(NamedTuple):
    first: Any
    second: Any


def ran(
    make: Make,
    backend: str,
    use_vm: bool,
    *,
    hot_after: int = 0,
    leaves: Callable[[], bool] | None = None,
    observed: bool = False,
    engine_options: dict[str, Any] | None = None,
    prepare: Callable[[World], None] | None = None,
    **options: Any,
) -> Ran:
    """Run the target that `make` makes, in virtual time."""

    async def main() -> Ran:
        engine = cs.Engine(**(engine_options or {}))
        engine.services.fused_tier = FusedTier(hot_after, leaves)
        world = World(engine)
        if prepare is not None:
            prepare(world)
        target = make(world)
        recorder = Recorder(engine, f"{'vm' if use_vm else 'graph'} on {backend}")
        outcome: tuple[str, Any]
        with recorder if observed else anyio.CancelScope():
            try:
                value = await engine.run(target, use_vm=use_vm, **options)
                outcome = "value", value
                recorder.returned(value)
            except BaseException as error:
                outcome = "failed", described_error(error)
                recorder.failed(error)
                if not isinstance(error, Exception | KeyboardInterrupt):
                    raise
        seen = recorder.settled(
            engine_options.get("system_resources", {}) if engine_options else {}
        )
        assert not seen.left
        return Ran(outcome, world.log, engine.statistics(), seen if observed else None)

    return anyio.run(main, backend=backend, backend_options=virtual_time(backend))


def agree(
    make: Make,
    backend: str,
    *,
    is_fused: bool = True,
    may_skip: bool = False,
    is_ordered: bool = True,
    **options: Any,
) -> Ran:
    """Both strategies agree, however fused code is entered and left; the run that was fused.

    `is_fused=False` says that there is no fused code for it, `may_skip` that there is none while
    somebody listens to skips, `is_ordered=False` that the order of what is noted is free.
    """
    graph = ran(make, backend, False, **options)
    seen = ran(make, backend, False, observed=True, **options)
    source = random.Random(1)
    ways: list[dict[str, Any]] = [
        {},
        {"hot_after": 10**9},
        {"leaves": lambda: True},
        {"leaves": lambda: source.random() < 0.3},
        {"observed": True},
        {"observed": True, "leaves": lambda: source.random() < 0.3},
    ]
    found = [ran(make, backend, True, **way, **options) for way in ways]
    for way, each in zip(ways, found, strict=True):
        assert str(each.outcome) == str(graph.outcome), way
        if is_ordered:
            assert repr(each.log) == repr(graph.log), way
        else:
            assert sorted(map(repr, each.log)) == sorted(map(repr, graph.log)), way
        may_fuse = is_fused and "hot_after" not in way and not (may_skip and "observed" in way)
        assert bool(each.entries) == may_fuse, way
        if each.seen is not None and seen.seen is not None:
            assert difference(seen.seen, each.seen) is None, way
    return found[0]
