"""From a `Program` to expressions, and the tasks that they call."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from zlib import crc32

import anyio

import cascade as cs
import primitives
from programs import SELF, Node, Part, Program


class Pair(NamedTuple):
    first: Any
    second: Any


class State:
    """What tasks share during one run."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.journal: list[str] = []
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.memory = cs.InMemoryCache()
        self.engine: Any = None  # that of the run
        self.heard: dict[str, list[str]] = {}  # what subscribers of tasks heard, by task_id
        self.subscriptions: list[Callable[[], object]] = []
        self.level_subs: dict[int, Program] = {}
        remember(program, self.level_subs)


def remember(program: Program, found: dict[int, Program]) -> None:
    """Which program a task of a uid returns."""
    for node in program.nodes:
        for each in (node, *node.steps):
            if len(each.do) > 2 and each.do[2] == "expr":
                found[each.do[0]] = program.subs[each.do[3]]
    for sub in program.subs:
        remember(sub, found)


LONGEST = 400  # executions of tasks in one run
STATE: State


def use(program: Program) -> State:
    """Begin a run of `program`."""
    global STATE
    STATE = State(program)
    return STATE


class BadGet(cs.InMemoryCache):
    """A cache that cannot be asked."""

    async def get(self, key: bytes) -> cs.Hit[Any] | None:
        raise OSError("disk gone")


class Forgets(cs.InMemoryCache):
    """A cache that gives each value once, and keeps those that it likes."""

    async def get(self, key: bytes) -> cs.Hit[Any] | None:
        hit = await super().get(key)
        self.clear()
        return hit

    async def put(self, key: bytes, value: Any) -> None:
        if digest(value) % 3:
            await super().put(key, value)


class BadPut:
    """A cache that keeps nothing and fails to."""

    async def get(self, key: bytes) -> cs.Hit[Any] | None:
        return None

    async def put(self, key: bytes, value: Any) -> None:
        raise OSError("disk full")


# What tasks do


def digest(*values: Any) -> int:
    return crc32(repr(values).encode())


def error_of(kind: int, uid: int) -> BaseException:
    match kind:
        case 0:
            return ValueError(f"raised by {uid}")
        case 1:
            return LookupError(f"raised by {uid}")
        case 2:
            error: BaseException = RuntimeError(f"raised by {uid}")
            error.__cause__ = KeyError(uid)
            return error
        case 3:
            return StopIteration(uid)
    return ExceptionGroup("raised together", [ValueError(uid), KeyError(uid)])


def behave(name: str, do: tuple[Any, ...], x: Any, y: Any, r: Any) -> Any:
    uid, _, what, *more = do
    match what:
        case "value":
            return digest(x, y, r) % more[0]
        case "same":
            return x
        case "items":
            return list(range(digest(x, y, r) % more[0]))
        case "num":
            return more[0]
        case "none":
            return None
        case "raise":
            raise error_of(more[0], uid)
        case "flaky":
            key = f"{uid} {x!r} {y!r}"
            with STATE.lock:
                counts = r.counts if isinstance(r, Tally) else STATE.counts
                counts[key] += 1
                count = counts[key]
            if count <= more[0]:
                raise (ValueError if uid % 3 else LookupError)(f"not yet: {uid}, {count}")
            return count
        case "jump":
            return jumped(x, y, *more)
        case "tail":
            return tail(x, *more)
        case "expr":
            return build(STATE.level_subs[uid])
    raise AssertionError(do)


def number(x: Any) -> int:
    return x if type(x) is int else 2


def jumped(x: Any, y: Any, limit: int, plan: tuple[Any, ...], out: str) -> Any:
    n = number(x)
    if n >= limit:
        return cs.Jump("b", (n, y)) if out == "exit" else ("ended", n)
    key, form = plan[n % len(plan)]
    data: Any = {
        "next": n + 1,
        "dict": {"x": n + 1},
        "both": {"x": n + 1, "y": [n]},
        "y": {"y": n + 1},
        "none": None,
        "empty": {},
        "wrong": {"nothing": 1},
        "many": {"x": n + 1, "do": (9, (), "num", n)},
    }[form]
    return cs.Jump(key, data)


def tail(x: Any, limit: int, form: str) -> Any:
    n = number(x)
    if n >= limit:
        return ("done", n)
    match form:
        case "args":
            return cs.TailCall((n + 1,))
        case "kwargs":
            return cs.TailCall(kwargs={"x": n + 1})
        case "none":
            return cs.TailCall()
        case "wrong":
            return cs.TailCall((n + 1,), {"x": 1})
        case "unknown":
            return cs.TailCall(target="nowhere")
        case "overrides":
            return cs.TailCall((n + 1,), target="registered")
    return cs.TailCall(target="registered")


class TooLong(Exception):
    """Loops in loops take long: such a program is discarded."""


def note(name: str, do: Any, x: Any, y: Any, r: Any) -> None:
    if len(STATE.journal) >= LONGEST:
        raise TooLong
    STATE.journal.append(f"{name} {do} {x!r} {y!r} {r!r}")


async def suspend(do: tuple[Any, ...]) -> None:
    for deed in do[1]:
        if type(deed) is tuple and deed[0] == "native":
            await primitives.use(deed[1], is_caught=deed[2])
        elif type(deed) is tuple:
            act(deed)
        elif deed:
            await anyio.sleep(deed)
        else:
            await anyio.lowlevel.checkpoint()


def act(deed: tuple[Any, ...]) -> None:
    """Do what needs no waiting."""
    kind, *more = deed
    match kind:
        case "change":
            apply(STATE.engine, more[0])
        case "listen":
            STATE.subscriptions.append(listen(*more))
        case "leave" if STATE.subscriptions:
            STATE.subscriptions.pop()()


def apply(engine: cs.Engine, change: tuple[Any, ...]) -> None:
    """Change the constraints of an engine."""
    method, arguments, name = change
    named = {} if name is None else {"id": name}
    getattr(engine.constraints, method)(*arguments, **named)


def listen(event: str, raises: bool) -> Callable[[], object]:
    heard = STATE.heard

    def hear(event: Any) -> None:
        text = f"{type(event).__name__} {getattr(event, 'attempt', '')}"
        heard.setdefault(event.task_id, []).append(text)
        if raises:
            raise ValueError("cannot listen")

    return STATE.engine.bus.subscribe(getattr(cs, event), hear)  # type: ignore[no-any-return]


def sync_body(name: str) -> Callable[..., Any]:
    def body(x: Any = 0, y: Any = 0, r: Any = None, *, do: tuple[Any, ...]) -> Any:
        note(name, do, x, y, r)
        for deed in do[1]:
            act(deed)
        return behave(name, do, x, y, r)

    return body


def async_body(name: str) -> Callable[..., Any]:
    async def body(x: Any = 0, y: Any = 0, r: Any = None, *, do: tuple[Any, ...]) -> Any:
        note(name, do, x, y, r)
        await suspend(do)
        return behave(name, do, x, y, r)

    return body


sync = cs.task(sync_body("sync"), name="sync")
sync_pure = cs.task(sync_body("sync_pure"), name="sync_pure", pure=True)
co = cs.task(async_body("co"), name="co")
co_pure = cs.task(async_body("co_pure"), name="co_pure", pure=True)
threaded = cs.task(sync_body("threaded"), name="threaded", mode="thread")
threaded_pure = cs.task(sync_body("threaded_pure"), name="threaded_pure", mode="thread", pure=True)


@cs.task
def awaitable(x: Any = 0, y: Any = 0, r: Any = None, *, do: tuple[Any, ...]) -> Awaitable[Any]:
    async def value() -> Any:
        await suspend(do)
        return behave("awaitable", do, x, y, r)

    note("awaitable", do, x, y, r)
    return value()


@cs.task(mode="process")
def processed(x: Any = 0, y: Any = 0, r: Any = None, *, do: tuple[Any, ...]) -> Any:
    return behave("processed", do, x, y, r)


@dataclass(frozen=True)
class Body:
    """Its methods do the same; a map, which has no constants, has what to do from here."""

    do: tuple[Any, ...]

    @cs.task
    def method(self, x: Any = 0, y: Any = 0, r: Any = None) -> Any:
        note("method", self.do, x, y, r)
        for deed in self.do[1]:
            act(deed)
        return behave("method", self.do, x, y, r)

    @cs.task
    async def co_method(self, x: Any = 0, y: Any = 0, r: Any = None) -> Any:
        note("co_method", self.do, x, y, r)
        await suspend(self.do)
        return behave("co_method", self.do, x, y, r)

    @cs.task
    def item_sync(self, x: Any, y: Any = 0) -> Any:
        note("item_sync", self.do, x, y, None)
        for deed in self.do[1]:
            act(deed)
        return behave("item_sync", self.do, x, y, None)

    @cs.task(pure=True)
    def item_pure(self, x: Any, y: Any = 0) -> Any:
        note("item_pure", self.do, x, y, None)
        for deed in self.do[1]:
            act(deed)
        return behave("item_pure", self.do, x, y, None)

    @cs.task
    async def item_co(self, x: Any, y: Any = 0, r: Any = cs.inject("step")) -> Any:
        note("item_co", self.do, x, y, r)
        await suspend(self.do)
        return behave("item_co", self.do, x, y, r)

    @cs.task(pure=True)
    async def item_co_pure(self, x: Any, y: Any = 0) -> Any:
        note("item_co_pure", self.do, x, y, None)
        await suspend(self.do)
        return behave("item_co_pure", self.do, x, y, None)

    @cs.task(mode="thread")
    def item_threaded(self, x: Any, y: Any = 0) -> Any:
        note("item_threaded", self.do, x, y, None)
        for deed in self.do[1]:
            act(deed)
        return behave("item_threaded", self.do, x, y, None)

    @cs.task(mode="process")
    def item_processed(self, x: Any, y: Any = 0) -> Any:
        return behave("item_processed", self.do, x, y, None)


FUNCTIONS = {
    "sync": sync,
    "sync_pure": sync_pure,
    "co": co,
    "co_pure": co_pure,
    "threaded": threaded,
    "threaded_pure": threaded_pure,
    "awaitable": awaitable,
    "processed": processed,
}


# Handlers of failures


@cs.task
def handle(error: Exception) -> Any:
    return f"handled {type(error).__name__}"


@cs.task
async def co_handle(error: Exception) -> Any:
    await anyio.sleep(0.5)
    return f"handled {type(error).__name__} later"


@cs.task(pure=True)
def pure_handle(error: Exception) -> Any:
    return f"handled {type(error).__name__}"


@cs.task
def injecting_handle(error: Exception, r: Any = cs.inject("step")) -> Any:
    return f"handled {type(error).__name__} with {r!r}"


@cs.task
def failing_handle(error: Exception) -> Any:
    raise LookupError(f"cannot handle {type(error).__name__}")


@cs.task
def tail_handle(error: Exception, left: int = 2) -> Any:
    return cs.TailCall(kwargs={"left": left - 1}) if left else f"handled {type(error).__name__}"


@cs.task
def expression_handle(error: Exception) -> Any:
    return handle(error)


class Handlers:
    @cs.task
    def handle(self, error: Exception) -> Any:
        return f"handled {type(error).__name__} by a method"


HANDLERS: dict[str, Any] = {
    "sync": handle,
    "co": co_handle,
    "pure": pure_handle,
    "injecting": injecting_handle,
    "fails": failing_handle,
    "tail": tail_handle,
    "expression": expression_handle,
    "method": Handlers().handle,
}


# Resources


class Tally:
    """How often calls failed in one evaluation."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __repr__(self) -> str:
        return "a tally"


@cs.resource(name="tally", scope="step")
def tally_resource() -> Any:
    yield Tally()


@cs.resource(name="run")
def run_resource() -> Any:
    yield "of the run"


@cs.resource(name="step", scope="step")
def step_resource() -> Any:
    yield "of the step"


@cs.resource(name="task", scope="task")
def task_resource(outer: Any = cs.inject("outer")) -> Any:
    yield f"of the task, from {outer}"


@cs.resource(name="outer")
def outer_resource() -> Any:
    yield "outer"


@cs.resource(name="inner", scope="step")
async def inner_resource(outer: Any = cs.inject("outer")) -> Any:
    yield f"inner of {outer}"


@cs.resource(name="slow", scope="step")
async def slow_resource() -> Any:
    await anyio.sleep(1)
    yield "slow"
    await anyio.sleep(1)


@cs.resource(name="native", scope="step")
async def native_resource() -> Any:
    for name in ("group", "itself"):
        await primitives.use(name, is_caught=True)
    yield "native"
    await primitives.use("timeout", is_caught=True)


def broken(scope: Any) -> Any:
    @cs.resource(name=f"broken {scope}", scope=scope)
    def broken_resource() -> Any:
        raise OSError(f"no connection for the {scope}")
        yield

    return broken_resource


def leaky(scope: Any) -> Any:
    @cs.resource(name=f"leaky {scope}", scope=scope)
    def leaky_resource() -> Any:
        yield f"leaky {scope}"
        raise OSError(f"cannot close for the {scope}")

    return leaky_resource


@cs.resource(name="leaky async", scope="task")
async def leaky_async_resource() -> Any:
    try:
        yield "leaky async"
    finally:
        await anyio.sleep(0.5)
        raise OSError("cannot close, after a while")


SCOPES: tuple[Any, ...] = ("run", "step", "task")
PROVIDED = (
    *map(broken, SCOPES),
    *map(leaky, SCOPES),
    native_resource,
    leaky_async_resource,
    tally_resource,
    run_resource,
    step_resource,
    task_resource,
    outer_resource,
    inner_resource,
    slow_resource,
)


# Building


def build(program: Program) -> Any:
    """The target of `program`, made of new expressions."""
    return Builder().program(program)


@dataclass(frozen=True)
class Rows:
    """What a map reads while its items start, as often as it is asked."""

    values: tuple[Any, ...]

    def __iter__(self) -> Iterator[Any]:
        yield from self.values


@dataclass(frozen=True)
class LateRows:
    """The same, and each row takes a while."""

    values: tuple[Any, ...]

    async def __aiter__(self) -> AsyncIterator[Any]:
        for value in self.values:
            await anyio.sleep(0.25)
            yield value


class Builder:
    def __init__(self) -> None:
        self.built: list[Any] = []

    def program(self, program: Program) -> Any:
        for node in program.nodes:
            self.built.append(self.node(node))
        for node, expression in zip(program.nodes, self.built, strict=True):
            if node.bound is not None:
                routes = {
                    key: expression
                    if route == SELF
                    else None
                    if route is None
                    else self.built[route]
                    for key, route in node.bound
                }
                cs.bind(expression, cs.select_jump(routes))
            for method, *more in node.chain:
                if method == "after later":
                    expression.after(self.built[more[0]])
        return self.part(program.target)

    def part(self, part: Part) -> Any:
        kind, value = part
        match kind:
            case "lit":
                return value
            case "node":
                return self.built[value]
            case "list":
                return [self.part(each) for each in value]
            case "tuple":
                return tuple([self.part(each) for each in value])
            case "named":
                return Pair(*[self.part(each) for each in value])
            case "dict":
                return {key: self.part(each) for key, each in value}
            case "lazily":
                return cs.lazily(Rows(value))
            case "lazily async":
                return cs.lazily(LateRows(value))
            case "unmapped":
                return cs.unmapped(self.part(value))
            case "param":
                return declared(value)
            case "env":
                return cs.Env(value, "not set")
            case "inject":
                return cs.inject(value)
            case "handler":
                return HANDLERS[value]
        raise AssertionError(part)

    def node(self, node: Node) -> Any:
        args = {name: self.part(part) for name, part in node.args}
        match node.kind:
            case "call":
                return self.chained(self.call(node, args), node.chain)
            case "map":
                return self.chained(getattr(Body(node.do), node.task).map(**args), node.chain)
            case "router":
                return cs.Router(
                    routes={key: self.part(route) for key, route in node.routes}, **args
                )
            case "group":
                return self.chained(cs.group(args["0"]), node.chain)
            case "first":
                return self.chained(cs.first(*args.values()), node.chain)
            case "sequence":
                return cs.sequence([self.built[index] for index in node.members])
            case "pipeline":
                steps = [self.step(step) for step in node.steps]
                return cs.pipeline(args["initial"], steps)
        raise AssertionError(node)

    def step(self, node: Node) -> Callable[[Any], Any]:
        def step(value: Any) -> Any:
            args = {"x": value, **{name: self.part(part) for name, part in node.args}}
            return self.chained(self.call(node, args), node.chain)

        return step

    def call(self, node: Node, args: dict[str, Any]) -> Any:
        if node.task in FUNCTIONS:
            return FUNCTIONS[node.task](**args, do=node.do)
        return getattr(Body(node.do), node.task)(**args)

    def chained(self, lazy: Any, chain: tuple[tuple[Any, ...], ...]) -> Any:
        for method, *more in chain:
            match method:
                case "retry":
                    attempts, delay, backoff, on = more
                    pause = DELAYS[delay] if type(delay) is tuple else delay
                    lazy.with_retry(attempts, pause, backoff, on=ON[on])
                case "timeout":
                    lazy.with_timeout(more[0])
                case "concurrency":
                    lazy.with_concurrency(more[0])
                case "cache":
                    lazy.with_cache(cache(more[0]))
                case "amounts":
                    lazy.with_constraints(**{more[0]: self.part(more[1])})
                case "run_if":
                    default = {"default": self.part(more[1])} if len(more) > 1 else {}
                    lazy.run_if(self.part(more[0]), **default)
                case "after":
                    lazy.after(self.built[more[0]])
                case "fallback":
                    lazy.with_fallback(self.part(more[0]), on=ON[more[1]])
                case "settled":
                    lazy.settled(on=ON[more[0]])
        return lazy


def is_retried(error: BaseException) -> bool:
    return "2" not in str(error)


def cannot_say(error: BaseException) -> bool:
    raise LookupError(f"cannot say whether {error} is retried")


def growing(error: BaseException, attempt: int) -> float:
    return 0.5 * attempt


def no_pause(error: BaseException, attempt: int) -> float:
    return 0


def ended(error: BaseException, attempt: int) -> float | None:
    return 0.5 if attempt < 2 else None


def ended_at_once(error: BaseException, attempt: int) -> float | None:
    return 0 if attempt < 2 else None


ON: dict[str, Any] = {
    "Exception": Exception,
    "narrow": (ValueError, TimeoutError),
    "function": is_retried,
    "raises": cannot_say,
}
DELAYS: dict[Any, Any] = {
    ("growing", 0.5): growing,
    ("growing", 0.0): no_pause,
    ("ended", 0.5): ended,
    ("ended", 0.0): ended_at_once,
}


def cache(kind: str) -> Any:
    """All nodes share the memory; what forgets serves one node."""
    match kind:
        case "memory":
            return STATE.memory
        case "tiny":
            return cs.InMemoryCache(1)
        case "forgets":
            return Forgets()
        case "bad get":
            return BadGet()
    return BadPut()


def declared(name: str) -> Any:
    if name == "number":
        return cs.Param("number", 3, int)
    if name == "flag":
        return cs.Param("flag", "no", bool)
    return cs.Param("text", "word")
