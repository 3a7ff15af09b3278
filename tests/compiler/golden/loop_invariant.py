"""A pure node is demanded once, in the outermost evaluation."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


@cs.task
def count(n, top=3):
    return cs.Jump("again", n + 1) if n < top else cs.Jump("done", n)


@cs.task(pure=True)
def square(x):
    return x * x


def target():
    node = count(0, add(square(2), square(1)))
    return cs.bind(node, cs.select_jump({"again": node, "done": None}))


value = 5


# Listing
# count: 3 registers
#    0  @1  call    r0, t0, (k0)                  ; square#0  2
#    1  @2  call    r1, t1, (k1)                  ; square#1  1
#    2  @0  loop    r2, t3                        ; count#3
#    3  @0  return  r2
#
# iteration of count: 3 registers
#    0  @0  shared  r0, t0, -                     ; square#0
#    1  @0  shared  r1, t1, -                     ; square#1
#    2  @0  call    r2, t2, (r0, r1)              ; add#2
#    3  @0  call    r2, t3, (k2, r2)              ; count#3  0
#    4  @0  return  r2
