"""What is given on the command line: a target, its parameters, the limits of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar

import click

from cascade.amounts import Rate, checked_capacity
from cascade.command.loading import LoadError, load
from cascade.graph.plan import parameters
from cascade.limits.constraints import GlobalConstraint, checked
from cascade.workflow.expressions import NOTHING
from cascade.workflow.forms import name_of
from cascade.workflow.inputs import Env, Param

F = TypeVar("F", bound=Callable[..., Any])
_ARGUMENTS: Final = "cascade.arguments"


class TargetCommand(click.Command):
    """A command for a target, whose `--help`, if a target is named, lists what the target takes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if all(each.name != "pairs" for each in self.params):
                raise
            name = error.option_name.lstrip("-")
            said = f"{error.format_message()} A parameter of the target is -p {name}=VALUE."
            raise click.UsageError(said, ctx) from None

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
            [(f"{p.name}={_type_of(p)}", _described(p)) for p in declared if isinstance(p, Param)],
        )
        _write_rows(
            formatter,
            f"Environment variables of {loaded.name}",
            [(each.name, _described(each)) for each in declared if isinstance(each, Env)],
        )


def _write_rows(formatter: click.HelpFormatter, title: str, rows: list[tuple[str, str]]) -> None:
    if rows:
        with formatter.section(title):
            formatter.write_dl(rows)


def _type_of(param: Param[Any]) -> str:
    return name_of(param.type)


def _described(declared: Param[Any] | Env) -> str:
    is_required = declared.default is NOTHING
    default = "required" if is_required else f"default: {declared.default!r}"
    return f"{declared.description}  [{default}]".strip()


def target(command: F) -> F:
    """The target, as `loaded`."""
    return click.argument(
        "loaded",
        metavar="FILE.py:NAME | MODULE:NAME",
        callback=lambda _context, _parameter, named: load(named),
    )(command)


def params(command: F) -> F:
    """Parameters of the target, as `pairs`, which `given_params` reads."""
    return click.option(
        "-p", "--param", "pairs", metavar="NAME=VALUE", multiple=True, help="Give a parameter."
    )(command)


def _by_name(
    _context: click.Context, parameter: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, str]:
    """Each `NAME=VALUE`, parted at the last `=`: a scope may hold others."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.rpartition("=")
        if not equals or not name:
            option, form = parameter.opts[0], parameter.metavar
            raise LoadError(f"{option} {pair!r} has no value; write {option} {form}")
        if name in found:
            raise LoadError(f"{parameter.opts[0]} is given twice for {name!r}")
        found[name] = value
    return found


def _named_values(name: str, metavar: str, text: str) -> Callable[[F], F]:
    return click.option(name, metavar=metavar, multiple=True, callback=_by_name, help=text)


limit = _named_values(
    "--limit",
    "NAME=AMOUNT",
    "Capacity that tasks take with_constraints, such as gpu=2, or tokens=90000/m:10000, "
    "which refills at this rate up to a burst.",
)
_rates = _named_values(
    "--rate", "SCOPE=RATE", "At most so many starts, such as 'task:fetch*=10/s'."
)
_concurrency = _named_values(
    "--concurrency", "SCOPE=N", "At most so many at once, such as 'global=8'."
)


def limits(command: F) -> F:
    """All that hold for a run: `limit`, `rate`, `concurrency`, each a dict of text by name."""
    return limit(_rates(_concurrency(command)))


def capacity_of(limits: Mapping[str, str]) -> dict[str, float | Rate]:
    """Capacity by name; `LoadError` for what no engine would take."""
    try:
        capacity = {name: _amount(f"--limit {name}", text) for name, text in limits.items()}
        checked_capacity(capacity)
    except ValueError as error:
        raise LoadError(str(error)) from None
    return capacity


def _amount(option: str, text: str) -> float | Rate:
    """A number, or what refills: "RATE" or "RATE:BURST"."""
    if "/" not in text:
        return _number(option, text)
    rate, colon, burst = text.partition(":")
    return Rate(rate, _number(option, burst) if colon else 1)


def constraints_of(
    rates: Mapping[str, str], concurrency: Mapping[str, str]
) -> list[GlobalConstraint]:
    """The constraints; `LoadError` for what no engine would take."""
    found = [
        GlobalConstraint(f"rate_limit:{scope}", scope, "rate_limit", {"rate": rate})
        for scope, rate in rates.items()
    ]
    for scope, text in concurrency.items():
        most = {"limit": _number(f"--concurrency {scope}", text)}
        found.append(GlobalConstraint(f"concurrency:{scope}", scope, "concurrency", most))
    try:
        return [checked(constraint) for constraint in found]
    except ValueError as error:
        raise LoadError(str(error)) from None


def _number(what: str, text: str) -> float:
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    raise LoadError(f"{what}={text!r} is no number")
