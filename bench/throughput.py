"""Requests a second: wrk against the contestants in turn.

The contestants take turns within each round, so that what else the machine does
hits all of them alike.
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
from bench.client import WrongAnswer
from bench.contestants import APPS, Contestant, check_agreement, running
from bench.processes import cpu_seconds, memory_megabytes
from bench.report import Figure, at_least, at_most, exactly, table
from tools import postgres
from tools.tokens import mint

CONNECTIONS = 32
"""With which the contestants are compared."""

CROWD = 256
REFUSALS = ("401 no token", "401 malformed", "401 expired")
RATIOS = [
    *[
        ("get one", "plain", 5),
        ("get one", "floor", 0.70),
        ("list 20", "plain", 4),
        ("list 20", "floor", 0.65),
    ],
    *[("create", "plain", 5), ("create", "floor", 0.70), ("patch", "plain", 5), ("patch", "floor", 0.70)],
    *[(refusal, "plain", 3) for refusal in REFUSALS],
]
"""What the service's throughput must be of another's."""

TASKS_A_RUN = 5_000
"""The next run begins so many tasks behind."""

DELETIONS_A_SECOND = 15_000
"""More than any contestant can; a task that is missing in the end is an error and is seen."""


@dataclass(frozen=True)
class Plan:
    """How much is measured; a run takes `seconds`."""

    contestants: tuple[str, ...]
    users: int
    tasks: int
    rounds: int
    seconds: int
    warm_up: int
    works: tuple[str, ...]
    connections: tuple[int, ...]


QUICK = Plan(
    ("service", "plain", "floor"),
    1_000,
    100_000,
    2,
    2,
    1,
    ("get one", "list 20", "create", "patch", "401 malformed"),
    (CONNECTIONS,),
)
WHOLE = Plan(
    tuple(APPS),
    1_000,
    1_000_000,
    5,
    1,
    5,
    ("get one", "list 20", "list 200", "create", "patch", "delete", *REFUSALS, "mix"),
    (1, CONNECTIONS, CROWD),
)


@dataclass(frozen=True)
class Sample:
    """One run of wrk: requests a second, milliseconds, and CPU microseconds a request."""

    requests: int
    rate: float
    p50: float
    p99: float
    errors: int
    service_cpu: float
    database_cpu: float


Samples = dict[tuple[str, str, int], list[Sample]]
"""By contestant, work and connections; in the order of the rounds."""


class Load:
    """wrk, and the files from which it takes tokens and tasks."""

    def __init__(self, database: URL, folder: Path, users: int, secret: str) -> None:
        wrk = shutil.which("wrk")
        if wrk is None:
            raise postgres.Failure("wrk is needed; install it, for example with: apt install wrk")
        self._wrk = wrk
        self._folder = folder
        self._database = database
        self._doomed = data.write_files(database, folder, users, secret)
        self._deleted = 0
        self._postmaster = _postmaster(database)
        self._first = 0

    def run(self, contestant: Contestant, work: str, connections: int, seconds: int) -> Sample:
        if work == "delete":
            self._doom(seconds * DELETIONS_A_SECOND)
        self._first += TASKS_A_RUN
        options = [f"-c{connections}", f"-t{min(connections, 2)}", f"-d{seconds}s", "--timeout=30s"]
        script = ["-s", "bench/load.lua", contestant.url, "--", work, str(self._folder), str(self._first)]
        before = cpu_seconds(contestant.process.pid), cpu_seconds(self._postmaster)
        done = subprocess.run([self._wrk, *options, *script], capture_output=True, text=True, check=True)
        after = cpu_seconds(contestant.process.pid), cpu_seconds(self._postmaster)
        _wait_until_idle(contestant)
        seen = json.loads(done.stdout.splitlines()[-1])
        requests = seen["requests"]
        if requests == 0:
            raise WrongAnswer(f"{contestant.name} answered nothing: {work}, {connections} connections")
        wrong = requests - seen["refusals"] if work in REFUSALS else seen["statuses"]
        errors = wrong + seen["broken"]
        if errors:
            print(
                f"throughput: {contestant.name}, {work}, {connections} connections: {seen}", file=sys.stderr
            )
        return Sample(
            requests=requests,
            rate=requests / seen["seconds"],
            p50=seen["p50"],
            p99=seen["p99"],
            errors=errors,
            service_cpu=(after[0] - before[0]) / requests * 1e6,
            database_cpu=(after[1] - before[1]) / requests * 1e6,
        )

    def _doom(self, count: int) -> None:
        """Write down tasks that nobody has deleted; when they run out, bring all back."""
        if self._deleted + count > len(self._doomed):
            data.restore_deleted(self._database)
            self._deleted = 0
        doomed = self._doomed[self._deleted : self._deleted + count]
        (self._folder / "doomed").write_text("".join(doomed))
        self._deleted += count


def _wait_until_idle(contestant: Contestant) -> None:
    """What it still does for callers who have gone must not slow down the next contestant."""
    before, now = -1.0, cpu_seconds(contestant.process.pid)
    while now - before > 0.02:
        time.sleep(0.1)
        before, now = now, cpu_seconds(contestant.process.pid)


def _postmaster(database: URL) -> int:
    """The server's first process, whose children all connections are; it is on this machine."""
    [(folder,)] = data.ask(database, "SHOW data_directory")
    return int((Path(folder) / "postmaster.pid").read_text().splitlines()[0])


def section(figures: list[Figure], plan: Plan = WHOLE) -> Iterator[str]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = stack.enter_context(postgres.temporary_server())
        secret = secrets.token_hex(32)
        contestants = [
            stack.enter_context(running(name, database, secret, folder)) for name in plan.contestants
        ]
        data.load_tasks(database, plan.tasks, data.in_turn(plan.users))
        user = data.user_id(0)
        expired = mint(secret, user, exp=int(time.time()) - data.DAY)
        check_agreement(contestants, data.lasting_token(secret, user), expired)
        load = Load(database, folder, plan.users, secret)
        samples = _measure(plan, contestants, load)
        figures += _figures(plan, samples)
        yield from _lines(plan, contestants, samples)


def _measure(plan: Plan, contestants: Sequence[Contestant], load: Load) -> Samples:
    for contestant in contestants:
        load.run(contestant, "mix", CONNECTIONS, plan.warm_up)
    samples: Samples = defaultdict(list)
    for round_ in range(plan.rounds):
        for work in plan.works:
            for connections in plan.connections:
                for each in _able(contestants, connections):
                    sample = load.run(each, work, connections, plan.seconds)
                    samples[each.name, work, connections].append(sample)
            print(f"throughput, round {round_ + 1} of {plan.rounds}: {work}", file=sys.stderr, flush=True)
    return samples


def _able(contestants: Sequence[Contestant], connections: int) -> list[Contestant]:
    """All, but in a crowd plain stands still for the 30 s of its pool's timeout.

    Those who hold a connection wait for one of the 40 threads to give it back,
    and the threads wait for a connection.
    """
    return [each for each in contestants if connections < CROWD or each.name != "plain"]


def _figures(plan: Plan, samples: Samples) -> Iterator[Figure]:
    for work, other, limit in RATIOS:
        if work in plan.works:
            measured = _ratio(samples["service", work, CONNECTIONS], samples[other, work, CONNECTIONS])
            yield at_least(f"{work}, {CONNECTIONS} connections, of {other}", limit, measured)
    if CROWD in plan.connections:
        yield from _crowd(plan, samples)
    yield exactly("errors of any contestant", 0, (_errors(each) for each in samples.values()))


def _crowd(plan: Plan, samples: Samples) -> Iterator[Figure]:
    """How the service bears many connections: the worst of all works."""
    rate, work = _slowdown(plan, samples, "service")
    what = f"{CROWD} connections, throughput of that at {CONNECTIONS}"
    yield at_least(what, 0.85, rate, note=f" ({work}, the worst)")
    tail, work = _tail(plan, samples, "service")
    what = f"{CROWD} connections, p99 by the p50 at {CONNECTIONS}"
    yield at_most(what, 10, tail, note=f" ({work}, the worst)")


def _slowdown(plan: Plan, samples: Samples, name: str) -> tuple[float, str]:
    return min(
        (_ratio(samples[name, work, CROWD], samples[name, work, CONNECTIONS]), work) for work in plan.works
    )


def _tail(plan: Plan, samples: Samples, name: str) -> tuple[float, str]:
    return max(
        (_median(samples[name, work, CROWD], "p99") / _median(samples[name, work, CONNECTIONS], "p50"), work)
        for work in plan.works
    )


def _crowd_lines(plan: Plan, names: Sequence[str], samples: Samples) -> Iterator[str]:
    """What of it is the machine's: the floor is no better off."""
    yield f"What becomes of each contestant over {CROWD} connections, in the worst of its works:"
    yield ""
    rows = []
    for name in names:
        (rate, slowest), (tail, longest) = _slowdown(plan, samples, name), _tail(plan, samples, name)
        rows.append([name, f"{rate:.2f} ({slowest})", f"{tail:.1f} ({longest})"])
    names = ["contestant", f"throughput of that at {CONNECTIONS}", f"p99 by the p50 at {CONNECTIONS}"]
    yield from table(names, rows)


def _lines(plan: Plan, contestants: Sequence[Contestant], samples: Samples) -> Iterator[str]:
    """Medians; a ratio is the median of the ratios within each round."""
    yield "## Throughput"
    yield ""
    yield (
        f"{plan.users:,} users and {plan.tasks:,} tasks; {plan.rounds} rounds of {plan.seconds} s a cell, the"
        " contestants in turn; medians. A ratio is the median of the ratios within each round. CPU is that of"
        " all the processes of a contestant, and of PostgreSQL, for each request. Of 100 requests of the mix"
        f" 70 read. *plain* is not asked over {CROWD} connections: it stands still there, because those who"
        " hold a connection wait for a thread, and the threads for a connection."
    )
    yield ""
    names = ["work", "connections", "contestant", "requests/s", "p50 ms", "p99 ms", "errors"]
    names += ["CPU µs", "database CPU µs", "of plain", "of floor"]
    works = [(work, connections) for work in plan.works for connections in plan.connections]
    rows = (
        _row(samples, each.name, work, connections)
        for work, connections in works
        for each in _able(contestants, connections)
    )
    yield from table(names, rows)
    if CROWD in plan.connections:
        yield from _crowd_lines(plan, [each.name for each in _able(contestants, CROWD)], samples)
    for each in contestants:
        megabytes = ", ".join(f"{memory_megabytes(pid):.0f}" for pid in each.workers())
        yield f"- memory of the workers of {each.name} at the end: {megabytes} MB"
    yield ""


def _row(samples: Samples, name: str, work: str, connections: int) -> list[str]:
    own = samples[name, work, connections]
    others = [samples[other, work, connections] for other in ("plain", "floor")]
    return [
        *[work, str(connections), name, f"{_median(own, 'rate'):.0f}"],
        *[f"{_median(own, kind):.1f}" for kind in ("p50", "p99")],
        str(_errors(own)),
        *[f"{_median(own, kind):.0f}" for kind in ("service_cpu", "database_cpu")],
        *[f"{_ratio(own, other):.2f}" if other else "–" for other in others],
    ]


def _errors(samples: Sequence[Sample]) -> int:
    return sum(sample.errors for sample in samples)


def _median(samples: Sequence[Sample], name: str) -> float:
    values: list[float] = [getattr(sample, name) for sample in samples]
    return statistics.median(values)


def _ratio(samples: Sequence[Sample], others: Sequence[Sample]) -> float:
    return statistics.median(one.rate / other.rate for one, other in zip(samples, others, strict=True))
