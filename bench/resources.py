"""What the service takes from its machine: CPU until its first answer, and memory.

One worker serves all the requests, so that it bears what several would share.
"""

import secrets
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL

from bench import data
from bench.contestants import WORKERS, Contestant, running
from bench.processes import cpu_seconds, memory_megabytes
from bench.report import Figure, at_most, table
from bench.throughput import CONNECTIONS, Load
from tools import postgres

STARTS = 5
EARLY = 20_000
LATE = 200_000
"""Requests after which memory is compared."""

USERS = 1_000
TASKS = 100_000
RUN_SECONDS = 5


def section(figures: list[Figure]) -> Iterator[str]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = stack.enter_context(postgres.temporary_server())
        secret = secrets.token_hex(32)
        start = {workers: _start_seconds(database, secret, folder, workers) for workers in (1, WORKERS)}
        figures.append(at_most(f"CPU until the first answer, {WORKERS} workers", 2.5, start[WORKERS], " s"))
        service = stack.enter_context(running("service", database, secret, folder, workers=1))
        data.load_tasks(database, TASKS, data.in_turn(USERS))
        memory = _memory(service, Load(database, folder, USERS, secret))
    rest, early, late = (each.rss for each in memory)
    figures.append(at_most("resident memory of a worker at rest", 90, rest, " MB"))
    figures.append(at_most(f"memory after {LATE:,} requests, of that after {EARLY:,}", 1.05, late / early))
    yield from _lines(start, memory)


def _start_seconds(database: URL, secret: str, folder: Path, workers: int) -> float:
    """CPU of all processes of the service until /health/ready has answered; the median of several starts."""
    seconds = []
    for _ in range(STARTS):
        with running("service", database, secret, folder, workers=workers) as service:
            seconds.append(cpu_seconds(service.process.pid))
    return statistics.median(seconds)


@dataclass(frozen=True)
class Memory:
    """Megabytes of a worker that has served so many requests."""

    served: int
    rss: float
    pss: float


def _memory(service: Contestant, load: Load) -> list[Memory]:
    """At rest, early, and late."""
    [worker] = service.workers()

    def now(served: int) -> Memory:
        return Memory(served, memory_megabytes(worker), memory_megabytes(worker, "Pss"))

    served, memory = 0, [now(0)]
    for wanted in (EARLY, LATE):
        while served < wanted:
            served += load.run(service, "mix", CONNECTIONS, RUN_SECONDS).requests
            print(f"resources: {served:,} of {LATE:,} requests", file=sys.stderr, flush=True)
        memory.append(now(served))
    return memory


def _lines(start: dict[int, float], memory: list[Memory]) -> Iterator[str]:
    yield "## Start and memory"
    yield ""
    yield (
        "CPU of all processes of the service until `/health/ready` has answered, the median of"
        f" {STARTS} starts; the resident memory of a worker that alone serves the mix at {CONNECTIONS}"
        " connections."
    )
    yield ""
    yield from table(
        ["workers", "CPU s to the first answer"], ([str(n), f"{s:.2f}"] for n, s in start.items())
    )
    rows = ([f"{each.served:,}", f"{each.rss:.1f}", f"{each.pss:.1f}"] for each in memory)
    yield from table(["requests served", "resident MB", "with a part of what is shared MB"], rows)
