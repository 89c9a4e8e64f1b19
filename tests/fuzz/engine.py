"""Runs probes, set-ups and Schemathesis in this process, deterministically, with all its phases.

`make fuzz` runs it over HTTP, randomly and within a time budget: see `live`.
"""

import logging
import secrets
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import schemathesis
from fastapi import FastAPI
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import from_schema
from schemathesis.engine.events import EngineEvent, FatalError, NonFatalError, ScenarioFinished
from schemathesis.engine.recorder import ScenarioRecorder
from schemathesis.python import asgi
from schemathesis.python.asgi import ASGIApp
from sqlalchemy import URL
from starlette.testclient import TestClient

from main import create_app
from observability.logs import JsonFormatter
from settings import Settings
from tests.environment import ROOT, make_settings
from tests.fuzz import checks, probes, setups
from tests.fuzz.context import FuzzContext, Worker
from tests.fuzz.lab import SET_UPS, Service
from tests.fuzz.prober import PROBES
from tests.fuzz.schema_coverage import SchemaCoverage
from tests.fuzz.signers import SharedSecret
from tests.fuzz.situations import SITUATIONS, unmet

CONTRACT = ROOT / "specs/openapi.json"
EXAMPLES = 15
"""Per operation and phase. Limits and edges are not left to it: the probes try each of them."""


@dataclass
class Report:
    """The result of one run. `errors` are errors of the run itself, not of the service."""

    failures: list[str] = field(default_factory=list)
    """`check: request: failure`, or `situation: failure`, in order of detection."""
    errors: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    met: Counter[str] = field(default_factory=Counter)
    """How often each situation was met."""
    coverage: SchemaCoverage = field(default_factory=SchemaCoverage)
    """Of the contract, by the probes and set-ups."""
    phases: set[str] = field(default_factory=set)
    calls: int = 0


def fuzz(
    database: URL, folder: Path, *, service_database: URL | None = None, stop_at_first: bool = False
) -> Report:
    """Fuzz the application on a migrated database; `folder` holds the log and the credentials.

    The service connects to `service_database`, the checks to `database` directly.
    """
    with _run(database, folder, service_database or database) as run:
        report = Report(met=run.context.met, coverage=run.context.coverage)
        report.failures += run.probe(stop_at_first=stop_at_first)
        if not (report.failures and stop_at_first):
            report.failures += setups.run(run.lab, stop_at_first=stop_at_first)
        if report.failures and stop_at_first:
            return report
        schema = schemathesis.openapi.from_path(CONTRACT, config=_config(run.context, folder, stop_at_first))
        schema.app = create_app(run.settings)
        for event in from_schema(schema).execute():
            _record(event, report)
        report.calls += run.context.calls
    if not report.failures:
        report.failures += [*unmet(report.met, SITUATIONS.values()), *report.coverage.unreached()]
    return report


def run_situation(name: str, database: URL, folder: Path) -> list[str]:
    """Run one probe or set-up; its failures. Before a probe, the database gets the usual tasks.

    Raises LookupError if there is none of this name.
    """
    if name not in {*PROBES, *SET_UPS}:
        raise LookupError(f"no probe and no set-up is named {name!r}")
    with _run(database, folder, database) as run:
        if name in SET_UPS:
            failures = setups.run(run.lab, stop_at_first=True, only=name)
        else:
            failures = run.probe(stop_at_first=True, only=name)
        return failures or [*unmet(run.context.met, [SITUATIONS[name]])]


@dataclass(frozen=True)
class _Run:
    """What the parts of a run share."""

    context: FuzzContext
    settings: Settings
    lab: setups.Lab

    def probe(self, *, stop_at_first: bool, only: str = "") -> list[str]:
        with _client(create_app(self.settings)) as client:
            return probes.run(self.context, client, stop_at_first=stop_at_first, only=only)


@contextmanager
def _run(database: URL, folder: Path, service_database: URL) -> Iterator[_Run]:
    secret = secrets.token_hex(32)
    settings = make_settings(service_database, better_auth_secret=secret)
    with _logged(folder / "service.log") as log, _worker(create_app(settings)) as other_worker:
        context = FuzzContext(other_worker, database, SharedSecret(secret), log, int(time.time()))
        checks.use_context(context)
        try:
            yield _Run(context, settings, setups.Lab(context, folder, partial(_start, log), secret))
        finally:
            context.close()


@contextmanager
def _worker(app: FastAPI) -> Iterator[Worker]:
    try:
        with asgi.get_client(cast(ASGIApp, app)) as client:
            yield Worker(client, f"http://{asgi.HOST}")
    finally:
        asgi.shutdown_lifespans()


def _client(app: FastAPI) -> TestClient:
    """With the address of `make run`, so that the commands in failures can be repeated."""
    return TestClient(app, "http://127.0.0.1:8000", raise_server_exceptions=False)


@contextmanager
def _start(log: Path, environment: dict[str, str]) -> Iterator[Service]:
    """Start a service of a set-up; it logs to the same file as the others."""
    values: dict[str, Any] = {name.lower(): value for name, value in environment.items() if value}
    app = create_app(Settings(_env_file=None, **values))
    with _client(app) as client:
        yield Service(client, log)


@contextmanager
def _logged(path: Path) -> Iterator[Path]:
    """Write the service's log to a file."""
    root, handler = logging.getLogger(), logging.FileHandler(path)
    handler.setFormatter(JsonFormatter())
    before = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    try:
        yield path
    finally:
        root.handlers[:], root.level = before
        handler.close()


def _config(context: FuzzContext, folder: Path, stop_at_first: bool) -> SchemathesisConfig:
    """schemathesis.toml, but deterministic and with fewer examples."""
    settings = tomllib.loads((ROOT / "schemathesis.toml").read_text())
    users = folder / "auth.json"
    context.write_users(users)
    settings["auth"]["wfc"]["path"] = str(users)
    settings["generation"] = {"deterministic": True, "max-examples": EXAMPLES, "database": "none"}
    settings["continue-on-failure"] = not stop_at_first
    if stop_at_first:
        settings["max-failures"] = 1
    return SchemathesisConfig.from_dict(settings)


def _record(event: EngineEvent, report: Report) -> None:
    if isinstance(event, NonFatalError):
        report.errors.append(str(event.value))
    if isinstance(event, FatalError):
        report.errors.append(repr(event.exception))
    if isinstance(event, ScenarioFinished):
        report.phases.add(event.phase.value)
        _record_scenario(event.recorder, report)


def _record_scenario(recorder: ScenarioRecorder, report: Report) -> None:
    for interaction in recorder.interactions.values():
        report.calls += 1
        if interaction.response is not None:
            report.statuses[interaction.response.status_code] += 1
    for case_id, results in recorder.checks.items():
        case = recorder.cases[case_id].value
        for result in results:
            report.checks[result.name] += 1
            if result.failure_info is not None:
                repeat = result.failure_info.code_sample
                what = f"{case.method} {case.formatted_path}: {result.failure_info.failure}\n    {repeat}"
                report.failures.append(f"{result.name}: {what}")
