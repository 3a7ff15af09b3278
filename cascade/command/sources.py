"""What the source of a task's function shows about it, for findings before anything runs.

Only what can be read off is reported. Names are looked up as the function would look them up, in
its own imports and in its module; a call of anything else is no finding.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any, Final

from cascade.workflow.expressions import Jump

# Calls that hold their thread until something outside answers, by dotted name; a "." at the end
# makes it a prefix. What a package defines elsewhere is listed under both names.
_BLOCKING: Final = (
    "time.sleep",
    "os.system",
    "posix.system",
    "socket.create_connection",
    "subprocess.run",
    "subprocess.call",
    "subprocess.check_call",
    "subprocess.check_output",
    "urllib.request.urlopen",
    "urllib.request.urlretrieve",
    "requests.api.",
    "httpx._api.",
    *(
        f"{package}.{verb}"
        for package in ("requests", "httpx")
        for verb in ("get", "post", "put", "patch", "delete", "head", "options", "request")
    ),
)
# Of these, the ones that wait for ever unless they are given a timeout.
_PATIENT: Final = (
    "socket.create_connection",
    "subprocess.",
    "urllib.request.urlopen",
    "requests.",
)
_FOR_EVER: Final = (
    "anyio.sleep_forever",
    "anyio.connect_tcp",
    "anyio.connect_unix",
    "anyio.run_process",
    "asyncio.open_connection",
    "asyncio.streams.open_connection",
    "trio.sleep_forever",
    "trio.open_tcp_stream",
    "trio.run_process",
)
_SCOPES: Final = frozenset(
    {"fail_after", "fail_at", "move_on_after", "move_on_at", "timeout", "timeout_at", "wait_for"}
)


@dataclass(frozen=True, slots=True)
class Jumps:
    """The keys that a function jumps to.

    `complete`: there are no others. `only`: it does nothing else but jump or raise.
    """

    keys: tuple[Any, ...] = ()
    complete: bool = False
    only: bool = False


@dataclass(frozen=True, slots=True)
class Waits:
    """Calls that a function makes, by dotted name: those that hold its thread, those of them that
    may take for ever, and awaits that may take for ever."""

    blocking: tuple[str, ...]
    patient: tuple[str, ...]
    for_ever: tuple[str, ...]


def jumps_of(function: Callable[..., Any]) -> Jumps:
    """What `function` jumps to, as far as it can be read off.

    That is everything if what it returns is always written as `Jump(...)` with a literal key, as a
    choice `a if condition else b` of such, or as something that is no Jump for sure.
    """
    # What wraps a function may return something else.
    read = None if hasattr(function, "__wrapped__") else _read(function)
    if read is None:
        return Jumps()
    body, lookup = read
    found = [
        _returned(node.value, lookup) for node in _own_nodes(body) if isinstance(node, ast.Return)
    ]
    keys = dict.fromkeys(key for jumps in found for key in jumps.keys)
    only = bool(found) and all(jumps.only for jumps in found) and not _may_fall_through(body)
    return Jumps(tuple(keys), all(jumps.complete for jumps in found), only)


def waits_of(function: Callable[..., Any]) -> Waits:
    """The calls of `function` known for waiting; none if its source is not there."""
    read = _read(function)
    if read is None:
        return Waits((), (), ())
    body, lookup = read
    calls = [
        (call, name)
        for call in _own_nodes(body)
        if isinstance(call, ast.Call) and (name := _dotted(call.func, lookup))
    ]
    bounded = any(name.rpartition(".")[2] in _SCOPES for _, name in calls)
    blocking = [(call, name) for call, name in calls if _among(name, _BLOCKING)]
    return Waits(
        _once(name for _, name in blocking),
        _once(n for call, n in blocking if _among(n, _PATIENT) and not _has_timeout(call)),
        () if bounded else _once(name for _, name in calls if _among(name, _FOR_EVER)),
    )


Lookup = Callable[[str], str | None]  # from a name in a function to the dotted name it stands for


def _read(function: Callable[..., Any]) -> tuple[list[ast.stmt], Lookup] | None:
    """The body of a function, and what its names stand for; None without a source."""
    function = inspect.unwrap(function)
    if not inspect.isfunction(function):
        return None
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError, ValueError, RecursionError):
        return None
    definition = tree.body[0] if tree.body else None
    if not isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    return definition.body, _lookup(function, definition.body)


def _lookup(function: FunctionType, body: list[ast.stmt]) -> Lookup:
    imported = {name: full for node in _own_nodes(body) for name, full in _imported(node)}
    code = function.__code__
    outer: dict[str, Any] = {}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not assigned yet
            outer[name] = cell.cell_contents

    def lookup(name: str) -> str | None:
        if name in imported:
            return imported[name]
        if name in code.co_varnames or name in code.co_cellvars:
            return None
        return _full_name(outer.get(name, function.__globals__.get(name)))

    return lookup


def _full_name(value: Any) -> str | None:
    if isinstance(value, ModuleType):
        return value.__name__
    if inspect.isroutine(value) or isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    return None


def _imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """The names that a statement imports, and what they stand for."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            top = alias.name.partition(".")[0]
            yield (alias.asname, alias.name) if alias.asname else (top, top)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        for alias in node.names:
            yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _own_nodes(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """All nodes of a body, those of functions and classes defined in it aside."""
    inner = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
    todo: list[ast.AST] = list(reversed(body))
    while todo:
        node = todo.pop()
        if not isinstance(node, inner):
            yield node
            todo.extend(reversed(list(ast.iter_child_nodes(node))))


def _dotted(node: ast.expr, lookup: Lookup) -> str | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    start = lookup(node.id) if isinstance(node, ast.Name) else None
    return None if start is None else ".".join([start, *reversed(parts)])


def _returned(node: ast.expr | None, lookup: Lookup) -> Jumps:
    """The jumps of what one `return` gives."""
    keys: list[Any] = []
    complete = only = True
    todo = [node]
    while todo:
        current = todo.pop()
        if isinstance(current, ast.IfExp):
            todo += [current.orelse, current.body]
        elif isinstance(current, ast.Call) and _is_jump(current, lookup):
            known = _keys(current)
            keys += known or ()
            complete = complete and known is not None
        else:
            only = False
            complete = complete and (current is None or isinstance(current, _NO_JUMPS))
    return Jumps(tuple(keys), complete, only)


_NO_JUMPS: Final = (
    ast.Constant,
    ast.List,
    ast.Dict,
    ast.Set,
    ast.Tuple,
    ast.JoinedStr,
    ast.Compare,
    ast.ListComp,
    ast.DictComp,
    ast.SetComp,
)


def _is_jump(call: ast.Call, lookup: Lookup) -> bool:
    name = _dotted(call.func, lookup)
    return name in (f"{Jump.__module__}.{Jump.__qualname__}", "cascade.Jump")


def _keys(call: ast.Call) -> list[Any] | None:
    named = [keyword.value for keyword in call.keywords if keyword.arg == "target_key"]
    given = [*call.args[:1], *named]
    if len(given) != 1:
        return None
    keys: list[Any] = []
    todo = given
    while todo:
        current = todo.pop()
        if isinstance(current, ast.IfExp):
            todo += [current.orelse, current.body]
        elif isinstance(current, ast.Constant):
            keys.append(current.value)
        else:
            return None
    return keys


def _may_fall_through(body: list[ast.stmt]) -> bool:
    """Whether a body may come to its end, as far as its last statement shows."""
    todo = [body]
    while todo:
        block = todo.pop()
        last = block[-1] if block else None
        if isinstance(last, ast.Return | ast.Raise):
            continue
        if not isinstance(last, ast.If) or not last.orelse:
            return True
        todo += [last.body, last.orelse]
    return False


def _among(name: str, known: tuple[str, ...]) -> bool:
    return any(name.startswith(each) if each[-1] == "." else name == each for each in known)


def _has_timeout(call: ast.Call) -> bool:
    # A dictionary of keywords, or more positional arguments than one, may hold one.
    spelled = any(keyword.arg in ("timeout", None) for keyword in call.keywords)
    return spelled or len(call.args) > 1


def _once(names: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
