"""Containers that hold expressions: what their members are, and how they are built anew.

A list, tuple or dict of a user's own class is read and built by the methods of its base, and by
none of its class: these may take other arguments, check members or change them, and some members
are expressions yet. What is built has the type, the keys and the attributes of what was given.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from typing import Any, Final, cast

_BASES: Final[tuple[type[Any], ...]] = (OrderedDict, dict, list, tuple)
CONTAINERS: Final = (list, tuple, dict)


def members_of(container: Any) -> Iterable[Any]:
    """The members of a list or tuple, the values of a dict."""
    kind = type(container)
    if kind is list or kind is tuple:
        return cast("Iterable[Any]", container)
    base: Any = _base_of(kind)
    found = base.values if issubclass(base, dict) else base.__iter__
    return cast("Iterable[Any]", found(container))


def size_of(container: Any) -> int:
    """How many members there are."""
    kind = type(container)
    if kind is list or kind is tuple or kind is dict:
        return len(container)
    base: Any = _base_of(kind)
    return cast("int", base.__len__(container))


def keys_of(container: Any) -> Iterable[Any]:
    """The keys of a dict, in the order of its members."""
    base: Any = _base_of(type(container))
    return cast("Iterable[Any]", base.keys(container))


def remembered(container: Any) -> Any:
    """A container of a user's own class as it is now, whatever happens to it later.

    Raises `TypeError` for a class of which nothing can be built from members alone.
    """
    if _is_fixed(type(container)):
        return container
    return rebuilt(container, tuple(members_of(container)))


def rebuilt(given: Any, members: tuple[Any, ...]) -> Any:
    """A container like `given`, which has its type, keys and attributes, with these members."""
    kind = type(given)
    base = _base_of(kind)
    if base is tuple:
        built = _made(base, kind, members)
    else:
        built = _made(base, kind)
        if base is list:
            list.extend(built, members)
        else:
            for key, member in zip(keys_of(given), members, strict=True):
                base.__setitem__(built, key, member)
    if isinstance(built, defaultdict):
        _FACTORY.__set__(built, _FACTORY.__get__(given))
    if not _is_fixed(kind):
        _take_attributes(built, given)
    return built


_FACTORY: Final[Any] = defaultdict.__dict__["default_factory"]


def _base_of(kind: type[Any]) -> type[Any]:
    return next(base for base in _BASES if issubclass(kind, base))


def _is_fixed(kind: type[Any]) -> bool:
    """Whether its containers hold nothing but their members, for good, as named tuples do."""
    return issubclass(kind, tuple) and kind.__dictoffset__ == 0


def _made(base: type[Any], kind: type[Any], *members: tuple[Any, ...]) -> Any:
    try:
        return base.__new__(kind, *members)
    except TypeError:  # a class that is written in C has a way of its own
        pass
    try:
        return kind(*members)
    except Exception as error:
        raise TypeError(
            f"a {kind.__qualname__} that holds expressions cannot be built anew ({error}); write a "
            f"{base.__name__}, or a task that makes the {kind.__qualname__} of its values"
        ) from error


def _take_attributes(built: Any, given: Any) -> None:
    state: Any = object.__getstate__(given)
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    if attributes:
        built.__dict__.update(attributes)
    for name, value in (slots or {}).items():
        object.__setattr__(built, name, value)
