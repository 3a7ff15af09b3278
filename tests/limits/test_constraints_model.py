"""Section 10 as a plain list model, and the admission state held against it at every step.

`CASCADE_LONG=1` runs the long profile: more than 200,000 operations of the state machine.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cascade.amounts import Rate
from cascade.limits.admission import DONE, GRANTED, PARKED, STARTED, Admission, Ticket
from cascade.limits.constraints import GlobalConstraint, checked, parse_rate

LONG = bool(os.environ.get("CASCADE_LONG"))

CAPACITY = {"gpu": 3, "mem": 1.0, "tokens": Rate(2, burst=3), "text": Rate("30/m", burst=2.5)}
NAMES = ["a1", "a2", "b1", "c"]
SCOPES = ["global", "task:a*", "task:a1", "task:b1", "task:*1"]
AMOUNTS: list[Mapping[str, Any]] = [
    {},
    {},
    {"gpu": 1},
    {"gpu": 3},
    {"mem": 0.1},
    {"mem": 0.7},
    {"gpu": 2, "mem": 0.3},
    {"other": 5},
    {"tokens": 1},
    {"tokens": 3},
    {"tokens": 2, "gpu": 1},
    {"text": 0.3},
    {"text": 2.5, "tokens": 1},
]
RATES = [0.5, 1, 3, "120/m"]


# The model: everything is looked through, every time.


@dataclass
class Request:
    number: int
    name: str
    amounts: dict[str, Fraction]
    state: int = PARKED
    holds: list[Any] = field(default_factory=list)
    tokens: list[Any] = field(default_factory=list)


@dataclass(eq=False)
class Constraint:
    definition: GlobalConstraint
    expires_at: float
    running: int = 0
    level: Fraction = Fraction(0)
    pending: int = 0
    last: Fraction = Fraction(0)

    def matches(self, name: str) -> bool:
        scope = self.definition.scope
        return scope == "global" or fnmatchcase(name, scope.removeprefix("task:"))

    @property
    def rate(self) -> Fraction:
        return parse_rate(self.definition.params["rate"])

    @property
    def burst(self) -> int:
        return int(self.definition.params["burst"])

    def refill(self, now: float) -> None:
        moment = Fraction(now)
        self.level = min(Fraction(self.burst), self.level + (moment - self.last) * self.rate)
        self.last = moment

    def has_token(self, now: float) -> bool:
        self.refill(now)
        return self.level - self.pending >= 1


@dataclass(eq=False)
class Bucket:
    """A capacity that refills: its level, what is reserved of it, and when that was so."""

    rate: Fraction
    burst: Fraction
    level: Fraction
    pending: Fraction = Fraction(0)
    last: Fraction = Fraction(0)

    def free(self, now: float) -> Fraction:
        moment = Fraction(now)
        self.level = min(self.burst, self.level + (moment - self.last) * self.rate)
        self.last = moment
        return self.level - self.pending


class Model:
    def __init__(self) -> None:
        self.free = {
            name: Fraction(str(value))
            for name, value in CAPACITY.items()
            if not isinstance(value, Rate)
        }
        self.buckets = {
            name: Bucket(value.per_second, Fraction(value.most), Fraction(value.most))
            for name, value in CAPACITY.items()
            if isinstance(value, Rate)
        }
        self.constraints: list[Constraint] = []
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.granted: list[int] = []
        self.unstarted: list[Request] = []  # that had to wait for their grants

    def of(self, request: Request, kind: str) -> list[Constraint]:
        return [
            each
            for each in self.constraints
            if each.definition.type == kind and each.matches(request.name)
        ]

    def denied(self, request: Request, now: float) -> bool:
        rates = self.of(request, "rate_limit")
        return bool(self.of(request, "pause")) or not all(each.has_token(now) for each in rates)

    def wanted(self, request: Request) -> set[Any]:
        things = {name for name in request.amounts if name in self.free}
        return {*things, *self.of(request, "concurrency")}

    def dry(self, request: Request, now: float) -> set[str]:
        """The buckets that have too little for it."""
        return {
            name
            for name, amount in request.amounts.items()
            if name in self.buckets and self.buckets[name].free(now) < amount
        }

    def has_room(self, request: Request) -> bool:
        limits = self.of(request, "concurrency")
        return all(each.running < each.definition.params["limit"] for each in limits) and all(
            self.free[name] >= amount
            for name, amount in request.amounts.items()
            if name in self.free
        )

    def first_admissible(self, now: float) -> Request | None:
        claimed: set[Any] = set()
        shut: set[str] = set()
        kinds = set()
        for request in self.waiting:
            kind = (request.name, frozenset(request.amounts))
            if kind in kinds:  # it waits for the one before, and holds up nobody itself
                continue
            kinds.add(kind)
            if self.denied(request, now):
                continue
            if dry := self.dry(request, now) | (shut & request.amounts.keys()):
                shut |= dry
                continue
            wanted = self.wanted(request)
            if not wanted & claimed and self.has_room(request):
                return request
            claimed |= wanted
        return None

    def settle(self, now: float) -> None:
        while (request := self.first_admissible(now)) is not None:
            self.waiting.remove(request)
            self.take(request)
            self.granted.append(request.number)
            self.unstarted.append(request)

    def take(self, request: Request) -> None:
        self.running.append(request)
        request.state = GRANTED
        request.holds = self.of(request, "concurrency")
        request.tokens = self.of(request, "rate_limit")
        for limit in request.holds:
            limit.running += 1
        for rate in request.tokens:
            rate.pending += 1
        for name, amount in request.amounts.items():
            if name in self.free:
                self.free[name] -= amount
            else:
                self.buckets[name].pending += amount

    def cancel(self, request: Request, now: float) -> None:
        """Put back the tokens that were reserved for it."""
        for rate in request.tokens:
            rate.refill(now)
            rate.pending -= 1
        for name, amount in request.amounts.items():
            if name in self.buckets:
                self.buckets[name].pending -= amount

    def look_again(self, now: float) -> None:
        """What was granted after a wait, and has not started, must be admitted as things are."""
        unstarted = [each for each in self.unstarted if each.state == GRANTED]
        self.unstarted = []
        for request in unstarted:
            self.cancel(request, now)
            self.release(request)
        for request in unstarted:
            if (
                not self.denied(request, now)
                and not self.dry(request, now)
                and self.has_room(request)
            ):
                self.take(request)
                self.unstarted.append(request)
            else:
                request.state = PARKED
                self.waiting.append(request)
                if request.number in self.granted:
                    self.granted.remove(request.number)
        self.waiting.sort(key=lambda each: each.number)

    def expire(self, now: float) -> None:
        before = len(self.constraints)
        self.constraints = [each for each in self.constraints if each.expires_at > now]
        if len(self.constraints) < before:
            self.look_again(now)

    def charge(self, name: str, amount: Fraction, now: float) -> None:
        self.expire(now)
        bucket = self.buckets[name]
        bucket.free(now)
        bucket.level = min(bucket.burst, bucket.level - amount)
        if any(name in each.amounts for each in self.unstarted if each.state == GRANTED):
            self.look_again(now)
        self.advance(now)

    def advance(self, now: float) -> None:
        self.expire(now)
        self.settle(now)

    def ask(self, request: Request, now: float) -> None:
        self.advance(now)
        self.waiting.append(request)
        self.settle(now)
        if request in self.unstarted:  # it did not wait
            self.unstarted.remove(request)

    def start(self, request: Request, now: float) -> None:
        if request.state == GRANTED:
            request.state = STARTED
            for rate in request.tokens:
                rate.refill(now)
                rate.pending -= 1
                rate.level -= 1
            for name, amount in request.amounts.items():
                if name in self.buckets:
                    bucket = self.buckets[name]
                    bucket.free(now)
                    bucket.pending -= amount
                    bucket.level -= amount
        self.advance(now)

    def release(self, request: Request) -> None:
        request.state = DONE
        self.running.remove(request)
        for limit in request.holds:
            limit.running -= 1
        for name, amount in request.amounts.items():
            if name in self.free:
                self.free[name] += amount

    def give_back(self, request: Request, now: float) -> None:
        if request.state == GRANTED:
            self.start(request, now)
        if request.state == STARTED:
            self.release(request)
        self.advance(now)

    def withdraw(self, request: Request, now: float) -> None:
        if request.state == PARKED:
            request.state = DONE
            self.waiting.remove(request)
        elif request.state == GRANTED:
            self.cancel(request, now)
            self.release(request)
        self.advance(now)

    def set(self, definition: GlobalConstraint, now: float) -> None:
        self.expire(now)
        same = [each for each in self.constraints if each.definition.id == definition.id]
        position = self.constraints.index(same[0]) if same else len(self.constraints)
        if same and same[0].definition.type != definition.type:
            del self.constraints[position]
            same = []
        expires_at = float("inf") if definition.ttl is None else now + definition.ttl
        if same:
            old = same[0]
            if definition.type == "rate_limit":
                old.refill(now)
                taken = old.burst - old.level
                old.definition = definition
                old.level = old.burst - min(taken, Fraction(old.burst))
            old.definition, old.expires_at = definition, expires_at
        else:
            new = Constraint(definition, expires_at, last=Fraction(now))
            new.level = Fraction(definition.params.get("burst", 0))
            self.constraints.insert(position, new)
        self.look_again(now)
        self.advance(now)

    def remove(self, id: str, now: float) -> bool:
        self.expire(now)
        before = len(self.constraints)
        self.constraints = [each for each in self.constraints if each.definition.id != id]
        found = len(self.constraints) < before
        if found:
            self.look_again(now)
        self.advance(now)
        return found


class Pair:
    """The model and the real state, given the same operations."""

    def __init__(self) -> None:
        self.now = 0.0
        self.model = Model()
        self.real = Admission(CAPACITY)
        self.requests: dict[int, tuple[Request, Ticket]] = {}
        self.numbers: dict[Ticket, int] = {}
        self.count = 0

    def request(self, name: str, amounts: Mapping[str, Any]) -> Request:
        self.count += 1
        limited = {key: Fraction(str(value)) for key, value in amounts.items() if key in CAPACITY}
        request = Request(self.count, name, limited)
        self.model.advance(self.now)
        self.real.advance(self.now)
        self.compare()
        self.model.ask(request, self.now)
        return request

    def is_free(self, request: Request) -> bool:
        """Whether nothing limits it, so that the real state has forgotten it already."""
        matched = any(each.matches(request.name) for each in self.model.constraints)
        if request.amounts or matched:
            return False
        assert self.model.granted == [request.number]
        self.model.granted.clear()
        self.model.running.remove(request)
        self.compare()
        return True

    def start_now(self, name: str, amounts: Mapping[str, Any]) -> None:
        """Ask and start at once; a request that has to wait is as if it had not been made."""
        request = self.request(name, amounts)
        ticket = self.real.start_now(name, amounts, self.now)
        if self.is_free(request):
            return
        assert (ticket is None) == (request.state == PARKED)
        if ticket is None:
            self.model.withdraw(request, self.now)
        else:
            self.requests[request.number] = (request, ticket)
            self.numbers[ticket] = request.number
            assert self.model.granted[0] == request.number
            del self.model.granted[0]
            self.model.start(request, self.now)
        self.compare()

    def ask(self, name: str, amounts: Mapping[str, Any]) -> None:
        request = self.request(name, amounts)
        ticket = self.real.ask(name, amounts, self.now)
        if self.is_free(request):
            return
        self.requests[request.number] = (request, ticket)
        self.numbers[ticket] = request.number
        if not ticket.parked:
            assert self.model.granted[0] == request.number
            del self.model.granted[0]
        assert (ticket.reason is not None) == ticket.parked
        self.compare()

    def act(self, action: str, number: int) -> None:
        request, ticket = self.requests[number]
        assert request.state == ticket.state
        getattr(self.model, action)(request, self.now)
        getattr(self.real, action)(ticket, self.now)
        self.compare()

    def set(self, definition: GlobalConstraint) -> None:
        ready = checked(definition)
        self.model.set(ready, self.now)
        self.real.set(ready, self.now)
        self.compare()

    def charge(self, name: str, amount: int | float) -> None:
        self.model.charge(name, Fraction(str(amount)), self.now)
        self.real.charge(name, amount, self.now)
        self.compare()

    def remove(self, id: str) -> None:
        assert self.model.remove(id, self.now) == self.real.remove(id, self.now)
        self.compare()

    def advance(self, now: float) -> None:
        self.now = now
        self.model.advance(now)
        self.real.advance(now)
        self.compare()

    def compare(self) -> None:
        granted = [self.numbers[ticket] for ticket in self.real.granted]
        assert granted == self.model.granted
        self.real.granted.clear()
        assert all(ticket.state != DONE for ticket in self.real.revoked)
        self.real.revoked.clear()
        self.model.granted.clear()
        for number, (request, ticket) in list(self.requests.items()):
            assert request.state == ticket.state, (number, request, ticket)
            if request.state == DONE:
                del self.requests[number], self.numbers[ticket]
        assert self.real.parked == len(self.model.waiting)
        buckets = {name: each.free(self.now) for name, each in self.model.buckets.items()}
        free = self.real.free(self.now)
        assert {name: free[name] for name in self.model.free} == self.model.free
        for name, level in buckets.items():
            # Times between ticks of 2**-64 s are rounded up.
            assert abs(free[name] - level) < Fraction(1, 2**50)
        statistics = self.real.constraint_statistics(self.now)
        assert list(statistics) == [each.definition.id for each in self.model.constraints]
        assert self.real.active() == tuple(each.definition for each in self.model.constraints)
        for each in self.model.constraints:
            shown = statistics[each.definition.id]
            waiting = [other for other in self.model.waiting if each.matches(other.name)]
            assert shown.waiting == len(waiting)
            if each.definition.type == "concurrency":
                assert shown.running == each.running

    def check_deadline(self) -> None:
        """Time alone grants nothing before the deadline."""
        deadline = self.real.deadline()
        until = self.now + 1000
        if deadline is not None and deadline != float("inf"):
            assert deadline > self.now
            until = self.now + (deadline - self.now) * (1 - 2**-40)
        alone = deepcopy(self.model)
        alone.advance(until)
        assert alone.granted == []

    def numbers_in(self, *states: int) -> list[int]:
        return [number for number, (request, _) in self.requests.items() if request.state in states]


def definitions() -> st.SearchStrategy[GlobalConstraint]:
    kinds: st.SearchStrategy[tuple[str, dict[str, Any]]] = st.one_of(
        st.just(("pause", {})),
        st.builds(lambda limit: ("concurrency", {"limit": limit}), st.integers(1, 3)),
        st.builds(
            lambda rate, burst: ("rate_limit", {"rate": rate, "burst": burst}),
            st.sampled_from(RATES),
            st.integers(1, 3),
        ),
    )
    return st.builds(
        lambda id, scope, kind, ttl: GlobalConstraint(
            id or f"{kind[0]}:{scope}", scope, kind[0], kind[1], ttl
        ),
        st.sampled_from([None, None, None, "x", "y"]),
        st.sampled_from(SCOPES),
        kinds,
        st.sampled_from([None, None, 0.5, 2.0]),
    )


class AgainstTheModel(RuleBasedStateMachine):
    @initialize(constraints=st.lists(definitions(), max_size=3))
    def begin(self, constraints: list[GlobalConstraint]) -> None:
        self.pair = Pair()
        for each in constraints:
            self.pair.set(each)

    @rule(name=st.sampled_from(NAMES), amounts=st.sampled_from(AMOUNTS), times=st.integers(1, 3))
    def ask(self, name: str, amounts: Mapping[str, Any], times: int) -> None:
        for _ in range(times):
            self.pair.ask(name, amounts)

    @rule(name=st.sampled_from(NAMES), amounts=st.sampled_from(AMOUNTS))
    def start_now(self, name: str, amounts: Mapping[str, Any]) -> None:
        self.pair.start_now(name, amounts)

    def pick(self, data: st.DataObject, *states: int) -> int:
        return data.draw(st.sampled_from(self.pair.numbers_in(*states)))

    @precondition(lambda self: self.pair.numbers_in(GRANTED))
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        self.pair.act("start", self.pick(data, GRANTED))

    @precondition(lambda self: self.pair.numbers_in(GRANTED, STARTED))
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        self.pair.act("give_back", self.pick(data, GRANTED, STARTED))

    @precondition(lambda self: self.pair.numbers_in(PARKED, GRANTED))
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        self.pair.act("withdraw", self.pick(data, PARKED, GRANTED))

    @rule(definition=definitions())
    def set(self, definition: GlobalConstraint) -> None:
        self.pair.set(definition)

    @rule(
        kind=st.sampled_from(["pause", "concurrency", "rate_limit"]), scope=st.sampled_from(SCOPES)
    )
    def remove(self, kind: str, scope: str) -> None:
        self.pair.remove(f"{kind}:{scope}")

    @rule(
        name=st.sampled_from(["tokens", "text"]),
        amount=st.sampled_from([1, 0.5, 4, -0.25, -1, -9]),
    )
    def charge(self, name: str, amount: float) -> None:
        self.pair.charge(name, amount)

    @rule(eighths=st.integers(1, 12))
    def wait(self, eighths: int) -> None:
        self.pair.advance(self.pair.now + eighths / 8)

    @precondition(lambda self: self.pair.real.deadline() not in (None, float("inf")))
    @rule()
    def wait_for_the_deadline(self) -> None:
        deadline = self.pair.real.deadline()
        assert deadline is not None
        self.pair.advance(deadline)

    @invariant()
    def deadline_is_early_enough(self) -> None:
        if hasattr(self, "pair"):
            self.pair.check_deadline()


AgainstTheModel.TestCase.settings = settings(
    max_examples=4500 if LONG else 60,
    stateful_step_count=50,
    deadline=None,
    derandomize=not LONG,
    suppress_health_check=list(HealthCheck),
)
TestAgainstTheModel = pytest.mark.timeout(3600 if LONG else 120)(AgainstTheModel.TestCase)


@pytest.mark.parametrize("seed", range(200 if LONG else 6))
def test_a_random_walk_agrees_with_the_model(seed: int) -> None:
    """After every step the state grants, counts and plans what the list model does."""
    chance = random.Random(seed)
    pair = Pair()
    names = chance.sample(NAMES, chance.randint(1, len(NAMES)))
    scopes = chance.sample(SCOPES, chance.randint(1, len(SCOPES)))
    for _ in range(1000 if LONG else 400):
        doing = chance.random()
        if doing < 0.40:
            way = pair.ask if chance.random() < 0.7 else pair.start_now
            way(chance.choice(names), chance.choice(AMOUNTS))
        elif doing < 0.78:
            action, states = chance.choice(
                [
                    ("start", (GRANTED,)),
                    ("start", (GRANTED,)),
                    ("give_back", (GRANTED, STARTED)),
                    ("give_back", (STARTED,)),
                    ("withdraw", (PARKED, GRANTED)),
                ]
            )
            if numbers := pair.numbers_in(*states):
                pair.act(action, chance.choice(numbers))
        elif doing < 0.84:
            kind = chance.choice(["pause", "concurrency", "rate_limit"])
            scope = chance.choice(scopes)
            choices: dict[str, dict[str, Any]] = {
                "pause": {},
                "concurrency": {"limit": chance.randint(1, 3)},
                "rate_limit": {"rate": chance.choice(RATES), "burst": chance.randint(1, 3)},
            }
            ttl = chance.choice([None, 0.5, 2.0])
            id = chance.choice([f"{kind}:{scope}", f"{kind}:{scope}", "x"])
            pair.set(GlobalConstraint(id, scope, kind, choices[kind], ttl))
        elif doing < 0.86:
            pair.charge(chance.choice(["tokens", "text"]), chance.choice([1, 4, -0.25, -9]))
        elif doing < 0.90:
            if active := pair.real.active():
                pair.remove(chance.choice(active).id)
        elif doing < 0.95:
            pair.advance(pair.now + chance.randint(1, 12) / 8)
        else:
            deadline = pair.real.deadline()
            if deadline is not None and deadline != float("inf"):
                pair.advance(deadline)
        pair.check_deadline()
