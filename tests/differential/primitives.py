"""What a task does with its event loop's own primitives, the same on asyncio and on trio.

Each takes the same (virtual) time on both, and ends in the same way: what fails has the same type
and text, so that nothing shows which event loop it was. `PRIMITIVES` has them by name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import trio


def is_asyncio() -> bool:
    return anyio.get_cancelled_exc_class() is asyncio.CancelledError


async def fail_later() -> None:
    await anyio.sleep(0.5)
    raise ValueError("a child failed")


async def group() -> None:
    """Children, one of which fails, while the body waits."""
    try:
        if is_asyncio():
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(fail_later())
                tasks.create_task(asyncio.sleep(5))
                await asyncio.sleep(5)
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail_later)
                nursery.start_soon(trio.sleep, 5)
                await trio.sleep(5)
    except BaseExceptionGroup as group:
        failures, cancelled = group.split(ValueError)
        if cancelled is not None:
            raise cancelled from None
        assert failures is not None
        raise ExceptionGroup("of children", [ValueError("a child failed")]) from None


async def timeout() -> None:
    """A timeout around a sleep."""
    try:
        if is_asyncio():
            async with asyncio.timeout(0.5):
                await asyncio.sleep(5)
        else:
            with trio.fail_after(0.5):
                await trio.sleep(5)
    except (TimeoutError, trio.TooSlowError):
        raise TimeoutError("timed out within") from None


async def wait_for() -> None:
    """The older form of a timeout, which runs what it waits for in a task of its own."""
    try:
        if is_asyncio():
            await asyncio.wait_for(asyncio.sleep(5), 0.5)
        else:
            with trio.fail_after(0.5):
                await trio.sleep(5)
    except (TimeoutError, trio.TooSlowError):
        raise TimeoutError("waited in vain") from None


async def itself() -> None:
    """The task cancels itself, and takes neither notice of it nor the request back."""
    if is_asyncio():
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(5)
    else:
        with trio.CancelScope() as scope:
            scope.cancel()
            await trio.sleep(5)
    raise LookupError("cancelled by itself")


async def itself_taken_back() -> None:
    """The same, later and with the request taken back."""
    if is_asyncio():
        task = asyncio.current_task()
        assert task is not None
        handle = asyncio.get_running_loop().call_later(0.5, task.cancel)
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            if not handle.when() <= asyncio.get_running_loop().time():
                raise
            task.uncancel()
        finally:
            handle.cancel()
    else:
        with trio.move_on_after(0.5):
            await trio.sleep(5)
    raise LookupError("cancelled by itself, later")


async def child() -> None:
    """A child that is cancelled while the task waits for it."""
    if is_asyncio():
        other = asyncio.ensure_future(asyncio.sleep(5))
        asyncio.get_running_loop().call_later(0.5, other.cancel)
        try:
            await asyncio.wait([other])
        finally:
            other.cancel()
    else:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 5)
            await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
    raise LookupError("the child was cancelled")


PRIMITIVES: dict[str, Callable[[], Awaitable[None]]] = {
    "group": group,
    "timeout": timeout,
    "wait_for": wait_for,
    "itself": itself,
    "itself taken back": itself_taken_back,
    "child": child,
}


async def use(name: str, *, is_caught: bool) -> None:
    """Use a primitive, which fails; the task catches that, or does not."""
    try:
        await PRIMITIVES[name]()
    except Exception:
        if not is_caught:
            raise
