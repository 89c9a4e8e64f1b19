"""gunicorn as the Procfile starts it, with real signals and failures."""

import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.database.test_scope import Locked
from tests.environment import ROOT, Sql
from tests.process.load import load
from tests.process.service import (
    TIMEOUT_SECONDS,
    Service,
    configuration_with,
    running_service,
    service_environment,
    start,
)
from tests.protocol_proxy import protocol_proxy
from tests.support import SECRET, TASKS, wait_until
from tools.postgres import free_port
from tools.tokens import mint


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


def authorization(user_id: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {mint(SECRET, user_id)}"}


@pytest.mark.spec("process.settings")
def test_invalid_settings_end_the_process(database_url: URL, tmp_path: Path) -> None:
    environment = service_environment(
        database_url, BETTER_AUTH_SECRET="tooshort", DB_POOL_SIZE="lots", CORS_ORIGINS="*"
    )
    for command in (["gunicorn", "main:app"], ["alembic", "upgrade", "head"]):
        if command[0] == "alembic":
            environment["DATABASE_URL"] = "mysql://app:hunter2@localhost/x"
        ended = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert ended.returncode == 1
        assert ended.stdout == ""
        assert ended.stderr.startswith("Invalid settings:\n")
        assert "Traceback" not in ended.stderr
        for value in ("tooshort", "lots", "hunter2", str(database_url.password)):
            assert value not in ended.stderr
        if command[0] == "gunicorn":
            assert [line.split(":")[0].strip() for line in ended.stderr.splitlines()[1:]] == [
                "DB_POOL_SIZE",
                "BETTER_AUTH_SECRET",
                "CORS_ORIGINS",
            ]


@pytest.mark.spec("process.database-absent")
def test_it_waits_for_the_database(database_url: URL, output: Path) -> None:
    port = free_port()
    absent = database_url.set(host="127.0.0.1", port=port)
    with running_service(service_environment(absent), output) as service:
        assert service.wait_for("/health/ready", 503).json()["type"] == "/problems/unavailable"
        response = service.client.get(TASKS, headers=authorization("somebody"))
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        with protocol_proxy(database_url, port):
            service.wait_for("/health/ready", 200)
            assert service.client.get(TASKS, headers=authorization("somebody")).status_code == 200
        service.wait_for("/health/ready", 503)
        assert service.client.get("/health/live").status_code == 200


@pytest.mark.spec("process.stop")
def test_shutdown_completes_requests_in_flight(database_url: URL, sql: Sql, output: Path) -> None:
    with (
        running_service(service_environment(database_url, DB_STATEMENT_TIMEOUT="30"), output) as service,
        ThreadPoolExecutor() as threads,
    ):
        headers = authorization(f"stopped-{uuid.uuid4()}")
        task = service.client.post(TASKS, headers=headers, json={"title": "before"}).json()
        with Locked(database_url, task["id"]) as lock:
            path = f"{TASKS}/{task['id']}"
            change = threads.submit(service.client.patch, path, headers=headers, json={"title": "after"})
            lock.wait_for_waiter(sql)
            service.process.send_signal(signal.SIGTERM)
            wait_until_refused(int(str(service.client.base_url.port)))
            lock.release()
        response = change.result()
        assert (response.status_code, response.json()["title"]) == (200, "after")
        assert service.process.wait(TIMEOUT_SECONDS) == 0
    assert sql("SELECT title FROM tasks WHERE id = %s", task["id"]) == [("after",)]


# A worker's event loop whose clock jumps to the next timer: prints when gunicorn's own handler is called.
STOP_A_WORKER = """
import asyncio, os, runpy, selectors, signal, sys
from types import SimpleNamespace
import main

class Loop(asyncio.SelectorEventLoop):
    now = 0.0

    def time(self):
        return self.now

class Selector(selectors.DefaultSelector):
    def select(self, timeout=None):
        ready = super().select(0)
        loop.now += 0 if ready else timeout or 0
        return ready

loop = Loop(Selector())
configuration = runpy.run_path("gunicorn.conf.py")
worker = SimpleNamespace(
    loop=loop, handle_exit_signal=loop.stop, app=SimpleNamespace(wsgi=lambda: main.app)
)
stop = lambda: os.kill(os.getpid(), signal.SIGTERM)
configuration["post_fork"](None, worker)
if sys.argv[1] == "starting":
    stop()
configuration["post_worker_init"](worker)
if sys.argv[1] == "running":
    loop.call_soon(stop)
loop.run_forever()
print(loop.now)
"""


@pytest.mark.spec("process.stop")
@pytest.mark.parametrize("state", ["starting", "running"])
def test_a_worker_stops_one_second_after_sigterm(database_url: URL, state: str) -> None:
    printed = subprocess.run(
        [sys.executable, "-c", STOP_A_WORKER, state],
        cwd=ROOT,
        env=service_environment(database_url),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=True,
    )
    assert float(printed.stdout) == 1


@pytest.fixture
def endless_drain(tmp_path: Path) -> Path:
    """The configuration with a delay after SIGTERM that does not end during a test."""
    return configuration_with("DRAIN_SECONDS = 3600", tmp_path)


@pytest.mark.spec("process.stop")
def test_new_requests_are_answered_after_sigterm(
    database_url: URL, output: Path, endless_drain: Path
) -> None:
    environment = service_environment(database_url)
    with (
        running_service(environment, output, endless_drain) as service,
        load(int(environment["PORT"])) as clients,
    ):
        clients.wait_for_responses()
        service.process.send_signal(signal.SIGTERM)
        # Without the delay, gunicorn would notice the signal within a second and close the port.
        threading.Event().wait(1.5)
        clients.wait_for_responses()
    assert {each.status for each in clients.exchanges} == {200, 201}


def wait_until_refused(port: int) -> None:
    """Wait until the port is closed, from /proc/net/tcp (state 0A, proc(5)), without connecting."""
    mark = f":{port:04X} 00000000:0000 0A"
    wait_until(lambda: mark not in Path("/proc/net/tcp").read_text(), "the port is still open")


@pytest.mark.parametrize(
    ("folder", "chosen"), [("/dev/shm", "/dev/shm"), ("/proc", "None"), ("/nowhere", "None")]
)
def test_the_heartbeat_folder_must_be_writable(database_url: URL, folder: str, chosen: str) -> None:
    """/proc accepts no files, not even from root."""
    code = (
        "import pathlib, runpy; conf = runpy.run_path('gunicorn.conf.py');"
        f" print(conf['heartbeat_folder'](pathlib.Path('{folder}')))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=service_environment(database_url),
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.strip() == chosen


@pytest.mark.spec("process.connections")
@pytest.mark.parametrize(("descriptors", "connections"), [(1_200, 1_000), (512, 384)])
def test_worker_connections_leave_128_file_descriptors_free(
    database_url: URL, descriptors: int, connections: int
) -> None:
    code = (
        f"import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors}, 1_500));"
        " print(runpy.run_path('gunicorn.conf.py')['worker_connections'])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=service_environment(database_url),
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(printed.stdout) == connections


def test_the_application_is_built_once(database_url: URL) -> None:
    code = "import main; assert main.app is main.app"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=service_environment(database_url), check=True)


@pytest.mark.parametrize("host", ["::1", "::"])
def test_it_listens_on_ipv6(database_url: URL, output: Path, host: str) -> None:
    environment = service_environment(database_url, HOST=host)
    process = start([sys.executable, "-m", "gunicorn", "main:app"], environment, output)
    service = Service(process, f"http://[::1]:{environment['PORT']}", output)
    try:
        assert service.wait_for("/health/live", 200).json() == {"status": "live"}
    finally:
        service.client.close()
        process.kill()
        process.wait()


@pytest.mark.spec("process.logs", "http.head")
def test_the_log_is_json_lines(database_url: URL, output: Path) -> None:
    user_id = f"logged-{uuid.uuid4()}"
    with running_service(
        service_environment(database_url, GUNICORN_CMD_ARGS="--access-logfile -"), output
    ) as service:
        created = service.client.post(TASKS, headers=authorization(user_id), json={"title": "x"}).json()
        path = f"{TASKS}/{created['id']}"
        service.client.get(path, headers={**authorization(user_id), "X-Request-ID": "mine"})
        service.client.get(TASKS)
        service.client.get("/nowhere")
        service.client.head("/health/live")
        service.stop()
    requests = [
        line
        for line in service.lines()
        if line["message"] == "request" and line.get("route") != "/health/live"
    ]
    seen = [(line["method"], line.get("route"), line["status"], line.get("user_id")) for line in requests]
    assert seen == [
        ("POST", "/api/tasks", 201, user_id),
        ("GET", "/api/tasks/{task_id}", 200, user_id),
        ("GET", "/api/tasks", 401, None),
        ("GET", None, 404, None),
    ]
    assert requests[1]["request_id"] == "mine"
    # gunicorn would warn about a body in a response to HEAD.
    assert {line["level"] for line in service.lines()} == {"INFO"}
    for line in requests:
        assert isinstance(line["duration_ms"], float)
        assert line["request_id"]
        assert line["level"] == "INFO"
        assert str(line["time"]).endswith("+00:00")


@contextmanager
def inserts_quoted(sql: Sql) -> Iterator[None]:
    """Make inserts fail with an error that quotes the title.

    A check constraint would not do: under row security, PostgreSQL omits the failing row.
    """
    sql(
        "CREATE FUNCTION quote_title() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'refused: %', NEW.title; END $$;"
        "CREATE TRIGGER quote_title BEFORE INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION quote_title()"
    )
    try:
        yield
    finally:
        sql("DROP FUNCTION quote_title CASCADE")


@pytest.mark.spec("process.logs.secrets")
def test_secrets_are_not_logged(database_url: URL, output: Path, sql: Sql) -> None:
    """Through valid and invalid requests, a lost database and a damaged schema."""
    user_id = f"secretive-{uuid.uuid4()}"
    good = authorization(user_id)
    bad = {"Authorization": f"Bearer {mint('another secret that nobody knows', user_id)}"}
    body = {"title": "mark-title", "description": "mark-description", "tags": ["mark-tag"]}
    port = free_port()
    with running_service(
        service_environment(database_url.set(port=port), LOG_LEVEL="DEBUG"), output
    ) as service:
        client = service.client
        client.post(TASKS, headers=good, json=body)
        with protocol_proxy(database_url, port):
            task = client.post(TASKS, headers=good, json=body).json()
            path = f"{TASKS}/{task['id']}"
            client.put(path, headers=good, json={**body, "mark-unknown": "mark-value"})
            client.patch(path, headers=good, json={"priority": "mark-priority"})
            client.post(
                TASKS, headers=good, content=b'{"title": "mark-malformed', params={"mark": "mark-query"}
            )
            client.get(f"{TASKS}/mark-path", headers=good)
            client.get(TASKS, headers=bad)
            client.get(TASKS, headers={"Authorization": "Bearer mark-token"})
            client.get(TASKS, headers={"Cookie": "session=mark-cookie"})
            with inserts_quoted(sql):
                broken = client.post(TASKS, headers=good, json={"title": "mark-broken"})
            assert broken.status_code == 500
            assert broken.json()["detail"] == "Unexpected error. Report it with the request ID."
        client.get(TASKS, headers=good)
        service.stop()
    logged = output.read_text()
    assert "SQLSTATE P0001" in logged
    for secret in (
        "mark",
        SECRET,
        str(database_url.password),
        good["Authorization"][7:],
        bad["Authorization"][7:],
        "postgres://",
        "postgresql://",
    ):
        assert secret not in logged
    assert service.lines()
