"""Burr: applications built once, without tracker, persister and hooks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import work
from burr.core import Application, ApplicationBuilder, ApplicationContext, State, action, when
from burr.core.parallelism import MapStates, RunnableGraph
from rounds import NotOffered, Peer, Way, main
from work import Size


@action(reads=["n"], writes=["n"])
def count_down(state: State) -> State:
    return state.update(n=work.count_down(state["n"]))


@action(reads=["value"], writes=["value"])
def inc(state: State) -> State:
    return state.update(value=work.inc(state["value"]))


@action(reads=["n", "value", "amount"], writes=["n", "value", "amount"])
def add_up(state: State) -> State:
    amount = work.add_up(state["amount"], state["value"])
    return state.update(n=work.count_down(state["n"]), value=0, amount=amount)


@action(reads=["n", "amount"], writes=["amount"])
def end(state: State) -> State:
    return state


@action(reads=["x"], writes=["part"])
def inc_part(state: State) -> State:
    return state.update(part=work.inc(state["x"]))


@action(reads=["x"], writes=["part"])
async def inc_part_async(state: State) -> State:
    return state.update(part=work.inc(state["x"]))


class Mapped(MapStates):
    """Runs `part` on as many states as `count` says, and totals what comes."""

    def __init__(self, part: Any, count: int) -> None:
        super().__init__()
        self.part = RunnableGraph.create(part)  # once, not for each state
        self.count = count

    def action(self, state: State, inputs: dict[str, Any]) -> RunnableGraph:
        return self.part

    def states(
        self, state: State, context: ApplicationContext, inputs: dict[str, Any]
    ) -> Generator[State, None, None]:
        for x in range(self.count):
            yield state.update(x=x)

    def reduce(self, state: State, states: Generator[State, None, None]) -> State:
        return state.update(total=work.total([part["part"] for part in states]))

    @property
    def reads(self) -> list[str]:
        return []

    @property
    def writes(self) -> list[str]:
        return ["total"]


class AsyncMapped(Mapped):
    """`Mapped` for async parts: `asyncio.gather` instead of the executor's threads."""

    def is_async(self) -> bool:
        return True

    async def reduce(self, state: State, states: AsyncGenerator[State, None]) -> State:
        return state.update(total=work.total([part["part"] async for part in states]))


def loop(size: Size) -> Sequence[Way]:
    app = (
        ApplicationBuilder()
        .with_actions(count_down=count_down, end=end)
        .with_transitions(
            ("count_down", "count_down", ~when(n=0)),
            ("count_down", "end"),
        )
        .with_state(n=size.loop, amount=0)
        .with_entrypoint("count_down")
        .build()
    )
    return [Way("an action with a transition to itself", runner(app, "end", "n"))]


def loop_with_chain(size: Size) -> Sequence[Way]:
    names = [f"inc{x}" for x in range(size.chain_in_loop)]
    app = (
        ApplicationBuilder()
        .with_actions(**dict.fromkeys(names, inc), add_up=add_up, end=end)
        .with_transitions(
            *zip(names, [*names[1:], "add_up"], strict=True),
            ("add_up", names[0], ~when(n=0)),
            ("add_up", "end"),
        )
        .with_state(n=size.loop_with_chain, value=0, amount=0)
        .with_entrypoint(names[0])
        .build()
    )
    how = "an action for each call, and a conditional transition back to the first"
    return [Way(how, runner(app, "end", "amount"))]


def chain(size: Size) -> Sequence[Way]:
    names = [f"inc{x}" for x in range(size.chain)]
    app = (
        ApplicationBuilder()
        .with_actions(**dict.fromkeys(names, inc))
        .with_transitions(*pairwise(names))
        .with_state(value=0)
        .with_entrypoint(names[0])
        .build()
    )
    return [Way("an action for each call", runner(app, names[-1], "value"))]


def fan_out(size: Size) -> Sequence[Way]:
    app = application(Mapped(inc_part, size.fan_out))
    async_app = application(AsyncMapped(inc_part_async, size.fan_out))
    return [
        Way("`MapStates` in threads", runner(app, "mapped", "total")),
        Way("`MapStates`, async", async_runner(async_app, "mapped", "total")),
    ]


def at_once(size: Size) -> Sequence[Way]:
    @action(reads=["x"], writes=["part"])
    def nap(state: State) -> State:
        return state.update(part=work.nap_in_thread(state["x"], size.nap))

    app = application(Mapped(nap, size.at_once), lambda: ThreadPoolExecutor(size.limit))
    how = "`MapStates` and `with_parallel_executor`: as many threads"
    return [Way(how, runner(app, "mapped", "total"))]


def application(mapped: Mapped, executor: Callable[[], Any] | None = None) -> Application:
    builder = ApplicationBuilder().with_actions(mapped=mapped).with_entrypoint("mapped")
    if executor is not None:
        builder = builder.with_parallel_executor(executor)
    return builder.with_state(total=0).build()


def runner(app: Application, last: str, key: str) -> Callable[[], object]:
    begin = app.state

    def run() -> object:
        app.update_state(begin)
        app.reset_to_entrypoint()
        return app.run(halt_after=[last])[2][key]

    return run


def async_runner(app: Application, last: str, key: str) -> Callable[[], Any]:
    begin = app.state

    async def run() -> object:
        app.update_state(begin)
        app.reset_to_entrypoint()
        return (await app.arun(halt_after=[last]))[2][key]

    return run


PEER = Peer(
    "burr",
    {
        "loop": loop,
        "loop_with_chain": loop_with_chain,
        "chain": chain,
        "fan_out": fan_out,
        "at_once": at_once,
        "rate": NotOffered("a limiter in the action"),
    },
    ["burr"],
)

if __name__ == "__main__":
    main(PEER)
