"""Calls of fused code while somebody listens to its tasks, or while constraints match them.

The code stays the same; its tasks are bound to sites that do around each call what the interpreter
does: ask the gate, announce the attempt, tell how it ended, give back what it held. A call that the
gate does not admit at once leaves the code before it is made (`Leave`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

from cascade.core.calls import Call
from cascade.core.cancellation import is_cancellation
from cascade.executors.executor import is_awaitable, usual_class
from cascade.workflow.expressions import NO_KWARGS

if TYPE_CHECKING:
    from cascade.core.run import Run
    from cascade.graph.structure import Slot
    from cascade.vm.machine import Frame

NO_AMOUNTS: Mapping[str, Any] = {}


class Leave(Exception):
    """The call has to wait: the interpreter makes it."""


class NamedCall(Call):
    """A call whose id is known: it is told of in each iteration."""

    __slots__ = ("known_id",)
    known_id: str

    @property
    def task_id(self) -> str:
        """The id of the node that this call executes."""
        return self.known_id


class Site:
    """One call of fused code. `is_told` says that its last attempt was told to have ended."""

    __slots__ = ("_gated", "_processor", "_run", "_usual", "call", "is_told", "others_are_ready")

    def __init__(self, run: Run, frame: Frame, slot: Slot) -> None:
        self._run = run
        self._processor = run.processor
        self._gated = run.services.gate.limits(slot.name)
        # Tells the code that others are ready, whose turn may be before the next call's.
        self.others_are_ready: WeakMethod[Callable[[], object]] | None = None
        rank = frame.rank(slot.index)
        self.call = NamedCall(frame, slot.index, rank, slot, (), NO_KWARGS, NO_AMOUNTS)
        self.call.known_id = frame.task_id(slot.index)
        self.is_told = False
        self._usual: type[Any] | None = None  # the class of the last value that was no awaitable

    def bound(self) -> Callable[..., Any]:
        """What stands for the task's function in the code."""
        return self._awaited if self.call.slot.task.is_async else self._called

    def _begin(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        call = self.call
        call.args = args
        call.kwargs = kwargs
        call.attempt = 1
        self.is_told = False
        if self._gated:
            if not self._processor.admit_now(call):
                raise Leave
            if self._run.has_ready:  # the gate has seen that the time of somebody has come
                self._tell_others_are_ready()
        return call

    def _tell_others_are_ready(self) -> None:
        tell = None if self.others_are_ready is None else self.others_are_ready()
        if tell is not None:
            tell()

    def _called(self, *args: Any, **kwargs: Any) -> Any:
        call = self._begin(args, kwargs)
        value = self._processor.call_inline(call)
        if value.__class__ is self._usual or not is_awaitable(value):
            self._usual = usual_class(value)
            self._processor.finished(call, "Succeeded", None)
            self.is_told = True
        return value

    async def _awaited(self, *args: Any, **kwargs: Any) -> Any:
        call, processor = self._begin(args, kwargs), self._processor
        processor.surround(call)
        processor.started(call)
        try:
            value = await call.slot.task.func(*args, **kwargs)
        except BaseException as error:
            if is_cancellation(error):
                processor.failed(call, error)
                processor.give_back(call)
            raise
        processor.finished(call, "Succeeded", None)
        processor.give_back(call)
        self.is_told = True
        return value
