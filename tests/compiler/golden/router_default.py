"""An unknown key takes the default; two keys may share a route."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


@cs.task
def flag(value):
    return value


def target():
    shared = add(1)
    return cs.Router(flag("z"), {"a": shared, "b": shared}, default=7)


value = 7


# Listing
# Router: 3 registers
#    0  @0  call    r0, t0, (k0)                  ; flag#0  'z'
#    1  @0  choose  r2, t2, r0, (@1, @2)          ; Router 'a', 'b', default
#    2  @2  take    r2, t2, k3                    ; Router  7
#    3  @1  call    r1, t1, (k1, k2)              ; add#1  1, 1
#    4  @1  take    r2, t2, r1                    ; Router
#    5  @0  return  r2
