"""Where the time of a run went: for each task, and for each thing that was waited for."""

from __future__ import annotations

from dataclasses import dataclass, field

from cascade.reports.attribution import general_id
from cascade.reports.history import PARKED, RETRYING, RUNNING, Execution, RunRecord, Span


@dataclass(slots=True)
class Account:
    """The executions that have one general id: counts, and sums of seconds.

    `inputs` is the time spent waiting for inputs, `parked` at the gate, `retrying` between
    attempts, `running` in attempts. What runs at the same time adds up.
    """

    name: str
    executions: list[Execution] = field(default_factory=list)
    attempts: int = 0
    failures: int = 0
    recoveries: int = 0
    skips: int = 0
    inputs: float = 0.0
    parked: float = 0.0
    retrying: float = 0.0
    running: float = 0.0

    @property
    def busy(self) -> float:
        """All but the waiting for inputs, in which the task takes part in nothing."""
        return self.parked + self.retrying + self.running

    def add(self, execution: Execution) -> None:
        """Count one more execution."""
        self.executions.append(execution)
        self.attempts += execution.attempts
        self.failures += sum(span.status == "Failed" for span in execution.spans)
        self.recoveries += execution.status == "Recovered"
        self.inputs += execution.start - execution.waited_since
        self.parked += execution.total(PARKED)
        self.retrying += execution.total(RETRYING)
        self.running += execution.total(RUNNING)


@dataclass(slots=True)
class Wait:
    """One thing that held tasks up: how often, how long in all, and the longest wait for it."""

    reason: str
    count: int = 0
    total: float = 0.0
    longest: float = -1.0
    who: str = ""


def accounts_of(run: RunRecord) -> list[Account]:
    """An account for each general id, the busiest first."""
    found: dict[str, Account] = {}
    for execution in run.executions:
        name = general_id(execution.task_id)
        found.setdefault(name, Account(name)).add(execution)
    for skip in run.skips:
        name = general_id(skip.task_id)
        found.setdefault(name, Account(name)).skips += 1
    return sorted(found.values(), key=lambda account: -account.busy)


def total_of(accounts: list[Account], name: str) -> Account:
    """The sum of some accounts."""
    total = Account(name)
    for each in accounts:
        total.executions += each.executions
        total.attempts += each.attempts
        total.failures += each.failures
        total.recoveries += each.recoveries
        total.skips += each.skips
        total.inputs += each.inputs
        total.parked += each.parked
        total.retrying += each.retrying
        total.running += each.running
    return total


def _retry_reason(span: Span) -> str:
    """A retry delay by the type of the error: messages differ from one error to the next."""
    return f"retry delay {span.about.partition(':')[0]}"


def waits_of(run: RunRecord) -> list[Wait]:
    """What was waited for at the gate and between attempts, the longest in sum first."""
    found: dict[str, Wait] = {}
    for execution in run.executions:
        for span in execution.spans:
            if span.kind == RUNNING:
                continue
            reason = span.about if span.kind == PARKED else _retry_reason(span)
            wait = found.setdefault(reason, Wait(reason))
            wait.count += 1
            wait.total += span.duration
            if span.duration > wait.longest:
                wait.longest, wait.who = span.duration, execution.task_id
    return sorted(found.values(), key=lambda wait: -wait.total)
