"""The graph strategy: the contract, executed demand by demand. The executable specification.

An `Evaluation` computes one target once. It keeps, by slot: the values that are settled, who waits
for which, how many a waiting slot still waits for, and at which step a node with conditions
stands. Demand goes down and values come up through two lists of the `Interpretation`, never by
recursion, so depth is unlimited.

Loops, tail calls, returned expressions and map items are in `trampoline.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from anyio import current_time

from cascade.errors import (
    DependencyMissingError,
    RouteNotFoundError,
)
from cascade.events import TaskSkipped
from cascade.expressions import check_amount
from cascade.plan import Plan
from cascade.processor import CONTROL, Call
from cascade.structure import (
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
from cascade.task import check_iterable, check_lengths
from cascade.trampoline import NO_OVERRIDES, EvaluationPlace, MapItems, Strategy, Trampoline
from cascade.values import (
    Deferred,
    Skipped,
    argument_name,
    build,
    deferred_names,
    open_slots,
    overridden,
)

if TYPE_CHECKING:
    from cascade.graph import Node
    from cascade.holdings import Holdings
    from cascade.run import Run

CONDITION_FALSE: Final = "ConditionFalse"
BY_CONDITION: Final = "UpstreamSkipped_Condition"
BY_SEQUENCE: Final = "UpstreamSkipped_Sequence"
BY_DATA: Final = "UpstreamSkipped_Data"
BY_ROUTE: Final = "UpstreamSkipped_Route"
PRUNED: Final = "Pruned"

# The step of a node is the number of the condition that it waits for, or one of these.
_DEFAULT: Final = -1
_PREDECESSORS: Final = -2
_NO_AMOUNTS: Final[Mapping[str, Any]] = {}
_NOTHING_SHARED: Final[frozenset[int]] = frozenset()


class GraphExecutionStrategy:
    """Interprets the graph of a target: obvious and correct."""

    async def execute(self, run: Run, target: Any, params: Mapping[str, Any]) -> Any:
        """The value of `target`, computed within `run`; errors in it come before anything runs."""
        interpretation = Interpretation(run)
        structure, data = interpretation.load(target)
        run.inputs.refuse_unknown()
        root = Evaluation(interpretation, run.engine.plans.plan(structure, structure.root), data)
        name = (
            structure.slots[structure.root].name if structure.root >= 0 else type(target).__name__
        )

        def begin() -> None:
            root.begin(lambda value: run.finish(root.outcome(value)))
            interpretation.propagate()

        return await run.execute(name, params, begin)


class Interpretation(Strategy):
    """What the evaluations of one run work through: slots demanded, and slots settled."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.demanded: list[tuple[Evaluation, int]] = []
        self.settled: list[tuple[Evaluation, int]] = []
        self.recorded = 0  # what evaluations still going on have in the state backend
        self._is_propagating = False

    def clear_record_then(self, then: Callable[[], None]) -> None:
        """Between two evaluations, when nothing recorded belongs to one that goes on."""

        async def clear() -> None:
            backend = self.run.engine.state_backend
            assert backend is not None
            await backend.clear()
            then()
            self.propagate()

        self.run.spawn(clear)

    def evaluation(
        self,
        plan: Plan,
        data: tuple[Any, ...],
        trampoline: Trampoline | None = None,
        around: Evaluation | None = None,
        overrides: Mapping[Any, Any] = NO_OVERRIDES,
    ) -> Evaluation:
        """A new evaluation; an iteration if it has one `around`."""
        return Evaluation(self, plan, data, trampoline, around, overrides)

    def propagate(self) -> None:
        """Follow demands down and values up until only calls are left to wait for."""
        if self._is_propagating:
            return
        self._is_propagating = True
        demanded, settled = self.demanded, self.settled
        try:
            while not self.run.is_over:
                if settled:
                    evaluation, index = settled.pop()
                    evaluation.spread(index)
                elif demanded:
                    evaluation, index = demanded.pop()
                    evaluation.demand(index)
                else:
                    return
        except Exception as error:
            self.run.fail(error, f"in run {self.run.id}")
        finally:
            self._is_propagating = False


class Evaluation(EvaluationPlace):
    """One target computed once: a run's, a returned expression's, or one iteration of a loop."""

    __slots__ = (
        "_around",
        "_body",
        "_chosen",
        "_data",
        "_holdings",
        "_interpretation",
        "_invariant",
        "_on_end",
        "_overrides",
        "_plan",
        "_readers",
        "_recorded",
        "_root",
        "_shared",
        "_slots",
        "_steps",
        "_tail",
        "_trampoline",
        "_unchosen",
        "_values",
        "_waiting",
    )

    def __init__(
        self,
        interpretation: Interpretation,
        plan: Plan,
        data: tuple[Any, ...],
        trampoline: Trampoline | None = None,
        around: Evaluation | None = None,
        overrides: Mapping[Any, Any] = NO_OVERRIDES,
    ) -> None:
        if trampoline is None:
            super().__init__(None, 0, 0)
        else:
            super().__init__(trampoline.place, trampoline.index, trampoline.rank)
        self._interpretation = interpretation
        self._plan = plan
        self._slots = plan.structure.slots
        self._data = data
        self._trampoline = trampoline  # which goes on if the target ends with control
        self._around = around  # of an iteration: the evaluation in which its loop stands
        self._root: Evaluation = self if around is None else around._root
        self._body: Ref | None = None if around is None else plan.root
        self._invariant: frozenset[int] | None = None
        self._shared = _NOTHING_SHARED if around is None else self._root._invariants()
        self._overrides = overrides  # of the target's own arguments
        self._tail: Ref = plan.root
        self._on_end: Callable[[Any], None] = _not_begun
        self._holdings: Holdings | None = None
        self._values: dict[int, Any] = {}
        self._readers: dict[int, list[int | tuple[Evaluation, int]]] = {}
        self._waiting: dict[int, int] = {}
        self._steps: dict[int, int] = {}
        self._chosen: dict[int, Ref] = {}
        self._recorded = 0  # results and skips in the state backend
        self._unchosen: set[Ref] = set()  # what the routes that were not chosen lead to

    def _invariants(self) -> frozenset[int]:
        """The slots that all iterations in this target share."""
        if self._invariant is None:
            registry = self._interpretation.run.engine.resources
            structure = self._plan.structure
            self._invariant = structure.invariants(registry.narrow(structure.resources))
        return self._invariant

    @property
    def structure(self) -> Structure:
        """The structure of which this evaluation computes a part."""
        return self._plan.structure

    @property
    def data(self) -> tuple[Any, ...]:
        """The literals of the target, and of all its routes."""
        return self._data

    @property
    def is_root(self) -> bool:
        """Whether it is no iteration: the evaluation of a whole target."""
        return self._around is None

    def is_body(self, index: int) -> bool:
        """Whether the node at `index` is what this iteration of a loop executes."""
        return index == self._body

    # Beginning and ending

    def begin(self, on_end: Callable[[Any], None]) -> None:
        """Demand the target; `on_end` gets its value, or the Skipped it is."""
        self._on_end = on_end
        if self._plan.root < 0:
            on_end(self._data[~self._plan.root])
        else:
            self._interpretation.demanded.append((self, self._plan.root))

    def _end(self, value: Any) -> None:
        """The target is settled: report what was pruned, tear down, and pass the value on."""
        self._report_pruned()
        on_end = self._on_end
        if self._holdings:
            self._interpretation.run.spawn(lambda: self._close_then(on_end, value))
        else:
            on_end(value)

    async def _close_then(self, on_end: Callable[[Any], None], value: Any) -> None:
        assert self._holdings is not None
        await self._interpretation.run.close_holdings(self._holdings)
        on_end(value)
        self._interpretation.propagate()

    def outcome(self, value: Any) -> Any:
        """What a run, or a returned expression, makes of its target's value or being skipped."""
        if isinstance(value, Deferred):
            raise value.refused("the target")
        if not isinstance(value, Skipped):
            return value
        if value.reason == BY_SEQUENCE:
            return None
        raise DependencyMissingError(
            self._name_of_target(), value.argument, value.origin, value.origin_reason
        )

    def _name_of_target(self) -> str:
        slot = self._slots[self._plan.root]
        return self.task_id(slot.index) if slot.is_node else f"the target ({slot.name})"

    # Demand

    def demand(self, index: int) -> None:
        """Somebody needs the value of this slot, for the first time in this evaluation."""
        if index < 0:
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
            self._steps[slot.index] = _PREDECESSORS
            self._need_all(slot, tuple([~index for index in slot.after]))
        elif slot.bound is not None and slot.index != self._body:
            self._enter_loop(slot)
        else:
            self._demand_conditions(slot)

    def _demand_conditions(self, slot: Slot) -> None:
        if slot.conditions:
            self._steps[slot.index] = 0
            self._check_conditions(slot)
        else:
            self._demand_inputs(slot)

    def _demand_inputs(self, slot: Slot) -> None:
        arguments = slot.argument_slots
        if self._overrides and slot.index == self._plan.root:
            arguments = open_slots(slot, self._overrides)
        after = () if slot.index == self._body else slot.after
        self._need_all(slot, (*after, *arguments, *slot.amount_slots))

    def _demand_router(self, slot: Slot) -> None:
        assert slot.selector is not None
        self._steps[slot.index] = 0
        self._need_all(slot, () if slot.selector < 0 else (slot.selector,))

    def _demand_container(self, slot: Slot) -> None:
        self._need_all(slot, slot.argument_slots)

    def _demand_input(self, slot: Slot) -> None:
        self._settle(slot.index, self._interpretation.run.inputs.value(self._data[~slot.data]))

    def _demand_resource(self, slot: Slot) -> None:
        run = self._interpretation.run
        definition = run.engine.resources.find(slot.name, "the target")
        if definition.scope == "task":
            self._settle(slot.index, Deferred(slot))
            return
        holdings = run.holdings if definition.scope == "run" else self.holdings
        ready = holdings.ready(slot.name)
        if ready is not None:
            self._settle(slot.index, ready.value)
        else:
            run.spawn(lambda: self._obtain(slot, holdings))

    async def _obtain(self, slot: Slot, holdings: Holdings) -> None:
        registry = self._interpretation.run.engine.resources
        value = await holdings.obtain(registry.set_up_order(slot.name, "the target"))
        self._settle(slot.index, value)
        self._interpretation.propagate()

    @property
    def holdings(self) -> Holdings:
        """Where the step resources of this evaluation are held, made when there is one."""
        if self._holdings is None:
            self._holdings = self._interpretation.run.step_holdings()
        return self._holdings

    # Values

    def _settle(self, index: int, value: Any) -> None:
        self._values[index] = value
        self._interpretation.settled.append((self, index))

    def spread(self, index: int) -> None:
        """Tell those who wait for the slot that it is settled."""
        for reader in self._readers.pop(index, ()):
            if isinstance(reader, int):
                missing = self._waiting[reader] - 1
                if missing:
                    self._waiting[reader] = missing
                else:
                    del self._waiting[reader]
                    self._arrived(self._slots[reader])
            else:
                evaluation, alias = reader
                evaluation._settle(alias, self._values[index])
        if index == self._plan.root:
            self._end(self._values[index])

    def _arrived(self, slot: Slot) -> None:
        """All that the slot waited for is settled."""
        self._guarded(_ARRIVED[slot.kind], slot)

    def _guarded(self, step: Callable[[Evaluation, Slot], None], slot: Slot) -> None:
        """Take a step of the slot; what it raises is the slot's failure, and ends the run."""
        try:
            step(self, slot)
        except Exception as error:
            path = " -> ".join(self.path(slot.index))
            run = self._interpretation.run
            run.fail(error, f"in {slot.kind} {slot.name!r} ({path}), of run {run.id}")

    def _value(self, ref: Ref) -> Any:
        return self._data[~ref] if ref < 0 else self._values[ref]

    # Nodes: conditions, then inputs, then the call

    def _node_arrived(self, slot: Slot) -> None:
        if slot.index in self._steps:
            if self._steps[slot.index] == _PREDECESSORS:
                self._predecessors_arrived(slot)
            else:
                self._check_conditions(slot)
            return
        skipped = self._skipped_by_inputs(slot)
        if skipped is not None:
            self._skip(slot, skipped)
        elif slot.kind is MAP:
            self._start_map(slot)
        else:
            self._start_task(slot)

    def _predecessors_arrived(self, slot: Slot) -> None:
        """What had to come before the first iteration is there."""
        del self._steps[slot.index]
        skipped = self._skipped_predecessor(slot)
        if skipped is None:
            self._demand_conditions(slot)
        else:
            self._skip(slot, skipped)

    def _skipped_predecessor(self, slot: Slot) -> Skipped | None:
        is_body = slot.index == self._body
        for index in slot.after:
            value = self._values[~index if is_body else index]
            if value.__class__ is Skipped:
                return value.because(BY_SEQUENCE, "predecessor")
        return None

    def _check_conditions(self, slot: Slot) -> None:
        """Demand the conditions one after the other, up to the first that does not hold."""
        step = self._steps[slot.index]
        while step != _DEFAULT and step < len(slot.conditions):
            ref = slot.conditions[step]
            self._steps[slot.index] = step
            if ref >= 0 and self._need(ref, slot.index):
                self._waiting[slot.index] = 1
                return
            condition = self._value(ref)
            if isinstance(condition, Skipped):
                del self._steps[slot.index]
                self._skip(slot, condition.because(BY_CONDITION, "condition"))
                return
            if isinstance(condition, Deferred):
                raise condition.refused(f"a condition of task {slot.name!r}")
            if not condition:
                self._condition_false(slot)
                return
            step += 1
        del self._steps[slot.index]
        if step == _DEFAULT:
            self._take_default(slot)
        else:
            self._demand_inputs(slot)

    def _condition_false(self, slot: Slot) -> None:
        if slot.default is None:
            self._publish_skipped(slot, CONDITION_FALSE)
            own_id = self.task_id(slot.index)
            del self._steps[slot.index]
            skipped = Skipped(CONDITION_FALSE, own_id, CONDITION_FALSE, "condition")
            self._record_skip(slot, skipped)
        else:
            self._steps[slot.index] = _DEFAULT
            self._need_all(slot, (slot.default,) if slot.default >= 0 else ())

    def _take_default(self, slot: Slot) -> None:
        assert slot.default is not None
        value = self._value(slot.default)
        if isinstance(value, Skipped):
            self._skip(slot, value.because(BY_DATA, "default"))
        else:
            self._publish_skipped(slot, CONDITION_FALSE)
            self._conclude(slot, value)

    def _skipped_by_inputs(self, slot: Slot) -> Skipped | None:
        """The first reason in the order of the contract for which the slot is skipped."""
        values = self._values
        if slot.after:
            skipped = self._skipped_predecessor(slot)
            if skipped is not None:
                return skipped
        for index in slot.argument_slots:
            value = values.get(index)
            if value.__class__ is Skipped:
                return value.because(self._reason_through(index, value), argument_name(slot, index))
        for index in slot.amount_slots:
            value = values[index]
            if value.__class__ is Skipped:
                return value.because(BY_DATA, "amount")
        return None

    def _reason_through(self, index: int, skipped: Skipped) -> str:
        """Containers and Routers are no nodes: what they lack is the reason of who needs them."""
        return BY_DATA if self._slots[index].is_node else skipped.reason

    def _start_task(self, slot: Slot) -> None:
        values, data = self._values, self._data
        if slot.index == self._plan.root and self._overrides:
            args, kwargs = overridden(slot, self._overrides, self._value)
        else:
            args = tuple([data[~ref] if ref < 0 else values[ref] for ref in slot.args])
            kwargs = {name: self._value(ref) for name, ref in slot.kwargs} if slot.kwargs else {}
        amounts = self._amounts(slot) if slot.amounts else _NO_AMOUNTS
        rank = self._plan.rank[slot.index]
        call = Call(self, slot.index, rank, slot, args, kwargs, amounts)
        if self._plan.structure.resources:
            call.resources = deferred_names((*args, *kwargs.values()))
        self._interpretation.run.make_ready(call)

    def _amounts(self, slot: Slot) -> dict[str, Any]:
        amounts = {
            name: self._values[value] if kind is None else value
            for name, kind, value in slot.amounts
        }
        for name, amount in amounts.items():
            check_amount(slot.name, name, amount)
        return amounts

    def _start_map(self, slot: Slot) -> None:
        given = {name: self._value(ref) for name, ref in slot.kwargs}
        for name in slot.iterables:
            if isinstance(given[name], Deferred):
                raise given[name].refused(f"the map of task {slot.name!r} over {name!r}")
            check_iterable(slot.name, name, given[name])
        items = {name: list(given.pop(name)) for name in slot.iterables}
        check_lengths(slot.name, {name: len(values) for name, values in items.items()})
        amounts = self._amounts(slot) if slot.amounts else _NO_AMOUNTS
        rank = self._plan.rank[slot.index]
        MapItems(self._interpretation, self, slot, rank).start(items, given, amounts)

    def completed(self, call: Call, value: Any) -> None:
        """The call of a node of this evaluation came to `value`, or to control."""
        if isinstance(value, CONTROL):
            self._control(call, value)
        else:
            self._conclude(call.slot, value)
        self._interpretation.propagate()

    def _control(self, call: Call, control: Any) -> None:
        trampoline = self._trampoline
        if trampoline is not None and call.index == self._tail:
            self.leave(lambda: trampoline.go_on(call, control, self))
        else:
            Trampoline(self._interpretation, self, call.index, call.rank, self).go_on(
                call, control, self
            )

    def leave(self, then: Callable[[], None]) -> None:
        """End without a value: what the target goes on with is the trampoline's."""
        strategy = self._interpretation
        strategy.recorded -= self._recorded
        if self._recorded and not strategy.recorded:
            self._on_end = lambda _: strategy.clear_record_then(then)
        else:
            self._on_end = lambda _: then()
        self._end(None)

    def _enter_loop(self, slot: Slot) -> None:
        trampoline = self._trampoline
        overrides = self._overrides if slot.index == self._plan.root else NO_OVERRIDES
        if trampoline is None or slot.index != self._tail:
            rank = self._plan.rank[slot.index]
            Trampoline(self._interpretation, self, slot.index, rank, self).enter(slot, overrides)
        elif self._body is None:
            trampoline.enter(slot, overrides, self)
        else:  # a Router among the routes chose this loop
            self.leave(lambda: trampoline.switch(slot))

    def settle_from(self, index: int, value: Any) -> None:
        """A trampoline brought the node at `index` to its value, or found it skipped."""
        slot = self._slots[index]
        if isinstance(value, Skipped):
            self._record_skip(slot, value)
        else:
            self._conclude(slot, value)

    def _conclude(self, slot: Slot, value: Any) -> None:
        """The node has its value: recorded first, if somebody records."""
        backend = self._interpretation.run.engine.state_backend
        if backend is None:
            self._settle(slot.index, value)
        else:
            self._record(backend.put_result, slot, value, value)

    # Routers

    def _router_arrived(self, slot: Slot) -> None:
        if self._steps[slot.index] == 0:
            self._choose_route(slot)
        else:
            del self._steps[slot.index]
            value = self._values[self._chosen[slot.index]]
            if isinstance(value, Skipped):
                value = value.because(BY_ROUTE, "route")
            self._settle(slot.index, value)

    def _choose_route(self, slot: Slot) -> None:
        assert slot.selector is not None
        key = self._value(slot.selector)
        if isinstance(key, Skipped):
            del self._steps[slot.index]
            self._settle(slot.index, key.because(BY_DATA, "selector"))
            return
        if isinstance(key, Deferred):
            raise key.refused("the selector of a Router")
        ref = slot.routes.get(key, slot.default)
        if ref is None:
            raise RouteNotFoundError(key, tuple(slot.routes))
        self._chosen[slot.index] = ref
        self._unchosen.update(other for own, other in slot.routes.items() if own != key)
        if slot.default is not None and key in slot.routes:
            self._unchosen.add(slot.default)
        if slot.index == self._tail:
            self._tail = ref
        if ref < 0:
            del self._steps[slot.index]
            self._settle(slot.index, self._data[~ref])
        else:
            self._steps[slot.index] = 1
            self._need_all(slot, (ref,))

    # Containers

    def _container_arrived(self, slot: Slot) -> None:
        members = tuple([self._value(ref) for ref in slot.members])
        shape = self._data[~slot.data] if slot.data else None
        position = next((i for i, m in enumerate(members) if m.__class__ is Skipped), None)
        if position is not None:
            reason = self._reason_through(slot.members[position], members[position])
            self._settle(slot.index, members[position].because(reason, f"member {position}"))
        elif self._plan.structure.resources and deferred_names(members):
            self._settle(slot.index, Deferred(slot, members, shape))
        else:
            self._settle(slot.index, build(slot, shape, members))

    # Skipping

    def _skip(self, slot: Slot, skipped: Skipped) -> None:
        self._publish_skipped(slot, skipped.reason)
        self._record_skip(slot, skipped)

    def _record_skip(self, slot: Slot, skipped: Skipped) -> None:
        backend = self._interpretation.run.engine.state_backend
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

        self._interpretation.run.spawn(recorded)

    def _publish_skipped(self, slot: Slot, reason: str) -> None:
        run = self._interpretation.run
        if run.bus.listens(TaskSkipped):
            event = TaskSkipped(run.id, current_time(), self.task_id(slot.index), slot.name, reason)
            run.bus.publish(event)

    def _report_pruned(self) -> None:
        """Report the nodes of unchosen routes that nobody demanded, in plan order."""
        if not self._unchosen:
            return
        pruned = self._undemanded()
        if self._shared:  # what iterations share is a matter of the evaluation that holds it
            self._root._unchosen |= pruned & self._shared
            pruned -= self._shared
        for index in sorted(pruned, key=self._plan.rank.__getitem__):
            self._publish_skipped(self._slots[index], PRUNED)

    def _undemanded(self) -> set[int]:
        """The nodes that unchosen routes lead to and nobody here demanded."""
        seen: set[int] = set()
        todo = [ref for ref in self._unchosen if ref >= 0]
        while todo:
            index = todo.pop()
            if index not in seen:
                seen.add(index)
                todo.extend(self._slots[index].parts)
        undemanded = seen.difference(self._values, self._readers)
        return {index for index in undemanded if self._slots[index].is_node}

    # Names

    def local_id(self, index: int) -> str:
        """The id of the node at `index` within this evaluation."""
        return self._plan.nodes[index].id

    def node(self, index: int) -> Node:
        """The public node at `index`."""
        return self._plan.nodes[index]

    def injected(self, index: int) -> frozenset[str]:
        """The parameters of the node at `index` that are injected resources."""
        slot = self._slots[index]
        names = slot.task.parameters.positional
        refs = [*zip(names, slot.args, strict=False), *slot.kwargs]
        return frozenset(n for n, ref in refs if ref >= 0 and self._slots[ref].kind is RESOURCE)

    def local_path(self, index: int) -> list[str]:
        """The ids from the slot at `index` to the target of this evaluation."""
        came_from = {self._plan.root: -1}
        todo = [self._plan.root]
        for current in todo:  # grows: breadth first, from the target
            if current == index:
                break
            for part in self._slots[current].parts:
                if part not in came_from:
                    came_from[part] = current
                    todo.append(part)
        path: list[str] = []
        current = index
        while current in came_from and current >= 0:
            if self._slots[current].is_node:
                path.append(self.local_id(current))
            current = came_from[current]
        return path or [self._slots[index].name]


def _not_begun(value: Any) -> None:
    raise AssertionError("an evaluation ended before it began")


_DEMAND = {
    TASK: Evaluation._demand_node,
    MAP: Evaluation._demand_node,
    ROUTER: Evaluation._demand_router,
    LIST: Evaluation._demand_container,
    TUPLE: Evaluation._demand_container,
    DICT: Evaluation._demand_container,
    PARAM: Evaluation._demand_input,
    RESOURCE: Evaluation._demand_resource,
}
_ARRIVED = {
    TASK: Evaluation._node_arrived,
    MAP: Evaluation._node_arrived,
    ROUTER: Evaluation._router_arrived,
    LIST: Evaluation._container_arrived,
    TUPLE: Evaluation._container_arrived,
    DICT: Evaluation._container_arrived,
}
