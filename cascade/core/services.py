"""What the runs of one engine share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from cascade.core.registry import ResourceRegistry
from cascade.graph.slices import Work, whole
from cascade.graph.structure import Ref, Structure

if TYPE_CHECKING:
    from cascade.core.activity import Activity
    from cascade.core.calls import Call
    from cascade.core.state import StateBackend
    from cascade.events import MessageBus
    from cascade.executors.executor import Executor
    from cascade.graph.plan_cache import PlanCache
    from cascade.limits.gate import Gate
    from cascade.workflow.expressions import Expression

TailCalls = Literal["follow", "forbid"]


class Compiler(Protocol):
    """Makes code for the virtual machine, which knows what `Given` and the routine are."""

    def compiling(
        self, structure: Structure, root: Ref, is_body: bool, given: frozenset[Any]
    ) -> Work[Any]: ...


@dataclass(slots=True)
class FusedTier:
    """How the virtual machine used its fused tier, and when it does.

    A loop is fused once `hot_after` instructions of it were interpreted. `leaves`, for tests, is
    asked after each call whether to go on in the interpreter there.
    """

    hot_after: int = 100
    leaves: Callable[[], bool] | None = None
    entries: int = 0
    exits: int = 0


@dataclass(eq=False, slots=True)
class Services:
    """What a run asks for without knowing the engine, which makes one of these for all its runs."""

    bus: MessageBus
    gate: Gate
    plans: PlanCache
    compiler: Compiler
    executor: Executor | None
    state_backend: StateBackend | None
    tail_calls: TailCalls
    teardown_timeout: float  # seconds
    resources: ResourceRegistry = field(default_factory=ResourceRegistry)
    targets: dict[str, Expression[Any]] = field(default_factory=dict)
    fused_tier: FusedTier = field(default_factory=FusedTier)
    compiled: int = 0  # structures
    # Hears of each attempt that is announced, with its arguments, which no event carries.
    on_attempt: Callable[[Call], None] | None = None
    # Hears of each run that begins, with the counters that it keeps only if somebody hears.
    on_run: Callable[[Activity], None] | None = None

    def compile(self, structure: Structure, root: Ref, is_body: bool, given: frozenset[Any]) -> Any:
        """Code for the virtual machine."""
        return whole(self.compiling(structure, root, is_body, given))

    def compiling(
        self, structure: Structure, root: Ref, is_body: bool, given: frozenset[Any]
    ) -> Work[Any]:
        """The same, in slices. It is asked for when an evaluation is the first of its kind."""
        if not structure.is_compiled:
            structure.is_compiled = True
            self.compiled += 1
        return self.compiler.compiling(structure, root, is_body, given)
