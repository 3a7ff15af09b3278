"""What describes a value to be computed: the closed set of expressions, and what loops are told.

Expressions are built in great numbers, so they hold four slots and no more: what most of them
never have (retry, conditions, routes, ...) lives in one `Policies` object made on first need.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Coroutine, Iterable, Iterator, Mapping
from copy import copy, deepcopy
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import Enum
from inspect import isasyncgenfunction, iscoroutinefunction, isfunction
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar, cast, overload

from cascade.amounts import checked_amount
from cascade.errors import did_you_mean
from cascade.plain import brief, is_equal
from cascade.workflow.outcome import Outcome
from cascade.workflow.retry import Catch, Delay, RetryOn, RetryPolicy, check_number
from cascade.workflow.source import Source

if TYPE_CHECKING:
    from typing import Self

    from cascade.workflow.cache import CachePolicy
    from cascade.workflow.task import Task

S = TypeVar("S")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Nothing(Enum):
    """The type of `NOTHING`, which tells "not given" from `None`."""

    NOTHING = "<none>"

    def __repr__(self) -> str:
        return "<none>"


NOTHING: Final = Nothing.NOTHING
NO_KWARGS: Final[Mapping[str, Any]] = MappingProxyType({})

_CHAIN_METHODS: Final = (
    "after",
    "copy",
    "run_if",
    "settled",
    "with_cache",
    "with_concurrency",
    "with_constraints",
    "with_fallback",
    "with_retry",
    "with_timeout",
)

_OWN_MAPPINGS: Final = ("kwargs", "constants", "routes")

# Attributes that an expression may lack while it is being made or copied.
_SLOTS: Final = frozenset({"args", "kwargs", "policies", "task", "constants", "routes", "name"})


class Expression(Generic[T_co]):
    """What describes a value to be computed. It runs nothing by itself."""

    __slots__ = ("__weakref__",)

    def _described(self) -> str:
        return f"{type(self).__name__}"

    def __getstate__(self) -> dict[str, Any]:
        """What a copy has: the same parts, and policies, keywords and routes of its own."""
        names = [name for kind in type(self).__mro__ for name in getattr(kind, "__slots__", ())]
        state = {name: getattr(self, name) for name in names if name != "__weakref__"}
        own = {name: dict(state[name]) for name in _OWN_MAPPINGS if name in state}
        if state.get("policies") is not None:
            own["policies"] = copy(state["policies"])
        return state | own

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def _instead_of(self, name: str) -> str:
        """The clause that says what to write instead of the attribute `name`."""
        return "; a part of its value is taken by a task that gets the value as an argument"

    def __bool__(self) -> NoReturn:
        raise TypeError(
            f"{self._described()} has no truth value before it runs; "
            "write expression.run_if(condition) or cs.Router(selector=..., routes={...})"
        )

    # Type checkers do not see what is there only to say what to write instead.
    if not TYPE_CHECKING:

        def __iter__(self) -> Iterator[Any]:
            raise TypeError(
                f"{self._described()} cannot be iterated before it runs; "
                "write task.map(parameter=expression) to run a task for each of its items"
            )

        def __len__(self) -> NoReturn:
            raise TypeError(
                f"{self._described()} has no length before it runs; "
                "pass it to a task that takes the length of its value"
            )

        def __getitem__(self, key: Any) -> NoReturn:
            raise TypeError(
                f"{self._described()} cannot be indexed before it runs; "
                f"write a task that takes the value and returns value[{key!r}]"
            )

        def __getattr__(self, name: str) -> NoReturn:
            if name.startswith("__") or name in _SLOTS:
                raise AttributeError(name)
            raise AttributeError(
                f"{self._described()} has no attribute {name!r}{self._instead_of(name)}"
            )

        def __await__(self) -> NoReturn:
            raise TypeError(
                f"{self._described()} cannot be awaited; "
                "write await cs.run_async(expression), or pass it to another task as an argument"
            )


class Policies:
    """What chain methods set on a lazy result, all of it optional.

    `given` names what may be set once and was. A copy has the same policies, and none was given to
    itself yet: its own chain methods may replace each of them.
    """

    __slots__ = (
        "after",
        "amounts",
        "cache",
        "concurrency",
        "conditions",
        "default",
        "fallback",
        "given",
        "inner",
        "is_method",
        "retry",
        "selector",
        "settled",
        "timeout",
    )

    def __init__(self) -> None:
        self.retry: RetryPolicy | None = None
        self.timeout: float | None = None
        self.cache: CachePolicy | None = None
        self.amounts: dict[str, Any] = {}
        self.conditions: tuple[Any, ...] = ()
        self.default: Any = NOTHING
        self.after: tuple[Expression[Any], ...] = ()
        self.selector: JumpSelector | None = None
        self.is_method = False
        self.fallback: Fallback | None = None
        self.settled: Catch | None = None
        self.concurrency: int | None = None
        self.inner: Inner | None = None
        self.given: frozenset[str] = frozenset()

    def __copy__(self) -> Policies:
        copied = Policies.__new__(Policies)
        for name in self.__slots__:
            setattr(copied, name, getattr(self, name))
        copied.given = frozenset()
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Policies:
        copied = memo[id(self)] = copy(self)
        for name in self.__slots__:
            if name != "cache":  # it holds what was computed, and is shared by whoever uses it
                setattr(copied, name, deepcopy(getattr(self, name), memo))
        return copied


@dataclass(frozen=True, slots=True)
class Fallback:
    """What `.with_fallback(...)` sets: `handler` is the call of a `value` that is a Task."""

    value: Any
    on: Catch
    handler: Lazy[Any] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if getattr(type(self.value), "is_task", False):
            object.__setattr__(self, "handler", _handler(self.value))

    def __repr__(self) -> str:
        return f"{brief(self.value)} {self.on}"

    @property
    def parts(self) -> tuple[Any, ...]:
        """What is demanded after a failure."""
        return (self.value,) if self.handler is None else (self.handler,)


class Lazy(Expression[T_co]):
    """What LazyResult and MappedLazyResult share: a task, its inputs, and the chain methods.

    Chain methods change the expression and return it. A retry, timeout or cache is given once:
    another value is a `ValueError`, and `.copy()` gives a node of its own to have one.
    """

    __slots__ = ("args", "kwargs", "policies", "task")

    task: Task[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    policies: Policies | None

    def _described(self) -> str:
        return f"the {type(self).__name__} of task {self.task.name!r}"

    def _instead_of(self, name: str) -> str:
        if name == "map":
            return f"; a map is made by the task, without a call: {self.task.name}.map(...)"
        if name == "with_concurrency":
            return f", which bounds the items of a map: {self.task.name}.map(...).{name}(n)"
        for near_to in (name, f"with_{name}"):
            near = get_close_matches(near_to, _CHAIN_METHODS, n=1, cutoff=0.8)
            if near:
                return f"; did you mean {near[0]!r}?"
        return super()._instead_of(name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.task.name}>"

    def _own_policies(self) -> Policies:
        if self.policies is None:
            self.policies = Policies()
        return self.policies

    def _give(self, name: str, value: Any) -> Self:
        """Set a policy that is given once: an equal value again changes nothing.

        A node may have several users, and each of them would rely on the value that it gave.
        """
        policies = self._own_policies()
        if name not in policies.given:
            setattr(policies, name, value)
            policies.given |= {name}
        elif not is_equal(getattr(policies, name), value):
            earlier = brief(getattr(policies, name))
            method = name if name in _CHAIN_METHODS else f"with_{name}"
            raise ValueError(
                f"{self._described()} has the {name} {earlier} already, and is given "
                f"{brief(value)}; write expression.copy().{method}(...) for a node of its own"
            )
        return self

    def copy(self) -> Self:
        """A node of its own, with the same task, arguments and policies.

        Its chain methods leave the original alone, and may replace the retry, timeout or cache that
        it was copied with. The copy of a loop that leads back to itself leads to the copy.
        """
        copied = copy(self)
        policies = copied.policies
        if policies is not None and policies.selector is not None:
            policies.selector = policies.selector.leading(self, copied)
        return copied

    def evaluating(self, inner: Inner) -> Self:
        """In place of a call of its task it evaluates expressions, in evaluations of their own."""
        self._own_policies().inner = inner
        return self

    def as_method(self) -> Self:
        """The first argument is a bound `self`: what overrides the arguments leaves it alone."""
        self._own_policies().is_method = True
        return self

    def with_retry(
        self,
        max_attempts: int = 3,
        delay: Delay = 0.0,
        backoff: float = 1.0,
        *,
        max_delay: float | None = None,
        jitter: float = 0.0,
        on: RetryOn = Exception,
    ) -> Self:
        """A failed attempt is followed by another, `max_attempts` executions in all.

        The delay before it is `delay * backoff**k` seconds (k counts the retries from 0), at most
        `max_delay`, plus up to `jitter` of itself at random. Or `delay` is a function
        `(error, attempt) -> seconds | None`, asked after each failed attempt (None: no more), and
        `backoff`, `max_delay` and `jitter` are left out. Only exceptions of `on` are retried: a
        class or a tuple of them, which a group matches if all its leaves do, or a function
        `(error) -> bool`. Cancellation never is. On a map, each item has its own attempts. Raises
        `ValueError` for numbers out of range and for another retry than the node has,
        `TypeError` for another `on` or `delay`.
        """
        policy = RetryPolicy(max_attempts, delay, backoff, max_delay, jitter, on)
        return self._give("retry", policy)

    def with_timeout(self, seconds: float) -> Self:
        """Each attempt that takes longer than `seconds` fails with `TaskTimeoutError`.

        Raises `ValueError` unless `seconds` is above 0, for another timeout than the node has, and
        for an inline sync task, which nothing can interrupt.
        """
        check_number("seconds", seconds, at_least=0.0)
        if seconds == 0:
            raise ValueError("seconds=0 leaves no time to run; it must be above 0")
        if self.task.mode == "inline" and not self.task.is_async:
            raise ValueError(
                f"the inline sync task {self.task.name!r} cannot be interrupted by a timeout; "
                'make it @cs.task(mode="thread") or "process", or an async function'
            )
        return self._give("timeout", float(seconds))

    def with_cache(self, policy: CachePolicy) -> Self:
        """The policy is asked for the value before the first attempt, and given it at the end.

        A hit takes no capacity and no token, and publishes `TaskSkipped(reason="CacheHit")`. The
        key is made of the Task and its arguments; an argument that is no plain data fails the
        task with a `CacheKeyError`. Raises `TypeError` for what is no `CachePolicy`, `ValueError`
        for another one than the node has.
        """
        if isinstance(policy, type):
            raise TypeError(f"{policy!r} is a class; pass an instance, {policy.__name__}(...)")
        if self.policies is not None and self.policies.inner is not None:
            raise TypeError(
                f"{self._described()} has no arguments that would make a key for a cache; "
                "give the nodes in it caches instead"
            )
        for method, arguments in (("get", "key"), ("put", "key, value")):
            found = getattr(policy, method, None)
            if not callable(found):
                raise TypeError(f"{policy!r} is no cache policy: it has no async {method}(key...)")
            if _is_sync(found):
                raise TypeError(
                    f"{policy!r} is no cache policy: its {method} is not async; "
                    f"write async def {method}(self, {arguments})"
                )
        return self._give("cache", policy)

    def with_constraints(self, **amounts: Any) -> Self:
        """Each attempt takes these amounts of the engine's capacity while it runs.

        Amounts are numbers above 0 or expressions that give them; a repeated call merges by name.
        A name for which the engine has no capacity is not limited. Raises `ValueError` for
        another amount, and in the run for one above the capacity.
        """
        for name, amount in amounts.items():
            if not isinstance(amount, Expression):
                checked_amount(self.task.name, name, amount)
        policies = self._own_policies()
        policies.amounts = {**policies.amounts, **amounts}
        return self

    def run_if(self, condition: Any, *, default: Any = NOTHING) -> Self:
        """It runs only if `condition` (an expression or a literal) is truthy.

        Repeated, all conditions must hold. `default`, an expression or a literal, is the value
        when one does not; without it the node is skipped, and so is what needs it. The last
        default given counts. Raises `TypeError` for a Task that was meant to be called.
        """
        refuse_task(condition, f"a condition of task {self.task.name!r}")
        policies = self._own_policies()
        policies.conditions = (*policies.conditions, condition)
        if default is not NOTHING:
            policies.default = default
        return self

    def after(self, *predecessors: Expression[Any]) -> Self:
        """It runs once these have run, whose values it does not need. Repeated calls add.

        Raises `TypeError` for a predecessor that is no expression.
        """
        for predecessor in predecessors:
            if not isinstance(predecessor, Expression):
                raise TypeError(
                    f"{predecessor!r} cannot be a predecessor of task {self.task.name!r}: "
                    "after() takes expressions, such as other_task(...)"
                )
        policies = self._own_policies()
        policies.after = (*policies.after, *predecessors)
        return self


class LazyResult(Lazy[T_co]):
    """The value that a task will have for these arguments. Made by calling a Task.

    `.task`, `.args` and `.kwargs` tell the call, defaults filled in. Chain methods change the
    expression and return it. `==` and `hash` are identity: one expression used twice runs once.
    It has no truth value, length or items before it runs: asking for one is a `TypeError`.
    """

    __slots__ = ()

    def __init__(
        self, task: Task[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] = NO_KWARGS
    ) -> None:
        self.task = task
        self.args = args
        self.kwargs = kwargs
        self.policies = None

    @overload
    def with_fallback(self, value: Task[..., T], *, on: RetryOn = ...) -> LazyResult[T_co | T]: ...
    @overload
    def with_fallback(self, value: Expression[T], *, on: RetryOn = ...) -> LazyResult[T_co | T]: ...
    @overload
    def with_fallback(self, value: T, *, on: RetryOn = ...) -> LazyResult[T_co | T]: ...
    def with_fallback(self, value: Any, *, on: RetryOn = Exception) -> LazyResult[Any]:
        """When its last attempt has failed with an exception of `on`, it has this value instead.

        `value` is a literal; an expression, which is demanded only then, and computed once however
        many need it; or a Task, which is called with the exception. `on` is a class, a tuple of
        them, or a function `(error) -> bool`; cancellation never is. `TaskRecovered` is published.
        A fallback is never cached, and if it fails, the run fails with that, caused by the first.
        In a loop, a failing iteration of this node ends the loop with the fallback. Raises
        `TypeError` for another `on`, and for a Task that cannot be called with one argument.

        >>> import cascade as cs
        >>> @cs.task
        ... def page(url: str) -> str:
        ...     raise ConnectionError(url)
        >>> cs.run(page("a.example").with_fallback("nothing", on=ConnectionError))
        'nothing'
        """
        return self._give("fallback", Fallback(value, Catch(on)))

    def settled(self, *, on: RetryOn = Exception) -> LazyResult[Outcome[T_co]]:
        """Its value is a `cs.Outcome`: what it gave, or the exception its last attempt failed with.

        A failure that `on` matches, as for `with_fallback`, does not end the run, and a fallback
        comes first. Control (a Jump, a TailCall, a returned expression) passes through, and what it
        leads to is the outcome. Raises `TypeError` for another `on`.

        >>> import cascade as cs
        >>> @cs.task
        ... def page(url: str) -> str:
        ...     raise ConnectionError(url)
        >>> cs.run(page("a.example").settled())
        Outcome(value=None, error=ConnectionError('a.example'))
        """
        self._give("settled", Catch(on))
        return cast("LazyResult[Outcome[T_co]]", self)


class MappedLazyResult(Lazy[list[T]], Generic[T]):
    """The list of values that a task will have for each item. Made by `task.map(...)`.

    `.kwargs` are the iterables by parameter, `.constants` what every item gets alike. Chain
    methods apply to each item, save `run_if` and `after`, which apply to the map as a whole.
    """

    __slots__ = ("constants",)

    def __init__(
        self,
        task: Task[..., Any],
        iterables: Mapping[str, Any],
        constants: Mapping[str, Any] = NO_KWARGS,
    ) -> None:
        self.task = task
        self.args = ()
        self.kwargs = iterables
        self.constants = constants
        self.policies = None

    @overload
    def with_fallback(
        self, value: Task[..., S], *, on: RetryOn = ...
    ) -> MappedLazyResult[T | S]: ...
    @overload
    def with_fallback(
        self, value: Expression[S], *, on: RetryOn = ...
    ) -> MappedLazyResult[T | S]: ...
    @overload
    def with_fallback(self, value: S, *, on: RetryOn = ...) -> MappedLazyResult[T | S]: ...
    def with_fallback(self, value: Any, *, on: RetryOn = Exception) -> MappedLazyResult[Any]:
        """An item whose last attempt has failed with an exception of `on` has this value instead.

        As for `LazyResult.with_fallback`. An expression is computed once for all items; a Task is
        called for each item that failed.
        """
        return self._give("fallback", Fallback(value, Catch(on)))

    def settled(self, *, on: RetryOn = Exception) -> MappedLazyResult[Outcome[T]]:
        """Its value is a list of `cs.Outcome`, one an item, in order.

        As for `LazyResult.settled`: an item that fails does not end the run.
        """
        self._give("settled", Catch(on))
        return cast("MappedLazyResult[Outcome[T]]", self)

    def with_concurrency(self, n: int) -> Self:
        """At most `n` items of this map exist at a time; the others cost only their arguments.

        An item exists from when it is ready, waiting for capacity included, until it has its value,
        retries, fallback and what it returned included. Items begin in order. Raises `ValueError`
        unless `n` is a whole number above 0, and for another one than the map has.
        """
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise ValueError(
                f"with_concurrency({brief(n)}) of {self._described()} must be a whole number above "
                "0: how many items may exist at a time"
            )
        return self._give("concurrency", n)


class Unmapped(Expression[T_co]):
    """What `cs.unmapped` makes: an argument of `.map` that is no iterable of items."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def _described(self) -> str:
        return "cs.unmapped(...)"

    def __repr__(self) -> str:
        return f"<unmapped {brief(self.value)}>"


def unmapped(value: Any) -> Unmapped[Any]:
    """An argument of `.map` that every item is given whole, where others are taken item by item.

    `value` is anything that an argument can be: a str or list too, or an expression, which is
    computed once. Anywhere but as an argument of `.map` it is a `TypeError`, before anything runs.

    >>> import cascade as cs
    >>> @cs.task
    ... def join(separator, words):
    ...     return separator.join(words)
    >>> cs.run(join.map(separator=[" ", "-"], words=cs.unmapped(["a", "b"])))
    ['a b', 'a-b']
    """
    return Unmapped(value)


class Lazily(Expression[T_co]):
    """What `cs.lazily` makes: an argument of `.map`."""

    __slots__ = ("source",)

    def __init__(self, source: Source[Any]) -> None:
        self.source = source

    def _described(self) -> str:
        return "cs.lazily(...)"

    def __repr__(self) -> str:
        return repr(self.source)


def lazily(iterable: Iterable[T] | AsyncIterable[T]) -> Lazily[T]:
    """An argument of `.map` that is read while items start, and no further ahead.

    `iterable` is a sync or async iterable or iterator; what it gives is data. A sync one is read on
    the event loop's own thread, an async one in a task of the run, which closes an async generator
    when the run fails or is cancelled. What reading raises is the map's failure. The map needs
    `.with_concurrency(n)`, else it is a `ValueError` when the run starts. An iterator can be read
    by one map of one run. Raises `TypeError` for what cannot be iterated, for a str or bytes, and
    for an expression; anywhere but as an argument of `.map` it is one before anything runs.

    >>> import cascade as cs
    >>> @cs.task
    ... def double(x):
    ...     return 2 * x
    >>> cs.run(double.map(x=cs.lazily(n for n in range(4))).with_concurrency(2))
    [0, 2, 4, 6]
    """
    if isinstance(iterable, str | bytes | bytearray):
        raise TypeError(f"cs.lazily({brief(iterable)}) would read single characters; pass a list")
    if isinstance(iterable, Expression) or getattr(type(iterable), "is_task", False):
        raise TypeError(
            f"cs.lazily({iterable!r}) has nothing to read before the run; pass an iterable, or map "
            "over the expression itself, whose value is read whole"
        )
    if not isinstance(iterable, Iterable | AsyncIterable):
        raise TypeError(
            f"cs.lazily({brief(iterable)}) cannot be iterated; pass an iterable or async iterable, "
            "such as what a generator function gives when it is called"
        )
    return Lazily(Source(iterable))


class Router(Expression[T_co]):
    """The value of the route that the selector's value names; the other routes never run.

    `routes` maps keys to expressions or literals; `default` is taken for an unknown key. Without
    one, an unknown key is a `RouteNotFoundError` in the run. Raises `TypeError` for routes that
    are no mapping, `ValueError` for no routes at all.

    >>> import cascade as cs
    >>> answer = cs.Router(selector=cs.Param("lang"), routes={"en": "yes", "de": "ja"})
    >>> cs.run(answer, params={"lang": "de"})
    'ja'
    """

    __slots__ = ("default", "routes", "selector")

    @overload
    def __init__(
        self: Router[T],
        selector: Any,
        routes: Mapping[Any, Expression[T]],
        default: Expression[T] | Nothing = NOTHING,
    ) -> None: ...
    @overload
    def __init__(
        self: Router[Any], selector: Any, routes: Mapping[Any, Any], default: Any = NOTHING
    ) -> None: ...
    def __init__(self, selector: Any, routes: Mapping[Any, Any], default: Any = NOTHING) -> None:
        if not isinstance(routes, Mapping):
            raise TypeError(f"routes={routes!r} must be a dict of key: expression or literal")
        if not routes and default is NOTHING:
            raise ValueError("a Router needs at least one route or a default")
        refuse_task(selector, "the selector of a Router")
        self.selector = selector
        self.routes = dict(routes)
        self.default = default

    def copy(self) -> Self:
        """A Router of its own, with the same selector, routes and default."""
        return copy(self)

    def _described(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return f"<Router {list(self.routes)!r}>"


@dataclass(frozen=True, slots=True)
class Jump:
    """A task returns it to end this iteration and go on at the route `target_key`.

    `data` overrides the route's own arguments for that iteration: a dict by parameter name,
    another value as the first parameter, None or {} not at all; on the way out (a None route) it
    is the loop's value. It is never searched for expressions. In the run, an unknown key is a
    `JumpKeyError`, a Jump where nothing is bound a `JumpNotBoundError`, data that names no
    parameter a `TypeError`.
    """

    target_key: Any
    data: Any = None


@dataclass(frozen=True, slots=True)
class TailCall:
    """A task returns it to be evaluated anew with these arguments, its others staying its own.

    `target` names an expression registered with `engine.register_target`, which is evaluated
    instead. However many follow each other, stack and memory do not grow. Raises `TypeError` for
    arguments that are no tuple and dict, and in the run for those that do not fit the task.

    >>> import cascade as cs
    >>> @cs.task
    ... def gcd(a, b):
    ...     return cs.TailCall((b, a % b)) if b else a
    >>> cs.run(gcd(1071, 462))
    21
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    target: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.args, tuple | list):
            raise TypeError(f"TailCall args={self.args!r} must be a tuple; write TailCall((x,))")
        if not isinstance(self.kwargs, Mapping):
            raise TypeError(f"TailCall kwargs={self.kwargs!r} must be a dict by parameter name")
        if self.target is not None and not isinstance(self.target, str):
            raise TypeError(
                f"TailCall target={self.target!r} must be a name given to engine.register_target"
            )


Route = LazyResult[Any] | MappedLazyResult[Any] | Router[Any] | None


class JumpSelector:
    """The routes that serve the Jumps of a node. Made by `cs.select_jump`.

    `.routes` maps each key to an expression, or to None for the way out.
    """

    __slots__ = ("routes",)

    def __init__(self, routes: Mapping[Any, Route]) -> None:
        if not isinstance(routes, Mapping):
            raise TypeError(f"routes={routes!r} must be a dict of key: expression or None")
        for key, route in routes.items():
            if not isinstance(route, LazyResult | MappedLazyResult | Router | None):
                raise TypeError(
                    f"the jump route {key!r} is {route!r}; a route is a task call, a map, "
                    "a Router, or None to end the loop"
                )
        self.routes = dict(routes)

    def leading(self, old: Expression[Any], new: Any) -> JumpSelector:
        """A selector that leads to `new` wherever this one leads to `old`; itself if nowhere."""
        if not any(route is old for route in self.routes.values()):
            return self
        return JumpSelector(
            {key: new if route is old else route for key, route in self.routes.items()}
        )

    def __repr__(self) -> str:
        return f"<JumpSelector {list(self.routes)!r}>"


class Inner:
    """What a group, or a `first`, evaluates: each expression is the one member of a list.

    A list is no node, so that each of the nodes in it is one like any other.
    """

    __slots__ = ("routes",)

    def __init__(self, expressions: tuple[Any, ...]) -> None:
        self.routes = {number: [expression] for number, expression in enumerate(expressions)}


def _is_sync(method: Any) -> bool:
    """Whether a method is written as one that gives no awaitable; a wrapper may give one."""
    function = getattr(method, "__func__", method)
    if not isfunction(function) or hasattr(function, "__wrapped__"):
        return False
    told = str(function.__annotations__.get("return"))
    gives_one = iscoroutinefunction(function) or "Awaitable" in told or "Coroutine" in told
    return isasyncgenfunction(function) or not gives_one


def check_target(target: object) -> None:
    """Raise `TypeError` for a Task that was meant to be called, and for a coroutine."""
    refuse_task(target, "a target")
    if isinstance(target, Coroutine):
        raise TypeError(
            f"{target!r} cannot be a target; make a task of its function and pass a call of that"
        )


class Failure:
    """The argument of a handler in an expression, in whose place it is given the exception.

    One each: calls of a pure handler for two nodes are two calls.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "<the exception>"


def _handler(task: Any) -> Lazy[Any]:
    """What calls `task` with an exception."""
    try:
        handler: Lazy[Any] = task(Failure())
    except TypeError as error:
        raise TypeError(
            f"{task!r} as a fallback is called with the exception alone: {error}; "
            "give its other parameters defaults, or inject them"
        ) from None
    return handler


def refuse_task(value: object, where: str) -> None:
    """Raise `TypeError` for a Task that was meant to be called: a Task itself is always true."""
    if getattr(type(value), "is_task", False):
        raise TypeError(f"{value!r} as {where} is a task, not a call of one; write task(...)")


def unknown_names(what: str, names: list[str], known: list[str]) -> str:
    """The message for names that a signature does not have."""
    near = did_you_mean(names[0], known)
    return f"{what} names no parameter {', '.join(map(repr, names))}{near}"
