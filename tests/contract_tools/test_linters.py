"""`specs/openapi.json` as linters see it, with the rules that they recommend."""

import json
from pathlib import Path

import pytest

from tests.environment import ROOT
from tests.node import run

HERE = Path(__file__).parent
CONTRACT = ROOT / "specs" / "openapi.json"


@pytest.mark.spec("contract.lint")
def test_spectral_finds_nothing() -> None:
    options = [f"--ruleset={HERE / 'spectral.yaml'}", "--format=json", "--quiet"]
    ended = run(HERE, "spectral", "lint", CONTRACT, *options)
    assert [f"{each['code']}: {each['message']}" for each in json.loads(ended.stdout)] == []


@pytest.mark.spec("contract.lint")
def test_redocly_finds_nothing(tmp_path: Path) -> None:
    options = ["--extends=recommended", "--format=json"]
    variables = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
    ended = run(HERE, "redocly", "lint", CONTRACT, *options, folder=tmp_path, **variables)
    found = json.loads(ended.stdout)
    assert [f"{each['ruleId']}: {each['message']}" for each in found["problems"]] == []
    assert found["totals"] == {"errors": 0, "warnings": 0, "ignored": 0}
