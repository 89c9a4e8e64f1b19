"""OpenTelemetry, enabled through environment variables: which data reaches the collector."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from sqlalchemy import URL

from tests.environment import libpq_url
from tests.process.otlp import Collector, attributes, collector
from tests.process.service import TIMEOUT_SECONDS, Service, running_service, service_environment
from tests.support import SECRET, TASKS
from tools.postgres import free_port
from tools.tokens import mint

CALLER_TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER_SPAN = "b7ad6b7169203331"
TRACEPARENT = f"00-{CALLER_TRACE}-{CALLER_SPAN}-01"


@pytest.fixture
def collected() -> Iterator[Collector]:
    with collector() as received:
        yield received


def tracing_environment(database: URL, collected: Collector, **changes: str) -> dict[str, str]:
    """The variables that the README documents."""
    return service_environment(
        database,
        OTEL_EXPORTER_OTLP_ENDPOINT=collected.endpoint,
        OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20mark-collector",
        OTEL_SERVICE_NAME="tasks-api",
        **changes,
    )


def request_log_line(service: Service) -> dict[str, object]:
    [line] = [line for line in service.lines() if line.get("route") == TASKS]
    return line


def spans_by_name(collected: Collector) -> dict[str, Span]:
    return {span.name: span for span in collected.spans() if "health" not in span.name}


@pytest.mark.spec("process.tracing", "process.logs.trace")
def test_a_request_is_traced_from_its_caller_to_its_statement(
    database_url: URL, collected: Collector, tmp_path: Path
) -> None:
    headers = {"Authorization": f"Bearer {mint(SECRET, 'somebody')}", "traceparent": TRACEPARENT}
    with running_service(tracing_environment(database_url, collected), tmp_path / "output") as service:
        response = service.client.get(TASKS, headers=headers)
        assert response.status_code == 200
        service.stop()
    spans = spans_by_name(collected)
    assert spans.keys() == {f"GET {TASKS}", "wait for a connection", "list_tasks"}
    request, wait, statement = spans[f"GET {TASKS}"], spans["wait for a connection"], spans["list_tasks"]

    assert {span.trace_id.hex() for span in spans.values()} == {CALLER_TRACE}
    assert request.parent_span_id.hex() == CALLER_SPAN
    assert wait.parent_span_id == statement.parent_span_id == request.span_id
    assert [request.kind, wait.kind, statement.kind] == [
        Span.SPAN_KIND_SERVER,
        Span.SPAN_KIND_INTERNAL,
        Span.SPAN_KIND_CLIENT,
    ]
    assert (
        request.start_time_unix_nano
        <= wait.start_time_unix_nano
        <= wait.end_time_unix_nano
        == statement.start_time_unix_nano
        <= statement.end_time_unix_nano
        <= request.end_time_unix_nano
    )
    assert attributes(statement.attributes) == {
        "db.system.name": "postgresql",
        "db.query.summary": "list_tasks",
    }
    line = request_log_line(service)
    assert line["trace_id"] == CALLER_TRACE
    assert line["span_id"] == request.span_id.hex()
    assert collected.paths() == {"/v1/traces", "/v1/metrics"}


@pytest.mark.spec("process.tracing.secrets", "process.logs.secrets")
def test_spans_contain_no_request_data_but_the_route(
    database_url: URL, collected: Collector, tmp_path: Path
) -> None:
    token = mint(SECRET, "mark-user")
    headers = {
        "Authorization": f"Bearer {token}",
        "Cookie": "mark=mark",
        "User-Agent": "mark",
        "baggage": "mark=mark",
    }
    with running_service(tracing_environment(database_url, collected), tmp_path / "output") as service:
        send = service.client.request
        body = {"title": "mark-title", "description": "mark-description", "tags": ["mark-tag"]}
        created = send("POST", f"{TASKS}?mark=mark", json=body, headers=headers)
        created = created if created.is_success else send("POST", TASKS, json=body, headers=headers)
        path = f"{TASKS}/{created.json()['id']}"
        assert send("GET", path, headers=headers).status_code == 200
        assert send("GET", f"{TASKS}/mark?mark=mark&sig=mark", headers=headers).status_code == 422
        assert send("GET", "/mark?mark", headers=headers).status_code == 404
        assert send("GET", f"{TASKS}?cursor=mark&access_token={token}", headers=headers).status_code == 422
        assert send("POST", TASKS, content=b"mark{", headers=headers).status_code in {400, 415}
        assert send("GET", TASKS, headers={"Authorization": "Bearer mark"}).status_code == 401
        service.stop()
    assert len(collected.spans()) > 8
    for kept in ("mark", token, SECRET, created.json()["id"], str(database_url.password)):
        for where, payload in collected.payloads:
            assert kept.encode() not in payload, f"{kept} in {where}"
    assert "mark-collector" not in (tmp_path / "output").read_text()


@pytest.mark.spec("process.tracing")
def test_an_unreachable_database_fails_the_wait_span(
    collected: Collector, database_url: URL, tmp_path: Path
) -> None:
    absent = database_url.set(host="127.0.0.1", port=free_port())
    with running_service(tracing_environment(absent, collected), tmp_path / "output") as service:
        response = service.client.get(TASKS, headers={"Authorization": f"Bearer {mint(SECRET, 'somebody')}"})
        assert response.status_code == 503
        service.stop()
    spans = spans_by_name(collected)
    assert spans.keys() == {f"GET {TASKS}", "wait for a connection"}
    wait = spans["wait for a connection"]
    assert wait.status.code == Status.STATUS_CODE_ERROR
    assert not wait.status.message
    assert not wait.events
    assert attributes(wait.attributes) == {"error.type": "OperationalError"}


@pytest.mark.spec("process.tracing")
def test_a_failed_statement_is_an_error(database_url: URL, collected: Collector, tmp_path: Path) -> None:
    environment = tracing_environment(database_url, collected, DB_STATEMENT_TIMEOUT="0.5")
    headers = {"Authorization": f"Bearer {mint(SECRET, 'somebody')}"}
    with (
        running_service(environment, tmp_path / "output") as service,
        closing(psycopg2.connect(libpq_url(database_url))) as other,
        other.cursor() as cursor,
    ):
        cursor.execute("LOCK TABLE tasks")
        assert service.client.get(TASKS, headers=headers).status_code == 503
        service.stop()
    statement = spans_by_name(collected)["list_tasks"]
    assert statement.status.code == Status.STATUS_CODE_ERROR
    assert not statement.status.message
    assert not statement.events
    assert attributes(statement.attributes) == {
        "db.system.name": "postgresql",
        "db.query.summary": "list_tasks",
        "db.response.status_code": "57014",
        "error.type": "57014",
    }


@pytest.mark.spec("process.tracing", "headers.server-timing")
@pytest.mark.parametrize("changes", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}])
def test_tracing_is_off_without_an_endpoint_or_when_disabled(
    database_url: URL, collected: Collector, tmp_path: Path, changes: dict[str, str]
) -> None:
    environment = tracing_environment(database_url, collected) | changes
    headers = {"Authorization": f"Bearer {mint(SECRET, 'somebody')}", "traceparent": TRACEPARENT}
    with running_service(environment, tmp_path / "output") as service:
        response = service.client.get(TASKS, headers=headers)
        service.stop()
    assert re.fullmatch(r"db;dur=\d+\.\d, wait;dur=\d+\.\d", response.headers["server-timing"])
    assert collected.payloads == []
    assert "trace_id" not in request_log_line(service)


@pytest.mark.spec("process.tracing")
def test_traceparent_is_ignored_without_propagators(
    database_url: URL, collected: Collector, tmp_path: Path
) -> None:
    environment = tracing_environment(database_url, collected, OTEL_PROPAGATORS="none")
    headers = {"Authorization": f"Bearer {mint(SECRET, 'somebody')}", "traceparent": TRACEPARENT}
    with running_service(environment, tmp_path / "output") as service:
        assert service.client.get(TASKS, headers=headers).status_code == 200
        service.stop()
    request = spans_by_name(collected)[f"GET {TASKS}"]
    assert not request.parent_span_id
    assert request.trace_id.hex() != CALLER_TRACE


@pytest.mark.spec("process.tracing", "process.logs.secrets")
def test_shutdown_does_not_wait_for_an_unreachable_collector(database_url: URL, tmp_path: Path) -> None:
    environment = service_environment(
        database_url,
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}",
        OTEL_EXPORTER_OTLP_HEADERS="mark-collector",
    )
    with running_service(environment, tmp_path / "output") as service:
        started = time.monotonic()
        service.stop()
        assert time.monotonic() - started < 20
    assert "mark-collector" not in (tmp_path / "output").read_text()


@pytest.mark.spec("process.tracing")
def test_a_hung_collector_does_not_delay_requests(database_url: URL, tmp_path: Path) -> None:
    """It accepts connections and never responds; an export waits longer for it than the client would."""
    headers = {"Authorization": f"Bearer {mint(SECRET, 'somebody')}"}
    with socket.create_server(("127.0.0.1", 0)) as hung:
        environment = service_environment(
            database_url,
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{hung.getsockname()[1]}",
            OTEL_EXPORTER_OTLP_TIMEOUT=str(2 * TIMEOUT_SECONDS),
            OTEL_BSP_SCHEDULE_DELAY="1",
        )
        with running_service(environment, tmp_path / "output") as service:
            hung.settimeout(TIMEOUT_SECONDS)
            export, _ = hung.accept()
            with export:
                assert service.client.get(TASKS, headers=headers).status_code == 200
