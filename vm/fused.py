"""The fused tier: an iteration of a loop as straight Python code, generated from its routine.

Registers become local variables, the tasks and literals of the routine names, regions flags:

    while True:
        for i in turns:                     a batch of iterations
            r0 = t1(p0)                     ; inc#0
            if r0.__class__ is not c0 and leave(0, r0):
                return 0, locals()
            r1 = t2(r0)                     ; step#1, the body
            if r1.__class__ is jump: ...    the next iteration's arguments, or return
        ... the clock

**Guards.** The code holds while nobody listens to task events, no constraint matches, and each call
gives an ordinary value. One comparison tells all of that: `c0` is a cell with the class that this
call gave last, one that `leave` found to be ordinary (no Jump, no awaitable, no expression).
Whatever else would end it, a change of constraints or subscribers, empties the cells, so that the
comparison fails right after the call that brought the change. `jump` and `tail` are such cells.

**Leaving.** `return pc, locals()` leaves after the call of row `pc`, `return ~pc, locals()` before
row `pc`; a call that raises leaves by its exception. The machine restores a frame from the local
variables (`Frame.restore`) and goes on with it in the interpreter, at that instruction.

**Time.** The clock is read once a batch, of at most 64 calls; `pace` adapts the batch.

Not every routine can be fused: `fuse` says of the others why.
"""

from __future__ import annotations

import linecache
import weakref
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from keyword import iskeyword
from time import perf_counter
from types import CellType
from typing import Any, Final

from cascade.errors import RouteNotFoundError
from cascade.expressions import Jump, LazyResult, TailCall
from cascade.structure import LIST, TASK, TUPLE, Ref, Slot, Structure
from cascade.task import Parameters
from cascade.values import build
from cascade.vm import isa
from cascade.vm.blueprint import Blueprint, Routine
from cascade.vm.disassemble import row_texts

BATCH: Final = 64  # calls between two looks at the clock, while they are fast
QUICK: Final = 0.001  # seconds: a batch that takes longer is made smaller
MOST_ROWS: Final = 128  # of a routine that is fused: compiling holds the loop
_serial = count(1)

_TURNS: Final = [tuple(range(batch)) for batch in range(BATCH + 1)]

NO_SITES: Final[Mapping[int, Callable[..., Any]]] = {}
ABSENT: Final = object()  # the value of a register that nothing was written to


class NotFusable(Exception):
    """The routine has something in it that only the interpreter does."""


class FusedRoutine:
    """The code of a routine as a Python function, made once.

    `variables` are the parameters of its task that iterations bring, `constants` the rows whose
    values are there before the loop goes on, by register; `is_async` tells which kind of function
    `run` is. `run(turns, limit, end, most, *literals, *constants, *variables)` returns
    `(pc, locals)` when it leaves, `(None, locals)` when it pauses between two iterations.
    """

    def __init__(self, source: _Iteration) -> None:
        self.text = source.text
        self.pcs = source.pcs
        self.routine = source.routine
        self.body = source.body
        self.calls = source.calls
        self.is_async = source.is_async
        self.is_mixed = source.is_async and source.has_inline
        self.literals = source.literals
        self.constants = source.constants
        self.variables = source.variables
        self.task_names = source.task_names
        self.may_skip = source.may_skip
        self.own_literals = tuple(
            (name, source.own[name]) for name in source.variables if source.own[name] < 0
        )
        self.result = f"r{source.routine.code[source.body].dst}"  # type: ignore[attr-defined]
        self.full = max(1, BATCH // source.calls)
        self.batch = min(self.full, 4)
        self.is_slow = False  # then guards look at the clock after each call
        self._quick_calls = 0
        self._last_look = 0.0
        self.filename = f"<cascade fused {source.slot.name} {next(_serial)}>"
        linecache.cache[self.filename] = (
            len(self.text),
            None,
            self.text.splitlines(keepends=True),
            self.filename,
        )
        weakref.finalize(self, linecache.cache.pop, self.filename, None)
        self._make = self._compiled(source)

    def _compiled(self, source: _Iteration) -> Callable[..., Any]:
        scope: dict[str, Any] = {}
        exec(compile(self.text, self.filename, "exec"), scope)
        bound = source.names
        link = scope["link"]
        return lambda asked, tasks: link(perf_counter, *asked, **{**bound, **tasks})

    def linked(
        self, asked: tuple[Any, ...], sites: Mapping[int, Callable[..., Any]] = NO_SITES
    ) -> Linked:
        """The function with guards of its own, which asks `asked`: leave, pace, usual, literal.

        `sites` are called instead of the tasks' functions, by row.
        """
        code = self.routine.code
        tasks = {f"t{code[pc].site}": site for pc, site in sites.items()}  # type: ignore[attr-defined]
        return Linked(self._make(asked, tasks))

    def raised_at(self, error: BaseException) -> tuple[int, dict[str, Any]]:
        """The row at which an exception left the function, and the local variables there.

        The row is -1 if it stands for nothing that the routine does.
        """
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != self.filename:
            trace = trace.tb_next
        assert trace is not None
        return self.pcs[trace.tb_lineno - 1], dict(trace.tb_frame.f_locals)

    def accepts(self, overrides: Mapping[Any, Any]) -> bool:
        """Whether all that an iteration brings are variables of the code."""
        return overrides.keys() <= set(self.variables)

    def brought(self, left: Mapping[str, Any]) -> dict[str, Any]:
        """What the iteration that was left had been brought, by parameter."""
        return {name: left[f"p_{name}"] for name in self.variables}

    def data(self, left: Mapping[str, Any]) -> tuple[Any, ...]:
        """The data of the returned expression that was left."""
        return tuple([left[f"k{index}"] for index in self.literals])

    # Pace

    def adapt(self, batch: int, took: float) -> int:
        """How many iterations to do at a time, now that `batch` of them took so many seconds."""
        each = took / batch
        self._tell_each(each)
        affordable = int(QUICK / each) if each > 0 else self.full
        self.batch = max(1, min(self.full, 4 * batch, affordable))
        return self.batch

    def tell_left(self, begun: int, took: float) -> None:
        """The code was left, so many seconds after the first of `begun` iterations had begun."""
        self._tell_each(took / begun)

    def _tell_each(self, each: float) -> None:
        if each > QUICK and self.calls > 1 and not self.is_slow:
            self.is_slow = True
            self._quick_calls = 0

    def turns(self, batch: int, done: int, most: int) -> tuple[tuple[int, ...], int]:
        """The next batch, and after how many iterations in all to ask again."""
        batch = min(batch, most - done)
        return _TURNS[batch], most - batch + 1 if batch == self.full else 0

    def tell_look(self, now: float) -> None:
        """A guard of slow code looked at the clock: after enough quick calls it is quick again."""
        self._quick_calls = self._quick_calls + 1 if now - self._last_look < QUICK else 0
        self._last_look = now
        if self._quick_calls > BATCH:
            self.is_slow = False


class Linked:
    """Fused code whose guards may be set and emptied."""

    __slots__ = ("_calls", "_cells", "_guards", "run", "version")

    def __init__(self, run: Callable[..., Any]) -> None:
        self.run = run
        self.version = -1  # of what the guards know
        names = run.__code__.co_freevars
        self._cells: dict[str, CellType] = dict(zip(names, run.__closure__ or (), strict=True))
        self._calls = [cell for name, cell in self._cells.items() if _is_of_call(name)]
        ends = [cell for name, cell in self._cells.items() if name in ("jump", "tail", "lazy")]
        self._guards = [*self._calls, *ends]

    def arm(self, version: int) -> None:
        """Nothing has changed since `version`: jumps and tail calls are followed."""
        self.version = version
        self._set("jump", Jump)
        self._set("tail", TailCall)
        self._set("lazy", LazyResult)

    def disarm(self) -> None:
        """Something has changed: leave after the call that is going on."""
        self.version = -1
        for cell in self._guards:
            cell.cell_contents = None

    def forget(self) -> None:
        """Have every call looked at from now on."""
        for cell in self._calls:
            cell.cell_contents = None

    def learn(self, pc: int, kind: type[Any]) -> None:
        """The call of row `pc` gives values of this class, which is an ordinary one."""
        self._set(f"c{pc}", kind)

    def learn_data(self, kind: type[Any]) -> None:
        """Jumps carry data of this class, which goes to the first parameter."""
        self._set("plain", kind)

    def learn_literal(self, number: int, kind: type[Any]) -> None:
        """Literal `number` of returned expressions is of this class, which holds no expressions."""
        self._set(f"d{number}", kind)

    def _set(self, name: str, kind: type[Any]) -> None:
        cell = self._cells.get(name)
        if cell is not None:
            cell.cell_contents = kind


def _is_of_call(name: str) -> bool:
    return name[0] == "c" and name[1:].isdigit()


class _Iteration:
    """The text of one function, and which row each line of it belongs to."""

    def __init__(self, structure: Structure, routine: Routine) -> None:
        self._structure = structure
        self._slots = structure.slots
        self.routine = routine
        self.slot = self._slots[routine.root]
        self.body = len(routine.code) - 2
        self._lines: list[str] = []
        self.pcs: list[int] = []
        self._pc = -1
        self._depth = 0
        self._comments = row_texts(Blueprint(structure, (routine,)), routine)
        self._check()
        self.is_async = any(isinstance(row, isa.Await) for row in routine.code)
        self.has_inline = any(isinstance(row, isa.Call) for row in routine.code)
        self.calls = sum(isinstance(row, isa.Invocation) for row in routine.code)
        self.task_names = tuple(
            dict.fromkeys(
                self._slots[row.site].name
                for row in routine.code
                if isinstance(row, isa.Invocation)
            )
        )
        self.may_skip = any(isinstance(row, isa.Branch | isa.Choose) for row in routine.code)
        self.own = dict(self._named_refs())
        self.variables = tuple(self._variables())
        self.constants = tuple(row for row in routine.code if isinstance(row, _CONSTANT))
        self.literals = tuple(sorted({~ref for ref in self._literal_refs()}))
        self.names: dict[str, Any] = {}
        self._emit()
        self.text = "\n".join(self._lines) + "\n"

    # What can be fused

    def _check(self) -> None:
        code = self.routine.code
        if len(code) > MOST_ROWS:
            raise NotFusable(f"it has {len(code)} rows, more than {MOST_ROWS}")
        body = code[self.body] if self.body >= 0 else None
        if not isinstance(body, isa.Call | isa.Await) or body.site != self.routine.root:
            raise NotFusable("its target is no task that runs on the loop")
        for row in code:
            self._check_row(row)
        self._check_regions(code)
        self._check_order(code)

    def _check_row(self, row: isa.Instruction) -> None:
        if not isinstance(row, _FUSABLE):
            raise NotFusable(f"{row.mnemonic} is left to the interpreter")
        if not isinstance(row, isa.Invocation):
            return
        slot = self._slots[row.site]
        for what, value in (("cache", slot.cache), ("timeout", slot.timeout)):
            if value is not None:
                raise NotFusable(f"task {slot.name!r} has a {what}")
        if slot.amounts:
            raise NotFusable(f"task {slot.name!r} takes capacity")

    def _check_regions(self, code: tuple[isa.Instruction, ...]) -> None:
        """Read from top to bottom, each region must be opened above all that stands in it."""
        first: dict[int, int] = {}
        for pc, row in enumerate(code):
            first.setdefault(row.at, pc)
        for pc, row in enumerate(code):
            if any(first.get(region, pc) < pc for region in row.opens()):
                raise NotFusable("a value is wanted by guards that come one after the other")

    def _check_order(self, code: tuple[isa.Instruction, ...]) -> None:
        """An await stands alone: all calls above lead to it, all below need it."""
        ancestors: list[int] = []
        producers: dict[int, int] = {}
        openers: dict[int, int] = {}
        calls = 0
        for pc, row in enumerate(code):
            mine = openers.get(row.at, 0)
            for register in row.reads():
                mine |= producers.get(register, 0)
            ancestors.append(mine)
            own = mine | 1 << pc
            if isinstance(row, isa.Producer):
                producers[row.dst] = producers.get(row.dst, 0) | own
            for region in row.opens():
                openers[region] = openers.get(region, 0) | own
            if isinstance(row, isa.Invocation):
                calls |= 1 << pc
        for pc, row in enumerate(code):
            if not isinstance(row, isa.Await):
                continue
            above = calls & ((1 << pc) - 1)
            below = [q for q in range(pc + 1, len(code)) if calls >> q & 1]
            if above & ~ancestors[pc] or any(not ancestors[q] >> pc & 1 for q in below):
                raise NotFusable("its async tasks may run at the same time as others")

    # What it is given

    def _parameters(self) -> Parameters:
        return self.slot.task.parameters

    def _named_refs(self) -> Iterator[tuple[str, Ref]]:
        """The parameters of the body that an iteration may bring, with their own arguments."""
        parameters = self._parameters()
        names = parameters.positional
        yield from zip(names, self.slot.args, strict=False)
        keywords = parameters.names[len(names) :]
        yield from ((name, ref) for name, ref in self.slot.kwargs if name in keywords)

    def _variables(self) -> Iterator[str]:
        given = self.routine.given
        named = dict(self._named_refs())
        if not given <= set(named):
            raise NotFusable("its iterations bring arguments that no parameter names")
        yield from (name for name, ref in named.items() if ref < 0 or name in given)

    def _literal_refs(self) -> Iterator[Ref]:
        for row in self.routine.code:
            if isinstance(row, _CONSTANT):
                continue
            yield from (ref for ref in row.refs() if ref < 0)
            if isinstance(row, isa.List | isa.Tuple | isa.Dict) and self._slots[row.site].data:
                yield self._slots[row.site].data
        yield from (ref for name, ref in self.own.items() if name in self.variables and ref < 0)

    # Text

    def _line(self, text: str, comment: str = "") -> None:
        line = "    " * self._depth + text
        self._lines.append(f"{line:<58}  # {comment}" if comment else line)
        self.pcs.append(self._pc)

    def _block(self, head: str, comment: str = "") -> _Block:
        self._line(head, comment)
        return _Block(self)

    def _emit(self) -> None:
        cells = self._cells()
        cells += [
            f"c{pc}"
            for pc, row in enumerate(self.routine.code)
            if isinstance(row, isa.Invocation) and pc != self.body
        ]
        body_at = len(self._lines)
        with self._block("def link():"):  # the names are filled in below
            self._line(f"{' = '.join(cells)} = None")
            given = [f"k{index}" for index in self.literals]
            given += [f"s{row.dst}" for row in self.constants]
            given += [f"p_{name}" for name in self.variables]
            head = f"{'async ' if self.is_async else ''}def run"
            with self._block(f"{head}({', '.join(['turns', 'limit', 'end', 'most', *given])}):"):
                self._emit_turns()
            self._line("return run")
        names = ["clock", "leave", "pace", "usual", "literal", *self.names]
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
                if self.is_async:
                    self._line("turns, limit, end = await pace(batch, done, most, now, last)")
                else:
                    self._line("turns, limit = pace(batch, done, most, now, last)")
                with self._block("if not turns:"):
                    self._line("return None, locals()")
                self._line("batch = len(turns)")
                if self.is_async:
                    self._line("now = clock()")
            self._line("last = now")

    def _emit_rows(self) -> None:
        for region in range(1, self.routine.regions):
            self._line(f"g{region} = False")
        block: _Block | None = None
        region = 0
        calls = 0
        for pc, row in enumerate(self.routine.code[:-1]):
            if row.at != region:
                if block is not None:
                    block.__exit__()
                region = row.at
                block = self._block(f"if g{region}:") if region else None
                if block is not None:
                    block.__enter__()
            self._pc = pc
            _EMIT[type(row)](self, pc, row)
            if isinstance(row, isa.Invocation) and pc != self.body:
                calls += 1
                if not calls % BATCH:
                    with self._block("if clock() >= end:"):
                        self._line(f"return {pc}, locals()")
        if block is not None:
            block.__exit__()

    def _value(self, ref: Ref | None) -> str:
        assert ref is not None
        return f"k{~ref}" if ref < 0 else f"r{ref}"

    def _arguments(self, row: isa.Invocation) -> str:
        is_body = row.site == self.routine.root
        names = self._parameters().positional if is_body else []
        shown = [
            f"p_{names[position]}"
            if position < len(names) and names[position] in self.variables
            else self._value(ref)
            for position, ref in enumerate(row.args)
        ]
        keywords = self._parameters().names[len(names) :] if is_body else []
        for name, ref in row.kwargs:
            is_brought = name in keywords and name in self.variables
            value = f"p_{name}" if is_brought else self._value(ref)
            shown.append(f"{name}={value}" if _is_plain(name) else f"**{{{name!r}: {value}}}")
        return ", ".join(shown)

    def _call(self, pc: int, row: isa.Invocation) -> None:
        if overwrites(row, self._slots[row.site]):
            self._line(f"o{row.dst} = r{row.dst}")
        task = f"t{row.site}"
        self.names[task] = self._slots[row.site].task.func
        awaits = "await " if isinstance(row, isa.Await) else ""
        text = f"r{row.dst} = {awaits}{task}({self._arguments(row)})"
        self._line(text, self._comments[pc])
        self._pc = -1  # what raises from here on is no attempt of the task

    def _emit_call(self, pc: int, row: isa.Invocation) -> None:
        self._call(pc, row)
        if pc == self.body:
            self._emit_end(pc, f"r{row.dst}")
            return
        with self._block(f"if r{row.dst}.__class__ is not c{pc} and leave({pc}, r{row.dst}):"):
            self._line(f"return {pc}, locals()")

    def _emit_branch(self, pc: int, row: isa.Branch) -> None:
        self._line(f"if {self._value(row.condition)}:", self._comments[pc])
        self._line(f"    g{row.then} = True")
        self._line("else:")
        if row.otherwise == isa.NOWHERE or row.site == self.routine.root:
            self._line(f"    return {pc}, locals()")
        else:
            self._line(f"    g{row.otherwise} = True")

    def _emit_copy(self, pc: int, row: isa.Default | isa.Take) -> None:
        self._line(f"r{row.dst} = {self._value(row.value)}", self._comments[pc])

    def _emit_choose(self, pc: int, row: isa.Choose) -> None:
        self.names[f"choose{row.site}"] = _chooser(self._slots[row.site])
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
            self.names[f"t{row.site}"] = slot
            self.names["build"] = build
            shape = self._value(slot.data) if slot.data else "None"
            text = f"build(t{row.site}, {shape}, ({members}))"
        self._line(f"r{row.dst} = {text}", self._comments[pc])

    def _emit_constant(self, pc: int, row: isa.Producer) -> None:
        """Its value was there before the loop came here; if not, the interpreter gets it."""
        self.names["absent"] = ABSENT
        with self._block(f"if s{row.dst} is absent:", self._comments[pc]):
            self._line(f"return ~{pc}, locals()")
        self._line(f"r{row.dst} = s{row.dst}")  # a call may write over it

    def _emit_follow(self, pc: int, row: isa.Follow) -> None:
        self._line(f"g{row.then} = True", self._comments[pc])

    # The end of an iteration: what the next one is given

    def _cells(self) -> list[str]:
        return ["jump", "tail", "plain"]

    def _emit_end(self, pc: int, result: str) -> None:
        home = [] if self.slot.bound is None else self._keys_home(self.slot.bound)
        if home:
            with self._block(f"if {result}.__class__ is jump:"):
                self._emit_jump(pc, result, home)
        with self._block(f"{'elif' if home else 'if'} {result}.__class__ is tail:"):
            self._emit_tail(pc, result)
        with self._block("else:"):
            self._line(f"return {pc}, locals()")

    def _keys_home(self, bound: int) -> list[Any]:
        routes = self._structure.selectors[bound]
        return [key for key, route in routes.items() if route == self.routine.root]

    def _emit_jump(self, pc: int, result: str, home: list[Any]) -> None:
        assert self.slot.bound is not None
        for number, key in enumerate(home):
            self.names[f"key{number}"] = key
        self.names["leads_home"] = _leads_to(
            self.routine.root, self._structure.selectors[self.slot.bound]
        )
        others = " and ".join(f"key is not key{number}" for number in range(len(home)))
        self._line(f"key = {result}.target_key")
        with self._block(f"if {others} and not leads_home(key):"):
            self._line(f"return {pc}, locals()")
        self._line(f"d = {result}.data")
        first = self._parameters().first(is_method=self.slot.is_method)
        takes_first = first in self.variables and self.routine.given <= {first}
        if takes_first:
            with self._block("if d.__class__ is plain:"):
                self._assign({str(first): "d"})
        with self._block(f"{'elif' if takes_first else 'if'} d.__class__ is dict:"):
            self._assign_named(pc, "d")
        if not self.routine.given:
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
        if not self.variables:
            self._line("pass")
        for name in self.variables:
            value = brought.get(name)
            self._line(f"p_{name} = {self._own_value(name) if value is None else value}")

    def _assign_named(self, pc: int, data: str) -> None:
        """By parameter: mostly all of them, else those that are there and no others."""
        names = self.variables
        counted = " + ".join(f"({name!r} in {data})" for name in names) or "0"
        needed = [name for name in names if name in self.routine.given]
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
        return self._value(self.own[name])

    def _assign_positional(self, pc: int) -> None:
        """By how many arguments a TailCall has, as far as they are all variables."""
        names = self._parameters().positional[1 if self.slot.is_method else 0 :]
        most = next((i for i, n in enumerate(names) if n not in self.variables), len(names))
        word = "if"
        self._line("n = len(a)")
        for number in range(most, -1, -1):
            if not self.routine.given <= set(names[:number]):
                break
            with self._block(f"{word} n == {number}:"):
                self._assign({name: f"a[{i}]" for i, name in enumerate(names[:number])})
            word = "elif"
        if word == "if":
            self._line(f"return {pc}, locals()")
            return
        with self._block("else:"):
            self._line(f"return {pc}, locals()")


class _Expression(_Iteration):
    """The text for a returned expression: its end is to match the next one.

    The next is matched against the structure, node by node from the target on; what stands where
    the structure has a literal is its data.
    """

    def _check(self) -> None:
        super()._check()
        for slot in self._slots:
            policies = (slot.conditions, slot.after, slot.retry, slot.bound)
            is_call = slot.kind is TASK and not slot.task.pure and not slot.kwargs
            if any(policies) or slot.is_method or not (is_call or slot.kind in (LIST, TUPLE)):
                raise NotFusable("only an expression of plain calls is matched")
            if not is_call and slot.data:
                raise NotFusable("only plain lists and tuples are matched")

    def _variables(self) -> Iterator[str]:
        return iter(())

    def _literal_refs(self) -> Iterator[Ref]:
        yield from range(-self._structure.literals, 0)

    def _cells(self) -> list[str]:
        return ["lazy", *(f"d{number}" for number in range(self._structure.literals))]

    def _emit_end(self, pc: int, result: str) -> None:
        with self._block(f"if {result}.__class__ is not lazy:"):
            self._line(f"return {pc}, locals()")
        names: dict[int, str] = {self.routine.root: result}
        todo = [self.routine.root]
        for index in todo:  # grows, and ends: what a call needs has a lower index
            todo += self._emit_match(pc, self._slots[index], names)
        if not self._is_path():
            with self._block(
                f"if len({{{', '.join(f'id({n})' for n in names.values())}}}) != {len(names)}:"
            ):
                self._line(f"return {pc}, locals()")
        for number in self.literals:
            self._line(f"k{number} = n{number}")

    def _emit_match(self, pc: int, slot: Slot, names: dict[int, str]) -> list[int]:
        """Match one node, and name what it needs; the slots that are met for the first time."""
        name = names[slot.index]
        refs = slot.args if slot.kind is TASK else slot.members
        if slot.kind is TASK:
            self.names[f"x{slot.index}"] = slot.task
            lazy = "" if slot.index == self.routine.root else f"{name}.__class__ is not lazy or "
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


def fuse(structure: Structure, routine: Routine) -> FusedRoutine:
    """The fused code of a routine; raises `NotFusable` with the reason if there is none."""
    kind = _Iteration if routine.is_body else _Expression
    return FusedRoutine(kind(structure, routine))


class _Block:
    """Lines that stand one step further in."""

    def __init__(self, source: _Iteration) -> None:
        self._source = source

    def __enter__(self) -> None:
        self._source._depth += 1

    def __exit__(self, *_: object) -> None:
        self._source._depth -= 1


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


_CONSTANT: Final = (isa.Shared, isa.Outer, isa.Param, isa.Inject)
_EMIT: Final[Mapping[type[isa.Instruction], Callable[[_Iteration, int, Any], None]]] = {
    isa.Call: _Iteration._emit_call,
    isa.Await: _Iteration._emit_call,
    isa.Branch: _Iteration._emit_branch,
    isa.Default: _Iteration._emit_copy,
    isa.Take: _Iteration._emit_copy,
    isa.Choose: _Iteration._emit_choose,
    isa.Open: _Iteration._emit_open,
    isa.List: _Iteration._emit_container,
    isa.Tuple: _Iteration._emit_container,
    isa.Dict: _Iteration._emit_container,
    isa.Shared: _Iteration._emit_constant,
    isa.Outer: _Iteration._emit_constant,
    isa.Param: _Iteration._emit_constant,
    isa.Inject: _Iteration._emit_constant,
    isa.Follow: _Iteration._emit_follow,
}
_FUSABLE: Final = (*_EMIT, isa.Return)
