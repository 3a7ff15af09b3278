"""Static findings: what is certain is an error or a warning, what may be meant is a hint."""

import subprocess
import time
from dataclasses import dataclass
from time import sleep
from urllib.request import urlopen

import anyio
import pytest

import cascade as cs
from cascade.command.checks import check


@cs.task
def add(x, y=1):
    return x + y


@cs.task
def leap(n):
    return cs.Jump("again" if n < 3 else "done", n + 1)


@cs.task
def only_again(n):
    return cs.Jump("again", n + 1)


@cs.task
def again_or_value(n):
    if n < 3:
        return cs.Jump(target_key="again", data=n + 1)
    return None


@cs.task
def anything(key):
    return cs.Jump(key)


@cs.task
def from_elsewhere(n):
    return add.func(n)


@cs.task
def failing(n):
    raise ValueError(n)


def told(target, **options):
    return [str(finding) for finding in check(target, **options)]


def loop(node, **routes):
    return cs.bind(node, cs.select_jump(routes))


def test_nothing_is_found_where_nothing_is_wrong():
    """A sound workflow has no findings."""
    node = leap(0)
    assert told([add(loop(node, again=node, done=None)), add(1).run_if(add(0), default=2)]) == []


# What is skipped whatever happens


def test_a_node_behind_a_false_literal_never_runs():
    """A condition that is a false literal is a warning; one that is computed is not."""
    assert told([add(1), add(add(2).run_if(0, default=5))]) == [
        "warning: add#1: it never runs: a condition is 0; its value is its default"
    ]
    assert told(add(1).run_if(1).run_if(add(0)).run_if([1])) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda never: never,
        lambda never: add(never),
        lambda never: [{"deep": (add(add(never)),)}],
        lambda never: add.map(x=[never]),
        lambda never: cs.Router(never, {1: add(1)}),
        lambda never: cs.Router("a", {"a": never, "b": add(1)}),
        lambda never: add(1).run_if(never),
        lambda never: add(1).with_constraints(gpu=never),
        lambda never: add(1).run_if(False, default=never),
        lambda never: add(add(1).after(never)),
    ],
)
def test_a_target_that_is_always_skipped_is_an_error(run, make):
    """It is what the run fails with: DependencyMissingError, which names the same node."""
    target = make(add(7).run_if(None))
    (error,) = [finding for finding in check(target) if finding.severity == "error"]
    assert (
        error.message
        == "it is always skipped (a condition is None), and so the target has no value"
    )
    with pytest.raises(cs.DependencyMissingError) as caught:
        run(target)
    assert caught.value.dependency_id == error.where


@pytest.mark.parametrize(
    "make",
    [
        lambda never: add(1).after(never),
        lambda never: add(never).after(never),
        lambda never: add(1).run_if(False, default=2),
        lambda never: cs.Router("b", {"a": never, "b": add(1)}),
        lambda never: cs.Router(add(1), {1: never, 2: add(1)}),
        lambda never: add(1).run_if(add(1), default=never),
    ],
)
def test_a_target_that_may_have_a_value_is_no_error(run, make):
    """Skipped by sequence alone it is None; behind what is computed nothing is certain."""
    target = make(add(7).run_if(None))
    assert [finding for finding in check(target) if finding.severity == "error"] == []
    run(target)


# Routers


def test_routes_that_a_literal_selector_never_chooses():
    """A Router with a literal selector has dead routes, or has no such route at all."""
    routes = {"a": add(1), "b": add(2)}
    assert told(cs.Router("a", routes)) == [
        "warning: Router ['a', 'b']: its selector is always 'a': never chosen: 'b'"
    ]
    (found,) = told(cs.Router("c", routes))
    assert found.startswith("error: Router ['a', 'b']: its selector is 'c', which is no route")
    assert told(cs.Router("c", {"a": add(1)}, default=add(3))) == [
        "warning: Router ['a']: its selector is always 'c': never chosen: 'a'"
    ]
    assert told(cs.Router(cs.Param("which"), routes)) == []


# Loops


def test_a_loop_whose_tasks_only_jump_never_ends():
    """Without a None route, and with tasks that do nothing else but jump, it is certain."""
    for task in (only_again, anything):  # to whichever key
        node = task(0)
        assert told(loop(node, again=node)) == [
            f"error: {task.name}#0: it ends only by failing: "
            "no route of the loop is None, and its tasks only jump"
        ]
    one, other = only_again(0), only_again(1)
    loop(other, again=one)
    assert len(told(loop(one, again=other))) == 2


def test_a_loop_of_thousands_of_states_is_checked_in_one_pass():
    """Each state is a loop of its own, which the others belong to."""
    states = [only_again(n) for n in range(5000)]
    for state, following in zip(states, states[1:] + states[:1], strict=True):
        loop(state, again=following)
    assert len(told(states[0])) == 5000
    loop(states[7], again=None)
    assert told(states[0]) == []


def test_a_loop_that_a_value_may_end_is_a_hint():
    """Whether a value ever comes is not decided."""
    hint = "hint: {}#0: the loop has no None route: a task ends it by returning what is no Jump"
    for task in (again_or_value, from_elsewhere):
        node = task(0)
        assert told(loop(node, again=node))[-1:] == [hint.format(task.name)]


def test_a_loop_that_a_skipped_route_ends_is_no_finding():
    """A falsy condition of a route ends the loop; a map or a Router gives a value."""
    node, other = only_again(0), only_again(1).run_if(add(1), default=3)
    loop(other, again=node)
    assert told(loop(node, again=other)) == []
    node = only_again(0)
    assert told(loop(node, again=add.map(x=[1]))) == []


def test_routes_that_nobody_jumps_to():
    """It is told where all tasks of a selector name their keys, and only there."""
    node = leap(0)
    assert told(loop(node, again=node, done=None, other=add(1))) == [
        "warning: leap#0: no task of the loop jumps to its route 'other'"
    ]
    node = anything("x")
    assert told(loop(node, again=node, done=None, other=add(1))) == []
    # A selector shared by two nodes serves the Jumps of both.
    one, other = only_again(0), leap(0)
    selector = cs.select_jump({"again": other, "done": None})
    cs.bind(one, selector)
    cs.bind(other, selector)
    assert told([one, other]) == []


def test_jumps_to_unknown_keys_and_unbound_jumps(run):
    """A key that the selector has not, and a Jump that nothing serves, are errors, as in a run."""
    node = leap(0)
    (found,) = told(loop(node, again=node, doen=None))[:1]
    assert found == (
        "error: leap#0: it jumps to the unknown key 'done'; did you mean 'doen'? "
        "known: 'again', 'doen'"
    )
    with pytest.raises(cs.JumpKeyError):
        run(node)
    assert "it returns Jump('again'), but it is not bound" in told(only_again(0))[0]
    with pytest.raises(cs.JumpNotBoundError):
        run(only_again(0))


def test_what_the_source_does_not_tell_is_not_reported():
    """Wrapped functions, lambdas, names that are not those of Cascade: nothing is claimed."""
    import functools

    def give_up(function):
        @functools.wraps(function)
        def wrapper(*args):
            return "never mind"

        return wrapper

    @cs.task
    @give_up
    def wrapped(n):
        return cs.Jump("nowhere")

    @cs.task
    def other_jump(n):
        Jump = dict
        return Jump(target_key="nowhere")

    unseen = cs.task(lambda n: cs.Jump("nowhere"), name="unseen")
    assert told([wrapped(1), other_jump(1), unseen(1)]) == []


# Resources, capacity, parameters, cycles


def test_resources_that_nobody_provides():
    """The same errors as before a run: unknown, circular, of a narrower scope."""

    @cs.task
    def use(table=cs.inject("database")):
        return table

    @cs.resource
    def database(pool=cs.inject("pool")):
        yield pool

    @cs.resource(scope="task")
    def pool():
        yield 1

    assert "task 'use' injects the resource 'database', which nobody provides" in told(use())[0]
    assert "injects the resource 'pool', which nobody" in told(use(), resources=[database])[0]
    assert "narrower scope" in told(use(), resources=[database, pool])[0]

    @cs.resource(name="pool")
    def wide_pool():
        yield 1

    assert told(use.map(table=[cs.inject("database")]), resources=[database, wide_pool]) == []


def test_demands_that_no_capacity_meets():
    """An amount above the limit is an error; one that is computed is not known."""
    target = [add(1).with_constraints(gpu=0.3), add(2).with_constraints(gpu=add(9), ram=9)]
    assert told(target, capacity={"gpu": 0.3}) == []
    assert told(target, capacity={"gpu": 0.2}) == [
        "error: add#0: it takes gpu=0.3, more than there is (0.2)"
    ]
    assert told(target, capacity={"gup": 1}) == [
        "hint: the target: no task of it takes the capacity 'gup'; did you mean 'gpu'? "
        "known: 'gpu', 'ram'"
    ]
    with pytest.raises(ValueError, match="capacity"):
        check(target, capacity={"gpu": -1})


def test_scopes_that_no_task_is_in():
    """Such a constraint limits nothing, as far as the tasks are known."""

    def limited(*scopes):
        limits = [cs.GlobalConstraint(scope, scope, "pause", {}) for scope in scopes]
        return told([add(1), failing(1)], constraints=limits)

    assert limited("global", "task:add", "task:f*") == []
    assert limited("task:adds") == [
        "hint: the target: no task of it is in the scope 'task:adds'; did you mean 'task:add'? "
        "known: 'task:add', 'task:failing'"
    ]


def test_a_default_of_another_type_than_the_values_is_a_hint():
    """A Param that says type=str takes text, whatever its default is."""
    counted = cs.Param("count", default=3, type=str)
    others = [cs.Param("a"), cs.Param("b", "x"), cs.Param("c", None), cs.Param("d", 3)]
    assert told([add(counted, counted), *others]) == [
        "hint: Param 'count': a value given for it is a str, its default is 3; write type=int"
    ]


@cs.resource
def database_of_checks():
    yield {}


@dataclass
class Holder:
    held: object


def test_what_was_meant_to_be_computed_is_a_hint():
    """A task that was not called, a coroutine, and expressions where none are looked for."""
    assert told(add(add, y={"a": 1})) == [
        "hint: add#0: its x has <Task add> in it, a task that was not called; write add(...)"
    ]
    assert told(add.map(x=[1, add])) == [
        "hint: add#0: its x has <Task add> in it, a task that was not called; write add(...)"
    ]
    assert told(add([database_of_checks])) == [
        "hint: add#0: its x has <resource database_of_checks (run)> in it, not what it gives; "
        "write cs.inject('database_of_checks')"
    ]
    coroutine = anyio.sleep(0)
    assert told(add(1, {"a": coroutine})) == [
        "hint: add#0: its y has sleep(...) in it, a coroutine, which nobody awaits"
    ]
    coroutine.close()
    assert told(add(1, y={add(2)})) == [
        "hint: add#0: its y is a set with an expression in it, which is not computed; write a list"
    ]
    assert told(add(Holder(add(2)))) == [
        "hint: add#0: its x is a dataclass with an expression in it, which is not computed"
    ]
    assert told(add(add(n) for n in range(2))) == [
        "hint: add#0: its x is a generator, in which expressions are not computed; write a list"
    ]
    assert told(cs.task(max)(1, add)) == [
        "hint: max#0: its argument 2 has <Task add> in it, a task that was not called; "
        "write add(...)"
    ]
    assert told([add(Holder(1), {2}), add([add(1)])]) == []


def test_one_name_declared_in_two_ways_and_cycles():
    """What a run would refuse is an error; a missing value is the caller's to give."""
    twice = [cs.Param("n", type=int), cs.Param("n", type=float)]
    assert told(twice)[0].startswith("error: the target: Param 'n' is declared in two ways")
    assert told(cs.Param("n")) == []
    one, other = add(1), add(2)
    one.after(other)
    other.after(one)
    assert "depend on each other in a circle" in told(one)[0]


# Tasks that hold the loop


def test_calls_that_hold_the_event_loop_are_hints():
    """Modules, imported names, imports in the function; what only has such a name is none."""

    @cs.task
    def by_module():
        time.sleep(1)

    @cs.task
    def by_name():
        sleep(1)

    @cs.task
    def inside():
        import subprocess as sp

        sp.run(["true"], timeout=3)

    @cs.task
    async def asynchronous():
        time.sleep(1)

    @cs.task
    def harmless(time):
        time.sleep(1)

    @cs.task
    def defines():
        def later():
            time.sleep(1)

        return later

    @cs.task(mode="thread")
    def threaded():
        time.sleep(1)

    found = told(
        [by_module(), by_name(), inside(), asynchronous(), harmless(1), defines(), threaded()]
    )
    assert [line.partition(" on the event loop")[0] for line in found] == [
        "hint: by_module#0: it calls time.sleep",
        "hint: by_name#1: it calls time.sleep",
        "hint: inside#2: it calls subprocess.run",
        "hint: asynchronous#3: it calls time.sleep",
    ]
    assert 'make it @cs.task(mode="thread")' in found[0]
    assert "async kin" in found[3]


def test_a_task_is_told_once():
    """However many nodes a task has."""

    @cs.task
    def nap(n):
        time.sleep(n)

    assert len(told([nap(1), nap(2), nap.map(n=[3])])) == 1

    @cs.task(mode="thread")
    def fetch(url):
        return urlopen(url)

    found = told([fetch(1), fetch(2).with_timeout(3), fetch(4).with_timeout(5)])
    assert [line.partition(":")[2][:12] for line in found] == [" fetch#0: it", " fetch#1: it"]


def test_waiting_without_a_timeout_is_a_hint():
    """Calls that wait for ever unless they are told otherwise, and awaits without a bound."""

    @cs.task(mode="thread")
    def download(url):
        return urlopen(url).read(), subprocess.run(["true"])

    @cs.task(mode="thread")
    def bounded(url, **options):
        return urlopen(url, None, 3), urlopen(url, timeout=3), subprocess.run([], **options)

    @cs.task
    async def connect():
        return await anyio.connect_tcp("localhost", 1)

    @cs.task
    async def fail_after():
        with anyio.fail_after(3):
            return await anyio.connect_tcp("localhost", 1)

    assert told([download(1), bounded(1), connect(), fail_after(), connect().with_timeout(1)]) == [
        "hint: download#0: it calls urllib.request.urlopen, subprocess.run without a timeout=",
        "hint: connect#2: it awaits anyio.connect_tcp, which may take for ever; "
        "give it .with_timeout(seconds)",
    ]


def test_a_timeout_on_a_thread_is_a_hint():
    """A thread is not interrupted: section 7."""

    @cs.task(mode="thread")
    def work():
        return 1

    assert told(work().with_timeout(2)) == [
        "hint: work#0: its timeout of 2 s takes effect when its function returns: "
        "a thread cannot be interrupted"
    ]


def test_a_large_target_is_checked_in_one_pass():
    """100,000 nodes, deep and wide."""
    node = add(1)
    for _ in range(50_000):
        node = add(node)
    assert told([node, *[add(n) for n in range(50_000)]]) == []


def test_errors_come_first():
    """Then warnings, then hints."""

    @cs.task
    def nap():
        time.sleep(1)

    target = [nap(), cs.Router(1, {1: 2, 3: 4}), add(1).with_constraints(gpu=2)]
    kinds = [finding.severity for finding in check(target, capacity={"gpu": 1})]
    assert kinds == ["error", "warning", "hint"]


def test_a_failure_that_is_answered_may_end_a_loop():
    """So a loop that only jumps is no error if one of its nodes has a fallback or an outcome."""
    node = only_again(0).settled()
    assert told(loop(node, again=node)) == []


def test_a_policy_that_answers_nothing_is_a_warning():
    """Errors of Cascade's own end the run, whatever is written; a fallback comes first."""
    assert told(failing(1).with_fallback(0, on=cs.JumpKeyError)) == [
        "warning: failing#0: its fallback answers nothing: "
        "what it is for ends the run (on=cascade.JumpKeyError)"
    ]
    assert told(failing(1).settled(on=KeyboardInterrupt)) == [
        "warning: failing#0: its .settled() answers nothing: "
        "what it is for ends the run (on=KeyboardInterrupt)"
    ]
    assert told(failing(1).with_fallback(0).settled(on=(LookupError, OSError))) == [
        "warning: failing#0: its outcome is never a failure: its fallback comes first"
    ]


@pytest.mark.parametrize(
    "on",
    [Exception, BaseException, cs.CascadeError, cs.TaskTimeoutError, (cs.JumpKeyError, OSError)],
)
def test_a_policy_that_may_answer_something_is_fine(on):
    """One class of several is enough, and what a function says is not known."""
    assert told(failing(1).with_fallback(0, on=on)) == []
    assert told(failing(1).settled(on=on)) == []
    assert told(failing(1).with_fallback(0, on=ArithmeticError).settled(on=on)) == []
    assert told(failing(1).with_fallback(0, on=lambda error: True).settled(on=len)) == []


def test_a_fallback_that_was_meant_to_be_computed_is_a_hint():
    """As an argument is: a task in a list that was not called."""
    (found,) = told(failing(1).with_fallback([add]))
    assert found.startswith("hint: failing#0: its fallback has <Task add> in it")
