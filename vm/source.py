"""From a routine to the source text of the Python function that stands for it.

Registers become local variables, the tasks and literals of the routine names, regions flags:

    while True:
        for i in turns:                     a batch of iterations
            r0 = t1(p_n)                    ; inc#0
            if r0.__class__ is not c0 and leave(0, r0):
                return 0, locals()
            r1 = t2(r0)                     ; step#1, the body
            if r1.__class__ is jump: ...    the next iteration's arguments, or return
        ... the clock

`return pc, locals()` leaves after the call of row `pc`, `return ~pc, locals()` before row `pc`; a
call that raises leaves by its exception; `return None, locals()` pauses between two iterations.
Each line knows its row, so that an exception tells where it came from.

For a loop the end of an iteration reads the Jump or TailCall; for a returned expression it matches
the expression against the structure, and what stands where literals stand is the next one's data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any, Final

from cascade.core.pace import BATCH
from cascade.core.values import build
from cascade.errors import RouteNotFoundError
from cascade.graph.structure import TASK, Ref, Slot
from cascade.vm import isa
from cascade.vm.blueprint import Blueprint
from cascade.vm.disassemble import row_texts
from cascade.vm.fusable import Features
from cascade.workflow.outcome import succeeded

ABSENT: Final = object()  # the value of a register that nothing was written to


@dataclass(frozen=True, slots=True)
class Source:
    """The text of one function, the row that each line belongs to, and what its names mean.

    The row is -1 for a line that stands for nothing that the routine does.
    """

    text: str
    pcs: tuple[int, ...]
    names: Mapping[str, Any]


def source(features: Features) -> Source:
    """The text for the routine that has these features."""
    kind = _IterationWriter if features.routine.is_body else _ExpressionWriter
    return kind(features).written()


class _IterationWriter:
    """Writes the text for one iteration of a loop."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self._slots = features.structure.slots
        self._routine = features.routine
        self._variables = features.variables
        self._lines: list[str] = []
        self._pcs: list[int] = []
        self._pc = -1
        self._depth = 0
        blueprint = Blueprint(features.structure, (features.routine,))
        self._comments = row_texts(blueprint, features.routine)
        self._names: dict[str, Any] = {}

    def written(self) -> Source:
        """All of it."""
        self._emit()
        return Source("\n".join(self._lines) + "\n", tuple(self._pcs), self._names)

    # Text

    def _line(self, text: str, comment: str = "") -> None:
        line = "    " * self._depth + text
        self._lines.append(f"{line:<58}  # {comment}" if comment else line)
        self._pcs.append(self._pc)

    def _block(self, head: str, comment: str = "") -> _Block:
        self._line(head, comment)
        return _Block(self)

    def _emit(self) -> None:
        cells = self._cells()
        cells += [
            f"c{pc}"
            for pc, row in enumerate(self._routine.code)
            if isinstance(row, isa.Invocation) and pc != self._features.body
        ]
        body_at = len(self._lines)
        with self._block("def link():"):  # the names are filled in below
            self._line(f"{' = '.join(cells)} = None")
            given = [f"k{index}" for index in self._features.literals]
            given += [_given_name(row) for row in self._features.constants]
            given += [f"p_{name}" for name in self._variables]
            head = f"{'async ' if self._features.is_async else ''}def run"
            with self._block(f"{head}({', '.join(['turns', 'limit', 'end', 'most', *given])}):"):
                self._emit_turns()
            self._line("return run")
        # Known only now. Arguments, not globals: each run links the text with asks of its own.
        names = ["clock", "leave", "pace", "usual", "literal", *self._names]
        self._lines[body_at] = f"def link({', '.join(names)}):"

    def _emit_turns(self) -> None:
        self._line("batch = len(turns)")
        self._line("done = 0")
        self._line("last = clock()")
        with self._block("while True:"):
            with self._block("for i in turns:"):
                self._emit_rows()
            self._pc = -1
            self._line("done += batch")
            self._line("now = clock()")
            with self._block("if now >= end or done >= limit:"):
                if self._features.is_async:
                    self._line("turns, limit, end = await pace(batch, done, most, now, last)")
                else:
                    self._line("turns, limit = pace(batch, done, most, now, last)")
                with self._block("if not turns:"):
                    self._line("return None, locals()")
                self._line("batch = len(turns)")
                if self._features.is_async:  # what others did meanwhile is not the batch's time
                    self._line("now = clock()")
            self._line("last = now")  # one reading of the clock ends a batch and begins the next

    def _emit_rows(self) -> None:
        # Of the iteration before, some are still set; and who leaves reads all of them.
        for region in range(1, self._routine.regions):
            self._line(f"g{region} = False")
        block: _Block | None = None
        region = 0
        calls = 0
        for pc, row in enumerate(self._routine.code[:-1]):
            if row.at != region:
                if block is not None:
                    block.__exit__()
                region = row.at
                block = self._block(f"if g{region}:") if region else None
                if block is not None:
                    block.__enter__()
            self._pc = pc
            _EMIT[type(row)](self, pc, row)
            if isinstance(row, isa.Invocation) and pc != self._features.body:
                calls += 1
                if not calls % BATCH:  # one iteration alone may be longer than a batch
                    with self._block("if clock() >= end:"):
                        self._line(f"return {pc}, locals()")
                self._emit_outcome(row)
        if block is not None:
            block.__exit__()

    def _value(self, ref: Ref | None) -> str:
        assert ref is not None
        return f"k{~ref}" if ref < 0 else f"r{ref}"

    def _arguments(self, row: isa.Invocation) -> str:
        is_body = row.site == self._routine.root
        names = self._features.parameters.positional if is_body else []
        shown = [
            f"p_{names[position]}"
            if position < len(names) and names[position] in self._variables
            else self._value(ref)
            for position, ref in enumerate(row.args)
        ]
        keywords = self._features.parameters.names[len(names) :] if is_body else []
        for name, ref in row.kwargs:
            is_brought = name in keywords and name in self._variables
            value = f"p_{name}" if is_brought else self._value(ref)
            shown.append(f"{name}={value}" if _is_plain(name) else f"**{{{name!r}: {value}}}")
        return ", ".join(shown)

    def _call(self, pc: int, row: isa.Invocation) -> None:
        if overwrites(row, self._slots[row.site]):  # should the interpreter have to try again
            self._line(f"o{row.dst} = r{row.dst}")
        task = f"t{row.site}"
        self._names[task] = self._slots[row.site].task.func
        awaits = "await " if isinstance(row, isa.Await) else ""
        text = f"r{row.dst} = {awaits}{task}({self._arguments(row)})"
        self._line(text, self._comments[pc])
        self._pc = -1  # what raises from here on is no attempt of the task

    def _emit_call(self, pc: int, row: isa.Invocation) -> None:
        self._emit_demands(pc, row)
        self._call(pc, row)
        if pc == self._features.body:
            self._emit_end(pc, f"r{row.dst}")
            return
        with self._block(f"if r{row.dst}.__class__ is not c{pc} and leave({pc}, r{row.dst}):"):
            self._line(f"return {pc}, locals()")

    def _emit_outcome(self, row: isa.Invocation | isa.Default | isa.Take) -> None:
        """The value of a settled node: whoever leaves after its call has what the call gave."""
        if self._slots[row.site].settled_on is not None:
            self._names["outcome"] = succeeded
            self._line(f"r{row.dst} = outcome(r{row.dst})")

    def _emit_demands(self, pc: int, row: isa.Invocation) -> None:
        """What stands below the call but is demanded before it: if absent, it may start first."""
        code = self._routine.code
        opened = {region for above in code[:pc] for region in above.opens()}
        for constant in self._features.constants:
            if constant.at in opened and constant in code[pc:]:
                self._names["absent"] = ABSENT
                is_open = "" if constant.at == row.at else f"g{constant.at} and "
                with self._block(f"if {is_open}{_given_name(constant)} is absent:"):
                    self._line(f"return ~{pc}, locals()")

    def _emit_branch(self, pc: int, row: isa.Branch) -> None:
        self._line(f"if {self._value(row.condition)}:", self._comments[pc])
        self._line(f"    g{row.then} = True")
        self._line("else:")
        if row.otherwise == isa.NOWHERE or row.site == self._routine.root:
            self._line(f"    return {pc}, locals()")
        else:
            self._line(f"    g{row.otherwise} = True")

    def _emit_copy(self, pc: int, row: isa.Default | isa.Take) -> None:
        self._line(f"r{row.dst} = {self._value(row.value)}", self._comments[pc])
        self._emit_outcome(row)

    def _emit_choose(self, pc: int, row: isa.Choose) -> None:
        self._names[f"choose{row.site}"] = _chooser(self._slots[row.site])
        self._line(f"q = choose{row.site}({self._value(row.selector)})", self._comments[pc])
        for number, (ref, region) in enumerate(row.routes):
            word = "elif" if number else "if"
            self._line(f"{word} q == {ref}:")
            self._line(f"    g{region} = True")

    def _emit_open(self, pc: int, row: isa.Open) -> None:
        self._line(f"g{row.region} = True", self._comments[pc])

    def _emit_container(self, pc: int, row: isa.List | isa.Tuple | isa.Dict) -> None:
        slot = self._slots[row.site]
        members = "".join(f"{self._value(ref)}, " for ref in row.members)
        if isinstance(row, isa.List) and not slot.data:
            text = f"[{members}]"
        elif isinstance(row, isa.Tuple) and not slot.data:
            text = f"({members})"
        else:
            self._names[f"t{row.site}"] = slot
            self._names["build"] = build
            shape = self._value(slot.data) if slot.data else "None"
            text = f"build(t{row.site}, {shape}, ({members}))"
        self._line(f"r{row.dst} = {text}", self._comments[pc])

    def _emit_constant(self, pc: int, row: isa.Producer) -> None:
        """Its value was there before the loop came here; if not, the interpreter gets it."""
        given = _given_name(row)
        comment = self._comments[pc]
        if row.at:  # what each iteration demands at once is there, or fused code is not entered
            self._names["absent"] = ABSENT
            with self._block(f"if {given} is absent:", comment):
                self._line(f"return ~{pc}, locals()")
            comment = ""
        # Again each time: others may take the register over.
        self._line(f"r{row.dst} = {given}", comment)

    def _emit_follow(self, pc: int, row: isa.Follow) -> None:
        self._line(f"g{row.then} = True", self._comments[pc])

    # The end of an iteration: what the next one is given

    def _cells(self) -> list[str]:
        return ["jump", "tail", "plain"]

    def _emit_end(self, pc: int, result: str) -> None:
        home = (
            [] if self._features.slot.bound is None else self._keys_home(self._features.slot.bound)
        )
        if home:
            with self._block(f"if {result}.__class__ is jump:"):
                self._emit_jump(pc, result, home)
        with self._block(f"{'elif' if home else 'if'} {result}.__class__ is tail:"):
            self._emit_tail(pc, result)
        with self._block("else:"):
            self._line(f"return {pc}, locals()")

    def _keys_home(self, bound: int) -> list[Any]:
        routes = self._features.structure.selectors[bound]
        return [key for key, route in routes.items() if route == self._routine.root]

    def _emit_jump(self, pc: int, result: str, home: list[Any]) -> None:
        assert self._features.slot.bound is not None
        for number, key in enumerate(home):
            self._names[f"key{number}"] = key
        self._names["leads_home"] = _leads_to(
            self._routine.root, self._features.structure.selectors[self._features.slot.bound]
        )
        # A key that is the very object needs no hash: mostly it is a constant of the code.
        others = " and ".join(f"key is not key{number}" for number in range(len(home)))
        self._line(f"key = {result}.target_key")
        with self._block(f"if {others} and not leads_home(key):"):
            self._line(f"return {pc}, locals()")
        self._line(f"d = {result}.data")
        first = self._features.parameters.first(is_method=self._features.slot.is_method)
        takes_first = first in self._variables and self._routine.given <= {first}
        if takes_first:
            with self._block("if d.__class__ is plain:"):
                self._assign({str(first): "d"})
        with self._block(f"{'elif' if takes_first else 'if'} d.__class__ is dict:"):
            self._assign_named(pc, "d")
        if not self._routine.given:
            with self._block("elif d is None:"):
                self._assign({})
        if takes_first:
            with self._block("elif usual(d):"):
                self._assign({str(first): "d"})
        with self._block("else:"):
            self._line(f"return {pc}, locals()")

    def _emit_tail(self, pc: int, result: str) -> None:
        self._line(f"a = {result}.args")
        self._line(f"d = {result}.kwargs")
        with self._block(f"if {result}.target is not None or a.__class__ is not tuple:"):
            self._line(f"return {pc}, locals()")
        with self._block("if not d:"):
            self._assign_positional(pc)
        with self._block("elif not a and d.__class__ is dict:"):
            self._assign_named(pc, "d")
        with self._block("else:"):
            self._line(f"return {pc}, locals()")

    def _assign(self, brought: Mapping[str, str]) -> None:
        """The arguments that the next iteration is given; the others are the node's own again."""
        if not self._variables:
            self._line("pass")
        for name in self._variables:
            value = brought.get(name)
            self._line(f"p_{name} = {self._own_value(name) if value is None else value}")

    def _assign_named(self, pc: int, data: str) -> None:
        """By parameter: mostly all of them, else those that are there and no others."""
        names = self._variables
        counted = " + ".join(f"({name!r} in {data})" for name in names) or "0"
        needed = [name for name in names if name in self._routine.given]
        missing = "".join(f" or {name!r} not in {data}" for name in needed)
        if names:
            with self._block(f"if len({data}) == {len(names)}:"):
                with self._block("try:"):
                    targets = ", ".join(f"p_{name}" for name in names)
                    values = ", ".join(f"{data}[{name!r}]" for name in names)
                    self._line(f"{targets} = {values}")
                with self._block("except KeyError:"):
                    self._line(f"return {pc}, locals()")
        with self._block(f"{'elif' if names else 'if'} len({data}) != {counted}{missing}:"):
            self._line(f"return {pc}, locals()")
        if len(names) > len(needed):
            with self._block("else:"):
                self._assign(
                    {
                        name: f"{data}[{name!r}]"
                        if name in needed
                        else f"{data}[{name!r}] if {name!r} in {data} else {self._own_value(name)}"
                        for name in names
                    }
                )

    def _own_value(self, name: str) -> str:
        return self._value(self._features.own[name])

    def _assign_positional(self, pc: int) -> None:
        """By how many arguments a TailCall has, as far as they are all variables."""
        names = self._features.parameters.positional[1 if self._features.slot.is_method else 0 :]
        most = next((i for i, n in enumerate(names) if n not in self._variables), len(names))
        word = "if"
        self._line("n = len(a)")
        for number in range(most, -1, -1):
            if not self._routine.given <= set(names[:number]):
                break
            with self._block(f"{word} n == {number}:"):
                self._assign({name: f"a[{i}]" for i, name in enumerate(names[:number])})
            word = "elif"
        if word == "if":
            self._line(f"return {pc}, locals()")
            return
        with self._block("else:"):
            self._line(f"return {pc}, locals()")


class _ExpressionWriter(_IterationWriter):
    """Writes the text for a returned expression: its end is to match the next one.

    The next is matched against the structure, node by node from the target on; what stands where
    the structure has a literal is its data.
    """

    def _cells(self) -> list[str]:
        return ["lazy", *(f"d{number}" for number in range(self._features.structure.literals))]

    def _emit_end(self, pc: int, result: str) -> None:
        with self._block(f"if {result}.__class__ is not lazy:"):
            self._line(f"return {pc}, locals()")
        names: dict[int, str] = {self._routine.root: result}
        todo = [self._routine.root]
        for index in todo:  # grows, and ends: what a call needs has a lower index
            todo += self._emit_match(pc, self._slots[index], names)
        if not self._is_path():  # else two nodes might be one object, which is another structure
            with self._block(
                f"if len({{{', '.join(f'id({n})' for n in names.values())}}}) != {len(names)}:"
            ):
                self._line(f"return {pc}, locals()")
        for number in self._features.literals:
            self._line(f"k{number} = n{number}")

    def _emit_match(self, pc: int, slot: Slot, names: dict[int, str]) -> list[int]:
        """Match one node, and name what it needs; the slots that are met for the first time."""
        name = names[slot.index]
        refs = slot.args if slot.kind is TASK else slot.members
        if slot.kind is TASK:
            self._names[f"x{slot.index}"] = slot.task
            lazy = "" if slot.index == self._routine.root else f"{name}.__class__ is not lazy or "
            parameters = slot.task.parameters
            keywords = f" or {name}.kwargs" if parameters.has_keywords else ""
            test = (
                f"{lazy}{name}.task is not x{slot.index} or {name}.policies is not None{keywords}"
            )
            parts = f"{name}.args"
            is_sure = not parameters.has_positionals
        else:
            test = f"{name}.__class__ is not {slot.kind}"
            parts, is_sure = name, False
        test += "" if is_sure else f" or len({parts}) != {len(refs)}"
        with self._block(f"if {test}:"):
            self._line(f"return {pc}, locals()")
        met: list[int] = []
        targets: list[str] = []
        checks: list[str] = []
        for position, ref in enumerate(refs):
            if ref < 0:
                targets.append(f"n{~ref}")
                checks.append(f"n{~ref}.__class__ is not d{~ref} and not literal({~ref}, n{~ref})")
            elif ref in names:
                targets.append(f"s{slot.index}_{position}")
                checks.append(f"s{slot.index}_{position} is not {names[ref]}")
            else:
                names[ref] = f"e{ref}"
                targets.append(f"e{ref}")
                met.append(ref)
        if targets:
            self._line(f"{', '.join(targets)}, = {parts}")
        for check in checks:
            with self._block(f"if {check}:"):
                self._line(f"return {pc}, locals()")
        return met

    def _is_path(self) -> bool:
        """Whether each node needs one other at the most, so that no two of them can be one."""
        return all(len(slot.argument_slots) <= 1 for slot in self._slots)


def overwrites(row: isa.Invocation, slot: Slot) -> bool:
    """Whether the call writes over an argument of its own that another attempt may need."""
    return slot.retry is not None and row.dst in row.reads()


class _Block:
    """Lines that stand one step further in."""

    def __init__(self, writer: _IterationWriter) -> None:
        self._writer = writer

    def __enter__(self) -> None:
        self._writer._depth += 1

    def __exit__(self, *_: object) -> None:
        self._writer._depth -= 1


def _given_name(row: isa.Producer) -> str:
    """The parameter that a value from outside is given as: of this evaluation, or of one around."""
    return f"v{row.source}" if row.source >= 0 else f"w{~row.source}"


def _is_plain(name: str) -> bool:
    """Whether source text with the name as a keyword means this very name."""
    return name.isidentifier() and name.isascii() and not iskeyword(name) and name != "__debug__"


def _chooser(slot: Slot) -> Callable[[Any], Ref]:
    def choose(key: Any) -> Ref:
        ref = slot.routes.get(key, slot.default)
        if ref is None:
            raise RouteNotFoundError(key, tuple(slot.routes))
        return ref

    return choose


def _leads_to(root: Ref, routes: Mapping[Any, Ref | None]) -> Callable[[Any], bool]:
    def leads_home(key: Any) -> bool:
        try:
            return routes.get(key) == root
        except TypeError:  # no key at all: the interpreter says so
            return False

    return leads_home


_EMIT: Final[Mapping[type[isa.Instruction], Callable[[_IterationWriter, int, Any], None]]] = {
    isa.Call: _IterationWriter._emit_call,
    isa.Await: _IterationWriter._emit_call,
    isa.Branch: _IterationWriter._emit_branch,
    isa.Default: _IterationWriter._emit_copy,
    isa.Take: _IterationWriter._emit_copy,
    isa.Choose: _IterationWriter._emit_choose,
    isa.Open: _IterationWriter._emit_open,
    isa.List: _IterationWriter._emit_container,
    isa.Tuple: _IterationWriter._emit_container,
    isa.Dict: _IterationWriter._emit_container,
    isa.Shared: _IterationWriter._emit_constant,
    isa.Outer: _IterationWriter._emit_constant,
    isa.Param: _IterationWriter._emit_constant,
    isa.Inject: _IterationWriter._emit_constant,
    isa.Follow: _IterationWriter._emit_follow,
}
