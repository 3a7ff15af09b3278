"""A loop in the arguments of a loop is an instruction of its iteration."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


@cs.task
def count(n, top=3):
    return cs.Jump("again", n + 1) if n < top else cs.Jump("done", n)


def target():
    inner = count(0, 2)
    cs.bind(inner, cs.select_jump({"again": inner, "done": None}))
    outer = count(0, inner)
    return cs.bind(outer, cs.select_jump({"again": outer, "done": None}))


value = 2


# Listing
# count: 1 register
#    0  @0  loop    r0, t1                        ; count#1
#    1  @0  return  r0
#
# iteration of count: 1 register
#    0  @0  call    r0, t0, (k0, k1)              ; count#0  0, 2
#    1  @0  return  r0
#
# iteration of count: 1 register
#    0  @0  loop    r0, t0                        ; count#0
#    1  @0  call    r0, t1, (k2, r0)              ; count#1  0
#    2  @0  return  r0
