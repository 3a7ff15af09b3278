"""One engine in a FastAPI application: requests share limits, and a request takes its run along.

docs/how-to/fastapi.md is run by tests/house/test_docs.py; here are the laws that it relies on, with
requests through the real application, in process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse

import cascade as cs


@cs.task
async def fetch(seconds: float) -> float:
    await anyio.sleep(seconds)
    return anyio.current_time()


@cs.task
def refuse() -> None:
    raise PermissionError("not for you")


@dataclass
class Service:
    """An application, its engine, and what its runs came to."""

    engine: cs.Engine
    app: FastAPI
    finished: list[tuple[str, float]] = field(default_factory=list)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


@pytest.fixture
def service(use_vm: bool) -> Service:
    """Handlers that run workflows with the strategy of the moment, on one engine."""
    engine = cs.Engine(system_resources={"gpu": 3})
    engine.constraints.limit_concurrency("task:fetch", 2)
    service = Service(engine, FastAPI())
    engine.bus.subscribe(
        cs.RunFinished, lambda event: service.finished.append((event.status, event.timestamp))
    )

    @service.app.get("/fetch")
    async def answer(seconds: float) -> float:
        return await engine.run(fetch(seconds).with_constraints(gpu=1), use_vm=use_vm)

    @service.app.get("/refuse")
    async def refused() -> None:
        await engine.run(refuse(), use_vm=use_vm)

    @service.app.exception_handler(PermissionError)
    async def forbidden(request: Any, error: PermissionError) -> Any:
        return JSONResponse(error.args[0], status_code=403)

    return service


def test_requests_share_the_limits_of_the_engine(
    inside: Callable[..., Any], service: Service
) -> None:
    """Five requests at once, two at a time: the last one has its answer after three rounds."""

    async def main() -> None:
        async with service.client() as client, anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(client.get, "/fetch?seconds=1")

    inside(main)
    assert sorted(service.finished) == [("Succeeded", t) for t in (1.0, 1.0, 2.0, 2.0, 3.0)]
    assert service.engine.statistics().plan_misses == 1


def test_a_request_that_is_cancelled_cancels_its_run(
    inside: Callable[..., Any], service: Service
) -> None:
    """What the run held goes at once to a request that waits."""

    async def main() -> httpx.Response:
        async with service.client() as client, anyio.create_task_group() as group:

            async def give_up() -> None:
                with anyio.move_on_after(5):
                    await client.get("/fetch?seconds=1000")

            group.start_soon(give_up)
            group.start_soon(give_up)
            await anyio.wait_all_tasks_blocked()
            return await client.get("/fetch?seconds=1")

    response = inside(main)
    assert response.json() == 6.0
    assert service.finished == [("Cancelled", 5.0), ("Cancelled", 5.0), ("Succeeded", 6.0)]
    seen = service.engine.constraints.statistics()
    assert (seen.parked, seen.free) == (0, {"gpu": 3})


def test_a_failure_reaches_the_handler_of_its_class(
    inside: Callable[..., Any], service: Service
) -> None:
    """The exception comes out of the run as itself, so the framework finds its handler."""

    async def main() -> httpx.Response:
        async with service.client() as client:
            return await client.get("/refuse")

    response = inside(main)
    assert (response.status_code, response.json()) == (403, "not for you")
