"""An injected resource is an operand like any other."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


@cs.resource(scope="run")
def base():
    yield 10


def target():
    return add(cs.inject("base"), 2)


value = 12
options = {"resources": [base]}


# Listing
# add: 1 register
#    0  @0  inject  r0, t0                        ; base
#    1  @0  call    r0, t1, (r0, k0)              ; add#0  2
#    2  @0  return  r0
