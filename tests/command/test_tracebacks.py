"""Tracebacks with the frames of the machinery folded."""

import re

import pytest

import cascade as cs
from cascade.command.tracebacks import folded_traceback


@cs.task
def fail(x):
    return inner(x)


def inner(x):
    raise ValueError(f"no {x}")


def told(run, target):
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        run(target)
    return folded_traceback(caught.value)


def test_frames_of_the_machinery_are_one_line(run):
    """What is the user's own is shown as ever."""
    lines = told(run, fail(1)).splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    own = [line for line in lines if line.startswith("  File ")]
    assert [line.rpartition(" in ")[2] for line in own] == ["told", "cascade_run", "fail", "inner"]
    assert len([line for line in lines if line.startswith("  ... ")]) == 1
    assert "    return inner(x)" in lines
    assert "ValueError: no 1" in lines


def test_notes_causes_and_groups_are_kept(run):
    """Each with its own folded frames."""

    @cs.task
    def regroup(x):
        try:
            inner(x)
        except ValueError as error:
            raise ExceptionGroup("several", [error, KeyError(x)]) from error

    text = told(run, regroup(2))
    assert text.count("ValueError: no 2") == 2
    assert "The above exception was the direct cause" in text
    assert "KeyError: 2" in text
    assert "in task 'regroup' (regroup#0), attempt 1" in text
    assert re.search(r"/cascade/\w+\.py", text) is None


def test_an_error_of_cascades_own_shows_no_frames_of_it(run):
    """The message says all."""
    text = told(run, add_missing())
    assert re.search(r"/cascade/\w+\.py", text) is None
    assert "MissingParameterError" in text


def add_missing():
    return fail(cs.Param("n"))


def test_each_stretch_of_the_machinery_has_its_line():
    """Where the user's frames and those of the machinery alternate, so do the lines."""
    failed = []

    class Stops(KeyboardInterrupt):
        """It goes through: a subscriber's other failures are logged."""

    def handler(event):
        if event.reason == "1":
            raise Stops
        bus.publish(cs.TaskSkipped("r", 0.0, "a#0", "a", event.reason[1:]))

    bus = cs.MessageBus()
    bus.subscribe(cs.TaskSkipped, handler)
    try:
        bus.publish(cs.TaskSkipped("r", 0.0, "a#0", "a", "0001"))
    except Stops as error:
        failed.append(folded_traceback(error))
    assert len(re.findall(r"^  \.\.\. \d frames? of cascade$", failed[0], re.MULTILINE)) == 4
