"""Log records: Cascade's own, and those that `cs.log_events` makes of events."""

from __future__ import annotations

import logging

import anyio
import pytest

import cascade as cs


@cs.task
async def fetch(page: int, failures: list[int]) -> int:
    await anyio.sleep(1)
    if page in failures:
        failures.remove(page)
        raise ConnectionError("reset")
    return page


@cs.task
def total(pages: list[int], is_good: bool = True) -> int:
    return sum(pages)


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, logger="cascade")
    return caplog


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Levels and messages, the id of the run replaced."""
    found = []
    for record in caplog.records:
        assert record.name == "cascade"
        run_id = getattr(record, "run_id", "no run")
        found.append((record.levelname, record.getMessage().replace(run_id, "R")))
    return found


def test_every_event_becomes_one_record(run, records):
    """Attempts, waits and skips are told at DEBUG, runs at INFO, retries at WARNING."""
    bus = cs.MessageBus()
    cs.log_events(bus)
    target = total([fetch(1, [1]).with_retry(2, delay=0.5).with_constraints(slot=1)])
    skipped = total([]).run_if(False, default=0)
    run([target, skipped], bus=bus, system_resources={"slot": 1})
    assert sorted(lines(records)) == sorted(
        [
            ("INFO", "run R of list starts"),
            ("DEBUG", "total#2 is skipped: ConditionFalse"),
            ("DEBUG", "fetch#0 starts, attempt 1"),
            ("DEBUG", "fetch#0 failed after 1.000 s: ConnectionError: reset"),
            (
                "WARNING",
                "fetch#0 failed in attempt 1 of 2 and is tried again after 0.5 s: "
                "ConnectionError: reset",
            ),
            ("DEBUG", "fetch#0 starts, attempt 2"),
            ("DEBUG", "fetch#0 succeeded after 1.000 s"),
            ("DEBUG", "total#1 starts, attempt 1"),
            ("DEBUG", "total#1 succeeded after 0.000 s"),
            ("INFO", "run R succeeded after 2.500 s"),
        ]
    )


def test_a_failure_is_an_error_of_the_run_and_told_once(run, records):
    """The error of a run is logged with its traceback; attempts tell theirs at DEBUG."""
    bus = cs.MessageBus()
    cs.log_events(bus)
    with pytest.raises(ConnectionError):
        run(fetch(1, [1]), bus=bus)
    errors = [record for record in records.records if record.levelno >= logging.ERROR]
    assert [record.getMessage().split(" ", 2)[2] for record in errors] == [
        "failed after 1.000 s: ConnectionError: reset"
    ]
    assert errors[0].exc_info is not None
    assert isinstance(errors[0].exc_info[1], ConnectionError)


def test_a_failure_that_is_answered_is_a_warning(run, records):
    """It is told once, and is no error: the run succeeds."""
    bus = cs.MessageBus()
    cs.log_events(bus)
    assert run(fetch(1, [1]).with_fallback([]), bus=bus) == []
    assert [line for line in lines(records) if line[0] in ("WARNING", "ERROR")] == [
        ("WARNING", "fetch#0 failed for good, and the run goes on: ConnectionError: reset")
    ]


def test_an_error_that_cannot_tell_itself_is_logged(run, records):
    """A line is logged by its type, if the `__str__` of the error raises."""

    class Untold(Exception):
        def __str__(self):
            raise RuntimeError("no message")

    @cs.task
    def untold():
        raise Untold

    bus = cs.MessageBus()
    cs.log_events(bus)
    with pytest.raises(Untold):
        run(untold().with_retry(2), bus=bus)
    told = [message for _, message in lines(records) if "Untold: <no message" in message]
    assert len(told) == 4  # two attempts, a retry, the run


def test_a_wait_and_resources_are_told(run, records):
    """What a task waits for is logged, and resources that come and go."""

    @cs.resource
    def database():
        yield {}

    @cs.task
    async def query(database=cs.inject("database")):
        await anyio.sleep(1)

    bus = cs.MessageBus()
    cs.log_events(bus)
    run(
        [query().with_constraints(slot=1), query().with_constraints(slot=1)],
        bus=bus,
        system_resources={"slot": 1},
        resources=[database],
    )
    seen = lines(records)
    assert ("DEBUG", "the resource 'database' is set up") in seen
    assert ("DEBUG", "the resource 'database' is torn down") in seen
    waits = [line for _, line in seen if " waits: " in line]
    assert len(waits) == 1
    assert "slot" in waits[0]


def test_a_stall_is_a_warning(records):
    """A task that held the event loop is warned about, with the remedy."""
    bus = cs.MessageBus()
    cs.log_events(bus)
    bus.publish(cs.TaskStalled("run", 0.0, "f#0", "f", 0.25))
    assert [level for level, _ in lines(records)] == ["WARNING"]
    assert 'mode="thread"' in records.records[0].getMessage()


def test_records_carry_their_event(run, records):
    """A record has the event itself, and the ids, for formatters and filters."""
    bus = cs.MessageBus()
    cs.log_events(bus)
    run(total([1]), bus=bus)
    started = next(r for r in records.records if "starts, attempt" in r.getMessage())
    assert isinstance(started.event, cs.TaskExecutionStarted)
    assert (started.task_id, started.task_name) == ("total#0", "total")
    assert started.run_id == started.event.run_id


def test_only_what_the_level_lets_through_is_subscribed_to(run, caplog):
    """A logger for errors needs no events of tasks, so loops stay as fast as without it."""
    caplog.set_level(logging.ERROR, logger="cascade")
    bus = cs.MessageBus()
    end = cs.log_events(bus)
    assert not bus.hears_tasks
    assert not bus.listens(cs.RunStarted)
    assert bus.listens(cs.RunFinished)
    run(total([1]), bus=bus)
    assert caplog.records == []
    end()
    caplog.set_level(logging.WARNING, logger="cascade")
    cs.log_events(bus)
    assert bus.listens(cs.TaskRetrying)
    assert not bus.listens(cs.TaskExecutionStarted)


def test_it_ends_when_told(run, records):
    """After the function that it returned is called, nothing is subscribed any more."""
    bus = cs.MessageBus()
    end = cs.log_events(bus, logging.getLogger("cascade"))
    end()
    assert not bus.listens(cs.RunStarted)
    run(total([1]), bus=bus)
    assert records.records == []


def test_a_logger_of_ones_own(run, caplog):
    """Records go to the logger that is given."""
    caplog.set_level(logging.INFO, logger="jobs")
    bus = cs.MessageBus()
    cs.log_events(bus, logging.getLogger("jobs"))
    run(total([1]), bus=bus)
    assert {record.name for record in caplog.records} == {"jobs"}
    assert len(caplog.records) == 2


def test_all_that_cascade_logs_is_logged_under_one_name(run, records):
    """A failing subscriber, cache or tear-down is logged under "cascade" or a child of it."""

    class Broken:
        async def get(self, key):
            return None

        async def put(self, key, value):
            raise OSError("full")

    def fails(event):
        raise ValueError("subscriber")

    @cs.resource
    def database():
        yield
        raise OSError("tear-down")

    @cs.task
    def query(database=cs.inject("database")):
        return 1

    bus = cs.MessageBus()
    bus.subscribe(cs.RunStarted, fails)
    with pytest.raises(ExceptionGroup):
        run([total([1]).with_cache(Broken()), query()], bus=bus, resources=[database])
    assert {record.name for record in records.records} == {"cascade"}
    said = " ".join(record.getMessage() for record in records.records)
    assert "subscriber" in said
    assert "the cache of task 'total'" in said
    assert "tear-down" in said
