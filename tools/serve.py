"""`make run`: start the service locally with one command.

Starts an embedded PostgreSQL unless DATABASE_URL is set, runs the migrations, and runs
gunicorn with the same `gunicorn.conf.py` as in production. Stops them all at the end.
"""

import contextlib
import ctypes
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from dotenv import dotenv_values

from settings import Settings
from tools import postgres, tokens

ENV_FILE = Path(".env")
DATA = Path(".data/postgres")
START_SECONDS = 60

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Ignores HTTP_PROXY and similar variables: the service is local."""

PR_SET_PDEATHSIG = 1


def main() -> int:
    end_on_signals()
    try:
        environment = {"HOST": "127.0.0.1", "PORT": "8000"} | _given_with_key_source()
        _check_settings(environment)
        _check_port(environment["HOST"], int(environment["PORT"]))
        with _database(environment), service(environment) as server:
            _print_instructions(environment)
            return server.wait()
    except postgres.Failure as failure:
        sys.exit(str(failure))
    except KeyboardInterrupt:
        return 0


def end_on_signals() -> None:
    """Raise KeyboardInterrupt on SIGTERM, SIGINT and SIGHUP, so that child processes are stopped too.

    SIGINT is included because a shell starts background jobs with SIGINT ignored, in which
    case Python does not install its own handler.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _interrupt)


def _given() -> dict[str, str]:
    """The variables of `.env`, overridden by the environment, as in `Settings`."""
    from_file = {name: value for name, value in dotenv_values(ENV_FILE).items() if value}
    return from_file | {name: value for name, value in os.environ.items() if value}


def _given_with_key_source() -> dict[str, str]:
    try:
        _ensure_key_source()
        return _given()
    except (OSError, UnicodeDecodeError) as error:
        raise postgres.Failure(f"Cannot use {ENV_FILE}: {error}") from None


def _ensure_key_source() -> None:
    """If no key source is set, generate a secret and save it in `.env`, so that tokens survive a restart."""
    if any(_given().get(name.upper()) for name in Settings.KEY_SOURCES):
        return
    before = ENV_FILE.read_text() if ENV_FILE.exists() else ""
    with contextlib.suppress(FileNotFoundError):
        ENV_FILE.chmod(0o600)
    separator = "" if not before or before.endswith("\n") else "\n"
    with os.fdopen(os.open(ENV_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as file:
        file.write(f"{separator}BETTER_AUTH_SECRET={secrets.token_hex(32)}\n")
    print("Generated a random BETTER_AUTH_SECRET in .env")


def _check_settings(environment: dict[str, str]) -> None:
    """Exit with a list of all invalid settings before anything is started. DATABASE_URL may be unset."""
    given = {} if "DATABASE_URL" in environment else {"database_url": "postgresql://localhost/embedded"}
    Settings.load(**given)


def _check_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # Like gunicorn, so that connections in TIME_WAIT do not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            advice = f"Try: make run PORT={port + 1}"
            raise postgres.Failure(f"Cannot listen on {host}:{port}: {error.strerror}. {advice}") from None


@contextlib.contextmanager
def _database(environment: dict[str, str]) -> Iterator[None]:
    if "DATABASE_URL" in environment:
        yield
        return
    print(f"Starting an embedded PostgreSQL (data in {postgres.data_home(DATA)})", flush=True)
    with postgres.server(DATA, durable=True) as url:
        environment["DATABASE_URL"] = url.render_as_string(hide_password=False)
        environment.pop("DATABASE_URL_UNPOOLED", None)
        yield


@contextlib.contextmanager
def service(
    environment: dict[str, str], log: Path | None = None, app: str = "main:app"
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the migrations, then gunicorn as in the Procfile; yields its process once it is ready."""
    with contextlib.ExitStack() as stack:
        output = None if log is None else stack.enter_context(log.open("w"))
        migration = [sys.executable, "-m", "alembic", "upgrade", "head"]
        migrated = subprocess.run(migration, env=environment, stdout=output, check=False)
        if migrated.returncode:
            sys.exit(migrated.returncode)
        gunicorn = [sys.executable, "-m", "gunicorn", app]
        # In its own session, gunicorn does not receive Ctrl-C from the terminal: this process sends it
        # SIGTERM instead, for a graceful shutdown.
        server = subprocess.Popen(
            gunicorn,
            env=environment,
            stdout=output,
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509
        )
        stack.callback(_stop, server)
        _wait_until_ready(server, environment)
        yield server


def _wait_until_ready(server: subprocess.Popen[bytes], environment: dict[str, str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with _opener.open(f"{base_url(environment)}/health/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise postgres.Failure("The service did not become ready; see the output above")


def base_url(environment: dict[str, str]) -> str:
    host = environment["HOST"]
    return f"http://{f'[{host}]' if ':' in host else host}:{environment['PORT']}"


def _print_instructions(environment: dict[str, str]) -> None:
    base = base_url(environment)
    print(f"\nTasks API:  {base}\nDocs:       {base}/docs\n")
    if environment.get("BETTER_AUTH_SECRET"):
        token = tokens.mint_from_environment("some-user")
        print(
            "Create a task (the token is valid for one hour; get another with `make token SUB=some-user`):\n"
        )
        print(
            f"curl -i {base}/api/tasks -H {shlex.quote(f'Authorization: Bearer {token}')}"
            " -H 'Content-Type: application/json' -d '{\"title\": \"Water the plants\"}'\n",
            flush=True,
        )


def end_with_parent() -> None:
    """For a child process on Linux: receive SIGTERM when the parent dies, even if it is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Stop gunicorn gracefully; a second interrupt kills it."""
    if server.poll() is not None:
        return
    server.terminate()
    try:
        server.wait()
    except KeyboardInterrupt:
        server.kill()
        server.wait()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
