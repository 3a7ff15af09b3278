"""An amount that is computed is a register that the call waits for."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


@cs.task
def flag(value):
    return value


def target():
    return add(1).with_constraints(slots=flag(2), gpu=1)


value = 2
options = {"system_resources": {"slots": 2}}


# Listing
# add: 2 registers
#    0  @0  call    r0, t0, (k0)                  ; flag#0  2
#    1  @0  call    r1, t1, (k1, k2), amounts (slots=r0); add#1  1, 1
#    2  @0  return  r1
