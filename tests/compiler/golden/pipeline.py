"""A step that is skipped passes its input on."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


@cs.task
def flag(value):
    return value


def target():
    return cs.pipeline(add(1), [add, lambda before: add(before).run_if(flag(False)), add])


value = 4


# Listing
# add: 3 registers
#    0  @0  call    r0, t0, (k0)                  ; flag#0  False
#    1  @0  branch  r2, t3, r0, @1, @2            ; if add#3
#    2  @2  open    @3
#    3  @1  open    @3
#    4  @3  call    r1, t1, (k1, k2)              ; add#1  1, 1
#    5  @3  call    r1, t2, (r1, k3)              ; add#2  1
#    6  @2  default r2, t3, r1                    ; add#3
#    7  @1  call    r2, t3, (r1, k4)              ; add#3  1
#    8  @0  call    r2, t4, (r2, k5)              ; add#4  1
#    9  @0  return  r2
