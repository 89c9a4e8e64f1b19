"""The document that other teams build on."""

import json

import pytest

from tests.environment import ROOT
from tests.operations import OPERATIONS
from tests.support import Caller
from tools import openapi

COMMITTED = ROOT / "specs" / "openapi.json"


@pytest.mark.spec("contract.openapi")
def test_the_application_serves_the_committed_contract(anonymous: Caller) -> None:
    committed = json.loads(COMMITTED.read_text())
    assert anonymous.get("/openapi.json").json() == committed, "run `make openapi` and read the difference"
    assert COMMITTED.read_text() == openapi.render()
    assert committed["openapi"].startswith("3.1")


@pytest.mark.spec("contract.statuses")
def test_every_operation_declares_every_status_it_can_respond_with(anonymous: Caller) -> None:
    paths = anonymous.get("/openapi.json").json()["paths"]
    declared = {
        (operation["operationId"], path, method.upper()): {int(status) for status in operation["responses"]}
        for path, operations in paths.items()
        for method, operation in operations.items()
    }
    assert declared == {
        **{(each.name, each.path, each.method): each.declared_statuses for each in OPERATIONS},
        ("live", "/health/live", "GET"): {200, 431, 500, 503},
        ("ready", "/health/ready", "GET"): {200, 431, 500, 503},
        ("explain_problem", "/problems/{name}", "GET"): {200, 404, 500},
    }
