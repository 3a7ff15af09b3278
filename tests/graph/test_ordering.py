"""Sections 1 and 3: plan order, what starts first, and no stage barriers."""

import anyio
import pytest

import cascade as cs


def named(name):
    return cs.task(lambda *inputs, **more: True, name=name)


def names(target):
    return [node.name for node in cs.build_graph(target).graph.nodes]


def everything():
    """A node with one of each dependency, and a dependency below the first of them."""

    @cs.task(name="node")
    def node(first, second):
        return 1

    made = node(second=named("second")(), first=[named("first")()])
    made.after(named("before")(), named("too")())
    made.with_constraints(gpu=named("amount")())
    return made.run_if(named("when")(named("deep")()), default=named("default")())


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (everything, "deep when default before too first second amount node"),
        (lambda: named("c")(named("a")(), named("b")()), "a b c"),
        (lambda: [{"k": (named("a")(), [named("b")()])}, named("c")()], "a b c"),
        (
            lambda: cs.Router(
                named("s")(),
                {"y": named("y")(named("q")()), "x": [named("x")()]},
                default=named("d")(),
            ),
            "s q y x d",
        ),
        (lambda: [(s := named("s")()), named("a")(s), s], "s a"),
        (lambda: [named("a")(s := named("s")()), s, named("b")(s)], "s a b"),
        (lambda: named("m").map(x=[named("a")(), 1, named("b")()]), "a b m"),
    ],
)
def test_plan_order_is_post_order(target, expected):
    """A node follows its conditions, default, predecessors, arguments and amounts, in turn."""
    assert names(target()) == expected.split()


@pytest.fixture
def log():
    return []


@pytest.fixture
def t(log):
    """An inline task that logs its name: its value is `value`, or its name."""

    @cs.task
    def t(name, *inputs, value=None):
        log.append(name)
        return name if value is None else value

    return t


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (lambda t: [t("a", t("b")), t("c")], "bac"),
        (lambda t: [t("a"), t("b"), t("c")], "abc"),
        (lambda t: t("e", t("c"), t("d", t("a"), t("b"))), "cabde"),
        (lambda t: {"k": (t("a"), [t("b")]), "l": t("c")}, "abc"),
        (lambda t: t("e", t("c")).after(t("b")).run_if(t("a")), "abce"),
        (lambda t: t("d", t("b")).with_constraints(gpu=t("c", value=1)).after(t("a")), "abcd"),
        (lambda t: [t("c", t("b")).run_if(t("a")), t("d")], "abcd"),
        (lambda t: [t("x").run_if(t("a", value=0), default=t("b", t("c"))), t("d")], "acbd"),
        (lambda t: [t("x", t("y")).run_if(t("a", value=0), default=1), t("b")], "ab"),
        (lambda t: [cs.Router(t("k"), {"x": t("x"), "k": t("a", t("b"))}), t("c")], "kbac"),
        (lambda t: [cs.Router(t("k"), {}, default=t("a", t("b"))), t("c")], "kbac"),
        (lambda t: [t("a", s := t("s")), s, t("b", s)], "sab"),
        (lambda t: [t("a"), t("b", s := t("s")), t("c", s)], "asbc"),
        (lambda t: [t.map(name=["a", t("b"), "c"]), t("d")], "babcd"),
    ],
)
def test_ready_inline_tasks_run_in_plan_order(run, t, log, target, expected):
    """Of all ready inline sync tasks, the first in plan order runs."""
    run(target(t), system_resources={"gpu": 1})
    assert "".join(log) == expected


def test_arguments_are_ordered_as_in_the_signature(run, t, log):
    """Arguments rank in signature order, not in the order of the call."""

    @cs.task
    def pair(first, second):
        return first + second

    assert run(pair(second=t("b"), first=t("a"))) == "ab"
    assert log == ["a", "b"]


def test_a_loop_ranks_at_its_own_place(run, t, log):
    """The iterations of a loop rank at the loop's place: a later task waits for all of them."""

    @cs.task
    def step(n, name):
        log.append(name)
        return cs.Jump("again" if n < 3 else "exit", {"n": n + 1})

    node = step(1, t("i"))
    cs.bind(node, cs.select_jump({"again": node, "exit": None}))
    run([t("a"), node, t("b")])
    assert "".join(log) == "aiiiiiib"


def test_a_returned_expression_ranks_at_its_owners_place(run, t, log):
    """What a task returns to be evaluated ranks where the task stands."""

    @cs.task
    def outer():
        log.append("o")
        return t("x", t("y"))

    assert run([outer(), t("a")]) == ["x", "a"]
    assert "".join(log) == "oyxa"


@pytest.fixture
def wait(log):
    """An asynchronous task that logs its name when its body begins."""

    @cs.task
    async def wait(name, delay, *inputs):
        log.append(name)
        await anyio.sleep(delay)
        return name

    return wait


def test_async_tasks_start_before_inline_ones(run, t, wait, log):
    """Ready async tasks are started before a ready inline sync task runs."""
    run([t("b"), t("c"), wait("a", 1)])
    assert "".join(log) == "abc"


def test_an_async_task_made_ready_starts_before_the_next_inline_one(run, t, wait, log):
    """Whenever the loop's thread is free, async tasks that became ready start first."""
    shared = t("a")
    run([shared, t("c"), t("d"), wait("b", 1, shared)])
    assert "".join(log) == "abcd"


@pytest.fixture
def started():
    """A bus, and the names of the attempts it saw starting."""
    bus, seen = cs.MessageBus(), []
    bus.subscribe(cs.TaskExecutionStarted, lambda event: seen.append(event.task_name))
    return bus, seen


def test_thread_tasks_start_before_inline_ones(run, started):
    """Ready thread tasks are started before a ready inline sync task runs."""
    bus, seen = started
    inline = cs.task(lambda: 1, name="inline")
    threaded = cs.task(lambda: 1, name="threaded", mode="thread")
    run([inline(), threaded()], bus=bus)
    assert seen == ["threaded", "inline"]


def test_async_tasks_start_in_plan_order(run, started):
    """Ready async tasks are started in plan order."""
    bus, seen = started

    async def body():
        await anyio.sleep(1)

    expected = [f"task{index}" for index in range(20)]
    run([cs.task(body, name=name)() for name in expected], bus=bus)
    assert seen == expected


def test_there_are_no_stage_barriers(run, log):
    """A node starts as soon as its own inputs are there, whatever else still runs."""

    @cs.task
    async def wait(name, delay, *inputs):
        await anyio.sleep(delay)
        log.append((name, anyio.current_time()))

    @cs.task
    async def begin():
        log.append(("begin", anyio.current_time()))

    chain = wait("third", 1, wait("second", 1, wait("first", 1)))
    run([wait("slow", 10), chain, wait("join", 1, wait("side", 4), begin())])
    start = dict(log)["begin"]
    ends = {name: time - start for name, time in log}
    expected = {"begin": 0, "first": 1, "second": 2, "third": 3, "side": 4, "join": 5, "slow": 10}
    assert ends == pytest.approx(expected)


def test_inline_tasks_run_while_async_ones_wait(run, log):
    """An inline task runs as soon as its inputs are there, between asynchronous ones."""

    @cs.task
    async def wait(delay):
        await anyio.sleep(delay)
        return delay

    @cs.task
    def note(delay):
        log.append((delay, anyio.current_time()))

    run([note(wait(delay)) for delay in (3, 1, 2)])
    assert [delay for delay, _ in log] == [1, 2, 3]
    assert [time - log[0][1] for _, time in log] == pytest.approx([0, 1, 2])


def test_what_is_ready_from_the_start_starts_before_inline_tasks(run):
    """However late it stands in plan order, a ready async task is started first."""
    order = []

    @cs.task
    def inline(x):
        order.append("inline")
        return x

    @cs.task
    async def asynchronous(x):
        order.append("async")
        return x

    run([inline(inline(inline(1))), asynchronous(inline(2)), asynchronous(3)])
    assert order == ["async", "inline", "inline", "inline", "inline", "async"]


def test_a_routed_part_does_not_run_before_it_is_chosen(run):
    """A part that stands above what chooses it waits for it; the rest goes on in plan order."""

    @cs.task
    def same(x):
        return x

    number = same(0)
    shared = same(number)
    routed = cs.Router(shared, {0: same(shared), 1: same(2)})
    target = [same(same(number)), same(7).run_if(routed, default="default"), routed]
    assert run(target) == [0, "default", 0]
