"""Each route is a region; the value is taken from the one that was chosen."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


@cs.task
def flag(value):
    return value


def target():
    return cs.Router(flag("b"), {"a": add(1), "b": add(add(2)), "c": 3})


value = 4


# Listing
# Router: 4 registers
#    0  @0  call    r0, t0, (k0)                  ; flag#0  'b'
#    1  @0  choose  r3, t4, r0, (@1, @2, @3)      ; Router 'a', 'b', 'c'
#    2  @3  take    r3, t4, k6                    ; Router  3
#    3  @1  call    r1, t1, (k1, k2)              ; add#1  1, 1
#    4  @1  take    r3, t4, r1                    ; Router
#    5  @2  call    r2, t2, (k3, k4)              ; add#2  2, 1
#    6  @2  call    r2, t3, (r2, k5)              ; add#3  1
#    7  @2  take    r3, t4, r2                    ; Router
#    8  @0  return  r3
