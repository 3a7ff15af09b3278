"""Short names for the fixtures of the pytest plugin, which every test asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# The fixtures below hold nothing, so all examples of one test may share them.
SHARED_FIXTURES = [HealthCheck.function_scoped_fixture]

settings.register_profile(
    "ci", derandomize=True, deadline=None, suppress_health_check=SHARED_FIXTURES
)
# Other examples every time: pytest --hypothesis-profile=explore
settings.register_profile(
    "explore",
    max_examples=2000,
    deadline=None,
    print_blob=True,
    suppress_health_check=SHARED_FIXTURES,
)
settings.load_profile("ci")


@pytest.fixture
def backend(cascade_backend: str) -> str:
    """The event loop of the moment."""
    return cascade_backend


@pytest.fixture
def use_vm(cascade_strategy: str) -> bool:
    """The strategy of the moment."""
    return cascade_strategy == "vm"


@pytest.fixture
def run(cascade_run: Callable[..., Any]) -> Callable[..., Any]:
    """`cs.run` on the backend and strategy of the moment, in virtual time."""
    return cascade_run


@pytest.fixture
def inside(cascade_inside: Callable[..., Any]) -> Callable[..., Any]:
    """Runs an async function in a virtual-time loop of the backend, and returns its value."""
    return cascade_inside


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bless", action="store_true", help="write the listings and docs/isa.md anew")
