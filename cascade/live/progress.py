"""`Progress`: shows what the runs of an engine are doing, while they do it.

It samples. A task of its own, which lives exactly as long as the `async with` block, reads the
counters of the runs a few times a second; it subscribes to nothing, so runs are as fast as without
it. On a terminal it draws a table in place, elsewhere it prints a line now and then.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from math import ceil, isfinite
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol

import anyio

from cascade.core.cancellation import is_cancellation
from cascade.live.readings import Reader

if TYPE_CHECKING:
    from rich.console import Console

    from cascade.core.activity import Activity

logger = logging.getLogger("cascade")

SAMPLE_EVERY: Final = 0.25  # seconds at most, so that rates are those of the last seconds


class Watchable(Protocol):
    """An engine, of which a display only has to hear of each run that begins."""

    @property
    def on_run(self) -> Callable[[Activity], None] | None: ...
    @on_run.setter
    def on_run(self, listener: Callable[[Activity], None] | None) -> None: ...


class Progress:
    """Shows the runs of `engine` that begin inside of the block, and what they came to.

        async with cs.Progress(engine):
            await engine.run(target)

    `console` is a `rich.console.Console`, by default one for standard error. `interval` is the
    time between two pictures in seconds: by default 0.25 on a terminal, else 10. Raises
    `ModuleNotFoundError` without rich, `TypeError` for what is no engine or no console,
    `ValueError` for an interval not above 0, and on entry `RuntimeError` while another one shows
    the same engine.
    """

    def __init__(
        self, engine: Watchable, *, console: Console | None = None, interval: float | None = None
    ) -> None:
        try:
            from cascade.live.display import display_on
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "showing progress needs rich, which is not installed; "
                "write pip install 'cascade-vm[progress]'"
            ) from error
        if not hasattr(engine, "on_run"):
            raise TypeError(f"{engine!r} is no engine; write cs.Progress(engine)")
        self._engine = engine
        self._display = display_on(console)
        seconds = self._display.every if interval is None else interval
        if not isinstance(seconds, int | float) or seconds <= 0 or not isfinite(seconds):
            raise ValueError(f"interval={interval!r} must be seconds above 0")
        self._samples_per_picture = ceil(seconds / SAMPLE_EVERY)
        self._period = seconds / self._samples_per_picture
        self._readers: list[Reader] = []
        self._failed = False
        self._block: AbstractAsyncContextManager[None] | None = None

    async def __aenter__(self) -> Progress:
        if self._engine.on_run is not None:
            raise RuntimeError("the progress of this engine is shown already; enter only one")
        block = self._showing()
        await block.__aenter__()
        self._block = block
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        block, self._block = self._block, None
        assert block is not None, "a block is entered before it is left"
        return await block.__aexit__(kind, error, traceback)

    @asynccontextmanager
    async def _showing(self) -> AsyncIterator[None]:
        failure: BaseException | None = None
        self._readers = []
        self._failed = False
        self._start_or_log()
        try:
            self._engine.on_run = self._on_run
            async with anyio.create_task_group() as group:
                sampling = anyio.CancelScope()
                group.start_soon(self._sample_regularly, sampling)
                try:
                    yield
                except BaseException as error:
                    if is_cancellation(error):
                        raise
                    failure = error  # raised below: the task group would wrap it
                finally:
                    sampling.cancel()
        finally:
            self._engine.on_run = None
            self._show_or_log(is_due=False)
            self._stop_or_log()
        if failure is not None:
            raise failure

    def _on_run(self, activity: Activity) -> None:
        self._readers.append(Reader(activity))

    async def _sample_regularly(self, scope: anyio.CancelScope) -> None:
        with scope:
            samples = 0
            while not self._failed:
                await anyio.sleep(self._period)
                samples += 1
                self._show_or_log(is_due=samples % self._samples_per_picture == 0)

    def _show(self, is_due: bool) -> None:
        now = anyio.current_time()
        readings = [(reader, reader.read(now)) for reader in self._readers]
        self._readers = [reader for reader, reading in readings if reading.status is None]
        ended = [reading for _, reading in readings if reading.status is not None]
        going_on = [reading for _, reading in readings if reading.status is None]
        self._display.show(ended, going_on, is_due)

    # What shows a run must not end it: a console that fails is logged, and left alone.

    def _show_or_log(self, is_due: bool) -> None:
        if self._failed:
            return
        try:
            self._show(is_due)
        except Exception:
            self._failed = True
            logger.exception("the progress cannot be shown any more")

    def _start_or_log(self) -> None:
        try:
            self._display.start()
        except Exception:
            self._failed = True
            logger.exception("the progress cannot be shown")

    def _stop_or_log(self) -> None:
        try:
            self._display.stop()
        except Exception:
            if not self._failed:
                logger.exception("the terminal cannot be left as it was")
