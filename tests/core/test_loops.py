"""Loops: jumps, their data and their routes (section 8)."""

import gc
import sys
import weakref

import anyio
import pytest

import cascade as cs
from cascade.core.services import FusedTier


def loop_of(node, **routes):
    """Bind `node` to `again` (itself), `exit` and what is given; return it."""
    return cs.bind(node, cs.select_jump({"again": node, "exit": None, **routes}))


def counter():
    """A task that jumps `again` until `n` is the limit, which is its value; and its calls."""
    calls = []

    @cs.task
    def count(n, limit=5):
        calls.append(n)
        return cs.Jump("again", n + 1) if n < limit else n

    return count, calls


@pytest.mark.parametrize("value", [None, 0, "x", [1]])
def test_an_ordinary_value_ends_the_loop(run, value):
    """A loop is worth the first value that is not a Jump."""

    @cs.task
    def step(n):
        return cs.Jump("again", n + 1) if n < 3 else value

    assert run(loop_of(step(0))) == value


@pytest.mark.parametrize("data", [None, 0, {}, {"n": 1}, [1]])
def test_the_route_none_ends_the_loop_with_the_data(run, data):
    """A Jump to the route None gives the data of the Jump, as the same object."""

    @cs.task
    def step():
        return cs.Jump("exit", data)

    assert run(loop_of(step())) is data


def test_async_tasks_loop_too(run):
    """A loop of a task that suspends is the same loop."""

    @cs.task
    async def count(n):
        await anyio.sleep(1)
        return cs.Jump("again", n + 1) if n < 5 else n

    assert run(loop_of(count(0))) == 5


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (None, (1, 2)),
        ({}, (1, 2)),
        ({"b": 5}, (1, 5)),
        ({"a": 3, "b": 4}, (3, 4)),
        ({"a": None}, (None, 2)),
        (7, (7, 2)),
        (0, (0, 2)),
        (False, (False, 2)),
        ("b", ("b", 2)),
        ((8, 9), ((8, 9), 2)),
        ([], ([], 2)),
    ],
)
def test_data_override_the_arguments_of_one_iteration(run, data, expected):
    """A dict overrides by name, another value the first parameter, None and {} nothing; once."""
    calls = []

    @cs.task
    def step(a, b=0):
        calls.append((a, b))
        return [cs.Jump("again", data), cs.Jump("again"), "end"][len(calls) - 1]

    run(loop_of(step(1, b=2)))
    assert calls == [(1, 2), expected, (1, 2)]


def test_a_default_may_be_overridden(run):
    """Data override a parameter that the call left to its default."""
    calls = []

    @cs.task
    def step(a, b=0):
        calls.append((a, b))
        return cs.Jump("again", {"b": 9}) if b == 0 else b

    assert run(loop_of(step(1))) == 9
    assert calls == [(1, 0), (1, 9)]


def test_the_first_parameter_comes_after_self(run):
    """Data that are no dict are the first argument of a method, not its object."""

    class Counter:
        @cs.task
        def step(self, n):
            return cs.Jump("again", n + 1) if n < 3 else (self, n)

    obj = Counter()
    assert run(loop_of(obj.step(0))) == (obj, 3)


def test_an_overridden_argument_is_not_demanded(run):
    """The expression of an argument that data override is not evaluated."""
    runs = []

    @cs.task
    def costly():
        runs.append(1)
        return 0

    @cs.task
    def start():
        return cs.Jump("work", 3)

    @cs.task
    def work(n):
        return n * 10

    assert run(cs.bind(start(), cs.select_jump({"work": work(costly())}))) == 30
    assert runs == []


def test_arguments_are_evaluated_anew_in_each_iteration(run):
    """An impure argument that nothing overrides runs once an iteration."""
    reads = []

    @cs.task
    def read():
        reads.append(1)
        return len(reads)

    @cs.task
    def step(n):
        return cs.Jump("again") if n < 4 else n

    assert run(loop_of(step(read()))) == 4
    assert len(reads) == 4


def test_the_selector_of_the_route_serves_its_next_jump(run):
    """A state machine: every state has its own routes under the same keys."""
    log = []

    @cs.task
    def red(n):
        log.append("red")
        return cs.Jump("next", n)

    @cs.task
    def green(n):
        log.append("green")
        return cs.Jump("next", n)

    @cs.task
    def amber(n):
        log.append("amber")
        return cs.Jump("next" if n else "off", n - 1)

    first, second, third = red(1), green(0), amber(0)
    cs.bind(first, cs.select_jump({"next": second}))
    cs.bind(second, cs.select_jump({"next": third}))
    cs.bind(third, cs.select_jump({"next": first, "off": None}))
    assert run(first) == -1
    assert log == ["red", "green", "amber"] * 2


def test_unchosen_routes_never_run(run):
    """A route that no Jump names is not evaluated, nor is anything it needs."""
    runs = []

    @cs.task
    def never(*args):
        runs.append(1)

    count, _ = counter()
    other = never(never()).after(never()).run_if(never())
    assert run(loop_of(count(0), other=other)) == 5
    assert runs == []


@pytest.mark.parametrize("data", [None, {}])
def test_a_route_may_be_a_map_or_a_router(run, data):
    """The value of a map or of a Router that a Jump names ends the loop."""

    @cs.task
    def start(key):
        return cs.Jump(key, data)

    @cs.task
    def double(x):
        return 2 * x

    routes = {
        "map": double.map(x=[1, 2]),
        "router": cs.Router(selector="a", routes={"a": double(5), "b": double(6)}),
    }
    selector = cs.select_jump(routes)
    assert run([cs.bind(start(key), selector) for key in routes]) == [[2, 4], 10]


@pytest.mark.parametrize("key", ["map", "router"])
@pytest.mark.parametrize("data", [1, {"x": 1}])
def test_data_for_a_map_or_a_router_are_a_type_error(run, key, data):
    """Neither a map nor a Router has parameters to override."""

    @cs.task
    def start():
        return cs.Jump(key, data)

    @cs.task
    def double(x):
        return 2 * x

    routes = {"map": double.map(x=[1]), "router": cs.Router("a", routes={"a": double(1)})}
    with pytest.raises(TypeError):
        run(cs.bind(start(), cs.select_jump(routes)))


@pytest.mark.parametrize("data", [{"m": 1}, {"n": 1, "limt": 2}, {1: 2}])
def test_data_that_name_no_parameter_are_a_type_error(run, data):
    """A key of the data that is no parameter is a TypeError."""

    @cs.task
    def step(n, limit=1):
        return cs.Jump("again", data)

    with pytest.raises(TypeError):
        run(loop_of(step(0)))


def test_data_for_a_task_without_parameters_are_a_type_error(run):
    """A value has no first parameter to go to where there is none."""

    @cs.task
    def step():
        return cs.Jump("again", 1)

    with pytest.raises(TypeError):
        run(loop_of(step()))


@pytest.mark.parametrize("data", [None, {"no parameter": 1}])
def test_an_unknown_key_is_a_jump_key_error(run, data):
    """The error names the nearest key, whatever the data are."""

    @cs.task
    def step():
        return cs.Jump("agian", data)

    with pytest.raises(cs.JumpKeyError, match=r"(?is)agian.*did you mean.*again"):
        run(loop_of(step()))


def test_keys_are_any_hashable_values(run):
    """Routes are found as in a dict."""

    @cs.task
    def step(n):
        return cs.Jump(n > 2, n + 1)

    node = step(0)
    cs.bind(node, cs.select_jump({False: node, True: None}))
    assert run(node) == 4


def test_a_jump_without_a_selector_is_a_jump_not_bound_error(run):
    """An unbound node, a map item, a returned expression and an unbound route cannot jump."""

    @cs.task
    def jumps(x=0):
        return cs.Jump("again", x)

    @cs.task
    def gives():
        return jumps()

    _count, _ = counter()
    bound = cs.bind(gives(), cs.select_jump({"again": None}))
    routed = cs.bind(jumps(), cs.select_jump({"again": jumps()}))
    for target in (jumps(), [jumps()], jumps.map(x=[1]), gives(), bound, routed):
        with pytest.raises(cs.JumpNotBoundError, match="jumps"):
            run(target)


@pytest.mark.parametrize("route", [1, "again", [], lambda: None, cs.Param("p")])
def test_a_route_that_is_no_expression_is_a_type_error(route):
    """Routes are None, calls, maps or Routers."""
    count, _ = counter()
    with pytest.raises(TypeError):
        cs.bind(count(0), cs.select_jump({"again": route}))


def test_bind_returns_its_node_and_replaces_earlier_routes(run):
    """The last selector given to a node counts."""
    count, _ = counter()
    node = count(0)
    assert cs.bind(node, cs.select_jump({"other": None})) is node
    assert loop_of(node) is node
    assert run(node) == 5


def test_a_loop_may_be_anywhere_in_a_tree(run):
    """As an argument, a condition, a default, a predecessor, a selector or a member."""
    count, _ = counter()

    @cs.task
    def echo(*args):
        return args

    def loop(limit):
        return loop_of(count(0, limit))

    target = [
        echo(loop(3), [loop(4)]),
        echo("if").run_if(loop(2)),
        echo("default").run_if(False, default=loop(6)),
        echo("after").after(loop(2)),
        cs.Router(selector=loop(1), routes={1: "one"}),
        {"member": loop(7)},
    ]
    assert run(target) == [(3, [4]), ("if",), 6, ("after",), "one", {"member": 7}]


def test_a_loop_runs_once_for_all_its_consumers(run):
    """Within an evaluation a loop is evaluated once."""
    count, calls = counter()

    @cs.task
    def add(a, b):
        return a + b

    loop = loop_of(count(0))
    assert run([add(loop, loop), loop]) == [10, 5]
    assert calls == [0, 1, 2, 3, 4, 5]


def test_loops_run_at_the_same_time(run):
    """Independent loops take turns while they wait."""
    log = []

    @cs.task
    async def step(name, n=0):
        log.append(name)
        await anyio.sleep(1)
        return cs.Jump("again", {"n": n + 1}) if n < 2 else name

    assert run([loop_of(step("a")), loop_of(step("b"))]) == ["a", "b"]
    assert [set(log[i : i + 2]) for i in (0, 2, 4)] == [{"a", "b"}] * 3


def test_a_route_is_evaluated_anew_wherever_else_it_stands(run):
    """A node that is a route and a part of the target runs in the iteration and in the target."""
    calls = []

    @cs.task
    def start():
        return cs.Jump("work", 7)

    @cs.task
    def work(n):
        calls.append(n)
        return n

    shared = work(1)
    assert run([cs.bind(start(), cs.select_jump({"work": shared})), shared]) == [7, 1]
    assert sorted(calls) == [1, 7]


def test_a_skipped_argument_skips_the_loop(run):
    """A looped node that needs a skipped node is skipped, in whichever iteration."""
    holds, _ = conditional(2)
    calls = []

    @cs.task
    def argument():
        return 1

    @cs.task
    def step(n, needed):
        calls.append(n)
        return cs.Jump("again", {"n": n + 1})

    with pytest.raises(cs.DependencyMissingError, match="argument"):
        run([loop_of(step(0, argument().run_if(holds())))])
    assert calls == [0, 1]


def test_loops_nest(run):
    """A loop that a looped node needs is run anew in each iteration."""
    count, calls = counter()
    outer_calls = []

    @cs.task
    def outer(inner, n=0):
        outer_calls.append((inner, n))
        return cs.Jump("again", {"n": n + 1}) if n < 2 else "end"

    assert run(loop_of(outer(loop_of(count(0, 3))))) == "end"
    assert outer_calls == [(3, 0), (3, 1), (3, 2)]
    assert calls == [0, 1, 2, 3] * 3


def test_a_loop_within_a_route(run):
    """A route may need a loop of its own."""
    count, _ = counter()

    @cs.task
    def start():
        return cs.Jump("work")

    @cs.task
    def work(x):
        return x * 10

    assert run(cs.bind(start(), cs.select_jump({"work": work(loop_of(count(0, 4)))}))) == 40


def conditional(after=3):
    """A condition that holds `after` times."""
    asked = []

    @cs.task
    def holds():
        asked.append(1)
        return len(asked) <= after

    return holds, asked


def test_a_false_condition_of_a_route_ends_the_loop_with_its_default(run):
    """The conditions of a looped node are demanded in each iteration."""
    holds, asked = conditional()
    count, calls = counter()
    assert run(loop_of(count(0, 99).run_if(holds(), default="stopped"))) == "stopped"
    assert calls == [0, 1, 2]
    assert len(asked) == 4


def test_a_false_condition_of_a_route_skips_the_loop(run):
    """Without a default the loop's node is skipped, for the reason ConditionFalse."""

    @cs.task
    def later():
        return "ran"

    def loop():
        holds, _ = conditional()
        count, _ = counter()
        return loop_of(count(0, 99).run_if(holds()))

    with pytest.raises(cs.DependencyMissingError) as caught:
        run(loop())
    assert caught.value.reason == "ConditionFalse"
    assert run(later().after(loop())) is None


def test_the_condition_of_another_route_ends_the_loop_too(run):
    """A default of the route jumped to is the value of the loop."""

    @cs.task
    def start():
        return cs.Jump("work")

    @cs.task
    def work():
        raise AssertionError

    routes = cs.select_jump({"work": work().run_if(False, default="instead")})
    assert run(cs.bind(start(), routes)) == "instead"


def test_predecessors_of_a_loop_run_once(run):
    """`after` belongs to the evaluation around the loop: once, before the first iteration."""
    log = []

    @cs.task
    def prepare():
        log.append("prepare")

    @cs.task
    def step(n):
        log.append(n)
        return cs.Jump("again", n + 1) if n < 3 else n

    assert run(loop_of(step(0).after(prepare()))) == 3
    assert log == ["prepare", 0, 1, 2, 3]


@pytest.mark.parametrize("visits", [0, 1, 3])
def test_predecessors_of_a_route_run_once_if_it_is_taken(run, visits):
    """`after` of a route runs before the first iteration of that route, and only then."""
    log = []

    @cs.task
    def prepare():
        log.append("prepare")

    @cs.task
    def start(n=0):
        log.append("start")
        return cs.Jump("work" if n < visits else "exit", n)

    @cs.task
    def work(n):
        log.append("work")
        return cs.Jump("start", n + 1)

    first, second = start(), work(0).after(prepare())
    cs.bind(first, cs.select_jump({"work": second, "exit": None}))
    cs.bind(second, cs.select_jump({"start": first}))
    assert run(first) == visits
    rounds = ["start"] + ["work", "start"] * visits
    if visits:
        rounds.insert(1, "prepare")
    assert log == rounds


def test_data_are_never_searched_for_expressions(run):
    """An expression within the data of a Jump is data, for the loop's value and for its task."""
    count, calls = counter()
    lazy = count(0)
    seen = []

    @cs.task
    def step(n):
        seen.append(n)
        return [cs.Jump("again", {"n": lazy}), cs.Jump("exit", [lazy])][len(seen) - 1]

    (value,) = run(loop_of(step(1)))
    assert value is lazy
    assert seen[1] is lazy
    assert calls == []


def test_data_that_are_an_expression_are_data(run):
    """A loop may end with an expression as its value."""
    count, calls = counter()
    lazy = count(0)

    @cs.task
    def step():
        return cs.Jump("exit", lazy)

    assert run(loop_of(step())) is lazy
    assert calls == []


def test_max_steps_allows_that_many_executions(run):
    """A loop of n executions ends under `max_steps=n`."""
    count, _ = counter()
    assert run(loop_of(count(1, 5)), max_steps=5) == 5


def test_one_execution_more_is_a_step_limit_error(run):
    """Execution n+1 raises before anything of it is demanded; the loop and its data are named."""
    count, calls = counter()
    asked = []

    @cs.task
    def asks():
        asked.append(1)
        return True

    with pytest.raises(cs.StepLimitError, match=r"(?s)count.*1005|1005.*count"):
        run(loop_of(count(1001, 2000).run_if(asks())), max_steps=4)
    assert calls == [1001, 1002, 1003, 1004]
    assert len(asked) == 4


def test_the_routes_of_a_loop_share_one_count(run):
    """Every execution of a bound node or of a route of it counts."""
    calls = []

    @cs.task
    def ping():
        calls.append("ping")
        return cs.Jump("pong")

    @cs.task
    def pong():
        calls.append("pong")
        return cs.Jump("ping")

    a, b = ping(), pong()
    cs.bind(a, cs.select_jump({"pong": b}))
    cs.bind(b, cs.select_jump({"ping": a}))
    with pytest.raises(cs.StepLimitError):
        run(a, max_steps=5)
    assert calls == ["ping", "pong", "ping", "pong", "ping"]


def test_each_entry_of_a_loop_counts_anew(run):
    """Two loops, or one loop entered twice, have a count each."""
    count, _calls = counter()

    @cs.task
    def outer(inner, n=0):
        return cs.Jump("again", {"n": n + 1}) if n < 2 else "end"

    assert run([loop_of(count(1, 3)), loop_of(count(1, 3))], max_steps=3) == [3, 3]
    assert run(loop_of(outer(loop_of(count(1, 3)))), max_steps=3) == "end"


def depth():
    frame, n = sys._getframe(), 0
    while frame is not None:
        frame, n = frame.f_back, n + 1
    return n


class Datum:
    """Data that can be watched."""

    def __init__(self, n):
        self.n = n


@pytest.mark.parametrize("shape", ["one node", "two nodes"])
def test_jumps_take_constant_stack_and_memory(run, shape):
    """Nothing of an iteration is left when the next but one runs."""
    depths, alive = [], []
    living = weakref.WeakSet()

    @cs.task
    def step(datum):
        n = datum.n
        if n in (1_000, 3_000):  # the virtual machine has fused the loop by then
            depths.append(depth())
            gc.collect()
            alive.append(len(living))
        if n == 3_000:
            return cs.Jump("exit", n)
        following = Datum(n + 1)
        living.add(following)
        return cs.Jump("again", {"datum": following})

    first = step(Datum(0))
    second = first if shape == "one node" else step(None)
    cs.bind(first, cs.select_jump({"again": second, "exit": None}))
    cs.bind(second, cs.select_jump({"again": first, "exit": None}))
    assert run(first) == 3_000
    assert depths[0] == depths[1]
    assert alive[1] <= alive[0] + 3


def test_predecessors_of_a_loop_have_run_before_its_first_iteration_begins(run):
    """`after` predecessors run before the first iteration, its conditions included."""
    log = []

    @cs.task
    async def before():
        await anyio.sleep(5)
        log.append("before")

    @cs.task
    def told(name):
        log.append(name)
        return True

    @cs.task
    def step(_):
        log.append("step")
        return cs.Jump("again") if log.count("step") < 2 else "done"

    node = step(told("argument")).run_if(told("condition")).after(before())
    assert run(cs.bind(node, cs.select_jump({"again": node}))) == "done"
    assert log == ["before", *["condition", "argument", "step"] * 2]


def test_naming_a_task_in_a_class_body_does_not_change_it(run):
    """Data are the first parameter of a Task called by itself, even if a class has it too."""

    @cs.task
    def count(n):
        return cs.Jump("again", n + 1) if n < 3 else n

    class Steps:
        step = count

    assert Steps.step is count
    assert run(loop_of(count(0))) == 3


OF_THE_CLASS = pytest.param(
    "of the class",
    marks=pytest.mark.skipif(
        sys.version_info >= (3, 13), reason="classmethod does not ask the Task to bind any more"
    ),
)


@pytest.mark.parametrize("kind", ["put on later", OF_THE_CLASS, "on an object"])
def test_the_first_parameter_comes_after_whatever_is_bound(run, kind):
    """Whether a call has a `self` or `cls` is told by how the Task was reached."""

    class Steps:
        if kind == "of the class":

            @classmethod
            @cs.task
            def step(cls, n):
                return cs.Jump("again", n + 1) if n < 3 else (cls, n)

    @cs.task
    def step(self, n):
        return cs.Jump("again", n + 1) if n < 3 else (self, n)

    if kind != "of the class":
        Steps.step = step
    owner = Steps if kind == "of the class" else Steps()
    assert run(loop_of(owner.step(0)), max_steps=9) == (owner, 3)


def test_a_first_parameter_may_be_keyword_only(run):
    """Data that are no dict are the first parameter, of whatever kind."""

    @cs.task
    def step(*, n, limit=3):
        return cs.Jump("again", n + 1) if n < limit else n

    assert run(loop_of(step(n=0))) == 3


def test_data_keep_keywords_of_any_name(run):
    """Keywords of the node's own stay, even one called like a positional-only parameter."""

    @cs.task
    def step(n, /, **kwargs):
        return cs.Jump("again", n + 1) if n < 3 else (n, kwargs)

    assert run(loop_of(step(0, n=99))) == (3, {"n": 99})


def test_the_keys_of_a_loop_are_shown_as_they_are(run):
    """The error of an unknown key tells a string from a number."""

    @cs.task
    def leaps():
        return cs.Jump("1")

    with pytest.raises(cs.JumpKeyError, match="known: 1"):
        run(cs.bind(leaps(), cs.select_jump({1: None})))


def test_a_route_may_be_an_argument_of_the_loop_too(run):
    """Its predecessor belongs to the evaluation around the loop, where nobody else demands it."""
    calls = []

    @cs.task
    def before():
        calls.append("before")

    @cs.task
    def part(x=0):
        calls.append(f"part {x}")
        return x

    @cs.task
    def step(n, y):
        return cs.Jump("part", 7)

    route = part().after(before())
    assert run(cs.bind(step(0, route), cs.select_jump({"part": route}))) == 7
    assert calls == ["before", "part 0", "before", "part 7"]


def test_a_route_whose_predecessor_needs_the_loop_is_a_cycle(run):
    """A predecessor of a route that needs the loop's own value is a `CycleError`, not a hang."""
    route = cs.task(lambda: 1, name="route")()
    jumps = cs.task(lambda: cs.Jump("a"), name="jumps")()
    end = cs.task(lambda value: value, name="end")(cs.bind(jumps, cs.select_jump({"a": route})))
    route.after(end)
    with pytest.raises(cs.CycleError, match=r"jumps -> end -> jumps|end -> jumps -> end"):
        run(end)


def test_a_loop_within_a_loop_that_waits_for_the_outer_one_is_a_cycle(run):
    """The predecessor of a route of the inner loop cannot need the outer one."""
    jumps = cs.task(lambda *given: cs.Jump("a"), name="jumps")
    route = cs.task(lambda: 1, name="route")()
    inner = cs.bind(jumps(), cs.select_jump({"a": route}))
    outer = cs.bind(jumps(inner), cs.select_jump({"a": None}))
    route.after(cs.task(lambda value: value, name="end")(outer))
    with pytest.raises(cs.CycleError, match="end"):
        run(outer)


def test_a_loop_after_a_skipped_predecessor_is_skipped(run):
    """No iteration begins; as a target that only a predecessor kept back, it gives None."""
    ran = []

    @cs.task
    def step():
        ran.append("step")
        return cs.Jump("done", 1)

    @cs.task
    def never():
        ran.append("never")

    node = step().after(never().run_if(False))
    assert run(cs.bind(node, cs.select_jump({"again": node, "done": None}))) is None
    assert ran == []


def test_a_step_limit_tells_of_data_that_cannot_be_shown():
    """Data whose `repr` raises is told by its type."""

    class Odd:
        def __repr__(self):
            raise RuntimeError("no repr")

    assert str(cs.StepLimitError("loop", 3, Odd())).endswith("<Odd whose repr raises RuntimeError>")


@pytest.mark.parametrize("hot_after", [0, 1_000_000])
def test_tail_calls_within_a_router_route_keep_their_predecessors(inside, use_vm, hot_after):
    """A Router route is one evaluation: what a node in it comes `after` runs once, not per call."""
    calls = []
    engine = cs.Engine()
    engine.services.fused_tier = FusedTier(hot_after)

    @cs.task
    def before():
        calls.append("before")

    @cs.task
    def count(n):
        calls.append(n)
        return cs.TailCall((n - 1,)) if n else "done"

    @cs.task
    def start():
        return cs.Jump("go")

    router = cs.Router(selector="a", routes={"a": count(3).after(before())})
    loop = loop_of(start(), go=router)
    assert inside(lambda: engine.run(loop, use_vm=use_vm)) == "done"
    assert calls == ["before", 3, 2, 1, 0]


@pytest.mark.parametrize("hot_after", [0, 1_000_000])
@pytest.mark.parametrize("partly", [False, True])
def test_what_a_selector_needed_does_not_run_again_before_the_chosen_loop(
    inside, use_vm, partly, hot_after
):
    """A node runs once in a Router route, also if the loop that is chosen comes after it."""
    calls = []
    engine = cs.Engine()
    engine.services.fused_tier = FusedTier(hot_after)

    @cs.task
    def seed():
        calls.append("seed")
        return "a"

    @cs.task
    def off():
        calls.append("off")
        return False

    @cs.task
    def choose(key):
        return key

    @cs.task
    def start():
        return cs.Jump("go")

    @cs.task
    def count(n):
        calls.append(n)
        return cs.Jump("again", n + 1) if n < 3 else "done"

    first = seed()
    loop = loop_of(count(0).after(first))
    if partly:
        defaulted = seed().run_if(off(), default="a")
        loop.after(defaulted)
        router = cs.Router(selector=choose(defaulted), routes={"a": loop})
        expected = ["off", "seed", 0, 1, 2, 3]
    else:
        router = cs.Router(selector=choose(first), routes={"a": loop})
        expected = ["seed", 0, 1, 2, 3]
    target = loop_of(start(), go=router)
    assert inside(lambda: engine.run(target, use_vm=use_vm)) == "done"
    assert calls == expected


@pytest.mark.parametrize("hot_after", [0, 1_000_000])
@pytest.mark.parametrize("kind", ["inline", "async", "two", "skipped", "chosen again"])
def test_what_comes_before_a_chosen_loop_belongs_to_the_router_route(
    inside, use_vm, kind, hot_after
):
    """They share with its selector, and run once, however often the loop is chosen."""
    calls = []
    engine = cs.Engine()
    engine.services.fused_tier = FusedTier(hot_after)

    @cs.task
    def seed():
        calls.append("seed")
        return "a"

    @cs.task
    def before(_):
        calls.append("before")

    @cs.task
    async def suspends(_):
        await anyio.sleep(1)
        calls.append("suspends")

    @cs.task
    def start():
        return cs.Jump("go")

    @cs.task
    def choose(key):
        return key

    @cs.task
    def count(n):
        calls.append(n)
        if n == 1 and kind == "chosen again" and calls.count(1) == 1:
            return cs.Jump("go")
        return cs.Jump("again", n + 1) if n < 2 else "done"

    first = seed()
    node = count(0)
    router = cs.Router(selector=choose(first), routes={"a": node})
    cs.bind(node, cs.select_jump({"again": node, "go": router}))
    value, expected = "done", ["seed", "before", 0, 1, 2]
    if kind == "async":
        node.after(suspends(first))
        expected[1] = "suspends"
    elif kind == "skipped":
        node.after(before(first).run_if(False))
        value, expected = None, ["seed"]
    elif kind == "two":
        node.after(before(first), suspends(first))
        expected.insert(2, "suspends")
    else:
        node.after(before(first))
        if kind == "chosen again":
            expected = ["seed", "before", 0, 1, "seed", 0, 1, 2]
    target = loop_of(start(), go=router)
    assert inside(lambda: engine.run(target, use_vm=use_vm)) == value
    assert calls == expected
