"""Fixtures for tests of workflows, on each event loop and under each strategy, in virtual time.

pytest loads this in every project where Cascade is installed. So it stands outside of the package
and imports nothing of it before a fixture is asked for: others pay nothing, and coverage and
filters for warnings begin first. Nothing here is async, and no fixture or option of another plugin
is touched, so that plugins for async tests need not know about it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(params=["asyncio", "trio"])
def cascade_backend(request: pytest.FixtureRequest) -> str:
    """The event loop of the moment: "asyncio" or "trio"."""
    return str(request.param)


@pytest.fixture(params=["graph", "vm"])
def cascade_strategy(request: pytest.FixtureRequest) -> str:
    """The strategy of the moment: "graph" or "vm"."""
    return str(request.param)


@pytest.fixture
def cascade_run(cascade_backend: str, cascade_strategy: str) -> Callable[..., Any]:
    """`cs.run` on the event loop and under the strategy of the moment, in virtual time."""
    from cascade import run
    from cascade.testing import virtual_time

    def cascade_run(target: Any, **options: Any) -> Any:
        options.setdefault("backend_options", virtual_time(cascade_backend))
        use_vm = cascade_strategy == "vm"
        return run(target, use_vm=use_vm, backend=cascade_backend, **options)

    return cascade_run


@pytest.fixture
def cascade_inside(cascade_backend: str) -> Callable[..., Any]:
    """Runs an async function on the event loop of the moment, in virtual time: its value."""
    import anyio

    from cascade.testing import virtual_time

    def cascade_inside(async_function: Callable[..., Any], *args: Any) -> Any:
        options = virtual_time(cascade_backend)
        return anyio.run(async_function, *args, backend=cascade_backend, backend_options=options)

    return cascade_inside


@pytest.fixture
def cascade_agree() -> Callable[..., None]:
    """`cascade.testing.assert_strategies_agree`: all strategies on all event loops do the same."""
    from cascade.testing import assert_strategies_agree

    return assert_strategies_agree
