"""Section 2: which failures are retried and after how long, by functions too; pauses are finite."""

from __future__ import annotations

import math

import anyio
import pytest

import cascade as cs


class HTTPError(Exception):
    def __init__(self, status, after=None):
        super().__init__(status)
        self.status, self.after = status, after


def failing(error, mode="async"):
    seen = []

    async def on_the_loop():
        seen.append(anyio.current_time())
        raise error

    def inline():
        seen.append(0)
        raise error

    return cs.task(on_the_loop if mode == "async" else inline, name="failing"), seen


@pytest.mark.parametrize("mode", ["async", "inline"])
def test_functions_say_what_is_retried_and_when(run, mode):
    """`on` is asked by error, `delay` by error and attempt; its None ends the retries."""
    asked = []

    def delay(error, attempt):
        asked.append((error.status, attempt))
        return error.after if attempt < 3 else None

    for status, count in [(503, 3), (404, 1)]:
        task, seen = failing(HTTPError(status, after=60), mode)
        with pytest.raises(HTTPError):
            run(task().with_retry(9, delay, on=lambda error: error.status >= 500))
        assert len(seen) == count
        assert mode == "inline" or seen == [60 * k for k in range(count)]
    assert asked == [(503, 1), (503, 2), (503, 3)]


@pytest.mark.parametrize("mode", ["async", "inline"])
@pytest.mark.parametrize("what", ["on", "delay", "a negative pause", "a pause that is a text"])
def test_a_function_that_fails_fails_the_run(run, mode, what):
    """What it raises surfaces, and a pause that is none is a ValueError."""

    def raises(*_):
        raise LookupError("mine")

    options = {
        "on": {"on": raises},
        "delay": {"delay": raises},
        "a negative pause": {"delay": lambda *_: -1},
        "a pause that is a text": {"delay": lambda *_: "soon"},
    }[what]
    task, seen = failing(HTTPError(503), mode)
    with pytest.raises(LookupError if what in ("on", "delay") else ValueError):
        run(task().with_retry(3, **options))
    assert len(seen) == 1


def test_a_group_matches_if_all_its_leaves_do(run):
    """A group within a group too; a type of group matches the group itself."""
    yes, no = ConnectionError(), KeyError()
    for error, on, count in [
        (ExceptionGroup("", [yes, ExceptionGroup("", [yes])]), ConnectionError, 2),
        (ExceptionGroup("", [yes, no]), ConnectionError, 1),
        (ExceptionGroup("", [yes, no]), (ConnectionError, LookupError), 2),
        (ExceptionGroup("", [no]), ExceptionGroup, 2),
    ]:
        task, seen = failing(error)
        with pytest.raises(ExceptionGroup):
            run(task().with_retry(2, on=on))
        assert len(seen) == count


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"delay": lambda e, n: 1, "backoff": 2.0}, ValueError),
        ({"delay": lambda e, n: 1, "max_delay": 2.0}, ValueError),
        ({"delay": lambda e, n: 1, "jitter": 0.5}, ValueError),
        ({"delay": int}, TypeError),
        ({"on": int}, TypeError),
        ({"on": ()}, TypeError),
        ({"on": "ValueError"}, TypeError),
    ],
)
def test_what_is_refused_where_it_is_written(options, kind):
    """A pause is said in one way, and what is neither class nor function is neither."""
    with pytest.raises(kind):
        failing(ValueError())[0]().with_retry(3, **options)


@pytest.mark.parametrize("attempt", [1, 1025, 5000, 10**6])
def test_no_pause_overflows(attempt):
    """Nothing times whatever is nothing, `max_delay` holds, and the rest is finite."""
    assert cs.RetryPolicy(delay=0, backoff=1e200, jitter=0.5).pause_after(attempt) == 0
    assert cs.RetryPolicy(delay=1, backoff=2, max_delay=1).pause_after(attempt) == 1
    assert math.isfinite(cs.RetryPolicy(delay=1, backoff=2, jitter=1.0).pause_after(attempt))
    assert cs.RetryPolicy(delay=1.0, backoff=0.5).pause_after(attempt) <= 1


def test_equal_policies_share_a_plan_whatever_their_functions_compare_like():
    """A callable object is asked neither `==` nor `hash`."""

    class Delay:
        __hash__ = None

        def __call__(self, error, attempt):
            return 0

        def __eq__(self, other):
            raise AssertionError

    delay = Delay()
    assert cs.RetryPolicy(delay=delay) == cs.RetryPolicy(delay=delay)
    assert hash(cs.RetryPolicy(delay=delay)) == hash(cs.RetryPolicy(delay=delay))
    assert cs.RetryPolicy(delay=delay) != cs.RetryPolicy(delay=Delay())
