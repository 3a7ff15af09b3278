"""Section 10: `cs.Rate` as capacity that refills with time, and `charge`."""

from __future__ import annotations

import pickle
from decimal import Decimal
from fractions import Fraction

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cascade as cs
from cascade.limits.admission import Admission


def make_ask(starts, seconds=0.0):
    @cs.task
    async def ask(tokens):
        starts.append(anyio.current_time())
        await anyio.sleep(seconds)

    return lambda tokens: ask(tokens).with_constraints(tokens=tokens)


def test_starts_take_their_weights_and_time_brings_them_back(run):
    """At most rate * w + burst in any window; a start that ends gives nothing back."""
    starts = []
    ask = make_ask(starts, seconds=100)
    run([ask(n) for n in (60, 40, 30, 90, 10)], system_resources={"tokens": cs.Rate("60/m", 100)})
    assert starts == [0, 0, 30, 120, 130]


def test_more_than_the_burst_is_an_error(run):
    """It could never start; the message names both."""
    with pytest.raises(ValueError, match=r"'ask' asks for 11 of 'tokens'.* burst of 10"):
        run(make_ask([])(11), system_resources={"tokens": cs.Rate(1, burst=10)})


def test_a_charge_delays_what_comes_next_and_may_be_given_back(inside, use_vm):
    """A call says afterwards what it cost; the next waits until that has come back too."""

    async def program():
        engine = cs.Engine(system_resources={"tokens": cs.Rate(1, burst=10)})
        charge = engine.constraints.charge
        starts = []

        @cs.task
        async def ask(more):
            starts.append(anyio.current_time())
            charge("tokens", more)

        target = cs.sequence([ask(n).with_constraints(tokens=5) for n in (15, -2, 0)])
        await engine.run(target, use_vm=use_vm)
        assert engine.constraints.statistics().free["tokens"] == 0
        charge("tokens", -100)
        assert engine.constraints.statistics().free["tokens"] == 10, "its burst at most"
        charge("tokens", Decimal("30.5"))
        assert engine.constraints.statistics().free["tokens"] == Fraction(-41, 2)
        return starts

    assert inside(program) == [0, 15, 18]


def test_what_is_given_back_wakes_those_it_admits(inside, use_vm):
    """Nobody waits for a time that has become an earlier one."""

    async def program():
        engine = cs.Engine(system_resources={"tokens": cs.Rate("1/h", burst=10)})
        starts = []
        async with anyio.create_task_group() as group:
            target = [make_ask(starts)(8), make_ask(starts)(8)]
            group.start_soon(lambda: engine.run(target, use_vm=use_vm))
            await anyio.sleep(7)
            engine.constraints.charge("tokens", -6)
        return starts

    assert inside(program) == [0, 7]


@pytest.mark.parametrize(
    ("name", "amount", "message"),
    [
        ("token", 1, "did you mean 'tokens'"),
        ("gpu", 1, "given back when a task ends"),
        ("tokens", "many", "finite number"),
        ("tokens", float("nan"), "finite number"),
        ("tokens", True, "finite number"),
    ],
)
def test_what_cannot_be_charged(name, amount, message):
    """It is a ValueError and changes nothing."""
    engine = cs.Engine(system_resources={"tokens": cs.Rate(1, burst=10), "gpu": 1})
    with pytest.raises(ValueError, match=message):
        engine.constraints.charge(name, amount)
    assert dict(engine.constraints.statistics().free) == {"tokens": 10, "gpu": 1}


def test_a_large_one_is_not_starved_and_holds_up_only_those_who_want_tokens(inside, use_vm):
    """First come, first served among those who want the same capacity."""

    async def program():
        engine = cs.Engine(system_resources={"tokens": cs.Rate(1, burst=10), "gpu": 1})
        times = {}

        def work(name, **amounts):
            @cs.task(name=name)
            async def work():
                times[name] = anyio.current_time()

            return work().with_constraints(**amounts)

        target = [
            work("first", tokens=9),
            work("large", tokens=10, gpu=1),
            work("small", tokens=1),
            work("other", gpu=1),
        ]
        await engine.run(target, use_vm=use_vm)
        return times

    assert inside(program) == {"first": 0, "large": 9, "small": 10, "other": 0}


def test_another_event_loop_starts_full():
    """What the clock of the last loop said means nothing on the next one's."""
    from cascade.testing import virtual_time

    engine = cs.Engine(system_resources={"tokens": cs.Rate("1/h", burst=10)})
    starts = []
    for backend in ("asyncio", "trio"):
        anyio.run(
            engine.run,
            make_ask(starts)(10),
            backend=backend,
            backend_options=virtual_time(backend),
        )
    assert starts == [0, 0]


def test_a_rate_is_checked_when_it_is_written():
    """As the rates of `limit_rate` are; equal ones are equal, and they may be copied."""
    for rate, burst in [(0, 1), ("10/d", 1), ("x/s", 1), (float("inf"), 1), (1, 0), (1, "ten")]:
        with pytest.raises(ValueError, match=r"rate|burst"):
            cs.Rate(rate, burst)
    rate = cs.Rate("90000/m", burst=10_000)
    assert pickle.loads(pickle.dumps(rate)) == rate == cs.Rate("90000/m", 10_000)
    assert rate.per_second == 1500
    assert str(rate) == "90000/m, burst 10000"


def test_requests_and_tokens_a_minute_hold_together(run):
    """Two capacities that refill, as the APIs of language models have them."""
    starts = []

    @cs.task
    async def ask(tokens):
        starts.append((anyio.current_time(), tokens))

    sizes = [400, 300, 900, 100, 100, 100]
    run(
        [ask(n).with_constraints(requests=1, tokens=n) for n in sizes],
        system_resources={
            "requests": cs.Rate("60/m", burst=2),
            "tokens": cs.Rate("6000/m", burst=1000),
        },
    )
    assert [tokens for _, tokens in starts] == sizes
    assert [time for time, _ in starts] == [0, 0, 6, 7, 8, 9]


weights = st.sampled_from([1, 2, 5, Fraction(1, 3), 0.7])


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("ask"), weights),
            st.tuples(st.just("charge"), st.sampled_from([1, 4, 0.5, 12])),
            st.tuples(st.just("give"), st.sampled_from([0.25, 1, 3])),
            st.tuples(st.just("wait"), st.sampled_from([0.1, 0.5, 2, 7])),
            st.tuples(st.just("start"), st.just(0)),
        ),
        max_size=60,
    )
)
@settings(deadline=None, max_examples=150, derandomize=True)
def test_the_window_law_holds_exactly(ops):
    """In any window of w seconds starts cost at most rate * w + burst, whatever is charged.

    Charges count as starts do, except that nobody has to wait before one: a window that ends with
    a start is bounded; what was given back counts against it where it was given.
    """
    rate, burst = Fraction(3, 2), 5
    state = Admission({"t": cs.Rate(Fraction(3, 2), burst)})
    now, granted, spent = 0.0, [], []

    def start(ticket):
        assert state.start(ticket, now) in (True, False)
        if not ticket.parked:
            spent.append((Fraction(now), ticket.weights[0][1], True))

    for op, number in ops:
        if op == "ask":
            state.advance(now)
            ticket = state.ask("a", {"t": number}, now)
            if not ticket.parked:
                start(ticket)
        elif op in ("charge", "give"):
            amount = Fraction(str(number)) * (1 if op == "charge" else -1)
            state.charge("t", amount, now)
            spent.append((Fraction(now), amount, False))
        elif op == "wait":
            now += number
            state.advance(now)
        granted += state.granted
        state.granted = []
        if op == "start" or op == "wait":
            while granted:
                start(granted.pop(0))
                granted += state.granted
                state.granted = []
    for end, (last, _, is_start) in enumerate(spent):
        if not is_start:
            continue
        total = Fraction(0)
        for time, amount, _ in reversed(spent[: end + 1]):
            total += amount
            if amount > 0:
                assert total <= rate * (last - time) + burst
