"""Failures reach the caller as they are: none is lost, changed, wrapped, or hidden by a message."""

import dataclasses

import anyio
import pytest

import cascade as cs
from cascade.core.calls import Place
from cascade.core.run import Run
from cascade.plain import brief


class Odd(BaseException):
    """What a class may raise where nobody expects it."""


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    n: int = 1


class Sealed(Exception):
    def __setattr__(self, name, value):
        raise AttributeError(name)


class TakesNoNote(Exception):
    def add_note(self, note):
        raise Odd


class HasNoText(Exception):
    def __str__(self):
        raise Odd

    __repr__ = __str__


class NeedsArguments(Exception):
    def __init__(self, one, two):
        super().__init__()


UNUSUAL = [Frozen(), Sealed(), TakesNoNote(), HasNoText(), NeedsArguments(1, 2)]


def unusual(function):
    return pytest.mark.parametrize("error", UNUSUAL, ids=lambda e: type(e).__name__)(function)


@unusual
@pytest.mark.parametrize("scope", ["run", "step", "task", None])
def test_an_unusual_error_surfaces_as_itself(run, error, scope):
    """Whatever its class refuses, and whatever it served: the same object."""

    @cs.resource(scope=scope or "run")
    async def held():
        yield 1

    @cs.task
    async def fails(x=None):
        raise error

    target = fails(cs.inject("held")) if scope else fails()
    with pytest.raises(type(error)) as caught:
        run([target.with_retry(2), target], resources=[held])
    assert caught.value is error


@unusual
def test_an_unusual_error_of_a_loop_and_beside_another(run, error):
    """Also out of fused code, and while another task fails because it is cancelled."""

    @cs.task
    def step(i):
        if i == 500:
            raise error
        return cs.Jump("again", i + 1)

    @cs.task
    async def beside():
        try:
            await anyio.sleep_forever()
        finally:
            raise HasNoText

    node = step(0)
    with pytest.raises(type(error)) as caught:
        run([beside(), cs.bind(node, cs.select_jump({"again": node}))])
    assert caught.value is error


def raises(error):
    raise error


async def raises_later(error):
    await anyio.sleep(1)
    raise error


async def nested(error):
    await cs.run_async(cs.task(raises, mode="thread")(error))


class FailingCache:
    def __init__(self, error):
        self.error = error

    async def get(self, key):
        raise self.error

    async def put(self, key, value):
        pass


def hot_loop(error, mode):
    """Whose argument fails once it has gone round often enough to be fused."""

    @cs.task
    def step(n, count):
        count.append(n)
        return cs.Jump("again")

    count = []
    task = cs.task(lambda count, n: raises(error) if len(count) > 60 else n, mode=mode)
    node = step(task(count, 0), count)
    return cs.bind(node, cs.select_jump({"again": node}))


@cs.task
def takes(x):
    return x


def in_mode(mode):
    return {
        "call": lambda error: cs.task(raises, mode=mode)(error),
        "awaitable": lambda error: cs.task(lambda: raises_later(error), mode=mode)(),
        "map": lambda error: cs.task(raises, mode=mode).map(error=[error]),
        "capacity": lambda error: cs.task(raises, mode=mode)(error).with_constraints(gpu=1),
        "condition": lambda error: takes(1).run_if(cs.task(raises, mode=mode)(error)),
        "selector": lambda error: cs.Router(cs.task(raises, mode=mode)(error), {1: 2}),
        "returned": lambda error: cs.task(lambda: cs.task(raises, mode=mode)(error))(),
        "loop": lambda error: hot_loop(error, mode),
    }


WAYS = {
    **{f"inline {name}": way for name, way in in_mode("inline").items()},
    **{f"thread {name}": way for name, way in in_mode("thread").items()},
    "async": lambda error: cs.task(raises_later)(error),
    "timed": lambda error: cs.task(raises_later)(error).with_timeout(60),
    "thread timed": lambda error: cs.task(raises, mode="thread")(error).with_timeout(60),
    "cache": lambda error: takes(1).with_cache(FailingCache(error)),
    "nested run": lambda error: cs.task(nested)(error),
    "retry": lambda error: cs.task(raises)(OSError()).with_retry(2, on=lambda _: raises(error)),
    **{f"set-up of a {s}": lambda _, s=s: takes(cs.inject(s)) for s in ("run", "step", "task")},
}


@unusual
@pytest.mark.parametrize("way", WAYS)
def test_an_unusual_error_comes_out_of_everything_as_itself(run, error, way):
    """Of a task in each mode and place, and of what the engine asks: the same object."""

    def failing(scope):
        @cs.resource(name=scope, scope=scope)
        def held():
            raise error
            yield

        return held

    resources = [failing(scope) for scope in ("run", "step", "task")]
    with pytest.raises(type(error)) as caught:
        run([WAYS[way](error)], resources=resources, system_resources={"gpu": 1})
    assert caught.value is error


@pytest.mark.parametrize("scope", ["run", "step", "task"])
@pytest.mark.parametrize("retries", [1, 3])
def test_a_failure_and_a_failing_tear_down_make_a_group(run, scope, retries):
    """The failure of what was served comes first; a failed tear-down ends the run, unretried."""
    attempts = []

    @cs.resource(scope=scope)
    def held():
        try:
            yield 1
        finally:
            raise OSError("tear-down")

    @cs.task
    async def fails(_=cs.inject("held")):
        attempts.append(1)
        raise ValueError(len(attempts))

    with pytest.raises(ExceptionGroup) as caught:
        run(fails().with_retry(retries), resources=[held])
    assert [type(error) for error in caught.value.exceptions] == [ValueError, OSError]
    assert len(attempts) == (1 if scope == "task" else retries)
    assert "in task 'fails'" in caught.value.exceptions[0].__notes__[0]


def test_what_siblings_raise_meanwhile_is_not_the_failure(run):
    """The group of an attempt holds its own failure; what it cancelled is told in the notes."""

    @cs.resource(scope="task")
    def held():
        try:
            yield 1
        finally:
            raise OSError("tear-down")

    @cs.task
    async def fails(_=cs.inject("held")):
        await anyio.sleep(1)
        raise ValueError

    @cs.task
    async def beside():
        try:
            await anyio.sleep_forever()
        finally:
            raise LookupError("meanwhile")

    with pytest.raises(ExceptionGroup) as caught:
        run([beside(), fails()], resources=[held])
    assert [type(error) for error in caught.value.exceptions] == [ValueError, OSError]


@pytest.mark.parametrize("scope", ["run", "step", "task"])
def test_a_resource_gets_the_failure_of_the_set_up_it_served(run, scope):
    """What is thrown in at the `yield` is the failure itself."""
    thrown = []

    @cs.resource(scope=scope)
    def a():
        try:
            yield 1
        except BaseException as error:
            thrown.append(error)
            raise

    @cs.resource(scope=scope)
    def b(a=cs.inject("a")):
        raise ValueError("set-up")
        yield

    @cs.task
    def use(b=cs.inject("b")):
        return b

    with pytest.raises(ValueError, match="set-up") as caught:
        run(use(), resources=[a, b])
    assert thrown == [caught.value]


@pytest.mark.parametrize("last", [150, 5000])
@pytest.mark.parametrize("scope", ["run", "step", "task"])
def test_an_override_that_ends_while_a_run_goes_on(inside, use_vm, last, scope):
    """A definition that a run has needed stays for all of it, whatever the engine has then."""

    @cs.resource(scope=scope)
    def five():
        yield 5

    async def program():
        engine, ends = cs.Engine(), []
        engine.bus.subscribe(cs.RunFinished, ends.append)
        override = engine.override_resource("db", five)
        override.__enter__()

        @cs.task
        def step(i, db=cs.inject("db")):
            if i == 120:
                override.__exit__(None, None, None)
            return cs.Jump("again", {"i": i + 1}) if i < last else finish(db)

        @cs.task
        def finish(db, again=cs.inject("db")):
            return db, again

        node = step(0)
        cs.bind(node, cs.select_jump({"again": node}))
        return await engine.run(node, use_vm=use_vm), ends[-1].status

    assert inside(program) == ((5, 5), "Succeeded")


@pytest.mark.parametrize("in_groups", [False, True])
def test_an_error_of_the_engine_itself_surfaces_as_itself(inside, in_groups):
    """Whatever a stretch of work raises fails the run, in no group, and it is told so."""

    class Broken:
        place, rank, is_async, is_mixed = Place(None, 0, 0), 0, False, False

        def carry_out(self):
            raise error

    error = ZeroDivisionError("of the engine")

    async def program():
        engine, ends = cs.Engine(), []
        engine.bus.subscribe(cs.RunFinished, ends.append)
        run = Run(engine.services, None, None)

        def begin():
            if in_groups:
                run.spawn(anyio.sleep_forever)
            run.enqueue(Broken())

        with pytest.raises(ZeroDivisionError) as caught:
            await run.execute("x", {}, begin)
        return caught.value, ends[-1].status

    assert inside(program) == (error, "Failed")


class Unshown:
    def __repr__(self):
        raise Odd

    def __hash__(self):
        return 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Unshown(), "<Unshown whose repr raises Odd>"),
        ([Unshown()], "[<Unshown whose repr raises Odd>]"),
        (10**5000, "<int of 16610 bits>"),
    ],
    ids=["raises", "inside", "number"],
)
def test_a_message_is_there_whatever_a_value_does(run, value, text):
    """Keys, data and routes are shown shortened, or by their type."""
    assert brief(value) == text

    @cs.task
    def key():
        return value

    @cs.task
    def jump():
        return cs.Jump(value)

    @cs.task
    def again(x):
        return cs.Jump("again", x)

    loop = again(value)
    cs.bind(loop, cs.select_jump({"again": loop}))
    for target, kind in (
        (cs.bind(jump(), cs.select_jump({"a": None})), cs.JumpKeyError),
        (jump(), cs.JumpNotBoundError),
        (loop, cs.StepLimitError),
    ):
        with pytest.raises(kind) as caught:
            run(target, max_steps=3)
        assert text in str(caught.value)


def test_huge_values_are_shortened():
    """A message has a few hundred characters, and is made without the whole text."""
    assert all(
        len(brief(v)) < 250 for v in ("x" * 10**6, list(range(10**6)), [["x" * 99] * 99] * 9)
    )


def test_the_last_data_of_returned_expressions_are_their_arguments(run):
    """As those of a TailCall."""

    @cs.task
    def decide(n):
        return decide(n + 1)

    with pytest.raises(cs.StepLimitError, match=r"last data was \(\(4,\), {}\)"):
        run(decide(1), max_steps=3)


@pytest.mark.parametrize("scope", ["argument", "condition"])
def test_the_message_names_the_node_skipped_first_in_a_loop(run, scope):
    """Whatever is around that node."""

    @cs.task
    def read(x):
        return x

    @cs.task
    def step(i, a=None):
        return cs.Jump("go", {"i": i + 1}) if i < 3 else (i, a)

    skipped = read(1).run_if(False)
    node = step(0, skipped) if scope == "argument" else step(0).run_if(skipped)
    cs.bind(node, cs.select_jump({"go": node}))
    with pytest.raises(cs.DependencyMissingError, match="read#"):
        run(node)
