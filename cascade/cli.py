"""The command line: `cascade run FILE.py:NAME` and its kin.

Exit codes: 0; 1 what was asked for failed; 2 it was asked for in a wrong way; 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from cascade.checks import check
from cascade.compiler import disassemble
from cascade.constraints import GlobalConstraint, checked, checked_capacity
from cascade.doctor import examine
from cascade.engine import run_async
from cascade.events import MessageBus, RunFinished
from cascade.expressions import NOTHING
from cascade.inputs import Env, Param
from cascade.interrupts import INTERRUPTED, run_interruptible
from cascade.loading import Loaded, LoadError, given_params, load
from cascade.outline import outline
from cascade.outputs import written
from cascade.picture import visualize
from cascade.plan import parameters
from cascade.testing import assert_strategies_agree
from cascade.tracebacks import folded_traceback

F = TypeVar("F", bound=Callable[..., Any])


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command; the exit code."""
    try:
        code = cli.main(arguments, prog_name="cascade", standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"Error: {error.format_message()}", err=True)
        return error.exit_code
    except LoadError as error:
        click.echo(f"Error: {error}", err=True)
        return 2
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except SystemExit:  # of the module of the target
        raise
    except BaseException as error:
        return _failed(error)
    return code if isinstance(code, int) else 0


def _failed(error: BaseException) -> int:
    click.echo(folded_traceback(error), err=True, nl=False)
    return 1


# What is given on the command line


_ARGUMENTS: Final = "cascade.arguments"


class TargetCommand(click.Command):
    """A command for a target, whose `--help`, if a target is named, tells what the target takes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        # Help is written before the target is converted.
        named, _, _ = self.make_parser(ctx).parse_args(list(ctx.meta[_ARGUMENTS]))
        if not isinstance(named.get("loaded"), str):
            return
        loaded = load(named["loaded"])
        declared = parameters(loaded.target)
        _write_rows(
            formatter,
            f"Parameters of {loaded.name} (-p NAME=VALUE)",
            [(f"{p.name}={_type_of(p)}", _told(p)) for p in declared if isinstance(p, Param)],
        )
        _write_rows(
            formatter,
            f"Environment variables of {loaded.name}",
            [(each.name, _told(each)) for each in declared if isinstance(each, Env)],
        )


def _write_rows(formatter: click.HelpFormatter, title: str, rows: list[tuple[str, str]]) -> None:
    if rows:
        with formatter.section(title):
            formatter.write_dl(rows)


def _type_of(param: Param[Any]) -> str:
    return str(getattr(param.type, "__name__", param.type))


def _told(declared: Param[Any] | Env) -> str:
    is_required = declared.default is NOTHING
    default = "required" if is_required else f"default: {declared.default!r}"
    return f"{declared.description}  [{default}]".strip()


def _target(command: F) -> F:
    return click.argument(
        "loaded",
        metavar="FILE.py:NAME | MODULE:NAME",
        callback=lambda _context, _parameter, named: load(named),
    )(command)


def _params(command: F) -> F:
    return click.option(
        "-p", "--param", "pairs", metavar="NAME=VALUE", multiple=True, help="Give a parameter."
    )(command)


@dataclass(frozen=True, slots=True)
class Limits:
    """The capacity and the constraints of a run."""

    capacity: dict[str, float]
    constraints: list[GlobalConstraint]


def _limits(command: F) -> F:
    options = (
        ("--limit", "NAME=AMOUNT", "Capacity that tasks take with_constraints, such as gpu=2."),
        ("--rate", "SCOPE=RATE", "At most so many starts, such as 'task:fetch*=10/s'."),
        ("--concurrency", "SCOPE=N", "At most so many at once, such as 'global=8'."),
    )
    for name, metavar, text in reversed(options):
        option = click.option(name, metavar=metavar, multiple=True, callback=_by_name, help=text)
        command = option(command)
    return command


def _by_name(
    _context: click.Context, parameter: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, str]:
    """Each `NAME=VALUE`, parted at the last `=`: a scope may hold others."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.rpartition("=")
        if not equals or not name:
            raise LoadError(f"{parameter.opts[0]} {pair!r} has no value; write NAME=VALUE")
        if name in found:
            raise LoadError(f"{parameter.opts[0]} is given twice for {name!r}")
        found[name] = value
    return found


def _limits_given(options: Mapping[str, Mapping[str, str]]) -> Limits:
    """The limits among the options; `LoadError` for what no engine would take."""
    capacity = {name: _number(f"--limit {name}", text) for name, text in options["limit"].items()}
    constraints = [
        GlobalConstraint(f"rate_limit:{scope}", scope, "rate_limit", {"rate": rate})
        for scope, rate in options["rate"].items()
    ]
    for scope, text in options["concurrency"].items():
        limit = _number(f"--concurrency {scope}", text)
        constraints.append(
            GlobalConstraint(f"concurrency:{scope}", scope, "concurrency", {"limit": limit})
        )
    try:
        checked_capacity(capacity)
        return Limits(capacity, [checked(constraint) for constraint in constraints])
    except ValueError as error:
        raise LoadError(str(error)) from None


def _number(what: str, text: str) -> float:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    raise LoadError(f"{what}={text!r} is no number")


# The commands


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


@cli.command(cls=TargetCommand)
@_target
@_params
@click.option("--vm", "use_vm", is_flag=True, help="Run it on the virtual machine.")
@click.option("--backend", type=click.Choice(["asyncio", "trio"]), default="asyncio")
@_limits
@click.option("--progress/--quiet", default=None, help="Show how it goes, as on a terminal.")
@click.option("--events", metavar="FILE", help="Write each event to it, a line of JSON.")
@click.option("--trace", metavar="FILE", help="Write a trace for Perfetto or chrome://tracing.")
def run(
    loaded: Loaded,
    pairs: tuple[str, ...],
    use_vm: bool,
    backend: str,
    progress: bool | None,
    events: str | None,
    trace: str | None,
    **options: Any,
) -> int:
    """Run a target and print its value, as JSON where it can be."""
    params = given_params(loaded.target, pairs)
    limits = _limits_given(options)
    bus = MessageBus()
    main = partial(
        run_async,
        loaded.target,
        params=params,
        use_vm=use_vm,
        system_resources=limits.capacity,
        constraints=limits.constraints,
        resources=loaded.resources,
        bus=bus,
        progress=_shows_progress(progress),
    )
    try:
        with ExitStack() as stack:
            try:
                stack.enter_context(written(bus, events=events, trace=trace))
            except OSError as error:
                raise LoadError(f"cannot write {error.filename!r}: {error.strerror}") from None
            value = run_interruptible(main, backend)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as error:  # of a task
        return _failed(error)
    click.echo(_shown(value))
    return 0


def _shows_progress(asked: bool | None) -> bool:
    """What was asked for; else whether somebody looks on."""
    has_rich = find_spec("rich") is not None
    if asked and not has_rich:
        raise LoadError("showing progress needs rich; pip install 'cascade-vm[progress]'")
    return sys.stderr.isatty() and has_rich if asked is None else asked


def _shown(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except RecursionError:
        return f"<{type(value).__name__} that nests too deep to be shown>"
    except (TypeError, ValueError):
        return repr(value)


@cli.command(cls=TargetCommand)
@_target
@_limits
def plan(loaded: Loaded, **options: Any) -> None:
    """Show what would run, in plan order, and under which conditions and limits."""
    click.echo(outline(loaded.target, _limits_given(options).constraints))


@cli.command(cls=TargetCommand)
@_target
@click.option("--format", "kind", type=click.Choice(["mermaid", "dot", "svg"]), default="mermaid")
@click.option("-o", "--output", metavar="FILE", help="Write it there instead of printing it.")
def graph(loaded: Loaded, kind: str, output: str | None) -> None:
    """Draw a target: what it computes, what needs what, and what decides."""
    try:
        picture = visualize(loaded.target)
    except ValueError as error:  # too large, or a circle
        raise click.ClickException(str(error)) from None
    drawn = {"mermaid": picture.mermaid, "dot": picture.dot, "svg": picture.svg}[kind]()
    if output is None:
        click.echo(drawn)
        return
    try:
        Path(output).write_text(f"{drawn}\n", encoding="utf-8")
    except OSError as error:
        raise LoadError(f"cannot write {output!r}: {error.strerror}") from None


@cli.command(cls=TargetCommand)
@_target
def dis(loaded: Loaded) -> None:
    """Show the instructions of a target for the virtual machine."""
    click.echo(disassemble(loaded.target))


@cli.command("check", cls=TargetCommand)
@_target
@_limits
def check_command(loaded: Loaded, **options: Any) -> int:
    """Report what is wrong with a target, without running it; exit code 1 for an error.

    Errors and warnings are certain; hints may be meant as they are.
    """
    limits = _limits_given(options)
    found = check(loaded.target, resources=loaded.resources, capacity=limits.capacity)
    for finding in found:
        click.echo(str(finding))
    if not found:
        click.echo("nothing found")
    return int(any(finding.severity == "error" for finding in found))


@cli.command(cls=TargetCommand)
@_target
@_params
@_limits
def agree(loaded: Loaded, pairs: tuple[str, ...], **options: Any) -> int:
    """Run a target under both strategies on both event loops, in virtual time, and compare."""
    params = given_params(loaded.target, pairs)
    limits = _limits_given(options)
    ends: list[RunFinished] = []

    def bus() -> MessageBus:
        made = MessageBus()
        made.subscribe(RunFinished, ends.append)
        return made

    try:
        assert_strategies_agree(
            loaded.make,
            params=params,
            system_resources=limits.capacity,
            constraints=limits.constraints,
            resources=loaded.resources,
            bus=bus,
        )
    except AssertionError as error:
        click.echo(str(error), err=True)
        return 1
    click.echo(f"graph and vm agree on asyncio and trio: {_ended(ends)}")
    return 0


def _ended(ends: Sequence[RunFinished]) -> str:
    if not ends:
        return "each refuses the target before anything runs"
    error = ends[0].error
    told = "" if error is None else f" with {type(error).__name__}: {error}"
    return f"{ends[0].status}{told}"


@cli.command()
def doctor() -> int:
    """Tell what this installation can do."""
    broken = False
    for line in examine():
        click.echo(f"{line.what:<24} {line.told}")
        broken |= line.is_broken
    return int(broken)
