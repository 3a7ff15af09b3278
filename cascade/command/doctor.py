"""What this installation can do: versions, extras, event loops, workers, and what a step costs."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from threading import get_ident
from time import perf_counter
from typing import Final

import anyio
from anyio import to_thread
from anyio.lowlevel import checkpoint

from cascade.engine import run_async
from cascade.plain import error_text
from cascade.workflow.task import Task

_NEEDED: Final = ("anyio", "trio")
_EXTRAS: Final = {
    "cli": "click",
    "notebook": "cloudpickle",
    "progress": "rich",
    "telemetry": "opentelemetry-api",
}
_CHECKPOINTS: Final = 2000


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing looked at; `is_broken` if Cascade needs it and it does not work."""

    what: str
    found: str
    is_broken: bool = False


def examine() -> Iterator[Fact]:
    """Look at everything, one thing after the other; nothing raises."""
    yield Fact("Python", f"{platform.python_version()} ({platform.python_implementation()})")
    yield Fact("cascade-vm", _version("cascade-vm") or "not installed as a distribution")
    for name in _NEEDED:
        found = _version(name)
        yield Fact(name, found or "missing", is_broken=found is None)
    for extra, name in _EXTRAS.items():
        found = _version(name)
        missing = f"missing: pip install 'cascade-vm[{extra}]'"
        yield Fact(name, f"{found} (extra {extra!r})" if found else missing)
    for backend in ("asyncio", "trio"):
        yield from _examine_loop(backend)


def _examine_loop(backend: str) -> Iterator[Fact]:
    for what, trial in (
        ("runs", _runs),
        ("worker thread", _worker_thread),
        ("worker process", _worker_process),
        ("one checkpoint", _checkpoint),
    ):
        yield _tried(f"{backend}: {what}", partial(anyio.run, trial, backend=backend))


def _tried(what: str, trial: Callable[[], str]) -> Fact:
    try:
        return Fact(what, trial())
    except Exception as error:
        return Fact(what, f"broken: {error_text(error)}", is_broken=True)


async def _runs() -> str:
    one: Task[..., int] = Task(int)
    values = [await run_async(one("7"), use_vm=use_vm) for use_vm in (False, True)]
    if values != [7, 7]:
        raise RuntimeError(f"the strategies gave {values!r} for 7")
    return "works, graph and vm"


async def _worker_thread() -> str:
    return _elsewhere(await to_thread.run_sync(get_ident) != get_ident())


async def _worker_process() -> str:
    pid: Task[..., int] = Task(os.getpid, mode="process")
    return _elsewhere(await run_async(pid()) != os.getpid())


def _elsewhere(is_elsewhere: bool) -> str:
    if not is_elsewhere:
        raise RuntimeError("the work was done in the caller's own thread or process")
    return "works"


async def _checkpoint() -> str:
    began = perf_counter()
    for _ in range(_CHECKPOINTS):
        await checkpoint()
    cost = (perf_counter() - began) / _CHECKPOINTS
    return f"{cost * 1e6:.1f} us (mean of {_CHECKPOINTS})"


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
