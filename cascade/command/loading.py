"""Finding a target that is named on the command line: `FILE.py:NAME` or `package.module:NAME`.

A file is imported under the name that it has as a module, its folder (or that of the package
around it) first on `sys.path`: so worker processes find its functions, too.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import Parameter
from pathlib import Path
from types import ModuleType
from typing import Any

from cascade.errors import MissingParameterError, did_you_mean
from cascade.graph.plan import inputs_of
from cascade.graph.reading import read
from cascade.graph.structure import Structure
from cascade.workflow.expressions import Expression, Lazy, Router
from cascade.workflow.inputs import Inputs, Param
from cascade.workflow.resources import ResourceDefinition
from cascade.workflow.task import BoundTask, Task


class LoadError(Exception):
    """What was named is not there, or is no workflow; the message is one line."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A target, how to make it anew, and the resources that its module defines."""

    name: str
    target: Any
    make: Callable[[], Any]
    resources: tuple[ResourceDefinition, ...]


def load(named: str) -> Loaded:
    """The target called `FILE.py:NAME` or `package.module:NAME`.

    NAME is an expression, a container of them, or a function without arguments (a task, too) that
    makes one. Raises `LoadError`, and whatever the module or the function raises.
    """
    where, colon, name = named.rpartition(":")
    if not colon:
        where, name = named, ""
    module = _import_file(Path(where)) if _is_path(where) else _import_module(where)
    if not name:
        known = ", ".join(_targets(module)) or "none"
        raise LoadError(f"{where!r} names no target; write {where}:NAME; it has: {known}")
    if not hasattr(module, name):
        raise LoadError(f"{where!r} has no {name!r}{did_you_mean(name, _targets(module))}")
    found = getattr(module, name)
    make = _maker(where, name, found)
    target = make()
    if not is_workflow(target):
        if inspect.iscoroutine(target):
            target.close()
        gave = "gave" if make is found else "is"
        raise LoadError(
            f"{name!r} of {where!r} {gave} {_brief(target)}, which is no workflow; a target is "
            "a task call, a map, a Router, or a list, tuple or dict of them"
        )
    return Loaded(name, target, make, _resources(where, module))


def is_workflow(value: Any) -> bool:
    """Whether there is anything to compute in `value`."""
    if isinstance(value, Expression):
        return True
    root: int = read(value).key[0]
    return root >= 0


def given_params(target: Any, pairs: Iterable[str]) -> dict[str, Any]:
    """The values given as `name=value`, checked against what `target` declares.

    Raises `LoadError` for what is malformed, unknown, missing or declared in two ways.
    """
    given: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise LoadError(f"the parameter {pair!r} has no value; write -p NAME=VALUE")
        if name in given:
            raise LoadError(f"the parameter {name!r} is given twice")
        given[name] = value
    reading = read(target)
    declared = inputs_of(Structure(reading.key), reading.data)
    known = {each.name for each in declared if isinstance(each, Param)}
    for name in given:
        if name not in known:
            raise LoadError(f"the target has no parameter {name!r}{did_you_mean(name, known)}")
    try:
        Inputs(given).declare(declared)
    except MissingParameterError as error:
        raise LoadError(_missing(error)) from None
    except (ValueError, TypeError) as error:
        raise LoadError(str(error)) from error
    return given


def _missing(error: MissingParameterError) -> str:
    clauses = [f"parameter {name!r} has no value; write -p {name}=..." for name in error.params]
    clauses += [f"environment variable {name!r} is not set" for name in error.variables]
    return "; ".join(clauses)


def _is_path(where: str) -> bool:
    return where.endswith(".py") or os.sep in where or "/" in where


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        folder = path.parent
        others = [each.name for each in folder.glob("*.py")] if folder.is_dir() else []
        raise LoadError(f"there is no file {str(path)!r}{_near(path.name, others)}")
    file = path.resolve()
    parts = [file.stem]
    folder = file.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    name = ".".join(parts[:-1] if parts[-1] == "__init__" and parts[1:] else parts)
    sys.path.insert(0, str(folder))
    module = None if "." in file.stem else importlib.import_module(name)
    if module is None or not _is_file_of(module, file):
        raise LoadError(
            f"the file {str(path)!r} cannot be imported as the module {name!r}, a name that is "
            "taken or none; rename the file"
        )
    return module


def _is_file_of(module: ModuleType, file: Path) -> bool:
    return module.__file__ is not None and Path(module.__file__).resolve() == file


def _import_module(name: str) -> ModuleType:
    if not name or name.startswith("."):
        raise LoadError(f"{name!r} is no module; write FILE.py:NAME or package.module:NAME")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not missing or not f"{name}.".startswith(f"{missing}."):
            raise
        parent, _, last = missing.rpartition(".")
        if parent and hasattr(sys.modules[parent], last):
            raise LoadError(
                f"there is no module {missing!r}; did you mean {parent}:{last}?"
            ) from None
        paths = getattr(sys.modules[parent], "__path__", ()) if parent else None
        others = [each.name for each in pkgutil.iter_modules(paths)]
        raise LoadError(
            f"there is no module {missing!r} (a file is named with its .py){_near(last, others)}"
        ) from None


def _near(name: str, others: Iterable[str]) -> str:
    near = get_close_matches(name, list(others), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _maker(where: str, name: str, found: Any) -> Callable[[], Any]:
    if not callable(found) or isinstance(found, Expression):
        return lambda: found
    needed = _needed(found)
    if needed:
        raise LoadError(
            f"{name!r} of {where!r} needs arguments ({', '.join(needed)}); "
            "name a function without any that makes the target"
        )
    return found if not isinstance(found, Task | BoundTask) else lambda: found()


def _needed(function: Callable[..., Any]) -> list[str]:
    """The parameters that must be given."""
    try:
        parameters: Mapping[str, Parameter] = inspect.signature(function).parameters
    except (ValueError, TypeError):
        return []
    optional = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return [
        each.name
        for each in parameters.values()
        if each.default is Parameter.empty and each.kind not in optional
    ]


def _targets(module: ModuleType) -> list[str]:
    """The names of `module` that can be targets, as far as that is known without a call."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (isinstance(value, Lazy | Router) or _makes_target(module, value))
    ]


def _makes_target(module: ModuleType, value: Any) -> bool:
    is_function = inspect.isfunction(value) and not inspect.iscoroutinefunction(value)
    if not (is_function or isinstance(value, Task)):
        return False
    return value.__module__ == module.__name__ and not _needed(value)


def _resources(where: str, module: ModuleType) -> tuple[ResourceDefinition, ...]:
    found: dict[str, ResourceDefinition] = {}
    for value in vars(module).values():
        if not isinstance(value, ResourceDefinition):
            continue
        if found.setdefault(value.name, value) is not value:
            raise LoadError(f"{where!r} defines the resource {value.name!r} twice; rename one")
    return tuple(found.values())


def _brief(value: object, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."
