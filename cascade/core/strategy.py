"""What both strategies are made of: the place of an evaluation, and who carries it through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from cascade.core.calls import Call, Place
from cascade.core.feeds import Feed
from cascade.core.pace import BATCH, SLICE, in_slices
from cascade.core.values import Skipped
from cascade.errors import ResourceNotFoundError
from cascade.graph.plan import inputs_of
from cascade.graph.slices import Work
from cascade.graph.structure import Ref, Slot, Structure

if TYPE_CHECKING:
    from cascade.core.run import Run

T = TypeVar("T")

NO_OVERRIDES: Final[Mapping[Any, Any]] = {}


class Carrier(Protocol):
    """A trampoline, as the strategies see it: it makes one evaluation after the other."""

    name: str  # of the loop, or of what the chain began with
    returned: EvaluationPlace | None  # the last expression that was returned
    begun: set[Ref]  # routes of which an iteration was begun
    preceded: dict[tuple[Ref, int], Any]  # by route and predecessor: None, or the Skipped it is

    @property
    def execution(self) -> tuple[int, ...]: ...
    def anchor(self) -> tuple[Place, int, int]: ...
    def finish(self, value: Any) -> None: ...

    # How an evaluation whose target came to control hands over.
    def enter(
        self, slot: Slot, overrides: Mapping[Any, Any], returned: EvaluationPlace | None = None
    ) -> None: ...
    def switch(self, slot: Slot) -> None: ...
    def go_on(self, call: Call, control: Any, evaluation: EvaluationPlace | None) -> None: ...

    # How code that goes round by itself accounts for it.
    def count(self, is_bound: bool, executions: int) -> None: ...
    def steps_left(self, is_bound: bool) -> int: ...
    def next_iteration(
        self, structure: Structure, slot: Slot, control: Any
    ) -> tuple[int, Mapping[Any, Any]] | None: ...


class Strategy:
    """What one run of a strategy offers to its evaluations."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.going_on: dict[Place, None] = {}  # what holds values: evaluations, items of maps
        self._is_propagating = False

    def loading(self, target: Any) -> Work[tuple[Structure, tuple[Any, ...]]]:
        """The structure and data of a target whose inputs and resources are all there."""
        structure, data = yield from self.run.services.plans.loading(target)
        self.check(structure, data)
        return structure, data

    def check(self, structure: Structure, data: tuple[Any, ...]) -> None:
        """Raise unless a target can run: maps are bounded, inputs and resources are there."""
        if structure.unbounded is not None:
            name, lazy = structure.unbounded.name, structure.unbounded.lazies[0]
            raise ValueError(
                f"{name}.map({lazy}=cs.lazily(...)) does not say how far it is read ahead; "
                "write .with_concurrency(n), for at most n items at a time"
            )
        if structure.inputs:
            self.run.inputs.declare(inputs_of(structure, data))
        for name in structure.resources:
            try:
                self.run.resources.providers.ahead.set_up_order(name, "the target")
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

    def hold(self, place: Place) -> None:
        """The place holds values from now on, its scope, or the run, being over at the latest."""
        (self.going_on if place.scope is None else place.scope.places)[place] = None

    def drop(self, place: Place) -> None:
        """The place holds none any more."""
        (self.going_on if place.scope is None else place.scope.places).pop(place, None)

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
        trampoline: Carrier | None = None,
        around: Any = None,
        overrides: Mapping[Any, Any] = NO_OVERRIDES,
        place: Place | None = None,
    ) -> EvaluationPlace:
        """A new evaluation; an iteration, or one in a scope, if it has one `around`.

        It stands where its `trampoline` says, or else alone in `place`.
        """
        raise NotImplementedError

    def iterate(
        self, trampoline: Carrier, home: Any, root: int, overrides: Mapping[Any, Any]
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
        trampoline: Carrier,
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
                if not steps % BATCH:
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


class Items(Protocol):
    """The items of a map that was started, as another map sees them, whose elements they give."""

    @property
    def length(self) -> int | None: ...
    def follow(self, then: Callable[[int, Any], None]) -> None: ...
    def withdraw(self) -> None: ...
    def complete(self, skipped: Skipped | None) -> None: ...
    def go_on(self) -> None: ...


class EvaluationPlace(Place):
    """An evaluation, as trampolines and map items see it.

    It computes a part of `structure`; `data` are the literals of the target, and of all its routes.
    """

    __slots__ = ("data", "structure")

    structure: Structure
    data: tuple[Any, ...]

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

    @property
    def strategy(self) -> Strategy:
        """The strategy that carries it out."""
        raise NotImplementedError

    def settle_map(self, slot: Slot, value: Any) -> None:
        """All items of the map have their values; it is skipped if a fallback was."""
        raise NotImplementedError

    def on_settled(self, index: int, then: Callable[[Any], None]) -> None:
        """Demand the slot, and have `then` called with its value, or the Skipped it is."""
        raise NotImplementedError

    def has_settled(self, index: int) -> bool:
        """Whether the slot has its value, or is skipped."""
        raise NotImplementedError

    def value(self, ref: Ref) -> Any:
        """The literal or settled value of a reference."""
        raise NotImplementedError

    def when_begun(self, index: int, then: Callable[[Items], None]) -> None:
        """Have `then` called with the items of a map, now or when they begin."""
        raise NotImplementedError

    def lacks_inputs(self, slot: Slot) -> bool:
        """Whether something that all items of a map need is skipped."""
        raise NotImplementedError

    def column(self, slot: Slot, name: str) -> Any:
        """What a map takes item by item as one argument: a list, or what is read lazily."""
        raise NotImplementedError

    def start_items(self, slot: Slot, feed: Feed) -> Items:
        """Start a map with what feeds it, now that what all items need is there."""
        raise NotImplementedError

    def is_streamed(self, slot: Slot) -> bool:
        """Whether the caller of the run reads the items of this map as they settle."""
        raise NotImplementedError

    def failed_at(self, slot: Slot, error: BaseException) -> None:
        """The engine itself found that the evaluation cannot go on at `slot`."""
        raise NotImplementedError

    def fall_back(self, slot: Slot, error: BaseException, then: Callable[[Any], None]) -> None:
        """Have `then` called with the fallback of a node here, or the Skipped it is."""
        raise NotImplementedError

    def when_settled(self, indices: Sequence[int], then: Callable[[], None]) -> None:
        """Demand these slots, and have `then` called when all of them are settled."""
        raise NotImplementedError

    def arguments(
        self, slot: Slot, overrides: Mapping[Any, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call of the slot, whose own are settled but for the overridden."""
        raise NotImplementedError

    def settle_from(self, index: int, value: Any, *, is_own: bool = False) -> None:
        """A loop or map brought the node at `index` to its value, or found it skipped."""
        raise NotImplementedError
