"""Catching up with changes, batches beside single requests, and how soon a waiting client has news.

Times of one client, with requests of what is compared in turn, so that other load on the machine
affects all alike.
"""

import json
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

from bench import data
from bench.client import NEW, TASKS, Client
from bench.databases import Databases, Placement, progress
from bench.report import Figure, at_least, at_most, table
from tools import postgres

SIZES = (10_000, 1_000_000)
ORDINARY_USERS = 1_000
FOLLOWER, FOLLOWED = "follower", 5_000
"""A user, and how many tasks they have in tables of every size."""

COLLECTOR, COLLECTED = "collector", 100_000
"""Another, with tasks in the largest table only."""

MISSED = (10, 1_000)
"""How many changes a client has missed."""

PAGE = 200
BATCH = 100
ROUNDS = 15
MOST_GROWTH = 1.25
LEAST_GAIN = 15.0
WAITS = 20
PROMPT, LATE = 50.0, 1_500.0
"""In milliseconds: news of the same process, and of another."""

Name = TypeVar("Name")


def section(figures: list[Figure], sizes: Sequence[int] = SIZES) -> Iterator[str]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        databases = Databases(stack.enter_context(postgres.temporary_server()), folder)
        for size in sizes:
            databases.create(size, _placement(size, largest=size == sizes[-1]))
        urls = {size: databases.serve(stack, size) for size in sizes}
        yield from _catching_up(figures, databases, urls)
        yield from _batches(figures, databases.client(urls[sizes[0]], "batcher"))
        # A second process with the same database.
        other = databases.serve(stack, sizes[0])
        yield from _news(figures, databases, urls[sizes[0]], other)


def _placement(size: int, *, largest: bool) -> Placement:
    placement = Placement(ORDINARY_USERS)
    placement.spread(data.Owner(FOLLOWER), FOLLOWED, 0, size)
    if largest:
        placement.spread(data.Owner(COLLECTOR), COLLECTED, 0, size)
    return placement


def _catching_up(figures: list[Figure], databases: Databases, urls: dict[int, str]) -> Iterator[str]:
    clients = {size: databases.client(url, FOLLOWER) for size, url in urls.items()}
    smallest, *_, largest = urls
    yield "## Catching up"
    yield ""
    rows = []
    for missed in MISSED:
        since = {size: _position_before_the_last(databases, size, missed) for size in urls}
        times = _in_turn({size: partial(follow, clients[size], since[size]) for size in urls})
        growth = statistics.median(times[largest]) / statistics.median(times[smallest])
        name = f"catching up with {missed:,} changes, growth from {smallest:,} to {largest:,} tasks"
        figures.append(at_most(name, MOST_GROWTH, growth, " ×"))
        requests = follow(clients[largest], since[largest])
        rows += [
            [f"{missed:,}", f"{size:,}", str(requests), f"{statistics.median(times[size]):.1f}"]
            for size in urls
        ]
    collector = databases.client(urls[largest], COLLECTOR)
    began = time.perf_counter()
    requests = follow(collector, "0")
    rows.append([f"{COLLECTED:,}", f"{largest:,}", str(requests), f"{_ms_since(began):.1f}"])
    yield from table(["changes", "tasks in the table", "requests", "ms"], rows)


def _position_before_the_last(databases: Databases, size: int, missed: int) -> str:
    query = "SELECT seq FROM tasks WHERE user_id = %s ORDER BY seq DESC OFFSET %s LIMIT 1"
    [(seq,)] = data.execute(databases.url(size), query, FOLLOWER, missed)
    return str(seq)


def follow(client: Client, since: str) -> int:
    """Follow the changes to their end; returns the number of requests."""
    for requests in range(1, 1_000_000):
        page = json.loads(client.request("GET", f"{TASKS}/changes?since={since}&limit={PAGE}").body)
        since = page["position"]
        if not page["more"]:
            return requests
    raise AssertionError("the feed has no end")


def _batches(figures: list[Figure], client: Client) -> Iterator[str]:
    yield f"## {BATCH} operations in one request"
    yield ""
    rows = []
    for kind, alone, together in (("create", _create_alone, _create_together), ("update", *_updates(client))):
        times = _in_turn({"alone": partial(alone, client), "together": partial(together, client)})
        medians = {name: statistics.median(found) for name, found in times.items()}
        gain = medians["alone"] / medians["together"]
        figures.append(at_least(f"{BATCH} × {kind} alone relative to one batch", LEAST_GAIN, gain, " ×"))
        rows.append([kind, f"{medians['alone']:.1f}", f"{medians['together']:.1f}", f"{gain:.1f}"])
    yield from table(["operation", f"{BATCH} requests, ms", "one batch, ms", "ratio"], rows)


def _create_alone(client: Client) -> None:
    for _ in range(BATCH):
        client.request("POST", TASKS, NEW)


def _create_together(client: Client) -> None:
    client.request("POST", f"{TASKS}/batch", {"operations": [{"op": "create", "task": NEW}] * BATCH})


def _updates(client: Client) -> tuple[Callable[[Client], None], Callable[[Client], None]]:
    tasks = [client.request("POST", TASKS, NEW).task_id() for _ in range(BATCH)]

    def alone(client: Client) -> None:
        for task in tasks:
            client.request("PATCH", f"{TASKS}/{task}", {"title": str(uuid.uuid4())})

    def together(client: Client) -> None:
        operations = [{"op": "update", "id": task, "task": {"title": str(uuid.uuid4())}} for task in tasks]
        client.request("POST", f"{TASKS}/batch", {"operations": operations})

    return alone, together


def _news(figures: list[Figure], databases: Databases, url: str, other: str) -> Iterator[str]:
    yield "## News for a waiting client"
    yield ""
    rows = []
    for name, where, most in (("the same process", url, PROMPT), ("another process", other, LATE)):
        reader, writer = databases.client(url, FOLLOWER), databases.client(where, FOLLOWER)
        delays = [_delay(reader, writer) for _ in range(WAITS)]
        figures.append(at_most(f"news of {name}, slowest of {WAITS}", most, max(delays), " ms"))
        rows.append([name, f"{statistics.median(delays):.1f}", f"{max(delays):.1f}"])
    yield from table(["written by", "median, ms", "slowest, ms"], rows)
    progress("measured waiting clients")


def _delay(reader: Client, writer: Client) -> float:
    """Milliseconds from the response to a write until the waiting request of the reader is answered."""
    position = json.loads(reader.request("GET", f"{TASKS}/changes?since=0&limit=1").body)["position"]
    while True:
        page = json.loads(reader.request("GET", f"{TASKS}/changes?since={position}&limit={PAGE}").body)
        position = page["position"]
        if not page["more"]:
            break
    with ThreadPoolExecutor(1) as thread:
        path = f"{TASKS}/changes?since={position}&wait=25"
        waiting = thread.submit(lambda: (reader.request("GET", path), time.perf_counter()))
        time.sleep(0.2)  # So that the request waits.
        writer.request("POST", TASKS, NEW)
        written_at = time.perf_counter()
        _, answered_at = waiting.result()
    return max(0.0, answered_at - written_at) * 1000


def _in_turn(works: Mapping[Name, Callable[[], object]]) -> Mapping[Name, list[float]]:
    """The milliseconds of each, in rounds, after one that is not counted."""
    times: dict[Name, list[float]] = {name: [] for name in works}
    for number in range(ROUNDS + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if number:
                times[name].append(_ms_since(began))
    return times


def _ms_since(began: float) -> float:
    return (time.perf_counter() - began) * 1000
