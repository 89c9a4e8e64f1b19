"""`make bench` and `make bench-quick`: the service beside its baselines, in one table.

Starts all it needs but wrk (apt install wrk). The contestants take turns within
each round, so that what else the machine does hits all of them alike.
"""

import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2
from sqlalchemy import URL

from bench.data import load_tasks, write_files
from bench.processes import cpu_seconds, family, memory_megabytes
from tools import postgres, serve

WORKERS = 2
NO_LIMIT = "1000000/second"
APPS = {"service": "main:app", "plain": "bench.plain:app", "floor": "bench.floor:app"}
REFUSED = "refused"
TASKS_A_RUN = 5_000
"""No run deletes more; the next begins behind them."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    users: int
    tasks: int
    rounds: int
    seconds: int
    warm_up: int
    works: tuple[str, ...]
    connections: tuple[int, ...]


QUICK = Plan(1_000, 100_000, 2, 2, 1, ("get", "list20", "create", "patch", REFUSED), (32,))
WHOLE = Plan(
    1_000,
    1_000_000,
    5,
    3,
    5,
    ("get", "list20", "list200", "create", "patch", "delete", REFUSED, "mix"),
    (1, 32, 256),
)


@dataclass(frozen=True)
class Sample:
    """One run of wrk: requests a second, milliseconds, and CPU microseconds a request."""

    rate: float
    p50: float
    p99: float
    errors: int
    service_cpu: float
    database_cpu: float


@dataclass
class Contestant:
    name: str
    process: subprocess.Popen[bytes]
    url: str
    samples: dict[tuple[str, int], list[Sample]] = field(default_factory=lambda: defaultdict(list))


def main() -> int:
    serve.end_on_signals()
    plan = QUICK if sys.argv[1:] == ["quick"] else WHOLE
    wrk = shutil.which("wrk")
    if wrk is None:
        sys.exit("wrk is needed; install it, for example with: apt install wrk")
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            database = stack.enter_context(postgres.temporary_server())
            secret = secrets.token_hex(32)
            contestants = [stack.enter_context(running(name, database, secret, folder)) for name in APPS]
            load_tasks(database, plan.users, plan.tasks)
            write_files(database, folder, plan.users, secret)
            measure(plan, contestants, wrk, folder, postmaster(database))
            print("\n".join(table(plan, contestants)))
    except postgres.Failure as failure:
        sys.exit(str(failure))
    except KeyboardInterrupt:
        return 130
    return 0


@contextmanager
def running(name: str, database: URL, secret: str, folder: Path) -> Iterator[Contestant]:
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "DATABASE_URL": database.render_as_string(hide_password=False),
        "BETTER_AUTH_SECRET": secret,
        "HOST": "127.0.0.1",
        "PORT": str(postgres.free_port()),
        "WEB_CONCURRENCY": str(WORKERS),
        "RATE_LIMIT_REQUESTS": NO_LIMIT,
        "RATE_LIMIT_AUTH_FAILURES": NO_LIMIT,
    }
    with serve.service(environment, log=folder / f"{name}.log", app=APPS[name]) as process:
        yield Contestant(name, process, serve.base_url(environment))


def postmaster(database: URL) -> int:
    """The server's first process, whose children all connections are."""
    connection = psycopg2.connect(database.render_as_string(hide_password=False))
    backend = connection.info.backend_pid
    parent = int(Path(f"/proc/{backend}/stat").read_text().rpartition(")")[2].split()[1])
    connection.close()
    return parent


def measure(plan: Plan, contestants: Sequence[Contestant], wrk: str, folder: Path, database: int) -> None:
    for contestant in contestants:
        run(contestant, wrk, folder, database, "mix", 32, plan.warm_up, 0)
    taken = 0
    for round_ in range(plan.rounds):
        for work in plan.works:
            for connections in plan.connections:
                for contestant in contestants:
                    sample = run(contestant, wrk, folder, database, work, connections, plan.seconds, taken)
                    contestant.samples[work, connections].append(sample)
                    taken += TASKS_A_RUN
            print(f"round {round_ + 1} of {plan.rounds}: {work}", file=sys.stderr, flush=True)


def run(
    contestant: Contestant,
    wrk: str,
    folder: Path,
    database: int,
    work: str,
    connections: int,
    seconds: int,
    first_task: int,
) -> Sample:
    options = [f"-c{connections}", f"-t{min(connections, 2)}", f"-d{seconds}s", "--timeout=30s"]
    script = ["-s", "bench/load.lua", contestant.url, "--", work, str(folder), str(first_task)]
    before = cpu_seconds(contestant.process.pid), cpu_seconds(database)
    done = subprocess.run([wrk, *options, *script], capture_output=True, text=True, check=True)
    after = cpu_seconds(contestant.process.pid), cpu_seconds(database)
    seen = json.loads(done.stdout.splitlines()[-1])
    refusals = seen["requests"] if work == REFUSED else 0
    return Sample(
        rate=seen["requests"] / seen["seconds"],
        p50=seen["p50"],
        p99=seen["p99"],
        errors=abs(seen["statuses"] - refusals) + seen["broken"],
        service_cpu=(after[0] - before[0]) / seen["requests"] * 1e6,
        database_cpu=(after[1] - before[1]) / seen["requests"] * 1e6,
    )


def table(plan: Plan, contestants: Sequence[Contestant]) -> Iterator[str]:
    """Medians; a ratio is the median of the ratios within each round."""
    _, plain, floor = contestants
    yield (
        "| work | connections | contestant | requests/s | p50 ms | p99 ms | errors | CPU µs"
        " | database CPU µs | of plain | of floor |"
    )
    yield "| --- " * 11 + "|"
    for work in plan.works:
        for connections in plan.connections:
            key = work, connections
            for each in contestants:
                samples = each.samples[key]
                cells = [work, str(connections), each.name, f"{median(samples, 'rate'):.0f}"]
                cells += [f"{median(samples, name):.1f}" for name in ("p50", "p99")]
                cells.append(str(sum(sample.errors for sample in samples)))
                cells += [f"{median(samples, name):.0f}" for name in ("service_cpu", "database_cpu")]
                cells += [f"{ratio(samples, other.samples[key]):.2f}" for other in (plain, floor)]
                yield f"| {' | '.join(cells)} |"
    yield ""
    for each in contestants:
        workers = [pid for pid in family(each.process.pid) if pid != each.process.pid]
        megabytes = ", ".join(f"{memory_megabytes(pid):.0f}" for pid in workers)
        yield f"- memory of each worker of {each.name} at the end: {megabytes} MB"


def median(samples: Sequence[Sample], name: str) -> float:
    values: list[float] = [getattr(sample, name) for sample in samples]
    return statistics.median(values)


def ratio(samples: Sequence[Sample], others: Sequence[Sample]) -> float:
    return statistics.median(one.rate / other.rate for one, other in zip(samples, others, strict=True))


if __name__ == "__main__":
    sys.exit(main())
