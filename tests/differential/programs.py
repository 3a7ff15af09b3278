"""Programs as data, and how they are drawn.

A `Program` is plain tuples and dataclasses, so that it can be printed, shrunk, and built into
expressions anew for each run (``building.py``). `draw(choose)` draws one: `choose(n)` gives a
number from 0 to n - 1, and 0 is the simplest choice; it may come from a seed or from hypothesis.

A **part** is what may stand as an argument: ("lit", value), ("node", index), ("list" | "tuple" |
"named", parts), ("dict", ((key, part), ...)), ("param" | "env" | "inject", name), and for a map
("unmapped", part), ("lazily", values) or ("lazily async", values).

What a task does is (uid, deeds, what, ...). A **deed**, done before `what`, is a number of seconds
to wait, ("native", name, is_caught) to use a primitive of the event loop, ("change", change) to
change constraints, or ("listen", event, raises) and ("leave",) to subscribe and to end that.
A **change** is (method, arguments, id or None), of `engine.constraints`.

Tasks depend on their arguments alone, and on how often the same call failed before, so that what
section 16 leaves free never shows in a value.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

Part = tuple[Any, ...]
Choose = Callable[[int], int]

SELF = -1  # a jump route to the loop's own node
WAITS = (0.0, 1.0, 2.0, 0.5, 3.0)
PARAMS = ("number", "text", "flag", "absent")
GOOD_RESOURCES = ("run", "step", "task", "outer", "inner", "slow", "native")
BROKEN = ("broken run", "broken step", "broken task")  # their set-up fails
LEAKY = ("leaky run", "leaky step", "leaky task", "leaky async")  # their tear-down fails
RESOURCES = (*GOOD_RESOURCES, *BROKEN, *LEAKY)
NATIVE = ("group", "timeout", "wait_for", "itself", "itself taken back", "child")
HEARD = ("TaskEvent", "TaskExecutionStarted", "TaskExecutionFinished", "TaskSkipped")
ON = ("Exception", "narrow", "function", "raises")
DELAYS = ("growing", "ended")
HANDLERS = ("sync", "co", "pure", "injecting", "fails", "tail", "expression", "method")
WINDOWS = (("a second", "4/s", 2), ("a minute", "60/m", 3))  # id, rate, burst
SCOPES = ("global", "task:sync", "task:co*", "task:*", "task:item_*")


@dataclass(frozen=True)
class Node:
    """A call, map, router, sequence or pipeline; `do` is what its task does."""

    kind: str
    task: str = ""
    do: tuple[Any, ...] = ()
    args: tuple[tuple[str, Part], ...] = ()
    chain: tuple[tuple[Any, ...], ...] = ()  # chain methods, in order
    routes: tuple[tuple[Any, Part], ...] = ()
    members: tuple[int, ...] = ()
    steps: tuple[Node, ...] = ()
    bound: tuple[tuple[Any, int | None], ...] | None = None


@dataclass(frozen=True)
class Program:
    """A target with all that its run depends on."""

    flavour: str
    nodes: tuple[Node, ...]
    target: Part
    subs: tuple[Program, ...] = ()  # returned expressions, and the registered targets
    capacity: tuple[tuple[str, Any], ...] = ()  # a pair is a rate and its burst
    changes: tuple[tuple[float, Part], ...] = ()  # each with its time
    cancel_at: float | None = None
    given: tuple[tuple[str, Any], ...] = ()  # params
    max_steps: int | None = None
    forbids: bool = False
    executes: bool = False  # through an executor that is given
    features: frozenset[str] = frozenset()

    @property
    def has_processes(self) -> bool:
        """Whether worker processes, which are slow to start, are needed."""
        return not self.features.isdisjoint(PROCESSES)

    @property
    def is_ordered(self) -> bool:
        """Whether even the order of all executions is determined."""
        loose = {"executor", "cache", "resource"} | PROCESSES
        return self.flavour == "inline" and not self.features & loose

    @property
    def is_timed(self) -> bool:
        """Whether nodes wait for nothing but their inputs, so that even times must agree."""
        loose = {"cache", "resource", "rate", "pause", "limit", "amounts"} | PROCESSES
        return self.flavour in ("inline", "async") and not self.features & loose

    @property
    def may_end_anyhow(self) -> bool:
        """Whether it is a matter of time, which is free, how far it has come when it is cancelled.

        Who starts and pauses the others is a matter of who is first.
        """
        return self.cancel_at is not None and bool(self.features & CHANGED_BY_TASKS)


PROCESSES = {"processed", "item_processed"}
CHANGED_BY_TASKS = {f"{kind} by a task" for kind in ("pause", "resume", "rate", "charge", "window")}
ONE_IN = 250  # programs of any flavour has tasks in processes
FLAVOURS = ("inline",) * 40 + ("async",) * 34 + ("contended",) * 24 + ("thread",) * 2
TASKS = {
    "inline": ("sync", "sync", "sync_pure", "method"),
    "async": ("sync", "co", "co", "sync_pure", "co_pure", "awaitable", "method", "co_method"),
    "contended": ("sync", "co", "co", "sync_pure", "co_pure", "awaitable", "method", "co_method"),
    "thread": ("threaded", "sync", "sync_pure", "threaded_pure"),
    "process": ("processed", "sync", "sync_pure"),
}
MAPPED = {
    "inline": ("item_sync", "item_pure"),
    "async": ("item_co", "item_sync", "item_pure", "item_co_pure"),
    "contended": ("item_co", "item_sync", "item_pure", "item_co_pure"),
    "thread": ("item_threaded", "item_sync"),
    "process": ("item_processed", "item_sync"),
}
CONSTRUCTS = (
    *("inline", "async", "contended", "thread", "process"),
    *("sync", "sync_pure", "co", "co_pure", "awaitable", "method", "co_method"),
    *("threaded", "threaded_pure", "processed", "shared", "twins"),
    *("list", "tuple", "named", "dict", "nested", "param", "env", "resource"),
    *(f"inject {name}" for name in RESOURCES),
    *(
        "map",
        "map over a container",
        "map over a map",
        "unmapped",
        "concurrency",
        "lazily",
        "lazily async",
    ),
    *("item_sync", "item_pure", "item_co", "item_co_pure", "item_threaded", "item_processed"),
    *("router", "router default", "sequence", "pipeline"),
    *("run_if", "default", "after", "retry", "retry later", "flaky", "raise", "timeout"),
    *(f"retry on {on}" for on in ON),
    *(f"retry delay {delay}" for delay in DELAYS),
    *("group", "first", "route to group", "route to first"),
    *("fallback", "fallback literal", "fallback expression", "settled", "fallback of a map"),
    *(f"handler {name}" for name in HANDLERS),
    *("cache", "cache memory", "cache tiny", "cache bad put", "cache bad get", "cache forgets"),
    *("amounts", "dynamic amount", "pause", "resume", "limit", "rate", "ttl", "cancel"),
    *("amount of a rate", "window", "native", "listen", "listen, raising", "leave"),
    *(f"native {name}, {end}" for name in NATIVE for end in ("caught", "failing")),
    *("limit by a task", "remove by a task", *sorted(CHANGED_BY_TASKS)),
    *("change in a loop", "listen in a loop", "leave in a loop", "native in a loop"),
    *("loop", "nested loop", "jump", "route to call", "route to map", "route to router"),
    *(f"data {form}" for form in ("next", "dict", "both", "y", "none", "empty", "wrong", "many")),
    *(f"tail {form}" for form in ("args", "kwargs", "none", "wrong")),
    *("tail target", "tail overrides", "tail unknown", "expression", "forbid"),
    *("executor", "given", "given wrongly", "cycle"),
)
# Constructs of one flavour of programs, in which those of another cannot be.
OF_FLAVOUR = {
    "inline": {"inline"},
    "async": {"async", "co", "co_pure", "awaitable", "co_method", "item_co", "item_co_pure"},
    "contended": {"contended", "amounts", "dynamic amount", "pause", "resume", "limit", "rate"},
    "thread": {"thread", "threaded", "threaded_pure", "item_threaded"},
    "process": {"process"},
}
OF_FLAVOUR["async"] |= {
    "lazily async",
    "timeout",
    "cancel",
    "retry later",
    "native",
    "native in a loop",
}
OF_FLAVOUR["async"] |= {f"native {name}, {end}" for name in NATIVE for end in ("caught", "failing")}
OF_FLAVOUR["contended"] |= {"ttl", "amount of a rate", "window", *CHANGED_BY_TASKS}
for flavour in ("inline", "contended"):
    OF_FLAVOUR[flavour] |= {"limit by a task", "remove by a task", "change in a loop"}
for flavour in ("inline", "async", "contended"):
    OF_FLAVOUR[flavour] |= {"listen", "listen, raising", "listen in a loop"}
    OF_FLAVOUR[flavour] |= {"leave", "leave in a loop"}


def excludes(one: str, other: str) -> bool:
    """Whether no program has both constructs."""
    if "cancel" in (one, other) and not PROCESSES.isdisjoint((one, other)):
        return True  # how far a process has come by then is a matter of real time
    homes = [{f for f, members in OF_FLAVOUR.items() if each in members} for each in (one, other)]
    for home in homes:
        if "async" in home and "async" not in (one, other):
            home.add("contended")
    return bool(homes[0] and homes[1] and not homes[0] & homes[1])


VALUES = ((0, 1, 2), (), (5,), ("a", "b"))
LITERALS: tuple[Any, ...] = (0, 1, 2, "a", None, True, 1.0, (1, 2), False, (), -0.0, "b")


class Drawing:
    """One program being drawn."""

    def __init__(
        self, choose: Choose, flavour: str, size: int, level: int, processes: bool
    ) -> None:
        self.choose = choose
        self.tasks = (*TASKS[flavour], *("processed",) * processes)
        self.mapped_tasks = (*MAPPED[flavour], *("item_processed",) * processes)
        self.processes = processes
        self.flavour = flavour
        self.left = size
        self.level = level
        self.nodes: list[Node] = []
        self.subs: list[Program] = []
        self.features: set[str] = {flavour}
        self.uid = level * 1000

    def one(self, options: Any) -> Any:
        return options[self.choose(len(options))]

    def chance(self, percent: int) -> bool:
        return self.choose(100) >= 100 - percent

    def mark(self, feature: str) -> None:
        self.features.add(feature)

    # Parts

    def part(self, depth: int = 0) -> Part:
        kind = self.choose(100)
        if kind < 22 or depth > 3:
            return ("lit", self.one(LITERALS))
        if kind < 40 and self.nodes:
            self.mark("shared")
            return ("node", self.choose(len(self.nodes)))
        if kind < 76:
            return self.new_part()
        if kind < 90:
            return self.container(depth)
        if kind < 95:
            self.mark("param")
            return ("param", self.one(PARAMS[:3]))
        if kind < 96:
            self.mark("env")
            return ("env", "CASCADE_DIFFERENTIAL")
        self.mark("resource")
        name = self.one(RESOURCES if self.chance(30) else GOOD_RESOURCES)
        self.mark(f"inject {name}")
        return ("inject", name)

    def new_part(self) -> Part:
        if self.left <= 0:
            if self.nodes and self.chance(70):
                return ("node", self.choose(len(self.nodes)))
            return ("lit", self.one(LITERALS))
        return ("node", self.new_node())

    def container(self, depth: int) -> Part:
        kind = self.one(("list", "tuple", "dict", "named"))
        self.mark(kind)
        if depth:
            self.mark("nested")
        count = 2 if kind == "named" else self.choose(4)
        parts = tuple(self.part(depth + 1) for _ in range(count))
        if kind == "dict":
            return ("dict", tuple(zip(("a", 1, None, "d"), parts, strict=False)))
        return (kind, parts)

    # Nodes

    def new_node(self, task: bool = False) -> int:
        """The index of a new node, after those that it needs."""
        self.left -= 1
        kind = 0 if task else self.choose(100)
        if kind < 64:
            return self.add(self.call())
        if kind < 78:
            return self.add(self.mapped())
        if kind < 87:
            return self.add(self.router())
        if kind < 91:
            return self.add(self.scope())
        if kind < 94:
            self.mark("sequence")
            fresh = sorted({self.new_node(task=True) for _ in range(1 + self.choose(3))})
            return self.add(Node("sequence", members=tuple(fresh)))
        self.mark("pipeline")
        initial = self.part(1)
        steps = tuple(self.call(feeds=False) for _ in range(self.choose(3) + 1))
        return self.add(Node("pipeline", args=(("initial", initial),), steps=steps))

    def add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def call(self, feeds: bool = True) -> Node:
        task = self.one(self.tasks)
        self.mark(task)
        args = []
        if feeds and self.chance(85):
            args.append(("x", self.part()))
        if self.chance(35):
            args.append(("y", self.part()))
        if self.chance(10):
            self.mark("resource")
            name = self.one(RESOURCES if self.chance(10) else GOOD_RESOURCES)
            self.mark(f"inject {name}")
            args.append(("r", ("inject", name)))
        bound: tuple[tuple[Any, int | None], ...] | None = None
        if feeds and self.chance(16):
            bound = self.loop_routes()
            x = ("lit", self.choose(3))
            if self.chance(80):
                args = [("x", x), *[arg for arg in args if arg[0] != "x"]]
        do = self.action(task, bound)
        return Node("call", task, do, tuple(args), self.chain(task, do), bound=bound)

    def loop_routes(self) -> tuple[tuple[Any, int | None], ...]:
        self.mark("loop")
        routes: list[tuple[Any, int | None]] = [("a", SELF)]
        if self.chance(60):
            routes.append(("b", None))
        for key in ("c", "d"):
            if self.chance(40) and (self.left > 0 or self.nodes):
                is_scope = self.chance(12)
                route = ("node", self.add(self.scope())) if is_scope else self.new_part()
                if route[0] == "node" and self.nodes[route[1]].kind not in ("sequence", "pipeline"):
                    node = self.nodes[route[1]]
                    self.mark(f"route to {node.kind}")
                    if node.bound is not None:
                        self.mark("nested loop")
                    routes.append((key, route[1]))
        return tuple(routes)

    def next_uid(self) -> int:
        self.uid += 1
        return self.uid

    def action(self, task: str, bound: Any, may_flake: bool = True) -> tuple[Any, ...]:
        """(uid, deeds, what, ...): what the task does."""
        uid = self.next_uid()
        waits: tuple[Any, ...] = ()
        if task.startswith(("co", "awaitable", "item_co")):
            waits = tuple(self.one(WAITS) for _ in range(self.choose(3)))
        if "pure" in task and self.chance(50):  # twins, to be merged if their arguments agree
            self.mark("twins")
            return (0, waits[:1], "value", 3)
        waits = (*waits, *self.deeds(task, is_looped=bound is not None))
        if bound is not None and self.chance(90):
            return (uid, waits, *self.jump([key for key, _ in bound]))
        kind = self.choose(100)
        if kind < 45:
            return (uid, waits, "value", self.one((3, 2, 1, 5)))
        if kind < 52:
            return (uid, waits, "same")
        if kind < 62:
            return (uid, waits, "items", self.one((3, 1, 4)))
        if kind < 68:
            return (uid, waits, "num", self.one((1, 2, 0, 7)))
        if kind < 74:
            self.mark("raise")
            return (uid, waits, "raise", self.choose(5))
        if kind < 84 and "process" not in task and not self.level and may_flake:
            self.mark("flaky")
            return (uid, waits, "flaky", 1 + self.choose(2))
        if kind < 90:
            forms = ("args", "kwargs", "wrong", "none", "unknown", "target", "overrides")
            # A worker process does not tell when a target that calls itself takes too long.
            form = self.one(forms[:5] if "process" in task else forms)
            self.mark(f"tail {form}")
            return (uid, waits, "tail", 1 + self.choose(3), form)
        if kind < 97 and self.level < 2 and "process" not in task:
            self.mark("expression")
            return (uid, waits, "expr", self.sub())
        if kind < 98:
            return (uid, waits, *self.jump(["a"]))
        return (uid, waits, "none")

    def deeds(self, task: str, *, is_looped: bool) -> tuple[Any, ...]:
        """What a task does to its event loop, to constraints, and to who listens."""
        found: list[Any] = []
        if task.startswith(("co", "awaitable", "item_co")) and self.chance(16):
            name, is_caught = self.one(NATIVE), self.chance(60)
            found.append(("native", name, is_caught))
            self.mark_deed("native", is_looped)
            self.mark(f"native {name}, {'caught' if is_caught else 'failing'}")
        if "pure" in task or self.flavour not in ("inline", "async", "contended"):
            return tuple(found)
        if "process" in task:
            return ()
        if self.flavour != "async" and self.chance(40 if is_looped else 14):
            found.append(("change", self.change_by_a_task()))
            self.mark_deed("change", is_looped)
        more = 15 * (self.flavour == "inline")  # where what they hear is compared
        if self.chance(more + (25 if is_looped else 7)):
            if self.features & {"listen"} and self.chance(50):
                found.append(("leave",))
                self.mark_deed("leave", is_looped)
            else:
                raises = self.chance(20)
                found.append(("listen", self.one(HEARD), raises))
                self.mark("listen, raising" if raises else "listen")
                self.mark_deed("listen", is_looped)
        return tuple(found)

    def mark_deed(self, kind: str, is_looped: bool) -> None:
        if kind != "change":
            self.mark(kind)
        if is_looped:
            self.mark(f"{kind} in a loop")

    def change_by_a_task(self) -> Part:
        """No pause for ever: the run would hang. Of inline tasks a limit holds up none."""
        may_wait = self.flavour == "contended"
        kinds = ("limit", "remove", *sorted(CHANGED_BY_TASKS)) if may_wait else ("limit", "remove")
        kind = self.one(kinds).removesuffix(" by a task")
        self.mark(f"{kind} by a task")
        scope = self.one(SCOPES)
        match kind:
            case "pause":
                return ("pause", (scope, self.one((1.0, 0.5, 2.5))), None)
            case "resume":
                return ("resume", (scope,), None)
            case "rate":
                return ("limit_rate", (scope, self.one(("4/s", 2.0)), 1 + self.choose(2)), None)
            case "window":
                name, rate, burst = self.one(WINDOWS)
                return ("limit_rate", (scope, rate, burst), name)
            case "charge":
                return ("charge", ("tokens", self.one((1, 0.5, -1))), None)
            case "remove":
                return ("remove", (f"concurrency:{scope}",), None)
        ttl = self.one((None, 1.5)) if may_wait else None
        return ("limit_concurrency", (scope, 1 + self.choose(2), ttl), None)

    def jump(self, keys: list[Any]) -> tuple[Any, ...]:
        """Up to which x it jumps, where to and with what data, and how it ends."""
        self.mark("jump")
        plan = []
        for _ in range(1 + self.choose(3)):
            key = "unknown" if self.chance(2) else self.one(keys)
            forms = ("next", "next", "dict", "both", "y", "none", "empty", "wrong", "many")
            form = self.one(forms if self.chance(35) else forms[:4])
            self.mark(f"data {form}")
            plan.append((key, form))
        return ("jump", 1 + self.choose(4), tuple(plan), self.one(("value", "exit")))

    def sub(self) -> int:
        size = 1 + self.choose(3)
        inner = Drawing(self.choose, self.flavour, size, self.level + 1, self.processes)
        inner.uid = self.next_uid() * 100
        self.subs.append(inner.program(is_expression=True))
        self.features |= inner.features
        return len(self.subs) - 1

    def mapped(self) -> Node:
        task = self.one(self.mapped_tasks)
        self.mark("map")
        self.mark(task)
        items, are_different = self.items()
        args = [("x", items)]
        if self.chance(25):
            args.append(("y", items if self.chance(70) else self.items()[0]))
        elif self.chance(25):
            self.mark("unmapped")
            whole = ("unmapped", self.part(1))
            args = [("x", items), ("y", whole)] if self.chance(80) else [("x", whole), ("y", items)]
        do = self.action(task, None, are_different)
        chain = self.chain(task, do)
        is_lazy = any(part[0].startswith("lazily") for _, part in args)
        if self.chance(95 if is_lazy else 20):
            self.mark("concurrency")
            chain = (*chain, ("concurrency", 1 + self.choose(3)))
        return Node("map", task, do, tuple(args), chain)

    def items(self) -> tuple[Part, bool]:
        """What to map over, and whether no two items are alike."""
        kind = self.choose(100)
        if kind < 30:
            return ("lit", self.one(VALUES)), True
        if kind < 40:
            is_async = self.flavour in ("async", "contended") and self.chance(50)
            name = "lazily async" if is_async else "lazily"
            self.mark(name)
            return (name, self.one(VALUES)), True
        if kind < 50 and self.left > 0:
            self.left -= 1
            self.mark("map over a map")
            return ("node", self.add(self.mapped())), False
        if kind < 62:
            self.mark("map over a container")
            parts = [("lit", n) if self.chance(60) else self.part(2) for n in range(2)]
            return ("list", tuple(parts)), False
        if kind < 95 and self.left > 0:
            self.left -= 1
            task = self.one(self.tasks)
            do = (self.next_uid(), (), "items", self.one((3, 2, 4)))
            return ("node", self.add(Node("call", task, do, (("x", self.part(2)),)))), True
        return self.part(1), False

    def router(self) -> Node:
        self.mark("router")
        selector = self.part(1)
        keys = [0, 1, 2, "a", None, True][: 1 + self.choose(6)]
        routes = [(key, self.part(1)) for key in keys]
        args = [("selector", selector)]
        if self.chance(75):
            self.mark("router default")
            args.append(("default", self.part(1)))
        return Node("router", args=tuple(args), routes=tuple(routes))

    def scope(self) -> Node:
        """A group, or the first of several."""
        kind = self.one(("group", "group", "first"))
        # Of several alternatives the first is free, and what those that lose had done.
        args = (("0", self.part(1)),)
        if args[0][1][0] != "node":  # a first of one container is refused
            kind = "group"
        self.mark(kind)
        return Node(kind, args=args, chain=self.chain(f"co {kind}", (0, (), kind)))

    # Chain methods

    def chain(self, task: str, do: tuple[Any, ...]) -> tuple[tuple[Any, ...], ...]:
        found: list[tuple[Any, ...]] = []
        is_native = any(type(deed) is tuple and deed[0] == "native" for deed in do[1])
        is_scope = do[2] in ("group", "first")
        if self.chance(70 if do[2] == "flaky" else 30 if is_native or is_scope else 6):
            found.append(self.retry())
        if task.startswith(("co", "item_co")) and self.chance(10):
            self.mark("timeout")
            found.append(("timeout", self.one((2.25, 0.25, 5.25))))
        if self.chance(7) and "group" not in task and "first" not in task:
            self.mark("cache")
            # What forgets gives hits by chance if several nodes or items share it, as those do
            # that items of a map return or make a tail call to; see `remembering`.
            is_alone = not task.startswith("item") and not self.level
            kind = self.one(CACHES if is_alone else CACHES[:3])
            self.mark(f"cache {kind}")
            found.append(("cache", kind))
        if self.flavour == "contended" and self.chance(25):
            found.append(self.amounts())
        may_fail = do[2] in ("raise", "flaky", "group", "first") or is_native
        if self.chance(40 if may_fail else 6):
            found.append(self.fallback())
        if self.chance(25 if may_fail else 5):
            self.mark("settled")
            found.append(("settled", self.one((*ON[:1], *ON[:1], *ON))))
        if task.startswith("item") and any(method == "fallback" for method, *_ in found):
            self.mark("fallback of a map")
        for _ in range(2):
            if self.chance(13):
                self.mark("run_if")
                condition = ("lit", self.one((True, False))) if self.chance(25) else self.part(1)
                default: tuple[Part, ...] = ()
                if self.chance(45):
                    self.mark("default")
                    default = (self.part(1),)
                found.append(("run_if", condition, *default))
        if self.chance(12):
            before = self.new_part()
            if before[0] == "node":
                self.mark("after")
                found.append(("after", before[1]))
        return tuple(found)

    def retry(self) -> tuple[Any, ...]:
        self.mark("retry")
        on = self.one((*ON[:1], *ON[:3], *ON[:3], *ON))
        self.mark(f"retry on {on}")
        attempts = 1 + self.choose(3)
        may_wait = self.flavour in ("async", "contended")
        if self.chance(20):
            name = self.one(DELAYS)
            self.mark(f"retry delay {name}")
            return ("retry", attempts, (name, 0.5 * may_wait), 1.0, on)
        delay = 0.0
        if may_wait and self.chance(40):
            delay = self.one((1.0, 0.5))
            self.mark("retry later")
        return ("retry", attempts, delay, self.one((1.0, 2.0)), on)

    def fallback(self) -> tuple[Any, ...]:
        self.mark("fallback")
        on = self.one((*ON[:1], *ON[:1], *ON))
        if self.chance(35):
            name = self.one(HANDLERS)
            self.mark(f"handler {name}")
            return ("fallback", ("handler", name), on)
        part = self.part(1)
        self.mark(f"fallback {'literal' if part[0] == 'lit' else 'expression'}")
        return ("fallback", part, on)

    def amounts(self) -> tuple[Any, ...]:
        self.mark("amounts")
        name = self.one(("gpu", "memory", "tokens", "unlimited"))
        if name == "tokens":
            self.mark("amount of a rate")
        if self.chance(30) and self.left > 0:
            self.left -= 1
            self.mark("dynamic amount")
            do = (self.next_uid(), (), "num", self.one((1, 2, 2, 9, 0)))
            index = self.add(Node("call", self.one(self.tasks), do))
            return ("amounts", name, ("node", index))
        amount = self.one((1, 0.5, 2, 3)) if self.chance(30) else 1
        return ("amounts", name, ("lit", amount))

    # The whole

    def target(self, is_expression: bool) -> Part:
        if is_expression:
            return ("node", self.new_node())
        if self.chance(12):
            return self.container(0)
        return ("node", self.new_node())

    def program(self, is_expression: bool = False) -> Program:
        target = self.target(is_expression)
        if is_expression:
            return Program(self.flavour, tuple(self.nodes), target, tuple(self.subs))
        registered = any(f in self.features for f in ("tail target", "tail overrides"))
        if registered:
            self.level = 2
            self.sub()
        loops = self.features & {"jump"} or any(f.startswith("tail") for f in self.features)
        max_steps = self.choose(5) + 2 if loops else None
        changes: tuple[Any, ...] = ()
        capacity: tuple[tuple[str, Any], ...] = ()
        if self.flavour == "contended":
            changes = self.changes()
            capacity = (
                ("gpu", self.one((2, 1, 3))),
                ("memory", self.one((1.5, 2.0))),
                ("tokens", self.one((("2/s", 3), (4, 2), ("60/m", 2.5)))),
            )
        cancel_at = None
        may_cancel = self.flavour in ("async", "contended") and not self.processes
        if may_cancel and self.chance(7):
            self.mark("cancel")
            cancel_at = self.choose(8) + 0.375
        executes = self.chance(4)
        if executes:
            self.mark("executor")
        # Evaluations that run at the same time must not count the failures of one call together.
        overlaps = executes or self.flavour != "inline" or "inject task" in self.features
        if {"flaky", "loop"} <= self.features and overlaps:
            self.nodes = [isolated(node) for node in self.nodes]
            self.mark("resource")
        self.nodes = remembering(self.nodes, target)
        if self.chance(2):
            self.cycle()
        forbids = "expression" in self.features and self.chance(6)
        if forbids:
            self.mark("forbid")
        return Program(
            self.flavour,
            tuple(self.nodes),
            target,
            tuple(self.subs),
            capacity,
            changes,
            cancel_at,
            self.given(),
            max_steps,
            forbids,
            executes,
            frozenset(self.features),
        )

    def given(self) -> tuple[tuple[str, Any], ...]:
        """Params: good ones, and now and then one that is malformed or unknown."""
        found: list[tuple[str, Any]] = []
        if "param" in self.features and self.chance(30):
            self.mark("given")
            options = (("number", "12"), ("number", 4), ("flag", "on"), ("text", "given"))
            found.append(self.one(options))
            if self.chance(10):
                self.mark("given wrongly")
                found.append(self.one((("number", "many"), ("unknown", 1), ("flag", 2))))
        return tuple(found)

    def cycle(self) -> None:
        """Have the first task come after the last."""
        tasks = [i for i, node in enumerate(self.nodes) if node.kind in ("call", "map")]
        if len(tasks) > 1:
            self.mark("cycle")
            first = self.nodes[tasks[0]]
            chain = (*first.chain, ("after later", tasks[-1]))
            self.nodes[tasks[0]] = replace(first, chain=chain)

    def changes(self) -> tuple[tuple[float, Part], ...]:
        found: list[tuple[float, Part]] = []
        at = 0.0
        for _ in range(self.choose(5)):
            kind = self.one(("pause", "limit", "rate", "resume", "window"))
            scope = self.one(SCOPES)
            ttl = self.one((None, 1.0, 2.5))
            if ttl is not None and kind != "resume":
                self.mark("ttl")
            if kind != "resume" or self.features & {"pause"}:
                self.mark(kind)
            match kind:
                case "pause":
                    found.append((at, ("pause", (scope, ttl), None)))
                case "limit":
                    found.append(
                        (at, ("limit_concurrency", (scope, 1 + self.choose(2), ttl), None))
                    )
                case "rate":
                    rate = self.one((1, "30/m", 2.0, "4/s"))
                    found.append((at, ("limit_rate", (scope, rate, 1 + self.choose(2), ttl), None)))
                case "window":
                    windows = [("limit_rate", (scope, *each, ttl), id) for id, *each in WINDOWS]
                    found += [(at, window) for window in windows]
                case _:
                    found.append((at, ("resume", (scope,), None)))
            if self.chance(60):
                at += self.choose(3) + 0.125
        return tuple(found)


CACHES = ("memory", "memory", "bad get", "tiny", "bad put", "forgets")
FORGETFUL = ("tiny", "forgets")
TARGET = -2


def remembering(nodes: list[Node], target: Part) -> list[Node]:
    """Caches that forget serve only nodes of which no two evaluations can overlap.

    Else it hangs on the order of independent tasks whether the second one finds something: what is
    needed both within a loop, or a group, and outside of it may be evaluated by both at once.
    """
    if all(node.bound is None and node.kind not in ("group", "first") for node in nodes):
        return nodes
    users: dict[int, list[int]] = {index: [] for index in range(len(nodes))}
    for index in within(target):
        users[index].append(TARGET)
    for user, node in enumerate(nodes):
        for index in needs(node):
            users[index].append(user)
    return [
        node if has_one_way(index, users) else replace(node, chain=tuple(map(kept, node.chain)))
        for index, node in enumerate(nodes)
    ]


def has_one_way(index: int, users: dict[int, list[int]]) -> bool:
    """Whether the target needs the node by one way only."""
    while index != TARGET:
        if len(users[index]) != 1:
            return False
        index = users[index][0]
    return True


def kept(method: tuple[Any, ...]) -> tuple[Any, ...]:
    is_forgetful = method[0] == "cache" and method[1] in FORGETFUL
    return ("cache", "memory") if is_forgetful else method


def needs(node: Node) -> list[int]:
    """The other nodes that a node names, as often as it does."""
    parts = [part for _, part in (*node.args, *node.routes)]
    found = [*node.members, *(route for _, route in node.bound or () if route not in (None, SELF))]
    for method, *more in node.chain:
        match method:
            case "after":
                found += more
            case "amounts":
                parts.append(more[1])
            case "run_if":
                parts += more
            case "fallback":
                parts.append(more[0])
    for step in node.steps:
        found += needs(step)
    return found + [index for part in parts for index in within(part)]


def within(part: Part) -> list[int]:
    """The nodes in a part."""
    kind, value = part
    match kind:
        case "node":
            return [value]
        case "list" | "tuple" | "named":
            return [index for each in value for index in within(each)]
        case "dict":
            return [index for _, each in value for index in within(each)]
        case "unmapped":
            return within(value)
    return []


def isolated(node: Node) -> Node:
    """A node that counts its failures for each evaluation apart.

    Iterations of loops may run it at the same time as the evaluation around them does.
    """
    steps = tuple(isolated(step) for step in node.steps)
    if not node.do or node.do[2] != "flaky":
        return replace(node, steps=steps)
    if node.kind == "map":  # its items have no parameter for it
        return replace(node, do=(*node.do[:2], "value", 3))
    args = [arg for arg in node.args if arg[0] != "r"]
    return replace(node, args=(*args, ("r", ("inject", "tally"))), steps=steps)


def draw(choose: Choose, flavour: str | None = None) -> Program:
    """A program, by what `choose` says."""
    if flavour is None:
        flavour = FLAVOURS[choose(len(FLAVOURS))]
    # Not 0, nor the last, which hypothesis likes to choose.
    processes = choose(ONE_IN) == ONE_IN // 2
    return Drawing(choose, flavour, 1 + choose(8), 0, processes).program()


def seeded(seed: int, flavour: str | None = None) -> Program:
    """The program of a seed."""
    source = random.Random(seed).random
    return draw(lambda n: int(source() * n), flavour)
