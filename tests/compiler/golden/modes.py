"""The mode of a task is its instruction."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


@cs.task
async def later(x):
    return x


@cs.task(mode="thread")
def threaded(x):
    return x


def target():
    return [add(1), later(2), threaded(3)]


value = [2, 2, 3]


# Listing
# list: 3 registers
#    0  @0  call    r0, t0, (k0, k1)              ; add#0  1, 1
#    1  @0  await   r1, t1, (k2)                  ; later#1  2
#    2  @0  thread  r2, t2, (k3)                  ; threaded#2  3
#    3  @0  list    r0, t3, (r0, r1, r2)          ; list
#    4  @0  return  r0
