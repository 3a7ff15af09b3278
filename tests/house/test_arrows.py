"""Which folder may import which, that no modules lean on each other, and what the package exports.

The source is read, not run, and an import for an annotation counts like any other. A new folder
gets a line in ``MAY_IMPORT``; a new module takes the line of its folder.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import networkx
import pytest

import cascade

# A folder imports from itself, from SHARED and from the folders in its line; so do the modules of
# cascade/ itself, which stand here like folders.
SHARED = ("errors", "events", "plain", "amounts")
MAY_IMPORT = {
    "errors": "",
    "events": "",
    "plain": "",
    "amounts": "",
    "logs": "",
    "telemetry": "",
    "workflow": "",
    "limits": "",
    "graph": "workflow",
    "executors": "graph workflow",
    "core": "executors graph limits workflow",
    "vm": "core executors graph workflow",
    "compiler": "vm core graph workflow",
    "live": "core",
    "engine": "live vm compiler core executors graph limits workflow",
    "pictures": "graph workflow",
    "reports": "pictures compiler vm graph",
    "testing": "engine core",
    "command": "testing reports pictures engine compiler vm live core graph limits workflow",
    "__init__": "logs reports pictures engine live vm compiler core executors graph limits "
    "workflow",
    "__main__": "command",
}

# What stands above a package and is found in it by name all the same.
ALSO = {("cascade.vm", "engine")}  # VirtualMachine, which makes an engine if it is given none

# Neither strategy leans on the other, though a strategy's folder may import the other's.
FORBIDDEN = {("vm", "core.interpreter")}

# Packages from outside, beside the standard library.
EXTERNAL = {  # None: every module may
    "anyio": None,
    "trio": {"testing", "core.interrupts"},
    "click": {"command.cli", "command.options"},
    "rich": {"live.display", "live.progress"},
    "opentelemetry": {"telemetry"},
}

# Modules that lean on each other, on purpose.
CIRCLES: list[set[str]] = [
    {"workflow.expressions", "workflow.task"},  # two public types that are defined by each other
    {"vm.blueprint", "vm.disassemble"},  # str(blueprint) is its listing
]

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

ROOT = Path(__file__).resolve().parents[2]
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
    for node in ast.walk(ast.parse(module.source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield Import(full if full in names else base, node.lineno)


def unit(module: str) -> str:
    """``cascade.vm.isa`` -> ``vm``, the word that stands in the tables."""
    return [*module.split("."), "__init__"][1]


def violations(modules: Mapping[str, Module]) -> list[str]:
    """One line for each import that breaks a rule."""
    found = [f"{name}: give it a line" for name in modules if unit(name) not in MAY_IMPORT]
    for module in modules.values():
        here = unit(module.name)
        allowed = {here, *SHARED, *MAY_IMPORT.get(here, "").split()}
        for used in imports(module, modules):
            where = f"{module.name}:{used.line}: {used.target}"
            package, _, place = used.target.partition(".")
            if package != "cascade":
                if not may_use(package, module.name.removeprefix("cascade.")):
                    found.append(f"{where} is neither the standard library nor anyio")
            elif (here, place) in FORBIDDEN:
                found.append(f"{where} is forbidden")
            elif unit(used.target) not in allowed and (module.name, unit(used.target)) not in ALSO:
                found.append(f"{where} is not below {here}")
    return found


def may_use(package: str, module: str) -> bool:
    """Whether ``module`` may import ``package``, which is not Cascade's own."""
    users = EXTERNAL.get(package, set())
    return package in sys.stdlib_module_names or users is None or module in users


def circles(modules: Mapping[str, Module]) -> list[set[str]]:
    """The sets of modules that need each other, annotations and late imports counted."""
    needs = networkx.DiGraph()
    for module in modules.values():
        # A package's __init__ names its modules, which do not need it.
        targets = (used.target for used in imports(module, modules) if not module.is_package)
        needs.add_edges_from((module.name, target) for target in targets if target in modules)
    return [each for each in networkx.strongly_connected_components(needs) if len(each) > 1]


PACKAGE_DIR: dict[str, str] = SETUPTOOLS["package-dir"]
MODULES = read_modules(
    ROOT, {name: base for name, base in PACKAGE_DIR.items() if name.split(".")[0] == "cascade"}
)


def test_arrows_go_one_way() -> None:
    """No import in the package breaks the rules above."""
    assert violations(MODULES) == []


def test_no_modules_lean_on_each_other() -> None:
    """A reader who follows one module downwards never comes back to it."""
    found = [{name.removeprefix("cascade.") for name in circle} for circle in circles(MODULES)]
    assert sorted(map(sorted, found)) == sorted(map(sorted, CIRCLES))


def test_folders_make_no_circle() -> None:
    """The table itself leads downwards only."""
    table = {name: {*below.split()} for name, below in MAY_IMPORT.items()}
    assert networkx.is_directed_acyclic_graph(networkx.DiGraph(table))
    assert {name for below in table.values() for name in below} <= set(table)
    assert {below for _, below in FORBIDDEN} <= {name.partition(".")[2] for name in MODULES}


PAGES = {name: (ROOT / name).read_text("utf-8") for name in ("ARCHITECTURE.md", "CONTRIBUTING.md")}
ARCHITECTURE = PAGES["ARCHITECTURE.md"]
_ALONE = {*SHARED, "logs", "telemetry", "__init__", "__main__"}
FOLDERS = [name for name in MAY_IMPORT if name not in _ALONE]


def test_the_picture_shows_the_table() -> None:
    """The arrows of ARCHITECTURE.md are those of the table, without those that others make up."""
    table = networkx.DiGraph({name: MAY_IMPORT[name].split() for name in FOLDERS})
    drawn = re.findall(r"^  (\w+) --> (\w+)$", ARCHITECTURE, re.MULTILINE)
    assert sorted(drawn) == sorted(networkx.transitive_reduction(table).edges)


def test_the_page_has_the_table() -> None:
    """ARCHITECTURE.md says of each folder what it may import."""
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([\w ]*)\|$", ARCHITECTURE, re.MULTILINE))
    assert {name: set(row.split()) for name, row in rows.items()} == {
        name: set(MAY_IMPORT[name].split()) for name in FOLDERS
    }


def test_the_page_has_every_module() -> None:
    """ARCHITECTURE.md has one line for each module, below the name of its folder."""
    listed = {
        folder: re.findall(r"^\| `(\w+)\.py` \|", rows, re.MULTILINE)
        for folder, rows in re.findall(r"^### `([\w/]+)/`\n(.*?)(?=^#)", ARCHITECTURE, re.M | re.S)
    }
    files = {folder: [file.stem for file in (ROOT / folder).glob("*.py")] for folder in listed}
    bare = {"__init__"}
    assert {folder: sorted({*names} - bare) for folder, names in listed.items()} == {
        folder: sorted({*names} - bare) for folder, names in files.items()
    }
    assert all(len(names) == len(set(names)) for names in listed.values())
    assert len(listed) == len(FOLDERS)  # engine is a module, cascade/ a folder


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_is_there(page: str) -> None:
    """Files and folders exist, and the attributes of classes stand in the module of the class."""
    names = set(re.findall(r"`([^`\n]+)`", PAGES[page]))
    files = {name for name in names if re.fullmatch(r"[\w./]+(\.(py|md|html)|/)", name)}
    known = {file.name for base in PACKAGE_DIR.values() for file in (ROOT / base).rglob("*.*")}
    assert [name for name in files if name not in known and not is_there(name)] == []
    sources: dict[str, str] = {}
    for module in MODULES.values():
        for name in classes_of(module):
            sources[name] = sources.get(name, "") + module.source
    attributes = [name.split(".") for name in names - files if re.fullmatch(r"[A-Z]\w+\.\w+", name)]
    unknown = [
        f"{owner}.{name}"
        for owner, name in attributes
        if re.search(rf"\b{name}\b", sources.get(owner, "")) is None
    ]
    assert unknown == []


def is_there(path: str) -> bool:
    return (ROOT / path).exists() or (ROOT / "cascade" / path).exists()


def classes_of(module: Module) -> Iterator[str]:
    return (
        each.name for each in ast.walk(ast.parse(module.source)) if isinstance(each, ast.ClassDef)
    )


def test_trio_is_loaded_by_those_who_ask_for_it() -> None:
    """`import cascade` does not import trio."""
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
    pictures = {f"cascade.pictures.{name}" for name in ("drawing", "layout", "svg", "markup")}
    reports = {f"cascade.reports.{name}" for name in ("page", "chart", "history", "trace", "blame")}
    assert (pictures | reports) <= set(MODULES)
    assert (pictures | reports) & set(done.stdout.split()) == set()


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
    """Every public class of errors.py and events.py can be imported from `cascade`."""
    tree = ast.parse(MODULES[f"cascade.{module}"].source)
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert {name for name in classes if not name.startswith("_")} <= set(cascade.__all__)


@pytest.mark.parametrize("package", [name for name in CONTRACT if name in SETUPTOOLS["packages"]])
def test_the_names_of_the_contract_are_public(package: str) -> None:
    """`cascade` exports every name of the contract."""
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
        ("graph__plan", "from cascade.workflow.task import Task", []),
        ("graph__plan", "import anyio.abc, json", []),
        ("graph__plan", "from . import solver", []),
        ("graph__plan", "from .. import errors", []),
        ("graph__plan", "from cascade.core.run import Run", ["not below"]),
        ("graph__plan", "from ..core.run import Run", ["not below"]),
        ("graph__plan", "from ..core import run", ["not below"]),
        ("graph__plan", "import cascade.core.run", ["not below"]),
        ("graph__plan", "import cascade as cs", ["not below"]),
        ("graph__plan", "from cascade import run", ["not below"]),
        ("graph__plan", "def late():\n    import cascade.core.run", ["not below"]),
        ("graph__plan", "if TYPE_CHECKING:\n    from cascade.core.run import Run", ["not below"]),
        ("vm__isa", "from cascade.vm.blueprint import Blueprint", []),
        ("vm__isa", "from .. import errors", []),
        ("vm__isa", "from ..compiler import build", ["not below"]),
        ("vm", "if typing.TYPE_CHECKING:\n    import cascade.compiler", ["not below"]),
        ("vm__machine", "from cascade.core import interpreter", ["forbidden"]),
        ("graph__plan", "import trio", ["neither"]),
        ("testing", "import trio.testing", []),
        ("testing", "import networkx", ["neither"]),
        ("graph__plan", "if TYPE_CHECKING:\n    import typing_extensions", ["neither"]),
        ("surprise", "", ["give it a line"]),
    ],
)
def test_the_rules_can_be_broken(where: str, source: str, said: list[str]) -> None:
    """Each kind of forbidden import is found, and what is allowed is not reported."""
    context = read(init="", errors="", workflow__task="", core__run="", core__interpreter="")
    context |= read(graph__solver="", compiler="", vm="")
    found = violations(context | read(**{where: source}))
    assert len(found) == len(said)
    assert all(text in line for text, line in zip(said, found, strict=True))


@pytest.mark.parametrize(
    "source",
    [
        "import cascade.task",
        "def late():\n    import cascade.task",
        "if TYPE_CHECKING:\n    import cascade.task",
    ],
)
def test_a_circle_is_found_however_it_is_imported(source: str) -> None:
    """An import that waits for its call, or serves annotations only, leads a reader no less."""
    modules = read(task="from cascade.inputs import Param", inputs=source)
    assert circles(modules) == [{"cascade.task", "cascade.inputs"}]
    assert circles(read(task="from cascade.inputs import Param", inputs="")) == []


def test_bound_names_leaves_modules_and_private_names_out() -> None:
    """Imported modules and names with an underscore do not count as exports."""
    source = (
        "import json\nfrom a import b as c, _d\nE = 1\nf: int = 2\ndef g(): pass\nclass _H: pass"
    )
    assert bound_names(source) == ["c", "E", "f", "g"]
