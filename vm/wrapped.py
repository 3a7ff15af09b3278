"""Calls of fused code while somebody listens to its tasks, or while constraints match them.

The code stays the same; in place of its tasks' functions stand wrapped ones, which do around each
call what the interpreter does: ask the gate, announce the attempt, publish how it ended, give back
what it held. A call that the gate does not admit at once leaves the code before it is made
(`Leave`): only the interpreter can have a call wait.
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
    from cascade.vm.frame import Frame

NO_AMOUNTS: Mapping[str, Any] = {}


class Leave(Exception):
    """The call has to wait: the interpreter makes it."""


class NamedCall(Call):
    """A call whose id is known: it is published in each iteration."""

    __slots__ = ("known_id",)
    known_id: str

    @property
    def task_id(self) -> str:
        """The id of the node that this call executes."""
        return self.known_id


class WrappedCall:
    """One call of fused code. `has_finished`: all have heard that its last attempt has ended."""

    __slots__ = (
        "_call",
        "_gated",
        "_processor",
        "_run",
        "_usual",
        "has_finished",
        "others_are_ready",
    )

    def __init__(self, run: Run, frame: Frame, slot: Slot) -> None:
        self._run = run
        self._processor = run.processor
        self._gated = run.services.gate.limits(slot.name)
        # Tells the code that others are ready, whose turn may be before the next call's.
        self.others_are_ready: WeakMethod[Callable[[], object]] | None = None
        rank = frame.rank(slot.index)
        self._call = NamedCall(frame, slot.index, rank, slot, (), NO_KWARGS, NO_AMOUNTS)
        self._call.known_id = frame.task_id(slot.index)
        self.has_finished = False
        self._usual: type[Any] | None = None  # the class of the last value that was no awaitable

    def function(self) -> Callable[..., Any]:
        """What stands for the task's function in the code."""
        return self._awaited if self._call.slot.task.is_async else self._called

    def handed_to(self, call: Call) -> Call:
        """The interpreter's own `call` of this row, which goes on from where this one is."""
        call.started = self._call.started
        call.ticket, self._call.ticket = self._call.ticket, None
        return call

    def _begin(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        call = self._call
        call.args = args
        call.kwargs = kwargs
        call.attempt = 1
        self.has_finished = False
        if self._gated:
            if not self._processor.admit_now(call):
                raise Leave
            if self._run.has_ready:  # the gate has seen that the time of somebody has come
                self._tell_others_are_ready()
        return call

    def _tell_others_are_ready(self) -> None:
        tell = None if self.others_are_ready is None else self.others_are_ready()
        if tell is not None:  # else the code is gone, and nobody runs it
            tell()

    def _called(self, *args: Any, **kwargs: Any) -> Any:
        call = self._begin(args, kwargs)
        value = self._processor.call_inline(call)
        if value.__class__ is self._usual or not is_awaitable(value):
            self._usual = usual_class(value)
            self._processor.finished(call, "Succeeded", None)
            self._processor.give_back(call)
            self.has_finished = True
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
        self.has_finished = True
        return value
