"""Which module may import which, and what the package exports.

The source is read, not run. A new module gets a place in ``LAYERS``; everything in vm/ is "vm".
"""

import ast
import graphlib
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import cascade

# A module imports from its own line and the lines above it.
LAYERS = (
    (
        "errors",
        "events",
        "retry",
        "amounts",
        "bucket",
        "cancellation",
        "activity",
        "plain",
        "layout",
        "markup",
        "mainmodule",
        "containers",
        "interrupts",
        "slices",
    ),
    (
        "expressions",
        "constraints",
        "logs",
        "telemetry",
        "readings",
        "timeline",
        "drawing",
        "processes",
        "cache",
    ),
    (
        "display",
        "progress",
        "forms",
    ),
    (
        "task",
        "flow",
        "inputs",
        "resources",
        "admission",
        "nesting",
        "records",
        "svg",
        "trace",
    ),
    (
        "structure",
        "gate",
        "byvalue",
    ),
    (
        "graph",
        "values",
        "state",
        "holdings",
        "ready",
        "sketch",
    ),
    (
        "solver",
        "executor",
    ),
    (
        "plan",
        "processor",
        "worker",
    ),
    (
        "run",
        "trampoline",
        "description",
    ),
    (
        "evaluation",
        "picture",
        "attribution",
    ),
    (
        "interpreter",
        "vm",
    ),
    (
        "compiler",
        "blame",
        "chart",
    ),
    (
        "engine",
        "page",
    ),
    ("report",),
    (
        "agreement",
        "testing",
        "__init__",
    ),
    (
        "tracebacks",
        "sources",
        "loading",
        "outline",
        "checks",
        "doctor",
        "outputs",
    ),
    ("options",),
    ("cli",),
    ("__main__",),
)

# Never, not even for an annotation.
FORBIDDEN = {
    ("vm", "compiler"),  # the instruction set belongs to the machine
    ("vm", "interpreter"),  # neither strategy leans on the other
    ("interpreter", "vm"),
}

# Packages from outside, beside the standard library.
EXTERNAL = {  # None: every module may
    "anyio": None,
    "trio": {"testing", "interrupts"},
    "click": {"cli", "options"},
    "rich": {"display", "progress"},
    "opentelemetry": {"telemetry"},
}

# The public names of the contract by section; a row of a package counts once it is listed.
CONTRACT = {
    "cascade": """
        GraphExecutionStrategy
        task LazyResult MappedLazyResult sequence pipeline Router Param Env parameters Task
        Hit InMemoryCache FileExistenceCache CacheKeyError TaskTimeoutError
        Jump bind select_jump JumpKeyError JumpNotBoundError TailCall TargetNotFoundError
        StaticGraphError StepLimitError
        resource inject ResourceNotFoundError
        ConstraintManager GlobalConstraint
        CascadeError CycleError DependencyMissingError MissingParameterError RouteNotFoundError
        build_graph BuiltGraph Graph Node Edge
        MessageBus RunStarted RunFinished ResourceAcquired ResourceReleased TaskBlocked
        TaskExecutionStarted TaskExecutionFinished TaskRetrying TaskSkipped TaskStalled
        run run_async Engine Solver ExecutionPlan NativeSolver Executor LocalExecutor
        StateBackend InMemoryStateBackend
    """,
    "cascade.vm": "VMExecutionStrategy Blueprint VirtualMachine VerifyError disassemble",
    "cascade.compiler": "BlueprintBuilder",
}

ROOT = Path(__file__).resolve().parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


@dataclass(frozen=True)
class Module:
    name: str
    is_package: bool
    source: str


@dataclass(frozen=True)
class Import:
    target: str
    line: int
    late: bool  # inside a function
    typing: bool  # under TYPE_CHECKING


def read_modules(root: Path, package_dir: Mapping[str, str]) -> dict[str, Module]:
    found = {}
    for package, base in package_dir.items():
        for file in sorted((root / base).rglob("*.py")):
            parts = [package, *file.relative_to(root / base).with_suffix("").parts]
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            found[name] = Module(name, is_package, file.read_text(encoding="utf-8"))
    return found


def imports(module: Module, known: Iterable[str]) -> Iterator[Import]:
    """Every import of ``module``, relative names resolved, by the module it reaches."""
    names = set(known)
    package = module.name if module.is_package else module.name.rpartition(".")[0]
    stack: list[tuple[ast.AST, bool, bool]] = [(ast.parse(module.source), False, False)]
    while stack:
        node, late, typing = stack.pop()
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, late, typing)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield Import(full if full in names else base, node.lineno, late, typing)
        late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            stack.extend((child, late, True) for child in node.body)
            stack.extend((child, late, typing) for child in node.orelse)
        else:
            stack.extend((child, late, typing) for child in ast.iter_child_nodes(node))


def unit(module: str) -> str:
    """``cascade.vm.isa`` -> ``vm``, the word that stands in the tables."""
    return [*module.split("."), "__init__"][1]


def violations(modules: Mapping[str, Module]) -> list[str]:
    """One line for each import that breaks a rule."""
    layer = {name: level for level, names in enumerate(LAYERS) for name in names}
    found = [f"{name}: give it a place in LAYERS" for name in modules if unit(name) not in layer]
    for module in modules.values():
        here = unit(module.name)
        for used in imports(module, modules):
            where = f"{module.name}:{used.line}: {used.target}"
            top = used.target.split(".")[0]
            if top != "cascade":
                allowed = EXTERNAL.get(top, set())
                if (
                    top not in sys.stdlib_module_names
                    and allowed is not None
                    and here not in allowed
                ):
                    found.append(f"{where} is neither the standard library nor anyio")
            elif (here, unit(used.target)) in FORBIDDEN:
                found.append(f"{where} is forbidden")
            elif used.typing:
                continue
            elif layer.get(unit(used.target), -1) > layer.get(here, len(LAYERS)):
                found.append(f"{where} is a layer above")
    return found


def first_cycle(modules: Mapping[str, Module]) -> list[str]:
    """The modules of an import cycle at import time, or nothing."""
    needs = {
        module.name: {
            used.target
            for used in imports(module, modules)
            if used.target in modules and not used.late and not used.typing
        }
        for module in modules.values()
    }
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


PACKAGE_DIR: dict[str, str] = SETUPTOOLS["package-dir"]
MODULES = read_modules(
    ROOT, {name: base for name, base in PACKAGE_DIR.items() if name.split(".")[0] == "cascade"}
)


def test_arrows_go_one_way() -> None:
    assert violations(MODULES) == []


def test_no_import_cycles() -> None:
    assert first_cycle(MODULES) == []


def test_every_table_row_is_said_once() -> None:
    names = [name for row in LAYERS for name in row]
    assert len(names) == len(set(names))
    assert {name for pair in FORBIDDEN for name in pair} <= set(names)


def test_trio_is_loaded_by_those_who_ask_for_it() -> None:
    program = "import sys, cascade; print('trio' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_what_draws_and_reports_is_loaded_when_it_is_asked_for() -> None:
    """`import cascade` stays quick: a program that draws nothing loads nothing that draws."""
    program = "import sys, cascade; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True
    )
    names = "drawing layout svg page markup chart timeline trace blame attribution"
    assert {f"cascade.{name}" for name in names.split()} & set(done.stdout.split()) == set()


def bound_names(source: str) -> list[str]:
    """The public names a module binds at its top level, in order, modules aside."""
    found: list[str] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            found.extend(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.append(node.name)
        elif isinstance(node, ast.Assign):
            found.extend(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.append(node.target.id)
    return [name for name in found if not name.startswith("_")]


def test_all_is_sorted_and_complete() -> None:
    """``__init__`` imports what it exports and exports what it imports."""
    assert list(cascade.__all__) == sorted(set(cascade.__all__))
    assert set(cascade.__all__) == set(bound_names(MODULES["cascade"].source))
    assert [name for name in cascade.__all__ if not hasattr(cascade, name)] == []


@pytest.mark.parametrize("module", ["errors", "events"])
def test_every_error_and_event_is_exported(module: str) -> None:
    tree = ast.parse(MODULES[f"cascade.{module}"].source)
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert {name for name in classes if not name.startswith("_")} <= set(cascade.__all__)


@pytest.mark.parametrize("package", [name for name in CONTRACT if name in SETUPTOOLS["packages"]])
def test_the_names_of_the_contract_are_public(package: str) -> None:
    assert set(CONTRACT[package].split()) - set(cascade.__all__) == set()


def read(**sources: str) -> dict[str, Module]:
    """Modules of a made-up package; ``vm__isa`` is cascade.vm.isa, ``init`` cascade itself."""
    packages = {"init": "cascade", "vm": "cascade.vm"}
    modules = {}
    for key, source in sources.items():
        name = packages.get(key, "cascade." + key.replace("__", "."))
        modules[name] = Module(name, key in packages, source)
    return modules


@pytest.mark.parametrize(
    ("where", "source", "said"),
    [
        ("graph", "from cascade.task import Task", []),
        ("graph", "import anyio.abc, json", []),
        ("graph", "from . import errors", []),
        ("graph", "from cascade.engine import Engine", ["a layer above"]),
        ("graph", "from .engine import Engine", ["a layer above"]),
        ("graph", "from . import engine", ["a layer above"]),
        ("graph", "import cascade.engine", ["a layer above"]),
        ("graph", "import cascade as cs", ["a layer above"]),
        ("graph", "from cascade import run", ["a layer above"]),
        ("graph", "def late():\n    import cascade.engine", ["a layer above"]),
        ("graph", "if TYPE_CHECKING:\n    from cascade.engine import Engine", []),
        (
            "graph",
            "if TYPE_CHECKING:\n    pass\nelse:\n    import cascade.engine",
            ["a layer above"],
        ),
        ("vm__isa", "from cascade.vm.blueprint import Blueprint", []),
        ("vm__isa", "from .. import errors", []),
        ("vm__isa", "from ..compiler import build", ["forbidden"]),
        ("vm", "if typing.TYPE_CHECKING:\n    import cascade.compiler", ["forbidden"]),
        ("interpreter", "from cascade.vm import isa", ["forbidden"]),
        ("graph", "import trio", ["neither"]),
        ("testing", "import trio.testing", []),
        ("testing", "import networkx", ["neither"]),
        ("graph", "if TYPE_CHECKING:\n    import typing_extensions", ["neither"]),
        ("surprise", "", ["give it a place"]),
    ],
)
def test_the_rules_can_be_broken(where: str, source: str, said: list[str]) -> None:
    context = read(init="", errors="", task="", engine="", vm="", compiler="")
    found = violations(context | read(**{where: source}))
    assert len(found) == len(said)
    assert all(text in line for text, line in zip(said, found, strict=True))


def test_a_cycle_is_found_and_late_imports_break_it() -> None:
    one = {"task": "from cascade.inputs import Param"}
    assert set(first_cycle(read(**one, inputs="import cascade.task"))) == {
        "cascade.task",
        "cascade.inputs",
    }
    assert first_cycle(read(**one, inputs="def f():\n    import cascade.task")) == []
    assert first_cycle(read(**one, inputs="if TYPE_CHECKING:\n    import cascade.task")) == []


def test_bound_names_leaves_modules_and_private_names_out() -> None:
    source = (
        "import json\nfrom a import b as c, _d\nE = 1\nf: int = 2\ndef g(): pass\nclass _H: pass"
    )
    assert bound_names(source) == ["c", "E", "f", "g"]
