"""Workflows as one node: a group, and the first of several to have a value.

What such a node is a call of is a Task of Cascade's own, without parameters. What it evaluates
stands in its policies, as the routes of a loop do.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar, overload

from cascade.plain import brief
from cascade.workflow.expressions import Expression, Inner, Lazy, LazyResult, Router, refuse_task
from cascade.workflow.task import Task, TaskKind

T = TypeVar("T")


@overload
def group(expression: Expression[T], *, name: str = ...) -> LazyResult[T]: ...
@overload
def group(expression: Any, *, name: str = ...) -> LazyResult[Any]: ...
def group(expression: Any, *, name: str = "group") -> LazyResult[Any]:
    """A whole workflow as one node, whose value is that of `expression`.

    Each attempt evaluates it, with `step` resources of its own. Chain methods apply to it as a
    whole: a retry evaluates it anew, a timeout bounds all of it, capacity is held while it runs, a
    fallback or `.settled()` answers its failure, which cancels what runs in it and nothing else.
    Constraints match it only by a `task:` pattern on `name`. Raises `TypeError` for a Task that was
    meant to be called.

    >>> import cascade as cs
    >>> @cs.task
    ... def fetch(url):
    ...     raise ConnectionError(url)
    >>> cs.run(cs.group([fetch("a.example"), fetch("b.example")]).with_fallback([]))
    []
    """
    refuse_task(expression, "the expression of a group")
    return _node("group", name, (expression,))


def first(*expressions: Any, name: str = "first") -> LazyResult[Any]:
    """The value of the first of `expressions` to have one; the others are cancelled and awaited.

    All are demanded, each as by `cs.group`. A failure counts once all have failed: then they make
    an `ExceptionGroup`, in the order given. Those that are skipped do not count; if all are, so is
    the node. Raises `ValueError` for no expressions, `TypeError` for a list of them and for a Task
    that was meant to be called.

    >>> import cascade as cs
    >>> @cs.task
    ... def fetch(url):
    ...     if url == "a.example":
    ...         raise ConnectionError(url)
    ...     return f"the page of {url}"
    >>> cs.run(cs.first(fetch("a.example"), fetch("b.example")))
    'the page of b.example'
    """
    if not expressions:
        raise ValueError("cs.first needs at least one expression")
    if len(expressions) == 1 and not isinstance(expressions[0], Lazy | Router):
        raise TypeError(
            f"cs.first takes its expressions one by one, not {brief(expressions[0])}; "
            "write cs.first(a, b), or cs.first(*expressions)"
        )
    for expression in expressions:
        refuse_task(expression, "an expression of cs.first")
    return _node("first", name, expressions)


def _node(kind: TaskKind, name: str, expressions: tuple[Any, ...]) -> LazyResult[Any]:
    node: LazyResult[Any] = built_in(kind, name)()
    return node.evaluating(Inner(expressions))


@lru_cache(maxsize=1024)
def built_in(kind: TaskKind, name: str) -> Task[[], Any]:
    """The Task of Cascade's own of this kind and name: the same again, so that plans are kept."""

    async def evaluated() -> Any:
        raise AssertionError(f"a {kind} is carried out by the run")

    evaluated.__qualname__ = evaluated.__name__ = kind
    task: Task[[], Any] = Task(evaluated, name=name)
    task.kind = kind
    return task
