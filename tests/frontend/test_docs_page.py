"""/docs of the running service in a real browser that can reach no other host."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from tests.environment import ROOT
from tests.frontend.browser import HERE
from tests.frontend.chromium import chromium_program
from tests.node import install_packages, node_process
from tests.process.service import running_service, service_environment
from tests.support import TASKS, client_as
from web import docs_page

PATIENCE = 90

DOCUMENT = json.loads((ROOT / "specs/openapi.json").read_text())
PICTURE = "DOCS_PICTURE"
"""Names the file for a new picture of the README: DOCS_PICTURE=docs/docs-page.png."""


@pytest.fixture(scope="module")
def seen(database_url: URL, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Chromium saw of the page, and the URL of the service."""
    chromium, folder = chromium_program(), tmp_path_factory.mktemp("docs")
    picture = Path(os.environ.get(PICTURE, folder / "docs-page.png"))
    with running_service(service_environment(database_url), folder / "output") as service:
        base_url = str(service.client.base_url).rstrip("/")
        owner = client_as(service.client, "some-user")
        with node_process(
            install_packages(HERE) / "docs.mjs", chromium, f"{base_url}/docs", str(owner.token), picture
        ) as process:
            said, _ = process.communicate(timeout=PATIENCE)
        stored = owner.ids()
    return {**json.loads(said), "base_url": base_url, "stored": stored, "picture": picture}


@pytest.mark.spec("contract.docs", "contract.docs.assets")
def test_the_page_needs_no_other_host(seen: dict[str, Any]) -> None:
    assert (seen["complaints"], seen["violations"], seen["failures"]) == ([], [], [])
    task = seen["created"]["body"]["id"]
    paths = ["/docs", *docs_page.assets(), "/openapi.json", TASKS, f"{TASKS}/{task}"]
    assert sorted(seen["requests"]) == sorted(seen["base_url"] + path for path in paths)


@pytest.mark.spec("contract.docs", "contract.openapi")
def test_the_whole_document_is_shown(seen: dict[str, Any]) -> None:
    operations = sum(map(len, DOCUMENT["paths"].values()))
    assert len(seen["rendered"]["operations"]) == seen["unfolded"] == operations
    assert seen["rendered"]["title"].split("\n")[0].strip() == DOCUMENT["info"]["title"]
    assert "OAS 3.1" in seen["rendered"]["title"]
    assert seen["rendered"]["errors"] == []


@pytest.mark.spec("contract.docs")
def test_operations_are_tried_with_a_token(seen: dict[str, Any]) -> None:
    created, updated = seen["created"], seen["updated"]
    assert (created["status"], updated["status"]) == ("201", "200")
    assert (created["body"]["completed"], updated["body"]["completed"]) == (False, True)
    assert created["body"]["id"] == updated["body"]["id"] == seen["stored"][0]


@pytest.mark.spec("contract.docs")
def test_the_token_is_not_kept(seen: dict[str, Any]) -> None:
    """Neither in localStorage nor in sessionStorage, which outlive a reload of the page."""
    assert seen["kept"] == []


def test_a_picture_for_the_readme_is_taken(seen: dict[str, Any]) -> None:
    assert 50_000 < seen["picture"].stat().st_size < 200_000
