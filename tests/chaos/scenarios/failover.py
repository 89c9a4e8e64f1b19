"""Failover to a promoted standby, and a full disk."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from tests.chaos.environment import Environment, MakeRoute, Route, own_server
from tests.chaos.program import signal_all
from tests.chaos.proxy import proxy
from tests.chaos.runner import Run, Scenario
from tests.chaos.servers import Postgres, platform_environment, release
from tests.environment import Sql
from tests.support import wait_until

DISK_SIZE = "96m"
SMALL_WAL = ("--wal-segsize=1", "--set=min_wal_size=2MB", "--set=max_wal_size=8MB")


class Replicated(Route):
    """The service connects through a proxy, which a failover redirects to the standby."""

    standby: Postgres


def replicated(*, synchronous: bool) -> MakeRoute:
    @contextmanager
    def route(environment: Environment) -> Iterator[Route]:
        with ExitStack() as stack:
            primary = environment.new_postgres(stack)
            release(platform_environment(primary.url, primary.url, {}))
            standby = primary.clone(environment.folder("standby"))
            stack.callback(standby.kill)
            _wait_for_standby(primary, "sync" if synchronous else "async")
            tcp_proxy = stack.enter_context(proxy(primary.url, environment.seed))
            made = Replicated(primary, tcp_proxy.url, proxy=tcp_proxy)
            made.standby = standby
            yield made

    return route


def _wait_for_standby(primary: Postgres, state: str) -> None:
    """Wait until the standby streams in the given sync state."""
    with closing(Sql(primary.url)) as sql:
        if state == "sync":
            sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
            primary.reload()
        query = "SELECT pid FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = %s"
        wait_until(lambda: sql(query, state), "the standby does not stream")


@contextmanager
def promoted(run: Run) -> Iterator[None]:
    _promote(run)
    yield


@contextmanager
def promoted_while_lagging(run: Run) -> Iterator[None]:
    """Replication stops half a second before the primary is lost, so that writes are lost."""
    assert isinstance(run.route, Replicated)
    with closing(Sql(run.route.standby.url)) as sql:
        [[receiver]] = sql("SELECT pid FROM pg_stat_wal_receiver")
    signal_all([receiver], signal.SIGSTOP)
    run.sleep(0.5)
    signal_all([receiver], signal.SIGKILL)
    _promote(run)
    yield


def _promote(run: Run) -> None:
    route = run.route
    assert isinstance(route, Replicated)
    assert route.proxy is not None
    started_at = time.monotonic()
    route.postgres.kill()
    route.standby.run("pg_ctl", "promote", "-w", "-D", str(route.standby.data))
    route.proxy.redirect(route.standby.port)
    route.postgres = route.standby
    run.notes.append(f"promoted within {time.monotonic() - started_at:.1f} s")


@contextmanager
def standby_frozen(run: Run) -> Iterator[None]:
    """Every write waits for the synchronous standby."""
    assert isinstance(run.route, Replicated)
    run.route.standby.freeze()
    run.sleep(7)
    run.route.standby.thaw()
    yield


def cannot_mount() -> str | None:
    if os.geteuid() != 0:
        return "a small file system can be mounted only by root"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False)
        if done.returncode:
            return f"no file system can be mounted here: {done.stderr.decode().strip()}"
        subprocess.run(["umount", folder], check=True)
    return None


@contextmanager
def on_small_disk(environment: Environment) -> Iterator[Route]:
    """The whole cluster, including WAL, on a small tmpfs."""
    with ExitStack() as stack:
        home = environment.folder("disk")
        home.mkdir()
        options = f"size={DISK_SIZE},mode=755"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(home)], check=True)
        stack.callback(subprocess.run, ["umount", "--lazy", str(home)], check=True)
        yield stack.enter_context(own_server(environment, home, *SMALL_WAL))


@contextmanager
def disk_full(run: Run) -> Iterator[None]:
    """PostgreSQL may shut down when it cannot write WAL; restart it then, as a supervisor would."""
    filler = run.postgres.home / "ballast"
    _fill(filler)
    run.sleep(5)
    filler.unlink()
    if not run.postgres.running:
        run.notes.append("PostgreSQL had ended")
        run.postgres.start()
    run.postgres.wait_until_up()
    run.expect(run.count(503) > 0, "the full disk was not noticed")
    yield


def _fill(filler: Path) -> None:
    block = bytes(65536)
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(block):
                pass
        except OSError:
            return


SCENARIOS = [
    Scenario("disk full", disk_full, on_small_disk, skip_reason=cannot_mount),
    Scenario("standby promoted, synchronous", promoted, replicated(synchronous=True)),
    Scenario(
        "standby promoted, asynchronous",
        promoted_while_lagging,
        replicated(synchronous=False),
        data_loss_allowed=True,
    ),
    Scenario("synchronous standby hung", standby_frozen, replicated(synchronous=True)),
]
