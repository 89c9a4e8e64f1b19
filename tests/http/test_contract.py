"""The document that other teams build on."""

import json

import pytest

from tests.stage import ROOT
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
def test_every_operation_declares_what_it_can_answer_with() -> None:
    paths = json.loads(COMMITTED.read_text())["paths"]
    common = {"401", "403", "422", "429", "500", "503"}
    of_a_body = {"400", "408", "413", "415"}
    assert {
        (path, method): set(operation["responses"])
        for path, operations in paths.items()
        for method, operation in operations.items()
    } == {
        ("/api/tasks", "get"): {"200", "400", "404", *common},
        ("/api/tasks", "post"): {"201", *of_a_body, *common},
        ("/api/tasks/{task_id}", "get"): {"200", "404", *common},
        ("/api/tasks/{task_id}", "put"): {"200", "404", *of_a_body, *common},
        ("/api/tasks/{task_id}", "patch"): {"200", "404", *of_a_body, *common},
        ("/api/tasks/{task_id}", "delete"): {"204", "404", *common},
        ("/health/live", "get"): {"200", "431", "500", "503"},
        ("/health/ready", "get"): {"200", "431", "500", "503"},
        ("/problems/{name}", "get"): {"200", "404", "500"},
    }
