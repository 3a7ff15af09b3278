"""Section 4: what is skipped, why, and what becomes of those who need it."""

import anyio
import pytest

import cascade as cs


@pytest.fixture
def skipped():
    """A bus, and the (task, reason) pairs it reported."""
    bus, seen = cs.MessageBus(), []
    bus.subscribe(cs.TaskSkipped, lambda event: seen.append((event.task_name, event.reason)))
    return bus, seen


@pytest.fixture
def events():
    """A bus, and the TaskSkipped events it published."""
    bus, seen = cs.MessageBus(), []
    bus.subscribe(cs.TaskSkipped, seen.append)
    return bus, seen


def task(name, *inputs, value=None):
    """A node called `name`; its value is `value`, or its name."""

    def body(*given):
        return name if value is None else value

    return cs.task(body, name=name)(*inputs)


def no(name="no"):
    """A node that is skipped for its condition."""
    return task(name).run_if(False)


CONDITION = ("no", "ConditionFalse")


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (lambda: task("node").run_if(False), "ConditionFalse"),
        (lambda: task("node").run_if(True).run_if(task("c", value=0)), "ConditionFalse"),
        (lambda: task("node").run_if(no()), "UpstreamSkipped_Condition"),
        (lambda: task("node").run_if(True).run_if(no()), "UpstreamSkipped_Condition"),
        (lambda: task("node").run_if([no()]), "UpstreamSkipped_Condition"),
        (lambda: task("node").after(no()), "UpstreamSkipped_Sequence"),
        (lambda: task("node").after(task("ok"), no()), "UpstreamSkipped_Sequence"),
        (lambda: task("node", no()), "UpstreamSkipped_Data"),
        (lambda: task("node", 1, {"k": [(no(),)]}), "UpstreamSkipped_Data"),
        (lambda: task("node").with_constraints(gpu=no()), "UpstreamSkipped_Data"),
        (lambda: task("node").run_if(False, default=no()), "UpstreamSkipped_Data"),
        (lambda: task("node").run_if(False, default=[no()]), "UpstreamSkipped_Data"),
        (lambda: cs.task(lambda x: x, name="node").map(x=[1, no()]), "UpstreamSkipped_Data"),
        (lambda: cs.task(lambda x: x, name="node").map(x=no()), "UpstreamSkipped_Data"),
        (lambda: cs.task(lambda x: x, name="node").map(x=[1]).run_if(False), "ConditionFalse"),
        (
            lambda: cs.task(lambda x: x, name="node").map(x=[1]).after(no()),
            "UpstreamSkipped_Sequence",
        ),
    ],
)
def test_a_node_that_needs_a_skipped_one_is_skipped(run, skipped, node, reason):
    """What a node needed the skipped one for is its reason; its consumers lack data."""
    bus, seen = skipped
    with pytest.raises(cs.DependencyMissingError):
        run(task("consumer", node()), bus=bus)
    others = [CONDITION] if reason != "ConditionFalse" else []
    assert sorted(seen) == sorted([*others, ("node", reason), ("consumer", "UpstreamSkipped_Data")])


@pytest.mark.parametrize(
    "router",
    [
        lambda: cs.Router(no(), {"no": 1}, default=2),
        lambda: cs.Router(task("k"), {"k": no()}),
        lambda: cs.Router(task("k"), {"k": [1, no()]}),
        lambda: cs.Router(task("k"), {}, default=no()),
    ],
    ids=["selector", "route", "container", "default"],
)
def test_a_router_whose_selector_or_route_is_skipped_skips_its_consumer(run, skipped, router):
    """A node lacks its data when a Router it needs lacks its selector or its chosen route."""
    bus, seen = skipped
    with pytest.raises(cs.DependencyMissingError, match="no"):
        run(task("consumer", router()), bus=bus)
    assert seen[0] == CONDITION
    (_, (name, reason)) = seen
    assert name == "consumer"
    assert reason.startswith("UpstreamSkipped_")


def test_a_chosen_route_that_is_skipped_is_the_reason(run, skipped):
    """A node that needs the skipped route a Router chose is skipped as `UpstreamSkipped_Route`."""
    bus, seen = skipped
    with pytest.raises(cs.DependencyMissingError):
        run(task("node", cs.Router(task("k"), {"k": no()})), bus=bus)
    assert seen == [CONDITION, ("node", "UpstreamSkipped_Route")]


def test_a_selector_that_is_skipped_is_missing_data(run, skipped):
    """A node that needs a Router with a skipped selector is skipped as `UpstreamSkipped_Data`."""
    bus, seen = skipped
    with pytest.raises(cs.DependencyMissingError):
        run(task("node", cs.Router(no(), {"k": 1})), bus=bus)
    assert seen == [CONDITION, ("node", "UpstreamSkipped_Data")]


def test_an_unchosen_route_skips_nobody(run):
    """A route that would be skipped does not matter unless it is chosen."""
    assert run(task("node", cs.Router(task("k"), {"k": 1, "l": no()}))) == "node"


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (
            lambda: task("node", no("b")).run_if(no("a")).after(no("c")),
            "UpstreamSkipped_Condition",
        ),
        (
            lambda: task("node", no("a"), no("b")).after(no("c")),
            "UpstreamSkipped_Sequence",
        ),
        (
            lambda: task("node", no("a")).with_constraints(gpu=no("b")).after(no("c")),
            "UpstreamSkipped_Sequence",
        ),
        (
            lambda: task("node", cs.Router(task("k"), {"k": no("a")}), no("b")),
            "UpstreamSkipped_Route",
        ),
        (
            lambda: task("node", no("b"), cs.Router(task("k"), {"k": no("a")})),
            "UpstreamSkipped_Data",
        ),
        (
            lambda: task("node", cs.Router(task("k"), {"k": no("a")})).with_constraints(
                gpu=no("b")
            ),
            "UpstreamSkipped_Route",
        ),
    ],
)
def test_the_first_of_several_reasons_counts(run, skipped, node, reason):
    """Of several reasons the first of condition, `after`, arguments and amounts counts."""
    bus, seen = skipped
    with pytest.raises(cs.DependencyMissingError):
        run([node()], bus=bus)
    assert [why for name, why in seen if name == "node"] == [reason]


def test_a_reason_known_late_may_count_first(run, skipped):
    """The order of reasons is that of their places, not of the times they became known."""

    @cs.task
    async def slowly_falsy():
        await anyio.sleep(5)

    bus, seen = skipped
    late = task("late").run_if(slowly_falsy())
    assert run(task("node", no()).after(late), bus=bus) is None
    assert seen == [
        CONDITION,
        ("late", "ConditionFalse"),
        ("node", "UpstreamSkipped_Sequence"),
    ]


def test_a_node_is_skipped_when_all_it_demanded_has_settled(run, events):
    """A node with a skipped input is skipped once its other inputs have settled too."""
    ends = []

    @cs.task
    async def slow():
        await anyio.sleep(5)
        ends.append(anyio.current_time())

    bus, seen = events
    with pytest.raises(cs.DependencyMissingError):
        run(task("node", no(), slow()), bus=bus)
    assert [event.task_name for event in seen] == ["no", "node"]
    assert seen[1].timestamp == pytest.approx(ends[0])
    assert seen[1].timestamp - seen[0].timestamp == pytest.approx(5)


# Defaults


@pytest.mark.parametrize(
    ("node", "value"),
    [
        (lambda: task("no").run_if(False, default=7), 7),
        (lambda: task("no").run_if(False, default=None), None),
        (lambda: task("no").run_if(False, default=task("d")), "d"),
        (lambda: task("no").run_if(False, default=[task("d"), 1]), ["d", 1]),
        (lambda: task("no").run_if(False, default=1).run_if(True, default=2), 2),
        (lambda: task("no").run_if(True, default=1).run_if(False, default=2), 2),
        (lambda: task("no").run_if(False, default=1).run_if(True), 1),
        (lambda: cs.task(lambda x: x, name="no").map(x=[1]).run_if(False, default=7), 7),
    ],
)
def test_a_default_stands_in_for_a_node_whose_condition_is_false(run, skipped, node, value):
    """With a default a falsy condition gives its value; the skip is published all the same."""
    bus, seen = skipped
    assert run(node(), bus=bus) == value
    assert seen == [CONDITION]


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (lambda: task("node").run_if(no(), default=1), "UpstreamSkipped_Condition"),
        (lambda: task("node").run_if(True, default=1).after(no()), "UpstreamSkipped_Sequence"),
        (lambda: task("node", no()).run_if(True, default=1), "UpstreamSkipped_Data"),
    ],
)
def test_a_default_replaces_nothing_else(run, skipped, node, reason):
    """A default does not stand in for a node that is skipped from above."""
    bus, seen = skipped
    with pytest.raises(cs.DependencyMissingError):
        run([node()], bus=bus)
    assert seen == [CONDITION, ("node", reason)]


def test_consumers_of_a_defaulted_node_run(run, skipped):
    """A node that has its default's value is not skipped for its consumers."""
    bus, seen = skipped
    node = task("no").run_if(False, default=task("d"))
    consumer = task("consumer", node).after(node).run_if(node)
    assert run(consumer, bus=bus) == "consumer"
    assert seen == [CONDITION]


def test_a_skipped_default_publishes_one_reason(run, skipped):
    """A node whose default is skipped publishes only `UpstreamSkipped_Data`."""
    bus, seen = skipped
    with pytest.raises(cs.DependencyMissingError):
        run(task("node").run_if(False, default=no()), bus=bus)
    assert seen == [CONDITION, ("node", "UpstreamSkipped_Data")]


# A skipped target


def test_a_target_skipped_through_after_gives_none(run, skipped):
    """A target skipped with reason `UpstreamSkipped_Sequence` gives `None`."""
    bus, seen = skipped
    assert run(task("node").after(no()), bus=bus) is None
    assert run(cs.sequence([no(), task("x"), task("y")])) is None
    assert seen == [CONDITION, ("node", "UpstreamSkipped_Sequence")]


@pytest.mark.parametrize(
    "target",
    [
        lambda: no(),
        lambda: task("t", no()),
        lambda: task("t", task("u", [no()])),
        lambda: task("t").run_if(no()),
        lambda: task("t", task("u").after(no())),
        lambda: [1, no()],
        lambda: {"k": (no(), 1)},
        lambda: [task("t").after(no())],
        lambda: cs.Router(no(), {"k": 1}),
        lambda: cs.Router(task("k"), {"k": no()}),
        lambda: cs.Router(task("k"), {"k": task("t").after(no())}),
        lambda: cs.task(lambda x: x).map(x=[no()]),
        lambda: task("t").run_if(False, default=no()),
    ],
)
def test_a_skipped_target_names_the_node_skipped_first(run, target):
    """Any other skipped target is an error that names the node skipped first and why."""
    with pytest.raises(cs.DependencyMissingError, match=r"\bno\b.*ConditionFalse") as caught:
        run(target())
    assert isinstance(caught.value, RuntimeError)


def test_the_error_of_a_skipped_target_tells_what_was_missing(run, events):
    """The error has the target's id, the argument, and the id of what it needed."""

    @cs.task
    def target(first, second):
        return 1

    bus, seen = events
    with pytest.raises(cs.DependencyMissingError) as caught:
        run(target(1, second=no()), bus=bus)
    missing, node = seen
    error = caught.value
    assert (error.task_id, error.arg_name) == (node.task_id, "second")
    assert error.dependency_id == missing.task_id


def test_the_error_of_a_target_with_a_falsy_condition(run, events):
    """A target skipped for its own condition is the node skipped first."""
    bus, seen = events
    with pytest.raises(cs.DependencyMissingError) as caught:
        run(no(), bus=bus)
    assert caught.value.task_id == seen[0].task_id
    assert caught.value.reason == seen[0].reason == "ConditionFalse"


@pytest.mark.parametrize("order", [1, -1])
def test_the_first_missing_argument_is_named(run, order):
    """Of several skipped arguments the leftmost counts."""

    @cs.task
    def target(first, second, third):
        return 1

    with pytest.raises(cs.DependencyMissingError) as caught:
        run(target(**dict([("first", 1), ("second", no("a")), ("third", no("b"))][::order])))
    assert caught.value.arg_name == "second"
    assert "a" in str(caught.value)


# Pruned


def pruned(seen):
    return [name for name, reason in seen if reason == "Pruned"]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (lambda: cs.Router(task("k"), {"k": task("a"), "l": task("b")}), "b"),
        (lambda: cs.Router(task("k"), {"l": task("b", task("c")), "k": 1}), "cb"),
        (lambda: cs.Router(task("k"), {"x": [task("x")], "k": 1, "y": task("y")}), "xy"),
        (lambda: cs.Router(task("z"), {"x": task("x"), "y": task("y")}, default=1), "xy"),
        (lambda: [cs.Router(task("k"), {"k": 1, "l": (b := task("b"))}), b], ""),
        (lambda: cs.Router(task("k"), {"k": (c := task("c")), "l": task("b", c)}), "b"),
        (
            lambda: [
                cs.Router(task("k"), {"k": 1, "l": (b := task("b"))}),
                cs.Router(task("k"), {"k": 1, "l": [b, task("c")]}),
            ],
            "bc",
        ),
        (
            lambda: cs.Router(
                task("k"),
                {"l": cs.Router(task("s"), {"m": task("m")}, default=task("d")), "k": 1},
            ),
            "smd",
        ),
        (
            lambda: cs.Router(
                task("k"), {"k": cs.Router(task("m"), {"m": 1, "n": task("n")}), "l": task("l")}
            ),
            "nl",
        ),
        (
            lambda: cs.Router(
                task("k"),
                {"l": task("b", task("e")).after(task("a")).run_if(task("c")), "k": 1},
            ),
            "caeb",
        ),
        (
            lambda: cs.Router(
                task("k"), {"k": 1, "l": cs.task(lambda x: x, name="m").map(x=[task("b")])}
            ),
            "bm",
        ),
    ],
)
def test_what_only_unchosen_routes_need_is_pruned(run, skipped, target, expected):
    """Nodes reachable from unchosen routes and never demanded are `Pruned`, in plan order."""
    bus, seen = skipped
    run(target(), bus=bus)
    assert "".join(pruned(seen)) == expected
    assert len(seen) == len(expected)


@pytest.mark.parametrize(
    "target",
    [
        lambda: task("x", task("a")).run_if(False, default=1),
        lambda: task("x").run_if(task("c", value=0), default=1).after(task("a")),
        lambda: task("x").run_if(True, default=task("a")),
        lambda: (
            task("x")
            .run_if(False, default=1)
            .run_if(cs.Router(task("k"), {"k": 1, "l": task("a")}))
        ),
    ],
    ids=["inputs", "predecessors", "default", "router that never chose"],
)
def test_other_undemanded_nodes_are_not_pruned(run, skipped, target):
    """Inputs of skipped nodes, unused defaults and Routers that never chose prune nothing."""
    bus, seen = skipped
    run(target(), bus=bus)
    assert pruned(seen) == []


def test_jump_routes_are_not_pruned(run, skipped):
    """A jump route that is never taken is not reported."""
    bus, seen = skipped
    looped = cs.bind(task("loop"), cs.select_jump({"again": task("route", task("input"))}))
    assert run([looped], bus=bus) == ["loop"]
    assert seen == []


def test_pruned_nodes_are_reported_for_a_skipped_target_too(run, skipped):
    """An evaluation that ends with a skipped target reports its pruned nodes."""
    bus, seen = skipped
    router = cs.Router(task("k"), {"k": no(), "l": task("a")})
    assert run(task("node").after(router), bus=bus) is None
    assert pruned(seen) == ["a"]


@pytest.fixture
def loop():
    """`loop(n, *inputs)`: a loop of `n` iterations that needs `inputs` in each."""

    def make(count, *inputs):
        @cs.task
        def step(n, *given):
            return cs.Jump("again" if n < count else "exit", {"n": n + 1})

        node = step(1, *inputs)
        return cs.bind(node, cs.select_jump({"again": node, "exit": None}))

    return make


def test_each_iteration_reports_its_own_skips(run, skipped, loop):
    """An iteration is an evaluation: it reports its own pruned and skipped nodes."""
    bus, seen = skipped
    router = cs.Router(task("k"), {"k": task("no").run_if(False, default=1), "l": task("a")})
    run(loop(3, router), bus=bus)
    assert seen == [CONDITION, ("a", "Pruned")] * 3


def test_a_shared_node_reports_its_skip_once(run, skipped, loop):
    """What all iterations share is one node: it reports once that it is skipped."""
    bus, seen = skipped
    shared = cs.task(lambda: 1, name="no", pure=True)().run_if(False, default=1)
    run(loop(3, shared), bus=bus)
    assert seen == [CONDITION]


def test_a_failed_evaluation_prunes_nothing(run, skipped):
    """When an evaluation fails nothing is reported as pruned."""
    bus, seen = skipped

    @cs.task
    def fail(x):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run(fail(cs.Router(task("k"), {"k": 1, "l": task("a")})), bus=bus)
    assert pruned(seen) == []


# Keys of a Router


class Key:
    def __init__(self, name):
        self.name = name

    def __eq__(self, other):
        return isinstance(other, Key) and other.name == self.name

    def __hash__(self):
        return hash(self.name)


@pytest.mark.parametrize(
    ("key", "given"),
    [(1, True), (1, 1.0), (None, None), ((1, "a"), (1, "a")), (Key("a"), Key("a")), (0, False)],
)
def test_keys_are_looked_up_as_in_a_dict(run, key, given):
    """A route is found by equality and hash, as in a dict."""
    selector = cs.task(lambda: given, name="selector")()
    assert run(cs.Router(selector, {key: "found", "other": 2})) == "found"


@pytest.mark.parametrize("key", ["c", None, 1, ("a",)])
def test_an_unknown_key_lists_the_keys(run, key):
    """An unknown key without a default is a `RouteNotFoundError` that lists the keys."""
    selector = cs.task(lambda: key, name="selector")()
    with pytest.raises(cs.RouteNotFoundError, match=r"(?s)'alpha'.*'beta'") as caught:
        run(cs.Router(selector, {"alpha": 1, "beta": 2}))
    assert repr(key) in str(caught.value)
    assert isinstance(caught.value, LookupError)


def test_a_node_that_iterations_share_is_pruned_once(run, skipped):
    """An invariant that only unchosen routes of a loop lead to is reported once."""
    bus, seen = skipped
    executions = []

    @cs.task
    def step(_route):
        executions.append(1)
        return cs.Jump("again") if len(executions) < 3 else "done"

    invariant = cs.task(lambda: 1, name="invariant", pure=True)
    node = step(cs.Router(task("k"), {"k": 1, "l": invariant()}))
    assert run(cs.bind(node, cs.select_jump({"again": node})), bus=bus) == "done"
    assert seen == [("invariant", "Pruned")]


def test_a_route_under_another_key_is_unchosen(run, skipped):
    """What an unchosen key leads to is pruned, even if the chosen key leads to the same node."""
    bus, seen = skipped
    node = task("x", task("a")).run_if(False, default=0)
    run(cs.Router(task("k"), {"k": node, "l": node}), bus=bus)
    assert seen == [("x", "ConditionFalse"), ("a", "Pruned")]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_chosen_node_of_a_returned_router_is_not_pruned(run, events, kind):
    """A node that was demanded is not pruned, though it ends the evaluation by a tail call."""
    bus, seen = events
    last = task("last")

    def returns_an_expression():
        return last

    async def returns_one_later():
        return last

    @cs.task
    def start():
        chosen = cs.task(returns_an_expression if kind == "sync" else returns_one_later, name="x")()
        return cs.Router("a", {"a": chosen, "b": task("y", chosen)})

    assert run(start(), bus=bus) == "last"
    assert [(event.task_name, event.reason) for event in seen] == [("y", "Pruned")]
