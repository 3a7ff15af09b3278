"""What is injected into tasks: the resources an engine knows by name."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any, Final, NoReturn

from cascade.errors import CycleError, ResourceNotFoundError
from cascade.workflow.resources import SCOPES, ResourceDefinition, Scope


def _provide_execution() -> NoReturn:
    raise AssertionError("an execution is told of its call, and is not set up")


EXECUTION: Final = ResourceDefinition("execution", _provide_execution, "task", {})


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
    """Who provides what, for one engine or one run of it, at the moment.

    What is registered for a run alone comes before what its engine, `around` it, has registered,
    and after the engine's overrides.
    """

    def __init__(self, around: ResourceRegistry | None = None) -> None:
        self._around = around
        self._definitions: dict[str, ResourceDefinition] = {}
        self._overrides: list[ResourceDefinition] = []  # the last of a name counts

    def register(self, definition: ResourceDefinition) -> None:
        """Provide `definition` under its name; a later one replaces an earlier one."""
        if not isinstance(definition, ResourceDefinition):
            raise TypeError(f"{definition!r} is no resource; decorate it with @cs.resource")
        if definition.name == EXECUTION.name:
            raise ValueError(
                f"{definition!r} has the name of a resource that is built in, a cs.Execution; "
                "give it another name, as @cs.resource(name=...)"
            )
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
        return self._override(name) or self._registered(name)

    def _override(self, name: str) -> ResourceDefinition | None:
        overrides = (o for o in reversed(self._overrides) if o.name == name)
        found = next(overrides, None)
        return self._around._override(name) if found is None and self._around else found

    def _registered(self, name: str) -> ResourceDefinition | None:
        found = EXECUTION if name == EXECUTION.name else self._definitions.get(name)
        return self._around._registered(name) if found is None and self._around else found

    def names(self) -> tuple[str, ...]:
        """What is registered."""
        around = self._around.names() if self._around else ()
        return tuple(dict.fromkeys((*around, *self._definitions)))


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
