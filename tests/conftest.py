"""Short names for the fixtures of the pytest plugin, which every test asks for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from cascade.command.cli import main
from cascade.testing import virtual_time
from cascade.vm.programs import Programs

Programs.verifies = True  # what the engine compiles for itself

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
def anyio_backend(backend: str) -> tuple[str, dict[str, Any]]:
    """Where anyio's plugin runs an async test: the event loop of the moment, in virtual time."""
    return backend, virtual_time(backend)


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


@pytest.fixture
def cascade(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line as a process of its own, in `tmp_path`."""

    def cascade(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "cascade", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
            **options,
        )

    return cascade


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """The same in this process, where many runs are cheap: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    yield command
    for name in set(sys.modules) - before:  # the modules of the targets
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and Path(file).is_relative_to(tmp_path):
            del sys.modules[name]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bless", action="store_true", help="write the listings and docs/isa.md anew")
