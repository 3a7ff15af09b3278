"""Section 16: programs drawn at random do the same under both strategies, on both event loops.

A program is drawn from a tape of small numbers, so that a failing one shrinks to a short tape.
`python -P tests/test_differential.py N [SEED]` (`make differential N=...`) runs N programs.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cascade as cs
from cascade.agreement import Observation
from cascade.testing import assert_strategies_agree, virtual_time
from cascade.vm.isa import TABLE

COMBINATIONS = [(vm, backend) for backend in ("asyncio", "trio") for vm in (False, True)]
LONGEST = 400  # virtual seconds: a program that hangs fails
MOST_NODES = 9


class Tape:
    """Choices, one number each; at its end the first choice is taken."""

    def __init__(self, numbers: list[int]) -> None:
        self._numbers: Iterator[int] = iter(numbers)

    def below(self, n: int) -> int:
        return next(self._numbers, 0) % n

    def pick(self, *choices: Any) -> Any:
        return choices[self.below(len(choices))]

    def rarely(self, one_in: int) -> bool:
        return self.below(one_in) == one_in - 1


class Program:
    """One program, made from a tape: the same tape makes the same program."""

    def __init__(self, numbers: list[int]) -> None:
        self.tape = Tape(numbers)
        self.calls: Counter[str] = Counter()
        self.used: set[str] = set()
        self.has_failure = False
        self.nodes: list[Any] = []
        # A flaky task counts its calls, so nothing else may call it at the same time.
        self.may_be_flaky = bool(self.tape.below(2))
        self.targets: dict[str, Any] = {}
        self.resources = [self.resource(scope) for scope in ("run", "step", "task")]
        self.shared = [cs.task(self.plain(f"pure{i}"), name=f"pure{i}", pure=True) for i in "ab"]
        for _ in range(1 + self.tape.below(MOST_NODES)):
            self.nodes.append(self.node(len(self.nodes)))
        self.targets["elsewhere"] = self.simple("elsewhere")(7, 0)
        self.target = self.whole()
        self.schedule = self.constraint_schedule()
        self.cancel_at = None
        if not self.schedule and self.tape.rarely(12):
            self.use("cancel")
            self.cancel_at = self.tape.below(4) + 0.25

    def use(self, construct: str) -> None:
        self.used.add(construct)

    # Functions

    def took_down(self, name: str, *values: Any) -> int:
        """The value of a task: what it was given, as a number."""
        self.calls[f"{name}{values!r}"] += 1
        return sum(ord(c) for c in f"{name}{values!r}") % 97

    def plain(self, name: str) -> Callable[..., int]:
        return lambda x=0, y=0: self.took_down(name, x, y)

    def simple(self, name: str) -> cs.Task[..., Any]:
        return cs.task(self.plain(name), name=name)

    def resource(self, scope: str) -> Any:
        @cs.resource(name=scope, scope=scope)  # type: ignore[arg-type]
        def provided() -> Iterator[str]:
            yield f"<{scope}>"

        return provided

    def function(self, name: str) -> tuple[Callable[..., Any], str]:
        """A function, and the mode for its task."""
        kind = self.tape.pick("inline", "inline", "async", "async", "thread", "flaky", "awaitable")
        if kind == "flaky" and not self.may_be_flaky:
            kind = "inline"
        self.use(kind)
        if kind in ("inline", "thread"):
            if kind == "thread" and not self.tape.rarely(4):
                kind = "inline"
            return self.plain(name), kind
        if kind == "flaky" and self.may_be_flaky:
            return self.flaky(name), "inline"
        seconds = self.tape.below(3)

        async def sleeping(x: Any = 0, y: Any = 0) -> int:
            await anyio.sleep(seconds)
            return self.took_down(name, x, y)

        return (lambda x=0, y=0: sleeping(x, y)) if kind == "awaitable" else sleeping, "inline"

    def flaky(self, name: str) -> Callable[..., int]:
        """Fails at first for each arguments; for ever in at most one node of a program."""
        fails = 1 + self.tape.below(2)
        if not self.has_failure and self.tape.rarely(6):
            self.has_failure, fails = True, 10**9
            self.use("failure")
        failed: Counter[str] = Counter()

        def flaky(x: Any = 0, y: Any = 0) -> int:
            key = repr((x, y))
            failed[key] += 1
            if failed[key] % (fails + 1):
                raise ValueError(f"boom {name}")
            return self.took_down(name, x, y)

        flaky.fails = fails  # type: ignore[attr-defined]
        return flaky

    # Operands

    def operand(self, depth: int = 0) -> Any:
        kinds = ["literal", "node", "node", "node", "pure"]
        if depth < 2:
            kinds += ["list", "tuple", "dict", "router", "param", "inject"]
        kind = self.tape.pick(*kinds)
        self.use(kind)
        if kind == "literal" or (kind == "node" and not self.nodes):
            return self.tape.pick(0, 1, "text", None)
        if kind == "node":
            return self.nodes[-1 - self.tape.below(len(self.nodes))]
        if kind == "pure":
            return self.tape.pick(*self.shared)(self.tape.below(2), self.operand(2))
        if kind == "param":
            return cs.Param("n", default=3, type=int)
        if kind == "inject":
            return cs.inject(self.tape.pick("run", "step", "task"))
        if kind == "router":
            return self.router(depth)
        members = [self.operand(depth + 1) for _ in range(1 + self.tape.below(3))]
        if kind == "dict":
            return dict(zip("abc", members, strict=False))
        return members if kind == "list" else tuple(members)

    def condition(self) -> Any:
        """What is no resource of the scope "task", which nothing but an attempt may hold."""
        kind = self.tape.pick("literal", "node", "odd", "pure")
        if kind == "literal" or (kind != "pure" and not self.nodes):
            return self.tape.pick(True, False)
        if kind == "pure":
            return self.shared[0](self.tape.below(2))
        node = self.nodes[-1 - self.tape.below(len(self.nodes))]
        return cs.task(lambda value: bool(len(repr(value)) % 2), name="odd")(node)

    def router(self, depth: int) -> Any:
        keys = [False, True]
        if not self.has_failure and self.tape.rarely(25):
            self.has_failure = True
            self.use("unknown route")
            keys = [None]
        routes = {key: self.operand(depth + 1) for key in keys}
        selector = cs.task(lambda value: bool(value), name="select")(self.condition())
        if self.tape.rarely(3) and len(routes) > 1:
            del routes[self.tape.pick(False, True)]
            return cs.Router(selector, routes, default=self.operand(depth + 1))
        return cs.Router(selector, routes)

    # Nodes

    def node(self, position: int) -> Any:
        name = f"n{position}"
        kind = self.tape.pick("task", "task", "task", "map", "loop", "tail", "returned", "pipeline")
        if self.may_be_flaky and kind in ("loop", "tail", "returned"):
            kind = "task"
        self.use(kind)
        if kind == "map":
            return self.policies(self.map(name), f"{name}", "map")
        if kind == "loop":
            return self.chained(self.loop(name))
        if kind == "tail":
            return self.chained(self.tail(name))
        if kind == "returned":
            return self.chained(self.returned(name))
        if kind == "pipeline":
            steps = [self.simple(f"{name}{i}") for i in "pq"]
            skipping = self.condition()
            return cs.pipeline(
                self.operand(), [steps[0], lambda before: steps[1](before).run_if(skipping)]
            )
        function, mode = self.function(name)
        task = cs.task(function, name=name, mode=mode, pure=self.tape.rarely(4))
        return self.policies(task(self.operand(), y=self.operand()), name, function)

    def map(self, name: str) -> Any:
        function, mode = self.function(name)
        while hasattr(function, "fails"):  # how often an item fails would depend on the order
            function, mode = self.plain(name), "inline"
        task = cs.task(function, name=name, mode=mode)
        items = [self.operand(2) if self.tape.below(2) else i for i in range(self.tape.below(4))]
        if self.tape.below(2):
            items = cs.task(lambda n: [n] * 2, name=f"{name}items")(self.operand(2))
        return task.map(x=items)

    def loop(self, name: str) -> Any:
        limit = 1 + self.tape.below(3)
        ends_with = self.tape.pick("exit", "value", "router", "other")
        self.use(f"loop {ends_with}")

        def step(n: Any = 0, x: Any = 0) -> Any:
            value = self.took_down(name, n, x)
            n = n if isinstance(n, int) else 0
            if n < limit:
                return cs.Jump("again", self_data(n + 1))
            if ends_with == "value":
                return value
            return cs.Jump(ends_with, value if ends_with == "exit" else None)

        as_dict = self.tape.below(2)

        def self_data(n: int) -> Any:
            return {"n": n, **({"x": n} if limit == 2 else {})} if as_dict else n

        node = cs.task(step, name=name)(self.tape.pick(0, 0, self.operand()), self.operand())
        other = self.policies(self.simple(f"{name}other")(self.operand()), f"{name}other", None)
        routes = {"again": node, "exit": None, "other": other}
        routes["router"] = cs.Router(
            self.condition(), {True: other, False: self.operand(2)}, default=self.operand(2)
        )
        return cs.bind(node, cs.select_jump(routes))

    def tail(self, name: str) -> Any:
        target = self.tape.pick(None, None, "elsewhere")
        limit = 1 + self.tape.below(3)

        def tail(n: Any = 0, x: Any = 0) -> Any:
            value = self.took_down(name, n, x)
            n = n if isinstance(n, int) else 0
            if n < limit:
                return cs.TailCall((n + 1,))
            return value if target is None else cs.TailCall((n,), target=target)

        return cs.task(tail, name=name)(self.tape.pick(0, 0, self.operand()), self.operand())

    def returned(self, name: str) -> Any:
        """Its task returns an expression: made when the program is, evaluated anew each time."""
        inner = self.tape.pick(*self.nodes, self.simple(f"{name}inner")(1, self.operand(2)))
        expression = inner if hasattr(inner, "task") else self.simple(f"{name}inner")(inner)

        def returning(x: Any = 0) -> Any:
            self.took_down(name, x)
            return expression

        return cs.task(returning, name=name)(self.operand(2))

    def chained(self, node: Any) -> Any:
        if self.tape.rarely(4):
            self.use("condition")
            node.run_if(self.condition())
        if self.tape.rarely(4) and self.nodes:
            self.use("after")
            node.after(*[n for n in [self.operand(2)] if isinstance(n, cs.LazyResult)])
        return node

    def policies(self, node: Any, name: str, function: Any) -> Any:
        fails = getattr(function, "fails", 0)
        if fails:
            delay = self.tape.below(3)
            node.with_retry(4, delay=delay, backoff=2)
        if function != "map" or self.tape.below(2):
            self.guards(node)
        if self.tape.rarely(4):
            self.use("cache")
            node.with_cache(cs.InMemoryCache())
        if self.tape.rarely(4):
            self.use("amounts")
            amount = self.tape.pick(1, 2, 1.5, cs.task(lambda: 2, name=f"{name}amount")())
            node.with_constraints(slots=amount)
        if node.task.is_async and self.tape.rarely(4):
            self.use("timeout")
            node.with_timeout(50)
        return node

    def guards(self, node: Any) -> None:
        for _ in range(2):
            if self.tape.rarely(4):
                self.use("condition")
                if self.tape.below(2):
                    self.use("default")
                    node.run_if(self.condition(), default=self.operand())
                else:
                    node.run_if(self.condition())
        if self.tape.rarely(4):
            self.use("after")
            candidates = [n for n in self.nodes if isinstance(n, cs.LazyResult)]
            node.after(*candidates[-1 - self.tape.below(2) :])

    def whole(self) -> Any:
        kind = self.tape.pick("last", "all", "dict", "router", "sequence")
        self.use(f"target {kind}")
        if kind == "all":
            return list(self.nodes)
        if kind == "dict":
            return {"last": self.nodes[-1], "other": self.operand(1)}
        if kind == "router":
            return self.router(0)
        if kind == "sequence":
            return cs.sequence([self.simple("first")(0), self.simple("second")(self.nodes[-1])])
        return self.nodes[-1]

    def constraint_schedule(self) -> list[tuple[float, str, str]]:
        if not self.tape.rarely(5):
            return []
        self.use("constraints")
        steps = []
        for position in range(1 + self.tape.below(3)):
            kind = self.tape.pick("pause", "limit", "rate")
            steps.append((position * 0.5, kind, self.tape.pick("global", "task:n*", "task:n1")))
        return steps

    # Execution

    async def change_constraints(self, engine: cs.Engine) -> None:
        constraints = engine.constraints
        for pause, kind, scope in self.schedule:
            await anyio.sleep(pause)
            if kind == "pause":
                constraints.pause(scope, ttl=3)
            elif kind == "limit":
                constraints.limit_concurrency(scope, 1)
            else:
                constraints.limit_rate(scope, 2, burst=1)

    async def run(self, engine: cs.Engine, use_vm: bool, seen: Observation) -> None:
        for name, target in self.targets.items():
            engine.register_target(name, target)
        for definition in self.resources:
            engine.register(definition)
        try:
            with anyio.move_on_after(
                LONGEST if self.cancel_at is None else self.cancel_at
            ) as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(self.change_constraints, engine)
                    try:
                        seen.value = await engine.run(self.target, use_vm=use_vm)
                    except Exception as error:
                        seen.failed(error)
                    group.cancel_scope.cancel()
            if scope.cancelled_caught:
                seen.error = ("cancelled",)
        finally:
            assert engine.constraints.statistics().parked == 0


def observe(numbers: list[int], use_vm: bool, backend: str) -> tuple[Observation, Program]:
    program = Program(numbers)
    seen = Observation()
    bus = cs.MessageBus()
    seen.watch(bus)
    engine = cs.Engine(bus=bus, system_resources={"slots": 3})
    anyio.run(
        program.run, engine, use_vm, seen, backend=backend, backend_options=virtual_time(backend)
    )
    seen.calls = program.calls
    return seen, program


def check(numbers: list[int]) -> Program:
    """Raise `AssertionError` if the program of these numbers is not the same everywhere."""
    first, program = observe(numbers, *COMBINATIONS[0])
    for use_vm, backend in COMBINATIONS[1:]:
        seen, _ = observe(numbers, use_vm, backend)
        found = first.differences(seen)
        assert not found, (
            f"graph on asyncio and {'vm' if use_vm else 'graph'} on {backend}: {found}"
        )
    assert first.error != ("cancelled",) or program.cancel_at is not None, "the program hangs"
    return program


@settings(max_examples=400)
@given(st.lists(st.integers(0, 255), max_size=160))
def test_programs_do_the_same_everywhere(numbers: list[int]) -> None:
    """Value or error, attempts, skips, events of each node, resources: all the same."""
    check(numbers)


def test_the_programs_cover_the_instructions() -> None:
    """Every instruction comes up in the programs that are drawn, and pairs of constructs do."""
    source = random.Random(1)
    seen: set[str] = set()
    pairs: set[tuple[str, str]] = set()
    for number in range(6000):
        program = Program([source.randrange(256) for _ in range(160)])
        if number < 500:
            blueprint, _ = cs.BlueprintBuilder().build(program.target)
            seen.update(row.mnemonic for routine in blueprint.routines for row in routine.code)
        pairs.update((one, other) for one in program.used for other in program.used)
    assert seen == set(TABLE) - {"process"}  # a worker process has its own tests
    constructs = {one for one, _ in pairs}
    missing = {(a, b) for a in constructs for b in constructs if a < b} - pairs
    exclusive = {frozenset(pair) for pair in missing if not may_meet(*pair)}
    assert {frozenset(pair) for pair in missing} == exclusive


def may_meet(one: str, other: str) -> bool:
    """Whether two constructs can be in one program."""
    if {one, other} in ({"failure", "unknown route"}, {"cancel", "constraints"}):
        return False
    for flaky, again in ((one, other), (other, one)):
        if flaky in ("flaky", "failure") and again.split()[0] in ("loop", "tail", "returned"):
            return False
    return not (one.startswith("target") and other.startswith("target"))


def test_a_difference_is_told() -> None:
    """`assert_strategies_agree` names what differs."""
    values = iter(range(100))

    @cs.task
    def other_every_time() -> int:
        return next(values)

    with pytest.raises(AssertionError, match="graph and VM differ in value: 0 and 1"):
        assert_strategies_agree(lambda: other_every_time())


def main(count: int, seed: int) -> None:
    source = random.Random(seed)
    used: Counter[str] = Counter()
    failed = 0
    for number in range(count):
        numbers = [source.randrange(256) for _ in range(source.choice((20, 60, 160)))]
        try:
            used.update(check(numbers).used)
        except BaseException as error:
            failed += 1
            print(
                f"program {number}: {numbers}\n  {type(error).__name__}: {error}"[:3000], flush=True
            )
            if not isinstance(error, Exception) or failed > 20:
                break
    print(f"seed {seed}: {count} programs, {failed} differ; constructs {dict(used)}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
