"""The fused tier: an iteration as a Python function with guards, made of the text of its source.

**Guards.** A function calls its tasks one after the other. It holds while each call gives an
ordinary value and nothing changes that the calls depend on, and one comparison tells both:
`r0.__class__ is not c0`, where `c0` is a cell with the class that this call gave last, one that
was found to be ordinary (no Jump, no awaitable, no expression). A change of constraints or
subscribers empties the cells, so that the comparison fails right after the call that brought the
change. `jump`, `tail` and `lazy`, with which the end of an iteration is told, are such cells too.

**Leaving.** The function returns its local variables, or an exception carries them. The machine
restores a frame from them and goes on with it in the interpreter, at that row (`Frame.restore`).

**Time.** The clock is read once a batch, of at most 64 calls, whose size follows their speed. Code
whose iterations are slow has its cells empty, so that the clock is read after each call.
"""

from __future__ import annotations

import linecache
import weakref
from collections.abc import Callable, Mapping
from itertools import count
from time import perf_counter
from types import CellType
from typing import Any, Final

from cascade.core.pace import BATCH
from cascade.graph.structure import Structure
from cascade.vm.blueprint import Blueprint, Routine
from cascade.vm.disassemble import head
from cascade.vm.fusable import Features, NotFusable, features
from cascade.vm.source import Source, source
from cascade.workflow.expressions import Jump, LazyResult, TailCall

QUICK: Final = 0.001  # seconds: a batch that takes longer is made smaller
NONE_WRAPPED: Final[Mapping[int, Callable[..., Any]]] = {}

_serial = count(1)
_TURNS: Final = [tuple(range(batch)) for batch in range(BATCH + 1)]


class FusedRoutine:
    """The code of a routine as a Python function, made once.

    `run(turns, limit, end, most, *literals, *constants, *variables)`, whose arguments the features
    name, is a coroutine function if they say so. It returns `(pc, locals)` when it leaves,
    `(None, locals)` when it pauses between two iterations.
    """

    def __init__(self, features: Features, source: Source) -> None:
        self.features = features
        self.text = source.text
        self._pcs = source.pcs
        self.full = max(1, BATCH // features.calls)
        self.batch = min(self.full, 4)
        self.is_slow = False  # then guards look at the clock after each call
        self._quick_calls = 0
        self._last_look = 0.0
        self.filename = f"<cascade fused {features.slot.name} {next(_serial)}>"
        linecache.cache[self.filename] = (
            len(self.text),
            None,
            self.text.splitlines(keepends=True),
            self.filename,
        )
        weakref.finalize(self, linecache.cache.pop, self.filename, None)
        self._make = self._compiled(source.names)

    def _compiled(self, names: Mapping[str, Any]) -> Callable[..., Any]:
        scope: dict[str, Any] = {}
        exec(compile(self.text, self.filename, "exec"), scope)
        link = scope["link"]
        return lambda asked, tasks: link(perf_counter, *asked, **{**names, **tasks})

    def linked(
        self, asked: tuple[Any, ...], wrapped: Mapping[int, Callable[..., Any]] = NONE_WRAPPED
    ) -> Linked:
        """The function with guards of its own, which asks `asked`: leave, pace, usual, literal.

        `wrapped` are called instead of the tasks' functions, by row.
        """
        code = self.features.routine.code
        tasks = {f"t{code[pc].site}": call for pc, call in wrapped.items()}  # type: ignore[attr-defined]
        return Linked(self._make(asked, tasks))

    def raised_at(self, error: BaseException) -> tuple[int, dict[str, Any]]:
        """The row at which an exception left the function, and the local variables there.

        The row is -1 if it stands for nothing that the routine does.
        """
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != self.filename:
            trace = trace.tb_next
        assert trace is not None
        return self._pcs[trace.tb_lineno - 1], dict(trace.tb_frame.f_locals)

    def accepts(self, overrides: Mapping[Any, Any]) -> bool:
        """Whether all that an iteration brings are variables of the code."""
        return overrides.keys() <= set(self.features.variables)

    def brought(self, left: Mapping[str, Any]) -> dict[str, Any]:
        """What the iteration that was left had been brought, by parameter."""
        return {name: left[f"p_{name}"] for name in self.features.variables}

    def data(self, left: Mapping[str, Any]) -> tuple[Any, ...]:
        """The data of the returned expression that was left."""
        return tuple([left[f"k{index}"] for index in self.features.literals])

    # Pace

    def adapt(self, batch: int, took: float) -> int:
        """How many iterations to do at a time, now that `batch` of them took so many seconds."""
        each = took / batch
        self._tell_each(each)
        affordable = int(QUICK / each) if each > 0 else self.full
        self.batch = max(1, min(self.full, 4 * batch, affordable))
        return self.batch

    def tell_left(self, begun: int, took: float) -> None:
        """The code was left, so many seconds after the first of `begun` iterations had begun."""
        self._tell_each(took / begun)

    def _tell_each(self, each: float) -> None:
        if each > QUICK and self.features.calls > 1 and not self.is_slow:
            self.is_slow = True
            self._quick_calls = 0

    def turns(self, batch: int, done: int, most: int) -> tuple[tuple[int, ...], int]:
        """The next batch, and after how many iterations in all to ask again."""
        batch = min(batch, most - done)
        return _TURNS[batch], most - batch + 1 if batch == self.full else 0

    def tell_look(self, now: float) -> None:
        """A guard of slow code looked at the clock: after enough quick calls it is quick again."""
        self._quick_calls = self._quick_calls + 1 if now - self._last_look < QUICK else 0
        self._last_look = now
        if self._quick_calls > BATCH:
            self.is_slow = False


class Linked:
    """Fused code whose guards may be set and emptied."""

    __slots__ = ("__weakref__", "_calls", "_cells", "_guards", "run", "version")

    def __init__(self, run: Callable[..., Any]) -> None:
        self.run = run
        self.version = -1  # of what the guards know
        names = run.__code__.co_freevars
        self._cells: dict[str, CellType] = dict(zip(names, run.__closure__ or (), strict=True))
        self._calls = [cell for name, cell in self._cells.items() if _is_of_call(name)]
        ends = [cell for name, cell in self._cells.items() if name in ("jump", "tail", "lazy")]
        self._guards = [*self._calls, *ends]

    def arm(self, version: int) -> None:
        """Nothing has changed since `version`: jumps and tail calls are followed."""
        self.version = version
        self._set("jump", Jump)
        self._set("tail", TailCall)
        self._set("lazy", LazyResult)

    def disarm(self) -> None:
        """Something has changed: leave after the call that is going on."""
        self.version = -1
        for cell in self._guards:
            cell.cell_contents = None

    def forget(self) -> None:
        """Have every call looked at from now on."""
        for cell in self._calls:
            cell.cell_contents = None

    def learn(self, pc: int, kind: type[Any] | None) -> None:
        """The call of row `pc` gives values of this class, which is an ordinary one, if any is."""
        self._set(f"c{pc}", kind)

    def learn_data(self, kind: type[Any]) -> None:
        """Jumps carry data of this class, which goes to the first parameter."""
        self._set("plain", kind)

    def learn_literal(self, number: int, kind: type[Any]) -> None:
        """Literal `number` of returned expressions is of this class, which holds no expressions."""
        self._set(f"d{number}", kind)

    def _set(self, name: str, kind: type[Any] | None) -> None:
        cell = self._cells.get(name)
        if cell is not None:
            cell.cell_contents = kind


def _is_of_call(name: str) -> bool:
    return name[0] == "c" and name[1:].isdigit()


def fuse(structure: Structure, routine: Routine) -> FusedRoutine:
    """The fused code of a routine; raises `NotFusable` with the reason if there is none."""
    found = features(structure, routine)
    return FusedRoutine(found, source(found))


def fused_listing(blueprint: Blueprint) -> str:
    """The fused code of each routine of a Blueprint, or why it has none."""
    return "\n\n".join(_listed(blueprint, routine) for routine in blueprint.routines)


def _listed(blueprint: Blueprint, routine: Routine) -> str:
    title = f"# {head(blueprint, routine)}"
    try:
        return f"{title}\n{fuse(blueprint.structure, routine).text}".rstrip()
    except NotFusable as reason:
        return f"{title}\n# left to the interpreter: {reason}"
