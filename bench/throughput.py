"""Throughput and latency under load: wrk against each target.

Targets alternate within each round, so that background load on the machine affects all
of them equally.
"""

import json
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL

from bench import data
from bench.client import TASKS, Client, UnexpectedResponse
from bench.processes import cpu_seconds, memory_megabytes
from bench.report import Figure, at_least, at_most, exactly, table
from bench.targets import APPS, Target, check_agreement, running
from tools import postgres
from tools.tokens import mint

CONNECTIONS = 32
"""Concurrent connections at which the targets are compared."""

HIGH_CONNECTIONS = 256
REJECTED = ("401 no token", "401 malformed", "401 expired")
UNCHANGED = "list 20, unchanged"
PLAIN = {
    "list 20, by due date": "list 20",
    "list 20, filtered": "list 20",
    UNCHANGED: "list 20",
    "create, with a key": "create",
    "create, with an ID": "create",
    "patch, If-Match": "patch",
    "restore": "delete",
}
"""Workloads that only the service supports, each with the one before it to which it is compared."""

FILTERED = f"sort=due&completed=false&priority=high&{data.DUE_WEEK}"
"""The filtered list: what is due in one week, important and not done."""

RATIOS = [
    ("get one", "tutorial", 5),
    ("get one", "raw-asgi", 0.70),
    ("list 20", "tutorial", 4),
    ("list 20", "raw-asgi", 0.65),
    ("create", "tutorial", 5),
    ("create", "raw-asgi", 0.70),
    ("patch", "tutorial", 5),
    ("patch", "raw-asgi", 0.70),
    *[(workload, "tutorial", 3) for workload in REJECTED],
]
"""Goals: workload, reference target, and minimum throughput of the service relative to that target."""

TASKS_PER_RUN = 5_000
"""Offset in the task file between two runs, so that they do not start with the same tasks."""

CHANGES_PER_SECOND = 15_000
"""More than any target reaches. If the tasks to delete ran out, 404 responses would count as errors."""


@dataclass(frozen=True)
class Plan:
    """What to measure; each run takes `seconds`."""

    targets: tuple[str, ...]
    users: int
    tasks: int
    rounds: int
    seconds: int
    warm_up: int
    workloads: tuple[str, ...]
    connections: tuple[int, ...]


QUICK = Plan(
    ("service", "tutorial", "raw-asgi"),
    1_000,
    100_000,
    2,
    2,
    1,
    ("get one", "list 20", "list 20, filtered", "create", "create, with a key", "patch", "401 malformed"),
    (CONNECTIONS,),
)
WHOLE = Plan(
    tuple(APPS),
    1_000,
    1_000_000,
    5,
    1,
    5,
    (
        *("get one", "list 20", "list 20, by due date", "list 20, filtered", UNCHANGED, "list 200"),
        *("create", "create, with a key", "create, with an ID", "patch", "patch, If-Match"),
        *("delete", "restore", *REJECTED, "mix"),
    ),
    (1, CONNECTIONS, HIGH_CONNECTIONS),
)


@dataclass(frozen=True)
class Sample:
    """One run of wrk. Latencies are in milliseconds, CPU times in microseconds per request."""

    requests: int
    rate: float
    """Requests per second."""
    p50: float
    p99: float
    errors: int
    service_cpu: float
    database_cpu: float


Samples = dict[tuple[str, str, int], list[Sample]]
"""By target, workload and connections; one sample per round."""


class Load:
    """Runs wrk with files of tokens and tasks."""

    def __init__(self, database: URL, folder: Path, users: int, secret: str) -> None:
        wrk = shutil.which("wrk")
        if wrk is None:
            raise postgres.Failure("wrk is not installed. On Debian: apt install wrk")
        self._wrk = wrk
        self._folder = folder
        self._database = database
        self._users = users
        self._secret = secret
        self._deletable = data.write_load_files(database, folder, users, secret)
        self._deleted = 0
        self._postmaster = _postmaster(database)
        self._offset = 0

    def run(self, target: Target, workload: str, connections: int, seconds: int) -> Sample:
        self._prepare(target, workload, seconds * CHANGES_PER_SECOND)
        self._offset += TASKS_PER_RUN
        options = [f"-c{connections}", f"-t{min(connections, 2)}", f"-d{seconds}s", "--timeout=30s"]
        arguments = [workload, str(self._folder), str(self._offset), FILTERED]
        script = ["-s", "bench/load.lua", target.url, "--", *arguments]
        before = cpu_seconds(target.process.pid), cpu_seconds(self._postmaster)
        done = subprocess.run([self._wrk, *options, *script], capture_output=True, text=True, check=True)
        after = cpu_seconds(target.process.pid), cpu_seconds(self._postmaster)
        _wait_until_idle(target)
        counts = json.loads(done.stdout.splitlines()[-1])
        requests = counts["requests"]
        if requests == 0:
            raise UnexpectedResponse(f"{target.name}: no responses: {workload}, {connections} connections")
        errors = counts["wrong_status"] + counts["broken"]
        if errors:
            print(
                f"throughput: {target.name}, {workload}, {connections} connections: {counts}", file=sys.stderr
            )
        return Sample(
            requests=requests,
            rate=requests / counts["seconds"],
            p50=counts["p50"],
            p99=counts["p99"],
            errors=errors,
            service_cpu=(after[0] - before[0]) / requests * 1e6,
            database_cpu=(after[1] - before[1]) / requests * 1e6,
        )

    def _prepare(self, target: Target, workload: str, count: int) -> None:
        """Write what the workload needs: the tags of all lists, or `count` tasks to change."""
        if workload == "delete":
            (self._folder / "deletable").write_text("".join(self._next_deletable(count)))
        elif workload == "restore":
            lines = self._next_deletable(count)
            data.delete(self._database, lines)
            (self._folder / "deleted").write_text("".join(lines))
        elif workload == "patch, If-Match":
            data.write_versions(self._database, self._folder, count)
        elif workload == UNCHANGED:
            self._write_tags(target)

    def _next_deletable(self, count: int) -> list[str]:
        """The next `count` tasks to delete; restores all deleted tasks when there are too few."""
        if self._deleted + count > len(self._deletable):
            data.restore_deleted(self._database)
            self._deleted = 0
        self._deleted += count
        return self._deletable[self._deleted - count : self._deleted]

    def _write_tags(self, target: Target) -> None:
        names = (data.user_id(number) for number in range(self._users))
        clients = (Client(target.url, data.long_lived_token(self._secret, name)) for name in names)
        tags = (client.request("GET", f"{TASKS}?limit=20").etag for client in clients)
        (self._folder / "tags").write_text("".join(f"{tag}\n" for tag in tags))


def _wait_until_idle(target: Target) -> None:
    """Wait for requests whose clients have disconnected: they would slow down the next target."""
    previous, now = -1.0, cpu_seconds(target.process.pid)
    while now - previous > 0.02:
        time.sleep(0.1)
        previous, now = now, cpu_seconds(target.process.pid)


def _postmaster(database: URL) -> int:
    """Process ID of the local PostgreSQL server, the parent of all its backends."""
    [(folder,)] = data.execute(database, "SHOW data_directory")
    return int((Path(folder) / "postmaster.pid").read_text().splitlines()[0])


def section(figures: list[Figure], plan: Plan = WHOLE) -> Iterator[str]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = stack.enter_context(postgres.temporary_server())
        secret = secrets.token_hex(32)
        targets = [stack.enter_context(running(name, database, secret, folder)) for name in plan.targets]
        data.load_tasks(database, plan.tasks, data.round_robin(plan.users))
        user = data.user_id(0)
        expired = mint(secret, user, exp=int(time.time()) - data.DAY)
        check_agreement(targets, data.long_lived_token(secret, user), expired)
        load = Load(database, folder, plan.users, secret)
        samples = _measure(plan, targets, load)
        figures += _figures(plan, samples)
        yield from _lines(plan, targets, samples)


def _measure(plan: Plan, targets: Sequence[Target], load: Load) -> Samples:
    for target in targets:
        load.run(target, "mix", CONNECTIONS, plan.warm_up)
    samples: Samples = defaultdict(list)
    for round_ in range(plan.rounds):
        for workload in plan.workloads:
            for connections in plan.connections:
                for target in _measurable(targets, workload, connections):
                    sample = load.run(target, workload, connections, plan.seconds)
                    samples[target.name, workload, connections].append(sample)
            print(f"throughput, round {round_ + 1} of {plan.rounds}: {workload}", file=sys.stderr, flush=True)
    return samples


def _measurable(targets: Sequence[Target], workload: str, connections: int) -> list[Target]:
    """The targets that support the workload and this number of connections.

    The tutorial app deadlocks at HIGH_CONNECTIONS for its 30 s pool timeout: requests that hold a
    database connection wait for one of the 40 worker threads to return it, while all threads wait
    for a database connection.
    """
    if workload in PLAIN:
        return [each for each in targets if each.name == "service"]
    return [each for each in targets if connections < HIGH_CONNECTIONS or each.name != "tutorial"]


def _figures(plan: Plan, samples: Samples) -> Iterator[Figure]:
    for workload, other, limit in RATIOS:
        if workload in plan.workloads:
            service, reference = (samples[name, workload, CONNECTIONS] for name in ("service", other))
            name = f"{workload}, {CONNECTIONS} connections, throughput relative to {other}"
            yield at_least(name, limit, _ratio(service, reference), " ×")
    if HIGH_CONNECTIONS in plan.connections:
        yield from _high_connection_figures(plan, samples)
    yield exactly("errors in any run", 0, (_errors(each) for each in samples.values()))


def _high_connection_figures(plan: Plan, samples: Samples) -> Iterator[Figure]:
    """How the service degrades at HIGH_CONNECTIONS, in its worst workload."""
    rate, workload = _worst_throughput(plan, samples, "service")
    name = f"throughput at {HIGH_CONNECTIONS} connections relative to {CONNECTIONS}"
    yield at_least(name, 0.85, rate, " ×", note=f" (worst: {workload})")
    tail, workload = _worst_tail(plan, samples, "service")
    name = f"p99 at {HIGH_CONNECTIONS} connections relative to p50 at {CONNECTIONS}"
    yield at_most(name, 10, tail, " ×", note=f" (worst: {workload})")


def _worst_throughput(plan: Plan, samples: Samples, name: str) -> tuple[float, str]:
    return min(
        (_ratio(samples[name, workload, HIGH_CONNECTIONS], samples[name, workload, CONNECTIONS]), workload)
        for workload in _workloads(plan, name)
    )


def _worst_tail(plan: Plan, samples: Samples, name: str) -> tuple[float, str]:
    def tail(workload: str) -> float:
        p99 = _median(samples[name, workload, HIGH_CONNECTIONS], "p99")
        return p99 / _median(samples[name, workload, CONNECTIONS], "p50")

    return max((tail(workload), workload) for workload in _workloads(plan, name))


def _workloads(plan: Plan, name: str) -> list[str]:
    return [workload for workload in plan.workloads if name == "service" or workload not in PLAIN]


def _high_connection_lines(plan: Plan, names: Sequence[str], samples: Samples) -> Iterator[str]:
    """The reference targets show how much of the degradation is caused by the machine."""
    yield f"Each target at {HIGH_CONNECTIONS} connections, in its worst workload:"
    yield ""
    rows = []
    for name in names:
        rate, slowest = _worst_throughput(plan, samples, name)
        tail, longest = _worst_tail(plan, samples, name)
        rows.append([name, f"{rate:.2f} ({slowest})", f"{tail:.1f} ({longest})"])
    headings = ["target", f"throughput relative to {CONNECTIONS}", f"p99 relative to p50 at {CONNECTIONS}"]
    yield from table(headings, rows)


def _lines(plan: Plan, targets: Sequence[Target], samples: Samples) -> Iterator[str]:
    yield "## Throughput"
    yield ""
    yield (
        f"{plan.users:,} users and {plan.tasks:,} tasks. Each row is the median of {plan.rounds} rounds of"
        f" {plan.seconds} s, with the targets in turn; each ratio is the median of the ratios within a round."
        " CPU times are per request, for all processes of the target and of PostgreSQL. 70 % of the requests"
        f" in the mix are reads. *tutorial* is not measured at {HIGH_CONNECTIONS} connections: it deadlocks,"
        " because requests that hold a database connection wait for a worker thread, while the threads wait"
        " for a database connection."
    )
    yield ""
    names = ["workload", "connections", "target", "requests/s", "p50 ms", "p99 ms", "errors"]
    names += ["CPU µs", "database CPU µs", "vs tutorial", "vs raw-asgi"]
    cells = [(workload, connections) for workload in plan.workloads for connections in plan.connections]
    rows = (
        _row(samples, target.name, workload, connections)
        for workload, connections in cells
        for target in _measurable(targets, workload, connections)
    )
    yield from table(names, rows)
    yield from _plain_lines(plan, samples)
    if HIGH_CONNECTIONS in plan.connections:
        names = [target.name for target in targets if target.name != "tutorial"]
        yield from _high_connection_lines(plan, names, samples)
    for target in targets:
        megabytes = ", ".join(f"{memory_megabytes(pid):.0f}" for pid in target.workers())
        yield f"- RSS of the workers of {target.name} at the end: {megabytes} MB"
    yield ""


def _plain_lines(plan: Plan, samples: Samples) -> Iterator[str]:
    yield (
        "Throughput of the workloads that only the service supports, relative to a simpler one of the"
        f" service in the same round, {CONNECTIONS} connections. *Filtered* is `{FILTERED}`;"
        " *unchanged* is answered with 304."
    )
    yield ""
    rows = []
    for workload, plain in PLAIN.items():
        own, reference = (samples["service", name, CONNECTIONS] for name in (workload, plain))
        if own and reference:
            rows.append([workload, plain, f"{_ratio(own, reference):.2f}"])
    yield from table(["workload", "relative to", "throughput"], rows)


def _row(samples: Samples, name: str, workload: str, connections: int) -> list[str]:
    own = samples[name, workload, connections]
    references = [samples[other, workload, connections] for other in ("tutorial", "raw-asgi")]
    return [
        *[workload, str(connections), name, f"{_median(own, 'rate'):.0f}"],
        *[f"{_median(own, kind):.1f}" for kind in ("p50", "p99")],
        str(_errors(own)),
        *[f"{_median(own, kind):.0f}" for kind in ("service_cpu", "database_cpu")],
        *[f"{_ratio(own, reference):.2f}" if reference else "–" for reference in references],
    ]


def _errors(samples: Sequence[Sample]) -> int:
    return sum(sample.errors for sample in samples)


def _median(samples: Sequence[Sample], name: str) -> float:
    values: list[float] = [getattr(sample, name) for sample in samples]
    return statistics.median(values)


def _ratio(samples: Sequence[Sample], references: Sequence[Sample]) -> float:
    pairs = zip(samples, references, strict=True)
    return statistics.median(sample.rate / reference.rate for sample, reference in pairs)
