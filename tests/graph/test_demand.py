"""Section 3: what is demanded runs, once, and nothing else does."""

import anyio
import pytest

import cascade as cs


@pytest.fixture
def log():
    return []


@pytest.fixture
def t(log):
    """A task that logs its name: its value is `value`, or its name."""

    @cs.task
    def t(name, *inputs, value=None):
        log.append(name)
        return name if value is None else value

    return t


@pytest.fixture
def wait(log):
    """A task that takes time: it logs when it starts and when it ends."""

    @cs.task
    async def wait(name, delay, *inputs, value=True):
        log.append((name, "starts", anyio.current_time()))
        await anyio.sleep(delay)
        log.append((name, "ends", anyio.current_time()))
        return value

    return wait


def times(log):
    """The log as a dict, times counted from the first entry."""
    return {(name, what): time - log[0][2] for name, what, time in log}


def test_an_expression_nobody_asks_for_never_runs(run, t, log):
    """What is never demanded never runs."""
    t("other", t("shared"))
    run(t("target"))
    assert log == ["target"]


@pytest.mark.parametrize("falsy", [False, 0, 0.0, "", [], {}, ()])
def test_conditions_are_demanded_up_to_the_first_falsy_one(run, t, log, falsy):
    """After a falsy condition nothing else of its node is demanded."""
    node = t("node", t("argument")).after(t("before")).with_constraints(gpu=t("amount", value=1))
    node.run_if(t("first")).run_if(t("second", value=falsy)).run_if(t("third"))
    node.run_if(True, default="default")
    assert run(node) == "default"
    assert log == ["first", "second"]


def test_a_literal_condition_counts_as_its_truth(run, t, log):
    """A condition may be data: a falsy one skips the node."""
    assert run([t("a").run_if([0]), t("b").run_if([], default=None)]) == ["a", None]
    assert log == ["a"]


def test_conditions_are_demanded_one_after_the_other(run, wait, log):
    """A condition is demanded when the one before it holds."""
    run(wait("node", 0).run_if(wait("first", 2)).run_if(wait("second", 1)))
    assert times(log)["second", "starts"] == pytest.approx(2)
    assert times(log)["node", "starts"] == pytest.approx(3)


def test_inputs_are_demanded_when_all_conditions_hold(run, wait, log):
    """Predecessors, arguments and amounts are demanded together, after the conditions."""
    node = wait("node", 0, wait("argument", 2)).after(wait("before", 3))
    node.with_constraints(gpu=wait("amount", 4, value=1)).run_if(wait("condition", 1))
    run(node, system_resources={"gpu": 1})
    at = times(log)
    for name in ("argument", "before", "amount"):
        assert at[name, "starts"] == pytest.approx(1)
    assert at["node", "starts"] == pytest.approx(5)


def test_predecessors_give_no_value(run, t, log):
    """`after` orders: its predecessors run before the node and are no arguments of it."""
    before = t("before")
    assert run(t("node").after(before)) == "node"
    assert log == ["before", "node"]


def test_a_router_demands_its_selector_then_the_chosen_route(run, t, wait, log):
    """Only the chosen route of a Router is demanded, when its selector has settled."""
    selector = wait("selector", 2, value="a")
    routes = {"a": wait("a", 1), "b": t("b", t("c")), "c": [t("d")]}
    run(cs.Router(selector, routes, default=t("default")))
    assert times(log)["a", "starts"] == pytest.approx(2)
    assert len(log) == 4


def test_the_chosen_route_may_be_a_container_or_router(run, t, log):
    """A route is any expression: all of a container, the chosen part of a Router."""
    inner = cs.Router(t("y"), {"x": t("x"), "y": {"k": (t("z"), 1)}})
    assert run(cs.Router(t("in"), {"in": [inner, t("w")], "out": t("out")})) == [
        {"k": ("z", 1)},
        "w",
    ]
    assert sorted(log) == ["in", "w", "y", "z"]


def test_a_node_of_an_unchosen_route_runs_if_demanded_elsewhere(run, t, log):
    """Demand counts, not the place: a node in an unchosen route runs for another consumer."""
    shared = t("shared")
    router = cs.Router(t("a"), {"a": "chosen", "b": t("b", shared)})
    assert run([router, shared]) == ["chosen", "shared"]
    assert sorted(log) == ["a", "shared"]


def test_a_default_is_demanded_only_when_needed(run, t, log):
    """The default of a node is demanded only when its condition is falsy."""
    assert run(t("node").run_if(True, default=t("unused"))) == "node"
    assert run(t("other").run_if(False, default=t("default"))) == "default"
    assert log == ["node", "default"]


@pytest.mark.parametrize(
    "consumers",
    [
        lambda t, x: [x, x, x],
        lambda t, x: [t("a", x, x), t("b", [x], {"k": x})],
        lambda t, x: t("a", x).after(x).run_if(x).run_if(x),
        lambda t, x: t("a", t("b", x), t("c", x)),
        lambda t, x: [t("a").run_if(False, default=x), t("b").run_if(False, default=x), x],
        lambda t, x: [cs.Router(x, {"shared": x}), x],
        lambda t, x: [cs.Router(t("k"), {"k": x}), cs.Router(t("k"), {"k": [x]})],
    ],
)
def test_a_node_runs_at_most_once(run, t, log, consumers):
    """Within one evaluation a node runs once, however many consumers it has."""
    run(consumers(t, t("shared")))
    assert log.count("shared") == 1


def test_every_run_is_an_evaluation_of_its_own(run, t, log):
    """A node runs once in each evaluation: a second run computes it again."""
    shared = t("shared")
    run([shared, shared])
    run([shared, shared])
    assert log == ["shared", "shared"]


def test_independent_nodes_run_concurrently(run, wait, log):
    """Independent asynchronous nodes take the time of the longest of them."""
    run([wait("a", 3), {"k": wait("b", 2)}, wait("c", 1, wait("d", 1))])
    assert max(times(log).values()) == pytest.approx(3)


def test_a_node_settled_earlier_is_not_waited_for_again(run, wait, log):
    """A consumer demanded later finds the value of a node that ran before."""
    shared = wait("shared", 5)
    late = wait("late", 0, shared).run_if(wait("condition", 7))
    run([shared, late])
    assert times(log)["late", "starts"] == pytest.approx(7)


@pytest.mark.parametrize("place", ["condition", "default", "selector", "amount", "after", "route"])
def test_an_exception_anywhere_fails_the_run(run, t, place):
    """An exception in a condition, default, selector or amount fails the run like any other."""
    error = ValueError("broken")

    @cs.task
    def broken():
        raise error

    target = {
        "condition": lambda: t("x").run_if(broken(), default=1),
        "default": lambda: t("x").run_if(False, default=broken()),
        "selector": lambda: cs.Router(broken(), {"a": 1}, default=2),
        "amount": lambda: t("x").with_constraints(gpu=broken()),
        "after": lambda: t("x").after(broken()),
        "route": lambda: cs.Router(t("a"), {"a": broken()}),
    }[place]()
    with pytest.raises(ValueError, match="broken") as caught:
        run(target, system_resources={"gpu": 1})
    assert caught.value is error


def test_expressions_are_read_when_the_run_starts(run, t, log):
    """Expressions and containers are read once: changing them in a run changes nothing."""
    items = []

    @cs.task
    def change(value):
        items.append("too late")
        late.run_if(False)
        return value

    items.append(change(1))
    late = t("late", items)
    collected = cs.task(lambda given: given, name="collect")(items)
    assert run([collected, late]) == [[1], "late"]
    assert log == ["late"]
