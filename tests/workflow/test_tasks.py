"""Section 2: tasks, calls, chain methods, composition and parameters."""

import contextvars
import copy
import inspect
import math
import os
import pickle
import re
import threading

import anyio
import pytest

import cascade as cs


@cs.task
def add(a, b=2, *, scale=1):
    """Adds."""
    return (a + b) * scale


def test_a_task_keeps_what_describes_its_function():
    """A Task keeps name, docstring, signature and `__wrapped__` of its function."""

    def area(width: int, height: int = 1) -> int:
        """Width times height."""
        return width * height

    task = cs.task(area)
    assert (task.name, task.__name__, task.__doc__) == ("area", "area", "Width times height.")
    assert task.__wrapped__ is area
    assert task.signature == inspect.signature(area) == inspect.signature(task)


def test_options_of_a_task_are_told():
    """`.name`, `.mode`, `.pure` and `.is_async` tell how a Task was made, bare or with options."""

    @cs.task(name="other", pure=True, mode="thread")
    def first():
        pass

    @cs.task()
    async def second():
        pass

    assert (first.name, first.mode, first.pure, first.is_async) == ("other", "thread", True, False)
    assert (second.name, second.mode, second.pure) == ("second", "inline", False)
    assert second.is_async


async def coroutine_function():
    pass


def generator_function():
    yield 1


@pytest.mark.parametrize(
    ("function", "mode"),
    [
        (coroutine_function, "thread"),
        (coroutine_function, "process"),
        (generator_function, "inline"),
        (generator_function, "thread"),
    ],
)
def test_a_function_that_does_not_fit_its_mode_is_a_type_error(function, mode):
    """Another mode than inline for an async function is a `TypeError`, as is a generator."""
    with pytest.raises(TypeError, match=function.__name__):
        cs.task(function, mode=mode)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1, 2, 3), {}),
        ((1,), {"a": 2}),
        ((1,), {"nothing": 2}),
        ((), {"b": 2}),
        ((), {"scale": 2}),
    ],
)
def test_a_call_is_checked_at_once(args, kwargs):
    """Arguments that do not fit the signature are a `TypeError` where the Task is called."""
    with pytest.raises(TypeError):
        add(*args, **kwargs)


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda: add(1), 3),
        (lambda: add(1, 1), 2),
        (lambda: add(b=5, a=1), 6),
        (lambda: add(1, scale=2), 6),
        (lambda: add(*(1, 2), **{"scale": 3}), 9),
    ],
)
def test_arguments_are_bound_as_in_a_call(run, call, value):
    """An expression's value is that of the plain call with the same arguments."""
    assert run(call()) == value


@pytest.mark.parametrize("args", [(), (1,), (1, 2, 3)])
@pytest.mark.parametrize("kwargs", [{}, {"x": 1}, {"args": 1, "self": 2, "task": 3}])
def test_variadic_parameters_take_everything(run, args, kwargs):
    """`*args` and `**kwargs` take any positions and any names."""

    @cs.task
    def collect(*args, **kwargs):
        return args, kwargs

    assert run(collect(*args, **kwargs)) == (args, kwargs)


def test_positional_only_parameters_are_bound(run):
    """A positional-only parameter is given by position and its name stays free."""

    @cs.task
    def collect(x, /, y=2, **rest):
        return x, y, rest

    assert run(collect(1, x=3)) == (1, 2, {"x": 3})
    with pytest.raises(TypeError):
        collect(x=1)


def test_a_call_runs_nothing(run):
    """Calling a Task describes the call; the function runs in a run, each run anew."""
    log = []
    lazy = cs.task(log.append)("ran")
    assert log == []
    run(lazy)
    run(lazy)
    assert log == ["ran", "ran"]


def test_func_is_the_plain_call():
    """`task.func(...)` is the plain call."""
    assert add.func(1, 2, scale=3) == 9


def test_an_expression_shows_its_call():
    """An expression has `.task`, `.args`, `.kwargs`."""
    lazy = add(1, 2, scale=3)
    assert isinstance(lazy, cs.LazyResult)
    assert (lazy.task, tuple(lazy.args), dict(lazy.kwargs)) == (add, (1, 2), {"scale": 3})


class Doubler:
    def __call__(self, x):
        return 2 * x

    def method(self, x):
        return 2 * x

    async def async_method(self, x):
        return 2 * x


class AsyncDoubler:
    async def __call__(self, x):
        return 2 * x


@pytest.mark.parametrize(
    "function",
    [
        lambda x: 2 * x,
        Doubler(),
        Doubler().method,
        Doubler().async_method,
        AsyncDoubler(),
    ],
    ids=["function", "object", "method", "async method", "async object"],
)
def test_any_callable_may_be_a_task(run, function):
    """A Task wraps a function, an async function, a method or a callable object."""
    assert run(cs.task(function, name="double")(21)) == 42


def test_a_task_in_a_class_body_binds_self(run):
    """A Task in a class body is a method: called on an instance it gets the instance."""

    class Account:
        def __init__(self, balance):
            self.balance = balance

        @cs.task
        def plus(self, amount):
            return self.balance + amount

    account = Account(10)
    assert run(account.plus(5)) == 15
    assert run(Account.plus(account, 5)) == 15
    assert run(account.plus.map(amount=[1, 2])) == [11, 12]
    with pytest.raises(TypeError):
        account.plus()


def test_an_awaitable_of_a_sync_function_is_awaited(run):
    """An awaitable returned by a sync function is awaited; its value counts."""

    async def later():
        await anyio.sleep(1)
        return 7

    @cs.task
    def start():
        return later()

    assert run(add(start(), 1)) == 8


def test_inline_functions_run_on_the_thread_of_the_loop(run):
    """Inline functions and async functions run on the event loop's own thread."""

    @cs.task
    async def on_loop():
        return threading.get_ident()

    assert run([cs.task(threading.get_ident)(), on_loop()]) == [threading.get_ident()] * 2


def test_thread_tasks_run_in_a_worker_thread(run):
    """A task of mode "thread" runs in a worker thread."""
    assert run(cs.task(threading.get_ident, mode="thread")()) != threading.get_ident()


def test_process_tasks_run_in_a_worker_process(run):
    """A task of mode "process" runs in a worker process."""
    assert run(cs.task(os.getpid, mode="process")()) != os.getpid()


def test_thread_tasks_see_the_callers_context(inside, use_vm):
    """Thread tasks see the context variables of the caller of the run."""
    variable = contextvars.ContextVar("variable")

    @cs.task(mode="thread")
    def read():
        return variable.get()

    async def main():
        variable.set("set by the caller")
        return await cs.run_async(read(), use_vm=use_vm)

    assert inside(main) == "set by the caller"


@cs.task
async def wait():
    await anyio.sleep(0)


CHAIN = [
    ("with_retry", (), {}),
    ("with_retry", (5, 0.5, 2.0), {"max_delay": 9, "jitter": 0.1, "on": ValueError}),
    ("with_timeout", (5,), {}),
    ("with_cache", (cs.InMemoryCache(),), {}),
    ("with_constraints", (), {"gpu": 1, "memory": 0.5}),
    ("run_if", (True,), {}),
    ("run_if", (True,), {"default": None}),
    ("after", (), {}),
    ("after", (wait(), wait()), {}),
]


@pytest.mark.parametrize(("method", "args", "kwargs"), CHAIN)
def test_chain_methods_return_the_expression(method, args, kwargs):
    """A chain method changes the expression and returns it, a map's too."""

    @cs.task
    async def item(x):
        return x

    for lazy in (wait(), item.map(x=[1])):
        assert getattr(lazy, method)(*args, **kwargs) is lazy


@pytest.mark.parametrize(
    ("method", "kwargs"),
    [
        ("with_retry", {"max_attempts": 0}),
        ("with_retry", {"max_attempts": -1}),
        ("with_retry", {"delay": -0.1}),
        ("with_retry", {"backoff": -1.0}),
        ("with_retry", {"max_delay": -1.0}),
        ("with_retry", {"jitter": -0.1}),
        ("with_timeout", {"seconds": -1}),
        ("with_timeout", {"seconds": float("nan")}),
        ("with_constraints", {"gpu": 0}),
        ("with_constraints", {"gpu": -1}),
        ("with_constraints", {"gpu": float("nan")}),
    ],
)
def test_values_are_checked_when_given(method, kwargs):
    """A policy that makes no sense is a `ValueError` at the chain method."""
    (name,) = kwargs
    with pytest.raises(ValueError, match=name):
        getattr(wait(), method)(**kwargs)


def test_a_timeout_needs_a_task_that_can_be_left():
    """A timeout on an inline sync task is a `ValueError` that names `mode="thread"`."""
    with pytest.raises(ValueError, match=r"mode=.thread"):
        add(1).with_timeout(1)


def test_constraints_merge_by_name(run):
    """`with_constraints` replaces the amount of the same name and keeps the others."""
    capacity = {"gpu": 2, "memory": 2}
    replaced = add(1).with_constraints(gpu=5).with_constraints(gpu=1)
    assert run(replaced, system_resources=capacity) == 3
    with pytest.raises(ValueError, match="gpu"):
        run(add(1).with_constraints(gpu=5).with_constraints(memory=1), system_resources=capacity)


@pytest.mark.parametrize("conditions", [(True, False), (False, True)])
def test_conditions_add(run, conditions):
    """Each `run_if` adds a condition: all must hold."""
    lazy = add(1)
    for condition in conditions:
        lazy.run_if(condition, default="skipped")
    assert run(lazy) == "skipped"


def test_predecessors_add(run):
    """Each `after` adds predecessors, in one call or in several."""
    log = []
    mark = cs.task(log.append, name="mark")
    run(mark(4).after(mark(1)).after(mark(2), mark(3)))
    assert log == [1, 2, 3, 4]


def test_expressions_are_equal_by_identity():
    """`==` and `hash` of expressions are identity, and chain methods do not change them."""
    one, other = add(1), add(1)
    seen = {one, other, one}
    assert one == one.with_retry()
    assert one != other
    assert seen == {one, other}


def mapped():
    return add.map(a=[1])


@pytest.mark.parametrize("make", [lambda: add(1), mapped], ids=["lazy", "map"])
@pytest.mark.parametrize(
    ("misuse", "advice"),
    [(bool, "run_if|Router"), (iter, "map|task|run"), (len, "map|task|run")],
)
def test_using_an_expression_as_its_value_is_an_error(make, misuse, advice):
    """`bool`, `iter` and `len` of an expression are errors that say what to write instead."""
    with pytest.raises((TypeError, cs.CascadeError), match=advice):
        misuse(make())


@pytest.mark.parametrize("make", [lambda: add(1), mapped], ids=["lazy", "map"])
def test_awaiting_an_expression_is_an_error(inside, make):
    """`await lazy` is an error that says how to run it."""

    async def main():
        with pytest.raises((TypeError, cs.CascadeError), match="run"):
            await make()

    inside(main)


def test_a_sequence_runs_in_order(run):
    """`cs.sequence` chains `.after` and returns the last expression."""
    log = []

    @cs.task
    async def mark(delay):
        await anyio.sleep(delay)
        log.append(delay)
        return delay

    steps = [mark(3), mark(1), mark(2)]
    assert cs.sequence(steps) is steps[-1]
    assert run(steps[-1]) == 2
    assert log == [3, 1, 2]


inc = cs.task(lambda x: x + 1, name="inc")
double = cs.task(lambda x: x * 2, name="double")


@pytest.mark.parametrize(
    ("initial", "steps", "value"),
    [
        (lambda: 1, [inc, double, inc], 5),
        (lambda: inc(1), [double], 4),
        (lambda: [inc(1), 2], [double], [2, 2, 2, 2]),
        (lambda: 1, [inc, lambda x: double(x).run_if(False), inc], 3),
        (lambda: 1, [lambda x: double(x).run_if(False)] * 2, 1),
        (lambda: 5, [lambda x: double(x).run_if(cs.Param("on", default=True, type=bool))], 10),
    ],
)
def test_a_pipeline_feeds_each_step_the_one_before(run, initial, steps, value):
    """A pipeline's step gets the step before; one skipped by its own `run_if` passes it on."""
    assert run(cs.pipeline(initial(), steps)) == value


def test_a_pipelines_step_skipped_from_above_is_skipped(run):
    """Only a step's own `run_if` passes its input on: a skipped input skips the step."""
    steps = [inc, lambda x: double(x).run_if(False)]
    with pytest.raises(cs.DependencyMissingError):
        run(cs.pipeline(add(1).run_if(False), steps))


@pytest.mark.parametrize(
    ("key", "value"),
    [("a", 2), ("b", "literal"), ("c", [4]), ("d", "else")],
)
def test_a_router_has_the_value_of_its_chosen_route(run, key, value):
    """A Router gives the route its selector names, expression or literal, else its default."""
    choose = cs.task(lambda: key, name="choose")
    routes = {"a": inc(1), "b": "literal", "c": [inc(3)]}
    router = cs.Router(selector=choose(), routes=routes, default="else")
    assert run(router) == value
    assert run(double([router])) == [value, value]


# Parameters


def show(*values):
    return cs.task(lambda *given: given, name="show")(*values)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (str, "3", "3"),
        (int, "3", 3),
        (float, "0.5", 0.5),
        *((bool, text, True) for text in ("1", "true", "yes", "on")),
        *((bool, text, False) for text in ("0", "false", "no", "off")),
    ],
)
def test_a_string_is_converted_to_the_parameters_type(run, kind, text, value):
    """A string given for a parameter of another type is converted."""
    (given,) = run(show(cs.Param("p", type=kind)), params={"p": text})
    assert (type(given), given) == (kind, value)


def test_parameters_hold_however_a_run_is_started(inside, use_vm):
    """Defaults and types hold in `run_async` and `Engine.run` as in `run`."""
    target = show(cs.Param("n", type=int), cs.Param("m", default=4, type=int))

    async def main():
        assert await cs.run_async(target, params={"n": "1"}, use_vm=use_vm) == (1, 4)
        assert await cs.Engine().run(target, params={"n": "2"}, use_vm=use_vm) == (2, 4)

    inside(main)


def test_a_parameter_may_be_the_target(run):
    """A target may be any expression, a Param too, alone or in a container."""
    assert run(cs.Param("n", default=5, type=int)) == 5
    assert run({"n": [cs.Param("n", type=int)]}, params={"n": 6}) == {"n": [6]}


def test_an_env_reads_the_environment(run, monkeypatch):
    """An Env has the environment variable's value, else its default."""
    monkeypatch.setenv("CASCADE_TEST_SET", "given")
    monkeypatch.delenv("CASCADE_TEST_UNSET", raising=False)
    values = show(cs.Env("CASCADE_TEST_SET"), cs.Env("CASCADE_TEST_UNSET", default="left"))
    assert run(values) == ("given", "left")


def test_parameters_lists_what_a_target_declares():
    """`cs.parameters` lists the parameters of the whole target, jump routes included."""

    @cs.task
    def step(x, y):
        return cs.Jump("exit")

    node = step(cs.Param("a"), [cs.Param("b", default="x")])
    route = step(1, cs.Param("c", type=int))
    cs.bind(node, cs.select_jump({"go": route, "exit": None}))
    router = cs.Router(cs.Param("d"), {"k": cs.Param("e")})
    listed = cs.parameters([node, router])
    assert {parameter.name for parameter in listed} == set("abcde")


def test_all_missing_parameters_are_one_error(run, monkeypatch):
    """What is missing anywhere in the target is one error before anything runs."""
    monkeypatch.delenv("CASCADE_TEST_UNSET", raising=False)
    log = []
    mark = cs.task(lambda *x: log.append(1), name="mark")
    looped = cs.bind(mark(), cs.select_jump({"never": mark(cs.Param("in_route"))}))
    router = cs.Router(cs.Param("s", default="a"), {"a": 1, "b": cs.Param("unchosen")})
    target = [mark(), looped, router, cs.Env("CASCADE_TEST_UNSET"), mark(cs.Param("plain"))]
    with pytest.raises(cs.MissingParameterError) as caught:
        run(target)
    for name in ("in_route", "unchosen", "CASCADE_TEST_UNSET", "plain"):
        assert name in str(caught.value)
    assert isinstance(caught.value, LookupError)
    assert log == []


def test_a_missing_parameter_tells_what_was_given_instead(run):
    """Of a misspelt parameter the error names both: what is missing and what nothing declares."""
    with pytest.raises(cs.MissingParameterError) as caught:
        run(show(cs.Param("count"), cs.Param("more", "x")), params={"cuont": 1, "more": "y"})
    assert (caught.value.params, caught.value.unknown) == (("count",), ("cuont",))
    assert str(caught.value) == (
        "no value for Param 'count'; pass params={'count': ...}; or declare a default; "
        "given, but not declared: 'cuont'"
    )
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("target", [lambda: show(1), lambda: show(cs.Param("n", default=1))])
def test_an_unknown_parameter_is_a_value_error(run, target):
    """A name in `params` that the target does not declare is a `ValueError`."""
    with pytest.raises(ValueError, match="nn"):
        run(target(), params={"nn": 1})


@pytest.mark.parametrize(
    "other",
    [cs.Param("n", type=int), cs.Param("n", default="x")],
    ids=["type", "default"],
)
def test_a_parameter_declared_in_two_ways_is_a_value_error(run, other):
    """One name declared in two ways is a `ValueError`; the same way twice is one parameter."""
    assert run(show(cs.Param("n"), cs.Param("n")), params={"n": "1"}) == ("1", "1")
    with pytest.raises(ValueError, match="n"):
        run(show(cs.Param("n"), other), params={"n": "1"})


def test_a_name_is_a_string():
    """Tasks and targets are named by strings, and refuse another name at once."""
    with pytest.raises(TypeError, match="name"):
        cs.task(lambda: 1, name=5)
    with pytest.raises(TypeError, match="target"):
        cs.TailCall(target=5)
    with pytest.raises(TypeError, match="name"):
        cs.Engine().register_target(5, cs.Param("x"))


@pytest.mark.parametrize("name", ["a\0b", "lone \udc80"])
def test_a_name_is_text_that_code_and_files_can_hold(name):
    """A name with NUL or a lone surrogate, given or the function's own, is a `ValueError`."""

    def function():
        pass

    with pytest.raises(ValueError, match="holds NUL or a lone surrogate"):
        cs.task(function, name=name)
    function.__name__ = name
    with pytest.raises(ValueError, match="holds NUL or a lone surrogate"):
        cs.task(function)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("line\nbreak", "\x1b[31m"),
        ("{x}%s%(a)s", "'\"\\"),
        ("\u202e", "[red]"),
        ("a/b#1[3]", "<b>&]]>"),
    ],
)
def test_all_other_names_are_names(run, name, other):
    """Whatever stands in a name, the task runs, loops and is listed under it."""
    node = cs.task(lambda n: cs.Jump("again" if n < 99 else "exit", n + 1), name=name)(0)
    loop = cs.bind(node, cs.select_jump({"again": node, "exit": None}))
    target = [loop, cs.task(lambda x: x, name=other).map(x=[1, 2])]
    assert run(target) == [100, [1, 2]]
    assert cs.disassemble(target, fused=True)
    assert [node["name"] for node in cs.to_json(target)["nodes"]] == [name, other]


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (lambda lazy, task: lazy["n"], "cannot be indexed before it runs"),
        (lambda lazy, task: lazy.n, "has no attribute 'n'; a part of its value"),
        (lambda lazy, task: lazy.retry(3), "has no attribute 'retry'; did you mean 'with_retry'?"),
        (lambda lazy, task: lazy.with_retries(3), "did you mean 'with_retry'?"),
        (lambda lazy, task: lazy.map(n=[1]), "a map is made by the task, without a call: task.map"),
        (lambda lazy, task: task.map([1]), "by parameter name; write task.map(n=...)"),
        (lambda lazy, task: task.map(n=3), "write n=cs.unmapped(...) for a value"),
        (lambda lazy, task: cs.Router("a", {"a": 1}).run_if, "has no attribute 'run_if'"),
        (lambda lazy, task: cs.run(lazy, system_resources=["gpu"]), "a dict of amounts by name"),
        (lambda lazy, task: lazy.run_if(task), "is a task, not a call of one"),
        (lambda lazy, task: cs.Router(task, {"a": 1}), "is a task, not a call of one"),
        (lambda lazy, task: lazy.with_cache(cs.InMemoryCache), "is a class; pass an instance"),
        (lambda lazy, task: cs.Param("n", int), "write type=int"),
        (
            lambda lazy, task: cs.run(cs.Param("n"), params={"n": 5}),
            "Param 'n' takes str, not int: 5; declare it with type=int",
        ),
        (
            lambda lazy, task: cs.run(cs.Param("n", default=3), params={"n": 5.5}),
            "Param 'n' takes int, not float: 5.5; declare it with type=float",
        ),
        (lambda lazy, task: cs.run(lazy, resources=cs.resource(_yields)), "must be a list"),
        (
            lambda lazy, task: cs.Engine(
                constraints=cs.GlobalConstraint("p", "global", "pause", {})  # type: ignore
            ),
            "must be a list",
        ),
    ],
)
def test_a_common_mistake_is_told_with_its_remedy(mistake, hint):
    """What a newcomer writes by mistake is an error where it stands, and says what to write."""
    task = cs.task(lambda n=1: n, name="task")
    with pytest.raises((TypeError, AttributeError), match=re.escape(hint)):
        mistake(task(), task)


def _yields():
    yield 1


def test_an_expression_can_be_copied_and_pickled():
    """Copies and pickles of an expression compute the same."""
    target = cs.task(math.gcd, name="gcd")(12, 18)
    assert cs.run(copy.copy(target)) == 6
    assert cs.run(copy.deepcopy(cs.Router("a", {"a": 1}))) == 1
