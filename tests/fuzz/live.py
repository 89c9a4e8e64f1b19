"""`make fuzz`: Schemathesis over HTTP, against gunicorn as the Procfile starts it.

BUDGET is the time in seconds, SEED repeats a run. The reports (HTML and JUnit)
are in build/fuzz/. The checks send their own requests to a second service on
the same database.
"""

import json
import os
import re
import secrets
import subprocess
import sys
import time
from pathlib import Path

from httpx2 import Client
from requests import Session
from sqlalchemy import URL, make_url

from tests.environment import NO_LIMIT, libpq_url
from tests.fuzz import checks, probes, situations
from tests.fuzz.context import FuzzContext, Worker
from tests.fuzz.situations import SITUATIONS
from tests.support import ORIGIN
from tools import postgres, serve

REPORTS = Path("build/fuzz")
CONTRACT = "specs/openapi.json"
HOOKS = "tests.fuzz.hooks"
CONTEXT_VARIABLE = "FUZZ_CONTEXT"
"""The environment variable that passes the context to the Schemathesis process."""


def main() -> int:
    serve.end_on_signals()
    REPORTS.mkdir(parents=True, exist_ok=True)
    try:
        budget = _budget()
        with postgres.temporary_server() as url:
            given = _environment(url)
            other = {**given, "PORT": str(postgres.free_port())}
            log = REPORTS / "service.log"
            with serve.service(given, log=log), serve.service(other, log=REPORTS / "another.log"):
                return _fuzz(
                    serve.base_url(given), _context_values(given, serve.base_url(other), log), budget
                )
    except postgres.Failure as failure:
        sys.exit(str(failure))
    except KeyboardInterrupt:
        return 130


def use_context_from_environment() -> None:
    """In the Schemathesis process: use the context that `main` created."""
    given = json.loads(os.environ[CONTEXT_VARIABLE])
    checks.use_context(open_context(given))


def open_context(given: dict[str, str]) -> FuzzContext:
    return FuzzContext(
        Worker(Session(), given["other_worker"]),
        make_url(given["database"]),
        given["secret"],
        Path(given["log"]),
        int(given["issued_at"]),
    )


def _budget() -> str:
    budget = os.environ.get("BUDGET") or "60"
    if not re.fullmatch(r"[1-9][0-9]{0,5}", budget):
        raise postgres.Failure("BUDGET is a number of seconds, such as: make fuzz BUDGET=600")
    return budget


def _environment(url: URL) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "DATABASE_URL": libpq_url(url),
        "BETTER_AUTH_SECRET": secrets.token_hex(32),
        "CORS_ORIGINS": ORIGIN,
        "HOST": "127.0.0.1",
        "PORT": str(postgres.free_port()),
        "RATE_LIMIT_REQUESTS": NO_LIMIT,
        "RATE_LIMIT_AUTH_FAILURES": NO_LIMIT,
    }


def _context_values(service: dict[str, str], other_worker: str, log: Path) -> dict[str, str]:
    return {
        "other_worker": other_worker,
        "database": service["DATABASE_URL"],
        "secret": service["BETTER_AUTH_SECRET"],
        "log": str(log),
        "issued_at": str(int(time.time())),
    }


def _fuzz(base_url: str, given: dict[str, str], budget: str) -> int:
    probed = _probe(base_url, given)
    seed = os.environ.get("SEED") or str(secrets.randbits(64))
    arguments = [
        f"--url={base_url}",
        f"--max-time={budget}",
        f"--seed={seed}",
        "--continue-on-failure",
        "--report=junit,html",
        f"--report-dir={REPORTS}",
        f"--report-junit-path={REPORTS / 'junit.xml'}",
        f"--report-html-path={REPORTS / 'html'}",
        "--no-color",
    ]
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", CONTRACT, *arguments]
    variables = {**os.environ, "SCHEMATHESIS_HOOKS": HOOKS, CONTEXT_VARIABLE: json.dumps(given)}
    done = subprocess.run(command, env=variables, check=False)
    print(f"\nProbes: {len(SITUATIONS) - len(checks.RANDOM)} situations, {len(probed)} failures")
    print("\n".join(probed))
    print(f"\nThe report: {REPORTS / 'html'}. To repeat the run: make fuzz BUDGET={budget} SEED={seed}")
    return done.returncode or min(len(probed), 1)


def _probe(base_url: str, given: dict[str, str]) -> list[str]:
    """Run the probes; the failures, with the situations that were met too rarely."""
    context = open_context(given)
    context.write_users(REPORTS / "auth.json")
    with Client(base_url=base_url, timeout=30) as client:
        failures = probes.run(context, client)
    context.close()
    systematic = [each for each in SITUATIONS.values() if each not in checks.RANDOM]
    (REPORTS / "situations.md").write_text(situations.report(context.met, systematic) + "\n")
    return [*failures, *situations.unmet(context.met, systematic)]


if __name__ == "__main__":
    sys.exit(main())
