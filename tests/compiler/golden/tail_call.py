"""Tail calls are what tasks return: the code does not know of them."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


@cs.task
def down(n):
    return cs.TailCall((n - 1,)) if n else 0


def target():
    return add(down(3))


value = 1


# Listing
# add: 1 register
#    0  @0  call    r0, t0, (k0)                  ; down#0  3
#    1  @0  call    r0, t1, (r0, k1)              ; add#1  1
#    2  @0  return  r0
