"""The example that ranks the standard library does what it says, beside an independent PageRank."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import networkx as nx
import pytest
from networkx.algorithms.link_analysis.pagerank_alg import _pagerank_python

import cascade as cs

EXAMPLE = Path(__file__).parents[2] / "examples" / "stdlib_rank.py"

SOURCES: dict[str, str | bytes] = {
    "alone.py": "",
    "app.py": "import os.path, nowhere.at_all\nfrom shop import cart, prices as p\n",
    "shop/__init__.py": "from . import cart\nfrom .prices import *\n",
    "shop/cart.py": "from .prices import total\nfrom ..app import main\nimport sys\n",
    "shop/prices.py": "def total():\n    from . import deep\n    import shop.deep.below\n",
    "shop/deep/__init__.py": "from ..cart import add\nfrom .. import __name__\nimport shop.deep\n",
    "shop/deep/below.py": "from .... import too_far\nfrom ...shop import deep\n",
    "shop/deep/latin.py": b"# -*- coding: latin-1 -*-\nname = '\xe9'\nimport alone\n",
    "shop/broken.py": "def oops(:\n",
    "shop/null.py": b"x = 1\0\n",
    "site-packages/other.py": "import alone\n",
}
IMPORTS: dict[str, set[str]] = {
    "alone": set(),
    "app": {"os", "shop.cart", "shop.prices"},
    "os": set(),
    "shop": {"shop.cart", "shop.prices"},
    "shop.cart": {"shop.prices", "sys"},
    "shop.deep": {"shop.cart", "shop"},
    "shop.deep.below": set(),
    "shop.deep.latin": {"alone"},
    "shop.prices": {"shop.deep", "shop.deep.below"},
    "sys": set(),
}


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("stdlib_rank_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    for name, text in SOURCES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    return root


def ranked(example: ModuleType, root: Path, **options: Any) -> Any:
    """The graph below `root` and its ranking; real threads, so real time."""
    graph = example.import_graph("thread")
    params = {"root": str(root), "tolerance": 1e-12}
    return cs.run([graph, example.page_rank(graph)], params=params, **options)


def independent_ranks(graph: Any) -> dict[str, float]:
    digraph = nx.DiGraph()
    digraph.add_nodes_from(graph.modules)
    for module, targets in zip(graph.modules, graph.imports, strict=True):
        digraph.add_edges_from((module, graph.modules[target]) for target in targets)
    # nx.pagerank itself needs SciPy; this is its implementation in plain Python.
    ranks: dict[str, float] = _pagerank_python(digraph, tol=1e-13, max_iter=1000)
    return ranks


def test_imports_are_resolved_to_modules(
    example: ModuleType, root: Path, backend: str, use_vm: bool
) -> None:
    """Absolute and relative imports lead to the module they name, or to its package."""
    graph, _ = ranked(example, root, backend=backend, use_vm=use_vm)
    imports = {
        module: {graph.modules[target] for target in targets}
        for module, targets in zip(graph.modules, graph.imports, strict=True)
    }
    assert imports == IMPORTS
    assert graph.edges == sum(map(len, IMPORTS.values()))


def test_broken_files_are_data(example: ModuleType, root: Path, backend: str, use_vm: bool) -> None:
    """A file that does not parse is counted and named, and fails nothing."""
    graph, _ = ranked(example, root, backend=backend, use_vm=use_vm)
    assert [skipped.module for skipped in graph.skipped] == ["shop.broken", "shop.null"]
    assert graph.skipped[0].reason.startswith("SyntaxError: ")
    assert graph.files == len(SOURCES) - 1


@pytest.mark.parametrize("where", ["root", "stdlib"])
def test_ranks_are_those_of_networkx(
    example: ModuleType, root: Path, where: str, backend: str, use_vm: bool
) -> None:
    """The same graph gives the same ranks, to 1e-6, dangling modules included."""
    package = Path(json.__file__).parent.parent / "importlib"
    graph, ranking = ranked(
        example, root if where == "root" else package, backend=backend, use_vm=use_vm
    )
    expected = independent_ranks(graph)
    assert len(graph.modules) > 8
    assert sum(ranking.ranks) == pytest.approx(1)
    for module, rank in zip(graph.modules, ranking.ranks, strict=True):
        assert rank == pytest.approx(expected[module], abs=1e-6)


def test_the_graph_is_made_once(
    example: ModuleType, root: Path, backend: str, use_vm: bool
) -> None:
    """The loop needs the graph in each iteration; being pure, it is made before the first."""
    bus, names = cs.MessageBus(), []
    bus.subscribe(cs.TaskExecutionStarted, lambda event: names.append(event.task_name))
    _, ranking = ranked(example, root, backend=backend, use_vm=use_vm, bus=bus)
    assert ranking.iterations > 10
    assert {name: names.count(name) for name in names} == {
        "find_sources": 1,
        "batched": 1,
        "parse_batch": 1,
        "link": 1,
        "uniform": 1,
        "improve": ranking.iterations,
    }


def test_no_files_at_all(example: ModuleType, tmp_path: Path, backend: str, use_vm: bool) -> None:
    """An empty folder has an empty ranking."""
    graph, ranking = ranked(example, tmp_path, backend=backend, use_vm=use_vm)
    assert (graph.files, graph.modules, ranking.ranks) == (0, (), ())


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_the_program_prints_json(root: Path, backend: str, mode: str, use_vm: bool) -> None:
    """As a program, on either loop and with either kind of worker, it prints the same ranking."""
    options = ["--root", str(root), "--backend", backend, "--mode", mode, "--format", "json"]
    report = json.loads(program(*options, *["--vm"] * use_vm))
    assert (report["files"], report["modules"], report["edges"]) == (10, 10, 12)
    assert [skipped["module"] for skipped in report["skipped"]] == ["shop.broken", "shop.null"]
    assert report["iterations"] > 10
    assert report["change"] < 1e-9
    assert len(report["top"]) == 10
    assert report["top"][0]["module"] == "shop.prices"
    assert set(report["seconds"]) == {
        "find_sources",
        "batched",
        "parse_batch",
        "link",
        "uniform",
        "improve",
    }


def test_the_program_prints_the_same_on_the_virtual_machine(root: Path) -> None:
    """`--vm` changes how the ranking is computed, and nothing of what is printed but the times."""
    options = ["--root", str(root), "--mode", "thread", "--format", "json"]
    reports = [json.loads(program(*options, *vm)) for vm in ([], ["--vm"])]
    for report in reports:
        assert all(seconds >= 0 for seconds in report.pop("seconds").values())
    assert reports[0] == reports[1]


def test_make_run_passes_its_arguments_to_the_program() -> None:
    """`make run ARGS="--vm"` runs it on the virtual machine."""
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "run", "ARGS=--vm"],
        cwd=EXAMPLE.parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1].endswith("python examples/stdlib_rank.py --vm")


def test_the_program_prints_a_table(root: Path, backend: str) -> None:
    """The table for people has the ranking, the counts and the times."""
    table = program("--root", str(root), "--backend", backend, "--mode", "thread")
    assert "shop.cart" in table
    assert "10 files, 10 modules, 12 edges" in table
    assert "2 files skipped" in table
    assert " s  parse_batch" in table


def program(*options: str) -> str:
    command = [sys.executable, str(EXAMPLE), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
