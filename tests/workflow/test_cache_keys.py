"""The key of a call: equal exactly for the same task and the same arguments (section 7)."""

from __future__ import annotations

import collections
import copy
import dataclasses
import enum
import functools
import gc
import io
import itertools
import math
import os
import struct
import subprocess
import sys
from collections import Counter, OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any, NamedTuple, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cascade.errors import CacheKeyError, CascadeError
from cascade.workflow.cache_key import cache_key


class FakeTask:
    """The attributes of a Task that a key is made of."""

    def __init__(self, func: Callable[..., Any], version: Any = None) -> None:
        functools.update_wrapper(cast(Any, self), func)
        self.func = func
        self.name = "a name that is not in the key"
        self.version = version

    __module__: str
    __qualname__: str


@FakeTask
def load(value: Any = None, other: Any = None) -> None:
    """A task of this module."""


@FakeTask
def store(value: Any = None, other: Any = None) -> None:
    """Another task of this module."""


def plain(value: Any = None) -> None:
    """A function of this module, of which Tasks are made under other names."""


class Loader:
    @FakeTask
    def load(self) -> None:
        """A task of a class body."""


class Color(enum.Enum):
    RED = 1
    CRIMSON = 1
    BLUE = 2


class Mood(enum.Enum):
    RED = 1


class Size(int, enum.Enum):
    ONE = 1


class Access(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


class Loose(enum.Flag, boundary=enum.KEEP):
    READ = 1


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0
    cached: Any = dataclasses.field(default=None, compare=False, repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Spot:
    x: Any
    y: Any = 0


@dataclasses.dataclass(frozen=True)
class Linked:
    next: Linked | None


class MorePoint(Point):
    pass


@dataclasses.dataclass
class IntPoint(int):
    x: int = 0


class Pair(NamedTuple):
    left: Any
    right: Any


Couple = namedtuple("Couple", "left right")


class MorePair(Pair):
    pass


class Planet(enum.Enum):
    """Members with attributes."""

    EARTH = (5.97e24, 6.37e6)
    MARS = (6.4e23, 3.39e6)

    def __init__(self, mass: float, radius: float) -> None:
        self.mass = mass
        self.radius = radius


class Operation(enum.Enum):
    SIZE = type
    LENGTH = enum.member(len) if hasattr(enum, "member") else 2


@dataclasses.dataclass
class WithInit:
    """What its parameters leave behind is no field."""

    x: dataclasses.InitVar[int]

    def __post_init__(self, x: int) -> None:
        self._x = x


@dataclasses.dataclass
class WithInitInField:
    """What its parameters leave behind is a field."""

    x: dataclasses.InitVar[int]
    y: int = dataclasses.field(init=False)

    def __post_init__(self, x: int) -> None:
        self.y = x


class Base:
    def __init__(self, k: int) -> None:
        self.k = k


@dataclasses.dataclass(init=False)
class OfBase(Base):
    y: int = 0


class SlottedBase:
    __slots__ = ("__hidden", "k")

    def __init__(self, k: int) -> None:
        self.__hidden = k


@dataclasses.dataclass(init=False)
class OfSlottedBase(SlottedBase):
    __slots__ = ("y",)
    y: int


class EmptyBase:
    __slots__ = ()


@dataclasses.dataclass(frozen=True, slots=True, weakref_slot=True)
class OfEmptyBase(EmptyBase):
    y: int = 0


@dataclasses.dataclass
class Failure(Exception):
    code: int = 0


@dataclasses.dataclass
class Queue(collections.deque[int]):
    name: str = ""


@dataclasses.dataclass
class Lazily:
    text: str

    @functools.cached_property
    def words(self) -> list[str]:
        return self.text.split()


class TupleWithFields(tuple[int, ...]):
    """Looks like a named tuple, and has attributes."""

    _fields = ("x",)


def extended(value: Any, **attributes: Any) -> Any:
    for name, attribute in attributes.items():
        object.__setattr__(value, name, attribute)
    return value


def zone_from_a_file() -> ZoneInfo:
    """A zone that says it is Rome, and is not."""
    head = struct.pack(">4sc15x6L", b"TZif", b"\0", 0, 0, 0, 0, 1, 4)
    body = struct.pack(">lBB", 3600, 0, 0) + b"ABC\0"
    return ZoneInfo.from_file(io.BytesIO(head + body), key="Europe/Rome")


class Int(int):
    pass


class Text(str):
    __slots__ = ()


def key(value: Any, task: Any = load) -> bytes:
    return cache_key(task, [("value", value)])


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.sampled_from([*Color, *Mood, *Size, *Access])
    | st.dates()
    | st.times(timezones=st.none() | st.just(UTC))
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.timedeltas()
    | st.text("ab/.").map(PurePosixPath)
    | st.text("aAb.").map(PureWindowsPath)  # without //, of which pathlib makes no true copy
)
hashable = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4).map(tuple)
        | st.frozensets(inner, max_size=4)
        | st.builds(Spot, inner, inner)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=6,
)
values = st.recursive(
    hashable,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.sets(hashable, max_size=4)
        | st.builds(Point, inner, inner, inner)
    ),
    max_leaves=12,
)


def typed(value: Any) -> Any:
    """A value that is equal exactly if the types and contents of two values are."""
    cls = type(value)
    if cls is float:
        return cls, value.hex(), math.copysign(1, value)
    if cls in (list, tuple):
        return cls, tuple(map(typed, value))
    if cls in (set, frozenset):
        return cls, frozenset(map(typed, value))
    if cls is dict:
        return cls, frozenset((typed(name), typed(member)) for name, member in value.items())
    if issubclass(cls, tuple):
        return cls, tuple(map(typed, value))
    if dataclasses.is_dataclass(cls):
        return cls, tuple(typed(getattr(value, field.name)) for field in dataclasses.fields(cls))
    if cls in (datetime, time):
        return cls, value.replace(tzinfo=None), value.fold, repr(value.tzinfo)
    if isinstance(value, PureWindowsPath):
        return cls, str(value)
    return cls, value


@given(values)
def test_a_copy_has_the_same_key(value: Any) -> None:
    """A key depends on types and contents, not on which objects they are."""
    assert key(copy.deepcopy(value)) == key(value)


@given(values, values)
def test_keys_are_equal_exactly_if_types_and_contents_are(one: Any, other: Any) -> None:
    """Two plain values share a key exactly if their types and contents are the same."""
    assert (key(one) == key(other)) == (typed(one) == typed(other))


@given(st.text("sbi#\0\1"), st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)))
@example("ss", [0], [1])
def test_no_two_lists_of_texts_run_together(text: str, one: list[int], other: list[int]) -> None:
    """The same letters, cut differently, are different arguments."""

    def pieces(cuts: list[int]) -> list[str]:
        edges = [0, *sorted(cuts), len(text)]
        return [text[start:end] for start, end in itertools.pairwise(edges)]

    assume(pieces(one) != pieces(other))
    assert key(pieces(one)) != key(pieces(other))
    as_bytes = [[piece.encode() for piece in pieces(cuts)] for cuts in (one, other)]
    assert key(as_bytes[0]) != key(as_bytes[1])


@given(st.lists(st.lists(st.integers(0, 1), max_size=3), max_size=3))
def test_the_structure_counts(value: list[list[int]]) -> None:
    """The same members, grouped differently, are different arguments."""
    flat = [member for inner in value for member in inner]
    different = [value, flat, [flat], tuple(value), [value], {"value": value}, [value, []]]
    expected = {repr(one) for one in different}
    assert len({key(one) for one in different}) == len(expected)


@given(st.dictionaries(hashable, scalars), st.randoms())
def test_the_order_in_dicts_and_sets_does_not_count(value: dict[Any, Any], random: Any) -> None:
    """Dicts and sets with the same content share a key in whatever order it came."""
    pairs = list(value.items())
    random.shuffle(pairs)
    assert key(dict(pairs)) == key(value)
    assert key({name for name, _ in pairs}) == key(set(value))


@pytest.mark.parametrize(
    "different",
    [
        [1, 1.0, True, "1", b"1", Size.ONE, "True", 1 << 64],
        [0, 0.0, -0.0, False, None, "", b"", [], (), {}, set(), frozenset(), math.nan],
        [255, -1, 256, -256, 127, -128, 128],
        ["\ud83d\ude00", "😀", "\ud800", "\ud801", "?"],
        [Color.RED, Mood.RED, Color.BLUE, "RED", 1],
        [Planet.EARTH, Planet.MARS, Planet.EARTH.value, Operation.SIZE, Operation.LENGTH],
        [Access(0), Access.READ, Access.WRITE, Access.READ | Access.WRITE, 1],
        [Loose(0), Loose(1), Loose(2), Loose(4), Loose(3)],
        [[1, 2], [2, 1], (1, 2), {1, 2}, frozenset({1, 2}), {1: 2}, {2: 1}, [(1, 2)]],
        [Point(1, 2), Spot(1, 2), Pair(1, 2), Couple(1, 2), (1, 2), {"x": 1, "y": 2}],
        [Point(1, 2), Point(2, 1), Point(1, 2, 3)],
        [WithInitInField(1), WithInitInField(2), OfEmptyBase(1), OfEmptyBase(2)],
        [math.nan, -math.nan, struct.unpack(">d", b"\x7f\xf8\0\0\0\0\0\1")[0]],
        [{1, "1", None, (1,)}, {1, "1", None, (1.0,)}, {True, "1", None, (1,)}],
        [Path("a"), Path("b"), Path("a/b"), "a", PurePosixPath("a"), PureWindowsPath("a")],
        [date(2024, 1, 2), datetime(2024, 1, 2), "2024-01-02", time(1, 2), timedelta(1)],
        [
            datetime(2024, 1, 1, 12),
            datetime(2024, 1, 1, 12, tzinfo=UTC),
            datetime(2024, 1, 1, 12, tzinfo=ZoneInfo("UTC")),
            datetime(2024, 1, 1, 13, tzinfo=timezone(timedelta(hours=1))),
            datetime(2024, 1, 1, 13, tzinfo=timezone(timedelta(hours=1), "here")),
            datetime(2024, 1, 1, 13, tzinfo=ZoneInfo("Europe/Rome")),
            datetime(2024, 1, 1, 13, tzinfo=ZoneInfo("Europe/Paris")),
        ],
        [time(2, 30), time(2, 30, fold=1), time(2, 30, tzinfo=UTC)],
    ],
    ids=lambda values: type(values[0]).__name__,
)
def test_values_that_differ_have_different_keys(different: list[Any]) -> None:
    """Values that are easily confused have different keys, alone and inside a container."""
    assert len({key(value) for value in different}) == len(different)
    assert len({key([value]) for value in different}) == len(different)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Color.RED, Color.CRIMSON),
        (math.nan, float("nan")),
        ({1: 2, 3: 4}, {3: 4, 1: 2}),
        (Path("a"), Path("./a")),
        (timedelta(hours=24), timedelta(days=1)),
        ((1 << 9999) - 1, 2**9999 - 1),
        ([(1, 2)] * 2, [(1, 2), (1, 2)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_are_the_same_have_the_same_key(one: Any, other: Any) -> None:
    """Another way to write or build a value does not change its key."""
    assert key(one) == key(other)


def test_attributes_of_an_enum_s_member_count() -> None:
    """They may change, and so may a value."""

    class Level(enum.Enum):
        LOW = 1
        MANY: Any = [1]  # noqa: RUF012

    keys = {key(Level.LOW), key(extended(Level.LOW, seen=1)), key(extended(Level.LOW, seen=2))}
    keys |= {key(Level.MANY), (Level.MANY.value.append(2), key(Level.MANY))[1]}
    assert len(keys) == 5
    with pytest.raises(CacheKeyError, match="object"):
        key(extended(Level.LOW, seen=object()))


def test_what_a_cached_property_keeps_does_not_count() -> None:
    """It follows from the fields."""
    asked, fresh = Lazily("a b"), Lazily("a b")
    assert asked.words == ["a", "b"]
    assert key(asked) == key(fresh) != key(Lazily("a"))


def test_flags_have_one_key_whatever_was_asked_of_them() -> None:
    """The members that an enum makes on the way do not change the key of a flag."""
    before = key(Access.READ)
    assert ~Access.READ is Access.WRITE
    assert key(Access.READ) == before


def test_the_task_counts_by_module_name_and_version() -> None:
    """Another task, or another version of it, is another key; its display name is not in it."""
    tasks = [load, store, Loader.load, FakeTask(math.sqrt)]
    tasks += [FakeTask(plain, version) for version in (None, 1, "1", 2, "None")]
    assert len({key(1, task) for task in tasks}) == len(tasks)
    renamed = FakeTask(plain)
    renamed.name = "another"
    assert key(1, renamed) == key(1, FakeTask(plain))


def test_the_parameter_counts_but_not_the_order_of_parameters() -> None:
    """A key depends on which parameter has which value, not on their order."""
    ab = cache_key(load, [("a", 1), ("b", 2)])
    assert ab == cache_key(load, [("b", 2), ("a", 1)])
    others: list[list[tuple[str, Any]]] = [
        [("a", 2), ("b", 1)],
        [("a", 1)],
        [("a", 1), ("c", 2)],
        [("a", [1, "b", 2])],
        [],
        [("a", 1), ("b", 2), ("c", None)],
    ]
    assert len({ab, *(cache_key(load, other) for other in others)}) == 7


def test_a_local_task_is_itself_only() -> None:
    """Tasks of one name that cannot be found by it have different keys, again and again."""

    def make() -> FakeTask:
        @FakeTask
        def local(value: Any) -> None: ...

        return local

    one, other = make(), make()
    assert key(1, one) == key(1, one)
    assert key(1, one) != key(2, one)
    assert key(1, one) != key(1, other)
    lambdas = [FakeTask(lambda value: value) for _ in range(2)]
    partials = [FakeTask(functools.partial(plain, number)) for number in range(2)]
    for task in partials:
        functools.update_wrapper(cast(Any, task), plain)
    methods = [FakeTask(SimpleNamespace.__repr__.__get__(SimpleNamespace())) for _ in range(2)]
    assert len({key(1, task) for task in [*lambdas, *partials, *methods]}) == 6


def test_the_identity_of_a_task_is_never_given_again() -> None:
    """A task at the address of one that is gone has another key."""
    keys = set()
    for _ in range(1000):
        keys.add(key(1, FakeTask(lambda value: value)))
    gc.collect()
    assert len(keys) == 1000


KEYS_OF_ANOTHER_PROCESS = """
import sys
sys.path[:0] = sys.argv[1].split("|")
import test_cache_keys as module
print(module.key([{"a", "b"}, module.Color.RED, module.Point(1)]).hex())
print(module.key(1, module.FakeTask(lambda value: value)).hex())
"""


def test_another_process_has_the_same_keys_save_for_local_tasks() -> None:
    """Keys do not depend on hash seeds or addresses, but a local task hits in its process only."""
    paths = "|".join([os.path.dirname(__file__), *sys.path])
    printed = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", KEYS_OF_ANOTHER_PROCESS, paths],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        printed.add(tuple(done.stdout.split()))
    (one, one_local), (other, other_local) = printed
    assert one == other
    assert one_local != other_local


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_identities_of_its_own() -> None:
    """The next local task of a parent and that of its child are not the same task."""
    reader, writer = os.pipe()
    child = os.fork()
    mine = key(1, FakeTask(lambda value: value))
    if child == 0:
        os.write(writer, mine)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        theirs = stream.read()
    os.waitpid(child, 0)
    assert len(theirs) == len(mine)
    assert theirs != mine


def test_local_classes_are_themselves_only() -> None:
    """Enums and dataclasses of one name that cannot be found by it differ."""

    def make() -> tuple[Any, Any]:
        class Local(enum.Enum):
            A = 1

        @dataclasses.dataclass
        class Record:
            a: int

        return Local.A, Record(1)

    (enum_1, record_1), (enum_2, record_2) = make(), make()
    assert key(enum_1) == key(enum_1)
    assert key(enum_1) != key(enum_2)
    assert key(record_1) == key(copy.copy(record_1))
    assert key(record_1) != key(record_2)


def nested(make: Callable[[Any], Any], depth: int = 100_000) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = make(value)
    return value


@pytest.mark.parametrize(
    "make",
    [
        lambda inner: [inner],
        lambda inner: (inner,),
        lambda inner: {"a": inner},
        lambda inner: Point(inner),
        lambda inner: Pair(inner, 0),
    ],
    ids=["list", "tuple", "dict", "dataclass", "named tuple"],
)
def test_depth_is_unlimited(make: Callable[[Any], Any]) -> None:
    """Values nested 100,000 deep have keys, and one level more is another key."""
    deep = nested(make)
    assert key(deep) != key(make(deep))


def test_sharing_costs_nothing() -> None:
    """A value in which one object appears 2**1000 times is read once; it equals its copy."""
    shared: Any = ()
    for _ in range(1000):
        shared = (shared, shared)
    assert len(key(shared)) == 32
    assert key([[1], [1]]) == key([[1]] * 2)


def test_objects_made_while_reading_are_not_confused() -> None:
    """A field that gives a new object each time is read like any other."""

    @dataclasses.dataclass
    class Fresh:
        a: Any
        b: Any

        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            return [value] if name in ("a", "b") else value

    assert key(Fresh(1, 2)) == key(Fresh(1, 2))
    assert key(Fresh(1, 2)) != key(Fresh(1, 1))


def itself_in_a_list() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def itself_in_a_dict() -> Any:
    value: dict[str, Any] = {}
    value["a"] = [(value,)]
    return value


def itself_in_a_dataclass() -> Any:
    value = Point(1)
    value.y = {"a": value}
    return value


@pytest.mark.parametrize("make", [itself_in_a_list, itself_in_a_dict, itself_in_a_dataclass])
def test_a_value_that_contains_itself_is_an_error(make: Callable[[], Any]) -> None:
    """A value without an end has no key, and the error says why."""
    with pytest.raises(CacheKeyError, match="contains itself"):
        key([1, make()])


def test_a_value_may_appear_twice() -> None:
    """Twice is not inside itself."""
    point = Point([])
    assert key([point, point, {"a": point}]) == key([Point([]), Point([]), {"a": Point([])}])


class Zone(tzinfo):
    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta()

    def dst(self, _: datetime | None) -> None:
        return None

    def tzname(self, _: datetime | None) -> None:
        return None


unset = Point.__new__(Point)

NOT_DATA = {
    "an object": (object(), "object", ""),
    "a function": (plain, "function", ""),
    "a class": (Point, "type", ""),
    "a generator": ((x for x in "abc"), "generator", ""),
    "a bytearray": (bytearray(), "bytearray", ""),
    "a complex": (1j, "complex", ""),
    "a range": (range(3), "range", ""),
    "a Decimal": (Decimal(1), "decimal.Decimal", ""),
    "a Fraction": (Fraction(1), "fractions.Fraction", ""),
    "a UUID": (UUID(int=1), "uuid.UUID", ""),
    "a UserDict": (UserDict({}), "collections.UserDict", ""),
    "an int subclass": (Int(1), f"{__name__}.Int", "subclass of int"),
    "a str subclass": (Text(), f"{__name__}.Text", "subclass of str"),
    "an OrderedDict": (OrderedDict(), "collections.OrderedDict", "subclass of dict"),
    "a defaultdict": (defaultdict(int), "collections.defaultdict", "subclass of dict"),
    "a Counter": (Counter(), "collections.Counter", "subclass of dict"),
    "a stat result": (os.stat("."), "os.stat_result", "subclass of tuple"),
    "a named tuple's subclass": (MorePair(1, 2), f"{__name__}.MorePair", "subclass of tuple"),
    "a dataclass's subclass": (MorePoint(1), f"{__name__}.MorePoint", "extends a dataclass"),
    "a dataclass of int": (IntPoint(), f"{__name__}.IntPoint", "subclass of int"),
    "a dataclass half made": (unset, f"{__name__}.Point", "field 'x' is not set"),
    "an InitVar left in an attribute": (WithInit(1), f"{__name__}.WithInit", "'_x' beside its"),
    "a base with attributes": (OfBase(1), f"{__name__}.OfBase", "holds 'k' beside its fields"),
    "a base with slots": (OfSlottedBase(1), f"{__name__}.OfSlottedBase", "__hidden' beside"),
    "an attribute more": (extended(Point(1), z=1), f"{__name__}.Point", "'z' beside its fields"),
    "a dataclass of Exception": (Failure(1), f"{__name__}.Failure", "extends a class that may"),
    "a dataclass of deque": (Queue(), f"{__name__}.Queue", "extends a class that may"),
    "a tuple with attributes": (
        TupleWithFields([1]),
        f"{__name__}.TupleWithFields",
        "subclass of tuple",
    ),
    "a zone of a file": (
        datetime(1, 1, 1, tzinfo=zone_from_a_file()),
        "datetime.datetime",
        "ZoneInfo with a key",
    ),
    "a zone of one's own": (datetime(1, 1, 1, tzinfo=Zone()), "datetime.datetime", "ZoneInfo"),
}


@pytest.mark.parametrize("inside_of", [lambda x: x, lambda x: [{"a": (1, Point(x))}]])
@pytest.mark.parametrize(("value", "type_name", "reason"), NOT_DATA.values(), ids=NOT_DATA)
def test_anything_else_is_an_error_that_helps(
    value: Any, type_name: str, reason: str, inside_of: Callable[[Any], Any]
) -> None:
    """It names the task, the parameter, the type and the remedy."""
    with pytest.raises(CacheKeyError) as caught:
        cache_key(load, [("fine", 1), ("value", inside_of(value))])
    error = caught.value
    assert isinstance(error, CascadeError)
    assert isinstance(error, TypeError)
    assert (error.task_name, error.parameter, error.value_type) == (load.name, "value", type_name)
    assert reason in error.reason
    for part in (load.name, "'value'", type_name, reason, "inject the object as a resource"):
        assert part in str(error)


def test_a_key_is_32_bytes() -> None:
    """A key has a fixed length, so that stores can rely on it."""
    assert len(cache_key(load, [])) == 32
