"""How fused code ends: cancelled, failed, yielding, and what it leaves behind (sections 8, 11)."""

from __future__ import annotations

import gc
import linecache
import traceback
from time import perf_counter
from typing import Any

import anyio
import pytest

import cascade as cs
from cascade.core.services import FusedTier
from cascade.testing import virtual_time
from cascade.testing.agreement import Recorder
from fusing import agree, loop_of

# Cancellation and failure


@pytest.mark.parametrize("observed", [False, True])
def test_a_loop_cancelled_at_every_await(backend, observed):
    """A fused loop of async tasks ends wherever it is cancelled, and leaves nothing behind."""

    @cs.task
    async def inner(n):
        await anyio.sleep(0.5)
        return n

    @cs.task
    async def step(n, m):
        await anyio.lowlevel.checkpoint()
        return cs.Jump("again", n + 1)

    async def main():
        for at in range(1, 12):
            for limits in (
                [],
                [cs.GlobalConstraint("l", "task:inner", "concurrency", {"limit": 1})],
            ):
                engine = cs.Engine(constraints=limits)
                engine.services.fused_tier = FusedTier(0)
                finished: list[str] = []
                open_ones: list[int] = []
                bus = engine.bus
                bus.subscribe(cs.RunFinished, lambda e, into=finished: into.append(e.status))
                if observed:
                    bus.subscribe(cs.TaskExecutionStarted, lambda e, o=open_ones: o.append(1))
                    bus.subscribe(cs.TaskExecutionFinished, lambda e, o=open_ones: o.append(-1))
                with anyio.move_on_after(at * 0.25) as scope:
                    await engine.run(loop_of(step(0, inner(1))), use_vm=True)
                assert scope.cancelled_caught
                assert engine.statistics().fused_entries
                assert finished == ["Cancelled"]
                assert sum(open_ones) == 0
                found = engine.constraints.statistics()
                assert not found.parked
                assert all(not each.running for each in found.constraints.values())

    anyio.run(main, backend=backend, backend_options=virtual_time(backend))


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_failing_sibling_ends_a_fused_loop(backend, kind):
    """The first failure of a run ends its fused loops."""

    def make(world):
        @cs.task
        async def fails():
            await anyio.sleep(2.25)
            raise ValueError("first")

        @cs.task
        async def tick(x):
            await anyio.sleep(0.5)
            return x

        def step(m, n):
            world.log.append(n)
            return cs.Jump("again", {"n": n + 1})

        async def async_step(m, n):
            return step(m, n)

        body = cs.task(step if kind == "sync" else async_step, name="step")
        return [loop_of(body(tick(1), 0)), fails()]

    found = agree(make, backend)
    assert found.outcome == ("failed", "ValueError: first")


def test_a_traceback_shows_the_task_and_the_row(backend):
    """The frame of the fused code has a line with the row of the Blueprint, then comes the task."""

    @cs.task
    def inner(n):
        if n:
            raise ValueError("here")
        return n

    @cs.task
    def step(m, n):
        return cs.Jump("again", {"n": n + 1, "flag": 0}) if n < 3 else m

    calls: list[int] = []

    @cs.task
    def counts(x):
        calls.append(1)
        return len(calls) > 3

    async def main():
        engine = cs.Engine()
        engine.services.fused_tier = FusedTier(0)

        @cs.task
        def looped(m, n):
            return cs.Jump("again", {"n": n + 1})

        try:
            await engine.run(loop_of(looped(inner(counts(0)), 0)), use_vm=True)
        except ValueError as error:
            return traceback.format_exception(error), error.__notes__, engine.statistics()
        raise AssertionError("it fails")

    lines, notes, statistics = anyio.run(main, backend=backend)
    text = "".join(lines)
    assert statistics.fused_entries
    assert "<cascade fused looped" in text
    assert "; inner#1" in text
    assert text.index("; inner#1") < text.index('raise ValueError("here")')
    assert "in task 'inner'" in notes[0]


def test_the_text_of_fused_code_goes_with_its_engine(backend):
    """The lines kept for tracebacks are dropped when the engine is."""

    def names():
        return {name for name in linecache.cache if name.startswith("<cascade fused only_here ")}

    @cs.task
    def only_here(n):
        return cs.Jump("again", n + 1) if n < 9 else n

    async def main():
        engine = cs.Engine()
        engine.services.fused_tier = FusedTier(0)
        await engine.run(loop_of(only_here(0)), use_vm=True)
        assert names()

    anyio.run(main, backend=backend)
    gc.collect()
    assert names() == set()


@pytest.mark.parametrize("kind", ["jump", "tail", "expression", "async"])
def test_memory_is_flat(backend, kind):
    """However many iterations, nothing is left of them."""
    counts: list[int] = []
    most = 200_000 if kind != "async" else 50_000

    def look(n):
        if n in (most // 10, most - 1):
            gc.collect()
            counts.append(len(gc.get_objects()))

    @cs.task
    def jump(n, data):
        look(n)
        return cs.Jump("again", {"n": n + 1, "data": [n]}) if n < most else n

    @cs.task
    def tail(n, data):
        look(n)
        return cs.TailCall((n + 1, [n])) if n < most else n

    @cs.task
    def ident(x):
        return x

    @cs.task
    def expression(n, data):
        look(n)
        return expression(ident(n + 1), [n]) if n < most else n

    @cs.task
    async def later(n, data):
        look(n)
        return cs.Jump("again", {"n": n + 1, "data": [n]}) if n < most else n

    target = {
        "jump": lambda: loop_of(jump(0, [])),
        "tail": lambda: tail(0, []),
        "expression": lambda: expression(0, []),
        "async": lambda: loop_of(later(0, [])),
    }[kind]

    async def main():
        engine = cs.Engine()
        assert await engine.run(target(), use_vm=True) == most
        return engine.statistics()

    statistics = anyio.run(main, backend=backend)
    assert 0 < statistics.fused_entries < 100
    assert counts[1] <= counts[0] + 50
    hits = statistics.plan_hits
    assert hits >= most - 5 if kind == "expression" else hits < 10


def test_an_engine_given_an_executor_fuses_nothing(backend):
    """An executor that is given carries out every call."""
    calls: list[Any] = []

    class Executor(cs.LocalExecutor):
        async def execute(self, node, args, kwargs):
            calls.append(args)
            return await super().execute(node, args, kwargs)

    def make(world):
        calls.clear()

        @cs.task
        def step(n):
            return cs.Jump("again", n + 1) if n < 9 else n

        return loop_of(step(0))

    agree(make, backend, is_fused=False, engine_options={"executor": Executor()})
    assert len(calls) == 10


@pytest.mark.parametrize(
    "why",
    ["cache", "timeout", "amounts", "map", "long", "thread", "two awaits", "guards", "varargs"],
)
def test_what_is_left_to_the_interpreter(backend, why):
    """A loop with something in it that fused code does not do is interpreted, and no worse."""

    def make(world):
        @cs.task
        def plain(x):
            world.log.append(x)
            return x

        @cs.task
        async def co(x):
            return x

        @cs.task
        def step(n, *rest):
            world.log.append(n)
            more = (n,) if why == "varargs" else ()
            return cs.TailCall((n + 1, *more)) if n < 9 else (n, rest)

        same = plain(plain(1))
        inner = cs.Router(same, routes={1: 5})
        arguments = {
            "two awaits": lambda: [co(1), co(2)],
            "guards": lambda: cs.Router(plain(same), routes={1: inner}),
            "varargs": lambda: plain(1),
            "cache": lambda: plain(1).with_cache(cs.InMemoryCache()),
            "timeout": lambda: co(1).with_timeout(1),
            "amounts": lambda: plain(1).with_constraints(gpu=1),
            "map": lambda: plain.map(x=[1, 2]),
            "long": lambda: [plain(i) for i in range(130)],
            "thread": lambda: cs.task(lambda x: x, name="threaded", mode="thread")(1),
        }
        return step(0, arguments[why]())

    agree(make, backend, is_fused=False, engine_options={"system_resources": {"gpu": 1}})


# Fairness


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("kind", ["sync", "mixed"])
def test_long_iterations_yield(backend, kind, observed):
    """Others wait no longer than a slice and 64 tasks, once; then a slice and one task."""
    gaps = [0]
    calls = [0]

    def spin(seconds):
        end = perf_counter() + seconds
        while perf_counter() < end:
            pass

    @cs.task
    def part(x):
        calls[0] += 1
        if 300 < calls[0] <= 500:
            gaps[-1] += 1
            spin(0.001)
        return x

    @cs.task
    async def co(x):
        return x

    @cs.task
    def step(parts, n):
        return cs.Jump("again", {"n": n + 1}) if n < 12 else n

    async def main():
        engine = cs.Engine()
        engine.services.fused_tier = FusedTier(0)
        if observed:
            engine.bus.subscribe(cs.TaskExecutionStarted, lambda event: None)

        async def watches():
            while True:
                gaps.append(0)
                await anyio.lowlevel.checkpoint()

        chain: Any = part(0) if kind == "sync" else co(part(0))
        for _ in range(80):
            chain = part(chain)
        async with anyio.create_task_group() as group:
            group.start_soon(watches)
            await engine.run(loop_of(step(chain, 0)), use_vm=True)
            group.cancel_scope.cancel()
        return engine.statistics()

    statistics = anyio.run(main, backend=backend)
    assert statistics.fused_entries > 1
    assert sum(gaps) == 200
    longest = sorted(gaps)
    assert longest[-1] <= 5 + 1 + 64 + 10
    assert longest[-2] <= 5 + 1 + 10


def test_recorder_is_left_as_it_was(backend):
    """Nothing that observes a run stays behind on its engine."""

    def make(world):
        @cs.task
        def step(n):
            return cs.Jump("again", n + 1) if n < 9 else n

        return loop_of(step(0))

    async def main():
        engine = cs.Engine()
        engine.services.fused_tier = FusedTier(0)
        with Recorder(engine, "here"):
            await engine.run(make(None), use_vm=True)
        before = engine.statistics()
        await engine.run(make(None), use_vm=True)
        assert not engine.bus._watchers
        assert not engine.services.gate._state.listeners
        return before.fused_entries, engine.statistics().fused_entries

    assert anyio.run(main, backend=backend) == (1, 2)


def test_fused_code_can_be_read():
    """`disassemble(target, fused=True)` shows the code of each routine, or why it has none."""

    @cs.task
    def step(n):
        return cs.Jump("again", n + 1)

    node = step(0)
    shown = cs.disassemble(cs.bind(node, cs.select_jump({"again": node})), fused=True)
    title, reason, _, iteration, code = shown.split("\n", 4)
    assert title == "# step: 1 register"
    assert reason.startswith("# left to the interpreter: ")
    assert iteration == "# iteration of step: 1 register"
    assert code.startswith("def link(")
    assert "# 0 @0 call r0, t0, (k0) ; step#0" in code
    compile(code, "shown", "exec")
    assert shown == cs.disassemble(node, fused=True)  # the same text each time
    assert cs.disassemble(7, fused=True).endswith("# left to the interpreter: it is a literal")


@pytest.mark.parametrize("hot_after", [0, 10**9])
def test_one_run_may_have_any_number_of_loops(inside, hot_after):
    """What a run keeps of them is bounded, and made again when it is needed."""

    def counter(number):
        @cs.task(name=f"count{number}")
        def count(n):
            return cs.Jump("again", n + 1) if n < 3 else (number, n)

        node = count(0)
        return cs.bind(node, cs.select_jump({"again": node}))

    async def main():
        engine = cs.Engine()
        engine.services.fused_tier = FusedTier(hot_after)
        values = await engine.run([counter(number) for number in range(300)], use_vm=True)
        return values, engine.statistics().fused_entries

    values, entries = inside(main)
    assert values == [(number, 3) for number in range(300)]
    assert entries >= 300 if hot_after == 0 else entries == 0
