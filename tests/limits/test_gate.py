"""Section 10 at the gate: waiting, waking, the one timer, runs, loops and threads."""

from __future__ import annotations

import gc
import math
import os
import random
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
import trio
import trio.testing
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled, current_token
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.limits.admission import Ticket
from cascade.limits.constraints import GlobalConstraint
from cascade.limits.gate import Gate, Session
from cascade.testing import virtual_time

LONG = bool(os.environ.get("CASCADE_LONG"))


# The name of each task that started, and when.
Log = list[tuple[str, float]]


async def acquire(
    gate: Gate, session: Session, name: str, amounts: dict[str, Any] | None = None
) -> Ticket:
    """A granted ticket. Cancelled while it waits or before it goes on, it passes it on."""
    ticket = gate.ask(session, name, amounts, no_resume)
    try:
        while ticket.parked:
            ticket.woken = False
            granted = anyio.Event()
            ticket.resume = granted.set
            await granted.wait()
            # An event that is set lets its waiter go on though it has been cancelled meanwhile.
            await checkpoint_if_cancelled()
    except BaseException:
        gate.withdraw(ticket)
        raise
    return ticket


class Run:
    """A run: a task group, its session, and attempts that hold what they asked for."""

    def __init__(self, gate: Gate, group: anyio.abc.TaskGroup, log: Log) -> None:
        self.gate = gate
        self.group = group
        self.session: Session = gate.enter_run(group.start_soon)
        self.log = log

    def do(self, name: str, seconds: float = 0.0, **amounts: Any) -> anyio.CancelScope:
        scope = anyio.CancelScope()
        self.group.start_soon(self.attempt, scope, name, seconds, amounts)
        return scope

    async def attempt(
        self, scope: anyio.CancelScope, name: str, seconds: float, amounts: dict[str, Any]
    ) -> None:
        with scope:
            ticket = await acquire(self.gate, self.session, name, amounts)
            self.gate.start(ticket)
            self.log.append((name, anyio.current_time()))
            try:
                await anyio.sleep(seconds)
            finally:
                self.gate.give_back(ticket)


@asynccontextmanager
async def run_at(gate: Gate, log: Log | None = None) -> AsyncIterator[Run]:
    run = None
    try:
        async with anyio.create_task_group() as group:
            run = Run(gate, group, [] if log is None else log)
            yield run
    finally:
        if run is not None:
            gate.leave_run(run.session)
        assert_clean(gate, run)


def assert_clean(gate: Gate, run: Run | None = None) -> None:
    """Everything is returned; without waiters there is no timer."""
    if run is not None:
        assert run.session.parked == 0
    if not gate._sessions:
        state = gate._state
        assert (state.parked, gate._sleeper, dict(gate._waiting)) == (0, None, {})
        assert all(capacity.free == capacity.total for capacity in state.capacities.values())
        assert all(rule.running == 0 for rule in state._rules.values())


async def settled() -> None:
    """Let everybody go as far as they can without time passing."""
    for _ in range(10):
        await checkpoint()


def no_resume() -> None:
    raise AssertionError("resumed, though it was not parked")


# Waiting and waking


def test_whoever_frees_something_wakes_exactly_those_it_admits(inside: Any) -> None:
    """Giving back resumes, in their order, the waiters that now have all they need."""

    async def main() -> None:
        gate = Gate({"gpu": 2})
        async with anyio.create_task_group() as group:
            session = gate.enter_run(group.start_soon)
            holder = gate.ask(session, "h", {"gpu": 2}, no_resume)
            resumed: list[str] = []
            tickets = {
                name: gate.ask(session, name, {"gpu": amount}, partial(resumed.append, name))
                for name, amount in [("a", 1), ("b", 1), ("c", 2)]
            }
            assert [ticket.parked for ticket in tickets.values()] == [True] * 3
            assert "gpu" in (tickets["a"].reason or "")
            gate.give_back(holder)
            assert resumed == ["a", "b"]
            gate.give_back(tickets["a"])
            assert resumed == ["a", "b"]
            gate.give_back(tickets["b"])
            assert resumed == ["a", "b", "c"]
            gate.give_back(tickets["c"])
            statistics = gate.constraints.statistics()
            assert (statistics.parked, statistics.grants, statistics.wakeups) == (0, 4, 3)
            gate.leave_run(session)
        assert_clean(gate)

    inside(main)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c.pause("task:t*"), ["pause", "task:t*"]),
        (lambda c: c.limit_rate("global", "1/h"), ["rate_limit", "global"]),
        (lambda c: c.limit_concurrency("task:t", 1), ["concurrency", "task:t"]),
        (lambda c: c.update(GlobalConstraint("holiday", "global", "pause")), ["holiday"]),
    ],
)
def test_the_reason_names_what_blocked(inside: Any, change: Any, named: list[str]) -> None:
    """A parked ticket names the kind and scope, or the id, of the constraint that blocks it."""

    async def main() -> None:
        gate = Gate()
        async with run_at(gate) as run:
            change(gate.constraints)
            first = gate.ask(run.session, "t", None, lambda: None)
            if not first.parked:
                gate.start(first)
            ticket = gate.ask(run.session, "t", None, lambda: None)
            assert ticket.parked
            assert all(word in (ticket.reason or "") for word in named)
            gate.withdraw(ticket)
            gate.withdraw(first)
            gate.give_back(first)

    inside(main)


def test_what_nothing_limits_need_not_ask(inside: Any) -> None:
    """`limits` is true while a constraint matches, and its changes are announced."""

    async def main() -> None:
        gate = Gate({"gpu": 1})
        emptied: list[bool] = []
        forget = gate.on_change(lambda: emptied.append(gate.limits("fetch")))
        assert not gate.limits("fetch")
        gate.constraints.limit_concurrency("task:f*", 1)
        assert gate.limits("fetch")
        assert not gate.limits("other")
        gate.constraints.remove("concurrency:task:f*")
        forget()
        gate.constraints.pause("global")
        assert emptied == [True, False]
        gate.constraints.resume("global")
        async with run_at(gate) as run:
            ticket = gate.ask(run.session, "fetch", None, no_resume)
            gate.start(ticket)
            gate.give_back(ticket)
        assert gate.constraints.statistics().grants == 0

    inside(main)


def test_an_expiry_empties_the_cells_too(inside: Any) -> None:
    """A ttl that ends is announced like any other change of the constraints."""

    async def main() -> None:
        gate = Gate()
        gate.constraints.limit_concurrency("global", 5, ttl=1)
        emptied: list[None] = []
        gate.on_change(lambda: emptied.append(None))
        async with run_at(gate) as run:
            run.do("a", 2.0)
            await anyio.sleep(3)
            ticket = gate.ask(run.session, "b", None, no_resume)
            assert emptied == [None]
            gate.give_back(ticket)

    inside(main)


def test_a_resume_may_use_the_gate(inside: Any) -> None:
    """State is at rest before the first resume; a grant withdrawn in between is not resumed."""

    async def main() -> None:
        gate = Gate({"gpu": 2})
        async with run_at(gate) as run:
            holder = gate.ask(run.session, "h", {"gpu": 2}, no_resume)
            seen: list[str] = []
            tickets: dict[str, Ticket] = {}

            def resume_a() -> None:
                seen.append("a")
                gate.withdraw(tickets["b"])
                gate.give_back(tickets["a"])

            tickets["a"] = gate.ask(run.session, "a", {"gpu": 1}, resume_a)
            tickets["b"] = gate.ask(run.session, "b", {"gpu": 1}, no_resume)
            tickets["c"] = gate.ask(run.session, "c", {"gpu": 2}, lambda: seen.append("c"))
            gate.give_back(holder)
            assert seen == ["a", "c"]
            gate.give_back(tickets["c"])

    inside(main)


def test_withdrawing_and_giving_back_twice_does_nothing(inside: Any) -> None:
    """A ticket gives back what it held once, however often it is asked to."""

    async def main() -> None:
        gate = Gate({"gpu": 1})
        async with run_at(gate) as run:
            ticket = gate.ask(run.session, "a", {"gpu": 1}, no_resume)
            waiter = gate.ask(run.session, "b", {"gpu": 1}, no_resume)
            for _ in range(2):
                gate.withdraw(waiter)
            gate.start(ticket)
            gate.withdraw(ticket)
            assert gate.constraints.statistics().free == {"gpu": 0}, "it has started"
            for _ in range(2):
                gate.give_back(ticket)
            assert gate.constraints.statistics().free == {"gpu": 1}

    inside(main)


def test_a_malformed_amount_takes_nothing(inside: Any) -> None:
    """A request that is an error leaves the gate as it was."""

    async def main() -> None:
        gate = Gate({"gpu": 2})
        async with run_at(gate) as run:
            with pytest.raises(ValueError, match="'train' asks for 3 of 'gpu'"):
                await acquire(gate, run.session, "train", {"gpu": 3})

    inside(main)


# Cancellation


def test_cancelled_while_parked(inside: Any) -> None:
    """A waiter that is cancelled leaves the line, and those behind it go on."""

    async def main() -> None:
        gate = Gate({"gpu": 1})
        log: Log = []
        async with run_at(gate, log) as run:
            run.do("a", 2, gpu=1)
            await anyio.sleep(0.5)
            second = run.do("b", 1, gpu=1)
            await anyio.sleep(0.5)
            run.do("c", 1, gpu=1)
            await anyio.sleep(0.5)
            second.cancel()
        assert [name for name, _ in log] == ["a", "c"]

    inside(main)


def test_cancelled_between_grant_and_start(inside: Any) -> None:
    """A waiter that is cancelled after its grant passes the grant to the next."""

    async def main() -> None:
        gate = Gate({"gpu": 1})
        log: Log = []
        gate.constraints.limit_rate("global", "1/h", burst=2)
        async with run_at(gate, log) as run:
            holder = gate.ask(run.session, "h", {"gpu": 1}, no_resume)
            gate.start(holder)
            first = run.do("a", 1, gpu=1)
            await settled()
            run.do("b", 1, gpu=1)
            await settled()
            gate.give_back(holder)
            first.cancel()
        assert log == [("b", 0.0)], "the slot and the token went on"

    inside(main)


def test_a_failing_run_leaves_its_waiters_places(inside: Any) -> None:
    """A run that fails takes its waiters out of the lines of other runs."""

    async def main() -> None:
        gate = Gate({"gpu": 1})
        log: Log = []
        async with run_at(gate, log) as good:
            holder = gate.ask(good.session, "h", {"gpu": 1}, no_resume)
            with pytest.raises(ExceptionGroup):  # noqa: PT012
                async with run_at(gate) as bad:
                    for _ in range(3):
                        bad.do("x", gpu=1)
                    await settled()
                    good.do("y", gpu=1)
                    await settled()
                    raise ValueError
            gate.give_back(holder)
        assert [name for name, _ in log] == ["y"]

    inside(main)


def test_leaving_withdraws_what_is_still_parked(inside: Any) -> None:
    """A strategy without a task per request need not look for its parked requests."""

    async def main() -> None:
        gate = Gate({"gpu": 1})
        log: Log = []
        async with run_at(gate, log) as run:
            async with anyio.create_task_group() as group:
                other = gate.enter_run(group.start_soon)
                holder = gate.ask(run.session, "h", {"gpu": 1}, no_resume)
                gate.ask(other, "large", {"gpu": 1}, no_resume)
                gate.ask(other, "x", None, no_resume)
                run.do("y", gpu=1)
                await settled()
                assert gate.constraints.statistics().parked == 2
                gate.leave_run(other)
                gate.leave_run(other)
                assert gate.constraints.statistics().parked == 1
            gate.give_back(holder)
        assert [name for name, _ in log] == ["y"]

    inside(main)


def test_leaving_passes_on_even_what_it_frees_for_itself(inside: Any) -> None:
    """A run that leaves grants nothing to its own waiters, but passes it to those of others."""

    async def main() -> None:
        gate = Gate({"gpu": 2})
        log: Log = []
        async with run_at(gate, log) as run:
            holder = gate.ask(run.session, "h", {"gpu": 1}, no_resume)
            async with anyio.create_task_group() as group:
                other = gate.enter_run(group.start_soon)
                gate.ask(other, "large", {"gpu": 2}, no_resume)
                gate.ask(other, "small", {"gpu": 1}, no_resume)
                run.do("y", gpu=1)
                await settled()
                gate.leave_run(other)
            gate.give_back(holder)
        assert [name for name, _ in log] == ["y"]

    inside(main)


@settings(deadline=None, max_examples=300 if LONG else 25)
@given(st.integers(0, 10**9))
def test_whatever_is_cancelled_whenever(seed: int) -> None:
    """Limits are never exceeded, everybody else runs, everything comes back."""
    chance = random.Random(seed)

    async def main() -> None:
        gate = Gate({"gpu": 3, "mem": 1.0})
        running = {"a": 0, "b": 0, "c": 0}
        done: list[int] = []
        expected: list[int] = []

        async def task(run: Run, k: int, scope: anyio.CancelScope) -> None:
            name = chance.choice("abc")
            choices: list[dict[str, Any]] = [{}, {"gpu": chance.randint(1, 3)}, {"mem": 0.4}]
            amounts = chance.choice(choices)
            with scope:
                await anyio.sleep(chance.randint(0, 8) / 4)
                ticket = await acquire(gate, run.session, name, amounts)
                if chance.random() < 0.1:
                    gate.withdraw(ticket)
                    done.append(k)
                    return
                gate.start(ticket)
                running[name] += 1
                assert running["a"] <= 2
                try:
                    await anyio.sleep(chance.randint(0, 4) / 4)
                finally:
                    running[name] -= 1
                    gate.give_back(ticket)
                done.append(k)

        async def change() -> None:
            manager = gate.constraints
            for _ in range(10):
                await anyio.sleep(chance.randint(1, 3) / 4)
                changes: list[Callable[[], object]] = [
                    lambda: manager.pause(chance.choice(["global", "task:b"]), ttl=1),
                    lambda: manager.resume(chance.choice(["global", "task:b"])),
                    lambda: manager.limit_rate("task:[bc]", chance.choice([2, 5]), ttl=2),
                    lambda: manager.limit_concurrency("global", chance.randint(2, 5), ttl=2),
                    lambda: manager.limit_concurrency("task:a", chance.choice([1, 2])),
                ]
                chance.choice(changes)()

        async def one_run(seed: int) -> None:
            async with run_at(gate) as run:
                scopes = []
                for k in range(seed, seed + 15):
                    scopes.append(anyio.CancelScope())
                    run.group.start_soon(task, run, k, scopes[-1])
                    if chance.random() < 0.7:
                        expected.append(k)
                if seed == 100:
                    await anyio.sleep(1.5)
                    run.group.cancel_scope.cancel()
                for k, scope in enumerate(scopes, seed):
                    if k not in expected:
                        await anyio.sleep(chance.random() / 4)
                        scope.cancel()

        gate.constraints.limit_concurrency("task:a", 2)
        async with anyio.create_task_group() as group:
            group.start_soon(change)
            for base in (0, 100, 200):
                group.start_soon(one_run, base)
        missing = {k for k in expected if not 100 <= k < 200} - set(done)
        assert not missing
        statistics = gate.constraints.statistics()
        assert statistics.wakeups <= statistics.grants
        assert_clean(gate)

    for backend in ("asyncio", "trio"):
        anyio.run(main, backend=backend, backend_options=virtual_time(backend))


# A simple case against anyio's and trio's own limiter


@given(st.lists(st.tuples(st.sampled_from("aaardcw"), st.integers(0, 9)), max_size=40))
@settings(deadline=None, max_examples=300 if LONG else 40)
def test_one_limit_behaves_as_a_capacity_limiter(ops: list[tuple[str, int]]) -> None:
    """One concurrency limit grants as `trio.CapacityLimiter` does, step by step."""

    async def main() -> None:
        limiter = trio.CapacityLimiter(2)
        gate = Gate()
        gate.constraints.limit_concurrency("global", 2)
        by_limiter: list[int] = []
        by_gate: list[int] = []
        tickets: dict[int, Ticket] = {}
        scopes: dict[int, trio.CancelScope] = {}

        async def borrow(k: int, scope: trio.CancelScope) -> None:
            with scope:
                await limiter.acquire_on_behalf_of(k)
                by_limiter.append(k)

        def admitted(k: int) -> None:
            by_gate.append(k)
            assert gate.start(tickets[k])

        async with trio.open_nursery() as nursery:
            session = gate.enter_run(nursery.start_soon)
            for step, (op, number) in enumerate(ops):
                holders = sorted(set(by_gate))
                waiting = [k for k, ticket in tickets.items() if ticket.parked]
                if op == "a":
                    scopes[step] = trio.CancelScope()
                    nursery.start_soon(borrow, step, scopes[step])
                    ticket = gate.ask(session, "t", None, partial(admitted, step))
                    tickets[step] = ticket
                    if not ticket.parked:
                        admitted(step)
                elif op == "r" and holders:
                    k = holders[number % len(holders)]
                    limiter.release_on_behalf_of(k)
                    by_limiter.remove(k)
                    by_gate.remove(k)
                    gate.give_back(tickets.pop(k))
                elif op == "c" and waiting:
                    k = waiting[number % len(waiting)]
                    scopes[k].cancel()
                    gate.withdraw(tickets.pop(k))
                elif op in "dw":
                    limit = number // 3 + 1
                    limiter.total_tokens = limit
                    gate.constraints.limit_concurrency("global", limit)
                await trio.testing.wait_all_tasks_blocked()
                assert by_limiter == by_gate
            for k in list(tickets):
                gate.withdraw(tickets[k])
                gate.give_back(tickets[k])
            gate.leave_run(session)
            nursery.cancel_scope.cancel()

    trio.run(main)


# Changes at run time


def test_pause_and_resume_from_inside(inside: Any) -> None:
    """A task waits from its pause to the resume, without a timer, and holds up nobody."""

    async def main() -> None:
        gate = Gate()
        log: Log = []
        async with run_at(gate, log) as run:
            gate.constraints.pause("task:a")
            run.do("a")
            run.do("b")
            await anyio.sleep(5)
            gate.constraints.resume("task:a")
        assert log == [("b", 0.0), ("a", 5.0)]
        assert gate.constraints.statistics().timers == 0

    inside(main)


def test_a_ttl_ends_by_itself_and_sets_one_timer(inside: Any) -> None:
    """A pause ends when its ttl does, by one timer; a ttl that nobody waits for sets none."""

    async def main() -> None:
        gate = Gate()
        log: Log = []
        async with run_at(gate, log) as run:
            gate.constraints.pause("global", ttl=3)
            gate.constraints.limit_concurrency("task:b", 1, ttl=7)
            for _ in range(3):
                run.do("a", 1)
        assert log == [("a", 3.0)] * 3
        assert gate.constraints.statistics().timers == 1

    inside(main)


def test_replacing_a_ttl_moves_the_deadline_either_way(inside: Any) -> None:
    """A pause that is set again ends by its new ttl, sooner or later than the old one."""

    async def main() -> None:
        for ttls, end in [((10, 3), 4.0), ((3, 10), 11.0)]:
            gate = Gate()
            log: Log = []
            begin = anyio.current_time()
            async with run_at(gate, log) as run:
                gate.constraints.pause("global", ttl=ttls[0])
                run.do("a")
                await anyio.sleep(1)
                gate.constraints.pause("global", ttl=ttls[1])
            assert log == [("a", begin + end)]
            assert gate.constraints.statistics().timers == 2

    inside(main)


def test_a_limit_changed_while_tasks_are_parked(inside: Any) -> None:
    """Raised, lowered or removed, a limit counts for the waiters at once."""

    async def main() -> None:
        gate = Gate()
        log: Log = []
        gate.constraints.limit_concurrency("global", 1)
        async with run_at(gate, log) as run:
            for _ in range(6):
                run.do("a", 10)
            await anyio.sleep(1)
            gate.constraints.limit_concurrency("global", 3)
            await anyio.sleep(1)
            gate.constraints.limit_concurrency("global", 1)
            await anyio.sleep(20)
            gate.constraints.remove("concurrency:global")
        assert [moment for _, moment in log] == [0.0, 1.0, 1.0, 11.0, 21.0, 22.0]

    inside(main)


def test_from_another_thread_through_from_thread(inside: Any) -> None:
    """A thread changes constraints through `anyio.from_thread`, and the waiters go on."""

    async def main() -> None:
        gate = Gate()
        log: Log = []
        gate.constraints.pause("global")
        async with run_at(gate, log) as run:
            run.do("a")
            await settled()

            def from_outside() -> None:
                anyio.from_thread.run_sync(gate.constraints.resume, "global")

            await anyio.to_thread.run_sync(from_outside)
        assert len(log) == 1

    inside(main)


def test_from_another_thread_directly_is_an_error_that_says_what_to_write(inside: Any) -> None:
    """A change straight from another thread changes nothing and names `anyio.from_thread`."""

    async def main() -> None:
        gate = Gate()
        async with run_at(gate):
            with pytest.raises(RuntimeError, match=r"anyio\.from_thread"):
                await anyio.to_thread.run_sync(gate.constraints.pause, "global")
            assert gate.constraints.active() == ()

    inside(main)


# The timer


def test_a_rate_sets_at_most_one_timer_per_grant(inside: Any) -> None:
    """With any number of waiters each grant of a rate takes one timer and one wakeup."""

    async def main() -> None:
        waiters = 10_000 if LONG else 1000
        gate = Gate()
        log: Log = []
        gate.constraints.limit_rate("task:a", 10)
        async with run_at(gate, log) as run:
            for _ in range(waiters):
                run.do("a", 0.25)
        statistics = gate.constraints.statistics()
        assert statistics.grants == waiters
        assert statistics.wakeups == statistics.timers == waiters - 1
        for k, (_, moment) in enumerate(log):
            assert math.isclose(moment, k / 10, rel_tol=1e-9)

    inside(main)


def test_the_timer_leaves_a_run_that_ends_and_goes_on_in_another(inside: Any) -> None:
    """A run ends in time though it held the timer for others, who still start on time."""

    async def main() -> None:
        gate = Gate()
        gate.constraints.limit_rate("global", 1)
        ends: dict[str, float] = {}

        async def one_run(name: str, tasks: int) -> None:
            async with run_at(gate) as run:
                for _ in range(tasks):
                    run.do(name)
            ends[name] = anyio.current_time()

        async with anyio.create_task_group() as group:
            for name, tasks in [("x", 2), ("y", 3), ("z", 2)]:
                group.start_soon(one_run, name, tasks)
                await settled()
        assert ends == {"x": 1.0, "y": 4.0, "z": 6.0}

    inside(main)


def test_the_timer_leaves_a_run_that_is_cancelled(inside: Any) -> None:
    """If the run that holds the timer is cancelled, a run that still waits takes it over."""

    async def main() -> None:
        gate = Gate()
        log: Log = []
        gate.constraints.pause("global", ttl=10)

        async def doomed() -> None:
            async with run_at(gate) as run:
                run.do("x")
                await anyio.sleep(5)
                run.group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(doomed)
            await anyio.sleep(1)
            async with run_at(gate, log) as run:
                run.do("y")
                await anyio.sleep(1)
                assert gate._sleeper is not None
                assert gate._sleeper.session is not run.session
        assert log == [("y", 10.0)]

    inside(main)


def test_a_run_that_has_nothing_parked_can_end_though_the_timer_was_there(inside: Any) -> None:
    """A run whose last waiter gave up ends at once and leaves the timer to another."""

    async def main() -> None:
        gate = Gate({"gpu": 1})
        log: Log = []
        gate.constraints.pause("task:x", ttl=100)
        async with run_at(gate, log) as other:
            async with run_at(gate) as first:
                scope = first.do("x")
                await anyio.sleep(1)
                other.do("x")
                await anyio.sleep(1)
                assert gate._sleeper is not None
                assert gate._sleeper.session is first.session
                scope.cancel()
            assert anyio.current_time() == 2.0
        assert log == [("x", 100.0)]

    inside(main)


def test_there_is_no_timer_when_nobody_waits_for_the_time(inside: Any) -> None:
    """Those who wait for a slot set no timer, whatever rates and ttls there are."""

    async def main() -> None:
        gate = Gate({"gpu": 1})
        gate.constraints.limit_concurrency("task:other", 1, ttl=50)
        gate.constraints.limit_rate("global", 1000, burst=10)
        async with run_at(gate) as run:
            for _ in range(4):
                run.do("a", 1, gpu=1)
            await anyio.sleep(0.5)
            assert gate._sleeper is None
        assert gate.constraints.statistics().timers == 0
        assert anyio.current_time() == 4.0

    inside(main)


def test_many_that_wait_and_give_up_in_one_step_make_one_timer_task(inside: Any) -> None:
    """The timer task is started once a step of the loop, not once a waiter."""

    async def main() -> None:
        gate = Gate()
        gate.constraints.pause("global", ttl=10)
        spawned: list[Any] = []
        async with anyio.create_task_group() as group:

            def spawn(function: Any) -> None:
                spawned.append(function)
                group.start_soon(function)

            session = gate.enter_run(spawn)
            for _ in range(100):
                gate.withdraw(gate.ask(session, "a", None, no_resume))
            await settled()
            for _ in range(100):
                gate.withdraw(gate.ask(session, "a", None, no_resume))
            await settled()
            gate.leave_run(session)
        assert len(spawned) == 2
        assert_clean(gate)

    inside(main)


# Rates on virtual time


@pytest.mark.parametrize("rate", ["1/h", 0.5, 7, "10000/s"])
@pytest.mark.parametrize("burst", [1, 4])
def test_rates_are_exact_on_virtual_time(inside: Any, rate: Any, burst: int) -> None:
    """Starts stay below the rate's upper bound and above its lower one in every window."""

    async def main() -> None:
        gate = Gate()
        log: Log = []
        gate.constraints.limit_rate("global", rate, burst=burst)
        per_second = {"1/h": 1 / 3600, "10000/s": 10_000}.get(rate, rate)
        async with run_at(gate, log) as run:
            for _ in range(200):
                run.do("a")
        times = [moment for _, moment in log]
        for i, first in enumerate(times):
            for j in range(i, len(times)):
                window = per_second * (times[j] - first)
                assert j - i + 1 <= window + burst + 1e-6
                assert j - i - 1 >= window - 1 - 1e-6

    inside(main)


def test_a_start_that_is_late_is_not_made_up_for(inside: Any) -> None:
    """The token is taken when the task starts, so that the bound holds for the starts."""

    async def main() -> None:
        gate = Gate()
        gate.constraints.limit_rate("global", 1)
        async with run_at(gate) as run:
            starts = []
            for late in (0.0, 0.5, 0.0, 0.25, 0.0):
                ticket = await acquire(gate, run.session, "a")
                await anyio.sleep(late)
                gate.start(ticket)
                starts.append(anyio.current_time())
                gate.give_back(ticket)
        assert starts == [0.0, 1.5, 2.5, 3.75, 4.75]

    inside(main)


def test_the_upper_bound_holds_on_a_real_clock(backend: str) -> None:
    """No window of real time has more starts than the rate and its burst allow."""

    async def main() -> None:
        gate = Gate()
        gate.constraints.limit_rate("global", 1000)
        starts = []
        async with anyio.create_task_group() as group:
            session = gate.enter_run(group.start_soon)

            async def attempt() -> None:
                ticket = await acquire(gate, session, "a")
                before = anyio.current_time()
                gate.start(ticket)
                starts.append((before, anyio.current_time()))
                gate.give_back(ticket)

            async with anyio.create_task_group() as attempts:
                for _ in range(100):
                    attempts.start_soon(attempt)
            gate.leave_run(session)
        for i, (first, _) in enumerate(starts):
            for j in range(i, len(starts)):
                assert j - i + 1 <= 1000 * (starts[j][1] - first) + 1

    anyio.run(main, backend=backend)


# No convoy, no herd


def test_a_paused_and_a_slow_task_hold_up_nobody(inside: Any) -> None:
    """Tasks that nothing denies use all slots while paused and rate-limited ones wait."""

    async def main() -> None:
        gate = Gate({"gpu": 1})
        log: Log = []
        gate.constraints.limit_concurrency("global", 2)
        gate.constraints.pause("task:paused")
        gate.constraints.limit_rate("task:slow", "1/m")
        async with run_at(gate, log) as run:
            for _ in range(3):
                run.do("paused", 1, gpu=1)
                run.do("slow", 1, gpu=1)
            await settled()
            for _ in range(10):
                run.do("quick", 1)
            await anyio.sleep(30)
            gate.constraints.resume("task:paused")
        quick = [moment for name, moment in log if name == "quick"]
        assert quick == [0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 5.0]
        assert [moment for name, moment in log if name == "slow"] == [0.0, 60.0, 120.0]
        assert [moment for name, moment in log if name == "paused"] == [30.0, 31.0, 32.0]

    inside(main)


def test_wakeups_never_exceed_grants_for_10_000_on_one_slot(inside: Any) -> None:
    """Each waiter is woken once, when it is granted; none is woken to wait again."""

    async def main() -> None:
        gate = Gate({"gpu": 1})
        log: Log = []
        async with run_at(gate, log) as run:
            for _ in range(10_000):
                run.do("a", gpu=1)
        statistics = gate.constraints.statistics()
        assert len(log) == statistics.grants == 10_000
        assert statistics.wakeups == 9999
        assert statistics.timers == 0

    inside(main)


# Statistics


def test_statistics_by_constraint(inside: Any) -> None:
    """Statistics give, for each constraint, who runs, who waits, and the longest wait."""

    async def main() -> None:
        gate = Gate({"gpu": 2})
        limit = gate.constraints.limit_concurrency("global", 2)
        pause = gate.constraints.pause("task:b")
        async with run_at(gate) as run:
            for name, seconds in [("a", 3), ("a", 5), ("a", 1), ("b", 1)]:
                run.do(name, seconds, gpu=1)
                await settled()
            await anyio.sleep(2)
            now = gate.constraints.statistics()
            assert (now.parked, now.grants, now.wakeups, now.timers) == (2, 2, 0, 0)
            assert now.free == {"gpu": 0}
            of_limit, of_pause = now.constraints[limit], now.constraints[pause]
            assert (of_limit.running, of_limit.waiting, of_limit.longest_wait) == (2, 2, 2.0)
            assert (of_pause.running, of_pause.waiting, of_pause.longest_wait) == (0, 1, 2.0)
            await anyio.sleep(4)
            gate.constraints.resume("task:b")
        end = gate.constraints.statistics()
        assert (end.parked, end.grants, end.wakeups) == (0, 4, 2)
        assert end.constraints[limit].longest_wait == 6.0

    inside(main)


# Event loops


def test_a_ttl_given_outside_a_loop_counts_from_the_start_of_the_next_run(inside: Any) -> None:
    """Without a clock a ttl cannot run; it begins with the first run."""
    gate = Gate()
    log: Log = []
    gate.constraints.pause("global", ttl=4)

    async def main() -> None:
        await anyio.sleep(10)
        assert len(gate.constraints.active()) == 1
        async with run_at(gate, log) as run:
            run.do("a")

    inside(main)
    assert log == [("a", 14.0)]


def test_a_ttl_given_inside_a_loop_counts_at_once(inside: Any) -> None:
    """Where there is a clock a ttl begins when it is given, run or no run."""
    gate = Gate()
    log: Log = []

    async def main() -> None:
        gate.constraints.pause("global", ttl=4)
        await anyio.sleep(3)
        async with run_at(gate, log) as run:
            run.do("a")

    inside(main)
    assert log == [("a", 4.0)]


def test_another_loop_keeps_what_was_left_and_starts_with_full_buckets(inside: Any) -> None:
    """In a new loop a ttl has what was left of it, and each rate its whole burst."""
    gate = Gate()
    log: Log = []
    gate.constraints.pause("task:p", ttl=10)
    gate.constraints.limit_rate("task:r", "1/h")

    async def first() -> None:
        await anyio.sleep(100)
        async with run_at(gate, log) as run:
            run.do("r")
            run.do("n", 4)

    async def second() -> None:
        await anyio.sleep(1)
        async with run_at(gate, log) as run:
            run.do("r")
            run.do("p")

    inside(first)
    inside(second)
    assert sorted(log) == [("n", 100.0), ("p", 7.0), ("r", 1.0), ("r", 100.0)]


def test_the_same_loop_again_keeps_its_buckets(inside: Any) -> None:
    """Runs one after another in a loop share the tokens of a rate."""
    gate = Gate()
    log: Log = []
    gate.constraints.limit_rate("global", 1)

    async def main() -> None:
        for _ in range(3):
            async with run_at(gate, log) as run:
                run.do("a")

    inside(main)
    assert [moment for _, moment in log] == [0.0, 1.0, 2.0]


def test_two_loops_at_once_are_an_error(backend: str) -> None:
    """A gate in use by one loop refuses another, and takes it once the first is done."""
    gate = Gate()
    caught: list[str] = []

    async def second() -> None:
        try:
            gate.enter_run(lambda _function: None)
        except RuntimeError as error:
            caught.append(str(error))

    async def main() -> None:
        async with run_at(gate):
            thread = threading.Thread(target=anyio.run, args=(second,))
            thread.start()
            await anyio.to_thread.run_sync(thread.join)

    anyio.run(main, backend=backend)
    assert len(caught) == 1
    assert "another event loop" in caught[0]
    anyio.run(second)
    assert len(caught) == 1, "one after another is fine"


def test_an_idle_gate_keeps_no_event_loop_alive(backend: str) -> None:
    """When its runs are over a gate no longer refers to their event loop."""
    gate = Gate({"gpu": 1})
    gate.constraints.limit_rate("global", 1000)
    loops: list[Callable[[], object]] = []

    async def main() -> None:
        loops.append(weakref.ref(current_token().native_token))
        async with run_at(gate) as run:
            for _ in range(5):
                run.do("a", gpu=1)

    anyio.run(main, backend=backend)
    gc.collect()
    assert loops[0]() is None
