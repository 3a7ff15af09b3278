"""Sections 3 and 4: depth is unlimited, cost is linear, cycles are named."""

import pytest

import cascade as cs

MANY = 100_000
SOME = 20_000


@cs.task
def inc(x=0):
    return x + 1


def chain(link, count):
    """`count` nodes, each made by `link` of the one before."""
    node = inc()
    for _ in range(count):
        node = link(node)
    return node


@pytest.mark.parametrize(
    "link",
    [
        lambda node: inc(0).after(node),
        lambda node: inc(0).run_if(node),
        lambda node: inc().run_if(False, default=node),
        lambda node: inc().with_constraints(free=node),
        lambda node: cs.Router(node, {1: node}),
        lambda node: cs.Router(cs.Param("k", default="k"), {"k": node}),
    ],
    ids=["after", "conditions", "defaults", "amounts", "selectors", "routes"],
)
def test_every_link_may_be_repeated_without_limit(run, link):
    """A chain works at any length, whatever links its nodes."""
    assert run(chain(link, SOME)) == 1


def test_a_chain_may_be_of_any_length(run):
    """A chain of 100,000 tasks works."""
    assert run(chain(inc, MANY)) == MANY + 1


def test_a_chain_of_skipped_nodes_may_be_of_any_length(run):
    """A skip is passed on along any number of nodes, and the error names the first."""
    node = cs.task(lambda: 0, name="origin")().run_if(False)
    for _ in range(SOME):
        node = inc(node)
    bus, reasons = cs.MessageBus(), []
    bus.subscribe(cs.TaskSkipped, lambda event: reasons.append(event.reason))
    with pytest.raises(cs.DependencyMissingError, match=r"origin.*ConditionFalse"):
        run(node, bus=bus)
    assert len(reasons) == SOME + 1


def test_a_chain_of_unchosen_nodes_may_be_of_any_length(run):
    """What an unchosen route needs is pruned, at any depth."""
    bus, reasons = cs.MessageBus(), []
    bus.subscribe(cs.TaskSkipped, lambda event: reasons.append(event.reason))
    key = cs.task(lambda: "k", name="key")()
    assert run(cs.Router(key, {"k": 1, "l": chain(inc, 9_999)}), bus=bus) == 1
    assert reasons == ["Pruned"] * 10_000


def test_a_node_may_have_any_number_of_inputs(run):
    """A fan-in of 100,000 nodes works, as arguments and in a container."""
    total = cs.task(lambda *given: sum(given), name="total")
    assert run(total(*(inc(number) for number in range(SOME)))) == SOME * (SOME + 1) // 2
    assert sum(run([inc(number) for number in range(MANY)])) == MANY * (MANY + 1) // 2


def test_a_node_may_have_any_number_of_consumers(run):
    """A fan-out of one node to any number works."""
    node = inc()
    assert run([inc(node) for _ in range(SOME)]) == [2] * SOME


def test_a_map_may_have_any_number_of_items(run):
    """A map over any number of items works."""
    assert run(inc.map(x=range(SOME))) == list(range(1, SOME + 1))


WRAPS = [lambda x: [x], lambda x: (x,), lambda x: {"k": x}]


@pytest.mark.parametrize("wrap", WRAPS, ids=["list", "tuple", "dict"])
@pytest.mark.parametrize("core", [inc, lambda: 1], ids=["expression", "literal"])
def test_containers_may_be_nested_to_any_depth(run, wrap, core):
    """Containers 100,000 deep are resolved; without an expression inside they are data."""
    nested = core()
    for _ in range(MANY):
        nested = wrap(nested)
    (value,) = run(cs.task(lambda given: [given], name="hold")(nested))
    depth = 0
    while isinstance(value, (list, tuple, dict)):
        (value,) = value.values() if isinstance(value, dict) else value
        depth += 1
    assert (value, depth) == (1, MANY)


def test_shared_nodes_cost_no_more_than_one(run):
    """A node used twice by the next, a thousand times over, is still a thousand nodes."""
    calls = []

    @cs.task
    def both(one, other):
        calls.append(1)
        return one + other

    node = inc()
    for _ in range(1000):
        node = both(node, node)
    assert run(node) == 2**1000
    assert len(calls) == 1000


def test_a_merged_chain_may_be_of_any_length(run):
    """Two equal pure chains are one, at any length."""
    calls = []

    @cs.task(pure=True)
    def next_of(x):
        calls.append(1)
        return x + 1

    def build():
        node = next_of(0)
        for _ in range(SOME - 1):
            node = next_of(node)
        return node

    assert run([build(), build()]) == [SOME, SOME]
    assert len(calls) == SOME


# Cycles


def first(*inputs):
    return cs.task(lambda *given: 1, name="first")(*inputs)


def second(*inputs):
    return cs.task(lambda *given: 1, name="second")(*inputs)


def by_after():
    one = first()
    return one.after(second(one))


def by_condition():
    one = first()
    return one.run_if(second().after(one))


def by_default():
    one = first()
    return one.run_if(False, default=[second(one)])


def by_argument():
    box = []
    one = first(box)
    box.append(second(one))
    return one


def by_amount():
    one = first()
    return one.with_constraints(gpu=second(one))


def by_router():
    route = second()
    one = first(cs.Router(cs.Param("k", default="k"), {"k": [route]}))
    route.after(one)
    return one


@pytest.mark.parametrize(
    "make",
    [
        by_after,
        by_condition,
        by_default,
        by_argument,
        by_amount,
        by_router,
    ],
)
def test_a_cycle_names_its_path(run, make):
    """A cycle of dependencies is a `CycleError` that names the path."""
    with pytest.raises(cs.CycleError, match=r"(?s)first.*second|second.*first") as caught:
        run(make())
    assert isinstance(caught.value, ValueError)
    with pytest.raises(cs.CycleError):
        cs.build_graph(make())


def test_a_loop_does_not_wait_for_a_predecessor_that_needs_it(run):
    """Predecessors of a route run before its first iteration, so they must not need the loop."""
    route = second()
    loop = cs.bind(first(), cs.select_jump({"again": route}))
    needs_loop = inc(loop)
    route.after(needs_loop)
    with pytest.raises(cs.CycleError, match="first -> inc -> first"):
        run(needs_loop)


@pytest.mark.parametrize(
    "close",
    [lambda node: node.after(node), lambda node: node.run_if(node)],
    ids=["after", "condition"],
)
def test_a_node_that_needs_itself_is_a_cycle(run, close):
    """A node that needs itself is a `CycleError` that names it."""
    with pytest.raises(cs.CycleError, match="inc"):
        run(close(inc()))


def test_a_long_cycle_is_found(run):
    """A cycle of 100,000 nodes is a `CycleError` too."""
    start = inc()
    node = start
    for _ in range(MANY):
        node = inc(node)
    start.after(node)
    with pytest.raises(cs.CycleError):
        run(node)


def test_a_cycle_runs_nothing(run):
    """A target with a cycle fails before anything runs."""
    log = []
    with pytest.raises(cs.CycleError):
        run([cs.task(lambda: log.append(1))(), by_after()])
    assert log == []


def test_jump_routes_are_no_dependencies(run):
    """A node that jumps to itself, or to one that needs it, is no cycle."""
    left = [3]

    @cs.task
    def step(*inputs):
        left[0] -= 1
        return cs.Jump("again" if left[0] else "exit", None)

    node = step()
    cs.bind(node, cs.select_jump({"again": node, "exit": None}))
    assert run(node) is None
    needs_it = inc(node)
    left[0] = 1
    cs.bind(node, cs.select_jump({"again": needs_it, "exit": None}))
    assert run(node) is None


def test_returned_expressions_may_nest_without_limit_beside_other_work(run):
    """What waits in an inner evaluation costs the same at any depth, whatever else is ready."""

    @cs.task
    def add(x):
        return x + 1

    @cs.task
    def nested(n):
        return add(nested(n - 1)) if n else 0

    assert run([nested(2 * SOME), nested(3)]) == [2 * SOME, 3]
