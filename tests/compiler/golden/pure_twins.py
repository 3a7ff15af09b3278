"""Equal pure calls are one."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


@cs.task(pure=True)
def square(x):
    return x * x


def target():
    return [add(square(3), square(3)), square(4)]


value = [18, 16]


# Listing
# list: 3 registers
#    0  @0  call    r0, t0, (k0)                  ; square#0  3
#    1  @0  call    r1, t1, (r0, r0)              ; add#1
#    2  @0  call    r2, t2, (k1)                  ; square#2  4
#    3  @0  list    r1, t3, (r1, r2)              ; list
#    4  @0  return  r1
