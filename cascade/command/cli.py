"""The command line: `cascade run FILE.py:NAME` and its kin.

Exit codes: 0; 1 what was asked for failed; 2 it was asked for in a wrong way; 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from cascade.command import options
from cascade.command.checks import check, check_limits
from cascade.command.doctor import examine
from cascade.command.loading import Loaded, LoadError, given_params
from cascade.command.outline import outline
from cascade.command.outputs import written
from cascade.command.tracebacks import folded_traceback
from cascade.compiler import disassemble
from cascade.core.interrupts import INTERRUPTED, Terminated, run_interruptible, terminate
from cascade.engine import run_async
from cascade.events import MessageBus, RunFinished
from cascade.pictures.picture import visualize
from cascade.plain import error_text


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command; the exit code."""
    try:
        code = cli.main(arguments, prog_name="cascade", standalone_mode=False)
    except click.ClickException as error:
        _print(f"Error: {error.format_message()}", err=True)
        return error.exit_code
    except LoadError as error:
        _print(f"Error: {error}", err=True)
        return 2
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except SystemExit:  # of the module of the target
        raise
    except BaseException as error:
        return _failed(error)
    return code if isinstance(code, int) else 0


def _failed(error: BaseException) -> int:
    _print(folded_traceback(error).removesuffix("\n"), err=True)
    return 1


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(package_name="cascade-vm")
@click.pass_context
def cli(context: click.Context) -> None:
    """Run and look at workflows: FILE.py:NAME or package.module:NAME.

    NAME is an expression, or a function without arguments that makes one. The resources that its
    module defines are there for it.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        context.exit(2)


@cli.command(cls=options.TargetCommand)
@options.target
@options.params
@click.option("--vm", "use_vm", is_flag=True, help="Run it on the virtual machine.")
@click.option(
    "--backend",
    type=click.Choice(["asyncio", "trio"]),
    default="asyncio",
    show_default=True,
    help="The event loop.",
)
@options.limits
@click.option(
    "--progress/--quiet",
    default=None,
    help="Show how it goes, as on a terminal. --quiet: neither that nor hints.",
)
@click.option("--events", metavar="FILE", help="Write each event to it, a line of JSON.")
@click.option("--trace", metavar="FILE", help="Write a trace for Perfetto or chrome://tracing.")
@click.option("--report", metavar="FILE", help="Write a page of HTML about the run.")
def run(
    loaded: Loaded,
    pairs: tuple[str, ...],
    use_vm: bool,
    backend: str,
    progress: bool | None,
    events: str | None,
    trace: str | None,
    report: str | None,
    limit: dict[str, str],
    rate: dict[str, str],
    concurrency: dict[str, str],
) -> int:
    """Run a target and print its value, as JSON where it can be."""
    params = given_params(loaded.target, pairs)
    capacity, constraints = options.capacity_of(limit), options.constraints_of(rate, concurrency)
    if progress is not False:
        for finding in check_limits(loaded.target, capacity, constraints):
            click.echo(str(finding), err=True)
    bus = MessageBus()
    main = partial(
        run_async,
        loaded.target,
        params=params,
        use_vm=use_vm,
        system_resources=capacity,
        constraints=constraints,
        resources=loaded.resources,
        bus=bus,
        progress=_shows_progress(progress),
    )
    files = written(bus, loaded.target, events=events, trace=trace, report=report)
    try:
        with ExitStack() as stack:
            with _can_write():
                stack.enter_context(files)
            # Before the files: what fails to be written to them does not take the value along.
            _print(_shown(run_interruptible(main, backend, announces=True)))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Terminated:
        terminate()
    except SystemExit as error:  # of a task
        return _failed(error)
    return 0


@contextmanager
def _can_write() -> Iterator[None]:
    """A file that cannot be written is wrong usage."""
    try:
        yield
    except OSError as error:
        name = "the file" if error.filename is None else repr(error.filename)
        raise LoadError(f"cannot write {name}: {error.strerror}") from None


def _shows_progress(asked: bool | None) -> bool:
    """What was asked for; else whether somebody looks on."""
    has_rich = find_spec("rich") is not None
    if asked and not has_rich:
        raise LoadError("showing progress needs rich; pip install 'cascade-vm[progress]'")
    return sys.stderr.isatty() and has_rich if asked is None else asked


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        return text if _printable(text) == text else json.dumps(value)
    except RecursionError:
        return f"<{type(value).__name__} that nests too deep to be shown>"
    except (TypeError, ValueError):
        pass
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(value).__name__} that cannot be shown: {error_text(error)}>"


def _print(text: str, *, err: bool = False) -> None:
    """Print `text`, with escapes for what the stream has no letters for."""
    click.echo(_printable(text, err=err), err=err)


def _printable(text: str, *, err: bool = False) -> str:
    stream = sys.stderr if err else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"  # there may be no stream
    return text.encode(encoding, "backslashreplace").decode(encoding)


@cli.command(cls=options.TargetCommand)
@options.target
@options.limits
def plan(
    loaded: Loaded, limit: dict[str, str], rate: dict[str, str], concurrency: dict[str, str]
) -> None:
    """List what would run, and under what.

    Each task in plan order, with its conditions, inputs, policies and limits.
    """
    constraints = options.constraints_of(rate, concurrency)
    _print(outline(loaded.target, constraints, options.capacity_of(limit)))


@cli.command(cls=options.TargetCommand)
@options.target
@click.option(
    "--format",
    "kind",
    type=click.Choice(["mermaid", "dot", "svg"]),
    help="By default that of the FILE's name, else mermaid.",
)
@click.option("-o", "--output", metavar="FILE", help="Write it there, such as flow.svg.")
def graph(loaded: Loaded, kind: str | None, output: str | None) -> None:
    """Draw a target, before anything runs.

    It shows what a target computes, what needs what, and what decides: for Mermaid, for Graphviz
    (dot), or as an SVG image.
    """
    kind = kind or _kind_of(output)
    try:
        picture = visualize(loaded.target)
    except ValueError as error:  # too large, or a circle
        raise click.ClickException(str(error)) from None
    drawn = {"mermaid": picture.mermaid, "dot": picture.dot, "svg": picture.svg}[kind]()
    if output is None:
        _print(drawn)
        return
    with _can_write():
        Path(output).write_text(f"{drawn}\n", encoding="utf-8")


def _kind_of(output: str | None) -> str:
    """The format that the name of a file asks for."""
    suffix = "" if output is None else Path(output).suffix.lower()
    kinds = {".svg": "svg", ".dot": "dot", ".gv": "dot"}
    if suffix in (".png", ".pdf", ".jpg", ".jpeg", ".gif", ".webp", ".html"):
        raise LoadError(
            f"cannot draw {suffix} (for {output!r}); write -o FILE.svg, which browsers show, or "
            f"-o FILE.dot, of which Graphviz makes others"
        )
    return kinds.get(suffix, "mermaid")


@cli.command(cls=options.TargetCommand)
@options.target
@click.option("--fused", is_flag=True, help="The Python code that stands for hot loops.")
def dis(loaded: Loaded, fused: bool) -> None:
    """List a target's instructions for the virtual machine."""
    _print(disassemble(loaded.target, fused=fused))


@cli.command("check", cls=options.TargetCommand)
@options.target
@options.limits
def check_command(
    loaded: Loaded, limit: dict[str, str], rate: dict[str, str], concurrency: dict[str, str]
) -> int:
    """Report what is wrong with a target.

    It runs no task. Errors and warnings are certain; hints may be meant as they are. The exit code
    is 1 for an error.
    """
    capacity, constraints = options.capacity_of(limit), options.constraints_of(rate, concurrency)
    found = check(
        loaded.target, resources=loaded.resources, capacity=capacity, constraints=constraints
    )
    for finding in found:
        _print(str(finding))
    if not found:
        click.echo("nothing found")
    return int(any(finding.severity == "error" for finding in found))


@cli.command(cls=options.TargetCommand)
@options.target
@options.params
@options.limits
def agree(
    loaded: Loaded,
    pairs: tuple[str, ...],
    limit: dict[str, str],
    rate: dict[str, str],
    concurrency: dict[str, str],
) -> int:
    """Run a target in four ways and compare.

    Under both strategies on both event loops, in virtual time. The exit code is 1 if they differ.
    """
    from cascade.testing import assert_strategies_agree  # late: it loads trio

    params = given_params(loaded.target, pairs)
    capacity, constraints = options.capacity_of(limit), options.constraints_of(rate, concurrency)
    ends: list[RunFinished] = []

    def bus() -> MessageBus:
        made = MessageBus()
        made.subscribe(RunFinished, ends.append)
        return made

    try:
        assert_strategies_agree(
            loaded.make,
            params=params,
            system_resources=capacity,
            constraints=constraints,
            resources=loaded.resources,
            bus=bus,
        )
    except AssertionError as error:
        _print(str(error), err=True)
        return 1
    except SystemExit as error:  # of a task
        return _failed(error)
    _print(f"graph and vm agree on asyncio and trio: {_ended(ends)}")
    return 0


def _ended(ends: Sequence[RunFinished]) -> str:
    if not ends:
        return "each refuses the target before anything runs"
    error = ends[0].error
    cause = "" if error is None else f" with {error_text(error)}"
    return f"{ends[0].status}{cause}"


@cli.command()
def doctor() -> int:
    """Show what this installation can do."""
    broken = False
    for line in examine():
        click.echo(f"{line.what:<24} {line.found}")
        broken |= line.is_broken
    return int(broken)
