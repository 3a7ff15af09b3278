"""Executions that end with control instead of a value: loops, tail calls, returned expressions.

A `Trampoline` carries an owner, a node or a map item, from one such execution to the next. Each is
an evaluation of its own, begun when the one before it has ended, so that a loop takes constant
stack and memory. It is the same for both strategies, which bring the evaluations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from sys import maxsize
from typing import Any

from cascade.core.calls import Call, Place
from cascade.core.strategy import NO_OVERRIDES, EvaluationPlace, Strategy
from cascade.errors import (
    JumpKeyError,
    JumpNotBoundError,
    StaticGraphError,
    StepLimitError,
    TargetNotFoundError,
)
from cascade.graph.slices import Work
from cascade.graph.structure import TASK, Ref, Slot, Structure
from cascade.plain import brief
from cascade.workflow.expressions import NOTHING, Jump, Router, TailCall


class Trampoline:
    """Carries an owner through executions that end with control instead of a value.

    `home` is the evaluation in which the routes of the current loop stand. `returned` is the
    evaluation of the last returned expression; `_loop` the slot of it that is being looped, if
    its target is a loop.
    """

    __slots__ = (
        "_calls",
        "_home",
        "_last",
        "_loop",
        "_steps",
        "_strategy",
        "begun",
        "index",
        "name",
        "place",
        "preceded",
        "rank",
        "returned",
    )

    def __init__(
        self,
        strategy: Strategy,
        place: Place,
        index: int,
        rank: int,
        home: EvaluationPlace | None = None,
    ) -> None:
        self._strategy = strategy
        self.place = place
        self.index = index
        self.rank = rank
        self._home = home
        self.name = place.node(index).name
        self.returned: EvaluationPlace | None = None
        # By route and predecessor: what came before the route while it was a part of another one;
        # None, or the Skipped that the predecessor is.
        self.preceded: dict[tuple[Ref, int], Any] = {}
        self.begun: set[Ref] = set()  # routes of which an iteration was begun
        self._loop: Slot | None = None
        self._last: Ref | None = None  # what the last iteration executes, if its value counts
        self._calls = 1  # executions in the chain of tail calls
        self._steps = 0  # executions of the current loop

    def enter(
        self, slot: Slot, overrides: Mapping[Any, Any], returned: EvaluationPlace | None = None
    ) -> None:
        """Begin the loop at `slot`, of the owner's evaluation or of a returned expression."""
        self.name = slot.name
        self._steps = 0
        if returned is not None:
            self._home = returned
            self._loop = slot
        self._iterate(slot.index, overrides, None)

    def anchor(self) -> tuple[Place, int, int]:
        """Where its evaluations stand: at the owner, or at the loop of a returned expression."""
        if self._loop is not None and self._home is not None:
            return self._home, self._loop.index, self._home.rank(self._loop.index)
        return self.place, self.index, self.rank

    def switch(self, slot: Slot) -> None:
        """A Router among the routes chose the bound node `slot`: go on there, in the same loop."""
        self._evaluate(slot.index, NO_OVERRIDES)

    def go_on(self, call: Call, control: Any, evaluation: EvaluationPlace | None) -> None:
        """The owner's current execution ended with `control`; `evaluation` is where it ran."""
        self._last = None
        try:
            self._follow_up(call, control, evaluation)
        except StepLimitError as error:
            place, index, _ = self.anchor()
            if not place.answers(index, error):
                raise
            self._loop = None

    def _follow_up(self, call: Call, control: Any, evaluation: EvaluationPlace | None) -> None:
        if isinstance(control, Jump):
            self._jump(call, control, evaluation)
        elif isinstance(control, TailCall):
            self._tail_call(call, control, evaluation)
        else:
            self._follow(call, control)

    def _jump(self, call: Call, jump: Jump, evaluation: EvaluationPlace | None) -> None:
        slot = call.slot
        if evaluation is None or slot.bound is None or not evaluation.is_body(call.index):
            raise JumpNotBoundError(slot.name, jump.target_key)
        routes = evaluation.structure.selectors[slot.bound]
        route = _route(slot.name, routes, jump.target_key)
        if route is None:
            self.finish(jump.data)
        else:
            overrides = _overrides_by_data(evaluation.structure.slots[route], jump.data)
            self._iterate(route, overrides, jump.data)

    def _tail_call(self, call: Call, tail: TailCall, evaluation: EvaluationPlace | None) -> None:
        if tail.target is not None:
            self._call_target(tail, call)
            return
        arguments = (tail.args, dict(tail.kwargs))
        overrides = _overrides(call.slot, tail.args, tail.kwargs, "the TailCall")
        if evaluation is not None:
            if self._loop is None and evaluation.is_root:
                self._home = evaluation
            if evaluation.is_body(call.index) and call.slot.bound is not None:
                self._iterate(call.index, overrides, arguments)
            else:
                self._count_call(arguments)
                self._evaluate(call.index, overrides)
        else:
            self._count_call(arguments)
            self.place.again(call, overrides)

    def _call_target(self, tail: TailCall, call: Call) -> None:
        assert tail.target is not None
        targets = self._strategy.run.services.targets
        if tail.target not in targets:
            raise TargetNotFoundError(tail.target, tuple(targets))
        target = targets[tail.target]
        self._count_call((tail.args, dict(tail.kwargs)))
        self._leave_loop_then(lambda: self._evaluate_target(target, tail, call))

    def _follow(self, call: Call, expression: Any) -> None:
        """A returned expression: an evaluation of its own, in the owner's place."""
        if self._strategy.run.services.tail_calls == "forbid":
            raise StaticGraphError(call.slot.name, repr(expression))
        self._calls += 1
        self._check(self._calls, _arguments(expression))
        self._leave_loop_then(lambda: self._evaluate_target(expression, TailCall(), call))

    def _leave_loop_then(self, then: Callable[[], None]) -> None:
        if self._loop is not None and self._home is not None:
            self._loop = None
            self._home.leave(then)
        else:
            then()

    def _evaluate_target(self, target: Any, tail: TailCall, call: Call) -> None:
        strategy = self._strategy
        strategy.work(
            self._loading(target, tail),
            lambda loaded: self._unfold(*loaded),
            lambda error: strategy.run.call_failed(call, error),
        )

    def _unfold(
        self, structure: Structure, data: tuple[Any, ...], overrides: Mapping[Any, Any]
    ) -> None:
        self.preceded = {}  # of the structure before
        self.begun = set()
        self._strategy.unfold(self, structure, data, overrides)

    def _loading(
        self, target: Any, tail: TailCall
    ) -> Work[tuple[Structure, tuple[Any, ...], Mapping[Any, Any]]]:
        """Structure, data and overridden arguments of an expression that is evaluated next."""
        structure, data = yield from self._strategy.loading(target)
        overrides: Mapping[Any, Any] = NO_OVERRIDES
        if tail.args or tail.kwargs:
            root = structure.slots[structure.root]
            if root.kind is not TASK:
                raise TypeError(
                    f"the TailCall gives arguments to {root.kind} {root.name!r}, which takes none"
                )
            overrides = _overrides(root, tail.args, tail.kwargs, "the TailCall")
        if not self._strategy.is_prepared(structure, structure.root, False, overrides):
            yield from self._strategy.preparing(structure, structure.root, False, overrides)
        return structure, data, overrides

    def _iterate(self, root: int, overrides: Mapping[Any, Any], data: Any) -> None:
        self._steps += 1
        self._check(self._steps, data)
        if self._strategy.run.activity is not None:
            self._strategy.run.activity.iterated(self.name)
        self._evaluate(root, overrides)

    def _evaluate(self, root: int, overrides: Mapping[Any, Any]) -> None:
        home = self._home
        assert home is not None
        self.begun.add(root)
        self._last = root
        self._strategy.iterate(self, home, root, overrides)

    def count(self, is_bound: bool, executions: int) -> None:
        """So many executions were done elsewhere: of a loop, or of a chain of tail calls."""
        if is_bound:
            self._steps += executions
        else:
            self._calls += executions

    @property
    def execution(self) -> tuple[int, int]:
        """Which execution of the chain of tail calls it is, and which of the loop in that."""
        return self._calls, self._steps

    def steps_left(self, is_bound: bool) -> int:
        """How many executions may follow those that were counted."""
        most = self._strategy.run.max_steps
        return maxsize if most is None else most - (self._steps if is_bound else self._calls)

    def next_iteration(
        self, structure: Structure, slot: Slot, control: Any
    ) -> tuple[int, Mapping[Any, Any]] | None:
        """The root and the overrides of the iteration that `control` of `slot` leads to, if any.

        None for all else, errors included: those are told by `go_on`.
        """
        try:
            if isinstance(control, Jump) and slot.bound is not None:
                route = structure.selectors[slot.bound][control.target_key]
                if route is not None:
                    return route, _overrides_by_data(structure.slots[route], control.data)
            elif isinstance(control, TailCall) and control.target is None:
                return slot.index, _overrides(slot, control.args, control.kwargs, "the TailCall")
        except (KeyError, TypeError):
            pass
        return None

    def _count_call(self, data: Any) -> None:
        self._calls += 1
        self._check(self._calls, data)
        if self._strategy.run.activity is not None:  # the first call turns out to be one of many
            self._strategy.run.activity.iterated(self.name, 2 if self._calls == 2 else 1)

    def _check(self, count: int, data: Any) -> None:
        most = self._strategy.run.max_steps
        if most is not None and count > most:
            raise StepLimitError(self.name, most, data)

    def finish(self, value: Any) -> None:
        """The loop, or the whole chain, has its value."""
        if self._loop is not None and self._home is not None:
            loop, self._loop = self._loop, None
            self._home.settle_from(loop.index, value, is_own=self._last == loop.index)
            return
        is_own = self.returned is None and self._last == self.index
        if self.returned is not None:
            value = self.returned.outcome(value)
        self._home = self.returned = None  # which refer to this trampoline
        self.place.settle_from(self.index, value, is_own=is_own)


def _arguments(expression: Any) -> Any:
    """What a returned expression is called with: its data, as that of a TailCall."""
    if isinstance(expression, Router):
        return None
    return expression.args, dict(expression.kwargs)


def _route(task_name: str, routes: Mapping[Any, Ref | None], key: Any) -> Ref | None:
    try:
        hash(key)
    except TypeError:  # it cannot be a key; what its `==` raises is the user's
        raise JumpKeyError(task_name, key, tuple(routes)) from None
    found = routes.get(key, NOTHING)
    if found is NOTHING:
        raise JumpKeyError(task_name, key, tuple(routes))
    return found


def _overrides(
    slot: Slot, args: Sequence[Any], kwargs: Mapping[str, Any], what: str
) -> Mapping[Any, Any]:
    """Arguments that override the slot's own, by parameter name."""
    return slot.task.override(tuple(args), kwargs, what, is_method=slot.is_method)


def _overrides_by_data(slot: Slot, data: Any) -> Mapping[Any, Any]:
    """The arguments that the data of a Jump overrides."""
    if data is None or (isinstance(data, dict) and len(data) == 0):
        return NO_OVERRIDES
    what = "the data of the Jump"
    if slot.kind is not TASK:
        raise TypeError(
            f"{what} is {brief(data)}, but its route is {slot.kind} {slot.name!r}, which takes "
            "none; jump with data=None"
        )
    if isinstance(data, dict):
        return _overrides(slot, (), data, what)
    first = slot.task.parameters.first(is_method=slot.is_method)
    return _overrides(slot, (data,), {}, what) if first is None else {first: data}
