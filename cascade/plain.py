"""Values of a user as plain data: what JSON can hold as itself, all else by its type.

None of it is a `repr`, which may hold addresses, or be as long as the value is large. For messages,
which need one, there is `brief`.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from math import isfinite
from reprlib import Repr
from typing import Any, Final

LONGEST: Final = 10_000  # characters of a text, members of containers in all
DEEPEST: Final = 8  # containers within containers
BRIEF: Final = 200  # characters of a value in a message
_WIDEST = 4096  # bits of a whole number: Python refuses to write much longer ones


def plain(value: Any) -> Any:
    """`value` as what `json.dumps` takes: None, bool, numbers, text, lists and dicts of these.

    Anything else is `{"type": ...}` with its module and name, and so are numbers JSON does not
    know, texts of more than 10,000 characters, containers that would bring the members in all
    above 10,000, and what is nested deeper than 8.

    >>> plain({"n": 1, "when": [None, float("inf")]})
    {'n': 1, 'when': [None, {'type': 'float', 'text': 'inf'}]}
    >>> plain(object()), plain({1: 2})
    ({'type': 'object'}, {'type': 'dict', 'length': 1})
    """
    return _plain(value, 0, [LONGEST])


def _plain(value: Any, depth: int, left: list[int]) -> Any:
    """The same at a depth, while members are left."""
    kind = type(value)
    if value is None or kind is bool or (kind is float and isfinite(value)):
        return value
    if kind is int and value.bit_length() <= _WIDEST:
        return value
    if kind is str and len(value) <= LONGEST:
        return value
    if kind in (list, tuple, dict) and len(value) <= left[0] and depth < DEEPEST:
        if kind is not dict:
            left[0] -= len(value)
            return [_plain(member, depth + 1, left) for member in value]
        if all(type(key) is str for key in value):
            left[0] -= len(value)
            return {key: _plain(member, depth + 1, left) for key, member in value.items()}
    return _described(value)


def _described(value: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"type": type_name(type(value))}
    if isinstance(value, Enum):
        told["name"] = value.name
    elif isinstance(value, type):
        told["name"] = type_name(value)
    elif type(value) in (float, Decimal, Fraction):
        told["text"] = str(value)
    elif type(value) in (list, tuple, dict, set, frozenset, str, bytes):
        told["length"] = len(value)
    return told


def plain_mapping(values: Mapping[str, Any]) -> dict[str, Any]:
    """Each value as plain data, under its name."""
    return {str(name): plain(value) for name, value in values.items()}


def type_name(kind: type) -> str:
    """The module and qualified name of a class; the name alone for what is built in."""
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


class _Brief(Repr):
    """`reprlib.Repr` for messages: no addresses, and no failure."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 12
        self.maxarray = self.maxdeque = 12
        self.maxstring = self.maxother = self.maxlong = BRIEF

    def repr1(self, x: Any, level: int) -> str:
        if type(x) is int and x.bit_length() > _WIDEST:
            return f"<int of {x.bit_length()} bits>"
        try:
            text = super().repr1(x, level)
        except KeyboardInterrupt:
            raise
        except BaseException as failure:  # of a user's own: the message must be there all the same
            return f"<{type(x).__name__} whose repr raises {type(failure).__name__}>"
        return text if len(text) <= BRIEF else f"{text[:BRIEF]}..."

    def repr_instance(self, x: Any, level: int) -> str:
        return repr(x)


_brief: Final = _Brief()


def brief(value: object) -> str:
    """The `repr` of any value, for a message: shortened, and there whatever `__repr__` does.

    >>> brief([1, "two"]), len(brief(list(range(10**6)))) < 100
    ("[1, 'two']", True)
    """
    return _brief.repr(value)


def function_name(function: object) -> str:
    """A function, or another object that is called, as text without addresses.

    >>> function_name(str.upper), function_name(print)
    ('str.upper()', 'print()')
    """
    name = getattr(function, "__qualname__", None)
    return f"{name}()" if isinstance(name, str) else type_name(type(function))


def is_equal(one: Any, other: Any) -> bool:
    """Whether two values are one object, or of one type and equal.

    The answer of an object to `==` counts if it is True itself: an array answers with an array,
    which may have no truth. One that raises compares something else.
    """
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    try:
        return (one == other) is True
    except Exception:
        return False


def error_text(error: BaseException) -> str:
    """The type of `error` and its message, in a line."""
    return f"{type(error).__name__}: {text_of(error)}"


def text_of(error: BaseException) -> str:
    """The message of `error`, whatever its `__str__` does."""
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as failure:
        return f"<no message: __str__ raised {type(failure).__name__}>"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
