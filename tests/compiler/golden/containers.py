"""Containers with expressions inside are built anew, literal ones are data."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


def target():
    return [add(1), (add(2), [3]), {"k": add(4), "l": {"m": 5}}]


value = [2, (3, [3]), {"k": 5, "l": {"m": 5}}]


# Listing
# list: 3 registers
#    0  @0  call    r0, t0, (k0, k1)              ; add#0  1, 1
#    1  @0  call    r1, t1, (k2, k3)              ; add#1  2, 1
#    2  @0  tuple   r1, t2, (r1, k4)              ; tuple  <list>
#    3  @0  call    r2, t3, (k5, k6)              ; add#2  4, 1
#    4  @0  dict    r2, t4, (r2, k7)              ; dict  <dict>
#    5  @0  list    r0, t5, (r0, r1, r2)          ; list
#    6  @0  return  r0
