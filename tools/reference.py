"""Write docs/reference/ from the signatures and docstrings of the public names.

PAGES below is the one place that says which name stands on which page. A new public name gets its
place there; tests/house/test_reference.py fails for one that has none, and for pages that are not
up to date. `make docs` writes them.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from dataclasses import fields as dataclass_fields
from functools import cached_property
from pathlib import Path
from types import FunctionType
from typing import Any

import cascade
import cascade.testing

MARK = "This page is made from the code by `make docs`."
FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
WIDTH = 88  # of a signature on one line


@dataclass(frozen=True)
class Page:
    """One page: what it is about, what to read beside it, and the names on it, in order."""

    file: str
    title: str
    about: str
    names: tuple[str, ...]
    module: Any = cascade
    prefix: str = "cs"


PAGES = (
    Page(
        "tasks-and-expressions.md",
        "Tasks and expressions",
        "What describes a workflow. How-to: [loops](../how-to/loops.md), [maps, routers, "
        "conditions](../how-to/maps-routers-conditions.md), [retries, timeouts, "
        "caching](../how-to/retries-timeouts-caching.md). Why: [demand](../explanation/demand.md).",
        (
            *("task", "Task", "LazyResult", "MappedLazyResult", "unmapped", "lazily", "Router"),
            *("Param", "Env"),
            *("parameters", "sequence", "pipeline", "group", "first"),
            *("bind", "select_jump", "JumpSelector"),
            *("Jump", "TailCall", "RetryPolicy", "Outcome"),
            *("CachePolicy", "Hit", "InMemoryCache", "FileExistenceCache"),
        ),
    ),
    Page(
        "running.md",
        "Running",
        "What computes a workflow, and what may be replaced in it. Why: [demand]"
        "(../explanation/demand.md), [structure and data](../explanation/structure-and-data.md), "
        "[cancellation](../explanation/cancellation.md).",
        (
            *("run", "run_async", "Engine", "EngineStatistics", "Item", "Stream"),
            *("build_graph", "BuiltGraph", "Graph", "Node", "Edge"),
            *("Solver", "NativeSolver", "ExecutionPlan", "Executor", "LocalExecutor"),
            *("StateBackend", "InMemoryStateBackend", "GraphExecutionStrategy"),
        ),
    ),
    Page(
        "constraints.md",
        "Constraints",
        "Who may start, and when. How-to: [limits](../how-to/limits.md). Why: [constraint "
        "wakeups](../explanation/constraint-wakeups.md).",
        ("ConstraintManager", "GlobalConstraint", "Rate", "ConstraintStatistics"),
    ),
    Page(
        "resources.md",
        "Resources",
        "What tasks are given and what is torn down after them. How-to: "
        "[resources](../how-to/resources.md).",
        ("resource", "inject", "Execution", "ResourceDefinition"),
    ),
    Page(
        "events.md",
        "Events",
        "What a run publishes, and who shows it. How-to: [events](../how-to/events.md), "
        "[progress](../how-to/progress.md), [logs and telemetry](../how-to/logs-and-telemetry.md).",
        (
            *("MessageBus", "Event", "RunStarted", "RunFinished"),
            *("ResourceAcquired", "ResourceReleased", "TaskEvent", "TaskBlocked"),
            *("TaskExecutionStarted", "TaskExecutionFinished", "TaskRecovered", "TaskRetrying"),
            *("TaskSkipped", "TaskStalled"),
            *("Progress", "log_events"),
        ),
    ),
    Page(
        "pictures-and-records.md",
        "Pictures and records",
        "What shows a workflow before it runs, and what it did afterwards.",
        (
            *("visualize", "Picture", "to_json"),
            *("record", "Recording", "event_to_json", "chrome_trace", "report"),
        ),
    ),
    Page(
        "errors.md",
        "Errors",
        "When each is raised, and what to do about it, is in [errors](../errors.md).",
        (
            *("CascadeError", "CycleError", "MissingParameterError", "ResourceNotFoundError"),
            *("RouteNotFoundError", "JumpKeyError", "JumpNotBoundError", "TargetNotFoundError"),
            *("StaticGraphError", "StepLimitError", "TaskTimeoutError", "CacheKeyError"),
            *("DependencyMissingError", "DeadlockError", "VerifyError"),
        ),
    ),
    Page(
        "vm.md",
        "The virtual machine",
        "What `use_vm=True` goes through. Its [instructions](../isa.md); why: [the virtual "
        "machine](../explanation/virtual-machine.md).",
        ("BlueprintBuilder", "Blueprint", "VirtualMachine", "VMExecutionStrategy", "disassemble"),
    ),
    Page(
        "testing.md",
        "Testing",
        "What tests of workflows use, from `cascade.testing`. How-to: [test "
        "workflows](../how-to/testing.md), [agreement](../how-to/agreement.md).",
        ("virtual_time", "assert_strategies_agree"),
        cascade.testing,
        "cascade.testing",
    ),
)

# Objects that Cascade makes and a user only gets: their constructors are not shown.
MADE_BY_CASCADE = frozenset(
    {
        *("Task", "LazyResult", "MappedLazyResult", "JumpSelector", "ConstraintManager"),
        *("ConstraintStatistics", "EngineStatistics", "ResourceDefinition", "Blueprint"),
        *("Item", "Stream"),
        *("BuiltGraph", "Graph", "Node", "Edge", "Recording"),
    }
)

# Members without an underscore that other modules of the package call, and no user.
INTERNAL = frozenset(
    {
        *("Task.override", "Lazy.as_method"),
        *("Param.agrees_with", "Param.convert", "Engine.on_run", "BlueprintBuilder.routine"),
        "MessageBus.watch",
    }
)

# What is neither class nor function has no docstring.
ALIASES = {
    "ExecutionPlan": "Stages, each a list of the nodes that could run together. Every node of the "
    "graph stands in exactly one, after everything it needs."
}


class Reference:
    """All pages; it knows what has been described already, and where each name stands."""

    def __init__(self) -> None:
        self._places = {name: page.file for page in PAGES for name in page.names}
        self._described: dict[object, str] = {}

    @cached_property
    def pages(self) -> dict[str, str]:
        """The text of each file in docs/reference/, by its name."""
        return {page.file: self._page(page) for page in PAGES} | {"README.md": self._index()}

    def _index(self) -> str:
        rows = []
        for page in PAGES:
            names = ", ".join(f"[`{name}`]({page.file}#{name.lower()})" for name in page.names)
            rows.append(f"| [{page.title}]({page.file}) | {names} |")
        for path in sorted(FOLDER.glob("*.md")):
            text = path.read_text(encoding="utf-8")
            if path.name != "README.md" and MARK not in text:  # written by hand
                rows.append(f"| [{text.partition(chr(10))[0].lstrip('# ')}]({path.name}) | |")
        return (
            f"# Reference\n\n{MARK}\n\n"
            "Every public name stands on one page, with its signature and its docstring. `cs` is "
            "`cascade`: write `import cascade as cs`.\n\n"
            "| page | names |\n| --- | --- |\n" + "\n".join(rows) + "\n"
        )

    def _page(self, page: Page) -> str:
        parts = [f"# {page.title}", page.about, MARK]
        for name in page.names:
            parts += self._entry(name, getattr(page.module, name), page.prefix)
        return "\n\n".join(parts) + "\n"

    def _entry(self, name: str, thing: Any, prefix: str) -> Iterator[str]:
        yield f"## {name}"
        if name in ALIASES:
            yield _fenced("pyi", f"{prefix}.{name} = {_plain(repr(thing))}")
            yield ALIASES[name]
        elif inspect.isclass(thing):
            yield from self._class(name, thing, prefix)
        else:
            yield _fenced("pyi", _signature(f"{prefix}.{name}", thing))
            yield _prose(thing)

    def _class(self, name: str, kind: type, prefix: str) -> Iterator[str]:
        is_error = issubclass(kind, BaseException)
        is_given = is_error or name in MADE_BY_CASCADE or getattr(kind, "_is_protocol", False)
        head = f"class {prefix}.{name}"
        yield _fenced("pyi", head if is_given else _signature(head, kind))
        yield _prose(kind)
        bases = [base for base in kind.__bases__ if base.__module__ != "typing"]
        public = [self._link(b.__name__) for b in bases if b is not object and _is_known(b)]
        if public:
            yield f"Base: {', '.join(public)}."
        fields = _error_fields(kind) if is_error else _fields(kind)
        if is_given and fields:
            yield f"Fields: {', '.join(f'`{field}`' for field in fields)}."
        yield from self._members(name, kind)

    def _link(self, name: str) -> str:
        file = self._places.get(name)
        return f"`{name}`" if file is None else f"[`{name}`]({file}#{name.lower()})"

    def _members(self, name: str, kind: type) -> Iterator[str]:
        elsewhere: dict[str, list[str]] = {}
        for member, owner, value in _members(kind):
            if f"{owner.__name__}.{member}" in INTERNAL:
                continue
            if value in self._described:
                elsewhere.setdefault(self._described[value], []).append(member)
                continue
            self._described[value] = name
            yield f"### {name}.{member}"
            if isinstance(value, property):
                returns = inspect.signature(value.fget).return_annotation  # type: ignore[arg-type]
                yield _fenced("pyi", f"{member}: {_plain(str(returns))}")
                yield _prose(value)
            else:
                yield _fenced("pyi", _signature(member, value, is_method=True))
                yield _prose(value)
        for described, members in elsewhere.items():
            listed = ", ".join(f"`{member}`" for member in members)
            yield f"As of {self._link(described)}: {listed}."


def _is_known(base: type) -> bool:
    return base.__module__ == "builtins" or base.__name__ in cascade.__all__


def _members(kind: type) -> Iterator[tuple[str, type, Any]]:
    """Methods and properties, those of bases that are not public included."""
    seen: set[str] = set()
    for owner in kind.__mro__:
        is_own = owner is kind or not _is_known(owner)
        if not is_own or not owner.__module__.startswith("cascade"):
            continue
        for member, value in vars(owner).items():
            if member in seen or (member.startswith("_") and member != "__call__"):
                continue
            if isinstance(value, FunctionType | property):
                seen.add(member)
                yield member, owner, value


def _fields(kind: type) -> list[str]:
    if not is_dataclass(kind):
        return []
    inherited = {
        field.name
        for base in kind.__mro__[1:]
        if is_dataclass(base) and _is_known(base)
        for field in dataclass_fields(base)
    }
    own = [field for field in dataclass_fields(kind) if field.name not in inherited]
    return [f"{field.name}: {_plain(str(field.type))}" for field in own]


def _error_fields(kind: type) -> list[str]:
    if "__init__" not in vars(kind):
        return []
    given = list(inspect.signature(kind).parameters.values())
    # What is given as a sequence is kept as a tuple.
    kinds = [re.sub(r"Sequence\[(\w+)\]", r"tuple[\1, ...]", str(p.annotation)) for p in given]
    return [f"{p.name}: {kind}" for p, kind in zip(given, kinds, strict=True)]


def _signature(name: str, thing: Callable[..., Any], *, is_method: bool = False) -> str:
    signature = inspect.signature(thing)
    parameters = list(signature.parameters.values())[1 if is_method else 0 :]
    parts: list[str] = []
    kinds = [p.kind for p in parameters]
    for index, parameter in enumerate(parameters):
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.kind not in kinds[:index]:
            parts.append("*")
        parts.append(_parameter(parameter))
        is_last_of_kind = parameter.kind not in kinds[index + 1 :]
        if parameter.kind is parameter.POSITIONAL_ONLY and is_last_of_kind:
            parts.append("/")
    returns = signature.return_annotation
    is_class = inspect.isclass(thing)
    arrow = "" if is_class or returns is signature.empty else f" -> {_plain(str(returns))}"
    prefix = "async " if inspect.iscoroutinefunction(thing) else ""
    line = f"{prefix}{name}({', '.join(parts)}){arrow}"
    if len(line) <= WIDTH:
        return line
    return f"{prefix}{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){arrow}"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = f"{stars}{parameter.name}"
    if parameter.annotation is not parameter.empty:
        text += f": {_plain(str(parameter.annotation))}"
    if parameter.default is parameter.empty:
        return text
    default = parameter.default
    shown = default.__name__ if inspect.isclass(default) else repr(default).replace("'", '"')
    return f"{text} = {'...' if shown.startswith('<factory') else shown}"


def _plain(annotation: str) -> str:
    """An annotation without the modules in it."""
    for module in ("cascade.", "typing.", "os."):
        annotation = annotation.replace(module, "")
    return annotation


def _prose(thing: Any) -> str:
    """The docstring as Markdown: its doctests become blocks."""
    text = inspect.cleandoc(thing.__doc__ or "")
    parts = []
    for paragraph in text.split("\n\n"):
        is_doctest = paragraph.lstrip().startswith(">>>")
        parts.append(_fenced("python", paragraph) if is_doctest else paragraph)
    return "\n\n".join(parts)


def _fenced(tag: str, text: str) -> str:
    return f"```{tag}\n{text}\n```"


def made_pages() -> dict[str, str]:
    """The pages in docs/reference/ that this tool made, as they are now."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    return {file: text for file, text in texts.items() if MARK in text}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    pages = Reference().pages
    for file in made_pages().keys() - pages:
        (FOLDER / file).unlink()
    for file, text in pages.items():
        (FOLDER / file).write_text(text, encoding="utf-8")
    print(f"wrote {len(pages)} pages to {FOLDER}")


if __name__ == "__main__":
    main()
