"""The servers of the chaos tests: PostgreSQL, PgBouncer, Redis and gunicorn."""

import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx2
import psycopg2
from sqlalchemy import URL

from tests.chaos.program import Program, listens
from tests.environment import ROOT, Sql, libpq_url, redis_server, require_program
from tests.pooler import CONFIGURATION
from tests.process.service import service_environment
from tests.support import wait_until
from tools.postgres import (
    SUPERUSER,
    Failure,
    chown_to_server_user,
    free_port,
    package_folder,
    readable_copy,
    server_identity,
)

POOLER_CONNECTIONS = 5
"""PgBouncer's connections to the server: fewer than the workers' connections to PgBouncer."""

DATABASE = "tasks"

# The deadline of a request is 2 + 2 + 1 s: connect and statement timeout plus grace.
TIMEOUTS = {"DB_CONNECT_TIMEOUT": "2", "DB_STATEMENT_TIMEOUT": "2", "DB_POOL_TIMEOUT": "2"}
DEADLINE = 5.0

WORKERS, POOL_SIZE = 2, 4
MAX_CONNECTIONS = WORKERS * POOL_SIZE
"""The maximum number of database connections of the service."""


def binaries(home: Path) -> Path:
    """PostgreSQL's programs, at a path that the server's user can read."""
    package = package_folder()
    if os.geteuid() == 0:
        package = readable_copy(package, home)
    return package / "pginstall" / "bin"


class Postgres(Program):
    """A durable PostgreSQL (fsync on) on a free port."""

    def __init__(self, programs: Path, home: Path, password: str) -> None:
        self._programs = programs
        self.home = home
        self.data = home / "data"
        self.port = free_port()
        self.url = URL.create("postgresql", SUPERUSER, password, "127.0.0.1", self.port, DATABASE)
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "60",
            "fsync": "on",
            "synchronous_commit": "on",
            "max_wal_senders": "4",
            "hot_standby": "on",
        }
        flags = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        super().__init__(
            [str(programs / "postgres"), "-D", str(self.data), *flags],
            home / "log",
            environment={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            cwd=home,
            unprivileged=True,
        )

    @classmethod
    def create(cls, programs: Path, home: Path, *options: str) -> "Postgres":
        """Create and start a cluster with an empty database."""
        home.mkdir(exist_ok=True)
        password = home / "password"
        password.write_text(secrets.token_urlsafe(16))
        chown_to_server_user(home, password)
        postgres = cls(programs, home, password.read_text())
        postgres.run(
            "initdb",
            f"--pgdata={postgres.data}",
            f"--username={SUPERUSER}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            *options,
        )
        postgres.start()
        postgres.wait_until_up()
        with closing(Sql(postgres.url.set(database="postgres"))) as sql:
            sql(f"CREATE DATABASE {DATABASE}")
        return postgres

    def clone(self, home: Path) -> "Postgres":
        """Create and start a streaming replica of this server."""
        home.mkdir()
        chown_to_server_user(home)
        replica = Postgres(self._programs, home, str(self.url.password))
        source = libpq_url(self.url.update_query_dict({"application_name": "standby"}))
        self.run("pg_basebackup", "-d", source, "-D", str(replica.data), "-R", "-X", "stream", "-c", "fast")
        replica.start()
        replica.wait_until_up()
        return replica

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs as the server's user."""
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            cwd=self.home,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            **server_identity(),
            check=False,
        )
        if done.returncode:
            raise Failure(f"{program} failed: {done.stderr.strip()}")

    def answers(self) -> bool:
        try:
            psycopg2.connect(libpq_url(self.url.set(database="postgres")), connect_timeout=2).close()
        except psycopg2.OperationalError:
            return False
        return True

    def wait_until_up(self) -> None:
        def up() -> bool:
            if not self.running:
                raise Failure(f"PostgreSQL ended: {self.output.read_text()[-500:]}")
            return self.answers()

        wait_until(up, "PostgreSQL does not answer")

    def restart(self) -> None:
        """Fast shutdown, which terminates sessions, and start."""
        self.stop(signal.SIGINT)
        self.start()

    def reload(self) -> None:
        self.send(signal.SIGHUP)

    def backends(self, where: str = "true") -> list[int]:
        """The process IDs of the service's sessions, direct or through PgBouncer."""
        query = f"SELECT pid FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid() AND {where}"
        with closing(Sql(self.url)) as sql:
            return [pid for (pid,) in sql(query, DATABASE)]

    def terminate_backends(self) -> None:
        query = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = %s AND pid <> pg_backend_pid()"
        )
        with closing(Sql(self.url.set(database="postgres"))) as sql:
            sql(query, DATABASE)


class Pooler(Program):
    """PgBouncer in front of PostgreSQL, in transaction mode like Neon's."""

    def __init__(self, home: Path, server: URL) -> None:
        home.mkdir()
        self.home = home
        self.port = free_port()
        self.url = server.set(port=self.port)
        self._configuration = CONFIGURATION.format(
            server=server, port=self.port, home=home, connections=POOLER_CONNECTIONS
        )
        (home / "users").write_text(f'"{server.username}" "{server.password}"\n')
        self.configure()
        chown_to_server_user(home, *home.iterdir())
        super().__init__(
            [require_program("pgbouncer"), str(home / "pgbouncer.ini")],
            home / "log",
            cwd=home,
            unprivileged=True,
        )

    def configure(self, **changes: str) -> None:
        """Write the configuration with changes; takes effect on start or reload."""
        lines = "".join(f"{name} = {value}\n" for name, value in changes.items())
        (self.home / "pgbouncer.ini").write_text(self._configuration + lines)

    def start(self) -> None:
        super().start()
        wait_until(lambda: listens(self.port), "PgBouncer does not listen")

    def reload(self) -> None:
        before = self._reloads()
        self.send(signal.SIGHUP)
        wait_until(lambda: self._reloads() > before, "PgBouncer does not reload")

    def _reloads(self) -> int:
        return self.output.read_text(errors="replace").count("re-reading config")


class Redis(Program):
    """Redis without persistence."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(home)]
        super().__init__([redis_server(), *options], home / "log")

    def start(self) -> None:
        super().start()
        wait_until(lambda: listens(self.port), "Redis does not listen")


@contextmanager
def running_redis(folder: Path) -> Iterator[Redis]:
    """A Redis whose files are in a new folder within this one; it can be stopped and started again."""
    server = Redis(folder / "redis")
    server.start()
    try:
        yield server
    finally:
        server.kill()


def procfile(process: str, code: Path = ROOT) -> list[str]:
    """The arguments of a Procfile command."""
    lines = dict(line.split(": ", 1) for line in (code / "Procfile").read_text().splitlines() if line)
    return shlex.split(lines[process])


def platform_environment(service: URL, direct: URL, settings: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that a platform sets; PATH starts with the virtualenv."""
    given = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DATABASE_URL_UNPOOLED": libpq_url(direct),
        "WEB_CONCURRENCY": str(WORKERS),
        "DB_POOL_SIZE": str(POOL_SIZE),
        **TIMEOUTS,
        **settings,
    }
    return service_environment(service, **given)


def release(environment: Mapping[str, str], code: Path = ROOT) -> None:
    """Run the Procfile's release command."""
    command = procfile("release", code)
    done = subprocess.run(
        [shutil.which(command[0], path=environment["PATH"]) or command[0], *command[1:]],
        cwd=code,
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failure(f"The release failed: {done.stdout}{done.stderr}")


class Web(Program):
    """The Procfile's web command."""

    def __init__(self, environment: Mapping[str, str], output: Path, code: Path = ROOT) -> None:
        command = procfile("web", code)
        program = shutil.which(command[0], path=environment["PATH"]) or command[0]
        super().__init__([program, *command[1:]], output, environment=environment, cwd=code)
        self.port = int(environment["PORT"])

    def wait_until_ready(self) -> None:
        with httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=5) as client:
            wait_until(lambda: self._ready(client), f"not ready; see {self.output}")

    def _ready(self, client: httpx2.Client) -> bool:
        if not self.running:
            raise Failure(f"gunicorn ended: {self.output.read_text()[-2000:]}")
        with suppress(httpx2.TransportError):
            return client.get("/health/ready").status_code == 200
        return False
