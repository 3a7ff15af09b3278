"""Nothing that a user can see hangs on the order of a set, which differs between processes."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = '''
import json
import anyio
import cascade as cs
from cascade.command.checks import check

NAMES = ["gamma", "alpha", "delta", "beta", "epsilon"]

def told(target, **how):
    """The value or the error of a target, under both strategies."""
    for use_vm in (False, True):
        try:
            print(cs.run(target(), use_vm=use_vm, **how))
        except Exception as error:
            print(type(error).__name__, error)

@cs.task
def given(x=0, **named):
    return x, list(named)

@cs.task
def fresh(x):
    return x

@cs.task
def again(x, **named):
    return cs.TailCall(kwargs={"x": x - 1}) if x else list(named)

told(lambda: given(**dict.fromkeys(NAMES, 1)))
told(lambda: given.map(**dict.fromkeys(NAMES, [1, 2])))
told(lambda: given.map(beta=fresh([1]), x=fresh([1]), alpha=[1]))
told(lambda: again.map(x=[2], **dict.fromkeys(NAMES, [1])))
# Errors that list names, and the first of several errors
told(lambda: given.map(**{name: fresh([1] * i) for i, name in enumerate(NAMES)}))
told(lambda: given.map(**{name: fresh(i) for i, name in enumerate(NAMES)}))
told(lambda: given(*[], **{name: cs.inject(name) for name in NAMES}))
told(lambda: [cs.Param(name) for name in NAMES])
told(lambda: cs.Router(fresh("alpa"), dict.fromkeys(NAMES, 1)))
told(lambda: cs.bind(fresh(cs.Jump("alpa")), cs.select_jump(dict.fromkeys(NAMES))))
told(lambda: 1, params=dict.fromkeys(NAMES, 1))
told(lambda: fresh(1).with_constraints(**{name: 9 for name in NAMES}),
     system_resources=dict.fromkeys(NAMES, 1))
# Pictures and reports
def target():
    routes = {name: fresh(name) for name in NAMES}
    looped = fresh(cs.Router(fresh("beta"), routes, default=fresh(0)))
    looped = cs.bind(looped, cs.select_jump({**routes, "end": None}))
    mapped = given.map(**dict.fromkeys(NAMES, fresh([1])))
    return [looped, mapped, given(**{n: cs.inject(n) for n in NAMES}), {1, 2}]

print(json.dumps(cs.to_json(target())))
print(cs.disassemble(target()))
print([(e.source.id, e.target.id, e.argument) for e in cs.build_graph(target()).graph.edges])
print(cs.visualize(target()).mermaid())
@cs.task
async def slow(x):
    await anyio.sleep(x)
    return x
seen = []
bus = cs.MessageBus()
bus.subscribe(cs.TaskEvent, lambda event: seen.append((type(event).__name__, event.task_id)))
resources = [cs.resource(name=name)(lambda: (yield 1)) for name in NAMES]
target = given(x=slow(0), **{n: cs.inject(n) for n in NAMES})
for use_vm in (False, True):
    print(cs.run([target, cs.Router("alpha", {n: slow(0) for n in NAMES})],
                 use_vm=use_vm, bus=bus, resources=resources))
print(seen)
'''


def test_what_a_program_prints_is_the_same_in_every_process() -> None:
    """Keywords, lists of names in errors, the first of several errors, graphs, code, events."""
    printed = set()
    for seed in ("0", "1", "2", "3", "4", "5"):
        done = subprocess.run(
            [sys.executable, "-P", "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=False,
            timeout=150,
        )
        assert done.returncode == 0, done.stderr
        printed.add(done.stdout)
    assert len(printed) == 1
    lines = printed.pop().splitlines()
    in_order = "['gamma', 'alpha', 'delta', 'beta', 'epsilon']"
    assert lines[:2] == [f"(0, {in_order})"] * 2
    assert lines[2:4] == [f"[(0, {in_order}), (0, {in_order})]"] * 2
    assert lines[4:6] == ["[(1, ['beta', 'alpha'])]"] * 2
    assert lines[6:8] == [f"[{in_order}]"] * 2
