"""Each condition is demanded if the one before it holds."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


@cs.task
def flag(value):
    return value


def target():
    return add(1).run_if(flag(True)).run_if(flag(False)).run_if(flag(1), default=0)


value = 0


# Listing
# add: 4 registers
#    0  @0  call    r0, t0, (k0)                  ; flag#0  True
#    1  @0  branch  r3, t3, r0, @1, @2            ; if add#3
#    2  @1  call    r1, t1, (k1)                  ; flag#1  False
#    3  @1  branch  r3, t3, r1, @3, @2            ; if add#3
#    4  @3  call    r2, t2, (k2)                  ; flag#2  1
#    5  @3  branch  r3, t3, r2, @4, @2            ; if add#3
#    6  @2  default r3, t3, k3                    ; add#3  0
#    7  @4  call    r3, t3, (k4, k5)              ; add#3  1, 1
#    8  @0  return  r3
