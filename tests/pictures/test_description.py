"""`cs.to_json`: the structure of a target as plain data."""

import enum
import json
import logging
from collections.abc import Iterator
from decimal import Decimal

import pytest

import building
import cascade as cs
from cascade.plain import DEEPEST, LONGEST, plain
from programs import seeded

SEEDS = range(150)


@cs.task
def load(page, db=cs.inject("db")):
    return page


@cs.task(mode="thread", pure=True, version=3)
def parse(x, *more):
    return x


@cs.task
def is_big(x):
    return True


@cs.task
async def step(n, m=0):
    return n


class Color(enum.Enum):
    RED = 1


def by_id(told, table):
    return {each["id"]: each for each in told[table]}


def edges_to(told, id):
    return [
        (edge["kind"], edge["source"], edge.get("argument", edge.get("key")))
        for edge in told["edges"]
        if edge["target"] == id
    ]


@pytest.fixture
def drawn() -> Iterator[list]:
    """Targets drawn at random, with every construct there is."""
    logging.disable(logging.CRITICAL)
    targets = []
    for seed in SEEDS:
        program = seeded(seed)
        building.use(program)
        try:
            pair = building.build(program), building.build(program)
            cs.build_graph(pair[0])
        except Exception:  # a program that cannot be built, which is tested elsewhere
            continue
        targets.append(pair)
    assert len(targets) > len(SEEDS) / 2
    yield targets
    logging.disable(logging.NOTSET)


def test_the_format_and_its_version_are_told():
    """A reader can tell what it reads, for a literal target too."""
    told = cs.to_json(7)
    assert (told["format"], told["version"]) == ("cascade.target", 1)
    assert told["target"] == {"literal": 0}
    assert told["nodes"] == told["edges"] == []


def test_tasks_are_told_by_module_and_qualified_name_once():
    """The description lists each task once, and nodes refer to it by its index."""
    told = cs.to_json([parse(1), parse(2), step(3)])
    assert told["tasks"] == [
        {
            "module": __name__,
            "qualname": "parse",
            "name": "parse",
            "mode": "thread",
            "is_async": False,
            "pure": True,
            "version": 3,
        },
        {
            "module": __name__,
            "qualname": "step",
            "name": "step",
            "mode": "inline",
            "is_async": True,
            "pure": False,
        },
    ]
    assert [node["task"] for node in told["nodes"]] == [0, 0, 1]


def test_ids_are_those_of_the_graph(drawn):
    """Nodes have the ids of `build_graph`, in plan order; what only jumps lead to follows."""
    for target, _ in drawn:
        graph = cs.build_graph(target).graph
        ids = [node["id"] for node in cs.to_json(target)["nodes"]]
        assert ids[: len(graph.nodes)] == [node.id for node in graph.nodes]
        assert len(set(ids)) == len(ids)


def test_edges_are_those_of_the_graph(drawn):
    """Seen through containers and Routers, the edges are those of `build_graph`."""
    for target, _ in drawn:
        graph = cs.build_graph(target).graph
        told = cs.to_json(target)
        expected = {(e.source.id, e.target.id, e.kind, e.argument) for e in graph.edges}
        needed = {node.id for node in graph.nodes}
        assert set(seen_through(told, needed)) == expected


def seen_through(told, needed):
    into = {}
    for edge in told["edges"]:
        into.setdefault(edge["target"], []).append(edge)
    for node in needed:
        for edge in into.get(node, ()):
            if edge["kind"] == "group":  # among the jumps of the graph
                continue
            seen, todo = set(), [(edge["source"], edge["kind"])]
            while todo:
                id, kind = todo.pop()
                if id in seen:
                    continue
                seen.add(id)
                if id in needed:
                    yield id, node, kind, edge.get("argument")
                parts = into.get(id, ()) if id not in needed else ()
                selectors = [e for e in parts if e["kind"] == "selector"]
                others = [e for e in parts if e["kind"] != "selector"]
                is_router = id.startswith("router:")
                todo += [(e["source"], "route" if is_router else kind) for e in reversed(others)]
                todo += [(e["source"], "selector") for e in selectors]


def test_the_same_program_gives_the_same_json(drawn):
    """Built twice, a program is told in the same words, and JSON takes them."""
    for one, other in drawn:
        text = json.dumps(cs.to_json(one), allow_nan=False)
        assert text == json.dumps(cs.to_json(other), allow_nan=False)
        assert json.loads(text) == cs.to_json(one)
        assert " at 0x" not in text


def test_every_reference_leads_to_something(drawn):
    """Each id and each literal that a description mentions exists in it."""
    for target, _ in drawn:
        told = cs.to_json(target)
        tables = ("nodes", "routers", "containers", "inputs", "resources", "selectors")
        ids = {each["id"] for table in tables for each in told[table]}
        assert {edge[end] for edge in told["edges"] for end in ("source", "target")} <= ids
        assert {node["jumps"] for node in told["nodes"] if "jumps" in node} <= ids
        count = len(cs.build_graph(target).data)
        for table in tables:
            for literal in (lit for each in told[table] for lit in each.get("literals", ())):
                assert 0 <= literal["literal"] < count


def test_the_value_of_a_literal_is_not_told():
    """Data stays out: a number says which of `build_graph(target).data` stands there."""
    target = parse("secret")
    told = cs.to_json(target)
    assert told["nodes"][0]["literals"] == [{"kind": "data", "argument": "x", "literal": 0}]
    assert cs.build_graph(target).data == ("secret",)
    assert "secret" not in json.dumps(told)


def test_what_decides_and_what_comes_before():
    """Conditions, defaults, predecessors and amounts are edges of kinds of their own."""
    condition, before = is_big(1), step(2)
    node = parse(step(3)).run_if(condition, default=step(4)).after(before)
    node.with_constraints(gpu=step(5), mem=1.5)
    told = cs.to_json(node)
    assert edges_to(told, "parse#5") == [
        ("condition", "is_big#0", None),
        ("default", "step#1", None),
        ("sequence", "step#2", None),
        ("data", "step#3", "x"),
        ("amount", "step#4", "gpu"),
    ]
    assert by_id(told, "nodes")["parse#5"]["policies"] == {"amounts": {"mem": 1.5}}


def test_policies_that_were_set_are_told():
    """The description of a node has exactly the policies that were set."""
    node = parse(1).with_retry(4, 0.5, 2, max_delay=8, jitter=0.1, on=(ValueError, OSError))
    node.with_timeout(3).with_cache(cs.InMemoryCache()).with_constraints(gpu=Decimal("0.5"))
    policies = cs.to_json(node)["nodes"][0]["policies"]
    assert policies == {
        "retry": {
            "max_attempts": 4,
            "delay": 0.5,
            "backoff": 2,
            "max_delay": 8,
            "jitter": 0.1,
            "on": ["ValueError", "OSError"],
        },
        "timeout": 3.0,
        "cache": {"type": "cascade.InMemoryCache"},
        "amounts": {"gpu": {"type": "decimal.Decimal", "text": "0.5"}},
    }


def test_what_answers_a_failure_is_told():
    """A fallback is an edge or a literal, a handler is called; what is answered is a policy."""

    def explains(error):
        return True

    target = [
        step(1).with_fallback(step(2), on=(ValueError, OSError)),
        step(3).with_fallback(4).settled(on=explains),
        load.map(page=[5]).with_fallback(is_big),
    ]
    told = cs.to_json(target)
    nodes = by_id(told, "nodes")
    assert edges_to(told, "step#1") == [("fallback", "step#0", None)]
    assert nodes["step#1"]["policies"] == {"fallback": {"on": ["ValueError", "OSError"]}}
    name = f"{explains.__qualname__}()"
    assert nodes["step#2"]["policies"] == {
        "fallback": {"on": ["Exception"]},
        "settled": {"on": [name]},
    }
    assert [each["kind"] for each in nodes["step#2"]["literals"]][-1] == "fallback"
    assert edges_to(told, "load#4") == [
        ("data", "resource:0", "db"),
        ("fallback", "is_big#3", None),
    ]
    assert nodes["load#4"]["policies"] == {"fallback": {"on": ["Exception"], "is_handler": True}}


def test_a_map_tells_its_iterables():
    """The description of a map lists its iterables by parameter name."""
    told = cs.to_json(step.map(n=[1, 2], m=load(1)))
    assert by_id(told, "nodes")["step#1"]["iterables"] == ["m", "n"]
    assert by_id(told, "nodes")["step#1"]["kind"] == "map"


def test_a_router_tells_its_keys():
    """Routes that are literals are told as such; keys keep their JSON types."""
    router = cs.Router(step(0), {"a": step(1), 2: "two", Color.RED: step(3)}, default=step(4))
    told = cs.to_json(parse(router))
    red = {"type": f"{__name__}.Color", "name": "RED"}
    assert edges_to(told, "router:0") == [
        ("selector", "step#0", None),
        ("route", "step#1", "a"),
        ("route", "step#2", red),
        ("default", "step#3", None),
    ]
    (literal,) = told["routers"][0]["literals"]
    assert (literal["kind"], literal["key"]) == ("route", 2)
    assert cs.build_graph(parse(router)).data[literal["literal"]] == "two"


def test_jumps_are_edges_of_the_selector():
    """Two nodes may share a selector; ways out are its `exits`."""
    one, other = step(1), step(2)
    selector = cs.select_jump({"again": one, "other": other, "out": None})
    cs.bind(one, selector)
    cs.bind(other, selector)
    told = cs.to_json(parse(one))
    assert {n["id"]: n.get("jumps") for n in told["nodes"]} == {
        "step#0": "jumps:0",
        "parse#1": None,
        "step#2": "jumps:0",
    }
    assert told["selectors"] == [{"id": "jumps:0", "exits": ["out"]}]
    jumps = [(e["target"], e["key"]) for e in told["edges"] if e["kind"] == "jump"]
    assert jumps == [("step#0", "again"), ("step#2", "other")]


def test_inputs_and_resources_are_one_per_name():
    """Declared in two places, a Param is one input, as it is for `cs.parameters`."""
    pages = [cs.Param("pages", 3, int, "how many") for _ in range(2)]
    told = cs.to_json([load(pages[0]), load(pages[1]), cs.Env("HOME")])
    assert told["inputs"] == [
        {
            "id": "param:0",
            "kind": "param",
            "name": "pages",
            "type": "int",
            "required": False,
            "default": 3,
            "description": "how many",
        },
        {"id": "env:0", "kind": "env", "name": "HOME", "required": True},
    ]
    assert told["resources"] == [{"id": "resource:0", "name": "db"}]


def test_a_circle_is_refused():
    """A target that depends on itself has no description."""
    one = parse(1)
    one.run_if(parse(one))
    with pytest.raises(cs.CycleError):
        cs.to_json(one)


def test_depth_is_unlimited():
    """A chain of 100,000 tasks is told, without recursion."""
    node = step(0)
    for _ in range(100_000):
        node = step(node)
    told = cs.to_json(node)
    assert len(told["nodes"]) == 100_001
    assert len(told["edges"]) == 100_000


def test_nested_containers_cost_no_more_than_they_are():
    """Containers are told as such: a list in a list in a list does not multiply its edges."""
    inner = [step(0)]
    for _ in range(500):
        inner = [inner, step(0)]
    told = cs.to_json(inner)
    assert len(told["edges"]) == 501 + 500


# Plain values


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (-3, -3),
        (1.5, 1.5),
        (float("nan"), {"type": "float", "text": "nan"}),
        ("text", "text"),
        (b"ab", {"type": "bytes", "length": 2}),
        (Color.RED, {"type": f"{__name__}.Color", "name": "RED"}),
        (int, {"type": "type", "name": "int"}),
        ((1, [2]), [1, [2]]),
        ({"a": {"b": 1}}, {"a": {"b": 1}}),
        ({1: 2}, {"type": "dict", "length": 1}),
        (10**5000, {"type": "int"}),
        ("x" * (LONGEST + 1), {"type": "str", "length": LONGEST + 1}),
        ([0] * (LONGEST + 1), {"type": "list", "length": LONGEST + 1}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_values_are_what_json_takes(value, expected):
    """Any value has a plain form that JSON takes; long and foreign ones become a summary."""
    assert plain(value) == expected
    json.dumps(plain(value), allow_nan=False)


def test_plain_values_are_bounded_in_depth():
    """A list that contains itself ends, too."""
    endless = []
    endless.append(endless)
    told = json.dumps(plain(endless))
    assert told.count("[") == DEEPEST


def test_plain_values_are_bounded_in_all():
    """Members count in all: lists that share lists do not multiply."""
    shared = [0] * 99
    for _ in range(4):
        shared = [shared] * 99
    assert json.dumps(plain(shared)).count("0") < 3 * LONGEST


# Blueprints


def blueprint_of(target):
    return cs.BlueprintBuilder().build(target)[0]


def test_a_blueprint_is_told_by_routine_and_instruction():
    """Every operand of every instruction stands under its name."""
    told = blueprint_of(parse(step(1), 2)).to_json()
    assert (told["format"], told["version"]) == ("cascade.blueprint", 1)
    assert told["literals"] == 3
    assert [site["id"] for site in told["sites"]] == ["step#0", "parse#1"]
    (routine,) = told["routines"]
    assert routine["name"] == "parse"
    assert routine["registers"] == 1
    assert routine["code"] == [
        {
            "op": "await",
            "at": 0,
            "dst": 0,
            "site": 0,
            "args": [-1, -2],
            "kwargs": [],
            "after": [],
            "amounts": [],
        },
        {
            "op": "thread",
            "at": 0,
            "dst": 0,
            "site": 1,
            "args": [0, -3],
            "kwargs": [],
            "after": [],
            "amounts": [],
        },
        {"op": "return", "at": 0, "value": 0},
    ]


def test_a_blueprint_tells_all_its_rows(drawn):
    """As many instructions as it has, the same each time, and JSON takes them."""
    for one, other in drawn:
        blueprint = blueprint_of(one)
        told = blueprint.to_json()
        rows = [[each["op"] for each in routine["code"]] for routine in told["routines"]]
        assert rows == [[i.mnemonic for i in routine.code] for routine in blueprint.routines]
        text = json.dumps(told, allow_nan=False)
        assert text == json.dumps(blueprint_of(other).to_json(), allow_nan=False)
