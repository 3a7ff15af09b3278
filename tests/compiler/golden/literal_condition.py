"""A literal condition is a branch on a literal."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


def target():
    return add(add(1)).run_if(False, default=9)


value = 9


# Listing
# add: 2 registers
#    0  @0  branch  r1, t1, k2, @1, @2            ; if add#1  False
#    1  @2  default r1, t1, k3                    ; add#1  9
#    2  @1  call    r0, t0, (k0, k1)              ; add#0  1, 1
#    3  @1  call    r1, t1, (r0, k4)              ; add#1  1
#    4  @0  return  r1
