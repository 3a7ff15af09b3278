"""What the iterations of a loop share: pure invariants (section 5)."""

import anyio
import pytest

import cascade as cs

ROUNDS = 4


def looped(argument, kind="jump"):
    """A loop of ROUNDS iterations whose node needs `argument` in each."""

    @cs.task
    def step(n, needed):
        if n == ROUNDS:
            return needed
        return cs.Jump("again", {"n": n + 1}) if kind == "jump" else cs.TailCall((n + 1,))

    node = step(1, argument)
    return cs.bind(node, cs.select_jump({"again": node}))


def recorded():
    """A pure and an impure task that record what they are called with."""
    calls = []

    @cs.task(pure=True)
    def pure(*args):
        calls.append("pure")
        return args

    @cs.task
    def impure(*args):
        calls.append("impure")
        return args or True

    return pure, impure, calls


@pytest.mark.parametrize("kind", ["jump", "tail call"])
def test_a_pure_invariant_is_evaluated_once(run, kind):
    """What is pure with all it needs is evaluated once for all iterations."""
    pure, _, calls = recorded()
    run(looped(pure(pure(1), [pure(2)]), kind))
    assert calls == ["pure"] * 3


def test_an_impure_node_is_evaluated_in_each_iteration(run):
    """What is impure runs again."""
    _, impure, calls = recorded()
    run(looped(impure()))
    assert calls == ["impure"] * ROUNDS


@pytest.mark.parametrize(
    "build",
    [
        lambda pure, impure: pure(impure()),
        lambda pure, impure: pure().run_if(impure()),
        lambda pure, impure: pure().run_if(True, default=impure()),
        lambda pure, impure: pure().after(impure()),
    ],
    ids=["argument", "condition", "default", "predecessor"],
)
def test_a_pure_node_that_needs_an_impure_one_is_not_shared(run, build):
    """Arguments, conditions, defaults and predecessors count."""
    pure, impure, calls = recorded()
    run(looped(build(pure, impure)))
    assert calls.count("pure") == ROUNDS


def test_impurity_passes_through_pure_nodes(run):
    """A pure node above a pure node above an impure one is not shared either."""
    pure, impure, calls = recorded()
    run(looped(pure(pure([impure()]))))
    assert calls.count("pure") == 2 * ROUNDS


def test_a_pure_node_with_an_impure_amount_is_not_shared(run):
    """Amounts count too."""
    calls = []

    @cs.task
    def amount():
        return 1

    @cs.task(pure=True)
    def pure():
        calls.append(1)

    run(looped(pure().with_constraints(gpu=amount())), system_resources={"gpu": 2})
    assert len(calls) == ROUNDS


@pytest.mark.parametrize("source", ["literal", "param", "env"])
def test_literals_params_and_env_are_pure(run, monkeypatch, source):
    """A pure node that needs data of the run only is shared."""
    monkeypatch.setenv("CASCADE_TEST_VALUE", "v")
    pure, _, calls = recorded()
    inputs = {"literal": [1], "param": cs.Param("p"), "env": cs.Env("CASCADE_TEST_VALUE")}
    params = {"p": "v"} if source == "param" else None
    run(looped(pure(inputs[source])), params=params)
    assert calls == ["pure"]


@pytest.mark.parametrize(("scope", "executions"), [("run", 1), ("step", ROUNDS), ("task", ROUNDS)])
def test_only_resources_of_the_run_are_pure(run, scope, executions):
    """A resource of a narrower scope belongs to its iteration, and so does what needs it."""

    @cs.resource(scope=scope)
    def connection():
        yield object()

    pure, _, calls = recorded()
    run(looped(pure(cs.inject("connection"))), resources=[connection])
    assert len(calls) == executions


def test_a_map_of_a_pure_task_is_shared(run):
    """The items of an invariant map run once."""
    calls = []

    @cs.task(pure=True)
    def double(x):
        calls.append(x)
        return 2 * x

    assert run(looped(double.map(x=[1, 2]))) == [2, 4]
    assert calls == [1, 2]


def test_an_invariant_is_shared_with_the_evaluation_around(run):
    """The target and the iterations have one node for equal pure calls."""
    pure, _, calls = recorded()
    assert run([pure(1), looped(pure(1)), looped(pure(1))]) == [(1,)] * 3
    assert calls == ["pure"]


def test_invariants_of_an_inner_loop_move_to_the_outermost_evaluation(run):
    """An inner loop entered many times evaluates its invariants once in all."""
    pure, _, calls = recorded()
    run(looped(looped(pure(1))))
    assert calls == ["pure"]


def test_invariants_of_a_route_are_shared(run):
    """Routes are reached from the loop: what is pure in them is evaluated once."""
    pure, _, calls = recorded()

    @cs.task
    def start(n=0):
        return cs.Jump("work" if n < 3 else "exit", {"n": n} if n < 3 else n)

    @cs.task
    def work(n, needed):
        return cs.Jump("start", n + 1)

    first, second = start(), work(0, pure(1))
    cs.bind(first, cs.select_jump({"work": second, "exit": None}))
    cs.bind(second, cs.select_jump({"start": first}))
    assert run(first) == 3
    assert calls == ["pure"]


def test_an_invariant_is_evaluated_on_first_demand_only(run):
    """What no iteration demands never runs, pure or not."""
    pure, _, calls = recorded()

    @cs.task
    def start():
        return cs.Jump("work", 3)

    @cs.task
    def work(n):
        return n

    @cs.task
    def never(x):
        return x

    routes = cs.select_jump({"work": work(pure(1)), "never": never(pure(2))})
    assert run(cs.bind(start(), routes)) == 3
    assert calls == []


def test_the_looped_node_itself_is_never_shared(run):
    """A pure node that is looped executes in each iteration."""
    calls = []

    @cs.task(pure=True)
    def step():
        calls.append(1)
        return cs.Jump("again") if len(calls) < 4 else "end"

    node = step()
    assert run(cs.bind(node, cs.select_jump({"again": node}))) == "end"
    assert len(calls) == 4


def test_each_run_evaluates_its_invariants_itself(run):
    """Sharing ends with the evaluation: the next run computes anew."""
    pure, _, calls = recorded()
    target = looped(pure(1))
    run(target)
    run(target)
    assert calls == ["pure", "pure"]


def test_an_iteration_waits_for_the_shared_node_not_for_its_argument(run):
    """While the node is being evaluated, its argument is not taken for its value."""

    @cs.task(pure=True)
    async def shared(x):
        await anyio.sleep(1)
        return f"value of {x}"

    @cs.task
    async def step(n, y):
        return cs.Jump("exit", y)

    node = shared(cs.Param("x", default="argument"))
    loop = cs.bind(step(0, node), cs.select_jump({"exit": None}))
    assert run([node, loop]) == ["value of argument", "value of argument"]
