"""Traces: the spans of a run, their parents, what they tell, and that none is left open."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

import cascade as cs
from cascade.telemetry import MOST_ENDED, _RunTrace, trace_runs


@dataclass
class Traced:
    """A bus that is traced, and the spans that have ended."""

    bus: cs.MessageBus
    provider: TracerProvider
    exporter: InMemorySpanExporter
    end: Callable[[], None]

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        [span] = self.named(name)
        return span

    def tree(self) -> list[str]:
        """Each span as the names from the outermost down to it, sorted."""
        by_id = {span.context.span_id: span for span in self.spans}

        def path(span: ReadableSpan) -> str:
            names = [span.name]
            while span.parent is not None:
                span = by_id[span.parent.span_id]
                names.append(span.name)
            return " > ".join(reversed(names))

        return sorted(path(span) for span in self.spans)


class CountingProcessor(SimpleSpanProcessor):
    """Counts the spans that are open."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        super().__init__(exporter)
        self.open = 0

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.open += 1

    def on_end(self, span: ReadableSpan) -> None:
        self.open -= 1
        super().on_end(span)


@pytest.fixture
def traced() -> Iterator[Traced]:
    exporter = InMemorySpanExporter()
    processor = CountingProcessor(exporter)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    bus = cs.MessageBus()
    yield Traced(bus, provider, exporter, trace_runs(bus, provider))
    assert bus.failures == 0
    assert processor.open == 0, "every span is ended"
    provider.shutdown()


def told(span: ReadableSpan) -> list[tuple[str, Any]]:
    """The events of a span, by name, each with its only telling attribute, the last."""
    return [(event.name, list((event.attributes or {}).values())[-1]) for event in span.events]


@cs.task
async def work(name: str = "", seconds: float = 1.0) -> str:
    await anyio.sleep(seconds)
    return name


@cs.task
def join(parts: list[str]) -> str:
    return "".join(parts)


def flaky(failures: int) -> cs.Task[[], str]:
    left = [failures]

    @cs.task
    async def unsure() -> str:
        await anyio.sleep(1)
        if left[0]:
            left[0] -= 1
            raise ConnectionError("reset")
        return "ok"

    return unsure


def test_a_span_for_each_run_task_and_attempt(run, traced):
    """An attempt is inside its task, a task inside its run, whatever runs at the same time."""
    run(join([work("a"), work("b")]), bus=traced.bus)
    assert traced.tree() == [
        "run join",
        "run join > join",
        "run join > join > join attempt 1",
        "run join > work",
        "run join > work",
        "run join > work > work attempt 1",
        "run join > work > work attempt 1",
    ]
    assert len({span.context.trace_id for span in traced.spans}) == 1


def test_spans_tell_what_they_are_about(run, traced):
    """Ids, names, statuses and the number of attempts are attributes."""
    run(join([]), bus=traced.bus)
    of_run = traced.one("run join").attributes
    assert of_run["cascade.run.target"] == "join"
    assert of_run["cascade.run.status"] == "Succeeded"
    run_id = of_run["cascade.run.id"]
    assert dict(traced.one("join").attributes) == {
        "cascade.run.id": run_id,
        "cascade.task.id": "join#0",
        "cascade.task.name": "join",
        "cascade.task.status": "Succeeded",
        "cascade.task.attempts": 1,
    }
    assert dict(traced.one("join attempt 1").attributes) == {
        "cascade.run.id": run_id,
        "cascade.task.id": "join#0",
        "cascade.task.name": "join",
        "cascade.attempt.number": 1,
        "cascade.attempt.status": "Succeeded",
    }


def test_a_retry_is_another_attempt_of_the_same_task(run, traced):
    """Each failed attempt records its error, the task tells the delay, and ends well."""
    run(flaky(2)().with_retry(3, delay=0.5, backoff=2), bus=traced.bus)
    assert traced.tree() == [
        "run unsure",
        "run unsure > unsure",
        "run unsure > unsure > unsure attempt 1",
        "run unsure > unsure > unsure attempt 2",
        "run unsure > unsure > unsure attempt 3",
    ]
    task = traced.one("unsure")
    assert told(task) == [("retrying", 0.5), ("retrying", 1.0)]
    assert task.status.status_code is StatusCode.UNSET
    assert task.attributes["cascade.task.attempts"] == 3
    for number in (1, 2):
        attempt = traced.one(f"unsure attempt {number}")
        assert attempt.status.status_code is StatusCode.ERROR
        assert attempt.status.description == "ConnectionError: reset"
        assert [event.name for event in attempt.events] == ["exception"]
    assert traced.one("unsure attempt 3").status.status_code is StatusCode.UNSET


def test_a_failure_is_recorded_all_the_way_up(run, traced):
    """Attempt, task and run of a failure are errors; its siblings are cancelled."""
    with pytest.raises(ConnectionError):
        run([flaky(1)(), work("slow", 10), work("late").after(work("slow", 20))], bus=traced.bus)
    for name in ("unsure attempt 1", "unsure", "run list"):
        assert traced.one(name).status.status_code is StatusCode.ERROR, name
    assert traced.one("unsure").attributes["cascade.task.status"] == "Failed"
    assert traced.one("run list").attributes["cascade.run.status"] == "Failed"
    assert [event.name for event in traced.one("run list").events] == ["exception"]
    siblings = traced.named("work") + traced.named("work attempt 1")
    assert len(siblings) == 4
    for span in siblings:
        assert span.status.status_code is StatusCode.UNSET
        assert "Cancelled" in span.attributes.values()
    attempt, task = traced.one("unsure attempt 1"), traced.one("unsure")
    assert task.end_time == attempt.end_time


def test_a_failure_that_is_answered_is_one_of_its_attempts_only(run, traced):
    """The task says that it recovered, and neither it nor the run is an error."""
    nodes = [flaky(2)().with_retry(2, delay=1).with_fallback(work("b")), flaky(1)().settled()]
    run(nodes, bus=traced.bus)
    tasks = traced.named("unsure")
    assert [span.name for span in traced.spans if span.status.status_code is StatusCode.ERROR] == [
        "unsure attempt 1",
        "unsure attempt 1",
        "unsure attempt 2",
    ]
    assert [told(span)[-1] for span in tasks] == [("recovered", "reset")] * 2
    assert [span.attributes["cascade.task.status"] for span in tasks] == ["Recovered"] * 2
    assert traced.one("run list").attributes["cascade.run.status"] == "Succeeded"


def test_a_loop_that_is_answered_is_told_by_the_run(run, traced):
    """Reaching max_steps is no attempt's failure, so no task has a span for it."""

    @cs.task
    def forever(n: int = 0) -> Any:
        return cs.TailCall((n + 1,))

    assert run(forever().with_fallback(3), bus=traced.bus, max_steps=3) == 3
    [event] = traced.one("run forever").events
    assert event.name == "recovered"
    assert event.attributes["cascade.task.id"] == "forever#0"
    assert {span.status.status_code for span in traced.spans} == {StatusCode.UNSET}


def test_an_error_that_cannot_tell_itself_is_recorded(run, traced):
    """Spans end with status ERROR, and name the type, if the `__str__` of the error raises."""

    class Untold(Exception):
        def __str__(self):
            raise RuntimeError("no message")

    @cs.task
    def untold():
        raise Untold

    with pytest.raises(Untold):
        run(untold().with_retry(2), bus=traced.bus)
    assert traced.bus.failures == 0
    for name in ("untold attempt 1", "untold attempt 2", "untold", "run untold"):
        span = traced.one(name)
        assert span.status.status_code is StatusCode.ERROR
        assert "Untold: <no message" in span.status.description
    [told] = traced.one("run untold").events
    assert told.attributes["exception.type"].endswith("Untold")


def test_a_cancelled_run_ends_all_its_spans(inside, use_vm, traced):
    """Cancelled from outside, a run and its attempts are told to be cancelled; no error."""

    async def main():
        engine = cs.Engine(bus=traced.bus, system_resources={"slot": 1})
        waiting = [work(name, 10).with_constraints(slot=1) for name in "ab"]
        with anyio.move_on_after(2):
            await engine.run([*waiting, work("c", 10)], use_vm=use_vm)

    inside(main)
    assert traced.one("run list").attributes["cascade.run.status"] == "Cancelled"
    assert len(traced.named("work")) == 3
    assert len(traced.named("work attempt 1")) == 2
    for span in traced.spans:
        assert span.status.status_code is StatusCode.UNSET
        assert "Cancelled" in span.attributes.values()


def test_waiting_is_part_of_the_task_and_not_of_the_attempt(run, traced):
    """A parked task has a span from then on, which names what blocked it."""
    bus = traced.bus
    run(
        [work("a").with_constraints(slot=1), work("b").with_constraints(slot=1)],
        bus=bus,
        system_resources={"slot": 1},
    )
    [first, second] = sorted(traced.named("work"), key=lambda s: s.attributes["cascade.task.id"])
    assert told(first) == []
    [(name, reason)] = told(second)
    assert name == "blocked"
    assert "slot" in reason


def test_skipped_tasks_are_events_of_the_run(run, traced):
    """A task that does not run has no span; the run tells its name and why."""
    run([work("a").run_if(False, default=0), join([])], bus=traced.bus)
    assert traced.named("work") == []
    [event] = traced.one("run list").events
    assert event.name == "task skipped"
    assert dict(event.attributes) == {
        "cascade.task.id": "work#0",
        "cascade.task.name": "work",
        "cascade.task.skip_reason": "ConditionFalse",
    }


def test_map_items_are_tasks_of_their_own(run, traced):
    """Each item has a span with its own id; all are inside the run, for a map runs nothing."""
    run(work.map(name=["a", "b", "c"]), bus=traced.bus)
    ids = {span.attributes["cascade.task.id"] for span in traced.named("work")}
    assert ids == {f"work#0[{i}]/work#0" for i in range(3)}
    assert traced.tree().count("run work > work > work attempt 1") == 3


def test_what_a_task_returns_is_inside_of_it(run, traced):
    """The tasks of a returned expression have the task that returned it as parent."""

    @cs.task
    def start() -> Any:
        return join([work("a"), work("b")])

    run([start()], bus=traced.bus)
    assert traced.tree() == [
        "run list",
        "run list > start",
        "run list > start > join",
        "run list > start > join > join attempt 1",
        "run list > start > start attempt 1",
        "run list > start > work",
        "run list > start > work",
        "run list > start > work > work attempt 1",
        "run list > start > work > work attempt 1",
    ]


def test_what_map_items_return_is_inside_of_each(run, traced):
    """Items at work at the same time do not take each other's tasks."""

    @cs.task
    def start(name: str) -> Any:
        return work(name)

    run(start.map(name=["a", "b"]), bus=traced.bus)
    by_id = {span.context.span_id: span for span in traced.spans}
    for span in traced.named("work"):
        parent = by_id[span.parent.span_id].attributes["cascade.task.id"]
        assert span.attributes["cascade.task.id"].startswith(f"{parent}/")


def test_each_iteration_of_a_loop_has_spans_of_its_own(run, traced):
    """A task has one span for each iteration, all under the same id."""

    @cs.task
    def step(n: int) -> Any:
        return cs.Jump("again", n + 1) if n < 3 else n

    node = step(0)
    run(cs.bind(node, cs.select_jump({"again": node})), bus=traced.bus)
    spans = traced.named("step")
    assert len(spans) == len(traced.named("step attempt 1")) == 4
    assert {span.attributes["cascade.task.id"] for span in spans} == {"step#0/step#0"}


def test_a_long_loop_keeps_nothing(run, traced):
    """What is kept of spans that have ended is bounded, in loops and in large maps."""
    trace = []
    traced.bus.subscribe(cs.RunStarted, lambda event: trace.append(run_trace()))

    @cs.task
    def step(n: int) -> Any:
        return cs.TailCall((n - 1,)) if n else 0

    @cs.task
    def same(n: int) -> int:
        return n

    kept = []
    traced.bus.subscribe(
        cs.TaskExecutionFinished, lambda _: kept.append(len(trace[0]._ended) + len(trace[0]._open))
    )
    run([step(500), same.map(n=range(2 * MOST_ENDED))], bus=traced.bus)
    assert len(traced.named("step")) == 501
    assert max(kept) <= MOST_ENDED + 1


def run_trace() -> Any:
    """What the tracing keeps of the only run in progress."""
    gc.collect()
    [only] = [each for each in gc.get_objects() if isinstance(each, _RunTrace)]
    return only


def test_concurrent_runs_have_traces_of_their_own(inside, use_vm, traced):
    """Runs of one engine do not mix, though their tasks have the same ids."""

    async def main():
        engine = cs.Engine(bus=traced.bus)

        async def one(failures):
            with anyio.move_on_after(5):
                with suppress(ConnectionError):
                    await engine.run([flaky(failures)(), work("x", 2)], use_vm=use_vm)

        async with anyio.create_task_group() as group:
            for failures in (0, 1, 0):
                group.start_soon(one, failures)

    inside(main)
    roots = traced.named("run list")
    assert len(roots) == 3
    statuses = sorted(root.attributes["cascade.run.status"] for root in roots)
    assert statuses == ["Failed", "Succeeded", "Succeeded"]
    for root in roots:
        mine = [s for s in traced.spans if s.context.trace_id == root.context.trace_id]
        assert {s.attributes["cascade.run.id"] for s in mine} == {root.attributes["cascade.run.id"]}
        assert sorted(s.name for s in mine) == [
            "run list",
            "unsure",
            "unsure attempt 1",
            "work",
            "work attempt 1",
        ]


def test_the_run_is_inside_the_span_of_its_caller(inside, use_vm, traced):
    """The parent of a run is the span that is current where it is started."""

    async def main():
        tracer = traced.provider.get_tracer("test")
        with tracer.start_as_current_span("request"):
            await cs.run_async(join([work("a")]), bus=traced.bus, use_vm=use_vm)

    inside(main)
    assert "request > run join > work > work attempt 1" in traced.tree()


def test_resources_are_events_of_the_run(run, traced):
    """Set-up and tear-down are told by the run."""

    @cs.resource
    def database():
        yield {}

    @cs.task
    def query(database: Any = cs.inject("database")) -> int:
        return 1

    run(query(), bus=traced.bus, resources=[database])
    assert told(traced.one("run query")) == [
        ("resource acquired", "database"),
        ("resource released", "database"),
    ]


def test_threads_and_awaitables_are_traced_like_any_task(run, traced):
    """A span does not depend on where its task is carried out."""

    @cs.task(mode="thread")
    def in_thread() -> int:
        return 1

    @cs.task
    def awaited() -> Any:
        return anyio.sleep(1)

    run([in_thread(), awaited(), work("a")], bus=traced.bus)
    for name in ("in_thread", "awaited", "work"):
        assert f"run list > {name} > {name} attempt 1" in traced.tree()


def test_a_stall_is_an_event_of_the_attempt(traced):
    """A task that held the loop says so in the span of its attempt."""
    bus = traced.bus
    bus.publish(cs.RunStarted("r", 0.0, "f", {}))
    bus.publish(cs.TaskExecutionStarted("r", 0.0, "f#0", "f", 1))
    bus.publish(cs.TaskStalled("r", 0.3, "f#0", "f", 0.3))
    bus.publish(cs.TaskExecutionFinished("r", 0.3, "f#0", "f", "Succeeded", 0.3, None))
    bus.publish(cs.RunFinished("r", 0.3, "Succeeded", 0.3, None))
    assert told(traced.one("f attempt 1")) == [("stalled", 0.3)]


def test_ending_the_tracing_ends_what_is_open(inside, use_vm, traced):
    """Ended in the middle of a run, no span stays open, and nothing more is traced."""

    async def main():
        async with anyio.create_task_group() as group:
            engine = cs.Engine(bus=traced.bus)
            group.start_soon(lambda: engine.run([work("a", 2), work("b")], use_vm=use_vm))
            await anyio.sleep(1.5)
            traced.end()

    inside(main)
    assert "cascade.run.status" not in traced.one("run list").attributes
    assert len(traced.named("work")) == 2
    assert not traced.bus.hears_tasks


def test_a_run_already_in_progress_is_not_traced(inside, use_vm, traced):
    """Tracing begins with the start of a run."""

    async def main():
        bus = cs.MessageBus()
        async with anyio.create_task_group() as group:
            engine = cs.Engine(bus=bus)
            group.start_soon(lambda: engine.run([work("a", 2)], use_vm=use_vm))
            await anyio.sleep(1)
            trace_runs(bus, traced.provider)
        assert bus.failures == 0

    inside(main)
    assert traced.spans == []


def test_without_opentelemetry_the_error_says_what_to_install():
    """The import fails with the remedy; `import cascade` does not need it."""
    program = """
import sys
sys.modules["opentelemetry"] = None
import cascade
try:
    import cascade.telemetry
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True
    )
    assert "pip install 'cascade-vm[telemetry]'" in done.stdout
