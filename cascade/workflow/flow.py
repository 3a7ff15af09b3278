"""Ways to put expressions together: in sequence, in a pipeline, in a loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar, overload

from cascade.workflow.expressions import NOTHING, Expression, JumpSelector, Lazy, LazyResult, Route

L = TypeVar("L", bound=Lazy[Any])


@overload
def sequence(expressions: tuple[*tuple[Expression[Any], ...], L]) -> L: ...
@overload
def sequence(expressions: Sequence[L]) -> L: ...
@overload
def sequence(expressions: Sequence[Expression[Any]]) -> Any: ...
def sequence(expressions: Sequence[Any]) -> Any:
    """Each runs after the one before; the value is the last one's. Returns the last.

    It chains `.after`: one that is skipped skips those that follow. Raises `ValueError` for none
    at all, `TypeError` for what cannot run after something.

    >>> import cascade as cs
    >>> @cs.task
    ... def show(text):
    ...     print(text)
    >>> cs.run(cs.sequence([show("first"), show("second")]))
    first
    second
    """
    chain = list(expressions)
    if not chain:
        raise ValueError("cs.sequence needs at least one expression")
    for before, following in pairwise(chain):
        if not isinstance(following, Lazy):
            raise TypeError(f"{following!r} cannot stand in a sequence; pass task calls or maps")
        following.after(before)
    return chain[-1]


@overload
def pipeline(
    initial: Any, steps: tuple[*tuple[Callable[[Any], Any], ...], Callable[[Any], L]]
) -> L: ...
@overload
def pipeline(initial: Any, steps: Iterable[Callable[[Any], L]]) -> L: ...
@overload
def pipeline(initial: Any, steps: Iterable[Callable[[Any], Any]]) -> Any: ...
def pipeline(initial: Any, steps: Iterable[Callable[[Any], Any]]) -> Any:
    """Each step is called with the expression before it, the first with `initial`.

    Steps are Tasks, or functions of an expression that return one. A step that its own `run_if`
    skips passes its input on. Returns the last expression, `initial` if there are no steps.
    Raises `TypeError` for a step that gives no task call.

    >>> import cascade as cs
    >>> @cs.task
    ... def double(x):
    ...     return 2 * x
    >>> cs.run(cs.pipeline(1, [double, lambda x: double(x).run_if(False), double]))
    4
    """
    value = initial
    for step in steps:
        if not callable(step):
            raise TypeError(f"{step!r} cannot be a pipeline step; pass a task or a function")
        result = step(value)
        if not isinstance(result, Lazy):
            raise TypeError(
                f"the pipeline step {step!r} gave {result!r}; a step returns a task call or a map"
            )
        policies = result.policies
        if policies is not None and policies.conditions and policies.default is NOTHING:
            policies.default = value
        value = result
    return value


def select_jump(routes: Mapping[Any, Route]) -> JumpSelector:
    """The routes for a node's Jumps, by key: an expression to go on at, or None to end the loop.

    Raises `TypeError` for a route that is no LazyResult, MappedLazyResult, Router or None.
    """
    return JumpSelector(routes)


def bind(node: LazyResult[Any], selector: JumpSelector) -> LazyResult[Any]:
    """Make `node` a loop: `selector` serves the Jumps it returns. Returns the node.

    Bound again, the new routes replace the earlier ones. Raises `TypeError` for another node.

    >>> import cascade as cs
    >>> @cs.task
    ... def count(n):
    ...     return cs.Jump("again", n + 1) if n < 3 else cs.Jump("done", n)
    >>> node = count(0)
    >>> cs.run(cs.bind(node, cs.select_jump({"again": node, "done": None})))
    3
    """
    if not isinstance(node, LazyResult):
        raise TypeError(f"{node!r} cannot be bound; cs.bind takes a task call, such as step(0)")
    if not isinstance(selector, JumpSelector):
        raise TypeError(f"{selector!r} is no selector; write cs.select_jump({{...}})")
    node._own_policies().selector = selector
    return node
