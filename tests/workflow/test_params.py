"""What a Param takes, by its type and its default (sections 2 and 15)."""

# ruff: noqa: UP006, UP007, UP045 (older ways to write a type are among what is tested)

from __future__ import annotations

import collections.abc
import enum
import math
import sys
import typing
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType, Optional, Union

import pytest

import cascade as cs

Run = Callable[..., Any]
UserId = NewType("UserId", int)
AdminId = NewType("AdminId", UserId)


class Color(enum.Enum):
    RED = 1
    BLUE = "blue"


class Options(typing.TypedDict):
    a: int


class HasName(typing.Protocol):
    name: str


@typing.runtime_checkable
class Closes(typing.Protocol):
    def close(self) -> None: ...


class Pair(NamedTuple):
    x: int


def comma_separated(text: str) -> list[str]:
    return text.split(",")


TAKEN = [
    (Any, 5, 5),
    (Any, "5", "5"),
    (Any, None, None),
    (object, "5", "5"),
    (Literal["raw", "json"], "json", "json"),
    (Literal[1, 2, "three"], "2", 2),
    (Literal[1, 2, "three"], 2, 2),
    (Literal["1", 1], "1", "1"),
    (Literal[True, "x"], "yes", True),
    (Literal[False, None], None, None),
    (Literal[Color.RED], "RED", Color.RED),
    (Literal[Color.RED], Color.RED, Color.RED),
    (Optional[int], 5, 5),
    (Optional[int], "5", 5),
    (Optional[int], None, None),
    (int | None, "5", 5),
    (int | None, None, None),
    (Union[int, str], "5", "5"),
    (Union[int, str], 5, 5),
    (int | float, "5", 5),
    (int | float, "5.5", 5.5),
    (float | None, 5, 5.0),
    (bool | None, "off", False),
    (Path | int, "5", Path("5")),
    (Literal["auto"] | int, "auto", "auto"),
    (Literal["auto"] | int, "5", 5),
    (Annotated[int, "metres"], "5", 5),
    (Optional[Annotated[int, "metres"]], "5", 5),
    (UserId, 5, 5),
    (UserId, "5", 5),
    (AdminId | None, "5", 5),
    (Annotated[UserId, 1], "5", 5),
    (Closes, sys.stdout, sys.stdout),
    (collections.abc.Mapping, {"a": 1}, {"a": 1}),
    (Pair, Pair(1), Pair(1)),
    (Decimal, "0.1", Decimal("0.1")),
    (comma_separated, "a,b", ["a", "b"]),
    (comma_separated, ["a"], ["a"]),
]


@pytest.mark.parametrize(("form", "given", "want"), TAKEN)
def test_a_form_of_typing_takes_what_it_says(run: Run, form: Any, given: Any, want: Any) -> None:
    """Values as they are, text as the first member of a union that can read it."""
    got = run(cs.Param("p", type=form), params={"p": given})
    assert type(got) is type(want)
    assert got == want


REFUSED_VALUES = [
    (Literal["raw", "json"], "xml", ValueError, "'raw', 'json'"),
    (Literal["raw", "json"], 5, TypeError, "Literal['raw', 'json']"),
    (Literal[1], True, TypeError, "not bool"),
    (Literal[1], 1.0, TypeError, "not float"),
    (Optional[int], "x", ValueError, "Optional[int]"),
    (int | None, "None", ValueError, "int | None"),
    (int | None, 5.5, TypeError, "int | None"),
    (Literal[None], "None", ValueError, "one of None"),
    (UserId, 5.5, TypeError, "UserId"),
    (UserId, "x", ValueError, "UserId"),
    (bool, "maybe", ValueError, "write 1/0, true/false"),
]


@pytest.mark.parametrize(("form", "given", "kind", "told"), REFUSED_VALUES)
def test_what_a_form_does_not_take_is_told(
    run: Run, form: Any, given: Any, kind: Any, told: str
) -> None:
    """A value that a Param cannot take is an error with its name and what it takes."""
    with pytest.raises(kind) as caught:
        run(cs.Param("p", type=form), params={"p": given})
    assert type(caught.value) is kind
    assert "Param 'p'" in str(caught.value)
    assert told in str(caught.value)


REFUSED_FORMS = [
    (list[int], "type=list"),
    (dict[str, int], "type=dict"),
    (typing.List[int], "type=list"),
    (typing.List, "type=list"),
    (typing.Callable[[int], int], "type=Callable"),
    (type[int], "type=type"),
    (Optional[list[int]], "type=list"),
    (Options, "type=dict"),
    (HasName, "a class"),
    (typing.TypeVar("T"), "a class"),
    (typing.Optional, "a class"),
    (typing.Union, "a class"),
    (typing.Literal, "a class"),
    (typing.Final, "a class"),
    (typing.ClassVar[int], "a class"),
    (typing.NoReturn, "a class"),
    (typing.LiteralString, "a class"),
    (NewType("Names", list[str]), "type=list"),
    ("int", "must be a class"),
    (5, "must be a class"),
    (None, "must be a class"),
]


@pytest.mark.parametrize(("form", "instead"), REFUSED_FORMS)
def test_a_form_that_cannot_be_checked_is_refused_where_it_is_written(
    form: Any, instead: str
) -> None:
    """A type that values cannot be checked against is refused, with one to write instead."""
    with pytest.raises(TypeError) as caught:
        cs.Param("p", type=form)
    assert "Param 'p'" in str(caught.value)
    assert instead in str(caught.value)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the statement is new in Python 3.12")
def test_an_alias_is_what_it_stands_for(run: Run) -> None:
    """A `type` alias as the type of a Param means the type behind it."""
    scope: dict[str, Any] = {}
    exec("type Count = int | None\ntype Names = list[str]", scope)
    assert run(cs.Param("p", type=scope["Count"]), params={"p": "5"}) == 5
    with pytest.raises(TypeError, match="type=list"):
        cs.Param("p", type=scope["Names"])


# The type of the default


@pytest.mark.parametrize(
    ("default", "given", "want"),
    [
        (3, "5", 5),
        (3, 5, 5),
        (True, "off", False),
        (False, "yes", True),
        (0.5, "1.5", 1.5),
        (0.5, 2, 2.0),
        ("x", "5", "5"),
        (Path("a"), "b", Path("b")),
        (Decimal(1), "0.1", Decimal("0.1")),
        (b"a", b"b", b"b"),
        ([1], [2], [2]),
        ({}, {"a": 1}, {"a": 1}),
        (None, "5", "5"),
    ],
)
def test_without_a_type_it_is_that_of_the_default(
    run: Run, default: Any, given: Any, want: Any
) -> None:
    """Values and text are taken as if `type=` named the class of the default; None means str."""
    got = run(cs.Param("p", default), params={"p": given})
    assert type(got) is type(want)
    assert got == want
    assert run(cs.Param("p", default=default, description="d")) is default


def test_without_a_default_it_is_a_str(run: Run) -> None:
    """Neither type nor default: text, and nothing else."""
    assert cs.Param("p").type is cs.Param("p", None).type is str
    with pytest.raises(TypeError, match="takes str, not int"):
        run(cs.Param("p"), params={"p": 5})


@pytest.mark.parametrize(
    ("default", "given", "error", "told"),
    [
        (3, "x", ValueError, r"Param 'p' takes int, not 'x'"),
        (3, 2.5, TypeError, r"takes int, not float: 2\.5; declare it with type=float"),
        (True, 1, TypeError, r"takes bool, not int"),
        (True, "maybe", ValueError, r"write 1/0, true/false"),
        ([1], "1,2", ValueError, r"takes list, not '1,2': .* type=json\.loads"),
        ((1,), "1,2", ValueError, r"taken apart into characters"),
        (None, 5, TypeError, r"takes str, not int: 5; declare it with type=int"),
    ],
)
def test_what_is_not_of_the_type_of_the_default_is_refused(
    run: Run, default: Any, given: Any, error: type[Exception], told: str
) -> None:
    """The errors are those of a type that was written down."""
    with pytest.raises(error, match=told):
        run(cs.Param("p", default), params={"p": given})


def test_a_type_of_the_default_is_as_good_as_a_written_one(run: Run) -> None:
    """The same type and default declared in both forms are one Param; different ones are two."""
    assert run([cs.Param("a", 3), cs.Param("a", 3, type=int)], params={"a": "4"}) == [4, 4]
    assert cs.to_json(cs.Param("a", 3)) == cs.to_json(cs.Param("a", 3, type=int))
    for one, other in ((3, 3.0), (3, True), (3, "3"), (None, 3), ("x", None)):
        with pytest.raises(ValueError, match="Param 'a' is declared in two ways: type"):
            run([cs.Param("a", one), cs.Param("a", other)], params={"a": "1"})
    with pytest.raises(ValueError, match=r"type int, default 3, and type float, default 3\.0"):
        run([cs.Param("a", 3), cs.Param("a", 3.0)])


# One name in two places


class Array:
    """As an array of numpy: its comparison has no truth value."""

    def __eq__(self, other: object) -> Any:
        return self

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    def __repr__(self) -> str:
        return "Array()"


class Failing(Array):
    def __eq__(self, other: object) -> Any:
        raise RuntimeError("do not compare me")


@dataclass
class Record:
    x: Any


array = Array()

ONE_WAY: list[tuple[Any, Callable[[], Any]]] = [
    (float, lambda: float("nan")),
    (float, lambda: -float("nan")),
    (list, lambda: [math.nan, [1]]),
    (dict, lambda: {"a": float("nan")}),
    (Record, lambda: Record(float("nan"))),
    (Array, lambda: array),
    (Decimal, lambda: Decimal("0.1")),
    (OrderedDict, lambda: OrderedDict(a=1)),
    (Path, lambda: Path("a")),
    (int, lambda: 3),
    (str, lambda: "x"),
    (int | None, lambda: None),
    (Optional[int], lambda: 5),
]


@pytest.mark.parametrize(("kind", "make"), ONE_WAY)
def test_equal_defaults_are_one_way(run: Run, kind: Any, make: Any) -> None:
    """The same object, equal data (floats by their bits), or what says that it is equal."""
    two = cs.task(lambda x, y: (x, y), name="two")
    x, y = run(two(cs.Param("a", make(), type=kind), cs.Param("a", make(), type=kind)))
    assert repr(x) == repr(y) == repr(make())


def test_equal_types_are_one_way(run: Run) -> None:
    """Forms are made anew each time that they are written."""
    for one, other in ((int | None, Optional[int]), (Any, object), (UserId, int)):
        params = [cs.Param("a", type=one), cs.Param("a", type=other)]
        assert run(params, params={"a": 1}) == [1, 1]


TWO_WAYS = [
    (float, 0.0, -0.0),
    (int, 1, True),
    (Array, Array(), Array()),
    (Failing, Failing(), Failing()),
    (list, [1], [1.0]),
    (list, [Array()], [Array()]),
    (object, 1, None),
    (Decimal, Decimal(1), Decimal(2)),
]


@pytest.mark.parametrize(("kind", "one", "other"), TWO_WAYS)
def test_defaults_that_are_not_known_to_be_equal_are_two_ways(
    run: Run, kind: Any, one: Any, other: Any
) -> None:
    """An error names the Param, whatever the defaults do when they are compared."""
    with pytest.raises(ValueError, match="Param 'a' is declared in two ways"):
        run([cs.Param("a", one, type=kind), cs.Param("a", other, type=kind)])


@pytest.mark.parametrize("one", [int, int | None, Literal[1]])
def test_different_types_are_two_ways(run: Run, one: Any) -> None:
    """One Param declared with two types is an error."""
    with pytest.raises(ValueError, match="declared in two ways"):
        run([cs.Param("a", type=one), cs.Param("a", type=float | None)], params={"a": 1})


def test_a_default_without_truth_is_a_default_like_any_other(run: Run) -> None:
    """A default is never asked for its truth or compared with others."""
    assert run(cs.Param("a", array, type=Array)) is array
    assert cs.parameters([cs.Param("a", array, type=Array)])[0].default is array
    assert cs.to_json(cs.Param("a", array, type=Array))
