"""gunicorn as the Procfile starts it, for tests that need a real process and socket."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from sqlalchemy import URL

from tests.environment import NO_LIMIT, ROOT, libpq_url
from tests.support import SECRET
from tools.postgres import free_port
from tools.serve import end_with_parent

TIMEOUT_SECONDS = 30


class Service:
    """A running gunicorn, its base URL and its output."""

    def __init__(self, process: subprocess.Popen[bytes], base_url: str, output: Path) -> None:
        self.process = process
        self.output = output
        self.client = httpx2.Client(base_url=base_url, timeout=TIMEOUT_SECONDS)

    def wait_for(self, path: str, status: int) -> httpx2.Response:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            try:
                response = self.client.get(path)
            except httpx2.TransportError:
                assert self.process.poll() is None, self.output.read_text()
                continue
            if response.status_code == status:
                return response
        raise AssertionError(f"{path} never answered {status}: {self.output.read_text()}")

    def stop(self) -> None:
        """Stop gracefully. Closes the client first, because gunicorn waits for idle connections."""
        self.client.close()
        self.process.terminate()
        assert self.process.wait(TIMEOUT_SECONDS) == 0

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.output.read_text().splitlines()]


def service_environment(url: URL, **changes: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": libpq_url(url),
        "BETTER_AUTH_SECRET": SECRET,
        "HOST": "127.0.0.1",
        "PORT": str(free_port()),
        "WEB_CONCURRENCY": "1",
        "RATE_LIMIT_REQUESTS": NO_LIMIT,
        "RATE_LIMIT_AUTH_FAILURES": NO_LIMIT,
        **changes,
    }


def start(
    command: list[str], environment: dict[str, str], output: Path, folder: Path = ROOT
) -> subprocess.Popen[bytes]:
    """Start a command with its output in a file; it ends with the tests."""
    with output.open("w") as log:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            preexec_fn=end_with_parent,  # noqa: PLW1509
        )


CONFIGURATION = ROOT / "gunicorn.conf.py"


def configuration_with(setting: str, folder: Path) -> Path:
    """A copy of the gunicorn configuration in which `setting`, an assignment, replaces the product's own."""
    configuration = folder / "gunicorn.conf.py"
    configuration.write_text(f"{CONFIGURATION.read_text()}\n{setting}\n")
    return configuration


@contextmanager
def running_service(
    environment: dict[str, str], output: Path, configuration: Path = CONFIGURATION
) -> Iterator[Service]:
    # Outside the project folder, so that a developer's .env is not read.
    command = [sys.executable, "-m", "gunicorn", "-c", str(configuration), "main:app"]
    process = start(command, {**environment, "PYTHONPATH": str(ROOT)}, output, output.parent)
    service = Service(process, f"http://127.0.0.1:{environment['PORT']}", output)
    try:
        service.wait_for("/health/live", 200)
        yield service
    finally:
        service.client.close()
        process.kill()
        process.wait()
