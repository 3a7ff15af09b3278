"""A literal target: nothing but its return."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


def target():
    return 42


value = 42


# Listing
# literal: 0 registers
#    0  @0  return  k0                            ; 42
