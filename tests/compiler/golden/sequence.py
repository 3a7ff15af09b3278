"""Predecessors are waited for, their values are not read."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


def target():
    return cs.sequence([add(1), add(2), add(3)])


value = 4


# Listing
# add: 3 registers
#    0  @0  call    r0, t0, (k0, k1)              ; add#0  1, 1
#    1  @0  call    r1, t1, (k2, k3), after (r0)  ; add#1  2, 1
#    2  @0  call    r2, t2, (k4, k5), after (r1)  ; add#2  3, 1
#    3  @0  return  r2
