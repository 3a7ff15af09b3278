"""Whether code may run without asking whoever listens, limits or waits.

Nobody needs to be asked while no subscriber hears of tasks and no constraint matches the tasks that
the code calls. That may change within any call, since tasks may change constraints and subscribe.
To ask after each call would cost about what a call costs, so nobody asks: the change itself empties
the guards of the code that runs, and the comparison it makes anyway fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from cascade.core.calls import is_ordinary
from cascade.executors.executor import usual_class
from cascade.graph.quick_key import is_literal
from cascade.graph.structure import PLAIN
from cascade.vm.fused import NONE_WRAPPED, FusedRoutine, Linked
from cascade.vm.pauses import Pauses

if TYPE_CHECKING:
    from cascade.core.run import Run

MOST_KEPT: Final = 256  # answers, and linked codes, that one run keeps: it may meet any number
Turns = tuple[tuple[int, ...], int]


class Watch:
    """What one run has to hear of while fused code runs in it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.version = 0
        self.usual: type[Any] | None = None  # the class of the last ordinary value, as a guard
        self._running: dict[Linked, int] = {}
        self._pauses: dict[Pauses, None] = {}  # of what runs and awaits
        self._allowed: dict[tuple[str, ...], int] = {}
        self._ends: list[Callable[[], None]] = [
            run.services.gate.on_change(self._changed),
            run.bus.watch(self._changed),
        ]

    def close(self) -> None:
        """The run is over."""
        for end in self._ends:
            end()

    def allows(self, task_names: tuple[str, ...]) -> bool:
        """Whether tasks of these names may be called without asking anybody."""
        if self._allowed.get(task_names) == self.version:
            return True
        run = self.run
        limits = run.services.gate.limits
        if run.bus.hears_tasks or any(limits(name) for name in task_names):
            return False
        # Only a yes is kept. After a no calls are wrapped, beside which asking costs nothing.
        if len(self._allowed) >= MOST_KEPT:
            self._allowed.clear()
        self._allowed[task_names] = self.version
        return True

    def enter(self, linked: Linked, pauses: Pauses | None = None) -> None:
        """`linked` runs from now on, and has these pauses if it awaits."""
        linked.arm(self.version)  # who enters has just asked, or has wrapped the calls
        # Counted: several places of one run may await within the same code.
        self._running[linked] = self._running.get(linked, 0) + 1
        if pauses is not None:
            self._pauses[pauses] = None

    def leave(self, linked: Linked, pauses: Pauses | None = None) -> None:
        """One that ran `linked` has left it."""
        if pauses is not None:
            del self._pauses[pauses]
        count = self._running[linked] - 1
        if count:
            self._running[linked] = count
        else:
            del self._running[linked]

    def _changed(self) -> None:
        # Whatever it is: changes are rare, and code that may still run comes back after the one
        # iteration that the interpreter ends.
        self.version += 1
        self.usual = None
        for linked in self._running:
            linked.disarm()
        for pauses in self._pauses:
            pauses.changed()


def guards(
    watch: Watch, fused: FusedRoutine, wrapped: Mapping[int, Callable[..., Any]] = NONE_WRAPPED
) -> Linked:
    """Fused code with the guards of one run; `wrapped` are called instead of functions, by row."""
    run = watch.run
    tier = run.services.fused_tier

    def own() -> Linked:
        linked = reference()
        assert linked is not None, "it runs"
        return linked

    def leave(pc: int, value: Any) -> bool:
        """The value of row `pc` is of another class than the last, or something has changed."""
        linked = own()
        if linked.version != watch.version or not is_ordinary(value):
            return True
        if tier.leaves is not None:  # nothing is learnt, so that it is asked after every call
            return tier.leaves()
        if not fused.is_slow:
            linked.learn(pc, usual_class(value))
            return False
        # Slow code learns no class, so that each of its calls comes here and the slice is kept.
        now = perf_counter()
        fused.tell_look(now)
        return now >= run.slice_end

    def usual(data: Any) -> bool:
        """Whether `data` of a Jump is the first argument of the next iteration."""
        if isinstance(data, dict) or data is None:  # arguments by name, or none
            return False
        own().learn_data(data.__class__)
        return True

    def pace(batch: int, done: int, most: int, now: float, last: float) -> Turns:
        """The next batch and when to ask again; an empty one to pause."""
        batch = fused.adapt(batch, now - last)
        if fused.is_slow:
            own().forget()
        return fused.turns(0 if now >= run.slice_end else batch, done, most)

    async def pace_async(
        batch: int, done: int, most: int, now: float, last: float
    ) -> tuple[tuple[int, ...], int, float]:
        turns, limit = pace(batch, done, most, now, last)
        if run.activity is not None:  # somebody shows the run: what is done is counted
            return (), limit, run.slice_end
        if not turns and done < most:
            await run.give_way()
            # To pause returns to `HotCode`, which looks again whether the run is over and who asks.
            if not run.is_over and own().version == watch.version:
                turns, limit = fused.turns(fused.batch, done, most)
        return turns, limit, run.slice_end

    def literal(number: int, value: Any) -> bool:
        """Whether a value in a returned expression is data, in the place of literal `number`."""
        if value.__class__ in PLAIN:
            own().learn_literal(number, value.__class__)
            return True
        return is_literal(value)

    asked = (leave, pace_async if fused.features.is_async else pace, usual, literal)
    linked = fused.linked(asked, wrapped)
    reference = ref(linked)  # the code must not keep itself alive
    return linked
