"""What a picture of a target shows: shapes and lines, whichever way it is drawn.

It is made of the description that `to_json` gives. Containers are no shapes: lines go through them
to what uses them, as the edges of `build_graph` do. A selector of jumps is no shape either: its
lines begin at the nodes that jump.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from cascade.pictures.markup import replaced

MOST_SHAPES: Final = 2000
MOST_LINES: Final = 6000

# The looks of lines: what is needed, what decides whether or stands in, what only comes before.
DASHED: Final = frozenset({"condition", "default", "fallback"})
DOTTED: Final = frozenset({"sequence", "amount"})


@dataclass(slots=True)
class Shape:
    """One box. `kind` is "task", "map", "router", "param", "env" or "resource".

    Texts are of one line, and of characters that every notation can hold.
    """

    id: str
    kind: str
    title: str
    notes: list[str] = field(default_factory=list)
    is_target: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """From what is needed, by the number of its shape, to what needs it; `tip` says more.

    A jump that leads to where the flow came from `is_back`.
    """

    source: int
    target: int
    kind: str
    label: str = ""
    tip: str = ""
    is_back: bool = False


@dataclass(frozen=True, slots=True)
class Drawing:
    """All that a picture shows, in plan order."""

    shapes: tuple[Shape, ...]
    lines: tuple[Line, ...]


def draw(description: Mapping[str, Any]) -> Drawing:
    """The drawing of a described target.

    Raises `ValueError` for more than 2,000 shapes or 6,000 lines, which nobody could read.
    """
    shapes = list(_shapes(description))
    if len(shapes) > MOST_SHAPES:
        raise ValueError(
            f"the target has {len(shapes)} nodes, routers and inputs, a picture at most "
            f"{MOST_SHAPES}; show a part of it, or use cs.to_json(target)"
        )
    traced = _Lines(description, shapes)
    for number in traced.ends():
        shapes[number].is_target = True
    lines: dict[tuple[int, int, str], Line] = {}
    for line in traced.all():
        key = (line.source, line.target, line.kind)
        lines[key] = _joined(lines[key], line) if key in lines else line
        if len(lines) > MOST_LINES:
            raise ValueError(
                f"the target has more than {MOST_LINES} lines from value to use, too many for a "
                "picture; show a part of it, or use cs.to_json(target)"
            )
    return Drawing(tuple(shapes), tuple(_marked(len(shapes), list(lines.values()))))


def _joined(one: Line, other: Line) -> Line:
    """Two lines of a kind between the same shapes, as one."""
    label = ", ".join(dict.fromkeys(filter(None, [one.label, other.label])))
    tip = ", ".join(dict.fromkeys([one.tip, other.tip]))
    return Line(one.source, one.target, one.kind, label, tip)


def _shapes(description: Mapping[str, Any]) -> Iterator[Shape]:
    exits = {each["id"]: each["exits"] for each in description["selectors"]}
    for node in description["nodes"]:
        task = description["tasks"][node["task"]]
        notes = [*_policy_notes(node, task), *_ends(exits.get(node.get("jumps"), ()))]
        notes = [_one_line(note) for note in notes]
        kind = "map" if node["kind"] == "map" else "task"
        yield Shape(node["id"], kind, _one_line(node["id"]), notes)
    for router in description["routers"]:
        literals = [each for each in router.get("literals", ()) if each["kind"] != "selector"]
        keys = [text_of_key(each["key"]) if "key" in each else "else" for each in literals]
        yield Shape(router["id"], "router", "Router", [f"{key}: literal" for key in keys])
    for given in description["inputs"]:
        kind = given["kind"]
        about = given.get("type") or ("env" if kind == "env" else "")
        yield Shape(given["id"], kind, _one_line(given["name"]), [about] if about else [])
    for resource in description["resources"]:
        yield Shape(resource["id"], "resource", _one_line(resource["name"]), [])


def _policy_notes(node: Mapping[str, Any], task: Mapping[str, Any]) -> Iterator[str]:
    policies = node.get("policies", {})
    if node["kind"] == "group":
        yield "a workflow as one node"
    if node["kind"] == "first":
        yield "the first value of several"
    if node["kind"] == "map":
        yield f"map over {', '.join(node['iterables'])}"
    if task["mode"] != "inline":
        yield task["mode"]
    if "retry" in policies:
        yield f"at most {policies['retry']['max_attempts']} attempts"
    if "timeout" in policies:
        yield f"timeout {policies['timeout']:g} s"
    if "cache" in policies:
        yield "cached"
    for name, amount in policies.get("amounts", {}).items():
        yield f"{name}={text_of_key(amount)}"
    if any(literal["kind"] == "default" for literal in node.get("literals", ())):
        yield "else a literal"
    yield from _answers(policies, node.get("literals", ()))


def _answers(policies: Mapping[str, Any], literals: Any) -> Iterator[str]:
    """What is said about failures."""
    if "fallback" in policies:
        literal = any(each["kind"] == "fallback" for each in literals)
        is_handler = policies["fallback"].get("is_handler")
        what = "a literal" if literal else "a handler" if is_handler else "a fallback"
        yield f"if it fails{_on(policies['fallback'])}, {what}"
    if "settled" in policies:
        yield f"settled{_on(policies['settled'])}"


def _on(policy: Mapping[str, Any]) -> str:
    """Which failures, unless it is all of them."""
    return "" if policy["on"] == ["Exception"] else f" on {', '.join(policy['on'])}"


def _ends(keys: Any) -> Iterator[str]:
    if keys:
        yield f"ends at {', '.join(map(text_of_key, keys))}"


def text_of_key(key: Any) -> str:
    """A route key of a description, as short as can be."""
    if isinstance(key, dict):
        return _one_line(str(key.get("name") or key.get("text") or key.get("type")))
    if isinstance(key, list):
        return _one_line(f"({', '.join(str(each) for each in key)})")
    return _one_line(str(key))


def _one_line(text: str) -> str:
    return " ".join(replaced(text).split())


class _Lines:
    """The lines of a drawing, traced from the edges of its description."""

    def __init__(self, description: Mapping[str, Any], shapes: list[Shape]) -> None:
        self._description = description
        self._numbers = {shape.id: number for number, shape in enumerate(shapes)}
        self._members: dict[str, list[str]] = {c["id"]: [] for c in description["containers"]}
        for edge in description["edges"]:
            if edge["kind"] == "member":
                self._members[edge["target"]].append(edge["source"])
        self._jumpers: dict[str, list[int]] = {}
        for node in description["nodes"]:
            if "jumps" in node:
                self._jumpers.setdefault(node["jumps"], []).append(self._numbers[node["id"]])

    def ends(self) -> Iterator[int]:
        """The shapes that the target consists of; none if it is a literal."""
        target = self._description["target"]
        return iter(()) if isinstance(target, dict) else self._behind(target)

    def all(self) -> Iterator[Line]:
        for edge in self._description["edges"]:
            kind = edge["kind"]
            if kind == "jump":
                label = text_of_key(edge["key"])
                target = self._numbers[edge["target"]]
                for source in self._jumpers[edge["source"]]:
                    yield Line(source, target, kind, label, f"jump {label}")
            elif kind != "member":
                label, tip = _words(edge)
                for source in self._behind(edge["source"]):
                    yield Line(source, self._numbers[edge["target"]], kind, label, tip)

    def _behind(self, id: str) -> Iterator[int]:
        """The shapes behind an id, seen through containers, each once."""
        seen = set()
        todo = [id]
        while todo:
            id = todo.pop()
            if id in seen:
                continue
            seen.add(id)
            if id in self._numbers:
                yield self._numbers[id]
            else:
                todo.extend(reversed(self._members[id]))


def _words(edge: Mapping[str, Any]) -> tuple[str, str]:
    """The label of a line, and what is said about it besides."""
    match edge["kind"]:
        case "condition":
            return "if", "runs only if this holds"
        case "default":
            return "else", "the value if the condition does not hold"
        case "fallback":
            return "if it fails", "the value if its last attempt fails"
        case "sequence":
            return "", "runs after it"
        case "amount":
            label = _one_line(edge["argument"])
            return label, f"amount of {label}"
        case "selector":
            return "", "chooses the route"
        case "group":
            return "", "evaluated by it, in a scope of its own"
        case "route":
            label = text_of_key(edge["key"])
            return label, f"route {label}"
    return "", f"argument {_one_line(edge['argument'])}" if "argument" in edge else "argument"


def _marked(count: int, lines: list[Line]) -> list[Line]:
    """The lines, those marked that go back: jumps that would close a circle, in order."""
    after: list[list[int]] = [[] for _ in range(count)]
    for line in lines:
        if line.kind != "jump":
            after[line.source].append(line.target)
    marked = []
    for line in lines:
        if line.kind == "jump":
            if _reaches(after, line.target, line.source):
                line = replace(line, is_back=True)
            else:
                after[line.source].append(line.target)
        marked.append(line)
    return marked


def _reaches(after: list[list[int]], start: int, goal: int) -> bool:
    seen = {start}
    todo = [start]
    while todo:
        number = todo.pop()
        if number == goal:
            return True
        fresh = [n for n in after[number] if n not in seen]
        seen.update(fresh)
        todo.extend(fresh)
    return False
