"""What type checkers must flag: each line that ends with `# error`, and no other. Never run."""

from __future__ import annotations

from typing import Any

import cascade as cs


@cs.task
def double(x: int) -> int:
    return 2 * x


@cs.task
async def fetch(page: int) -> str:
    return str(page)


class Client:
    @cs.task
    def get(self, key: str) -> bytes:
        return key.encode()


lazy = double(1)

# An expression is not its value.

lazy + 1  # error
lazy.bit_length()  # error
lazy[0]  # error
len(lazy)  # error
number: int = lazy  # error
text: str = cs.run(lazy)  # error
for each in lazy:  # error
    print(each)


async def main() -> None:
    await lazy  # error
    word = await cs.run_async(fetch(1))
    word.decode()  # error
    data = await cs.Engine().run(Client().get("a"))
    data.encode()  # error


# The wrong kind of thing.

cs.task(3)  # error
cs.task(double.func, mode="fork")  # error
cs.task(double.func, modes="thread")  # error
double.map([1, 2])  # error
double.map(cs.unmapped(1))  # error
cs.lazily(5)  # error
double(1).with_concurrency(2)  # error
mapped: cs.MappedLazyResult[str] = double.map(x=cs.unmapped(1))  # error
lazy.with_retry(max_attempts="3")  # error
lazy.with_retry(attempts=3)  # error
lazy.with_retry(on="OSError")  # error
lazy.with_timeout("5 s")  # error
lazy.with_cache(3)  # error
lazy.with_cache(cs.InMemoryCache)  # error
lazy.run_if(lazy, otherwise=0)  # error
lazy.after(3)  # error
lazy.with_retries()  # error
copied: cs.LazyResult[str] = lazy.copy()  # error
cs.sequence([1, 2])  # error
cs.pipeline(1, [1])  # error
cs.Router(lazy, [double(1)])  # error
cs.select_jump({"again": 3})  # error
cs.bind(double, cs.select_jump({}))  # error
cs.bind(lazy, {"again": lazy})  # error
cs.Param(3)  # error
cs.Param("n", type="int")  # error
wrong: cs.Param[int] = cs.Param("n")  # error
other: cs.Param[str] = cs.Param("n", 3)  # error
cs.resource(scope="runs")  # error
cs.MessageBus().subscribe(int, print)  # error

cs.Execution("run").key = "k"  # error

# Options that are not there.

cs.run(lazy, backnd="trio")  # error
cs.run(lazy, max_steps="3")  # error
cs.Engine(resource=[])  # error
cs.Engine(tail_calls="never")  # error


async def options() -> Any:
    await cs.Engine().run(lazy, system_resources={"gpu": 1})  # error
    await cs.Engine().run(lazy, progress="yes")  # error
    return await cs.run_async(lazy, backend="trio")  # error
