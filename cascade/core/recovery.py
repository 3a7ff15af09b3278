"""What a node has in place of the value that its failed call did not give.

The call is over, and its capacity is back. A fallback that is an expression is demanded where the
node stands, whoever else needs it; a handler is called with the exception, once for each failure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cascade.core.calls import Call, Failed, Holder, Place, is_control
from cascade.core.strategy import EvaluationPlace
from cascade.core.trampoline import Trampoline
from cascade.core.values import (
    Skipped,
    arguments_anew,
    arguments_by_name,
    deferred_names,
    open_slots,
    own_arguments,
)
from cascade.graph.structure import RESOURCE, Slot
from cascade.workflow.outcome import Outcome, succeeded

if TYPE_CHECKING:
    from cascade.graph.nodes import Node


def wrapped(slot: Slot, value: Any) -> Any:
    """The value of a call, or of an item, as its node has it."""
    is_value = slot.settled_on is not None and value.__class__ is not Skipped
    return succeeded(value) if is_value else value


def recover(
    evaluation: EvaluationPlace,
    slot: Slot,
    failed: Failed,
    owner: tuple[Place, int, int],
    then: Callable[[Any], None],
) -> None:
    """Have `then` called with what a node of `evaluation`, or an item of it, has for a value.

    `owner` says where the node or item stands: its place, its index there, and its rank.
    """
    if not failed.falls_back:
        then(Outcome(error=failed.error))
    elif slot.handler is None:
        evaluation.fall_back(slot, failed.error, lambda value: then(wrapped(slot, value)))
    else:
        handler = evaluation.structure.slots[slot.handler]
        handled = Handling(evaluation, handler, failed.error, owner)
        handled.start(lambda value: then(wrapped(slot, value)))


class Handling(Place):
    """One call of a handler, and what its trampoline makes of it."""

    __slots__ = ("_error", "_evaluation", "_given", "_slot", "_strategy", "_then", "_trampoline")

    local_id_names_owner = True

    def __init__(
        self,
        evaluation: EvaluationPlace,
        slot: Slot,
        error: Exception,
        owner: tuple[Place, int, int],
    ) -> None:
        super().__init__(*owner)
        self._evaluation = evaluation
        self._strategy = evaluation.strategy
        self._slot = slot
        self._error = error
        self._given: Mapping[Any, Any] = slot.task.override(
            (error,), {}, "the fallback", is_method=slot.is_method
        )
        self._then: Callable[[Any], None] = _ignore
        self._trampoline: Trampoline | None = None

    def start(self, then: Callable[[Any], None]) -> None:
        """Call the handler once what it injects is there; `then` gets its value."""
        self._then = then
        self._strategy.hold(self)
        needed = open_slots(self._slot, self._given)
        self._evaluation.when_settled(needed, self._begin)

    def _begin(self) -> None:
        args, kwargs = self._evaluation.arguments(self._slot, self._given)
        self._execute(args, kwargs)

    def _execute(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        call = Call(self, self._slot.index, 0, self._slot, args, kwargs, {})
        call.resources = deferred_names((*args, *kwargs.values()))
        self._strategy.run.make_ready(call)

    def completed(self, call: Call, value: Any) -> None:
        """The handler came to a value, or to control."""
        if is_control(value):
            if self._trampoline is None:
                self._trampoline = Trampoline(self._strategy, self, call.index, call.rank)
            self._trampoline.go_on(call, value, None)
        else:
            self.settle_from(call.index, value)
        self._strategy.propagate()

    def execution_of(self, index: int) -> tuple[int, ...]:
        """The execution of a handler that made tail calls."""
        return () if self._trampoline is None else self._trampoline.execution

    def again(self, call: Call, overrides: Mapping[Any, Any]) -> None:
        """Call the handler anew with other arguments."""
        self._given = {**self._given, **overrides}
        self._execute(*arguments_by_name(self._slot.task, arguments_anew(call, overrides)))

    def settle_from(self, index: int, value: Any, *, is_own: bool = False) -> None:
        """The handler has its value."""
        self._strategy.drop(self)
        self._trampoline = None
        then, self._then = self._then, _ignore
        then(value)

    def release(self) -> None:
        """Let go of all that refers back: the run is over."""
        self._then = _ignore
        self._trampoline = None

    @property
    def holdings(self) -> Holder:
        """A handler belongs to the evaluation of its node."""
        return self._evaluation.holdings

    def cause_of(self, index: int) -> BaseException | None:
        """What the handler was called for."""
        return self._error

    def node(self, index: int) -> Node:
        """The public node of the handler."""
        return self._evaluation.node(index)

    def local_id(self, index: int) -> str:
        """The id of the handler's node, after that of the item, if an item failed."""
        own = self._evaluation.local_id(self._slot.index)
        assert self.parent is not None
        if self.parent is self._evaluation:
            return own
        of_map = self._evaluation.local_id(self.parent.parent_index)
        return f"{of_map}[{self.parent_index}]/{own}"

    def local_path(self, index: int) -> list[str]:
        """The id of the handler, and then the path of what failed."""
        assert self.parent is not None
        return [self.local_id(index), *self.parent.local_path(self.parent_index)]

    def injected(self, index: int) -> frozenset[int | str]:
        """The arguments that are injected resources: positions and keywords."""
        own = own_arguments(self._slot, self._given)
        slots = self._evaluation.structure.slots
        return frozenset(n for n, ref in own if ref >= 0 and slots[ref].kind is RESOURCE)


def _ignore(value: Any) -> None:
    """What hears of a value when nobody waits any more."""
