"""Virtual time: exact clocks that jump, and loops that still do real work."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.abc
import pytest
import trio
from anyio import from_thread, to_process, to_thread
from hypothesis import example, given
from hypothesis import strategies as st

from cascade.testing import virtual_time

Inside = Callable[..., Any]
YEAR = 365 * 24 * 3600.0


def test_the_clock_starts_at_zero_in_every_run(backend: str) -> None:
    """Each run has a clock of its own, that starts at 0.0."""

    async def nap() -> tuple[float, float]:
        start = anyio.current_time()
        await anyio.sleep(5)
        return start, anyio.current_time()

    for _ in range(2):
        options = virtual_time(backend)
        assert anyio.run(nap, backend=backend, backend_options=options) == (0.0, 5.0)


def test_an_unknown_backend_is_an_error() -> None:
    """Virtual time for an unknown backend is an error that names it."""
    with pytest.raises(ValueError, match="'curio' has no virtual time"):
        virtual_time("curio")


def test_sleeps_take_no_real_time(inside: Inside) -> None:
    """Ten years go by within the timeout of a test, day by day, and none of it is lost."""

    async def days() -> float:
        for _ in range(3650):
            await anyio.sleep(24 * 3600)
        return anyio.current_time()

    assert inside(days) == 10 * YEAR


def test_one_long_sleep_is_one_jump(inside: Inside) -> None:
    """A timer beyond what an event loop waits for at a time fires, at its time."""

    async def main() -> float:
        await anyio.sleep(1e6 * YEAR)
        return anyio.current_time()

    assert inside(main) == 1e6 * YEAR


@example([0.3, 0.9])  # 0.3 + (0.9 - 0.3) > 0.9
@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=20, unique=True))
def test_timers_fire_in_order_at_exactly_their_time(inside: Inside, delays: list[float]) -> None:
    """Tasks wake in the order of their deadlines, each when the clock shows its deadline."""
    woken: list[tuple[float, float]] = []

    async def sleeper(deadline: float) -> None:
        await anyio.sleep_until(deadline)
        woken.append((deadline, anyio.current_time()))

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for delay in delays:
                group.start_soon(sleeper, delay)

    inside(main)
    assert woken == [(deadline, deadline) for deadline in sorted(delays)]


def test_the_clock_stands_still_while_tasks_run(inside: Inside) -> None:
    """No time passes in computations and checkpoints, even if a timer is pending."""

    async def main() -> float:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 1e-9)
            for _ in range(1000):
                await anyio.lowlevel.checkpoint()
            now = anyio.current_time()
            group.cancel_scope.cancel()
        return now

    assert inside(main) == 0.0


def test_the_clock_jumps_when_all_tasks_wait_for_each_other(inside: Inside) -> None:
    """A hand-over between tasks happens at the time of the one that hands over."""

    async def main() -> list[float]:
        sender, receiver = anyio.create_memory_object_stream[str](0)
        times: list[float] = []

        async def send() -> None:
            async with sender:
                for seconds in (1.5, 2.25, 0.25):
                    await anyio.sleep(seconds)
                    await sender.send("now")

        async with anyio.create_task_group() as group, receiver:
            group.start_soon(send)
            async for _ in receiver:
                times.append(anyio.current_time())
        return times

    assert inside(main) == [1.5, 3.75, 4.0]


def test_deadlines_are_exact(inside: Inside) -> None:
    """A deadline cancels at its time; what ends before it is not cancelled."""

    async def main() -> None:
        with anyio.move_on_after(3600) as outer:
            with pytest.raises(TimeoutError):
                with anyio.fail_after(0.1):
                    await anyio.sleep(0.2)
            assert anyio.current_time() == 0.1
            with anyio.fail_after(2 * YEAR):
                with anyio.fail_after(0.3):
                    await anyio.sleep(0.25)
                await anyio.sleep_forever()
        assert outer.cancelled_caught
        assert anyio.current_time() == 3600

    inside(main)


def test_waiting_until_all_tasks_are_blocked_takes_no_time(inside: Inside) -> None:
    """`wait_all_tasks_blocked` comes before the jump to the next timer."""

    async def main() -> float:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 10)
            await anyio.wait_all_tasks_blocked()
            now = anyio.current_time()
        return now

    assert inside(main) == 0.0


def test_sockets_of_this_machine_work(inside: Inside) -> None:
    """A conversation over the loopback takes no time, so it meets none of its timeouts."""

    async def echo(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            async for chunk in stream:
                await anyio.sleep(0.5)
                await stream.send(chunk)

    async def main() -> float:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)
            with anyio.fail_after(1):
                stream = await anyio.connect_tcp("localhost", port)
            async with stream:
                for number in range(100):
                    with anyio.fail_after(1):
                        await stream.send(b"%d" % number)
                        assert await stream.receive() == b"%d" % number
            group.cancel_scope.cancel()
        return anyio.current_time()

    assert inside(main) == 50.0


def test_work_in_a_thread_takes_no_virtual_time(inside: Inside) -> None:
    """A thread that ends before the next timer, in real time, ends before it in virtual time."""

    async def main() -> float:
        with anyio.fail_after(300):
            await to_thread.run_sync(time.sleep, 0.05)
        now = anyio.current_time()
        await anyio.sleep(3600)
        with anyio.fail_after(300):
            await to_thread.run_sync(time.sleep, 0.05)
        assert anyio.current_time() == 3600
        return now

    assert inside(main) == 0.0


def test_timers_pass_while_a_thread_works(inside: Inside) -> None:
    """A thread can wait for the loop, and for one timer after the other."""
    rung = threading.Event()

    async def main() -> list[float]:
        times: list[float] = []

        async def ring() -> None:
            for _ in range(3):
                await anyio.sleep(0.01)
                times.append(anyio.current_time())
            rung.set()

        async with anyio.create_task_group() as group:
            group.start_soon(ring)
            await to_thread.run_sync(rung.wait)
            times.append(anyio.current_time())
            await anyio.sleep(3600)
        return times

    first, second, third, end = inside(main)
    assert first == 0.01
    assert end == third > second > first


def test_a_deadline_of_a_working_thread_leaves_the_later_timers_alone(inside: Inside) -> None:
    """A thread too slow for its deadline is late for that deadline, not for one far off."""
    cancelled = threading.Event()

    def work() -> None:
        while not cancelled.is_set():
            try:
                from_thread.check_cancelled()
            except BaseException:
                cancelled.set()
                raise

    async def main() -> float:
        with anyio.fail_after(3600):
            with anyio.move_on_after(0.02) as scope:
                await to_thread.run_sync(work)
            assert scope.cancelled_caught
        return anyio.current_time()

    assert inside(main) == 0.02
    assert cancelled.is_set()


def test_threads_call_the_loop(inside: Inside) -> None:
    """`from_thread` works: what a thread asks of the loop sees the loop's clock."""

    def work() -> float:
        from_thread.run(anyio.sleep, 0.01)
        return from_thread.run_sync(anyio.current_time)

    async def main() -> float:
        return await to_thread.run_sync(work)

    assert inside(main) == 0.01


def test_calls_from_outside_come_before_the_jump(backend: str, inside: Inside) -> None:
    """What another thread has asked of the loop is done before time passes."""

    async def main() -> list[float]:
        times: list[float] = []
        if backend == "trio":
            call_soon: Any = trio.lowlevel.current_trio_token().run_sync_soon
        else:
            call_soon = asyncio.get_running_loop().call_soon_threadsafe
        call_soon(lambda: times.append(anyio.current_time()))
        await anyio.sleep(5)
        return times

    assert inside(main) == [0.0]


def test_work_in_a_process_takes_no_virtual_time(inside: Inside) -> None:
    """Worker processes start, work, and start again, while far timers are pending."""

    async def main() -> list[int]:
        values: list[int] = []
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 3600)
            with anyio.fail_after(300):
                values.append(await to_process.run_sync(abs, -1))
            assert anyio.current_time() == 0.0
        assert anyio.current_time() == 3600
        await anyio.sleep(3600)
        with anyio.fail_after(300):
            values.append(await to_process.run_sync(abs, -2))
        assert anyio.current_time() == 7200
        return values

    assert inside(main) == [1, 2]


def test_subprocesses_are_read_and_awaited(inside: Inside) -> None:
    """Without a timer, the loop waits for a subprocess as any loop does."""

    async def main() -> subprocess.CompletedProcess[bytes]:
        return await anyio.run_process([sys.executable, "-c", "print('done')"])

    assert inside(main).stdout.split() == [b"done"]


def test_calls_in_an_asyncio_executor_take_no_virtual_time() -> None:
    """asyncio's own threads are waited for too, and joined at the end without a warning."""

    async def main() -> float:
        async with asyncio.timeout(300):
            await asyncio.to_thread(time.sleep, 0.05)
        with pytest.raises(ZeroDivisionError):
            async with asyncio.timeout(300):
                await asyncio.to_thread(divmod, 1, 0)
        await asyncio.sleep(1.5)
        return asyncio.get_running_loop().time()

    with asyncio.Runner(**virtual_time("asyncio")) as runner:
        assert runner.run(main()) == 1.5


def test_timers_of_a_plain_asyncio_run() -> None:
    """The loop serves `asyncio.Runner` as well: it asks anyio only for what anyio has started."""

    async def main() -> float:
        await asyncio.sleep(YEAR)
        return asyncio.get_running_loop().time()

    with asyncio.Runner(**virtual_time("asyncio")) as runner:
        assert runner.run(main()) == YEAR
