"""A named tuple keeps its type, and is built from a literal shape."""

from typing import NamedTuple

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


class Point(NamedTuple):
    x: object
    y: object


def target():
    return Point(add(1), 2)


value = (2, 2)


# Listing
# Point: 1 register
#    0  @0  call    r0, t0, (k0, k1)              ; add#0  1, 1
#    1  @0  tuple   r0, t1, (r0, k2)              ; Point  2
#    2  @0  return  r0
