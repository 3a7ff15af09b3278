"""Executions that end with control instead of a value: loops, tail calls, returned expressions.

A `Trampoline` carries an owner, a node or a map item, from one such execution to the next. Each is
an evaluation of its own, begun when the one before it has ended, so that a loop takes constant
stack and memory. It is the same for both strategies, which bring the evaluations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from sys import maxsize
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cascade.core.processor import Call, is_control
from cascade.core.ready import Place
from cascade.core.run import SLICE, in_slices
from cascade.core.values import argument_place, arguments_by_name, deferred_names
from cascade.errors import (
    JumpKeyError,
    JumpNotBoundError,
    ResourceNotFoundError,
    StaticGraphError,
    StepLimitError,
    TargetNotFoundError,
)
from cascade.graph.plan import inputs_of
from cascade.graph.slices import Work
from cascade.graph.structure import TASK, Ref, Slot, Structure
from cascade.plain import brief
from cascade.workflow.expressions import NOTHING, Jump, Router, TailCall
from cascade.workflow.task import VARARGS

if TYPE_CHECKING:
    from cascade.core.holdings import Holdings
    from cascade.core.run import Run
    from cascade.graph.nodes import Node

T = TypeVar("T")

STEPS_BETWEEN_LOOKS: Final = 64  # at the clock
NO_OVERRIDES: Final[Mapping[Any, Any]] = {}


class Strategy:
    """What one run of a strategy offers to its evaluations."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.going_on: dict[Place, None] = {}  # what holds values: evaluations, items of maps
        self._is_propagating = False

    def loading(self, target: Any) -> Work[tuple[Structure, tuple[Any, ...]]]:
        """The structure and data of a target whose inputs and resources are all there."""
        structure, data = yield from self.run.engine.plans.loading(target)
        self.check(structure, data)
        return structure, data

    def check(self, structure: Structure, data: tuple[Any, ...]) -> None:
        """Raise unless all inputs and resources of a target are there."""
        if structure.inputs:
            self.run.inputs.declare(inputs_of(structure, data))
        for name in structure.resources:
            try:
                self.run.providers.ahead.set_up_order(name, "the target")
            except ResourceNotFoundError as error:
                if error.name != name:
                    raise
                who = structure.who_injects(name)
                raise ResourceNotFoundError(name, who, error.known) from None

    async def execute(self, target: Any, params: Mapping[str, Any]) -> Any:
        """Load `target` and compute it; errors in it come before anything runs."""
        structure, data = await in_slices(self.loading(target))
        return await self.execute_loaded(structure, data, params, type(target).__name__)

    async def execute_loaded(
        self, structure: Structure, data: tuple[Any, ...], params: Mapping[str, Any], name: str
    ) -> Any:
        """Compute the target of `structure`; `name` is for a target that is a literal."""
        run = self.run
        run.inputs.refuse_unknown()
        if not self.is_prepared(structure, structure.root, False, NO_OVERRIDES):
            await in_slices(self.preparing(structure, structure.root, False, NO_OVERRIDES))
        root = self.evaluation(structure, structure.root, data)
        if structure.root >= 0 and structure.slots[structure.root].is_node:
            name = structure.slots[structure.root].name

        def begin() -> None:
            root.begin(lambda value: run.finish(root.outcome(value)))
            self.propagate()

        try:
            return await run.execute(name, params, begin)
        finally:
            self.close()

    def close(self) -> None:
        """The run is over: what has not come to its end is let go of."""
        while self.going_on:
            place, _ = self.going_on.popitem()
            place.release()

    def is_prepared(
        self, structure: Structure, root: Ref, is_body: bool, overrides: Mapping[Any, Any]
    ) -> bool:
        """Whether evaluations of this kind can be made at once."""
        raise NotImplementedError

    def preparing(
        self, structure: Structure, root: Ref, is_body: bool, overrides: Mapping[Any, Any]
    ) -> Work[None]:
        """Make what the first evaluation of this kind needs."""
        raise NotImplementedError

    def evaluation(
        self,
        structure: Structure,
        root: Ref,
        data: tuple[Any, ...],
        trampoline: Trampoline | None = None,
        around: Any = None,
        overrides: Mapping[Any, Any] = NO_OVERRIDES,
    ) -> EvaluationPlace:
        """A new evaluation; an iteration if it has one `around`."""
        raise NotImplementedError

    def iterate(
        self, trampoline: Trampoline, home: Any, root: int, overrides: Mapping[Any, Any]
    ) -> None:
        """Begin the next iteration, at the slot `root`, of a loop that stands in `home`."""
        structure = home.structure
        if not self.is_prepared(structure, root, True, overrides):
            self.prepare_then(
                structure,
                root,
                overrides,
                lambda _: self.iterate(trampoline, home, root, overrides),
            )
            return
        evaluation = self.evaluation(structure, root, home.data, trampoline, home, overrides)
        evaluation.begin(trampoline.finish)

    def prepare_then(
        self,
        structure: Structure,
        root: int,
        overrides: Mapping[Any, Any],
        then: Callable[[None], None],
    ) -> None:
        """Prepare the first iteration at `root`, and go on."""
        work = self.preparing(structure, root, True, overrides)
        self.work(work, then, lambda error: self.run.fail(error, f"in run {self.run.id}"))

    def work(
        self, work: Work[T], then: Callable[[T], None], failed: Callable[[BaseException], None]
    ) -> None:
        """Do `work` and pass on what it gives; after a slice of time the rest is postponed.

        What it raises by then is raised here, later `failed` hears of it.
        """
        if self._work_on(work, then):
            self.run.postpone(partial(self._go_on, work, then, failed))

    def _go_on(
        self, work: Work[T], then: Callable[[T], None], failed: Callable[[BaseException], None]
    ) -> None:
        try:
            if self._work_on(work, then):
                self.run.postpone(partial(self._go_on, work, then, failed))
                return
        except Exception as error:
            failed(error)
        self.propagate()

    def _work_on(self, work: Work[T], then: Callable[[T], None]) -> bool:
        """Whether there is more to do when the slice of time is over."""
        try:
            while True:
                next(work)
                if perf_counter() >= self.run.slice_end:
                    return True
        except StopIteration as end:
            result: T = end.value
        then(result)
        return False

    def unfold(
        self,
        trampoline: Trampoline,
        structure: Structure,
        data: tuple[Any, ...],
        overrides: Mapping[Any, Any],
    ) -> None:
        """Begin to evaluate an expression that a task returned, or a registered target."""
        evaluation = self.evaluation(structure, structure.root, data, trampoline, None, overrides)
        trampoline.returned = evaluation
        evaluation.begin(trampoline.finish)

    def propagate(self) -> None:
        """Follow up what was settled, until only calls are left to wait for.

        After a slice of time the rest is postponed, so that others on the event loop get to run.
        """
        if self._is_propagating:
            return
        self._is_propagating = True
        run, step = self.run, self.step
        slice_end = 0.0
        steps = 0
        try:
            while not run.is_over and step():
                steps += 1
                if not steps % STEPS_BETWEEN_LOOKS:
                    now = perf_counter()
                    slice_end = slice_end or now + SLICE
                    if now >= slice_end:
                        run.postpone(self.propagate)
                        return
        except Exception as error:
            run.fail(error, f"in run {run.id}")
        finally:
            self._is_propagating = False

    def step(self) -> bool:
        """Follow up one thing; False if there is nothing left."""
        raise NotImplementedError


class EvaluationPlace(Place):
    """An evaluation, as trampolines and map items see it."""

    __slots__ = ()

    @property
    def structure(self) -> Structure:
        """The structure of which it computes a part."""
        raise NotImplementedError

    @property
    def data(self) -> tuple[Any, ...]:
        """The literals of the target, and of all its routes."""
        raise NotImplementedError

    @property
    def is_root(self) -> bool:
        """Whether it is no iteration: the evaluation of a whole target."""
        raise NotImplementedError

    def rank(self, index: int) -> int:
        """Where the slot at `index` stands in plan order."""
        raise NotImplementedError

    def is_body(self, index: int) -> bool:
        """Whether the node at `index` is what this iteration of a loop executes."""
        raise NotImplementedError

    def begin(self, on_end: Callable[[Any], None]) -> None:
        """Demand the target; `on_end` gets its value, or the Skipped it is."""
        raise NotImplementedError

    def leave(self, then: Callable[[], None]) -> None:
        """End without a value: what the target goes on with is the trampoline's."""
        raise NotImplementedError

    def outcome(self, value: Any) -> Any:
        """What a run, or a returned expression, makes of its target's value or being skipped."""
        raise NotImplementedError

    def settle_from(self, index: int, value: Any) -> None:
        """A loop or map brought the node at `index` to its value, or found it skipped."""
        raise NotImplementedError


class MapItems(Place):
    """The items of one map, by position: each is a call, or what its trampoline makes of it."""

    __slots__ = (
        "_evaluation",
        "_given",
        "_missing",
        "_results",
        "_slot",
        "_strategy",
        "_trampolines",
    )

    local_id_names_owner = True

    def __init__(
        self, strategy: Strategy, evaluation: EvaluationPlace, slot: Slot, rank: int
    ) -> None:
        super().__init__(evaluation, slot.index, rank)
        self._strategy = strategy
        self._evaluation = evaluation
        self._slot = slot
        self._results: list[Any] = []
        self._missing = 0
        self._trampolines: dict[int, Trampoline] = {}
        self._given: dict[int, frozenset[Any]] = {}  # what TailCalls of an item gave it, by name

    @property
    def holdings(self) -> Holdings:
        """Items belong to the evaluation of their map."""
        return self._evaluation.holdings

    def start(
        self,
        items: Mapping[str, list[Any]],
        constants: Mapping[str, Any],
        amounts: Mapping[str, Any],
    ) -> None:
        """Make all items ready, or settle an empty map at once."""
        self._missing = min(map(len, items.values()))
        self._results = [None] * self._missing
        if self._strategy.run.activity is not None:
            self._strategy.run.activity.mapped(self._slot.name, self._missing)
        if not self._missing:
            self._evaluation.settle_from(self._slot.index, [])
            return
        self._strategy.going_on[self] = None
        resources = deferred_names(constants.values())
        rows = enumerate(zip(*items.values(), strict=True))
        self._make_ready(rows, tuple(items), constants, amounts, resources)

    def _make_ready(
        self,
        rows: Iterator[tuple[int, tuple[Any, ...]]],
        names: tuple[str, ...],
        constants: Mapping[str, Any],
        amounts: Mapping[str, Any],
        resources: tuple[str, ...],
    ) -> None:
        """Make items ready until the slice of time is over; the rest follows later."""
        slice_end = perf_counter() + SLICE
        for position, values in rows:
            named = {**constants, **dict(zip(names, values, strict=True))}
            self._execute(position, named, amounts, resources)
            if not position % STEPS_BETWEEN_LOOKS and perf_counter() >= slice_end:
                rest = partial(self._make_ready, rows, names, constants, amounts, resources)
                self._strategy.run.postpone(rest)
                return

    def again(self, call: Call, overrides: Mapping[Any, Any]) -> None:
        """Execute an item anew with other arguments."""
        names = call.slot.task.parameters.positional
        named: dict[Any, Any] = {**dict(zip(names, call.args, strict=False)), **call.kwargs}
        rest = call.args[len(names) :]
        named = {**named, **({VARARGS: rest} if rest else {}), **overrides}
        self._given[call.index] = self._given.get(call.index, frozenset()).union(overrides)
        self._execute(call.index, named, call.amounts, deferred_names(named.values()))

    def _execute(
        self,
        position: int,
        named: Mapping[Any, Any],
        amounts: Mapping[str, Any],
        resources: tuple[str, ...],
    ) -> None:
        args, kwargs = arguments_by_name(self._slot.task, named)
        call = Call(self, position, position, self._slot, args, kwargs, amounts)
        call.resources = resources
        self._strategy.run.make_ready(call)

    def completed(self, call: Call, value: Any) -> None:
        """An item came to `value`, or to control."""
        if is_control(value):
            trampoline = self._trampolines.get(call.index)
            if trampoline is None:
                trampoline = Trampoline(self._strategy, self, call.index, call.rank)
                self._trampolines[call.index] = trampoline
            trampoline.go_on(call, value, None)
        else:
            self.settle_from(call.index, value)
        self._strategy.propagate()

    def settle_from(self, index: int, value: Any) -> None:
        """The item at `index` has its value."""
        self._trampolines.pop(index, None)
        self._given.pop(index, None)
        self._results[index] = value
        self._missing -= 1
        if self._strategy.run.activity is not None:
            self._strategy.run.activity.item_done(self._slot.name)
        if not self._missing:
            self._strategy.going_on.pop(self, None)
            results, self._results = self._results, []
            self._evaluation.settle_from(self._slot.index, results)

    def release(self) -> None:
        """Let go of all values, and of all that refers back: the run is over."""
        self._results = []
        self._trampolines.clear()

    def local_id(self, index: int) -> str:
        """The id of the item's node: the map's id, the position, and its place in the item."""
        owner = self._evaluation.local_id(self._slot.index)
        return f"{owner}[{index}]/{self._slot.name}#0"

    def node(self, index: int) -> Node:
        """The public node of the map."""
        return self._evaluation.node(self._slot.index)

    def injected(self, index: int) -> frozenset[int | str]:
        """The arguments that are injected resources: positions and keywords."""
        injected = self._evaluation.injected(self._slot.index)
        given = self._given.get(index, ())
        return injected.difference(argument_place(self._slot.task, name) for name in given)

    def local_path(self, index: int) -> list[str]:
        """The item's id, and then the path of its map."""
        return [self.local_id(index), *self._evaluation.local_path(self._slot.index)]


class Trampoline:
    """Carries an owner through executions that end with control instead of a value.

    `home` is the evaluation in which the routes of the current loop stand. `returned` is the
    evaluation of the last returned expression; `_loop` the slot of it that is being looped, if
    its target is a loop.
    """

    __slots__ = (
        "_calls",
        "_home",
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
        place: EvaluationPlace | MapItems,
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
            assert isinstance(self.place, MapItems)
            self._count_call(arguments)
            self.place.again(call, overrides)

    def _call_target(self, tail: TailCall, call: Call) -> None:
        assert tail.target is not None
        targets = self._strategy.run.engine.targets
        if tail.target not in targets:
            raise TargetNotFoundError(tail.target, tuple(targets))
        target = targets[tail.target]
        self._count_call((tail.args, dict(tail.kwargs)))
        self._leave_loop_then(lambda: self._evaluate_target(target, tail, call))

    def _follow(self, call: Call, expression: Any) -> None:
        """A returned expression: an evaluation of its own, in the owner's place."""
        if self._strategy.run.engine.tail_calls == "forbid":
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
        self._strategy.iterate(self, home, root, overrides)

    def count(self, is_bound: bool, executions: int) -> None:
        """So many executions were done elsewhere: of a loop, or of a chain of tail calls."""
        if is_bound:
            self._steps += executions
        else:
            self._calls += executions

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
            self._home.settle_from(loop.index, value)
            return
        if self.returned is not None:
            value = self.returned.outcome(value)
        self._home = self.returned = None  # which refer to this trampoline
        self.place.settle_from(self.index, value)


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
