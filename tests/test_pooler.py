"""The PgBouncer of the tests: as strict as Neon's pooler, and stopped with the test run."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy import URL

from tests.environment import ROOT, Sql, libpq_url, new_database, require_program
from tests.pooler import SERVER_CONNECTIONS, pooler
from tests.protocol_proxy import PROTOCOL_VERSION
from tests.support import wait_until
from tools.postgres import Failure

BACKEND = "SELECT pg_backend_pid()"


@pytest.mark.parametrize("options", ["-c search_path=public", "-c statement_timeout=1"])
def test_options_are_refused(pooler_url: URL, options: str) -> None:
    with pytest.raises(psycopg2.OperationalError, match="unsupported startup parameter"):
        psycopg2.connect(libpq_url(pooler_url), options=options)


@pytest.mark.parametrize("name", ["search_path", "extra_float_digits", "statement_timeout"])
def test_start_up_parameters_are_refused(pooler_url: URL, name: str) -> None:
    """libpq never sends these, other drivers do, so the start-up message is built here."""
    words = ["user", str(pooler_url.username), "database", str(pooler_url.database), name, "1", ""]
    body = PROTOCOL_VERSION.to_bytes(4, "big") + "\0".join(words).encode() + b"\0"
    with socket.create_connection((str(pooler_url.host), pooler_url.port)) as connection:
        connection.sendall((len(body) + 4).to_bytes(4, "big") + body)
        assert f"unsupported startup parameter: {name}".encode() in connection.recv(4096)


def test_parameters_that_neon_supports_are_supported(
    pooler_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    monkeypatch.setenv("PGDATESTYLE", "ISO, DMY")
    sql = Sql(pooler_url.update_query_dict({"application_name": "x", "client_encoding": "LATIN1"}))
    names = ["application_name", "client_encoding", "TimeZone", "DateStyle"]
    found = [sql("SELECT current_setting(%s)", name)[0][0] for name in names]
    sql.close()
    assert found == ["x", "LATIN1", "Asia/Tokyo", "ISO, DMY"]


def test_clients_share_server_connections(pooler_url: URL) -> None:
    """While transactions occupy all of them, another client waits for one of the same."""
    holders, another = [Sql(pooler_url) for _ in range(SERVER_CONNECTIONS)], Sql(pooler_url)
    pools = Sql(pooler_url.set(database="pgbouncer"))
    for holder in holders:
        holder("BEGIN")
    backends = {holder(BACKEND)[0] for holder in holders}
    assert len(backends) == SERVER_CONNECTIONS
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(another, BACKEND)
        wait_until(lambda: clients_waiting(pools), "the client does not wait")
        holders[0]("COMMIT")
        assert waiting.result()[0] in backends
    for client in (*holders, another, pools):
        client.close()


def clients_waiting(pools: Sql) -> bool:
    """Whether a client waits (cl_waiting) although no server connection is being opened (sv_login)."""
    return any(pool[3] and not pool[12] for pool in pools("SHOW POOLS"))


def test_a_database_can_be_dropped_behind_it(server_url: URL, pooler_url: URL) -> None:
    with new_database(server_url) as url:
        caller = Sql(pooler_url.set(database=url.database))
        assert caller("SELECT current_database()") == [(url.database,)]
    caller.close()
    sql = Sql(server_url)
    assert sql("SELECT FROM pg_database WHERE datname = %s", url.database) == []
    sql.close()


def test_a_port_in_use_is_reported_in_one_line(server_url: URL) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(Failure, match=rf"\APgBouncer did not start on port {port}: .+\Z"),
            pooler(require_program("pgbouncer"), server_url, port),
        ):
            raise AssertionError("PgBouncer started")


def test_it_ends_with_a_run_that_is_killed(server_url: URL) -> None:
    script = (
        "import signal, sys; from sqlalchemy import make_url; from tests.pooler import pooler\n"
        "with pooler(sys.argv[1], make_url(sys.argv[2])) as url: print(url.port, flush=True); signal.pause()"
    )
    command = [sys.executable, "-c", script, require_program("pgbouncer"), libpq_url(server_url)]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "TMPDIR": folder}, stdout=subprocess.PIPE, text=True
        ) as run,
    ):
        # PgBouncer may run as another user, who needs access.
        Path(folder).chmod(0o755)
        assert run.stdout is not None
        port = int(run.stdout.readline())
        assert listens(port)
        run.send_signal(signal.SIGKILL)
    wait_until(lambda: not listens(port), "PgBouncer goes on running")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
