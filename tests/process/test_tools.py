"""`make run`, `make token` and the other make targets, as a developer uses them."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import jwt
import pytest

from tests.environment import ROOT
from tests.process.clone import (
    TIMEOUT_SECONDS,
    base_environment,
    failure_message,
    processes_in,
    run,
    wait_for_processes_to_exit,
)
from tests.process.test_gunicorn import wait_until_refused
from tests.support import SECRET, TASKS
from tools.postgres import free_port


@contextmanager
def make_run(clone: Path, **changes: str) -> Iterator[subprocess.Popen[str]]:
    environment = base_environment(PORT=str(free_port()), **changes)
    command = [sys.executable, "-m", "tools.serve"]
    process = subprocess.Popen(
        command, cwd=clone, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def printed_curl(process: subprocess.Popen[str]) -> list[str]:
    """The arguments of the curl command that `make run` prints."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("curl "):
            return shlex.split(line)
    raise AssertionError("no curl was printed")


def run_curl(curl: list[str]) -> httpx2.Response:
    """Send the request of the printed curl command."""
    assert curl[:2] == ["curl", "-i"]
    url, options = curl[2], dict(zip(curl[3::2], curl[4::2], strict=True))
    headers = [word.split(": ", 1) for word in curl[3:] if ": " in word and not word.startswith("{")]
    return httpx2.post(url, headers=dict(headers), content=options["-d"])


def test_tasks_persist_between_runs(clone: Path) -> None:
    with make_run(clone) as process:
        curl = printed_curl(process)
        created = run_curl(curl)
        assert created.status_code == 201
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(TIMEOUT_SECONDS) == 0
    wait_for_processes_to_exit(clone)
    assert (clone / ".env").stat().st_mode & 0o777 == 0o600
    with make_run(clone) as process:
        again = printed_curl(process)
        base_url = again[2].removesuffix(TASKS)
        authorization = {
            "Authorization": next(word for word in again if word.startswith("Authorization"))[15:]
        }
        found = httpx2.get(f"{base_url}{created.headers['location']}", headers=authorization)
        assert (found.status_code, found.json()) == (200, created.json())
        process.send_signal(signal.SIGHUP)
        assert process.wait(TIMEOUT_SECONDS) == 0
    wait_for_processes_to_exit(clone)


def test_the_next_run_stops_the_server_of_a_killed_run(clone: Path) -> None:
    with make_run(clone) as process:
        curl = printed_curl(process)
        created = run_curl(curl)
        process.kill()
        wait_until_refused(urlsplit(curl[2]).port or 0)
    assert processes_in(clone)
    with make_run(clone) as process:
        curl = printed_curl(process)
        authorization = {
            "Authorization": next(word for word in curl if word.startswith("Authorization"))[15:]
        }
        assert httpx2.get(curl[2], headers=authorization).json() == [created.json()]
        process.terminate()
        process.wait(TIMEOUT_SECONDS)
    wait_for_processes_to_exit(clone)


def test_a_port_in_use_is_reported_in_one_line(clone: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = failure_message(clone, "tools.serve", PORT=port)
    assert (
        line
        == f"Cannot listen on 127.0.0.1:{port}: Address already in use. Try: make run PORT={int(port) + 1}"
    )


@pytest.mark.spec("process.settings")
def test_all_invalid_settings_are_reported_before_anything_starts(clone: Path) -> None:
    wrong = {"PORT": "x", "BETTER_AUTH_SECRET": "short", "LOG_LEVEL": "loud", "WEB_CONCURRENCY": "two"}
    ended = run(clone, "tools.serve", **wrong)
    assert (ended.returncode, ended.stdout) == (1, "")
    first, *faults = ended.stderr.splitlines()
    assert first == "Invalid settings:"
    assert {line.split(":")[0].strip() for line in faults} == wrong.keys()
    assert not (clone / ".data").exists()


@pytest.mark.parametrize(
    "url", ["postgres://u:hunter2@127.0.0.1:1/x", "postgres://u:hunter2@127.0.0.1:1/x?sslmode=bogus"]
)
def test_an_unreachable_database_is_reported_in_one_line(clone: Path, url: str) -> None:
    for command in (["alembic", "upgrade", "head"], ["tools.serve"]):
        line = failure_message(
            clone, *command, DATABASE_URL=url, BETTER_AUTH_SECRET=SECRET, PORT=str(free_port())
        )
        assert line.startswith("Cannot reach the database: ")
        assert "hunter2" not in line


def test_an_unwritable_folder_is_reported_in_one_line(clone: Path) -> None:
    (clone / ".data").write_text("")
    assert failure_message(clone, "tools.serve", PORT=str(free_port())).startswith("Cannot write to ")


def test_a_second_run_on_the_same_data_is_reported_in_one_line(clone: Path) -> None:
    with make_run(clone) as process:
        printed_curl(process)
        assert failure_message(clone, "tools.serve", PORT=str(free_port())).startswith(
            "Another run is using "
        )
        process.terminate()
        assert process.wait(TIMEOUT_SECONDS) == 0


def test_an_old_python_is_reported_in_one_line(clone: Path) -> None:
    old = clone / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1 && exit 0\nexit 1\n')
    old.chmod(0o755)
    ended = subprocess.run(
        ["make", "test", f"PYTHON={old}"],
        cwd=clone,
        env=base_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode != 0
    assert "Python 3.11 or newer is required, found: Python 3.9.1" in ended.stdout
    assert not (clone / ".venv").exists()


@pytest.mark.spec("process.token")
def test_a_token_is_printed(clone: Path) -> None:
    (clone / ".env").write_text(f"BETTER_AUTH_SECRET='{SECRET}'\nJWT_AUDIENCE=tasks\n")
    command = [sys.executable, "-m", "tools.tokens", "some user"]
    printed = subprocess.run(
        command, cwd=clone, env=base_environment(), capture_output=True, text=True, check=True
    ).stdout
    assert re.fullmatch(r"[\w.-]+\n", printed)
    claims = jwt.decode(printed.strip(), SECRET, ["HS256"], audience="tasks")
    assert claims["sub"] == "some user"
    assert claims["exp"] - time.time() == pytest.approx(3600, abs=60)


@pytest.mark.spec("process.token")
def test_a_subject_may_have_quotes(clone: Path) -> None:
    make = ["make", "-s", "token", 'SUB=o\'brien "x"', f"BIN={Path(sys.executable).parent}", "INSTALLED="]
    environment = base_environment(BETTER_AUTH_SECRET=SECRET)
    printed = subprocess.run(
        make, cwd=clone, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert jwt.decode(printed.strip(), SECRET, ["HS256"])["sub"] == 'o\'brien "x"'


@pytest.mark.spec("process.token")
def test_printing_a_token_requires_a_secret(clone: Path) -> None:
    line = failure_message(clone, "tools.tokens", "somebody", BETTER_AUTH_URL="https://app.example.com")
    assert line.startswith("Tokens can be signed only with BETTER_AUTH_SECRET")
    assert failure_message(clone, "tools.tokens").startswith("Subject missing.")


def test_make_lists_its_targets() -> None:
    listed = subprocess.run(
        ["make"], cwd=ROOT, env=base_environment(), capture_output=True, text=True, check=True
    ).stdout
    names = [line.split()[0] for line in listed.splitlines()]
    assert names == [
        "help",
        "run",
        "test",
        "check",
        "fuzz",
        "faults",
        "mutants",
        "chaos",
        "soak",
        "bench",
        "bench-quick",
        "token",
        "migrate",
        "purge",
        "openapi",
        "lock",
        "clean",
    ]


def test_the_committed_contract_is_what_make_openapi_writes(clone: Path) -> None:
    subprocess.run([sys.executable, "-m", "tools.openapi"], cwd=clone, env=base_environment(), check=True)
    assert json.loads((clone / "specs/openapi.json").read_text()) == json.loads(
        (ROOT / "specs/openapi.json").read_text()
    )
