"""PgBouncer before a PostgreSQL server, set as Neon's pooler is.

Transaction mode, and no start-up parameters but those that PgBouncer follows
itself. It has fewer connections to the server than the tests have to it, so that
callers share them.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL

from tests.support import wait_until
from tools.postgres import Failure, chown_to_server_user, free_port, server_identity
from tools.serve import end_with_parent

SERVER_CONNECTIONS = 2
"""For each database and user: less than one service's DB_POOL_SIZE."""

# Roles that a test makes are looked up on the server; the superuser does that.
# A server that did not answer is asked again after a second, not after 15.
CONFIGURATION = """\
[databases]
* = host={server.host} port={server.port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {home}/users
auth_user = {server.username}
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 1000
server_login_retry = 1
"""


@contextmanager
def pooler(program: str, server: URL, port: int | None = None) -> Iterator[URL]:
    """Run PgBouncer before all databases of `server`; yields the superuser's URL through it."""
    port = free_port() if port is None else port
    with tempfile.TemporaryDirectory(prefix="tasks-api-pooler-") as directory:
        home = Path(directory)
        _write_files(home, server, port)
        process = _start(program, home)
        try:
            _wait_until_up(process, port, home / "log")
            yield server.set(host="127.0.0.1", port=port)
        finally:
            process.kill()
            process.wait()


def _write_files(home: Path, server: URL, port: int) -> None:
    settings = CONFIGURATION.format(server=server, port=port, home=home, connections=SERVER_CONNECTIONS)
    (home / "pgbouncer.ini").write_text(settings)
    (home / "users").write_text(f'"{server.username}" "{server.password or ""}"\n')
    chown_to_server_user(home, *home.iterdir())


def _start(program: str, home: Path) -> subprocess.Popen[bytes]:
    """PgBouncer refuses to run as root, as PostgreSQL does."""
    with (home / "log").open("wb") as log:
        return subprocess.Popen(
            [program, str(home / "pgbouncer.ini")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            **server_identity(),
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509
        )


def _wait_until_up(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    def up() -> bool:
        said = log.read_text(errors="replace")
        if process.poll() is not None:
            raise Failure(f"PgBouncer did not start on port {port}: {said.rpartition('] ')[2].strip()}")
        return "process up" in said

    wait_until(up, "PgBouncer does not start")
