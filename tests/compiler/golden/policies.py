"""Retry, cache and timeout are policies of the site: the code is the same."""

import cascade as cs


@cs.task
def add(x, y=1):
    return x + y


def target():
    return add(1).with_retry(3).with_cache(cs.InMemoryCache())


value = 2


# Listing
# add: 1 register
#    0  @0  call    r0, t0, (k0, k1)              ; add#0  1, 1
#    1  @0  return  r0
