"""A route may be a Router: its choice is made in each iteration."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


@cs.task
def count(n, top=3):
    return cs.Jump("again", n + 1) if n < top else cs.Jump("done")


@cs.task
def flag(value):
    return value


def target():
    node = count(0)
    choice = cs.Router(flag("x"), {"x": add(1), "y": add(2)})
    return cs.bind(node, cs.select_jump({"again": node, "done": choice}))


value = 2


# Listing
# count: 1 register
#    0  @0  loop    r0, t0                        ; count#0
#    1  @0  return  r0
#
# iteration of count: 1 register
#    0  @0  call    r0, t0, (k0, k1)              ; count#0  0, 3
#    1  @0  return  r0
#
# iteration of Router: 4 registers
#    0  @0  call    r0, t1, (k2)                  ; flag#0  'x'
#    1  @0  choose  r3, t4, r0, (@1, @2)          ; Router 'x', 'y'
#    2  @1  call    r1, t2, (k3, k4)              ; add#1  1, 1
#    3  @1  take    r3, t4, r1                    ; Router
#    4  @2  call    r2, t3, (k5, k6)              ; add#2  2, 1
#    5  @2  take    r3, t4, r2                    ; Router
#    6  @0  return  r3
