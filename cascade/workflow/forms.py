"""What the `type` of a Param says: which values it takes as they are, and how text becomes one.

A class takes its instances and is called with text; a function is called with text and takes
everything else. Of the forms of `typing` those are taken of which both can be said: `Any`,
`Literal`, unions, `NewType`, `Annotated` and aliases. Any other is refused where it is written.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, NewType, Protocol, Union, get_args, get_origin

from cascade.workflow.expressions import NOTHING

_TRUE: Final = {"1", "true", "yes", "on"}
_FALSE: Final = {"0", "false", "no", "off"}
_OF_CHARACTERS: Final = (list, tuple, set, frozenset)  # which would take a text apart
NOT_READABLE: Final = (ValueError, TypeError, ArithmeticError, LookupError)  # what text raises


class Form(Protocol):
    """How a Param comes to its value."""

    def takes(self, value: Any) -> bool:
        """Whether the value is taken as it is."""
        ...

    def parse(self, text: str) -> Any:
        """The value that the text stands for, which raises one of `NOT_READABLE` if none does."""
        ...

    def widened(self, value: Any) -> Any:
        """The value that another value, which is no text, stands for; NOTHING if none does."""
        ...

    def identity(self) -> Any:
        """What is equal for forms that mean the same."""
        ...


@dataclass(frozen=True, slots=True)
class OfClass:
    """The instances of a class."""

    kind: type[Any]

    def takes(self, value: Any) -> bool:
        return isinstance(value, self.kind)

    def parse(self, text: str) -> Any:
        if self.kind is bool:
            return truth(text)
        if self.kind in _OF_CHARACTERS:
            raise ValueError(
                "a text would be taken apart into characters; "
                "declare it with a function from a string as the type, such as type=json.loads"
            )
        return self.kind(text)

    def widened(self, value: Any) -> Any:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return float(value) if self.kind is float and is_whole else NOTHING

    def identity(self) -> Any:
        return "class", id(self.kind)


@dataclass(frozen=True, slots=True)
class OfFunction:
    """What a function makes of text; what is no text is taken as made already."""

    function: Callable[[str], Any]

    def takes(self, value: Any) -> bool:
        return not isinstance(value, str)

    def parse(self, text: str) -> Any:
        return self.function(text)

    def widened(self, value: Any) -> Any:
        return value

    def identity(self) -> Any:
        return "function", id(self.function)


@dataclass(frozen=True, slots=True)
class OneOf:
    """Some values; text stands for the one that is written so, an Enum's member for its name."""

    choices: tuple[Any, ...]

    def takes(self, value: Any) -> bool:
        kinds = (choice for choice in self.choices if type(choice) is type(value))
        return any(choice is value or bool(choice == value) for choice in kinds)

    def parse(self, text: str) -> Any:
        for choice in self.choices:
            if _is_written(choice, text):
                return choice
        raise ValueError(f"it is one of {', '.join(map(repr, self.choices))}")

    def widened(self, value: Any) -> Any:
        return NOTHING

    def identity(self) -> Any:
        return "choices", tuple((type(choice), choice) for choice in self.choices)


@dataclass(frozen=True, slots=True)
class Either:
    """What one of several forms takes, or else the first of them makes of it."""

    forms: tuple[Form, ...]

    def takes(self, value: Any) -> bool:
        return any(form.takes(value) for form in self.forms)

    def parse(self, text: str) -> Any:
        reasons: list[str] = []
        for form in self.forms:
            if form == OfClass(NoneType):
                continue  # no text stands for None
            try:
                return form.parse(text)
            except NOT_READABLE as error:
                reasons.append(str(error))
        raise ValueError("; ".join(reasons) or "no text stands for it")

    def widened(self, value: Any) -> Any:
        found = (form.widened(value) for form in self.forms)
        return next((each for each in found if each is not NOTHING), NOTHING)

    def identity(self) -> Any:
        return "either", tuple(form.identity() for form in self.forms)


def form_of(kind: Any) -> Form:
    """The form that `kind` stands for; raises `TypeError` with what to write instead of it."""
    kind = _meant(kind)
    origin = get_origin(kind)
    if origin is Literal:
        return OneOf(get_args(kind))
    if origin is Union or origin is UnionType:
        return Either(tuple(form_of(member) for member in get_args(kind)))
    is_special = type(kind).__module__ in ("typing", "typing_extensions")
    if origin is not None or (is_special and not isinstance(kind, type)):
        raise TypeError(_instead_of(kind, origin))
    if isinstance(kind, type):
        try:
            isinstance(None, kind)
        except TypeError:  # a TypedDict, a Protocol
            plain = dict if typing.is_typeddict(kind) else None
            raise TypeError(_instead_of(kind, plain)) from None
        return OfClass(kind)
    if callable(kind):
        return OfFunction(kind)
    raise TypeError(f"type={kind!r} must be a class, such as int")


def name_of(kind: Any) -> str:
    """A class or function by its name, a form of `typing` as it is written."""
    if get_origin(kind) is not None:
        return repr(kind).replace("typing.", "")
    return str(getattr(kind, "__name__", kind))


def truth(text: str) -> bool:
    """The bool that a text stands for."""
    word = text.strip().lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError("write 1/0, true/false, yes/no or on/off")


def _meant(kind: Any) -> Any:
    """What a NewType, an annotation or an alias stands for."""
    seen: list[Any] = []
    while not any(kind is each for each in seen):
        seen.append(kind)
        if kind is Any:
            kind = object
        elif isinstance(kind, NewType):
            kind = kind.__supertype__
        elif get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        elif type(kind).__name__ == "TypeAliasType":  # `type X = ...`, from Python 3.12 on
            kind = kind.__value__
    return kind


def _instead_of(kind: Any, origin: Any) -> str:
    plain = f"type={origin.__name__}" if isinstance(origin, type) else "a class"
    return (
        f"type={name_of(kind)} says of no value whether it fits; write {plain}, or a function "
        "that makes the value of text"
    )


def _is_written(choice: Any, text: str) -> bool:
    if isinstance(choice, str) and not isinstance(choice, Enum):
        return choice == text
    if isinstance(choice, Enum):
        return choice.name == text
    if isinstance(choice, bool):
        return text.strip().lower() in (_TRUE if choice else _FALSE)
    if isinstance(choice, int):
        try:
            return int(text) == choice
        except ValueError:
            return False
    return False  # None, bytes
