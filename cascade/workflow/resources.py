"""Injected resources: generators that set something up, yield it once, and tear it down.

A resource is set up and torn down in one task, inside one cancel scope of its own that spans its
whole life: so it may hold task groups and cancel scopes open across its `yield`, and its scope can
turn into a shield with a deadline when the tear-down begins.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter
from types import TracebackType
from typing import Any, Final, Literal, ParamSpec, TypeVar, cast, overload

from anyio import CancelScope, current_time, get_cancelled_exc_class

from cascade.core.cancellation import (
    has_ended,
    has_requests,
    is_cancellation,
    is_requested,
    leave_requests_behind,
)
from cascade.errors import CycleError, ResourceNotFoundError
from cascade.workflow.expressions import Expression

P = ParamSpec("P")
T = TypeVar("T")
Scope = Literal["run", "step", "task"]
SCOPES: Final = ("run", "step", "task")  # from the widest to the narrowest


class Injected(Expression[Any]):
    """The value of the resource `name`, wherever a value can stand. Made by `cs.inject`."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise TypeError(f"cs.inject takes the name of a resource, not {name!r}")
        self.name = name

    def _described(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return f"<inject {self.name}>"


def inject(name: str) -> Any:
    """The resource `name`, as a parameter's default, an argument, or inside of one.

    Raises `TypeError` for what is no name. In the run, a name that nobody provides is a
    `ResourceNotFoundError` before anything runs.
    """
    return Injected(name)


@dataclass(frozen=True, slots=True, eq=False)
class ResourceDefinition:
    """How a resource is provided, under which name, and for how long it lives.

    Made by `cs.resource`. `dependencies` maps parameters of the provider to the resources that
    they inject.
    """

    name: str
    func: Callable[..., Any]
    scope: Scope
    dependencies: Mapping[str, str]

    def __repr__(self) -> str:
        return f"<resource {self.name} ({self.scope})>"


@overload
def resource(function: Callable[..., Any], /) -> ResourceDefinition: ...
@overload
def resource(
    function: None = None, /, *, name: str | None = None, scope: Scope = "run"
) -> Callable[[Callable[..., Any]], ResourceDefinition]: ...
@overload
def resource(
    function: Callable[..., Any], /, *, name: str | None = None, scope: Scope = "run"
) -> ResourceDefinition: ...
def resource(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    scope: Scope = "run",
) -> Any:
    """A generator or async generator function that yields once provides a resource.

    What stands before the `yield` sets it up, what follows tears it down, also on failure and
    cancellation, whose exception is thrown in at the `yield`. `scope`: "run" lives as long as the
    run, "step" as the innermost evaluation, "task" as one attempt. Its parameters inject other
    resources of its own or a wider scope. `name` is the function's, unless another is given.
    Raises `TypeError` for another kind of function, `ValueError` for an unknown scope.

    >>> import cascade as cs
    >>> @cs.resource
    ... def table():
    ...     yield {"a": 1}
    >>> @cs.task
    ... def look_up(key, table=cs.inject("table")):
    ...     return table[key]
    >>> cs.run(look_up("a"), resources=[table])
    1
    """
    if function is None:
        return lambda func: _define(func, name, scope)
    return _define(function, name, scope)


def _define(func: Any, name: str | None, scope: Scope) -> ResourceDefinition:
    label = name if name is not None else str(getattr(func, "__name__", repr(func)))
    if not (inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func)):
        raise TypeError(
            f"the resource {label!r} must be a generator or async generator function: "
            "set up, yield the value once, tear down"
        )
    if scope not in SCOPES:
        raise ValueError(f"scope={scope!r} of the resource {label!r} must be one of {SCOPES}")
    dependencies: dict[str, str] = {}
    for parameter in inspect.signature(func).parameters.values():
        if isinstance(parameter.default, Injected):
            dependencies[parameter.name] = parameter.default.name
        elif parameter.default is Parameter.empty and parameter.kind not in (
            Parameter.VAR_POSITIONAL,
            Parameter.VAR_KEYWORD,
        ):
            raise TypeError(
                f"parameter {parameter.name!r} of the resource {label!r} has no value; "
                f"inject one: {parameter.name}=cs.inject('...')"
            )
    return ResourceDefinition(label, func, scope, dependencies)


class Providers:
    """Who provides what, and in which order it is set up."""

    def lookup(self, name: str) -> ResourceDefinition | None:
        """The definition under `name`, if there is one."""
        raise NotImplementedError

    def names(self) -> tuple[str, ...]:
        """Those that an error may propose."""
        raise NotImplementedError

    def find(self, name: str, needed_by: str) -> ResourceDefinition:
        """The definition under `name`; `ResourceNotFoundError` if nobody provides it."""
        definition = self.lookup(name)
        if definition is None:
            raise ResourceNotFoundError(name, needed_by, self.names())
        return definition

    def set_up_order(self, name: str, needed_by: str) -> list[ResourceDefinition]:
        """What to set up, in order, for `name` to be there, itself last.

        Raises `ResourceNotFoundError`, `CycleError` for providers that inject each other, and
        `ValueError` for one that injects a resource of a narrower scope.
        """
        order: dict[str, ResourceDefinition] = {}
        path: dict[str, None] = {}
        stack = [(name, needed_by, False)]
        while stack:
            current, needer, done = stack.pop()
            definition = self.find(current, needer)
            if done:
                del path[current]
                order[current] = definition
            elif current in path:
                circle = list(path)[list(path).index(current) :]
                raise CycleError([*circle, current], "resource providers")
            elif current not in order:
                path[current] = None
                stack.append((current, needer, True))
                for dependency in reversed(tuple(definition.dependencies.values())):
                    self._check_scope(definition, dependency)
                    stack.append((dependency, f"the resource {current!r}", False))
        return list(order.values())

    def narrow(self, names: Iterable[str]) -> frozenset[str]:
        """Those of `names` that do not last for the whole run."""
        return frozenset(n for n in names if self.find(n, "the target").scope != "run")

    def _check_scope(self, definition: ResourceDefinition, dependency: str) -> None:
        inner = self.find(dependency, f"the resource {definition.name!r}")
        if SCOPES.index(inner.scope) > SCOPES.index(definition.scope):
            raise ValueError(
                f"the resource {definition.name!r} (scope {definition.scope!r}) injects "
                f"{inner.name!r} of the narrower scope {inner.scope!r}, which would be gone before "
                f"it; give {definition.name!r} the scope {inner.scope!r}"
            )


class ResourceRegistry(Providers):
    """Who provides what, for one engine, at the moment."""

    def __init__(self) -> None:
        self._definitions: dict[str, ResourceDefinition] = {}
        self._overrides: list[ResourceDefinition] = []  # the last of a name counts

    def register(self, definition: ResourceDefinition) -> None:
        """Provide `definition` under its name; a later one replaces an earlier one."""
        if not isinstance(definition, ResourceDefinition):
            raise TypeError(f"{definition!r} is no resource; decorate it with @cs.resource")
        self._definitions[definition.name] = definition

    @contextmanager
    def override(self, name: str, provided: Any) -> Generator[None]:
        """Provide a value, or another definition, under `name` while the context lasts."""
        before = self.lookup(name)
        if isinstance(provided, ResourceDefinition):
            definition = ResourceDefinition(
                name, provided.func, provided.scope, provided.dependencies
            )
        else:
            definition = _constant(name, provided, before.scope if before else "run")
        self._overrides.append(definition)
        try:
            yield
        finally:
            self._overrides.remove(definition)

    def lookup(self, name: str) -> ResourceDefinition | None:
        """The override that began last and has not ended, else what is registered."""
        overrides = (o for o in reversed(self._overrides) if o.name == name)
        return next(overrides, None) or self._definitions.get(name)

    def names(self) -> tuple[str, ...]:
        """What is registered."""
        return tuple(self._definitions)


class ProvidersAhead(Providers):
    """Who would provide what, were it needed now: what a run has needed before has stayed."""

    def __init__(
        self, registry: ResourceRegistry, needed: Mapping[str, ResourceDefinition]
    ) -> None:
        self._registry = registry
        self._needed = needed

    def lookup(self, name: str) -> ResourceDefinition | None:
        """The definition that was needed first, else that of the moment."""
        return self._needed.get(name) or self._registry.lookup(name)

    def names(self) -> tuple[str, ...]:
        """Those of the engine."""
        return self._registry.names()


class RunProviders(ProvidersAhead):
    """Who provides what for one run: a definition that it has needed once stays for all of it.

    Otherwise an override that ends meanwhile would take away what is set up and in use.
    """

    def __init__(self, registry: ResourceRegistry) -> None:
        needed: dict[str, ResourceDefinition] = {}
        super().__init__(registry, needed)
        self._keep = needed.__setitem__
        self.ahead = ProvidersAhead(registry, needed)

    def lookup(self, name: str) -> ResourceDefinition | None:
        """The same, kept from now on."""
        definition = super().lookup(name)
        if definition is not None:
            self._keep(name, definition)
        return definition


def _constant(name: str, value: Any, scope: Scope) -> ResourceDefinition:
    def provide() -> Generator[Any]:
        yield value

    return ResourceDefinition(name, provide, scope, {})


class _Context(AbstractAsyncContextManager[T]):
    """What `contextlib.asynccontextmanager` makes, for errors that cannot be written to, too."""

    def __init__(self, generator: AsyncGenerator[T]) -> None:
        self._generator = generator

    async def __aenter__(self) -> T:
        return await anext(self._generator)

    async def __aexit__(
        self, _: object, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            if error is None:
                await anext(self._generator)
            else:
                await self._generator.athrow(error)
        except BaseException as raised:
            if error is None and isinstance(raised, StopAsyncIteration):
                return False
            if error is None or not (raised is error or _is_stop(raised, error)):
                raise
            # Not `error.__traceback__ = ...`, which a frozen dataclass refuses.
            BaseException.with_traceback(error, traceback)
        return False


def context_manager(
    function: Callable[P, AsyncGenerator[T]],
) -> Callable[P, AbstractAsyncContextManager[T]]:
    """An async context manager of a generator that yields once and raises on what it is thrown."""

    @wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> AbstractAsyncContextManager[T]:
        return _Context(function(*args, **kwargs))

    return make


@context_manager
async def opened(
    definition: ResourceDefinition,
    arguments: Mapping[str, Any],
    deadline: float,
    failed: Callable[[BaseException, BaseException | None], None],
) -> AsyncGenerator[Any]:
    """Set the resource up, lend its value to the body, tear it down whatever the body does.

    The tear-down is shielded and bounded by `deadline` seconds. An exception of the body is thrown
    in at the `yield` and goes on afterwards; what goes wrong in the tear-down is given to `failed`,
    with that exception.
    """
    failure: BaseException | None = None
    broken: BaseException | None = None
    was_cancelled = was_requested = is_late = False
    scope = CancelScope()
    try:
        with scope:
            generator = definition.func(**arguments)
            value = await _set_up(definition, generator)
            try:
                yield value
            except BaseException as error:  # raised again below, after the tear-down
                failure = error
                was_cancelled, was_requested = is_cancellation(error), is_requested(error)
            scope.shield = True
            scope.deadline = current_time() + deadline
            try:
                await _tear_down(definition, generator, failure)
                if has_requests():
                    await leave_requests_behind()
            except BaseException as error:
                if is_cancellation(error):  # its time is up
                    raise
                broken = error
    except get_cancelled_exc_class():
        if not has_ended(scope):
            raise
        is_late = True
    if is_late or scope.cancelled_caught:
        failed(
            TimeoutError(
                f"the tear-down of the resource {definition.name!r} did not finish within "
                f"{deadline:g} s and was cancelled"
            ),
            failure,
        )
    if failure is not None and was_cancelled and not is_cancellation(failure):
        # A scope that the resource itself holds open ended the body.
        raise broken if broken is not None else _ended_by_itself(definition)
    try:
        if broken is not None and was_requested and not was_cancelled:
            raise broken  # a TaskGroup of asyncio that the resource holds open ends the body so
        if broken is not None:
            failed(broken, failure)
        if failure is not None:
            raise failure
    finally:
        del failure, broken  # their tracebacks refer to this frame


def _ended_by_itself(definition: ResourceDefinition) -> RuntimeError:
    return RuntimeError(f"the resource {definition.name!r} ended by itself while it was in use")


async def _set_up(definition: ResourceDefinition, generator: Any) -> Any:
    is_async = inspect.isasyncgen(generator)
    try:
        return await generator.__anext__() if is_async else next(generator)
    except (StopIteration, StopAsyncIteration) as stop:
        if is_async != isinstance(stop, StopAsyncIteration):
            raise  # Python tells a generator's own StopIteration apart, not one of the other kind
        raise RuntimeError(
            f"the resource {definition.name!r} did not yield; it must yield its value once"
        ) from None


async def _tear_down(
    definition: ResourceDefinition, generator: Any, failure: BaseException | None
) -> None:
    """Resume the generator with what happened, and make sure that it ends."""
    try:
        if inspect.isasyncgen(generator):
            ended = await _ends_async(generator, failure)
        else:
            ended = _ends(generator, failure)
    except BaseException as error:
        if failure is not None and _is_only(error, failure):
            return
        raise
    if not ended:
        raise RuntimeError(
            f"the resource {definition.name!r} yielded twice; it must yield its value once"
        )


def _ends(generator: Any, failure: BaseException | None) -> bool:
    try:
        if failure is None:
            next(generator)
        else:
            generator.throw(failure)
    except StopIteration:
        return True
    generator.close()
    return False


async def _ends_async(generator: Any, failure: BaseException | None) -> bool:
    try:
        if failure is None:
            await generator.__anext__()
        else:
            await generator.athrow(failure)
    except StopAsyncIteration:
        return True
    await generator.aclose()
    return False


def _is_only(error: BaseException, failure: BaseException) -> bool:
    """Whether `error` is just `failure` again, as itself or as all there is in a group."""
    todo = [error]
    while todo:
        current = todo.pop()
        if isinstance(current, BaseExceptionGroup):
            todo.extend(cast("BaseExceptionGroup[BaseException]", current).exceptions)
        elif current is not failure and not _is_stop(current, failure):
            return False
    return True


def _is_stop(error: BaseException, failure: BaseException) -> bool:
    """Whether `error` is what Python makes of a Stop(Async)Iteration thrown into a generator."""
    is_stop = isinstance(failure, StopIteration | StopAsyncIteration)
    return is_stop and isinstance(error, RuntimeError) and error.__cause__ is failure
