"""Where calls stand in the order of a run, and the calls themselves."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from json import dumps
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from anyio import Event

from cascade.errors import add_cause
from cascade.executors.executor import is_awaitable
from cascade.workflow.expressions import Jump, LazyResult, MappedLazyResult, Router, TailCall
from cascade.workflow.resources import Execution

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from cascade.core.outlet import Outlet
    from cascade.graph.nodes import Node
    from cascade.graph.structure import Slot
    from cascade.limits.admission import Ticket
    from cascade.limits.gate import Session
    from cascade.workflow.resources import ResourceDefinition

LONGEST_PATH: Final = 20  # ids in the note of a failure
NOT_STARTED: Final = -1.0  # instead of the time when a call started


class Holder(Protocol):
    """Where resources are held, which are set up by the first who asks for them."""

    async def obtain(self, order: list[ResourceDefinition]) -> Any: ...


class Scope(Protocol):
    """The part of a run that a place is in, and that fails by itself: what others ask of it."""

    is_over: bool
    failure: BaseException | None
    session: Session  # at the gate
    tasks: TaskGroup  # where what stands in it is started
    places: dict[Place, None]  # in it, which hold values
    steps: dict[Any, None]  # the holdings of its step resources

    @property
    def has_enough_notes(self) -> bool: ...
    def fail(self, error: BaseException, note: str) -> None: ...


class Place:
    """Where calls stand in plan order, itself at `parent_rank` of its parent.

    `parent_index` is what it belongs to there: a slot, or an item.
    """

    __slots__ = ("_jump", "depth", "outlet", "parent", "parent_index", "parent_rank", "scope")

    def __init__(self, parent: Place | None, parent_index: int, parent_rank: int) -> None:
        self.parent = parent
        self.parent_index = parent_index
        self.parent_rank = parent_rank
        self.depth: int = 0
        self.scope: Scope | None = None if parent is None else parent.scope
        self.outlet: Outlet | None = None  # where the values of what stands here go, too
        self._jump: Place | None = None  # the outermost refers to none: it would be a cycle
        if parent is not None:
            # Jumps as in a skew-binary list: any place around is found in O(log depth) steps.
            self.depth = parent.depth + 1
            jump = parent._jump
            further = None if jump is None else jump._jump
            self._jump = parent
            if (
                jump is not None
                and further is not None
                and parent.depth - jump.depth == jump.depth - further.depth
            ):
                self._jump = further

    def _around_at(self, depth: int) -> Place:
        """The place around this one that stands at `depth`."""
        place = self
        while place.depth > depth:
            jump = cast("Place", place._jump)
            place = jump if jump.depth >= depth else cast("Place", place.parent)
        return place

    def precedes(self, rank: int, other: Place, other_rank: int) -> bool:
        """Whether `rank` here comes before `other_rank` of another place of the same run."""
        one, two = self, other
        if one.depth > two.depth:
            one = one._around_at(two.depth + 1)
            one, rank = cast("Place", one.parent), one.parent_rank
        elif two.depth > one.depth:
            two = two._around_at(one.depth + 1)
            two, other_rank = cast("Place", two.parent), two.parent_rank
        if one is two:
            return rank < other_rank
        while one.parent is not two.parent:
            if one._jump is not two._jump:
                one, two = cast("Place", one._jump), cast("Place", two._jump)
            else:
                one, two = cast("Place", one.parent), cast("Place", two.parent)
        return one.parent_rank < two.parent_rank

    def task_id(self, index: int) -> str:
        """The id of what stands at `index` here, prefixed by the ids of what is around it."""
        parts = [self.local_id(index)]
        place = self
        while place.parent is not None:
            if not place.local_id_names_owner:
                parts.append(place.parent.local_id(place.parent_index))
            place = place.parent
        return "/".join(reversed(parts))

    def executions(self, index: int) -> list[tuple[int, ...]]:
        """Which execution it is of each loop and chain of tail calls around what stands there."""
        numbers: list[tuple[int, ...]] = []
        place: Place | None = self
        while place is not None:
            numbers.append(place.execution_of(index))
            index, place = place.parent_index, place.parent
        return numbers

    def path(self, index: int) -> list[str]:
        """The ids from what stands at `index` here to the target of the run."""
        path = self.local_path(index)
        place = self
        while place.parent is not None and len(path) < LONGEST_PATH:
            if not place.local_id_names_owner:
                path += place.parent.local_path(place.parent_index)
            place = place.parent
        return path[:LONGEST_PATH]

    # What a strategy's places tell of the calls that stand in them.

    local_id_names_owner = False  # whether local ids include the id that the owner has

    @property
    def holdings(self) -> Holder:
        """Where their run and step resources are held."""
        raise NotImplementedError

    def local_id(self, index: int) -> str:
        """The id of a call within this place."""
        raise NotImplementedError

    def execution_of(self, index: int) -> tuple[int, ...]:
        """The numbers of an execution that is one of several in this place; none if it is not."""
        return ()

    def local_path(self, index: int) -> list[str]:
        """The ids from a call to what this place computes."""
        raise NotImplementedError

    def node(self, index: int) -> Node:
        """The public node of a call."""
        raise NotImplementedError

    def injected(self, index: int) -> frozenset[int | str]:
        """The arguments of a call that are injected resources: positions and keywords."""
        raise NotImplementedError

    def completed(self, call: Call, value: Any) -> None:
        """A call came to a value, or to control."""
        raise NotImplementedError

    def again(self, call: Call, overrides: Mapping[Any, Any]) -> None:
        """Execute anew, with other arguments, what is no node of an evaluation: an item."""
        raise NotImplementedError

    def settle_from(self, index: int, value: Any, *, is_own: bool = False) -> None:
        """What stands at `index` here came to `value`, by a call of `is_own` or by another."""
        raise NotImplementedError

    def answers(self, index: int, error: Exception) -> bool:
        """Whether what stands at `index` here has a value instead: then it is on its way."""
        return False

    async def attempt(self, call: Call) -> Any:
        """What an attempt of a group here comes to."""
        raise NotImplementedError

    def cause_of(self, index: int) -> BaseException | None:
        """The failure because of which what stands at `index` here was demanded, if any."""
        return None

    def release(self) -> None:
        """Let go of all values, and of all that refers back: the run is over."""
        raise NotImplementedError


class Failed:
    """Instead of a value: the call has failed for good, which a policy of its node answers."""

    __slots__ = ("error", "falls_back")

    def __init__(self, error: Exception, falls_back: bool) -> None:
        self.error = error
        self.falls_back = falls_back


class Omitted:
    """Instead of a value: all that the call evaluated was skipped, and so is its node."""

    __slots__ = ("skipped",)

    def __init__(self, skipped: Any) -> None:
        self.skipped = skipped


# What to do next, and no value.
CONTROL: Final = (Jump, TailCall, LazyResult, MappedLazyResult, Router, Failed, Omitted)


class Call:
    """A task about to be executed: what, with which arguments, and where its value goes."""

    __slots__ = (
        "amounts",
        "args",
        "attempt",
        "flight",
        "index",
        "kwargs",
        "outcome",
        "place",
        "rank",
        "resources",
        "slot",
        "started",
        "ticket",
        "turn",
    )

    def __init__(
        self,
        place: Place,
        index: int,
        rank: int,
        slot: Slot,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        amounts: Mapping[str, Any],
    ) -> None:
        self.place = place
        self.index = index
        self.rank = rank
        self.slot = slot
        self.args = args
        self.kwargs = kwargs
        self.amounts = amounts
        self.resources: tuple[str, ...] = ()  # of the scope "task", deferred in the arguments
        self.attempt = 1
        self.started = NOT_STARTED
        self.ticket: Ticket | None = None
        self.flight: Flight | None = None  # its own while it has not landed, or that of another
        self.turn: Event | None = None
        self.outcome: Any = None

    @property
    def has_begun(self) -> bool:
        """Whether it has started, or a task has it that looks something up for it."""
        if self.started != NOT_STARTED:
            return True
        is_parked = self.ticket is not None and self.ticket.parked
        is_held = bool(self.resources) or self.flight is not None or self.turn is not None
        return is_held and not is_parked

    @property
    def task_id(self) -> str:
        """The id of the node that this call executes."""
        return self.place.task_id(self.index)

    def execution(self, run_id: str) -> Execution:
        """What the task may know of this attempt."""
        task_id, retry = self.task_id, self.slot.retry
        program_place = [run_id, task_id, self.place.executions(self.index)]
        key = blake2b(dumps(program_place).encode(), digest_size=16).hexdigest()
        most = 1 if retry is None else retry.max_attempts
        return Execution(run_id, task_id, self.slot.name, self.attempt, most, key)


class Flight:
    """A cached value being looked up or computed, which others wait for, without a task."""

    __slots__ = ("has_landed", "has_value", "is_missed", "key", "value", "waiting")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.waiting: list[Call] = []
        self.is_missed = False
        self.has_landed = False
        self.has_value = False
        self.value: Any = None

    def bring(self, value: Any) -> None:
        """Those who wait for it may have `value`."""
        self.value = value
        self.has_value = True


def is_gone(place: Place) -> bool:
    """Whether the scope that a place is in is over, so that nothing starts there any more."""
    return place.scope is not None and place.scope.is_over


class _Over:
    """The scope of calls that were withdrawn."""

    is_over = True


NOWHERE: Final = Place(None, 0, 0)  # instead of the place of a call that was withdrawn
NOWHERE.scope = cast("Scope", _Over())


def add_causes(place: Place, index: int, error: BaseException) -> None:
    """Name, as its cause, the failure because of which what failed now was demanded."""
    around: Place | None = place
    while around is not None:
        cause = around.cause_of(index)
        if cause is not None:
            add_cause(error, cause)
            return
        index, around = around.parent_index, around.parent


def is_ordinary(value: Any) -> bool:
    """Whether a value that a function returned is a value, and neither control nor awaitable."""
    return not is_control(value) and not is_awaitable(value)


def is_control(value: Any) -> bool:
    """Whether a value says what to do next. Its type counts, not what it claims as its class."""
    return issubclass(type(value), CONTROL)
