"""Run the same work in Cascade and in its peers, each a process of its own; print one table.

    python bench/peers/compare.py [--quick] [--write] [peer ...]

A peer that has to be installed gets a virtual environment in bench/peers/.venvs/, made when it is
missing. `--write` also puts the table between the markers in docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from work import FULL, QUICK, Size, WorkName, works

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent.parent / "docs" / "performance.md"
BEGIN = "<!-- peers: begin, written by `make peers ARGS=--write` -->"
END = "<!-- peers: end -->"

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Program:
    """The file of a peer, and what it needs installed; without needs it runs where this runs."""

    file: str
    needs: tuple[str, ...] = ()


PROGRAMS: Mapping[str, Program] = {
    "cascade": Program("peer_cascade.py"),
    "asyncio": Program("peer_asyncio.py"),
    "langgraph": Program("peer_langgraph.py", ("langgraph>=1.2,<2",)),
    "pydantic-graph": Program("peer_pydantic_graph.py", ("pydantic-graph>=2.68,<3",)),
    # burr.core.parallelism imports the tracker, which stays unused.
    "burr": Program("peer_burr.py", ("burr[tracking]>=0.42",)),
    "hamilton": Program("peer_hamilton.py", ("sf-hamilton>=1.90,<2",)),
    "dask": Program("peer_dask.py", ("dask>=2026.8",)),
}

# Whatever the user's environment says: nothing is traced, and nothing is sent anywhere.
QUIET = {"LANGSMITH_TRACING": "false", "LANGCHAIN_TRACING_V2": "false"}


def python_of(name: str) -> str:
    """The interpreter for a peer, its virtual environment made anew if its needs have changed."""
    program = PROGRAMS[name]
    if not program.needs:
        return sys.executable
    folder = HERE / ".venvs" / name
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    ready = folder / "ready"
    needs = "\n".join((platform.python_version(), *program.needs))
    if not ready.exists() or ready.read_text(encoding="utf-8") != needs:
        tell(f"{name}: installing {', '.join(program.needs)}")
        venv.create(folder, clear=True, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *program.needs], check=True)
        ready.write_text(needs, encoding="utf-8")
    return str(python)


def collect(name: str, *, quick: bool) -> Iterator[Record]:
    """What the program of a peer prints, as it comes; `CalledProcessError` if it fails."""
    command = [python_of(name), str(HERE / PROGRAMS[name].file), *(["--quick"] if quick else [])]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=os.environ | QUIET
    ) as process:
        assert process.stdout is not None
        for printed in process.stdout:
            yield json.loads(printed)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def machine() -> str:
    """The interpreter and the machine, and how busy others keep it."""
    busy = f", load average {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{python}, {os.cpu_count()} cores, {platform.system()}{busy}"


def section(where: str, records: Sequence[Record], size: Size) -> str:
    """The machine, the table and how each peer did its work, as Markdown."""
    titles = {name: work.title for name, work in works(size).items()}
    measured = f"Measured on {where}."
    return "\n\n".join((measured, table(records, titles), ways(records, titles)))


def table(records: Sequence[Record], titles: Mapping[WorkName, str]) -> str:
    """A row for each peer, a column for each work, and above them the work by hand."""
    by_peer: dict[str, dict[WorkName, Record]] = {}
    for record in records:
        by_peer.setdefault(record["peer"], {})[record["work"]] = record
    rows = [
        ["", "version", *titles.values()],
        ["---"] * (2 + len(titles)),
        ["by hand", "", *(by_hand_cell(records, name) for name in titles)],
    ]
    for peer, done in by_peer.items():
        first = next(iter(done.values()))
        rows.append([peer, versions(first), *(cell(done[name]) for name in titles)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def versions(record: Record) -> str:
    if not record["versions"]:
        return f"CPython {record['python']}"
    return ", ".join(f"{name} {version}" for name, version in record["versions"].items())


def cell(record: Record) -> str:
    """The ratio to the work by hand, and the time of one unit; or what users do instead."""
    if "instead" in record:
        return f"not offered: {record['instead']}"
    star = r"\*" if record["by_user"] else ""
    return f"**{number(record['ratio'])}**{star} ({duration(record['seconds'])})"


def by_hand_cell(records: Sequence[Record], name: WorkName) -> str:
    """The median of what each process measured for the work by hand."""
    measured = [r["by_hand"] for r in records if r["work"] == name and "by_hand" in r]
    return f"1 ({duration(median(measured))})" if measured else ""


def ways(records: Sequence[Record], titles: Mapping[WorkName, str]) -> str:
    """How each peer did its work, peers with the same ways together."""
    by_peer: dict[str, list[str]] = {}
    for record in records:
        if "how" in record:
            way = f"{titles[record['work']]}: {record['how']}"
            by_peer.setdefault(record["peer"], []).append(way)
    peers: dict[str, list[str]] = {}
    for peer, done in by_peer.items():
        peers.setdefault(". ".join(done), []).append(peer)
    return "\n".join(f"- **{' and '.join(names)}.** {done}." for done, names in peers.items())


def number(value: float) -> str:
    """Three digits, or more where they stand before the point."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"


def duration(seconds: float) -> str:
    for unit, factor in (("ns", 1e9), ("us", 1e6)):
        if seconds * factor < 1000:
            return f"{number(seconds * factor)} {unit}"
    return f"{number(seconds * 1e3)} ms"


def around(page: Path) -> tuple[str, str]:
    """What stands before and after the place for the table; `ValueError` if there is none."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no place for the table in {str(page)!r}: write {BEGIN!r}, then {END!r}")
    return before, after


def write(page: Path, text: str) -> None:
    """Put the text between the markers of the page; the rest stays as it is."""
    before, after = around(page)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one small round of everything")
    parser.add_argument("--write", action="store_true", help=f"write the table to docs/{PAGE.name}")
    parser.add_argument("peers", nargs="*", metavar="peer", help=f"of {', '.join(PROGRAMS)}")
    options = parser.parse_args()
    if unknown := [name for name in options.peers if name not in PROGRAMS]:
        parser.error(f"unknown peer {unknown[0]!r}: take some of {', '.join(PROGRAMS)}")
    if options.write and (options.quick or options.peers):
        parser.error("--write takes a full table: leave out --quick and the names of peers")
    if options.write:
        around(PAGE)  # before the minutes that measuring takes
    where = machine()
    records: list[Record] = []
    for name in options.peers or PROGRAMS:
        for record in collect(name, quick=options.quick):
            tell(f"{record['peer']}, {record['work']}: {cell(record)}")
            records.append(record)
    text = section(where, records, QUICK if options.quick else FULL)
    print(text)
    if options.write:
        write(PAGE, text)


if __name__ == "__main__":
    main()
