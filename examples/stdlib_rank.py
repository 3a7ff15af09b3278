"""Rank the modules of this interpreter's own standard library by importance.

    python examples/stdlib_rank.py [--mode thread|process] [--backend asyncio|trio]
                                   [--format table|json] [--tolerance 1e-9] [--vm] [--root DIR]

Every module votes for the modules it imports, and a vote counts as much as the voter: PageRank.

    find_sources -> batched -> parse_batch.map -> link -> improve (a loop) -> summarize -> Router

The workflow is the functions from `import_graph` to `ranked_report`: they run nothing, they say
what depends on what. Everything above them is plain Python that knows nothing of workflows.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cascade as cs

Mode = Literal["thread", "process"]
Source = tuple[str, str]  # a module's name, and its file
Parsed = tuple[str, list[str], str | None]  # its name, what it imports, why it does not parse

BATCH_SIZE = 24  # files per worker call: parsing them takes a thousand times as long as the call
NOT_THE_STDLIB = {"site-packages", "dist-packages", "__pycache__"}


class Skipped(NamedTuple):
    """A file that does not parse, and why."""

    module: str
    reason: str


@dataclass(frozen=True, slots=True)
class ImportGraph:
    """Who imports whom: `imports[i]` are the positions in `modules` of what module i imports.

    Modules written in C have no file and so import nothing here; they are imported all the same.
    """

    modules: tuple[str, ...]
    imports: tuple[tuple[int, ...], ...]
    files: int
    skipped: tuple[Skipped, ...]

    @property
    def edges(self) -> int:
        return sum(map(len, self.imports))


@dataclass(frozen=True, slots=True)
class Ranking:
    """The importance of each module, which sums to 1, after some iterations.

    `change` is the L1 distance from the ranking before.
    """

    ranks: tuple[float, ...]
    iterations: int
    change: float


@dataclass(frozen=True, slots=True)
class Report:
    """What is told in the end; `seconds` is the time of each part of the job."""

    files: int
    modules: int
    edges: int
    iterations: int
    change: float
    skipped: tuple[Skipped, ...]
    top: tuple[tuple[str, float], ...]
    seconds: dict[str, float]


@dataclass(slots=True)
class Stopwatch:
    """The time of each part: from the start of its first attempt to the end of its last one."""

    spans: dict[str, tuple[float, float]] = field(default_factory=dict)

    def note(self, event: cs.TaskExecutionFinished) -> None:
        started, ended = event.timestamp - event.duration, event.timestamp
        first, last = self.spans.get(event.task_name, (started, ended))
        self.spans[event.task_name] = (min(first, started), max(last, ended))

    def seconds(self) -> dict[str, float]:
        return {part: ended - started for part, (started, ended) in self.spans.items()}


# --- Files and their imports ---------------------------------------------------------------------


@cs.task(pure=True, mode="thread")
def find_sources(root: str) -> list[Source]:
    """Every .py file below `root`, sorted, with the name of its module.

    Pure, like all that leads to the graph: the files stay as they are while we read them. So the
    loop below, which needs the graph in each iteration, makes it once.
    """
    top = Path(root)
    files = sorted(path.relative_to(top) for path in top.rglob("*.py"))
    return [
        (module_name(path), str(top / path))
        for path in files
        if NOT_THE_STDLIB.isdisjoint(path.parts)
    ]


def module_name(path: Path) -> str:
    """The dotted name under which a file, relative to the root, is imported."""
    parts = path.with_suffix("").parts
    is_package = parts[-1] == "__init__" and len(parts) > 1
    return ".".join(parts[:-1] if is_package else parts)


@cs.task(pure=True)
def batched(sources: Sequence[Source], size: int) -> list[Sequence[Source]]:
    """The sources in lists of `size`, so that each call of a worker is worth its price."""
    return [sources[start : start + size] for start in range(0, len(sources), size)]


def parse_batch(batch: Sequence[Source]) -> list[Parsed]:
    """What each file of the batch imports; a file that does not parse is data, not a failure.

    It runs in a worker process or thread. Plain tuples come back: they unpickle anywhere.
    """
    return [parse(module, Path(file)) for module, file in batch]


def parse(module: str, path: Path) -> Parsed:
    """The names that a module imports, resolved to absolute ones."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    try:
        tree = ast.parse(path.read_bytes(), path.name)
    except (SyntaxError, ValueError, RecursionError) as error:
        return module, [], f"{type(error).__name__}: {error}"
    names = {name for node in ast.walk(tree) for name in imported(node, package)}
    return module, sorted(names), None


def imported(node: ast.AST, package: str) -> Iterator[str]:
    """The absolute names that one statement imports; no names for any other syntax.

    Whether `c` in `from a.b import c` is a module or not, `a.b.c` is the name to look for first.
    """
    match node:
        case ast.Import(names=aliases):
            yield from (alias.name for alias in aliases)
        case ast.ImportFrom(module=origin, names=aliases, level=level):
            try:
                base = importlib.util.resolve_name("." * level + (origin or ""), package)
            except ImportError:  # beyond the top-level package: this import would fail too
                return
            yield from (f"{base}.{alias.name}" for alias in aliases)


@cs.task(pure=True)
def link(batches: Sequence[Sequence[Parsed]]) -> ImportGraph:
    """Join what was parsed to one graph, with edges to modules of the standard library only."""
    parsed = [result for batch in batches for result in batch]
    skipped = [Skipped(module, reason) for module, _, reason in parsed if reason is not None]
    wanted = {module: names for module, names, reason in parsed if reason is None}
    known = wanted.keys() | sys.stdlib_module_names
    targets = {
        module: {found for name in names if (found := longest_prefix(name, known))} - {module}
        for module, names in wanted.items()
    }
    modules = sorted(wanted.keys() | set().union(*targets.values()))
    position = {module: index for index, module in enumerate(modules)}
    return ImportGraph(
        modules=tuple(modules),
        imports=tuple(
            tuple(sorted(position[target] for target in targets.get(module, ())))
            for module in modules
        ),
        files=len(parsed),
        skipped=tuple(skipped),
    )


def longest_prefix(name: str, known: set[str]) -> str | None:
    """The module that an imported name stands for: `a.b.c`, or else `a.b`, or else `a`."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


# --- PageRank ------------------------------------------------------------------------------------


@cs.task(pure=True)
def uniform(graph: ImportGraph) -> Ranking:
    """The ranking to start from: all modules alike."""
    count = len(graph.modules)
    return Ranking((1 / count,) * count if count else (), iterations=0, change=1.0)


@cs.task
def improve(graph: ImportGraph, ranking: Ranking, damping: float, tolerance: float) -> cs.Jump:
    """One iteration of the power method, and the decision whether it was the last one."""
    ranks = spread(graph, ranking.ranks, damping)
    change = sum(abs(new - old) for new, old in zip(ranks, ranking.ranks, strict=True))
    better = Ranking(ranks, ranking.iterations + 1, change)
    if change < tolerance:
        return cs.Jump("converged", better)
    return cs.Jump("again", {"ranking": better})


def spread(graph: ImportGraph, ranks: Sequence[float], damping: float) -> tuple[float, ...]:
    """Each module hands on its rank: `damping` of it in equal parts to the modules it imports.

    The rest, and all that modules hand on that import nothing, goes to all modules alike.
    """
    received = [0.0] * len(ranks)
    dangling = 0.0
    for rank, targets in zip(ranks, graph.imports, strict=True):
        if not targets:
            dangling += rank
            continue
        part = rank / len(targets)
        for target in targets:
            received[target] += part
    alike = (damping * dangling + 1 - damping) / len(ranks) if ranks else 0.0
    return tuple(damping * rank + alike for rank in received)


# --- Reports -------------------------------------------------------------------------------------


@cs.task
def summarize(graph: ImportGraph, ranking: Ranking, watch: Stopwatch, top: int = 20) -> Report:
    """The most important modules, and how they were found."""
    best = sorted(zip(graph.modules, ranking.ranks, strict=True), key=lambda pair: -pair[1])
    return Report(
        files=graph.files,
        modules=len(graph.modules),
        edges=graph.edges,
        iterations=ranking.iterations,
        change=ranking.change,
        skipped=graph.skipped,
        top=tuple(best[:top]),
        seconds=watch.seconds(),
    )


@cs.task
def as_table(report: Report) -> str:
    """The report for people."""
    ranks = [
        f"{place:4}  {rank:.5f}  {module}" for place, (module, rank) in enumerate(report.top, 1)
    ]
    skipped = [f"      {module}: {reason}" for module, reason in report.skipped]
    parts = [f"{seconds:8.3f} s  {part}" for part, seconds in report.seconds.items()]
    return "\n".join(
        [
            "rank  value    module",
            *ranks,
            "",
            f"{report.files} files, {report.modules} modules, {report.edges} edges, "
            f"{report.iterations} iterations (last change {report.change:.1e})",
            f"{len(report.skipped)} files skipped, which do not parse",
            *skipped,
            "",
            *parts,
        ]
    )


@cs.task
def as_json(report: Report) -> str:
    """The report for programs."""
    document = asdict(report) | {
        "top": [{"module": module, "rank": rank} for module, rank in report.top],
        "skipped": [skipped._asdict() for skipped in report.skipped],
    }
    return json.dumps(document, indent=2)


# --- The workflow --------------------------------------------------------------------------------


def import_graph(mode: Mode) -> cs.LazyResult[ImportGraph]:
    """The import graph of all files below the parameter `root`, parsed in workers."""
    parse_in_workers = cs.task(parse_batch, pure=True, mode=mode)
    sources = find_sources(cs.Param("root", default=sysconfig.get_path("stdlib")))
    return link(parse_in_workers.map(batch=batched(sources, BATCH_SIZE)))


def page_rank(graph: cs.LazyResult[ImportGraph]) -> cs.LazyResult[Any]:
    """The ranking of a graph: improved again and again, until it no longer changes."""
    step = improve(
        graph,
        uniform(graph),
        damping=cs.Param("damping", default=0.85, type=float),
        tolerance=cs.Param("tolerance", default=1e-9, type=float),
    )
    return cs.bind(step, cs.select_jump({"again": step, "converged": None}))


def ranked_report(mode: Mode, watch: Stopwatch) -> cs.Router[str]:
    """The report in the form that the parameter `format` names."""
    graph = import_graph(mode)
    report = summarize(graph, page_rank(graph), watch)
    return cs.Router(
        selector=cs.Param("format", default="table"),
        routes={"table": as_table(report), "json": as_json(report)},
    )


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(argv)
    # The standard library's own dubious escapes are not our concern.
    warnings.filterwarnings("ignore", category=SyntaxWarning)
    watch, bus = Stopwatch(), cs.MessageBus()
    bus.subscribe(cs.TaskExecutionFinished, watch.note)
    given = {name: getattr(options, name) for name in ("root", "format", "damping", "tolerance")}
    text = cs.run(
        ranked_report(options.mode, watch),
        params=given,
        backend=options.backend,
        use_vm=options.vm,
        bus=bus,
    )
    print(text)


def parse_options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mode", choices=["thread", "process"], default="process")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--format", choices=["table", "json"], default="table")
    parser.add_argument("--damping", type=float, default=0.85)
    parser.add_argument("--tolerance", type=float, default=1e-9)
    parser.add_argument("--root", default=sysconfig.get_path("stdlib"))
    parser.add_argument("--vm", action="store_true", help="run on the virtual machine")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
