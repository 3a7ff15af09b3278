"""What an evaluation is under both strategies: how it begins, ends, skips, loops and is named.

A strategy adds how the slots of the evaluation are demanded, and where their values are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from anyio import current_time

from cascade.amounts import checked_amount
from cascade.core.calls import Call, Failed, Omitted, Place, add_causes, is_control
from cascade.core.feeds import Feed, feed_of
from cascade.core.flows import Flow
from cascade.core.items import MapItems
from cascade.core.recovery import recover, wrapped
from cascade.core.scopes import evaluate
from cascade.core.strategy import NO_OVERRIDES, Carrier, EvaluationPlace, Items, Strategy
from cascade.core.trampoline import Trampoline
from cascade.core.values import (
    BY_DATA,
    BY_SEQUENCE,
    CONDITION_FALSE,
    PRUNED,
    Deferred,
    Skipped,
    argument_name,
    build,
    deferred_names,
    overridden,
    own_arguments,
)
from cascade.errors import DependencyMissingError, RouteNotFoundError
from cascade.events import TaskSkipped
from cascade.graph.plan import Plan
from cascade.graph.structure import MAP, RESOURCE, Ref, Slot
from cascade.workflow.task import check_iterable

if TYPE_CHECKING:
    from cascade.core.holdings import Holdings
    from cascade.graph.nodes import Node


NO_AMOUNTS: Final[Mapping[str, Any]] = {}
NOTHING_SHARED: Final[frozenset[int]] = frozenset()


class PlannedEvaluation(EvaluationPlace):
    """One target computed once: a run's, a returned expression's, or one iteration of a loop."""

    __slots__ = (
        "_around",
        "_body",
        "_chosen",
        "_falling_back",
        "_flows",
        "_followers",
        "_handled",
        "_holdings",
        "_invariant",
        "_maps",
        "_needs",
        "_on_end",
        "_outermost",
        "_overrides",
        "_plan",
        "_readers_left",
        "_shared",
        "_slots",
        "_strategy",
        "_tail",
        "_trampoline",
        "_unchosen",
    )

    def __init__(
        self,
        strategy: Strategy,
        plan: Plan,
        data: tuple[Any, ...],
        trampoline: Carrier | None,
        around: Any,
        overrides: Mapping[Any, Any],
        place: Place | None,
    ) -> None:
        if trampoline is None:
            super().__init__(place, 0, 0)
        else:
            super().__init__(*trampoline.anchor())
        self._strategy = strategy
        self._plan = plan
        self.structure = plan.structure
        self._slots = plan.structure.slots
        self.data = data
        self._trampoline = trampoline  # which goes on if the target ends with control
        self._around = around  # of an iteration: the evaluation in which its loop stands
        self._outermost: Any = None if around is None else around._root
        self._body: Ref | None = None if around is None else plan.root
        self._invariant: frozenset[int] | None = None
        self._shared = NOTHING_SHARED if around is None else self._root._invariants()
        self._overrides = overrides  # of the target's own arguments
        self._tail: Ref = plan.root
        self._on_end: Callable[[Any], None] = _not_begun
        self._holdings: Holdings | None = None
        self._chosen: dict[int, Ref] | None = None
        self._needs, readers = plan.uses()
        self._readers_left = readers.copy()  # by slot: who may need it, and has no value yet
        self._unchosen: set[Ref] | None = None  # the routes that routers did not choose
        self._falling_back: dict[int, BaseException] | None = None  # by fallback: why it runs
        self._handled: set[int] | None = None  # the handlers that were called
        self._flows: dict[int, Flow] | None = None  # of maps that were demanded
        self._maps: dict[int, MapItems] | None = None  # that go on, and are followed by others
        self._followers: dict[int, list[Callable[[Items], None]]] | None = None

    @property
    def _root(self) -> Any:
        """The evaluation around all loops that this one is in. (A field would be a cycle.)"""
        return self if self._outermost is None else self._outermost

    # What a strategy adds

    def _value(self, ref: Ref) -> Any:
        """The literal or settled value of a reference."""
        raise NotImplementedError

    def _peek(self, index: int) -> Any:
        """The value of a slot if it is settled; `~index` means that of the evaluation around."""
        raise NotImplementedError

    def _settle(self, index: int, value: Any) -> None:
        """The slot has its value, or the Skipped it is."""
        raise NotImplementedError

    def _conclude(self, slot: Slot, value: Any) -> None:
        """The node has its value."""
        raise NotImplementedError

    def _record_skip(self, slot: Slot, skipped: Skipped) -> None:
        """The node is skipped, which was told already."""
        raise NotImplementedError

    def _is_settled(self, index: int) -> bool:
        """Whether the slot has its value, or is skipped."""
        raise NotImplementedError

    def _was_demanded(self, index: int) -> bool:
        """Whether somebody needed the slot, now that the evaluation ends."""
        raise NotImplementedError

    def _drop(self, index: int) -> bool:
        """Let go of the value of the slot, which nobody needs any more; False if it has none."""
        raise NotImplementedError

    # What it is

    def _invariants(self) -> frozenset[int]:
        """The slots that all iterations in this target share."""
        if self._invariant is None:
            registry = self._strategy.run.resources.providers
            structure = self.structure
            self._invariant = structure.invariants(registry.narrow(structure.resources))
        return self._invariant

    @property
    def is_root(self) -> bool:
        """Whether it is no iteration: the evaluation of a whole target."""
        return self._around is None

    def execution_of(self, index: int) -> tuple[int, ...]:
        """The execution of the loop, or of the chain of tail calls, that this evaluation is."""
        return () if self._trampoline is None else self._trampoline.execution

    def rank(self, index: int) -> int:
        """Where the slot at `index` stands in plan order."""
        return self._plan.rank(index)

    @property
    def strategy(self) -> Strategy:
        """The strategy that carries it out."""
        return self._strategy

    def is_body(self, index: int) -> bool:
        """Whether the node at `index` is what this iteration of a loop executes."""
        return index == self._body

    # Beginning and ending

    def _begin(self, on_end: Callable[[Any], None]) -> None:
        self._on_end = on_end
        self._strategy.hold(self)

    def _end(self, value: Any) -> None:
        """The target is settled: report what was pruned, tear down, and pass the value on."""
        # All of it before `on_end`, which may begin the next iteration: one at a time is kept.
        self._report_pruned()
        on_end, self._on_end = self._on_end, _not_begun
        self._trampoline = None  # which may go on with this evaluation as the home of a loop
        self._strategy.drop(self)
        if self._holdings:
            self._strategy.run.spawn(lambda: self._close_then(on_end, value), self.scope)
        else:
            on_end(value)

    async def _close_then(self, on_end: Callable[[Any], None], value: Any) -> None:
        assert self._holdings is not None
        interruption = await self._strategy.run.resources.close_step(self._holdings)
        if interruption is not None:  # it had to wait until all was torn down
            raise interruption
        on_end(value)
        self._strategy.propagate()

    def release(self) -> None:
        """Let go of all values, and of all that refers back: the run is over."""
        self._on_end = _not_begun
        self._flows = self._maps = self._followers = None
        self._trampoline = None
        self._overrides = NO_OVERRIDES
        self.data = ()

    def outcome(self, value: Any) -> Any:
        """What a run, or a returned expression, makes of its target's value or being skipped."""
        if isinstance(value, Deferred):
            raise value.refused("the target")
        if not isinstance(value, Skipped):
            return value
        if value.reason == BY_SEQUENCE:  # it lacks no value, only what was to come before
            return None
        raise DependencyMissingError(
            self._name_of_target(), value.argument, value.origin, value.origin_reason
        )

    def _name_of_target(self) -> str:
        slot = self._slots[self._plan.root]
        return self.task_id(slot.index) if slot.is_node else f"the target ({slot.name})"

    def leave(self, then: Callable[[], None]) -> None:
        """End without a value: what the target goes on with is the trampoline's."""
        self._on_end = lambda _: then()
        self._end(None)

    # Values that nobody needs any more

    def _let_go_of_needs(self, index: int) -> None:
        """The slot is settled: what it needed goes if nobody else may need it any more.

        A slot that has not been demanded by now, and that nobody may demand any more, needs
        nothing any more either.
        """
        needs, left = self._needs, self._readers_left
        todo = [index]
        for current in todo:  # grows
            for part in needs.get(current, ()):
                if left[part] > 1:
                    left[part] -= 1
                elif not self._drop(part):
                    todo.append(part)

    # Inputs and resources

    def _demand_input(self, slot: Slot) -> None:
        self._settle(slot.index, self._strategy.run.inputs.value(self.data[~slot.data]))

    def _demand_resource(self, slot: Slot) -> None:
        run = self._strategy.run
        definition = run.resources.providers.find(slot.name, "the target")
        if definition.scope == "task":  # set up anew for each attempt that it is injected into
            self._settle(slot.index, Deferred(slot))
            return
        holdings = run.resources.of_run if definition.scope == "run" else self.holdings
        ready = holdings.ready(slot.name)
        if ready is not None:
            self._settle(slot.index, ready.value)
        else:
            run.spawn(lambda: self._obtain(slot, holdings), self.scope)

    async def _obtain(self, slot: Slot, holdings: Holdings) -> None:
        registry = self._strategy.run.resources.providers
        value = await holdings.obtain(registry.set_up_order(slot.name, "the target"))
        self._settle(slot.index, value)
        self._strategy.propagate()

    @property
    def holdings(self) -> Holdings:
        """Where the step resources of this evaluation are held, made when there is one."""
        if self._holdings is None:
            self._holdings = self._strategy.run.resources.of_step()
            if self.scope is not None:
                self.scope.steps[self._holdings] = None
        return self._holdings

    # Nodes

    def failed_at(self, slot: Slot, error: BaseException) -> None:
        """The engine itself found that the evaluation cannot go on at `slot`."""
        path = " -> ".join(self.path(slot.index))
        run = self._strategy.run
        add_causes(self, slot.index, error)
        (self.scope or run).fail(error, f"in {slot.kind} {slot.name!r} ({path}), of run {run.id}")

    def _amounts(self, slot: Slot) -> dict[str, Any]:
        amounts = {
            name: self._value(value) if kind is None else value  # no kind: an expression
            for name, kind, value in slot.amounts
        }
        for name, amount in amounts.items():
            if isinstance(amount, Deferred):
                raise amount.refused(f"the amount {name!r} of task {slot.name!r}")
            checked_amount(slot.name, name, amount)
        return amounts

    def _call(self, slot: Slot, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """A call of the task of the slot with these arguments."""
        amounts = self._amounts(slot) if slot.amounts else NO_AMOUNTS
        call = Call(self, slot.index, self._plan.rank(slot.index), slot, args, kwargs, amounts)
        if self.structure.resources:
            call.resources = deferred_names((*args, *kwargs.values()))
        return call

    # Maps

    def _start_map(self, slot: Slot) -> None:
        """All that the map needs is there."""
        flow = self._flow_of(slot)
        read = {} if flow is None else flow.read
        columns = {n: read[n] if n in read else self.column(slot, n) for n in slot.iterables}
        if flow is None or not flow.complete(None):
            self.start_items(slot, feed_of(slot.name, columns))

    def _skip_node(self, slot: Slot, skipped: Skipped) -> None:
        """Something that the node needs is skipped; a map waits for the items that began."""
        flow = self._flow_of(slot)
        if flow is None or not flow.complete(skipped):
            self._skip(slot, skipped)

    def _begin_flow(self, slot: Slot) -> None:
        """The map is demanded, and its items may begin before all that it needs is there."""
        kinds = self._slots
        if any(kinds[ref].kind is MAP and ref in self._shared for _, ref in slot.flowing):
            return  # that map stands in the evaluation around
        if self._flows is None:
            self._flows = {}
        flow = self._flows[slot.index] = Flow(self, slot)
        flow.begin()

    def _flow_of(self, slot: Slot) -> Flow | None:
        return None if self._flows is None else self._flows.pop(slot.index, None)

    def column(self, slot: Slot, name: str) -> Any:
        """What a map takes item by item as one argument: a list, or what is read lazily."""
        value = self._value(dict(slot.kwargs)[name])
        if isinstance(value, Deferred):
            raise value.refused(f"the map of task {slot.name!r} over {name!r}")
        if name in slot.lazies:
            return value
        check_iterable(slot.name, name, value)
        return list(value)  # a copy: what runs may change the original

    def start_items(self, slot: Slot, feed: Feed) -> MapItems:
        """Start a map with what feeds it, now that what all items need is there."""
        own = [(n, None if n in slot.iterables else ref) for n, ref in slot.kwargs]
        given = {name: None if ref is None else self._value(ref) for name, ref in own}
        amounts = self._amounts(slot) if slot.amounts else NO_AMOUNTS
        items = MapItems(self._strategy, self, slot, self._plan.rank(slot.index))
        items.take_from(feed)
        if slot.is_followed:
            self._maps = {**(self._maps or {}), slot.index: items}
            for then in (self._followers or {}).pop(slot.index, ()):
                then(items)
        items.start(given, amounts)
        return items

    def when_begun(self, index: int, then: Callable[[Items], None]) -> None:
        """Have `then` called with the items of a map, now or when they begin."""
        items = (self._maps or {}).get(index)
        if items is not None:
            then(items)
        else:
            if self._followers is None:
                self._followers = {}
            self._followers.setdefault(index, []).append(then)

    def lacks_inputs(self, slot: Slot) -> bool:
        """Whether something that all items of a map need is skipped."""
        after = () if slot.index == self._body else slot.after
        return any(isinstance(self._peek(index), Skipped) for index in (*after, *slot.base))

    def has_settled(self, index: int) -> bool:
        """Whether the slot has its value, or is skipped."""
        return self._is_settled(index)

    def value(self, ref: Ref) -> Any:
        """The literal or settled value of a reference."""
        return self._value(ref)

    # What calls come to

    def completed(self, call: Call, value: Any) -> None:
        """The call of a node of this evaluation came to `value`, or to control."""
        if is_control(value):
            self._control(call, value)
        elif call.slot.settled_on is not None:
            self._conclude(call.slot, wrapped(call.slot, value))
        else:
            self._conclude(call.slot, value)
        self._strategy.propagate()

    def _control(self, call: Call, control: Any) -> None:
        trampoline = self._trampoline
        if control.__class__ is Failed:
            self._recover(call.slot, control)
        elif control.__class__ is Omitted:
            self._skip(call.slot, control.skipped)
        elif trampoline is not None and call.index == self._tail:
            # It ends before the next one begins: a loop of any length keeps one iteration.
            if call.slot.after:
                self._keep_predecessors(call.slot)
            self.leave(lambda: trampoline.go_on(call, control, self))
        else:  # others here may need the value, or go on beside it
            Trampoline(self._strategy, self, call.index, call.rank, self).go_on(call, control, self)

    def _enter_loop(self, slot: Slot) -> None:
        trampoline = self._trampoline
        overrides = self._overrides if slot.index == self._plan.root else NO_OVERRIDES
        if trampoline is None or slot.index != self._tail:
            rank = self._plan.rank(slot.index)
            Trampoline(self._strategy, self, slot.index, rank, self).enter(slot, overrides)
        elif self._body is None:  # a returned expression is a loop: the same owner waits for it
            trampoline.enter(slot, overrides, self)
        elif not self._awaits_predecessors(slot):  # a Router among the routes chose this loop
            self._keep_predecessors(slot)
            self.leave(lambda: trampoline.switch(slot))

    def _awaits_predecessors(self, slot: Slot) -> bool:
        """Whether the loop that a Router route chose has to wait for what comes before it."""
        assert self._trampoline is not None
        if slot.index in self._trampoline.begun:  # they came before its first iteration
            return False
        missing = [index for index in slot.after if not self._is_settled(index)]
        if missing:
            self._enter_after(slot, missing)
        return bool(missing)

    def _enter_after(self, slot: Slot, missing: list[int]) -> None:
        """Demand predecessors of a loop, and come to it again when more of them are there."""
        raise NotImplementedError

    def _keep_predecessors(self, slot: Slot) -> None:
        """The loop goes on at `slot`, a part of this route: what came before it here has come."""
        if self._body is None or slot.index == self._body:
            return
        assert self._trampoline is not None
        for index in slot.after:
            if self._is_settled(index):
                value = self._peek(index)
                kept = value if isinstance(value, Skipped) else None
                self._trampoline.preceded[slot.index, index] = kept

    def _has_come(self, index: int) -> bool:
        """Whether the predecessor of this iteration came in the evaluation of a route before."""
        trampoline = self._trampoline
        return trampoline is not None and (self._body, index) in trampoline.preceded

    def _kept(self, index: int) -> Any:
        """None, or the Skipped that a predecessor is which came in the evaluation of a route."""
        assert self._trampoline is not None
        assert self._body is not None
        return self._trampoline.preceded[self._body, index]

    def settle_from(self, index: int, value: Any, *, is_own: bool = False) -> None:
        """A trampoline brought the node at `index` to its value, or found it skipped."""
        slot = self._slots[index]
        if isinstance(value, Skipped):
            self._record_skip(slot, value)
        elif is_own or slot.kind is MAP:
            self._conclude(slot, value)
        else:
            self._conclude(slot, wrapped(slot, value))

    def settle_map(self, slot: Slot, value: Any) -> None:
        """All items of the map have their values; it is skipped if a fallback was."""
        if self._maps is not None:
            self._maps.pop(slot.index, None)
        if isinstance(value, Skipped):
            self._skip(slot, value)
        else:
            self._conclude(slot, value)

    # Groups

    async def attempt(self, call: Call) -> Any:
        """What an attempt of a group, or of a first, here comes to."""
        return await evaluate(self, call)

    def is_streamed(self, slot: Slot) -> bool:
        """Whether it is one of the target's maps that the caller of the run asked for."""
        outlet = self._strategy.run.outlet
        return outlet is not None and slot.index in outlet.maps and self._root.parent is None

    # Failures that policies answer

    def answers(self, index: int, error: Exception) -> bool:
        """Whether the node has a value instead of what its loop did not come to."""
        slot = self._slots[index]
        failed = self._strategy.run.processor.answer(slot, self.task_id(index), error)
        if failed is not None:
            self._recover(slot, failed)
        return failed is not None

    def _recover(self, slot: Slot, failed: Failed) -> None:
        if slot.handler is not None and failed.falls_back:
            # It is called without being demanded, and yet was not pruned with what it stands in.
            self._handled = {*(self._handled or ()), slot.handler}
        owner = self, slot.index, self._plan.rank(slot.index)
        recover(self, slot, failed, owner, lambda value: self._recovered(slot, value))

    def _recovered(self, slot: Slot, value: Any) -> None:
        if isinstance(value, Skipped):
            self._skip(slot, value.because(BY_DATA, "fallback"))
        else:
            self._conclude(slot, value)

    def fall_back(self, slot: Slot, error: BaseException, then: Callable[[Any], None]) -> None:
        """Have `then` called with the fallback of a node here, or the Skipped it is.

        What an iteration executes stands in the evaluation around its loop, and so does what it
        falls back to.
        """
        ref = slot.fallback
        assert ref is not None
        if ref < 0:
            then(self.data[~ref])
            return
        home = self._around if self.is_body(slot.index) else self
        home._demand_fallback(slot, ref, error, then)

    def _demand_fallback(
        self, slot: Slot, ref: Ref, error: BaseException, then: Callable[[Any], None]
    ) -> None:
        if self._falling_back is None:
            self._falling_back = {}
        self._falling_back.setdefault(ref, error)  # it runs once, for the first that needs it

        def come(value: Any) -> None:
            if isinstance(value, Deferred):
                self.failed_at(slot, value.refused(f"the fallback of task {slot.name!r}"))
            else:
                then(value)

        self.on_settled(ref, come)

    def when_settled(self, indices: Sequence[int], then: Callable[[], None]) -> None:
        """Demand these slots, and have `then` called when all of them are settled."""
        missing = len(indices)
        if not missing:
            then()
            return

        def come(_: Any) -> None:
            nonlocal missing
            missing -= 1
            if not missing:
                then()

        for index in indices:
            self.on_settled(index, come)

    def arguments(
        self, slot: Slot, overrides: Mapping[Any, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call of the slot, whose own are settled but for the overridden."""
        return overridden(slot, overrides, self._value)

    def cause_of(self, index: int) -> BaseException | None:
        """The failure whose fallback needs what stands at `index`."""
        for fallback, error in (self._falling_back or {}).items():
            if index in self._needed_by(fallback):
                return error
        return None

    def _needed_by(self, index: int) -> set[int]:
        seen: set[int] = set()
        todo = [index]
        while todo:
            current = todo.pop()
            if current not in seen:
                seen.add(current)
                todo.extend(self._slots[current].parts)
        return seen

    # Routers and containers

    def _choose(self, slot: Slot, key: Any) -> Ref:
        """The route that the value of the selector names."""
        if isinstance(key, Deferred):
            raise key.refused("the selector of a Router")
        number = slot.route_numbers.get(key)
        refs = tuple(slot.routes.values())
        ref = slot.default if number is None else refs[number]
        if ref is None:
            raise RouteNotFoundError(key, tuple(slot.routes))
        if self._chosen is None:
            self._chosen = {}
        self._chosen[slot.index] = ref
        unchosen = self._unchosen_routes()
        unchosen.update(other for own, other in enumerate(refs) if own != number)
        if slot.default is not None and number is not None:
            unchosen.add(slot.default)
        if slot.index == self._tail:  # the route is the target now, and its control the target's
            self._tail = ref
        return ref

    def _contained(self, slot: Slot, members: tuple[Any, ...]) -> Any:
        """The container that the slot makes of its members, or the Skipped it is."""
        shape = self.data[~slot.data] if slot.data else None
        for position, member in enumerate(members):
            if member.__class__ is Skipped:
                if self._around is not None and slot.index == self._plan.root:
                    return member  # of a scope, which asks why
                reason = self._reason_through(slot.members[position], member)
                return member.because(reason, f"member {position}")
        if self.structure.resources and deferred_names(members):
            return Deferred(slot, members, shape)
        return build(slot, shape, members)

    # Skipping

    def _skip_condition_false(self, slot: Slot) -> None:
        self._publish_skipped(slot, CONDITION_FALSE)
        own_id = self.task_id(slot.index)
        self._record_skip(slot, Skipped(CONDITION_FALSE, own_id, CONDITION_FALSE, "condition"))

    def _skipped_by_inputs(self, slot: Slot) -> Skipped | None:
        """The first reason in the order of the contract for which the slot is skipped."""
        skipped = self._skipped_predecessor(slot)
        if skipped is not None:
            return skipped
        for index in slot.argument_slots:
            value = self._peek(index)
            if value.__class__ is Skipped:
                return value.because(self._reason_through(index, value), argument_name(slot, index))
        for index in slot.amount_slots:
            value = self._peek(index)
            if value.__class__ is Skipped:
                return value.because(BY_DATA, "amount")
        return None

    def _skipped_predecessor(self, slot: Slot) -> Skipped | None:
        is_body = slot.index == self._body
        for index in slot.after:
            # What comes before a loop stands in the evaluation around its iterations.
            value = self._peek(~index if is_body else index)
            if value.__class__ is Skipped:
                return value.because(BY_SEQUENCE, "predecessor")
        return None

    def _reason_through(self, index: int, skipped: Skipped) -> str:
        """Containers and Routers are no nodes: what they lack is the reason of who needs them."""
        return BY_DATA if self._slots[index].is_node else skipped.reason

    def _skip(self, slot: Slot, skipped: Skipped) -> None:
        self._publish_skipped(slot, skipped.reason)
        self._record_skip(slot, skipped)

    def _publish_skipped(self, slot: Slot, reason: str) -> None:
        run = self._strategy.run
        if run.bus.listens(TaskSkipped):
            event = TaskSkipped(run.id, current_time(), self.task_id(slot.index), slot.name, reason)
            run.bus.publish(event)

    def _report_pruned(self) -> None:
        """Report the nodes of unchosen routes that nobody demanded, in plan order."""
        if not self._unchosen:
            return
        pruned = self._undemanded()
        if self._shared:  # what iterations share is a matter of the evaluation that holds it
            self._root._unchosen_routes().update(pruned & self._shared)
            pruned -= self._shared
        for index in sorted(pruned, key=self._plan.rank):
            self._publish_skipped(self._slots[index], PRUNED)

    def _unchosen_routes(self) -> set[Ref]:
        if self._unchosen is None:
            self._unchosen = set()
        return self._unchosen

    def _undemanded(self) -> set[int]:
        """The nodes that unchosen routes lead to and nobody here demanded."""
        seen: set[int] = set()
        todo = [ref for ref in self._unchosen_routes() if ref >= 0]
        while todo:
            index = todo.pop()
            if index not in seen:
                seen.add(index)
                todo.extend(self._slots[index].parts)
        seen -= self._handled or set()
        return {i for i in seen if self._slots[i].is_node and not self._was_demanded(i)}

    # Names

    def local_id(self, index: int) -> str:
        """The id of the node at `index` within this evaluation."""
        return self._plan.node(index).id

    def node(self, index: int) -> Node:
        """The public node at `index`."""
        return self._plan.node(index)

    def injected(self, index: int) -> frozenset[int | str]:
        """The arguments of the node at `index` that are injected: positions and keywords."""
        slot = self._slots[index]
        given = self._overrides if index == self._plan.root else NO_OVERRIDES
        own = own_arguments(slot, given)
        return frozenset(n for n, ref in own if ref >= 0 and self._slots[ref].kind is RESOURCE)

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
