"""Parts of a run that fail by themselves: what a group evaluates, and each alternative of a first.

An attempt of a group is a call whose task opens a task group: the driver of the run starts there
what stands in the scope, so that the scope ends as a run does. What runs in it is cancelled and
awaited, its step resources are torn down with the failure thrown in, what it asked for at the gate
is withdrawn; then the attempt has its value, or fails.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import anyio
from anyio import Event
from anyio.abc import TaskGroup

from cascade.core.calls import Call, Holder, Omitted, Place
from cascade.core.cancellation import is_cancellation
from cascade.core.failures import Failing
from cascade.core.strategy import NO_OVERRIDES, EvaluationPlace
from cascade.core.values import BY_DATA, BY_SEQUENCE, Skipped
from cascade.errors import DependencyMissingError, ends_run

if TYPE_CHECKING:
    from cascade.core.holdings import Holdings
    from cascade.graph.nodes import Node
    from cascade.limits.gate import Session


async def evaluate(home: EvaluationPlace, call: Call) -> Any:
    """What the attempt of a group, or of a first, that stands in `home` comes to."""
    inner = call.slot.inner
    assert inner is not None
    refs = [ref for ref in home.structure.selectors[inner].values() if ref is not None]
    if call.slot.task.kind == "group":
        return await _group(home, call, refs[0])
    for ref in refs:
        if ref < 0:  # it has its value before anything runs
            return home.data[~ref][0]
    return await _First(home, call, refs).winner()


async def _group(home: EvaluationPlace, call: Call, ref: int) -> Any:
    value = await EvaluationScope(home, call, ref).value()
    if not isinstance(value, Skipped):
        return value
    if value.reason == BY_SEQUENCE:
        return None
    error = DependencyMissingError(call.task_id, value.argument, value.origin, value.origin_reason)
    error.ends_run = False  # type: ignore[misc]
    raise error


class EvaluationScope(Place, Failing):
    """One evaluation that fails by itself, from where it begins until nothing of it is left."""

    local_id_names_owner = True

    def __init__(
        self,
        home: EvaluationPlace,
        call: Call,
        ref: int,
        label: str = "",
        on_finish: Callable[[EvaluationScope], None] | None = None,
    ) -> None:
        super().__init__(home, call.index, call.rank)
        Failing.__init__(self)
        self.scope = self
        self.places: dict[Place, None] = {}  # in it, which hold values
        self.steps: dict[Holdings, None] = {}  # which hold its step resources
        self.session: Session
        self.tasks: TaskGroup
        self._home = home
        self._ref = ref
        self._label = label
        self._on_finish = on_finish
        self._children: dict[EvaluationScope, None] = {}
        self._ended = Event()
        self._result: Any = None
        self._attempt = call.attempt

    async def value(self, begun: Callable[[], None] | None = None) -> Any:
        """What the evaluation comes to, or the Skipped it is. Raises what it fails with.

        `begun` is called once what it demands first may start.
        """
        if self._ref < 0:
            return self._home.data[~self._ref][0]
        run = self._home.strategy.run
        around = cast("EvaluationScope | None", self._home.scope)
        self.session = run.services.gate.enter_run(self._spawn)
        if around is not None:
            around._children[self] = None
        interruption: BaseException | None = None
        try:
            try:
                async with anyio.create_task_group() as self.tasks:
                    try:
                        self._begin()
                        if begun is not None:
                            begun()
                        await self._ended.wait()
                    finally:
                        run.start_spawned_of(self)
                        self.stop()
            finally:
                for holdings in reversed(tuple(self.steps)):
                    closing = run.resources.close_step(holdings, self.failure or interruption)
                    interruption = await closing or interruption
            if interruption is not None:
                raise interruption
            if self.failure is not None:
                raise self.failure
            return self._result
        finally:
            if around is not None:
                around._children.pop(self, None)
            run.services.gate.leave_run(self.session)
            self._let_go()
            del interruption

    def _begin(self) -> None:
        """Begin the evaluation, or have it begun before anything else is started."""
        strategy, structure = self._home.strategy, self._home.structure
        if strategy.is_prepared(structure, self._ref, True, NO_OVERRIDES):
            self._evaluate(None)
        else:
            # Not awaited here: others would go on meanwhile, or not, as time has it.
            strategy.prepare_then(structure, self._ref, NO_OVERRIDES, self._evaluate)

    def _evaluate(self, _: None) -> None:
        if self.is_over:
            return
        strategy = self._home.strategy
        try:
            evaluation = strategy.evaluation(
                self._home.structure, self._ref, self._home.data, around=self._home, place=self
            )
            evaluation.begin(self.finish)
            strategy.propagate()
        except Exception as error:
            self.fail(error, f"in {self.local_id(0)}, of run {strategy.run.id}")

    def finish(self, value: Any) -> None:
        """The evaluation has come to the list of its one member, or is skipped."""
        if self.is_over:
            return
        self.is_over = True
        self._result = value if isinstance(value, Skipped) else value[0]
        self._ended.set()
        if self._on_finish is not None and not isinstance(value, Skipped):
            self._on_finish(self)

    def stop(self) -> None:
        """Nothing starts in it any more, and what runs is cancelled."""
        self.start_no_more()
        self._home.strategy.run.services.gate.end_run(self.session)
        self._ended.set()
        self.tasks.cancel_scope.cancel()

    def start_no_more(self) -> None:
        """Nothing starts in it any more, nor in the scopes within it."""
        todo: list[EvaluationScope] = [self]
        for scope in todo:  # grows
            scope.is_over = True
            todo.extend(scope._children)

    def _spawn(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._home.strategy.run.spawn(function, self)

    def _let_go(self) -> None:
        """What belongs to it refers to no value, and to nothing around it, any more."""
        for place in self.places:
            place.release()
        self.places.clear()
        self.steps.clear()
        self.failure: BaseException | None = None
        self._result = self._on_finish = None
        self._later_failures = []

    # As a place

    @property
    def holdings(self) -> Holder:
        """Calls stand in the evaluation, which has holdings of its own."""
        return self._home.holdings

    def execution_of(self, index: int) -> tuple[int, ...]:
        """Which attempt of the group it is."""
        return (self._attempt,)

    def node(self, index: int) -> Node:
        """The public node of the group."""
        return self._home.node(self.parent_index)

    def local_id(self, index: int) -> str:
        """The id of the group, and which alternative it is."""
        return f"{self._home.local_id(self.parent_index)}{self._label}"

    def local_path(self, index: int) -> list[str]:
        """The path of the group."""
        return self._home.local_path(self.parent_index)


class _First:
    """Alternatives at the same time, until one of them has a value."""

    def __init__(self, home: EvaluationPlace, call: Call, refs: list[int]) -> None:
        self._name = call.slot.name
        self._scopes = [
            EvaluationScope(home, call, ref, f"[{number}]", self._won)
            for number, ref in enumerate(refs)
        ]
        self._winner: EvaluationScope | None = None
        self._value: Any = None
        self._failures: dict[int, Exception] = {}
        self._fatal: BaseException | None = None  # which no other alternative makes up for
        self._skipped: Skipped | None = None
        self._tasks: TaskGroup

    async def winner(self) -> Any:
        """The first value. Raises the failures of all, in the order given."""
        async with anyio.create_task_group() as self._tasks:
            self._start(0)
        # Nothing here refers to a failure any more, whose traceback refers to this frame.
        fatal, self._fatal = self._fatal, None
        failures, self._failures = self._failures, {}
        try:
            if fatal is not None:
                raise fatal
            if self._winner is None and failures:
                in_order = [failures[number] for number in sorted(failures)]
                raise ExceptionGroup(f"all of {self._name!r} failed", in_order)
        finally:
            del fatal, failures
        if self._winner is not None:
            return self._value
        assert self._skipped is not None
        return Omitted(self._skipped.because(BY_DATA, "expression"))

    def _start(self, number: int) -> None:
        """Start an alternative, which starts the next: so they begin in order on any event loop."""
        if number < len(self._scopes) and self._winner is None:
            self._tasks.start_soon(self._try, number, partial(self._start, number + 1))

    async def _try(self, number: int, start_next: Callable[[], None]) -> None:
        scope = self._scopes[number]
        try:
            value = await scope.value(start_next)
        except BaseException as error:
            if is_cancellation(error):
                raise
            if isinstance(error, Exception) and not ends_run(error):
                self._failures[number] = error
            else:
                self._fatal = self._fatal or error
                self._tasks.cancel_scope.cancel()
            return
        if isinstance(value, Skipped):
            self._skipped = self._skipped or value
        elif self._winner is scope:
            self._value = value
            self._tasks.cancel_scope.cancel()

    def _won(self, scope: EvaluationScope) -> None:
        """From here on, no attempt of another alternative starts."""
        if self._winner is not None:
            return
        self._winner = scope
        for other in self._scopes:
            if other is not scope:
                other.start_no_more()
