"""A node that two guards lead to is in a region that each opens."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


@cs.task
def flag(value):
    return value


def target():
    shared = add(1)
    return [add(shared).run_if(flag(1)), add(shared, 2).run_if(flag(2))]


value = [3, 4]


# Listing
# list: 5 registers
#    0  @0  call    r0, t0, (k0)                  ; flag#0  1
#    1  @0  branch  r2, t2, r0, @1, -             ; if add#2
#    2  @1  open    @2
#    3  @2  call    r1, t1, (k1, k2)              ; add#1  1, 1
#    4  @1  call    r2, t2, (r1, k3)              ; add#2  1
#    5  @0  call    r3, t3, (k4)                  ; flag#3  2
#    6  @0  branch  r4, t4, r3, @3, -             ; if add#4
#    7  @3  open    @2
#    8  @3  call    r4, t4, (r1, k5)              ; add#4  2
#    9  @0  list    r2, t5, (r2, r4)              ; list
#   10  @0  return  r2
