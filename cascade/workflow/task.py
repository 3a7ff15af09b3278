"""`@cs.task`: a Python callable becomes a Task, whose calls describe values instead of computing.

A call must check its arguments and make an expression in a fraction of a microsecond, where
`inspect.signature(...).bind` needs several. So each Task gets a constructor generated with the
task's own parameters: Python itself checks the call, defaults included.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence, Sized
from enum import Enum
from inspect import Parameter, Signature
from itertools import count
from types import CodeType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Concatenate,
    Final,
    Generic,
    Literal,
    Never,
    ParamSpec,
    TypeVar,
    cast,
    overload,
)

from cascade.plain import brief
from cascade.workflow.expressions import (
    NO_KWARGS,
    Expression,
    Jump,
    Lazily,
    LazyResult,
    MappedLazyResult,
    TailCall,
    Unmapped,
    unknown_names,
)

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
Control = Jump | TailCall
Mode = Literal["inline", "thread", "process"]
TaskKind = Literal["task", "group", "first"]
MODES = ("inline", "thread", "process")
_serials = count(1)


class Task(Generic[P, R]):
    """A callable whose calls give a `LazyResult` of its value. Made by `cs.task`.

    A call runs nothing. It checks its arguments against the signature (`TypeError`, at the line
    of the call); an expression may stand for any of them. Taken from an instance, the Task of a
    method has its `self`.

    It keeps the function's name, docstring, signature and `__wrapped__`; `task.func(...)` is the
    plain call. `.name`, `.mode`, `.pure`, `.version`, `.is_async`, `.signature` tell about it.
    """

    # `__call__` as a slot: calling the task calls its generated constructor with no frame between.
    if not TYPE_CHECKING:
        __slots__ = (
            "__call__",
            "__dict__",
            "__weakref__",
            "binds",
            "func",
            "is_async",
            "kind",
            "mode",
            "name",
            "parameters",
            "pure",
            "serial",
            "signature",
            "structures",
            "version",
        )

    is_task: ClassVar[bool] = True
    binds: bool  # whether it takes the instance that it is taken from
    func: Callable[..., Any]
    name: str
    mode: Mode
    pure: bool
    version: str | int | None
    is_async: bool
    kind: TaskKind  # "task", or what Cascade carries out itself
    signature: Signature
    serial: int  # Tasks are numbered as they are made
    structures: dict[Any, None]  # that engines keep no longer than this Task is used

    def __init__(
        self,
        func: Callable[..., Any],
        *,
        name: str | None = None,
        pure: bool = False,
        mode: Mode = "inline",
        version: str | int | None = None,
    ) -> None:
        self.binds = not isinstance(func, staticmethod)
        if not self.binds:
            func = cast("staticmethod[..., Any]", func).__func__
        is_async = _check_function(func, mode, name)
        functools.update_wrapper(cast(Any, self), _innermost(func))
        self.__dict__["__wrapped__"] = func
        self.func = func
        self.name = _checked_name(name if name is not None else _name_of(func))
        self.mode = mode
        self.kind = "task"
        self.pure = pure
        self.version = version
        self.is_async = is_async
        self.serial = next(_serials)
        self.structures = {}
        self.signature = _signature_of(func)
        self.parameters = Parameters(self.signature)
        if not TYPE_CHECKING:
            self.__call__ = _constructor(self)

    if TYPE_CHECKING:
        # The second overload lets an expression stand where the function takes its value.
        @overload
        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> LazyResult[R]: ...
        @overload
        def __call__(self, *args: Any, **kwargs: Any) -> LazyResult[R]: ...
        def __call__(self, *args: Any, **kwargs: Any) -> LazyResult[R]: ...

    def map(self, /, *by_name_only: Never, **iterables: Any) -> MappedLazyResult[R]:
        """The list of the task's values for each item of the iterables, taken together.

        Iterables, or expressions that give one, by parameter name, of equal length. An iterator
        is read into a tuple here. `cs.unmapped(value)` is given whole to every item, and
        `cs.lazily(iterable)` is read while items start. Raises `TypeError` for what cannot be
        iterated (str and bytes too), for names that do not fit the signature and if nothing is an
        iterable, `ValueError` for different lengths.

        >>> import cascade as cs
        >>> @cs.task
        ... def add(x, y=10):
        ...     return x + y
        >>> cs.run(add.map(x=[1, 2, 3]))
        [11, 12, 13]
        """
        _refuse_positional(self, by_name_only)
        return _mapped(self, iterables, NO_KWARGS)

    def override(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], what: str, *, is_method: bool
    ) -> dict[Any, Any]:
        """These arguments by parameter name; `TypeError` for wrong names, too many, one twice.

        Those of a method begin after its `self`.
        """
        return self.parameters.override(f"{what} of task {self.name!r}", args, kwargs, is_method)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Task[P, R]: ...
    @overload
    def __get__(
        self: Task[Concatenate[Any, Q], R], instance: object, owner: type | None = None
    ) -> Task[Q, R]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Task[..., R]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return BoundTask(self, instance) if instance is not None and self.binds else self

    def __reduce__(self) -> str:
        return self.__qualname__  # a Task is pickled like a function: by reference

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    if TYPE_CHECKING:
        __name__: str
        __qualname__: str
        __wrapped__: Callable[..., Any]


class BoundTask(Generic[R]):
    """A Task taken from an instance: `self` is bound, as data like any argument.

    As a bound method it equals another of the same Task and the same instance, a copy of it is
    bound to the same instance, and a deep copy to a copy of it.
    """

    __slots__ = ("__weakref__", "instance", "task")
    is_task: ClassVar[bool] = True

    def __init__(self, task: Task[..., R], instance: Any) -> None:
        self.task = task
        self.instance = instance

    def __call__(self, *args: Any, **kwargs: Any) -> LazyResult[R]:
        return self.task.__call__(self.instance, *args, **kwargs).as_method()

    def map(self, /, *by_name_only: Never, **iterables: Any) -> MappedLazyResult[R]:
        """As `Task.map`, with the same `self` for every item."""
        _refuse_positional(self.task, by_name_only, skip=1)
        receiver = {self.task.parameters.positional[0]: self.instance}
        return _mapped(self.task, iterables, receiver).as_method()

    def func(self, *args: Any, **kwargs: Any) -> Any:
        """The plain call, on the bound instance."""
        return self.task.func(self.instance, *args, **kwargs)

    def __getattr__(self, attribute: str) -> Any:
        if attribute in BoundTask.__slots__:  # while it is being made
            raise AttributeError(attribute)
        return getattr(self.task, attribute)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BoundTask):
            return NotImplemented
        return self.task is other.task and self.instance is other.instance

    def __hash__(self) -> int:
        return hash((self.task, id(self.instance)))

    def __reduce__(self) -> tuple[Any, ...]:
        return BoundTask, (self.task, self.instance)

    def __repr__(self) -> str:
        return f"<BoundTask {self.task.name} of {self.instance!r}>"


# The value of a task is what comes of it in the end, so Jumps and TailCalls are left out of its
# type, and an expression that it returns counts as that expression's value. The order matters:
# type checkers take the first overload that fits.
@overload
def task(
    function: None = None,
    /,
    *,
    name: str | None = None,
    pure: bool = False,
    mode: Mode = "inline",
    version: str | int | None = None,
) -> _TaskDecorator: ...
@overload
def task(
    function: Callable[P, Control | Awaitable[Control]],
    /,
    *,
    name: str | None = None,
    pure: bool = False,
    mode: Mode = "inline",
    version: str | int | None = None,
) -> Task[P, Any]: ...
@overload
def task(
    function: Callable[P, Expression[R] | Control | Awaitable[Expression[R] | Control]],
    /,
    *,
    name: str | None = None,
    pure: bool = False,
    mode: Mode = "inline",
    version: str | int | None = None,
) -> Task[P, R]: ...
@overload
def task(
    function: Callable[P, Awaitable[R | Expression[R] | Control]],
    /,
    *,
    name: str | None = None,
    pure: bool = False,
    mode: Mode = "inline",
    version: str | int | None = None,
) -> Task[P, R]: ...
@overload
def task(
    function: Callable[P, R | Expression[R] | Control],
    /,
    *,
    name: str | None = None,
    pure: bool = False,
    mode: Mode = "inline",
    version: str | int | None = None,
) -> Task[P, R]: ...
def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    pure: bool = False,
    mode: Mode = "inline",
    version: str | int | None = None,
) -> Any:
    """Make a Task of a function, async function, method or callable object.

    Bare or with options, as a decorator or as a call. `name` (the function's own) is what
    constraints match and events show. `pure`: equal arguments give equal results, without side
    effects, so equal calls may be one. `mode`: "inline" runs a sync function on the event loop's
    thread, "thread" in a worker thread, "process" in a worker process; an async function is
    always on the loop. `version` (a str or int) becomes part of cache keys.

    Raises `TypeError` for what cannot be a task (a generator function, an async function with
    another mode, a local function in a process), `ValueError` for an unknown mode and for a name
    with NUL or a lone surrogate, which neither source code nor UTF-8 can hold.

    >>> import cascade as cs
    >>> @cs.task
    ... def double(x: int) -> int:
    ...     return 2 * x
    >>> double(4), double.func(4), cs.run(double(double(4)))
    (<LazyResult double>, 8, 16)
    """
    if function is None:
        return lambda func: Task(func, name=name, pure=pure, mode=mode, version=version)
    return Task(function, name=name, pure=pure, mode=mode, version=version)


if TYPE_CHECKING:

    class _TaskDecorator:
        @overload
        def __call__(
            self, function: Callable[P, Control | Awaitable[Control]], /
        ) -> Task[P, Any]: ...
        @overload
        def __call__(
            self,
            function: Callable[P, Expression[R] | Control | Awaitable[Expression[R] | Control]],
            /,
        ) -> Task[P, R]: ...
        @overload
        def __call__(
            self, function: Callable[P, Awaitable[R | Expression[R] | Control]], /
        ) -> Task[P, R]: ...
        @overload
        def __call__(self, function: Callable[P, R | Expression[R] | Control], /) -> Task[P, R]: ...
        def __call__(self, function: Callable[..., Any], /) -> Any: ...


class Parameters:
    """What a call by parameter name needs to know of a signature."""

    __slots__ = ("has_keywords", "has_positionals", "names", "positional")

    def __init__(self, signature: Signature) -> None:
        parameters = signature.parameters.values()
        by_position = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
        self.positional = [p.name for p in parameters if p.kind in by_position]
        self.names = self.positional + [
            p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY
        ]
        self.has_positionals = any(p.kind is Parameter.VAR_POSITIONAL for p in parameters)
        self.has_keywords = any(p.kind is Parameter.VAR_KEYWORD for p in parameters)

    def first(self, *, is_method: bool) -> str | None:
        """The first parameter, after the `self` of a method."""
        positional = self.positional[1:] if is_method else self.positional
        if positional:
            return positional[0]
        keywords = self.names[len(self.positional) :]
        return keywords[0] if keywords and not self.has_positionals else None

    def override(
        self, where: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], is_method: bool
    ) -> dict[Any, Any]:
        positional = self.positional[1:] if is_method else self.positional
        if len(args) > len(positional) and not self.has_positionals:
            raise TypeError(
                f"{where} has {len(args)} positional arguments; "
                f"the task takes {len(positional)}: {', '.join(positional) or 'none'}"
            )
        given: dict[Any, Any] = dict(zip(positional, args, strict=False))
        twice = [name for name in kwargs if name in given]
        if twice:
            raise TypeError(f"{where} gives {', '.join(map(repr, twice))} twice")
        if not self.has_keywords:
            unknown = [name for name in kwargs if name not in self.names]
            if unknown:
                raise TypeError(unknown_names(where, unknown, self.names))
        elif not all(isinstance(name, str) for name in kwargs):
            raise TypeError(f"{where} must be a dict by parameter name, not {dict(kwargs)!r}")
        given.update(kwargs)
        if len(args) > len(positional):
            given[VARARGS] = tuple(args[len(positional) :])
        return given


class _Varargs(Enum):
    VARARGS = "*"


VARARGS: Final = _Varargs.VARARGS  # the key of the extra positional arguments of an override


def _check_function(func: Any, mode: str, name: Any) -> bool:
    """Whether `func` is async; raises `TypeError` for what cannot be a task in this mode."""
    if not callable(func):
        below = "; put @cs.task below that decorator" if hasattr(func, "__get__") else ""
        raise TypeError(f"{func!r} cannot be a task: it is not callable{below}")
    if name is not None and (not isinstance(name, str) or not name):
        raise TypeError(f"name={name!r} of {_name_of(func)!r} must be a non-empty string")
    if isinstance(func, Task | BoundTask):
        raise TypeError(f"{func!r} is a task already; write cs.task({func.name}.func, ...)")
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} of {_name_of(func)!r} must be one of {MODES}")
    inner = _innermost(func)
    is_plain = inspect.isroutine(inner) or isinstance(inner, type)
    called = inner if is_plain else inner.__call__
    is_old_style = bool(_flags_of(called) & inspect.CO_ITERABLE_COROUTINE)  # by types.coroutine
    is_generator = inspect.isgeneratorfunction(called) and not is_old_style
    if is_generator or inspect.isasyncgenfunction(called):
        raise TypeError(
            f"the generator function {_name_of(func)!r} cannot be a task; "
            "return a list, or make it a cs.resource"
        )
    is_async = is_old_style or inspect.iscoroutinefunction(called)
    if is_async and mode != "inline":
        raise TypeError(
            f"the async function {_name_of(func)!r} runs on the event loop; "
            f"mode={mode!r} is for sync functions, drop it"
        )
    if mode == "process" and "<" in getattr(inner, "__qualname__", ""):
        raise TypeError(
            f"{_name_of(func)!r} cannot run in a worker process, which imports it by name: "
            'define it at the top level of a module, or use mode="thread"'
        )
    return is_async


def _checked_name(name: str) -> str:
    """A name that code generated for the task, files and terminals can hold."""
    if "\0" in name or any("\ud800" <= character <= "\udfff" for character in name):
        raise ValueError(f"name={name!r} of a task holds NUL or a lone surrogate; leave them out")
    return name


def _innermost(func: Any) -> Any:
    while isinstance(func, functools.partial | staticmethod):
        func = func.__func__ if isinstance(func, staticmethod) else func.func
    return func


def _flags_of(function: Any) -> int:
    code = getattr(function, "__code__", None)
    return code.co_flags if isinstance(code, CodeType) else 0


def _name_of(func: Any) -> str:
    func = _innermost(func)
    return str(getattr(func, "__name__", None) or type(func).__name__)


def _signature_of(func: Any) -> Signature:
    try:
        return inspect.signature(func)
    except ValueError:  # some builtins tell nothing about their arguments
        anything = [
            Parameter("args", Parameter.VAR_POSITIONAL),
            Parameter("kwargs", Parameter.VAR_KEYWORD),
        ]
        return Signature(anything)


def _constructor(task: Task[..., Any]) -> Callable[..., LazyResult[Any]]:
    """A function with the task's own parameters that makes the LazyResult of a call."""
    parameters = task.signature.parameters.values()
    is_taken = not {"_make", "_task"}.isdisjoint(task.signature.parameters)
    make, this = ("__cascade_make", "__cascade_task") if is_taken else ("_make", "_task")
    scope: dict[str, Any] = {make: LazyResult, this: task}
    declared: list[Parameter] = []
    positional: list[str] = []
    keyword: list[str] = []
    for index, parameter in enumerate(parameters):
        name, kind = parameter.name, parameter.kind
        default: Any = parameter.default
        if default is not Parameter.empty:
            default = _Written(f"__cascade_default_{index}")
            scope[str(default)] = parameter.default
        declared.append(Parameter(name, kind, default=default))
        if kind is Parameter.VAR_KEYWORD:
            keyword.append(f"**{name}")
        elif kind is Parameter.KEYWORD_ONLY:
            keyword.append(f"{name!r}: {name}")
        else:
            positional.append(f"*{name}" if kind is Parameter.VAR_POSITIONAL else name)
    args = f"({', '.join(positional)},)" if positional else "()"
    kwargs = f", {{{', '.join(keyword)}}}" if keyword else ""
    source = f"def call{Signature(declared)}:\n    return {make}({this}, {args}{kwargs})\n"
    exec(compile(source, f"<cascade constructor of {task.name}>", "exec"), scope)
    call = scope["call"]
    call.__name__ = task.name
    call.__qualname__ = task.name  # what Python's own message for a wrong call begins with
    return cast("Callable[..., LazyResult[Any]]", call)


class _Written(str):
    """A piece of code in place of a default: its `repr`, which a Signature writes, is itself."""

    __slots__ = ()
    __repr__ = str.__str__


def _refuse_positional(task: Task[..., Any], given: Sequence[object], skip: int = 0) -> None:
    """Raise `TypeError` for what is to be mapped over without saying for which parameter."""
    if given:
        names = task.parameters.names[skip:][: len(given)]
        by_name = ", ".join(f"{name}=..." for name in names or ["parameter"])
        raise TypeError(
            f"{task.name}.map() takes iterables by parameter name; write {task.name}.map({by_name})"
        )


def _mapped(
    task: Task[..., Any], given: Mapping[str, Any], receiver: Mapping[str, Any]
) -> MappedLazyResult[Any]:
    whole = {name: each.value for name, each in given.items() if type(each) is Unmapped}
    constants = {**receiver, **whole}
    iterables = {name: each for name, each in given.items() if name not in whole}
    if not given:
        raise TypeError(f"{task.name}.map() needs at least one iterable, by parameter name")
    bound = task.override((), {**constants, **iterables}, "map()", is_method=False)
    if not iterables:
        by_name = ", ".join(f"{name}=..." for name in whole)
        raise TypeError(
            f"{task.name}.map() is given nothing but cs.unmapped(...), so there are no items; "
            f"write {task.name}({by_name}) for one call, or give an iterable beside it"
        )
    read = {name: _read_iterable(task, name, given) for name, given in iterables.items()}
    lengths = {
        name: len(given)
        for name, given in read.items()
        if isinstance(given, Sized) and not isinstance(given, Expression)
    }
    check_lengths(task.name, lengths)
    rest = _defaults_of(task, bound)
    return MappedLazyResult(task, read, {**constants, **rest})


def _defaults_of(task: Task[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    rest: dict[str, Any] = {}
    missing: list[str] = []
    for parameter in task.signature.parameters.values():
        if parameter.name in given or parameter.kind in (
            Parameter.VAR_POSITIONAL,
            Parameter.VAR_KEYWORD,
        ):
            continue
        if parameter.default is Parameter.empty:
            missing.append(parameter.name)
        else:
            rest[parameter.name] = parameter.default
    if missing:
        names = ", ".join(map(repr, missing))
        raise TypeError(
            f"{task.name}.map() needs an iterable, or cs.unmapped(value), for each of {names}"
        )
    return rest


def _read_iterable(task: Task[..., Any], name: str, given: Any) -> Any:
    if type(given) is Lazily:
        return given.source
    if isinstance(given, Expression):
        return given
    check_iterable(task.name, name, given)
    return tuple(given) if isinstance(given, Iterator) else given


def check_iterable(task_name: str, name: str, given: Any) -> None:
    """Raise `TypeError` unless a map can take `given` item by item."""
    if isinstance(given, str | bytes | bytearray):
        raise TypeError(
            f"{task_name}.map({name}={brief(given)}) would take single characters; "
            "pass a list of whole items, or cs.unmapped(...) to give it whole to every item"
        )
    try:
        iter(given)
    except TypeError:
        if isinstance(given, Task | BoundTask):
            raise TypeError(
                f"{task_name}.map({name}={given!r}) is given a task, not a call of one; "
                f"write {given.name}(...)"
            ) from None
        raise TypeError(
            f"{task_name}.map({name}=...) needs an iterable, not {type(given).__name__}; "
            f"write {name}=cs.unmapped(...) for a value that is the same for all items"
        ) from None


def check_lengths(task_name: str, lengths: Mapping[str, object]) -> None:
    """Raise `ValueError` naming each length, or what is known of it, unless all are equal."""
    if len(set(lengths.values())) > 1:
        each = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise ValueError(f"{task_name}.map() needs iterables of equal length, but got {each}")
