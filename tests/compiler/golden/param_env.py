"""Params and Envs are read from the declaration in the data."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


def target():
    return add(cs.Param("n", default=1, type=int), cs.Param("m", default="2", type=int))


value = 3


# Listing
# add: 2 registers
#    0  @0  param   r0, t0, k0                    ; Param
#    1  @0  param   r1, t1, k1                    ; Param
#    2  @0  call    r0, t2, (r0, r1)              ; add#0
#    3  @0  return  r0
