"""A node that two others need keeps its register."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


def target():
    base = add(1)
    return add(add(base), add(base))


value = 6


# Listing
# add: 3 registers
#    0  @0  call    r0, t0, (k0, k1)              ; add#0  1, 1
#    1  @0  call    r1, t1, (r0, k2)              ; add#1  1
#    2  @0  call    r2, t2, (r0, k3)              ; add#2  1
#    3  @0  call    r1, t3, (r1, r2)              ; add#3
#    4  @0  return  r1
