"""Tests that are async functions: anyio's plugin runs them as `inside` does."""

import anyio
import pytest
import sniffio

import cascade as cs

pytestmark = pytest.mark.anyio


async def test_an_async_test_runs_in_virtual_time():
    """The clock of an async test starts at 0 and jumps to exactly the next deadline."""
    assert anyio.current_time() == 0
    await anyio.sleep(7200)
    assert anyio.current_time() == 7200


async def test_an_async_test_waits_for_threads():
    """A thread at work takes no virtual time, in an async test too."""
    with anyio.fail_after(3600):
        assert await anyio.to_thread.run_sync(lambda: 1) == 1
    assert anyio.current_time() == 0


async def test_the_backend_named_is_the_backend_run_on(backend):
    """The fixture `backend` names the event loop on which an async test runs."""
    assert sniffio.current_async_library() == backend


async def test_an_engine_runs_in_an_async_test(use_vm):
    """An engine runs inside of an async test, under each strategy."""

    @cs.task
    async def nap(seconds):
        await anyio.sleep(seconds)
        return anyio.current_time()

    assert await cs.Engine().run([nap(60), nap(3600)], use_vm=use_vm) == [60, 3600]
