"""What runs targets: `Engine`, for run after run, and `run` / `run_async`, which make one.

`VirtualMachine` stands beside `Engine`, since without one it makes its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import dataclass
from inspect import Parameter
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack, cast, overload

import anyio
from anyio.lowlevel import current_token

from cascade.amounts import Rate
from cascade.compiler import BlueprintBuilder
from cascade.core.interpreter import GraphExecutionStrategy
from cascade.core.interrupts import Terminated, run_interruptible, terminate
from cascade.core.outlet import Outlet
from cascade.core.registry import ResourceRegistry
from cascade.core.run import Run
from cascade.core.services import Services, TailCalls
from cascade.core.stream import Stream, check_items, streaming
from cascade.errors import did_you_mean
from cascade.events import MessageBus
from cascade.graph.plan_cache import MOST_SLOTS, PlanCache
from cascade.graph.solver import NativeSolver
from cascade.limits.constraints import ConstraintManager, GlobalConstraint
from cascade.limits.gate import Gate
from cascade.live.progress import Progress
from cascade.vm.machine import Machine, VMExecutionStrategy
from cascade.vm.verify import verify
from cascade.workflow.expressions import Expression, MappedLazyResult, check_target
from cascade.workflow.resources import ResourceDefinition

if TYPE_CHECKING:
    from cascade.core.activity import Activity
    from cascade.core.state import StateBackend
    from cascade.executors.executor import Executor
    from cascade.graph.solver import Solver
    from cascade.vm.blueprint import Blueprint

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """How often structures were known (`plan_hits`), new, and dropped; how many are kept.

    `compiled` counts the structures compiled for the virtual machine, `fused_entries` and
    `fused_exits` how often it entered and left its fused tier.
    """

    plan_hits: int
    plan_misses: int
    plan_evictions: int
    plans: int
    compiled: int
    fused_entries: int
    fused_exits: int


class EngineRunOptions(TypedDict, total=False):
    """The options of `Engine.run`: what is of one run."""

    params: Mapping[str, Any] | None
    use_vm: bool
    max_steps: int | None
    resources: Iterable[ResourceDefinition]
    progress: bool


class RunAsyncOptions(EngineRunOptions, total=False):
    """The options of `run_async`: those of the engine that it makes beside those of its run."""

    system_resources: Mapping[str, float | Rate] | None
    constraints: Iterable[GlobalConstraint]
    executor: Executor | None
    bus: MessageBus | None
    tail_calls: TailCalls


class RunOptions(RunAsyncOptions, total=False):
    """The options of `run`: the event loop's beside those of `run_async`."""

    backend: str
    backend_options: Mapping[str, Any] | None


def _with_options_of(taker: Callable[..., Any]) -> Callable[[F], F]:
    """Show in place of `**options` those of `taker`, to which they are handed."""

    def show(function: F) -> F:
        own = inspect.signature(function)
        shown = [p for p in own.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
        names = {parameter.name for parameter in shown} | {"self"}
        handed = [p for name, p in inspect.signature(taker).parameters.items() if name not in names]
        target, *rest = shown
        vars(function)["__signature__"] = own.replace(parameters=[target, *handed, *rest])
        return function

    return show


def _refuse_unknown(function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise `TypeError` for an option that the function, which hands them on, does not have."""
    known = list(inspect.signature(function).parameters)[1:]
    for name in options:
        if name not in known:
            raise TypeError(
                f"{function.__name__}() got an unexpected keyword argument {name!r}"
                f"{did_you_mean(name, known)}"
            )


class Engine:
    """Runs targets, one after the other or at the same time, in one event loop after another.

    Concurrent runs share its capacity (`system_resources`, amounts by name) and its constraints:
    `engine.constraints` is a `ConstraintManager`, `engine.bus` the `MessageBus`. `solver`,
    `executor` and `state_backend` replace what is in the box. `tail_calls="forbid"` makes a
    returned expression a `StaticGraphError`. `resources` is a list of resource definitions, as if
    each was given to `register`. `plan_cache_size` bounds the structures that are
    kept, and `plan_cache_slots` all of them together: what gets a value, and rows of code for the
    virtual machine. Those whose newest Task nobody else uses go sooner. `teardown_timeout`
    bounds the tear-down of each resource, in seconds.

    Raises `ValueError` for options out of range, `TypeError` for what does not have the methods
    of its protocol. A run while the engine is in use in another event loop is a `RuntimeError`.
    """

    def __init__(
        self,
        *,
        solver: Solver | None = None,
        executor: Executor | None = None,
        bus: MessageBus | None = None,
        state_backend: StateBackend | None = None,
        system_resources: Mapping[str, float | Rate] | None = None,
        constraints: Iterable[GlobalConstraint] = (),
        resources: Iterable[ResourceDefinition] = (),
        tail_calls: TailCalls = "follow",
        plan_cache_size: int = 1024,
        plan_cache_slots: int = MOST_SLOTS,
        teardown_timeout: float = 30.0,
    ) -> None:
        if tail_calls not in ("follow", "forbid"):
            raise ValueError(f"tail_calls={tail_calls!r} must be 'follow' or 'forbid'")
        if not isinstance(teardown_timeout, int | float) or not 0 < teardown_timeout <= inf:
            raise ValueError(f"teardown_timeout={teardown_timeout!r} must be seconds above 0")
        _check_kind("bus", bus, MessageBus.__name__, ("publish", "subscribe", "listens"))
        _check_kind("solver", solver, "Solver", ("resolve",))
        _check_kind("executor", executor, "Executor", ("execute",))
        _check_kind(
            "state_backend",
            state_backend,
            "StateBackend",
            ("put_result", "get_result", "has_result", "mark_skipped", "get_skip_reason", "clear"),
        )
        solver = solver if solver is not None else NativeSolver()
        self.services = Services(
            bus=bus if bus is not None else MessageBus(),
            gate=Gate(system_resources),
            plans=PlanCache(plan_cache_size, solver, plan_cache_slots),
            compiler=BlueprintBuilder(),
            executor=executor,
            state_backend=state_backend,
            tail_calls=tail_calls,
            teardown_timeout=float(teardown_timeout),
        )
        self.bus = self.services.bus
        self.constraints: ConstraintManager = self.services.gate.constraints
        for constraint in _listed("constraints", constraints, GlobalConstraint):
            self.constraints.update(constraint)
        for definition in _listed("resources", resources, ResourceDefinition):
            self.register(definition)
        self._recording = False

    @overload
    async def run(self, target: Expression[T], **options: Unpack[EngineRunOptions]) -> T: ...
    @overload
    async def run(self, target: Any, **options: Unpack[EngineRunOptions]) -> Any: ...
    async def run(
        self,
        target: Any,
        *,
        params: Mapping[str, Any] | None = None,
        use_vm: bool = False,
        max_steps: int | None = None,
        resources: Iterable[ResourceDefinition] = (),
        progress: bool = False,
    ) -> Any:
        """The value of `target`: any expression, literal, or container of them.

        `params` are values by the name of the Param; `use_vm` takes the virtual machine;
        `max_steps` bounds the executions of each loop (`StepLimitError`). `resources` are
        definitions for this run alone, in place of the engine's of the same names. `progress`
        shows the run, unless a `Progress` shows all of this engine. The first failure ends
        the run and surfaces as itself, with notes. A skipped target is None if only its
        predecessor was skipped, else a `DependencyMissingError`. Cancelled, it cancels and awaits
        all that it started.
        """
        return await self._run(target, None, params, use_vm, max_steps, resources, progress)

    async def _run(
        self,
        target: Any,
        outlet: Outlet | None,
        params: Mapping[str, Any] | None,
        use_vm: bool,
        max_steps: int | None,
        resources: Iterable[ResourceDefinition],
        progress: bool,
    ) -> Any:
        backend = self.services.state_backend
        if use_vm and backend is not None:
            raise ValueError(
                "a state_backend records what the graph strategy does; "
                "run with use_vm=False, or use an engine without one"
            )
        check_target(target)
        _check_run(params, max_steps)
        own = ResourceRegistry(around=self.services.resources)
        for definition in _listed("resources", resources, ResourceDefinition):
            own.register(definition)
        given = MappingProxyType(dict(params or {}))
        async with Progress(self) if progress and self.on_run is None else nullcontext():
            run = Run(self.services, params, max_steps, own, outlet)
            if use_vm:
                return await VMExecutionStrategy().execute(run, target, given)
            if backend is None:
                return await GraphExecutionStrategy().execute(run, target, given)
            return await self._run_recorded(run, target, given, backend)

    @overload
    def stream(
        self,
        target: MappedLazyResult[T],
        *,
        buffer: int = 100,
        **options: Unpack[EngineRunOptions],
    ) -> AbstractAsyncContextManager[Stream[T, list[T]]]: ...
    @overload
    def stream(
        self,
        target: Expression[S],
        *,
        items: Iterable[MappedLazyResult[T]],
        buffer: int = 100,
        **options: Unpack[EngineRunOptions],
    ) -> AbstractAsyncContextManager[Stream[T, S]]: ...
    @overload
    def stream(
        self,
        target: Any,
        *,
        items: Iterable[MappedLazyResult[T]] = (),
        buffer: int = 100,
        **options: Unpack[EngineRunOptions],
    ) -> AbstractAsyncContextManager[Stream[T, Any]]: ...
    def stream(
        self,
        target: Any,
        *,
        items: Iterable[MappedLazyResult[Any]] = (),
        buffer: int = 100,
        params: Mapping[str, Any] | None = None,
        use_vm: bool = False,
        max_steps: int | None = None,
        resources: Iterable[ResourceDefinition] = (),
        progress: bool = False,
    ) -> AbstractAsyncContextManager[Stream[Any, Any]]:
        """A run whose items are read as they settle: `async with engine.stream(m) as results:`.

        `async for item in results` gives a `cs.Item` for each item of the maps in `items`, which
        are parts of the target; by default of the target, if it is a map. A map in a loop gives
        its items in each iteration. `await results.value()` gives the target's value. While
        `buffer` items are not read, no further item starts, and a `TaskBlocked` says so.

        Leaving the block before the run is over cancels and awaits it. What the run fails with is
        raised by the iteration, after the items that settled before, by `value()`, and at the end
        of a block that met neither; never in a group. The other options are those of `run`. Raises
        `ValueError` for a `buffer` below 1, and on entering for what is no map of the target.

        >>> import anyio, cascade as cs
        >>> @cs.task
        ... def double(x):
        ...     return 2 * x
        >>> async def main():
        ...     async with cs.Engine().stream(double.map(x=[1, 2])) as results:
        ...         return [item.value async for item in results]
        >>> anyio.run(main)
        [2, 4]
        """
        check_target(target)
        if not isinstance(buffer, int) or isinstance(buffer, bool) or buffer < 1:
            raise ValueError(f"buffer={buffer!r} must be a whole number above 0")
        maps = check_items(items)
        if not maps and isinstance(target, MappedLazyResult):
            maps = (target,)

        async def run(outlet: Outlet) -> Any:
            return await self._run(target, outlet, params, use_vm, max_steps, resources, progress)

        return streaming(run, target, maps, buffer)

    async def _run_recorded(
        self, run: Run, target: Any, params: Mapping[str, Any], backend: StateBackend
    ) -> Any:
        if self._recording:
            raise RuntimeError(
                "this engine's state_backend records one run at a time; "
                "use an engine of its own for each concurrent run"
            )
        self._recording = True
        try:
            await backend.clear()
            return await GraphExecutionStrategy().execute(run, target, params)
        finally:
            self._recording = False

    @property
    def targets(self) -> Mapping[str, Expression[Any]]:
        """The registered targets, by name."""
        return self.services.targets

    @property
    def on_run(self) -> Callable[[Activity], None] | None:
        """Hears of each run that begins; `Progress` takes this place."""
        return self.services.on_run

    @on_run.setter
    def on_run(self, listener: Callable[[Activity], None] | None) -> None:
        self.services.on_run = listener

    def register(self, definition: ResourceDefinition) -> None:
        """Provide a resource under its name to all later runs; `TypeError` for what is none."""
        self.services.resources.register(definition)

    def register_target(self, name: str, expression: Expression[Any]) -> None:
        """Make `expression` reachable as `TailCall(target=name)`; `TypeError` for what is none."""
        if not isinstance(name, str) or not name:
            raise TypeError(f"a target's name must be a non-empty string, not {name!r}")
        if not isinstance(expression, Expression):
            raise TypeError(f"the target {name!r} must be an expression, not {expression!r}")
        self.services.targets[name] = expression

    def override_resource(self, name: str, provided: Any) -> AbstractContextManager[None]:
        """While the context lasts, resources not yet set up under `name` are `provided` instead.

        `provided` is a value, or a resource definition. It is for tests:
        `with engine.override_resource("database", {}): ...`.
        """
        return self.services.resources.override(name, provided)

    def statistics(self) -> EngineStatistics:
        """How the structure cache did since the engine was made."""
        plans, tier = self.services.plans, self.services.fused_tier
        kept = len(plans)  # counts the evictions that nobody has noticed yet
        return EngineStatistics(
            plans.hits,
            plans.misses,
            plans.evictions,
            kept,
            self.services.compiled,
            tier.entries,
            tier.exits,
        )


class VirtualMachine:
    """Executes Blueprints, in the setting of an engine (its resources, capacity, bus, ...)."""

    def __init__(self, engine: Engine | None = None) -> None:
        self._services = (Engine() if engine is None else engine).services
        if self._services.state_backend is not None:
            raise ValueError(
                "a state_backend records what the graph strategy does; "
                "give the VirtualMachine an engine without one"
            )

    async def execute(
        self,
        blueprint: Blueprint,
        data: tuple[Any, ...],
        *,
        params: Mapping[str, Any] | None = None,
        max_steps: int | None = None,
    ) -> Any:
        """The value of the target that `blueprint` was compiled from, with `data` as its literals.

        Raises `VerifyError` for a Blueprint that breaks a rule, `ValueError` for other than as
        many literals as it has.
        """
        verify(blueprint)
        if len(data) != blueprint.literals:
            raise ValueError(
                f"the Blueprint has {blueprint.literals} literals, but data holds {len(data)}; "
                "pass the data that BlueprintBuilder().build(target) gave for the same structure"
            )
        run = Run(self._services, params, max_steps)
        machine = Machine(run, blueprint)
        machine.check(blueprint.structure, data)
        structure = blueprint.structure
        root = structure.root
        name = structure.slots[root].name if root >= 0 else type(data[~root]).__name__
        return await machine.execute_loaded(structure, data, dict(params or {}), name)


@overload
async def run_async(target: Expression[T], **options: Unpack[RunAsyncOptions]) -> T: ...
@overload
async def run_async(target: Any, **options: Unpack[RunAsyncOptions]) -> Any: ...
@_with_options_of(Engine.run)
async def run_async(
    target: Any,
    *,
    system_resources: Mapping[str, float | Rate] | None = None,
    constraints: Iterable[GlobalConstraint] = (),
    executor: Executor | None = None,
    bus: MessageBus | None = None,
    tail_calls: TailCalls = "follow",
    **options: Unpack[EngineRunOptions],
) -> Any:
    """Compute `target` in the running event loop, asyncio's or trio's.

    The options are those of `run`, save `backend` and `backend_options`. The engine that it makes
    lasts for this one run; to share limits among runs, make an `Engine`.
    """
    _refuse_unknown(run_async, options)
    engine = Engine(
        executor=executor,
        bus=bus,
        system_resources=system_resources,
        constraints=constraints,
        tail_calls=tail_calls,
    )
    return await engine.run(target, **options)


@overload
def run(target: Expression[T], **options: Unpack[RunOptions]) -> T: ...
@overload
def run(target: Any, **options: Unpack[RunOptions]) -> Any: ...
@_with_options_of(run_async)
def run(
    target: Any,
    *,
    backend: str = "asyncio",
    backend_options: Mapping[str, Any] | None = None,
    **options: Unpack[RunAsyncOptions],
) -> Any:
    """Start an event loop and compute `target`, an expression, a literal or a container, in it.

    `params` are values by the name of the Param; `use_vm` takes the virtual machine; `backend` is
    "asyncio" or "trio", with `backend_options` for `anyio.run`; `system_resources` is capacity by
    name, `constraints` a list of `GlobalConstraint`, `resources` one of resource definitions.
    `executor` carries out the calls, `bus` gets the events. `tail_calls="forbid"` makes a returned
    expression a `StaticGraphError`; `max_steps` bounds the executions of each loop.

    What a task raises surfaces as itself. The first Ctrl-C (`KeyboardInterrupt`) and SIGTERM
    cancel the run and tear it down, the second ends the process; signals that the program handles
    itself are left to it. Raises `RuntimeError` inside a running loop, where
    `await cs.run_async(...)` does the same.

    >>> import cascade as cs
    >>> cs.run({"n": cs.Param("n", type=int)}, params={"n": "3"})
    {'n': 3}
    """
    _refuse_unknown(run, options)
    if backend not in ("asyncio", "trio"):
        raise ValueError(f"backend={backend!r} must be 'asyncio' or 'trio'")
    if _in_event_loop():
        raise RuntimeError(
            "cs.run starts an event loop, but one is running here; "
            "write await cs.run_async(target, ...) instead, or return the expression from a task"
        )

    async def main() -> Any:
        return await run_async(target, **options)

    try:
        return run_interruptible(main, backend, backend_options)
    except Terminated:
        terminate()


def _in_event_loop() -> bool:
    try:
        current_token()
    except anyio.NoEventLoopError:
        return False
    return True


def _listed(option: str, given: Any, kind: type[S]) -> Iterable[S]:
    """What was given, unless it is one where a list of them is meant: `TypeError`."""
    if isinstance(given, kind):
        raise TypeError(f"{option}={given!r} must be a list; write {option}=[...]")
    return cast("Iterable[S]", given)


def _check_kind(option: str, given: object, kind: str, methods: tuple[str, ...]) -> None:
    """Raise `TypeError` unless `given` has the methods of the protocol, or is None."""
    missing = [name for name in methods if not callable(getattr(given, name, None))]
    if given is not None and missing:
        raise TypeError(f"{option}={given!r} is no {kind}: it has no method {missing[0]!r}")


def _check_run(params: object, max_steps: object) -> None:
    if params is not None and not isinstance(params, Mapping):
        raise TypeError(f"params={params!r} must be a dict of value by name")
    if max_steps is None:
        return
    if not isinstance(max_steps, int) or isinstance(max_steps, bool) or max_steps < 1:
        raise ValueError(f"max_steps={max_steps!r} must be a whole number above 0, or None")
