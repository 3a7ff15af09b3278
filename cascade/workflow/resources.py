"""Injected resources: generators that set something up, yield it once, and tear it down.

A resource is set up and torn down in one task, inside one cancel scope of its own that spans its
whole life: so it may hold task groups and cancel scopes open across its `yield`, and its scope can
turn into a shield with a deadline when the tear-down begins.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, Final, Literal, overload

from cascade.workflow.expressions import Expression

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

    `"execution"` is built in: a `cs.Execution`, what the task may know of itself.
    Raises `TypeError` for what is no name. In the run, a name that nobody provides is a
    `ResourceNotFoundError` before anything runs.
    """
    return Injected(name)


@dataclass(frozen=True, slots=True)
class Execution:
    """What a task that is being executed may know of itself, by `cs.inject("execution")`.

    It is there in every mode and for every attempt; it is no part of a cache key. `task_id`,
    `task_name` and `attempt` (from 1) are those of the events, `max_attempts` those of the retry.
    `key`, 32 hexadecimal digits, is for services that carry a request out once per idempotency
    key: all attempts of one execution have the same, and every other node, map item, iteration of
    a loop, tail call and run has another.

    >>> import cascade as cs
    >>> @cs.task
    ... def pay(amount, execution=cs.inject("execution")):
    ...     return execution.task_id, execution.attempt, len(execution.key)
    >>> cs.run(pay(5))
    ('pay#0', 1, 32)
    """

    run_id: str
    task_id: str
    task_name: str
    attempt: int
    max_attempts: int
    key: str


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
