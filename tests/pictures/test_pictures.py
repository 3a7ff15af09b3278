"""`cs.visualize`: one drawing, as Mermaid, for Graphviz, and as SVG."""

import itertools
import logging
import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import building
import cascade as cs
from cascade.pictures.drawing import MOST_LINES, MOST_SHAPES, draw
from cascade.pictures.layout import GAP, MOST_POINTS, Box, Link, lay_out
from programs import seeded

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"
NASTY = "a<b>&\"'`|\\ #35; end; {x}\x01"


@cs.task
def load(page, db=cs.inject("db")):
    return page


@cs.task(mode="thread")
def parse(x, y=None):
    return x


@cs.task
def is_big(x):
    return True


@cs.task
async def step(n):
    return n


@cs.task
def show(*x):
    return x


def everything():
    """A target with each kind of shape and line."""
    pages = load.map(page=cs.Param("pages", [1], type=list)).with_retry(3).with_constraints(net=1)
    parsed = parse(pages).with_timeout(5)
    shown = show(parsed).run_if(is_big(parsed), default=step(0)).after(step(1))
    router = cs.Router(step(2), {"a": shown, "b": cs.Env("HOME"), "c": "literal"}, default=step(3))
    loop, other = step(router), step(4)
    cs.bind(loop, cs.select_jump({"again": loop, "other": other, "out": None}))
    cs.bind(other, cs.select_jump({"back": loop}))
    return show(loop).with_constraints(mem=step(5))


def svg_of(target):
    return ElementTree.fromstring(cs.visualize(target).svg())


def shapes_of(svg):
    """By id: the classes of each shape, and its texts."""
    return {
        group.get("data-id"): (
            group.get("class").split(),
            [text.text for text in group.iter(f"{SVG}text")],
        )
        for group in svg.iter(f"{SVG}g")
        if group.get("data-id")
    }


# What is drawn


def test_lines_are_the_edges_of_the_graph():
    """Between nodes, lines are the edges of `build_graph`; jumps come in addition."""
    target = show([parse(1), {"k": parse(2)}], is_big(3))
    graph = cs.build_graph(target).graph
    drawing = draw(cs.to_json(target))
    ids = [shape.id for shape in drawing.shapes]
    lines = [(ids[line.source], ids[line.target], line.kind) for line in drawing.lines]
    assert lines == [(edge.source.id, edge.target.id, edge.kind) for edge in graph.edges]


def test_lines_of_a_kind_between_two_shapes_are_one():
    """Several arguments from one node are one line that names them all."""
    value = step(1)
    drawing = draw(cs.to_json(parse(value, value)))
    (line,) = drawing.lines
    assert line.tip == "argument x, argument y"


def test_what_a_target_consists_of_is_marked():
    """The nodes whose values make up the target are marked, and no others."""
    drawing = draw(cs.to_json([step(0), {"k": show(step(1))}]))
    assert [shape.id for shape in drawing.shapes if shape.is_target] == ["step#0", "show#2"]


def test_a_jump_back_is_told_from_a_jump_ahead():
    """A jump to its own node or an earlier one is a line back."""
    drawing = draw(cs.to_json(everything()))
    jumps = [(line.label, line.is_back) for line in drawing.lines if line.kind == "jump"]
    assert jumps == [("again", True), ("other", False), ("back", True)]


def test_notes_tell_policies_and_ways_out():
    """Below its name a shape shows mode, policies, map and the keys that end a loop."""
    shapes = {shape.id: shape.notes for shape in draw(cs.to_json(everything())).shapes}
    assert shapes["load#1"] == ["map over page", "at most 3 attempts", "net=1"]
    assert shapes["parse#2"] == ["thread", "timeout 5 s"]
    assert "ends at out" in shapes["step#8"]
    assert shapes["router:0"] == ["c: literal"]


def test_a_default_that_is_a_literal_is_told():
    """A condition's literal default is a note, since no line can lead to it."""
    shapes = draw(cs.to_json(show(1).run_if(is_big(1), default=7))).shapes
    assert shapes[-1].notes == ["else a literal"]


def test_what_answers_a_failure_is_told():
    """The line of a fallback is dashed, as that of a default; notes tell the rest."""
    target = [
        show(1).with_fallback(step(2), on=OSError),
        show(3).with_fallback(4).settled(),
        load.map(page=[5]).with_fallback(is_big),
    ]
    picture = cs.visualize(target)
    drawing = draw(cs.to_json(target))
    notes = {shape.id: shape.notes for shape in drawing.shapes}
    assert notes["show#1"] == ["if it fails on OSError, a fallback"]
    assert notes["show#2"] == ["if it fails, a literal", "settled"]
    assert notes["load#4"] == ["map over page", "if it fails, a handler"]
    lines = [line for line in drawing.lines if line.kind == "fallback"]
    assert [(line.source, line.target, line.label) for line in lines] == [
        (0, 1, "if it fails"),
        (3, 4, "if it fails"),
    ]
    assert picture.mermaid().count('-.->|"if it fails"|') == 2
    assert picture.dot().count('style=dashed, label="if it fails"') == 2
    assert picture.svg().count('<g class="cs-dashed"><title>the value if its last attempt') == 2


# The notations


def test_str_is_mermaid():
    """The text of a picture is its Mermaid form; a notebook shows the SVG."""
    picture = cs.visualize(show(parse(1)))
    assert str(picture) == picture.mermaid()
    assert repr(picture) == "<Picture of 2 shapes, 1 lines>"
    assert picture._repr_svg_() == picture.svg()


def test_mermaid_has_a_form_for_each_kind():
    """Mermaid draws tasks, maps, routers, params, env and resources each in their own shape."""
    target = cs.Router(step(cs.Param("n")), {"a": load.map(page=[1]), 2: step(cs.Env("E"))})
    assert str(cs.visualize(show(target).run_if(is_big(1)))).splitlines() == [
        "flowchart TD",
        '  n0["is_big#0"]',
        '  n1["step#1"]',
        '  n2[["load#2<br/>map over page"]]',
        '  n3["step#3"]',
        '  n4["show#4"]',
        '  n5{"Router"}',
        '  n6(["n<br/>str"])',
        '  n7(["E<br/>env"])',
        '  n8[("db")]',
        "  n6 --> n1",
        "  n8 --> n2",
        "  n7 --> n3",
        "  n1 --> n5",
        '  n2 -->|"a"| n5',
        '  n3 -->|"2"| n5',
        '  n0 -.->|"if"| n4',
        "  n5 --> n4",
        "  class n4 target",
        "  classDef target stroke-width:3px",
    ]


def test_mermaid_and_dot_tell_the_same_as_the_drawing():
    """As many shapes and lines in each notation, between the same numbers, with the same labels."""
    target = everything()
    drawing = draw(cs.to_json(target))
    picture = cs.visualize(target)
    ends = [(str(line.source), str(line.target)) for line in drawing.lines]
    mermaid = re.findall(r"^  n(\d+) (?:-->|-\.->|==>)(?:\|.*\|)? n(\d+)$", str(picture), re.M)
    assert mermaid == ends
    assert re.findall(r"^  n(\d+) -> n(\d+)", picture.dot(), re.M) == ends
    assert len(re.findall(r"^  n\d+[\[({]", str(picture), re.M)) == len(drawing.shapes)
    assert len(re.findall(r"^  n\d+ \[label", picture.dot(), re.M)) == len(drawing.shapes)
    for line in drawing.lines:
        assert not line.label or f'|"{line.label}"|' in str(picture)
        assert not line.label or f'label="{line.label}"' in picture.dot()


def test_a_picture_may_be_made_of_a_description_from_a_file():
    """The description alone is enough to draw the picture."""
    target = everything()
    assert str(cs.Picture(cs.to_json(target))) == str(cs.visualize(target))


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ({}, "this dict does not describe a target"),
        (None, "this NoneType does not describe a target"),
        ({"format": "cascade.blueprint", "version": 1}, "does not describe a target"),
        ({"format": "cascade.target", "version": 2}, "has the version 2"),
    ],
)
def test_a_picture_is_made_of_descriptions_that_it_can_read(description, said):
    """Another file, and a later version of the form, are a `ValueError` that says so."""
    with pytest.raises(ValueError, match=said):
        cs.Picture(description)


@pytest.mark.parametrize(
    "name",
    [NASTY, '"', "end", "`code`", "a\nb", "日本語", "&lt;"],
    ids=["nasty", "quote", "end", "code", "lines", "wide", "entity"],
)
def test_any_name_may_stand_in_any_notation(name):
    """Names and keys are text, whatever signs they hold: no notation takes them for its own."""
    named = cs.task(step.func, name=name)
    target = cs.Router(named(1), {name: named(2), "other": named(cs.Param(name))})
    picture = cs.visualize(target)
    for line in str(picture).encode().decode().splitlines()[1:]:
        assert line.count('"') in (0, 2)
        assert not re.search(r"[<>`|\\&]", re.sub(r"<br/>|-->|[|]", "", line))
    for line in picture.dot().encode().decode().splitlines()[3:-1]:
        assert re.fullmatch(r'(?:[^"]|"(?:[^"\\]|\\.)*")*', line)
    shapes = shapes_of(ElementTree.fromstring(picture.svg().encode()))
    shown = " ".join(re.sub("\x01", "\ufffd", name).split())
    assert {title for _, (title, *_) in shapes.values()} == {
        "Router",
        shown,
        f"{shown}#0",
        f"{shown}#1",
        f"{shown}#2",
    }


def test_what_xml_cannot_hold_is_replaced():
    """Control characters in names do not break the SVG."""
    named = cs.task(step.func, name="a\x01b\x1b")
    assert "a\ufffdb\ufffd#0" in shapes_of(svg_of(named(1)))["a\ufffdb\ufffd#0"][1]


# The SVG


def test_shapes_have_the_forms_of_their_kinds():
    """Maps are stacked boxes, Routers diamonds, resources cylinders, inputs rounded at the ends."""
    svg = svg_of(everything())
    forms = {}
    for group in svg.iter(f"{SVG}g"):
        if group.get("data-id"):
            bodies = [e for e in group if "cs-body" in (e.get("class") or "")]
            forms[group.get("data-id")] = [e.tag.removeprefix(SVG) for e in bodies]
    assert forms["load#1"] == ["rect", "rect", "rect"]
    assert forms["router:0"] == ["polygon"]
    assert forms["resource:0"] == ["path"]
    assert forms["param:0"] == forms["step#0"] == ["rect"]


def test_conditions_are_dashed_and_jumps_stand_out():
    """Lines of conditions and of jumps have a class each of their own."""
    svg = svg_of(show(1).run_if(is_big(1), default=step(0)))
    looks = [g.get("class") for g in svg.iter(f"{SVG}g") if not g.get("data-id")]
    assert looks == ["cs-dashed", "cs-dashed"]
    loop = step(1)
    svg = svg_of(cs.bind(loop, cs.select_jump({"again": loop, "out": None})))
    looks = [g.get("class") for g in svg.iter(f"{SVG}g") if not g.get("data-id")]
    assert looks == ["cs-jump"]


def test_labels_are_written():
    """The SVG has the keys of routes and jumps, and the names of resources, as text."""
    texts = svg_of(everything()).iter(f"{SVG}text")
    labels = sorted(text.text for text in texts if text.get("class") == "cs-label")
    assert labels == ["a", "again", "b", "back", "else", "else", "if", "mem", "other"]


def test_nothing_is_asked_of_the_network_and_no_ids_collide():
    """Pictures share a page: they have no ids and refer to nothing."""
    svg = cs.visualize(everything()).svg()
    assert not re.search(r'\sid="|href=|url\(|@import|<script', svg)


def test_a_literal_has_a_picture_that_says_so():
    """A target without nodes gives a picture that says there is nothing to compute."""
    assert "nothing to compute" in cs.visualize([1, 2]).svg()
    assert str(cs.visualize(3)) == "flowchart TD"


@pytest.fixture
def drawn():
    logging.disable(logging.CRITICAL)
    targets = []
    for seed in range(120):
        building.use(seeded(seed))
        try:
            target = building.build(seeded(seed))
            cs.build_graph(target)
        except Exception:  # a program that cannot be built, which is tested elsewhere
            continue
        targets.append(target)
    yield targets
    logging.disable(logging.NOTSET)


def test_every_target_has_a_picture(drawn):
    """Drawn at random: the SVG is XML, within its frame, the same each time."""
    assert len(drawn) > 50
    for target in drawn:
        text = cs.visualize(target).svg()
        assert text == cs.visualize(target).svg()
        svg = ElementTree.fromstring(text)
        width, height = float(svg.get("width")), float(svg.get("height"))
        for rect in svg.iter(f"{SVG}rect"):
            x, y = float(rect.get("x")), float(rect.get("y"))
            assert 0 <= x <= x + float(rect.get("width")) <= width
            assert 0 <= y <= y + float(rect.get("height")) <= height


def test_the_picture_in_the_documentation_is_current(pytestconfig):
    """It shows the workflow of the page, as it is drawn now. `--bless` draws it anew."""
    page = (ROOT / "docs/how-to/pictures.md").read_text(encoding="utf-8")
    program = re.search(r"```python\n(.*?)```", page, re.S)
    assert program is not None
    scope = {}
    exec(program[1], scope)
    drawn = cs.visualize(scope["target"]).svg()
    file = ROOT / "docs/images/workflow.svg"
    if pytestconfig.getoption("--bless"):
        assert not os.environ.get("CI"), "--bless is for people"
        file.write_text(drawn, encoding="utf-8")
    kept = ElementTree.parse(file)
    assert [e.text for e in ElementTree.fromstring(drawn).iter()] == [e.text for e in kept.iter()]


# Bounds


def test_too_many_shapes_are_refused():
    """A target with too many nodes is an error that gives their number and the most."""
    with pytest.raises(ValueError, match=f"{MOST_SHAPES + 1} nodes.*at most {MOST_SHAPES}"):
        cs.visualize([step(n) for n in range(MOST_SHAPES + 1)])


def test_too_many_lines_are_refused():
    """A target with too many lines is an error that gives the most."""
    wide = [step(n) for n in range(100)]
    with pytest.raises(ValueError, match=f"more than {MOST_LINES} lines"):
        cs.visualize([show(*wide) for _ in range(MOST_LINES // 100 + 1)])


def test_a_deep_picture_is_drawn():
    """As deep as shapes are allowed, and each value needed by all that follow in the end."""
    chain = [step(0)]
    for _ in range(900):
        chain.append(step(chain[-1]))
    svg = svg_of(show(*chain))
    assert len(shapes_of(svg)) == 902


# The layout


@st.composite
def graphs(pick):
    count = pick(st.integers(1, 25))
    boxes = [Box(pick(st.integers(10, 200)), pick(st.integers(10, 60))) for _ in range(count)]
    number = st.integers(0, count - 1)
    pairs = pick(st.lists(st.tuples(number, number, st.sampled_from(["", "dashed"])), max_size=60))
    down = [Link(min(a, b), max(a, b), look) for a, b, look in pairs if a != b]
    first = dict.fromkeys(down)
    back = [Link(link.target, link.source, "jump", True) for link in list(first)[::5]]
    loops = [Link(a, a, "jump", True) for a in range(0, count, 7)]
    return boxes, [*first, *back, *loops]


@given(graphs())
def test_layout_is_sound(graph):
    """Boxes do not overlap, links go down and back links up, from side to side, in the frame."""
    boxes, links = graph
    layout = lay_out(boxes, links)
    sides = [
        (x - b.width / 2, y - b.height / 2, x + b.width / 2, y + b.height / 2)
        for (x, y), b in zip(layout.middles, boxes, strict=True)
    ]
    for one, other in itertools.combinations(sides, 2):
        apart = max(other[0] - one[2], one[0] - other[2], other[1] - one[3], one[1] - other[3])
        assert apart >= GAP - 1e-6
    for left, top, right, bottom in sides:
        assert left >= 0
        assert top >= 0
        assert right <= layout.width
        assert bottom <= layout.height
    for link, way in zip(links, layout.ways, strict=True):
        assert all(0 <= x <= layout.width and 0 <= y <= layout.height for x, y in way)
        if link.is_back:
            continue
        assert [y for _, y in way] == sorted(y for _, y in way)
        assert way[0][1] == pytest.approx(sides[link.source][3])
        assert way[-1][1] == pytest.approx(sides[link.target][1])


@given(graphs())
def test_back_links_cross_no_box(graph):
    """A line back goes round the boxes that lie between its ends."""
    boxes, links = graph
    layout = lay_out(boxes, links)
    for link, way in zip(links, layout.ways, strict=True):
        if not link.is_back or link.source == link.target:
            continue
        for number, ((x, y), box) in enumerate(zip(layout.middles, boxes, strict=True)):
            if number in (link.source, link.target):
                continue
            for (ax, ay), (bx, by) in itertools.pairwise(way):
                misses_x = max(ax, bx) < x - box.width / 2 or min(ax, bx) > x + box.width / 2
                misses_y = max(ay, by) < y - box.height / 2 or min(ay, by) > y + box.height / 2
                assert misses_x or misses_y


def test_a_tree_is_drawn_without_crossings():
    """Where an order without crossings is at hand, it is found."""
    links = [Link((n - 1) // 2, n) for n in range(1, 31)]
    layout = lay_out([Box(40, 20)] * 31, links)
    for one, other in itertools.combinations(links, 2):
        (a, ay), (c, cy) = layout.middles[one.source], layout.middles[one.target]
        (b, by), (d, dy) = layout.middles[other.source], layout.middles[other.target]
        if (ay, cy) == (by, dy):
            assert (a - b) * (c - d) >= 0


def test_a_chain_is_drawn_straight():
    """The boxes of a chain stand exactly below each other."""
    layout = lay_out([Box(40 + n, 20) for n in range(30)], [Link(n, n + 1) for n in range(29)])
    assert len({round(x) for x, _ in layout.middles}) == 1


def test_points_are_bounded():
    """Where long links would need more points than there are, the longest go without."""
    count = 300
    links = [Link(n, n + 1) for n in range(count - 1)]
    links += [Link(n, m, str(m)) for n in range(0, count, 3) for m in range(n + 2, count, 5)]
    layout = lay_out([Box(30, 20)] * count, links)
    assert sum(len(way) for way in layout.ways) <= 2 * MOST_POINTS + 4 * len(links)
    assert min(len(way) for way in layout.ways[count:]) <= 4
