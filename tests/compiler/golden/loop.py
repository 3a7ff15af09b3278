"""A loop is one instruction; its routes are routines of their own."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


@cs.task
def count(n, top=3):
    return cs.Jump("again", n + 1) if n < top else cs.Jump("done", n)


def target():
    node = count(0)
    return add(cs.bind(node, cs.select_jump({"again": node, "done": None})))


value = 4


# Listing
# add: 1 register
#    0  @0  loop    r0, t0                        ; count#0
#    1  @0  call    r0, t1, (r0, k2)              ; add#1  1
#    2  @0  return  r0
#
# iteration of count: 1 register
#    0  @0  call    r0, t0, (k0, k1)              ; count#0  0, 3
#    1  @0  return  r0
