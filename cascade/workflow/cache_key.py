"""The key of a call in a cache.

A key is a digest of the Task and its arguments, equal exactly when both are. So that no two
different calls share one:

- Every value is encoded by its exact type, with its length before it. `1`, `1.0`, `True` and `"1"`
  differ, and so do `("ab", "c")` and `("a", "bc")`. A `repr` tells neither apart for sure.
- A container, dataclass or named tuple is encoded as the digest of its members' encodings (a Merkle
  tree). So a member that appears twice is read once, and depth and sharing cost nothing extra.
- A dict is the set of its pairs: insertion order does not count, as it does not for `==`.
- Floats count by their bits: -0.0 is not 0.0, and nan is itself. Dates and times count by what
  they show and their time zone: noon in Rome is another argument than the same instant in UTC.
- A subclass of one of these types may hold more than its base tells, so it has no encoding; nor has
  a dataclass that holds more than its fields. What a `cached_property` keeps follows from the rest.
- A member of an Enum counts by its name, and by its value and attributes, which may change.
- A class, and the Task itself, is known by its module and qualified name. If it cannot be found
  there, it is known by a number of this process that is never given twice.
"""

from __future__ import annotations

import itertools
import os
import pickle
import secrets
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from datetime import date, datetime, time, timedelta, timezone
from enum import Enum
from functools import cached_property
from hashlib import blake2b
from pathlib import PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from types import BuiltinFunctionType, FunctionType, MemberDescriptorType
from typing import Any, Protocol
from weakref import WeakKeyDictionary
from zoneinfo import ZoneInfo

from cascade.errors import CacheKeyError


class CachedTask(Protocol):
    """What a key takes of a Task, beside `__module__` and `__qualname__`."""

    @property
    def name(self) -> str: ...
    @property
    def func(self) -> Callable[..., Any]: ...
    @property
    def version(self) -> str | int | None: ...


def cache_key(task: CachedTask, arguments: Iterable[tuple[str, Any]]) -> bytes:
    """The key of a call: 32 bytes, equal exactly for the same task and the same arguments.

    `arguments` are pairs of parameter name and value, in any order. The task counts by its module,
    qualified name and version, not by its code: give it another `version` when the code changes.
    The module of a script is `__main__`: scripts that share a cache need tasks of different names.
    Raises `CacheKeyError` for an argument that has no encoding.
    """
    encoder = _Encoder()
    members = [_task_identity(task), _encode_argument(task, "version", task.version, encoder)]
    for name, value in sorted(arguments, key=_first):
        members += _encode_str(name), _encode_argument(task, name, value, encoder)
    return _digest(b"cascade.call.1", members)


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]


def _encode_argument(task: CachedTask, name: str, value: Any, encoder: _Encoder) -> bytes:
    try:
        return encoder.encode(value)
    except NotPlainData as error:
        raise CacheKeyError(task.name, name, error.type_name, error.reason) from None


def encoded(value: Any) -> bytes:
    """The encoding of a value, equal exactly for equal data; raises `NotPlainData` for others."""
    return _Encoder().encode(value)


class NotPlainData(Exception):
    """A value that has no encoding."""

    def __init__(self, value: object, reason: str = "") -> None:
        cls = type(value)
        is_builtin = cls.__module__ == "builtins"
        self.type_name = cls.__name__ if is_builtin else f"{cls.__module__}.{cls.__qualname__}"
        self.reason = reason


# Encodings. Each begins with a tag of one byte, and ends where its length or its tag says.


def _sized(tag: bytes, content: bytes) -> bytes:
    return tag + len(content).to_bytes(8, "big") + content


def _digest(kind: bytes, members: list[bytes]) -> bytes:
    digest = blake2b(_sized(b"#", kind), digest_size=32)
    digest.update(len(members).to_bytes(8, "big"))
    digest.update(b"".join(members))
    return digest.digest()


def _encode_none(value: None) -> bytes:
    return b"n"


def _encode_bool(value: bool) -> bytes:
    return b"T" if value else b"F"


def _encode_int(value: int) -> bytes:
    return _sized(b"i", value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _encode_float(value: float) -> bytes:
    return b"f" + struct.pack(">d", value)


def _encode_str(value: str) -> bytes:
    return _sized(b"s", value.encode("utf-8", "surrogatepass"))


def _encode_bytes(value: bytes) -> bytes:
    return _sized(b"b", value)


def _encode_path(value: PurePath) -> bytes:
    return _sized(b"p", type(value).__name__.encode()) + _encode_str(str(value))


def _encode_date(value: date) -> bytes:
    return b"D" + struct.pack(">HBB", value.year, value.month, value.day)


def _encode_time(value: time | datetime) -> bytes:
    clock = (value.hour, value.minute, value.second, value.microsecond, value.fold)
    return b"t" + struct.pack(">BBBIB", *clock) + _encode_zone(value)


def _encode_datetime(value: datetime) -> bytes:
    return b"d" + _encode_date(value) + _encode_time(value)


def _encode_timedelta(value: timedelta) -> bytes:
    return b"e" + struct.pack(">iII", value.days, value.seconds, value.microseconds)


def _encode_zone(value: time | datetime) -> bytes:
    zone = value.tzinfo
    if zone is None:
        return b"n"
    if type(zone) is timezone:
        return b"z" + _encode_timedelta(zone.utcoffset(None)) + _encode_str(zone.tzname(None))
    if type(zone) is ZoneInfo and _is_named(zone):
        return _sized(b"Z", zone.key.encode())
    raise NotPlainData(value, f"only a timezone or a ZoneInfo with a key is data, not {zone!r}")


def _is_named(zone: ZoneInfo) -> bool:
    """Whether its key leads to the zone: one that was read from a file may have any key."""
    try:
        zone.__reduce__()
    except pickle.PicklingError:
        return False
    return True


_PLAIN: dict[type, Callable[[Any], bytes]] = {
    type(None): _encode_none,
    bool: _encode_bool,
    int: _encode_int,
    float: _encode_float,
    str: _encode_str,
    bytes: _encode_bytes,
    PosixPath: _encode_path,
    WindowsPath: _encode_path,
    PurePosixPath: _encode_path,
    PureWindowsPath: _encode_path,
    date: _encode_date,
    time: _encode_time,
    datetime: _encode_datetime,
    timedelta: _encode_timedelta,
}


def _encode_plain(value: Any) -> bytes:
    return _PLAIN[type(value)](value)


# What a value may extend without being of its type, and so hold more than its encoding would.
_NUMBERS_AND_TEXT = (int, float, str, bytes, PurePath, date, time, timedelta)
_BASES: tuple[type, ...] = (*_NUMBERS_AND_TEXT, list, tuple, dict, set, frozenset)


# Containers, walked with a stack: their depth is the user's.


class _Open:
    """A container whose members are being encoded."""

    __slots__ = ("encodings", "kind", "members", "order", "value")

    def __init__(
        self, value: Any, kind: bytes, members: Iterator[Any], order: _Order | None = None
    ) -> None:
        self.value = value
        self.kind = kind
        self.members = members
        self.order = order
        self.encodings: list[bytes] = []

    def close(self) -> bytes:
        encodings = self.encodings if self.order is None else self.order(self.encodings)
        return b"#" + _digest(self.kind, encodings)


_CODE = (type, FunctionType, BuiltinFunctionType)  # as an Enum holds it, code is no argument
_Order = Callable[[list[bytes]], list[bytes]]
_NOT_YET = b""  # the encoding of a container that is still open


class _Encoder:
    """Encodes the arguments of one call. What it has met once, it does not read again."""

    def __init__(self) -> None:
        # Containers and their encodings by id; they are kept, so that an id stays that of one.
        self._known: dict[int, tuple[object, bytes]] = {}
        self._classes: dict[type, bytes] = {}
        self._fields: dict[type, frozenset[str]] = {}

    def encode(self, value: Any) -> bytes:
        known = self._known
        path = [_Open(None, b"value", iter((value,)))]
        while True:
            innermost = path[-1]
            for member in innermost.members:
                plain = _PLAIN.get(type(member))
                if plain is not None:
                    innermost.encodings.append(plain(member))
                elif id(member) not in known:
                    path.append(self._opened(member))
                    known[id(member)] = member, _NOT_YET
                    break
                elif known[id(member)][1] is _NOT_YET:
                    raise NotPlainData(member, "it contains itself")
                else:
                    innermost.encodings.append(known[id(member)][1])
            else:
                path.pop()
                if not path:
                    return innermost.encodings[0]
                encoding = innermost.close()
                known[id(innermost.value)] = innermost.value, encoding
                path[-1].encodings.append(encoding)

    def _opened(self, value: Any) -> _Open:
        cls = type(value)
        if issubclass(cls, Enum):
            return _Open(value, b"enum" + self._class(cls), _content_of_member(value))
        if cls is list:
            return _Open(value, b"list", iter(value))
        if cls is tuple:
            return _Open(value, b"tuple", iter(value))
        if cls is dict:
            pairs = itertools.chain.from_iterable(value.items())
            return _Open(value, b"dict", pairs, _sorted_pairs)
        if cls is set:
            return _Open(value, b"set", iter(value), sorted)
        if cls is frozenset:
            return _Open(value, b"frozenset", iter(value), sorted)
        if "__dataclass_fields__" in cls.__dict__ and not issubclass(cls, _BASES):
            _refuse_more_than_fields(value, self._field_names(value))
            return _Open(value, b"dataclass" + self._class(cls), _fields_of(value))
        if cls.__bases__ == (tuple,) and hasattr(cls, "_fields") and not cls.__dictoffset__:
            members = itertools.chain([cls._fields], value)
            return _Open(value, b"namedtuple" + self._class(cls), members)
        raise NotPlainData(value, _why_not(value))

    def _field_names(self, value: Any) -> frozenset[str]:
        cls = type(value)
        if cls not in self._fields:
            if cls.__itemsize__ or cls.__basicsize__ > _size_of_python_object(cls):
                raise NotPlainData(value, "it extends a class that may hold more than fields")
            self._fields[cls] = frozenset(field.name for field in fields(value))
        return self._fields[cls]

    def _class(self, cls: type) -> bytes:
        identity = self._classes.get(cls)
        if identity is None:
            identity = self._classes[cls] = _class_identity(cls)
        return identity


def _sorted_pairs(encodings: list[bytes]) -> list[bytes]:
    keys = iter(encodings)
    return sorted(key + value for key, value in zip(keys, keys, strict=True))


def _fields_of(value: Any) -> Iterator[Any]:
    for field in fields(value):
        yield field.name
        try:
            yield getattr(value, field.name)
        except AttributeError:
            raise NotPlainData(value, f"its field {field.name!r} is not set") from None


def _content_of_member(member: Enum) -> Iterator[Any]:
    """The name (combinations of flags may have none), the value, and attributes of its own."""
    own = [("", member._value_)]  # names with a bar at both ends are the enum's
    own += [(n, v) for n, v in _state_of(member) if not (n.startswith("_") and n.endswith("_"))]
    yield member._name_
    for name, value in own:
        yield name
        yield None if isinstance(value, _CODE) else value


def _state_of(value: object) -> list[tuple[str, Any]]:
    """What an object holds in its `__dict__` and its slots, without asking its class."""
    state: Any = object.__getstate__(value)
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    return sorted({**(attributes or {}), **(slots or {})}.items(), key=_first)


def _refuse_more_than_fields(value: Any, known: frozenset[str]) -> None:
    for name, _ in _state_of(value):
        if name not in known and not isinstance(getattr(type(value), name, None), cached_property):
            raise NotPlainData(value, f"it holds {name!r} beside its fields; make that a field")


def _size_of_python_object(cls: type) -> int:
    """How large an object is if all of it is in its `__dict__` and slots."""
    slots = sum(isinstance(m, MemberDescriptorType) for c in cls.__mro__ for m in vars(c).values())
    extra = (cls.__dictoffset__ > 0) + (cls.__weakrefoffset__ > 0) + slots
    return object.__basicsize__ + extra * struct.calcsize("P")


def _why_not(value: object) -> str:
    cls = type(value)
    for base in _BASES:
        if issubclass(cls, base):
            return f"a subclass of {base.__name__} may hold more; convert it"
    if hasattr(cls, "__dataclass_fields__"):
        return "it extends a dataclass without being one; decorate it"
    return ""


# Identities of classes and Tasks


def _class_identity(cls: type) -> bytes:
    found = _found(cls.__module__, cls.__qualname__)
    return _identity(cls, cls.__module__, cls.__qualname__, is_reachable=found is cls)


def _task_identity(task: CachedTask) -> bytes:
    module = getattr(task, "__module__", None)
    qualname = getattr(task, "__qualname__", None)
    found = _found(module, qualname)
    # `found` is the plain function if the Task was made of it under another name.
    is_reachable = found is not None and (found is task or found is task.func)
    return _identity(task, str(module), str(qualname), is_reachable=is_reachable)


def _found(module: str | None, qualname: str | None) -> object:
    """What is reachable under this module and qualified name, or None."""
    if module is None or qualname is None:
        return None
    place: object = sys.modules.get(module)
    for name in qualname.split("."):
        place = getattr(place, name, None)
    return place


def _identity(thing: object, module: str, qualname: str, *, is_reachable: bool) -> bytes:
    members = [_encode_str(module), _encode_str(qualname)]
    if not is_reachable:
        number = _numbers.setdefault(thing, next(_counter))
        members += _encode_bytes(_process), _encode_int(number)
    return _digest(b"identity", members)


# Not id(), which is given anew; the process is in it because others may read the same cache.
_numbers: WeakKeyDictionary[object, int] = WeakKeyDictionary()
_counter = itertools.count()
_process = secrets.token_bytes(16)


def _is_another_process() -> None:
    global _process
    _process = secrets.token_bytes(16)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_is_another_process)
