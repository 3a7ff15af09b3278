"""What type checkers must accept, and the types that they must find. Read by them, never run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, assert_type

import cascade as cs

# Tasks: of plain and async functions, methods, callables, with and without options.


@cs.task
def double(x: int) -> int:
    return 2 * x


@cs.task
async def fetch(page: int, *, retries: int = 3) -> str:
    return f"{page} {retries}"


@cs.task(mode="thread", pure=True, name="slow", version=2)
def parse(text: str) -> list[str]:
    return text.split()


@cs.task(pure=True)
async def measure(text: str) -> float | None:
    return float(len(text)) or None


@cs.task
def remember(text: str) -> None: ...


class Client:
    @cs.task
    def get(self, key: str) -> bytes:
        return key.encode()

    @cs.task(name="put")
    async def put(self, key: str, value: bytes) -> bool:
        return bool(value)


client = Client()
root = cs.task(math.sqrt, name="root")

assert_type(double(1), cs.LazyResult[int])
assert_type(fetch(1, retries=2), cs.LazyResult[str])
assert_type(parse("a b"), cs.LazyResult[list[str]])
assert_type(measure("a"), cs.LazyResult[float | None])
assert_type(remember("a"), cs.LazyResult[None])
assert_type(root(2), cs.LazyResult[float])
assert_type(client.get("a"), cs.LazyResult[bytes])
assert_type(Client.get(client, "a"), cs.LazyResult[bytes])
assert_type(client.put("a", b""), cs.LazyResult[bool])
assert_type(double.name, str)
assert_type(client.get.name, str)
assert_type(double.pure, bool)

# An expression may stand where the task takes its value.

assert_type(double(double(1)), cs.LazyResult[int])
assert_type(parse(fetch(cs.Param("page", type=int))), cs.LazyResult[list[str]])
assert_type(client.put("a", client.get("b")), cs.LazyResult[bool])

# Maps.

assert_type(fetch.map(page=range(3)), cs.MappedLazyResult[str])
assert_type(parse.map(text=fetch.map(page=[1, 2])), cs.MappedLazyResult[list[str]])
assert_type(client.get.map(key=["a"]), cs.MappedLazyResult[bytes])
assert_type(fetch.map(page=[1], retries=cs.unmapped(double(2))), cs.MappedLazyResult[str])
assert_type(
    fetch.map(page=cs.lazily(n for n in range(3))).with_concurrency(2), cs.MappedLazyResult[str]
)
assert_type(cs.run(fetch.map(page=range(3))), list[str])

# Chain methods keep the type.

cache = cs.InMemoryCache()
chained = (
    fetch(1)
    .with_retry(max_attempts=3, delay=0.1, backoff=2, max_delay=9, jitter=0.5, on=OSError)
    .with_timeout(5)
    .with_cache(cache)
    .with_constraints(gpu=1, memory_gb=double(2))
    .run_if(double(1), default="none")
    .after(remember("a"), fetch.map(page=[1]), cs.Param("later"))
)
assert_type(chained, cs.LazyResult[str])
assert_type(chained.copy().with_retry(2, on=(OSError, ValueError)), cs.LazyResult[str])
assert_type(fetch.map(page=[1]).copy(), cs.MappedLazyResult[str])
assert_type(
    fetch.map(page=[1]).with_retry().with_timeout(1).run_if(True).after(double(1)),
    cs.MappedLazyResult[str],
)

# Putting expressions together.

assert_type(cs.sequence([double(1), double(2)]), cs.LazyResult[int])
assert_type(cs.sequence((double(1), remember("a"), fetch(1))), cs.LazyResult[str])
assert_type(cs.sequence([cs.Param("a"), double(2)]), Any)
assert_type(cs.pipeline(1, [double, double]), cs.LazyResult[int])
assert_type(cs.pipeline(1, (double, fetch, parse)), cs.LazyResult[list[str]])
cs.pipeline(1, [lambda x: double(x).run_if(x), double])
cs.pipeline(1, [double, fetch])
steps: list[Callable[[Any], Any]] = []
assert_type(cs.pipeline(1, steps), Any)

same = cs.Router(selector=fetch(1), routes={"a": double(1), "b": double(2)})
assert_type(same, cs.Router[int])
assert_type(same.copy(), cs.Router[int])
assert_type(cs.run(same), int)
assert_type(cs.Router(fetch(1), {"a": double(1)}, default=double(2)), cs.Router[int])
assert_type(cs.Router(fetch(1), {"a": 1, "b": double(2)}), cs.Router[Any])
assert_type(cs.Router(fetch(1), {"a": double(1)}, default=None), cs.Router[Any])

# Inputs.

assert_type(cs.Param("name"), cs.Param[str])
assert_type(cs.Param("name", "default", description="who"), cs.Param[str])
assert_type(cs.Param("count", 3), cs.Param[int])
assert_type(cs.Param("share", default=0.5, description="of all"), cs.Param[float])
assert_type(cs.Param("loud", False), cs.Param[bool])
assert_type(cs.Param("maybe", None), cs.Param[str | None])
assert_type(cs.run(cs.Param("loud", False)), bool)
assert_type(cs.Param("count", type=int), cs.Param[int])
assert_type(cs.Param("count", 3, int, "how many"), cs.Param[int])
assert_type(cs.Param("count", default=3, type=int), cs.Param[int])
assert_type(cs.Param("count", default=None, type=int), cs.Param[int | None])
assert_type(cs.run(cs.Param("flag", default=False, type=bool)), bool)
assert_type(cs.run(cs.Env("HOME")), str)
assert_type(cs.parameters(double(1)), list[cs.Param[Any] | cs.Env])

# Loops, tail calls, returned expressions: the type is that of the value they end with.


@cs.task
def step(n: int) -> int | cs.Jump:
    return cs.Jump("again", n - 1) if n else n


@cs.task
def turn(n: int) -> cs.Jump:
    return cs.Jump("done", n)


@cs.task
async def gcd(a: int, b: int) -> int | cs.TailCall:
    return cs.TailCall((b, a % b)) if b else a


@cs.task
def delegate(x: int) -> cs.LazyResult[int]:
    return double(x)


@cs.task(pure=True)
async def spread(pages: list[int]) -> cs.MappedLazyResult[str]:
    return fetch.map(page=pages)


@cs.task
def shrink(x: int) -> int | cs.LazyResult[int]:
    return double(x) if x else 0


@cs.task
def search(x: int) -> str | cs.Jump | cs.TailCall | None:
    return None


loop = step(3)
assert_type(loop, cs.LazyResult[int])
assert_type(cs.bind(loop, cs.select_jump({"again": loop, "done": None})), cs.LazyResult[Any])
assert_type(turn(1), cs.LazyResult[Any])
assert_type(gcd(1071, 462), cs.LazyResult[int])
assert_type(delegate(1), cs.LazyResult[int])
assert_type(spread([1]), cs.LazyResult[list[str]])
assert_type(shrink(1), cs.LazyResult[int])
assert_type(search(1), cs.LazyResult[str | None])

# Running gives the value.

assert_type(cs.run(double(1)), int)
assert_type(cs.run(double(1), use_vm=True, backend="trio", params={"n": 1}, max_steps=3), int)
assert_type(cs.run(remember("a")), None)
assert_type(cs.run([double(1), fetch(1)]), Any)


async def main() -> None:
    assert_type(await cs.run_async(fetch(1), system_resources={"gpu": 2}), str)
    limit = cs.GlobalConstraint("c", "global", "concurrency", {"limit": 1})
    engine = cs.Engine(constraints=[limit])
    assert_type(await engine.run(parse("a"), use_vm=True), list[str])
    assert_type(await engine.run(parse("a"), resources=[], progress=True), list[str])
    assert_type(await engine.run(fetch.map(page=[1])), list[str])
    pages = fetch.map(page=[1])
    async with engine.stream(pages, use_vm=True, buffer=5) as of_map:
        assert_type(await of_map.value(), list[str])
        async for page in of_map:
            assert_type(page, cs.Item[str])
            assert_type(page.value, str)
    async with engine.stream(parse(pages), items=[pages]) as within:
        assert_type(await within.value(), list[str])
        assert_type(await anext(within), cs.Item[str])
    assert_type(engine.constraints.limit_rate("global", "5/s", burst=2), str)
    blueprint, data = cs.BlueprintBuilder().build(double(1))
    assert_type(blueprint, cs.Blueprint)
    assert_type(await cs.VirtualMachine(engine).execute(blueprint, data), Any)


# Events, resources, and what a user implements.


@cs.resource
def connection() -> Iterable[str]:
    yield "open"


@cs.resource(name="pool", scope="step")
def make_pool(inner: str = cs.inject("connection")) -> Iterable[str]:
    yield inner


assert_type(connection, cs.ResourceDefinition)
assert_type(make_pool, cs.ResourceDefinition)


@cs.task
def query(key: str, table: dict[str, int] = cs.inject("pool")) -> int:
    return table[key]


assert_type(query("a"), cs.LazyResult[int])


@cs.task
def pay(amount: int, execution: cs.Execution = cs.inject("execution")) -> str:
    assert_type(execution.attempt, int)
    return execution.key


assert_type(pay(5), cs.LazyResult[str])


def show(event: cs.TaskSkipped) -> None:
    assert_type(event.reason, str)


assert_type(cs.MessageBus().subscribe(cs.TaskSkipped, show), Callable[[], None])


class Stages:
    def resolve(self, graph: cs.Graph) -> cs.ExecutionPlan:
        assert_type(graph.nodes[0].task, cs.Task[..., Any])
        return [[node] for node in graph.nodes]


@dataclass
class Job:
    work: cs.Task[..., int]


call: Callable[[int], cs.LazyResult[int]] = double
solver: cs.Solver = Stages()
policy: cs.CachePolicy = cs.FileExistenceCache("a")
backend: cs.StateBackend = cs.InMemoryStateBackend()
executor: cs.Executor = cs.LocalExecutor()
assert_type(Job(double).work(1), cs.LazyResult[int])
