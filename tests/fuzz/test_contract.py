"""Schemathesis in the test suite: the committed contract, in-process, the same way each time.

`make fuzz` does the same over HTTP, at random and for as long as it is given.
"""

import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from fastapi import FastAPI
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import from_schema
from schemathesis.engine.events import EngineEvent, NonFatalError, ScenarioFinished
from schemathesis.engine.recorder import ScenarioRecorder
from schemathesis.python import asgi

from main import create_app
from tests.conftest import MakeSettings
from tests.stage import ROOT
from tests.support import SECRET
from tools.fuzz import CONTRACT, write_users

PHASES = {"examples", "coverage", "fuzzing", "stateful"}


@pytest.fixture
def app(make_settings: MakeSettings) -> Iterator[FastAPI]:
    yield create_app(make_settings())
    asgi.shutdown_lifespans()


@pytest.fixture
def config(tmp_path: Path) -> SchemathesisConfig:
    """schemathesis.toml, but repeatable and short."""
    settings = tomllib.loads((ROOT / "schemathesis.toml").read_text())
    write_users(tmp_path / "auth.json", SECRET)
    settings["auth"]["wfc"]["path"] = str(tmp_path / "auth.json")
    settings["generation"] = {"deterministic": True, "max-examples": 40, "database": "none"}
    settings["continue-on-failure"] = True
    return SchemathesisConfig.from_dict(settings)


def run(app: FastAPI, config: SchemathesisConfig) -> list[EngineEvent]:
    schema = schemathesis.openapi.from_path(ROOT / CONTRACT, config=config)
    schema.app = app
    return list(from_schema(schema).execute())


def failures(events: list[EngineEvent]) -> Iterator[str]:
    for event in events:
        if isinstance(event, NonFatalError):
            yield str(event.value)
        if isinstance(event, ScenarioFinished):
            yield from failed_checks(event.recorder)


def failed_checks(recorder: ScenarioRecorder) -> Iterator[str]:
    for case_id, checks in recorder.checks.items():
        case = recorder.cases[case_id].value
        for check in checks:
            if check.failure_info is not None:
                yield f"{check.name}: {case.method} {case.formatted_path}: {check.failure_info.failure}"


@pytest.mark.spec("contract.openapi", "contract.statuses", "tasks.isolation", "auth.bearer")
def test_the_application_keeps_the_committed_contract(app: FastAPI, config: SchemathesisConfig) -> None:
    events = run(app, config)
    assert list(failures(events)) == []
    finished = [event for event in events if isinstance(event, ScenarioFinished)]
    assert {event.phase.value for event in finished} == PHASES
    statuses = Counter(
        interaction.response.status_code
        for event in finished
        for interaction in event.recorder.interactions.values()
        if interaction.response is not None
    )
    # Without these the run would have proven nothing.
    assert statuses.keys() >= {200, 201, 204, 400, 401, 404, 415, 422}
    checks = {check.name for event in finished for each in event.recorder.checks.values() for check in each}
    assert checks >= {"object_level_authorization", "ignored_auth", "use_after_free", "not_a_server_error"}
