"""Latency and round trips of each operation with a 5 ms round trip to the database.

One client on one connection. The delay is between the service and PgBouncer, or between
the service and PostgreSQL without a pooler.
"""

import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import psycopg2
from sqlalchemy import URL

from bench import data
from bench.client import CHANGE, NEW, TASKS, Client, Response
from bench.proxy import DelayProxy, delay_proxy
from bench.report import Figure, at_most, exactly, span, table
from bench.targets import running
from tests.pooler import pooler
from tools import postgres

ROUND_TRIP = 0.005
"""Seconds in both directions together."""

PROCESSING_TIME = 4
"""Milliseconds that an operation may take in addition to its round trip."""

OPERATIONS = ("list", "create", "get", "replace", "update", "delete")
TIMED_CYCLES = 100
"""Cycles without pauses, for the latency."""

COUNTED_CYCLES = 20
"""Cycles with pauses between operations, so that each message counts for the operation that sent it."""

IDLE_SECONDS = 60
USERS = 100
TOTAL_TASKS = 20_000


@dataclass(frozen=True)
class Sample:
    """One request: its latency, and the database traffic until the connection is idle again."""

    milliseconds: float
    round_trips: int
    messages: int


Cycle = dict[str, Sample]
"""One sample of each operation."""


class Setup:
    """A target with a client and a delayed database connection, and its measurements."""

    def __init__(self, name: str, proxy: DelayProxy, client: Client) -> None:
        self.name = name
        self.times: dict[str, list[float]] = defaultdict(list)
        self.warm: dict[str, list[Sample]] = defaultdict(list)
        self.cold: Cycle = {}
        self.after_idle: Cycle = {}
        self._proxy = proxy
        self._client = client

    def measure(self) -> None:
        """In the first cycle the connection is open, but each statement is the first of its kind."""
        self.cold = self.cycle()
        for _ in range(COUNTED_CYCLES):
            for operation, sample in self.cycle().items():
                self.warm[operation].append(sample)
        for _ in range(TIMED_CYCLES):
            for operation, sample in self.cycle(pauses=False).items():
                self.times[operation].append(sample.milliseconds)
        print(f"latency: measured {self.name}", file=sys.stderr, flush=True)

    def p50(self, operation: str) -> float:
        return statistics.median(self.times[operation])

    def cycle(self, *, pauses: bool = True) -> Cycle:
        """Without pauses, messages sent after a response count for the next operation."""

        def timed(method: str, path: str, body: object = None) -> tuple[Sample, Response]:
            self._proxy.clear()
            response = self._client.request(method, path, body)
            if pauses:
                self._proxy.wait_until_idle()
            sample = Sample(response.milliseconds, self._proxy.round_trips, len(self._proxy.messages))
            return sample, response

        listed, _ = timed("GET", f"{TASKS}?limit=20")
        created, response = timed("POST", TASKS, NEW)
        path = f"{TASKS}/{response.task_id()}"
        return {
            "list": listed,
            "create": created,
            "get": timed("GET", path)[0],
            "replace": timed("PUT", path, NEW)[0],
            "update": timed("PATCH", path, CHANGE)[0],
            "delete": timed("DELETE", path)[0],
        }


def section(figures: list[Figure]) -> Iterator[str]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = stack.enter_context(postgres.temporary_server())
        pgbouncer = shutil.which("pgbouncer")
        upstreams = {"service": database, "tutorial": database}
        if pgbouncer is not None:
            upstreams["service through PgBouncer"] = stack.enter_context(pooler(pgbouncer, database))
        setups = [_setup(stack, name, upstream, database, folder) for name, upstream in upstreams.items()]
        select_1_ms = _select_1_milliseconds(database)
        _measure(setups)
    for setup in setups:
        if setup.name != "tutorial":
            figures += _figures(setup)
    yield from _lines(setups, select_1_ms)
    if pgbouncer is None:
        yield "PgBouncer was not installed. On Debian: apt install pgbouncer"
        yield ""


def _setup(stack: ExitStack, name: str, upstream: URL, database: URL, folder: Path) -> Setup:
    proxy = stack.enter_context(delay_proxy(upstream, ROUND_TRIP))
    secret = secrets.token_hex(32)
    app = name.split(maxsplit=1)[0]
    target = stack.enter_context(running(app, database, secret, folder, via=proxy.url, workers=1, pool=1))
    if data.execute(database, "SELECT 1 FROM tasks LIMIT 1") == []:
        data.load_tasks(database, TOTAL_TASKS, data.round_robin(USERS))
    with build_opener(ProxyHandler({})).open(f"{target.url}/health/ready"):
        pass
    client = Client(target.url, data.long_lived_token(secret, data.user_id(0)))
    if app == "tutorial":
        # Its health check does not use the database, so a list request opens the connection.
        client.request("GET", f"{TASKS}?limit=1")
    proxy.wait_until_idle()
    return Setup(name, proxy, client)


def _select_1_milliseconds(database: URL) -> float:
    """Median latency of `SELECT 1` through the proxy: the delay plus the proxy's overhead."""
    times = []
    with (
        delay_proxy(database, ROUND_TRIP) as proxy,
        closing(psycopg2.connect(data.url_string(proxy.url))) as connection,
    ):
        connection.autocommit = True
        cursor = connection.cursor()
        for _ in range(TIMED_CYCLES):
            began = time.perf_counter()
            cursor.execute("SELECT 1")
            times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def _measure(setups: Sequence[Setup]) -> None:
    for setup in setups:
        setup.measure()
    print(f"latency: idle for {IDLE_SECONDS} s", file=sys.stderr, flush=True)
    time.sleep(IDLE_SECONDS)
    for setup in setups:
        setup.after_idle = setup.cycle()


def _figures(setup: Setup) -> Iterator[Figure]:
    p50 = {operation: setup.p50(operation) for operation in OPERATIONS}
    slowest = max(p50, key=lambda operation: p50[operation])
    limit = ROUND_TRIP * 1000 + PROCESSING_TIME
    name = f"{setup.name}, {ROUND_TRIP * 1000:g} ms database round trip, p50"
    yield at_most(name, limit, p50[slowest], " ms", note=f" (slowest: {slowest})")
    for when, cycles in {
        "": setup.warm,
        ", cold statement": {name: [sample] for name, sample in setup.cold.items()},
        f", after {IDLE_SECONDS} s idle": {name: [sample] for name, sample in setup.after_idle.items()},
    }.items():
        trips = (sample.round_trips for samples in cycles.values() for sample in samples)
        yield exactly(f"{setup.name}, round trips per operation{when}", 1, trips)


def _lines(setups: Sequence[Setup], select_1_ms: float) -> Iterator[str]:
    yield f"## Latency with a {ROUND_TRIP * 1000:g} ms round trip to the database"
    yield ""
    yield (
        f"One client, one worker; {TIMED_CYCLES} requests per operation. `SELECT 1` through the proxy takes"
        f" {select_1_ms:.2f} ms. A round trip is counted when the database client sends after the server has"
        " sent; messages after the HTTP response count as well. *Cold* is the first request of its kind on an"
        f" open connection. The first request after {IDLE_SECONDS} s idle is the list."
    )
    yield ""
    names = ["operation", "target", "p50 ms", "round trips", "messages"]
    names += ["cold ms", "cold round trips", "after idle ms", "after idle round trips"]
    yield from table(names, (_row(setup, name) for name in OPERATIONS for setup in setups))


def _row(setup: Setup, operation: str) -> list[str]:
    samples = setup.warm[operation]
    cells = [operation, setup.name, f"{setup.p50(operation):.1f}"]
    cells.append(span(sample.round_trips for sample in samples))
    cells.append(span(sample.messages for sample in samples))
    for once in (setup.cold[operation], setup.after_idle[operation]):
        cells += [f"{once.milliseconds:.1f}", str(once.round_trips)]
    return cells
