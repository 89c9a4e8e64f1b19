"""Start-up CPU time and memory of the service.

Memory is measured with a single worker, so that it serves all of the requests.
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
from bench.processes import cpu_seconds, memory_megabytes
from bench.report import Figure, at_most, table
from bench.targets import WORKERS, Target, running
from bench.throughput import CONNECTIONS, Load
from tools import postgres

STARTS = 5
EARLY = 20_000
LATE = 200_000
"""Memory is compared after these numbers of requests, to detect a leak."""

USERS = 1_000
TASKS = 100_000
RUN_SECONDS = 5


def section(figures: list[Figure]) -> Iterator[str]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = stack.enter_context(postgres.temporary_server())
        secret = secrets.token_hex(32)
        start = {workers: _start_seconds(database, secret, folder, workers) for workers in (1, WORKERS)}
        figures.append(at_most(f"CPU time until ready, {WORKERS} workers", 2.5, start[WORKERS], " s"))
        service = stack.enter_context(running("service", database, secret, folder, workers=1))
        data.load_tasks(database, TASKS, data.round_robin(USERS))
        memory = _memory(service, Load(database, folder, USERS, secret))
    idle, early, late = (each.rss for each in memory)
    figures.append(at_most("RSS of an idle worker", 90, idle, " MB"))
    figures.append(at_most(f"RSS after {LATE:,} requests relative to {EARLY:,}", 1.05, late / early, " ×"))
    yield from _lines(start, memory)


def _start_seconds(database: URL, secret: str, folder: Path, workers: int) -> float:
    """CPU time of all processes of the service until /health/ready returns 200, median of STARTS starts."""
    seconds = []
    for _ in range(STARTS):
        with running("service", database, secret, folder, workers=workers) as service:
            seconds.append(cpu_seconds(service.process.pid))
    return statistics.median(seconds)


@dataclass(frozen=True)
class Memory:
    """RSS and PSS of a worker, in MB, after `served` requests."""

    served: int
    rss: float
    pss: float


def _memory(service: Target, load: Load) -> list[Memory]:
    """Measured when idle, after EARLY and after LATE requests."""
    [worker] = service.workers()

    def now(served: int) -> Memory:
        return Memory(served, memory_megabytes(worker), memory_megabytes(worker, "Pss"))

    served, memory = 0, [now(0)]
    for requests in (EARLY, LATE):
        while served < requests:
            served += load.run(service, "mix", CONNECTIONS, RUN_SECONDS).requests
            print(f"resources: {served:,} of {LATE:,} requests", file=sys.stderr, flush=True)
        memory.append(now(served))
    return memory


def _lines(start: dict[int, float], memory: list[Memory]) -> Iterator[str]:
    yield "## Start-up and memory"
    yield ""
    yield (
        "CPU time of all processes of the service until `/health/ready` returns 200, median of"
        f" {STARTS} starts. Memory of a single worker that serves the mixed workload at {CONNECTIONS}"
        " connections."
    )
    yield ""
    yield from table(["workers", "CPU s until ready"], ([str(n), f"{s:.2f}"] for n, s in start.items()))
    rows = ([f"{each.served:,}", f"{each.rss:.1f}", f"{each.pss:.1f}"] for each in memory)
    yield from table(["requests served", "RSS MB", "PSS MB"], rows)
