"""A map reads its iterables; its items are calls of their own."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


@cs.task
def numbers():
    return [1, 2, 3]


def target():
    return add.map(x=[1, 2, 3], y=numbers())


value = [2, 4, 6]


# Listing
# add: 1 register
#    0  @0  call    r0, t0, ()                    ; numbers#0
#    1  @0  map     r0, t1, (x=k0, y=r0)          ; add#1 over x, y  <list>
#    2  @0  return  r0
