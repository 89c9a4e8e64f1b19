"""Clients that others generate from `specs/openapi.json`: they compile, and one call with each works."""

import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.environment import ROOT
from tests.node import NODE, run
from tests.process.service import Service
from tests.support import Caller, client_as

HERE = Path(__file__).parent
CONTRACT = ROOT / "specs" / "openapi.json"
SECONDS = 60


@pytest.fixture
def user(api: Service) -> Caller:
    return client_as(api.client, f"user-{uuid.uuid4()}")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both TypeScript clients, compiled with the scripts that call them."""
    folder = tmp_path_factory.mktemp("typescript")
    for path in (CONTRACT, *HERE.glob("*.ts"), *map(HERE.joinpath, ("tsconfig.json", "orval.config.mjs"))):
        shutil.copy(path, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    for command in (
        ["openapi-ts", "--silent", "--no-log-file", "--input", "openapi.json", "--output", "hey_api"],
        ["orval", "--quiet", "--fail-on-warnings", "--config", "orval.config.mjs"],
        ["tsc", "--project", "."],
    ):
        ended = run(HERE, *command, folder=folder)
        assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
    return folder / "out"


@pytest.mark.spec("contract.clients")
@pytest.mark.parametrize("generator", ["hey_api", "orval"])
def test_a_typescript_client_compiles_and_works(scripts: Path, user: Caller, generator: str) -> None:
    created = _output(NODE, f"{generator}.js", *_who(user), folder=scripts)
    _assert_created(user, created)


@pytest.mark.spec("contract.clients")
def test_a_python_client_compiles_and_works(user: Caller, tmp_path: Path) -> None:
    shutil.copy(HERE / "python_client.py", tmp_path)
    options = ["--output-path=tasks_client", "--meta=none", f"--config={HERE / 'openapi-python-client.yaml'}"]
    python = sys.executable
    _output(
        python, "-m", "openapi_python_client", "generate", f"--path={CONTRACT}", *options, folder=tmp_path
    )
    # Without the settings of this project.
    _output(
        python,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "python_client.py",
        "tasks_client",
        folder=tmp_path,
    )
    _assert_created(user, _output(python, "python_client.py", *_who(user), folder=tmp_path))


def _who(user: Caller) -> tuple[str, str]:
    """Arguments for a script: the API's URL and a token."""
    return str(user.client.base_url), str(user.token)


def _output(*command: str | Path, folder: Path) -> str:
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ended.returncode == 0, f"{ended.stdout}{ended.stderr}"
    return ended.stdout


def _assert_created(user: Caller, output: str) -> None:
    task = user.read(output.strip())
    assert (task["title"], task["completed"]) == ("Water the plants", True)
