"""A status of the contract that the HTTP server answers with, and not the application."""

import json

import pytest

from tests.environment import ROOT
from tests.process.service import Service


@pytest.mark.spec("contract.statuses")
@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_headers_that_are_too_large_are_refused_as_declared(api: Service, path: str) -> None:
    response = api.client.get(path, headers={"X-Field": "x" * 9_000})
    assert response.status_code == 431
    declared = json.loads((ROOT / "specs/openapi.json").read_text())["paths"][path]["get"]["responses"]
    assert [response.headers["content-type"]] == [*declared["431"]["content"]]
