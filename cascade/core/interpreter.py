"""The graph strategy: the contract, executed demand by demand. The executable specification.

An `Evaluation` computes one target once. It keeps, by slot: the values that are settled, who waits
for which, how many a waiting slot still waits for, and at which step a node with conditions
stands. Demand goes down and values come up through two lists of the `Interpretation`, never by
recursion, so depth is unlimited.

Loops, tail calls, returned expressions and map items are in `trampoline.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from cascade.core.calls import Place, is_gone
from cascade.core.evaluation import PlannedEvaluation
from cascade.core.strategy import NO_OVERRIDES, Carrier, Strategy
from cascade.core.values import (
    BY_CONDITION,
    BY_DATA,
    BY_ROUTE,
    CONDITION_FALSE,
    RELEASED,
    Deferred,
    Skipped,
    open_slots,
    overridden,
)
from cascade.graph.plan import Plan
from cascade.graph.slices import Work
from cascade.graph.structure import (
    DICT,
    LIST,
    MAP,
    PARAM,
    RESOURCE,
    ROUTER,
    TASK,
    TUPLE,
    Ref,
    Slot,
    Structure,
)

if TYPE_CHECKING:
    from cascade.core.run import Run

Step = Callable[["Evaluation", Slot], None]


class GraphExecutionStrategy:
    """Interprets the graph of a target: obvious and correct."""

    async def execute(self, run: Run, target: Any, params: Mapping[str, Any]) -> Any:
        """The value of `target`, computed within `run`; errors in it come before anything runs."""
        return await Interpretation(run).execute(target, params)


class Interpretation(Strategy):
    """What the evaluations of one run work through: slots demanded, and slots settled."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.demanded: list[tuple[Evaluation, int]] = []
        self.settled: list[tuple[Evaluation, int]] = []
        self.recorded = 0  # what evaluations still going on have in the state backend

    def is_prepared(
        self, structure: Structure, root: Ref, is_body: bool, overrides: Mapping[Any, Any]
    ) -> bool:
        """Whether there is a plan from `root`."""
        return root in structure.plans

    def preparing(
        self, structure: Structure, root: Ref, is_body: bool, overrides: Mapping[Any, Any]
    ) -> Work[None]:
        """Make a plan from `root`."""
        if is_body:
            registry = self.run.resources.providers.ahead
            yield from structure.find_invariants(registry.narrow(structure.resources))
        yield from self.run.services.plans.planning(structure, root)

    def evaluation(
        self,
        structure: Structure,
        root: Ref,
        data: tuple[Any, ...],
        trampoline: Carrier | None = None,
        around: Any = None,
        overrides: Mapping[Any, Any] = NO_OVERRIDES,
        place: Place | None = None,
    ) -> Evaluation:
        """A new evaluation; an iteration if it has one `around`."""
        plan = self.run.services.plans.plan(structure, root)
        return Evaluation(self, plan, data, trampoline, around, overrides, place)

    def step(self) -> bool:
        """Follow one value up, or else one demand down."""
        if self.settled:
            evaluation, index = self.settled.pop()
            if not is_gone(evaluation):
                evaluation.spread(index)
        elif self.demanded:
            evaluation, index = self.demanded.pop()
            if not is_gone(evaluation):
                evaluation.demand(index)
        else:
            return False
        return True

    def close(self) -> None:
        """The run is over."""
        self.demanded.clear()
        self.settled.clear()
        super().close()

    def clear_record_then(self, then: Callable[[], None]) -> None:
        """Between two evaluations, when nothing recorded belongs to one that goes on."""

        async def clear() -> None:
            backend = self.run.services.state_backend
            assert backend is not None
            await backend.clear()
            then()
            self.propagate()

        self.run.spawn(clear)


class Evaluation(PlannedEvaluation):
    """An evaluation that keeps its values, and who waits for them, in dictionaries by slot."""

    __slots__ = ("_interpretation", "_next", "_readers", "_recorded", "_values", "_waiting")

    def __init__(
        self,
        interpretation: Interpretation,
        plan: Plan,
        data: tuple[Any, ...],
        trampoline: Carrier | None = None,
        around: Evaluation | None = None,
        overrides: Mapping[Any, Any] = NO_OVERRIDES,
        place: Place | None = None,
    ) -> None:
        super().__init__(interpretation, plan, data, trampoline, around, overrides, place)
        self._interpretation = interpretation
        self._recorded = 0  # results and skips in the state backend
        self._values: dict[int, Any] = {}
        self._readers: dict[int, list[int | tuple[Evaluation | _Listener, int]]] = {}
        self._waiting: dict[int, int] = {}
        # What a slot goes on with when all that it waits for is there, unless that is its inputs.
        self._next: dict[int, Step] = {}

    # Beginning and leaving

    def leave(self, then: Callable[[], None]) -> None:
        """End without a value; the record is cleared if nothing around needs it."""
        strategy = self._interpretation
        strategy.recorded -= self._recorded
        if self._recorded and not strategy.recorded:
            super().leave(lambda: strategy.clear_record_then(then))
        else:
            super().leave(then)

    def begin(self, on_end: Callable[[Any], None]) -> None:
        """Demand the target; `on_end` gets its value, or the Skipped it is."""
        if self._plan.root < 0:
            on_end(self.data[~self._plan.root])
            return
        self._begin(on_end)
        self._interpretation.demanded.append((self, self._plan.root))

    def release(self) -> None:
        """Let go of all values, and of all that refers back: the run is over."""
        super().release()
        self._values.clear()
        self._readers.clear()

    # Demand

    def demand(self, index: int) -> None:
        """Somebody needs the value of this slot, for the first time in this evaluation."""
        if index < 0 and self._has_come(~index):
            self._settle(index, self._kept(~index))
        elif index < 0:
            assert self._around is not None
            self._alias(index, self._around, ~index)
        elif index in self._shared and index != self._plan.root:
            self._alias(index, self._root, index)
        else:
            slot = self._slots[index]
            self._guarded(_DEMAND[slot.kind], slot)

    def _alias(self, index: int, home: Evaluation, there: int) -> None:
        """The value of a slot that belongs to an evaluation around this one."""
        if there in home._values:
            self._settle(index, home._values[there])
        elif there in home._readers:
            home._readers[there].append((self, index))
        else:
            home._readers[there] = [(self, index)]
            self._interpretation.demanded.append((home, there))

    def on_settled(self, index: int, then: Callable[[Any], None]) -> None:
        if index in self._values:
            then(self._values[index])
        elif index in self._readers:
            self._readers[index].append((_Listener(then), index))
        else:
            self._readers[index] = [(_Listener(then), index)]
            self._interpretation.demanded.append((self, index))

    def _need(self, index: int, reader: int) -> int:
        """Have `reader` told when the slot is settled; 1 if that is still to come, else 0."""
        if index in self._values:
            return 0
        readers = self._readers.get(index)
        if readers is None:
            self._readers[index] = [reader]
            self._interpretation.demanded.append((self, index))
        else:
            readers.append(reader)
        return 1

    def _need_all(self, slot: Slot, indices: tuple[int, ...]) -> None:
        missing = 0
        for index in reversed(indices):  # what is demanded last is followed up first
            missing += self._need(index, slot.index)
        if missing:
            self._waiting[slot.index] = missing
        else:
            self._arrived(slot)

    def _demand_node(self, slot: Slot) -> None:
        if slot.index == self._body and slot.after:
            # Predecessors of a route belong to the evaluation around the loop, and come first.
            self._next[slot.index] = Evaluation._predecessors_arrived
            self._need_all(slot, tuple([~index for index in slot.after]))
        elif slot.bound is not None and slot.index != self._body:
            self._enter_loop(slot)
        else:
            self._demand_conditions(slot)

    def _demand_conditions(self, slot: Slot) -> None:
        if slot.conditions:
            self._check_conditions(slot)
        else:
            self._demand_inputs(slot)

    def _demand_inputs(self, slot: Slot) -> None:
        arguments = slot.argument_slots
        if self._overrides and slot.index == self._plan.root:
            arguments = open_slots(slot, self._overrides)
        after = () if slot.index == self._body else slot.after
        self._need_all(slot, (*after, *arguments, *slot.amount_slots))
        if slot.flowing and slot.index in self._waiting:
            self._begin_flow(slot)

    def _demand_router(self, slot: Slot) -> None:
        assert slot.selector is not None
        self._next[slot.index] = Evaluation._choose_route
        self._need_all(slot, () if slot.selector < 0 else (slot.selector,))

    def _demand_container(self, slot: Slot) -> None:
        self._need_all(slot, slot.argument_slots)

    # Values

    def _settle(self, index: int, value: Any) -> None:
        self._values[index] = value
        if index in self._needs:
            self._let_go_of_needs(index)
        self._interpretation.settled.append((self, index))

    def spread(self, index: int) -> None:
        """Tell those who wait for the slot that it is settled."""
        value = self._values[index]  # which the first reader may let go of
        for reader in self._readers.pop(index, ()):
            if isinstance(reader, int):
                missing = self._waiting[reader] - 1
                if missing:
                    self._waiting[reader] = missing
                else:
                    del self._waiting[reader]
                    self._arrived(self._slots[reader])
            else:
                listener, alias = reader
                listener._settle(alias, value)
        if index == self._plan.root:
            self._end(value)

    def _arrived(self, slot: Slot) -> None:
        """All that the slot waited for is settled."""
        index = slot.index
        step = self._next.pop(index) if index in self._next else _ARRIVED[slot.kind]
        self._guarded(step, slot)

    def _guarded(self, step: Step, slot: Slot) -> None:
        """Take a step of the slot; what it raises is the slot's failure, and ends the run."""
        try:
            step(self, slot)
        except Exception as error:
            self.failed_at(slot, error)

    def _value(self, ref: Ref) -> Any:
        return self.data[~ref] if ref < 0 else self._values[ref]

    def _peek(self, index: int) -> Any:
        return self._values.get(index)

    def _is_settled(self, index: int) -> bool:
        return index in self._values

    def _was_demanded(self, index: int) -> bool:
        return index in self._values or index in self._readers

    def _drop(self, index: int) -> bool:
        if index in self._values:
            self._values[index] = RELEASED
            return True
        return False

    # Nodes: conditions, then inputs, then the call

    def _node_arrived(self, slot: Slot) -> None:
        if slot.bound is not None and slot.index != self._body:
            self._enter_loop(slot)
            return
        skipped = self._skipped_by_inputs(slot)
        if skipped is not None:
            self._skip_node(slot, skipped)
        elif slot.kind is MAP:
            self._start_map(slot)
        else:
            self._start_task(slot)

    def _enter_after(self, slot: Slot, missing: list[int]) -> None:
        self._need_all(slot, tuple(missing))

    def _predecessors_arrived(self, slot: Slot) -> None:
        """What had to come before the first iteration is there."""
        skipped = self._skipped_predecessor(slot)
        if skipped is None:
            self._demand_conditions(slot)
        else:
            self._skip(slot, skipped)

    def _check_conditions(self, slot: Slot, first: int = 0) -> None:
        """Demand the conditions one after the other, up to the first that does not hold."""
        for number in range(first, len(slot.conditions)):
            ref = slot.conditions[number]
            if ref >= 0 and self._need(ref, slot.index):
                self._waiting[slot.index] = 1
                self._next[slot.index] = partial(Evaluation._check_conditions, first=number)
                return
            condition = self._value(ref)
            if isinstance(condition, Skipped):
                self._skip(slot, condition.because(BY_CONDITION, "condition"))
                return
            if isinstance(condition, Deferred):
                raise condition.refused(f"a condition of task {slot.name!r}")
            if not condition:
                self._condition_false(slot)
                return
        self._demand_inputs(slot)

    def _condition_false(self, slot: Slot) -> None:
        if slot.default is None:
            self._skip_condition_false(slot)
        else:
            self._next[slot.index] = Evaluation._take_default
            self._need_all(slot, (slot.default,) if slot.default >= 0 else ())

    def _take_default(self, slot: Slot) -> None:
        assert slot.default is not None
        value = self._value(slot.default)
        if isinstance(value, Skipped):
            self._skip(slot, value.because(BY_DATA, "default"))
        else:
            self._publish_skipped(slot, CONDITION_FALSE)
            self.settle_from(slot.index, value)

    def _start_task(self, slot: Slot) -> None:
        values, data = self._values, self.data
        if slot.index == self._plan.root and self._overrides:
            args, kwargs = overridden(slot, self._overrides, self._value)
        else:
            args = tuple([data[~ref] if ref < 0 else values[ref] for ref in slot.args])
            kwargs = {name: self._value(ref) for name, ref in slot.kwargs} if slot.kwargs else {}
        self._interpretation.run.make_ready(self._call(slot, args, kwargs))

    def _conclude(self, slot: Slot, value: Any) -> None:
        """The node has its value: recorded first, if somebody records."""
        backend = self._interpretation.run.services.state_backend
        if backend is None:
            self._settle(slot.index, value)
        else:
            self._record(backend.put_result, slot, value, value)

    # Routers

    def _take_route(self, slot: Slot) -> None:
        assert self._chosen is not None
        value = self._values[self._chosen[slot.index]]
        if isinstance(value, Skipped):
            value = value.because(BY_ROUTE, "route")
        self._settle(slot.index, value)

    def _choose_route(self, slot: Slot) -> None:
        assert slot.selector is not None
        key = self._value(slot.selector)
        if isinstance(key, Skipped):
            self._settle(slot.index, key.because(BY_DATA, "selector"))
            return
        ref = self._choose(slot, key)
        if ref < 0:
            self._settle(slot.index, self.data[~ref])
        else:
            self._next[slot.index] = Evaluation._take_route
            self._need_all(slot, (ref,))

    # Containers

    def _container_arrived(self, slot: Slot) -> None:
        members = tuple([self._value(ref) for ref in slot.members])
        self._settle(slot.index, self._contained(slot, members))

    # Skipping

    def _record_skip(self, slot: Slot, skipped: Skipped) -> None:
        backend = self._interpretation.run.services.state_backend
        if backend is None:
            self._settle(slot.index, skipped)
        else:
            self._record(backend.mark_skipped, slot, skipped.reason, skipped)

    def _record(self, write: Any, slot: Slot, record: Any, value: Any) -> None:
        self._recorded += 1
        self._interpretation.recorded += 1

        async def recorded() -> None:
            await write(self.task_id(slot.index), record)
            self._settle(slot.index, value)
            self._interpretation.propagate()

        self._interpretation.run.spawn(recorded, self.scope)


class _Listener:
    """Whoever waits for a slot, and is no reader that has a slot of its own."""

    __slots__ = ("_then",)

    def __init__(self, then: Callable[[Any], None]) -> None:
        self._then = then

    def _settle(self, _: int, value: Any) -> None:
        self._then(value)


_DEMAND: dict[str, Step] = {
    TASK: Evaluation._demand_node,
    MAP: Evaluation._demand_node,
    ROUTER: Evaluation._demand_router,
    LIST: Evaluation._demand_container,
    TUPLE: Evaluation._demand_container,
    DICT: Evaluation._demand_container,
    PARAM: Evaluation._demand_input,
    RESOURCE: Evaluation._demand_resource,
}
_ARRIVED: dict[str, Step] = {
    TASK: Evaluation._node_arrived,
    MAP: Evaluation._node_arrived,
    LIST: Evaluation._container_arrived,
    TUPLE: Evaluation._container_arrived,
    DICT: Evaluation._container_arrived,
}
