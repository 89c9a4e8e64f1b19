"""With 5 ms between the service and its database: what each operation takes, and how often it waits.

One caller on one connection; the order is service, delay, PgBouncer where there is
one, PostgreSQL.
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
from bench.client import CHANGE, NEW, TASKS, Answer, Client
from bench.contestants import running
from bench.proxy import Line, delayed
from bench.report import Figure, at_most, exactly, span, table
from tests.pooler import pooler
from tools import postgres

ROUND_TRIP = 0.005
"""Seconds, there and back."""

OWN_TIME = 4
"""Milliseconds that an operation may take beside its round trip."""

OPERATIONS = ("list", "create", "get", "replace", "update", "delete")
TIMED = 100
COUNTED = 20
"""Cycles: at full speed for the times, with pauses in between to tell what belongs to which operation."""

IDLE_SECONDS = 60
USERS = 100
TASKS_IN_ALL = 20_000


@dataclass(frozen=True)
class Sample:
    """One request: its time, and what went over the line until it was quiet again."""

    milliseconds: float
    round_trips: int
    messages: int


Cycle = dict[str, Sample]
"""Each operation once."""


class Station:
    """A contestant, the line behind it, and the caller before it."""

    def __init__(self, name: str, line: Line, caller: Client) -> None:
        self.name = name
        self.times: dict[str, list[float]] = defaultdict(list)
        self.warm: dict[str, list[Sample]] = defaultdict(list)
        self.cold: Cycle = {}
        self.after_idling: Cycle = {}
        self._line = line
        self._caller = caller

    def measure(self) -> None:
        """At first the connection is open, but each statement is new to it."""
        self.cold = self.cycle()
        for _ in range(COUNTED):
            for operation, sample in self.cycle().items():
                self.warm[operation].append(sample)
        for _ in range(TIMED):
            for operation, sample in self.cycle(pauses=False).items():
                self.times[operation].append(sample.milliseconds)
        print(f"distance: measured {self.name}", file=sys.stderr, flush=True)

    def p50(self, operation: str) -> float:
        return statistics.median(self.times[operation])

    def cycle(self, *, pauses: bool = True) -> Cycle:
        """Without pauses, what follows an answer is counted for the next operation."""

        def timed(method: str, path: str, body: object = None) -> tuple[Sample, Answer]:
            self._line.clear()
            answer = self._caller.ask(method, path, body)
            if pauses:
                self._line.wait_until_quiet()
            return Sample(answer.milliseconds, self._line.round_trips, len(self._line.messages)), answer

        listed, _ = timed("GET", f"{TASKS}?limit=20")
        created, answer = timed("POST", TASKS, NEW)
        path = f"{TASKS}/{answer.id()}"
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
        lines = {"service": database, "plain": database}
        if pgbouncer is not None:
            lines["service through PgBouncer"] = stack.enter_context(pooler(pgbouncer, database))
        stations = [_station(stack, name, far_end, database, folder) for name, far_end in lines.items()]
        real = _round_trip_milliseconds(database)
        _measure(stations)
    for station in stations:
        if station.name != "plain":
            figures += _figures(station)
    yield from _lines(stations, real)
    if pgbouncer is None:
        yield "PgBouncer was absent; it is installed for example with: apt install pgbouncer"
        yield ""


def _station(stack: ExitStack, name: str, far_end: URL, database: URL, folder: Path) -> Station:
    line = stack.enter_context(delayed(far_end, ROUND_TRIP))
    secret = secrets.token_hex(32)
    app = name.split(maxsplit=1)[0]
    contestant = stack.enter_context(running(app, database, secret, folder, line=line.url, workers=1, pool=1))
    if data.ask(database, "SELECT 1 FROM tasks LIMIT 1") == []:
        data.load_tasks(database, TASKS_IN_ALL, data.in_turn(USERS))
    with build_opener(ProxyHandler({})).open(f"{contestant.url}/health/ready"):
        pass
    caller = Client(contestant.url, data.lasting_token(secret, data.user_id(0)))
    if app == "plain":
        # Its health does not ask the database, so another operation opens the connection.
        caller.ask("GET", f"{TASKS}?limit=1")
    line.wait_until_quiet()
    return Station(name, line, caller)


def _round_trip_milliseconds(database: URL) -> float:
    """What the delay really is, with all that the proxy adds to it."""
    times = []
    with (
        delayed(database, ROUND_TRIP) as line,
        closing(psycopg2.connect(data.plain_url(line.url))) as connection,
    ):
        connection.autocommit = True
        cursor = connection.cursor()
        for _ in range(TIMED):
            began = time.perf_counter()
            cursor.execute("SELECT 1")
            times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def _measure(stations: Sequence[Station]) -> None:
    for station in stations:
        station.measure()
    print(f"distance: idle for {IDLE_SECONDS} s", file=sys.stderr, flush=True)
    time.sleep(IDLE_SECONDS)
    for station in stations:
        station.after_idling = station.cycle()


def _figures(station: Station) -> Iterator[Figure]:
    p50 = {operation: station.p50(operation) for operation in OPERATIONS}
    slowest = max(p50, key=lambda operation: p50[operation])
    limit = ROUND_TRIP * 1000 + OWN_TIME
    what = f"{station.name}, {ROUND_TRIP * 1000:g} ms from its database, p50"
    yield at_most(what, limit, p50[slowest], " ms", note=f" ({slowest}, the slowest)")
    for when, cycles in {
        "": station.warm,
        ", a cold statement": {name: [sample] for name, sample in station.cold.items()},
        ", after an idle minute": {name: [sample] for name, sample in station.after_idling.items()},
    }.items():
        trips = (sample.round_trips for samples in cycles.values() for sample in samples)
        yield exactly(f"{station.name}, round trips of each operation{when}", 1, trips)


def _lines(stations: Sequence[Station], real: float) -> Iterator[str]:
    yield f"## {ROUND_TRIP * 1000:g} ms from the database"
    yield ""
    yield (
        f"One caller, one worker; {TIMED} requests of each operation. `SELECT 1` over this line takes"
        f" {real:.2f} ms. A round trip is counted when the"
        " client of the database speaks after the server has spoken; what follows the answer counts too."
        " *Cold* is the first request of its kind on an open connection; the first request after the idle"
        " minute is the list."
    )
    yield ""
    names = ["operation", "contestant", "p50 ms", "round trips", "messages"]
    names += ["cold ms", "cold round trips", "after idling ms", "after idling round trips"]
    yield from table(names, (_row(station, name) for name in OPERATIONS for station in stations))


def _row(station: Station, operation: str) -> list[str]:
    samples = station.warm[operation]
    cells = [operation, station.name, f"{station.p50(operation):.1f}"]
    cells.append(span(sample.round_trips for sample in samples))
    cells.append(span(sample.messages for sample in samples))
    for once in (station.cold[operation], station.after_idling[operation]):
        cells += [f"{once.milliseconds:.1f}", str(once.round_trips)]
    return cells
