"""What a run is given from outside: `Param` and `Env`, declared where they are used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, overload

from cascade.errors import MissingParameterError, did_you_mean
from cascade.plain import brief, is_equal
from cascade.workflow.cache_key import NotPlainData, encoded
from cascade.workflow.expressions import NOTHING, Expression
from cascade.workflow.forms import NOT_READABLE, form_of, name_of

S = TypeVar("S")
T = TypeVar("T")

_type = type  # `type` is a parameter's name below


class Param(Expression[T]):
    """The value given for `name` in `params`, or the default.

    `type` is a class, a function from a string, or one of the forms `Any`, `Literal[...]`,
    `int | None`, `NewType`, `Annotated`; any other form is a `TypeError`. Left out, it is the class
    of the default, or str without a default and for None. A string given for another `type` is
    converted, a bool from 1/0, true/false, yes/no, on/off, for a union by the first member that
    can; what a member takes as it is stays as it is. A default is taken as it is, a string for
    another type converted alike. In the run, one without a value is a `MissingParameterError`, a
    value of another type a `TypeError` or `ValueError`.

    >>> import cascade as cs
    >>> cs.run([cs.Param("n", type=int), cs.Param("loud", False)], params={"n": "3", "loud": "on"})
    [3, True]
    """

    __slots__ = ("_form", "default", "description", "name", "type")

    @overload
    def __init__(self: Param[str], name: str, *, description: str = "") -> None: ...
    @overload
    def __init__(
        self: Param[str | None], name: str, default: None, *, description: str = ""
    ) -> None: ...
    @overload
    def __init__(self, name: str, default: T, *, description: str = "") -> None: ...
    @overload
    def __init__(
        self: Param[S | None],
        name: str,
        default: None,
        type: Callable[..., S],
        description: str = "",
    ) -> None: ...
    @overload
    def __init__(
        self, name: str, default: Any, type: Callable[..., T], description: str = ""
    ) -> None: ...
    @overload
    def __init__(
        self, name: str, default: Any = NOTHING, *, type: Callable[..., T], description: str = ""
    ) -> None: ...
    def __init__(
        self, name: str, default: Any = NOTHING, type: Any = NOTHING, description: str = ""
    ) -> None:
        if not isinstance(name, str) or not name:
            raise TypeError(f"a Param's name must be a non-empty string, not {name!r}")
        if isinstance(default, _type) and (type is NOTHING or type is str):
            raise TypeError(
                f"Param {name!r}: the default is the class {default.__name__}; "
                f"write type={default.__name__}"
            )
        if type is NOTHING:
            type = str if default is NOTHING or default is None else _type(default)
        try:
            self._form = form_of(type)
        except TypeError as error:
            raise TypeError(f"Param {name!r}: {error}") from None
        self.name = name
        self.type: Any = type
        self.description = description
        self.default = default
        if isinstance(default, str):
            self.default = self.convert(default)

    def _described(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return f"<Param {self.name}>"

    def agrees_with(self, other: Param[Any]) -> bool:
        """Whether both declare the same: they mean one type, and have one default."""
        is_one_type = self.type is other.type or self._form.identity() == other._form.identity()
        return is_one_type and _is_same(self.default, other.default)

    def convert(self, value: Any) -> Any:
        """`value` as the declared type; `ValueError` or `TypeError` naming the Param if not."""
        if self._form.takes(value):
            return value
        if isinstance(value, str):
            return self._parse(value)
        widened = self._form.widened(value)
        if widened is not NOTHING:
            return widened
        kind = type(value).__name__
        is_implied = self.type is str or self.type is type(self.default)
        remedy = f"; declare it with type={kind}" if is_implied else ""
        raise TypeError(
            f"Param {self.name!r} takes {name_of(self.type)}, not {kind}: {brief(value)}{remedy}"
        )

    def _parse(self, text: str) -> Any:
        try:
            return self._form.parse(text)
        except NOT_READABLE as error:
            raise ValueError(
                f"Param {self.name!r} takes {name_of(self.type)}, not {text!r}: {error}"
            ) from error


class Env(Expression[str]):
    """The environment variable `name` as it is when the run starts, or the default.

    One that is not set and has no default is a `MissingParameterError` before anything runs.
    """

    __slots__ = ("default", "description", "name")

    def __init__(self, name: str, default: Any = NOTHING, description: str = "") -> None:
        if not isinstance(name, str) or not name:
            raise TypeError(f"an Env's name must be a non-empty string, not {name!r}")
        self.name = name
        self.default = default
        self.description = description

    def _described(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return f"<Env {self.name}>"


class Inputs:
    """The Params and variables of one run: what was given, converted and checked once."""

    def __init__(self, given: Mapping[str, Any] | None) -> None:
        self._given = {} if given is None else dict(given)
        self._values: dict[str, Any] = {}
        self._declared: dict[str, Param[Any]] = {}
        self._variables: dict[str, str | None] = {}

    def declare(self, inputs: Iterable[Param[Any] | Env]) -> None:
        """Take up what an expression declares; all that is missing is one error.

        Raises `MissingParameterError`, or `ValueError` for one name declared in two ways.
        """
        params: list[str] = []
        variables: list[str] = []
        for declared in inputs:
            if isinstance(declared, Env):
                if self._variable(declared.name) is None and declared.default is NOTHING:
                    variables.append(declared.name)
            elif not self._declare(declared):
                params.append(declared.name)
        if params or variables:
            raise MissingParameterError(
                tuple(dict.fromkeys(params)), tuple(dict.fromkeys(variables)), self._unknown()
            )

    def refuse_unknown(self) -> None:
        """Raise `ValueError` if a value was given for a name that nobody declared."""
        unknown = self._unknown()
        if unknown:
            near = did_you_mean(unknown[0], self._declared)
            raise ValueError(
                f"params names {', '.join(map(repr, unknown))}, which the target does not "
                f"declare{near}"
            )

    def _unknown(self) -> list[str]:
        """The names that were given a value and that nothing declared."""
        return [name for name in self._given if name not in self._declared]

    def value(self, declared: Param[Any] | Env) -> Any:
        """The value of a declared input."""
        if isinstance(declared, Param):
            return self._values[declared.name]
        found = self._variable(declared.name)
        return declared.default if found is None else found

    def _declare(self, param: Param[Any]) -> bool:
        earlier = self._declared.setdefault(param.name, param)
        if earlier is not param and not earlier.agrees_with(param):
            raise ValueError(
                f"Param {param.name!r} is declared in two ways: type "
                f"{name_of(earlier.type)}, default {earlier.default!r}, and type "
                f"{name_of(param.type)}, default {param.default!r}; declare it once and share it"
            )
        if param.name in self._values:
            return True
        if param.name in self._given:
            self._values[param.name] = param.convert(self._given[param.name])
        elif param.default is not NOTHING:
            self._values[param.name] = param.default
        else:
            return False
        return True

    def _variable(self, name: str) -> str | None:
        if name not in self._variables:
            self._variables[name] = os.environ.get(name)
        return self._variables[name]


def _is_same(one: Any, other: Any) -> bool:
    """Whether two defaults are one: equal, or the same data by its encoding, floats by their bits.

    Of one that is plain data nothing but its encoding is asked.
    """
    try:
        return type(one) is type(other) and encoded(one) == encoded(other)
    except NotPlainData:
        return is_equal(one, other)
