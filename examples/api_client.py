"""Fetch 90 pages from an API that has limits, as fast as it allows and never faster.

    python examples/api_client.py [--backend asyncio|trio] [--pages 90] [--vm]

The API (a real HTTP server on the loopback interface, started here) takes at most 50 requests in
any second and 6 at once; it is busy at times (503 with Retry-After), and once it asks everybody to
stay away (429 with Retry-After). Two pages are gone (404). The client keeps to 40 a second and 6 at
once, asks again for each page when the API said so and no sooner, pauses every fetch when one of
them is told to stay away, and goes on without the pages that are gone. The server counts what it
sees.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

import anyio
import httpx

import cascade as cs

FETCHES = "task:fetch*"
RATE, BURST = 40, 5  # the client's own limit, below the server's: requests do not travel evenly
CONCURRENCY = 6


# --- The server ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Api:
    """What the server allows, and what it saw. Times are seconds of `time.monotonic`."""

    requests_per_second: int = 50
    requests_at_once: int = 6
    closes_at_request: int = 30
    closed_seconds: int = 1
    busy_seconds: int = 1
    lock: Lock = field(default_factory=Lock)
    starts: list[float] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    closed_at: float | None = None
    busy_answers: int = 0
    closed_answers: int = 0
    not_before: dict[str, float] = field(default_factory=dict)  # by path, as Retry-After said
    came_too_soon: int = 0

    @contextmanager
    def request(self, path: str) -> Iterator[int]:
        """Count a request, from its arrival until its answer is about to leave; gives its number.

        The answer leaves after the count went down: the client cannot start the next one before.
        """
        with self.lock:
            self.starts.append(time.monotonic())
            self.came_too_soon += self.starts[-1] < self.not_before.get(path, 0.0)
            number = len(self.starts)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            yield number
        finally:
            with self.lock:
                self.running -= 1

    def is_closed(self, number: int) -> bool:
        """Whether a request is told to stay away: from a certain one on, for a while."""
        now = time.monotonic()
        with self.lock:
            if number == self.closes_at_request:
                self.closed_at = now
            closed = self.closed_at is not None and now < self.closed_at + self.closed_seconds
            self.closed_answers += closed
            return closed

    def is_busy(self, number: int) -> bool:
        """Whether a request is turned down at once: every eleventh."""
        with self.lock:
            busy = number % 11 == 0
            self.busy_answers += busy
            return busy

    def retry_after(self, path: str, seconds: int) -> dict[str, str]:
        """The header that says when to ask for this path again."""
        with self.lock:
            self.not_before[path] = time.monotonic() + seconds
        return {"Retry-After": str(seconds)}

    def most_in_a_second(self) -> int:
        """The largest number of requests that arrived within any one second."""
        first = most = 0
        for last, start in enumerate(self.starts):
            while self.starts[first] <= start - 1.0:
                first += 1
            most = max(most, last - first + 1)
        return most

    def came_while_closed(self, grace: float = 0.5) -> int:
        """How many requests arrived while everybody had been told, `grace` seconds after it."""
        if self.closed_at is None:
            return 0
        begin, end = self.closed_at + grace, self.closed_at + self.closed_seconds
        return sum(begin <= start < end for start in self.starts)


class Handler(BaseHTTPRequestHandler):
    """`GET /page/7` answers `content of page 7`, after a while."""

    protocol_version = "HTTP/1.1"
    api: Api  # of the class that `serving` makes

    def do_GET(self) -> None:
        with self.api.request(self.path) as number:
            status, headers, body = self.answer(number)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self, number: int) -> tuple[int, dict[str, str], bytes]:
        if self.api.is_closed(number):
            return 429, self.api.retry_after(self.path, self.api.closed_seconds), b""
        if self.api.is_busy(number):
            return 503, self.api.retry_after(self.path, self.api.busy_seconds), b""
        page = int(self.path.rpartition("/")[2])
        if page in (39, 79):
            return 404, {}, b""
        time.sleep(0.02 if page % 2 else 0.2)  # the work: quick and slow pages
        return 200, {}, f"content of page {page}".encode()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the counts tell all."""


@contextmanager
def serving(api: Api) -> Iterator[str]:
    """A server for `api` in a thread of its own; gives its address."""
    handler = type("ApiHandler", (Handler,), {"api": api})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# --- The client ----------------------------------------------------------------------------------


class TryAgain(Exception):
    """The API answered that this request may be made again, and after how many seconds."""

    def __init__(self, page: int, response: httpx.Response) -> None:
        super().__init__(f"page {page}: {response.status_code}")
        self.seconds = float(response.headers["Retry-After"])


def as_asked(error: TryAgain, attempt: int) -> float:
    """The pause before the next attempt: what the API asked for."""
    return error.seconds


@cs.task
async def fetch(
    page: int,
    client: httpx.AsyncClient = cs.inject("client"),
    limits: cs.ConstraintManager = cs.inject("limits"),
) -> str:
    """The content of one page. Told to stay away, it pauses all fetches, not only itself."""
    response = await client.get(f"/page/{page}")
    if response.status_code in (429, 503):
        refusal = TryAgain(page, response)
        if response.status_code == 429:
            limits.pause(FETCHES, ttl=refusal.seconds)
        raise refusal
    return response.raise_for_status().text


@cs.task
def count_words(pages: Sequence[cs.Outcome[str]]) -> tuple[int, int]:
    """The words of the pages that there are, and how many are gone."""
    there = [page.unwrap() for page in pages if page.ok]
    return sum(len(page.split()) for page in there), len(pages) - len(there)


def is_gone(error: Exception) -> bool:
    """Whether the API answered that there is no such page."""
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code == 404


def words_of_all_pages(pages: int) -> cs.LazyResult[tuple[int, int]]:
    """The workflow: fetch every page, however often that takes, then count."""
    fetched = fetch.map(page=range(pages))
    fetched.with_retry(max_attempts=8, delay=as_asked, on=TryAgain)
    return count_words(fetched.settled(on=is_gone))


def engine_for(address: str) -> cs.Engine:
    """An engine with the client's limits, and with what its tasks inject."""
    engine = cs.Engine()
    engine.constraints.limit_rate(FETCHES, f"{RATE}/s", burst=BURST)
    engine.constraints.limit_concurrency(FETCHES, CONCURRENCY)

    @cs.resource(name="client")
    async def http_client() -> AsyncIterator[httpx.AsyncClient]:
        # One connection a request: a server may drop an idle one just when it is used again.
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=address, limits=limits, trust_env=False) as client:
            yield client

    @cs.resource(name="limits")
    def limits() -> Iterator[cs.ConstraintManager]:
        yield engine.constraints

    engine.register(http_client)
    engine.register(limits)
    return engine


def main() -> None:
    options = parse_options()
    api = Api()
    started = time.monotonic()
    with serving(api) as address:
        engine = engine_for(address)
        job = partial(engine.run, words_of_all_pages(options.pages), use_vm=options.vm)
        words, gone = anyio.run(job, backend=options.backend)
    statistics = engine.constraints.statistics()
    seconds = time.monotonic() - started
    there = options.pages - gone
    print(f"{there} pages with {words} words in {seconds:.1f} s, on {options.backend}")
    print(f"pages gone       {gone}, left out")
    print(f"requests         {len(api.starts)}")
    print(f"  answered 503   {api.busy_answers}, tried again")
    print(f"  answered 429   {api.closed_answers}, then all fetches paused")
    print(f"  while closed   {api.came_while_closed()} (allowed 0)")
    print(f"  too soon       {api.came_too_soon}, by the Retry-After of their page (allowed 0)")
    print(f"in any second    {api.most_in_a_second()} (allowed {api.requests_per_second})")
    print(f"at once          {api.most_running} (allowed {api.requests_at_once})")
    print(f"starts granted   {statistics.grants}, of which {statistics.wakeups} had waited")
    if exceeded(api):
        raise SystemExit("a limit was exceeded")
    print("no limit was ever exceeded")


def exceeded(api: Api) -> bool:
    """Whether the server saw more than it allows."""
    return (
        api.most_in_a_second() > api.requests_per_second
        or api.most_running > api.requests_at_once
        or api.came_while_closed() > 0
        or api.came_too_soon > 0
    )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--pages", type=int, default=90)
    parser.add_argument("--vm", action="store_true", help="run on the virtual machine")
    return parser.parse_args()


if __name__ == "__main__":
    main()
