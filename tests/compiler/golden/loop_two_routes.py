"""A route other than the node itself has a routine too, its predecessor is outside."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


@cs.task
def count(n, top=3):
    return cs.Jump("again", n + 1) if n < top else cs.Jump("done", n)


def target():
    node = count(0)
    other = add(5).after(add(6))
    return cs.bind(node, cs.select_jump({"again": node, "done": other}))


value = 4


# Listing
# count: 2 registers
#    0  @0  loop    r0, t0                        ; count#0
#    1  @1  call    r1, t1, (k2, k3)              ; add#1  6, 1
#    2  @0  return  r0
#
# iteration of count: 1 register
#    0  @0  call    r0, t0, (k0, k1)              ; count#0  0, 3
#    1  @0  return  r0
#
# iteration of add: 2 registers
#    0  @0  outer   r0, t1                        ; add around the loop
#    1  @0  follow  r1, t2, after (r0), @1        ; add#1
#    2  @1  call    r1, t2, (k4, k5)              ; add#1  5, 1
#    3  @0  return  r1
