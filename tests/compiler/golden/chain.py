"""A chain needs one register: each call takes over that of its argument."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


def target():
    return add(add(add(1)))


value = 4


# Listing
# add: 1 register
#    0  @0  call    r0, t0, (k0, k1)              ; add#0  1, 1
#    1  @0  call    r0, t1, (r0, k2)              ; add#1  1
#    2  @0  call    r0, t2, (r0, k3)              ; add#2  1
#    3  @0  return  r0
