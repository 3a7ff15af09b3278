"""Sections 1 and 3: expressions inside containers, and literals as they are."""

import collections
import time
from typing import NamedTuple

import pytest

import cascade as cs


class Point(NamedTuple):
    x: object
    y: object = 0


def one():
    return cs.task(lambda: 1, name="one")()


def echo(*values, **named):
    return cs.task(lambda *given, **more: (given, more), name="echo")(*values, **named)


NESTINGS = [
    (lambda: [one()], [1]),
    (lambda: (one(),), (1,)),
    (lambda: {"k": one()}, {"k": 1}),
    (lambda: Point(one()), Point(1, 0)),
    (lambda: Point(0, [one()]), Point(0, [1])),
    (lambda: [[], (), {}, one()], [[], (), {}, 1]),
    (lambda: {1: [one()], None: (one(), 2), (3,): {}}, {1: [1], None: (1, 2), (3,): {}}),
    (lambda: [({"k": Point([(one(),)])},)], [({"k": Point([(1,)])},)]),
    (lambda: [[[[[[[[one()]]]]]]]], [[[[[[[[1]]]]]]]]),
    (lambda: {"b": 0, "a": one(), "c": 2}, {"b": 0, "a": 1, "c": 2}),
]


def typed(value):
    """`value` with the type of every container spelled out, in order."""
    if isinstance(value, dict):
        return dict, [(key, typed(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [typed(item) for item in value]
    return type(value), value


@pytest.mark.parametrize(("make", "expected"), NESTINGS)
def test_expressions_are_resolved_in_any_nesting(run, make, expected):
    """Containers of any nesting are rebuilt with their types and values in their places."""
    assert typed(run(make())) == typed(expected)
    given, named = run(echo(make(), last=make()))
    assert typed((given, named)) == typed(((expected,), {"last": expected}))


@pytest.mark.parametrize(("make", "expected"), NESTINGS)
def test_a_container_may_stand_wherever_an_expression_may(run, make, expected):
    """A container with expressions may be a route, a default, a condition and a mapped item."""
    key = cs.task(lambda: "k", name="key")()
    item = cs.task(lambda x: x, name="item")
    assert typed(run(cs.Router(key, {"k": make()}))) == typed(expected)
    assert typed(run(one().run_if(False, default=make()))) == typed(expected)
    assert run(one().run_if(make())) == 1
    assert typed(run(item.map(x=[make()]))) == typed([expected])


def test_a_container_with_expressions_is_built_anew(run):
    """The caller's containers are not touched: the rebuilt ones are new objects."""
    container = [one(), 2]
    first, before = container[0], list(container)
    assert run(container) is not container
    ((given,), _) = run(echo(container))
    given.append(3)
    assert container == before
    assert container[0] is first
    assert run(container) == [1, 2]


LITERALS = [
    lambda: [],
    lambda: [1, [2]],
    lambda: {"k": []},
    lambda: (1, [2]),
    lambda: Point(1, [2]),
    lambda: {1, 2},
    lambda: {"k": {"l": ({},)}},
    lambda: object(),
    lambda: iter([1]),
    lambda: bytearray(b"data"),
    lambda: {one(): 1},
    lambda: {one()},
    lambda: frozenset([one()]),
    lambda: lambda: one(),
]


@pytest.mark.parametrize("make", LITERALS)
def test_literals_are_passed_as_the_same_object(run, make):
    """Data is passed on as the same object, whatever it is and wherever it stands."""
    literal = make()
    assert run(literal) is literal
    assert run(echo(literal))[0][0] is literal
    assert run(echo(x=literal))[1]["x"] is literal
    assert run([one(), literal, {"k": literal}])[2]["k"] is literal
    assert run(Point(one(), literal)).y is literal
    assert run(one().run_if(False, default=literal)) is literal
    assert run(cs.Router(one(), {1: literal})) is literal
    assert run(cs.task(lambda x: x).map(x=[literal]))[0] is literal


def test_values_are_the_same_objects_too(run):
    """The value of a node reaches each of its consumers as the same object."""
    value = [1, {"k": 2}]
    node = cs.task(lambda: value, name="node")()
    whole, ((given,), _) = run([node, echo(node)])
    assert whole is given is value


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: (x,), lambda x: {"k": [x]}])
def test_values_are_never_searched_for_expressions(run, wrap):
    """A container a task returns is a value, whatever is inside."""
    inner = one()
    outer = cs.task(lambda: wrap(inner), name="outer")()
    assert run(outer) == wrap(inner)
    assert run(echo(outer)) == ((wrap(inner),), {})


def test_one_expression_in_many_places_is_one_value(run):
    """An expression in several places of a container is one node with one value."""
    calls = []

    @cs.task
    def node():
        calls.append(1)
        return object()

    made = node()
    first, (second,), third = run([made, (made,), {"k": made}])
    assert first is second is third["k"]
    assert len(calls) == 1


@pytest.mark.parametrize(
    "expression",
    [
        lambda: one(),
        lambda: cs.task(lambda x: x).map(x=[1]),
        lambda: cs.Router(one(), {1: 1}),
        lambda: cs.Param("p", default="1"),
        lambda: cs.Env("CASCADE_TEST_UNSET", default="1"),
        lambda: cs.inject("injected"),
    ],
    ids=["lazy", "map", "router", "param", "env", "inject"],
)
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: ({"k": [x]},)])
def test_every_kind_of_expression_is_resolved_in_containers(run, expression, wrap):
    """A list, tuple or dict may hold any kind of expression, as an argument or as the target."""

    @cs.resource
    def injected():
        yield 1

    def resolved(value):
        while isinstance(value, (list, tuple, dict)):
            (value,) = value.values() if isinstance(value, dict) else value
        return value

    ((given,), _), whole = run([echo(wrap(expression())), wrap(expression())], resources=[injected])
    assert str(resolved(given)) == str(resolved(whole)) == "1"


@pytest.mark.parametrize("change", ["add", "remove", "replace"])
def test_a_container_of_an_own_type_is_read_once_too(run, change):
    """What happens to a container after the run has started does not show in what is built."""

    @cs.task
    def changes():
        if change == "remove":
            del given["a"]
        else:
            given["z" if change == "add" else "a"] = 9
        return 1

    @cs.task
    def echo(x):
        return x

    given = collections.OrderedDict(a=5, b=changes())
    built = run(echo(given))
    assert type(built) is collections.OrderedDict
    assert list(built.items()) == [("a", 5), ("b", 1)]


class Pair(tuple):
    """A tuple that takes its members one by one."""

    def __new__(cls, left, right):
        made = super().__new__(cls, (left, right))
        made.unit = "m"
        return made


class Triple(NamedTuple):
    x: object
    y: object
    z: object


class Named(Triple):
    """A named tuple with attributes, and with a way of its own to be made."""

    def __new__(cls, *, name):
        made = super().__new__(cls, one(), 2, [one()])
        made.name = name
        return made


class Checked(list):
    """A list that counts and checks what is put into it, and needs arguments."""

    __slots__ = ("changes", "kind")

    def __init__(self, kind, given):
        super().__init__(given)
        self.kind = kind
        self.changes = 0

    def append(self, value):
        raise AssertionError

    extend = __setitem__ = __iter__ = append


class Doubled(dict):
    """A dict that shows and stores other values than it was given."""

    def __init__(self, **given):
        for name, value in given.items():
            self[name] = value

    def __setitem__(self, name, value):
        super().__setitem__(name.lower(), [value, value])

    def values(self):
        return [pair[0] for pair in super().values()]

    def __iter__(self):
        raise AssertionError


class Registry(collections.OrderedDict):
    def __init__(self, owner):
        super().__init__()
        self.owner = owner

    def copy(self):
        raise AssertionError

    __copy__ = copy


class Groups(collections.defaultdict):
    def __new__(cls, needed):
        return super().__new__(cls)

    def __init__(self, needed):
        super().__init__(list)


def registry():
    made = Registry("me")
    made["b"], made["a"] = one(), 2
    made.move_to_end("b")
    return made


def groups():
    made = Groups("needed")
    made["k"].append(one())
    return made


def checked():
    made = Checked(int, [one(), 2])
    made.changes = 5
    return made


OWN_CLASSES = [
    (lambda: Pair(one(), 2), tuple, [1, 2], {"unit": "m"}),
    (lambda: Named(name="n"), tuple, [1, 2, [1]], {"name": "n"}),
    (lambda: Point(one()), tuple, [1, 0], {}),
    (checked, list, [1, 2], {"kind": int, "changes": 5}),
    (lambda: Doubled(A=one(), b=3), dict, [("a", [1, 1]), ("b", [3, 3])], {}),
    (registry, collections.OrderedDict, [("a", 2), ("b", 1)], {"owner": "me"}),
    (groups, dict, [("k", [1])], {"default_factory": list}),
    (lambda: collections.Counter(a=one()), dict, [("a", 1)], {}),
    (lambda: collections.defaultdict(set, a=one()), dict, [("a", 1)], {"default_factory": set}),
    (lambda: time.struct_time((one(), *range(8))), tuple, [1, *range(8)], {}),
]


@pytest.mark.parametrize(("make", "base", "members", "attributes"), OWN_CLASSES)
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {"k": (x,)}])
def test_a_container_of_an_own_class_is_built_anew(run, make, base, members, attributes, wrap):
    """With its type, keys, order and attributes, and without asking anything of its class."""

    def check(built):
        while type(built) in (list, tuple, dict):
            (built,) = built.values() if type(built) is dict else built
        assert type(built) is type(given)
        assert built is not given
        found = base.items(built) if issubclass(base, dict) else base.__iter__(built)
        assert list(found) == members
        for name, value in attributes.items():
            assert getattr(built, name) is value

    given = make()
    check(run(wrap(given)))
    ((argument,), _) = run(echo(wrap(given)))
    check(argument)
    check(run(wrap(given)))  # what was given is as it was


@pytest.mark.parametrize(("make", "base", "members", "attributes"), OWN_CLASSES)
def test_a_container_of_an_own_class_in_a_hot_loop(run, make, base, members, attributes):
    """Each iteration builds it anew, in fused code too."""
    seen = []

    @cs.task
    def step(n, given):
        seen.append(given)
        return cs.Jump("again", {"n": n - 1}) if n else given

    node = step(300, make())
    run(cs.bind(node, cs.select_jump({"again": node})))
    assert len({id(each) for each in seen}) == 301
    for built in (seen[0], seen[-1]):
        found = base.items(built) if issubclass(base, dict) else base.__iter__(built)
        assert list(found) == members


def test_attributes_of_a_container_are_read_once_too(run):
    """What happens to them after the run has started does not show."""

    @cs.task
    def changes():
        given.unit = "km"
        return 1

    given = Pair(changes(), 2)
    assert run(echo(given))[0][0].unit == "m"


@pytest.mark.parametrize("kind", [dict, collections.OrderedDict])
def test_a_key_is_no_place_for_an_expression(run, kind):
    """An expression as a key of a dict is an error, since its value is not there yet."""
    with pytest.raises(TypeError, match="cannot be the key of a dict"):
        run(kind({one(): one()}))
