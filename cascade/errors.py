"""Every error of Cascade's own: one `CascadeError`, each also the builtin a caller would expect.

Each exception is built from typed fields and makes its message from them, so that a handler can
read the fields and a person can read the message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import ClassVar

from cascade.plain import brief


def did_you_mean(unknown: object, known: Iterable[object]) -> str:
    """The closing clause of a "no such name" message: the nearest known name, else all of them."""
    by_text = {_text(name): brief(name) for name in known}
    if not by_text:
        return "; none are known"
    near = get_close_matches(_text(unknown), list(by_text), n=1)
    question = f"; did you mean {by_text[near[0]]}?" if near else ";"
    return f"{question} known: {', '.join(by_text[text] for text in sorted(by_text))}"


def _text(name: object) -> str:
    return name if isinstance(name, str) else brief(name)


def add_note(error: BaseException, note: str) -> None:
    """Tell more about `error`, if it lets itself be told (a frozen dataclass does not)."""
    try:
        error.add_note(note)
    except KeyboardInterrupt:
        raise
    except BaseException:  # it is the failure that counts, not what its class makes of a note
        return


def add_cause(error: BaseException, cause: BaseException) -> None:
    """`cause` led to `error`, unless `error` names another cause."""
    if error is not cause and error.__cause__ is None:
        # Not `error.__cause__ = ...`, which a frozen dataclass refuses.
        BaseException.__setattr__(error, "__cause__", cause)


class CascadeError(Exception):
    """The base of every error that Cascade itself raises.

    `ends_run` tells whether it ends the run whatever retry, fallback or `.settled()` are given:
    then something is wrong with the program, and not with what a task met.
    """

    ends_run: ClassVar[bool] = True


def ends_run(error: BaseException) -> bool:
    """Whether `error` ends the run whatever policies and scopes it meets."""
    return isinstance(error, CascadeError) and error.ends_run


class CycleError(CascadeError, ValueError):
    """The expressions, or the resource providers, depend on each other in a circle.

    `path` names the members of the circle in order, the first again at the end.
    """

    def __init__(self, path: Sequence[str], what: str = "expressions") -> None:
        self.path = tuple(path)
        self.what = what
        super().__init__(path, what)

    def __str__(self) -> str:
        circle = f"{self.what} depend on each other in a circle: {_shortened(self.path)}"
        if self.what == "expressions":
            return f"{circle}; a loop is made with cs.bind and cs.Jump, not with a dependency"
        return circle


def _shortened(path: Sequence[str], most: int = 20) -> str:
    if len(path) > most:
        path = [*path[: most // 2], f"... {len(path) - most} more ...", *path[-most // 2 :]]
    return " -> ".join(path)


class RouteNotFoundError(CascadeError, LookupError):
    """A Router's selector gave a key that is not among its routes, and there is no default."""

    def __init__(self, key: object, routes: Sequence[object]) -> None:
        self.key = key
        self.routes = tuple(routes)
        super().__init__(key, self.routes)

    def __str__(self) -> str:
        keys = ", ".join(map(brief, self.routes)) or "none"
        return (
            f"the router has no route {brief(self.key)}; its routes are {keys}; "
            "add the route or give the Router a default="
        )


class JumpKeyError(CascadeError, LookupError):
    """A Jump names a key that the node's selector does not have."""

    def __init__(self, task_name: str, key: object, keys: Sequence[object]) -> None:
        self.task_name = task_name
        self.key = key
        self.keys = tuple(keys)
        super().__init__(task_name, key, self.keys)

    def __str__(self) -> str:
        near = did_you_mean(self.key, self.keys)
        return f"task {self.task_name!r} jumped to the unknown key {brief(self.key)}{near}"


class JumpNotBoundError(CascadeError, RuntimeError):
    """A task returned a Jump where no selector can serve it."""

    def __init__(self, task_name: str, key: object) -> None:
        self.task_name = task_name
        self.key = key
        super().__init__(task_name, key)

    def __str__(self) -> str:
        return (
            f"task {self.task_name!r} returned Jump({brief(self.key)}), but nothing is bound there "
            "to serve it; write cs.bind(node, cs.select_jump({...})) on the node that jumps "
            "(map items and returned expressions cannot jump to the routes of their owner)"
        )


class TargetNotFoundError(CascadeError, LookupError):
    """A TailCall names a target that is not registered with the engine."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name = name
        self.known = tuple(known)
        super().__init__(name, self.known)

    def __str__(self) -> str:
        near = did_you_mean(self.name, self.known)
        return f"no target is registered as {self.name!r}{near}; see engine.register_target"


class ResourceNotFoundError(CascadeError, LookupError):
    """Something injects a resource that nobody provides."""

    def __init__(self, name: str, needed_by: str, known: Sequence[str]) -> None:
        self.name = name
        self.needed_by = needed_by
        self.known = tuple(known)
        super().__init__(name, needed_by, self.known)

    def __str__(self) -> str:
        near = did_you_mean(self.name, self.known)
        return (
            f"{self.needed_by} injects the resource {self.name!r}, which nobody provides{near}; "
            "pass it in resources=[...] or engine.register(...)"
        )


class MissingParameterError(CascadeError, LookupError):
    """Params without a value and environment variables that are not set, all of them at once.

    `unknown` are names that were given a value and that nothing declares: misspelt, it may be.
    """

    def __init__(
        self, params: Sequence[str], variables: Sequence[str] = (), unknown: Sequence[str] = ()
    ) -> None:
        self.params = tuple(params)
        self.variables = tuple(variables)
        self.unknown = tuple(unknown)
        super().__init__(self.params, self.variables, self.unknown)

    def __str__(self) -> str:
        clauses = []
        if self.params:
            given = ", ".join(f"{name!r}: ..." for name in self.params)
            clauses.append(f"no value for Param {_listed(self.params)}; pass params={{{given}}}")
        if self.variables:
            clauses.append(f"environment variable {_listed(self.variables)} is not set")
        clauses.append("or declare a default")
        if self.unknown:
            clauses.append(f"given, but not declared: {_listed(self.unknown)}")
        return "; ".join(clauses)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


class StaticGraphError(CascadeError, TypeError):
    """A task returned an expression although the engine forbids it (`tail_calls="forbid"`)."""

    def __init__(self, task_name: str, returned: str) -> None:
        self.task_name = task_name
        self.returned = returned
        super().__init__(task_name, returned)

    def __str__(self) -> str:
        return (
            f"task {self.task_name!r} returned {self.returned}, but tail_calls='forbid' wants a "
            "static graph; return a value, a Jump or a TailCall, or run with tail_calls='follow'"
        )


class CacheKeyError(CascadeError, TypeError):
    """An argument of a cached task has no exact encoding, so no cache key can be made of it."""

    def __init__(self, task_name: str, parameter: str, value_type: str, reason: str = "") -> None:
        self.task_name = task_name
        self.parameter = parameter
        self.value_type = value_type
        self.reason = reason
        super().__init__(task_name, parameter, value_type, reason)

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return (
            f"parameter {self.parameter!r} of the cached task {self.task_name!r} holds a value of "
            f"type {self.value_type}, which cannot be part of a cache key{reason}; pass plain data "
            "(numbers, text, bytes, enums, paths, dates, dataclasses and containers of these) "
            "or inject the object as a resource"
        )


class VerifyError(CascadeError, ValueError):
    """A Blueprint breaks a rule of the machine and is not run."""


class DependencyMissingError(CascadeError, RuntimeError):
    """The target of a run was skipped, so there is no value to return.

    `task_id` is the node (or target) that has no value, `arg_name` what of it needed the node
    `dependency_id`, the one that was skipped first, and `reason` why that one was skipped.
    """

    def __init__(self, task_id: str, arg_name: str, dependency_id: str, reason: str) -> None:
        self.task_id = task_id
        self.arg_name = arg_name
        self.dependency_id = dependency_id
        self.reason = reason
        super().__init__(task_id, arg_name, dependency_id, reason)

    def __str__(self) -> str:
        if self.dependency_id.startswith(
            f"{self.task_id}/"
        ):  # of an iteration, a returned expression
            return (
                f"{self.task_id} has no value: in it, {self.dependency_id} was skipped "
                f"({self.reason}); give that node .run_if(..., default=...) or route around it"
            )
        if self.task_id == self.dependency_id:
            return (
                f"{self.task_id} has no value: it was skipped ({self.reason}); "
                "give it .run_if(..., default=...)"
            )
        return (
            f"{self.task_id} has no value: its {self.arg_name} depends on {self.dependency_id}, "
            f"which was skipped ({self.reason}); give that node .run_if(..., default=...) or "
            "route around it"
        )


class DeadlockError(CascadeError, RuntimeError):
    """A call waits for what only the tasks, or groups, around it hold.

    It stands in a run inside a task of the same engine, or in a group.

    `task_name` waits, `thing` is what it lacks, `holders` are the names of the tasks that hold it
    and cannot end before the run inside them does.
    """

    def __init__(self, task_name: str, thing: str, holders: Sequence[str]) -> None:
        self.task_name = task_name
        self.thing = thing
        self.holders = tuple(holders)
        super().__init__(task_name, thing, self.holders)

    def __str__(self) -> str:
        names = ", ".join(map(repr, self.holders))
        return (
            f"task {self.task_name!r} waits for the {self.thing}, which is held by {names} around "
            "it, who cannot end before it does; give the task or group around it less, return the "
            "expression from the task instead of running it there, or give an inner run an engine "
            "of its own"
        )


class StepLimitError(CascadeError, RuntimeError):
    """A loop reached `max_steps` executions and wanted another one."""

    ends_run = False

    def __init__(self, loop: str, max_steps: int, data: object) -> None:
        self.loop = loop
        self.max_steps = max_steps
        self.data = data
        super().__init__(loop, max_steps, data)

    def __str__(self) -> str:
        return (
            f"the loop {self.loop!r} did not end within max_steps={self.max_steps} executions; "
            f"its last data was {brief(self.data)}"
        )


class TaskTimeoutError(CascadeError, TimeoutError):
    """An attempt of a task took longer than its `with_timeout` allows."""

    ends_run = False

    def __init__(self, task_name: str, seconds: float) -> None:
        self.task_name = task_name
        self.seconds = seconds
        super().__init__(task_name, seconds)

    def __str__(self) -> str:
        return f"task {self.task_name!r} did not finish within its timeout of {self.seconds:g} s"
