"""The structure of a target as plain data, for tools that are not Python or not Cascade.

Everything that has a value of its own gets an id: the nodes those of `build_graph`, the rest a word
and a number (`router:0`, `param:0`). Who needs what is said once, by the edges. The data is left
out: where a literal stands, its number is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from cascade.graph.nodes import needs, node_kind, task_to_json
from cascade.graph.plan import Plan
from cascade.graph.reading import read
from cascade.graph.structure import DICT, MAP, PARAM, RESOURCE, ROUTER, Ref, Slot, Structure
from cascade.plain import function_name, plain, type_name
from cascade.workflow.expressions import NOTHING, check_target
from cascade.workflow.inputs import Env
from cascade.workflow.retry import Catch, RetryPolicy, names_of
from cascade.workflow.task import Task

FORMAT: Final = "cascade.target"
VERSION: Final = 1


def to_json(target: Any) -> dict[str, Any]:
    """The structure of `target` as data that `json.dumps` takes: the same for the same program.

    It holds no code, no addresses and no literals. docs/reference/json.md says what stands where.
    Raises `CycleError` naming the path if expressions depend on each other in a circle.

    >>> import cascade as cs
    >>> @cs.task
    ... def add(x, y):
    ...     return x + y
    >>> described = cs.to_json(add(add(1, 2), cs.Param("n", type=int)))
    >>> [node["id"] for node in described["nodes"]], described["target"]
    (['add#0', 'add#1'], 'add#1')
    >>> described["edges"][0]
    {'source': 'add#0', 'target': 'add#1', 'kind': 'data', 'argument': 'x'}
    """
    check_target(target)
    reading = read(target)
    return described(Structure(reading.key), reading.data)


def described(structure: Structure, data: tuple[Any, ...]) -> dict[str, Any]:
    """What `to_json` gives for a target that was read into `structure` and `data`."""
    return _Description(structure, data).described()


def check_format(description: Any) -> None:
    """Raise `ValueError` unless `description` is what `to_json` of this version gives."""
    found = description if isinstance(description, Mapping) else {}
    if found.get("format") != FORMAT:
        kind = type(description).__name__
        raise ValueError(f"this {kind} does not describe a target; pass cs.to_json(target)")
    if found.get("version") != VERSION:
        raise ValueError(
            f"the description has the version {found.get('version')!r}, and this Cascade reads "
            f"version {VERSION}; make it anew with cs.to_json(target)"
        )


class _Description:
    """The slots of one structure being described, in plan order."""

    def __init__(self, structure: Structure, data: tuple[Any, ...]) -> None:
        self._structure = structure
        self._data = data
        order = structure.order_from(structure.root)
        self._slots = [structure.slots[i] for i in (*order.needed, *order.routed)]
        self._nodes = Plan(structure, structure.root).all_nodes()
        self._tasks: dict[int, int] = {}
        self._task_records: list[dict[str, Any]] = []
        self._tables: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in _TABLES}
        self._counts: dict[str, int] = {}
        self._known: dict[tuple[str, str], str] = {}  # inputs and resources are one per name
        self._ids: dict[int, str] = {}
        self._edges: list[dict[str, Any]] = []

    def described(self) -> dict[str, Any]:
        for slot in self._slots:
            self._ids[slot.index] = self._describe(slot)
        for slot in self._slots:
            self._describe_needs(slot)
        groups = {slot.inner for slot in self._slots}
        for number, selector in enumerate(self._structure.selectors):
            if number in groups:
                continue
            self._describe_routes(f"jumps:{number}", selector)
        root = self._structure.root
        return {
            "format": FORMAT,
            "version": VERSION,
            "target": self._ids[root] if root >= 0 else {"literal": ~root},
            "tasks": self._task_records,
            **{name: list(records.values()) for name, records in self._tables.items()},
            "edges": self._edges,
        }

    # What there is

    def _describe(self, slot: Slot) -> str:
        """Write the record of a slot, once; returns its id."""
        if slot.is_node:
            return self._add("nodes", self._nodes[slot.index].id, self._node(slot))
        if slot.kind == ROUTER:
            return self._add("routers", self._next(ROUTER), {})
        if slot.kind in (PARAM, RESOURCE):
            return self._describe_named(slot)
        record = {"kind": slot.kind, "type": slot.name}
        return self._add("containers", self._next(slot.kind), record)

    def _describe_named(self, slot: Slot) -> str:
        if slot.kind == RESOURCE:
            kind, table, record = RESOURCE, "resources", {"name": slot.name}
        else:
            declared = self._data[~slot.data]
            kind = "env" if isinstance(declared, Env) else "param"
            table, record = "inputs", _input(kind, declared)
        known = self._known.get((kind, record["name"]))
        if known is None:
            known = self._add(table, self._next(kind), record)
            self._known[kind, record["name"]] = known
        return known

    def _add(self, table: str, id: str, record: dict[str, Any]) -> str:
        self._tables[table][id] = {"id": id, **record}
        return id

    def _next(self, word: str) -> str:
        number = self._counts.get(word, 0)
        self._counts[word] = number + 1
        return f"{word}:{number}"

    def _node(self, slot: Slot) -> dict[str, Any]:
        record: dict[str, Any] = {"kind": node_kind(slot), "name": slot.name}
        record["task"] = self._task(slot.task)
        if slot.kind == MAP:
            record["iterables"] = sorted(slot.iterables)
        if slot.is_method:
            record["is_method"] = True
        policies = _policies(slot)
        if policies:
            record["policies"] = policies
        if slot.bound is not None:
            record["jumps"] = f"jumps:{slot.bound}"
        return record

    def _task(self, task: Task[..., Any]) -> int:
        number = self._tasks.setdefault(id(task), len(self._tasks))
        if number == len(self._task_records):
            self._task_records.append(task_to_json(task))
        return number

    # Who needs what

    def _describe_needs(self, slot: Slot) -> None:
        id = self._ids[slot.index]
        evaluated = () if slot.inner is None else self._structure.selectors[slot.inner].items()
        inner = [("group", {"key": key}, ref) for key, ref in evaluated if ref is not None]
        for kind, details, ref in (*_all_needs(slot, self._data), *inner):
            if ref >= 0:
                edge = {"source": self._ids[ref], "target": id, "kind": kind}
                self._edges.append(edge | details)
            else:
                record = self._tables[_table_of(slot)][id]
                literal = {"kind": kind, **details, "literal": ~ref}
                record.setdefault("literals", []).append(literal)

    def _describe_routes(self, id: str, routes: dict[Any, Ref | None]) -> None:
        exits = [plain(key) for key, route in routes.items() if route is None]
        self._add("selectors", id, {"exits": exits})
        for key, route in routes.items():
            if route is not None:
                edge = {"source": id, "target": self._ids[route], "kind": "jump"}
                self._edges.append(edge | {"key": plain(key)})


_TABLES: Final = ("nodes", "routers", "containers", "inputs", "resources", "selectors")


def _table_of(slot: Slot) -> str:
    if slot.is_node:
        return "nodes"
    return "routers" if slot.kind == ROUTER else "containers"


def _all_needs(slot: Slot, data: tuple[Any, ...]) -> Iterator[tuple[str, dict[str, Any], Ref]]:
    """What a slot refers to, in plan order: the kind, its details, the reference."""
    if slot.is_node:
        for kind, argument, ref in needs(slot):
            yield kind, {} if argument is None else {"argument": argument}, ref
    elif slot.kind == ROUTER:
        if slot.selector is not None:
            yield "selector", {}, slot.selector
        for key, ref in slot.routes.items():
            yield "route", {"key": plain(key)}, ref
        if slot.default is not None:
            yield "default", {}, slot.default
    else:
        keys = data[~slot.data] if slot.kind == DICT else range(len(slot.members))
        for key, ref in zip(keys, slot.members, strict=True):
            yield "member", {"key": plain(key)}, ref


def _input(kind: str, declared: Any) -> dict[str, Any]:
    record: dict[str, Any] = {"kind": kind, "name": declared.name}
    if kind == "param":
        record["type"] = plain(declared.type)["name"] if isinstance(declared.type, type) else None
    record["required"] = declared.default is NOTHING
    if declared.default is not NOTHING:
        record["default"] = plain(declared.default)
    if declared.description:
        record["description"] = declared.description
    return record


def _policies(slot: Slot) -> dict[str, Any]:
    """The policies that were set, amounts that are expressions aside: those are edges."""
    amounts = {name: plain(amount) for name, kind, amount in slot.amounts if kind is not None}
    described = {
        "retry": None if slot.retry is None else _retry(slot.retry),
        "timeout": slot.timeout,
        "cache": None if slot.cache is None else {"type": type_name(type(slot.cache))},
        "amounts": amounts or None,
        "concurrency": slot.concurrency,
        "fallback": None if slot.fallback_on is None else _fallback(slot, slot.fallback_on),
        "settled": None if slot.settled_on is None else {"on": names_of(slot.settled_on.on)},
    }
    return {name: value for name, value in described.items() if value is not None}


def _retry(retry: RetryPolicy) -> dict[str, Any]:
    delay = retry.delay
    return {
        "max_attempts": retry.max_attempts,
        "delay": function_name(delay) if callable(delay) else delay,
        "backoff": retry.backoff,
        "max_delay": retry.max_delay,
        "jitter": retry.jitter,
        "on": names_of(retry.on),
    }


def _fallback(slot: Slot, on: Catch) -> dict[str, Any]:
    """What it answers, and whether what it refers to is called with the exception."""
    called = {"is_handler": True} if slot.handler is not None else {}
    return {"on": names_of(on.on), **called}
