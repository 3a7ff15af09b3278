"""What would run, as text, for `cascade plan`."""

import cascade as cs
from cascade.command.outline import outline


@cs.task
def add(x, y=1):
    return x + y


@cs.task
async def fetch(page, *, session=None):
    return page


@cs.task(mode="thread")
def parse(text):
    return text


@cs.task
def step(n):
    return cs.Jump("done", n)


def lines(target, *limits):
    return [line.rstrip() for line in outline(target, *limits).splitlines()]


def test_nodes_stand_in_plan_order_with_their_ids():
    """The ids are those of build_graph and of events."""
    target = add(add(add(1), 2), parse("x"))
    built = [node.id for node in cs.build_graph(target).graph.nodes]
    assert [line.split()[0] for line in lines(target)] == built


def test_a_line_tells_what_answers_a_failure():
    """For which failures, unless for all."""
    target = [
        add(1).with_fallback(add(2), on=(OSError, LookupError)),
        add(3).with_fallback(0).settled(on=OSError),
        parse(4).with_fallback(step),
    ]
    assert lines(target) == [
        "add#0    inline",
        "add#1    inline; if it fails on OSError, LookupError: add#0",
        "add#2    inline; if it fails: 0; settled on OSError",
        "step#3   inline",
        "parse#4  thread; if it fails: handled by step#3",
    ]


def test_a_line_tells_all_that_a_node_is_under():
    """Conditions, default, predecessors, computed arguments, amounts, policies, limits."""
    ready, before = add(1), add(2)
    node = (
        fetch(cs.Param("page"), session=cs.inject("session"))
        .run_if(ready)
        .run_if(False, default=add(3))
        .after(before)
        .with_constraints(gpu=1, ram=add(4))
        .with_retry(5)
        .with_timeout(2.5)
        .with_cache(cs.InMemoryCache())
    )
    rate = cs.GlobalConstraint("a", "task:f*", "rate_limit", {"rate": "10/s", "burst": 2})
    other = cs.GlobalConstraint("b", "task:g*", "concurrency", {"limit": 1})
    assert lines(node, [rate, other], {"gpu": 2}) == [
        "add#0    inline",
        "add#1    inline",
        "add#2    inline",
        "add#3    inline",
        "fetch#4  async; if add#0; if False; else add#1; after add#2; page=<Param page>; "
        "session=<inject session>; takes gpu=1 of 2, ram=add#3; at most 5 attempts; timeout 2.5 s; "
        "cache InMemoryCache; task:f*: rate 10/s, burst 2",
    ]


def test_routers_and_containers_are_told_by_what_is_in_them():
    """A Router has a line of its own where it stands in plan order."""
    router = cs.Router(add(1), {"a": parse("x"), "b": 7}, default=[fetch(1)])
    assert lines(add(router, {"k": [add(2), (add(3),)]})) == [
        "add#0          inline",
        "parse#1        thread",
        "fetch#2        async",
        "Router(add#0)  'a': parse#1, 'b': 7, else list(fetch#2)",
        "add#3          inline",
        "add#4          inline",
        "add#5          inline; x=Router(add#0); y=dict(add#3, add#4)",
    ]
    assert lines(cs.Router(cs.Router(1, {1: 2}), {2: 3})) == [
        "Router(1)            1: 2",
        "Router(Router(...))  2: 3",
    ]


def test_loops_tell_their_routes_and_what_only_jumps_lead_to():
    """Routes that are nodes of the target stand there; others come last."""
    node, elsewhere = step(0), fetch(2)
    cs.bind(node, cs.select_jump({"again": node, "other": elsewhere, "done": None}))
    assert lines(parse.map(text=[node])) == [
        "step#0   inline; loop: 'again' to step#0, 'other' to fetch#2, 'done' to the end",
        "parse#1  map, thread; text=list(step#0)",
        "by jumps and in groups only:",
        "fetch#2  async",
    ]


def test_a_value_runs_no_task():
    """Nor does an input."""
    assert outline(3) == outline([]) == outline(cs.Param("n")) == "no task runs"


def test_large_targets_have_short_lines():
    """100,000 nodes, deep and wide: one line each, of bounded length."""
    chain = add(1)
    for _ in range(50_000):
        chain = add([[chain]])
    told = lines(add([chain, *[add(n) for n in range(50_000)]]))
    assert len(told) == 100_002
    assert max(map(len, told)) < 200
    assert told[-1].endswith("... 49993 more)")
