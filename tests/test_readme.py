"""README.md: its commands work on the running service, and what it links to exists.

Also the links of CONTRIBUTING.md and SECURITY.md, and what must be listed there and in docs/.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.environment import ROOT, find_program, require_program
from tests.fuzz.routes import route_of
from tests.process import service
from tests.process.clone import TIMEOUT_SECONDS, base_environment, copy_project
from tests.support import SECRET
from tests.test_imports import MODULES

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]

EXAMPLE_SERVICE = "http://127.0.0.1:8000"
CURLRC = 'silent\nshow-error\nwrite-out = "%{stderr}ANSWER %{method} %{http_code} %{url}\\n"\n'
ANSWER = re.compile(r"^ANSWER (\w+) (\d+) (\S+)$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|\.\./)([^)#]*)(#[^)]*)?\)")


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def successes() -> set[tuple[str, str, str]]:
    """Method, success status and path template of every operation of the contract."""
    paths = json.loads((ROOT / "specs/openapi.json").read_text())["paths"]
    return {
        (method.upper(), next(status for status in operation["responses"] if status < "300"), path)
        for path, operations in paths.items()
        for method, operation in operations.items()
    }


def pasted(blocks: list[str], api: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the blocks in a fresh clone, as they are but for the service's address."""
    stand_in = (
        "" if find_program("curl") else f'curl() {{ {sys.executable} -P {ROOT}/tests/curl.py "$@"; }}\n'
    )
    (folder / ".curlrc").write_text(CURLRC)
    makeflags = f"-- BIN={Path(sys.executable).parent} INSTALLED="
    return subprocess.run(
        [require_program("bash"), "-eu"],
        input=stand_in + "".join(blocks).replace(EXAMPLE_SERVICE, api),
        cwd=copy_project(folder),
        env=base_environment(BETTER_AUTH_SECRET=SECRET, CURL_HOME=str(folder), MAKEFLAGS=makeflags),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def test_every_operation_has_a_curl_that_works(database_url: URL, tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", section("API"), re.MULTILINE | re.DOTALL)
    with service.running_service(service.service_environment(database_url), tmp_path / "output") as running:
        api = str(running.client.base_url).rstrip("/")
        ended = pasted(blocks, api, tmp_path)
    assert ended.returncode == 0, ended.stderr
    called = {
        (method, status, route_of(url.removeprefix(api)))
        for method, status, url in ANSWER.findall(ended.stderr)
    }
    assert called >= successes()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_it_links_to_exists(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text()):
        target = ROOT / path if path else page
        assert target.exists(), path
        assert not anchor or anchor[1:] in anchors(target), path + anchor


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_every_make_target_is_documented() -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    documented = re.findall(r"^\| `make ([a-z-]+)", (ROOT / "docs/development.md").read_text(), re.MULTILINE)
    assert set(documented) == set(targets) - {"help"}


def test_every_module_is_in_the_layout() -> None:
    layout = (ROOT / "CONTRIBUTING.md").read_text()
    assert [name for name in MODULES if f"`{name.replace('.', '/')}.py`" not in layout] == []
