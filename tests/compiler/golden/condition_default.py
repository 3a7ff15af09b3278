"""A default is a region that the branch opens instead."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


@cs.task
def flag(value):
    return value


def target():
    return add(add(1)).run_if(flag(False), default=add(5))


value = 6


# Listing
# add: 4 registers
#    0  @0  call    r0, t0, (k0)                  ; flag#0  False
#    1  @0  branch  r3, t3, r0, @1, @2            ; if add#3
#    2  @2  call    r1, t1, (k1, k2)              ; add#1  5, 1
#    3  @2  default r3, t3, r1                    ; add#3
#    4  @1  call    r2, t2, (k3, k4)              ; add#2  1, 1
#    5  @1  call    r3, t3, (r2, k5)              ; add#3  1
#    6  @0  return  r3
