"""How a run is started: targets, params, engines and protocols (section 15)."""

import dataclasses
import inspect
import typing

import anyio
import pytest

import cascade as cs
from cascade.telemetry import trace_runs


@cs.task
def echo(*args):
    return args


@cs.task
def add(a, b):
    return a + b


class Pair(typing.NamedTuple):
    left: object
    right: object


@pytest.fixture(params=["cs.run", "cs.run_async", "Engine.run"])
def start(request, run, inside, use_vm):
    """Start a run in one of the three ways."""

    def start(target, **options):
        if request.param == "cs.run":
            return run(target, **options)

        async def program():
            if request.param == "cs.run_async":
                return await cs.run_async(target, use_vm=use_vm, **options)
            return await cs.Engine().run(target, use_vm=use_vm, **options)

        return inside(program)

    return start


@pytest.mark.parametrize(
    "literal", [None, 0, "x", [], {}, object(), [1, {"a": (2, Pair(3, 4))}], [echo]]
)
def test_a_literal_is_its_own_value(start, literal):
    """A target without expressions is data, passed on as the same object."""
    assert start(literal) is literal


def test_a_task_that_was_not_called_is_no_target(start):
    """A Task itself is a `TypeError` that says so, before anything runs."""
    with pytest.raises(TypeError, match=r"<Task echo> as a target is a task, not a call of one"):
        start(echo)


def test_a_coroutine_is_no_target(start):
    """The call of an async function that is no task is a `TypeError`, before anything runs."""
    coroutine = anyio.sleep(0)
    with pytest.raises(TypeError, match="make a task of its function"):
        start(coroutine)
    coroutine.close()


@pytest.mark.parametrize(
    "look", [cs.build_graph, cs.to_json, cs.visualize, cs.disassemble], ids=lambda f: f.__name__
)
def test_what_is_no_target_cannot_be_looked_at(look):
    """What shows a target refuses a Task that was not called, as a run does."""
    with pytest.raises(TypeError, match="is a task, not a call of one"):
        look(echo)


@pytest.mark.parametrize(
    ("target", "value"),
    [
        (add(1, 2), 3),
        ([add(1, 2), 4], [3, 4]),
        ((add(1, 2),), (3,)),
        ({"a": [add(1, 2)]}, {"a": [3]}),
        (Pair(add(1, 2), 4), Pair(3, 4)),
        (add.map(a=[1, 2], b=[3, 4]), [4, 6]),
        (cs.Router("a", routes={"a": add(1, 2)}), 3),
        (cs.Param("p", default=7, type=int), 7),
        ([cs.Param("p", default=7, type=int)], [7]),
        (cs.Env("CASCADE_TEST_UNSET", default="d"), "d"),
    ],
)
def test_a_target_is_any_expression(start, target, value):
    """Calls, containers with their types, maps, Routers, params: all can be asked for."""
    result = start(target)
    assert result == value
    assert type(result) is type(value)


def test_a_run_within_a_running_loop_names_run_async(inside):
    """`cs.run` inside an event loop says to await `cs.run_async`."""

    async def program():
        with pytest.raises(RuntimeError, match=r"await cs\.run_async\("):
            cs.run(add(1, 2))
        return await cs.run_async(add(1, 2))

    assert inside(program) == 3


def test_params_reach_every_part_of_a_target(start):
    """One Param may stand anywhere, any number of times."""
    p = cs.Param("p", type=int)
    target = [add(p, p), add.map(a=[p, 1], b=[1, p]), cs.Router(p, routes={2: p})]
    assert start(target, params={"p": 2}) == [4, [3, 3], 2]


@pytest.mark.parametrize(
    ("declared", "given", "value"),
    [
        (str, "5", "5"),
        (int, "5", 5),
        (int, "-7", -7),
        (int, 5, 5),
        (float, "1.5", 1.5),
        *[(bool, text, True) for text in ("1", "true", "True", "YES", "on")],
        *[(bool, text, False) for text in ("0", "false", "FALSE", "no", "Off")],
        (bool, True, True),
    ],
)
def test_a_string_is_converted_to_the_type_declared(start, declared, given, value):
    """A string given for another type becomes that type, however the run is started."""
    result = start(echo(cs.Param("p", type=declared)), params={"p": given})
    assert result == (value,)
    assert type(result[0]) is type(value)


@pytest.mark.parametrize(("declared", "given"), [(int, "x"), (float, ""), (bool, "maybe")])
def test_a_string_that_cannot_be_converted_is_a_value_error(start, declared, given):
    """The error names the param."""
    with pytest.raises(ValueError, match="limit"):
        start(echo(cs.Param("limit", type=declared)), params={"limit": given})


def test_a_param_given_wins_over_its_default(start):
    """The default counts only where nothing is given."""
    target = [cs.Param("a", default=1, type=int), cs.Param("b", default=2, type=int)]
    assert start(target, params={"b": "5"}) == [1, 5]


def test_env_is_read_when_the_run_starts(start, monkeypatch):
    """An Env is what the environment holds at the run, or its default."""
    target = [cs.Env("CASCADE_TEST_A"), cs.Env("CASCADE_TEST_B", default="d")]
    monkeypatch.setenv("CASCADE_TEST_A", "a")
    monkeypatch.delenv("CASCADE_TEST_B", raising=False)
    assert start(target) == ["a", "d"]


def everywhere(runs):
    """A target with a param or an env without default in every kind of place."""

    @cs.task
    def node(*args):
        runs.append(args)

    @cs.task
    def jumps():
        return cs.Jump("exit")

    routes = {"exit": None, "other": node(cs.Param("in_route"))}
    return [
        node(),
        node([cs.Param("in_argument")]),
        node().run_if(False, default=cs.Param("in_default")),
        node().after(node(cs.Param("in_predecessor"))),
        node().run_if(cs.Param("in_condition")),
        node().with_constraints(gpu=cs.Param("in_amount", type=int)),
        cs.Router("a", routes={"a": 1, "b": node(cs.Param("unchosen"))}),
        node(cs.Env("CASCADE_TEST_MISSING")),
        add.map(a=[1], b=[cs.Param("in_map")]),
        cs.bind(jumps(), cs.select_jump(routes)),
    ]


NAMES = {
    "in_argument",
    "in_default",
    "in_predecessor",
    "in_condition",
    "in_amount",
    "unchosen",
    "CASCADE_TEST_MISSING",
    "in_map",
    "in_route",
}


def test_all_missing_params_are_one_error_before_anything_runs(start):
    """MissingParameterError names every Param and Env without a value in the whole target."""
    runs = []
    with pytest.raises(cs.MissingParameterError) as caught:
        start(everywhere(runs))
    assert {name for name in NAMES if name not in str(caught.value)} == set()
    assert runs == []


def test_parameters_lists_what_a_target_declares():
    """`cs.parameters` finds the declarations in every part of a target."""
    declared = {parameter.name for parameter in cs.parameters(everywhere([]))}
    assert declared >= NAMES - {"CASCADE_TEST_MISSING"}


def test_a_name_that_is_not_declared_is_a_value_error(start):
    """A param that the target does not know is refused before anything runs."""
    with pytest.raises(ValueError, match="limti"):
        start(echo(cs.Param("limit", default=1, type=int)), params={"limti": 1})


@pytest.mark.parametrize(
    "other", [cs.Param("p", type=int), cs.Param("p", default="x"), cs.Param("p", 1, int)]
)
def test_a_name_declared_in_two_ways_is_a_value_error(start, other):
    """One name has one type and one default."""
    with pytest.raises(ValueError, match="'p'"):
        start([cs.Param("p"), echo(other)], params={"p": "1"})


def test_a_name_may_be_declared_twice_in_one_way(start):
    """Equal declarations are one param."""
    assert start([cs.Param("p"), cs.Param("p")], params={"p": "x"}) == ["x", "x"]


@cs.task
async def nap(x):
    await anyio.sleep(1)
    return x


def test_concurrent_runs_of_an_engine_share_its_capacity(inside, use_vm):
    """Two runs on one engine wait for each other's capacity."""
    ends = []

    async def program():
        engine = cs.Engine(system_resources={"gpu": 1})

        async def one():
            await engine.run(nap(1).with_constraints(gpu=1), use_vm=use_vm)
            ends.append(anyio.current_time() - begin)

        begin = anyio.current_time()
        async with anyio.create_task_group() as group:
            group.start_soon(one)
            group.start_soon(one)

    inside(program)
    assert ends == pytest.approx([1, 2])


def test_a_task_may_run_targets_on_its_own_engine(inside, use_vm):
    """A run within a run is one more concurrent run."""

    async def program():
        engine = cs.Engine(system_resources={"gpu": 1})

        @cs.task
        async def inner(x):
            return await engine.run(nap(x).with_constraints(gpu=1), use_vm=use_vm)

        return await engine.run([inner(1), inner(2)], use_vm=use_vm)

    assert inside(program) == [1, 2]


def test_an_engine_works_in_one_loop_after_another(inside, use_vm):
    """What a run in an earlier event loop did leaves an engine fit for the next."""
    engine = cs.Engine(system_resources={"gpu": 1})
    target = [nap(x).with_constraints(gpu=1) for x in (1, 2)]

    async def program():
        return await engine.run(target, use_vm=use_vm)

    assert [inside(program) for _ in range(3)] == [[1, 2]] * 3


def test_a_target_may_be_run_again(run):
    """Expressions keep nothing of a run."""
    calls = []

    @cs.task
    def node():
        calls.append(1)
        return len(calls)

    target = [node()]
    assert [run(target), run(target)] == [[1], [2]]


class CountingSolver:
    """A solver of a user's own, with stages of its own."""

    def __init__(self, split):
        self.split = split
        self.native = cs.NativeSolver()
        self.graphs = []

    def resolve(self, graph):
        self.graphs.append(graph)
        plan = self.native.resolve(graph)
        return [[node] for stage in plan for node in stage] if self.split else plan


@pytest.mark.parametrize("split", [False, True])
def test_a_solver_is_asked_once_per_structure(inside, split):
    """A user's solver serves the graph strategy; equal structures, other data, one resolve."""

    async def program():
        solver = CountingSolver(split)
        engine = cs.Engine(solver=solver)
        values = [await engine.run(add(add(1, 2), x)) for x in range(3)]
        return values, solver.graphs

    values, graphs = inside(program)
    assert values == [3, 4, 5]
    (graph,) = graphs
    assert [node.name for node in graph.nodes] == ["add", "add"]
    assert [node.kind for node in graph.nodes] == ["task", "task"]
    (edge,) = graph.edges
    assert (edge.source, edge.target) == tuple(graph.nodes)


class DoublingExecutor:
    """An executor of a user's own that carries out every call and doubles its value."""

    def __init__(self):
        self.calls = []
        self.local = cs.LocalExecutor()

    async def execute(self, node, args, kwargs):
        self.calls.append((node.name, tuple(args), dict(kwargs)))
        return 2 * await self.local.execute(node, args, kwargs)


def test_an_executor_carries_out_every_call(run):
    """Calls of nodes, map items and iterations all go through the executor given."""
    executor = DoublingExecutor()

    @cs.task
    def one(x):
        return x

    assert run([one(1), one.map(x=[2, 3])], executor=executor) == [2, [4, 6]]
    assert [name for name, _, _ in executor.calls] == ["one"] * 3
    assert sorted([*args, *kwargs.values()][0] for _, args, kwargs in executor.calls) == [1, 2, 3]


class DictBackend:
    """A state backend of a user's own."""

    def __init__(self):
        self.results = {}
        self.reasons = {}
        self.put = []
        self.clears = 0

    async def put_result(self, id, value):
        await anyio.lowlevel.checkpoint()
        self.put.append(value)
        self.results[id] = value

    async def get_result(self, id):
        await anyio.lowlevel.checkpoint()
        return self.results[id]

    async def has_result(self, id):
        return id in self.results

    async def mark_skipped(self, id, reason):
        self.reasons[id] = reason

    async def get_skip_reason(self, id):
        return self.reasons.get(id)

    async def clear(self):
        self.clears += 1
        self.results.clear()
        self.reasons.clear()


def test_a_state_backend_holds_the_results(inside):
    """A user's backend receives every result and every skip of the graph strategy."""

    async def program():
        backend = DictBackend()
        engine = cs.Engine(state_backend=backend)
        skipped = add(8, 8).run_if(False, default="d")
        values = [await engine.run([add(add(1, 2), 3), skipped]) for _ in range(2)]
        return values, backend

    values, backend = inside(program)
    assert values == [[6, "d"]] * 2
    assert [value for value in backend.put if value in (3, 6)] == [3, 6, 3, 6]
    assert backend.clears >= 1


def test_a_state_backend_is_not_for_the_vm(inside):
    """A `state_backend` together with `use_vm=True` is a ValueError."""

    async def program():
        engine = cs.Engine(state_backend=cs.InMemoryStateBackend())
        with pytest.raises(ValueError, match="state_backend"):
            await engine.run(add(1, 2), use_vm=True)

    inside(program)


def test_statistics_of_an_engine_are_frozen(inside, use_vm):
    """`engine.statistics()` is a frozen dataclass that counts plans."""

    async def program():
        engine = cs.Engine(plan_cache_size=2)
        for x in range(3):
            await engine.run(add(1, x), use_vm=use_vm)
        return engine.statistics()

    statistics = inside(program)
    assert (statistics.plan_misses, statistics.plan_hits, statistics.plans) == (1, 2, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        statistics.plans = 5


def test_a_virtual_machine_takes_no_state_backend():
    """A VirtualMachine refuses an engine with a `state_backend`, which it would not use."""
    with pytest.raises(ValueError, match="state_backend"):
        cs.VirtualMachine(cs.Engine(state_backend=cs.InMemoryStateBackend()))


def test_a_state_backend_is_cleared_between_evaluations(inside):
    """Iterations clear the record, unless it holds what an evaluation around them still needs."""

    class Counted(cs.InMemoryStateBackend):
        clears = 0

        async def clear(self):
            self.clears += 1
            await super().clear()

    def loop():
        @cs.task
        def step(n):
            return cs.Jump("again", n + 1) if n < 3 else n

        node = step(cs.task(lambda: 0, name="zero")())
        return cs.bind(node, cs.select_jump({"again": node}))

    async def main():
        backend = Counted()
        engine = cs.Engine(state_backend=backend)
        assert await engine.run(loop()) == 3
        assert await backend.get_result("step#1") == 3
        alone = backend.clears
        before = cs.task(lambda: "kept", name="before")()
        assert await engine.run([before, loop().after(before)]) == ["kept", 3]
        assert await backend.get_result("before#0") == "kept"
        return alone, backend.clears - alone

    alone, beside = inside(main)
    assert (alone, beside) == (2, 1)


@pytest.mark.parametrize("option", ["solver", "executor", "bus", "state_backend"])
def test_an_option_of_an_engine_that_cannot_serve_is_refused_by_name(option):
    """What has not the methods of its protocol is a TypeError when the Engine is made."""
    with pytest.raises(TypeError, match=option):
        cs.Engine(**{option: 5})


def test_a_backend_that_is_neither_is_refused_by_name():
    """`backend` is one of the two event loops; another is a `ValueError`."""
    with pytest.raises(ValueError, match="backend='trioo' must be 'asyncio' or 'trio'"):
        cs.run(1, backend="trioo")


@pytest.mark.parametrize("listen", [cs.record, cs.log_events, trace_runs])
def test_what_listens_takes_the_bus_of_an_engine(listen):
    """An engine itself is a `TypeError` that names its bus."""
    with pytest.raises(TypeError, match=r"is no MessageBus; that of an engine is engine\.bus"):
        listen(cs.Engine())


def test_params_that_are_no_mapping_are_refused_by_name(start):
    """Parameters are given by name."""
    with pytest.raises(TypeError, match="params"):
        start(cs.Param("x", default=1), params=5)


def test_an_option_that_nobody_has_is_refused_by_name(inside, use_vm):
    """`cs.run` and `cs.run_async` know all options that they hand on; the nearest is proposed."""
    with pytest.raises(TypeError, match=r"run\(\) got .* 'backnd'; did you mean 'backend'"):
        cs.run(1, backnd="trio")
    with pytest.raises(TypeError, match=r"run\(\) got .* 'solver'; known: 'backend'"):
        cs.run(1, solver=None)

    async def main():
        with pytest.raises(TypeError, match=r"run_async\(\) got .* 'backend'"):
            await cs.run_async(1, use_vm=use_vm, backend="trio")

    inside(main)


def test_signatures_show_every_option():
    """What is handed on is shown where it is given: all options, with their defaults."""
    of_engine = set(inspect.signature(cs.Engine.run).parameters) - {"self"}
    of_async = set(inspect.signature(cs.run_async).parameters)
    of_run = set(inspect.signature(cs.run).parameters)
    assert of_engine == {"target", "params", "use_vm", "max_steps", "resources", "progress"}
    own = {"system_resources", "constraints", "executor", "bus", "tail_calls"}
    assert of_async == of_engine | own
    assert of_run == of_async | {"backend", "backend_options"}
