"""PgBouncer in front of a PostgreSQL server, configured like Neon's pooler.

Transaction mode; only start-up parameters that PgBouncer tracks itself are accepted.
It opens fewer connections to the server than clients open to it, so that they share.
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
"""For each database and user: fewer than one worker's DB_POOL_SIZE."""

# auth_user: the superuser looks up the roles that tests create.
# stats_users: it may query the pools, in the database `pgbouncer`.
# server_login_retry: reconnect to an unreachable server after 1 s instead of 15.
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
stats_users = {server.username}
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 1000
server_login_retry = 1
"""


@contextmanager
def pooler(program: str, server: URL, port: int | None = None) -> Iterator[URL]:
    """Run PgBouncer in front of all databases of `server`; yields the superuser's URL through it."""
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
