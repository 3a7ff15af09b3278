"""What a condition guards is in a region of its own."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


@cs.task
def flag(value):
    return value


def target():
    return [add(1).run_if(flag(True)), add(add(2)).run_if(flag(1))]


value = [2, 4]


# Listing
# list: 5 registers
#    0  @0  call    r0, t0, (k0)                  ; flag#0  True
#    1  @0  branch  r1, t1, r0, @1, -             ; if add#1
#    2  @1  call    r1, t1, (k1, k2)              ; add#1  1, 1
#    3  @0  call    r2, t2, (k3)                  ; flag#2  1
#    4  @0  branch  r4, t4, r2, @2, -             ; if add#4
#    5  @2  call    r3, t3, (k4, k5)              ; add#3  2, 1
#    6  @2  call    r4, t4, (r3, k6)              ; add#4  1
#    7  @0  list    r1, t5, (r1, r4)              ; list
#    8  @0  return  r1
